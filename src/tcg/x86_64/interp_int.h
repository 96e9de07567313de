/*
 * interp_int.h: what the interp_*.c files share among themselves.
 */
#ifndef HUSK_TCG_INTERP_INT_H
#define HUSK_TCG_INTERP_INT_H

#include "tcg/x86_64/interp.h"

/* ---- decode cache: by linear address and mode; the bytes are compared each time, so nothing ever has to be invalidated ---- */
struct interp_entry {
	u64 va, bytes[2], mask[2]; /* the instruction's bytes, and which of 16 they are */
	u32 key;		   /* TCG_MODE_64 | 32 | PE, and CACHE_VALID */
	struct x86_insn insn;
};
#define INTERP_CACHE_SIZE 2048u

struct interp_cache {
	u64 page_gpa; /* the last code page, and its host address */
	const u8 *page;
	u64 dr6; /* data breakpoints that the instruction hit */
	struct interp_entry e[INTERP_CACHE_SIZE];
};

/* ---- arithmetic flags as LAHF; SETO AL leave them in EAX: AH = SF ZF AF PF CF, AL = OF ---- */
static inline u32 interp_flags_pack(u64 rflags)
{
	return (u32)((rflags & 0xff) << 8 | (rflags >> 11 & 1));
}
static inline u64 interp_flags_merge(u64 rflags, u32 f)
{
	return (rflags & ~X86_FLAGS_ARITH) | (f >> 8 & 0xd5) | (u64)(f & 1) << 11;
}

/* ---- the operations themselves, run natively (interp_native.c) ---- */
/* a op b of size bytes, both zero-extended; f: flags in and out. */
typedef u64 (*interp_kernel)(u64 a, u64 b, u32 size, u32 *f);
/* NULL for what is none: two-operand arithmetic, shifts (b = count), NOT NEG INC DEC (b unused), BT* (b = bit of the register),
 * BSF BSR POPCNT LZCNT TZCNT and IMUL (a: all of the destination's register), the BMI operations with two sources. */
interp_kernel interp_kernel_of(u32 op);
/* A second form of the shifts: by the constant 1, which the processor runs with other undefined flags. */
u64 interp_shld(u64 a, u64 b, u8 count, u32 size, u32 *f);
u64 interp_shrd(u64 a, u64 b, u8 count, u32 size, u32 *f);
/* MUL IMUL1 DIV IDIV: hi:lo is rDX:rAX, or AX in lo for bytes. Divisions must not overflow: interp_div_ok. */
void interp_wide(u32 op, u64 *lo, u64 *hi, u64 src, u32 size, u32 *f);
bool interp_div_ok(u32 op, u64 lo, u64 hi, u64 src, u32 size);

/* ---- read-modify-write (interp_atomic.c) ---- */
/* [va] = kernel([va], src); the old value. Write access is checked before anything is read; with lock it is atomic for all vCPUs. */
u64 interp_modify(struct tcg_cpu *c, u64 va, u32 size, bool lock, interp_kernel kernel, u64 src, u32 *f);
void interp_cmpxchg(struct tcg_cpu *c, const struct x86_insn *insn);
void interp_cmpxchg_wide(struct tcg_cpu *c, const struct x86_insn *insn); /* CMPXCHG8B, CMPXCHG16B */

/* ---- more classes ---- */
void interp_bits(struct tcg_cpu *c, const struct x86_insn *insn); /* interp_bits.c: BT.., BSF.., BMI, ADX, CRC32 */
void interp_bcd(struct tcg_cpu *c, const struct x86_insn *insn);  /* interp_bits.c: AAA.. */

/* ---- operands ---- */
static inline u64 interp_mask(u32 size)
{
	return size >= 8 ? ~0ull : BIT(8 * size) - 1;
}
static inline u64 interp_load(struct tcg_cpu *c, u64 va, u32 size)
{
	return mmu_load(c, va, size, tcg_data_mode(c));
}
static inline void interp_store(struct tcg_cpu *c, u64 va, u32 size, u64 value)
{
	mmu_store(c, va, size, value, tcg_data_mode(c));
}
static inline u64 interp_next_rip(const struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 rip = c->rip + insn->len;

	return tcg_is_64(c) ? rip : (u32)rip;
}
/* Whether an access of size bytes is inside the segment and allowed; outside 64-bit mode. */
bool interp_seg_allows(const struct tcg_cpu *c, u32 seg, u64 offset, u64 size, bool write);
/* Segment of an implicit DS:... operand (strings, XLAT), with its override. */
u32 interp_data_seg(const struct x86_insn *insn);
/* What a near jump would make of rip; #GP. */
u64 interp_target(struct tcg_cpu *c, u64 rip, u32 opsize);
/* Value at offset bytes above the top of the stack; and RSP += delta. */
u64 interp_peek(struct tcg_cpu *c, u64 offset, u32 size);
void interp_stack_add(struct tcg_cpu *c, u64 delta);
u64 interp_stack_mask(const struct tcg_cpu *c);
void interp_set_sp(struct tcg_cpu *c, u64 sp);

#endif
