/* test_virtio_mmio.c: the register file, the status machine, reset and the configuration space, as a driver sees them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/dev/echo_device.h"
#include "tests/dev/fake_driver.h"

#define S_DRIVER      (VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER)
#define S_FEATURES_OK (S_DRIVER | VIRTIO_S_FEATURES_OK)
#define S_DRIVER_OK   (S_FEATURES_OK | VIRTIO_S_DRIVER_OK)
#define TIMEOUT_MS    5000u
#define CORE_FEATURES (FDRV_VERSION_1 | FDRV_INDIRECT | FDRV_EVENT_IDX | FDRV_PACKED)
#define OFFERED	      (CORE_FEATURES | BIT(ECHO_F_EXTRA))

struct bench {
	struct fake_vm f;
	struct fdrv d;
	struct echo_dev *echo;
};

static u32 kicks_of(const struct bench *b)
{
	return __atomic_load_n(&b->echo->kicks, __ATOMIC_RELAXED);
}

/* A VM with an echo device that no driver has touched yet. */
static struct bench *bench_new(const struct echo_cfg *cfg, u32 vm_flags)
{
	struct bench *b = xzalloc(sizeof(*b));
	struct device *dev;

	fake_vm_init(&b->f, FAKE_VM_QUIET | vm_flags);
	dev = fake_vm_add(&b->f, &echo_class, cfg);
	b->echo = to_echo(dev);
	fake_vm_start(&b->f);
	b->d = (struct fdrv){.f = &b->f, .dev = dev, .base = dev->slot.mmio_base, .gsi = dev->slot.gsi};
	return b;
}

static int setup(void **state)
{
	*state = bench_new(NULL, 0);
	return 0;
}

static int setup_hold(void **state)
{
	static const struct echo_cfg cfg = {.hold = true};

	*state = bench_new(&cfg, 0);
	return 0;
}

static int setup_ioeventfd(void **state)
{
	*state = bench_new(NULL, FAKE_VM_IOEVENTFD);
	return 0;
}

static int setup_fail_activate(void **state)
{
	static const struct echo_cfg cfg = {.fail_activate = true};

	*state = bench_new(&cfg, 0);
	return 0;
}

static int teardown(void **state)
{
	struct bench *b = *state;

	fake_vm_fini(&b->f);
	free(b);
	return 0;
}

static struct fdrv *up(struct bench *b)
{
	fdrv_up(&b->d, &b->f, b->d.dev, FDRV_ALL_FEATURES, ECHO_QUEUES, 8);
	return &b->d;
}

static u32 status(struct fdrv *d)
{
	return fdrv_read(d, MMIO_STATUS);
}

static void set_features(struct fdrv *d, u64 features)
{
	for (u32 sel = 0; sel < 2; sel++) {
		fdrv_write(d, MMIO_DRIVER_FEATURES_SEL, sel);
		fdrv_write(d, MMIO_DRIVER_FEATURES, (u32)(features >> (32 * sel)));
	}
}

static void add_one(struct fdrv *d, u16 q)
{
	static const struct fbuf in = {0, 8};

	assert_true(fdrv_add(d, q, NULL, 0, &in, 1, NULL));
}

static void check_works(struct fdrv *d)
{
	struct fbuf out = {fake_vm_alloc(d->f, 8, 1), 8}, in = {fake_vm_alloc(d->f, 8, 1), 8};

	memcpy(fake_vm_ptr(d->f, out.gpa, 8), "it works", 8);
	assert_int_equal(fdrv_request(d, 1, &out, 1, &in, 1), 8);
	assert_memory_equal(fake_vm_ptr(d->f, in.gpa, 8), "it works", 8);
}

/* ---- identity and features ---- */

static void the_register_file_identifies_itself(void **state)
{
	struct fdrv *d = &((struct bench *)*state)->d;

	assert_int_equal(fdrv_read(d, MMIO_MAGIC), 0x74726976);
	assert_int_equal(fdrv_read(d, MMIO_VERSION), 2);
	assert_int_equal(fdrv_read(d, MMIO_DEVICE_ID), ECHO_TYPE);
	assert_int_equal(fdrv_read(d, MMIO_VENDOR_ID), 0x4b535548);
	assert_int_equal(status(d), 0);
}

static void there_are_no_shared_memory_regions(void **state)
{
	struct fdrv *d = &((struct bench *)*state)->d;

	fdrv_write(d, MMIO_SHM_SEL, 0);
	assert_int_equal(fdrv_read(d, MMIO_SHM_LEN_LOW), UINT32_MAX);
	assert_int_equal(fdrv_read(d, MMIO_SHM_LEN_HIGH), UINT32_MAX);
	assert_int_equal(fdrv_read(d, MMIO_SHM_BASE_LOW), UINT32_MAX);
	assert_int_equal(fdrv_read(d, MMIO_SHM_BASE_HIGH), UINT32_MAX);
}

static void features_are_read_through_a_window(void **state)
{
	struct fdrv *d = &((struct bench *)*state)->d;
	static const u32 expect[] = {(u32)OFFERED, (u32)(OFFERED >> 32), 0, 0};

	for (u32 sel = 0; sel < ARRAY_SIZE(expect); sel++) {
		fdrv_write(d, MMIO_DEVICE_FEATURES_SEL, sel);
		assert_int_equal(fdrv_read(d, MMIO_DEVICE_FEATURES), expect[sel]);
	}
}

static void features_that_were_not_offered_are_refused(void **state)
{
	struct fdrv *d = &((struct bench *)*state)->d;
	static const u64 bad[] = {FDRV_VERSION_1 | BIT(0), OFFERED | BIT(63), OFFERED & ~FDRV_VERSION_1, 0};

	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		fdrv_write(d, MMIO_STATUS, 0);
		fdrv_write(d, MMIO_STATUS, S_DRIVER);
		set_features(d, bad[i]);
		fdrv_write(d, MMIO_STATUS, S_FEATURES_OK);
		assert_int_equal(status(d), S_DRIVER);
		/* It may think again. */
		set_features(d, FDRV_VERSION_1);
		fdrv_write(d, MMIO_STATUS, S_FEATURES_OK);
		assert_int_equal(status(d), S_FEATURES_OK);
	}
}

static void features_are_read_only_after_features_ok(void **state)
{
	struct bench *b = *state;

	assert_true(fdrv_probe(&b->d, &b->f, b->d.dev, FDRV_EVENT_IDX));
	set_features(&b->d, OFFERED);
	assert_int_equal(b->echo->vdev.driver_features, FDRV_EVENT_IDX | FDRV_VERSION_1);
}

static void features_beyond_64_bits_are_ignored(void **state)
{
	struct bench *b = *state;

	fdrv_write(&b->d, MMIO_STATUS, S_DRIVER);
	set_features(&b->d, FDRV_VERSION_1);
	fdrv_write(&b->d, MMIO_DRIVER_FEATURES_SEL, 2);
	fdrv_write(&b->d, MMIO_DRIVER_FEATURES, 0xffffffff);
	assert_int_equal(b->echo->vdev.driver_features, FDRV_VERSION_1);
}

/* ---- status ---- */

static void status_bits_come_in_order_and_stay(void **state)
{
	struct fdrv *d = &((struct bench *)*state)->d;
	/* from, written, then: */
	static const u32 steps[][3] = {
		{0, VIRTIO_S_DRIVER, 0},
		{0, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_FEATURES_OK, 0},
		{0, VIRTIO_S_DRIVER_OK, 0},
		{0, 0x10, 0},
		{0, 0x100 | VIRTIO_S_ACKNOWLEDGE, 0},
		{0, VIRTIO_S_ACKNOWLEDGE, VIRTIO_S_ACKNOWLEDGE},
		{VIRTIO_S_ACKNOWLEDGE, VIRTIO_S_DRIVER, VIRTIO_S_ACKNOWLEDGE}, /* takes a bit back */
		{VIRTIO_S_ACKNOWLEDGE, S_DRIVER, S_DRIVER},
		{S_DRIVER, S_DRIVER | VIRTIO_S_DRIVER_OK, S_DRIVER}, /* no FEATURES_OK */
		{S_DRIVER, S_DRIVER_OK, S_DRIVER},		     /* both at once */
		{S_DRIVER, S_DRIVER | VIRTIO_S_NEEDS_RESET, S_DRIVER},
		{S_DRIVER, S_FEATURES_OK, S_FEATURES_OK},
		{S_FEATURES_OK, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_FAILED, S_FEATURES_OK},
		{S_FEATURES_OK, S_DRIVER_OK, S_DRIVER_OK},
		{S_DRIVER_OK, S_FEATURES_OK, S_DRIVER_OK},
		{S_DRIVER_OK, S_DRIVER_OK | VIRTIO_S_FAILED, S_DRIVER_OK | VIRTIO_S_FAILED},
		{S_DRIVER_OK | VIRTIO_S_FAILED, 0, 0},
	};

	set_features(d, FDRV_VERSION_1);
	for (u32 i = 0; i < ARRAY_SIZE(steps); i++) {
		assert_int_equal(status(d), steps[i][0]);
		fdrv_write(d, MMIO_STATUS, steps[i][1]);
		assert_int_equal(status(d), steps[i][2]);
	}
}

static void driver_ok_without_queues_is_fine(void **state)
{
	struct bench *b = *state;

	assert_true(fdrv_probe(&b->d, &b->f, b->d.dev, FDRV_ALL_FEATURES));
	assert_true(fdrv_driver_ok(&b->d));
	assert_int_equal(b->echo->activations, 1);
}

static void a_device_that_cannot_start_needs_a_reset(void **state)
{
	struct bench *b = *state;

	assert_true(fdrv_probe(&b->d, &b->f, b->d.dev, FDRV_ALL_FEATURES));
	assert_false(fdrv_driver_ok(&b->d));
	assert_int_equal(fdrv_isr(&b->d), VIRTIO_ISR_CONFIG);
	assert_true(fdrv_reset(&b->d, 0));
	assert_int_equal(b->echo->resets, 0); /* it never ran */
}

static void only_a_reset_helps_a_broken_device(void **state)
{
	struct bench *b = *state;
	struct fdrv *d = up(b);
	u32 kicks;

	device_lock(b->d.dev);
	virtio_broken(&b->echo->vdev, "test");
	virtio_broken(&b->echo->vdev, "reported once");
	device_unlock(b->d.dev);
	fdrv_sync(d);
	kicks = kicks_of(b);
	assert_int_equal(status(d), S_DRIVER_OK | VIRTIO_S_NEEDS_RESET);
	assert_int_equal(fdrv_edges(d), 1);
	assert_int_equal(fdrv_isr(d), VIRTIO_ISR_CONFIG);
	fdrv_write(d, MMIO_STATUS, S_DRIVER_OK);
	add_one(d, 0);
	fdrv_notify(d, 0);
	fdrv_sync(d);
	assert_int_equal(status(d), S_DRIVER_OK | VIRTIO_S_NEEDS_RESET);
	assert_int_equal(kicks_of(b), kicks);
	check_works(up(b));
}

/* ---- queues ---- */

static void a_queue_that_is_not_there_has_no_size(void **state)
{
	struct fdrv *d = &((struct bench *)*state)->d;
	static const u32 sel[] = {0, ECHO_QUEUES - 1, ECHO_QUEUES, 0x10000, UINT32_MAX};

	for (u32 i = 0; i < ARRAY_SIZE(sel); i++) {
		fdrv_write(d, MMIO_QUEUE_SEL, sel[i]);
		assert_int_equal(fdrv_read(d, MMIO_QUEUE_NUM_MAX), sel[i] < ECHO_QUEUES ? 256 : 0);
		fdrv_write(d, MMIO_QUEUE_NUM, 16);
		fdrv_write(d, MMIO_QUEUE_READY, 1);
		assert_int_equal(fdrv_read(d, MMIO_QUEUE_READY), 0); /* before FEATURES_OK, or not there */
	}
}

static void queue_registers_are_closed_while_the_queue_is_ready(void **state)
{
	struct bench *b = *state;
	struct virtq *q = &b->echo->vdev.queues[0];
	u64 desc;

	assert_true(fdrv_probe(&b->d, &b->f, b->d.dev, FDRV_ALL_FEATURES));
	fdrv_queue_setup(&b->d, 0, 8);
	desc = q->desc_gpa;
	fdrv_write(&b->d, MMIO_QUEUE_NUM, 16);
	fdrv_write(&b->d, MMIO_QUEUE_DESC_HIGH, 1);
	fdrv_write(&b->d, MMIO_QUEUE_DESC_LOW, 0x1000);
	assert_int_equal(q->size, 8);
	assert_int_equal(q->desc_gpa, desc);
	/* Not ready any more: open again. */
	fdrv_write(&b->d, MMIO_QUEUE_READY, 0);
	fdrv_write(&b->d, MMIO_QUEUE_NUM, 16);
	fdrv_write(&b->d, MMIO_QUEUE_DESC_HIGH, 1);
	fdrv_write(&b->d, MMIO_QUEUE_DESC_LOW, 0x1000);
	assert_int_equal(q->size, 16);
	assert_int_equal(q->desc_gpa, 0x100001000);
	fdrv_queue_write(&b->d, 0);
	/* After DRIVER_OK: closed, and a stopped queue stays stopped. */
	assert_true(fdrv_driver_ok(&b->d));
	fdrv_write(&b->d, MMIO_QUEUE_READY, 0);
	assert_int_equal(fdrv_read(&b->d, MMIO_QUEUE_READY), 0);
	fdrv_write(&b->d, MMIO_QUEUE_NUM, 32);
	assert_int_equal(q->size, 8);
	fdrv_write(&b->d, MMIO_QUEUE_READY, 1);
	assert_int_equal(fdrv_read(&b->d, MMIO_QUEUE_READY), 0);
}

static void a_stopped_queue_yields_nothing(void **state)
{
	struct bench *b = *state;
	struct fdrv *d = up(b);
	u32 kicks;

	fdrv_sync(d);
	kicks = kicks_of(b);
	fdrv_write(d, MMIO_QUEUE_SEL, 0);
	fdrv_write(d, MMIO_QUEUE_READY, 0);
	add_one(d, 0);
	fdrv_notify(d, 0);
	fdrv_sync(d);
	assert_int_equal(kicks_of(b), kicks);
	check_works(d); /* the other queue */
}

static void only_ready_queues_are_checked(void **state)
{
	struct bench *b = *state;

	assert_true(fdrv_probe(&b->d, &b->f, b->d.dev, FDRV_ALL_FEATURES));
	fdrv_queue_setup(&b->d, 1, 8);
	fdrv_write(&b->d, MMIO_QUEUE_SEL, 0);
	fdrv_write(&b->d, MMIO_QUEUE_DESC_HIGH, 0x7777);
	assert_true(fdrv_driver_ok(&b->d));
	check_works(&b->d);
}

/* ---- notifications and interrupts ---- */

static void notifying_what_is_not_there_is_ignored(void **state)
{
	struct bench *b = *state;
	static const u32 queues[] = {ECHO_QUEUES, 0xffff, 0x10000, UINT32_MAX};

	fdrv_notify(&b->d, 0); /* not ready */
	up(b);
	for (u32 i = 0; i < ARRAY_SIZE(queues); i++)
		fdrv_write(&b->d, MMIO_QUEUE_NOTIFY, queues[i]);
	check_works(&b->d);
}

static void buffers_from_before_driver_ok_are_seen(void **state)
{
	struct bench *b = *state;

	assert_true(fdrv_probe(&b->d, &b->f, b->d.dev, FDRV_ALL_FEATURES));
	fdrv_queue_setup(&b->d, 0, 8);
	add_one(&b->d, 0);
	fdrv_notify(&b->d, 0); /* too early, by the letter */
	fdrv_sync(&b->d);
	assert_int_equal(kicks_of(b), 0);
	assert_true(fdrv_driver_ok(&b->d));
	assert_true(fdrv_wait_used(&b->d, 0, NULL, NULL, TIMEOUT_MS));
}

static void the_accelerator_gets_an_ioeventfd_per_queue(void **state)
{
	struct bench *b = *state;

	assert_int_equal(b->f.nr_ioeventfds, ECHO_QUEUES);
	for (u32 i = 0; i < ECHO_QUEUES; i++)
		assert_int_equal(b->f.ioeventfds[i].addr, b->d.base + MMIO_QUEUE_NOTIFY);
	check_works(up(b));
	/* teardown checks that they are taken back */
}

static void interrupt_bits_stay_until_acknowledged(void **state)
{
	struct bench *b = *state;
	struct fdrv *d = up(b);

	d->q[0].polled = true;
	add_one(d, 0);
	fdrv_kick(d, 0);
	assert_true(fdrv_wait_used(d, 0, NULL, NULL, TIMEOUT_MS));
	fdrv_sync(d);
	device_lock(d->dev);
	virtio_config_changed(&b->echo->vdev);
	device_unlock(d->dev);
	assert_int_equal(fdrv_isr(d), VIRTIO_ISR_USED | VIRTIO_ISR_CONFIG);
	fdrv_write(d, MMIO_INTERRUPT_ACK, VIRTIO_ISR_USED);
	assert_int_equal(fdrv_isr(d), VIRTIO_ISR_CONFIG);
	fdrv_write(d, MMIO_INTERRUPT_ACK, UINT32_MAX);
	assert_int_equal(fdrv_isr(d), 0);
	assert_int_equal(fdrv_edges(d), 2);
}

/* ---- configuration space ---- */

static void configuration_is_read_in_any_size(void **state)
{
	struct fdrv *d = &((struct bench *)*state)->d;

	assert_int_equal(fdrv_config8(d, 0), 1);
	assert_int_equal(fdrv_config8(d, 11), 12);
	assert_int_equal(fdrv_config16(d, 2), 0x0403);
	assert_int_equal(fdrv_config32(d, 4), 0x08070605);
	assert_int_equal(fdrv_config64(d, 0), 0x0807060504030201);
	assert_int_equal(fdrv_config32(d, 3), 0x07060504); /* unaligned */
}

static void configuration_beyond_its_end_is_zero_and_not_written(void **state)
{
	struct bench *b = *state;
	struct fdrv *d = &b->d;
	u8 before[ECHO_CONFIG_LEN];
	static const u64 ones = ~0ull;

	assert_int_equal(fdrv_config64(d, 8), 0x0c0b0a09);
	assert_int_equal(fdrv_config32(d, 10), 0x0c0b);
	assert_int_equal(fdrv_config8(d, 12), 0);
	assert_int_equal(fdrv_config64(d, 0xef8), 0);
	memcpy(before, b->echo->config, sizeof(before));
	fdrv_config_write(d, 0, &ones, 1); /* no driver yet */
	fdrv_write(d, MMIO_STATUS, S_DRIVER);
	fdrv_config_write(d, 8, &ones, 8);
	fdrv_config_write(d, 10, &ones, 4);
	fdrv_config_write(d, 12, &ones, 1);
	assert_memory_equal(before, b->echo->config, sizeof(before));
	fdrv_config_write(d, 8, &ones, 4);
	assert_int_equal(fdrv_config64(d, 4), 0xffffffff08070605);
}

static void configuration_changes_are_counted_over_resets(void **state)
{
	struct bench *b = *state;
	struct fdrv *d = &b->d;

	virtio_config_changed(&b->echo->vdev);
	assert_int_equal(fdrv_read(d, MMIO_CONFIG_GENERATION), 1);
	assert_int_equal(fdrv_isr(d), 0); /* nobody is there to be told */
	up(b);
	assert_int_equal(fdrv_read(d, MMIO_CONFIG_GENERATION), 1);
	device_lock(d->dev);
	virtio_config_changed(&b->echo->vdev);
	device_unlock(d->dev);
	assert_true(fdrv_reset(d, 0));
	assert_int_equal(fdrv_read(d, MMIO_CONFIG_GENERATION), 2);
}

static void registers_take_32_bit_accesses_only(void **state)
{
	struct bench *b = *state;
	u64 val = ~0ull;

	for (u32 len = 1; len <= 8; len = len == 2 ? 8 : len * 2) {
		val = ~0ull;
		bus_read(&b->f.vm, BUS_MMIO, b->d.base + MMIO_MAGIC, &val, len);
		assert_int_equal(val << (64 - 8 * len), 0);
		val = VIRTIO_S_ACKNOWLEDGE;
		bus_write(&b->f.vm, BUS_MMIO, b->d.base + MMIO_STATUS, &val, len);
		assert_int_equal(status(&b->d), 0);
	}
	val = ~0ull;
	bus_read(&b->f.vm, BUS_MMIO, b->d.base + MMIO_MAGIC + 2, &val, 4);
	assert_int_equal((u32)val, 0);
}

static void every_register_may_be_poked(void **state)
{
	struct bench *b = *state;

	for (u32 reg = 0; reg < 0x1000; reg += 4) {
		for (u32 bit = 0; bit < 32; bit += 5)
			fdrv_write(&b->d, reg, 1u << bit | 1);
		fdrv_read(&b->d, reg);
	}
	check_works(up(b));
}

/* ---- reset ---- */

static void reset_forgets_what_the_driver_set(void **state)
{
	struct bench *b = *state;
	struct fdrv *d = up(b);

	assert_int_equal(fdrv_request(d, 0, NULL, 0, &(struct fbuf){0, 8}, 1), 0);
	device_lock(d->dev);
	virtio_interrupt(&b->echo->vdev);
	device_unlock(d->dev);
	assert_true(fdrv_reset(d, 0));
	assert_int_equal(b->echo->resets, 1);
	assert_int_equal(fdrv_isr(d), 0);
	assert_int_equal(b->echo->vdev.driver_features, 0);
	for (u32 i = 0; i < ECHO_QUEUES; i++) {
		const struct virtq *q = &b->echo->vdev.queues[i];

		fdrv_write(d, MMIO_QUEUE_SEL, i);
		fdrv_write(d, MMIO_QUEUE_READY, 0); /* as Linux does after a reset */
		assert_int_equal(fdrv_read(d, MMIO_QUEUE_READY), 0);
		assert_int_equal(q->size, 0);
		assert_true(!q->desc_gpa && !q->driver_gpa && !q->device_gpa && !q->desc);
	}
	check_works(up(b));
}

static void many_resets_leave_a_working_device(void **state)
{
	static const u64 features[] = {0, FDRV_PACKED, FDRV_ALL_FEATURES, FDRV_EVENT_IDX};
	struct bench *b = *state;

	for (u32 i = 0; i < 40; i++) {
		fdrv_up(&b->d, &b->f, b->d.dev, features[i % 4], ECHO_QUEUES, 8);
		check_works(&b->d);
		add_one(&b->d, 0);
		fdrv_kick(&b->d, 0); /* reset meets it anywhere */
	}
}

/* Puts two requests in flight; the device holds them. */
static void two_in_flight(struct bench *b)
{
	struct fdrv *d = up(b);

	memset(fake_vm_ptr(d->f, 0, 8), 0, 8);
	add_one(d, 0);
	add_one(d, 0);
	fdrv_notify(d, 0);
	fdrv_sync(d);
	assert_int_equal(b->echo->nr_held, 2);
}

static void reset_waits_for_requests_in_flight(void **state)
{
	struct bench *b = *state;
	struct fdrv *d = &b->d;
	u32 edges;
	u16 used;

	two_in_flight(b);
	edges = fdrv_edges(d);
	assert_false(fdrv_reset(d, 20));
	assert_false(fdrv_reset(d, 1)); /* asking again changes nothing */
	assert_int_equal(b->echo->resets, 1);
	used = ld_le16(d->q[0].device + 2);
	echo_release(b->echo);
	assert_true(fdrv_reset(d, TIMEOUT_MS));
	/* The requests ended, but neither ring nor interrupt told so. */
	assert_int_equal(ld_le16(d->q[0].device + 2), used);
	assert_int_equal(fdrv_edges(d), edges);
	assert_int_equal(fdrv_isr(d), 0);
	b->echo->cfg.hold = false;
	check_works(up(b));
}

static void a_driver_that_does_not_wait_for_reset_works_after_it(void **state)
{
	struct bench *b = *state;
	struct fdrv *d = &b->d;

	two_in_flight(b);
	fdrv_write(d, MMIO_STATUS, 0);
	/* What Linux does over virtio-mmio: straight on. */
	fdrv_write(d, MMIO_STATUS, VIRTIO_S_ACKNOWLEDGE);
	fdrv_write(d, MMIO_STATUS, S_DRIVER);
	set_features(d, FDRV_VERSION_1);
	d->features = FDRV_VERSION_1;
	fdrv_write(d, MMIO_STATUS, S_FEATURES_OK);
	assert_int_equal(status(d), S_FEATURES_OK);
	fdrv_queue_setup(d, 0, 8);
	fdrv_queue_setup(d, 1, 8);
	assert_true(fdrv_driver_ok(d));
	device_lock(d->dev);
	b->echo->cfg.hold = false;
	assert_int_equal(b->echo->activations, 1); /* the old requests are still there */
	device_unlock(d->dev);
	add_one(d, 0);
	fdrv_notify(d, 0);
	fdrv_sync(d);
	assert_int_equal(ld_le16(d->q[0].device + 2), 0);
	echo_release(b->echo);
	assert_true(fdrv_wait_used(d, 0, NULL, NULL, TIMEOUT_MS)); /* the kick was not lost */
	check_works(d);
	assert_int_equal(b->echo->activations, 2);
}

static void a_broken_device_with_requests_in_flight_resets(void **state)
{
	struct bench *b = *state;
	struct fdrv *d = &b->d;

	two_in_flight(b);
	device_lock(d->dev);
	virtio_broken(&b->echo->vdev, "test");
	device_unlock(d->dev);
	assert_false(fdrv_reset(d, 1));
	echo_release(b->echo);
	assert_true(fdrv_reset(d, TIMEOUT_MS));
	b->echo->cfg.hold = false;
	check_works(up(b));
}

#define test(name)	       cmocka_unit_test_setup_teardown(name, setup, teardown)
#define test_with(name, setup) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(the_register_file_identifies_itself),
		test(there_are_no_shared_memory_regions),
		test(features_are_read_through_a_window),
		test(features_that_were_not_offered_are_refused),
		test(features_are_read_only_after_features_ok),
		test(features_beyond_64_bits_are_ignored),
		test(status_bits_come_in_order_and_stay),
		test(driver_ok_without_queues_is_fine),
		test_with(a_device_that_cannot_start_needs_a_reset, setup_fail_activate),
		test(only_a_reset_helps_a_broken_device),
		test(a_queue_that_is_not_there_has_no_size),
		test(queue_registers_are_closed_while_the_queue_is_ready),
		test_with(a_stopped_queue_yields_nothing, setup_ioeventfd),
		test(only_ready_queues_are_checked),
		test(notifying_what_is_not_there_is_ignored),
		test(buffers_from_before_driver_ok_are_seen),
		test_with(the_accelerator_gets_an_ioeventfd_per_queue, setup_ioeventfd),
		test(interrupt_bits_stay_until_acknowledged),
		test(configuration_is_read_in_any_size),
		test(configuration_beyond_its_end_is_zero_and_not_written),
		test(configuration_changes_are_counted_over_resets),
		test(registers_take_32_bit_accesses_only),
		test(every_register_may_be_poked),
		test(reset_forgets_what_the_driver_set),
		test(many_resets_leave_a_working_device),
		test_with(reset_waits_for_requests_in_flight, setup_hold),
		test_with(a_driver_that_does_not_wait_for_reset_works_after_it, setup_hold),
		test_with(a_broken_device_with_requests_in_flight_resets, setup_hold),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
