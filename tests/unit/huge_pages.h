/* huge_pages.h: pages of 2 MiB of the host, which it sets aside for a test where this user may ask for them. */
#ifndef HUSK_TEST_HUGE_PAGES_H
#define HUSK_TEST_HUGE_PAGES_H

#include <stdio.h>

#include "vmm/base/base.h"

#define HUGE_PAGES_DIR "/sys/kernel/mm/hugepages/hugepages-2048kB/"

/* what: "nr", "free" or "resv". 0 where the kernel has none. */
static inline u64 huge_pages(const char *what)
{
	unsigned long long n = 0;
	char path[100];
	FILE *f;

	snprintf(path, sizeof(path), HUGE_PAGES_DIR "%s_hugepages", what);
	f = fopen(path, "re");
	if (f && fscanf(f, "%llu", &n) != 1)
		n = 0;
	if (f)
		fclose(f);
	return n;
}

/* How many the host sets aside from now on, as far as it can. */
static inline void huge_pages_set(u64 nr)
{
	FILE *f = fopen(HUGE_PAGES_DIR "nr_hugepages", "we");

	if (f) {
		fprintf(f, "%llu", (unsigned long long)nr);
		fclose(f);
	}
}

/* Adds nr. Returns how many there were, for huge_pages_set afterwards; says on standard output (TAP) that all is skipped where fewer are
 * free. */
static inline u64 huge_pages_add(u64 nr, bool *enough)
{
	u64 before = huge_pages("nr");

	huge_pages_set(before + nr);
	*enough = huge_pages("free") - huge_pages("resv") >= nr;
	if (!*enough)
		printf("1..0 # SKIP the host gives no pages of 2 MiB: sysctl vm.nr_hugepages=%llu\n", (unsigned long long)nr);
	return before;
}

#endif
