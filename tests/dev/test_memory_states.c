/* test_memory_states.c: balloon, virtio-mem and pmem go on in another VM where they were saved; made-up states are refused, or do no harm.
 */
#include <fcntl.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_mem.h>
#include <linux/virtio_pmem.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/dev/op_bench.h"
#include "tests/dev/saved.h"
#include "virtio/virtio_state.h"

#define WAIT_MS 5000u
#define PAGES	(64 * MIB) /* guest memory that the tests fill */
#define FILL	0xa5
#define REGION	(8 * GIB) /* of virtio-mem */
#define BLOCK	(2 * MIB)
#define ROUNDS	400u

struct bench {
	struct fake_vm f;
	struct fdrv d;
	struct device *dev;
	const struct device_class *cls;
	void *cfg;
	struct saved saved;
};

/* A VM with a device of the class; hotplug: bytes of a region to plug in. */
static void make(struct bench *b, const char *class_name, const char *json, u64 hotplug)
{
	struct err e;

	*b = (struct bench){.cls = device_class_find(class_name)};
	b->cfg = op_config(b->cls, json, &e);
	assert_non_null(b->cfg);
	fake_vm_init(&b->f, FAKE_VM_QUIET);
	if (hotplug)
		assert_int_equal(mem_add_hotplug(&b->f.vm.mem, REGION, hotplug, &e), 0);
	b->dev = fake_vm_add(&b->f, b->cls, b->cfg);
}

static void run(struct bench *b, u16 nr_queues)
{
	fake_vm_start(&b->f);
	fdrv_up(&b->d, &b->f, b->dev, FDRV_ALL_FEATURES, nr_queues, 64);
}

static void down(struct bench *b)
{
	saved_free(&b->saved);
	fake_vm_fini(&b->f);
	cfg_free(b->cls->config, b->cfg);
	free(b->cfg);
}

static void take(struct bench *b)
{
	struct err e;

	if (saved_take(&b->saved, &b->f, b->dev, &e) < 0)
		fail_msg("%s", e.msg);
}

/* b, just made, becomes what a was when it was saved, and runs. */
static void put(struct bench *b, struct bench *a)
{
	struct err e;

	saved_memory(&a->saved, &b->f);
	if (saved_put(&a->saved, &b->f, b->dev, &e) < 0)
		fail_msg("%s", e.msg);
	b->d = a->d;
	fdrv_move(&b->d, &b->f, b->dev);
	fake_vm_start(&b->f);
	saved_resume(&b->f, b->dev);
}

/* The device's own state, behind that of all virtio devices. */
static void *own(struct bench *b)
{
	assert_int_equal(b->saved.nr, 2);
	return b->saved.data[1];
}

static void set(struct bench *b, const char *name, u32 index, u64 v)
{
	for (const struct state_field *f = b->cls->states[1]->table->fields; f->name; f++) {
		if (!strcmp(f->name, name)) {
			memcpy((char *)own(b) + f->offset + index * f->elem, &v, f->elem);
			return;
		}
	}
	fail_msg("no field %s", name);
}

static void refused_by(struct bench *a, struct bench *b, const char *text)
{
	struct err e = {0};

	assert_int_equal(saved_put(&a->saved, &b->f, b->dev, &e), -EINVAL);
	if (!strstr(e.msg, text))
		fail_msg("\"%s\" does not say \"%s\"", e.msg, text);
}

/* With one field of what b was saved with changed, it is refused. */
static void refused(struct bench *b, const char *name, u32 index, u64 v, const char *text)
{
	take(b);
	set(b, name, index, v);
	refused_by(b, b, text);
	saved_free(&b->saved);
}

static bool holds(struct bench *b, u64 gpa, u64 len, u8 value)
{
	const u8 *p = fake_vm_ptr(&b->f, gpa, len);

	return p[0] == value && !memcmp(p, p + 1, len - 1);
}

/* ---- whatever a state says ---- */

static u32 random_u32(u32 *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed;
}

/* Some scalars become small, large or any. */
static void spoil(const struct state_table *t, u8 *data, u32 *seed)
{
	for (const struct state_field *f = t->fields; f->name; f++) {
		for (u32 i = 0; f->type != STATE_STRUCT && i < MIN(f->count, 64u); i++) {
			u64 any = (u64)random_u32(seed) << 32 | random_u32(seed), v[] = {0, 1, any % 64, any, BLOCK * (any % 300)};

			if (random_u32(seed) % (f->count > 1 ? 20 : 4) == 0)
				memcpy(data + f->offset + i * f->elem, f->type == STATE_BOOL ? &v[any % 2] : &v[any % ARRAY_SIZE(v)],
				       f->elem);
		}
	}
}

/* Each is refused, or taken; then the device works. */
static void try_any_state(struct bench *b, void (*use)(struct bench *b))
{
	u32 seed = 1, taken = 0;
	u64 used = b->f.next_gpa;
	struct err e;

	for (u32 i = 0; i < ROUNDS; i++, b->f.next_gpa = used) {
		take(b);
		spoil(b->cls->states[1]->table, own(b), &seed);
		for (const struct state_field *f = b->cls->states[1]->table->fields; f->name; f++) {
			u32 nr = f->count; /* more than there is room for cannot be written */

			if (f->nr_offset != STATE_NO_NR && ld_le32((u8 *)own(b) + f->nr_offset) > nr)
				memcpy((u8 *)own(b) + f->nr_offset, &nr, sizeof(nr));
		}
		taken += saved_put(&b->saved, &b->f, b->dev, &e) == 0;
		saved_free(&b->saved);
		saved_resume(&b->f, b->dev);
		use(b);
	}
	assert_in_range(taken, 1, ROUNDS - 1); /* else this tests little */
}

/* ---- balloon ---- */

#define BALLOON	      "{\"amount_mib\":16,\"deflate_on_oom\":true"
#define BALLOON_ALL   BALLOON ",\"stats_polling_interval_s\":1,\"free_page_hinting\":true,\"free_page_reporting\":true}"
#define BALLOON_PLAIN BALLOON "}"

static void send_pfns(struct bench *b, u16 q, u32 first, u32 nr)
{
	struct fbuf out = {fake_vm_alloc(&b->f, nr * sizeof(u32), 4), nr * (u32)sizeof(u32)};
	u32 *pfns = fake_vm_ptr(&b->f, out.gpa, out.len);

	for (u32 i = 0; i < nr; i++)
		pfns[i] = first + i;
	fdrv_request(&b->d, q, &out, 1, NULL, 0);
}

static void give_stats(struct bench *b, struct fbuf *out, u64 value)
{
	u8 *at = fake_vm_ptr(&b->f, out->gpa, out->len);

	st_le16(at, VIRTIO_BALLOON_S_MEMFREE);
	st_le64(at + 2, value);
	assert_true(fdrv_add(&b->d, 2, out, 1, NULL, 0, out));
	fdrv_kick(&b->d, 2);
	fdrv_sync(&b->d);
	assert_int_equal(op_get_number(b->dev, "/statistics", "free_memory"), value);
}

static void the_balloon_keeps_its_size_and_statistics_go_on(void **state)
{
	struct bench a, b;
	struct err e;

	(void)state;
	make(&a, "virtio-balloon", BALLOON_ALL, 0);
	run(&a, 5);
	struct fbuf out = {fake_vm_alloc(&a.f, 10, 8), 10};
	u32 actual = 4096;

	assert_int_equal(op_patch(a.dev, "", "{\"amount_mib\":32}", &e), 0);
	fdrv_config_write(&a.d, 4, &actual, 4);
	give_stats(&a, &out, 111);
	take(&a);
	make(&b, "virtio-balloon", BALLOON_ALL, 0);
	put(&b, &a);
	assert_int_equal(fdrv_config32(&b.d, 0), 8192);
	assert_int_equal(fdrv_config32(&b.d, 4), actual);
	assert_int_equal(op_get_number(b.dev, "/statistics", "target_mib"), 32);
	assert_int_equal(op_get_number(b.dev, "/statistics", "free_memory"), 111);
	assert_true(fdrv_wait_used(&b.d, 2, NULL, NULL, WAIT_MS)); /* asked anew since it was saved */
	give_stats(&b, &out, 222);
	assert_true(fdrv_wait_used(&b.d, 2, NULL, NULL, WAIT_MS)); /* and by the clock */
	saved_resume(&a.f, a.dev);
	assert_true(fdrv_wait_used(&a.d, 2, NULL, NULL, WAIT_MS));
	give_stats(&a, &out, 333);
	memset(fake_vm_ptr(&b.f, PAGES, MIB), FILL, MIB);
	send_pfns(&b, 0, (u32)(PAGES / MEM_PAGE_SIZE), 256);
	assert_true(holds(&b, PAGES, MIB, 0));
	down(&a);
	down(&b);
}

static void queues_keep_their_roles_where_the_driver_left_some_out(void **state)
{
	struct bench a, b;

	(void)state;
	make(&a, "virtio-balloon", BALLOON_ALL, 0);
	fake_vm_start(&a.f);
	fdrv_up(&a.d, &a.f, a.dev, FDRV_VERSION_1 | BIT(VIRTIO_BALLOON_F_REPORTING), 3, 64);
	take(&a);
	make(&b, "virtio-balloon", BALLOON_ALL, 0);
	put(&b, &a);
	struct fbuf in = {PAGES, MIB};

	memset(fake_vm_ptr(&b.f, PAGES, MIB), FILL, MIB);
	fdrv_request(&b.d, 2, NULL, 0, &in, 1); /* the third queue is that of reports */
	assert_true(holds(&b, PAGES, MIB, 0));
	down(&a);
	down(&b);
}

static void send_cmd(struct bench *b, u32 cmd)
{
	struct fbuf out = {fake_vm_alloc(&b->f, 4, 4), 4};

	st_le32(fake_vm_ptr(&b->f, out.gpa, 4), cmd);
	fdrv_request(&b->d, 3, &out, 1, NULL, 0);
}

static void a_run_of_hinting_goes_on(void **state)
{
	struct bench a, b;
	struct fbuf in = {PAGES, MIB};
	struct err e;

	(void)state;
	make(&a, "virtio-balloon", BALLOON_ALL, 0);
	run(&a, 5);
	assert_int_equal(op_patch(a.dev, "/hinting/start", "{}", &e), 0);
	send_cmd(&a, 2);
	take(&a);
	make(&b, "virtio-balloon", BALLOON_ALL, 0);
	put(&b, &a);
	assert_int_equal(op_get_number(b.dev, "/hinting/status", "host_cmd"), 2);
	assert_int_equal(op_get_number(b.dev, "/hinting/status", "guest_cmd"), 2);
	memset(fake_vm_ptr(&b.f, PAGES, MIB), FILL, MIB);
	fdrv_request(&b.d, 3, NULL, 0, &in, 1);
	assert_true(holds(&b, PAGES, MIB, 0));
	send_cmd(&b, VIRTIO_BALLOON_CMD_ID_STOP);
	assert_int_equal(fdrv_config32(&b.d, 8), VIRTIO_BALLOON_CMD_ID_DONE); /* acknowledge_on_stop */
	assert_int_equal(op_patch(b.dev, "/hinting/start", "{}", &e), 0);
	assert_int_equal(fdrv_config32(&b.d, 8), 3); /* no number comes twice */
	down(&a);
	down(&b);
}

static void a_long_request_ends_before_the_save(void **state)
{
	struct bench a, b;
	u32 nr = 48 * MIB / MEM_PAGE_SIZE;

	(void)state;
	make(&a, "virtio-balloon", BALLOON_PLAIN, 0);
	run(&a, 2);
	memset(fake_vm_ptr(&a.f, PAGES, 48 * MIB), FILL, 48 * MIB);
	struct fbuf out = {fake_vm_alloc(&a.f, nr * sizeof(u32), 4), nr * (u32)sizeof(u32)};
	u32 *pfns = fake_vm_ptr(&a.f, out.gpa, out.len);

	for (u32 i = 0; i < nr; i++)
		pfns[i] = (u32)(PAGES / MEM_PAGE_SIZE) + i * 5 % nr; /* none beside the next one */
	assert_true(fdrv_add(&a.d, 0, &out, 1, NULL, 0, NULL));
	fdrv_kick(&a.d, 0);
	while (holds(&a, PAGES, MEM_PAGE_SIZE, FILL))
		;
	take(&a); /* in its middle, or so */
	assert_true(holds(&a, PAGES, 48 * MIB, 0));
	make(&b, "virtio-balloon", BALLOON_PLAIN, 0);
	put(&b, &a);
	assert_true(fdrv_wait_used(&b.d, 0, NULL, NULL, WAIT_MS));
	down(&a);
	down(&b);
}

/* A bench whose low memory is a file, private, as a restored VM's: FILL from PAGES to PAGES + data, else holes. */
static void make_restored(struct bench *b, const char *class_name, const char *json, u64 hotplug, u64 data)
{
	const struct device_class *cls = device_class_find(class_name);
	int fd = memfd_create("memory", MFD_CLOEXEC);
	struct mem *m = &b->f.vm.mem;
	struct err e;
	u8 *p;

	*b = (struct bench){.cls = cls, .cfg = op_config(cls, json, &e)};
	fake_vm_init(&b->f, FAKE_VM_QUIET);
	if (hotplug)
		assert_int_equal(mem_add_hotplug(m, REGION, hotplug, &e), 0);
	assert_true(fd >= 0 && ftruncate(fd, (off_t)m->size) == 0);
	for (u32 i = 0; i < m->nr_regions; i++) {
		u64 at = m->regions[i].ram ? PAGES : 0;

		p = mmap(NULL, data, PROT_WRITE, MAP_SHARED, fd, (off_t)(m->regions[i].fd_offset + at));
		assert_true(p != MAP_FAILED);
		if (m->regions[i].gpa != FAKE_RAM_HIGH_BASE)
			memset(p, FILL, data);
		munmap(p, data);
		assert_int_equal(mem_overlay(m, &m->regions[i], fd, m->regions[i].fd_offset, false, &e), 0);
	}
	close(fd);
	b->dev = fake_vm_add(&b->f, cls, b->cfg);
}

/* Every other page of [gpa, gpa + len), those with odd numbers or those with even ones. */
static void inflate_half(struct bench *b, u64 gpa, u64 len, u32 odd)
{
	u32 nr = (u32)(len / MEM_PAGE_SIZE / 2);
	struct fbuf out = {MIB, nr * (u32)sizeof(u32)};
	u32 *pfns = fake_vm_ptr(&b->f, out.gpa, out.len);

	for (u32 i = 0; i < nr; i++)
		pfns[i] = (u32)(gpa / MEM_PAGE_SIZE) + 2 * i + odd;
	assert_int_equal(fdrv_request(&b->d, 0, &out, 1, NULL, 0), 0);
}

static void check_half(struct bench *b, u64 gpa, u64 len, u32 odd, u8 other)
{
	for (u64 i = 0; i < len / MEM_PAGE_SIZE; i++)
		assert_true(holds(b, gpa + i * MEM_PAGE_SIZE, MEM_PAGE_SIZE, i % 2 == odd ? 0 : other));
}

static void pages_of_a_restored_vm_that_the_balloon_takes_read_as_zeroes(void **state)
{
	const u64 zero = PAGES + 96 * MIB;
	struct bench b;

	(void)state;
	make_restored(&b, "virtio-balloon", BALLOON_PLAIN, 0, 96 * MIB);
	b.f.next_gpa = 2 * MIB;
	run(&b, 2);
	inflate_half(&b, PAGES, 16 * MIB, 1);
	check_half(&b, PAGES, 16 * MIB, 1, FILL);
	assert_int_equal(b.f.vm.mem.nr_uncovered, 2048);
	memset(fake_vm_ptr(&b.f, PAGES, 16 * MIB), 0x77, 16 * MIB); /* taken back, and used */
	inflate_half(&b, PAGES, 16 * MIB, 1);
	check_half(&b, PAGES, 16 * MIB, 1, 0x77);
	inflate_half(&b, PAGES, 16 * MIB, 0);
	assert_true(holds(&b, PAGES, 16 * MIB, 0));
	assert_int_equal(b.f.vm.mem.nr_uncovered, 1); /* one piece of the memfd, whatever the way there */
	/* More pieces than there may be. */
	inflate_half(&b, PAGES + 20 * MIB, 72 * MIB, 1);
	check_half(&b, PAGES + 20 * MIB, 72 * MIB, 1, FILL);
	assert_int_equal(b.f.vm.mem.nr_uncovered, 8192);
	/* What was zero in the snapshot needs no piece. */
	memset(fake_vm_ptr(&b.f, zero, 8 * MIB), 0x77, 8 * MIB);
	inflate_half(&b, zero, 8 * MIB, 1);
	check_half(&b, zero, 8 * MIB, 1, 0x77);
	assert_int_equal(b.f.vm.mem.nr_uncovered, 8192);
	down(&b);
}

static void use_balloon(struct bench *b)
{
	send_pfns(b, 0, (u32)(PAGES / MEM_PAGE_SIZE), 4);
}

static void made_up_balloons_are_refused_or_do_no_harm(void **state)
{
	struct bench a, b;

	(void)state;
	make(&a, "virtio-balloon", BALLOON_ALL, 0);
	run(&a, 5);
	refused(&a, "num_pages", 0, (FAKE_RAM_LOW + FAKE_RAM_HIGH) / MEM_PAGE_SIZE + 1, "num_pages");
	refused(&a, "stats_known", 0, 0x10000, "stats_known");
	refused(&a, "stats_interval_s", 0, 0, "stats_interval_s");
	take(&a);
	make(&b, "virtio-balloon", BALLOON_PLAIN, 0);
	refused_by(&a, &b, "queues");
	saved_free(&a.saved);
	try_any_state(&a, use_balloon);
	down(&a);
	down(&b);
}

/* ---- virtio-mem ---- */

#define MEMORY "{\"total_size_mib\":512}"

static void want(struct bench *b, u32 mib)
{
	char body[64];
	struct err e;

	snprintf(body, sizeof(body), "{\"requested_size_mib\":%u}", mib);
	assert_int_equal(op_patch(b->dev, "", body, &e), 0);
}

static struct fbuf mem_request(struct bench *b, u16 type, u64 addr, u16 nr)
{
	struct fbuf out = {fake_vm_alloc(&b->f, 24, 8), 24};
	u8 *req = fake_vm_ptr(&b->f, out.gpa, 24);

	st_le16(req, type);
	st_le64(req + 8, addr);
	st_le16(req + 16, nr);
	return out;
}

/* The answer's type, or state + 10 for STATE. */
static u16 ask(struct bench *b, u16 type, u64 addr, u16 nr)
{
	struct fbuf out = mem_request(b, type, addr, nr), in = {fake_vm_alloc(&b->f, 10, 8), 10};
	const u8 *resp = fake_vm_ptr(&b->f, in.gpa, 10);

	assert_int_equal(fdrv_request(&b->d, 0, &out, 1, &in, 1), 10);
	return type == VIRTIO_MEM_REQ_STATE ? (u16)(ld_le16(resp + 8) + 10) : ld_le16(resp);
}

#define STATE(b, addr, nr) (ask(b, VIRTIO_MEM_REQ_STATE, addr, nr) - 10)

static void plugged_blocks_stay_plugged_and_more_can_be(void **state)
{
	struct bench a, b;

	(void)state;
	make(&a, "virtio-mem", MEMORY, 512 * MIB);
	run(&a, 1);
	want(&a, 200);
	assert_int_equal(ask(&a, VIRTIO_MEM_REQ_PLUG, REGION, 60), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(ask(&a, VIRTIO_MEM_REQ_UNPLUG, REGION + 3 * BLOCK, 7), VIRTIO_MEM_RESP_ACK);
	take(&a);
	make(&b, "virtio-mem", MEMORY, 512 * MIB);
	put(&b, &a);
	assert_int_equal(fdrv_config64(&b.d, 32), 256 * MIB);  /* usable */
	assert_int_equal(fdrv_config64(&b.d, 40), 53 * BLOCK); /* plugged */
	assert_int_equal(fdrv_config64(&b.d, 48), 200 * MIB);  /* requested */
	assert_int_equal(STATE(&b, REGION, 3), VIRTIO_MEM_STATE_PLUGGED);
	assert_int_equal(STATE(&b, REGION + 3 * BLOCK, 7), VIRTIO_MEM_STATE_UNPLUGGED);
	assert_int_equal(STATE(&b, REGION + 10 * BLOCK, 50), VIRTIO_MEM_STATE_PLUGGED);
	assert_int_equal(STATE(&b, REGION + 60 * BLOCK, 68), VIRTIO_MEM_STATE_UNPLUGGED);
	assert_int_equal(op_get_number(b.dev, "", "requested_size_mib"), 200);
	assert_int_equal(ask(&b, VIRTIO_MEM_REQ_PLUG, REGION + 60 * BLOCK, 47), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(ask(&b, VIRTIO_MEM_REQ_PLUG, REGION + 3 * BLOCK, 1), VIRTIO_MEM_RESP_NACK); /* more than was asked for */
	assert_int_equal(ask(&b, VIRTIO_MEM_REQ_UNPLUG_ALL, 0, 0), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(fdrv_config64(&b.d, 40), 0);
	saved_resume(&a.f, a.dev);
	assert_int_equal(STATE(&a, REGION, 3), VIRTIO_MEM_STATE_PLUGGED);
	down(&a);
	down(&b);
}

static void a_request_to_unplug_much_ends_before_the_save(void **state)
{
	struct bench a, b;
	void *token;

	(void)state;
	make(&a, "virtio-mem", MEMORY, 512 * MIB);
	run(&a, 1);
	want(&a, 512);
	assert_int_equal(ask(&a, VIRTIO_MEM_REQ_PLUG, REGION, 256), VIRTIO_MEM_RESP_ACK);
	memset(fake_vm_ptr(&a.f, REGION, 200 * MIB), FILL, 200 * MIB);
	struct fbuf out = mem_request(&a, VIRTIO_MEM_REQ_UNPLUG, REGION, 256), in = {fake_vm_alloc(&a.f, 10, 8), 10};

	memset(fake_vm_ptr(&a.f, in.gpa, 10), 0xff, 10);
	assert_true(fdrv_add(&a.d, 0, &out, 1, &in, 1, &token));
	fdrv_kick(&a.d, 0);
	while (*(volatile u8 *)fake_vm_ptr(&a.f, REGION, 1))
		;
	take(&a);
	assert_true(holds(&a, REGION, 512 * MIB, 0));
	make(&b, "virtio-mem", MEMORY, 512 * MIB);
	put(&b, &a);
	assert_true(fdrv_wait_used(&b.d, 0, &token, NULL, WAIT_MS));
	assert_int_equal(ld_le16(fake_vm_ptr(&b.f, in.gpa, 2)), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(fdrv_config64(&b.d, 40), 0);
	down(&a);
	down(&b);
}

static void blocks_of_a_restored_vm_that_are_unplugged_read_as_zeroes(void **state)
{
	struct bench b;

	(void)state;
	make_restored(&b, "virtio-mem", MEMORY, 512 * MIB, 16 * MIB);
	b.f.next_gpa = 2 * MIB;
	run(&b, 1);
	want(&b, 200);
	assert_int_equal(ask(&b, VIRTIO_MEM_REQ_PLUG, REGION, 60), VIRTIO_MEM_RESP_ACK);
	assert_true(holds(&b, REGION, 16 * MIB, FILL));
	memset(fake_vm_ptr(&b.f, REGION + 20 * BLOCK, BLOCK), 0x77, BLOCK);
	assert_int_equal(ask(&b, VIRTIO_MEM_REQ_UNPLUG, REGION + BLOCK, 40), VIRTIO_MEM_RESP_ACK);
	assert_true(holds(&b, REGION, BLOCK, FILL));
	assert_true(holds(&b, REGION + BLOCK, 40 * BLOCK, 0));
	down(&b);
}

static void use_memory(struct bench *b)
{
	ask(b, VIRTIO_MEM_REQ_STATE, REGION, 40);
	ask(b, VIRTIO_MEM_REQ_PLUG, REGION + 20 * BLOCK, 5);
	ask(b, VIRTIO_MEM_REQ_UNPLUG, REGION + 22 * BLOCK, 5);
	assert_true(fdrv_config64(&b->d, 40) <= 512 * MIB);
}

static void made_up_hotplug_memory_is_refused_or_does_no_harm(void **state)
{
	struct bench a, b;

	(void)state;
	make(&a, "virtio-mem", MEMORY, 512 * MIB);
	run(&a, 1);
	want(&a, 200);
	refused(&a, "addr", 0, REGION + 2 * MIB, "addr");
	refused(&a, "block_size", 0, 4 * MIB, "blocks of 4 MiB");
	refused(&a, "block_size", 0, 0, "blocks of 0 MiB");
	refused(&a, "region_size", 0, GIB, "1024 MiB");
	refused(&a, "usable_region_size", 0, 640 * MIB, "usable_region_size");
	refused(&a, "usable_region_size", 0, 250 * MIB, "usable_region_size");
	refused(&a, "requested_size", 0, 258 * MIB, "requested_size");
	refused(&a, "requested_size", 0, 3 * MIB, "requested_size");
	refused(&a, "nr_plugged", 0, 15, "plugged");
	refused(&a, "nr_plugged", 0, 17, "plugged");
	take(&a);
	make(&b, "virtio-mem", "{\"total_size_mib\":256}", 256 * MIB);
	refused_by(&a, &b, "512 MiB");
	saved_free(&a.saved);
	try_any_state(&a, use_memory);
	down(&a);
	down(&b);
}

static void a_map_of_too_many_blocks_is_not_saved(void **state)
{
	struct bench a;
	struct err e = {0};

	(void)state;
	/* The device believes its configuration; there is no such memory here. */
	make(&a, "virtio-mem", "{\"total_size_mib\":8388608}", 512 * MIB);
	run(&a, 1);
	want(&a, 8388608);
	assert_int_equal(saved_take(&a.saved, &a.f, a.dev, &e), -EOPNOTSUPP);
	assert_non_null(strstr(e.msg, "block_size_mib"));
	down(&a);
}

/* ---- pmem ---- */

#define FILE_SIZE (3 * MIB + 512)

/* A file, and the configuration of a device that has it. */
static char *pmem_json(char path[64], const char *more)
{
	int fd;

	strcpy(path, "/tmp/husk-pmem-XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0 && ftruncate(fd, FILE_SIZE) == 0);
	close(fd);
	return xasprintf("{\"id\":\"p\",\"path_on_host\":\"%s\"%s}", path, more);
}

static void start_flush(struct bench *b, struct fbuf *out, struct fbuf *in)
{
	*out = (struct fbuf){fake_vm_alloc(&b->f, 4, 4), 4};
	*in = (struct fbuf){fake_vm_alloc(&b->f, 4, 4), 4};
	st_le32(fake_vm_ptr(&b->f, out->gpa, 4), VIRTIO_PMEM_REQ_TYPE_FLUSH);
	st_le32(fake_vm_ptr(&b->f, in->gpa, 4), 0xeeeeeeee);
	assert_true(fdrv_add(&b->d, 0, out, 1, in, 1, NULL));
	fdrv_kick(&b->d, 0);
}

static void flushes_that_wait_end_before_the_save_and_the_file_has_what_was_written(void **state)
{
	struct bench a, b;
	char path[64];
	auto_free char *json = pmem_json(path, ",\"rate_limiter\":{\"ops\":{\"size\":1,\"refill_time\":3600000}}");
	struct fbuf out[3], in[3];

	(void)state;
	make(&a, "virtio-pmem", json, 0);
	run(&a, 1);
	u64 region = fdrv_config64(&a.d, 0);

	memcpy(fake_vm_ptr(&a.f, region + MIB, 5), "hello", 5);
	for (u32 i = 0; i < 3; i++)
		start_flush(&a, &out[i], &in[i]);
	fdrv_sync(&a.d);
	take(&a);
	fake_vm_fini(&a.f); /* one VM at a time has the file */
	make(&b, "virtio-pmem", json, 0);
	put(&b, &a);
	for (u32 i = 0; i < 3; i++) {
		assert_true(fdrv_wait_used(&b.d, 0, NULL, NULL, WAIT_MS));
		assert_int_equal(ld_le32(fake_vm_ptr(&b.f, in[i].gpa, 4)), 0);
	}
	assert_memory_equal(fake_vm_ptr(&b.f, region + MIB, 5), "hello", 5);
	start_flush(&b, &out[0], &in[0]);
	assert_true(fdrv_wait_used(&b.d, 0, NULL, NULL, WAIT_MS));
	saved_free(&a.saved);
	cfg_free(a.cls->config, a.cfg);
	free(a.cfg);
	down(&b);
	unlink(path);
}

static void a_file_of_another_size_is_refused(void **state)
{
	struct bench a, b;
	char path[64];
	auto_free char *json = pmem_json(path, "");

	(void)state;
	make(&a, "virtio-pmem", json, 0);
	run(&a, 1);
	refused(&a, "start", 0, 0, "start");
	take(&a);
	fake_vm_fini(&a.f);
	assert_int_equal(truncate(path, FILE_SIZE - 512), 0);
	make(&b, "virtio-pmem", json, 0);
	refused_by(&a, &b, "3145728 bytes");
	saved_free(&a.saved);
	cfg_free(a.cls->config, a.cfg);
	free(a.cfg);
	down(&b);
	unlink(path);
}

static void what_the_file_does_not_get_is_not_saved(void **state)
{
	struct bench a;
	char path[64];
	auto_free char *json = pmem_json(path, "");
	struct err e = {0};

	(void)state;
	make(&a, "virtio-pmem", json, 0);
	run(&a, 1);
	u64 region = fdrv_config64(&a.d, 0);

	take(&a);
	saved_free(&a.saved);
	*(u8 *)fake_vm_ptr(&a.f, region + 4 * MIB - 1, 1) = 1;
	assert_int_equal(saved_take(&a.saved, &a.f, a.dev, &e), -EOPNOTSUPP);
	assert_non_null(strstr(e.msg, path));
	down(&a);
	unlink(path);
}

static void a_read_only_file_is_saved_as_long_as_the_guest_only_reads(void **state)
{
	struct bench a;
	char path[64];
	auto_free char *json = pmem_json(path, ",\"read_only\":true");
	struct err e = {0};

	(void)state;
	make(&a, "virtio-pmem", json, 0);
	run(&a, 1);
	u64 region = fdrv_config64(&a.d, 0);

	assert_true(holds(&a, region, FILE_SIZE, 0)); /* reads all of it */
	take(&a);
	saved_free(&a.saved);
	*(u8 *)fake_vm_ptr(&a.f, region + 2 * MIB, 1) = 0;
	assert_int_equal(saved_take(&a.saved, &a.f, a.dev, &e), -EOPNOTSUPP);
	assert_non_null(strstr(e.msg, path));
	assert_non_null(strstr(e.msg, "read-only"));
	down(&a);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_balloon_keeps_its_size_and_statistics_go_on),
		cmocka_unit_test(queues_keep_their_roles_where_the_driver_left_some_out),
		cmocka_unit_test(a_run_of_hinting_goes_on),
		cmocka_unit_test(a_long_request_ends_before_the_save),
		cmocka_unit_test(pages_of_a_restored_vm_that_the_balloon_takes_read_as_zeroes),
		cmocka_unit_test(made_up_balloons_are_refused_or_do_no_harm),
		cmocka_unit_test(plugged_blocks_stay_plugged_and_more_can_be),
		cmocka_unit_test(a_request_to_unplug_much_ends_before_the_save),
		cmocka_unit_test(blocks_of_a_restored_vm_that_are_unplugged_read_as_zeroes),
		cmocka_unit_test(made_up_hotplug_memory_is_refused_or_does_no_harm),
		cmocka_unit_test(a_map_of_too_many_blocks_is_not_saved),
		cmocka_unit_test(flushes_that_wait_end_before_the_save_and_the_file_has_what_was_written),
		cmocka_unit_test(a_file_of_another_size_is_refused),
		cmocka_unit_test(what_the_file_does_not_get_is_not_saved),
		cmocka_unit_test(a_read_only_file_is_saved_as_long_as_the_guest_only_reads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
