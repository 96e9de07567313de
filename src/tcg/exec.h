/*
 * exec.h: the inner run loop of a vCPU: translated units, interpreter, and what leads from one to the other.
 */
#ifndef HUSK_TCG_EXEC_H
#define HUSK_TCG_EXEC_H

#include "tcg/tcg.h"

/* Process-wide handlers for the signals that native guest instructions raise (#DE, #XM, #MF, misaligned operands). Each vCPU thread calls
 * exec_thread_init once (alternate stack); c: whose guest code this thread runs. */
int exec_signals_init(struct err *e) MUST_CHECK;
int exec_thread_init(struct tcg_cpu *c, struct err *e) MUST_CHECK;
void exec_thread_fini(void);

/* Empties the jump caches, of user code only or of both. The vCPU stands still, or it is the caller's. */
void exec_forget_jumps(struct tcg_cpu *c, bool kernel);

/* Called by translated code: interprets the instruction at va; desc: its length, and in bits 8.. where it lies decoded. True: translated
 * code may go on after it. Lean. */
bool exec_callout(struct tcg_cpu *c, u64 va, u32 desc);

/* The same for instructions that change the mode: SYSCALL, SYSRET, IRET, STAC, CLAC. desc: operation, length << 16, operand size << 24.
 * Returns the host address to go on at, or 0: c->rip is for the dispatcher. */
u64 exec_transfer(struct tcg_cpu *c, u64 va, u32 desc);

/* lockstep.c: host address of the code for c->rip, 0: interpret; may raise. Enters it and comes back at its first exit, with c->rip set and
 * the vector state saved: LEAVE_*. */
u64 exec_find(struct tcg_cpu *c, u32 *unit);
u32 exec_once(struct tcg_cpu *c, u64 host);

/* vcpu.c: delivers what is pending: c->exc, NMI, interrupts, by the architecture's order; takes (clears) the requests it has looked at.
 * May raise. Called inside tcg_exec's setjmp. Lean. */
void vcpu_deliver(struct tcg_cpu *c);

#endif
