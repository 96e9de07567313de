/* vsock_unix.c: unix sockets for the vsock device; see vsock_unix.h. */
#include "virtio/backend/vsock_unix.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 1024

static int open_socket(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return fd < 0 ? -errno : fd;
}

static int bind_failed(const char *path, struct err *e)
{
	int code = errno;

	if (code == EADDRINUSE)
		return err_set(e, -code, "vsock socket \"%s\" exists: another VM uses it, or one that was killed left it; then remove it",
			       path);
	if (code == ENOENT)
		return err_set(e, -code, "vsock socket \"%s\": its directory does not exist: make it first", path);
	return err_errno(e, "vsock socket \"%s\"", path);
}

static void note_file(struct vsock_listener *l, const char *path)
{
	struct stat st;

	l->path = xstrdup(path);
	if (lstat(path, &st) == 0) {
		l->dev = st.st_dev;
		l->ino = st.st_ino;
	}
}

int vsock_unix_listen(struct vsock_listener *l, const char *path, struct err *e)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	*l = (struct vsock_listener){.fd = -1};
	if (strlen(path) >= sizeof(addr.sun_path))
		return err_set(e, -ENAMETOOLONG, "vsock socket \"%s\": a path has at most %u bytes", path, VSOCK_UNIX_PATH_MAX);
	memcpy(addr.sun_path, path, strlen(path));
	l->fd = open_socket();
	if (l->fd < 0)
		return err_set(e, l->fd, "vsock socket \"%s\": %s", path, strerror(-l->fd));
	if (bind(l->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		fd_close(&l->fd);
		return bind_failed(path, e);
	}
	note_file(l, path);
	if (listen(l->fd, BACKLOG) < 0) {
		int rc = err_errno(e, "vsock socket \"%s\"", path);

		vsock_unix_unlisten(l, false);
		return rc;
	}
	return 0;
}

int vsock_unix_adopt(struct vsock_listener *l, const char *path, int fd, struct err *e)
{
	struct sockaddr_un addr;
	socklen_t len = sizeof(addr), size = sizeof(int);
	int listening = 0;

	*l = (struct vsock_listener){.fd = fd, .passed = true};
	note_file(l, path);
	if (getsockname(fd, (struct sockaddr *)&addr, &len) == 0 && addr.sun_family == AF_UNIX &&
	    strncmp(addr.sun_path, path, sizeof(addr.sun_path)) == 0 && getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) == 0 &&
	    listening)
		return 0;
	vsock_unix_unlisten(l, true);
	return err_set(e, -EINVAL, "the descriptor that came for the vsock socket \"%s\" does not listen there", path);
}

void vsock_unix_unlisten(struct vsock_listener *l, bool keep)
{
	struct stat st;

	if (!keep && l->path && lstat(l->path, &st) == 0 && S_ISSOCK(st.st_mode) && st.st_dev == l->dev && st.st_ino == l->ino)
		unlink(l->path);
	if (l->path)
		fd_close(&l->fd);
	free(l->path);
	*l = (struct vsock_listener){.fd = -1};
}

int vsock_unix_accept(struct vsock_listener *l)
{
	int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	return fd < 0 ? -errno : fd;
}

int vsock_unix_connect(const struct vsock_listener *l, u32 port)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int n = snprintf(addr.sun_path, sizeof(addr.sun_path), "%s_%u", l->path, port), fd;

	if (n < 0 || (size_t)n >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	fd = open_socket();
	/* A unix socket is connected at once or not at all: EAGAIN says that the other side accepts nobody now. */
	if (fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	return fd;
}

/* "CONNECT 52", the word in any case. */
static bool parse_line(char *line, u32 *port)
{
	char *save, *word = strtok_r(line, " \t\r", &save), *number = strtok_r(NULL, " \t\r", &save);
	u64 value = 0;

	if (!word || strcasecmp(word, "connect") != 0 || !number || strtok_r(NULL, " \t\r", &save))
		return false;
	for (; *number; number++) {
		if (*number < '0' || *number > '9')
			return false;
		value = value * 10 + (u64)(*number - '0');
		if (value > UINT32_MAX)
			return false;
	}
	*port = (u32)value;
	return true;
}

int vsock_unix_read_line(int fd, u32 *port)
{
	char line[VSOCK_UNIX_LINE_MAX + 1], *end;
	ssize_t n = recv(fd, line, VSOCK_UNIX_LINE_MAX, MSG_PEEK | MSG_DONTWAIT), len = n;

	if (n <= 0)
		return n < 0 ? -errno : -ECONNRESET;
	end = memchr(line, '\n', (size_t)n);
	if (!end && n < (ssize_t)VSOCK_UNIX_LINE_MAX)
		return -EAGAIN;
	/* The client may have written more behind the line: that is the stream's. */
	if (end)
		len = end - line + 1;
	if (recv(fd, line, (size_t)len, MSG_DONTWAIT) != len || !end || memchr(line, '\0', (size_t)len))
		return -EPROTO;
	*end = '\0';
	return parse_line(line, port) ? 0 : -EPROTO;
}

int vsock_unix_say_ok(int fd, u32 port)
{
	char line[32];
	int len = snprintf(line, sizeof(line), "OK %u\n", port);
	ssize_t n = send(fd, line, (size_t)len, MSG_DONTWAIT | MSG_NOSIGNAL);

	return n == len ? 0 : n < 0 ? -errno : -EIO;
}
