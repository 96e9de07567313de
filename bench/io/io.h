/* io.h: bench/devices' program, which runs in the guest and, as its peer on the network, on the host. */
#ifndef BENCH_IO_H
#define BENCH_IO_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define BLOCK 4096u

_Noreturn void die(const char *what);
uint64_t now_ns(void);
/* Whether the line is wanted: among `only` (words with commas between them), or that is NULL. Then "begin NAME" is on the console. */
int begin(const char *name, const char *only);
/* One result on the console: "io NAME AMOUNT NANOSECONDS". */
void result(const char *name, uint64_t amount, uint64_t ns);

/* disk.c */
/* Every block of the image says which one it is. */
void disk_make(const char *path, uint64_t mib);
/* Ends with 1 when a block is not the one it should be. */
void disk_check(const char *path);
void disk_bench(const char *path, uint64_t ms, const char *only);

/* net.c */
_Noreturn void net_serve(const char *address);
void net_bench(const char *address, uint64_t ms, const char *only);

#endif
