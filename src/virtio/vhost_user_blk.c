/* vhost_user_blk.c: a drive whose blocks another process serves (vhost-user-blk, e.g. qemu-storage-daemon): a drive with `socket`. */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/blk_dev.h"
#include "virtio/vhost_user.h"

#define CONFIG_LEN offsetof(struct virtio_blk_config, max_secure_erase_sectors)

/* What the peer may offer to the driver. Not CONFIG_WCE: the configuration has the say on flushes. */
#define KNOWN_FEATURES \
	(BIT(VIRTIO_BLK_F_SIZE_MAX) | BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_RO) | BIT(VIRTIO_BLK_F_BLK_SIZE) | \
	 BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_TOPOLOGY) | BIT(VIRTIO_BLK_F_MQ) | BIT(VIRTIO_BLK_F_DISCARD) | \
	 BIT(VIRTIO_BLK_F_WRITE_ZEROES))

struct vhost_user_blk {
	struct vhost_user u; /* first */
	const struct blk_cfg *cfg;
};

static struct vhost_user_blk *to_vub(struct vhost_user *u)
{
	return container_of(u, struct vhost_user_blk, u);
}

static struct virtio_blk_config *space_of(struct vhost_user *u)
{
	return (struct virtio_blk_config *)(void *)u->config;
}

static bool offers(const struct vhost_user *u, u32 bit)
{
	return u->offered >> bit & 1;
}

/* The driver finds as many queues as there are, and chains no longer than husk's. */
static int meet(struct vhost_user *u, struct err *e)
{
	struct virtio_blk_config *s = space_of(u);
	u16 nr = offers(u, VIRTIO_BLK_F_MQ) ? MAX(s->num_queues, 1) : 1;

	if (!(u->protocol & BIT(VU_P_CONFIG)))
		return err_set(e, -EPROTO, "it cannot tell the size of the disk (CONFIG)");
	if (offers(u, VIRTIO_BLK_F_BLK_SIZE) && (s->blk_size < BLK_SECTOR || s->blk_size > 64 * KIB || s->blk_size & (s->blk_size - 1)))
		return err_set(e, -EPROTO, "it has blocks of %u bytes", s->blk_size);
	if (u->queues && nr < u->vdev.nr_queues)
		return err_set(e, -EPROTO, "it has %u queues; the guest uses %u", nr, u->vdev.nr_queues);
	if (!u->queues)
		u->queues_wanted = MIN(MIN(nr, MAX(u->peer_queues, 1)), u->queues_wanted);
	s->num_queues = u->queues_wanted;
	s->seg_max = MIN(s->seg_max, VIRTQ_MAX_SIZE - 2);
	return 0;
}

/* The status is the last byte that the driver gave. */
static u32 fail(struct vhost_user *u, struct virtq_chain *c)
{
	struct iovec *last = c->nr_in ? &chain_in(c)[c->nr_in - 1] : NULL;

	(void)u;
	if (!last)
		return 0;
	*((u8 *)last->iov_base + last->iov_len - 1) = VIRTIO_BLK_S_IOERR;
	return c->in_len;
}

static const struct vhost_user_ops peer_ops = {.meet = meet, .fail = fail};

static const struct virtio_ops vub_ops = {
	.activate = vhost_user_activate,
	.queue_kick = vhost_user_queue_kick,
	.reset = vhost_user_reset,
	.config_read = vhost_user_config_read,
};

static void vub_destroy(struct device *dev)
{
	struct vhost_user_blk *b = to_vub(to_vhost_user(to_virtio(dev)));

	vhost_user_fini(&b->u);
	device_fini(dev);
	free(b);
}

static int vub_create(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct device **out,
		      struct err *e)
{
	struct vhost_user_blk *b = xzalloc(sizeof(*b));
	struct vhost_user *u = &b->u;
	struct device *dev = &u->vdev.dev;
	int ret;

	b->cfg = cfg;
	device_init(dev, vm, cls, b->cfg->drive_id, slot);
	vhost_user_prepare(u, &peer_ops, b->cfg->socket);
	u->config_wanted = CONFIG_LEN;
	u->queues_wanted = (u16)MIN(b->cfg->num_queues, VU_MAX_QUEUES);
	u->features_known = KNOWN_FEATURES;
	if (b->cfg->cache_type == CACHE_UNSAFE)
		u->features_known &= ~BIT(VIRTIO_BLK_F_FLUSH);
	if (!b->cfg->discard)
		u->features_known &= ~BIT(VIRTIO_BLK_F_DISCARD);
	u->vdev.ops = &vub_ops;
	u->vdev.type = 2;
	u->vdev.config_len = CONFIG_LEN;
	ret = vhost_user_open(u, e);
	if (ret == 0)
		ret = vhost_user_init(u, u->queues_wanted, e);
	if (ret < 0) {
		vub_destroy(dev);
		return ret;
	}
	*out = dev;
	return 0;
}

/* PATCH without fields reads the size of the disk again, as on Firecracker. */
static int vub_update(struct device *dev, const void *patch, struct err *e)
{
	const struct blk_patch *p = patch;
	int ret;

	if (p->path_on_host || p->rate_limiter)
		return err_set(e, -EINVAL, "drive \"%s\" is a vhost-user one: its back end has the file and the limits", dev->id);
	device_lock(dev);
	ret = vhost_user_refresh(to_vhost_user(to_virtio(dev)), e);
	device_unlock(dev);
	return ret;
}

static int vub_status(struct device *dev, struct json_object *out, struct err *e)
{
	struct vhost_user *u = to_vhost_user(to_virtio(dev));

	(void)e;
	device_lock(dev);
	json_object_object_add(out, "drive_id", json_object_new_string(dev->id));
	json_object_object_add(out, "socket", json_object_new_string(u->path));
	json_object_object_add(out, "is_read_only", json_object_new_boolean(offers(u, VIRTIO_BLK_F_RO)));
	json_object_object_add(out, "size_bytes", json_object_new_uint64(space_of(u)->capacity * BLK_SECTOR));
	json_object_object_add(out, "connected", json_object_new_boolean(u->state >= VU_READY));
	device_unlock(dev);
	return 0;
}

static int vub_probe(const void *cfg, struct err *e)
{
	return vhost_user_probe(((const struct blk_cfg *)cfg)->socket, e);
}

static int vub_disk(struct device *dev, struct device_disk *out, struct err *e)
{
	(void)out;
	return err_set(e, -EOPNOTSUPP,
		       "drive \"%s\" is a vhost-user one: its back end, another process, has the disk, which cannot be copied", dev->id);
}

static const struct device_op vub_device_ops[] = {
	{.path = "", .update = vub_update, .status = vub_status, .help = "read the size of the disk again"},
	{0},
};

/* The same as for any drive, but that read-only is for the peer to say. */
static void vub_cmdline(struct device *dev, char *buf, size_t size)
{
	struct vhost_user *u = to_vhost_user(to_virtio(dev));

	blk_root_words(to_vub(u)->cfg, offers(u, VIRTIO_BLK_F_RO), buf, size);
}

/* Not in the class list: class virtio_blk, whose section this is, hands over to it. */
const struct device_class vhost_user_blk_class = {
	.name = "vhost-user-blk",
	.section = "drives",
	.list = true,
	.probe = vub_probe,
	.ops = vub_device_ops,
	.syscalls = vhost_user_syscalls,
	.mmio_slot = true,
	.metrics_group = "vhost_user_block",
	.counters = vhost_user_counters,
	.acpi_hid = "LNRO0005",
	.create = vub_create,
	.destroy = vub_destroy,
	.quiesce = vhost_user_quiesce,
	.resume = vhost_user_resume,
	.disk = vub_disk,
	.unsaved = "its back end, another process, has part of its state; give the VM a drive with path_on_host instead",
	.cmdline = vub_cmdline,
};
