/* syscall.h: system calls without libc, for lean files: they keep the vector registers, which libc need not. Results: -errno on failure. */
#ifndef HUSK_TCG_SYSCALL_H
#define HUSK_TCG_SYSCALL_H

#include "vmm/base/base.h"

static inline long raw_syscall4(long nr, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long ret;

	__asm__ volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return ret;
}

#endif
