/*
 * verify.c: see verify.h. Abstract interpretation over the unit's bytes. Values matter in rcx, r10 and r11 only (T2, T0, T1): how an
 * address B, in any register, becomes one that may be used:
 *
 *	T1 = B's index in a table (INDEX)	T2 = neg + B (SUM)	SUM compared with the page's end: `proof` that size bytes are in it
 *	T1 = addend (HOST): [B + T1] may be used, and T0 = B + T1 is CHECKED
 *
 * `tag` names the index that neg and addend were loaded with: the offset of the instruction that made it; src is B. Jumps back, as from the
 * slow path, bring nothing along: where they lead, nothing is known, and one pass is enough.
 */
#include "tcg/x86_64/verify.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tcg/x86_64/decode.h"
#include "tcg/x86_64/emit.h"

#define MAX_CODE  0x10000u
#define LOOP_HEAD 2
#define ENV_END	  (TCG_CPU_SIZE + TCG_CTX_SIZE)

enum kind {
	ANY,
	CONST,	 /* n */
	ROT8,	 /* src rotated by 8 bits */
	INDEX,	 /* no bits but those of n */
	NEG,	 /* of a table, at index tag */
	HOST,	 /* of a table, at index tag: the addend, or where code is */
	SUM,	 /* src + NEG */
	LAST,	 /* SUM + size - 1 */
	PAGE,	 /* the bits of LAST above a page: zero = `size` bytes are in it */
	CHECKED, /* host address of size bytes */
	MATCH,	 /* src + NEG of a jump cache: zero = the slot is src's */
	HIT,	 /* MATCH that is zero */
};

#define NO_SRC 0xff

struct val {
	u8 kind, table;
	u8 src; /* the host register that it was computed from, which still holds the same; or NO_SRC */
	u16 size;
	u32 tag;
	u64 n;
};

/* size bytes at the address in src are in the page of entry tag of the table. size 0: no proof. */
struct proof {
	u8 src, table;
	u16 size;
	u32 tag;
};

enum { T0, T1, T2, NR_T };
static const u8 host_reg[NR_T] = {H_R10, H_R11, H_RCX};

struct state {
	bool reached;
	u32 cmp; /* the flags compare T2 with cmp - 1; 0: they do not */
	struct proof proof;
	struct val t[NR_T];
};

struct verify {
	u8 starts[MAX_CODE]; /* an instruction begins here; LOOP_HEAD: and a jump back leads here */
	struct state in[MAX_CODE];
	const struct verify_unit *u;
	struct state s;
	u32 at; /* of the current instruction */
	const char *why;
};

struct table {
	u32 offset, count;
	bool write, jump;
	u8 mode; /* of TCG_MODE_USER | TCG_MODE_AC, whose it is */
};
#define CTX(field) (TCG_CTX_OFFSET + offsetof(struct tcg_ctx, field))
static const struct table tables[] = {
	{offsetof(struct tcg_cpu, k_r), TCG_TLB_SIZE, false, false, 0},
	{offsetof(struct tcg_cpu, k_w), TCG_TLB_SIZE, true, false, 0},
	{CTX(user_r), TCG_TLB_SIZE, false, false, TCG_MODE_USER},
	{CTX(user_w), TCG_TLB_SIZE, true, false, TCG_MODE_USER},
	{CTX(ac_r), TCG_AC_SIZE, false, false, TCG_MODE_AC},
	{CTX(ac_w), TCG_AC_SIZE, true, false, TCG_MODE_AC},
	{offsetof(struct tcg_cpu, k_jump), TCG_K_JUMP_SIZE, false, true, 0},
	{CTX(jump), TCG_JUMP_SIZE, false, true, TCG_MODE_USER},
};

/* What translated code may store to. */
#define ENV_FIELD(field) \
	{ \
		offsetof(struct tcg_cpu, field), sizeof(((struct tcg_cpu *)0)->field) \
	}
static const struct {
	u32 offset, size;
} writable[] = {
	ENV_FIELD(gpr),
	ENV_FIELD(rflags),
	ENV_FIELD(scratch),
	ENV_FIELD(kernel_gs_base),
	ENV_FIELD(seg[X86_FS].base),
	ENV_FIELD(seg[X86_GS].base),
};

static void fail(struct verify *v, const char *why)
{
	if (!v->why)
		v->why = why;
}

/* ---- values ---- */

static u32 t_of(u32 reg)
{
	for (u32 i = 0; i < NR_T; i++) {
		if (host_reg[i] == reg)
			return i;
	}
	return NR_T;
}

/* The register holds something else now: what was computed from the old value says nothing about the new. */
static void forget(struct verify *v, u32 reg)
{
	for (u32 i = 0; i < NR_T; i++) {
		struct val *o = &v->s.t[i];

		if (o->kind && o->src == reg && o->kind != INDEX)
			*o = (struct val){0};
		else if (o->src == reg)
			o->src = NO_SRC;
	}
	if (v->s.proof.src == reg)
		v->s.proof.size = 0;
}

static void set(struct verify *v, u32 t, struct val val)
{
	forget(v, host_reg[t]);
	v->s.t[t] = val;
}

static bool same(const struct val *a, const struct val *b)
{
	return a->kind == b->kind && a->table == b->table && a->src == b->src && a->size == b->size && a->tag == b->tag && a->n == b->n;
}

static bool same_proof(const struct proof *a, const struct proof *b)
{
	return a->src == b->src && a->table == b->table && a->size == b->size && a->tag == b->tag;
}

/* How many bytes may be used at src + the addend; 0: none. */
static u32 room_at(const struct verify *v, const struct val *addend, u32 src)
{
	const struct proof *p = &v->s.proof;

	return addend->kind == HOST && addend->src == src && p->src == src && p->table == addend->table && p->tag == addend->tag ? p->size
																 : 0;
}

static void join(struct verify *v, u32 at, const struct state *s)
{
	struct state *in = &v->in[at];

	if (!in->reached) {
		*in = *s;
		in->reached = true;
		return;
	}
	if (in->cmp != s->cmp)
		in->cmp = 0;
	if (!same_proof(&in->proof, &s->proof))
		in->proof.size = 0;
	for (u32 i = 0; i < NR_T; i++) {
		if (!same(&in->t[i], &s->t[i]))
			in->t[i] = (struct val){0};
	}
}

/* ---- memory ---- */

static bool table_fits_mode(const struct verify *v, const struct table *t)
{
	u8 mode = v->u->mode & TCG_MODE_USER ? TCG_MODE_USER : v->u->mode & TCG_MODE_AC;

	return t->mode == mode;
}

/* [rsp + T1 * scale + disp]: what is read of which table. */
static struct val table_entry(struct verify *v, const struct x86_insn *in)
{
	const struct val *index = &v->s.t[T1];
	u64 mask = index->n * in->mem.scale;

	for (u32 i = 0; i < ARRAY_SIZE(tables); i++) {
		u32 at = (u32)in->mem.disp - tables[i].offset;

		if (index->kind != INDEX || mask & 15 || mask > (tables[i].count - 1) * 16 || (at != 0 && at != 8))
			continue;
		if (!table_fits_mode(v, &tables[i]))
			fail(v, "a table of another mode");
		return (struct val){.kind = at ? HOST : NEG, .table = (u8)i, .src = index->src, .tag = index->tag};
	}
	fail(v, "an index that is not known to be inside a table");
	return (struct val){0};
}

static void check_env(struct verify *v, const struct x86_insn *in, u32 size)
{
	u64 at = (u64)(s64)in->mem.disp;
	bool ok = !(in->mem.access & OPND_W);

	if (at >= ENV_END || ENV_END - at < size)
		fail(v, "outside of the vCPU's window");
	for (u32 i = 0; i < ARRAY_SIZE(writable); i++)
		ok |= at >= writable[i].offset && at + size <= writable[i].offset + writable[i].size;
	if (!ok)
		fail(v, "a store to state that is not the guest's");
}

/* [T0 + disp], or [B + T1] */
static void check_guest(struct verify *v, const struct x86_insn *in, u32 size)
{
	bool indexed = in->mem.index == H_R11 && in->mem.scale == 1;
	const struct val *t = &v->s.t[indexed ? T1 : T0];
	u32 room = indexed ? room_at(v, t, in->mem.base) : t->kind == CHECKED ? t->size : 0;

	if ((in->mem.index != X86_NO_REG && !indexed) || (indexed && in->mem.disp) || in->mem.disp < 0)
		fail(v, "more than the checked address in that of guest memory");
	else if (!room)
		fail(v, "an address that no check has allowed");
	else if ((u32)in->mem.disp + size > room)
		fail(v, "more bytes than were checked");
	else if (in->mem.access & OPND_W && !tables[t->table].write)
		fail(v, "a store to what was checked for reading");
}

/* A bit string reaches as far as its offset says. */
static bool bit_offset_known(const struct verify *v, const struct x86_insn *in)
{
	u32 t = t_of(in->opnd[1].reg);

	if (in->op < OP_BT || in->op > OP_BTC || in->imm_size)
		return true;
	return t < NR_T && v->s.t[t].kind == INDEX && v->s.t[t].n < in->opsize * 8u;
}

/* [rsp + rcx + table]: the tables of STI and CLI, by a byte. */
static bool reads_byte_table(const struct verify *v, const struct x86_insn *in)
{
	const struct val *index = &v->s.t[T2];
	size_t at = (size_t)in->mem.disp;

	return in->mem.base == H_RSP && in->mem.index == H_RCX && in->mem.scale == 1 && in->mem.access == OPND_R && in->mem.size == 1 &&
	       index->kind == INDEX && index->n <= 0xff &&
	       (at == offsetof(struct tcg_cpu, with_if) || at == offsetof(struct tcg_cpu, without_if));
}

static void check_memory(struct verify *v, const struct x86_insn *in)
{
	u32 size = in->mem.size ? in->mem.size : in->opsize;

	if (!in->has_modrm || in->mod == 3 || in->op == OP_LEA || in->op == OP_NOP)
		return;
	if (in->seg_prefix || in->adsize != 8 || in->mem.moffs)
		fail(v, "a prefix that changes the address");
	else if (in->mem.base == H_R10 || (in->mem.index == H_R11 && in->mem.base < 16 && in->mem.base != H_RSP))
		check_guest(v, in, size);
	else if (in->mem.base == H_RSP && in->mem.index == X86_NO_REG)
		check_env(v, in, size);
	else if (!reads_byte_table(v, in) && (in->mem.base != H_RSP || in->mem.index != H_R11 || in->mem.access & OPND_W))
		fail(v, "an address that is neither the vCPU's nor checked");
	if (!bit_offset_known(v, in))
		fail(v, "a bit offset that is not known to be inside the operand");
}

/* ---- instructions ---- */

static bool reads_env(const struct x86_insn *in, size_t field)
{
	return in->has_modrm && in->mod != 3 && in->mem.base == H_RSP && in->mem.index == X86_NO_REG && (size_t)in->mem.disp == field;
}

/* PEXT with one of the constant masks: how many bits come out. */
static u64 pext_bits(const struct x86_insn *in)
{
	if (reads_env(in, offsetof(struct tcg_cpu, index_mask)))
		return TCG_TLB_SIZE - 1;
	if (reads_env(in, offsetof(struct tcg_cpu, index_mask_ac)))
		return TCG_AC_SIZE - 1;
	if (reads_env(in, offsetof(struct tcg_cpu, jump_mask)))
		return TCG_JUMP_SIZE - 1;
	if (reads_env(in, offsetof(struct tcg_cpu, k_jump_mask)))
		return TCG_K_JUMP_SIZE - 1;
	if (reads_env(in, offsetof(struct tcg_cpu, bits31)))
		return 31;
	return reads_env(in, offsetof(struct tcg_cpu, bits63)) ? 63 : 0;
}

static struct val pext(struct verify *v, const struct x86_insn *in)
{
	struct val val = v->s.t[T2];
	u64 bits = pext_bits(in);

	if (bits)
		return (struct val){.kind = INDEX, .n = bits, .tag = v->at, .src = in->opnd[1].reg};
	if (!reads_env(in, offsetof(struct tcg_cpu, page_mask)) || in->opnd[1].reg != H_RCX || val.kind != LAST)
		return (struct val){0};
	val.kind = PAGE;
	return val;
}

/* T0 = src + addend */
static struct val host_address(const struct verify *v, const struct val *addend, u32 src)
{
	u32 room = room_at(v, addend, src);

	return room ? (struct val){.kind = CHECKED, .table = addend->table, .size = (u16)room, .src = NO_SRC} : (struct val){0};
}

/* T2 = NEG + src */
static struct val neg_plus(const struct val *neg, u32 src)
{
	struct val val = *neg;

	val.kind = SUM;
	return neg->src == src ? val : (struct val){0};
}

/* T2 = NEG + src + more */
static struct val sum(const struct val *neg, u32 src, s32 more)
{
	struct val val = *neg;

	if (neg->kind != NEG || neg->src != src || more < 0 || more >= 4096 || (tables[neg->table].jump && more))
		return (struct val){0};
	val.kind = tables[neg->table].jump ? MATCH : LAST;
	val.size = (u16)(more + 1);
	return val;
}

/* rsp as base register is the vCPU: its address must not get out. */
static struct val lea(struct verify *v, const struct x86_insn *in)
{
	u32 base = t_of(in->mem.base), index = t_of(in->mem.index), to = t_of(in->opnd[0].reg);
	const struct val *t = v->s.t;

	if (in->mem.base == H_RSP)
		fail(v, "the vCPU's address in a register");
	if (in->opsize != 8 || in->adsize != 8 || in->mem.scale != 1)
		return (struct val){0};
	if (base == T1 && index == T1 && !in->mem.disp && t[T1].kind == INDEX)
		return (struct val){.kind = INDEX, .n = t[T1].n * 2, .tag = v->at, .src = t[T1].src};
	if (to == T0 && index == T1 && !in->mem.disp)
		return host_address(v, &t[T1], in->mem.base);
	if (to == T2 && base == T2)
		return sum(&t[T2], in->mem.index, in->mem.disp);
	return (struct val){0};
}

static bool from_table(const struct x86_insn *in)
{
	return in->has_modrm && in->mod != 3 && in->mem.base == H_RSP && in->mem.index == H_R11;
}

/* The value that an instruction leaves in the scratch register that is its destination. */
static struct val result(struct verify *v, const struct x86_insn *in, u32 to)
{
	const struct val *t = v->s.t;
	struct val entry = from_table(in) ? table_entry(v, in) : (struct val){0};

	switch (in->op) {
	case OP_LEA:
		return lea(v, in);
	case OP_PEXT:
		return pext(v, in);
	case OP_RORX:
		if (to == T1 && in->opnd[1].kind == OPND_GPR && in->opsize == 8 && in->imm == 8)
			return (struct val){.kind = ROT8, .src = in->opnd[1].reg};
		break;
	case OP_AND:
		if (to == T1 && in->mod == 3 && in->imm_size && in->imm >= 0 && in->opsize >= 4)
			return (struct val){.kind = INDEX, .n = (u64)in->imm, .tag = v->at, .src = t[T1].kind == ROT8 ? t[T1].src : NO_SRC};
		break;
	case OP_MOV:
		if (from_table(in) && in->opsize == 8)
			return entry;
		if (in->opnd[1].kind == OPND_IMM && in->opsize >= 4)
			return (struct val){.kind = CONST, .n = in->opsize == 4 ? (u32)in->imm : (u64)in->imm, .src = NO_SRC};
		break;
	case OP_MOVZX:
		if (to < NR_T && in->opnd[1].size == 1)
			return (struct val){.kind = INDEX, .n = 0xff, .tag = v->at, .src = NO_SRC};
		break;
	case OP_ADD:
		if (to == T0 && from_table(in) && in->opsize == 8)
			return host_address(v, &entry, H_R10);
		if (to == T2 && in->opsize == 8 && in->opnd[1].kind == OPND_GPR && t[T2].kind == NEG && !tables[t[T2].table].jump)
			return neg_plus(&t[T2], in->opnd[1].reg);
		break;
	default:
		break;
	}
	return (struct val){0};
}

/* Unprivileged, and no effect but on registers, memory operand and arithmetic flags; what the translator makes besides is named. */
static bool may_appear(const struct x86_insn *in)
{
	switch (in->op) {
	case OP_JMP:
	case OP_JMP_IND:
	case OP_JCC:
	case OP_JRCXZ:
	case OP_CALL:
	case OP_LFENCE:
	case OP_SFENCE:
	case OP_MFENCE:
	case OP_SERIALIZE:
	case OP_RDRAND:
	case OP_RDSEED:
	case OP_RDTSC:
	case OP_SAHF:
	case OP_LAHF:
	case OP_LEA:
	case OP_NOP:
	case OP_BT: /* also of a bit string: check_memory looks at its offset */
	case OP_BTS:
	case OP_BTR:
	case OP_BTC:
		return true;
	case OP_VEC_MASKED: /* all of the operand is checked, whatever the mask says */
		return true;
	case OP_VEC:
	case OP_X87:
	case OP_EMMS:
		return in->generic;
	default:
		return in->op >= OP_ADD && in->op <= OP_CRC32 && in->generic;
	}
}

static void plain(struct verify *v, const struct x86_insn *in)
{
	const struct x86_opnd *dst = &in->opnd[0];
	struct val val = {0};
	u32 to = dst->kind == OPND_GPR && dst->access & OPND_W ? t_of(dst->reg) : NR_T;

	if (in->gpr_write & BIT(H_RSP))
		fail(v, "rsp is written");
	if ((in->flags_write | in->flags_read) & X86_FLAG_DF)
		fail(v, "the direction flag");
	check_memory(v, in);
	val = result(v, in, to);
	v->s.cmp = 0;
	if (in->op == OP_CMP && in->opsize == 8 && in->mod == 3 && dst->kind == OPND_GPR && dst->reg == H_RCX && in->imm_size &&
	    in->imm >= 0 && in->imm < 4096)
		v->s.cmp = (u32)in->imm + 1;
	for (u32 i = 0; i < 16; i++) {
		if (in->gpr_write & BIT(i))
			forget(v, i);
		if (in->gpr_write & BIT(i) && t_of(i) < NR_T)
			v->s.t[t_of(i)] = t_of(i) == to ? val : (struct val){0};
	}
	if (to < NR_T && v->s.t[to].src == host_reg[to])
		v->s.t[to] = (struct val){0};
}

/* ---- control flow ---- */

/* exec_transfer: what, its length, the operand size. */
static void check_transfer(struct verify *v)
{
	const struct val *t0 = &v->s.t[T0], *t2 = &v->s.t[T2];
	u32 op = (u16)t2->n, len = t2->n >> 16 & 0xff;
	bool known = op == OP_SYSCALL || op == OP_SYSRET || op == OP_IRET || op == OP_STAC || op == OP_CLAC;

	if (t0->kind != CONST || t2->kind != CONST || !known || len - 1 >= X86_INSN_MAX || t2->n >> 32)
		fail(v, "a transfer of control without an instruction");
}

static void jump_to(struct verify *v, const struct x86_insn *in, const struct state *s)
{
	s64 to = (s64)v->at + in->len + in->imm;

	if (in->op == OP_JMP && to + v->u->at == v->u->code->transfer) {
		check_transfer(v);
		return;
	}
	if (to < 0 || to >= (s64)v->u->len || !v->starts[to])
		fail(v, "a jump to where no instruction begins");
	else if (to > (s64)v->at)
		join(v, (u32)to, s);
}

/* JRCXZ and what rcx being zero means. */
static void jump_zero(struct verify *v, const struct x86_insn *in)
{
	struct state s = v->s;

	if (s.t[T2].kind == PAGE)
		s.proof = (struct proof){s.t[T2].src, s.t[T2].table, s.t[T2].size, s.t[T2].tag};
	if (s.t[T2].kind == MATCH)
		s.t[T2].kind = HIT;
	jump_to(v, in, &s);
}

static void jump_if(struct verify *v, const struct x86_insn *in)
{
	const struct val *t2 = &v->s.t[T2];

	jump_to(v, in, &v->s);
	if (in->cc == CC_A && v->s.cmp && t2->kind == SUM)
		v->s.proof = (struct proof){t2->src, t2->table, (u16)(4096 - (v->s.cmp - 1)), t2->tag};
}

static void jump_through_cache(struct verify *v, const struct x86_insn *in)
{
	struct val e;

	if (!from_table(in)) {
		fail(v, "an indirect jump to anywhere");
		return;
	}
	check_memory(v, in);
	e = table_entry(v, in);
	if (e.kind != HOST || !tables[e.table].jump || v->s.t[T2].kind != HIT || v->s.t[T2].table != e.table || v->s.t[T2].tag != e.tag)
		fail(v, "a jump through a slot that is not known to match");
}

/* desc: slow_fill in thunks.c. T0 may be any address. */
static void check_slow(struct verify *v, bool live)
{
	const struct val *t = v->s.t;
	u64 desc = t[T2].n, size = desc & 0x7f, span = desc >> 48;

	if (t[T2].kind != CONST)
		fail(v, "the slow path without a description");
	else if (!size || size > 64 || (bool)(desc & 0x100) != live || desc & 0xfe00 ||
		 (span ? (desc >> 32 & 0xffff) + size > span : desc >> 32))
		fail(v, "the slow path for another kind of access");
}

static void check_leave(struct verify *v, bool names_unit)
{
	const struct val *t0 = &v->s.t[T0], *t2 = &v->s.t[T2];
	u64 reason = t2->n & 0xff;

	if (t2->kind != CONST || (reason != LEAVE_EXIT && reason != LEAVE_INTERP && reason != LEAVE_CROSS && reason != LEAVE_POLL))
		fail(v, "leaves for no known reason");
	else if (reason == LEAVE_EXIT && (t2->n >> 8) - v->u->exits >= v->u->nr_exits)
		fail(v, "leaves through another unit's exit");
	else if (names_unit ? t0->kind != CONST || t0->n != v->u->unit : reason == LEAVE_CROSS)
		fail(v, "leaves under another unit's name");
}

/* False: it does not return. */
static bool call(struct verify *v, const struct x86_insn *in)
{
	const struct tcg_code *k = v->u->code;
	s64 to = (s64)v->u->at + v->at + in->len + in->imm;
	struct val *t = v->s.t;

	if (to == k->leave_lookup)
		return false;
	if (to == k->leave || to == k->leave_unit) {
		check_leave(v, to == k->leave_unit);
		return false;
	}
	if (to == k->slow_dead || to == k->slow_live)
		check_slow(v, to == k->slow_live);
	else if (to != k->callout)
		fail(v, "a call of something unknown");
	else if (t[T0].kind != CONST || t[T2].kind != CONST || (t[T2].n & 0xff) - 1 >= X86_INSN_MAX)
		fail(v, "a call of the interpreter without an instruction");
	v->s = (struct state){.reached = true};
	return true;
}

/* True: goes on behind it. */
static bool transfer(struct verify *v, const struct x86_insn *in)
{
	switch (in->op) {
	case OP_JMP:
		jump_to(v, in, &v->s);
		return false;
	case OP_JCC:
		jump_if(v, in);
		return true;
	case OP_JRCXZ:
		jump_zero(v, in);
		if (in->adsize != 8)
			fail(v, "jecxz");
		return true;
	case OP_CALL:
		return call(v, in);
	default:
		jump_through_cache(v, in);
		return false;
	}
}

/* ---- the passes ---- */

/* pushf; pop r11: the only use of the host's stack, one instruction for the verifier. */
static const u8 pushf_pop[] = {0x9c, 0x41, 0x5b};

static bool at_pushf_pop(const struct verify *v, u32 at)
{
	return v->u->len - at >= sizeof(pushf_pop) && memcmp(v->u->bytes + at, pushf_pop, sizeof(pushf_pop)) == 0;
}

static u32 decode(const struct verify *v, u32 at, struct x86_insn *in)
{
	u32 len = x86_decode(in, v->u->bytes + at, MIN(v->u->len - at, X86_INSN_MAX), 64, false);

	return at_pushf_pop(v, at) ? (u32)sizeof(pushf_pop) : len;
}

static void find_starts(struct verify *v)
{
	struct x86_insn in;
	u32 len;
	s64 to;

	for (v->at = 0; v->at < v->u->len; v->at += len) {
		len = decode(v, v->at, &in);
		if (!len || len > v->u->len - v->at || in.op == OP_UD) {
			fail(v, "no instruction");
			return;
		}
		v->starts[v->at] = 1;
		v->in[v->at].reached = false;
		to = (s64)v->at + len + in.imm;
		if ((in.op == OP_JMP || in.op == OP_JCC || in.op == OP_JRCXZ) && to >= 0 && to <= (s64)v->at && v->starts[to])
			v->starts[to] = LOOP_HEAD;
	}
}

/* True: goes on behind it. */
static bool step(struct verify *v, const struct x86_insn *in)
{
	if (at_pushf_pop(v, v->at)) {
		set(v, T1, (struct val){0});
		v->s.cmp = 0;
		return true;
	}
	if (!may_appear(in)) {
		fail(v, "an instruction that translated code must not have");
		return true;
	}
	if (in->op >= OP_CALL && in->op <= OP_SYSEXIT)
		return transfer(v, in);
	plain(v, in);
	return true;
}

static void follow(struct verify *v)
{
	static const struct state nothing = {.reached = true};
	struct x86_insn in;
	bool open = false;
	u32 len;

	for (v->at = 0; v->at < v->u->len && !v->why; v->at += len) {
		len = decode(v, v->at, &in);
		if (v->at == 0 || v->at == v->u->body || v->starts[v->at] == LOOP_HEAD || (!open && !v->in[v->at].reached))
			join(v, v->at, &nothing);
		if (open)
			join(v, v->at, &v->s);
		v->s = v->in[v->at];
		open = step(v, &in);
		if (v->why)
			return;
	}
	if (open)
		fail(v, "the end is open");
}

const char *verify_unit(struct verify *v, const struct verify_unit *u, u32 *where)
{
	v->u = u;
	v->why = NULL;
	if (u->len > MAX_CODE) {
		*where = 0;
		return "too long";
	}
	memset(v->starts, 0, u->len);
	find_starts(v);
	if (!v->why)
		follow(v);
	*where = v->at;
	return v->why;
}

struct verify *verify_new(void)
{
	return xzalloc(sizeof(struct verify));
}

void verify_free(struct verify *v)
{
	free(v);
}

int verify_mappings(const struct tcg_code *k, struct err *e)
{
	FILE *f = fopen("/proc/self/maps", "re");
	u64 rw = (u64)(uintptr_t)k->rw, rx = (u64)(uintptr_t)k->rx;
	unsigned long long from, to;
	char line[512], prot[5];
	int ret = 0;

	if (!f)
		return err_errno(e, "cannot read /proc/self/maps");
	while (ret == 0 && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%llx-%llx %4s", &from, &to, prot) != 3)
			continue;
		if ((from < rw + k->size && to > rw && prot[2] == 'x') || (from < rx + k->size && to > rx && prot[1] == 'w'))
			ret = err_set(e, -EPERM, "translated code is mapped writable and executable: %.40s", line);
	}
	fclose(f);
	return ret;
}
