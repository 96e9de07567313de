/* interp_alu.c: integer instructions: arithmetic, shifts, moves; the rest by interp_bits.c and interp_atomic.c. Lean. */
#include "tcg/x86_64/interp_int.h"

static void set_arith(struct tcg_cpu *c, u32 f)
{
	c->rflags = interp_flags_merge(c->rflags, f);
}

/* Destination = kernel(destination, src). Flags change after all that can fault. */
static void modify_operand(struct tcg_cpu *c, const struct x86_insn *insn, interp_kernel kernel, u64 src)
{
	const struct x86_opnd *o = &insn->opnd[0];
	u32 f = interp_flags_pack(c->rflags);

	if (o->kind == OPND_MEM)
		interp_modify(c, interp_ea(c, insn, o->size, true), o->size, insn->lock, kernel, src, &f);
	else
		interp_write(c, insn, 0, kernel(interp_read(c, insn, 0), src, o->size, &f));
	set_arith(c, f);
}

/* Rotations of a register by an immediate other than 1 leave OF alone; all others compute it (Intel; undefined in SDM 2B RCL). */
static void rotate(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 count = interp_read(c, insn, 1), of = c->rflags & X86_FLAG_OF;
	u32 bits = insn->opnd[0].size == 8 ? 63 : 31;

	modify_operand(c, insn, interp_kernel_of(insn->op), count);
	if (insn->opnd[1].kind == OPND_IMM && insn->opnd[0].kind != OPND_MEM && (count & bits) != 1)
		c->rflags = (c->rflags & ~X86_FLAG_OF) | of;
}

static void two_operands(struct tcg_cpu *c, const struct x86_insn *insn)
{
	modify_operand(c, insn, interp_kernel_of(insn->op), interp_read(c, insn, 1));
}

static void compare(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 a = interp_read(c, insn, 0), b = interp_read(c, insn, 1);
	u32 f = interp_flags_pack(c->rflags);

	interp_kernel_of(insn->op)(a, b, insn->opnd[0].size, &f);
	set_arith(c, f);
}

/* MUL IMUL1 DIV IDIV */
static void wide(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 size = insn->opnd[0].size, f = interp_flags_pack(c->rflags), lo_size = size == 1 ? 2 : size;
	u64 src = interp_read(c, insn, 0);
	u64 lo = interp_reg(c, X86_RAX, lo_size), hi = interp_reg(c, X86_RDX, size);

	if ((insn->op == OP_DIV || insn->op == OP_IDIV) && !interp_div_ok(insn->op, lo, hi, src, size))
		tcg_raise(c, X86_DE);
	interp_wide(insn->op, &lo, &hi, src, size, &f);
	interp_set_reg(c, X86_RAX, lo_size, lo);
	if (size > 1)
		interp_set_reg(c, X86_RDX, size, hi);
	set_arith(c, f);
}

static void imul(struct tcg_cpu *c, const struct x86_insn *insn)
{
	bool three = insn->nr_opnds > 2;
	u64 a = interp_read(c, insn, three), b = interp_read(c, insn, three + 1u);
	u32 f = interp_flags_pack(c->rflags);

	interp_write(c, insn, 0, interp_kernel_of(OP_IMUL)(a, b, insn->opnd[0].size, &f));
	set_arith(c, f);
}

static void double_shift(struct tcg_cpu *c, const struct x86_insn *insn)
{
	const struct x86_opnd *o = &insn->opnd[0];
	bool mem = o->kind == OPND_MEM;
	u64 va = mem ? interp_ea(c, insn, o->size, true) : 0, a, b = interp_read(c, insn, 1);
	u8 count = (u8)interp_read(c, insn, 2);
	u32 f = interp_flags_pack(c->rflags);

	if (mem)
		mmu_probe(c, va, o->size, MMU_WRITE, tcg_data_mode(c));
	a = mem ? interp_load(c, va, o->size) : interp_read(c, insn, 0);
	a = insn->op == OP_SHLD ? interp_shld(a, b, count, o->size, &f) : interp_shrd(a, b, count, o->size, &f);
	if (mem)
		interp_store(c, va, o->size, a);
	else
		interp_write(c, insn, 0, a);
	set_arith(c, f);
}

static u64 sign_extend(u64 v, u32 size)
{
	u32 unused = 64 - 8 * size;

	return (u64)((s64)(v << unused) >> unused);
}

static u64 byte_swap(u64 v, u32 size)
{
	return __builtin_bswap64(v) >> (64 - 8 * size);
}

/* XCHG, XADD: memory first, and only then registers. XCHG with memory is always locked. */
static void exchange(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 mem = insn->opnd[1].kind == OPND_MEM, size = insn->opnd[0].size, f = interp_flags_pack(c->rflags);
	u64 src = interp_read(c, insn, !mem), old;
	interp_kernel kernel = interp_kernel_of(insn->op);

	if (insn->opnd[mem].kind == OPND_MEM) {
		old = interp_modify(c, interp_ea(c, insn, size, true), size, insn->lock || insn->op == OP_XCHG, kernel, src, &f);
		interp_write(c, insn, !mem, old);
	} else {
		old = interp_read(c, insn, 0);
		interp_write(c, insn, 1, old);
		interp_write(c, insn, 0, kernel(old, src, size, &f));
	}
	set_arith(c, f);
}

static void cmov(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 src = interp_read(c, insn, 1);

	interp_write(c, insn, 0, interp_condition(c->rflags, insn->cc) ? src : interp_read(c, insn, 0));
}

static void xlat(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 off = (c->gpr[X86_RBX] + (c->gpr[X86_RAX] & 0xff)) & interp_mask(insn->adsize);

	interp_set_reg(c, X86_RAX, 1, interp_load(c, interp_linear(c, interp_data_seg(insn), off, 1, false), 1));
}

static void move(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 size = insn->opnd[0].size;
	u64 v;

	switch (insn->op) {
	case OP_LEA:
		v = interp_offset(c, insn);
		break;
	case OP_MOVSX:
		v = sign_extend(interp_read(c, insn, 1), insn->opnd[1].size);
		break;
	case OP_MOVBE:
		v = byte_swap(interp_read(c, insn, 1), size);
		break;
	default:
		v = interp_read(c, insn, 1);
		break;
	}
	interp_write(c, insn, 0, v);
}

/* CBW CWDE CDQE, CWD CDQ CQO. */
static void widen(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 size = insn->opsize;

	if (insn->op == OP_CBW)
		interp_set_reg(c, X86_RAX, size, sign_extend(c->gpr[X86_RAX], size / 2));
	else
		interp_set_reg(c, X86_RDX, size, c->gpr[X86_RAX] >> (8 * size - 1) & 1 ? ~0ull : 0);
}

static void flag_insn(struct tcg_cpu *c, const struct x86_insn *insn)
{
	const u64 low = X86_FLAG_SF | X86_FLAG_ZF | X86_FLAG_AF | X86_FLAG_PF | X86_FLAG_CF;

	switch (insn->op) {
	case OP_LAHF:
		c->gpr[X86_RAX] = (c->gpr[X86_RAX] & ~0xff00ull) | ((c->rflags & low) | 2) << 8;
		break;
	case OP_SAHF:
		c->rflags = (c->rflags & ~low) | (c->gpr[X86_RAX] >> 8 & low);
		break;
	case OP_CLC:
		c->rflags &= ~X86_FLAG_CF;
		break;
	case OP_STC:
		c->rflags |= X86_FLAG_CF;
		break;
	case OP_CMC:
		c->rflags ^= X86_FLAG_CF;
		break;
	case OP_CLD:
		c->rflags &= ~X86_FLAG_DF;
		break;
	case OP_STD:
		c->rflags |= X86_FLAG_DF;
		break;
	default: /* OP_SALC */
		interp_set_reg(c, X86_RAX, 1, c->rflags & X86_FLAG_CF ? 0xff : 0);
		break;
	}
}

void interp_alu(struct tcg_cpu *c, const struct x86_insn *insn)
{
	switch (insn->op) {
	case OP_CMP:
	case OP_TEST:
		compare(c, insn);
		break;
	case OP_ROL:
	case OP_ROR:
		rotate(c, insn);
		break;
	case OP_ADD ... OP_XOR:
	case OP_RCL ... OP_SAR:
		two_operands(c, insn);
		break;
	case OP_NOT ... OP_DEC:
	case OP_BSWAP:
		modify_operand(c, insn, interp_kernel_of(insn->op), 0);
		break;
	case OP_MUL ... OP_IDIV:
		wide(c, insn);
		break;
	case OP_IMUL:
		imul(c, insn);
		break;
	case OP_SHLD:
	case OP_SHRD:
		double_shift(c, insn);
		break;
	case OP_MOV ... OP_LEA:
		move(c, insn);
		break;
	case OP_XCHG:
	case OP_XADD:
		exchange(c, insn);
		break;
	case OP_CMPXCHG:
		interp_cmpxchg(c, insn);
		break;
	case OP_CMPXCHG8B:
	case OP_CMPXCHG16B:
		interp_cmpxchg_wide(c, insn);
		break;
	case OP_CMOV:
		cmov(c, insn);
		break;
	case OP_SETCC:
		interp_write(c, insn, 0, interp_condition(c->rflags, insn->cc));
		break;
	case OP_CBW:
	case OP_CWD:
		widen(c, insn);
		break;
	case OP_LAHF ... OP_SALC:
		flag_insn(c, insn);
		break;
	case OP_XLAT:
		xlat(c, insn);
		break;
	case OP_AAA ... OP_DAS:
		interp_bcd(c, insn);
		break;
	default:
		interp_bits(c, insn);
		break;
	}
}
