/*
 * x86.h: what the files of this directory share: the machine, and the steps of building and booting it.
 * ctx: before start
 */
#ifndef HUSK_X86_H
#define HUSK_X86_H

#include "arch/x86_64/cpu.h"
#include "arch/x86_64/layout.h"
#include "vmm/vm.h"

struct machine {
	u32 nr_slots;		 /* virtio-mmio slots given out */
	struct irq power_button; /* pulsed: the guest's power button was pressed */
	/* state.c, while a state is loaded */
	struct arch_cpu_caps *caps; /* owned; what the accelerator can do, or NULL */
	u64 clock_jump_ns;	    /* the guest's clocks jump ahead by that */
};

/* One line of the memory map that the guest's kernel gets: e820 and PVH use the same type numbers. */
struct e820_entry {
	u64 addr, size;
	u32 type;
};
#define E820_RAM	 1u
#define E820_RESERVED	 2u
#define E820_MAX_ENTRIES (MEM_MAX_REGIONS + 2)

/* Fills map (E820_MAX_ENTRIES) from the guest's RAM; returns how many. */
u32 e820_build(const struct mem *m, struct e820_entry *map);

/* Writes RSDP, XSDT, FADT, MADT and DSDT. The DSDT names each device whose class has an ACPI id. */
int acpi_write(struct vm *vm, struct err *e) MUST_CHECK;
/* Writes the MP table (Intel MultiProcessor Specification 1.4), for kernels that run without ACPI. */
int mptable_write(struct vm *vm, struct err *e) MUST_CHECK;

/* The registers behind the ACPI tables: reset, sleep. Made by machine_init. */
extern const struct device_class acpi_power_class;

/* Sets *c to what a processor is after RESET (SDM 3A table 9-1): BSP runnable, others wait for INIT and SIPI. */
void x86_cpu_reset(struct cpu_state *c, u32 index);
/* From reset to 64-bit mode at rip, with the tables that paging_write made; Linux' 64-bit boot protocol. rsi: the zero page. */
void x86_cpu_enter_long(struct cpu_state *c, u64 rip, u64 rsi);
/* From reset to flat 32-bit protected mode at rip; PVH. rbx: the start info. */
void x86_cpu_enter_pvh(struct cpu_state *c, u64 rip, u64 rbx);
/* Writes page tables at X86_PML4_GPA that map the first 4 GiB to themselves, and the GDT of both entries. */
int paging_write(struct mem *m, struct err *e) MUST_CHECK;

#endif
