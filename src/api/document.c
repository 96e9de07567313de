/* document.c: see document.h. */
#include "api/document.h"

#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "vmm/config_table.h"
#include "vmm/device.h"

/* ---- Copies that share what they do not change ---- */

/* doc with value (taken) as the section `key`. */
static struct json_object *with_section(struct json_object *doc, const char *key, struct json_object *value)
{
	struct json_object *copy = json_object_new_object();

	json_object_object_foreach(doc, other, section)
	{
		if (strcmp(other, key) != 0)
			json_object_object_add(copy, other, json_object_get(section));
	}
	json_object_object_add(copy, key, value);
	return copy;
}

static bool has_id(struct json_object *item, const char *id_key, const char *id)
{
	struct json_object *v = json_object_is_type(item, json_type_object) ? json_object_object_get(item, id_key) : NULL;

	return json_object_is_type(v, json_type_string) && !strcmp(json_object_get_string(v), id);
}

/* list (may be NULL) with value (taken) in the place of the item of that id, or at the end; *at is where. */
static struct json_object *with_item(struct json_object *list, const char *id_key, const char *id, struct json_object *value, size_t *at)
{
	size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
	struct json_object *copy = json_object_new_array();

	*at = n;
	for (size_t i = 0; i < n; i++) {
		struct json_object *item = json_object_array_get_idx(list, i);

		if (has_id(item, id_key, id))
			*at = i;
		else
			json_object_array_put_idx(copy, i, json_object_get(item));
	}
	json_object_array_put_idx(copy, *at, value);
	return copy;
}

/* The members of section (may be NULL) with those of patch over them. With t: of t's keys only, and so are the members of its objects: a
 * limiter keeps the bucket that a PATCH does not name. */
static struct json_object *merged(struct json_object *section, struct json_object *patch, const struct cfg_table *t)
{
	struct json_object *copy = json_object_new_object();

	if (json_object_is_type(section, json_type_object)) {
		json_object_object_foreach(section, key, value) json_object_object_add(copy, key, json_object_get(value));
	}
	json_object_object_foreach(patch, key, value)
	{
		const struct cfg_field *f = t ? cfg_find_field(t, key) : NULL;
		bool inside = f && f->type == CFG_OBJ && value;

		if (!t || f)
			json_object_object_add(copy, key,
					       inside ? merged(json_object_object_get(section, key), value, NULL) : json_object_get(value));
	}
	return copy;
}

static void replace(struct json_object **doc, struct json_object *with)
{
	json_object_put(*doc);
	*doc = with;
}

/* ---- Checks ---- */

/* What a request is refused for is what it changed: a section that is still missing is no mistake yet. */
static int parse(struct json_object *doc, const struct route *r, struct config *out, struct err *e)
{
	struct json_object *boot = json_object_new_object(), *whole = NULL;
	int ret;

	json_object_object_add(boot, "kernel_image_path", json_object_new_string("/"));
	if (!json_object_object_get(doc, "boot-source"))
		whole = with_section(doc, "boot-source", json_object_get(boot));
	ret = config_parse(out, whole ? whole : doc, route_category(r), e);
	json_object_put(whole);
	json_object_put(boot);
	return ret;
}

/* Opens and closes what item `at` of the route's section names; without a section, what all of them name. */
static int probe(const struct config *c, const struct route *r, size_t at, struct err *e)
{
	for (u32 i = 0; device_classes[i]; i++) {
		const struct device_class *cls = device_classes[i];
		const struct cfg_list *list = config_devices(c, cls);

		for (u32 j = 0; cls->probe && list && j < list->nr; j++) {
			if (r->section && (r->cls != cls || j != at))
				continue;
			if (cls->probe((const char *)list->items + j * cls->config->size, e) < 0)
				return err_prefix(e, "%s", route_category(r));
		}
	}
	return 0;
}

static int commit(struct json_object **doc, struct json_object *with, const struct route *r, size_t at, struct err *e)
{
	struct config c;
	int ret = parse(with, r, &c, e);

	if (ret == 0) {
		ret = probe(&c, r, at, e);
		config_fini(&c);
	}
	if (ret == 0)
		replace(doc, with);
	else
		json_object_put(with);
	return ret;
}

int document_put(struct json_object **doc, const struct route *r, const char *id, struct json_object *value, struct err *e)
{
	size_t at = 0;

	json_object_get(value);
	if (r->id_key)
		value = with_item(json_object_object_get(*doc, r->section), r->id_key, id, value, &at);
	return commit(doc, with_section(*doc, r->section, value), r, at, e);
}

int document_patch(struct json_object **doc, const struct route *r, struct json_object *value, struct err *e)
{
	struct json_object *section = merged(json_object_object_get(*doc, r->section), value, NULL);

	/* Firecracker's defaults of what a section requires and nobody has set yet. */
	for (u32 i = 0; i < r->body->nr_fields; i++) {
		const struct cfg_field *f = &r->body->fields[i];

		if (f->required && f->dflt && !json_object_object_get(section, f->key))
			json_object_object_add(section, f->key, json_tokener_parse(f->dflt));
	}
	return commit(doc, with_section(*doc, r->section, section), r, 0, e);
}

int document_merge(struct json_object **doc, const struct route *r, struct json_object *value, struct err *e)
{
	return commit(doc, merged(*doc, value, NULL), r, 0, e);
}

void document_forget(struct json_object **doc, const char *section, const char *key)
{
	struct json_object *old = json_object_object_get(*doc, section), *copy;

	if (!key && old)
		replace(doc, with_section(*doc, section, NULL));
	if (!key || !json_object_is_type(old, json_type_object) || !json_object_object_get(old, key))
		return;
	copy = merged(old, old, NULL);
	json_object_object_del(copy, key);
	replace(doc, with_section(*doc, section, copy));
}

void document_note(struct json_object **doc, const struct route *r, const char *id, struct json_object *value)
{
	struct json_object *old = json_object_object_get(*doc, r->section);
	size_t at;

	if (!r->id_key) {
		replace(doc, with_section(*doc, r->section, merged(old, value, r->cls->config)));
		return;
	}
	for (size_t i = 0; json_object_is_type(old, json_type_array) && i < json_object_array_length(old); i++) {
		struct json_object *item = json_object_array_get_idx(old, i);

		if (!has_id(item, r->id_key, id))
			continue;
		item = merged(item, value, r->cls->config);
		replace(doc, with_section(*doc, r->section, with_item(old, r->id_key, id, item, &at)));
		return;
	}
}

/* ---- What GET shows ---- */

static struct json_object *show_object(const struct cfg_table *t, struct json_object *json);

static struct json_object *show_value(const struct cfg_field *f, struct json_object *value)
{
	if (f->type == CFG_OBJ && json_object_is_type(value, json_type_object))
		return show_object(f->sub, value);
	return json_object_get(value);
}

/* Deprecated fields are shown only where they say something: a template, but not the name of a vsock device. */
static bool is_shown(const struct cfg_field *f, struct json_object *value)
{
	struct json_object *dflt;
	bool shown;

	if (!value)
		return !f->extension && !f->deprecated;
	if (!f->deprecated)
		return true;
	dflt = f->dflt ? json_tokener_parse(f->dflt) : NULL;
	shown = dflt && !json_object_equal(dflt, value);
	json_object_put(dflt);
	return shown;
}

static struct json_object *show_object(const struct cfg_table *t, struct json_object *json)
{
	struct json_object *out = json_object_new_object();

	for (u32 i = 0; i < t->nr_fields; i++) {
		const struct cfg_field *f = &t->fields[i];
		struct json_object *value = json_object_object_get(json, f->key);

		if (!is_shown(f, value))
			continue;
		if (value)
			value = show_value(f, value);
		else if (f->dflt)
			value = json_tokener_parse(f->dflt);
		else if (f->type == CFG_BOOL)
			value = json_object_new_boolean(false);
		json_object_object_add(out, f->key, value);
	}
	return out;
}

static struct json_object *show_list(const struct cfg_table *t, struct json_object *list)
{
	struct json_object *out = json_object_new_array();

	for (size_t i = 0; json_object_is_type(list, json_type_array) && i < json_object_array_length(list); i++)
		json_object_array_add(out, show_object(t, json_object_array_get_idx(list, i)));
	return out;
}

struct json_object *document_show(struct json_object *doc, const struct cfg_table *t, const char *section, bool list)
{
	struct json_object *json = json_object_object_get(doc, section);

	if (list)
		return show_list(t, json);
	return json ? show_object(t, json) : NULL;
}

struct json_object *document_show_defaults(const struct cfg_table *t)
{
	return show_object(t, NULL);
}

static const struct device_class *section_class(const char *section)
{
	for (u32 i = 0; device_classes[i]; i++) {
		if (device_classes[i]->section && !strcmp(device_classes[i]->section, section))
			return device_classes[i];
	}
	return NULL;
}

struct json_object *document_show_all(struct json_object *doc)
{
	/* Firecracker's keys, all there always; lists when nothing is in them are [], the rest null. */
	static const char *const sections[] = {"balloon", "drives",  "boot-source", "machine-config", "mmds-config", "network-interfaces",
					       "vsock",	  "entropy", "pmem",	    "memory-hotplug"};
	static const char *const never[] = {"cpu-config", "logger", "metrics"};
	static const char *const lists[] = {"drives", "network-interfaces", "pmem"};
	struct json_object *out = json_object_new_object();

	for (u32 i = 0; i < ARRAY_SIZE(lists); i++)
		json_object_object_add(out, lists[i], json_object_new_array());
	for (u32 i = 0; i < ARRAY_SIZE(never); i++)
		json_object_object_add(out, never[i], NULL);
	for (u32 i = 0; i < ARRAY_SIZE(sections); i++) {
		const struct device_class *cls = section_class(sections[i]);
		const struct cfg_field *f = cfg_find_field(&config_table, sections[i]);
		const struct cfg_table *t = cls ? cls->config : f ? f->sub : NULL;
		struct json_object *shown = t ? document_show(doc, t, sections[i], cls && cls->list) : NULL;

		if (!shown && t && !strcmp(sections[i], "machine-config"))
			shown = show_object(t, NULL);
		if (shown || !json_object_object_get_ex(out, sections[i], NULL))
			json_object_object_add(out, sections[i], shown);
	}
	return out;
}
