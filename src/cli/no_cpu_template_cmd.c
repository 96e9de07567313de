/* no_cpu_template_cmd.c: `husk cpu-template` where husk has no CPU templates: arm64. */
#include <errno.h>

#include "cli/cli.h"

int cmd_cpu_template(int argc, char **argv, struct err *e)
{
	(void)argc;
	(void)argv;
	err_set(e, -EOPNOTSUPP, "husk cpu-template: there are no CPU templates for arm64 yet");
	return EXIT_ERROR;
}

void help_cpu_template(FILE *out)
{
	fputs("\nThere are no CPU templates for arm64 yet.\n", out);
}
