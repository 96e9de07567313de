/* kvm_x86.h: what the x86-64 files of the KVM accelerator share. */
#ifndef HUSK_KVM_X86_H
#define HUSK_KVM_X86_H

#include "arch/x86_64/cpu.h"
#include "kvm/kvm.h"

struct kvm_arch_vm {
	u32 xsave_size; /* bytes that KVM moves as XSAVE area, at least 4096 */
	bool has_xsave2, has_sregs2, has_payload, has_triple_fault;
	u32 nr_msrs;
	u32 msrs[X86_MSR_MAX]; /* what vcpu_pull asks for; not all of them are there on each host */
	/* TSC of the vCPU that was loaded last, for the others to have the same. */
	bool tsc_known;
	u64 tsc_value, tsc_offset;
};

struct kvm_arch_vcpu {
	struct x86_cpuid_table cpuid; /* what KVM was told last */
	struct kvm_guest_debug debug; /* the same */
	u64 pulled_tsc;		      /* the one that was read last; 0: none */
};

static inline struct kvm_arch_vm *kvm_x86_of(const struct vcpu *v)
{
	return kvm_vm_of(v->vm)->arch;
}

/* KVM_SET_TSS_ADDR and the identity map: 4 pages that Intel processors without "unrestricted guest" need, out of the guest's way. fd: a VM.
 */
int kvm_x86_reserve_pages(int fd, struct err *e) MUST_CHECK;

/* kvm_selftest.c: the test itself, whatever the processor says it can do. fd: /dev/kvm */
int kvm_selftest_run(int fd, struct err *e) MUST_CHECK;

/* kvm_x86_msr.c */
/* Makes kv->arch->msrs: KVM's list and what it leaves out. */
int kvm_msr_list(struct kvm_vm *kv, struct err *e) MUST_CHECK;
/* Fills cpu->msrs with those of the list that this vCPU has. */
int kvm_msrs_pull(struct vcpu *v, struct err *e) MUST_CHECK;
/*
 * Writes cpu->msrs, in two steps: `late` ones set something going that the others and the LAPIC must be ready for (TSC deadline timer,
 * performance counters). KVM refusing one is an error that names it, unless its value is 0: not being there is as good.
 */
int kvm_msrs_push(struct vcpu *v, bool late, struct err *e) MUST_CHECK;

/*
 * Loads the TSC, so that it goes on from its value. vCPUs that were saved one after the other, with values less than a second apart, had
 * one TSC and get one. A value that was just pulled from this vCPU is left alone: the counter has run on.
 */
int kvm_tsc_push(struct vcpu *v, struct err *e) MUST_CHECK;

/* Fills caps->feature_msrs. */
void kvm_feature_msrs(const struct vm *vm, struct arch_cpu_caps *caps);

#endif
