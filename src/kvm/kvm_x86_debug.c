/*
 * kvm_x86_debug.c: debuggers of the guest, with KVM_SET_GUEST_DEBUG: single steps, INT3 of the debugger, debug registers. While KVM has
 * breakpoints for the debugger the guest's own debug registers are out of force.
 */
#include "kvm/kvm_x86.h"

#include <string.h>
#include <sys/ioctl.h>

#include "arch/x86_64/debugreg.h"

#define VECTOR_BP 3
#define DR6_HITS  0xfull

static int set_guest_debug(struct vcpu *v, const struct kvm_guest_debug *d, struct err *e)
{
	const struct kvm_vcpu *kc = v->accel;

	if (ioctl(kc->fd, KVM_SET_GUEST_DEBUG, d) < 0)
		return err_errno(e, "vCPU %u: KVM refuses to debug the guest", v->index);
	return 0;
}

/* Linux 5.15 can hold back interrupts in a step, so that it does not end in the handler of one. */
static u32 step_flags(const struct vcpu *v)
{
	int can = kvm_cap(kvm_vm_of(v->vm), KVM_CAP_SET_GUEST_DEBUG2);

	return KVM_GUESTDBG_SINGLESTEP | ((u32)can & KVM_GUESTDBG_BLOCKIRQ);
}

int kvm_arch_debug(struct vcpu *v, const struct vcpu_debug *d, struct err *e)
{
	struct kvm_vcpu *kc = v->accel;
	struct kvm_guest_debug k = {0};
	u64 dr[DEBUG_MAX_HW], dr7 = x86_debug_regs(d->hw, dr);

	if (d->step)
		k.control |= step_flags(v);
	if (d->soft)
		k.control |= KVM_GUESTDBG_USE_SW_BP;
	if (dr7) {
		k.control |= KVM_GUESTDBG_USE_HW_BP;
		for (u32 i = 0; i < DEBUG_MAX_HW; i++)
			k.arch.debugreg[i] = dr[i];
		k.arch.debugreg[7] = dr7 | 0x400; /* always one */
	}
	if (k.control)
		k.control |= KVM_GUESTDBG_ENABLE;
	/* A host that never debugs need not be able to. */
	if (!memcmp(&k, &kc->arch->debug, sizeof(k)) && !d->step)
		return 0;
	kc->arch->debug = k;
	return set_guest_debug(v, &k, e);
}

static bool is_ours(const struct vcpu *v, u64 linear)
{
	const struct kvm_vcpu *kc = v->accel;
	struct kvm_translation tr = {.linear_address = linear};

	return ioctl(kc->fd, KVM_TRANSLATE, &tr) == 0 && tr.valid && debug_break_at(&v->vm->debug, tr.physical_address);
}

enum vcpu_exit kvm_arch_debug_exit(struct vcpu *v)
{
	const struct kvm_vcpu *kc = v->accel;
	const struct kvm_debug_exit_arch *x = &kc->run->debug.arch;
	struct kvm_guest_debug inject = kc->arch->debug;
	u64 hits = x->dr6 & DR6_HITS;
	struct err e = {0};

	if (x->exception == VECTOR_BP && !is_ours(v, x->pc)) {
		inject.control |= KVM_GUESTDBG_INJECT_BP;
		if (set_guest_debug(v, &inject, &e) == 0)
			return VCPU_AGAIN;
		log_error(v->vm->log, "%s", e.msg);
		return VCPU_ERROR;
	}
	if (x->exception == VECTOR_BP)
		v->stop = (struct debug_stop){.why = DEBUG_BREAK};
	else if (hits && inject.control & KVM_GUESTDBG_USE_HW_BP)
		v->stop = (struct debug_stop){.why = DEBUG_HW, .index = (u32)__builtin_ctzll(hits)};
	else
		v->stop = (struct debug_stop){.why = DEBUG_STEP};
	return VCPU_DEBUG;
}
