/* jail.c: the tree on disk: see jail.h. */
#include "jailer/jail.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "jailer/cgroup.h"

static int init_exec(struct jail *j, struct err *e)
{
	const char *path = j->opt->exec_file;
	struct stat st;

	j->exec_path = realpath(path, NULL);
	if (!j->exec_path && j->opt->remove) /* the jail may outlive its program: the name is what counts */
		j->exec_path = xstrdup(path);
	if (!j->exec_path)
		return oserr_set(e, "Failed to canonicalize path %s", path);
	j->exec_name = xstrdup(strrchr(j->exec_path, '/') ? strrchr(j->exec_path, '/') + 1 : j->exec_path);
	if (!*j->exec_name || !strcmp(j->exec_name, "..") || strlen(j->exec_name) > NAME_MAX - strlen(".pid"))
		return err_set(e, -EINVAL, "Failed to extract filename from path %s", path);
	if (j->opt->remove)
		return 0;
	if (stat(j->exec_path, &st) < 0 || !S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "%s is not a file", j->exec_path);
	j->exec_fd = open(j->exec_path, O_RDONLY | O_CLOEXEC);
	return j->exec_fd < 0 ? oserr_set(e, "Failed to open %s", j->exec_path) : 0;
}

static int init_base(struct jail *j, struct err *e)
{
	const char *base = j->opt->base ? j->opt->base : JAIL_BASE;
	struct err cause;
	struct stat st;

	if (!j->opt->base && !j->opt->remove && !j->opt->unprivileged)
		(void)!mkdir(JAIL_BASE, 0755);
	j->base = realpath(base, NULL);
	if (!j->base) {
		oserr_set(&cause, "Failed to canonicalize path %s", base);
		return err_set(e, cause.code, "%s%s", cause.msg, j->opt->base ? "" : "; name a folder of yours with --chroot-base-dir");
	}
	if (stat(j->base, &st) < 0 || !S_ISDIR(st.st_mode))
		return err_set(e, -ENOTDIR, "%s is not a directory", j->base);
	j->root_path = xasprintf("%s/%s/%s/root", strcmp(j->base, "/") ? j->base : "", j->exec_name, j->opt->id);
	return 0;
}

int jail_init(struct jail *j, const struct jail_options *o, struct err *e)
{
	int r;

	*j = (struct jail){
		.opt = o,
		.uid = o->have_uid ? o->uid : geteuid(),
		.gid = o->have_gid ? o->gid : getegid(),
		.exec_fd = -1,
		.programs_fd = -1,
		.root_fd = -1,
	};
	j->outer_uid = o->unprivileged ? geteuid() : j->uid;
	j->outer_gid = o->unprivileged ? getegid() : j->gid;
	r = init_exec(j, e);
	return r < 0 ? r : init_base(j, e);
}

void jail_fini(struct jail *j)
{
	fd_close(&j->exec_fd);
	fd_close(&j->programs_fd);
	fd_close(&j->root_fd);
	libs_fini(&j->libs);
	undo_fini(&j->undo);
	free(j->exec_path);
	free(j->exec_name);
	free(j->base);
	free(j->root_path);
}

pid_t jail_process(int root_fd)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	struct stat jail, st;
	pid_t found = 0;

	if (!proc)
		return 0;
	while (!found && fstat(root_fd, &jail) == 0 && (entry = readdir(proc))) {
		char path[300];

		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		snprintf(path, sizeof(path), "/proc/%s/root", entry->d_name);
		if (stat(path, &st) == 0 && st.st_dev == jail.st_dev && st.st_ino == jail.st_ino)
			found = atoi(entry->d_name);
	}
	closedir(proc);
	return found;
}

static bool is_there(int dirfd, const char *name)
{
	return faccessat(dirfd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/*
 * A jail is used once. Its folder may be there beforehand, with kernels and disks in it; what the jailer makes, may not: another program
 * lives there, or lived and nobody has cleaned up.
 */
static int check_unused(struct jail *j, struct err *e)
{
	auto_free char *pid_file = xasprintf("%s.pid", j->exec_name);
	auto_fd int dev = openat(j->root_fd, "dev", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	pid_t pid = jail_process(j->root_fd);

	if (pid)
		return err_set(e, -EEXIST,
			       "Failed to create /dev/net/tun via mknod inside the jail: process %d runs in %s; take another --id", pid,
			       j->root_path);
	if (is_there(j->root_fd, pid_file) || (dev >= 0 && (is_there(dev, "kvm") || is_there(dev, "net/tun"))))
		return err_set(e, -EEXIST,
			       "Failed to create /dev/net/tun via mknod inside the jail: File exists (os error 17); an earlier run has "
			       "left %s: take another "
			       "--id, or remove it with --remove",
			       j->root_path);
	return 0;
}

/* Until the jail is handed over nobody else may rename or link in its folders. */
static int possess(struct jail *j, int fd, const char *path, struct err *e)
{
	int r = undo_add_owner(&j->undo, fd, e);

	if (r < 0)
		return r;
	if (fchown(fd, geteuid(), getegid()) < 0)
		return oserr_set(e, "Failed to change owner for %s", path);
	return fchmod(fd, 0700) < 0 ? oserr_set(e, "Failed to change permissions on %s", path) : 0;
}

static int open_root(struct jail *j, struct err *e)
{
	auto_free char *rel = xasprintf("%s/root", j->opt->id);
	auto_fd int base = open(j->base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (base < 0)
		return oserr_set(e, "Failed to open %s", j->base);
	/* Two steps, so that an id's folder is made in the one folder that jail_remove would remove it from. */
	j->programs_fd = dir_make_path(&j->undo, base, j->exec_name, j->root_path, e);
	if (j->programs_fd < 0)
		return j->programs_fd;
	j->root_fd = dir_make_path(&j->undo, j->programs_fd, rel, j->root_path, e);
	return j->root_fd < 0 ? j->root_fd : 0;
}

/* Replaces a file of that name, but no link: neither a symbolic one nor one of several names of a file elsewhere. */
static int copy_exec(struct jail *j, struct err *e)
{
	auto_free char *path = xasprintf("%s/%s", j->root_path, j->exec_name);
	struct stat st;
	int r;

	if (fstatat(j->root_fd, j->exec_name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		if (S_ISREG(st.st_mode) && st.st_nlink > 1)
			return err_set(e, -EMLINK, "Detected hard link at: %s", path);
		if (S_ISREG(st.st_mode))
			unlinkat(j->root_fd, j->exec_name, 0);
	}
	if (fstat(j->exec_fd, &st) < 0)
		return oserr_set(e, "Cannot get metadata for a file: %s", j->exec_path);
	r = file_copy(&j->undo, j->exec_fd, j->root_fd, j->exec_name, st.st_mode & 0777, path, e);
	if (r == 0 && fchownat(j->root_fd, j->exec_name, j->outer_uid, j->outer_gid, AT_SYMLINK_NOFOLLOW) < 0)
		r = oserr_set(e, "Failed to change owner for %s", path);
	return r;
}

/* What would make exec fail only when there is no way back any more. */
static int check_exec(struct jail *j, struct err *e)
{
	struct statvfs fs;
	struct stat st;

	if (fstatvfs(j->root_fd, &fs) == 0 && fs.f_flag & ST_NOEXEC)
		return err_set(e, -EACCES, "Failed to exec into Firecracker: %s is on a file system that is mounted noexec", j->base);
	if (fstat(j->exec_fd, &st) == 0 && !(st.st_mode & S_IXUSR))
		return err_set(e, -EACCES, "Failed to exec into Firecracker: %s is not executable", j->exec_path);
	return libs_find(&j->libs, j->exec_fd, j->exec_path, !j->opt->unprivileged, j->uid, j->gid, e);
}

int jail_build(struct jail *j, struct err *e)
{
	int r = open_root(j, e);

	if (r == 0)
		r = check_unused(j, e);
	if (r == 0)
		r = check_exec(j, e);
	if (r == 0)
		r = possess(j, j->root_fd, j->root_path, e);
	return r < 0 ? r : copy_exec(j, e);
}

static int remove_tree(struct jail *j, struct err *e)
{
	auto_free char *dir = xasprintf("%s/%s", j->base, j->exec_name);
	auto_fd int programs = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), root = -1;
	auto_free char *rel = xasprintf("%s/root", j->opt->id);
	pid_t pid;

	if (programs < 0)
		return -ENOENT;
	root = openat(programs, rel, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	pid = root >= 0 ? jail_process(root) : 0;
	if (pid)
		return err_set(e, -EBUSY, "Failed to remove %s: process %d runs in it", j->root_path, pid);
	return tree_remove(programs, j->opt->id, e);
}

int jail_remove(struct jail *j, struct err *e)
{
	const char *parent = j->opt->parent_cgroup ? j->opt->parent_cgroup : j->exec_name;
	int r = remove_tree(j, e);
	struct err cgroup_err = {0};

	if (r == -EBUSY)
		return r;
	if (cgroups_remove(parent, j->opt->id, &cgroup_host_proc, &cgroup_err) < 0 && (r == 0 || r == -ENOENT)) {
		*e = cgroup_err;
		return e->code;
	}
	return r == -ENOENT ? err_set(e, -ENOENT, "There is no jail %s", j->root_path) : r;
}
