/* source_batch.c: one frame of pages: copied, looked at, compressed where that pays, sent when its time has come; see source_impl.h. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "migration/source_impl.h"
#include "vmm/clock.h"

#define STAGING	    (2 * MIB) /* a page of 2 MiB; 256 of 4 KiB are less */
#define MAX_BACKOFF 64u
#define NAP_NS	    (20 * NSEC_PER_MSEC)

void batch_init(struct sender *b)
{
	b->staging = xzalloc(STAGING);
	b->has_zip = false;
	b->zip_skip = b->zip_backoff = 0;
	if (b->s->params.compress && b->index < b->s->params.nr_bulk) {
		b->packed = xzalloc(STAGING);
		b->zip = (z_stream){0};
		b->has_zip = deflateInit(&b->zip, 1) == Z_OK;
	}
}

void batch_fini(struct sender *b)
{
	if (b->has_zip)
		deflateEnd(&b->zip);
	b->has_zip = false;
	free(b->staging);
	free(b->packed);
	b->staging = b->packed = NULL;
}

static bool is_zero(const u8 *page, u64 size)
{
	return !ld_le64(page) && !memcmp(page, page + 8, size - 8);
}

/*
 * The guest may be writing there. A page that it changes after it was taken is dirty again, so a mixture does no harm, but what is sent
 * must not change between the CRC and the network: it is copied first.
 */
static void add_page(struct sender *b, u32 region, u32 page)
{
	struct wire_pages *p = &b->batch;
	u64 size = source_page_size(b->s);
	const u8 *live = b->s->vm->mem.regions[region].hva + page * size;

	if (is_zero(live, size)) {
		p->numbers[p->nr++] = page | (u32)WIRE_ZERO_PAGE;
		return;
	}
	memcpy(b->staging + p->data_len, live, size);
	p->numbers[p->nr++] = page;
	p->data_len += size;
}

static int add_disk_page(struct sender *b, u32 disk, u32 page, struct err *e)
{
	struct wire_pages *p = &b->batch;
	u64 size = source_page_size(b->s);
	u8 *to = b->staging + p->data_len;
	bool hole = source_disk_hole(b->s, disk, page, &b->extent), zero;
	int ret = hole ? 0 : source_read_disk(b->s, disk, page, to, e);

	if (ret < 0)
		return ret;
	zero = hole || is_zero(to, size);
	p->numbers[p->nr++] = page | (zero ? (u32)WIRE_ZERO_PAGE : 0);
	p->data_len += zero ? 0 : size;
	counter_add(&b->s->vm->counters.migration.sent_disk_pages, 1);
	return 0;
}

int batch_fill(struct sender *b, u32 region, u32 *from, u32 end, u32 most, struct err *e)
{
	u32 index;
	struct page_set *set = source_set(b->s, region, &index);
	u32 max = set->page_shift == MEM_PAGE_SHIFT ? MIN(most, WIRE_PAGES_PER_FRAME) : 1;
	int ret = 0;

	b->batch = (struct wire_pages){.region = (u16)region, .data = b->staging};
	while (ret == 0 && b->batch.nr < max) {
		u32 page = page_set_next(set, index, *from);

		if (page >= end) {
			*from = end;
			break;
		}
		*from = page + 1;
		if (!page_set_take(set, index, page))
			continue;
		if (set == &b->s->pages)
			add_page(b, index, page);
		else
			ret = add_disk_page(b, index, page, e);
	}
	return ret;
}

void batch_one(struct sender *b, u32 region, u32 page)
{
	b->batch = (struct wire_pages){.region = (u16)region, .data = b->staging};
	add_page(b, region, page);
}

/* ---- compression ---- */

/* True: it is in b->packed, and that is worth it. */
static bool compress_batch(struct sender *b, u64 *len)
{
	u64 limit = b->batch.data_len - b->batch.data_len / 8;
	bool fits;

	if (!b->has_zip || !b->batch.data_len || (b->zip_skip && b->zip_skip--))
		return false;
	deflateReset(&b->zip);
	b->zip.next_in = b->staging;
	b->zip.avail_in = (uInt)b->batch.data_len;
	b->zip.next_out = b->packed;
	b->zip.avail_out = (uInt)limit;
	fits = deflate(&b->zip, Z_FINISH) == Z_STREAM_END;
	b->zip_backoff = fits ? 0 : MIN(MAX(b->zip_backoff * 2, 1), MAX_BACKOFF);
	b->zip_skip = b->zip_backoff;
	*len = limit - b->zip.avail_out;
	return fits;
}

/* ---- bandwidth ---- */

/* Nobody waits with a page in hand, which somebody else might wait for. */
void batch_wait_turn(struct source *s)
{
	u64 now = clock_host_ns(), at;

	if (!s->params.bandwidth)
		return;
	pthread_mutex_lock(&s->pace_lock);
	at = s->pace_ns;
	pthread_mutex_unlock(&s->pace_lock);
	while (now < at && !__atomic_load_n(&s->quit, __ATOMIC_ACQUIRE)) {
		nanosleep(&(struct timespec){.tv_nsec = (long)MIN(at - now, NAP_NS)}, NULL);
		now = clock_host_ns();
	}
}

/* The next turn is when these bytes are through at the speed that was asked for. */
static void book(struct source *s, u64 bytes)
{
	u64 now = clock_host_ns();

	if (!s->params.bandwidth)
		return;
	pthread_mutex_lock(&s->pace_lock);
	s->pace_ns = MAX(s->pace_ns, now) + bytes * NSEC_PER_SEC / s->params.bandwidth;
	pthread_mutex_unlock(&s->pace_lock);
}

int batch_send(struct sender *b, struct err *e)
{
	struct source *s = b->s;
	struct wire_pages *p = &b->batch;
	u64 size = source_page_size(s), packed, zeroes = p->nr - p->data_len / size;

	if (!p->nr)
		return 0;
	if (compress_batch(b, &packed)) {
		p->encoding = WIRE_ZLIB;
		p->data = b->packed;
		p->data_len = packed;
	}
	book(s, p->data_len + 4 * p->nr);
	__atomic_fetch_add(&s->sent_pages, p->nr, __ATOMIC_RELAXED);
	__atomic_fetch_add(&s->zero_pages, zeroes, __ATOMIC_RELAXED);
	counter_add(&s->vm->counters.migration.sent_pages, p->nr);
	counter_add(&s->vm->counters.migration.zero_pages, zeroes);
	if (__atomic_load_n(&s->committed, __ATOMIC_ACQUIRE))
		__atomic_fetch_add(&s->late_pages, p->nr, __ATOMIC_RELAXED);
	return wire_send_pages(&b->channel, p, e);
}
