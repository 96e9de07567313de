/*
 * gdb_socket.c: the debugger's socket and the packets on it (GDB manual, appendix E.1). A client may send anything: packets that are too
 * long or wrong are refused, and input waits while the client does not read its answers, so that nothing grows.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/gdb_impl.h"

#define CTRL_C 0x03

const char *const gdb_syscalls[] = {"accept4", "poll", "recvfrom", "sendto", "setsockopt", "shutdown", "unlink", NULL};

/* ---- addresses ---- */

union address {
	struct sockaddr any;
	struct sockaddr_un un;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
};

static bool is_path(const char *text)
{
	return strchr(text, '/') || !strchr(text, ':');
}

/* Loopback only: a debugger may do anything to the guest. */
static socklen_t parse_host(const char *host, u16 port, union address *a)
{
	if (!strcmp(host, "[::1]")) {
		a->in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
		return sizeof(a->in6);
	}
	a->in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	if (*host && strcmp(host, "localhost") && inet_pton(AF_INET, host, &a->in.sin_addr) != 1)
		return 0;
	return ntohl(a->in.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET ? sizeof(a->in) : 0;
}

/* Length of the address, or 0. */
static socklen_t parse_address(const char *text, union address *a)
{
	const char *colon = strrchr(text, ':');
	char host[64], *end;
	u64 port;

	memset(a, 0, sizeof(*a));
	if (is_path(text)) {
		if (!*text || strlen(text) >= sizeof(a->un.sun_path))
			return 0;
		a->un.sun_family = AF_UNIX;
		memcpy(a->un.sun_path, text, strlen(text));
		return sizeof(a->un);
	}
	if ((size_t)(colon - text) >= sizeof(host) || colon[1] < '0' || colon[1] > '9')
		return 0;
	port = strtoul(colon + 1, &end, 10);
	if (*end || port < 1 || port > 65535)
		return 0;
	snprintf(host, sizeof(host), "%.*s", (int)(colon - text), text);
	return parse_host(host, (u16)port, a);
}

bool gdb_address_ok(const char *address)
{
	union address a;

	return parse_address(address, &a);
}

/* ---- sending ---- */

void gdb_put(struct gdb *g, const char *fmt, ...)
{
	size_t room = sizeof(g->reply) - g->reply_len;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(g->reply + g->reply_len, room, fmt, ap);
	va_end(ap);
	g->reply_len += (u32)MIN((size_t)MAX(n, 0), room - 1);
}

void gdb_put_hex(struct gdb *g, const void *data, size_t len)
{
	static const char digits[] = "0123456789abcdef";
	const u8 *byte = data;

	for (size_t i = 0; i < len && g->reply_len + 2 <= GDB_PACKET_MAX; i++) {
		g->reply[g->reply_len++] = digits[byte[i] >> 4];
		g->reply[g->reply_len++] = digits[byte[i] & 15];
	}
}

void gdb_put_binary(struct gdb *g, const void *data, size_t len)
{
	const char *byte = data;

	for (size_t i = 0; i < len && g->reply_len + 2 <= GDB_PACKET_MAX; i++) {
		bool special = strchr("#$}*", byte[i]);

		if (special)
			g->reply[g->reply_len++] = '}';
		g->reply[g->reply_len++] = special ? byte[i] ^ 0x20 : byte[i];
	}
}

static void hang_up(struct gdb *g)
{
	log_info(g->vm->log, "gdb: the debugger is gone");
	loop_unwatch(&g->client);
	fd_close(&g->client.fd);
	g->out.len = g->out_at = 0;
	gdb_detach(g);
}

static bool is_flushed(const struct gdb *g)
{
	return g->out_at == g->out.len;
}

/* As much as the socket takes. False: the connection is broken. */
static bool flush(struct gdb *g)
{
	while (!is_flushed(g)) {
		ssize_t n = send(g->client.fd, g->out.data + g->out_at, g->out.len - g->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN || errno == EWOULDBLOCK;
		g->out_at += (size_t)n;
	}
	g->out.len = g->out_at = 0;
	return true;
}

/* Input is looked at when the client has taken what it was sent. */
static void rearm(struct gdb *g)
{
	if (g->client.loop)
		loop_modify(&g->client, is_flushed(g) && g->chunk_at == g->chunk_len ? EPOLLIN : EPOLLOUT);
}

static void put_char(struct gdb *g, char c)
{
	buf_put(&g->out, &c, 1);
}

void gdb_send(struct gdb *g)
{
	char tail[4];
	u8 sum = 0;

	if (g->client.fd < 0)
		return;
	for (u32 i = 0; i < g->reply_len; i++)
		sum = (u8)(sum + (u8)g->reply[i]);
	snprintf(tail, sizeof(tail), "#%02x", sum);
	put_char(g, '$');
	buf_put(&g->out, g->reply, g->reply_len);
	buf_put(&g->out, tail, 3);
	/* A broken connection shows when it is read. */
	(void)flush(g);
	rearm(g);
}

/* ---- receiving ---- */

/* A digit of a checksum; what is none makes it wrong. */
static u8 digit_of(u8 c)
{
	if (c >= '0' && c <= '9')
		return (u8)(c - '0');
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? (u8)(c - 'a' + 10) : 0;
}

static void packet_arrived(struct gdb *g)
{
	bool good = g->no_ack || g->sum == g->their_sum;

	g->packet[g->packet_len] = '\0';
	if (!g->no_ack)
		put_char(g, good ? '+' : '-');
	if (!good) {
		(void)flush(g);
		return;
	}
	g->reply_len = 0;
	if (g->too_long) {
		gdb_put(g, "E07");
		gdb_send(g);
	} else {
		gdb_command(g);
	}
	(void)flush(g);
}

/* Between packets. */
static void idle_byte(struct gdb *g, u8 c)
{
	if (c == '$') {
		g->framing = GDB_DATA;
		g->packet_len = g->sum = 0;
		g->too_long = false;
	} else if (c == CTRL_C) {
		gdb_interrupt(g);
	} else if (c == '-' && !g->no_ack && g->reply_len) {
		gdb_send(g);
	}
}

static void take_byte(struct gdb *g, u8 c)
{
	switch (g->framing) {
	case GDB_IDLE:
		idle_byte(g, c);
		break;
	case GDB_DATA:
		if (c == '#') {
			g->framing = GDB_SUM_HIGH;
			break;
		}
		g->sum = (u8)(g->sum + c);
		if (g->packet_len < GDB_PACKET_MAX)
			g->packet[g->packet_len++] = (char)c;
		else
			g->too_long = true;
		break;
	case GDB_SUM_HIGH:
		g->their_sum = (u8)(digit_of(c) << 4);
		g->framing = GDB_SUM_LOW;
		break;
	case GDB_SUM_LOW:
		g->their_sum |= digit_of(c);
		g->framing = GDB_IDLE;
		packet_arrived(g);
		break;
	}
}

/* What was read, while the client takes the answers; the client may be gone after each byte. */
static void take_chunk(struct gdb *g)
{
	while (g->client.fd >= 0 && g->chunk_at < g->chunk_len && is_flushed(g))
		take_byte(g, g->chunk[g->chunk_at++]);
}

/* ctx: loop */
static void client_ready(struct loop_fd *w, u32 events)
{
	struct gdb *g = container_of(w, struct gdb, client);
	ssize_t n;

	(void)events;
	if (!flush(g)) {
		hang_up(g);
		return;
	}
	take_chunk(g);
	if (g->client.fd >= 0 && is_flushed(g) && g->chunk_at == g->chunk_len) {
		n = recv(w->fd, g->chunk, sizeof(g->chunk), MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
			hang_up(g);
			return;
		}
		g->chunk_at = 0;
		g->chunk_len = (u32)MAX(n, 0);
		take_chunk(g);
	}
	rearm(g);
}

/* ---- connecting ---- */

/* The client that is there has gone, and nobody has looked yet. */
static bool has_hung_up(const struct gdb *g)
{
	struct pollfd p = {.fd = g->client.fd, .events = POLLIN};

	return poll(&p, 1, 0) > 0 && p.revents & (POLLHUP | POLLERR);
}

/* ctx: loop */
static void listener_ready(struct loop_fd *w, u32 events)
{
	struct gdb *g = container_of(w, struct gdb, listener);
	auto_fd int fd = accept4(w->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct err e = {0};
	int one = 1;

	(void)events;
	if (fd < 0)
		return;
	if (g->client.fd >= 0 && has_hung_up(g))
		hang_up(g);
	if (g->client.fd >= 0)
		return;						     /* one at a time: the second is turned away */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* a unix socket has none */
	g->client.fd = fd_take(&fd);
	g->framing = GDB_IDLE;
	g->no_ack = g->knows_swbreak = g->knows_hwbreak = false;
	g->reply_len = g->chunk_at = g->chunk_len = 0;
	g->thread_g = g->thread_c = 0;
	if (loop_watch(&g->vm->loop, &g->client, EPOLLIN, &e) < 0) {
		log_warn(g->vm->log, "gdb: %s", e.msg);
		fd_close(&g->client.fd);
		return;
	}
	log_info(g->vm->log, "gdb: a debugger is there: the guest stands still");
	gdb_hold(g);
}

/* Removes a socket file that a dead process left; refuses everything else that is there. */
static int clear_stale_socket(const char *path, const union address *a, socklen_t len, struct err *e)
{
	auto_fd int probe = -1;
	struct stat st;

	if (lstat(path, &st) < 0)
		return 0; /* bind reports what is wrong, if anything is */
	if (!S_ISSOCK(st.st_mode))
		return err_set(e, -EEXIST, "gdb socket \"%s\": something that is not a socket exists there: choose another path", path);
	probe = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (probe < 0)
		return err_errno(e, "gdb socket \"%s\"", path);
	if (!connect(probe, &a->any, len) || errno != ECONNREFUSED)
		return err_set(e, -EADDRINUSE, "gdb socket \"%s\" is in use by another process", path);
	return unlink(path) < 0 ? err_errno(e, "gdb socket \"%s\"", path) : 0;
}

static int listen_at(struct gdb *g, struct err *e)
{
	union address a;
	socklen_t len = parse_address(g->address, &a);
	struct stat st;
	int one = 1, ret;

	if (!len)
		return err_set(e, -EINVAL, "gdb socket \"%s\": give a path, or a loopback address and a port, like 127.0.0.1:1234",
			       g->address);
	ret = a.any.sa_family == AF_UNIX ? clear_stale_socket(g->address, &a, len, e) : 0;
	if (ret < 0)
		return ret;
	g->listener.fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (g->listener.fd < 0)
		return err_errno(e, "gdb socket \"%s\"", g->address);
	if (a.any.sa_family != AF_UNIX)
		setsockopt(g->listener.fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(g->listener.fd, &a.any, len) < 0)
		return err_errno(e, "gdb socket \"%s\"", g->address);
	if (a.any.sa_family == AF_UNIX && !lstat(g->address, &st)) {
		g->sock_dev = st.st_dev;
		g->sock_ino = st.st_ino;
		sandbox_will_remove(g->vm->sandbox, g->address);
	}
	return listen(g->listener.fd, 1) < 0 ? err_errno(e, "gdb socket \"%s\"", g->address) : 0;
}

int gdb_init(struct vm *vm, const char *address, struct err *e)
{
	struct gdb *g = xzalloc(sizeof(*g));
	int ret;

	g->vm = vm;
	g->address = xstrdup(address);
	g->listener = (struct loop_fd){.fd = -1, .ready = listener_ready};
	g->client = (struct loop_fd){.fd = -1, .ready = client_ready};
	vm->gdb = g;
	ret = vm->accel->vcpu_debug ? listen_at(g, e)
				    : err_set(e, -EOPNOTSUPP, "accelerator %s has no support for debuggers", vm->accel->name);
	if (ret < 0)
		gdb_fini(vm);
	return ret;
}

void gdb_fini(struct vm *vm)
{
	struct gdb *g = vm->gdb;
	struct stat st;

	if (!g)
		return;
	loop_work_cancel(&vm->loop, &g->stop_work);
	loop_unwatch(&g->listener);
	loop_unwatch(&g->client);
	fd_close(&g->listener.fd);
	fd_close(&g->client.fd);
	if (g->sock_ino && !lstat(g->address, &st) && st.st_dev == g->sock_dev && st.st_ino == g->sock_ino)
		unlink(g->address);
	buf_fini(&g->out);
	buf_fini(&g->description);
	free(g->address);
	free(g);
	vm->gdb = NULL;
}

/* GDB manual, E.3: W: the process exited. X: a signal ended it, here SIGABRT for a guest that crashed. */
void gdb_end(struct vm *vm)
{
	struct gdb *g = vm->gdb;
	enum vm_end why = __atomic_load_n(&vm->end, __ATOMIC_ACQUIRE);

	if (!g || g->client.fd < 0)
		return;
	g->reply_len = 0;
	gdb_put(g, why == VM_END_PANIC || why == VM_END_CRASH || why == VM_END_INTERNAL ? "X06" : "W00");
	gdb_send(g);
	loop_unwatch(&g->client);
	fd_close(&g->client.fd);
}
