/* invocation.c: see invocation.h. */
#include "cli/invocation.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/args.h"
#include "cli/restore.h"
#include "vmm/base/json.h"

static const char *const own_options[] = {"api-sock", "help", "no-seccomp", "tls", "trace", "trace-file"};

void invocation_add(struct invocation *inv, const struct config_flag *flag, const char *value)
{
	struct invocation_flag *more = realloc(inv->flags, (inv->nr_flags + 1) * sizeof(*more));

	ASSERT(more); /* at most argv's length of them */
	more[inv->nr_flags++] = (struct invocation_flag){*flag, value};
	inv->flags = more;
}

static int unknown_flag(const char *name, struct err *e)
{
	struct suggest s;

	suggest_init(&s, name);
	config_flags_suggest(&s);
	for (u32 i = 0; i < ARRAY_SIZE(own_options); i++)
		suggest_try(&s, own_options[i]);
	for (u32 i = 0; restore_flag_names[i]; i++)
		suggest_try(&s, restore_flag_names[i]);
	return err_set(e, -EINVAL, "unknown flag --%s%s; \"husk help run\" lists them", name, suggest_text(&s, "--"));
}

static int take_option(struct invocation *inv, struct args *a, struct err *e)
{
	const char **own = !strcmp(a->name, "trace")	    ? &inv->trace
			   : !strcmp(a->name, "trace-file") ? &inv->trace_file
			   : !strcmp(a->name, "api-sock")   ? &inv->api_sock
			   : !strcmp(a->name, "tls")	    ? &inv->tls
							    : NULL;
	struct config_flag flag;
	const char *value = NULL;
	int r = 0;

	if (restore_take_flag(&inv->restore, a, &r, e))
		return r;
	if (own)
		return (*own = args_value(a, e)) ? 0 : -EINVAL;
	if (!strcmp(a->name, "no-seccomp")) {
		inv->no_seccomp = true;
		return args_no_value(a, e);
	}
	if (!config_flag_find(a->name, &flag))
		return unknown_flag(a->name, e);
	if (flag.metavar)
		value = args_value(a, e);
	if (flag.metavar ? !value : args_no_value(a, e) < 0)
		return -EINVAL;
	invocation_add(inv, &flag, value);
	return 0;
}

int invocation_parse(struct invocation *inv, int argc, char **argv, struct err *e)
{
	struct args a;
	int r = 0;

	*inv = (struct invocation){0};
	args_init(&a, argc, argv);
	while (r == 0 && args_next(&a)) {
		if (*a.name)
			r = take_option(inv, &a, e);
		else if (inv->config_path || *a.value == '-')
			r = err_set(e, -EINVAL,
				    "\"%s\" is not understood: at most one configuration file, and flags that begin with \"--\"", a.value);
		else
			inv->config_path = a.value;
	}
	return r;
}

void invocation_fini(struct invocation *inv)
{
	free(inv->flags);
	*inv = (struct invocation){0};
}

const char *invocation_origin(const struct invocation *inv)
{
	return inv->config_path ? inv->config_path : "command line";
}

/* Standard input and output serve one device: a console that asks for them has them, and not the serial port, whose default they are. */
static void give_stdio_to_console(struct json_object *root)
{
	struct json_object *console = json_object_object_get(root, "console"), *mode, *serial;

	mode = json_object_is_type(console, json_type_object) ? json_object_object_get(console, "mode") : NULL;
	if (!json_object_is_type(mode, json_type_string) || strcmp(json_object_get_string(mode), "stdio") != 0)
		return;
	if (json_object_object_get(root, "serial"))
		return;
	serial = json_object_new_object();
	json_object_object_add(serial, "mode", json_object_new_string("null"));
	json_object_object_add(root, "serial", serial);
}

static int merge_flags(const struct invocation *inv, struct json_object *root, struct err *e)
{
	int r = 0;

	for (u32 i = 0; r == 0 && i < inv->nr_flags; i++)
		r = config_flag_apply(&inv->flags[i].flag, inv->flags[i].value, root, e);
	give_stdio_to_console(root);
	return r;
}

static void free_origin(struct json_object *obj, void *origin)
{
	(void)obj;
	free(origin);
}

/* Firecracker's files may name another file, with the CPU template. */
static int load_cpu_config(struct json_object *root, struct err *e)
{
	struct json_object *named = json_object_object_get(root, "cpu-config"), *template;
	auto_free char *path = NULL;
	int r;

	if (!json_object_is_type(named, json_type_string))
		return 0;
	path = xstrdup(json_object_get_string(named));
	r = json_load(path, &template, e);
	if (r < 0)
		return err_prefix(e, "cpu-config");
	if (template)
		json_object_set_userdata(template, xstrdup(path), free_origin);
	json_object_object_add(root, "cpu-config", template);
	return 0;
}

int invocation_json(const struct invocation *inv, struct json_object **out, struct err *e)
{
	struct json_object *root = NULL;
	int r = 0;

	if (inv->config_path)
		r = json_load(inv->config_path, &root, e);
	else
		root = json_object_new_object();
	if (r == 0 && json_object_is_type(root, json_type_object)) { /* config_parse refuses what is not */
		r = load_cpu_config(root, e);
		if (r == 0)
			r = merge_flags(inv, root, e);
	}
	if (r < 0)
		json_object_put(root);
	else
		*out = root;
	return r;
}

int invocation_check(const struct invocation *inv, struct json_object *root, bool may_wait, struct config *c, struct err *e)
{
	struct json_object *boot;
	int r;

	if (!may_wait || !json_object_is_type(root, json_type_object) || json_object_object_get(root, "boot-source"))
		return config_parse(c, root, invocation_origin(inv), e);
	boot = json_object_new_object();
	json_object_object_add(boot, "kernel_image_path", json_object_new_string("/"));
	json_object_object_add(root, "boot-source", boot);
	r = config_parse(c, root, invocation_origin(inv), e);
	json_object_object_del(root, "boot-source");
	return r;
}

int invocation_config(const struct invocation *inv, struct config *c, struct err *e)
{
	struct json_object *root;
	int r = invocation_json(inv, &root, e);

	if (r < 0)
		return r;
	r = invocation_check(inv, root, false, c, e);
	json_object_put(root);
	return r;
}
