/* test_err.c: error sentences. */
#include "cm.h"

#include <errno.h>
#include <string.h>

#include "vmm/base/err.h"

static void context_is_put_in_front(void **state)
{
	struct err e;

	(void)state;
	errno = ENOENT;
	assert_int_equal(err_errno(&e, "disk \"%s\"", "x.img"), -ENOENT);
	assert_int_equal(err_prefix(&e, "drive %d", 3), -ENOENT);
	assert_string_equal(e.msg, "drive 3: disk \"x.img\": No such file or directory");
}

static void long_messages_are_cut_not_overrun(void **state)
{
	char text[4096];
	struct err e;

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	err_set(&e, -EINVAL, "%s", text);
	assert_int_equal(strlen(e.msg), sizeof(e.msg) - 1);
	err_prefix(&e, "%s", text);
	assert_int_equal(strlen(e.msg), sizeof(e.msg) - 1);
	errno = EPERM;
	assert_int_equal(err_errno(&e, "%s", text), -EPERM);
}

static void no_err_still_returns_the_code(void **state)
{
	(void)state;
	assert_int_equal(err_set(NULL, -ENOSPC, "x"), -ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(context_is_put_in_front),
		cmocka_unit_test(long_messages_are_cut_not_overrun),
		cmocka_unit_test(no_err_still_returns_the_code),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
