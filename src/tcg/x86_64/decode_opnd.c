/* decode_opnd.c: operands: which register, how large, read or written. */
#include "tcg/x86_64/decode_impl.h"

static const struct {
	u8 kind, where, src, flags;
} letters[L_NR] = {
	[L_AX] = {OPND_GPR, AT_IMPLICIT, SRC_0, LF_GPR},
	[L_CX] = {OPND_GPR, AT_IMPLICIT, SRC_1, LF_GPR},
	[L_DX] = {OPND_GPR, AT_IMPLICIT, SRC_2, LF_GPR},
	[L_ONE] = {OPND_IMM, AT_IMPLICIT, SRC_0, LF_IMM},
	[L_Z] = {OPND_GPR, AT_OPCODE, SRC_OPCODE, LF_GPR},
	[L_I] = {OPND_IMM, AT_IMM, SRC_0, LF_IMM},
	[L_J] = {OPND_IMM, AT_IMM, SRC_0, LF_IMM},
	[L_A] = {OPND_IMM, AT_IMM, SRC_0, LF_IMM},
	[L_O] = {OPND_MEM, AT_IMM, SRC_0, LF_IMM},
	[L_X0] = {OPND_XMM, AT_IMPLICIT, SRC_0, 0},
	[L_S0] = {OPND_ST, AT_IMPLICIT, SRC_0, 0},
	[L_E] = {OPND_GPR, AT_RM, SRC_RM, LF_RM | LF_MEM | LF_REG | LF_GPR},
	[L_G] = {OPND_GPR, AT_REG, SRC_REG, LF_GPR},
	[L_R] = {OPND_GPR, AT_RM, SRC_RM, LF_RM | LF_REG | LF_GPR},
	[L_M] = {OPND_GPR, AT_RM, SRC_RM, LF_RM | LF_MEM | LF_GPR},
	[L_B] = {OPND_GPR, AT_VVVV, SRC_VVVV, LF_GPR | LF_VVVV},
	[L_S] = {OPND_SREG, AT_REG, SRC_REG8, 0},
	[L_C] = {OPND_CR, AT_REG, SRC_REG, 0},
	[L_D] = {OPND_DR, AT_REG, SRC_REG, 0},
	[L_V] = {OPND_XMM, AT_REG, SRC_REGV, 0},
	[L_W] = {OPND_XMM, AT_RM, SRC_RMV, LF_RM | LF_MEM | LF_REG},
	[L_U] = {OPND_XMM, AT_RM, SRC_RMV, LF_RM | LF_REG},
	[L_H] = {OPND_XMM, AT_VVVV, SRC_VVVVV, LF_VVVV},
	[L_L] = {OPND_XMM, AT_IS4, SRC_IS4, LF_IMM},
	[L_P] = {OPND_MMX, AT_REG, SRC_REG8, 0},
	[L_Q] = {OPND_MMX, AT_RM, SRC_RM8, LF_RM | LF_MEM | LF_REG},
	[L_N] = {OPND_MMX, AT_RM, SRC_RM8, LF_RM | LF_REG},
	[L_KG] = {OPND_K, AT_REG, SRC_REG, 0},
	[L_KE] = {OPND_K, AT_RM, SRC_RM8, LF_RM | LF_MEM | LF_REG},
	[L_KR] = {OPND_K, AT_RM, SRC_RM8, LF_RM | LF_REG},
	[L_KH] = {OPND_K, AT_VVVV, SRC_VVVV, LF_VVVV},
	[L_ST] = {OPND_ST, AT_RM, SRC_RM8, LF_RM | LF_REG},
	[L_VM] = {OPND_NONE, AT_RM, SRC_0, LF_RM | LF_MEM},
};

/* By operand size 2, 4, 8: of registers and immediates, of memory, of an immediate's encoding. */
const u8 decode_sizes_reg[3][S_VEC] = {
#define FIXED [S_b] = 1, [S_ub] = 1, [S_w] = 2, [S_d] = 4, [S_q] = 8, [S_dq] = 16, [S_qq] = 32, [S_oq] = 64, [S_t] = 10
	{FIXED, [S_v] = 2, [S_z] = 2, [S_y] = 4, [S_bv] = 2, [S_wv] = 2, [S_bd] = 4, [S_wd] = 4, [S_p] = 2},
	{FIXED, [S_v] = 4, [S_z] = 4, [S_y] = 4, [S_bv] = 4, [S_wv] = 4, [S_bd] = 4, [S_wd] = 4, [S_p] = 4},
	{FIXED, [S_v] = 8, [S_z] = 4, [S_y] = 8, [S_bv] = 8, [S_wv] = 8, [S_bd] = 4, [S_wd] = 4, [S_p] = 8},
};
const u16 decode_sizes_mem[3][S_VEC] = {
#define FIXED_M FIXED, [S_wv] = 2, [S_bd] = 1, [S_wd] = 2, [S_f512] = 512
	{FIXED_M, [S_v] = 2, [S_z] = 2, [S_y] = 4, [S_p] = 4, [S_a] = 4, [S_s] = 6, [S_env] = 14, [S_sav] = 94, [S_cx] = 8},
	{FIXED_M, [S_v] = 4, [S_z] = 4, [S_y] = 4, [S_p] = 6, [S_a] = 8, [S_s] = 6, [S_env] = 28, [S_sav] = 108, [S_cx] = 8},
	{FIXED_M, [S_v] = 8, [S_z] = 4, [S_y] = 8, [S_p] = 10, [S_s] = 10, [S_env] = 28, [S_sav] = 108, [S_cx] = 16},
};
const u8 decode_sizes_imm[3][S_VEC] = {
	{[S_b] = 1, [S_ub] = 1, [S_w] = 2, [S_bv] = 1, [S_z] = 2, [S_v] = 2, [S_p] = 2},
	{[S_b] = 1, [S_ub] = 1, [S_w] = 2, [S_bv] = 1, [S_z] = 4, [S_v] = 4, [S_p] = 4},
	{[S_b] = 1, [S_ub] = 1, [S_w] = 2, [S_bv] = 1, [S_z] = 4, [S_v] = 8, [S_p] = 4},
};
/* By vector length. */
static const u8 sizes_vec[3][S_NR - S_VEC] = {
	{4, 16, 8, 4, 2, 8},
	{4, 32, 16, 8, 4, 32},
	{4, 64, 32, 16, 8, 64},
};

static u8 operand_size(const struct dec *d)
{
	const struct x86_insn *in = d->in;
	bool p66 = in->opsize_prefix && !(d->attr & A_PP && d->pp == 1);

	if (d->attr & A_BYTE)
		return 1;
	if (in->mode != 64)
		return in->enc || (in->mode == 32) != p66 ? 4 : 2;
	if (d->attr & A_F64)
		return 8;
	if (d->w)
		return d->attr & A_MAX4 ? 4 : 8;
	return p66 ? 2 : d->attr & A_D64 ? 8 : 4;
}

static inline u32 size_of(const struct dec *d, u32 code, bool mem)
{
	u32 i = d->in->opsize >> 2;

	if (code >= S_VEC)
		return code == S_e && d->w ? 8 : sizes_vec[d->in->vex_l][code - S_VEC];
	return mem ? decode_sizes_mem[i][code] : decode_sizes_reg[i][code];
}

/* Immediates, displacements of branches, far pointers, absolute addresses. */
static void read_imm(struct dec *d, u32 letter, u32 code)
{
	struct x86_insn *in = d->in;
	u32 size = letter == L_O ? in->adsize : code < S_VEC ? decode_sizes_imm[in->opsize >> 2][code] : 1;
	s64 value;

	if (letter == L_ONE) {
		in->imm = 1;
		return;
	}
	if (!in->at_imm)
		in->at_imm = (u8)d->pos;
	if (letter == L_L) {
		d->regs[SRC_IS4] = byte_at(d, d->pos++) >> 4 & (in->mode == 64 ? 15 : 7);
		in->imm_size = 1;
		return;
	}
	value = read_signed(d, size);
	if (in->imm_size) {
		in->imm2 = (u8)value; /* ENTER's second */
		in->imm_size = (u8)(in->imm_size + size);
		return;
	}
	in->imm_size = (u8)size;
	if (code == S_ub)
		value = (u8)value;
	else if (code == S_w)
		value = (u16)value;
	in->imm = value;
	if (letter == L_A) {
		in->imm = size == 2 ? (u16)value : (u32)value;
		in->imm2 = (u16)read_signed(d, 2);
		in->imm_size = (u8)(size + 2);
	} else if (letter == L_O) {
		in->imm = size == 2 ? (u16)value : size == 4 ? (s64)(u32)value : value;
		in->mem = (struct x86_mem){.base = X86_NO_REG, .index = X86_NO_REG, .scale = 1, .moffs = true, .seg = in->mem.seg};
	}
}

static void set_regs(struct dec *d)
{
	const struct x86_insn *in = d->in;
	u8 *r = d->regs;

	r[SRC_0] = 0;
	r[SRC_1] = 1;
	r[SRC_2] = 2;
	r[SRC_OPCODE] = (in->opcode & 7) | d->rex_b;
	r[SRC_REG] = in->reg;
	r[SRC_RM] = in->rm;
	r[SRC_VVVV] = in->vvvv & (in->mode == 64 ? 15 : 7);
	r[SRC_REGV] = in->reg | d->evex_r;
	r[SRC_RMV] = (u8)(in->rm | (in->enc == ENC_EVEX ? d->rex_x << 1 : 0));
	r[SRC_VVVVV] = r[SRC_VVVV] | d->evex_v;
	r[SRC_REG8] = in->reg & 7;
	r[SRC_RM8] = in->rm & 7;
}

/* Operand by rm that is memory. */
static inline struct x86_opnd mem_operand(struct dec *d, u32 letter, u32 code, u8 access)
{
	struct x86_insn *in = d->in;
	u16 size = (u16)size_of(d, code, true);

	in->mem.size = size;
	in->mem.access = access;
	if (letter == L_VM)
		in->mem.index = (in->sib >> 3 & 7) | d->rex_x | d->evex_v;
	return (struct x86_opnd){OPND_MEM, AT_RM, 0, access, size, 0};
}

static inline struct x86_opnd imm_operand(struct dec *d, u32 letter, u32 code, u8 access)
{
	struct x86_insn *in = d->in;
	u16 size;

	read_imm(d, letter, code);
	size = (u16)size_of(d, code, letter == L_O);
	if (letter == L_O) {
		in->mem.size = size;
		in->mem.access = access;
	}
	return (struct x86_opnd){letters[letter].kind, letters[letter].where, d->regs[letters[letter].src], access, size, 0};
}

/* General registers that operands read and write, as the loop below goes on: in registers, for bytes stored through pointers alias all. */
struct masks {
	u32 read, write;
};

static inline struct x86_opnd gpr_operand(const struct x86_insn *in, u32 letter, u8 reg, u8 access, u16 size, struct masks *m)
{
	struct x86_opnd o = {OPND_GPR, letters[letter].where, reg & 15, access, size, 0};

	if (size == 1 && (reg & 0x1c) == 4 && !in->rex && !in->enc) {
		o.kind = OPND_GPR8H;
		o.reg = reg & 3;
	}
	if (access & OPND_W)
		m->write |= 1u << o.reg;
	if (access & OPND_R || (access && size < 4)) /* small ones are merged into the old value */
		m->read |= 1u << o.reg;
	return o;
}

void decode_set_operands(struct dec *d)
{
	struct x86_insn *in = d->in;
	const u16 *spec = d->opnd;
	u32 n, used = 0, bad = 0, accesses = d->row->access;
	bool reg_form = in->mod == 3;
	struct masks m = {0, 0};

	in->opsize = operand_size(d);
	set_regs(d);
	for (n = 0; n < 4 && spec[n]; n++, accesses >>= 2) {
		u32 letter = DECODE_LETTER(spec[n]), code = DECODE_SIZE(spec[n]), flags = letters[letter].flags;
		u8 access = accesses & 3;
		struct x86_opnd o;

		used |= flags;
		if (flags & LF_RM && !reg_form) {
			bad |= ~flags & LF_MEM;
			o = mem_operand(d, letter, code, access);
		} else if (flags & LF_IMM) {
			o = imm_operand(d, letter, code, access);
		} else {
			u8 reg = d->regs[letters[letter].src];
			u16 size = (u16)size_of(d, code, false);

			bad |= (flags & (LF_RM | LF_REG)) == LF_RM;
			if (flags & LF_GPR)
				o = gpr_operand(in, letter, reg, access, size, &m);
			else
				o = (struct x86_opnd){letters[letter].kind, letters[letter].where, reg, access, size, 0};
		}
		in->opnd[n] = o;
	}
	in->nr_opnds = (u8)n;
	d->used = used;
	d->bad |= !!bad;
	if (!reg_form) {
		if (in->mem.base < 16)
			m.read |= 1u << in->mem.base;
		if (in->mem.index < 16 && in->op != OP_VEC_GATHER)
			m.read |= 1u << in->mem.index;
	}
	d->gpr_read = m.read;
	d->gpr_write = m.write;
}
