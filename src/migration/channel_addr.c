/* channel_addr.c: addresses of channels and their sockets; see channel.h. */
#include "migration/channel_addr.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "migration/channel.h"
#include "vmm/clock.h"

#define BACKLOG 32
#define TURN_MS 50u /* how long a limit may go unseen */

static const char *after(const char *address, const char *scheme)
{
	size_t n = strlen(scheme);

	return strncmp(address, scheme, n) == 0 ? address + n : NULL;
}

/* "tls:" is an address of TCP, too. */
static const char *after_tcp(const char *address)
{
	const char *rest = after(address, "tls:");

	return rest ? rest : after(address, "tcp:");
}

bool channel_is_tls(const char *address)
{
	return after(address, "tls:");
}

static int unknown(const char *address, struct err *e)
{
	return err_set(e, -EINVAL, "\"%.200s\" is no address: tls:HOST:PORT, tcp:HOST:PORT, unix:PATH or fd:N", address);
}

/* ---- tcp ---- */

/* "HOST:PORT", "[ADDRESS]:PORT"; host is the caller's. */
static int split_tcp(const char *text, char **host, const char **port, struct err *e)
{
	const char *colon = strrchr(text, ':');
	size_t n = colon ? (size_t)(colon - text) : 0;

	if (!colon || n == 0 || !colon[1])
		return err_set(e, -EINVAL, "\"%.200s\": it is HOST:PORT that comes after tcp: or tls:", text);
	if (text[0] == '[' && text[n - 1] == ']') {
		text++;
		n -= 2;
	}
	*host = xasprintf("%.*s", (int)n, text);
	*port = colon + 1;
	return 0;
}

char *channel_host(const char *address)
{
	const char *port, *rest = after_tcp(address);
	char *host = NULL;
	struct err e;

	return rest && split_tcp(rest, &host, &port, &e) == 0 ? host : xstrdup("");
}

static int look_up(const char *text, bool passive, struct addrinfo **out, struct err *e)
{
	struct addrinfo want = {
		.ai_family = AF_UNSPEC,
		.ai_socktype = SOCK_STREAM,
		.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | (passive ? AI_PASSIVE : 0),
	};
	auto_free char *host = NULL;
	const char *port = NULL;
	int ret = split_tcp(text, &host, &port, e);

	if (ret < 0)
		return ret;
	/* Numbers need no files of libc's, which a jail may not have. */
	ret = getaddrinfo(host, port, &want, out);
	if (ret == EAI_NONAME) {
		want.ai_flags &= ~AI_NUMERICHOST;
		ret = getaddrinfo(host, port, &want, out);
	}
	return ret ? err_set(e, -EINVAL, "\"%.200s\": %s", text, gai_strerror(ret)) : 0;
}

/* The connect that was begun on fd. */
static int finish_connect(int fd, const struct dial_limit *limit)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	u64 end_ns = clock_host_ns() + limit->ms * NSEC_PER_MSEC;
	int error = 0, n;
	socklen_t len = sizeof(error);

	do {
		n = poll(&p, 1, (int)MIN(limit->ms, TURN_MS));
		if (n == 0 && limit->stop && limit->stop(limit->opaque))
			return -ECANCELED;
	} while ((n == 0 && clock_host_ns() < end_ns) || (n < 0 && errno == EINTR));
	if (n == 0)
		return -ETIMEDOUT;
	if (n < 0 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		return -errno;
	return -error;
}

static int connect_to(const struct sockaddr *addr, socklen_t len, const struct dial_limit *limit, int *out)
{
	auto_fd int fd = socket(addr->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int ret = fd < 0 || connect(fd, addr, len) < 0 ? -errno : 0;

	if (ret == -EINPROGRESS || ret == -EAGAIN)
		ret = finish_connect(fd, limit);
	if (ret == 0)
		*out = fd_take(&fd);
	return ret;
}

static int dial_tcp(const char *text, const struct dial_limit *limit, int *fd, struct err *e)
{
	struct addrinfo *all;
	int ret = look_up(text, false, &all, e);

	if (ret < 0)
		return ret;
	ret = -EADDRNOTAVAIL;
	for (const struct addrinfo *a = all; a && ret < 0 && ret != -ECANCELED; a = a->ai_next)
		ret = connect_to(a->ai_addr, a->ai_addrlen, limit, fd);
	freeaddrinfo(all);
	return ret < 0 ? err_set(e, ret, "cannot connect: %s; is husk receive waiting there?", strerror(-ret)) : 0;
}

/* The port that the kernel chose, in the place of what the address says. */
static void name_bound(int fd, const char *scheme, const char *text, char *bound, size_t size)
{
	struct sockaddr_storage addr;
	socklen_t len = sizeof(addr);
	u16 port = 0;

	if (getsockname(fd, (struct sockaddr *)&addr, &len) == 0)
		port = addr.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&addr)->sin6_port : ((struct sockaddr_in *)&addr)->sin_port;
	snprintf(bound, size, "%.4s%.*s:%u", scheme, (int)(strrchr(text, ':') - text), text, __builtin_bswap16(port));
}

static int listen_tcp(const char *scheme, const char *text, int *out, char *bound, size_t size, struct err *e)
{
	struct addrinfo *all;
	auto_fd int fd = -1;
	int ret = look_up(text, true, &all, e);

	if (ret < 0)
		return ret;
	fd = socket(all->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)) < 0 || bind(fd, all->ai_addr, all->ai_addrlen) < 0 ||
	    listen(fd, BACKLOG) < 0)
		ret = err_errno(e, "cannot listen at \"%.200s\"", text);
	freeaddrinfo(all);
	if (ret < 0)
		return ret;
	name_bound(fd, scheme, text, bound, size);
	*out = fd_take(&fd);
	return 0;
}

/* ---- unix ---- */

static int unix_address(const char *path, struct sockaddr_un *addr, struct err *e)
{
	*addr = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (!*path || strlen(path) >= sizeof(addr->sun_path))
		return err_set(e, -EINVAL, "\"unix:%.200s\": a path of 1 to %zu bytes", path, sizeof(addr->sun_path) - 1);
	memcpy(addr->sun_path, path, strlen(path) + 1);
	return 0;
}

static int dial_unix(const char *path, const struct dial_limit *limit, int *fd, struct err *e)
{
	struct sockaddr_un addr;
	int ret = unix_address(path, &addr, e);

	if (ret < 0)
		return ret;
	ret = connect_to((struct sockaddr *)&addr, sizeof(addr), limit, fd);
	return ret < 0 ? err_set(e, ret, "cannot connect: %s; is husk receive waiting there?", strerror(-ret)) : 0;
}

static int listen_unix(const char *path, int *out, char *bound, size_t size, struct err *e)
{
	auto_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un addr;
	const struct dial_limit soon = {.ms = 100};
	int other = -1, ret = unix_address(path, &addr, e);

	if (ret < 0)
		return ret;
	if (fd < 0)
		return err_errno(e, "cannot make a socket");
	ret = bind(fd, (struct sockaddr *)&addr, sizeof(addr));
	/* Of a husk that is gone. */
	if (ret < 0 && errno == EADDRINUSE && connect_to((struct sockaddr *)&addr, sizeof(addr), &soon, &other) == -ECONNREFUSED) {
		unlink(path);
		ret = bind(fd, (struct sockaddr *)&addr, sizeof(addr));
	}
	if (other >= 0) {
		fd_close(&other);
		errno = EADDRINUSE;
	}
	if (ret < 0 || listen(fd, BACKLOG) < 0)
		return err_errno(e, "cannot listen at \"unix:%.200s\"", path);
	snprintf(bound, size, "unix:%s", path);
	*out = fd_take(&fd);
	return 0;
}

/* ---- all of them ---- */

static int take_fd(const char *text, int *fd, struct err *e)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (!*text || *end || n > 1 << 20 || fcntl((int)n, F_GETFD) < 0)
		return err_set(e, -EINVAL, "\"fd:%.40s\": no descriptor that is open here", text);
	*fd = fcntl((int)n, F_DUPFD_CLOEXEC, 0);
	return *fd < 0 ? err_errno(e, "no descriptor") : 0;
}

int channel_dial(const char *address, const struct dial_limit *limit, int *fd, struct err *e)
{
	const char *tcp = after_tcp(address), *un = after(address, "unix:"), *number = after(address, "fd:");

	*fd = -1;
	if (tcp)
		return dial_tcp(tcp, limit, fd, e);
	if (un)
		return dial_unix(un, limit, fd, e);
	return number ? take_fd(number, fd, e) : unknown(address, e);
}

int channel_listen(const char *address, int *fd, char *bound, size_t size, struct err *e)
{
	const char *tcp = after_tcp(address), *un = after(address, "unix:");

	*fd = -1;
	if (tcp)
		return listen_tcp(address, tcp, fd, bound, size, e);
	return un ? listen_unix(un, fd, bound, size, e) : unknown(address, e);
}

int channel_set_up_socket(int fd, u32 patience_ms, struct err *e)
{
	struct sockaddr_storage addr;
	socklen_t len = sizeof(addr);
	int one = 1, ret = fd_set_nonblock(fd);

	if (ret < 0 || getsockname(fd, (struct sockaddr *)&addr, &len) < 0)
		return err_errno(e, "no socket");
	if (addr.ss_family == AF_UNIX)
		return 0;
	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one)) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &patience_ms, sizeof(patience_ms)) < 0)
		return err_errno(e, "cannot set up the connection");
	return 0;
}
