/* test_cpu_table.c: which saved vCPU states are refused, and how that is said; the template that accelerators have in common. */
#include "cm.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "arch/x86_64/cpu_common.h"
#include "arch/x86_64/x86.h"

struct rig {
	struct cpu_state s;
	struct arch_cpu_caps caps;
};

/* 64-bit mode with AVX in use, on a processor that has no more than is needed. */
static int setup(void **state)
{
	static const struct x86_cpuid leaves[] = {
		{0, 0, false, 0xd, 0, 0, 0},
		{1, 0, false, 0, 0, 1u << 17 | 1u << 21 | 1u << 24 | 1u << 26 | 1u << 28, 0x0783fbfd},
		{7, 0, true, 0, 1u << 0 | 1u << 5 | 1u << 7 | 1u << 20, 1u << 2, 0},
		{0xd, 0, true, 7, 832, 832, 0},
		{0xd, 1, true, 1, 832, 0, 0},
		{0xd, 2, true, 256, 576, 0, 0},
		{0x40000001, 0, false, 1u << 3, 0, 0, 0},
		{0x80000001, 0, false, 0, 0, 1, 1u << 29 | 1u << 20 | 1u << 11},
		{0x80000008, 0, false, 39 | 48 << 8, 0, 0, 0},
	};
	struct rig *r = xzalloc(sizeof(*r));
	struct cpu_state *s = &r->s;

	x86_cpu_reset(s, 0);
	x86_cpu_enter_long(s, 0xffffffff81000000, 0);
	s->cpuid.nr = ARRAY_SIZE(leaves);
	memcpy(s->cpuid.e, leaves, sizeof(leaves));
	s->xcr0 = 7;
	s->xsave_size = 832;
	st_le64(s->xsave + 512, 7);
	s->tsc_khz = 2000000;
	s->nr_msrs = 2;
	s->msrs[0] = (struct x86_msr){0x10, 12345};
	s->msrs[1] = (struct x86_msr){0xc0000082, 0xffffffff81000040};
	r->caps.cpuid = s->cpuid;
	r->caps.tsc_khz = 2000000;
	r->caps.nr_msrs = 7;
	memcpy(r->caps.msrs, (u32[]){0x10, 0x277, 0xda0, 0xc0000082, 0xc0000103, 0xc0000102, 0x176}, 7 * sizeof(u32));
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	free(*state);
	return 0;
}

static void refused(struct rig *r, int how, const char *why)
{
	struct err e = {0};
	int ret = x86_cpu_check(&r->s, 0, &r->caps, "kvm", &e);

	if (ret != how || !strstr(e.msg, why))
		fail_msg("%d \"%s\", not %d \"%s\"", ret, e.msg, how, why);
}

static void a_state_that_can_be_is_taken(void **state)
{
	struct rig *r = *state;
	struct err e = {0};

	if (x86_cpu_check(&r->s, 0, &r->caps, "kvm", &e) < 0)
		fail_msg("%s", e.msg);
	x86_cpu_reset(&r->s, 1); /* one that waits for SIPI, and was never shown CPUID */
	if (x86_cpu_check(&r->s, 1, &r->caps, "kvm", &e) < 0)
		fail_msg("%s", e.msg);
}

/* Offset of a u64 in struct cpu_state, a value that no processor has in this mode, and what the message says. */
static void registers_that_cannot_be_are_refused(void **state)
{
	static const struct {
		size_t at;
		u64 value;
		const char *why;
	} bad[] = {
#define R(m, v, w) {offsetof(struct cpu_state, m), v, w}
		R(cr0, 0x80000010, "CR0 = 0x80000010"),
		R(cr0, 0x180000011, "CR0"),
		R(cr0, 0xa0000011, "CR0"),
		R(cr4, 0, "CR4"),
		R(cr4, 0x1020, "CR4 = 0x1020"), /* LA57 */
		R(cr4, 0x10000020, "CR4"),
		R(efer, 0x400, "EFER"),
		R(efer, 0x100, "EFER"),
		R(efer, 0x1500, "EFER"),	 /* SVME */
		R(efer, 0x4500, "EFER"),	 /* FFXSR */
		R(rflags, 0x20002, "RFLAGS"),	 /* VM */
		R(rflags, 0x80000002, "RFLAGS"), /* beyond */
		R(rip, 0x800000000000, "RIP"),
		R(cr3, 1ull << 39, "CR3"),
		R(dr6, 1ull << 32, "DR6"),
		R(dr7, 1ull << 63, "DR7"),
		R(apic_base, 0xfee00400, "APIC base"),
		R(apic_base, 0xfee00901, "APIC base"),
		R(seg[X86_FS].base, 1ull << 50, "segment's base"),
		R(gdt.base, 1ull << 50, "GDT"),
		R(xcr0, 6, "XCR0"),
		R(xcr0, 5, "XCR0"),
		R(xcr0, 0x207, "XCR0"),
		R(xcr0, 0x27, "XCR0"),
#undef R
	};
	struct rig *r = *state;

	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		u8 *at = (u8 *)&r->s + bad[i].at;
		u64 good = ld_le64(at);

		st_le64(at, bad[i].value);
		refused(r, -EINVAL, bad[i].why);
		st_le64(at, good);
	}
}

static void modes_that_cannot_be_are_refused(void **state)
{
	struct rig *r = *state;

	r->s.seg[X86_CS].attr |= 0x400; /* L and D */
	refused(r, -EINVAL, "64-bit code segment");
	r->s.seg[X86_CS].attr = 0xc9b;
	refused(r, -EINVAL, "RIP"); /* 32-bit code above 4 GiB */
	r->s.rip = 0x1000;
	r->s.has_pdptr = true;
	refused(r, -EINVAL, "PDPTR");
	r->s.has_pdptr = false;
	r->s.cr0 &= ~(1ull << 31);
	r->s.efer = 0x100;
	r->s.cr4 |= 1u << 17;
	refused(r, -EINVAL, "CR4"); /* PCIDE outside of long mode */
	r->s.cr4 = 0x20;
	r->s.seg[X86_CS].attr = 0xa9b;
	refused(r, -EINVAL, "64-bit code segment");
}

static void events_and_apics_that_cannot_be_are_refused(void **state)
{
	struct rig *r = *state;

	r->s.events = (struct x86_events){.exception_pending = true, .exception_vector = 2};
	refused(r, -EINVAL, "exception 2");
	r->s.events = (struct x86_events){.smm = true};
	refused(r, -EOPNOTSUPP, "system management mode");
	r->s.events = (struct x86_events){0};
	r->s.apic_base |= 0x400;
	st_le32(r->s.lapic.regs + 0x20, 3);
	refused(r, -EINVAL, "id 3");
	st_le32(r->s.lapic.regs + 0x20, 0);
	x86_cpuid_find(&r->s.cpuid, 1, 0)->ecx &= ~(1u << 21);
	refused(r, -EINVAL, "x2APIC");
}

static void an_xsave_area_that_would_fault_is_refused(void **state)
{
	struct rig *r = *state;

	st_le64(r->s.xsave + 512, 0x203);
	refused(r, -EINVAL, "components 0x203");
	st_le64(r->s.xsave + 512, 7);
	r->s.xsave[575] = 1;
	refused(r, -EINVAL, "compacted");
	r->s.xsave[575] = 0;
	r->s.xsave_size = 831;
	refused(r, -EINVAL, "component 2");
	r->s.xsave_size = 575;
	refused(r, -EINVAL, "575 bytes");
	r->s.xsave_size = 832;
	st_le32(r->s.xsave + 24, 0x11f80);
	refused(r, -EINVAL, "MXCSR");
}

static void msrs_are_refused_by_number(void **state)
{
	static const struct {
		u32 index;
		u64 value;
		int how;
		const char *why;
	} bad[] = {
		{0x38f, 7, -EOPNOTSUPP, "MSR 0x38f = 0x7: kvm here does not have it"},
		{0x277, 0x0007040600070402, -EINVAL, "MSR 0x277"},
		{0xc0000102, 1ull << 48, -EINVAL, "MSR 0xc0000102"},
		{0x176, 1ull << 63, -EINVAL, "MSR 0x176"},
		{0xc0000103, 1ull << 32, -EINVAL, "MSR 0xc0000103"},
		{0xda0, 0x100, -EINVAL, "XSS"},
	};
	struct rig *r = *state;
	struct err e;

	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		r->s.msrs[1] = (struct x86_msr){bad[i].index, bad[i].value};
		refused(r, bad[i].how, bad[i].why);
	}
	r->s.msrs[1] = (struct x86_msr){0x38f, 0};
	assert_int_equal(x86_cpu_check(&r->s, 0, &r->caps, "kvm", &e), 0);
}

static void another_processor_is_refused_by_leaf_and_bits(void **state)
{
	struct rig *r = *state;

	x86_cpuid_find(&r->caps.cpuid, 7, 0)->ebx &= ~(1u << 5 | 1u << 20);
	refused(r, -EOPNOTSUPP,
		"CPUID leaf 0x7 subleaf 0 EBX: bits 0x100020 are not offered by kvm here; boot the guest with a CPU template");
	r->caps.cpuid = r->s.cpuid;
	x86_cpuid_find(&r->caps.cpuid, 0xd, 2)->ebx = 640;
	refused(r, -EOPNOTSUPP, "CPUID leaf 0xd subleaf 2: 256 bytes at 576");
	r->caps.cpuid = r->s.cpuid;
	x86_cpuid_find(&r->caps.cpuid, 0x80000008, 0)->eax = 36 | 48 << 8;
	refused(r, -EOPNOTSUPP, "39 physical address bits, kvm has 36 here");
	r->caps.cpuid = r->s.cpuid;
	x86_cpuid_find(&r->s.cpuid, 0x40000001, 0)->eax |= 1u << 9;
	r->caps.pv_tolerated = 1u << 5;
	refused(r, -EOPNOTSUPP, "CPUID leaf 0x40000001 subleaf 0 EAX: bits 0x200");
	x86_cpuid_find(&r->s.cpuid, 0x40000001, 0)->eax ^= 1u << 9 | 1u << 5;
	r->s.tsc_khz = 2001000;
	refused(r, -EOPNOTSUPP, "2001000 kHz");
	r->caps.tsc_scaling = true;
	a_state_that_can_be_is_taken(state);
}

/* What the operating system sets itself, and topology, are no features. */
static void what_husk_sets_is_not_compared(void **state)
{
	struct rig *r = *state;

	x86_cpuid_find(&r->s.cpuid, 1, 0)->ecx |= 1u << 27 | 1u << 31;
	x86_cpuid_find(&r->s.cpuid, 1, 0)->edx |= 1u << 28;
	x86_cpuid_find(&r->s.cpuid, 7, 0)->ecx |= 1u << 4;
	a_state_that_can_be_is_taken(state);
}

static const char *bitmap_of(struct json_object *template, const char *leaf, const char *subleaf, const char *reg)
{
	struct json_object *leaves = json_object_object_get(template, "cpuid_modifiers");

	for (size_t i = 0; i < json_object_array_length(leaves); i++) {
		struct json_object *l = json_object_array_get_idx(leaves, i), *regs = json_object_object_get(l, "modifiers");

		for (size_t k = 0; k < json_object_array_length(regs); k++) {
			struct json_object *m = json_object_array_get_idx(regs, k);

			if (!strcmp(json_object_get_string(json_object_object_get(l, "leaf")), leaf) &&
			    !strcmp(json_object_get_string(json_object_object_get(l, "subleaf")), subleaf) &&
			    !strcmp(json_object_get_string(json_object_object_get(m, "register")), reg))
				return json_object_get_string(json_object_object_get(m, "bitmap"));
		}
	}
	return "";
}

static void a_common_template_clears_what_one_lacks(void **state)
{
	struct rig *r = *state;
	struct cpu_common both, merged;
	struct json_object *first, *second;
	struct err e;

	cpu_common_init(&both);
	cpu_common_add(&both, &r->caps);
	x86_cpuid_find(&r->caps.cpuid, 7, 0)->ebx &= ~(1u << 5);
	x86_cpuid_find(&r->caps.cpuid, 0x80000008, 0)->eax = 36 | 48 << 8;
	cpu_common_add(&both, &r->caps);
	first = cpu_common_template(&both);
	assert_string_equal(bitmap_of(first, "0x7", "0x0", "ebx"), "0b00000000000x000000000000x000000x");
	assert_string_equal(bitmap_of(first, "0x80000008", "0x0", "eax"), "0bxxxxxxxxxxxxxxxxxxxxxxxx00100100");
	assert_string_equal(bitmap_of(first, "0xd", "0x2", "ebx"), "0b00000000000000000000001001000000");
	/* The same from its own output, and less where a component lies elsewhere. */
	cpu_common_init(&merged);
	assert_int_equal(cpu_common_merge(&merged, first, &e), 0);
	second = cpu_common_template(&merged);
	assert_string_equal(json_object_to_json_string(first), json_object_to_json_string(second));
	x86_cpuid_find(&r->caps.cpuid, 0xd, 2)->ebx = 640;
	cpu_common_add(&merged, &r->caps);
	json_object_put(second);
	second = cpu_common_template(&merged);
	assert_string_equal(bitmap_of(second, "0xd", "0x0", "eax") + 31, "0xx"); /* of components 2, 1, 0 */
	assert_string_equal(bitmap_of(second, "0xd", "0x2", "ebx"), "");
	json_object_put(first);
	json_object_put(second);
}

static void what_is_no_template_is_refused(void **state)
{
	static const char *const bad[] = {
		"[]",
		"{}",
		"{\"cpuid_modifiers\": {}}",
		"{\"cpuid_modifiers\": [5]}",
		"{\"cpuid_modifiers\": [{}]}",
		"{\"cpuid_modifiers\": [{\"leaf\": \"0x7\", \"subleaf\": \"x\", \"modifiers\": []}]}",
		"{\"cpuid_modifiers\": [{\"leaf\": \"0x7\", \"subleaf\": \"0x0\", \"modifiers\": [{\"register\": \"eip\", \"bitmap\": "
		"\"0b0\"}]}]}",
		"{\"cpuid_modifiers\": [{\"leaf\": \"0x7\", \"subleaf\": \"0x0\", \"modifiers\": [{\"register\": \"eax\", \"bitmap\": "
		"7}]}]}",
		"{\"cpuid_modifiers\": [{\"leaf\": \"0x7\", \"subleaf\": \"0x0\", \"modifiers\": [7]}]}",
	};
	struct cpu_common c;
	struct err e;

	(void)state;
	cpu_common_init(&c);
	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		struct json_object *o = json_tokener_parse(bad[i]);

		assert_int_equal(cpu_common_merge(&c, o, &e), -EINVAL);
		assert_non_null(strstr(e.msg, "not a CPU template"));
		json_object_put(o);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_state_that_can_be_is_taken, setup, teardown),
		cmocka_unit_test_setup_teardown(registers_that_cannot_be_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(modes_that_cannot_be_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(events_and_apics_that_cannot_be_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(an_xsave_area_that_would_fault_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(msrs_are_refused_by_number, setup, teardown),
		cmocka_unit_test_setup_teardown(another_processor_is_refused_by_leaf_and_bits, setup, teardown),
		cmocka_unit_test_setup_teardown(what_husk_sets_is_not_compared, setup, teardown),
		cmocka_unit_test_setup_teardown(a_common_template_clears_what_one_lacks, setup, teardown),
		cmocka_unit_test(what_is_no_template_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
