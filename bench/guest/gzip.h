/*
 * gzip.h: the compressor's class, of which cpu.c has the entry.
 */
#ifndef BENCH_GZIP_H
#define BENCH_GZIP_H

#include "bench.h"

#define GZIP_BYTES 32768u

const char *gzip_init(void);
u64 gzip_run(u32 ops);

#endif
