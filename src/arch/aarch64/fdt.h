/* fdt.h: the device tree that describes the machine to the guest's kernel (Devicetree Specification 0.4), made with libfdt. */
#ifndef HUSK_ARM_FDT_H
#define HUSK_ARM_FDT_H

#include "vmm/base/err.h"
#include "vmm/mem.h"

#define ARM_SEED_LEN 64

struct arm_fdt_plan {
	u32 nr_vcpus, nr_slots; /* virtio-mmio slots that devices sit in */
	u32 nr_ranges;		/* RAM, with the system area */
	struct mem_range ranges[MEM_MAX_REGIONS];
	const char *bootargs;	     /* borrowed */
	u64 initrd_gpa, initrd_size; /* size 0: none */
	u8 seed[ARM_SEED_LEN];	     /* for the kernel's random number generator */
};

/* Writes the tree to out (size bytes); *len: how long it is. -ENOSPC: it does not fit. ctx: any */
int arm_fdt_build(const struct arm_fdt_plan *p, void *out, size_t size, size_t *len, struct err *e) MUST_CHECK;

#endif
