/* test_virtq.c: split and packed queues carry data both ways through many laps, and notify exactly when asked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/dev/echo_device.h"
#include "tests/dev/fake_driver.h"

#define SEGMENT	   200u /* bytes, largest */
#define MAX_SEGS   4u
#define NR_SLOTS   256u
#define TIMEOUT_MS 5000u

struct variant {
	const char *name;
	u64 features;
	u32 vm_flags;
};

static const struct variant variants[] = {
	{"split", FDRV_VERSION_1, 0},
	{"split, indirect", FDRV_INDIRECT, 0},
	{"split, event", FDRV_EVENT_IDX, 0},
	{"split, event, indirect", FDRV_EVENT_IDX | FDRV_INDIRECT, FAKE_VM_IOEVENTFD},
	{"packed", FDRV_PACKED, 0},
	{"packed, indirect", FDRV_PACKED | FDRV_INDIRECT, 0},
	{"packed, event", FDRV_PACKED | FDRV_EVENT_IDX, 0},
	{"packed, event, indirect", FDRV_PACKED | FDRV_EVENT_IDX | FDRV_INDIRECT, FAKE_VM_IOEVENTFD},
};

struct bench {
	struct fake_vm f;
	struct fdrv d;
	struct echo_dev *echo;
};

static void bench_up(struct bench *b, const struct variant *v, const struct echo_cfg *cfg, u16 size)
{
	fake_vm_init(&b->f, v->vm_flags);
	b->echo = to_echo(fake_vm_add(&b->f, &echo_class, cfg));
	fake_vm_start(&b->f);
	fdrv_up(&b->d, &b->f, &b->echo->vdev.dev, v->features, ECHO_QUEUES, size);
}

/* ---- data ---- */

struct request { /* one buffer of the driver: out segments, in segments, what was sent */
	struct fbuf out[MAX_SEGS], in[MAX_SEGS];
	u16 nr_out, nr_in;
	bool busy;
	u8 sent[SEGMENT * MAX_SEGS];
	u32 out_len, in_len;
};

struct traffic {
	struct bench *b;
	u16 q;
	unsigned seed;
	u32 sent, done, busy;
	struct request reqs[NR_SLOTS];
};

static u32 pick(struct traffic *t, u32 n)
{
	return (u32)rand_r(&t->seed) % n;
}

static void alloc_requests(struct traffic *t)
{
	for (u32 i = 0; i < NR_SLOTS; i++) {
		for (u32 s = 0; s < MAX_SEGS; s++) {
			t->reqs[i].out[s].gpa = fake_vm_alloc(&t->b->f, SEGMENT, 1);
			t->reqs[i].in[s].gpa = fake_vm_alloc(&t->b->f, SEGMENT, 1);
		}
	}
}

static void fill_request(struct traffic *t, struct request *r)
{
	r->nr_out = (u16)(1 + pick(t, MAX_SEGS));
	r->nr_in = (u16)(1 + pick(t, MAX_SEGS));
	r->out_len = r->in_len = 0;
	for (u16 i = 0; i < r->nr_out; i++) {
		u8 *p = fake_vm_ptr(&t->b->f, r->out[i].gpa, SEGMENT);

		r->out[i].len = 1 + pick(t, SEGMENT);
		for (u32 j = 0; j < r->out[i].len; j++)
			p[j] = r->sent[r->out_len++] = (u8)rand_r(&t->seed);
	}
	for (u16 i = 0; i < r->nr_in; i++) {
		r->in[i].len = 1 + pick(t, SEGMENT);
		r->in_len += r->in[i].len;
		memset(fake_vm_ptr(&t->b->f, r->in[i].gpa, SEGMENT), 0xee, SEGMENT);
	}
}

static bool send_one(struct traffic *t)
{
	struct request *r = &t->reqs[t->sent % NR_SLOTS];

	if (r->busy)
		return false;
	fill_request(t, r);
	if (!fdrv_add(&t->b->d, t->q, r->out, r->nr_out, r->in, r->nr_in, r))
		return false;
	r->busy = true;
	t->sent++;
	t->busy++;
	return true;
}

static void check_answer(struct traffic *t, struct request *r, u32 len)
{
	u32 expect = MIN(r->out_len, r->in_len), at = 0;

	assert_true(r->busy);
	assert_int_equal(len, expect);
	for (u16 i = 0; i < r->nr_in; i++) {
		const u8 *p = fake_vm_ptr(&t->b->f, r->in[i].gpa, SEGMENT);
		u32 n = MIN(r->in[i].len, expect - at);

		assert_memory_equal(p, r->sent + at, n);
		for (u32 j = n; j < SEGMENT; j++)
			assert_int_equal(p[j], 0xee);
		at += n;
	}
	r->busy = false;
	t->busy--;
	t->done++;
}

static void run_traffic(struct traffic *t, u32 total)
{
	struct fdrv *d = &t->b->d;
	void *token;
	u32 len;

	while (t->done < total) {
		for (u32 burst = 1 + pick(t, 8); burst && t->sent < total && send_one(t); burst--)
			;
		fdrv_kick(d, t->q);
		/* Now and then wait for all, so that both sides go to sleep. */
		for (u32 n = pick(t, 3) ? 1 : t->busy; n && t->busy; n--) {
			if (!fdrv_wait_used(d, t->q, &token, &len, TIMEOUT_MS))
				fail_msg("nothing came back: a kick or an interrupt was lost");
			check_answer(t, token, len);
		}
	}
}

static void carry(const struct variant *v, const struct echo_cfg *cfg, u16 size, u32 total)
{
	struct traffic *t = xzalloc(sizeof(*t));
	struct bench b;

	print_message("# %s, size %u\n", v->name, size);
	bench_up(&b, v, cfg, size);
	t->b = &b;
	t->q = 1;
	t->seed = size;
	alloc_requests(t);
	run_traffic(t, total);
	fake_vm_fini(&b.f);
	free(t);
}

static void every_byte_comes_back_through_many_laps(void **state)
{
	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(variants); i++) {
		bool packed = variants[i].features & FDRV_PACKED;

		carry(&variants[i], NULL, packed ? 11 : 8, 1500);
		carry(&variants[i], NULL, 256, 1500);
	}
}

static void requests_may_end_out_of_order(void **state)
{
	static const struct echo_cfg cfg = {.reverse = true};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(variants); i++)
		carry(&variants[i], &cfg, 16, 600);
}

static void several_chains_may_be_pushed_as_one(void **state)
{
	static const struct echo_cfg cfg = {.many = true};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(variants); i++)
		carry(&variants[i], &cfg, 16, 600);
}

static void a_device_may_work_with_kicks_switched_off(void **state)
{
	static const struct echo_cfg cfg = {.no_kicks = true};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(variants); i++)
		carry(&variants[i], &cfg, 32, 600);
}

static void a_chain_put_back_comes_again(void **state)
{
	static const struct echo_cfg cfg = {.unpop_first = true};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(variants); i++)
		carry(&variants[i], &cfg, 8, 600);
}

static void a_packed_ring_of_one_slot_works(void **state)
{
	(void)state;
	carry(&variants[5], NULL, 1, 50);
	carry(&variants[7], NULL, 1, 50);
}

static void zero_length_elements_are_skipped(void **state)
{
	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(variants); i++) {
		struct bench b;
		u64 gpa;

		bench_up(&b, &variants[i], NULL, 16);
		gpa = fake_vm_alloc(&b.f, 64, 1);
		strcpy(fake_vm_ptr(&b.f, gpa, 64), "abcd");
		/* Also where the address is nonsense, or where the order would be wrong. */
		struct fbuf out[] = {{~0ull, 0}, {gpa, 2}, {gpa, 0}, {gpa + 2, 3}};
		struct fbuf in[] = {{~0ull - 5, 0}, {gpa + 32, 5}, {0, 0}};

		assert_int_equal(fdrv_request(&b.d, 0, out, 4, in, 3), 5);
		assert_string_equal((char *)fake_vm_ptr(&b.f, gpa + 32, 5), "abcd");
		assert_int_equal(fdrv_request(&b.d, 0, out, 1, in, 1), 0);
		fake_vm_fini(&b.f);
	}
}

static void buffers_may_lie_in_any_region(void **state)
{
	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(variants); i++) {
		struct fbuf out = {0, 8}, in = {FAKE_RAM_HIGH_BASE + FAKE_RAM_HIGH - 8, 8};
		struct bench b;

		bench_up(&b, &variants[i], NULL, 16);
		memcpy(fake_vm_ptr(&b.f, out.gpa, 8), "at zero", 8);
		assert_int_equal(fdrv_request(&b.d, 0, &out, 1, &in, 1), 8);
		assert_string_equal((char *)fake_vm_ptr(&b.f, in.gpa, 8), "at zero");
		fake_vm_fini(&b.f);
	}
}

/* ---- notifications ---- */

static void add_one(struct bench *b)
{
	static const struct fbuf in = {0, 8};

	assert_true(fdrv_add(&b->d, 0, NULL, 0, &in, 1, NULL));
}

/* Adds one buffer, kicks in any case and waits until it is used; returns how many interrupts came. */
static u32 interrupts_of_one(struct bench *b)
{
	u32 edges = fdrv_edges(&b->d);

	b->d.q[0].polled = true;
	add_one(b);
	fdrv_notify(&b->d, 0);
	assert_true(fdrv_wait_used(&b->d, 0, NULL, NULL, TIMEOUT_MS));
	fdrv_sync(&b->d);
	return fdrv_edges(&b->d) - edges;
}

static void a_driver_that_wants_no_interrupts_gets_none(void **state)
{
	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(variants); i++) {
		struct bench b;

		bench_up(&b, &variants[i], NULL, 8);
		for (u32 lap = 0; lap < 20; lap++) {
			fdrv_want_interrupts(&b.d, 0, false);
			assert_int_equal(interrupts_of_one(&b), 0);
			fdrv_want_interrupts(&b.d, 0, true);
			assert_int_equal(interrupts_of_one(&b), 1);
			assert_int_equal(fdrv_isr(&b.d) & VIRTIO_ISR_USED, VIRTIO_ISR_USED);
		}
		fake_vm_fini(&b.f);
	}
}

/* Asks for an interrupt when `ahead` more buffers than now are used. */
static void set_event(struct fdrv_queue *q, u16 ahead)
{
	u16 at = (u16)(q->used + ahead - 1);
	bool wrap = q->used_wrap;

	if (!q->packed) {
		__atomic_store_n((u16 *)(void *)(q->driver + 4 + 2 * q->size), at, __ATOMIC_SEQ_CST);
		return;
	}
	if (at >= q->size) {
		at = (u16)(at - q->size);
		wrap = !wrap;
	}
	__atomic_store_n((u32 *)(void *)q->driver, at | (wrap ? 0x8000u : 0) | 2u << 16, __ATOMIC_SEQ_CST);
}

static void with_event_idx_the_interrupt_comes_at_the_event(void **state)
{
	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(variants); i++) {
		struct bench b;

		if (!(variants[i].features & FDRV_EVENT_IDX))
			continue;
		bench_up(&b, &variants[i], NULL, 8);
		for (u32 lap = 0; lap < 20; lap++) {
			set_event(&b.d.q[0], 3);
			assert_int_equal(interrupts_of_one(&b), 0);
			assert_int_equal(interrupts_of_one(&b), 0);
			assert_int_equal(interrupts_of_one(&b), 1);
			assert_int_equal(interrupts_of_one(&b), 0);
		}
		fake_vm_fini(&b.f);
	}
}

static void a_batch_that_passes_the_event_interrupts_once(void **state)
{
	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(variants); i++) {
		struct bench b;
		u32 edges;

		bench_up(&b, &variants[i], NULL, 8);
		for (u32 lap = 0; lap < 10; lap++) {
			fdrv_want_interrupts(&b.d, 0, true);
			edges = fdrv_edges(&b.d);
			for (u32 n = 0; n < 7; n++)
				add_one(&b);
			assert_true(fdrv_kick(&b.d, 0));
			b.d.q[0].polled = true;
			for (u32 n = 0; n < 7; n++)
				assert_true(fdrv_wait_used(&b.d, 0, NULL, NULL, TIMEOUT_MS));
			fdrv_sync(&b.d);
			assert_int_equal(fdrv_edges(&b.d) - edges, 1);
		}
		fake_vm_fini(&b.f);
	}
}

static void pushes_beyond_16_bits_without_notify_still_interrupt(void **state)
{
	static const struct echo_cfg cfg = {.no_notify = true};

	(void)state;
	for (u32 i = 2; i < ARRAY_SIZE(variants); i += 4) {
		struct bench b;
		u32 edges;

		bench_up(&b, &variants[i], &cfg, 256);
		b.d.q[0].polled = true;
		set_event(&b.d.q[0], 8); /* a lap of 16 bits later, this looks as if it lay ahead */
		edges = fdrv_edges(&b.d);
		for (u32 done = 0; done < 0x10000 + 5;) {
			u32 n = MIN(256, 0x10000 + 5 - done);

			for (u32 j = 0; j < n; j++)
				add_one(&b);
			fdrv_kick(&b.d, 0);
			for (u32 j = 0; j < n; j++)
				assert_true(fdrv_wait_used(&b.d, 0, NULL, NULL, TIMEOUT_MS));
			done += n;
		}
		assert_int_equal(fdrv_edges(&b.d), edges);
		echo_notify(b.echo);
		fdrv_sync(&b.d);
		assert_int_equal(fdrv_edges(&b.d), edges + 1);
		fake_vm_fini(&b.f);
	}
}

static void a_device_that_wants_no_kicks_gets_none(void **state)
{
	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(variants); i++) {
		struct virtq *q;
		struct bench b;

		bench_up(&b, &variants[i], NULL, 8);
		fdrv_sync(&b.d);
		q = &b.echo->vdev.queues[0];
		device_lock(&b.echo->vdev.dev);
		assert_false(virtq_want_kicks(q, true));
		assert_false(virtq_want_kicks(q, false));
		device_unlock(&b.echo->vdev.dev);
		add_one(&b);
		/* With EVENT_IDX a split queue has no way to say so: what it stops is the kicks after this one. */
		if (!b.d.q[0].event_idx || b.d.q[0].packed)
			assert_false(fdrv_kick(&b.d, 0));
		device_lock(&b.echo->vdev.dev);
		assert_true(virtq_want_kicks(q, true)); /* work came in meanwhile */
		device_unlock(&b.echo->vdev.dev);
		fdrv_notify(&b.d, 0);
		assert_true(fdrv_wait_used(&b.d, 0, NULL, NULL, TIMEOUT_MS));
		add_one(&b);
		fdrv_sync(&b.d);
		assert_true(fdrv_kick(&b.d, 0));
		assert_true(fdrv_wait_used(&b.d, 0, NULL, NULL, TIMEOUT_MS));
		fake_vm_fini(&b.f);
	}
}

/* Silence is an event that lies behind, also when the device took buffers since it last asked for a kick. */
static void switching_kicks_off_does_not_ask_for_one(void **state)
{
	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(variants); i++) {
		struct virtq *q;
		struct bench b;

		bench_up(&b, &variants[i], NULL, 8);
		fdrv_sync(&b.d);
		q = &b.echo->vdev.queues[0];
		device_lock(&b.echo->vdev.dev);
		add_one(&b);
		add_one(&b);
		assert_int_equal(virtq_pop(q, &b.echo->held[0]), 1);
		assert_int_equal(virtq_pop(q, &b.echo->held[0]), 1);
		virtq_want_kicks(q, false);
		device_unlock(&b.echo->vdev.dev);
		fdrv_kick(&b.d, 0);
		add_one(&b);
		assert_false(fdrv_kick(&b.d, 0));
		fake_vm_fini(&b.f);
	}
}

static void with_event_idx_a_busy_device_is_kicked_once(void **state)
{
	static const struct echo_cfg cfg = {.hold = true};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(variants); i++) {
		struct bench b;

		if (!(variants[i].features & FDRV_EVENT_IDX))
			continue;
		bench_up(&b, &variants[i], &cfg, 8);
		fdrv_sync(&b.d);
		device_lock(&b.echo->vdev.dev); /* the device does not get to look */
		add_one(&b);
		device_unlock(&b.echo->vdev.dev);
		assert_true(fdrv_kick(&b.d, 0));
		fdrv_sync(&b.d);
		add_one(&b);
		assert_true(fdrv_kick(&b.d, 0));
		fdrv_sync(&b.d);
		device_lock(&b.echo->vdev.dev);
		virtq_want_kicks(&b.echo->vdev.queues[0], false);
		device_unlock(&b.echo->vdev.dev);
		add_one(&b);
		fdrv_kick(&b.d, 0);
		add_one(&b);
		assert_false(fdrv_kick(&b.d, 0));
		fake_vm_fini(&b.f);
	}
}

/* ---- dirty pages ---- */

static bool page_dirty(struct mem_region *r, u64 *bitmap, u64 gpa)
{
	u64 page = (gpa - r->gpa) >> MEM_PAGE_SHIFT;

	return bitmap[page / 64] >> (page % 64) & 1;
}

/* Queue 0 with each area on pages of its own; the used ring's entries begin a page of their own as well. */
static void setup_on_own_pages(struct bench *b, const struct variant *v)
{
	struct fdrv_queue *q = &b->d.q[0];
	u64 page = fake_vm_alloc(&b->f, 4 * MEM_PAGE_SIZE, MEM_PAGE_SIZE);

	assert_true(fdrv_probe(&b->d, &b->f, &b->echo->vdev.dev, v->features));
	fdrv_queue_setup(&b->d, 0, 16);
	fdrv_write(&b->d, MMIO_QUEUE_READY, 0);
	q->desc_gpa = page;
	q->driver_gpa = page + MEM_PAGE_SIZE;
	q->device_gpa = page + 3 * MEM_PAGE_SIZE - 4;
	q->desc = fake_vm_ptr(&b->f, q->desc_gpa, MEM_PAGE_SIZE);
	q->driver = fake_vm_ptr(&b->f, q->driver_gpa, MEM_PAGE_SIZE);
	q->device = fake_vm_ptr(&b->f, q->device_gpa, MEM_PAGE_SIZE);
	fdrv_queue_write(&b->d, 0);
	assert_true(fdrv_driver_ok(&b->d));
}

static void what_the_device_wrote_is_marked_dirty(void **state)
{
	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(variants); i++) {
		struct fdrv_queue *q;
		struct mem_region *r;
		struct bench b;
		u64 gpa, *bitmap;

		bench_up(&b, &variants[i], NULL, 16);
		setup_on_own_pages(&b, &variants[i]);
		q = &b.d.q[0];
		r = &b.f.vm.mem.regions[0];
		bitmap = xzalloc(mem_bitmap_words(r) * sizeof(u64));
		gpa = fake_vm_alloc(&b.f, 4 * MEM_PAGE_SIZE, MEM_PAGE_SIZE);
		struct fbuf out = {gpa, 100}, in[] = {{gpa + 2 * MEM_PAGE_SIZE - 50, 60}, {gpa + 3 * MEM_PAGE_SIZE, 90}};

		fdrv_sync(&b.d);
		assert_int_equal(mem_track(&b.f.vm.mem, true, NULL), 0);
		assert_int_equal(fdrv_request(&b.d, 0, &out, 1, in, 2), 100);
		fdrv_sync(&b.d);
		mem_track_collect(r, bitmap);
		assert_false(page_dirty(r, bitmap, gpa)); /* device-readable */
		assert_true(page_dirty(r, bitmap, gpa + MEM_PAGE_SIZE));
		assert_true(page_dirty(r, bitmap, gpa + 2 * MEM_PAGE_SIZE));
		assert_true(page_dirty(r, bitmap, gpa + 3 * MEM_PAGE_SIZE));
		assert_int_equal(page_dirty(r, bitmap, q->desc_gpa), q->packed);
		assert_false(page_dirty(r, bitmap, q->driver_gpa));
		assert_int_equal(page_dirty(r, bitmap, q->device_gpa + 4), !q->packed); /* the used ring's entries */
		assert_true(page_dirty(r, bitmap, q->device_gpa));
		free(bitmap);
		fake_vm_fini(&b.f);
	}
}

/* ---- iovecs ---- */

static void iov_copies_start_anywhere_and_stop_at_the_end(void **state)
{
	char a[] = "abc", c[] = "defgh", got[9] = {0};
	struct iovec iov[] = {{a, 3}, {a, 0}, {c, 5}};

	(void)state;
	assert_int_equal(iov_read(iov, 3, 0, got, 8), 8);
	assert_string_equal(got, "abcdefgh");
	assert_int_equal(iov_read(iov, 3, 4, got, 100), 4);
	assert_memory_equal(got, "efgh", 4);
	assert_int_equal(iov_read(iov, 3, 8, got, 1), 0);
	assert_int_equal(iov_write(iov, 3, 2, "XYZ", 3), 3);
	assert_string_equal(a, "abX");
	assert_string_equal(c, "YZfgh");
	assert_int_equal(iov_write(iov, 3, 7, "12", 2), 1);
	assert_string_equal(c, "YZfg1");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_byte_comes_back_through_many_laps),
		cmocka_unit_test(requests_may_end_out_of_order),
		cmocka_unit_test(several_chains_may_be_pushed_as_one),
		cmocka_unit_test(a_device_may_work_with_kicks_switched_off),
		cmocka_unit_test(a_chain_put_back_comes_again),
		cmocka_unit_test(a_packed_ring_of_one_slot_works),
		cmocka_unit_test(zero_length_elements_are_skipped),
		cmocka_unit_test(buffers_may_lie_in_any_region),
		cmocka_unit_test(a_driver_that_wants_no_interrupts_gets_none),
		cmocka_unit_test(with_event_idx_the_interrupt_comes_at_the_event),
		cmocka_unit_test(a_batch_that_passes_the_event_interrupts_once),
		cmocka_unit_test(pushes_beyond_16_bits_without_notify_still_interrupt),
		cmocka_unit_test(a_device_that_wants_no_kicks_gets_none),
		cmocka_unit_test(switching_kicks_off_does_not_ask_for_one),
		cmocka_unit_test(with_event_idx_a_busy_device_is_kicked_once),
		cmocka_unit_test(what_the_device_wrote_is_marked_dirty),
		cmocka_unit_test(iov_copies_start_anywhere_and_stop_at_the_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
