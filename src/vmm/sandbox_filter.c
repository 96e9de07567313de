/* sandbox_filter.c: from lists of names to a seccomp program, with libseccomp; see sandbox.h. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/sandbox.h"

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41 /* libc names its mappings */
#endif

#define MAX_VALUES	6
#define THREAD_FLAGS	(CLONE_VM | CLONE_SIGHAND | CLONE_THREAD)
#define LOW		UINT32_MAX /* the kernel takes an int: what stands above it is anybody's */
#define OWN_PID		UINT64_MAX
#define CHECKED(n, ...) .nr = (n), .values = {__VA_ARGS__}

/* A call that is allowed with (argument & mask) == one of values only. "call:what": for those who list that beside "call". */
struct check {
	const char *name;
	u32 arg;
	u64 mask;
	u32 nr;
	u64 values[MAX_VALUES];
};

static const struct check checks[] = {
	/* Translated code has its two mappings before any filter is there. */
	{"mmap", 2, PROT_EXEC, CHECKED(1, 0)},
	{"mprotect", 2, PROT_EXEC, CHECKED(1, 0)},
	{"socket", 0, LOW, CHECKED(1, AF_UNIX)},
	/* To other hosts; netlink is how libc learns which addresses it may prefer. */
	{"socket:network", 0, LOW, CHECKED(3, AF_INET, AF_INET6, AF_NETLINK)},
	{"socketpair", 0, LOW, CHECKED(1, AF_UNIX)},
	{"prctl", 0, LOW, CHECKED(3, PR_GET_NAME, PR_SET_NAME, PR_SET_VMA)},
	{"fcntl", 1, LOW, CHECKED(6, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_OFD_SETLK)},
	{"clone", 0, THREAD_FLAGS, CHECKED(1, THREAD_FLAGS)},
	{"tgkill", 0, LOW, CHECKED(1, OWN_PID)},
	{"kill", 1, LOW, CHECKED(1, SIGKILL)}, /* a child of husk's; whose pid it is cannot be known here */
};

static const struct check *find_check(const char *name)
{
	for (u32 i = 0; i < ARRAY_SIZE(checks); i++) {
		if (!strcmp(checks[i].name, name))
			return &checks[i];
	}
	return NULL;
}

static int allow_checked(scmp_filter_ctx ctx, int nr, const struct check *c)
{
	int ret = 0;

	for (u32 i = 0; ret == 0 && i < c->nr; i++) {
		u64 value = c->values[i] == OWN_PID ? (u64)getpid() : c->values[i];

		ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, nr, 1, SCMP_CMP(c->arg, SCMP_CMP_MASKED_EQ, c->mask, value));
	}
	return ret;
}

/* A name that this architecture, or this libseccomp, has not: nothing to allow. Another part may have asked for the same: -EEXIST. */
static int allow(scmp_filter_ctx ctx, const char *name)
{
	const struct check *c = find_check(name);
	char call[32];
	int nr, ret;

	snprintf(call, sizeof(call), "%.*s", (int)strcspn(name, ":"), name);
	nr = seccomp_syscall_resolve_name(call);
	if (nr < 0)
		return 0;
	if (!strcmp(name, "clone3")) /* its flags lie in memory, where no filter looks: libc then takes clone */
		ret = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), nr, 0);
	else
		ret = c ? allow_checked(ctx, nr, c) : seccomp_rule_add(ctx, SCMP_ACT_ALLOW, nr, 0);
	return ret == -EEXIST ? 0 : ret;
}

static int allow_need(scmp_filter_ctx ctx, const struct sandbox_need *need)
{
	int ret = 0;

	for (const char *const *name = need->syscalls; ret == 0 && name && *name; name++)
		ret = allow(ctx, *name);
	for (const u32 *request = need->ioctls; ret == 0 && request && *request; request++) {
		ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_CMP(1, SCMP_CMP_MASKED_EQ, LOW, *request));
		ret = ret == -EEXIST ? 0 : ret;
	}
	return ret;
}

/* libseccomp gives the program to a descriptor only (before 2.6). */
static int export_program(scmp_filter_ctx ctx, struct sandbox_filter *out)
{
	auto_fd int fd = memfd_create("husk-seccomp", MFD_CLOEXEC);
	int ret = fd < 0 ? -errno : seccomp_export_bpf(ctx, fd);
	off_t size;

	if (ret < 0)
		return ret;
	size = lseek(fd, 0, SEEK_END);
	if (size <= 0 || size / (off_t)sizeof(*out->insns) > BPF_MAXINSNS)
		return -EINVAL;
	out->insns = xzalloc((size_t)size);
	out->nr = (u16)((size_t)size / sizeof(*out->insns));
	return pread(fd, out->insns, (size_t)size, 0) == size ? 0 : -EIO;
}

int sandbox_compile(const struct sandbox_need *needs, u32 nr, struct sandbox_filter *out, struct err *e)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_TRAP);
	int ret = ctx ? 0 : -ENOMEM;

	*out = (struct sandbox_filter){0};
	if (ret == 0)
		ret = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	/* A tree, not a list: the kernel tries each call of its table when a filter is installed, and KVM_RUN goes through it each time. */
	if (ret == 0)
		ret = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	for (u32 i = 0; ret == 0 && i < nr; i++)
		ret = allow_need(ctx, &needs[i]);
	if (ret == 0)
		ret = export_program(ctx, out);
	if (ctx)
		seccomp_release(ctx);
	if (ret < 0) {
		free(out->insns);
		*out = (struct sandbox_filter){0};
		return err_set(e, ret, "cannot make a seccomp filter: %s", strerror(-ret));
	}
	return 0;
}
