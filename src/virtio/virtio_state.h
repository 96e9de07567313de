/*
 * virtio_state.h: what a snapshot has of every virtio device: negotiation, and the position of each queue. A class puts virtio_core_state
 * first into its `states`, and its own behind:
 *
 *   static const struct device_state *const states[] = {&virtio_core_state, &foo_state, NULL};
 *
 * What the class owes
 *   quiesce  no chain is in flight when it returns: each was pushed, or put back (virtq_unpop). A chain that it cannot end or put back
 * makes the save fail. A reset that waits for requests ends with them. load     virtio_core_state has put vdev->live and the features in
 * place, and did not call activate: what activate tells a backend is told again by the class's own load. resume   ends with virtio_resume.
 *
 * No ring is read or written here: guest memory may be served page by page at that time.
 */
#ifndef HUSK_VIRTIO_STATE_H
#define HUSK_VIRTIO_STATE_H

#include "virtio/virtio.h"
#include "vmm/state.h"

struct virtq_state {
	u64 desc_gpa, driver_gpa, device_gpa;
	u16 size, last_avail, used_idx;
	bool enabled, kicks_off, avail_wrap, used_wrap;
};

struct virtio_state {
	u64 driver_features;
	u32 type, features_sel, driver_features_sel, queue_sel;
	u32 isr, config_generation;
	u8 status;
	bool live;
	u32 nr_queues;
	struct virtq_state queues[VIRTIO_MAX_QUEUES];
};

extern const struct state_table virtio_state_table;
extern const struct device_state virtio_core_state;

/* Name of a feature bit of a device type ("GUEST_TSO4"), or NULL. */
const char *virtio_feature_name(u32 type, u32 bit);

#endif
