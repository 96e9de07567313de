/*
 * serde.h: a request's body held against the table of its fields, with the words that Firecracker's clients know (those of Rust's serde):
 * types, unknown and missing fields, names of enumerations. Ranges and what belongs together is config_parse's. ctx: any
 */
#ifndef HUSK_API_SERDE_H
#define HUSK_API_SERDE_H

#include "vmm/base/err.h"

struct cfg_table;
struct json_object;

/* partial: nothing is required. extra: a string field that t lacks and that is required nevertheless (the id of a PATCH), or NULL.
 * *deprecated is set when a deprecated field is there. -EINVAL. */
int serde_check(const struct cfg_table *t, struct json_object *body, bool partial, const char *extra, bool *deprecated,
		struct err *e) MUST_CHECK;

#endif
