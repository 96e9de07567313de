/* test_cpuid.c: what CPUID shows guests, from the supported leaves of made-up Intel and AMD hosts. */
#include "cm.h"

#include <string.h>

#include "arch/x86_64/cpuid.h"

static void leaf(struct arch_cpu_caps *caps, u32 number, u32 subleaf, bool has_subleaf, u32 eax, u32 ebx, u32 ecx, u32 edx)
{
	caps->cpuid.e[caps->cpuid.nr++] = (struct x86_cpuid){number, subleaf, has_subleaf, eax, ebx, ecx, edx};
}

static void intel(struct arch_cpu_caps *caps)
{
	*caps = (struct arch_cpu_caps){.tsc_khz = 2899999, .tsc_deadline = true, .x2apic = true};
	leaf(caps, 0, 0, false, 0xd, 0x756e6547, 0x6c65746e, 0x49656e69);
	leaf(caps, 1, 0, false, 0x606a6, 0xff200800, 0xffffffff & ~(1u << 31), 0xffffffff);
	leaf(caps, 4, 0, true, 0xfc004121, 0x2c0003f, 63, 0);
	leaf(caps, 4, 3, true, 0xfc1fc163, 0x2c0003f, 0xffff, 4);
	leaf(caps, 7, 0, true, 2, 0xffffffff, 0xffffffff, 0xffffffff);
	leaf(caps, 0xa, 0, false, 0x07300805, 0, 0, 0x603);
	leaf(caps, 0xb, 0, true, 1, 2, 0x100, 77);
	leaf(caps, 0xd, 0, true, 0x602e7, 0, 0x2b00, 0);
	leaf(caps, 0xd, 1, true, 0x1f, 0, 0, 0);
	leaf(caps, 0xd, 2, true, 256, 576, 0, 0);
	leaf(caps, 0xd, 7, true, 1024, 1664, 0, 0);
	leaf(caps, 0xd, 9, true, 8, 2688, 0, 0);
	leaf(caps, 0xd, 17, true, 64, 2752, 2, 0);
	leaf(caps, 0xd, 18, true, 8192, 2816, 6, 0);
	leaf(caps, 0x1f, 0, true, 1, 2, 0x100, 77);
	leaf(caps, 0x40000000, 0, false, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d);
	leaf(caps, 0x40000001, 0, false, 0x1007efb, 0, 0, 0);
	leaf(caps, 0x80000000, 0, false, 0x80000008, 0, 0, 0);
}

static void amd(struct arch_cpu_caps *caps)
{
	*caps = (struct arch_cpu_caps){.tsc_khz = 2400000, .tsc_deadline = true, .x2apic = true};
	leaf(caps, 0, 0, false, 0x10, 0x68747541, 0x444d4163, 0x69746e65);
	leaf(caps, 1, 0, false, 0xa20f10, 0, 0, 0x178bfbff);
	leaf(caps, 0x80000000, 0, false, 0x8000001f, 0, 0, 0);
	leaf(caps, 0x80000001, 0, false, 0xa20f10, 0, 0xffffffff, 0);
	leaf(caps, 0x80000007, 0, false, 0, 0, 0, 0xffff);
	leaf(caps, 0x80000008, 0, false, 0x3030, 0, 0x7fff, 0);
	leaf(caps, 0x8000000a, 0, false, 1, 0x8000, 0, 0xff);
	leaf(caps, 0x8000001d, 0, true, 0x4121, 0x1c0003f, 63, 0);
	leaf(caps, 0x8000001d, 3, true, 0x3c163, 0x3c0003f, 0x7fff, 1);
	leaf(caps, 0x8000001e, 0, false, 77, 0x177, 0, 0);
}

static struct x86_cpuid get(struct x86_cpuid_table *t, u32 number, u32 subleaf)
{
	const struct x86_cpuid *c = x86_cpuid_find(t, number, subleaf);

	return c ? *c : (struct x86_cpuid){0};
}

static struct x86_cpuid_table build(void (*host)(struct arch_cpu_caps *), u32 nr, bool smt, u32 index)
{
	static struct arch_cpu_caps caps;
	struct x86_topology topo = {.nr_vcpus = nr, .smt = smt};
	struct x86_cpuid_table t;

	host(&caps);
	x86_cpuid_build(&t, &caps, &topo, index);
	return t;
}

static void each_vcpu_has_its_apic_id_in_every_leaf_that_names_it(void **state)
{
	struct x86_cpuid_table i = build(intel, 6, true, 5), a = build(amd, 6, true, 5);

	(void)state;
	assert_int_equal(get(&i, 1, 0).ebx >> 24, 5);
	assert_int_equal(get(&i, 1, 0).ebx >> 16 & 0xff, 8);
	assert_int_equal(get(&i, 0xb, 0).edx, 5);
	assert_int_equal(get(&i, 0x1f, 1).edx, 5);
	assert_int_equal(get(&a, 0x8000001e, 0).eax, 5);
	assert_int_equal(get(&a, 0x8000001e, 0).ebx, 0x102); /* two threads per core; core 2 */
	assert_int_equal(get(&a, 0xb, 1).edx, 5);
}

static void threads_and_cores_add_up(void **state)
{
	struct x86_cpuid_table smt = build(intel, 8, true, 0), flat = build(intel, 3, false, 0), one = build(intel, 1, true, 0);

	(void)state;
	assert_int_equal(get(&smt, 0xb, 0).eax, 1);
	assert_int_equal(get(&smt, 0xb, 0).ebx, 2);
	assert_int_equal(get(&smt, 0xb, 1).eax, 3);
	assert_int_equal(get(&smt, 0xb, 1).ebx, 8);
	assert_int_equal(get(&smt, 0xb, 2).ebx, 0);
	assert_int_equal(get(&flat, 0xb, 0).eax, 0);
	assert_int_equal(get(&flat, 0xb, 0).ebx, 1);
	assert_int_equal(get(&flat, 0xb, 1).eax, 2);
	assert_int_equal(get(&flat, 0xb, 1).ebx, 3);
	assert_int_equal(get(&one, 0xb, 0).ebx, 1);
	assert_true(get(&smt, 1, 0).edx & BIT(28));
	assert_false(get(&one, 1, 0).edx & BIT(28));
}

static void caches_are_shared_by_the_threads_of_a_core_or_by_all(void **state)
{
	struct x86_cpuid_table t = build(intel, 8, true, 0), a = build(amd, 8, true, 0);

	(void)state;
	assert_int_equal(get(&t, 4, 0).eax >> 14 & 0xfff, 1);
	assert_int_equal(get(&t, 4, 3).eax >> 14 & 0xfff, 7);
	assert_int_equal(get(&t, 4, 0).eax >> 26, 3);
	assert_int_equal(get(&t, 4, 0).eax & 0x3fff, 0x121);
	assert_int_equal(get(&a, 0x8000001d, 0).eax >> 14, 1);
	assert_int_equal(get(&a, 0x8000001d, 3).eax >> 14, 7);
}

static void what_guests_must_not_see_is_hidden(void **state)
{
	struct x86_cpuid_table i = build(intel, 1, false, 0), a = build(amd, 1, false, 0);

	(void)state;
	assert_false(get(&i, 1, 0).ecx & (BIT(3) | BIT(5) | BIT(6) | BIT(7) | BIT(15))); /* MONITOR VMX SMX EIST PDCM */
	assert_false(get(&i, 7, 0).ebx & (BIT(2) | BIT(4) | BIT(11)));			 /* SGX HLE RTM */
	assert_false(get(&i, 7, 0).edx & (BIT(22) | BIT(24) | BIT(25)));		 /* AMX */
	assert_int_equal(get(&i, 0xa, 0).eax, 0);
	assert_false(get(&a, 0x80000001, 0).ecx & (BIT(2) | BIT(23))); /* SVM PERFCTR_CORE */
	assert_int_equal(get(&a, 0x8000000a, 0).eax, 0);
	assert_int_equal(get(&a, 0x80000007, 0).edx, BIT(8));
}

static void what_guests_need_is_shown(void **state)
{
	struct x86_cpuid_table i = build(intel, 1, false, 0);

	(void)state;
	assert_true(get(&i, 1, 0).ecx & BIT(31)); /* hypervisor */
	assert_true(get(&i, 1, 0).ecx & BIT(24)); /* TSC deadline */
	assert_true(get(&i, 1, 0).ecx & BIT(21)); /* x2APIC */
	assert_true(get(&i, 7, 0).ebx & BIT(5));  /* AVX2 */
	assert_int_equal(get(&i, 0x40000000, 0).ebx, 0x4b4d564b);
	assert_int_equal(get(&i, 0x40000001, 0).eax, 0x1007efb);
}

static void without_amx_the_xsave_area_is_smaller(void **state)
{
	struct x86_cpuid_table t = build(intel, 1, false, 0);

	(void)state;
	assert_int_equal(get(&t, 0xd, 0).eax, 0x2e7);
	assert_int_equal(get(&t, 0xd, 0).ecx, 2696);
	assert_int_equal(get(&t, 0xd, 18).eax, 0);
	assert_int_equal(get(&t, 0xd, 1).eax, 0xf);
}

static void the_frequency_is_exact_wherever_it_is_told(void **state)
{
	struct x86_cpuid_table i = build(intel, 1, false, 0), a = build(amd, 1, false, 0);
	struct x86_cpuid c = get(&i, 0x15, 0);

	(void)state;
	assert_int_equal((u64)c.ecx * c.ebx / c.eax, 2899999000ull);
	assert_int_equal(get(&i, 0x16, 0).eax, 2899);
	assert_int_equal(get(&i, 0, 0).eax, 0x16);
	assert_int_equal(get(&i, 0x40000010, 0).eax, 2899999);
	assert_int_equal(get(&i, 0x40000000, 0).eax, 0x40000010);
	assert_int_equal(get(&a, 0x15, 0).eax, 0);
}

static void a_frequency_above_32_bits_of_hertz_is_told_by_the_ratio(void **state)
{
	static struct arch_cpu_caps caps;
	struct x86_topology topo = {.nr_vcpus = 1};
	struct x86_cpuid_table t;
	struct x86_cpuid c;

	(void)state;
	intel(&caps);
	caps.tsc_khz = 5000000;
	x86_cpuid_build(&t, &caps, &topo, 0);
	c = get(&t, 0x15, 0);
	assert_int_equal((u64)c.ecx * c.ebx / c.eax, 5000000000ull);
}

static void leaves_come_in_order_and_once(void **state)
{
	struct x86_cpuid_table t = build(intel, 64, true, 63);

	(void)state;
	for (u32 i = 1; i < t.nr; i++) {
		const struct x86_cpuid *p = &t.e[i - 1], *c = &t.e[i];

		assert_true(p->leaf < c->leaf || (p->leaf == c->leaf && p->subleaf < c->subleaf));
	}
}

static void a_full_table_stays_within_its_bounds(void **state)
{
	static struct arch_cpu_caps caps;
	struct x86_topology topo = {.nr_vcpus = 4, .smt = true};
	struct x86_cpuid_table t;

	(void)state;
	intel(&caps);
	while (caps.cpuid.nr < X86_CPUID_MAX)
		leaf(&caps, 0x80000100 + caps.cpuid.nr, 0, false, 1, 1, 1, 1);
	x86_cpuid_build(&t, &caps, &topo, 0);
	assert_true(t.nr <= X86_CPUID_MAX);
	assert_int_equal(get(&t, 0xb, 1).ebx, 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_vcpu_has_its_apic_id_in_every_leaf_that_names_it),
		cmocka_unit_test(threads_and_cores_add_up),
		cmocka_unit_test(caches_are_shared_by_the_threads_of_a_core_or_by_all),
		cmocka_unit_test(what_guests_must_not_see_is_hidden),
		cmocka_unit_test(what_guests_need_is_shown),
		cmocka_unit_test(without_amx_the_xsave_area_is_smaller),
		cmocka_unit_test(the_frequency_is_exact_wherever_it_is_told),
		cmocka_unit_test(a_frequency_above_32_bits_of_hertz_is_told_by_the_ratio),
		cmocka_unit_test(leaves_come_in_order_and_once),
		cmocka_unit_test(a_full_table_stays_within_its_bounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
