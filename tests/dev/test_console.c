/* test_console.c: the virtio console on real character backends. */
#include "tests/unit/cm.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/dev/saved.h"
#include "vmm/chr.h"

extern const struct device_class virtio_console_class;

#define WAIT_MS 5000u

struct console_cfg { /* as in console.c */
	char *mode;
};

struct fixture {
	struct fake_vm f;
	struct fdrv d;
	struct device *dev;
	struct console_cfg cfg;
	char dir[32];
	int peer;
	u64 mem; /* guest address, 64 KiB */
};

static int setup(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));

	*state = x;
	x->peer = -1;
	strcpy(x->dir, "/tmp/husk-con-XXXXXX");
	fake_vm_init(&x->f, FAKE_VM_QUIET);
	x->mem = fake_vm_alloc(&x->f, 64 * KIB, 4096);
	if (!mkdtemp(x->dir))
		return -1;
	x->cfg.mode = xasprintf("unix:%s/s", x->dir);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;

	close(x->peer);
	fake_vm_fini(&x->f);
	rmdir(x->dir);
	free(x->cfg.mode);
	free(x);
	return 0;
}

static void join(struct fixture *x)
{
	struct timeval timeout = {.tv_sec = 5};
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	snprintf(a.sun_path, sizeof(a.sun_path), "%s/s", x->dir);
	x->peer = socket(AF_UNIX, SOCK_STREAM, 0);
	setsockopt(x->peer, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	assert_int_equal(connect(x->peer, (struct sockaddr *)&a, sizeof(a)), 0);
}

static void up(struct fixture *x, u64 features)
{
	x->dev = fake_vm_add(&x->f, &virtio_console_class, &x->cfg);
	fake_vm_start(&x->f);
	fdrv_up(&x->d, &x->f, x->dev, features, 2, 64);
}

static void put(struct fixture *x, u32 at, const char *text)
{
	memcpy(fake_vm_ptr(&x->f, x->mem + at, strlen(text)), text, strlen(text));
}

static void expect_output(struct fixture *x, const char *text)
{
	char buf[256] = "";

	assert_int_equal(recv(x->peer, buf, strlen(text), MSG_WAITALL), strlen(text));
	assert_string_equal(buf, text);
}

static void post_input(struct fixture *x, u32 at, u32 len)
{
	struct fbuf in = {x->mem + at, len};

	assert_true(fdrv_add(&x->d, 0, NULL, 0, &in, 1, NULL));
	fdrv_kick(&x->d, 0);
}

static void expect_input(struct fixture *x, u32 at, const char *text)
{
	u32 len;

	assert_true(fdrv_wait_used(&x->d, 0, NULL, &len, WAIT_MS));
	assert_int_equal(len, strlen(text));
	assert_memory_equal(fake_vm_ptr(&x->f, x->mem + at, len), text, len);
}

static void output_of_any_shape_arrives_in_order(void **state)
{
	struct fixture *x = *state;
	struct fbuf out[3] = {{x->mem, 1}, {x->mem + 1, 4}, {x->mem + 5, 7}};

	up(x, FDRV_ALL_FEATURES);
	put(x, 0, "Hello, guest");
	fdrv_request(&x->d, 1, out, 3, NULL, 0); /* before anybody listens */
	join(x);
	expect_output(x, "Hello, guest");
	for (u32 i = 0; i < 500; i++) {
		char text[16];

		snprintf(text, sizeof(text), "line %u\r\n", i);
		put(x, 0, text);
		out[0].len = (u32)strlen(text);
		fdrv_request(&x->d, 1, out, 1, NULL, 0);
		expect_output(x, text);
	}
}

static void input_waits_for_buffers(void **state)
{
	struct fixture *x = *state;

	up(x, FDRV_ALL_FEATURES);
	join(x);
	assert_int_equal(write(x->peer, "ls -l\r", 6), 6);
	assert_false(fdrv_wait_used(&x->d, 0, NULL, NULL, 50));
	post_input(x, 0, 4);
	expect_input(x, 0, "ls -");
	post_input(x, 0, 100);
	expect_input(x, 0, "l\r");
	post_input(x, 0, 3);
	post_input(x, 10, 3);
	assert_int_equal(write(x->peer, "abcde", 5), 5);
	expect_input(x, 0, "abc");
	expect_input(x, 10, "de");
}

static void much_input_arrives_whole(void **state)
{
	struct fixture *x = *state;
	static u8 in[50000];
	u32 got = 0, len;

	for (u32 i = 0; i < sizeof(in); i++)
		in[i] = (u8)(i * 7 + i / 256);
	up(x, ~FDRV_PACKED);
	join(x);
	post_input(x, 0, 1000);
	assert_int_equal(write(x->peer, in, sizeof(in)), sizeof(in));
	while (got < sizeof(in)) {
		assert_true(fdrv_wait_used(&x->d, 0, NULL, &len, WAIT_MS));
		assert_memory_equal(fake_vm_ptr(&x->f, x->mem, len), in + got, len);
		got += len;
		post_input(x, 0, 1000);
	}
}

static void buffers_without_room_or_content_do_no_harm(void **state)
{
	struct fixture *x = *state;
	struct fbuf b = {x->mem, 8};

	up(x, FDRV_ALL_FEATURES);
	join(x);
	fdrv_request(&x->d, 1, NULL, 0, &b, 1); /* nothing to send */
	assert_true(fdrv_add(&x->d, 0, &b, 1, NULL, 0, NULL));
	fdrv_kick(&x->d, 0);
	assert_int_equal(write(x->peer, "x", 1), 1);
	assert_true(fdrv_wait_used(&x->d, 0, NULL, NULL, WAIT_MS));
	post_input(x, 0, 8);
	expect_input(x, 0, "x");
}

static void a_reset_keeps_what_was_typed(void **state)
{
	struct fixture *x = *state;

	up(x, FDRV_ALL_FEATURES);
	join(x);
	post_input(x, 0, 8);
	fdrv_sync(&x->d);
	assert_true(fdrv_reset(&x->d, WAIT_MS));
	assert_int_equal(write(x->peer, "typed", 5), 5);
	usleep(20000);
	fdrv_up(&x->d, &x->f, x->dev, FDRV_ALL_FEATURES, 2, 64);
	post_input(x, 0, 8);
	expect_input(x, 0, "typed");
}

static void a_stalled_reader_never_stalls_the_guest(void **state)
{
	struct fixture *x = *state;
	struct fbuf out = {x->mem, 64 * KIB};

	up(x, FDRV_ALL_FEATURES);
	join(x);
	for (int i = 0; i < 100; i++)
		fdrv_request(&x->d, 1, &out, 1, NULL, 0); /* dies when one takes 5 s */
}

static void resize(int slave, u16 cols, u16 rows)
{
	struct winsize w = {.ws_col = cols, .ws_row = rows};

	assert_return_code(ioctl(slave, TIOCSWINSZ, &w), 0);
}

/* Standard input and output are this terminal for a while. */
static void borrow_terminal(int slave, int saved[2])
{
	for (int i = 0; i < 2; i++) {
		saved[i] = dup(i);
		dup2(slave, i);
	}
}

static void return_terminal(const int saved[2])
{
	for (int i = 0; i < 2; i++) {
		dup2(saved[i], i);
		close(saved[i]);
	}
}

/* A device on a terminal of that size; returns the terminal, x->peer holds its master. */
static int terminal_up(struct fixture *x, u16 cols, u16 rows)
{
	int slave, saved[2];

	x->peer = posix_openpt(O_RDWR | O_NOCTTY);
	assert_int_equal(grantpt(x->peer) | unlockpt(x->peer), 0);
	slave = open(ptsname(x->peer), O_RDWR | O_NOCTTY);
	resize(slave, cols, rows);
	borrow_terminal(slave, saved);
	free(x->cfg.mode);
	x->cfg.mode = xstrdup("stdio");
	x->dev = fake_vm_add(&x->f, &virtio_console_class, &x->cfg);
	return_terminal(saved);
	fake_vm_start(&x->f);
	fdrv_up(&x->d, &x->f, x->dev, FDRV_ALL_FEATURES, 2, 64);
	return slave;
}

static void the_terminal_size_is_shown(void **state)
{
	struct fixture *x = *state;

	close(terminal_up(x, 132, 50));
	assert_true(x->d.features & 1);
	assert_int_equal(fdrv_config16(&x->d, 0), 132);
	assert_int_equal(fdrv_config16(&x->d, 2), 50);
	assert_int_equal(fdrv_config32(&x->d, 4), 1);
}

static void a_socket_has_no_size(void **state)
{
	struct fixture *x = *state;

	up(x, FDRV_ALL_FEATURES);
	assert_false(x->d.features & 1);
}

/* ---- moves ---- */

/* Another VM with the same memory goes on; mode: where its console is. */
static void hop(struct fixture *x, char *mode)
{
	struct err e = {0};
	struct saved s;

	if (saved_take(&s, &x->f, x->dev, &e) < 0)
		fail_msg("not saved: %s", e.msg);
	fake_vm_fini(&x->f);
	free(x->cfg.mode);
	x->cfg.mode = mode;
	fake_vm_init(&x->f, FAKE_VM_QUIET);
	x->f.vm.origin = VM_RESTORED;
	x->dev = fake_vm_add(&x->f, &virtio_console_class, &x->cfg);
	saved_memory(&s, &x->f);
	fdrv_move(&x->d, &x->f, x->dev);
	if (saved_put(&s, &x->f, x->dev, &e) < 0)
		fail_msg("not loaded: %s", e.msg);
	saved_free(&s);
	fake_vm_start(&x->f);
	saved_resume(&x->f, x->dev);
}

static void a_console_goes_on_after_a_move(void **state)
{
	struct fixture *x = *state;
	struct fbuf out = {x->mem + 4096, 5};

	up(x, FDRV_ALL_FEATURES);
	join(x);
	post_input(x, 0, 8);
	put(x, 4096, "again");
	for (u32 i = 0; i < 5; i++) {
		fdrv_sync(&x->d);
		assert_true(fdrv_add(&x->d, 1, &out, 1, NULL, 0, NULL)); /* without a kick */
		hop(x, xstrdup(x->cfg.mode));
		close(x->peer);
		join(x);
		expect_output(x, "again");
		assert_true(fdrv_wait_used(&x->d, 1, NULL, NULL, WAIT_MS));
		assert_int_equal(write(x->peer, "typed", 5), 5);
		expect_input(x, 0, "typed");
		post_input(x, 0, 8);
	}
}

static void input_does_not_reach_a_saved_console(void **state)
{
	struct fixture *x = *state;
	struct saved s;

	up(x, FDRV_ALL_FEATURES);
	join(x);
	post_input(x, 0, 8);
	assert_return_code(saved_take(&s, &x->f, x->dev, NULL), 0);
	assert_int_equal(write(x->peer, "typed", 5), 5);
	assert_false(fdrv_wait_used(&x->d, 0, NULL, NULL, 50));
	saved_resume(&x->f, x->dev);
	expect_input(x, 0, "typed");
	saved_free(&s);
}

static void the_size_of_before_stays_without_a_terminal(void **state)
{
	struct fixture *x = *state;
	char *socket_mode = xstrdup(x->cfg.mode);
	int slave = terminal_up(x, 132, 50);

	close(slave);
	hop(x, socket_mode);
	assert_int_equal(fdrv_config16(&x->d, 0), 132);
	assert_int_equal(fdrv_config16(&x->d, 2), 50);
	assert_false(fdrv_isr(&x->d) & VIRTIO_ISR_CONFIG);
}

static void another_size_is_told(void **state)
{
	struct fixture *x = *state;
	int slave = terminal_up(x, 132, 50), saved[2];

	resize(slave, 80, 24);
	borrow_terminal(slave, saved);
	hop(x, xstrdup("stdio"));
	return_terminal(saved);
	assert_true(fdrv_isr(&x->d) & VIRTIO_ISR_CONFIG);
	assert_int_equal(fdrv_config16(&x->d, 0), 80);
	assert_int_equal(fdrv_config16(&x->d, 2), 24);
	close(slave);
}

static void a_bad_path_is_reported(void **state)
{
	struct fixture *x = *state;
	struct console_cfg bad = {(char *)"file:/nonexistent/x"};
	struct err e;

	assert_null(fake_vm_add_err(&x->f, &virtio_console_class, &bad, &e));
	assert_non_null(strstr(e.msg, "/nonexistent/x"));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(output_of_any_shape_arrives_in_order),
		TEST(input_waits_for_buffers),
		TEST(much_input_arrives_whole),
		TEST(buffers_without_room_or_content_do_no_harm),
		TEST(a_reset_keeps_what_was_typed),
		TEST(a_stalled_reader_never_stalls_the_guest),
		TEST(the_terminal_size_is_shown),
		TEST(a_socket_has_no_size),
		TEST(a_console_goes_on_after_a_move),
		TEST(input_does_not_reach_a_saved_console),
		TEST(the_size_of_before_stays_without_a_terminal),
		TEST(another_size_is_told),
		TEST(a_bad_path_is_reported),
	};

	signal(SIGPIPE, SIG_IGN); /* as main does */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
