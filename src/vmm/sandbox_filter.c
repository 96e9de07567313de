/*
 * sandbox_filter.c: from lists of names to a seccomp program; see sandbox.h. By itself: libseccomp takes 200 us for a program, four of
 * which were a third of the start of a clone. The program is a tree over the calls' numbers, not a list: the kernel tries each call of its
 * table when a filter is installed, and KVM_RUN goes through it each time.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "syscall_numbers.h"
#include "vmm/sandbox.h"

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41 /* libc names its mappings */
#endif

#define MAX_VALUES 6
#if defined(__x86_64__)
#define ARCH	  AUDIT_ARCH_X86_64
#define X32_CALLS 0x40000000u
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#else
#error "which calls has this architecture?"
#endif

#define MAX_IOCTLS	128u
#define MAX_CALLS	1024u
#define MAX_INSNS	2048u /* the kernel's limit is twice as much */
#define THREAD_FLAGS	(CLONE_VM | CLONE_SIGHAND | CLONE_THREAD)
#define LOW		UINT32_MAX /* the kernel takes an int: what stands above it is anybody's, and not looked at */
#define OWN_PID		UINT32_MAX
#define CHECKED(n, ...) .nr = (n), .values = {__VA_ARGS__}

/* A call that is allowed with (low half of the argument & mask) == one of values only. */
struct check {
	const char *name;
	u32 arg;
	u32 mask;
	u32 nr;
	u32 values[MAX_VALUES];
};

static const struct check checks[] = {
	/* Translated code has its two mappings before any filter is there. */
	{"mmap", 2, PROT_EXEC, CHECKED(1, 0)},
	{"mprotect", 2, PROT_EXEC, CHECKED(1, 0)},
	{"socket", 0, LOW, CHECKED(1, AF_UNIX)},
	{"socketpair", 0, LOW, CHECKED(1, AF_UNIX)},
	{"prctl", 0, LOW, CHECKED(3, PR_GET_NAME, PR_SET_NAME, PR_SET_VMA)},
	{"fcntl", 1, LOW, CHECKED(6, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_OFD_SETLK)},
	{"clone", 0, THREAD_FLAGS, CHECKED(1, THREAD_FLAGS)},
	{"tgkill", 0, LOW, CHECKED(1, OWN_PID)},
	{"kill", 1, LOW, CHECKED(1, SIGKILL)}, /* a child of husk's; whose pid it is cannot be known here */
};

/* ---- which calls ---- */

enum { REFUSED, ALLOWED, NO_SUCH_CALL, CHECKED_BY }; /* CHECKED_BY + i: checks[i]; the last: the requests of ioctl */
#define IOCTLS (CHECKED_BY + ARRAY_SIZE(checks))

struct calls {
	u8 verdict[MAX_CALLS]; /* by number */
	u32 requests[MAX_IOCTLS], nr_requests;
};

static int by_name(const void *key, const void *entry)
{
	return strcmp(key, ((const struct syscall_number *)entry)->name);
}

/* A name that this architecture has not: nothing to allow. */
static void allow(struct calls *calls, const char *name)
{
	const struct syscall_number *s = bsearch(name, syscall_numbers, ARRAY_SIZE(syscall_numbers), sizeof(syscall_numbers[0]), by_name);
	u8 verdict = ALLOWED;

	if (!s || s->nr >= MAX_CALLS)
		return;
	for (u32 i = 0; i < ARRAY_SIZE(checks); i++) {
		if (!strcmp(checks[i].name, name))
			verdict = (u8)(CHECKED_BY + i);
	}
	if (!strcmp(name, "clone3")) /* its flags lie in memory, where no filter looks: libc then takes clone */
		verdict = NO_SUCH_CALL;
	calls->verdict[s->nr] = verdict;
}

static void allow_request(struct calls *calls, u32 request)
{
	for (u32 i = 0; i < calls->nr_requests; i++) {
		if (calls->requests[i] == request)
			return;
	}
	ASSERT(calls->nr_requests < MAX_IOCTLS); /* devices' lists are short */
	calls->requests[calls->nr_requests++] = request;
	calls->verdict[__NR_ioctl] = (u8)IOCTLS;
}

/* ---- the program ---- */

struct program {
	struct sock_filter insns[MAX_INSNS];
	u32 nr;
	bool full;
};

static void emit(struct program *p, u16 code, u32 k, u32 jt, u32 jf)
{
	p->full |= p->nr == MAX_INSNS || jt > UINT8_MAX || jf > UINT8_MAX;
	if (!p->full)
		p->insns[p->nr++] = (struct sock_filter){code, (u8)jt, (u8)jf, k};
}

static void give(struct program *p, u32 action)
{
	emit(p, BPF_RET | BPF_K, action, 0, 0);
}

static void load(struct program *p, size_t offset)
{
	emit(p, BPF_LD | BPF_W | BPF_ABS, (u32)offset, 0, 0);
}

static void look_at_argument(struct program *p, u32 arg, u32 mask, const u32 *values, u32 nr)
{
	load(p, offsetof(struct seccomp_data, args) + arg * sizeof(u64)); /* both architectures are little-endian */
	emit(p, BPF_ALU | BPF_AND | BPF_K, mask, 0, 0);
	for (u32 i = 0; i < nr; i++)
		emit(p, BPF_JMP | BPF_JEQ | BPF_K, values[i] == OWN_PID ? (u32)getpid() : values[i], nr - i, 0);
	give(p, SECCOMP_RET_TRAP);
	give(p, SECCOMP_RET_ALLOW);
}

static void give_verdict(struct program *p, const struct calls *calls, u8 verdict)
{
	if (verdict == REFUSED) {
		give(p, SECCOMP_RET_TRAP);
	} else if (verdict == ALLOWED) {
		give(p, SECCOMP_RET_ALLOW);
	} else if (verdict == NO_SUCH_CALL) {
		give(p, SECCOMP_RET_ERRNO | ENOSYS);
	} else if (verdict == IOCTLS) {
		look_at_argument(p, 1, LOW, calls->requests, calls->nr_requests);
	} else {
		const struct check *c = &checks[verdict - CHECKED_BY];

		look_at_argument(p, c->arg, c->mask, c->values, c->nr);
	}
}

/* The tree for the calls from starts[0] on; starts[i]: where a run of calls with one verdict begins. */
static void tree(struct program *p, const struct calls *calls, const u16 *starts, u32 nr)
{
	u32 half = nr / 2, at = p->nr;

	if (nr == 1) {
		give_verdict(p, calls, calls->verdict[starts[0]]);
		return;
	}
	emit(p, BPF_JMP | BPF_JGE | BPF_K, starts[half], 0, 1);
	emit(p, BPF_JMP | BPF_JA, 0, 0, 0); /* jumps with a condition do not reach far */
	tree(p, calls, starts, half);
	if (!p->full)
		p->insns[at + 1].k = p->nr - (at + 2);
	tree(p, calls, starts + half, nr - half);
}

static void make_program(struct program *p, const struct calls *calls)
{
	u16 starts[MAX_CALLS + 1];
	u32 nr = 1;

	starts[0] = 0;
	for (u32 i = 1; i < MAX_CALLS; i++) {
		if (calls->verdict[i] != calls->verdict[i - 1] || calls->verdict[i] >= CHECKED_BY)
			starts[nr++] = (u16)i;
	}
	load(p, offsetof(struct seccomp_data, arch));
	emit(p, BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0);
	give(p, SECCOMP_RET_KILL_PROCESS);
	load(p, offsetof(struct seccomp_data, nr));
#ifdef X32_CALLS
	emit(p, BPF_JMP | BPF_JGE | BPF_K, X32_CALLS, 0, 1);
	give(p, SECCOMP_RET_KILL_PROCESS);
#endif
	emit(p, BPF_JMP | BPF_JGE | BPF_K, MAX_CALLS, 0, 1);
	give(p, SECCOMP_RET_TRAP);
	tree(p, calls, starts, nr);
}

int sandbox_compile(const struct sandbox_need *needs, u32 nr, struct sandbox_filter *out, struct err *e)
{
	auto_free struct program *p = xzalloc(sizeof(*p));
	struct calls calls = {.nr_requests = 0};

	*out = (struct sandbox_filter){0};
	for (u32 i = 0; i < nr; i++) {
		for (const char *const *name = needs[i].syscalls; name && *name; name++)
			allow(&calls, *name);
		for (const u32 *request = needs[i].ioctls; request && *request; request++)
			allow_request(&calls, *request);
	}
	make_program(p, &calls);
	if (p->full)
		return err_set(e, -EINVAL, "cannot make a seccomp filter: it is too long");
	out->insns = xzalloc(p->nr * sizeof(*out->insns));
	memcpy(out->insns, p->insns, p->nr * sizeof(*out->insns));
	out->nr = (u16)p->nr;
	return 0;
}
