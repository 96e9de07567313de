/* dest_link.c: the connections of a destination; see dest_impl.h. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "migration/dest_impl.h"
#include "vmm/clock.h"

#define GREET_MS      5000u		    /* a connection that says nothing for so long is closed */
#define GRACE_NS      (500 * NSEC_PER_MSEC) /* for a FAIL or ABORT that says why a channel was closed */
#define GREET_STEP_MS 1000u		    /* who has begun to speak goes on: nobody else is served meanwhile */

int dest_thread_start(pthread_t *id, void *(*run)(void *), void *opaque, struct err *e)
{
	sigset_t all, old;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(id, NULL, run, opaque);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	errno = ret;
	return ret ? err_errno(e, "no thread for the migration") : 0;
}

/* ---- channels ---- */

/* Its bytes are counted for good. */
static void close_channel(struct dest *d, struct channel **c)
{
	pthread_mutex_lock(&d->lock);
	if (*c) {
		d->closed_sent += (*c)->sent_bytes;
		d->closed_received += (*c)->received_bytes;
		if (d->vm) {
			counter_add(&d->vm->counters.migration.sent_bytes, (*c)->sent_bytes);
			counter_add(&d->vm->counters.migration.received_bytes, (*c)->received_bytes);
		}
		channel_close(*c);
		free(*c);
	}
	*c = NULL;
	pthread_mutex_unlock(&d->lock);
}

/* The last words to a peer; nobody waits long for it to hear them. */
static void tell(struct channel *c, int code, const char *text)
{
	if (c->epoch == CHANNEL_ANY_EPOCH)
		c->epoch = 0;
	c->patience_ms = MIN(c->patience_ms, GREET_STEP_MS);
	wire_send_fail(c, FRAME_FAIL, code, text);
}

void dest_link_tell(struct dest *d, const struct err *e)
{
	if (d->control)
		tell(d->control, e->code, e->msg);
}

/* ---- threads that receive pages ---- */

static int on_sync(struct dest_receiver *r, const struct frame *f, struct err *e)
{
	u64 round;
	int ret = wire_get_u64(f, &round, 1, e);

	if (ret < 0)
		return ret;
	if (r->role != WIRE_BULK)
		return err_set(e, -EPROTO, "frame SYNC has no place on the channel of urgent pages");
	/* Here, and not all of it while the VM stands still. */
	ret = r->index == 0 ? dest_disks_sync(&r->d->disks, e) : 0;
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&r->d->lock);
	if (round <= r->round)
		ret = err_set(e, -EPROTO, "frame SYNC: field round: %llu after %llu", (unsigned long long)round,
			      (unsigned long long)r->round);
	r->round = round;
	r->quiet = true;
	pthread_mutex_unlock(&r->d->lock);
	dest_wake(r->d);
	return ret;
}

static int on_pages(struct dest_receiver *r, const struct frame *f, struct err *e)
{
	struct dest *d = r->d;
	struct wire_pages p;
	bool early;
	int ret = wire_get_pages(f, &p, e);

	if (ret < 0)
		return ret;
	pthread_mutex_lock(&d->lock);
	early = d->state < DEST_RECEIVE || (r->role == WIRE_URGENT && d->state == DEST_RECEIVE);
	r->quiet = false;
	pthread_mutex_unlock(&d->lock);
	if (early)
		return err_set(e, -EPROTO, "frame PAGES comes too early");
	ret = dest_ram_pages(&d->ram, &p, r->scratch, e);
	if (ret == 0 && __atomic_load_n(&d->ram.placing, __ATOMIC_ACQUIRE) && !page_set_count(&d->ram.missing))
		dest_wake(d);
	return ret;
}

static int receive_one(struct dest_receiver *r, struct err *e)
{
	struct frame f;
	int ret = channel_receive(r->channel, &f, -1, e);

	if (ret < 0)
		return ret;
	if (f.type == FRAME_PAGES)
		return on_pages(r, &f, e);
	if (f.type == FRAME_SYNC)
		return on_sync(r, &f, e);
	if (f.type == FRAME_FAIL) {
		struct wire_fail fail;

		ret = wire_get_fail(&f, &fail, e);
		return ret < 0 ? ret : err_set(e, -ECONNABORTED, "the source says: %s", fail.text);
	}
	return err_set(e, -EPROTO, "frame %s has no place on a channel of pages", frame_name(f.type));
}

static void *run_receiver(void *opaque)
{
	struct dest_receiver *r = opaque;
	struct err e = {0};

	prctl(PR_SET_NAME, r->role == WIRE_BULK ? "husk-bulk" : "husk-urgent");
	while (receive_one(r, &e) == 0)
		;
	if (r->role == WIRE_BULK)
		err_prefix(&e, "bulk channel %u", r->index);
	else
		err_prefix(&e, "urgent channel");
	pthread_mutex_lock(&r->d->lock);
	r->why = e;
	r->ended = true;
	pthread_mutex_unlock(&r->d->lock);
	dest_wake(r->d);
	return NULL;
}

static int start_receiver(struct dest_receiver *r, struct err *e)
{
	int ret;

	if (!r->channel || r->started)
		return 0;
	r->scratch = r->scratch ?: malloc(DEST_SCRATCH);
	if (!r->scratch)
		return err_set(e, -ENOMEM, "no memory to receive pages");
	ret = dest_thread_start(&r->thread, run_receiver, r, e);
	r->started = ret == 0;
	return ret;
}

int dest_link_start_receivers(struct dest *d, struct err *e)
{
	int ret = start_receiver(&d->urgent, e);

	for (u32 i = 0; ret == 0 && i < d->nr_bulk; i++)
		ret = start_receiver(&d->bulk[i], e);
	return ret;
}

static void stop_receiver(struct dest_receiver *r)
{
	if (r->channel)
		channel_break(r->channel);
	if (r->started)
		pthread_join(r->thread, NULL);
	close_channel(r->d, &r->channel);
	free(r->scratch);
	pthread_mutex_lock(&r->d->lock);
	*r = (struct dest_receiver){.d = r->d, .role = r->role, .index = r->index};
	pthread_mutex_unlock(&r->d->lock);
}

void dest_link_drop_receivers(struct dest *d)
{
	/* Who sends a request must not wait for its peer any more. */
	if (d->urgent.channel)
		channel_break(d->urgent.channel);
	dest_fault_close(d);
	for (u32 i = 0; i < WIRE_MAX_BULK; i++)
		stop_receiver(&d->bulk[i]);
	stop_receiver(&d->urgent);
}

void dest_link_drop_pending(struct dest *d)
{
	for (u32 i = 0; i < DEST_MAX_PENDING; i++)
		close_channel(d, &d->pending[i].channel);
}

void dest_link_drop(struct dest *d)
{
	if (d->control)
		channel_break(d->control);
	dest_link_drop_receivers(d);
	close_channel(d, &d->control);
}

bool dest_link_may_hear_why(struct dest *d)
{
	u64 now = clock_host_ns();

	if (!d->grace_end_ns)
		d->grace_end_ns = now + GRACE_NS;
	return now < d->grace_end_ns;
}

void dest_link_lost(struct dest *d, const struct err *e, bool speak)
{
	auto_free char *text = NULL;
	struct err why = *e;
	u64 missing;

	if (speak)
		dest_link_tell(d, &why);
	if (d->state == DEST_RUNNING && d->running_sent && !page_set_count(&d->ram.missing))
		return dest_complete(d, &why);
	if (d->state < DEST_LOADED || d->state == DEST_FAILED)
		return dest_fail(d, &why, false);
	dest_link_drop(d);
	if (d->state == DEST_COMPLETE)
		return;
	pthread_mutex_lock(&d->lock);
	d->recovering = false;
	d->why = why;
	pthread_mutex_unlock(&d->lock);
	missing = page_set_count(&d->ram.missing);
	counter_add(&d->vm->counters.migration.paused, 1);
	text = xasprintf("%s; %llu pages are missing; it goes on when the source recovers it%s", why.msg, (unsigned long long)missing,
			 missing ? "" : " or, if the source is dead, after `husk ctl SOCKET migrate take-over`");
	migrate_tell(d->log, MIGRATE_PAUSED, text);
}

/* ---- who connects ---- */

/* A free place, or that of who has been silent for longest. */
static u32 pending_place(struct dest *d)
{
	u32 oldest = 0;

	for (u32 i = 0; i < DEST_MAX_PENDING; i++) {
		if (!d->pending[i].channel)
			return i;
		if (d->pending[i].until_ns < d->pending[oldest].until_ns)
			oldest = i;
	}
	close_channel(d, &d->pending[oldest].channel);
	return oldest;
}

void dest_link_accept(struct dest *d)
{
	for (;;) {
		int fd = accept4(d->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		struct channel *c;
		struct err e;
		u32 i;

		if (fd < 0)
			return;
		i = pending_place(d);
		c = xzalloc(sizeof(*c));
		d->pending[i].until_ns = clock_host_ns() + GREET_MS * NSEC_PER_MSEC;
		d->pending[i].channel = c;
		if (channel_take(c, fd, d->tls, d->patience_ms, &e) < 0) {
			close_channel(d, &d->pending[i].channel);
			continue;
		}
		c->epoch = CHANNEL_ANY_EPOCH;
		c->patience_ms = MIN(d->patience_ms, GREET_STEP_MS);
	}
}

static int welcome(struct dest *d, struct channel *c, struct err *e)
{
	const struct wire_welcome w = {
		.phase = (u8)dest_wire_phase(d),
		.knows = WIRE_KNOWS_DISKS,
		.package_cap = d->package_cap,
		.missing = d->ram.vm ? page_set_count(&d->ram.missing) : 0,
	};

	return wire_send_welcome(c, &w, e);
}

/* What the source does not know that it has to send again. */
static int send_missing(struct dest *d, struct channel *c, struct err *e)
{
	u8 bits[WIRE_BITS_PER_FRAME / 8];
	int ret = 0;

	for (u32 i = 0; ret == 0 && i < d->ram.missing.nr_regions; i++) {
		const struct page_set_region *r = &d->ram.missing.regions[i];

		for (u32 first = 0; ret == 0 && first < r->nr; first += WIRE_BITS_PER_FRAME) {
			struct wire_bits b = {
				.region = (u16)i, .first = first, .nr = MIN(r->nr - first, WIRE_BITS_PER_FRAME), .bits = bits};

			/* Pages may be given up meanwhile. */
			for (u32 w = 0; w < (b.nr + 63) / 64; w++)
				st_le64(bits + w * 8, __atomic_load_n(&r->bits[first / 64 + w], __ATOMIC_ACQUIRE));
			ret = wire_send_bits(c, &b, e);
		}
	}
	return ret == 0 ? wire_send_u64(c, FRAME_SYNCED, &(u64){c->epoch}, 1, e) : ret;
}

static void set_control(struct dest *d, struct channel *c)
{
	c->patience_ms = d->patience_ms;
	c->package_cap = d->package_cap;
	d->epoch = c->epoch;
	d->grace_end_ns = 0;
	pthread_mutex_lock(&d->lock);
	d->over = false; /* the source is there after all */
	d->control = c;
	pthread_mutex_unlock(&d->lock);
}

/* The first of a new session. */
static int greet_new(struct dest *d, const struct wire_hello *h, struct channel *c, struct err *e)
{
	int ret = welcome(d, c, e);

	if (ret < 0)
		return ret;
	memcpy(d->session, h->session, sizeof(d->session));
	d->nr_bulk = h->nr_bulk;
	set_control(d, c);
	pthread_mutex_lock(&d->lock);
	d->status.start_ns = clock_host_ns();
	d->why = (struct err){0};
	pthread_mutex_unlock(&d->lock);
	dest_set_state(d, DEST_SETUP);
	return 0;
}

/* The source has lost the connection, also where it was not noticed here. */
static int greet_recovery(struct dest *d, const struct wire_hello *h, struct channel *c, struct err *e)
{
	auto_free char *text = NULL;
	int ret;

	if (d->state < DEST_LOADED || d->state == DEST_FAILED)
		return err_set(e, -ENOENT, "there is nothing to recover: the VM is not here");
	dest_link_drop(d);
	pthread_mutex_lock(&d->lock);
	d->status.recoveries++;
	pthread_mutex_unlock(&d->lock);
	d->nr_bulk = h->nr_bulk;
	d->done = false;
	d->synced = 0;
	d->running_sent |= d->state >= DEST_RUNNING; /* the phase says it */
	c->patience_ms = d->patience_ms;
	ret = welcome(d, c, e);
	/* A source that has not sent COMMIT begins with all of them. */
	if (ret == 0 && d->state == DEST_RUNNING)
		ret = send_missing(d, c, e);
	if (ret < 0)
		return ret;
	set_control(d, c);
	pthread_mutex_lock(&d->lock);
	d->recovering = d->state != DEST_COMPLETE;
	pthread_mutex_unlock(&d->lock);
	counter_add(&d->vm->counters.migration.recovered, 1);
	text = xasprintf("epoch %u, %llu pages are missing", d->epoch, (unsigned long long)page_set_count(&d->ram.missing));
	migrate_tell(d->log, MIGRATE_RECOVER, text);
	return 0;
}

static int greet_control(struct dest *d, const struct wire_hello *h, struct channel *c, struct err *e)
{
	bool same = d->state != DEST_LISTEN && !memcmp(h->session, d->session, sizeof(d->session));

	if (d->state == DEST_LISTEN && c->epoch == 0)
		return greet_new(d, h, c, e);
	if (d->state == DEST_LISTEN || (same && d->state == DEST_FAILED))
		return err_set(e, -ENOENT, "there is nothing to recover: no such migration came here");
	if (same && c->epoch > d->epoch)
		return greet_recovery(d, h, c, e);
	return err_set(e, -EBUSY, "this husk takes another VM, or has it");
}

static int greet_receiver(struct dest *d, const struct wire_hello *h, struct channel *c, struct err *e)
{
	struct dest_receiver *r = h->role == WIRE_BULK ? &d->bulk[h->index] : &d->urgent;
	int ret;

	if (!d->control || memcmp(h->session, d->session, sizeof(d->session)) || c->epoch != d->epoch)
		return err_set(e, -ENOENT, "this channel belongs to no migration that comes here");
	if (h->nr_bulk != d->nr_bulk)
		return err_set(e, -EPROTO, "frame HELLO: field nr_bulk: %u, and the first said %u", h->nr_bulk, d->nr_bulk);
	if (r->channel)
		return err_set(e, -EPROTO, "frame HELLO: this channel is there already");
	ret = welcome(d, c, e);
	if (ret < 0)
		return ret;
	c->patience_ms = d->patience_ms;
	pthread_mutex_lock(&d->lock);
	r->channel = c;
	r->quiet = true;
	pthread_mutex_unlock(&d->lock);
	ret = d->threaded ? start_receiver(r, e) : 0;
	if (ret == 0 && r->role == WIRE_URGENT && d->serving)
		dest_fault_open(d);
	return ret;
}

/* The channel is the link's afterwards, or still the caller's. */
static int greet(struct dest *d, struct channel *c, struct err *e)
{
	struct wire_hello h;
	struct frame f;
	int ret = channel_greet(c, e);

	if (ret == 0)
		ret = wire_expect(c, FRAME_HELLO, "source", 0, &f, e);
	if (ret == 0)
		ret = wire_get_hello(&f, &h, e);
	if (ret < 0)
		return ret;
	return h.role == WIRE_CONTROL ? greet_control(d, &h, c, e) : greet_receiver(d, &h, c, e);
}

static bool is_linked(const struct dest *d, const struct channel *c)
{
	bool is = d->control == c || d->urgent.channel == c;

	for (u32 i = 0; i < WIRE_MAX_BULK; i++)
		is |= d->bulk[i].channel == c;
	return is;
}

void dest_link_greet(struct dest *d, u32 pending)
{
	struct channel *c = d->pending[pending].channel;
	struct err e;
	int ret = greet(d, c, &e);

	if (ret == -EAGAIN && clock_host_ns() <= d->pending[pending].until_ns)
		return; /* TLS comes first */
	if (ret == -EAGAIN)
		err_set(&e, -ETIMEDOUT, "the peer has not come to its first frame within %u ms", GREET_MS);
	if (is_linked(d, c)) {
		d->pending[pending].channel = NULL;
		if (ret < 0)
			dest_link_lost(d, &e, true);
		return;
	}
	log_warn(d->log, "a connection is refused: %s", e.msg);
	if (ret != -ECONNRESET && c->secured)
		tell(c, ret, e.msg);
	close_channel(d, &d->pending[pending].channel);
}
