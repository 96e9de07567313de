/* page_set.c: see page_set.h. */
#include "migration/page_set.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static u32 words(const struct page_set_region *r)
{
	return (r->nr + 63) / 64;
}

/* Bits of word w that are pages. */
static u64 valid_bits(const struct page_set_region *r, u32 w)
{
	return (w + 1) * 64ull <= r->nr ? UINT64_MAX : BIT(r->nr % 64) - 1;
}

static int make_region(struct page_set *s, u32 region, u64 nr, struct err *e)
{
	struct page_set_region *r = &s->regions[region];

	if (nr >= BIT(31))
		return err_set(e, -EINVAL, "a region of %llu pages of %llu bytes is too large to be moved", (unsigned long long)nr,
			       1ull << s->page_shift);
	if (!nr)
		return 0;
	r->nr = (u32)nr;
	r->bits = calloc(words(r), sizeof(u64));
	return r->bits ? 0 : err_set(e, -ENOMEM, "no memory for a set of pages");
}

int page_set_init(struct page_set *s, const struct mem *m, u32 page_shift, struct err *e)
{
	int ret = 0;

	*s = (struct page_set){.nr_regions = m->nr_regions, .page_shift = page_shift};
	for (u32 i = 0; ret == 0 && i < m->nr_regions; i++) {
		u64 nr = m->regions[i].file ? 0 : m->regions[i].size >> page_shift;

		if (nr << page_shift != m->regions[i].size && !m->regions[i].file)
			ret = err_set(e, -EINVAL, "memory region %u of %llu bytes cannot be moved in pages of %llu", i,
				      (unsigned long long)m->regions[i].size, 1ull << page_shift);
		else
			ret = make_region(s, i, nr, e);
	}
	if (ret < 0)
		page_set_fini(s);
	return ret;
}

int page_set_init_bytes(struct page_set *s, const u64 *bytes, u32 nr, u32 page_shift, struct err *e)
{
	int ret = 0;

	ASSERT(nr <= PAGE_SET_REGIONS);
	*s = (struct page_set){.nr_regions = nr, .page_shift = page_shift};
	for (u32 i = 0; ret == 0 && i < nr; i++)
		ret = make_region(s, i, (bytes[i] >> page_shift) + !!(bytes[i] & (BIT(page_shift) - 1)), e);
	if (ret < 0)
		page_set_fini(s);
	return ret;
}

void page_set_fini(struct page_set *s)
{
	for (u32 i = 0; i < s->nr_regions; i++)
		free(s->regions[i].bits);
	*s = (struct page_set){0};
}

bool page_set_add(struct page_set *s, u32 region, u32 page)
{
	u64 bit = BIT(page % 64);

	if (__atomic_fetch_or(&s->regions[region].bits[page / 64], bit, __ATOMIC_ACQ_REL) & bit)
		return false;
	__atomic_fetch_add(&s->count, 1, __ATOMIC_ACQ_REL);
	return true;
}

bool page_set_take(struct page_set *s, u32 region, u32 page)
{
	u64 bit = BIT(page % 64);

	if (!(__atomic_fetch_and(&s->regions[region].bits[page / 64], ~bit, __ATOMIC_ACQ_REL) & bit))
		return false;
	__atomic_fetch_sub(&s->count, 1, __ATOMIC_ACQ_REL);
	return true;
}

static void set_word(struct page_set *s, struct page_set_region *r, u32 w, u64 to)
{
	u64 old = __atomic_exchange_n(&r->bits[w], to & valid_bits(r, w), __ATOMIC_ACQ_REL);

	__atomic_fetch_add(&s->count, (u64)__builtin_popcountll(to & valid_bits(r, w)) - (u64)__builtin_popcountll(old), __ATOMIC_ACQ_REL);
}

static void set_all(struct page_set *s, u64 to)
{
	for (u32 i = 0; i < s->nr_regions; i++) {
		for (u32 w = 0; w < words(&s->regions[i]); w++)
			set_word(s, &s->regions[i], w, to);
	}
}

void page_set_fill(struct page_set *s)
{
	set_all(s, UINT64_MAX);
}

void page_set_clear(struct page_set *s)
{
	set_all(s, 0);
}

u64 page_set_count(const struct page_set *s)
{
	return __atomic_load_n(&s->count, __ATOMIC_ACQUIRE);
}

void page_set_add_bitmap(struct page_set *s, u32 region, const u64 *bitmap, u64 nr_words)
{
	u32 shift = s->page_shift - MEM_PAGE_SHIFT;

	for (u64 w = 0; w < nr_words; w++) {
		for (u64 left = bitmap[w]; left; left &= left - 1) {
			u64 page = (w * 64 + (u64)__builtin_ctzll(left)) >> shift;

			if (page < s->regions[region].nr)
				page_set_add(s, region, (u32)page);
		}
	}
}

u32 page_set_next(const struct page_set *s, u32 region, u32 from)
{
	const struct page_set_region *r = &s->regions[region];

	for (u32 w = from / 64; w < words(r); w++) {
		u64 bits = __atomic_load_n(&r->bits[w], __ATOMIC_ACQUIRE);

		if (w == from / 64)
			bits &= UINT64_MAX << from % 64;
		if (bits)
			return w * 64 + (u32)__builtin_ctzll(bits);
	}
	return UINT32_MAX;
}

void page_set_put(struct page_set *s, u32 region, u32 first, u32 nr, const u8 *bits)
{
	struct page_set_region *r = &s->regions[region];

	ASSERT(first % 64 == 0 && first <= r->nr && nr <= r->nr - first);
	for (u32 i = 0; i < (nr + 63) / 64; i++) {
		u64 to = ld_le64(bits + i * 8), mask = nr - i * 64 >= 64 ? UINT64_MAX : BIT(nr % 64) - 1;

		set_word(s, r, first / 64 + i, (r->bits[first / 64 + i] & ~mask) | (to & mask));
	}
}
