/*
 * bench.h: what the files of bench/guest share. One class is a small function that does `ops` operations of one kind; main.c times it.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;

struct bench_class {
	const char *name;
	const char *op;		   /* what one operation is */
	u32 ops;		   /* in one batch: some 20 ms under QEMU's TCG */
	const char *(*init)(void); /* NULL: ready; else why this class cannot run here. May be absent */
	u64 (*run)(u32 ops);	   /* a digest of the result: the same for each batch and on each machine */
	void (*fini)(void);	   /* may be absent */
};

/* What the command line said. */
struct bench_options {
	const char *self; /* this program, for exec-static */
	const char *true_path;
	const char *root; /* holds usr/bin/python3 and usr/bin/gcc */
	const char *tmp;  /* a tmpfs */
};

extern struct bench_options bench_options;
extern const struct bench_class cpu_classes[], float_classes[], memory_classes[], kernel_classes[], task_classes[], crypto_classes[],
	program_classes[];

/* Ends the program with a message: the machine does not do what it must. */
void bench_die(const char *what) __attribute__((noreturn));
/* Forks and runs argv in `root` (NULL: here) with `out` as its output (NULL: dropped); returns its exit code. */
int bench_spawn(const char *root, char *const argv[], const char *out);

/* A reproducible sequence; good enough to be unpredictable for a branch predictor. */
static inline u64 bench_random(u64 *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static inline u64 bench_mix(u64 digest, u64 value)
{
	digest = (digest ^ value) * 0x9e3779b97f4a7c15u;
	return digest ^ digest >> 32;
}

#endif
