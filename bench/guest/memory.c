/*
 * memory.c: dependent loads from a cache and from memory, copies by string instructions, by vectors, and by libc in small pieces.
 */
#include <immintrin.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "bench.h"

#define LINE	  64
#define NEAR_SIZE (16u << 10)
#define FAR_SIZE  (64u << 20)
#define COPY	  4096u

static u8 *near_ring, *far_ring;

/* One random cycle through all cache lines (Sattolo), in pages of 4 KiB: large ones differ from kernel to kernel. */
static u8 *make_ring(u32 size)
{
	u32 lines = size / LINE, *order = malloc(lines * sizeof(*order));
	u8 *ring = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	u64 state = 88172645463325252u;

	if (!order || ring == MAP_FAILED)
		bench_die("memory for a pointer chase");
	madvise(ring, size, MADV_NOHUGEPAGE);
	for (u32 i = 0; i < lines; i++)
		order[i] = i;
	for (u32 i = lines - 1; i; i--) {
		u32 j = (u32)(bench_random(&state) % i), t = order[i];

		order[i] = order[j];
		order[j] = t;
	}
	for (u32 i = 0; i < lines; i++)
		*(u8 **)(ring + order[i] * LINE) = ring + order[(i + 1) % lines] * LINE;
	free(order);
	return ring;
}

static const char *init_near(void)
{
	near_ring = make_ring(NEAR_SIZE);
	return NULL;
}

static const char *init_far(void)
{
	far_ring = make_ring(FAR_SIZE);
	return NULL;
}

static void fini_near(void)
{
	munmap(near_ring, NEAR_SIZE);
}

/* A large process would make the classes that fork slow. */
static void fini_far(void)
{
	munmap(far_ring, FAR_SIZE);
}

static u64 chase(u8 *ring, u32 ops)
{
	u8 *p = ring;

	for (u32 i = 0; i < ops; i++)
		p = *(u8 *volatile *)p;
	return (u64)(p - ring);
}

static u64 run_near(u32 ops)
{
	return chase(near_ring, ops);
}

static u64 run_far(u32 ops)
{
	return chase(far_ring, ops);
}

/* Half a page apart: at the same offset in their pages, loads would wait for stores. */
static u8 buffers[4 * COPY] __attribute__((aligned(4096)));
#define from_page (buffers)
#define to_page	  (buffers + 2 * COPY + COPY / 2)

static u64 digest_of_target(void)
{
	u64 digest = 0, v;

	for (u32 i = 0; i < COPY; i += 8) {
		memcpy(&v, to_page + i, 8);
		digest = bench_mix(digest, v);
	}
	return digest;
}

static void fill_source(void)
{
	u64 state = 1;

	for (u32 i = 0; i < COPY; i++)
		from_page[i] = (u8)bench_random(&state);
}

static u64 run_rep(u32 ops)
{
	fill_source();
	for (u32 i = 0; i < ops; i++) {
		void *d = to_page, *s = from_page;
		size_t n = COPY;

		asm volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(i) : "memory");
		d = to_page;
		n = COPY - i % 64;
		asm volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
	}
	return digest_of_target();
}

static void vector_sse2(u32 i)
{
	__m128i v = _mm_set1_epi8((char)i);

	for (u32 k = 0; k < COPY; k += 16)
		_mm_store_si128((__m128i *)(to_page + k), v);
	asm volatile("" ::: "memory");
	for (u32 k = 0; k < COPY; k += 16)
		_mm_store_si128((__m128i *)(to_page + k), _mm_loadu_si128((__m128i *)(from_page + k + i % 8)));
	asm volatile("" ::: "memory");
}

__attribute__((target("avx2"))) static void vector_avx2(u32 i)
{
	__m256i v = _mm256_set1_epi8((char)i);

	for (u32 k = 0; k < COPY; k += 32)
		_mm256_store_si256((__m256i *)(to_page + k), v);
	asm volatile("" ::: "memory");
	for (u32 k = 0; k < COPY; k += 32)
		_mm256_store_si256((__m256i *)(to_page + k), _mm256_loadu_si256((__m256i *)(from_page + k + i % 8)));
	asm volatile("" ::: "memory");
}

static u64 run_vector(u32 ops)
{
	void (*one)(u32) = __builtin_cpu_supports("avx2") ? vector_avx2 : vector_sse2;

	fill_source();
	for (u32 i = 0; i < ops; i++)
		one(i);
	return digest_of_target();
}

/* Lengths as programs have them: most are short. libc takes what CPUID offers. */
static u64 run_libc(u32 ops)
{
	void *(*volatile copy)(void *, const void *, size_t) = memcpy;
	void *(*volatile set)(void *, int, size_t) = memset;
	u64 state = 7;

	fill_source();
	for (u32 i = 0; i < ops; i++) {
		u64 r = bench_random(&state) >> 8;
		size_t n = r & 3 ? r >> 8 & 63 : r >> 8 & 1023, to = r >> 20 & 2047, from = r >> 32 & 2047;

		copy(to_page + to, from_page + from, n);
		set(to_page + from, (int)(r >> 44), n / 4);
	}
	return digest_of_target();
}

const struct bench_class memory_classes[] = {
	{"chase-l1", "dependent load, 16 KiB", 2000000, init_near, run_near, fini_near},
	{"chase-mem", "dependent load, 64 MiB", 200000, init_far, run_far, fini_far},
	{"mem-rep", "4 KiB set and copied, rep stosb and movsb", 500, NULL, run_rep},
	{"mem-vector", "4 KiB set and copied, AVX2 or SSE2", 5000, NULL, run_vector},
	{"mem-libc", "memcpy and memset, 0 to 1023 bytes", 50000, NULL, run_libc},
	{0},
};
