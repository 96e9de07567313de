/* decode_vector.c: what VEX and EVEX add: vector lengths, masks, broadcast, rounding, compressed displacements (SDM 2A §2.3, §2.7). */
#include "tcg/x86_64/decode_impl.h"

/* EVEX.b with registers: rounding or SAE; L'L is the rounding mode then, and the length 512 bits (SDM 2A §2.7.8). */
static void begin_evex(struct dec *d)
{
	struct x86_insn *in = d->in;

	if (in->evex_b && in->mod == 3) {
		d->bad |= !(d->attr & (A_ER | A_SAE));
		in->vex_l = 2;
	} else if (in->vex_l == 3) {
		d->bad = true;
		in->vex_l = 2;
	}
}

void decode_begin_vector(struct dec *d)
{
	if (d->in->enc == ENC_EVEX)
		begin_evex(d);
}

static void check_length(struct dec *d)
{
	u32 l = d->in->vex_l;

	if (d->attr & A_L0)
		d->bad |= l != 0;
	else if (d->attr & A_L1)
		d->bad |= l == 0;
	else if (d->attr & A_L2)
		d->bad |= l != 2;
}

/* A field that names no operand must be all ones; opmasks are 0-7, general registers 0-15. */
static void check_registers(struct dec *d)
{
	const struct x86_insn *in = d->in;
	bool vsib = in->op == OP_VEC_GATHER;

	if (!(d->used & LF_VVVV))
		d->bad |= in->vvvv || (d->evex_v && !vsib);
	for (u32 n = 0; n < in->nr_opnds; n++) {
		if (in->opnd[n].kind == OPND_K)
			d->bad |= in->opnd[n].reg > 7;
		if (in->opnd[n].kind == OPND_K || in->opnd[n].kind == OPND_GPR)
			d->bad |= in->opnd[n].where == AT_REG && d->evex_r;
	}
}

static void check_gather(struct dec *d)
{
	const struct x86_insn *in = d->in;
	u8 index = in->mem.index;

	d->bad |= (in->modrm & 7) != 4 || in->adsize == 2;
	if (in->enc == ENC_VEX)
		d->bad |= in->opnd[0].reg == index || in->opnd[2].reg == index || in->opnd[0].reg == in->opnd[2].reg;
	else if (d->attr & A_DIST)
		d->bad |= in->opnd[0].reg == index;
}

static u8 wide_feature(u8 feat)
{
	switch (feat) {
	case FEAT_AVX:
		return FEAT_AVX2;
	case FEAT_AES:
		return FEAT_VAES;
	default:
		return FEAT_VPCLMUL;
	}
}

/* The memory operand's real size and the unit of disp8 (SDM 2A §2.7.5): what is accessed, but for compress and expand. */
static void finish_mem(struct dec *d)
{
	struct x86_insn *in = d->in;
	u32 unit = in->mem.size, i = 0;

	while (i < in->nr_opnds && in->opnd[i].kind != OPND_MEM)
		i++;
	if (in->evex_b) {
		d->bad |= !(d->attr & (A_BC | A_BC16));
		unit = d->attr & A_BC16 ? 2 : d->w ? 8 : 4;
		in->mem.size = in->opnd[i].size = (u16)unit;
	}
	if (d->attr & A_N_E)
		unit = d->w ? 8 : 4;
	else if (d->attr & A_N_BW)
		unit = d->w ? 2 : 1;
	if (in->disp_size == 1)
		in->mem.disp *= (s32)unit;
	if (in->op == OP_VEC && (in->evex_aaa || d->attr & (A_N_E | A_N_BW))) {
		in->op = OP_VEC_MASKED;
		in->generic = false;
	}
}

static void check_mask(struct dec *d)
{
	const struct x86_insn *in = d->in;

	if (in->evex_aaa)
		d->bad |= !(d->attr & A_K);
	else
		d->bad |= !!(d->attr & A_KREQ);
	if (in->evex_z)
		d->bad |= !(d->attr & A_KZ) || in->opnd[0].kind == OPND_MEM || !in->evex_aaa;
}

static void end_evex(struct dec *d)
{
	struct x86_insn *in = d->in;

	check_mask(d);
	if (in->mod != 3)
		finish_mem(d);
	if (d->attr & A_VL && in->vex_l < 2)
		in->feat2 = FEAT_AVX512VL;
	else if (in->feat == FEAT_VAES || in->feat == FEAT_VPCLMUL || in->feat == FEAT_GFNI)
		in->feat2 = FEAT_AVX512F;
	if (d->attr & A_DIST && in->op != OP_VEC_GATHER)
		for (u32 n = 1; n < 3; n++)
			d->bad |= in->opnd[n].kind == OPND_XMM && in->opnd[n].reg == in->opnd[0].reg;
}

void decode_end_vector(struct dec *d)
{
	struct x86_insn *in = d->in;

	check_length(d);
	check_registers(d);
	if (in->mode != 64)
		in->vvvv &= 7;
	if (in->op == OP_VEC_GATHER)
		check_gather(d);
	if (in->enc == ENC_EVEX)
		end_evex(d);
	else if (d->attr & A_WIDE && in->vex_l)
		in->feat = wide_feature(in->feat);
}
