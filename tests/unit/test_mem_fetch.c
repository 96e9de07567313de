/* test_mem_fetch.c: guests under the software accelerator, and husk itself, whose memory comes page by page without userfaultfd. */
#define BARE_ACCEL tcg_accel_ops
#include "bare.h"

#include "fetch_peer.h"

#include "tcg/tcg.h"

/* isa/fetch.S */
#define TABLES	 0x180000ull
#define DATA	 0x200000ull
#define DATA_END 0x300000ull
#define UNUSED	 0x360000ull /* it never touches these */
#define NR_PAGES (RAM_SIZE / MEM_PAGE_SIZE)
#define PTE_AD	 0x60ull
#define KICK_MS	 1000ull /* a kick ends a wait within 50 ms; this machine may be busy */

/* ---- guests ---- */

static void put64(struct guest *g, u64 gpa, u64 value)
{
	assert_int_equal(mem_write(&g->vm.mem, gpa, &value, sizeof(value)), 0);
}

/* Page tables of 4 KiB pages for the RAM, the other GiB as they are; and what the guest reads. */
static void prepare_fetch(struct guest *g)
{
	u64 x = 88172645463325252ull;

	put64(g, TABLES, TABLES + 0x1003);
	put64(g, TABLES + 0x1000, TABLES + 0x2003);
	for (u64 i = 1; i < 4; i++)
		put64(g, TABLES + 0x1000 + 8 * i, X86_PD_GPA + i * MEM_PAGE_SIZE + 3);
	for (u64 i = 0; i < 2; i++)
		put64(g, TABLES + 0x2000 + 8 * i, TABLES + 0x3003 + i * MEM_PAGE_SIZE);
	for (u64 i = 0; i < NR_PAGES; i++)
		put64(g, TABLES + 0x3000 + 8 * i, i * MEM_PAGE_SIZE + 3);
	for (u64 at = DATA; at < DATA_END; at += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		put64(g, at, x | 1); /* no 32 bits zero: SCAS goes all the way */
	}
}

static struct guest *fetch_guest(void)
{
	struct guest *g = guest_make("fetch", 2, NULL);

	prepare_fetch(g);
	return g;
}

static u64 waits(const struct guest *g)
{
	u64 n = 0;

	for (u32 i = 0; i < g->vm.nr_vcpus; i++)
		n += ((const struct tcg_cpu *)g->vm.vcpus[i].accel)->counters[TCG_C_AWAITED];
	return n;
}

/* All vCPUs to the guest's end. */
static void run_all(struct guest *g)
{
	pthread_t thread;

	if (g->vm.nr_vcpus == 1) {
		assert_int_equal(run(g), VCPU_AGAIN);
		return;
	}
	assert_int_equal(pthread_create(&thread, NULL, run_second, g), 0);
	assert_int_equal(run(g), VCPU_AGAIN);
	g->vm.accel->vcpu_kick(&g->vm.vcpus[1]);
	pthread_join(thread, NULL);
}

static bool is_table(u64 gpa)
{
	return (gpa >= TABLES && gpa < TABLES + 5 * MEM_PAGE_SIZE) || (gpa >= X86_PML4_GPA && gpa < X86_PD_GPA + 4 * MEM_PAGE_SIZE);
}

/* Accessed and dirty bits tell which pages were looked at ahead, too. */
static void expect_same_memory(struct guest *a, struct guest *b)
{
	for (u64 gpa = 0; gpa < RAM_SIZE; gpa += 8) {
		u64 x = ld_le64(mem_ptr(&a->vm.mem, gpa, 8)), y = ld_le64(mem_ptr(&b->vm.mem, gpa, 8));

		if ((x ^ y) & ~(is_table(gpa) ? PTE_AD : 0))
			fail_msg("%#llx: %#llx, not %#llx", (unsigned long long)gpa, (unsigned long long)y, (unsigned long long)x);
	}
}

static void expect_same_registers(struct guest *a, struct guest *b)
{
	assert_memory_equal(pull(a)->gpr, pull(b)->gpr, sizeof(a->vm.vcpus[0].cpu->gpr));
	assert_int_equal(a->vm.vcpus[0].cpu->rip, b->vm.vcpus[0].cpu->rip);
}

/* *state: the guest's name. Its code, tables and stack are missing at the start. */
static void a_guest_runs_the_same_while_its_memory_comes(void **state)
{
	const char *name = *state;
	struct guest *g = guest_make(name, strcmp(name, "secondary") == 0 ? 2 : 1, NULL);
	struct fetch_peer *p = peer_new(&g->vm.mem);

	p->delay_us = 200;
	peer_take_all(p);
	run_all(g);
	check_expectations(g, name);
	assert_true(waits(g) > 3);
	assert_in_range(p->nr_brought, 3, NR_PAGES - 1);
	peer_free(p);
	guest_free(g);
}

/* discard: pages that the guest then finds empty. */
static void compare_two_processors(u32 delay_us, bool discard)
{
	struct guest *there = fetch_guest(), *comes = fetch_guest();
	struct fetch_peer *p = peer_new(&comes->vm.mem);
	struct err e;

	p->delay_us = delay_us;
	peer_take_all(p);
	for (u64 i = 0; discard && i < 32; i++) {
		must(mem_discard(&there->vm.mem, DATA + i * 0x7000, 0x3000, &e), &e);
		must(mem_discard(&comes->vm.mem, DATA + i * 0x7000, 0x3000, &e), &e);
	}
	run_all(there);
	run_all(comes);
	check_expectations(comes, "fetch");
	assert_int_equal(waits(there), 0);
	assert_in_range(waits(comes), 200, 100000);
	assert_int_equal(p->nr_discarded, discard ? 96 : 0);
	assert_non_null(mem_fetch(&comes->vm.mem));
	peer_finish(p);
	assert_null(mem_fetch(&comes->vm.mem));
	expect_same_registers(there, comes);
	expect_same_memory(there, comes);
	peer_free(p);
	guest_free(there);
	guest_free(comes);
}

static void two_processors_compute_the_same_while_memory_comes(void **state)
{
	(void)state;
	compare_two_processors(0, false);
	compare_two_processors(500, false);
}

static void pages_that_were_discarded_while_missing_are_empty(void **state)
{
	(void)state;
	compare_two_processors(100, true);
}

/* What was pulled in the middle of it is pushed into another VM, with the same memory. */
static void a_kick_ends_a_wait_and_the_guest_goes_on(void **state)
{
	struct guest *g = guest_new("memory");
	struct fetch_peer *p = peer_new(&g->vm.mem);
	pthread_t thread;
	u64 start, rip;

	(void)state;
	peer_hold(p, true);
	peer_take_all(p);
	for (u32 i = 0; i < 3; i++) {
		assert_int_equal(pthread_create(&thread, NULL, run_once, g), 0);
		peer_await_waits(p, i + 1);
		start = clock_host_ns();
		g->vm.accel->vcpu_kick(&g->vm.vcpus[0]);
		pthread_join(thread, NULL);
		assert_in_range(clock_host_ns() - start, 0, KICK_MS * NSEC_PER_MSEC);
		assert_int_equal(g->exit, VCPU_AGAIN);
		rip = pull(g)->rip;
		assert_int_equal(rip, ld_le64(g->image)); /* not an instruction: it waits for the first one's page */
	}
	peer_hold(p, false);
	assert_int_equal(run(g), VCPU_AGAIN);
	check_expectations(g, "memory");
	peer_free(p);
	guest_free(g);
}

static void a_vcpu_that_waits_holds_nobody_up(void **state)
{
	struct guest *g = guest_new("dirty");
	struct fetch_peer *p = peer_new(&g->vm.mem);
	u64 bitmap[NR_PAGES / 64] = {0};
	pthread_t thread;
	struct err e;

	(void)state;
	peer_hold(p, true);
	peer_take_all(p);
	assert_int_equal(pthread_create(&thread, NULL, run_to_end, g), 0);
	peer_await_waits(p, 1);
	/* An exclusive section each: they would never come. */
	must(g->vm.accel->dirty_log(&g->vm, true, &e), &e);
	must(g->vm.accel->dirty_get(&g->vm, &g->vm.mem.regions[0], bitmap, &e), &e);
	peer_hold(p, false);
	pthread_join(thread, NULL);
	check_expectations(g, "dirty");
	must(g->vm.accel->dirty_get(&g->vm, &g->vm.mem.regions[0], bitmap, &e), &e);
	assert_true(is_dirty(bitmap, 0x201000) && is_dirty(bitmap, 0x203000) && is_dirty(bitmap, 0x3ff000));
	must(g->vm.accel->dirty_log(&g->vm, false, &e), &e);
	peer_free(p);
	guest_free(g);
}

/* A gate of the table at UNUSED, for a handler in the page after it, which ends the guest. */
static void put_gate(struct guest *g, u32 vector)
{
	static const u8 handler[] = {0xe6, PORT_FINISH, 0xf4}; /* out, hlt */
	u64 to = UNUSED + MEM_PAGE_SIZE;

	assert_int_equal(mem_write(&g->vm.mem, to, handler, sizeof(handler)), 0);
	put64(g, UNUSED + 16ull * vector, (to & 0xffff) | 0x10 << 16 | 0x8e00ull << 32 | (to >> 16 & 0xffff) << 48);
	put64(g, UNUSED + 16ull * vector + 8, 0);
}

/* Delivery has begun and meets a page that is missing; then the state is saved, and loaded again. It is the same interrupt or NMI. */
static void save_in_delivery(bool nmi)
{
	struct guest *g = guest_new("spin");
	struct cpu_state *cpu = pull(g);
	u32 vector = nmi ? 2 : 0x40;
	struct fetch_peer *p;
	pthread_t thread;
	struct err e;

	put_gate(g, vector);
	cpu->idt = (struct x86_dtable){UNUSED, 0xfff};
	cpu->rflags |= 0x200;
	cpu->gpr[X86_RSP] = UNUSED + 4 * MEM_PAGE_SIZE;
	cpu->events.interrupt_injected = !nmi;
	cpu->events.interrupt_vector = nmi ? 0 : (u8)vector;
	cpu->events.nmi_pending = nmi;
	must(g->vm.accel->vcpu_push(&g->vm.vcpus[0], &e), &e);
	p = peer_new(&g->vm.mem);
	peer_hold(p, true);
	peer_take(p, 0, UNUSED / MEM_PAGE_SIZE, 4);
	assert_int_equal(pthread_create(&thread, NULL, run_once, g), 0);
	peer_await_waits(p, 1);
	g->vm.accel->vcpu_kick(&g->vm.vcpus[0]);
	pthread_join(thread, NULL);
	cpu = pull(g);
	assert_int_equal(cpu->events.interrupt_injected, !nmi);
	assert_int_equal(cpu->events.interrupt_vector, nmi ? 0 : vector);
	assert_int_equal(cpu->events.nmi_pending, nmi);
	assert_false(cpu->events.nmi_masked || cpu->events.exception_pending || cpu->events.exception_has_payload);
	must(g->vm.accel->vcpu_push(&g->vm.vcpus[0], &e), &e);
	peer_hold(p, false);
	assert_int_equal(run(g), VCPU_AGAIN);
	cpu = pull(g);
	assert_in_range(cpu->rip, UNUSED + MEM_PAGE_SIZE, UNUSED + MEM_PAGE_SIZE + 3);
	assert_int_equal(cpu->events.nmi_masked, nmi);
	assert_false(cpu->events.interrupt_injected || cpu->events.nmi_pending);
	peer_free(p);
	guest_free(g);
}

static void an_interrupt_whose_table_is_missing_is_saved_as_one(void **state)
{
	(void)state;
	save_in_delivery(false);
	save_in_delivery(true);
}

/* ---- husk's own accesses ---- */

static void husk_waits_for_what_it_reads_and_writes(void **state)
{
	struct guest *g = guest_new("spin");
	struct fetch_peer *p = peer_new(&g->vm.mem);
	struct mem *m = &g->vm.mem;
	u8 want[3 * MEM_PAGE_SIZE], got[3 * MEM_PAGE_SIZE];
	const u8 *at;

	(void)state;
	for (u32 i = 0; i < sizeof(want); i++)
		want[i] = (u8)(i * 7 + i / 256);
	assert_int_equal(mem_write(m, DATA, want, sizeof(want)), 0);
	peer_take_all(p);
	assert_int_equal(mem_read(m, DATA + 5, got, sizeof(got) - 5), 0);
	assert_memory_equal(got, want + 5, sizeof(got) - 5);
	assert_int_equal(p->nr_brought, 3);
	assert_int_equal(p->nr_waits, 1);
	/* What was there around it stays. */
	assert_int_equal(mem_write(m, DATA + 4 * MEM_PAGE_SIZE - 2, want, 4), 0);
	assert_int_equal(p->nr_brought, 5);
	at = mem_ptr(m, DATA + 4 * MEM_PAGE_SIZE - 4, 8);
	assert_memory_equal(at, ((u8[]){0, 0, want[0], want[1], want[2], want[3], 0, 0}), 8);
	/* There already, or nothing: nobody is asked. */
	assert_non_null(mem_ptr(m, DATA, sizeof(want)));
	assert_non_null(mem_ptr(m, DATA_END, 0));
	assert_null(mem_ptr(m, RAM_SIZE - 4, 8));
	assert_int_equal(p->nr_waits, 2);
	assert_non_null(mem_at(m, DATA_END, MEM_PAGE_SIZE));
	assert_int_equal(p->nr_brought, 5);
	peer_finish(p);
	assert_int_equal(mem_read(m, DATA, got, sizeof(got)), 0);
	assert_memory_equal(got, want, sizeof(got));
	peer_free(p);
	guest_free(g);
}

static void *read_all(void *opaque)
{
	struct guest *g = opaque;
	u8 page[MEM_PAGE_SIZE];

	for (u64 gpa = UNUSED; gpa < UNUSED + 128 * MEM_PAGE_SIZE; gpa += MEM_PAGE_SIZE)
		assert_int_equal(mem_read(&g->vm.mem, gpa, page, sizeof(page)), 0);
	return NULL;
}

/* One reads the pages while another gives them back: at last each is empty, whatever came first. */
static void a_discard_beats_a_page_that_is_on_its_way(void **state)
{
	struct guest *g = guest_new("spin");
	struct fetch_peer *p = peer_new(&g->vm.mem);
	pthread_t thread;
	struct err e;

	(void)state;
	memset(mem_ptr(&g->vm.mem, UNUSED, 128 * MEM_PAGE_SIZE), 0x77, 128 * MEM_PAGE_SIZE);
	p->delay_us = 50;
	peer_take_all(p);
	assert_int_equal(pthread_create(&thread, NULL, read_all, g), 0);
	for (u64 i = 0; i < 128; i++) {
		must(mem_discard(&g->vm.mem, UNUSED + (i * 37 % 128) * MEM_PAGE_SIZE, MEM_PAGE_SIZE, &e), &e);
		usleep(i % 4 * 30);
	}
	pthread_join(thread, NULL);
	assert_true(p->nr_discarded > 0);
	for (u64 i = 0; i < 128 * MEM_PAGE_SIZE; i += 8)
		assert_int_equal(ld_le64(mem_ptr(&g->vm.mem, UNUSED + i, 8)), 0);
	peer_free(p);
	guest_free(g);
}

static void the_accelerator_says_that_it_asks(void **state)
{
	(void)state;
	assert_true(tcg_accel_ops.soft_fetch);
}

#define GUEST(name) \
	{ \
		name "_runs_the_same_while_its_memory_comes", a_guest_runs_the_same_while_its_memory_comes, NULL, NULL, (void *)name \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		GUEST("alu"),
		GUEST("flow"),
		GUEST("memory"),
		GUEST("system"),
		GUEST("softint"),
		GUEST("sse"),
		GUEST("unaligned"),
		GUEST("churn"),
		GUEST("pagecross"),
		GUEST("selfmod"),
		GUEST("pio"),
		GUEST("mmio"),
		GUEST("secondary"),
		cmocka_unit_test(two_processors_compute_the_same_while_memory_comes),
		cmocka_unit_test(pages_that_were_discarded_while_missing_are_empty),
		cmocka_unit_test(a_kick_ends_a_wait_and_the_guest_goes_on),
		cmocka_unit_test(a_vcpu_that_waits_holds_nobody_up),
		cmocka_unit_test(an_interrupt_whose_table_is_missing_is_saved_as_one),
		cmocka_unit_test(husk_waits_for_what_it_reads_and_writes),
		cmocka_unit_test(a_discard_beats_a_page_that_is_on_its_way),
		cmocka_unit_test(the_accelerator_says_that_it_asks),
	};
	struct err e;

	if (tcg_accel_ops.probe(&e) < 0)
		return skip_all(&e);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
