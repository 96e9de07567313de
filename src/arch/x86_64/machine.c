/* machine.c: the x86-64 microVM: memory map, platform devices, virtio-mmio slots. Boot is in boot.c. */
#include "vmm/machine.h"

#include <errno.h>
#include <stdlib.h>

#include "arch/x86_64/x86.h"
#include "vmm/config.h"

u32 machine_memory_map(u64 ram_size, struct mem_range *ranges)
{
	ranges[0] = (struct mem_range){0, MIN(ram_size, X86_HOLE_START)};
	if (ram_size <= X86_HOLE_START)
		return 1;
	ranges[1] = (struct mem_range){X86_HOLE_END, ram_size - X86_HOLE_START};
	return 2;
}

u64 machine_place_memory(const struct mem *m)
{
	const struct mem_region *last = &m->regions[m->nr_regions - 1];

	return ALIGN_UP(MAX(last->gpa + last->size, X86_HOLE_END), 2 * MIB);
}

u32 e820_build(const struct mem *m, struct e820_entry *map)
{
	u32 n = 0;

	map[n++] = (struct e820_entry){0, X86_LOW_RAM_END, E820_RAM};
	map[n++] = (struct e820_entry){X86_LOW_RAM_END, X86_HIGH_RAM_GPA - X86_LOW_RAM_END, E820_RESERVED};
	for (u32 i = 0; i < m->nr_regions; i++) {
		u64 start = MAX(m->regions[i].gpa, X86_HIGH_RAM_GPA), end = m->regions[i].gpa + m->regions[i].size;

		if (m->regions[i].ram && start < end)
			map[n++] = (struct e820_entry){start, end - start, E820_RAM};
	}
	return n;
}

static const struct platform_device {
	const char *class;
	struct dev_slot slot;
	bool boot_timer; /* made when the configuration asks for it */
} platform[] = {
	{.class = "uart16550", .slot = {.pio_base = X86_PIO_COM1, .pio_len = 8, .gsi = X86_GSI_COM1, .has_gsi = true}},
	{.class = "i8042", .slot = {.pio_base = X86_PIO_I8042, .pio_len = 5, .gsi = X86_GSI_I8042, .has_gsi = true}},
	{.class = "rtc_cmos", .slot = {.pio_base = X86_PIO_RTC, .pio_len = 2}},
	{.class = "pvpanic", .slot = {.pio_base = X86_PIO_PVPANIC, .pio_len = 1}},
	{.class = "vmgenid", .slot = {.mmio_base = X86_VMGENID_GPA, .mmio_len = 16, .gsi = X86_GSI_VMGENID, .has_gsi = true}},
	{.class = "boot_timer", .slot = {.mmio_base = X86_BOOT_TIMER_GPA, .mmio_len = 0x1000}, .boot_timer = true},
};

/* A platform device that has a section in the configuration (serial) gets its object. */
static int add_platform_device(struct vm *vm, const struct platform_device *p, struct err *e)
{
	const struct device_class *cls = device_class_find(p->class);
	const struct cfg_list *list;

	ASSERT(cls);
	list = cls->section ? config_devices(vm->config, cls) : NULL;
	return vm_add_device(vm, cls, list && list->nr ? list->items : NULL, &p->slot, e);
}

int machine_init(struct vm *vm, struct err *e)
{
	const struct dev_slot power = {.pio_base = X86_PIO_SLEEP_CONTROL, .pio_len = 3};
	int ret;

	vm->machine = xzalloc(sizeof(*vm->machine));
	ret = irq_init_edge(&vm->machine->power_button, vm, X86_GSI_POWER, e);
	if (ret == 0)
		ret = vm_add_device(vm, &acpi_power_class, NULL, &power, e);
	for (u32 i = 0; ret == 0 && i < ARRAY_SIZE(platform); i++) {
		if (!platform[i].boot_timer || vm->config->boot_timer)
			ret = add_platform_device(vm, &platform[i], e);
	}
	return ret;
}

void machine_fini(struct vm *vm)
{
	if (!vm->machine)
		return;
	irq_fini(&vm->machine->power_button);
	free(vm->machine->caps);
	free(vm->machine);
	vm->machine = NULL;
}

/*
 * The n-th GSI of the pool, round and round: more devices than pins share them. Sharing a pulsed edge line loses no interrupt: the line is
 * never held, each device's pulse makes an edge of its own, and it sets its bit in InterruptStatus before the pulse. The kernel runs all
 * handlers of the line for an edge, each looks at its own status; an edge that comes meanwhile is latched and runs them all again.
 */
static u32 virtio_gsi(u32 n)
{
	u32 gsi = X86_GSI_VIRTIO_FIRST, nr = 0;
	u8 pool[X86_IOAPIC_PINS];

	for (; gsi <= X86_GSI_VIRTIO_LAST; gsi++) {
		if (gsi != X86_GSI_RTC && gsi != X86_GSI_POWER)
			pool[nr++] = (u8)gsi;
	}
	return pool[n % nr];
}

int machine_slot(struct vm *vm, struct dev_slot *slot, struct err *e)
{
	u32 n = vm->machine->nr_slots;

	if (n == X86_VIRTIO_SLOTS)
		return err_set(e, -ENOSPC, "this machine has room for %u virtio devices; take some out of the configuration",
			       X86_VIRTIO_SLOTS);
	*slot = (struct dev_slot){
		.mmio_base = X86_VIRTIO_GPA + n * X86_VIRTIO_STEP,
		.mmio_len = X86_VIRTIO_STEP,
		.gsi = virtio_gsi(n),
		.has_gsi = true,
	};
	vm->machine->nr_slots++;
	return 0;
}

/* By ACPI. Whether the guest listens cannot be seen from here. */
int machine_power_button(struct vm *vm, struct err *e)
{
	(void)e;
	irq_pulse(&vm->machine->power_button);
	return 0;
}

int machine_dtb(const struct config *c, struct buf *out, struct err *e)
{
	(void)c;
	(void)out;
	return err_set(e, -EOPNOTSUPP, "an x86-64 machine is described by ACPI tables; there is no device tree");
}
