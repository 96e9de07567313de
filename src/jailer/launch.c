/*
 * launch.c: see launch.h.
 *
 *   jailer ─(--daemonize)─> session leader ─> daemon ─(--new-pid-ns)─> program
 *     waits on a pipe <──────────────────────────┴──────────────────────┘ an error, or nothing: exec closes it
 *
 * The first process waits until the program runs, so that its exit code tells the truth and it can take everything back. Without either
 * flag it is itself the process that becomes the program, as clients expect that signal and wait for it.
 */
#include "jailer/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "jailer/janitor.h"

#define ARGS_OURS 9 /* the program, and four options with their values */

static u64 cpu_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (u64)t.tv_sec * 1000000 + (u64)t.tv_nsec / 1000;
}

static int set_limit(int resource, const char *name, bool given, u64 value, struct err *e)
{
	struct rlimit limit = {value, value}, now;

	/* Nobody asked for the default: where less is allowed, less it is. */
	if (!given && getrlimit(resource, &now) == 0 && now.rlim_max < value)
		limit = (struct rlimit){now.rlim_max, now.rlim_max};
	return setrlimit(resource, &limit) < 0 ? oserr_set(e, "Failed to set limit for resource: %s", name) : 0;
}

static int set_limits(const struct jail_options *o, struct err *e)
{
	int r = set_limit(RLIMIT_NOFILE, "no-file", o->have_no_file, o->no_file, e);

	return r < 0 || !o->have_fsize ? r : set_limit(RLIMIT_FSIZE, "fsize", true, o->fsize, e);
}

/* The working directory is the jail's root. The folder is the program's user's by now: the file must be new. */
static int write_pid(struct jail *j, pid_t pid, struct err *e)
{
	auto_free char *name = xasprintf("%s.pid", j->exec_name), *text = xasprintf("%d", pid);
	auto_fd int fd = openat(j->root_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	int r;

	if (fd < 0)
		return oserr_set(e, "Failed to open file /%s", name);
	r = fd_write_all(fd, text, strlen(text));
	return r < 0 ? err_set(e, r, "Failed to write to /%s: %s", name, strerror(-r)) : 0;
}

/*
 * The user of the program. The saved user id stays the jailer's: exec sets it to the new one, too, and clears the capabilities with the
 * last root id; until then there is a way back to remove the jail.
 */
static int drop_privileges(const struct jail *j, struct err *e)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return oserr_set(e, "Failed to give up privileges");
	if (j->opt->unprivileged) /* is that user already, and has capabilities until exec only */
		return 0;
	if (setgroups(0, NULL) < 0 || setresgid(j->gid, j->gid, j->gid) < 0)
		return oserr_set(e, "Failed to set gid %u", j->gid);
	return setresuid(j->uid, j->uid, geteuid()) < 0 ? oserr_set(e, "Failed to set uid %u", j->uid) : 0;
}

static void reset_signals(void)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
}

/* Becomes the program. Returns only with an error. spent_us: processor time of the jailer's processes before this one. */
static int become(struct jail *j, const struct launch *l, u64 spent_us, struct err *e)
{
	auto_free char *path = xasprintf("/%s", j->exec_name);
	auto_free char *start = xasprintf("%llu", (unsigned long long)l->start_us), *start_cpu = NULL, *parent_cpu = NULL;
	auto_free char **argv = NULL;
	char *env[] = {NULL};
	uid_t self = geteuid();
	u32 n = 0;
	int r;

	while (j->opt->extra[n])
		n++;
	argv = xzalloc((ARGS_OURS + n + 1) * sizeof(*argv));
	r = set_limits(j->opt, e);
	if (r == 0)
		r = drop_privileges(j, e);
	if (r < 0)
		return r;
	reset_signals();
	umask(l->umask);
	start_cpu = xasprintf("%llu", (unsigned long long)cpu_us());
	parent_cpu = xasprintf("%llu", (unsigned long long)(spent_us + cpu_us()));
	memcpy(argv,
	       ((char *[]){path, "--id", (char *)j->opt->id, "--start-time-us", start, "--start-time-cpu-us", start_cpu,
			   "--parent-cpu-time-us", parent_cpu}),
	       ARGS_OURS * sizeof(*argv));
	memcpy(argv + ARGS_OURS, j->opt->extra, n * sizeof(*argv));
	execve(path, argv, env);
	oserr_set(e, "Failed to exec into Firecracker");
	/* Root again, to remove what root has made. */
	(void)!seteuid(self);
	return e->code;
}

/* For a process that is not the first one: tells that one what went wrong. */
static enum launched report(int pipe_fd, const struct err *e)
{
	char message[1 + sizeof(*e)] = {'e'};

	memcpy(message + 1, e, sizeof(*e));
	(void)!write(pipe_fd, message, sizeof(message)); /* less than PIPE_BUF: in one piece */
	return LAUNCH_REPORTED;
}

/* The first process: waits for an error, or for the end of all who could write one. */
static enum launched await(int pipe_fd, struct err *e)
{
	struct err got;
	bool started = false;
	char c;

	while (read(pipe_fd, &c, 1) == 1) {
		if (c == 's') {
			started = true;
			continue;
		}
		if (fd_read_all(pipe_fd, &got, sizeof(got)) < 0)
			break;
		got.msg[sizeof(got.msg) - 1] = 0;
		*e = got;
		return LAUNCH_FAILED;
	}
	if (started)
		return LAUNCH_DONE;
	err_set(e, -ECHILD, "Failed cloning into a new child process: it ended before it became the program");
	return LAUNCH_FAILED;
}

/* The last steps of a process that another one waits for. */
static enum launched become_reported(struct jail *j, const struct launch *l, u64 spent_us, int pipe_fd, struct err *e)
{
	(void)!write(pipe_fd, "s", 1);
	become(j, l, spent_us, e);
	return report(pipe_fd, e);
}

/* The process gets known by its number: to clients, to the janitor. */
static int announce(struct jail *j, const struct launch *l, pid_t pid, struct err *e)
{
	int r = write_pid(j, pid, e);

	return r < 0 ? r : janitor_watch(l->janitor, pid, e);
}

/* The process that has made the PID namespace: its child, number 1 in there, waits for the pid file before it goes on. */
static int release_child(struct jail *j, const struct launch *l, pid_t child, int go, struct err *e)
{
	int r = announce(j, l, child, e);

	if (r == 0 && write(go, "g", 1) == 1)
		return 0;
	kill(child, SIGKILL);
	return r < 0 ? r : oserr_set(e, "Failed cloning into a new child process");
}

static enum launched launch_pid_ns(struct jail *j, const struct launch *l, u64 spent_us, bool first, int *status, struct err *e)
{
	int go[2] = {-1, -1}, r;
	pid_t child;
	char c;

	spent_us += cpu_us();
	child = pipe2(go, O_CLOEXEC) < 0 || unshare(CLONE_NEWPID) < 0 ? -1 : fork();
	if (child == 0) {
		close(go[1]);
		if (read(go[0], &c, 1) != 1)
			return LAUNCH_REPORTED; /* the parent has: it kills */
		return become_reported(j, l, spent_us, status[1], e);
	}
	r = child < 0 ? oserr_set(e, "Failed cloning into a new child process") : release_child(j, l, child, go[1], e);
	fd_close(&go[0]);
	fd_close(&go[1]);
	if (!first)
		return r < 0 ? report(status[1], e) : LAUNCH_DONE;
	fd_close(&status[1]);
	return r < 0 ? LAUNCH_FAILED : await(status[0], e);
}

/* In the child of the first process. Two forks: a session leader that opens a terminal would get it as its controlling one. */
static enum launched launch_daemon(struct jail *j, const struct launch *l, u64 spent_us, int *status, struct err *e)
{
	pid_t child;

	if (setsid() < 0) {
		oserr_set(e, "Failed to daemonize: setsid");
		return report(status[1], e);
	}
	spent_us += cpu_us();
	child = fork();
	if (child > 0)
		return LAUNCH_DONE;
	if (child < 0 || dup2(l->null_fd, STDIN_FILENO) < 0 || dup2(l->null_fd, STDOUT_FILENO) < 0 || dup2(l->null_fd, STDERR_FILENO) < 0) {
		oserr_set(e, "Failed to daemonize");
		return report(status[1], e);
	}
	if (j->opt->new_pid_ns)
		return launch_pid_ns(j, l, spent_us, false, status, e);
	if (announce(j, l, getpid(), e) < 0)
		return report(status[1], e);
	return become_reported(j, l, spent_us, status[1], e);
}

static enum launched launch_elsewhere(struct jail *j, const struct launch *l, int *status, struct err *e)
{
	u64 spent_us = cpu_us();
	pid_t child;

	if (!j->opt->daemonize)
		return launch_pid_ns(j, l, 0, true, status, e);
	child = fork();
	if (child == 0)
		return launch_daemon(j, l, spent_us, status, e);
	fd_close(&status[1]);
	if (child > 0)
		return await(status[0], e);
	oserr_set(e, "Failed to daemonize");
	return LAUNCH_FAILED;
}

enum launched jail_launch(struct jail *j, const struct launch *l, struct err *e)
{
	auto_free char *pid_file = xasprintf("%s.pid", j->exec_name);
	int status[2] = {-1, -1};
	enum launched launched;

	/* Whoever writes it: the first process removes it. */
	if (undo_add_remove(&j->undo, j->root_fd, pid_file, 0, e) < 0)
		return LAUNCH_FAILED;
	if (!j->opt->daemonize && !j->opt->new_pid_ns) {
		if (announce(j, l, getpid(), e) == 0)
			become(j, l, 0, e);
		return LAUNCH_FAILED;
	}
	if (pipe2(status, O_CLOEXEC) < 0) {
		oserr_set(e, "Failed to make a pipe");
		return LAUNCH_FAILED;
	}
	launched = launch_elsewhere(j, l, status, e);
	fd_close(&status[0]);
	fd_close(&status[1]);
	return launched;
}
