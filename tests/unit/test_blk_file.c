/* test_blk_file.c: opening, locking, and the I/O of a disk image with both engines, on real files. */
#include "cm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <liburing.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "virtio/backend/blk_file.h"

#define IMAGE_SIZE (4 * MIB)
#define DEPTH	   32u

struct fixture {
	char dir[64], path[80], log_path[80];
	struct loop loop;
	struct log log;
	struct blk_file disk;
	u32 nr_done;
};

static void make_image(const char *path, u64 size)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	close(fd);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err e;

	*state = f;
	snprintf(f->dir, sizeof(f->dir), "/tmp/husk-blk-XXXXXX");
	if (!mkdtemp(f->dir) || loop_init(&f->loop, &e) < 0)
		return -1;
	snprintf(f->path, sizeof(f->path), "%s/disk.img", f->dir);
	snprintf(f->log_path, sizeof(f->log_path), "%s/log", f->dir);
	make_image(f->path, IMAGE_SIZE);
	log_init(&f->log, STDERR_FILENO, LOG_INFO);
	make_image(f->log_path, 0);
	return log_open(&f->log, f->log_path, &e);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	blk_file_close(&f->disk);
	log_fini(&f->log);
	loop_fini(&f->loop);
	unlink(f->path);
	unlink(f->log_path);
	rmdir(f->dir);
	free(f);
	return 0;
}

static void count_done(void *opaque, struct blk_io *list)
{
	struct fixture *f = opaque;

	for (; list; list = list->next)
		f->nr_done++;
}

static int try_open(struct fixture *f, struct blk_file *disk, bool read_only, bool async, struct err *e)
{
	struct blk_file_params p = {
		.path = f->path, .read_only = read_only, .async = async, .loop = &f->loop, .log = &f->log, .done = count_done, .opaque = f};

	return blk_file_open(disk, &p, e);
}

static void must_open(struct fixture *f, bool async)
{
	struct err e = {0};

	if (try_open(f, &f->disk, false, async, &e) < 0)
		fail_msg("%s", e.msg);
}

static void refused(struct fixture *f, bool read_only, int code, const char *part)
{
	struct blk_file disk;
	struct err e = {0};

	assert_int_equal(try_open(f, &disk, read_only, false, &e), code);
	if (!strstr(e.msg, part) || !strstr(e.msg, f->path))
		fail_msg("\"%s\" does not say \"%s\" and the path", e.msg, part);
}

static int run(struct fixture *f, struct blk_io *io)
{
	blk_file_submit(&f->disk, io);
	blk_file_drain(&f->disk);
	return io->result;
}

static int transfer(struct fixture *f, enum blk_op op, u64 offset, void *data, u64 len)
{
	struct iovec iov = {data, len};
	struct blk_io io = {.op = op, .offset = offset, .len = len, .iov = &iov, .nr_iov = 1};

	return run(f, &io);
}

static u64 host_blocks(const struct fixture *f)
{
	struct stat st;

	assert_int_equal(stat(f->path, &st), 0);
	return (u64)st.st_blocks;
}

/* Opening */

static void a_missing_image_is_named(void **state)
{
	struct fixture *f = *state;

	unlink(f->path);
	refused(f, false, -ENOENT, "No such file or directory");
}

static void an_empty_image_is_refused(void **state)
{
	make_image(((struct fixture *)*state)->path, 0);
	refused(*state, false, -EINVAL, "is empty");
}

static void a_size_that_is_not_whole_sectors_is_refused(void **state)
{
	make_image(((struct fixture *)*state)->path, 1000);
	refused(*state, true, -EINVAL, "1000 bytes is not a multiple of 512");
}

static void a_directory_is_refused(void **state)
{
	struct fixture *f = *state;

	unlink(f->path);
	assert_int_equal(mkdir(f->path, 0700), 0);
	refused(f, true, -EINVAL, "neither a regular file nor a block device");
	refused(f, false, -EISDIR, "Is a directory");
	rmdir(f->path);
}

static void a_fifo_is_refused_and_does_not_hang(void **state)
{
	struct fixture *f = *state;

	unlink(f->path);
	assert_int_equal(mkfifo(f->path, 0600), 0);
	refused(f, true, -EINVAL, "neither a regular file nor a block device");
	refused(f, false, -EINVAL, "neither a regular file nor a block device");
}

static void an_image_that_may_not_be_written_is_opened_read_only_only(void **state)
{
	struct fixture *f = *state;
	uid_t was = geteuid();
	struct err e;

	chmod(f->dir, 0755);
	chmod(f->path, 0444);
	if (was == 0)
		assert_int_equal(seteuid(65534), 0);
	refused(f, false, -EACCES, "cannot be opened for writing: Permission denied");
	assert_int_equal(try_open(f, &f->disk, true, false, &e), 0);
	assert_false(f->disk.can_discard);
	if (was == 0)
		assert_int_equal(seteuid(was), 0);
}

static void one_image_has_one_writer_or_many_readers(void **state)
{
	struct fixture *f = *state;
	struct blk_file other;
	struct err e;

	must_open(f, false);
	refused(f, false, -EBUSY, "in use by another VM");
	refused(f, true, -EBUSY, "open for writing in another VM");
	blk_file_close(&f->disk);

	assert_int_equal(try_open(f, &f->disk, true, false, &e), 0);
	assert_int_equal(try_open(f, &other, true, false, &e), 0);
	refused(f, false, -EBUSY, "in use by another VM");
	blk_file_close(&other);
}

static void the_id_is_made_of_device_and_inode(void **state)
{
	struct fixture *f = *state;
	char expected[64] = "";
	struct stat st;

	must_open(f, false);
	assert_int_equal(stat(f->path, &st), 0);
	snprintf(expected, sizeof(expected), "%lu%lu%lu", (u64)st.st_dev, (u64)st.st_rdev, (u64)st.st_ino);
	assert_memory_equal(f->disk.id, expected, BLK_ID_BYTES);
}

/* I/O */

static void fill(u8 *p, size_t len, u32 seed)
{
	for (size_t i = 0; i < len; i++) {
		seed = seed * 1664525 + 1013904223;
		p[i] = (u8)(seed >> 24);
	}
}

/* Each request has an iovec list of its own, cut at odd places. */
struct cut_io {
	struct blk_io io;
	struct iovec iov[3];
	u8 data[16 * KIB];
};

static void cut(struct cut_io *c, enum blk_op op, u32 i)
{
	size_t first = 512 + i * 7, second = 4096 - i * 3;

	c->iov[0] = (struct iovec){c->data, first};
	c->iov[1] = (struct iovec){c->data + first, second};
	c->iov[2] = (struct iovec){c->data + first + second, sizeof(c->data) - first - second};
	c->io = (struct blk_io){.op = op, .offset = (DEPTH - 1 - i) * sizeof(c->data), .len = sizeof(c->data), .iov = c->iov, .nr_iov = 3};
}

static void random_data_comes_back_at_depth_32(struct fixture *f, bool async)
{
	struct cut_io *c = calloc(DEPTH, sizeof(*c));
	u8 expected[sizeof(c->data)];

	must_open(f, async);
	for (u32 i = 0; i < DEPTH; i++) {
		fill(c[i].data, sizeof(c[i].data), i);
		cut(&c[i], BLK_OP_WRITE, i);
		blk_file_submit(&f->disk, &c[i].io);
	}
	blk_file_drain(&f->disk);
	for (u32 i = 0; i < DEPTH; i++) {
		assert_int_equal(c[i].io.result, 0);
		memset(c[i].data, 0, sizeof(c[i].data));
		cut(&c[i], BLK_OP_READ, i);
		blk_file_submit(&f->disk, &c[i].io);
	}
	blk_file_drain(&f->disk);
	for (u32 i = 0; i < DEPTH; i++) {
		fill(expected, sizeof(expected), i);
		assert_int_equal(c[i].io.result, 0);
		assert_memory_equal(c[i].data, expected, sizeof(expected));
	}
	assert_int_equal(f->nr_done, 2 * DEPTH);
	free(c);
}

static void sync_random_data_comes_back_at_depth_32(void **state)
{
	random_data_comes_back_at_depth_32(*state, false);
}

static void async_random_data_comes_back_at_depth_32(void **state)
{
	random_data_comes_back_at_depth_32(*state, true);
	assert_non_null(((struct fixture *)*state)->disk.ring);
}

static void a_batch_larger_than_the_ring_is_done_whole(void **state)
{
	struct fixture *f = *state;
	struct cut_io *c = calloc(1000, sizeof(*c));

	must_open(f, true);
	for (u32 i = 0; i < 1000; i++) {
		cut(&c[i], BLK_OP_WRITE, i % DEPTH);
		blk_file_submit(&f->disk, &c[i].io);
	}
	blk_file_drain(&f->disk);
	assert_int_equal(f->nr_done, 1000);
	for (u32 i = 0; i < 1000; i++)
		assert_int_equal(c[i].io.result, 0);
	free(c);
}

static void the_rest_of_a_transfer_starts_inside_an_iovec(void **state)
{
	u8 a[10], b[20];
	struct iovec iov[2] = {{a, sizeof(a)}, {b, sizeof(b)}};
	struct blk_io io = {.iov = iov, .nr_iov = 2, .len = 30};

	(void)state;
	io.moved = 3;
	assert_ptr_equal(blk_io_rest(&io).iov_base, a + 3);
	assert_int_equal(blk_io_rest(&io).iov_len, 7);
	io.moved = 10;
	assert_ptr_equal(blk_io_rest(&io).iov_base, b);
	io.moved = 29;
	assert_int_equal(blk_io_rest(&io).iov_len, 1);
	io.moved = 30;
	assert_int_equal(blk_io_rest(&io).iov_len, 0);
}

static void a_file_that_was_cut_gives_an_error(struct fixture *f, bool async)
{
	u8 a[6000], b[10384];
	struct iovec iov[2] = {{a, sizeof(a)}, {b, sizeof(b)}};
	struct blk_io io = {.op = BLK_OP_READ, .len = sizeof(a) + sizeof(b), .iov = iov, .nr_iov = 2};

	must_open(f, async);
	assert_int_equal(truncate(f->path, 8192), 0);
	assert_int_equal(run(f, &io), -EIO);
	assert_int_equal(io.moved, 8192); /* a short read, gone on with, then the end */
}

static void sync_a_file_that_was_cut_gives_an_error(void **state)
{
	a_file_that_was_cut_gives_an_error(*state, false);
}

static void async_a_file_that_was_cut_gives_an_error(void **state)
{
	a_file_that_was_cut_gives_an_error(*state, true);
}

static void flush_discard_and_zeroes_work(struct fixture *f, bool async)
{
	static u8 data[MIB], back[MIB];
	static const u8 none[MIB];
	struct blk_io flush = {.op = BLK_OP_FLUSH};
	struct blk_io discard = {.op = BLK_OP_DISCARD, .offset = 0, .len = MIB / 2};
	struct blk_io zero = {.op = BLK_OP_ZERO, .offset = MIB / 2, .len = MIB / 4};
	struct blk_io unmap = {.op = BLK_OP_ZERO, .unmap = true, .offset = 3 * MIB / 4, .len = MIB / 8};
	u64 blocks;

	must_open(f, async);
	assert_true(f->disk.can_discard);
	fill(data, sizeof(data), 1);
	assert_int_equal(transfer(f, BLK_OP_WRITE, 0, data, sizeof(data)), 0);
	assert_int_equal(run(f, &flush), 0);
	blocks = host_blocks(f);
	assert_int_equal(run(f, &discard), 0);
	assert_int_equal(run(f, &unmap), 0);
	assert_true(host_blocks(f) <= blocks - (MIB / 2 + MIB / 8) / 512);
	blocks = host_blocks(f);
	assert_int_equal(run(f, &zero), 0);
	assert_int_equal(host_blocks(f), blocks); /* zeroes without unmap keep their blocks */
	assert_int_equal(transfer(f, BLK_OP_READ, 0, back, sizeof(back)), 0);
	assert_memory_equal(back, none, 7 * MIB / 8);
	assert_memory_equal(back + 7 * MIB / 8, data + 7 * MIB / 8, MIB / 8);
}

static void sync_flush_discard_and_zeroes_work(void **state)
{
	flush_discard_and_zeroes_work(*state, false);
}

static void async_flush_discard_and_zeroes_work(void **state)
{
	flush_discard_and_zeroes_work(*state, true);
}

/* None may be lost, none may end in freed memory. */
static void close_finishes_what_is_in_flight(struct fixture *f, bool async)
{
	struct cut_io *c = calloc(DEPTH, sizeof(*c));

	must_open(f, async);
	for (u32 i = 0; i < DEPTH; i++) {
		cut(&c[i], BLK_OP_WRITE, i);
		blk_file_submit(&f->disk, &c[i].io);
	}
	blk_file_kick(&f->disk);
	blk_file_close(&f->disk);
	assert_int_equal(f->nr_done, DEPTH);
	free(c);
}

static void sync_close_finishes_what_is_in_flight(void **state)
{
	close_finishes_what_is_in_flight(*state, false);
}

static void async_close_finishes_what_is_in_flight(void **state)
{
	close_finishes_what_is_in_flight(*state, true);
}

static void stop_loop(void *opaque, struct blk_io *list)
{
	struct fixture *f = opaque;

	count_done(f, list);
	loop_stop(&f->loop);
}

static void completions_wake_the_loop(void **state)
{
	struct fixture *f = *state;
	u8 data[512] = {0};
	struct iovec iov = {data, sizeof(data)};
	struct blk_io io = {.op = BLK_OP_WRITE, .len = sizeof(data), .iov = &iov, .nr_iov = 1};

	for (int async = 0; async < 2; async++) {
		must_open(f, async);
		f->disk.p.done = stop_loop;
		blk_file_submit(&f->disk, &io);
		blk_file_kick(&f->disk);
		loop_run(&f->loop);
		f->loop.stop = false;
		assert_int_equal(io.result, 0);
		blk_file_close(&f->disk);
	}
	assert_int_equal(f->nr_done, 2);
}

/* What a ring is asked for passes by the filters of system calls. */
static void the_ring_takes_nothing_but_disk_operations(void **state)
{
	struct fixture *f = *state;
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe;

	must_open(f, true);
	if (!f->disk.ring)
		skip(); /* no io_uring here */
	sqe = io_uring_get_sqe(f->disk.ring);
	io_uring_prep_openat(sqe, AT_FDCWD, "/etc/passwd", O_RDONLY, 0);
	assert_int_equal(io_uring_submit(f->disk.ring), 1);
	assert_int_equal(io_uring_wait_cqe(f->disk.ring, &cqe), 0);
	assert_int_equal(cqe->res, -EACCES);
	io_uring_cqe_seen(f->disk.ring, cqe);
}

/* Forbids io_uring_setup to the calling thread, as a container's seccomp profile does. */
static void forbid_io_uring(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {ARRAY_SIZE(code), code};

	assert_int_equal(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	assert_int_equal(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog), 0);
}

static void *open_without_io_uring(void *opaque)
{
	forbid_io_uring();
	must_open(opaque, true);
	return NULL;
}

static void async_falls_back_to_sync_where_io_uring_is_forbidden(void **state)
{
	struct fixture *f = *state;
	char text[1000] = "", out[512] = "written", in[512];
	pthread_t t;
	int fd;

	/* The filter stays with its thread: the other tests keep io_uring. */
	assert_int_equal(pthread_create(&t, NULL, open_without_io_uring, f), 0);
	pthread_join(t, NULL);
	assert_null(f->disk.ring);
	assert_int_equal(transfer(f, BLK_OP_WRITE, IMAGE_SIZE - 512, out, sizeof(out)), 0);
	assert_int_equal(transfer(f, BLK_OP_READ, IMAGE_SIZE - 512, in, sizeof(in)), 0);
	assert_string_equal(in, "written");
	fd = open(f->log_path, O_RDONLY | O_CLOEXEC);
	assert_true(read(fd, text, sizeof(text) - 1) > 0);
	close(fd);
	assert_non_null(strstr(text, "io_uring is not available (Operation not permitted): using the Sync engine"));
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_missing_image_is_named),
		T(an_empty_image_is_refused),
		T(a_size_that_is_not_whole_sectors_is_refused),
		T(a_directory_is_refused),
		T(a_fifo_is_refused_and_does_not_hang),
		T(an_image_that_may_not_be_written_is_opened_read_only_only),
		T(one_image_has_one_writer_or_many_readers),
		T(the_id_is_made_of_device_and_inode),
		T(sync_random_data_comes_back_at_depth_32),
		T(async_random_data_comes_back_at_depth_32),
		T(a_batch_larger_than_the_ring_is_done_whole),
		T(the_rest_of_a_transfer_starts_inside_an_iovec),
		T(sync_a_file_that_was_cut_gives_an_error),
		T(async_a_file_that_was_cut_gives_an_error),
		T(sync_flush_discard_and_zeroes_work),
		T(async_flush_discard_and_zeroes_work),
		T(sync_close_finishes_what_is_in_flight),
		T(async_close_finishes_what_is_in_flight),
		T(completions_wake_the_loop),
		T(the_ring_takes_nothing_but_disk_operations),
		T(async_falls_back_to_sync_where_io_uring_is_forbidden),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
