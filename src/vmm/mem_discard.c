/*
 * mem_discard.c: giving guest memory back to the host; see mem.h.
 *
 * The pages are punched out of the memfd, so they are gone for whoever maps it. Where a boot image lies over the RAM its private mapping
 * goes too: dropping only its pages (MADV_DONTNEED) would show the file again. Who fetches pages is told before: what it brought until then
 * goes as well.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "vmm/mem.h"

/* Each piece taken out of an image can cost two mappings, of which a process has 65,530; a guest that gives up every other page of a large
 * initrd, or of restored memory, shall not use them up. */
#define MAX_UNCOVERED 8192u

static bool is_gone(const struct mem_image *img, u64 page)
{
	return img->gone[page / 64] >> page % 64 & 1;
}

/* Pages [first, end) were zero when the file was written (a snapshot's memory): dropping the guest's own makes them so again, and needs no
 * mapping of theirs. */
static bool show_hole(const struct mem_image *img, u8 *hva, u64 first, u64 end)
{
	u64 at = img->offset + first * MEM_PAGE_SIZE, behind = img->offset + end * MEM_PAGE_SIZE;

	return mem_file_data(img->fd, at, behind) == behind && madvise(hva, behind - at, MADV_DONTNEED) == 0;
}

/* Takes pages [first, end) of the image away. Beyond MAX_UNCOVERED, when the host refuses, or while the VM is moving, they are only
 * cleared: no memory comes back of these, but the guest cannot tell. The address stays mapped throughout. ctx: image_lock held */
static void uncover(struct mem *m, struct mem_image *img, const struct mem_region *r, u64 first, u64 end)
{
	u64 offset = img->gpa - r->gpa + first * MEM_PAGE_SIZE, len = (end - first) * MEM_PAGE_SIZE;
	u32 joined = (first && is_gone(img, first - 1)) + (end < img->len / MEM_PAGE_SIZE && is_gone(img, end));
	int flags = MAP_SHARED | MAP_NORESERVE | MAP_FIXED;

	if (show_hole(img, r->hva + offset, first, end))
		return;
	if (m->moving || (m->nr_uncovered == MAX_UNCOVERED && !joined) ||
	    mmap(r->hva + offset, len, PROT_READ | PROT_WRITE, flags, m->fd, (off_t)(r->fd_offset + offset)) == MAP_FAILED) {
		memset(r->hva + offset, 0, len);
		return;
	}
	madvise(r->hva + offset, len, MADV_DONTDUMP);
	m->nr_uncovered += 1 - joined; /* the kernel makes one of those side by side */
	for (u64 page = first; page < end; page++)
		img->gone[page / 64] |= BIT(page % 64);
}

/* What images have of [gpa, end). An image lies in one region, with whole pages. ctx: image_lock held */
static void uncover_range(struct mem *m, const struct mem_region *r, u64 gpa, u64 end)
{
	for (u32 i = 0; i < m->nr_images; i++) {
		struct mem_image *img = &m->images[i];
		u64 lo = MAX(gpa, img->gpa), hi = MIN(end, img->gpa + img->len), page, last, run;

		if (lo >= hi)
			continue;
		last = (hi - img->gpa) / MEM_PAGE_SIZE;
		for (page = (lo - img->gpa) / MEM_PAGE_SIZE; page < last; page = run) {
			for (run = page; run < last && !is_gone(img, run);)
				run++;
			if (run > page)
				uncover(m, img, r, page, run);
			else
				run++;
		}
	}
}

/* The part of [gpa, end) that lies in the region. */
static int discard_in(struct mem *m, const struct mem_region *r, u64 gpa, u64 end, struct err *e)
{
	u64 unit = m->huge == MEM_HUGE_2M ? 2 * MIB : MEM_PAGE_SIZE, lo, hi;
	const struct mem_fetch *f = mem_fetch(m);

	lo = ALIGN_UP(gpa - r->gpa, unit);
	hi = ALIGN_DOWN(end - r->gpa, unit);
	if (lo >= hi)
		return 0;
	if (f)
		f->discard(f->opaque, r, lo >> MEM_PAGE_SHIFT, (hi - lo) >> MEM_PAGE_SHIFT);
	pthread_mutex_lock(&m->image_lock);
	uncover_range(m, r, r->gpa + lo, r->gpa + hi);
	pthread_mutex_unlock(&m->image_lock);
	/* Through the mapping: a pager is told, and the call returns when it knows. */
	if (mem_is_lazy(m) ? madvise(r->hva + lo, hi - lo, MADV_REMOVE) < 0
			   : fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(r->fd_offset + lo), (off_t)(hi - lo)) < 0)
		return err_errno(e, "the host does not take guest memory back");
	if (__atomic_load_n(&m->moving, __ATOMIC_ACQUIRE))
		mem_dirty(m, r->gpa + lo, hi - lo);
	else if (m->on_write)
		m->on_write(m->on_write_opaque, r->gpa + lo, hi - lo);
	return 0;
}

int mem_discard(struct mem *m, u64 gpa, u64 len, struct err *e)
{
	const struct mem_region *r;
	u64 end, at;
	int ret = 0;

	if (__builtin_add_overflow(gpa, len, &end) || gpa % MEM_PAGE_SIZE || len % MEM_PAGE_SIZE)
		return err_set(e, -EFAULT, "not whole pages of guest memory");
	for (at = gpa; at < end; at = r->gpa + r->size) {
		r = mem_find(m, at, 1);
		if (!r || r->file)
			return err_set(e, -EFAULT, "outside of guest memory");
	}
	for (at = gpa; at < end && ret == 0; at = r->gpa + r->size) {
		r = mem_find(m, at, 1);
		ret = discard_in(m, r, at, MIN(end, r->gpa + r->size), e);
	}
	return ret;
}
