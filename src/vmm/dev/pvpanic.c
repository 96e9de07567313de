/*
 * pvpanic.c: one port, or byte of MMIO, through which a guest's kernel says that it panicked, or that it shuts down (QEMU
 * docs/specs/pvpanic). A guest without ACPI sleep states ends the VM this way instead of halting for ever.
 */
#include <stdlib.h>

#include "vmm/vm.h"

#define PVPANIC_PANICKED     0x01
#define PVPANIC_CRASH_LOADED 0x02 /* panicked, and its crash kernel takes over: the VM goes on */
#define PVPANIC_SHUTDOWN     0x04
#define PVPANIC_EVENTS	     (PVPANIC_PANICKED | PVPANIC_CRASH_LOADED | PVPANIC_SHUTDOWN)

static void pvpanic_read(struct device *dev, u64 offset, void *data, u32 len)
{
	(void)dev;
	(void)offset;
	if (len == 1)
		*(u8 *)data = PVPANIC_EVENTS;
}

static void pvpanic_write(struct device *dev, u64 offset, const void *data, u32 len)
{
	u8 events = *(const u8 *)data;

	(void)offset;
	if (len != 1)
		return;
	if (events & PVPANIC_CRASH_LOADED) {
		log_guest(dev->vm->log, &dev->guest_log, "the guest's kernel panicked and boots its crash kernel");
	} else if (events & PVPANIC_PANICKED) {
		log_error(dev->vm->log, "the guest's kernel panicked");
		vm_end(dev->vm, VM_END_PANIC);
	} else if (events & PVPANIC_SHUTDOWN) {
		vm_end(dev->vm, VM_END_POWEROFF);
	}
}

static const struct bus_ops pvpanic_ops = {.read = pvpanic_read, .write = pvpanic_write};

static void pvpanic_destroy(struct device *dev)
{
	device_fini(dev);
	free(dev);
}

static int pvpanic_create(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct device **out,
			  struct err *e)
{
	struct device *dev = xzalloc(sizeof(*dev));
	int ret;

	(void)cfg;
	device_init(dev, vm, cls, cls->name, slot);
	if (slot->pio_len)
		ret = bus_add(vm, BUS_PIO, slot->pio_base, slot->pio_len, dev, &pvpanic_ops, e);
	else
		ret = bus_add(vm, BUS_MMIO, slot->mmio_base, slot->mmio_len, dev, &pvpanic_ops, e);
	if (ret < 0) {
		pvpanic_destroy(dev);
		return ret;
	}
	*out = dev;
	return 0;
}

const struct device_class pvpanic_class = {
	.name = "pvpanic",
	.acpi_hid = "QEMU0001",
	.create = pvpanic_create,
	.destroy = pvpanic_destroy,
};
