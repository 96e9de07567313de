/*
 * cgroup.h: the jail's cgroups, version 1 and 2: <hierarchy>/<parent>/<id>, made, set and entered.
 * ctx: the jailer's one thread, before it leaves the host's mounts.
 */
#ifndef HUSK_JAILER_CGROUP_H
#define HUSK_JAILER_CGROUP_H

#include "jailer/options.h"
#include "jailer/tree.h"

/* Where mounts and memberships are read: "/proc" but in tests. */
struct cgroup_host {
	const char *mounts; /* "/proc/mounts" */
	const char *self;   /* "/proc/self/cgroup" */
};
extern const struct cgroup_host cgroup_host_proc;

/*
 * Makes the cgroups that --cgroup names, writes the values, and moves this process into them; the steps go to *u. With version 2, no
 * --cgroup and a --parent-cgroup that is there, moves the process to that.
 */
int cgroups_enter(const struct jail_options *o, const char *parent, const struct cgroup_host *host, struct undo *u,
		  struct err *e) MUST_CHECK;
/* Removes <hierarchy>/<parent>/<id> from all hierarchies, where it is; waits up to a second for the processes that end in it. */
int cgroups_remove(const char *parent, const char *id, const struct cgroup_host *host, struct err *e) MUST_CHECK;

/* The mount point of the hierarchy, to be freed, or NULL: of a controller of version 1, or of version 2 (controller NULL). */
char *cgroup_hierarchy(const struct cgroup_host *host, const char *controller);

#endif
