/*
 * server.c: see server.h. This thread accepts connections itself and polls, so that the 11th connection gets an answer, the thread has its
 * name, and a request that takes too long can be cut off; libmicrohttpd does the rest.
 */
#include "api/server.h"

#include <errno.h>
#include <json-c/json.h>
#include <microhttpd.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/clock.h"

/* A body above the limit is read to its end and dropped, so that the client gets to read the answer; one above this many times the limit
 * is cut off. */
#define READ_OVER_LIMIT 64

/* One request, from its request line on. */
struct exchange {
	char *uri; /* as sent */
	char *body;
	size_t len, size;
	u64 dropped; /* bytes of the body above the limit */
	bool begun;  /* the headers are complete */
};

static const char busy_reply[] = "HTTP/1.1 503 Service Unavailable\r\nServer: Firecracker API\r\nConnection: close\r\n"
				 "Content-Type: application/json\r\nContent-Length: 37\r\n\r\n{\"error\":\"Too many open connections\"}";

/* ---- Answers ---- */

static enum MHD_Result send_reply(struct MHD_Connection *conn, struct api_reply *reply)
{
	const char *text = reply->body
				   ? json_object_to_json_string_ext(reply->body, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)
				   : "";
	struct MHD_Response *response = MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
	enum MHD_Result result;

	if (!response)
		return MHD_NO;
	MHD_set_response_options(response, MHD_RF_SEND_KEEP_ALIVE_HEADER, MHD_RO_END);
	MHD_add_response_header(response, "Server", "Firecracker API");
	if (reply->body)
		MHD_add_response_header(response, "Content-Type", "application/json");
	if (reply->deprecated)
		MHD_add_response_header(response, "Deprecation", "true");
	result = MHD_queue_response(conn, reply->status, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result send_error(struct MHD_Connection *conn, const char *text)
{
	struct api_reply reply = {0};
	enum MHD_Result result;

	api_reply_error(&reply, 400, "error", text);
	result = send_reply(conn, &reply);
	api_reply_fini(&reply);
	return result;
}

static enum MHD_Result send_too_large(struct MHD_Connection *conn, u64 size, u64 limit)
{
	char text[128];

	snprintf(text, sizeof(text), "Request payload with size %llu is larger than the limit of %llu allowed by server.",
		 (unsigned long long)size, (unsigned long long)limit);
	return send_error(conn, text);
}

/* ---- Requests ---- */

static struct server_peer *find_peer(struct server *s, struct MHD_Connection *conn)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);

	for (u32 i = 0; info && i < SERVER_MAX_CONNECTIONS; i++) {
		if (s->peers[i].fd == info->connect_fd)
			return &s->peers[i];
	}
	return NULL;
}

/* The request line is there: the clock runs. */
static void *begin_request(void *cls, const char *uri, struct MHD_Connection *conn)
{
	struct exchange *x = xzalloc(sizeof(*x));
	struct server_peer *peer = find_peer(cls, conn);

	x->uri = xstrdup(uri);
	if (peer)
		peer->deadline_ns = clock_host_ns() + SERVER_REQUEST_S * NSEC_PER_SEC;
	return x;
}

static void end_request(void *cls, struct MHD_Connection *conn, void **context, enum MHD_RequestTerminationCode why)
{
	struct server_peer *peer = find_peer(cls, conn);
	struct exchange *x = *context;

	(void)why;
	if (peer)
		peer->deadline_ns = 0;
	if (x) {
		free(x->uri);
		free(x->body);
		free(x);
	}
	*context = NULL;
}

static enum api_method method_of(const char *name)
{
	for (enum api_method m = API_GET; m < API_OTHER; m++) {
		if (!strcmp(name, api_method_name(m)))
			return m;
	}
	return API_OTHER;
}

/* What does not fit under the limit is counted only. */
static bool keep_body(struct exchange *x, const char *data, size_t len, u64 limit)
{
	if (x->dropped || len > limit - x->len) {
		x->dropped += len;
		return x->dropped / READ_OVER_LIMIT <= limit;
	}
	if (x->len + len > x->size) {
		size_t size = MIN(MAX(2 * x->size, x->len + len), limit);
		char *more = realloc(x->body, size);

		if (!more)
			return false;
		x->body = more;
		x->size = size;
	}
	memcpy(x->body + x->len, data, len);
	x->len += len;
	return true;
}

/* The length that the client announces, or 0. */
static u64 announced_length(struct MHD_Connection *conn)
{
	const char *text = MHD_lookup_connection_value(conn, MHD_HEADER_KIND, "Content-Length");

	return text ? strtoull(text, NULL, 10) : 0;
}

static enum MHD_Result serve(struct server *s, struct MHD_Connection *conn, const char *method, struct exchange *x)
{
	struct api_request q = {.method = method_of(method), .path = x->uri, .body = x->len ? x->body : NULL, .len = x->len};
	struct api_reply reply = {0};
	enum MHD_Result result;

	if (q.method == API_OTHER)
		return send_error(conn, "Invalid HTTP Method.");
	if (x->dropped)
		return send_too_large(conn, x->len + x->dropped, s->max_payload);
	api_serve(s->control, &q, &reply);
	result = reply.status ? send_reply(conn, &reply) : MHD_NO;
	api_reply_fini(&reply);
	return result;
}

/* libmicrohttpd calls: once after the headers, then with each part of the body, then with none. */
static enum MHD_Result on_request(void *cls, struct MHD_Connection *conn, const char *url, const char *method, const char *version,
				  const char *data, size_t *len, void **context)
{
	struct server *s = cls;
	struct exchange *x = *context;

	(void)url, (void)version;
	if (!x->begun) {
		u64 announced = announced_length(conn);

		x->begun = true;
		return announced / READ_OVER_LIMIT > s->max_payload ? send_too_large(conn, announced, s->max_payload) : MHD_YES;
	}
	if (*len) {
		bool ok = keep_body(x, data, *len, s->max_payload);

		*len = 0;
		return ok ? MHD_YES : MHD_NO;
	}
	return serve(s, conn, method, x);
}

/* ---- Connections ---- */

static void on_connection(void *cls, struct MHD_Connection *conn, void **context, enum MHD_ConnectionNotificationCode what)
{
	struct server_peer *peer = find_peer(cls, conn);

	(void)context;
	if (peer && what == MHD_CONNECTION_NOTIFY_CLOSED)
		*peer = (struct server_peer){.fd = -1};
}

static void accept_one(struct server *s)
{
	int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	for (u32 i = 0; i < SERVER_MAX_CONNECTIONS; i++) {
		if (s->peers[i].fd >= 0)
			continue;
		s->peers[i] = (struct server_peer){.fd = fd};
		if (MHD_add_connection(s->daemon, fd, NULL, 0) != MHD_YES) /* closes fd */
			s->peers[i].fd = -1;
		return;
	}
	/* A new socket's buffer holds the answer; if it does not, there is nobody to be sorry for. */
	if (send(fd, busy_reply, sizeof(busy_reply) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		log_debug(s->control->log, "a refused API client was not told: %s", strerror(errno));
	close(fd);
}

/* Cuts off who takes too long. Returns the time until the next one does, -1: nobody is being served. */
static int enforce_deadlines(struct server *s)
{
	u64 now = clock_host_ns(), next = UINT64_MAX;

	for (u32 i = 0; i < SERVER_MAX_CONNECTIONS; i++) {
		struct server_peer *peer = &s->peers[i];

		if (peer->fd < 0 || !peer->deadline_ns)
			continue;
		if (peer->deadline_ns > now) {
			next = MIN(next, peer->deadline_ns);
			continue;
		}
		log_warn(s->control->log, "an API request took longer than %d s: its connection is closed", SERVER_REQUEST_S);
		shutdown(peer->fd, SHUT_RDWR);
		peer->deadline_ns = 0;
	}
	return next == UINT64_MAX ? -1 : (int)((next - now) / NSEC_PER_MSEC) + 1;
}

/* libmicrohttpd waits for an event after each read that empties the socket. When the end of what a client sends came along with its last
 * bytes, there is none: shutting down what is shut down already makes one. */
static void notice_ends(struct server *s)
{
	for (u32 i = 0; i < SERVER_MAX_CONNECTIONS; i++) {
		struct server_peer *peer = &s->peers[i];
		struct pollfd p = {.fd = peer->fd, .events = POLLRDHUP};

		if (peer->fd < 0 || peer->ended || poll(&p, 1, 0) <= 0 || !(p.revents & POLLRDHUP))
			continue;
		shutdown(peer->fd, SHUT_RD);
		peer->ended = true;
	}
}

static int timeout_ms(struct server *s)
{
	int ours = enforce_deadlines(s);
	MHD_UNSIGNED_LONG_LONG theirs;

	if (MHD_get_timeout(s->daemon, &theirs) != MHD_YES)
		return ours;
	return ours >= 0 && (u64)ours < theirs ? ours : (int)MIN(theirs, 1000000);
}

static bool is_serving(const struct server *s)
{
	for (u32 i = 0; i < SERVER_MAX_CONNECTIONS; i++) {
		if (s->peers[i].fd >= 0 && s->peers[i].deadline_ns)
			return true;
	}
	return false;
}

/* Who asked for the VM's end is to read that it comes: the last answers get a moment to leave. */
static void send_last(struct server *s, struct pollfd *epoll)
{
	enum { TURNS = 10, TURN_MS = 10 };

	for (u32 i = 0; i < TURNS && is_serving(s); i++) {
		MHD_run(s->daemon);
		if (is_serving(s))
			poll(epoll, 1, TURN_MS);
	}
}

static void *api_thread(void *opaque)
{
	struct server *s = opaque;
	struct pollfd fds[] = {
		{.fd = s->stop_fd, .events = POLLIN}, {.fd = s->listen_fd, .events = POLLIN}, {.fd = s->epoll_fd, .events = POLLIN}};

	pthread_setname_np(pthread_self(), "fc_api");
	sandbox_enter(s->control->sandbox, SANDBOX_API);
	while (!fds[0].revents) {
		notice_ends(s);
		if (poll(fds, ARRAY_SIZE(fds), timeout_ms(s)) < 0)
			continue;
		if (fds[1].revents)
			accept_one(s);
		MHD_run(s->daemon);
	}
	send_last(s, &fds[2]);
	return NULL;
}

/* ---- Start and stop ---- */

static int open_socket(const char *path, int *out, struct err *e)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	auto_fd int fd = -1;

	if (strlen(path) >= sizeof(addr.sun_path))
		return err_set(e, -ENAMETOOLONG, "API socket \"%s\": a socket's path has at most %zu bytes", path,
			       sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_errno(e, "API socket \"%s\"", path);
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		if (errno == EADDRINUSE)
			return err_set(
				e, -EADDRINUSE,
				"Failed to open the API socket at: %s. Check that it is not already used: remove it if nobody serves it",
				path);
		return err_errno(e, "Failed to open the API socket at: %s", path);
	}
	if (listen(fd, SOMAXCONN) < 0)
		return err_errno(e, "API socket \"%s\"", path);
	*out = fd_take(&fd);
	return 0;
}

static int start_daemon(struct server *s, struct err *e)
{
	const union MHD_DaemonInfo *info;

	s->daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_SUPPRESS_DATE_NO_CLOCK, 0, NULL, NULL, on_request,
				     s, MHD_OPTION_URI_LOG_CALLBACK, begin_request, s, MHD_OPTION_NOTIFY_COMPLETED, end_request, s,
				     MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_CONNECTION_LIMIT,
				     SERVER_MAX_CONNECTIONS + 1u, MHD_OPTION_END);
	info = s->daemon ? MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
	if (!info)
		return err_set(e, -EIO, "the API server does not start: libmicrohttpd refuses");
	s->epoll_fd = info->epoll_fd;
	s->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return s->stop_fd < 0 ? err_errno(e, "the API server does not start") : 0;
}

/* Signals for the process are the main thread's. */
static int start_thread(struct server *s, struct err *e)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&s->thread, NULL, api_thread, s);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	s->thread_started = r == 0;
	return r ? err_set(e, -r, "cannot start the API thread: %s", strerror(r)) : 0;
}

int server_start(struct server *s, const char *path, u64 max_payload, struct control *c, struct err *e)
{
	int r;

	*s = (struct server){.control = c, .max_payload = max_payload, .listen_fd = -1, .stop_fd = -1};
	for (u32 i = 0; i < SERVER_MAX_CONNECTIONS; i++)
		s->peers[i].fd = -1;
	r = open_socket(path, &s->listen_fd, e);
	if (r == 0)
		r = start_daemon(s, e);
	if (r == 0)
		r = start_thread(s, e);
	if (r < 0) {
		server_stop(s);
		return r;
	}
	log_info(c->log, "API server started.");
	return 0;
}

void server_stop(struct server *s)
{
	if (!s->control)
		return;
	if (s->thread_started && eventfd_write(s->stop_fd, 1) == 0)
		pthread_join(s->thread, NULL);
	if (s->daemon)
		MHD_stop_daemon(s->daemon);
	fd_close(&s->stop_fd);
	fd_close(&s->listen_fd);
	*s = (struct server){0};
}
