/* sys_far.c: far CALL and JMP, call gates; the entry of all far transfers (SDM 2A "CALL", "JMP"; SDM 3A §5.8). Lean. */
#include "tcg/x86_64/sys.h"

struct far_target {
	u16 selector;
	u64 rip;
	u32 size; /* operand size: of what CALL pushes */
	bool call;
	u64 next; /* return address */
};

static void push_return(struct tcg_cpu *c, struct sys_stack *s, const struct far_target *t)
{
	sys_stack_push(c, s, t->size, c->seg[X86_CS].selector);
	sys_stack_push(c, s, t->size, t->next);
}

/* To code at the same privilege level, on the same stack. */
static void transfer(struct tcg_cpu *c, const struct far_target *t, const struct x86_seg *cs)
{
	struct sys_stack s;

	if (t->call) {
		sys_stack_here(c, &s);
		push_return(c, &s, t);
	}
	sys_check_rip(c, cs, t->rip);
	if (t->call)
		sys_stack_commit(c, &s);
	sys_set_cs(c, cs, c->cpl, t->rip);
}

static void far_code(struct tcg_cpu *c, const struct far_target *t, struct sys_desc *d)
{
	u32 error = t->selector & ~3u;
	struct x86_seg cs;

	if (d->attr & DESC_CONFORMING ? desc_dpl(d) > c->cpl : desc_dpl(d) != c->cpl || (t->selector & 3u) > c->cpl)
		sys_gp(c, error);
	if (sys_long(c) && d->attr & X86_ATTR_L && d->attr & X86_ATTR_DB)
		sys_gp(c, error);
	if (!(d->attr & X86_ATTR_P))
		tcg_raise_err(c, X86_NP, error);
	sys_desc_touch(c, d);
	sys_desc_seg(d, t->selector, &cs);
	transfer(c, t, &cs);
}

/* ---- call gates ---- */

/* Reads a gate: the target that it names, and how many parameters are copied. */
static u32 load_call_gate(struct tcg_cpu *c, const struct sys_desc *gate, struct far_target *t)
{
	u32 error = gate->selector & ~3u, type = gate->attr & X86_ATTR_TYPE;
	bool wide = type == DESC_CALL32;

	if ((type != DESC_CALL16 && !wide) || (sys_long(c) && !wide))
		sys_gp(c, error); /* task gates and TSSs, too: there are no task switches here */
	if (desc_dpl(gate) < c->cpl || desc_dpl(gate) < (gate->selector & 3u))
		sys_gp(c, error);
	if (!(gate->attr & X86_ATTR_P))
		tcg_raise_err(c, X86_NP, error);
	t->selector = (u16)(gate->low >> 16);
	t->rip = (gate->low & 0xffff) | (wide ? gate->low >> 32 & 0xffff0000 : 0);
	t->size = wide ? 4 : 2;
	if (sys_long(c)) {
		u64 high = sys_desc_high(c, gate, X86_GP);

		if (high >> 40 & 0x1f)
			sys_gp(c, error);
		t->rip |= high << 32;
		t->size = 8;
	}
	return gate->low >> 32 & 0x1f;
}

static void load_gate_target(struct tcg_cpu *c, const struct far_target *t, struct sys_desc *d)
{
	u32 error = t->selector & ~3u;

	if (sys_null(t->selector))
		sys_gp(c, 0);
	sys_desc_get(c, t->selector, X86_GP, d);
	if (!desc_is_code(d->attr) || desc_dpl(d) > c->cpl)
		sys_gp(c, error);
	if (!t->call && !(d->attr & DESC_CONFORMING) && desc_dpl(d) != c->cpl)
		sys_gp(c, error);
	if (sys_long(c) && (d->attr & (X86_ATTR_L | X86_ATTR_DB)) != X86_ATTR_L)
		sys_gp(c, error);
	if (!(d->attr & X86_ATTR_P))
		tcg_raise_err(c, X86_NP, error);
}

static void copy_params(struct tcg_cpu *c, struct sys_stack *to, u32 size, u32 n)
{
	struct sys_stack from;
	u64 param[31];

	sys_stack_here(c, &from);
	for (u32 i = 0; i < n; i++)
		param[i] = sys_stack_pop(c, &from, size);
	for (u32 i = n; i-- > 0;)
		sys_stack_push(c, to, size, param[i]);
}

/* A call through a gate into an inner ring: stack from the TSS. */
static void call_inner(struct tcg_cpu *c, const struct far_target *t, const struct x86_seg *cs, u32 cpl, u32 params)
{
	struct sys_stack s;
	struct x86_seg ss;

	if (sys_long(c)) {
		sys_null_ss(&ss, cpl);
		sys_stack_of(c, &s, &ss, sys_tss_rsp(c, cpl, 0), cpl, true, 0);
	} else {
		sys_tss_stack(c, cpl, &s);
	}
	sys_stack_push(c, &s, t->size, c->seg[X86_SS].selector);
	sys_stack_push(c, &s, t->size, c->gpr[X86_RSP]);
	if (!sys_long(c))
		copy_params(c, &s, t->size, params);
	push_return(c, &s, t);
	sys_check_rip(c, cs, t->rip);
	c->seg[X86_SS] = s.seg;
	sys_stack_commit(c, &s);
	sys_set_cs(c, cs, cpl, t->rip);
}

static void far_gate(struct tcg_cpu *c, struct far_target *t, const struct sys_desc *gate)
{
	u32 params = load_call_gate(c, gate, t);
	struct sys_desc d;
	struct x86_seg cs;

	load_gate_target(c, t, &d);
	sys_desc_touch(c, &d);
	sys_desc_seg(&d, t->selector, &cs);
	if (t->call && !(d.attr & DESC_CONFORMING) && desc_dpl(&d) < c->cpl)
		call_inner(c, t, &cs, desc_dpl(&d), params);
	else
		transfer(c, t, &cs);
}

static void far_protected(struct tcg_cpu *c, struct far_target *t)
{
	struct sys_desc d;

	if (sys_null(t->selector))
		sys_gp(c, 0);
	sys_desc_get(c, t->selector, X86_GP, &d);
	if (desc_is_code(d.attr))
		far_code(c, t, &d);
	else if (d.attr & X86_ATTR_S)
		sys_gp(c, t->selector & ~3u);
	else
		far_gate(c, t, &d);
}

static void far_real(struct tcg_cpu *c, const struct far_target *t)
{
	struct sys_stack s;

	if (t->call) {
		sys_stack_here(c, &s);
		push_return(c, &s, t);
	}
	sys_set_real_cs(c, t->selector, t->rip);
	if (t->call)
		sys_stack_commit(c, &s);
}

static void far_transfer(struct tcg_cpu *c, const struct x86_insn *insn)
{
	bool direct = insn->op == OP_CALL_FAR || insn->op == OP_JMP_FAR;
	struct far_target t = {.size = insn->opsize, .next = c->rip + insn->len};

	t.call = insn->op == OP_CALL_FAR || insn->op == OP_CALL_FAR_IND;
	if (direct) {
		t.selector = insn->imm2;
		t.rip = sys_cut((u64)insn->imm, insn->opsize);
	} else {
		u64 va = interp_ea(c, insn, insn->opsize + 2u, false);

		t.rip = mmu_load(c, va, insn->opsize, tcg_data_mode(c));
		t.selector = (u16)mmu_load(c, va + insn->opsize, 2, tcg_data_mode(c));
	}
	if (sys_protected(c))
		far_protected(c, &t);
	else
		far_real(c, &t);
}

static void into(struct tcg_cpu *c, const struct x86_insn *insn)
{
	if (tcg_is_64(c))
		tcg_raise(c, X86_UD);
	if (c->rflags & X86_FLAG_OF)
		sys_software_int(c, insn, X86_OF);
	else
		c->rip += insn->len;
}

void sys_far(struct tcg_cpu *c, const struct x86_insn *insn)
{
	if (insn->feat && !tcg_has(c, insn->feat))
		tcg_raise(c, X86_UD);
	switch (insn->op) {
	case OP_CALL_FAR:
	case OP_CALL_FAR_IND:
	case OP_JMP_FAR:
	case OP_JMP_FAR_IND:
		return far_transfer(c, insn);
	case OP_RETF:
		return sys_retf(c, insn);
	case OP_IRET:
		return sys_iret(c, insn);
	case OP_INT3:
		return sys_software_int(c, insn, X86_BP);
	case OP_INT1:
		return sys_software_int(c, insn, X86_DB);
	case OP_INT:
		return sys_software_int(c, insn, (u8)insn->imm);
	case OP_INTO:
		return into(c, insn);
	case OP_SYSCALL:
		return sys_syscall(c, insn);
	case OP_SYSRET:
		return sys_sysret(c, insn);
	case OP_SYSENTER:
		return sys_sysenter(c, insn);
	case OP_SYSEXIT:
		return sys_sysexit(c, insn);
	case OP_PUSH_SREG:
		return sys_push_sreg(c, insn);
	case OP_POP_SREG:
		return sys_pop_sreg(c, insn);
	default:
		tcg_raise(c, X86_UD);
	}
}
