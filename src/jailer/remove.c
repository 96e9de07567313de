/* remove.c: removes a tree that hostile hands may have made: links, any depth, mount points. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "jailer/tree.h"

/* Opens a directory on the same mount; -errno. What a user has made unreadable for himself is made readable. */
static int open_inner(int dirfd, const char *name)
{
	struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, .resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS};
	int fd = (int)syscall(SYS_openat2, dirfd, name, &how, sizeof(how));

	if (fd < 0 && errno == EACCES && fchmodat(dirfd, name, 0700, 0) == 0)
		fd = (int)syscall(SYS_openat2, dirfd, name, &how, sizeof(how));
	return fd < 0 ? -errno : fd;
}

struct removal {
	int top;
	const char *name; /* of the directory that goes away */
	u64 moved;	  /* directories that were brought up to it so far */
};

static int remove_error(const struct removal *rm, const char *entry, struct err *e)
{
	if (errno == EXDEV || errno == EBUSY)
		return err_set(e, -errno, "Failed to remove %s: something is mounted on \"%s\" in it; unmount that first", rm->name, entry);
	return oserr_set(e, "Failed to remove \"%s\" in %s", entry, rm->name);
}

/*
 * A directory in a directory is moved up to the top instead of gone down into, under a new name: so neither stack nor descriptors depend
 * on the depth.
 */
static int move_up(struct removal *rm, int dirfd, const char *name, struct err *e)
{
	char to[48];
	int r, fd = open_inner(dirfd, name); /* not over a mount point; and makes it ours to move */

	if (fd < 0) {
		errno = -fd;
		return remove_error(rm, name, e);
	}
	close(fd);
	do {
		snprintf(to, sizeof(to), ".husk-removed-%llu", (unsigned long long)rm->moved++);
		r = renameat2(dirfd, name, rm->top, to, RENAME_NOREPLACE);
	} while (r < 0 && errno == EEXIST);
	return r < 0 ? remove_error(rm, name, e) : 0;
}

/* Unlinks what is in dirfd and is no directory. Directories: moved up, or, at the top, left and counted. */
static int empty_dir(struct removal *rm, int dirfd, u32 *dirs, struct err *e)
{
	DIR *d = fdopendir(dup(dirfd));
	struct dirent *entry;
	int r = 0;

	if (!d)
		return oserr_set(e, "Failed to read %s", rm->name);
	rewinddir(d);
	while (r == 0 && (entry = readdir(d))) {
		const char *name = entry->d_name;

		if (!strcmp(name, ".") || !strcmp(name, ".."))
			continue;
		if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
			continue;
		if (errno != EISDIR)
			r = remove_error(rm, name, e);
		else if (dirs)
			++*dirs;
		else
			r = move_up(rm, dirfd, name, e);
	}
	closedir(d);
	return r;
}

/* Empties and removes each directory that the top has now; those that come up meanwhile are for the next round. */
static int remove_dirs(struct removal *rm, struct err *e)
{
	DIR *d = fdopendir(dup(rm->top));
	struct dirent *entry;
	int r = 0;

	if (!d)
		return oserr_set(e, "Failed to read %s", rm->name);
	rewinddir(d);
	while (r == 0 && (entry = readdir(d))) {
		const char *name = entry->d_name;
		auto_fd int fd = -1;

		if (!strcmp(name, ".") || !strcmp(name, ".."))
			continue;
		fd = open_inner(rm->top, name);
		if (fd == -ENOENT)
			continue;
		if (fd < 0) {
			errno = -fd;
			r = remove_error(rm, name, e);
			break;
		}
		r = empty_dir(rm, fd, NULL, e);
		if (r == 0 && unlinkat(rm->top, name, AT_REMOVEDIR) < 0)
			r = remove_error(rm, name, e);
	}
	closedir(d);
	return r;
}

int tree_remove(int dirfd, const char *name, struct err *e)
{
	struct removal rm = {.top = open_inner(dirfd, name), .name = name};
	u32 dirs = 1;
	int r = 0;

	if (rm.top == -ENOENT)
		return -ENOENT;
	if (rm.top < 0) {
		errno = -rm.top;
		return oserr_set(e, "Failed to remove %s", name);
	}
	while (r == 0 && dirs) {
		dirs = 0;
		r = empty_dir(&rm, rm.top, &dirs, e);
		if (r == 0 && dirs)
			r = remove_dirs(&rm, e);
	}
	close(rm.top);
	if (r == 0 && unlinkat(dirfd, name, AT_REMOVEDIR) < 0)
		r = oserr_set(e, "Failed to remove %s", name);
	return r;
}
