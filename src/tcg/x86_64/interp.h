/*
 * interp.h: the interpreter: one instruction at a time, complete; the oracle of the translator, and its way out for whatever is rare.
 * Each function executes insn with c->rip at its first byte. On success rip is moved on (interp_step does it for those that do not jump).
 * All that can fault comes before the first change of state, but for what the architecture leaves half done (REP strings).
 * ctx: vcpu, in tcg_exec. Lean: general registers only, no libc.
 */
#ifndef HUSK_TCG_INTERP_H
#define HUSK_TCG_INTERP_H

#include "tcg/mmu.h"
#include "tcg/x86_64/decode.h"

/* Fetches, decodes and executes one instruction (one chunk of a REP string, with rip staying on it while it goes on). Traps (#DB under TF)
 * are left pending in c->exc; the interrupt shadow of the instruction before ends. interp.c */
void interp_step(struct tcg_cpu *c);
/* The same for an instruction that is decoded already. */
void interp_insn(struct tcg_cpu *c, const struct x86_insn *insn);

/* The decode cache; before the vCPU runs. interp_cache.c, not lean */
int interp_init(struct tcg_cpu *c, struct err *e) MUST_CHECK;
void interp_fini(struct tcg_cpu *c); /* accepts what never was */

/* ---- operands, for all interp_*.c, sys_*.c and fpu.c (interp.c) ---- */
/* Linear address of the memory operand. Checks the segment (limit outside 64-bit mode, canonical address inside): #GP or #SS. */
u64 interp_ea(struct tcg_cpu *c, const struct x86_insn *insn, u32 size, bool write);
/* Offset part only, as LEA gives it, not cut to the operand size. */
u64 interp_offset(struct tcg_cpu *c, const struct x86_insn *insn);
/* Linear address of seg:offset for an access of size bytes; #GP or #SS (error code 0). */
u64 interp_linear(struct tcg_cpu *c, u32 seg, u64 offset, u32 size, bool write);
/* Operand n: value zero-extended; immediate sign-extended, then cut to the operand's size. */
u64 interp_read(struct tcg_cpu *c, const struct x86_insn *insn, u32 n);
/* Register writes follow the rules of the operand size: 32 bits clear the upper half, 8 and 16 merge. */
void interp_write(struct tcg_cpu *c, const struct x86_insn *insn, u32 n, u64 value);
u64 interp_reg(const struct tcg_cpu *c, u32 reg, u32 size);
void interp_set_reg(struct tcg_cpu *c, u32 reg, u32 size, u64 value);
/* Stack, by the stack's size (SS.B, 64-bit mode) with values of size bytes. Push: store first, then RSP. */
void interp_push(struct tcg_cpu *c, u32 size, u64 value);
u64 interp_pop(struct tcg_cpu *c, u32 size);
/* A near jump: cuts to the operand size, checks canonical or the CS limit: #GP. */
void interp_jump(struct tcg_cpu *c, u64 rip, u32 opsize);
bool interp_condition(u64 rflags, u8 cc);
/* All flags that POPF-like instructions may change at this CPL; tcg_mode_update included. */
void interp_set_flags(struct tcg_cpu *c, u64 value, u64 mask);

/* ---- by class ---- */
void interp_alu(struct tcg_cpu *c, const struct x86_insn *insn); /* interp_alu.c: OP_ADD .. OP_CRC32, OP_SETCC, OP_CMOV ... */
/* interp_string.c: also INS, OUTS; polls c->requests between chunks. Moves rip itself, when it is through; else sets RF. */
void interp_string(struct tcg_cpu *c, const struct x86_insn *insn);
/* interp_flow.c: stack and near control transfers. Moves rip itself. */
void interp_flow(struct tcg_cpu *c, const struct x86_insn *insn);

/* ---- sys_*.c. Those marked * move rip themselves. ---- */
void sys_insn(struct tcg_cpu *c, const struct x86_insn *insn); /* every OP_ of "segments and system"; HLT*, CLI, STI included */
void sys_far(struct tcg_cpu *c, const struct x86_insn *insn);  /* far CALL JMP RET, IRET, INT n, INT3, INTO, INT1, SYSCALL, SYSRET,
								  SYSENTER, SYSEXIT *; PUSH/POP with a segment register (rip not moved) */
/* Loads a segment register (not CS) by MOV, POP, LDS: checks, #GP #NP #SS. */
void sys_load_seg(struct tcg_cpu *c, u32 seg, u16 selector);
/* Delivers c->exc, an external interrupt or an NMI through the IDT. Faults on the way raise again by tcg_raise (c->delivering is set: the
 * raise makes #DF or, in #DF, a triple fault: sys_triple is called). */
void sys_deliver(struct tcg_cpu *c);
void sys_interrupt(struct tcg_cpu *c, u8 vector);
void sys_nmi(struct tcg_cpu *c);
/* Sets c->triple_fault and TCG_REQ_KICK. */
void sys_triple(struct tcg_cpu *c);
/* #GP unless the guest may use these ports now: IOPL, I/O bitmap of the TSS. For IN, OUT, INS, OUTS. */
void sys_check_io(struct tcg_cpu *c, u16 port, u32 size);
/* MSRs. False: #GP. value's reserved bits are checked. */
bool sys_rdmsr(struct tcg_cpu *c, u32 index, u64 *value);
bool sys_wrmsr(struct tcg_cpu *c, u32 index, u64 value);
void sys_cpuid(struct tcg_cpu *c, u32 leaf, u32 subleaf, u32 out[4]);
/* After INIT: SDM 3A table 9-1, state of an application processor that waits for SIPI; and its start at vector << 12. */
void sys_init_reset(struct tcg_cpu *c);
void sys_sipi(struct tcg_cpu *c, u8 vector);

/* ---- fpu.c ---- */
/* Guest vector state hardware <- -> c->fpu. Save leaves the hardware as C code wants it (MXCSR default, x87 empty). Cheap if nothing to do.
 */
void fpu_save(struct tcg_cpu *c);
void fpu_restore(struct tcg_cpu *c);
int fpu_init(struct tcg_cpu *c, struct err *e) MUST_CHECK;
void fpu_fini(struct tcg_cpu *c);
/* OP_VEC.. and OP_X87.. : the very instruction runs natively on staged operands. #NM, #UD, #MF, #XM as CR0, CR4, XCR0 want it. */
void fpu_insn(struct tcg_cpu *c, const struct x86_insn *insn);
/* Power-on state (SDM 3A table 9-1) into c->fpu; INIT leaves the FPU alone. */
void fpu_reset(struct tcg_cpu *c);
/* For the handler of SIGFPE, SIGSEGV, SIGBUS, SIGILL on the vCPU thread: when the signal was raised by an instruction that fpu_insn runs,
 * makes ucontext go on so that fpu_insn raises the guest's exception, and returns true. ctx: signal handler */
bool fpu_stub_fault(struct tcg_cpu *c, int signo, void *ucontext);

#endif
