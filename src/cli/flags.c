/* flags.c: see flags.h. */
#include "cli/flags.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/config_schema.h"
#include "vmm/config_table.h"
#include "vmm/device.h"

/* ---- which flags there are ---- */

/* The n-th field with a flag of t, or NULL with n lowered by those that were passed. */
static const struct cfg_field *nth_field(const struct cfg_table *t, u32 *n)
{
	for (u32 i = 0; i < t->nr_fields; i++) {
		if (t->fields[i].flag && (*n)-- == 0)
			return &t->fields[i];
	}
	return NULL;
}

static bool field_flag_at(u32 *n, struct config_flag *out)
{
	const struct cfg_field *section = NULL, *f = NULL;

	for (u32 i = 0; !f && i < config_table.nr_fields; i++) {
		section = &config_table.fields[i];
		f = section->sub ? nth_field(section->sub, n) : NULL;
	}
	if (!f) {
		section = NULL;
		f = nth_field(&config_table, n);
	}
	if (f)
		*out = (struct config_flag){f->flag, f->metavar, f->help, section, f, NULL};
	return f;
}

static bool device_flag_at(u32 *n, struct config_flag *out)
{
	for (u32 i = 0; device_classes[i]; i++) {
		const struct cfg_flag *f = device_classes[i]->flag;

		if (f && (*n)-- == 0) {
			*out = (struct config_flag){f->name,	      f->usage && *f->usage ? f->usage : NULL, f->help, NULL, NULL,
						    device_classes[i]};
			return true;
		}
	}
	return false;
}

bool config_flag_at(u32 i, struct config_flag *out)
{
	return field_flag_at(&i, out) || device_flag_at(&i, out);
}

bool config_flag_find(const char *name, struct config_flag *out)
{
	for (u32 i = 0; config_flag_at(i, out); i++) {
		if (!strcmp(out->name, name))
			return true;
	}
	return false;
}

void config_flags_suggest(struct suggest *s)
{
	struct config_flag flag;

	for (u32 i = 0; config_flag_at(i, &flag); i++)
		suggest_try(s, flag.name);
}

void config_flags_help(FILE *out)
{
	enum { COLUMN = 26 };
	struct config_flag flag;

	for (u32 i = 0; config_flag_at(i, &flag); i++) {
		int used = fprintf(out, "  --%s%s%s", flag.name, flag.metavar ? " " : "", flag.metavar ? flag.metavar : "");

		if (used >= COLUMN)
			used = fprintf(out, "\n") - 1;
		fprintf(out, "%*s", COLUMN - used, "");
		config_print_help(out, flag.help);
		fputc('\n', out);
	}
}

/* ---- one value ---- */

static void free_origin(struct json_object *obj, void *origin)
{
	(void)obj;
	free(origin);
}

/* Takes both over. */
static void put_with_origin(struct json_object *obj, const char *key, struct json_object *value, char *origin)
{
	json_object_set_userdata(value, origin, free_origin);
	json_object_object_add(obj, key, value);
}

/* "512M" with unit MiB is 512. False when it is no size, or not a whole number of units. */
static bool parse_size(const char *text, u64 unit, u64 *out)
{
	static const char suffixes[] = "KMGTP";
	u64 bytes, scale = unit;
	const char *suffix;
	char *end;

	errno = 0;
	*out = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || errno)
		return false;
	if (unit && *end) {
		suffix = strchr(suffixes, *end & ~0x20); /* either case */
		if (!suffix || end[1])
			return false;
		scale = KIB << (10 * (suffix - suffixes));
	} else if (*end) {
		return false;
	}
	if (!unit)
		return true;
	if (__builtin_mul_overflow(*out, scale, &bytes) || bytes % unit)
		return false;
	*out = bytes / unit;
	return true;
}

/* What is not of the field's type stays a string, for config_parse to refuse with the whole message. */
static struct json_object *value_of(const struct cfg_field *f, const char *text)
{
	u64 number;

	if (f && f->type == CFG_BOOL && (!text || !strcmp(text, "true") || !strcmp(text, "false")))
		return json_object_new_boolean(!text || *text == 't');
	if (f && f->type == CFG_INT && parse_size(text, f->unit, &number))
		return json_object_new_uint64(number);
	return json_object_new_string(text);
}

/* ---- flags of husk's own sections ---- */

/* The object of a section, made when it is not there. NULL when there is something else: config_parse will say so. */
static struct json_object *section_object(struct json_object *root, const char *key)
{
	struct json_object *obj = json_object_object_get(root, key);

	if (!obj) {
		obj = json_object_new_object();
		json_object_object_add(root, key, obj);
	}
	return json_object_is_type(obj, json_type_object) ? obj : NULL;
}

/* --cpus alone must not ask for mem_size_mib, nor --drive for is_root_device: what only flags make has the defaults of its required keys.
 */
static void add_required_defaults(const struct cfg_table *t, struct json_object *obj)
{
	for (u32 i = 0; i < t->nr_fields; i++) {
		const struct cfg_field *f = &t->fields[i];

		if (f->required && f->dflt && !json_object_object_get(obj, f->key))
			json_object_object_add(obj, f->key, json_tokener_parse(f->dflt));
	}
}

static int apply_field(const struct config_flag *flag, const char *value, struct json_object *root)
{
	struct json_object *obj = root;

	if (flag->section) {
		bool made = !json_object_object_get(root, flag->section->key);

		obj = section_object(root, flag->section->key);
		if (!obj)
			return 0;
		if (made)
			add_required_defaults(flag->section->sub, obj);
	}
	put_with_origin(obj, flag->field->key, value_of(flag->field, value), xasprintf("--%s", flag->name));
	return 0;
}

/* ---- flags of devices ---- */

static const struct cfg_alias *find_alias(const struct cfg_flag *flag, const char *word, bool with_value)
{
	for (const struct cfg_alias *a = flag->aliases; a && a->word; a++) {
		if (!strcmp(a->word, word) && with_value == !a->value)
			return a;
	}
	return NULL;
}

static void put(const struct device_class *cls, struct json_object *obj, const char *key, struct json_object *value)
{
	put_with_origin(obj, key, value, xasprintf("--%s: %s", cls->flag->name, key));
}

static void put_text(const struct device_class *cls, struct json_object *obj, const char *key, const char *text)
{
	put(cls, obj, key, value_of(cfg_find_field(cls->config, key), text));
}

/* key=value; false when the key is unknown. */
static bool put_pair(const struct device_class *cls, struct json_object *obj, const char *part)
{
	const char *equals = strchr(part, '=');
	auto_free char *key = equals ? strndup(part, (size_t)(equals - part)) : NULL;
	const struct cfg_alias *alias = key ? find_alias(cls->flag, key, true) : NULL;

	if (alias)
		put_text(cls, obj, alias->key, equals + 1);
	else if (key && cfg_find_field(cls->config, key))
		put_text(cls, obj, key, equals + 1);
	else
		return false;
	return true;
}

/* A word that stands for a pair, or the name of a boolean key. */
static bool put_word(const struct device_class *cls, struct json_object *obj, const char *word)
{
	const struct cfg_alias *alias = find_alias(cls->flag, word, false);
	const struct cfg_field *f = cfg_find_field(cls->config, word);

	if (alias)
		put(cls, obj, alias->key, json_tokener_parse(alias->value));
	else if (f && f->type == CFG_BOOL)
		put_text(cls, obj, word, NULL);
	else
		return false;
	return true;
}

/* The next part of *rest, in place: up to a comma, ",," being one comma of the part itself. NULL at the end. */
static char *next_part(char **rest)
{
	char *part = *rest, *to = part;

	if (!part)
		return NULL;
	for (char *from = part;; from++) {
		if (*from == ',' && from[1] != ',') {
			*rest = from + 1;
			break;
		}
		if (!*from) {
			*rest = NULL;
			break;
		}
		from += *from == ',';
		*to++ = *from;
	}
	*to = 0;
	return part;
}

static int put_parts(const struct device_class *cls, const char *value, struct json_object *obj, struct err *e)
{
	auto_free char *copy = xstrdup(value);
	char *rest = copy, *part;
	bool first = true;

	while ((part = next_part(&rest))) {
		if (put_pair(cls, obj, part) || (!(first && cls->flag->positional) && put_word(cls, obj, part))) {
			first = false;
			continue;
		}
		if (!first || !cls->flag->positional)
			return err_set(e, -EINVAL, "--%s: \"%s\" is not understood; usage: --%s %s", cls->flag->name, part, cls->flag->name,
				       cls->flag->usage);
		put_text(cls, obj, cls->flag->positional, part);
		first = false;
	}
	return 0;
}

static bool id_taken(struct json_object *list, const char *id_key, const char *id)
{
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		struct json_object *item = json_object_array_get_idx(list, i), *other;

		other = json_object_is_type(item, json_type_object) ? json_object_object_get(item, id_key) : NULL;
		if (json_object_is_type(other, json_type_string) && !strcmp(json_object_get_string(other), id))
			return true;
	}
	return false;
}

static void put_free_id(const struct cfg_flag *flag, struct json_object *list, struct json_object *item)
{
	char id[65];

	for (u32 n = 0;; n++) {
		snprintf(id, sizeof(id), "%s%u", flag->id_prefix, n);
		if (!id_taken(list, flag->id_key, id))
			break;
	}
	json_object_object_add(item, flag->id_key, json_object_new_string(id));
}

static int append_item(const struct device_class *cls, const char *value, struct json_object *root, struct err *e)
{
	struct json_object *list = json_object_object_get(root, cls->section), *item;
	int r;

	if (!list) {
		list = json_object_new_array();
		json_object_object_add(root, cls->section, list);
	}
	if (!json_object_is_type(list, json_type_array))
		return 0; /* config_parse will say so */
	item = json_object_new_object();
	json_object_set_userdata(item, xasprintf("--%s", cls->flag->name), free_origin);
	r = put_parts(cls, value, item, e);
	if (r < 0) {
		json_object_put(item);
		return r;
	}
	if (cls->flag->id_key && !json_object_object_get(item, cls->flag->id_key))
		put_free_id(cls->flag, list, item);
	add_required_defaults(cls->config, item);
	json_object_array_add(list, item);
	return 0;
}

int config_flag_apply(const struct config_flag *flag, const char *value, struct json_object *root, struct err *e)
{
	struct json_object *obj;
	bool made;
	int r;

	if (flag->field)
		return apply_field(flag, value, root);
	if (flag->cls->list)
		return append_item(flag->cls, value, root, e);
	made = !json_object_object_get(root, flag->cls->section);
	obj = section_object(root, flag->cls->section);
	r = obj && value ? put_parts(flag->cls, value, obj, e) : 0;
	if (r == 0 && obj && made)
		add_required_defaults(flag->cls->config, obj);
	return r;
}
