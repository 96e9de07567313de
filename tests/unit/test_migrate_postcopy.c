/*
 * test_migrate_postcopy.c: a guest that writes all the time moves between VMs of this process, and its memory follows it; connections are
 * cut wherever chance has it. HUSK_CUTS: how many times (20).
 */
#include "huge_pages.h"
#include "move_vm.h"

#include "migration/uffd.h"

static struct move_dir dir;

struct order {
	struct loop_work work;
	struct source *source;
	struct source_params params;
	struct err e;
	int ret;
	bool done; /* atomic */
};

static void begin_now(struct loop_work *w)
{
	struct order *o = container_of(w, struct order, work);

	o->ret = source_begin(o->source, &o->params, &o->e);
	__atomic_store_n(&o->done, true, __ATOMIC_RELEASE);
}

static int begin(struct mover *src, struct mover *dst, const struct source_params *p)
{
	struct order o = {.work.run = begin_now, .source = src->source, .params = *p};

	snprintf(o.params.address, sizeof(o.params.address), "%s", dest_address(dst->dest));
	loop_post(&src->vm.loop, &o.work);
	while (!__atomic_load_n(&o.done, __ATOMIC_ACQUIRE))
		usleep(100);
	if (o.ret < 0)
		print_message("# %s\n", o.e.msg);
	return o.ret;
}

static struct migrate_status *status_of(struct mover *src)
{
	static struct migrate_status s;

	source_status(src->source, &s);
	return &s;
}

/* Until it comes to rest: COMPLETED, PAUSED, FAILED or CANCELLED. */
static enum migrate_phase outcome(struct mover *src)
{
	for (u32 i = 0; i < 60000; i++) {
		enum migrate_phase p = status_of(src)->phase;

		if (p == MIGRATE_PAUSED || p >= MIGRATE_COMPLETED)
			return p;
		usleep(500);
	}
	fail_msg("it does not come to an end: %s", migrate_phase_name(status_of(src)->phase));
	return MIGRATE_NONE;
}

/* The guest runs there, and has found each page as it left it. */
static void check_guest(struct mover *m)
{
	u64 passes = move_word(m, MOVE_STATUS), mistakes;

	for (u32 i = 0; i < 40000 && move_word(m, MOVE_STATUS) < passes + 2 && !move_word(m, MOVE_STATUS + 8); i++)
		usleep(500);
	mistakes = move_word(m, MOVE_STATUS + 8);
	if (mistakes)
		fail_msg("%llu mistakes: page at 0x%llx in pass %llu", (unsigned long long)mistakes,
			 (unsigned long long)move_word(m, MOVE_STATUS + 16), (unsigned long long)move_word(m, MOVE_STATUS + 24));
	assert_true(move_word(m, MOVE_STATUS) >= passes + 2);
}

static void check_moved(struct mover *src, struct mover *dst)
{
	struct migrate_status *s = status_of(src);

	if (s->phase != MIGRATE_COMPLETED)
		fail_msg("it is %s: %s", migrate_phase_name(s->phase), s->error);
	assert_int_equal(s->different_pages, 0);
	/* Cut off behind the last page, it is complete without. */
	assert_true(s->verified_pages > MOVE_PAGES || s->recoveries || s->mode == MIGRATE_MODE_LOCAL);
	mover_join(src);
	assert_int_equal(src->end, VM_END_MOVED);
	assert_true(move_until_phase(dst, MIGRATE_COMPLETED));
	check_guest(dst);
	assert_false(dst->vm.mem.lazy);
	assert_null(dst->vm.mem.fetch);
}

/* Its thread may need a moment from "paused" on until it takes orders. */
static void recover(struct mover *src)
{
	struct err e;

	for (u32 i = 0; source_recover(src->source, NULL, &e) < 0; i++) {
		if (i == 1000)
			fail_msg("%s", e.msg);
		usleep(1000);
	}
	for (u32 i = 0; i < 1000 && status_of(src)->phase == MIGRATE_PAUSED; i++)
		usleep(200);
}

/* ---- rigs ---- */

/* Memory page by page: tcg does that itself, KVM's needs the kernel to allow it. */
static bool possible(const char *accel)
{
	struct err e;
	int fd;

	if (!strcmp(accel, "tcg"))
		return true;
	if (access("/dev/kvm", R_OK | W_OK) < 0)
		return false;
	fd = uffd_open(&e);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

static void boot(struct mover *m, const char *accel)
{
	mover_boot(m, &dir, accel, 1, ",\"balloon\":{\"amount_mib\":0,\"deflate_on_oom\":true}");
	move_accel = accel;
	mover_run(m);
	check_guest(m);
	print_message("# under %s\n", accel);
}

static void receive(struct mover *m)
{
	mover_receive(m, &dir, &(struct dest_params){.patience_ms = 5000});
}

/* The VM in dst is the next one to leave. */
static void pass_on(struct mover **src, struct mover **dst)
{
	struct mover *was = *src;

	mover_fini(was);
	*src = *dst;
	*dst = was;
}

static const char *const accels[] = {"tcg", "kvm"};
static const struct source_params fast = {.nr_bulk = 2, .verify = true, .patience_ms = 5000, .max_downtime_ns = NSEC_PER_SEC};

static void a_guest_goes_on_in_each_mode(void **state)
{
	static const enum migrate_mode modes[] = {MIGRATE_MODE_POSTCOPY, MIGRATE_MODE_HYBRID, MIGRATE_MODE_PRECOPY, MIGRATE_MODE_POSTCOPY};
	struct mover two[2], *src = &two[0], *dst = &two[1];

	(void)state;
	for (u32 a = 0; a < ARRAY_SIZE(accels); a++) {
		if (!possible(accels[a]))
			continue;
		boot(src, accels[a]);
		for (u32 i = 0; i < ARRAY_SIZE(modes); i++) {
			struct source_params p = fast;

			p.mode = modes[i];
			p.nr_bulk = i + 1;
			p.compress = i % 2;
			p.bandwidth = modes[i] == MIGRATE_MODE_POSTCOPY ? 4 * MIB : 0; /* so that the guest has to ask */
			receive(dst);
			assert_int_equal(begin(src, dst, &p), 0);
			outcome(src);
			check_moved(src, dst);
			if (modes[i] == MIGRATE_MODE_POSTCOPY) {
				struct migrate_status *s = move_dest_status(dst);

				assert_true(s->faults > 0 && s->fault_max_ns > 0 && s->fault_total_ns >= s->fault_max_ns);
			}
			pass_on(&src, &dst);
		}
		mover_fini(src);
	}
}

/* Cuts it at these many bytes that are still missing there. */
static void cut_at(struct mover *src, struct mover *dst, u64 remaining, bool here)
{
	struct err e;

	while (status_of(src)->phase != MIGRATE_PAUSED && status_of(src)->phase < MIGRATE_COMPLETED &&
	       (move_dest_status(dst)->phase != MIGRATE_POSTCOPY || move_dest_status(dst)->remaining_bytes > remaining))
		usleep(50);
	/* Who comes too late finds nothing to break. */
	if ((here ? source_break(src->source, &e) : dest_break(dst->dest, &e)) < 0)
		return;
	outcome(src);
}

static u32 nr_cuts(void)
{
	const char *text = getenv("HUSK_CUTS");

	return text ? (u32)strtoul(text, NULL, 10) : 20;
}

/* A cut connection is made again, as often as it takes; no page is lost, and none comes twice. */
static void pages_follow_over_cut_connections(void **state)
{
	struct mover two[2], *src = &two[0], *dst = &two[1];
	unsigned seed = (unsigned)clock_host_ns();

	(void)state;
	print_message("# seed %u\n", seed);
	for (u32 a = 0; a < ARRAY_SIZE(accels); a++) {
		u32 cuts = nr_cuts() / 2;

		if (!possible(accels[a]))
			continue;
		boot(src, accels[a]);
		while (cuts) {
			struct source_params p = fast;
			u64 left = MOVE_PAGES * 4096ull;

			p.mode = rand_r(&seed) % 2 ? MIGRATE_MODE_POSTCOPY : MIGRATE_MODE_HYBRID;
			p.bandwidth = 48 * MIB;
			receive(dst);
			assert_int_equal(begin(src, dst, &p), 0);
			for (u32 i = 0; i < 5 && cuts; i++, cuts--) {
				left -= left * (u64)(rand_r(&seed) % 40) / 100;
				cut_at(src, dst, left, rand_r(&seed) % 2);
				if (status_of(src)->phase != MIGRATE_PAUSED)
					continue;
				assert_true(move_until_phase(dst, MIGRATE_PAUSED) || move_dest_status(dst)->phase == MIGRATE_COMPLETED);
				recover(src);
			}
			outcome(src);
			check_moved(src, dst);
			pass_on(&src, &dst);
		}
		mover_fini(src);
	}
}

/* One of the two goes on by itself, or both wait for a recovery: never none, never both. */
static void a_cut_at_any_time_leaves_one_guest(void **state)
{
	struct mover two[2], *src = &two[0], *dst = &two[1];
	unsigned seed = (unsigned)clock_host_ns();
	u32 failed = 0, moved = 0;
	struct err e;

	(void)state;
	print_message("# seed %u\n", seed);
	boot(src, "tcg");
	for (u32 n = 0; n < nr_cuts(); n++) {
		struct source_params p = fast;
		enum migrate_phase phase;

		p.mode = (enum migrate_mode)(rand_r(&seed) % 4);
		p.verify = p.mode != MIGRATE_MODE_LOCAL;
		receive(dst);
		assert_int_equal(begin(src, dst, &p), 0);
		usleep(rand_r(&seed) % (p.verify ? 60000 : 12000));
		if ((rand_r(&seed) % 2 ? source_break(src->source, &e) : dest_break(dst->dest, &e)) < 0)
			print_message("# %s\n", e.msg);
		phase = outcome(src);
		if (phase == MIGRATE_FAILED) {
			check_guest(src);
			failed++;
			mover_end(dst);
			assert_true(!dst->made || dst->vm.state == VM_ENDED);
			mover_fini(dst);
			continue;
		}
		while (phase == MIGRATE_PAUSED) {
			recover(src);
			phase = outcome(src);
		}
		check_moved(src, dst);
		moved++;
		pass_on(&src, &dst);
	}
	mover_fini(src);
	print_message("# %u stayed, %u moved\n", failed, moved);
}

static void pages_of_2_mib_follow_as_a_whole(void **state)
{
	struct mover two[2], *src = &two[0], *dst = &two[1];

	(void)state;
	move_machine = ",\"huge_pages\":\"2M\"";
	for (u32 a = 0; a < ARRAY_SIZE(accels); a++) {
		if (!possible(accels[a]))
			continue;
		boot(src, accels[a]);
		for (enum migrate_mode mode = MIGRATE_MODE_PRECOPY; mode <= MIGRATE_MODE_HYBRID; mode++) {
			struct source_params p = fast;

			p.mode = mode;
			receive(dst);
			assert_int_equal(begin(src, dst, &p), 0);
			outcome(src);
			if (status_of(src)->phase != MIGRATE_COMPLETED)
				fail_msg("%s", status_of(src)->error);
			mover_join(src);
			assert_true(move_until_phase(dst, MIGRATE_COMPLETED));
			assert_int_equal(move_dest_status(dst)->different_pages, 0);
			check_guest(dst);
			pass_on(&src, &dst);
		}
		mover_fini(src);
	}
	move_machine = "";
}

#define GIVEN	 0x2b00000ull /* 43 MiB: pages that the guest does not touch */
#define NR_GIVEN 768u

static u64 *given(struct mover *m, u32 i)
{
	return (u64 *)(void *)(m->vm.mem.regions[0].hva + GIVEN + i * 4096ull);
}

/* As a balloon does, while they are on their way. Every third page. */
static void discard_some(struct mover *dst)
{
	struct err e;

	while (move_dest_status(dst)->phase != MIGRATE_POSTCOPY)
		usleep(50);
	for (u32 i = 0; i < NR_GIVEN; i += 3)
		assert_int_equal(mem_discard(&dst->vm.mem, GIVEN + i * 4096ull, 4096, &e), 0);
}

static void pages_that_are_given_up_meanwhile_are_zero(void **state)
{
	struct mover src, dst;
	struct source_params p = fast;

	(void)state;
	p.mode = MIGRATE_MODE_POSTCOPY;
	p.bandwidth = 32 * MIB;
	for (u32 a = 0; a < ARRAY_SIZE(accels); a++) {
		if (!possible(accels[a]))
			continue;
		boot(&src, accels[a]);
		for (u32 i = 0; i < NR_GIVEN; i++) {
			*given(&src, i) = i + 1;
			mem_dirty(&src.vm.mem, GIVEN + i * 4096ull, 8);
		}
		receive(&dst);
		assert_int_equal(begin(&src, &dst, &p), 0);
		discard_some(&dst);
		outcome(&src);
		check_moved(&src, &dst);
		for (u32 i = 0; i < NR_GIVEN; i++)
			assert_int_equal(*given(&dst, i), i % 3 ? i + 1 : 0);
		mover_fini(&src);
		mover_fini(&dst);
	}
}

/* Without its source it can wait for ever; the user may end it. */
static void a_guest_that_waits_for_pages_can_be_ended(void **state)
{
	struct source_params p = fast;
	struct mover src, dst;
	struct err e;

	(void)state;
	p.mode = MIGRATE_MODE_POSTCOPY;
	p.bandwidth = 4 * MIB;
	for (u32 a = 0; a < ARRAY_SIZE(accels); a++) {
		if (!possible(accels[a]))
			continue;
		boot(&src, accels[a]);
		receive(&dst);
		assert_int_equal(begin(&src, &dst, &p), 0);
		while (move_dest_status(&dst)->phase != MIGRATE_POSTCOPY)
			usleep(50);
		assert_int_equal(source_break(src.source, &e), 0);
		assert_int_equal(outcome(&src), MIGRATE_PAUSED);
		assert_true(move_until_phase(&dst, MIGRATE_PAUSED));
		assert_true(move_dest_status(&dst)->remaining_bytes > 0);
		mover_fini(&dst);
		assert_int_equal(source_take_back(src.source, &e), 0);
		check_guest(&src);
		mover_fini(&src);
	}
}

static int make_dir(void **state)
{
	(void)state;
	move_dir_make(&dir);
	return 0;
}

static int remove_dir(void **state)
{
	(void)state;
	move_dir_remove(&dir);
	return 0;
}

/* Enough for two machines. */
static int run_with_huge_pages(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(pages_of_2_mib_follow_as_a_whole)};
	bool enough;
	u64 before = huge_pages_add(MOVE_RAM_MIB + 2, &enough);
	int ret = enough ? cmocka_run_group_tests_name("huge", tests, make_dir, remove_dir) : 0;

	huge_pages_set(before);
	return ret;
}

/* With "huge": in pages of 2 MiB. */
int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_guest_goes_on_in_each_mode),
		cmocka_unit_test(pages_follow_over_cut_connections),
		cmocka_unit_test(a_cut_at_any_time_leaves_one_guest),
		cmocka_unit_test(pages_that_are_given_up_meanwhile_are_zero),
		cmocka_unit_test(a_guest_that_waits_for_pages_can_be_ended),
	};

	if (argc > 1 && !strcmp(argv[1], "huge"))
		return run_with_huge_pages();
	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
