/* lockstep.c: see lockstep.h. Lean. */
#include "tcg/exec.h"
#include "tcg/lockstep_impl.h"
#include "tcg/mmu.h"

#define TRIES	  4u /* devices and the host write guest memory meanwhile */
#define LOOKAHEAD 16u

static void copy(void *to, const void *from, u64 n)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
}

static bool differ(const void *a, const void *b, u64 n)
{
	const u8 *x = a, *y = b;

	while (n && *x == *y)
		x++, y++, n--;
	return n;
}

/* ---- registers ---- */

static void get_regs(const struct tcg_cpu *c, struct lockstep_regs *r)
{
	copy(r->gpr, c->gpr, sizeof(r->gpr));
	r->rip = c->rip;
	r->rflags = c->rflags;
	r->gs_base = c->seg[X86_GS].base;
	r->kernel_gs_base = c->kernel_gs_base;
}

static void put_regs(struct tcg_cpu *c, const struct lockstep_regs *r)
{
	copy(c->gpr, r->gpr, sizeof(r->gpr));
	c->rip = r->rip;
	c->rflags = r->rflags;
	c->seg[X86_GS].base = r->gs_base;
	c->kernel_gs_base = r->kernel_gs_base;
	c->shadow = 0;
	c->exc = (struct tcg_exception){0};
	tcg_mode_update(c);
}

/* ---- which instructions ---- */

bool lockstep_can(u32 op)
{
	switch (op) {
	case OP_PUSH:
	case OP_POP:
	case OP_PUSHF:
	case OP_POPF:
	case OP_LEAVE:
	case OP_CALL:
	case OP_CALL_IND:
	case OP_JMP:
	case OP_JMP_IND:
	case OP_JCC:
	case OP_JRCXZ:
	case OP_LOOP:
	case OP_RET:
	case OP_NOP:
	case OP_ENDBR:
	case OP_PREFETCH:
	case OP_LFENCE:
	case OP_SFENCE:
	case OP_MFENCE:
	case OP_SERIALIZE:
	case OP_CLI:
	case OP_STI:
	case OP_SWAPGS:
	case OP_VEC:
	case OP_VEC_MASKED:
	case OP_X87:
	case OP_EMMS:
		return true;
	default:
		return op >= OP_ADD && op <= OP_CRC32 && op != OP_XLAT;
	}
}

/* ---- what instructions write ---- */

static u64 bit_string_offset(const struct tcg_cpu *c, const struct x86_insn *in)
{
	s64 bit = (s64)c->gpr[in->opnd[1].reg];

	if (in->op < OP_BT || in->op > OP_BTC || in->imm_size)
		return 0;
	if (in->opsize < 8)
		bit = in->opsize == 4 ? (s32)bit : (int16_t)bit;
	return (u64)((bit >> (in->opsize == 8 ? 6 : in->opsize == 4 ? 5 : 4)) * in->opsize);
}

/* A piece in one page. False: a device, or code: not to be run twice. */
static bool note_piece(struct tcg_cpu *c, u64 va, u32 n, bool write)
{
	struct lockstep *l = c->t->lockstep;
	struct lockstep_write *w = &l->writes[l->nr_writes];
	u8 *at = mmu_host(c, va, n, write ? MMU_WRITE : MMU_READ, tcg_data_mode(c));

	if (!at || !write)
		return at;
	if (n > sizeof(w->before) || l->nr_writes == LOCKSTEP_WRITES)
		return false;
	w->at = at;
	w->va = va;
	w->n = (u16)n;
	w->insn = (u16)l->nr;
	copy(w->before, at, n);
	l->nr_writes++;
	return true;
}

static bool note(struct tcg_cpu *c, u64 va, u32 n, bool write)
{
	u32 first = (u32)(MEM_PAGE_SIZE - (va & (MEM_PAGE_SIZE - 1)));

	if (n <= first)
		return note_piece(c, va, n, write);
	return note_piece(c, va, first, write) && note_piece(c, va + first, n - first, write);
}

static bool note_memory(struct tcg_cpu *c, const struct x86_insn *in)
{
	u32 size = in->mem.size;

	if (!in->mem.access || !(in->mem.moffs || (in->has_modrm && in->mod != 3)))
		return true;
	if (!size)
		return false;
	return note(c, interp_ea(c, in, size, in->mem.access & OPND_W) + bit_string_offset(c, in), size, in->mem.access & OPND_W);
}

/* Notes what the instruction is about to write. False: it cannot be run twice. May raise what the instruction raises. */
static bool prepare(struct tcg_cpu *c, const struct x86_insn *in)
{
	u64 rsp = c->gpr[X86_RSP];

	if (in->op == OP_POP && in->mem.access)
		return false;
	switch (in->op) {
	case OP_PUSH:
	case OP_PUSHF:
	case OP_CALL:
	case OP_CALL_IND:
		return in->opsize == 8 && note_memory(c, in) && note(c, rsp - 8, 8, true);
	case OP_POP:
	case OP_POPF:
	case OP_RET:
		return in->opsize == 8 && note(c, rsp, 8, false);
	default:
		return lockstep_can(in->op) && note_memory(c, in);
	}
}

/* ---- the interpreter's run ---- */

static bool is_vector(const struct x86_insn *in)
{
	return in->op >= OP_VEC;
}

static bool decode(struct tcg_cpu *c, struct x86_insn *in)
{
	u8 bytes[X86_INSN_MAX];
	u32 n = mmu_fetch(c, c->rip, bytes, sizeof(bytes));

	return x86_decode(in, bytes, n, 64, false) && in->op != OP_UD;
}

/* Keeps the vector state as it is before instruction nr. */
static void keep_vector(struct tcg_cpu *c, struct lockstep *l)
{
	fpu_save(c);
	copy(l->fpu[l->nr_fpu], c->fpu, sizeof(c->fpu));
	l->fpu_of[l->nr] = l->nr_fpu++;
}

static void keep_written(struct lockstep *l, u32 from)
{
	for (u32 i = from; i < l->nr_writes; i++)
		copy(l->writes[i].after, l->writes[i].at, l->writes[i].n);
}

/* One instruction. False: it was not run. */
static bool run_one(struct tcg_cpu *c, struct lockstep *l)
{
	struct x86_insn *in = &l->insns[l->nr];
	u32 writes = l->nr_writes;

	if (!decode(c, in) || !prepare(c, in)) {
		l->nr_writes = writes;
		return false;
	}
	if (is_vector(in) && !l->vector) {
		l->vector = true;
		keep_vector(c, l);
	}
	interp_insn(c, in);
	keep_written(l, writes);
	l->nr++;
	l->fpu_of[l->nr] = l->fpu_of[l->nr - 1];
	if (is_vector(in))
		keep_vector(c, l);
	get_regs(c, &l->regs[l->nr]);
	return true;
}

/* Whether the unit has the instruction at rip, behind those that were run. */
static bool is_next(const struct tcg_code *k, struct lockstep *l, u64 rip)
{
	const struct unit *u = &k->units[l->unit];

	for (u32 i = l->next; i < u->nr_insns; i++) {
		if (rip != u->va + (u64)(s64)(int16_t)k->insns[u->insns + i].guest)
			continue;
		l->next = i + 1;
		return true;
	}
	return false;
}

/* The unit's instructions, as long as they come next. */
static void run_all(struct tcg_cpu *c, struct lockstep *l)
{
	while (is_next(c->t->code, l, c->rip)) {
		if (!run_one(c, l) || c->exc.pending) {
			l->cut = true;
			return;
		}
	}
}

static void interpret(struct tcg_cpu *c, struct lockstep *l)
{
	l->nr = l->next = l->nr_writes = l->nr_fpu = 0;
	l->cut = l->vector = false;
	l->fpu_of[0] = 0;
	get_regs(c, &l->regs[0]);
	copy(l->jmp, c->jmp, sizeof(l->jmp));
	if (__builtin_setjmp(c->jmp)) {
		/* c is found again through nothing that a register holds. */
		l->cut = true;
	} else {
		run_all(c, l);
	}
}

/* Memory as before instruction `insn`; from the interpreter's state at its end. */
static void undo(struct lockstep *l, u32 insn)
{
	for (u32 i = l->nr_writes; i-- > 0 && l->writes[i].insn >= insn;)
		copy(l->writes[i].at, l->writes[i].before, l->writes[i].n);
}

/* ---- comparison ---- */

/* Flags that code at rip certainly reads, if it is in the unit's page; else all of them may be read, and the translator keeps all. */
static u64 flags_read(const struct tcg_cpu *c, const struct unit *u, u64 rip)
{
	const u8 *page = mem_at(&c->t->vm->mem, u->gpa & ~(MEM_PAGE_SIZE - 1), MEM_PAGE_SIZE);
	u64 need = 0, open = X86_FLAGS_ARITH;
	struct x86_insn in;

	if ((rip ^ u->va) & ~(MEM_PAGE_SIZE - 1))
		return open;
	for (u32 i = 0; page && i < LOOKAHEAD && !((rip ^ u->va) & ~(MEM_PAGE_SIZE - 1)); i++) {
		u32 at = rip & (MEM_PAGE_SIZE - 1);

		if (!x86_decode(&in, page + at, MIN((u32)MEM_PAGE_SIZE - at, X86_INSN_MAX), 64, false) || in.op == OP_UD)
			break;
		need |= in.flags_read & open;
		open &= ~(u64)in.flags_kill;
		if (in.op >= OP_CALL && in.op <= OP_SYSEXIT)
			break;
		rip += in.len;
	}
	return need;
}

static const char *compare_regs(const struct tcg_cpu *c, const struct lockstep *l, u32 insn, u64 flags)
{
	const struct lockstep_regs *want = &l->regs[insn];

	if (differ(c->gpr, want->gpr, sizeof(want->gpr)))
		return "a register";
	if ((c->rflags ^ want->rflags) & ~(X86_FLAGS_ARITH & ~flags) & ~X86_FLAG_RF)
		return "a flag";
	if (c->seg[X86_GS].base != want->gs_base || c->kernel_gs_base != want->kernel_gs_base)
		return "GS base";
	return NULL;
}

/* Keeps what the translated unit left where the interpreter wrote. */
static void keep_got(struct lockstep *l)
{
	for (u32 i = 0; i < l->nr_writes; i++)
		copy(l->writes[i].got, l->writes[i].at, l->writes[i].n);
}

/* Makes that memory what it was before instruction `insn` of the interpreter's run. True: the translated unit left something else. */
static bool memory_differs(struct lockstep *l, u32 insn)
{
	bool differs = false;

	for (u32 i = l->nr_writes; i-- > 0;)
		copy(l->writes[i].at, l->writes[i].before, l->writes[i].n);
	for (u32 i = 0; i < l->nr_writes && l->writes[i].insn < insn; i++)
		copy(l->writes[i].at, l->writes[i].after, l->writes[i].n);
	for (u32 i = 0; i < l->nr_writes; i++)
		differs |= differ(l->writes[i].got, l->writes[i].at, l->writes[i].n);
	return differs;
}

/* A component in its initial state may have any bytes. */
static bool component_differs(const u8 *a, const u8 *b, u64 bit, u32 from, u32 size)
{
	bool in_a = ld_le64(a + XS_STATE_BV) & bit, in_b = ld_le64(b + XS_STATE_BV) & bit;

	for (u32 i = from; i < from + size; i++)
		if ((in_a ? a[i] : 0) != (in_b ? b[i] : 0))
			return true;
	return false;
}

static bool x87_differs(const u8 *a, const u8 *b)
{
	bool in_a = ld_le64(a + XS_STATE_BV) & XS_X87, in_b = ld_le64(b + XS_STATE_BV) & XS_X87;

	if (in_a != in_b)
		return false; /* one of them may be the initial state written out: not worth telling */
	if (!in_a)
		return false;
	if (differ(a, b, 5))
		return true;
	for (u32 i = 0; i < 8; i++)
		if (differ(a + XS_ST + 16 * i, b + XS_ST + 16 * i, 10))
			return true;
	return false;
}

static bool vector_differs(const struct tcg_cpu *c, const u8 *want)
{
	static const u32 sizes[XS_NR] = {0, 0, 256, 0, 0, 64, 512, 1024};
	const struct fpu *f = fpu_of(c);

	if (x87_differs(c->fpu, want) || component_differs(c->fpu, want, XS_SSE, XS_XMM, 256) ||
	    ld_le32(c->fpu + XS_MXCSR) != ld_le32(want + XS_MXCSR))
		return true;
	for (u32 n = 2; n < XS_NR; n++)
		if (f->mask >> n & 1 && component_differs(c->fpu, want, BIT(n), f->offset[n], sizes[n]))
			return true;
	return false;
}

static void count(struct lockstep *l, u32 insn)
{
	l->nr_units++;
	l->nr_insns += insn;
	l->nr_early += insn < l->nr;
	l->nr_vector += l->vector;
	l->nr_written += l->nr_writes;
}

/* With the interpreter's state before instruction `insn`. */
static const char *compare_at(struct tcg_cpu *c, struct lockstep *l, u32 reason, u32 insn)
{
	const struct unit *u = &c->t->code->units[l->unit];
	u64 flags = reason == LEAVE_LOOKUP ? X86_FLAGS_ARITH : flags_read(c, u, c->rip);
	const char *what = compare_regs(c, l, insn, flags);
	bool memory = memory_differs(l, insn);

	if (!what && memory)
		what = "memory";
	if (!what && l->vector && vector_differs(c, l->fpu[l->fpu_of[insn]]))
		what = "vector state";
	return what;
}

/* After the translated run. NULL: they agree, where *insn of the interpreter's instructions are complete. A unit that leaves for a place in
 * itself may have come there in two ways. */
static const char *compare(struct tcg_cpu *c, struct lockstep *l, u32 reason, u32 *insn)
{
	const char *what = NULL;

	if (reason == LEAVE_POLL) {
		l->nr_stood++;
		return NULL;
	}
	keep_got(l);
	for (u32 i = 0; i <= l->nr; i++) {
		if (l->regs[i].rip != c->rip)
			continue;
		*insn = i;
		what = compare_at(c, l, reason, i);
		if (!what) {
			count(l, i);
			return NULL;
		}
	}
	if (!what && l->cut)
		l->nr_cut++;
	return what || l->cut ? what : "the way";
}

/* ---- one unit ---- */

static bool still_there(const struct tcg_cpu *c, const struct lockstep *l, u32 generation)
{
	const struct tcg_code *k = c->t->code;

	return generation == __atomic_load_n(&k->generation, __ATOMIC_RELAXED) && !k->units[l->unit].dead;
}

/* Back to where both runs begin. Vector state changes only where the interpreter's run had such instructions, or has looked at it. */
static void rewind(struct tcg_cpu *c, struct lockstep *l)
{
	copy(c->jmp, l->jmp, sizeof(l->jmp));
	fpu_save(c);
	undo(l, 0);
	put_regs(c, &l->start);
	if (l->nr_fpu)
		copy(c->fpu, l->fpu[0], sizeof(c->fpu));
}

bool lockstep_run(struct tcg_cpu *c)
{
	struct lockstep *l = c->t->lockstep;
	u64 host = exec_find(c, &l->unit);
	u32 generation = c->t->code->generation, reason = LEAVE_POLL, insn = 0;
	const char *what = NULL;

	if (!host)
		return true;
	fpu_save(c);
	get_regs(c, &l->start);
	l->unit_va = c->rip;
	for (u32 i = 0; i < TRIES; i++) {
		interpret(c, l);
		rewind(c, l);
		if (!still_there(c, l, generation))
			return true;
		reason = exec_once(c, host);
		what = compare(c, l, reason, &insn);
		if (!what) {
			l->nr_repeated += i > 0;
			/* After LEAVE_POLL too: the interpreter's run may be what asked for it, by an STI that was taken back. */
			return reason != LEAVE_EXIT && reason != LEAVE_LOOKUP;
		}
		if (i + 1 < TRIES)
			rewind(c, l);
	}
	lockstep_diverged(c, reason, insn, what);
}
