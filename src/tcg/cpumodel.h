/*
 * cpumodel.h: the processor that the tcg accelerator shows: the host's, without what translated code may not do, and with what it does by
 * itself (PCID, SMAP, UMIP, TSC deadline timer ...). Everything is listed by what is let through, so that features of later processors stay
 * out.
 */
#ifndef HUSK_TCG_CPUMODEL_H
#define HUSK_TCG_CPUMODEL_H

#include "arch/x86_64/cpu.h"
#include "vmm/base/err.h"

/* Components of XSAVE areas that guests may use: x87, SSE, AVX, opmasks and the two upper parts of ZMM; as far as the host has them. */
#define CPUMODEL_XCR0 0xe7ull

/* IA32_ARCH_CAPABILITIES (SDM 4): this processor needs no mitigation that costs; RDCL_NO IBRS_ALL SSB_NO MDS_NO PSCHANGE_MC_NO TAA_NO
 * SBDR_SSDP_NO FBSDP_NO PSDP_NO BHI_NO GDS_NO RFDS_NO ITS_NO. Speculation across the guest's own borders is the host kernel's to mind. */
#define CPUMODEL_ARCH_CAPABILITIES \
	(BIT(0) | BIT(1) | BIT(4) | BIT(5) | BIT(6) | BIT(8) | BIT(13) | BIT(14) | BIT(15) | BIT(20) | BIT(26) | BIT(27) | BIT(62))

/* The processor's CPUID instruction; tests put another one in its place. */
typedef void cpumodel_cpuid_fn(u32 leaf, u32 subleaf, u32 out[4]);
void cpumodel_host_cpuid(u32 leaf, u32 subleaf, u32 out[4]);

/* Makes the table of what guests can be shown on this host; all but topology and frequencies (x86_cpuid_build). */
void cpumodel_build(struct x86_cpuid_table *out, cpumodel_cpuid_fn *host);
/* Bitmap of enum x86_feat, as a guest's table shows them. */
void cpumodel_features(const struct x86_cpuid_table *guest, u64 features[4]);
/* Whether a guest that was shown this table (under kvm, on another host) can run here: -EOPNOTSUPP names what it has and this host lacks.
 */
int cpumodel_check(const struct x86_cpuid_table *guest, const struct x86_cpuid_table *mine, struct err *e) MUST_CHECK;
/* Paravirtual features of KVM that do nothing here, as KVM's own may at any time: steal time, PV EOI, poll control. Not: those that make
 * hypercalls, and PV_TLB_FLUSH, which counts on KVM flushing for a vCPU that does not run. */
#define CPUMODEL_PV_TOLERATED 0x1060u

/* The components of XCR0 that the table allows. */
u64 cpumodel_xcr0(const struct x86_cpuid_table *guest);

/*
 * Frequency of the host's TSC in kHz, good to a few ppm: from the kernel if it tells, else measured between the two calls. The second waits
 * until 10 ms have passed since the first: by then a VM has better things to do than wait. 0: it cannot be told.
 */
struct cpumodel_tsc {
	u64 tsc, ns, khz;
};
/* A rate that a TSC can have. */
bool cpumodel_tsc_sane(u64 khz);
void cpumodel_tsc_begin(struct cpumodel_tsc *from);
u64 cpumodel_tsc_khz(const struct cpumodel_tsc *from);

#endif
