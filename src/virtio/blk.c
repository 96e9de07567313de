/* blk.c: the virtio block device (virtio 1.2 §5.2) on a raw file or block device; configuration section "drives". Here are the class, the
 * configuration space and the changes while the VM runs; blk_io.c has the requests. */
#include <ctype.h>
#include <errno.h>
#include <json-c/json.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "virtio/blk_dev.h"
#include "vmm/config.h"

#define MAX_QUEUES 16

#define CONFIG_LEN offsetof(struct virtio_blk_config, max_secure_erase_sectors) /* what follows is not offered */

/* A drive with a socket is another device; what comes to this class is handed over. */
extern const struct device_class vhost_user_blk_class;

static int blk_activate(struct virtio_dev *vdev)
{
	(void)vdev;
	return 0;
}

static bool blk_reset(struct virtio_dev *vdev)
{
	return !blk_busy(vdev);
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

	s->capacity = b->file->size / BLK_SECTOR;
	s->seg_max = BLK_MAX_SEGMENTS;
	s->blk_size = BLK_SECTOR;
	/* The host works in 4 KiB pages: guests that align to them spare it from reading what they overwrite. */
	s->physical_block_exp = 3;
	s->min_io_size = 8;
	s->discard_sector_alignment = 8;
	s->num_queues = (u16)cfg->num_queues;
	if (cfg->discard && b->file->can_discard) {
		s->max_discard_sectors = BLK_MAX_DISCARD_SECTORS;
		s->max_discard_seg = 1;
		s->write_zeroes_may_unmap = 1;
	}
	if (!cfg->is_read_only) {
		s->max_write_zeroes_sectors = BLK_MAX_ZERO_SECTORS;
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

	if (b->file)
		blk_file_close(b->file);
	free(b->file);
	ratelimit_fini(&b->limit);
	virtio_fini(&b->vdev);
	blk_pool_free(b);
	device_fini(dev);
	free(b);
}

/* Opens an image with the engine and the rights of the drive. *out is owned by the caller. */
static int open_file(struct virtio_blk *b, const char *path, struct blk_file **out, struct err *e)
{
	struct vm *vm = b->vdev.dev.vm;
	const struct blk_file_params p = {
		.path = path,
		.read_only = b->cfg->is_read_only,
		.async = b->cfg->io_engine == ENGINE_ASYNC,
		.unlocked = vm_arrives(vm),
		.replaces = b->file,
		.loop = &vm->loop,
		.log = vm->log,
		.sandbox = vm->sandbox,
		.done = blk_done,
		.opaque = b,
	};
	struct blk_file *file = xzalloc(sizeof(*file));
	int ret = blk_file_open(file, &p, e);

	if (ret < 0)
		free(file);
	else
		*out = file;
	return ret;
}

static void blk_resume_limited(struct ratelimit *r)
{
	virtio_kick_all(&container_of(r, struct virtio_blk, limit)->vdev);
}

static int blk_create(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct device **out,
		      struct err *e)
{
	const struct blk_cfg *c = cfg;
	struct virtio_blk *b;
	int ret;

	if (c->socket)
		return vhost_user_blk_class.create(vm, &vhost_user_blk_class, cfg, slot, out, e);
	b = xzalloc(sizeof(*b));
	b->cfg = c;
	device_init(&b->vdev.dev, vm, cls, b->cfg->drive_id, slot);
	ratelimit_init(&b->limit, &vm->loop, b->cfg->rate_limiter, blk_resume_limited);
	ret = open_file(b, b->cfg->path_on_host, &b->file, e);
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
	blk_file_drain(b->file);
}

static int blk_claim(struct device *dev, bool mine, struct err *e)
{
	struct virtio_blk *b = to_blk(to_virtio(dev));

	return blk_file_claim(b->file, mine, dev->vm->handed_over, e);
}

/* The driver cannot change a read-only one: who wants it at another host puts it there once. */
static int blk_disk(struct device *dev, struct device_disk *out, struct err *e)
{
	const struct virtio_blk *b = to_blk(to_virtio(dev));

	if (b->cfg->is_read_only)
		return err_set(e, -ENOENT, "drive \"%s\" is read-only", dev->id);
	*out = (struct device_disk){.path = b->file->p.path, .fd = b->file->fd, .bytes = b->file->size};
	return 0;
}

static void blk_disk_track(struct device *dev, struct disk_dirty *d)
{
	struct virtio_blk *b = to_blk(to_virtio(dev));

	device_lock(dev);
	b->dirty = d;
	device_unlock(dev);
}

static void blk_resume(struct device *dev)
{
	struct virtio_blk *b = to_blk(to_virtio(dev));

	device_lock(dev);
	b->paused = false;
	device_unlock(dev);
	virtio_resume(&b->vdev);
}

/* The guest's requests of before end in the old image, those of after start in the new one. In flight are reads and writes that the engine
 * has begun: they are waited for here. */
static void exchange_file(struct virtio_blk *b, struct blk_file *file)
{
	struct device *dev = &b->vdev.dev;
	struct blk_file *old = b->file;
	bool was_paused;

	device_lock(dev);
	was_paused = b->paused;
	b->paused = true;
	device_unlock(dev);
	blk_file_drain(old);
	device_lock(dev);
	b->file = file;
	b->space.capacity = file->size / BLK_SECTOR;
	b->paused = was_paused;
	virtio_config_changed(&b->vdev);
	device_unlock(dev);
	blk_file_close(old);
	free(old);
	virtio_kick_all(&b->vdev);
}

static int blk_update(struct device *dev, const void *patch, struct err *e)
{
	struct virtio_blk *b = to_blk(to_virtio(dev));
	const struct blk_patch *p = patch;
	struct blk_file *file;
	int ret;

	if (dev->cls == &vhost_user_blk_class)
		return vhost_user_blk_class.ops->update(dev, patch, e);
	if (p->path_on_host) {
		ret = open_file(b, p->path_on_host, &file, e);
		counter_add(ret < 0 ? &b->counters.update_fails : &b->counters.update_count, 1);
		if (ret < 0)
			return ret;
		exchange_file(b, file);
	}
	if (p->rate_limiter) {
		device_lock(dev);
		ratelimit_update(&b->limit, p->rate_limiter);
		device_unlock(dev);
	}
	return 0;
}

static int blk_status(struct device *dev, struct json_object *out, struct err *e)
{
	const struct virtio_blk *b = to_blk(to_virtio(dev));

	if (dev->cls == &vhost_user_blk_class)
		return vhost_user_blk_class.ops->status(dev, out, e);
	json_object_object_add(out, "drive_id", json_object_new_string(dev->id));
	json_object_object_add(out, "path_on_host", json_object_new_string(b->file->p.path));
	json_object_object_add(out, "is_read_only", json_object_new_boolean(b->cfg->is_read_only));
	json_object_object_add(out, "size_bytes", json_object_new_uint64(b->file->size));
	json_object_object_add(out, "io_engine", json_object_new_string(b->file->ring ? "Async" : "Sync"));
	return 0;
}

/* The root drive is made first (blk_order), so it is vda. */
void blk_root_words(const struct blk_cfg *cfg, bool read_only, char *buf, size_t size)
{
	size_t used = strlen(buf);

	if (!cfg->is_root_device)
		return;
	snprintf(buf + used, size - used, "%sroot=%s%s %s", used ? " " : "", cfg->partuuid ? "PARTUUID=" : "/dev/vda",
		 cfg->partuuid ? cfg->partuuid : "", read_only ? "ro" : "rw");
}

static void blk_cmdline(struct device *dev, char *buf, size_t size)
{
	const struct blk_cfg *cfg = to_blk(to_virtio(dev))->cfg;

	blk_root_words(cfg, cfg->is_read_only, buf, size);
}

static int blk_order(const void *cfg_a, const void *cfg_b)
{
	const struct blk_cfg *a = cfg_a, *b = cfg_b;

	return (int)b->is_root_device - (int)a->is_root_device;
}

static int blk_check(const void *cfg, struct err *e)
{
	const struct blk_cfg *c = cfg;

	if (!c->path_on_host && !c->socket)
		return err_set(e, -EINVAL, "required key \"path_on_host\" is missing (or \"socket\", for a vhost-user drive)");
	if (c->socket && (c->path_on_host || c->is_read_only || c->rate_limiter || c->io_engine != ENGINE_SYNC))
		return err_set(e, -EINVAL,
			       "path_on_host, is_read_only, rate_limiter and io_engine do not go with \"socket\": the back end has them");
	return 0;
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
	{FIELD(path_on_host, CFG_STR), .min = 1, .max = 4095, .help = "raw disk image or block device of the host; or give socket"},
	{FIELD(is_read_only, CFG_BOOL), .dflt = "false", .help = "the guest cannot write; several VMs can share the image"},
	{FIELD(partuuid, CFG_STR), .min = 1, .max = 64, .accept = partuuid_ok, .expected = "a partition UUID, like 0eaa91a0-01",
	 .help = "the root file system is on this partition of the root drive"},
	{FIELD(cache_type, CFG_ENUM), .values = cache_types, .dflt = "\"Unsafe\"",
	 .help = "Writeback: flushes of the guest reach the disk; Unsafe: none are offered, so a crash of the host can lose writes"},
	{FIELD(io_engine, CFG_ENUM), .values = io_engines, .dflt = "\"Sync\"",
	 .help = "Sync: one worker thread; Async: io_uring, many requests at a time, or Sync when the host forbids it"},
	{FIELD(rate_limiter, CFG_OBJ), .sub = &ratelimit_table, .help = "limits of reads, writes and other requests"},
	{FIELD(socket, CFG_STR), .min = 1, .max = 107,
	 .help = "instead of path_on_host: unix socket of a vhost-user-blk back end, which has the image, its rights and its limits"},
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

#define PATCH(k, t) .key = #k, .type = (t), .offset = offsetof(struct blk_patch, k)
static const struct cfg_field blk_patch_fields[] = {
	{PATCH(drive_id, CFG_STR), .required = true, .min = 1, .max = 64, .help = "name of the drive"},
	{PATCH(path_on_host, CFG_STR), .min = 1, .max = 4095,
	 .help = "image that takes the place of the old one, or the same one when its size has changed"},
	{PATCH(rate_limiter, CFG_OBJ), .sub = &ratelimit_table, .help = "new limits; what is absent stays"},
};

static const struct cfg_table blk_patch_table = {
	.name = "partial-drive",
	.help = "changes of a drive while the VM runs",
	.size = sizeof(struct blk_patch),
	.fields = blk_patch_fields,
	.nr_fields = ARRAY_SIZE(blk_patch_fields),
};

static const struct device_op blk_device_ops[] = {
	{.path = "",
	 .patch = &blk_patch_table,
	 .update = blk_update,
	 .status = blk_status,
	 .help = "Changes the image or the limits of a drive; GET (husk's own) tells which image it has."},
	{.path = NULL},
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
	COUNTER(read_count),
	COUNTER(read_bytes),
	COUNTER(write_count),
	COUNTER(write_bytes),
	COUNTER(flush_count),
	COUNTER(discard_count),
	COUNTER(write_zeroes_count),
	COUNTER(execute_fails),
	COUNTER(queue_event_count),
	COUNTER(invalid_reqs_count),
	COUNTER(no_avail_buffer),
	COUNTER(update_count),
	COUNTER(update_fails),
	COUNTER(read_agg),
	COUNTER(write_agg),
	{"rate_limiter_throttled_events", offsetof(struct virtio_blk, limit.throttled)},
	{NULL, 0},
};

/* The peer of a vhost-user drive may come later. */
static int blk_probe(const void *cfg, struct err *e)
{
	const struct blk_cfg *c = cfg;
	const struct blk_file_params p = {.path = c->path_on_host, .read_only = c->is_read_only};

	return c->socket ? vhost_user_blk_class.probe(cfg, e) : blk_file_probe(&p, e);
}

/* io_uring. A PATCH of path_on_host opens and examines the new image and starts its worker, which keeps the loop's confinement. */
static const char *const blk_syscalls[] = {"fadvise64", "io_uring_enter", "poll", NULL};
static const char *const blk_op_syscalls[] = {
	"open",	     "openat", "eventfd2", "fstat",	      "newfstatat",	"lseek",
	"fallocate", "clone",  "clone3",   "set_robust_list", "io_uring_setup", "io_uring_register",
	"pread64",   "preadv", "pwrite64", "pwritev",	      "fdatasync",	NULL,
};
static const u32 blk_op_ioctls[] = {BLKGETSIZE64, BLKDISCARD, 0};

static const struct device_state *const blk_states[] = {&virtio_core_state, &blk_device_state, NULL};

const struct device_class virtio_blk_class = {
	.name = "virtio-blk",
	.section = "drives",
	.list = true,
	.config = &blk_table,
	.flag = &blk_flag,
	.order = blk_order,
	.check = blk_check,
	.probe = blk_probe,
	.ops = blk_device_ops,
	.syscalls = blk_syscalls,
	.op_syscalls = blk_op_syscalls,
	.op_ioctls = blk_op_ioctls,
	.mmio_slot = true,
	.metrics_group = "block",
	.counters = blk_counters,
	.acpi_hid = "LNRO0005",
	.create = blk_create,
	.destroy = blk_destroy,
	.quiesce = blk_quiesce,
	.resume = blk_resume,
	.claim = blk_claim,
	.disk = blk_disk,
	.disk_track = blk_disk_track,
	.states = blk_states,
	.cmdline = blk_cmdline,
};
