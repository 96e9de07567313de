/* test_working_set.c: which pages a restored VM touches, written down and read ahead. */
#include "memfile_rig.h"

#include <time.h>

#include "migration/working_set.h"

#define ID 0x1122334455667788ull

/* A memory file of which every page of the first region has data. */
static int full_file(void)
{
	struct vm *vm = new_vm();
	int fd = temp_fd();

	for (u64 gpa = 0; gpa < 8 * MIB; gpa += PAGE)
		memset(at(vm, gpa), 1 + (int)(gpa / PAGE % 200), PAGE);
	save(vm, fd);
	assert_int_equal(fsync(fd), 0);
	free_vm(vm);
	return fd;
}

struct rec {
	struct vm *vm;
	struct log log;
	int file;
	char path[64];
};

static struct rec *rec_new(int file)
{
	struct rec *r = xzalloc(sizeof(*r));
	struct err e = {0};

	snprintf(r->path, sizeof(r->path), "/tmp/husk-wset-%d", getpid());
	unlink(r->path);
	r->file = file;
	r->vm = new_vm();
	log_init(&r->log, memfd_create("log", MFD_CLOEXEC), LOG_INFO);
	r->vm->log = &r->log;
	if (memfile_map(r->vm, file, false, &e) < 0)
		fail_msg("%s", e.msg);
	return r;
}

static void rec_free(struct rec *r)
{
	free_vm(r->vm);
	close(r->log.fd);
	log_fini(&r->log);
	unlink(r->path);
	free(r);
}

static struct mem_run *list(const char *path, u32 *nr)
{
	int fd = open(path, O_RDONLY);
	struct mem_run *runs;
	struct err e = {0};

	if (working_set_read(fd, ID, MF_SIZE, &runs, nr, &e) < 0)
		fail_msg("%s", e.msg);
	close(fd);
	return runs;
}

static bool wait_for_list(const char *path)
{
	struct stat st;

	for (u32 i = 0; i < 1000; i++) {
		if (stat(path, &st) == 0 && st.st_size > 0)
			return true;
		usleep(5000);
	}
	return false;
}

static void touch(struct vm *vm, u64 gpa, u64 len)
{
	for (u64 i = 0; i < len; i += PAGE)
		(void)*(volatile u8 *)at(vm, gpa + i);
}

/* Reads, writes, the kernel's accesses; a hole of the file; two ranges with a small gap. */
static void touch_some(struct vm *vm)
{
	int out = temp_fd();

	touch(vm, 64 * PAGE, PAGE);
	at(vm, 128 * PAGE)[5] = 1;
	assert_int_equal(pwrite(out, at(vm, 256 * PAGE), 2 * PAGE, 0), 2 * PAGE);
	touch(vm, MF_HIGH, 4 * PAGE);
	touch(vm, 512 * PAGE, PAGE);
	touch(vm, 516 * PAGE, PAGE);
	close(out);
}

static void check_list(const char *path)
{
	static const struct mem_run want[] = {{64, 65}, {128, 129}, {256, 258}, {512, 517}};
	struct mem_run *runs;
	u32 nr;

	runs = list(path, &nr);
	assert_int_equal(nr, ARRAY_SIZE(want));
	for (u32 i = 0; i < nr; i++) {
		assert_int_equal(runs[i].start, want[i].start * PAGE);
		assert_int_equal(runs[i].end, want[i].end * PAGE);
	}
	free(runs);
}

static void the_list_has_just_the_pages_that_were_touched(void **state)
{
	int file = full_file(); /* all of it is in the page cache: neighbours could be mapped, too */
	struct rec *r = rec_new(file);
	struct err e = {0};

	(void)state;
	assert_int_equal(working_set_record(r->vm, r->path, ID, 1, &e), 0);
	touch_some(r->vm);
	usleep(1200000);
	assert_int_equal(access(r->path, F_OK), 0);
	__atomic_store_n(&r->vm->want_run, true, __ATOMIC_RELAXED); /* the second counts from here */
	assert_true(wait_for_list(r->path));
	check_list(r->path);
	touch(r->vm, 700 * PAGE, PAGE); /* too late */
	check_list(r->path);
	rec_free(r);
	close(file);
}

static void a_vm_that_ends_earlier_leaves_a_list_as_well(void **state)
{
	int file = full_file();
	struct rec *r = rec_new(file);
	char path[80];
	struct err e;

	(void)state;
	assert_int_equal(working_set_record(r->vm, r->path, ID, 3600, &e), 0);
	__atomic_store_n(&r->vm->want_run, true, __ATOMIC_RELAXED);
	touch_some(r->vm);
	snprintf(path, sizeof(path), "%s.kept", r->path);
	assert_int_equal(link(r->path, path), 0);
	rec_free(r);
	check_list(path);
	unlink(path);
	close(file);
}

/* Pages of the file's first region that are in the page cache. */
static u32 cached(int file)
{
	u8 there[8 * MIB / PAGE];
	void *map = mmap(NULL, 8 * MIB, PROT_READ, MAP_SHARED, file, 0);
	u32 nr = 0;

	assert_int_equal(mincore(map, 8 * MIB, there), 0);
	for (u32 i = 0; i < sizeof(there); i++)
		nr += there[i] & 1;
	munmap(map, 8 * MIB);
	return nr;
}

static void prefetching_reads_the_pages_on_the_list_and_maps_them(void **state)
{
	static const struct mem_run runs[] = {{64 * PAGE, 100 * PAGE}, {1000 * PAGE, 1300 * PAGE}, {2040 * PAGE, 2048 * PAGE}};
	int file = full_file(), fd;
	struct rec *r = rec_new(file);
	struct mem_run got[64];
	u64 next, pages;
	struct err e = {0};

	(void)state;
	fd = open(r->path, O_RDWR | O_CREAT, 0600);
	assert_int_equal(working_set_write(fd, ID, MF_SIZE, runs, ARRAY_SIZE(runs)), 0);
	close(fd);
	assert_int_equal(posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED), 0);
	assert_in_range(cached(file), 0, 64);
	if (working_set_prefetch(r->vm, r->path, ID, file, &e) < 0)
		fail_msg("%s", e.msg);
	for (u32 i = 0; i < 1000; i++, usleep(5000)) {
		u32 n = mem_scan(&r->vm->mem, &r->vm->mem.regions[0], MEM_SCAN_PRESENT, 0, 8 * MIB, got, ARRAY_SIZE(got), &next);

		pages = 0;
		for (u32 j = 0; j < n; j++)
			pages += (got[j].end - got[j].start) / PAGE;
		if (pages >= 36 + 300 + 8)
			break;
	}
	assert_int_equal(pages, 36 + 300 + 8);
	assert_int_equal(got[1].start, 1000 * PAGE);
	assert_int_equal(got[1].end, 1300 * PAGE);
	assert_in_range(cached(file), 36 + 300 + 8, 500);
	rec_free(r);
	close(file);
}

static void a_prefetch_ends_with_the_vm(void **state)
{
	static const struct mem_run all = {0, 8 * MIB};
	int file = full_file();

	(void)state;
	for (u32 i = 0; i < 20; i++) {
		struct rec *r = rec_new(file);
		int fd = open(r->path, O_RDWR | O_CREAT, 0600);
		struct err e;

		posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
		assert_int_equal(working_set_write(fd, ID, MF_SIZE, &all, 1), 0);
		assert_int_equal(working_set_prefetch(r->vm, r->path, ID, file, &e), 0);
		close(fd);
		rec_free(r);
	}
	close(file);
}

static void memory_that_is_not_mapped_has_no_working_set(void **state)
{
	struct vm *vm = new_vm();
	struct err e;

	(void)state;
	assert_int_equal(working_set_record(vm, "/tmp/husk-no-list", ID, 1, &e), -EINVAL);
	assert_int_equal(access("/tmp/husk-no-list", F_OK), -1);
	assert_int_equal(working_set_prefetch(vm, "/tmp/husk-no-list", ID, 0, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "not mapped"));
	free_vm(vm);
}

/* ---- lists that lie ---- */

static int read_bytes(const u8 *b, u64 len, u64 id, struct err *e)
{
	int fd = memfd_create("list", MFD_CLOEXEC), ret;
	struct mem_run *runs;
	u32 nr;

	assert_int_equal(write(fd, b, len), len);
	ret = working_set_read(fd, id, MF_SIZE, &runs, &nr, e);
	free(runs);
	close(fd);
	return ret;
}

static u64 sample(u8 *b, const struct mem_run *runs, u32 nr)
{
	int fd = memfd_create("list", MFD_CLOEXEC);
	ssize_t len;

	assert_int_equal(working_set_write(fd, ID, MF_SIZE, runs, nr), 0);
	len = pread(fd, b, 4096, 0);
	close(fd);
	return (u64)len;
}

static void damaged_lists_are_refused(void **state)
{
	static const struct mem_run runs[] = {{0, PAGE}, {64 * PAGE, 70 * PAGE}, {MF_SIZE - PAGE, MF_SIZE}};
	u8 b[4096];
	u64 len = sample(b, runs, ARRAY_SIZE(runs));
	struct err e;

	(void)state;
	assert_int_equal(read_bytes(b, len, ID, &e), 0);
	for (u64 cut = 0; cut < len; cut++)
		assert_int_equal(read_bytes(b, cut, ID, &e), -EINVAL);
	assert_int_equal(read_bytes(b, len + 8, ID, &e), -EINVAL);
	for (u64 bit = 0; bit < len * 8; bit++) {
		b[bit / 8] ^= (u8)(1 << bit % 8);
		assert_int_equal(read_bytes(b, len, ID, &e), -EINVAL);
		b[bit / 8] ^= (u8)(1 << bit % 8);
	}
	assert_int_equal(read_bytes(b, len, ID + 1, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "another snapshot"));
	assert_int_equal(read_bytes(b, 0, ID, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "did not come to an end"));
}

static void ranges_out_of_order_or_of_memory_are_refused(void **state)
{
	static const struct mem_run bad[][2] = {
		{{PAGE, 2 * PAGE}, {0, PAGE}},		{{PAGE, 3 * PAGE}, {2 * PAGE, 4 * PAGE}},
		{{0, PAGE}, {2 * PAGE, 2 * PAGE}},	{{0, PAGE}, {MF_SIZE - PAGE, MF_SIZE + PAGE}},
		{{0, PAGE}, {MF_SIZE, MF_SIZE + PAGE}}, {{0, PAGE}, {UINT32_MAX * PAGE, 2 * UINT32_MAX * PAGE}},
	};
	u8 b[4096];
	struct err e;

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(read_bytes(b, sample(b, bad[i], 2), ID, &e), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_list_has_just_the_pages_that_were_touched),
		cmocka_unit_test(a_vm_that_ends_earlier_leaves_a_list_as_well),
		cmocka_unit_test(prefetching_reads_the_pages_on_the_list_and_maps_them),
		cmocka_unit_test(a_prefetch_ends_with_the_vm),
		cmocka_unit_test(memory_that_is_not_mapped_has_no_working_set),
		cmocka_unit_test(damaged_lists_are_refused),
		cmocka_unit_test(ranges_out_of_order_or_of_memory_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
