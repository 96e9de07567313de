/* tree.c: see tree.h. */
#include "jailer/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#define OPEN_DIR (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

int oserr_set(struct err *e, const char *fmt, ...)
{
	int code = errno ? errno : EIO;
	char text[sizeof(e->msg) - 100];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return err_set(e, -code, "%s: %s (os error %d)", text, strerror(code), code);
}

/* fd -1 is allowed: a step without one. */
static int undo_push(struct undo *u, struct undo_step step, struct err *e)
{
	if (step.fd >= 0) {
		step.fd = fcntl(step.fd, F_DUPFD_CLOEXEC, 3);
		if (step.fd < 0)
			return oserr_set(e, "Failed to duplicate fd");
	}
	if (step.name)
		step.name = xstrdup(step.name);
	if (u->n == u->cap) {
		struct undo_step *more = xzalloc((u->cap + 32) * sizeof(*more));

		if (u->n)
			memcpy(more, u->steps, u->n * sizeof(*more));
		free(u->steps);
		u->steps = more;
		u->cap += 32;
	}
	u->steps[u->n++] = step;
	return 0;
}

int undo_add_remove(struct undo *u, int dirfd, const char *name, int flags, struct err *e)
{
	return undo_push(u, (struct undo_step){.kind = UNDO_REMOVE, .fd = dirfd, .flags = flags, .name = (char *)name}, e);
}

int undo_add_owner(struct undo *u, int fd, struct err *e)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return oserr_set(e, "Failed to look at a directory of the jail");
	return undo_push(
		u, (struct undo_step){.kind = UNDO_OWNER, .fd = fd, .uid = st.st_uid, .gid = st.st_gid, .mode = st.st_mode & 07777}, e);
}

int undo_add_cgroup(struct undo *u, int fd, struct err *e)
{
	return undo_push(u, (struct undo_step){.kind = UNDO_CGROUP, .fd = fd}, e);
}

void undo_add_umount(struct undo *u, const char *path)
{
	int r = undo_push(u, (struct undo_step){.kind = UNDO_UMOUNT, .fd = -1, .name = (char *)path}, NULL);

	ASSERT(r == 0); /* takes no descriptor */
}

/* A cgroup is busy until the kernel is done with the processes that have just ended in it: half a second at most. */
static void remove_one(const struct undo_step *s)
{
	for (int i = 0; i < 50; i++) {
		if (unlinkat(s->fd, s->name, s->flags) == 0 || errno != EBUSY)
			return;
		usleep(10000);
	}
}

static void undo_one(const struct undo_step *s)
{
	switch (s->kind) {
	case UNDO_REMOVE:
		remove_one(s);
		break;
	case UNDO_OWNER:
		(void)!fchown(s->fd, s->uid, s->gid);
		(void)!fchmod(s->fd, s->mode);
		break;
	case UNDO_UMOUNT:
		umount2(s->name, MNT_DETACH | UMOUNT_NOFOLLOW);
		break;
	case UNDO_CGROUP:
		(void)!write(s->fd, "0", 1);
		break;
	}
}

void undo_run(struct undo *u)
{
	for (u32 i = u->n; i--;)
		undo_one(&u->steps[i]);
	undo_fini(u);
}

void undo_fini(struct undo *u)
{
	for (u32 i = 0; i < u->n; i++) {
		fd_close(&u->steps[i].fd);
		free(u->steps[i].name);
	}
	free(u->steps);
	*u = (struct undo){0};
}

int dir_make(struct undo *u, int dirfd, const char *name, const char *path, struct err *e)
{
	int fd, r = mkdirat(dirfd, name, 0755);

	if (r < 0 && errno != EEXIST)
		return oserr_set(e, "Failed to create directory %s", path);
	if (r == 0)
		r = undo_add_remove(u, dirfd, name, AT_REMOVEDIR, e);
	else
		r = 0;
	if (r < 0)
		return r;
	fd = openat(dirfd, name, OPEN_DIR);
	/* A link there is somebody's attempt to be written for elsewhere. */
	return fd < 0 ? oserr_set(e, "Failed to create directory %s", path) : fd;
}

static int dir_make_path_once(struct undo *u, int dirfd, const char *rel, const char *path, struct err *e)
{
	auto_free char *copy = xstrdup(rel);
	int fd = openat(dirfd, ".", OPEN_DIR);
	char *at = copy, *name;

	if (fd < 0)
		return oserr_set(e, "Failed to open %s", path);
	while (fd >= 0 && (name = strsep(&at, "/"))) {
		int next;

		if (!*name)
			continue;
		next = dir_make(u, fd, name, path, e);
		close(fd);
		fd = next;
	}
	return fd;
}

int dir_make_path(struct undo *u, int dirfd, const char *rel, const char *path, struct err *e)
{
	int fd = -ENOENT;

	/* Another jailer may take an empty directory back between two steps. */
	for (int i = 0; i < 5 && fd == -ENOENT; i++)
		fd = dir_make_path_once(u, dirfd, rel, path, e);
	return fd;
}

static int file_create(struct undo *u, int dirfd, const char *name, mode_t mode, const char *path, struct err *e)
{
	int r, fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0)
		return oserr_set(e, "Failed to open %s", path);
	r = undo_add_remove(u, dirfd, name, 0, e);
	if (r == 0 && fchmod(fd, mode) < 0) /* whatever the umask is */
		r = oserr_set(e, "Failed to change permissions on %s", path);
	if (r == 0)
		return fd;
	close(fd);
	return r;
}

int file_copy(struct undo *u, int from_fd, int dirfd, const char *name, mode_t mode, const char *path, struct err *e)
{
	auto_fd int fd = file_create(u, dirfd, name, mode, path, e);
	ssize_t n = 1;

	if (fd < 0)
		return fd;
	while (n > 0)
		n = sendfile(fd, from_fd, NULL, 64 * MIB);
	return n < 0 ? oserr_set(e, "Failed to copy to %s", path) : 0;
}

int file_make(struct undo *u, int dirfd, const char *name, const char *path, struct err *e)
{
	int fd = file_create(u, dirfd, name, 0644, path, e);

	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}
