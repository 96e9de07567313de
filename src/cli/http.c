/* http.c: see http.h. */
#include "cli/http.h"

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/base/buf.h"
#include "vmm/base/json.h"

int http_connect(const char *sock, struct err *e)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	auto_fd int fd = -1;

	if (strlen(sock) >= sizeof(addr.sun_path))
		return err_set(e, -ENAMETOOLONG, "\"%s\": a socket's path has at most %zu bytes; use a relative one", sock,
			       sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, sock, strlen(sock));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_errno(e, "\"%s\"", sock);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
		return fd_take(&fd);
	if (errno == ECONNREFUSED)
		return err_set(e, -ECONNREFUSED, "\"%s\": nobody serves this socket; the VM has ended", sock);
	if (errno == ENOTSOCK || errno == EPROTOTYPE)
		return err_set(e, -ENOTSOCK, "\"%s\" is no API socket", sock);
	return err_errno(e, "\"%s\"", sock);
}

static int send_all(int fd, const void *data, size_t len, struct err *e)
{
	const char *p = data;

	while (len) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

		/* One that refuses early has answered already: that is what to read. */
		if (n < 0 && errno == EPIPE)
			return 0;
		if (n < 0 && errno != EINTR)
			return err_errno(e, "the request cannot be sent");
		p += MAX(n, 0);
		len -= (size_t)MAX(n, 0);
	}
	return 0;
}

static int send_request(int fd, const char *method, const char *path, const char *body, size_t len, struct err *e)
{
	char length[64] = "";
	auto_free char *head = NULL;
	int r;

	if (body)
		snprintf(length, sizeof(length), "Content-Type: application/json\r\nContent-Length: %zu\r\n", len);
	head = xasprintf("%s %s HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nConnection: close\r\n%s\r\n", method, path,
			 length);
	r = send_all(fd, head, strlen(head), e);
	return r == 0 && body ? send_all(fd, body, len, e) : r;
}

/* To the end of the connection. */
static int read_all(int fd, int timeout_ms, struct buf *b, struct err *e)
{
	char part[16 * 1024];

	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		int ready = poll(&p, 1, timeout_ms);
		ssize_t n;

		if (ready == 0)
			return err_set(e, -ETIMEDOUT, "no answer after %d s", timeout_ms / 1000);
		n = recv(fd, part, sizeof(part), 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && !(errno == ECONNRESET && b->len))
			return err_errno(e, "the answer cannot be read");
		if (n <= 0)
			return 0;
		if (b->len + (size_t)n > HTTP_MAX_ANSWER)
			return err_set(e, -EMSGSIZE, "an answer of more than %llu MiB", HTTP_MAX_ANSWER / MIB);
		buf_put(b, part, (size_t)n);
	}
}

static const char *message_of(struct json_object *json)
{
	struct json_object *text = json_object_object_get(json, "fault_message");

	if (!text)
		text = json_object_object_get(json, "error");
	return text ? json_object_get_string(text) : NULL;
}

/* The status line, headers up to an empty line, and the body to the end. */
static int read_answer(const char *text, size_t len, struct json_object **out, struct err *e)
{
	const char *body = memmem(text, len, "\r\n\r\n", 4);
	char status[4] = "";

	if (len < 12 || strncmp(text, "HTTP/1.", 7) != 0 || !body)
		return err_set(e, -EPROTO,
			       len ? "the other side speaks no HTTP" : "the other side closed the connection: the VM may have ended");
	memcpy(status, text + 9, 3);
	body += 4;
	if (body < text + len && json_parse("answer", body, (size_t)(text + len - body), out, e) < 0)
		return -EPROTO;
	if (*status == '2')
		return 0;
	if (*out && json_object_is_type(*out, json_type_object) && message_of(*out))
		err_set(e, -EREMOTEIO, "%s", message_of(*out));
	else
		err_set(e, -EREMOTEIO, "refused with status %s", status);
	json_object_put(*out);
	*out = NULL;
	return -EREMOTEIO;
}

static int ask(const char *sock, int timeout_ms, const char *method, const char *path, const char *body, size_t len,
	       struct json_object **out, struct err *e)
{
	auto_fd int fd = http_connect(sock, e);
	struct buf answer = {0};
	int r;

	*out = NULL;
	if (fd < 0)
		return fd;
	for (const char *p = path; *p; p++) {
		if (isspace((unsigned char)*p) || iscntrl((unsigned char)*p))
			return err_set(e, -EINVAL, "path \"%s\": no spaces, please", path);
	}
	r = send_request(fd, method, path, body, len, e);
	if (r == 0)
		r = read_all(fd, timeout_ms, &answer, e);
	if (r == 0)
		r = read_answer((const char *)answer.data, answer.len, out, e);
	buf_fini(&answer);
	return r;
}

int http_ask(const char *sock, const char *method, const char *path, const char *body, size_t len, struct json_object **out, struct err *e)
{
	return ask(sock, HTTP_TIMEOUT_MS, method, path, body, len, out, e);
}

int http_ask_slowly(const char *sock, const char *method, const char *path, const char *body, size_t len, struct json_object **out,
		    struct err *e)
{
	return ask(sock, HTTP_SLOW_MS, method, path, body, len, out, e);
}
