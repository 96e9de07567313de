/*
 * config_table.h: what struct cfg_table drives: JSON object -> C struct, with defaults, checks and messages that say where.
 * config.c puts the tables together; nobody else needs this.
 */
#ifndef HUSK_CONFIG_TABLE_H
#define HUSK_CONFIG_TABLE_H

#include "vmm/config.h"

#define CFG_LIST_MAX 64 /* items of one list */

/* Where the parser is: "<origin>: /drives/0/is_read_only". */
struct cfg_place {
	const char *origin; /* file, or the flag that the value came from */
	char path[200];	    /* JSON pointer below origin */
};

/* Sets e to "<place>: <sentence>". Returns code. */
int cfg_fail(const struct cfg_place *at, struct err *e, int code, const char *fmt, ...) PRINTF_LIKE(4, 5);
/* The place of a member or item of `parent`. Where json (may be NULL) carries an origin of its own the path starts anew there. */
struct cfg_place cfg_below(const struct cfg_place *parent, const char *key, struct json_object *json);
struct cfg_place cfg_item(const struct cfg_place *parent, u32 index, struct json_object *json);

/* Fills out (t->size bytes, zeroed) from obj; keys whose value is null count as absent. What was filled is freed with cfg_free, also after
 * an error. Does not look for unknown keys of obj itself (cfg_check_keys), does of the objects inside. */
int cfg_read_fields(const struct cfg_table *t, struct json_object *obj, void *out, const struct cfg_place *at, struct err *e) MUST_CHECK;
/* A whole object: known keys, fields. */
int cfg_read_object(const struct cfg_table *t, struct json_object *json, void *out, const struct cfg_place *at, struct err *e) MUST_CHECK;
int cfg_read_list(const struct cfg_table *t, struct json_object *json, struct cfg_list *out, const struct cfg_place *at,
		  struct err *e) MUST_CHECK;
/* Fills out with the defaults of all fields, as for an object that is absent as a whole. */
void cfg_defaults(const struct cfg_table *t, void *out);
void cfg_free(const struct cfg_table *t, void *out);
void cfg_free_list(const struct cfg_table *t, struct cfg_list *list);

const struct cfg_field *cfg_find_field(const struct cfg_table *t, const char *key);
/* The message for a key that t lacks: did you mean, what is known, or what Firecracker has and husk has not. more: NULL-ended extra known
 * keys, or NULL. */
int cfg_unknown_key(const struct cfg_table *t, const char *const *more, const char *key, struct json_object *value,
		    const struct cfg_place *at, struct err *e);

static inline void *cfg_member(const struct cfg_field *f, void *base)
{
	return (char *)base + f->offset;
}

#endif
