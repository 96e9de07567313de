/*
 * fpu_xsave.c: FXSAVE, FXRSTOR, XSAVE, XSAVEOPT, XSAVEC, XSAVES, XRSTOR, XRSTORS (SDM 1 §10.5, 13.7-13.12).
 *
 * The state goes by native XSAVE/XRSTOR in the standard format to and from an area of ours; between it and the guest's memory move exactly
 * the parts that the instruction accesses, at the guest format's offsets. XSAVES and XRSTORS are XSAVEC and XRSTOR: guests have no
 * supervisor components. XSAVEOPT's modified optimization is not made; its init optimization is. Checks come first, so nothing faults
 * natively.
 */
#include "tcg/x86_64/fpu_impl.h"

struct range {
	u32 at, n; /* offset in the component (x87, SSE: in the area), bytes */
};

/* Outside 64-bit mode registers 8 and up are neither saved nor loaded. */
static struct range component_range(u32 i, bool is64, u32 part)
{
	switch (i) {
	case 0:
		return part ? (struct range){XS_ST, 128} : (struct range){0, XS_MXCSR};
	case 1:
		return part ? (struct range){0, 0} : (struct range){XS_XMM, is64 ? 256 : 128};
	case 2:
		return part ? (struct range){0, 0} : (struct range){0, is64 ? 256 : 128};
	case 5:
		return part ? (struct range){0, 0} : (struct range){0, 64};
	case 6:
		return part ? (struct range){0, 0} : (struct range){0, is64 ? 512 : 256};
	default:
		return part ? (struct range){0, 0} : (struct range){0, is64 ? 1024 : 0};
	}
}

static const u16 component_size[XS_NR] = {0, 0, 256, 0, 0, 64, 512, 1024};

/* Offset of component i in the guest's area; compact: its XCOMP_BV. */
static u32 component_offset(const struct fpu *f, u32 i, u64 compact)
{
	u32 at = XS_EXTENDED;

	if (i < 2)
		return 0;
	if (!compact)
		return f->offset[i];
	for (u32 j = 2; j <= i; j++) {
		if (!(compact >> j & 1))
			continue;
		if (f->align64 >> j & 1)
			at = ALIGN_UP(at, 64);
		if (j < i)
			at += component_size[j];
	}
	return at;
}

enum transfer { PROBE, STORE, LOAD };

static void move_range(struct tcg_cpu *c, u64 va, u8 *area, u32 n, enum transfer what)
{
	if (what == PROBE)
		mmu_probe(c, va, n, MMU_WRITE, tcg_data_mode(c));
	else if (what == STORE)
		mmu_store_bytes(c, va, area, n, tcg_data_mode(c));
	else
		mmu_load_bytes(c, va, area, n, tcg_data_mode(c));
}

/* All of the components' bytes between the guest's area at va and ours; compact as above. MXCSR and header are not among them. */
static void move_components(struct tcg_cpu *c, u64 va, u64 components, u64 compact, enum transfer what)
{
	struct fpu *f = fpu_of(c);

	for (u32 i = 0; i < XS_NR; i++) {
		if (!(components >> i & 1))
			continue;
		for (u32 part = 0; part < 2; part++) {
			struct range r = component_range(i, tcg_is_64(c), part);

			if (r.n)
				move_range(c, va + component_offset(f, i, compact) + r.at, f->area + component_offset(f, i, 0) + r.at, r.n,
					   what);
		}
	}
}

static void native_save(struct tcg_cpu *c, u64 components)
{
	u8 *area = fpu_of(c)->area;

	fpu_restore(c);
	fpu_fill(area + XS_HEADER, 0, XS_EXTENDED - XS_HEADER);
	__asm__ volatile("xsave64 (%0)" : : "r"(area), "a"((u32)components), "d"(0) : "memory");
	fpu_fill(area + XS_FOP, 0, XS_MXCSR - XS_FOP); /* host addresses */
}

static void native_restore(struct tcg_cpu *c, u64 components)
{
	u8 *area = fpu_of(c)->area;

	fpu_restore(c);
	fpu_fill(area + XS_FOP, 0, XS_MXCSR - XS_FOP);
	__asm__ volatile("xrstor64 (%0)" : : "r"(area), "a"((u32)components), "d"(0) : "memory");
}

static u64 area_address(struct tcg_cpu *c, const struct x86_insn *insn, u32 size, u32 align, bool write)
{
	u64 va = interp_ea(c, insn, size, write);

	if (va & (align - 1))
		tcg_raise_err(c, X86_GP, 0);
	return va;
}

/* ---- FXSAVE, FXRSTOR ---- */

/* MXCSR and its mask lie between the parts of x87. */
static u32 fx_size(const struct tcg_cpu *c)
{
	return XS_XMM + (tcg_is_64(c) ? 256 : 128);
}

void fpu_fxsave(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 va = area_address(c, insn, 512, 16, true);
	u8 *area = fpu_of(c)->area;

	mmu_probe(c, va, 512, MMU_WRITE, tcg_data_mode(c));
	fpu_restore(c);
	__asm__ volatile("fxsave64 (%0)" : : "r"(area) : "memory");
	fpu_fill(area + XS_FOP, 0, XS_MXCSR - XS_FOP);
	mmu_store_bytes(c, va, area, fx_size(c), tcg_data_mode(c));
}

void fpu_fxrstor(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 va = area_address(c, insn, 512, 16, false);
	struct fpu *f = fpu_of(c);

	mmu_load_bytes(c, va, f->area, 512, tcg_data_mode(c));
	if (ld_le32(f->area + XS_MXCSR) & ~f->mxcsr_mask)
		tcg_raise_err(c, X86_GP, 0);
	fpu_restore(c);
	if (!tcg_is_64(c)) {
		u8 now[512] __attribute__((aligned(16)));
		u32 n = fx_size(c);

		__asm__ volatile("fxsave64 (%0)" : : "r"(now) : "memory");
		fpu_copy(f->area + n, now + n, XS_XMM + 256 - n);
	}
	fpu_fill(f->area + XS_FOP, 0, XS_MXCSR - XS_FOP);
	__asm__ volatile("fxrstor64 (%0)" : : "r"(f->area) : "memory");
}

/* ---- XSAVE ---- */

static u64 requested(const struct tcg_cpu *c)
{
	return ((u32)c->gpr[X86_RAX] | c->gpr[X86_RDX] << 32) & c->xcr0 & fpu_of(c)->mask;
}

static bool writes_mxcsr(u64 saved, u64 rfbm, bool compact)
{
	return compact ? saved & XS_SSE : rfbm & (XS_SSE | XS_AVX);
}

static void probe_header(struct tcg_cpu *c, u64 va, u64 saved, u64 rfbm, bool compact)
{
	if (writes_mxcsr(saved, rfbm, compact))
		mmu_probe(c, va + XS_MXCSR, 8, MMU_WRITE, tcg_data_mode(c));
	mmu_probe(c, va + XS_HEADER, compact ? 16 : 8, MMU_WRITE, tcg_data_mode(c));
}

/* Stores XSTATE_BV (compact: and XCOMP_BV) after the components, MXCSR and its mask where the format wants them. */
static void store_header(struct tcg_cpu *c, u64 va, u64 saved, u64 rfbm, bool compact)
{
	enum tcg_mmu_mode mode = tcg_data_mode(c);

	if (writes_mxcsr(saved, rfbm, compact))
		mmu_store(c, va + XS_MXCSR, 8, ld_le64(fpu_of(c)->area + XS_MXCSR), mode);
	if (compact) {
		mmu_store(c, va + XS_STATE_BV, 8, saved, mode);
		mmu_store(c, va + XS_COMP_BV, 8, rfbm | BIT(63), mode);
	} else {
		u64 old = mmu_load(c, va + XS_STATE_BV, 8, mode);

		mmu_store(c, va + XS_STATE_BV, 8, (old & ~rfbm) | saved, mode);
	}
}

void fpu_xsave(struct tcg_cpu *c, const struct x86_insn *insn)
{
	bool compact = insn->op == OP_XSAVEC || insn->op == OP_XSAVES;
	u64 va = area_address(c, insn, XS_EXTENDED, 64, true), rfbm = requested(c), layout = compact ? rfbm | BIT(63) : 0;
	u64 saved, written;
	u8 *area = fpu_of(c)->area;

	native_save(c, rfbm | XS_SSE); /* MXCSR in any case */
	saved = ld_le64(area + XS_STATE_BV) & rfbm;
	/* MXCSR belongs to SSE in the compacted format only (SDM 1 §13.10). */
	if (compact && rfbm & XS_SSE && ld_le32(area + XS_MXCSR) != MXCSR_RESET)
		saved |= XS_SSE;
	written = insn->op == OP_XSAVE ? rfbm : saved;
	probe_header(c, va, saved, rfbm, compact);
	move_components(c, va, written, layout, PROBE);
	move_components(c, va, written, layout, STORE);
	store_header(c, va, saved, rfbm, compact);
}

/* ---- XRSTOR ---- */

/* Reads the header and checks it (SDM 1 §13.8.1, 13.12). Returns XCOMP_BV, 0 for the standard format. */
static u64 load_header(struct tcg_cpu *c, u64 va, bool supervisor, u64 *state)
{
	u64 h[8], reserved = 0, known = c->xcr0;
	bool compact;

	mmu_load_bytes(c, va + XS_HEADER, h, sizeof(h), tcg_data_mode(c));
	compact = h[1] >> 63;
	for (u32 i = 2; i < (compact ? 8 : 3); i++)
		reserved |= h[i];
	if (compact)
		reserved |= (h[1] & ~BIT(63) & ~known) | (h[0] & ~h[1]) | !tcg_has(c, FEAT_XSAVEC);
	else
		reserved |= h[1] | (h[0] & ~known) | supervisor;
	if (reserved)
		tcg_raise_err(c, X86_GP, 0);
	*state = h[0];
	return h[1];
}

/* The MXCSR that is to be loaded; the one there is when the instruction does not load it. */
static u32 next_mxcsr(struct tcg_cpu *c, u64 va, u64 rfbm, u64 state, bool compact)
{
	u32 value;

	if (!(compact ? rfbm & XS_SSE : rfbm & (XS_SSE | XS_AVX))) {
		fpu_restore(c);
		__asm__ volatile("stmxcsr %0" : "=m"(value));
		return value;
	}
	if (compact && !(state & XS_SSE))
		return MXCSR_RESET;
	value = (u32)mmu_load(c, va + XS_MXCSR, 4, tcg_data_mode(c));
	if (value & ~fpu_of(c)->mxcsr_mask)
		tcg_raise_err(c, X86_GP, 0);
	return value;
}

/* Outside 64-bit mode: the area begins as what is in the registers, with components to be initialized zeroed as far as this mode sees them.
 */
static u64 prepare_narrow(struct tcg_cpu *c, u64 rfbm, u64 load)
{
	struct fpu *f = fpu_of(c);
	u64 keep = rfbm & ~(XS_X87 | XS_HI16_ZMM);

	native_save(c, keep);
	for (u32 i = 1; i < XS_NR; i++) {
		struct range r = component_range(i, false, 0);
		u8 *at = f->area + component_offset(f, i, 0);

		if (!(keep >> i & 1))
			continue;
		fpu_fill(at + r.at, 0, r.n);
	}
	return keep | (load & XS_X87);
}

void fpu_xrstor(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 va = area_address(c, insn, XS_EXTENDED, 64, false), rfbm = requested(c), state, load, layout;
	u8 *area = fpu_of(c)->area;
	u32 mxcsr;

	layout = load_header(c, va, insn->op == OP_XRSTORS, &state);
	mxcsr = next_mxcsr(c, va, rfbm, state, layout);
	load = rfbm & state;
	if (!tcg_is_64(c)) {
		u64 bits = prepare_narrow(c, rfbm, load);

		move_components(c, va, load, layout, LOAD);
		load = bits;
		rfbm &= ~XS_HI16_ZMM;
	} else {
		move_components(c, va, load, layout, LOAD);
	}
	st_le32(area + XS_MXCSR, mxcsr);
	fpu_fill(area + XS_HEADER, 0, XS_EXTENDED - XS_HEADER);
	st_le64(area + XS_STATE_BV, load);
	native_restore(c, rfbm);
}
