/* source_handover.c: the VM halts here and is packaged; the destination loads it; COMMIT; see source_impl.h. */
#include <errno.h>
#include <string.h>

#include "migration/package.h"
#include "migration/source_impl.h"
#include "vmm/clock.h"
#include "vmm/gdb.h"

#define RECLAIM_NS    (100 * NSEC_PER_MSEC)
#define RECLAIM_TRIES 300u

/* ---- halting; ctx: loop ---- */

static int check_now(const struct vm *vm, struct err *e)
{
	if (__atomic_load_n(&vm->end, __ATOMIC_ACQUIRE) != VM_END_NONE)
		return err_set(e, -ECANCELED, "the VM has ended");
	if (vm->state != VM_RUNNING)
		return err_set(e, -EBUSY, "the VM was paused meanwhile");
	if (gdb_is_attached(vm))
		return err_set(e, -EBUSY, "a debugger was attached meanwhile");
	return 0;
}

static int capture(struct source *s, struct err *e)
{
	auto_free struct package_vm *info = xzalloc(sizeof(*info));
	u64 start_ns = clock_host_ns();
	int ret = package_describe(s->vm, info, e);

	if (ret == 0)
		ret = package_save(s->vm, info, s->params.package_cap, &s->package, e);
	/* The capture itself writes to guest memory. */
	if (ret == 0)
		ret = source_collect(s, e);
	if (ret == 0)
		ret = vm_claim(s->vm, false, e);
	pthread_mutex_lock(&s->lock);
	s->status.capture_ns = clock_host_ns() - start_ns;
	s->status.package_bytes = s->package.len;
	pthread_mutex_unlock(&s->lock);
	return ret;
}

static int halt(struct source *s, struct err *e)
{
	int ret;

	source_throttle_set(s, 0);
	ret = check_now(s->vm, e);
	if (ret < 0)
		return ret;
	s->halt_ns = clock_host_ns();
	vm_pause(s->vm);
	s->halted = s->vm->elsewhere = true;
	s->vm->handed_over = s->passed;
	__atomic_store_n(&s->holds, true, __ATOMIC_RELEASE);
	source_note(s, stop_ns, clock_host_ns() - s->halt_ns);
	/* It may have powered itself off while it was being stopped. */
	if (__atomic_load_n(&s->vm->end, __ATOMIC_ACQUIRE) != VM_END_NONE)
		return err_set(e, -ECANCELED, "the VM has ended");
	return capture(s, e);
}

int source_reclaim(struct source *s, struct err *e)
{
	return vm_claim(s->vm, true, e);
}

/* A destination that was told to give up may take a moment to close its files. Nobody but this husk runs the VM meanwhile. */
static void try_reclaim(struct loop_timer *t)
{
	struct source *s = container_of(t, struct source, reclaim.timer);
	struct err e;

	if (source_reclaim(s, &e) == 0)
		return;
	if (++s->reclaim.tries < RECLAIM_TRIES)
		loop_timer_arm(&s->vm->loop, t, clock_host_ns() + RECLAIM_NS);
	else
		log_error(s->vm->log, "migration: after it failed: %s", e.msg);
}

void source_handover_init(struct source *s)
{
	s->reclaim.timer.expired = try_reclaim;
}

void source_handover_fini(struct source *s)
{
	loop_timer_cancel(&s->vm->loop, &s->reclaim.timer);
}

int source_go_on(struct source *s, struct err *e)
{
	(void)e;
	source_throttle_set(s, 0);
	if (s->halted) {
		s->reclaim.tries = 0;
		try_reclaim(&s->reclaim.timer);
		s->vm->elsewhere = s->vm->handed_over = false;
		vm_resume(s->vm);
	}
	s->halted = false;
	__atomic_store_n(&s->holds, false, __ATOMIC_RELEASE);
	source_untrack(s);
	return 0;
}

/* ---- the three steps ---- */

/* Pages that are short now; in postcopy only which they are. Disks are complete there before the VM is. */
static int send_rest(struct source *s, bool postcopy, struct err *e)
{
	u64 start_ns = clock_host_ns();
	int ret = 0;

	u64 disks = page_set_count(&s->disks.pages);

	if (disks || (!postcopy && page_set_count(&s->pages)))
		ret = source_send_all(s, postcopy ? JOB_LAST_DISKS : JOB_LAST, e);
	if (ret == 0 && postcopy)
		ret = source_send_missing(s, e);
	source_note(s, last_ram_ns, clock_host_ns() - start_ns);
	return ret;
}

static int send_package(struct source *s, struct err *e)
{
	u64 start_ns = clock_host_ns(), load_ns = 0, took;
	int ret;

	ret = source_interrupted(s, e);
	if (ret == 0)
		ret = channel_send_bytes(&s->control, FRAME_PACKAGE, s->package.data, s->package.len, e);
	if (ret < 0)
		return source_interrupted(s, e) < 0 ? e->code : ret;
	ret = source_expect(s, FRAME_LOADED, SOURCE_ANSWER_PATIENCES * s->params.patience_ms, &load_ns, 1, e);
	took = clock_host_ns() - start_ns;
	pthread_mutex_lock(&s->lock);
	s->status.load_ns = MIN(load_ns, took);
	s->status.send_ns = took - s->status.load_ns;
	pthread_mutex_unlock(&s->lock);
	return ret;
}

/* From here on nobody but the user has the VM run here again. */
static int cross(struct source *s, struct err *e)
{
	int ret = 0;

	pthread_mutex_lock(&s->lock);
	if (s->stop || s->cancel)
		ret = err_set(e, -ECANCELED, s->stop ? "the VM has ended" : "cancelled");
	else
		__atomic_store_n(&s->committed, true, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&s->lock);
	return ret;
}

int source_commit(struct source *s, struct err *e)
{
	u64 start_ns = clock_host_ns(), there_ns;
	int ret = wire_send_u64(&s->control, FRAME_COMMIT, NULL, 0, e);

	if (ret == 0)
		ret = source_expect(s, FRAME_RUNNING, SOURCE_ANSWER_PATIENCES * s->params.patience_ms, &there_ns, 1, e);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&s->lock);
	s->status.run_ns = clock_host_ns() - start_ns;
	s->status.downtime_ns = clock_host_ns() - s->halt_ns;
	s->vm->counters.migration.downtime_us = s->status.downtime_ns / 1000;
	pthread_mutex_unlock(&s->lock);
	return 0;
}

int source_hand_over(struct source *s, bool postcopy, struct err *e)
{
	int ret;

	source_phase(s, MIGRATE_HANDOVER);
	ret = source_on_loop(s, halt, e);
	if (ret == 0)
		ret = send_rest(s, postcopy, e);
	__atomic_store_n(&s->serving, postcopy, __ATOMIC_RELEASE);
	if (ret == 0)
		ret = send_package(s, e);
	if (ret == 0)
		ret = cross(s, e);
	return ret == 0 ? source_commit(s, e) : ret;
}
