/* dest.c: a VM comes here: the calls of dest.h, and the parts that the VM's own threads play; see dest_impl.h. */
#include "migration/dest.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "migration/dest_impl.h"
#include "migration/saved_config.h"
#include "vmm/clock.h"

#define PATIENCE_MS 10000u

/* ---- memory ---- */

static const char *unix_path(const struct dest *d)
{
	return strncmp(d->address, "unix:", 5) ? NULL : d->address + 5;
}

/* A peer that does not read must not keep it. */
static void join_thread(struct dest *d)
{
	struct timespec until;
	struct err e;

	pthread_mutex_lock(&d->lock);
	d->stop = true;
	pthread_mutex_unlock(&d->lock);
	dest_wake(d);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 2;
	if (pthread_timedjoin_np(d->thread, NULL, &until) == 0)
		return;
	if (dest_break(d, &e) < 0)
		log_debug(d->log, "%s", e.msg);
	pthread_join(d->thread, NULL);
}

static void note_ram(struct dest *d, struct migrate_status *s);

static void end_memory(struct mem_helper *h)
{
	struct dest *d = container_of(h, struct dest, helper);

	if (d->threaded)
		join_thread(d);
	dest_link_drop_receivers(d);
	loop_work_cancel(&d->vm->loop, &d->start);
	pthread_mutex_lock(&d->lock);
	note_ram(d, &d->status);
	d->threaded = false;
	d->vm = NULL;
	pthread_mutex_unlock(&d->lock);
	dest_ram_fini(&d->ram);
}

static int start_thread(struct dest *d, struct vm *vm, struct err *e)
{
	int ret = 0;

	d->confine = sandbox_is_open(vm->sandbox);
	if (d->confine)
		ret = sandbox_make_filter(vm->sandbox, SANDBOX_MIGRATE, e);
	if (ret == 0 && vm->sandbox && unix_path(d))
		sandbox_will_remove(vm->sandbox, unix_path(d));
	dest_disks_will_remove(&d->disks, vm->sandbox);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&d->lock);
	ret = dest_thread_start(&d->thread, dest_thread, d, e);
	d->threaded = ret == 0;
	pthread_mutex_unlock(&d->lock);
	return ret;
}

static int bring_memory(struct vm *vm, void *opaque, struct err *e)
{
	struct dest *d = opaque;
	int ret = package_check_memory(d->offer, vm, e);

	if (ret < 0)
		return ret;
	memset(&d->ram, 0, sizeof(d->ram));
	d->ram.uffd = -1;
	pthread_mutex_lock(&d->lock);
	d->vm = vm;
	d->stop = d->loaded = d->started = false;
	pthread_mutex_unlock(&d->lock);
	d->have_package = d->running_sent = d->done = d->settled = d->verified = d->released = false;
	d->synced = 0;
	d->helper = (struct mem_helper){.end = end_memory};
	mem_add_helper(&vm->mem, &d->helper);
	d->ram.disks = &d->disks;
	ret = dest_ram_init(&d->ram, vm, d->offer_flags, d->page_shift, e);
	return ret == 0 ? start_thread(d, vm, e) : ret;
}

/* ---- state ---- */

/* Until husk-migrate has got there, or has failed. */
static int wait_for(struct dest *d, enum dest_state state, struct err *e)
{
	int ret = 0;

	dest_wake(d);
	pthread_mutex_lock(&d->lock);
	while (d->state < state)
		pthread_cond_wait(&d->changed, &d->lock);
	if (d->state == DEST_FAILED) {
		*e = d->why;
		ret = e->code;
	}
	pthread_mutex_unlock(&d->lock);
	return ret;
}

static int agree(struct dest *d, struct vm *vm, struct err *e)
{
	int ret = package_check_offer(d->offer, d->devices, d->devices_len, vm, e);

	if (ret < 0)
		return ret;
	if (d->ram.postcopy && vm->mem.share)
		return err_set(e, -EOPNOTSUPP,
			       "another process maps this VM's memory (vhost-user), whose pages cannot come later: use mode precopy");
	passed_close(d->passed); /* all that wants one has it */
	pthread_mutex_lock(&d->lock);
	d->agreed = true;
	pthread_mutex_unlock(&d->lock);
	return 0;
}

static int load_package(struct dest *d, struct vm *vm, struct err *e)
{
	u64 start_ns = clock_host_ns();
	struct package *p;
	int ret = package_open(&p, d->held.data, d->held.len, e);

	if (ret < 0)
		err_prefix(e, "frame PACKAGE");
	if (ret == 0) {
		ret = package_load(p, vm, e);
		if (ret == 0)
			ret = dest_disks_seal(&d->disks, e);
		if (ret == 0)
			ret = vm_claim(vm, true, e);
		package_close(p);
	}
	buf_fini(&d->held);
	d->held = (struct buf){0};
	pthread_mutex_lock(&d->lock);
	d->load_ns = clock_host_ns() - start_ns;
	pthread_mutex_unlock(&d->lock);
	return ret;
}

static int bring_state(struct vm *vm, void *opaque, struct err *e)
{
	struct dest *d = opaque;
	struct err ignored;
	int ret = agree(d, vm, e);

	if (ret == 0)
		ret = wait_for(d, DEST_LOADING, e);
	if (ret == 0)
		ret = load_package(d, vm, e);
	vm->elsewhere = true;
	if (ret == 0)
		return 0;
	pthread_mutex_lock(&d->lock);
	if (d->state != DEST_FAILED) {
		d->refused = true;
		d->why = *e;
	}
	pthread_mutex_unlock(&d->lock);
	return wait_for(d, DEST_FAILED, &ignored) < 0 ? ret : -EINVAL;
}

/* The VM is made, its threads are there, nothing runs. ctx: loop */
static void on_started(struct vm *vm, void *opaque)
{
	struct dest *d = opaque;
	bool failed;

	pthread_mutex_lock(&d->lock);
	failed = d->state == DEST_FAILED;
	d->loaded = !failed;
	pthread_mutex_unlock(&d->lock);
	if (failed)
		vm_end(vm, VM_END_HOST);
	dest_wake(d);
}

/* After COMMIT. ctx: loop */
static void start_vcpus(struct loop_work *w)
{
	struct dest *d = container_of(w, struct dest, start);
	u64 now;

	d->vm->elsewhere = d->vm->handed_over = false;
	if (!d->paused)
		vm_resume(d->vm);
	now = clock_host_ns();
	pthread_mutex_lock(&d->lock);
	d->started = true;
	d->run_ns = now - d->package_ns;
	d->status.load_ns = d->load_ns;
	d->status.run_ns = now - d->commit_ns;
	d->status.downtime_ns = d->run_ns;
	counter_add(&d->vm->counters.migration.arrived, 1);
	d->vm->counters.migration.downtime_us = d->run_ns / 1000;
	pthread_mutex_unlock(&d->lock);
	dest_wake(d);
}

/* ---- the whole ---- */

static void init_receivers(struct dest *d)
{
	for (u32 i = 0; i < WIRE_MAX_BULK; i++)
		d->bulk[i] = (struct dest_receiver){.d = d, .role = WIRE_BULK, .index = i};
	d->urgent = (struct dest_receiver){.d = d, .role = WIRE_URGENT};
}

static const struct snapshot_override *copy_overrides(const struct snapshot_override *o, u32 nr)
{
	struct snapshot_override *copy = xzalloc((nr + 1) * sizeof(*copy));

	for (u32 i = 0; i < nr; i++)
		copy[i] = (struct snapshot_override){xstrdup(o[i].id), xstrdup(o[i].value)};
	return copy;
}

static void free_overrides(const struct snapshot_override *o, u32 nr)
{
	for (u32 i = 0; i < nr; i++) {
		free((void *)(uintptr_t)o[i].id);
		free((void *)(uintptr_t)o[i].value);
	}
	free((void *)(uintptr_t)o);
}

int dest_listen(struct dest **out, const struct dest_params *p, struct log *log, struct err *e)
{
	bool tls = channel_is_tls(p->address);
	struct dest *d;
	int ret;

	*out = NULL;
	if (tls && !p->tls)
		return err_set(e, -EINVAL, "\"%s\": this husk has no certificate: start it with --tls DIR", p->address);
	d = xzalloc(sizeof(*d));
	*d = (struct dest){
		.log = log,
		.package_cap = p->package_cap ?: PACKAGE_SOFT_CAP,
		.patience_ms = p->patience_ms ?: PATIENCE_MS,
		.paused = p->paused,
		.tls = tls ? p->tls : NULL,
		.changes =
			{
				.nets = copy_overrides(p->nets, p->nr_nets),
				.drives = copy_overrides(p->drives, p->nr_drives),
				.nr_nets = p->nr_nets,
				.nr_drives = p->nr_drives,
				.vsock_path = p->vsock_path ? xstrdup(p->vsock_path) : NULL,
			},
		.listen_fd = -1,
		.fault_stop = -1,
		.ram.uffd = -1,
		.start.run = start_vcpus,
	};
	pthread_mutex_init(&d->lock, NULL);
	pthread_mutex_init(&d->request_lock, NULL);
	pthread_rwlock_init(&d->disks.lock, NULL);
	pthread_cond_init(&d->changed, NULL);
	init_receivers(d);
	d->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ret = d->wake_fd < 0 ? err_errno(e, "no event descriptor")
			     : channel_listen(p->address, &d->listen_fd, d->address, sizeof(d->address), e);
	if (ret < 0) {
		dest_close(d);
		d = NULL;
	}
	*out = d;
	return ret;
}

void dest_close(struct dest *d)
{
	struct err e;

	if (!d)
		return;
	ASSERT(!d->vm);
	err_set(&e, -ESHUTDOWN, "the destination has ended");
	if (d->state < DEST_LOADED)
		dest_fail(d, &e, true);
	dest_link_drop_pending(d);
	dest_forget(d);
	if (unix_path(d))
		unlink(unix_path(d));
	free_overrides(d->changes.nets, d->changes.nr_nets);
	free_overrides(d->changes.drives, d->changes.nr_drives);
	free((void *)(uintptr_t)d->changes.vsock_path);
	json_object_put(d->document);
	buf_fini(&d->held);
	fd_close(&d->listen_fd);
	fd_close(&d->wake_fd);
	pthread_cond_destroy(&d->changed);
	pthread_rwlock_destroy(&d->disks.lock);
	pthread_mutex_destroy(&d->request_lock);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

const char *dest_address(const struct dest *d)
{
	return d->address;
}

static bool is_abandoned(struct dest *d)
{
	bool is;

	pthread_mutex_lock(&d->lock);
	is = d->abandoned;
	pthread_mutex_unlock(&d->lock);
	return is;
}

int dest_wait_offer(struct dest *d, struct err *e)
{
	ASSERT(!d->vm);
	migrate_tell(d->log, MIGRATE_LISTEN, d->address);
	while (d->state != DEST_OFFERED) {
		if (is_abandoned(d))
			return err_set(e, -EINTR, "the destination was told to give up");
		if (d->state == DEST_FAILED) {
			dest_forget(d);
			migrate_tell(d->log, MIGRATE_LISTEN, d->address);
		}
		dest_turn(d);
	}
	d->restore = (struct vm_restore){
		.origin = VM_MOVED,
		.paused = true,
		.realtime = true,
		.host_tsc_khz = package_host_tsc_khz(d->offer),
		.passed = d->passed,
		.opaque = d,
		.memory = bring_memory,
		.state = bring_state,
		.started = on_started,
	};
	return 0;
}

int dest_configure(struct dest *d, struct json_object *own, struct json_object **out, struct err *e)
{
	int ret;

	json_object_put(d->document);
	d->document = NULL;
	ret = saved_config_read("VM", package_info(d->offer), &d->changes, &d->document, e);
	if (ret == 0)
		ret = dest_disks_open(&d->disks, d->document, d->page_shift, d->offer_flags & OFFER_VERIFY, e);
	if (ret == 0)
		*out = saved_config_join(d->document, own);
	return ret;
}

void dest_refuse(struct dest *d, const struct err *e)
{
	ASSERT(!d->threaded);
	if (d->state < DEST_LOADED)
		dest_fail(d, e, true);
}

const struct vm_restore *dest_restore(struct dest *d)
{
	return &d->restore;
}

int dest_abandon(struct dest *d, struct err *e)
{
	int ret = 0;

	pthread_mutex_lock(&d->lock);
	if (d->state == DEST_RUNNING || d->state == DEST_COMPLETE)
		ret = err_set(e, -EBUSY, "the VM runs here already");
	else
		d->abandoned = true;
	pthread_mutex_unlock(&d->lock);
	dest_wake(d);
	return ret;
}

int dest_take_over(struct dest *d, struct err *e)
{
	u64 missing;
	int ret = 0;

	pthread_mutex_lock(&d->lock);
	missing = d->state == DEST_LOADED ? page_set_count(&d->ram.missing) : 0;
	if (d->state != DEST_LOADED)
		ret = err_set(e, -EINVAL, "there is no VM that waits here to be run");
	else if (d->control)
		ret = err_set(e, -EISCONN, "the source is connected: it has the VM");
	else if (missing)
		ret = err_set(e, -ENODATA, "%llu pages of its memory are not here, but at the source", (unsigned long long)missing);
	else
		d->over = true;
	pthread_mutex_unlock(&d->lock);
	dest_wake(d);
	return ret;
}

int dest_break(struct dest *d, struct err *e)
{
	int ret = 0;

	pthread_mutex_lock(&d->lock);
	if (!d->control)
		ret = err_set(e, -ENOTCONN, "no source is connected");
	else
		channel_break(d->control);
	for (u32 i = 0; i < WIRE_MAX_BULK; i++) {
		if (d->bulk[i].channel)
			channel_break(d->bulk[i].channel);
	}
	if (d->urgent.channel)
		channel_break(d->urgent.channel);
	pthread_mutex_unlock(&d->lock);
	return ret;
}

/* ---- status ---- */

enum migrate_phase dest_phase_of(enum dest_state state)
{
	static const enum migrate_phase phases[] = {
		[DEST_LISTEN] = MIGRATE_LISTEN,	   [DEST_SETUP] = MIGRATE_SETUP,	[DEST_OFFERED] = MIGRATE_SETUP,
		[DEST_RECEIVE] = MIGRATE_RECEIVE,  [DEST_LOADING] = MIGRATE_RECEIVE,	[DEST_LOADED] = MIGRATE_LOADED,
		[DEST_RUNNING] = MIGRATE_POSTCOPY, [DEST_COMPLETE] = MIGRATE_COMPLETED, [DEST_FAILED] = MIGRATE_FAILED,
	};

	return phases[state];
}

static enum migrate_phase phase_of(const struct dest *d)
{
	if (d->state == DEST_LOADED || d->state == DEST_RUNNING) {
		if (!d->control)
			return d->over ? MIGRATE_RECOVER : MIGRATE_PAUSED;
		if (d->recovering)
			return MIGRATE_RECOVER;
	}
	return d->state == DEST_FAILED && d->cancelled ? MIGRATE_CANCELLED : dest_phase_of(d->state);
}

/* ctx: d->lock held */
static void note_ram(struct dest *d, struct migrate_status *s)
{
	struct dest_ram *r = &d->ram;

	if (!d->threaded) /* it is being made, or gone */
		return;
	s->pages = __atomic_load_n(&r->pages, __ATOMIC_RELAXED);
	s->zero_pages = __atomic_load_n(&r->zero_pages, __ATOMIC_RELAXED);
	s->duplicate_pages = __atomic_load_n(&r->duplicates, __ATOMIC_RELAXED);
	s->disk_remaining_bytes = page_set_count(&d->disks.missing) << r->page_shift;
	s->remaining_bytes = (page_set_count(&r->missing) << r->page_shift) + s->disk_remaining_bytes;
	pthread_mutex_lock(&r->lock);
	s->faults = r->faults;
	s->fault_total_ns = r->fault_total_ns;
	s->fault_max_ns = r->fault_max_ns;
	memcpy(s->fault_histogram, r->fault_histogram, sizeof(s->fault_histogram));
	pthread_mutex_unlock(&r->lock);
}

static void add_bytes(const struct channel *c, struct migrate_status *s)
{
	if (!c)
		return;
	s->sent_bytes += __atomic_load_n(&c->sent_bytes, __ATOMIC_RELAXED);
	s->received_bytes += __atomic_load_n(&c->received_bytes, __ATOMIC_RELAXED);
}

void dest_status(struct dest *d, struct migrate_status *out)
{
	pthread_mutex_lock(&d->lock);
	*out = d->status;
	out->destination = true;
	out->phase = phase_of(d);
	snprintf(out->peer, sizeof(out->peer), "%.*s", (int)sizeof(out->peer) - 1, d->address);
	snprintf(out->error, sizeof(out->error), "%s", d->why.code ? d->why.msg : "");
	out->sent_bytes = d->closed_sent;
	out->received_bytes = d->closed_received;
	add_bytes(d->control, out);
	add_bytes(d->urgent.channel, out);
	for (u32 i = 0; i < WIRE_MAX_BULK; i++)
		add_bytes(d->bulk[i].channel, out);
	note_ram(d, out);
	pthread_mutex_unlock(&d->lock);
}
