/* virtio.c: status, features, reset and interrupts of a virtio device, whatever its type and transport; see virtio.h. */
#include "virtio/virtio.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#define DRIVER_BITS   (VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER | VIRTIO_S_DRIVER_OK | VIRTIO_S_FEATURES_OK | VIRTIO_S_FAILED)
#define CORE_FEATURES (BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_INDIRECT_DESC) | BIT(VIRTIO_F_EVENT_IDX) | BIT(VIRTIO_F_RING_PACKED))

/* ---- making and freeing ---- */

/* A kick may be left over from before a reset, and with ioeventfd a guest can send one at any time: so it is only looked at here, under the
 * lock. ctx: loop */
static void kicked(struct loop_fd *w, u32 events)
{
	struct virtio_kick *kick = container_of(w, struct virtio_kick, watch);
	struct virtio_dev *vdev = kick->vdev;

	(void)events;
	device_lock(&vdev->dev);
	if (vdev->live && !(vdev->status & VIRTIO_S_NEEDS_RESET) && vdev->queues[kick->q].enabled) {
		trace(vdev->dev.vm->trace, virtio_kick, "dev=%s q=%u", vdev->dev.id, kick->q);
		vdev->ops->queue_kick(vdev, kick->q);
	}
	device_unlock(&vdev->dev);
}

/* Where the accelerator can, the guest's notify write goes to the eventfd without a vCPU exit. */
static int ioeventfd(struct virtio_dev *vdev, u16 q, bool add, struct err *e)
{
	struct vm *vm = vdev->dev.vm;
	u64 addr = vdev->dev.slot.mmio_base + VIRTIO_MMIO_QUEUE_NOTIFY;

	return vm->accel->ioeventfd ? vm->accel->ioeventfd(vm, vdev->queues[q].kick_fd, addr, 4, q, add, e) : 0;
}

static int init_queue(struct virtio_dev *vdev, u16 i, struct err *e)
{
	struct virtq *q = &vdev->queues[i];
	struct virtio_kick *kick = &vdev->kicks[i];
	int ret;

	q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (q->kick_fd < 0)
		return err_errno(e, "%s: cannot make an eventfd for queue %u", vdev->dev.id, i);
	*kick = (struct virtio_kick){.watch = {.fd = q->kick_fd, .ready = kicked}, .vdev = vdev, .q = i};
	/* Edge-triggered: each write of the eventfd is an event, and nobody has to read it. */
	ret = loop_watch(&vdev->dev.vm->loop, &kick->watch, EPOLLIN | EPOLLET, e);
	if (ret == 0)
		ret = ioeventfd(vdev, i, true, e);
	if (ret < 0) {
		/* virtio_fini takes back the ioeventfds of queues that have a descriptor. */
		loop_unwatch(&kick->watch);
		fd_close(&q->kick_fd);
	}
	return ret;
}

int virtio_init(struct virtio_dev *vdev, u16 nr_queues, struct err *e)
{
	const struct dev_slot *slot = &vdev->dev.slot;
	struct vm *vm = vdev->dev.vm;
	int ret = 0;

	ASSERT(vdev->ops && vdev->ops->activate && vdev->ops->queue_kick && vdev->ops->reset);
	ASSERT(nr_queues && nr_queues <= VIRTIO_MAX_QUEUES);
	vdev->features |= CORE_FEATURES;
	vdev->nr_queues = nr_queues;
	vdev->queues = xzalloc(nr_queues * sizeof(*vdev->queues));
	vdev->kicks = xzalloc(nr_queues * sizeof(*vdev->kicks));
	for (u16 i = 0; i < nr_queues; i++)
		vdev->queues[i] = (struct virtq){.vdev = vdev, .index = i, .kick_fd = -1};
	for (u16 i = 0; ret == 0 && i < nr_queues; i++)
		ret = init_queue(vdev, i, e);
	if (ret == 0 && slot->has_gsi)
		ret = irq_init_edge(&vdev->irq, vm, slot->gsi, e);
	/* Last: a range on the bus cannot be taken back. */
	if (ret == 0)
		ret = bus_add(vm, BUS_MMIO, slot->mmio_base, slot->mmio_len, &vdev->dev, &virtio_mmio_ops, e);
	if (ret < 0)
		virtio_fini(vdev);
	return ret;
}

void virtio_fini(struct virtio_dev *vdev)
{
	for (u16 i = 0; vdev->queues && i < vdev->nr_queues; i++) {
		if (vdev->queues[i].kick_fd < 0)
			continue;
		ioeventfd(vdev, i, false, NULL);
		loop_unwatch(&vdev->kicks[i].watch);
		fd_close(&vdev->queues[i].kick_fd);
	}
	irq_fini(&vdev->irq);
	free(vdev->queues);
	free(vdev->kicks);
	vdev->queues = NULL;
	vdev->kicks = NULL;
}

/* ---- interrupts and kicks ---- */

static void interrupt(struct virtio_dev *vdev, u32 bit)
{
	trace(vdev->dev.vm->trace, virtio_interrupt, "dev=%s isr=%u", vdev->dev.id, bit);
	/* Released before the edge, so that the handler which the edge starts reads this bit and all that was written before. */
	__atomic_fetch_or(&vdev->isr, bit, __ATOMIC_RELEASE);
	irq_pulse(&vdev->irq);
}

void virtio_interrupt(struct virtio_dev *vdev)
{
	interrupt(vdev, VIRTIO_ISR_USED);
}

void virtio_config_changed(struct virtio_dev *vdev)
{
	vdev->config_generation++;
	trace(vdev->dev.vm->trace, virtio_config_changed, "dev=%s generation=%u", vdev->dev.id, vdev->config_generation);
	if (vdev->live)
		interrupt(vdev, VIRTIO_ISR_CONFIG);
}

/* Once is enough: the rest follows from the first mistake, and the driver can do no more about it. */
void virtio_broken(struct virtio_dev *vdev, const char *fmt, ...)
{
	struct device *dev = &vdev->dev;
	char what[192];
	va_list ap;

	if (vdev->status & VIRTIO_S_NEEDS_RESET)
		return;
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	trace(dev->vm->trace, virtio_broken, "dev=%s %s", dev->id, what);
	log_guest(dev->vm->log, &dev->guest_log, "%s: stopped until the guest's driver resets it: %s", dev->id, what);
	vdev->status |= VIRTIO_S_NEEDS_RESET;
	/* virtio 1.2 §2.1.2: told through the configuration interrupt, once the driver is ready for it. */
	if (vdev->status & VIRTIO_S_DRIVER_OK)
		interrupt(vdev, VIRTIO_ISR_CONFIG);
}

static void kick(const struct virtq *q)
{
	/* The counter is never read: it is full after 2^64 - 2 kicks. */
	if (eventfd_write(q->kick_fd, 1) < 0)
		ASSERT(errno == EAGAIN);
}

void virtio_kick_all(struct virtio_dev *vdev)
{
	for (u16 i = 0; i < vdev->nr_queues; i++)
		kick(&vdev->queues[i]);
}

void virtio_resume(struct virtio_dev *vdev)
{
	device_lock(&vdev->dev);
	if (vdev->restored && (vdev->live || __atomic_load_n(&vdev->isr, __ATOMIC_RELAXED)))
		interrupt(vdev, vdev->live ? VIRTIO_ISR_USED : 0);
	vdev->restored = false;
	device_unlock(&vdev->dev);
	virtio_kick_all(vdev);
}

void virtio_notify_queue(struct virtio_dev *vdev, u32 q)
{
	if (q < vdev->nr_queues && vdev->queues[q].enabled)
		kick(&vdev->queues[q]);
	else
		log_guest(vdev->dev.vm->log, &vdev->dev.guest_log, "%s: the guest notifies queue %u, which is not there", vdev->dev.id, q);
}

/* ---- features and status ---- */

void virtio_set_driver_features(struct virtio_dev *vdev, u32 sel, u32 val)
{
	u64 keep = sel ? (u32)vdev->driver_features : vdev->driver_features & ~(u64)UINT32_MAX;

	if (vdev->status & VIRTIO_S_FEATURES_OK || (sel > 1 && val)) {
		log_guest(vdev->dev.vm->log, &vdev->dev.guest_log, "%s: the guest sets features %u:%#x, which cannot be set (any more)",
			  vdev->dev.id, sel, val);
		return;
	}
	if (sel <= 1)
		vdev->driver_features = keep | (u64)val << (sel * 32);
}

static bool features_acceptable(const struct virtio_dev *vdev)
{
	return virtio_has(vdev, VIRTIO_F_VERSION_1) && !(vdev->driver_features & ~vdev->features);
}

/* Checks the queues and starts the device. */
static void driver_ok(struct virtio_dev *vdev)
{
	int ret;

	if (vdev->resetting)
		return; /* virtio_reset_done comes back here */
	for (u16 i = 0; i < vdev->nr_queues; i++) {
		if (vdev->queues[i].enabled && virtq_start(&vdev->queues[i]) < 0)
			return;
	}
	trace(vdev->dev.vm->trace, virtio_activate, "dev=%s features=%#llx", vdev->dev.id, (unsigned long long)vdev->driver_features);
	vdev->live = true;
	ret = vdev->ops->activate(vdev);
	if (ret < 0) {
		vdev->live = false;
		virtio_broken(vdev, "cannot start: %s", strerror(-ret));
		return;
	}
	/* Buffers, and kicks, may have come before; the loop dropped those kicks. */
	virtio_kick_all(vdev);
}

/* All that a driver sets goes back to what it was at power-on, but for the configuration generation (virtio 1.2 §2.4.1). */
static void reset(struct virtio_dev *vdev)
{
	bool was_live = vdev->live;

	trace(vdev->dev.vm->trace, virtio_reset, "dev=%s live=%d", vdev->dev.id, (int)was_live);
	vdev->live = false; /* before ops->reset: what it ends must not show up in the rings */
	if (was_live)
		vdev->resetting = !vdev->ops->reset(vdev);
	vdev->status = 0;
	vdev->driver_features = 0;
	vdev->features_sel = vdev->driver_features_sel = vdev->queue_sel = 0;
	__atomic_store_n(&vdev->isr, 0, __ATOMIC_RELAXED);
	for (u16 i = 0; i < vdev->nr_queues; i++)
		virtq_reset(&vdev->queues[i]);
}

void virtio_reset_done(struct virtio_dev *vdev)
{
	ASSERT(vdev->resetting);
	vdev->resetting = false;
	trace(vdev->dev.vm->trace, virtio_reset_done, "dev=%s", vdev->dev.id);
	if (vdev->status & VIRTIO_S_DRIVER_OK && !(vdev->status & VIRTIO_S_NEEDS_RESET))
		driver_ok(vdev);
}

u8 virtio_get_status(const struct virtio_dev *vdev)
{
	return vdev->resetting && !vdev->status ? VIRTIO_S_NEEDS_RESET : vdev->status;
}

/* May the driver write val? It keeps the bits it has set, and sets others in the order of virtio 1.2 §3.1.1; DRIVER_OK comes in a write of
 * its own, as the driver has to read back FEATURES_OK. */
static bool status_allowed(u8 old, u32 val)
{
	if (val & ~(u32)DRIVER_BITS || old & DRIVER_BITS & ~val)
		return false;
	if (val & VIRTIO_S_DRIVER && !(val & VIRTIO_S_ACKNOWLEDGE))
		return false;
	if (val & VIRTIO_S_FEATURES_OK && !(val & VIRTIO_S_DRIVER))
		return false;
	return !(val & VIRTIO_S_DRIVER_OK) || old & VIRTIO_S_FEATURES_OK;
}

void virtio_set_status(struct virtio_dev *vdev, u32 val)
{
	struct device *dev = &vdev->dev;
	u8 old = vdev->status, added;

	trace(dev->vm->trace, virtio_status, "dev=%s %#x -> %#x", dev->id, old, val);
	if (!val) {
		reset(vdev);
		return;
	}
	/* FEATURES_OK that was refused just stays clear: the driver reads back and may try other features. */
	val &= ~(u32)VIRTIO_S_NEEDS_RESET; /* the device's own; drivers write back what they read */
	if (!status_allowed(old, val)) {
		log_guest(dev->vm->log, &dev->guest_log, "%s: the guest sets status %#x, which cannot follow %#x", dev->id, val, old);
		return;
	}
	added = (u8)(val & ~old);
	if (added & VIRTIO_S_FEATURES_OK && !features_acceptable(vdev)) {
		log_guest(dev->vm->log, &dev->guest_log, "%s: the guest wants features %#llx of %#llx, or not VERSION_1", dev->id,
			  (unsigned long long)vdev->driver_features, (unsigned long long)vdev->features);
		added &= (u8)~VIRTIO_S_FEATURES_OK;
	}
	vdev->status |= added;
	if (added & VIRTIO_S_DRIVER_OK && !(old & VIRTIO_S_NEEDS_RESET))
		driver_ok(vdev);
}
