/*
 * virtio.h: what every virtio device shares: features, status, reset, queues, configuration interrupt; over the virtio-mmio transport.
 *
 * A device embeds struct virtio_dev first, fills ops, nr_queues and the sizes, and calls virtio_init. From then on the transport drives it:
 *   activate   driver wrote DRIVER_OK: the queues are checked and live
 *   queue_kick the driver put work into queue q (or the loop re-kicks it)
 *   reset      driver wrote status 0: stop touching guest memory. Only called after an activate that worked.
 *              False: requests are in flight; the device calls virtio_reset_done when the last has ended.
 *
 * Until such a reset is done the status register does not read 0 (virtio 1.2 §2.4.2), so the driver waits, not the vCPU thread. A driver
 * that does not wait (Linux over MMIO) may go on: its DRIVER_OK takes effect when the last request has ended.
 *
 * ctx of all ops: with vdev->dev.lock held; queue_kick on the loop thread; the others on a vcpu thread, activate also on the loop thread
 * (from virtio_reset_done).
 *
 *   status      what the driver sees   vdev->live   queues
 *   DRIVER_OK   0xf                    true         virtq_pop yields chains
 *   broken      | NEEDS_RESET          true         virtq_pop < 0; pushes are dropped; only a reset helps
 *   reset       not 0, then 0          false        virtq_pop 0; pushes are dropped
 */
#ifndef HUSK_VIRTIO_H
#define HUSK_VIRTIO_H

#include "virtio/virtq.h"
#include "vmm/device.h"
#include "vmm/loop.h"
#include "vmm/vm.h"

#define VIRTIO_MAX_QUEUES 32

/* virtio 1.2 §2.1 */
#define VIRTIO_S_ACKNOWLEDGE 1
#define VIRTIO_S_DRIVER	     2
#define VIRTIO_S_DRIVER_OK   4
#define VIRTIO_S_FEATURES_OK 8
#define VIRTIO_S_NEEDS_RESET 64
#define VIRTIO_S_FAILED	     128

/* virtio 1.2 §6; feature bit numbers. Device-specific ones live with their device. */
#define VIRTIO_F_INDIRECT_DESC	 28
#define VIRTIO_F_EVENT_IDX	 29
#define VIRTIO_F_VERSION_1	 32
#define VIRTIO_F_ACCESS_PLATFORM 33
#define VIRTIO_F_RING_PACKED	 34
#define VIRTIO_F_IN_ORDER	 35

/* InterruptStatus, virtio 1.2 §4.2.2 */
#define VIRTIO_ISR_USED	  1u
#define VIRTIO_ISR_CONFIG 2u

struct virtio_ops {
	int (*activate)(struct virtio_dev *vdev);
	void (*queue_kick)(struct virtio_dev *vdev, u16 q);
	bool (*reset)(struct virtio_dev *vdev);
	/* Optional: NULL reads zero / ignores writes. off + len lies within config_len. */
	void (*config_read)(struct virtio_dev *vdev, u32 off, void *data, u32 len);
	void (*config_write)(struct virtio_dev *vdev, u32 off, const void *data, u32 len);
};

struct virtio_kick { /* per-queue kick eventfd on the loop */
	struct loop_fd watch;
	struct virtio_dev *vdev;
	u16 q;
};

struct virtio_dev {
	struct device dev; /* first */
	const struct virtio_ops *ops;
	u32 type; /* virtio 1.2 §5: 1 net, 2 block, 3 console, 4 rng */
	u32 config_len;
	u64 features; /* offered by the device; the core adds VERSION_1, INDIRECT_DESC, EVENT_IDX, RING_PACKED */

	/* state */
	u64 driver_features;
	u32 features_sel, driver_features_sel, queue_sel;
	u8 status;
	bool live;	/* DRIVER_OK seen and queues checked */
	bool resetting; /* reset asked for, requests still in flight */
	bool restored;	/* its state was loaded, and it has not run since */
	u32 isr;	/* InterruptStatus, VIRTIO_ISR_*; atomic */
	u32 config_generation;
	struct virtq *queues; /* owned, nr_queues */
	u16 nr_queues;

	struct irq irq;
	struct virtio_kick *kicks; /* owned */
};

/* Makes queues and kick eventfds, claims the MMIO slot (vdev->dev.slot). Fill dev (device_init), ops, type, features, config_len first. */
int virtio_init(struct virtio_dev *vdev, u16 nr_queues, struct err *e) MUST_CHECK;
/* Unwatches and frees what virtio_init made. The device drained its requests before. */
void virtio_fini(struct virtio_dev *vdev);

static inline struct virtio_dev *to_virtio(struct device *dev)
{
	return container_of(dev, struct virtio_dev, dev);
}
static inline bool virtio_has(const struct virtio_dev *vdev, u32 bit)
{
	return vdev->driver_features >> bit & 1;
}
/* The driver broke a rule: log it (rate-limited), set NEEDS_RESET, interrupt; queues yield nothing until reset. */
void virtio_broken(struct virtio_dev *vdev, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* The configuration space changed: bump the generation, interrupt. */
void virtio_config_changed(struct virtio_dev *vdev);
/* A reset that ops->reset could not finish at once (it returned false) is done now. ctx: loop, lock held, not inside ops->reset */
void virtio_reset_done(struct virtio_dev *vdev);
/* Raises the used-buffer interrupt. */
void virtio_interrupt(struct virtio_dev *vdev);
/* Runs queue_kick for every enabled queue soon, as if the driver had kicked: after a pause, or to give way to other work of the loop.
 * ctx: any, with or without the lock */
void virtio_kick_all(struct virtio_dev *vdev);
/* The end of every device_class.resume: virtio_kick_all, and after a restore one interrupt, as the one that the driver waits for may have
 * been lost. A driver takes one more than it needs for nothing. ctx: loop, without the lock */
void virtio_resume(struct virtio_dev *vdev);

/* For transports. ctx: vcpu, lock held */
/* The status register. A reset that waits for requests in flight reads as NEEDS_RESET. */
u8 virtio_get_status(const struct virtio_dev *vdev);
/* The driver writes the status register: 0 resets; bits are only ever added, in the order of virtio 1.2 §3.1.1. What breaks a rule is
 * ignored and logged. */
void virtio_set_status(struct virtio_dev *vdev, u32 val);
/* One of the two halves of the driver's features; read-only once FEATURES_OK is set. */
void virtio_set_driver_features(struct virtio_dev *vdev, u32 sel, u32 val);
/* The driver notifies queue q (any number). */
void virtio_notify_queue(struct virtio_dev *vdev, u32 q);

/* virtio_mmio.c: the register file (virtio 1.2 §4.2.2). */
#define VIRTIO_MMIO_QUEUE_NOTIFY 0x050u
extern const struct bus_ops virtio_mmio_ops;

#endif
