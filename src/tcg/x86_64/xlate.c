/* xlate.c: one unit: which instructions, which flags are alive where, code, tails. Lean but for xlate_init and xlate_fini. */
#include <errno.h>
#include <sys/mman.h>

#include "tcg/lockstep.h"
#include "tcg/x86_64/xlate_impl.h"

#define LOOKAHEAD 5u /* instructions decoded beyond an exit to see whether flags die there */

s32 xlate_itlb_slot(u8 mode, u64 va)
{
	s32 table = mode & TCG_MODE_USER ? (s32)TCG_CTX_OFFSET + (s32)offsetof(struct tcg_ctx, itlb)
					 : (s32)offsetof(struct tcg_cpu, k_itlb);

	return table + (s32)((va >> MEM_PAGE_SHIFT & (TCG_ITLB_SIZE - 1)) * sizeof(struct tcg_itlb) + offsetof(struct tcg_itlb, id));
}

static inline u32 decode_at(struct xlate *x, struct x86_insn *in, u64 va)
{
	u32 at = va & (MEM_PAGE_SIZE - 1);

	return likely(at <= 4096 - X86_INSN_MAX) ? x86_decode_64(in, x->page + at) : x86_decode(in, x->page + at, 4096 - at, 64, false);
}

/* The translation depends on bytes [from, to) of the page. */
static void depends_on(struct xlate *x, u64 from, u64 to)
{
	x->lo = MIN(x->lo, (u32)(from - x->page_va));
	x->hi = MAX(x->hi, (u32)(to - x->page_va));
}

static bool same_page(const struct xlate *x, u64 va)
{
	return (va & ~(MEM_PAGE_SIZE - 1)) == x->page_va;
}

static bool is_transfer(u32 op)
{
	return op >= OP_CALL && op <= OP_SYSEXIT;
}

/* Which arithmetic flags may be read from va on before they are written. */
static u16 flags_needed_at(struct xlate *x, u64 va)
{
	u16 unknown = (u16)X86_FLAGS_ARITH, need = 0;
	u64 from = va, to = va;
	struct x86_insn in;

	for (u32 i = 0; i < LOOKAHEAD && unknown && same_page(x, va); i++) {
		u32 len = decode_at(x, &in, va);

		to = len ? va + len : x->page_va + MEM_PAGE_SIZE;
		if (!len || in.op == OP_UD)
			break;
		need |= in.flags_read & unknown;
		unknown &= (u16)~in.flags_kill;
		if (is_transfer(in.op))
			break;
		va = to;
	}
	if (to != from)
		depends_on(x, from, to);
	return need | unknown;
}

static u64 branch_target(const struct xlate *x, u32 i)
{
	return x->insn_va[i] + x->insns[i].len + (u64)x->insns[i].imm;
}

static bool has_features(const struct xlate *x, const struct x86_insn *in)
{
	return (!in->feat || tcg_has(x->c, in->feat)) && (!in->feat2 || tcg_has(x->c, in->feat2));
}

static bool is_usual(const struct x86_insn *in)
{
	_Static_assert(TRAIT_ALWAYS == 1 && TRAIT_PLAIN == 2, "so that one jump does");
	return xlate_traits[in->op] & (TRAIT_ALWAYS | (u32)in->generic << 1);
}

/* Instructions that translated code can hold; the rest ends a unit and is interpreted. */
static bool can_translate(const struct xlate *x, const struct x86_insn *in)
{
	if (unlikely(x->c->t->lockstep) && !lockstep_can(in->op))
		return false;
	if (unlikely(in->feat | in->feat2) && !has_features(x, in))
		return false;
	if (is_usual(in))
		return true;
	switch (in->op) {
	case OP_LFENCE:
	case OP_MFENCE:
	case OP_SFENCE:
	case OP_CLI:
	case OP_CLD:
	case OP_STD:
	case OP_PUSHF:
	case OP_POPF:
	case OP_RDTSC:
	case OP_RDTSCP:
	case OP_SWAPGS:
	case OP_SERIALIZE:
		return true;
	case OP_STI:
	case OP_SYSRET:
	case OP_IRET:
	case OP_STAC:
	case OP_CLAC:
		return !(x->mode & TCG_MODE_USER) && in->opsize >= 4;
	case OP_SYSCALL:
		return x->mode & TCG_MODE_USER;
	case OP_VEC_MASKED: /* where all of the operand can be accessed, natively; DEVIATION: A and D are set for lanes that are masked out,
			       too */
		return !(x->mode & TCG_MODE_NM);
	case OP_VEC:
	case OP_X87:
	case OP_EMMS:
		return in->generic && !(x->mode & TCG_MODE_NM);
	default:
		return (in->generic && in->op < OP_PUSH) || xlate_is_callout(in->op);
	}
}

static inline bool ends_unit(u32 op)
{
	return xlate_traits[op] & TRAIT_ENDS;
}

/* The instruction at *va ends in the next page. If that page is known, the unit ends with this instruction; if not, it is asked for. */
static void next_page_insn(struct xlate *x, struct x86_insn *in, u64 *va)
{
	struct code_page2 *p = &x->k->page2;
	u32 at = *va & (MEM_PAGE_SIZE - 1), first = 4096 - at, len;
	const u8 *page2;
	u8 bytes[X86_INSN_MAX];

	if (!p->known) {
		p->wanted = true;
		return;
	}
	page2 = p->gpa == UNIT_NO_PAGE ? NULL : mem_at(&x->c->t->vm->mem, p->gpa, MEM_PAGE_SIZE);
	if (!page2 || p->gpa == (x->gpa & ~(MEM_PAGE_SIZE - 1)))
		return;
	for (u32 i = 0; i < X86_INSN_MAX; i++)
		bytes[i] = i < first ? x->page[at + i] : page2[i - first];
	len = x86_decode(in, bytes, X86_INSN_MAX, 64, false);
	if (!can_translate(x, in) || in->op == OP_UD)
		return;
	x->cross = true;
	x->hi = at + len;
	x->insn_va[x->nr++] = *va;
	*va += len;
}

/* Collects the unit's instructions: straight on, over conditional jumps, along forward jumps in the page. Sets *next to where it goes on.
 */
static void collect(struct xlate *x, u64 *next)
{
	bool usual = !x->c->t->lockstep;
	u64 va = x->va, to = va;
	u32 exits = 2;

	while (x->nr < UNIT_MAX_INSNS && exits < UNIT_MAX_EXITS && same_page(x, va)) {
		struct x86_insn *in = &x->insns[x->nr];
		u32 len = decode_at(x, in, va);

		to = va + len;
		if (!len) {
			to = x->page_va + MEM_PAGE_SIZE;
			next_page_insn(x, in, &va);
			break;
		}
		if (!(usual && !(in->feat | in->feat2) && is_usual(in)) && !can_translate(x, in))
			break;
		x->insn_va[x->nr++] = va;
		va = to;
		if (ends_unit(in->op))
			break;
		if (in->op == OP_JCC) { /* flags_needed_by will look there */
			exits++;
			__builtin_prefetch(x->page + (branch_target(x, x->nr - 1) & (MEM_PAGE_SIZE - 1)));
		} else if (in->op == OP_JMP) {
			u64 target = branch_target(x, x->nr - 1);

			if (target < va || !same_page(x, target) || x->nr == UNIT_MAX_INSNS)
				break;
			va = target;
		}
	}
	depends_on(x, x->va, to);
	*next = va;
}

static u16 need_after_last(struct xlate *x, u64 next)
{
	const struct x86_insn *last = &x->insns[x->nr - 1];

	switch (last->op) {
	case OP_CALL:
	case OP_JMP:
		return flags_needed_at(x, branch_target(x, x->nr - 1));
	case OP_CALL_IND:
	case OP_JMP_IND:
	case OP_RET:
	case OP_JRCXZ:
	case OP_LOOP:
	case OP_SYSCALL:
	case OP_SYSRET:
	case OP_IRET:
	case OP_STAC:
	case OP_CLAC:
		return (u16)X86_FLAGS_ARITH;
	default:
		return flags_needed_at(x, next);
	}
}

/* The same for the target of a jump at instruction i, which may be further on in the unit. */
static u16 flags_needed_by(struct xlate *x, u32 i, u64 target)
{
	while (++i < x->nr) {
		if (x->insn_va[i] == target)
			return x->need[i];
	}
	return flags_needed_at(x, target);
}

/* Whether the instruction that set the flags for the jump at i set them all: then it matters to nobody what the jump's target needs. */
static bool set_by_one(const struct xlate *x, u32 i)
{
	while (i-- > 0 && !x->insns[i].flags_write)
		;
	return i != UINT32_MAX && x->insns[i].flags_kill == X86_FLAGS_ARITH;
}

static void find_needs(struct xlate *x, u64 next)
{
	x->need[x->nr] = need_after_last(x, next);
	for (u32 i = x->nr; i-- > 0;) {
		const struct x86_insn *in = &x->insns[i];
		u16 need = x->need[i + 1];

		if (in->op == OP_JCC)
			need |= set_by_one(x, i) ? (u16)X86_FLAGS_ARITH : flags_needed_by(x, i, branch_target(x, i));
		x->need[i] = (u16)((need & ~in->flags_kill) | in->flags_read) & (u16)X86_FLAGS_ARITH;
	}
}

static bool emit_insn(struct xlate *x, const struct x86_insn *in)
{
	u8 traits = xlate_traits[in->op], form = x->notes[x->cur].form;

	if (form == NOTE_COPY) {
		xlate_copy(x, in);
		return true;
	}
	if (form == NOTE_MEMORY) {
		xlate_memory(x, in);
		return true;
	}
	if (traits & TRAIT_PLAIN && in->generic)
		return xlate_generic(x, in);
	if (traits & TRAIT_FLOW)
		return xlate_flow(x, in);
	if (traits & TRAIT_EMPTY)
		return true;
	switch (in->op) {
	case OP_LFENCE:
	case OP_MFENCE:
	case OP_SFENCE:
		e8(&x->e, 0x0f), e8(&x->e, 0xae), e8(&x->e, in->op == OP_LFENCE ? 0xe8 : in->op == OP_MFENCE ? 0xf0 : 0xf8);
		return true;
	case OP_LEA:
		return xlate_lea(x, in);
	case OP_BT:
	case OP_BTS:
	case OP_BTR:
	case OP_BTC: /* a bit string in memory, unless the offset is an immediate */
		return in->mod == 3 || in->imm_size ? xlate_generic(x, in) : xlate_bit_string(x, in);
	case OP_VEC_MASKED:
		return xlate_generic(x, in);
	case OP_PUSHF:
	case OP_POPF:
		return xlate_system(x, in);
	case OP_SYSCALL:
	case OP_SYSRET:
	case OP_IRET:
	case OP_STAC:
	case OP_CLAC:
		return xlate_transfer(x, in);
	default:
		return in->generic ? xlate_generic(x, in) : xlate_system(x, in);
	}
}

/*
 * The poll at the head, whose first instruction is 8 bytes long: a dead unit has a jump there.
 *	cmp	byte [rsp + poll], 0		or	movzx	ecx, byte [rsp + poll + 1]
 *	jne	leave					jrcxz	1f; jmp 2f; 1: jmp leave; 2:
 */
static void emit_poll(struct xlate *x)
{
	u8 *leave;

	if (!x->need[0]) {
		e_op_mem(&x->e, 0, 0x80, 7, EENV(offsetof(struct tcg_cpu, poll)));
		e8(&x->e, 0);
		leave = e_jcc(&x->e, CC_NE, NULL);
	} else {
		e_op_mem(&x->e, 0, 0x0fb6, T2, EENV(offsetof(struct tcg_cpu, poll) + 1));
		e_jrcxz(&x->e, 2);
		e8(&x->e, 0xeb), e8(&x->e, 5);
		leave = e_jmp(&x->e, NULL);
	}
	xlate_tail(x, TAIL_LEAVE, true, leave, LEAVE_POLL);
}

static void leave_at(struct xlate *x, u64 va)
{
	xlate_leave(x, LEAVE_INTERP | (u32)((va - x->va) & 0xffff) << 8);
}

static inline void mark(struct xlate *x, u64 va)
{
	x->marks[x->nr_marks++] = (struct unit_insn){(u16)(x->e.p - x->buf), (u16)(va - x->va)};
}

/* Before an instruction that ends in the second page: is that the page it was translated from? */
static void emit_cross_guard(struct xlate *x)
{
	u64 va2 = x->page_va + MEM_PAGE_SIZE;
	u32 offset = (u32)(x->insn_va[x->cur] - x->va) & 0xffff, id = x->k->page2.id;
	s32 slot = (s32)offsetof(struct tcg_cpu, k_epoch);
	u8 *fail;

	if (x->mode & TCG_MODE_USER)
		slot = xlate_itlb_slot(x->mode, va2);
	if (xlate_live(x)) {
		e_op_mem(&x->e, 0, 0x8b, T2, EENV(slot));
		xlate_reloc(x, RELOC_CROSS_SLOT, 4);
		e8(&x->e, 0x8d), e8(&x->e, 0x89), e32(&x->e, -id); /* lea ecx, [rcx - id] */
		xlate_reloc(x, RELOC_CROSS_NEG, 4);
		e_jrcxz(&x->e, 5);
		fail = e_jmp(&x->e, NULL);
	} else {
		e_op_mem(&x->e, 0, 0x81, 7, EENV(slot));
		xlate_reloc(x, RELOC_CROSS_SLOT, 4);
		e32(&x->e, id);
		xlate_reloc(x, RELOC_CROSS, 4);
		fail = e_jcc(&x->e, CC_NE, NULL);
	}
	xlate_tail(x, TAIL_LEAVE, true, fail, LEAVE_CROSS | offset << 8);
}

/* The instructions, until one cannot be done after all. */
static void emit_body(struct xlate *x, u64 next)
{
	u32 last = x->insns[x->nr - 1].op;

	xlate_take_notes(x);
	for (x->cur = 0; x->cur < x->nr; x->cur++) {
		const struct x86_insn *in = &x->insns[x->cur];
		u32 tails = x->nr_tails, exits = x->nr_exits, relocs = x->nr_relocs;
		u8 *begin = x->e.p;

		mark(x, x->insn_va[x->cur]);
		if (x->cross && x->cur == x->nr - 1)
			emit_cross_guard(x);
		xlate_group_before(x);
		if (!emit_insn(x, in)) {
			x->e.p = begin;
			x->nr_tails = tails;
			x->nr_exits = exits;
			x->nr_relocs = relocs;
			leave_at(x, x->insn_va[x->cur]);
			return;
		}
		xlate_group_after(x);
	}
	if (ends_unit(last) || last == OP_JMP)
		return;
	if (x->nr == UNIT_MAX_INSNS || x->nr_exits + 1 >= UNIT_MAX_EXITS - 2 || !same_page(x, next))
		xlate_exit(x, 16, next, false, x->need[x->nr]);
	else
		leave_at(x, next); /* stopped by an instruction that is interpreted */
}

static void set_mode(struct xlate *x)
{
	s32 ctx = (s32)TCG_CTX_OFFSET;

	x->tlb_index_mask = (TCG_TLB_SIZE - 1) << 4;
	x->pext_mask = offsetof(struct tcg_cpu, index_mask);
	x->jump = offsetof(struct tcg_cpu, k_jump);
	x->tlb_r = offsetof(struct tcg_cpu, k_r);
	x->tlb_w = offsetof(struct tcg_cpu, k_w);
	if (x->mode & TCG_MODE_USER) {
		x->tlb_r = ctx + (s32)offsetof(struct tcg_ctx, user_r);
		x->tlb_w = ctx + (s32)offsetof(struct tcg_ctx, user_w);
		x->jump = ctx + (s32)offsetof(struct tcg_ctx, jump);
	} else if (x->mode & TCG_MODE_AC) {
		x->tlb_r = ctx + (s32)offsetof(struct tcg_ctx, ac_r);
		x->tlb_w = ctx + (s32)offsetof(struct tcg_ctx, ac_w);
		x->tlb_index_mask = (TCG_AC_SIZE - 1) << 4;
		x->pext_mask = offsetof(struct tcg_cpu, index_mask_ac);
	}
}

static void begin(struct xlate *x, struct tcg_cpu *c, struct tcg_code *k, u64 va, u16 mode)
{
	const struct code_chunk *ch = &k->chunks[k->cur[false]];

	x->c = c;
	x->k = k;
	x->va = va;
	x->page_va = va & ~(MEM_PAGE_SIZE - 1);
	x->mode = (u8)mode;
	x->single = mode & UNIT_SINGLE;
	x->nr = x->nr_tails = x->nr_exits = x->nr_marks = x->nr_relocs = x->cur = 0;
	x->lo = 4096;
	x->cross = false;
	x->group = (struct group){0};
	x->hi = 0;
	x->fixed = !(mode & TCG_MODE_USER); /* the kernel stays where it is */
	x->unit = ch->nr_units;
	x->first_exit = ch->nr_exits;
	x->first_reloc = ch->nr_relocs;
	x->marks = &k->insns[ch->nr_insns];
	x->code = ALIGN_UP(ch->used, 16);
	x->e = (struct emit){.start = x->buf, .p = x->buf, .base = x->code};
	set_mode(x);
}

/* PREFETCHW: __builtin_prefetch() asks for no more than a line to read. Processors that do not have it take it for a NOP. */
static inline void prefetch_write(const void *p)
{
	__asm__ volatile("prefetchw %0" ::"m"(*(const u8 *)p));
}

/* What will be read and written, while the first instructions are decoded. */
static void prefetch(const struct xlate *x, const struct unit *u)
{
	const u8 *code = x->page + (x->va & (MEM_PAGE_SIZE - 1));

	__builtin_prefetch(code + 64);
	__builtin_prefetch(code + 128);
	prefetch_write(u);
	prefetch_write((const u8 *)u + 64);
	prefetch_write(x->marks);
	prefetch_write(&x->k->exits[x->first_exit]);
	prefetch_write(&x->k->relocs[x->first_reloc]);
	for (u32 i = 0; i < 512; i += 64)
		prefetch_write(x->k->rw + x->code + i);
}

/* The code to its place; up to 31 bytes behind it are overwritten, which belong to the next unit. */
static void put_code(const struct xlate *x, u32 len)
{
	u8 *to = x->k->rw + x->code;

	for (u32 i = 0; i < len; i += 32) {
		const u8 *from = x->buf + i;
		u64 a = ld_le64(from), b = ld_le64(from + 8), c = ld_le64(from + 16), d = ld_le64(from + 24);

		st_le64(to + i, a);
		st_le64(to + i + 8, b);
		st_le64(to + i + 16, c);
		st_le64(to + i + 24, d);
	}
}

/* All fields that the end of translation and insert() do not set: one by one, for REP STOS takes longer. */
static void begin_unit(const struct xlate *x, struct unit *u, u16 mode)
{
	const struct code_chunk *ch = &x->k->chunks[x->k->cur[false]];

	u->va = x->va;
	u->gpa = x->gpa;
	u->mode = mode;
	u->code = x->code;
	u->dead = u->copy = false;
	u->interp = x->nr == 0;
	u->in = UNIT_NONE;
	u->exits = ch->nr_exits;
	u->insns = ch->nr_insns;
	u->relocs = ch->nr_relocs;
	u->gpa2 = x->cross ? x->k->page2.gpa : UNIT_NO_PAGE;
	u->id2 = x->k->page2.id;
}

bool xlate_unit(struct tcg_cpu *c, struct tcg_code *k, u64 va, u64 gpa, u16 mode, u32 *unit)
{
	struct xlate *x = k->xlate;
	struct code_chunk *ch = &k->chunks[k->cur[false]];
	struct unit *u = &k->units[ch->nr_units];
	u64 next;

	begin(x, c, k, va, mode);
	x->gpa = gpa;
	x->page = mem_at(&c->t->vm->mem, gpa & ~(MEM_PAGE_SIZE - 1), MEM_PAGE_SIZE);
	if (!x->page)
		return false;
	prefetch(x, u);
	collect(x, &next);
	if (k->page2.wanted)
		return false;
	begin_unit(x, u, mode);
	if (x->nr)
		find_needs(x, next);
	else
		x->need[0] = (u16)X86_FLAGS_ARITH;
	emit_poll(x);
	u->body = (u16)(e_off(&x->e) - u->code);
	if (x->nr)
		emit_body(x, next);
	else
		leave_at(x, va);
	xlate_emit_tails(x, u);
	u->code_len = e_off(&x->e) - u->code;
	put_code(x, u->code_len);
	u->lo = (u16)x->lo;
	u->hi = (u16)x->hi;
	u->nr_insns = (u16)x->nr_marks;
	u->nr_exits = (u16)x->nr_exits;
	u->nr_relocs = (u16)x->nr_relocs;
	u->fixed = x->fixed;
	ch->used = e_off(&x->e);
	ch->nr_exits += x->nr_exits;
	ch->nr_insns += x->nr_marks;
	ch->nr_relocs += x->nr_relocs;
	*unit = ch->nr_units++;
	return true;
}

int xlate_init(struct tcg_code *k, struct err *e)
{
	struct emit em = {.start = k->rw, .p = k->rw};
	void *p = mmap(NULL, sizeof(struct xlate), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return err_set(e, -ENOMEM, "no memory for the translator");
	k->xlate = p;
	xlate_thunks(k, &em);
	k->thunks_end = ALIGN_UP(e_off(&em), 64);
	return 0;
}

void xlate_fini(struct tcg_code *k)
{
	if (k->xlate)
		munmap(k->xlate, sizeof(struct xlate));
	k->xlate = NULL;
}
