/* test_arm_config.c: what an arm64 machine refuses of a configuration, and with which sentence. */
#include "cm.h"

#include <json-c/json.h>
#include <string.h>

#include "vmm/base/json.h"
#include "vmm/config.h"

#define BOOT	   "\"boot-source\":{\"kernel_image_path\":\"k\"}"
#define MACHINE(x) "{" BOOT ",\"machine-config\":{\"vcpu_count\":2,\"mem_size_mib\":64," x "}}"
#define CPU(x)	   "{" BOOT ",\"cpu-config\":{" x "}}"

static int parse(const char *text, struct err *e)
{
	struct json_object *root = NULL;
	struct config c = {0};
	int r = json_parse("f", text, strlen(text), &root, e);

	if (r == 0)
		r = config_parse(&c, root, "f", e);
	if (r == 0)
		config_fini(&c);
	json_object_put(root);
	return r;
}

static void what_is_for_x86_is_named(void **state)
{
	static const struct {
		const char *text, *why;
	} cases[] = {
		{MACHINE("\"smt\":true"), "f: /machine-config: Enabling simultaneous multithreading is not supported on aarch64"},
		{MACHINE("\"cpu_template\":\"T2\""),
		 "f: /machine-config: cpu_template T2 is for x86-64 processors, and this husk runs arm64 guests"},
		{CPU("\"cpuid_modifiers\":[{\"leaf\":\"1\",\"subleaf\":\"0\",\"flags\":0,\"modifiers\":[]}]"),
		 "f: /cpu-config/cpuid_modifiers: it is for x86-64 processors, and this husk runs arm64 guests: take it out"},
		{CPU("\"msr_modifiers\":[{\"addr\":\"1\",\"bitmap\":\"0b1\"}]"),
		 "f: /cpu-config/msr_modifiers: it is for x86-64 processors"},
		{"{\"boot-source\":{\"kernel_image_path\":\"k\",\"unpack\":\"guest\"}}",
		 "f: /boot-source: unpack guest is for x86-64's bzImage"},
	};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err e = {0};

		assert_true(parse(cases[i].text, &e) < 0);
		if (strncmp(e.msg, cases[i].why, strlen(cases[i].why)) != 0)
			fail_msg("%s:\n  \"%s\" instead of\n  \"%s\"", cases[i].text, e.msg, cases[i].why);
	}
}

static void what_asks_for_nothing_is_taken(void **state)
{
	struct err e = {0};

	(void)state;
	assert_int_equal(parse(CPU("\"cpuid_modifiers\":[]"), &e), 0);
	assert_int_equal(parse("{" BOOT ",\"cpu-config\":{}}", &e), 0);
	assert_int_equal(parse(MACHINE("\"cpu_template\":\"V1N1\""), &e), 0);
	assert_int_equal(parse(MACHINE("\"cpu_template\":\"None\",\"smt\":false"), &e), 0);
	assert_int_equal(parse("{\"boot-source\":{\"kernel_image_path\":\"k\",\"unpack\":\"host\"}}", &e), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_for_x86_is_named),
		cmocka_unit_test(what_asks_for_nothing_is_taken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
