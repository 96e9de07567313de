/* cpufeat.c: what a guest's CPUID table means for the accelerator: which instructions it may execute, and whether it can run here at all.
 */
#include <errno.h>

#include "tcg/cpumodel.h"
#include "tcg/x86_64/decode.h"

enum { EAX, EBX, ECX, EDX };

static const struct bit {
	u32 leaf;
	u8 subleaf, reg, bit, feat;
	const char *name;
} bits[] = {
	{0x1, 0, ECX, 0, FEAT_SSE3, "SSE3"},
	{0x1, 0, ECX, 1, FEAT_PCLMUL, "PCLMULQDQ"},
	{0x1, 0, ECX, 9, FEAT_SSSE3, "SSSE3"},
	{0x1, 0, ECX, 12, FEAT_FMA, "FMA"},
	{0x1, 0, ECX, 13, FEAT_CX16, "CMPXCHG16B"},
	{0x1, 0, ECX, 19, FEAT_SSE41, "SSE4.1"},
	{0x1, 0, ECX, 20, FEAT_SSE42, "SSE4.2"},
	{0x1, 0, ECX, 22, FEAT_MOVBE, "MOVBE"},
	{0x1, 0, ECX, 23, FEAT_POPCNT, "POPCNT"},
	{0x1, 0, ECX, 25, FEAT_AES, "AES"},
	{0x1, 0, ECX, 26, FEAT_XSAVE, "XSAVE"},
	{0x1, 0, ECX, 28, FEAT_AVX, "AVX"},
	{0x1, 0, ECX, 29, FEAT_F16C, "F16C"},
	{0x1, 0, ECX, 30, FEAT_RDRAND, "RDRAND"},
	{0x1, 0, EDX, 11, FEAT_SEP, "SYSENTER"},
	{0x7, 0, EBX, 0, FEAT_FSGSBASE, "FSGSBASE"},
	{0x7, 0, EBX, 3, FEAT_BMI1, "BMI1"},
	{0x7, 0, EBX, 5, FEAT_AVX2, "AVX2"},
	{0x7, 0, EBX, 8, FEAT_BMI2, "BMI2"},
	{0x7, 0, EBX, 10, FEAT_INVPCID, "INVPCID"},
	{0x7, 0, EBX, 16, FEAT_AVX512F, "AVX512F"},
	{0x7, 0, EBX, 17, FEAT_AVX512DQ, "AVX512DQ"},
	{0x7, 0, EBX, 18, FEAT_RDSEED, "RDSEED"},
	{0x7, 0, EBX, 19, FEAT_ADX, "ADX"},
	{0x7, 0, EBX, 20, FEAT_SMAP, "SMAP"},
	{0x7, 0, EBX, 21, FEAT_AVX512IFMA, "AVX512_IFMA"},
	{0x7, 0, EBX, 23, FEAT_CLFLUSHOPT, "CLFLUSHOPT"},
	{0x7, 0, EBX, 24, FEAT_CLWB, "CLWB"},
	{0x7, 0, EBX, 28, FEAT_AVX512CD, "AVX512CD"},
	{0x7, 0, EBX, 29, FEAT_SHA, "SHA"},
	{0x7, 0, EBX, 30, FEAT_AVX512BW, "AVX512BW"},
	{0x7, 0, EBX, 31, FEAT_AVX512VL, "AVX512VL"},
	{0x7, 0, ECX, 1, FEAT_AVX512VBMI, "AVX512_VBMI"},
	{0x7, 0, ECX, 6, FEAT_AVX512VBMI2, "AVX512_VBMI2"},
	{0x7, 0, ECX, 8, FEAT_GFNI, "GFNI"},
	{0x7, 0, ECX, 9, FEAT_VAES, "VAES"},
	{0x7, 0, ECX, 10, FEAT_VPCLMUL, "VPCLMULQDQ"},
	{0x7, 0, ECX, 11, FEAT_AVX512VNNI, "AVX512_VNNI"},
	{0x7, 0, ECX, 12, FEAT_AVX512BITALG, "AVX512_BITALG"},
	{0x7, 0, ECX, 14, FEAT_AVX512VPOPCNTDQ, "AVX512_VPOPCNTDQ"},
	{0x7, 0, ECX, 22, FEAT_RDPID, "RDPID"},
	{0x7, 0, ECX, 25, FEAT_CLDEMOTE, "CLDEMOTE"},
	{0x7, 0, ECX, 27, FEAT_MOVDIRI, "MOVDIRI"},
	{0x7, 0, ECX, 28, FEAT_MOVDIR64B, "MOVDIR64B"},
	{0x7, 0, EDX, 8, FEAT_AVX512VP2INTERSECT, "AVX512_VP2INTERSECT"},
	{0x7, 0, EDX, 14, FEAT_SERIALIZE, "SERIALIZE"},
	{0x7, 0, EDX, 23, FEAT_AVX512FP16, "AVX512_FP16"},
	{0x7, 1, EAX, 0, FEAT_SHA512, "SHA512"},
	{0x7, 1, EAX, 1, FEAT_SM3, "SM3"},
	{0x7, 1, EAX, 2, FEAT_SM4, "SM4"},
	{0x7, 1, EAX, 4, FEAT_AVX_VNNI, "AVX_VNNI"},
	{0x7, 1, EAX, 5, FEAT_AVX512BF16, "AVX512_BF16"},
	{0x7, 1, EAX, 23, FEAT_AVX_IFMA, "AVX_IFMA"},
	{0x7, 1, EDX, 4, FEAT_AVX_VNNI_INT8, "AVX_VNNI_INT8"},
	{0x7, 1, EDX, 5, FEAT_AVX_NE_CONVERT, "AVX_NE_CONVERT"},
	{0xd, 1, EAX, 0, FEAT_XSAVEOPT, "XSAVEOPT"},
	{0xd, 1, EAX, 1, FEAT_XSAVEC, "XSAVEC"},
	{0xd, 1, EAX, 3, FEAT_XSAVES, "XSAVES"},
	{0x80000001, 0, ECX, 0, FEAT_LAHF64, "LAHF"},
	{0x80000001, 0, ECX, 5, FEAT_LZCNT, "LZCNT"},
	{0x80000001, 0, ECX, 8, FEAT_PREFETCHW, "PREFETCHW"},
	{0x80000001, 0, EDX, 11, FEAT_SYSCALL, "SYSCALL"},
	{0x80000001, 0, EDX, 27, FEAT_RDTSCP, "RDTSCP"},
};

/* Shown by other accelerators on other hosts, and nothing that tcg does: no instruction of these runs. */
static const struct bit others[] = {
	{0x7, 0, EBX, 4, 0, "HLE"},	      {0x7, 0, EBX, 11, 0, "RTM"},	   {0x7, 0, ECX, 3, 0, "PKU"},
	{0x7, 0, ECX, 5, 0, "WAITPKG"},	      {0x7, 0, ECX, 7, 0, "CET_SS"},	   {0x7, 0, ECX, 16, 0, "LA57"},
	{0x7, 0, ECX, 29, 0, "ENQCMD"},	      {0x7, 0, EDX, 5, 0, "UINTR"},	   {0x7, 0, EDX, 20, 0, "CET_IBT"},
	{0x7, 0, EDX, 24, 0, "AMX_TILE"},     {0x7, 1, EAX, 7, 0, "CMPCCXADD"},	   {0x7, 1, EAX, 17, 0, "FRED"},
	{0x7, 1, EAX, 18, 0, "LKGS"},	      {0x7, 1, EAX, 26, 0, "LAM"},	   {0x7, 1, EDX, 10, 0, "AVX_VNNI_INT16"},
	{0x7, 1, EDX, 19, 0, "AVX10"},	      {0x7, 1, EDX, 21, 0, "APX"},	   {0x80000001, 0, ECX, 6, 0, "SSE4A"},
	{0x80000001, 0, ECX, 11, 0, "XOP"},   {0x80000001, 0, ECX, 16, 0, "FMA4"}, {0x80000001, 0, ECX, 21, 0, "TBM"},
	{0x80000008, 0, EBX, 0, 0, "CLZERO"},
};

static bool has(const struct x86_cpuid_table *t, const struct bit *b)
{
	const struct x86_cpuid *c = x86_cpuid_find((struct x86_cpuid_table *)t, b->leaf, b->subleaf);
	u32 value;

	if (!c)
		return false;
	value = b->reg == EAX ? c->eax : b->reg == EBX ? c->ebx : b->reg == ECX ? c->ecx : c->edx;
	return value >> b->bit & 1;
}

void cpumodel_features(const struct x86_cpuid_table *guest, u64 features[4])
{
	_Static_assert(FEAT_NR <= 4 * 64, "features[] has a bit for each");

	features[0] = BIT(FEAT_NONE);
	features[1] = features[2] = features[3] = 0;
	for (u32 i = 0; i < ARRAY_SIZE(bits); i++) {
		if (has(guest, &bits[i]))
			features[bits[i].feat / 64] |= BIT(bits[i].feat % 64);
	}
}

u64 cpumodel_xcr0(const struct x86_cpuid_table *guest)
{
	const struct x86_cpuid *c = x86_cpuid_find((struct x86_cpuid_table *)guest, 0xd, 0);

	return c ? c->eax | 1ull : 1;
}

static int check_bits(const struct bit *b, u32 nr, const struct x86_cpuid_table *guest, const struct x86_cpuid_table *mine, struct err *e)
{
	for (u32 i = 0; i < nr; i++) {
		if (has(guest, &b[i]) && !has(mine, &b[i]))
			return err_set(e, -EOPNOTSUPP, "the guest was shown a processor with %s, which %s", b[i].name,
				       b == others ? "the software accelerator does not have" : "this host's does not have");
	}
	return 0;
}

int cpumodel_check(const struct x86_cpuid_table *guest, const struct x86_cpuid_table *mine, struct err *e)
{
	int ret = check_bits(bits, ARRAY_SIZE(bits), guest, mine, e);

	if (!ret)
		ret = check_bits(others, ARRAY_SIZE(others), guest, mine, e);
	if (!ret && cpumodel_xcr0(guest) & ~(cpumodel_xcr0(mine) | 0x18 /* MPX, which nothing uses */))
		ret = err_set(e, -EOPNOTSUPP, "the guest was shown XSAVE components 0x%llx, the software accelerator has 0x%llx here",
			      (unsigned long long)cpumodel_xcr0(guest), (unsigned long long)cpumodel_xcr0(mine));
	return ret;
}
