/*
 * page_set.h: a set of pages of guest memory, or of disks, one bit each, that several threads change at once (atomic words). Pages are
 * those of the migration: 4 KiB, or 2 MiB where memory is made of such. Regions that are files (virtio-pmem) have no pages in it.
 */
#ifndef HUSK_PAGE_SET_H
#define HUSK_PAGE_SET_H

#include "vmm/mem.h"

#define PAGE_SET_REGIONS 64u

struct page_set {
	u32 nr_regions, page_shift;
	struct page_set_region {
		u64 *bits; /* owned; NULL: no pages */
		u32 nr;	   /* pages */
	} regions[PAGE_SET_REGIONS];
	u64 count; /* atomic: pages in the set */
};

/* Empty. -ENOMEM; -EINVAL: more than 2^31 pages in a region. */
int page_set_init(struct page_set *s, const struct mem *m, u32 page_shift, struct err *e) MUST_CHECK;
/* The same with regions of so many bytes, whose last page may be a part of one; nr: at most PAGE_SET_REGIONS. */
int page_set_init_bytes(struct page_set *s, const u64 *bytes, u32 nr, u32 page_shift, struct err *e) MUST_CHECK;
void page_set_fini(struct page_set *s); /* accepts zeroed */

static inline bool page_set_has(const struct page_set *s, u32 region, u32 page)
{
	return __atomic_load_n(&s->regions[region].bits[page / 64], __ATOMIC_ACQUIRE) >> page % 64 & 1;
}
/* Whether the region has such a page: for numbers from the peer. */
static inline bool page_set_valid(const struct page_set *s, u32 region, u32 page)
{
	return region < s->nr_regions && page < s->regions[region].nr;
}
/* Return whether that changed anything: of several who take a page, one gets it. */
bool page_set_add(struct page_set *s, u32 region, u32 page);
bool page_set_take(struct page_set *s, u32 region, u32 page);
void page_set_fill(struct page_set *s);
void page_set_clear(struct page_set *s);
u64 page_set_count(const struct page_set *s);
/* ORs a bitmap of 4 KiB pages of the region (mem_bitmap_words) in, as mem_track_collect and dirty_get give it. */
void page_set_add_bitmap(struct page_set *s, u32 region, const u64 *bitmap, u64 words);
/* Next page of the region from `from` on; UINT32_MAX: none. */
u32 page_set_next(const struct page_set *s, u32 region, u32 from);
/* Sets the words of pages [first, first + nr) of the region to these (little-endian, as in a MISSING frame). first: multiple of 64 */
void page_set_put(struct page_set *s, u32 region, u32 first, u32 nr, const u8 *bits);

#endif
