/* test_tcg_flow.c: the interpreter's stack instructions, near jumps, flags by privilege, traps, shadows and breakpoints. */
#include "tcg_flat.h"

/* ---- flow ---- */

static void calls_and_returns_move_the_stack_last(void **state)
{
	(void)state;
	PUT(0xe8, 0xfb, 0x0f, 0, 0); /* call CODE + 0x1000 */
	R(RSP) = PAGE(6);
	flat.page[5] = FLAT_READONLY;
	assert_true(flat_step());
	assert_fault(X86_PF, PAGE(6) - 8);
	assert_int_equal(R(RSP), PAGE(6));
	flat.page[5] = FLAT_RAM;
	assert_false(flat_step());
	assert_int_equal(RIP, CODE + 0x1000);
	PUT(0xc2, 0x10, 0); /* ret 16 */
	*(u64 *)R(RSP) = 1ull << 50;
	assert_true(flat_step());
	assert_fault(X86_GP, 0);
	assert_int_equal(R(RSP), PAGE(6) - 8);
	*(u64 *)R(RSP) = CODE + 5;
	assert_false(flat_step());
	assert_int_equal(RIP, CODE + 5);
	assert_int_equal(R(RSP), PAGE(6) + 16);
}

static void popf_obeys_cpl_and_iopl(void **state)
{
	const u64 all = X86_FLAG_IF | X86_FLAG_IOPL | X86_FLAG_DF | X86_FLAG_NT | X86_FLAG_VM | X86_FLAG_RF | X86_FLAG_VIF | X86_FLAG_VIP;

	(void)state;
	PUT(0x9d);
	*(u64 *)R(RSP) = all;
	assert_false(flat_step());
	assert_int_equal(flat.c->rflags, 2 | X86_FLAG_IF | X86_FLAG_IOPL | X86_FLAG_DF | X86_FLAG_NT);
	assert_int_equal(flat.requests_seen, 0);
	/* An interrupt that waited for IF. */
	RIP = CODE;
	R(RSP) -= 8;
	flat.c->rflags = 2;
	flat.c->irq_waiting = true;
	assert_false(flat_step());
	assert_int_equal(flat.requests_seen, TCG_REQ_SHOOT);
	/* Ring 3 with IOPL 0: neither IF nor IOPL, without a fault. */
	RIP = CODE;
	R(RSP) -= 8;
	flat.c->cpl = 3;
	flat.c->rflags = 2 | X86_FLAG_IF;
	*(u64 *)R(RSP) = X86_FLAG_IOPL | X86_FLAG_CF;
	assert_false(flat_step());
	assert_int_equal(flat.c->rflags, 2 | X86_FLAG_IF | X86_FLAG_CF);
	/* IOPL 3: IF, but not IOPL. */
	RIP = CODE;
	R(RSP) -= 8;
	flat.c->rflags = 2 | X86_FLAG_IF | X86_FLAG_IOPL;
	*(u64 *)R(RSP) = 0;
	assert_false(flat_step());
	assert_int_equal(flat.c->rflags, 2 | X86_FLAG_IOPL);
	/* A virtual-8086 task without IOPL 3 faults. */
	RIP = CODE;
	flat.c->rflags = 2 | X86_FLAG_VM;
	assert_true(flat_step());
	assert_fault(X86_GP, 0);
}

static void pushf_hides_vm_and_rf(void **state)
{
	(void)state;
	PUT(0x9c);
	flat.c->rflags = 2 | X86_FLAG_RF | X86_FLAG_AC | X86_FLAG_IF;
	assert_false(flat_step());
	assert_int_equal(*(u64 *)R(RSP), 2 | X86_FLAG_AC | X86_FLAG_IF);
	assert_false(flat.c->rflags & X86_FLAG_RF);
}

static void pop_to_memory_that_faults_keeps_rsp(void **state)
{
	(void)state;
	PUT(0x8f, 0x04, 0x24); /* pop [rsp]: the address after the pop */
	R(RSP) = PAGE(5) - 8;
	*(u64 *)R(RSP) = 55;
	flat.page[5] = FLAT_READONLY;
	assert_true(flat_step());
	assert_fault(X86_PF, PAGE(5));
	assert_int_equal(R(RSP), PAGE(5) - 8);
	flat.page[5] = FLAT_RAM;
	assert_false(flat_step());
	assert_int_equal(*(u64 *)PAGE(5), 55);
	assert_int_equal(R(RSP), PAGE(5));
}

static void stacks_of_16_bits_wrap_within_their_segment(void **state)
{
	(void)state;
	flat_reset(32);
	RIP = CODE;
	PUT(0x50, 0x60, 0xc8, 4, 0, 0); /* push eax; pusha; enter 4, 0 */
	flat.c->seg[X86_SS] = (struct x86_seg){.base = PAGE(8), .limit = 0xffff, .attr = 0x93};
	R(RSP) = 0x12340000;
	R(RAX) = 99;
	assert_false(flat_step());
	assert_int_equal(R(RSP), 0x1234fffc);
	assert_int_equal(*(u32 *)(PAGE(8) + 0xfffc), 99);
	assert_false(flat_step());
	assert_int_equal(R(RSP), 0x1234ffdc);
	R(RBP) = 0x55550000;
	assert_false(flat_step());
	assert_int_equal(R(RSP), 0x1234ffd4);
	/* Two bytes below the top: the push would wrap in the middle. */
	RIP = CODE;
	R(RSP) = 2;
	assert_true(flat_step());
	assert_fault(X86_SS_EXC, 0);
	assert_int_equal(R(RSP), 2);
}

/* ---- traps ---- */

static void single_step_traps_after_the_instruction(void **state)
{
	(void)state;
	flat.c->rflags |= X86_FLAG_TF;
	tcg_mode_update(flat.c);
	assert_false(flat_step());
	assert_fault(X86_DB, 0);
	assert_int_equal(flat.c->exc.address, 0x4000);
	assert_int_equal(RIP, CODE + 1);
	/* Each element of a REP string. */
	RIP = CODE;
	PUT(0xf3, 0xaa);
	R(RDI) = PAGE(5);
	R(RCX) = 2;
	assert_false(flat_step());
	assert_fault(X86_DB, 0);
	assert_int_equal(R(RCX), 1);
	assert_int_equal(RIP, CODE);
	assert_false(flat_step());
	assert_int_equal(RIP, CODE + 2);
	/* A POPF that clears TF still traps; one that sets it does not. */
	RIP = CODE;
	PUT(0x9d, 0x9d);
	*(u64 *)R(RSP) = 0;
	*(u64 *)(R(RSP) + 8) = X86_FLAG_TF;
	assert_false(flat_step());
	assert_fault(X86_DB, 0);
	assert_false(flat_step());
	assert_false(flat.c->exc.pending);
	assert_true(flat.c->mode & TCG_MODE_TF);
}

static void iret_neither_traps_nor_loses_rf(void **state)
{
	(void)state;
	PUT(0x48, 0xcf, 0x90);
	assert_false(flat_step());
	assert_false(flat.c->exc.pending);
	assert_true(flat.c->rflags & X86_FLAG_RF);
	assert_false(flat_step());
	assert_fault(X86_DB, 0);
	assert_false(flat.c->rflags & X86_FLAG_RF);
}

static void a_shadow_lasts_for_one_instruction(void **state)
{
	(void)state;
	PUT(0xfb, 0x90, 0x90); /* sti */
	assert_false(flat_step());
	assert_int_equal(flat.c->shadow, 1);
	assert_false(flat_step());
	assert_int_equal(flat.c->shadow, 0);
}

static void mov_ss_puts_the_trap_off(void **state)
{
	(void)state;
	PUT(0x8e, 0xd0, 0x90); /* mov ss, eax */
	flat.c->rflags |= X86_FLAG_TF;
	tcg_mode_update(flat.c);
	assert_false(flat_step());
	assert_false(flat.c->exc.pending);
	assert_false(flat_step());
	assert_fault(X86_DB, 0);
}

static void breakpoints_stop_before_code_and_after_data(void **state)
{
	(void)state;
	PUT(0x90, 0x89, 0x03, 0x8b, 0x03); /* nop; mov [rbx], eax; mov eax, [rbx] */
	R(RBX) = PAGE(5);
	flat.c->dr[1] = CODE;
	flat.c->dr[2] = PAGE(5) + 2;
	flat.c->dr7 = 2 << 2 | 2 << 4 | 5ull << 24; /* G1: execution; G2: writes, two bytes */
	tcg_mode_update(flat.c);
	assert_false(flat_step());
	assert_fault(X86_DB, 0);
	assert_int_equal(flat.c->exc.address, 2);
	assert_int_equal(RIP, CODE);
	flat.c->rflags |= X86_FLAG_RF;
	assert_false(flat_step());
	assert_false(flat.c->exc.pending);
	assert_false(flat.c->rflags & X86_FLAG_RF);
	assert_false(flat_step());
	assert_fault(X86_DB, 0);
	assert_int_equal(flat.c->exc.address, 4);
	assert_int_equal(RIP, CODE + 3);
	assert_false(flat_step()); /* reads do not count */
	assert_false(flat.c->exc.pending);
}

static void division_errors_leave_everything(void **state)
{
	(void)state;
	PUT(0x48, 0xf7, 0xf9); /* idiv rcx */
	R(RAX) = 0;
	R(RDX) = 1ull << 63;
	R(RCX) = ~0ull;
	assert_true(flat_step());
	assert_fault(X86_DE, 0);
	assert_int_equal(R(RDX), 1ull << 63);
	R(RAX) = 1ull << 63;
	R(RDX) = ~0ull;
	assert_true(flat_step()); /* -2^63 / -1 */
	R(RCX) = 1;
	assert_false(flat_step());
	assert_int_equal(R(RAX), 1ull << 63);
	assert_int_equal(R(RDX), 0);
}

#define TEST(f) cmocka_unit_test_setup(f, flat_reset64)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(calls_and_returns_move_the_stack_last),
		TEST(popf_obeys_cpl_and_iopl),
		TEST(pushf_hides_vm_and_rf),
		TEST(pop_to_memory_that_faults_keeps_rsp),
		TEST(stacks_of_16_bits_wrap_within_their_segment),
		TEST(single_step_traps_after_the_instruction),
		TEST(iret_neither_traps_nor_loses_rf),
		TEST(a_shadow_lasts_for_one_instruction),
		TEST(mov_ss_puts_the_trap_off),
		TEST(breakpoints_stop_before_code_and_after_data),
		TEST(division_errors_leave_everything),
	};

	return cmocka_run_group_tests_name("tcg_flow", tests, flat_setup, flat_teardown);
}
