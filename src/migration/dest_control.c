/* dest_control.c: the conversation of a destination with its source, and what follows from it; see dest_impl.h. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "migration/dest_impl.h"
#include "vmm/clock.h"

/* ---- the state ---- */

void dest_wake(struct dest *d)
{
	ssize_t n = write(d->wake_fd, &(u64){1}, 8);

	ASSERT(n == 8 || errno == EAGAIN);
}

void dest_set_state(struct dest *d, enum dest_state state)
{
	pthread_mutex_lock(&d->lock);
	d->state = state;
	if (state >= DEST_COMPLETE)
		d->status.end_ns = clock_host_ns();
	pthread_cond_broadcast(&d->changed);
	pthread_mutex_unlock(&d->lock);
	if (state == DEST_SETUP || state == DEST_RECEIVE || state == DEST_LOADED || state == DEST_RUNNING)
		migrate_tell(d->log, dest_phase_of(state), NULL);
}

enum wire_phase dest_wire_phase(const struct dest *d)
{
	static const enum wire_phase phases[] = {
		[DEST_RECEIVE] = WIRE_RECEIVING, [DEST_LOADING] = WIRE_RECEIVING, [DEST_LOADED] = WIRE_LOADED,
		[DEST_RUNNING] = WIRE_RUNNING,	 [DEST_COMPLETE] = WIRE_COMPLETE, [DEST_FAILED] = WIRE_NEW,
	};

	return phases[d->state];
}

void dest_fail(struct dest *d, const struct err *e, bool tell)
{
	struct err why = *e;
	bool end;

	if (d->state == DEST_LISTEN || d->state == DEST_FAILED)
		return;
	if (tell)
		dest_link_tell(d, &why);
	dest_link_drop(d);
	/* Without COMMIT the source goes on; but one that has sent COMMIT may be lost, and the copy is all that is left. */
	dest_disks_drop(&d->disks, d->log, d->state < DEST_LOADED || d->stays);
	migrate_tell(d->log, d->cancelled ? MIGRATE_CANCELLED : MIGRATE_FAILED, why.msg);
	pthread_mutex_lock(&d->lock);
	d->why = why;
	d->state = DEST_FAILED;
	d->status.end_ns = clock_host_ns();
	end = d->loaded;
	pthread_cond_broadcast(&d->changed);
	pthread_mutex_unlock(&d->lock);
	if (end)
		vm_end(d->vm, VM_END_HOST);
}

/* What is missing from now on is zero. */
static void settle(struct dest *d)
{
	if (d->settled)
		return;
	d->settled = true;
	dest_fault_stop(d);
	dest_ram_settle(&d->ram);
}

void dest_complete(struct dest *d, const struct err *lost)
{
	auto_free char *text = NULL;

	settle(d);
	if (lost)
		dest_link_drop(d);
	text = xasprintf("the VM is here as a whole%s%s", lost ? "; the source may not know: " : "", lost ? lost->msg : "");
	dest_set_state(d, DEST_COMPLETE);
	migrate_tell(d->log, MIGRATE_COMPLETED, text);
}

void dest_forget(struct dest *d)
{
	dest_link_drop(d);
	dest_disks_fini(&d->disks);
	d->stays = false;
	package_close(d->offer);
	free(d->offer_bytes);
	free(d->devices);
	passed_close(d->passed);
	free(d->passed);
	d->passed = NULL;
	d->offer = NULL;
	d->offer_bytes = NULL;
	d->devices = NULL;
	pthread_mutex_lock(&d->lock);
	d->refused = d->agreed = d->cancelled = false;
	d->status = (struct migrate_status){0};
	pthread_mutex_unlock(&d->lock);
	dest_set_state(d, DEST_LISTEN);
}

/* ---- what follows ---- */

static bool all_quiet(struct dest *d, u64 *round)
{
	bool quiet = true;

	pthread_mutex_lock(&d->lock);
	*round = d->bulk[0].round;
	for (u32 i = 0; i < d->nr_bulk; i++)
		quiet &= d->bulk[i].channel && d->bulk[i].quiet && d->bulk[i].round == *round;
	pthread_mutex_unlock(&d->lock);
	return quiet;
}

/* All channels have come to the same SYNC. */
static int follow_sync(struct dest *d, struct err *e)
{
	u64 round;

	if (!all_quiet(d, &round) || round == d->synced)
		return 0;
	d->synced = round;
	pthread_mutex_lock(&d->lock);
	d->status.rounds += d->state == DEST_RECEIVE;
	pthread_mutex_unlock(&d->lock);
	return wire_send_u64(d->control, FRAME_SYNCED, &round, 1, e);
}

static int follow_package(struct dest *d, struct err *e)
{
	u64 round;
	int ret;

	if (!d->have_package || !all_quiet(d, &round))
		return 0;
	ret = dest_ram_hand_over(&d->ram, e);
	if (ret < 0)
		return ret;
	dest_fault_open(d);
	dest_set_state(d, DEST_LOADING);
	return 0;
}

/* Every page is there: the digests are awaited, or nothing more. */
static int follow_done(struct dest *d, struct err *e)
{
	u64 now = clock_host_ns(), since = MAX(d->done_ns, __atomic_load_n(&d->ram.last_placed_ns, __ATOMIC_RELAXED));
	u64 missing = page_set_count(&d->ram.missing), placed = __atomic_load_n(&d->ram.placed, __ATOMIC_RELAXED);
	int ret;

	if (missing && now > since && now - since > d->patience_ms * NSEC_PER_MSEC)
		return err_set(e, -EPROTO, "the source says that every page was sent, and %llu are missing", (unsigned long long)missing);
	if (missing)
		return 0;
	settle(d);
	if (d->ram.verify && !d->verified)
		return 0;
	ret = wire_send_u64(d->control, FRAME_RELEASE, &placed, 1, e);
	if (ret == 0)
		dest_complete(d, NULL);
	return ret;
}

static int follow(struct dest *d, struct err *e)
{
	bool agreed, loaded, started;
	int ret = 0;

	pthread_mutex_lock(&d->lock);
	agreed = d->agreed;
	loaded = d->loaded;
	started = d->started;
	pthread_mutex_unlock(&d->lock);
	if (d->state == DEST_OFFERED && agreed) {
		pthread_mutex_lock(&d->lock);
		d->status.setup_ns = clock_host_ns() - d->status.start_ns;
		pthread_mutex_unlock(&d->lock);
		dest_set_state(d, DEST_RECEIVE);
		return wire_send_u64(d->control, FRAME_ACCEPT, &d->package_cap, 1, e);
	}
	if (d->state >= DEST_RECEIVE && d->state < DEST_COMPLETE)
		ret = follow_sync(d, e);
	if (ret == 0 && d->state == DEST_RECEIVE)
		return follow_package(d, e);
	if (ret == 0 && d->state == DEST_LOADING && loaded) {
		dest_set_state(d, DEST_LOADED);
		return wire_send_u64(d->control, FRAME_LOADED, &d->load_ns, 1, e);
	}
	if (ret == 0 && d->state == DEST_RUNNING && started && !d->running_sent) {
		d->running_sent = true;
		ret = wire_send_u64(d->control, FRAME_RUNNING, &d->run_ns, 1, e);
	}
	if (ret == 0 && d->state == DEST_RUNNING && started && d->done)
		ret = follow_done(d, e);
	return ret;
}

/* A receiver that has ended is a lost connection, unless nothing is expected of it any more. */
static int check_receivers(struct dest *d, struct err *e)
{
	bool whole = d->state >= DEST_LOADED && !page_set_count(&d->ram.missing);
	int ret = 0;

	if (__atomic_load_n(&d->urgent_broken, __ATOMIC_ACQUIRE) && !dest_link_may_hear_why(d))
		return err_set(e, -ETIMEDOUT, "the connection is lost: the source does not take requests for pages");
	pthread_mutex_lock(&d->lock);
	for (u32 i = 0; i < WIRE_MAX_BULK + 1; i++) {
		const struct dest_receiver *r = i ? &d->bulk[i - 1] : &d->urgent;

		if (ret == 0 && r->ended && !(whole && r->why.code == -ECONNRESET)) {
			*e = r->why;
			ret = e->code;
		}
	}
	pthread_mutex_unlock(&d->lock);
	return ret == -ECONNRESET && dest_link_may_hear_why(d) ? 0 : ret;
}

/* ---- the clock ---- */

static int heartbeat(struct dest *d, struct err *e)
{
	u64 now = clock_host_ns(), patience = d->patience_ms * NSEC_PER_MSEC;
	u64 received = __atomic_load_n(&d->control->last_received_ns, __ATOMIC_RELAXED);
	u64 sent = __atomic_load_n(&d->control->last_sent_ns, __ATOMIC_RELAXED);

	/* Behind DONE nothing is read until all pages are placed; that has a deadline of its own. */
	if (now - MIN(now, received) > patience && !(d->done && page_set_count(&d->ram.missing)))
		return err_set(e, -ETIMEDOUT, "the connection is lost: the source has been silent for %u ms", d->patience_ms);
	if (d->state == DEST_SETUP && now - d->status.start_ns > patience)
		return err_set(e, -ETIMEDOUT, "the source has offered nothing for %u ms", d->patience_ms);
	if (now - MIN(now, sent) <= patience / 4)
		return 0;
	return wire_send_u64(d->control, FRAME_PING, &now, 1, e);
}

static int timeout_ms(const struct dest *d)
{
	bool waits = d->control != NULL || (d->state >= DEST_LOADED && d->state < DEST_COMPLETE);

	for (u32 i = 0; i < DEST_MAX_PENDING; i++)
		waits |= d->pending[i].channel != NULL;
	return waits ? (int)MAX(MIN(d->patience_ms / 8, 250u), 5u) : -1;
}

/* The user's orders, which need no connection. */
static void obey(struct dest *d)
{
	bool abandoned, refused, over;
	struct err why;

	pthread_mutex_lock(&d->lock);
	over = d->over && d->state == DEST_LOADED && !d->control;
	abandoned = d->abandoned;
	refused = d->refused;
	why = d->why;
	d->cancelled |= abandoned && d->state < DEST_RUNNING;
	pthread_mutex_unlock(&d->lock);
	if (refused && d->state != DEST_FAILED)
		dest_fail(d, &why, true);
	if (over && !abandoned) {
		log_warn(d->log, "the user says that the source is dead: the VM goes on here");
		counter_add(&d->vm->counters.migration.taken_over, 1);
		dest_commit(d);
		dest_complete(d, &why);
	}
	if (!abandoned || d->state == DEST_LISTEN || d->state >= DEST_RUNNING)
		return;
	err_set(&why, -ECANCELED, "the destination was told to give up");
	dest_fail(d, &why, true);
}

/* Who waits for a page that nobody brings keeps a VM from its end. */
static void let_go(struct dest *d)
{
	if (d->control || !d->vm || d->settled || d->state < DEST_LOADED || __atomic_load_n(&d->vm->end, __ATOMIC_ACQUIRE) == VM_END_NONE)
		return;
	d->settled = true;
	dest_ram_lose(&d->ram);
}

/* The conversation cannot go on. */
static void break_off(struct dest *d, struct err *e)
{
	bool gone = e->code == -ECONNRESET || e->code == -ETIMEDOUT;

	if (!d->control)
		return;
	if (gone)
		err_prefix(e, "the source");
	dest_link_lost(d, e, !gone);
}

static void listen_to(struct dest *d)
{
	struct frame f;
	struct err e;
	int ret = channel_receive(d->control, &f, 0, &e);

	if (ret == -EAGAIN)
		return;
	if (ret == 0)
		ret = dest_on_frame(d, &f, &e);
	if (ret < 0)
		break_off(d, &e);
}

static void speak(struct dest *d)
{
	struct err e;
	int ret;

	obey(d);
	let_go(d);
	if (!d->control)
		return;
	ret = check_receivers(d, &e);
	if (ret == 0)
		ret = follow(d, &e);
	if (ret == 0 && d->control)
		ret = heartbeat(d, &e);
	if (ret < 0)
		break_off(d, &e);
}

void dest_turn(struct dest *d)
{
	bool deaf = d->control == NULL || (d->done && page_set_count(&d->ram.missing));
	struct pollfd p[3 + DEST_MAX_PENDING] = {
		{.fd = d->wake_fd, .events = POLLIN},
		{.fd = d->listen_fd, .events = POLLIN},
		{.fd = deaf ? -1 : d->control->fd, .events = POLLIN},
	};
	bool more = !deaf && channel_pending(d->control);
	u64 drained;

	for (u32 i = 0; i < DEST_MAX_PENDING; i++)
		p[3 + i] = (struct pollfd){.fd = d->pending[i].channel ? d->pending[i].channel->fd : -1, .events = POLLIN};
	if (poll(p, ARRAY_SIZE(p), more ? 0 : timeout_ms(d)) < 0)
		return;
	if (p[0].revents && read(d->wake_fd, &drained, 8) < 0)
		ASSERT(errno == EAGAIN || errno == EINTR);
	speak(d);
	if ((p[2].revents || more) && d->control && d->control->fd == p[2].fd)
		listen_to(d);
	for (u32 i = 0; i < DEST_MAX_PENDING; i++) {
		if (d->pending[i].channel && (p[3 + i].revents || clock_host_ns() > d->pending[i].until_ns))
			dest_link_greet(d, i);
	}
	if (p[1].revents)
		dest_link_accept(d);
	speak(d);
}

/* ---- husk-migrate ---- */

static bool told_to_stop(struct dest *d)
{
	bool stop;

	pthread_mutex_lock(&d->lock);
	stop = d->stop;
	pthread_mutex_unlock(&d->lock);
	return stop;
}

/* The VM goes, with or without having run. */
static void last_words(struct dest *d)
{
	struct err e;

	if (d->state == DEST_OFFERED) /* dest_refuse has the word */
		return dest_link_drop_receivers(d);
	if (d->state >= DEST_RUNNING) {
		err_set(&e, -ESHUTDOWN, "the VM has ended at the destination");
		if (d->state == DEST_RUNNING)
			dest_link_tell(d, &e);
		return dest_link_drop(d);
	}
	err_set(&e, -ESHUTDOWN, "the destination has ended before the VM ran there");
	dest_fail(d, &e, true);
}

void *dest_thread(void *opaque)
{
	struct dest *d = opaque;
	struct err e = {0};

	if (d->confine)
		sandbox_enter(d->vm->sandbox, SANDBOX_MIGRATE);
	if (d->control) /* nobody listened while the VM was being made */
		__atomic_store_n(&d->control->last_received_ns, clock_host_ns(), __ATOMIC_RELAXED);
	prctl(PR_SET_NAME, "husk-migrate");
	if (dest_fault_start(d, &e) < 0 || dest_link_start_receivers(d, &e) < 0)
		dest_fail(d, &e, true);
	while (!told_to_stop(d) && !d->released)
		dest_turn(d);
	last_words(d);
	dest_link_drop_pending(d);
	if (d->released)
		fd_close(&d->listen_fd);
	dest_fault_stop(d);
	return NULL;
}
