/*
 * state_check.c: what a saved state must be like before any of it is loaded; vm_state.h. Whoever wrote it may have lied in every bit. What
 * an accelerator cannot do here, be it another processor or other accelerator, is told by the name of register or leaf.
 */
#include <errno.h>

#include "arch/x86_64/msr.h"
#include "arch/x86_64/vm_state.h"
#include "arch/x86_64/x86.h"

#define CR0_PE	  BIT(0)
#define CR0_NW	  BIT(29)
#define CR0_CD	  BIT(30)
#define CR0_PG	  BIT(31)
#define CR0_KNOWN 0xe005003full
#define CR4_PAE	  BIT(5)
#define CR4_PCIDE BIT(17)
#define EFER_LME  BIT(8)
#define EFER_LMA  BIT(10)
#define EFER_BASE (BIT(0) | EFER_LME | EFER_LMA | BIT(11))

#define RFLAGS_KNOWN 0x3f7fd7ull
#define RFLAGS_VM    BIT(17)
#define SEG_L	     0x200
#define SEG_DB	     0x400
#define DR_KNOWN     UINT32_MAX

#define APIC_BASE_FLAGS	 0xd00ull
#define APIC_BASE_X2APIC BIT(10)
#define APIC_BASE_ENABLE BIT(11)
#define APIC_ID		 0x20
#define APIC_VERSION	 0x30

#define VECTOR_NMI 2

#define XSAVE_MXCSR	 24
#define XSAVE_XSTATE_BV	 512
#define XSAVE_XCOMP_BV	 520
#define XSAVE_HEADER_END 576u
#define MXCSR_KNOWN	 0xffffu
#define XCR0_AVX512	 0xe0ull

#define KHZ_PPM 250 /* TSC frequencies this near are the same: KVM's tolerance too */

/* Two centuries, from 1970 too: sums of two still fit. */
#define CLOCK_MAX_NS (200ull * 366 * 86400 * NSEC_PER_SEC)

static bool canonical(u64 va)
{
	return (u64)((s64)(va << 16) >> 16) == va;
}

static bool long_mode(const struct cpu_state *s)
{
	return s->efer & EFER_LMA;
}

static u32 reg_of(const struct x86_cpuid *c, u32 reg)
{
	const u32 regs[] = {c->eax, c->ebx, c->ecx, c->edx};

	return regs[reg];
}

static u32 leaf_reg(const struct x86_cpuid_table *t, u32 leaf, u32 subleaf, u32 reg)
{
	const struct x86_cpuid *c = x86_cpuid_find((struct x86_cpuid_table *)t, leaf, subleaf);

	return c ? reg_of(c, reg) : 0;
}

static int bad_reg(const char *name, u64 value, struct err *e)
{
	return err_set(e, -EINVAL, "%s = 0x%llx is not possible", name, (unsigned long long)value);
}

/* ---- registers ---- */

/* The feature behind each bit of CR4 and EFER that not every processor has. */
static const struct gated {
	u8 bit, reg;
	u32 leaf;
	u8 feature;
} cr4_gated[] =
	{
		{11, 2, 7, 2 /* UMIP */},  {12, 2, 7, 16 /* LA57 */},  {16, 1, 7, 0 /* FSGSBASE */},
		{17, 2, 1, 17 /* PCID */}, {18, 2, 1, 26 /* XSAVE */}, {20, 1, 7, 7 /* SMEP */},
		{21, 1, 7, 20 /* SMAP */}, {22, 2, 7, 3 /* PKU */},    {23, 2, 7, 7 /* CET_SS */},
},
  efer_gated[] = {
	  {14, 3, 0x80000001, 25 /* FFXSR */},
	  {15, 2, 0x80000001, 17 /* TCE */},
	  {21, 0, 0x80000021, 8 /* AUTOIBRS */},
};

/* Bits of value that are neither in base nor behind a feature that the guest was shown. */
static u64 ungated(u64 value, u64 base, const struct gated *g, size_t n, const struct x86_cpuid_table *t)
{
	for (size_t i = 0; i < n; i++) {
		if (leaf_reg(t, g[i].leaf, 0, g[i].reg) >> g[i].feature & 1)
			base |= BIT(g[i].bit);
	}
	return value & ~base;
}

static int check_control(const struct cpu_state *s, struct err *e)
{
	u64 cr0 = s->cr0, paged = cr0 & CR0_PG;

	if (cr0 & ~CR0_KNOWN || (paged && !(cr0 & CR0_PE)) || (cr0 & CR0_NW && !(cr0 & CR0_CD)))
		return bad_reg("CR0", cr0, e);
	if (ungated(s->cr4, 0x7ff, cr4_gated, ARRAY_SIZE(cr4_gated), &s->cpuid))
		return bad_reg("CR4", s->cr4, e);
	if (ungated(s->efer, EFER_BASE, efer_gated, ARRAY_SIZE(efer_gated), &s->cpuid) ||
	    !!(s->efer & EFER_LMA) != (paged && s->efer & EFER_LME))
		return bad_reg("EFER", s->efer, e);
	if (long_mode(s) ? !(s->cr4 & CR4_PAE) : !!(s->cr4 & CR4_PCIDE))
		return bad_reg("CR4", s->cr4, e);
	if (s->has_pdptr && (!paged || !(s->cr4 & CR4_PAE) || long_mode(s)))
		return err_set(e, -EINVAL, "PDPTRs without PAE paging are not possible");
	return 0;
}

static int check_segments(const struct cpu_state *s, struct err *e)
{
	u16 cs = s->seg[X86_CS].attr;

	if (cs & SEG_L && (!long_mode(s) || cs & SEG_DB))
		return err_set(e, -EINVAL, "a 64-bit code segment (attributes 0x%x) is not possible in this mode", cs);
	for (u32 i = 0; i < X86_NR_SEGS; i++) {
		if (!canonical(s->seg[i].base))
			return bad_reg("a segment's base", s->seg[i].base, e);
	}
	if (!canonical(s->gdt.base) || !canonical(s->idt.base))
		return bad_reg("the base of GDT or IDT", canonical(s->gdt.base) ? s->idt.base : s->gdt.base, e);
	return 0;
}

static int check_regs(const struct cpu_state *s, struct err *e)
{
	bool wide = long_mode(s) && s->seg[X86_CS].attr & SEG_L;
	u32 phys = leaf_reg(&s->cpuid, 0x80000008, 0, 0) & 0xff;

	if (s->rflags & ~RFLAGS_KNOWN || (s->rflags & RFLAGS_VM && (long_mode(s) || !(s->cr0 & CR0_PE))))
		return bad_reg("RFLAGS", s->rflags, e);
	if (wide ? !canonical(s->rip) : s->rip >> 32)
		return bad_reg("RIP", s->rip, e);
	if (long_mode(s) && s->cr3 >> (phys ? MIN(phys, 52u) : 52u))
		return bad_reg("CR3", s->cr3, e);
	if (s->dr6 > DR_KNOWN || s->dr7 > DR_KNOWN)
		return bad_reg(s->dr6 > DR_KNOWN ? "DR6" : "DR7", s->dr6 > DR_KNOWN ? s->dr6 : s->dr7, e);
	return 0;
}

static int check_apic(const struct cpu_state *s, u32 index, struct err *e)
{
	u64 base = s->apic_base, flags = base & 0xfff;
	bool x2apic = flags & APIC_BASE_X2APIC;
	u32 id = ld_le32(s->lapic.regs + APIC_ID);

	if (flags & ~APIC_BASE_FLAGS || (x2apic && !(flags & APIC_BASE_ENABLE)) || base >> 52)
		return bad_reg("the APIC base", base, e);
	if (x2apic && !(leaf_reg(&s->cpuid, 1, 0, 2) & BIT(21)))
		return err_set(e, -EINVAL, "the local APIC is in x2APIC mode, which CPUID does not show");
	if (x2apic && ld_le32(s->lapic.regs + APIC_VERSION) && id != index)
		return err_set(e, -EINVAL, "the local APIC has id %u in x2APIC mode", id);
	return 0;
}

static int check_events(const struct cpu_state *s, const struct arch_cpu_caps *caps, const char *accel, struct err *e)
{
	const struct x86_events *ev = &s->events;

	if ((ev->exception_pending || ev->exception_injected) && (ev->exception_vector == VECTOR_NMI || ev->exception_vector > 31))
		return err_set(e, -EINVAL, "exception %u is not possible", ev->exception_vector);
	if ((ev->smm || ev->smm_pending || ev->smm_inside_nmi) && !caps->smm)
		return err_set(e, -EOPNOTSUPP, "the guest is in system management mode, which %s does not have", accel);
	return 0;
}

/* ---- extended state ---- */

static int check_xcr0(const struct cpu_state *s, struct err *e)
{
	u64 shown = leaf_reg(&s->cpuid, 0xd, 0, 0) | (u64)leaf_reg(&s->cpuid, 0xd, 0, 3) << 32, x = s->xcr0;

	if (x && (!(x & 1) || x & ~(shown | 1) || (x & 4 && !(x & 2)) || !!(x & 8) != !!(x & 16) ||
		  (x & XCR0_AVX512 && (~x & XCR0_AVX512 || !(x & 4)))))
		return bad_reg("XCR0", x, e);
	return 0;
}

/* The processor loads the area: what would make XRSTOR fault (SDM 1 §13.8.1) is refused. */
static int check_xsave(const struct cpu_state *s, struct err *e)
{
	u64 shown = leaf_reg(&s->cpuid, 0xd, 0, 0) | 3ull, present;

	if (!s->xsave_size)
		return 0;
	if (s->xsave_size < XSAVE_HEADER_END || s->xsave_size > X86_XSAVE_MAX)
		return err_set(e, -EINVAL, "an XSAVE area of %u bytes is not possible", s->xsave_size);
	present = ld_le64(s->xsave + XSAVE_XSTATE_BV);
	if (present & ~shown)
		return err_set(e, -EINVAL, "the XSAVE area has components 0x%llx, of which CPUID shows 0x%llx", (unsigned long long)present,
			       (unsigned long long)shown);
	for (u32 i = XSAVE_XCOMP_BV; i < XSAVE_HEADER_END; i++) {
		if (s->xsave[i])
			return err_set(e, -EINVAL, "the XSAVE area is in the compacted format");
	}
	for (u32 i = 2; i < 32; i++) {
		u64 end = (u64)leaf_reg(&s->cpuid, 0xd, i, 0) + leaf_reg(&s->cpuid, 0xd, i, 1);

		if (present & BIT(i) && end > s->xsave_size)
			return err_set(e, -EINVAL, "the XSAVE area of %u bytes has no room for component %u", s->xsave_size, i);
	}
	if (ld_le32(s->xsave + XSAVE_MXCSR) & ~MXCSR_KNOWN)
		return bad_reg("MXCSR", ld_le32(s->xsave + XSAVE_MXCSR), e);
	return 0;
}

/* ---- CPUID ---- */

/* What of a leaf must be offered here. Left out: what the operating system sets (OSXSAVE, OSPKE), topology and what husk itself shows. */
static const struct feature_leaf {
	u32 leaf, subleaf;
	u8 reg;
	u32 mask;
} feature_leaves[] = {
	{0x1, 0, 2, ~(u32)(BIT(27) | BIT(31))},
	{0x1, 0, 3, ~(u32)BIT(28)},
	{0x7, 0, 1, UINT32_MAX},
	{0x7, 0, 2, ~(u32)BIT(4)},
	{0x7, 0, 3, UINT32_MAX},
	{0x7, 1, 0, UINT32_MAX},
	{0x7, 1, 3, UINT32_MAX},
	{0x7, 2, 3, UINT32_MAX},
	{0xd, 0, 0, UINT32_MAX},
	{0xd, 0, 3, UINT32_MAX},
	{0xd, 1, 0, UINT32_MAX},
	{0xd, 1, 2, UINT32_MAX},
	{0x40000001, 0, 0, UINT32_MAX},
	{0x80000001, 0, 2, ~(u32)(BIT(1) | BIT(22))},
	{0x80000001, 0, 3, UINT32_MAX},
	{0x80000007, 0, 3, UINT32_MAX},
	{0x80000008, 0, 1, UINT32_MAX},
	{0x80000021, 0, 0, UINT32_MAX},
};

static const char *const reg_names[] = {"EAX", "EBX", "ECX", "EDX"};

/* What the accelerator offers of it, and what it puts up with. */
static u32 offered(const struct arch_cpu_caps *caps, const struct feature_leaf *f)
{
	u32 bits = leaf_reg(&caps->cpuid, f->leaf, f->subleaf, f->reg);

	if (f->leaf == 0x40000001)
		bits |= caps->pv_tolerated;
	if (f->leaf == 1 && f->reg == 2)
		bits |= (caps->tsc_deadline ? (u32)BIT(24) : 0) | (caps->x2apic ? (u32)BIT(21) : 0);
	return bits;
}

bool x86_feature_reg(u32 i, struct x86_feature_bits *out)
{
	const struct feature_leaf *f;

	if (i >= ARRAY_SIZE(feature_leaves))
		return false;
	f = &feature_leaves[i];
	*out = (struct x86_feature_bits){f->leaf, f->subleaf, f->reg, f->mask};
	return true;
}

u32 x86_feature_offered(u32 i, const struct arch_cpu_caps *caps)
{
	return offered(caps, &feature_leaves[i]);
}

u32 x86_features_missing(const struct x86_cpuid_table *shown, const struct arch_cpu_caps *caps, struct x86_feature_bits *out)
{
	u32 n = 0;

	_Static_assert(ARRAY_SIZE(feature_leaves) == X86_NR_FEATURE_REGS, "out has room");
	for (u32 i = 0; i < ARRAY_SIZE(feature_leaves); i++) {
		const struct feature_leaf *f = &feature_leaves[i];
		u32 bits = leaf_reg(shown, f->leaf, f->subleaf, f->reg) & f->mask & ~offered(caps, f);

		if (bits)
			out[n++] = (struct x86_feature_bits){f->leaf, f->subleaf, f->reg, bits};
	}
	return n;
}

static int check_features(const struct cpu_state *s, const struct arch_cpu_caps *caps, const char *accel, struct err *e)
{
	struct x86_feature_bits missing[X86_NR_FEATURE_REGS];

	if (!x86_features_missing(&s->cpuid, caps, missing))
		return 0;
	return err_set(e, -EOPNOTSUPP,
		       "CPUID leaf 0x%x subleaf %u %s: bits 0x%x are not offered by %s here; boot the guest with a CPU template common to "
		       "both (husk cpu-template common)",
		       missing[0].leaf, missing[0].subleaf, reg_names[missing[0].reg], missing[0].bits, accel);
}

/* Where the components lie differs between vendors, and a guest has the offsets in its own areas. */
static int check_layout(const struct cpu_state *s, const struct arch_cpu_caps *caps, const char *accel, struct err *e)
{
	u32 shown = leaf_reg(&s->cpuid, 0xd, 0, 0);
	u32 phys = leaf_reg(&s->cpuid, 0x80000008, 0, 0) & 0xff, have = leaf_reg(&caps->cpuid, 0x80000008, 0, 0) & 0xff;

	for (u32 i = 2; i < 32; i++) {
		u32 size = leaf_reg(&s->cpuid, 0xd, i, 0), at = leaf_reg(&s->cpuid, 0xd, i, 1);

		if (shown & BIT(i) && (size != leaf_reg(&caps->cpuid, 0xd, i, 0) || at != leaf_reg(&caps->cpuid, 0xd, i, 1)))
			return err_set(e, -EOPNOTSUPP, "CPUID leaf 0xd subleaf %u: %u bytes at %u, other than %s has it here", i, size, at,
				       accel);
	}
	if (phys > have || (phys && phys < 32))
		return err_set(e, -EOPNOTSUPP, "CPUID leaf 0x80000008 EAX: %u physical address bits, %s has %u here", phys, accel, have);
	return 0;
}

/* ---- MSRs ---- */

static bool pat_valid(u64 pat)
{
	for (u32 i = 0; i < 8; i++, pat >>= 8) {
		if ((pat & 0xff) > 7 || (pat & 0xff) == 2 || (pat & 0xff) == 3)
			return false;
	}
	return true;
}

static bool has_msr(const struct arch_cpu_caps *caps, u32 index)
{
	for (u32 i = 0; i < caps->nr_msrs; i++) {
		if (caps->msrs[i] == index)
			return true;
	}
	return false;
}

static bool msr_value_valid(const struct x86_msr *m)
{
	switch (m->index) {
	case MSR_IA32_PAT:
		return pat_valid(m->value);
	case 0x175:	 /* SYSENTER_ESP */
	case 0x176:	 /* SYSENTER_EIP */
	case 0xc0000082: /* LSTAR */
	case 0xc0000083: /* CSTAR */
	case 0xc0000102: /* KERNEL_GS_BASE */
		return canonical(m->value);
	case 0xc0000084: /* SFMASK */
	case 0xc0000103: /* TSC_AUX */
		return !(m->value >> 32);
	default:
		return true;
	}
}

static int check_msrs(const struct cpu_state *s, const struct arch_cpu_caps *caps, const char *accel, struct err *e)
{
	for (u32 i = 0; i < s->nr_msrs; i++) {
		const struct x86_msr *m = &s->msrs[i];

		if (m->value && !has_msr(caps, m->index))
			return err_set(e, -EOPNOTSUPP, "MSR 0x%x = 0x%llx: %s here does not have it", m->index,
				       (unsigned long long)m->value, accel);
		if (!msr_value_valid(m))
			return err_set(e, -EINVAL, "MSR 0x%x = 0x%llx is not possible", m->index, (unsigned long long)m->value);
		if (m->index == 0xda0 && m->value & ~(u64)leaf_reg(&s->cpuid, 0xd, 1, 2))
			return bad_reg("XSS", m->value, e);
	}
	return 0;
}

static int check_tsc(const struct cpu_state *s, const struct arch_cpu_caps *caps, const char *accel, struct err *e)
{
	u64 want = s->tsc_khz, have = caps->tsc_khz, apart = want > have ? want - have : have - want;

	if (!want || !have || caps->tsc_scaling || apart * 1000 * 1000 <= have * KHZ_PPM)
		return 0;
	return err_set(e, -EOPNOTSUPP, "the guest's TSC runs at %llu kHz, this host's at %llu kHz, and %s here cannot scale it",
		       (unsigned long long)want, (unsigned long long)have, accel);
}

int x86_cpu_check(const struct cpu_state *s, u32 index, const struct arch_cpu_caps *caps, const char *accel, struct err *e)
{
	int ret = check_features(s, caps, accel, e);

	ret = ret ?: check_layout(s, caps, accel, e);
	ret = ret ?: check_control(s, e);
	ret = ret ?: check_segments(s, e);
	ret = ret ?: check_regs(s, e);
	ret = ret ?: check_apic(s, index, e);
	ret = ret ?: check_events(s, caps, accel, e);
	ret = ret ?: check_xcr0(s, e);
	ret = ret ?: check_xsave(s, e);
	ret = ret ?: check_msrs(s, caps, accel, e);
	return ret ?: check_tsc(s, caps, accel, e);
}

/* ---- chips and clocks ---- */

int x86_chips_check(const struct x86_chips_state *s, struct err *e)
{
	for (u32 i = 0; i < 2; i++) {
		const struct x86_pic_state *p = &s->pic[i];

		if (p->base & 7 || p->init_step == 1)
			return err_set(e, -EINVAL, "pic[%u]: base 0x%x, step %u are not possible", i, p->base, p->init_step);
	}
	for (u32 i = 0; i < X86_NR_IOAPIC_PINS; i++) {
		if (s->ioapic.redir[i] & ~X86_IOAPIC_REDIR)
			return err_set(e, -EINVAL, "ioapic: entry %u = 0x%llx is not possible", i, (unsigned long long)s->ioapic.redir[i]);
	}
	for (u32 i = 0; i < 3; i++) {
		const struct x86_pit_channel_state *p = &s->pit[i];

		if (!p->count || (p->bcd && p->count > 10000) || !p->rw)
			return err_set(e, -EINVAL, "pit[%u]: count %u, access %u are not possible", i, p->count, p->rw);
		if (i != 2 && !p->gate)
			return err_set(e, -EINVAL, "pit[%u]: its gate is tied high", i);
		if (p->elapsed_ns > CLOCK_MAX_NS)
			return err_set(e, -EINVAL, "pit[%u]: %llu ns are more than two centuries", i, (unsigned long long)p->elapsed_ns);
	}
	return 0;
}

int x86_clock_check(const struct x86_clock_state *s, struct err *e)
{
	if (s->clock_ns > CLOCK_MAX_NS || s->kvmclock_ns > CLOCK_MAX_NS || s->realtime_ns > CLOCK_MAX_NS)
		return err_set(e, -EINVAL, "clocks %llu, %llu, %llu ns are more than two centuries", (unsigned long long)s->clock_ns,
			       (unsigned long long)s->kvmclock_ns, (unsigned long long)s->realtime_ns);
	return 0;
}

u64 x86_clock_jump(const struct x86_clock_state *s, u64 realtime_now)
{
	return s->realtime_ns && realtime_now > s->realtime_ns ? MIN(realtime_now - s->realtime_ns, CLOCK_MAX_NS) : 0;
}
