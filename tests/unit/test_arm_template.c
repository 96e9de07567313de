/* test_arm_template.c: what a CPU template for arm64 may ask for, and what is made of it. */
#include "cm.h"

#include <json-c/json.h>
#include <string.h>

#include "arch/aarch64/cpu_template.h"
#include "vmm/base/json.h"
#include "vmm/config.h"

#define ISAR0	       ARM_SYSTEM_REG(3, 0, 0, 6, 0)
#define ISAR1	       ARM_SYSTEM_REG(3, 0, 0, 6, 1)
#define PFR0	       ARM_SYSTEM_REG(3, 0, 0, 4, 0)
#define BOOT	       "\"boot-source\":{\"kernel_image_path\":\"k\"}"
#define CPU(x)	       "{" BOOT ",\"cpu-config\":{" x "}}"
#define REG(a, b)      CPU("\"reg_modifiers\":[{\"addr\":\"" a "\",\"bitmap\":\"" b "\"}]")
#define FEATURES(i, b) CPU("\"vcpu_features\":[{\"index\":" i ",\"bitmap\":\"" b "\"}]")

/* False: the configuration is refused; e says why. *there: it has a template. */
static bool make(const char *text, struct arm_template *t, bool *there, struct err *e)
{
	struct json_object *root = NULL;
	struct config c = {0};
	int r = json_parse("f", text, strlen(text), &root, e);

	if (r == 0)
		r = config_parse(&c, root, "f", e);
	if (r == 0) {
		*there = arm_template_make(&c, t);
		config_fini(&c);
	}
	json_object_put(root);
	return r == 0;
}

static struct arm_template *made(const char *text)
{
	struct arm_template *t = xzalloc(sizeof(*t));
	bool there = false;
	struct err e;

	if (!make(text, t, &there, &e))
		fail_msg("%s: %s", text, e.msg);
	assert_true(there);
	return t;
}

static void what_is_not_a_templates_is_refused(void **state)
{
	static const struct {
		const char *text, *why;
	} cases[] = {
		{REG("0x603000000013c005", "0b1"), "f: /cpu-config/reg_modifiers/0: MPIDR_EL1 does not say what the processor is like"},
		{REG("0x603000000013c080", "0b1"), "f: /cpu-config/reg_modifiers/0: SCTLR_EL1 does not say"},
		{REG("0x6030000000100040", "0b1"), "f: /cpu-config/reg_modifiers/0: register 0x6030000000100040 of KVM does not say"},
		{REG("0x604000000013c030", "0b1"), "f: /cpu-config/reg_modifiers/0: register 0x604000000013c030 of KVM does not say"},
		{REG("0x203000000013c030", "0b1"), "f: /cpu-config/reg_modifiers/0: register"},
		{REG("0x6020000000110000", "0bxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx1"),
		 "f: /cpu-config/reg_modifiers/0: CCSIDR_EL1 of cache 0x0 has 32 bits: the bitmap is to be 1 to 32 digits"},
		{CPU("\"reg_modifiers\":[{\"addr\":\"0x603000000013c030\",\"bitmap\":\"x\"},{\"addr\":\"1\",\"bitmap\":\"x\"}]"),
		 "f: /cpu-config/reg_modifiers/1: register 0x1 of KVM does not say"},
		{FEATURES("1", "0b1"), "f: /cpu-config/vcpu_features/0: vCPU features are in the word of index 0"},
		{FEATURES("0", "0b1"), "f: /cpu-config/vcpu_features/0: bit 0: which vCPUs are off is the boot's to say"},
		{FEATURES("0", "0b1x"), "f: /cpu-config/vcpu_features/0: bit 1: husk's guests are of 64 bits"},
		{FEATURES("0", "0b0xx"), "f: /cpu-config/vcpu_features/0: bit 2: PSCI"},
		{FEATURES("0", "0b1xxx"), "f: /cpu-config/vcpu_features/0: bit 3: husk's guests have no performance counters"},
		{FEATURES("0", "0b1xxxxxxx"), "f: /cpu-config/vcpu_features/0: bit 7: only SVE"},
	};
	auto_free struct arm_template *t = xzalloc(sizeof(*t));
	bool there;

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err e = {0};

		assert_false(make(cases[i].text, t, &there, &e));
		if (strncmp(e.msg, cases[i].why, strlen(cases[i].why)) != 0)
			fail_msg("%s:\n  \"%s\" instead of\n  \"%s\"", cases[i].text, e.msg, cases[i].why);
	}
}

static void registers_become_masks_and_values(void **state)
{
	auto_free struct arm_template *t = made(
		CPU("\"reg_modifiers\":[{\"addr\":\"0x603000000013c030\",\"bitmap\":\"0b0000_xxxx_0001\"},"
		    "{\"addr\":\"0x6030000000140000\",\"bitmap\":\"0b1\"},{\"addr\":\"0x6020000000110002\",\"bitmap\":\"0bx\"}]"));

	(void)state;
	assert_string_equal(t->name, "cpu-config");
	assert_int_equal(t->part, 0);
	assert_int_equal(t->nr, 3);
	assert_true(t->regs[0].id == ISAR0 && t->regs[0].mask == 0xf0f && t->regs[0].value == 1);
	assert_true(t->regs[1].id == ARM_PSCI_VERSION && t->regs[1].mask == 1 && t->regs[1].value == 1);
	assert_true(t->regs[2].mask == 0 && t->regs[2].value == 0);
	assert_int_equal(t->features_dropped | t->features_wanted, 0);
}

static void features_go_with_their_fields(void **state)
{
	static const struct {
		const char *text;
		u32 wanted, dropped;
	} cases[] = {
		{FEATURES("0", "0b0xxxx"), 0, ARM_FEATURE_SVE},
		{FEATURES("0", "0b1xxxx"), ARM_FEATURE_SVE, 0},
		{FEATURES("0", "0b11xxxxx"), ARM_FEATURE_PAUTH, 0},
		{FEATURES("0", "0b0xxxxx"), 0, ARM_FEATURE_PAUTH},
		{FEATURES("0", "0bx"), 0, 0},
		{REG("0x603000000013c020", "0b0000xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"), 0, ARM_FEATURE_SVE},
		{REG("0x603000000013c020", "0b000xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"), 0, 0},
		{REG("0x603000000013c020", "0b0001xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"), 0, 0},
		{REG("0x603000000013c031", "0b0000xxxx"), 0, ARM_FEATURE_PAUTH},
		{REG("0x603000000013c032", "0b0000xxxxxxxxxxxx"), 0, ARM_FEATURE_PAUTH},
		{REG("0x603000000013c030", "0b0000xxxx"), 0, 0},
	};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		auto_free struct arm_template *t = made(cases[i].text);

		if (t->features_wanted != cases[i].wanted || t->features_dropped != cases[i].dropped)
			fail_msg("%s: wanted 0x%x, dropped 0x%x", cases[i].text, t->features_wanted, t->features_dropped);
	}
}

static void v1n1_takes_from_neoverse_v1_what_n1_lacks(void **state)
{
	auto_free struct arm_template *t = made("{" BOOT
						",\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":64,\"cpu_template\":\"V1N1\"}}");

	(void)state;
	assert_int_equal(t->part, 0x41d40);
	assert_int_equal(t->features_dropped, ARM_FEATURE_SVE);
	assert_int_equal(t->nr, 4);
	assert_true(t->regs[0].id == PFR0 && t->regs[0].mask == 0x000f000f00000000 && t->regs[0].value == 0);
	assert_true(t->regs[1].id == ISAR0 && t->regs[1].mask == 0xf0ff0fff0000f000 && t->regs[1].value == 0x1000);
	assert_true(t->regs[2].id == ISAR1 && t->regs[2].mask == 0x00fff00000fff00f && t->regs[2].value == 0x100001);
	assert_true(t->regs[3].mask == 0xf00000000 && t->regs[3].value == 0);
}

static void your_own_goes_before_a_named_one(void **state)
{
	auto_free struct arm_template *t = xzalloc(sizeof(*t));
	bool there = true;
	struct err e;

	(void)state;
	assert_true(make("{" BOOT "}", t, &there, &e) && !there);
	assert_true(make("{" BOOT ",\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":64,\"cpu_template\":\"V1N1\"},\"cpu-config\":{}}",
			 t, &there, &e));
	assert_true(there && t->nr == 0 && t->part == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_not_a_templates_is_refused), cmocka_unit_test(registers_become_masks_and_values),
		cmocka_unit_test(features_go_with_their_fields),      cmocka_unit_test(v1n1_takes_from_neoverse_v1_what_n1_lacks),
		cmocka_unit_test(your_own_goes_before_a_named_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
