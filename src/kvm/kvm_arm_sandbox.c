/* kvm_arm_sandbox.c: what KVM is asked once the guest runs; vmm/sandbox.h. Making VMs, vCPUs and the GIC is over by then. */
#include "kvm/kvm.h"

#define GET_STATE KVM_GET_ONE_REG, KVM_GET_MP_STATE
/* Of whole vCPUs and the GIC. KVM_SET_DEVICE_ATTR also asks the GIC to write down what is pending. */
#define GET_WHOLE KVM_GET_REG_LIST, KVM_GET_VCPU_EVENTS, KVM_GET_DEVICE_ATTR, KVM_SET_DEVICE_ATTR
#define SET_STATE KVM_SET_ONE_REG, KVM_SET_MP_STATE, KVM_SET_VCPU_EVENTS

/* Interrupts and doorbells of devices, which both kinds of threads set; the dirty ring, which a vCPU empties when it is full. */
#define BOTH KVM_IRQ_LINE, KVM_IRQFD, KVM_IOEVENTFD, KVM_RESET_DIRTY_RINGS, KVM_CHECK_EXTENSION

/* A vCPU gives the guest its own BRK, while it is debugged (KVM_SET_ONE_REG). */
const u32 kvm_vcpu_ioctls[] = {KVM_RUN, GET_STATE, KVM_SET_ONE_REG, BOTH, 0};
const u32 kvm_loop_ioctls[] = {GET_STATE,	  GET_WHOLE,	       SET_STATE, BOTH, KVM_SET_GUEST_DEBUG, KVM_SET_USER_MEMORY_REGION,
			       KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG, 0};
