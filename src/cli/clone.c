/*
 * clone.c: `husk clone DIR`: many VMs out of one snapshot. This process is the template: it forks each clone, which then goes on as
 * `husk run --restore DIR` would, so that nothing is loaded or linked twice. The clones share the pages of the memory file until they
 * write.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/cli.h"
#include "vmm/accel.h"

#define MAX_CLONES 10000u

struct clone_args {
	const char *dir; /* borrowed from argv */
	u32 count;
	bool has_serial, has_accel;
	const char *accel; /* for those who say nothing: the one that is usable here; NULL: they find out */
	char **rest;	   /* owned array of borrowed strings: flags for husk run */
	int nr_rest;
};

void help_clone(FILE *out)
{
	fputs("\n  --count N      how many (1)\n"
	      "All other flags are those of husk run --restore DIR; \"%d\" in them is the clone's number, from 0:\n"
	      "  husk clone DIR --count 3 --api-sock /run/clone%d.sock --net eth0=tap%d --vsock /run/clone%d.vsock --id clone%d\n"
	      "Each clone is a process of its own, with a new VM generation ID. Its serial port goes nowhere unless --serial says where.\n"
	      "husk waits for them all; SIGTERM and SIGINT end them all. Exit code: 0, or the first of a clone that is not 0.\n",
	      out);
}

static int take_count(struct clone_args *c, const char *text, struct err *e)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (*end || *text == '-' || n < 1 || n > MAX_CLONES)
		return err_set(e, -EINVAL, "--count \"%.40s\": a number from 1 to %u", text, MAX_CLONES);
	c->count = (u32)n;
	return 0;
}

/* Own arguments go to *c; the others, whether they take a value or not, stay in their order. */
static int parse(struct clone_args *c, int argc, char **argv, struct err *e)
{
	*c = (struct clone_args){.count = 1, .rest = xzalloc((size_t)argc * sizeof(char *))};
	for (int i = 1; i < argc; i++) {
		int r = 0;

		if (!strcmp(argv[i], "--count")) {
			if (++i == argc)
				return err_set(e, -EINVAL, "--count wants a number");
			r = take_count(c, argv[i], e);
		} else if (!strncmp(argv[i], "--count=", 8)) {
			r = take_count(c, argv[i] + 8, e);
		} else if (!c->dir && i == 1 && *argv[i] != '-') {
			c->dir = argv[i];
		} else {
			c->has_serial |= !strncmp(argv[i], "--serial", 8);
			c->has_accel |= !strncmp(argv[i], "--accelerator", 13);
			c->rest[c->nr_rest++] = argv[i];
		}
		if (r < 0)
			return r;
	}
	return c->dir ? 0 : err_set(e, -EINVAL, "husk clone DIR [--count N] [flags]: the folder of a snapshot comes first");
}

/* text with the clone's number in the place of each "%d"; for the life of the process. */
static char *numbered(const char *text, u32 n)
{
	const char *at = strstr(text, "%d");
	char *out = xstrdup(at ? "" : text);

	for (; at; text = at + 2, at = strstr(text, "%d")) {
		auto_free char *head = out;

		out = xasprintf("%s%.*s%u", head, (int)(at - text), text, n);
		if (!strstr(at + 2, "%d")) {
			auto_free char *all = out;

			out = xasprintf("%s%s", all, at + 2);
		}
	}
	return out;
}

/* The clone: what husk run does. */
static int run_clone(const struct clone_args *c, u32 n, struct err *e)
{
	char **argv = xzalloc(((size_t)c->nr_rest + 8) * sizeof(*argv));
	int argc = 0, code;

	argv[argc++] = "run";
	argv[argc++] = "--restore";
	argv[argc++] = (char *)c->dir;
	if (!c->has_serial) {
		argv[argc++] = "--serial";
		argv[argc++] = "null";
	}
	if (c->accel) {
		argv[argc++] = "--accelerator";
		argv[argc++] = (char *)c->accel;
	}
	for (int i = 0; i < c->nr_rest; i++)
		argv[argc++] = numbered(c->rest[i], n);
	code = cmd_run(argc, argv, e);
	if (*e->msg)
		err_prefix(e, "clone %u", n);
	for (int i = 0; i < c->nr_rest; i++)
		free(argv[argc - 1 - i]);
	free(argv);
	return code;
}

/* SIGTERM and SIGINT, once, go on to all of them; they end in their own time. */
static int wait_all(pid_t *pids, u32 nr, const sigset_t *wanted)
{
	int code = EXIT_OK, status, sig = 0;

	for (u32 left = nr; left;) {
		pid_t pid = waitpid(-1, &status, WNOHANG);

		if (pid > 0) {
			int one = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);

			code = code ? code : one;
			left--;
			for (u32 i = 0; i < nr; i++)
				pids[i] = pids[i] == pid ? 0 : pids[i];
			continue;
		}
		sigwait(wanted, &sig);
		for (u32 i = 0; i < nr && sig != SIGCHLD; i++) {
			if (pids[i])
				kill(pids[i], SIGTERM);
		}
	}
	return code;
}

/* Starts them all; in a clone it returns as husk run does. */
static int run_all(const struct clone_args *c, pid_t *pids, struct err *e)
{
	pid_t self = getpid();
	sigset_t wanted, old;
	int code;
	u32 n;

	sigemptyset(&wanted);
	sigaddset(&wanted, SIGCHLD);
	sigaddset(&wanted, SIGTERM);
	sigaddset(&wanted, SIGINT);
	sigprocmask(SIG_BLOCK, &wanted, &old);
	for (n = 0; n < c->count; n++) {
		pids[n] = fork();
		if (pids[n] == 0) {
			sigprocmask(SIG_SETMASK, &old, NULL);
			prctl(PR_SET_PDEATHSIG, SIGTERM); /* they end with this process, however it ends */
			if (getppid() == self)
				return run_clone(c, n, e);
			err_set(e, -ECHILD, "clone %u: husk clone has ended", n);
			return EXIT_ERROR;
		}
		if (pids[n] < 0)
			break;
	}
	if (n < c->count) {
		err_errno(e, "clone %u of %u cannot be started", n, c->count);
		for (u32 i = 0; i < n; i++)
			kill(pids[i], SIGTERM);
	}
	code = wait_all(pids, n, &wanted);
	return n < c->count ? EXIT_ERROR : code;
}

/* Looks once at what each of them would look at. */
static void choose_accel(struct clone_args *c)
{
	for (u32 i = 0; !c->has_accel && !c->accel && accel_list[i]; i++) {
		struct err why = {0};

		if (accel_list[i]->probe(&why) == 0)
			c->accel = accel_list[i]->name;
		else if (accel_list[i + 1])
			fprintf(stderr, "husk: the clones do not run under %s: %s\n", accel_list[i]->name, why.msg);
	}
}

int cmd_clone(int argc, char **argv, struct err *e)
{
	struct clone_args c;
	int code = EXIT_USAGE;

	if (parse(&c, argc, argv, e) == 0) {
		auto_free pid_t *pids = xzalloc(c.count * sizeof(*pids));

		choose_accel(&c);
		code = run_all(&c, pids, e);
	}
	free(c.rest);
	return code;
}
