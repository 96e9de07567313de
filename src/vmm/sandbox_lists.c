/*
 * sandbox_lists.c: what each kind of thread may ask of the kernel, whatever the VM consists of, and with which arguments. Calls that only
 * some libc, libc version or architecture makes stand beside their sisters ("poll" and "ppoll").
 */
#include <linux/fs.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include "vmm/sandbox.h"

/* What newer libcs take for TCGETS and its sisters; <asm/termbits.h>, which does not go with <termios.h>. */
#define TCGETS2_  0x802c542au
#define TCSETS2_  0x402c542bu
#define TCSETSW2_ 0x402c542cu
#define TCSETSF2_ 0x402c542du

/* PAGEMAP_SCAN of Linux 6.7, and its struct pm_scan_arg. */
#define PAGEMAP_SCAN_ _IOC(_IOC_READ | _IOC_WRITE, 'f', 16, 96)

/* Memory, locks, clocks, signals, the end of a thread, a log line. The terminal's settings are given back
 * by whoever crashes. */
static const char *const every_thread[] = {
	"brk",
	"clock_gettime",
	"clock_getres",
	"clock_nanosleep",
	"close",
	"exit",
	"exit_group",
	"futex",
	"getpid",
	"getrandom",
	"gettid",
	"gettimeofday",
	"madvise",
	"mmap",
	"mprotect",
	"mremap",
	"munmap",
	"nanosleep",
	"prctl",
	"read",
	"restart_syscall",
	"rseq",
	"rt_sigaction",
	"rt_sigprocmask",
	"rt_sigreturn",
	"sched_yield",
	"sigaltstack",
	"sysinfo", /* glibc's qsort, for 1 KiB and more: how much memory is there? */
	"tgkill",
	"write",
	"writev",
	NULL,
};
static const u32 every_thread_ioctls[] = {TCSETS, TCSETSW, TCSETSF, TCSETS2_, TCSETSW2_, TCSETSF2_, 0};

/* epoll; serial port and console on terminals, pipes and sockets (chr.c); the end: sockets removed, files closed. */
static const char *const loop_calls[] = {
	"accept4", "epoll_ctl",	 "epoll_pwait", "epoll_wait", "fcntl",	  "fstat",     "getpgid",  "getpgrp",
	"lstat",   "newfstatat", "fstatat64",	"poll",	      "ppoll",	  "readv",     "recvfrom", "recvmsg",
	"sendmsg", "sendto",	 "shutdown",	"unlink",     "unlinkat", "fdatasync", "statx",	   NULL,
};
/* Of a terminal, for loop and vCPUs. */
static const u32 tty_ioctls[] = {TCGETS, TCGETS2_, TIOCGPGRP, TIOCGWINSZ, 0};

/* The API may name a file, and ask for a snapshot: which pages are there, files under temporary names, synced, renamed. */
static const char *const loop_api_calls[] = {
	"open",	   "openat",   "lseek",	  "dup3",   "fallocate", "flock",     "fsync", "ftruncate", "mincore",
	"pread64", "pwrite64", "pwritev", "rename", "renameat",	 "renameat2", "stat",  NULL,
};
static const u32 loop_api_ioctls[] = {PAGEMAP_SCAN_, 0};

/* A register access runs the device's code: the serial port writes, and has the loop watch an end that takes no more (chr_watch_out). */
static const char *const vcpu_calls[] = {"epoll_ctl", "poll", "ppoll", "sendmsg", "sendto", NULL};

/* libmicrohttpd on unix sockets. */
static const char *const api_calls[] = {
	"accept4", "epoll_ctl", "epoll_pwait", "epoll_wait", "fcntl",  "getpeername", "getsockname", "getsockopt", "poll",
	"ppoll",   "recvfrom",	"recvmsg",     "sendmsg",    "sendto", "setsockopt",  "shutdown",    NULL,
};

static const char *const disk_calls[] = {
	"fallocate", "fdatasync", "fsync", "pread64", "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", NULL,
};
static const u32 disk_ioctls[] = {BLKDISCARD, BLKZEROOUT, 0};

static const char *const timer_calls[] = {"epoll_pwait", "epoll_wait", NULL};

/* Guest memory from a file, compressed or read ahead, or from another process: pages put where they are missing; a list of those that were
 * touched. */
static const char *const pager_calls[] = {"lseek", "mincore", "poll", "ppoll", "pread64", "pwrite64", "readahead", NULL};
static const u32 pager_ioctls[] = {PAGEMAP_SCAN_, UFFDIO_COPY, UFFDIO_ZEROPAGE, UFFDIO_WAKE, UFFDIO_UNREGISTER, 0};

/* Connections to another husk, threads for each of them; as a destination also what a pager does. Names of hosts are looked up by libc,
 * which reads files for it. */
static const char *const migrate_calls[] = {
	"accept4",
	"bind",
	"clone",
	"clone3",
	"connect",
	"fdatasync",
	"epoll_wait",
	"epoll_ctl",
	"epoll_pwait",
	"eventfd2",
	"fallocate",
	"fcntl",
	"fstat",
	"getpeername",
	"getsockname",
	"getsockopt",
	"listen",
	"lseek",
	"mincore",
	"newfstatat",
	"open",
	"openat",
	"poll",
	"ppoll",
	"pread64",
	"pwrite64",
	"recvfrom",
	"recvmsg",
	"sched_getaffinity",
	"sendmmsg",
	"sendmsg",
	"sendto",
	"set_robust_list",
	"setsockopt",
	"shutdown",
	"socket",
	"socket:network",
	"uname",
	"unlink",
	NULL,
};

u32 sandbox_list(enum sandbox_thread kind, bool api, struct sandbox_need *needs)
{
	static const struct sandbox_need of[SANDBOX_THREADS] = {
		[SANDBOX_LOOP] = {loop_calls, tty_ioctls},
		[SANDBOX_VCPU] = {vcpu_calls, tty_ioctls},
		[SANDBOX_API] = {api_calls, NULL},
		[SANDBOX_DISK] = {disk_calls, disk_ioctls},
		[SANDBOX_TIMER] = {timer_calls, NULL},
		[SANDBOX_PAGER] = {pager_calls, pager_ioctls},
		[SANDBOX_MIGRATE] = {migrate_calls, pager_ioctls},
	};
	u32 n = 0;

	needs[n++] = (struct sandbox_need){every_thread, every_thread_ioctls};
	needs[n++] = of[kind];
	if (api && kind == SANDBOX_LOOP)
		needs[n++] = (struct sandbox_need){loop_api_calls, loop_api_ioctls};
	return n;
}
