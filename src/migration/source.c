/* source.c: the source's thread: what it is asked, the loop's help, the status; see source.h and source_impl.h. */
#include "migration/source.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "migration/package.h"
#include "migration/source_impl.h"
#include "vmm/clock.h"
#include "vmm/gdb.h"

#define DEFAULT_PATIENCE_MS 10000u
#define DEFAULT_DOWNTIME_NS (300 * NSEC_PER_MSEC)
#define NR_PARTS	    5 /* sections that a refusal for size names */

/* ---- the loop's help ---- */

static void run_call(struct loop_work *w)
{
	struct source *s = container_of(w, struct source, call.work);
	int ret = s->call.fn(s, s->call.e);

	pthread_mutex_lock(&s->lock);
	s->call.ret = ret;
	s->call.done = true;
	pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->lock);
}

int source_on_loop(struct source *s, int (*fn)(struct source *s, struct err *e), struct err *e)
{
	int ret;

	pthread_mutex_lock(&s->lock);
	s->call.fn = fn;
	s->call.e = e;
	s->call.done = false;
	if (!s->stop)
		loop_post(&s->vm->loop, &s->call.work);
	/* source_stop_thread takes back what the loop did not come to. */
	while (!s->call.done && !s->stop)
		pthread_cond_wait(&s->cond, &s->lock);
	ret = s->call.done ? s->call.ret : err_set(e, -ECANCELED, "the VM has ended");
	pthread_mutex_unlock(&s->lock);
	return ret;
}

int source_interrupted(struct source *s, struct err *e)
{
	int ret = 0;

	pthread_mutex_lock(&s->lock);
	if (s->stop)
		ret = err_set(e, -ECANCELED, "the VM has ended");
	else if (s->cancel && !s->committed)
		ret = err_set(e, -ECANCELED, "cancelled");
	pthread_mutex_unlock(&s->lock);
	return ret;
}

/* ---- the thread ---- */

void source_phase(struct source *s, enum migrate_phase p)
{
	pthread_mutex_lock(&s->lock);
	s->status.phase = p;
	pthread_mutex_unlock(&s->lock);
	migrate_tell(s->vm->log, p, NULL);
}

static void serve(struct source *s, enum source_ask ask)
{
	if (ask == ASK_BEGIN)
		source_migrate(s);
	else if (ask == ASK_RECOVER)
		source_do_recover(s);
	else
		source_do_take_back(s);
}

static void *source_main(void *opaque)
{
	struct source *s = opaque;

	if (s->confine)
		sandbox_enter(s->vm->sandbox, SANDBOX_MIGRATE);
	pthread_mutex_lock(&s->lock);
	while (!s->stop) {
		enum source_ask ask = s->ask;

		if (ask == ASK_NONE) {
			pthread_cond_wait(&s->cond, &s->lock);
			continue;
		}
		s->ask = ASK_NONE;
		pthread_mutex_unlock(&s->lock);
		serve(s, ask);
		pthread_mutex_lock(&s->lock);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

static int start(struct source *s, struct err *e)
{
	sigset_t all, old;
	int ret;

	s->confine = sandbox_is_open(s->vm->sandbox);
	ret = s->confine ? sandbox_make_filter(s->vm->sandbox, SANDBOX_MIGRATE, e) : 0;
	if (ret < 0)
		return ret;
	/* Signals are for the threads that wait for them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&s->thread, NULL, source_main, s);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret)
		return err_set(e, -ret, "no thread for migration: %s", strerror(ret));
	pthread_setname_np(s->thread, "husk-migrate");
	return 0;
}

static void destroy(struct source *s)
{
	source_pages_fini(s); /* of one that is paused for good */
	source_disks_track(s, false);
	source_disks_fini(s);
	buf_fini(&s->package);
	pthread_mutex_destroy(&s->lock);
	pthread_mutex_destroy(&s->push_lock);
	pthread_mutex_destroy(&s->pace_lock);
	pthread_cond_destroy(&s->cond);
	free(s->passed);
	free(s);
}

int source_start_thread(struct source **out, struct vm *vm, struct err *e)
{
	struct source *s = xzalloc(sizeof(*s));
	int ret;

	s->vm = vm;
	s->control.fd = -1;
	for (u32 i = 0; i < ARRAY_SIZE(s->senders); i++)
		s->senders[i].channel.fd = -1;
	s->call.work.run = run_call;
	pthread_mutex_init(&s->lock, NULL);
	pthread_mutex_init(&s->push_lock, NULL);
	pthread_mutex_init(&s->pace_lock, NULL);
	pthread_cond_init(&s->cond, NULL);
	source_throttle_init(s);
	source_handover_init(s);
	ret = start(s, e);
	if (ret < 0)
		destroy(s);
	else
		*out = s;
	return ret;
}

void source_stop_thread(struct source *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->stop = true;
	loop_work_cancel(&s->vm->loop, &s->call.work);
	source_break_channels(s, s->committed);
	pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL);
	source_throttle_set(s, 0);
	source_handover_fini(s);
	destroy(s);
}

/* ---- begin ---- */

static int check_local(const struct source_params *p, struct err *e)
{
	if (strncmp(p->address, "unix:", 5) != 0)
		return err_set(e, -EINVAL, "\"%s\": mode local hands memory over as a descriptor, which goes through unix:PATH only",
			       p->address);
	if (p->verify)
		return err_set(e, -EINVAL, "verify compares two copies of the memory, and mode local makes none");
	if (p->copy_disks)
		return err_set(e, -EINVAL, "mode local stays on this host, where both husks have the same disks: there is nothing to copy");
	if (p->stall == MIGRATE_STALL_POSTCOPY)
		return err_set(e, -EINVAL, "on-stall=postcopy has no meaning in mode local: memory is there before the VM is");
	return 0;
}

static int check_params(const struct source_params *p, struct err *e)
{
	if (!*p->address || !memchr(p->address, 0, sizeof(p->address)))
		return err_set(e, -EINVAL, "a migration needs an address to go to");
	if (!strncmp(p->address, "fd:", 3))
		return err_set(e, -EINVAL, "\"%s\": a migration has several connections, and a descriptor is one", p->address);
	if (p->nr_bulk < 1 || p->nr_bulk > WIRE_MAX_BULK)
		return err_set(e, -EINVAL, "a migration has 1 to %u channels for memory, not %u", WIRE_MAX_BULK, p->nr_bulk);
	return p->mode == MIGRATE_MODE_LOCAL ? check_local(p, e) : 0;
}

static int check_vm(struct vm *vm, struct err *e)
{
	if (vm->state != VM_RUNNING)
		return err_set(e, -EINVAL, "only a VM that runs can move: resume it, or make a snapshot");
	if (gdb_is_attached(vm) || vm->debug.nr_breaks)
		return err_set(e, -EBUSY, "a debugger is attached to this VM; detach it first");
	if (mem_is_lazy(&vm->mem) || mem_fetch(&vm->mem))
		return err_set(e, -EBUSY, "pages of this VM's memory are still to be brought; try again when they are here");
	if (vm->mem.share)
		return err_set(e, -EOPNOTSUPP, "another process has this VM's memory mapped (vhost-user), and does not say what it writes");
	return 0;
}

static int check_size(struct vm *vm, u64 cap, struct err *e)
{
	struct package_part parts[NR_PARTS] = {0};
	u64 bytes;
	int ret = package_measure(vm, &bytes, parts, NR_PARTS, e);

	return ret == 0 ? package_check_cap(bytes, cap, parts, NR_PARTS, e) : ret;
}

/* What goes to the other husk by descriptors. ctx: loop */
static int list_passed(struct source *s, const struct source_params *p, struct err *e)
{
	free(s->passed);
	s->passed = p->mode == MIGRATE_MODE_LOCAL ? xzalloc(sizeof(*s->passed)) : NULL;
	return s->passed ? vm_pass(s->vm, s->passed, e) : 0;
}

/* ctx: lock held */
static void prepare(struct source *s, const struct source_params *p)
{
	s->params = *p;
	s->params.package_cap = p->package_cap ? p->package_cap : PACKAGE_SOFT_CAP;
	s->params.patience_ms = p->patience_ms ? p->patience_ms : DEFAULT_PATIENCE_MS;
	s->params.max_downtime_ns = p->max_downtime_ns ? p->max_downtime_ns : DEFAULT_DOWNTIME_NS;
	s->cancel = s->committed = s->failed = s->seen = false;
	s->closed_sent = s->closed_received = 0;
	s->sent_pages = s->zero_pages = s->late_pages = s->requests = 0;
	s->status = (struct migrate_status){
		.phase = MIGRATE_CONNECT,
		.mode = p->mode,
		.ram_bytes = s->vm->mem.size,
		.disk_bytes = source_disks_bytes(s),
		.start_ns = clock_host_ns(),
	};
	snprintf(s->status.peer, sizeof(s->status.peer), "%.*s", (int)sizeof(s->status.peer) - 1, p->address);
	s->running = true;
	s->ask = ASK_BEGIN;
	pthread_cond_broadcast(&s->cond);
}

/* Whether another one may begin. ctx: lock held */
static bool is_idle(const struct source *s)
{
	enum migrate_phase p = s->status.phase;

	return !s->running && (p == MIGRATE_NONE || p == MIGRATE_FAILED || p == MIGRATE_CANCELLED);
}

int source_begin(struct source *s, const struct source_params *p, struct err *e)
{
	int ret = check_params(p, e);

	if (ret == 0)
		ret = check_vm(s->vm, e);
	if (ret == 0)
		ret = check_size(s->vm, p->package_cap ? p->package_cap : PACKAGE_SOFT_CAP, e);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&s->lock);
	if (!is_idle(s))
		ret = err_set(e, -EBUSY, "a migration is under way (%s)", migrate_phase_name(s->status.phase));
	else if (getrandom(s->session, sizeof(s->session), 0) != sizeof(s->session))
		ret = err_errno(e, "no random numbers");
	else
		ret = list_passed(s, p, e);
	if (ret == 0)
		ret = source_disks_find(s, p->copy_disks, e);
	if (ret == 0)
		prepare(s, p);
	pthread_mutex_unlock(&s->lock);
	/* What is dirty is for the migration from now on; the next snapshot is a full one. */
	if (ret == 0)
		s->vm->memory_id = 0;
	return ret;
}

/* ---- while it runs ---- */

int source_cancel(struct source *s, struct err *e)
{
	int ret = 0;

	pthread_mutex_lock(&s->lock);
	if (s->committed) {
		ret = err_set(e, -EBUSY, "it is too late: the destination has been told to run the VM");
	} else if (!s->running) {
		ret = err_set(e, -ENOENT, "there is no migration to cancel");
	} else {
		s->cancel = true;
		source_break_channels(s, false);
		pthread_cond_broadcast(&s->cond);
	}
	pthread_mutex_unlock(&s->lock);
	return ret;
}

/* Has the thread do something for a paused migration. */
static int ask_paused(struct source *s, enum source_ask ask, const char *address, struct err *e)
{
	int ret = 0;

	if (address && strlen(address) >= sizeof(s->params.address))
		return err_set(e, -EINVAL, "that address is too long");
	pthread_mutex_lock(&s->lock);
	if (s->status.phase != MIGRATE_PAUSED || s->running) {
		ret = err_set(e, -EINVAL, "there is no migration that waits for a recovery");
	} else {
		if (address && *address)
			snprintf(s->params.address, sizeof(s->params.address), "%s", address);
		snprintf(s->status.peer, sizeof(s->status.peer), "%.*s", (int)sizeof(s->status.peer) - 1, s->params.address);
		if (ask == ASK_RECOVER)
			s->status.phase = MIGRATE_RECOVER; /* from now on, for who looks at once */
		s->running = true;
		s->ask = ask;
		pthread_cond_broadcast(&s->cond);
	}
	pthread_mutex_unlock(&s->lock);
	return ret;
}

int source_recover(struct source *s, const char *address, struct err *e)
{
	return ask_paused(s, ASK_RECOVER, address, e);
}

int source_take_back(struct source *s, struct err *e)
{
	if (s->passed)
		return err_set(
			e, -EOPNOTSUPP,
			"the destination had this VM's memory itself and may have run on in it: there is nothing to take back; recover "
			"it, or end it");
	return ask_paused(s, ASK_TAKE_BACK, NULL, e);
}

int source_break(struct source *s, struct err *e)
{
	int ret = 0;

	pthread_mutex_lock(&s->lock);
	if (s->control_open)
		source_break_channels(s, true);
	else
		ret = err_set(e, -ENOENT, "there is no connection to give up");
	pthread_mutex_unlock(&s->lock);
	return ret;
}

/* ---- status ---- */

static void add_bytes(const struct channel *c, struct migrate_status *out)
{
	out->sent_bytes += __atomic_load_n(&c->sent_bytes, __ATOMIC_RELAXED);
	out->received_bytes += __atomic_load_n(&c->received_bytes, __ATOMIC_RELAXED);
}

void source_status(struct source *s, struct migrate_status *out)
{
	pthread_mutex_lock(&s->lock);
	*out = s->status;
	if (s->status.phase == MIGRATE_COMPLETED) {
		s->seen = true;
		pthread_cond_broadcast(&s->cond);
	}
	out->sent_bytes = s->closed_sent;
	out->received_bytes = s->closed_received;
	if (s->control_open)
		add_bytes(&s->control, out);
	for (u32 i = 0; i < ARRAY_SIZE(s->senders); i++) {
		if (s->senders[i].open)
			add_bytes(&s->senders[i].channel, out);
	}
	if (s->has_pages)
		out->remaining_bytes = page_set_count(&s->pages) << s->pages.page_shift;
	if (s->disks.has_pages)
		out->disk_remaining_bytes = page_set_count(&s->disks.pages) << s->disks.pages.page_shift;
	out->remaining_bytes += out->disk_remaining_bytes;
	out->pages = __atomic_load_n(&s->sent_pages, __ATOMIC_RELAXED);
	out->zero_pages = __atomic_load_n(&s->zero_pages, __ATOMIC_RELAXED);
	out->faults = __atomic_load_n(&s->requests, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&s->lock);
}

bool source_is_active(struct source *s)
{
	bool idle;

	pthread_mutex_lock(&s->lock);
	idle = is_idle(s);
	pthread_mutex_unlock(&s->lock);
	return !idle;
}

bool source_holds(const struct source *s)
{
	return __atomic_load_n(&s->holds, __ATOMIC_ACQUIRE);
}
