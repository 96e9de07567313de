/* kvm_arm_sandbox.c: what KVM is asked once the guest runs; vmm/sandbox.h. Making VMs, vCPUs and the GIC is over by then. */
#include "kvm/kvm.h"

#define GET_STATE KVM_GET_ONE_REG, KVM_GET_MP_STATE
#define SET_STATE KVM_SET_ONE_REG, KVM_SET_MP_STATE

/* Interrupts and doorbells of devices, which both kinds of threads set; the dirty ring, which a vCPU empties when it is full. */
#define BOTH KVM_IRQ_LINE, KVM_IRQFD, KVM_IOEVENTFD, KVM_RESET_DIRTY_RINGS, KVM_CHECK_EXTENSION

const u32 kvm_vcpu_ioctls[] = {KVM_RUN, GET_STATE, BOTH, 0};
const u32 kvm_loop_ioctls[] = {GET_STATE, SET_STATE, BOTH, KVM_SET_USER_MEMORY_REGION, KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG, 0};
