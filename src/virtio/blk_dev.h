/* blk_dev.h: what the parts of the block device share: blk.c (class, configuration space, changes while it runs), blk_io.c (requests). */
#ifndef HUSK_BLK_DEV_H
#define HUSK_BLK_DEV_H

#include <linux/virtio_blk.h>

#include "virtio/backend/blk_file.h"
#include "virtio/backend/ratelimit.h"
#include "virtio/virtio_state.h"
#include "vmm/disk.h"

/* A discard costs the host the same whatever its length; zeroes may have to be written. One worker does them: keep each short. */
#define BLK_MAX_DISCARD_SECTORS (1 * GIB / BLK_SECTOR)
#define BLK_MAX_ZERO_SECTORS	(64 * MIB / BLK_SECTOR)
#define BLK_MAX_SEGMENTS	(VIRTQ_MAX_SIZE - 2) /* header, status */

enum blk_cache { CACHE_UNSAFE, CACHE_WRITEBACK };
enum blk_engine { ENGINE_SYNC, ENGINE_ASYNC };

struct blk_cfg {
	char *drive_id, *path_on_host, *partuuid, *socket;
	bool is_root_device, is_read_only, discard;
	u32 cache_type, io_engine;
	u64 num_queues;
	struct cfg_ratelimit *rate_limiter; /* NULL: no limit */
};

/* What a PATCH can say. */
struct blk_patch {
	char *drive_id, *path_on_host;
	struct cfg_ratelimit *rate_limiter;
};

struct blk_counters { /* metrics; the names that Firecracker has are its own */
	u64 read_count, read_bytes, write_count, write_bytes, flush_count, discard_count, write_zeroes_count, execute_fails;
	u64 queue_event_count, invalid_reqs_count, no_avail_buffer, update_count, update_fails;
	struct latency read_agg, write_agg;
};

/* One request. The status byte is cut off the last iovec while the request runs, so that the data of a read is what is left. */
struct blk_req {
	struct blk_io io; /* io.next also links the pool */
	u16 q;
	u32 type;
	u64 start_ns;
	u8 *status; /* guest memory */
	struct virtq_chain chain;
};

struct virtio_blk {
	struct virtio_dev vdev; /* first */
	const struct blk_cfg *cfg;
	struct blk_file *file; /* owned; a PATCH puts another one here */
	struct virtio_blk_config space;
	struct blk_counters counters;
	struct ratelimit limit;
	/* under dev.lock */
	struct blk_io *pool;
	u32 pool_nr;
	bool paused;
	bool limited;		  /* the last request had to stay in its queue */
	struct disk_dirty *dirty; /* borrowed; a migration wants to know what is written. NULL: none does */
	struct log_limit io_log;
};

static inline struct virtio_blk *to_blk(struct virtio_dev *vdev)
{
	return container_of(vdev, struct virtio_blk, vdev);
}

/* blk.c: root= and what belongs to it, when the drive is the root one; appended to buf as device_class.cmdline does. */
void blk_root_words(const struct blk_cfg *cfg, bool read_only, char *buf, size_t size);

/* blk_state.c: what a snapshot has of it beside virtio_core_state. */
extern const struct device_state blk_device_state;

/* blk_io.c */
/* Takes requests off queue q. virtio_ops.queue_kick */
void blk_queue_kick(struct virtio_dev *vdev, u16 q);
/* blk_file_params.done; opaque is the struct virtio_blk. Takes the lock. */
void blk_done(void *opaque, struct blk_io *list);
/* Requests are in flight. ctx: any, lock held */
bool blk_busy(const struct virtio_dev *vdev);
/* Frees the requests that are kept for reuse. */
void blk_pool_free(struct virtio_blk *b);

#endif
