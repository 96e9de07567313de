/* decode.c: x86 machine code -> struct x86_insn. The tables are in decode_tables_*.c. */
#include "tcg/x86_64/decode_impl.h"

enum { PFX_NONE, PFX_66, PFX_67, PFX_F3, PFX_F2, PFX_LOCK, PFX_SEG };
static const u8 prefixes[256] = {
	[0x26] = PFX_SEG, [0x2e] = PFX_SEG, [0x36] = PFX_SEG,  [0x3e] = PFX_SEG, [0x64] = PFX_SEG, [0x65] = PFX_SEG,
	[0x66] = PFX_66,  [0x67] = PFX_67,  [0xf0] = PFX_LOCK, [0xf2] = PFX_F2,	 [0xf3] = PFX_F3,
};

/* ---- bytes ---- */

/* Fewer than 15 bytes: copied, with zeros behind. No decision below looks beyond avail without the length saying so. */
static void fetch_short(struct dec *d, const u8 *bytes, u32 avail)
{
	u8 *to = (u8 *)d->buf;

	d->buf[0] = d->buf[1] = 0;
	for (u32 i = 0; i < avail; i++)
		to[i] = bytes[i];
	d->p = to;
}

/* Stores, for that is faster here than rep stos. */
static void clear(struct x86_insn *in)
{
	u64 *p = (void *)in;

	_Static_assert(sizeof(*in) == 128, "cleared in words");
	for (u32 i = 0; i < 16; i += 8) {
		p[i] = p[i + 1] = p[i + 2] = p[i + 3] = 0;
		p[i + 4] = p[i + 5] = p[i + 6] = p[i + 7] = 0;
		__asm__("" : "+r"(p));
	}
}

/* ---- prefixes ---- */

static void take_prefix(struct dec *d, u8 kind, u8 byte)
{
	struct x86_insn *in = d->in;

	switch (kind) {
	case PFX_66:
		in->opsize_prefix = true;
		break;
	case PFX_67:
		in->adsize_prefix = true;
		break;
	case PFX_LOCK:
		d->lock = 1;
		break;
	case PFX_SEG: /* CS DS ES SS are ignored in 64-bit code: SDM 1 §3.3.7.1 */
		if (in->mode != 64 || byte >= 0x64)
			in->seg_prefix = byte;
		break;
	default:
		d->rep = byte;
	}
}

static inline bool is_rex(u8 byte)
{
	return (byte & 0xf0) == 0x40;
}

static inline void set_rex(struct dec *d, u8 rex)
{
	d->in->rex = rex;
	d->w = rex & 8;
	d->rex_r = rex << 1 & 8;
	d->rex_x = rex << 2 & 8;
	d->rex_b = rex << 3 & 8;
}

/* Nothing, or a REX alone: told apart without a jump, which nobody could foresee. False: something else. */
static inline bool read_rex(struct dec *d)
{
	u8 first = d->p[0], has = is_rex(first) & (d->in->mode == 64), next = d->p[has];

	if (unlikely(prefixes[first] | prefixes[next] | (has & is_rex(next))))
		return false;
	set_rex(d, (u8)(first & -has));
	d->in->nr_prefixes = 0;
	d->pos = has;
	return true;
}

/* Legacy prefixes, then REX; a REX that is not the last prefix is ignored (SDM 2A §2.2.1). */
static void read_prefixes(struct dec *d)
{
	struct x86_insn *in = d->in;
	u32 pos = 0;
	u8 rex = 0;

	for (; pos < X86_INSN_MAX; pos++) {
		u8 byte = byte_at(d, pos), kind = prefixes[byte];

		if (kind) {
			take_prefix(d, kind, byte);
			rex = 0;
		} else if (is_rex(byte) && in->mode == 64) {
			rex = byte;
		} else {
			break;
		}
	}
	in->nr_prefixes = (u8)(rex ? pos - 1 : pos);
	if (rex) {
		in->at_rex = (u8)(pos - 1);
		set_rex(d, rex);
	}
	d->pos = pos;
}

static void set_adsize(struct x86_insn *in)
{
	if (in->mode == 64)
		in->adsize = in->adsize_prefix ? 4 : 8;
	else
		in->adsize = (in->mode == 32) != in->adsize_prefix ? 4 : 2;
}

/* ---- opcode ---- */

static void find_legacy(struct dec *d)
{
	struct x86_insn *in = d->in;
	u32 map = MAP_1;
	u8 byte = byte_at(d, d->pos++);

	if (byte == 0x0f) {
		byte = byte_at(d, d->pos++);
		map = MAP_0F;
		if (byte == 0x38 || byte == 0x3a) {
			map = byte == 0x38 ? MAP_0F38 : MAP_0F3A;
			byte = byte_at(d, d->pos++);
		}
	}
	d->pp = d->rep ? (d->rep == 0xf3 ? 2 : 3) : in->opsize_prefix;
	d->t = &decode_legacy;
	in->map = (u8)map;
	in->opcode = byte;
	d->row = &d->t->rows[d->t->index[map * 1024 + d->pp * 256u + byte]];
}

/* The prefixes that VEX and EVEX contain must not precede them (SDM 2A §2.3.2). */
static bool vex_allowed(const struct dec *d)
{
	return !d->rep && !d->lock && !d->in->opsize_prefix && !d->in->rex;
}

static void find_vector(struct dec *d, const struct decode_tables *t, u32 slot)
{
	struct x86_insn *in = d->in;

	d->t = t;
	in->vex_w = d->w;
	in->vex_pp = d->pp;
	if (in->mode != 64) {
		d->bad |= d->evex_v; /* the other bits are ignored, or tell EVEX from BOUND */
		d->rex_r = d->rex_x = d->rex_b = d->evex_r = 0;
	}
	in->opcode = byte_at(d, d->pos++);
	d->row = &t->rows[t->index[slot * 2048 + d->pp * 512u + d->w * 256u + in->opcode]];
}

/* SDM 2A §2.3.5. C5: R vvvv L pp; C4: R X B mmmmm, W vvvv L pp; R X B vvvv inverted. */
static void find_vex(struct dec *d)
{
	struct x86_insn *in = d->in;
	u8 b1 = byte_at(d, d->pos + 1), b2 = b1, map = MAP_0F;

	in->enc = ENC_VEX;
	in->at_vex = (u8)d->pos;
	d->rex_r = ~b1 >> 4 & 8;
	if (byte_at(d, d->pos) == 0xc4) {
		b2 = byte_at(d, d->pos + 2);
		map = b1 & 31;
		d->rex_x = ~b1 >> 3 & 8;
		d->rex_b = ~b1 >> 2 & 8;
		d->w = b2 & 0x80;
		d->pos++;
	}
	d->pos += 2;
	in->map = map;
	in->vvvv = ~b2 >> 3 & 15;
	in->vex_l = b2 >> 2 & 1;
	d->pp = b2 & 3;
	if (map < MAP_0F || map > MAP_0F3A) {
		d->bad = true;
		map = MAP_0F38;
	}
	find_vector(d, &decode_vex, map - 1u);
}

/* SDM 2A §2.7.1. P0: R X B R' 0 m m m; P1: W vvvv 1 pp; P2: z L'L b V' aaa; R X B R' vvvv V' inverted. */
static void find_evex(struct dec *d)
{
	struct x86_insn *in = d->in;
	u8 p0 = byte_at(d, d->pos + 1), p1 = byte_at(d, d->pos + 2), p2 = byte_at(d, d->pos + 3);
	u8 map = p0 & 7;

	in->enc = ENC_EVEX;
	in->at_vex = (u8)d->pos;
	in->map = map;
	d->pos += 4;
	d->rex_r = ~p0 >> 4 & 8;
	d->rex_x = ~p0 >> 3 & 8;
	d->rex_b = ~p0 >> 2 & 8;
	d->evex_r = ~p0 & 16;
	d->evex_v = (u8)((~p2 & 8) << 1);
	d->w = p1 & 0x80;
	d->pp = p1 & 3;
	in->vvvv = ~p1 >> 3 & 15;
	in->vex_l = p2 >> 5 & 3;
	in->evex_z = p2 & 0x80;
	in->evex_b = p2 & 16;
	in->evex_aaa = p2 & 7;
	if (p0 & 8 || !(p1 & 4) || map == 0 || map == 4 || map == 7) {
		d->bad = true;
		map = MAP_0F38;
	}
	find_vector(d, &decode_evex, map < 4 ? map - 1u : map - 2u);
}

static void find_row(struct dec *d, bool real)
{
	u8 byte = byte_at(d, d->pos);

	if (likely(byte != 0xc4 && byte != 0xc5 && byte != 0x62)) {
		find_legacy(d);
	} else if (d->in->mode != 64 && (real || byte_at(d, d->pos + 1) < 0xc0)) {
		find_legacy(d); /* LES, LDS, BOUND: they have a memory operand */
	} else {
		d->bad = !vex_allowed(d);
		if (byte == 0x62)
			find_evex(d);
		else
			find_vex(d);
	}
	d->in->at_opcode = (u8)(d->pos - 1);
}

/* ---- ModRM ---- */

static const struct {
	u8 base, index;
} rm16[8] = {
	{X86_RBX, X86_RSI},    {X86_RBX, X86_RDI},    {X86_RBP, X86_RSI},    {X86_RBP, X86_RDI},
	{X86_RSI, X86_NO_REG}, {X86_RDI, X86_NO_REG}, {X86_RBP, X86_NO_REG}, {X86_RBX, X86_NO_REG},
};

static void read_disp(struct dec *d, u32 size)
{
	struct x86_insn *in = d->in;

	in->at_disp = (u8)d->pos;
	in->disp_size = (u8)size;
	in->mem.disp = (s32)read_signed(d, size);
}

/* SDM 2A table 2-1. */
static void read_mem16(struct dec *d)
{
	struct x86_insn *in = d->in;
	u8 rm = in->modrm & 7;

	in->mem.base = rm16[rm].base;
	in->mem.index = rm16[rm].index;
	if (in->mod == 0 && rm == 6) {
		in->mem.base = X86_NO_REG;
		read_disp(d, 2);
	} else if (in->mod) {
		read_disp(d, in->mod);
	}
}

/* SDM 2A tables 2-2, 2-3. Under VSIB index 4 is a register too: the operand's letter tells. */
static void read_mem32(struct dec *d)
{
	struct x86_insn *in = d->in;
	u8 rm = in->modrm & 7;
	u32 size;
	s32 disp;

	if (rm == 4) {
		u8 sib = byte_at(d, d->pos++);

		in->sib = sib;
		rm = sib & 7;
		in->mem.scale = (u8)(1 << (sib >> 6));
		in->mem.index = (sib >> 3 & 7) | d->rex_x;
		if (in->mem.index == 4)
			in->mem.index = X86_NO_REG;
	}
	in->mem.base = rm | d->rex_b;
	if (in->mod == 0 && rm == 5)
		in->mem.base = in->mode == 64 && (in->modrm & 7) == 5 ? X86_RIP : X86_NO_REG;
	size = in->mod == 1 ? 1 : in->mod == 2 || rm == 5 ? 4 : 0;
	if (unlikely(d->pos > X86_INSN_MAX - 4)) {
		if (size)
			read_disp(d, size);
		return;
	}
	/* Without a jump by size. */
	disp = (s32)ld_le32(d->p + d->pos);
	disp = size == 1 ? (int8_t)disp : disp;
	in->mem.disp = size ? disp : 0;
	in->at_disp = size ? (u8)d->pos : 0;
	in->disp_size = (u8)size;
	d->pos += size;
}

static u8 segment_of(const struct x86_insn *in)
{
	switch (in->seg_prefix) {
	case 0x26:
		return X86_ES;
	case 0x2e:
		return X86_CS;
	case 0x36:
		return X86_SS;
	case 0x3e:
		return X86_DS;
	case 0x64:
		return X86_FS;
	case 0x65:
		return X86_GS;
	default:
		return in->mem.base == X86_RSP || in->mem.base == X86_RBP ? X86_SS : X86_DS;
	}
}

static void read_modrm(struct dec *d)
{
	struct x86_insn *in = d->in;

	in->has_modrm = true;
	in->at_modrm = (u8)d->pos;
	in->modrm = byte_at(d, d->pos++);
	in->mod = in->modrm >> 6;
	in->reg = (in->modrm >> 3 & 7) | d->rex_r;
	in->rm = (in->modrm & 7) | d->rex_b;
	if (d->attr & A_MOD3)
		in->mod = 3;
	if (in->mod == 3)
		return;
	in->mem.scale = 1;
	if (in->adsize == 2)
		read_mem16(d);
	else
		read_mem32(d);
}

/* Groups choose by ModRM; members without operands of their own have the leading row's. */
static void resolve_group(struct dec *d)
{
	const struct x86_insn *in = d->in;

	while (d->row->op >= OP_NR) {
		const u16 *group = d->t->groups[d->row->sub];
		u32 n = (in->modrm >> 3 & 7u) + (in->mod == 3 ? 8u : 0);

		if (d->row->op != OP_GROUP)
			n = d->row->op == OP_BY_RM ? in->modrm & 7u : d->row->op == OP_BY_MOD ? in->mod == 3 : in->mode == 64;
		d->row = &d->t->rows[group[n]];
		if (d->row->opnd[0])
			d->opnd = d->row->opnd;
		d->attr |= d->row->attr;
	}
}

/* Executable, and what the caller learns of it. */
static void interpret(struct dec *d)
{
	struct x86_insn *in = d->in;

	in->op = d->row->op;
	in->feat = d->attr & A_FEAT64 && in->mode != 64 ? FEAT_NONE : d->row->feat;
	in->feat2 = d->row->feat2;
	in->mem.seg = segment_of(in);
	in->rep = d->attr & A_PP ? 0 : d->rep;
	if (unlikely(in->enc))
		decode_begin_vector(d);
	decode_set_operands(d);
	decode_set_effects(d);
	if (unlikely(in->enc))
		decode_end_vector(d);
}

/* Bytes that make no instruction: processors read what the opcode has with other prefixes before they raise #UD; under VEX and EVEX as well
 * (measured). */
static void skip_invalid(struct dec *d)
{
	const struct x86_insn *in = d->in;
	const struct decode_row *row = decode_legacy.rows;

	d->bad = true;
	for (u32 i = 0; i < 4 && row == decode_legacy.rows; i++)
		row = &decode_legacy.rows[decode_legacy.index[in->map % 4 * 1024 + i * 256 + in->opcode]];
	d->attr = row->attr;
	if (in->map >= MAP_0F38 || d->attr & A_M)
		read_modrm(d);
	d->pos += in->map == MAP_0F3A ? 1 : row->imm;
}

static void decode_rest(struct dec *d)
{
	const struct x86_insn *in = d->in;

	d->attr = d->row->attr;
	d->opnd = d->row->opnd;
	if (d->bad || d->row == d->t->rows) {
		skip_invalid(d);
		return;
	}
	if (d->attr & A_M)
		read_modrm(d);
	resolve_group(d);
	d->bad = d->row == d->t->rows || d->attr & (in->mode == 64 ? A_I64 : A_O64);
	interpret(d);
}

static void start(struct dec *d, struct x86_insn *in)
{
	d->in = in;
	d->attr = d->used = 0;
	d->lock = d->rep = d->pp = d->rex_r = d->rex_x = d->rex_b = d->evex_r = d->evex_v = 0;
	d->w = d->bad = false;
	clear(in);
}

u32 decode_any(struct x86_insn *insn, const u8 *bytes, u32 avail, u32 mode, bool real)
{
	struct dec d;

	start(&d, insn);
	if (likely(avail >= X86_INSN_MAX))
		d.p = bytes;
	else
		fetch_short(&d, bytes, avail);
	insn->mode = (u8)mode;
	insn->mem.base = insn->mem.index = X86_NO_REG;
	if (!read_rex(&d))
		read_prefixes(&d);
	set_adsize(insn);
	find_row(&d, real);
	decode_rest(&d);
	if (d.pos > avail && avail < X86_INSN_MAX)
		return 0;
	if (d.bad) {
		insn->op = OP_UD;
		insn->generic = false;
	}
	if (d.pos > X86_INSN_MAX) {
		insn->op = OP_UD;
		insn->imm = 1;
		insn->generic = false;
		d.pos = X86_INSN_MAX;
	}
	insn->len = (u8)d.pos;
	st_le64(insn->bytes, ld_le64(d.p));
	st_le64(insn->bytes + 7, ld_le64(d.p + 7));
	return insn->len;
}

u32 x86_decode(struct x86_insn *insn, const u8 *bytes, u32 avail, u32 mode, bool real)
{
	if (likely(mode == 64 && avail >= X86_INSN_MAX))
		return x86_decode_64(insn, bytes);
	return decode_any(insn, bytes, avail, mode, real);
}
