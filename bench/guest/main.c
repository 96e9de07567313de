/*
 * main.c: times the classes of bench/guest: natively, or as a guest's program. Prints for each
 *   class NAME NS DIGEST     nanoseconds per operation: the best batch; a digest that must be the same everywhere
 *   skip NAME REASON
 * Why the best batch: what disturbs a measurement only ever adds to it.
 */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "bench.h"

struct bench_options bench_options = {.true_path = "/bin/true", .root = "", .tmp = "/tmp"};

static const struct bench_class *const groups[] = {cpu_classes,	 float_classes,	 memory_classes, kernel_classes,
						   task_classes, crypto_classes, program_classes};

void bench_die(const char *what)
{
	printf("fail %s: %s\n", what, strerror(errno));
	exit(1);
}

static u64 now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * 1000000000u + (u64)t.tv_nsec;
}

/* At least two batches: the first warms caches, and translations. */
static void measure(const struct bench_class *c, u64 budget_ns)
{
	const char *reason = c->init ? c->init() : NULL;
	u64 begin = now_ns(), t = begin, best = ~0ull, digest = 0;

	if (reason) {
		printf("skip %s %s\n", c->name, reason);
		return;
	}
	for (u32 batch = 0; batch < 2 || t - begin < budget_ns; batch++) {
		u64 got = c->run(c->ops), end = now_ns();

		if (batch && got != digest)
			printf("fail %s batch %u gave %016llx, those before %016llx\n", c->name, batch, (unsigned long long)got,
			       (unsigned long long)digest);
		digest = got;
		best = end - t < best ? end - t : best;
		t = end;
	}
	if (c->fini)
		c->fini();
	printf("class %s %.3f %016llx\n", c->name, (double)best / c->ops, (unsigned long long)digest);
}

/* One CPU for everything: two threads that talk then cost a switch each time, whatever the machine has. */
static void pin(void)
{
	cpu_set_t all, one;

	if (sched_getaffinity(0, sizeof(all), &all))
		bench_die("sched_getaffinity");
	CPU_ZERO(&one);
	for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &all)) {
			CPU_SET(cpu, &one);
			break;
		}
	if (sched_setaffinity(0, sizeof(one), &one))
		bench_die("sched_setaffinity");
}

static bool wanted(const char *list, const char *name)
{
	size_t n = strlen(name);

	if (!*list)
		return true;
	for (const char *p = list; (p = strstr(p, name)) != NULL; p += n)
		if ((p == list || p[-1] == ',') && (p[n] == ',' || !p[n]))
			return true;
	return false;
}

static void usage(void)
{
	puts("usage: guest [--list] [--only CLASS,...] [--ms BUDGET] [--true PROGRAM] [--root DIR] [--tmp DIR]\n"
	     "  --ms    for each class, default 500;  --true: a dynamically linked one, for exec-dynamic\n"
	     "  --root  where usr/bin/python3 and usr/bin/gcc are;  --tmp: a tmpfs");
	exit(2);
}

int main(int argc, char **argv)
{
	const char *only = "";
	char self[4096] = "";
	bool list = false;
	u64 ms = 500;

	if (argc > 1 && !strcmp(argv[1], "true")) /* what exec-static runs */
		return 0;
	for (int i = 1; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : NULL;

		if (!strcmp(argv[i], "--list")) {
			list = true;
			continue;
		}
		if (!value)
			usage();
		else if (!strcmp(argv[i], "--only"))
			only = value;
		else if (!strcmp(argv[i], "--ms"))
			ms = strtoull(value, NULL, 10);
		else if (!strcmp(argv[i], "--true"))
			bench_options.true_path = value;
		else if (!strcmp(argv[i], "--root"))
			bench_options.root = value;
		else if (!strcmp(argv[i], "--tmp"))
			bench_options.tmp = value;
		else
			usage();
		i++;
	}
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		bench_die("/proc/self/exe");
	bench_options.self = self;
	setvbuf(stdout, NULL, _IOLBF, 0);
	pin();
	for (size_t g = 0; g < sizeof(groups) / sizeof(groups[0]); g++)
		for (const struct bench_class *c = groups[g]; c->name; c++) {
			if (!wanted(only, c->name))
				continue;
			if (list)
				printf("%-14s %s\n", c->name, c->op);
			else
				measure(c, ms * 1000000);
		}
	return 0;
}
