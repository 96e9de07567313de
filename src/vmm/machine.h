/*
 * machine.h: what each architecture provides (src/arch/<arch>/machine.c; the build picks one).
 * It owns the memory map, the platform devices, the slots that virtio-mmio devices sit in, firmware tables and the boot protocol.
 * ctx: before start, unless said otherwise.
 */
#ifndef HUSK_MACHINE_H
#define HUSK_MACHINE_H

#include "vmm/device.h"
#include "vmm/mem.h"
#include "vmm/vcpu.h"

struct arch_cpu_caps;
struct buf;
struct cfg_place;
struct config;
struct chip_state;
struct state_section;
struct state_table;

/* Fills ranges (at most MEM_MAX_REGIONS) for ram_size bytes; returns how many. */
u32 machine_memory_map(u64 ram_size, struct mem_range *ranges);
/* Refuses, by name, what of the sections without a device is for other architectures. top: the whole configuration. ctx: any */
int machine_check_config(const struct config *c, const struct cfg_place *top, struct err *e) MUST_CHECK;
/* Where the next region of memory that a device brings goes (virtio-pmem, virtio-mem): behind all that there is, not in the memory map that
 * the kernel gets, a multiple of 2 MiB. */
u64 machine_place_memory(const struct mem *m);
/* Makes the platform devices (serial, RTC, reset, ...) of this machine, by class name, in vm->devices. */
int machine_init(struct vm *vm, struct err *e) MUST_CHECK;
void machine_fini(struct vm *vm);
/* The next free virtio-mmio slot. -ENOSPC when the machine is full. */
int machine_slot(struct vm *vm, struct dev_slot *slot, struct err *e) MUST_CHECK;
/* Loads kernel and initrd, writes tables, sets the canonical state of all vCPUs (cpu_state) to the start of the boot. */
int machine_boot(struct vm *vm, struct err *e) MUST_CHECK;
/* Appends the device tree of the machine that c describes, as a guest without boot files would get it: no initrd, no seed, and the command
 * line without what devices add. -EOPNOTSUPP: this architecture has none. ctx: any */
int machine_dtb(const struct config *c, struct buf *out, struct err *e) MUST_CHECK;
/* Asks the guest to shut down (power button). -ENODEV: the guest does not listen to it. ctx: loop */
int machine_power_button(struct vm *vm, struct err *e);

/* Sections of vCPUs, interrupt chips and clocks (vcpu_pull and vm_pull were called before they are saved; their load pushes), appended to
 * out (room for VM_MAX_VCPUS + 8) in the order in which they load; returns how many. */
u32 machine_sections(struct vm *vm, struct state_section *out);
/* Their tables, NULL-ended. */
extern const struct state_table *const machine_tables[];
/* The canonical state of chips and clocks, and its release. */
struct chip_state *machine_chips_new(void);
void machine_chips_free(struct chip_state *c);

/* The canonical vCPU state: its size, for vcpus_init, and its release. */
struct cpu_state *machine_cpu_new(void);
void machine_cpu_free(struct cpu_state *c);

#endif
