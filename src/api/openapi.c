/* openapi.c: see openapi.h. */
#include "api/openapi.h"

#include <ctype.h>
#include <json-c/json.h>
#include <string.h>

#include "api/firecracker.h"
#include "api/routes.h"
#include "vmm/config_schema.h"
#include "vmm/config_table.h"

static struct json_object *object(struct json_object *parent, const char *key)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(parent, key, o);
	return o;
}

static void add_str(struct json_object *o, const char *key, const char *value)
{
	json_object_object_add(o, key, json_object_new_string(value));
}

/* ---- Bodies ---- */

/* The name in the path is in the body, too, where a device's table leaves it out. */
static void add_id(struct json_object *schema, const char *id_key)
{
	struct json_object *required = json_object_object_get(schema, "required");
	struct json_object *id = object(json_object_object_get(schema, "properties"), id_key);

	add_str(id, "type", "string");
	add_str(id, "description", "The name in the path.");
	json_object_array_add(required, json_object_new_string(id_key));
}

static struct json_object *any_object(const char *what)
{
	struct json_object *schema = json_object_new_object();

	add_str(schema, "type", "object");
	add_str(schema, "description", what);
	return schema;
}

static struct json_object *body_schema(const struct route *r)
{
	static const struct cfg_table nothing = {.name = "empty"};
	const struct cfg_table *t = r->body ? r->body : &nothing;
	struct json_object *schema;

	if (r->kind == API_ANY_JSON && !strcmp(r->path, "/husk/config"))
		return config_schema();
	if (r->kind == API_ANY_JSON)
		return any_object("Any JSON object.");
	schema = config_table_schema(t);
	if (r->id_key && !cfg_find_field(t, r->id_key))
		add_id(schema, r->id_key);
	if (r->kind == API_PARTIAL) {
		json_object_object_del(schema, "required");
		json_object_object_add(schema, "minProperties", json_object_new_int(1));
	}
	return schema;
}

static void add_body(struct json_object *op, const struct route *r)
{
	struct json_object *body = object(op, "requestBody");

	json_object_object_add(body, "required", json_object_new_boolean(r->kind != API_OPTIONAL_FIELDS));
	json_object_object_add(object(object(body, "content"), "application/json"), "schema", body_schema(r));
}

/* ---- Answers ---- */

static void add_answer(struct json_object *responses, const char *status, const char *what, struct json_object *schema)
{
	struct json_object *answer = object(responses, status);

	add_str(answer, "description", what);
	if (schema)
		json_object_object_add(object(object(answer, "content"), "application/json"), "schema", schema);
}

static struct json_object *error_schema(void)
{
	struct json_object *schema = any_object("What is wrong.");

	add_str(object(object(schema, "properties"), "fault_message"), "type", "string");
	return schema;
}

static void add_answers(struct json_object *op, const struct route *r)
{
	struct json_object *responses = object(op, "responses");

	if (r->method == API_GET)
		add_answer(responses, "200", "The answer.", r->body ? config_table_schema(r->body) : any_object(r->help));
	else
		add_answer(responses, "204", "Done.", NULL);
	add_answer(responses, "400", "Refused: nothing has changed.", error_schema());
	if (r->kind == API_ANY_JSON && !strcmp(r->path, "/mmds"))
		add_answer(responses, "413", "The metadata would be larger than their limit.", error_schema());
}

/* ---- Routes ---- */

static const char *phase_text(const struct route *r)
{
	switch (r->phase) {
	case API_BEFORE_START:
		return "before the start";
	case API_AFTER_START:
		return "after the start";
	case API_ANY_TIME:
		break;
	}
	return "at any time";
}

static void add_path_id(struct json_object *op, const struct route *r)
{
	struct json_object *parameters = json_object_new_array(), *id = json_object_new_object();

	add_str(id, "name", r->id_key);
	add_str(id, "in", "path");
	json_object_object_add(id, "required", json_object_new_boolean(true));
	add_str(object(id, "schema"), "type", "string");
	json_object_array_add(parameters, id);
	json_object_object_add(op, "parameters", parameters);
}

static void add_route(struct json_object *paths, const struct route *r)
{
	struct json_object *path = json_object_object_get(paths, r->path), *op;
	char method[8], id[128], *p = id;

	if (!path)
		path = object(paths, r->path);
	snprintf(method, sizeof(method), "%s", api_method_name(r->method));
	for (p = method; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	op = object(path, method);
	snprintf(id, sizeof(id), "%s%s", method, r->path);
	for (p = id; *p; p++) {
		if (!isalnum((unsigned char)*p))
			*p = '_';
	}
	add_str(op, "operationId", id);
	add_str(op, "summary", r->help);
	add_str(op, "description", phase_text(r));
	if (r->id_key)
		add_path_id(op, r);
	if (r->kind != API_NO_BODY)
		add_body(op, r);
	add_answers(op, r);
}

struct json_object *openapi_schema(void)
{
	struct json_object *root = json_object_new_object(), *info, *paths;
	struct routes routes;

	add_str(root, "openapi", "3.1.0");
	info = object(root, "info");
	add_str(info, "title", "husk");
	add_str(info, "description",
		"The REST API of a husk process, on a unix socket; that of Firecracker v" FIRECRACKER_VERSION " and more.");
	add_str(info, "version", HUSK_VERSION);
	paths = object(root, "paths");
	routes_init(&routes);
	for (u32 i = 0; i < routes.nr; i++)
		add_route(paths, &routes.items[i]);
	routes_fini(&routes);
	return root;
}

void openapi_docs(FILE *out)
{
	struct routes routes;

	routes_init(&routes);
	fputs("| Method | Path | When | |\n| --- | --- | --- | --- |\n", out);
	for (u32 i = 0; i < routes.nr; i++) {
		const struct route *r = &routes.items[i];

		fprintf(out, "| %s | `%s` | %s | ", api_method_name(r->method), r->path, phase_text(r));
		config_print_help(out, r->help);
		fputs(" |\n", out);
	}
	routes_fini(&routes);
}
