/* debugreg.h: a debugger's breakpoints and watchpoints in the form of the processor's debug registers (SDM 3B §17.2). */
#ifndef HUSK_X86_DEBUGREG_H
#define HUSK_X86_DEBUGREG_H

#include "vmm/debug.h"

/* Fills dr[4]; returns DR7 with the global enables, or 0 when hw[DEBUG_MAX_HW] has none in use. */
static inline u64 x86_debug_regs(const struct debug_hw *hw, u64 *dr)
{
	static const u8 rw[] = {[DEBUG_HW_EXEC] = 0, [DEBUG_HW_WRITE] = 1, [DEBUG_HW_ACCESS] = 3};
	u64 dr7 = 0;

	for (u32 i = 0; i < DEBUG_MAX_HW; i++) {
		u64 len = hw[i].len == 8 ? 2 : hw[i].len - 1ull;

		dr[i] = hw[i].addr;
		if (hw[i].len)
			dr7 |= 2ull << (2 * i) | (len << 2 | rw[hw[i].kind]) << (16 + 4 * i);
	}
	return dr7;
}

#endif
