/* tcg_diff_seq.h: random sequences: a tree of blocks, skips, loops and functions, so that they end; and their assembly. */
#ifndef HUSK_TEST_TCG_DIFF_SEQ_H
#define HUSK_TEST_TCG_DIFF_SEQ_H

#include "tcg_diff_gen.h"

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
