/* args.h: walks argv: options `--name VALUE` or `--name=VALUE`, and words. ctx: any */
#ifndef HUSK_CLI_ARGS_H
#define HUSK_CLI_ARGS_H

#include "vmm/base/err.h"

struct args {
	char **argv; /* borrowed */
	int argc, at;
	/* the argument that args_next found */
	char name[40];	   /* of an option, without dashes; "" for a word */
	const char *value; /* a word; what follows '='; or NULL */
};

/* Starts behind argv[0]. */
void args_init(struct args *a, int argc, char **argv);
/* False at the end. "-h" counts as "--help". */
bool args_next(struct args *a);
/* The option's value: what follows '=', or the next argument. NULL, with e filled, when there is none. */
const char *args_value(struct args *a, struct err *e);
/* For options that take none. -EINVAL when there is a value. */
int args_no_value(const struct args *a, struct err *e) MUST_CHECK;

#endif
