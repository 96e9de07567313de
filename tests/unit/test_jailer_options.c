/* test_jailer_options.c: the jailer's command line. */
#include "cm.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "jailer/options.h"

#define GOOD "--id", "vm-1", "--exec-file", "/usr/bin/firecracker", "--uid", "1000", "--gid", "100"
#define ARGV(...) \
	(char *[]) \
	{ \
		"husk-jailer", __VA_ARGS__, NULL \
	}

static int parse(struct jail_options *o, char **argv, struct err *e)
{
	int argc = 0;

	while (argv[argc])
		argc++;
	*e = (struct err){0};
	return jail_options_parse(o, argc, argv, e);
}

static void assert_refused(char **argv, const char *text)
{
	struct jail_options o;
	struct err e;

	assert_int_equal(parse(&o, argv, &e), -EINVAL);
	if (!strstr(e.msg, text))
		fail_msg("\"%s\" does not say \"%s\"", e.msg, text);
	jail_options_fini(&o);
}

static void what_is_given_arrives_and_the_rest_has_defaults(void **state)
{
	struct jail_options o;
	struct err e;

	(void)state;
	assert_int_equal(parse(&o, ARGV(GOOD), &e), 0);
	assert_string_equal(o.id, "vm-1");
	assert_string_equal(o.exec_file, "/usr/bin/firecracker");
	assert_int_equal(o.uid, 1000);
	assert_int_equal(o.gid, 100);
	assert_null(o.base);
	assert_int_equal(o.cgroup_version, 1);
	assert_int_equal(o.no_file, 2048);
	assert_false(o.have_fsize || o.have_no_file || o.daemonize || o.new_pid_ns || o.cleanup || o.remove || o.unprivileged);
	assert_null(o.extra[0]);
	jail_options_fini(&o);
}

static void all_after_two_dashes_is_the_programs(void **state)
{
	struct jail_options o;
	struct err e;

	(void)state;
	assert_int_equal(parse(&o, ARGV(GOOD, "--daemonize", "--", "--id", "--", "x"), &e), 0);
	assert_true(o.daemonize);
	assert_string_equal(o.extra[0], "--id");
	assert_string_equal(o.extra[1], "--");
	assert_string_equal(o.extra[2], "x");
	assert_null(o.extra[3]);
	assert_int_equal(parse(&o, ARGV(GOOD, "--"), &e), 0);
	assert_null(o.extra[0]);
}

static void ids_are_1_to_64_letters_digits_and_hyphens(void **state)
{
	char id[66] = {0};
	struct jail_options o;
	struct err e;

	(void)state;
	memset(id, 'a', 64);
	assert_int_equal(parse(&o, ARGV("--id", id, "--exec-file", "x", "--uid", "0", "--gid", "0"), &e), 0);
	id[64] = 'a';
	assert_refused(ARGV("--id", id), "Invalid instance ID: Invalid len (65);  the length must be between 1 and 64");
	assert_refused(ARGV("--id", ""), "Invalid len (0);  the length must be between 1 and 64");
	assert_refused(ARGV("--id="), "Invalid len (0)");
	assert_refused(ARGV("--id", ".."), "Invalid char (.) at position 0");
	assert_refused(ARGV("--id", "a/../b"), "Invalid char (/) at position 1");
	assert_refused(ARGV("--id", "a_b"), "Invalid char (_) at position 1");
	assert_refused(ARGV("--id", "\xc3\xa4"), "at position 0");
}

static void owners_are_plain_numbers_below_the_one_that_means_nobody(void **state)
{
	struct jail_options o;
	struct err e;

	(void)state;
	assert_int_equal(parse(&o, ARGV("--id", "a", "--exec-file", "x", "--uid", "4294967294", "--gid", "0"), &e), 0);
	assert_int_equal(o.uid, 4294967294u);
	assert_refused(ARGV("--uid", "4294967295"), "Invalid uid: 4294967295");
	assert_refused(ARGV("--uid", "18446744073709551616"), "Invalid uid: 18446744073709551616");
	assert_refused(ARGV("--uid", "-1"), "Invalid uid: -1");
	assert_refused(ARGV("--uid", " 1"), "Invalid uid:  1");
	assert_refused(ARGV("--uid", "0x10"), "Invalid uid: 0x10");
	assert_refused(ARGV("--gid", ""), "Invalid gid: ");
	assert_refused(ARGV("--gid", "root"), "Invalid gid: root");
}

static void cgroup_settings_are_split_at_the_first_equals_sign(void **state)
{
	struct jail_options o;
	struct err e;

	(void)state;
	assert_int_equal(
		parse(&o, ARGV(GOOD, "--cgroup", "io.max=8:0 rbps=1000", "--cgroup=hugetlb.2MB.limit_in_bytes=0", "--cgroup-version", "2"),
		      &e),
		0);
	assert_int_equal(o.n_cgroups, 2);
	assert_string_equal(o.cgroups[0].controller, "io");
	assert_string_equal(o.cgroups[0].file, "io.max");
	assert_string_equal(o.cgroups[0].value, "8:0 rbps=1000");
	assert_string_equal(o.cgroups[1].controller, "hugetlb");
	assert_string_equal(o.cgroups[1].file, "hugetlb.2MB.limit_in_bytes");
	assert_int_equal(o.cgroup_version, 2);
	jail_options_fini(&o);
}

static void cgroup_files_do_not_lead_out_of_the_cgroup(void **state)
{
	static const char *const bad[] = {"../file_name", "./root", "/home", "cpu/x.y",	     "cpu.x/y",
					  "cpuset",	  ".cpus",  "cpu.",  "cgroup.procs", "cpu.\\x"};
	char text[64];

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		snprintf(text, sizeof(text), "%s=1", bad[i]);
		assert_refused(ARGV(GOOD, "--cgroup", text), "Cgroup invalid file: ");
	}
	assert_refused(ARGV(GOOD, "--cgroup", "zzz"), "Invalid format for cgroups: zzz");
	assert_refused(ARGV(GOOD, "--cgroup", "cpu.shares="), "Invalid format for cgroups: cpu.shares=");
	assert_refused(ARGV(GOOD, "--cgroup", "cpu.shares=1\n2"), "Invalid format for cgroups");
	assert_refused(ARGV(GOOD, "--cgroup-version", "0"), "0 is an invalid cgroup version specifier");
	assert_refused(ARGV(GOOD, "--cgroup-version", "11"), "11 is an invalid cgroup version specifier");
}

static void the_number_of_cgroup_settings_is_bounded(void **state)
{
	char *argv[2 * JAIL_CGROUPS_MAX + 4] = {"husk-jailer"};

	(void)state;
	for (u32 i = 0; i < JAIL_CGROUPS_MAX + 1; i++) {
		argv[1 + 2 * i] = "--cgroup";
		argv[2 + 2 * i] = "cpu.shares=1";
	}
	assert_refused(argv, "more than 256");
}

static void parent_cgroups_are_relative_and_go_down_only(void **state)
{
	struct jail_options o;
	struct err e;
	char deep[2048];

	(void)state;
	assert_int_equal(parse(&o, ARGV(GOOD, "--parent-cgroup", "all_uvms/external..uvms"), &e), 0);
	assert_refused(ARGV(GOOD, "--parent-cgroup", "/root"),
		       "Parent cgroup path is invalid. Path should not be absolute or contain '..' or '.'");
	assert_refused(ARGV(GOOD, "--parent-cgroup", ".."), "Parent cgroup path is invalid");
	assert_refused(ARGV(GOOD, "--parent-cgroup", "a/.."), "Parent cgroup path is invalid");
	assert_refused(ARGV(GOOD, "--parent-cgroup", "a/./b"), "Parent cgroup path is invalid");
	memset(deep, 'a', sizeof(deep) - 1);
	deep[sizeof(deep) - 1] = 0;
	assert_refused(ARGV(GOOD, "--parent-cgroup", deep), "Parent cgroup path is invalid");
}

static void limits(void **state)
{
	struct jail_options o;
	struct err e;

	(void)state;
	assert_int_equal(parse(&o, ARGV(GOOD, "--resource-limit", "fsize=18446744073709551615", "--resource-limit", "no-file=0"), &e), 0);
	assert_true(o.have_fsize && o.have_no_file);
	assert_true(o.fsize == UINT64_MAX && o.no_file == 0);
	assert_refused(ARGV(GOOD, "--resource-limit", "zzz"), "Invalid format for resources limits: zzz");
	assert_refused(ARGV(GOOD, "--resource-limit", "cpu=1"), "Invalid resource argument: cpu");
	assert_refused(ARGV(GOOD, "--resource-limit", "fsize="), "Invalid limit value for resource: ");
	assert_refused(ARGV(GOOD, "--resource-limit", "fsize=18446744073709551616"),
		       "Invalid limit value for resource: 18446744073709551616");
	assert_refused(ARGV(GOOD, "--resource-limit", "fsize=-1"), "Invalid limit value for resource: -1");
}

static void what_is_missing_twice_or_unknown_is_said(void **state)
{
	struct jail_options o;
	struct err e;

	(void)state;
	assert_refused(ARGV("--uid", "1"), "Argument 'id' required, but not found.");
	assert_refused(ARGV("--id", "a", "--uid", "1", "--gid", "1"), "Argument 'exec-file' required, but not found.");
	assert_refused(ARGV("--id", "a", "--exec-file", "x", "--gid", "1"), "Argument 'uid' required, but not found.");
	assert_refused(ARGV("--id", "a", "--exec-file", "x", "--uid", "1"), "Argument 'gid' required, but not found.");
	assert_refused(ARGV(GOOD, "--uid", "2"), "The argument 'uid' was provided more than once.");
	assert_refused(ARGV(GOOD, "--netns"), "The argument 'netns' requires a value, but none was supplied.");
	assert_refused(ARGV(GOOD, "--node", "0"), "Found argument 'node' which wasn't expected, or isn't valid in this context.");
	assert_refused(ARGV(GOOD, "word"), "Found argument 'word' which wasn't expected");
	assert_int_equal(parse(&o, ARGV("--help"), &e), 0);
	assert_true(o.help);
	assert_int_equal(parse(&o, ARGV("--version"), &e), 0);
	assert_true(o.version);
}

static void the_modes_of_husks_own_ask_for_less(void **state)
{
	struct jail_options o;
	struct err e;

	(void)state;
	assert_int_equal(parse(&o, ARGV("--id", "a", "--exec-file", "x", "--unprivileged"), &e), 0);
	assert_false(o.have_uid || o.have_gid);
	assert_int_equal(parse(&o, ARGV("--id", "a", "--exec-file", "x", "--remove"), &e), 0);
	assert_refused(ARGV(GOOD, "--remove", "--cleanup"), "--remove runs nothing");
	assert_refused(ARGV(GOOD, "--remove", "--", "--no-api"), "--remove runs nothing");
	assert_refused(ARGV(GOOD, "--unprivileged", "--netns", "/x"), "Failed to join network namespace");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_given_arrives_and_the_rest_has_defaults),
		cmocka_unit_test(all_after_two_dashes_is_the_programs),
		cmocka_unit_test(ids_are_1_to_64_letters_digits_and_hyphens),
		cmocka_unit_test(owners_are_plain_numbers_below_the_one_that_means_nobody),
		cmocka_unit_test(cgroup_settings_are_split_at_the_first_equals_sign),
		cmocka_unit_test(cgroup_files_do_not_lead_out_of_the_cgroup),
		cmocka_unit_test(the_number_of_cgroup_settings_is_bounded),
		cmocka_unit_test(parent_cgroups_are_relative_and_go_down_only),
		cmocka_unit_test(limits),
		cmocka_unit_test(what_is_missing_twice_or_unknown_is_said),
		cmocka_unit_test(the_modes_of_husks_own_ask_for_less),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
