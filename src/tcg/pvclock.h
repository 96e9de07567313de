/*
 * pvclock.h: the paravirtual clock of KVM, as the tcg accelerator offers it (Linux Documentation/virt/kvm/x86/msr.rst).
 * All vCPUs publish one pair (guest TSC, nanoseconds), which moves only when a state is loaded: the guest's TSC stands still while the VM
 * is paused (vcpu.c), and with it this clock. ctx: vcpu, or parked
 */
#ifndef HUSK_TCG_PVCLOCK_H
#define HUSK_TCG_PVCLOCK_H

#include "tcg/tcg.h"

#define MSR_KVM_WALL_CLOCK_OLD	0x11u
#define MSR_KVM_SYSTEM_TIME_OLD 0x12u
#define MSR_KVM_WALL_CLOCK	0x4b564d00u
#define MSR_KVM_SYSTEM_TIME	0x4b564d01u

/* The MSRs above. False: #GP (another MSR, or an address that is no RAM). They save the FPU state themselves. */
bool pvclock_read_msr(struct tcg_cpu *c, u32 msr, u64 *value);
bool pvclock_write_msr(struct tcg_cpu *c, u32 msr, u64 value);
/* After vcpu_push: the page that the guest has was published by whoever saved it, and goes on from there. */
void pvclock_adopt(struct tcg_cpu *c);

/* What the clock reads at a guest TSC; clock_ns, the VM's clock then, if no guest has asked for it yet. Never less than a guest read. */
u64 pvclock_at(struct tcg_vm *t, u64 tsc, u64 clock_ns);
/* It is to go on from this pair. Then each vCPU's page, if it has one, is to be written anew. ctx: all vCPUs parked */
void pvclock_load(struct tcg_vm *t, u64 tsc, u64 ns);
void pvclock_publish(struct tcg_cpu *c);

#endif
