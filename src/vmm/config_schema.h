/*
 * config_schema.h: the tables of config.h told to others: as JSON Schema for editors and validators, as Markdown for people.
 * ctx: any
 */
#ifndef HUSK_CONFIG_SCHEMA_H
#define HUSK_CONFIG_SCHEMA_H

#include <stdio.h>

#include "vmm/base/base.h"

struct json_object;

/* JSON Schema, draft 2020-12. The caller's (json_object_put). */
struct json_object *config_schema(void);
struct cfg_table;
/* Of one object that t describes. The caller's. */
struct json_object *config_table_schema(const struct cfg_table *t);
/* A help sentence the way lists show it: begins with a capital, ends without a period. */
void config_print_help(FILE *out, const char *help);
/* docs/config.md, whole. */
void config_docs(FILE *out);

#endif
