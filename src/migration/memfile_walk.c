/* memfile_walk.c: which parts of guest memory are in use; see memfile_impl.h. */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "migration/memfile_impl.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif

int memfile_pwrite(int fd, const void *data, u64 len, u64 offset)
{
	for (u64 done = 0; done < len;) {
		ssize_t n = pwrite(fd, (const u8 *)data + done, len - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		done += (u64)n;
	}
	return 0;
}

int memfile_pread(int fd, void *data, u64 len, u64 offset)
{
	for (u64 done = 0; done < len;) {
		ssize_t n = pread(fd, (u8 *)data + done, len - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		done += (u64)n;
	}
	return 0;
}

static struct memfile_source *add_source(struct memfile_walk *w, int kind, u64 start, u64 end)
{
	struct memfile_source *s = &w->sources[w->nr++];

	s->kind = kind;
	s->start = s->scanned = start;
	s->end = end;
	s->lo = start;
	s->hi = 0; /* ends before anything: the first look brings the first run */
	s->nr = s->next = 0;
	return s;
}

void memfile_walk_init(struct memfile_walk *w, const struct mem *m, const struct mem_region *r)
{
	struct memfile_source *s;

	w->m = m;
	w->r = r;
	w->at = 0;
	w->nr = 0;
	if (mem_is_lazy(m)) {
		add_source(w, MEMFILE_ALL, 0, r->size);
		return;
	}
	s = add_source(w, MEMFILE_FILE, 0, r->size);
	s->fd = m->fd;
	s->file_offset = r->fd_offset;
	for (u32 i = 0; i < m->nr_images; i++) {
		const struct mem_image *img = &m->images[i];
		u64 start = img->gpa - r->gpa;

		if (start >= r->size)
			continue;
		s = add_source(w, MEMFILE_FILE, start, start + img->len);
		s->fd = img->fd;
		s->file_offset = img->offset;
		add_source(w, MEMFILE_PRIVATE, start, start + img->len);
	}
}

static void next_extent(struct memfile_source *s, u64 at)
{
	u64 base = s->file_offset - s->start, end = base + s->end; /* wraps: file offset of the region's first byte */

	s->lo = mem_file_data(s->fd, base + at, end);
	s->hi = ALIGN_UP(mem_file_hole(s->fd, s->lo, end), MEM_PAGE_SIZE) - base;
	s->lo = ALIGN_DOWN(s->lo, MEM_PAGE_SIZE) - base;
}

static void next_private(const struct memfile_walk *w, struct memfile_source *s)
{
	while (s->next == s->nr && s->scanned < s->end) {
		s->nr = mem_scan(w->m, w->r, MEM_SCAN_PRIVATE, s->scanned, s->end, s->runs, MEMFILE_WALK_RUNS, &s->scanned);
		s->next = 0;
	}
	s->lo = s->hi = s->end;
	if (s->next < s->nr) {
		s->lo = s->runs[s->next].start;
		s->hi = s->runs[s->next++].end;
	}
}

/* Brings the source to its first run that ends behind `at`. */
static void catch_up(const struct memfile_walk *w, struct memfile_source *s)
{
	while (s->lo < s->end && s->hi <= w->at) {
		if (w->at >= s->end)
			s->lo = s->end;
		else if (s->kind == MEMFILE_ALL)
			s->hi = s->end;
		else if (s->kind == MEMFILE_FILE)
			next_extent(s, MAX(w->at, s->start));
		else
			next_private(w, s);
	}
}

bool memfile_walk_next(struct memfile_walk *w, u64 most, struct mem_run *out)
{
	const struct memfile_source *first = NULL;

	for (u32 i = 0; i < w->nr; i++) {
		struct memfile_source *s = &w->sources[i];

		catch_up(w, s);
		if (s->lo < s->end && (!first || s->lo < first->lo))
			first = s;
	}
	if (!first)
		return false;
	out->start = MAX(first->lo, w->at);
	out->end = MIN(first->hi, out->start + most);
	w->at = out->end;
	return true;
}

u8 *memfile_at(const struct mem *m, u64 offset, u64 *len)
{
	for (u32 i = 0; i < m->nr_regions; i++) {
		const struct mem_region *r = &m->regions[i];

		if (!r->file && offset - r->fd_offset < r->size) {
			*len = MIN(*len, r->size - (offset - r->fd_offset));
			return r->hva + (offset - r->fd_offset);
		}
	}
	return NULL;
}

static bool in_image(const struct mem *m, u64 gpa)
{
	for (u32 i = 0; i < m->nr_images; i++) {
		if (gpa - m->images[i].gpa < m->images[i].len)
			return true;
	}
	return false;
}

const u8 *memfile_look(const struct mem *m, const struct mem_region *r, const struct mem_run *run, u8 *bounce)
{
	u8 *p = r->hva + run->start;
	u64 len = run->end - run->start;

	if (m->huge == MEM_HUGE_2M && !mem_is_lazy(m))
		return memfile_pread(m->fd, bounce, len, r->fd_offset + run->start) < 0 ? NULL : bounce;
	if (in_image(m, r->gpa + run->start))
		madvise(p, len, MADV_POPULATE_READ); /* one fault instead of one per 64 KiB; what fails here fails below */
	return p;
}
