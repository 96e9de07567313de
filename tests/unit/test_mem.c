/* test_mem.c: guest memory regions, the checked accessor and the record of husk's own writes. */
#include "cm.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/mem.h"

static const struct mem_range two[] = {{0, 8 * MIB}, {4 * GIB, 4 * MIB}};

static int setup(void **state)
{
	static struct mem m;
	struct err e;

	*state = &m;
	return mem_init(&m, two, 2, MEM_HUGE_NONE, &e);
}

static int teardown(void **state)
{
	mem_fini(*state);
	return 0;
}

static void ranges_are_found_only_when_whole(void **state)
{
	struct mem *m = *state;

	assert_non_null(mem_ptr(m, 0, 8 * MIB));
	assert_null(mem_ptr(m, 0, 8 * MIB + 1));
	assert_null(mem_ptr(m, 8 * MIB - 1, 2));
	assert_null(mem_ptr(m, 8 * MIB, 1));
	assert_non_null(mem_ptr(m, 4 * GIB + 4 * MIB - 1, 1));
	assert_null(mem_ptr(m, 4 * GIB + 4 * MIB, 0));
}

static void lengths_that_wrap_are_refused(void **state)
{
	struct mem *m = *state;

	assert_null(mem_ptr(m, 4096, UINT64_MAX));
	assert_null(mem_ptr(m, UINT64_MAX, 2));
	assert_null(mem_ptr(m, UINT64_MAX - 4095, 8192));
	assert_int_equal(mem_read(m, UINT64_MAX - 3, &(u64){0}, 8), -EFAULT);
}

static void regions_share_one_memfd_at_their_offsets(void **state)
{
	struct mem *m = *state;

	assert_int_equal(mem_write(m, 4 * GIB, "above", 6), 0);
	assert_int_equal(m->regions[1].fd_offset, 8 * MIB);
	assert_string_equal(m->regions[1].hva, "above");
	assert_int_equal((uintptr_t)m->regions[1].hva % (2 * MIB), 0);
}

static void writes_mark_every_page_they_touch(void **state)
{
	struct mem *m = *state;
	u64 bitmap[8 * MIB / MEM_PAGE_SIZE / 64] = {0};
	struct err e;

	assert_int_equal(mem_track(m, true, &e), 0);
	assert_int_equal(mem_write(m, 3 * MEM_PAGE_SIZE - 1, "ab", 2), 0);
	mem_dirty_hva(m, m->regions[0].hva + 70 * MEM_PAGE_SIZE, 1);
	mem_dirty(m, 8 * MIB, 4096); /* outside: ignored */
	mem_track_collect(&m->regions[0], bitmap);
	assert_int_equal(bitmap[0], 3 << 2);
	assert_int_equal(bitmap[1], 1 << 6);
	memset(bitmap, 0, sizeof(bitmap));
	mem_track_collect(&m->regions[0], bitmap);
	assert_int_equal(bitmap[0], 0);
	assert_int_equal(mem_track(m, false, &e), 0);
}

static int image_file(size_t len)
{
	int fd = memfd_create("image", MFD_CLOEXEC);

	for (size_t i = 0; i < len; i++)
		assert_int_equal(write(fd, &(u8){(u8)(i / 7)}, 1), 1);
	return fd;
}

static void a_loaded_file_is_there_and_stays_as_it_is(void **state)
{
	const size_t len = 3 * MEM_PAGE_SIZE + 100;
	int fd = image_file(len);
	struct mem *m = *state;
	struct err e;
	u8 *there;

	/* page-aligned: mapped; then at odd addresses and odd offsets of the file: read */
	for (u64 gpa = 4 * GIB; gpa <= 4 * GIB + MIB + 1; gpa += MIB + 1) {
		for (u64 offset = 0; offset < 2; offset++) {
			assert_int_equal(mem_load_file(m, gpa, fd, offset, len - offset, &e), 0);
			there = mem_ptr(m, gpa, len);
			for (size_t i = 0; i < len - offset; i++)
				assert_int_equal(there[i], (u8)((i + offset) / 7));
		}
	}
	memset(mem_ptr(m, 4 * GIB, len), 0xee, len); /* the guest's writes are its own */
	assert_int_equal(pread(fd, &(u8){0}, 1, 700), 1);
	assert_int_equal(lseek(fd, 0, SEEK_END), len);
	assert_int_equal(mem_load_file(m, 4 * GIB + 2 * MIB, fd, 0, len, &e), 0);
	assert_int_equal(*(u8 *)mem_ptr(m, 4 * GIB + 2 * MIB + 700, 1), 100);
	close(fd);
}

static void a_file_that_is_too_short_or_too_long_is_refused(void **state)
{
	int fd = image_file(MEM_PAGE_SIZE);
	struct mem *m = *state;
	struct err e;

	assert_int_equal(mem_load_file(m, 0, fd, 0, MEM_PAGE_SIZE + 1, &e), -EIO);
	assert_int_equal(mem_load_file(m, 0, fd, UINT64_MAX, MEM_PAGE_SIZE, &e), -EIO);
	assert_int_equal(mem_load_file(m, 8 * MIB - 1, fd, 0, MEM_PAGE_SIZE, &e), -EFAULT);
	close(fd);
}

static void odd_sizes_are_refused(void **state)
{
	struct mem m;
	struct err e;

	(void)state;
	assert_int_equal(mem_init(&m, &(struct mem_range){0, 4097}, 1, MEM_HUGE_NONE, &e), -EINVAL);
	assert_int_equal(mem_init(&m, &(struct mem_range){0, 3 * MIB}, 1, MEM_HUGE_2M, &e), -EINVAL);
}

static void a_terabyte_costs_nothing_until_touched(void **state)
{
	struct mem m;
	struct err e;

	(void)state;
	assert_int_equal(mem_init(&m, &(struct mem_range){0, 1024 * GIB}, 1, MEM_HUGE_NONE, &e), 0);
	assert_int_equal(mem_write(&m, 1000 * GIB, "x", 1), 0);
	mem_fini(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(ranges_are_found_only_when_whole, setup, teardown),
		cmocka_unit_test_setup_teardown(lengths_that_wrap_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(regions_share_one_memfd_at_their_offsets, setup, teardown),
		cmocka_unit_test_setup_teardown(writes_mark_every_page_they_touch, setup, teardown),
		cmocka_unit_test_setup_teardown(a_loaded_file_is_there_and_stays_as_it_is, setup, teardown),
		cmocka_unit_test_setup_teardown(a_file_that_is_too_short_or_too_long_is_refused, setup, teardown),
		cmocka_unit_test(odd_sizes_are_refused),
		cmocka_unit_test(a_terabyte_costs_nothing_until_touched),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
