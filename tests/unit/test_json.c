/* test_json.c: text to JSON: what is refused, and where the message points. */
#include "cm.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/base/json.h"
#include "vmm/base/suggest.h"

static int parse(const char *text, size_t len, struct err *e)
{
	struct json_object *v = NULL;
	int r = json_parse("f", text, len, &v, e);

	json_object_put(v);
	return r;
}

static void assert_refused(const char *text, const char *message)
{
	struct err e = {0};

	assert_int_equal(parse(text, strlen(text), &e), -EINVAL);
	assert_string_equal(e.msg, message);
}

static void assert_accepted(const char *text)
{
	struct err e = {0};

	if (parse(text, strlen(text), &e) < 0)
		fail_msg("%s", e.msg);
}

static void syntax_errors_name_line_and_column(void **state)
{
	(void)state;
	assert_refused("{\n \"a\": }", "f:2:7: not JSON: unexpected character");
	assert_refused("{\"a\":1,}", "f:1:8: not JSON: unexpected character");
	assert_refused("{\"a\" 1}", "f:1:6: not JSON: object property name separator ':' expected");
	assert_refused("{\"a\":1} x", "f:1:9: not JSON: unexpected character");
	assert_refused("", "f:1:1: not JSON: the text ends too early");
	assert_refused("{\n\n", "f:3:1: not JSON: the text ends too early");
}

static void only_strict_json_is_taken(void **state)
{
	static const char *const wrong[] = {"{'a':1}", "{\"a\":TRUE}", "{/* c */}", "{\"a\":01}", "[1,]", "{\"a\":\"\xff\"}"};
	struct err e;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		if (parse(wrong[i], strlen(wrong[i]), &e) == 0)
			fail_msg("accepted: %s", wrong[i]);
	}
}

static void whole_numbers_of_more_than_64_bits_are_refused(void **state)
{
	static const char *const fine[] = {
		"[18446744073709551615]",
		"[-9223372036854775808]",
		"[0,-0]",
		"[18446744073709551616.0]",
		"[1e30]",
		"[true,false,null,12345678]",
		"{\"a\":\"99999999999999999999999\"}",
		"[-9223372036854775809e0]",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(fine); i++)
		assert_accepted(fine[i]);
	assert_refused("[18446744073709551616]", "f:1:2: a whole number that 64 bits do not hold");
	assert_refused("[-9223372036854775809]", "f:1:2: a whole number that 64 bits do not hold");
	assert_refused("{\"a\":[1,\n 99999999999999999999999]}", "f:2:2: a whole number that 64 bits do not hold");
}

static void a_nul_byte_does_not_end_the_text(void **state)
{
	struct err e;

	(void)state;
	assert_int_equal(parse("{}\0x", 4, &e), -EINVAL);
	assert_string_equal(e.msg, "f:1:3: not JSON: a NUL byte");
}

static void a_key_may_not_be_there_twice(void **state)
{
	(void)state;
	assert_refused("{\"a\":1,\n \"a\":2}", "f:2:2: the key \"a\" is there twice");
	assert_refused("[{\"x\":{\"b\":[],\"c\":{},\"b\":\"{\\\"\"}}]", "f:1:22: the key \"b\" is there twice");
	assert_refused("{\"id\":1,\"\\u0069d\":2}", "f: an object has the same key twice");
}

static void equal_keys_of_different_objects_are_fine(void **state)
{
	(void)state;
	assert_accepted("{\"a\":{\"a\":[{\"a\":1},{\"a\":2}]},\"b\":\"a\\\":\",\"c\":\"a\"}");
}

static void nested(char *text, int depth)
{
	memset(text, '[', (size_t)depth);
	memset(text + depth, ']', (size_t)depth);
	text[2 * depth] = 0;
}

static void depth_is_bounded(void **state)
{
	char text[100];
	struct err e;

	(void)state;
	nested(text, JSON_MAX_DEPTH - 1);
	assert_accepted(text);
	nested(text, JSON_MAX_DEPTH);
	assert_accepted(text);
	nested(text, JSON_MAX_DEPTH + 1);
	assert_int_equal(parse(text, strlen(text), &e), -EINVAL);
	assert_non_null(strstr(e.msg, "nested more than 32 deep"));
}

static void size_is_bounded(void **state)
{
	auto_free char *text = malloc(JSON_MAX_BYTES + 1);
	struct err e;

	(void)state;
	memset(text, ' ', JSON_MAX_BYTES + 1);
	memcpy(text, "{}", 2);
	assert_int_equal(parse(text, JSON_MAX_BYTES - 1, &e), 0);
	assert_int_equal(parse(text, JSON_MAX_BYTES, &e), 0);
	assert_int_equal(parse(text, JSON_MAX_BYTES + 1, &e), -E2BIG);
}

static void a_file_is_read_whole(void **state)
{
	char path[] = "/tmp/test_json_XXXXXX";
	auto_fd int fd = mkstemp(path);
	struct json_object *v = NULL;
	struct err e;

	(void)state;
	assert_int_equal(write(fd, "{\"a\": 7}\n", 9), 9);
	assert_int_equal(json_load(path, &v, &e), 0);
	assert_int_equal(json_object_get_int(json_object_object_get(v, "a")), 7);
	json_object_put(v);
	unlink(path);
	assert_int_equal(json_load(path, &v, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "No such file or directory"));
	assert_int_equal(json_load("/", &v, &e), -EISDIR);
}

static void descriptions_are_short_and_on_one_line(void **state)
{
	struct json_object *v = json_object_new_string("line one\nline two, which goes on and on and on and on and on and on");
	char text[100];

	(void)state;
	json_describe(v, text, sizeof(text));
	assert_string_equal(text, "\"line one\\nline two, which goes on and on and on and on and ...");
	json_object_put(v);
	json_describe(NULL, text, sizeof(text));
	assert_string_equal(text, "null");
}

static void the_nearest_word_is_suggested_and_a_far_one_is_not(void **state)
{
	struct suggest s;

	(void)state;
	suggest_init(&s, "is_readonly");
	suggest_try(&s, "is_root_device");
	suggest_try(&s, "is_read_only");
	assert_string_equal(suggest_text(&s, ""), " (did you mean is_read_only?)");
	suggest_init(&s, "mem");
	suggest_try(&s, "memory");
	assert_string_equal(suggest_text(&s, "--"), " (did you mean --memory?)");
	suggest_init(&s, "vsock");
	suggest_try(&s, "drives");
	assert_string_equal(suggest_text(&s, ""), "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(syntax_errors_name_line_and_column),
		cmocka_unit_test(only_strict_json_is_taken),
		cmocka_unit_test(whole_numbers_of_more_than_64_bits_are_refused),
		cmocka_unit_test(a_nul_byte_does_not_end_the_text),
		cmocka_unit_test(a_key_may_not_be_there_twice),
		cmocka_unit_test(equal_keys_of_different_objects_are_fine),
		cmocka_unit_test(depth_is_bounded),
		cmocka_unit_test(size_is_bounded),
		cmocka_unit_test(a_file_is_read_whole),
		cmocka_unit_test(descriptions_are_short_and_on_one_line),
		cmocka_unit_test(the_nearest_word_is_suggested_and_a_far_one_is_not),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
