/*
 * vmgenid.c: the VM generation ID: 16 random bytes in guest memory (slot.mmio_base) that ACPI points the guest to. They differ between any
 * two lives of a VM, so that a guest that wakes from a copied memory image reseeds its random number generator.
 * ("Virtual Machine Generation ID", Microsoft, 2012.)
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "vmm/vm.h"

#define VMGENID_SIZE 16

static void vmgenid_destroy(struct device *dev)
{
	device_fini(dev);
	free(dev);
}

static int vmgenid_create(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct device **out,
			  struct err *e)
{
	u8 guid[VMGENID_SIZE];
	struct device *dev;

	(void)cfg;
	if (getrandom(guid, sizeof(guid), 0) != (ssize_t)sizeof(guid))
		return err_errno(e, "cannot get random bytes for the VM generation ID");
	if (mem_write(&vm->mem, slot->mmio_base, guid, sizeof(guid)) < 0)
		return err_set(e, -EFAULT, "the VM generation ID at %#llx lies outside of guest memory",
			       (unsigned long long)slot->mmio_base);
	dev = xzalloc(sizeof(*dev));
	device_init(dev, vm, cls, cls->name, slot);
	*out = dev;
	return 0;
}

const struct device_class vmgenid_class = {
	.name = "vmgenid",
	.acpi_hid = "VMGENCTR",
	.create = vmgenid_create,
	.destroy = vmgenid_destroy,
};
