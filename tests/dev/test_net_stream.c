/* test_net_stream.c: the virtio network device on a stream socket, with the test or a real passt at the other end. */
#include "tests/dev/net_bench.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

struct stream {
	struct fixture *x;
	int listener;
	char dir[32], path[40];
};

static int setup(void **state)
{
	struct stream *s = calloc(1, sizeof(*s));

	*state = s;
	s->x = bench_new();
	s->listener = -1;
	strcpy(s->dir, "/tmp/husk-net-XXXXXX");
	if (!mkdtemp(s->dir) || chmod(s->dir, 0777) < 0) /* passt drops its privileges first */
		return -1;
	snprintf(s->path, sizeof(s->path), "%s/s", s->dir);
	return 0;
}

static int teardown(void **state)
{
	struct stream *s = *state;

	bench_free(s->x);
	close(s->listener);
	unlink(s->path);
	rmdir(s->dir);
	free(s);
	return 0;
}

/* The device connects to whoever listens on the path. */
static void stream_join(struct stream *s)
{
	s->x->cfg.passt_socket = s->path;
	bench_add(s->x);
	bench_run(s->x, FDRV_ALL_FEATURES);
}

/* The test plays the other end. */
static void stream_up(struct stream *s)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	strcpy(a.sun_path, s->path);
	s->listener = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(s->listener, (struct sockaddr *)&a, sizeof(a)) | listen(s->listener, 1), 0);
	stream_join(s);
	s->x->host = accept(s->listener, NULL, NULL);
}

static void stream_send(struct fixture *x, u32 len, u32 seed)
{
	u32 wire = htonl(len);

	memcpy(x->frame, &wire, 4);
	make_frame(x->frame + 4, len, seed);
	assert_int_equal(write(x->host, x->frame, 4 + len), 4 + len);
}

static void stream_expect(struct fixture *x, u32 len, u32 seed)
{
	u32 wire;

	make_frame(x->frame, len, seed);
	assert_int_equal(recv(x->host, &wire, 4, MSG_WAITALL), 4);
	assert_int_equal(ntohl(wire), len);
	assert_int_equal(recv(x->host, x->got, len, MSG_WAITALL), len);
	assert_memory_equal(x->got, x->frame, len);
}

static void a_stream_carries_frames_both_ways(void **state)
{
	struct stream *s = *state;
	struct fixture *x = s->x;

	stream_up(s);
	assert_false(x->d.features & (BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4)));
	post_rx(x, 0, 200, BUF_SIZE);
	for (u32 i = 0; i < 200; i++) {
		u32 len = 60 + (i * 7919) % 65000;

		tx_frame(x, len, i);
		stream_expect(x, len, i);
		stream_send(x, len, i);
		expect_frame(x, len, i, BUF_SIZE);
		assert_int_equal(x->got[0] | x->got[1], 0);
	}
}

static void a_burst_on_a_stream_keeps_its_order(void **state)
{
	struct stream *s = *state;
	struct fixture *x = s->x;

	stream_up(s);
	for (u32 i = 0; i < 100; i++) /* few reads, more than a batch */
		stream_send(x, 100 + i, i);
	post_rx(x, 0, 256, BUF_SIZE);
	for (u32 i = 0; i < 100; i++)
		expect_frame(x, 100 + i, i, 0);
}

static void a_stream_in_crumbs_is_put_together(void **state)
{
	struct stream *s = *state;
	struct fixture *x = s->x;
	u32 wire = htonl(300);

	stream_up(s);
	post_rx(x, 0, 20, BUF_SIZE);
	make_frame(x->frame, 300, 1);
	for (u32 i = 0; i < 4; i++) {
		assert_int_equal(write(x->host, (u8 *)&wire + i, 1), 1);
		usleep(1000);
	}
	for (u32 i = 0; i < 300; i += 30) {
		assert_int_equal(write(x->host, x->frame + i, 30), 30);
		usleep(1000);
	}
	expect_frame(x, 300, 1, 0);
}

static void a_slow_reader_of_a_stream_gets_everything(void **state)
{
	struct stream *s = *state;
	struct fixture *x = s->x;
	struct fbuf out[40];

	stream_up(s);
	for (u32 i = 0; i < ARRAY_SIZE(out); i++) { /* far more than the socket holds */
		out[i] = (struct fbuf){fake_vm_alloc(&x->f, NET_HDR_LEN + BIG, 1), NET_HDR_LEN + BIG};
		make_frame(fake_vm_ptr(&x->f, out[i].gpa + NET_HDR_LEN, BIG), BIG, i);
		assert_true(fdrv_add(&x->d, 1, &out[i], 1, NULL, 0, token_of(i + 1)));
	}
	fdrv_kick(&x->d, 1);
	usleep(50000);
	assert_true(counters(x)->tx_frames < ARRAY_SIZE(out));
	for (u32 i = 0; i < ARRAY_SIZE(out); i++)
		stream_expect(x, BIG, i);
	for (u32 i = 0; i < ARRAY_SIZE(out); i++)
		assert_true(fdrv_wait_used(&x->d, 1, NULL, NULL, WAIT_MS));
	assert_int_equal(counters(x)->tx_frames, ARRAY_SIZE(out));
	assert_int_equal(counters(x)->tx_drops, 0);
}

static void a_closed_stream_takes_the_link_down(void **state)
{
	struct stream *s = *state;
	struct fixture *x = s->x;

	stream_up(s);
	post_rx(x, 0, 2, BUF_SIZE);
	stream_send(x, 100, 1);
	close(x->host);
	x->host = -1;
	expect_frame(x, 100, 1, 0);
	expect_link_down(x);
	tx_frame(x, 100, 1);
	assert_int_equal(counters(x)->tx_drops, 1);
}

static void a_stream_out_of_step_takes_the_link_down(void **state)
{
	struct stream *s = *state;
	struct fixture *x = s->x;

	stream_up(s);
	post_rx(x, 0, 2, BUF_SIZE);
	assert_int_equal(write(x->host, "\xff\xff\xff\xff....", 8), 8);
	expect_link_down(x);
}

static void a_socket_without_listener_is_refused(void **state)
{
	struct stream *s = *state;
	struct fixture *x = s->x;

	x->cfg.passt_socket = (char *)"/tmp/husk-no-such-socket";
	refuse(x, -ENOENT, "start `passt --socket");
}

/* An ARP request for the gateway of 192.0.2.0/24, which passt plays. */
static void make_arp(u8 *p)
{
	static const u8 arp[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0,  0, 0, 0, 1, 8, 6, 0, 1, 8, 0,  6, 4, 0,
				 1,    2,    0,	   0,	 0,    0,    1, 10, 1, 1, 2, 0, 0, 0, 0, 0, 0, 10, 1, 1, 1};

	memset(p, 0, 60);
	memcpy(p, arp, sizeof(arp));
}

static void passt_answers(void **state)
{
	struct stream *s = *state;
	struct fixture *x = s->x;
	pid_t pid = fork();
	struct virtio_net_hdr_v1 h = {0};

	if (!pid) {
		int null = open("/dev/null", O_RDWR);

		dup2(null, 1);
		dup2(null, 2);
		execlp("passt", "passt", "--foreground", "--one-off", "--socket", s->path, "--address", "10.1.1.2", "--gateway", "10.1.1.1",
		       "--ipv4-only", NULL);
		_exit(127);
	}
	for (int i = 0; i < 500 && access(s->path, F_OK) < 0 && waitpid(pid, NULL, WNOHANG) == 0; i++)
		usleep(10000);
	usleep(100000); /* bound, soon listening */
	if (access(s->path, F_OK) < 0) {
		kill(pid, SIGTERM);
		print_message("# passt is not installed or does not start here\n");
		skip();
	}
	stream_join(s);
	post_rx(x, 0, 20, BUF_SIZE);
	make_arp(fake_vm_ptr(&x->f, x->tx + NET_HDR_LEN, 60));
	tx_raw(x, 0, &h, 60);
	for (;;) {
		assert_true(rx_frame(x, 0, BUF_SIZE) >= 42);
		if (x->got[NET_HDR_LEN + 13] == 6 && x->got[NET_HDR_LEN + 21] == 2)
			break; /* an ARP reply, from the gateway's address */
	}
	assert_memory_equal(x->got + NET_HDR_LEN + 28, "\x0a\1\1\1", 4);
	kill(pid, SIGTERM);
	waitpid(pid, NULL, 0);
	expect_link_down(x);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_stream_carries_frames_both_ways),    TEST(a_burst_on_a_stream_keeps_its_order),
		TEST(a_stream_in_crumbs_is_put_together),   TEST(a_slow_reader_of_a_stream_gets_everything),
		TEST(a_closed_stream_takes_the_link_down),  TEST(a_stream_out_of_step_takes_the_link_down),
		TEST(a_socket_without_listener_is_refused), TEST(passt_answers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
