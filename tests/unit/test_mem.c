/* test_mem.c: guest memory regions, the checked accessor and the record of husk's own writes. */
#include "cm.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "huge_pages.h"
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

/* ---- discarding ---- */

static u64 blocks_of(const struct mem *m)
{
	struct stat st;

	assert_int_equal(fstat(m->fd, &st), 0);
	return (u64)st.st_blocks * 512;
}

static bool is_filled(const void *p, u8 with, u64 len)
{
	for (const u8 *at = p; len; len--) {
		if (*at++ != with)
			return false;
	}
	return true;
}

static void discarded_pages_read_as_zeroes_and_go_back_to_the_host(void **state)
{
	struct mem *m = *state;
	u64 before = blocks_of(m);
	struct err e;

	memset(mem_ptr(m, 0, 4 * MIB), 0xaa, 4 * MIB);
	memset(mem_ptr(m, 4 * GIB, 4 * MIB), 0xbb, 4 * MIB);
	assert_true(blocks_of(m) >= before + 8 * MIB);
	assert_int_equal(mem_discard(m, MIB, 2 * MIB, &e), 0);
	assert_int_equal(mem_discard(m, 4 * GIB, 4 * MIB, &e), 0);
	assert_int_equal(mem_discard(m, 8 * MIB - MEM_PAGE_SIZE, MEM_PAGE_SIZE, &e), 0); /* never touched */
	assert_int_equal(mem_discard(m, 2 * MIB, 0, &e), 0);
	assert_true(blocks_of(m) <= before + 2 * MIB);
	assert_true(is_filled(mem_ptr(m, 0, MIB), 0xaa, MIB));
	assert_true(is_filled(mem_ptr(m, MIB, 2 * MIB), 0, 2 * MIB));
	assert_true(is_filled(mem_ptr(m, 3 * MIB, MIB), 0xaa, MIB));
	assert_true(is_filled(mem_ptr(m, 4 * GIB, 4 * MIB), 0, 4 * MIB));
	memset(mem_ptr(m, MIB, MIB), 0xcc, MIB); /* and can be had again */
	assert_true(is_filled(mem_ptr(m, MIB, MIB), 0xcc, MIB));
}

static void what_is_not_whole_pages_of_the_memfd_is_not_discarded(void **state)
{
	static const struct {
		u64 gpa, len;
	} bad[] = {
		{1, MEM_PAGE_SIZE},
		{0, MEM_PAGE_SIZE - 1},
		{8 * MIB, MEM_PAGE_SIZE},
		{8 * MIB - MEM_PAGE_SIZE, 2 * MEM_PAGE_SIZE},
		{0, 4 * GIB + 4 * MIB},
		{UINT64_MAX - MEM_PAGE_SIZE + 1, MEM_PAGE_SIZE},
		{UINT64_MAX - MEM_PAGE_SIZE + 1, 2 * MEM_PAGE_SIZE},
		{MEM_PAGE_SIZE, UINT64_MAX - MEM_PAGE_SIZE + 1},
		{4 * GIB + 4 * MIB, MEM_PAGE_SIZE}, /* a file, see below */
		{4 * GIB + 4 * MIB - MEM_PAGE_SIZE, 2 * MEM_PAGE_SIZE},
	};
	struct mem *m = *state;
	int fd = memfd_create("pmem", MFD_CLOEXEC);
	struct err e;

	assert_int_equal(ftruncate(fd, 2 * MIB), 0);
	assert_int_equal(mem_add_file(m, 4 * GIB + 4 * MIB, 2 * MIB, fd, false, &e), 0);
	memset(mem_ptr(m, 0, 8 * MIB), 0xaa, 8 * MIB);
	memset(mem_ptr(m, 4 * GIB, 4 * MIB), 0xaa, 4 * MIB);
	memset(mem_ptr(m, 4 * GIB + 4 * MIB, 2 * MIB), 0xaa, 2 * MIB);
	for (u32 i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (mem_discard(m, bad[i].gpa, bad[i].len, &e) != -EFAULT)
			fail_msg("discarded: %llx + %llx", (unsigned long long)bad[i].gpa, (unsigned long long)bad[i].len);
	}
	assert_true(is_filled(mem_ptr(m, 0, 8 * MIB), 0xaa, 8 * MIB));
	assert_true(is_filled(mem_ptr(m, 4 * GIB, 4 * MIB), 0xaa, 4 * MIB));
	assert_true(is_filled(mem_ptr(m, 4 * GIB + 4 * MIB, 2 * MIB), 0xaa, 2 * MIB));
	close(fd);
}

static void a_discarded_page_of_an_image_shows_neither_file_nor_what_was_below(void **state)
{
	const u64 at = 4 * GIB;
	int fd = image_file(8 * MEM_PAGE_SIZE);
	struct mem *m = *state;
	u8 *page = mem_ptr(m, at, 8 * MEM_PAGE_SIZE), file[64];
	struct err e;

	memset(page, 0xee, 8 * MEM_PAGE_SIZE);
	assert_int_equal(mem_load_file(m, at, fd, 0, 8 * MEM_PAGE_SIZE, &e), 0);
	memset(page + 3 * MEM_PAGE_SIZE, 0xdd, MEM_PAGE_SIZE); /* the guest's own */
	assert_int_equal(mem_discard(m, at + 2 * MEM_PAGE_SIZE, 2 * MEM_PAGE_SIZE, &e), 0);
	assert_true(is_filled(page + 2 * MEM_PAGE_SIZE, 0, 2 * MEM_PAGE_SIZE));
	assert_int_equal(page[2 * MEM_PAGE_SIZE - 1], (u8)((2 * MEM_PAGE_SIZE - 1) / 7));
	assert_int_equal(page[4 * MEM_PAGE_SIZE], (u8)(4 * MEM_PAGE_SIZE / 7));
	/* Over pages that are gone and others, beyond both ends of the image; what the guest wrote meanwhile goes as well. */
	memset(page + 2 * MEM_PAGE_SIZE, 0xcc, MEM_PAGE_SIZE);
	memset(page + 8 * MEM_PAGE_SIZE, 0xcc, MEM_PAGE_SIZE);
	assert_int_equal(mem_discard(m, at, 9 * MEM_PAGE_SIZE, &e), 0);
	assert_true(is_filled(page, 0, 9 * MEM_PAGE_SIZE));
	page[5] = 1;
	assert_int_equal(pread(m->fd, file, 6, (off_t)m->regions[1].fd_offset), 6); /* it is the memfd that shows */
	assert_int_equal(file[5], 1);
	assert_int_equal(pread(fd, file, sizeof(file), 7 * 8), sizeof(file));
	assert_int_equal(file[0], 8);
	close(fd);
}

static u32 nr_mappings(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	u32 n = 0;

	assert_non_null(f);
	for (int c; (c = fgetc(f)) != EOF;)
		n += c == '\n';
	fclose(f);
	return n;
}

static void a_guest_cannot_use_up_the_mappings_with_holes_in_an_image(void **state)
{
	const u64 len = 96 * MIB;
	int fd = memfd_create("image", MFD_CLOEXEC);
	struct mem m;
	struct err e;

	(void)state;
	assert_int_equal(ftruncate(fd, (off_t)len), 0);
	for (u64 at = 0; at < len; at += MEM_PAGE_SIZE)
		assert_int_equal(pwrite(fd, "file", 4, (off_t)at), 4);
	assert_int_equal(mem_init(&m, &(struct mem_range){0, 128 * MIB}, 1, MEM_HUGE_NONE, &e), 0);
	assert_int_equal(mem_load_file(&m, 0, fd, 0, len, &e), 0);
	for (u64 at = 0; at < len; at += 2 * MEM_PAGE_SIZE)
		assert_int_equal(mem_discard(&m, at, MEM_PAGE_SIZE, &e), 0);
	for (u64 at = 0; at < len; at += MEM_PAGE_SIZE)
		assert_memory_equal(mem_ptr(&m, at, 4), at / MEM_PAGE_SIZE % 2 ? "file" : "\0\0\0", 4);
	assert_in_range(nr_mappings(), 100, 20000);
	assert_int_equal(mem_discard(&m, 0, len, &e), 0);
	for (u64 at = 0; at < len; at += MEM_PAGE_SIZE)
		assert_memory_equal(mem_ptr(&m, at, 4), "\0\0\0", 4);
	mem_fini(&m);
	close(fd);
}

/* A balloon takes restored memory page by page, in either direction: all of it goes back to the host. */
static void pages_of_an_image_given_up_one_by_one_become_one_mapping(void **state)
{
	const u64 len = 64 * MIB, pages = len / MEM_PAGE_SIZE;
	int fd = memfd_create("image", MFD_CLOEXEC);
	u32 before;
	struct mem m;
	struct err e;

	(void)state;
	assert_int_equal(ftruncate(fd, (off_t)len), 0);
	for (u64 at = 0; at < len; at += MEM_PAGE_SIZE)
		assert_int_equal(pwrite(fd, "file", 4, (off_t)at), 4);
	assert_int_equal(mem_init(&m, &(struct mem_range){0, len}, 1, MEM_HUGE_NONE, &e), 0);
	assert_int_equal(mem_overlay(&m, &m.regions[0], fd, 0, false, &e), 0);
	memset(mem_ptr(&m, 0, len), 0xaa, len);
	before = nr_mappings();
	for (u64 i = 0; i < pages / 2; i++)
		assert_int_equal(mem_discard(&m, (pages - 1 - i) * MEM_PAGE_SIZE, MEM_PAGE_SIZE, &e), 0);
	for (u64 i = 0; i < pages / 2; i++)
		assert_int_equal(mem_discard(&m, i * MEM_PAGE_SIZE, MEM_PAGE_SIZE, &e), 0);
	assert_in_range(nr_mappings(), before - 1, before + 1);
	assert_int_equal(m.nr_uncovered, 1);
	assert_true(is_filled(mem_ptr(&m, 0, len), 0, len));
	memset(mem_ptr(&m, 0, len), 0xbb, MEM_PAGE_SIZE);
	assert_int_equal(pread(m.fd, &before, 1, 0), 1);
	assert_int_equal(before & 0xff, 0xbb); /* it is the memfd that shows */
	mem_fini(&m);
	close(fd);
}

struct told {
	u64 gpa, len;
	u32 times;
};

static void note_write(void *opaque, u64 gpa, u64 len)
{
	struct told *told = opaque;

	*told = (struct told){gpa, len, told->times + 1};
}

static void discarding_drops_translated_code_and_marks_nothing_dirty(void **state)
{
	struct mem *m = *state;
	u64 bitmap[8 * MIB / MEM_PAGE_SIZE / 64] = {0};
	struct told told = {0};
	struct err e;

	assert_int_equal(mem_track(m, true, &e), 0);
	m->on_write = note_write;
	m->on_write_opaque = &told;
	assert_int_equal(mem_discard(m, MIB, 16 * MEM_PAGE_SIZE, &e), 0);
	assert_int_equal(told.gpa, MIB);
	assert_int_equal(told.len, 16 * MEM_PAGE_SIZE);
	assert_int_equal(mem_discard(m, 8 * MIB, MEM_PAGE_SIZE, &e), -EFAULT);
	assert_int_equal(told.times, 1);
	mem_track_collect(&m->regions[0], bitmap);
	for (u32 i = 0; i < sizeof(bitmap) / sizeof(bitmap[0]); i++)
		assert_int_equal(bitmap[i], 0);
}

static void *write_on(void *arg)
{
	for (volatile u8 *stop = arg; !__atomic_load_n(stop, __ATOMIC_RELAXED);)
		stop[MEM_PAGE_SIZE]++;
	return NULL;
}

static void a_vcpu_that_writes_meanwhile_never_meets_a_hole(void **state)
{
	int fd = image_file(4 * MEM_PAGE_SIZE);
	struct mem *m = *state;
	pthread_t thread;
	struct err e;

	/* Page 2 holds the flag; page 3, of the image, is written to. */
	assert_int_equal(pthread_create(&thread, NULL, write_on, mem_ptr(m, 2 * MEM_PAGE_SIZE, MEM_PAGE_SIZE)), 0);
	for (u32 i = 0; i < MEM_MAX_IMAGES; i++) {
		assert_int_equal(mem_load_file(m, 3 * MEM_PAGE_SIZE, fd, 0, 4 * MEM_PAGE_SIZE, &e), 0);
		for (u32 j = 0; j < 500; j++)
			assert_int_equal(mem_discard(m, 3 * MEM_PAGE_SIZE, MEM_PAGE_SIZE, &e), 0);
	}
	__atomic_store_n((u8 *)mem_ptr(m, 2 * MEM_PAGE_SIZE, 1), 1, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	close(fd);
}

static void of_huge_pages_only_whole_ones_go_back(void **state)
{
	struct mem m;
	struct err e;
	u64 before = huge_pages("free");
	u8 *p;

	(void)state;
	assert_int_equal(mem_init(&m, &(struct mem_range){0, 8 * MIB}, 1, MEM_HUGE_2M, &e), 0);
	p = mem_ptr(&m, 0, 8 * MIB);
	memset(p, 0xaa, 8 * MIB);
	assert_int_equal(huge_pages("free"), before - 4);
	assert_int_equal(mem_discard(&m, MEM_PAGE_SIZE, 4 * MIB, &e), 0);
	assert_int_equal(huge_pages("free"), before - 3);
	assert_true(is_filled(p, 0xaa, 2 * MIB));
	assert_true(is_filled(p + 2 * MIB, 0, 2 * MIB));
	assert_true(is_filled(p + 4 * MIB, 0xaa, 4 * MIB));
	mem_fini(&m);
	assert_int_equal(huge_pages("free"), before);
}

/* No SIGBUS later on. */
static void too_few_huge_pages_are_an_error_at_once(void **state)
{
	u64 size = (huge_pages("free") + 1) * 2 * MIB;
	struct mem m;
	struct err e;

	(void)state;
	assert_int_equal(mem_init(&m, &(struct mem_range){0, size}, 1, MEM_HUGE_2M, &e), -ENOMEM);
	assert_non_null(strstr(e.msg, "vm.nr_hugepages"));
}

static void memory_to_plug_in_is_part_of_the_memfd_but_no_ram(void **state)
{
	struct mem *m = *state;
	struct err e;

	/* Right behind RAM: one range over both can be discarded. */
	assert_int_equal(mem_add_hotplug(m, 4 * GIB + 4 * MIB, 4 * MIB, &e), 0);
	assert_int_equal(m->size, 16 * MIB);
	assert_int_equal(mem_ram_size(m), 12 * MIB);
	assert_int_equal(m->regions[2].fd_offset, 12 * MIB);
	assert_false(m->regions[2].ram || m->regions[2].file);
	memset(mem_ptr(m, 4 * GIB, 4 * MIB), 0xaa, 4 * MIB);
	memset(mem_ptr(m, 4 * GIB + 4 * MIB, 4 * MIB), 0xbb, 4 * MIB);
	assert_int_equal(mem_discard(m, 4 * GIB + 3 * MIB, 2 * MIB, &e), 0);
	assert_true(is_filled(mem_ptr(m, 4 * GIB, 3 * MIB), 0xaa, 3 * MIB));
	assert_true(is_filled(mem_ptr(m, 4 * GIB + 3 * MIB, MIB), 0, MIB));
	assert_true(is_filled(mem_ptr(m, 4 * GIB + 4 * MIB, MIB), 0, MIB));
	assert_true(is_filled(mem_ptr(m, 4 * GIB + 5 * MIB, 3 * MIB), 0xbb, 3 * MIB));
	assert_int_equal(mem_add_hotplug(m, 8 * GIB, 4097, &e), -EINVAL);
}

static void a_host_address_tells_its_guest_address(void **state)
{
	struct mem *m = *state;
	u64 gpa;

	assert_true(mem_gpa(m, mem_ptr(m, 4 * GIB + 5, 10), 10, &gpa));
	assert_int_equal(gpa, 4 * GIB + 5);
	assert_true(mem_gpa(m, m->regions[0].hva, 8 * MIB, &gpa));
	assert_int_equal(gpa, 0);
	assert_false(mem_gpa(m, m->regions[0].hva, 8 * MIB + 1, &gpa));
	assert_false(mem_gpa(m, &gpa, 1, &gpa));
}

static int run_with_huge_pages(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(of_huge_pages_only_whole_ones_go_back),
		cmocka_unit_test(too_few_huge_pages_are_an_error_at_once),
	};
	bool enough;
	u64 before = huge_pages_add(8, &enough);
	int ret = enough ? cmocka_run_group_tests_name("huge", tests, NULL, NULL) : 0;

	huge_pages_set(before);
	return ret;
}

/* With "huge": in pages of 2 MiB. */
int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(ranges_are_found_only_when_whole, setup, teardown),
		cmocka_unit_test_setup_teardown(lengths_that_wrap_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(regions_share_one_memfd_at_their_offsets, setup, teardown),
		cmocka_unit_test_setup_teardown(writes_mark_every_page_they_touch, setup, teardown),
		cmocka_unit_test_setup_teardown(a_loaded_file_is_there_and_stays_as_it_is, setup, teardown),
		cmocka_unit_test_setup_teardown(a_file_that_is_too_short_or_too_long_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(discarded_pages_read_as_zeroes_and_go_back_to_the_host, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_not_whole_pages_of_the_memfd_is_not_discarded, setup, teardown),
		cmocka_unit_test_setup_teardown(a_discarded_page_of_an_image_shows_neither_file_nor_what_was_below, setup, teardown),
		cmocka_unit_test_setup_teardown(discarding_drops_translated_code_and_marks_nothing_dirty, setup, teardown),
		cmocka_unit_test_setup_teardown(a_vcpu_that_writes_meanwhile_never_meets_a_hole, setup, teardown),
		cmocka_unit_test_setup_teardown(memory_to_plug_in_is_part_of_the_memfd_but_no_ram, setup, teardown),
		cmocka_unit_test_setup_teardown(a_host_address_tells_its_guest_address, setup, teardown),
		cmocka_unit_test(pages_of_an_image_given_up_one_by_one_become_one_mapping),
		cmocka_unit_test(a_guest_cannot_use_up_the_mappings_with_holes_in_an_image),
		cmocka_unit_test(odd_sizes_are_refused),
		cmocka_unit_test(a_terabyte_costs_nothing_until_touched),
	};

	if (argc > 1 && !strcmp(argv[1], "huge"))
		return run_with_huge_pages();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
