/*
 * acpi_power.c: the registers through which a guest with ACPI ends the VM: sleep control and status (ACPI 6.4 §4.8.3.7) and reset
 * (§4.8.3.6), one I/O port each.
 */
#include <stdlib.h>

#include "arch/x86_64/x86.h"

#define SLP_EN	      BIT(5)
#define SLP_TYPE(v)   (((v) >> 2) & 7)
#define SLEEP_CONTROL (X86_PIO_SLEEP_CONTROL - X86_PIO_SLEEP_CONTROL)
#define SLEEP_STATUS  (X86_PIO_SLEEP_STATUS - X86_PIO_SLEEP_CONTROL)
#define RESET	      (X86_PIO_RESET - X86_PIO_SLEEP_CONTROL)
_Static_assert(SLEEP_CONTROL == 0 && SLEEP_STATUS == 1 && RESET == 2, "one range of three ports");

static void power_read(struct device *dev, u64 offset, void *data, u32 len)
{
	(void)dev;
	(void)offset;
	if (len == 1)
		*(u8 *)data = 0; /* no wake status: a guest does not come back from S5 */
}

static void power_write(struct device *dev, u64 offset, const void *data, u32 len)
{
	u8 v = *(const u8 *)data;

	if (len != 1)
		return;
	if (offset == RESET && v == X86_RESET_VALUE)
		vm_end(dev->vm, VM_END_REBOOT);
	else if (offset == SLEEP_CONTROL && (v & SLP_EN) && SLP_TYPE(v) == X86_SLEEP_TYPE_S5)
		vm_end(dev->vm, VM_END_POWEROFF);
}

static const struct bus_ops power_ops = {.read = power_read, .write = power_write};

static void power_destroy(struct device *dev)
{
	device_fini(dev);
	free(dev);
}

static int power_create(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct device **out,
			struct err *e)
{
	struct device *dev = xzalloc(sizeof(*dev));
	int ret;

	(void)cfg;
	device_init(dev, vm, cls, cls->name, slot);
	ret = bus_add(vm, BUS_PIO, slot->pio_base, slot->pio_len, dev, &power_ops, e);
	if (ret < 0) {
		power_destroy(dev);
		return ret;
	}
	*out = dev;
	return 0;
}

const struct device_class acpi_power_class = {
	.name = "acpi_power",
	.create = power_create,
	.destroy = power_destroy,
};
