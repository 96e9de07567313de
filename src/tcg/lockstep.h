/*
 * lockstep.h: --tcg-lockstep: each unit's instructions run twice, in the interpreter and translated, and both must leave the same. One
 * vCPU.
 *
 * First the interpreter runs the unit's instructions, with a log of what they write; its memory and registers are taken back. Then the
 * translated unit runs to its first exit (nothing is linked in this mode), and what it left is compared with the interpreter's at the same
 * instruction. What cannot be run twice (devices, the time-stamp counter) is for the interpreter alone in this mode: units end there.
 */
#ifndef HUSK_TCG_LOCKSTEP_H
#define HUSK_TCG_LOCKSTEP_H

#include "tcg/tcg.h"

int lockstep_new(struct tcg_vm *t, struct err *e) MUST_CHECK;
void lockstep_free(struct tcg_vm *t); /* accepts what never was; prints what was counted */

/* In the place of the loop over units: one unit. True: the instruction at rip is to be interpreted. Lean. ctx: vcpu, in tcg_exec */
bool lockstep_run(struct tcg_cpu *c);
/* Whether units may hold an instruction of this kind (enum x86_op). Lean. */
bool lockstep_can(u32 op);

#endif
