/*
 * tcg_diff_gen.h: random instructions. The decoder says what random bytes are; what is generic (or on a short list) is taken, and its
 * memory operand made to meet the rig's pages, or their ends.
 */
#ifndef HUSK_TEST_TCG_DIFF_GEN_H
#define HUSK_TEST_TCG_DIFF_GEN_H

#include "makers.h"
#include "tcg_diff_rig.h"

static u64 seed;

static u64 rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed * 0x2545f4914f6cdd1dull >> 8 | seed << 56;
}
static u32 below(u32 n)
{
	return (u32)(rnd() >> 16) % n;
}
static bool one_in(u32 n)
{
	return below(n) == 0;
}

static u64 value(void)
{
	static const u64 edges[] = {0,	    1,	    ~0ull,	0x7f,	    0x80,	0xff,	    0x7fff,
				    0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 1ull << 63, ~0ull >> 1};

	switch (below(4)) {
	case 0:
		return edges[below(ARRAY_SIZE(edges))];
	case 1:
		return below(80);
	case 2:
		return edges[below(ARRAY_SIZE(edges))] + below(5) - 2;
	default:
		return rnd();
	}
}

/* ---- code ---- */

enum part_kind { P_PLAIN, P_JCC, P_JMP, P_CALL, P_LOOP /* E0-E3 */ };

/* One instruction of a sequence. */
struct part {
	u8 kind, len, cc, at_disp;
	bool small; /* branch of one byte */
	s32 to;	    /* branches, and RIP-relative operands that name code: part; -1: none */
	s32 plus;   /* bytes from there */
	u64 target; /* other RIP-relative operands */
	u8 bytes[16];
};
#define PARTS 200u

struct gen {
	struct part part[PARTS];
	u32 nr;
	bool single;  /* registers can be chosen freely before the only instruction */
	bool vectors; /* may hold some */
	bool own;     /* holds shifts, whose undefined flags are this processor's own: the interpreter's are as Intel's */
	u16 reserved; /* registers that must keep their values */
	u64 gpr[16];  /* single: the start */
	u16 chosen;   /* single: of these */
	u32 nr_funcs;
	struct {
		s32 call;
		u16 reserved;
	} func[16];
	u64 start;
	u32 total; /* bytes */
};

static struct part *add_part(struct gen *g, const u8 *bytes, u32 n)
{
	struct part *p = &g->part[g->nr < PARTS - 1 ? g->nr++ : PARTS - 1];

	*p = (struct part){.kind = P_PLAIN, .len = (u8)n, .to = -1};
	memcpy(p->bytes, bytes, n);
	return p;
}
#define ADD(g, ...) add_part(g, (const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}))

static void add_mov(struct gen *g, u32 reg, u64 v)
{
	u8 b[10] = {(u8)(0x48 | reg >> 3), (u8)(0xb8 | (reg & 7))};

	memcpy(b + 2, &v, 8);
	if (v <= UINT32_MAX && one_in(2)) { /* mov r32, imm32 */
		b[0] = reg >> 3 ? 0x41 : 0x40;
		add_part(g, b, 6);
	} else {
		add_part(g, b, 10);
	}
}

static struct part *add_branch(struct gen *g, enum part_kind kind, u32 cc, s32 to)
{
	struct part *p = add_part(g, (const u8[]){0}, 1);

	p->kind = (u8)kind;
	p->cc = (u8)cc;
	p->to = to;
	p->small = kind == P_LOOP || (kind != P_CALL && one_in(2));
	return p;
}

/* ---- one instruction ---- */

enum insn_class { C_INT, C_SSE, C_VEX, C_EVEX, C_X87 };

static u32 put_legacy(u8 *b, enum insn_class cls)
{
	static const u8 segs[] = {0x2e, 0x36, 0x3e, 0x26, 0x65};
	u32 n = 0, map = cls == C_X87	? 0
			 : cls == C_SSE ? 1 + below(5) / 3 * (1 + below(2))
			 : below(8) < 4 ? 0
			 : below(4)	? 1
					: 1 + below(3);

	if (one_in(cls == C_SSE ? 2 : 5))
		b[n++] = 0x66;
	if (one_in(20))
		b[n++] = 0x67;
	if (one_in(24))
		b[n++] = segs[below(ARRAY_SIZE(segs))];
	if (cls == C_INT && one_in(10))
		b[n++] = 0xf0;
	if (map && one_in(cls == C_SSE ? 2 : 5))
		b[n++] = (u8)(0xf2 + below(2));
	if (one_in(2))
		b[n++] = (u8)(0x40 | below(16));
	if (map)
		b[n++] = 0x0f;
	if (map > 1)
		b[n++] = map == 2 ? 0x38 : 0x3a;
	b[n++] = (u8)(cls == C_X87 ? 0xd8 | below(8) : below(256));
	return n;
}

static u32 put_vex(u8 *b)
{
	u32 vvvv = one_in(2) ? 15 : below(16), last = vvvv << 3 | below(8);

	if (one_in(3)) {
		b[0] = 0xc5;
		b[1] = (u8)(below(2) << 7 | last);
		b[2] = (u8)below(256);
		return 3;
	}
	b[0] = 0xc4;
	b[1] = (u8)(below(8) << 5 | (1 + below(3)));
	b[2] = (u8)(below(2) << 7 | last);
	b[3] = (u8)below(256);
	return 4;
}

static u32 put_evex(u8 *b)
{
	static const u8 maps[] = {1, 1, 2, 2, 2, 3, 5, 6};

	b[0] = 0x62;
	b[1] = (u8)(below(16) << 4 | maps[below(8)]);
	b[2] = (u8)(below(2) << 7 | (one_in(2) ? 15 : below(16)) << 3 | 4 | below(4));
	b[3] = (u8)(below(8) << 5 | (one_in(2) ? 8 : 0) | (one_in(2) ? 0 : below(8)) | (one_in(3) ? 16 : 0));
	b[4] = (u8)below(256);
	return 5;
}

static bool touches_memory(const struct x86_insn *in)
{
	return in->mem.access && ((in->has_modrm && in->mod != 3) || in->mem.moffs);
}

static bool wanted(const struct gen *g, const struct x86_insn *in)
{
	const struct tcg_cpu *c = rig->c;
	bool vector = in->op >= OP_VEC;

	if (makers_differ(in) || (in->op == OP_SERIALIZE && !is_intel()) ||
	    (in->feat == FEAT_SHA && touches_memory(in) && !is_intel())) /* AMD's SHA operands need no alignment */
		return false;
	if ((in->feat && !tcg_has(c, in->feat)) || (in->feat2 && !tcg_has(c, in->feat2)) || in->gpr_write & g->reserved)
		return false;
	if (touches_memory(in) && (in->mem.size > 64 || in->mem.seg == X86_FS))
		return false;
	if (vector && !g->vectors)
		return false;
	switch (in->op) {
	case OP_RDRAND:
	case OP_RDSEED:
		return false;
	case OP_LEA:
	case OP_NOP:
	case OP_PREFETCH:
	case OP_VEC_MASKED:
	case OP_FWAIT:
	case OP_LDMXCSR:
	case OP_STMXCSR:
		return true;
	default:
		return in->generic;
	}
}

/* Random bytes that are an instruction of the class. False: none was found. */
static bool find_insn(const struct gen *g, enum insn_class cls, u8 *b, struct x86_insn *in)
{
	for (u32 tries = 0; tries < 400; tries++) {
		u64 v = rnd();
		u32 n;

		memcpy(b, &v, 8);
		v = v * 0x9e3779b97f4a7c15 ^ v >> 29;
		memcpy(b + 8, &v, 8);
		n = cls == C_VEX ? put_vex(b) : cls == C_EVEX ? put_evex(b) : put_legacy(b, cls);
		if (one_in(2))
			b[n] |= 0xc0;
		if (!x86_decode(in, b, 15, 64, false) || in->op == OP_UD || !wanted(g, in))
			continue;
		v = value();
		if (in->at_imm && one_in(2))
			memcpy(b + in->at_imm, &v, in->imm_size);
		return true;
	}
	return false;
}

/* ---- memory operands ---- */

/* Where an operand of n bytes may lie: mostly inside, else over an edge. */
static u64 pick_target(const struct gen *g, u32 n)
{
	u32 rare = below(g->single ? 48 : 160);
	u64 at = DATA + below((u32)(DATA_END - DATA) - 64);

	switch (rare) {
	case 0:
		return DATA_END - below(n + 1);
	case 1:
		return DATA - below(n + 1);
	case 2:
		return CONST + below(4096 - 64);
	case 3:
		return g->vectors || one_in(2) ? value() : 0x800000000000ull - below(n + 1);
	case 4:
	case 5:
		return CODE + below(CODE_ZONE - 64);
	case 6 ... 10:
		return PAGE(2) - below(n + 1);
	default:
		return one_in(3) ? at : at & ~(u64)(one_in(2) ? 63 : n - 1);
	}
}

static bool choose(struct gen *g, u32 reg, u64 v)
{
	if (g->single) {
		g->gpr[reg] = v;
		g->chosen |= (u16)BIT(reg);
		return true;
	}
	if (g->reserved & BIT(reg))
		return false;
	add_mov(g, reg, v);
	return true;
}

/* [base + index * scale + disp] = target. */
static bool aim_sib(struct gen *g, struct x86_insn *in, u8 *b, u64 target)
{
	const struct x86_mem *m = &in->mem;
	u64 disp = (u64)(s64)m->disp, seg = m->seg == X86_GS ? GS_BASE : 0, index;

	target -= seg;
	if (m->base == X86_RSP && !g->single) { /* beside the frames */
		s32 off = one_in(2) ? 0x300 + (s32)below(256) : -0x300 - (s32)below(256);

		if (m->index != X86_NO_REG || in->mod != 2)
			return false;
		memcpy(b + in->at_disp, &off, 4);
		return true;
	}
	if (m->base == m->index)
		return choose(g, m->base, (target - disp) / (1 + m->scale));
	if (m->base == X86_NO_REG) {
		s32 fit = (s32)(target - (target / m->scale - 8) * m->scale);

		memcpy(b + in->at_disp, &fit, 4);
		return choose(g, m->index, target / m->scale - 8);
	}
	if (m->index == X86_NO_REG)
		return choose(g, m->base, target - disp);
	index = one_in(2) ? below(64) : value();
	return choose(g, m->index, index) && choose(g, m->base, target - disp - index * m->scale);
}

/* False: there is no way. In sequences MOVs that set registers come before. */
static bool aim(struct gen *g, struct x86_insn *in, u8 *b, u64 *rip_target)
{
	const struct x86_mem *m = &in->mem;
	u64 target;

	if (!touches_memory(in) || m->moffs)
		return !m->moffs;
	target = pick_target(g, m->size ? m->size : 1);
	if (m->base < 16 && in->adsize == 8 && target - AREA < AREA_PAGES * MEM_PAGE_SIZE && target < CODE && one_in(4))
		target += HIGH - AREA;
	if (m->base == X86_RIP || (m->base == X86_NO_REG && m->index == X86_NO_REG)) {
		u32 disp = (u32)(target - (m->seg == X86_GS ? GS_BASE : 0));

		if (target > INT32_MAX)
			return false;
		if (m->base == X86_RIP)
			*rip_target = disp;
		memcpy(b + in->at_disp, &disp, 4);
		return true;
	}
	if (!aim_sib(g, in, b, target))
		return false;
	if (g->single && in->adsize == 4) /* upper halves do not count */
		for (u32 i = 0; i < 16; i++)
			if (i == m->base || i == m->index)
				g->gpr[i] = (u32)g->gpr[i] | (one_in(2) ? rnd() << 32 : 0);
	return true;
}

/* What would mostly fault, or never succeed, with random registers. */
static void help(struct gen *g, const struct x86_insn *in)
{
	u16 address = (u16)(in->has_modrm && in->mod != 3
				    ? (in->mem.base < 16 ? BIT(in->mem.base) : 0) | (in->mem.index < 16 ? BIT(in->mem.index) : 0)
				    : 0);

	if ((in->op == OP_DIV || in->op == OP_IDIV) && !one_in(6) && !(address & BIT(X86_RDX)))
		(void)choose(g, X86_RDX, below(3) - (u64)(in->op == OP_IDIV));
	if (g->single && (in->op == OP_CMPXCHG || in->op == OP_CMPXCHG8B || in->op == OP_CMPXCHG16B) && one_in(2) &&
	    !(address & (BIT(X86_RAX) | BIT(X86_RDX))))
		g->chosen |= (u16)BIT(X86_RAX); /* test_tcg_diff.c: as memory has it */
}

static bool add_random(struct gen *g, enum insn_class cls)
{
	struct x86_insn in;
	u8 b[16] = {0};

	for (u32 tries = 0; tries < 8; tries++) {
		u32 mark = g->nr;
		u64 target = 0;
		struct part *p;

		if (!find_insn(g, cls, b, &in))
			return false;
		help(g, &in);
		g->own |= !is_intel() && in.op >= OP_ROL && in.op <= OP_SHRD;
		if (!aim(g, &in, b, &target)) {
			g->nr = mark;
			continue;
		}
		p = add_part(g, b, in.len);
		if (target) {
			p->target = target;
			p->at_disp = in.at_disp;
		}
		return true;
	}
	return false;
}

#endif
