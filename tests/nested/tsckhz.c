/*
 * Prints the rate of this machine's time-stamp counter in kHz.
 * Why: QEMU's TCG hands the counter to its guest as it is, and the nested host's kernel can only measure it against an
 * emulated timer, which fails on a busy machine; its next step is then a boot that hangs. So it is told (tsc_early_khz=).
 */
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_RAW, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

int main(void)
{
	uint64_t n0 = now_ns(), t0 = __rdtsc(), n1, t1;

	do {
		n1 = now_ns();
		t1 = __rdtsc();
	} while (n1 - n0 < 50000000);
	printf("%llu\n", (unsigned long long)((unsigned __int128)(t1 - t0) * 1000000 / (n1 - n0)));
	return 0;
}
