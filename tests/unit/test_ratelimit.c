/* test_ratelimit.c: token buckets, most of it in simulated time; the timer on a real loop. */
#include "cm.h"

#include <stdlib.h>
#include <string.h>

#include "virtio/backend/ratelimit.h"
#include "vmm/clock.h"

#define SECOND	   NSEC_PER_SEC
#define UNREACHED  (1ull << 62)
#define TEN_OF(ms) (10000ull * MIB / (ms)) /* bytes in ten seconds at 1 MiB per ms milliseconds */

static u32 resumed;

static void count_resume(struct ratelimit *r)
{
	(void)r;
	resumed++;
}

static struct ratelimit limits(struct cfg_bucket *bandwidth, struct cfg_bucket *ops)
{
	const struct cfg_ratelimit cfg = {.bandwidth = bandwidth, .ops = ops};
	struct ratelimit r;

	ratelimit_init(&r, NULL, &cfg, count_resume);
	/* The tests' time starts at 1 s. */
	r.bandwidth.updated_ns = r.ops.updated_ns = SECOND;
	return r;
}

/* What a guest gets that always has a request of `bytes` waiting, in `duration` from now on, when it is resumed `late` after the time that
 * the limiter asked for. *now goes on. */
static u64 served(struct ratelimit *r, u64 bytes, u64 *now, u64 duration, u64 late)
{
	u64 end = *now + duration, sum = 0;

	while (*now < end) {
		u64 wait = ratelimit_take_at(r, bytes, *now);

		assert_true(wait < UNREACHED);
		if (wait)
			*now += wait + late;
		else
			sum += bytes;
	}
	return sum;
}

static void assert_within(u64 got, u64 want, u64 per_mille)
{
	if (got < want - want * per_mille / 1000 || got > want + want * per_mille / 1000)
		fail_msg("%llu instead of %llu", (unsigned long long)got, (unsigned long long)want);
}

static u64 less(u64 a, u64 b)
{
	return a > b ? a - b : 0;
}

static void ten_seconds_give_what_the_setting_says(void **state)
{
	static const u64 requests[] = {4 * KIB, 64 * KIB, 1 * MIB - 512, 1 * MIB, 1 * MIB + 512, 16 * MIB};
	static const u64 refills[] = {1, 10, 100, 1000};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(requests) * ARRAY_SIZE(refills); i++) {
		struct cfg_bucket b = {.size = 1 * MIB, .refill_time = refills[i % 4]};
		struct ratelimit r = limits(&b, NULL);
		u64 now = SECOND, want = TEN_OF(b.refill_time), bytes = requests[i / 4];

		/* The first bucket is full, and the last request may be larger than what is left. */
		assert_in_range(served(&r, bytes, &now, 10 * SECOND, 0), less(want, bytes), want + MAX(b.size, bytes) + bytes);
		/* From then on the average counts. */
		assert_in_range(served(&r, bytes, &now, 10 * SECOND, 0), less(want, 2 * bytes), want + 2 * bytes);
	}
}

static void a_late_loop_loses_nothing(void **state)
{
	static const u64 lates[] = {NSEC_PER_MSEC, 5 * NSEC_PER_MSEC, 50 * NSEC_PER_MSEC, 99 * NSEC_PER_MSEC};
	static const u64 requests[] = {4 * KIB, 100 * KIB, 1 * MIB, 5 * MIB};
	static const u64 refills[] = {1, 10, 100, 1000};

	(void)state;
	for (u32 i = 0; i < 64; i++) {
		struct cfg_bucket b = {.size = 1 * MIB, .refill_time = refills[i % 4]};
		struct ratelimit r = limits(&b, NULL);
		u64 now = SECOND, bytes = requests[i / 4 % 4];

		served(&r, bytes, &now, SECOND, lates[i / 16]);
		assert_within(served(&r, bytes, &now, 100 * SECOND, lates[i / 16]), 10 * TEN_OF(b.refill_time), 30);
	}
}

static void a_rate_that_is_no_whole_token_per_tick_is_kept(void **state)
{
	struct cfg_bucket b = {.size = 7, .refill_time = 1000};
	struct ratelimit r = limits(NULL, &b);
	u64 now = SECOND, n = 0;

	(void)state;
	/* Asked every 100 us: almost always less than a token has come since. */
	for (u32 i = 0; i < 1000 * 1000; i++, now += 100 * 1000)
		n += ratelimit_take_at(&r, 1, now) == 0;
	assert_in_range(n, 699, 708);
}

static void a_bucket_gives_its_size_at_once_and_no_more(void **state)
{
	struct cfg_bucket b = {.size = 10, .refill_time = 1000};
	struct ratelimit r = limits(NULL, &b);

	(void)state;
	for (u32 i = 0; i < 10; i++)
		assert_int_equal(ratelimit_take_at(&r, 1, SECOND), 0);
	assert_in_range(ratelimit_take_at(&r, 1, SECOND), SECOND / 10, SECOND / 10 + 1);
	/* Hours of rest fill it, and no more. */
	r.ops.waiting = false;
	for (u32 i = 0; i < 10; i++)
		assert_int_equal(ratelimit_take_at(&r, 1, 10000 * SECOND), 0);
	assert_int_not_equal(ratelimit_take_at(&r, 1, 10000 * SECOND), 0);
}

static void a_request_that_was_never_taken_up_again_saves_up_little(void **state)
{
	struct cfg_bucket b = {.size = 10, .refill_time = 100};
	struct ratelimit r = limits(NULL, &b);
	u32 n = 0;

	(void)state;
	while (ratelimit_take_at(&r, 1, SECOND) == 0)
		n++;
	assert_int_equal(n, 10);
	while (ratelimit_take_at(&r, 1, 1000 * SECOND) == 0)
		n++;
	assert_int_equal(n, 10 + 10 + 10); /* full, and 100 ms for the one that waits */
}

static void the_time_to_wait_is_exact(void **state)
{
	struct cfg_bucket b = {.size = 1000, .refill_time = 1000};
	struct ratelimit r = limits(&b, NULL);
	u64 now = SECOND, wait;

	(void)state;
	assert_int_equal(ratelimit_take_at(&r, 1000, now), 0);
	wait = ratelimit_take_at(&r, 250, now);
	assert_in_range(wait, 250 * NSEC_PER_MSEC, 250 * NSEC_PER_MSEC + 1);
	assert_int_not_equal(ratelimit_take_at(&r, 250, now + wait - NSEC_PER_MSEC), 0);
	assert_int_equal(ratelimit_take_at(&r, 250, now + wait), 0);
}

static void a_request_larger_than_the_bucket_is_paid_afterwards(void **state)
{
	struct cfg_bucket b = {.size = 1000, .refill_time = 1000};
	struct ratelimit r = limits(&b, NULL);

	(void)state;
	assert_int_equal(ratelimit_take_at(&r, 5000, SECOND), 0);
	/* 4 s of debt, and 1 s until the next such one finds a full bucket. */
	assert_in_range(ratelimit_take_at(&r, 1, SECOND), 4 * SECOND, 4 * SECOND + 2 * NSEC_PER_MSEC);
	assert_in_range(ratelimit_take_at(&r, 5000, SECOND), 5 * SECOND, 5 * SECOND + 1);
	assert_int_equal(ratelimit_take_at(&r, 5000, 6 * SECOND + 1), 0);
}

static void a_burst_comes_first_and_once(void **state)
{
	struct cfg_bucket b = {.size = 1000, .refill_time = 1000, .one_time_burst = 5000};
	struct ratelimit r = limits(&b, NULL);

	(void)state;
	assert_int_equal(ratelimit_take_at(&r, 4500, SECOND), 0);
	assert_int_equal(ratelimit_take_at(&r, 1500, SECOND), 0); /* 500 of it from the bucket's own */
	assert_int_not_equal(ratelimit_take_at(&r, 1, SECOND), 0);
	assert_int_equal(ratelimit_take_at(&r, 1000, 100 * SECOND), 0);
	assert_int_not_equal(ratelimit_take_at(&r, 1000, 100 * SECOND), 0);
}

static void both_buckets_limit_and_neither_is_paid_alone(void **state)
{
	struct cfg_bucket bytes = {.size = 1000, .refill_time = 1000}, ops = {.size = 2, .refill_time = 10000};
	struct ratelimit r = limits(&bytes, &ops);

	(void)state;
	assert_int_equal(ratelimit_take_at(&r, 600, SECOND), 0);
	for (u32 i = 0; i < 5; i++)
		assert_int_not_equal(ratelimit_take_at(&r, 600, SECOND), 0); /* 400 bytes are left, and one request */
	assert_int_equal(ratelimit_take_at(&r, 400, SECOND), 0);
	assert_in_range(ratelimit_take_at(&r, 1, SECOND), 5 * SECOND, 5 * SECOND + 1);
	assert_int_equal(r.bandwidth.balance, 0);
}

static void size_or_time_of_zero_does_not_limit(void **state)
{
	struct cfg_bucket none = {.refill_time = 100}, never = {.size = 100};
	struct ratelimit r = limits(&none, &never);

	(void)state;
	assert_false(ratelimit_active(&r));
	for (u32 i = 0; i < 1000; i++)
		assert_int_equal(ratelimit_take_at(&r, UINT64_MAX, SECOND), 0);
}

static void absurd_settings_do_not_overflow(void **state)
{
	static const u64 values[] = {1, 2, NSEC_PER_SEC, 1ull << 40, INT64_MAX - 1, INT64_MAX, (u64)INT64_MAX + 1, UINT64_MAX};

	(void)state;
	for (u32 i = 0; i < 8 * 8 * 8; i++) {
		struct cfg_bucket b = {.size = values[i / 64], .refill_time = values[i / 8 % 8], .one_time_burst = values[i % 8]};
		struct ratelimit r = limits(&b, &b);

		for (u64 now = SECOND; now < UINT64_MAX / 4; now *= 3) {
			ratelimit_take_at(&r, UINT32_MAX, now);
			ratelimit_take_at(&r, 1, now);
			ratelimit_refund(&r, UINT32_MAX);
			assert_true(r.bandwidth.balance <= (s64)(1ull << 62) && r.bandwidth.balance >= -(s64)(1ull << 62));
		}
	}
}

static void a_clock_that_goes_back_gives_nothing(void **state)
{
	struct cfg_bucket b = {.size = 10, .refill_time = 1000};
	struct ratelimit r = limits(&b, NULL);

	(void)state;
	assert_int_equal(ratelimit_take_at(&r, 10, 5 * SECOND), 0);
	assert_int_not_equal(ratelimit_take_at(&r, 1, 1 * SECOND), 0);
	assert_int_not_equal(ratelimit_take_at(&r, 1, 5 * SECOND), 0);
}

static void what_was_not_served_is_given_back(void **state)
{
	struct cfg_bucket b = {.size = 1000, .refill_time = 1000, .one_time_burst = 300};
	struct ratelimit r = limits(&b, NULL);

	(void)state;
	assert_int_equal(ratelimit_take_at(&r, 1200, SECOND), 0);
	ratelimit_refund(&r, 1200);
	assert_int_equal(ratelimit_take_at(&r, 1300, SECOND), 0);
	assert_int_not_equal(ratelimit_take_at(&r, 1, SECOND), 0);
}

static void an_update_changes_only_the_buckets_it_names(void **state)
{
	struct cfg_bucket bytes = {.size = 1000, .refill_time = 1000}, ops = {.size = 1, .refill_time = 1000}, off = {0};
	struct ratelimit r = limits(&bytes, &ops);

	(void)state;
	assert_int_equal(ratelimit_take_at(&r, 1000, SECOND), 0);
	ratelimit_update(&r, &(struct cfg_ratelimit){.ops = &off});
	assert_int_not_equal(ratelimit_take_at(&r, 1, SECOND), 0); /* the bytes are used up as before */
	bytes.size = 50;
	ratelimit_update(&r, &(struct cfg_ratelimit){.bandwidth = &bytes});
	assert_int_equal(r.bandwidth.balance, 50); /* full */
	ratelimit_update(&r, &(struct cfg_ratelimit){.bandwidth = &off});
	assert_false(ratelimit_active(&r));
}

/* ---- on a loop ---- */

static void the_timer_resumes_in_time_and_once(void **state)
{
	struct cfg_bucket b = {.size = 2, .refill_time = 100};
	const struct cfg_ratelimit cfg = {.ops = &b};
	struct ratelimit r;
	struct loop loop;
	struct err e;
	u64 start;

	(void)state;
	resumed = 0;
	assert_int_equal(loop_init(&loop, &e), 0);
	ratelimit_init(&r, &loop, &cfg, count_resume);
	assert_true(ratelimit_take(&r, 1));
	assert_true(ratelimit_take(&r, 1));
	start = clock_host_ns();
	assert_false(ratelimit_take(&r, 1));
	assert_false(ratelimit_ready(&r));
	while (!resumed)
		loop_turn(&loop, 1000);
	assert_true(clock_host_ns() - start >= 49 * NSEC_PER_MSEC);
	assert_true(ratelimit_take(&r, 1));
	assert_int_equal(resumed, 1);
	assert_int_equal(r.throttled, 2);
	assert_null(loop.timers);
	ratelimit_fini(&r);
	loop_fini(&loop);
}

static void an_update_resumes_what_waits(void **state)
{
	struct cfg_bucket slow = {.size = 1, .refill_time = 1000 * 1000}, off = {0};
	const struct cfg_ratelimit cfg = {.ops = &slow};
	struct ratelimit r;
	struct loop loop;
	struct err e;

	(void)state;
	resumed = 0;
	assert_int_equal(loop_init(&loop, &e), 0);
	ratelimit_init(&r, &loop, &cfg, count_resume);
	assert_true(ratelimit_take(&r, 1));
	assert_false(ratelimit_take(&r, 1));
	ratelimit_update(&r, &(struct cfg_ratelimit){.ops = &off});
	assert_int_equal(resumed, 1);
	assert_null(loop.timers);
	assert_true(ratelimit_take(&r, 1));
	/* Nothing waits any more. */
	ratelimit_update(&r, &cfg);
	assert_int_equal(resumed, 1);
	assert_true(ratelimit_take(&r, 1));
	assert_false(ratelimit_take(&r, 1));
	ratelimit_fini(&r);
	assert_null(loop.timers);
	loop_fini(&loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ten_seconds_give_what_the_setting_says),
		cmocka_unit_test(a_late_loop_loses_nothing),
		cmocka_unit_test(a_rate_that_is_no_whole_token_per_tick_is_kept),
		cmocka_unit_test(a_bucket_gives_its_size_at_once_and_no_more),
		cmocka_unit_test(a_request_that_was_never_taken_up_again_saves_up_little),
		cmocka_unit_test(the_time_to_wait_is_exact),
		cmocka_unit_test(a_request_larger_than_the_bucket_is_paid_afterwards),
		cmocka_unit_test(a_burst_comes_first_and_once),
		cmocka_unit_test(both_buckets_limit_and_neither_is_paid_alone),
		cmocka_unit_test(size_or_time_of_zero_does_not_limit),
		cmocka_unit_test(absurd_settings_do_not_overflow),
		cmocka_unit_test(a_clock_that_goes_back_gives_nothing),
		cmocka_unit_test(what_was_not_served_is_given_back),
		cmocka_unit_test(an_update_changes_only_the_buckets_it_names),
		cmocka_unit_test(the_timer_resumes_in_time_and_once),
		cmocka_unit_test(an_update_resumes_what_waits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
