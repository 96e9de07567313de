/* memfile_impl.h: what the files memfile*.c share. */
#ifndef HUSK_MEMFILE_IMPL_H
#define HUSK_MEMFILE_IMPL_H

#include <string.h>

#include "migration/memfile.h"

/* Bytes that are looked at, copied or asked for at once: they stay in the processor's cache between the look and the copy. */
#define MEMFILE_PIECE (1 * MIB)

static inline bool memfile_is_zero(const void *page)
{
	return !*(const u64 *)page && !memcmp(page, (const u8 *)page + 8, MEM_PAGE_SIZE - 8);
}

/* All of len bytes at an offset. -errno; -EIO at the file's end. */
int memfile_pwrite(int fd, const void *data, u64 len, u64 offset) MUST_CHECK;
int memfile_pread(int fd, void *data, u64 len, u64 offset) MUST_CHECK;

/* Where the byte of the memory file lies; *len is cut to what follows in the same region. NULL behind all. */
u8 *memfile_at(const struct mem *m, u64 offset, u64 *len);

/*
 * A walk over what a region has in use: pages that are not, are zero. They are told apart without touching any: by the memfd's own extents,
 * those of the files mapped over it, and the page tables where such a file's pages were written to. What one of them has and the guest does
 * not see (a discarded page of an image, RAM below it) only costs a look.
 */
#define MEMFILE_WALK_RUNS 64

struct memfile_source {
	enum { MEMFILE_ALL, MEMFILE_FILE, MEMFILE_PRIVATE } kind;
	u64 start, end; /* where it has a say, in bytes from the region's first */
	int fd;
	u64 file_offset; /* of start */
	u64 lo, hi;	 /* next of its runs; lo == end: there is none */
	struct mem_run runs[MEMFILE_WALK_RUNS];
	u32 nr, next;
	u64 scanned; /* page tables were asked up to here */
};

struct memfile_walk {
	const struct mem *m;
	const struct mem_region *r;
	u64 at;
	u32 nr;
	struct memfile_source sources[1 + 2 * MEM_MAX_IMAGES];
};

void memfile_walk_init(struct memfile_walk *w, const struct mem *m, const struct mem_region *r);
/* The next run of pages in use, at most `most` bytes; false at the region's end. */
bool memfile_walk_next(struct memfile_walk *w, u64 most, struct mem_run *out);
/* The run's bytes: where the guest has them, or copied to bounce (MEMFILE_PIECE) where looking would allocate them (2 MiB pages); NULL: the
 * host cannot read them. ctx: as memfile_write_full */
const u8 *memfile_look(const struct mem *m, const struct mem_region *r, const struct mem_run *run, u8 *bounce);

#endif
