/*
 * working_set.h: which pages of a snapshot's memory a restored VM touches first, in a small file beside it; another restore then reads them
 * ahead, in a few large pieces, before the guest asks for each by a page fault. For memory files that are mapped (memfile_map).
 *
 *   "HUSKWSET"  u32 version (1)  u32 ranges  u64 memory id  u64 bytes of memory  u32 CRC of the rest  u32 0
 *   then per range u32 first page, u32 pages (of 4 KiB, in the memory file), ascending
 *
 * All little-endian. The id is the memory file's: a list is of no use with another. A list that does not fit is refused; it can cost time
 * and page cache, but change nothing in the guest.
 */
#ifndef HUSK_WORKING_SET_H
#define HUSK_WORKING_SET_H

#include "vmm/vm.h"

#define WORKING_SET_MAGIC  "HUSKWSET"
#define WORKING_SET_HEADER 40u
#define WORKING_SET_TIME_S 5u /* of recording, unless told otherwise */

/* Errors do not name the file: the caller's prefix does. */

/*
 * Writes the list to path (made now, replaced) so many seconds after the vCPUs were let run, or when the VM ends before that: until then
 * the file is empty. A thread of the memory's does it. -EINVAL: the memory is not mapped from a file. ctx: after memfile_map, before the
 * sandbox closes
 */
int working_set_record(struct vm *vm, const char *path, u64 memory_id, u32 seconds, struct err *e) MUST_CHECK;
/* Reads the pages on the list ahead, from the memory file fd (kept by itself), in a thread of the memory's. -EINVAL: no list, a damaged
 * one, one of another memory. ctx: as working_set_record */
int working_set_prefetch(struct vm *vm, const char *path, u64 memory_id, int fd, struct err *e) MUST_CHECK;

/* ---- Parts, for tests ---- */

/* Reads and checks a list: ranges in bytes of the memory file, the caller's. */
int working_set_read(int fd, u64 memory_id, u64 memory_bytes, struct mem_run **out, u32 *nr, struct err *e) MUST_CHECK;
/* Writes one; -errno. */
int working_set_write(int fd, u64 memory_id, u64 memory_bytes, const struct mem_run *runs, u32 nr) MUST_CHECK;

#endif
