/*
 * cpu.h: the canonical state of one arm64 vCPU. Boot code fills its first part, vcpu_pull and vcpu_push move it. Plain data, all of it in
 * arm_cpu_table. Registers that a processor has or lacks by its features are a list: what is in it was what the accelerator had.
 */
#ifndef HUSK_ARM_CPU_H
#define HUSK_ARM_CPU_H

#include "vmm/base/base.h"
#include "vmm/state.h"

#define ARM_NR_GPRS 31

/* PSTATE as SPSR_EL1 has it (Arm ARM C5.2.18). */
#define ARM_PSTATE_EL1H 5u
#define ARM_PSTATE_DAIF 0x3c0u

/*
 * A register of up to 64 bits. id: that of KVM's interface (Documentation/virt/kvm/api.rst 4.68), which holds the architecture's encoding
 * op0 op1 CRn CRm op2, or a kind of its own: CCSIDR_EL1 by cache, the firmware that KVM is to a guest (PSCI, SMCCC).
 */
struct arm_reg {
	u64 id, value;
};

#define ARM_REG_MAX			      1024u
#define ARM_REG_KIND(id)		      ((id) >> 16 & 0xfff)
#define ARM_KIND_DEMUX			      0x11u /* CCSIDR_EL1 by CSSELR_EL1 */
#define ARM_KIND_SYSTEM			      0x13u
#define ARM_KIND_FIRMWARE		      0x14u
#define ARM_KIND_SERVICES		      0x16u /* hypercalls offered, as bits */
#define ARM_REG_ENCODING(id)		      ((u32)(id)&0xffff)
#define ARM_ENCODING(op0, op1, crn, crm, op2) ((op0) << 14 | (op1) << 11 | (crn) << 7 | (crm) << 3 | (op2))
#define ARM_SYSTEM_REG(...)		      (0x6030000000130000ull | ARM_ENCODING(__VA_ARGS__))
#define ARM_ID_AA64MMFR0		      ARM_SYSTEM_REG(3, 0, 0, 7, 0)
#define ARM_SCTLR			      ARM_SYSTEM_REG(3, 0, 1, 0, 0)
#define ARM_TTBR0			      ARM_SYSTEM_REG(3, 0, 2, 0, 0)
#define ARM_TTBR1			      ARM_SYSTEM_REG(3, 0, 2, 0, 1)
#define ARM_TCR				      ARM_SYSTEM_REG(3, 0, 2, 0, 2)
#define ARM_VBAR			      ARM_SYSTEM_REG(3, 0, 12, 0, 0)
#define ARM_MPIDR			      ARM_SYSTEM_REG(3, 0, 0, 0, 5)
#define ARM_CNTVCT			      ARM_SYSTEM_REG(3, 3, 14, 3, 2) /* KVM's id; the encoding is that of CNTV_CVAL_EL0 */
#define ARM_CNTPCT			      ARM_SYSTEM_REG(3, 3, 14, 0, 1)
#define ARM_FIRMWARE_REG(n)		      (0x6030000000140000ull | (n))
#define ARM_PSCI_VERSION		      ARM_FIRMWARE_REG(0)
#define ARM_WORKAROUND_2		      ARM_FIRMWARE_REG(2)

#define ARM_BREAK 0xb9dbu /* number of the BRK that is the debugger's */

#define ARM_NR_VREGS  32u
#define ARM_VREG_SIZE 16u  /* bytes of V0 to V31 */
#define ARM_ZREG_SIZE 256u /* of Z0 to Z31, at the architecture's longest */
#define ARM_NR_PREGS  16u
#define ARM_PREG_SIZE 32u
#define ARM_VLS_WORDS 8u

struct cpu_state {
	u64 x[ARM_NR_GPRS];
	u64 sp, pc, pstate; /* sp: SP_EL0 */
	bool powered_off;   /* waits for PSCI CPU_ON */

	/* What follows is zero at a boot, which leaves it as reset has it (nr_regs 0). */
	u64 sp_el1, elr_el1;
	u64 spsr[5]; /* EL1, abt, und, irq, fiq */
	u32 fpsr, fpcr;
	/* Vector lengths of SVE that the guest has: bit n - 1: n * 16 bytes. All 0: no SVE */
	u64 sve_vls[ARM_VLS_WORDS];
	u32 nr_v;				  /* bytes used of v: 32 V registers, or, with SVE, 32 Z registers */
	u8 v[ARM_NR_VREGS * ARM_ZREG_SIZE];	  /* one register behind the other */
	u32 nr_p;				  /* bytes used of p: 0 without SVE */
	u8 p[(ARM_NR_PREGS + 1) * ARM_PREG_SIZE]; /* P0 to P15, FFR */
	bool pauth;				  /* pointer authentication; its keys are among regs */
	bool serror_pending, serror_has_esr;
	u64 serror_esr;
	u32 nr_regs;
	struct arm_reg regs[ARM_REG_MAX];
};

extern const struct state_table arm_cpu_table;

/* What a state is compared with: the vCPUs of this VM on this host, as they are before they run. */
struct arm_host {
	bool pauth, serror_esr; /* serror_esr: a pending SError can have a syndrome */
	u64 sve_vls[ARM_VLS_WORDS];
	u32 nr_regs;
	struct arm_reg regs[ARM_REG_MAX]; /* of vCPU 0 */
	u32 gicd_iidr;
	u64 icc_ctlr, icc_sre; /* of vCPU 0 */
	u64 counter_hz;	       /* CNTFRQ_EL0 */
};

/* What an accelerator can show a guest (accel_ops.cpu_caps). */
struct arch_cpu_caps {
	u64 mmfr0; /* ID_AA64MMFR0_EL1: page sizes (Arm ARM D19.2.64) */
	/* In: NULL, or to be filled. The vector lengths asked for (all 0: no wish) become those of the vCPUs, if these have none yet. */
	struct arm_host *host;
};

/* MPIDR_EL1's affinity of vCPU n, as KVM gives it: 16 in a cluster. */
static inline u64 arm_mpidr(u32 n)
{
	return (n & 0xf) | ((u64)(n >> 4) & 0xff) << 8;
}

/* Value of one register of a list, or NULL. */
static inline const u64 *arm_reg_find(const struct arm_reg *regs, u32 nr, u64 id)
{
	for (u32 i = 0; i < nr; i++) {
		if (regs[i].id == id)
			return &regs[i].value;
	}
	return NULL;
}

#define ARM_REG_NAME_SIZE 48u
/* "ID_AA64PFR0_EL1", "S3_0_C15_C2_1", "register 0x...", into out (ARM_REG_NAME_SIZE); returns out. */
const char *arm_reg_name(u64 id, char *out);
/* Registers that say what the processor is, and that no guest changes: a state's must be the host's. */
bool arm_reg_is_fixed(u64 id);
/* Those that all vCPUs share and that run: loaded once, by vm_push. */
static inline bool arm_reg_is_counter(u64 id)
{
	return id == ARM_CNTVCT || id == ARM_CNTPCT;
}

#endif
