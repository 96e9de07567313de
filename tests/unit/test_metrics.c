/* test_metrics.c: lines of metrics: their shape, that they hold what was added since the line before, and that a full FIFO costs nothing.
 */
#include "cm.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/config.h"
#include "vmm/vm.h"

struct drive {
	struct device dev;
	u64 reads, odd, init_us;
	struct latency took;
};

static const struct counter_desc drive_counters[] = {
	{"read_count", offsetof(struct drive, reads)},
	{"read_agg", offsetof(struct drive, took)},
	{"odd_count", offsetof(struct drive, odd)},
	{NULL, 0},
};
static const struct device_class drive_class = {.name = "drive", .list = true, .metrics_group = "block", .counters = drive_counters};
static const struct counter_desc alone_counters[] = {{"init_time_us", offsetof(struct drive, init_us)}, {NULL, 0}};
static const struct device_class alone_class = {
	.name = "alone", .list = true, .metrics_group = "vhost_user_block", .counters = alone_counters};

struct fixture {
	struct vm vm;
	struct log log;
	struct drive a, b, alone;
	struct cfg_metrics cfg;
	char path[40];
	int fd; /* reads what was written; -1: not open */
};

static void add(struct fixture *f, struct drive *d, const struct device_class *cls, const char *id)
{
	d->dev.cls = cls;
	strcpy(d->dev.id, id);
	f->vm.devices[f->vm.nr_devices++] = &d->dev;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err e;

	log_init(&f->log, -1, LOG_OFF);
	strcpy(f->log.id, "vm-7");
	f->vm.log = &f->log;
	assert_int_equal(loop_init(&f->vm.loop, &e), 0);
	add(f, &f->a, &drive_class, "a");
	add(f, &f->b, &drive_class, "b");
	add(f, &f->alone, &alone_class, "c");
	strcpy(f->path, "/tmp/husk-metrics-XXXXXX");
	close(mkstemp(f->path));
	f->cfg.metrics_path = f->path;
	f->fd = -1;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	metrics_stop(&f->vm.metrics);
	if (f->fd >= 0)
		close(f->fd);
	unlink(f->path);
	loop_fini(&f->vm.loop);
	log_fini(&f->log);
	free(f);
	return 0;
}

/* "block_a.read_count" -> its value; fails when it is not there. */
static u64 at(struct json_object *o, const char *path)
{
	char part[64];

	while (*path) {
		size_t len = strcspn(path, ".");

		snprintf(part, sizeof(part), "%.*s", (int)len, path);
		if (!json_object_object_get_ex(o, part, &o))
			fail_msg("no %s", path);
		path += len + (path[len] == '.');
	}
	return json_object_get_uint64(o);
}

static bool has(struct json_object *o, const char *group, const char *key)
{
	struct json_object *g = json_object_object_get(o, group);

	return g && (!key || json_object_object_get_ex(g, key, NULL));
}

/* Starts metrics into a file or FIFO and opens it for reading. */
static void start(struct fixture *f)
{
	struct err e;

	assert_int_equal(metrics_start(&f->vm.metrics, &f->vm, &f->cfg, &e), 0);
	f->fd = open(f->path, O_RDONLY | O_NONBLOCK);
	assert_true(f->fd >= 0);
}

/* Everything that can be read. The caller's. */
static char *slurp(struct fixture *f)
{
	char *text = calloc(1, 1 << 20);
	ssize_t n;

	for (size_t used = 0; (n = read(f->fd, text + used, (1 << 20) - 1 - used)) > 0;)
		used += (size_t)n;
	return text;
}

static struct json_object *parse_line(const char *line)
{
	struct json_object *o = json_tokener_parse(line);

	assert_non_null(o);
	return o;
}

/* The one line that has been written since. */
static struct json_object *one_line(struct fixture *f)
{
	char *text = slurp(f);
	struct json_object *o;

	assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
	o = parse_line(text);
	free(text);
	return o;
}

static struct json_object *flushed(struct fixture *f)
{
	metrics_flush(&f->vm.metrics);
	return one_line(f);
}

/* ---- shape ---- */

static void a_line_has_every_group_whatever_devices_there_are(void **state)
{
	static const char *const groups[] = {"api_server",
					     "balloon",
					     "block",
					     "deprecated_api",
					     "entropy",
					     "get_api_requests",
					     "i8042",
					     "interrupts",
					     "latencies_us",
					     "logger",
					     "memory_hotplug",
					     "mmds",
					     "net",
					     "patch_api_requests",
					     "pmem",
					     "put_api_requests",
					     "seccomp",
					     "signals",
					     "uart",
					     "vcpu",
					     "vmm",
					     "vsock"};
	struct fixture *f = *state;
	struct json_object *o;

	f->vm.nr_devices = 0;
	start(f);
	o = one_line(f);
	for (u32 i = 0; i < ARRAY_SIZE(groups); i++) {
		assert_true(has(o, groups[i], NULL));
		assert_true(json_object_object_length(json_object_object_get(o, groups[i])) > 0);
	}
	assert_int_equal(json_object_object_length(o), ARRAY_SIZE(groups) + 1); /* and the time */
	assert_int_equal(at(o, "memory_hotplug.plug_agg.max_us"), 0);
	assert_int_equal(at(o, "seccomp.num_faults"), 0);
	json_object_put(o);
}

static void a_group_is_the_sum_of_its_devices_but_for_the_extremes(void **state)
{
	struct fixture *f = *state;
	struct json_object *o;

	f->a.reads = 3;
	f->b.reads = 4;
	latency_add(&f->a.took, 5000);
	latency_add(&f->a.took, 2000);
	latency_add(&f->b.took, 9000);
	o = metrics_totals(&f->vm, false);
	assert_int_equal(at(o, "block_a.read_count"), 3);
	assert_int_equal(at(o, "block_b.read_count"), 4);
	assert_int_equal(at(o, "block.read_count"), 7);
	assert_int_equal(at(o, "block_a.read_agg.min_us"), 2);
	assert_int_equal(at(o, "block_a.read_agg.max_us"), 5);
	assert_int_equal(at(o, "block_a.read_agg.sum_us"), 7);
	assert_int_equal(at(o, "block.read_agg.sum_us"), 16);
	assert_int_equal(at(o, "block.read_agg.min_us"), 0);
	assert_int_equal(at(o, "block.read_agg.max_us"), 0);
	assert_int_equal(at(o, "block_b.update_count"), 0);
	assert_int_equal(json_object_object_length(json_object_object_get(o, "block_a")), 20);
	json_object_put(o);
}

static void a_class_without_a_sum_has_groups_of_its_devices_only(void **state)
{
	struct fixture *f = *state;
	struct json_object *o;

	f->alone.init_us = 12;
	o = metrics_totals(&f->vm, false);
	assert_int_equal(at(o, "vhost_user_block_c.init_time_us"), 12);
	assert_int_equal(at(o, "vhost_user_block_c.cfg_fails"), 0);
	assert_false(has(o, "vhost_user_block", NULL));
	json_object_put(o);
}

static void what_firecracker_does_not_count_is_in_a_group_of_its_own_if_wanted(void **state)
{
	struct fixture *f = *state;
	struct json_object *o;

	f->a.odd = 5;
	o = metrics_totals(&f->vm, true);
	assert_int_equal(at(o, "husk.block_a.odd_count"), 5);
	assert_false(has(o, "block_a", "odd_count"));
	assert_false(has(o, "block", "odd_count"));
	json_object_put(o);
	o = metrics_totals(&f->vm, false);
	assert_false(has(o, "husk", NULL));
	json_object_put(o);
}

static void counters_of_sources_and_of_the_core_are_in_their_groups(void **state)
{
	struct counts {
		u64 count;
	} counts = {41};
	static const struct counter_desc desc[] = {{"rx_count", offsetof(struct counts, count)}, {NULL, 0}};
	struct metrics_source s = {.group = "mmds", .counters = desc, .base = &counts};
	struct fixture *f = *state;
	struct json_object *o;

	metrics_add_source(&f->vm.metrics, &s);
	f->log.dropped = 2;
	f->vm.counters.accesses[BUS_PIO][1] = 6;
	f->vm.counters.interrupts = 8;
	latency_add(&f->vm.counters.access_time[BUS_MMIO][0], 3000);
	o = metrics_totals(&f->vm, false);
	assert_int_equal(at(o, "mmds.rx_count"), 41);
	assert_int_equal(at(o, "logger.missed_log_count"), 2);
	assert_int_equal(at(o, "vcpu.exit_io_out"), 6);
	assert_int_equal(at(o, "vcpu.exit_mmio_read_agg.sum_us"), 3);
	assert_int_equal(at(o, "interrupts.triggers"), 8);
	json_object_put(o);
}

static void lines_say_whose_they_are_when_that_is_configured(void **state)
{
	struct fixture *f = *state;
	char properties[] = "{\"rack\":\"7\"}";
	struct json_object *o;

	f->cfg.emit_id = true;
	f->cfg.properties = properties;
	start(f);
	o = one_line(f);
	assert_string_equal(json_object_get_string(json_object_object_get(o, "id")), "vm-7");
	assert_string_equal(json_object_get_string(json_object_object_get(json_object_object_get(o, "properties"), "rack")), "7");
	json_object_put(o);
}

/* ---- what a line adds ---- */

static void a_line_has_what_was_added_since_the_line_before(void **state)
{
	struct fixture *f = *state;
	struct json_object *o;

	f->a.reads = 10;
	start(f);
	o = one_line(f);
	assert_int_equal(at(o, "block_a.read_count"), 10);
	json_object_put(o);
	f->a.reads = 13;
	f->b.reads = 1;
	o = flushed(f);
	assert_int_equal(at(o, "block_a.read_count"), 3);
	assert_int_equal(at(o, "block.read_count"), 4);
	json_object_put(o);
	o = flushed(f);
	assert_int_equal(at(o, "block.read_count"), 0);
	json_object_put(o);
}

static void last_values_stay_in_every_line(void **state)
{
	struct fixture *f = *state;
	struct json_object *o;

	f->alone.init_us = 100;
	latency_add(&f->a.took, 8000);
	start(f);
	json_object_put(one_line(f));
	f->alone.init_us = 60;
	o = flushed(f);
	assert_int_equal(at(o, "vhost_user_block_c.init_time_us"), 60);
	assert_int_equal(at(o, "block_a.read_agg.max_us"), 8);
	assert_int_equal(at(o, "block_a.read_agg.sum_us"), 0);
	assert_true(at(o, "utc_timestamp_ms") > 1600000000000ull);
	json_object_put(o);
	assert_true(metrics_is_last_value("latencies_us", "pause_vm"));
	assert_true(metrics_is_last_value("api_server", "process_startup_time_cpu_us"));
	assert_false(metrics_is_last_value("mmds", "tx_bytes"));
}

static void the_end_writes_a_last_line(void **state)
{
	struct fixture *f = *state;
	struct json_object *o;

	start(f);
	json_object_put(one_line(f));
	f->a.reads = 2;
	metrics_stop(&f->vm.metrics);
	o = one_line(f);
	assert_int_equal(at(o, "block.read_count"), 2);
	json_object_put(o);
	metrics_stop(&f->vm.metrics); /* and again: nothing */
	metrics_flush(&f->vm.metrics);
}

/* ---- FIFOs ---- */

static void make_fifo(struct fixture *f)
{
	unlink(f->path);
	assert_int_equal(mkfifo(f->path, 0600), 0);
}

static void a_full_fifo_costs_neither_time_nor_counts(void **state)
{
	struct fixture *f = *state;
	struct json_object *o;
	char *text, *last;
	int rounds = 0;

	make_fifo(f);
	start(f);
	while (!f->vm.metrics.missed_metrics_count && rounds++ < 1000) {
		f->a.reads++;
		metrics_flush(&f->vm.metrics);
	}
	assert_int_equal(f->vm.metrics.missed_metrics_count, 1);
	metrics_flush(&f->vm.metrics);
	assert_int_equal(f->vm.metrics.missed_metrics_count, 2);
	text = slurp(f);
	metrics_flush(&f->vm.metrics);
	/* All lines together, the one that was cut off among them, have all that was counted. */
	last = slurp(f);
	text = realloc(text, strlen(text) + strlen(last) + 1);
	strcat(text, last);
	free(last);
	u64 reads = 0, missed = 0;

	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		o = parse_line(line);
		reads += at(o, "block_a.read_count");
		missed += at(o, "logger.missed_metrics_count");
		json_object_put(o);
	}
	assert_int_equal(reads, rounds);
	assert_int_equal(missed, 2);
	free(text);
}

static void a_fifo_smaller_than_a_line_gets_it_in_parts(void **state)
{
	struct fixture *f = *state;
	struct json_object *o;
	char *first, *second, *both;
	int fd;

	make_fifo(f);
	fd = open(f->path, O_RDWR | O_NONBLOCK);
	assert_int_equal(fcntl(fd, F_SETPIPE_SZ, 4096), 4096);
	f->a.reads = 9;
	start(f);
	close(fd);
	assert_non_null(f->vm.metrics.rest);
	first = slurp(f);
	assert_null(strchr(first, '\n'));
	metrics_flush(&f->vm.metrics);
	second = slurp(f);
	assert_int_equal(asprintf(&both, "%s%s", first, second), strlen(first) + strlen(second));
	assert_non_null(strchr(both, '\n'));
	*strchr(both, '\n') = 0;
	o = parse_line(both);
	assert_int_equal(at(o, "block_a.read_count"), 9);
	json_object_put(o);
	free(first);
	free(second);
	free(both);
}

static void a_path_that_cannot_be_opened_is_refused(void **state)
{
	struct fixture *f = *state;
	char nowhere[] = "/nowhere/metrics";
	struct err e;

	f->cfg.metrics_path = nowhere;
	assert_int_equal(metrics_start(&f->vm.metrics, &f->vm, &f->cfg, &e), -ENOENT);
	assert_non_null(strstr(e.msg, nowhere));
	assert_null(f->vm.metrics.vm);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_line_has_every_group_whatever_devices_there_are),
		TEST(a_group_is_the_sum_of_its_devices_but_for_the_extremes),
		TEST(a_class_without_a_sum_has_groups_of_its_devices_only),
		TEST(what_firecracker_does_not_count_is_in_a_group_of_its_own_if_wanted),
		TEST(counters_of_sources_and_of_the_core_are_in_their_groups),
		TEST(lines_say_whose_they_are_when_that_is_configured),
		TEST(a_line_has_what_was_added_since_the_line_before),
		TEST(last_values_stay_in_every_line),
		TEST(the_end_writes_a_last_line),
		TEST(a_full_fifo_costs_neither_time_nor_counts),
		TEST(a_fifo_smaller_than_a_line_gets_it_in_parts),
		TEST(a_path_that_cannot_be_opened_is_refused),
	};

	return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
