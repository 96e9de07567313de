/* options.h: the jailer's command line: Firecracker's, and husk's additions. ctx: before anything is done. */
#ifndef HUSK_JAILER_OPTIONS_H
#define HUSK_JAILER_OPTIONS_H

#include <sys/types.h>

#include "vmm/base/err.h"

#define JAIL_ID_MAX	 64
#define JAIL_NO_FILE	 2048 /* RLIMIT_NOFILE when nothing is said */
#define JAIL_BASE	 "/srv/jailer"
#define JAIL_CGROUPS_MAX 256

/* One --cgroup FILE=VALUE. */
struct cgroup_setting {
	char *controller, *file, *value; /* owned */
};

struct jail_options {
	/* strings are argv's, unless said otherwise; NULL: not given */
	const char *id, *exec_file, *base, *netns, *parent_cgroup;
	uid_t uid;
	gid_t gid;
	bool have_uid, have_gid;
	bool daemonize, new_pid_ns, unprivileged;
	bool cleanup; /* the jail goes when the program has ended */
	bool remove;  /* nothing is run: a jail that was left behind goes */
	bool version, help;
	int cgroup_version;		/* 1 or 2 */
	struct cgroup_setting *cgroups; /* owned */
	u32 n_cgroups;
	bool have_fsize, have_no_file;
	u64 fsize, no_file; /* bytes; descriptors */
	char **extra;	    /* NULL-terminated: the program's own arguments */
};

/*
 * Fills *o from argv; values are checked as far as that needs no look at the host. -EINVAL with Firecracker's text. --help and --version
 * end the checks. ctx: any
 */
int jail_options_parse(struct jail_options *o, int argc, char **argv, struct err *e) MUST_CHECK;
void jail_options_fini(struct jail_options *o); /* accepts zeroed and half-filled */
/* The text of --help. */
void jail_options_help(void);

#endif
