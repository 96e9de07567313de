/* sys_fast.c: SYSCALL, SYSRET, SYSENTER, SYSEXIT by Intel's rules (SDM 2B), but that an AMD guest may SYSCALL from 32-bit code. Lean. */
#include "tcg/x86_64/sys.h"

static void need_syscall(struct tcg_cpu *c, bool compat)
{
	if (!(c->efer & X86_EFER_SCE) || !sys_long(c) || !(tcg_is_64(c) || compat))
		tcg_raise(c, X86_UD);
}

void sys_syscall(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u16 cs = (u16)(c->star >> 32 & 0xfffc);
	u64 next = c->rip + insn->len, target;

	need_syscall(c, sys_is_amd(c));
	target = tcg_is_64(c) ? c->lstar : c->cstar;
	c->gpr[X86_RCX] = tcg_is_64(c) ? next : (u32)next;
	c->gpr[11] = c->rflags & ~X86_FLAG_RF;
	c->rflags = (c->rflags & ~(c->sfmask | X86_FLAG_RF)) | 2;
	c->rip = target;
	sys_flat_cs_ss(c, cs, (u16)(cs + 8), 0, true);
}

void sys_sysret(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u16 base = (u16)(c->star >> 48), ss = (u16)((base + 8) | 3);
	bool to_64 = insn->opsize == 8;
	u64 rip = c->gpr[X86_RCX];

	need_syscall(c, false);
	sys_need_cpl0(c);
	/* Intel faults here, with the guest's user stack; AMD at the target. */
	if (to_64 && !tcg_canonical(rip) && !sys_is_amd(c))
		sys_gp(c, 0);
	if (c->gpr[11] & ~c->rflags & X86_FLAG_IF)
		sys_look(c);
	c->rflags = (c->gpr[11] & 0x3c7fd7) | 2;
	c->rip = to_64 ? rip : (u32)rip;
	sys_flat_cs_ss(c, (u16)((to_64 ? base + 16 : base) | 3), ss, 3, to_64);
}

void sys_sysenter(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u16 cs = (u16)(c->sysenter_cs & 0xfffc);
	bool wide = sys_long(c);

	(void)insn;
	if (!(c->cr0 & X86_CR0_PE) || !cs)
		sys_gp(c, 0);
	c->rflags &= ~(X86_FLAG_VM | X86_FLAG_IF | X86_FLAG_RF);
	c->gpr[X86_RSP] = wide ? c->sysenter_esp : (u32)c->sysenter_esp;
	c->rip = wide ? c->sysenter_eip : (u32)c->sysenter_eip;
	sys_flat_cs_ss(c, cs, (u16)(cs + 8), 0, wide);
}

void sys_sysexit(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u16 cs = (u16)(c->sysenter_cs & 0xfffc);
	bool to_64 = insn->opsize == 8;
	u64 rip = c->gpr[X86_RDX], rsp = c->gpr[X86_RCX];

	if (!sys_protected(c) || !cs)
		sys_gp(c, 0);
	sys_need_cpl0(c);
	if (to_64 && (!tcg_canonical(rip) || !tcg_canonical(rsp)))
		sys_gp(c, 0);
	c->gpr[X86_RSP] = to_64 ? rsp : (u32)rsp;
	c->rip = to_64 ? rip : (u32)rip;
	cs = (u16)(cs + (to_64 ? 32 : 16));
	sys_flat_cs_ss(c, cs | 3, (u16)((cs + 8) | 3), 3, to_64);
}
