/*
 * cpu.h: the canonical state of one x86-64 vCPU: all that an accelerator must save and load, in no accelerator's own form. What is saved
 * under kvm loads under tcg, and back. Boot code fills it, vcpu_pull and vcpu_push move it. Plain data, all of it in x86_cpu_table
 * (state.c), from which it goes into snapshots.
 */
#ifndef HUSK_X86_CPU_H
#define HUSK_X86_CPU_H

#include "vmm/base/base.h"
#include "vmm/state.h"

#define X86_CPUID_MAX 128
#define X86_MSR_MAX   256
#define X86_XSAVE_MAX 16384u

enum { X86_RAX, X86_RCX, X86_RDX, X86_RBX, X86_RSP, X86_RBP, X86_RSI, X86_RDI, X86_NR_GPRS = 16 };

enum { X86_ES, X86_CS, X86_SS, X86_DS, X86_FS, X86_GS, X86_LDTR, X86_TR, X86_NR_SEGS };

struct x86_seg {
	u64 base;
	u32 limit; /* in bytes, already scaled by G */
	u16 selector;
	u16 attr; /* descriptor bits 40..47 and 52..55 as in APM 2 §15.5 VMCB: type 0-3, S 4, DPL 5-6, P 7, AVL 8, L 9, D/B 10, G 11; bit
		     12: unusable */
};
#define X86_SEG_UNUSABLE 0x1000

struct x86_dtable {
	u64 base;
	u16 limit;
};

struct x86_msr {
	u32 index;
	u64 value;
};

/* One CPUID leaf as the guest sees it. */
struct x86_cpuid {
	u32 leaf, subleaf;
	bool has_subleaf; /* subleaf is significant */
	u32 eax, ebx, ecx, edx;
};

struct x86_cpuid_table {
	u32 nr;
	struct x86_cpuid e[X86_CPUID_MAX]; /* by ascending leaf, subleaf */
};

/* Local APIC register page (4 KiB at its architectural offsets, SDM 3A §11.4.1); in x2APIC mode the ID register holds the 32-bit id. */
struct x86_lapic {
	u8 regs[1024];
};

enum x86_mp_state { X86_MP_RUNNABLE, X86_MP_UNINIT, X86_MP_INIT_RECEIVED, X86_MP_SIPI_RECEIVED, X86_MP_HALTED };

/* Pending and in-service events (SDM 3A §6; what KVM calls vcpu events). */
struct x86_events {
	bool exception_pending, exception_injected, exception_has_error, exception_has_payload;
	u8 exception_vector;
	u32 exception_error;
	u64 exception_payload;
	bool interrupt_injected, interrupt_soft;
	u8 interrupt_vector, interrupt_shadow; /* shadow: 1 STI, 2 MOV SS */
	bool nmi_injected, nmi_pending, nmi_masked;
	bool smm, smm_pending, smm_inside_nmi, init_latched;
	bool triple_fault_pending;
	u8 sipi_vector;
};

struct cpu_state {
	u64 gpr[X86_NR_GPRS]; /* hardware order: RAX RCX RDX RBX RSP RBP RSI RDI R8..R15 */
	u64 rip, rflags;
	struct x86_seg seg[X86_NR_SEGS];
	struct x86_dtable gdt, idt;
	u64 cr0, cr2, cr3, cr4, cr8, efer, apic_base, xcr0;
	u64 pdptr[4]; /* PAE paging only */
	bool has_pdptr;
	u64 dr[4], dr6, dr7;
	u64 tsc_khz;	/* guest TSC frequency, 0 = not known */
	u32 xsave_size; /* bytes used of xsave: standard (non-compacted) format, as the CPUID 0xD of the guest lays it out */
	u8 xsave[X86_XSAVE_MAX];
	struct x86_lapic lapic;
	struct x86_events events;
	enum x86_mp_state mp_state;
	u32 nr_msrs;
	struct x86_msr msrs[X86_MSR_MAX];
	struct x86_cpuid_table cpuid;
};

extern const struct state_table x86_cpu_table;

#define X86_FEATURE_MSR_MAX 8

/* What an accelerator can show a guest (accel_ops.cpu_caps). */
struct arch_cpu_caps {
	struct x86_cpuid_table cpuid; /* leaves and bits that the accelerator supports */
	u64 tsc_khz;		      /* 0 = not known */
	bool tsc_deadline, x2apic;
	/* Registers in which the processor says more of itself (IA32_ARCH_CAPABILITIES), as a vCPU has them from the start. */
	u32 nr_feature_msrs;
	struct x86_msr feature_msrs[X86_FEATURE_MSR_MAX];
	u32 changed_msrs; /* bit i: a CPU template changed feature_msrs[i] */
	/* For states that come from elsewhere (x86_cpu_check). */
	u32 nr_msrs;
	u32 msrs[X86_MSR_MAX]; /* that it can load; others must be 0 */
	u32 pv_tolerated;      /* of CPUID 0x40000001 EAX, not offered, but a guest that was shown it fares well here too */
	bool tsc_scaling;      /* guests' TSCs may run at another frequency than the host's */
	bool smm;	       /* there is a system management mode */
};

/* CPUID.0:EBX tells who made a processor, or whose it is like. */
#define X86_MAKER_INTEL 0x756e6547u /* Genu(ineIntel) */
#define X86_MAKER_AMD	0x68747541u /* Auth(enticAMD) */
#define X86_MAKER_HYGON 0x6f677948u /* Hygo(nGenuine): as AMD's */
static inline bool x86_maker_is_amd(u32 ebx)
{
	return ebx == X86_MAKER_AMD || ebx == X86_MAKER_HYGON;
}

/* One leaf of a table, or NULL; has_subleaf entries must match subleaf. */
static inline struct x86_cpuid *x86_cpuid_find(struct x86_cpuid_table *t, u32 leaf, u32 subleaf)
{
	for (u32 i = 0; i < t->nr; i++) {
		struct x86_cpuid *c = &t->e[i];

		if (c->leaf == leaf && (!c->has_subleaf || c->subleaf == subleaf))
			return c;
	}
	return NULL;
}

#endif
