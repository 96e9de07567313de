/*
 * json.h: the way from text to json-c objects: RFC 8259 (and NaN, which no field takes), bounded in size and depth,
 * no key twice, errors with line and column.
 * ctx: any
 */
#ifndef HUSK_JSON_H
#define HUSK_JSON_H

#include <json-c/json_object.h>

#include "vmm/base/err.h"

#define JSON_MAX_BYTES MIB
#define JSON_MAX_DEPTH 32 /* values inside one another, the outermost and the innermost included */

/* Parses len bytes; *out is the caller's (json_object_put). name stands in front of messages: "vm.json:12:5: ...". -EINVAL, -E2BIG. */
int json_parse(const char *name, const char *text, size_t len, struct json_object **out, struct err *e) MUST_CHECK;
/* The same for a file or pipe. Also what open and read fail with. */
int json_load(const char *path, struct json_object **out, struct err *e) MUST_CHECK;

/* A value as a message shows it, on one line and not long: `"yes"`, `5`, `a list`. */
void json_describe(struct json_object *v, char *buf, size_t size);
/* True when a string holds a NUL byte, which no C string, path or name can. */
bool json_has_nul(struct json_object *str);

#endif
