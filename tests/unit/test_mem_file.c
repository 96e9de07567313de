/* test_mem_file.c: regions of guest memory that are a file's pages (mem_add_file). */
#include "cm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/mem.h"

static const struct mem_range two[] = {{0, 8 * MIB}, {4 * GIB, 4 * MIB}};

#define BEHIND (4 * GIB + 4 * MIB)

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

static int make_file(u64 len, u8 fill)
{
	char path[] = "/tmp/husk-mem-XXXXXX";
	int fd = mkstemp(path);
	u8 *p = malloc(len);

	unlink(path);
	memset(p, fill, len);
	assert_int_equal(write(fd, p, len), len);
	free(p);
	return fd;
}

static void a_file_becomes_memory_with_zeroes_behind_its_end(void **state)
{
	struct mem *m = *state;
	u64 len = 2 * MIB + 4096 + 512;
	int fd = make_file(len, 0x5a);
	u8 b[3] = {1, 1, 1};
	struct err e;

	assert_int_equal(mem_add_file(m, BEHIND, 4 * MIB, fd, false, &e), 0);
	assert_int_equal(m->nr_regions, 3);
	assert_true(m->regions[2].file && !m->regions[2].ram && m->regions[1].ram && !m->regions[1].file);
	assert_int_equal((uintptr_t)m->regions[2].hva % (2 * MIB), 0);
	assert_int_equal(mem_read(m, BEHIND + len - 1, b, 3), 0);
	assert_memory_equal(b, "\x5a\0\0", 3);
	assert_int_equal(mem_read(m, BEHIND + 4 * MIB - 3, b, 3), 0);
	assert_memory_equal(b, "\0\0\0", 3);
	assert_int_equal(mem_read(m, BEHIND + 4 * MIB - 2, b, 3), -EFAULT);
	/* Writes reach the file, and those behind its end do not make it longer. */
	assert_int_equal(mem_write(m, BEHIND + 7, "new", 3), 0);
	assert_int_equal(mem_write(m, BEHIND + 4 * MIB - 3, "gone", 3), 0);
	assert_int_equal(pread(fd, b, 3, 7), 3);
	assert_memory_equal(b, "new", 3);
	assert_int_equal(lseek(fd, 0, SEEK_END), len);
	close(fd);
	assert_int_equal(mem_read(m, BEHIND, b, 1), 0); /* the mapping stays */
}

static void a_read_only_file_keeps_its_bytes(void **state)
{
	struct mem *m = *state;
	int fd = make_file(2 * MIB, 0x5a);
	struct err e;
	u8 b;

	assert_int_equal(mem_add_file(m, BEHIND, 2 * MIB, fd, true, &e), 0);
	assert_int_equal(mem_write(m, BEHIND, "x", 1), 0);
	assert_int_equal(mem_read(m, BEHIND, &b, 1), 0);
	assert_int_equal(b, 'x');
	assert_int_equal(pread(fd, &b, 1, 0), 1);
	assert_int_equal(b, 0x5a);
	close(fd);
}

static void a_file_opened_for_reading_cannot_be_shared(void **state)
{
	char path[] = "/tmp/husk-mem-XXXXXX";
	struct mem *m = *state;
	int rw = mkstemp(path), ro = open(path, O_RDONLY);
	struct err e;

	unlink(path);
	assert_int_equal(ftruncate(rw, 4096), 0);
	assert_int_equal(mem_add_file(m, BEHIND, 2 * MIB, ro, false, &e), -EACCES);
	close(rw);
	close(ro);
}

static void regions_end_at_their_maximum(void **state)
{
	struct mem *m = *state;
	u64 gpa = BEHIND, pages = 0;
	int fd = make_file(4096, 1);
	struct err e;

	while (m->nr_regions < MEM_MAX_REGIONS) {
		assert_int_equal(mem_add_file(m, gpa, 2 * MIB, fd, false, &e), 0);
		gpa += 2 * MIB;
	}
	assert_int_equal(mem_add_file(m, gpa, 2 * MIB, fd, false, &e), -ENOSPC);
	assert_int_equal(m->nr_regions, MEM_MAX_REGIONS);
	for (u32 i = 0; i < m->nr_regions; pages += m->regions[i++].size >> MEM_PAGE_SHIFT) {
		assert_int_equal(m->regions[i].slot, i);
		assert_int_equal(m->regions[i].first_page, pages);
	}
	assert_int_equal(m->nr_pages, pages);
	close(fd);
}

static void writes_by_husk_are_recorded_there_too(void **state)
{
	struct mem *m = *state;
	int fd = make_file(2 * MIB, 1);
	u64 bitmap[8] = {0};
	struct err e;

	assert_int_equal(mem_add_file(m, BEHIND, 2 * MIB, fd, false, &e), 0);
	assert_int_equal(mem_track(m, true, &e), 0);
	assert_int_equal(mem_write(m, BEHIND + 65 * MEM_PAGE_SIZE, "x", 1), 0);
	mem_track_collect(&m->regions[2], bitmap);
	assert_int_equal(bitmap[1], 2);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_file_becomes_memory_with_zeroes_behind_its_end, setup, teardown),
		cmocka_unit_test_setup_teardown(a_read_only_file_keeps_its_bytes, setup, teardown),
		cmocka_unit_test_setup_teardown(a_file_opened_for_reading_cannot_be_shared, setup, teardown),
		cmocka_unit_test_setup_teardown(regions_end_at_their_maximum, setup, teardown),
		cmocka_unit_test_setup_teardown(writes_by_husk_are_recorded_there_too, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
