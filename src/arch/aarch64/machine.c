/* machine.c: the arm64 microVM: memory map, platform devices, virtio-mmio slots. Boot is in boot.c. */
#include "vmm/machine.h"

#include <errno.h>
#include <stdlib.h>

#include "arch/aarch64/arm.h"
#include "vmm/config.h"

#define RAM_BELOW_HOLE (ARM_HOLE_START - ARM_RAM_GPA)

u32 machine_memory_map(u64 ram_size, struct mem_range *ranges)
{
	ranges[0] = (struct mem_range){ARM_RAM_GPA, MIN(ram_size, RAM_BELOW_HOLE)};
	if (ram_size <= RAM_BELOW_HOLE)
		return 1;
	ranges[1] = (struct mem_range){ARM_HOLE_END, ram_size - RAM_BELOW_HOLE};
	return 2;
}

u64 machine_place_memory(const struct mem *m)
{
	const struct mem_region *last = &m->regions[m->nr_regions - 1];

	return ALIGN_UP(last->gpa + last->size, 2 * MIB);
}

static const struct platform_device {
	const char *class;
	struct dev_slot slot;
	bool boot_timer; /* made when the configuration asks for it */
} platform[] = {
	{.class = "uart16550", .slot = {.mmio_base = ARM_SERIAL_GPA, .mmio_len = 8, .gsi = ARM_GSI_SERIAL, .has_gsi = true}},
	{.class = "rtc_pl031", .slot = {.mmio_base = ARM_RTC_GPA, .mmio_len = ARM_MMIO_STEP, .gsi = ARM_GSI_RTC, .has_gsi = true}},
	{.class = "gpio_pl061", .slot = {.mmio_base = ARM_GPIO_GPA, .mmio_len = ARM_MMIO_STEP, .gsi = ARM_GSI_GPIO, .has_gsi = true}},
	{.class = "pvpanic", .slot = {.mmio_base = ARM_PVPANIC_GPA, .mmio_len = 2}},
	{.class = "vmgenid", .slot = {.mmio_base = ARM_VMGENID_GPA, .mmio_len = 16, .gsi = ARM_GSI_VMGENID, .has_gsi = true}},
	{.class = "boot_timer", .slot = {.mmio_base = ARM_BOOT_TIMER_GPA, .mmio_len = ARM_MMIO_STEP}, .boot_timer = true},
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
	int ret = 0;

	vm->machine = xzalloc(sizeof(*vm->machine));
	for (u32 i = 0; ret == 0 && i < ARRAY_SIZE(platform); i++) {
		if (!platform[i].boot_timer || vm->config->boot_timer)
			ret = add_platform_device(vm, &platform[i], e);
	}
	return ret;
}

void machine_fini(struct vm *vm)
{
	if (vm->machine)
		free(vm->machine->host);
	free(vm->machine);
	vm->machine = NULL;
}

int machine_slot(struct vm *vm, struct dev_slot *slot, struct err *e)
{
	u32 n = vm->machine->nr_slots;

	if (n == ARM_VIRTIO_SLOTS)
		return err_set(e, -ENOSPC, "this machine has room for %u virtio devices; take some out of the configuration",
			       ARM_VIRTIO_SLOTS);
	*slot = (struct dev_slot){
		.mmio_base = ARM_VIRTIO_GPA + n * ARM_MMIO_STEP,
		.mmio_len = ARM_MMIO_STEP,
		.gsi = ARM_GSI_VIRTIO_FIRST + n,
		.has_gsi = true,
	};
	vm->machine->nr_slots++;
	return 0;
}

int machine_power_button(struct vm *vm, struct err *e)
{
	return vm_ask_device(vm, "gpio_pl061", "/power-button", e);
}
