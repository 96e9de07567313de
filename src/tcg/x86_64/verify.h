/*
 * verify.h: lints translated code: whatever the guest's program is, the code made from it stays in its unit but for known ways out, touches
 * guest memory only at addresses that a TLB check gave, the vCPU's state only at known offsets, and holds no instruction that changes what
 * belongs to the host. Follows values through the three scratch registers; knows nothing of the guest's program.
 */
#ifndef HUSK_TCG_VERIFY_H
#define HUSK_TCG_VERIFY_H

#include "tcg/unit.h"

struct verify; /* scratch memory */

/* One unit, as it is when it has just been made: no exit is linked. */
struct verify_unit {
	const struct tcg_code *code; /* offsets of the thunks */
	const u8 *bytes;
	u32 at, len, body; /* offset in the code buffer; of the second entry from there */
	u8 mode;	   /* TCG_MODE_* */
	u32 unit, exits, nr_exits;
};

struct verify *verify_new(void);
void verify_free(struct verify *v); /* accepts NULL */
/* NULL: nothing to find fault with. Else a sentence, and the offset in the unit of the instruction that it is about. ctx: any, one at a
 * time */
const char *verify_unit(struct verify *v, const struct verify_unit *u, u32 *where);
/* Whether the writable mapping is executable or the executable one writable (/proc/self/maps), which must never be. */
int verify_mappings(const struct tcg_code *k, struct err *e) MUST_CHECK;

#endif
