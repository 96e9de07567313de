/* kvm_x86_sandbox.c: what KVM is asked once the guest runs; vmm/sandbox.h. Making VMs, vCPUs and interrupt chips is over by then. */
#include "kvm/kvm.h"

/* The state of a vCPU, which pull and push move, and what the log says of one that ends. */
#define ARCH_GET_STATE \
	KVM_GET_REGS, KVM_GET_SREGS, KVM_GET_SREGS2, KVM_GET_XSAVE, KVM_GET_XSAVE2, KVM_GET_XCRS, KVM_GET_DEBUGREGS, KVM_GET_LAPIC, \
		KVM_GET_VCPU_EVENTS, KVM_GET_MSRS, KVM_GET_MP_STATE, KVM_GET_TSC_KHZ, KVM_TRANSLATE
/* What the VM has once, for a snapshot. */
#define ARCH_GET_VM_STATE KVM_GET_IRQCHIP, KVM_GET_PIT2, KVM_GET_CLOCK
#define ARCH_SET_STATE \
	KVM_SET_REGS, KVM_SET_SREGS, KVM_SET_SREGS2, KVM_SET_XSAVE, KVM_SET_XCRS, KVM_SET_DEBUGREGS, KVM_SET_LAPIC, KVM_SET_VCPU_EVENTS, \
		KVM_SET_MSRS, KVM_SET_MP_STATE, KVM_SET_TSC_KHZ, KVM_SET_CPUID2, KVM_GET_DEVICE_ATTR, KVM_SET_DEVICE_ATTR
#define ARCH_RUN KVM_KVMCLOCK_CTRL

/* Interrupts and doorbells of devices, which both kinds of threads set; the dirty ring, which a vCPU empties when it is full. */
#define BOTH KVM_IRQ_LINE, KVM_IRQFD, KVM_IOEVENTFD, KVM_RESET_DIRTY_RINGS, KVM_SET_GUEST_DEBUG, KVM_CHECK_EXTENSION

const u32 kvm_vcpu_ioctls[] = {KVM_RUN, ARCH_RUN, ARCH_GET_STATE, BOTH, 0};
const u32 kvm_loop_ioctls[] = {
	ARCH_GET_STATE, ARCH_GET_VM_STATE, ARCH_SET_STATE, BOTH, KVM_SET_USER_MEMORY_REGION, KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG, 0};
