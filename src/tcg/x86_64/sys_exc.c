/*
 * sys_exc.c: delivery of exceptions and interrupts through the IDT (SDM 3A §6). Lean.
 *
 * Whatever can fault comes before the first change of a register, so that a fault on the way is raised like any other: tcg_raise leaves
 * c->delivering set, and the next sys_deliver makes of both what the table of double faults says.
 */
#include "tcg/x86_64/sys.h"

struct event {
	u8 vector;
	bool soft; /* INT n, INT3, INTO: the gate's DPL counts */
	bool has_error;
	u32 error;
	u64 rip, rflags; /* as pushed */
};

#define DR6_ACTIVE_LOW 0xffff0ff0ull
#define DR6_TRAPS      0xfull
#define DR7_GD	       0x2000ull

void sys_triple(struct tcg_cpu *c)
{
	c->triple_fault = true;
	c->delivering = false;
	c->exc.pending = false;
	tcg_request(c, TCG_REQ_KICK);
}

static bool is_contributory(u8 vector)
{
	return vector == X86_DE || (vector >= X86_TS && vector <= X86_GP) || vector == 21;
}

/* SDM 3A table 6-5: what an exception becomes that is raised while another one is delivered. False: shutdown. */
static bool merge(const struct tcg_cpu *c, struct tcg_exception *x)
{
	u8 first = c->delivering_vector;
	bool second = is_contributory(x->vector), pf = x->vector == X86_PF;

	if (first == X86_DF && (second || pf))
		return false;
	if ((is_contributory(first) && second) || (first == X86_PF && (second || pf)))
		*x = (struct tcg_exception){.vector = X86_DF, .has_error = true};
	else if (first != DELIVERING_SOFT && x->vector >= X86_TS && x->vector <= X86_GP)
		x->error |= 1; /* EXT */
	return true;
}

/* ---- long mode ---- */

struct gate {
	u16 selector;
	u32 attr; /* as a segment's: type, DPL, P */
	u32 ist;
	u64 rip;
};

static void check_gate(struct tcg_cpu *c, const struct event *ev, const struct gate *g)
{
	if (ev->soft && X86_ATTR_DPL(g->attr) < c->cpl)
		sys_gp(c, ev->vector * 8 + 2);
	if (!(g->attr & X86_ATTR_P))
		tcg_raise_err(c, X86_NP, ev->vector * 8 + 2);
}

static void load_gate64(struct tcg_cpu *c, const struct event *ev, struct gate *g)
{
	u32 at = ev->vector * 16;
	u64 low;

	if (at + 15 > c->idt.limit)
		sys_gp(c, ev->vector * 8 + 2);
	low = sys_load(c, c->idt.base + at, 8);
	g->attr = desc_attr(low) & 0xff;
	if ((g->attr & (X86_ATTR_TYPE | X86_ATTR_S) & ~1u) != DESC_INT32)
		sys_gp(c, ev->vector * 8 + 2);
	check_gate(c, ev, g);
	g->selector = (u16)(low >> 16);
	g->ist = low >> 32 & 7;
	g->rip = (low & 0xffff) | (low >> 32 & 0xffff0000) | sys_load(c, c->idt.base + at + 8, 4) << 32;
}

/* The handler's code segment; returns the privilege level it will run at. */
static u32 load_handler_cs(struct tcg_cpu *c, u16 selector, struct x86_seg *cs)
{
	struct sys_desc d;
	u32 cpl;

	if (sys_null(selector))
		sys_gp(c, 0);
	sys_desc_get(c, selector, X86_GP, &d);
	if (!desc_is_code(d.attr) || desc_dpl(&d) > c->cpl)
		sys_gp(c, selector & ~3u);
	if (sys_long(c) && (d.attr & (X86_ATTR_L | X86_ATTR_DB)) != X86_ATTR_L)
		sys_gp(c, selector & ~3u);
	cpl = d.attr & DESC_CONFORMING ? c->cpl : desc_dpl(&d);
	if (c->rflags & X86_FLAG_VM && cpl)
		sys_gp(c, selector & ~3u);
	if (!(d.attr & X86_ATTR_P))
		tcg_raise_err(c, X86_NP, selector & ~3u);
	sys_desc_touch(c, &d);
	sys_desc_seg(&d, selector, cs);
	return cpl;
}

/* Stores the frame below rsp (16-byte aligned), from its top down, so that a fault names the word that a push would have met first. */
static void store_frame(struct tcg_cpu *c, u64 rsp, const u64 *frame, u32 n, enum tcg_mmu_mode mode)
{
	u64 bottom = rsp - n * 8;

	if (!tcg_canonical(bottom) || !tcg_canonical(rsp - 1))
		tcg_raise_err(c, X86_SS_EXC, 0);
	mmu_store(c, rsp - 8, 8, frame[n - 1], mode);
	if ((bottom ^ (rsp - 8)) < MEM_PAGE_SIZE) {
		mmu_store_bytes(c, bottom, frame, (n - 1) * 8, mode);
		return;
	}
	for (u32 i = n - 1; i-- > 0;)
		mmu_store(c, bottom + i * 8, 8, frame[i], mode);
}

/* Flags when the handler starts. */
static void enter_handler_flags(struct tcg_cpu *c, bool interrupt_gate)
{
	c->rflags &= ~(X86_FLAG_TF | X86_FLAG_NT | X86_FLAG_RF | X86_FLAG_VM);
	if (interrupt_gate)
		c->rflags &= ~X86_FLAG_IF;
	c->shadow = 0;
	c->halted = false;
}

static void deliver_long(struct tcg_cpu *c, const struct event *ev)
{
	struct gate g;
	struct x86_seg cs;
	u64 frame[6], rsp;
	u32 n = 0, cpl;

	load_gate64(c, ev, &g);
	cpl = load_handler_cs(c, g.selector, &cs);
	sys_check_rip(c, &cs, g.rip);
	rsp = g.ist || cpl < c->cpl ? sys_tss_rsp(c, cpl, g.ist) : c->gpr[X86_RSP];
	if (!tcg_canonical(rsp))
		tcg_raise_err(c, X86_SS_EXC, 0);
	rsp &= ~15ull;
	if (ev->has_error)
		frame[n++] = ev->error;
	frame[n++] = ev->rip;
	frame[n++] = c->seg[X86_CS].selector;
	frame[n++] = ev->rflags;
	frame[n++] = c->gpr[X86_RSP];
	frame[n++] = c->seg[X86_SS].selector;
	store_frame(c, rsp, frame, n, cpl == 3 ? TCG_USER : cpl == c->cpl ? tcg_data_mode(c) : TCG_KERNEL);
	if (cpl < c->cpl)
		sys_null_ss(&c->seg[X86_SS], cpl);
	c->gpr[X86_RSP] = rsp - n * 8;
	enter_handler_flags(c, !(g.attr & 1));
	sys_set_cs(c, &cs, cpl, g.rip);
}

/* ---- 32-bit protected mode ---- */

static void load_gate32(struct tcg_cpu *c, const struct event *ev, struct gate *g)
{
	u32 at = ev->vector * 8, type;
	u64 low;

	if (at + 7 > c->idt.limit)
		sys_gp(c, ev->vector * 8 + 2);
	low = sys_load(c, c->idt.base + at, 8);
	g->attr = desc_attr(low) & 0xff;
	type = g->attr & (X86_ATTR_TYPE | X86_ATTR_S);
	/* Task gates are not supported: #GP, as if the gate were none. */
	if ((type & ~9u) != (DESC_INT16 & ~9u))
		sys_gp(c, ev->vector * 8 + 2);
	check_gate(c, ev, g);
	g->selector = (u16)(low >> 16);
	g->rip = (low & 0xffff) | (type & 8 ? low >> 32 & 0xffff0000 : 0);
}

/* Data segments of virtual 8086 mode: kept on the handler's stack, null in the handler. */
static void push_vm86_segs(struct tcg_cpu *c, struct sys_stack *s, u32 size)
{
	sys_stack_push(c, s, size, c->seg[X86_GS].selector);
	sys_stack_push(c, s, size, c->seg[X86_FS].selector);
	sys_stack_push(c, s, size, c->seg[X86_DS].selector);
	sys_stack_push(c, s, size, c->seg[X86_ES].selector);
}

static void drop_vm86_segs(struct tcg_cpu *c)
{
	static const u8 segs[] = {X86_ES, X86_DS, X86_FS, X86_GS};

	for (u32 i = 0; i < ARRAY_SIZE(segs); i++)
		c->seg[segs[i]] = (struct x86_seg){.attr = X86_SEG_UNUSABLE};
}

static void deliver_legacy(struct tcg_cpu *c, const struct event *ev)
{
	bool vm = c->rflags & X86_FLAG_VM;
	struct sys_stack s;
	struct x86_seg cs;
	struct gate g;
	u32 cpl, size;

	load_gate32(c, ev, &g);
	size = g.attr & 8 ? 4 : 2;
	cpl = load_handler_cs(c, g.selector, &cs);
	if (cpl < c->cpl) {
		sys_tss_stack(c, cpl, &s);
		if (vm)
			push_vm86_segs(c, &s, size);
		sys_stack_push(c, &s, size, c->seg[X86_SS].selector);
		sys_stack_push(c, &s, size, c->gpr[X86_RSP]);
	} else {
		sys_stack_here(c, &s);
	}
	sys_stack_push(c, &s, size, ev->rflags);
	sys_stack_push(c, &s, size, c->seg[X86_CS].selector);
	sys_stack_push(c, &s, size, ev->rip);
	if (ev->has_error)
		sys_stack_push(c, &s, size, ev->error);
	sys_check_rip(c, &cs, g.rip);
	if (vm)
		drop_vm86_segs(c);
	if (cpl < c->cpl)
		c->seg[X86_SS] = s.seg;
	sys_stack_commit(c, &s);
	enter_handler_flags(c, !(g.attr & 1));
	sys_set_cs(c, &cs, cpl, g.rip);
}

/* ---- real mode (SDM 3B §20.1.4) ---- */

static void deliver_real(struct tcg_cpu *c, const struct event *ev)
{
	u32 at = ev->vector * 4, entry;
	struct sys_stack s;

	if (at + 3 > c->idt.limit)
		sys_gp(c, ev->vector * 8 + 2);
	entry = (u32)sys_load(c, c->idt.base + at, 4);
	sys_stack_here(c, &s);
	sys_stack_push(c, &s, 2, ev->rflags);
	sys_stack_push(c, &s, 2, c->seg[X86_CS].selector);
	sys_stack_push(c, &s, 2, ev->rip);
	sys_stack_commit(c, &s);
	c->rflags &= ~X86_FLAG_AC;
	enter_handler_flags(c, true);
	sys_set_real_seg(c, X86_CS, (u16)(entry >> 16));
	c->rip = (u16)entry;
	tcg_mode_update(c);
}

/* ---- events ---- */

/* Faults push RF so that the instruction does not meet its breakpoint again; traps and #DB leave it as it is (SDM 3B §17.3.1.1). */
static bool is_fault(u8 vector)
{
	return vector != X86_DB && vector != X86_BP && vector != X86_OF && vector != X86_DF && vector != X86_MC;
}

/* While it is delivered the event stays in c->exc: page walks may give up and restart (tcg_restart), and then it is begun anew. */
static void deliver(struct tcg_cpu *c, struct tcg_exception x, u8 delivering)
{
	struct event ev = {.vector = x.vector, .soft = x.soft, .has_error = x.has_error, .error = x.error, .rflags = c->rflags};

	ev.rip = c->rip + x.soft_len;
	if (!tcg_is_64(c))
		ev.rip = (u32)ev.rip;
	if (delivering < DELIVERING_SOFT && is_fault(x.vector))
		ev.rflags |= X86_FLAG_RF;
	x.pending = x.again = true;
	c->exc = x;
	c->delivering = true;
	c->delivering_vector = delivering;
	if (!(c->cr0 & X86_CR0_PE))
		deliver_real(c, &ev);
	else if (sys_long(c))
		deliver_long(c, &ev);
	else
		deliver_legacy(c, &ev);
	c->delivering = c->exc.pending = c->exc.again = false;
}

/* CR2 and DR6 change when the exception is raised, even if it becomes a double fault. */
static void note_address(struct tcg_cpu *c, const struct tcg_exception *x)
{
	if (x->vector == X86_PF)
		c->cr2 = x->address;
	if (x->vector != X86_DB || x->soft)
		return;
	c->dr6 = ((c->dr6 & ~DR6_TRAPS) | DR6_ACTIVE_LOW | x->address) & 0xffffffff;
	if (c->dr7 & DR7_GD) {
		c->dr7 &= ~DR7_GD;
		tcg_mode_update(c);
	}
}

void sys_deliver(struct tcg_cpu *c)
{
	struct tcg_exception x = c->exc;

	if (x.again) {
		deliver(c, x, c->delivering_vector);
		return;
	}
	c->exc.pending = false;
	tcg_trace(c, tcg_exception, "vector=%u error=0x%x address=0x%llx rip=0x%llx cpl=%u", x.vector, x.has_error ? x.error : 0,
		  (unsigned long long)x.address, (unsigned long long)c->rip, c->cpl);
	note_address(c, &x);
	if (c->delivering && !merge(c, &x))
		sys_triple(c);
	else
		deliver(c, x, x.soft ? DELIVERING_SOFT : x.vector);
}

void sys_interrupt(struct tcg_cpu *c, u8 vector)
{
	tcg_trace(c, tcg_interrupt, "vector=%u rip=0x%llx cpl=%u", vector, (unsigned long long)c->rip, c->cpl);
	deliver(c, (struct tcg_exception){.vector = vector}, DELIVERING_EXTERNAL);
}

void sys_nmi(struct tcg_cpu *c)
{
	c->nmi_masked = true;
	deliver(c, (struct tcg_exception){.vector = X86_NMI}, DELIVERING_EXTERNAL);
}

/* INT1 is an exception of hardware in all but name: no DPL check (SDM 2A INT). */
void sys_software_int(struct tcg_cpu *c, const struct x86_insn *insn, u8 vector)
{
	bool soft = insn->op != OP_INT1;

	if (insn->op == OP_INT && c->rflags & X86_FLAG_VM && sys_iopl(c) < 3)
		sys_gp(c, 0);
	deliver(c, (struct tcg_exception){.vector = vector, .soft = soft, .soft_len = insn->len}, soft ? DELIVERING_SOFT : vector);
}
