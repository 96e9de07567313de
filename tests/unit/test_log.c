/* test_log.c: log lines in Firecracker's form, what is left out, and that the log can be changed while threads write to it. */
#include "cm.h"

#include <fcntl.h>
#include <pthread.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "api/logger.h"

struct fixture {
	struct log log;
	char path[32], other[40];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err e;

	strcpy(f->path, "/tmp/husk-log-XXXXXX");
	close(mkstemp(f->path));
	snprintf(f->other, sizeof(f->other), "%s.2", f->path);
	log_init(&f->log, -1, LOG_INFO);
	assert_int_equal(log_open(&f->log, f->path, &e), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	log_fini(&f->log);
	unlink(f->path);
	unlink(f->other);
	free(f);
	return 0;
}

static char *text_of(const char *path)
{
	char *text = calloc(1, 1 << 20);
	FILE *in = fopen(path, "r");

	assert_non_null(in);
	assert_true(fread(text, 1, (1 << 20) - 1, in) < (1 << 20));
	fclose(in);
	return text;
}

static void assert_log(const char *path, const char *pattern)
{
	char *text = text_of(path);
	regex_t re;

	assert_int_equal(regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB), 0);
	if (regexec(&re, text, 0, NULL, 0) != 0)
		fail_msg("%s does not match %s", text, pattern);
	regfree(&re);
	free(text);
}

#define TIME "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{9} "

static void a_line_has_time_id_and_thread(void **state)
{
	struct fixture *f = *state;

	pthread_setname_np(pthread_self(), "tester");
	log_info(&f->log, "hello %d", 5);
	assert_log(f->path, TIME "\\[anonymous-instance:tester\\] hello 5\n$");
}

static void the_time_is_now_in_utc(void **state)
{
	struct fixture *f = *state;
	struct tm tm = {0};
	time_t said;
	char *text;

	log_info(&f->log, "now");
	text = text_of(f->path);
	assert_non_null(strptime(text, "%Y-%m-%dT%H:%M:%S", &tm));
	said = timegm(&tm);
	assert_true(said <= time(NULL) && said > time(NULL) - 60);
	free(text);
}

static void level_and_origin_are_there_when_wanted(void **state)
{
	struct cfg_logger l = {.show_level = true, .show_log_origin = true};
	struct fixture *f = *state;
	struct err e;

	strcpy(f->log.id, "vm-1");
	assert_int_equal(logger_apply(&f->log, &l, &e), 0);
	log_write(&f->log, LOG_WARN, "dir/file.c", 7, "hello");
	assert_log(f->path, TIME "\\[vm-1:[^:]*:WARN:dir/file\\.c:7\\] hello\n$");
}

static void what_is_below_the_level_is_left_out(void **state)
{
	struct fixture *f = *state;

	log_debug(&f->log, "fine");
	log_set_level(&f->log, LOG_DEBUG);
	log_debug(&f->log, "finer");
	log_set_level(&f->log, LOG_OFF);
	log_error(&f->log, "bad");
	assert_log(f->path, TIME "\\[[^\n]*\\] finer\n$");
}

static void other_modules_are_left_out(void **state)
{
	char prefix[] = "virtio/";
	struct cfg_logger l = {.module = prefix};
	struct fixture *f = *state;
	struct err e;

	assert_int_equal(logger_apply(&f->log, &l, &e), 0);
	log_write(&f->log, LOG_INFO, "vmm/vm.c", 1, "no");
	log_write(&f->log, LOG_INFO, "virtio/blk.c", 1, "yes");
	assert_log(f->path, TIME "\\[[^\n]*\\] yes\n$");
	log_set_module(&f->log, NULL);
	log_write(&f->log, LOG_INFO, "vmm/vm.c", 1, "again");
	assert_log(f->path, "again\n$");
}

static void a_refused_change_changes_nothing(void **state)
{
	char nowhere[] = "/nowhere/log", loud[] = "Trace", unknown[] = "Loud";
	struct cfg_logger path = {.log_path = nowhere, .level = loud}, level = {.level = unknown};
	struct fixture *f = *state;
	struct err e;

	assert_true(logger_apply(&f->log, &path, &e) < 0);
	assert_true(logger_apply(&f->log, &level, &e) < 0);
	assert_int_equal(f->log.level, LOG_INFO);
	log_info(&f->log, "still here");
	assert_log(f->path, "still here\n$");
}

static void a_full_fifo_loses_lines_and_counts_them(void **state)
{
	struct fixture *f = *state;
	struct err e;

	assert_int_equal(mkfifo(f->other, 0600), 0);
	assert_int_equal(log_open(&f->log, f->other, &e), 0);
	for (int i = 0; i < 5000 && f->log.dropped < 2; i++)
		log_info(&f->log, "a line of some length, so that it does not take long");
	assert_int_equal(f->log.dropped, 2);
}

static void *writer(void *opaque)
{
	struct log *log = opaque;

	for (int i = 0; i < 2000; i++)
		log_info(log, "line %d", i);
	return NULL;
}

static void the_log_can_be_changed_while_threads_write(void **state)
{
	char level[] = "Info", prefix[] = "";
	struct fixture *f = *state;
	pthread_t threads[2];
	struct err e;
	char *text;
	u32 lines = 0;

	for (u32 i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, writer, &f->log), 0);
	for (u32 i = 0; i < 50; i++) {
		struct cfg_logger l = {.level = level, .module = prefix, .show_level = i & 1, .log_path = i & 1 ? f->other : f->path};

		assert_int_equal(logger_apply(&f->log, &l, &e), 0);
	}
	for (u32 i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(f->log.dropped, 0);
	/* A file is written from its beginning each time it is opened: only that all lines are whole can be said. */
	text = text_of(f->other);
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), lines++)
		assert_true(strlen(line) < 100);
	free(text);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_line_has_time_id_and_thread),
		TEST(the_time_is_now_in_utc),
		TEST(level_and_origin_are_there_when_wanted),
		TEST(what_is_below_the_level_is_left_out),
		TEST(other_modules_are_left_out),
		TEST(a_refused_change_changes_nothing),
		TEST(a_full_fifo_loses_lines_and_counts_them),
		TEST(the_log_can_be_changed_while_threads_write),
	};

	return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
