/* suggest.h: "did you mean ...?": the known word nearest to one that was mistyped. ctx: any */
#ifndef HUSK_SUGGEST_H
#define HUSK_SUGGEST_H

#include "vmm/base/base.h"

struct suggest {
	const char *word; /* borrowed: what was typed */
	const char *best; /* borrowed; NULL while nothing is near */
	u32 distance;	  /* of best: letters to add, drop or change */
	char text[100];	  /* of suggest_text */
};

void suggest_init(struct suggest *s, const char *word);
void suggest_try(struct suggest *s, const char *known);
/* " (did you mean --drive?)" with prefix "--", or "". */
const char *suggest_text(struct suggest *s, const char *prefix);

#endif
