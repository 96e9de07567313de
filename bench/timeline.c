/*
 * timeline.c: runs a VMM and says when things happened, for bench/boot-kvm. Static, so that it runs in the nested host.
 *   timeline [--pss MARK RAM_MIB] -- VMM ARGS...
 * prints   exec_ns=<monotonic>  init_ns=<after exec>  exit_ns=<after exec>  code=<exit code>
 * or, with --pss, waits until the VMM's output holds MARK, then prints pss_kib=<PSS outside guest RAM> and kills the VMM.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

/*
 * Sum of Pss over all mappings but those that are guest RAM: as large as it, or named as VMMs name theirs, or a file mapped right behind
 * such a one (husk's boot images lie in guest RAM).
 */
static long pss_outside_ram(pid_t pid, unsigned long ram_mib)
{
	char path[64], line[512];
	unsigned long start, end, ram_end = 0;
	int is_ram = 0;
	long sum = 0, kib;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
	f = fopen(path, "r");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
			is_ram = end - start >= ram_mib << 20 || strstr(line, "memfd:") != NULL || start == ram_end;
			ram_end = is_ram ? end : 0;
		} else if (!is_ram && sscanf(line, "Pss: %ld kB", &kib) == 1)
			sum += kib;
	}
	fclose(f);
	return sum;
}

/* Reads until `mark` was seen (1) or end of file (0); keeps the tail so that a mark over two reads is found. */
static int read_until(int fd, const char *mark)
{
	static char buf[65536];
	static size_t used;
	ssize_t n;

	for (;;) {
		buf[used] = 0;
		if (strstr(buf, mark))
			return 1;
		if (used > sizeof(buf) / 2) {
			memmove(buf, buf + used - 256, 256);
			used = 256;
		}
		n = read(fd, buf + used, sizeof(buf) - 1 - used);
		if (n <= 0)
			return 0;
		used += (size_t)n;
	}
}

int main(int argc, char **argv)
{
	const char *mark = NULL;
	unsigned long ram_mib = 0;
	long long start, init = 0;
	int fds[2], status, i = 1;
	char drop[4096];
	pid_t pid;

	if (argc > 4 && !strcmp(argv[1], "--pss")) {
		mark = argv[2];
		ram_mib = strtoul(argv[3], NULL, 10);
		i = 4;
	}
	if (i + 1 >= argc || strcmp(argv[i], "--") || pipe(fds) < 0)
		return 2;
	start = now_ns();
	pid = fork();
	if (pid == 0) {
		dup2(fds[1], 1);
		close(fds[0]);
		close(fds[1]);
		execvp(argv[i + 1], &argv[i + 1]);
		_exit(127);
	}
	close(fds[1]);
	if (read_until(fds[0], mark ? mark : "husk: init reached"))
		init = now_ns() - start;
	if (mark) {
		sleep(1);
		printf("pss_kib=%ld\n", init ? pss_outside_ram(pid, ram_mib) : -1);
		kill(pid, SIGKILL);
		return init ? 0 : 1;
	}
	while (read(fds[0], drop, sizeof(drop)) > 0)
		;
	waitpid(pid, &status, 0);
	printf("exec_ns=%lld init_ns=%lld exit_ns=%lld code=%d\n", start, init, now_ns() - start,
	       WIFEXITED(status) ? WEXITSTATUS(status) : 255);
	return 0;
}
