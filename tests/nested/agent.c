/*
 * The nested host's agent: runs commands for tests/nested/nested.py, one per TCP connection.
 *
 * Why own code: a static program with no dependency starts in an initramfs before anything else does, and one framed
 * stream carries stdin, stdout, stderr, signals and the exit status apart, which telnetd or a serial shell cannot.
 *
 * Frame: u8 type, u32 little-endian length, payload.
 *   to the agent:   'A' argument   'E' NAME=VALUE   'D' directory   'T' u16 rows, u16 columns: on a new terminal
 *                   'G' go   'I' stdin data   'C' close stdin   'K' u8 signal to the process group   'W' u16 rows, u16 columns
 *   from the agent: 'H' hello   'S' u32 pid   'O' stdout   'R' stderr   'X' u32 exit code (128 + signal)   'F' why it cannot run
 * When the connection ends first, the command's process group is killed.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

enum { MAX_FRAME = 1 << 20, MAX_ARGS = 4096, STDIN_HIGH = 1 << 20 };

struct session {
	int conn;
	char *argv[MAX_ARGS + 1], *dir;
	int argc;
	int tty; /* 1: run on a pseudo-terminal of this size */
	struct winsize size;
	pid_t pid;
	int in, out, err; /* our ends; -1 when closed */
	char *pending;	  /* stdin bytes the command has not taken yet */
	size_t pending_len;
	int close_in; /* close stdin once they are taken */
};

static void die(const char *what)
{
	fprintf(stderr, "agent: %s: %s\n", what, strerror(errno));
	_exit(1);
}

static int write_all(int fd, const void *data, size_t len)
{
	const char *p = data;

	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		p += n;
		len -= n;
	}
	return 0;
}

static int read_all(int fd, void *data, size_t len)
{
	char *p = data;

	while (len) {
		ssize_t n = read(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		p += n;
		len -= n;
	}
	return 0;
}

static int send_frame(struct session *s, char type, const void *data, uint32_t len)
{
	char head[5] = {type};
	uint32_t le = htole32(len);

	memcpy(head + 1, &le, 4);
	return write_all(s->conn, head, 5) || write_all(s->conn, data, len) ? -1 : 0;
}

static int send_u32(struct session *s, char type, uint32_t v)
{
	v = htole32(v);
	return send_frame(s, type, &v, 4);
}

/* Returns the payload, NUL-terminated, to be freed; NULL when the connection is over. */
static char *recv_frame(struct session *s, char *type, uint32_t *len)
{
	unsigned char head[5];
	char *data;

	if (read_all(s->conn, head, 5))
		return NULL;
	*type = head[0];
	*len = head[1] | head[2] << 8 | head[3] << 16 | (uint32_t)head[4] << 24;
	if (*len > MAX_FRAME)
		return NULL;
	data = malloc(*len + 1);
	if (!data || read_all(s->conn, data, *len)) {
		free(data);
		return NULL;
	}
	data[*len] = 0;
	return data;
}

static void kill_group(struct session *s, int sig)
{
	if (s->pid > 0)
		kill(-s->pid, sig);
}

static struct winsize parse_size(const char *d, uint32_t len)
{
	struct winsize w = {.ws_row = 24, .ws_col = 80};

	if (len >= 4) {
		w.ws_row = (unsigned char)d[0] | (unsigned char)d[1] << 8;
		w.ws_col = (unsigned char)d[2] | (unsigned char)d[3] << 8;
	}
	return w;
}

/* In the child: becomes the command, or tells why not through report. */
static void child(struct session *s, int in, int out, int err, int report)
{
	sigset_t none;

	setsid();
	if (s->tty)
		ioctl(in, TIOCSCTTY, 0);
	dup2(in, 0);
	dup2(out, 1);
	dup2(err, 2);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	signal(SIGCHLD, SIG_DFL);
	if (!s->dir || !chdir(s->dir))
		execvp(s->argv[0], s->argv);
	write_all(report, &errno, sizeof errno);
	_exit(127);
}

/* Opens the command's three channels: [0] ours, [1] the command's. */
static void open_channels(struct session *s, int in[2], int out[2], int err[2])
{
	if (s->tty) {
		int m = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), t;

		if (m < 0 || grantpt(m) || unlockpt(m) || (t = open(ptsname(m), O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0)
			die("pseudo-terminal");
		ioctl(m, TIOCSWINSZ, &s->size);
		in[0] = m;
		out[0] = fcntl(m, F_DUPFD_CLOEXEC, 0);
		in[1] = out[1] = err[1] = t;
		err[0] = -1;
		return;
	}
	int p[3][2];

	for (int i = 0; i < 3; i++)
		if (pipe2(p[i], O_CLOEXEC))
			die("pipe");
	in[0] = p[0][1], in[1] = p[0][0];
	out[0] = p[1][0], out[1] = p[1][1];
	err[0] = p[2][0], err[1] = p[2][1];
}

static int start(struct session *s)
{
	int in[2], out[2], err[2], report[2], e = 0;

	open_channels(s, in, out, err);
	if (pipe2(report, O_CLOEXEC))
		die("pipe");
	s->pid = fork();
	if (s->pid < 0)
		die("fork");
	if (!s->pid)
		child(s, in[1], out[1], err[1], report[1]);
	close(in[1]);
	if (!s->tty)
		close(out[1]), close(err[1]);
	close(report[1]);
	s->in = in[0], s->out = out[0], s->err = err[0];
	if (read(report[0], &e, sizeof e) == sizeof e) {
		char why[256];
		int n = snprintf(why, sizeof why, "%s: %s", s->argv[0], strerror(e));

		send_frame(s, 'F', why, n);
		return -1;
	}
	close(report[0]);
	fcntl(s->in, F_SETFL, O_NONBLOCK);
	fcntl(s->out, F_SETFL, O_NONBLOCK);
	if (s->err >= 0)
		fcntl(s->err, F_SETFL, O_NONBLOCK);
	return send_u32(s, 'S', s->pid);
}

static void flush_stdin(struct session *s)
{
	while (s->in >= 0 && s->pending_len) {
		ssize_t n = write(s->in, s->pending, s->pending_len);

		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			s->pending_len = 0; /* nobody reads it any more */
			s->close_in = 1;
			break;
		}
		memmove(s->pending, s->pending + n, s->pending_len - n);
		s->pending_len -= n;
	}
	if (s->close_in && s->in >= 0) {
		if (s->tty)
			(void)!write(s->in, "\4", 1);
		close(s->in);
		s->in = -1;
	}
}

/* Passes on what a channel holds; closes it at its end. */
static int forward(struct session *s, int *fd, char type)
{
	static char buf[65536];

	while (*fd >= 0) {
		ssize_t n = read(*fd, buf, sizeof buf);

		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n <= 0) {
			close(*fd);
			*fd = -1;
			return 0;
		}
		if (send_frame(s, type, buf, n))
			return -1;
		if (n < (ssize_t)sizeof buf)
			return 0;
	}
	return 0;
}

static int request(struct session *s)
{
	char type, *d;
	uint32_t len;

	d = recv_frame(s, &type, &len);
	if (!d)
		return -1;
	switch (type) {
	case 'I':
		if (s->in < 0 || s->close_in)
			break;
		s->pending = realloc(s->pending, s->pending_len + len + 1);
		if (!s->pending)
			die("stdin");
		memcpy(s->pending + s->pending_len, d, len);
		s->pending_len += len;
		break;
	case 'C':
		s->close_in = 1;
		break;
	case 'K':
		kill_group(s, (unsigned char)d[0]);
		break;
	case 'W':
		s->size = parse_size(d, len);
		if (s->tty && s->out >= 0)
			ioctl(s->out, TIOCSWINSZ, &s->size);
		break;
	}
	free(d);
	flush_stdin(s);
	return 0;
}

static void pump(struct session *s, int sigfd)
{
	struct signalfd_siginfo si;
	int status;

	for (;;) {
		struct pollfd p[] = {
			{s->pending_len < STDIN_HIGH ? s->conn : -1, POLLIN, 0},
			{sigfd, POLLIN, 0},
			{s->out, POLLIN, 0},
			{s->err, POLLIN, 0},
			{s->pending_len ? s->in : -1, POLLOUT, 0},
		};

		if (poll(p, 5, -1) < 0 && errno != EINTR)
			die("poll");
		if (p[4].revents)
			flush_stdin(s);
		if ((p[2].revents && forward(s, &s->out, 'O')) || (p[3].revents && forward(s, &s->err, 'R')) ||
		    (p[0].revents && request(s))) {
			kill_group(s, SIGKILL);
			return;
		}
		if (p[1].revents && read(sigfd, &si, sizeof si) > 0 && waitpid(s->pid, &status, WNOHANG) == s->pid)
			break;
	}
	/* What it wrote is in the channels by now, or for a terminal soon; do not wait for background children that hold them open. */
	for (int i = 0; i < 1000 && s->out >= 0; i++) {
		struct pollfd p = {s->out, POLLIN, 0};

		if (poll(&p, 1, s->tty ? 50 : 0) <= 0 || forward(s, &s->out, 'O'))
			break;
	}
	if (s->err >= 0)
		forward(s, &s->err, 'R');
	send_u32(s, 'X', WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

static void serve(int conn)
{
	static struct session s;
	sigset_t chld;
	char type = 0, *d;
	uint32_t len;
	int sigfd;

	s.conn = conn;
	if (send_frame(&s, 'H', "husk-nested 1", 13))
		return;
	while (type != 'G' && (d = recv_frame(&s, &type, &len))) {
		if (type == 'A' && s.argc < MAX_ARGS)
			s.argv[s.argc++] = d;
		else if (type == 'E')
			putenv(d);
		else if (type == 'D')
			s.dir = d;
		else if (type == 'T') {
			s.tty = 1;
			s.size = parse_size(d, len);
		}
	}
	if (type != 'G' || !s.argc)
		return;
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, NULL);
	signal(SIGCHLD, SIG_DFL);
	sigfd = signalfd(-1, &chld, SFD_CLOEXEC);
	if (!start(&s))
		pump(&s, sigfd);
}

int main(int argc, char **argv)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 7000)};
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	signal(SIGCHLD, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (l < 0 || bind(l, (struct sockaddr *)&a, sizeof a) || listen(l, 64))
		die("listen");
	printf("nested: agent listens\n");
	fflush(stdout);
	for (;;) {
		int c = accept4(l, NULL, NULL, SOCK_CLOEXEC);

		if (c < 0)
			continue;
		setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		if (!fork()) {
			close(l);
			serve(c);
			_exit(0);
		}
		close(c);
	}
}
