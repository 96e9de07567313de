/* test_tcg_sys.c: exceptions, interrupts, far transfers and segment loads of the tcg accelerator. */
#include "tcg_sys_rig.h"

/* ---- delivery in long mode ---- */

static void an_exception_leaves_its_frame_on_the_aligned_stack(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	put_gate64(13, KCODE, 0xffff800000123456, 14, 0, 0);
	assert_true(deliver(13, true, 0x18));
	assert_int_equal(c->gpr[X86_RSP], 0x8ff0 - 48);
	assert_int_equal(get(0x8fc0, 8), 0x18);
	assert_int_equal(get(0x8fc8, 8), 0x10000);
	assert_int_equal(get(0x8fd0, 8), KCODE);
	assert_int_equal(get(0x8fd8, 8), 2 | X86_FLAG_IF | X86_FLAG_RF);
	assert_int_equal(get(0x8fe0, 8), 0x8ff8);
	assert_int_equal(get(0x8fe8, 8), KDATA);
	assert_int_equal(c->rip, 0xffff800000123456);
	assert_int_equal(c->rflags, 2);
	assert_int_equal(c->seg[X86_SS].selector, KDATA);
	assert_false(c->delivering);
	assert_false(c->exc.pending);
}

static void an_exception_in_ring_3_takes_its_stack_from_the_tss(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	enter_long(3);
	put(TSS + 4, 0xffffc00000005008, 8);
	put_gate64(6, KCODE, 0x20000, 15, 0, 0);
	c->rflags |= X86_FLAG_TF | X86_FLAG_NT | X86_FLAG_AC;
	assert_true(deliver(6, false, 0));
	assert_int_equal(c->gpr[X86_RSP], 0xffffc00000005000 - 40);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->seg[X86_SS].selector, 0);
	assert_int_equal(get(0x5000 - 8, 8), UDATA | 3);
	assert_int_equal(get(0x5000 - 32, 8), UCODE | 3);
	assert_int_equal(c->rflags, 2 | X86_FLAG_IF | X86_FLAG_AC); /* a trap gate leaves IF, nothing clears AC */
	assert_int_equal(c->mode, TCG_MODE_64 | TCG_MODE_PE);
	assert_int_equal(rig->last_mode, TCG_KERNEL);
}

static void the_ist_is_taken_at_any_privilege_level(void **state)
{
	(void)state;
	put(TSS + 28 + 8 * 3, 0x7010, 8);
	put_gate64(8, KCODE, 0x20000, 14, 0, 3);
	assert_true(deliver(8, true, 0));
	assert_int_equal(rig->c->gpr[X86_RSP], 0x7010 - 48);
	assert_int_equal(rig->c->seg[X86_SS].selector, KDATA);
	enter_long(0);
	rig->c->seg[X86_TR].limit = 28 + 8 * 3 + 6;
	assert_false(deliver(8, true, 0));
	assert_exception(X86_TS, TSSD);
}

static void a_software_interrupt_needs_the_gates_privilege(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	enter_long(3);
	put(TSS + 4, 0x5000, 8);
	put_gate64(3, KCODE, 0x20000, 14, 3, 0);
	put_gate64(0x80, KCODE, 0x30000, 14, 0, 0);
	assert_true(far_op(OP_INT3, 4));
	assert_int_equal(get(0x5000 - 40, 8), 0x10002); /* rip after it */
	assert_int_equal(get(0x5000 - 24, 8), 2 | X86_FLAG_IF);
	enter_long(3);
	struct x86_insn insn = insn_of(OP_INT, 4);
	insn.imm = (int8_t)0x80;
	assert_false(does_far(&insn));
	assert_exception(X86_GP, 0x80 * 8 + 2); /* no EXT yet, and none when it is delivered: */
	put_gate64(13, KCODE, 0x40000, 14, 0, 0);
	c->exc.pending = true;
	sys_deliver(c);
	assert_int_equal(get(0x5000 - 48, 8), 0x80 * 8 + 2);
	assert_int_equal(get(0x5000 - 40, 8), 0x10000);
	enter_long(3);
	assert_true(deliver(0x80, false, 0)); /* hardware may */
}

static void a_fault_on_the_way_to_a_handler_has_the_external_bit(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	put_gate64(13, KCODE, 0x20000, 14, 0, 0);
	if (!setjmp(rig->env))
		sys_interrupt(c, 0x40);
	assert_exception(X86_GP, 0x40 * 8 + 2);
	assert_true(c->delivering);
	sys_deliver(c);
	assert_int_equal(get(c->gpr[X86_RSP], 8), 0x40 * 8 + 3);
	assert_false(c->delivering);
}

static void a_full_stack_is_reported_at_the_word_that_is_pushed_first(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	put_gate64(14, KCODE, 0x20000, 14, 0, 0);
	c->gpr[X86_RSP] = 0x9010;
	rig->bad_page = 8;
	assert_false(deliver(14, true, 0));
	assert_exception(X86_PF, PF_W);
	assert_int_equal(c->exc.address, 0x8ff8);
	assert_int_equal(c->gpr[X86_RSP], 0x9010);
	assert_int_equal(c->rip, 0x10000);
	c->delivering = false;
	rig->bad_page = 9;
	assert_false(deliver(14, true, 0));
	assert_int_equal(c->exc.address, 0x9008);
	c->delivering = false;
	c->gpr[X86_RSP] = 0x800000000010;
	assert_false(deliver(14, true, 0));
	assert_exception(X86_SS_EXC, 0);
}

static void gates_are_checked_in_order(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	static const struct {
		u16 cs;
		u32 type, p;
		u8 vector;
		u32 error;
	} t[] = {
		{KCODE, 12, 1, X86_GP, 0x202},
		{KCODE, 14, 0, X86_NP, 0x202},
		{0, 14, 1, X86_GP, 0},
		{KDATA, 14, 1, X86_GP, KDATA},
		{KCODE32, 14, 1, X86_GP, KCODE32},
		{UCODE, 14, 1, X86_GP, UCODE},
		{GDT_END, 14, 1, X86_GP, GDT_END},
		{ABSENT_CODE, 14, 1, X86_NP, ABSENT_CODE},
		{4, 14, 1, X86_GP, 4},
	};
	for (u32 i = 0; i < ARRAY_SIZE(t); i++) {
		put_gate64(0x40, t[i].cs, 0x20000, t[i].type, 0, 0);
		if (!t[i].p)
			put(IDT + 0x400 + 5, t[i].type, 1);
		c->delivering = false;
		assert_false(deliver(0x40, false, 0));
		assert_exception(t[i].vector, t[i].error);
	}
	c->delivering = false;
	c->idt.limit = 0x40e;
	assert_false(deliver(0x40, false, 0));
	assert_exception(X86_GP, 0x202);
}

/* ---- double and triple faults ---- */

static void two_faults_make_a_double_fault_by_the_table(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	static const struct {
		u8 first, second;
		bool is_double;
	} t[] = {
		{0, 13, true},	{13, 13, true}, {10, 11, true}, {13, 14, false}, {14, 14, true},  {14, 13, true},  {14, 6, false},
		{6, 13, false}, {6, 14, false}, {1, 12, false}, {3, 13, false},	 {17, 13, false}, {16, 14, false}, {12, 0, true},
	};
	for (u32 i = 0; i < ARRAY_SIZE(t); i++) {
		enter_long(0);
		put_gate64(t[i].second, KCODE, 0x50000, 14, 0, 0);
		put_gate64(8, KCODE, 0x60000, 14, 0, 0);
		c->delivering = true;
		c->delivering_vector = t[i].first;
		assert_true(deliver(t[i].second, t[i].second >= 10 && t[i].second <= 14, 0));
		assert_int_equal(c->rip, t[i].is_double ? 0x60000 : 0x50000);
		if (t[i].is_double)
			assert_int_equal(get(c->gpr[X86_RSP], 8), 0);
		assert_false(c->triple_fault);
	}
}

static void a_fault_in_a_double_fault_shuts_down(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	/* An empty IDT: #UD -> #GP -> #DF -> shutdown. */
	assert_false(deliver(6, false, 0));
	assert_exception(X86_GP, 6 * 8 + 2);
	if (!setjmp(rig->env))
		sys_deliver(c);
	assert_exception(X86_GP, 13 * 8 + 2);
	if (!setjmp(rig->env))
		sys_deliver(c);
	assert_exception(X86_GP, 8 * 8 + 2);
	assert_false(c->triple_fault);
	c->exc.pending = true;
	sys_deliver(c);
	assert_true(c->triple_fault);
	assert_int_equal(rig->requests & TCG_REQ_KICK, TCG_REQ_KICK);
	assert_false(c->exc.pending);
}

static void only_contributory_faults_and_page_faults_end_a_double_fault(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	for (u32 v = 0; v < 32; v++) {
		bool ends = v == 0 || (v >= 10 && v <= 14) || v == 21;

		enter_long(0);
		put_gate64(v, KCODE, 0x50000, 14, 0, 0);
		c->triple_fault = false;
		c->delivering = true;
		c->delivering_vector = 8;
		assert_true(deliver((u8)v, false, 0));
		assert_int_equal(c->triple_fault, ends);
	}
}

static void a_pending_software_interrupt_returns_behind_its_instruction(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	put_gate64(4, KCODE, 0x20000, 14, 0, 0);
	c->exc = (struct tcg_exception){.pending = true, .vector = 4, .soft = true, .soft_len = 3};
	sys_deliver(c);
	assert_int_equal(get(c->gpr[X86_RSP], 8), 0x10003);
}

static void an_event_survives_a_restart_of_its_delivery(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	put_gate64(0x80, KCODE, 0x20000, 14, 0, 0);
	put_gate64(13, KCODE, 0x20000, 14, 0, 0);
	for (volatile u32 stores = 1; stores <= 2; stores++) {
		enter_long(0);
		rig->give_up = stores;
		if (!setjmp(rig->env))
			sys_interrupt(c, 0x80);
		assert_int_equal(c->rip, 0x10000);
		assert_true(c->exc.pending); /* so that the run loop comes back */
		sys_deliver(c);
		assert_false(c->exc.pending);
		assert_false(c->delivering);
		assert_int_equal(get(c->gpr[X86_RSP] + 16, 8), 2 | X86_FLAG_IF);
	}
	/* INT n, with its fault after the restart */
	struct x86_insn insn = insn_of(OP_INT, 8);
	insn.imm = 0x80;
	enter_long(0);
	rig->give_up = 1;
	assert_false(does_far(&insn));
	c->gpr[X86_RSP] = 0x800000000100;
	if (!setjmp(rig->env))
		sys_deliver(c);
	assert_exception(X86_SS_EXC, 0);
	c->gpr[X86_RSP] = 0x8ff8;
	put_gate64(12, KCODE, 0x30000, 14, 0, 0);
	sys_deliver(c);
	assert_int_equal(get(c->gpr[X86_RSP], 8), 0);
	assert_int_equal(get(c->gpr[X86_RSP] + 8, 8), 0x10000);
	/* and delivered without one */
	enter_long(0);
	rig->give_up = 1;
	assert_false(does_far(&insn));
	sys_deliver(c);
	assert_int_equal(get(c->gpr[X86_RSP], 8), 0x10002);
}

static void page_faults_and_debug_traps_leave_their_addresses(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	put_gate64(1, KCODE, 0x20000, 14, 0, 0);
	put_gate64(14, KCODE, 0x20000, 14, 0, 0);
	c->exc = (struct tcg_exception){.pending = true, .vector = 14, .has_error = true, .address = 0xdead000};
	sys_deliver(c);
	assert_int_equal(c->cr2, 0xdead000);
	c->dr6 = 0xffff0ff1;
	c->dr7 = 0x2400;
	c->exc = (struct tcg_exception){.pending = true, .vector = 1, .address = 0x4002};
	sys_deliver(c);
	assert_int_equal(c->dr6, 0xffff4ff2);
	assert_int_equal(c->dr7, 0x400);
	assert_int_equal(get(c->gpr[X86_RSP] + 16, 8) & X86_FLAG_RF, 0);
}

static void an_nmi_masks_others_until_iret(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	put_gate64(2, KCODE, 0x20000, 14, 0, 0);
	c->halted = true;
	sys_nmi(c);
	assert_true(c->nmi_masked);
	assert_false(c->halted);
	assert_true(far_op(OP_IRET, 8));
	assert_false(c->nmi_masked);
	assert_int_equal(c->rip, 0x10000);
	assert_int_equal(c->gpr[X86_RSP], 0x8ff8);
}

/* ---- IRET ---- */

static void put_iret(u64 rip, u64 cs, u64 flags, u64 rsp, u64 ss)
{
	const u64 frame[] = {rip, cs, flags, rsp, ss};

	rig->c->gpr[X86_RSP] = 0x8000;
	memcpy(rig->ram + 0x8000, frame, sizeof(frame));
}

static void iret_goes_to_ring_3_and_drops_inner_segments(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	put_iret(0x400000, UCODE | 3, 0x202 | X86_FLAG_RF | X86_FLAG_TF, 0x7fff00000010, UDATA | 3);
	c->rflags = 2;
	c->seg[X86_FS] = (struct x86_seg){.base = 0x7f0000001000, .attr = X86_SEG_UNUSABLE};
	c->seg[X86_GS] = (struct x86_seg){.base = 0x7f0000002000, .attr = 0x93}; /* as after reset, and a write of its base */
	c->seg[X86_ES] = seg_of(UDATA, A_DATA | A_DPL3);
	assert_true(far_op(OP_IRET, 8));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->rip, 0x400000);
	assert_int_equal(c->gpr[X86_RSP], 0x7fff00000010);
	assert_int_equal(c->seg[X86_CS].selector, UCODE | 3);
	assert_int_equal(c->seg[X86_SS].selector, UDATA | 3);
	assert_int_equal(c->rflags, 0x202 | X86_FLAG_RF | X86_FLAG_TF);
	assert_int_equal(c->seg[X86_DS].attr, X86_SEG_UNUSABLE);
	assert_int_equal(c->seg[X86_ES].selector, UDATA);
	assert_int_equal(c->seg[X86_FS].base, 0x7f0000001000);
	assert_int_equal(c->seg[X86_GS].base, 0x7f0000002000);
	assert_int_equal(rig->requests, TCG_REQ_SHOOT); /* IF was set */
}

static void iret_checks_what_it_returns_to(void **state)
{
	(void)state;
	static const struct {
		u64 rip, cs, ss;
		u8 vector;
		u32 error;
	} t[] = {
		{0x1000, 0, KDATA, X86_GP, 0},
		{0x1000, 3, UDATA | 3, X86_GP, 0},
		{0x1000, KDATA, KDATA, X86_GP, KDATA},
		{0x1000, GDT_END, KDATA, X86_GP, GDT_END},
		{0x1000, BOTH_L_D, KDATA, X86_GP, BOTH_L_D},
		{0x1000, ABSENT_CODE, KDATA, X86_NP, ABSENT_CODE},
		{0x1000, KCODE | 3, UDATA | 3, X86_GP, KCODE}, /* DPL is not RPL */
		{0x1000, UCODE, UDATA, X86_GP, UCODE},
		{0x1000, UCODE | 3, 0, X86_GP, 0}, /* null SS in ring 3 */
		{0x1000, UCODE | 3, 3, X86_GP, 0},
		{0x1000, KCODE, 3, X86_GP, 0},		       /* null SS, but RPL is not CPL */
		{0x1000, KCODE32, 0, X86_GP, 0},	       /* null SS for 32-bit code */
		{0x1000, UCODE | 3, UDATA, X86_GP, UDATA},     /* RPL of SS */
		{0x1000, UCODE | 3, KDATA | 3, X86_GP, KDATA}, /* DPL of SS */
		{0x1000, UCODE | 3, UCODE | 3, X86_GP, UCODE}, /* SS is code */
		{0x1000, KCODE, READONLY, X86_GP, READONLY},
		{0x1000, KCODE, ABSENT_DATA, X86_SS_EXC, ABSENT_DATA},
		{0x800000000000, UCODE | 3, UDATA | 3, X86_GP, 0},
		{0x100000000, UCODE32 | 3, UDATA | 3, X86_GP, 0},
	};
	for (u32 i = 0; i < ARRAY_SIZE(t); i++) {
		enter_long(0);
		put_iret(t[i].rip, t[i].cs, 0x202, 0x7000, t[i].ss);
		assert_false(far_op(OP_IRET, 8));
		assert_exception(t[i].vector, t[i].error);
		assert_int_equal(rig->c->rip, 0x10000);
		assert_int_equal(rig->c->gpr[X86_RSP], 0x8000);
		assert_int_equal(rig->c->seg[X86_CS].selector, KCODE);
	}
}

static void iret_never_goes_inwards(void **state)
{
	(void)state;
	enter_long(3);
	put_iret(0x1000, KCODE, 0x202, 0x7000, KDATA);
	assert_false(far_op(OP_IRET, 8));
	assert_exception(X86_GP, KCODE);
	put_iret(0x1000, CONFORMING, 0x202, 0x7000, KDATA);
	assert_false(far_op(OP_IRET, 8));
	assert_exception(X86_GP, CONFORMING);
}

static void iret_takes_a_null_stack_segment_in_64_bit_ring_0(void **state)
{
	(void)state;
	put_iret(0x1000, KCODE, 0x2, 0xffff800000001238, 0);
	assert_true(far_op(OP_IRET, 8));
	assert_int_equal(rig->c->gpr[X86_RSP], 0xffff800000001238);
	assert_int_equal(rig->c->seg[X86_SS].attr & X86_SEG_UNUSABLE, X86_SEG_UNUSABLE);
}

static void iret_reaches_compatibility_mode(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	put_iret(0x1000, UCODE32 | 3, 0x2, 0xffffe000, UDATA | 3);
	assert_true(far_op(OP_IRET, 8));
	assert_int_equal(c->mode & TCG_MODE_64, 0);
	assert_int_equal(c->gpr[X86_RSP], 0xffffe000);
	/* and back by an interrupt */
	put(TSS + 4, 0x5000, 8);
	put_gate64(0x80, KCODE, 0x20000, 14, 3, 0);
	struct x86_insn insn = insn_of(OP_INT, 4);
	insn.imm = 0x80;
	assert_true(does_far(&insn));
	assert_int_equal(get(0x5000 - 32, 8), UCODE32 | 3);
	assert_int_equal(get(0x5000 - 40, 8), 0x1002);
	assert_true(tcg_is_64(c));
}

static void iret_changes_only_the_flags_that_the_ring_may(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	enter_long(3);
	put_iret(0x1000, UCODE | 3, 0x3c7fd7 & ~X86_FLAG_IF, 0x7000, UDATA | 3);
	assert_true(far_op(OP_IRET, 8));
	assert_int_equal(c->rflags & (X86_FLAG_IOPL | X86_FLAG_IF | X86_FLAG_VIF | X86_FLAG_VIP | X86_FLAG_VM), X86_FLAG_IF);
	assert_int_equal(c->rflags & (X86_FLAG_AC | X86_FLAG_ID | X86_FLAG_NT), X86_FLAG_AC | X86_FLAG_ID | X86_FLAG_NT);
	assert_false(far_op(OP_IRET, 8)); /* NT now */
	assert_exception(X86_GP, 0);
}

/* ---- far calls and returns ---- */

static void a_far_jump_checks_the_code_segment(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	static const struct {
		u16 cs;
		u8 vector;
		u32 error;
	} t[] = {
		{0, X86_GP, 0},
		{UCODE, X86_GP, UCODE},
		{KCODE | 3, X86_GP, KCODE},
		{KDATA, X86_GP, KDATA},
		{BOTH_L_D, X86_GP, BOTH_L_D},
		{ABSENT_CODE, X86_NP, ABSENT_CODE},
		{GDT_END, X86_GP, GDT_END},
		{TSSD, X86_GP, TSSD},
	};
	struct x86_insn insn = insn_of(OP_JMP_FAR_IND, 8);
	insn.mem.disp = 0x9000;
	for (u32 i = 0; i < ARRAY_SIZE(t); i++) {
		put(0x9000, 0x1234, 8);
		put(0x9008, t[i].cs, 2);
		assert_false(does_far(&insn));
		assert_exception(t[i].vector, t[i].error);
	}
	put(0x9008, KCODE32, 2);
	assert_true(does_far(&insn));
	assert_int_equal(c->rip, 0x1234);
	assert_int_equal(c->seg[X86_CS].selector, KCODE32);
	assert_false(tcg_is_64(c));
	/* conforming code keeps CPL */
	enter_long(3);
	put(0x9008, CONFORMING, 2);
	assert_true(does_far(&insn));
	assert_int_equal(c->seg[X86_CS].selector, CONFORMING | 3);
	assert_int_equal(c->cpl, 3);
}

static void a_call_gate_leads_to_the_inner_ring_and_retf_back(void **state)
{
	struct tcg_cpu *c = rig->c;
	struct x86_insn insn = insn_of(OP_CALL_FAR_IND, 8);

	(void)state;
	enter_long(3);
	put(TSS + 4, 0x5008, 8);
	put_desc(GDT, CALLGATE, 0, 0, 0);
	put(GDT + CALLGATE, 0x3456 | (u64)KCODE << 16 | (u64)(12 | A_DPL3 | 0x80) << 40 | (u64)0x12 << 48, 8);
	put(GDT + CALLGATE + 8, 0xffff8000, 8);
	insn.mem.disp = 0x9000;
	put(0x9008, CALLGATE | 3, 2);
	assert_true(does_far(&insn));
	assert_int_equal(c->rip, 0xffff800000123456);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(c->gpr[X86_RSP], 0x5008 - 32);
	assert_int_equal(get(0x5008 - 32, 8), 0x10002);
	assert_int_equal(get(0x5008 - 24, 8), UCODE | 3);
	assert_int_equal(get(0x5008 - 16, 8), 0x8ff8);
	assert_int_equal(get(0x5008 - 8, 8), UDATA | 3);
	assert_true(far_op(OP_RETF, 8));
	assert_int_equal(c->rip, 0x10002);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->gpr[X86_RSP], 0x8ff8);
	put(GDT + CALLGATE + 8, 0x100ffff8000, 8); /* type bits of the upper half */
	assert_false(does_far(&insn));
	assert_exception(X86_GP, CALLGATE);
	put(GDT + CALLGATE + 8, 0xffff8000, 8);
	put(GDT + CALLGATE + 5, 12 | 0x80, 1); /* DPL 0 */
	put(0x9008, CALLGATE, 2);
	assert_false(does_far(&insn));
	assert_exception(X86_GP, CALLGATE);
}

static void retf_releases_its_operand_from_both_stacks(void **state)
{
	struct tcg_cpu *c = rig->c;
	struct x86_insn insn = insn_of(OP_RETF, 8);

	(void)state;
	insn.imm_size = 2;
	insn.imm = 0x10;
	c->gpr[X86_RSP] = 0x8000;
	put(0x8000, 0x1234, 8);
	put(0x8008, UCODE | 3, 8);
	put(0x8020, 0x7000, 8);
	put(0x8028, UDATA | 3, 8);
	assert_true(does_far(&insn));
	assert_int_equal(c->gpr[X86_RSP], 0x7010);
	assert_int_equal(c->cpl, 3);
}

/* ---- SYSCALL and its kin ---- */

static void syscall_and_sysret(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	enter_long(3);
	c->star = (u64)KCODE << 32 | (u64)(UCODE32 | 3) << 48;
	c->lstar = 0xffff800000001000;
	c->sfmask = X86_FLAG_IF | X86_FLAG_TF | X86_FLAG_AC;
	c->rflags |= X86_FLAG_RF | X86_FLAG_CF | X86_FLAG_AC;
	assert_true(far_op(OP_SYSCALL, 4));
	assert_int_equal(c->rip, 0xffff800000001000);
	assert_int_equal(c->gpr[X86_RCX], 0x10002);
	assert_int_equal(c->gpr[11], 2 | X86_FLAG_IF | X86_FLAG_CF | X86_FLAG_AC);
	assert_int_equal(c->rflags, 2 | X86_FLAG_CF);
	assert_int_equal(c->seg[X86_CS].selector, KCODE);
	assert_int_equal(c->seg[X86_SS].selector, KDATA);
	assert_int_equal(c->seg[X86_CS].attr, A_CODE64);
	assert_int_equal(c->cpl, 0);
	assert_true(far_op(OP_SYSRET, 8));
	assert_int_equal(c->rip, 0x10002);
	assert_int_equal(c->seg[X86_CS].selector, UCODE | 3);
	assert_int_equal(c->seg[X86_SS].selector, UDATA | 3);
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->rflags, 2 | X86_FLAG_IF | X86_FLAG_CF | X86_FLAG_AC);
	assert_int_equal(rig->requests, TCG_REQ_SHOOT);
	assert_false(far_op(OP_SYSRET, 8));
	assert_exception(X86_GP, 0);
	enter_long(0);
	c->gpr[X86_RCX] = 0x800000000000;
	assert_false(far_op(OP_SYSRET, 8));
	assert_exception(X86_GP, 0);
	assert_int_equal(c->cpl, 0);
	assert_true(far_op(OP_SYSRET, 4));
	assert_int_equal(c->rip, 0);
	assert_int_equal(c->seg[X86_CS].selector, UCODE32 | 3);
	assert_false(tcg_is_64(c));
	assert_false(far_op(OP_SYSCALL, 4)); /* from compatibility mode: not on Intel */
	assert_exception(X86_UD, 0);
	enter_long(3);
	c->efer &= ~X86_EFER_SCE;
	assert_false(far_op(OP_SYSCALL, 4));
	assert_exception(X86_UD, 0);
}

static void sysenter_and_sysexit(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	enter_long(3);
	assert_false(far_op(OP_SYSENTER, 4));
	assert_exception(X86_GP, 0);
	c->sysenter_cs = KCODE;
	c->sysenter_esp = 0xffff800000002000;
	c->sysenter_eip = 0xffff800000003000;
	assert_true(far_op(OP_SYSENTER, 4));
	assert_int_equal(c->rip, 0xffff800000003000);
	assert_int_equal(c->gpr[X86_RSP], 0xffff800000002000);
	assert_int_equal(c->rflags & X86_FLAG_IF, 0);
	assert_int_equal(c->seg[X86_SS].selector, KCODE + 8);
	c->gpr[X86_RCX] = 0xf00007000;
	c->gpr[X86_RDX] = 0x9000;
	assert_true(far_op(OP_SYSEXIT, 4));
	assert_int_equal(c->gpr[X86_RSP], 0x7000);
	assert_int_equal(c->seg[X86_CS].selector, (KCODE + 16) | 3);
	assert_false(tcg_is_64(c));
	enter_long(0);
	c->gpr[X86_RCX] = 0x800000000000;
	assert_false(far_op(OP_SYSEXIT, 8));
	assert_exception(X86_GP, 0);
}

/* ---- segment loads ---- */

static void segment_loads_are_checked(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	static const struct {
		u32 cpl, seg, selector;
		s32 vector; /* -1: fine */
		u32 error;
	} t[] = {
		{0, X86_DS, 0, -1, 0},
		{0, X86_DS, 3, -1, 0},
		{0, X86_SS, 0, -1, 0},
		{0, X86_SS, 3, X86_GP, 0},
		{3, X86_SS, 3, X86_GP, 0},
		{0, X86_DS, KDATA, -1, 0},
		{3, X86_DS, KDATA, X86_GP, KDATA},
		{3, X86_DS, UDATA, -1, 0},
		{0, X86_DS, KDATA | 3, X86_GP, KDATA},
		{0, X86_DS, UDATA | 3, -1, 0},
		{0, X86_SS, UDATA | 3, X86_GP, UDATA},
		{0, X86_SS, UDATA, X86_GP, UDATA},
		{3, X86_SS, UDATA | 3, -1, 0},
		{0, X86_SS, READONLY, X86_GP, READONLY},
		{0, X86_DS, READONLY, -1, 0},
		{0, X86_DS, EXECONLY, X86_GP, EXECONLY},
		{0, X86_DS, KCODE, -1, 0},
		{3, X86_FS, CONFORMING, -1, 0},
		{0, X86_DS, TSSD, X86_GP, TSSD},
		{0, X86_DS, ABSENT_DATA, X86_NP, ABSENT_DATA},
		{0, X86_SS, ABSENT_DATA, X86_SS_EXC, ABSENT_DATA},
		{0, X86_DS, GDT_END, X86_GP, GDT_END},
		{0, X86_DS, 4, X86_GP, 4}, /* there is no LDT */
	};
	c->seg[X86_LDTR].attr = X86_SEG_UNUSABLE;
	for (u32 i = 0; i < ARRAY_SIZE(t); i++) {
		enter_long(t[i].cpl);
		if (does_load_seg(t[i].seg, (u16)t[i].selector)) {
			assert_int_equal(t[i].vector, -1);
			assert_int_equal(c->seg[t[i].seg].selector, t[i].selector);
		} else {
			assert_exception(t[i].vector, t[i].error);
		}
	}
}

static void a_load_reads_the_descriptor_and_sets_its_accessed_bit(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	c->seg[X86_GS].base = 0xffff800000000000;
	assert_true(does_load_seg(X86_GS, FRESH_DATA));
	assert_int_equal(c->seg[X86_GS].base, 0x12345678);
	assert_int_equal(c->seg[X86_GS].limit, 0x1ff);
	assert_int_equal(c->seg[X86_GS].attr, 0x93);
	assert_int_equal(get(GDT + FRESH_DATA + 5, 1), 0x93);
	assert_true(does_load_seg(X86_GS, 0));
	assert_int_equal(c->seg[X86_GS].base, 0);
	put_desc(GDT, FRESH_DATA, 0, 0, 0x92);
	rig->bad_page = GDT >> 12;
	assert_false(does_load_seg(X86_GS, FRESH_DATA));
	assert_exception(X86_PF, PF_W);
	assert_int_equal(c->seg[X86_GS].selector, 0);
	assert_int_equal(rig->last_mode, TCG_KERNEL);
}

static void only_mov_and_pop_to_ss_delay_interrupts(void **state)
{
	struct tcg_cpu *c = rig->c;
	struct x86_insn mov = insn_of(OP_MOV_TO_SREG, 2), pop = insn_of(OP_POP_SREG, 4), lss = insn_of(OP_LOAD_FAR, 4);

	(void)state;
	enter_32(0);
	mov.sreg = pop.sreg = lss.sreg = X86_SS;
	mov.mod = 3;
	mov.rm = X86_RBX;
	c->gpr[X86_RBX] = KDATA;
	assert_true(does_system(&mov));
	assert_int_equal(c->shadow, 2);
	c->shadow = 0;
	put(c->gpr[X86_RSP], KDATA, 4);
	assert_true(does_far(&pop));
	assert_int_equal(c->gpr[X86_RSP], 0x8ffc);
	assert_int_equal(c->shadow, 2);
	c->shadow = 0;
	lss.mem.disp = 0x9000;
	lss.reg = X86_RSP;
	put(0x9000, 0x7000, 4);
	put(0x9004, KDATA, 2);
	assert_true(does_system(&lss));
	assert_int_equal(c->gpr[X86_RSP], 0x7000);
	assert_int_equal(c->shadow, 0);
	put(0x7000, UDATA, 4);
	assert_false(does_far(&pop));
	assert_int_equal(c->gpr[X86_RSP], 0x7000); /* the stack pointer moves after the load */
}

/* ---- 32-bit protected and real mode ---- */

static void put_tss32(u32 esp0)
{
	put(TSS + 4, esp0, 4);
	put(TSS + 8, KDATA, 2);
}

static void a_32_bit_gate_changes_stacks(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	enter_32(3);
	put_tss32(0x5000);
	put_gate32(13, KCODE32, 0x123456, 14, 0);
	assert_true(deliver(13, true, 0x77));
	assert_int_equal(c->gpr[X86_RSP], 0x5000 - 24);
	assert_int_equal(get(0x5000 - 24, 4), 0x77);
	assert_int_equal(get(0x5000 - 20, 4), 0x10000);
	assert_int_equal(get(0x5000 - 4, 4), UDATA | 3);
	assert_int_equal(c->rip, 0x123456);
	assert_int_equal(c->seg[X86_SS].selector, KDATA);
	c->gpr[X86_RSP] += 4;
	assert_true(far_op(OP_IRET, 4));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->gpr[X86_RSP], 0x8ff8);
	put(TSS + 8, UDATA, 2);
	assert_false(deliver(13, true, 0));
	assert_exception(X86_TS, UDATA);
	c->delivering = false;
	put(TSS + 8, ABSENT_DATA, 2);
	assert_false(deliver(13, true, 0));
	assert_exception(X86_SS_EXC, ABSENT_DATA);
	c->delivering = false;
	put_gate32(13, KCODE32, 0x123456, 5, 0); /* task gates are not there */
	assert_false(deliver(13, true, 0));
	assert_exception(X86_GP, 13 * 8 + 2);
}

static void the_stack_limit_holds_in_32_bit_mode(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	enter_32(0);
	put_gate32(6, KCODE32, 0x1000, 14, 0);
	c->seg[X86_SS].limit = 0x8ff0;
	assert_false(deliver(6, false, 0));
	assert_exception(X86_SS_EXC, 0);
	c->delivering = false;
	c->seg[X86_SS].attr |= 4; /* grows down: good above the limit only */
	assert_false(deliver(6, false, 0));
	assert_exception(X86_SS_EXC, 0);
	c->delivering = false;
	c->seg[X86_SS].limit = 0x7fff;
	c->gpr[X86_RSP] = 0x9000;
	assert_true(deliver(6, false, 0));
}

static void virtual_8086_mode_is_entered_and_left(void **state)
{
	struct tcg_cpu *c = rig->c;
	const u32 frame[] = {0x100, 0x2000, 0x202 | X86_FLAG_VM, 0xfff0, 0x3000, 0x4000, 0x5000, 0x6000, 0x7000};

	(void)state;
	enter_32(0);
	c->gpr[X86_RSP] = 0x8000;
	memcpy(rig->ram + 0x8000, frame, sizeof(frame));
	assert_true(far_op(OP_IRET, 4));
	assert_int_equal(c->cpl, 3);
	assert_int_equal(c->seg[X86_CS].base, 0x20000);
	assert_int_equal(c->seg[X86_SS].base, 0x30000);
	assert_int_equal(c->seg[X86_GS].selector, 0x7000);
	assert_int_equal(c->gpr[X86_RSP], 0xfff0);
	put_tss32(0x5000);
	put_gate32(13, KCODE32, 0x1000, 14, 0);
	struct x86_insn insn = insn_of(OP_INT, 2);
	insn.imm = 0x21;
	assert_false(does_far(&insn)); /* IOPL < 3 */
	assert_exception(X86_GP, 0);
	sys_deliver(c);
	assert_int_equal(c->rflags & X86_FLAG_VM, 0);
	assert_int_equal(c->cpl, 0);
	assert_int_equal(get(0x5000 - 4, 4), 0x7000);
	assert_int_equal(get(0x5000 - 20, 4), 0x3000);
	assert_int_equal(c->gpr[X86_RSP], 0x5000 - 40);
	assert_int_equal(c->seg[X86_DS].attr, X86_SEG_UNUSABLE);
}

static void real_mode_has_a_vector_table_of_far_pointers(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	enter_real();
	c->rflags |= X86_FLAG_IF | X86_FLAG_CF;
	put(IDT + 0x21 * 4, 0x20001234, 4);
	sys_interrupt(c, 0x21);
	assert_int_equal(c->seg[X86_CS].base, 0x20000);
	assert_int_equal(c->rip, 0x1234);
	assert_int_equal(c->gpr[X86_RSP], 0xffa);
	assert_int_equal(get(0xffa, 2), 0x100);
	assert_int_equal(get(0xffc, 2), 0x1000);
	assert_int_equal(get(0xffe, 2), 0x203);
	assert_int_equal(c->rflags, 3);
	assert_true(far_op(OP_IRET, 2));
	assert_int_equal(c->rip, 0x100);
	assert_int_equal(c->rflags, 0x203);
	c->idt.limit = 0x21 * 4 + 2;
	if (!setjmp(rig->env))
		sys_interrupt(c, 0x21);
	assert_int_equal(c->exc.vector, X86_GP);
	c->delivering = false;
	assert_true(does_load_seg(X86_DS, 0x1234));
	assert_int_equal(c->seg[X86_DS].base, 0x12340);
	assert_int_equal(c->seg[X86_DS].limit, 0xffff);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(an_exception_leaves_its_frame_on_the_aligned_stack, setup, teardown),
		cmocka_unit_test_setup_teardown(an_exception_in_ring_3_takes_its_stack_from_the_tss, setup, teardown),
		cmocka_unit_test_setup_teardown(the_ist_is_taken_at_any_privilege_level, setup, teardown),
		cmocka_unit_test_setup_teardown(a_software_interrupt_needs_the_gates_privilege, setup, teardown),
		cmocka_unit_test_setup_teardown(a_fault_on_the_way_to_a_handler_has_the_external_bit, setup, teardown),
		cmocka_unit_test_setup_teardown(a_full_stack_is_reported_at_the_word_that_is_pushed_first, setup, teardown),
		cmocka_unit_test_setup_teardown(gates_are_checked_in_order, setup, teardown),
		cmocka_unit_test_setup_teardown(two_faults_make_a_double_fault_by_the_table, setup, teardown),
		cmocka_unit_test_setup_teardown(a_fault_in_a_double_fault_shuts_down, setup, teardown),
		cmocka_unit_test_setup_teardown(page_faults_and_debug_traps_leave_their_addresses, setup, teardown),
		cmocka_unit_test_setup_teardown(only_contributory_faults_and_page_faults_end_a_double_fault, setup, teardown),
		cmocka_unit_test_setup_teardown(a_pending_software_interrupt_returns_behind_its_instruction, setup, teardown),
		cmocka_unit_test_setup_teardown(iret_never_goes_inwards, setup, teardown),
		cmocka_unit_test_setup_teardown(an_event_survives_a_restart_of_its_delivery, setup, teardown),
		cmocka_unit_test_setup_teardown(an_nmi_masks_others_until_iret, setup, teardown),
		cmocka_unit_test_setup_teardown(iret_goes_to_ring_3_and_drops_inner_segments, setup, teardown),
		cmocka_unit_test_setup_teardown(iret_checks_what_it_returns_to, setup, teardown),
		cmocka_unit_test_setup_teardown(iret_takes_a_null_stack_segment_in_64_bit_ring_0, setup, teardown),
		cmocka_unit_test_setup_teardown(iret_reaches_compatibility_mode, setup, teardown),
		cmocka_unit_test_setup_teardown(iret_changes_only_the_flags_that_the_ring_may, setup, teardown),
		cmocka_unit_test_setup_teardown(a_far_jump_checks_the_code_segment, setup, teardown),
		cmocka_unit_test_setup_teardown(a_call_gate_leads_to_the_inner_ring_and_retf_back, setup, teardown),
		cmocka_unit_test_setup_teardown(retf_releases_its_operand_from_both_stacks, setup, teardown),
		cmocka_unit_test_setup_teardown(syscall_and_sysret, setup, teardown),
		cmocka_unit_test_setup_teardown(sysenter_and_sysexit, setup, teardown),
		cmocka_unit_test_setup_teardown(segment_loads_are_checked, setup, teardown),
		cmocka_unit_test_setup_teardown(a_load_reads_the_descriptor_and_sets_its_accessed_bit, setup, teardown),
		cmocka_unit_test_setup_teardown(only_mov_and_pop_to_ss_delay_interrupts, setup, teardown),
		cmocka_unit_test_setup_teardown(a_32_bit_gate_changes_stacks, setup, teardown),
		cmocka_unit_test_setup_teardown(the_stack_limit_holds_in_32_bit_mode, setup, teardown),
		cmocka_unit_test_setup_teardown(virtual_8086_mode_is_entered_and_left, setup, teardown),
		cmocka_unit_test_setup_teardown(real_mode_has_a_vector_table_of_far_pointers, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
