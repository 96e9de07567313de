/*
 * interp_native.c: integer operations, run by the host's own instruction on staged values, so that results and flags (undefined ones
 * included) are the processor's. Flags travel in EAX (interp_int.h): LAHF, SETO and SAHF are a tenth of what PUSHF and POPF cost. Lean.
 */
#include "tcg/x86_64/interp_int.h"

/* 0x7f + OF overflows iff OF. */
#define FLAGS_IN  "addb $0x7f, %%al\n\tsahf\n\t"
#define FLAGS_OUT "\n\tlahf\n\tseto %%al"

#define BY_SIZE(B, W, L, Q) \
	switch (size) { \
	case 1: \
		B; \
		break; \
	case 2: \
		W; \
		break; \
	case 4: \
		L; \
		break; \
	default: \
		Q; \
		break; \
	}

#define KERNEL(name, B, W, L, Q) \
	static u64 name(u64 a, u64 b, u32 size, u32 *flags) \
	{ \
		u32 f = *flags; \
\
		(void)b; \
		BY_SIZE(B, W, L, Q) \
		*flags = f; \
		return a; \
	}

#define ASM2(text, in) asm(FLAGS_IN text FLAGS_OUT : "+&a"(f), "+&q"(a) : in(b) : "cc")
#define TWO(name, ins) \
	KERNEL(name, ASM2(ins "b %b2, %b1", "q"), ASM2(ins "w %w2, %w1", "q"), ASM2(ins "l %k2, %k1", "q"), ASM2(ins "q %q2, %q1", "q"))
/* No byte form. */
#define TWO_W(name, ins) KERNEL(name, (void)0, ASM2(ins "w %w2, %w1", "q"), ASM2(ins "l %k2, %k1", "q"), ASM2(ins "q %q2, %q1", "q"))
#define ONE(name, ins)	 KERNEL(name, ASM2(ins "b %b1", "q"), ASM2(ins "w %w1", "q"), ASM2(ins "l %k1", "q"), ASM2(ins "q %q1", "q"))
#define SHIFT(name, ins) \
	KERNEL(name, ASM2(ins "b %%cl, %b1", "c"), ASM2(ins "w %%cl, %w1", "c"), ASM2(ins "l %%cl, %k1", "c"), ASM2(ins "q %%cl, %q1", "c"))
/* VEX, a = b op a or a op b as the text says; 32 and 64 bits only. */
#define VEX(name, text) KERNEL(name, (void)0, (void)0, ASM2(text("k"), "q"), ASM2(text("q"), "q"))

TWO(k_add, "add")
TWO(k_or, "or")
TWO(k_adc, "adc")
TWO(k_sbb, "sbb")
TWO(k_and, "and")
TWO(k_sub, "sub")
TWO(k_xor, "xor")
TWO(k_cmp, "cmp")
TWO(k_test, "test")
ONE(k_not, "not")
ONE(k_neg, "neg")
ONE(k_inc, "inc")
ONE(k_dec, "dec")
TWO_W(k_imul, "imul")
SHIFT(k_rol, "rol")
SHIFT(k_ror, "ror")
SHIFT(k_rcl, "rcl")
SHIFT(k_rcr, "rcr")
SHIFT(k_shl, "shl")
SHIFT(k_shr, "shr")
SHIFT(k_sar, "sar")
TWO_W(k_bt, "bt")
TWO_W(k_bts, "bts")
TWO_W(k_btr, "btr")
TWO_W(k_btc, "btc")
TWO_W(k_bsf, "bsf")
TWO_W(k_bsr, "bsr")
TWO_W(k_popcnt, "popcnt")
TWO_W(k_lzcnt, "lzcnt")
TWO_W(k_tzcnt, "tzcnt")

#define T_ADCX(s)   "adcx %" s "2, %" s "1"
#define T_ADOX(s)   "adox %" s "2, %" s "1"
#define T_ANDN(s)   "andn %" s "2, %" s "1, %" s "1"
#define T_BEXTR(s)  "bextr %" s "2, %" s "1, %" s "1"
#define T_BLSI(s)   "blsi %" s "2, %" s "1"
#define T_BLSR(s)   "blsr %" s "2, %" s "1"
#define T_BLSMSK(s) "blsmsk %" s "2, %" s "1"
#define T_BZHI(s)   "bzhi %" s "2, %" s "1, %" s "1"
#define T_PDEP(s)   "pdep %" s "2, %" s "1, %" s "1"
#define T_PEXT(s)   "pext %" s "2, %" s "1, %" s "1"
#define T_SARX(s)   "sarx %" s "2, %" s "1, %" s "1"
#define T_SHLX(s)   "shlx %" s "2, %" s "1, %" s "1"
#define T_SHRX(s)   "shrx %" s "2, %" s "1, %" s "1"
VEX(k_adcx, T_ADCX)
VEX(k_adox, T_ADOX)
VEX(k_andn, T_ANDN)
VEX(k_bextr, T_BEXTR)
VEX(k_blsi, T_BLSI)
VEX(k_blsr, T_BLSR)
VEX(k_blsmsk, T_BLSMSK)
VEX(k_bzhi, T_BZHI)
VEX(k_pdep, T_PDEP)
VEX(k_pext, T_PEXT)
VEX(k_sarx, T_SARX)
VEX(k_shlx, T_SHLX)
VEX(k_shrx, T_SHRX)

#define ASM_CRC(text) asm(text : "+q"(a) : "q"(b))

/* Size is the source's. */
static u64 k_crc32(u64 a, u64 b, u32 size, u32 *flags)
{
	(void)flags;
	BY_SIZE(ASM_CRC("crc32b %b1, %k0"), ASM_CRC("crc32w %w1, %k0"), ASM_CRC("crc32l %k1, %k0"), ASM_CRC("crc32q %q1, %q0"))
	return a;
}

/* Of 16 bits it is undefined: the host is asked, in its own encoding, which assemblers refuse to write. */
static u64 k_bswap(u64 a, u64 b, u32 size, u32 *flags)
{
	(void)b;
	(void)flags;
	if (size == 2)
		asm(".byte 0x66\n\tbswapl %%eax" : "+a"(a));
	else if (size == 4)
		asm("bswapl %k0" : "+r"(a));
	else
		asm("bswapq %q0" : "+r"(a));
	return a;
}

static u64 k_xchg(u64 a, u64 b, u32 size, u32 *flags)
{
	(void)a;
	(void)size;
	(void)flags;
	return b;
}

static const interp_kernel kernels[OP_CRC32 + 1] = {
	[OP_ADD] = k_add,	[OP_OR] = k_or,	    [OP_ADC] = k_adc,	    [OP_SBB] = k_sbb,	  [OP_AND] = k_and,
	[OP_SUB] = k_sub,	[OP_XOR] = k_xor,   [OP_CMP] = k_cmp,	    [OP_TEST] = k_test,	  [OP_NOT] = k_not,
	[OP_NEG] = k_neg,	[OP_INC] = k_inc,   [OP_DEC] = k_dec,	    [OP_IMUL] = k_imul,	  [OP_ROL] = k_rol,
	[OP_ROR] = k_ror,	[OP_RCL] = k_rcl,   [OP_RCR] = k_rcr,	    [OP_SHL] = k_shl,	  [OP_SHR] = k_shr,
	[OP_SAR] = k_sar,	[OP_BT] = k_bt,	    [OP_BTS] = k_bts,	    [OP_BTR] = k_btr,	  [OP_BTC] = k_btc,
	[OP_BSF] = k_bsf,	[OP_BSR] = k_bsr,   [OP_POPCNT] = k_popcnt, [OP_LZCNT] = k_lzcnt, [OP_TZCNT] = k_tzcnt,
	[OP_BSWAP] = k_bswap,	[OP_ANDN] = k_andn, [OP_BEXTR] = k_bextr,   [OP_BLSI] = k_blsi,	  [OP_BLSR] = k_blsr,
	[OP_BLSMSK] = k_blsmsk, [OP_BZHI] = k_bzhi, [OP_PDEP] = k_pdep,	    [OP_PEXT] = k_pext,	  [OP_SARX] = k_sarx,
	[OP_SHLX] = k_shlx,	[OP_SHRX] = k_shrx, [OP_ADCX] = k_adcx,	    [OP_ADOX] = k_adox,	  [OP_CRC32] = k_crc32,
	[OP_XCHG] = k_xchg,	[OP_XADD] = k_add,  [OP_RORX] = k_ror,
};

interp_kernel interp_kernel_of(u32 op)
{
	return kernels[op];
}

#define ASM_DOUBLE(text) asm(FLAGS_IN text FLAGS_OUT : "+&a"(f), "+&q"(a) : "q"(b), "c"(count) : "cc")

u64 interp_shld(u64 a, u64 b, u8 count, u32 size, u32 *flags)
{
	u32 f = *flags;

	BY_SIZE((void)0, ASM_DOUBLE("shldw %%cl, %w2, %w1"), ASM_DOUBLE("shldl %%cl, %k2, %k1"), ASM_DOUBLE("shldq %%cl, %q2, %q1"))
	*flags = f;
	return a;
}

u64 interp_shrd(u64 a, u64 b, u8 count, u32 size, u32 *flags)
{
	u32 f = *flags;

	BY_SIZE((void)0, ASM_DOUBLE("shrdw %%cl, %w2, %w1"), ASM_DOUBLE("shrdl %%cl, %k2, %k1"), ASM_DOUBLE("shrdq %%cl, %q2, %q1"))
	*flags = f;
	return a;
}

#define ASM_WIDE(text) asm(FLAGS_IN text FLAGS_OUT : "+&a"(f), "+&q"(lo), "+&d"(hi) : "q"(src) : "cc")
#define WIDE(ins) \
	BY_SIZE(ASM_WIDE("movl %k1, %%eax\n\t" ins "b %b3\n\tmovw %%ax, %w1"), \
		ASM_WIDE("movl %k1, %%eax\n\t" ins "w %w3\n\tmovw %%ax, %w1"), \
		ASM_WIDE("movl %k1, %%eax\n\t" ins "l %k3\n\tmovl %%eax, %k1"), \
		ASM_WIDE("movq %1, %%rax\n\t" ins "q %3\n\tmovq %%rax, %1"))

void interp_wide(u32 op, u64 *plo, u64 *phi, u64 src, u32 size, u32 *flags)
{
	u64 lo = *plo, hi = *phi;
	u32 f = *flags;

	switch (op) {
	case OP_MUL:
		WIDE("mul")
		break;
	case OP_IMUL1:
		WIDE("imul")
		break;
	case OP_DIV:
		WIDE("div")
		break;
	default:
		WIDE("idiv")
		break;
	}
	*plo = lo;
	*phi = hi;
	*flags = f;
}

/* |hi:lo| / |src| by the unsigned division, which cannot overflow while hi < src; then the signed quotient's range. */
static bool idiv_ok(u64 lo, u64 hi, u64 src, u32 size)
{
	u64 sign = BIT(8 * size - 1), mask = interp_mask(size), q, r;
	bool neg = hi & sign, neg_src = src & sign;

	if (neg) {
		lo = -lo & mask;
		hi = (~hi + (lo == 0)) & mask;
	}
	if (neg_src)
		src = -src & mask;
	if (hi >= src)
		return false;
	if (size < 8)
		q = (hi << 8 * size | lo) / src;
	else
		asm("divq %4" : "=a"(q), "=d"(r) : "a"(lo), "d"(hi), "r"(src) : "cc");
	return neg != neg_src ? q <= sign : q < sign;
}

bool interp_div_ok(u32 op, u64 lo, u64 hi, u64 src, u32 size)
{
	if (size == 1) {
		hi = lo >> 8 & 0xff;
		lo &= 0xff;
	}
	return op == OP_DIV ? hi < src : src && idiv_ok(lo, hi, src, size);
}
