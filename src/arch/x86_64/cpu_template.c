/* cpu_template.c: see cpu_template.h. Bits: SDM 2A "CPUID", SDM 4, APM 3 appendix E. */
#include "arch/x86_64/cpu_template.h"

#include <errno.h>
#include <string.h>

#include "arch/x86_64/cpuid.h"
#include "arch/x86_64/msr.h"

#define B(n) (1u << (n))
#define ALL  UINT32_MAX

#define R_EAX B(CFG_EAX)
#define R_EBX B(CFG_EBX)
#define R_ECX B(CFG_ECX)
#define R_EDX B(CFG_EDX)
#define R_ALL 0xfu

struct apply {
	struct arch_cpu_caps *caps;
	struct arch_cpu_caps able; /* as the accelerator has it */
	const char *accel;
	bool named; /* what is not to be had is left out; of the user's template it is an error */
};

static u32 *reg_of(struct x86_cpuid *c, u32 reg)
{
	u32 *const regs[] = {&c->eax, &c->ebx, &c->ecx, &c->edx};

	return regs[reg];
}

/* By the number that a template has: 0 where there are no subleaves. */
static struct x86_cpuid *find(struct x86_cpuid_table *t, u32 leaf, u32 subleaf)
{
	struct x86_cpuid *c = x86_cpuid_find(t, leaf, subleaf);

	return c && (c->has_subleaf || !subleaf) ? c : NULL;
}

static u32 value_of(struct x86_cpuid_table *t, u32 leaf, u32 subleaf, u32 reg)
{
	struct x86_cpuid *c = find(t, leaf, subleaf);

	return c ? *reg_of(c, reg) : 0;
}

/* ---- what a change may be ---- */

enum kind {
	FEATURES, /* bits may go */
	FREE,	  /* names, models, caches: nothing depends on them */
	LIMIT,	  /* a number, which may become lower */
	FIXED,
	DECIDED, /* topology, frequencies, sizes: husk sets them after the template (x86_cpuid_build), the template's change has no effect
		  */
};

static const struct rule {
	u32 leaf, subleaf; /* subleaf ALL: each */
	u32 regs;
	enum kind kind;
} rules[] = {
	{0x0, 0, R_EAX, LIMIT},
	{0x0, 0, R_EBX | R_ECX | R_EDX, FIXED}, /* the vendor: an Intel processor makes no good AMD one */
	{0x1, 0, R_EAX, FREE},
	{0x1, 0, R_EBX, DECIDED},
	{0x2, 0, R_ALL, FREE},
	{0x4, ALL, R_ALL, FREE},
	{0x7, 0, R_EAX, LIMIT},
	{0xb, ALL, R_ALL, DECIDED},
	{0xd, 0, R_EBX | R_ECX, DECIDED},
	{0xd, 1, R_EBX, DECIDED},
	{0x15, 0, R_ALL, DECIDED},
	{0x16, 0, R_ALL, DECIDED},
	{0x18, ALL, R_ALL, FREE},
	{0x1f, ALL, R_ALL, DECIDED},
	{0x40000000, 0, R_EAX, LIMIT},
	{0x40000010, 0, R_ALL, DECIDED},
	{0x80000000, 0, R_EAX, LIMIT},
	{0x80000000, 0, R_EBX | R_ECX | R_EDX, FIXED},
	{0x80000002, 0, R_ALL, FREE},
	{0x80000003, 0, R_ALL, FREE},
	{0x80000004, 0, R_ALL, FREE},
	{0x80000005, 0, R_ALL, FREE},
	{0x80000006, 0, R_ALL, FREE},
	{0x80000008, 0, R_EAX, LIMIT},
	{0x80000008, 0, R_ECX, DECIDED},
	{0x80000019, 0, R_ALL, FREE},
	{0x8000001d, ALL, R_ALL, FREE},
	{0x8000001e, ALL, R_ALL, DECIDED},
};

/* Bits that may be set on any processor. */
static const struct free_bits {
	u32 leaf, subleaf, reg, bits;
} free_bits[] = {
	/* Follow the vCPU's state or the number of CPUs, whatever a template says: OSXSAVE HYPERVISOR; APIC HTT; OSPKE; CMP_LEGACY TOPOEXT
	 */
	{0x1, 0, CFG_ECX, B(27) | B(31)},
	{0x1, 0, CFG_EDX, B(9) | B(28)},
	{0x7, 0, CFG_ECX, B(4)},
	{0x80000001, 0, CFG_ECX, B(1) | B(22)},
	/* Say that something is not there: FDP_EXCPTN_ONLY FCS_FDS_ZERO; EFER_LMSLE_UNSUPPORTED */
	{0x7, 0, CFG_EBX, B(6) | B(13)},
	/* What system software had better use: STIBP_ALWAYS_ON IBRS_PREFERRED IBRS_SAME_MODE */
	{0x80000008, 0, CFG_EBX, B(17) | B(18) | B(19) | B(20)},
};

/* IA32_ARCH_CAPABILITIES: RSBA RRSBA (a predictor is worse than one thinks), SKIP_L1DFL_VMENTRY (of nested guests, which there are none),
 * MISC_PACKAGE_CTLS ENERGY_FILTERING_CTL (in T2S, though KVM has nothing behind them). */
#define ARCH_CAPABILITIES_FREE (BIT(2) | BIT(3) | BIT(10) | BIT(11) | BIT(19))

static enum kind kind_of(const struct x86_template_cpuid *t)
{
	if (t->leaf == 0xd && t->subleaf >= 2) /* components come and go with their bit in subleaf 0 or 1 */
		return DECIDED;
	for (u32 i = 0; i < ARRAY_SIZE(rules); i++) {
		if (rules[i].leaf == t->leaf && (rules[i].subleaf == ALL || rules[i].subleaf == t->subleaf) && rules[i].regs & B(t->reg))
			return rules[i].kind;
	}
	return FEATURES;
}

static u32 free_bits_of(const struct x86_template_cpuid *t)
{
	for (u32 i = 0; i < ARRAY_SIZE(free_bits); i++) {
		const struct free_bits *f = &free_bits[i];

		if (f->leaf == t->leaf && f->subleaf == t->subleaf && f->reg == t->reg)
			return f->bits;
	}
	return 0;
}

/* Address sizes are a number in each byte. */
static bool is_lower(const struct x86_template_cpuid *t, u32 value, u32 able)
{
	if (t->leaf != 0x80000008)
		return value <= able;
	for (u32 i = 0; i < 32; i += 8) {
		if ((value >> i & 0xff) > (able >> i & 0xff))
			return false;
	}
	return true;
}

static int refuse_cpuid(const struct apply *a, const struct x86_template_cpuid *t, u32 bits, struct err *e)
{
	static const char *const names[] = {"eax", "ebx", "ecx", "edx"};

	return err_set(e, -EINVAL,
		       "CPUID leaf 0x%x, subleaf 0x%x, register %s: the template sets bit %u, which accelerator %s does not have on this "
		       "host: put x or 0 there",
		       t->leaf, t->subleaf, names[t->reg], (u32)__builtin_ctz(bits), a->accel);
}

static int change_cpuid(struct apply *a, const struct x86_template_cpuid *t, struct err *e)
{
	struct x86_cpuid *c = find(&a->caps->cpuid, t->leaf, t->subleaf);
	u32 able = value_of(&a->able.cpuid, t->leaf, t->subleaf, t->reg), value, lacks;
	enum kind kind = kind_of(t);

	if (kind == DECIDED)
		return 0;
	if (!c) /* it reads as zeros: there is nothing to take away */
		return t->value && !a->named ? refuse_cpuid(a, t, t->value, e) : 0;
	value = (*reg_of(c, t->reg) & ~t->mask) | t->value;
	lacks = kind == FEATURES ? value & ~able & ~free_bits_of(t) : 0;
	if (kind == FIXED && value != able)
		return err_set(e, -EINVAL, "CPUID leaf 0x%x: the vendor of the processor cannot be changed: put x there", t->leaf);
	if (kind == LIMIT && !is_lower(t, value, able))
		return err_set(e, -EINVAL, "CPUID leaf 0x%x, subleaf 0x%x: 0x%x is more than the 0x%x that accelerator %s has on this host",
			       t->leaf, t->subleaf, value, able, a->accel);
	if (lacks && !a->named)
		return refuse_cpuid(a, t, lacks, e);
	*reg_of(c, t->reg) = value & ~lacks;
	return 0;
}

/* What a vCPU works with starts as the boot protocol needs it, whatever a template says: TSC, APIC base, SYSENTER, machine check, page
 * attributes, MTRRs, deadline, XSS, KVM's clocks, SYSCALL, segment bases. */
static bool is_running_state(u32 msr)
{
	static const struct {
		u32 first, last;
	} ranges[] = {
		{0x10, 0x12},
		{0x1b, 0x1b},
		{0x3b, 0x3b},
		{0x48, 0x48},
		{0x174, 0x176},
		{0x17a, 0x17a},
		{0x1a0, 0x1a0},
		{0x200, 0x2ff},
		{0x6e0, 0x6e0},
		{0x800, 0x8ff},
		{0xda0, 0xda0},
		{0x4b564d00, 0x4b564dff},
		{0xc0000080, 0xc0000103},
	};

	for (u32 i = 0; i < ARRAY_SIZE(ranges); i++) {
		if (msr >= ranges[i].first && msr <= ranges[i].last)
			return true;
	}
	return false;
}

static int refuse_msr(const struct apply *a, u32 index, u64 bits, struct err *e)
{
	return err_set(e, -EINVAL, "MSR 0x%x: the template sets bit %u, which accelerator %s does not have on this host: put x or 0 there",
		       index, (u32)__builtin_ctzll(bits), a->accel);
}

static int change_msr(struct apply *a, const struct x86_template_msr *t, struct err *e)
{
	u64 free = t->index == MSR_IA32_ARCH_CAPABILITIES ? ARCH_CAPABILITIES_FREE : t->index == MSR_IA32_UCODE_REV ? UINT64_MAX : 0;

	if (is_running_state(t->index))
		return 0;
	for (u32 i = 0; i < a->caps->nr_feature_msrs; i++) {
		struct x86_msr *m = &a->caps->feature_msrs[i];
		u64 value = (m->value & ~t->mask) | t->value, lacks = value & ~a->able.feature_msrs[i].value & ~free;

		if (m->index != t->index)
			continue;
		if (lacks && !a->named)
			return refuse_msr(a, t->index, lacks, e);
		m->value = value & ~lacks;
		a->caps->changed_msrs |= B(i);
		return 0;
	}
	return t->value && !a->named ? refuse_msr(a, t->index, t->value, e) : 0;
}

/* ---- what goes with what was taken away ---- */

#define XCR0_AVX    B(2)
#define XCR0_MPX    (B(3) | B(4))
#define XCR0_AVX512 (B(5) | B(6) | B(7))
#define XCR0_PKRU   B(9)

static const struct free_bits
	/* FMA AVX F16C; AVX2; VAES VPCLMULQDQ; SHA512 SM3 SM4 AVX_VNNI AVX_IFMA; AVX_VNNI_INT8 AVX_NE_CONVERT AVX_VNNI_INT16; XOP FMA4 */
	needs_avx[] = {{0x1, 0, CFG_ECX, B(12) | B(28) | B(29)},
		       {0x7, 0, CFG_EBX, B(5)},
		       {0x7, 0, CFG_ECX, B(9) | B(10)},
		       {0x7, 1, CFG_EAX, B(0) | B(1) | B(2) | B(4) | B(23)},
		       {0x7, 1, CFG_EDX, B(4) | B(5) | B(10)},
		       {0x80000001, 0, CFG_ECX, B(11) | B(16)},
		       {0}},
	/* AVX512: F DQ IFMA PF ER CD BW VL; VBMI VBMI2 VNNI BITALG VPOPCNTDQ; 4VNNIW 4FMAPS VP2INTERSECT FP16; BF16; AVX10 */
	needs_avx512[] = {{0x7, 0, CFG_EBX, B(16) | B(17) | B(21) | B(26) | B(27) | B(28) | B(30) | B(31)},
			  {0x7, 0, CFG_ECX, B(1) | B(6) | B(11) | B(12) | B(14)},
			  {0x7, 0, CFG_EDX, B(2) | B(3) | B(8) | B(23)},
			  {0x7, 1, CFG_EAX, B(5)},
			  {0x7, 1, CFG_EDX, B(19)},
			  {0}},
	needs_mpx[] = {{0x7, 0, CFG_EBX, B(14)}, {0}}, needs_pkru[] = {{0x7, 0, CFG_ECX, B(3) | B(4)}, {0}},
	needs_xsave[] = {{0xd, 0, CFG_EAX, ALL}, {0xd, 0, CFG_EDX, ALL}, {0xd, 1, CFG_EAX, ALL},
			 {0xd, 1, CFG_ECX, ALL}, {0xd, 1, CFG_EDX, ALL}, {0}},
	needs_xsaves[] = {{0xd, 1, CFG_ECX, ALL}, {0xd, 1, CFG_EDX, ALL}, {0}};

static void drop(struct x86_cpuid_table *t, const struct free_bits *what)
{
	for (; what->bits; what++) {
		struct x86_cpuid *c = find(t, what->leaf, what->subleaf);

		if (c)
			*reg_of(c, what->reg) &= ~what->bits;
	}
}

/* The components of XCR0 that are left; those of a kind go together (SDM 1 §13.3). */
static u32 xsave_components(struct x86_cpuid_table *t)
{
	struct x86_cpuid *c = find(t, 0xd, 0);

	if (!c)
		return 0;
	if (!(c->eax & B(1)))
		c->eax &= ~(XCR0_AVX | XCR0_AVX512);
	if (!(c->eax & XCR0_AVX) || (c->eax & XCR0_AVX512) != XCR0_AVX512)
		c->eax &= ~XCR0_AVX512;
	if ((c->eax & XCR0_MPX) != XCR0_MPX)
		c->eax &= ~XCR0_MPX;
	return c->eax;
}

static void drop_dependents(struct x86_cpuid_table *t)
{
	u32 xcr0;

	if (!(value_of(t, 1, 0, CFG_ECX) & B(26)))
		drop(t, needs_xsave);
	if (!(value_of(t, 0xd, 1, CFG_EAX) & B(3)))
		drop(t, needs_xsaves);
	xcr0 = xsave_components(t);
	if (!(xcr0 & XCR0_AVX) || !(value_of(t, 1, 0, CFG_ECX) & B(28))) {
		drop(t, needs_avx);
		drop(t, needs_avx512);
	}
	if (!(xcr0 & XCR0_AVX512) || !(value_of(t, 7, 0, CFG_EBX) & B(16)))
		drop(t, needs_avx512);
	if (!(xcr0 & XCR0_MPX))
		drop(t, needs_mpx);
	if (!(xcr0 & XCR0_PKRU))
		drop(t, needs_pkru);
}

/* Subleaves of components that are gone, and the size of an area with those that are left. */
static void fit_xsave(struct x86_cpuid_table *t)
{
	struct x86_cpuid *main_leaf = find(t, 0xd, 0);
	u32 end = 512 + 64, xss = value_of(t, 0xd, 1, CFG_ECX);

	if (!main_leaf)
		return;
	for (u32 i = 0; i < t->nr; i++) {
		struct x86_cpuid *c = &t->e[i];

		if (c->leaf != 0xd || c->subleaf < 2 || c->subleaf >= 32)
			continue;
		if (main_leaf->eax & B(c->subleaf))
			end = MAX(end, c->ebx + c->eax);
		else if (!(xss & B(c->subleaf)))
			c->eax = c->ebx = c->ecx = c->edx = 0;
	}
	main_leaf->ebx = main_leaf->ecx = main_leaf->eax ? end : 0;
}

/* ---- a template ---- */

static int check_processor(enum cfg_cpu_template name, struct arch_cpu_caps *caps, struct err *e)
{
	u32 vendor = value_of(&caps->cpuid, 0, 0, CFG_EBX), signature = value_of(&caps->cpuid, 1, 0, CFG_EAX);
	/* extended family, extended model, family, model, stepping: those of Cascade Lake are 0, 5, 6, 5, 7 */
	u32 model = (signature >> 20 & 0xff) << 16 | (signature >> 16 & 0xf) << 12 | (signature & 0xfff);

	if (vendor != (name == CFG_CPU_T2A ? X86_MAKER_AMD : X86_MAKER_INTEL))
		return err_set(e, -EINVAL, "CPU vendor mismatched between actual CPU and CPU template: it is for processors of %s",
			       name == CFG_CPU_T2A ? "AMD" : "Intel");
	if (name == CFG_CPU_T2CL && model < 0x5657)
		return err_set(
			e, -EINVAL,
			"The current CPU model is not permitted to apply the CPU template: this processor is older than Cascade Lake");
	return 0;
}

static int apply_named(struct apply *a, enum cfg_cpu_template name, struct err *e)
{
	const struct x86_template_cpuid *cpuid;
	const struct x86_template_msr *msr;
	int r = check_processor(name, a->caps, e);

	for (u32 i = 0; r == 0 && (cpuid = cpu_template_cpuid(name, i)); i++)
		r = change_cpuid(a, cpuid, e);
	for (u32 i = 0; r == 0 && (msr = cpu_template_msr(name, i)); i++)
		r = change_msr(a, msr, e);
	return r < 0 ? err_prefix(e, "cpu_template %s", config_cpu_template_names[name]) : 0;
}

/* The parser has checked the texts. */
static int apply_leaf(struct apply *a, const struct cfg_cpuid_leaf *l, struct err *e)
{
	const struct cfg_cpuid_bits *bits = l->bits.items;
	u64 leaf = 0, subleaf = 0, mask, value;
	int r = 0;

	config_cpu_number(l->leaf, UINT32_MAX, &leaf);
	config_cpu_number(l->subleaf, UINT32_MAX, &subleaf);
	for (u32 i = 0; r == 0 && i < l->bits.nr; i++) {
		config_cpu_bitmap(bits[i].bitmap, 32, &mask, &value);
		r = change_cpuid(a, &(struct x86_template_cpuid){(u32)leaf, (u32)subleaf, bits[i].reg, (u32)mask, (u32)value}, e);
	}
	return r;
}

static int apply_own(struct apply *a, const struct cfg_cpu *cfg, struct err *e)
{
	const struct cfg_cpuid_leaf *leaves = cfg->cpuid.items;
	const struct cfg_msr_bits *msrs = cfg->msrs.items;
	int r = 0;

	for (u32 i = 0; r == 0 && i < cfg->cpuid.nr; i++)
		r = apply_leaf(a, &leaves[i], e);
	for (u32 i = 0; r == 0 && i < cfg->msrs.nr; i++) {
		u64 index = 0, mask, value;

		config_cpu_number(msrs[i].addr, UINT32_MAX, &index);
		config_cpu_bitmap(msrs[i].bitmap, 64, &mask, &value);
		r = change_msr(a, &(struct x86_template_msr){(u32)index, mask, value}, e);
	}
	return r < 0 ? err_prefix(e, "cpu-config") : 0;
}

int cpu_template_apply(const struct config *c, const char *accel, struct arch_cpu_caps *caps, struct err *e)
{
	struct apply a = {.caps = caps, .accel = accel, .named = !c->cpu};
	struct x86_cpuid *features;
	int r;

	if (!c->cpu && c->machine->cpu_template == CFG_CPU_NONE)
		return 0;
	x86_cpuid_hide(&caps->cpuid);
	a.able = *caps;
	r = c->cpu ? apply_own(&a, c->cpu, e) : apply_named(&a, c->machine->cpu_template, e);
	if (r < 0)
		return r;
	drop_dependents(&caps->cpuid);
	fit_xsave(&caps->cpuid);
	features = find(&caps->cpuid, 1, 0);
	caps->tsc_deadline &= features && features->ecx & B(24);
	caps->x2apic &= features && features->ecx & B(21);
	return 0;
}

void cpu_template_set_msrs(const struct arch_cpu_caps *caps, struct cpu_state *c)
{
	for (u32 i = 0; i < caps->nr_feature_msrs; i++) {
		if (!(caps->changed_msrs & B(i)))
			continue;
		ASSERT(c->nr_msrs < X86_MSR_MAX);
		c->msrs[c->nr_msrs++] = caps->feature_msrs[i];
	}
}
