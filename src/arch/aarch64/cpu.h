/*
 * cpu.h: the canonical state of one arm64 vCPU, as far as a boot and a look at it need it: general registers, where it is, whether PSCI
 * has switched it on. System and vector registers are not in it yet: such a vCPU cannot be saved.
 */
#ifndef HUSK_ARM_CPU_H
#define HUSK_ARM_CPU_H

#include "vmm/base/base.h"
#include "vmm/state.h"

#define ARM_NR_GPRS 31

/* PSTATE as SPSR_EL1 has it (Arm ARM C5.2.18). */
#define ARM_PSTATE_EL1H 5u
#define ARM_PSTATE_DAIF 0x3c0u

struct cpu_state {
	u64 x[ARM_NR_GPRS];
	u64 sp, pc, pstate;
	bool powered_off; /* waits for PSCI CPU_ON */
};

extern const struct state_table arm_cpu_table;

/* What an accelerator can show a guest (accel_ops.cpu_caps). */
struct arch_cpu_caps {
	u64 mmfr0; /* ID_AA64MMFR0_EL1: page sizes (Arm ARM D19.2.64) */
};

/* MPIDR_EL1's affinity of vCPU n, as KVM gives it: 16 in a cluster. */
static inline u64 arm_mpidr(u32 n)
{
	return (n & 0xf) | ((u64)(n >> 4) & 0xff) << 8;
}

#endif
