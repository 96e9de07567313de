/* kvm_arm.h: what the arm64 files of the KVM accelerator share. */
#ifndef HUSK_KVM_ARM_H
#define HUSK_KVM_ARM_H

#include "arch/aarch64/cpu.h"
#include "kvm/kvm.h"

struct kvm_arch_vm {
	int gic_fd; /* owned, or -1 */
};

struct kvm_arch_vcpu {
	bool powered_off; /* as KVM was told last */
};

/* kvm_arm_gic.c: the GICv3 of the VM, made before the first vCPU, ready for interrupts after the last. */
int kvm_gic_create(struct kvm_vm *kv, struct err *e) MUST_CHECK;
int kvm_gic_start(struct kvm_vm *kv, u32 nr_vcpus, struct err *e) MUST_CHECK;

#endif
