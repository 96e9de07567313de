/* virtio_mem_dev.h: what the parts of the virtio-mem device share: virtio_mem.c (all but), virtio_mem_state.c (saved state). */
#ifndef HUSK_VIRTIO_MEM_DEV_H
#define HUSK_VIRTIO_MEM_DEV_H

#include <linux/virtio_mem.h>

#include "virtio/virtio_state.h"

struct hotplug_cfg {
	u64 total_size_mib, block_size_mib, slot_size_mib;
};

struct hotplug_counters {
	u64 activate_fails, queue_event_fails, queue_event_count;
	u64 plug_count, plug_bytes, plug_fails;
	u64 unplug_count, unplug_bytes, unplug_fails, unplug_discard_fails;
	u64 unplug_all_count, unplug_all_fails;
	u64 state_count, state_fails;
	struct latency plug_agg, unplug_agg, unplug_all_agg, state_agg;
};

/* The request that is being worked off: memory [at, end) is to be discarded before its answer, or all the same when a reset took the
 * chain away. */
struct hotplug_job {
	bool busy, has_chain;
	u16 type; /* of the request */
	u64 start_ns, at, end;
	struct virtio_mem_resp resp;
	struct virtq_chain chain;
};

struct virtio_memory {
	struct virtio_dev vdev; /* first */
	const struct hotplug_cfg *cfg;
	struct virtio_mem_config space;
	u64 *plugged; /* owned; one bit per block */
	bool paused;
	struct hotplug_job job;
	struct hotplug_counters counters;
};

static inline struct virtio_memory *to_memory(struct virtio_dev *vdev)
{
	return container_of(vdev, struct virtio_memory, vdev);
}

/* Words of m->plugged. */
static inline u64 memory_words(const struct virtio_memory *m)
{
	return (m->space.region_size / m->space.block_size + 63) / 64;
}

/* virtio_mem_state.c: what a snapshot has of it beside virtio_core_state. */
extern const struct device_state memory_device_state;

#endif
