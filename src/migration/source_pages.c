/* source_pages.c: which pages are to be sent, which are missing, and their digests; see source_impl.h. */
#include <errno.h>
#include <stdlib.h>

#include "migration/memfile_impl.h"
#include "migration/source_impl.h"
#include "vmm/base/crc32c.h"
#include "vmm/clock.h"
#include "vmm/config.h"

#define WALK_RUN (64 * MIB)

int source_pages_init(struct source *s, struct err *e)
{
	u32 shift = s->vm->mem.huge == MEM_HUGE_2M ? 21 : MEM_PAGE_SHIFT;
	int ret = page_set_init(&s->pages, &s->vm->mem, shift, e);

	for (u32 i = 0; ret == 0 && i < s->vm->mem.nr_regions; i++) {
		const struct mem_region *r = &s->vm->mem.regions[i];

		s->bitmap[i] = r->file ? NULL : calloc(mem_bitmap_words(r), sizeof(u64));
		if (!r->file && !s->bitmap[i])
			ret = err_set(e, -ENOMEM, "no memory for a bitmap of dirty pages");
	}
	pthread_mutex_lock(&s->lock);
	s->has_pages = ret == 0;
	pthread_mutex_unlock(&s->lock);
	return ret;
}

void source_pages_fini(struct source *s)
{
	pthread_mutex_lock(&s->lock);
	s->has_pages = false;
	pthread_mutex_unlock(&s->lock);
	page_set_fini(&s->pages);
	for (u32 i = 0; i < MEM_MAX_REGIONS; i++) {
		free(s->bitmap[i]);
		free(s->only[i]);
		s->bitmap[i] = s->only[i] = NULL;
	}
}

/* ---- dirty pages; ctx: loop ---- */

int source_collect(struct source *s, struct err *e)
{
	struct mem *m = &s->vm->mem;
	int ret = 0;

	for (u32 i = 0; ret == 0 && i < m->nr_regions; i++) {
		struct mem_region *r = &m->regions[i];
		u64 words = mem_bitmap_words(r);

		if (r->file || !source_sends_pages(s))
			continue;
		memset(s->bitmap[i], 0, words * sizeof(u64));
		mem_track_collect(r, s->bitmap[i]);
		ret = s->vm->accel->dirty_get(s->vm, r, s->bitmap[i], e);
		if (ret < 0)
			return ret;
		for (u64 w = 0; s->only[i] && w < words; w++)
			s->bitmap[i][w] &= s->only[i][w];
		page_set_add_bitmap(&s->pages, i, s->bitmap[i], words);
	}
	source_disks_collect(s);
	return ret;
}

/*
 * Mode local: only what images have is sent. Below them the memfd may still hold what an earlier attempt has put there; it goes, since
 * pages of zeroes are not written.
 */
static int limit_to_images(struct source *s, struct err *e)
{
	struct mem *m = &s->vm->mem;

	for (u32 i = 0; i < m->nr_regions; i++) {
		const struct mem_region *r = &m->regions[i];

		if (r->file)
			continue;
		s->only[i] = s->only[i] ?: xzalloc(mem_bitmap_words(r) * sizeof(u64));
		mem_image_pages(m, r, s->only[i]);
	}
	return mem_clear_below_images(m, e);
}

/* The record of husk's own writes stays on for good: it costs little, and who writes could not be told apart. */
int source_track(struct source *s, struct err *e)
{
	struct mem *m = &s->vm->mem;
	int ret;

	if (!source_sends_pages(s))
		return 0;
	ret = m->regions[0].vmm_dirty ? 0 : mem_track(m, true, e);

	if (ret == 0 && !s->vm->config->machine->track_dirty_pages) {
		ret = s->vm->accel->dirty_log(s->vm, true, e);
		s->logging = ret == 0;
	}
	if (ret < 0)
		return ret;
	mem_set_moving(m, true);
	ret = s->passed ? limit_to_images(s, e) : 0;
	if (ret == 0)
		ret = source_collect(s, e); /* of before: everything in use is sent anyway */
	page_set_clear(&s->pages);
	source_disks_track(s, true);
	s->vm->memory_id = 0; /* the next diff snapshot has nothing to build on */
	s->collected_ns = clock_host_ns();
	return ret;
}

void source_untrack(struct source *s)
{
	struct err e;

	mem_set_moving(&s->vm->mem, false);
	source_disks_track(s, false);
	if (s->logging && s->vm->accel->dirty_log(s->vm, false, &e) < 0)
		log_warn(s->vm->log, "migration: %s", e.msg);
	s->logging = false;
}

/* ---- pages in use ---- */

static void add_run(struct source *s, u32 region, const struct mem_run *run)
{
	struct page_set *set = &s->pages;
	u64 end = (run->end + BIT(set->page_shift) - 1) >> set->page_shift;
	const u64 *only = s->only[region];

	for (u64 page = run->start >> set->page_shift; page < end && page < set->regions[region].nr; page++) {
		if (!only || only[page / 64] >> page % 64 & 1)
			page_set_add(set, region, (u32)page);
	}
}

int source_add_used(struct source *s, struct err *e)
{
	struct memfile_walk *w = xzalloc(sizeof(*w));
	const struct mem *m = &s->vm->mem;
	struct mem_run run;
	int ret = 0;

	for (u32 i = 0; ret == 0 && i < m->nr_regions; i++) {
		if (m->regions[i].file || !source_sends_pages(s))
			continue;
		memfile_walk_init(w, m, &m->regions[i]);
		while (ret == 0 && memfile_walk_next(w, WALK_RUN, &run)) {
			add_run(s, i, &run);
			ret = source_interrupted(s, e);
		}
	}
	free(w);
	return ret;
}

/* ---- missing pages ---- */

int source_send_missing(struct source *s, struct err *e)
{
	int ret = 0;

	for (u32 i = 0; ret == 0 && i < s->pages.nr_regions; i++) {
		const struct page_set_region *r = &s->pages.regions[i];
		u32 page = r->nr ? page_set_next(&s->pages, i, 0) : UINT32_MAX;

		while (ret == 0 && page != UINT32_MAX) {
			u32 first = ALIGN_DOWN(page, WIRE_BITS_PER_FRAME), nr = MIN(r->nr - first, WIRE_BITS_PER_FRAME);
			struct wire_bits b = {.region = (u16)i, .first = first, .nr = nr, .bits = (const u8 *)(r->bits + first / 64)};

			ret = wire_send_bits(&s->control, &b, e);
			page = first + nr < r->nr ? page_set_next(&s->pages, i, first + nr) : UINT32_MAX;
		}
	}
	return ret;
}

static int take_missing(struct source *s, const struct frame *f, struct err *e)
{
	struct wire_bits b;
	int ret = wire_get_bits(f, &b, e);

	if (ret < 0)
		return ret;
	if (!page_set_valid(&s->pages, b.region, b.first) || b.nr > s->pages.regions[b.region].nr - b.first)
		return err_set(e, -EPROTO, "frame MISSING: pages %u to %llu of region %u: there are none", b.first,
			       (unsigned long long)b.first + b.nr, b.region);
	page_set_put(&s->pages, b.region, b.first, b.nr, b.bits);
	return 0;
}

int source_receive_missing(struct source *s, struct err *e)
{
	struct frame f;
	int ret;

	page_set_clear(&s->pages);
	while ((ret = source_receive(s, 0, &f, e)) == 0 && f.type == FRAME_MISSING) {
		ret = take_missing(s, &f, e);
		if (ret < 0)
			return ret;
	}
	if (ret == 0 && f.type != FRAME_SYNCED)
		return err_set(e, -EPROTO, "the destination sent frame %s where MISSING or SYNCED has to come", frame_name(f.type));
	return ret;
}

/* ---- digests ---- */

/* A region's runs in use, as far as digests were made. */
struct digester {
	struct source *s;
	u32 region;
	struct memfile_walk walk;
	struct mem_run run;
	bool more; /* run is one */
	u32 zero;  /* of a page that nobody has used */
	u32 crcs[WIRE_DIGEST_PAGES];
};

static u32 zero_digest(const struct source *s)
{
	auto_free void *zeroes = xzalloc(source_page_size(s));

	return crc32c(0, zeroes, source_page_size(s));
}

/* Of pages [first, end). */
static void digest_pages(struct digester *d, u64 first, u64 end)
{
	const struct source *s = d->s;
	u64 size = source_page_size(s);
	const u8 *hva = s->vm->mem.regions[d->region].hva;

	for (u64 page = first; page < end; page++)
		d->crcs[page - first] = d->zero;
	while (d->more && d->run.start < end * size) {
		for (u64 page = MAX(d->run.start / size, first); page < MIN((d->run.end + size - 1) / size, end); page++)
			d->crcs[page - first] = crc32c(0, hva + page * size, size);
		if (d->run.end > end * size)
			return; /* the rest of it is for the next call */
		d->more = memfile_walk_next(&d->walk, WALK_RUN, &d->run);
	}
}

static int send_region_digests(struct digester *d, struct err *e)
{
	struct source *s = d->s;
	u32 nr = s->pages.regions[d->region].nr;
	int ret = 0;

	memfile_walk_init(&d->walk, &s->vm->mem, &s->vm->mem.regions[d->region]);
	d->more = memfile_walk_next(&d->walk, WALK_RUN, &d->run);
	for (u32 first = 0; ret == 0 && first < nr; first += WIRE_DIGEST_PAGES) {
		struct wire_digests out = {
			.region = (u16)d->region, .first = first, .nr = MIN(nr - first, WIRE_DIGEST_PAGES), .digests = (const u8 *)d->crcs};

		digest_pages(d, first, first + out.nr);
		ret = wire_send_digests(&s->control, &out, e);
	}
	return ret;
}

int source_send_digests(struct source *s, struct err *e)
{
	auto_free struct digester *d = xzalloc(sizeof(*d));
	struct wire_digests end = {0};
	int ret = 0;

	d->s = s;
	d->zero = zero_digest(s);
	for (u32 i = 0; ret == 0 && i < s->pages.nr_regions; i++) {
		d->region = i;
		ret = s->pages.regions[i].nr ? send_region_digests(d, e) : 0;
	}
	if (ret == 0)
		ret = source_send_disk_digests(s, e);
	return ret == 0 ? wire_send_digests(&s->control, &end, e) : ret;
}
