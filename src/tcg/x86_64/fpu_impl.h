/*
 * fpu_impl.h: what the fpu_*.c files share: the stubs in which guest instructions run natively, and the buffers they run on.
 */
#ifndef HUSK_TCG_FPU_IMPL_H
#define HUSK_TCG_FPU_IMPL_H

#include "tcg/x86_64/interp.h"

/* State components (SDM 1 §13.1) that guests may have. AMX and PKRU are not among them. */
#define XS_X87	     0x01ull
#define XS_SSE	     0x02ull
#define XS_AVX	     0x04ull
#define XS_OPMASK    0x20ull
#define XS_ZMM_HI256 0x40ull
#define XS_HI16_ZMM  0x80ull
#define XS_AVX512    (XS_OPMASK | XS_ZMM_HI256 | XS_HI16_ZMM)
#define XS_ALL	     (XS_X87 | XS_SSE | XS_AVX | XS_AVX512)
#define XS_NR	     8u

/* Offsets in an XSAVE area. */
#define XS_FOP	    6u
#define XS_MXCSR    24u
#define XS_ST	    32u
#define XS_XMM	    160u
#define XS_HEADER   512u
#define XS_STATE_BV 512u
#define XS_COMP_BV  520u
#define XS_EXTENDED 576u
#define MXCSR_RESET 0x1f80u

#define FPU_SLOTS     512u
#define FPU_SLOT_SIZE 32u
#define FPU_CODE_SIZE (FPU_SLOTS * FPU_SLOT_SIZE + MEM_PAGE_SIZE) /* the last page holds the exit */
#define FPU_EXIT      (FPU_SLOTS * FPU_SLOT_SIZE)

/* Pages of struct fpu.guard: an operand put over their edges has exactly its accessible pages accessible. */
enum { GUARD_LOW, GUARD_RAM, GUARD_HIGH, GUARD_HIGHER, GUARD_PAGES };

struct fpu {
	u8 *rw, *rx;	/* the code, twice: FPU_CODE_SIZE bytes */
	u8 *guard;	/* GUARD_PAGES pages, of which only GUARD_RAM is accessible */
	u64 mask;	/* components that this guest's CPU model and the host have */
	u64 fault_addr; /* CR2 of the last native #PF, by fpu_stub_fault */
	u32 mxcsr_mask;
	bool xsaveopt;
	u32 offset[XS_NR]; /* of components in the standard format */
	u64 align64;	   /* components that the compacted format aligns (CPUID.0DH ECX[1]) */
	u64 key[FPU_SLOTS][2];
	u8 area[MEM_PAGE_SIZE] __attribute__((aligned(64))); /* where guest XSAVE, FXSAVE, FNSAVE areas are staged */
};

static inline struct fpu *fpu_of(const struct tcg_cpu *c)
{
	return c->fpu_stub;
}

/* Registers of a stub: those of its operands; mem goes to rdi. */
struct fpu_regs {
	u64 rax, rcx, rdx;
	u64 flags; /* in and out, arithmetic ones */
	u64 mem;
};

/* ---- fpu_stub.c ---- */
/* The stub of an instruction: memory operand at [rdi], explicit general register operand in rax. */
const u8 *fpu_stub_get(struct fpu *f, const struct x86_insn *insn);
/* The stub of bytes as they are, up to 15. */
const u8 *fpu_stub_raw(struct fpu *f, const u8 *bytes, u32 len);
/* Runs a stub with the guest's state in the hardware. Returns the vector of the exception it raised, 0: none. */
u32 fpu_stub_run(struct tcg_cpu *c, const u8 *code, struct fpu_regs *r);
/* Runs insn with its guest registers, memory operand at host address mem. Registers and flags change only when nothing was raised. */
u32 fpu_run_insn(struct tcg_cpu *c, const struct x86_insn *insn, u64 mem);
/* Raises what a native exception is for the guest; 0: returns. */
void fpu_raise(struct tcg_cpu *c, u32 trap);

/* ---- fpu_xsave.c: FXSAVE, FXRSTOR and the XSAVE family ---- */
void fpu_fxsave(struct tcg_cpu *c, const struct x86_insn *insn);
void fpu_fxrstor(struct tcg_cpu *c, const struct x86_insn *insn);
void fpu_xsave(struct tcg_cpu *c, const struct x86_insn *insn);
void fpu_xrstor(struct tcg_cpu *c, const struct x86_insn *insn);

/* ---- fpu_masked.c, fpu_gather.c ---- */
void fpu_masked(struct tcg_cpu *c, const struct x86_insn *insn);
void fpu_gather(struct tcg_cpu *c, const struct x86_insn *insn);

/* Linear address of the memory operand in 64-bit code, whether canonical or not. */
u64 fpu_address(struct tcg_cpu *c, const struct x86_insn *insn);
/* Guest memory <-> buffer; sizes that a register has in one access. */
void fpu_load(struct tcg_cpu *c, u64 va, void *buf, u32 n);
void fpu_store(struct tcg_cpu *c, u64 va, const void *buf, u32 n);

/* Copies without vector registers and without libc. */
static inline void fpu_copy(void *to, const void *from, u64 n)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}
static inline void fpu_fill(void *to, u8 value, u64 n)
{
	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(value) : "memory");
}

#endif
