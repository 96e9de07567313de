/* test_virtio_state.c: a virtio device goes on in another VM where it was saved, with no request lost or doubled; made-up states do not. */
#include "tests/unit/cm.h"

#include <errno.h>
#include <stdio.h>

#include "tests/dev/echo_device.h"
#include "tests/dev/saved.h"
#include "virtio/virtio_state.h"

#define NR_REQS	   64u
#define BYTES	   96u
#define TIMEOUT_MS 5000u

struct variant {
	const char *name;
	u64 features;
	u32 vm_flags;
};

static const struct variant variants[] = {
	{"split", FDRV_VERSION_1, 0},
	{"split, event, indirect", FDRV_EVENT_IDX | FDRV_INDIRECT, FAKE_VM_IOEVENTFD},
	{"packed", FDRV_PACKED, 0},
	{"packed, event, indirect", FDRV_PACKED | FDRV_EVENT_IDX | FDRV_INDIRECT, FAKE_VM_IOEVENTFD},
};

/* One VM after the other; vm is the one that lives. */
struct bench {
	struct fake_vm vms[2], *vm;
	struct fdrv drv;
	struct echo_dev *echo;
	u32 flags;
	struct saved saved;
};

static void add_echo(struct bench *b, struct fake_vm *f)
{
	fake_vm_init(f, b->flags | FAKE_VM_QUIET);
	b->vm = f;
	b->echo = to_echo(fake_vm_add(f, &echo_class, NULL));
}

static struct bench *bench_new(u32 flags)
{
	struct bench *b = xzalloc(sizeof(*b));

	b->flags = flags;
	add_echo(b, &b->vms[0]);
	fake_vm_start(b->vm);
	return b;
}

static struct bench *bench_up(const struct variant *v, u16 size)
{
	struct bench *b = bench_new(v->vm_flags);

	fdrv_up(&b->drv, b->vm, &b->echo->vdev.dev, v->features, ECHO_QUEUES, size);
	return b;
}

static void bench_free(struct bench *b)
{
	saved_free(&b->saved);
	fake_vm_fini(b->vm);
	free(b);
}

static struct virtio_state *state_of(struct bench *b)
{
	return b->saved.data[0];
}

static void take(struct bench *b)
{
	struct err e = {0};

	saved_free(&b->saved);
	if (saved_take(&b->saved, b->vm, &b->echo->vdev.dev, &e) < 0)
		fail_msg("not saved: %s", e.msg);
}

/* Into a new VM, which is made and has the memory, but does not run. */
static int put_into_next(struct bench *b, struct err *e)
{
	struct fake_vm *old = b->vm, *next = old == &b->vms[0] ? &b->vms[1] : &b->vms[0];

	fake_vm_fini(old);
	add_echo(b, next);
	saved_memory(&b->saved, next);
	fdrv_move(&b->drv, next, &b->echo->vdev.dev);
	return saved_put(&b->saved, next, &b->echo->vdev.dev, e);
}

static void hop(struct bench *b)
{
	struct err e = {0};

	take(b);
	if (put_into_next(b, &e) < 0)
		fail_msg("not loaded: %s", e.msg);
	fake_vm_start(b->vm);
	saved_resume(b->vm, &b->echo->vdev.dev);
}

/* ---- traffic ---- */

struct request {
	u64 out, in;
	bool busy;
};

struct traffic {
	struct bench *b;
	u16 q;
	unsigned seed;
	u32 busy, done, sent;
	struct request reqs[NR_REQS];
};

static u32 pick(struct traffic *t, u32 n)
{
	return (u32)rand_r(&t->seed) % n;
}

static u8 *ptr(struct bench *b, u64 gpa)
{
	return fake_vm_ptr(b->vm, gpa, BYTES);
}

static struct traffic *traffic_new(struct bench *b, u16 q, unsigned seed)
{
	struct traffic *t = xzalloc(sizeof(*t));

	t->b = b;
	t->q = q;
	t->seed = seed;
	for (u32 i = 0; i < NR_REQS; i++) {
		t->reqs[i].out = fake_vm_alloc(b->vm, BYTES, 1);
		t->reqs[i].in = fake_vm_alloc(b->vm, BYTES, 1);
	}
	return t;
}

static bool send_one(struct traffic *t)
{
	struct request *r = &t->reqs[t->sent % NR_REQS];
	u32 cut = 1 + pick(t, BYTES - 1);
	struct fbuf out[] = {{r->out, cut}, {r->out + cut, BYTES - cut}}, in = {r->in, BYTES};

	if (r->busy)
		return false;
	for (u32 i = 0; i < BYTES; i++)
		ptr(t->b, r->out)[i] = (u8)pick(t, 256);
	memset(ptr(t->b, r->in), 0xee, BYTES);
	if (!fdrv_add(&t->b->drv, t->q, out, 2, &in, 1, r))
		return false;
	r->busy = true;
	t->sent++;
	t->busy++;
	return true;
}

static void take_answer(struct traffic *t)
{
	struct request *r;
	void *token;
	u32 len;

	if (!fdrv_wait_used(&t->b->drv, t->q, &token, &len, TIMEOUT_MS))
		fail_msg("nothing came back: a request, a kick or an interrupt was lost");
	r = token;
	assert_true(r->busy);
	assert_int_equal(len, BYTES);
	assert_memory_equal(ptr(t->b, r->in), ptr(t->b, r->out), BYTES);
	r->busy = false;
	t->busy--;
	t->done++;
}

static void burst(struct traffic *t)
{
	for (u32 n = 1 + pick(t, 8); n && send_one(t); n--)
		;
	fdrv_kick(&t->b->drv, t->q);
}

static void drain(struct traffic *t)
{
	while (t->busy)
		take_answer(t);
}

static void requests_survive_a_move_at_any_moment(void **state)
{
	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(variants); i++) {
		struct bench *b = bench_up(&variants[i], variants[i].features & FDRV_PACKED ? 11 : 8);
		struct traffic *t = traffic_new(b, 1, i);

		print_message("# %s\n", variants[i].name);
		for (u32 round = 0; round < 60; round++) {
			burst(t);
			for (u32 n = pick(t, 4); n && t->busy; n--)
				take_answer(t);
			if (pick(t, 2))
				burst(t);
			hop(b); /* some kicked and not looked at yet, some answered and not seen yet */
			if (!pick(t, 4))
				drain(t);
		}
		drain(t);
		assert_int_equal(t->sent, t->done);
		assert_int_equal(b->drv.q[1].nr_free, b->drv.q[1].size);
		free(t);
		bench_free(b);
	}
}

static void a_vm_goes_on_after_it_was_saved(void **state)
{
	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(variants); i++) {
		struct bench *b = bench_up(&variants[i], 16);
		struct traffic *t = traffic_new(b, 0, i);

		for (u32 round = 0; round < 40; round++) {
			burst(t);
			take(b);
			burst(t);
			saved_resume(b->vm, &b->echo->vdev.dev);
			if (pick(t, 2))
				drain(t);
		}
		drain(t);
		free(t);
		bench_free(b);
	}
}

static void what_is_saved_is_what_was_loaded(void **state)
{
	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(variants); i++) {
		struct bench *b = bench_up(&variants[i], 16);
		struct traffic *t = traffic_new(b, 0, i);
		struct virtio_state before;
		struct err e = {0};

		burst(t);
		drain(t);
		take(b);
		before = *state_of(b);
		assert_return_code(put_into_next(b, &e), 0);
		take(b);
		assert_memory_equal(state_of(b), &before, sizeof(before));
		free(t);
		bench_free(b);
	}
}

/* ---- registers and interrupts ---- */

static void a_live_device_gets_one_interrupt_after_a_restore(void **state)
{
	struct bench *b = bench_up(&variants[0], 16);

	(void)state;
	hop(b);
	fdrv_sync(&b->drv);
	assert_int_equal(fdrv_edges(&b->drv), 1);
	assert_int_equal(fdrv_isr(&b->drv), VIRTIO_ISR_USED);
	saved_resume(b->vm, &b->echo->vdev.dev); /* an ordinary pause: none */
	fdrv_sync(&b->drv);
	assert_int_equal(fdrv_edges(&b->drv), 1);
	bench_free(b);
}

static void an_interrupt_that_was_not_acknowledged_comes_again(void **state)
{
	struct bench *b = bench_up(&variants[0], 16);

	(void)state;
	device_lock(&b->echo->vdev.dev);
	virtio_config_changed(&b->echo->vdev);
	device_unlock(&b->echo->vdev.dev);
	hop(b);
	assert_int_equal(fdrv_isr(&b->drv), VIRTIO_ISR_USED | VIRTIO_ISR_CONFIG);
	assert_int_equal(fdrv_edges(&b->drv), 1);
	assert_int_equal(fdrv_read(&b->drv, MMIO_CONFIG_GENERATION), 1);
	bench_free(b);
}

static void a_driver_may_be_in_the_middle_of_its_set_up(void **state)
{
	(void)state;
	for (u32 step = 0; step < 4; step++) {
		struct bench *b = bench_new(0);
		struct fdrv *d = &b->drv;
		struct fbuf buf = {fake_vm_alloc(b->vm, 8, 1), 8};

		*d = (struct fdrv){.f = b->vm, .dev = &b->echo->vdev.dev, .base = b->echo->vdev.dev.slot.mmio_base};
		if (step == 0)
			hop(b);
		assert_true(fdrv_probe(d, b->vm, &b->echo->vdev.dev, FDRV_ALL_FEATURES));
		if (step == 1)
			hop(b);
		fdrv_queue_setup(d, 0, 8);
		fdrv_write(d, MMIO_QUEUE_SEL, 1);
		fdrv_write(d, MMIO_QUEUE_NUM, 300); /* as wrong as it likes before DRIVER_OK */
		fdrv_write(d, MMIO_QUEUE_DESC_HIGH, 0xffffffff);
		if (step == 2)
			hop(b);
		assert_int_equal(fdrv_read(d, MMIO_STATUS), 0xb);
		assert_int_equal(fdrv_edges(d), 0);
		fdrv_queue_setup(d, 1, 8);
		assert_true(fdrv_driver_ok(d));
		if (step == 3)
			hop(b);
		assert_int_equal(fdrv_request(d, 0, &buf, 1, &buf, 1), 8);
		assert_int_equal(fdrv_request(d, 1, &buf, 1, &buf, 1), 8);
		bench_free(b);
	}
}

static void a_broken_device_stays_broken_until_it_is_reset(void **state)
{
	struct bench *b = bench_up(&variants[0], 8);
	struct fbuf buf = {fake_vm_alloc(b->vm, 8, 1), 8}, bad = {~0ull - 4096, 8};

	(void)state;
	assert_true(fdrv_add(&b->drv, 0, &bad, 1, NULL, 0, NULL));
	fdrv_kick(&b->drv, 0);
	assert_true(fdrv_wait_needs_reset(&b->drv, TIMEOUT_MS));
	hop(b);
	assert_int_equal(fdrv_read(&b->drv, MMIO_STATUS), 0x4f);
	fdrv_notify(&b->drv, 0);
	fdrv_sync(&b->drv);
	assert_int_equal(b->echo->kicks, 0);
	fdrv_up(&b->drv, b->vm, &b->echo->vdev.dev, FDRV_ALL_FEATURES, ECHO_QUEUES, 8);
	assert_int_equal(fdrv_request(&b->drv, 0, &buf, 1, &buf, 1), 8);
	bench_free(b);
}

static void a_queue_that_the_driver_stopped_stays_stopped(void **state)
{
	struct bench *b = bench_up(&variants[0], 8);
	struct fbuf buf = {fake_vm_alloc(b->vm, 8, 1), 8};

	(void)state;
	assert_int_equal(fdrv_request(&b->drv, 1, &buf, 1, &buf, 1), 8);
	fdrv_write(&b->drv, MMIO_QUEUE_SEL, 1);
	fdrv_write(&b->drv, MMIO_QUEUE_READY, 0);
	hop(b);
	assert_int_equal(fdrv_read(&b->drv, MMIO_QUEUE_READY), 0);
	assert_int_equal(fdrv_request(&b->drv, 0, &buf, 1, &buf, 1), 8);
	bench_free(b);
}

static void nothing_is_saved_with_requests_in_flight(void **state)
{
	struct bench *b = bench_up(&variants[1], 8);
	struct fbuf buf = {fake_vm_alloc(b->vm, 8, 1), 8};
	struct err e = {0};

	(void)state;
	__atomic_store_n(&b->echo->cfg.hold, true, __ATOMIC_RELAXED);
	assert_true(fdrv_add(&b->drv, 1, &buf, 1, &buf, 1, NULL));
	fdrv_kick(&b->drv, 1);
	fdrv_sync(&b->drv);
	assert_int_equal(saved_take(&b->saved, b->vm, &b->echo->vdev.dev, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "queue 1 still has 1 requests in flight"));
	fdrv_write(&b->drv, MMIO_STATUS, 0);
	saved_free(&b->saved);
	assert_int_equal(saved_take(&b->saved, b->vm, &b->echo->vdev.dev, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "resets it just now"));
	echo_release(b->echo);
	assert_true(fdrv_reset(&b->drv, TIMEOUT_MS));
	hop(b);
	assert_int_equal(fdrv_read(&b->drv, MMIO_STATUS), 0);
	bench_free(b);
}

/* ---- states that somebody made up ---- */

static void expect_refusal(struct bench *b, const char *words)
{
	struct err e = {0};

	assert_int_equal(saved_put(&b->saved, b->vm, &b->echo->vdev.dev, &e), -EINVAL);
	if (!strstr(e.msg, words))
		fail_msg("\"%s\" does not say \"%s\"", e.msg, words);
}

#define REFUSED(b, change, words) \
	do { \
		struct virtio_state *s = state_of(b), good = *s; \
		struct virtq_state *q = &s->queues[1]; \
		(void)q; \
		change; \
		expect_refusal(b, words); \
		*s = good; \
	} while (0)

static void refuse_common(struct bench *b)
{
	REFUSED(b, s->type = 1, "virtio type");
	REFUSED(b, s->nr_queues = 1, "it has 2 queues, in the snapshot 1");
	REFUSED(b, s->nr_queues = 3, "it has 2 queues, in the snapshot 3");
	REFUSED(b, s->isr = 4, "isr");
	REFUSED(b, s->status = 0x10, "unknown bits");
	REFUSED(b, s->status = 0xd, "comes before");
	REFUSED(b, s->status = 0xb, "does not go with");
	REFUSED(b, s->live = false, "does not go with");
	REFUSED(b, s->driver_features |= BIT(50) | BIT(VIRTIO_F_IN_ORDER), "does not offer here: IN_ORDER, bit 50;");
	REFUSED(b, s->driver_features &= ~BIT(VIRTIO_F_VERSION_1), "VERSION_1");
	REFUSED(b, q->size = 0, "queue 1: a size of 0");
	REFUSED(b, q->size = 257, "size");
	REFUSED(b, q->desc_gpa++, "queue 1: descriptor area");
	REFUSED(b, q->desc_gpa = 3 * GIB, "is not in RAM");
	REFUSED(b, q->driver_gpa = FAKE_RAM_LOW - 2, "driver area");
	REFUSED(b, q->device_gpa = ~3ull, "device area");
	REFUSED(b, q->used_idx++, "differ with nothing in flight");
}

static void impossible_states_are_refused_by_name(void **state)
{
	struct bench *b = bench_up(&variants[0], 8);
	struct fbuf buf = {fake_vm_alloc(b->vm, 8, 1), 8};

	(void)state;
	take(b);
	refuse_common(b);
	REFUSED(b, q->size = 12, "queue 1: a size of 12");
	saved_resume(b->vm, &b->echo->vdev.dev); /* and nothing has changed */
	assert_int_equal(fdrv_request(&b->drv, 1, &buf, 1, &buf, 1), 8);
	bench_free(b);

	b = bench_up(&variants[2], 8);
	take(b);
	refuse_common(b);
	REFUSED(b, q->last_avail = q->used_idx = 8, "outside of 8 slots");
	REFUSED(b, q->used_wrap = !q->used_wrap, "differ with nothing in flight");
	bench_free(b);

	b = bench_new(0);
	take(b);
	REFUSED(b, q->last_avail = 1, "has a position");
	bench_free(b);
}

static void change_something(struct virtio_state *s, unsigned *seed)
{
	struct virtq_state *q = &s->queues[rand_r(seed) % ECHO_QUEUES];

	switch (rand_r(seed) % 10) {
	case 0:
		q->desc_gpa = (u64)rand_r(seed) << 4;
		break;
	case 1:
		q->driver_gpa = (u64)rand_r(seed) << 2;
		break;
	case 2:
		q->device_gpa = (u64)rand_r(seed) << 2;
		break;
	case 3:
		q->size = (u16)(1 << rand_r(seed) % 9);
		break;
	case 4:
		q->last_avail = q->used_idx = (u16)rand_r(seed);
		break;
	case 5:
		q->avail_wrap = q->used_wrap = rand_r(seed) & 1;
		break;
	case 6:
		s->driver_features ^= BIT(28 + rand_r(seed) % 7);
		break;
	case 7:
		s->status ^= (u8)BIT(rand_r(seed) % 8);
		break;
	case 8:
		q->enabled = !q->enabled;
		break;
	default:
		s->live = !s->live;
		break;
	}
}

/* Whatever was accepted, the device works on it, or breaks; a reset always helps. */
static void no_state_does_harm(void **state)
{
	struct bench *b = bench_up(&variants[0], 8);
	struct fbuf buf = {fake_vm_alloc(b->vm, 8, 1), 8};
	u32 accepted = 0;
	unsigned seed = 7;

	(void)state;
	take(b);
	for (u32 i = 0; i < 3000; i++) {
		struct virtio_state good = *state_of(b);

		for (u32 n = 1 + (u32)rand_r(&seed) % 4; n; n--)
			change_something(state_of(b), &seed);
		if (saved_put(&b->saved, b->vm, &b->echo->vdev.dev, NULL) == 0) {
			accepted++;
			saved_resume(b->vm, &b->echo->vdev.dev);
			fdrv_notify(&b->drv, 0);
			fdrv_notify(&b->drv, 1);
			fdrv_sync(&b->drv);
		}
		*state_of(b) = good;
	}
	print_message("# %u of 3000 accepted\n", accepted);
	assert_in_range(accepted, 100, 2900);
	fdrv_up(&b->drv, b->vm, &b->echo->vdev.dev, FDRV_ALL_FEATURES, ECHO_QUEUES, 8);
	assert_int_equal(fdrv_request(&b->drv, 1, &buf, 1, &buf, 1), 8);
	bench_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(requests_survive_a_move_at_any_moment),
		cmocka_unit_test(a_vm_goes_on_after_it_was_saved),
		cmocka_unit_test(what_is_saved_is_what_was_loaded),
		cmocka_unit_test(a_live_device_gets_one_interrupt_after_a_restore),
		cmocka_unit_test(an_interrupt_that_was_not_acknowledged_comes_again),
		cmocka_unit_test(a_driver_may_be_in_the_middle_of_its_set_up),
		cmocka_unit_test(a_broken_device_stays_broken_until_it_is_reset),
		cmocka_unit_test(a_queue_that_the_driver_stopped_stays_stopped),
		cmocka_unit_test(nothing_is_saved_with_requests_in_flight),
		cmocka_unit_test(impossible_states_are_refused_by_name),
		cmocka_unit_test(no_state_does_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
