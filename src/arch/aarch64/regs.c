/* regs.c: names and kinds of the registers in a vCPU's list (cpu.h). Arm ARM D19.1, D19.2; Documentation/virt/kvm/arm/hypercalls.rst */
#include <stdio.h>

#include "arch/aarch64/cpu.h"

static const struct reg_name {
	u64 id;
	const char *name;
} names[] = {
	{ARM_SYSTEM_REG(3, 0, 0, 0, 0), "MIDR_EL1"},
	{ARM_MPIDR, "MPIDR_EL1"},
	{ARM_SYSTEM_REG(3, 0, 0, 0, 6), "REVIDR_EL1"},
	{ARM_SYSTEM_REG(3, 0, 0, 1, 0), "ID_PFR0_EL1"},
	{ARM_SYSTEM_REG(3, 0, 0, 1, 1), "ID_PFR1_EL1"},
	{ARM_SYSTEM_REG(3, 0, 0, 1, 2), "ID_DFR0_EL1"},
	{ARM_SYSTEM_REG(3, 0, 0, 4, 0), "ID_AA64PFR0_EL1"},
	{ARM_SYSTEM_REG(3, 0, 0, 4, 1), "ID_AA64PFR1_EL1"},
	{ARM_SYSTEM_REG(3, 0, 0, 4, 2), "ID_AA64PFR2_EL1"},
	{ARM_SYSTEM_REG(3, 0, 0, 4, 4), "ID_AA64ZFR0_EL1"},
	{ARM_SYSTEM_REG(3, 0, 0, 4, 5), "ID_AA64SMFR0_EL1"},
	{ARM_SYSTEM_REG(3, 0, 0, 5, 0), "ID_AA64DFR0_EL1"},
	{ARM_SYSTEM_REG(3, 0, 0, 5, 1), "ID_AA64DFR1_EL1"},
	{ARM_SYSTEM_REG(3, 0, 0, 6, 0), "ID_AA64ISAR0_EL1"},
	{ARM_SYSTEM_REG(3, 0, 0, 6, 1), "ID_AA64ISAR1_EL1"},
	{ARM_SYSTEM_REG(3, 0, 0, 6, 2), "ID_AA64ISAR2_EL1"},
	{ARM_SYSTEM_REG(3, 0, 0, 6, 3), "ID_AA64ISAR3_EL1"},
	{ARM_ID_AA64MMFR0, "ID_AA64MMFR0_EL1"},
	{ARM_SYSTEM_REG(3, 0, 0, 7, 1), "ID_AA64MMFR1_EL1"},
	{ARM_SYSTEM_REG(3, 0, 0, 7, 2), "ID_AA64MMFR2_EL1"},
	{ARM_SYSTEM_REG(3, 0, 0, 7, 3), "ID_AA64MMFR3_EL1"},
	{ARM_SYSTEM_REG(3, 0, 0, 7, 4), "ID_AA64MMFR4_EL1"},
	{ARM_SYSTEM_REG(3, 0, 1, 0, 0), "SCTLR_EL1"},
	{ARM_SYSTEM_REG(3, 1, 0, 0, 1), "CLIDR_EL1"},
	{ARM_SYSTEM_REG(3, 1, 0, 0, 7), "AIDR_EL1"},
	{ARM_SYSTEM_REG(3, 3, 0, 0, 1), "CTR_EL0"},
	{ARM_CNTVCT, "CNTVCT_EL0"}, /* KVM has the two swapped */
	{ARM_SYSTEM_REG(3, 3, 14, 0, 2), "CNTV_CVAL_EL0"},
	{ARM_CNTPCT, "CNTPCT_EL0"},
	{ARM_PSCI_VERSION, "PSCI version"},
	{ARM_FIRMWARE_REG(1), "SMCCC_ARCH_WORKAROUND_1"},
	{ARM_WORKAROUND_2, "SMCCC_ARCH_WORKAROUND_2"},
	{ARM_FIRMWARE_REG(3), "SMCCC_ARCH_WORKAROUND_3"},
};

const char *arm_reg_name(u64 id, char *out)
{
	u32 code = ARM_REG_ENCODING(id);

	for (u32 i = 0; i < ARRAY_SIZE(names); i++) {
		if (names[i].id == id) {
			snprintf(out, ARM_REG_NAME_SIZE, "%s", names[i].name);
			return out;
		}
	}
	if ((id & ~0xffffull) == ARM_SYSTEM_REG(0, 0, 0, 0, 0))
		snprintf(out, ARM_REG_NAME_SIZE, "S%u_%u_C%u_C%u_%u", code >> 14, code >> 11 & 7, code >> 7 & 15, code >> 3 & 15, code & 7);
	else if (ARM_REG_KIND(id) == ARM_KIND_DEMUX)
		snprintf(out, ARM_REG_NAME_SIZE, "CCSIDR_EL1 of cache 0x%x", code & 0xff);
	else if (ARM_REG_KIND(id) == ARM_KIND_SERVICES)
		snprintf(out, ARM_REG_NAME_SIZE, "hypercall services %u", code);
	else
		snprintf(out, ARM_REG_NAME_SIZE, "register 0x%llx of KVM", (unsigned long long)id);
	return out;
}

/* CRn 0 is what identifies a processor, but for CSSELR_EL1 (op1 2), which selects what to look at. */
bool arm_reg_is_fixed(u64 id)
{
	u32 code = ARM_REG_ENCODING(id);

	if (ARM_REG_KIND(id) != ARM_KIND_SYSTEM)
		return id != ARM_WORKAROUND_2;
	return code >> 14 == 3 && !(code >> 7 & 15) && (code >> 11 & 7) != 2;
}
