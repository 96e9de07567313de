/* source_run.c: one migration from its beginning: connect, offer, rounds until what is left is short enough; see source_impl.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "migration/package.h"
#include "migration/source_impl.h"
#include "vmm/clock.h"

#define FIXED_DOWNTIME	 (5 * NSEC_PER_MSEC)
#define FIRST_THROTTLE	 20u
#define THROTTLE_STEP	 10u
#define MAX_THROTTLE	 99u
#define MAX_STALLS	 2u /* rounds that do not help, before something else is done */
#define ROUNDS_THAT_PAY	 8u
#define SHORT_ENOUGH	 (2 * NSEC_PER_MSEC)
#define MEASURABLE	 (256 * KIB) /* a round with less says little of the bandwidth */
#define ASSUME_BANDWIDTH (100 * MIB)

/* ---- SETUP ---- */

/* ctx: loop */
static int make_offer(struct source *s, struct err *e)
{
	auto_free struct package_vm *info = xzalloc(sizeof(*info));
	int ret = package_describe(s->vm, info, e);

	if (ret == 0 && s->vm->state != VM_RUNNING)
		ret = err_set(e, -EBUSY, "the VM was paused meanwhile");
	return ret == 0 ? package_save_offer(s->vm, info, &s->offer, &s->devices, e) : ret;
}

static int offer(struct source *s, struct err *e)
{
	struct wire_offer o = {
		.flags = (source_may_postcopy(s) ? OFFER_POSTCOPY : 0) | (s->params.verify ? OFFER_VERIFY : 0),
		.page_shift = s->pages.page_shift,
		.package = s->offer.data,
		.package_len = s->offer.len,
		.devices = (const char *)s->devices.data,
		.devices_len = s->devices.len,
	};
	int ret = package_measure(s->vm, &o.package_bytes, NULL, 0, e);
	u64 cap;

	if (ret == 0)
		ret = source_send_disks(s, e);
	if (ret == 0 && s->passed)
		ret = wire_send_passed(&s->control, s->passed, e);
	if (ret == 0)
		ret = wire_send_offer(&s->control, &o, e);
	if (ret == 0)
		ret = source_expect(s, FRAME_ACCEPT, SOURCE_ANSWER_PATIENCES * s->params.patience_ms, &cap, 1, e);
	if (ret < 0)
		return ret;
	s->params.package_cap = MIN(s->params.package_cap, cap);
	return 0;
}

/* What the destination takes of a package is known before memory moves. ctx: loop */
static int check_cap(struct source *s, struct err *e)
{
	struct package_part parts[5] = {0};
	u64 bytes;
	int ret = package_measure(s->vm, &bytes, parts, ARRAY_SIZE(parts), e);

	if (ret == 0)
		ret = package_check_cap(bytes, s->params.package_cap, parts, ARRAY_SIZE(parts), e);
	return ret < 0 ? err_prefix(e, "the destination's limit") : 0;
}

static int set_up(struct source *s, struct err *e)
{
	u64 start_ns = clock_host_ns();
	struct wire_welcome w;
	int ret = source_pages_init(s, e);

	if (ret == 0)
		ret = source_disks_init(s, e);
	if (ret == 0)
		ret = source_connect(s, &w, e);
	if (ret == 0 && w.phase != WIRE_NEW)
		ret = err_set(e, -EBUSY, "the destination is already at a migration");
	if (ret == 0 && s->disks.nr && !(w.knows & WIRE_KNOWS_DISKS))
		ret = err_set(e, -EOPNOTSUPP, "copy_disks: the destination does not know how to take disks, its husk is an older one");
	if (ret == 0)
		ret = source_open_senders(s, e);
	if (ret < 0)
		return ret;
	source_phase(s, MIGRATE_SETUP);
	s->params.package_cap = MIN(s->params.package_cap, w.package_cap);
	ret = source_on_loop(s, check_cap, e);
	if (ret == 0)
		ret = source_on_loop(s, make_offer, e);
	if (ret == 0)
		ret = offer(s, e);
	s->heartbeat = true;
	source_note(s, setup_ns, clock_host_ns() - start_ns);
	return ret;
}

/* ---- rounds ---- */

/* How a precopy goes. */
struct progress {
	enum source_job kind; /* JOB_ROUND; JOB_DISKS: for a postcopy, which starts when the disks are there */
	u64 dirty, before;    /* pages: after the last round, and after the one before it */
	u32 rounds, stalls;
};

/* Pages that were sent with their data. A destination may say SYNCED while senders still count. */
static u64 data_pages(const struct source *s)
{
	u64 zero = __atomic_load_n(&s->zero_pages, __ATOMIC_RELAXED), sent = __atomic_load_n(&s->sent_pages, __ATOMIC_RELAXED);

	return sent - MIN(sent, zero);
}

/* Sends what is dirty; the time that it takes tells the bandwidth. */
static int run_round(struct source *s, struct progress *p, struct err *e)
{
	u64 start_ns = clock_host_ns(), pages = data_pages(s), took, bytes;
	int ret = source_send_all(s, p->kind, e);

	if (ret < 0)
		return ret;
	p->rounds++;
	took = MAX(clock_host_ns() - start_ns, 1);
	bytes = (MAX(data_pages(s), pages) - pages) * source_page_size(s);
	if (bytes >= MEASURABLE)
		s->bandwidth = MAX((u64)((double)bytes * NSEC_PER_SEC / (double)took), 1);
	pthread_mutex_lock(&s->lock);
	s->status.rounds++;
	counter_add(&s->vm->counters.migration.rounds, 1);
	s->status.bytes_per_sec = s->bandwidth;
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static u64 expected_downtime(const struct source *s, u64 dirty)
{
	u64 bandwidth = s->bandwidth ? s->bandwidth : ASSUME_BANDWIDTH;

	return FIXED_DOWNTIME + (u64)((double)dirty * (double)source_page_size(s) * NSEC_PER_SEC / (double)bandwidth);
}

static int collect(struct source *s, struct progress *p, struct err *e)
{
	u64 since_ns = s->collected_ns;
	int ret = source_on_loop(s, source_collect, e);

	if (ret < 0)
		return ret;
	s->collected_ns = clock_host_ns();
	p->before = p->dirty;
	p->dirty = page_set_count(&s->disks.pages) + (p->kind == JOB_ROUND ? page_set_count(&s->pages) : 0);
	pthread_mutex_lock(&s->lock);
	s->status.dirty_bytes_per_sec = (u64)((double)(p->dirty * source_page_size(s)) * NSEC_PER_SEC /
					      (double)MAX(s->collected_ns - since_ns, 1));
	s->status.expected_downtime_ns = expected_downtime(s, p->dirty);
	pthread_mutex_unlock(&s->lock);
	return 0;
}

/* ctx: loop */
static int throttle_more(struct source *s, struct err *e)
{
	u32 percent = s->throttle.percent ? MIN(s->throttle.percent + THROTTLE_STEP, MAX_THROTTLE) : FIRST_THROTTLE;

	(void)e;
	source_throttle_set(s, percent);
	source_note(s, throttle_percent, percent);
	return 0;
}

/* Rounds do not get shorter. *postcopy: hand over with what is missing, which disks cannot be. */
static int stalled(struct source *s, const struct progress *p, bool *postcopy, struct err *e)
{
	switch (s->params.stall) {
	case MIGRATE_STALL_THROTTLE:
		return source_on_loop(s, throttle_more, e);
	case MIGRATE_STALL_POSTCOPY:
		if (*postcopy)
			return source_on_loop(s, throttle_more, e);
		*postcopy = true;
		return 0;
	case MIGRATE_STALL_CANCEL:
		return err_set(e, -ETIME,
			       "the guest writes faster than it can be sent: the downtime would be %llu ms, and %llu ms are allowed",
			       (unsigned long long)(expected_downtime(s, p->dirty) / NSEC_PER_MSEC),
			       (unsigned long long)(s->params.max_downtime_ns / NSEC_PER_MSEC));
	default:
		return 0;
	}
}

/* A round costs little and makes the halt shorter, as long as each leaves less than half of what the one before left. */
static bool pays(const struct source *s, const struct progress *p)
{
	return p->rounds < ROUNDS_THAT_PAY && (!p->before || p->dirty * 2 < p->before) &&
	       expected_downtime(s, p->dirty) > FIXED_DOWNTIME + SHORT_ENOUGH;
}

/* One round of a precopy and what it leaves. *over: enough of them; *postcopy: with pages missing. */
static int step(struct source *s, struct progress *p, bool *over, bool *postcopy, struct err *e)
{
	int ret = run_round(s, p, e);

	if (ret == 0)
		ret = collect(s, p, e);
	if (ret < 0)
		return ret;
	*over = (p->kind == JOB_ROUND && *postcopy) || (expected_downtime(s, p->dirty) <= s->params.max_downtime_ns && !pays(s, p));
	if (*over || p->rounds < 2)
		return 0;
	p->stalls = p->dirty * 3 > p->before * 2 ? p->stalls + 1 : 0;
	if (p->stalls < MAX_STALLS)
		return 0;
	ret = stalled(s, p, postcopy, e);
	*over = p->kind == JOB_ROUND && *postcopy;
	return ret;
}

static int precopy(struct source *s, bool *postcopy, struct err *e)
{
	struct progress p = {.kind = JOB_ROUND};
	bool over = s->params.mode == MIGRATE_MODE_POSTCOPY || !source_sends_pages(s);
	int ret;

	*postcopy = source_is_postcopy(s);
	source_phase(s, MIGRATE_PRECOPY);
	ret = source_on_loop(s, source_track, e);
	if (ret == 0)
		ret = source_add_used(s, e);
	if (ret == 0 && over)
		ret = source_send_all(s, JOB_SYNC, e);
	while (ret == 0 && !over)
		ret = step(s, &p, &over, postcopy, e);
	if (!*postcopy || !s->disks.nr)
		return ret;
	p = (struct progress){.kind = JOB_DISKS};
	for (over = false; ret == 0 && !over;)
		ret = step(s, &p, &over, postcopy, e);
	return ret;
}

/* ---- the end of it ---- */

/* It came to nothing, and COMMIT was not sent: the VM has never been elsewhere. */
static void give_up(struct source *s, struct err *why)
{
	struct migration_counters *count = &s->vm->counters.migration;
	auto_free char *text = NULL;
	struct err e = {0};
	bool cancelled;

	pthread_mutex_lock(&s->lock);
	cancelled = s->cancel;
	pthread_mutex_unlock(&s->lock);
	/* Whatever broke when the connection was broken for it. */
	if (cancelled)
		err_set(why, -ECANCELED, "cancelled");
	/* The guest first: it has waited long enough. */
	if (source_on_loop(s, source_go_on, &e) < 0)
		log_debug(s->vm->log, "migration: %s", e.msg);
	source_say_why(s, FRAME_ABORT, why);
	source_disconnect(s);
	source_pages_fini(s);
	source_disks_fini(s);
	buf_fini(&s->package);
	counter_add(cancelled ? &count->cancelled : &count->failed, 1);
	text = xasprintf("%s; the VM runs on here", why->msg);
	migrate_tell(s->vm->log, cancelled ? MIGRATE_CANCELLED : MIGRATE_FAILED, text);
	pthread_mutex_lock(&s->lock);
	snprintf(s->status.error, sizeof(s->status.error), "%s", why->msg);
	s->status.end_ns = clock_host_ns();
	s->status.throttle_percent = 0;
	s->status.phase = cancelled ? MIGRATE_CANCELLED : MIGRATE_FAILED;
	s->running = false;
	pthread_mutex_unlock(&s->lock);
}

void source_migrate(struct source *s)
{
	struct err e = {0};
	bool postcopy = false;
	int ret;

	s->epoch = 0;
	s->there = s->serving = false;
	s->bandwidth = 0;
	s->job = 0;
	s->push_region = s->push_page = 0;
	s->pace_ns = 0;
	counter_add(&s->vm->counters.migration.started, 1);
	migrate_tell(s->vm->log, MIGRATE_CONNECT, s->params.address);
	ret = set_up(s, &e);
	if (ret == 0)
		ret = precopy(s, &postcopy, &e);
	buf_fini(&s->offer);
	buf_fini(&s->devices);
	s->offer = s->devices = (struct buf){0};
	if (ret == 0)
		ret = source_hand_over(s, postcopy, &e);
	if (ret == 0)
		ret = source_finish(s, &e);
	if (s->committed)
		source_settle(s, ret, &e);
	else
		give_up(s, &e);
}
