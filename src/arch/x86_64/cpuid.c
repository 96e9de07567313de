/* cpuid.c: the guest's CPUID. */
#include "arch/x86_64/cpuid.h"

#include <string.h>

#define CPUID_HV_SIGNATURE 0x40000000u
#define CPUID_HV_TIMING	   0x40000010u /* the common "virtual TSC and APIC frequency" leaf */
#define APIC_BUS_KHZ	   1000000u    /* KVM's and husk's local APIC timers count nanoseconds */

#define LEAF1_ECX_X2APIC       BIT(21)
#define LEAF1_ECX_TSC_DEADLINE BIT(24)
#define LEAF1_ECX_HYPERVISOR   BIT(31)
#define LEAF1_EDX_HTT	       BIT(28)
#define LEAF1_EBX_CLFLUSH      (8u << 8) /* 64 bytes */

#define XSAVE_AMX (BIT(17) | BIT(18))

struct build {
	struct x86_cpuid_table *out;
	const struct arch_cpu_caps *caps;
	const struct x86_topology *topo;
	u32 index;
	bool intel;
};

#define B(n) (1u << (n))
#define ALL  UINT32_MAX

/* Bits that a guest must not see, whatever the accelerator can do. */
static const struct hidden {
	u32 leaf, subleaf; /* subleaf ALL: each */
	u32 eax, ebx, ecx, edx;
} hidden[] = {
	/* DTES64, MONITOR, DS-CPL, VMX, SMX, EIST, TM2, SDBG, xTPR, PDCM, DCA; DS, ACPI, TM, PBE */
	{0x1, 0, 0, 0, B(2) | B(3) | B(4) | B(5) | B(6) | B(7) | B(8) | B(11) | B(14) | B(15) | B(18), B(21) | B(22) | B(29) | B(31)},
	{0x5, 0, ALL, ALL, ALL, ALL},	     /* MONITOR */
	{0x6, 0, (u32)~B(2), ALL, ALL, ALL}, /* power management, but for ARAT: the APIC timer always runs */
	/* SGX, HLE, RTM, PT; WAITPKG, SGX_LC; UINTR, HYBRID, TSXLDTRK, PCONFIG, ARCH_LBR, AMX_BF16, AMX_TILE, AMX_INT8 */
	{0x7, 0, 0, B(2) | B(4) | B(11) | B(25), B(5) | B(30), B(5) | B(15) | B(16) | B(18) | B(19) | B(22) | B(24) | B(25)},
	{0x7, 1, B(21), 0, 0, B(8)},	 /* AMX_FP16, AMX_COMPLEX */
	{0xa, 0, ALL, ALL, ALL, ALL},	 /* performance counters */
	{0xd, 1, B(4), 0, 0, 0},	 /* XFD, which only AMX needs */
	{0x12, ALL, ALL, ALL, ALL, ALL}, /* SGX */
	{0x14, ALL, ALL, ALL, ALL, ALL}, /* processor trace */
	{0x1a, ALL, ALL, ALL, ALL, ALL}, /* hybrid */
	{0x1c, ALL, ALL, ALL, ALL, ALL}, /* last branch records */
	{0x1d, ALL, ALL, ALL, ALL, ALL}, /* AMX tiles */
	{0x1e, ALL, ALL, ALL, ALL, ALL}, /* AMX */
	{0x23, ALL, ALL, ALL, ALL, ALL}, /* performance counters */
	/* SVM, IBS, SKINIT, WDT, LWP, NODEID_MSR, PERFCTR_CORE, PERFCTR_NB, DBX, PERF_TSC, PERFCTR_LLC, MWAITX */
	{0x80000001, 0, 0, 0, B(2) | B(10) | B(12) | B(13) | B(15) | B(19) | B(23) | B(24) | B(26) | B(27) | B(28) | B(29), 0},
	{0x80000007, 0, ALL, ALL, ALL, (u32)~B(8)}, /* power management, but for the invariant TSC */
	{0x8000000a, 0, ALL, ALL, ALL, ALL},	    /* SVM */
	{0x8000001b, 0, ALL, ALL, ALL, ALL},	    /* IBS */
	{0x8000001c, 0, ALL, ALL, ALL, ALL},	    /* LWP */
	{0x80000022, 0, ALL, ALL, ALL, ALL},	    /* performance monitoring */
	{0x80000026, ALL, ALL, ALL, ALL, ALL},	    /* the host's topology; leaves 0xb and 0x8000001e have the guest's */
};

static bool entry_before(const struct x86_cpuid *c, u32 leaf, u32 subleaf)
{
	return c->leaf < leaf || (c->leaf == leaf && c->subleaf < subleaf);
}

/* The entry, made where its number belongs if it is not there; NULL when the table is full. */
static struct x86_cpuid *entry_get(struct x86_cpuid_table *t, u32 leaf, u32 subleaf, bool has_subleaf)
{
	struct x86_cpuid *found = x86_cpuid_find(t, leaf, subleaf);
	u32 at = 0;

	if (found)
		return found;
	if (t->nr == X86_CPUID_MAX)
		return NULL;
	while (at < t->nr && entry_before(&t->e[at], leaf, subleaf))
		at++;
	memmove(&t->e[at + 1], &t->e[at], (t->nr - at) * sizeof(t->e[0]));
	t->e[at] = (struct x86_cpuid){.leaf = leaf, .subleaf = subleaf, .has_subleaf = has_subleaf};
	t->nr++;
	return &t->e[at];
}

static void entry_set(struct x86_cpuid_table *t, const struct x86_cpuid *v)
{
	struct x86_cpuid *c = entry_get(t, v->leaf, v->subleaf, v->has_subleaf);

	if (c)
		*c = *v;
}

static void hide_bits(struct x86_cpuid *c)
{
	for (u32 k = 0; k < ARRAY_SIZE(hidden); k++) {
		const struct hidden *h = &hidden[k];

		if (h->leaf != c->leaf || (h->subleaf != ALL && h->subleaf != c->subleaf))
			continue;
		c->eax &= ~h->eax;
		c->ebx &= ~h->ebx;
		c->ecx &= ~h->ecx;
		c->edx &= ~h->edx;
	}
}

void x86_cpuid_hide(struct x86_cpuid_table *t)
{
	for (u32 i = 0; i < t->nr; i++)
		hide_bits(&t->e[i]);
}

/* The supported leaves without what is hidden. A leaf that has become all zeros goes: not being there reads the same, and makes room. */
static void copy_visible(struct x86_cpuid_table *out, const struct x86_cpuid_table *supported)
{
	out->nr = 0;
	for (u32 i = 0; i < supported->nr; i++) {
		struct x86_cpuid c = supported->e[i];

		hide_bits(&c);
		if (c.eax || c.ebx || c.ecx || c.edx)
			out->e[out->nr++] = c;
	}
}

/* Bits that an APIC id needs to hold n values. */
static u32 id_bits(u32 n)
{
	return n <= 1 ? 0 : 32 - (u32)__builtin_clz(n - 1);
}

static u32 threads_per_core(const struct x86_topology *topo)
{
	return topo->smt && topo->nr_vcpus > 1 ? 2 : 1;
}

static void basic(struct build *b)
{
	struct x86_cpuid *c = entry_get(b->out, 1, 0, false);
	u32 n = b->topo->nr_vcpus;

	if (!c)
		return;
	c->ebx = (c->ebx & 0xff) | LEAF1_EBX_CLFLUSH | (1u << id_bits(n)) << 16 | b->index << 24;
	c->ecx = (c->ecx & ~(u32)(LEAF1_ECX_TSC_DEADLINE | LEAF1_ECX_X2APIC)) | (u32)LEAF1_ECX_HYPERVISOR;
	if (b->caps->tsc_deadline)
		c->ecx |= (u32)LEAF1_ECX_TSC_DEADLINE;
	if (b->caps->x2apic)
		c->ecx |= (u32)LEAF1_ECX_X2APIC;
	c->edx = (c->edx & ~(u32)LEAF1_EDX_HTT) | (n > 1 ? (u32)LEAF1_EDX_HTT : 0);
}

/* Leaf 4 and AMD's 0x8000001d: how many APIC ids share each cache: a core's threads the inner ones, the package the last level. */
static void caches(struct build *b)
{
	for (u32 i = 0; i < b->out->nr; i++) {
		struct x86_cpuid *c = &b->out->e[i];
		u32 level = c->eax >> 5 & 7, n = b->topo->nr_vcpus, sharing = threads_per_core(b->topo);

		if ((c->leaf != 4 && c->leaf != 0x8000001d) || (c->eax & 0x1f) == 0)
			continue;
		if (level >= 3)
			sharing = 1u << id_bits(n);
		c->eax = (c->eax & 0x3fff) | (sharing - 1) << 14;
		if (c->leaf == 4)
			c->eax |= ((1u << id_bits(n) >> id_bits(threads_per_core(b->topo))) - 1) << 26;
	}
}

/* Leaves 0xb and 0x1f: threads of a core, cores of the package (SDM 3A §9.9.1). */
static void extended_topology(struct build *b, u32 leaf)
{
	u32 smt = threads_per_core(b->topo);
	const struct x86_cpuid levels[] = {
		{leaf, 0, true, id_bits(smt), smt, 1u << 8 | 0, b->index},
		{leaf, 1, true, id_bits(b->topo->nr_vcpus), b->topo->nr_vcpus, 2u << 8 | 1, b->index},
		{leaf, 2, true, 0, 0, 2, b->index},
	};

	for (u32 i = 0; i < ARRAY_SIZE(levels); i++)
		entry_set(b->out, &levels[i]);
}

/* APM 3 §E.4: 0x80000001 CmpLegacy and TopologyExtensions, 0x80000008 number of threads, 0x8000001e ids of this one. */
static void amd_topology(struct build *b)
{
	u32 n = b->topo->nr_vcpus, smt = threads_per_core(b->topo);
	struct x86_cpuid *features = x86_cpuid_find(b->out, 0x80000001, 0), *size = x86_cpuid_find(b->out, 0x80000008, 0);
	const struct x86_cpuid ids = {0x8000001e, 0, false, b->index, (smt - 1) << 8 | b->index / smt, 0, 0};

	if (features)
		features->ecx = (features->ecx & ~2u) | (n > 1 ? 2u : 0) | (u32)BIT(22);
	if (size)
		size->ecx = (size->ecx & 0xffff0000) | id_bits(n) << 12 | (n - 1);
	entry_set(b->out, &ids);
}

/* Subleaf 0: the components without AMX, and the size of an area with all the others. The tile components themselves go. */
static void xsave_without_amx(struct x86_cpuid_table *t)
{
	struct x86_cpuid *main_leaf = x86_cpuid_find(t, 0xd, 0);
	u32 end = 512 + 64;

	if (!main_leaf || !(main_leaf->eax & XSAVE_AMX))
		return;
	main_leaf->eax &= ~(u32)XSAVE_AMX;
	for (u32 i = 0; i < t->nr; i++) {
		struct x86_cpuid *c = &t->e[i];

		if (c->leaf != 0xd || c->subleaf < 2)
			continue;
		if (c->subleaf == 17 || c->subleaf == 18)
			c->eax = c->ebx = c->ecx = c->edx = 0;
		else if (c->subleaf < 32 && (main_leaf->eax & BIT(c->subleaf)))
			end = MAX(end, c->ebx + c->eax);
	}
	main_leaf->ecx = end;
}

/*
 * Leaves 0x15 and 0x16 spare an Intel guest without a paravirtual clock the calibration. The crystal is given as the TSC itself, which is
 * exact; Linux takes the crystal for the APIC timer's clock too, and that is wrong, so only with TSC deadline mode, which needs none.
 */
static void frequencies(struct build *b)
{
	u64 khz = b->caps->tsc_khz;
	u32 ratio = khz > UINT32_MAX / 1000 ? 2 : 1, mhz = (u32)(khz / 1000);
	const struct x86_cpuid crystal = {0x15, 0, false, 1, ratio, (u32)(khz * 1000 / ratio), 0},
			       base = {0x16, 0, false, mhz, mhz, 100, 0};
	struct x86_cpuid *max = x86_cpuid_find(b->out, 0, 0);

	if (!b->intel || !max || !khz || !b->caps->tsc_deadline)
		return;
	max->eax = MAX(max->eax, 0x16u);
	entry_set(b->out, &crystal);
	entry_set(b->out, &base);
}

static void hypervisor(struct build *b)
{
	struct x86_cpuid *sig = x86_cpuid_find(b->out, CPUID_HV_SIGNATURE, 0);
	const struct x86_cpuid timing = {CPUID_HV_TIMING, 0, false, (u32)b->caps->tsc_khz, APIC_BUS_KHZ, 0, 0};

	if (!sig || !b->caps->tsc_khz)
		return;
	sig->eax = MAX(sig->eax, CPUID_HV_TIMING);
	entry_set(b->out, &timing);
}

void x86_cpuid_build(struct x86_cpuid_table *out, const struct arch_cpu_caps *caps, const struct x86_topology *topo, u32 index)
{
	struct build b = {.out = out, .caps = caps, .topo = topo, .index = index};
	const struct x86_cpuid *vendor;

	copy_visible(out, &caps->cpuid);
	vendor = x86_cpuid_find(out, 0, 0);
	b.intel = vendor && vendor->ebx == 0x756e6547; /* "Genu" */
	basic(&b);
	caches(&b);
	xsave_without_amx(out);
	if (vendor && vendor->eax >= 0xb) /* AMD has it since Zen 2 */
		extended_topology(&b, 0xb);
	if (b.intel && x86_cpuid_find(out, 0x1f, 0))
		extended_topology(&b, 0x1f);
	if (!b.intel)
		amd_topology(&b);
	frequencies(&b);
	hypervisor(&b);
}
