/* source_control.c: the channels' beginning and end, and what comes on CONTROL; see source_impl.h. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "migration/source_impl.h"
#include "vmm/clock.h"

#define TURN_MS	      50 /* how long a cancellation or a sender's failure may go unseen */
#define IDLE_TURN_MS  2
#define GRACE_NS      (500 * NSEC_PER_MSEC) /* for a FAIL that says why a channel was closed */
#define LAST_WORDS_MS 200		    /* for the destination to read that it is over */

/* ---- opening ---- */

static int hello(struct source *s, struct channel *c, u8 role, u8 index, struct err *e)
{
	struct wire_hello h = {.version = WIRE_VERSION, .role = role, .index = index, .nr_bulk = (u8)s->params.nr_bulk};

	memcpy(h.session, s->session, sizeof(h.session));
	c->epoch = s->epoch;
	return wire_send_hello(c, &h, e);
}

static bool is_over(void *opaque)
{
	struct err e;

	return source_interrupted(opaque, &e) < 0;
}

static int open_channel(struct source *s, struct channel *c, bool *open, struct err *e)
{
	int ret = source_interrupted(s, e);

	if (ret == 0)
		ret = channel_connect_unless(c, s->params.address, s->params.tls, s->params.patience_ms, is_over, s, e);
	if (ret < 0) {
		channel_close(c);
		return ret;
	}
	pthread_mutex_lock(&s->lock);
	*open = true;
	pthread_mutex_unlock(&s->lock);
	return 0;
}

int source_connect(struct source *s, struct wire_welcome *w, struct err *e)
{
	struct frame f;
	int ret;

	s->heartbeat = false;
	s->grace_end_ns = 0;
	s->failed = false;
	ret = open_channel(s, &s->control, &s->control_open, e);
	if (ret == 0)
		ret = hello(s, &s->control, WIRE_CONTROL, 0, e);
	if (ret == 0)
		ret = source_receive(s, s->params.patience_ms, &f, e);
	if (ret == 0 && f.type != FRAME_WELCOME)
		return err_set(e, -EPROTO, "the destination sent frame %s where WELCOME has to come", frame_name(f.type));
	return ret == 0 ? wire_get_welcome(&f, w, e) : ret;
}

static int open_sender(struct source *s, u32 index, struct err *e)
{
	struct sender *b = &s->senders[index];
	bool urgent = index == s->params.nr_bulk;
	struct frame f;
	int ret;

	b->s = s;
	b->index = index;
	b->job = s->job;
	b->synced = 0;
	ret = open_channel(s, &b->channel, &b->open, e);
	if (ret == 0)
		ret = hello(s, &b->channel, urgent ? WIRE_URGENT : WIRE_BULK, urgent ? 0 : (u8)index, e);
	if (ret == 0)
		ret = wire_expect(&b->channel, FRAME_WELCOME, "destination", (int)s->params.patience_ms, &f, e);
	if (ret < 0)
		return source_interrupted(s, e) < 0 ? e->code : ret;
	batch_init(b);
	ret = pthread_create(&b->thread, NULL, urgent ? source_urgent_thread : source_bulk_thread, b);
	b->started = ret == 0;
	return ret ? err_set(e, -ret, "no thread for a migration's channel: %s", strerror(ret)) : 0;
}

int source_open_senders(struct source *s, struct err *e)
{
	int ret = 0;

	__atomic_store_n(&s->quit, false, __ATOMIC_RELEASE);
	for (u32 i = 0; ret == 0 && i < s->params.nr_bulk + source_may_postcopy(s); i++)
		ret = open_sender(s, i, e);
	return ret;
}

/* ---- closing ---- */

static void close_channel(struct source *s, struct channel *c, bool *open)
{
	pthread_mutex_lock(&s->lock);
	if (*open) {
		*open = false;
		s->closed_sent += c->sent_bytes;
		s->closed_received += c->received_bytes;
		counter_add(&s->vm->counters.migration.sent_bytes, c->sent_bytes);
		counter_add(&s->vm->counters.migration.received_bytes, c->received_bytes);
		channel_close(c);
	}
	pthread_mutex_unlock(&s->lock);
}

void source_break_channels(struct source *s, bool control)
{
	for (u32 i = 0; i < ARRAY_SIZE(s->senders); i++) {
		if (s->senders[i].open)
			channel_break(&s->senders[i].channel);
	}
	if (control && s->control_open)
		channel_break(&s->control);
}

void source_disconnect(struct source *s)
{
	pthread_mutex_lock(&s->lock);
	__atomic_store_n(&s->quit, true, __ATOMIC_RELEASE);
	source_break_channels(s, false);
	pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->lock);
	for (u32 i = 0; i < ARRAY_SIZE(s->senders); i++) {
		struct sender *b = &s->senders[i];

		if (b->started)
			pthread_join(b->thread, NULL);
		b->started = false;
		close_channel(s, &b->channel, &b->open);
		batch_fini(b);
	}
	close_channel(s, &s->control, &s->control_open);
}

static int says(const struct wire_fail *fail, struct err *e)
{
	return err_set(e, fail->code == -EAGAIN ? -EIO : fail->code, "the destination says: %s", fail->text);
}

void source_say_why(struct source *s, u16 type, struct err *why)
{
	bool lost = why->code == -ECONNRESET || why->code == -EPIPE;
	struct wire_fail fail;
	struct frame f;
	struct err e;

	if (!s->control_open)
		return;
	wire_send_fail(&s->control, type, why->code, why->msg);
	/* A close with something unread would take it back. */
	shutdown(s->control.fd, SHUT_WR);
	while (channel_receive(&s->control, &f, LAST_WORDS_MS, &e) == 0) {
		if (lost && f.type == FRAME_FAIL && wire_get_fail(&f, &fail, &e) == 0)
			says(&fail, why);
	}
}

/* ---- receiving ---- */

static int silent(const struct source *s, struct err *e)
{
	return err_set(e, -ETIMEDOUT, "the connection is lost: the destination has been silent for %u ms", s->params.patience_ms);
}

/* since_ns: when the waiting began; before it nobody looked. */
static int keep_alive(struct source *s, u64 since_ns, struct err *e)
{
	u64 now = clock_host_ns(), patience_ns = s->params.patience_ms * NSEC_PER_MSEC;
	u64 heard_ns = __atomic_load_n(&s->control.last_received_ns, __ATOMIC_RELAXED);

	if (s->heartbeat && now - MAX(heard_ns, since_ns) > patience_ns)
		return silent(s, e);
	if (now - __atomic_load_n(&s->control.last_sent_ns, __ATOMIC_RELAXED) > patience_ns / 4)
		return wire_send_u64(&s->control, FRAME_PING, &now, 1, e);
	return 0;
}

/* A sender has failed: the destination may be about to say why. */
static int senders_failure(struct source *s, struct err *e)
{
	bool failed;

	pthread_mutex_lock(&s->lock);
	failed = s->failed;
	pthread_mutex_unlock(&s->lock);
	if (!failed)
		return 0;
	if (!s->grace_end_ns)
		s->grace_end_ns = clock_host_ns() + GRACE_NS;
	if (clock_host_ns() < s->grace_end_ns)
		return 0;
	*e = s->failure;
	return e->code;
}

static int look_around(struct source *s, u64 since_ns, struct err *e)
{
	int ret = source_interrupted(s, e);

	if (ret == 0)
		ret = senders_failure(s, e);
	return ret == 0 ? keep_alive(s, since_ns, e) : ret;
}

/* 0: a frame for the caller; -EAGAIN: it was none. */
static int take(struct source *s, struct frame *f, struct err *e)
{
	struct wire_fail fail;
	int ret;

	switch (f->type) {
	case FRAME_PING:
		ret = channel_send_bytes(&s->control, FRAME_PONG, f->body, f->len, e);
		return ret == 0 ? -EAGAIN : ret;
	case FRAME_PONG:
		return -EAGAIN;
	case FRAME_FAIL:
		ret = wire_get_fail(f, &fail, e);
		return ret < 0 ? ret : says(&fail, e);
	default:
		return 0;
	}
}

/* idle: true ends it with a frame of type 0. */
static int receive_until(struct source *s, bool (*idle)(struct source *s), u32 within_ms, struct frame *f, struct err *e)
{
	u64 since_ns = clock_host_ns(), end_ns = since_ns + within_ms * NSEC_PER_MSEC;
	int ret = -EAGAIN;

	while (ret == -EAGAIN) {
		ret = look_around(s, since_ns, e);
		if (ret < 0)
			return ret;
		if (idle && idle(s)) {
			f->type = 0; /* a PONG may have been there before */
			return 0;
		}
		if (within_ms && clock_host_ns() > end_ns)
			return err_set(e, -ETIMEDOUT, "the destination has not answered for %u ms", within_ms);
		ret = channel_receive(&s->control, f, idle ? IDLE_TURN_MS : TURN_MS, e);
		if (ret == 0)
			ret = take(s, f, e);
	}
	/* A connection that was broken off on purpose says so. */
	return ret < 0 && source_interrupted(s, e) < 0 ? e->code : ret;
}

int source_receive(struct source *s, u32 within_ms, struct frame *f, struct err *e)
{
	return receive_until(s, NULL, within_ms, f, e);
}

static bool senders_idle(struct source *s)
{
	bool busy = false;

	pthread_mutex_lock(&s->lock);
	for (u32 i = 0; i < s->params.nr_bulk; i++)
		busy |= s->senders[i].busy;
	pthread_mutex_unlock(&s->lock);
	return !busy;
}

int source_await_senders(struct source *s, struct err *e)
{
	struct frame f = {0};
	int ret = receive_until(s, senders_idle, 0, &f, e);

	return ret == 0 && f.type ? err_set(e, -EPROTO, "the destination sent frame %s while pages are missing there", frame_name(f.type))
				  : ret;
}

int source_expect(struct source *s, u16 type, u32 within_ms, u64 *v, u32 nr, struct err *e)
{
	struct frame f;
	int ret = source_receive(s, within_ms, &f, e);

	if (ret < 0)
		return ret;
	if (f.type != type)
		return err_set(e, -EPROTO, "the destination sent frame %s where %s has to come", frame_name(f.type), frame_name(type));
	return wire_get_u64(&f, v, nr, e);
}
