/*
 * launch.h: from the finished jail to the running program: daemon, PID namespace, pid file, limits, another user, exec.
 * ctx: the jailer's one thread; jail_launch returns in each of the processes that it makes.
 */
#ifndef HUSK_JAILER_LAUNCH_H
#define HUSK_JAILER_LAUNCH_H

#include "jailer/jail.h"

struct launch {
	u64 start_us; /* monotonic, of the jailer's start */
	mode_t umask; /* the caller's, for the program */
	int janitor;  /* of janitor_start; -1: none */
	int null_fd;  /* /dev/null, opened outside the jail; for --daemonize */
};

enum launched {
	LAUNCH_FAILED,	 /* *e says why; the caller takes everything back */
	LAUNCH_DONE,	 /* the program runs: this process has only to exit */
	LAUNCH_REPORTED, /* a process on the way failed, and has told the one that takes everything back */
};

/* Returns when this process has become no program; see enum launched. */
enum launched jail_launch(struct jail *j, const struct launch *l, struct err *e);

#endif
