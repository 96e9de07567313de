/*
 * sys.h: what the sys_*.c files share: descriptors, stacks of other rings, control registers. Contracts of the rest: interp.h.
 * Segment attributes are struct x86_seg's: descriptor bits 40-47 and 52-55. Lean. ctx: vcpu, in tcg_exec
 */
#ifndef HUSK_TCG_SYS_H
#define HUSK_TCG_SYS_H

#include "tcg/x86_64/interp.h"

/* delivering_vector of events that are benign whatever their vector is. */
#define DELIVERING_SOFT	    0xfe /* and faults on the way are not external: no EXT in their error code */
#define DELIVERING_EXTERNAL 0xff

/* ---- descriptors (sys_desc.c) ---- */

/* System descriptor types (SDM 3A table 3-2). */
enum {
	DESC_TSS16 = 1,
	DESC_LDT,
	DESC_TSS16_BUSY,
	DESC_CALL16,
	DESC_TASK_GATE,
	DESC_INT16,
	DESC_TRAP16,
	DESC_TSS32 = 9,
	DESC_TSS32_BUSY = 11,
	DESC_CALL32,
	DESC_INT32 = 14,
	DESC_TRAP32
};
#define DESC_ACCESSED	0x1u
#define DESC_WRITABLE	0x2u /* data; readable, for code */
#define DESC_CONFORMING 0x4u /* code; expand-down, for data */
#define DESC_CODE	0x8u

struct sys_desc {
	u64 low, va; /* the eight bytes, and where they are */
	u32 attr;
	u16 selector;
};

/* False: null, or beyond the table's limit. Faults only as the table's memory does. */
bool sys_desc_find(struct tcg_cpu *c, u16 selector, struct sys_desc *d);
/* Raises vector(selector) instead. */
void sys_desc_get(struct tcg_cpu *c, u16 selector, u8 vector, struct sys_desc *d);
/* The upper half of a system descriptor in long mode; raises vector(selector) when the table ends before it. */
u64 sys_desc_high(struct tcg_cpu *c, const struct sys_desc *d, u8 vector);
/* Sets the accessed bit in memory. */
void sys_desc_touch(struct tcg_cpu *c, struct sys_desc *d);
void sys_desc_seg(const struct sys_desc *d, u16 selector, struct x86_seg *out);

static inline u64 desc_base(u64 low)
{
	return (low >> 16 & 0xffffff) | (low >> 32 & 0xff000000);
}
static inline u32 desc_limit(u64 low)
{
	u32 limit = (u32)(low & 0xffff) | (u32)(low >> 32 & 0xf0000);

	return low >> 55 & 1 ? limit << 12 | 0xfff : limit;
}
static inline u32 desc_attr(u64 low)
{
	return (u32)(low >> 40 & 0xff) | (u32)(low >> 44 & 0xf00);
}
static inline u32 desc_dpl(const struct sys_desc *d)
{
	return X86_ATTR_DPL(d->attr);
}
static inline bool desc_is_code(u32 attr)
{
	return attr & X86_ATTR_S && attr & DESC_CODE;
}
static inline bool desc_is_writable(u32 attr)
{
	return attr & X86_ATTR_S && !(attr & DESC_CODE) && attr & DESC_WRITABLE;
}

/* ---- modes ---- */
static inline bool sys_long(const struct tcg_cpu *c)
{
	return c->efer & X86_EFER_LMA;
}
/* Protected mode, not virtual 8086. */
static inline bool sys_protected(const struct tcg_cpu *c)
{
	return c->cr0 & X86_CR0_PE && !(c->rflags & X86_FLAG_VM);
}
static inline u32 sys_iopl(const struct tcg_cpu *c)
{
	return (u32)(c->rflags >> 12 & 3);
}
static inline bool sys_null(u16 selector)
{
	return !(selector & ~3u);
}
static inline bool sys_is_amd(const struct tcg_cpu *c)
{
	return c->cpuid.nr && x86_maker_is_amd(c->cpuid.e[0].ebx);
}
_Noreturn static inline void sys_gp(struct tcg_cpu *c, u32 error)
{
	tcg_raise_err(c, X86_GP, error);
}
static inline void sys_need_cpl0(struct tcg_cpu *c)
{
	if (c->cpl)
		sys_gp(c, 0);
}
static inline void sys_need_protected(struct tcg_cpu *c)
{
	if (!sys_protected(c))
		tcg_raise(c, X86_UD);
}
/* Value cut to size bytes (1, 2, 4, 8). */
static inline u64 sys_cut(u64 value, u32 size)
{
	return size == 8 ? value : value & (BIT(size * 8) - 1);
}

/* Descriptor tables and TSS: supervisor accesses whatever the CPL is (SDM 3A §4.6.1); 32-bit addresses outside long mode. */
u64 sys_load(struct tcg_cpu *c, u64 va, u32 size);
void sys_store(struct tcg_cpu *c, u64 va, u32 size, u64 value);
/* IF was set, or NMIs unmasked: the run loop has to look when something waited for that. */
static inline void sys_look(struct tcg_cpu *c)
{
	if (c->irq_waiting)
		tcg_request(c, TCG_REQ_SHOOT);
}
/* The LAPIC was written, its priorities may have changed. */
void sys_look_lapic(struct tcg_cpu *c);

/* ---- stacks (sys_stack.c) ---- */
struct sys_stack {
	struct x86_seg seg; /* SS */
	u64 sp, mask;	    /* mask: bits of RSP that count */
	enum tcg_mmu_mode mode;
	u32 error; /* of #SS */
	bool flat; /* 64-bit: no base, no limit */
};
/* The current one. */
void sys_stack_here(struct tcg_cpu *c, struct sys_stack *s);
/* Another one, at privilege level cpl, of 64-bit code or not. */
void sys_stack_of(struct tcg_cpu *c, struct sys_stack *s, const struct x86_seg *seg, u64 sp, u32 cpl, bool is_64, u32 error);
u64 sys_stack_pop(struct tcg_cpu *c, struct sys_stack *s, u32 size);
void sys_stack_push(struct tcg_cpu *c, struct sys_stack *s, u32 size, u64 value);
void sys_stack_skip(struct sys_stack *s, s64 bytes);
/* Makes sp the guest's. */
void sys_stack_commit(struct tcg_cpu *c, const struct sys_stack *s);
/* Stack pointer for privilege level cpl (long mode), or of the IST (1-7), from the TSS; #TS. */
u64 sys_tss_rsp(struct tcg_cpu *c, u32 cpl, u32 ist);
/* The same outside long mode: a stack, with all checks of SDM 3A §6.12.1. */
void sys_tss_stack(struct tcg_cpu *c, u32 cpl, struct sys_stack *s);
/* SS as long mode makes it when a handler of more privilege starts: null, of that level. */
void sys_null_ss(struct x86_seg *ss, u32 cpl);

/* ---- code segments ---- */
/* #GP(0) unless rip lies in cs: canonical, or below its limit. */
void sys_check_rip(struct tcg_cpu *c, const struct x86_seg *cs, u64 rip);
/* CS, CPL and rip at once, mode updated. */
void sys_set_cs(struct tcg_cpu *c, const struct x86_seg *cs, u32 cpl, u64 rip);
/* Flat segments that SYSCALL and its kin load without looking at a descriptor. */
void sys_flat_cs_ss(struct tcg_cpu *c, u16 cs, u16 ss, u32 cpl, bool is_64);
/* Real and virtual 8086 mode. */
void sys_set_real_cs(struct tcg_cpu *c, u16 selector, u64 rip);
void sys_set_real_seg(struct tcg_cpu *c, u32 seg, u16 selector);

/* ---- sys_ret.c ---- */
void sys_retf(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_iret(struct tcg_cpu *c, const struct x86_insn *insn);

/* ---- sys_fast.c ---- */
void sys_syscall(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_sysret(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_sysenter(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_sysexit(struct tcg_cpu *c, const struct x86_insn *insn);

/* ---- sys_exc.c ---- */
/* INT n, INT3, INTO (the flag was looked at), INT1. */
void sys_software_int(struct tcg_cpu *c, const struct x86_insn *insn, u8 vector);

/* ---- sys_cr.c ---- */
void sys_mov_from_cr(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_mov_to_cr(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_mov_from_dr(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_mov_to_dr(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_clts(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_lmsw(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_smsw(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_xgetbv(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_xsetbv(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_invlpg(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_invpcid(struct tcg_cpu *c, const struct x86_insn *insn);
/* MOV to CR0 and CR4 and a write of EFER, with all checks. False: #GP, nothing changed. */
bool sys_set_cr0(struct tcg_cpu *c, u64 value);
bool sys_set_cr4(struct tcg_cpu *c, u64 value);
bool sys_set_efer(struct tcg_cpu *c, u64 value);
/* A register of a leaf that does not depend on the state; 0 when it is not there. */
enum { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };
u32 sys_cpuid_reg(struct tcg_cpu *c, u32 leaf, u32 subleaf, u32 reg);
bool sys_cpuid_bit(struct tcg_cpu *c, u32 leaf, u32 reg, u32 bit);

/* ---- sys_seg.c ---- */
void sys_mov_from_sreg(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_mov_to_sreg(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_load_far(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_push_sreg(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_pop_sreg(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_store_table(struct tcg_cpu *c, const struct x86_insn *insn); /* SGDT, SIDT */
void sys_load_table(struct tcg_cpu *c, const struct x86_insn *insn);  /* LGDT, LIDT */
void sys_sldt_str(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_lldt(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_ltr(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_verify(struct tcg_cpu *c, const struct x86_insn *insn); /* VERR, VERW */
void sys_lar_lsl(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_arpl(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_swapgs(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_fsgsbase(struct tcg_cpu *c, const struct x86_insn *insn);

/* ---- sys_insn.c ---- */
/* The r/m operand: registers by size, memory always 16 bits wide for the stores of selectors and the like. */
u16 sys_read_rm16(struct tcg_cpu *c, const struct x86_insn *insn);
void sys_write_rm(struct tcg_cpu *c, const struct x86_insn *insn, u64 value);
/* SGDT, SIDT, SLDT, STR, SMSW: #GP in user mode under CR4.UMIP. */
void sys_check_umip(struct tcg_cpu *c);

#endif
