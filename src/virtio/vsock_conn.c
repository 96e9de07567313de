/* vsock_conn.c: the connections of the vsock device and their sockets on the host; see vsock_dev.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "virtio/vsock_dev.h"

#define ACCEPT_BATCH	32u
#define ACCEPT_AGAIN_NS (100 * NSEC_PER_MSEC)
/* Edges: a socket that the guest has no credit for stays readable without waking the loop again. */
#define CONN_EVENTS ((u32)(EPOLLIN | EPOLLRDHUP | EPOLLET))

static struct log *log_of(const struct virtio_vsock *vs)
{
	return vs->vdev.dev.vm->log;
}

/* ---- the table ---- */

static struct vsock_list *bucket_of(struct virtio_vsock *vs, u32 host_port, u32 guest_port)
{
	return &vs->buckets[(host_port * 0x9e3779b1u ^ guest_port * 0x85ebca6bu) >> 8 & (VSOCK_BUCKETS - 1)];
}

struct vsock_conn *vsock_conn_find(struct virtio_vsock *vs, u32 host_port, u32 guest_port)
{
	struct vsock_conn *c;

	LIST_FOREACH(c, bucket_of(vs, host_port, guest_port), bucket)
	{
		if (c->host_port == host_port && c->guest_port == guest_port)
			return c;
	}
	return NULL;
}

static void set_ports(struct vsock_conn *c, u32 host_port, u32 guest_port)
{
	c->host_port = host_port;
	c->guest_port = guest_port;
	c->hashed = true;
	LIST_INSERT_HEAD(bucket_of(c->vs, host_port, guest_port), c, bucket);
	trace(c->vs->vdev.dev.vm->trace, vsock_conn, "host=%u guest=%u", host_port, guest_port);
}

static void unhash(struct vsock_conn *c)
{
	if (c->hashed)
		LIST_REMOVE(c, bucket);
	c->hashed = false;
}

void vsock_conn_ready(struct vsock_conn *c)
{
	if (c->in_ready)
		return;
	c->in_ready = true;
	TAILQ_INSERT_TAIL(&c->vs->ready, c, ready);
}

static void unready(struct vsock_conn *c)
{
	if (c->in_ready)
		TAILQ_REMOVE(&c->vs->ready, c, ready);
	c->in_ready = false;
}

/* ---- time-outs ---- */

static void arm_timer(struct virtio_vsock *vs)
{
	const struct vsock_conn *first = TAILQ_FIRST(&vs->waiting);

	if (first && !vs->paused)
		loop_timer_arm(&vs->vdev.dev.vm->loop, &vs->timer, first->deadline_ns);
	else
		loop_timer_cancel(&vs->vdev.dev.vm->loop, &vs->timer);
}

static void clear_deadline(struct vsock_conn *c)
{
	if (c->deadline_ns)
		TAILQ_REMOVE(&c->vs->waiting, c, waiting);
	c->deadline_ns = 0;
}

static void set_deadline(struct vsock_conn *c)
{
	clear_deadline(c);
	c->deadline_ns = clock_host_ns() + VSOCK_TIMEOUT_NS;
	TAILQ_INSERT_TAIL(&c->vs->waiting, c, waiting);
	if (TAILQ_FIRST(&c->vs->waiting) == c)
		arm_timer(c->vs);
}

/* ---- making and ending ---- */

static void drop_buf(struct vsock_conn *c)
{
	free(c->buf);
	c->buf = NULL;
	c->forwarded = c->received;
}

static void close_socket(struct vsock_conn *c)
{
	loop_unwatch(&c->watch);
	fd_close(&c->watch.fd);
	drop_buf(c);
	clear_deadline(c);
	c->readable = c->full = false;
}

void vsock_conn_free(struct vsock_conn *c)
{
	struct virtio_vsock *vs = c->vs;

	close_socket(c);
	unready(c);
	unhash(c);
	LIST_REMOVE(c, all);
	vs->nr_conns--;
	vsock_count(&vs->counters.removed, 1);
	free(c);
}

void vsock_conn_kill(struct vsock_conn *c)
{
	vsock_count(&c->vs->counters.killed, 1);
	/* What never got to the guest or is no more of its concern needs no RST. */
	if (c->state == VSOCK_LINE || c->state == VSOCK_ORPHAN || c->due & BIT(VIRTIO_VSOCK_OP_REQUEST)) {
		vsock_conn_free(c);
		return;
	}
	close_socket(c);
	c->state = VSOCK_DEAD;
	c->due = BIT(VIRTIO_VSOCK_OP_RST);
	vsock_conn_ready(c);
}

void vsock_conn_host_shut(struct vsock_conn *c, u32 flags)
{
	if ((c->host_shut | flags) == c->host_shut)
		return;
	c->host_shut |= flags;
	c->due |= BIT(VIRTIO_VSOCK_OP_SHUTDOWN);
	/* virtio 1.2 §5.10.6.5: the guest answers with RST; not all do while somebody there has not read everything. */
	if (c->host_shut == VSOCK_SHUT_BOTH)
		set_deadline(c);
	vsock_conn_ready(c);
}

/* ---- guest to socket ---- */

static void watch_out(struct vsock_conn *c, bool on)
{
	if (c->full != on)
		loop_modify(&c->watch, CONN_EVENTS | (on ? EPOLLOUT : 0));
	c->full = on;
}

/* Bytes taken, or -errno; -EAGAIN: the socket is full. */
static ssize_t send_some(const struct vsock_conn *c, struct iovec *iov, u32 nr)
{
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = nr};
	ssize_t n = sendmsg(c->watch.fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	return n;
}

/* Tells the guest how far the host's program is when that is news to it and half of its credit is used up. */
static void offer_credit(struct vsock_conn *c)
{
	if (c->received - c->told <= c->buf_size / 2 || c->told == c->forwarded || c->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND)
		return;
	c->due |= BIT(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	vsock_conn_ready(c);
}

/* EPIPE: the program reads no more, but may still write. */
static void write_failed(struct vsock_conn *c, ssize_t error)
{
	vsock_count(&c->vs->counters.write_fails, 1);
	if (error != -EPIPE || c->state == VSOCK_ORPHAN) {
		vsock_conn_kill(c);
		return;
	}
	drop_buf(c);
	watch_out(c, false);
	vsock_conn_host_shut(c, VIRTIO_VSOCK_SHUTDOWN_RCV);
}

/* The last len bytes that were received are behind skip bytes of the iovecs, and the socket is full. */
static void keep(struct vsock_conn *c, const struct iovec *iov, u32 nr, u32 skip, u32 len)
{
	u32 at = (c->received - len) % c->buf_size, first = MIN(len, c->buf_size - at);

	if (!c->buf)
		c->buf = malloc(c->buf_size);
	if (!c->buf) {
		vsock_conn_kill(c);
		return;
	}
	iov_read(iov, nr, skip, c->buf + at, first);
	iov_read(iov, nr, skip + first, c->buf, len - first);
	watch_out(c, true);
}

void vsock_conn_write(struct vsock_conn *c, const struct iovec *iov, u32 nr, u32 skip, u32 len)
{
	struct iovec part[VIRTQ_MAX_SIZE];
	ssize_t n = 0;

	c->received += len;
	if (c->host_shut & VIRTIO_VSOCK_SHUTDOWN_RCV) {
		c->forwarded = c->received; /* nobody there; the guest is told so */
		return;
	}
	if (!c->full)
		n = send_some(c, part, vsock_iov_part(iov, nr, skip, len, part));
	if (n < 0 && n != -EAGAIN) {
		write_failed(c, n);
		return;
	}
	c->forwarded += (u32)MAX(n, 0);
	if ((u32)MAX(n, 0) < len)
		keep(c, iov, nr, skip + (u32)MAX(n, 0), len - (u32)MAX(n, 0));
	if (c->state == VSOCK_ESTABLISHED)
		offer_credit(c);
}

/* Everything that the guest sent is with the host's program. */
static void drained(struct vsock_conn *c)
{
	if (c->state == VSOCK_ORPHAN) {
		vsock_conn_free(c);
		return;
	}
	drop_buf(c);
	watch_out(c, false);
	if (c->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND)
		shutdown(c->watch.fd, SHUT_WR);
	offer_credit(c);
}

/* c may be gone after. */
static void flush(struct vsock_conn *c)
{
	while (c->forwarded != c->received) {
		u32 at = c->forwarded % c->buf_size, len = c->received - c->forwarded, first = MIN(len, c->buf_size - at);
		struct iovec iov[2] = {{c->buf + at, first}, {c->buf, len - first}};
		ssize_t n = send_some(c, iov, 2);

		if (n == -EAGAIN) {
			c->writable = false;
			offer_credit(c);
			return;
		}
		if (n < 0) {
			vsock_count(&c->vs->counters.flush_fails, 1);
			write_failed(c, n);
			return;
		}
		c->forwarded += (u32)n;
	}
	drained(c);
}

/* The guest has closed. What it sent goes on to the host's program, at that one's pace; the guest need not wait for that. */
static void finish(struct vsock_conn *c)
{
	const struct vsock_rst rst = {VSOCK_HOST_CID, c->host_port, c->guest_port, VIRTIO_VSOCK_TYPE_STREAM};

	vsock_rst(c->vs, &rst);
	if (!c->full) {
		vsock_conn_free(c);
		return;
	}
	c->state = VSOCK_ORPHAN;
	c->due = 0;
	unhash(c);
	unready(c);
	clear_deadline(c);
}

void vsock_conn_guest_shut(struct vsock_conn *c, u32 flags)
{
	u32 news = flags & VSOCK_SHUT_BOTH & ~c->guest_shut;

	c->guest_shut |= news;
	if (c->guest_shut == VSOCK_SHUT_BOTH) {
		finish(c);
		return;
	}
	if (news & VIRTIO_VSOCK_SHUTDOWN_SEND && !c->full)
		shutdown(c->watch.fd, SHUT_WR);
	if (news & VIRTIO_VSOCK_SHUTDOWN_RCV)
		shutdown(c->watch.fd, SHUT_RD); /* the program's next write fails */
}

/* ---- the host's side ---- */

/* Ports of the host's side need only differ between connections to one port of the guest. */
static u32 choose_port(struct virtio_vsock *vs, u32 guest_port)
{
	u32 port;

	do
		port = VSOCK_FIRST_PORT + (vs->next_port++ & (VSOCK_FIRST_PORT - 1));
	while (vsock_conn_find(vs, port, guest_port));
	return port;
}

/* c may be gone after. */
static void read_line(struct vsock_conn *c)
{
	u32 port;
	int rc = vsock_unix_read_line(c->watch.fd, &port);

	if (rc == -EINTR || (rc == -EAGAIN && !c->ending))
		return;
	/* A client that is gone already would not hear the answer. */
	if (rc < 0 || c->hung_up) {
		vsock_count(&c->vs->counters.conn_fails, 1);
		vsock_conn_kill(c);
		return;
	}
	set_ports(c, choose_port(c->vs, port), port);
	c->state = VSOCK_REQUESTED;
	c->due = BIT(VIRTIO_VSOCK_OP_REQUEST);
	set_deadline(c);
	vsock_conn_ready(c);
}

void vsock_conn_accepted(struct vsock_conn *c)
{
	c->state = VSOCK_ESTABLISHED;
	clear_deadline(c);
	if (vsock_unix_say_ok(c->watch.fd, c->host_port) < 0)
		vsock_conn_kill(c);
	else
		vsock_conn_ready(c); /* the client may have written more than the line */
}

/* Goes on with what the socket's events said. c may be gone after. */
static void progress(struct vsock_conn *c)
{
	if (c->state == VSOCK_LINE) {
		read_line(c);
		return;
	}
	if (c->state == VSOCK_REQUESTED) {
		if (c->hung_up)
			vsock_conn_kill(c);
		return;
	}
	if (c->state == VSOCK_ESTABLISHED && c->readable)
		vsock_conn_ready(c);
	if (c->state == VSOCK_ESTABLISHED && c->hung_up)
		vsock_conn_host_shut(c, VIRTIO_VSOCK_SHUTDOWN_RCV);
	if (c->full && (c->writable || c->hung_up))
		flush(c);
}

static void conn_event(struct loop_fd *w, u32 events)
{
	struct vsock_conn *c = container_of(w, struct vsock_conn, watch);
	struct virtio_vsock *vs = c->vs;

	device_lock(&vs->vdev.dev);
	c->readable |= (events & ~(u32)EPOLLOUT) != 0;
	c->writable |= (events & EPOLLOUT) != 0;
	c->ending |= (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
	c->hung_up |= (events & (EPOLLHUP | EPOLLERR)) != 0;
	if (!vs->paused) {
		progress(c);
		vsock_rx(vs);
	}
	device_unlock(&vs->vdev.dev);
}

/* Takes the descriptor over, or returns NULL and leaves it. */
static struct vsock_conn *new_conn(struct virtio_vsock *vs, int fd, enum vsock_state state)
{
	struct vsock_conn *c = xzalloc(sizeof(*c));

	*c = (struct vsock_conn){.watch = {.fd = fd, .ready = conn_event}, .vs = vs, .state = state};
	c->buf_size = vs->nr_conns < VSOCK_MAX_LARGE ? VSOCK_BUF_LARGE : VSOCK_BUF_SMALL;
	if (loop_watch(&vs->vdev.dev.vm->loop, &c->watch, CONN_EVENTS, NULL) < 0) {
		free(c);
		return NULL;
	}
	LIST_INSERT_HEAD(&vs->conns, c, all);
	vs->nr_conns++;
	vsock_count(&vs->counters.added, 1);
	return c;
}

struct vsock_conn *vsock_conn_open(struct virtio_vsock *vs, u32 host_port, u32 guest_port)
{
	int fd = vs->nr_conns < VSOCK_MAX_CONNS ? vsock_unix_connect(&vs->listener, host_port) : -EMFILE;
	struct vsock_conn *c = fd < 0 ? NULL : new_conn(vs, fd, VSOCK_ESTABLISHED);

	if (!c) {
		vsock_count(&vs->counters.conn_fails, 1);
		log_debug(log_of(vs), "vsock: no connection to %s_%u: %s", vs->listener.path, host_port, strerror(fd < 0 ? -fd : ENOMEM));
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	set_ports(c, host_port, guest_port);
	c->due = BIT(VIRTIO_VSOCK_OP_RESPONSE);
	vsock_conn_ready(c);
	return c;
}

static void accept_one(struct virtio_vsock *vs, int fd)
{
	struct vsock_conn *c = vs->nr_conns < VSOCK_MAX_CONNS ? new_conn(vs, fd, VSOCK_LINE) : NULL;

	if (c) {
		set_deadline(c);
		return;
	}
	vsock_count(&vs->counters.accept_fails, 1);
	close(fd);
}

static void listen_event(struct loop_fd *w, u32 events)
{
	struct virtio_vsock *vs = container_of(w, struct virtio_vsock, listen_watch);
	int fd = 0;

	(void)events;
	device_lock(&vs->vdev.dev);
	for (u32 i = 0; i < ACCEPT_BATCH && fd >= 0; i++) {
		fd = vsock_unix_accept(&vs->listener);
		if (fd >= 0)
			accept_one(vs, fd);
	}
	/* No descriptor left: the clients wait in the socket's queue meanwhile. */
	if (fd == -EMFILE || fd == -ENFILE || fd == -ENOBUFS || fd == -ENOMEM) {
		vsock_count(&vs->counters.accept_fails, 1);
		loop_modify(&vs->listen_watch, 0);
		loop_timer_arm(w->loop, &vs->listen_timer, clock_host_ns() + ACCEPT_AGAIN_NS);
	}
	device_unlock(&vs->vdev.dev);
}

static void listen_again(struct loop_timer *t)
{
	struct virtio_vsock *vs = container_of(t, struct virtio_vsock, listen_timer);

	device_lock(&vs->vdev.dev);
	if (!vs->paused)
		loop_modify(&vs->listen_watch, EPOLLIN);
	device_unlock(&vs->vdev.dev);
}

static void timed_out(struct loop_timer *t)
{
	struct virtio_vsock *vs = container_of(t, struct virtio_vsock, timer);
	struct vsock_conn *c;
	u64 now = clock_host_ns();

	device_lock(&vs->vdev.dev);
	while (!vs->paused && (c = TAILQ_FIRST(&vs->waiting)) && c->deadline_ns <= now)
		vsock_conn_kill(c);
	arm_timer(vs);
	vsock_rx(vs);
	device_unlock(&vs->vdev.dev);
}

/* ---- all of them ---- */

/* Each connection takes a descriptor, and the usual soft limit of 1024 would refuse the thousandth. */
static void raise_fd_limit(void)
{
	const rlim_t wanted = VSOCK_MAX_CONNS + 1024;
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= MIN(wanted, limit.rlim_max))
		return;
	limit.rlim_cur = MIN(wanted, limit.rlim_max);
	(void)!setrlimit(RLIMIT_NOFILE, &limit);
}

static int open_listener(struct virtio_vsock *vs, struct err *e)
{
	const char *path = vs->cfg->uds_path;
	auto_free char *name = vsock_passed_name(vs);
	struct vm *vm = vs->vdev.dev.vm;
	int rc, fd = vm_inherit(vm, name, NULL);

	if (fd >= 0)
		return vsock_unix_adopt(&vs->listener, path, fd, e);
	rc = vsock_unix_listen(&vs->listener, path, e);
	if (rc == -EADDRINUSE && vm->origin != VM_BOOTED)
		err_set(e, rc,
			"vsock socket \"%s\" exists: the VM of the snapshot or another one uses it, or one that was killed left it; then "
			"remove it, or load the snapshot with another path",
			path);
	return rc;
}

int vsock_conns_init(struct virtio_vsock *vs, struct err *e)
{
	int rc;

	LIST_INIT(&vs->conns);
	TAILQ_INIT(&vs->ready);
	TAILQ_INIT(&vs->waiting);
	vs->timer.expired = timed_out;
	vs->listen_timer.expired = listen_again;
	raise_fd_limit();
	rc = open_listener(vs, e);
	if (rc < 0)
		return rc;
	sandbox_will_remove(vs->vdev.dev.vm->sandbox, vs->cfg->uds_path);
	vs->listen_watch = (struct loop_fd){.fd = vs->listener.fd, .ready = listen_event};
	return loop_watch(&vs->vdev.dev.vm->loop, &vs->listen_watch, EPOLLIN, e);
}

void vsock_conns_fini(struct virtio_vsock *vs)
{
	while (!LIST_EMPTY(&vs->conns))
		vsock_conn_free(LIST_FIRST(&vs->conns));
	loop_timer_cancel(&vs->vdev.dev.vm->loop, &vs->timer);
	loop_timer_cancel(&vs->vdev.dev.vm->loop, &vs->listen_timer);
	loop_timer_cancel(&vs->vdev.dev.vm->loop, &vs->lost_timer);
	loop_unwatch(&vs->listen_watch);
	vsock_unix_unlisten(&vs->listener, vs->listener.passed && vs->vdev.dev.vm->handed_over);
}

void vsock_conns_reset(struct virtio_vsock *vs)
{
	struct vsock_conn *c, *next;

	for (c = LIST_FIRST(&vs->conns); c; c = next) {
		next = LIST_NEXT(c, all);
		if (c->state != VSOCK_LINE && c->state != VSOCK_ORPHAN && !(c->due & BIT(VIRTIO_VSOCK_OP_REQUEST)))
			vsock_conn_free(c);
	}
	vs->rst_head = vs->rst_tail;
}

void vsock_conns_pause(struct virtio_vsock *vs)
{
	vs->paused = true;
	loop_modify(&vs->listen_watch, 0);
}

void vsock_conns_resume(struct virtio_vsock *vs)
{
	struct vsock_conn *c, *next;
	u64 deadline = clock_host_ns() + VSOCK_TIMEOUT_NS;

	vs->paused = false;
	loop_modify(&vs->listen_watch, EPOLLIN);
	TAILQ_FOREACH(c, &vs->waiting, waiting)
	c->deadline_ns = deadline;
	for (c = LIST_FIRST(&vs->conns); c; c = next) {
		next = LIST_NEXT(c, all);
		progress(c);
	}
	arm_timer(vs);
}
