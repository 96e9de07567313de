/* memfile.c: writes guest memory to plain files and maps them again; see memfile.h. */
#include "migration/memfile.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migration/memfile_impl.h"

/* ---- writing ---- */

/* The first runs that a diff has, to be found again in the file: holes must be where nothing was written. */
#define MAX_PROOFS 256u

struct writer {
	int fd;
	struct memfile_stats stats;
	struct mem_run proofs[MAX_PROOFS];
	u32 nr_proofs;
};

static int write_run(struct writer *w, const u8 *data, u64 len, u64 offset, struct err *e)
{
	int ret = memfile_pwrite(w->fd, data, len, offset);

	if (ret < 0)
		return err_set(e, ret, "cannot write the memory file: %s", strerror(-ret));
	w->stats.bytes += len;
	return 0;
}

/* Writes those of the pages that are not zero. */
static int write_nonzero(struct writer *w, const u8 *data, u64 len, u64 offset, struct err *e)
{
	int ret = 0;

	for (u64 at = 0, run; ret == 0 && at < len; at = run) {
		bool zero = memfile_is_zero(data + at);

		for (run = at + MEM_PAGE_SIZE; run < len && memfile_is_zero(data + run) == zero;)
			run += MEM_PAGE_SIZE;
		w->stats.pages += (run - at) / MEM_PAGE_SIZE;
		if (zero)
			w->stats.zero_pages += (run - at) / MEM_PAGE_SIZE;
		else
			ret = write_run(w, data + at, run - at, offset + at, e);
	}
	return ret;
}

static int set_length(int fd, u64 bytes, struct err *e)
{
	if (ftruncate(fd, (off_t)bytes) < 0)
		return err_errno(e, "cannot make the memory file %llu MiB long", (unsigned long long)(bytes / MIB));
	return 0;
}

static int write_region(struct writer *w, const struct mem *m, const struct mem_region *r, u8 *bounce, struct err *e)
{
	struct memfile_walk *walk = xzalloc(sizeof(*walk));
	struct mem_run run;
	int ret = 0;

	memfile_walk_init(walk, m, r);
	while (ret == 0 && memfile_walk_next(walk, MEMFILE_PIECE, &run)) {
		const u8 *data = memfile_look(m, r, &run, bounce);

		ret = data ? write_nonzero(w, data, run.end - run.start, r->fd_offset + run.start, e)
			   : err_set(e, -EIO, "the host cannot read the guest's memory");
	}
	free(walk);
	return ret;
}

int memfile_write_full(struct vm *vm, int fd, struct memfile_stats *out, struct err *e)
{
	const struct mem *m = &vm->mem;
	struct writer *w = xzalloc(sizeof(*w));
	auto_free u8 *bounce = xzalloc(MEMFILE_PIECE);
	int ret = set_length(fd, m->size, e);

	w->fd = fd;
	for (u32 i = 0; ret == 0 && i < m->nr_regions; i++) {
		if (!m->regions[i].file)
			ret = write_region(w, m, &m->regions[i], bounce, e);
	}
	*out = w->stats;
	free(w);
	return ret;
}

/* ---- diffs ---- */

/* First page at or behind `page` whose bit is `set`; nr when there is none. */
static u64 find_bit(const u64 *bits, u64 page, u64 nr, bool set)
{
	while (page < nr) {
		u64 word = (set ? bits[page / 64] : ~bits[page / 64]) >> page % 64;

		if (word)
			return MIN(page + (u64)__builtin_ctzll(word), nr);
		page = ALIGN_DOWN(page, 64) + 64;
	}
	return nr;
}

static void note_proof(struct writer *w, u64 start, u64 end)
{
	if (w->nr_proofs && w->proofs[w->nr_proofs - 1].end == start)
		w->proofs[w->nr_proofs - 1].end = end;
	else if (w->nr_proofs < MAX_PROOFS)
		w->proofs[w->nr_proofs++] = (struct mem_run){start, end};
}

static int write_dirty(struct writer *w, const struct mem_region *r, const u64 *dirty, struct err *e)
{
	u64 nr = r->size >> MEM_PAGE_SHIFT, end;
	int ret = 0;

	for (u64 page = find_bit(dirty, 0, nr, true); ret == 0 && page < nr; page = find_bit(dirty, end, nr, true)) {
		u64 start = page * MEM_PAGE_SIZE, len;

		end = MIN(find_bit(dirty, page, nr, false), page + MEMFILE_PIECE / MEM_PAGE_SIZE);
		len = (end - page) * MEM_PAGE_SIZE;
		note_proof(w, r->fd_offset + start, r->fd_offset + start + len);
		w->stats.pages += end - page;
		ret = write_run(w, r->hva + start, len, r->fd_offset + start, e);
	}
	return ret;
}

/* A file system that keeps data in larger pieces fills the gaps between changed pages with zeroes, which a merge would take for the
 * guest's. */
static int check_holes(const struct writer *w, u64 size, struct err *e)
{
	bool good = true;
	u64 at = 0;

	for (u32 i = 0; good && i < w->nr_proofs; i++) {
		u64 data = mem_file_data(w->fd, at, size);

		at = mem_file_hole(w->fd, data, size);
		good = data == w->proofs[i].start && at == w->proofs[i].end;
	}
	if (good && w->nr_proofs < MAX_PROOFS)
		good = mem_file_data(w->fd, at, size) == size;
	if (!good)
		return err_set(e, -EOPNOTSUPP,
			       "the memory file's file system does not keep holes between pages of 4 KiB, so that a diff cannot be told "
			       "from its base: write it to another one (ext4, XFS, Btrfs), or take a full snapshot");
	return 0;
}

int memfile_write_diff(struct vm *vm, int fd, u64 *const *dirty, struct memfile_stats *out, struct err *e)
{
	const struct mem *m = &vm->mem;
	struct writer *w = xzalloc(sizeof(*w));
	int ret = set_length(fd, m->size, e);

	w->fd = fd;
	for (u32 i = 0; ret == 0 && i < m->nr_regions; i++) {
		if (!m->regions[i].file && dirty[i])
			ret = write_dirty(w, &m->regions[i], dirty[i], e);
	}
	if (ret == 0)
		ret = check_holes(w, m->size, e);
	*out = w->stats;
	free(w);
	return ret;
}

/* ---- restore ---- */

int memfile_map(struct vm *vm, int fd, bool eager, struct err *e)
{
	struct mem *m = &vm->mem;
	u64 bytes;
	int ret = memfile_probe(fd, &bytes, e);

	if (ret < 0)
		return ret;
	if (ret == 1)
		return err_set(e, -EINVAL, "the memory file is compressed: it cannot be mapped");
	if (bytes != m->size)
		return err_set(e, -EINVAL, "the memory file has %llu bytes, the state wants %llu: they do not belong together",
			       (unsigned long long)bytes, (unsigned long long)m->size);
	ret = 0;
	for (u32 i = 0; ret == 0 && i < m->nr_regions; i++) {
		if (!m->regions[i].file)
			ret = mem_overlay(m, &m->regions[i], fd, m->regions[i].fd_offset, eager, e);
	}
	return ret < 0 ? err_prefix(e, "the memory file") : 0;
}

bool memfile_backs(const struct vm *vm, int fd)
{
	return mem_is_backed_by(&vm->mem, fd);
}
