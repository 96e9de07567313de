/* test_fetch.c: devices whose rings, tables and buffers are still to be fetched (struct mem_fetch) when they are needed. */
#include "tests/unit/cm.h"

#include <fcntl.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_blk.h>
#include <stdio.h>

#include "tests/dev/echo_device.h"
#include "tests/dev/op_bench.h"
#include "tests/dev/saved.h"
#include "tests/unit/fetch_peer.h"

#define BLOCK	   (64 * KIB)
#define NR	   8u
#define TIMEOUT_MS 5000u

static const struct {
	u64 features;
	u32 vm_flags;
} layouts[] = {
	{FDRV_VERSION_1, 0},
	{FDRV_EVENT_IDX | FDRV_INDIRECT, FAKE_VM_IOEVENTFD},
	{FDRV_PACKED, 0},
	{FDRV_PACKED | FDRV_EVENT_IDX | FDRV_INDIRECT, FAKE_VM_IOEVENTFD},
};

struct bench {
	struct fake_vm vms[2], *vm;
	struct fdrv d;
	const struct device_class *cls;
	const void *cfg;
	u64 features; /* beside those of the layout */
	struct device *dev;
	struct saved saved;
	struct fetch_peer *peer;
};

static void up(struct bench *b, u32 layout, u16 nr_queues)
{
	b->vm = &b->vms[0];
	fake_vm_init(b->vm, layouts[layout].vm_flags);
	b->dev = fake_vm_add(b->vm, b->cls, b->cfg);
	fake_vm_start(b->vm);
	fdrv_up(&b->d, b->vm, b->dev, layouts[layout].features | b->features, nr_queues, 64);
	fdrv_sync(&b->d); /* it has looked at its queues, and does not before it is told */
}

/* What the driver has put into the rings is for the device of another VM, whose memory is missing. It waits for the rings when it is
 * loaded, and for the rest when it works. */
static void move(struct bench *b, u32 layout)
{
	struct err e = {0};

	if (saved_take(&b->saved, b->vm, b->dev, &e) < 0)
		fail_msg("not saved: %s", e.msg);
	fake_vm_fini(b->vm);
	b->vm = &b->vms[1];
	fake_vm_init(b->vm, layouts[layout].vm_flags);
	b->dev = fake_vm_add(b->vm, b->cls, b->cfg);
	saved_memory(&b->saved, b->vm);
	b->peer = peer_new(&b->vm->vm.mem);
	b->peer->delay_us = 300;
	peer_take(b->peer, 0, 0, ALIGN_UP(b->vm->next_gpa, MEM_PAGE_SIZE) / MEM_PAGE_SIZE);
	if (saved_put(&b->saved, b->vm, b->dev, &e) < 0)
		fail_msg("not loaded: %s", e.msg);
	assert_true(b->peer->nr_waits > 0);
	fdrv_move(&b->d, b->vm, b->dev);
	fake_vm_start(b->vm);
	saved_resume(b->vm, b->dev);
	for (u16 q = 0; q < VIRTIO_MAX_QUEUES; q++) {
		if (b->d.q[q].size)
			fdrv_notify(&b->d, q);
	}
}

static void down(struct bench *b)
{
	/* fake_vm_fini takes the memory, and with it the peer's pages. */
	struct fetch_peer *p = b->peer;

	saved_free(&b->saved);
	peer_finish(p);
	peer_free(p);
	fake_vm_fini(b->vm);
}

static u8 byte_of(u32 request, u32 i)
{
	return (u8)(request * 31 + i * 7 + i / 251);
}

static void fill(struct bench *b, u64 gpa, u32 request)
{
	u8 *p = fake_vm_ptr(b->vm, gpa, BLOCK);

	for (u32 i = 0; i < BLOCK; i++)
		p[i] = byte_of(request, i);
}

static void check(struct bench *b, u64 gpa, u32 request)
{
	const u8 *p = fake_vm_ptr(b->vm, gpa, BLOCK);

	for (u32 i = 0; i < BLOCK; i++)
		assert_int_equal(p[i], byte_of(request, i));
}

static void buffers_cross_over_pages_that_come(void **state)
{
	(void)state;
	for (u32 l = 0; l < ARRAY_SIZE(layouts); l++) {
		struct bench *b = xzalloc(sizeof(*b));
		u64 out[NR], in[NR];
		u32 len;

		b->cls = &echo_class;
		up(b, l, ECHO_QUEUES);
		for (u32 i = 0; i < NR; i++) {
			out[i] = fake_vm_alloc(b->vm, BLOCK + MEM_PAGE_SIZE, 1) + 100;
			in[i] = fake_vm_alloc(b->vm, BLOCK + MEM_PAGE_SIZE, 1) + 300;
			fill(b, out[i], i);
			struct fbuf from[2] = {{out[i], 5000}, {out[i] + 5000, BLOCK - 5000}},
				    to[2] = {{in[i], 9000}, {in[i] + 9000, BLOCK - 9000}};
			assert_true(fdrv_add(&b->d, i % 2, from, 2, to, 2, NULL));
		}
		move(b, l);
		for (u32 i = 0; i < NR; i++) {
			assert_true(fdrv_wait_used(&b->d, i % 2, NULL, &len, TIMEOUT_MS));
			assert_int_equal(len, BLOCK);
		}
		for (u32 i = 0; i < NR; i++)
			check(b, in[i], i);
		down(b);
		free(b);
	}
}

/* ---- a disk: the kernel reads and writes guest memory ---- */

static int disk_file(char *path)
{
	int fd;

	strcpy(path, "/tmp/husk-fetch-XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	for (u32 i = 0; i < NR; i++) {
		u8 block[BLOCK];

		for (u32 at = 0; at < BLOCK; at++)
			block[at] = byte_of(i + 100, at);
		assert_int_equal(pwrite(fd, block, BLOCK, i * BLOCK), BLOCK);
	}
	assert_int_equal(ftruncate(fd, 2 * NR * BLOCK), 0);
	return fd;
}

/* Even requests read the file's first half, odd ones write its second. */
static void add_request(struct bench *b, u32 i, u64 hdr, u64 data, u64 status)
{
	bool write = i % 2;
	struct virtio_blk_outhdr *h = fake_vm_ptr(b->vm, hdr, sizeof(*h));
	struct fbuf out[2] = {{hdr, sizeof(*h)}, {data, BLOCK}}, in[2] = {{data, BLOCK}, {status, 1}};

	*h = (struct virtio_blk_outhdr){.type = write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, .sector = (i + (write ? NR : 0)) * BLOCK / 512};
	*(u8 *)fake_vm_ptr(b->vm, status, 1) = 0xff;
	if (write)
		fill(b, data, i);
	assert_true(write ? fdrv_add(&b->d, 0, out, 2, in + 1, 1, NULL) : fdrv_add(&b->d, 0, out, 1, in, 2, NULL));
}

static void check_disk(struct bench *b, int fd, const u64 *data, const u64 *status)
{
	for (u32 i = 0; i < NR; i++) {
		u8 block[BLOCK];

		assert_int_equal(*(u8 *)fake_vm_ptr(b->vm, status[i], 1), 0);
		if (i % 2 == 0) {
			check(b, data[i], i + 100);
			continue;
		}
		assert_int_equal(pread(fd, block, BLOCK, (NR + i) * BLOCK), BLOCK);
		for (u32 at = 0; at < BLOCK; at++)
			assert_int_equal(block[at], byte_of(i, at));
	}
}

static void disk_with(const char *engine, u32 layout)
{
	struct bench *b = xzalloc(sizeof(*b));
	u64 data[NR], status[NR];
	char path[64];
	auto_fd int fd = disk_file(path);
	struct err e;
	auto_free char *json = xasprintf("{\"drive_id\":\"d\",\"path_on_host\":\"%s\",\"is_root_device\":false,\"io_engine\":\"%s\"}", path,
					 engine);
	void *cfg;

	b->cls = device_class_find("virtio-blk");
	b->cfg = cfg = op_config(b->cls, json, &e);
	assert_non_null(cfg);
	up(b, layout, 1);
	for (u32 i = 0; i < NR; i++) {
		data[i] = fake_vm_alloc(b->vm, BLOCK + MEM_PAGE_SIZE, MEM_PAGE_SIZE) + 512;
		status[i] = fake_vm_alloc(b->vm, MEM_PAGE_SIZE, MEM_PAGE_SIZE);
		add_request(b, i, fake_vm_alloc(b->vm, MEM_PAGE_SIZE, MEM_PAGE_SIZE), data[i], status[i]);
	}
	move(b, layout);
	for (u32 i = 0; i < NR; i++)
		assert_true(fdrv_wait_used(&b->d, 0, NULL, NULL, TIMEOUT_MS));
	check_disk(b, fd, data, status);
	down(b);
	cfg_free(b->cls->config, cfg);
	free(cfg);
	unlink(path);
	free(b);
}

static void a_disk_reads_and_writes_pages_that_come(void **state)
{
	for (u32 l = 0; l < ARRAY_SIZE(layouts); l++)
		disk_with(*state, l);
}

/* ---- a balloon: what the guest gives up is not brought any more ---- */

static void *balloon_up(struct bench *b, const char *json, u16 nr_queues)
{
	struct err e;
	void *cfg;

	b->cls = device_class_find("virtio-balloon");
	b->cfg = cfg = op_config(b->cls, json, &e);
	assert_non_null(cfg);
	up(b, 0, nr_queues);
	return cfg;
}

/* The pages of [gpa, gpa + BLOCK) were given up: not one of them has been brought. */
static void balloon_down(struct bench *b, void *cfg, u16 queue, u64 gpa)
{
	assert_true(fdrv_wait_used(&b->d, queue, NULL, NULL, TIMEOUT_MS));
	assert_int_equal(b->peer->nr_discarded, BLOCK / MEM_PAGE_SIZE);
	for (u32 i = 0; i < BLOCK; i += 8)
		assert_int_equal(ld_le64(fake_vm_ptr(b->vm, gpa + i, 8)), 0);
	down(b);
	cfg_free(b->cls->config, cfg);
	free(cfg);
	free(b);
}

static void a_balloon_takes_pages_that_are_missing(void **state)
{
	struct bench *b = xzalloc(sizeof(*b));
	void *cfg = balloon_up(b, "{\"amount_mib\":0,\"deflate_on_oom\":false}", 2);
	u64 pages = fake_vm_alloc(b->vm, BLOCK, MEM_PAGE_SIZE), pfns = fake_vm_alloc(b->vm, MEM_PAGE_SIZE, MEM_PAGE_SIZE);
	struct fbuf out = {pfns, BLOCK / MEM_PAGE_SIZE * 4};

	(void)state;
	fill(b, pages, 1);
	for (u32 i = 0; i < BLOCK / MEM_PAGE_SIZE; i++)
		st_le32((u8 *)fake_vm_ptr(b->vm, pfns, MEM_PAGE_SIZE) + 4 * i, (u32)(pages / MEM_PAGE_SIZE + i));
	assert_true(fdrv_add(&b->d, 0, &out, 1, NULL, 0, NULL));
	move(b, 0);
	balloon_down(b, cfg, 0, pages);
}

static void free_pages_that_are_missing_are_not_brought(void **state)
{
	struct bench *b = xzalloc(sizeof(*b));
	struct fbuf in[2];
	void *cfg;
	u64 pages;

	(void)state;
	b->features = BIT(VIRTIO_BALLOON_F_REPORTING);
	cfg = balloon_up(b, "{\"amount_mib\":0,\"deflate_on_oom\":false,\"free_page_reporting\":true}", 3);
	pages = fake_vm_alloc(b->vm, BLOCK, MEM_PAGE_SIZE);
	in[0] = (struct fbuf){pages, BLOCK / 2};
	in[1] = (struct fbuf){pages + BLOCK / 2, BLOCK / 2};
	fill(b, pages, 1);
	assert_true(fdrv_add(&b->d, 2, NULL, 0, in, 2, NULL));
	move(b, 0);
	balloon_down(b, cfg, 2, pages);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(buffers_cross_over_pages_that_come),
		{"a_disk_reads_and_writes_pages_that_come_sync", a_disk_reads_and_writes_pages_that_come, NULL, NULL, (void *)"Sync"},
		{"a_disk_reads_and_writes_pages_that_come_async", a_disk_reads_and_writes_pages_that_come, NULL, NULL, (void *)"Async"},
		cmocka_unit_test(a_balloon_takes_pages_that_are_missing),
		cmocka_unit_test(free_pages_that_are_missing_are_not_brought),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
