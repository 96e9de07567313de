/* balloon_dev.h: what the parts of the memory balloon share: balloon.c (class, configuration, API), balloon_io.c (queues),
 * balloon_state.c (saved state). */
#ifndef HUSK_BALLOON_DEV_H
#define HUSK_BALLOON_DEV_H

#include <linux/virtio_balloon.h>

#include "virtio/virtio_state.h"

#define BALLOON_STEP_PFNS 1024u /* page numbers that are sorted at a time */
#define BALLOON_STATS	  16u	/* tags of statistics; the last six came with Linux 6.12 */

enum balloon_role { INFLATE, DEFLATE, STATS, HINTING, REPORTING, NR_ROLES };

struct balloon_cfg {
	u64 amount_mib, stats_polling_interval_s;
	bool deflate_on_oom, free_page_hinting, free_page_reporting;
};

struct balloon_counters {
	u64 activate_fails, cfg_fails, inflate_count, deflate_count, stats_updates_count, stats_update_fails, event_fails;
	u64 free_page_report_count, free_page_report_freed, free_page_report_fails;
	u64 free_page_hint_count, free_page_hint_freed, free_page_hint_fails;
};

/* The request that is being worked off. */
struct balloon_job {
	bool busy;
	u16 queue;
	u32 pos; /* page numbers: bytes read; else the element of the device-writable part */
	u64 at;	 /* guest address in that element; 0: at its start */
	struct virtq_chain chain;
};

struct virtio_balloon {
	struct virtio_dev vdev; /* first */
	const struct balloon_cfg *cfg;
	struct virtio_balloon_config space;
	u8 roles[NR_ROLES]; /* enum balloon_role of each queue */
	bool paused;

	u64 stats_interval_s;
	u64 stats[BALLOON_STATS];
	u32 stats_known; /* a bit per tag that the guest has told */
	bool stats_held;
	struct virtq_chain stats_chain;
	struct loop_timer stats_timer;

	u32 last_cmd, guest_cmd;
	bool guest_cmd_known, acknowledge_on_stop;

	u64 *held; /* owned; with 2 MiB pages: a bit per page in the balloon, as only whole ones go back. Else NULL */
	struct balloon_job job;
	u32 pfns[BALLOON_STEP_PFNS];
	struct balloon_counters counters;
};

static inline struct virtio_balloon *to_balloon(struct device *dev)
{
	return container_of(to_virtio(dev), struct virtio_balloon, vdev);
}

static inline void balloon_count(u64 *counter, u64 n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

/* The command of the last run of hinting, as the driver reads it. Setting it interrupts. ctx: any, lock held */
static inline u32 balloon_host_cmd(const struct virtio_balloon *b)
{
	return ld_le32(&b->space.free_page_hint_cmd_id);
}
void balloon_set_host_cmd(struct virtio_balloon *b, u32 cmd);

/* Works off queue `index`, for some milliseconds. ctx: loop, lock held */
void balloon_kick(struct virtio_dev *vdev, u16 index);
/* Ends the request that is under way: completes it, or forgets it. ctx: any, lock held */
void balloon_finish_job(struct virtio_balloon *b);
void balloon_drop_job(struct virtio_balloon *b);
/* Gives the buffer with statistics back: the driver fills it anew. ctx: any, lock held */
void balloon_release_stats(struct virtio_balloon *b);

/* balloon.c: which queue is which, by the features that the driver took. ctx: any, lock held */
void balloon_give_roles(struct virtio_balloon *b);

/* balloon_state.c: what a snapshot has of it beside virtio_core_state. */
extern const struct device_state balloon_device_state;

#endif
