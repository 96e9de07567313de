/*
 * memfile_zip.h: compressed memory files.
 *
 *   0   "HUSKMEMZ"  u32 version (1)  u32 chunk bytes  u64 memory bytes  u64 chunks  u64 index offset  u32 CRC of the index  u32 0 (4 times)
 *       u32 CRC of all that
 *   64  the chunks' bytes, one behind the other: zlib, or plain where that is not shorter
 *       index: per chunk u32 bytes in the file (0: all zero; top bit: plain), u32 CRC of what is in it
 *       8 zero bytes, if the length would be a multiple of a page: by that plain files are known
 *
 * All little-endian; CRCs are zlib's crc32. Nothing in it is trusted: lengths are checked against the file's before anything is allocated,
 * and a chunk never inflates to more than its size.
 */
#ifndef HUSK_MEMFILE_ZIP_H
#define HUSK_MEMFILE_ZIP_H

#include "vmm/base/err.h"

#define MEMZIP_MAGIC	   "HUSKMEMZ"
#define MEMZIP_HEADER_SIZE 64u
#define MEMZIP_CHUNK	   (64 * KIB) /* of those that are written */
#define MEMZIP_MAX_CHUNK   (1 * MIB)
#define MEMZIP_PLAIN	   0x80000000u

struct memzip_header {
	u32 chunk_bytes;
	u64 memory_bytes, nr_chunks, index_offset;
	u32 index_crc;
};

struct memzip_chunk {
	u64 offset; /* in the file */
	u32 stored; /* bytes there; 0: all zero */
	bool plain;
	u32 crc;
};

struct memzip {
	int fd; /* borrowed */
	struct memzip_header header;
	struct memzip_chunk *chunks; /* owned */
	u8 *stored;		     /* owned: a chunk as it is in the file */
	void *inflater;		     /* owned */
};

/* Reads and checks the header of a file of so many bytes. -EINVAL: it is none, or contradicts itself. */
int memzip_read_header(int fd, u64 file_bytes, struct memzip_header *out, struct err *e) MUST_CHECK;
/* Opens one that holds memory_bytes of memory: header, index. memzip_close in any case. */
int memzip_open(struct memzip *z, int fd, u64 memory_bytes, struct err *e) MUST_CHECK;
void memzip_close(struct memzip *z); /* accepts zeroed */
/* Bytes of memory in the chunk. */
u64 memzip_chunk_bytes(const struct memzip *z, u64 i);
/* Chunk i into data (MEMZIP_MAX_CHUNK). -EINVAL: damaged. ctx: one thread at a time */
int memzip_read(struct memzip *z, u64 i, u8 *data, struct err *e) MUST_CHECK;

#endif
