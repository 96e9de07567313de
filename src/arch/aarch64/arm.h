/* arm.h: what the files of this directory share. ctx: before start */
#ifndef HUSK_ARM_H
#define HUSK_ARM_H

#include "arch/aarch64/cpu.h"
#include "arch/aarch64/fdt.h"
#include "arch/aarch64/layout.h"
#include "vmm/vm.h"

struct machine {
	u32 nr_slots;	       /* virtio-mmio slots given out */
	struct arm_host *host; /* state.c, while a state is loaded: owned, or NULL */
};

#endif
