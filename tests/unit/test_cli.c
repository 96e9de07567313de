/* test_cli.c: command lines: what flags make of a configuration, what is refused, which exit code comes out. */
#include "cm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/cli.h"
#include "cli/invocation.h"
#include "vmm/base/json.h"
#include "vmm/device.h"

#define FLAGS(...) ((char *[]){"run", __VA_ARGS__, NULL})

static int count(char **argv)
{
	int n = 0;

	while (argv[n])
		n++;
	return n;
}

/* The JSON that a command line makes, as text; or the message. */
static void assert_makes(char **argv, const char *expected)
{
	struct json_object *root = NULL;
	struct invocation inv;
	struct err e = {0};
	int r = invocation_parse(&inv, count(argv), argv, &e);

	if (r == 0)
		r = invocation_json(&inv, &root, &e);
	if (r < 0)
		assert_string_equal(e.msg, expected);
	else
		assert_string_equal(json_object_to_json_string_ext(root, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE),
				    expected);
	json_object_put(root);
	invocation_fini(&inv);
}

/* The message that the configuration of a command line is refused with; "" when it is not. */
static void assert_config(char **argv, const char *expected)
{
	struct invocation inv;
	struct config c = {0};
	struct err e = {0};

	assert_int_equal(invocation_parse(&inv, count(argv), argv, &e), 0);
	if (invocation_config(&inv, &c, &e) == 0)
		config_fini(&c);
	assert_string_equal(e.msg, expected);
	invocation_fini(&inv);
}

static void flags_become_sections(void **state)
{
	(void)state;
	assert_makes(FLAGS("--kernel", "k", "--initrd=i", "--cmdline", "a=b c"),
		     "{\"boot-source\":{\"kernel_image_path\":\"k\",\"initrd_path\":\"i\",\"boot_args\":\"a=b c\"}}");
	assert_makes(FLAGS("--cpus", "2"), "{\"machine-config\":{\"vcpu_count\":2,\"mem_size_mib\":128}}");
	assert_makes(FLAGS("--accelerator", "kvm", "--boot-timer", "--id", "x"),
		     "{\"accelerator\":\"kvm\",\"boot_timer\":true,\"id\":\"x\"}");
	assert_makes(FLAGS("--level", "debug", "--show-level"), "{\"logger\":{\"level\":\"debug\",\"show_level\":true}}");
}

static void memory_takes_sizes(void **state)
{
	static const struct {
		const char *text, *json;
	} cases[] = {
		{"512", "512"},
		{"512M", "512"},
		{"512m", "512"},
		{"2G", "2048"},
		{"1T", "1048576"},
		{"1024K", "1"},
		{"1K", "\"1K\""},
		{"", "\"\""},
		{"-1", "\"-1\""},
		{"1.5G", "\"1.5G\""},
		{"1GiB", "\"1GiB\""},
		{"99999999999999999999", "\"99999999999999999999\""},
		{"16777216T", "\"16777216T\""},
	};
	char expected[200];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		snprintf(expected, sizeof(expected), "{\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":%s}}", cases[i].json);
		assert_makes(FLAGS("--memory", (char *)cases[i].text), expected);
	}
}

static void drives_take_words_pairs_and_commas(void **state)
{
	(void)state;
	assert_makes(FLAGS("--drive", "x.img"),
		     "{\"drives\":[{\"path_on_host\":\"x.img\",\"drive_id\":\"drive0\",\"is_root_device\":false}]}");
	assert_makes(FLAGS("--drive", "x,,y.img,ro,root,id=r"),
		     "{\"drives\":[{\"path_on_host\":\"x,y.img\",\"is_read_only\":true,\"is_root_device\":true,\"drive_id\":\"r\"}]}");
	assert_makes(FLAGS("--drive", "a=b.img"),
		     "{\"drives\":[{\"path_on_host\":\"a=b.img\",\"drive_id\":\"drive0\",\"is_root_device\":false}]}");
	assert_makes(FLAGS("--drive", "path_on_host=x,is_read_only=false"),
		     "{\"drives\":[{\"path_on_host\":\"x\",\"is_read_only\":false,\"drive_id\":\"drive0\",\"is_root_device\":false}]}");
	assert_makes(FLAGS("--net", "tap=tap0", "--net", "tap=tap1"), "{\"network-interfaces\":[{\"host_dev_name\":\"tap0\",\"iface_id\":"
								      "\"net0\"},{\"host_dev_name\":\"tap1\",\"iface_id\":\"net1\"}]}");
}

static void single_devices_merge(void **state)
{
	(void)state;
	assert_makes(FLAGS("--serial", "null", "--serial", "pty"), "{\"serial\":{\"mode\":\"pty\"}}");
	assert_makes(FLAGS("--entropy"), "{\"entropy\":{}}");
}

static void a_console_on_stdio_takes_it_from_the_serial_port(void **state)
{
	(void)state;
	assert_makes(FLAGS("--console", "stdio"), "{\"console\":{\"mode\":\"stdio\"},\"serial\":{\"mode\":\"null\"}}");
	assert_makes(FLAGS("--console", "pty"), "{\"console\":{\"mode\":\"pty\"}}");
	assert_makes(FLAGS("--console", "stdio", "--serial", "pty"), "{\"console\":{\"mode\":\"stdio\"},\"serial\":{\"mode\":\"pty\"}}");
}

static void what_is_not_understood_is_said(void **state)
{
	(void)state;
	assert_makes(FLAGS("--kernle", "k"), "unknown flag --kernle (did you mean --kernel?); \"husk help run\" lists them");
	assert_makes(FLAGS("--kernel"), "--kernel needs a value");
	assert_makes(FLAGS("--boot-timer=1"), "--boot-timer takes no value");
	assert_makes(FLAGS("-k", "x"), "\"-k\" is not understood: at most one configuration file, and flags that begin with \"--\"");
	assert_makes(FLAGS("a.json", "b.json"),
		     "\"b.json\" is not understood: at most one configuration file, and flags that begin with \"--\"");
	assert_makes(FLAGS("/nonexistent/x.json"), "/nonexistent/x.json: No such file or directory");
}

static void messages_name_the_flag(void **state)
{
	(void)state;
	assert_config(FLAGS("--kernel", "k", "--cpus", "0"), "--cpus: expected a whole number from 1 to 64, found 0");
	assert_config(FLAGS("--kernel", "k", "--cpus", "many"), "--cpus: expected a whole number from 1 to 64, found \"many\"");
	assert_config(FLAGS("--kernel", "k", "--memory", "0"), "--memory: expected a whole number of MiB from 1 to 16777216, found 0");
	assert_config(FLAGS("--kernel", "k", "--drive", "x,is_read_only=yes"),
		      "--drive: is_read_only: expected true or false, found \"yes\"");
	assert_config(FLAGS("--cpus", "1"), "command line: the required key \"boot-source\" is missing");
	assert_config(FLAGS("--kernel", "k", "--drive", "x", "--drive", "y,ro", "--memory", "1G"), "");
}

static void write_file(char *path, const char *text)
{
	auto_fd int fd = mkstemp(path);

	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static void flags_override_the_file_and_add_to_its_lists(void **state)
{
	char path[] = "/tmp/test_cli_XXXXXX";
	struct invocation inv;
	struct config c;
	struct err e;
	char **argv = FLAGS(path, "--cpus", "3", "--drive", "y");
	const struct cfg_list *drives;

	(void)state;
	write_file(path, "{\"boot-source\":{\"kernel_image_path\":\"k\"},\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":77},"
			 "\"drives\":[{\"drive_id\":\"drive0\",\"is_root_device\":false,\"path_on_host\":\"x\"}]}");
	assert_int_equal(invocation_parse(&inv, count(argv), argv, &e), 0);
	assert_int_equal(invocation_config(&inv, &c, &e), 0);
	assert_int_equal(c.machine->vcpu_count, 3);
	assert_int_equal(c.machine->mem_size_mib, 77);
	drives = config_devices(&c, device_class_find("virtio-blk"));
	assert_non_null(drives);
	assert_int_equal(drives->nr, 2);
	config_fini(&c);
	invocation_fini(&inv);
	unlink(path);
}

static void a_file_of_the_wrong_shape_does_not_trip_the_flags(void **state)
{
	static const char *const wrong[] = {
		"[]", "7", "{\"drives\":5}", "{\"machine-config\":[]}", "{\"drives\":[1]}", "{\"serial\":\"x\"}"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		char path[] = "/tmp/test_cli_XXXXXX";
		char **argv = FLAGS(path, "--cpus", "3", "--drive", "y", "--serial", "null");
		struct invocation inv;
		struct config c;
		struct err e;

		write_file(path, wrong[i]);
		assert_int_equal(invocation_parse(&inv, count(argv), argv, &e), 0);
		assert_int_equal(invocation_config(&inv, &c, &e), -EINVAL);
		invocation_fini(&inv);
		unlink(path);
	}
}

static void flags_are_unambiguous(void **state)
{
	struct config_flag a, b;

	(void)state;
	for (u32 i = 0; config_flag_at(i, &a); i++) {
		assert_true(config_flag_find(a.name, &b));
		assert_true(a.field == b.field && a.cls == b.cls);
		assert_non_null(a.help);
	}
}

static void exit_codes_tell_usage_from_error(void **state)
{
	static const struct {
		const char *argv[5];
		int code;
	} cases[] = {
		{{"husk", "nonsense"}, EXIT_USAGE},
		{{"husk", "run"}, EXIT_USAGE},
		{{"husk", "run", "--nonsense"}, EXIT_USAGE},
		{{"husk", "run", "/nonexistent.json"}, EXIT_ERROR},
		{{"husk", "run", "--kernel", "/nonexistent", "--cpus=0"}, EXIT_ERROR},
		{{"husk", "config"}, EXIT_USAGE},
		{{"husk", "config", "check"}, EXIT_USAGE},
		{{"husk", "check", "--nonsense"}, EXIT_USAGE},
		{{"husk", "check", "--accelerator", "hvf"}, EXIT_ERROR},
		{{"husk", "--nonsense"}, EXIT_FC_ARGS},
		{{"husk", "--id"}, EXIT_FC_ARGS},
		{{"husk", "--no-api"}, EXIT_FC_ARGS},
		{{"husk", "--metadata", "/nonexistent.json", "--level", "off"}, EXIT_ERROR},
		{{"husk", "--api-sock", "/nonexistent/sock", "--level", "off"}, EXIT_ERROR},
		{{"husk", "--http-api-max-payload-size", "much"}, EXIT_FC_ARGS},
		{{"husk", "--mmds-size-limit", "-1"}, EXIT_FC_ARGS},
		{{"husk", "--describe-snapshot", "/nonexistent"}, EXIT_ERROR},
		{{"husk", "snapshot", "info"}, EXIT_USAGE},
		{{"husk", "api"}, EXIT_USAGE},
		{{"husk", "--no-api", "--level", "off", "--config-file=/nonexistent.json"}, EXIT_ERROR},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char *argv[6] = {NULL};
		struct err e = {0};
		int argc = 0;

		for (; argc < 5 && cases[i].argv[argc]; argc++)
			argv[argc] = (char *)cases[i].argv[argc];
		assert_int_equal(cli_main(argc, argv, &e), cases[i].code);
		assert_true(*e.msg);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(flags_become_sections),
		cmocka_unit_test(memory_takes_sizes),
		cmocka_unit_test(drives_take_words_pairs_and_commas),
		cmocka_unit_test(single_devices_merge),
		cmocka_unit_test(a_console_on_stdio_takes_it_from_the_serial_port),
		cmocka_unit_test(what_is_not_understood_is_said),
		cmocka_unit_test(messages_name_the_flag),
		cmocka_unit_test(flags_override_the_file_and_add_to_its_lists),
		cmocka_unit_test(a_file_of_the_wrong_shape_does_not_trip_the_flags),
		cmocka_unit_test(flags_are_unambiguous),
		cmocka_unit_test(exit_codes_tell_usage_from_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
