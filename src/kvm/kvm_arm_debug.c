/*
 * kvm_arm_debug.c: debuggers of the guest, with KVM_SET_GUEST_DEBUG: single steps, BRK of the debugger, breakpoint and watchpoint
 * registers. While KVM debugs, all debug exceptions come here; a guest's own BRK is given back to it by hand, since KVM cannot.
 */
#include "kvm/kvm_arm.h"

#include <errno.h>
#include <sys/ioctl.h>

#include "vmm/gdb_arch.h"

/* Classes of debug exceptions (Arm ARM D17.2.37, ESR_EL2.EC) */
enum { EC_BREAKPOINT = 0x30, EC_STEP = 0x32, EC_WATCHPOINT = 0x34, EC_BRK = 0x3c };

/* DBGBCR_EL1 and DBGWCR_EL1: on, at EL0 and EL1 */
#define HW_ON	    7ull
#define HW_BYTES(v) ((u64)(v) << 5)
#define HW_LOAD	    BIT(3)
#define HW_STORE    BIT(4)

#define ESR_EL1	    ARM_SYSTEM_REG(3, 0, 5, 2, 0)
#define SCTLR_DSSBS BIT(44)
#define SCTLR_SPAN  BIT(23)
#define PSTATE_IF   0xc0ull
#define PSTATE_SSBS BIT(12)
#define PSTATE_PAN  BIT(22)
#define PSTATE_KEEP 0xf1000000ull /* NZCV, DIT */

static int set_guest_debug(struct vcpu *v, const struct kvm_guest_debug *d, struct err *e)
{
	const struct kvm_vcpu *kc = v->accel;

	if (ioctl(kc->fd, KVM_SET_GUEST_DEBUG, d) < 0)
		return err_errno(e, "vCPU %u: KVM refuses to debug the guest", v->index);
	return 0;
}

static int put_hw(const struct vcpu *v, const struct debug_hw *hw, struct kvm_guest_debug_arch *out, struct err *e)
{
	u32 nr_b = 0, nr_w = 0, most_b = (u32)kvm_cap(kvm_vm_of(v->vm), KVM_CAP_GUEST_DEBUG_HW_BPS),
	    most_w = (u32)kvm_cap(kvm_vm_of(v->vm), KVM_CAP_GUEST_DEBUG_HW_WPS);

	for (u32 i = 0; i < DEBUG_MAX_HW; i++) {
		if (!hw[i].len)
			continue;
		if (hw[i].kind == DEBUG_HW_EXEC ? nr_b == most_b : nr_w == most_w)
			return err_set(e, -ENOSPC, "this host's processor has %u breakpoints and %u watchpoints", most_b, most_w);
		if (hw[i].kind == DEBUG_HW_EXEC) {
			out->dbg_bvr[nr_b] = hw[i].addr & ~3ull;
			out->dbg_bcr[nr_b++] = HW_ON | HW_BYTES(15);
		} else {
			out->dbg_wvr[nr_w] = hw[i].addr & ~7ull;
			out->dbg_wcr[nr_w++] = HW_ON | HW_STORE | (hw[i].kind == DEBUG_HW_ACCESS ? HW_LOAD : 0) |
					       HW_BYTES((BIT(hw[i].len) - 1) << (hw[i].addr & 7));
		}
	}
	return 0;
}

static bool get(const struct vcpu *v, u64 id, u64 *value)
{
	return kvm_arm_one_reg(v, KVM_GET_ONE_REG, id, value) == 0;
}

static bool set(const struct vcpu *v, u64 id, u64 value)
{
	return kvm_arm_one_reg(v, KVM_SET_ONE_REG, id, &value) == 0;
}

int kvm_arch_debug(struct vcpu *v, const struct vcpu_debug *d, struct err *e)
{
	struct kvm_vcpu *kc = v->accel;
	struct kvm_guest_debug k = {0};
	int ret = put_hw(v, d->hw, &k.arch, e);

	if (ret < 0)
		return ret;
	for (u32 i = 0; i < DEBUG_MAX_HW; i++) {
		kc->arch->hw[i] = d->hw[i];
		if (d->hw[i].len)
			k.control |= KVM_GUESTDBG_USE_HW;
	}
	if (d->step)
		k.control |= KVM_GUESTDBG_SINGLESTEP;
	if (d->soft)
		k.control |= KVM_GUESTDBG_USE_SW_BP;
	if (k.control)
		k.control |= KVM_GUESTDBG_ENABLE;
	/* A host that never debugs need not be able to. */
	if (!k.control && !kc->arch->debugged)
		return 0;
	kc->arch->debugged = k.control;
	return set_guest_debug(v, &k, e);
}

/* As the processor takes an exception to EL1 (Arm ARM D1.3.1). */
static bool take_exception(struct vcpu *v, u64 esr)
{
	u64 pstate = 0, pc = 0, vbar = 0, sctlr = 0, entry = 0x400;
	bool ok = get(v, CORE_REG(regs.pstate), &pstate) && get(v, CORE_REG(regs.pc), &pc) && get(v, ARM_VBAR, &vbar) &&
		  get(v, ARM_SCTLR, &sctlr);

	if (!ok)
		return false;
	if (pstate & 0x10)
		entry = 0x600; /* from AArch32 */
	else if (pstate & 0xc)
		entry = pstate & 1 ? 0x200 : 0;
	ok = set(v, CORE_REG(elr_el1), pc) && set(v, CORE_REG(spsr[0]), pstate) && set(v, ESR_EL1, esr);
	pstate = (pstate & (PSTATE_KEEP | PSTATE_PAN)) | ARM_PSTATE_EL1H | ARM_PSTATE_DAIF | (sctlr & SCTLR_SPAN ? 0 : PSTATE_PAN) |
		 (sctlr & SCTLR_DSSBS ? PSTATE_SSBS : 0);
	return ok && set(v, CORE_REG(regs.pstate), pstate) && set(v, CORE_REG(regs.pc), vbar + entry);
}

/* Which of the debugger's it was: of breakpoints the one at the instruction, of watchpoints the nearest, as wide accesses begin before it.
 */
static u32 which_hw(const struct vcpu *v, bool exec, u64 at)
{
	const struct kvm_vcpu *kc = v->accel;
	u64 best = UINT64_MAX;
	u32 found = 0;

	for (u32 i = 0; i < DEBUG_MAX_HW; i++) {
		const struct debug_hw *hw = &kc->arch->hw[i];
		u64 off = at < hw->addr ? hw->addr - at : at - hw->addr;

		if (!hw->len || (hw->kind == DEBUG_HW_EXEC) != exec || off >= best)
			continue;
		best = off;
		found = i;
	}
	return found;
}

enum vcpu_exit kvm_arch_debug_exit(struct vcpu *v)
{
	const struct kvm_debug_exit_arch *x = &((struct kvm_vcpu *)v->accel)->run->debug.arch;
	u64 pc = 0;

	switch (x->hsr >> 26) {
	case EC_BRK:
		if ((x->hsr & 0xffff) == ARM_BREAK) {
			v->stop = (struct debug_stop){.why = DEBUG_BREAK};
			return VCPU_DEBUG;
		}
		if (take_exception(v, x->hsr))
			return VCPU_AGAIN;
		log_error(v->vm->log, "vCPU %u: KVM does not let the guest have its own BRK", v->index);
		return VCPU_ERROR;
	case EC_BREAKPOINT:
		(void)get(v, CORE_REG(regs.pc), &pc);
		v->stop = (struct debug_stop){.why = DEBUG_HW, .index = which_hw(v, true, pc)};
		return VCPU_DEBUG;
	case EC_WATCHPOINT:
		v->stop = (struct debug_stop){.why = DEBUG_HW, .index = which_hw(v, false, x->far)};
		return VCPU_DEBUG;
	default:
		v->stop = (struct debug_stop){.why = DEBUG_STEP};
		return VCPU_DEBUG;
	}
}
