/*
 * tcg_diff_gen.h: random code. The decoder says what random bytes are; what is generic (or on a short list) is taken, and its memory
 * operand made to meet the rig's pages, or their ends. Sequences are a tree of blocks, loops and functions, so that they end.
 */
#ifndef HUSK_TEST_TCG_DIFF_GEN_H
#define HUSK_TEST_TCG_DIFF_GEN_H

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

static enum insn_class pick_class(const struct gen *g)
{
	static const u8 classes[] = {C_INT, C_SSE, C_SSE, C_VEX, C_VEX, C_EVEX, C_EVEX, C_X87};

	if (!g->vectors)
		return one_in(12) ? C_VEX : C_INT;
	return classes[below(ARRAY_SIZE(classes))];
}

/* ---- sequences ---- */

static void add_block(struct gen *g, u32 n, u32 depth);

/* jcc over a block; JRCXZ now and then. */
static void add_skip(struct gen *g, u32 depth)
{
	u32 at = g->nr;

	add_branch(g, one_in(8) ? P_LOOP : P_JCC, below(16), -1);
	if (g->part[at].kind == P_LOOP)
		g->part[at].cc = 3;
	add_block(g, 1 + below(4), depth + 1);
	g->part[at].to = (s32)g->nr;
}

/* A counter that the body leaves alone; flags go round with LOOP. */
static void add_loop(struct gen *g, u32 depth)
{
	static const u8 regs[] = {X86_RCX, X86_RCX, X86_RBX, X86_RDI, 9, 11, 13};
	u32 reg = regs[below(ARRAY_SIZE(regs))], head;
	u16 saved = g->reserved;

	if (saved & BIT(reg))
		return;
	add_mov(g, reg, 1 + below(5));
	g->reserved |= (u16)BIT(reg);
	head = g->nr;
	add_block(g, 1 + below(3), depth + 1);
	g->reserved = saved;
	if (reg == X86_RCX && one_in(2)) {
		add_branch(g, P_LOOP, one_in(2) ? 2 : below(2), (s32)head);
		return;
	}
	ADD(g, (u8)(0x48 | reg >> 3), 0xff, (u8)(0xc8 | (reg & 7))); /* dec */
	add_branch(g, P_JCC, 5, (s32)head);
}

static void add_call(struct gen *g)
{
	static const u8 regs[] = {X86_RAX, X86_RDX, X86_RSI, 8, 10, 14};
	u32 f = g->nr_funcs;

	if (f == ARRAY_SIZE(g->func))
		return;
	g->nr_funcs++;
	g->func[f].reserved = g->reserved;
	g->func[f].call = (s32)g->nr;
	if (one_in(2)) {
		add_branch(g, P_CALL, 0, -1);
		return;
	}
	/* lea reg, [rip + function]; call reg */
	for (u32 reg = regs[below(ARRAY_SIZE(regs))];;) {
		struct part *p = ADD(g, (u8)(0x48 | reg >> 3 << 2), 0x8d, (u8)(5 | (reg & 7) << 3), 0, 0, 0, 0);

		p->at_disp = 3;
		ADD(g, (u8)(0x40 | reg >> 3), 0xff, (u8)(0xd0 | (reg & 7)));
		return;
	}
}

/* push a, something, pop b */
static void add_push_pop(struct gen *g, u32 depth)
{
	u32 a = below(16), b;

	do
		b = below(16);
	while (g->reserved & BIT(b));
	switch (below(4)) {
	case 0:
		ADD(g, 0x68, (u8)rnd(), (u8)rnd(), (u8)rnd(), (u8)value());
		break;
	case 1:
		ADD(g, 0x6a, (u8)value());
		break;
	default:
		if (a >= 8)
			ADD(g, 0x41, (u8)(0x50 | (a & 7)));
		else
			ADD(g, (u8)(0x50 | a));
	}
	if (one_in(2))
		add_block(g, 1, depth + 1);
	ADD(g, b >= 8 ? 0x41 : 0x40, (u8)(0x58 | (b & 7)));
}

/* A store into an instruction that comes soon: mov reg, imm32 or add eax, imm32. */
static void add_smc(struct gen *g, u32 depth)
{
	static const u8 regs[] = {0, 2, 3, 5, 6, 7};
	struct part *store = one_in(2) ? ADD(g, 0xc6, 0x05, 0, 0, 0, 0, (u8)rnd())
				       : ADD(g, 0xc7, 0x05, 0, 0, 0, 0, (u8)rnd(), (u8)rnd(), (u8)rnd(), (u8)rnd());
	u32 reg = regs[below(ARRAY_SIZE(regs))];

	store->at_disp = 2;
	if (one_in(2))
		add_block(g, 1 + below(2), depth + 1);
	store->to = (s32)g->nr;
	store->plus = (s32)(1 + (store->len == 7 ? below(4) : 0));
	if (g->reserved & BIT(reg) || one_in(2))
		ADD(g, 0x3d, (u8)rnd(), (u8)rnd(), (u8)rnd(), (u8)rnd()); /* cmp eax, imm32 */
	else
		ADD(g, (u8)(0xb8 | reg), (u8)rnd(), (u8)rnd(), (u8)rnd(), (u8)rnd());
}

/* lea reg, [rip + to]; jmp reg; over something that is never run */
static void add_jump(struct gen *g)
{
	u32 at = g->nr;

	if (one_in(2) || g->reserved & BIT(X86_RAX)) {
		add_branch(g, P_JMP, 0, -1);
	} else {
		ADD(g, 0x48, 0x8d, 0x05, 0, 0, 0, 0)->at_disp = 3;
		ADD(g, 0xff, 0xe0);
	}
	for (u32 i = below(one_in(8) ? 40 : 3); i > 0; i--)
		ADD(g, 0x0f, 0x0b);
	g->part[at].to = (s32)g->nr;
}

static void add_string(struct gen *g)
{
	static const u8 ops[] = {0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf};
	u8 op = ops[below(ARRAY_SIZE(ops))];

	if (g->reserved & (BIT(X86_RCX) | BIT(X86_RSI) | BIT(X86_RDI) | BIT(X86_RAX)))
		return;
	add_mov(g, X86_RSI, pick_target(g, 32));
	add_mov(g, X86_RDI, pick_target(g, 32));
	add_mov(g, X86_RCX, below(40));
	if (one_in(4))
		ADD(g, op);
	else if (one_in(2))
		ADD(g, 0xf3, 0x48, op);
	else
		ADD(g, (u8)(0xf2 + below(2)), op);
}

static void add_block(struct gen *g, u32 n, u32 depth)
{
	for (u32 i = 0; i < n && g->nr < PARTS - 60; i++) {
		u32 r = below(100);

		if (depth >= 3 || r < 72)
			(void)add_random(g, pick_class(g));
		else if (r < 82)
			add_skip(g, depth);
		else if (r < 86)
			add_loop(g, depth);
		else if (r < 90)
			add_call(g);
		else if (r < 94)
			add_push_pop(g, depth);
		else if (r < 96)
			add_jump(g);
		else if (r < 98)
			add_smc(g, depth);
		else if (r < 99)
			add_string(g);
		else
			ADD(g, 0x0f, 0x0b);
	}
}

static void add_end(struct gen *g)
{
	struct part *p = ADD(g, 0xff, 0x24, 0x25, 0, 0, 0, 0); /* jmp [CONST] */

	memcpy(p->bytes + 3, &(u32){(u32)CONST}, 4);
}

static void add_functions(struct gen *g)
{
	for (u32 i = 0; i < g->nr_funcs; i++) {
		g->part[g->func[i].call].to = (s32)g->nr;
		g->reserved = g->func[i].reserved;
		add_block(g, below(4), 2);
		if (one_in(3)) { /* pop to memory would be no return: pop reg, jmp reg */
			g->reserved |= 0;
			ADD(g, 0xc3);
		} else {
			ADD(g, 0xf3, 0xc3);
		}
	}
}

/* Writes the code at g->start. False: a short branch does not reach. */
static bool assemble(struct gen *g, u8 *page_bytes)
{
	u64 at[PARTS + 1];

	for (;;) {
		bool again = false;
		u64 pc = g->start;

		for (u32 i = 0; i < g->nr; i++) {
			struct part *p = &g->part[i];

			at[i] = pc;
			if (p->kind != P_PLAIN && p->len)
				p->len = p->small ? 2 : p->kind == P_JCC ? 6 : 5;
			pc += p->len;
		}
		at[g->nr] = pc;
		if (pc > CODE + CODE_BYTES)
			return false;
		for (u32 i = 0; i < g->nr; i++) {
			struct part *p = &g->part[i];
			s64 rel = p->kind == P_PLAIN ? 0 : (s64)(at[p->to] - at[i + 1]);

			if (p->kind == P_PLAIN || !p->small || !p->len || (rel >= -128 && rel < 128))
				continue;
			if (p->kind == P_LOOP)
				return false;
			p->small = false;
			again = true;
		}
		if (!again)
			break;
	}
	for (u32 i = 0; i < g->nr; i++) {
		struct part *p = &g->part[i];
		u32 rel = p->to >= 0 ? (u32)(at[p->to] + (u64)p->plus - at[i + 1]) : (u32)(p->target - at[i + 1]);
		u8 *b = p->bytes;

		if (!p->len)
			continue;
		if (p->at_disp) {
			memcpy(b + p->at_disp, &rel, 4);
		} else if (p->kind == P_LOOP || (p->kind != P_PLAIN && p->small)) {
			b[0] = (u8)(p->kind == P_LOOP ? 0xe0 | p->cc : p->kind == P_JCC ? 0x70 | p->cc : 0xeb);
			b[1] = (u8)rel;
		} else if (p->kind == P_JCC) {
			b[0] = 0x0f;
			b[1] = 0x80 | p->cc;
			memcpy(b + 2, &rel, 4);
		} else if (p->kind != P_PLAIN) {
			b[0] = p->kind == P_CALL ? 0xe8 : 0xe9;
			memcpy(b + 1, &rel, 4);
		}
		memcpy(page_bytes + (at[i] - CODE), b, p->len);
	}
	g->total = (u32)(at[g->nr] - g->start);
	return true;
}

static void make_single(struct gen *g, bool vectors)
{
	*g = (struct gen){.single = true, .vectors = vectors};
	while (!add_random(g, vectors ? pick_class(g) : one_in(12) ? C_VEX : C_INT))
		g->nr = 0;
	add_end(g);
	g->start = CODE + CODE_ZONE + below(CODE_BYTES - CODE_ZONE - 64);
}

static void make_sequence(struct gen *g, bool vectors)
{
	*g = (struct gen){.vectors = vectors, .reserved = BIT(X86_RSP)};
	add_block(g, 1 + below(40), 0);
	add_end(g);
	add_functions(g);
	g->start = CODE + CODE_ZONE + below(3072);
}

#endif
