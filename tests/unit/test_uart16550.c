/* test_uart16550.c: the registers of a 16550A, its interrupt line, and both directions through a character backend. */
#include "devtest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "vmm/bucket.h"
#include "vmm/config.h"

#define BASE 0x3f8
#define GSI  4

enum { DATA = BASE, IER, IIR, LCR, MCR, LSR, MSR, SCR, FCR = IIR };

extern const struct device_class uart16550_class;

struct fixture {
	struct devtest *t;
	char dir[32], path[64];
	int peer; /* other end of a unix: backend, or -1 */
};

static const struct dev_slot slot = {.pio_base = BASE, .pio_len = 8, .gsi = GSI, .has_gsi = true};

static const struct cfg_field *field(const char *key)
{
	const struct cfg_table *table = uart16550_class.config;

	for (u32 i = 0; i < table->nr_fields; i++) {
		if (!strcmp(table->fields[i].key, key))
			return &table->fields[i];
	}
	fail_msg("no key \"%s\"", key);
	return NULL;
}

/* The parsed form of {key: value}. */
static void *parsed(const char *key, const char *value)
{
	char *cfg = xzalloc(uart16550_class.config->size);

	memcpy(cfg + field(key)->offset, &value, sizeof(value));
	return cfg;
}

static struct fixture *new_fixture(const char *key, const char *prefix)
{
	struct fixture *f = xzalloc(sizeof(*f));
	auto_free char *value = NULL;
	auto_free void *cfg = NULL;

	f->t = devtest_new();
	f->peer = -1;
	strcpy(f->dir, "/tmp/husk-uart-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/end", f->dir);
	value = xasprintf("%s%s", prefix, f->path);
	cfg = parsed(key, value);
	devtest_add(f->t, &uart16550_class, cfg, &slot);
	return f;
}

static int setup_file(void **state)
{
	*state = new_fixture("mode", "file:");
	return 0;
}

static int setup_socket(void **state)
{
	struct fixture *f = new_fixture("mode", "unix:");
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", f->path);
	f->peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(f->peer, (struct sockaddr *)&addr, sizeof(addr)), 0);
	loop_turn(&f->t->vm.loop, 1000);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	if (f->t)
		devtest_free(f->t);
	fd_close(&f->peer);
	unlink(f->path);
	rmdir(f->dir);
	free(f);
	return 0;
}

static u8 in(struct fixture *f, u16 port)
{
	return devtest_in(f->t, port);
}

static void out(struct fixture *f, u16 port, u8 val)
{
	devtest_out(f->t, port, val);
}

static bool line(struct fixture *f)
{
	return f->t->level[GSI];
}

/* The peer sends, and the loop gets the time to bring it in. */
static void send_in(struct fixture *f, const char *text)
{
	assert_int_equal(write(f->peer, text, strlen(text)), strlen(text));
	for (u32 i = 0; i < 5; i++)
		loop_turn(&f->t->vm.loop, 20);
}

/* Reads as a driver does: while there is data. */
static u32 drain(struct fixture *f, char *buf, u32 size)
{
	u32 n = 0;

	while (n < size && (in(f, LSR) & 1))
		buf[n++] = (char)in(f, DATA);
	return n;
}

static void turn_twice(struct fixture *f)
{
	loop_turn(&f->t->vm.loop, 20);
	loop_turn(&f->t->vm.loop, 20);
}

static void a_reset_port_shows_the_values_of_the_data_sheet(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(in(f, IER), 0);
	assert_int_equal(in(f, IIR), 0x01);
	assert_int_equal(in(f, LCR), 0);
	assert_int_equal(in(f, MCR), 0);
	assert_int_equal(in(f, LSR), 0x60);
	assert_int_equal(in(f, MSR), 0xb0);
	assert_false(line(f));
}

/* serial8250's autoconfig and autoconfig_16550a, with the values that they compare. */
static void linux_recognises_a_16550a(void **state)
{
	struct fixture *f = *state;

	out(f, IER, 0);
	assert_int_equal(in(f, IER) & 0x0f, 0);
	out(f, IER, 0xff);
	assert_int_equal(in(f, IER), 0x0f); /* the upper bits would be those of other chips */
	out(f, IER, 0);
	out(f, MCR, 0x10 | 0x0a);
	assert_int_equal(in(f, MSR) & 0xf0, 0x90);
	out(f, MCR, 0);
	out(f, LCR, 0xbf);
	out(f, 0x3f8 + 2, 0);
	out(f, LCR, 0);
	out(f, FCR, 0x01);
	assert_int_equal(in(f, IIR) >> 6, 3);
	out(f, LCR, 0x80);
	assert_int_not_equal(in(f, IIR), 0); /* not a chip with an EFR */
	out(f, FCR, 0x21);
	assert_int_equal(in(f, IIR) >> 5, 6); /* nor one with a FIFO of 64 bytes */
	out(f, LCR, 0);
	out(f, FCR, 0);
	assert_int_equal(in(f, IIR) >> 6, 0);
	out(f, SCR, 0xa5);
	assert_int_equal(in(f, SCR), 0xa5);
}

static void the_divisor_latch_lies_under_dlab(void **state)
{
	struct fixture *f = *state;

	out(f, LCR, 0x83);
	out(f, DATA, 0x0c);
	out(f, IER, 0x01);
	assert_int_equal(in(f, DATA), 0x0c);
	assert_int_equal(in(f, IER), 0x01);
	out(f, LCR, 0x03);
	assert_int_equal(in(f, IER), 0);
	assert_int_equal(in(f, LSR), 0x60); /* nothing was sent or received */
}

static void output_arrives_whole_and_in_order(void **state)
{
	struct fixture *f = *state;
	const char *text = "Linux version 6.12\r\nlast line without an end";
	char buf[128] = "";
	FILE *file;

	for (const char *p = text; *p; p++) {
		assert_int_equal(in(f, LSR) & 0x60, 0x60);
		out(f, DATA, (u8)*p);
	}
	devtest_free(f->t);
	f->t = NULL;
	file = fopen(f->path, "r");
	assert_non_null(file);
	assert_int_equal(fread(buf, 1, sizeof(buf), file), strlen(text));
	assert_string_equal(buf, text);
	fclose(file);
}

/* Reads the peer's end slowly until it ends; returns how many bytes came before the '!' that must be last. */
static void *read_slowly(void *opaque)
{
	struct fixture *f = opaque;
	size_t total = 0;
	char buf[4096], last = 0;
	ssize_t n;

	usleep(50 * 1000);
	while ((n = read(f->peer, buf, sizeof(buf))) > 0) {
		total += (size_t)n;
		last = buf[n - 1];
	}
	return (void *)(last == '!' ? total : 0);
}

static void the_last_lines_reach_a_slow_reader(void **state)
{
	struct fixture *f = *state;
	struct pollfd pfd = {.fd = f->peer, .events = POLLIN};
	pthread_t reader;
	void *total;
	u32 sent = 1;
	int size = 4096;

	setsockopt(f->peer, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	for (; sent < 60000; sent++) /* fits into chr's ring even if the socket takes nothing */
		out(f, DATA, 'x');
	out(f, DATA, '!');
	assert_int_equal(poll(&pfd, 1, 0), 1);
	assert_int_equal(pthread_create(&reader, NULL, read_slowly, f), 0);
	devtest_free(f->t);
	f->t = NULL;
	pthread_join(reader, &total);
	assert_int_equal((size_t)total, sent);
}

static void an_empty_transmitter_interrupts_until_it_was_told(void **state)
{
	struct fixture *f = *state;

	out(f, IER, 0x02);
	assert_true(line(f));
	assert_int_equal(in(f, IIR), 0x02);
	assert_false(line(f)); /* reading IIR takes it back */
	assert_int_equal(in(f, IIR), 0x01);
	out(f, DATA, 'a');
	assert_true(line(f));
	assert_int_equal(in(f, IIR), 0x02);
	out(f, IER, 0x02); /* on already: not raised again */
	assert_false(line(f));
	out(f, IER, 0x00);
	out(f, IER, 0x02); /* off and on: raised (the test of Linux for UART_BUG_THRE) */
	assert_int_equal(in(f, IIR), 0x02);
}

static void a_burst_of_output_moves_the_line_once(void **state)
{
	struct fixture *f = *state;

	out(f, IER, 0x02);
	in(f, IIR);
	for (u32 i = 0; i < 16; i++)
		out(f, DATA, 'a');
	assert_int_equal(f->t->rises[GSI], 2);
}

static void loopback_returns_the_output_and_keeps_it_from_the_line(void **state)
{
	struct fixture *f = *state;
	struct pollfd pfd = {.fd = f->peer, .events = POLLIN};

	out(f, FCR, 0x01);
	out(f, MCR, 0x10);
	out(f, DATA, 0xae);
	assert_int_equal(in(f, LSR), 0x61);
	assert_int_equal(in(f, DATA), 0xae);
	assert_int_equal(in(f, LSR), 0x60);
	assert_int_equal(poll(&pfd, 1, 0), 0);
	send_in(f, "held");
	assert_int_equal(in(f, LSR), 0x60);
	out(f, MCR, 0x02);
	turn_twice(f);
	assert_int_equal(in(f, DATA), 'h');
}

static void loopback_wires_the_modem_outputs_to_the_inputs(void **state)
{
	struct fixture *f = *state;
	static const struct {
		u8 mcr, msr;
	} wires[] = {{0x01, 0x20}, {0x02, 0x10}, {0x04, 0x40}, {0x08, 0x80}, {0x0f, 0xf0}};

	for (u32 i = 0; i < ARRAY_SIZE(wires); i++) {
		out(f, MCR, 0x10 | wires[i].mcr);
		assert_int_equal(in(f, MSR) & 0xf0, wires[i].msr);
	}
}

static void a_change_of_a_modem_line_interrupts_until_msr_is_read(void **state)
{
	struct fixture *f = *state;

	out(f, MCR, 0x10);
	in(f, MSR);
	out(f, IER, 0x08);
	assert_false(line(f));
	out(f, MCR, 0x10 | 0x04); /* RI rises: counts only when it falls */
	assert_false(line(f));
	out(f, MCR, 0x10);
	assert_true(line(f));
	assert_int_equal(in(f, IIR), 0x00);
	assert_int_equal(in(f, MSR), 0x04);
	assert_false(line(f));
	out(f, MCR, 0x10 | 0x02);
	assert_int_equal(in(f, MSR), 0x11);
}

static void an_overrun_is_reported_once_and_before_all_else(void **state)
{
	struct fixture *f = *state;

	out(f, FCR, 0x01);
	out(f, MCR, 0x10);
	out(f, IER, 0x07);
	for (u8 i = 0; i < 17; i++)
		out(f, DATA, i);
	assert_int_equal(in(f, IIR), 0xc6);
	assert_int_equal(in(f, LSR), 0x63);
	assert_int_equal(in(f, LSR), 0x61);
	assert_int_equal(in(f, IIR), 0xc4);
	for (u8 i = 0; i < 16; i++)
		assert_int_equal(in(f, DATA), i); /* the seventeenth is the lost one */
	assert_int_equal(in(f, IIR), 0xc2);
	assert_int_equal(in(f, IIR), 0xc1);
	assert_false(line(f));
}

static void without_the_fifo_a_new_byte_overwrites_the_old_one(void **state)
{
	struct fixture *f = *state;

	out(f, MCR, 0x10);
	out(f, DATA, 'a');
	out(f, DATA, 'b');
	assert_int_equal(in(f, LSR), 0x63);
	assert_int_equal(in(f, DATA), 'b');
	assert_int_equal(in(f, LSR), 0x60);
}

static void the_trigger_level_tells_full_from_timed_out(void **state)
{
	static const u8 level[] = {1, 4, 8, 14};
	struct fixture *f = *state;

	out(f, MCR, 0x10);
	out(f, IER, 0x01);
	for (u8 i = 0; i < 4; i++) {
		out(f, FCR, (u8)(i << 6 | 0x03)); /* also clears */
		assert_false(line(f));
		for (u8 n = 1; n <= 16; n++) {
			out(f, DATA, n);
			assert_int_equal(in(f, IIR), n >= level[i] ? 0xc4 : 0xcc);
		}
	}
}

static void fcr_clears_the_fifo_on_demand_and_when_switched(void **state)
{
	struct fixture *f = *state;

	out(f, MCR, 0x10);
	out(f, FCR, 0x01);
	out(f, DATA, 'a');
	out(f, FCR, 0x01);
	assert_int_equal(in(f, LSR), 0x61); /* same setting: stays */
	out(f, FCR, 0x03);
	assert_int_equal(in(f, LSR), 0x60);
	out(f, DATA, 'a');
	out(f, FCR, 0x00);
	assert_int_equal(in(f, LSR), 0x60);
	out(f, DATA, 'a');
	out(f, FCR, 0x02); /* not programmed without bit 0 */
	assert_int_equal(in(f, LSR), 0x61);
}

static void input_interrupts_and_is_read_back(void **state)
{
	struct fixture *f = *state;
	char buf[8];

	out(f, FCR, 0x81);
	out(f, MCR, 0x0b);
	out(f, IER, 0x01);
	send_in(f, "ls\n");
	assert_true(line(f));
	assert_int_equal(in(f, IIR), 0xcc);
	assert_int_equal(drain(f, buf, sizeof(buf)), 3);
	assert_memory_equal(buf, "ls\n", 3);
	assert_false(line(f));
	assert_int_equal(in(f, DATA), 0);
}

static void input_longer_than_the_fifo_is_never_lost(void **state)
{
	struct fixture *f = *state;
	char sent[1001], got[1000];
	u32 n = 0;

	for (u32 i = 0; i < 1000; i++)
		sent[i] = (char)('a' + i % 26);
	sent[1000] = '\0';
	out(f, FCR, 0x81);
	out(f, IER, 0x05);
	send_in(f, sent);
	for (u32 turns = 0; n < 1000 && turns < 1000; turns++) {
		assert_int_equal(in(f, LSR) & 2, 0);
		n += drain(f, got + n, 1000 - n);
		loop_turn(&f->t->vm.loop, 20);
	}
	assert_int_equal(n, 1000);
	assert_memory_equal(got, sent, 1000);
}

static void *run_loop(void *opaque)
{
	loop_run(opaque);
	return NULL;
}

/* As in a running VM: the loop fills the FIFO while a vCPU empties it, and neither waits for ever. */
static void input_flows_from_the_loop_thread_to_the_vcpu(void **state)
{
	struct fixture *f = *state;
	u64 deadline = clock_host_ns() + 20 * NSEC_PER_SEC;
	const u32 total = 20000;
	char sent[4000], got;
	pthread_t loop;

	for (u32 i = 0; i < sizeof(sent); i++)
		sent[i] = (char)('a' + i % 23);
	out(f, FCR, 0x81);
	out(f, IER, 0x05);
	assert_int_equal(pthread_create(&loop, NULL, run_loop, &f->t->vm.loop), 0);
	for (u32 n = 0; n < total; n++) {
		if (n % sizeof(sent) == 0)
			assert_int_equal(write(f->peer, sent, sizeof(sent)), sizeof(sent));
		while (!drain(f, &got, 1))
			assert_true(clock_host_ns() < deadline);
		assert_int_equal(got, sent[n % sizeof(sent)]);
	}
	loop_stop(&f->t->vm.loop);
	pthread_join(loop, NULL);
}

/* What is piped into husk is there long before Linux opens the port, clears the FIFO and reads it empty. */
static void early_input_waits_for_the_driver(void **state)
{
	struct fixture *f = *state;
	char buf[32];

	send_in(f, "echo hello\n");
	out(f, MCR, 0x09); /* Linux registers its console: DTR */
	out(f, FCR, 0x01);
	turn_twice(f);
	out(f, FCR, 0x07); /* ... and opens it */
	out(f, FCR, 0x00);
	in(f, LSR);
	in(f, DATA);
	out(f, FCR, 0x81);
	out(f, IER, 0x05);
	out(f, MCR, 0x0b);
	turn_twice(f);
	assert_int_equal(drain(f, buf, sizeof(buf)), 11);
	assert_memory_equal(buf, "echo hello\n", 11);
}

static void a_guest_that_only_polls_gets_input_too(void **state)
{
	struct fixture *f = *state;
	u32 polls = 0;

	send_in(f, "q");
	while (!(in(f, LSR) & 1) && polls++ < 100)
		loop_turn(&f->t->vm.loop, 0);
	assert_in_range(polls, 10, 50);
	assert_int_equal(in(f, DATA), 'q');
}

static void wide_accesses_do_nothing(void **state)
{
	struct fixture *f = *state;
	u32 v = 0x41414141;

	bus_write(&f->t->vm, BUS_PIO, SCR - 3, &v, 4);
	bus_write(&f->t->vm, BUS_PIO, DATA, &v, 2);
	bus_read(&f->t->vm, BUS_PIO, DATA, &v, 2);
	assert_int_equal(v, 0x41410000);
	assert_int_equal(in(f, SCR), 0);
	assert_int_equal(in(f, LCR), 0);
}

/* What is in the file at path, up to size - 1 bytes. */
static void read_file(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, buf, size - 1);

	assert_true(n >= 0);
	buf[n] = '\0';
	close(fd);
}

static struct devtest *new_with(const char *path, struct cfg_bucket *limit)
{
	struct devtest *t = devtest_new();
	auto_free char *cfg = parsed("serial_out_path", path);

	memcpy(cfg + field("rate_limiter")->offset, &limit, sizeof(limit));
	devtest_add(t, &uart16550_class, cfg, &slot);
	return t;
}

static u64 counter(struct devtest *t, const char *name)
{
	for (const struct counter_desc *c = uart16550_class.counters; c->name; c++) {
		if (!strcmp(c->name, name))
			return *(u64 *)(void *)((char *)t->dev + c->offset);
	}
	fail_msg("no counter %s", name);
	return 0;
}

static void serial_out_path_is_not_emptied_but_written_over(void **state)
{
	char path[] = "/tmp/husk-uart-XXXXXX", text[32];
	int fd = mkstemp(path);
	struct devtest *t;

	(void)state;
	assert_int_equal(write(fd, "older text", 10), 10);
	close(fd);
	t = new_with(path, NULL);
	for (const char *p = "NEW"; *p; p++)
		devtest_out(t, DATA, (u8)*p);
	read_file(path, text, sizeof(text));
	assert_string_equal(text, "NEWer text");
	assert_int_equal(counter(t, "write_count"), 3);
	devtest_free(t);
	unlink(path);
}

static void a_limited_port_loses_what_is_too_much_and_counts_it(void **state)
{
	struct cfg_bucket limit = {.size = 100, .refill_time = 100000, .one_time_burst = 20};
	char path[] = "/tmp/husk-uart-XXXXXX", text[512];
	struct devtest *t;

	(void)state;
	close(mkstemp(path));
	t = new_with(path, &limit);
	for (u32 i = 0; i < 300; i++) {
		devtest_out(t, DATA, (u8)('a' + i % 26));
		assert_int_equal(devtest_in(t, LSR) & 0x60, 0x60); /* the guest never waits */
	}
	read_file(path, text, sizeof(text));
	/* A byte comes back each second. */
	assert_in_range(strlen(text), 120, 125);
	for (u32 i = 0; i < 120; i++)
		assert_int_equal(text[i], 'a' + i % 26);
	assert_int_equal(counter(t, "rate_limiter_dropped_bytes"), 300 - strlen(text));
	assert_int_equal(counter(t, "write_count"), strlen(text));
	devtest_free(t);
	unlink(path);
}

static void a_limited_port_gives_its_rate_again_after_a_flood(void **state)
{
	struct cfg_bucket limit = {.size = 1000, .refill_time = 100};
	char path[] = "/tmp/husk-uart-XXXXXX";
	u64 start, passed, ms;
	struct devtest *t;

	(void)state;
	close(mkstemp(path));
	t = new_with(path, &limit);
	start = clock_host_ns();
	do {
		devtest_out(t, DATA, 'x');
		ms = (clock_host_ns() - start) / NSEC_PER_MSEC;
	} while (ms < 300);
	passed = counter(t, "write_count");
	assert_in_range(passed, 1500, 1000 + 10 * (ms + 1));
	assert_true(counter(t, "rate_limiter_dropped_bytes") > 0);
	devtest_free(t);
	unlink(path);
}

static void a_limit_of_nothing_limits_nothing(void **state)
{
	struct cfg_bucket limits[] = {{.size = 0, .refill_time = 100}, {.size = 1, .refill_time = 0}};
	char path[] = "/tmp/husk-uart-XXXXXX";

	(void)state;
	close(mkstemp(path));
	for (u32 k = 0; k < ARRAY_SIZE(limits); k++) {
		struct devtest *t = new_with(path, &limits[k]);

		for (u32 i = 0; i < 1000; i++)
			devtest_out(t, DATA, 'x');
		assert_int_equal(counter(t, "write_count"), 1000);
		devtest_free(t);
	}
	unlink(path);
}

static void serial_out_path_is_a_file_and_excludes_a_mode(void **state)
{
	struct fixture *f = new_fixture("serial_out_path", "");
	auto_free char *both = parsed("serial_out_path", "/tmp/x");
	const char *mode = "null";
	struct err e;

	out(f, DATA, 'x');
	assert_int_equal(access(f->path, R_OK), 0);
	assert_int_equal(uart16550_class.check(both, &e), 0);
	memcpy(both + field("mode")->offset, &mode, sizeof(mode));
	assert_int_equal(uart16550_class.check(both, &e), -EINVAL);
	*state = f;
	teardown(state);
}

static void a_backend_that_cannot_open_fails_the_creation(void **state)
{
	struct devtest *t = devtest_new();
	auto_free void *cfg = parsed("mode", "file:/nonexistent/serial.log");
	struct err e = {0};

	(void)state;
	assert_int_equal(uart16550_class.create(&t->vm, &uart16550_class, cfg, &slot, &t->dev, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "/nonexistent/serial.log"));
	assert_false(bus_claimed(&t->vm, BUS_PIO, BASE));
	devtest_free(t);
}

#define WITH_FILE(test)	  cmocka_unit_test_setup_teardown(test, setup_file, teardown)
#define WITH_SOCKET(test) cmocka_unit_test_setup_teardown(test, setup_socket, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_FILE(a_reset_port_shows_the_values_of_the_data_sheet),
		WITH_FILE(linux_recognises_a_16550a),
		WITH_FILE(the_divisor_latch_lies_under_dlab),
		WITH_FILE(output_arrives_whole_and_in_order),
		WITH_SOCKET(the_last_lines_reach_a_slow_reader),
		WITH_FILE(an_empty_transmitter_interrupts_until_it_was_told),
		WITH_FILE(a_burst_of_output_moves_the_line_once),
		WITH_SOCKET(loopback_returns_the_output_and_keeps_it_from_the_line),
		WITH_FILE(loopback_wires_the_modem_outputs_to_the_inputs),
		WITH_FILE(a_change_of_a_modem_line_interrupts_until_msr_is_read),
		WITH_FILE(an_overrun_is_reported_once_and_before_all_else),
		WITH_FILE(without_the_fifo_a_new_byte_overwrites_the_old_one),
		WITH_FILE(the_trigger_level_tells_full_from_timed_out),
		WITH_FILE(fcr_clears_the_fifo_on_demand_and_when_switched),
		WITH_SOCKET(input_interrupts_and_is_read_back),
		WITH_SOCKET(input_longer_than_the_fifo_is_never_lost),
		WITH_SOCKET(input_flows_from_the_loop_thread_to_the_vcpu),
		WITH_SOCKET(early_input_waits_for_the_driver),
		WITH_SOCKET(a_guest_that_only_polls_gets_input_too),
		WITH_FILE(wide_accesses_do_nothing),
		cmocka_unit_test(serial_out_path_is_a_file_and_excludes_a_mode),
		cmocka_unit_test(serial_out_path_is_not_emptied_but_written_over),
		cmocka_unit_test(a_limited_port_loses_what_is_too_much_and_counts_it),
		cmocka_unit_test(a_limited_port_gives_its_rate_again_after_a_flood),
		cmocka_unit_test(a_limit_of_nothing_limits_nothing),
		cmocka_unit_test(a_backend_that_cannot_open_fails_the_creation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
