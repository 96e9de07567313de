/* restore.h: `husk run --restore DIR`: the flags of husk run as a request for a snapshot. ctx: main thread */
#ifndef HUSK_CLI_RESTORE_H
#define HUSK_CLI_RESTORE_H

#include "cli/invocation.h"

struct args;
struct dest;
struct log;
struct json_object;
struct snapshot;

/* Takes a flag of its own; false: it is none of them. *r is -EINVAL when its value is wrong. */
bool restore_take_flag(struct restore_flags *f, struct args *a, int *r, struct err *e);
/* Whether there is any but --restore. */
bool restore_wanted(const struct restore_flags *f);
void restore_flags_help(FILE *out);
/* Names of its flags, for completion and suggestions; NULL-ended. */
extern const char *const restore_flag_names[];

/* Opens the snapshot that inv names, with the overrides of its flags. *doc: the VM's configuration, the caller's. -EINVAL: flags that
 * would make another VM of it. */
int restore_open(const struct invocation *inv, struct snapshot **out, struct json_object **doc, struct err *e) MUST_CHECK;
/* Listens where inv wants a VM to come to, with the overrides of its flags. *own: what they configure of the process itself, the caller's.
 * Errors as restore_open's. */
int restore_receive(const struct invocation *inv, struct log *log, struct dest **out, struct json_object **own, struct err *e) MUST_CHECK;

#endif
