/* test_sandbox.c: each thread's filter lets through what is on its list and nothing else; Landlock; capabilities. In children: what a
 * process has given up it does not get back. */
#include "cm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/sandbox.h"
#include "vmm/vm.h"

#define MAX_NR 480

static const char *const kinds[] = {"loop", "vcpu", "api", "disk", "timer", "pager", "migrate"};

/* ---- children ---- */

/* Runs f in a child; returns its exit code, or 1000 + signal. What it writes to standard error goes to text. */
static int in_child(int (*f)(const void *), const void *arg, char *text, size_t size)
{
	int status, out[2];
	ssize_t n;
	pid_t pid;

	assert_int_equal(pipe(out), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		for (int sig = 1; sig < SIGSYS; sig++) /* cmocka's would go on with the tests */
			signal(sig, SIG_DFL);
		signal(SIGSYS, SIG_DFL);
		dup2(out[1], STDERR_FILENO);
		_exit(f(arg));
	}
	close(out[1]);
	n = read(out[0], text, size - 1);
	text[n > 0 ? n : 0] = 0;
	while (n > 0) {
		char rest[256];

		n = read(out[0], rest, sizeof(rest));
	}
	close(out[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/* A sandbox with the filter of one kind, as the VM has it that consists of nothing. */
static void make(struct sandbox *sb, struct log *log, enum sandbox_thread kind, const struct sandbox_need *more)
{
	struct sandbox_need needs[4];
	struct err e;
	u32 n;

	log_init(log, STDERR_FILENO, LOG_INFO);
	if (sandbox_init(sb, log, true, false, &e) < 0 || !sb->log)
		abort();
	n = sandbox_list(kind, false, needs);
	if (more)
		needs[n++] = *more;
	if (sandbox_compile(needs, n, &sb->filters[kind], &e) < 0)
		abort();
}

static volatile int trapped;

static void count_trap(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)context;
	trapped = info->si_syscall;
}

static void confine_and_count(enum sandbox_thread kind, const struct sandbox_need *more)
{
	struct sigaction act = {.sa_sigaction = count_trap, .sa_flags = SA_SIGINFO};
	static struct sandbox sb;
	static struct log log;

	make(&sb, &log, kind, more);
	sigaction(SIGSYS, &act, NULL);
	sandbox_enter(&sb, kind);
}

static bool traps(long nr, long a, long b, long c)
{
	trapped = -1;
	syscall(nr, a, b, c, -1, -1, -1);
	return trapped == nr;
}

/* ---- filters ---- */

static bool is_listed(enum sandbox_thread kind, int nr)
{
	struct sandbox_need needs[4];
	u32 n = sandbox_list(kind, false, needs);

	for (u32 i = 0; i < n; i++) {
		for (const char *const *name = needs[i].syscalls; name && *name; name++) {
			if (seccomp_syscall_resolve_name(*name) == nr)
				return true;
		}
	}
	return nr == SYS_ioctl;
}

/* Ends the thread, or jumps; or is uretprobe or uprobe of x86-64, which the kernel lets through every filter (Linux 6.14), and kills who
 * calls them by himself. */
static bool has_no_return(int nr)
{
#ifdef __x86_64__
	if (nr == 335 || nr == 336)
		return true;
#endif
	return nr == SYS_exit || nr == SYS_exit_group || nr == SYS_rt_sigreturn;
}

static bool has_check(int nr)
{
	return nr == SYS_mmap || nr == SYS_mprotect || nr == SYS_socket || nr == SYS_prctl || nr == SYS_fcntl || nr == SYS_tgkill ||
	       nr == SYS_kill || nr == SYS_clone || nr == SYS_ioctl || nr == SYS_clone3;
}

static int try_all(const void *arg)
{
	enum sandbox_thread kind = *(const enum sandbox_thread *)arg;
	static bool listed[MAX_NR];
	int wrong = 0;

	for (int nr = 0; nr < MAX_NR; nr++)
		listed[nr] = is_listed(kind, nr);
	confine_and_count(kind, NULL);
	for (int nr = 0; nr < MAX_NR; nr++) {
		if (has_no_return(nr) || (listed[nr] && has_check(nr)))
			continue;
		if (traps(nr, -1, -1, -1) == listed[nr]) {
			dprintf(STDERR_FILENO, "%s is %s; ", sandbox_syscall_name(nr), listed[nr] ? "refused" : "let through");
			wrong++;
		}
	}
	return wrong != 0;
}

static void each_filter_lets_through_its_list_and_traps_every_other_call(void **state)
{
	char text[1024];

	(void)state;
	for (enum sandbox_thread kind = 0; kind < SANDBOX_THREADS; kind++) {
		int code = in_child(try_all, &kind, text, sizeof(text));

		if (code)
			fail_msg("%s: exit %d: %s", kinds[kind], code, text);
	}
}

#define MUST(cond) \
	do { \
		if (!(cond)) { \
			dprintf(STDERR_FILENO, "%s", #cond); \
			return 1; \
		} \
	} while (0)

static int try_arguments(const void *arg)
{
	static const char *const names[] = {"socket", "socketpair", "fcntl", "kill", "clone", "clone3", NULL};
	const struct sandbox_need more = {names, NULL};
	enum sandbox_thread kind = *(const enum sandbox_thread *)arg;
	bool network = kind == SANDBOX_MIGRATE;
	long page = sysconf(_SC_PAGESIZE);
	void *p = mmap(NULL, (size_t)page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	confine_and_count(kind, &more);
	MUST(!traps(SYS_mmap, 0, 0, PROT_READ | PROT_WRITE) && traps(SYS_mmap, 0, page, PROT_READ | PROT_EXEC));
	MUST(!traps(SYS_mprotect, (long)p, page, PROT_READ) && traps(SYS_mprotect, (long)p, page, PROT_READ | PROT_EXEC));
	MUST(!traps(SYS_socket, AF_UNIX, -1, 0) && traps(SYS_socket, AF_INET, SOCK_STREAM, 0) == !network &&
	     traps(SYS_socket, AF_NETLINK, SOCK_RAW, 0) == !network);
	MUST(traps(SYS_socket, AF_PACKET, SOCK_RAW, 0) && traps(SYS_socket, AF_VSOCK, SOCK_STREAM, 0) &&
	     traps(SYS_socketpair, AF_INET, 1, 0));
	MUST(!traps(SYS_prctl, PR_GET_NAME, -1, 0) && traps(SYS_prctl, PR_SET_DUMPABLE, 1, 0) && traps(SYS_prctl, PR_SET_SECCOMP, 0, 0));
	MUST(!traps(SYS_tgkill, getpid(), 0x7ffffff, 0) && traps(SYS_tgkill, getppid(), getppid(), 0) && traps(SYS_tgkill, 1, 1, SIGKILL));
	MUST(!traps(SYS_fcntl, -1, F_SETFL, 0) && traps(SYS_fcntl, 0, F_SETOWN, getppid()) && traps(SYS_fcntl, 0, F_SETSIG, 9));
	MUST(!traps(SYS_kill, 0x7ffffff, SIGKILL, 0) && traps(SYS_kill, getppid(), SIGTERM, 0) && traps(SYS_kill, getppid(), 0, 0));
	MUST(traps(SYS_clone, SIGCHLD, 0, 0) && traps(SYS_clone, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0));
	MUST(!traps(SYS_clone3, 0, 0, 0) && errno == ENOSYS);
	MUST(traps(SYS_ioctl, 0, TIOCSTI, 0) && traps(SYS_ioctl, -1, FIONREAD, 0) && !traps(SYS_ioctl, -1, TCSETS, 0));
	return 0;
}

static void arguments_are_looked_at(void **state)
{
	char text[1024];

	(void)state;
	for (enum sandbox_thread kind = 0; kind < SANDBOX_THREADS; kind++) {
		int code = in_child(try_arguments, &kind, text, sizeof(text));

		if (code)
			fail_msg("%s: exit %d: %s", kinds[kind], code, text);
	}
}

struct fault {
	enum sandbox_thread kind;
	int metrics_fd;
};

static struct sandbox child_sandbox;
static struct log child_log;

static void *commit_fault(void *opaque)
{
	const struct fault *f = opaque;

	pthread_setname_np(pthread_self(), "a thread");
	sandbox_enter(&child_sandbox, f->kind);
	syscall(SYS_execve, "/bin/true", NULL, NULL);
	return NULL;
}

static int thread_faults(const void *arg)
{
	const struct fault *f = arg;
	pthread_t thread;
	sigset_t all;

	make(&child_sandbox, &child_log, f->kind, NULL);
	child_sandbox.metrics_fd = f->metrics_fd;
	sigfillset(&all); /* as husk starts its threads */
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	pthread_create(&thread, NULL, commit_fault, (void *)(uintptr_t)f);
	pthread_join(thread, NULL);
	return 0;
}

static void a_call_outside_the_list_ends_the_process_with_a_log_line_and_metrics(void **state)
{
	char text[1024], metrics[256] = "", expected[64];

	(void)state;
	snprintf(expected, sizeof(expected), "bad syscall (%d, execve) of thread \"a thread\"", (int)SYS_execve);
	for (enum sandbox_thread kind = 0; kind < SANDBOX_THREADS; kind++) {
		struct fault f = {kind, memfd_create("metrics", 0)};

		assert_int_equal(in_child(thread_faults, &f, text, sizeof(text)), SANDBOX_EXIT);
		assert_non_null(strstr(text, expected));
		assert_non_null(strstr(text, ":a thread:ERROR:") ? text : strstr(text, "a thread"));
		assert_true(pread(f.metrics_fd, metrics, sizeof(metrics) - 1, 0) > 0);
		assert_non_null(strstr(metrics, "\"seccomp\":{\"num_faults\":1}}\n"));
		close(f.metrics_fd);
	}
}

#ifdef __x86_64__ /* arm64 has none: a 64-bit program cannot enter the kernel as a 32-bit one */
static int use_32_bit_entry(const void *arg)
{
	long ret = 20; /* getpid of i386 */

	(void)arg;
	confine_and_count(SANDBOX_VCPU, NULL);
	__asm__ volatile("int $0x80" : "+a"(ret)::"memory");
	return 0;
}

static void the_32_bit_entry_to_the_kernel_kills(void **state)
{
	char text[256];

	(void)state;
	assert_int_equal(in_child(use_32_bit_entry, NULL, text, sizeof(text)), 1000 + SIGSYS);
}
#endif

static void check_names(const char *who, const char *const *names)
{
	for (; names && *names; names++) {
		char call[32];

		snprintf(call, sizeof(call), "%.*s", (int)strcspn(*names, ":"), *names);
		if (seccomp_syscall_resolve_name(call) == __NR_SCMP_ERROR)
			fail_msg("%s: \"%s\" is no system call", who, *names);
	}
}

static void every_name_that_a_part_declares_exists(void **state)
{
	struct sandbox_need needs[4];

	(void)state;
	for (u32 i = 0; device_classes[i]; i++) {
		check_names(device_classes[i]->name, device_classes[i]->syscalls);
		check_names(device_classes[i]->name, device_classes[i]->op_syscalls);
	}
	for (u32 i = 0; accel_list[i]; i++) {
		check_names(accel_list[i]->name, accel_list[i]->vcpu_needs.syscalls);
		check_names(accel_list[i]->name, accel_list[i]->loop_needs.syscalls);
	}
	for (enum sandbox_thread kind = 0; kind < SANDBOX_THREADS; kind++) {
		for (u32 n = sandbox_list(kind, true, needs); n-- > 0;)
			check_names(kinds[kind], needs[n].syscalls);
	}
}

static void no_part_may_start_programs_or_debug(void **state)
{
	static const char *const never[] = {"execve",  "execveat", "ptrace", "process_vm_writev", "bpf", "mount",
					    "unshare", "setns",	   "setuid", "init_module"};
	struct sandbox_need needs[4];

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(never); i++) {
		for (u32 d = 0; device_classes[d]; d++) {
			const char *const *lists[] = {device_classes[d]->syscalls, device_classes[d]->op_syscalls};

			for (u32 l = 0; l < ARRAY_SIZE(lists); l++) {
				for (const char *const *name = lists[l]; name && *name; name++)
					assert_string_not_equal(*name, never[i]);
			}
		}
		for (enum sandbox_thread kind = 0; kind < SANDBOX_THREADS; kind++) {
			for (u32 n = sandbox_list(kind, true, needs); n-- > 0;) {
				for (const char *const *name = needs[n].syscalls; name && *name; name++)
					assert_string_not_equal(*name, never[i]);
			}
		}
	}
}

/* ---- the rest ---- */

static int give_up_capabilities(const void *arg)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3];
	struct sandbox sb;
	struct log log;
	struct err e;

	(void)arg;
	log_init(&log, STDERR_FILENO, LOG_INFO);
	MUST(sandbox_init(&sb, &log, false, false, &e) == 0); /* no filter: it would not let this look */
	sandbox_enter(&sb, SANDBOX_DISK);
	MUST(prctl(PR_GET_SECCOMP) == 0 && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
	MUST(syscall(SYS_capget, &head, caps) == 0);
	for (u32 i = 0; i < _LINUX_CAPABILITY_U32S_3; i++)
		MUST(!caps[i].effective && !caps[i].permitted && !caps[i].inheritable);
	for (int cap = 0; geteuid() == 0 && prctl(PR_CAPBSET_READ, cap) >= 0; cap++)
		MUST(prctl(PR_CAPBSET_READ, cap) == 0);
	return 0;
}

static void no_capability_is_left_and_none_can_be_got(void **state)
{
	char text[256];

	(void)state;
	if (in_child(give_up_capabilities, NULL, text, sizeof(text)))
		fail_msg("%s", text);
}

static int lose_all_files(const void *dir)
{
	char *dirs[] = {(char *)(uintptr_t)dir};
	struct err e = {0};
	int fd = open("a", O_CREAT | O_RDWR, 0600);

	MUST(fd >= 0 && mkdir("d", 0700) == 0 && close(open("d/f", O_CREAT | O_RDWR, 0600)) == 0);
	MUST(sandbox_landlock(true, dirs, 1, &e) == 0);
	MUST(open("a", O_RDONLY) < 0 && errno == EACCES);
	MUST(open("/proc/self/status", O_RDONLY) < 0 && errno == EACCES);
	MUST(open("new", O_CREAT | O_WRONLY, 0600) < 0 && errno == EACCES);
	MUST(execl("/bin/true", "true", NULL) < 0 && errno == EACCES);
	MUST(unlink("d/f") == 0 || errno != EACCES); /* below dirs */
	MUST(unlink("/tmp/husk-no-such-file") < 0 && (errno == EACCES || errno == ENOENT));
	MUST(write(fd, "x", 1) == 1 && ftruncate(fd, 4096) == 0); /* what was open stays so */
	MUST(unlink("a") == 0);
	return 0;
}

static int keep_files_for_the_api(const void *arg)
{
	struct err e = {0};

	(void)arg;
	MUST(sandbox_landlock(false, NULL, 0, &e) == 0);
	MUST(close(open("snapshot", O_CREAT | O_RDWR | O_TRUNC, 0600)) == 0 && unlink("snapshot") == 0);
	MUST(execl("/bin/true", "true", NULL) < 0 && errno == EACCES);
	MUST(mkdir("e", 0700) < 0 && errno == EACCES);
	MUST(symlink("/etc/passwd", "s") < 0 && errno == EACCES);
	return 0;
}

static void landlock_takes_files_and_programs_away(void **state)
{
	char dir[] = "/tmp/husk-sandbox-XXXXXX", text[256];

	(void)state;
	if (sandbox_landlock_abi() == 0)
		skip();
	assert_non_null(mkdtemp(dir));
	assert_int_equal(chdir(dir), 0);
	if (in_child(keep_files_for_the_api, NULL, text, sizeof(text)))
		fail_msg("API: %s", text);
	if (in_child(lose_all_files, dir, text, sizeof(text)))
		fail_msg("strict: %s", text);
	rmdir("d");
	assert_int_equal(chdir("/"), 0);
	assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_filter_lets_through_its_list_and_traps_every_other_call),
		cmocka_unit_test(arguments_are_looked_at),
		cmocka_unit_test(a_call_outside_the_list_ends_the_process_with_a_log_line_and_metrics),
#ifdef __x86_64__
		cmocka_unit_test(the_32_bit_entry_to_the_kernel_kills),
#endif
		cmocka_unit_test(every_name_that_a_part_declares_exists),
		cmocka_unit_test(no_part_may_start_programs_or_debug),
		cmocka_unit_test(no_capability_is_left_and_none_can_be_got),
		cmocka_unit_test(landlock_takes_files_and_programs_away),
	};
	struct sandbox sb;
	struct log log;
	struct err e;

	log_init(&log, STDERR_FILENO, LOG_OFF);
	if (sandbox_init(&sb, &log, true, false, &e) < 0 || !sb.log) {
		puts("1..0 # SKIP no sandbox in a build with sanitizers, or no seccomp in this kernel");
		return 0;
	}
	sandbox_fini(&sb);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
