/*
 * vmgenid.c: the VM generation ID: 16 random bytes in guest memory (slot.mmio_base) that ACPI points the guest to. They differ between any
 * two lives of a VM, so that a guest that wakes from a copied memory image reseeds its random number generator.
 * ("Virtual Machine Generation ID", Microsoft, 2012.)
 *
 *   booted    a new ID before the guest looks
 *   restored  a new ID when the guest is resumed for the first time, and an interrupt that says so: this state may be run again, elsewhere
 *   moved, restored with keep_generation   the ID that its memory has: it is the same VM
 *
 * The ID is all there is, and memory has it: nothing is saved.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "vmm/vm.h"

#define VMGENID_SIZE 16

struct vmgenid {
	struct device dev; /* first */
	struct irq irq;
	u8 id[VMGENID_SIZE];
	bool due; /* the guest is still to get it */
};

static struct vmgenid *to_vmgenid(struct device *dev)
{
	return container_of(dev, struct vmgenid, dev);
}

static int put(struct vmgenid *g, struct err *e)
{
	u64 gpa = g->dev.slot.mmio_base;

	if (mem_write(&g->dev.vm->mem, gpa, g->id, sizeof(g->id)) < 0)
		return err_set(e, -EFAULT, "the VM generation ID at %#llx lies outside of guest memory", (unsigned long long)gpa);
	return 0;
}

static void vmgenid_destroy(struct device *dev)
{
	struct vmgenid *g = to_vmgenid(dev);

	irq_fini(&g->irq);
	device_fini(dev);
	free(g);
}

static int prepare(struct vmgenid *g, struct err *e)
{
	const struct device *dev = &g->dev;

	if (getrandom(g->id, sizeof(g->id), 0) != (ssize_t)sizeof(g->id))
		return err_errno(e, "cannot get random bytes for the VM generation ID");
	g->due = dev->vm->origin == VM_RESTORED && !dev->vm->restore->keep_generation;
	if (dev->vm->origin == VM_BOOTED)
		return put(g, e);
	return g->due && dev->slot.has_gsi ? irq_init_edge(&g->irq, dev->vm, dev->slot.gsi, e) : 0;
}

static int vmgenid_create(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct device **out,
			  struct err *e)
{
	struct vmgenid *g = xzalloc(sizeof(*g));
	int ret;

	(void)cfg;
	device_init(&g->dev, vm, cls, cls->name, slot);
	ret = prepare(g, e);
	if (ret < 0) {
		vmgenid_destroy(&g->dev);
		return ret;
	}
	*out = &g->dev;
	return 0;
}

/* Once: later pauses do not copy the VM. What a snapshot of a VM that was never resumed has is replaced when that one is restored. */
static void vmgenid_resume(struct device *dev)
{
	struct vmgenid *g = to_vmgenid(dev);
	struct err e;

	if (!g->due)
		return;
	g->due = false;
	if (put(g, &e) < 0)
		log_error(dev->vm->log, "%s", e.msg); /* no: the memory map is the same as when it booted */
	else
		irq_pulse(&g->irq);
}

const struct device_class vmgenid_class = {
	.name = "vmgenid",
	.acpi_hid = "VMGENCTR",
	.create = vmgenid_create,
	.destroy = vmgenid_destroy,
	.resume = vmgenid_resume,
};
