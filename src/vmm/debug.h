/*
 * debug.h: what a debugger (gdb.h) asks of an accelerator, and how a vCPU answers. It all changes while the vCPUs it is about are parked:
 * vCPU threads read it without a lock.
 */
#ifndef HUSK_DEBUG_H
#define HUSK_DEBUG_H

#include "vmm/base/base.h"

#define DEBUG_MAX_BREAKS 256
#define DEBUG_MAX_HW	 4
#define DEBUG_BREAK_MAX	 4 /* bytes of a breakpoint instruction, at most */

/* Why a vCPU came back with VCPU_DEBUG. */
enum debug_why {
	DEBUG_NONE,
	DEBUG_STEP,  /* one instruction is done, or an exception was delivered: its handler's first instruction is next */
	DEBUG_BREAK, /* a breakpoint instruction of vm_debug is next */
	DEBUG_HW, /* vcpu_debug.hw[index]: of an EXEC one the instruction is next, of the others it is done (x86) or next (arm64: gdb knows)
		   */
};

struct debug_stop {
	enum debug_why why;
	u32 index; /* DEBUG_HW */
};

enum debug_hw_kind { DEBUG_HW_EXEC, DEBUG_HW_WRITE, DEBUG_HW_ACCESS };

/* A breakpoint or watchpoint of the processor, by linear address. */
struct debug_hw {
	u64 addr; /* aligned to len */
	u8 len;	  /* 1, 2, 4, 8; EXEC: 1; 0: this one is not in use */
	u8 kind;  /* enum debug_hw_kind */
};

/* How one vCPU is to run. All zero: as without a debugger. */
struct vcpu_debug {
	bool step; /* one instruction; interrupts are held back for it, unless the vCPU is halted */
	bool soft; /* breakpoint instructions of vm_debug leave to VCPU_DEBUG; others are the guest's */
	struct debug_hw hw[DEBUG_MAX_HW];
};

/* A breakpoint instruction that the debugger wrote over guest code. */
struct debug_break {
	u64 gva, gpa;
	u8 saved[DEBUG_BREAK_MAX]; /* the bytes that it hides */
};

struct vm_debug {
	u32 nr_breaks;
	struct debug_break breaks[DEBUG_MAX_BREAKS];
};

/* Whether a breakpoint was put at this guest physical address. Inline for code that must not touch vector registers (src/tcg). ctx: any */
static inline bool debug_break_at(const struct vm_debug *d, u64 gpa)
{
	for (u32 i = 0; i < d->nr_breaks; i++) {
		if (d->breaks[i].gpa == gpa)
			return true;
	}
	return false;
}

#endif
