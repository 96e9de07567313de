/*
 * sandbox.h: what is taken away from the process before guest code runs: system calls that no part has declared (seccomp, a filter per
 * thread), the file system (Landlock, where the kernel has it), capabilities, new programs. docs/sandbox.md tells users.
 *
 *   sandbox_init                                                     before the first thread
 *   sandbox_enter(API, DISK, TIMER, PAGER, MIGRATE)                        each of these threads, first thing
 *   sandbox_prepare_vm -> sandbox_enter(VCPU) -> sandbox_close_vm    vm_run: everything is open, nothing runs yet
 *
 * A thread's filter is its kind's list (sandbox_lists.c) and what the VM's parts declare: device_class.syscalls, accel_ops.sandbox. It can
 * not be taken off. A call outside it ends husk: one log line, one line of metrics, exit code SANDBOX_EXIT.
 */
#ifndef HUSK_SANDBOX_H
#define HUSK_SANDBOX_H

#include <pthread.h>

#include "vmm/base/log.h"

struct vm;
struct sock_filter;

#define SANDBOX_EXIT	 148 /* Firecracker's */
#define SANDBOX_MAX_DIRS 16

/* Kinds of threads. */
enum sandbox_thread {
	SANDBOX_LOOP,	 /* main */
	SANDBOX_VCPU,	 /* "vcpu N" */
	SANDBOX_API,	 /* "fc_api" */
	SANDBOX_DISK,	 /* "husk-disk" */
	SANDBOX_TIMER,	 /* "tcg timers" */
	SANDBOX_PAGER,	 /* "husk-pager" */
	SANDBOX_MIGRATE, /* "husk-migrate" */
	SANDBOX_THREADS
};

/* System calls by name ("readv", NULL-ended; names that this architecture has not are left out) and the requests of ioctl (0-ended).
 * Either may be NULL. Some calls are allowed with some arguments only, whoever declares them: sandbox_lists.c. */
struct sandbox_need {
	const char *const *syscalls;
	const u32 *ioctls;
};

struct sandbox_filter {
	struct sock_filter *insns; /* owned; NULL: not made */
	u16 nr;
};

struct sandbox {
	struct log *log; /* borrowed; NULL: no sandbox */
	bool seccomp;	 /* filters are wanted */
	bool api;	 /* files that the configuration does not name may be asked for later */
	bool closed;	 /* atomic: sandbox_close_vm was there: the main thread's filter is inherited by what it starts */
	int metrics_fd;	 /* for the line of the end; -1: none */
	struct sandbox_filter filters[SANDBOX_THREADS];
	char *dirs[SANDBOX_MAX_DIRS]; /* owned: where sockets are to be removed at the end */
	u32 nr_dirs;
};

/* Makes the filter of the API's thread, which starts before the VM is complete. seccomp false: no filters, all the rest. -ENOSYS: this
 * kernel has no filters. In a build with sanitizers there is no sandbox: they make calls of their own; says so. ctx: main, before the first
 * thread */
int sandbox_init(struct sandbox *sb, struct log *log, bool seccomp, bool api, struct err *e) MUST_CHECK;
void sandbox_fini(struct sandbox *sb); /* accepts zeroed */
/* Makes the filter of a kind that not every VM has (DISK, TIMER, PAGER), unless it is there, before the first thread of it starts: each
 * takes half a million instructions. ctx: main, while sandbox_is_open */
int sandbox_make_filter(struct sandbox *sb, enum sandbox_thread kind, struct err *e) MUST_CHECK;
/* This path, a socket that husk made, is to be removed at the end. sb NULL: nothing to do. ctx: main, before sandbox_close_vm */
void sandbox_will_remove(struct sandbox *sb, const char *path);
/* A thread that the caller starts now has to confine itself (sandbox_enter); false when it inherits the caller's confinement. Accepts NULL.
 * ctx: main */
bool sandbox_is_open(const struct sandbox *sb);
/* No capability, no way to get one, and the filter of this kind, for the calling thread. Accepts NULL. ctx: any; the first thing that a
 * thread does */
void sandbox_enter(struct sandbox *sb, enum sandbox_thread kind);

/* The whole process loses its capabilities, programs and, as far as it can, files; the filters of vCPUs and loop are made. Everything that
 * the VM needs is open by now. vm->sandbox NULL: nothing to do. ctx: main, before the vCPU threads start */
int sandbox_prepare_vm(struct vm *vm, struct err *e) MUST_CHECK;
/* The loop's filter comes into force. ctx: main, before the vCPUs run */
void sandbox_close_vm(struct vm *vm);

/* ---- Parts, for tests and `husk check` ---- */

/* Appends what all threads of the kind may do to needs[] (room for three); returns how many. */
u32 sandbox_list(enum sandbox_thread kind, bool api, struct sandbox_need *needs);
/* Compiles a filter. -ENOMEM, -EINVAL when the kernel would not take it. */
int sandbox_compile(const struct sandbox_need *needs, u32 nr, struct sandbox_filter *out, struct err *e) MUST_CHECK;
/* Makes SIGSYS of the process end it as said above, with this sandbox's log. */
void sandbox_catch_faults(struct sandbox *sb);
/* Landlock's version here; 0: there is none. */
int sandbox_landlock_abi(void);
/* Confines the calling thread and those that it will start. strict: no file is opened, made or executed any more; else none is executed,
 * and nothing but regular files is made. Sockets in dirs may be removed in either case. Quiet where there is no Landlock. */
int sandbox_landlock(bool strict, char *const *dirs, u32 nr_dirs, struct err *e) MUST_CHECK;
/* Name of a system call of this architecture, or "?". Async-signal-safe. */
const char *sandbox_syscall_name(int nr);

#endif
