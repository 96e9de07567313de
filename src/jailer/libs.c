/* libs.c: see libs.h. */
#include "jailer/libs.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "jailer/tree.h"

#define INTERP_MAX   256
#define PHDRS_MAX    64
#define LIST_BYTES   (64 * KIB)
#define LIST_SECONDS 10
#define LOADER_CACHE "/etc/ld.so.cache"

void libs_fini(struct libs *l)
{
	for (u32 i = 0; i < l->n; i++)
		free(l->paths[i]);
	*l = (struct libs){0};
}

static int not_elf(const char *path, struct err *e)
{
	return err_set(e, -ENOEXEC, "Failed to exec into Firecracker: %s is no 64-bit ELF program that the jailer understands", path);
}

int libs_read_interp(int fd, const char *path, char *interp, struct err *e)
{
	Elf64_Ehdr eh;
	Elf64_Phdr ph[PHDRS_MAX];
	size_t size;

	*interp = 0;
	if (pread(fd, &eh, sizeof(eh), 0) != sizeof(eh) || memcmp(eh.e_ident, ELFMAG, SELFMAG) != 0 || eh.e_ident[EI_CLASS] != ELFCLASS64 ||
	    eh.e_ident[EI_DATA] != ELFDATA2LSB || (eh.e_type != ET_EXEC && eh.e_type != ET_DYN))
		return not_elf(path, e);
	size = eh.e_phnum * sizeof(ph[0]);
	if (eh.e_phentsize != sizeof(ph[0]) || !size || size > sizeof(ph) || pread(fd, ph, size, (off_t)eh.e_phoff) != (ssize_t)size)
		return not_elf(path, e);
	for (u32 i = 0; i < eh.e_phnum; i++) {
		if (ph[i].p_type != PT_INTERP)
			continue;
		if (ph[i].p_filesz < 2 || ph[i].p_filesz > INTERP_MAX ||
		    pread(fd, interp, ph[i].p_filesz, (off_t)ph[i].p_offset) != (ssize_t)ph[i].p_filesz || interp[ph[i].p_filesz - 1] ||
		    *interp != '/' || strstr(interp, "/../"))
			return not_elf(path, e);
		break;
	}
	return 0;
}

static int add_path(struct libs *l, const char *path, const char *exec_path, struct err *e)
{
	for (u32 i = 0; i < l->n; i++) {
		if (!strcmp(l->paths[i], path))
			return 0;
	}
	if (l->n == LIBS_MAX)
		return err_set(e, -E2BIG, "Failed to find the libraries of %s: more than %d; build it static", exec_path, LIBS_MAX);
	l->paths[l->n++] = xstrdup(path);
	return 0;
}

/* "libc.so.6 => /lib/libc.so.6 (0x7f..)", "/lib64/ld-linux.so.2 (0x7f..)", "linux-vdso.so.1 (0x7f..)", "libx.so => not found" */
static int parse_line(struct libs *l, char *line, const char *exec_path, struct err *e)
{
	char *arrow, *path, *end;

	line += strspn(line, " \t");
	arrow = strstr(line, " => ");
	path = arrow ? arrow + 4 : line;
	if (arrow && !strncmp(path, "not found", 9))
		return err_set(e, -ENOENT, "Failed to find the libraries of %s: %.*s is not on this host", exec_path, (int)(arrow - line),
			       line);
	if (*path != '/')
		return 0; /* the vdso */
	end = strstr(path, " (0x");
	if (!end || strstr(path, "/../"))
		return err_set(e, -EINVAL, "Failed to find the libraries of %s: its loader says \"%s\"", exec_path, line);
	*end = 0;
	return add_path(l, path, exec_path, e);
}

int libs_parse_list(struct libs *l, char *text, const char *path, struct err *e)
{
	int r = 0;

	for (char *line; r == 0 && (line = strsep(&text, "\n"));) {
		if (*line)
			r = parse_line(l, line, path, e);
	}
	return r;
}

/* In the child: becomes the loader, with the list on standard output. Returns only when that fails. */
static void exec_loader(const char *interp, int exec_fd, int out, bool drop, uid_t uid, gid_t gid)
{
	char self[40], *argv[] = {(char *)interp, "--list", self, NULL}, *env[] = {NULL};
	struct rlimit time = {LIST_SECONDS, LIST_SECONDS};

	if (drop && (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0))
		return;
	/* The folders above the file may be closed to that user; the descriptor is not. */
	snprintf(self, sizeof(self), "/proc/self/fd/%d", exec_fd);
	if (fcntl(exec_fd, F_SETFD, 0) < 0 || dup2(out, STDOUT_FILENO) < 0 || dup2(out, STDERR_FILENO) < 0)
		return;
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	setrlimit(RLIMIT_CPU, &time);
	alarm(LIST_SECONDS);
	execve(interp, argv, env);
}

static ssize_t read_list(int fd, char *text)
{
	size_t used = 0;
	ssize_t n;

	while (used < LIST_BYTES - 1 && (n = read(fd, text + used, LIST_BYTES - 1 - used)) != 0) {
		if (n < 0 && errno != EINTR)
			return -errno;
		used += n > 0 ? (size_t)n : 0;
	}
	text[used] = 0;
	return (ssize_t)used;
}

static int loader_failed(const char *interp, const char *path, char *text, struct err *e)
{
	text[strcspn(text, "\n")] = 0;
	return err_set(e, -ENOENT, "Failed to find the libraries of %s: its loader %s says: %s", path, interp, *text ? text : "nothing");
}

static int ask_loader(struct libs *l, const char *interp, int exec_fd, const char *path, bool drop, uid_t uid, gid_t gid, struct err *e)
{
	auto_free char *text = xzalloc(LIST_BYTES);
	int pipe_fd[2], status = 0;
	ssize_t n;
	pid_t pid;

	if (pipe2(pipe_fd, O_CLOEXEC) < 0)
		return oserr_set(e, "Failed to make a pipe");
	pid = fork();
	if (pid == 0) {
		exec_loader(interp, exec_fd, pipe_fd[1], drop, uid, gid);
		dprintf(pipe_fd[1], "%s\n", strerror(errno));
		raise(SIGKILL); /* the copy ends here, without the original's exit handlers */
	}
	close(pipe_fd[1]);
	n = pid < 0 ? -errno : read_list(pipe_fd[0], text);
	close(pipe_fd[0]);
	if (pid < 0) {
		errno = (int)-n;
		return oserr_set(e, "Failed cloning into a new child process");
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (n < 0 || status != 0)
		return loader_failed(interp, path, text, e);
	return libs_parse_list(l, text, path, e);
}

int libs_find(struct libs *l, int fd, const char *path, bool drop, uid_t uid, gid_t gid, struct err *e)
{
	char interp[INTERP_MAX];
	int r;

	*l = (struct libs){0};
	r = libs_read_interp(fd, path, interp, e);
	if (r < 0 || !*interp)
		return r;
	r = add_path(l, interp, path, e);
	if (r == 0)
		r = ask_loader(l, interp, fd, path, drop, uid, gid, e);
	if (r == 0 && access(LOADER_CACHE, R_OK) == 0) /* libraries in folders that only ld.so.conf names */
		r = add_path(l, LOADER_CACHE, path, e);
	if (r < 0)
		libs_fini(l);
	return r;
}
