/*
 * probe.c: what tests/system/test_jailer.py jails in the place of husk: says, as JSON, what it finds there. Options after the jailer's own:
 *   --out FILE     says it there instead of on standard output, and renames FILE.part to FILE when done
 *   --sleep SECS   lives on that long
 *   --exit CODE
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

extern char **environ;

static void say_limit(FILE *out, const char *name, int resource)
{
	struct rlimit r;

	getrlimit(resource, &r);
	fprintf(out, "\"%s\": [%lld, %lld], ", name, (long long)r.rlim_cur, (long long)r.rlim_max);
}

static void say_strings(FILE *out, const char *name, char **v)
{
	fprintf(out, "\"%s\": [", name);
	for (int i = 0; v[i]; i++)
		fprintf(out, "%s\"%s\"", i ? ", " : "", v[i]);
	fputs("], ", out);
}

static void say_root(FILE *out)
{
	DIR *d = opendir("/");
	const char *comma = "";

	fputs("\"root\": [", out);
	for (struct dirent *e; d && (e = readdir(d));) {
		if (*e->d_name == '.')
			continue;
		fprintf(out, "%s\"%s\"", comma, e->d_name);
		comma = ", ";
	}
	if (d)
		closedir(d);
	fputs("], ", out);
}

static void say_caps(FILE *out)
{
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {0};

	syscall(SYS_capget, &head, data);
	fprintf(out, "\"caps\": %u, \"no_new_privs\": %d, ", data[0].effective | data[1].effective | data[0].permitted | data[1].permitted,
		prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
}

static void say_fds(FILE *out, int not_this)
{
	const char *comma = "";

	fputs("\"fds\": [", out);
	for (int fd = 0; fd < 4096; fd++) {
		if (fd == not_this || fcntl(fd, F_GETFD) < 0)
			continue;
		fprintf(out, "%s%d", comma, fd);
		comma = ", ";
	}
	fputs("], ", out);
}

static int can_open(const char *path, int flags)
{
	int fd = open(path, flags);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

int main(int argc, char **argv)
{
	const char *out_path = NULL;
	int sleep_secs = 0, code = 0;
	uid_t r, e, s;
	gid_t rg, eg, sg;
	char cwd[300] = "", part[300];
	struct stat null = {0}, in = {0};
	FILE *out;

	for (int i = 1; i + 1 < argc; i++) {
		if (!strcmp(argv[i], "--out"))
			out_path = argv[i + 1];
		if (!strcmp(argv[i], "--sleep"))
			sleep_secs = atoi(argv[i + 1]);
		if (!strcmp(argv[i], "--exit"))
			code = atoi(argv[i + 1]);
	}
	snprintf(part, sizeof(part), "%s.part", out_path ? out_path : "");
	out = out_path ? fopen(part, "w") : stdout;
	if (!out)
		return 99;
	getresuid(&r, &e, &s);
	getresgid(&rg, &eg, &sg);
	(void)!getcwd(cwd, sizeof(cwd));
	fstat(0, &in);
	fputs("{", out);
	say_strings(out, "argv", argv);
	say_strings(out, "env", environ);
	fprintf(out, "\"uids\": [%u, %u, %u], \"gids\": [%u, %u, %u], \"groups\": %d, ", r, e, s, rg, eg, sg, getgroups(0, NULL));
	say_caps(out);
	say_fds(out, out_path ? fileno(out) : -1);
	say_root(out);
	say_limit(out, "nofile", RLIMIT_NOFILE);
	say_limit(out, "fsize", RLIMIT_FSIZE);
	fprintf(out, "\"cwd\": \"%s\", \"pid\": %d, \"ppid\": %d, \"sid\": %d, \"stdin_rdev\": %d, ", cwd, getpid(), getppid(), getsid(0),
		S_ISCHR(in.st_mode) ? (int)in.st_rdev : 0);
	fprintf(out, "\"urandom\": %d, \"kvm\": %d, \"tun\": %d, \"sets_uid\": %d, \"host\": %d, \"writes_lib\": %d, ",
		can_open("/dev/urandom", O_RDONLY), can_open("/dev/kvm", O_RDWR), can_open("/dev/net/tun", O_RDWR), setuid(0) == 0 && r,
		stat("/proc/1", &null) == 0 || stat("/etc/passwd", &null) == 0, can_open("/lib/x86_64-linux-gnu/libc.so.6", O_RDWR));
	fprintf(out, "\"umask\": %d}\n", (int)umask(0));
	if (out_path) {
		fclose(out);
		rename(part, out_path);
	} else {
		fflush(out);
	}
	sleep((unsigned int)sleep_secs);
	return code;
}
