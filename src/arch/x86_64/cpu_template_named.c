/*
 * cpu_template_named.c: the masks of Firecracker's named templates (its documentation, docs/cpu_templates). Bits: SDM 2A "CPUID", SDM 4,
 * APM 3 appendix E.
 */
#include "arch/x86_64/cpu_template.h"
#include "arch/x86_64/msr.h"

#define B(n) (1u << (n))
#define T(n) B(CFG_CPU_##n)

#define T2_FAMILY (T(T2) | T(T2S) | T(T2CL) | T(T2A))
#define ALL_NAMES (T(C3) | T2_FAMILY)

#define SIGNATURE 0x0fff3fffu /* stepping, model, family, type, extended model and family */

static const struct {
	u32 names;
	struct x86_template_cpuid change;
} cpuid[] = {
	/* Ivy Bridge-EP; Haswell-EP */
	{T(C3), {1, 0, CFG_EAX, SIGNATURE, 0x306e4}},
	{T2_FAMILY, {1, 0, CFG_EAX, SIGNATURE, 0x306f2}},
	/* DTES64 MONITOR DS-CPL VMX TM2 CNXT-ID SDBG FMA xTPR PDCM MOVBE */
	{T(C3), {1, 0, CFG_ECX, B(2) | B(3) | B(4) | B(5) | B(8) | B(10) | B(11) | B(12) | B(14) | B(15) | B(22), 0}},
	/* DTES64 MONITOR DS-CPL VMX SMX EIST TM2 CNXT-ID SDBG xTPR PDCM DCA */
	{T2_FAMILY, {1, 0, CFG_ECX, B(2) | B(3) | B(4) | B(5) | B(6) | B(7) | B(8) | B(10) | B(11) | B(14) | B(15) | B(18), 0}},
	/* PSN DS ACPI SS TM PBE; with MCE and MTRR */
	{ALL_NAMES, {1, 0, CFG_EDX, B(7) | B(12) | B(18) | B(21) | B(22) | B(27) | B(29) | B(31), B(7) | B(12)}},
	/* IA64 */
	{T2_FAMILY, {1, 0, CFG_EDX, B(30), 0}},
	/* SGX HLE RTM RDT-M MPX RDT-A AVX512F DQ RDSEED ADX IFMA CLFLUSHOPT CLWB PT AVX512PF ER CD SHA AVX512BW VL */
	{ALL_NAMES, {7, 0, CFG_EBX, 0xffafd814, 0}},
	/* BMI1 AVX2 BMI2 INVPCID */
	{T(C3), {7, 0, CFG_EBX, B(3) | B(5) | B(8) | B(10), 0}},
	/* PCOMMIT; with ERMS */
	{T2_FAMILY, {7, 0, CFG_EBX, B(9) | B(22), B(9)}},
	/* AVX512_VBMI UMIP PKU OSPKE VNNI VPOPCNTDQ LA57 RDPID SGX_LC */
	{ALL_NAMES, {7, 0, CFG_ECX, B(1) | B(2) | B(3) | B(4) | B(11) | B(14) | B(16) | B(22) | B(30), 0}},
	/* AVX512_VBMI2 GFNI VAES VPCLMULQDQ AVX512_BITALG */
	{T2_FAMILY, {7, 0, CFG_ECX, B(6) | B(8) | B(9) | B(10) | B(12), 0}},
	/* AVX512_4VNNIW 4FMAPS */
	{ALL_NAMES, {7, 0, CFG_EDX, B(2) | B(3), 0}},
	/* FSRM AVX512_VP2INTERSECT */
	{T2_FAMILY, {7, 0, CFG_EDX, B(4) | B(8), 0}},
	/* State of MPX, AVX-512, PKRU */
	{ALL_NAMES, {0xd, 0, CFG_EAX, B(3) | B(4) | B(5) | B(6) | B(7) | B(9), 0}},
	/* XSAVEC XGETBV1 XSAVES */
	{ALL_NAMES, {0xd, 1, CFG_EAX, B(1) | B(2) | B(3), 0}},
	/* PREFETCHW; LZCNT; MWAITX; SSE4A MISALIGNSSE; SVM */
	{ALL_NAMES, {0x80000001, 0, CFG_ECX, B(8), 0}},
	{T(C3), {0x80000001, 0, CFG_ECX, B(5), 0}},
	{T2_FAMILY, {0x80000001, 0, CFG_ECX, B(29), 0}},
	{T(T2CL) | T(T2A), {0x80000001, 0, CFG_ECX, B(6) | B(7), 0}},
	{T(T2A), {0x80000001, 0, CFG_ECX, B(2), 0}},
	/* 1 GiB pages; MMXEXT FFXSR; MMX FXSR, which Intel does not have here */
	{ALL_NAMES, {0x80000001, 0, CFG_EDX, B(26), 0}},
	{T(T2CL) | T(T2A), {0x80000001, 0, CFG_EDX, B(22) | B(25), 0}},
	{T(T2CL), {0x80000001, 0, CFG_EDX, B(23) | B(24), 0}},
	/* WBNOINVD; CLZERO; with XSAVEERPTR IBRS_PREFERRED IBRS_SAME_MODE EFER_LMSLE_UNSUPPORTED */
	{T2_FAMILY, {0x80000008, 0, CFG_EBX, B(9), 0}},
	{T(T2A), {0x80000008, 0, CFG_EBX, B(0) | B(2) | B(18) | B(19) | B(20), B(2) | B(18) | B(19) | B(20)}},
};

static const struct {
	u32 names;
	struct x86_template_msr change;
} msrs[] = {
	/* RSBA SKIP_L1DFL_VMENTRY PSCHANGE_MC_NO MISC_PACKAGE_CTLS ENERGY_FILTERING_CTL RRSBA GDS_NO, and nothing else */
	{T(T2S), {MSR_IA32_ARCH_CAPABILITIES, UINT64_MAX, BIT(2) | BIT(3) | BIT(6) | BIT(10) | BIT(11) | BIT(19) | BIT(26)}},
	/* All but RDCL_NO IBRS_ALL RSBA SKIP_L1DFL_VMENTRY SSB_NO MDS_NO PSCHANGE_MC_NO TSX_CTRL TAA_NO SBDR_SSDP_NO FBSDP_NO PSDP_NO
	 * FB_CLEAR RRSBA PBRSB_NO GDS_NO RFDS_NO RFDS_CLEAR */
	{T(T2CL), {MSR_IA32_ARCH_CAPABILITIES, 0xffffffffe2f51e00, 0}},
};

const struct x86_template_cpuid *cpu_template_cpuid(enum cfg_cpu_template name, u32 nth)
{
	for (u32 i = 0; i < ARRAY_SIZE(cpuid); i++) {
		if (cpuid[i].names & B(name) && nth-- == 0)
			return &cpuid[i].change;
	}
	return NULL;
}

const struct x86_template_msr *cpu_template_msr(enum cfg_cpu_template name, u32 nth)
{
	for (u32 i = 0; i < ARRAY_SIZE(msrs); i++) {
		if (msrs[i].names & B(name) && nth-- == 0)
			return &msrs[i].change;
	}
	return NULL;
}
