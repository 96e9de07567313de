/*
 * accel.h: what runs guest code: "kvm" or "tcg". Chosen once, in vm_init; the rest of husk sees only this table.
 * Entries are mandatory unless marked optional (NULL = the accelerator has none).
 */
#ifndef HUSK_ACCEL_H
#define HUSK_ACCEL_H

#include "vmm/mem.h"
#include "vmm/sandbox.h"
#include "vmm/vcpu.h"

struct counter_desc;  /* device.h */
struct arch_cpu_caps; /* arch/<arch>/cpu.h: what the accelerator can show the guest (CPUID on x86) */

struct accel_ops {
	const char *name;
	const struct counter_desc *counters; /* of one vCPU, offsets from vcpu->accel; may be NULL */
	/* Runs guest code at the host's speed: a bzImage unpacks itself as fast as husk could, and the guest starts sooner. */
	bool native;
	/* Asks mem->fetch before guest code touches a page: memory can come page by page without userfaultfd. */
	bool soft_fetch;
	/* What vCPU and loop threads ask of the kernel for it once the guest runs, beyond sandbox_lists.c. */
	struct sandbox_need vcpu_needs, loop_needs;
	/* Usable here? Runs a self-test of a few milliseconds and leaves nothing behind. -ENODEV missing, -EACCES forbidden, -ENOSYS too
	 * old, -EOPNOTSUPP there but of no use (it only emulates); e says why and what to do. */
	int (*probe)(struct err *e);

	int (*vm_init)(struct vm *vm, struct err *e); /* also the interrupt chips */
	void (*vm_fini)(struct vm *vm);
	int (*mem_map)(struct vm *vm, const struct mem_region *r, struct err *e);

	/* ctx: the thread that builds the VM */
	int (*vcpu_init)(struct vcpu *v, struct err *e);
	void (*vcpu_fini)(struct vcpu *v);
	/* ctx: vcpu. Runs guest code until something needs the caller. I/O goes to bus_read/bus_write from inside. */
	enum vcpu_exit (*vcpu_run)(struct vcpu *v);
	/* Makes vcpu_run return soon, also when it is entered after the kick. ctx: any, async-signal-safe */
	void (*vcpu_kick)(struct vcpu *v);
	/* Accelerator -> v->cpu and back: everything that a vCPU is. ctx: any thread while the vCPU is parked, or before start */
	int (*vcpu_pull)(struct vcpu *v, struct err *e);
	int (*vcpu_push)(struct vcpu *v, struct err *e);

	/* The same for what the VM has once: interrupt chips and clocks, vm->chips (arch/<arch>/vm_state.h). vm_push comes after all vCPUs
	 * were pushed. ctx: loop, all vCPUs parked, clock paused */
	int (*vm_pull)(struct vm *vm, struct err *e);
	int (*vm_push)(struct vm *vm, struct err *e);

	/* Optional: without it the accelerator serves no debugger. How the vCPU is to run from now on (debug.h). After a push: it may
	 * change the registers. ctx: loop, the vCPU is parked */
	int (*vcpu_debug)(struct vcpu *v, const struct vcpu_debug *d, struct err *e);

	/* What of the CPU the accelerator can show to the guest, into *caps. ctx: before start */
	int (*cpu_caps)(struct vm *vm, struct arch_cpu_caps *caps, struct err *e);

	/* Sets a level on an interrupt line. ctx: any */
	void (*irq_line)(struct vm *vm, u32 gsi, bool level);
	/* Dirty pages of a region since the last call, ORed into bitmap (mem_bitmap_words). Log switched on and off by dirty_log. */
	int (*dirty_log)(struct vm *vm, bool on, struct err *e);
	int (*dirty_get)(struct vm *vm, const struct mem_region *r, u64 *bitmap, struct err *e);

	/* Optional. An eventfd whose write pulses gsi. */
	int (*irqfd)(struct vm *vm, int fd, u32 gsi, bool add, struct err *e);
	/* Optional. An eventfd that a guest write of `value` (len bytes) at addr signals, without a vCPU exit. */
	int (*ioeventfd)(struct vm *vm, int fd, u64 addr, u32 len, u64 value, bool add, struct err *e);
};

/* Where a build has its accelerators: src/class_list.c. NULL-ended, best first. */
extern const struct accel_ops *const accel_list[];

#endif
