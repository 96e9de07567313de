/* virtio_mmio.c: the virtio-mmio register file, version 2 (virtio 1.2 §4.2.2). */
#include <string.h>

#include "virtio/virtio.h"

#define MMIO_MAGIC   0x74726976u /* "virt" */
#define MMIO_VERSION 2u
#define MMIO_VENDOR  0x4b535548u /* "HUSK" */

/* Offsets. Registers are 32 bits wide; the configuration space follows them. */
#define REG_MAGIC		0x000
#define REG_VERSION		0x004
#define REG_DEVICE_ID		0x008
#define REG_VENDOR_ID		0x00c
#define REG_DEVICE_FEATURES	0x010
#define REG_DEVICE_FEATURES_SEL 0x014
#define REG_DRIVER_FEATURES	0x020
#define REG_DRIVER_FEATURES_SEL 0x024
#define REG_QUEUE_SEL		0x030
#define REG_QUEUE_NUM_MAX	0x034
#define REG_QUEUE_NUM		0x038
#define REG_QUEUE_READY		0x044
#define REG_QUEUE_NOTIFY	VIRTIO_MMIO_QUEUE_NOTIFY
#define REG_INTERRUPT_STATUS	0x060
#define REG_INTERRUPT_ACK	0x064
#define REG_STATUS		0x070
#define REG_QUEUE_DESC_LOW	0x080
#define REG_QUEUE_DESC_HIGH	0x084
#define REG_QUEUE_DRIVER_LOW	0x090
#define REG_QUEUE_DRIVER_HIGH	0x094
#define REG_QUEUE_DEVICE_LOW	0x0a0
#define REG_QUEUE_DEVICE_HIGH	0x0a4
#define REG_SHM_SEL		0x0ac
#define REG_SHM_LEN_LOW		0x0b0
#define REG_SHM_LEN_HIGH	0x0b4
#define REG_SHM_BASE_LOW	0x0b8
#define REG_SHM_BASE_HIGH	0x0bc
#define REG_CONFIG_GENERATION	0x0fc
#define REG_CONFIG		0x100

static void refuse(struct virtio_dev *vdev, const char *what, u64 offset, u64 val)
{
	log_guest(vdev->dev.vm->log, &vdev->dev.guest_log, "%s: the guest's %s at register %#llx is ignored (value %#llx)", vdev->dev.id,
		  what, (unsigned long long)offset, (unsigned long long)val);
}

/* 64 feature bits are read in halves; further windows are empty. */
static u32 features_window(const struct virtio_dev *vdev)
{
	return vdev->features_sel <= 1 ? (u32)(vdev->features >> (vdev->features_sel * 32)) : 0;
}

/* NULL when the driver selected a queue that is not there, as it does to count them. */
static struct virtq *selected_queue(const struct virtio_dev *vdev)
{
	return vdev->queue_sel < vdev->nr_queues ? &vdev->queues[vdev->queue_sel] : NULL;
}

/* ---- reading ---- */

static u32 read_register(struct virtio_dev *vdev, u64 offset)
{
	const struct virtq *q = selected_queue(vdev);

	switch (offset) {
	case REG_MAGIC:
		return MMIO_MAGIC;
	case REG_VERSION:
		return MMIO_VERSION;
	case REG_DEVICE_ID:
		return vdev->type;
	case REG_VENDOR_ID:
		return MMIO_VENDOR;
	case REG_DEVICE_FEATURES:
		return features_window(vdev);
	case REG_QUEUE_NUM_MAX:
		return q ? VIRTQ_MAX_SIZE : 0;
	case REG_QUEUE_READY:
		return q && q->enabled;
	case REG_INTERRUPT_STATUS:
		return __atomic_load_n(&vdev->isr, __ATOMIC_ACQUIRE);
	case REG_STATUS:
		return virtio_get_status(vdev);
	case REG_SHM_LEN_LOW:
	case REG_SHM_LEN_HIGH:
	case REG_SHM_BASE_LOW:
	case REG_SHM_BASE_HIGH:
		return UINT32_MAX; /* no shared memory regions: a length of all ones */
	case REG_CONFIG_GENERATION:
		return vdev->config_generation;
	default:
		return 0;
	}
}

/* Beyond the end of the configuration space reads as zero. */
static void read_config(struct virtio_dev *vdev, u64 offset, void *data, u32 len)
{
	if (offset < vdev->config_len && vdev->ops->config_read)
		vdev->ops->config_read(vdev, (u32)offset, data, (u32)MIN(len, vdev->config_len - offset));
}

static void mmio_read(struct device *dev, u64 offset, void *data, u32 len)
{
	struct virtio_dev *vdev = to_virtio(dev);

	memset(data, 0, len);
	if (offset >= REG_CONFIG)
		read_config(vdev, offset - REG_CONFIG, data, len);
	else if (len == 4 && offset % 4 == 0)
		st_le32(data, read_register(vdev, offset));
	else
		refuse(vdev, "read of an odd size", offset, len);
}

/* ---- writing ---- */

/* QueueReady = 0 is always allowed: it stops the queue (virtio 1.2 §4.2.2.2). */
static void write_queue_ready(struct virtio_dev *vdev, struct virtq *q, u32 val)
{
	u8 want = VIRTIO_S_FEATURES_OK, mask = want | VIRTIO_S_DRIVER_OK | VIRTIO_S_NEEDS_RESET | VIRTIO_S_FAILED;

	if (!val)
		q->enabled = false;
	else if ((vdev->status & mask) == want)
		q->enabled = true;
	else
		refuse(vdev, "write outside of queue setup", REG_QUEUE_READY, val);
}

static void set_half(u64 *field, bool high, u32 val)
{
	*field = high ? (u64)val << 32 | (u32)*field : (*field & ~(u64)UINT32_MAX) | val;
}

/* Size and addresses: only after FEATURES_OK, before DRIVER_OK and while the queue is not ready. What makes no sense is kept until
 * DRIVER_OK finds it. */
static void write_queue_setup(struct virtio_dev *vdev, struct virtq *q, u64 offset, u32 val)
{
	u8 want = VIRTIO_S_FEATURES_OK, mask = want | VIRTIO_S_DRIVER_OK | VIRTIO_S_NEEDS_RESET | VIRTIO_S_FAILED;
	bool high = offset & 4;

	if ((vdev->status & mask) != want || q->enabled) {
		refuse(vdev, "write outside of queue setup", offset, val);
		return;
	}
	switch (offset) {
	case REG_QUEUE_NUM:
		q->size = val <= VIRTQ_MAX_SIZE ? (u16)val : 0; /* 0 is refused at DRIVER_OK */
		break;
	case REG_QUEUE_DESC_LOW:
	case REG_QUEUE_DESC_HIGH:
		set_half(&q->desc_gpa, high, val);
		break;
	case REG_QUEUE_DRIVER_LOW:
	case REG_QUEUE_DRIVER_HIGH:
		set_half(&q->driver_gpa, high, val);
		break;
	default:
		set_half(&q->device_gpa, high, val);
		break;
	}
}

static void write_queue_register(struct virtio_dev *vdev, u64 offset, u32 val)
{
	struct virtq *q = selected_queue(vdev);

	if (!q)
		refuse(vdev, "write to a queue that is not there", offset, val);
	else if (offset == REG_QUEUE_READY)
		write_queue_ready(vdev, q, val);
	else
		write_queue_setup(vdev, q, offset, val);
}

static void write_register(struct virtio_dev *vdev, u64 offset, u32 val)
{
	switch (offset) {
	case REG_DEVICE_FEATURES_SEL:
		vdev->features_sel = val;
		break;
	case REG_DRIVER_FEATURES_SEL:
		vdev->driver_features_sel = val;
		break;
	case REG_DRIVER_FEATURES:
		virtio_set_driver_features(vdev, vdev->driver_features_sel, val);
		break;
	case REG_QUEUE_SEL:
		vdev->queue_sel = val;
		break;
	case REG_QUEUE_NUM:
	case REG_QUEUE_READY:
	case REG_QUEUE_DESC_LOW:
	case REG_QUEUE_DESC_HIGH:
	case REG_QUEUE_DRIVER_LOW:
	case REG_QUEUE_DRIVER_HIGH:
	case REG_QUEUE_DEVICE_LOW:
	case REG_QUEUE_DEVICE_HIGH:
		write_queue_register(vdev, offset, val);
		break;
	case REG_QUEUE_NOTIFY:
		virtio_notify_queue(vdev, val);
		break;
	case REG_INTERRUPT_ACK:
		/* Atomic: the loop sets bits meanwhile; none of those may get lost. */
		__atomic_fetch_and(&vdev->isr, ~val, __ATOMIC_ACQ_REL);
		break;
	case REG_STATUS:
		virtio_set_status(vdev, val);
		break;
	case REG_SHM_SEL:
		break; /* there is none to select */
	default:
		refuse(vdev, "write", offset, val);
		break;
	}
}

/* A write that is not wholly inside has no meaning in part. */
static void write_config(struct virtio_dev *vdev, u64 offset, const void *data, u32 len)
{
	bool inside = offset < vdev->config_len && len <= vdev->config_len - offset;

	if (inside && vdev->ops->config_write && vdev->status & VIRTIO_S_DRIVER)
		vdev->ops->config_write(vdev, (u32)offset, data, len);
	else
		refuse(vdev, "write to the configuration", REG_CONFIG + offset, len);
}

static void mmio_write(struct device *dev, u64 offset, const void *data, u32 len)
{
	struct virtio_dev *vdev = to_virtio(dev);

	if (offset >= REG_CONFIG)
		write_config(vdev, offset - REG_CONFIG, data, len);
	else if (len == 4 && offset % 4 == 0)
		write_register(vdev, offset, ld_le32(data));
	else
		refuse(vdev, "write of an odd size", offset, len);
}

const struct bus_ops virtio_mmio_ops = {
	.read = mmio_read,
	.write = mmio_write,
};
