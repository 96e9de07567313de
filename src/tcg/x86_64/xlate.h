/* xlate.h: the translator, as unit.c and cache.c see it. Lean; called with the lock of struct tcg_code held. */
#ifndef HUSK_TCG_XLATE_H
#define HUSK_TCG_XLATE_H

#include "tcg/unit.h"

/* Makes the thunks at the head of the buffer. */
int xlate_init(struct tcg_code *k, struct err *e) MUST_CHECK;
void xlate_fini(struct tcg_code *k);
/* Translates from va (page at gpa) for mode into the current chunk, which has room. False: not now (k->page2.wanted, or no RAM). */
bool xlate_unit(struct tcg_cpu *c, struct tcg_code *k, u64 va, u64 gpa, u16 mode, u32 *unit);
/* Offset from struct tcg_cpu of what a jump to user code at va compares: the id in its itlb slot. */
s32 xlate_itlb_slot(u8 mode, u64 va);

#endif
