/* test_trace.c: switching events on by pattern. */
#include "cm.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "vmm/base/trace.h"

static void only_the_events_that_match_are_written(void **state)
{
	struct trace t = {0};
	char buf[256] = "";
	struct err e;
	int fds[2];

	(void)state;
	assert_int_equal(pipe(fds), 0);
	trace(&t, test_apple, "n=%d", 0); /* off: nothing */
	assert_int_equal(trace_enable(&t, "test_a*", fds[1], &e), 0);
	trace(&t, test_apple, "n=%d", 42);
	trace(&t, test_pear, "n=%d", 43);
	assert_true(read(fds[0], buf, sizeof(buf) - 1) > 0);
	assert_non_null(strstr(buf, "test_apple n=42\n"));
	assert_null(strstr(buf, "n=0"));
	assert_null(strstr(buf, "pear"));
	trace_fini(&t);
	close(fds[0]);
	close(fds[1]);
}

static void a_pattern_without_match_is_an_error(void **state)
{
	struct trace t = {0};
	struct err e;

	(void)state;
	assert_int_equal(trace_enable(&t, "no_such_*", 2, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "no_such_*"));
	trace_fini(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_the_events_that_match_are_written),
		cmocka_unit_test(a_pattern_without_match_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
