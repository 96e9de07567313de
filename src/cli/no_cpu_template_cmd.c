/* no_cpu_template_cmd.c: `husk cpu-template` where husk has one accelerator: arm64. */
#include <errno.h>

#include "cli/cli.h"

int cmd_cpu_template(int argc, char **argv, struct err *e)
{
	(void)argc;
	(void)argv;
	err_set(e, -EOPNOTSUPP, "husk cpu-template: it makes a template for guests that move between kvm and tcg, and arm64 has kvm alone");
	return EXIT_ERROR;
}

void help_cpu_template(FILE *out)
{
	fputs("\nNot on arm64, which has one accelerator. Templates of your own: docs/cpu-templates.md.\n", out);
}
