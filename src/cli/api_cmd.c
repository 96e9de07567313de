/* api_cmd.c: `husk api schema | routes`: the REST API as OpenAPI 3, and its routes as a table. */
#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "api/openapi.h"
#include "cli/cli.h"

int cmd_api(int argc, char **argv, struct err *e)
{
	const char *what = argc == 2 ? argv[1] : "";

	if (!strcmp(what, "schema")) {
		struct json_object *schema = openapi_schema();

		puts(json_object_to_json_string_ext(schema, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
		json_object_put(schema);
		return EXIT_OK;
	}
	if (!strcmp(what, "routes")) {
		openapi_docs(stdout);
		return EXIT_OK;
	}
	err_set(e, -EINVAL, "husk api: say \"schema\" or \"routes\"");
	return EXIT_USAGE;
}
