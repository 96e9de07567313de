/* exec.c: the inner run loop; see exec.h. Lean. */
#include "tcg/exec.h"

#include "tcg/lockstep.h"
#include "tcg/mmu.h"
#include "tcg/unit.h"
#include "tcg/x86_64/decode.h"
#include "tcg/x86_64/interp.h"

_Noreturn void tcg_restart(struct tcg_cpu *c)
{
	__builtin_longjmp(c->jmp, 1);
}

/* A second fault while one is delivered is sorted out by sys_deliver, which looks at c->delivering (SDM 3A §6.15, double fault). */
static _Noreturn void raise(struct tcg_cpu *c, const struct tcg_exception *x)
{
	c->exc = *x;
	tcg_restart(c);
}

_Noreturn void tcg_raise(struct tcg_cpu *c, u8 vector)
{
	raise(c, &(struct tcg_exception){.pending = true, .vector = vector});
}

_Noreturn void tcg_raise_err(struct tcg_cpu *c, u8 vector, u32 error)
{
	raise(c, &(struct tcg_exception){.pending = true, .vector = vector, .has_error = true, .error = error});
}

_Noreturn void tcg_raise_pf(struct tcg_cpu *c, u64 va, u32 error)
{
	raise(c, &(struct tcg_exception){.pending = true, .vector = X86_PF, .has_error = true, .error = error, .address = va});
}

/* What never hits: in slot 0, where rip 0 would find a zero, another. */
static void wipe_jump(struct tcg_jump *table, struct tcg_jump *j)
{
	*j = (struct tcg_jump){.neg = j == table};
}

static void wipe_jumps(struct tcg_jump *j, u32 n)
{
	for (u32 i = 0; i < n; i++)
		wipe_jump(j, &j[i]);
}

void exec_forget_jumps(struct tcg_cpu *c, bool kernel)
{
	if (kernel && c->mmu.k.code_large) {
		wipe_jumps(c->k_jump, TCG_K_JUMP_SIZE);
		wipe_jumps(c->ac_jump, ARRAY_SIZE(c->ac_jump));
	}
	for (u32 i = 0; i < TCG_NR_CTX; i++) { /* one that is not valid is wiped when it is entered */
		if (c->mmu.use[i].valid && tcg_ctx_at(c, i)->seen.code_large)
			wipe_jumps(tcg_ctx_at(c, i)->jump, TCG_JUMP_SIZE);
	}
}

/* Armed instruction or data breakpoints of DR7: L0..G3. */
#define DR7_ENABLE 0xffull

void tcg_mode_update(struct tcg_cpu *c)
{
	u8 mode = 0;

	if (c->cr0 & X86_CR0_PE && !(c->rflags & X86_FLAG_VM))
		mode |= TCG_MODE_PE;
	if (c->cpl == 3)
		mode |= TCG_MODE_USER;
	else if (c->cr4 & X86_CR4_SMAP && c->rflags & X86_FLAG_AC)
		mode |= TCG_MODE_AC;
	if (c->efer & X86_EFER_LMA && c->seg[X86_CS].attr & X86_ATTR_L)
		mode |= TCG_MODE_64;
	else if (c->seg[X86_CS].attr & X86_ATTR_DB)
		mode |= TCG_MODE_32;
	if (c->rflags & X86_FLAG_TF || c->dr7 & DR7_ENABLE || c->debug.dr7)
		mode |= TCG_MODE_TF;
	if (c->cr0 & (X86_CR0_TS | X86_CR0_EM) || !(c->cr4 & X86_CR4_OSFXSR) || !(c->cr4 & X86_CR4_OSXSAVE) || (c->xcr0 & 7) != 7)
		mode |= TCG_MODE_NM;
	if (c->cr4 & X86_CR4_FSGSBASE)
		mode |= TCG_MODE_FSGS;
	/* Jump caches know rip alone; units of the other kind are in them. */
	if ((mode ^ c->mode) & (TCG_MODE_NM | TCG_MODE_FSGS))
		exec_forget_jumps(c, true);
	c->mode = mode;
}

/* Modes that units exist for. */
static bool translatable(const struct tcg_cpu *c)
{
	return (c->mode & (TCG_MODE_64 | TCG_MODE_TF)) == TCG_MODE_64 && !c->shadow;
}

static void count(struct tcg_cpu *c, enum tcg_counter n)
{
	__atomic_store_n(&c->counters[n], c->counters[n] + 1, __ATOMIC_RELAXED);
}

/* Jump cache of the current mode and the slot of rip in it. */
static struct tcg_jump *jump_slot(struct tcg_cpu *c, u64 rip)
{
	if (c->mode & TCG_MODE_USER)
		return &tcg_ctx_at(c, c->ctx)->jump[rip >> 1 & (TCG_JUMP_SIZE - 1)];
	if (c->mode & TCG_MODE_AC)
		return &c->ac_jump[rip >> 1 & (ARRAY_SIZE(c->ac_jump) - 1)];
	return &c->k_jump[rip >> 1 & (TCG_K_JUMP_SIZE - 1)];
}

/* Host address of the code for c->rip, found or made; 0: interpret. */
static u64 find_code(struct tcg_cpu *c, u32 *unit)
{
	struct tcg_code *k = c->t->code;
	const struct tcg_itlb *page = mmu_code_page(c, c->rip);
	u32 u;

	count(c, TCG_C_LOOKUPS);
	if (!page)
		return 0;
	u = unit_get(c, c->rip, page->gpa + (c->rip & (MEM_PAGE_SIZE - 1)), c->mode);
	if (u == UNIT_NONE)
		return 0;
	*unit = u;
	return (u64)k->rx + k->units[u].code;
}

static u64 code_at_rip(struct tcg_cpu *c)
{
	struct tcg_jump *j = jump_slot(c, c->rip);
	u32 unit;
	u64 host;

	if (c->rip + j->neg == 0 && c->rip)
		return j->host;
	host = find_code(c, &unit);
	if (host) {
		j->host = host;
		j->neg = -c->rip;
	}
	return host;
}

/* A direct exit that is not linked, or whose guard failed: finds its target and links it. 0: interpret. */
static u64 follow_exit(struct tcg_cpu *c, u32 x)
{
	struct tcg_code *k = c->t->code;
	const struct unit_exit *exit = &k->exits[x];
	u32 target, id = 0, generation = k->generation;
	bool guarded = exit->guard, back = exit->back;
	u64 host;

	c->rip = k->units[exit->unit].va + (s64)exit->target;
	if (guarded) {
		const struct tcg_itlb *page;

		if (!(c->mode & TCG_MODE_USER))
			mmu_adopt_epoch(c);
		page = mmu_code_page(c, c->rip);
		if (!page)
			return 0;
		id = c->mode & TCG_MODE_USER ? page->id : c->k_epoch;
	}
	host = find_code(c, &target);
	/* Making the target may have emptied the cache, and with it this exit. */
	if (!host || generation != __atomic_load_n(&k->generation, __ATOMIC_RELAXED))
		return host;
	unit_link(k, x, target, id);
	return host + (back ? 0 : k->units[target].body);
}

/* Enters translated code at host; returns when it leaves. The window of the current context becomes the stack. */
static void enter_code(struct tcg_cpu *c, u64 host)
{
	struct tcg_cpu *here = (void *)(c->window0 + c->ctx * TCG_WINDOW_SIZE + TCG_STACK_SIZE);
	void (*enter)(struct tcg_cpu *, u64) = (void *)(c->t->code->rx + c->t->code->enter);

	count(c, TCG_C_DISPATCH);
	if (!c->fpu_live)
		fpu_restore(c);
	enter(here, host);
}

/* Guest address of the unit that holds the host address where translated code left. */
static u64 left_unit(const struct tcg_cpu *c)
{
	u32 u = c->exit_unit != UNIT_NONE ? c->exit_unit : unit_by_host(c->t->code, c->exit_rip - 1); /* a return address */

	ASSERT(u != UNIT_NONE);
	return c->t->code->units[u].va;
}

/* The page that the unit's last instruction ends in is not known to be the one it was translated from. */
static void recheck_cross(struct tcg_cpu *c)
{
	const struct tcg_itlb *page;

	if (!(c->mode & TCG_MODE_USER))
		mmu_adopt_epoch(c);
	page = mmu_code_try(c, (c->rip & ~(MEM_PAGE_SIZE - 1)) + MEM_PAGE_SIZE);
	if (page)
		unit_recheck_cross(c->t->code, c->exit_unit, page->gpa, c->mode & TCG_MODE_USER ? page->id : c->k_epoch);
}

/* A unit without groups at c->rip, for this once. 0: interpret. */
static u64 single_code(struct tcg_cpu *c)
{
	const struct tcg_itlb *page = mmu_code_page(c, c->rip);
	u32 u = page ? unit_get(c, c->rip, page->gpa + (c->rip & (MEM_PAGE_SIZE - 1)), c->mode | UNIT_SINGLE) : UNIT_NONE;

	return u == UNIT_NONE ? 0 : (u64)c->t->code->rx + c->t->code->units[u].code;
}

/* An indirect jump, call or return to what is no address: back to before the instruction, which the interpreter executes and raises #GP. */
static void undo_jump(struct tcg_cpu *c)
{
	const struct tcg_code *k = c->t->code;
	u32 u = c->exit_host ? unit_by_host(k, c->exit_host - 1) : UNIT_NONE;
	u8 bytes[X86_INSN_MAX];
	struct x86_insn insn;

	if (u == UNIT_NONE) /* not from a unit: the fetch raises it */
		return;
	c->rip = k->units[u].va + (u64)(s64)(int16_t)unit_guest_offset(k, &k->units[u], c->exit_host - 1);
	x86_decode(&insn, bytes, mmu_fetch(c, c->rip, bytes, X86_INSN_MAX), 64, false);
	if (insn.op == OP_RET)
		c->gpr[X86_RSP] -= 8 + (insn.imm & 0xffff);
	else if (insn.op == OP_CALL_IND)
		c->gpr[X86_RSP] += 8;
}

/* Runs units until one leaves for the interpreter or a request. True: the instruction at rip is to be interpreted. */
static bool run_units(struct tcg_cpu *c)
{
	u64 host = code_at_rip(c);

	while (host) {
		enter_code(c, host);
		count(c, TCG_C_EXIT_DIRECT + (c->exit_arg & 0xff));
		switch (c->exit_arg & 0xff) {
		case LEAVE_EXIT:
			host = follow_exit(c, (u32)(c->exit_arg >> 8));
			break;
		case LEAVE_LOOKUP:
			c->rip = c->exit_rip;
			if (!tcg_canonical(c->rip)) {
				undo_jump(c);
				return true;
			}
			host = code_at_rip(c);
			break;
		case LEAVE_INTERP:
			c->rip = left_unit(c) + (u64)(s64)(int16_t)(c->exit_arg >> 8);
			return true;
		case LEAVE_SINGLE:
			c->rip = left_unit(c) + (u64)(s64)(int16_t)(c->exit_arg >> 8);
			host = single_code(c);
			break;
		case LEAVE_CROSS:
			c->rip = left_unit(c) + (u64)(s64)(int16_t)(c->exit_arg >> 8);
			recheck_cross(c);
			return true;
		default: /* a request, or the unit is dead and its jump cache entry stale */
			c->rip = left_unit(c);
			jump_slot(c, c->rip)->neg = c->rip ? 0 : 1;
			return false;
		}
		if (__atomic_load_n(&c->requests, __ATOMIC_RELAXED))
			return false;
	}
	return true;
}

bool exec_callout(struct tcg_cpu *c, u64 va, u32 desc)
{
	u32 len = desc & 0xff, generation = __atomic_load_n(&c->t->code->generation, __ATOMIC_RELAXED);
	u64 writes = c->counters[TCG_C_CODE_WRITES];
	u8 mode = c->mode;
	u32 ctx = c->ctx;

	c = (void *)(c->window0 + TCG_STACK_SIZE);
	c->rip = va;
	if (desc >> 8 < CODE_CALLOUTS)
		interp_insn(c, &c->t->code->callouts[desc >> 8]);
	else
		interp_step(c);
	/* What it wrote may be what comes next; and while it waited for a device or for another vCPU, the unit may have been evicted. */
	if (writes != c->counters[TCG_C_CODE_WRITES] || generation != __atomic_load_n(&c->t->code->generation, __ATOMIC_RELAXED))
		return false;
	return c->rip == va + len && c->mode == mode && c->ctx == ctx && c->fpu_live && !c->exc.pending && !c->halted && !c->shadow;
}

u64 exec_transfer(struct tcg_cpu *c, u64 va, u32 desc)
{
	const struct x86_insn insn = {.op = (u16)desc, .len = desc >> 16 & 0xff, .opsize = (u8)(desc >> 24), .mode = 64};
	const struct tcg_jump *j;

	c = (void *)(c->window0 + TCG_STACK_SIZE);
	c->rip = va;
	if (insn.op == OP_STAC || insn.op == OP_CLAC) {
		c->rflags = insn.op == OP_STAC ? c->rflags | X86_FLAG_AC : c->rflags & ~X86_FLAG_AC;
		tcg_mode_update(c);
		c->rip += insn.len;
	} else if (insn.op == OP_SYSRET && c->gpr[11] & X86_FLAG_TF) {
		interp_step(c); /* knows when the trap is due */
	} else {
		sys_far(c, &insn);
	}
	if (c->exc.pending || !translatable(c) || !c->fpu_live || (u8)__atomic_load_n(&c->poll, __ATOMIC_RELAXED))
		return 0;
	j = jump_slot(c, c->rip);
	return c->rip + j->neg == 0 && c->rip ? j->host : 0;
}

/* An instruction that a debugger watches has been executed. Its exception, if there is one, is delivered first, so that the next stop is in
 * the handler. */
static void look_for_debugger(struct tcg_cpu *c)
{
	if (c->debug.hits)
		c->debug.why = DEBUG_HW;
	else if (c->debug.step && !c->exc.pending)
		c->debug.why = DEBUG_STEP;
}

/* The poll word counts by itself: units leave for it, and it may be set with no request pending (tcg_request). */
static bool must_look(const struct tcg_cpu *c)
{
	return c->exc.pending || (u8)__atomic_load_n(&c->poll, __ATOMIC_RELAXED) || __atomic_load_n(&c->requests, __ATOMIC_RELAXED);
}

void tcg_exec(struct tcg_cpu *c)
{
	/* What was done of an instruction that raised is what it stored; from here on it is over. */
	(void)__builtin_setjmp(c->jmp);
	for (;;) {
		if (unlikely(c->debug.why))
			return;
		if (must_look(c)) {
			/* Before anything is delivered, which may need the same page. */
			if (unlikely(__atomic_load_n(&c->requests, __ATOMIC_RELAXED) & TCG_REQ_FETCH))
				return;
			vcpu_deliver(c);
			if (__atomic_load_n(&c->requests, __ATOMIC_RELAXED) || c->exc.pending || c->debug.why)
				return;
		}
		if (c->halted)
			return;
		if (unlikely(c->debug.step || c->debug.dr7)) {
			interp_step(c);
			look_for_debugger(c);
			continue;
		}
		if (!c->t->code || !translatable(c) || (unlikely(c->t->lockstep) ? lockstep_run(c) : run_units(c)))
			interp_step(c);
	}
}

/* ---- for lockstep.c ---- */

u64 exec_find(struct tcg_cpu *c, u32 *unit)
{
	return find_code(c, unit);
}

u32 exec_once(struct tcg_cpu *c, u64 host)
{
	const struct tcg_code *k = c->t->code;
	const struct unit_exit *exit;

	enter_code(c, host);
	fpu_save(c);
	switch (c->exit_arg & 0xff) {
	case LEAVE_EXIT:
		exit = &k->exits[c->exit_arg >> 8];
		c->rip = k->units[exit->unit].va + (u64)(s64)exit->target;
		break;
	case LEAVE_LOOKUP:
		c->rip = c->exit_rip;
		break;
	case LEAVE_INTERP:
	case LEAVE_SINGLE:
	case LEAVE_CROSS:
		c->rip = left_unit(c) + (u64)(s64)(int16_t)(c->exit_arg >> 8);
		if ((c->exit_arg & 0xff) == LEAVE_CROSS)
			recheck_cross(c);
		break;
	default:
		c->rip = left_unit(c);
	}
	return (u32)c->exit_arg & 0xff;
}
