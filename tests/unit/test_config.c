/* test_config.c: configurations that are right, and every way to be wrong, with the message that the user gets. */
#include "cm.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/base/json.h"
#include "vmm/config_schema.h"
#include "vmm/config_table.h"
#include "vmm/device.h"

#define BOOT	      "\"boot-source\":{\"kernel_image_path\":\"k\"}"
#define DRIVE(id, ro) "{\"drive_id\":\"" id "\",\"is_root_device\":false,\"path_on_host\":\"p\",\"is_read_only\":" ro "}"

static int parse(struct config *c, const char *text, struct err *e)
{
	struct json_object *root = NULL;
	int r = json_parse("f", text, strlen(text), &root, e);

	if (r == 0)
		r = config_parse(c, root, "f", e);
	json_object_put(root);
	return r;
}

static void assert_accepted(const char *text)
{
	struct config c = {0};
	struct err e = {0};

	if (parse(&c, text, &e) < 0)
		fail_msg("%s: %s", text, e.msg);
	config_fini(&c);
}

static void assert_refused(const char *text, const char *message)
{
	struct config c = {0};
	struct err e = {0};

	if (parse(&c, text, &e) == 0)
		fail_msg("accepted: %s", text);
	if (strncmp(e.msg, message, strlen(message)) != 0)
		fail_msg("%s:\n  \"%s\" instead of\n  \"%s\"", text, e.msg, message);
	assert_null(c.devices);
}

static void what_is_absent_has_its_default(void **state)
{
	struct config c;
	struct err e;

	(void)state;
	assert_int_equal(parse(&c, "{" BOOT "}", &e), 0);
	assert_string_equal(c.boot->kernel_image_path, "k");
	assert_null(c.boot->initrd_path);
	assert_int_equal(c.machine->vcpu_count, 1);
	assert_int_equal(c.machine->mem_size_mib, 128);
	assert_int_equal(c.machine->huge_pages, MEM_HUGE_NONE);
	assert_int_equal(c.accelerator, CFG_ACCEL_AUTO);
	assert_null(c.logger);
	assert_null(c.id);
	for (u32 i = 0; device_classes[i]; i++)
		assert_int_equal(config_devices(&c, device_classes[i])->nr, 0);
	config_fini(&c);
}

static void every_section_of_firecracker_that_is_null_or_empty_is_absent(void **state)
{
	(void)state;
	assert_accepted(
		"{" BOOT ",\"balloon\":null,\"cpu-config\":null,\"vsock\":null,\"logger\":null,\"metrics\":null,\"mmds-config\":null,"
		"\"entropy\":null,\"pmem\":[],\"memory-hotplug\":null,\"machine-config\":null,\"drives\":[],\"network-interfaces\":[]}");
	assert_accepted("{\"boot-source\":{\"kernel_image_path\":\"k\",\"initrd_path\":null,\"boot_args\":null}}");
}

static void values_arrive(void **state)
{
	struct config c;
	struct err e;

	(void)state;
	assert_int_equal(
		parse(&c,
		      "{" BOOT
		      ",\"machine-config\":{\"vcpu_count\":4,\"mem_size_mib\":512,\"track_dirty_pages\":true,\"huge_pages\":\"2M\"},"
		      "\"logger\":{\"level\":\"warning\",\"show_level\":true},\"metrics\":{\"metrics_path\":\"m\"},"
		      "\"accelerator\":\"kvm\",\"boot_timer\":true,\"id\":\"vm-1\"}",
		      &e),
		0);
	assert_int_equal(c.machine->vcpu_count, 4);
	assert_int_equal(c.machine->mem_size_mib, 512);
	assert_true(c.machine->track_dirty_pages);
	assert_int_equal(c.machine->huge_pages, MEM_HUGE_2M);
	assert_string_equal(c.logger->level, "warning");
	assert_true(c.logger->show_level);
	assert_string_equal(c.metrics->metrics_path, "m");
	assert_int_equal(c.accelerator, CFG_ACCEL_KVM);
	assert_true(c.boot_timer);
	assert_string_equal(c.id, "vm-1");
	config_fini(&c);
}

static void what_is_wrong_is_said_with_its_place(void **state)
{
	static const struct {
		const char *text, *message;
	} cases[] = {
		{"[]", "f: expected an object"},
		{"{}", "f: the required key \"boot-source\" is missing"},
		{"{\"boot-source\":{}}", "f: /boot-source: the required key \"kernel_image_path\" is missing"},
		{"{\"boot-source\":{\"kernel_image_path\":null}}", "f: /boot-source: the required key \"kernel_image_path\" is missing"},
		{"{\"boot-source\":7}", "f: /boot-source: expected an object, found 7"},
		{"{\"boot-source\":{\"kernel_image_path\":7}}",
		 "f: /boot-source/kernel_image_path: expected a path of 1 to 4095 bytes, found 7"},
		{"{\"boot-source\":{\"kernel_image_path\":\"\"}}", "f: /boot-source/kernel_image_path: expected a path"},
		{"{\"boot-source\":{\"kernel_image_path\":\"a\\u0000b\"}}", "f: /boot-source/kernel_image_path: a string with a NUL"},
		{"{" BOOT ",\"foo\":1}", "f: unknown key \"foo\"; known: boot-source, machine-config"},
		{"{" BOOT ",\"machine_config\":1}", "f: unknown key \"machine_config\" (did you mean machine-config?); known: "},
		{"{" BOOT ",\"drive\":[]}", "f: unknown key \"drive\" (did you mean drives?)"},
		{"{" BOOT ",\"vsock\":{\"guest_cid\":2,\"uds_path\":\"v\"}}", "f: /vsock/guest_cid: "},
		{"{" BOOT ",\"vsock\":{\"guest_cid\":3}}", "f: /vsock: the required key \"uds_path\" is missing"},
		{"{" BOOT ",\"cpu-config\":{\"kvm_capabilities\":{}}}", "f: /cpu-config/kvm_capabilities: expected a list"},
		{"{" BOOT ",\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":1,\"cpu_template\":\"T3\"}}",
		 "f: /machine-config/cpu_template: expected one of \"None\", \"C3\", \"T2\", \"T2S\", \"T2CL\", \"T2A\", \"V1N1\", "
		 "found \"T3\""},
		{"{" BOOT ",\"machine-config\":{\"vcpu_count\":1}}", "f: /machine-config: the required key \"mem_size_mib\" is missing"},
		{"{" BOOT ",\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":1,\"smt\":1}}",
		 "f: /machine-config/smt: expected true or false, found 1"},
		{"{" BOOT ",\"machine-config\":{\"vcpu_count\":3,\"mem_size_mib\":1,\"smt\":true}}",
		 "f: /machine-config: with smt, vcpu_count"},
		{"{" BOOT ",\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":3,\"huge_pages\":\"2M\"}}",
		 "f: /machine-config: with huge_pages 2M, mem_size_mib must be even, found 3"},
		{"{" BOOT ",\"logger\":{\"level\":\"loud\"}}", "f: /logger/level: expected Error, Warn, Info, Debug, Trace or Off"},
		{"{" BOOT ",\"metrics\":{}}", "f: /metrics: the required key \"metrics_path\" is missing"},
		{"{" BOOT ",\"accelerator\":\"hvf\"}", "f: /accelerator: expected one of \"auto\", \"kvm\", \"tcg\", found \"hvf\""},
		{"{" BOOT ",\"id\":\"a b\"}", "f: /id: expected 1 to 64 letters, digits and '-', found \"a b\""},
		{"{" BOOT ",\"drives\":{}}", "f: /drives: expected a list, found an object"},
		{"{" BOOT ",\"drives\":[1]}", "f: /drives/0: expected an object, found 1"},
		{"{" BOOT ",\"drives\":[" DRIVE("a", "true") "," DRIVE("b", "\"yes\"") "]}",
		 "f: /drives/1/is_read_only: expected true or false, found \"yes\""},
		{"{" BOOT ",\"drives\":[" DRIVE("a", "true") "," DRIVE("a", "true") "]}", "f: /drives/1/drive_id: "},
		{"{" BOOT ",\"drives\":[{\"drive_id\":\"a\",\"is_root_device\":true,\"path_on_host\":\"p\"},{\"drive_id\":\"b\","
		 "\"is_root_device\":true,\"path_on_host\":\"q\"}]}",
		 "f: /drives/1/is_root_device: "},
		{"{" BOOT
		 ",\"drives\":[{\"drive_id\":\"a\",\"is_root_device\":true,\"path_on_host\":\"p\",\"rate_limiter\":{\"ops\":{}}}]}",
		 "f: /drives/0/rate_limiter/ops: the required key \"size\" is missing"},
		{"{" BOOT ",\"drives\":[{\"drive_id\":\"a\",\"is_root_device\":true,\"path_on_host\":\"p\"}],\"pmem\":[{\"id\":\"b\","
		 "\"path_on_host\":\"q\"},{\"id\":\"c\",\"root_device\":true,\"path_on_host\":\"q\"}]}",
		 "f: /pmem: a root device is there already: one of the drives"},
		{"{" BOOT ",\"serial\":{\"mode\":\"modem\"}}", "f: /serial/mode: expected stdio, pty, null"},
		{"{" BOOT ",\"balloon\":{\"amount_mib\":1}}", "f: /balloon: the required key \"deflate_on_oom\" is missing"},
		{"{" BOOT ",\"balloon\":{\"amount_mib\":129,\"deflate_on_oom\":false}}",
		 "f: /balloon: Amount of pages requested is too large. The VM has 128 MiB of memory."},
		{"{" BOOT
		 ",\"balloon\":{\"amount_mib\":9,\"deflate_on_oom\":true},\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":8}}",
		 "f: /balloon: Amount of pages requested is too large."},
		{"{" BOOT ",\"memory-hotplug\":{\"total_size_mib\":1000}}",
		 "f: /memory-hotplug: Total size must be a multiple of slot size (128 MiB)"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_refused(cases[i].text, cases[i].message);
}

static void two_interfaces_share_neither_mac_nor_tap(void **state)
{
	(void)state;
	assert_refused("{" BOOT
		       ",\"network-interfaces\":[{\"iface_id\":\"a\",\"host_dev_name\":\"t0\",\"guest_mac\":\"06:00:00:00:00:0a\"},"
		       "{\"iface_id\":\"b\",\"host_dev_name\":\"t1\",\"guest_mac\":\"06:00:00:00:00:0A\"}]}",
		       "f: /network-interfaces/1/guest_mac: ");
	assert_refused("{" BOOT ",\"network-interfaces\":[{\"iface_id\":\"a\",\"host_dev_name\":\"t0\"},"
		       "{\"iface_id\":\"b\",\"host_dev_name\":\"t0\"}]}",
		       "f: /network-interfaces/1/host_dev_name: ");
}

static void names_that_differ_in_case_differ(void **state)
{
	(void)state;
	assert_accepted("{" BOOT ",\"drives\":[" DRIVE("a", "true") "," DRIVE("A", "true") "]}");
}

static void both_ends_of_a_duplicate_are_named(void **state)
{
	struct config c;
	struct err e;

	(void)state;
	assert_int_equal(parse(&c, "{" BOOT ",\"drives\":[" DRIVE("a", "true") "," DRIVE("b", "true") "," DRIVE("a", "true") "]}", &e),
			 -EINVAL);
	assert_non_null(strstr(e.msg, "/drives/2/drive_id"));
	assert_non_null(strstr(e.msg, "/drives/0"));
}

/* Limits: what is just inside is taken, what is just outside is not. */
static void assert_number(const char *format, u64 n, bool good)
{
	char text[300];

	snprintf(text, sizeof(text), format, (unsigned long long)n);
	if (good)
		assert_accepted(text);
	else
		assert_refused(text, "f: /machine-config/");
}

#define CPUS   "{" BOOT ",\"machine-config\":{\"vcpu_count\":%llu,\"mem_size_mib\":64}}"
#define MEMORY "{" BOOT ",\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":%llu}}"

static void numbers_have_their_limits(void **state)
{
	const u64 max_mib = 16 * 1024 * 1024;

	(void)state;
	assert_number(CPUS, 0, false);
	assert_number(CPUS, 1, true);
	assert_number(CPUS, 63, true);
	assert_number(CPUS, 64, true);
	assert_number(CPUS, 65, false);
	assert_number(CPUS, 1000, false);
	assert_number(MEMORY, 0, false);
	assert_number(MEMORY, 1, true);
	assert_number(MEMORY, max_mib - 1, true);
	assert_number(MEMORY, max_mib, true);
	assert_number(MEMORY, max_mib + 1, false);
	assert_number(MEMORY, UINT64_MAX, false);
	assert_refused("{" BOOT ",\"machine-config\":{\"vcpu_count\":-1,\"mem_size_mib\":64}}", "f: /machine-config/vcpu_count: expected");
	assert_refused("{" BOOT ",\"machine-config\":{\"vcpu_count\":1.0,\"mem_size_mib\":64}}",
		       "f: /machine-config/vcpu_count: expected a whole number from 1 to 64, found 1.0");
	assert_refused("{" BOOT ",\"machine-config\":{\"vcpu_count\":18446744073709551617,\"mem_size_mib\":64}}",
		       "f:1:73: a whole number that 64 bits do not hold");
}

static void string_of(char *text, size_t size, const char *before, size_t len, const char *after)
{
	int used = snprintf(text, size, "{%s", before);

	memset(text + used, 'x', len);
	snprintf(text + used + len, size - (size_t)used - len, "%s}", after);
}

static void strings_have_their_limits(void **state)
{
	char text[8192];

	(void)state;
	for (size_t len = 63; len <= 65; len++) {
		string_of(text, sizeof(text), BOOT ",\"id\":\"", len, "\"");
		if (len <= 64)
			assert_accepted(text);
		else
			assert_refused(text, "f: /id: expected");
	}
	for (size_t len = 2046; len <= 2048; len++) {
		string_of(text, sizeof(text), "\"boot-source\":{\"kernel_image_path\":\"k\",\"boot_args\":\"", len, "\"}");
		if (len <= 2047)
			assert_accepted(text);
		else
			assert_refused(text, "f: /boot-source/boot_args: expected at most 2047 bytes of kernel command line, found 2048");
	}
}

static void lists_have_their_limit(void **state)
{
	char text[16384];

	(void)state;
	for (int nr = CFG_LIST_MAX - 1; nr <= CFG_LIST_MAX + 1; nr++) {
		int used = snprintf(text, sizeof(text), "{" BOOT ",\"drives\":[");

		for (int i = 0; i < nr; i++)
			used += snprintf(text + used, sizeof(text) - (size_t)used,
					 "%s{\"drive_id\":\"d%d\",\"is_root_device\":false,\"path_on_host\":\"p\"}", i ? "," : "", i);
		snprintf(text + used, sizeof(text) - (size_t)used, "]}");
		if (nr <= CFG_LIST_MAX)
			assert_accepted(text);
		else
			assert_refused(text, "f: /drives: expected at most 64 items, found 65");
	}
}

/* ---- the table engine itself, with a table that has every type, nested ---- */

struct leaf {
	u64 n;
};
struct tree {
	bool flag;
	u64 number;
	char *text;
	u32 choice;
	struct leaf *one;
	struct cfg_list many;
};

static const char *const choices[] = {"x", "y", NULL};
static const struct cfg_field leaf_fields[] = {
	{.key = "n", .type = CFG_INT, .offset = offsetof(struct leaf, n), .min = 2, .max = 4, .dflt = "3", .help = ""},
};
static const struct cfg_table leaf_table = {"leaf", "", sizeof(struct leaf), leaf_fields, ARRAY_SIZE(leaf_fields), false, false, 0};
static const struct cfg_field tree_fields[] = {
	{.key = "flag", .type = CFG_BOOL, .offset = offsetof(struct tree, flag), .dflt = "true", .help = ""},
	{.key = "number", .type = CFG_INT, .offset = offsetof(struct tree, number), .help = ""},
	{.key = "text", .type = CFG_STR, .offset = offsetof(struct tree, text), .dflt = "\"hello\"", .help = ""},
	{.key = "choice", .type = CFG_ENUM, .offset = offsetof(struct tree, choice), .values = choices, .dflt = "\"y\"", .help = ""},
	{.key = "one", .type = CFG_OBJ, .offset = offsetof(struct tree, one), .sub = &leaf_table, .help = ""},
	{.key = "many", .type = CFG_LIST, .offset = offsetof(struct tree, many), .sub = &leaf_table, .help = ""},
};
static const struct cfg_table tree_table = {"tree", "", sizeof(struct tree), tree_fields, ARRAY_SIZE(tree_fields), false, false, 0};

static int read_tree(struct tree *t, const char *text, struct err *e)
{
	const struct cfg_place at = {.origin = "f"};
	struct json_object *json = json_tokener_parse(text);
	int r;

	*t = (struct tree){0};
	r = cfg_read_object(&tree_table, json, t, &at, e);
	json_object_put(json);
	return r;
}

static void every_type_is_read_and_defaulted(void **state)
{
	struct tree t;
	struct err e;

	(void)state;
	assert_int_equal(read_tree(&t, "{}", &e), 0);
	assert_true(t.flag);
	assert_string_equal(t.text, "hello");
	assert_int_equal(t.choice, 1);
	assert_null(t.one);
	assert_int_equal(t.many.nr, 0);
	cfg_free(&tree_table, &t);
	assert_int_equal(read_tree(&t,
				   "{\"flag\":false,\"number\":18446744073709551615,\"text\":\"\",\"choice\":\"x\",\"one\":{\"n\":4},"
				   "\"many\":[{\"n\":2},{}]}",
				   &e),
			 0);
	assert_false(t.flag);
	assert_true(t.number == UINT64_MAX);
	assert_string_equal(t.text, "");
	assert_int_equal(t.choice, 0);
	assert_int_equal(t.one->n, 4);
	assert_int_equal(t.many.nr, 2);
	assert_int_equal(((struct leaf *)t.many.items)[0].n, 2);
	assert_int_equal(((struct leaf *)t.many.items)[1].n, 3);
	cfg_free(&tree_table, &t);
}

static void a_failure_inside_leaves_nothing_behind_but_what_is_freed(void **state)
{
	static const char *const wrong[] = {"{\"text\":\"a\",\"many\":[{\"n\":2},{\"n\":5}]}", "{\"one\":{\"n\":1}}", "{\"choice\":\"z\"}",
					    "{\"many\":[{\"m\":2}]}", "{\"one\":[]}"};
	struct tree t;
	struct err e;

	(void)state; /* LeakSanitizer is the judge */
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		assert_int_equal(read_tree(&t, wrong[i], &e), -EINVAL);
		cfg_free(&tree_table, &t);
	}
	assert_int_equal(read_tree(&t, wrong[0], &e), -EINVAL);
	assert_string_equal(e.msg, "f: /many/1/n: expected a whole number from 2 to 4, found 5");
	cfg_free(&tree_table, &t);
}

/* ---- what is made from the tables ---- */

static void schema_and_manual_know_every_key(void **state)
{
	struct json_object *schema = config_schema(), *properties, *again;
	auto_free char *manual = NULL;
	size_t size;
	FILE *f = open_memstream(&manual, &size);
	const char *text = json_object_to_json_string(schema);
	char key[100];
	struct err e;

	(void)state;
	config_docs(f);
	fclose(f);
	assert_int_equal(json_parse("schema", text, strlen(text), &again, &e), 0);
	properties = json_object_object_get(again, "properties");
	for (u32 i = 0; i < config_table.nr_fields; i++)
		assert_non_null(json_object_object_get(properties, config_table.fields[i].key));
	for (u32 i = 0; device_classes[i]; i++) {
		const struct device_class *cls = device_classes[i];

		if (!cls->section)
			continue;
		assert_non_null(json_object_object_get(properties, cls->section));
		for (u32 k = 0; k < cls->config->nr_fields; k++) {
			snprintf(key, sizeof(key), "| `%s` |", cls->config->fields[k].key);
			assert_non_null(strstr(manual, key));
			snprintf(key, sizeof(key), "\"%s\"", cls->config->fields[k].key);
			assert_non_null(strstr(text, key));
		}
	}
	json_object_put(again);
	json_object_put(schema);
}

static void the_manual_in_docs_is_the_one_that_the_tables_make(void **state)
{
	const char *path = getenv("HUSK_CONFIG_MD");
	auto_free char *manual = NULL, *page = NULL;
	size_t size, got;
	FILE *f = open_memstream(&manual, &size), *docs = fopen(path ? path : "docs/config.md", "r");

	(void)state;
	config_docs(f);
	fclose(f);
	assert_non_null(docs);
	page = calloc(1, size + 2);
	got = fread(page, 1, size + 1, docs);
	fclose(docs);
	if (got != size || strcmp(page, manual) != 0)
		fail_msg("docs/config.md is out of date: build/husk config docs >docs/config.md");
}

static void every_default_of_every_table_is_one_that_its_field_takes(void **state)
{
	(void)state;
	for (u32 i = 0; device_classes[i]; i++) {
		const struct cfg_table *t = device_classes[i]->config;
		void *out = t ? calloc(1, t->size) : NULL;

		if (!t)
			continue;
		cfg_defaults(t, out); /* asserts */
		cfg_free(t, out);
		free(out);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_absent_has_its_default),
		cmocka_unit_test(every_section_of_firecracker_that_is_null_or_empty_is_absent),
		cmocka_unit_test(values_arrive),
		cmocka_unit_test(what_is_wrong_is_said_with_its_place),
		cmocka_unit_test(two_interfaces_share_neither_mac_nor_tap),
		cmocka_unit_test(names_that_differ_in_case_differ),
		cmocka_unit_test(both_ends_of_a_duplicate_are_named),
		cmocka_unit_test(numbers_have_their_limits),
		cmocka_unit_test(strings_have_their_limits),
		cmocka_unit_test(lists_have_their_limit),
		cmocka_unit_test(every_type_is_read_and_defaulted),
		cmocka_unit_test(a_failure_inside_leaves_nothing_behind_but_what_is_freed),
		cmocka_unit_test(schema_and_manual_know_every_key),
		cmocka_unit_test(the_manual_in_docs_is_the_one_that_the_tables_make),
		cmocka_unit_test(every_default_of_every_table_is_one_that_its_field_takes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
