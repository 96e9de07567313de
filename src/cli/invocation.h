/*
 * invocation.h: `husk run [CONFIG.json] [flags]`, taken apart: the file, the flags in their order, and what they make together.
 * `husk config check` takes the same. ctx: any
 */
#ifndef HUSK_CLI_INVOCATION_H
#define HUSK_CLI_INVOCATION_H

#include "cli/flags.h"

struct invocation_flag {
	struct config_flag flag;
	const char *value; /* borrowed from argv; NULL when the flag takes none */
};

/* What follows --restore: restore.h. */
struct restore_flags {
	const char *dir;		  /* borrowed from argv, or NULL: no restore */
	const char *receive;		  /* the same: address at which another husk brings the VM */
	const char *working_set, *record; /* files; NULL: none */
	bool paused, eager, clock_realtime, keep_generation;
};

struct tls_identity;

struct invocation {
	const char *config_path; /* all borrowed from argv, or NULL */
	const char *trace, *trace_file, *api_sock;
	const char *tls;		   /* folder with certificates, */
	struct tls_identity *tls_identity; /* and they, once they are loaded: cmd_run's */
	bool no_seccomp;
	struct restore_flags restore;
	struct invocation_flag *flags; /* owned */
	u32 nr_flags;
};

/* argv[0] is the command's name. -EINVAL: not understood. invocation_fini it, also after a failure. */
int invocation_parse(struct invocation *inv, int argc, char **argv, struct err *e) MUST_CHECK;
/* File and flags -> one checked configuration. config_fini it. */
int invocation_config(const struct invocation *inv, struct config *c, struct err *e) MUST_CHECK;
void invocation_fini(struct invocation *inv);

/* Adds `--name value` (Firecracker's command line shares the configuration's flags). */
void invocation_add(struct invocation *inv, const struct config_flag *flag, const char *value);
/* The JSON of file and flags together; the caller's (json_object_put). */
int invocation_json(const struct invocation *inv, struct json_object **out, struct err *e) MUST_CHECK;
/* config_parse of that JSON (root: borrowed, unchanged). may_wait: what boots may be missing, the API will bring it; c->boot is then of no
 * use. */
int invocation_check(const struct invocation *inv, struct json_object *root, bool may_wait, struct config *c, struct err *e) MUST_CHECK;
/* How messages name that JSON. */
const char *invocation_origin(const struct invocation *inv);

#endif
