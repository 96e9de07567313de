/* main.c: the husk program: runs the command line, prints the one error there may be. */
#include <malloc.h>
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
	int code;

#ifdef __GLIBC__
	/* Fixed, that is: large tables are the kernel's zeroes, of which only what is used becomes memory. */
	mallopt(M_MMAP_THRESHOLD, 64 * 1024);
#endif
	code = cli_main(argc, argv, &e);

	if (*e.msg)
		print_error(&e);
	return code;
}
