/*
 * vm_state.h: what an arm64 VM has once, besides memory and devices: its clock and a GICv3. accel_ops.vm_pull fills vm->chips, vm_push
 * loads it. The counters (CNTVCT_EL0, CNTPCT_EL0) are among the registers of the vCPUs; those of vCPU 0 count.
 */
#ifndef HUSK_ARM_VM_STATE_H
#define HUSK_ARM_VM_STATE_H

#include "arch/aarch64/cpu.h"
#include "arch/aarch64/layout.h"
#include "vmm/vm.h"

/* One moment, on all clocks. */
struct arm_clock_state {
	u64 clock_ns;	 /* the VM's clock (vmm/clock.h) */
	u64 realtime_ns; /* the host's wall clock; 0: not known */
	u64 counter_hz;	 /* CNTFRQ_EL0 */
};

#define ARM_NR_SPIS   (ARM_NR_INTIDS - ARM_FIRST_SPI)
#define ARM_GIC_NR_AP 4u

/* Redistributor and processor interface of one vCPU; names of the GIC's specification (IHI 0069). level: what lines are at, by INTID */
struct arm_gic_cpu {
	u64 mpidr; /* affinity */
	u32 igroupr, isenabler, ispendr, isactiver, level, icfgr1;
	u32 ipriorityr[8];
	u64 propbaser, pendbaser;
	u64 icc_sre, icc_ctlr, icc_igrpen0, icc_igrpen1, icc_pmr, icc_bpr0, icc_bpr1;
	u32 nr_ap; /* how many of these its bits of priority make */
	u64 icc_ap0r[ARM_GIC_NR_AP], icc_ap1r[ARM_GIC_NR_AP];
};

/* 32 levels of preemption each, of which the lowest bit of priority makes none (IHI 0069 §12.2.3). PRIbits: bits 8 to 10, less 1 */
static inline u32 arm_gic_nr_ap(u64 icc_ctlr)
{
	u32 pri_bits = (u32)(icc_ctlr >> 8 & 7) + 1;

	return pri_bits >= 7 ? 4 : pri_bits == 6 ? 2 : 1;
}

/* The distributor, from SPI 0 (INTID 32) on. */
struct arm_gic_state {
	u32 iidr, ctlr;
	u32 igroupr[ARM_NR_SPIS / 32], isenabler[ARM_NR_SPIS / 32], ispendr[ARM_NR_SPIS / 32], isactiver[ARM_NR_SPIS / 32],
		level[ARM_NR_SPIS / 32];
	u32 icfgr[ARM_NR_SPIS / 16], ipriorityr[ARM_NR_SPIS / 4];
	u64 irouter[ARM_NR_SPIS];
	u32 nr_cpus;
	struct arm_gic_cpu cpus[VM_MAX_VCPUS];
};

struct chip_state {
	struct arm_clock_state clock;
	struct arm_gic_state gic;
	u64 counter_jump; /* not saved: the counters are to be loaded that much ahead */
};

extern const struct state_table arm_clock_table, arm_gic_table;

/*
 * May this VM, on this host, have that state? Whatever passes the accelerator takes, and the guest finds the processor that it was shown.
 * Changes nothing. -EINVAL: no processor or chip is ever in such a state; -EOPNOTSUPP: not this one, e names the register. ctx: before
 * start
 */
int arm_cpu_check(const struct cpu_state *s, u32 index, const struct arm_host *host, struct err *e) MUST_CHECK;
int arm_gic_check(const struct arm_gic_state *s, u32 nr_vcpus, const struct arm_host *host, struct err *e) MUST_CHECK;
int arm_clock_check(const struct arm_clock_state *s, const struct arm_host *host, struct err *e) MUST_CHECK;

/* Time that the guest's clocks are to jump ahead by when they are loaded with clock_realtime; now: the host's wall clock. */
u64 arm_clock_jump(const struct arm_clock_state *s, u64 realtime_now);

#endif
