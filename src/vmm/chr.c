/*
 * chr.c: a character backend: moves bytes between a frontend and a descriptor; see chr.h.
 *
 * Output                                        Input
 *   chr_write -> write(2) while the ring is       in.fd -> in_buf -> escape filter -> rx
 *   empty -> ring -> out_ready (EPOLLOUT)         in.fd is watched while in_buf has room
 */
#include "vmm/chr_impl.h"
#include "vmm/machine.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHR_ESCAPE	0x01 /* Ctrl-a */
#define CHR_TTY_POLL_NS NSEC_PER_SEC

static const char help_text[] = "\r\nhusk: Ctrl-a x  end the VM\r\n      Ctrl-a p  press the power button\r\n      "
				"Ctrl-a a  send Ctrl-a\r\n      Ctrl-a h  this help\r\n";

/* Output */

/* Writes what the descriptor takes without blocking. Returns bytes (0: full, or nobody there yet) or -errno. ctx: any, locked */
static ssize_t out_write(struct chr *c, const u8 *p, u32 len)
{
	struct pollfd pfd = {.fd = c->out.fd, .events = POLLOUT};
	u32 done = 0;

	if (c->out.fd < 0)
		return c->kind == CHR_UNIX ? 0 : (ssize_t)len;
	while (done < len) {
		u32 part = len - done;
		ssize_t n;

		/* A writable pipe or socket takes PIPE_BUF bytes; of a terminal one byte is all that is sure. */
		if (c->out_shared) {
			part = MIN(part, isatty(c->out.fd) ? 1u : (u32)PIPE_BUF);
			if (poll(&pfd, 1, 0) != 1)
				break;
		}
		n = write(c->out.fd, p + done, part);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0)
			return done ? (ssize_t)done : -errno;
		done += (u32)n;
	}
	return done;
}

static void ring_put(struct chr *c, const u8 *p, u32 len)
{
	u32 fits = MIN(len, CHR_RING_SIZE - c->ring_used);
	u32 at = (c->ring_start + c->ring_used) % CHR_RING_SIZE;
	u32 first = MIN(fits, CHR_RING_SIZE - at);

	if (!c->ring)
		c->ring = xzalloc(CHR_RING_SIZE);
	memcpy(c->ring + at, p, first);
	memcpy(c->ring, p + first, fits - first);
	c->ring_used += fits;
	c->dropped += len - fits;
}

static void ring_take(struct chr *c, u32 len)
{
	c->ring_used -= len;
	/* Start over at the first page when empty: a small backlog then touches no more memory than it needs. */
	c->ring_start = c->ring_used ? (c->ring_start + len) % CHR_RING_SIZE : 0;
}

/* Returns 0 or -errno; what could not be written stays in the ring. */
static int ring_flush(struct chr *c)
{
	while (c->ring_used) {
		u32 len = MIN(c->ring_used, CHR_RING_SIZE - c->ring_start);
		ssize_t n = out_write(c, c->ring + c->ring_start, len);

		if (n < 0)
			return (int)n;
		ring_take(c, (u32)n);
		if (n < (ssize_t)len)
			break;
	}
	return 0;
}

/* Said only when output moves again or ends: the log may go to the very pipe that is stuck. */
static void log_drops(struct chr *c)
{
	u64 n = c->dropped - c->dropped_logged;

	if (!n)
		return;
	c->dropped_logged = c->dropped;
	log_guest(c->vm->log, &c->log_limit, CHR_NAME_FMT ": %llu bytes of output dropped, the reader does not keep up", CHR_NAME_ARG(c),
		  (unsigned long long)n);
}

/* The descriptor refuses output (disk full, reader gone): the bytes are lost. */
static void out_failed(struct chr *c, int error, u32 lost)
{
	c->dropped += lost;
	c->dropped_logged += lost;
	if (!c->failed)
		log_warn(c->vm->log, CHR_NAME_FMT ": output is lost: %s", CHR_NAME_ARG(c), strerror(-error));
	c->failed = true;
}

void chr_watch_out(struct chr *c)
{
	/* A file refuses to be watched, but never backs up either. */
	if (c->ring_used && c->out.fd >= 0 && !c->out.loop)
		(void)!loop_watch(&c->vm->loop, &c->out, EPOLLOUT, NULL);
}

void chr_write(struct chr *c, const void *data, u32 len)
{
	const u8 *p = data;
	ssize_t n = 0;

	pthread_mutex_lock(&c->lock);
	if (!c->ring_used)
		n = out_write(c, p, len);
	if (n < 0 && c->kind != CHR_UNIX) {
		out_failed(c, (int)n, len);
		n = len;
	}
	n = MAX(n, 0); /* a client that has gone: out_ready meets the same error, on the loop, and closes */
	if (n < (ssize_t)len) {
		ring_put(c, p + n, len - (u32)n);
		chr_watch_out(c);
	}
	pthread_mutex_unlock(&c->lock);
}

void chr_close_client(struct chr *c)
{
	loop_unwatch(&c->in);
	loop_unwatch(&c->out);
	fd_close(&c->in.fd);
	fd_close(&c->out.fd);
}

static void out_ready(struct loop_fd *w, u32 events)
{
	struct chr *c = container_of(w, struct chr, out);
	int rc;

	(void)events;
	pthread_mutex_lock(&c->lock);
	rc = ring_flush(c);
	if (rc < 0 && c->kind == CHR_UNIX) {
		chr_close_client(c);
	} else if (rc < 0) {
		out_failed(c, rc, c->ring_used);
		ring_take(c, c->ring_used);
	}
	if (!c->ring_used) {
		loop_unwatch(&c->out);
		log_drops(c);
	}
	pthread_mutex_unlock(&c->lock);
}

void chr_drain(struct chr *c, u32 timeout_ms)
{
	u64 end = clock_host_ns() + timeout_ms * NSEC_PER_MSEC;

	for (;;) {
		struct pollfd pfd = {.fd = c->out.fd, .events = POLLOUT};
		u64 now = clock_host_ns();
		bool done;

		pthread_mutex_lock(&c->lock);
		done = ring_flush(c) < 0 || !c->ring_used || c->out.fd < 0;
		pthread_mutex_unlock(&c->lock);
		if (done || now >= end)
			return;
		(void)!poll(&pfd, 1, (int)((end - now) / NSEC_PER_MSEC + 1));
	}
}

u64 chr_dropped(struct chr *c)
{
	u64 n;

	pthread_mutex_lock(&c->lock);
	n = c->dropped;
	pthread_mutex_unlock(&c->lock);
	return n;
}

/* Input */

void chr_watch_in(struct chr *c)
{
	if (c->in.fd < 0 || c->in.loop || !c->in_pollable)
		return;
	/* Files and /dev/null refuse: they are always ready, and read by the timer. */
	if (loop_watch(&c->vm->loop, &c->in, EPOLLIN, NULL) < 0) {
		c->in_pollable = false;
		loop_timer_arm(&c->vm->loop, &c->tick, clock_host_ns());
	}
}

void chr_close_in(struct chr *c)
{
	loop_unwatch(&c->in);
	if (c->is_tty)
		chr_restore_terminal();
	fd_close(&c->in.fd);
}

/* Carries out what follows Ctrl-a; returns how many bytes of out[0..2) it is for the guest. */
static u32 escape_key(struct chr *c, u8 key, u8 *out)
{
	struct err e;

	switch (key) {
	case 'x':
		vm_end(c->vm, VM_END_HOST);
		return 0;
	case 'p':
		if (machine_power_button(c->vm, &e) < 0)
			log_warn(c->vm->log, "power button: %s", e.msg);
		return 0;
	case 'h':
		chr_write(c, help_text, sizeof(help_text) - 1);
		return 0;
	case 'a':
		out[0] = CHR_ESCAPE;
		return 1;
	default:
		out[0] = CHR_ESCAPE;
		out[1] = key;
		return 2;
	}
}

/* Appends input to in_buf, with the escapes taken out. Needs room for len + 1 bytes: a Ctrl-a held back earlier may come on top. */
static void in_append(struct chr *c, const u8 *p, u32 len)
{
	for (u32 i = 0; i < len; i++) {
		if (c->escaped) {
			c->escaped = false;
			c->in_len += escape_key(c, p[i], c->in_buf + c->in_len);
		} else if (c->is_tty && p[i] == CHR_ESCAPE) {
			c->escaped = true;
		} else {
			c->in_buf[c->in_len++] = p[i];
		}
	}
}

bool chr_has_room(const struct chr *c)
{
	return c->in_len + 1 < CHR_IN_SIZE;
}

bool chr_read(struct chr *c)
{
	u8 raw[CHR_IN_SIZE];
	ssize_t n;

	if (!chr_has_room(c))
		return true;
	n = read(c->in.fd, raw, CHR_IN_SIZE - 1 - c->in_len);
	if (n > 0)
		in_append(c, raw, (u32)n);
	return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

void chr_deliver(struct chr *c)
{
	u32 took = c->in_len;

	if (took && c->rx) /* without a frontend, input goes nowhere */
		took = c->rx(c->opaque, c->in_buf, c->in_len);
	ASSERT(took <= c->in_len);
	c->in_len -= took;
	memmove(c->in_buf, c->in_buf + took, c->in_len);
	if (chr_has_room(c))
		chr_watch_in(c);
	else
		loop_unwatch(&c->in);
}

/* The terminal is ours: raw mode, read. It is not: look again in a second (the user may type "fg"). */
static void tty_tick(struct chr *c)
{
	if (chr_tty_is_ours(c->in.fd)) {
		chr_tty_raw(c->in.fd);
		chr_deliver(c);
		return;
	}
	loop_unwatch(&c->in);
	chr_tty_forget();
	loop_timer_arm(&c->vm->loop, &c->tick, clock_host_ns() + CHR_TTY_POLL_NS);
}

/* One read of a file per turn of the loop, while the frontend takes it all: other descriptors get their turn between. */
static void file_tick(struct chr *c)
{
	if (c->in.fd >= 0 && !c->in_len && !chr_read(c))
		chr_close_in(c);
	chr_deliver(c);
	if (c->in.fd >= 0 && !c->in_len)
		loop_timer_arm(&c->vm->loop, &c->tick, clock_host_ns());
}

static void tick(struct loop_timer *t)
{
	struct chr *c = container_of(t, struct chr, tick);

	if (c->is_tty)
		tty_tick(c);
	else
		file_tick(c);
}

/* The client sends no more (shutdown or close). It may still want output: wait for the hang-up, which epoll always reports. */
static void client_eof(struct chr *c, u32 events)
{
	if (!(events & (EPOLLHUP | EPOLLERR))) {
		loop_modify(&c->in, 0);
		return;
	}
	pthread_mutex_lock(&c->lock);
	chr_close_client(c);
	pthread_mutex_unlock(&c->lock);
}

static void in_ready(struct loop_fd *w, u32 events)
{
	struct chr *c = container_of(w, struct chr, in);

	if (c->is_tty && !chr_tty_is_ours(c->in.fd)) {
		tty_tick(c);
		return;
	}
	if (!chr_read(c)) {
		if (c->kind == CHR_UNIX)
			client_eof(c, events);
		else
			chr_close_in(c);
	}
	chr_deliver(c);
}

static void resume_run(struct loop_work *w)
{
	struct chr *c = container_of(w, struct chr, resume);

	if (c->in_pollable)
		chr_deliver(c);
	else
		file_tick(c);
}

void chr_rx_resume(struct chr *c)
{
	loop_post(&c->vm->loop, &c->resume);
}

static struct chr *open_new(struct chr *c, struct err *e)
{
	pthread_mutex_init(&c->lock, NULL);
	c->in = (struct loop_fd){.fd = -1, .ready = in_ready};
	c->out = (struct loop_fd){.fd = -1, .ready = out_ready};
	c->resume.run = resume_run;
	c->tick.expired = tick;
	c->listener.fd = -1;
	c->in_pollable = true;
	c->pty_slave = -1;
	if (chr_open(c, e) < 0) {
		chr_free(c);
		return NULL;
	}
	return c;
}

struct chr *chr_new(struct vm *vm, const char *spec, chr_rx_fn *rx, void *opaque, struct err *e)
{
	enum chr_kind kind;
	const char *path;
	struct chr *c;

	if (!chr_spec_parse(spec, &kind, &path)) {
		err_set(e, -EINVAL, "\"%s\": expected stdio, pty, unix:PATH (up to 107 bytes), file:PATH or null", spec);
		return NULL;
	}
	c = xzalloc(sizeof(*c));
	*c = (struct chr){.vm = vm, .kind = kind, .rx = rx, .opaque = opaque, .path = path ? xstrdup(path) : NULL};
	return open_new(c, e);
}

struct chr *chr_new_output(struct vm *vm, const char *path, struct err *e)
{
	struct chr *c = xzalloc(sizeof(*c));

	*c = (struct chr){.vm = vm, .kind = CHR_FILE, .path = xstrdup(path), .keep = true};
	return open_new(c, e);
}

void chr_free(struct chr *c)
{
	if (!c)
		return;
	log_drops(c);
	loop_timer_cancel(&c->vm->loop, &c->tick);
	loop_work_cancel(&c->vm->loop, &c->resume);
	chr_close_in(c);
	loop_unwatch(&c->out);
	loop_unwatch(&c->listener);
	fd_close(&c->out.fd);
	fd_close(&c->listener.fd);
	fd_close(&c->pty_slave);
	chr_unclaim(c);
	pthread_mutex_destroy(&c->lock);
	free(c->ring);
	free(c->path);
	free(c);
}

const char *chr_path(const struct chr *c)
{
	return c->kind == CHR_PTY ? c->path : NULL;
}
