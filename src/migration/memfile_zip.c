/* memfile_zip.c: compressed memory files; see memfile_zip.h. */
#include "migration/memfile_zip.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "migration/memfile_impl.h"

#define VERSION	   1u
#define INDEX_SIZE 8u /* bytes per chunk */

static u32 crc_of(const void *data, u64 len)
{
	return (u32)crc32_z(0, data, len);
}

/* ---- writing ---- */

struct zip_writer {
	const struct mem *m;
	int fd;
	u64 offset;    /* of the next chunk in the file */
	u64 chunk;     /* whose memory is in data */
	bool filled;   /* data holds anything */
	u8 *index;     /* owned, lazily zero */
	u8 *data;      /* owned: the chunk's memory */
	u8 *packed;    /* owned */
	u8 *out;       /* owned: chunks that wait to be written */
	u64 nr_out;    /* bytes in it */
	z_stream zlib; /* live while index is set */
	struct memfile_stats stats;
};

static int flush_out(struct zip_writer *w, struct err *e)
{
	int ret = memfile_pwrite(w->fd, w->out, w->nr_out, w->offset);

	if (ret < 0)
		return err_set(e, ret, "cannot write the memory file: %s", strerror(-ret));
	w->offset += w->nr_out;
	w->stats.bytes += w->nr_out;
	w->nr_out = 0;
	return 0;
}

/* Packs data; *plain when it does not get shorter. */
static u32 pack(struct zip_writer *w, u64 len, bool *plain)
{
	deflateReset(&w->zlib);
	w->zlib.next_in = w->data;
	w->zlib.avail_in = (uInt)len;
	w->zlib.next_out = w->packed;
	w->zlib.avail_out = (uInt)len - 1;
	*plain = deflate(&w->zlib, Z_FINISH) != Z_STREAM_END;
	return *plain ? (u32)len : (u32)(len - 1 - w->zlib.avail_out);
}

/* Puts the chunk that is complete into the file. */
static int end_chunk(struct zip_writer *w, struct err *e)
{
	u64 len = MIN(MEMZIP_CHUNK, w->m->size - w->chunk * MEMZIP_CHUNK);
	u8 *entry = w->index + w->chunk * INDEX_SIZE;
	bool plain;
	u32 stored;

	if (!w->filled)
		return 0;
	w->filled = false;
	stored = pack(w, len, &plain);
	st_le32(entry, stored | (plain ? MEMZIP_PLAIN : 0));
	st_le32(entry + 4, crc_of(w->data, len));
	memcpy(w->out + w->nr_out, plain ? w->data : w->packed, stored);
	w->nr_out += stored;
	return w->nr_out > MEMFILE_PIECE - MEMZIP_CHUNK ? flush_out(w, e) : 0;
}

static int add_page(struct zip_writer *w, const u8 *page, u64 offset, struct err *e)
{
	int ret = 0;

	w->stats.pages++;
	if (memfile_is_zero(page)) {
		w->stats.zero_pages++;
		return 0;
	}
	if (offset / MEMZIP_CHUNK != w->chunk || !w->filled) {
		ret = end_chunk(w, e);
		memset(w->data, 0, MEMZIP_CHUNK);
		w->chunk = offset / MEMZIP_CHUNK;
		w->filled = true;
	}
	memcpy(w->data + offset % MEMZIP_CHUNK, page, MEM_PAGE_SIZE);
	return ret;
}

static int zip_region(struct zip_writer *w, const struct mem_region *r, u8 *bounce, struct err *e)
{
	struct memfile_walk *walk = xzalloc(sizeof(*walk));
	struct mem_run run;
	int ret = 0;

	memfile_walk_init(walk, w->m, r);
	while (ret == 0 && memfile_walk_next(walk, MEMFILE_PIECE, &run)) {
		const u8 *data = memfile_look(w->m, r, &run, bounce);

		if (!data)
			ret = err_set(e, -EIO, "the host cannot read the guest's memory");
		for (u64 at = 0; ret == 0 && at < run.end - run.start; at += MEM_PAGE_SIZE)
			ret = add_page(w, data + at, r->fd_offset + run.start + at, e);
	}
	free(walk);
	return ret;
}

static int write_index(struct zip_writer *w, u64 nr, struct err *e)
{
	u64 len = nr * INDEX_SIZE, end = w->offset + len;
	u8 header[MEMZIP_HEADER_SIZE] = {0};
	int ret = memfile_pwrite(w->fd, w->index, len, w->offset);

	memcpy(header, MEMZIP_MAGIC, 8);
	st_le32(header + 8, VERSION);
	st_le32(header + 12, MEMZIP_CHUNK);
	st_le64(header + 16, w->m->size);
	st_le64(header + 24, nr);
	st_le64(header + 32, w->offset);
	st_le32(header + 40, crc_of(w->index, len));
	st_le32(header + 60, crc_of(header, 60));
	if (ret == 0 && end % MEM_PAGE_SIZE == 0)
		ret = memfile_pwrite(w->fd, &(u64){0}, 8, end);
	if (ret == 0)
		ret = memfile_pwrite(w->fd, header, sizeof(header), 0);
	w->stats.bytes += len + sizeof(header);
	return ret < 0 ? err_set(e, ret, "cannot write the memory file: %s", strerror(-ret)) : 0;
}

static int writer_init(struct zip_writer *w, u64 nr, struct err *e)
{
	w->index = calloc(nr, INDEX_SIZE);
	/* Level 1: the guest waits. */
	if (!w->index || deflateInit(&w->zlib, 1) != Z_OK) {
		free(w->index);
		return err_set(e, -ENOMEM, "no memory to compress guest memory with");
	}
	w->data = xzalloc(MEMZIP_CHUNK);
	w->packed = xzalloc(MEMZIP_CHUNK);
	w->out = xzalloc(MEMFILE_PIECE);
	return 0;
}

static void writer_fini(struct zip_writer *w)
{
	deflateEnd(&w->zlib);
	free(w->index);
	free(w->data);
	free(w->packed);
	free(w->out);
}

int memfile_write_compressed(struct vm *vm, int fd, struct memfile_stats *out, struct err *e)
{
	const struct mem *m = &vm->mem;
	struct zip_writer w = {.m = m, .fd = fd, .offset = MEMZIP_HEADER_SIZE};
	u64 nr = (m->size + MEMZIP_CHUNK - 1) / MEMZIP_CHUNK;
	auto_free u8 *bounce = xzalloc(MEMFILE_PIECE);
	int ret = writer_init(&w, nr, e);

	if (ret < 0)
		return ret;
	for (u32 i = 0; ret == 0 && i < m->nr_regions; i++) {
		if (!m->regions[i].file)
			ret = zip_region(&w, &m->regions[i], bounce, e);
	}
	if (ret == 0)
		ret = end_chunk(&w, e);
	if (ret == 0)
		ret = flush_out(&w, e);
	if (ret == 0)
		ret = write_index(&w, nr, e);
	*out = w.stats;
	writer_fini(&w);
	return ret;
}

/* ---- reading ---- */

static int damaged(struct err *e, const char *what)
{
	return err_set(e, -EINVAL, "the compressed memory file is damaged: %s", what);
}

static int read_bytes(int fd, void *to, u64 len, u64 offset, struct err *e)
{
	int ret = memfile_pread(fd, to, len, offset);

	return ret < 0 ? err_set(e, ret, "cannot read the memory file: %s", strerror(-ret)) : 0;
}

/* Header against the file's length. */
static int check_header(const struct memzip_header *h, u64 file_bytes, struct err *e)
{
	u64 index_end;

	if (h->chunk_bytes < MEM_PAGE_SIZE || h->chunk_bytes > MEMZIP_MAX_CHUNK || h->chunk_bytes & (h->chunk_bytes - 1))
		return damaged(e, "chunks of an impossible size");
	if (!h->memory_bytes || h->memory_bytes % MEM_PAGE_SIZE || h->memory_bytes > INT64_MAX)
		return damaged(e, "an impossible memory size");
	if (h->nr_chunks != (h->memory_bytes - 1) / h->chunk_bytes + 1)
		return damaged(e, "the number of chunks does not fit the memory size");
	if (h->index_offset < MEMZIP_HEADER_SIZE || h->index_offset > file_bytes ||
	    h->nr_chunks > (file_bytes - h->index_offset) / INDEX_SIZE)
		return damaged(e, "it is shorter than its header says");
	index_end = h->index_offset + h->nr_chunks * INDEX_SIZE;
	if (file_bytes - index_end != (index_end % MEM_PAGE_SIZE ? 0 : 8))
		return damaged(e, "it is longer than its header says");
	return 0;
}

int memzip_read_header(int fd, u64 file_bytes, struct memzip_header *out, struct err *e)
{
	u8 b[MEMZIP_HEADER_SIZE];
	int ret;

	if (file_bytes < sizeof(b))
		return err_set(e, -EINVAL, "the memory file is cut off: %llu bytes are neither whole pages nor a compressed file",
			       (unsigned long long)file_bytes);
	ret = read_bytes(fd, b, sizeof(b), 0, e);
	if (ret < 0)
		return ret;
	if (memcmp(b, MEMZIP_MAGIC, 8) != 0)
		return err_set(e, -EINVAL, "the memory file is cut off: %llu bytes are no whole pages, and it is not compressed",
			       (unsigned long long)file_bytes);
	if (ld_le32(b + 60) != crc_of(b, 60))
		return damaged(e, "the checksum of its header is wrong");
	if (ld_le32(b + 8) != VERSION)
		return err_set(e, -EINVAL, "the compressed memory file has version %u; this husk reads version %u", ld_le32(b + 8),
			       VERSION);
	*out = (struct memzip_header){
		.chunk_bytes = ld_le32(b + 12),
		.memory_bytes = ld_le64(b + 16),
		.nr_chunks = ld_le64(b + 24),
		.index_offset = ld_le64(b + 32),
		.index_crc = ld_le32(b + 40),
	};
	return check_header(out, file_bytes, e);
}

u64 memzip_chunk_bytes(const struct memzip *z, u64 i)
{
	return MIN(z->header.chunk_bytes, z->header.memory_bytes - i * z->header.chunk_bytes);
}

/* Takes chunk i, which begins at offset, from its entry of the index. */
static int take_chunk(struct memzip *z, u64 i, const u8 *entry, u64 offset, struct err *e)
{
	struct memzip_chunk *c = &z->chunks[i];
	u32 stored = ld_le32(entry);

	c->offset = offset;
	c->plain = stored & MEMZIP_PLAIN;
	c->stored = stored & ~MEMZIP_PLAIN;
	c->crc = ld_le32(entry + 4);
	if (c->plain ? c->stored != memzip_chunk_bytes(z, i) : c->stored >= memzip_chunk_bytes(z, i))
		return damaged(e, "a chunk of an impossible length");
	return offset + c->stored > z->header.index_offset ? damaged(e, "chunks that reach into the index") : 0;
}

/* Fills z->chunks from the index's bytes: the chunks must fill the file from header to index. */
static int read_chunks(struct memzip *z, const u8 *index, struct err *e)
{
	u64 offset = MEMZIP_HEADER_SIZE;

	for (u64 i = 0; i < z->header.nr_chunks; i++) {
		int ret = take_chunk(z, i, index + i * INDEX_SIZE, offset, e);

		if (ret < 0)
			return ret;
		offset += z->chunks[i].stored;
	}
	return offset == z->header.index_offset ? 0 : damaged(e, "bytes that belong to no chunk");
}

static int read_index(struct memzip *z, struct err *e)
{
	u64 len = z->header.nr_chunks * INDEX_SIZE;
	auto_free u8 *index = malloc(len);
	int ret;

	z->chunks = calloc(z->header.nr_chunks, sizeof(*z->chunks));
	if (!index || !z->chunks)
		return err_set(e, -ENOMEM, "no memory for the index of the memory file");
	ret = read_bytes(z->fd, index, len, z->header.index_offset, e);
	if (ret < 0)
		return ret;
	if (crc_of(index, len) != z->header.index_crc)
		return damaged(e, "the checksum of its index is wrong");
	return read_chunks(z, index, e);
}

/* All but the index. */
static int begin(struct memzip *z, int fd, struct err *e)
{
	z_stream *zlib;
	struct stat st;
	int ret;

	*z = (struct memzip){.fd = fd};
	if (fstat(fd, &st) < 0)
		return err_errno(e, "cannot read the memory file");
	ret = memzip_read_header(fd, (u64)st.st_size, &z->header, e);
	if (ret < 0)
		return ret;
	zlib = xzalloc(sizeof(*zlib));
	if (inflateInit(zlib) != Z_OK) {
		free(zlib);
		return err_set(e, -ENOMEM, "no memory to read the memory file with");
	}
	z->inflater = zlib;
	z->stored = xzalloc(MEMZIP_MAX_CHUNK);
	return 0;
}

int memzip_open(struct memzip *z, int fd, u64 memory_bytes, struct err *e)
{
	int ret = begin(z, fd, e);

	if (ret < 0)
		return ret;
	/* Before the index, whose size the file decides. */
	if (z->header.memory_bytes != memory_bytes)
		return err_set(e, -EINVAL, "the memory file holds %llu bytes, the state wants %llu: they do not belong together",
			       (unsigned long long)z->header.memory_bytes, (unsigned long long)memory_bytes);
	return read_index(z, e);
}

void memzip_close(struct memzip *z)
{
	if (z->inflater)
		inflateEnd(z->inflater);
	free(z->inflater);
	free(z->stored);
	free(z->chunks);
	*z = (struct memzip){.fd = -1};
}

/* Exactly len bytes, no more, from exactly what is stored. */
static bool unpack(struct memzip *z, const struct memzip_chunk *c, u8 *data, u64 len)
{
	z_stream *zlib = z->inflater;

	inflateReset(zlib);
	zlib->next_in = z->stored;
	zlib->avail_in = c->stored;
	zlib->next_out = data;
	zlib->avail_out = (uInt)len;
	return inflate(zlib, Z_FINISH) == Z_STREAM_END && !zlib->avail_out && !zlib->avail_in;
}

int memzip_read(struct memzip *z, u64 i, u8 *data, struct err *e)
{
	const struct memzip_chunk *c = &z->chunks[i];
	u64 len = memzip_chunk_bytes(z, i);
	bool good = true;
	int ret;

	if (!c->stored) {
		memset(data, 0, len);
		return 0;
	}
	ret = read_bytes(z->fd, c->plain ? data : z->stored, c->stored, c->offset, e);
	if (ret < 0)
		return ret;
	if (!c->plain)
		good = unpack(z, c, data, len);
	if (!good || crc_of(data, len) != c->crc)
		return err_set(e, -EINVAL, "the compressed memory file is damaged: chunk %llu, at offset %llu", (unsigned long long)i,
			       (unsigned long long)c->offset);
	return 0;
}

/* Puts a chunk's pages where they belong; zero ones are there already. */
static void place(const struct mem *m, const u8 *data, u64 len, u64 offset)
{
	for (u64 at = 0, room; at < len; at += MEM_PAGE_SIZE) {
		room = MEM_PAGE_SIZE;
		if (!memfile_is_zero(data + at))
			memcpy(memfile_at(m, offset + at, &room), data + at, MEM_PAGE_SIZE);
	}
}

int memfile_read_compressed(struct vm *vm, int fd, struct err *e)
{
	auto_free u8 *data = xzalloc(MEMZIP_MAX_CHUNK);
	struct memzip z;
	int ret = memzip_open(&z, fd, vm->mem.size, e);

	for (u64 i = 0; ret == 0 && i < z.header.nr_chunks; i++) {
		if (!z.chunks[i].stored)
			continue;
		ret = memzip_read(&z, i, data, e);
		if (ret == 0)
			place(&vm->mem, data, memzip_chunk_bytes(&z, i), i * z.header.chunk_bytes);
	}
	memzip_close(&z);
	return ret;
}

/* Of the index one entry only: nobody has said yet how much memory there is to be. */
static int head_of_compressed(int fd, u8 *out, size_t len, struct err *e)
{
	auto_free u8 *data = xzalloc(MEMZIP_MAX_CHUNK);
	u8 entry[INDEX_SIZE];
	struct memzip z;
	int ret = begin(&z, fd, e);

	if (ret == 0) {
		z.chunks = xzalloc(sizeof(*z.chunks));
		ret = read_bytes(fd, entry, sizeof(entry), z.header.index_offset, e);
	}
	if (ret == 0)
		ret = take_chunk(&z, 0, entry, MEMZIP_HEADER_SIZE, e);
	if (ret == 0)
		ret = memzip_read(&z, 0, data, e);
	if (ret == 0)
		memcpy(out, data, len);
	memzip_close(&z);
	return ret;
}

int memfile_head(int fd, void *out, size_t len, struct err *e)
{
	u64 bytes;
	int ret = memfile_probe(fd, &bytes, e);

	ASSERT(len <= MEM_PAGE_SIZE);
	if (ret < 0)
		return ret;
	if (ret == 1)
		return head_of_compressed(fd, out, len, e);
	return read_bytes(fd, out, len, 0, e);
}
