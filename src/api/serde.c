/* serde.c: see serde.h. */
#include "api/serde.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "vmm/base/json.h"
#include "vmm/config_table.h"

static int check_object(const struct cfg_table *t, struct json_object *json, bool partial, const char *extra, bool *deprecated,
			struct err *e);

/* Rust's integer type of the least size that holds the field's maximum. */
static const char *int_name(const struct cfg_field *f, u64 *max)
{
	*max = f->max == 0 || f->max > UINT32_MAX ? UINT64_MAX
	       : f->max <= UINT8_MAX		  ? UINT8_MAX
	       : f->max <= UINT16_MAX		  ? UINT16_MAX
						  : UINT32_MAX;
	return *max == UINT64_MAX ? "u64" : *max == UINT8_MAX ? "u8" : *max == UINT16_MAX ? "u16" : "u32";
}

static int wrong_type(struct json_object *found, const char *expected, struct err *e)
{
	char text[100];

	json_describe(found, text, sizeof(text));
	switch (json_object_get_type(found)) {
	case json_type_object:
		return err_set(e, -EINVAL, "invalid type: map, expected %s", expected);
	case json_type_array:
		return err_set(e, -EINVAL, "invalid type: sequence, expected %s", expected);
	case json_type_null:
		return err_set(e, -EINVAL, "invalid type: null, expected %s", expected);
	case json_type_string:
		return err_set(e, -EINVAL, "invalid type: string %s, expected %s", text, expected);
	default:
		return err_set(e, -EINVAL, "invalid type: %s `%s`, expected %s",
			       json_object_is_type(found, json_type_boolean)  ? "boolean"
			       : json_object_is_type(found, json_type_double) ? "floating point"
									      : "integer",
			       text, expected);
	}
}

static int check_int(const struct cfg_field *f, struct json_object *json, struct err *e)
{
	u64 max;
	const char *name = int_name(f, &max);

	if (!json_object_is_type(json, json_type_int))
		return wrong_type(json, name, e);
	if (json_object_get_int64(json) < 0 || json_object_get_uint64(json) > max)
		return err_set(e, -EINVAL, "invalid value: integer `%s`, expected %s", json_object_to_json_string(json), name);
	return 0;
}

/* "`a`", "`a` or `b`", "one of `a`, `b`, `c`" of n names. */
static void list_names(const char *(*name)(const void *of, u32 i), const void *of, u32 n, char *buf, size_t size)
{
	size_t used = 0;

	*buf = 0;
	for (u32 i = 0; i < n && used < size; i++)
		used += (size_t)snprintf(buf + used, size - used, "%s`%s`",
					 i == 0	 ? (n > 2 ? "one of " : "")
					 : n > 2 ? ", "
						 : " or ",
					 name(of, i));
}

static const char *value_name(const void *of, u32 i)
{
	return ((const struct cfg_field *)of)->values[i];
}

static const char *field_name(const void *of, u32 i)
{
	return ((const struct cfg_table *)of)->fields[i].key;
}

static int check_enum(const struct cfg_field *f, struct json_object *json, struct err *e)
{
	char names[400];
	u32 n = 0;

	if (!json_object_is_type(json, json_type_string))
		return wrong_type(json, "a string", e);
	for (; f->values[n]; n++) {
		if (!strcmp(f->values[n], json_object_get_string(json)))
			return 0;
	}
	list_names(value_name, f, n, names, sizeof(names));
	return err_set(e, -EINVAL, "unknown variant `%.60s`, expected %s", json_object_get_string(json), names);
}

static int check_value(const struct cfg_field *f, struct json_object *json, struct err *e);

static int check_list(const struct cfg_table *t, struct json_object *json, struct err *e)
{
	bool deprecated = false;
	int r = 0;

	if (!json_object_is_type(json, json_type_array))
		return wrong_type(json, "a sequence", e);
	for (size_t i = 0; r == 0 && i < json_object_array_length(json); i++) {
		struct json_object *item = json_object_array_get_idx(json, i);

		r = t->bare ? check_value(&t->fields[0], item, e) : check_object(t, item, false, NULL, &deprecated, e);
	}
	return r;
}

static int check_map(struct json_object *json, struct err *e)
{
	if (!json_object_is_type(json, json_type_object))
		return wrong_type(json, "a map", e);
	json_object_object_foreach(json, key, value)
	{
		(void)key;
		if (!json_object_is_type(value, json_type_string))
			return wrong_type(value, "a string", e);
	}
	return 0;
}

static int check_value(const struct cfg_field *f, struct json_object *json, struct err *e)
{
	bool deprecated = false;

	switch (f->type) {
	case CFG_BOOL:
		return json_object_is_type(json, json_type_boolean) ? 0 : wrong_type(json, "a boolean", e);
	case CFG_INT:
		return check_int(f, json, e);
	case CFG_STR:
		return json_object_is_type(json, json_type_string) ? 0 : wrong_type(json, "a string", e);
	case CFG_ENUM:
		return check_enum(f, json, e);
	case CFG_OBJ:
		return check_object(f->sub, json, false, NULL, &deprecated, e);
	case CFG_MAP:
		return check_map(json, e);
	case CFG_LIST:
		return check_list(f->sub, json, e);
	}
	return 0;
}

/* A field that Firecracker has and husk has not is config_parse's to refuse, in its own words. */
static int unknown(const struct cfg_table *t, const char *key, struct json_object *value, struct err *e)
{
	static const struct cfg_place nowhere = {.origin = ""};
	char names[600];

	if (cfg_unknown_key(t, NULL, key, value, &nowhere, NULL) != -EINVAL)
		return 0;
	list_names(field_name, t, t->nr_fields, names, sizeof(names));
	return err_set(e, -EINVAL, "unknown field `%.60s`, %s%s", key, t->nr_fields ? "expected " : "there are no fields", names);
}

static int check_member(const struct cfg_table *t, const char *key, struct json_object *value, bool partial, const char *extra,
			bool *deprecated, struct err *e)
{
	const struct cfg_field *f = cfg_find_field(t, key);

	if (!f && extra && !strcmp(extra, key))
		return json_object_is_type(value, json_type_string) ? 0 : wrong_type(value, "a string", e);
	if (!f)
		return unknown(t, key, value, e);
	*deprecated |= f->deprecated && value;
	if (!value && (!f->required || partial))
		return 0;
	return check_value(f, value, e);
}

static int check_object(const struct cfg_table *t, struct json_object *json, bool partial, const char *extra, bool *deprecated,
			struct err *e)
{
	char expected[100];

	snprintf(expected, sizeof(expected), "struct %s", t->name);
	if (!json_object_is_type(json, json_type_object))
		return wrong_type(json, expected, e);
	json_object_object_foreach(json, key, value)
	{
		int r = check_member(t, key, value, partial, extra, deprecated, e);

		if (r < 0)
			return r;
	}
	for (u32 i = 0; i < t->nr_fields && !partial; i++) {
		if (t->fields[i].required && !json_object_object_get_ex(json, t->fields[i].key, NULL))
			return err_set(e, -EINVAL, "missing field `%s`", t->fields[i].key);
	}
	if (extra && !json_object_object_get_ex(json, extra, NULL))
		return err_set(e, -EINVAL, "missing field `%s`", extra);
	return 0;
}

int serde_check(const struct cfg_table *t, struct json_object *body, bool partial, const char *extra, bool *deprecated, struct err *e)
{
	*deprecated = false;
	return check_object(t, body, partial, extra, deprecated, e);
}
