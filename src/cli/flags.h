/*
 * flags.h: the command-line flags that the configuration's tables define (`--cpus 2`, `--drive x.img,ro`), and what they do to the JSON of
 * a configuration file. Each value remembers its flag, so that a message can name it. ctx: any
 */
#ifndef HUSK_CLI_FLAGS_H
#define HUSK_CLI_FLAGS_H

#include <stdio.h>

#include "vmm/base/suggest.h"
#include "vmm/config.h"

struct config_flag {
	const char *name, *metavar, *help; /* metavar NULL: takes no value */
	const struct cfg_field *section;   /* of config_table; NULL: top level, or a device's */
	const struct cfg_field *field;	   /* NULL: a device's flag */
	const struct device_class *cls;	   /* NULL: not a device's flag */
};

/* The i-th flag, section by section. False behind the last. */
bool config_flag_at(u32 i, struct config_flag *out);
bool config_flag_find(const char *name, struct config_flag *out);
/* Merges `--name value` into root, an object. Values are checked later, by config_parse. -EINVAL when value cannot be taken apart. */
int config_flag_apply(const struct config_flag *flag, const char *value, struct json_object *root, struct err *e) MUST_CHECK;
void config_flags_help(FILE *out);
void config_flags_suggest(struct suggest *s);

#endif
