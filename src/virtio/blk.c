/* blk.c: the virtio block device (virtio 1.2 §5.2) on a raw file or block device; configuration section "drives". */
#include <ctype.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/backend/blk_file.h"
#include "virtio/virtio.h"
#include "vmm/config.h"

#define BLK_PENDING 0xff /* beside VIRTIO_BLK_S_*: the engine has the request */

/* A discard costs the host the same whatever its length; zeroes may have to be written. One worker does them: keep each short. */
#define MAX_DISCARD_SECTORS (1 * GIB / BLK_SECTOR)
#define MAX_ZERO_SECTORS    (64 * MIB / BLK_SECTOR)

/* Finished requests kept for reuse: a request is 4 KiB, and depths beyond this are rare. */
#define POOL_KEEP 32

#define MAX_QUEUES 16

#define CONFIG_LEN offsetof(struct virtio_blk_config, max_secure_erase_sectors) /* what follows is not offered */

enum { CACHE_UNSAFE, CACHE_WRITEBACK };
enum { ENGINE_SYNC, ENGINE_ASYNC };

struct blk_cfg {
	char *drive_id, *path_on_host, *partuuid;
	bool is_root_device, is_read_only, discard;
	u32 cache_type, io_engine;
	u64 num_queues;
};

struct blk_counters { /* metrics; the names that Firecracker has are its own */
	u64 read_count, read_bytes, write_count, write_bytes, flush_count, discard_count, write_zeroes_count, execute_fails;
};

/* One request. The status byte is cut off the last iovec while the request runs, so that the data of a read is what is left. */
struct blk_req {
	struct blk_io io; /* io.next also links the pool */
	u16 q;
	u32 type;
	u8 *status; /* guest memory */
	struct virtq_chain chain;
};

struct virtio_blk {
	struct virtio_dev vdev; /* first */
	const struct blk_cfg *cfg;
	struct blk_file file;
	struct virtio_blk_config space;
	struct blk_counters counters;
	/* under dev.lock */
	struct blk_io *pool;
	u32 pool_nr;
	bool paused;
	struct log_limit io_log;
};

static struct virtio_blk *to_blk(struct virtio_dev *vdev)
{
	return container_of(vdev, struct virtio_blk, vdev);
}

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
	blk_file_submit(&b->file, &r->io);
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
	iov_write(chain_in(&r->chain), r->chain.nr_in, 0, b->file.id, BLK_ID_BYTES);
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
		virtio_broken(&b->vdev, "block request with %u readable and %u writable bytes", c->out_len, c->in_len);
		return -EINVAL;
	}
	iov_read(chain_out(c), c->nr_out, 0, &h, sizeof(h));
	last = &chain_in(c)[c->nr_in - 1];
	last->iov_len--;
	r->status = (u8 *)last->iov_base + last->iov_len;
	r->type = h.type;
	*sector = h.sector;
	return 0;
}

/* Takes one request off the queue. False: none there, or the queue is broken. */
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
	trace(b->vdev.dev.vm->trace, blk_request, "dev=%s q=%u type=%u sector=%lu out=%u in=%u", b->vdev.dev.id, q, r->type, sector,
	      r->chain.out_len, r->chain.in_len);
	status = start(b, r, sector);
	if (status != BLK_PENDING)
		req_end(b, r, status);
	return true;
}

/* At most a queue's worth per call: a driver that never stops must not keep the loop from the other devices. */
static void blk_queue_kick(struct virtio_dev *vdev, u16 q)
{
	struct virtio_blk *b = to_blk(vdev);
	struct virtq *vq = &vdev->queues[q];
	u32 budget = vq->size;

	if (b->paused)
		return;
	do {
		virtq_want_kicks(vq, false);
		while (budget && take_one(b, q))
			budget--;
	} while (virtq_want_kicks(vq, true) && budget);
	blk_file_kick(&b->file);
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

static bool busy(const struct virtio_dev *vdev)
{
	for (u16 q = 0; q < vdev->nr_queues; q++) {
		if (vdev->queues[q].in_flight)
			return true;
	}
	return false;
}

/* ctx: loop */
static void blk_done(void *opaque, struct blk_io *list)
{
	struct virtio_blk *b = opaque;
	struct virtio_dev *vdev = &b->vdev;
	u32 touched = 0; /* queues */

	device_lock(&vdev->dev);
	for (struct blk_io *io = list, *next; io; io = next) {
		struct blk_req *r = container_of(io, struct blk_req, io);

		next = io->next;
		touched |= (u32)BIT(r->q);
		req_end(b, r, result_status(b, io));
	}
	for (u16 q = 0; q < vdev->nr_queues; q++) {
		if (touched & BIT(q))
			virtq_notify(&vdev->queues[q]);
	}
	if (vdev->resetting && !busy(vdev))
		virtio_reset_done(vdev);
	device_unlock(&vdev->dev);
}

static int blk_activate(struct virtio_dev *vdev)
{
	(void)vdev;
	return 0;
}

static bool blk_reset(struct virtio_dev *vdev)
{
	return !busy(vdev);
}

static void blk_config_read(struct virtio_dev *vdev, u32 off, void *data, u32 len)
{
	memcpy(data, (const u8 *)&to_blk(vdev)->space + off, len);
}

static const struct virtio_ops blk_ops = {
	.activate = blk_activate,
	.queue_kick = blk_queue_kick,
	.reset = blk_reset,
	.config_read = blk_config_read,
};

static void fill_space(struct virtio_blk *b)
{
	const struct blk_cfg *cfg = b->cfg;
	struct virtio_blk_config *s = &b->space;

	s->capacity = b->file.size / BLK_SECTOR;
	s->seg_max = VIRTQ_MAX_SIZE - 2; /* header, status */
	s->blk_size = BLK_SECTOR;
	/* The host works in 4 KiB pages: guests that align to them spare it from reading what they overwrite. */
	s->physical_block_exp = 3;
	s->min_io_size = 8;
	s->discard_sector_alignment = 8;
	s->num_queues = (u16)cfg->num_queues;
	if (cfg->discard && b->file.can_discard) {
		s->max_discard_sectors = MAX_DISCARD_SECTORS;
		s->max_discard_seg = 1;
		s->write_zeroes_may_unmap = 1;
	}
	if (!cfg->is_read_only) {
		s->max_write_zeroes_sectors = MAX_ZERO_SECTORS;
		s->max_write_zeroes_seg = 1;
	}
}

/* DEVIATION: without FLUSH a driver takes the disk for write-through (virtio 1.2 §5.2.6.2), yet what it wrote may still be in the host's
 * page cache: a crash of the host, not of the guest or of husk, can lose it. That is Firecracker's "Unsafe", and its default. */
static u64 offered_features(const struct virtio_blk *b)
{
	u64 f = BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_TOPOLOGY);

	if (b->cfg->is_read_only)
		f |= BIT(VIRTIO_BLK_F_RO);
	if (b->cfg->cache_type == CACHE_WRITEBACK)
		f |= BIT(VIRTIO_BLK_F_FLUSH);
	if (b->cfg->num_queues > 1)
		f |= BIT(VIRTIO_BLK_F_MQ);
	if (b->space.max_discard_sectors)
		f |= BIT(VIRTIO_BLK_F_DISCARD);
	if (b->space.max_write_zeroes_sectors)
		f |= BIT(VIRTIO_BLK_F_WRITE_ZEROES);
	return f;
}

static void blk_destroy(struct device *dev)
{
	struct virtio_blk *b = to_blk(to_virtio(dev));

	blk_file_close(&b->file);
	virtio_fini(&b->vdev);
	while (b->pool)
		free(req_get(b));
	device_fini(dev);
	free(b);
}

static int blk_create(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct device **out,
		      struct err *e)
{
	struct virtio_blk *b = xzalloc(sizeof(*b));
	struct blk_file_params p;
	int ret;

	b->cfg = cfg;
	device_init(&b->vdev.dev, vm, cls, b->cfg->drive_id, slot);
	p = (struct blk_file_params){
		.path = b->cfg->path_on_host,
		.read_only = b->cfg->is_read_only,
		.async = b->cfg->io_engine == ENGINE_ASYNC,
		.loop = &vm->loop,
		.log = vm->log,
		.done = blk_done,
		.opaque = b,
	};
	ret = blk_file_open(&b->file, &p, e);
	if (ret == 0) {
		fill_space(b);
		b->vdev.ops = &blk_ops;
		b->vdev.type = 2;
		b->vdev.config_len = CONFIG_LEN;
		b->vdev.features = offered_features(b);
		ret = virtio_init(&b->vdev, (u16)b->cfg->num_queues, e);
	}
	if (ret < 0) {
		blk_destroy(&b->vdev.dev);
		return ret;
	}
	*out = &b->vdev.dev;
	return 0;
}

static void blk_quiesce(struct device *dev)
{
	struct virtio_blk *b = to_blk(to_virtio(dev));

	device_lock(dev);
	b->paused = true;
	device_unlock(dev);
	blk_file_drain(&b->file);
}

static void blk_resume(struct device *dev)
{
	struct virtio_blk *b = to_blk(to_virtio(dev));

	device_lock(dev);
	b->paused = false;
	device_unlock(dev);
	virtio_kick_all(&b->vdev);
}

/* The root drive is made first (blk_order), so it is vda. */
static void blk_cmdline(struct device *dev, char *buf, size_t size)
{
	const struct blk_cfg *cfg = to_blk(to_virtio(dev))->cfg;
	size_t used = strlen(buf);

	if (!cfg->is_root_device)
		return;
	snprintf(buf + used, size - used, "%sroot=%s%s %s", used ? " " : "", cfg->partuuid ? "PARTUUID=" : "/dev/vda",
		 cfg->partuuid ? cfg->partuuid : "", cfg->is_read_only ? "ro" : "rw");
}

static int blk_order(const void *cfg_a, const void *cfg_b)
{
	const struct blk_cfg *a = cfg_a, *b = cfg_b;

	return (int)b->is_root_device - (int)a->is_root_device;
}

static bool drive_id_ok(const char *s)
{
	while (isalnum((unsigned char)*s) || *s == '_' || *s == '-')
		s++;
	return *s == '\0';
}

/* It goes into the kernel command line: one word, no quotes. "UUID/PARTNROFF=1" is allowed there, too. */
static bool partuuid_ok(const char *s)
{
	while (isalnum((unsigned char)*s) || (*s && strchr("-/=", *s)))
		s++;
	return *s == '\0';
}

static const char *const cache_types[] = {[CACHE_UNSAFE] = "Unsafe", [CACHE_WRITEBACK] = "Writeback", NULL};
static const char *const io_engines[] = {[ENGINE_SYNC] = "Sync", [ENGINE_ASYNC] = "Async", NULL};

#define FIELD(k, t) .key = #k, .type = (t), .offset = offsetof(struct blk_cfg, k)
static const struct cfg_field blk_fields[] = {
	{FIELD(drive_id, CFG_STR), .required = true, .min = 1, .max = 64, .accept = drive_id_ok,
	 .expected = "1 to 64 letters, digits, \"_\" or \"-\"", .help = "name of the drive"},
	{FIELD(is_root_device, CFG_BOOL), .required = true, .dflt = "false", .unique = "a root drive is there already",
	 .help = "the kernel gets root=/dev/vda (or partuuid) and ro or rw"},
	{FIELD(path_on_host, CFG_STR), .required = true, .min = 1, .max = 4095, .help = "raw disk image or block device of the host"},
	{FIELD(is_read_only, CFG_BOOL), .dflt = "false", .help = "the guest cannot write; several VMs can share the image"},
	{FIELD(partuuid, CFG_STR), .min = 1, .max = 64, .accept = partuuid_ok, .expected = "a partition UUID, like 0eaa91a0-01",
	 .help = "the root file system is on this partition of the root drive"},
	{FIELD(cache_type, CFG_ENUM), .values = cache_types, .dflt = "\"Unsafe\"",
	 .help = "Writeback: flushes of the guest reach the disk; Unsafe: none are offered, so a crash of the host can lose writes"},
	{FIELD(io_engine, CFG_ENUM), .values = io_engines, .dflt = "\"Sync\"",
	 .help = "Sync: one worker thread; Async: io_uring, many requests at a time, or Sync when the host forbids it"},
	{FIELD(discard, CFG_BOOL), .dflt = "true", .extension = true,
	 .help = "offer discard: blocks that the guest frees go back to the host"},
	{FIELD(num_queues, CFG_INT), .min = 1, .max = MAX_QUEUES, .dflt = "1", .extension = true, .help = "request queues of the device"},
};

static const struct cfg_table blk_table = {
	.name = "drive",
	.help = "a virtio block device on a raw image or a block device",
	.size = sizeof(struct blk_cfg),
	.fields = blk_fields,
	.nr_fields = ARRAY_SIZE(blk_fields),
};

static const struct cfg_alias blk_aliases[] = {
	{"id", "drive_id", NULL},
	{"ro", "is_read_only", "true"},
	{"root", "is_root_device", "true"},
	{"async", "io_engine", "\"Async\""},
	{"writeback", "cache_type", "\"Writeback\""},
	{0},
};

static const struct cfg_flag blk_flag = {
	.name = "drive",
	.positional = "path_on_host",
	.id_key = "drive_id",
	.id_prefix = "drive",
	.aliases = blk_aliases,
	.usage = "PATH[,root][,ro][,id=NAME][,async][,writeback]",
	.help = "a disk: raw image or block device",
};

#define COUNTER(name) \
	{ \
#name, offsetof(struct virtio_blk, counters.name) \
	}
static const struct counter_desc blk_counters[] = {
	COUNTER(read_count),	     COUNTER(read_bytes),    COUNTER(write_count),
	COUNTER(write_bytes),	     COUNTER(flush_count),   COUNTER(discard_count),
	COUNTER(write_zeroes_count), COUNTER(execute_fails), {NULL, 0},
};

const struct device_class virtio_blk_class = {
	.name = "virtio-blk",
	.section = "drives",
	.list = true,
	.config = &blk_table,
	.flag = &blk_flag,
	.order = blk_order,
	.mmio_slot = true,
	.metrics_group = "block",
	.counters = blk_counters,
	.acpi_hid = "LNRO0005",
	.create = blk_create,
	.destroy = blk_destroy,
	.quiesce = blk_quiesce,
	.resume = blk_resume,
	.cmdline = blk_cmdline,
};
