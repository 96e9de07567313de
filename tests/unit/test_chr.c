/* test_chr.c: the character backend over real pipes, terminals, sockets and files. */
#include "cm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "vmm/chr.h"
#include "vmm/vm.h"

struct bench {
	struct vm vm;
	struct log log;
	struct chr *chr; /* that open_chr made last */
	char dir[32];
	int saved[2]; /* stdin and stdout of the test itself */
	u8 got[200000];
	u32 got_len;
	u32 room; /* how much the frontend takes in all */
};

static u32 take(void *opaque, const u8 *data, u32 len)
{
	struct bench *b = opaque;
	u32 n = MIN(len, b->room);

	memcpy(b->got + b->got_len, data, n);
	b->got_len += n;
	b->room -= n;
	return n;
}

static int setup(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));
	struct err e;

	signal(SIGPIPE, SIG_IGN);
	log_init(&b->log, -1, LOG_OFF);
	b->vm.log = &b->log;
	b->room = sizeof(b->got);
	strcpy(b->dir, "/tmp/husk-chr-XXXXXX");
	b->saved[0] = dup(0);
	b->saved[1] = dup(1);
	*state = b;
	return !mkdtemp(b->dir) || loop_init(&b->vm.loop, &e) < 0;
}

/* Standard input and output back to what they were. */
static void stdio_restore(struct bench *b)
{
	dup2(b->saved[0], 0);
	dup2(b->saved[1], 1);
}

static void shut(struct bench *b)
{
	chr_free(b->chr);
	b->chr = NULL;
}

static int teardown(void **state)
{
	struct bench *b = *state;

	shut(b);
	stdio_restore(b);
	close(b->saved[0]);
	close(b->saved[1]);
	loop_fini(&b->vm.loop);
	rmdir(b->dir);
	free(b);
	return 0;
}

static void turns(struct bench *b, u32 n)
{
	while (n--)
		loop_turn(&b->vm.loop, 5);
}

static struct chr *open_chr(struct bench *b, const char *spec)
{
	struct err e = {0};
	struct chr *c = chr_new(&b->vm, spec, take, b, &e);

	if (!c)
		fail_msg("%s: %s", spec, e.msg);
	b->chr = c;
	return c;
}

/* "unix:<dir>/name" */
static const char *in_dir(struct bench *b, char *buf, const char *kind, const char *name)
{
	sprintf(buf, "%s%s/%s", kind, b->dir, name);
	return buf;
}

static int client(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	strcpy(a.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

/* stdin and stdout become ends of pipes; the other ends come back. */
static void pipe_stdio(int *feed, int *drain)
{
	int in[2], out[2];

	assert_int_equal(pipe(in) | pipe(out), 0);
	dup2(in[0], 0);
	dup2(out[1], 1);
	close(in[0]);
	close(out[1]);
	*feed = in[1];
	*drain = out[0];
	fcntl(*drain, F_SETFL, O_NONBLOCK);
}

static void put(int fd, const void *data, size_t len)
{
	assert_int_equal(write(fd, data, len), len);
}

static void expect_read(int fd, const char *text)
{
	char buf[512] = "";

	assert_int_equal(read(fd, buf, sizeof(buf) - 1), strlen(text));
	assert_string_equal(buf, text);
}

static void specs_are_checked(void **state)
{
	char longest[120];

	(void)state;
	assert_true(chr_spec_ok("stdio") && chr_spec_ok("pty") && chr_spec_ok("null"));
	assert_true(chr_spec_ok("unix:/a") && chr_spec_ok("file:a"));
	assert_false(chr_spec_ok("") || chr_spec_ok("stdio:") || chr_spec_ok("unix:") || chr_spec_ok("file:") || chr_spec_ok("ptyx"));
	memset(longest, 'a', sizeof(longest));
	memcpy(longest, "unix:", 5);
	longest[5 + 107] = 0;
	assert_true(chr_spec_ok(longest));
	longest[5 + 107] = 'a';
	longest[5 + 108] = 0;
	assert_false(chr_spec_ok(longest));
}

static void pipes_carry_input_and_output_unchanged(void **state)
{
	struct bench *b = *state;
	int feed, drain;
	struct chr *c;

	pipe_stdio(&feed, &drain);
	c = open_chr(b, "stdio");
	chr_write(c, "boot\n", 5);
	put(feed, "a\001xb", 4); /* no terminal: no escape */
	turns(b, 3);
	stdio_restore(b);
	expect_read(drain, "boot\n");
	assert_int_equal(b->got_len, 4);
	assert_memory_equal(b->got, "a\001xb", 4);
	assert_int_equal(b->vm.end, VM_END_NONE);
	shut(b);
	close(feed);
	close(drain);
}

static void shared_descriptions_keep_their_flags(void **state)
{
	struct bench *b = *state;
	int feed, drain, in, out;

	pipe_stdio(&feed, &drain);
	open_chr(b, "stdio");
	in = fcntl(0, F_GETFL);
	out = fcntl(1, F_GETFL);
	stdio_restore(b);
	assert_false((in | out) & O_NONBLOCK);
	shut(b);
	close(feed);
	close(drain);
}

static void a_stalled_reader_never_blocks_and_drops_are_counted(void **state)
{
	struct bench *b = *state;
	static u8 out[300000], back[300000];
	int feed, drain;
	u32 kept, n = 0;
	struct chr *c;

	pipe_stdio(&feed, &drain);
	for (u32 i = 0; i < sizeof(out); i++)
		out[i] = (u8)(i * 7 + i / 251);
	alarm(10); /* a blocking write would hang here */
	c = open_chr(b, "stdio");
	stdio_restore(b);
	for (u32 i = 0; i < sizeof(out); i += 1000)
		chr_write(c, out + i, 1000);
	alarm(0);
	kept = (u32)(sizeof(out) - chr_dropped(c));
	assert_in_range(kept, 65536, 65536 + 65536);
	for (int i = 0; i < 100 && n < kept; i++) {
		ssize_t r = read(drain, back + n, sizeof(back) - n);

		n += r > 0 ? (u32)r : 0;
		turns(b, 1);
	}
	assert_int_equal(n, kept);
	assert_memory_equal(back, out, kept); /* in order, from the start */
	chr_write(c, "end", 3);
	expect_read(drain, "end");
	shut(b);
	close(feed);
	close(drain);
}

static void a_reader_that_goes_away_loses_output_only(void **state)
{
	struct bench *b = *state;
	int feed, drain;
	struct chr *c;

	pipe_stdio(&feed, &drain);
	c = open_chr(b, "stdio");
	stdio_restore(b);
	for (int i = 0; i < 100; i++)
		chr_write(c, b->got, 1000); /* backs up */
	close(drain);
	turns(b, 3);
	chr_write(c, "x", 1);
	assert_int_not_equal(chr_dropped(c), 0);
	put(feed, "still here", 10);
	turns(b, 2);
	assert_int_equal(b->got_len, 10);
	shut(b);
	close(feed);
}

static void end_of_input_is_no_error(void **state)
{
	struct bench *b = *state;
	int feed, drain;
	struct chr *c;

	pipe_stdio(&feed, &drain);
	c = open_chr(b, "stdio");
	put(feed, "last", 4);
	close(feed);
	turns(b, 4);
	chr_write(c, "out", 3);
	chr_rx_resume(c);
	turns(b, 1);
	stdio_restore(b);
	assert_int_equal(b->got_len, 4);
	expect_read(drain, "out");
	shut(b);
	close(drain);
}

static void input_waits_while_the_frontend_is_full(void **state)
{
	struct bench *b = *state;
	static u8 in[60000];
	int feed, drain;
	struct chr *c;

	for (u32 i = 0; i < sizeof(in); i++)
		in[i] = (u8)(i * 13 + i / 256);
	pipe_stdio(&feed, &drain);
	c = open_chr(b, "stdio");
	stdio_restore(b);
	put(feed, in, sizeof(in));
	b->room = 0;
	turns(b, 5);
	assert_int_equal(b->got_len, 0);
	while (b->got_len < sizeof(in)) {
		u32 before = b->got_len;

		b->room = 5000;
		chr_rx_resume(c);
		turns(b, 3);
		assert_int_not_equal(b->got_len, before);
	}
	assert_memory_equal(b->got, in, sizeof(in));
	shut(b);
	close(feed);
	close(drain);
}

static void regular_files_serve_as_stdin_and_stdout(void **state)
{
	struct bench *b = *state;
	static u8 in[10000];
	char path[2][64], back[4] = "";
	int fd[2];
	struct chr *c;

	for (u32 i = 0; i < sizeof(in); i++)
		in[i] = (u8)(i * 31 + i / 256);
	for (int i = 0; i < 2; i++)
		fd[i] = open(in_dir(b, path[i], "", i ? "out" : "in"), O_RDWR | O_CREAT, 0600);
	put(fd[0], in, sizeof(in));
	lseek(fd[0], 1, SEEK_SET); /* the shell's read position counts */
	dup2(fd[0], 0);
	dup2(fd[1], 1);
	c = open_chr(b, "stdio");
	stdio_restore(b);
	b->room = 4000;
	turns(b, 5);
	assert_int_equal(b->got_len, 4000);
	b->room = 100000;
	chr_rx_resume(c);
	turns(b, 10);
	assert_int_equal(b->got_len, sizeof(in) - 1);
	assert_memory_equal(b->got, in + 1, sizeof(in) - 1);
	chr_write(c, "abc", 3);
	assert_int_equal(pread(fd[1], back, 3, 0), 3);
	assert_string_equal(back, "abc");
	shut(b);
	for (int i = 0; i < 2; i++) {
		close(fd[i]);
		unlink(path[i]);
	}
}

static void dev_null_and_closed_descriptors_serve_as_stdio(void **state)
{
	struct bench *b = *state;
	int null = open("/dev/null", O_RDWR);
	struct chr *c;

	dup2(null, 0);
	dup2(null, 1);
	c = open_chr(b, "stdio");
	turns(b, 3);
	chr_write(c, "x", 1);
	shut(b);
	close(0);
	close(1);
	c = open_chr(b, "stdio");
	turns(b, 3);
	chr_write(c, "x", 1);
	stdio_restore(b);
	assert_int_equal(chr_dropped(c), 0);
	shut(b);
	close(null);
}

static void sockets_serve_as_stdio(void **state)
{
	struct bench *b = *state;
	static u8 big[600000];
	int sv[2];
	struct chr *c;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	dup2(sv[0], 0);
	dup2(sv[0], 1);
	close(sv[0]);
	c = open_chr(b, "stdio");
	stdio_restore(b);
	put(sv[1], "hi", 2);
	turns(b, 2);
	assert_int_equal(b->got_len, 2);
	alarm(10);
	chr_write(c, big, sizeof(big)); /* blocking description: must not hang */
	alarm(0);
	assert_int_not_equal(chr_dropped(c), 0);
	shut(b);
	close(sv[1]);
}

static void stdio_is_given_out_once(void **state)
{
	struct bench *b = *state;
	struct err e;
	int feed, drain;

	pipe_stdio(&feed, &drain);
	open_chr(b, "stdio");
	assert_null(chr_new(&b->vm, "stdio", take, b, &e));
	assert_int_equal(e.code, -EBUSY);
	assert_null(chr_new(&b->vm, "stdio", take, b, &e)); /* the refused one gave nothing back */
	shut(b);
	open_chr(b, "stdio");
	shut(b);
	close(feed);
	close(drain);
}

/* A pty as stdin and stdout; returns the master. */
static int tty_stdio(void)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
	int slave;

	assert_int_equal(grantpt(master) | unlockpt(master), 0);
	slave = open(ptsname(master), O_RDWR | O_NOCTTY);
	dup2(slave, 0);
	dup2(slave, 1);
	close(slave);
	return master;
}

static void a_terminal_goes_raw_and_comes_back(void **state)
{
	struct bench *b = *state;
	struct termios before, raw, after;
	int master = tty_stdio();

	tcgetattr(0, &before);
	open_chr(b, "stdio");
	tcgetattr(0, &raw);
	assert_true(raw.c_lflag & ICANON); /* not before the loop runs: the VM may yet fail to start */
	turns(b, 2);
	tcgetattr(0, &raw);
	chr_restore_terminal(); /* as a signal handler does */
	tcgetattr(0, &after);
	shut(b);
	stdio_restore(b);
	assert_false(raw.c_lflag & (ICANON | ECHO | ISIG));
	assert_int_equal(after.c_lflag, before.c_lflag);
	assert_int_equal(after.c_iflag, before.c_iflag);
	assert_int_equal(after.c_oflag, before.c_oflag);
	close(master);
}

static void freeing_restores_the_terminal(void **state)
{
	struct bench *b = *state;
	struct termios before, after;
	int master = tty_stdio();

	tcgetattr(0, &before);
	open_chr(b, "stdio");
	turns(b, 2);
	shut(b);
	tcgetattr(0, &after);
	stdio_restore(b);
	assert_int_equal(after.c_lflag, before.c_lflag);
	close(master);
}

static void the_escape_character_is_understood(void **state)
{
	struct bench *b = *state;
	int master = tty_stdio();
	char help[256] = "";

	open_chr(b, "stdio");
	turns(b, 2);
	stdio_restore(b);
	put(master, "l\001", 2);
	turns(b, 2);
	put(master, "a\001q\001h!", 6);
	turns(b, 2);
	assert_int_equal(b->got_len, 5);
	assert_memory_equal(b->got, "l\001\001q!", 5);
	assert_true(read(master, help, sizeof(help) - 1) > 0);
	assert_non_null(strstr(help, "Ctrl-a x"));
	assert_int_equal(b->vm.end, VM_END_NONE);
	put(master, "\001x", 2);
	turns(b, 2);
	assert_int_equal(b->vm.end, VM_END_HOST);
	assert_int_equal(b->got_len, 5);
	shut(b);
	close(master);
}

static void the_escape_works_while_the_frontend_is_full(void **state)
{
	struct bench *b = *state;
	int master = tty_stdio();

	open_chr(b, "stdio");
	turns(b, 2);
	stdio_restore(b);
	b->room = 0;
	put(master, "the guest hangs", 15);
	turns(b, 2);
	put(master, "\001x", 2);
	turns(b, 2);
	assert_int_equal(b->vm.end, VM_END_HOST);
	shut(b);
	close(master);
}

/* In a session of its own with the pty as controlling terminal: the grandchild is a background job that runs a chr. */
static int background_job(struct bench *b)
{
	struct termios t;

	setpgid(0, 0);
	open_chr(b, "stdio");
	turns(b, 3); /* stopped by SIGTTIN or SIGTTOU here if wrong */
	tcgetattr(0, &t);
	if (!(t.c_lflag & ICANON) || b->got_len)
		return 1;
	signal(SIGTTOU, SIG_IGN);
	tcsetpgrp(0, getpgrp()); /* "fg" */
	signal(SIGTTOU, SIG_DFL);
	for (int i = 0; i < 400 && !b->got_len; i++)
		turns(b, 1);
	tcgetattr(0, &t);
	shut(b);
	return t.c_lflag & ICANON || b->got_len != 5 ? 2 : 0;
}

static void a_background_job_leaves_the_terminal_alone_until_fg(void **state)
{
	struct bench *b = *state;
	int master = posix_openpt(O_RDWR | O_NOCTTY), status;
	pid_t leader;

	assert_int_equal(grantpt(master) | unlockpt(master), 0);
	leader = fork();
	if (!leader) {
		pid_t job;

		setsid();
		for (int fd = open(ptsname(master), O_RDWR), i = 0; i < 2; i++)
			dup2(fd, i);
		ioctl(0, TIOCSCTTY, 0);
		put(master, "type\n", 5);
		job = fork();
		if (!job)
			_exit(background_job(b));
		if (waitpid(job, &status, WUNTRACED) < 0 || !WIFEXITED(status)) {
			kill(job, SIGKILL);
			_exit(3);
		}
		_exit(WEXITSTATUS(status));
	}
	assert_int_equal(waitpid(leader, &status, 0), leader);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	close(master);
}

static void a_pty_serves_one_user_after_the_other(void **state)
{
	struct bench *b = *state;
	struct chr *c = open_chr(b, "pty");

	assert_non_null(chr_path(c));
	chr_write(c, "early\r\n", 7);
	for (int i = 0; i < 2; i++) {
		int user = open(chr_path(c), O_RDWR | O_NOCTTY | O_NONBLOCK);
		struct termios t;

		tcgetattr(user, &t);
		assert_false(t.c_lflag & (ECHO | ICANON));
		expect_read(user, i ? "again" : "early\r\n");
		put(user, "\001x", 2); /* no escape here: closing the terminal program is the way out */
		turns(b, 2);
		close(user);
		turns(b, 2);
		chr_write(c, "again", 5);
	}
	assert_int_equal(b->got_len, 4);
	assert_int_equal(b->vm.end, VM_END_NONE);
	shut(b);
}

static void a_socket_serves_one_client_after_the_other(void **state)
{
	struct bench *b = *state;
	char spec[64], buf[8];
	struct chr *c = open_chr(b, in_dir(b, spec, "unix:", "s"));
	int one, two;

	chr_write(c, "before", 6); /* kept for the first client */
	one = client(spec + 5);
	turns(b, 3);
	expect_read(one, "before");
	two = client(spec + 5);
	turns(b, 2);
	assert_int_equal(read(two, buf, 1), 0); /* turned away */
	close(two);
	put(one, "hello", 5);
	close(one);
	turns(b, 3);
	two = client(spec + 5);
	turns(b, 2);
	chr_write(c, "second", 6);
	expect_read(two, "second");
	put(two, "!", 1);
	turns(b, 2);
	assert_int_equal(b->got_len, 6);
	assert_memory_equal(b->got, "hello!", 6);
	assert_null(chr_path(c));
	shut(b);
	close(two);
	assert_int_equal(access(spec + 5, F_OK), -1);
}

static void a_client_that_sends_no_more_still_gets_output(void **state)
{
	struct bench *b = *state;
	char spec[64];
	struct chr *c = open_chr(b, in_dir(b, spec, "unix:", "s"));
	int fd = client(spec + 5);

	put(fd, "ls\n", 3);
	shutdown(fd, SHUT_WR);
	turns(b, 4);
	chr_write(c, "file", 4);
	expect_read(fd, "file");
	close(fd);
	turns(b, 2);
	fd = client(spec + 5);
	turns(b, 2);
	chr_write(c, "new", 3);
	expect_read(fd, "new");
	shut(b);
	close(fd);
}

static void a_client_that_leaves_while_the_frontend_is_full_loses_nothing(void **state)
{
	struct bench *b = *state;
	static u8 in[6000];
	char spec[64];
	struct chr *c = open_chr(b, in_dir(b, spec, "unix:", "s"));
	int fd = client(spec + 5);

	memset(in, 'q', sizeof(in));
	b->room = 0;
	put(fd, in, sizeof(in));
	close(fd);
	turns(b, 5);
	b->room = 100000;
	chr_rx_resume(c);
	turns(b, 5);
	assert_int_equal(b->got_len, sizeof(in));
	b->room = 0;
	fd = client(spec + 5);
	put(fd, in, sizeof(in));
	turns(b, 5);
	close(fd);
	fd = client(spec + 5); /* the guest hangs, the user connects anew */
	turns(b, 3);
	chr_write(c, "new", 3);
	expect_read(fd, "new");
	shut(b);
	close(fd);
}

static void what_a_vanished_client_left_unread_goes_to_the_next(void **state)
{
	struct bench *b = *state;
	static u8 big[400000];
	char spec[64];
	struct chr *c = open_chr(b, in_dir(b, spec, "unix:", "s"));
	int fd = client(spec + 5);

	turns(b, 2);
	chr_write(c, big, sizeof(big));
	assert_int_not_equal(chr_dropped(c), 0);
	close(fd);
	turns(b, 3);
	fd = client(spec + 5);
	turns(b, 3);
	assert_true(read(fd, big, sizeof(big)) > 0);
	shut(b);
	close(fd);
}

static void socket_paths_in_use_are_refused_and_stale_ones_replaced(void **state)
{
	struct bench *b = *state;
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	char spec[64];
	struct err e;
	int fd;

	in_dir(b, spec, "unix:", "s");
	close(open(spec + 5, O_CREAT | O_WRONLY, 0600));
	assert_null(chr_new(&b->vm, spec, take, b, &e));
	assert_int_equal(e.code, -EEXIST);
	assert_int_equal(access(spec + 5, F_OK), 0);
	unlink(spec + 5);
	strcpy(a.sun_path, spec + 5);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)) | listen(fd, 1), 0);
	assert_null(chr_new(&b->vm, spec, take, b, &e));
	assert_int_equal(e.code, -EADDRINUSE);
	assert_int_equal(access(spec + 5, F_OK), 0);
	close(fd);
	open_chr(b, spec);
	unlink(spec + 5); /* someone else's file in our place stays */
	close(open(spec + 5, O_CREAT | O_WRONLY, 0600));
	shut(b);
	assert_int_equal(unlink(spec + 5), 0);
}

static void a_file_gets_the_output(void **state)
{
	struct bench *b = *state;
	char spec[64], back[8] = "";
	struct chr *c;
	struct err e;
	int fd;

	c = open_chr(b, in_dir(b, spec, "file:", "f"));
	chr_write(c, "one", 3);
	chr_write(c, "two", 3);
	turns(b, 1);
	shut(b);
	fd = open(spec + 5, O_RDONLY);
	assert_int_equal(read(fd, back, 7), 6);
	assert_string_equal(back, "onetwo");
	close(fd);
	unlink(spec + 5);
	assert_null(chr_new(&b->vm, "file:/nonexistent/f", take, b, &e));
	assert_int_equal(e.code, -ENOENT);
}

static void a_full_disk_costs_output_only(void **state)
{
	struct bench *b = *state;
	struct chr *c = open_chr(b, "file:/dev/full");

	chr_write(c, "12345", 5);
	chr_write(c, "12345", 5);
	assert_int_equal(chr_dropped(c), 10);
	shut(b);
}

static void draining_waits_for_the_reader_but_not_for_ever(void **state)
{
	struct bench *b = *state;
	static u8 out[100000];
	int feed, drain;
	struct chr *c;

	pipe_stdio(&feed, &drain);
	c = open_chr(b, "stdio");
	stdio_restore(b);
	chr_write(c, out, sizeof(out));
	alarm(5);
	chr_drain(c, 20);
	if (!fork()) {
		u32 n = 0;

		for (int i = 0; i < 200 && n < sizeof(out); i++) {
			ssize_t r = read(drain, out, sizeof(out));

			n += r > 0 ? (u32)r : 0;
			usleep(1000);
		}
		_exit(n != sizeof(out));
	}
	chr_drain(c, 2000);
	alarm(0);
	shut(b);
	close(feed);
	close(drain);
	int status;
	assert_true(wait(&status) > 0);
	assert_int_equal(status, 0);
}

static void *writer(void *arg)
{
	for (int i = 0; i < 2000; i++)
		chr_write(arg, "0123456789", 10);
	return NULL;
}

static void output_of_two_threads_is_whole(void **state)
{
	struct bench *b = *state;
	static char back[40000];
	int feed, drain;
	pthread_t t[2];
	u32 n = 0;
	struct chr *c;

	pipe_stdio(&feed, &drain);
	fcntl(1, F_SETPIPE_SZ, 4096);
	c = open_chr(b, "stdio");
	stdio_restore(b);
	for (int i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, writer, c);
	for (int i = 0; i < 2000 && n < sizeof(back); i++) {
		ssize_t r = read(drain, back + n, sizeof(back) - n);

		n += r > 0 ? (u32)r : 0;
		turns(b, 1);
	}
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(n, sizeof(back));
	for (u32 i = 0; i < n; i++)
		assert_int_equal(back[i], '0' + i % 10);
	shut(b);
	close(feed);
	close(drain);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(specs_are_checked),
		TEST(pipes_carry_input_and_output_unchanged),
		TEST(shared_descriptions_keep_their_flags),
		TEST(a_stalled_reader_never_blocks_and_drops_are_counted),
		TEST(a_reader_that_goes_away_loses_output_only),
		TEST(end_of_input_is_no_error),
		TEST(input_waits_while_the_frontend_is_full),
		TEST(regular_files_serve_as_stdin_and_stdout),
		TEST(dev_null_and_closed_descriptors_serve_as_stdio),
		TEST(sockets_serve_as_stdio),
		TEST(stdio_is_given_out_once),
		TEST(a_terminal_goes_raw_and_comes_back),
		TEST(freeing_restores_the_terminal),
		TEST(the_escape_character_is_understood),
		TEST(the_escape_works_while_the_frontend_is_full),
		TEST(a_background_job_leaves_the_terminal_alone_until_fg),
		TEST(a_pty_serves_one_user_after_the_other),
		TEST(a_socket_serves_one_client_after_the_other),
		TEST(a_client_that_sends_no_more_still_gets_output),
		TEST(a_client_that_leaves_while_the_frontend_is_full_loses_nothing),
		TEST(what_a_vanished_client_left_unread_goes_to_the_next),
		TEST(socket_paths_in_use_are_refused_and_stale_ones_replaced),
		TEST(a_file_gets_the_output),
		TEST(a_full_disk_costs_output_only),
		TEST(draining_waits_for_the_reader_but_not_for_ever),
		TEST(output_of_two_threads_is_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
