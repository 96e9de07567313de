/* main.c: subcommands; see io.h. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "io.h"

_Noreturn void die(const char *what)
{
	fprintf(stderr, "io: %s: %s\n", what, strerror(errno));
	exit(1);
}

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int wanted(const char *name, const char *only)
{
	size_t len = strlen(name);

	for (const char *at = only; at; at = strchr(at, ',')) {
		at += *at == ',';
		if (!strncmp(at, name, len) && (!at[len] || at[len] == ','))
			return 1;
	}
	return !only;
}

int begin(const char *name, const char *only)
{
	if (!wanted(name, only))
		return 0;
	printf("begin %s\n", name);
	fflush(stdout);
	return 1;
}

void result(const char *name, uint64_t amount, uint64_t ns)
{
	printf("io %s %llu %llu\n", name, (unsigned long long)amount, (unsigned long long)ns);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "";
	uint64_t number = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;
	const char *only = argc > 4 ? argv[4] : NULL;

	if (!strcmp(what, "make") && number)
		disk_make(argv[2], number);
	else if (!strcmp(what, "check"))
		disk_check(argv[2]);
	else if (!strcmp(what, "disk") && number)
		disk_bench(argv[2], number, only);
	else if (!strcmp(what, "serve"))
		net_serve(argv[2]);
	else if (!strcmp(what, "net") && number)
		net_bench(argv[2], number, only);
	else
		return fprintf(stderr, "usage: io make FILE MIB | check FILE | disk DEVICE MS [LINE,...] | serve ADDRESS | net ADDRESS MS "
				       "[LINE,...]\n"),
		       2;
	return 0;
}
