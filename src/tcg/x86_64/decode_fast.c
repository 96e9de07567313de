/*
 * decode_fast.c: what most instructions are: 64-bit code, opcode maps 1 and 0F without VEX, operands that are general registers, memory and
 * immediates (struct decode_form, which the tables' macros make out of the rows). What comes out is what the rest of the decoder makes of
 * the same bytes, in less than half of the time: tests/unit/test_tcg_decode.c compares them.
 *
 * All is inlined, so that struct fast lies in registers. Fields that are mostly zero are zeroed by words, then stored where they are not.
 */
#include "tcg/x86_64/decode_impl.h"

#define INLINE static inline __attribute__((always_inline))

enum { C_OPCODE, C_ESCAPE, C_REX, C_PREFIX, C_OTHER };
static const u8 classes[256] = {
	[0x0f] = C_ESCAPE, [0x40 ... 0x4f] = C_REX, [0x26] = C_PREFIX, [0x2e] = C_PREFIX, [0x36] = C_PREFIX, [0x3e] = C_PREFIX,
	[0x64] = C_PREFIX, [0x65] = C_PREFIX,	    [0x66] = C_PREFIX, [0xf0] = C_PREFIX, [0xf2] = C_PREFIX, [0xf3] = C_PREFIX,
	[0x67] = C_OTHER,  [0x62] = C_OTHER,	    [0xc4] = C_OTHER,  [0xc5] = C_OTHER,
};
/* By A_BYTE A_D64 A_F64, REX.W, 66. */
static const u8 opsizes[8][4] = {{4, 2, 8, 8}, {1, 1, 1, 1}, {8, 2, 8, 8}, {1, 1, 1, 1},
				 {8, 8, 8, 8}, {1, 1, 1, 1}, {8, 8, 8, 8}, {1, 1, 1, 1}};
/* By access: what gpr_read and gpr_write, side by side, get of register 0. */
static const u32 masks[4] = {0, 1, 0x10000, 0x10001};

#define MAX_PREFIXES 4u

/* Legacy prefixes, and a REX behind them, in bytes of one word; 0: none. */
#define PFX_NR(w)     ((u8)(w))
#define PFX_REX(w)    ((u8)((w) >> 8))
#define PFX_REP(w)    ((u8)((w) >> 16))
#define PFX_SEG(w)    ((u8)((w) >> 24))
#define PFX_OPSIZE(w) ((w) >> 32 & 1)
#define PFX_LOCK(w)   ((w) >> 40 & 1)

struct fast {
	const u8 *p;
	u32 pos, rex, opcode, map, modrm;
	u64 pfx;
	const struct decode_row *row, *ops; /* the instruction; whose operands it has */
	u32 attr, opsize, what;
	u32 gprs; /* gpr_read, gpr_write << 16 */
	u64 mem;  /* struct x86_mem from base on */
	s32 disp;
};

/* ~0: more or others than are looked at here. */
static __attribute__((noinline)) u64 take_prefixes(const u8 *p)
{
	u64 lock = 0, opsize = 0;
	u32 pos = 0, rep = 0, seg = 0, rex = 0;

	for (; pos < MAX_PREFIXES && classes[p[pos]] == C_PREFIX; pos++) {
		switch (p[pos]) {
		case 0x66:
			opsize = 1;
			break;
		case 0xf0:
			lock = 1;
			break;
		case 0xf2:
		case 0xf3:
			rep = p[pos];
			break;
		case 0x64:
		case 0x65:
			seg = p[pos];
		}
	}
	if (classes[p[pos]] == C_REX)
		rex = p[pos];
	if (classes[p[pos + !!rex]] > C_ESCAPE)
		return ~0ull;
	return pos | rex << 8 | rep << 16 | seg << 24 | opsize << 32 | lock << 40;
}

/* The row, and where the opcode ends. */
INLINE bool find_opcode(struct fast *f)
{
	u32 first = f->p[0], has = classes[first] == C_REX, byte = f->p[has], class = classes[byte], pp = 0;

	f->rex = first & -has;
	f->pos = has;
	if (unlikely(class > C_ESCAPE)) {
		u64 pfx = take_prefixes(f->p);

		if (pfx == ~0ull)
			return false;
		f->pfx = pfx;
		f->rex = PFX_REX(pfx);
		f->pos = PFX_NR(pfx) + !!f->rex;
		pp = PFX_REP(pfx) ? (PFX_REP(pfx) == 0xf3 ? 512 : 768) : PFX_OPSIZE(pfx) ? 256 : 0;
		byte = f->p[f->pos];
		class = classes[byte];
	}
	f->map = class; /* MAP_1, MAP_0F */
	if (class == C_ESCAPE)
		byte = f->p[++f->pos];
	f->pos++;
	f->opcode = byte;
	f->row = f->ops = &decode_legacy_rows[decode_legacy_index[f->map * 1024 + pp + byte]];
	f->attr = f->row->attr;
	f->what = ld_le32(&f->row->feat);
	return true;
}

/* Members of a group; of one only. */
INLINE bool find_member(struct fast *f)
{
	const u16 *group = decode_legacy_groups[f->row->sub];
	u32 n = 1;

	if (f->row->op == OP_GROUP)
		n = (f->modrm >> 3 & 7) + (f->modrm >= 0xc0 ? 8 : 0);
	else if (f->row->op != OP_BY_MODE)
		return false;
	f->row = &decode_legacy_rows[group[n]];
	if (f->row->opnd[0])
		f->ops = f->row;
	f->attr |= f->row->attr;
	f->what |= ld_le32(&f->row->feat);
	return f->row->op < OP_NR;
}

/* A general register as an operand, which may be a high byte. */
INLINE u64 gpr(struct fast *f, u32 reg, u32 where, u32 access, u32 size)
{
	u32 high = (size == 1) & !f->rex & reg >> 2;

	_Static_assert(OPND_GPR8H == OPND_GPR + 1, "added");
	reg -= high << 2;
	f->gprs |= masks[access] << reg;
	return (OPND_GPR + high) | where << 8 | reg << 16 | access << 24 | (u64)size << 32;
}

/* SDM 2A tables 2-2, 2-3; 64-bit addresses. */
INLINE void read_memory(struct fast *f, struct x86_insn *in, u32 access)
{
	u32 mod = f->modrm >> 6, rm = f->modrm & 7, index = X86_NO_REG, scale = 1, base, size;

	if (rm == 4) {
		u32 sib = f->p[f->pos++];

		in->sib = (u8)sib;
		rm = sib & 7;
		scale = 1u << (sib >> 6);
		index = (sib >> 3 & 7) | (f->rex << 2 & 8);
		if (index == 4)
			index = X86_NO_REG;
		else
			f->gprs |= 1u << index;
	}
	base = rm | (f->rex << 3 & 8);
	size = mod == 1 ? 1 : mod << 1;
	if (mod == 0 && rm == 5) {
		base = (f->modrm & 7) == 5 ? X86_RIP : X86_NO_REG;
		size = 4;
	} else {
		f->gprs |= 1u << base;
	}
	if (size) {
		s32 disp = (s32)ld_le32(f->p + f->pos); /* at most 4 + 1 + 2 + 2 bytes before it */

		f->disp = size == 1 ? (int8_t)disp : disp;
		in->at_disp = (u8)f->pos;
		in->disp_size = (u8)size;
		f->pos += size;
	}
	f->mem = base | index << 8 | scale << 16 | (u32)(base == X86_RSP || base == X86_RBP ? X86_SS : X86_DS) << 24 | (u64)access << 32;
}

/* ModRM, the operand by rm, and the one by reg. */
INLINE bool read_modrm(struct fast *f, struct x86_insn *in)
{
	u32 reg = (f->modrm >> 3 & 7) | (f->rex << 1 & 8), rm = (f->modrm & 7) | (f->rex << 3 & 8), access = f->row->form.access, size;
	const struct decode_form *form = &f->ops->form;
	u64 by_rm, by_reg = 0;

	in->at_modrm = (u8)f->pos++;
	in->has_modrm = true;
	in->modrm = (u8)f->modrm;
	in->mod = (u8)(f->modrm >> 6);
	in->reg = (u8)reg;
	in->rm = (u8)rm;
	if (form->reg)
		by_reg = gpr(f, reg, AT_REG, access >> 2 & 3, f->opsize);
	if (f->modrm >= 0xc0) {
		if (f->ops->opnd[form->rm_at] >> 8 == L_M)
			return false;
		by_rm = gpr(f, rm, AT_RM, access & 3, decode_sizes_reg[f->opsize >> 2][form->rm_size]);
	} else {
		read_memory(f, in, access & 3);
		size = decode_sizes_mem[f->opsize >> 2][form->rm_size];
		f->mem |= (u64)size << 48;
		by_rm = OPND_MEM | AT_RM << 8 | (access & 3) << 24 | (u64)size << 32;
		if (f->attr & A_BIT)
			in->generic = false;
	}
	st_le64(&in->opnd[form->rm_at], by_rm);
	st_le64(&in->opnd[form->rm_at ^ 1], by_reg);
	return true;
}

/* The register in the opcode, or rAX. False: PAUSE, or XCHG R8, rAX, which have NOP's opcode. */
INLINE bool read_opcode_reg(struct fast *f, struct x86_insn *in)
{
	const struct decode_form *form = &f->ops->form;
	u32 reg = form->where == AT_OPCODE ? (f->opcode & 7) | (f->rex << 3 & 8) : 0;

	st_le64(&in->opnd[0], form->reg ? gpr(f, reg, form->where, form->access >> 2 & 3, f->opsize) : 0);
	st_le64(&in->opnd[1], 0);
	return f->row->op != OP_NOP || !(PFX_REP(f->pfx) | (f->rex & 1));
}

/* The last operand. */
INLINE bool read_imm(struct fast *f, struct x86_insn *in)
{
	u32 code = f->ops->form.imm, size = decode_sizes_imm[f->opsize >> 2][code], shift = 64 - 8 * size;
	u64 value;

	if (likely(f->pos <= 7))
		value = ld_le64(f->p + f->pos);
	else if (f->pos <= 11 && size <= 4)
		value = ld_le32(f->p + f->pos);
	else
		return false;
	in->imm = code == S_ub ? (s64)(u8)value : (s64)(value << shift) >> shift;
	in->at_imm = (u8)f->pos;
	in->imm_size = (u8)size;
	f->pos += size;
	st_le64(&in->opnd[f->ops->form.nr - 1],
		OPND_IMM | AT_IMM << 8 | (f->row->form.access >> 4 & 3u) << 24 | (u64)decode_sizes_reg[f->opsize >> 2][code] << 32);
	return true;
}

INLINE void set_effects(struct fast *f, struct x86_insn *in)
{
	u32 class = f->row->flags, gprs = f->gprs, implicit;

	__builtin_memcpy(&implicit, &decode_implicit[f->row->implicit], sizeof(implicit));
	gprs |= implicit;
	if (f->opsize < 4) /* what is written is merged into the old value */
		gprs |= gprs >> 16;
	st_le32(&in->gpr_read, gprs);
	__builtin_memcpy(&in->flags_read, &decode_flag_effects[class], sizeof(struct decode_flag_effect));
	if (class == FL_CC) {
		in->cc = f->opcode & 15;
		in->flags_read = decode_cc_flags[in->cc >> 1];
	} else if (unlikely(class >= FL_SHIFT && class <= FL_SHD)) {
		decode_set_shift_flags(in, class);
	}
}

/* False: it makes no instruction, or another one. */
static __attribute__((noinline)) bool put_prefixes(struct x86_insn *in, u64 pfx, u32 attr)
{
	u8 seg = PFX_SEG(pfx);

	if (PFX_LOCK(pfx) && (!in->lockable || in->opnd[0].kind != OPND_MEM))
		return false;
	in->lock = PFX_LOCK(pfx);
	in->rep = attr & A_PP ? 0 : PFX_REP(pfx);
	in->opsize_prefix = PFX_OPSIZE(pfx);
	in->nr_prefixes = PFX_NR(pfx);
	if (PFX_REX(pfx))
		in->at_rex = PFX_NR(pfx);
	if (seg) {
		in->seg_prefix = seg;
		in->mem.seg = seg == 0x64 ? X86_FS : X86_GS;
	}
	return !PFX_OPSIZE(pfx) || !(attr & A_PP); /* whose 66 may belong to the opcode */
}

/* Zeros and what the row says. */
INLINE void begin(struct fast *f, struct x86_insn *in)
{
	const struct decode_row *row = f->row;

	in->op = row->op;
	in->mode = 64;
	in->enc = ENC_LEGACY;
	in->map = (u8)f->map;
	in->opcode = (u8)f->opcode;
	in->opsize = (u8)f->opsize;
	st_le64(&in->adsize, 8);
	in->rex = (u8)f->rex;
	st_le64(&in->reg, 0);
	in->nr_opnds = f->ops->form.nr;
	st_le64(&in->at_opcode, 0);
	in->at_opcode = (u8)(f->pos - 1);
	st_le64(&in->seg_prefix, 0);
	st_le32(&in->feat, f->what);
	in->imm = 0;
	st_le64(&in->opnd[2], 0);
	st_le64(&in->opnd[3], 0);
	st_le64((u8 *)in + 120, 0);
}

u32 x86_decode_64(struct x86_insn *in, const u8 *p)
{
	struct fast f = {.p = p, .mem = X86_NO_REG | X86_NO_REG << 8 | (u32)X86_DS << 24};

	if (!find_opcode(&f))
		goto other;
	f.modrm = p[f.pos];
	if (f.row->op >= OP_NR && !find_member(&f))
		goto other;
	if (!(f.ops->form.ok & f.row->form.ok))
		goto other;
	f.opsize = opsizes[f.attr >> 2 & 7][(f.rex >> 2 & 2) + PFX_OPSIZE(f.pfx)];
	begin(&f, in);
	if (!(f.attr & A_M ? read_modrm(&f, in) : read_opcode_reg(&f, in)))
		goto other;
	if (f.ops->form.imm && !read_imm(&f, in))
		goto other;
	set_effects(&f, in);
	st_le64(&in->imm2, (u64)(u32)f.disp << 32);
	st_le64(&in->mem.base, f.mem);
	if (unlikely(f.pfx) && !put_prefixes(in, f.pfx, f.attr))
		goto other;
	in->len = (u8)f.pos;
	st_le64(in->bytes, ld_le64(p));
	st_le64(in->bytes + 7, ld_le64(p + 7));
	if (likely(f.pos <= X86_INSN_MAX))
		return f.pos;
other:
	return decode_any(in, p, X86_INSN_MAX, 64, false);
}

#define AT(field, offset) _Static_assert(offsetof(struct x86_insn, field) == (offset), "stored by words")
AT(adsize, 8);
AT(rex, 11);
AT(reg, 16);
AT(nr_opnds, 20);
AT(at_opcode, 24);
AT(seg_prefix, 32);
AT(feat, 40);
AT(gpr_read, 44);
AT(flags_read, 48);
AT(imm, 56);
AT(imm2, 64);
AT(mem, 68);
AT(opnd, 80);
AT(bytes, 112);
