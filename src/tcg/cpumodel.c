/* cpumodel.c: CPUID for guests of the tcg accelerator; see cpumodel.h. Bits: SDM 2A "CPUID", APM 3 appendix E. */
#include "tcg/cpumodel.h"

#include <cpuid.h>
#include <errno.h>
#include <string.h>

#include "tcg/x86_64/decode.h"

#define B(n) (1u << (n))
#define ALL  UINT32_MAX

#define XSAVE_LEGACY_END 576u /* legacy region and header */
#define LINEAR_BITS	 48u

enum { EAX, EBX, ECX, EDX, NR_REGS };

/* PV features (Linux Documentation/virt/kvm/x86/cpuid.rst): CLOCKSOURCE, NOP_IO_DELAY, CLOCKSOURCE2, CLOCKSOURCE_STABLE */
#define PV_FEATURES (B(0) | B(1) | B(3) | B(24))

/*
 * What is let through of each leaf, and what is there whether the host has it or not: interpreter, MMU and interrupt chips do it by
 * themselves. subleaf ALL: the leaf has none.
 */
static const struct shown {
	u32 leaf, subleaf;
	u32 mask[NR_REGS], force[NR_REGS];
	bool amd; /* AMD and Hygon only */
} shown[] = {
	{0x1,
	 ALL,
	 /* SSE3 PCLMULQDQ SSSE3 FMA CX16 SSE4.1 SSE4.2 MOVBE POPCNT AES XSAVE AVX F16C RDRAND;
	  * FPU DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2 SS */
	 {ALL, 0, B(0) | B(1) | B(9) | B(12) | B(13) | B(19) | B(20) | B(22) | B(23) | B(25) | B(26) | B(28) | B(29) | B(30),
	  B(0) | B(2) | B(3) | B(4) | B(5) | B(6) | B(7) | B(8) | B(9) | B(11) | B(12) | B(13) | B(14) | B(15) | B(16) | B(17) | B(19) |
		  B(23) | B(24) | B(25) | B(26) | B(27)},
	 /* PCID x2APIC TSC_DEADLINE HYPERVISOR; all of MMU and chips */
	 {0, 0, B(17) | B(21) | B(24) | B(31),
	  B(2) | B(3) | B(4) | B(5) | B(6) | B(7) | B(9) | B(11) | B(12) | B(13) | B(14) | B(16) | B(17)},
	 false},
	{0x2, ALL, {ALL, ALL, ALL, ALL}, {0}, false},
	{0x6, ALL, {0}, {B(2), 0, 0, 0}, false}, /* ARAT: the APIC timer always runs */
	{0x7,
	 0,
	 /* BMI1 AVX2 FDP_EXCPTN_ONLY BMI2 ERMS AVX512F DQ RDSEED ADX IFMA CLFLUSHOPT CLWB CD SHA BW VL;
	  * VBMI VBMI2 GFNI VAES VPCLMULQDQ VNNI BITALG VPOPCNTDQ CLDEMOTE MOVDIRI; VP2INTERSECT FP16 */
	 {0, B(3) | B(5) | B(6) | B(8) | B(16) | B(17) | B(18) | B(19) | B(21) | B(23) | B(24) | B(28) | B(29) | B(30) | B(31),
	  B(1) | B(6) | B(8) | B(9) | B(10) | B(11) | B(12) | B(14) | B(25) | B(27), B(8) | B(23)},
	 /* subleaf 1; FSGSBASE TSC_ADJUST SMEP ERMS INVPCID FCS_FDS_ZERO SMAP; UMIP RDPID; FSRM SERIALIZE SPEC_CTRL ARCH_CAPABILITIES */
	 {1, B(0) | B(1) | B(7) | B(9) | B(10) | B(13) | B(20), B(2) | B(22), B(4) | B(14) | B(26) | B(29)},
	 false},
	/* SHA512 SM3 SM4 AVX_VNNI AVX512_BF16 FZRM FSRS FSRC AVX_IFMA; AVX_VNNI_INT8 AVX_NE_CONVERT */
	{0x7, 1, {B(0) | B(1) | B(2) | B(4) | B(5) | B(10) | B(11) | B(12) | B(23), 0, 0, B(4) | B(5)}, {0}, false},
	/* LAHF CMP_LEGACY LZCNT PREFETCHW; SYSCALL NX PDPE1GB RDTSCP LM */
	{0x80000001, ALL, {0, 0, B(5) | B(8), 0}, {0, 0, B(0), B(11) | B(20) | B(26) | B(27) | B(29)}, false},
	/* AMD repeats leaf 1 here */
	{0x80000001, ALL, {0, 0, B(1), 0}, {0, 0, 0, 0x0183f3fdu}, true},
	{0x80000002, ALL, {ALL, ALL, ALL, ALL}, {0}, false},
	{0x80000003, ALL, {ALL, ALL, ALL, ALL}, {0}, false},
	{0x80000004, ALL, {ALL, ALL, ALL, ALL}, {0}, false},
	{0x80000005, ALL, {ALL, ALL, ALL, ALL}, {0}, true},
	{0x80000006, ALL, {ALL, ALL, ALL, ALL}, {0}, false},
	{0x80000007, ALL, {0}, {0, 0, 0, B(8)}, false}, /* invariant TSC */
	{0x80000008, ALL, {0xff, 0, 0, 0}, {0}, false}, /* MAXPHYADDR; the rest: address_sizes */
	{0x80000008,
	 ALL,
	 {0},
	 {0, B(26) | B(29), 0, 0},
	 true}, /* SSB_NO BTC_NO: no mitigation that costs, as in CPUMODEL_ARCH_CAPABILITIES */
	/* LFENCE serializes, a null selector clears the base, SRSO_NO; TSA_SQ_NO TSA_L1_NO */
	{0x80000021, ALL, {0}, {B(2) | B(6) | B(29), 0, B(1) | B(2), 0}, true},
};

void cpumodel_host_cpuid(u32 leaf, u32 subleaf, u32 out[4])
{
	__cpuid_count(leaf, subleaf, out[EAX], out[EBX], out[ECX], out[EDX]);
}

struct build {
	struct x86_cpuid_table *out;
	cpumodel_cpuid_fn *host;
	bool amd;
	u32 max, max_ext, max7; /* last leaves, last subleaf of 7. Asked for once: CPUID is dear where husk itself is in a VM */
	u64 xcr0;
};

static u32 *reg_of(struct x86_cpuid *c, u32 reg)
{
	u32 *const regs[] = {&c->eax, &c->ebx, &c->ecx, &c->edx};

	return regs[reg];
}

/* Where the entry belongs; made if it is not there. Its neighbours in the table are by ascending leaf and subleaf. */
static struct x86_cpuid *entry(struct build *b, u32 leaf, u32 subleaf, bool has_subleaf)
{
	struct x86_cpuid_table *t = b->out;
	struct x86_cpuid *found = x86_cpuid_find(t, leaf, subleaf);
	u32 at = t->nr;

	if (found)
		return found;
	ASSERT(t->nr < X86_CPUID_MAX); /* what this file makes is far less */
	while (at && (t->e[at - 1].leaf > leaf || (t->e[at - 1].leaf == leaf && t->e[at - 1].subleaf > subleaf))) {
		t->e[at] = t->e[at - 1];
		at--;
	}
	t->e[at] = (struct x86_cpuid){.leaf = leaf, .subleaf = subleaf, .has_subleaf = has_subleaf};
	t->nr++;
	return &t->e[at];
}

static void put(struct build *b, u32 leaf, u32 subleaf, bool has_subleaf, const u32 r[NR_REGS])
{
	struct x86_cpuid *c = entry(b, leaf, subleaf, has_subleaf);

	for (u32 i = 0; i < NR_REGS; i++)
		*reg_of(c, i) = r[i];
}

/* The host's leaf, zeros where it has none: the last basic leaf would answer for those beyond it (SDM 2A). */
static void host_leaf(struct build *b, u32 leaf, u32 subleaf, u32 r[NR_REGS])
{
	memset(r, 0, NR_REGS * sizeof(r[0]));
	if (leaf > (leaf & 0x80000000 ? b->max_ext : b->max) || (leaf == 7 && subleaf > b->max7))
		return;
	b->host(leaf, subleaf, r);
}

static void show_features(struct build *b)
{
	for (u32 i = 0; i < ARRAY_SIZE(shown); i++) {
		const struct shown *s = &shown[i];
		bool has_subleaf = s->subleaf != ALL;
		u32 subleaf = has_subleaf ? s->subleaf : 0, host[NR_REGS];
		struct x86_cpuid *c;

		if (s->amd && !b->amd)
			continue;
		memset(host, 0, sizeof(host));
		if (s->mask[EAX] | s->mask[EBX] | s->mask[ECX] | s->mask[EDX])
			host_leaf(b, s->leaf, subleaf, host);
		c = entry(b, s->leaf, subleaf, has_subleaf);
		for (u32 r = 0; r < NR_REGS; r++)
			*reg_of(c, r) |= (host[r] & s->mask[r]) | s->force[r];
	}
}

/* Leaf 4, and AMD's 0x8000001d: the caches; who shares them is the topology's business (x86_cpuid_build). */
static void show_caches(struct build *b)
{
	u32 leaf = b->amd ? 0x8000001d : 4, r[NR_REGS];

	for (u32 i = 0; i < 8; i++) {
		host_leaf(b, leaf, i, r);
		if (!(r[EAX] & 0x1f))
			return;
		put(b, leaf, i, true, r);
	}
}

/* Leaf 0xd: the components that both the host has and guests may use. Offsets are the host's: translated code saves with its instructions.
 */
static void show_xsave(struct build *b)
{
	u32 main_leaf[NR_REGS], r[NR_REGS], end = XSAVE_LEGACY_END;

	host_leaf(b, 0xd, 0, main_leaf);
	b->xcr0 = main_leaf[EAX] & CPUMODEL_XCR0;
	if ((b->xcr0 & 0xe0) != 0xe0)
		b->xcr0 &= ~0xe0ull; /* the three of AVX-512 come together */
	for (u32 i = 2; i < 8; i++) {
		if (!(b->xcr0 & BIT(i)))
			continue;
		host_leaf(b, 0xd, i, r);
		r[ECX] &= 2; /* aligned in the compacted format */
		r[EDX] = 0;
		end = MAX(end, r[EAX] + r[EBX]);
		put(b, 0xd, i, true, r);
	}
	put(b, 0xd, 0, true, (const u32[]){(u32)b->xcr0, end, end, 0});
	host_leaf(b, 0xd, 1, r);
	put(b, 0xd, 1, true, (const u32[]){r[EAX] & 0xf, end, 0, 0}); /* XSAVEOPT XSAVEC XGETBV1 XSAVES; not XFD */
}

static void address_sizes(struct build *b)
{
	struct x86_cpuid *c = entry(b, 0x80000008, 0, false);

	c->eax = MIN(c->eax ? c->eax : 36u, 52u) | LINEAR_BITS << 8;
}

static void show_limits(struct build *b)
{
	u32 r[NR_REGS];

	b->host(0, 0, r);
	r[EAX] = MIN(MAX(r[EAX], 0xdu), 0x16u);
	put(b, 0, 0, false, r);
	b->host(0x80000000, 0, r);
	r[EAX] = b->amd ? MIN(MAX(r[EAX], 0x80000021u), 0x80000021u) : 0x80000008u;
	r[EBX] = b->amd ? r[EBX] : 0;
	put(b, 0x80000000, 0, false, (const u32[]){r[EAX], r[EBX], b->amd ? r[ECX] : 0, b->amd ? r[EDX] : 0});
}

static void show_hypervisor(struct build *b)
{
	put(b, 0x40000000, 0, false, (const u32[]){0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d}); /* KVMKVMKVM */
	put(b, 0x40000001, 0, false, (const u32[]){PV_FEATURES, 0, 0, 0});
}

/* AVX and AVX-512 features without their state are not to be had. */
static void drop_without_state(struct build *b)
{
	struct x86_cpuid *basic = entry(b, 1, 0, false), *ext = entry(b, 7, 0, true), *ext1 = entry(b, 7, 1, true);

	if (!(b->xcr0 & BIT(2))) {
		basic->ecx &= ~(B(12) | B(28) | B(29)); /* FMA AVX F16C */
		ext->ebx &= ~B(5);
		ext->ecx &= ~(B(9) | B(10));
		ext1->eax &= ~(B(0) | B(1) | B(2) | B(4) | B(23));
		ext1->edx = 0;
	}
	if (!(b->xcr0 & BIT(5))) {
		ext->ebx &= ~(B(16) | B(17) | B(21) | B(28) | B(30) | B(31));
		ext->ecx &= ~(B(1) | B(6) | B(11) | B(12) | B(14));
		ext->edx &= ~(B(8) | B(23));
		ext1->eax &= ~B(5);
	}
}

void cpumodel_build(struct x86_cpuid_table *out, cpumodel_cpuid_fn *host)
{
	struct build b = {.out = out, .host = host};
	u32 r[NR_REGS];

	out->nr = 0;
	host(0, 0, r);
	b.max = r[EAX];
	b.amd = x86_maker_is_amd(r[EBX]);
	host(0x80000000, 0, r);
	b.max_ext = r[EAX];
	if (b.max >= 7)
		host(7, 0, r);
	b.max7 = b.max >= 7 ? r[EAX] : 0;
	show_limits(&b);
	show_features(&b);
	show_caches(&b);
	show_xsave(&b);
	drop_without_state(&b);
	address_sizes(&b);
	show_hypervisor(&b);
}
