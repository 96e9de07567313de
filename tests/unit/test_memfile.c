/* test_memfile.c: guest memory in plain files: full, diff, merged, mapped again. */
#include "memfile_rig.h"

#include <time.h>

static struct vm *map(int fd, bool eager)
{
	struct vm *vm = new_vm();
	struct err e = {0};

	if (memfile_map(vm, fd, eager, &e) < 0)
		fail_msg("%s", e.msg);
	return vm;
}

static void a_full_file_has_what_is_in_use_and_holes_elsewhere(void **state)
{
	struct vm *vm = new_vm();
	struct memfile_stats stats;
	struct stat before, after;
	int fd = temp_fd();

	(void)state;
	fill(vm, 1);
	assert_int_equal(fstat(vm->mem.fd, &before), 0);
	stats = save(vm, fd);
	assert_int_equal(fstat(vm->mem.fd, &after), 0);
	assert_int_equal(before.st_blocks, after.st_blocks); /* nothing was touched that was not */
	assert_int_equal(stats.pages, 9);
	assert_int_equal(stats.zero_pages, 1);
	assert_int_equal(stats.bytes, 8 * PAGE);
	assert_in_range(disk_bytes(fd), 8 * PAGE, 10 * PAGE);
	check_file(fd, vm);
	close(fd);
	free_vm(vm);
}

static void an_untouched_memory_is_one_hole(void **state)
{
	struct vm *vm = new_vm();
	int fd = temp_fd();

	(void)state;
	assert_int_equal(save(vm, fd).pages, 0);
	assert_int_equal(disk_bytes(fd), 0);
	check_file(fd, vm);
	close(fd);
	free_vm(vm);
}

static void the_pages_of_a_pmem_device_are_left_out(void **state)
{
	struct vm *vm = new_vm();
	int fd = temp_fd(), pmem = temp_fd();
	struct err e;

	(void)state;
	assert_int_equal(ftruncate(pmem, 2 * MIB), 0);
	assert_int_equal(mem_add_file(&vm->mem, 16 * GIB, 2 * MIB, pmem, false, &e), 0);
	fill(vm, 2);
	memset(at(vm, 16 * GIB), 0xaa, PAGE);
	assert_int_equal(save(vm, fd).bytes, 8 * PAGE);
	check_file(fd, vm);
	close(pmem);
	close(fd);
	free_vm(vm);
}

static void a_terabyte_that_nobody_used_is_saved_and_mapped_at_once(void **state)
{
	struct vm *vm = xzalloc(sizeof(*vm)), *again = xzalloc(sizeof(*vm));
	const struct mem_range tera = {0, 1024 * GIB};
	struct timespec a, b;
	int fd = temp_fd();
	struct err e;

	(void)state;
	assert_int_equal(mem_init(&vm->mem, &tera, 1, MEM_HUGE_NONE, &e), 0);
	assert_int_equal(mem_init(&again->mem, &tera, 1, MEM_HUGE_NONE, &e), 0);
	memset(at(vm, 1000 * GIB), 0x77, PAGE);
	clock_gettime(CLOCK_MONOTONIC, &a);
	assert_int_equal(save(vm, fd).pages, 1);
	assert_int_equal(memfile_map(again, fd, false, &e), 0);
	clock_gettime(CLOCK_MONOTONIC, &b);
	assert_true((b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000 < 500);
	assert_memory_equal(at(again, 1000 * GIB), at(vm, 1000 * GIB), PAGE);
	close(fd);
	free_vm(vm);
	free_vm(again);
}

static void a_mapped_file_is_the_memory_and_stays_as_it_is(void **state)
{
	struct vm *vm = new_vm(), *again;
	int fd = temp_fd();

	(void)state;
	fill(vm, 3);
	save(vm, fd);
	again = map(fd, false);
	check_same(vm, again);
	memset(at(again, 0), 0xee, PAGE);
	memset(at(again, 5 * MIB), 0xee, PAGE); /* a hole */
	check_file(fd, vm);
	assert_true(memfile_backs(again, fd));
	assert_false(memfile_backs(vm, fd));
	close(fd);
	free_vm(vm);
	free_vm(again);
}

static void eager_memory_does_not_need_the_file_any_more(void **state)
{
	struct vm *vm = new_vm(), *again;
	int fd = temp_fd();

	(void)state;
	fill(vm, 4);
	save(vm, fd);
	again = map(fd, true);
	assert_false(memfile_backs(again, fd));
	assert_int_equal(ftruncate(fd, 0), 0);
	check_same(vm, again);
	close(fd);
	free_vm(vm);
	free_vm(again);
}

static void memory_that_others_share_gets_a_copy_into_the_memfd(void **state)
{
	struct vm *vm = new_vm(), *again = new_vm();
	int fd = temp_fd();
	u8 byte;
	struct err e;

	(void)state;
	fill(vm, 5);
	save(vm, fd);
	again->mem.share = true;
	assert_int_equal(memfile_map(again, fd, false, &e), 0);
	assert_int_equal(pread(again->mem.fd, &byte, 1, 3 * MIB + 4095), 1);
	assert_int_equal(byte, 1);
	check_same(vm, again);
	close(fd);
	free_vm(vm);
	free_vm(again);
}

/* ---- a VM that was restored, saved again ---- */

/* A VM over the file, in which every kind of page has changed. */
static struct vm *restored_and_changed(int fd)
{
	struct vm *vm = map(fd, false);
	struct err e;

	memset(at(vm, PAGE), 0x11, PAGE);	 /* was data */
	memset(at(vm, 6 * MIB), 0x22, PAGE);	 /* was a hole */
	memset(at(vm, MF_HIGH), 0x33, PAGE);	 /* the same, in another region */
	memset(at(vm, 100 * PAGE), 0, PAGE);	 /* zero now */
	memset(at(vm, 4 * MIB), 0x44, 3 * PAGE); /* written, then given back */
	assert_int_equal(mem_discard(&vm->mem, 4 * MIB + PAGE, PAGE, &e), 0);
	assert_int_equal(mem_discard(&vm->mem, 3 * MIB, PAGE, &e), 0); /* was data, given back */
	assert_int_equal(mem_discard(&vm->mem, 7 * MIB, PAGE, &e), 0);
	memset(at(vm, 7 * MIB), 0x55, PAGE); /* given back and taken again */
	return vm;
}

static void check_saved_again(struct vm *vm)
{
	int fd = temp_fd();

	save(vm, fd);
	check_file(fd, vm);
	assert_in_range(disk_bytes(fd), 10 * PAGE, 16 * PAGE);
	close(fd);
}

static int first_file(void)
{
	struct vm *vm = new_vm();
	int fd = temp_fd();

	fill(vm, 6);
	save(vm, fd);
	free_vm(vm);
	return fd;
}

static void a_restored_vm_is_saved_with_what_it_changed(void **state)
{
	int fd = first_file();
	struct vm *vm = restored_and_changed(fd);

	(void)state;
	assert_true(vm->mem.pagemap_fd >= 0);
	check_saved_again(vm);
	close(fd);
	free_vm(vm);
}

/* A kernel before 6.7 has the entries but not the request: a file that holds these entries. */
static void the_same_by_the_entries_of_the_pagemap(void **state)
{
	int fd = first_file(), fake = temp_fd();
	struct vm *vm = restored_and_changed(fd);

	(void)state;
	for (u32 i = 0; i < vm->mem.nr_regions; i++) {
		const struct mem_region *r = &vm->mem.regions[i];
		off_t offset = (off_t)((uintptr_t)r->hva / PAGE * 8);
		u64 entries[8 * MIB / PAGE], len = r->size / PAGE * 8;

		assert_int_equal(pread(vm->mem.pagemap_fd, entries, len, offset), len);
		assert_int_equal(pwrite(fake, entries, len, offset), len);
	}
	close(vm->mem.pagemap_fd);
	vm->mem.pagemap_fd = fake;
	check_saved_again(vm);
	close(fd);
	free_vm(vm);
}

static void the_same_in_a_jail_without_proc(void **state)
{
	int fd = first_file(), out = temp_fd();
	struct vm *vm = restored_and_changed(fd);

	(void)state;
	close(vm->mem.pagemap_fd);
	vm->mem.pagemap_fd = -1;
	save(vm, out);
	check_file(out, vm);
	close(out);
	close(fd);
	free_vm(vm);
}

static void the_pagemap_is_open_without_the_right_to_physical_addresses(void **state)
{
	int fd = first_file();
	struct vm *vm = restored_and_changed(fd);
	u64 entry;

	(void)state;
	assert_int_equal(pread(vm->mem.pagemap_fd, &entry, 8, (off_t)((uintptr_t)at(vm, PAGE) / PAGE * 8)), 8);
	assert_true(entry >> 63);
	assert_int_equal(entry & (BIT(55) - 1), 0);
	close(fd);
	free_vm(vm);
}

static void a_boot_image_over_ram_is_saved_as_the_guest_sees_it(void **state)
{
	int fd = temp_fd(), image = temp_fd();
	struct vm *vm = new_vm();
	u8 *bytes = xzalloc(64 * PAGE);
	struct err e;

	(void)state;
	memset(bytes, 0x61, 30 * PAGE + 17);
	assert_int_equal(write(image, bytes, 30 * PAGE + 17), 30 * PAGE + 17);
	assert_int_equal(mem_load_file(&vm->mem, MIB, image, 0, 30 * PAGE + 17, &e), 0);
	memset(at(vm, MIB + 4 * PAGE), 0x62, PAGE);
	assert_int_equal(mem_discard(&vm->mem, MIB + 9 * PAGE, 2 * PAGE, &e), 0);
	save(vm, fd);
	check_file(fd, vm);
	assert_true(memfile_backs(vm, image));
	assert_false(memfile_backs(vm, fd));
	free(bytes);
	close(image);
	close(fd);
	free_vm(vm);
}

static u64 free_huge_pages(void)
{
	FILE *f = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "re");
	unsigned long long n = 0;

	if (f && fscanf(f, "%llu", &n) != 1)
		n = 0;
	if (f)
		fclose(f);
	return n;
}

static void huge_pages_are_saved_without_taking_more_of_them(void **state)
{
	const struct mem_range range = {0, 8 * MIB};
	struct vm *vm = xzalloc(sizeof(*vm));
	int fd = temp_fd();
	struct stat before, after;
	struct err e;

	(void)state;
	if (free_huge_pages() < 4) {
		print_message("# not tested: this machine has no 2 MiB pages (sysctl vm.nr_hugepages=8)\n");
		free(vm);
		return;
	}
	assert_int_equal(mem_init(&vm->mem, &range, 1, MEM_HUGE_2M, &e), 0);
	memset(at(vm, 4 * MIB + 5 * PAGE), 0x66, PAGE);
	assert_int_equal(fstat(vm->mem.fd, &before), 0);
	assert_int_equal(save(vm, fd).bytes, PAGE);
	assert_int_equal(fstat(vm->mem.fd, &after), 0);
	assert_int_equal(before.st_blocks, after.st_blocks);
	check_file(fd, vm);
	free_vm(vm);
	vm = xzalloc(sizeof(*vm)); /* and back into huge pages: copied */
	assert_int_equal(mem_init(&vm->mem, &range, 1, MEM_HUGE_2M, &e), 0);
	assert_int_equal(memfile_map(vm, fd, false, &e), 0);
	assert_int_equal(vm->mem.nr_images, 0);
	check_file(fd, vm);
	close(fd);
	free_vm(vm);
}

/* ---- diffs ---- */

struct dirty {
	u64 *maps[MEM_MAX_REGIONS];
	struct vm *vm;
};

static void set_dirty(struct dirty *d, u64 gpa)
{
	const struct mem_region *r = mem_find(&d->vm->mem, gpa, 1);
	u64 page = (gpa - r->gpa) / PAGE;

	d->maps[r->slot][page / 64] |= BIT(page % 64);
}

static struct dirty new_dirty(struct vm *vm)
{
	struct dirty d = {.vm = vm};

	for (u32 i = 0; i < vm->mem.nr_regions; i++) {
		if (!vm->mem.regions[i].file)
			d.maps[i] = xzalloc(mem_bitmap_words(&vm->mem.regions[i]) * 8);
	}
	return d;
}

static void free_dirty(struct dirty *d)
{
	for (u32 i = 0; i < MEM_MAX_REGIONS; i++)
		free(d->maps[i]);
}

static void a_diff_over_its_base_is_the_memory(void **state)
{
	int base = first_file(), diff = temp_fd(), copy = temp_fd();
	struct vm *vm = restored_and_changed(base);
	struct dirty d = new_dirty(vm);
	struct memfile_stats stats;
	struct err e = {0};

	(void)state;
	for (u64 page = 0; page < 3; page++)
		set_dirty(&d, 4 * MIB + page * PAGE);
	set_dirty(&d, PAGE);
	set_dirty(&d, 6 * MIB);
	set_dirty(&d, MF_HIGH);
	set_dirty(&d, 100 * PAGE);
	set_dirty(&d, 3 * MIB);
	set_dirty(&d, 7 * MIB);
	set_dirty(&d, MF_PLUG + 2 * MIB - PAGE);
	memset(at(vm, MF_PLUG + 2 * MIB - PAGE), 0x99, PAGE);
	assert_int_equal(memfile_write_diff(vm, diff, d.maps, &stats, &e), 0);
	assert_int_equal(stats.pages, 10);
	assert_int_equal(stats.bytes, 10 * PAGE);
	assert_int_equal(length_of(diff), MF_SIZE);
	assert_in_range(disk_bytes(diff), 10 * PAGE, 12 * PAGE);

	assert_int_equal(memfile_copy(copy, base, &e), 0);
	assert_int_equal(disk_bytes(copy), disk_bytes(base));
	assert_int_equal(memfile_merge(copy, diff, &stats, &e), 0);
	assert_int_equal(stats.pages, 10);
	assert_int_equal(stats.zero_pages, 3); /* one cleared, two given back: holes again */
	check_file(copy, vm);
	free_dirty(&d);
	close(base);
	close(diff);
	close(copy);
	free_vm(vm);
}

static void an_empty_diff_changes_nothing(void **state)
{
	int base = first_file(), diff = temp_fd(), copy = temp_fd();
	struct vm *vm = map(base, false);
	struct dirty d = new_dirty(vm);
	struct memfile_stats stats;
	struct err e;

	(void)state;
	assert_int_equal(memfile_copy(copy, base, &e), 0);
	assert_int_equal(memfile_write_diff(vm, diff, d.maps, &stats, &e), 0);
	assert_int_equal(memfile_merge(copy, diff, &stats, &e), 0);
	assert_int_equal(stats.pages, 0);
	check_file(copy, vm);
	free_dirty(&d);
	close(base);
	close(diff);
	close(copy);
	free_vm(vm);
}

static void every_second_page_makes_a_diff_of_just_these(void **state)
{
	int diff = temp_fd();
	struct vm *vm = new_vm();
	struct dirty d = new_dirty(vm);
	struct memfile_stats stats;
	struct err e;

	(void)state;
	for (u64 gpa = 0; gpa < 8 * MIB; gpa += 2 * PAGE)
		set_dirty(&d, gpa);
	assert_int_equal(memfile_write_diff(vm, diff, d.maps, &stats, &e), 0);
	assert_int_equal(stats.pages, 1024);
	for (u64 at_page = 0; at_page < 8 * MIB; at_page += PAGE)
		assert_int_equal(mem_file_data(diff, at_page, at_page + PAGE) == at_page, at_page / PAGE % 2 == 0);
	free_dirty(&d);
	close(diff);
	free_vm(vm);
}

static void a_file_system_without_fine_holes_gets_no_diff(void **state)
{
	int diff = temp_fd();
	struct vm *vm = new_vm();
	struct dirty d = new_dirty(vm);
	struct memfile_stats stats;
	u8 *block = xzalloc(16 * PAGE);
	struct err e;

	(void)state;
	set_dirty(&d, 5 * PAGE);
	assert_int_equal(pwrite(diff, block, 16 * PAGE, 0), 16 * PAGE); /* as if one page's write filled 64 KiB */
	assert_int_equal(memfile_write_diff(vm, diff, d.maps, &stats, &e), -EOPNOTSUPP);
	assert_non_null(strstr(e.msg, "holes"));
	free(block);
	free_dirty(&d);
	close(diff);
	free_vm(vm);
}

/* ---- what is refused ---- */

static void memory_of_another_size_is_refused_with_both_sizes(void **state)
{
	static const u64 sizes[] = {PAGE, MF_SIZE - PAGE, MF_SIZE + PAGE, 2 * MF_SIZE};
	struct vm *vm = new_vm();
	int fd = temp_fd();
	struct err e;

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(sizes); i++) {
		char number[32];

		assert_int_equal(ftruncate(fd, (off_t)sizes[i]), 0);
		assert_int_equal(memfile_map(vm, fd, false, &e), -EINVAL);
		snprintf(number, sizeof(number), "%llu", (unsigned long long)sizes[i]);
		assert_non_null(strstr(e.msg, number));
		assert_non_null(strstr(e.msg, "14680064"));
		assert_int_equal(vm->mem.nr_images, 0);
	}
	close(fd);
	free_vm(vm);
}

static void what_is_no_memory_file_is_refused(void **state)
{
	int fd = temp_fd(), dir = open("/tmp", O_RDONLY), null = open("/dev/null", O_RDWR);
	struct vm *vm = new_vm();
	u64 bytes;
	struct err e;

	(void)state;
	assert_int_equal(memfile_probe(fd, &bytes, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "empty"));
	assert_int_equal(memfile_probe(dir, &bytes, &e), -EINVAL);
	assert_int_equal(memfile_probe(null, &bytes, &e), -EINVAL);
	assert_int_equal(ftruncate(fd, MF_SIZE + 1), 0);
	assert_int_equal(memfile_map(vm, fd, false, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "cut off"));
	assert_int_equal(memfile_map(vm, -1, false, &e), -EBADF);
	close(fd);
	close(dir);
	close(null);
	free_vm(vm);
}

static void files_that_do_not_go_together_are_not_merged(void **state)
{
	int base = temp_fd(), diff = temp_fd();
	struct memfile_stats stats;
	struct err e;

	(void)state;
	assert_int_equal(ftruncate(base, MF_SIZE), 0);
	assert_int_equal(ftruncate(diff, MF_SIZE + PAGE), 0);
	assert_int_equal(memfile_merge(base, diff, &stats, &e), -EINVAL);
	assert_int_equal(ftruncate(diff, MF_SIZE + 1), 0);
	assert_int_equal(memfile_merge(base, diff, &stats, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "the diff: "));
	close(base);
	close(diff);
}

static void a_file_that_takes_no_more_is_an_error(void **state)
{
	int fd = memfd_create("full", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct vm *vm = new_vm();
	struct memfile_stats stats;
	struct err e;

	(void)state;
	fill(vm, 7);
	assert_int_equal(ftruncate(fd, (off_t)vm->mem.size), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	assert_int_equal(memfile_write_full(vm, fd, &stats, &e), -EPERM);
	assert_non_null(strstr(e.msg, "cannot write the memory file"));
	close(fd);
	free_vm(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_full_file_has_what_is_in_use_and_holes_elsewhere),
		cmocka_unit_test(an_untouched_memory_is_one_hole),
		cmocka_unit_test(the_pages_of_a_pmem_device_are_left_out),
		cmocka_unit_test(a_terabyte_that_nobody_used_is_saved_and_mapped_at_once),
		cmocka_unit_test(a_mapped_file_is_the_memory_and_stays_as_it_is),
		cmocka_unit_test(eager_memory_does_not_need_the_file_any_more),
		cmocka_unit_test(memory_that_others_share_gets_a_copy_into_the_memfd),
		cmocka_unit_test(a_restored_vm_is_saved_with_what_it_changed),
		cmocka_unit_test(the_same_by_the_entries_of_the_pagemap),
		cmocka_unit_test(the_same_in_a_jail_without_proc),
		cmocka_unit_test(the_pagemap_is_open_without_the_right_to_physical_addresses),
		cmocka_unit_test(a_boot_image_over_ram_is_saved_as_the_guest_sees_it),
		cmocka_unit_test(huge_pages_are_saved_without_taking_more_of_them),
		cmocka_unit_test(a_diff_over_its_base_is_the_memory),
		cmocka_unit_test(an_empty_diff_changes_nothing),
		cmocka_unit_test(every_second_page_makes_a_diff_of_just_these),
		cmocka_unit_test(a_file_system_without_fine_holes_gets_no_diff),
		cmocka_unit_test(memory_of_another_size_is_refused_with_both_sizes),
		cmocka_unit_test(what_is_no_memory_file_is_refused),
		cmocka_unit_test(files_that_do_not_go_together_are_not_merged),
		cmocka_unit_test(a_file_that_takes_no_more_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
