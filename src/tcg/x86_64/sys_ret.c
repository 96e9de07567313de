/* sys_ret.c: far returns and IRET (SDM 2A/2B "RET", "IRET"; SDM 3A §5.8.6, §6.14.3). Lean. */
#include "tcg/x86_64/sys.h"

/* A return that is being checked. */
struct far_return {
	u64 rip, rsp;
	u16 cs, ss;
	u32 cpl;	 /* after it */
	bool with_stack; /* SS and RSP were on the stack too */
	struct x86_seg cs_seg, ss_seg;
};

/* Checks the code segment to return to; the accessed bit is set. */
static void check_cs(struct tcg_cpu *c, struct far_return *r)
{
	u32 error = r->cs & ~3u;
	struct sys_desc d;

	if (sys_null(r->cs))
		sys_gp(c, 0);
	sys_desc_get(c, r->cs, X86_GP, &d);
	r->cpl = r->cs & 3;
	if (!desc_is_code(d.attr) || r->cpl < c->cpl)
		sys_gp(c, error);
	if (d.attr & DESC_CONFORMING ? desc_dpl(&d) > r->cpl : desc_dpl(&d) != r->cpl)
		sys_gp(c, error);
	if (sys_long(c) && d.attr & X86_ATTR_L && d.attr & X86_ATTR_DB)
		sys_gp(c, error);
	if (!(d.attr & X86_ATTR_P))
		tcg_raise_err(c, X86_NP, error);
	sys_desc_touch(c, &d);
	sys_desc_seg(&d, r->cs, &r->cs_seg);
}

static void check_ss(struct tcg_cpu *c, struct far_return *r)
{
	u32 error = r->ss & ~3u;
	struct sys_desc d;

	if (sys_null(r->ss)) {
		/* Null is good for 64-bit code of CPL 0-2 whose RPL agrees. */
		if (!(sys_long(c) && r->cs_seg.attr & X86_ATTR_L) || r->cpl == 3 || (r->ss & 3) != r->cpl)
			sys_gp(c, 0);
		sys_null_ss(&r->ss_seg, r->cpl);
		return;
	}
	sys_desc_get(c, r->ss, X86_GP, &d);
	if ((r->ss & 3) != r->cpl || !desc_is_writable(d.attr) || desc_dpl(&d) != r->cpl)
		sys_gp(c, error);
	if (!(d.attr & X86_ATTR_P))
		tcg_raise_err(c, X86_SS_EXC, error);
	sys_desc_touch(c, &d);
	sys_desc_seg(&d, r->ss, &r->ss_seg);
}

static void check_return(struct tcg_cpu *c, struct far_return *r)
{
	if (r->with_stack)
		check_ss(c, r);
	sys_check_rip(c, &r->cs_seg, r->rip);
}

/* Data segments that the outer ring may not use become null. */
static void drop_inner_segs(struct tcg_cpu *c)
{
	static const u8 segs[] = {X86_ES, X86_DS, X86_FS, X86_GS};

	for (u32 i = 0; i < ARRAY_SIZE(segs); i++) {
		struct x86_seg *s = &c->seg[segs[i]];
		bool conforming = s->attr & DESC_CODE && s->attr & DESC_CONFORMING;

		if (s->attr & X86_SEG_UNUSABLE || sys_null(s->selector) || conforming || X86_ATTR_DPL(s->attr) >= c->cpl)
			continue;
		*s = (struct x86_seg){.attr = X86_SEG_UNUSABLE};
	}
}

/* All was checked. s: the old stack after what was popped. skip: RETF's immediate, released from the new stack too. */
static void commit_return(struct tcg_cpu *c, const struct far_return *r, struct sys_stack *s, u32 skip)
{
	bool outer = r->cpl > c->cpl, is_64 = sys_long(c) && r->cs_seg.attr & X86_ATTR_L;

	if (r->with_stack) {
		u64 old = c->gpr[X86_RSP];

		c->seg[X86_SS] = r->ss_seg;
		sys_stack_of(c, s, &r->ss_seg, r->rsp, r->cpl, is_64, 0);
		/* A 16-bit stack leaves the upper half of ESP as it was. */
		if (s->mask == 0xffff)
			s->sp = (old & ~0xffffull) | (r->rsp & 0xffff);
	}
	sys_stack_skip(s, skip);
	sys_stack_commit(c, s);
	sys_set_cs(c, &r->cs_seg, r->cpl, r->rip);
	if (outer)
		drop_inner_segs(c);
}

static void retf_protected(struct tcg_cpu *c, struct sys_stack *s, u32 size, u32 skip)
{
	struct far_return r = {.rip = sys_stack_pop(c, s, size)};

	r.cs = (u16)sys_stack_pop(c, s, size);
	check_cs(c, &r);
	r.with_stack = r.cpl > c->cpl;
	if (r.with_stack) {
		sys_stack_skip(s, skip);
		r.rsp = sys_stack_pop(c, s, size);
		r.ss = (u16)sys_stack_pop(c, s, size);
	}
	check_return(c, &r);
	commit_return(c, &r, s, skip);
}

void sys_retf(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 size = insn->opsize, skip = insn->imm_size ? (u16)insn->imm : 0;
	struct sys_stack s;
	u16 selector;
	u64 rip;

	sys_stack_here(c, &s);
	if (sys_protected(c)) {
		retf_protected(c, &s, size, skip);
		return;
	}
	rip = sys_stack_pop(c, &s, size);
	selector = (u16)sys_stack_pop(c, &s, size);
	sys_stack_skip(&s, skip);
	sys_set_real_cs(c, selector, rip);
	sys_stack_commit(c, &s);
}

/* ---- IRET ---- */

#define FLAGS_ALWAYS (X86_FLAGS_ARITH | X86_FLAG_TF | X86_FLAG_DF | X86_FLAG_NT)

static void set_flags(struct tcg_cpu *c, u64 value, u64 mask)
{
	bool had = c->rflags & X86_FLAG_IF;

	c->rflags = (c->rflags & ~mask) | (value & mask) | 2;
	if (!had && c->rflags & X86_FLAG_IF)
		sys_look(c);
}

/* Bits that IRET takes from the stack, at the privilege level it is executed at. */
static u64 iret_mask(const struct tcg_cpu *c, u32 size)
{
	u64 mask = FLAGS_ALWAYS;

	if (size > 2)
		mask |= X86_FLAG_RF | X86_FLAG_AC | X86_FLAG_ID;
	if (c->cpl <= sys_iopl(c))
		mask |= X86_FLAG_IF;
	if (c->cpl == 0)
		mask |= X86_FLAG_IOPL | (size > 2 ? X86_FLAG_VIF | X86_FLAG_VIP : 0);
	return mask;
}

static void iret_real(struct tcg_cpu *c, u32 size)
{
	bool vm = c->rflags & X86_FLAG_VM;
	u64 mask = FLAGS_ALWAYS | X86_FLAG_IF, rip, flags;
	struct sys_stack s;
	u16 selector;

	if (vm && sys_iopl(c) < 3)
		sys_gp(c, 0);
	sys_stack_here(c, &s);
	rip = sys_stack_pop(c, &s, size);
	selector = (u16)sys_stack_pop(c, &s, size);
	flags = sys_stack_pop(c, &s, size);
	if (size > 2)
		mask |= X86_FLAG_RF | X86_FLAG_AC | X86_FLAG_ID;
	if (!vm)
		mask |= X86_FLAG_IOPL;
	sys_set_real_cs(c, selector, rip);
	sys_stack_commit(c, &s);
	set_flags(c, flags, mask);
}

/* From ring 0 of 32-bit protected mode into virtual 8086 mode. */
static void iret_to_vm86(struct tcg_cpu *c, struct sys_stack *s, u64 rip, u16 cs, u64 flags)
{
	static const u8 segs[] = {X86_ES, X86_DS, X86_FS, X86_GS};
	u64 sp = sys_stack_pop(c, s, 4), selectors[5];

	for (u32 i = 0; i < 5; i++)
		selectors[i] = sys_stack_pop(c, s, 4);
	if (rip > 0xffff)
		sys_gp(c, 0);
	set_flags(c, flags, iret_mask(c, 4) | X86_FLAG_VM);
	c->cpl = 3;
	c->gpr[X86_RSP] = sp;
	sys_set_real_seg(c, X86_SS, (u16)selectors[0]);
	for (u32 i = 0; i < 4; i++)
		sys_set_real_seg(c, segs[i], (u16)selectors[i + 1]);
	sys_set_real_seg(c, X86_CS, cs);
	c->rip = rip;
	tcg_mode_update(c);
}

static void iret_protected(struct tcg_cpu *c, u32 size)
{
	struct far_return r = {0};
	struct sys_stack s;
	u64 flags, mask;

	/* NT: a return to another task, which is none in long mode, and not supported outside. */
	if (c->rflags & X86_FLAG_NT)
		sys_gp(c, 0);
	sys_stack_here(c, &s);
	r.rip = sys_stack_pop(c, &s, size);
	r.cs = (u16)sys_stack_pop(c, &s, size);
	flags = sys_stack_pop(c, &s, size);
	if (flags & X86_FLAG_VM && !sys_long(c) && c->cpl == 0 && size == 4) {
		iret_to_vm86(c, &s, r.rip, r.cs, flags);
		return;
	}
	check_cs(c, &r);
	r.with_stack = tcg_is_64(c) || r.cpl > c->cpl;
	if (r.with_stack) {
		r.rsp = sys_stack_pop(c, &s, size);
		r.ss = (u16)sys_stack_pop(c, &s, size);
	}
	check_return(c, &r);
	mask = iret_mask(c, size);
	commit_return(c, &r, &s, 0);
	set_flags(c, flags, mask);
}

void sys_iret(struct tcg_cpu *c, const struct x86_insn *insn)
{
	/* NMIs are unblocked even when IRET faults (SDM 3A §6.7.1). */
	if (c->nmi_masked) {
		c->nmi_masked = false;
		sys_look(c);
	}
	if (sys_protected(c))
		iret_protected(c, insn->opsize);
	else
		iret_real(c, insn->opsize);
	c->shadow = 0;
	tcg_mode_update(c);
}
