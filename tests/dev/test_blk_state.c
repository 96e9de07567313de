/* test_blk_state.c: a disk goes on in another VM in the midst of its traffic; what does not fit the snapshot is refused. */
#include "tests/unit/cm.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/dev/saved.h"
#include "vmm/config_table.h"

extern const struct device_class virtio_blk_class;

#define BLOCK	   4096u
#define BLOCKS	   512u
#define DISK_SIZE  (BLOCK * BLOCKS)
#define DEPTH	   24u
#define TIMEOUT_MS 5000u

/* In place of the C library's: what reaches the disk cannot be seen otherwise. */
static u32 syncs;
static int sync_error;

int fdatasync(int fd)
{
	(void)fd;
	__atomic_add_fetch(&syncs, 1, __ATOMIC_RELAXED);
	errno = sync_error;
	return sync_error ? -1 : 0;
}

struct request {
	u64 hdr, data, status; /* guest addresses */
	u32 block, version;
	bool busy, write;
};

struct fixture {
	struct fake_vm vms[2], *vm;
	struct fdrv d;
	struct device *dev;
	void *cfg;
	char path[64], *more; /* further keys of the drive */
	struct saved saved;
	unsigned seed;
	struct request reqs[DEPTH];
	u32 busy, done;
	u32 versions[BLOCKS]; /* what each block holds; 0: zeroes */
	bool taken[BLOCKS];   /* a request is under way */
};

/* ---- set-up ---- */

static void *parse_cfg(const struct fixture *x)
{
	auto_free char *text = xasprintf("{\"drive_id\": \"d0\", \"path_on_host\": \"%s\", \"is_root_device\": false%s}", x->path,
					 x->more ? x->more : "");
	const struct cfg_table *t = virtio_blk_class.config;
	const struct cfg_place at = {.origin = "test"};
	struct json_object *json = json_tokener_parse(text);
	void *cfg = xzalloc(t->size);
	struct err e = {0};

	assert_non_null(json);
	if (cfg_read_object(t, json, cfg, &at, &e) < 0)
		fail_msg("%s", e.msg);
	json_object_put(json);
	return cfg;
}

static void free_cfg(struct fixture *x)
{
	cfg_free(virtio_blk_class.config, x->cfg);
	free(x->cfg);
	x->cfg = NULL;
}

static void make_image(char *path, u64 size)
{
	int fd;

	strcpy(path, "/tmp/husk-disk-XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_return_code(ftruncate(fd, (off_t)size), errno);
	close(fd);
}

static int setup(void **state)
{
	struct fixture *x = xzalloc(sizeof(*x));

	*state = x;
	syncs = 0;
	sync_error = 0;
	make_image(x->path, DISK_SIZE);
	return 0;
}

static void end_vm(struct fixture *x)
{
	fake_vm_fini(x->vm);
	free_cfg(x);
}

static int teardown(void **state)
{
	struct fixture *x = *state;

	end_vm(x);
	saved_free(&x->saved);
	unlink(x->path);
	free(x);
	return 0;
}

static void add_disk(struct fixture *x, struct fake_vm *f)
{
	fake_vm_init(f, FAKE_VM_QUIET);
	x->vm = f;
	x->cfg = parse_cfg(x);
	x->dev = fake_vm_add(f, &virtio_blk_class, x->cfg);
}

static void up(struct fixture *x, const char *more, u64 features)
{
	x->more = (char *)more;
	add_disk(x, &x->vms[0]);
	fake_vm_start(x->vm);
	fdrv_up(&x->d, x->vm, x->dev, features, 1, 64);
	for (u32 i = 0; i < DEPTH; i++) {
		x->reqs[i].hdr = fake_vm_alloc(x->vm, sizeof(struct virtio_blk_outhdr), 8);
		x->reqs[i].data = fake_vm_alloc(x->vm, BLOCK, 512);
		x->reqs[i].status = fake_vm_alloc(x->vm, 1, 1);
	}
}

static void take(struct fixture *x)
{
	struct err e = {0};

	saved_free(&x->saved);
	if (saved_take(&x->saved, x->vm, x->dev, &e) < 0)
		fail_msg("not saved: %s", e.msg);
}

/* The old VM ends first: the image is locked. */
static int put_into_next(struct fixture *x, struct err *e)
{
	struct fake_vm *old = x->vm;

	end_vm(x);
	add_disk(x, old == &x->vms[0] ? &x->vms[1] : &x->vms[0]);
	saved_memory(&x->saved, x->vm);
	fdrv_move(&x->d, x->vm, x->dev);
	return saved_put(&x->saved, x->vm, x->dev, e);
}

static void go_on(struct fixture *x)
{
	fake_vm_start(x->vm);
	saved_resume(x->vm, x->dev);
}

static void hop(struct fixture *x)
{
	struct err e = {0};

	take(x);
	if (put_into_next(x, &e) < 0)
		fail_msg("not loaded: %s", e.msg);
	go_on(x);
}

/* ---- traffic: any block has at most one request under way ---- */

static u32 pick(struct fixture *x, u32 n)
{
	return (u32)rand_r(&x->seed) % n;
}

static void block_content(u8 *p, u32 block, u32 version)
{
	u32 v = block * 2654435761u + version;

	for (u32 i = 0; i < BLOCK; i += 4) {
		v = v * 1664525 + 1013904223;
		st_le32(p + i, version ? v : 0);
	}
}

static bool send_one(struct fixture *x)
{
	u32 block = pick(x, BLOCKS);
	struct request *r = x->reqs;
	struct virtio_blk_outhdr h = {.sector = (u64)block * (BLOCK / 512)};

	while (r < x->reqs + DEPTH && r->busy)
		r++;
	if (r == x->reqs + DEPTH || x->taken[block])
		return false;
	r->busy = x->taken[block] = true;
	r->write = pick(x, 3);
	r->block = block;
	r->version = x->versions[block] + r->write;
	h.type = r->write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
	memcpy(fake_vm_ptr(x->vm, r->hdr, sizeof(h)), &h, sizeof(h));
	block_content(fake_vm_ptr(x->vm, r->data, BLOCK), block, r->write ? r->version : 0xffff);
	*(u8 *)fake_vm_ptr(x->vm, r->status, 1) = 0xee;
	struct fbuf out[2] = {{r->hdr, sizeof(h)}, {r->data, BLOCK}}, in[2] = {{r->data, BLOCK}, {r->status, 1}};

	assert_true(r->write ? fdrv_add(&x->d, 0, out, 2, in + 1, 1, r) : fdrv_add(&x->d, 0, out, 1, in, 2, r));
	x->busy++;
	return true;
}

static void take_answer(struct fixture *x)
{
	struct request *r;
	u8 want[BLOCK];
	void *token;

	if (!fdrv_wait_used(&x->d, 0, &token, NULL, TIMEOUT_MS))
		fail_msg("nothing came back: a request was lost");
	r = token;
	assert_true(r->busy);
	assert_int_equal(*(u8 *)fake_vm_ptr(x->vm, r->status, 1), VIRTIO_BLK_S_OK);
	block_content(want, r->block, r->version);
	assert_memory_equal(fake_vm_ptr(x->vm, r->data, BLOCK), want, BLOCK);
	x->versions[r->block] = r->version;
	r->busy = x->taken[r->block] = false;
	x->busy--;
	x->done++;
}

static void burst(struct fixture *x, u32 most)
{
	for (u32 n = 1 + pick(x, most); n && send_one(x); n--)
		;
	fdrv_kick(&x->d, 0);
}

static void expect_image(struct fixture *x)
{
	int fd = open(x->path, O_RDONLY);
	u8 got[BLOCK], want[BLOCK];

	for (u32 i = 0; i < BLOCKS; i++) {
		assert_int_equal(pread(fd, got, BLOCK, (off_t)i * BLOCK), BLOCK);
		block_content(want, i, x->versions[i]);
		assert_memory_equal(got, want, BLOCK);
	}
	close(fd);
}

static void work_on_while_moving(struct fixture *x, u32 moves)
{
	for (u32 i = 0; i < moves; i++) {
		burst(x, DEPTH);
		for (u32 n = pick(x, 8); n && x->busy; n--)
			take_answer(x);
		burst(x, 6);
		hop(x);
		if (!pick(x, 3)) {
			while (x->busy)
				take_answer(x);
		}
	}
	while (x->busy)
		take_answer(x);
	expect_image(x);
	print_message("# %u requests, %u moves\n", x->done, moves);
}

static void no_request_is_lost_or_done_twice_on(void **state, const char *more, u64 features)
{
	struct fixture *x = *state;

	up(x, more, features);
	work_on_while_moving(x, 40);
}

static void no_request_is_lost_or_done_twice_sync_packed(void **state)
{
	no_request_is_lost_or_done_twice_on(state, NULL, FDRV_ALL_FEATURES);
}

static void no_request_is_lost_or_done_twice_sync_split(void **state)
{
	no_request_is_lost_or_done_twice_on(state, ", \"cache_type\": \"Writeback\"", ~FDRV_PACKED);
}

static void no_request_is_lost_or_done_twice_async(void **state)
{
	no_request_is_lost_or_done_twice_on(state, ", \"io_engine\": \"Async\"", FDRV_ALL_FEATURES);
}

/* Requests that wait for the limiter are still the driver's. */
static void limited_requests_go_on_after_the_move(void **state)
{
	struct fixture *x = *state;

	up(x, ", \"rate_limiter\": {\"ops\": {\"size\": 20, \"refill_time\": 20}}", FDRV_ALL_FEATURES);
	work_on_while_moving(x, 20);
}

/* ---- what else the guest sees ---- */

static u8 request(struct fixture *x, u32 type, u32 out_len, u32 in_len)
{
	struct request *r = &x->reqs[0];
	struct virtio_blk_outhdr h = {.type = type};
	struct fbuf out[2] = {{r->hdr, sizeof(h)}, {r->data, out_len}}, in[2] = {{r->data, in_len}, {r->status, 1}};

	memcpy(fake_vm_ptr(x->vm, r->hdr, sizeof(h)), &h, sizeof(h));
	fdrv_request(&x->d, 0, out, out_len ? 2 : 1, in_len ? in : in + 1, in_len ? 2 : 1);
	return *(u8 *)fake_vm_ptr(x->vm, r->status, 1);
}

static void copy_image(struct fixture *x, u64 size)
{
	char copy[64];

	make_image(copy, size);
	unlink(x->path);
	strcpy(x->path, copy);
}

static void a_copy_of_the_image_has_the_name_that_the_guest_knows(void **state)
{
	struct fixture *x = *state;
	u8 before[20], after[20];

	up(x, NULL, FDRV_ALL_FEATURES);
	assert_int_equal(request(x, VIRTIO_BLK_T_GET_ID, 0, 20), VIRTIO_BLK_S_OK);
	memcpy(before, fake_vm_ptr(x->vm, x->reqs[0].data, 20), 20);
	copy_image(x, DISK_SIZE);
	hop(x);
	memset(fake_vm_ptr(x->vm, x->reqs[0].data, 20), 0, 20);
	assert_int_equal(request(x, VIRTIO_BLK_T_GET_ID, 0, 20), VIRTIO_BLK_S_OK);
	memcpy(after, fake_vm_ptr(x->vm, x->reqs[0].data, 20), 20);
	assert_memory_equal(before, after, 20);
}

static void what_was_written_is_on_the_disk_when_it_is_saved(void **state)
{
	struct fixture *x = *state;
	struct err e = {0};

	up(x, NULL, FDRV_ALL_FEATURES); /* Unsafe, too */
	assert_int_equal(request(x, VIRTIO_BLK_T_OUT, BLOCK, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(syncs, 0);
	take(x);
	assert_int_equal(syncs, 1);
	saved_resume(x->vm, x->dev);
	sync_error = EIO;
	saved_free(&x->saved);
	assert_int_equal(saved_take(&x->saved, x->vm, x->dev, &e), -EIO);
	assert_non_null(strstr(e.msg, "cannot be put on the disk"));
	sync_error = 0;
	saved_resume(x->vm, x->dev); /* the guest hears nothing of it */
	assert_int_equal(request(x, VIRTIO_BLK_T_OUT, BLOCK, 0), VIRTIO_BLK_S_OK);
}

static void a_read_only_disk_is_not_synced(void **state)
{
	struct fixture *x = *state;

	up(x, ", \"is_read_only\": true", FDRV_ALL_FEATURES);
	hop(x);
	assert_int_equal(syncs, 0);
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, 0, BLOCK), VIRTIO_BLK_S_OK);
	assert_int_equal(request(x, VIRTIO_BLK_T_OUT, BLOCK, 0), VIRTIO_BLK_S_IOERR);
}

static void a_saved_disk_goes_on_where_it_is(void **state)
{
	struct fixture *x = *state;

	up(x, NULL, FDRV_ALL_FEATURES);
	for (u32 i = 0; i < 20; i++) {
		burst(x, DEPTH);
		take(x);
		saved_resume(x->vm, x->dev);
	}
	while (x->busy)
		take_answer(x);
	expect_image(x);
}

/* ---- refusals ---- */

static void expect_refusal(struct fixture *x, const char *words)
{
	struct err e = {0};

	take(x);
	assert_int_equal(put_into_next(x, &e), -EINVAL);
	if (!strstr(e.msg, words))
		fail_msg("\"%s\" does not say \"%s\"", e.msg, words);
}

static void an_image_of_another_size_is_refused(void **state)
{
	struct fixture *x = *state;

	up(x, NULL, FDRV_ALL_FEATURES);
	copy_image(x, DISK_SIZE - 512);
	expect_refusal(x, "has 4095 sectors, the snapshot was made with 4096");
}

static void other_rights_are_refused(void **state)
{
	struct fixture *x = *state;

	up(x, NULL, FDRV_ALL_FEATURES & ~BIT(VIRTIO_BLK_F_WRITE_ZEROES) & ~BIT(VIRTIO_BLK_F_DISCARD));
	x->more = (char *)", \"is_read_only\": true";
	expect_refusal(x, "is read-only, in the snapshot it was writable");
}

static void a_cache_type_that_the_driver_relies_on_is_named(void **state)
{
	struct fixture *x = *state;

	up(x, ", \"cache_type\": \"Writeback\"", FDRV_ALL_FEATURES);
	x->more = NULL;
	expect_refusal(x, "does not offer here: FLUSH;");
}

static void another_number_of_queues_is_refused(void **state)
{
	struct fixture *x = *state;

	up(x, NULL, FDRV_ALL_FEATURES);
	x->more = (char *)", \"num_queues\": 2";
	expect_refusal(x, "it has 2 queues, in the snapshot 1");
}

static void no_state_does_harm(void **state)
{
	struct fixture *x = *state;
	u32 accepted;

	up(x, ", \"num_queues\": 1", ~FDRV_PACKED);
	burst(x, DEPTH);
	take(x);
	accepted = saved_torment(&x->saved, &x->d, 1, 2000);
	print_message("# %u of 2000 accepted\n", accepted);
	assert_in_range(accepted, 100, 1900);
	fdrv_up(&x->d, x->vm, x->dev, FDRV_ALL_FEATURES, 1, 64);
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, 0, BLOCK), VIRTIO_BLK_S_OK);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(no_request_is_lost_or_done_twice_sync_packed),
		TEST(no_request_is_lost_or_done_twice_sync_split),
		TEST(no_request_is_lost_or_done_twice_async),
		TEST(limited_requests_go_on_after_the_move),
		TEST(a_copy_of_the_image_has_the_name_that_the_guest_knows),
		TEST(what_was_written_is_on_the_disk_when_it_is_saved),
		TEST(a_read_only_disk_is_not_synced),
		TEST(a_saved_disk_goes_on_where_it_is),
		TEST(an_image_of_another_size_is_refused),
		TEST(other_rights_are_refused),
		TEST(a_cache_type_that_the_driver_relies_on_is_named),
		TEST(another_number_of_queues_is_refused),
		TEST(no_state_does_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
