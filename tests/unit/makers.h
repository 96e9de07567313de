/* makers.h: where the processor that tests run on may do otherwise than the decoder says, because manuals leave it open. */
#ifndef HUSK_TEST_MAKERS_H
#define HUSK_TEST_MAKERS_H

#include <cpuid.h>

#include "tcg/x86_64/decode.h"

static inline bool is_intel(void)
{
	u32 a, b, c, d;

	__cpuid(0, a, b, c, d);
	return b == X86_MAKER_INTEL;
}

/* What no compiler makes and each maker's processors take in their own way; the decoder goes with Intel's. AMD's: near branches with 66
 * have 16 bits in 64-bit code, 0F 0D has no registers, VEX and EVEX have fewer bits that must not be set, SSE4A;
 * with EVEX.X, which general registers do not have, RSP may be an old one. */
static inline bool makers_differ(const struct x86_insn *in)
{
	const u8 *first = in->bytes + in->nr_prefixes;

	if (in->op == OP_MOVSX && in->opcode == 0x63 && in->opsize == 2)
		return in->mod != 3; /* Intel's read two bytes, AMD's four, and so does tcg */
	if (is_intel())
		return false;
	first += in->mode == 64 && (*first & 0xf0) == 0x40;
	switch (in->op) {
	case OP_CALL:
	case OP_CALL_IND:
	case OP_JMP:
	case OP_JMP_IND:
	case OP_JCC ... OP_RET:
		return in->mode == 64 && in->opsize_prefix;
	case OP_UD:
		return *first == 0x62 || *first == 0xc4 || *first == 0xc5 ||
		       (in->map == MAP_0F && ((in->opcode | 1) == 0x79 || in->opcode == 0x2b));
	case OP_VEC:
		return *first == 0x62 && !(first[1] & 0x40) && in->mod == 3 && (in->gpr_read | in->gpr_write);
	default:
		return in->map == MAP_0F && in->opcode == 0x0d && in->mod == 3;
	}
}

#endif
