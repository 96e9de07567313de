/* sandbox.c: the order in which a process gives up what it could do, and what happens when it asks for it again; see sandbox.h. */
#include "vmm/sandbox.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "syscall_names.h"
#include "vmm/chr.h"
#include "vmm/gdb.h"
#include "vmm/vm.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#elif defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer))
#else
#define SANITIZED false
#endif

#define MAX_NEEDS     64
#define FROM_A_FILTER 1 /* si_code SYS_SECCOMP of <asm-generic/siginfo.h>, which libc has not */

/* Whom a fault is reported to: a signal handler has nothing but globals to know that by. Set before the first filter is in force. */
static struct sandbox *volatile fault_sandbox;

/* ---- A call outside the list ---- */

const char *sandbox_syscall_name(int nr)
{
	if (nr < 0 || (size_t)nr >= ARRAY_SIZE(syscall_names) || !syscall_names[nr])
		return "?";
	return syscall_names[nr];
}

static void write_metrics(int fd)
{
	struct timespec ts;
	char line[96];
	int n;

	clock_gettime(CLOCK_REALTIME, &ts);
	n = snprintf(line, sizeof(line), "{\"utc_timestamp_ms\":%lld,\"seccomp\":{\"num_faults\":1}}\n",
		     (long long)ts.tv_sec * 1000 + ts.tv_nsec / (long)NSEC_PER_MSEC);
	if (write(fd, line, (size_t)n) < 0)
		return; /* there is nobody left to tell */
}

/* Whoever made the call is not to be trusted any more: nothing is tidied up but the user's terminal. */
static void on_fault(int sig, siginfo_t *info, void *context)
{
	struct sandbox *sb = fault_sandbox;
	char thread[16] = "";

	(void)context;
	if (info->si_code != FROM_A_FILTER) { /* somebody has sent it */
		signal(sig, SIG_DFL);
		raise(sig);
		return;
	}
	prctl(PR_GET_NAME, thread);
	log_error(sb->log, "Shutting down VM after intercepting a bad syscall (%d, %s) of thread \"%s\"; exit code %d", info->si_syscall,
		  sandbox_syscall_name(info->si_syscall), thread, SANDBOX_EXIT);
	if (sb->metrics_fd >= 0)
		write_metrics(sb->metrics_fd);
	chr_restore_terminal();
	syscall(SYS_exit_group, SANDBOX_EXIT);
}

void sandbox_catch_faults(struct sandbox *sb)
{
	struct sigaction act = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};

	fault_sandbox = sb;
	sigfillset(&act.sa_mask);
	sigaction(SIGSYS, &act, NULL);
}

/* ---- Start ---- */

static int check_kernel(struct err *e)
{
	u32 action = SECCOMP_RET_TRAP;

	if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0)
		return 0;
	return err_set(
		e, -ENOSYS,
		"this host's kernel has no seccomp filters (CONFIG_SECCOMP_FILTER): use one that has, or run without with --no-seccomp");
}

static int make_filter(struct sandbox *sb, enum sandbox_thread kind, const struct sandbox_need *more, u32 nr, struct err *e)
{
	struct sandbox_need needs[MAX_NEEDS];
	u32 n = sandbox_list(kind, sb->api, needs);

	if (!sb->seccomp || sb->filters[kind].insns)
		return 0;
	ASSERT(n + nr <= ARRAY_SIZE(needs));
	for (u32 i = 0; i < nr; i++)
		needs[n++] = more[i];
	return sandbox_compile(needs, n, &sb->filters[kind], e);
}

int sandbox_make_filter(struct sandbox *sb, enum sandbox_thread kind, struct err *e)
{
	return make_filter(sb, kind, NULL, 0, e);
}

int sandbox_init(struct sandbox *sb, struct log *log, bool seccomp, bool api, struct err *e)
{
	int ret;

	*sb = (struct sandbox){.seccomp = seccomp, .api = api, .metrics_fd = -1};
	if (SANITIZED) {
		log_info(log, "no sandbox: this is a build with sanitizers, which make system calls of their own");
		return 0;
	}
#ifdef __GLIBC__
	/* A second heap, when it shrinks, opens a file of /proc (glibc's shrink_heap), in whatever thread that is. */
	mallopt(M_ARENA_MAX, 1);
#endif
	tzset(); /* gmtime_r would look for /etc/localtime when it is called first */
	ret = seccomp ? check_kernel(e) : 0;
	sb->log = log;
	sandbox_catch_faults(sb);
	if (ret == 0 && api)
		ret = make_filter(sb, SANDBOX_API, NULL, 0, e);
	if (ret < 0)
		sandbox_fini(sb);
	return ret;
}

static void drop_filter(struct sandbox *sb, enum sandbox_thread kind)
{
	free(sb->filters[kind].insns);
	sb->filters[kind] = (struct sandbox_filter){0};
}

void sandbox_fini(struct sandbox *sb)
{
	for (u32 i = 0; i < SANDBOX_THREADS; i++)
		drop_filter(sb, i);
	for (u32 i = 0; i < sb->nr_dirs; i++)
		free(sb->dirs[i]);
	sb->nr_dirs = 0; /* its log stays: this thread's filter does */
}

void sandbox_will_remove(struct sandbox *sb, const char *path)
{
	const char *slash = strrchr(path, '/');

	if (!sb || sb->nr_dirs == SANDBOX_MAX_DIRS)
		return;
	sb->dirs[sb->nr_dirs++] = !slash ? xstrdup(".") : slash == path ? xstrdup("/") : xasprintf("%.*s", (int)(slash - path), path);
}

bool sandbox_is_open(const struct sandbox *sb)
{
	return sb && sb->log && !sb->closed;
}

/* ---- One thread ---- */

/* The bounding set needs CAP_SETPCAP, which only he has who has something to lose. No error is possible when capabilities are given up. */
static void drop_capabilities(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};

	for (int cap = 0; prctl(PR_CAPBSET_READ, cap) >= 0; cap++)
		prctl(PR_CAPBSET_DROP, cap);
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	ASSERT(syscall(SYS_capset, &head, none) == 0);
}

static void install(const struct sandbox_filter *f)
{
	struct sock_fprog prog = {.len = f->nr, .filter = f->insns};
	sigset_t sys;

	sigemptyset(&sys);
	sigaddset(&sys, SIGSYS); /* the kernel does not ask a handler that is blocked */
	pthread_sigmask(SIG_UNBLOCK, &sys, NULL);
	ASSERT(prog.filter && syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog) == 0);
}

void sandbox_enter(struct sandbox *sb, enum sandbox_thread kind)
{
	if (!sb || !sb->log)
		return;
	ASSERT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	drop_capabilities();
	if (sb->seccomp)
		install(&sb->filters[kind]);
}

/* ---- The VM ---- */

static u32 device_needs(const struct vm *vm, bool api, struct sandbox_need *needs)
{
	u32 n = 0;

	for (u32 i = 0; i < vm->nr_devices; i++) {
		const struct device_class *cls = vm->devices[i]->cls;
		bool seen = false;

		for (u32 j = 0; j < i; j++)
			seen |= vm->devices[j]->cls == cls;
		if (seen)
			continue;
		ASSERT(n + 2 <= MAX_NEEDS / 2);
		needs[n++] = (struct sandbox_need){cls->syscalls, cls->ioctls};
		if (api && cls->op_syscalls)
			needs[n++] = (struct sandbox_need){cls->op_syscalls, cls->op_ioctls};
	}
	return n;
}

static int make_vm_filters(struct sandbox *sb, const struct vm *vm, struct err *e)
{
	struct sandbox_need needs[MAX_NEEDS];
	u32 n = device_needs(vm, false, needs);
	int ret;

	drop_filter(sb, SANDBOX_VCPU); /* of an earlier VM, which did not start */
	drop_filter(sb, SANDBOX_LOOP);
	needs[n++] = vm->accel->vcpu_needs;
	ret = make_filter(sb, SANDBOX_VCPU, needs, n, e);
	n = device_needs(vm, sb->api, needs);
	needs[n++] = vm->accel->loop_needs;
	for (const struct mem_helper *h = vm->mem.helpers; h; h = h->next)
		needs[n++] = (struct sandbox_need){h->syscalls, h->ioctls};
	if (vm->gdb)
		needs[n++] = (struct sandbox_need){gdb_syscalls, NULL};
	return ret < 0 ? ret : make_filter(sb, SANDBOX_LOOP, needs, n, e);
}

int sandbox_prepare_vm(struct vm *vm, struct err *e)
{
	struct sandbox *sb = vm->sandbox;
	int ret;

	if (!sb || !sb->log)
		return 0;
	sb->metrics_fd = vm->metrics.vm ? vm->metrics.fd : -1;
	ret = make_vm_filters(sb, vm, e);
	if (ret == 0)
		ret = sandbox_landlock(!sb->api, sb->dirs, sb->nr_dirs, e);
	if (ret < 0)
		return ret;
	ASSERT(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0);
	ASSERT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	drop_capabilities();
	return 0;
}

void sandbox_close_vm(struct vm *vm)
{
	if (!vm->sandbox || !vm->sandbox->log)
		return;
	sandbox_enter(vm->sandbox, SANDBOX_LOOP);
	vm->sandbox->closed = true;
}
