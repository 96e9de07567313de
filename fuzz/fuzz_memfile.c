/*
 * fuzz_memfile.c: compressed memory files and lists of working sets, of any bytes. The first byte says which, and whether the checksums are
 * made right, so that what they cover is looked at. What is taken gives memory of the size that was asked for, and ranges in order.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include "migration/memfile.h"
#include "migration/memfile_zip.h"
#include "migration/working_set.h"

#define MEMORY	 (256 * KIB)
#define ID	 7
#define MAX_SIZE (1 * MIB)

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

static void fix_zip(u8 *b, u64 len)
{
	u64 index, bytes;

	if (len < MEMZIP_HEADER_SIZE)
		return;
	index = ld_le64(b + 32);
	if (!__builtin_mul_overflow(ld_le64(b + 24), 8, &bytes) && index <= len && bytes <= len - index)
		st_le32(b + 40, (u32)crc32_z(0, b + index, bytes));
	st_le32(b + 60, (u32)crc32_z(0, b, 60));
}

static void fix_list(u8 *b, u64 len)
{
	if (len >= WORKING_SET_HEADER)
		st_le32(b + 32, (u32)crc32_z(crc32_z(0, b, 32), b + 36, len - 36));
}

static void read_zip(int fd)
{
	const struct mem_range range = {0, MEMORY};
	struct vm vm = {0};
	struct err e;
	u64 bytes;

	if (memfile_probe(fd, &bytes, &e) != 1)
		return;
	ASSERT(bytes && bytes % MEM_PAGE_SIZE == 0);
	ASSERT(mem_init(&vm.mem, &range, 1, MEM_HUGE_NONE, &e) == 0);
	if (memfile_read_compressed(&vm, fd, &e) == 0)
		ASSERT(bytes == MEMORY);
	mem_fini(&vm.mem);
}

static void read_list(int fd)
{
	struct mem_run *runs;
	struct err e;
	u64 at = 0;
	u32 nr;

	if (working_set_read(fd, ID, MEMORY, &runs, &nr, &e) < 0)
		return;
	for (u32 i = 0; i < nr; i++) {
		ASSERT(runs[i].start >= at && runs[i].end > runs[i].start && runs[i].end <= MEMORY);
		at = runs[i].end;
	}
	free(runs);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	u8 *copy;
	int fd;

	if (size < 2 || size > MAX_SIZE)
		return 0;
	copy = malloc(size - 1);
	fd = memfd_create("fuzz", MFD_CLOEXEC);
	ASSERT(copy && fd >= 0);
	memcpy(copy, data + 1, size - 1);
	if (*data & 2)
		(*data & 1 ? fix_list : fix_zip)(copy, size - 1);
	ASSERT(pwrite(fd, copy, size - 1, 0) == (ssize_t)(size - 1));
	(*data & 1 ? read_list : read_zip)(fd);
	free(copy);
	close(fd);
	return 0;
}
