/* test_hostile.c: what a hostile driver can put into rings and registers ends in NEEDS_RESET, and a reset makes the device work again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/dev/echo_device.h"
#include "tests/dev/fake_driver.h"

#define TIMEOUT_MS  5000u
#define QSIZE	    8u
#define OUTSIDE	    (3 * GIB) /* between the two regions */
#define BUF	    0x2000ull
#define TABLE	    0x4000ull
#define SCRIBBLE_MS 300u

enum layout { SPLIT = 1, PACKED = 2, BOTH = 3 };

struct bench {
	struct fake_vm f;
	struct fdrv d;
	struct echo_dev *echo;
	int log_fd;
};

static struct bench *bench_new(const struct echo_cfg *cfg)
{
	struct bench *b = xzalloc(sizeof(*b));

	fake_vm_init(&b->f, 0);
	b->log_fd = memfd_create("log", MFD_CLOEXEC);
	assert_true(b->log_fd >= 0);
	b->f.log.fd = b->log_fd;
	b->echo = to_echo(fake_vm_add(&b->f, &echo_class, cfg));
	fake_vm_start(&b->f);
	return b;
}

static void bench_free(struct bench *b)
{
	fake_vm_fini(&b->f);
	close(b->log_fd);
	free(b);
}

/* Empties the log, and its limit. */
static void log_clear(struct bench *b)
{
	device_lock(&b->echo->vdev.dev);
	b->echo->vdev.dev.guest_log = (struct log_limit){0};
	device_unlock(&b->echo->vdev.dev);
	assert_int_equal(ftruncate(b->log_fd, 0), 0);
	lseek(b->log_fd, 0, SEEK_SET);
}

static void check_log(struct bench *b, const char *expect)
{
	char text[4096];
	ssize_t n = pread(b->log_fd, text, sizeof(text) - 1, 0);

	assert_true(n >= 0);
	text[n] = '\0';
	if (!strstr(text, expect))
		fail_msg("the log does not say \"%s\" but: %s", expect, text);
}

static void bench_up(struct bench *b, u64 features, u16 size)
{
	fdrv_up(&b->d, &b->f, &b->echo->vdev.dev, features, ECHO_QUEUES, size);
}

static void check_works(struct bench *b, u64 features)
{
	struct fbuf out = {BUF, 8}, in = {BUF + 16, 8};

	bench_up(b, features, QSIZE);
	memcpy(fake_vm_ptr(&b->f, BUF, 8), "it works", 8);
	assert_int_equal(fdrv_request(&b->d, 0, &out, 1, &in, 1), 8);
	assert_memory_equal(fake_vm_ptr(&b->f, BUF + 16, 8), "it works", 8);
}

/* The device says NEEDS_RESET with a configuration interrupt; a reset and a new start make it work. */
static void check_broken_then_recovers(struct bench *b, u64 features)
{
	if (!fdrv_wait_needs_reset(&b->d, TIMEOUT_MS))
		fail_msg("the device did not object");
	assert_true(fdrv_isr(&b->d) & VIRTIO_ISR_CONFIG);
	assert_true(fdrv_edges(&b->d) > 0);
	check_works(b, features);
}

/* ---- one bad chain ---- */

struct raw {
	u64 gpa;
	u32 len;
	u16 flags;
	u16 next; /* split */
};

#define MAX_RAW 24u

struct bad_chain {
	const char *name, *expect; /* expect: part of what the log says */
	enum layout layout;
	u64 no_features;
	u16 size; /* of the queue; 0 = QSIZE */
	u32 nr, nr_table;
	struct raw ring[MAX_RAW];
	struct raw table[MAX_RAW]; /* written at TABLE */
};

#define REF(bytes) \
	{ \
		TABLE, (bytes), FDESC_INDIRECT, 0 \
	}
#define BIG(i) \
	{ \
		0, 200u << 20, FDESC_NEXT, (i) + 1 \
	}

static const struct bad_chain bad_chains[] = {
	{"element outside RAM", "is not in RAM", BOTH, .nr = 1, .ring = {{OUTSIDE, 16, 0, 0}}},
	{"writable element outside RAM", "is not in RAM", BOTH, .nr = 1, .ring = {{OUTSIDE, 16, FDESC_WRITE, 0}}},
	{"element that starts below RAM", "is not in RAM", BOTH, .nr = 1, .ring = {{FAKE_RAM_HIGH_BASE - 8, 16, 0, 0}}},
	{"element that leaves RAM", "is not in RAM", BOTH, .nr = 1, .ring = {{FAKE_RAM_LOW - 8, 16, 0, 0}}},
	{"element that leaves the last RAM", "is not in RAM", BOTH, .nr = 1, .ring = {{FAKE_RAM_HIGH_BASE + FAKE_RAM_HIGH - 1, 2, 0, 0}}},
	{"element that wraps", "is not in RAM", BOTH, .nr = 1, .ring = {{~0ull - 7, 16, 0, 0}}},
	{"element of nearly 4 GiB", "is not in RAM", BOTH, .nr = 1, .ring = {{0, UINT32_MAX, FDESC_WRITE, 0}}},
	{"second element outside RAM", "is not in RAM", BOTH, .nr = 2, .ring = {{BUF, 8, FDESC_NEXT, 1}, {OUTSIDE, 8, FDESC_WRITE, 0}}},
	{"readable after writable", "follows a device-writable", BOTH, .nr = 2,
	 .ring = {{BUF, 8, FDESC_WRITE | FDESC_NEXT, 1}, {BUF, 8, 0, 0}}},
	{"4 GiB in all", "4 GiB or more", BOTH, .size = 32, .nr = 22,
	 .ring = {BIG(0),  BIG(1),  BIG(2),  BIG(3),  BIG(4),  BIG(5),	BIG(6),	 BIG(7),  BIG(8),  BIG(9),  BIG(10),
		  BIG(11), BIG(12), BIG(13), BIG(14), BIG(15), BIG(16), BIG(17), BIG(18), BIG(19), BIG(20), {0, 200u << 20, 0, 0}}},
	{"4 GiB in all, indirect", "4 GiB or more", BOTH, .nr = 1, .ring = {REF(22 * 16)}, .nr_table = 22,
	 .table = {BIG(0),  BIG(1),  BIG(2),  BIG(3),  BIG(4),	BIG(5),	 BIG(6),  BIG(7),  BIG(8),  BIG(9),  BIG(10),
		   BIG(11), BIG(12), BIG(13), BIG(14), BIG(15), BIG(16), BIG(17), BIG(18), BIG(19), BIG(20), {0, 200u << 20, 0, 0}}},
	{"loop", "loop", BOTH, .size = 2, .nr = 2, .ring = {{BUF, 8, FDESC_NEXT, 1}, {BUF, 8, FDESC_NEXT, 0}}},
	{"loop of one", "loop", SPLIT, .nr = 1, .ring = {{BUF, 8, FDESC_NEXT, 0}}},
	{"loop of empty elements", "loop", SPLIT, .nr = 1, .ring = {{BUF, 0, FDESC_NEXT, 0}}},
	{"next outside the table", "outside its table of 8", SPLIT, .nr = 1, .ring = {{BUF, 8, FDESC_NEXT, QSIZE}}},
	{"next far outside the table", "outside its table of 8", SPLIT, .nr = 1, .ring = {{BUF, 8, FDESC_NEXT, 0xffff}}},
	{"indirect not negotiated", "without VIRTIO_F_INDIRECT_DESC", BOTH, .no_features = FDRV_INDIRECT, .nr = 1, .ring = {REF(16)},
	 .nr_table = 1, .table = {{BUF, 8, 0, 0}}},
	{"indirect table of 0 bytes", "table of 0 bytes", BOTH, .nr = 1, .ring = {REF(0)}},
	{"indirect table of 8 bytes", "table of 8 bytes", BOTH, .nr = 1, .ring = {REF(8)}},
	{"indirect table of 17 bytes", "table of 17 bytes", BOTH, .nr = 1, .ring = {REF(17)}},
	{"indirect table too large", "table of 4112 bytes", BOTH, .nr = 1, .ring = {REF(257 * 16)}},
	{"indirect table of nearly 4 GiB", "table of 4294967280 bytes", BOTH, .nr = 1, .ring = {REF(0xfffffff0u)}},
	{"indirect table outside RAM", "table at 0xc0000000", BOTH, .nr = 1, .ring = {{OUTSIDE, 16, FDESC_INDIRECT, 0}}},
	{"indirect table that leaves RAM", "table at", BOTH, .nr = 1, .ring = {{FAKE_RAM_LOW - 16, 32, FDESC_INDIRECT, 0}}},
	{"indirect table that wraps", "table at", BOTH, .nr = 1, .ring = {{~0ull - 15, 32, FDESC_INDIRECT, 0}}},
	{"indirect table with a next", "has a next", BOTH, .nr = 2, .ring = {{TABLE, 16, FDESC_INDIRECT | FDESC_NEXT, 1}, {BUF, 8, 0, 0}},
	 .nr_table = 1, .table = {{BUF, 8, 0, 0}}},
	{"indirect inside indirect", "table in an indirect", BOTH, .nr = 1, .ring = {REF(32)}, .nr_table = 2,
	 .table = {{BUF, 8, FDESC_NEXT, 1}, REF(16)}},
	{"indirect table that is itself", "table in an indirect", BOTH, .nr = 1, .ring = {REF(16)}, .nr_table = 1, .table = {REF(16)}},
	{"indirect after an element", "inside a chain", PACKED, .nr = 2, .ring = {{BUF, 8, FDESC_NEXT, 0}, REF(16)}, .nr_table = 1,
	 .table = {{BUF, 8, 0, 0}}},
	{"loop in an indirect table", "loop", SPLIT, .nr = 1, .ring = {REF(32)}, .nr_table = 2,
	 .table = {{BUF, 8, FDESC_NEXT, 1}, {BUF, 8, FDESC_NEXT, 0}}},
	{"next outside an indirect table", "outside its table of 2", SPLIT, .nr = 1, .ring = {REF(32)}, .nr_table = 1,
	 .table = {{BUF, 8, FDESC_NEXT, 2}}},
	{"bad element in an indirect table", "is not in RAM", BOTH, .nr = 1, .ring = {REF(32)}, .nr_table = 2,
	 .table = {{BUF, 8, FDESC_NEXT, 1}, {OUTSIDE, 8, FDESC_WRITE, 0}}},
};

static void plant(struct bench *b, const struct bad_chain *c)
{
	struct fdrv_queue *q = &b->d.q[0];
	u8 *table = fake_vm_ptr(&b->f, TABLE, MAX_RAW * 16);

	for (u32 i = 0; i < c->nr_table; i++)
		fdrv_raw_desc(table, i, c->table[i].gpa, c->table[i].len, c->table[i].flags, c->table[i].next, q->packed);
	for (u32 i = c->nr; i--;) { /* the first one last */
		const struct raw *r = &c->ring[i];

		fdrv_raw_desc(q->desc, i, r->gpa, r->len, (u16)(r->flags | (q->packed ? FDESC_AVAIL : 0)), q->packed ? 0 : r->next,
			      q->packed);
	}
	if (!q->packed)
		fdrv_raw_avail(&b->d, 0, 0);
}

static void try_chain(struct bench *b, const struct bad_chain *c, bool packed)
{
	u64 features = FDRV_VERSION_1 | FDRV_EVENT_IDX | FDRV_INDIRECT | (packed ? FDRV_PACKED : 0);

	print_message("# %s, %s\n", c->name, packed ? "packed" : "split");
	bench_up(b, features & ~c->no_features, c->size ? c->size : QSIZE);
	log_clear(b);
	plant(b, c);
	fdrv_notify(&b->d, 0);
	assert_true(fdrv_wait_needs_reset(&b->d, TIMEOUT_MS));
	check_log(b, c->expect);
	check_broken_then_recovers(b, features);
}

static void bad_chains_are_refused(void **state)
{
	struct bench *b = bench_new(NULL);

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(bad_chains); i++) {
		if (bad_chains[i].layout & SPLIT)
			try_chain(b, &bad_chains[i], false);
		if (bad_chains[i].layout & PACKED)
			try_chain(b, &bad_chains[i], true);
	}
	bench_free(b);
}

/* The table of bad chains could be refused for the wrong reason: here are the nearest good ones. */
static void chains_at_the_limits_are_accepted(void **state)
{
	struct bench *b = bench_new(NULL);

	(void)state;
	for (u32 packed = 0; packed < 2; packed++) {
		u64 features = FDRV_INDIRECT | (packed ? FDRV_PACKED : 0);
		struct fbuf bufs[256];

		for (u32 i = 0; i < ARRAY_SIZE(bufs); i++)
			bufs[i] = (struct fbuf){BUF + i, 1};
		bench_up(b, features, 256);
		b->d.q[0].indirect = false;
		assert_int_equal(fdrv_request(&b->d, 0, bufs, 255, bufs, 1), 1); /* as long as the queue */
		bench_up(b, features, 2);
		assert_int_equal(fdrv_request(&b->d, 0, bufs, 30, bufs, 30), 30); /* indirect: longer than the queue */
		/* just below 4 GiB: 16 * 255 MiB + 16 MiB - 1 */
		bench_up(b, features, 32);
		b->d.q[0].indirect = false;
		for (u32 i = 0; i < 16; i++)
			bufs[i] = (struct fbuf){0, 255u << 20};
		bufs[16] = (struct fbuf){0, (16u << 20) - 1};
		assert_int_equal(fdrv_request(&b->d, 0, bufs, 17, NULL, 0), 0);
		bufs[0] = (struct fbuf){FAKE_RAM_LOW - 8, 8};
		bufs[1] = (struct fbuf){FAKE_RAM_HIGH_BASE, 8};
		assert_int_equal(fdrv_request(&b->d, 0, bufs, 1, bufs + 1, 1), 8);
	}
	bench_free(b);
}

/* An element before the table, and a table that fills the chain by itself. */
static void chains_longer_than_a_device_can_take_are_refused(void **state)
{
	struct bench *b = bench_new(NULL);
	u8 *table = fake_vm_ptr(&b->f, TABLE, VIRTQ_MAX_SIZE * 16);

	(void)state;
	for (u32 before = 0; before < 2; before++) {
		bench_up(b, FDRV_INDIRECT, QSIZE);
		log_clear(b);
		for (u16 i = 0; i < VIRTQ_MAX_SIZE; i++)
			fdrv_raw_desc(table, i, BUF, 1, i + 1u < VIRTQ_MAX_SIZE ? FDESC_NEXT : 0, (u16)(i + 1), false);
		fdrv_raw_desc(b->d.q[0].desc, 0, BUF, 1, FDESC_NEXT, 1, false);
		fdrv_raw_desc(b->d.q[0].desc, 1, TABLE, VIRTQ_MAX_SIZE * 16, FDESC_INDIRECT, 0, false);
		fdrv_raw_avail(&b->d, 0, before ? 0 : 1);
		fdrv_notify(&b->d, 0);
		fdrv_sync(&b->d);
		assert_int_equal(!!(fdrv_read(&b->d, MMIO_STATUS) & VIRTIO_S_NEEDS_RESET), before);
	}
	check_log(b, "more than 256 elements");
	check_broken_then_recovers(b, 0);
	bench_free(b);
}

static void a_broken_queue_yields_nothing(void **state)
{
	struct bench *b = bench_new(NULL);
	struct virtio_dev *vdev = &b->echo->vdev;
	struct virtq_chain *c = &b->echo->held[0];

	(void)state;
	bench_up(b, 0, QSIZE);
	fdrv_sync(&b->d);
	device_lock(&vdev->dev);
	for (u32 i = 0; i < 3; i++)
		fdrv_add(&b->d, 0, NULL, 0, &(struct fbuf){BUF, 8}, 1, NULL);
	assert_int_equal(virtq_pop(&vdev->queues[0], c), 1);
	virtq_push(&vdev->queues[0], c, 8);
	assert_int_equal(virtq_pop(&vdev->queues[0], c), 1);
	virtio_broken(vdev, "test");
	assert_true(virtq_pop(&vdev->queues[0], &b->echo->held[1]) < 0);
	assert_false(virtq_want_kicks(&vdev->queues[0], true));
	virtq_push(&vdev->queues[0], c, 8);
	virtq_notify(&vdev->queues[0]);
	assert_int_equal(vdev->queues[0].in_flight, 0);
	device_unlock(&vdev->dev);
	assert_int_equal(ld_le16(b->d.q[0].device + 2), 1); /* only the first one was handed back */
	assert_int_equal(fdrv_isr(&b->d), VIRTIO_ISR_CONFIG);
	assert_true(fdrv_reset(&b->d, 0));
	assert_int_equal(virtq_pop(&vdev->queues[0], c), 0);
	bench_free(b);
}

/* ---- indices ---- */

static void available_indices_that_jump_are_refused(void **state)
{
	static const u16 jumps[] = {QSIZE + 1, 0x7fff, 0x8000, 0xffff};
	struct bench *b = bench_new(NULL);

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(jumps); i++) {
		bench_up(b, FDRV_EVENT_IDX, QSIZE);
		fdrv_request(&b->d, 0, NULL, 0, &(struct fbuf){BUF, 8}, 1);
		st_le16(b->d.q[0].driver + 2, (u16)(b->d.q[0].avail + jumps[i]));
		fdrv_notify(&b->d, 0);
		check_broken_then_recovers(b, FDRV_EVENT_IDX);
	}
	bench_free(b);
}

static void heads_outside_the_table_are_refused(void **state)
{
	static const u16 heads[] = {QSIZE, 0x8000, 0xffff};
	struct bench *b = bench_new(NULL);

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(heads); i++) {
		bench_up(b, 0, QSIZE);
		fdrv_raw_avail(&b->d, 0, heads[i]);
		fdrv_notify(&b->d, 0);
		check_broken_then_recovers(b, 0);
	}
	bench_free(b);
}

/* A driver that never waits for used buffers cannot make the device hold more than the ring has. */
static void more_in_flight_than_the_ring_holds_is_refused(void **state)
{
	static const struct echo_cfg hold = {.hold = true};

	(void)state;
	for (u32 packed = 0; packed < 2; packed++) {
		u64 features = packed ? FDRV_PACKED : 0;
		struct bench *b = bench_new(&hold);
		struct fdrv_queue *q = &b->d.q[0];

		bench_up(b, features, 4);
		for (u32 i = 0; i < 4; i++)
			assert_true(fdrv_add(&b->d, 0, NULL, 0, &(struct fbuf){BUF, 8}, 1, NULL));
		fdrv_notify(&b->d, 0);
		fdrv_sync(&b->d);
		assert_int_equal(b->echo->nr_held, 4);
		assert_false(fdrv_read(&b->d, MMIO_STATUS) & VIRTIO_S_NEEDS_RESET);
		if (packed)
			fdrv_raw_desc(q->desc, 0, BUF, 8, FDESC_WRITE | FDESC_USED, 0, true); /* available in the next lap */
		else
			fdrv_raw_avail(&b->d, 0, 0);
		fdrv_notify(&b->d, 0);
		assert_true(fdrv_wait_needs_reset(&b->d, TIMEOUT_MS));
		assert_int_equal(b->echo->nr_held, 4);
		assert_false(fdrv_reset(&b->d, 1)); /* in flight, still */
		b->echo->cfg.hold = false;
		echo_release(b->echo);
		check_works(b, features);
		bench_free(b);
	}
}

/* ---- queue setup ---- */

struct bad_setup {
	const char *name, *expect; /* expect: part of what the log says */
	enum layout layout;
	u32 size; /* what is written to QueueNum; 0: as it should be, unless zero */
	bool zero;
	u64 desc, driver, device; /* 0: as it should be */
};

static const struct bad_setup bad_setups[] = {
	{"size 0", "size of 0", BOTH, .zero = true},
	{"size not a power of two", "size of 6", SPLIT, .size = 6},
	{"size 257", "size of 0", BOTH, .size = 257},
	{"size 512", "size of 0", BOTH, .size = 512},
	{"size that is good in 16 bits", "size of 0", BOTH, .size = 0x10008},
	{"descriptors not aligned", "descriptor area at 0x2008 is not aligned", BOTH, .desc = BUF + 8},
	{"descriptors outside RAM", "is not in RAM", BOTH, .desc = OUTSIDE},
	{"descriptors that leave RAM", "is not in RAM", BOTH, .desc = FAKE_RAM_LOW - 16 * (QSIZE - 1)},
	{"descriptors that wrap", "is not in RAM", BOTH, .desc = ~0ull - 15},
	{"driver area not aligned", "driver area at 0x2001 is not aligned", BOTH, .driver = BUF + 1},
	{"driver area aligned to 2", "driver area at 0x2002 is not aligned", PACKED, .driver = BUF + 2},
	{"driver area outside RAM", "is not in RAM", BOTH, .driver = OUTSIDE},
	{"driver area that leaves RAM", "is not in RAM", SPLIT, .driver = FAKE_RAM_LOW - (6 + 2 * QSIZE) + 2},
	{"driver area that wraps", "is not in RAM", BOTH, .driver = ~0ull - 3},
	{"device area not aligned", "device area at 0x2002 is not aligned", BOTH, .device = BUF + 2},
	{"device area outside RAM", "is not in RAM", BOTH, .device = FAKE_RAM_HIGH_BASE + FAKE_RAM_HIGH},
	{"device area that leaves RAM", "is not in RAM", SPLIT, .device = FAKE_RAM_LOW - (6 + 8 * QSIZE) + 2},
	{"device area that wraps", "is not in RAM", BOTH, .device = ~0ull - 3},
};

static void write_pair(struct fdrv *d, u32 low, u64 val)
{
	fdrv_write(d, low, (u32)val);
	fdrv_write(d, low + 4, (u32)(val >> 32));
}

static void try_setup(struct bench *b, const struct bad_setup *s, bool packed)
{
	u64 features = packed ? FDRV_PACKED : 0;
	struct fdrv *d = &b->d;

	print_message("# %s, %s\n", s->name, packed ? "packed" : "split");
	assert_true(fdrv_probe(d, &b->f, &b->echo->vdev.dev, features));
	fdrv_queue_setup(d, 1, QSIZE);
	fdrv_queue_setup(d, 0, QSIZE);
	fdrv_write(d, MMIO_QUEUE_READY, 0);
	if (s->size || s->zero)
		fdrv_write(d, MMIO_QUEUE_NUM, s->size);
	if (s->desc)
		write_pair(d, MMIO_QUEUE_DESC_LOW, s->desc);
	if (s->driver)
		write_pair(d, MMIO_QUEUE_DRIVER_LOW, s->driver);
	if (s->device)
		write_pair(d, MMIO_QUEUE_DEVICE_LOW, s->device);
	fdrv_write(d, MMIO_QUEUE_READY, 1);
	log_clear(b);
	assert_false(fdrv_driver_ok(d));
	check_log(b, s->expect);
	fdrv_notify(d, 0);
	fdrv_notify(d, 1);
	fdrv_sync(d);
	check_broken_then_recovers(b, features);
}

static void half_configured_queues_are_refused_at_driver_ok(void **state)
{
	struct bench *b = bench_new(NULL);

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(bad_setups); i++) {
		if (bad_setups[i].layout & SPLIT)
			try_setup(b, &bad_setups[i], false);
		if (bad_setups[i].layout & PACKED)
			try_setup(b, &bad_setups[i], true);
	}
	/* Enabled, and nothing else. */
	assert_true(fdrv_probe(&b->d, &b->f, &b->echo->vdev.dev, 0));
	fdrv_write(&b->d, MMIO_QUEUE_SEL, 0);
	fdrv_write(&b->d, MMIO_QUEUE_READY, 1);
	assert_false(fdrv_driver_ok(&b->d));
	check_broken_then_recovers(b, 0);
	bench_free(b);
}

static void rings_may_end_where_ram_ends(void **state)
{
	struct bench *b = bench_new(NULL);
	struct fdrv *d = &b->d;

	(void)state;
	for (u32 packed = 0; packed < 2; packed++) {
		assert_true(fdrv_probe(d, &b->f, &b->echo->vdev.dev, packed ? FDRV_PACKED : 0));
		fdrv_queue_setup(d, 0, QSIZE);
		fdrv_write(d, MMIO_QUEUE_READY, 0);
		write_pair(d, MMIO_QUEUE_DESC_LOW, FAKE_RAM_LOW - 16 * QSIZE);
		write_pair(d, MMIO_QUEUE_DEVICE_LOW, FAKE_RAM_HIGH_BASE + FAKE_RAM_HIGH - (packed ? 4 : 8 + 8 * QSIZE));
		fdrv_write(d, MMIO_QUEUE_READY, 1);
		assert_true(fdrv_driver_ok(d));
	}
	bench_free(b);
}

/* ---- no rules at all ---- */

/* Overwrites rings and descriptors while the device works on them. Races by design: a guest may do this. */
static void *scribble(void *arg)
{
	struct bench *b = arg;
	struct fdrv_queue *q = &b->d.q[0];
	u64 end = clock_host_ns() + SCRIBBLE_MS * NSEC_PER_MSEC;
	volatile u16 *desc = (volatile u16 *)(void *)q->desc, *driver = (volatile u16 *)(void *)q->driver;
	volatile u16 *table = fake_vm_ptr(&b->f, TABLE, 16 * QSIZE);
	unsigned seed = 1;

	while (clock_host_ns() < end) {
		for (u32 n = 0; n < 200; n++) {
			static const u8 words[] = {0, 4, 6, 7}; /* low address and length, flags and id or next */
			u32 r = (u32)rand_r(&seed), at = r % QSIZE * 8 + words[(r >> 8) % ARRAY_SIZE(words)];

			desc[at] = (u16)(r >> 12);
			table[at] = (u16)(r >> 10);
			driver[0] = 0;
			if (!q->packed)
				driver[1] = (u16)(driver[1] + 1);
		}
	}
	return NULL;
}

static void rings_that_change_under_the_device_do_no_harm(void **state)
{
	(void)state;
	for (u32 packed = 0; packed < 2; packed++) {
		struct bench *b = bench_new(NULL);
		u64 features = FDRV_INDIRECT | FDRV_EVENT_IDX | (packed ? FDRV_PACKED : 0);
		u64 end = clock_host_ns() + SCRIBBLE_MS * NSEC_PER_MSEC;
		struct fdrv_queue old;
		pthread_t thread;

		bench_up(b, features, QSIZE);
		assert_int_equal(pthread_create(&thread, NULL, scribble, b), 0);
		while (clock_host_ns() < end) {
			/* The same rings again, so that the other thread goes on hitting them. */
			old = b->d.q[0];
			fdrv_notify(&b->d, 0);
			fdrv_sync(&b->d);
			if (fdrv_read(&b->d, MMIO_STATUS) & VIRTIO_S_NEEDS_RESET) {
				struct fdrv again;

				assert_true(fdrv_probe(&again, &b->f, &b->echo->vdev.dev, features));
				again.q[0] = old;
				fdrv_queue_write(&again, 0);
				fdrv_driver_ok(&again); /* and may be broken again by now */
			}
		}
		pthread_join(thread, NULL);
		check_works(b, features);
		bench_free(b);
	}
}

static void resets_in_the_middle_of_traffic_do_no_harm(void **state)
{
	struct bench *b = bench_new(NULL);

	(void)state;
	for (u32 i = 0; i < 200; i++) {
		bench_up(b, i & 1 ? FDRV_ALL_FEATURES : 0, QSIZE);
		for (u32 n = 0; n < QSIZE; n++)
			fdrv_add(&b->d, 0, NULL, 0, &(struct fbuf){BUF, 8}, 1, NULL);
		fdrv_kick(&b->d, 0);
		if (i % 3)
			sched_yield();
	}
	check_works(b, FDRV_ALL_FEATURES);
	bench_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bad_chains_are_refused),
		cmocka_unit_test(chains_at_the_limits_are_accepted),
		cmocka_unit_test(chains_longer_than_a_device_can_take_are_refused),
		cmocka_unit_test(a_broken_queue_yields_nothing),
		cmocka_unit_test(available_indices_that_jump_are_refused),
		cmocka_unit_test(heads_outside_the_table_are_refused),
		cmocka_unit_test(more_in_flight_than_the_ring_holds_is_refused),
		cmocka_unit_test(half_configured_queues_are_refused_at_driver_ok),
		cmocka_unit_test(rings_may_end_where_ram_ends),
		cmocka_unit_test(rings_that_change_under_the_device_do_no_harm),
		cmocka_unit_test(resets_in_the_middle_of_traffic_do_no_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
