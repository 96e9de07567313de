/* test_inspect.c: what `husk inspect` shows of a package: the golden one, and one whose author wants to reach the terminal. */
#include "cm.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "migration/package.h"

static char *golden(void)
{
	return xasprintf("%s/package-v%u.husk", getenv("HUSK_GOLDEN_DIR") ?: "tests/golden", PACKAGE_VERSION);
}

/* What a run of the command writes to standard output. */
static char *output(int argc, char **argv, int want)
{
	static char text[512 * 1024];
	int fd = open("/tmp", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600), was = dup(STDOUT_FILENO), code;
	struct err e = {0};
	ssize_t n;

	assert_true(fd >= 0 && was >= 0);
	fflush(stdout);
	dup2(fd, STDOUT_FILENO);
	code = cmd_inspect(argc, argv, &e);
	fflush(stdout);
	dup2(was, STDOUT_FILENO);
	close(was);
	n = pread(fd, text, sizeof(text) - 1, 0);
	close(fd);
	if (code != want)
		fail_msg("exit code %d: %s", code, e.msg);
	assert_true(n >= 0);
	text[n] = '\0';
	return text;
}

static void every_section_of_the_golden_package_is_shown(void **state)
{
	auto_free char *path = golden();
	char *argv[] = {"inspect", path};
	const char *text = output(2, argv, EXIT_OK);

	(void)state;
	assert_memory_equal(text, "package of a VM's state: format 1, ", 35);
	assert_non_null(strstr(text, "\nvm (version 1, "));
	assert_non_null(strstr(text, "\n  arch: x86_64\n"));
	assert_non_null(strstr(text, "\n  document: {\"accelerator\":\"tcg\""));
	assert_non_null(strstr(text, "\ncpu 0 (version "));
	assert_non_null(strstr(text, "\n  seg[0]: base=0x0 limit=0xffffffff "));
	assert_non_null(strstr(text, "\nblk drives/rootfs (version "));
	assert_null(strstr(text, "cannot be shown"));
}

static void as_json_it_is_one_object(void **state)
{
	auto_free char *path = golden();
	char *argv[] = {"inspect", "--json", path};
	struct json_object *o = json_tokener_parse(output(3, argv, EXIT_OK)), *sections, *vm;

	(void)state;
	assert_non_null(o);
	sections = json_object_object_get(o, "sections");
	assert_true(json_object_array_length(sections) > 15);
	for (size_t i = 0; i < json_object_array_length(sections); i++)
		assert_non_null(json_object_object_get(json_object_array_get_idx(sections, i), "state"));
	vm = json_object_object_get(json_object_array_get_idx(sections, 0), "state");
	assert_true(json_object_is_type(json_object_object_get(vm, "document"), json_type_object));
	json_object_put(o);
}

static void what_is_no_package_is_an_error_that_names_the_file(void **state)
{
	struct err e;
	char *missing[] = {"inspect", "/nonexistent"}, *other[] = {"inspect", "/proc/self/exe"}, *none[] = {"inspect"},
	     *two[] = {"inspect", "a", "b"}, *flag[] = {"inspect", "--jsn", "a"};

	(void)state;
	assert_int_equal(cmd_inspect(2, missing, &e), EXIT_ERROR);
	assert_non_null(strstr(e.msg, "/nonexistent"));
	assert_int_equal(cmd_inspect(2, other, &e), EXIT_ERROR);
	assert_memory_equal(e.msg, "/proc/self/exe: header: this is no package", 42);
	assert_int_equal(cmd_inspect(1, none, &e), EXIT_USAGE);
	assert_int_equal(cmd_inspect(3, two, &e), EXIT_USAGE);
	assert_int_equal(cmd_inspect(3, flag, &e), EXIT_USAGE);
}

static void nothing_of_a_package_reaches_the_terminal_but_what_can_be_seen(void **state)
{
	struct json_object *o = json_tokener_parse(
		"{\"format\":1,\"bytes\":99,\"sections\":[{\"name\":\"vm\",\"instance\":\"\",\"version\":1,\"optional\":true,\"bytes\":3,"
		"\"state\":{\"a\":\"x\\u001b[2J\\u009b\\n\",\"document\":{\"k\\u009b\":\"\\u007f\\u00e9\"}}},"
		"{\"name\":\"x\",\"instance\":\"y\",\"version\":2,\"optional\":false,\"bytes\":0,\"error\":\"no\\u001b\"}]}");
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	(void)state;
	assert_non_null(o);
	inspect_print(out, o);
	fclose(out);
	for (size_t i = 0; i < len; i++)
		assert_true(text[i] == '\n' || (text[i] >= ' ' && text[i] <= '~'));
	assert_non_null(strstr(text, "vm (version 1, 3 bytes, optional)\n  a: x\\x1b[2J\\xc2\\x9b\\x0a\n"));
	assert_non_null(strstr(text, "x y (version 2, 0 bytes)\n  cannot be shown: no\\x1b\n"));
	free(text);
	json_object_put(o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_section_of_the_golden_package_is_shown),
		cmocka_unit_test(as_json_it_is_one_object),
		cmocka_unit_test(what_is_no_package_is_an_error_that_names_the_file),
		cmocka_unit_test(nothing_of_a_package_reaches_the_terminal_but_what_can_be_seen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
