/* main.c: the husk program: runs the command line, prints the one error there may be. */
#include <stdio.h>

#include "cli/cli.h"

/* One line, whatever names and values from outside the message quotes. */
static void print_error(struct err *e)
{
	for (char *p = e->msg; *p; p++) {
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	}
	fprintf(stderr, "husk: %s\n", e->msg);
}

int main(int argc, char **argv)
{
	struct err e = {0};
	int code = cli_main(argc, argv, &e);

	if (*e.msg)
		print_error(&e);
	return code;
}
