/* memfile_rig.h: guest memory without a VM around it, temporary files, and the comparison of the two. */
#ifndef HUSK_TEST_MEMFILE_RIG_H
#define HUSK_TEST_MEMFILE_RIG_H

#include "cm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migration/memfile.h"
#include "migration/uffd.h"

#define PAGE MEM_PAGE_SIZE

/* RAM below and above the hole, and memory to plug in: 8 + 4 + 2 MiB. */
#define MF_SIZE (14 * MIB)
#define MF_HIGH (4 * GIB)
#define MF_PLUG (8 * GIB)

static inline struct vm *new_vm(void)
{
	static const struct mem_range two[] = {{0, 8 * MIB}, {MF_HIGH, 4 * MIB}};
	struct vm *vm = xzalloc(sizeof(*vm));
	struct err e;

	assert_int_equal(mem_init(&vm->mem, two, 2, MEM_HUGE_NONE, &e), 0);
	assert_int_equal(mem_add_hotplug(&vm->mem, MF_PLUG, 2 * MIB, &e), 0);
	return vm;
}

static inline void free_vm(struct vm *vm)
{
	mem_fini(&vm->mem);
	free(vm);
}

/* An empty file on the disk that nobody else knows. */
static inline int temp_fd(void)
{
	char path[] = "/tmp/husk-memfile-XXXXXX";
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	unlink(path);
	return fd;
}

static inline u8 *at(struct vm *vm, u64 gpa)
{
	return mem_ptr(&vm->mem, gpa, PAGE);
}

/* What the guest sees, region behind region; the caller's. */
static inline u8 *all_memory(const struct vm *vm)
{
	u8 *all = xzalloc(vm->mem.size);

	for (u32 i = 0; i < vm->mem.nr_regions; i++) {
		const struct mem_region *r = &vm->mem.regions[i];

		if (!r->file)
			memcpy(all + r->fd_offset, r->hva, r->size);
	}
	return all;
}

static inline u64 length_of(int fd)
{
	return (u64)lseek(fd, 0, SEEK_END);
}

static inline u64 disk_bytes(int fd)
{
	struct stat st;

	assert_int_equal(fsync(fd), 0);
	assert_int_equal(fstat(fd, &st), 0);
	return (u64)st.st_blocks * 512;
}

/* Some pages of each region, with bytes that do not compress well, and zero pages that were touched. */
static inline void fill(struct vm *vm, u32 seed)
{
	static const u64 pages[] = {0, PAGE, 100 * PAGE, 8 * MIB - PAGE, MF_HIGH + 2 * MIB, MF_HIGH + 4 * MIB - PAGE, MF_PLUG};

	for (u32 i = 0; i < ARRAY_SIZE(pages); i++) {
		u32 *word = (u32 *)(void *)at(vm, pages[i]);

		for (u32 j = 0; j < PAGE / 4; j++)
			word[j] = (seed = seed * 1664525 + 1013904223) >> (j % 16);
	}
	*(volatile u8 *)at(vm, 200 * PAGE) = 0;
	at(vm, 3 * MIB)[4095] = 1;
}

static inline struct memfile_stats save(struct vm *vm, int fd)
{
	struct memfile_stats stats;
	struct err e = {0};

	if (memfile_write_full(vm, fd, &stats, &e) < 0)
		fail_msg("%s", e.msg);
	return stats;
}

static inline void check_file(int fd, const struct vm *vm)
{
	auto_free u8 *seen = all_memory(vm), *file = xzalloc(vm->mem.size);

	assert_int_equal(length_of(fd), vm->mem.size);
	assert_int_equal(pread(fd, file, vm->mem.size, 0), vm->mem.size);
	for (u64 i = 0; i < vm->mem.size; i += PAGE) {
		if (memcmp(seen + i, file + i, PAGE) != 0)
			fail_msg("page at %llx differs", (unsigned long long)i);
	}
}

static inline void check_same(const struct vm *a, const struct vm *b)
{
	auto_free u8 *x = all_memory(a), *y = all_memory(b);

	assert_int_equal(a->mem.size, b->mem.size);
	for (u64 i = 0; i < a->mem.size; i += PAGE) {
		if (memcmp(x + i, y + i, PAGE) != 0)
			fail_msg("page at %llx differs", (unsigned long long)i);
	}
}

#endif
