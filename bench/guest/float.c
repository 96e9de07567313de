/*
 * float.c: floating point: a matrix product that gcc vectorises, once for any x86-64 and once for AVX2, and scalar arithmetic with
 * divisions and roots. Without FMA: QEMU 10 takes 160 ns for one, and no other class would be seen beside it.
 */
#include <math.h>
#include <string.h>
#include "bench.h"

#define N 96 /* three matrices fit in the second-level cache */

static double a[N][N], b[N][N], c[N][N];

/* Numbers whose products are not exact: QEMU computes with the host only after a result was rounded. */
static void fill(void)
{
	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++) {
			a[i][j] = (double)((i * 7 + j * 3) % 31) / 7 - 1.1;
			b[i][j] = (double)((i * 5 + j * 11) % 29) / 3 - 3.3;
		}
	memset(c, 0, sizeof(c));
}

static u64 digest_of(const double *v, int n)
{
	u64 digest = 0, bits;

	for (int i = 0; i < n; i++) {
		memcpy(&bits, &v[i], sizeof(bits));
		digest = bench_mix(digest, bits);
	}
	return digest;
}

#define DGEMM_BODY \
	for (int i = 0; i < N; i++) \
		for (int k = 0; k < N; k++) \
			for (int j = 0; j < N; j++) \
				c[i][j] += a[i][k] * b[k][j];

__attribute__((noinline, optimize("O3"))) static void dgemm_baseline(void)
{
	DGEMM_BODY
}

__attribute__((noinline, optimize("O3"), target("avx2,no-fma"))) static void dgemm_avx2(void)
{
	DGEMM_BODY
}

/* Operations are multiply-adds. */
static u64 run_with(void (*dgemm)(void), u32 ops)
{
	fill();
	for (u32 done = 0; done < ops; done += N * N * N)
		dgemm();
	return digest_of(&c[0][0], N * N);
}

static u64 run_dgemm(u32 ops)
{
	return run_with(dgemm_baseline, ops);
}

static u64 run_dgemm_avx2(u32 ops)
{
	return run_with(dgemm_avx2, ops);
}

static const char *init_avx2(void)
{
	return __builtin_cpu_supports("avx2") ? NULL : "the CPU has no AVX2";
}

#define BODIES 5

static u64 run_nbody(u32 ops)
{
	double x[BODIES], v[BODIES], w[BODIES], y[BODIES];

	for (int i = 0; i < BODIES; i++) {
		x[i] = i * 1.5 - 3;
		y[i] = i * i * 0.7 - 4;
		v[i] = w[i] = 0;
	}
	for (u32 step = 0; step < ops; step++) {
		for (int i = 0; i < BODIES; i++)
			for (int j = i + 1; j < BODIES; j++) {
				double dx = x[i] - x[j], dy = y[i] - y[j], d2 = dx * dx + dy * dy + 0.01, m = 0.001 / (d2 * sqrt(d2));

				v[i] -= dx * m;
				w[i] -= dy * m;
				v[j] += dx * m;
				w[j] += dy * m;
			}
		for (int i = 0; i < BODIES; i++) {
			x[i] += v[i] * 0.01;
			y[i] += w[i] * 0.01;
		}
	}
	return bench_mix(digest_of(x, BODIES), digest_of(y, BODIES));
}

const struct bench_class float_classes[] = {
	{"dgemm", "multiply-add in doubles, SSE2", N *N *N, NULL, run_dgemm},
	{"dgemm-avx2", "multiply-add in doubles, AVX2", N *N *N, init_avx2, run_dgemm_avx2},
	{"nbody", "step of five bodies, scalar", 8000, NULL, run_nbody},
	{0},
};
