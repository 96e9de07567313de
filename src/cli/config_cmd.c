/* config_cmd.c: `husk config schema | docs | check | dtb`: the configuration's tables, files checked against them, device trees. */
#include <errno.h>
#include <json-c/json.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/invocation.h"
#include "vmm/base/buf.h"
#include "vmm/config_schema.h"
#include "vmm/machine.h"

static int print_schema(void)
{
	struct json_object *schema = config_schema();

	puts(json_object_to_json_string_ext(schema, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(schema);
	return EXIT_OK;
}

/* The device tree, binary, on standard output. */
static int print_dtb(const struct config *c, struct err *e)
{
	struct buf dtb = {0};
	int ret = machine_dtb(c, &dtb, e);

	if (ret == 0)
		ret = fd_write_all(STDOUT_FILENO, dtb.data, dtb.len);
	if (ret < 0 && !e->msg[0])
		err_set(e, ret, "cannot write the device tree: %s", strerror(-ret));
	buf_fini(&dtb);
	return ret < 0 ? EXIT_ERROR : EXIT_OK;
}

/* `husk config check`, and dtb. */
static int check_file(int argc, char **argv, bool dtb, struct err *e)
{
	struct invocation inv;
	struct config c;
	int code = EXIT_OK;

	if (invocation_parse(&inv, argc, argv, e) < 0) {
		code = EXIT_USAGE;
	} else if (!inv.config_path) {
		err_set(e, -EINVAL, "husk config %s: which file?", argv[0]);
		code = EXIT_USAGE;
	} else if (invocation_config(&inv, &c, e) < 0) {
		code = EXIT_ERROR;
	} else {
		if (dtb)
			code = print_dtb(&c, e);
		else
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
	if (!strcmp(what, "check") || !strcmp(what, "dtb"))
		return check_file(argc - 1, argv + 1, !strcmp(what, "dtb"), e);
	err_set(e, -EINVAL, "husk config: say \"schema\", \"docs\", \"check FILE\" or \"dtb FILE\"");
	return EXIT_USAGE;
}
