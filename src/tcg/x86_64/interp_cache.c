/* interp_cache.c: the memory of the interpreter's decode cache. The only file of the interpreter that is not lean. */
#include "tcg/x86_64/interp_int.h"

#include <errno.h>
#include <stdlib.h>

int interp_init(struct tcg_cpu *c, struct err *e)
{
	c->interp_cache = calloc(1, sizeof(struct interp_cache));
	return c->interp_cache ? 0 : err_set(e, -ENOMEM, "the host has no memory for a virtual CPU's decode cache");
}

void interp_fini(struct tcg_cpu *c)
{
	free(c->interp_cache);
	c->interp_cache = NULL;
}
