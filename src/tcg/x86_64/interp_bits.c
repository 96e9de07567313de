/* interp_bits.c: bit tests and scans, BMI, ADX, CRC32, and decimal arithmetic. Lean. */
#include "tcg/x86_64/interp_int.h"

static void set_arith(struct tcg_cpu *c, u32 f)
{
	c->rflags = interp_flags_merge(c->rflags, f);
}

/* With a register as second operand the bit may lie anywhere around the memory operand (SDM 2A §3.1.1.9, bit(BitBase, BitOffset)). */
static u64 bit_address(struct tcg_cpu *c, const struct x86_insn *insn, u64 bit, u32 size, bool write)
{
	u64 off = interp_offset(c, insn);
	u32 unused = 64 - 8 * size;

	if (insn->opnd[1].kind != OPND_IMM) {
		s64 n = (s64)(bit << unused) >> unused;

		off += (u64)(n >> (size == 8 ? 6 : size == 4 ? 5 : 4)) * size;
		off &= interp_mask(insn->adsize);
	}
	return interp_linear(c, insn->mem.seg, off, size, write);
}

/* BT BTS BTR BTC */
static void bit_test(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 size = insn->opnd[0].size, f = interp_flags_pack(c->rflags);
	bool write = insn->op != OP_BT;
	u64 bit = interp_read(c, insn, 1), index = bit & (8 * size - 1), r;
	interp_kernel kernel = interp_kernel_of(insn->op);

	if (insn->opnd[0].kind == OPND_MEM) {
		u64 va = bit_address(c, insn, bit, size, write);

		if (write)
			interp_modify(c, va, size, insn->lock, kernel, index, &f);
		else
			kernel(interp_load(c, va, size), index, size, &f);
	} else {
		r = kernel(interp_read(c, insn, 0), index, size, &f);
		if (write)
			interp_write(c, insn, 0, r);
	}
	set_arith(c, f);
}

/* The whole register goes in and comes out: what a source of zero leaves of it is the host's own. */
static void scan(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 f = interp_flags_pack(c->rflags), op = insn->op;
	u64 src = interp_read(c, insn, 1);

	/* F3 means nothing to a processor without these (SDM 2B LZCNT). */
	if (op == OP_LZCNT && !tcg_has(c, FEAT_LZCNT))
		op = OP_BSR;
	if (op == OP_TZCNT && !tcg_has(c, FEAT_BMI1))
		op = OP_BSF;
	c->gpr[insn->opnd[0].reg] = interp_kernel_of(op)(c->gpr[insn->opnd[0].reg], src, insn->opnd[0].size, &f);
	set_arith(c, f);
}

/* dest = kernel(opnd[first], opnd[second]) */
static void three_operands(struct tcg_cpu *c, const struct x86_insn *insn, u32 first, u32 second)
{
	u32 f = interp_flags_pack(c->rflags);
	u64 b = interp_read(c, insn, second), a = interp_read(c, insn, first);

	interp_write(c, insn, 0, interp_kernel_of(insn->op)(a, b, insn->opnd[0].size, &f));
	/* RORX runs as ROR, whose flags it does not have. */
	if (insn->op != OP_RORX)
		set_arith(c, f);
}

/* High half first operand, low half second; the first wins where they are the same. No flags. */
static void mulx(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 size = insn->opnd[0].size, f = 0;
	u64 hi = 0, lo = interp_reg(c, X86_RDX, size);

	interp_wide(OP_MUL, &lo, &hi, interp_read(c, insn, 2), size, &f);
	interp_write(c, insn, 1, lo);
	interp_write(c, insn, 0, hi);
}

static void crc32(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 a = interp_read(c, insn, 0);

	interp_write(c, insn, 0, interp_kernel_of(OP_CRC32)(a, interp_read(c, insn, 1), insn->opnd[1].size, NULL));
}

void interp_bits(struct tcg_cpu *c, const struct x86_insn *insn)
{
	switch (insn->op) {
	case OP_BT ... OP_BTC:
		bit_test(c, insn);
		break;
	case OP_BSF ... OP_TZCNT:
		scan(c, insn);
		break;
	case OP_BLSI:
	case OP_BLSR:
	case OP_BLSMSK:
	case OP_ADCX:
	case OP_ADOX:
		three_operands(c, insn, 0, 1);
		break;
	case OP_MULX:
		mulx(c, insn);
		break;
	case OP_CRC32:
		crc32(c, insn);
		break;
	case OP_ANDN:
	case OP_BEXTR:
	case OP_BZHI:
	case OP_PDEP:
	case OP_PEXT:
	case OP_RORX:
	case OP_SARX:
	case OP_SHLX:
	case OP_SHRX:
		three_operands(c, insn, 1, 2);
		break;
	default:
		tcg_raise(c, X86_UD);
	}
}

/* ---- decimal: 64-bit hosts cannot run them. Undefined flags as Intel's processors leave them. ---- */

static u64 flags_of_al(u8 al)
{
	u32 f = 0;

	interp_kernel_of(OP_TEST)(al, al, 1, &f);
	return interp_flags_merge(0, f);
}

static void set_al(struct tcg_cpu *c, u8 al, u64 more)
{
	interp_set_reg(c, X86_RAX, 1, al);
	c->rflags = (c->rflags & ~X86_FLAGS_ARITH) | (flags_of_al(al) & ~(X86_FLAG_CF | X86_FLAG_AF | X86_FLAG_OF)) | more;
}

/* SDM 2A DAA, DAS. */
static void decimal_adjust(struct tcg_cpu *c, bool sub)
{
	u8 al = (u8)c->gpr[X86_RAX], old = al;
	bool cf = c->rflags & X86_FLAG_CF, low = (al & 15) > 9 || c->rflags & X86_FLAG_AF, high = old > 0x99 || cf;
	u64 more = (low ? X86_FLAG_AF : 0) | (high ? X86_FLAG_CF : 0);

	if (low) {
		al = (u8)(sub ? al - 6 : al + 6);
		if (sub && old < 6)
			more |= X86_FLAG_CF;
	}
	if (high)
		al = (u8)(sub ? al - 0x60 : al + 0x60);
	set_al(c, al, more);
}

/* SDM 2A AAA, AAS. */
static void ascii_adjust(struct tcg_cpu *c, bool sub)
{
	u16 ax = (u16)c->gpr[X86_RAX];
	bool adjust = (ax & 15) > 9 || c->rflags & X86_FLAG_AF;

	if (adjust)
		ax = (u16)(sub ? ax - 0x106 : ax + 0x106);
	interp_set_reg(c, X86_RAX, 2, ax & 0xff0f);
	set_al(c, ax & 15, adjust ? X86_FLAG_AF | X86_FLAG_CF : 0);
}

void interp_bcd(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u8 al = (u8)c->gpr[X86_RAX], ah = (u8)(c->gpr[X86_RAX] >> 8), imm = (u8)insn->imm;
	u32 f = 0;

	switch (insn->op) {
	case OP_AAA:
	case OP_AAS:
		ascii_adjust(c, insn->op == OP_AAS);
		break;
	case OP_DAA:
	case OP_DAS:
		decimal_adjust(c, insn->op == OP_DAS);
		break;
	case OP_AAM:
		if (!imm)
			tcg_raise(c, X86_DE);
		interp_set_reg(c, X86_RAX, 2, (u64)(al / imm) << 8);
		set_al(c, al % imm, 0);
		break;
	default: /* OP_AAD */
		interp_set_reg(c, X86_RAX, 2, 0);
		set_al(c, (u8)interp_kernel_of(OP_ADD)(al, (u8)(ah * imm), 1, &f), 0);
		c->rflags = interp_flags_merge(c->rflags, f); /* the sum's, all of them */
		break;
	}
}
