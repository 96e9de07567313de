/*
 * document.h: the configuration that API requests put together before the VM starts: JSON of a configuration file's shape, changed as a
 * whole or not at all. ctx: main thread
 */
#ifndef HUSK_API_DOCUMENT_H
#define HUSK_API_DOCUMENT_H

#include "api/routes.h"
#include "vmm/config.h"

/* Puts value (borrowed) into its section, in a list in the place of the item of this id or at the end. The whole is checked as a file is,
 * and what the section names is opened and closed again. *doc is replaced; on failure it is as it was. */
int document_put(struct json_object **doc, const struct route *r, const char *id, struct json_object *value, struct err *e) MUST_CHECK;
/* The same with just the keys that value has changed; the section need not be there. */
int document_patch(struct json_object **doc, const struct route *r, struct json_object *value, struct err *e) MUST_CHECK;
/* Several sections, or what is none (the accelerator), as in a configuration file; those that value has replace the old ones. */
int document_merge(struct json_object **doc, const struct route *r, struct json_object *value, struct err *e) MUST_CHECK;
/* Takes out a section, or (key not NULL) an optional key of it. */
void document_forget(struct json_object **doc, const char *section, const char *key);
/* Records what a running device was told; keys that its section lacks are left out. Opens nothing. */
void document_note(struct json_object **doc, const struct route *r, const char *id, struct json_object *value);

/* The section as GET shows it: defaults filled in, absent values null. The caller's. NULL: it is not configured. */
struct json_object *document_show(struct json_object *doc, const struct cfg_table *t, const char *section, bool list);
/* A section of that table as GET shows it when nobody has configured it. The caller's. */
struct json_object *document_show_defaults(const struct cfg_table *t);
/* GET /vm/config. The caller's. */
struct json_object *document_show_all(struct json_object *doc);

#endif
