/*
 * tree.h: directories and files below a place that others may write to, by descriptors and without following symbolic links, and the
 * list of what was made, so that a failure can take it back.
 * ctx: the jailer's one thread.
 */
#ifndef HUSK_JAILER_TREE_H
#define HUSK_JAILER_TREE_H

#include <sys/types.h>

#include "vmm/base/err.h"

/* Like err_errno, with the number as Firecracker's texts have it: "...: No such file or directory (os error 2)". */
int oserr_set(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

enum undo_kind {
	UNDO_REMOVE, /* unlinkat(fd, name, flags) */
	UNDO_OWNER,  /* owner and mode of fd are put back */
	UNDO_UMOUNT, /* what is mounted on name, relative to the working directory */
	UNDO_CGROUP, /* "0" into fd: this process goes back to the cgroup whose cgroup.procs it is */
};

struct undo_step {
	enum undo_kind kind;
	int fd, flags; /* fd is owned, or -1 */
	char *name;    /* owned, or NULL */
	uid_t uid;
	gid_t gid;
	mode_t mode;
};

struct undo {
	struct undo_step *steps; /* owned */
	u32 n, cap;
};

/* Each copies fd and name. -errno when there is no descriptor left. */
int undo_add_remove(struct undo *u, int dirfd, const char *name, int flags, struct err *e) MUST_CHECK;
int undo_add_owner(struct undo *u, int fd, struct err *e) MUST_CHECK;
int undo_add_cgroup(struct undo *u, int fd, struct err *e) MUST_CHECK;
void undo_add_umount(struct undo *u, const char *path);
/* Takes the steps back, last first, as far as that goes. */
void undo_run(struct undo *u);
/* Forgets them; accepts zeroed. */
void undo_fini(struct undo *u);

/*
 * Opens directory `name`, one path component, in dirfd; makes it, mode 0755, when it is missing. Never follows a symbolic link.
 * Returns a descriptor or -errno; path is for the message.
 */
int dir_make(struct undo *u, int dirfd, const char *name, const char *path, struct err *e);
/* The same for each component of rel; "" opens dirfd itself again. */
int dir_make_path(struct undo *u, int dirfd, const char *rel, const char *path, struct err *e);

/* Makes `name` in dirfd with the content of the file that from_fd is open on. It must not be there. */
int file_copy(struct undo *u, int from_fd, int dirfd, const char *name, mode_t mode, const char *path, struct err *e) MUST_CHECK;
/* Makes an empty file to mount on. */
int file_make(struct undo *u, int dirfd, const char *name, const char *path, struct err *e) MUST_CHECK;

/*
 * Removes the directory `name` in dirfd with all that is in it: on this mount only, without following symbolic links, whatever their depth.
 * -ENOENT without a message when it is not there.
 */
int tree_remove(int dirfd, const char *name, struct err *e) MUST_CHECK;

#endif
