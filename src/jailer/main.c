/* main.c: the husk-jailer program: Firecracker's jailer for husk (docs/jailer.md). */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "api/firecracker.h"
#include "jailer/cgroup.h"
#include "jailer/janitor.h"
#include "jailer/launch.h"

#define CLOSE_RANGE_UNSHARE_TABLE 2 /* CLOSE_RANGE_UNSHARE of linux/close_range.h */

static u64 monotonic_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * 1000000 + (u64)t.tv_nsec / 1000;
}

/* Of the caller's, only standard input, output and error get in. Those that are closed are taken, so that no file of ours lands there. */
static int leave_descriptors(struct err *e)
{
	int fd;

	if (syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_UNSHARE_TABLE) < 0)
		return oserr_set(e, "Failed to call close range syscall");
	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= 2);
	if (fd < 0)
		return oserr_set(e, "Failed to open /dev/null");
	close(fd);
	return 0;
}

static int join_netns(const char *path, struct err *e)
{
	auto_fd int fd = -1;

	if (!path)
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return oserr_set(e, "Failed to open file %s", path);
	return setns(fd, CLONE_NEWNET) < 0 ? oserr_set(e, "Failed to join network namespace: netns") : 0;
}

/* All that comes before the first process that may become the program; see jail_launch. */
static int prepare(struct jail *j, struct launch *l, struct err *e)
{
	const char *parent = j->opt->parent_cgroup ? j->opt->parent_cgroup : j->exec_name;
	int r = j->opt->cleanup ? janitor_start(j, &l->janitor, e) : 0;

	if (r == 0)
		r = jail_build(j, e);
	if (r == 0)
		r = join_netns(j->opt->netns, e);
	if (r == 0)
		r = cgroups_enter(j->opt, parent, &cgroup_host_proc, &j->undo, e);
	if (r == 0 && j->opt->daemonize) {
		l->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
		r = l->null_fd < 0 ? oserr_set(e, "Failed to open /dev/null") : 0;
	}
	return r ? r : jail_enter(j, e);
}

static enum launched start(struct jail *j, u64 start_us, struct err *e)
{
	struct launch l = {.start_us = start_us, .umask = umask(022), .janitor = -1, .null_fd = -1};
	enum launched launched = LAUNCH_FAILED;
	int r = prepare(j, &l, e);

	if (r == JANITOR_OVER)
		return LAUNCH_DONE;
	if (r == 0)
		launched = jail_launch(j, &l, e);
	if (launched == LAUNCH_FAILED)
		undo_run(&j->undo);
	fd_close(&l.janitor);
	fd_close(&l.null_fd);
	return launched;
}

/* Returns the exit code. */
static int run(const struct jail_options *o, u64 start_us, struct err *e)
{
	enum launched launched = LAUNCH_FAILED;
	struct jail j;

	if (jail_init(&j, o, e) == 0) {
		if (!o->remove)
			launched = start(&j, start_us, e);
		else if (jail_remove(&j, e) == 0)
			launched = LAUNCH_DONE;
	}
	jail_fini(&j);
	if (launched == LAUNCH_REPORTED)
		*e = (struct err){0}; /* the first process says it */
	return launched == LAUNCH_DONE ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* One line, whatever names from outside the message quotes. */
static void print_error(struct err *e, bool unprivileged)
{
	bool hint = (e->code == -EPERM || e->code == -EACCES) && geteuid() != 0 && !unprivileged;

	for (char *p = e->msg; *p; p++) {
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	}
	fprintf(stderr, "Jailer error: %s%s\n", e->msg, hint ? "; run the jailer as root, or with --unprivileged" : "");
}

int main(int argc, char **argv)
{
	struct jail_options o = {0};
	u64 start_us = monotonic_us();
	int code = EXIT_FAILURE;
	struct err e = {0};

	signal(SIGPIPE, SIG_IGN);
	clearenv();
	if (leave_descriptors(&e) == 0 && jail_options_parse(&o, argc, argv, &e) == 0) {
		code = EXIT_SUCCESS;
		if (o.help)
			jail_options_help();
		else if (o.version)
			puts("Jailer v" FIRECRACKER_VERSION "\nhusk-jailer " HUSK_VERSION);
		else
			code = run(&o, start_us, &e);
	}
	if (*e.msg)
		print_error(&e, o.unprivileged);
	jail_options_fini(&o);
	return code;
}
