/*
 * memfile.h: guest memory in files. Layout: the bytes of all regions that lie in the memfd at their memfd offsets (RAM below the hole, RAM
 * above 4 GiB, hot-plugged memory), so that it can be mapped; the file's length is exactly that. Pages that are zero, and in a diff pages
 * that did not change, are holes. A compressed file begins with a magic number and has an index (FORMAT.md).
 */
#ifndef HUSK_MEMFILE_H
#define HUSK_MEMFILE_H

#include "vmm/vm.h"

struct memfile_stats {
	u64 pages, zero_pages; /* looked at; found to be zero */
	u64 bytes;	       /* written */
};

/* Writes all pages in use to fd (empty), which becomes mem.size long. Pages that nobody touched cost nothing and stay untouched; of a VM
 * whose memory is with a pager (uffd.h) all are fetched. ctx: loop, VM paused */
int memfile_write_full(struct vm *vm, int fd, struct memfile_stats *out, struct err *e) MUST_CHECK;
/* Writes the pages in dirty (one bitmap per region, mem_bitmap_words; NULL for regions that are not in the memfd), zero ones too.
 * -EOPNOTSUPP: the file system does not keep the holes that mean "unchanged". */
int memfile_write_diff(struct vm *vm, int fd, u64 *const *dirty, struct memfile_stats *out, struct err *e) MUST_CHECK;
/* Compressed (zlib, chunks with an index); full only. */
int memfile_write_compressed(struct vm *vm, int fd, struct memfile_stats *out, struct err *e) MUST_CHECK;
/* Copies what a diff has over a base of the same length (in place: a crash leaves a mixture, so merge into a copy and rename it); zero
 * pages become holes. -EINVAL: lengths differ, or one is compressed. */
int memfile_merge(int base_fd, int diff_fd, struct memfile_stats *out, struct err *e) MUST_CHECK;
/* Makes to (empty) a copy of from, holes too; the two share blocks where the file system can. */
int memfile_copy(int to_fd, int from_fd, struct err *e) MUST_CHECK;
/* 1: compressed, 0: plain, -errno (no regular file, empty, a bad header). bytes: of the memory in it. The length tells the two apart: a
 * compressed one's is no multiple of a page. */
int memfile_probe(int fd, u64 *bytes, struct err *e) MUST_CHECK;
/* The first len bytes (at most a page) of the memory in a file of either kind. */
int memfile_head(int fd, void *out, size_t len, struct err *e) MUST_CHECK;

/* ---- restore: before the accelerator knows the regions ---- */

/* Maps a plain file private over all regions; copies it where the memfd must hold the bytes (vhost-user, 2 MiB pages) and where eager. The
 * file must not change while the VM lives. fd is not needed afterwards. -EINVAL: it has another length than this VM's memory. */
int memfile_map(struct vm *vm, int fd, bool eager, struct err *e) MUST_CHECK;
/* Reads a compressed one into memory; every length and checksum in it is checked. -EINVAL: it is damaged, or another VM's. */
int memfile_read_compressed(struct vm *vm, int fd, struct err *e) MUST_CHECK;

/* Whether this file is mapped as the VM's memory (or as a boot image in it), so that it must not be written to. ctx: any */
bool memfile_backs(const struct vm *vm, int fd);

#endif
