/* config_schema.c: see config_schema.h. */
#include "vmm/config_schema.h"

#include <ctype.h>
#include <json-c/json.h>
#include <string.h>

#include "vmm/config_table.h"
#include "vmm/device.h"

/* ---- JSON Schema ---- */

static struct json_object *table_schema(const struct cfg_table *t);
static struct json_object *field_schema(const struct cfg_field *f);

static void add(struct json_object *obj, const char *key, struct json_object *value)
{
	int r = json_object_object_add(obj, key, value);

	ASSERT(r == 0);
}

static void add_str(struct json_object *obj, const char *key, const char *value)
{
	add(obj, key, json_object_new_string(value));
}

/* Optional values may be null, which is the same as absent. */
static void add_type(struct json_object *s, const char *type, bool required)
{
	struct json_object *either;

	if (required) {
		add_str(s, "type", type);
		return;
	}
	either = json_object_new_array();
	json_object_array_add(either, json_object_new_string(type));
	json_object_array_add(either, json_object_new_string("null"));
	add(s, "type", either);
}

static void add_range(struct json_object *s, const struct cfg_field *f, const char *min_key, const char *max_key)
{
	if (f->min)
		add(s, min_key, json_object_new_uint64(f->min));
	if (f->max)
		add(s, max_key, json_object_new_uint64(f->max));
}

static void add_values(struct json_object *s, const struct cfg_field *f)
{
	struct json_object *values = json_object_new_array();

	for (u32 i = 0; f->values[i]; i++)
		json_object_array_add(values, json_object_new_string(f->values[i]));
	if (!f->required)
		json_object_array_add(values, NULL);
	add(s, "enum", values);
}

static void add_list(struct json_object *s, const struct cfg_table *item)
{
	add_type(s, "array", false);
	add(s, "maxItems", json_object_new_int(item->max_items ? (int)item->max_items : CFG_LIST_MAX));
	add(s, "items", item->bare ? field_schema(&item->fields[0]) : table_schema(item));
}

static struct json_object *field_schema(const struct cfg_field *f)
{
	struct json_object *s = f->type == CFG_OBJ ? table_schema(f->sub) : json_object_new_object();

	switch (f->type) {
	case CFG_BOOL:
		add_type(s, "boolean", f->required);
		break;
	case CFG_INT:
		add_type(s, "integer", f->required);
		add_range(s, f, "minimum", "maximum");
		break;
	case CFG_STR:
		add_type(s, "string", f->required);
		add_range(s, f, "minLength", "maxLength");
		break;
	case CFG_ENUM:
		add_values(s, f);
		break;
	case CFG_OBJ:
		add_type(s, "object", f->required);
		break;
	case CFG_MAP:
		add_type(s, "object", f->required);
		add(s, "additionalProperties", json_tokener_parse("{\"type\":\"string\"}"));
		break;
	case CFG_LIST:
		add_list(s, f->sub);
		break;
	}
	add_str(s, "description", f->help);
	if (f->dflt)
		add(s, "default", json_tokener_parse(f->dflt));
	return s;
}

static struct json_object *table_schema(const struct cfg_table *t)
{
	struct json_object *s = json_object_new_object(), *properties = json_object_new_object(), *required = json_object_new_array();

	for (u32 i = 0; i < t->nr_fields; i++) {
		add(properties, t->fields[i].key, field_schema(&t->fields[i]));
		if (t->fields[i].required)
			json_object_array_add(required, json_object_new_string(t->fields[i].key));
	}
	add_str(s, "type", "object");
	add(s, "additionalProperties", json_object_new_boolean(t->open));
	add(s, "properties", properties);
	add(s, "required", required);
	return s;
}

static struct json_object *section_schema(const struct device_class *cls)
{
	struct json_object *s;

	if (cls->list) {
		s = json_object_new_object();
		add_list(s, cls->config);
	} else {
		s = table_schema(cls->config);
		add_type(s, "object", false);
	}
	add_str(s, "description", cls->config->help);
	return s;
}

struct json_object *config_table_schema(const struct cfg_table *t)
{
	return table_schema(t);
}

struct json_object *config_schema(void)
{
	struct json_object *s = table_schema(&config_table), *properties = json_object_object_get(s, "properties");

	add_str(s, "$schema", "https://json-schema.org/draft/2020-12/schema");
	add_str(s, "title", "husk: one virtual machine");
	for (u32 i = 0; device_classes[i]; i++) {
		if (device_classes[i]->section)
			add(properties, device_classes[i]->section, section_schema(device_classes[i]));
	}
	return s;
}

/* ---- Markdown ---- */

void config_print_help(FILE *out, const char *help)
{
	size_t len = strlen(help);

	if (len && help[len - 1] == '.')
		len--;
	if (len)
		fprintf(out, "%c%.*s", toupper((unsigned char)*help), (int)len - 1, help + 1);
}

static void print_range(FILE *out, const struct cfg_field *f, const char *what)
{
	fputs(what, out);
	if (f->max)
		fprintf(out, ", %llu to %llu", (unsigned long long)f->min, (unsigned long long)f->max);
}

static void print_type(FILE *out, const struct cfg_field *f);

static void print_list(FILE *out, const struct cfg_table *item)
{
	fputs("list of ", out);
	if (item->bare)
		print_type(out, &item->fields[0]);
	else
		fprintf(out, "[%s](#%s)", item->name, item->name);
}

static void print_type(FILE *out, const struct cfg_field *f)
{
	switch (f->type) {
	case CFG_BOOL:
		fputs("boolean", out);
		break;
	case CFG_INT:
		print_range(out, f, "number");
		break;
	case CFG_STR:
		fputs(f->expected ? f->expected : "string", out);
		break;
	case CFG_ENUM:
		for (u32 i = 0; f->values[i]; i++)
			fprintf(out, "%s`\"%s\"`", i ? ", " : "", f->values[i]);
		break;
	case CFG_MAP:
		fputs("object with strings", out);
		break;
	case CFG_OBJ:
		fprintf(out, "object, [%s](#%s)", f->sub->name, f->sub->name);
		break;
	case CFG_LIST:
		print_list(out, f->sub);
		break;
	}
}

static void print_field(FILE *out, const struct cfg_field *f)
{
	fprintf(out, "| `%s` | ", f->key);
	print_type(out, f);
	if (f->required)
		fputs(" | required", out);
	else if (f->dflt)
		fprintf(out, " | `%s`", f->dflt);
	else
		fputs(" | absent", out);
	fputs(" | ", out);
	config_print_help(out, f->help);
	if (f->extension)
		fputs(" (husk's own)", out);
	if (f->unique)
		fputs(f->type == CFG_BOOL ? "; true for at most one item" : "; no two items alike", out);
	if (f->flag)
		fprintf(out, "; flag `--%s%s%s`", f->flag, f->metavar ? " " : "", f->metavar ? f->metavar : "");
	fputs(" |\n", out);
}

static void print_rows(FILE *out, const struct cfg_table *t)
{
	fputs("| Key | Value | Default | Meaning |\n| --- | --- | --- | --- |\n", out);
	for (u32 i = 0; i < t->nr_fields; i++)
		print_field(out, &t->fields[i]);
}

/* Tables that have their section in the docs already: some are used in several places. */
struct shown {
	const struct cfg_table *tables[CFG_LIST_MAX];
	u32 nr;
};

static bool show(struct shown *shown, const struct cfg_table *t)
{
	for (u32 i = 0; i < shown->nr; i++) {
		if (shown->tables[i] == t)
			return false;
	}
	ASSERT(shown->nr < ARRAY_SIZE(shown->tables));
	shown->tables[shown->nr++] = t;
	return true;
}

/* The objects inside an object get a section each, after it. */
static void print_inner(FILE *out, const struct cfg_table *t, struct shown *shown)
{
	for (u32 i = 0; i < t->nr_fields; i++) {
		const struct cfg_table *sub = t->fields[i].sub;

		if (!sub || sub->bare || !show(shown, sub))
			continue;
		fprintf(out, "\n## %s\n\n", sub->name);
		config_print_help(out, sub->help);
		fputs(".\n\n", out);
		print_rows(out, sub);
		print_inner(out, sub, shown);
	}
}

static void print_flag(FILE *out, const struct cfg_flag *flag)
{
	bool value = flag->usage && *flag->usage;

	fprintf(out, "\nOn the command line: `--%s%s%s`: ", flag->name, value ? " " : "", value ? flag->usage : "");
	config_print_help(out, flag->help);
	fputs(".\n", out);
	if (flag->aliases && flag->aliases->word)
		fputs("\n", out);
	for (const struct cfg_alias *a = flag->aliases; a && a->word; a++) {
		if (a->value)
			fprintf(out, "- `%s` is short for `%s=%s`\n", a->word, a->key, a->value);
		else
			fprintf(out, "- `%s=...` is short for `%s=...`\n", a->word, a->key);
	}
}

static void print_device(FILE *out, const struct device_class *cls, struct shown *shown)
{
	fprintf(out, "\n## %s\n\n", cls->section);
	config_print_help(out, cls->config->help);
	fputs(".\n\n", out);
	if (cls->config->nr_fields) {
		fprintf(out, "%s:\n\n", cls->list ? "A list of objects, one device each" : "One object");
		print_rows(out, cls->config);
	}
	if (cls->flag)
		print_flag(out, cls->flag);
	print_inner(out, cls->config, shown);
}

void config_docs(FILE *out)
{
	struct shown shown = {0};

	fputs("# Configuration\n\n"
	      "<!-- made by `husk config docs` from the tables in the source; do not edit -->\n\n"
	      "One JSON object with the sections of Firecracker's configuration file. A key that is not listed here is an error, and so is "
	      "a\n"
	      "key that is there twice; `null` is the same as absent. Relative paths are relative to the current directory. `husk config "
	      "check\n"
	      "FILE` checks a file without opening what it names, `husk config schema` prints this page as JSON Schema. As Firecracker "
	      "does, husk\n"
	      "ignores unknown keys in `metrics`, in rate limiters' token buckets and in `cpuid_modifiers`.\n\n"
	      "At most 1 MiB of text, 32 levels deep, 64 items in a list (more in a CPU template).\n\n"
	      "## Top level\n\n",
	      out);
	print_rows(out, &config_table);
	for (u32 i = 0; device_classes[i]; i++) {
		const struct device_class *cls = device_classes[i];

		if (!cls->section)
			continue;
		fprintf(out, "| `%s` | %s, [below](#%s) | absent | ", cls->section, cls->list ? "list of objects" : "object", cls->section);
		config_print_help(out, cls->config->help);
		fputs(" |\n", out);
	}
	print_inner(out, &config_table, &shown);
	for (u32 i = 0; device_classes[i]; i++) {
		if (device_classes[i]->section)
			print_device(out, device_classes[i], &shown);
	}
}
