/* check_sandbox.c: `husk check --sandbox`: what confines a VM on this host; with --pid, what confines one that runs, from /proc. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <dirent.h>
#include <linux/seccomp.h>

#include "cli/check.h"
#include "vmm/sandbox.h"

#define LABEL_MAX 32

/* ---- this host ---- */

static bool check_seccomp(void)
{
	u32 action = SECCOMP_RET_TRAP;

	if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) < 0) {
		check_say(VERDICT_FAIL, "seccomp", "missing: VMs start with --no-seccomp only; a kernel with CONFIG_SECCOMP_FILTER has it");
		return false;
	}
	check_say(VERDICT_OK, "seccomp", "each thread of a VM gets a filter of its own; a call outside it ends husk with exit code %d",
		  SANDBOX_EXIT);
	return true;
}

static void check_landlock(void)
{
	int abi = sandbox_landlock_abi();

	if (abi == 0)
		check_say(VERDICT_WARN, "landlock",
			  "missing: files are out of reach by seccomp alone, and by permissions under the API; boot with lsm=landlock,... "
			  "(Linux 5.13), or use husk-jailer");
	else
		check_say(VERDICT_OK, "landlock", "version %d: no program, and without the API no file, is opened once the guest runs%s%s",
			  abi, abi >= 4 ? "; no TCP" : "", abi >= 6 ? "; no abstract sockets" : "");
}

static bool check_host(void)
{
	bool ok = check_seccomp();

	check_landlock();
	check_say(VERDICT_OK, "capabilities", "%s",
		  geteuid() == 0 ? "all are dropped, the bounding set too, once the guest runs"
				 : "this user has none; no_new_privs keeps it so");
	check_say(VERDICT_OK, "ptrace", "a VM's process is not dumpable: others of this user cannot read its memory");
	return ok;
}

/* ---- a process ---- */

/* What one thread's status file says. */
struct thread_status {
	char name[LABEL_MAX];
	int seccomp, filters, no_new_privs;
	u64 permitted, effective, bounding;
};

static void take_line(struct thread_status *s, const char *line)
{
	sscanf(line, "Name:\t%31[^\n]", s->name);
	sscanf(line, "Seccomp:\t%d", &s->seccomp);
	sscanf(line, "Seccomp_filters:\t%d", &s->filters);
	sscanf(line, "NoNewPrivs:\t%d", &s->no_new_privs);
	sscanf(line, "CapPrm:\t%lx", &s->permitted);
	sscanf(line, "CapEff:\t%lx", &s->effective);
	sscanf(line, "CapBnd:\t%lx", &s->bounding);
}

static bool read_thread(const char *pid, const char *tid, struct thread_status *s)
{
	auto_free char *path = xasprintf("/proc/%s/task/%s/status", pid, tid);
	FILE *f = fopen(path, "re");
	char line[256];

	*s = (struct thread_status){.seccomp = -1, .no_new_privs = -1};
	if (!f)
		return false;
	while (fgets(line, sizeof(line), f))
		take_line(s, line);
	fclose(f);
	return *s->name;
}

static const char *seccomp_words(int mode)
{
	return mode == 2 ? "filtered system calls" : mode == 0 ? "NO seccomp filter" : "unknown seccomp mode";
}

static bool say_thread(const char *tid, const struct thread_status *s)
{
	bool confined = s->seccomp == 2 && s->no_new_privs == 1 && !s->permitted && !s->effective;

	check_say(confined ? VERDICT_OK : VERDICT_FAIL, s->name, "thread %s: %s, %s, %s%s", tid, seccomp_words(s->seccomp),
		  s->permitted || s->effective ? "CAPABILITIES" : "no capabilities",
		  s->no_new_privs == 1 ? "no new privileges" : "may gain PRIVILEGES", s->bounding ? "" : ", bounding set empty");
	return confined;
}

static int check_process(const char *pid, struct err *e)
{
	auto_free char *path = xasprintf("/proc/%s/task", pid);
	DIR *dir = strspn(pid, "0123456789") == strlen(pid) && *pid ? opendir(path) : NULL;
	const struct dirent *entry;
	bool ok = true;
	u32 seen = 0;

	if (!dir) {
		err_set(e, -ESRCH, "there is no process \"%s\"", pid);
		return EXIT_ERROR;
	}
	while ((entry = readdir(dir))) {
		struct thread_status s;

		if (entry->d_name[0] == '.' || !read_thread(pid, entry->d_name, &s))
			continue;
		ok &= say_thread(entry->d_name, &s);
		seen++;
	}
	closedir(dir);
	return ok && seen ? EXIT_OK : EXIT_ERROR;
}

int check_sandbox(const char *pid, struct err *e)
{
	if (pid)
		return check_process(pid, e);
	return check_host() ? EXIT_OK : EXIT_ERROR;
}
