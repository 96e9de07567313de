/* config_cmd.c: `husk config schema | docs | check`: the configuration's tables, and files checked against them. */
#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/invocation.h"
#include "vmm/config_schema.h"

static int print_schema(void)
{
	struct json_object *schema = config_schema();

	puts(json_object_to_json_string_ext(schema, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(schema);
	return EXIT_OK;
}

static int check_file(int argc, char **argv, struct err *e)
{
	struct invocation inv;
	struct config c;
	int code = EXIT_OK;

	if (invocation_parse(&inv, argc, argv, e) < 0) {
		code = EXIT_USAGE;
	} else if (!inv.config_path) {
		err_set(e, -EINVAL, "husk config check: which file?");
		code = EXIT_USAGE;
	} else if (invocation_config(&inv, &c, e) < 0) {
		code = EXIT_ERROR;
	} else {
		printf("%s: ok (files, taps and sockets that it names were not opened)\n", inv.config_path);
		config_fini(&c);
	}
	invocation_fini(&inv);
	return code;
}

int cmd_config(int argc, char **argv, struct err *e)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (!strcmp(what, "schema") && argc == 2)
		return print_schema();
	if (!strcmp(what, "docs") && argc == 2) {
		config_docs(stdout);
		return EXIT_OK;
	}
	if (!strcmp(what, "check"))
		return check_file(argc - 1, argv + 1, e);
	err_set(e, -EINVAL, "husk config: say \"schema\", \"docs\" or \"check FILE\"");
	return EXIT_USAGE;
}
