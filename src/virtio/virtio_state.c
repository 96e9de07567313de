/* virtio_state.c: the saved state that all virtio devices share; see virtio_state.h. */
#include "virtio/virtio_state.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define QUEUE(m, t, ...) STATE_NUM(struct virtq_state, m, t, ##__VA_ARGS__)
static const struct state_field queue_fields[] = {
	STATE_NUM(struct virtq_state, desc_gpa, 1, .hex = true),
	STATE_NUM(struct virtq_state, driver_gpa, 2, .hex = true),
	STATE_NUM(struct virtq_state, device_gpa, 3, .hex = true),
	STATE_NUM(struct virtq_state, size, 4, .max = VIRTQ_MAX_SIZE),
	STATE_NUM(struct virtq_state, last_avail, 5),
	STATE_NUM(struct virtq_state, used_idx, 6),
	STATE_FLAG(struct virtq_state, enabled, 7),
	STATE_FLAG(struct virtq_state, kicks_off, 8),
	STATE_FLAG(struct virtq_state, avail_wrap, 9),
	STATE_FLAG(struct virtq_state, used_wrap, 10),
	STATE_END,
};

static const struct state_table queue_table = {
	.name = "virtqueue",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct virtq_state),
	.fields = queue_fields,
};

static const struct state_field virtio_fields[] = {
	STATE_NUM(struct virtio_state, driver_features, 1, .hex = true),
	STATE_NUM(struct virtio_state, type, 2),
	STATE_NUM(struct virtio_state, features_sel, 3),
	STATE_NUM(struct virtio_state, driver_features_sel, 4),
	STATE_NUM(struct virtio_state, queue_sel, 5),
	STATE_NUM(struct virtio_state, isr, 6, .max = VIRTIO_ISR_USED | VIRTIO_ISR_CONFIG),
	STATE_NUM(struct virtio_state, config_generation, 7),
	STATE_NUM(struct virtio_state, status, 8, .hex = true),
	STATE_FLAG(struct virtio_state, live, 9),
	STATE_NUM(struct virtio_state, nr_queues, 10, .max = VIRTIO_MAX_QUEUES),
	STATE_MANY(struct virtio_state, queues, 11, &queue_table, STATE_NR(struct virtio_state, nr_queues)),
	STATE_END,
};

const struct state_table virtio_state_table = {
	.name = "virtio",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct virtio_state),
	.fields = virtio_fields,
};

/* ---- names, for messages ---- */

/* virtio 1.2 §5 and §6; type 0: of all devices. Those that one host offers and another may not. */
static const struct {
	u32 type, bit;
	const char *name;
} feature_names[] = {
	{0, VIRTIO_F_INDIRECT_DESC, "INDIRECT_DESC"},
	{0, VIRTIO_F_EVENT_IDX, "EVENT_IDX"},
	{0, VIRTIO_F_VERSION_1, "VERSION_1"},
	{0, VIRTIO_F_ACCESS_PLATFORM, "ACCESS_PLATFORM"},
	{0, VIRTIO_F_RING_PACKED, "RING_PACKED"},
	{0, VIRTIO_F_IN_ORDER, "IN_ORDER"},
	{1, 0, "CSUM"},
	{1, 1, "GUEST_CSUM"},
	{1, 2, "CTRL_GUEST_OFFLOADS"},
	{1, 3, "MTU"},
	{1, 5, "MAC"},
	{1, 7, "GUEST_TSO4"},
	{1, 8, "GUEST_TSO6"},
	{1, 9, "GUEST_ECN"},
	{1, 10, "GUEST_UFO"},
	{1, 11, "HOST_TSO4"},
	{1, 12, "HOST_TSO6"},
	{1, 13, "HOST_ECN"},
	{1, 14, "HOST_UFO"},
	{1, 15, "MRG_RXBUF"},
	{1, 16, "STATUS"},
	{1, 17, "CTRL_VQ"},
	{1, 18, "CTRL_RX"},
	{1, 21, "GUEST_ANNOUNCE"},
	{1, 22, "MQ"},
	{1, 23, "CTRL_MAC_ADDR"},
	{2, 1, "SIZE_MAX"},
	{2, 2, "SEG_MAX"},
	{2, 5, "RO"},
	{2, 6, "BLK_SIZE"},
	{2, 9, "FLUSH"},
	{2, 10, "TOPOLOGY"},
	{2, 12, "MQ"},
	{2, 13, "DISCARD"},
	{2, 14, "WRITE_ZEROES"},
	{3, 0, "SIZE"},
	{5, 0, "MUST_TELL_HOST"},
	{5, 1, "STATS_VQ"},
	{5, 2, "DEFLATE_ON_OOM"},
	{5, 3, "FREE_PAGE_HINT"},
	{5, 4, "PAGE_POISON"},
	{5, 5, "PAGE_REPORTING"},
	{19, 0, "STREAM"},
	{24, 0, "ACPI_PXM"},
	{24, 1, "UNPLUGGED_INACCESSIBLE"},
};

const char *virtio_feature_name(u32 type, u32 bit)
{
	for (u32 i = 0; i < ARRAY_SIZE(feature_names); i++) {
		if (feature_names[i].bit == bit && (!feature_names[i].type || feature_names[i].type == type))
			return feature_names[i].name;
	}
	return NULL;
}

/* ---- save ---- */

static void save_queue(const struct virtio_dev *vdev, const struct virtq *q, struct virtq_state *s)
{
	*s = (struct virtq_state){
		.desc_gpa = q->desc_gpa,
		.driver_gpa = q->driver_gpa,
		.device_gpa = q->device_gpa,
		.size = q->size,
		.enabled = q->enabled,
	};
	if (!vdev->live)
		return; /* it has no position */
	s->last_avail = q->last_avail;
	s->used_idx = q->used_idx;
	s->avail_wrap = q->avail_wrap;
	s->used_wrap = q->used_wrap;
	s->kicks_off = q->kicks_off;
}

static int virtio_save(struct device *dev, void *data, struct err *e)
{
	struct virtio_dev *vdev = to_virtio(dev);
	struct virtio_state *s = data;
	int ret = 0;

	device_lock(dev);
	s->driver_features = vdev->driver_features;
	s->type = vdev->type;
	s->features_sel = vdev->features_sel;
	s->driver_features_sel = vdev->driver_features_sel;
	s->queue_sel = vdev->queue_sel;
	s->isr = __atomic_load_n(&vdev->isr, __ATOMIC_ACQUIRE);
	s->config_generation = vdev->config_generation;
	s->status = vdev->status;
	s->live = vdev->live;
	s->nr_queues = vdev->nr_queues;
	for (u16 i = 0; i < vdev->nr_queues; i++) {
		const struct virtq *q = &vdev->queues[i];

		save_queue(vdev, q, &s->queues[i]);
		if (q->in_flight)
			ret = err_set(e, -EBUSY, "queue %u still has %u requests in flight; try again", i, q->in_flight);
	}
	if (vdev->resetting)
		ret = err_set(e, -EBUSY, "the guest's driver resets it just now; try again");
	device_unlock(dev);
	return ret;
}

/* ---- check ---- */

/* What the status register can hold: the steps of virtio 1.2 §3.1.1 so far. */
static int check_status(const struct virtio_state *s, struct err *e)
{
	static const u8 steps[] = {VIRTIO_S_ACKNOWLEDGE, VIRTIO_S_DRIVER, VIRTIO_S_FEATURES_OK, VIRTIO_S_DRIVER_OK};
	u8 all = VIRTIO_S_NEEDS_RESET | VIRTIO_S_FAILED;
	bool running = s->status & VIRTIO_S_DRIVER_OK, broken = s->status & VIRTIO_S_NEEDS_RESET;

	for (u32 i = 0; i < ARRAY_SIZE(steps); i++) {
		all |= steps[i];
		if (i && s->status & steps[i] && !(s->status & steps[i - 1]))
			return err_set(e, -EINVAL, "status %#x is not possible: %#x comes before %#x", s->status, steps[i - 1], steps[i]);
	}
	if (s->status & ~all)
		return err_set(e, -EINVAL, "status %#x has unknown bits", s->status);
	if (s->live ? !running : running && !broken)
		return err_set(e, -EINVAL, "status %#x does not go with a device that is %s", s->status, s->live ? "live" : "not live");
	return 0;
}

/* The driver goes on to use what it negotiated, whatever this host has. */
static int check_features(const struct virtio_dev *vdev, const struct virtio_state *s, struct err *e)
{
	u64 missing = s->driver_features & ~vdev->features;
	char list[256] = "";
	size_t used = 0;

	if (!(s->status & VIRTIO_S_FEATURES_OK))
		return 0; /* to be refused when the driver asks for them */
	for (u32 bit = 0; bit < 64 && used < sizeof(list); bit++) {
		const char *name = virtio_feature_name(vdev->type, bit);

		if (!(missing >> bit & 1))
			continue;
		used += (size_t)snprintf(list + used, sizeof(list) - used, used ? ", " : "");
		if (name && used < sizeof(list))
			used += (size_t)snprintf(list + used, sizeof(list) - used, "%s", name);
		else if (used < sizeof(list))
			used += (size_t)snprintf(list + used, sizeof(list) - used, "bit %u", bit);
	}
	if (missing)
		return err_set(e, -EINVAL,
			       "the guest's driver uses features that this device does not offer here: %s; give it a configuration and a "
			       "host device like those of the snapshot",
			       list);
	if (!(s->driver_features >> VIRTIO_F_VERSION_1 & 1))
		return err_set(e, -EINVAL, "the features %#llx lack VERSION_1", (unsigned long long)s->driver_features);
	return 0;
}

/* With nothing in flight both sides of a queue are at the same place, unless the device had stopped touching it. */
static int check_position(const struct virtq *q, bool stopped, struct err *e)
{
	if (q->packed && (q->last_avail >= q->size || q->used_idx >= q->size))
		return err_set(e, -EINVAL, "positions %u and %u are outside of %u slots", q->last_avail, q->used_idx, q->size);
	if (!stopped && (q->last_avail != q->used_idx || q->avail_wrap != q->used_wrap))
		return err_set(e, -EINVAL, "positions %u (lap %d) and %u (lap %d) differ with nothing in flight", q->last_avail,
			       (int)q->avail_wrap, q->used_idx, (int)q->used_wrap);
	return 0;
}

/* The queue as it would be after the load. */
static struct virtq loaded_queue(const struct virtq *now, const struct virtq_state *s)
{
	return (struct virtq){
		.vdev = now->vdev,
		.index = now->index,
		.kick_fd = now->kick_fd,
		.size = s->size,
		.enabled = s->enabled,
		.desc_gpa = s->desc_gpa,
		.driver_gpa = s->driver_gpa,
		.device_gpa = s->device_gpa,
		.last_avail = s->last_avail,
		.used_idx = s->used_idx,
		.avail_wrap = s->avail_wrap,
		.used_wrap = s->used_wrap,
		.kicks_off = s->kicks_off,
	};
}

static int check_queue(const struct virtio_dev *vdev, const struct virtio_state *s, u32 i, struct err *e)
{
	const struct virtq_state *qs = &s->queues[i];
	struct virtq q = loaded_queue(&vdev->queues[i], qs);
	bool stopped = !q.enabled || s->status & VIRTIO_S_NEEDS_RESET;
	int ret;

	if (!s->live) {
		if (qs->last_avail || qs->used_idx || qs->avail_wrap || qs->used_wrap || qs->kicks_off)
			return err_set(e, -EINVAL, "it has a position, and its device is not live");
		return 0;
	}
	q.packed = s->driver_features >> VIRTIO_F_RING_PACKED & 1;
	/* Between two DRIVER_OKs only what is enabled counts; a queue that the driver has stopped is never touched again. */
	ret = q.enabled ? virtq_map(&q, s->driver_features, e) : 0;
	if (ret == 0 && q.enabled)
		ret = check_position(&q, stopped, e);
	return ret;
}

static int virtio_check(struct device *dev, const void *data, struct err *e)
{
	const struct virtio_dev *vdev = to_virtio(dev);
	const struct virtio_state *s = data;
	int ret;

	if (s->type != vdev->type)
		return err_set(e, -EINVAL, "it is of virtio type %u, in the snapshot of type %u", vdev->type, s->type);
	if (s->nr_queues != vdev->nr_queues)
		return err_set(e, -EINVAL, "it has %u queues, in the snapshot %u", vdev->nr_queues, s->nr_queues);
	ret = check_status(s, e);
	if (ret == 0)
		ret = check_features(vdev, s, e);
	for (u32 i = 0; ret == 0 && i < s->nr_queues; i++) {
		ret = check_queue(vdev, s, i, e);
		if (ret < 0)
			err_prefix(e, "queue %u", i);
	}
	return ret;
}

/* ---- load ---- */

static void load_queue(struct virtq *q, const struct virtio_state *s)
{
	struct err e;
	int ret = 0;

	*q = loaded_queue(q, &s->queues[q->index]);
	if (s->live && q->enabled)
		ret = virtq_map(q, s->driver_features, &e);
	ASSERT(ret == 0); /* virtio_check accepted this queue */
}

static void virtio_load(struct device *dev, const void *data)
{
	struct virtio_dev *vdev = to_virtio(dev);
	const struct virtio_state *s = data;

	device_lock(dev);
	vdev->driver_features = s->driver_features;
	vdev->features_sel = s->features_sel;
	vdev->driver_features_sel = s->driver_features_sel;
	vdev->queue_sel = s->queue_sel;
	__atomic_store_n(&vdev->isr, s->isr, __ATOMIC_RELEASE);
	vdev->config_generation = s->config_generation;
	vdev->status = s->status;
	vdev->live = s->live;
	vdev->resetting = false;
	vdev->restored = true;
	for (u16 i = 0; i < vdev->nr_queues; i++)
		load_queue(&vdev->queues[i], s);
	device_unlock(dev);
}

const struct device_state virtio_core_state = {
	.table = &virtio_state_table,
	.save = virtio_save,
	.check = virtio_check,
	.load = virtio_load,
};
