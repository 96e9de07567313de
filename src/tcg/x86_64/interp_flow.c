/* interp_flow.c: stack instructions and near control transfers. Targets are checked before the stack moves. Lean. */
#include "tcg/x86_64/interp_int.h"

/* ---- stack ---- */

static void push_operand(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 v = insn->nr_opnds ? interp_read(c, insn, 0) : (u64)insn->imm;

	/* Immediates are sign-extended to the operand size, which is not theirs in all encodings. */
	if (insn->nr_opnds && insn->opnd[0].kind == OPND_IMM)
		v = (u64)insn->imm;
	interp_push(c, insn->opsize, v);
}

/* POP to memory computes its address with the new RSP (SDM 2B POP); nothing has changed when it faults. */
static void pop_operand(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 v = interp_peek(c, 0, insn->opsize), old = c->gpr[X86_RSP], off, va;

	if (insn->opnd[0].kind != OPND_MEM) {
		interp_stack_add(c, insn->opsize);
		interp_set_reg(c, insn->opnd[0].reg, insn->opsize, v);
		return;
	}
	interp_stack_add(c, insn->opsize);
	off = interp_offset(c, insn);
	c->gpr[X86_RSP] = old;
	va = interp_linear(c, insn->mem.seg, off, insn->opsize, true);
	interp_store(c, va, insn->opsize, v);
	interp_stack_add(c, insn->opsize);
}

static void push_at(struct tcg_cpu *c, u64 sp, u32 size, u64 v)
{
	interp_store(c, interp_linear(c, X86_SS, sp & interp_stack_mask(c), size, true), size, v & interp_mask(size));
}

static void push_all(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 size = insn->opsize;
	u64 sp = c->gpr[X86_RSP];

	for (u32 i = 0; i < 8; i++)
		push_at(c, sp - (i + 1) * size, size, c->gpr[i]);
	interp_stack_add(c, -(u64)(8 * size));
}

static void pop_all(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 size = insn->opsize;
	u64 v[8];

	for (u32 i = 0; i < 8; i++)
		v[i] = interp_peek(c, (u64)(7 - i) * size, size);
	for (u32 i = 0; i < 8; i++)
		if (i != X86_RSP)
			interp_set_reg(c, i, size, v[i]);
	interp_stack_add(c, 8 * size);
}

/* Virtual 8086 mode (without VME, which is not shown): IOPL must be 3. */
static void check_vm86(struct tcg_cpu *c)
{
	if (c->rflags & X86_FLAG_VM && (c->rflags & X86_FLAG_IOPL) != X86_FLAG_IOPL)
		tcg_raise_err(c, X86_GP, 0);
}

static void pop_flags(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 mask = X86_FLAGS_ARITH | X86_FLAG_TF | X86_FLAG_IF | X86_FLAG_DF | X86_FLAG_IOPL | X86_FLAG_NT;
	u64 v;

	check_vm86(c);
	v = interp_pop(c, insn->opsize);
	if (insn->opsize > 2)
		mask |= X86_FLAG_AC | X86_FLAG_ID;
	interp_set_flags(c, v, mask);
}

/* SDM 2A ENTER. Registers change last, so a fault anywhere can be begun anew; the new top of the stack must be writable. */
static void enter(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 size = insn->opsize, level = insn->imm2 & 31, alloc = (u16)insn->imm;
	u64 mask = interp_stack_mask(c), sp = c->gpr[X86_RSP] - size, bp = c->gpr[X86_RBP], frame = sp;

	push_at(c, sp, size, bp);
	for (u32 i = 1; i < level; i++) {
		u64 from = (bp - (u64)i * size) & mask;

		sp -= size;
		push_at(c, sp, size, interp_load(c, interp_linear(c, X86_SS, from, size, false), size));
	}
	if (level) {
		sp -= size;
		push_at(c, sp, size, frame);
	}
	sp -= alloc;
	mmu_probe(c, interp_linear(c, X86_SS, sp & mask, 1, true), 1, MMU_WRITE, tcg_data_mode(c));
	/* The frame pointer is of the operand's size, but never of more bits than the stack's. */
	interp_set_reg(c, X86_RBP, size, mask == 0xffff ? frame & mask : frame);
	interp_set_sp(c, sp);
}

static void leave(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 size = insn->opsize;
	u64 sp = c->gpr[X86_RBP] & interp_stack_mask(c);
	u64 v = interp_load(c, interp_linear(c, X86_SS, sp, size, false), size);

	interp_set_sp(c, sp + size);
	interp_set_reg(c, X86_RBP, size, v);
}

static void stack_insn(struct tcg_cpu *c, const struct x86_insn *insn)
{
	switch (insn->op) {
	case OP_PUSH:
		push_operand(c, insn);
		break;
	case OP_POP:
		pop_operand(c, insn);
		break;
	case OP_PUSHA:
		push_all(c, insn);
		break;
	case OP_POPA:
		pop_all(c, insn);
		break;
	case OP_PUSHF:
		check_vm86(c);
		interp_push(c, insn->opsize, c->rflags & ~(X86_FLAG_VM | X86_FLAG_RF));
		break;
	case OP_POPF:
		pop_flags(c, insn);
		break;
	case OP_ENTER:
		enter(c, insn);
		break;
	default: /* OP_LEAVE */
		leave(c, insn);
		break;
	}
	c->rip = interp_next_rip(c, insn);
}

/* ---- control transfer ---- */

static u64 relative(const struct tcg_cpu *c, const struct x86_insn *insn)
{
	return c->rip + insn->len + (u64)insn->imm;
}

static void call(struct tcg_cpu *c, const struct x86_insn *insn, u64 to)
{
	u64 target = interp_target(c, to, insn->opsize);

	interp_push(c, insn->opsize, interp_next_rip(c, insn));
	c->rip = target;
}

static void ret(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 target = interp_target(c, interp_peek(c, 0, insn->opsize), insn->opsize);

	interp_stack_add(c, insn->opsize + (u64)(u16)insn->imm);
	c->rip = target;
}

static void jump_if(struct tcg_cpu *c, const struct x86_insn *insn, bool yes)
{
	c->rip = yes ? interp_target(c, relative(c, insn), insn->opsize) : interp_next_rip(c, insn);
}

/* The count is of the address size and written even when the jump is not taken; not when the target faults. */
static void loop(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 count = (c->gpr[X86_RCX] - 1) & interp_mask(insn->adsize);
	bool zf = c->rflags & X86_FLAG_ZF;

	jump_if(c, insn, count && (insn->op == OP_LOOP || zf == (insn->op == OP_LOOPE)));
	interp_set_reg(c, X86_RCX, insn->adsize, count);
}

void interp_flow(struct tcg_cpu *c, const struct x86_insn *insn)
{
	switch (insn->op) {
	case OP_CALL:
		call(c, insn, relative(c, insn));
		break;
	case OP_CALL_IND:
		call(c, insn, interp_read(c, insn, 0));
		break;
	case OP_JMP:
		jump_if(c, insn, true);
		break;
	case OP_JMP_IND:
		interp_jump(c, interp_read(c, insn, 0), insn->opsize);
		break;
	case OP_JCC:
		jump_if(c, insn, interp_condition(c->rflags, insn->cc));
		break;
	case OP_JRCXZ:
		jump_if(c, insn, !interp_reg(c, X86_RCX, insn->adsize));
		break;
	case OP_LOOP:
	case OP_LOOPE:
	case OP_LOOPNE:
		loop(c, insn);
		break;
	case OP_RET:
		ret(c, insn);
		break;
	default:
		stack_insn(c, insn);
		break;
	}
}
