/*
 * cpu.c: integer classes: calls, branches that cannot be predicted, a compressor's loops, an ALU loop without memory.
 */
#include <stdlib.h>
#include <string.h>
#include "gzip.h"

/* Plain recursion: inlining or loops made of it would leave no calls to measure. */
__attribute__((noinline, noclone, optimize("no-optimize-sibling-calls"))) static u64 fib(u32 n, u64 *calls)
{
	++*calls;
	return n < 2 ? n : fib(n - 1, calls) + fib(n - 2, calls);
}

static u64 run_calls(u32 ops)
{
	u64 calls = 0, digest = 0;

	while (calls < ops)
		digest = bench_mix(digest, fib(20, &calls));
	return digest;
}

static int compare(const void *a, const void *b)
{
	u32 x = *(const u32 *)a, y = *(const u32 *)b;

	return x < y ? -1 : x > y;
}

/* Hoare's partition by a comparison through a pointer, as qsort has it; libc's own merges, and allocates. */
static void sort(u32 *v, long lo, long hi, int (*cmp)(const void *, const void *))
{
	while (lo < hi) {
		u32 pivot = v[lo + (hi - lo) / 2];
		long i = lo, j = hi;

		while (i <= j) {
			while (cmp(&v[i], &pivot) < 0)
				i++;
			while (cmp(&v[j], &pivot) > 0)
				j--;
			if (i <= j) {
				u32 t = v[i];

				v[i++] = v[j];
				v[j--] = t;
			}
		}
		sort(v, lo, j, cmp);
		lo = i;
	}
}

static u64 run_qsort(u32 ops)
{
	static u32 v[1 << 14];
	u64 state = 88172645463325252u, digest = 0;
	int (*volatile cmp)(const void *, const void *) = compare;

	for (u32 i = 0; i < ops; i++)
		v[i] = (u32)bench_random(&state);
	sort(v, 0, (long)ops - 1, cmp);
	for (u32 i = 0; i < ops; i += 97)
		digest = bench_mix(digest, v[i]);
	return digest;
}

/* The polynomial bit by bit: shifts, xors and masks only. */
static u64 run_crc(u32 ops)
{
	u32 crc = ~0u;

	for (u32 i = 0; i < ops; i++) {
		crc ^= i & 0xff;
		for (u32 bit = 0; bit < 8; bit++)
			crc = (crc >> 1) ^ (0xedb88320u & (0u - (crc & 1)));
	}
	return crc;
}

const struct bench_class cpu_classes[] = {
	{"calls", "call of a recursive function", 200000, NULL, run_calls},
	{"qsort", "element sorted", 1 << 14, NULL, run_qsort},
	{"gzip", "byte packed and unpacked", GZIP_BYTES, gzip_init, gzip_run},
	{"crc", "byte, bit by bit", 1 << 20, NULL, run_crc},
	{0},
};
