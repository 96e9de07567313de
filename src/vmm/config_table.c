/* config_table.c: see config_table.h. */
#include "vmm/config_table.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/base/json.h"
#include "vmm/base/suggest.h"

/* Sections and keys of Firecracker that husk knows the meaning of and does not serve yet. */
static const char *const unserved[] = {
	"rate_limiter",
	"socket",
};

int cfg_fail(const struct cfg_place *at, struct err *e, int code, const char *fmt, ...)
{
	char text[sizeof(e->msg)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return err_set(e, code, "%s: %s%s%s", at->origin, at->path, *at->path ? ": " : "", text);
}

struct cfg_place cfg_below(const struct cfg_place *parent, const char *key, struct json_object *json)
{
	/* json-c keeps the text of a number with a fraction there; a flag never makes one. */
	const char *own = json && !json_object_is_type(json, json_type_double) ? json_object_get_userdata(json) : NULL;
	struct cfg_place at = *parent;
	size_t used = strlen(at.path);

	if (own)
		return (struct cfg_place){.origin = own};
	snprintf(at.path + used, sizeof(at.path) - used, "/%s", key);
	return at;
}

struct cfg_place cfg_item(const struct cfg_place *parent, u32 index, struct json_object *json)
{
	char number[16];

	snprintf(number, sizeof(number), "%u", index);
	return cfg_below(parent, number, json);
}

const struct cfg_field *cfg_find_field(const struct cfg_table *t, const char *key)
{
	for (u32 i = 0; i < t->nr_fields; i++) {
		if (!strcmp(t->fields[i].key, key))
			return &t->fields[i];
	}
	return NULL;
}

/* Firecracker writes sections that are not there as null or [] (GET /vm/config). */
static bool says_absent(struct json_object *v)
{
	return !v || (json_object_is_type(v, json_type_array) && json_object_array_length(v) == 0);
}

static void append(char *buf, size_t size, const char *word)
{
	size_t used = strlen(buf);

	snprintf(buf + used, size - used, "%s%s", used ? ", " : "", word);
}

int cfg_unknown_key(const struct cfg_table *t, const char *const *more, const char *key, struct json_object *value,
		    const struct cfg_place *at, struct err *e)
{
	char known[600] = "";
	struct suggest s;

	if (t->open)
		return 0;
	for (u32 i = 0; i < ARRAY_SIZE(unserved); i++) {
		if (strcmp(unserved[i], key))
			continue;
		return says_absent(value) ? 0 : cfg_fail(at, e, -EOPNOTSUPP, "\"%s\" is not supported by this husk yet", key);
	}
	suggest_init(&s, key);
	for (u32 i = 0; i < t->nr_fields; i++) {
		suggest_try(&s, t->fields[i].key);
		append(known, sizeof(known), t->fields[i].key);
	}
	for (; more && *more; more++) {
		suggest_try(&s, *more);
		append(known, sizeof(known), *more);
	}
	return cfg_fail(at, e, -EINVAL, "unknown key \"%.60s\"%s; known: %s", key, suggest_text(&s, ""), known);
}

static int wrong(const struct cfg_place *at, struct err *e, struct json_object *found, const char *expected)
{
	char text[100];

	json_describe(found, text, sizeof(text));
	return cfg_fail(at, e, -EINVAL, "expected %s, found %s", expected, text);
}

static int read_bool(const struct cfg_field *f, struct json_object *json, bool *out, const struct cfg_place *at, struct err *e)
{
	(void)f;
	if (!json_object_is_type(json, json_type_boolean))
		return wrong(at, e, json, "true or false");
	*out = json_object_get_boolean(json);
	return 0;
}

static int read_int(const struct cfg_field *f, struct json_object *json, u64 *out, const struct cfg_place *at, struct err *e)
{
	u64 max = f->max ? f->max : UINT64_MAX, v;
	char expected[100];

	snprintf(expected, sizeof(expected), "a whole number %sfrom %llu to %llu", f->unit == MIB ? "of MiB " : "",
		 (unsigned long long)f->min, (unsigned long long)max);
	if (!json_object_is_type(json, json_type_int))
		return wrong(at, e, json, expected);
	v = json_object_get_uint64(json); /* 0 for negative ones */
	if (json_object_get_int64(json) < 0 || v < f->min || v > max)
		return wrong(at, e, json, expected);
	*out = v;
	return 0;
}

static int read_str(const struct cfg_field *f, struct json_object *json, char **out, const struct cfg_place *at, struct err *e)
{
	char expected[100];
	size_t len;

	if (!json_object_is_type(json, json_type_string))
		return wrong(at, e, json, f->expected ? f->expected : "a string");
	if (json_has_nul(json))
		return cfg_fail(at, e, -EINVAL, "a string with a NUL character cannot be used here");
	len = (size_t)json_object_get_string_len(json);
	if (f->max && (len < f->min || len > f->max)) {
		snprintf(expected, sizeof(expected), "%llu to %llu bytes", (unsigned long long)f->min, (unsigned long long)f->max);
		return cfg_fail(at, e, -EINVAL, "expected %s, found %zu", f->expected ? f->expected : expected, len);
	}
	if (f->accept && !f->accept(json_object_get_string(json)))
		return wrong(at, e, json, f->expected ? f->expected : "something else");
	*out = xstrdup(json_object_get_string(json));
	return 0;
}

static int read_enum(const struct cfg_field *f, struct json_object *json, u32 *out, const struct cfg_place *at, struct err *e)
{
	char expected[200] = "one of ";
	bool is_string = json_object_is_type(json, json_type_string);

	for (u32 i = 0; f->values[i]; i++) {
		size_t used = strlen(expected);

		if (is_string && !strcmp(f->values[i], json_object_get_string(json))) {
			*out = i;
			return 0;
		}
		snprintf(expected + used, sizeof(expected) - used, "%s\"%s\"", i ? ", " : "", f->values[i]);
	}
	return wrong(at, e, json, expected);
}

static int read_map(struct json_object *json, char **out, const struct cfg_place *at, struct err *e)
{
	if (!json_object_is_type(json, json_type_object))
		return wrong(at, e, json, "an object");
	json_object_object_foreach(json, key, value)
	{
		struct cfg_place below = cfg_below(at, key, value);

		if (!json_object_is_type(value, json_type_string))
			return wrong(&below, e, value, "a string");
	}
	*out = xstrdup(json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN));
	return 0;
}

static int read_ptr(const struct cfg_field *f, struct json_object *json, void **out, const struct cfg_place *at, struct err *e)
{
	*out = xzalloc(f->sub->size);
	return cfg_read_object(f->sub, json, *out, at, e);
}

static int read_field(const struct cfg_field *f, struct json_object *json, void *base, const struct cfg_place *at, struct err *e)
{
	void *out = cfg_member(f, base);

	switch (f->type) {
	case CFG_BOOL:
		return read_bool(f, json, out, at, e);
	case CFG_INT:
		return read_int(f, json, out, at, e);
	case CFG_STR:
		return read_str(f, json, out, at, e);
	case CFG_ENUM:
		return read_enum(f, json, out, at, e);
	case CFG_OBJ:
		return read_ptr(f, json, out, at, e);
	case CFG_MAP:
		return read_map(json, out, at, e);
	case CFG_LIST:
		return cfg_read_list(f->sub, json, out, at, e);
	}
	return 0;
}

/* Defaults are JSON text, read as any other value: one that its own field refuses is a mistake in the table. */
static void read_default(const struct cfg_field *f, void *base)
{
	const struct cfg_place at = {.origin = "default"};
	struct json_object *json;
	int r;

	if (!f->dflt)
		return;
	json = json_tokener_parse(f->dflt);
	r = json ? read_field(f, json, base, &at, NULL) : -EINVAL;
	ASSERT(r == 0);
	json_object_put(json);
}

void cfg_defaults(const struct cfg_table *t, void *out)
{
	for (u32 i = 0; i < t->nr_fields; i++)
		read_default(&t->fields[i], out);
}

int cfg_read_fields(const struct cfg_table *t, struct json_object *obj, void *out, const struct cfg_place *at, struct err *e)
{
	for (u32 i = 0; i < t->nr_fields; i++) {
		const struct cfg_field *f = &t->fields[i];
		struct json_object *json = json_object_object_get(obj, f->key);
		struct cfg_place below;
		int r;

		if (!json && f->required)
			return cfg_fail(at, e, -EINVAL, "the required key \"%s\" is missing", f->key);
		if (!json) {
			read_default(f, out);
			continue;
		}
		below = cfg_below(at, f->key, json);
		r = read_field(f, json, out, &below, e);
		if (r < 0)
			return r;
	}
	return 0;
}

int cfg_read_object(const struct cfg_table *t, struct json_object *json, void *out, const struct cfg_place *at, struct err *e)
{
	if (!json_object_is_type(json, json_type_object))
		return wrong(at, e, json, "an object");
	json_object_object_foreach(json, key, value)
	{
		int r = cfg_find_field(t, key) ? 0 : cfg_unknown_key(t, NULL, key, value, at, e);

		if (r < 0)
			return r;
	}
	return cfg_read_fields(t, json, out, at, e);
}

int cfg_read_list(const struct cfg_table *t, struct json_object *json, struct cfg_list *out, const struct cfg_place *at, struct err *e)
{
	u32 max = t->max_items ? t->max_items : CFG_LIST_MAX;
	size_t nr;

	if (!json_object_is_type(json, json_type_array))
		return wrong(at, e, json, "a list");
	nr = json_object_array_length(json);
	if (nr > max)
		return cfg_fail(at, e, -EINVAL, "expected at most %u items, found %zu", max, nr);
	if (!nr)
		return 0;
	out->items = xzalloc(nr * t->size);
	for (; out->nr < nr; out->nr++) {
		struct json_object *item = json_object_array_get_idx(json, out->nr);
		struct cfg_place below = cfg_item(at, out->nr, item);
		void *into = (char *)out->items + out->nr * t->size;
		int r = t->bare ? read_field(&t->fields[0], item, into, &below, e) : cfg_read_object(t, item, into, &below, e);

		if (r < 0) {
			out->nr++; /* the half-read one is freed too */
			return r;
		}
	}
	return 0;
}

void cfg_free_list(const struct cfg_table *t, struct cfg_list *list)
{
	for (u32 i = 0; i < list->nr; i++)
		cfg_free(t, (char *)list->items + i * t->size);
	free(list->items);
	*list = (struct cfg_list){0};
}

void cfg_free(const struct cfg_table *t, void *out)
{
	for (u32 i = 0; i < t->nr_fields; i++) {
		const struct cfg_field *f = &t->fields[i];
		void **p = cfg_member(f, out);

		if (f->type == CFG_LIST) {
			cfg_free_list(f->sub, cfg_member(f, out));
		} else if (f->type == CFG_STR || f->type == CFG_MAP || f->type == CFG_OBJ) {
			if (f->type == CFG_OBJ && *p)
				cfg_free(f->sub, *p);
			free(*p);
			*p = NULL;
		}
	}
}
