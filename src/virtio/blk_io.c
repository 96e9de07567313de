/* blk_io.c: block device, requests (virtio 1.2 §5.2.6); see blk_dev.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/blk_dev.h"

#define BLK_PENDING 0xff /* beside VIRTIO_BLK_S_*: the engine has the request */

/* Finished requests kept for reuse: a request is 4 KiB, and depths beyond this are rare. */
#define POOL_KEEP 32

static struct blk_req *req_get(struct virtio_blk *b)
{
	struct blk_io *io = b->pool;

	if (!io)
		return xzalloc(sizeof(struct blk_req));
	b->pool = io->next;
	b->pool_nr--;
	return container_of(io, struct blk_req, io);
}

static void req_put(struct virtio_blk *b, struct blk_req *r)
{
	if (b->pool_nr == POOL_KEEP) {
		free(r);
		return;
	}
	r->io.next = b->pool;
	b->pool = &r->io;
	b->pool_nr++;
}

/* The status byte is the last writable one, so the used length covers all (virtio 1.2 §2.7.8 counts from the first). A driver that reset
 * the device gets no status any more: virtq_push only keeps the books then. */
static void req_end(struct virtio_blk *b, struct blk_req *r, u8 status)
{
	trace(b->vdev.dev.vm->trace, blk_complete, "dev=%s q=%u type=%u status=%u", b->vdev.dev.id, r->q, r->type, status);
	if (status != VIRTIO_BLK_S_OK)
		b->counters.execute_fails++;
	else if (r->type <= VIRTIO_BLK_T_OUT)
		latency_add(r->type == VIRTIO_BLK_T_IN ? &b->counters.read_agg : &b->counters.write_agg, clock_host_ns() - r->start_ns);
	if (!b->vdev.resetting)
		*r->status = status;
	chain_in(&r->chain)[r->chain.nr_in - 1].iov_len++;
	virtq_push(&b->vdev.queues[r->q], &r->chain, r->chain.in_len);
	req_put(b, r);
}

/* Whether [sector, sector + bytes) is whole sectors inside the disk. */
static bool range_ok(const struct virtio_blk *b, u64 sector, u64 bytes)
{
	u64 nr = bytes / BLK_SECTOR, end;

	return bytes % BLK_SECTOR == 0 && !__builtin_add_overflow(sector, nr, &end) && end <= b->space.capacity;
}

static u8 submit(struct virtio_blk *b, struct blk_req *r, enum blk_op op)
{
	r->io.op = op;
	blk_file_submit(b->file, &r->io);
	return BLK_PENDING;
}

/* Cuts `skip` bytes off the front of the list. */
static void skip_front(struct blk_io *io, struct iovec *iov, u32 nr, u32 skip)
{
	while (nr && iov->iov_len <= skip) {
		skip -= (u32)iov->iov_len;
		iov++;
		nr--;
	}
	if (skip) {
		iov->iov_base = (u8 *)iov->iov_base + skip;
		iov->iov_len -= skip;
	}
	io->iov = iov;
	io->nr_iov = nr;
}

static u8 start_read(struct virtio_blk *b, struct blk_req *r, u64 sector)
{
	struct iovec *in = chain_in(&r->chain);
	u32 len = r->chain.in_len - 1;

	if (!range_ok(b, sector, len))
		return VIRTIO_BLK_S_IOERR;
	if (!len)
		return VIRTIO_BLK_S_OK;
	b->counters.read_count++;
	b->counters.read_bytes += len;
	r->io.iov = in;
	r->io.nr_iov = r->chain.nr_in - (in[r->chain.nr_in - 1].iov_len == 0);
	r->io.offset = sector * BLK_SECTOR;
	r->io.len = len;
	return submit(b, r, BLK_OP_READ);
}

static u8 start_write(struct virtio_blk *b, struct blk_req *r, u64 sector)
{
	u32 len = r->chain.out_len - (u32)sizeof(struct virtio_blk_outhdr);

	if (b->cfg->is_read_only || !range_ok(b, sector, len))
		return VIRTIO_BLK_S_IOERR;
	if (!len)
		return VIRTIO_BLK_S_OK;
	b->counters.write_count++;
	b->counters.write_bytes += len;
	skip_front(&r->io, chain_out(&r->chain), r->chain.nr_out, sizeof(struct virtio_blk_outhdr));
	r->io.offset = sector * BLK_SECTOR;
	r->io.len = len;
	return submit(b, r, BLK_OP_WRITE);
}

/* Unsafe: the driver was not offered FLUSH; one that sends it all the same gets what the user chose, as on Firecracker. */
static u8 start_flush(struct virtio_blk *b, struct blk_req *r)
{
	b->counters.flush_count++;
	if (b->cfg->cache_type == CACHE_UNSAFE || b->cfg->is_read_only)
		return VIRTIO_BLK_S_OK;
	return submit(b, r, BLK_OP_FLUSH);
}

static u8 get_id(struct virtio_blk *b, struct blk_req *r)
{
	if (r->chain.in_len - 1 < BLK_ID_BYTES)
		return VIRTIO_BLK_S_IOERR;
	iov_write(chain_in(&r->chain), r->chain.nr_in, 0, b->file->id, BLK_ID_BYTES);
	return VIRTIO_BLK_S_OK;
}

/* Discard and write zeroes carry segments; we offer one per request. virtio 1.2 §5.2.6.2: unknown flags, and unmap in a discard, are
 * UNSUPP. */
static u8 start_range(struct virtio_blk *b, struct blk_req *r, bool zero)
{
	u32 max = zero ? b->space.max_write_zeroes_sectors : b->space.max_discard_sectors;
	struct virtio_blk_discard_write_zeroes range;

	if (b->cfg->is_read_only)
		return VIRTIO_BLK_S_IOERR;
	if (max == 0)
		return VIRTIO_BLK_S_UNSUPP;
	if (r->chain.out_len != sizeof(struct virtio_blk_outhdr) + sizeof(range))
		return VIRTIO_BLK_S_IOERR;
	iov_read(chain_out(&r->chain), r->chain.nr_out, sizeof(struct virtio_blk_outhdr), &range, sizeof(range));
	if (range.flags & ~(zero ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0u))
		return VIRTIO_BLK_S_UNSUPP;
	if (range.num_sectors > max || !range_ok(b, range.sector, (u64)range.num_sectors * BLK_SECTOR))
		return VIRTIO_BLK_S_IOERR;
	if (!range.num_sectors)
		return VIRTIO_BLK_S_OK;
	*(zero ? &b->counters.write_zeroes_count : &b->counters.discard_count) += 1;
	r->io.unmap = range.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP && b->space.write_zeroes_may_unmap;
	r->io.offset = range.sector * BLK_SECTOR;
	r->io.len = (u64)range.num_sectors * BLK_SECTOR;
	return submit(b, r, zero ? BLK_OP_ZERO : BLK_OP_DISCARD);
}

static u8 start(struct virtio_blk *b, struct blk_req *r, u64 sector)
{
	switch (r->type) {
	case VIRTIO_BLK_T_IN:
		return start_read(b, r, sector);
	case VIRTIO_BLK_T_OUT:
		return start_write(b, r, sector);
	case VIRTIO_BLK_T_FLUSH:
		return start_flush(b, r);
	case VIRTIO_BLK_T_GET_ID:
		return get_id(b, r);
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return start_range(b, r, r->type == VIRTIO_BLK_T_WRITE_ZEROES);
	default:
		return VIRTIO_BLK_S_UNSUPP;
	}
}

/* Header and status may be cut into descriptors in any way (virtio 1.2 §2.7.4.1): only lengths count. */
static int parse(struct virtio_blk *b, struct blk_req *r, u64 *sector)
{
	struct virtq_chain *c = &r->chain;
	struct virtio_blk_outhdr h;
	struct iovec *last;

	if (c->out_len < sizeof(h) || c->in_len < 1) {
		b->counters.invalid_reqs_count++;
		virtio_broken(&b->vdev, "block request with %u readable and %u writable bytes", c->out_len, c->in_len);
		return -EINVAL;
	}
	iov_read(chain_out(c), c->nr_out, 0, &h, sizeof(h));
	last = &chain_in(c)[c->nr_in - 1];
	last->iov_len--;
	r->status = (u8 *)last->iov_base + last->iov_len;
	r->type = h.type;
	r->start_ns = clock_host_ns();
	*sector = h.sector;
	return 0;
}

static u64 data_bytes(const struct blk_req *r)
{
	if (r->type == VIRTIO_BLK_T_IN)
		return r->chain.in_len - 1;
	return r->type == VIRTIO_BLK_T_OUT ? r->chain.out_len - sizeof(struct virtio_blk_outhdr) : 0;
}

/* Takes one request off the queue. False: none there, the queue is broken, or the limit is reached (b->limited). */
static bool take_one(struct virtio_blk *b, u16 q)
{
	struct virtq *vq = &b->vdev.queues[q];
	struct blk_req *r = req_get(b);
	u64 sector;
	u8 status;

	if (virtq_pop(vq, &r->chain) <= 0) {
		req_put(b, r);
		return false;
	}
	r->q = q;
	if (parse(b, r, &sector) < 0) {
		virtq_push(vq, &r->chain, 0);
		req_put(b, r);
		return false;
	}
	if (ratelimit_active(&b->limit) && !ratelimit_take(&b->limit, data_bytes(r))) {
		virtq_unpop(vq, &r->chain);
		req_put(b, r);
		b->limited = true;
		return false;
	}
	trace(b->vdev.dev.vm->trace, blk_request, "dev=%s q=%u type=%u sector=%lu out=%u in=%u", b->vdev.dev.id, q, r->type, sector,
	      r->chain.out_len, r->chain.in_len);
	status = start(b, r, sector);
	if (status != BLK_PENDING)
		req_end(b, r, status);
	return true;
}

/* At most a queue's worth per call: a driver that never stops must not keep the loop from the other devices. */
void blk_queue_kick(struct virtio_dev *vdev, u16 q)
{
	struct virtio_blk *b = to_blk(vdev);
	struct virtq *vq = &vdev->queues[q];
	u32 budget = vq->size;

	if (b->paused)
		return;
	b->counters.queue_event_count++;
	b->limited = false;
	do {
		virtq_want_kicks(vq, false);
		while (budget && take_one(b, q))
			budget--;
	} while (!b->limited && virtq_want_kicks(vq, true) && budget);
	if (budget == vq->size && !b->limited)
		b->counters.no_avail_buffer++;
	blk_file_kick(b->file);
	virtq_notify(vq);
	if (!budget)
		virtio_kick_all(vdev);
}

static u8 result_status(struct virtio_blk *b, const struct blk_io *io)
{
	static const char *const names[] = {"read", "write", "flush", "discard", "writing zeroes"};

	if (io->result == 0)
		return VIRTIO_BLK_S_OK;
	if (io->result == -EOPNOTSUPP)
		return VIRTIO_BLK_S_UNSUPP;
	log_guest(b->vdev.dev.vm->log, &b->io_log, "drive \"%s\": %s of %lu bytes at %lu: %s", b->vdev.dev.id, names[io->op], io->len,
		  io->offset, strerror(-io->result));
	return VIRTIO_BLK_S_IOERR;
}

bool blk_busy(const struct virtio_dev *vdev)
{
	for (u16 q = 0; q < vdev->nr_queues; q++) {
		if (vdev->queues[q].in_flight)
			return true;
	}
	return false;
}

/* Also what has failed: a part of it may be on the disk. Only what has ended counts, since whoever copies a block before that does so
 * again. */
static void mark_written(struct virtio_blk *b, const struct blk_io *io)
{
	if (b->dirty && (io->op == BLK_OP_WRITE || io->op == BLK_OP_DISCARD || io->op == BLK_OP_ZERO))
		disk_mark(b->dirty, io->offset, io->len);
}

/* ctx: loop */
void blk_done(void *opaque, struct blk_io *list)
{
	struct virtio_blk *b = opaque;
	struct virtio_dev *vdev = &b->vdev;
	u32 touched = 0; /* queues */

	device_lock(&vdev->dev);
	for (struct blk_io *io = list, *next; io; io = next) {
		struct blk_req *r = container_of(io, struct blk_req, io);

		next = io->next;
		touched |= (u32)BIT(r->q);
		mark_written(b, io);
		req_end(b, r, result_status(b, io));
	}
	for (u16 q = 0; q < vdev->nr_queues; q++) {
		if (touched & BIT(q))
			virtq_notify(&vdev->queues[q]);
	}
	if (vdev->resetting && !blk_busy(vdev))
		virtio_reset_done(vdev);
	device_unlock(&vdev->dev);
}

void blk_pool_free(struct virtio_blk *b)
{
	while (b->pool)
		free(req_get(b));
}
