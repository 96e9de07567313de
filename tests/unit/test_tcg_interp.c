/*
 * test_tcg_interp.c: the interpreter and memory: fetches, faults and what they leave behind, segments, locked accesses where the host
 * cannot do them, restartable strings. Stack, jumps and traps: test_tcg_flow.c; what instructions compute: test_tcg_native.c.
 */
#include "tcg_flat.h"

/* ---- fetch ---- */

static void changed_bytes_are_decoded_anew(void **state)
{
	(void)state;
	PUT(0xb8, 1, 0, 0, 0); /* mov eax, 1 */
	assert_false(flat_step());
	assert_int_equal(R(RAX), 1);
	RIP = CODE;
	((u8 *)CODE)[1] = 2;
	assert_false(flat_step());
	assert_int_equal(R(RAX), 2);
	assert_int_equal(RIP, CODE + 5);
}

static void an_instruction_over_a_page_end_needs_both_pages(void **state)
{
	(void)state;
	RIP = PAGE(1) - 2;
	PUT(0xb8, 1, 2, 3, 4);
	flat.page[1] = FLAT_ABSENT;
	assert_true(flat_step());
	assert_fault(X86_PF, PAGE(1));
	assert_int_equal(flat.c->exc.error & PF_I, PF_I);
	assert_int_equal(RIP, PAGE(1) - 2);
	flat.page[1] = FLAT_RAM;
	assert_false(flat_step());
	assert_int_equal(R(RAX), 0x04030201);
	/* Known by now, but the second page went away again. */
	RIP = PAGE(1) - 2;
	flat.page[1] = FLAT_ABSENT;
	assert_true(flat_step());
	assert_fault(X86_PF, PAGE(1));
}

static void an_instruction_that_ends_with_its_page_does_not_touch_the_next(void **state)
{
	(void)state;
	RIP = PAGE(1) - 2;
	PUT(0x31, 0xc0); /* xor eax, eax */
	flat.page[1] = FLAT_ABSENT;
	R(RAX) = 5;
	assert_false(flat_step());
	assert_int_equal(R(RAX), 0);
	assert_true(flat_step());
	assert_fault(X86_PF, PAGE(1));
}

static void code_beyond_the_limit_or_the_canonical_range_is_gp(void **state)
{
	(void)state;
	RIP = 1ull << 47;
	assert_true(flat_step());
	assert_fault(X86_GP, 0);
	flat_reset(32);
	RIP = CODE;
	PUT(0xb8, 1, 0, 0, 0);
	flat.c->seg[X86_CS].limit = (u32)CODE + 3;
	assert_true(flat_step());
	assert_fault(X86_GP, 0);
	flat.c->seg[X86_CS].limit = (u32)CODE + 4;
	assert_false(flat_step());
	assert_true(flat_step());
	assert_fault(X86_GP, 0);
}

static void what_cpuid_does_not_show_is_ud(void **state)
{
	(void)state;
	PUT(0xf3, 0x0f, 0xb8, 0xc1); /* popcnt eax, ecx */
	flat.c->features[FEAT_POPCNT / 64] &= ~BIT(FEAT_POPCNT % 64);
	assert_true(flat_step());
	assert_fault(X86_UD, 0);
	/* lzcnt runs as bsr. */
	PUT(0xf3, 0x0f, 0xbd, 0xc1);
	flat.c->features[FEAT_LZCNT / 64] &= ~BIT(FEAT_LZCNT % 64);
	R(RCX) = 0x100;
	assert_false(flat_step());
	assert_int_equal(R(RAX), 8);
	RIP = CODE;
	PUT(0x0f, 0x0b);
	assert_true(flat_step());
	assert_fault(X86_UD, 0);
}

/* ---- memory ---- */

static void a_fault_leaves_registers_and_flags_alone(void **state)
{
	(void)state;
	PUT(0x01, 0x03); /* add [rbx], eax */
	R(RBX) = PAGE(5) - 2;
	R(RAX) = ~0ull;
	flat.c->rflags = 2 | X86_FLAG_CF;
	flat.page[5] = FLAT_READONLY;
	assert_true(flat_step());
	assert_fault(X86_PF, PAGE(5));
	assert_int_equal(flat.c->exc.error, PF_W | PF_P);
	assert_int_equal(flat.c->rflags, 2 | X86_FLAG_CF);
	assert_int_equal(RIP, CODE);
	/* Compare and exchange, too, wants to write whatever it finds. */
	PUT(0x0f, 0xb1, 0x0b); /* cmpxchg [rbx], ecx */
	assert_true(flat_step());
	assert_int_equal(flat.c->exc.error, PF_W | PF_P);
}

static void locked_accesses_over_pages_and_in_code_pages_are_done_alone(void **state)
{
	(void)state;
	PUT(0xf0, 0x48, 0x0f, 0xc1, 0x03); /* lock xadd [rbx], rax */
	R(RBX) = PAGE(5) - 3;
	R(RAX) = 5;
	memcpy((void *)R(RBX), &(u64){37}, 8);
	assert_false(flat_step());
	assert_int_equal(*(u8 *)R(RBX), 42);
	assert_int_equal(R(RAX), 37);
	assert_int_equal(flat.exclusive, 1);

	RIP = CODE;
	R(RBX) = PAGE(6) + 8;
	flat.page[6] = FLAT_CODE;
	assert_false(flat_step());
	assert_int_equal(flat.exclusive, 2);

	/* Within a page but over a cache line: no bus lock for the host. */
	RIP = CODE;
	R(RBX) = PAGE(7) + 60;
	assert_false(flat_step());
	assert_int_equal(flat.exclusive, 3);

	RIP = CODE;
	R(RBX) = PAGE(7) + 56;
	assert_false(flat_step());
	assert_int_equal(flat.exclusive, 3);
	assert_int_equal(flat.exclusive_ends, 3);
}

static void a_fault_while_alone_ends_the_section(void **state)
{
	(void)state;
	PUT(0xf0, 0x48, 0xff, 0x03); /* lock inc qword [rbx] */
	R(RBX) = PAGE(6);
	flat.page[6] = FLAT_CODE;
	flat.revoke_when_alone = 6;
	assert_true(flat_step());
	assert_fault(X86_PF, PAGE(6));
	assert_int_equal(flat.exclusive, 1);
	assert_int_equal(flat.exclusive_ends, 1);
	/* And the way out is the old one again. */
	assert_true(flat_step());
	assert_int_equal(flat.exclusive_ends, 1);
}

static void cmpxchg_works_alone_as_on_the_host(void **state)
{
	u64 *p = (void *)(PAGE(6) + 16);

	(void)state;
	flat.page[6] = FLAT_CODE;
	PUT(0xf0, 0x48, 0x0f, 0xb1, 0x0b); /* lock cmpxchg [rbx], rcx */
	R(RBX) = (u64)p;
	R(RAX) = *p = 7;
	R(RCX) = 9;
	assert_false(flat_step());
	assert_int_equal(*p, 9);
	assert_true(flat.c->rflags & X86_FLAG_ZF);
	RIP = CODE;
	assert_false(flat_step());
	assert_int_equal(R(RAX), 9);
	assert_false(flat.c->rflags & X86_FLAG_ZF);

	RIP = CODE;
	PUT(0xf0, 0x48, 0x0f, 0xc7, 0x0e); /* lock cmpxchg16b [rsi] */
	R(RSI) = (u64)p;
	R(RDX) = p[1] = 3;
	R(RBX) = 11;
	R(RCX) = 12;
	assert_false(flat_step());
	assert_true(p[0] == 11 && p[1] == 12);
	assert_int_equal(flat.exclusive, 3);
	RIP = CODE;
	R(RSI) += 8;
	assert_true(flat_step());
	assert_fault(X86_GP, 0);
}

static void addresses_that_are_not_canonical_are_gp_or_ss(void **state)
{
	(void)state;
	PUT(0x48, 0x8b, 0x03); /* mov rax, [rbx] */
	R(RBX) = (1ull << 47) - 4;
	assert_true(flat_step());
	assert_fault(X86_GP, 0);
	PUT(0x48, 0x8b, 0x45, 0x00); /* mov rax, [rbp] */
	R(RBP) = 1ull << 63;
	assert_true(flat_step());
	assert_fault(X86_SS_EXC, 0);
}

static void fs_and_gs_have_bases(void **state)
{
	(void)state;
	PUT(0x65, 0x8b, 0x04, 0x25, 8, 0, 0, 0); /* mov eax, gs:8 */
	flat.c->seg[X86_GS].base = PAGE(5);
	*(u32 *)(PAGE(5) + 8) = 1234;
	assert_false(flat_step());
	assert_int_equal(R(RAX), 1234);
}

static void segments_have_limits_and_types(void **state)
{
	struct x86_seg *ds;

	(void)state;
	flat_reset(32);
	ds = &flat.c->seg[X86_DS];
	RIP = CODE;
	PUT(0x89, 0x03); /* mov [ebx], eax */
	R(RBX) = PAGE(5);
	ds->limit = (u32)PAGE(5) + 2;
	assert_true(flat_step());
	assert_fault(X86_GP, 0);
	ds->limit++;
	assert_false(flat_step());
	/* Expand-down: valid above the limit only. */
	RIP = CODE;
	ds->attr |= 4;
	assert_true(flat_step());
	ds->limit = (u32)PAGE(5) - 1;
	assert_false(flat_step());
	RIP = CODE;
	ds->attr = 0x91; /* read-only */
	assert_true(flat_step());
	ds->attr = 0x93 | X86_SEG_UNUSABLE;
	assert_true(flat_step());
	ds->attr = 0x99; /* execute-only code */
	PUT(0x8b, 0x03);
	assert_true(flat_step());
	assert_fault(X86_GP, 0);
}

static void real_mode_wraps_at_64_kib(void **state)
{
	(void)state;
	flat_reset(16);
	RIP = 0x100;
	memcpy((void *)(CODE + 0x100), "\x8a\x40\x10\xab\xeb\xfe", 6); /* mov al, [bx+si+16]; stosw; jmp $ */
	R(RBX) = 0xfff0;
	R(RSI) = 0x2004;
	*(u8 *)PAGE(2) = 0; /* 0xfff0 + 0x2004 + 0x10 = 0x2004 */
	*(u8 *)(PAGE(2) + 4) = 77;
	assert_false(flat_step());
	assert_int_equal(R(RAX), 77);
	R(RDI) = 0xabcdfffe;
	assert_false(flat_step());
	assert_int_equal(R(RDI), 0xabcd0000);
	assert_false(flat_step());
	assert_int_equal(RIP, 0x104);
	/* A word at ffff is beyond the limit. */
	RIP = 0x103;
	R(RDI) = 0xffff;
	assert_true(flat_step());
	assert_fault(X86_GP, 0);
}

/* ---- strings ---- */

static void a_fault_within_rep_leaves_the_element_it_stands_at(void **state)
{
	(void)state;
	PUT(0xf3, 0x48, 0xa5); /* rep movsq */
	R(RSI) = PAGE(5);
	R(RDI) = PAGE(7) - 64;
	R(RCX) = 100;
	for (u32 i = 0; i < 100; i++)
		((u64 *)PAGE(5))[i] = i;
	flat.page[7] = FLAT_READONLY;
	assert_true(flat_step());
	assert_fault(X86_PF, PAGE(7));
	assert_int_equal(flat.c->exc.error & PF_W, PF_W);
	assert_int_equal(R(RCX), 92);
	assert_int_equal(R(RSI), PAGE(5) + 64);
	assert_int_equal(RIP, CODE);
	flat.page[7] = FLAT_RAM;
	assert_false(flat_step());
	assert_int_equal(R(RCX), 0);
	assert_int_equal(((u64 *)(PAGE(7) - 64))[99], 99);
	assert_int_equal(RIP, CODE + 3);
	assert_false(flat.c->rflags & X86_FLAG_RF);
}

static void a_fault_of_rep_going_down_names_the_upper_element(void **state)
{
	(void)state;
	PUT(0xf3, 0xab); /* rep stosd */
	flat.c->rflags |= X86_FLAG_DF;
	R(RDI) = PAGE(6) + 6; /* the third element lies over the page's start */
	R(RCX) = 5;
	R(RAX) = 0x11223344;
	flat.page[5] = FLAT_ABSENT;
	assert_true(flat_step());
	assert_fault(X86_PF, PAGE(6) - 2);
	assert_int_equal(R(RCX), 3);
	assert_int_equal(R(RDI), PAGE(6) - 2);
	flat.page[5] = FLAT_RAM;
	assert_false(flat_step());
	assert_int_equal(R(RDI), PAGE(6) - 14);
	assert_memory_equal((void *)(PAGE(6) - 2), "\x44\x33\x22\x11", 4);
}

static void a_request_stops_rep_between_elements(void **state)
{
	(void)state;
	PUT(0xf3, 0xa4); /* rep movsb */
	R(RSI) = PAGE(5);
	R(RDI) = PAGE(6);
	R(RCX) = 10000;
	flat.c->requests = TCG_REQ_IRQ;
	assert_false(flat_step());
	assert_int_equal(RIP, CODE);
	assert_int_equal(R(RCX), 10000 - 4096);
	assert_int_equal(R(RDI), PAGE(7));
	assert_true(flat.c->rflags & X86_FLAG_RF);
	/* To a page with code it goes byte by byte. */
	flat.c->requests = 0;
	flat.page[7] = FLAT_CODE;
	flat.stop_after = 7;
	assert_false(flat_step());
	assert_int_equal(R(RCX), 10000 - 4096 - 7);
	flat.c->requests = 0;
	assert_false(flat_step());
	assert_int_equal(R(RCX), 0);
	assert_int_equal(RIP, CODE + 2);
	assert_false(flat.c->rflags & X86_FLAG_RF);
	assert_memory_equal((void *)PAGE(5), (void *)PAGE(6), 4096);
}

static void overlapping_operands_smear_over_pages(void **state)
{
	u8 *p = (void *)(PAGE(6) - 40);

	(void)state;
	PUT(0xf3, 0xa4);
	memset(p, 0, 100);
	memcpy(p, "abc", 3);
	R(RSI) = (u64)p;
	R(RDI) = (u64)p + 3;
	R(RCX) = 90;
	assert_false(flat_step());
	for (u32 i = 0; i < 93; i++)
		assert_int_equal(p[i], "abc"[i % 3]);
}

static void scasb_stops_at_the_byte_on_the_next_page(void **state)
{
	(void)state;
	PUT(0xf2, 0xae); /* repne scasb */
	memset((void *)PAGE(5), 1, 2 * MEM_PAGE_SIZE);
	*(u8 *)(PAGE(6) + 3) = 0;
	R(RAX) = 0x100;
	R(RDI) = PAGE(6) - 5;
	R(RCX) = ~0ull;
	assert_false(flat_step());
	assert_int_equal(R(RDI), PAGE(6) + 4);
	assert_int_equal(~R(RCX), 9);
	assert_true(flat.c->rflags & X86_FLAG_ZF);
	assert_int_equal(RIP, CODE + 2);
}

static void devices_are_read_once_for_each_element(void **state)
{
	(void)state;
	PUT(0xf3, 0x66, 0xa5); /* rep movsw */
	flat.page[5] = FLAT_DEVICE;
	flat.page[6] = FLAT_READONLY;
	R(RSI) = PAGE(5);
	R(RDI) = PAGE(6);
	R(RCX) = 4;
	assert_true(flat_step()); /* the destination faults before the device is asked */
	assert_int_equal(flat.device_reads, 0);
	flat.page[6] = FLAT_RAM;
	assert_false(flat_step());
	assert_int_equal(flat.device_reads, 4);
}

static void ins_and_outs_use_the_port_after_the_checks(void **state)
{
	(void)state;
	PUT(0xf3, 0x6c, 0xf3, 0x6f); /* rep insb; rep outsd */
	flat.pio_in = 7;
	flat.page[5] = FLAT_READONLY;
	R(RDI) = PAGE(5) - 2;
	R(RCX) = 4;
	assert_true(flat_step());
	assert_fault(X86_PF, PAGE(5));
	assert_int_equal(R(RCX), 2);
	assert_int_equal(flat.pio_in, 9);
	flat.page[5] = FLAT_RAM;
	assert_false(flat_step());
	assert_memory_equal((void *)(PAGE(5) - 2), "\7\10\11\12", 4);
	R(RSI) = PAGE(5) - 2;
	R(RCX) = 1;
	flat.io_denied = true;
	assert_true(flat_step());
	assert_fault(X86_GP, 0);
	flat.io_denied = false;
	assert_false(flat_step());
	assert_int_equal(flat.nr_out, 1);
	assert_int_equal(flat.pio_out[0], 0x0a090807);
}

static void strings_honour_overrides_and_limits(void **state)
{
	(void)state;
	flat_reset(32);
	RIP = CODE;
	PUT(0x64, 0xf3, 0xa4); /* rep movsb fs: */
	flat.c->seg[X86_FS].base = PAGE(6);
	flat.c->seg[X86_FS].limit = 9;
	memcpy((void *)PAGE(6), "0123456789", 10);
	R(RSI) = 0;
	R(RDI) = PAGE(5);
	R(RCX) = 20;
	assert_true(flat_step());
	assert_fault(X86_GP, 0);
	assert_int_equal(R(RCX), 10);
	assert_int_equal(R(RSI), 10);
	assert_memory_equal((void *)PAGE(5), "0123456789", 10);
}

#define TEST(f) cmocka_unit_test_setup(f, flat_reset64)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(changed_bytes_are_decoded_anew),
		TEST(an_instruction_over_a_page_end_needs_both_pages),
		TEST(an_instruction_that_ends_with_its_page_does_not_touch_the_next),
		TEST(code_beyond_the_limit_or_the_canonical_range_is_gp),
		TEST(what_cpuid_does_not_show_is_ud),
		TEST(a_fault_leaves_registers_and_flags_alone),
		TEST(locked_accesses_over_pages_and_in_code_pages_are_done_alone),
		TEST(a_fault_while_alone_ends_the_section),
		TEST(cmpxchg_works_alone_as_on_the_host),
		TEST(addresses_that_are_not_canonical_are_gp_or_ss),
		TEST(fs_and_gs_have_bases),
		TEST(segments_have_limits_and_types),
		TEST(real_mode_wraps_at_64_kib),
		TEST(a_fault_within_rep_leaves_the_element_it_stands_at),
		TEST(a_fault_of_rep_going_down_names_the_upper_element),
		TEST(a_request_stops_rep_between_elements),
		TEST(overlapping_operands_smear_over_pages),
		TEST(scasb_stops_at_the_byte_on_the_next_page),
		TEST(devices_are_read_once_for_each_element),
		TEST(ins_and_outs_use_the_port_after_the_checks),
		TEST(strings_honour_overrides_and_limits),
	};

	return cmocka_run_group_tests_name("tcg_interp", tests, flat_setup, flat_teardown);
}
