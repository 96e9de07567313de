/* kvm_arm.h: what the arm64 files of the KVM accelerator share. */
#ifndef HUSK_KVM_ARM_H
#define HUSK_KVM_ARM_H

#include "arch/aarch64/cpu_template.h"
#include "kvm/kvm.h"

/* Id of a core register of 64 bits. The ids of registers that follow each other count in units of 4 bytes. */
#define CORE_REG(field) (KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(field))

struct kvm_arch_vm {
	int gic_fd;		       /* owned, or -1 */
	u32 features;		       /* KVM_ARM_VCPU_* that all vCPUs have, as bits; without POWER_OFF */
	struct arm_template *template; /* owned; NULL: vCPUs are as KVM makes them */
	/* Registers of up to 64 bits that KVM lists, the same for all vCPUs; asked for when first needed (kvm_arm_list). */
	u32 nr_ids;
	u64 ids[ARM_REG_MAX];
};

struct kvm_arch_vcpu {
	bool powered_off; /* as KVM was told last */
	/* kvm_arm_debug.c: what the debugger asked for last */
	bool debugged;
	struct debug_hw hw[DEBUG_MAX_HW];
	bool finalized; /* has its vector registers; there is no SVE, or their lengths are settled */
};

/* kvm_arm.c */
static inline bool kvm_arm_has(const struct vcpu *v, u32 feature)
{
	return kvm_vm_of(v->vm)->arch->features & BIT(feature);
}
/* KVM_GET_ONE_REG or KVM_SET_ONE_REG; value has room for the register. Returns ioctl's result. */
int kvm_arm_one_reg(const struct vcpu *v, unsigned long request, u64 id, const void *value);
/* The rate of the counters, which guests read from the processor itself. */
u64 kvm_arm_counter_hz(void);
/* Makes the vCPU ready to run: vls are the lengths of vectors that it gets (all 0: all of the host's), unless they are settled. */
int kvm_arm_finalize(struct vcpu *v, const u64 *vls, struct err *e) MUST_CHECK;

/* kvm_arm_state.c */
/* Fills kvm_arch_vm.ids. -EOPNOTSUPP: KVM has a register that husk cannot save. */
int kvm_arm_list(struct vcpu *v, struct err *e) MUST_CHECK;
/* Values of all those registers. */
int kvm_arm_get_list(struct vcpu *v, struct arm_reg *regs, u32 *nr, struct err *e) MUST_CHECK;

/*
 * kvm_arm_template.c: features without those that the template drops. -EOPNOTSUPP: it wants one that is not there.
 * ctx: before the first KVM_ARM_VCPU_INIT
 */
int kvm_arm_template_features(const struct kvm_vm *kv, u32 *features, struct err *e) MUST_CHECK;
/* Makes v what the template says, if there is one. -EINVAL: it is for another processor; -EOPNOTSUPP: KVM cannot show that. ctx: after
 * KVM_ARM_VCPU_INIT of all vCPUs, before any has run */
int kvm_arm_template_apply(const struct vcpu *v, struct err *e) MUST_CHECK;

/* kvm_arm_gic.c: the GICv3 of the VM, made before the first vCPU, ready for interrupts after the last. */
int kvm_gic_create(struct kvm_vm *kv, struct err *e) MUST_CHECK;
int kvm_gic_start(struct kvm_vm *kv, u32 nr_vcpus, struct err *e) MUST_CHECK;

/* kvm_arm_gic_state.c: its state, and what of it is the host's. ctx: all vCPUs are parked */
int kvm_gic_pull(struct vm *vm, struct err *e) MUST_CHECK;
int kvm_gic_push(struct vm *vm, struct err *e) MUST_CHECK;
int kvm_gic_host(struct vm *vm, struct arm_host *host, struct err *e) MUST_CHECK;

#endif
