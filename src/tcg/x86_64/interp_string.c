/*
 * interp_string.c: string instructions. As many elements at once as lie in one page of each operand are moved by the host's own REP
 * instruction, of the same element size and direction, which makes overlapping operands come out as the architecture has them: within a
 * page distances are the same in the host, and different pages do not overlap. Everything else goes element by element.
 * Registers always name the first element that is not done; so a fault, or a request between two runs, leaves what can be begun anew. Lean.
 */
#include "tcg/x86_64/interp_int.h"

struct str {
	struct tcg_cpu *c;
	u32 op, size, seg;
	u8 rep, adsize;
	bool down, uses_src, uses_dst;
	u64 count;	   /* left; without REP: 1 */
	u64 src, dst;	   /* linear addresses of the next elements, checked */
	void *hsrc, *hdst; /* host addresses, or NULL */
	u32 f;		   /* flags of the last comparison */
	bool compared, stop;
};

static u64 reg(const struct str *s, u32 r)
{
	return interp_reg(s->c, r, s->adsize);
}

/* How many elements can be done from this one on without a look at the next page, a wrap of the address or the segment's limit. */
static u64 span(const struct str *s, u32 seg, u64 off, u64 va, bool write)
{
	u64 n = s->count, in_page = va & (MEM_PAGE_SIZE - 1), room, bytes;

	if (s->down) {
		n = MIN(n, in_page / s->size + 1);
		n = MIN(n, off / s->size + 1);
	} else {
		n = MIN(n, (MEM_PAGE_SIZE - in_page) / s->size);
		room = interp_mask(s->adsize) - off;
		if (room < MEM_PAGE_SIZE)
			n = MIN(n, (room + 1) / s->size);
	}
	n = MAX(n, 1ull);
	bytes = n * s->size;
	if (!tcg_is_64(s->c) && !interp_seg_allows(s->c, seg, s->down ? off + s->size - bytes : off, bytes, write))
		return 1;
	return n;
}

static u64 prepare_src(struct str *s, u64 n)
{
	s->src = interp_linear(s->c, s->seg, reg(s, X86_RSI), s->size, false);
	s->hsrc = mmu_host(s->c, s->src, s->size, MMU_READ, tcg_data_mode(s->c));
	return MIN(n, span(s, s->seg, reg(s, X86_RSI), s->src, false));
}

static u64 prepare_dst(struct str *s, u64 n)
{
	bool write = s->op == OP_MOVS || s->op == OP_STOS || s->op == OP_INS;

	s->dst = interp_linear(s->c, X86_ES, reg(s, X86_RDI), s->size, write);
	s->hdst = mmu_host(s->c, s->dst, s->size, write ? MMU_WRITE : MMU_READ, tcg_data_mode(s->c));
	return MIN(n, span(s, X86_ES, reg(s, X86_RDI), s->dst, write));
}

/* Finds where the operands are; faults for the first element: CMPS reads rDI's first, as processors do. The number of elements to do at
 * once, 0: they are not both plain RAM. */
static u64 prepare(struct str *s)
{
	u64 n = s->count;

	s->hsrc = s->hdst = NULL;
	if (s->op == OP_CMPS)
		n = prepare_dst(s, n);
	if (s->uses_src)
		n = prepare_src(s, n);
	if (s->uses_dst && s->op != OP_CMPS)
		n = prepare_dst(s, n);
	if ((s->uses_src && !s->hsrc) || (s->uses_dst && !s->hdst))
		return 0;
	return s->c->mode & TCG_MODE_TF ? 1 : n;
}

/* ---- on the host ---- */

#define RUN(prefix, ins, ...) \
	do { \
		if (s->down) \
			asm volatile("std\n\t" prefix ins "\n\tcld" __VA_ARGS__); \
		else \
			asm volatile(prefix ins __VA_ARGS__); \
	} while (0)
#define BY_SIZE(prefix, ins, ...) \
	do { \
		if (s->size == 1) \
			RUN(prefix, ins "b", __VA_ARGS__); \
		else if (s->size == 2) \
			RUN(prefix, ins "w", __VA_ARGS__); \
		else if (s->size == 4) \
			RUN(prefix, ins "l", __VA_ARGS__); \
		else \
			RUN(prefix, ins "q", __VA_ARGS__); \
	} while (0)

static void host_movs(const struct str *s, u64 n)
{
	void *d = s->hdst, *p = s->hsrc;

	BY_SIZE("rep ", "movs", : "+D"(d), "+S"(p), "+c"(n) : : "memory", "cc");
}

static void host_stos(const struct str *s, u64 n)
{
	void *d = s->hdst;

	BY_SIZE("rep ", "stos", : "+D"(d), "+c"(n) : "a"(s->c->gpr[X86_RAX]) : "memory", "cc");
}

/* LAHF and SETO after CLD, which leaves them alone. */
static u64 host_cmps(struct str *s, u64 n)
{
	void *d = s->hdst, *p = s->hsrc;
	u64 left = n;

	if (s->rep == 0xf2)
		BY_SIZE("repne ", "cmps", "\n\tlahf\n\tseto %%al" : "+D"(d), "+S"(p), "+c"(left), "=&a"(s->f) : : "memory", "cc");
	else
		BY_SIZE("repe ", "cmps", "\n\tlahf\n\tseto %%al" : "+D"(d), "+S"(p), "+c"(left), "=&a"(s->f) : : "memory", "cc");
	return n - left;
}

static u64 host_scas(struct str *s, u64 n)
{
	u64 left = n, rax = s->c->gpr[X86_RAX];
	void *d = s->hdst;

	if (s->rep == 0xf2)
		BY_SIZE("repne ", "scas", "\n\tlahf\n\tseto %%al" : "+D"(d), "+c"(left), "+&a"(rax) : : "memory", "cc");
	else
		BY_SIZE("repe ", "scas", "\n\tlahf\n\tseto %%al" : "+D"(d), "+c"(left), "+&a"(rax) : : "memory", "cc");
	s->f = (u32)rax & 0xffff;
	return n - left;
}

/* ---- element by element ---- */

static void element_compare(struct str *s)
{
	u64 b = interp_load(s->c, s->dst, s->size), a = interp_reg(s->c, X86_RAX, s->size);

	if (s->op == OP_CMPS)
		a = interp_load(s->c, s->src, s->size);
	interp_kernel_of(OP_CMP)(a, b, s->size, &s->f);
}

static void element(struct str *s)
{
	struct tcg_cpu *c = s->c;
	u16 port = (u16)c->gpr[X86_RDX];

	switch (s->op) {
	case OP_MOVS:
		interp_store(c, s->dst, s->size, interp_load(c, s->src, s->size));
		break;
	case OP_STOS:
		interp_store(c, s->dst, s->size, interp_reg(c, X86_RAX, s->size));
		break;
	case OP_LODS:
		interp_set_reg(c, X86_RAX, s->size, interp_load(c, s->src, s->size));
		break;
	case OP_INS:
		interp_store(c, s->dst, s->size, tcg_pio_read(c, port, s->size));
		break;
	case OP_OUTS:
		tcg_pio_write(c, port, s->size, (u32)interp_load(c, s->src, s->size));
		break;
	default:
		element_compare(s);
		break;
	}
}

/* One run; the number of elements that were done. */
static u64 run(struct str *s)
{
	u64 n = prepare(s);

	if (!n || s->op == OP_INS || s->op == OP_OUTS || s->op == OP_LODS) {
		element(s);
		return 1;
	}
	switch (s->op) {
	case OP_MOVS:
		host_movs(s, n);
		return n;
	case OP_STOS:
		host_stos(s, n);
		return n;
	case OP_CMPS:
		return host_cmps(s, n);
	default:
		return host_scas(s, n);
	}
}

static void advance(struct str *s, u64 n)
{
	u64 by = s->down ? -(n * s->size) : n * s->size;
	bool zf = s->f >> 8 & X86_FLAG_ZF;

	if (s->uses_src)
		interp_set_reg(s->c, X86_RSI, s->adsize, reg(s, X86_RSI) + by);
	if (s->uses_dst)
		interp_set_reg(s->c, X86_RDI, s->adsize, reg(s, X86_RDI) + by);
	s->count -= n;
	if (s->rep)
		interp_set_reg(s->c, X86_RCX, s->adsize, s->count);
	s->compared = s->op == OP_CMPS || s->op == OP_SCAS;
	s->stop = !s->count || (s->compared && s->rep && zf != (s->rep == 0xf3));
}

/* With 32-bit addresses in 64-bit code and a count of zero, Intel's processors still cut registers to 32 bits. */
static void nothing_to_do(struct str *s)
{
	struct tcg_cpu *c = s->c;

	if (s->adsize != 4)
		return;
	c->gpr[X86_RCX] = 0;
	if (s->op == OP_MOVS)
		c->gpr[X86_RSI] = (u32)c->gpr[X86_RSI];
	if (s->op == OP_MOVS || s->op == OP_STOS)
		c->gpr[X86_RDI] = (u32)c->gpr[X86_RDI];
}

void interp_string(struct tcg_cpu *c, const struct x86_insn *insn)
{
	struct str s = {.c = c, .op = insn->op, .rep = insn->rep, .adsize = insn->adsize};

	s.size = insn->opsize;
	s.seg = interp_data_seg(insn);
	s.down = c->rflags & X86_FLAG_DF;
	s.uses_src = insn->op == OP_MOVS || insn->op == OP_CMPS || insn->op == OP_LODS || insn->op == OP_OUTS;
	s.uses_dst = insn->op != OP_LODS && insn->op != OP_OUTS;
	s.count = insn->rep ? interp_reg(c, X86_RCX, insn->adsize) : 1;
	if (insn->op == OP_INS || insn->op == OP_OUTS)
		sys_check_io(c, (u16)c->gpr[X86_RDX], s.size);
	if (!s.count) {
		nothing_to_do(&s);
		c->rip = interp_next_rip(c, insn);
		return;
	}
	do {
		advance(&s, run(&s));
	} while (!s.stop && !(c->mode & TCG_MODE_TF) && !__atomic_load_n(&c->requests, __ATOMIC_RELAXED));
	if (s.compared)
		c->rflags = interp_flags_merge(c->rflags, s.f);
	/* An interrupt in between saves RF set (SDM 3B §17.3.1.1). */
	if (s.stop)
		c->rip = interp_next_rip(c, insn);
	else
		c->rflags |= X86_FLAG_RF;
}
