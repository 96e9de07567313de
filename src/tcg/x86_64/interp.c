/* interp.c: the interpreter's step: fetch, decode (cached), feature check, dispatch by class, and what ends an instruction. Lean. */
#include "tcg/x86_64/interp_int.h"

#define KEY_VALID 0x100u
#define KEY_MODE  (TCG_MODE_64 | TCG_MODE_32 | TCG_MODE_PE)

/* ---- fetch ---- */

/* Host address of a page of RAM, which never moves; NULL: none. */
static const u8 *page_host(struct tcg_cpu *c, u64 gpa)
{
	struct interp_cache *k = c->interp_cache;
	const struct mem *m = &c->t->vm->mem;

	if (k->page && k->page_gpa == gpa)
		return k->page;
	k->page = NULL;
	for (u32 i = 0; i < m->nr_regions; i++) {
		const struct mem_region *r = &m->regions[i];

		if (gpa >= r->gpa && gpa - r->gpa < r->size)
			k->page = r->hva + (gpa - r->gpa);
	}
	k->page_gpa = gpa;
	return k->page;
}

static bool same_bytes(const struct interp_entry *e, const u8 *bytes)
{
	return (((ld_le64(bytes) ^ e->bytes[0]) & e->mask[0]) | ((ld_le64(bytes + 8) ^ e->bytes[1]) & e->mask[1])) == 0;
}

static u32 code_bits(const struct tcg_cpu *c)
{
	return c->mode & TCG_MODE_64 ? 64 : c->mode & TCG_MODE_32 ? 32 : 16;
}

/* Why the bytes were too few: the segment's limit, or the next page, which raises when it is touched, or is there by now. */
static _Noreturn void fetch_failed(struct tcg_cpu *c, u64 va, bool limited)
{
	if (limited)
		tcg_raise_err(c, X86_GP, 0);
	mmu_code_page(c, (va & ~(MEM_PAGE_SIZE - 1)) + MEM_PAGE_SIZE);
	tcg_restart(c);
}

/* Decodes bytes into e; they are a copy, so that what is executed is what was compared. */
static void decode(struct tcg_cpu *c, struct interp_entry *e, u64 va, const u8 *bytes, u32 avail, bool limited)
{
	u32 len;

	e->key = 0;
	len = x86_decode(&e->insn, bytes, MIN(avail, X86_INSN_MAX), code_bits(c), !(c->mode & TCG_MODE_PE));
	if (!len)
		fetch_failed(c, va, limited);
	e->va = va;
	e->key = (c->mode & KEY_MODE) | KEY_VALID;
	e->bytes[0] = ld_le64(bytes);
	e->bytes[1] = ld_le64(bytes + 8);
	e->mask[0] = interp_mask(MIN(len, 8u));
	e->mask[1] = len > 8 ? interp_mask(len - 8) : 0;
}

/* Checks rip; how many bytes the code segment has from there on. */
static u64 code_linear(struct tcg_cpu *c, u64 *limit)
{
	const struct x86_seg *cs = &c->seg[X86_CS];

	*limit = 16;
	if (tcg_is_64(c)) {
		if (unlikely(!tcg_canonical(c->rip)))
			tcg_raise_err(c, X86_GP, 0);
		return c->rip;
	}
	if (c->rip > cs->limit)
		tcg_raise_err(c, X86_GP, 0);
	*limit = MIN((u64)cs->limit - c->rip + 1, 16ull);
	return (u32)(cs->base + c->rip);
}

static const struct x86_insn *fetch(struct tcg_cpu *c)
{
	u64 limit, va = code_linear(c, &limit), offset = va & (MEM_PAGE_SIZE - 1);
	struct interp_cache *k = c->interp_cache;
	struct interp_entry *e = &k->e[(va ^ va >> 11) & (INTERP_CACHE_SIZE - 1)];
	const struct tcg_itlb *page = mmu_code_page(c, va);
	const u8 *code = page ? page_host(c, page->gpa) : NULL;
	bool known = e->va == va && e->key == ((c->mode & KEY_MODE) | KEY_VALID);
	u64 copy[2] = {0, 0};
	u32 avail = 16;

	if (likely(code && offset + 16 <= MEM_PAGE_SIZE)) {
		copy[0] = ld_le64(code + offset);
		copy[1] = ld_le64(code + offset + 8);
	} else {
		avail = mmu_fetch(c, va, (u8 *)copy, X86_INSN_MAX);
	}
	if (known && e->insn.len <= MIN(avail, limit) && same_bytes(e, (const u8 *)copy))
		return &e->insn;
	decode(c, e, va, (const u8 *)copy, (u32)MIN(avail, limit), limit < MIN(avail, (u32)X86_INSN_MAX));
	return &e->insn;
}

/* ---- dispatch ---- */

/* Some encodings are an older instruction, or nothing at all, to a processor without the feature. */
static bool runs_anyway(const struct x86_insn *insn)
{
	switch (insn->op) {
	case OP_LZCNT:
	case OP_TZCNT:
	case OP_PREFETCH:
	case OP_NOP:
		return true;
	default:
		return false;
	}
}

static void check_features(struct tcg_cpu *c, const struct x86_insn *insn)
{
	if (likely(!insn->feat && !insn->feat2))
		return;
	if ((insn->feat && !tcg_has(c, insn->feat)) || (insn->feat2 && !tcg_has(c, insn->feat2)))
		if (!runs_anyway(insn))
			tcg_raise(c, X86_UD);
}

/* A guest that spins waits for another vCPU, whose thread may not be running, so that spinning takes from it what it wants: as KVM does
 * on PAUSE exits, others get the processor. Many in a short time: a wait that is over soon has few. */
#define PAUSES	    128u
#define PAUSE_TICKS 100000u

static void pause_insn(struct tcg_cpu *c)
{
	u64 now;

	asm volatile("pause");
	if (++c->nr_pauses % PAUSES)
		return;
	now = __builtin_ia32_rdtsc();
	if (now - c->pauses_tsc < PAUSE_TICKS) {
		tcg_yield();
		now = __builtin_ia32_rdtsc();
	}
	c->pauses_tsc = now;
}

/* Nothing to see, but for the order of memory accesses and, with CLFLUSH, faults of a load. */
static void nothing(struct tcg_cpu *c, const struct x86_insn *insn)
{
	switch (insn->op) {
	case OP_CLFLUSH:
		if (insn->opnd[0].kind == OPND_MEM || insn->has_modrm)
			mmu_probe(c, interp_ea(c, insn, 1, false), 1, MMU_READ, tcg_data_mode(c));
		break;
	case OP_PAUSE:
		pause_insn(c);
		break;
	case OP_LFENCE:
		asm volatile("lfence" ::: "memory");
		break;
	case OP_SFENCE:
		asm volatile("sfence" ::: "memory");
		break;
	case OP_MFENCE:
	case OP_SERIALIZE:
		asm volatile("mfence" ::: "memory");
		break;
	default:
		break;
	}
}

static _Noreturn void invalid(struct tcg_cpu *c, const struct x86_insn *insn)
{
	if (insn->op == OP_UD && insn->imm == 1 && insn->len == X86_INSN_MAX)
		tcg_raise_err(c, X86_GP, 0);
	tcg_raise(c, X86_UD);
}

static u64 code_va(const struct tcg_cpu *c)
{
	return tcg_is_64(c) ? c->rip : (u32)(c->seg[X86_CS].base + c->rip);
}

/* INT3 of the debugger or of the guest itself: by its physical address, for the same page may be mapped more than once. */
static void int3(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 va = code_va(c);
	const struct tcg_itlb *page = c->debug.soft ? mmu_code_page(c, va) : NULL;

	if (page && debug_break_at(&c->t->vm->debug, page->gpa + (va & (MEM_PAGE_SIZE - 1))))
		tcg_debug_stop(c, DEBUG_BREAK, 0);
	sys_far(c, insn);
}

static void dispatch(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 next = interp_next_rip(c, insn);

	switch (insn->op) {
	case OP_ADD ... OP_CRC32:
		interp_alu(c, insn);
		break;
	case OP_PUSH ... OP_LEAVE:
	case OP_CALL:
	case OP_CALL_IND:
	case OP_JMP:
	case OP_JMP_IND:
	case OP_JCC ... OP_RET:
		interp_flow(c, insn);
		return;
	case OP_MOVS ... OP_OUTS:
		interp_string(c, insn);
		return;
	case OP_NOP ... OP_SERIALIZE:
		nothing(c, insn);
		break;
	case OP_PUSH_SREG:
	case OP_POP_SREG:
		sys_far(c, insn);
		break;
	case OP_INT3:
		int3(c, insn);
		return;
	case OP_CALL_FAR:
	case OP_CALL_FAR_IND:
	case OP_JMP_FAR:
	case OP_JMP_FAR_IND:
	case OP_RETF:
	case OP_IRET:
	case OP_INT ... OP_SYSEXIT:
		sys_far(c, insn);
		return;
	case OP_MOV_FROM_SREG ... OP_RSM:
		sys_insn(c, insn);
		if (insn->op == OP_HLT)
			return;
		break;
	case OP_VEC ... OP_EMMS:
		fpu_insn(c, insn);
		break;
	default:
		invalid(c, insn);
	}
	c->rip = next;
}

/* ---- traps, shadow, RF ---- */

static bool sets_shadow(const struct x86_insn *insn)
{
	return insn->op == OP_STI || insn->op == OP_MOV_TO_SREG || insn->op == OP_POP_SREG;
}

/* SYSCALL and SYSRET trap by the TF they leave, all others by the one they began with (SDM 3B §17.3.1.4). INT n and its kin clear TF. */
static bool traps(const struct tcg_cpu *c, const struct x86_insn *insn, u64 flags_before)
{
	if (insn->op == OP_SYSCALL || insn->op == OP_SYSRET)
		return c->rflags & X86_FLAG_TF;
	if (insn->op >= OP_INT3 && insn->op <= OP_INT1)
		return false;
	return flags_before & X86_FLAG_TF;
}

/* DR6 bits: 14 single step, 0-3 data breakpoints. MOV SS and POP SS put both off. */
static void pend_debug_trap(struct tcg_cpu *c, const struct x86_insn *insn, u64 flags_before)
{
	struct interp_cache *k = c->interp_cache;
	u64 bits = (traps(c, insn, flags_before) ? 0x4000 : 0) | (k ? k->dr6 : 0);

	if (!bits || c->shadow == 2 || c->exc.pending)
		return;
	if (k)
		k->dr6 = 0;
	c->halted = false;
	c->exc = (struct tcg_exception){.pending = true, .vector = X86_DB, .address = bits};
}

void interp_insn(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 before = c->rflags, rip = c->rip;
	bool string = insn->op >= OP_MOVS && insn->op <= OP_OUTS, iret = insn->op == OP_IRET, setter = sets_shadow(insn);
	u8 shadow = c->shadow;

	check_features(c, insn);
	c->insn_count++;
	__atomic_store_n(&c->counters[TCG_C_INTERP], c->counters[TCG_C_INTERP] + 1, __ATOMIC_RELAXED);
	if (setter)
		c->shadow = 0;
	dispatch(c, insn);
	if (unlikely(shadow && !setter))
		c->shadow = 0;
	/* A REP string that goes on has set RF. */
	if (unlikely(c->rflags & X86_FLAG_RF) && !iret && !(string && c->rip == rip))
		c->rflags &= ~X86_FLAG_RF;
	if (unlikely((before | c->rflags) & X86_FLAG_TF || c->mode & TCG_MODE_TF))
		pend_debug_trap(c, insn, before);
}

/* Instruction breakpoints (SDM 3B §17.3.1.1): before the instruction, not under RF. The #DB is left pending as a trap's would be: RF is not
 * set in what it saves. */
static u64 exec_hits(const u64 *dr, u64 dr7, u64 va)
{
	u64 hits = 0;

	for (u32 i = 0; i < 4; i++)
		if (dr7 >> (2 * i) & 3 && !(dr7 >> (16 + 4 * i) & 0xf) && dr[i] == va)
			hits |= BIT(i);
	return hits;
}

static bool at_breakpoint(struct tcg_cpu *c)
{
	u64 va = code_va(c), bits;

	bits = c->debug.step ? 0 : exec_hits(c->debug.dr, c->debug.dr7, va);
	if (bits)
		tcg_debug_stop(c, DEBUG_HW, bits);
	if (c->rflags & X86_FLAG_RF || c->shadow == 2)
		return false;
	bits = exec_hits(c->dr, c->dr7, va);
	if (bits)
		c->exc = (struct tcg_exception){.pending = true, .vector = X86_DB, .address = bits};
	return bits;
}

void interp_step(struct tcg_cpu *c)
{
	if (unlikely(c->mode & TCG_MODE_TF)) {
		if (c->shadow != 2)
			((struct interp_cache *)c->interp_cache)->dr6 = 0;
		c->debug.hits = 0;
		if (at_breakpoint(c))
			return;
	}
	interp_insn(c, fetch(c));
}
