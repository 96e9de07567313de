/*
 * source_ram.c: the threads that send pages; see source_impl.h.
 *
 * While the guest runs here a page goes through the channel that its number names, so that a newer version of it never overtakes an older
 * one. In postcopy there is one version only: those channels that push work side by side at one place, which follows what the guest asks
 * for.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "migration/source_impl.h"

#define PUSH_SNDBUF (256 * 1024) /* what waits there is in the way of a page that was just asked for */

static bool must_quit(const struct source *s)
{
	return __atomic_load_n(&s->quit, __ATOMIC_ACQUIRE);
}

/* The first failure counts; the main thread finds it while it waits. */
static void note_failure(struct source *s, const struct err *e)
{
	pthread_mutex_lock(&s->lock);
	if (!s->failed)
		s->failure = *e;
	s->failed = true;
	pthread_mutex_unlock(&s->lock);
}

/* ---- rounds ---- */

/* The first page from `page` on that is this channel's by its number, and where that piece ends. */
static u32 own_page(const struct sender *b, u32 page, u32 *end)
{
	u32 nr = b->s->params.nr_bulk, chunk = page / SOURCE_CHUNK, ahead = (b->index + nr - chunk % nr) % nr;

	*end = (chunk + ahead + 1) * SOURCE_CHUNK;
	return ahead ? (chunk + ahead) * SOURCE_CHUNK : page;
}

static int send_region(struct sender *b, u32 region, bool paced, struct err *e)
{
	u32 page = 0, end = 0, index;
	struct page_set *set = source_set(b->s, region, &index);
	int ret = 0;

	b->extent = (struct disk_extent){0};
	while (ret == 0 && !must_quit(b->s)) {
		page = page < set->regions[index].nr ? page_set_next(set, index, page) : UINT32_MAX;
		if (page == UINT32_MAX)
			return 0;
		page = own_page(b, page, &end);
		if (paced)
			batch_wait_turn(b->s);
		ret = batch_fill(b, region, &page, MIN(end, set->regions[index].nr), WIRE_PAGES_PER_FRAME, e);
		if (ret == 0)
			ret = batch_send(b, e);
	}
	return ret;
}

static int send_own(struct sender *b, enum source_job kind, struct err *e)
{
	bool memory = kind == JOB_ROUND || kind == JOB_LAST, paced = kind == JOB_ROUND || kind == JOB_DISKS;
	int ret = 0;

	for (u32 i = 0; memory && ret == 0 && i < b->s->pages.nr_regions; i++)
		ret = send_region(b, i, paced, e);
	for (u32 i = 0; ret == 0 && i < b->s->disks.nr; i++)
		ret = send_region(b, WIRE_FIRST_DISK + i, paced, e);
	return ret;
}

/* ---- the push of postcopy ---- */

/* A few pages at the place where the push is, which moves on behind them. False: nothing is left. */
static bool claim(struct source *s, u32 *region, u32 *from, u32 *end)
{
	u32 nr_regions = s->pages.nr_regions, page = UINT32_MAX;

	pthread_mutex_lock(&s->push_lock);
	/* Around once: the first region's beginning comes last. */
	for (u32 i = 0; page == UINT32_MAX && i <= nr_regions; i++) {
		if (s->push_page < s->pages.regions[s->push_region].nr)
			page = page_set_next(&s->pages, s->push_region, s->push_page);
		if (page == UINT32_MAX) {
			s->push_region = (s->push_region + 1) % nr_regions;
			s->push_page = 0;
		}
	}
	*region = s->push_region;
	*from = page;
	if (page != UINT32_MAX)
		*end = s->push_page = MIN(page + SOURCE_PUSH_PAGES, s->pages.regions[s->push_region].nr);
	pthread_mutex_unlock(&s->push_lock);
	return page != UINT32_MAX;
}

static int push(struct sender *b, struct err *e)
{
	u32 region, from, end;
	int ret = 0;

	setsockopt(b->channel.fd, SOL_SOCKET, SO_SNDBUF, &(int){PUSH_SNDBUF}, sizeof(int));
	for (batch_wait_turn(b->s); ret == 0 && !must_quit(b->s) && claim(b->s, &region, &from, &end); batch_wait_turn(b->s)) {
		while (ret == 0 && from < end) {
			ret = batch_fill(b, region, &from, end, SOURCE_PUSH_PAGES, e);
			if (ret == 0)
				ret = batch_send(b, e);
		}
	}
	return ret;
}

/* ---- BULK ---- */

static bool wait_for_job(struct sender *b, enum source_job *kind)
{
	struct source *s = b->s;

	pthread_mutex_lock(&s->lock);
	while (s->job == b->job && !must_quit(s))
		pthread_cond_wait(&s->cond, &s->lock);
	b->job = s->job;
	*kind = s->job_kind;
	pthread_mutex_unlock(&s->lock);
	return !must_quit(s);
}

static int do_job(struct sender *b, enum source_job kind, struct err *e)
{
	int ret = 0;

	if (kind == JOB_PUSH)
		return !b->s->params.nr_push || b->index < b->s->params.nr_push ? push(b, e) : 0;
	if (kind != JOB_SYNC)
		ret = send_own(b, kind, e);
	if (ret < 0)
		return ret;
	__atomic_store_n(&b->synced, b->job, __ATOMIC_RELEASE);
	return wire_send_u64(&b->channel, FRAME_SYNC, &b->job, 1, e);
}

/* Who has failed stays busy: its job is not done. */
static void set_idle(struct sender *b, bool done)
{
	pthread_mutex_lock(&b->s->lock);
	if (b->job == b->s->job) /* else there is another one already, and it is busy with that */
		b->busy = !done;
	pthread_mutex_unlock(&b->s->lock);
}

void *source_bulk_thread(void *opaque)
{
	struct sender *b = opaque;
	enum source_job kind;
	struct err e = {0};
	char name[16];
	int ret = 0;

	snprintf(name, sizeof(name), "husk-mig-%u", b->index);
	pthread_setname_np(pthread_self(), name);
	while (ret == 0 && wait_for_job(b, &kind)) {
		ret = do_job(b, kind, &e);
		set_idle(b, ret == 0);
	}
	if (ret < 0)
		note_failure(b->s, &e);
	return NULL;
}

/* The destination says that this round is there. */
static int check_synced(struct source *s, u64 synced, struct err *e)
{
	if (synced != s->job)
		return err_set(e, -EPROTO, "frame SYNCED: it is of round %llu, and this is round %llu", (unsigned long long)synced,
			       (unsigned long long)s->job);
	for (u32 i = 0; i < s->params.nr_bulk; i++) {
		if (__atomic_load_n(&s->senders[i].synced, __ATOMIC_ACQUIRE) != s->job)
			return err_set(e, -EPROTO, "frame SYNCED: round %llu was not sent as a whole", (unsigned long long)synced);
	}
	return 0;
}

int source_send_all(struct source *s, enum source_job kind, struct err *e)
{
	u64 synced;
	int ret;

	pthread_mutex_lock(&s->lock);
	s->job++;
	s->job_kind = kind;
	for (u32 i = 0; i < s->params.nr_bulk; i++)
		s->senders[i].busy = true;
	pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->lock);
	if (kind == JOB_PUSH)
		return source_await_senders(s, e);
	ret = source_expect(s, FRAME_SYNCED, 0, &synced, 1, e);
	return ret == 0 ? check_synced(s, synced, e) : ret;
}

/* ---- URGENT ---- */

static void move_push(struct source *s, u32 region, u32 page)
{
	pthread_mutex_lock(&s->push_lock);
	s->push_region = region;
	s->push_page = page;
	pthread_mutex_unlock(&s->push_lock);
}

/*
 * A page that is on its way already, behind others, goes out here, too: the destination takes what comes first. Until the VM runs there the
 * page stays in the set: should the connection be lost, the recovery begins with all of them.
 */
static int serve_page(struct sender *b, u32 region, u32 page, struct err *e)
{
	struct source *s = b->s;

	if (!page_set_valid(&s->pages, region, page))
		return err_set(e, -EPROTO, "frame REQUEST: region %u has no page %u", region, page);
	__atomic_fetch_add(&s->requests, 1, __ATOMIC_RELAXED);
	counter_add(&s->vm->counters.migration.requests, 1);
	if (__atomic_load_n(&s->there, __ATOMIC_ACQUIRE))
		page_set_take(&s->pages, region, page);
	batch_one(b, region, page);
	return batch_send(b, e);
}

static int serve_request(struct sender *b, const struct frame *f, struct err *e)
{
	struct wire_request rq;
	int ret;

	if (f->type == FRAME_WELCOME)
		return 0;
	if (f->type != FRAME_REQUEST || !__atomic_load_n(&b->s->serving, __ATOMIC_ACQUIRE))
		return err_set(e, -EPROTO, "the destination sent frame %s on the channel for requests, where there can be none now",
			       frame_name(f->type));
	ret = wire_get_request(f, &rq, e);
	for (u32 i = 0; ret == 0 && i < rq.nr; i++)
		ret = serve_page(b, rq.region, rq.pages[i], e);
	if (ret == 0)
		move_push(b->s, rq.region, rq.pages[rq.nr - 1] + 1);
	return ret;
}

void *source_urgent_thread(void *opaque)
{
	struct sender *b = opaque;
	struct err e = {0};
	struct frame f;
	int ret = 0;

	pthread_setname_np(pthread_self(), "husk-mig-urgent");
	while (ret == 0 && !must_quit(b->s)) {
		ret = channel_receive(&b->channel, &f, -1, &e);
		if (ret == 0)
			ret = serve_request(b, &f, &e);
	}
	/* The destination may close this channel first at the end. */
	if (ret < 0 && !must_quit(b->s))
		note_failure(b->s, &e);
	return NULL;
}
