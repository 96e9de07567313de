/* args.c: see args.h. */
#include "cli/args.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void args_init(struct args *a, int argc, char **argv)
{
	*a = (struct args){.argv = argv, .argc = argc, .at = 1};
}

bool args_next(struct args *a)
{
	const char *arg, *equals;

	if (a->at >= a->argc)
		return false;
	arg = a->argv[a->at++];
	*a->name = 0;
	a->value = arg;
	if (!strcmp(arg, "-h"))
		arg = "--help";
	if (strncmp(arg, "--", 2) != 0)
		return true;
	equals = strchr(arg, '=');
	a->value = equals ? equals + 1 : NULL;
	snprintf(a->name, sizeof(a->name), "%.*s", equals ? (int)MIN(equals - arg - 2, 100) : 100, arg + 2);
	return true;
}

const char *args_value(struct args *a, struct err *e)
{
	if (!a->value && a->at < a->argc)
		a->value = a->argv[a->at++];
	if (!a->value)
		err_set(e, -EINVAL, "--%s needs a value", a->name);
	return a->value;
}

int args_no_value(const struct args *a, struct err *e)
{
	return a->value ? err_set(e, -EINVAL, "--%s takes no value", a->name) : 0;
}
