/* check.c: `husk check`, the doctor: what of this host husk can use, one line each, with what to do where something is missing. */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/check.h"
#include "vmm/accel.h"
#include "vmm/base/suggest.h"

#define UFFD_USER_MODE_ONLY 1 /* <linux/userfaultfd.h> of kernels from 5.11 on */

void check_say(enum verdict v, const char *what, const char *fmt, ...)
{
	static const char *const words[] = {"ok", "warn", "fail"};
	va_list ap;

	printf("%-5s %-12s ", words[v], what);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

/* One accelerator's self-test. */
static bool check_accel(const struct accel_ops *accel, enum verdict if_not)
{
	struct err e = {0};
	bool usable = accel->probe(&e) == 0;

	if (usable)
		check_say(VERDICT_OK, accel->name, "usable%s",
			  accel->native ? "" : "; runs guests slower than hardware virtualization would");
	else
		check_say(if_not, accel->name, "%s", e.msg);
	return usable;
}

/* All accelerators, best first: true when one at least can run a VM. One that cannot matters less when another can. */
static bool check_accels(void)
{
	const struct accel_ops *first = NULL;
	struct err e;

	for (u32 i = 0; accel_list[i] && !first; i++) {
		if (accel_list[i]->probe(&e) == 0)
			first = accel_list[i];
	}
	for (u32 i = 0; accel_list[i]; i++)
		check_accel(accel_list[i], first ? VERDICT_WARN : VERDICT_FAIL);
	if (first)
		check_say(VERDICT_OK, "accelerator", "VMs run under %s unless they ask for another", first->name);
	else
		check_say(VERDICT_FAIL, "accelerator", "none is usable: this host cannot run a VM until a line above is mended");
	return first;
}

static void check_io_uring(void)
{
	struct io_uring ring;
	int r = io_uring_queue_init(4, &ring, 0);

	if (r == 0) {
		io_uring_queue_exit(&ring);
		check_say(VERDICT_OK, "io_uring", "available");
	} else {
		check_say(VERDICT_WARN, "io_uring",
			  "%s; drives with io_engine Async need it (kernel 5.10 or newer, sysctl kernel.io_uring_disabled=0)",
			  strerror(-r));
	}
}

static void check_tap(void)
{
	auto_fd int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	if (fd >= 0)
		check_say(VERDICT_OK, "tap",
			  "/dev/net/tun opens; making a tap also takes CAP_NET_ADMIN, or one made for this user beforehand");
	else if (errno == ENOENT || errno == ENODEV)
		check_say(VERDICT_WARN, "tap", "/dev/net/tun: %s; network interfaces need it: modprobe tun", strerror(errno));
	else
		check_say(VERDICT_WARN, "tap", "/dev/net/tun: %s; network interfaces need it: give this user read and write access",
			  strerror(errno));
}

static void check_userfaultfd(void)
{
	auto_fd int fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (fd >= 0)
		check_say(VERDICT_OK, "userfaultfd", "available");
	else
		check_say(VERDICT_WARN, "userfaultfd", "%s; loading memory on demand needs it: give this user access to /dev/userfaultfd",
			  strerror(errno));
}

/* First number in a file of sysfs, -1 when there is none. */
static long read_number(const char *path)
{
	FILE *f = fopen(path, "re");
	long n = -1;

	if (!f)
		return -1;
	if (fscanf(f, "%ld", &n) != 1)
		n = -1;
	fclose(f);
	return n;
}

static void check_huge_pages(void)
{
	long free_pages = read_number("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
	bool transparent = access("/sys/kernel/mm/transparent_hugepage/enabled", F_OK) == 0;

	if (free_pages > 0)
		check_say(VERDICT_OK, "huge pages", "%ld of 2 MiB free%s", free_pages, transparent ? "; transparent ones too" : "");
	else
		check_say(VERDICT_WARN, "huge pages",
			  "none of 2 MiB free; machine-config huge_pages 2M needs them: sysctl vm.nr_hugepages=N%s",
			  transparent ? " (Transparent works)" : "");
}

static void check_cgroup(void)
{
	if (access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0)
		check_say(VERDICT_OK, "cgroup", "version 2");
	else if (access("/sys/fs/cgroup/cpu", F_OK) == 0 || access("/sys/fs/cgroup/memory", F_OK) == 0)
		check_say(VERDICT_WARN, "cgroup",
			  "version 1; KVM starts VMs some 25 ms slower there: boot with systemd.unified_cgroup_hierarchy=1");
	else
		check_say(VERDICT_WARN, "cgroup", "not mounted; only limits on VMs need it: mount -t cgroup2 none /sys/fs/cgroup");
}

static int check_one_accel(const char *name, struct err *e)
{
	struct suggest s;

	suggest_init(&s, name);
	for (u32 i = 0; accel_list[i]; i++) {
		if (!strcmp(accel_list[i]->name, name))
			return check_accel(accel_list[i], VERDICT_FAIL) ? EXIT_OK : EXIT_ERROR;
		suggest_try(&s, accel_list[i]->name);
	}
	err_set(e, -ENODEV, "accelerator \"%s\": this husk was built without it%s", name, suggest_text(&s, ""));
	return EXIT_ERROR;
}

static int parse(int argc, char **argv, const char **accel, const char **pid, bool *sandbox, struct err *e)
{
	struct args a;

	args_init(&a, argc, argv);
	while (args_next(&a)) {
		const char **value = !strcmp(a.name, "accelerator") ? accel : !strcmp(a.name, "pid") ? pid : NULL;

		if (!strcmp(a.name, "sandbox")) {
			if (args_no_value(&a, e) < 0)
				return -EINVAL;
			*sandbox = true;
		} else if (!value) {
			return err_set(
				e, -EINVAL,
				"husk check: \"%s%s\" is not understood; usage: husk check [--accelerator NAME | --sandbox [--pid N]]",
				*a.name ? "--" : "", *a.name ? a.name : a.value);
		} else if (!(*value = args_value(&a, e))) {
			return -EINVAL;
		}
	}
	return *pid && !*sandbox ? err_set(e, -EINVAL, "husk check: --pid goes with --sandbox") : 0;
}

int cmd_check(int argc, char **argv, struct err *e)
{
	const char *accel = NULL, *pid = NULL;
	bool can_run, sandbox = false;

	if (parse(argc, argv, &accel, &pid, &sandbox, e) < 0)
		return EXIT_USAGE;
	if (sandbox)
		return check_sandbox(pid, e);
	if (accel)
		return check_one_accel(accel, e);
	can_run = check_accels();
	check_io_uring();
	check_tap();
	check_userfaultfd();
	check_huge_pages();
	check_cgroup();
	return can_run ? EXIT_OK : EXIT_ERROR;
}
