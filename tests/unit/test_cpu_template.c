/* test_cpu_template.c: CPU templates: what is read, what the named ones change, what a processor shows afterwards, what is refused. */
#include "cm.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arch/x86_64/cpu_template.h"
#include "arch/x86_64/cpuid.h"

#define TEXT(...) #__VA_ARGS__

/* ---- reading ---- */

static int parse(struct config *c, const char *section, struct err *e)
{
	char text[70000];
	struct json_object *json;
	int r;

	snprintf(text, sizeof(text), "{\"boot-source\":{\"kernel_image_path\":\"k\"},%s}", section);
	json = json_tokener_parse(text);
	assert_non_null(json);
	r = config_parse(c, json, "f", e);
	json_object_put(json);
	return r;
}

static void numbers_are_hexadecimal_binary_or_decimal(void **state)
{
	static const struct {
		const char *text;
		u64 max, value;
		bool ok;
	} t[] = {
		{"0x0", 9, 0, true},
		{"0xfF", 255, 255, true},
		{"0x100", 255, 0, false},
		{"0b101", 9, 5, true},
		{"0b2", 9, 0, false},
		{"31", 31, 31, true},
		{"32", 31, 0, false},
		{"", 9, 0, false},
		{"0x", 9, 0, false},
		{"0b", 9, 0, false},
		{"-1", UINT64_MAX, 0, false},
		{"+1", 9, 0, false},
		{" 1", 9, 0, false},
		{"1 ", 9, 0, false},
		{"0x-1", UINT64_MAX, 0, false},
		{"0xffffffffffffffff", UINT64_MAX, UINT64_MAX, true},
		{"0x10000000000000000", UINT64_MAX, 0, false},
		{"99999999999999999999999", UINT64_MAX, 0, false},
		{"0X1", 9, 0, false},
		{"0b0x1", 9, 0, false},
	};
	u64 v;

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(t); i++) {
		if (config_cpu_number(t[i].text, t[i].max, &v) != t[i].ok || (t[i].ok && v != t[i].value))
			fail_msg("\"%s\"", t[i].text);
	}
}

static void a_bitmap_says_what_becomes_of_each_bit(void **state)
{
	static const struct {
		const char *text;
		u32 width;
		u64 mask, value;
		bool ok;
	} t[] = {
		{"0b1", 32, 1, 1, true},
		{"0b10x", 32, 6, 4, true},
		{"01x", 32, 6, 2, true},
		{"0b1_0__x", 32, 6, 4, true},
		{"0bxxxx000000000011xx00011011110010", 32, 0x0fff3fff, 0x000306f2, true},
		{"0b11111111111111111111111111111111", 32, 0xffffffff, 0xffffffff, true},
		{"0b_1111_1111_1111_1111_1111_1111_1111_1111_", 32, 0xffffffff, 0xffffffff, true},
		{"0b111111111111111111111111111111111", 32, 0, 0, false},
		{"0bx00000000000000000000000000000000", 32, 0, 0, false},
		{"1000000000000000000000000000000000000000000000000000000000000000", 64, UINT64_MAX, BIT(63), true},
		{"", 32, 0, 0, false},
		{"0b", 32, 0, 0, false},
		{"0b_", 32, 0, 0, false},
		{"0b2", 32, 0, 0, false},
		{"0bX", 32, 0, 0, false},
		{"0b1b", 32, 0, 0, false},
		{"0x1", 32, 5, 1, true}, /* as with Firecracker: 0, x and 1 */
		{"1 ", 32, 0, 0, false},
		{"\xc3\xbd", 32, 0, 0, false},
	};
	u64 mask, value;

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(t); i++) {
		bool ok = config_cpu_bitmap(t[i].text, t[i].width, &mask, &value);

		if (ok != t[i].ok || (ok && (mask != t[i].mask || value != t[i].value)))
			fail_msg("\"%s\": %d %#lx %#lx", t[i].text, ok, mask, value);
	}
}

static void what_is_no_template_is_refused_with_its_place(void **state)
{
#define LEAF(x) "\"cpu-config\":{\"cpuid_modifiers\":[" x "]}"
#define MSR(x)	"\"cpu-config\":{\"msr_modifiers\":[" x "]}"
	static const struct {
		const char *text, *message;
	} t[] = {
		{"\"cpu-config\":[]", "f: /cpu-config: expected an object"},
		{"\"cpu-config\":\"template.json\"", "f: /cpu-config: expected an object"},
		{"\"cpu-config\":{\"cpuid\":[]}", "f: /cpu-config: unknown key \"cpuid\""},
		{"\"cpu-config\":{\"cpuid_modifiers\":{}}", "f: /cpu-config/cpuid_modifiers: expected a list"},
		{LEAF("1"), "f: /cpu-config/cpuid_modifiers/0: expected an object"},
		{LEAF(TEXT({"subleaf" : "0x0", "flags" : 0, "modifiers" : []})),
		 "f: /cpu-config/cpuid_modifiers/0: the required key \"leaf\" is missing"},
		{LEAF(TEXT({"leaf" : "0x1", "flags" : 0, "modifiers" : []})),
		 "f: /cpu-config/cpuid_modifiers/0: the required key \"subleaf\" is missing"},
		{LEAF(TEXT({"leaf" : "0x1", "subleaf" : "0x0", "modifiers" : []})),
		 "f: /cpu-config/cpuid_modifiers/0: the required key \"flags\" is missing"},
		{LEAF(TEXT({"leaf" : "0x1", "subleaf" : "0x0", "flags" : 0})),
		 "f: /cpu-config/cpuid_modifiers/0: the required key \"modifiers\" is missing"},
		{LEAF(TEXT({"leaf" : 1, "subleaf" : "0x0", "flags" : 0, "modifiers" : []})),
		 "f: /cpu-config/cpuid_modifiers/0/leaf: expected a number of up to 32 bits in quotes"},
		{LEAF(TEXT({"leaf" : "0x100000000", "subleaf" : "0x0", "flags" : 0, "modifiers" : []})),
		 "f: /cpu-config/cpuid_modifiers/0/leaf: expected a number of up to 32 bits in quotes"},
		{LEAF(TEXT({"leaf" : "0x1", "subleaf" : "x", "flags" : 0, "modifiers" : []})), "f: /cpu-config/cpuid_modifiers/0/subleaf"},
		{LEAF(TEXT({"leaf" : "0x1", "subleaf" : "0x0", "flags" : -1, "modifiers" : []})), "f: /cpu-config/cpuid_modifiers/0/flags"},
		{LEAF(TEXT({"leaf" : "0x1", "subleaf" : "0x0", "flags" : 0, "modifiers" : [ {"register" : "rax", "bitmap" : "0b1"} ]})),
		 "f: /cpu-config/cpuid_modifiers/0/modifiers/0/register: expected one of \"eax\", \"ebx\", \"ecx\", \"edx\""},
		{LEAF(TEXT({"leaf" : "0x1", "subleaf" : "0x0", "flags" : 0, "modifiers" : [ {"register" : "eax"} ]})),
		 "f: /cpu-config/cpuid_modifiers/0/modifiers/0: the required key \"bitmap\" is missing"},
		{LEAF(TEXT({"leaf" : "0x1", "subleaf" : "0x0", "flags" : 0, "modifiers" : [ {"register" : "eax", "bitmap" : "0b3"} ]})),
		 "f: /cpu-config/cpuid_modifiers/0/modifiers/0/bitmap: expected 1 to 32 digits"},
		{MSR(TEXT({"addr" : "0x10a"})), "f: /cpu-config/msr_modifiers/0: the required key \"bitmap\" is missing"},
		{MSR(TEXT({"addr" : "10a", "bitmap" : "0b1"})), "f: /cpu-config/msr_modifiers/0/addr: expected a number of up to 32 bits"},
		{MSR(TEXT({"addr" : "0x10a", "bitmap" : ""})), "f: /cpu-config/msr_modifiers/0/bitmap: expected 1 to 64 digits"},
		{"\"cpu-config\":{\"kvm_capabilities\":[121]}", "f: /cpu-config/kvm_capabilities/0: expected a number in quotes"},
		{"\"cpu-config\":{\"kvm_capabilities\":[\"!\"]}", "f: /cpu-config/kvm_capabilities/0: expected a number in quotes"},
		{"\"cpu-config\":{\"kvm_capabilities\":[\"!!1\"]}", "f: /cpu-config/kvm_capabilities/0: "},
		{"\"cpu-config\":{\"kvm_capabilities\":[\"0x1\"]}", "f: /cpu-config/kvm_capabilities/0: "},
		{"\"cpu-config\":{\"kvm_capabilities\":[\"4294967296\"]}", "f: /cpu-config/kvm_capabilities/0: "},
		{"\"cpu-config\":{\"reg_modifiers\":[{\"addr\":\"0x603000000013c020\",\"bitmap\":\"0b0\"}]}",
		 "f: /cpu-config/reg_modifiers: it is for ARM processors"},
		{"\"cpu-config\":{\"vcpu_features\":[{\"index\":0,\"bitmap\":\"0b1100000\"}]}",
		 "f: /cpu-config/vcpu_features: it is for ARM processors"},
		{"\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":64,\"cpu_template\":\"V1N1\"}",
		 "f: /machine-config: cpu_template V1N1 is for ARM processors"},
		{"\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":64,\"cpu_template\":\"t2\"}",
		 "f: /machine-config/cpu_template: expected one of \"None\", \"C3\", \"T2\", \"T2S\", \"T2CL\", \"T2A\""},
	};
	struct config c;
	struct err e;

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(t); i++) {
		if (parse(&c, t[i].text, &e) == 0)
			fail_msg("accepted: %s", t[i].text);
		if (strncmp(e.msg, t[i].message, strlen(t[i].message)) != 0)
			fail_msg("%s\n  \"%s\" instead of\n  \"%s\"", t[i].text, e.msg, t[i].message);
	}
}

static void a_list_has_a_limit(void **state)
{
	char text[70000] = "\"cpu-config\":{\"msr_modifiers\":[";
	struct config c;
	struct err e;

	(void)state;
	for (u32 i = 0; i < 1024; i++)
		strcat(text, i ? ",{\"addr\":\"0x8b\",\"bitmap\":\"x\"}" : "{\"addr\":\"0x8b\",\"bitmap\":\"x\"}");
	strcat(text, "]}");
	assert_int_equal(parse(&c, text, &e), 0);
	assert_int_equal(c.cpu->msrs.nr, 1024);
	config_fini(&c);
	strcpy(strrchr(text, ']'), ",{\"addr\":\"0x8b\",\"bitmap\":\"x\"}]}");
	assert_int_equal(parse(&c, text, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "at most 1024 items"));
}

/* ---- the named ones ---- */

/* Firecracker's, as its files tests/data/custom_cpu_templates/T2.json and the like have them. */
static const struct {
	enum cfg_cpu_template name;
	u32 leaf, subleaf, reg;
	const char *bitmap;
} published[] = {
	{CFG_CPU_T2, 0x1, 0, CFG_EAX, "0bxxxx000000000011xx00011011110010"},
	{CFG_CPU_T2, 0x1, 0, CFG_ECX, "0bxxxxxxxxxxxxx0xx00xx00x0000000xx"},
	{CFG_CPU_T2, 0x1, 0, CFG_EDX, "0b000x0xxxx00xx0xxxxx1xxxx1xxxxxxx"},
	{CFG_CPU_T2, 0x7, 0, CFG_EBX, "0b00000000000x000000x00x1xxxx0x0xx"},
	{CFG_CPU_T2, 0x7, 0, CFG_ECX, "0bx0xxxxxxx0xxxxx0x0x00000x0x0000x"},
	{CFG_CPU_T2, 0x7, 0, CFG_EDX, "0bxxxxxxxxxxxxxxxxxxxxxxx0xxx000xx"},
	{CFG_CPU_T2, 0xd, 0, CFG_EAX, "0bxxxxxxxxxxxxxxxxxxxxxx0x00000xxx"},
	{CFG_CPU_T2, 0xd, 1, CFG_EAX, "0bxxxxxxxxxxxxxxxxxxxxxxxxxxxx000x"},
	{CFG_CPU_T2, 0x80000001, 0, CFG_ECX, "0bxx0xxxxxxxxxxxxxxxxxxxx0xxxxxxxx"},
	{CFG_CPU_T2, 0x80000001, 0, CFG_EDX, "0bxxxxx0xxxxxxxxxxxxxxxxxxxxxxxxxx"},
	{CFG_CPU_T2, 0x80000008, 0, CFG_EBX, "0bxxxxxxxxxxxxxxxxxxxxxx0xxxxxxxxx"},
	{CFG_CPU_T2CL, 0x7, 0, CFG_EBX, "0b00000000000x000000x00x1xxxx0x0xx"},
	{CFG_CPU_T2CL, 0x80000001, 0, CFG_ECX, "0bxx0xxxxxxxxxxxxxxxxxxxx000xxxxxx"},
	{CFG_CPU_T2CL, 0x80000001, 0, CFG_EDX, "0bxxxxx00000xxxxxxxxxxxxxxxxxxxxxx"},
	{CFG_CPU_T2A, 0x1, 0, CFG_EAX, "0bxxxx000000000011xx00011011110010"},
	{CFG_CPU_T2A, 0x80000001, 0, CFG_ECX, "0bxx0xxxxxxxxxxxxxxxxxxxx000xxx0xx"},
	{CFG_CPU_T2A, 0x80000001, 0, CFG_EDX, "0bxxxxx00xx0xxxxxxxxxxxxxxxxxxxxxx"},
	{CFG_CPU_T2A, 0x80000008, 0, CFG_EBX, "0bxxxxxxxxxxx111xxxxxxxx0xxxxxx1x0"},
	{CFG_CPU_C3, 0x1, 0, CFG_EAX, "0bxxxx000000000011xx00011011100100"},
	{CFG_CPU_C3, 0x1, 0, CFG_ECX, "0bxxxxxxxxx0xxxxxx00x000x0xx0000xx"},
	{CFG_CPU_C3, 0x1, 0, CFG_EDX, "0b0x0x0xxxx00xx0xxxxx1xxxx1xxxxxxx"},
	{CFG_CPU_C3, 0x7, 0, CFG_EBX, "0b000000000x0x000000x000x0xx0000xx"},
	{CFG_CPU_C3, 0x7, 0, CFG_ECX, "0bx0xxxxxxx0xxxxx0x0xx0xxxxxx0000x"},
	{CFG_CPU_C3, 0x7, 0, CFG_EDX, "0bxxxxxxxxxxxxxxxxxxxxxxxxxxxx00xx"},
	{CFG_CPU_C3, 0xd, 0, CFG_EAX, "0bxxxxxxxxxxxxxxxxxxxxxx0x00000xxx"},
	{CFG_CPU_C3, 0xd, 1, CFG_EAX, "0bxxxxxxxxxxxxxxxxxxxxxxxxxxxx000x"},
	{CFG_CPU_C3, 0x80000001, 0, CFG_ECX, "0bxxxxxxxxxxxxxxxxxxxxxxx0xx0xxxxx"},
	{CFG_CPU_C3, 0x80000001, 0, CFG_EDX, "0bxxxxx0xxxxxxxxxxxxxxxxxxxxxxxxxx"},
};

/* All that a template does to one register. */
static void sum_up(enum cfg_cpu_template name, u32 leaf, u32 subleaf, u32 reg, u32 *mask, u32 *value)
{
	const struct x86_template_cpuid *t;

	*mask = *value = 0;
	for (u32 i = 0; (t = cpu_template_cpuid(name, i)); i++) {
		if (t->leaf != leaf || t->subleaf != subleaf || t->reg != reg)
			continue;
		assert_int_equal(t->value & ~t->mask, 0);
		assert_int_equal(t->mask & *mask, 0);
		*mask |= t->mask;
		*value |= t->value;
	}
}

static void the_named_templates_are_those_of_firecracker(void **state)
{
	const struct x86_template_cpuid *t;
	u32 mask, value, registers = 0;
	u64 want_mask, want_value;

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(published); i++) {
		sum_up(published[i].name, published[i].leaf, published[i].subleaf, published[i].reg, &mask, &value);
		assert_true(config_cpu_bitmap(published[i].bitmap, 32, &want_mask, &want_value));
		if (mask != want_mask || value != want_value)
			fail_msg("%s leaf %#x register %u: %#x %#x", config_cpu_template_names[published[i].name], published[i].leaf,
				 published[i].reg, mask, value);
	}
	/* T2S is T2 with an MSR; nothing else is in any of them. */
	for (u32 i = 0; (t = cpu_template_cpuid(CFG_CPU_T2, i)); i++)
		assert_memory_equal(t, cpu_template_cpuid(CFG_CPU_T2S, i), sizeof(*t));
	for (enum cfg_cpu_template name = CFG_CPU_C3; name <= CFG_CPU_T2A; name++) {
		for (u32 i = 0; (t = cpu_template_cpuid(name, i)); i++) {
			bool known = false;

			for (u32 j = 0; j < ARRAY_SIZE(published); j++)
				known |= published[j].leaf == t->leaf && published[j].subleaf == t->subleaf && published[j].reg == t->reg;
			assert_true(known);
			registers++;
		}
	}
	assert_true(registers > 50);
	assert_int_equal(cpu_template_msr(CFG_CPU_T2S, 0)->mask, UINT64_MAX);
	assert_int_equal(cpu_template_msr(CFG_CPU_T2S, 0)->value, 0x4080c4c);
	assert_int_equal(cpu_template_msr(CFG_CPU_T2CL, 0)->mask, 0xffffffffe2f51e00);
	assert_int_equal(cpu_template_msr(CFG_CPU_T2CL, 0)->value, 0);
	assert_null(cpu_template_msr(CFG_CPU_T2, 0));
	assert_null(cpu_template_msr(CFG_CPU_T2S, 1));
	assert_null(cpu_template_cpuid(CFG_CPU_NONE, 0));
	assert_null(cpu_template_cpuid(CFG_CPU_V1N1, 0));
}

/* ---- on a processor ---- */

static void leaf(struct arch_cpu_caps *caps, u32 number, u32 subleaf, bool has_subleaf, u32 eax, u32 ebx, u32 ecx, u32 edx)
{
	caps->cpuid.e[caps->cpuid.nr++] = (struct x86_cpuid){number, subleaf, has_subleaf, eax, ebx, ecx, edx};
}

/* A Sapphire Rapids as KVM shows it, more or less. */
static void intel(struct arch_cpu_caps *caps)
{
	*caps = (struct arch_cpu_caps){.tsc_khz = 2300000, .tsc_deadline = true, .x2apic = true, .nr_feature_msrs = 2};
	caps->feature_msrs[0] = (struct x86_msr){0x10a, 0x400000000d14e173};
	caps->feature_msrs[1] = (struct x86_msr){0x8b, 0x2b00000000};
	leaf(caps, 0x0, 0, false, 0x1f, 0x756e6547, 0x6c65746e, 0x49656e69);
	leaf(caps, 0x1, 0, false, 0x806f8, 0x100800, 0xfffa3203 | BIT(12) | BIT(3), 0x1f8bfbff);
	leaf(caps, 0x4, 0, true, 0xfc004121, 0x2c0003f, 63, 0);
	leaf(caps, 0x7, 0, true, 2, 0xf1bf2fbb, 0x1b415f5e, 0xbfc14410 | BIT(8) | BIT(14));
	leaf(caps, 0x7, 1, true, 0x1c30, 0, 0, 0);
	leaf(caps, 0xd, 0, true, 0x602e7, 0x2b00, 0x2b00, 0);
	leaf(caps, 0xd, 1, true, 0x1f, 0, 0x1800, 0);
	leaf(caps, 0xd, 2, true, 256, 576, 0, 0);
	leaf(caps, 0xd, 5, true, 64, 1088, 0, 0);
	leaf(caps, 0xd, 6, true, 512, 1152, 0, 0);
	leaf(caps, 0xd, 7, true, 1024, 1664, 0, 0);
	leaf(caps, 0xd, 9, true, 8, 2688, 0, 0);
	leaf(caps, 0xd, 11, true, 16, 0, 1, 0);
	leaf(caps, 0xd, 17, true, 64, 2752, 2, 0);
	leaf(caps, 0xd, 18, true, 8192, 2816, 6, 0);
	leaf(caps, 0x40000000, 0, false, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d);
	leaf(caps, 0x40000001, 0, false, 0x1007afb, 0, 0, 0);
	leaf(caps, 0x80000000, 0, false, 0x80000008, 0, 0, 0);
	leaf(caps, 0x80000001, 0, false, 0, 0, 0x121, 0x2c100800);
	leaf(caps, 0x80000002, 0, false, 0x65746e49, 0x2952286c, 0, 0);
	leaf(caps, 0x80000008, 0, false, 0x302e, 0x200, 0, 0);
}

static void amd(struct arch_cpu_caps *caps)
{
	*caps = (struct arch_cpu_caps){.tsc_khz = 2400000, .tsc_deadline = true, .x2apic = true};
	leaf(caps, 0x0, 0, false, 0x10, 0x68747541, 0x444d4163, 0x69746e65);
	leaf(caps, 0x1, 0, false, 0xa20f10, 0x100800, 0xfef83203 | BIT(26) | BIT(28), 0x178bfbff);
	leaf(caps, 0x7, 0, true, 0, 0x219c95a9, 0x40061c, 0x10);
	leaf(caps, 0xd, 0, true, 0x207, 0x340, 0x380, 0);
	leaf(caps, 0xd, 1, true, 0xf, 0, 0, 0);
	leaf(caps, 0xd, 2, true, 256, 576, 0, 0);
	leaf(caps, 0x80000000, 0, false, 0x80000021, 0x68747541, 0x444d4163, 0x69746e65);
	leaf(caps, 0x80000001, 0, false, 0xa20f10, 0, 0x4001f7, 0x2fd3fbff);
	leaf(caps, 0x80000008, 0, false, 0x3030, 0x111ed205 | BIT(2), 0x7fff, 0);
}

static int apply(struct arch_cpu_caps *caps, const char *section, struct err *e)
{
	struct config c;
	int r;

	if (parse(&c, section, e) < 0)
		fail_msg("%s", e->msg);
	r = cpu_template_apply(&c, "kvm", caps, e);
	config_fini(&c);
	return r;
}

static int apply_named(struct arch_cpu_caps *caps, const char *name, struct err *e)
{
	char section[200];

	snprintf(section, sizeof(section), "\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":64,\"cpu_template\":\"%s\"}", name);
	return apply(caps, section, e);
}

static int apply_bits(struct arch_cpu_caps *caps, const char *number, const char *subleaf, const char *reg, const char *bitmap,
		      struct err *e)
{
	char section[400];

	snprintf(section, sizeof(section),
		 "\"cpu-config\":{\"cpuid_modifiers\":[{\"leaf\":\"%s\",\"subleaf\":\"%s\",\"flags\":0,\"modifiers\":[{\"register\":\"%s\","
		 "\"bitmap\":\"%s\"}]}]}",
		 number, subleaf, reg, bitmap);
	return apply(caps, section, e);
}

static int apply_msr(struct arch_cpu_caps *caps, const char *addr, const char *bitmap, struct err *e)
{
	char section[200];

	snprintf(section, sizeof(section), "\"cpu-config\":{\"msr_modifiers\":[{\"addr\":\"%s\",\"bitmap\":\"%s\"}]}", addr, bitmap);
	return apply(caps, section, e);
}

static struct x86_cpuid get(struct arch_cpu_caps *caps, u32 number, u32 subleaf)
{
	const struct x86_cpuid *c = x86_cpuid_find(&caps->cpuid, number, subleaf);

	return c ? *c : (struct x86_cpuid){0};
}

static void without_a_template_nothing_changes(void **state)
{
	struct arch_cpu_caps caps, before;
	struct err e;

	(void)state;
	intel(&caps);
	before = caps;
	assert_int_equal(apply_named(&caps, "None", &e), 0);
	assert_memory_equal(&caps, &before, sizeof(caps));
}

static void t2_makes_a_haswell_of_a_newer_processor(void **state)
{
	struct arch_cpu_caps caps;
	struct err e;

	(void)state;
	intel(&caps);
	assert_int_equal(apply_named(&caps, "T2", &e), 0);
	assert_int_equal(get(&caps, 1, 0).eax, 0x306f2);
	assert_int_equal(get(&caps, 7, 0).ebx & 0xffefda14, BIT(9));
	assert_int_equal(get(&caps, 7, 0).ecx & 0x40415f5e, 0);
	assert_true(get(&caps, 7, 0).ebx & BIT(5)); /* AVX2 */
	assert_int_equal(get(&caps, 0xd, 0).eax & 0x3ff, 7);
	assert_int_equal(get(&caps, 0xd, 1).eax, 1);
	assert_int_equal(get(&caps, 0x80000001, 0).ecx, 0x21);
	assert_false(get(&caps, 0x80000001, 0).edx & BIT(26));
	assert_int_equal(caps.changed_msrs, 0);
	assert_true(caps.tsc_deadline && caps.x2apic);
}

/* T2 knows neither AVX512_FP16 nor AVX512_BF16, but takes their state away. */
static void what_needs_a_feature_that_is_gone_goes_too(void **state)
{
	struct arch_cpu_caps caps;
	struct err e;

	(void)state;
	intel(&caps);
	assert_true(get(&caps, 7, 0).edx & BIT(23));
	assert_true(get(&caps, 7, 1).eax & BIT(5));
	assert_int_equal(apply_named(&caps, "T2", &e), 0);
	assert_false(get(&caps, 7, 0).edx & BIT(23));
	assert_false(get(&caps, 7, 1).eax & BIT(5));
	assert_true(get(&caps, 7, 1).eax & BIT(4));  /* AVX_VNNI needs AVX only */
	assert_int_equal(get(&caps, 0xd, 1).ecx, 0); /* supervisor state needs XSAVES */

	intel(&caps);
	assert_int_equal(apply_bits(&caps, "0x1", "0x0", "ecx", "0b0xxxxxxxxxxxxxxxxxxxxxxxxxx", &e), 0); /* XSAVE */
	assert_int_equal(get(&caps, 0xd, 0).eax, 0);
	assert_int_equal(get(&caps, 0xd, 0).ecx, 0);
	assert_int_equal(get(&caps, 0xd, 1).eax, 0);
	assert_int_equal(get(&caps, 0xd, 2).eax, 0);
	assert_false(get(&caps, 1, 0).ecx & (BIT(12) | BIT(28) | BIT(29)));
	assert_false(get(&caps, 7, 0).ebx & (BIT(5) | BIT(16)));

	intel(&caps);
	assert_int_equal(apply_bits(&caps, "0x7", "0x0", "ebx", "0b0xxxxxxxxxxxxxxxx", &e), 0); /* AVX512F */
	assert_false(get(&caps, 7, 0).ebx & (BIT(16) | BIT(17) | BIT(30) | BIT(31)));
	assert_false(get(&caps, 7, 0).ecx & (BIT(1) | BIT(11)));
	assert_true(get(&caps, 7, 0).ebx & BIT(5));

	intel(&caps);
	assert_int_equal(apply_bits(&caps, "0xd", "0x0", "eax", "0b0xxxxxx", &e), 0); /* one of AVX-512's three */
	assert_int_equal(get(&caps, 0xd, 0).eax & 0xe0, 0);
	assert_false(get(&caps, 7, 0).ebx & BIT(16));
}

static void the_xsave_area_has_room_for_what_is_left(void **state)
{
	struct arch_cpu_caps caps;
	struct x86_cpuid_table shown;
	struct x86_topology topo = {.nr_vcpus = 1};
	struct err e;

	(void)state;
	intel(&caps);
	assert_int_equal(apply_named(&caps, "T2CL", &e), 0);
	x86_cpuid_build(&shown, &caps, &topo, 0);
	assert_int_equal(x86_cpuid_find(&shown, 0xd, 0)->eax, 7);
	assert_int_equal(x86_cpuid_find(&shown, 0xd, 0)->ecx, 576 + 256);
	assert_null(x86_cpuid_find(&shown, 0xd, 5));
	assert_null(x86_cpuid_find(&shown, 0xd, 9));
	assert_int_equal(x86_cpuid_find(&shown, 0xd, 2)->ebx, 576);
	/* What the template says of sizes and offsets has no effect. */
	intel(&caps);
	assert_int_equal(apply_bits(&caps, "0xd", "0x2", "ebx", "0b1111111111", &e), 0);
	assert_int_equal(get(&caps, 0xd, 2).ebx, 576);
}

static void a_template_is_for_the_processors_of_one_vendor(void **state)
{
	static const char *const of_intel[] = {"C3", "T2", "T2S", "T2CL"};
	struct arch_cpu_caps caps;
	struct err e;

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(of_intel); i++) {
		amd(&caps);
		assert_int_equal(apply_named(&caps, of_intel[i], &e), -EINVAL);
		assert_non_null(strstr(e.msg, of_intel[i]));
		assert_non_null(strstr(e.msg, "CPU vendor mismatched between actual CPU and CPU template"));
		intel(&caps);
		assert_int_equal(apply_named(&caps, of_intel[i], &e), 0);
	}
	intel(&caps);
	assert_int_equal(apply_named(&caps, "T2A", &e), -EINVAL);
	assert_non_null(strstr(e.msg, "CPU vendor mismatched"));
	amd(&caps);
	assert_int_equal(apply_named(&caps, "T2A", &e), 0);
}

static void t2cl_wants_a_cascade_lake(void **state)
{
	static const struct {
		u32 signature;
		bool ok;
	} t[] = {{0x50654, false}, {0x50656, false}, {0x50657, true}, {0x5065b, true}, {0x606a6, true}, {0x306f2, false}, {0xc0680, true}};
	struct arch_cpu_caps caps;
	struct err e;

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(t); i++) {
		intel(&caps);
		x86_cpuid_find(&caps.cpuid, 1, 0)->eax = t[i].signature;
		if ((apply_named(&caps, "T2CL", &e) == 0) != t[i].ok)
			fail_msg("%#x", t[i].signature);
	}
}

static void t2a_on_amd_sets_what_asks_nothing_of_the_processor(void **state)
{
	struct arch_cpu_caps caps;
	struct err e;

	(void)state;
	amd(&caps);
	assert_int_equal(apply_named(&caps, "T2A", &e), 0);
	assert_int_equal(get(&caps, 1, 0).eax, 0x306f2);
	assert_int_equal(get(&caps, 0x80000008, 0).ebx & 0x1c0205, 0x1c0004);
	/* XSAVEERPTR is there or not: a name alone does not make it. ERMS the same. */
	amd(&caps);
	x86_cpuid_find(&caps.cpuid, 0x80000008, 0)->ebx = 0;
	x86_cpuid_find(&caps.cpuid, 7, 0)->ebx &= ~(u32)BIT(9);
	assert_int_equal(apply_named(&caps, "T2A", &e), 0);
	assert_int_equal(get(&caps, 0x80000008, 0).ebx, 0x1c0000);
	assert_false(get(&caps, 7, 0).ebx & BIT(9));
}

static void t2s_and_t2cl_change_what_the_guest_believes_of_mitigations(void **state)
{
	struct cpu_state *s = xzalloc(sizeof(*s));
	struct arch_cpu_caps caps;
	struct err e;

	(void)state;
	intel(&caps);
	assert_int_equal(apply_named(&caps, "T2S", &e), 0);
	assert_int_equal(caps.feature_msrs[0].value, 0x4080c4c);
	cpu_template_set_msrs(&caps, s);
	assert_int_equal(s->nr_msrs, 1);
	assert_int_equal(s->msrs[0].index, 0x10a);
	assert_int_equal(s->msrs[0].value, 0x4080c4c);
	/* A host that is not GDS_NO does not become it. */
	intel(&caps);
	caps.feature_msrs[0].value &= ~BIT(26);
	assert_int_equal(apply_named(&caps, "T2S", &e), 0);
	assert_int_equal(caps.feature_msrs[0].value, 0x80c4c);
	intel(&caps);
	assert_int_equal(apply_named(&caps, "T2CL", &e), 0);
	assert_int_equal(caps.feature_msrs[0].value, 0x400000000d14e173 & 0x1d0ae1ff);
	free(s);
}

/* ---- the user's own ---- */

static void bits_are_taken_away_and_names_are_given(void **state)
{
	struct arch_cpu_caps caps;
	struct err e;

	(void)state;
	intel(&caps);
	assert_int_equal(apply_bits(&caps, "0x7", "0x0", "ebx", "0b0xxxxxxxxxxxxxxxxxxxxxxxxxxxxx", &e), 0);
	assert_false(get(&caps, 7, 0).ebx & BIT(29)); /* SHA */
	assert_true(get(&caps, 7, 0).ebx & BIT(30));
	intel(&caps);
	assert_int_equal(apply_bits(&caps, "0x80000002", "0", "eax", "0b01111000011101010110100001101011", &e), 0);
	assert_int_equal(get(&caps, 0x80000002, 0).eax, 0x7875686b);
	/* Set where the processor has it, too. */
	intel(&caps);
	assert_int_equal(apply_bits(&caps, "7", "0b0", "ebx", "0b1xxx", &e), 0);
	/* Leaves that are not there read as zeros: there is nothing to take away. */
	assert_int_equal(apply_bits(&caps, "0x1d", "1", "eax", "0b00000000000000000000000000000000", &e), 0);
	assert_int_equal(apply_bits(&caps, "0x1", "7", "eax", "0b0xxx", &e), 0);
	assert_int_equal(get(&caps, 1, 0).eax, 0x806f8);
}

static void what_the_processor_does_not_have_is_refused_by_leaf_register_and_bit(void **state)
{
	static const struct {
		const char *leaf, *subleaf, *reg, *bitmap, *message;
	} t[] = {
		{"0x7", "0x0", "ebx", "0b1xx", "CPUID leaf 0x7, subleaf 0x0, register ebx: the template sets bit 2, which accelerator kvm"},
		{"0x7", "0x0", "edx", "0b1xxxxxxxxxxxxxxxxxxxxxx",
		 "leaf 0x7, subleaf 0x0, register edx: the template sets bit 22"},				 /* AMX */
		{"0x1", "0x0", "ecx", "0b1xxx", "leaf 0x1, subleaf 0x0, register ecx: the template sets bit 3"}, /* MONITOR: hidden */
		{"0x1d", "0x0", "eax", "0b1", "leaf 0x1d, subleaf 0x0, register eax: the template sets bit 0"},
		{"0x1", "0x1", "eax", "0b1x", "leaf 0x1, subleaf 0x1, register eax: the template sets bit 1"},
		{"0xffffffff", "0xffffffff", "edx", "0b1x", "leaf 0xffffffff, subleaf 0xffffffff, register edx"},
		{"0xd", "0x0", "eax", "0b1xxx", "leaf 0xd, subleaf 0x0, register eax: the template sets bit 3"},
		{"0x40000001", "0x0", "eax", "0b1xx", "leaf 0x40000001"},
		{"0x0", "0x0", "ebx", "0b0", "leaf 0x0: the vendor of the processor cannot be changed"},
		{"0x0", "0x0", "eax", "0b1xxxxx", "leaf 0x0, subleaf 0x0: 0x3f is more than the 0x1f"},
		{"0x80000008", "0x0", "eax", "0b110100", "leaf 0x80000008, subleaf 0x0: 0x3034 is more than the 0x302e"},
	};
	struct arch_cpu_caps caps;
	struct err e;

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(t); i++) {
		intel(&caps);
		if (apply_bits(&caps, t[i].leaf, t[i].subleaf, t[i].reg, t[i].bitmap, &e) == 0)
			fail_msg("accepted: %s", t[i].message);
		if (strncmp(e.msg, "cpu-config: ", 12) != 0 || !strstr(e.msg, t[i].message))
			fail_msg("\"%s\" instead of \"%s\"", e.msg, t[i].message);
	}
}

static void numbers_become_lower_only(void **state)
{
	struct arch_cpu_caps caps;
	struct err e;

	(void)state;
	intel(&caps);
	assert_int_equal(apply_bits(&caps, "0x0", "0x0", "eax", "0b00001101", &e), 0);
	assert_int_equal(get(&caps, 0, 0).eax, 0xd);
	assert_int_equal(apply_bits(&caps, "0x80000008", "0x0", "eax", "0b00101000", &e), 0);
	assert_int_equal(get(&caps, 0x80000008, 0).eax, 0x3028);
}

static void of_two_changes_of_a_bit_the_last_one_counts(void **state)
{
	static const char twice[] =
		"\"cpu-config\":{\"cpuid_modifiers\":["
		"{\"leaf\":\"7\",\"subleaf\":\"0\",\"flags\":1,\"modifiers\":[{\"register\":\"ebx\",\"bitmap\":\"0b0xxx\"}]},"
		"{\"leaf\":\"7\",\"subleaf\":\"0\",\"flags\":1,\"modifiers\":[{\"register\":\"ebx\",\"bitmap\":\"0b1xxx\"},"
		"{\"register\":\"ebx\",\"bitmap\":\"0b0xxxxxxxx\"},{\"register\":\"ebx\",\"bitmap\":\"0b0xxxxxxxx\"}]}]}";
	struct arch_cpu_caps caps;
	struct err e;

	(void)state;
	intel(&caps);
	assert_int_equal(apply(&caps, twice, &e), 0);
	assert_true(get(&caps, 7, 0).ebx & BIT(3));
	assert_false(get(&caps, 7, 0).ebx & BIT(8));
}

static void a_template_of_the_users_goes_before_a_named_one(void **state)
{
	struct arch_cpu_caps caps;
	struct err e;

	(void)state;
	intel(&caps);
	assert_int_equal(
		apply(&caps, "\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":64,\"cpu_template\":\"T2\"},\"cpu-config\":{}", &e), 0);
	assert_int_equal(get(&caps, 1, 0).eax, 0x806f8);
}

static void the_timer_follows_its_bit(void **state)
{
	struct arch_cpu_caps caps;
	struct x86_cpuid_table shown;
	struct x86_topology topo = {.nr_vcpus = 1};
	struct err e;

	(void)state;
	intel(&caps);
	assert_int_equal(apply_bits(&caps, "0x1", "0x0", "ecx", "0b0xx0xxxxxxxxxxxxxxxxxxxxx", &e), 0);
	assert_false(caps.tsc_deadline);
	assert_false(caps.x2apic);
	x86_cpuid_build(&shown, &caps, &topo, 0);
	assert_false(x86_cpuid_find(&shown, 1, 0)->ecx & (BIT(21) | BIT(24)));
}

static void an_msr_is_changed_where_it_says_what_the_processor_is(void **state)
{
	struct arch_cpu_caps caps;
	struct err e;

	(void)state;
	intel(&caps);
	assert_int_equal(apply_msr(&caps, "0x10a", "0b00", &e), 0);
	assert_int_equal(caps.feature_msrs[0].value, 0x400000000d14e170);
	assert_int_equal(caps.changed_msrs, 1);
	intel(&caps);
	assert_int_equal(apply_msr(&caps, "0x8b", "0b11", &e), 0);
	assert_int_equal(caps.feature_msrs[1].value, 0x2b00000003);
	assert_int_equal(caps.changed_msrs, 2);
	/* What boot sets, and what is not there and stays so. */
	intel(&caps);
	assert_int_equal(apply_msr(&caps, "0xc0000082", "0b1", &e), 0);
	assert_int_equal(apply_msr(&caps, "0x10", "0b1", &e), 0);
	assert_int_equal(apply_msr(&caps, "0x122", "0b0", &e), 0);
	assert_int_equal(caps.changed_msrs, 0);
	/* Promises that the processor does not keep. */
	assert_int_equal(apply_msr(&caps, "0x10a", "0b1xxxxxxxxx", &e), -EINVAL);
	assert_non_null(strstr(e.msg, "cpu-config: MSR 0x10a: the template sets bit 9, which accelerator kvm does not have"));
	assert_int_equal(apply_msr(&caps, "0xe1", "0b1xxxxx", &e), -EINVAL);
	assert_non_null(strstr(e.msg, "cpu-config: MSR 0xe1: the template sets bit 5"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers_are_hexadecimal_binary_or_decimal),
		cmocka_unit_test(a_bitmap_says_what_becomes_of_each_bit),
		cmocka_unit_test(what_is_no_template_is_refused_with_its_place),
		cmocka_unit_test(a_list_has_a_limit),
		cmocka_unit_test(the_named_templates_are_those_of_firecracker),
		cmocka_unit_test(without_a_template_nothing_changes),
		cmocka_unit_test(t2_makes_a_haswell_of_a_newer_processor),
		cmocka_unit_test(what_needs_a_feature_that_is_gone_goes_too),
		cmocka_unit_test(the_xsave_area_has_room_for_what_is_left),
		cmocka_unit_test(a_template_is_for_the_processors_of_one_vendor),
		cmocka_unit_test(t2cl_wants_a_cascade_lake),
		cmocka_unit_test(t2a_on_amd_sets_what_asks_nothing_of_the_processor),
		cmocka_unit_test(t2s_and_t2cl_change_what_the_guest_believes_of_mitigations),
		cmocka_unit_test(bits_are_taken_away_and_names_are_given),
		cmocka_unit_test(what_the_processor_does_not_have_is_refused_by_leaf_register_and_bit),
		cmocka_unit_test(numbers_become_lower_only),
		cmocka_unit_test(of_two_changes_of_a_bit_the_last_one_counts),
		cmocka_unit_test(a_template_of_the_users_goes_before_a_named_one),
		cmocka_unit_test(the_timer_follows_its_bit),
		cmocka_unit_test(an_msr_is_changed_where_it_says_what_the_processor_is),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
