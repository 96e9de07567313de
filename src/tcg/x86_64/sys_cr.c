/* sys_cr.c: control, debug and extended control registers (SDM 3A §2.5, §2.6, SDM 3B §17.2), INVLPG, INVPCID. Lean. */
#include "arch/x86_64/chips.h"
#include "tcg/x86_64/sys.h"

#define CR0_KNOWN \
	(X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM | X86_CR0_NW | X86_CR0_CD | \
	 X86_CR0_PG)
#define EFER_FFXSR     0x4000ull
#define CR3_NO_FLUSH   BIT(63)
#define CR3_PCID       0xfffull
#define DR6_ACTIVE_LOW 0xffff0ff0ull
#define DR6_WRITABLE   0xe00full
#define DR6_BD	       0x2000ull
#define DR7_GD	       0x2000ull
#define DR7_ONE	       0x400ull
#define DR7_WRITABLE   0xffff2bffull

u32 sys_cpuid_reg(struct tcg_cpu *c, u32 leaf, u32 subleaf, u32 reg)
{
	const struct x86_cpuid *e = x86_cpuid_find(&c->cpuid, leaf, subleaf);

	if (!e)
		return 0;
	return reg == CPUID_EAX ? e->eax : reg == CPUID_EBX ? e->ebx : reg == CPUID_ECX ? e->ecx : e->edx;
}

bool sys_cpuid_bit(struct tcg_cpu *c, u32 leaf, u32 reg, u32 bit)
{
	return sys_cpuid_reg(c, leaf, 0, reg) >> bit & 1;
}

void sys_look_lapic(struct tcg_cpu *c)
{
	if (lapic_pending(c->lapic) >= 0)
		tcg_request(c, TCG_REQ_SHOOT);
}

/* ---- CR0, CR3, CR4, EFER ---- */

/* Paging goes on or off: EFER.LMA follows EFER.LME. False: not from here. */
static bool switch_paging(struct tcg_cpu *c, bool on)
{
	if (!on) {
		if (c->cr4 & X86_CR4_PCIDE || tcg_is_64(c))
			return false;
		c->efer &= ~X86_EFER_LMA;
	} else if (c->efer & X86_EFER_LME) {
		if (!(c->cr4 & X86_CR4_PAE) || c->seg[X86_CS].attr & X86_ATTR_L)
			return false;
		c->efer |= X86_EFER_LMA;
	}
	return true;
}

bool sys_set_cr0(struct tcg_cpu *c, u64 value)
{
	u64 changed;

	if (value >> 32 || (value & X86_CR0_PG && !(value & X86_CR0_PE)) || (value & X86_CR0_NW && !(value & X86_CR0_CD)))
		return false;
	value = (value & CR0_KNOWN) | X86_CR0_ET;
	changed = value ^ c->cr0;
	if (changed & X86_CR0_PG && !switch_paging(c, value & X86_CR0_PG))
		return false;
	c->cr0 = value;
	if (changed & (X86_CR0_PG | X86_CR0_PE | X86_CR0_WP))
		mmu_flush_all(c);
	tcg_mode_update(c);
	return true;
}

/* The feature behind each bit of CR4. Leaf 0: there always. */
static const struct {
	u32 bit, leaf;
	u8 reg, feature;
} cr4_bits[] = {
	{0, 1, CPUID_EDX, 1 /* VME */},
	{1, 1, CPUID_EDX, 1},
	{2, 0, 0, 0 /* TSD */},
	{3, 1, CPUID_EDX, 2 /* DE */},
	{4, 1, CPUID_EDX, 3 /* PSE */},
	{5, 1, CPUID_EDX, 6 /* PAE */},
	{6, 1, CPUID_EDX, 7 /* MCE */},
	{7, 1, CPUID_EDX, 13 /* PGE */},
	{8, 0, 0, 0 /* PCE */},
	{9, 1, CPUID_EDX, 24 /* FXSR */},
	{10, 1, CPUID_EDX, 25 /* SSE */},
	{11, 7, CPUID_ECX, 2 /* UMIP */},
	{12, 7, CPUID_ECX, 16 /* LA57 */},
	{16, 7, CPUID_EBX, 0 /* FSGSBASE */},
	{17, 1, CPUID_ECX, 17 /* PCID */},
	{18, 1, CPUID_ECX, 26 /* XSAVE */},
	{20, 7, CPUID_EBX, 7 /* SMEP */},
	{21, 7, CPUID_EBX, 20 /* SMAP */},
	{22, 7, CPUID_ECX, 3 /* PKU */},
};

/* Whether these bits of CR4 may be set. */
static bool cr4_allows(struct tcg_cpu *c, u64 bits)
{
	for (u32 i = 0; i < ARRAY_SIZE(cr4_bits) && bits; i++) {
		u64 bit = BIT(cr4_bits[i].bit);

		if (!(bits & bit))
			continue;
		if (cr4_bits[i].leaf && !sys_cpuid_bit(c, cr4_bits[i].leaf, cr4_bits[i].reg, cr4_bits[i].feature))
			return false;
		bits &= ~bit;
	}
	return !bits;
}

bool sys_set_cr4(struct tcg_cpu *c, u64 value)
{
	const u64 paging = X86_CR4_PGE | X86_CR4_PAE | X86_CR4_PSE | X86_CR4_PCIDE | X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_PKE |
			   X86_CR4_LA57;
	u64 changed = value ^ c->cr4;

	if (!cr4_allows(c, value & changed))
		return false;
	if (sys_long(c) && (!(value & X86_CR4_PAE) || changed & X86_CR4_LA57))
		return false;
	if (value & changed & X86_CR4_PCIDE && (!sys_long(c) || c->cr3 & CR3_PCID))
		return false;
	c->cr4 = value;
	if (changed & paging)
		mmu_flush_all(c);
	tcg_mode_update(c);
	return true;
}

static bool set_cr3(struct tcg_cpu *c, u64 value)
{
	u64 no_flush = c->cr4 & X86_CR4_PCIDE ? CR3_NO_FLUSH : 0;

	if (sys_long(c) && value & ~no_flush & (c->mmu.rsvd | ~(BIT(52) - 1)))
		return false;
	mmu_write_cr3(c, value);
	return true;
}

static bool set_cr8(struct tcg_cpu *c, u64 value)
{
	if (value >> 4)
		return false;
	c->cr8 = value;
	lapic_set_cr8(c->lapic, (u8)value);
	sys_look_lapic(c);
	return true;
}

bool sys_set_efer(struct tcg_cpu *c, u64 value)
{
	u64 known = X86_EFER_LMA, changed;

	known |= sys_cpuid_bit(c, 0x80000001, CPUID_EDX, 11) ? X86_EFER_SCE : 0;
	known |= sys_cpuid_bit(c, 0x80000001, CPUID_EDX, 29) ? X86_EFER_LME : 0;
	known |= sys_cpuid_bit(c, 0x80000001, CPUID_EDX, 20) ? X86_EFER_NXE : 0;
	known |= sys_cpuid_bit(c, 0x80000001, CPUID_EDX, 25) ? EFER_FFXSR : 0;
	value = (value & ~X86_EFER_LMA) | (c->efer & X86_EFER_LMA);
	changed = value ^ c->efer;
	if (value & ~known || (changed & X86_EFER_LME && c->cr0 & X86_CR0_PG))
		return false;
	c->efer = value;
	if (changed & X86_EFER_NXE)
		mmu_flush_all(c);
	return true;
}

void sys_mov_from_cr(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 value;

	if (insn->reg > 8 || BIT(insn->reg) & 0xe2)
		tcg_raise(c, X86_UD);
	sys_need_cpl0(c);
	switch (insn->reg) {
	case 0:
		value = c->cr0;
		break;
	case 2:
		value = c->cr2;
		break;
	case 3:
		value = c->cr3;
		break;
	case 4:
		value = c->cr4;
		break;
	default:
		value = lapic_get_cr8(c->lapic);
		break;
	}
	interp_set_reg(c, insn->rm, tcg_is_64(c) ? 8 : 4, tcg_is_64(c) ? value : (u32)value);
}

void sys_mov_to_cr(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 value = tcg_is_64(c) ? c->gpr[insn->rm] : (u32)c->gpr[insn->rm];
	bool ok = true;

	if (insn->reg > 8 || BIT(insn->reg) & 0xe2)
		tcg_raise(c, X86_UD);
	sys_need_cpl0(c);
	switch (insn->reg) {
	case 0:
		ok = sys_set_cr0(c, value);
		break;
	case 2:
		c->cr2 = value;
		break;
	case 3:
		ok = set_cr3(c, value);
		break;
	case 4:
		ok = sys_set_cr4(c, value);
		break;
	default:
		ok = set_cr8(c, value);
		break;
	}
	if (!ok)
		sys_gp(c, 0);
}

void sys_clts(struct tcg_cpu *c, const struct x86_insn *insn)
{
	(void)insn;
	sys_need_cpl0(c);
	c->cr0 &= ~X86_CR0_TS;
	tcg_mode_update(c);
}

/* Sets PE, MP, EM, TS; PE cannot be cleared. */
void sys_lmsw(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u16 value;

	sys_need_cpl0(c);
	value = sys_read_rm16(c, insn);
	if (!sys_set_cr0(c, (c->cr0 & ~0xeull) | (value & 0xf)))
		sys_gp(c, 0);
}

void sys_smsw(struct tcg_cpu *c, const struct x86_insn *insn)
{
	sys_check_umip(c);
	sys_write_rm(c, insn, c->cr0);
}

/* ---- debug registers ---- */

/* The register's number with 4 and 5 as names of 6 and 7, unless CR4.DE makes them invalid. */
static u32 debug_reg(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 n = insn->reg;

	if (n > 7 || (c->cr4 & X86_CR4_DE && (n == 4 || n == 5)))
		tcg_raise(c, X86_UD);
	sys_need_cpl0(c);
	if (c->dr7 & DR7_GD) {
		c->exc = (struct tcg_exception){.pending = true, .vector = X86_DB, .address = DR6_BD};
		tcg_restart(c);
	}
	return n == 4 || n == 5 ? n + 2 : n;
}

void sys_mov_from_dr(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 n = debug_reg(c, insn);
	u64 value = n < 4 ? c->dr[n] : n == 6 ? c->dr6 : c->dr7;

	interp_set_reg(c, insn->rm, tcg_is_64(c) ? 8 : 4, tcg_is_64(c) ? value : (u32)value);
}

void sys_mov_to_dr(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 n = debug_reg(c, insn);
	u64 value = tcg_is_64(c) ? c->gpr[insn->rm] : (u32)c->gpr[insn->rm];

	if (n > 3 && value >> 32)
		sys_gp(c, 0);
	if (n < 4)
		c->dr[n] = value;
	else if (n == 6)
		c->dr6 = (value & DR6_WRITABLE) | DR6_ACTIVE_LOW;
	else
		c->dr7 = (value & DR7_WRITABLE) | DR7_ONE;
	tcg_mode_update(c);
}

/* ---- XCR0 ---- */

#define XCR0_X87    0x1ull
#define XCR0_SSE    0x2ull
#define XCR0_AVX    0x4ull
#define XCR0_MPX    0x18ull
#define XCR0_AVX512 0xe0ull
#define XCR0_AMX    0x60000ull

/* SDM 1 §13.3: what depends on what. */
static bool xcr0_is_legal(struct tcg_cpu *c, u64 v)
{
	u64 known = sys_cpuid_reg(c, 0xd, 0, CPUID_EAX) | (u64)sys_cpuid_reg(c, 0xd, 0, CPUID_EDX) << 32;

	if (v & ~known || !(v & XCR0_X87) || (v & XCR0_AVX && !(v & XCR0_SSE)))
		return false;
	if (v & XCR0_AVX512 && ((v & XCR0_AVX512) != XCR0_AVX512 || !(v & XCR0_AVX)))
		return false;
	return (!(v & XCR0_MPX) || (v & XCR0_MPX) == XCR0_MPX) && (!(v & XCR0_AMX) || (v & XCR0_AMX) == XCR0_AMX);
}

static u64 native_xgetbv(u32 n)
{
	u32 low, high;

	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(n));
	return (u64)high << 32 | low;
}

void sys_xgetbv(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 n = (u32)c->gpr[X86_RCX];
	u64 value = c->xcr0;

	(void)insn;
	if (!(c->cr4 & X86_CR4_OSXSAVE))
		tcg_raise(c, X86_UD);
	if (n > 1 || (n == 1 && !(sys_cpuid_reg(c, 0xd, 1, CPUID_EAX) & 4)))
		sys_gp(c, 0);
	/* XINUSE, of the hardware while it has the guest's state; XSTATE_BV of the area otherwise. */
	if (n == 1)
		value &= c->fpu_live ? native_xgetbv(1) : ld_le64(c->fpu + 512);
	c->gpr[X86_RAX] = (u32)value;
	c->gpr[X86_RDX] = value >> 32;
}

void sys_xsetbv(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 value = (u32)c->gpr[X86_RAX] | c->gpr[X86_RDX] << 32;

	(void)insn;
	if (!(c->cr4 & X86_CR4_OSXSAVE))
		tcg_raise(c, X86_UD);
	sys_need_cpl0(c);
	if ((u32)c->gpr[X86_RCX] || !xcr0_is_legal(c, value))
		sys_gp(c, 0);
	c->xcr0 = value;
	tcg_mode_update(c);
}

/* ---- TLB ---- */

/* Neither the segment's limit nor a canonical address is asked for (SDM 2A INVLPG). */
void sys_invlpg(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 offset = sys_cut(interp_offset(c, insn), insn->adsize);

	sys_need_cpl0(c);
	if (!tcg_is_64(c))
		offset = (u32)(offset + c->seg[insn->mem.seg].base);
	else if (insn->mem.seg >= X86_FS)
		offset += c->seg[insn->mem.seg].base;
	if (tcg_canonical(offset))
		mmu_invlpg(c, offset);
}

void sys_invpcid(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 type = tcg_is_64(c) ? c->gpr[insn->reg] : (u32)c->gpr[insn->reg], va, pcid, address;

	if (c->rflags & X86_FLAG_VM)
		sys_gp(c, 0);
	sys_need_cpl0(c);
	va = interp_ea(c, insn, 16, false);
	pcid = mmu_load(c, va, 8, tcg_data_mode(c));
	address = mmu_load(c, va + 8, 8, tcg_data_mode(c));
	if (type > 3)
		sys_gp(c, 0);
	if (type < 2 && (pcid >> 12 || (pcid && !(c->cr4 & X86_CR4_PCIDE))))
		sys_gp(c, 0);
	if (type == 0 && !tcg_canonical(address))
		sys_gp(c, 0);
	mmu_invpcid(c, type, (u16)pcid, address);
}
