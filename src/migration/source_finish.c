/* source_finish.c: what follows COMMIT: the rest of the memory, the end; or PAUSED and a recovery; see source_impl.h. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "migration/source_impl.h"
#include "vmm/clock.h"

#define LINGER_NS (2 * NSEC_PER_SEC)

/* ---- to the end ---- */

static int verify(struct source *s, struct err *e)
{
	u64 counts[2];
	int ret = source_send_digests(s, e);

	if (ret == 0)
		ret = source_expect(s, FRAME_VERIFIED, 0, counts, 2, e);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&s->lock);
	s->status.verified_pages = counts[0];
	s->status.different_pages = counts[1];
	pthread_mutex_unlock(&s->lock);
	if (counts[1])
		log_error(s->vm->log, "migration: %llu of %llu pages are not at the destination what they are here",
			  (unsigned long long)counts[1], (unsigned long long)counts[0]);
	return 0;
}

/* The VM runs there: the rest of its memory follows. */
int source_finish(struct source *s, struct err *e)
{
	u64 count;
	int ret = 0;

	source_phase(s, MIGRATE_POSTCOPY);
	__atomic_store_n(&s->there, true, __ATOMIC_RELEASE);
	if (page_set_count(&s->pages))
		ret = source_send_all(s, JOB_PUSH, e);
	count = __atomic_load_n(&s->late_pages, __ATOMIC_RELAXED);
	if (ret == 0)
		ret = wire_send_u64(&s->control, FRAME_DONE, &count, 1, e);
	if (ret == 0 && s->params.verify)
		ret = verify(s, e);
	if (ret == 0)
		ret = source_expect(s, FRAME_RELEASE, 0, &count, 1, e);
	return ret;
}

/* Whoever follows the migration gets to see how it ended, before there is nobody left to ask. */
static void wait_until_seen(struct source *s)
{
	u64 end_ns = clock_host_ns() + LINGER_NS;
	struct timespec until = {.tv_sec = (time_t)(end_ns / NSEC_PER_SEC), .tv_nsec = (long)(end_ns % NSEC_PER_SEC)};
	int ret = 0;

	pthread_mutex_lock(&s->lock);
	while (ret == 0 && !s->seen && !s->stop)
		ret = pthread_cond_clockwait(&s->cond, &s->lock, CLOCK_MONOTONIC, &until);
	pthread_mutex_unlock(&s->lock);
}

static void complete(struct source *s)
{
	struct err e;

	/* Whether it arrives does not matter any more. */
	if (wire_send_u64(&s->control, FRAME_BYE, NULL, 0, &e) < 0)
		log_debug(s->vm->log, "migration: %s", e.msg);
	source_disconnect(s);
	pthread_mutex_lock(&s->lock);
	s->status.error[0] = 0;
	s->status.end_ns = clock_host_ns();
	s->status.phase = MIGRATE_COMPLETED;
	pthread_mutex_unlock(&s->lock);
	source_pages_fini(s);
	buf_fini(&s->package);
	/* Whatever devices do at their end must not reach the guest. */
	if (s->passed)
		mem_let_go(&s->vm->mem);
	counter_add(&s->vm->counters.migration.completed, 1);
	migrate_tell(s->vm->log, MIGRATE_COMPLETED, s->params.address);
	wait_until_seen(s);
	vm_end(s->vm, VM_END_MOVED);
}

static void pause_it(struct source *s, struct err *why)
{
	source_say_why(s, FRAME_FAIL, why);
	source_disconnect(s);
	counter_add(&s->vm->counters.migration.paused, 1);
	migrate_tell(s->vm->log, MIGRATE_PAUSED, why->msg);
	pthread_mutex_lock(&s->lock);
	snprintf(s->status.error, sizeof(s->status.error), "%.500s; the VM may run at the destination, so it is halted here%s", why->msg,
		 s->passed ? ": recover with `husk ctl SOCKET migrate recover`; if the destination is dead the VM is lost, since it had "
			     "its memory"
			   : ", with its memory: recover with `husk ctl SOCKET migrate recover`, or, if the destination is dead, take it "
			     "back with `husk ctl SOCKET migrate take-back`");
	s->status.phase = MIGRATE_PAUSED;
	s->running = false;
	pthread_mutex_unlock(&s->lock);
}

void source_settle(struct source *s, int ret, struct err *e)
{
	if (ret == 0)
		complete(s);
	else
		pause_it(s, e);
}

/* ---- recovery ---- */

/* loaded: COMMIT has not arrived there, and the set is what it was. */
static int resume(struct source *s, bool loaded, struct err *e)
{
	int ret = loaded ? 0 : source_receive_missing(s, e);

	if (ret == 0)
		ret = source_open_senders(s, e);
	if (ret == 0)
		ret = loaded ? source_commit(s, e) : wire_send_u64(&s->control, FRAME_RESUME, NULL, 0, e);
	return ret == 0 ? source_finish(s, e) : ret;
}

static int go_on_from(struct source *s, const struct wire_welcome *w, struct err *e)
{
	s->heartbeat = true;
	pthread_mutex_lock(&s->lock);
	s->status.recoveries++;
	counter_add(&s->vm->counters.migration.recovered, 1);
	pthread_mutex_unlock(&s->lock);
	switch (w->phase) {
	case WIRE_LOADED:
	case WIRE_RUNNING:
		return resume(s, w->phase == WIRE_LOADED, e);
	case WIRE_COMPLETE:
		return 0;
	default:
		return err_set(e, -ENOENT, "the destination knows nothing of this VM, or has lost it");
	}
}

void source_do_recover(struct source *s)
{
	struct wire_welcome w;
	struct err e = {0};
	int ret;

	migrate_tell(s->vm->log, MIGRATE_RECOVER, s->params.address);
	s->epoch++;
	ret = source_connect(s, &w, &e);
	if (ret == 0)
		ret = go_on_from(s, &w, &e);
	source_settle(s, ret, &e);
}

void source_do_take_back(struct source *s)
{
	struct err e = {0};
	int ret = source_on_loop(s, source_reclaim, &e);

	if (ret == 0)
		ret = source_on_loop(s, source_go_on, &e);
	if (ret < 0) {
		err_prefix(&e, "it cannot be taken back, the destination seems to be alive");
		pause_it(s, &e);
		return;
	}
	source_pages_fini(s);
	source_disks_fini(s);
	buf_fini(&s->package);
	counter_add(&s->vm->counters.migration.taken_back, 1);
	migrate_tell(s->vm->log, MIGRATE_FAILED,
		     "the user says that the destination is dead: the VM goes on here as it was at the hand-over");
	pthread_mutex_lock(&s->lock);
	__atomic_store_n(&s->committed, false, __ATOMIC_RELEASE);
	snprintf(s->status.error, sizeof(s->status.error), "taken back: the VM goes on here as it was at the hand-over");
	s->status.end_ns = clock_host_ns();
	s->status.phase = MIGRATE_FAILED;
	s->running = false;
	pthread_mutex_unlock(&s->lock);
}
