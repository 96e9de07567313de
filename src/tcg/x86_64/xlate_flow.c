/* xlate_flow.c: stack and control transfers in translated code; exits, guards, the jump cache (design/tcg.md 6). */
#include "tcg/x86_64/xlate_impl.h"

/* ---- leaving ---- */

void xlate_leave(struct xlate *x, u32 arg)
{
	xlate_tail(x, TAIL_LEAVE, false, e_jmp(&x->e, NULL), arg);
}

static bool same_page(const struct xlate *x, u64 va)
{
	return (va & ~(MEM_PAGE_SIZE - 1)) == x->page_va;
}

static struct unit_exit *new_exit(struct xlate *x, u64 target, bool back, u32 *index)
{
	struct unit_exit *exit;

	ASSERT(x->nr_exits < UNIT_MAX_EXITS);
	*index = x->first_exit + x->nr_exits++;
	exit = &x->k->exits[*index];
	*exit = (struct unit_exit){.unit = x->unit, .target = (s32)(target - x->va), .back = back, .linked = UNIT_NONE};
	return exit;
}

/*
 * An exit to another page. In user code the itlb slot of the target must hold the id that the exit was linked for; in kernel code, whose
 * mappings are global and hardly change, k_epoch must be the one of the time of linking. Until then, a number that never fits.
 *	cmp	dword [rsp + id], imm32		or	mov	ecx, [rsp + id]
 *	jne	stub					lea	ecx, [rcx - imm32]
 *							jrcxz	1f
 *							jmp	stub
 *	jmp	target				1:	jmp	target
 */
void xlate_guard(struct xlate *x, struct tail *stub, u64 target, u32 exit, bool live)
{
	s32 slot = (s32)offsetof(struct tcg_cpu, k_epoch);
	struct unit_exit *e = &x->k->exits[exit];

	if (x->mode & TCG_MODE_USER)
		slot = xlate_itlb_slot(x->mode, target);
	if (live) {
		e_op_mem(&x->e, 0, 0x8b, T2, EENV(slot));
		e->slot = e_off_of(&x->e, x->e.p) - 4;
		e_align_patch(&x->e, 2);
		e8(&x->e, 0x8d);
		e8(&x->e, 0x89);
		e->guard = e_off_of(&x->e, x->e.p);
		e32(&x->e, 1);
		e_jrcxz(&x->e, 5);
		stub->fix[0] = e_jmp(&x->e, NULL);
	} else {
		e_align_patch(&x->e, 7);
		e_op_mem(&x->e, 0, 0x81, 7, EENV(slot));
		e->slot = e_off_of(&x->e, x->e.p) - 4;
		e->guard = e_off_of(&x->e, x->e.p);
		e32(&x->e, UINT32_MAX);
		stub->fix[0] = e_jcc(&x->e, CC_NE, NULL);
	}
	e->guard_neg = live;
	e_align_patch(&x->e, 1);
	stub->fix[1] = e_jmp(&x->e, NULL);
	e->site = e_off_of(&x->e, stub->fix[1]);
}

void xlate_exit(struct xlate *x, u32 cc, u64 target, bool back, bool live)
{
	bool near = same_page(x, target);
	struct unit_exit *e;
	u32 index;

	e = new_exit(x, target, back, &index);
	if (near) {
		e_align_patch(&x->e, cc < 16 ? 2 : 1);
		struct tail *stub = xlate_tail(x, TAIL_EXIT, live, cc < 16 ? e_jcc(&x->e, cc, NULL) : e_jmp(&x->e, NULL), index);

		e->site = e_off_of(&x->e, stub->fix[0]);
	} else if (cc < 16) {
		xlate_tail(x, TAIL_GUARD, live, e_jcc(&x->e, cc, NULL), index)->target = target;
	} else {
		xlate_guard(x, xlate_tail(x, TAIL_EXIT, live, NULL, index), target, index, live);
	}
}

/*
 * To the guest address in T0, through the jump cache. Flags are taken to be live: a RET or an indirect jump says nothing about them.
 *	pext	T1, T0, [rsp + jump mask]
 *	lea	T1, [T1 + T1]
 *	mov	T2, [rsp + T1 * 8 + neg]
 *	lea	T2, [T2 + T0]
 *	jrcxz	1f
 *	call	leave_lookup
 * 1:	jmp	[rsp + T1 * 8 + host]
 */
static void indirect(struct xlate *x)
{
	if (x->mode & TCG_MODE_AC) { /* its jump cache is small: the dispatcher uses it */
		xlate_call_thunk(x, x->k->leave_lookup);
		return;
	}
	e_pext(&x->e, T1, T0, EENV(x->mode & TCG_MODE_USER ? offsetof(struct tcg_cpu, jump_mask) : offsetof(struct tcg_cpu, k_jump_mask)));
	e_lea(&x->e, T1, EMEMX(T1, T1, 1, 0));
	e_load(&x->e, T2, EMEMX(H_RSP, T1, 8, x->jump));
	e_lea(&x->e, T2, EMEMX(T2, T0, 1, 0));
	e_jrcxz(&x->e, 5);
	xlate_call_thunk(x, x->k->leave_lookup);
	e_op_mem(&x->e, 0, 0xff, 4, EMEMX(H_RSP, T1, 8, x->jump + 8));
}

/* ---- stack ---- */

static void adjust_rsp(struct xlate *x, s32 by)
{
	e_lea(&x->e, H_GUEST_RSP, EMEM(H_GUEST_RSP, by));
}

struct emem xlate_push_slot(struct xlate *x)
{
	return xlate_access(x, X86_RSP, -8, 8, true);
}

struct emem xlate_pop_slot(struct xlate *x)
{
	return xlate_access(x, X86_RSP, 0, 8, false);
}

static struct emem scratch(u32 n)
{
	return EENV(offsetof(struct tcg_cpu, scratch) + 8 * n);
}

static bool push(struct xlate *x, const struct x86_insn *in)
{
	const struct x86_opnd *o = &in->opnd[0];
	struct emem slot;

	if (in->opsize != 8)
		return false;
	if (o->kind == OPND_MEM) {
		e_load(&x->e, T0, xlate_operand(x, in));
		e_store(&x->e, T0, scratch(0));
		x->group.on = false;
	}
	slot = xlate_push_slot(x);
	if (o->kind == OPND_IMM) { /* mov qword [slot], simm32 */
		e_op_mem(&x->e, 1, 0xc7, 0, slot);
		e32(&x->e, (u32)in->imm);
	} else if (o->kind == OPND_MEM) {
		e_load(&x->e, T2, scratch(0));
		e_store(&x->e, T2, slot);
	} else {
		e_store(&x->e, xlate_get(x, o->reg, T2), slot);
	}
	adjust_rsp(x, -8);
	return true;
}

static bool pop(struct xlate *x, const struct x86_insn *in)
{
	struct emem slot;
	u32 reg;

	if (in->opsize != 8 || in->opnd[0].kind != OPND_GPR)
		return false;
	slot = xlate_pop_slot(x);
	reg = xlate_host_reg(in->opnd[0].reg);
	e_load(&x->e, reg == HOME ? T1 : reg, slot);
	if (reg == HOME)
		e_store(&x->e, T1, xlate_home(in->opnd[0].reg));
	if (reg != H_GUEST_RSP)
		adjust_rsp(x, 8);
	return true;
}

static bool leave(struct xlate *x, const struct x86_insn *in)
{
	struct emem slot;

	if (in->opsize != 8)
		return false;
	slot = xlate_access(x, X86_RBP, 0, 8, false);
	e_lea(&x->e, H_GUEST_RSP, EMEM(H_RBP, 8));
	e_load(&x->e, H_RBP, slot);
	return true;
}

/* ---- calls and jumps ---- */

static void push_return(struct xlate *x, const struct x86_insn *in)
{
	struct emem slot = xlate_push_slot(x);

	xlate_mov_va(x, T2, x->insn_va[x->cur] + in->len);
	e_store(&x->e, T2, slot);
	adjust_rsp(x, -8);
}

static u64 branch_target(const struct xlate *x, const struct x86_insn *in)
{
	return x->insn_va[x->cur] + in->len + (u64)in->imm;
}

static bool call(struct xlate *x, const struct x86_insn *in)
{
	u64 target = branch_target(x, in);

	if (!tcg_canonical(target))
		return false;
	push_return(x, in);
	xlate_exit(x, 16, target, target <= x->insn_va[x->cur], x->need[x->cur + 1]);
	return true;
}

static bool call_indirect(struct xlate *x, const struct x86_insn *in)
{
	const struct x86_opnd *o = &in->opnd[0];

	if (in->opsize != 8 || (o->kind == OPND_GPR && o->reg == X86_RSP))
		return false;
	if (o->kind == OPND_MEM) {
		e_load(&x->e, T0, xlate_operand(x, in));
		e_store(&x->e, T0, scratch(0));
		x->group.on = false;
	}
	push_return(x, in);
	if (o->kind == OPND_MEM) {
		e_load(&x->e, T0, scratch(0));
	} else {
		u32 reg = xlate_get(x, o->reg, T0);

		if (reg != T0)
			e_mov(&x->e, T0, reg);
	}
	indirect(x);
	return true;
}

static bool jump_indirect(struct xlate *x, const struct x86_insn *in)
{
	const struct x86_opnd *o = &in->opnd[0];
	u32 reg;

	if (in->opsize != 8)
		return false;
	if (o->kind == OPND_MEM) {
		e_load(&x->e, T0, xlate_operand(x, in));
	} else {
		reg = xlate_get(x, o->reg, T0);
		if (reg != T0)
			e_mov(&x->e, T0, reg);
	}
	indirect(x);
	return true;
}

static bool ret(struct xlate *x, const struct x86_insn *in)
{
	if (in->opsize != 8)
		return false;
	e_load(&x->e, T0, xlate_pop_slot(x));
	adjust_rsp(x, 8 + (s32)(in->imm & 0xffff));
	indirect(x);
	return true;
}

static bool jump(struct xlate *x, const struct x86_insn *in)
{
	u64 target = branch_target(x, in);

	if (!tcg_canonical(target))
		return false;
	/* A jump that the unit has followed is no code at all. */
	if (x->cur + 1 < x->nr && x->insn_va[x->cur + 1] == target)
		return true;
	xlate_exit(x, 16, target, target <= x->insn_va[x->cur], x->need[x->cur + 1]);
	return true;
}

static bool jump_if(struct xlate *x, const struct x86_insn *in)
{
	u64 target = branch_target(x, in);

	if (!tcg_canonical(target))
		return false;
	/* need[cur + 1] is what the other way needs; of a target in another page nothing is known. */
	xlate_exit(x, in->cc, target, target <= x->insn_va[x->cur], true);
	return true;
}

/*
 * JRCXZ and LOOP jump on rcx without a look at the flags:
 *	[lea	r9, [r9 - 1]]
 *	mov	rcx, r9
 *	jrcxz	1f			LOOP: falls through when rcx is zero; JRCXZ: jumps
 *	jmp	other
 * 1:
 */
static bool jump_rcx(struct xlate *x, const struct x86_insn *in)
{
	u64 target = branch_target(x, in), next = x->insn_va[x->cur] + in->len;

	if (in->adsize != 8 || !tcg_canonical(target))
		return false;
	if (in->op == OP_LOOP)
		e_lea(&x->e, H_GUEST_RCX, EMEM(H_GUEST_RCX, -1));
	e_mov(&x->e, T2, H_GUEST_RCX);
	e_jrcxz(&x->e, 5);
	/* Both ways are exits; the first goes through a tail of its own, so that the short jump always spans five bytes. */
	if (in->op == OP_LOOP) {
		u32 index;

		new_exit(x, target, target <= x->insn_va[x->cur], &index);
		xlate_tail(x, TAIL_GUARD, true, e_jmp(&x->e, NULL), index)->target = target;
		xlate_exit(x, 16, next, false, true);
	} else {
		u32 index;

		new_exit(x, next, false, &index);
		xlate_tail(x, TAIL_GUARD, true, e_jmp(&x->e, NULL), index)->target = next;
		xlate_exit(x, 16, target, target <= x->insn_va[x->cur], true);
	}
	return true;
}

bool xlate_flow(struct xlate *x, const struct x86_insn *in)
{
	switch (in->op) {
	case OP_PUSH:
		return push(x, in);
	case OP_POP:
		return pop(x, in);
	case OP_LEAVE:
		return leave(x, in);
	case OP_CALL:
		return call(x, in);
	case OP_CALL_IND:
		return call_indirect(x, in);
	case OP_JMP:
		return jump(x, in);
	case OP_JMP_IND:
		return jump_indirect(x, in);
	case OP_JCC:
		return jump_if(x, in);
	case OP_JRCXZ:
	case OP_LOOP:
		return jump_rcx(x, in);
	case OP_RET:
		return ret(x, in);
	default:
		return false;
	}
}
