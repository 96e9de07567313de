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
	u8 base; /* guest register, or X86_NO_REG: no access, or one that no group takes */
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
	return in->has_modrm && in->mod != 3 && in->mem.access;
}

/* An operand [base + disp] of a flat segment. */
static bool is_simple(const struct x86_insn *in)
{
	const struct x86_mem *m = &in->mem;

	return !m->moffs && m->base < 16 && m->index == X86_NO_REG && m->seg != X86_FS && m->seg != X86_GS && in->adsize == 8;
}

static bool has_few_temps(const struct x86_insn *in)
{
	return !((in->gpr_read | in->gpr_write) & MOVED) || xlate_temps_needed(in) <= 2; /* two high bytes at most */
}

/* Whether the instruction's code leaves T0 alone, or uses it as the group's. */
static bool keeps_group(const struct x86_insn *in)
{
	if (xlate_traits[in->op] & TRAIT_PLAIN)
		return in->generic && !in->mem.moffs && (!has_operand(in) || is_simple(in)) && has_few_temps(in);
	switch (in->op) {
	case OP_PUSH:
		return in->opsize == 8 && in->opnd[0].kind != OPND_MEM;
	case OP_POP:
		return in->opsize == 8 && in->opnd[0].kind == OPND_GPR;
	case OP_CALL:
	case OP_RET:
		return in->opsize == 8;
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
		if (in->mod != 3 && !in->imm_size)
			return false;
		break;
	}
	return in->generic && has_few_temps(in) && !in->mem.moffs && (!has_operand(in) || is_simple(in)) && in->op != OP_CMPXCHG8B &&
	       in->op != OP_CMPXCHG16B;
}

/* For all instructions of the unit, which are asked many times. */
void xlate_group_prepare(struct xlate *x)
{
	for (u32 i = 0; i < x->nr; i++)
		x->keeps[i] = keeps_group(&x->insns[i]);
}

static struct access access_of(const struct x86_insn *in)
{
	switch (in->op) {
	case OP_PUSH:
	case OP_CALL:
		return (struct access){X86_RSP, -8, 8, true};
	case OP_POP:
	case OP_RET:
		return (struct access){X86_RSP, 0, 8, false};
	case OP_LEA:
		return (struct access){.base = X86_NO_REG};
	default:
		if (!has_operand(in) || !is_simple(in))
			return (struct access){.base = X86_NO_REG};
		return (struct access){in->mem.base, in->mem.disp, in->mem.size, in->mem.access & OPND_W};
	}
}

/* What the instruction adds to register base. False: something that is not known. */
static bool change_of(const struct x86_insn *in, u32 base, s32 *by)
{
	const struct x86_opnd *o = in->opnd;

	*by = 0;
	if (base == X86_RSP && in->op == OP_PUSH)
		*by = -8;
	else if (base == X86_RSP && in->op == OP_POP && o[0].reg != X86_RSP)
		*by = 8;
	else if (base == X86_RSP && (in->op == OP_CALL || in->op == OP_RET))
		return false;
	else if (!(in->gpr_write & BIT(base)))
		return true;
	else if ((in->op != OP_ADD && in->op != OP_SUB) || in->nr_opnds < 2 || o[0].kind != OPND_GPR || o[0].size != 8 ||
		 o[1].kind != OPND_IMM || in->imm < -MAX_SPAN || in->imm > MAX_SPAN)
		return false;
	else
		*by = (s32)(in->op == OP_ADD ? in->imm : -in->imm);
	return true;
}

/* Extends [*lo, *hi) over the accesses that follow the current instruction and can be in its group. */
static void plan(const struct xlate *x, const struct access *first, s32 *lo, s32 *hi)
{
	s32 delta = 0, by;

	for (u32 i = x->cur; i < x->nr && i < x->cur + MAX_LOOK; i++) {
		const struct x86_insn *in = &x->insns[i];

		if (i > x->cur) {
			struct access a;
			s32 from, to;

			if (!x->keeps[i])
				return;
			a = access_of(in);
			from = a.disp + delta;
			to = from + (s32)a.size;
			if (a.base != X86_NO_REG) {
				if (a.base != first->base || (a.write && !first->write) || a.disp < -(1 << 20) || a.disp > 1 << 20 ||
				    MAX(to, *hi) - MIN(from, *lo) > MAX_SPAN)
					return;
				*lo = MIN(*lo, from);
				*hi = MAX(*hi, to);
			}
		}
		if (!change_of(in, first->base, &by))
			return;
		delta += by;
	}
}

/* The check of a new group, then T0 is the host address of base + lo; or of a single access. */
static struct emem begin(struct xlate *x, const struct access *a)
{
	s32 lo = a->disp, hi = lo + (s32)a->size;
	u8 *retry = x->e.p;
	struct emem m;
	u32 base;

	if (!x->single && x->keeps[x->cur] && !x->cross)
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

void xlate_group_moved(struct xlate *x, const struct x86_insn *in)
{
	s32 by;

	if (!change_of(in, x->group.base, &by))
		x->group.on = false;
	else
		x->group.delta += by;
}
