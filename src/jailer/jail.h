/*
 * jail.h: the jail itself: its tree on disk, and the mount namespace whose root it becomes.
 * ctx: the jailer's one thread.
 */
#ifndef HUSK_JAILER_JAIL_H
#define HUSK_JAILER_JAIL_H

#include "jailer/libs.h"
#include "jailer/options.h"
#include "jailer/tree.h"

struct jail {
	const struct jail_options *opt; /* borrowed */
	uid_t uid, outer_uid;		/* of the program, inside; as the host's files have it: the same but in a user namespace */
	gid_t gid, outer_gid;
	char *exec_path, *exec_name; /* owned: canonical, its last component */
	char *base, *root_path;	     /* owned: canonical, and <base>/<exec name>/<id>/root */
	int exec_fd;		     /* the program outside; -1 when closed */
	int programs_fd;	     /* <base>/<exec name>; -1 */
	int root_fd;		     /* root of the jail; -1 */
	struct libs libs;
	struct undo undo;
};

/* Looks at program and base folder; makes nothing. jail_fini is needed whatever it returns. */
int jail_init(struct jail *j, const struct jail_options *o, struct err *e) MUST_CHECK;
/* Closes; what was made stays. */
void jail_fini(struct jail *j);

/* Makes <base>/<exec name>/<id>/root and takes it into possession; copies the program in. -EEXIST when another run is or was in it. */
int jail_build(struct jail *j, struct err *e) MUST_CHECK;
/* Leaves the host's mounts: folders, device nodes and libraries of the jail, new root. In unprivileged mode: the user namespace too. */
int jail_enter(struct jail *j, struct err *e) MUST_CHECK;

/* The process that has the directory as its root, or 0. */
pid_t jail_process(int root_fd);
/*
 * Removes <base>/<exec name>/<id> and the jail's cgroups. -ENOENT when there is none; -EBUSY while a process lives in it.
 */
int jail_remove(struct jail *j, struct err *e) MUST_CHECK;

#endif
