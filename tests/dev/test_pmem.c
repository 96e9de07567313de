/* test_pmem.c: the persistent memory device: its region of guest memory, and flushes. */
#include "tests/unit/cm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_pmem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/dev/fake_driver.h"
#include "tests/dev/patch.h"
#include "vmm/clock.h"

extern const struct device_class virtio_pmem_class;

#define FILE_SIZE (3 * MIB + 512)
#define REGION	  (4 * MIB)

struct fixture {
	struct fake_vm f;
	struct fdrv d;
	struct device *dev;
	void *cfg[2];
	u32 nr_cfg;
	char path[64];
	u64 req, resp; /* guest addresses */
};

static int setup(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));
	int fd;

	*state = x;
	snprintf(x->path, sizeof(x->path), "/tmp/husk-pmem-XXXXXX");
	fd = mkstemp(x->path);
	if (fd < 0 || ftruncate(fd, FILE_SIZE) < 0)
		return -1;
	close(fd);
	fake_vm_init(&x->f, FAKE_VM_QUIET);
	x->req = fake_vm_alloc(&x->f, 4, 4);
	x->resp = fake_vm_alloc(&x->f, 4, 4);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;

	fake_vm_fini(&x->f);
	for (u32 i = 0; i < x->nr_cfg; i++) {
		cfg_free(virtio_pmem_class.config, x->cfg[i]);
		free(x->cfg[i]);
	}
	unlink(x->path);
	free(x);
	return 0;
}

static void *parse_cfg(struct fixture *x, const char *path, const char *more)
{
	auto_free char *text = xasprintf("{\"id\": \"p%u\", \"path_on_host\": \"%s\"%s}", x->nr_cfg, path, more);
	const struct cfg_place at = {.origin = "test"};
	struct json_object *json = json_tokener_parse(text);
	void *cfg = xzalloc(virtio_pmem_class.config->size);

	assert_non_null(json);
	assert_int_equal(cfg_read_object(virtio_pmem_class.config, json, cfg, &at, NULL), 0);
	json_object_put(json);
	x->cfg[x->nr_cfg++] = cfg;
	return cfg;
}

static void up_with(struct fixture *x, const char *more, u64 features)
{
	x->dev = fake_vm_add(&x->f, &virtio_pmem_class, parse_cfg(x, x->path, more));
	fake_vm_start(&x->f);
	fdrv_up(&x->d, &x->f, x->dev, features, 1, 256);
}

static void up(struct fixture *x)
{
	up_with(x, "", FDRV_ALL_FEATURES);
}

static u64 counter(struct fixture *x, const char *name)
{
	const struct counter_desc *c = virtio_pmem_class.counters;
	u64 n;

	while (strcmp(c->name, name))
		c++;
	device_lock(x->dev);
	n = *(const u64 *)((const char *)x->dev + c->offset);
	device_unlock(x->dev);
	return n;
}

static u32 request(struct fixture *x, u32 type)
{
	struct fbuf out = {x->req, 4}, in = {x->resp, 4};
	u32 *resp = fake_vm_ptr(&x->f, x->resp, 4);

	*resp = 0xeeeeeeee;
	memcpy(fake_vm_ptr(&x->f, x->req, 4), &type, 4);
	assert_int_equal(fdrv_request(&x->d, 0, &out, 1, &in, 1), 4);
	return *resp;
}

/* All of them share one request, zeroes as it was allocated: a flush. */
static void add_flush(struct fixture *x)
{
	struct fbuf out = {x->req, 4}, in = {x->resp, 4};

	assert_true(fdrv_add(&x->d, 0, &out, 1, &in, 1, x));
}

/* ---- the region ---- */

static void the_configuration_space_tells_an_aligned_region_above_all_memory(void **state)
{
	struct fixture *x = *state;

	up(x);
	assert_int_equal(fdrv_read(&x->d, MMIO_DEVICE_ID), 27);
	assert_int_equal(fdrv_config64(&x->d, 0), FAKE_RAM_HIGH_BASE + FAKE_RAM_HIGH);
	assert_int_equal(fdrv_config64(&x->d, 0) % (2 * MIB), 0);
	assert_int_equal(fdrv_config64(&x->d, 8), REGION);
	assert_int_equal(fdrv_config64(&x->d, 16), 0);
}

static void regions_of_several_devices_do_not_overlap(void **state)
{
	char path[] = "/tmp/husk-pmem-XXXXXX";
	struct fixture *x = *state;
	struct device *second;
	int fd = mkstemp(path);
	char text[64] = "";

	assert_int_equal(ftruncate(fd, 512), 0);
	close(fd);
	x->dev = fake_vm_add(&x->f, &virtio_pmem_class, parse_cfg(x, x->path, ""));
	second = fake_vm_add(&x->f, &virtio_pmem_class, parse_cfg(x, path, ", \"root_device\": true, \"read_only\": true"));
	fake_vm_start(&x->f);
	fdrv_up(&x->d, &x->f, second, FDRV_ALL_FEATURES, 1, 256);
	assert_int_equal(fdrv_config64(&x->d, 0), FAKE_RAM_HIGH_BASE + FAKE_RAM_HIGH + REGION);
	assert_int_equal(fdrv_config64(&x->d, 8), 2 * MIB);
	virtio_pmem_class.cmdline(x->dev, text, sizeof(text));
	assert_string_equal(text, "");
	virtio_pmem_class.cmdline(second, text, sizeof(text));
	assert_string_equal(text, "root=/dev/pmem1 ro");
	unlink(path);
}

static void what_the_guest_writes_is_in_the_file(void **state)
{
	struct fixture *x = *state;
	char back[6];
	u64 gpa;
	int fd;

	up(x);
	gpa = fdrv_config64(&x->d, 0);
	memcpy(fake_vm_ptr(&x->f, gpa + 3 * MIB, 6), "store", 6);
	assert_int_equal(request(x, VIRTIO_PMEM_REQ_TYPE_FLUSH), 0);
	fd = open(x->path, O_RDONLY);
	assert_int_equal(pread(fd, back, 6, 3 * MIB), 6);
	assert_string_equal(back, "store");
	close(fd);
}

static void a_read_only_file_is_never_written(void **state)
{
	struct fixture *x = *state;
	char back[6] = "";
	int fd;

	assert_int_equal(chmod(x->path, 0400), 0);
	up_with(x, ", \"read_only\": true", FDRV_ALL_FEATURES);
	memcpy(fake_vm_ptr(&x->f, fdrv_config64(&x->d, 0), 6), "store", 6);
	assert_int_equal(request(x, VIRTIO_PMEM_REQ_TYPE_FLUSH), 0);
	fd = open(x->path, O_RDONLY);
	assert_int_equal(pread(fd, back, 6, 0), 6);
	assert_memory_equal(back, "\0\0\0\0\0\0", 6);
	close(fd);
}

static void refuse(struct fixture *x, const char *path, int code)
{
	struct err e = {0};

	assert_null(fake_vm_add_err(&x->f, &virtio_pmem_class, parse_cfg(x, path, ""), &e));
	assert_int_equal(e.code, code);
	assert_non_null(strstr(e.msg, "pmem \"p0\": "));
	assert_non_null(strstr(e.msg, path));
	assert_int_equal(x->f.vm.mem.nr_regions, 2);
}

static void a_missing_file_is_refused(void **state)
{
	refuse(*state, "/nonexistent/file", -ENOENT);
}

static void an_empty_file_is_refused(void **state)
{
	struct fixture *x = *state;

	assert_int_equal(truncate(x->path, 0), 0);
	refuse(x, x->path, -EINVAL);
}

static void a_directory_is_refused(void **state)
{
	refuse(*state, "/tmp", -EISDIR);
}

static void a_file_that_another_vm_writes_is_refused(void **state)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	struct fixture *x = *state;
	int fd = open(x->path, O_RDWR);

	assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
	refuse(x, x->path, -EBUSY);
	close(fd);
}

/* ---- flushes ---- */

static void flushes_are_answered(void **state, u64 features)
{
	struct fixture *x = *state;

	up_with(x, "", features);
	for (u32 i = 0; i < 20; i++)
		assert_int_equal(request(x, VIRTIO_PMEM_REQ_TYPE_FLUSH), 0);
	assert_int_equal(counter(x, "flush_count"), 20);
	assert_int_equal(counter(x, "event_fails"), 0);
}

static void flushes_are_answered_packed(void **state)
{
	flushes_are_answered(state, FDRV_ALL_FEATURES);
}

static void flushes_are_answered_split(void **state)
{
	flushes_are_answered(state, ~FDRV_PACKED);
}

static void many_flushes_at_once_share_their_work(void **state)
{
	struct fixture *x = *state;

	up(x);
	for (u32 round = 0; round < 3; round++) {
		for (u32 i = 0; i < 250; i++)
			add_flush(x);
		fdrv_kick(&x->d, 0);
		for (u32 i = 0; i < 250; i++)
			assert_true(fdrv_wait_used(&x->d, 0, NULL, NULL, 5000));
	}
	assert_int_equal(counter(x, "queue_event_count"), 750);
	assert_true(counter(x, "flush_count") < 100);
}

static void unknown_requests_fail(void **state)
{
	struct fixture *x = *state;

	up(x);
	assert_int_equal(request(x, 1), 1);
	assert_int_equal(request(x, UINT32_MAX), 1);
	assert_int_equal(counter(x, "flush_count"), 0);
	assert_int_equal(counter(x, "event_fails"), 2);
	assert_int_equal(request(x, VIRTIO_PMEM_REQ_TYPE_FLUSH), 0);
}

static void request_and_answer_may_be_in_pieces_and_longer(void **state)
{
	struct fixture *x = *state;
	u64 at = fake_vm_alloc(&x->f, 64, 4);
	struct fbuf out[3] = {{at, 1}, {at + 1, 3}, {at + 4, 8}}, in[3] = {{at + 16, 3}, {at + 19, 1}, {at + 20, 8}};
	u8 *p = fake_vm_ptr(&x->f, at, 64);

	up(x);
	memset(p + 16, 0xee, 12);
	assert_int_equal(fdrv_request(&x->d, 0, out, 3, in, 3), 4);
	assert_memory_equal(p + 16, "\0\0\0\0\xee\xee\xee\xee", 8);
}

static void broken_by(struct fixture *x, u32 out_len, u32 in_len)
{
	struct fbuf out = {x->req, out_len}, in = {x->resp, in_len};

	up(x);
	assert_true(fdrv_add(&x->d, 0, &out, out_len ? 1 : 0, &in, in_len ? 1 : 0, x));
	fdrv_notify(&x->d, 0);
	assert_true(fdrv_wait_needs_reset(&x->d, 2000));
	assert_true(fdrv_reset(&x->d, 1000));
	fdrv_up(&x->d, &x->f, x->dev, FDRV_ALL_FEATURES, 1, 256);
	assert_int_equal(request(x, VIRTIO_PMEM_REQ_TYPE_FLUSH), 0);
}

static void a_short_request_breaks_the_device(void **state)
{
	broken_by(*state, 3, 4);
}

static void a_short_answer_breaks_the_device(void **state)
{
	broken_by(*state, 4, 3);
}

static void a_request_without_room_for_an_answer_breaks_the_device(void **state)
{
	broken_by(*state, 4, 0);
}

/* ---- limits, reset, pause ---- */

#define OPS(size, ms) "\"rate_limiter\": {\"ops\": {\"size\": " #size ", \"refill_time\": " #ms "}}"

static void flushes_are_limited(void **state)
{
	struct fixture *x = *state;
	u64 start;

	up_with(x, ", " OPS(2, 200), FDRV_ALL_FEATURES);
	start = clock_host_ns();
	for (u32 i = 0; i < 6; i++)
		assert_int_equal(request(x, VIRTIO_PMEM_REQ_TYPE_FLUSH), 0);
	assert_true(clock_host_ns() - start >= 400 * NSEC_PER_MSEC);
	assert_true(counter(x, "rate_limiter_throttled_events") > 0);
}

static void a_flush_counts_as_many_bytes_as_the_file_has(void **state)
{
	struct fixture *x = *state;
	u64 start;

	/* Larger than the bucket: the second waits until the first is paid and the bucket full. */
	up_with(x, ", \"rate_limiter\": {\"bandwidth\": {\"size\": 1048576, \"refill_time\": 100}}", FDRV_ALL_FEATURES);
	start = clock_host_ns();
	assert_int_equal(request(x, VIRTIO_PMEM_REQ_TYPE_FLUSH), 0);
	assert_int_equal(request(x, VIRTIO_PMEM_REQ_TYPE_FLUSH), 0);
	assert_true(clock_host_ns() - start >= 300 * NSEC_PER_MSEC);
}

static void a_limit_changes_while_flushes_wait(void **state)
{
	struct fixture *x = *state;
	struct err e;

	up_with(x, ", " OPS(1, 60000), FDRV_ALL_FEATURES);
	assert_int_equal(request(x, VIRTIO_PMEM_REQ_TYPE_FLUSH), 0);
	for (u32 i = 0; i < 3; i++)
		add_flush(x);
	fdrv_kick(&x->d, 0);
	assert_false(fdrv_wait_used(&x->d, 0, NULL, NULL, 50));
	assert_int_equal(patch_device(&x->f, x->dev, "{\"id\": \"p0\"}", NULL), 0);
	assert_false(fdrv_wait_used(&x->d, 0, NULL, NULL, 50));
	assert_int_equal(patch_device(&x->f, x->dev, "{\"id\": \"p0\", " OPS(0, 0) "}", NULL), 0);
	for (u32 i = 0; i < 3; i++)
		assert_true(fdrv_wait_used(&x->d, 0, NULL, NULL, 2000));
	assert_int_equal(patch_device(&x->f, x->dev, "{\"id\": \"p0\", \"path_on_host\": \"/tmp/x\"}", &e), -EINVAL);
}

static void a_reset_forgets_flushes_that_wait(void **state)
{
	struct fixture *x = *state;
	u32 *resp = fake_vm_ptr(&x->f, x->resp, 4);

	up_with(x, ", " OPS(1, 60000), FDRV_ALL_FEATURES);
	assert_int_equal(request(x, VIRTIO_PMEM_REQ_TYPE_FLUSH), 0);
	for (u32 i = 0; i < 100; i++)
		add_flush(x);
	fdrv_notify(&x->d, 0);
	fdrv_sync(&x->d);
	*resp = 0xeeeeeeee;
	assert_true(fdrv_reset(&x->d, 1000));
	assert_int_equal(*resp, 0xeeeeeeee);
	assert_int_equal(to_virtio(x->dev)->queues[0].in_flight, 0);
	assert_int_equal(patch_device(&x->f, x->dev, "{\"id\": \"p0\", " OPS(0, 0) "}", NULL), 0);
	fdrv_up(&x->d, &x->f, x->dev, FDRV_ALL_FEATURES, 1, 256);
	assert_int_equal(request(x, VIRTIO_PMEM_REQ_TYPE_FLUSH), 0);
}

static void resets_in_the_middle_of_flushes_do_no_harm(void **state)
{
	struct fixture *x = *state;

	up(x);
	for (u32 i = 0; i < 50; i++) {
		for (u32 j = 0; j < 10; j++)
			add_flush(x);
		fdrv_notify(&x->d, 0);
		if (i % 2)
			fdrv_sync(&x->d);
		assert_true(fdrv_reset(&x->d, 2000));
		fdrv_up(&x->d, &x->f, x->dev, FDRV_ALL_FEATURES, 1, 256);
	}
	assert_int_equal(request(x, VIRTIO_PMEM_REQ_TYPE_FLUSH), 0);
}

struct call {
	struct loop_work work;
	void (*fn)(struct device *dev);
	struct device *dev;
	sem_t done;
};

static void run_call(struct loop_work *w)
{
	struct call *c = container_of(w, struct call, work);

	c->fn(c->dev);
	sem_post(&c->done);
}

static void on_loop(struct fixture *x, void (*fn)(struct device *dev))
{
	struct call c = {.work.run = run_call, .fn = fn, .dev = x->dev};

	sem_init(&c.done, 0, 0);
	loop_post(&x->f.vm.loop, &c.work);
	sem_wait(&c.done);
	sem_destroy(&c.done);
}

static void a_pause_holds_flushes(void **state)
{
	struct fixture *x = *state;

	up(x);
	for (u32 i = 0; i < 10; i++)
		add_flush(x);
	fdrv_notify(&x->d, 0);
	on_loop(x, virtio_pmem_class.quiesce);
	add_flush(x);
	fdrv_notify(&x->d, 0);
	on_loop(x, virtio_pmem_class.resume);
	for (u32 i = 0; i < 11; i++)
		assert_true(fdrv_wait_used(&x->d, 0, NULL, NULL, 2000));
	on_loop(x, virtio_pmem_class.quiesce);
	add_flush(x);
	fdrv_notify(&x->d, 0);
	assert_false(fdrv_wait_used(&x->d, 0, NULL, NULL, 50));
}

static void destroy_finishes_what_is_in_flight(void **state)
{
	struct fixture *x = *state;

	up(x);
	for (u32 i = 0; i < 200; i++)
		add_flush(x);
	fdrv_notify(&x->d, 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_configuration_space_tells_an_aligned_region_above_all_memory),
		T(regions_of_several_devices_do_not_overlap),
		T(what_the_guest_writes_is_in_the_file),
		T(a_read_only_file_is_never_written),
		T(a_missing_file_is_refused),
		T(an_empty_file_is_refused),
		T(a_directory_is_refused),
		T(a_file_that_another_vm_writes_is_refused),
		T(flushes_are_answered_packed),
		T(flushes_are_answered_split),
		T(many_flushes_at_once_share_their_work),
		T(unknown_requests_fail),
		T(request_and_answer_may_be_in_pieces_and_longer),
		T(a_short_request_breaks_the_device),
		T(a_short_answer_breaks_the_device),
		T(a_request_without_room_for_an_answer_breaks_the_device),
		T(flushes_are_limited),
		T(a_flush_counts_as_many_bytes_as_the_file_has),
		T(a_limit_changes_while_flushes_wait),
		T(a_reset_forgets_flushes_that_wait),
		T(resets_in_the_middle_of_flushes_do_no_harm),
		T(a_pause_holds_flushes),
		T(destroy_finishes_what_is_in_flight),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
