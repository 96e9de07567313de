/*
 * test_migrate_caps.c: limits of the package, exact to the byte, on both sides; and peers that announce more than there is memory for.
 */
#include "move_vm.h"

#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "migration/wire.h"

static struct move_dir dir;

struct order {
	struct loop_work work;
	struct mover *src;
	struct source_params params;
	struct err e;
	int ret;
	bool measure; /* only that */
	u64 bytes;
	bool done; /* atomic */
};

static void run_order(struct loop_work *w)
{
	struct order *o = container_of(w, struct order, work);

	o->ret = o->measure ? package_measure(&o->src->vm, &o->bytes, NULL, 0, &o->e) : source_begin(o->src->source, &o->params, &o->e);
	__atomic_store_n(&o->done, true, __ATOMIC_RELEASE);
}

static struct order on_loop(struct mover *src, bool measure, u64 cap)
{
	struct order o = {
		.work.run = run_order,
		.src = src,
		.measure = measure,
		.params = {.nr_bulk = 1, .patience_ms = 3000, .package_cap = cap},
	};

	snprintf(o.params.address, sizeof(o.params.address), "unix:%s/in", dir.path);
	loop_post(&src->vm.loop, &o.work);
	while (!__atomic_load_n(&o.done, __ATOMIC_ACQUIRE))
		usleep(100);
	return o;
}

static struct migrate_status outcome(struct mover *src)
{
	struct migrate_status s;

	for (u32 i = 0; i < 20000; i++) {
		source_status(src->source, &s);
		if (s.phase >= MIGRATE_COMPLETED || s.phase == MIGRATE_PAUSED)
			return s;
		usleep(500);
	}
	fail_msg("it is %s", migrate_phase_name(s.phase));
	return s;
}

static void boot(struct mover *m)
{
	mover_boot(m, &dir, "tcg", 2, ",\"entropy\":{}");
	mover_run(m);
	while (!move_word(m, MOVE_STATUS))
		usleep(1000);
}

/* It has not been halted for a moment. */
static void runs_on(struct mover *m)
{
	u64 passes = move_word(m, MOVE_STATUS);

	for (u32 i = 0; i < 20000 && move_word(m, MOVE_STATUS) < passes + 2; i++)
		usleep(500);
	assert_true(move_word(m, MOVE_STATUS) >= passes + 2);
	assert_int_equal(m->vm.state, VM_RUNNING);
}

/* One byte too little: the guest runs on, and the largest sections are named. Else it moves. */
static void the_source_s_own_limit_is_exact(void **state)
{
	struct mover *src = xzalloc(sizeof(*src)), *dst = xzalloc(sizeof(*dst));

	(void)state;
	for (int spare = -1; spare <= 1; spare++) {
		struct order o;
		u64 bytes;

		boot(src);
		bytes = on_loop(src, true, 0).bytes;
		mover_receive(dst, &dir, &(struct dest_params){.patience_ms = 3000});
		o = on_loop(src, false, bytes + (u64)(s64)spare);
		if (spare < 0) {
			assert_int_equal(o.ret, -EFBIG);
			assert_non_null(strstr(o.e.msg, "cpu"));
			assert_int_equal(move_dest_status(dst)->phase, MIGRATE_LISTEN);
			runs_on(src);
		} else {
			assert_int_equal(o.ret, 0);
			assert_int_equal(outcome(src).phase, MIGRATE_COMPLETED);
		}
		mover_fini(src);
		mover_fini(dst);
	}
	free(src);
	free(dst);
}

/* What the destination takes is known before the guest is halted, and before memory moves. */
static void the_destination_s_limit_is_exact_for_the_source(void **state)
{
	struct mover *src = xzalloc(sizeof(*src)), *dst = xzalloc(sizeof(*dst));

	(void)state;
	for (int spare = -1; spare <= 1; spare++) {
		struct migrate_status s;

		boot(src);
		mover_receive(dst, &dir,
			      &(struct dest_params){.patience_ms = 3000, .package_cap = on_loop(src, true, 0).bytes + (u64)(s64)spare});
		assert_int_equal(on_loop(src, false, 0).ret, 0);
		s = outcome(src);
		assert_int_equal(s.phase, spare < 0 ? MIGRATE_FAILED : MIGRATE_COMPLETED);
		if (spare < 0) {
			assert_non_null(strstr(s.error, "the destination's limit"));
			assert_non_null(strstr(s.error, "cpu"));
			assert_int_equal(s.pages + s.stop_ns, 0);
			runs_on(src);
		}
		mover_fini(src);
		mover_fini(dst);
	}
	free(src);
	free(dst);
}

/* ---- 4 GiB ---- */

static u64 peak_bytes(void)
{
	struct rusage u;

	assert_int_equal(getrusage(RUSAGE_SELF, &u), 0);
	return (u64)u.ru_maxrss * KIB;
}

static void announce(struct channel *c, u16 type, u64 len)
{
	const struct frame f = {.type = type, .seq = c->sent_seq++, .len = len};
	u8 header[FRAME_HEADER_SIZE];

	frame_encode(&f, header);
	assert_int_equal(write(c->fd, header, sizeof(header)), sizeof(header));
}

static void a_destination_that_announces_4_gib_is_refused(void **state)
{
	static const u64 lengths[] = {1ull << 32, UINT32_MAX, 65, UINT64_MAX};
	struct mover *src = xzalloc(sizeof(*src));
	u64 before;

	(void)state;
	boot(src);
	before = peak_bytes();
	for (u32 i = 0; i < ARRAY_SIZE(lengths); i++) {
		struct migrate_status s;
		struct channel c;
		struct pollfd p;
		char bound[200];
		struct frame f;
		struct order o;
		struct err e;

		auto_free char *address = xasprintf("unix:%s/in", dir.path);

		p.events = POLLIN;
		assert_int_equal(channel_listen(address, &p.fd, bound, sizeof(bound), &e), 0);
		o = on_loop(src, false, 0);
		assert_int_equal(o.ret, 0);
		assert_int_equal(poll(&p, 1, 5000), 1);
		assert_int_equal(channel_take(&c, accept(p.fd, NULL, NULL), NULL, 3000, &e), 0);
		assert_int_equal(channel_receive(&c, &f, 3000, &e), 0);
		announce(&c, FRAME_WELCOME, lengths[i]);
		s = outcome(src);
		assert_int_equal(s.phase, MIGRATE_FAILED);
		assert_non_null(strstr(s.error, "frame WELCOME announces"));
		channel_close(&c);
		close(p.fd);
		runs_on(src);
	}
	assert_true(peak_bytes() - before < 16 * MIB);
	mover_fini(src);
	free(src);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_source_s_own_limit_is_exact),
		cmocka_unit_test(the_destination_s_limit_is_exact_for_the_source),
		cmocka_unit_test(a_destination_that_announces_4_gib_is_refused),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
