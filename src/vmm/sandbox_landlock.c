/* sandbox_landlock.c: the file system goes away, by Landlock; see sandbox.h. Constants are husk's own: the build's headers may know fewer.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/sandbox.h"

/* <linux/landlock.h> of Linux 6.15 */
#define LL_EXECUTE	  BIT(0)
#define LL_REMOVE_DIR	  BIT(4)
#define LL_REMOVE_FILE	  BIT(5)
#define LL_MAKE_CHAR	  BIT(6)
#define LL_MAKE_DIR	  BIT(7)
#define LL_MAKE_SOCK	  BIT(9)
#define LL_MAKE_FIFO	  BIT(10)
#define LL_MAKE_BLOCK	  BIT(11)
#define LL_MAKE_SYM	  BIT(12)
#define LL_REFER	  BIT(13)
#define LL_NET_TCP	  (BIT(0) | BIT(1)) /* bind, connect */
#define LL_SCOPE_ABSTRACT BIT(0)	    /* no abstract unix socket of another process */
#define LL_SCOPE_SIGNAL	  BIT(1)
#define LL_RULE_PATH	  1
#define LL_CREATE_VERSION 1u

/* Not made and not removed under the API either; what husk opens, writes and cuts to size there a client may name at any time. */
#define LL_API (LL_EXECUTE | LL_REMOVE_DIR | LL_MAKE_CHAR | LL_MAKE_DIR | LL_MAKE_FIFO | LL_MAKE_BLOCK | LL_MAKE_SYM | LL_REFER)

struct ll_ruleset {
	u64 fs, net, scoped;
};

struct ll_path {
	u64 allowed;
	int fd;
} __attribute__((packed));

int sandbox_landlock_abi(void)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LL_CREATE_VERSION);

	return abi < 0 ? 0 : (int)abi;
}

/* All file rights that this version knows. */
static u64 fs_rights(int abi)
{
	static const u32 known[] = {0, 13, 14, 15, 15, 16};

	return BIT(known[MIN((u32)abi, ARRAY_SIZE(known) - 1)]) - 1;
}

/* Signals between threads of one process were cut, too, before version 7: the kicks. */
static u64 scopes(int abi)
{
	return abi < 6 ? 0 : abi < 7 ? LL_SCOPE_ABSTRACT : LL_SCOPE_ABSTRACT | LL_SCOPE_SIGNAL;
}

static int allow_removal(int ruleset, const char *dir, struct err *e)
{
	auto_fd int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct ll_path rule = {.allowed = LL_REMOVE_FILE, .fd = fd};

	if (fd < 0) /* gone, and what is in it, too */
		return 0;
	if (syscall(SYS_landlock_add_rule, ruleset, LL_RULE_PATH, &rule, 0) < 0)
		return err_errno(e, "Landlock does not take \"%s\"", dir);
	return 0;
}

int sandbox_landlock(bool strict, char *const *dirs, u32 nr_dirs, struct err *e)
{
	int abi = sandbox_landlock_abi(), ret = 0;
	u64 all = fs_rights(abi);
	struct ll_ruleset rules = {.fs = strict ? all : all & LL_API, .net = abi >= 4 ? LL_NET_TCP : 0, .scoped = scopes(abi)};
	size_t size = abi < 4 ? 8 : abi < 6 ? 16 : sizeof(rules);
	auto_fd int ruleset = -1;

	if (abi == 0)
		return 0;
	ruleset = (int)syscall(SYS_landlock_create_ruleset, &rules, size, 0);
	if (ruleset < 0)
		return err_errno(e, "cannot make a Landlock ruleset");
	for (u32 i = 0; strict && ret == 0 && i < nr_dirs; i++)
		ret = allow_removal(ruleset, dirs[i], e);
	if (ret == 0 && (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || syscall(SYS_landlock_restrict_self, ruleset, 0) < 0))
		ret = err_errno(e, "Landlock does not come into force");
	return ret;
}
