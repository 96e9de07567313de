/*
 * enter.c: how the jail becomes the process's world: namespaces, folders, device nodes, libraries, the new root.
 *
 * The new mount is built in full before the process changes to it; everything is reached by descriptors, so no link in the tree leads
 * anywhere. Libraries (and devices, where nodes cannot be made) are mounted on empty files: those mounts live in this namespace only and
 * end with the program.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "jailer/jail.h"

/* Made for the program, and its own. */
enum folder { FOLDER_ROOT, FOLDER_DEV, FOLDER_DEV_NET, FOLDER_RUN, N_FOLDERS };
static const char *const folders[N_FOLDERS] = {"", "dev", "dev/net", "run"};

struct device {
	enum folder folder;
	const char *path; /* its last component too is the host's */
	unsigned int major, minor;
	bool optional; /* a node that cannot be made is worth a warning only */
};

/* Linux: Documentation/admin-guide/devices.txt */
static const struct device devices[] = {
	{FOLDER_DEV_NET, "dev/net/tun", 10, 200, false},
	{FOLDER_DEV, "dev/kvm", 10, 232, false},
	{FOLDER_DEV, "dev/urandom", 1, 9, true},
};
#define UFFD_MAJOR 10

static int write_proc(const char *path, const char *text, struct err *e)
{
	auto_fd int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		return oserr_set(e, "Failed to write to %s", path);
	return 0;
}

/* One user and one group exist in there: the caller's, under the ids that --uid and --gid say. */
static int enter_user_ns(struct jail *j, struct err *e)
{
	auto_free char *uid_map = xasprintf("%u %u 1\n", j->uid, j->outer_uid), *gid_map = xasprintf("%u %u 1\n", j->gid, j->outer_gid);
	int r;

	if (unshare(CLONE_NEWUSER) < 0)
		return oserr_set(e, "Failed to unshare into new user namespace (see sysctl kernel.unprivileged_userns_clone, "
				    "kernel.apparmor_restrict_unprivileged_userns, user.max_user_namespaces)");
	r = write_proc("/proc/self/setgroups", "deny", e);
	if (r == 0)
		r = write_proc("/proc/self/gid_map", gid_map, e);
	return r < 0 ? r : write_proc("/proc/self/uid_map", uid_map, e);
}

/* A mount namespace of our own; the working directory is the jail, as a mount of its own in it. */
static int enter_mount_ns(struct jail *j, struct err *e)
{
	auto_fd int tree = -1;

	/* The working directory moves along into the new namespace; a descriptor would stay behind in the old one. */
	if (fchdir(j->root_fd) < 0)
		return oserr_set(e, "Failed to change current directory");
	if (unshare(CLONE_NEWNS) < 0)
		return oserr_set(e, "Failed to unshare into new mount namespace");
	if (mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0)
		return oserr_set(e, "Failed to change the propagation type to slave");
	tree = open_tree(AT_FDCWD, ".", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	if (tree < 0 || move_mount(tree, "", AT_FDCWD, ".", MOVE_MOUNT_F_EMPTY_PATH) < 0 || fchdir(tree) < 0)
		return oserr_set(e, "Failed to bind mount the jail root directory");
	undo_add_umount(&j->undo, ".");
	return 0;
}

/* Mounts a host's file on a file of the jail, which is made for that. dir: its folder in the jail, name: its last component. */
static int mount_file(struct jail *j, const char *from, int dir, const char *name, const char *to, u64 attributes, struct err *e)
{
	auto_fd int tree = open_tree(AT_FDCWD, from, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	struct mount_attr attr = {.attr_set = attributes};
	int r;

	if (tree < 0)
		return oserr_set(e, "Failed to open %s", from);
	if (attributes && mount_setattr(tree, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0)
		return oserr_set(e, "Failed to bind mount %s read-only (that takes Linux 5.12, or a program that is linked static)", from);
	r = file_make(&j->undo, dir, name, to, e);
	if (r < 0)
		return r;
	if (move_mount(tree, "", dir, name, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return oserr_set(e, "Failed to bind mount %s", from);
	undo_add_umount(&j->undo, to);
	return 0;
}

/* A library that somebody has put into the jail before is taken as it is. */
static bool lib_is_there(const char *path)
{
	struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT};
	auto_fd int fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));

	return fd >= 0;
}

static int mount_lib(struct jail *j, const char *path, struct err *e)
{
	auto_free char *folder = xstrdup(path + 1);
	char *name = strrchr(folder, '/');
	auto_fd int dir = -1;

	if (!name || lib_is_there(path))
		return 0;
	*name++ = 0;
	dir = dir_make_path(&j->undo, AT_FDCWD, folder, path, e);
	return dir < 0 ? dir : mount_file(j, path, dir, name, path + 1, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, e);
}

/* A device for which no node can be made: no root here, or a file system without devices. What the host has not, the jail has not. */
static int bind_device(struct jail *j, int dir, const struct device *d, struct err *e)
{
	auto_free char *from = xasprintf("/%s", d->path);

	if (access(from, F_OK) < 0)
		return 0;
	return mount_file(j, from, dir, strrchr(d->path, '/') + 1, d->path, 0, e);
}

static int make_node(struct jail *j, int dir, const struct device *d, struct err *e)
{
	const char *name = strrchr(d->path, '/') + 1;
	int r;

	if (mknodat(dir, name, S_IFCHR | 0600, makedev(d->major, d->minor)) < 0)
		return oserr_set(e, "Failed to create /%s via mknod inside the jail", d->path);
	r = undo_add_remove(&j->undo, dir, name, 0, e);
	if (r == 0 && fchownat(dir, name, j->uid, j->gid, AT_SYMLINK_NOFOLLOW) < 0)
		r = oserr_set(e, "Failed to change owner for /%s", d->path);
	return r;
}

static int make_device(struct jail *j, int dir, const struct device *d, struct err *e)
{
	struct statvfs fs;
	bool nodes = !j->opt->unprivileged && fstatvfs(dir, &fs) == 0 && !(fs.f_flag & ST_NODEV);
	int r = nodes ? make_node(j, dir, d, e) : -EPERM;

	if (r == -EPERM) /* root in a container may make no node either */
		r = bind_device(j, dir, d, e);
	if (r < 0 && d->optional) {
		fprintf(stderr, "Warning! Could not create /%s device inside jailer: %s.\n", d->path, e->msg);
		*e = (struct err){0};
		r = 0;
	}
	return r;
}

/* The minor number that this host's kernel gave /dev/userfaultfd; -1 when it has none. */
static int uffd_minor(void)
{
	FILE *f = fopen("/proc/misc", "re");
	int number, minor = -1;
	char name[64];

	while (f && minor < 0 && fscanf(f, "%d %63s", &number, name) == 2) {
		if (!strcmp(name, "userfaultfd"))
			minor = number;
	}
	if (f)
		fclose(f);
	return minor;
}

static int make_devices(struct jail *j, const int *dirs, struct err *e)
{
	int r = 0, minor = uffd_minor();
	struct device uffd = {FOLDER_DEV, "dev/userfaultfd", UFFD_MAJOR, (unsigned int)minor, false};

	for (u32 i = 0; r == 0 && i < ARRAY_SIZE(devices); i++)
		r = make_device(j, dirs[devices[i].folder], &devices[i], e);
	return r < 0 || minor < 0 ? r : make_device(j, dirs[uffd.folder], &uffd, e);
}

/* Opens, or makes, a folder of the program's, and keeps others out of it until all is there. */
static int open_folder(struct jail *j, const char *name, struct err *e)
{
	auto_free char *path = xasprintf("/%s", name);
	auto_fd int fd = dir_make_path(&j->undo, AT_FDCWD, name, path, e);
	int r = fd < 0 ? fd : undo_add_owner(&j->undo, fd, e);

	if (r < 0)
		return r;
	if (fchown(fd, geteuid(), getegid()) < 0)
		return oserr_set(e, "Failed to change owner for %s", path);
	if (fchmod(fd, 0700) < 0)
		return oserr_set(e, "Failed to change permissions on %s", path);
	return fd_take(&fd);
}

static int fill(struct jail *j, int *dirs, struct err *e)
{
	int r = 0;

	for (u32 i = 0; i < N_FOLDERS; i++) {
		dirs[i] = open_folder(j, folders[i], e);
		if (dirs[i] < 0)
			return dirs[i];
	}
	for (u32 i = 0; r == 0 && i < j->libs.n; i++)
		r = mount_lib(j, j->libs.paths[i], e);
	if (r == 0)
		r = make_devices(j, dirs, e);
	/* From here on the tree is the program's: nothing is made by name any more. */
	for (u32 i = N_FOLDERS; r == 0 && i--;) {
		if (fchown(dirs[i], j->uid, j->gid) < 0)
			r = oserr_set(e, "Failed to change owner for /%s", folders[i]);
	}
	return r;
}

/* The host's tree goes out of sight: nothing of it is left below the new root. */
static int change_root(struct err *e)
{
	/* The old root comes to lie on the new one and is taken off it: no folder is needed for it (pivot_root(2)). */
	if (syscall(SYS_pivot_root, ".", ".") < 0)
		return oserr_set(e, "Failed to pivot root");
	if (umount2(".", MNT_DETACH) < 0)
		return oserr_set(e, "Failed to unmount the old jail root");
	return chdir("/") < 0 ? oserr_set(e, "Failed to chdir into chroot directory") : 0;
}

int jail_enter(struct jail *j, struct err *e)
{
	int dirs[N_FOLDERS] = {-1, -1, -1, -1}, r = 0;

	if (j->opt->unprivileged)
		r = enter_user_ns(j, e);
	if (r == 0)
		r = enter_mount_ns(j, e);
	if (r == 0)
		r = fill(j, dirs, e);
	for (u32 i = 0; i < N_FOLDERS; i++)
		fd_close(&dirs[i]);
	return r < 0 ? r : change_root(e);
}
