/* blk_state.c: block device, saved state; see blk_dev.h. */
#include <errno.h>
#include <string.h>

#include "virtio/blk_dev.h"

/* What the driver has read from the configuration space, and goes on to believe. Topology is only advice. */
struct blk_state {
	u64 capacity; /* sectors of 512 bytes */
	u32 blk_size, seg_max, max_discard_sectors, max_write_zeroes_sectors;
	u8 id[BLK_ID_BYTES]; /* the disk stays the same for the guest, also on a copy of the image */
	bool read_only;
};

static const struct state_field fields[] = {
	STATE_NUM(struct blk_state, capacity, 1),
	STATE_NUM(struct blk_state, blk_size, 2),
	STATE_NUM(struct blk_state, seg_max, 3, .max = BLK_MAX_SEGMENTS),
	STATE_NUM(struct blk_state, max_discard_sectors, 4, .max = BLK_MAX_DISCARD_SECTORS),
	STATE_NUM(struct blk_state, max_write_zeroes_sectors, 5, .max = BLK_MAX_ZERO_SECTORS),
	STATE_BUF(struct blk_state, id, 6),
	STATE_FLAG(struct blk_state, read_only, 7),
	STATE_END,
};

static const struct state_table blk_state_table = {
	.name = "blk",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct blk_state),
	.fields = fields,
};

/* Nothing is in flight (virtio_core_state looked). The image has to match the snapshot after a crash of the host, too, whatever the cache
 * type: one that is older than the guest's memory is a broken file system. So what was written is put on the disk first. */
static int blk_save(struct device *dev, void *data, struct err *e)
{
	struct virtio_blk *b = to_blk(to_virtio(dev));
	struct blk_state *s = data;
	int ret;

	s->capacity = b->space.capacity;
	s->blk_size = b->space.blk_size;
	s->seg_max = b->space.seg_max;
	s->max_discard_sectors = b->space.max_discard_sectors;
	s->max_write_zeroes_sectors = b->space.max_write_zeroes_sectors;
	s->read_only = b->cfg->is_read_only;
	memcpy(s->id, b->file->id, sizeof(s->id));
	/* A husk on this host sees what is on its way to the disk, too. */
	ret = s->read_only || dev->vm->handed_over ? 0 : blk_file_sync(b->file);
	if (ret < 0)
		return err_set(e, ret, "disk \"%s\": what the guest wrote cannot be put on the disk: %s", b->file->p.path, strerror(-ret));
	return 0;
}

static int blk_check(struct device *dev, const void *data, struct err *e)
{
	const struct virtio_blk *b = to_blk(to_virtio(dev));
	const struct virtio_blk_config *now = &b->space;
	const struct blk_state *s = data;
	const char *path = b->file->p.path;

	if (s->capacity != now->capacity)
		return err_set(e, -EINVAL,
			       "disk \"%s\" has %llu sectors, the snapshot was made with %llu: give it the image as it was then", path,
			       (unsigned long long)now->capacity, (unsigned long long)s->capacity);
	if (s->read_only != b->cfg->is_read_only)
		return err_set(e, -EINVAL, "disk \"%s\" is %s, in the snapshot it was %s", path,
			       b->cfg->is_read_only ? "read-only" : "writable", s->read_only ? "read-only" : "writable");
	if (s->blk_size != now->blk_size)
		return err_set(e, -EINVAL, "disk \"%s\" has blocks of %u bytes, in the snapshot of %u", path, now->blk_size, s->blk_size);
	return 0;
}

static void blk_load(struct device *dev, const void *data)
{
	struct virtio_blk *b = to_blk(to_virtio(dev));
	const struct blk_state *s = data;

	device_lock(dev);
	b->space.seg_max = s->seg_max;
	/* What this image cannot do the driver does not use: virtio_core_state compared the features. */
	if (b->space.max_discard_sectors)
		b->space.max_discard_sectors = s->max_discard_sectors;
	if (b->space.max_write_zeroes_sectors)
		b->space.max_write_zeroes_sectors = s->max_write_zeroes_sectors;
	memcpy(b->file->id, s->id, sizeof(b->file->id));
	device_unlock(dev);
}

const struct device_state blk_device_state = {
	.table = &blk_state_table,
	.save = blk_save,
	.check = blk_check,
	.load = blk_load,
};
