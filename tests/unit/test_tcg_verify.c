/* test_tcg_verify.c: the verifier of translated code takes what the translator makes, and refuses what it must never make. */
#include "cm.h"

#include <stdio.h>
#include <string.h>

#include "tcg/x86_64/decode.h"
#include "tcg/x86_64/emit.h"
#include "tcg/x86_64/verify.h"

#define T0 H_R10
#define T1 H_R11
#define T2 H_RCX

/* A code buffer with nothing in it but one unit. */
#define UNIT_AT	   0x1000u
#define UNIT_NR	   7u
#define FIRST_EXIT 40u
static u8 buffer[0x4000];
static struct tcg_code code = {.leave = 0x40,
			       .leave_unit = 0x80,
			       .leave_lookup = 0xc0,
			       .slow_dead = 0x100,
			       .slow_live = 0x140,
			       .callout = 0x180,
			       .transfer = 0x1c0};

struct made {
	struct emit e;
	u8 mode;
	u32 nr_exits;
};

static void begin(struct made *m)
{
	memset(buffer, 0, sizeof(buffer));
	*m = (struct made){.e = {.start = buffer, .p = buffer + UNIT_AT}, .nr_exits = 1};
}

static void leave(struct made *m)
{
	e_mov_imm(&m->e, T0, UNIT_NR);
	e_mov_imm(&m->e, T2, LEAVE_INTERP);
	e_call_off(&m->e, code.leave_unit);
}

static const char *check(const struct made *m)
{
	struct verify *v = verify_new();
	const struct verify_unit u = {.code = &code,
				      .bytes = buffer + UNIT_AT,
				      .at = UNIT_AT,
				      .len = (u32)(m->e.p - (buffer + UNIT_AT)),
				      .mode = m->mode,
				      .unit = UNIT_NR,
				      .exits = FIRST_EXIT,
				      .nr_exits = m->nr_exits};
	u32 where;
	const char *why = verify_unit(v, &u, &where);

	verify_free(v);
	return why;
}

static void expect_good(const struct made *m)
{
	const char *why = check(m);

	if (why)
		fail_msg("refused: %s", why);
}

static void expect_bad(const struct made *m, const char *want)
{
	const char *why = check(m);

	if (!why || !strstr(why, want))
		fail_msg("expected \"...%s...\", found %s", want, why ? why : "nothing");
}

/* ---- what the translator makes: xlate_mem.c ---- */

struct access {
	u32 size;
	bool write, live;
	s32 table; /* 0: the right one of the kernel */
	u32 mask, room;
	bool pair; /* of the address in rbx, for [rbx + T1]; else T0 becomes the host address */
};

/* The check, its slow path behind a jump over it. */
static void emit_check(struct made *m, struct access a)
{
	s32 table = a.table ? a.table : (s32)(a.write ? offsetof(struct tcg_cpu, k_w) : offsetof(struct tcg_cpu, k_r));
	u32 desc = a.size | (u32)a.write << 7 | (a.live ? 0x100u : 0);
	struct emit *e = &m->e;
	u8 *begin = e->p, *slow, *over;
	u32 reg = a.pair ? H_RBX : T0, room = a.room ? a.room : a.size;

	if (!a.pair)
		e_mov(e, T0, H_RAX);
	if (a.live) {
		e_pext(e, T1, reg, EENV(offsetof(struct tcg_cpu, index_mask)));
		e_lea(e, T1, EMEMX(T1, T1, 1, 0));
		e_load(e, T2, EMEMX(H_RSP, T1, 8, table));
		e_lea(e, T2, EMEMX(T2, reg, 1, room - 1));
		e_pext(e, T2, T2, EENV(offsetof(struct tcg_cpu, page_mask)));
		e_jrcxz(e, 5);
		slow = e_jmp(e, NULL);
		e_load(e, T1, EMEMX(H_RSP, T1, 8, table + 8));
		if (!a.pair)
			e_lea(e, T0, EMEMX(T0, T1, 1, 0));
	} else {
		e_rorx(e, T1, reg, 8);
		e_alu_imm(e, 0, 4, T1, (s32)(a.mask ? a.mask : (TCG_TLB_SIZE - 1) << 4));
		e_load(e, T2, EMEMX(H_RSP, T1, 1, table));
		e_op_rr(e, 1, 0x01, reg, T2);
		e_alu_imm(e, 1, 7, T2, (s32)(4096 - room));
		slow = e_jcc(e, CC_A, NULL);
		e_op_mem(e, 1, a.pair ? 0x8b : 0x03, a.pair ? T1 : T0, EMEMX(H_RSP, T1, 1, table + 8));
	}
	over = e_jmp(e, NULL);
	e_patch(slow, e->p);
	if (a.pair)
		e_mov(e, T0, reg);
	e_mov_imm(e, T2, desc);
	e_call_off(e, (a.live ? code.slow_live : code.slow_dead));
	e_jmp(e, begin);
	e_patch(over, e->p);
}

static void load(struct made *m, u32 size)
{
	e_op_mem(&m->e, size == 8, 0x8b, H_RDX, EMEM(T0, 0));
}

static void checked_accesses_pass(void **state)
{
	struct made m;

	(void)state;
	for (u32 i = 0; i < 4; i++) {
		begin(&m);
		emit_check(&m, (struct access){.size = 8, .write = i & 1, .live = i & 2});
		load(&m, 8);
		load(&m, 4);
		if (i & 1)
			e_store(&m.e, H_RDX, EMEM(T0, 0));
		emit_check(&m, (struct access){.size = 4, .live = i & 2});
		load(&m, 4);
		leave(&m);
		expect_good(&m);
	}
	for (u32 i = 0; i < 4; i++) {
		begin(&m);
		emit_check(&m, (struct access){.size = 8, .write = i & 1, .live = i & 2, .pair = true});
		e_op_mem(&m.e, 1, i & 1 ? 0x89 : 0x8b, H_RBX, EMEMX(H_RBX, T1, 1, 0));
		leave(&m);
		expect_good(&m);
	}
	begin(&m); /* a group: two accesses under one check */
	emit_check(&m, (struct access){.size = 8, .room = 24, .write = true});
	e_store(&m.e, H_RDX, EMEM(T0, 16));
	e_store(&m.e, H_RDX, EMEM(T0, 8));
	leave(&m);
	expect_good(&m);
	e_store(&m.e, H_RDX, EMEM(T0, 17));
	leave(&m);
	expect_bad(&m, "no check has allowed"); /* behind the end of all ways nothing is known */
}

static void ways_out_pass(void **state)
{
	struct made m;
	u8 *stub;

	(void)state;
	begin(&m);
	e_op_mem(&m.e, 0, 0x80, 7, EENV(offsetof(struct tcg_cpu, poll)));
	e8(&m.e, 0);
	stub = e_jcc(&m.e, CC_NE, NULL);
	e8(&m.e, 0x9c), e8(&m.e, 0x41), e8(&m.e, 0x5b); /* pushf; pop r11 */
	e_mov_imm(&m.e, T0, 0x123456789abc);
	e_mov_imm(&m.e, T2, 3);
	e_call_off(&m.e, code.callout);
	e_mov_imm(&m.e, T2, LEAVE_EXIT | FIRST_EXIT << 8);
	e_call_off(&m.e, code.leave);
	e_patch(stub, m.e.p);
	e_mov(&m.e, T0, H_RAX);
	e_pext(&m.e, T1, T0, EENV(offsetof(struct tcg_cpu, k_jump_mask)));
	e_lea(&m.e, T1, EMEMX(T1, T1, 1, 0));
	e_load(&m.e, T2, EMEMX(H_RSP, T1, 8, offsetof(struct tcg_cpu, k_jump)));
	e_lea(&m.e, T2, EMEMX(T2, T0, 1, 0));
	e_jrcxz(&m.e, 5);
	e_call_off(&m.e, code.leave_lookup);
	e_op_mem(&m.e, 0, 0xff, 4, EMEMX(H_RSP, T1, 8, offsetof(struct tcg_cpu, k_jump) + 8));
	expect_good(&m);
	m.mode = TCG_MODE_USER;
	expect_bad(&m, "another mode");
}

/* ---- what it must never make ---- */

static void unchecked_addresses_are_refused(void **state)
{
	static const struct {
		struct access a;
		u32 load;
		const char *why;
	} cases[] = {
		{{.size = 4}, 8, "more bytes"},
		{{.size = 4, .live = true}, 8, "more bytes"},
		{{.size = 8, .room = 4}, 8, "more bytes"},
		{{.size = 8, .table = 64}, 8, "inside a table"},
		{{.size = 8, .table = offsetof(struct tcg_cpu, k_r) + 4}, 8, "inside a table"},
		{{.size = 8, .mask = (2 * TCG_TLB_SIZE - 1) << 4}, 8, "inside a table"},
		{{.size = 8, .mask = TCG_TLB_SIZE * 16 - 1}, 8, "inside a table"},
		{{.size = 8, .table = TCG_CTX_OFFSET + offsetof(struct tcg_ctx, user_r)}, 8, "another mode"},
		{{.size = 8, .table = offsetof(struct tcg_cpu, k_jump)}, 8, "no check has allowed"},
	};
	struct made m;

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		begin(&m);
		emit_check(&m, cases[i].a);
		load(&m, cases[i].load);
		leave(&m);
		if (!check(&m))
			fail_msg("case %u was taken", i);
		if (i != ARRAY_SIZE(cases) - 1)
			expect_bad(&m, cases[i].why);
	}
}

static void stale_checks_are_refused(void **state)
{
	struct made m;
	u8 *in;

	(void)state;
	for (u32 i = 0; i < 5; i++) {
		begin(&m);
		in = i == 0 ? e_jcc(&m.e, CC_E, NULL) : NULL; /* around the check */
		emit_check(&m, (struct access){.size = 8});
		if (i == 0)
			e_patch(in, m.e.p);
		if (i == 1)
			e_lea(&m.e, T0, EMEM(T0, 8));
		if (i == 2)
			e_mov(&m.e, T0, H_RBX);
		if (i == 3)
			e_store(&m.e, H_RDX, EMEM(T0, 0)); /* read is what was checked */
		if (i == 4)
			e_op_mem(&m.e, 1, 0x8b, H_RDX, EMEMX(T0, H_RBX, 1, 0));
		load(&m, 8);
		leave(&m);
		if (!check(&m))
			fail_msg("case %u was taken", i);
	}
}

static void stale_pairs_are_refused(void **state)
{
	struct made m;
	u8 *in;

	(void)state;
	for (u32 i = 0; i < 8; i++) {
		begin(&m);
		in = i == 0 ? e_jcc(&m.e, CC_E, NULL) : NULL; /* around the check */
		emit_check(&m, (struct access){.size = 8, .write = i == 4, .pair = true});
		if (i == 0)
			e_patch(in, m.e.p);
		if (i == 1)
			e_lea(&m.e, H_RBX, EMEM(H_RBX, 8));
		if (i == 2)
			e_mov(&m.e, T1, H_RDX);
		if (i == 3)
			e_store(&m.e, H_RDX, EMEMX(H_RBX, T1, 1, 0)); /* read is what was checked */
		if (i == 5) {					      /* the address comes back, but to another register */
			e_mov(&m.e, H_RDX, H_RBX);
			load(&m, 8);
		}
		e_op_mem(&m.e, 1, 0x8b, H_RDX, EMEMX(i == 6 ? H_RDX : H_RBX, T1, i == 7 ? 2 : 1, i == 4 ? 8 : 0));
		leave(&m);
		if (!check(&m))
			fail_msg("case %u was taken", i);
	}
}

/* Bytes of one instruction, between a beginning and a good end. */
#define BYTES(...) \
	{ \
		(const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}) \
	}
static const struct {
	const u8 *bytes;
	size_t n;
} refused[] = {
	BYTES(0x0f, 0x05),			   /* syscall */
	BYTES(0x0f, 0x34),			   /* sysenter */
	BYTES(0xcd, 0x80),			   /* int 0x80 */
	BYTES(0xcc),				   /* int3 */
	BYTES(0xf1),				   /* int1 */
	BYTES(0xf4),				   /* hlt */
	BYTES(0xec),				   /* in al, dx */
	BYTES(0xee),				   /* out dx, al */
	BYTES(0xfa),				   /* cli */
	BYTES(0xfd),				   /* std */
	BYTES(0x9d),				   /* popf */
	BYTES(0xc3),				   /* ret */
	BYTES(0xcf),				   /* iret */
	BYTES(0xcb),				   /* retf */
	BYTES(0x0f, 0x01, 0xef),		   /* wrpkru */
	BYTES(0x0f, 0x01, 0xd1),		   /* xsetbv */
	BYTES(0x0f, 0x01, 0xf8),		   /* swapgs */
	BYTES(0xf3, 0x48, 0x0f, 0xae, 0xd0),	   /* wrfsbase rax */
	BYTES(0xf3, 0x48, 0x0f, 0xae, 0xd8),	   /* wrgsbase rax */
	BYTES(0x0f, 0xae, 0x2c, 0x24),		   /* xrstor [rsp] */
	BYTES(0x0f, 0x30),			   /* wrmsr */
	BYTES(0x0f, 0x22, 0xd8),		   /* mov cr3, rax */
	BYTES(0x8e, 0xe0),			   /* mov fs, eax */
	BYTES(0xa4),				   /* movsb */
	BYTES(0xd7),				   /* xlat */
	BYTES(0x66, 0x0f, 0xf7, 0xc1),		   /* maskmovdqu xmm0, xmm1 */
	BYTES(0x66, 0x0f, 0x38, 0xf8, 0x00),	   /* movdir64b rax, [rax] */
	BYTES(0xc4, 0xe2, 0x69, 0x90, 0x04, 0x0a), /* vpgatherdd */
	BYTES(0x50),				   /* push rax */
	BYTES(0x9c),				   /* pushf alone */
	BYTES(0x48, 0x89, 0xc4),		   /* mov rsp, rax */
	BYTES(0x48, 0x83, 0xec, 0x08),		   /* sub rsp, 8 */
	BYTES(0x48, 0x94),			   /* xchg rax, rsp */
	BYTES(0x48, 0x8d, 0x04, 0x24),		   /* lea rax, [rsp] */
	BYTES(0x48, 0x8b, 0x03),		   /* mov rax, [rbx] */
	BYTES(0x49, 0x8b, 0x02),		   /* mov rax, [r10] */
	BYTES(0x48, 0x8b, 0x05, 0, 0, 0, 0),	   /* mov rax, [rip] */
	BYTES(0x65, 0x48, 0x8b, 0x04, 0x24),	   /* mov rax, gs:[rsp] */
	BYTES(0x67, 0x48, 0x8b, 0x04, 0x24),	   /* mov rax, [esp] */
	BYTES(0x48, 0x8b, 0x04, 0x04),		   /* mov rax, [rsp + rax] */
	BYTES(0x48, 0x8b, 0x44, 0x24, 0x80),	   /* mov rax, [rsp - 128] */
	BYTES(0x48, 0x8b, 0x84, 0x24, 0, 0, 0, 1), /* mov rax, [rsp + 16 MiB] */
	BYTES(0xff, 0xe0),			   /* jmp rax */
	BYTES(0xff, 0xd0),			   /* call rax */
	BYTES(0xff, 0x24, 0x24),		   /* jmp [rsp] */
	BYTES(0xeb, 0x01),			   /* jmp into the next instruction */
	BYTES(0xe9, 0, 0x10, 0, 0),		   /* jmp out of the unit */
	BYTES(0xe8, 0, 0, 0, 0),		   /* call the next instruction */
	BYTES(0x0f, 0x0b),			   /* ud2 */
};

static void instructions_that_are_the_hosts_are_refused(void **state)
{
	struct made m;

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(refused); i++) {
		begin(&m);
		e_mov(&m.e, H_RDX, H_RAX);
		memcpy(m.e.p, refused[i].bytes, refused[i].n);
		m.e.p += refused[i].n;
		leave(&m);
		if (!check(&m))
			fail_msg("case %u (%02x %02x) was taken", i, refused[i].bytes[0], refused[i].bytes[1]);
	}
}

static void stores_to_the_vcpus_tables_are_refused(void **state)
{
	static const s32 fields[] = {offsetof(struct tcg_cpu, k_w),  offsetof(struct tcg_cpu, host_rsp),   offsetof(struct tcg_cpu, cpl),
				     offsetof(struct tcg_cpu, mode), offsetof(struct tcg_cpu, rflags) + 1, TCG_CTX_OFFSET};
	struct made m;

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(fields); i++) {
		begin(&m);
		e_store(&m.e, H_RAX, EENV(fields[i]));
		leave(&m);
		expect_bad(&m, "not the guest's");
	}
}

static void unbounded_bit_strings_are_refused(void **state)
{
	struct made m;

	(void)state;
	for (u32 i = 0; i < 2; i++) {
		begin(&m);
		emit_check(&m, (struct access){.size = 8, .write = true});
		if (i)
			e_pext(&m.e, T1, H_RDX, EENV(offsetof(struct tcg_cpu, bits63)));
		e8(&m.e, 0xf0);
		e_op_mem(&m.e, 1, 0x0fab, T1, EMEM(T0, 0)); /* lock bts [T0], T1 */
		leave(&m);
		if (i)
			expect_good(&m);
		else
			expect_bad(&m, "bit offset");
	}
}

static void wrong_ways_out_are_refused(void **state)
{
	struct made m;

	(void)state;
	begin(&m);
	e_mov_imm(&m.e, T2, LEAVE_EXIT | (FIRST_EXIT + 1) << 8);
	e_call_off(&m.e, code.leave);
	expect_bad(&m, "another unit's exit");
	begin(&m);
	e_mov_imm(&m.e, T0, UNIT_NR + 1);
	e_mov_imm(&m.e, T2, LEAVE_INTERP);
	e_call_off(&m.e, code.leave_unit);
	expect_bad(&m, "another unit's name");
	begin(&m);
	e_call_off(&m.e, code.leave);
	expect_bad(&m, "no known reason");
	begin(&m);
	e_mov(&m.e, T2, H_RAX);
	e_call_off(&m.e, code.slow_dead);
	leave(&m);
	expect_bad(&m, "without a description");
	begin(&m);
	e_mov_imm(&m.e, T2, 0x188);
	e_call_off(&m.e, code.slow_dead);
	leave(&m);
	expect_bad(&m, "another kind of access");
	begin(&m);
	e_mov(&m.e, H_RDX, H_RAX);
	expect_bad(&m, "end is open");
	begin(&m);
	e_mov(&m.e, T2, H_RAX);
	e_call_off(&m.e, code.callout);
	leave(&m);
	expect_bad(&m, "without an instruction");
}

/* Through the jump cache with nothing compared, or with another slot than the one that was. */
static void jumps_without_a_hit_are_refused(void **state)
{
	struct made m;

	(void)state;
	for (u32 i = 0; i < 3; i++) {
		begin(&m);
		e_mov(&m.e, T0, H_RAX);
		e_pext(&m.e, T1, T0, EENV(offsetof(struct tcg_cpu, k_jump_mask)));
		e_lea(&m.e, T1, EMEMX(T1, T1, 1, 0));
		e_load(&m.e, T2, EMEMX(H_RSP, T1, 8, offsetof(struct tcg_cpu, k_jump)));
		if (i == 1)
			e_mov(&m.e, T0, H_RBX);
		e_lea(&m.e, T2, EMEMX(T2, T0, 1, 0));
		e_jrcxz(&m.e, i == 0 ? 0 : 5);
		if (i)
			e_call_off(&m.e, code.leave_lookup);
		if (i == 2)
			e_lea(&m.e, T1, EMEMX(T1, T1, 1, 0));
		e_op_mem(&m.e, 0, 0xff, 4, EMEMX(H_RSP, T1, 8, offsetof(struct tcg_cpu, k_jump) + 8));
		if (!check(&m))
			fail_msg("case %u was taken", i);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(checked_accesses_pass),
		cmocka_unit_test(ways_out_pass),
		cmocka_unit_test(unchecked_addresses_are_refused),
		cmocka_unit_test(stale_checks_are_refused),
		cmocka_unit_test(stale_pairs_are_refused),
		cmocka_unit_test(instructions_that_are_the_hosts_are_refused),
		cmocka_unit_test(stores_to_the_vcpus_tables_are_refused),
		cmocka_unit_test(unbounded_bit_strings_are_refused),
		cmocka_unit_test(wrong_ways_out_are_refused),
		cmocka_unit_test(jumps_without_a_hit_are_refused),
	};

	return cmocka_run_group_tests_name("tcg_verify", tests, NULL, NULL);
}
