/*
 * task.c: several processes and threads on one CPU: they are made, replaced, and talk.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include "bench.h"

static int wait_for(pid_t pid)
{
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		bench_die("fork or wait");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int bench_spawn(const char *root, char *const argv[], const char *out)
{
	pid_t pid = fork();

	if (pid == 0) {
		int fd = open(out ? out : "/dev/null", O_WRONLY | O_CREAT | O_TRUNC, 0600);

		if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0 || (root && *root && (chroot(root) || chdir("/"))))
			_exit(126);
		execv(argv[0], argv);
		_exit(127);
	}
	return wait_for(pid);
}

static u64 run_fork(u32 ops)
{
	u64 sum = 0;

	for (u32 i = 0; i < ops; i++) {
		pid_t pid = fork();

		if (pid == 0)
			_exit((int)(i & 63));
		sum += (u64)wait_for(pid);
	}
	return sum;
}

static u64 run_exec(const char *path, u32 ops)
{
	char *const argv[] = {(char *)path, (char *)"true", NULL};
	u64 sum = 0;

	for (u32 i = 0; i < ops; i++)
		sum += (u64)bench_spawn(NULL, argv, NULL);
	return sum;
}

static u64 run_exec_static(u32 ops)
{
	return run_exec(bench_options.self, ops);
}

static u64 run_exec_dynamic(u32 ops)
{
	return run_exec(bench_options.true_path, ops);
}

static const char *init_exec_dynamic(void)
{
	return access(bench_options.true_path, X_OK) ? "there is no dynamically linked true" : NULL;
}

struct pair {
	int there[2], back[2];
	u32 turns;
};

/* Sends each byte back, one more. */
static void *answer(void *arg)
{
	struct pair *p = arg;
	u8 c;

	for (u32 i = 0; i < p->turns; i++) {
		if (read(p->there[0], &c, 1) != 1)
			break;
		c++;
		if (write(p->back[1], &c, 1) != 1)
			break;
	}
	return NULL;
}

static u64 ask(struct pair *p)
{
	u64 sum = 0;
	u8 c = 0;

	for (u32 i = 0; i < p->turns; i++) {
		if (write(p->there[1], &c, 1) != 1 || read(p->back[0], &c, 1) != 1)
			bench_die("pipe");
		sum += c;
	}
	return sum;
}

static void pair_open(struct pair *p, u32 trips)
{
	p->turns = trips / 2;
	if (pipe(p->there) || pipe(p->back))
		bench_die("pipe");
}

static void pair_close(struct pair *p)
{
	for (int i = 0; i < 2; i++) {
		close(p->there[i]);
		close(p->back[i]);
	}
}

static u64 run_pipe_threads(u32 ops)
{
	struct pair p;
	pthread_t t;
	u64 sum;

	pair_open(&p, ops);
	if (pthread_create(&t, NULL, answer, &p))
		bench_die("pthread_create");
	sum = ask(&p);
	pthread_join(t, NULL);
	pair_close(&p);
	return sum;
}

static u64 run_pipe_processes(u32 ops)
{
	struct pair p;
	pid_t pid;
	u64 sum;

	pair_open(&p, ops);
	pid = fork();
	if (pid == 0) {
		answer(&p);
		_exit(0);
	}
	sum = ask(&p);
	sum += (u64)wait_for(pid);
	pair_close(&p);
	return sum;
}

const struct bench_class task_classes[] = {
	{"fork", "fork, exit and wait", 20, NULL, run_fork},
	{"exec-static", "fork, exec of a static program, wait", 10, NULL, run_exec_static},
	{"exec-dynamic", "fork, exec of a dynamic program, wait", 5, init_exec_dynamic, run_exec_dynamic},
	{"pipe-threads", "byte to another thread", 1000, NULL, run_pipe_threads},
	{"pipe-procs", "byte to another process", 1000, NULL, run_pipe_processes},
	{0},
};
