/* vm_state.h: what an arm64 VM has once, besides memory and devices. The GIC is not in it yet: accel_ops.vm_pull refuses. */
#ifndef HUSK_ARM_VM_STATE_H
#define HUSK_ARM_VM_STATE_H

#include "vmm/base/base.h"

struct chip_state {
	u64 clock_ns; /* the VM's clock (vmm/clock.h) */
};

#endif
