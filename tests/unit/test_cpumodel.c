/* test_cpumodel.c: what guests of the software accelerator are shown of processors that this machine need not be. */
#include "cm.h"

#include <errno.h>
#include <string.h>

#include "arch/x86_64/cpuid.h"
#include "arch/x86_64/cpu_template.h"
#include "tcg/cpumodel.h"
#include "tcg/x86_64/decode.h"
#include "vmm/clock.h"

#define AVX512_EBX (1u << 16 | 1u << 17 | 1u << 21 | 1u << 28 | 1u << 30 | 1u << 31)

/* A processor of the future: every bit of every leaf is set, up to leaf 0x2f; XSAVE components lie 64 bytes apart. */
static void all_of_it(u32 leaf, u32 subleaf, u32 r[4])
{
	memset(r, 0xff, 4 * sizeof(*r));
	if (leaf == 0) {
		r[0] = 0x2f;
		r[1] = 0x756e6547;
		r[2] = 0x6c65746e;
		r[3] = 0x49656e69;
	} else if (leaf == 0x80000000) {
		r[0] = 0x80000030;
	} else if (leaf == 0xd && subleaf >= 2) {
		r[0] = 64;
		r[1] = 576 + 64 * subleaf;
	} else if (leaf == 4) {
		r[0] = subleaf < 4 ? 0x121 : 0;
	}
}

/* The least that the probe lets through: AVX2, and no AVX-512, of AMD. */
static void small(u32 leaf, u32 subleaf, u32 r[4])
{
	all_of_it(leaf, subleaf, r);
	if (leaf == 0) {
		r[0] = 0xd;
		r[1] = 0x68747541;
		r[3] = 0x69746e65;
		r[2] = 0x444d4163;
	} else if (leaf == 0x80000000) {
		r[0] = 0x8000001f;
	} else if (leaf == 0xd && subleaf == 0) {
		r[0] = 7;
	} else if (leaf == 7) {
		r[0] = 0; /* no subleaf 1 */
	} else if (leaf == 0x80000008) {
		r[0] = 0x3028;
	}
}

static u32 reg(struct x86_cpuid_table *t, u32 leaf, u32 subleaf, char which)
{
	const struct x86_cpuid *c = x86_cpuid_find(t, leaf, subleaf);

	if (!c)
		return 0;
	return which == 'a' ? c->eax : which == 'b' ? c->ebx : which == 'c' ? c->ecx : c->edx;
}

static bool bit(struct x86_cpuid_table *t, u32 leaf, u32 subleaf, char which, u32 n)
{
	return reg(t, leaf, subleaf, which) >> n & 1;
}

static void what_nobody_translates_is_not_shown(void **state)
{
	static const struct {
		u32 leaf, subleaf;
		char reg;
		u8 bit;
	} hidden[] = {
		{1, 0, 'c', 3},		 {1, 0, 'c', 5},	  {1, 0, 'c', 27},	    {1, 0, 'd', 1},    {7, 0, 'b', 4},
		{7, 0, 'b', 11},	 {7, 0, 'c', 3},	  {7, 0, 'c', 5},	    {7, 0, 'c', 7},    {7, 0, 'c', 16},
		{7, 0, 'c', 28},	 {7, 0, 'c', 29},	  {7, 0, 'd', 5},	    {7, 0, 'd', 10},   {7, 0, 'd', 20},
		{7, 0, 'd', 22},	 {7, 0, 'd', 24},	  {7, 0, 'd', 25},	    {7, 1, 'a', 7},    {7, 1, 'a', 17},
		{7, 1, 'a', 21},	 {7, 1, 'a', 26},	  {7, 1, 'd', 8},	    {7, 1, 'd', 10},   {7, 1, 'd', 19},
		{7, 1, 'd', 21},	 {0xd, 1, 'a', 4},	  {0xd, 0, 'a', 9},	    {0xd, 0, 'a', 17}, {0xd, 0, 'a', 18},
		{0x80000001, 0, 'c', 2}, {0x80000001, 0, 'c', 6}, {0x80000001, 0, 'c', 11},
	};
	struct x86_cpuid_table t;

	(void)state;
	cpumodel_build(&t, all_of_it);
	for (u32 i = 0; i < ARRAY_SIZE(hidden); i++) {
		if (bit(&t, hidden[i].leaf, hidden[i].subleaf, hidden[i].reg, hidden[i].bit))
			fail_msg("leaf %#x.%u e%cx bit %u is shown", hidden[i].leaf, hidden[i].subleaf, hidden[i].reg, hidden[i].bit);
	}
	assert_null(x86_cpuid_find(&t, 0xa, 0));
	assert_null(x86_cpuid_find(&t, 0x12, 0));
	assert_null(x86_cpuid_find(&t, 0x14, 0));
	assert_null(x86_cpuid_find(&t, 0x1d, 0));
	assert_int_equal(reg(&t, 0xd, 1, 'c'), 0);
	assert_null(x86_cpuid_find(&t, 0xd, 9));
}

static void what_husk_does_itself_is_shown_on_any_host(void **state)
{
	struct x86_cpuid_table t;

	(void)state;
	cpumodel_build(&t, small);
	assert_true(bit(&t, 1, 0, 'c', 17));	      /* PCID */
	assert_true(bit(&t, 1, 0, 'c', 21));	      /* x2APIC */
	assert_true(bit(&t, 1, 0, 'c', 24));	      /* TSC deadline */
	assert_true(bit(&t, 1, 0, 'c', 31));	      /* a hypervisor */
	assert_true(bit(&t, 7, 0, 'b', 10));	      /* INVPCID */
	assert_true(bit(&t, 7, 0, 'b', 20));	      /* SMAP */
	assert_true(bit(&t, 7, 0, 'c', 2));	      /* UMIP */
	assert_true(bit(&t, 7, 0, 'd', 14));	      /* SERIALIZE */
	assert_true(bit(&t, 7, 0, 'd', 29));	      /* ARCH_CAPABILITIES */
	assert_true(bit(&t, 0x80000001, 0, 'd', 26)); /* 1 GiB pages */
	assert_true(bit(&t, 0x80000007, 0, 'd', 8));  /* invariant TSC */
	assert_int_equal(reg(&t, 0x80000008, 0, 'a'), 48 << 8 | 40);
	assert_int_equal(reg(&t, 0x40000000, 0, 'b'), 0x4b4d564b);
	assert_int_equal(reg(&t, 0x40000001, 0, 'a'), 1u << 0 | 1u << 1 | 1u << 3 | 1u << 24);
}

static void processors_of_amd_need_no_mitigations_that_cost(void **state)
{
	struct x86_cpuid_table t;

	(void)state;
	cpumodel_build(&t, small);
	assert_true(bit(&t, 0x80000008, 0, 'b', 26) && bit(&t, 0x80000008, 0, 'b', 29)); /* SSB_NO, BTC_NO */
	assert_true(bit(&t, 0x80000021, 0, 'a', 2) && bit(&t, 0x80000021, 0, 'a', 29));	 /* LFENCE, SRSO_NO */
	assert_true(bit(&t, 0x80000021, 0, 'c', 1) && bit(&t, 0x80000021, 0, 'c', 2));	 /* TSA */
	cpumodel_build(&t, all_of_it);
	assert_null(x86_cpuid_find(&t, 0x80000021, 0));
	assert_false(bit(&t, 0x80000008, 0, 'b', 26));
}

static void without_their_state_there_are_no_avx512_instructions(void **state)
{
	struct x86_cpuid_table t;
	u64 features[4];

	(void)state;
	cpumodel_build(&t, small);
	assert_int_equal(reg(&t, 7, 0, 'b') & AVX512_EBX, 0);
	assert_true(bit(&t, 7, 0, 'b', 5));
	assert_int_equal(reg(&t, 0xd, 0, 'a'), 7);
	assert_int_equal(cpumodel_xcr0(&t), 7);
	cpumodel_features(&t, features);
	assert_int_equal(features[FEAT_AVX512F / 64] >> FEAT_AVX512F % 64 & 1, 0);
	assert_int_equal(features[FEAT_AVX2 / 64] >> FEAT_AVX2 % 64 & 1, 1);
	assert_int_equal(features[FEAT_NONE / 64] >> FEAT_NONE % 64 & 1, 1);
	assert_int_equal(features[FEAT_AVX_VNNI / 64] >> FEAT_AVX_VNNI % 64 & 1, 0); /* no subleaf 1 */
	cpumodel_build(&t, all_of_it);
	cpumodel_features(&t, features);
	assert_int_equal(features[FEAT_AVX512FP16 / 64] >> FEAT_AVX512FP16 % 64 & 1, 1);
	assert_int_equal(features[FEAT_MOVDIR64B / 64] >> FEAT_MOVDIR64B % 64 & 1, 0);
}

static void the_xsave_area_ends_where_the_last_component_does(void **state)
{
	struct x86_cpuid_table t;

	(void)state;
	cpumodel_build(&t, all_of_it);
	assert_int_equal(reg(&t, 0xd, 0, 'a'), 0xe7);
	assert_int_equal(reg(&t, 0xd, 0, 'c'), 576 + 64 * 7 + 64);
	assert_int_equal(reg(&t, 0xd, 7, 'b'), 576 + 64 * 7);
}

static void leaves_are_in_order_and_the_machine_builds_on_them(void **state)
{
	cpumodel_cpuid_fn *const hosts[] = {all_of_it, small, cpumodel_host_cpuid};
	const struct x86_topology topo = {.nr_vcpus = 3};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(hosts); i++) {
		struct arch_cpu_caps caps = {.tsc_khz = 2300000, .tsc_deadline = true, .x2apic = true};
		struct x86_cpuid_table out;

		cpumodel_build(&caps.cpuid, hosts[i]);
		x86_cpuid_build(&out, &caps, &topo, 2);
		for (u32 k = 1; k < out.nr; k++)
			assert_true(out.e[k - 1].leaf < out.e[k].leaf ||
				    (out.e[k - 1].leaf == out.e[k].leaf && out.e[k - 1].subleaf < out.e[k].subleaf));
		assert_int_equal(reg(&out, 0xb, 0, 'd'), 2);
		assert_int_equal(reg(&out, 0x40000010, 0, 'a'), 2300000);
		assert_true(bit(&out, 1, 0, 'c', 24));
	}
}

static void a_guest_from_elsewhere_needs_all_that_it_was_shown(void **state)
{
	struct x86_cpuid_table mine, guest;
	struct err e;

	(void)state;
	cpumodel_build(&mine, small);
	guest = mine;
	assert_int_equal(cpumodel_check(&guest, &mine, &e), 0);
	x86_cpuid_find(&guest, 7, 0)->ebx &= ~(1u << 5); /* less is no harm */
	assert_int_equal(cpumodel_check(&guest, &mine, &e), 0);
	x86_cpuid_find(&guest, 7, 0)->ebx |= 1u << 16;
	assert_int_equal(cpumodel_check(&guest, &mine, &e), -EOPNOTSUPP);
	assert_string_equal(e.msg, "the guest was shown a processor with AVX512F, which this host's does not have");
	guest = mine;
	x86_cpuid_find(&guest, 0xd, 0)->eax |= 0xe0;
	assert_int_equal(cpumodel_check(&guest, &mine, &e), -EOPNOTSUPP);
	guest.nr = 0;
	assert_int_equal(cpumodel_check(&guest, &mine, &e), 0);
}

/* Against CLOCK_MONOTONIC over a longer time than the measurement takes. */
static void the_tsc_frequency_is_right_to_fifty_ppm(void **state)
{
	struct cpumodel_tsc from;
	u64 khz, ns, tsc, want;

	(void)state;
	cpumodel_tsc_begin(&from);
	khz = cpumodel_tsc_khz(&from);
	assert_in_range(khz, 100 * 1000, 20 * 1000 * 1000);
	ns = clock_host_ns();
	tsc = __builtin_ia32_rdtsc();
	while (clock_host_ns() - ns < 100 * NSEC_PER_MSEC)
		;
	ns = clock_host_ns() - ns;
	tsc = __builtin_ia32_rdtsc() - tsc;
	want = (u64)((unsigned __int128)tsc * 1000000 / ns);
	/* CLOCK_MONOTONIC may be slewed, and this loop interrupted. */
	assert_in_range(khz, want - want / 10000, want + want / 10000);
}

static void a_cpu_template_leaves_what_can_be_run(void **state)
{
	struct arch_cpu_caps able = {.tsc_khz = 2000000, .tsc_deadline = true, .x2apic = true, .nr_feature_msrs = 1}, caps;
	struct cfg_machine machine = {.vcpu_count = 1};
	const struct config c = {.machine = &machine};
	u64 before[4], after[4];
	u32 applied = 0;
	struct err e;

	(void)state;
	cpumodel_build(&able.cpuid, cpumodel_host_cpuid);
	able.feature_msrs[0] = (struct x86_msr){0x10a, CPUMODEL_ARCH_CAPABILITIES};
	cpumodel_features(&able.cpuid, before);
	for (machine.cpu_template = CFG_CPU_C3; machine.cpu_template <= CFG_CPU_T2A; machine.cpu_template++) {
		caps = able;
		if (cpu_template_apply(&c, "tcg", &caps, &e) < 0)
			continue; /* another vendor's */
		applied++;
		cpumodel_features(&caps.cpuid, after);
		for (u32 i = 0; i < ARRAY_SIZE(before); i++)
			assert_int_equal(after[i] & ~before[i], 0);
		assert_int_equal(cpumodel_xcr0(&caps.cpuid) & ~7ull, 0);
		assert_int_equal(cpumodel_check(&caps.cpuid, &able.cpuid, &e), 0);
	}
	assert_true(applied);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_nobody_translates_is_not_shown),
		cmocka_unit_test(what_husk_does_itself_is_shown_on_any_host),
		cmocka_unit_test(processors_of_amd_need_no_mitigations_that_cost),
		cmocka_unit_test(without_their_state_there_are_no_avx512_instructions),
		cmocka_unit_test(the_xsave_area_ends_where_the_last_component_does),
		cmocka_unit_test(leaves_are_in_order_and_the_machine_builds_on_them),
		cmocka_unit_test(a_guest_from_elsewhere_needs_all_that_it_was_shown),
		cmocka_unit_test(the_tsc_frequency_is_right_to_fifty_ppm),
		cmocka_unit_test(a_cpu_template_leaves_what_can_be_run),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
