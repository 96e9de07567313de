/* test_rng.c: the entropy device gives random bytes, at most 64 KiB per request, and gives way to others. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "tests/dev/saved.h"
#include "virtio/backend/ratelimit.h"
#include "vmm/clock.h"

#define LIMIT (64 * KIB)

struct bench {
	struct fake_vm f;
	struct fdrv d;
};

static const u64 layouts[] = {FDRV_VERSION_1, FDRV_ALL_FEATURES};

static void bench_up_with(struct bench *b, u64 features, const void *cfg)
{
	struct device *dev;

	fake_vm_init(&b->f, 0);
	dev = fake_vm_add(&b->f, device_class_find("virtio-rng"), cfg);
	fake_vm_start(&b->f);
	fdrv_up(&b->d, &b->f, dev, features, 1, 256);
}

static void bench_up(struct bench *b, u64 features)
{
	bench_up_with(b, features, NULL);
}

static void a_request_is_filled_with_random_bytes(void **state)
{
	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(layouts); i++) {
		struct bench b;
		u8 *p;

		bench_up(&b, layouts[i]);
		struct fbuf in[2] = {{fake_vm_alloc(&b.f, 48, 1), 48}, {fake_vm_alloc(&b.f, 64, 1), 16}};

		assert_int_equal(fdrv_request(&b.d, 0, NULL, 0, in, 2), 64);
		p = fake_vm_ptr(&b.f, in[0].gpa, 48 + 64);
		/* Halves that are equal, or zero, come once in 2^128 runs. */
		assert_memory_not_equal(p, p + 16, 16);
		assert_memory_not_equal(p + 16, p + 32, 16);
		assert_memory_not_equal(p + 32, p + 48, 16);
		assert_memory_not_equal(p + 48, p + 64, 16);
		for (u32 j = 64; j < 48 + 64; j++)
			assert_int_equal(p[j], 0); /* beyond the second element */
		fake_vm_fini(&b.f);
	}
}

static void a_request_gets_at_most_64_kib(void **state)
{
	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(layouts); i++) {
		struct bench b;

		bench_up(&b, layouts[i]);
		struct fbuf in[2] = {{fake_vm_alloc(&b.f, LIMIT, 1), LIMIT - 100}, {fake_vm_alloc(&b.f, LIMIT, 1), LIMIT}};

		assert_int_equal(fdrv_request(&b.d, 0, NULL, 0, in, 2), LIMIT);
		for (u32 j = 100; j < LIMIT; j++)
			assert_int_equal(*(u8 *)fake_vm_ptr(&b.f, in[1].gpa + j, 1), 0);
		fake_vm_fini(&b.f);
	}
}

static void requests_without_room_are_answered_with_nothing(void **state)
{
	struct bench b;

	(void)state;
	bench_up(&b, FDRV_ALL_FEATURES);
	struct fbuf out = {fake_vm_alloc(&b.f, 64, 1), 64}, empty = {0, 0};

	assert_int_equal(fdrv_request(&b.d, 0, &out, 1, NULL, 0), 0);
	assert_int_equal(fdrv_request(&b.d, 0, NULL, 0, &empty, 1), 0);
	fake_vm_fini(&b.f);
}

static void more_requests_than_one_batch_are_all_answered(void **state)
{
	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(layouts); i++) {
		struct bench b;
		u32 len;

		bench_up(&b, layouts[i]);
		for (u32 n = 0; n < 256; n++) {
			struct fbuf in = {fake_vm_alloc(&b.f, 8, 1), 8};

			assert_true(fdrv_add(&b.d, 0, NULL, 0, &in, 1, NULL));
		}
		assert_true(fdrv_kick(&b.d, 0));
		for (u32 n = 0; n < 256; n++) {
			assert_true(fdrv_wait_used(&b.d, 0, NULL, &len, 5000));
			assert_int_equal(len, 8);
		}
		fake_vm_fini(&b.f);
	}
}

static void identity_is_that_of_an_entropy_device(void **state)
{
	struct bench b;

	(void)state;
	bench_up(&b, FDRV_ALL_FEATURES);
	assert_int_equal(fdrv_read(&b.d, MMIO_DEVICE_ID), 4);
	fdrv_write(&b.d, MMIO_QUEUE_SEL, 1);
	assert_int_equal(fdrv_read(&b.d, MMIO_QUEUE_NUM_MAX), 0); /* one queue */
	assert_int_equal(fdrv_config32(&b.d, 0), 0);		  /* no configuration */
	fake_vm_fini(&b.f);
}

static void counters_tell_requests_and_bytes(void **state)
{
	struct bench b;
	const struct counter_desc *c;

	(void)state;
	bench_up(&b, FDRV_ALL_FEATURES);
	struct fbuf in = {fake_vm_alloc(&b.f, 100, 1), 100};

	fdrv_request(&b.d, 0, NULL, 0, &in, 1);
	fdrv_request(&b.d, 0, NULL, 0, &in, 1);
	for (c = b.d.dev->cls->counters; c->name; c++) {
		u64 n = __atomic_load_n((u64 *)(void *)((char *)b.d.dev + c->offset), __ATOMIC_RELAXED);

		assert_int_equal(n, !strcmp(c->name, "entropy_bytes") ? 200 : !strcmp(c->name, "entropy_event_count") ? 2 : 0);
	}
	fake_vm_fini(&b.f);
}

/* ---- limits ---- */

static void a_limited_device_gives_what_its_bucket_has_and_goes_on_in_time(void **state)
{
	struct cfg_bucket bytes = {.size = 1000, .refill_time = 200};
	struct cfg_ratelimit limit = {.bandwidth = &bytes};
	const struct {
		struct cfg_ratelimit *rate_limiter;
	} cfg = {&limit};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(layouts); i++) {
		struct bench b;
		u64 start;

		bench_up_with(&b, layouts[i], &cfg);
		struct fbuf in = {fake_vm_alloc(&b.f, 500, 1), 500};

		start = clock_host_ns();
		for (u32 n = 0; n < 6; n++)
			assert_true(fdrv_add(&b.d, 0, NULL, 0, &in, 1, NULL));
		fdrv_kick(&b.d, 0);
		for (u32 n = 0; n < 6; n++)
			assert_true(fdrv_wait_used(&b.d, 0, NULL, NULL, 5000));
		/* 1,000 bytes at once, 2,000 in two times 200 ms. */
		assert_true(clock_host_ns() - start >= 400 * NSEC_PER_MSEC);
		fake_vm_fini(&b.f);
	}
}

static void a_reset_ends_the_wait_of_a_limited_request(void **state)
{
	struct cfg_bucket ops = {.size = 1, .refill_time = 100 * 1000};
	struct cfg_ratelimit limit = {.ops = &ops};
	const struct {
		struct cfg_ratelimit *rate_limiter;
	} cfg = {&limit};
	struct bench b;

	(void)state;
	bench_up_with(&b, FDRV_ALL_FEATURES, &cfg);
	struct fbuf in = {fake_vm_alloc(&b.f, 8, 1), 8};

	assert_int_equal(fdrv_request(&b.d, 0, NULL, 0, &in, 1), 8);
	assert_true(fdrv_add(&b.d, 0, NULL, 0, &in, 1, NULL));
	fdrv_kick(&b.d, 0);
	fdrv_sync(&b.d);
	assert_true(fdrv_reset(&b.d, 1000));
	fake_vm_fini(&b.f); /* with the timer armed */
}

static void requests_wait_while_it_is_saved_and_go_on_in_another_vm(void **state)
{
	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(layouts); i++) {
		struct fake_vm next;
		struct device *dev;
		struct bench b;
		struct saved s;

		bench_up(&b, layouts[i]);
		struct fbuf in = {fake_vm_alloc(&b.f, 64, 1), 64};

		assert_int_equal(fdrv_request(&b.d, 0, NULL, 0, &in, 1), 64);
		assert_return_code(saved_take(&s, &b.f, b.d.dev, NULL), 0);
		assert_true(fdrv_add(&b.d, 0, NULL, 0, &in, 1, &b));
		fdrv_kick(&b.d, 0);
		assert_false(fdrv_wait_used(&b.d, 0, NULL, NULL, 30));
		saved_resume(&b.f, b.d.dev);
		assert_true(fdrv_wait_used(&b.d, 0, NULL, NULL, 5000));
		fdrv_sync(&b.d);
		assert_true(fdrv_add(&b.d, 0, NULL, 0, &in, 1, &b)); /* without a kick */
		saved_free(&s);
		assert_return_code(saved_take(&s, &b.f, b.d.dev, NULL), 0);
		fake_vm_init(&next, 0);
		dev = fake_vm_add(&next, device_class_find("virtio-rng"), NULL);
		saved_memory(&s, &next);
		memset(fake_vm_ptr(&next, in.gpa, 64), 0, 64);
		assert_return_code(saved_put(&s, &next, dev, NULL), 0);
		fdrv_move(&b.d, &next, dev);
		fake_vm_start(&next);
		saved_resume(&next, dev);
		assert_true(fdrv_wait_used(&b.d, 0, NULL, NULL, 5000));
		assert_memory_not_equal(fake_vm_ptr(&next, in.gpa, 64), (u8[64]){0}, 64);
		fake_vm_fini(&next);
		fake_vm_fini(&b.f);
		saved_free(&s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_request_is_filled_with_random_bytes),
		cmocka_unit_test(a_request_gets_at_most_64_kib),
		cmocka_unit_test(requests_without_room_are_answered_with_nothing),
		cmocka_unit_test(more_requests_than_one_batch_are_all_answered),
		cmocka_unit_test(identity_is_that_of_an_entropy_device),
		cmocka_unit_test(counters_tell_requests_and_bytes),
		cmocka_unit_test(a_limited_device_gives_what_its_bucket_has_and_goes_on_in_time),
		cmocka_unit_test(a_reset_ends_the_wait_of_a_limited_request),
		cmocka_unit_test(requests_wait_while_it_is_saved_and_go_on_in_another_vm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
