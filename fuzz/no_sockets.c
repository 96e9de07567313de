/* no_sockets.c: while a fuzz target runs, no input binds or connects a socket but the target's own, in /tmp/husk-fuzz-*. Linked with
 * -Wl,--wrap for both calls (meson.build). */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "vmm/base/base.h"

int __real_bind(int fd, const struct sockaddr *addr, socklen_t len);
int __real_connect(int fd, const struct sockaddr *addr, socklen_t len);
int __wrap_bind(int fd, const struct sockaddr *addr, socklen_t len);
int __wrap_connect(int fd, const struct sockaddr *addr, socklen_t len);

static bool is_own(const struct sockaddr *addr)
{
	static const char dir[] = "/tmp/husk-fuzz-";

	return addr->sa_family == AF_UNIX && !strncmp(addr->sa_data, dir, sizeof(dir) - 1);
}

int __wrap_bind(int fd, const struct sockaddr *addr, socklen_t len)
{
	if (is_own(addr))
		return __real_bind(fd, addr, len);
	errno = EACCES;
	return -1;
}

int __wrap_connect(int fd, const struct sockaddr *addr, socklen_t len)
{
	if (is_own(addr))
		return __real_connect(fd, addr, len);
	errno = EACCES;
	return -1;
}
