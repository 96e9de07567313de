/*
 * chr_open.c: the kinds of character backends: stdio, pty, unix:PATH, file:PATH, null.
 *
 * O_NONBLOCK belongs to the open file description, which stdin, stdout and stderr share with the shell and with each other. Setting it
 * there breaks other programs, during the run and after a SIGKILL. So husk opens pipe and terminal a second time through /proc/self/fd and
 * has a description of its own. Where that fails (a socket, a terminal of another user) it asks poll(2) first and writes no more than what
 * cannot block then (out_shared). Input and output have a descriptor each (dup'ed, if need be), so that epoll can watch them apart.
 */
#include "vmm/chr_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

const char *const chr_kind_names[] = {
	[CHR_NULL] = "null", [CHR_STDIO] = "stdio", [CHR_PTY] = "pty", [CHR_UNIX] = "unix:", [CHR_FILE] = "file:",
};

/* Splits a spec; *path is what follows "unix:" or "file:", else NULL. Returns false when it is none. */
bool chr_spec_parse(const char *spec, enum chr_kind *kind, const char **path)
{
	*path = NULL;
	for (u32 i = 0; i < ARRAY_SIZE(chr_kind_names); i++) {
		size_t n = strlen(chr_kind_names[i]);

		*kind = (enum chr_kind)i;
		if (chr_kind_names[i][n - 1] != ':') {
			if (!strcmp(spec, chr_kind_names[i]))
				return true;
		} else if (!strncmp(spec, chr_kind_names[i], n)) {
			*path = spec + n;
			return **path && (i != CHR_UNIX || strlen(*path) < sizeof(((struct sockaddr_un *)0)->sun_path));
		}
	}
	return false;
}

bool chr_spec_ok(const char *spec)
{
	enum chr_kind kind;
	const char *path;

	return chr_spec_parse(spec, &kind, &path);
}

/* A descriptor of our own for what fd is open on; see the top of the file. -1 when fd is closed. */
static int private_fd(int fd, int access_mode, bool *shared)
{
	unsigned int pty_nr;
	char self[32];
	struct stat st;
	int own;

	*shared = false;
	if (fstat(fd, &st) < 0)
		return -1;
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	/* Opening a pty's master again would make a new pty. */
	if (S_ISFIFO(st.st_mode) || (isatty(fd) && ioctl(fd, TIOCGPTN, &pty_nr) < 0)) {
		own = open(self, access_mode | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (own >= 0)
			return own;
	}
	*shared = !S_ISREG(st.st_mode);
	return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

static int open_stdio(struct chr *c, struct err *e)
{
	bool in_shared; /* harmless: input is read once per readiness */

	if (!chr_stdio_claim()) {
		c->kind = CHR_NULL; /* not ours to release */
		return err_set(e, -EBUSY,
			       "\"stdio\" is taken by another serial port or console: give one of them \"null\", \"pty\" or a path");
	}
	/* A closed stdin or stdout is nothing to fail on: no input, output goes nowhere. */
	c->out.fd = private_fd(STDOUT_FILENO, O_WRONLY, &c->out_shared);
	if (c->rx)
		c->in.fd = private_fd(STDIN_FILENO, O_RDONLY, &in_shared);
	c->is_tty = c->in.fd >= 0 && isatty(c->in.fd);
	if (c->is_tty)
		loop_timer_arm(&c->vm->loop, &c->tick, clock_host_ns()); /* raw mode when the loop runs, not before */
	else
		chr_watch_in(c);
	return 0;
}

static int open_file(struct chr *c, struct err *e)
{
	int truncate = c->keep ? 0 : O_TRUNC;

	/* Readable too, so that a FIFO opens before its reader is there. */
	c->out.fd = open(c->path, O_RDWR | O_CREAT | truncate | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0644);
	return c->out.fd < 0 ? err_errno(e, "output file \"%s\"", c->path) : 0;
}

static int open_pty(struct chr *c, struct err *e)
{
	struct termios t;
	char name[64];

	c->in.fd = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (c->in.fd < 0 || grantpt(c->in.fd) < 0 || unlockpt(c->in.fd) < 0 || ptsname_r(c->in.fd, name, sizeof(name)))
		return err_errno(e, "cannot make a pty");
	c->path = xstrdup(name);
	c->pty_slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	c->out.fd = fcntl(c->in.fd, F_DUPFD_CLOEXEC, 3);
	if (c->pty_slave < 0 || c->out.fd < 0 || tcgetattr(c->pty_slave, &t) < 0)
		return err_errno(e, "pty %s", name);
	cfmakeraw(&t); /* the guest has a line discipline of its own */
	tcsetattr(c->pty_slave, TCSANOW, &t);
	chr_watch_in(c);
	log_info(c->vm->log, "pty: connect to %s", name);
	return 0;
}

/* One client at a time: a second one is closed at once, unless the first has hung up and nobody has seen it yet. */
static void listener_ready(struct loop_fd *w, u32 events)
{
	struct chr *c = container_of(w, struct chr, listener);
	auto_fd int fd = accept4(w->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct pollfd old = {.fd = c->in.fd, .events = POLLIN};

	(void)events;
	if (fd < 0)
		return;
	if (c->in.fd >= 0) {
		if (poll(&old, 1, 0) < 0 || !(old.revents & POLLHUP))
			return;
		while (chr_has_room(c) && chr_read(c)) /* what it sent before it went is not lost */
			;
	}
	pthread_mutex_lock(&c->lock);
	chr_close_client(c);
	c->out.fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (c->out.fd >= 0)
		c->in.fd = fd_take(&fd);
	chr_watch_out(c);
	pthread_mutex_unlock(&c->lock);
	chr_deliver(c);
}

/* Removes a socket file that a dead process left; refuses everything else that is there. */
static int clear_stale_socket(const char *path, const struct sockaddr_un *addr, struct err *e)
{
	auto_fd int probe = -1;
	struct stat st;

	if (lstat(path, &st) < 0)
		return 0; /* bind reports what is wrong, if anything is */
	if (!S_ISSOCK(st.st_mode))
		return err_set(e, -EEXIST, "socket \"%s\": something that is not a socket exists there: choose another path", path);
	probe = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (probe < 0)
		return err_errno(e, "socket \"%s\"", path);
	if (!connect(probe, (const struct sockaddr *)addr, sizeof(*addr)) || errno != ECONNREFUSED)
		return err_set(e, -EADDRINUSE, "socket \"%s\" is in use by another process", path);
	return unlink(path) < 0 ? err_errno(e, "socket \"%s\"", path) : 0;
}

static int open_unix(struct chr *c, struct err *e)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct stat st;
	int rc;

	memcpy(addr.sun_path, c->path, strlen(c->path)); /* chr_spec_parse checked the length */
	rc = clear_stale_socket(c->path, &addr, e);
	if (rc < 0)
		return rc;
	c->listener.ready = listener_ready;
	c->listener.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->listener.fd < 0 || bind(c->listener.fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || lstat(c->path, &st) < 0)
		return err_errno(e, "socket \"%s\"", c->path);
	c->sock_dev = st.st_dev;
	c->sock_ino = st.st_ino;
	sandbox_will_remove(c->vm->sandbox, c->path);
	if (listen(c->listener.fd, 1) < 0)
		return err_errno(e, "socket \"%s\"", c->path);
	return loop_watch(&c->vm->loop, &c->listener, EPOLLIN, e);
}

int chr_open(struct chr *c, struct err *e)
{
	static int (*const open_kind[])(struct chr *, struct err *) = {
		[CHR_STDIO] = open_stdio,
		[CHR_PTY] = open_pty,
		[CHR_UNIX] = open_unix,
		[CHR_FILE] = open_file,
	};

	return c->kind == CHR_NULL ? 0 : open_kind[c->kind](c, e);
}

void chr_unclaim(struct chr *c)
{
	struct stat st;

	if (c->kind == CHR_STDIO)
		chr_stdio_release();
	if (c->kind == CHR_UNIX && c->sock_ino && !lstat(c->path, &st) && st.st_dev == c->sock_dev && st.st_ino == c->sock_ino)
		unlink(c->path);
}
