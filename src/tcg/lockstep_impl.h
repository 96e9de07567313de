/* lockstep_impl.h: what lockstep.c (lean) and lockstep_report.c (the rest) share. */
#ifndef HUSK_TCG_LOCKSTEP_IMPL_H
#define HUSK_TCG_LOCKSTEP_IMPL_H

#include "tcg/lockstep.h"
#include "tcg/unit.h"
#include "tcg/x86_64/fpu_impl.h"
#include "vmm/config.h"

#define LOCKSTEP_WRITES (4 * UNIT_MAX_INSNS)

/* What an instruction leaves, but for memory. */
struct lockstep_regs {
	u64 gpr[X86_NR_GPRS], rip, rflags, gs_base, kernel_gs_base;
};

/* Up to 64 bytes that instruction `insn` writes. */
struct lockstep_write {
	u8 *at; /* in guest RAM */
	u64 va;
	u16 n, insn;
	u8 before[64], after[64], got[64]; /* by the interpreter; by the translated unit, at its end */
};

struct lockstep {
	u32 unit;
	u64 unit_va;
	/* The interpreter's run: regs[i] before instruction i. */
	struct lockstep_regs start, regs[UNIT_MAX_INSNS + 1];
	struct x86_insn insns[UNIT_MAX_INSNS];
	u32 nr, next; /* instructions that are complete; the unit's first one behind them */
	bool cut;     /* it stopped before the unit did */
	bool vector;  /* it ran vector or x87 instructions: fpu is compared */
	struct lockstep_write writes[LOCKSTEP_WRITES];
	u32 nr_writes;
	void *jmp[5];
	u8 fpu_of[UNIT_MAX_INSNS + 1]; /* fpu[fpu_of[i]] goes with regs[i] */
	u8 fpu[UNIT_MAX_INSNS + 1][X86_XSAVE_MAX] __attribute__((aligned(64)));
	u8 nr_fpu;
	/* Counted: units and instructions compared; units that left before their end; that stood at their start; that went on where the
	 * interpreter's run was cut; that agreed only when they were repeated (others write memory too). */
	u64 nr_units, nr_insns, nr_early, nr_stood, nr_cut, nr_repeated, nr_vector, nr_written;
};

/* Prints how they differ, and ends husk. ctx: vcpu, vector state saved */
_Noreturn void lockstep_diverged(struct tcg_cpu *c, u32 reason, u32 insn, const char *what);

#endif
