/*
 * janitor.h: the process of --cleanup: it stays outside the jail, in the host's namespaces and with the jailer's rights, waits for the
 * end of the program, and removes the jail and its cgroups.
 * ctx: the jailer's one thread.
 */
#ifndef HUSK_JAILER_JANITOR_H
#define HUSK_JAILER_JANITOR_H

#include "jailer/jail.h"

#define JANITOR_OVER 1

/*
 * Starts it, before the jailer enters any namespace or cgroup. 0 in the jailer, with *fd to be given to janitor_watch; when fd is closed
 * without that, the janitor ends and removes nothing. JANITOR_OVER in the processes that are not the jailer, when their work is done:
 * they have only to exit.
 */
int janitor_start(struct jail *j, int *fd, struct err *e) MUST_CHECK;
/* Tells it the program's process. fd -1: there is no janitor. */
int janitor_watch(int fd, pid_t pid, struct err *e) MUST_CHECK;

#endif
