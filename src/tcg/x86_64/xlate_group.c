/*
 * xlate_group.c: one check for several accesses off the same register (design/tcg.md 4).
 *
 * While a group is on, T0 holds the host address of [base + lo), checked up to hi, and nothing of the code in between touches T0, calls C,
 * or changes base but by constants. Whoever begins a group looks at what follows to see how far it reaches.
 *
 * The check is made for the first access, which faults as it would alone, and the group lies in its page: so a group that writes begins
 * with a write. A group that reaches into the next page leaves for a translation without groups (TCG_MODE_SINGLE).
 */
#include "tcg/x86_64/xlate_impl.h"

#define MOVED	 (0xf00 | BIT(X86_RCX)) /* guest registers whose use may take a scratch register */
#define MAX_SPAN 512
#define MAX_LOOK 20u

struct access {
	u8 base; /* guest register */
	s32 disp;
	u32 size;
	bool write;
};

u32 xlate_temps_needed(const struct x86_insn *in)
{
	u32 homed = 0, n = 0;

	if (!((in->gpr_read | in->gpr_write) & MOVED) && (in->rex || in->enc)) /* no high bytes */
		return 0;
	for (u32 i = 0; i < in->nr_opnds; i++) {
		const struct x86_opnd *o = &in->opnd[i];

		if (o->kind == OPND_GPR && xlate_host_reg(o->reg) == HOME)
			homed |= 1u << o->reg;
		if (o->kind == OPND_GPR8H)
			n++;
	}
	if ((in->gpr_read | in->gpr_write) & BIT(X86_RCX))
		n++;
	for (; homed; homed &= homed - 1)
		n++;
	return n;
}

static bool has_operand(const struct x86_insn *in)
{
	return in->has_modrm & (in->mod != 3) & (in->mem.access != 0);
}

/* An operand [base + disp] of a flat segment: no moffs, no index, a base, neither FS nor GS. All in one word of struct x86_mem. */
static bool is_simple(const struct x86_insn *in)
{
	const u64 mask = 0xffull << 40 | 4ull << 24 | 0xff << 8 | 0xf0, want = (u64)X86_NO_REG << 8;

	_Static_assert(offsetof(struct x86_mem, moffs) - offsetof(struct x86_mem, base) == 5 && X86_DS < 4 && X86_FS == 4 && X86_GS == 5,
		       "read as a word");
	return ((ld_le64(&in->mem.base) & mask) == want) & (in->adsize == 8);
}

/* Whether two scratch registers are enough. Three want three of these guest registers, or two high bytes. */
static inline bool has_few_temps(const struct x86_insn *in)
{
	u32 moved = (in->gpr_read | in->gpr_write) & MOVED, third = moved & (moved - 1);
	bool high = (in->opnd[0].kind == OPND_GPR8H) & (in->opnd[1].kind == OPND_GPR8H);

	return likely(!((third & (third - 1)) | high)) || xlate_temps_needed(in) <= 2;
}

/* Whether the instruction's code leaves T0 alone, or uses it as the group's; for those of TRAIT_KEEPS. */
static bool keeps_group(const struct x86_insn *in)
{
	switch (in->op) {
	case OP_JCC:
	case OP_NOP:
	case OP_ENDBR:
		return true;
	case OP_LEA:
		return in->opsize != 2 && (in->mem.base >= 16 || xlate_host_reg(in->mem.base) != HOME) &&
		       xlate_host_reg(in->opnd[0].reg) != HOME;
	case OP_BT:
	case OP_BTS:
	case OP_BTR:
	case OP_BTC:
		return (in->mod == 3 || in->imm_size) && in->generic && has_few_temps(in) && (!has_operand(in) || is_simple(in));
	default: /* CMPXCHG8B and 16B, jumps */
		return false;
	}
}

/* PUSH, POP, CALL, RET */
static void note_stack(struct note *n, const struct x86_insn *in)
{
	bool push = (in->op == OP_PUSH) | (in->op == OP_CALL), alone = in->op <= OP_POP; /* not the end of the unit */
	u8 kind = in->opnd[0].kind;

	n->base = X86_RSP;
	n->size = 8;
	n->write = push;
	n->disp = push ? -8 : 0;
	n->by = push ? -8 : 8;
	if (alone & (push | (in->opnd[0].reg != X86_RSP)))
		n->adds = X86_RSP;
	n->keeps = (in->opsize == 8) & (!alone | (kind == OPND_GPR) | (push & (kind == OPND_IMM)));
}

static bool adds_constant(const struct x86_insn *in)
{
	const struct x86_opnd *o = in->opnd;

	return (in->op == OP_ADD || in->op == OP_SUB) && o[0].kind == OPND_GPR && o[0].size == 8 && o[1].kind == OPND_IMM &&
	       in->imm >= -MAX_SPAN && in->imm <= MAX_SPAN;
}

static void take_note(struct note *n, const struct x86_insn *in)
{
	bool operand = has_operand(in), simple = is_simple(in);
	u8 traits = xlate_traits[in->op];

	n->disp = in->mem.disp;
	n->base = (u8)(in->mem.base | -!(operand & simple));
	n->write = in->mem.access >> 1;
	n->size = in->mem.size;
	n->writes = in->gpr_write;
	n->adds = X86_NO_REG;
	n->by = 0;
	n->form = NOTE_OTHER;
	n->keeps = has_few_temps(in) & in->generic & !in->mem.moffs & (!operand | simple);
	if (traits & TRAIT_STACK) {
		note_stack(n, in);
		return;
	}
	if (traits & TRAIT_KEEPS) {
		n->keeps = keeps_group(in);
		return;
	}
	if (in->generic && (traits & TRAIT_PLAIN || in->op == OP_VEC))
		n->form = xlate_form(in);
	if (adds_constant(in)) {
		n->adds = in->opnd[0].reg;
		n->by = (int16_t)(in->op == OP_ADD ? in->imm : -in->imm);
	}
}

void xlate_take_notes(struct xlate *x)
{
	for (u32 i = 0; i < x->nr; i++)
		take_note(&x->notes[i], &x->insns[i]);
}

/* Extends [*lo, *hi) over the accesses that follow the current instruction and can be in its group. */
static void plan(const struct xlate *x, const struct access *first, s32 *lo, s32 *hi)
{
	const struct note *n = &x->notes[x->cur], *end = &x->notes[MIN(x->nr, x->cur + MAX_LOOK)];
	s32 delta = 0, from, to;

	for (;;) {
		if (n->writes >> first->base & 1) {
			if (n->adds != first->base)
				return;
			delta += n->by;
		}
		if (++n == end || !n->keeps)
			return;
		if (n->base == X86_NO_REG)
			continue;
		if (n->base != first->base || n->write > first->write || n->disp < -(1 << 20) || n->disp > 1 << 20)
			return;
		from = MIN(n->disp + delta, *lo);
		to = MAX(n->disp + delta + n->size, *hi);
		if (to - from > MAX_SPAN)
			return;
		*lo = from;
		*hi = to;
	}
}

/* The check of a new group, then T0 is the host address of base + lo; or of a single access. */
static struct emem begin(struct xlate *x, const struct access *a)
{
	s32 lo = a->disp, hi = lo + (s32)a->size;
	u8 *retry = x->e.p;
	struct emem m;
	u32 base;

	if (!x->single && x->notes[x->cur].keeps && !x->cross)
		plan(x, a, &lo, &hi);
	x->group = (struct group){.on = hi - lo > (s32)a->size, .base = a->base, .lo = lo, .hi = hi, .write = a->write};
	base = xlate_get(x, a->base, T0);
	if (lo || (x->group.on && base != T0)) {
		e_lea(&x->e, T0, EMEM(base, lo));
		base = T0;
	}
	m = xlate_check(x, &(struct check){base, (u32)(hi - lo), (u32)(a->disp - lo), a->size, a->write, x->group.on, retry});
	m.disp += a->disp - lo;
	return m;
}

struct emem xlate_access(struct xlate *x, u32 base, s32 disp, u32 size, bool write)
{
	const struct access a = {(u8)base, disp, size, write};
	struct group *g = &x->group;
	s32 at = disp + g->delta;

	if (g->on && g->base == base && at >= g->lo && at + (s32)size <= g->hi && (!write || g->write))
		return EMEM(T0, at - g->lo);
	return begin(x, &a);
}

struct emem xlate_operand(struct xlate *x, const struct x86_insn *in)
{
	u8 *retry;

	if (is_simple(in))
		return xlate_access(x, in->mem.base, in->mem.disp, in->mem.size, in->mem.access & OPND_W);
	x->group.on = false;
	retry = x->e.p;
	xlate_ea(x, in);
	return xlate_check(x, &(struct check){T0, in->mem.size, 0, in->mem.size, in->mem.access & OPND_W, false, retry});
}
