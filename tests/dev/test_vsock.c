/* test_vsock.c: the vsock device between a driver and unix sockets: connections both ways, credit, closing, and packets that no driver
 * sends. */
#include "tests/unit/cm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/dev/fake_driver.h"
#include "virtio/vsock_dev.h"

extern const struct device_class virtio_vsock_class;

#define CID	 42u
#define RXQ	 0
#define TXQ	 1
#define RX_SIZE	 4096u
#define WAIT_MS	 5000u
#define QUIET_MS 100u

struct bench {
	struct fake_vm f;
	struct fdrv d;
	struct vsock_cfg cfg;
	struct device *dev;
	char dir[32], path[64];
	u64 tx;	     /* guest address of a packet to send, 128 KiB */
	u32 fwd_cnt; /* what the guest says of the connection under test */
	u32 alloc;
	u8 data[64 * KIB]; /* of the last packet received */
};

static void bench_make(struct bench *b)
{
	memset(b, 0, sizeof(*b));
	snprintf(b->dir, sizeof(b->dir), "/tmp/husk-vsock-XXXXXX");
	assert_non_null(mkdtemp(b->dir));
	snprintf(b->path, sizeof(b->path), "%s/v", b->dir);
	b->cfg = (struct vsock_cfg){.guest_cid = CID, .uds_path = b->path};
	b->alloc = 256 * KIB;
	fake_vm_init(&b->f, FAKE_VM_QUIET);
	b->tx = fake_vm_alloc(&b->f, 128 * KIB, 4096);
	b->dev = fake_vm_add(&b->f, &virtio_vsock_class, &b->cfg);
}

static void post_rx(struct bench *b, u32 nr, u32 size)
{
	for (u32 i = 0; i < nr; i++) {
		struct fbuf in = {fake_vm_alloc(&b->f, size, 1), size};

		assert_true(fdrv_add(&b->d, RXQ, NULL, 0, &in, 1, (void *)(uintptr_t)in.gpa));
	}
	fdrv_kick(&b->d, RXQ);
}

static void bench_up(struct bench *b, u64 features)
{
	bench_make(b);
	fake_vm_start(&b->f);
	fdrv_up(&b->d, &b->f, b->dev, features, 3, 256);
	post_rx(b, 64, RX_SIZE);
}

static void bench_down(struct bench *b)
{
	struct stat st;

	fake_vm_fini(&b->f);
	assert_int_equal(stat(b->path, &st), -1); /* the device removes its socket */
	assert_int_equal(rmdir(b->dir), 0);
}

/* ---- the driver's side ---- */

static void send_raw(struct bench *b, const struct fbuf *out, u16 nr)
{
	u32 len;

	assert_true(fdrv_add(&b->d, TXQ, out, nr, NULL, 0, NULL));
	fdrv_kick(&b->d, TXQ);
	assert_true(fdrv_wait_used(&b->d, TXQ, NULL, &len, WAIT_MS));
	assert_int_equal(len, 0);
}

static struct virtio_vsock_hdr make(struct bench *b, u16 op, u32 host_port, u32 guest_port, u32 len)
{
	return (struct virtio_vsock_hdr){
		.src_cid = CID,
		.dst_cid = VSOCK_HOST_CID,
		.src_port = guest_port,
		.dst_port = host_port,
		.len = len,
		.type = VIRTIO_VSOCK_TYPE_STREAM,
		.op = op,
		.buf_alloc = b->alloc,
		.fwd_cnt = b->fwd_cnt,
	};
}

static void send_hdr(struct bench *b, const struct virtio_vsock_hdr *h, const void *data, u32 len)
{
	struct fbuf out[2] = {{b->tx, VSOCK_HDR_LEN}, {b->tx + VSOCK_HDR_LEN, len}};

	memcpy(fake_vm_ptr(&b->f, b->tx, VSOCK_HDR_LEN), h, VSOCK_HDR_LEN);
	if (data && len)
		memcpy(fake_vm_ptr(&b->f, b->tx + VSOCK_HDR_LEN, len), data, len);
	send_raw(b, out, len ? 2 : 1);
}

static void guest_send(struct bench *b, u16 op, u32 host_port, u32 guest_port, const void *data, u32 len)
{
	struct virtio_vsock_hdr h = make(b, op, host_port, guest_port, len);

	send_hdr(b, &h, data, len);
}

static void guest_shut(struct bench *b, u32 host_port, u32 guest_port, u32 flags)
{
	struct virtio_vsock_hdr h = make(b, VIRTIO_VSOCK_OP_SHUTDOWN, host_port, guest_port, 0);

	h.flags = flags;
	send_hdr(b, &h, NULL, 0);
}

/* The next packet from the device; its data is in b->data. Its buffer goes back. */
static bool next_packet(struct bench *b, struct virtio_vsock_hdr *h, u32 timeout_ms)
{
	void *token;
	u32 len;
	u64 gpa;

	if (!fdrv_wait_used(&b->d, RXQ, &token, &len, timeout_ms))
		return false;
	gpa = (u64)(uintptr_t)token;
	assert_true(len >= VSOCK_HDR_LEN && len <= RX_SIZE);
	memcpy(h, fake_vm_ptr(&b->f, gpa, len), VSOCK_HDR_LEN);
	memcpy(b->data, fake_vm_ptr(&b->f, gpa + VSOCK_HDR_LEN, len - VSOCK_HDR_LEN), len - VSOCK_HDR_LEN);
	assert_int_equal(h->len, len - VSOCK_HDR_LEN);
	assert_int_equal(h->dst_cid, CID);
	struct fbuf in = {gpa, RX_SIZE};

	assert_true(fdrv_add(&b->d, RXQ, NULL, 0, &in, 1, token));
	fdrv_kick(&b->d, RXQ);
	return true;
}

static struct virtio_vsock_hdr expect(struct bench *b, u16 op, u32 host_port, u32 guest_port)
{
	struct virtio_vsock_hdr h;

	if (!next_packet(b, &h, WAIT_MS))
		fail_msg("no packet, expected op %u", op);
	assert_int_equal(h.op, op);
	assert_int_equal(h.src_cid, VSOCK_HOST_CID);
	assert_int_equal(h.src_port, host_port);
	assert_int_equal(h.dst_port, guest_port);
	assert_int_equal(h.type, VIRTIO_VSOCK_TYPE_STREAM);
	return h;
}

static void expect_nothing(struct bench *b)
{
	struct virtio_vsock_hdr h;

	if (next_packet(b, &h, QUIET_MS))
		fail_msg("an unexpected packet, op %u", h.op);
}

/* ---- the host's side ---- */

static int unix_socket(const char *path, bool server)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct timeval patience = {.tv_sec = WAIT_MS / 1000};

	memcpy(addr.sun_path, path, strlen(path));
	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (server) {
		assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
		assert_int_equal(listen(fd, 4096), 0);
	} else {
		assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	}
	return fd;
}

static int serve_port(struct bench *b, u32 port, char *path)
{
	sprintf(path, "%s_%u", b->path, port);
	return unix_socket(path, true);
}

static void host_write(int fd, const void *data, size_t len)
{
	assert_int_equal(fd_write_all(fd, data, len), 0);
}

static void host_read(int fd, void *data, size_t len)
{
	assert_int_equal(fd_read_all(fd, data, len), 0);
}

static void expect_end(int fd)
{
	char c;

	assert_int_equal(recv(fd, &c, 1, 0), 0);
}

/* The same, or ECONNRESET where something was left unread. */
static void expect_left(int fd)
{
	char c;
	ssize_t n = recv(fd, &c, 1, 0);

	assert_true(n == 0 || (n < 0 && errno == ECONNRESET));
}

/* A connection that the guest made to port 52 of the host, from its port 1024; returns the program's end of it. */
static int guest_connect(struct bench *b, u32 guest_port)
{
	char path[96];
	int server = serve_port(b, 52, path), fd;

	guest_send(b, VIRTIO_VSOCK_OP_REQUEST, 52, guest_port, NULL, 0);
	expect(b, VIRTIO_VSOCK_OP_RESPONSE, 52, guest_port);
	fd = accept(server, NULL, NULL);
	assert_true(fd >= 0);
	close(server);
	unlink(path);
	struct timeval patience = {.tv_sec = WAIT_MS / 1000};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

/* A connection that the host made to port 7 of the guest. */
static int host_connect(struct bench *b, u32 *port)
{
	int fd = unix_socket(b->path, false), n;
	struct virtio_vsock_hdr h;
	char line[32] = "", want[32];

	host_write(fd, "CONNECT 7\n", 10);
	assert_true(next_packet(b, &h, WAIT_MS));
	assert_int_equal(h.op, VIRTIO_VSOCK_OP_REQUEST);
	assert_int_equal(h.dst_port, 7);
	*port = h.src_port;
	guest_send(b, VIRTIO_VSOCK_OP_RESPONSE, *port, 7, NULL, 0);
	n = snprintf(want, sizeof(want), "OK %u\n", *port);
	host_read(fd, line, (size_t)n);
	assert_string_equal(line, want);
	return fd;
}

static void fill(u8 *p, u32 len, u32 seed)
{
	for (u32 i = 0; i < len; i++) {
		seed = seed * 1664525 + 1013904223;
		p[i] = (u8)(seed >> 24);
	}
}

static u64 counter(struct bench *b, const char *name)
{
	for (const struct counter_desc *c = b->dev->cls->counters; c->name; c++) {
		if (!strcmp(c->name, name))
			return __atomic_load_n((u64 *)(void *)((char *)b->dev + c->offset), __ATOMIC_RELAXED);
	}
	fail_msg("no counter %s", name);
	return 0;
}

static const u64 layouts[] = {FDRV_VERSION_1, FDRV_ALL_FEATURES & ~FDRV_PACKED, FDRV_ALL_FEATURES};

/* ---- tests ---- */

static void identity_is_that_of_a_socket_device(void **state)
{
	struct bench b;

	(void)state;
	bench_up(&b, FDRV_ALL_FEATURES);
	assert_int_equal(fdrv_read(&b.d, MMIO_DEVICE_ID), 19);
	assert_int_equal(fdrv_config64(&b.d, 0), CID);
	fdrv_write(&b.d, MMIO_QUEUE_SEL, 2);
	assert_int_not_equal(fdrv_read(&b.d, MMIO_QUEUE_NUM_MAX), 0);
	fdrv_write(&b.d, MMIO_QUEUE_SEL, 3);
	assert_int_equal(fdrv_read(&b.d, MMIO_QUEUE_NUM_MAX), 0);
	bench_down(&b);
}

static void a_host_program_connects_to_a_port_of_the_guest(void **state)
{
	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(layouts); i++) {
		struct bench b;
		u32 port, other;
		char got[6];
		int fd, fd2;

		bench_up(&b, layouts[i]);
		fd = host_connect(&b, &port);
		fd2 = host_connect(&b, &other);
		assert_true(port >= VSOCK_FIRST_PORT && port != other);
		host_write(fd, "hello", 5);
		assert_int_equal(expect(&b, VIRTIO_VSOCK_OP_RW, port, 7).len, 5);
		assert_memory_equal(b.data, "hello", 5);
		guest_send(&b, VIRTIO_VSOCK_OP_RW, other, 7, "other!", 6);
		guest_send(&b, VIRTIO_VSOCK_OP_RW, port, 7, "world!", 6);
		host_read(fd, got, 6);
		assert_memory_equal(got, "world!", 6);
		host_read(fd2, got, 6);
		assert_memory_equal(got, "other!", 6);
		assert_int_equal(counter(&b, "conns_added"), 2);
		assert_int_equal(counter(&b, "rx_bytes_count"), 5);
		assert_int_equal(counter(&b, "tx_bytes_count"), 12);
		close(fd);
		close(fd2);
		bench_down(&b);
	}
}

static void the_guest_connects_to_a_program_of_the_host(void **state)
{
	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(layouts); i++) {
		struct bench b;
		char got[4];
		int fd;

		bench_up(&b, layouts[i]);
		fd = guest_connect(&b, 1024);
		guest_send(&b, VIRTIO_VSOCK_OP_RW, 52, 1024, "ping", 4);
		host_read(fd, got, 4);
		assert_memory_equal(got, "ping", 4);
		host_write(fd, "pong", 4);
		assert_int_equal(expect(&b, VIRTIO_VSOCK_OP_RW, 52, 1024).len, 4);
		assert_memory_equal(b.data, "pong", 4);
		guest_send(&b, VIRTIO_VSOCK_OP_RST, 52, 1024, NULL, 0);
		expect_end(fd);
		close(fd);
		guest_send(&b, VIRTIO_VSOCK_OP_REQUEST, 53, 1024, NULL, 0); /* nobody there */
		expect(&b, VIRTIO_VSOCK_OP_RST, 53, 1024);
		bench_down(&b);
	}
}

static void connect_lines_may_come_in_pieces_and_with_data_behind(void **state)
{
	static const char *const lines[] = {"CONNECT 7\nhello", "connect 7\r\nhello", "CoNNecT   0007 \nhello"};
	struct virtio_vsock_hdr h;
	struct bench b;

	(void)state;
	bench_up(&b, FDRV_ALL_FEATURES);
	for (u32 i = 0; i < ARRAY_SIZE(lines); i++) {
		int fd = unix_socket(b.path, false);
		char ok[3];

		host_write(fd, lines[i], 4);
		expect_nothing(&b);
		host_write(fd, lines[i] + 4, strlen(lines[i]) - 4);
		assert_true(next_packet(&b, &h, WAIT_MS));
		assert_int_equal(h.op, VIRTIO_VSOCK_OP_REQUEST);
		assert_int_equal(h.dst_port, 7);
		expect_nothing(&b);
		guest_send(&b, VIRTIO_VSOCK_OP_RESPONSE, h.src_port, 7, NULL, 0);
		assert_int_equal(expect(&b, VIRTIO_VSOCK_OP_RW, h.src_port, 7).len, 5);
		assert_memory_equal(b.data, "hello", 5);
		host_read(fd, ok, 3);
		assert_memory_equal(ok, "OK ", 3);
		close(fd);
		expect(&b, VIRTIO_VSOCK_OP_SHUTDOWN, h.src_port, 7);
		guest_send(&b, VIRTIO_VSOCK_OP_RST, h.src_port, 7, NULL, 0);
		while (next_packet(&b, &h, QUIET_MS))
			; /* the second half of the shutdown */
	}
	bench_down(&b);
}

static void a_client_without_a_right_line_is_left_without_a_word(void **state)
{
	static const char *const wrong[] = {"\n",
					    "CONNECT\n",
					    "CONNECT \n",
					    "CONNECT x\n",
					    "CONNECT -1\n",
					    "CONNECT 7 8\n",
					    "CONNECT 4294967296\n",
					    "CONNECT 99999999999999999999\n",
					    "CONNECTS 7\n",
					    "GET / HTTP/1.1\n",
					    "CONNECT 0000000000000000000000000000007\n",
					    "no newline within thirty-two bytes"};
	struct bench b;

	(void)state;
	bench_up(&b, FDRV_ALL_FEATURES);
	for (u32 i = 0; i < ARRAY_SIZE(wrong); i++) {
		int fd = unix_socket(b.path, false);

		host_write(fd, wrong[i], strlen(wrong[i]));
		expect_left(fd);
		close(fd);
	}
	int fd = unix_socket(b.path, false);

	host_write(fd, "CONNECT 7\0\n", 11);
	expect_end(fd);
	close(fd);
	fd = unix_socket(b.path, false);
	close(fd);
	expect_nothing(&b);
	assert_int_equal(counter(&b, "conns_removed"), ARRAY_SIZE(wrong) + 2);
	bench_down(&b);
}

static void who_does_not_answer_is_left_after_two_seconds(void **state)
{
	struct virtio_vsock_hdr h;
	struct bench b;

	(void)state;
	bench_up(&b, FDRV_ALL_FEATURES);
	int silent = unix_socket(b.path, false), half = unix_socket(b.path, false), asks = unix_socket(b.path, false);

	host_write(half, "CONN", 4);
	host_write(asks, "CONNECT 9\n", 10);
	assert_true(next_packet(&b, &h, WAIT_MS)); /* and the guest says nothing */
	expect_nothing(&b);
	expect_end(silent);
	expect_left(half);
	expect(&b, VIRTIO_VSOCK_OP_RST, h.src_port, 9);
	expect_end(asks);
	close(silent);
	close(half);
	close(asks);
	bench_down(&b);
}

static void a_guest_that_refuses_ends_the_clients_connection(void **state)
{
	struct virtio_vsock_hdr h;
	struct bench b;

	(void)state;
	bench_up(&b, FDRV_ALL_FEATURES);
	int fd = unix_socket(b.path, false);

	host_write(fd, "CONNECT 9\n", 10);
	assert_true(next_packet(&b, &h, WAIT_MS));
	guest_send(&b, VIRTIO_VSOCK_OP_RST, h.src_port, 9, NULL, 0);
	expect_end(fd);
	close(fd);
	expect_nothing(&b);
	bench_down(&b);
}

/* 200 KiB each way: larger than the socket's buffers, the credit and the receive buffers. */
static void much_data_arrives_whole_and_in_order(void **state)
{
	static u8 sent[200 * KIB], got[200 * KIB];
	u32 len = sizeof(sent);

	(void)state;
	fill(sent, len, 1);
	for (u32 i = 0; i < ARRAY_SIZE(layouts); i++) {
		struct bench b;
		u32 port, at = 0;
		int fd;

		bench_up(&b, layouts[i]);
		fd = host_connect(&b, &port);
		for (; at < len; at += 10 * KIB) {
			guest_send(&b, VIRTIO_VSOCK_OP_RW, port, 7, sent + at, 10 * KIB);
			host_read(fd, got + at, 10 * KIB);
		}
		assert_memory_equal(sent, got, len);
		fcntl(fd, F_SETFL, O_NONBLOCK);
		for (u32 out = at = 0; at < len;) {
			struct virtio_vsock_hdr h;
			ssize_t n = out < len ? write(fd, sent + out, MIN(len - out, 17000u)) : 0;

			out += (u32)MAX(n, 0);
			while (next_packet(&b, &h, out < len ? 1 : WAIT_MS)) {
				if (h.op != VIRTIO_VSOCK_OP_RW)
					continue;
				memcpy(got + at, b.data, h.len);
				at += h.len;
				b.fwd_cnt += h.len;
				if (at == len)
					break;
			}
			guest_send(&b, VIRTIO_VSOCK_OP_CREDIT_UPDATE, port, 7, NULL, 0);
		}
		assert_memory_equal(sent, got, len);
		close(fd);
		bench_down(&b);
	}
}

static void the_guests_credit_is_kept_to(void **state)
{
	static u8 sent[10000];
	struct virtio_vsock_hdr h;
	u32 got = 0;
	struct bench b;
	int fd;

	(void)state;
	fill(sent, sizeof(sent), 3);
	bench_up(&b, FDRV_ALL_FEATURES);
	b.alloc = 5000;
	fd = guest_connect(&b, 1024);
	host_write(fd, sent, sizeof(sent));
	while (got < 5000) {
		got += expect(&b, VIRTIO_VSOCK_OP_RW, 52, 1024).len;
		assert_true(got <= 5000);
	}
	expect(&b, VIRTIO_VSOCK_OP_CREDIT_REQUEST, 52, 1024);
	expect_nothing(&b); /* asked once */
	b.fwd_cnt = 1;
	guest_send(&b, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 52, 1024, NULL, 0);
	assert_int_equal(expect(&b, VIRTIO_VSOCK_OP_RW, 52, 1024).len, 1);
	expect(&b, VIRTIO_VSOCK_OP_CREDIT_REQUEST, 52, 1024);
	/* Nonsense gives nothing: more consumed than was ever sent, a buffer that shrank. */
	b.fwd_cnt = 9000;
	guest_send(&b, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 52, 1024, NULL, 0);
	b.fwd_cnt = 2;
	b.alloc = 100;
	guest_send(&b, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 52, 1024, NULL, 0);
	expect_nothing(&b);
	b.fwd_cnt = 5001;
	b.alloc = 5000;
	guest_send(&b, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 52, 1024, NULL, 0);
	for (got = 0; got < 4999; got += h.len) {
		h = expect(&b, VIRTIO_VSOCK_OP_RW, 52, 1024);
		assert_memory_equal(b.data, sent + 5001 + got, h.len);
	}
	expect_nothing(&b);
	close(fd);
	bench_down(&b);
}

/* Sends until the program's socket is full and the device's buffer holds `buffered` bytes. Returns all that was sent. */
static u32 stuff(struct bench *b, u8 *data, u32 host_port, u32 guest_port, u32 buffered)
{
	u32 sent = 0, credit = VSOCK_BUF_LARGE, fwd = 0;
	struct virtio_vsock_hdr h;

	for (;;) {
		u32 len = MIN(4096u, credit - (sent - fwd));

		if (!len)
			break;
		guest_send(b, VIRTIO_VSOCK_OP_RW, host_port, guest_port, data + sent, len);
		sent += len;
		guest_send(b, VIRTIO_VSOCK_OP_CREDIT_REQUEST, host_port, guest_port, NULL, 0);
		do
			h = expect(b, VIRTIO_VSOCK_OP_CREDIT_UPDATE, host_port, guest_port);
		while (next_packet(b, &h, 1));
		assert_int_equal(h.buf_alloc, credit);
		fwd = h.fwd_cnt;
		if (sent - fwd >= buffered)
			break;
	}
	return sent;
}

static void a_guest_that_exceeds_its_credit_is_cut_off(void **state)
{
	static u8 data[2 * MIB];
	struct bench b;
	u32 sent;
	int fd, fd2;

	(void)state;
	bench_up(&b, FDRV_ALL_FEATURES);
	fd = guest_connect(&b, 1024);
	fd2 = guest_connect(&b, 1025);
	sent = stuff(&b, data, 52, 1024, VSOCK_BUF_LARGE);
	assert_true(sent > VSOCK_BUF_LARGE);
	guest_send(&b, VIRTIO_VSOCK_OP_RW, 52, 1024, "x", 1);
	expect(&b, VIRTIO_VSOCK_OP_RST, 52, 1024);
	/* The other one goes on. */
	guest_send(&b, VIRTIO_VSOCK_OP_RW, 52, 1025, "y", 1);
	host_read(fd2, data, 1);
	assert_int_equal(data[0], 'y');
	close(fd);
	close(fd2);
	bench_down(&b);
}

static void a_program_that_does_not_read_holds_up_nobody_else(void **state)
{
	static u8 data[2 * MIB], got[2 * MIB];
	struct bench b;
	u32 sent, told;
	int slow, fd;

	(void)state;
	fill(data, sizeof(data), 9);
	bench_up(&b, FDRV_ALL_FEATURES);
	slow = guest_connect(&b, 1024);
	fd = guest_connect(&b, 1025);
	sent = stuff(&b, data, 52, 1024, VSOCK_BUF_LARGE);
	guest_send(&b, VIRTIO_VSOCK_OP_RW, 52, 1025, "quick", 5);
	host_read(fd, got, 5);
	host_write(fd, "too", 3);
	assert_int_equal(expect(&b, VIRTIO_VSOCK_OP_RW, 52, 1025).len, 3);
	/* Now it reads: all is there, and the guest hears that it may go on. */
	host_read(slow, got, sent);
	assert_memory_equal(got, data, sent);
	do
		told = expect(&b, VIRTIO_VSOCK_OP_CREDIT_UPDATE, 52, 1024).fwd_cnt;
	while (sent - told > VSOCK_BUF_LARGE / 2);
	close(slow);
	close(fd);
	bench_down(&b);
}

static void what_a_guest_sent_before_it_closed_arrives(void **state)
{
	static u8 data[2 * MIB], got[2 * MIB];
	struct bench b;
	u32 sent;
	int fd;

	(void)state;
	fill(data, sizeof(data), 5);
	bench_up(&b, FDRV_ALL_FEATURES);
	fd = guest_connect(&b, 1024);
	sent = stuff(&b, data, 52, 1024, VSOCK_BUF_LARGE / 2);
	guest_shut(&b, 52, 1024, VSOCK_SHUT_BOTH);
	expect(&b, VIRTIO_VSOCK_OP_RST, 52, 1024); /* at once */
	/* The ports are free again while the old connection still empties. */
	int again = guest_connect(&b, 1024);

	guest_send(&b, VIRTIO_VSOCK_OP_RW, 52, 1024, "new", 3);
	host_read(fd, got, sent);
	assert_memory_equal(got, data, sent);
	expect_end(fd);
	host_read(again, got, 3);
	assert_memory_equal(got, "new", 3);
	close(fd);
	close(again);
	bench_down(&b);
}

static void the_guest_closes_one_direction(void **state)
{
	struct bench b;
	char got[8];
	int fd;

	(void)state;
	bench_up(&b, FDRV_ALL_FEATURES);
	fd = guest_connect(&b, 1024);
	guest_send(&b, VIRTIO_VSOCK_OP_RW, 52, 1024, "last", 4);
	guest_shut(&b, 52, 1024, VIRTIO_VSOCK_SHUTDOWN_SEND);
	host_read(fd, got, 4);
	expect_end(fd);
	host_write(fd, "answer", 6);
	assert_int_equal(expect(&b, VIRTIO_VSOCK_OP_RW, 52, 1024).len, 6);
	/* It said that it would send no more. */
	guest_send(&b, VIRTIO_VSOCK_OP_RW, 52, 1024, "lie", 3);
	expect(&b, VIRTIO_VSOCK_OP_RST, 52, 1024);
	expect_end(fd);
	close(fd);
	/* Receiving is the other direction. */
	fd = guest_connect(&b, 1024);
	guest_shut(&b, 52, 1024, VIRTIO_VSOCK_SHUTDOWN_RCV);
	fdrv_sync(&b.d);
	assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), -1);
	assert_int_equal(errno, EPIPE);
	guest_send(&b, VIRTIO_VSOCK_OP_RW, 52, 1024, "still", 5);
	host_read(fd, got, 5);
	guest_shut(&b, 52, 1024, VIRTIO_VSOCK_SHUTDOWN_SEND); /* both now */
	expect(&b, VIRTIO_VSOCK_OP_RST, 52, 1024);
	expect_end(fd);
	close(fd);
	bench_down(&b);
}

static void the_host_closes_one_direction(void **state)
{
	struct bench b;
	char got[8];
	int fd;

	(void)state;
	bench_up(&b, FDRV_ALL_FEATURES);
	fd = guest_connect(&b, 1024);
	host_write(fd, "last", 4);
	shutdown(fd, SHUT_WR);
	assert_int_equal(expect(&b, VIRTIO_VSOCK_OP_RW, 52, 1024).len, 4);
	assert_int_equal(expect(&b, VIRTIO_VSOCK_OP_SHUTDOWN, 52, 1024).flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
	guest_send(&b, VIRTIO_VSOCK_OP_RW, 52, 1024, "answer", 6);
	host_read(fd, got, 6);
	close(fd);
	assert_int_equal(expect(&b, VIRTIO_VSOCK_OP_SHUTDOWN, 52, 1024).flags, VSOCK_SHUT_BOTH);
	guest_send(&b, VIRTIO_VSOCK_OP_RST, 52, 1024, NULL, 0);
	/* Reading is the other direction: the first write finds out. */
	fd = guest_connect(&b, 1024);
	shutdown(fd, SHUT_RD);
	guest_send(&b, VIRTIO_VSOCK_OP_RW, 52, 1024, "unheard", 7);
	assert_int_equal(expect(&b, VIRTIO_VSOCK_OP_SHUTDOWN, 52, 1024).flags, VIRTIO_VSOCK_SHUTDOWN_RCV);
	host_write(fd, "still", 5);
	assert_int_equal(expect(&b, VIRTIO_VSOCK_OP_RW, 52, 1024).len, 5);
	close(fd);
	bench_down(&b);
}

static void a_guest_that_does_not_end_what_the_host_closed_gets_a_reset(void **state)
{
	struct virtio_vsock_hdr h;
	struct bench b;
	int fd;

	(void)state;
	bench_up(&b, FDRV_ALL_FEATURES);
	fd = guest_connect(&b, 1024);
	host_write(fd, "last words", 10);
	close(fd);
	do
		assert_true(next_packet(&b, &h, WAIT_MS));
	while (h.op == VIRTIO_VSOCK_OP_RW || (h.op == VIRTIO_VSOCK_OP_SHUTDOWN && h.flags != VSOCK_SHUT_BOTH));
	assert_int_equal(h.op, VIRTIO_VSOCK_OP_SHUTDOWN);
	assert_int_equal(counter(&b, "rx_bytes_count"), 10);
	expect(&b, VIRTIO_VSOCK_OP_RST, 52, 1024);
	bench_down(&b);
}

static void packets_that_no_driver_sends_harm_only_their_connection(void **state)
{
	struct virtio_vsock_hdr h;
	struct bench b;
	u8 got[8];
	int good, fd;

	(void)state;
	bench_up(&b, FDRV_ALL_FEATURES);
	good = guest_connect(&b, 2000);
	/* Somebody else's address: dropped. */
	h = make(&b, VIRTIO_VSOCK_OP_REQUEST, 52, 1024, 0);
	h.src_cid = CID + 1;
	send_hdr(&b, &h, NULL, 0);
	h.src_cid = CID | 1ull << 32;
	send_hdr(&b, &h, NULL, 0);
	expect_nothing(&b);
	assert_int_equal(counter(&b, "tx_queue_event_fails"), 2);
	/* To somebody who is not there, or in a way that is not spoken: RST, from that address and of that type. */
	h = make(&b, VIRTIO_VSOCK_OP_REQUEST, 52, 1024, 0);
	h.dst_cid = 77;
	send_hdr(&b, &h, NULL, 0);
	assert_true(next_packet(&b, &h, WAIT_MS));
	assert_int_equal(h.op, VIRTIO_VSOCK_OP_RST);
	assert_int_equal(h.src_cid, 77);
	h = make(&b, VIRTIO_VSOCK_OP_REQUEST, 52, 1024, 0);
	h.type = VIRTIO_VSOCK_TYPE_SEQPACKET;
	send_hdr(&b, &h, NULL, 0);
	assert_true(next_packet(&b, &h, WAIT_MS));
	assert_int_equal(h.op, VIRTIO_VSOCK_OP_RST);
	assert_int_equal(h.type, VIRTIO_VSOCK_TYPE_SEQPACKET);
	/* About connections that are not there: RST, but not as the answer to one. */
	for (u16 op = 0; op < 10; op++) {
		guest_send(&b, op, 52, 1024, "abc", op == VIRTIO_VSOCK_OP_RW ? 3 : 0);
		if (op != VIRTIO_VSOCK_OP_RST)
			expect(&b, VIRTIO_VSOCK_OP_RST, 52, 1024);
	}
	expect_nothing(&b);
	/* What a connection cannot have: it ends. */
	for (u16 op = 0; op < 10; op++) {
		bool is_fine = op >= VIRTIO_VSOCK_OP_SHUTDOWN && op <= VIRTIO_VSOCK_OP_CREDIT_REQUEST;

		if (is_fine || op == VIRTIO_VSOCK_OP_RST)
			continue;
		fd = guest_connect(&b, 1024);
		guest_send(&b, op, 52, 1024, NULL, 0);
		expect(&b, VIRTIO_VSOCK_OP_RST, 52, 1024);
		expect_end(fd);
		close(fd);
	}
	guest_send(&b, VIRTIO_VSOCK_OP_RW, 52, 2000, "fine", 4);
	host_read(good, got, 4);
	assert_memory_equal(got, "fine", 4);
	close(good);
	bench_down(&b);
}

static void lengths_that_cannot_be_end_the_connection(void **state)
{
	static const u32 lens[] = {5, VSOCK_MAX_PACKET, VSOCK_MAX_PACKET + 1, UINT32_MAX - 43, UINT32_MAX};
	struct fbuf out = {0, 0};
	struct bench b;

	(void)state;
	bench_up(&b, FDRV_ALL_FEATURES);
	for (u32 i = 0; i < ARRAY_SIZE(lens); i++) {
		int fd = guest_connect(&b, 1024);
		struct virtio_vsock_hdr h = make(&b, VIRTIO_VSOCK_OP_RW, 52, 1024, lens[i]);

		send_hdr(&b, &h, "four", 4);
		expect(&b, VIRTIO_VSOCK_OP_RST, 52, 1024);
		expect_end(fd);
		close(fd);
	}
	/* Less than a header: nobody to answer. */
	out = (struct fbuf){b.tx, VSOCK_HDR_LEN - 1};
	send_raw(&b, &out, 1);
	out.len = 0;
	send_raw(&b, &out, 1);
	expect_nothing(&b);
	/* More than the header says is none of the stream's; 64 KiB are. */
	static u8 big[VSOCK_MAX_PACKET], got[VSOCK_MAX_PACKET];
	int fd = guest_connect(&b, 1024);
	struct virtio_vsock_hdr h = make(&b, VIRTIO_VSOCK_OP_RW, 52, 1024, 2);

	fill(big, sizeof(big), 11);
	send_hdr(&b, &h, "four", 4);
	guest_send(&b, VIRTIO_VSOCK_OP_RW, 52, 1024, big, VSOCK_MAX_PACKET - 2);
	host_read(fd, got, VSOCK_MAX_PACKET);
	assert_memory_equal(got, "fo", 2);
	assert_memory_equal(got + 2, big, VSOCK_MAX_PACKET - 2);
	guest_send(&b, VIRTIO_VSOCK_OP_RW, 52, 1024, NULL, 0); /* no bytes at all are fine */
	host_write(fd, "end", 3);
	for (h.op = 0; h.op != VIRTIO_VSOCK_OP_RW;)
		assert_true(next_packet(&b, &h, WAIT_MS));
	close(fd);
	bench_down(&b);
}

static void a_packet_may_be_split_anywhere(void **state)
{
	struct fbuf out[64];
	struct bench b;
	char got[12];
	u16 nr = 0;
	int fd;

	(void)state;
	bench_up(&b, FDRV_ALL_FEATURES);
	fd = guest_connect(&b, 1024);
	struct virtio_vsock_hdr h = make(&b, VIRTIO_VSOCK_OP_RW, 52, 1024, 12);

	memcpy(fake_vm_ptr(&b.f, b.tx, 64), &h, VSOCK_HDR_LEN);
	memcpy(fake_vm_ptr(&b.f, b.tx + VSOCK_HDR_LEN, 12), "Hello world!", 12);
	/* Bytes of the header one by one; the last of them together with the first of the data. */
	for (; nr < VSOCK_HDR_LEN - 1; nr++)
		out[nr] = (struct fbuf){b.tx + nr, 1};
	out[nr++] = (struct fbuf){b.tx + VSOCK_HDR_LEN - 1, 5};
	out[nr++] = (struct fbuf){b.tx + VSOCK_HDR_LEN + 4, 8};
	send_raw(&b, out, nr);
	host_read(fd, got, 12);
	assert_memory_equal(got, "Hello world!", 12);

	/* The same for a receive buffer, alone in a new queue. */
	assert_true(fdrv_reset(&b.d, WAIT_MS));
	expect_end(fd);
	close(fd);
	fdrv_up(&b.d, &b.f, b.dev, FDRV_ALL_FEATURES, 3, 256);
	u64 rx = fake_vm_alloc(&b.f, 256, 1);
	u32 len;

	for (nr = 0; nr < VSOCK_HDR_LEN - 1; nr++)
		out[nr] = (struct fbuf){rx + 2u * nr, 1};
	out[nr] = (struct fbuf){rx + 2u * nr, 6};
	assert_true(fdrv_add(&b.d, RXQ, NULL, 0, out, (u16)(nr + 1), NULL));
	fdrv_kick(&b.d, RXQ);
	guest_send(&b, VIRTIO_VSOCK_OP_REQUEST, 99, 1024, NULL, 0);
	assert_true(fdrv_wait_used(&b.d, RXQ, NULL, &len, WAIT_MS));
	assert_int_equal(len, VSOCK_HDR_LEN);
	u8 *p = fake_vm_ptr(&b.f, rx, 256), flat[VSOCK_HDR_LEN];

	for (u32 i = 0; i < VSOCK_HDR_LEN; i++)
		flat[i] = p[2 * i];
	memcpy(&h, flat, sizeof(h));
	assert_int_equal(h.op, VIRTIO_VSOCK_OP_RST);
	assert_int_equal(h.src_port, 99);
	bench_down(&b);
}

static void a_receive_buffer_without_room_breaks_the_queue(void **state)
{
	static const u32 sizes[] = {1, VSOCK_HDR_LEN - 1, VSOCK_HDR_LEN};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct bench b;

		bench_make(&b);
		fake_vm_start(&b.f);
		fdrv_up(&b.d, &b.f, b.dev, FDRV_ALL_FEATURES, 3, 256);
		post_rx(&b, 1, sizes[i]);
		guest_send(&b, VIRTIO_VSOCK_OP_REQUEST, 99, 1024, NULL, 0);
		assert_true(fdrv_wait_needs_reset(&b.d, WAIT_MS));
		bench_down(&b);
	}
}

static void more_refusals_than_there_is_room_for_wait_for_receive_buffers(void **state)
{
	struct bench b;
	u32 nr = 3 * VSOCK_MAX_RSTS, added = 0, done = 0, told = 0;

	(void)state;
	bench_make(&b);
	fake_vm_start(&b.f);
	fdrv_up(&b.d, &b.f, b.dev, FDRV_ALL_FEATURES, 3, 256);
	b.d.q[TXQ].polled = true;
	while (done < VSOCK_MAX_RSTS) {
		struct virtio_vsock_hdr h = make(&b, VIRTIO_VSOCK_OP_RW, 99, added, 0);
		struct fbuf out = {fake_vm_alloc(&b.f, VSOCK_HDR_LEN, 1), VSOCK_HDR_LEN};

		memcpy(fake_vm_ptr(&b.f, out.gpa, out.len), &h, out.len);
		if (added < nr && fdrv_add(&b.d, TXQ, &out, 1, NULL, 0, NULL)) {
			added++;
			continue;
		}
		fdrv_notify(&b.d, TXQ);
		if (!fdrv_wait_used(&b.d, TXQ, NULL, NULL, QUIET_MS))
			break;
		done++;
	}
	assert_int_equal(done, VSOCK_MAX_RSTS);
	while (fdrv_get_used(&b.d, TXQ, NULL, NULL))
		done++;
	assert_int_equal(done, VSOCK_MAX_RSTS); /* the rest waits */
	assert_true(added > done);
	post_rx(&b, 64, RX_SIZE);
	for (struct virtio_vsock_hdr h; told < added; told++) {
		assert_true(next_packet(&b, &h, WAIT_MS));
		assert_int_equal(h.op, VIRTIO_VSOCK_OP_RST);
		assert_int_equal(h.dst_port, told);
	}
	while (done < added && fdrv_wait_used(&b.d, TXQ, NULL, NULL, WAIT_MS))
		done++;
	assert_int_equal(done, added);
	bench_down(&b);
}

static void a_reset_of_the_driver_ends_its_connections(void **state)
{
	struct virtio_vsock_hdr h;
	struct bench b;
	u32 port;
	int fd, waiting;

	(void)state;
	bench_up(&b, FDRV_ALL_FEATURES);
	fd = host_connect(&b, &port);
	assert_true(fdrv_reset(&b.d, WAIT_MS));
	expect_end(fd);
	close(fd);
	/* A client that comes while there is no driver is served when there is one. */
	waiting = unix_socket(b.path, false);
	host_write(waiting, "CONNECT 7\n", 10);
	usleep(50000);
	fdrv_up(&b.d, &b.f, b.dev, FDRV_ALL_FEATURES, 3, 256);
	post_rx(&b, 64, RX_SIZE);
	assert_true(next_packet(&b, &h, WAIT_MS));
	assert_int_equal(h.op, VIRTIO_VSOCK_OP_REQUEST);
	close(waiting);
	expect(&b, VIRTIO_VSOCK_OP_RST, h.src_port, 7); /* it did not wait for the answer */
	bench_down(&b);
}

struct pause_work {
	struct loop_work work;
	struct device *dev;
	void (*what)(struct device *dev);
};

static void run_pause(struct loop_work *w)
{
	struct pause_work *p = container_of(w, struct pause_work, work);

	p->what(p->dev);
}

static void on_loop(struct bench *b, void (*what)(struct device *dev))
{
	struct pause_work p = {.work.run = run_pause, .dev = b->dev, .what = what};

	loop_post(&b->f.vm.loop, &p.work);
	fdrv_sync(&b->d);
	usleep(20000); /* the work has run: nothing else keeps the loop */
}

static void a_pause_holds_everything_and_loses_nothing(void **state)
{
	struct virtio_vsock_hdr h;
	struct bench b;
	char got[4];
	int fd, late;

	(void)state;
	bench_up(&b, FDRV_ALL_FEATURES);
	fd = guest_connect(&b, 1024);
	on_loop(&b, b.dev->cls->quiesce);
	host_write(fd, "while", 5);
	late = unix_socket(b.path, false);
	host_write(late, "CONNECT 7\n", 10);
	h = make(&b, VIRTIO_VSOCK_OP_RW, 52, 1024, 4);
	struct fbuf out[2] = {{b.tx, VSOCK_HDR_LEN}, {b.tx + VSOCK_HDR_LEN, 4}};

	memcpy(fake_vm_ptr(&b.f, b.tx, VSOCK_HDR_LEN), &h, VSOCK_HDR_LEN);
	memcpy(fake_vm_ptr(&b.f, b.tx + VSOCK_HDR_LEN, 4), "sent", 4);
	assert_true(fdrv_add(&b.d, TXQ, out, 2, NULL, 0, NULL));
	fdrv_notify(&b.d, TXQ);
	expect_nothing(&b);
	assert_false(fdrv_get_used(&b.d, TXQ, NULL, NULL));
	assert_int_equal(recv(fd, got, 4, MSG_DONTWAIT), -1);
	on_loop(&b, b.dev->cls->resume);
	host_read(fd, got, 4);
	assert_memory_equal(got, "sent", 4);
	assert_int_equal(expect(&b, VIRTIO_VSOCK_OP_RW, 52, 1024).len, 5);
	assert_true(next_packet(&b, &h, WAIT_MS));
	assert_int_equal(h.op, VIRTIO_VSOCK_OP_REQUEST);
	assert_true(fdrv_wait_used(&b.d, TXQ, NULL, NULL, WAIT_MS));
	close(fd);
	close(late);
	bench_down(&b);
}

static void a_client_that_leaves_early_is_forgotten_at_once(void **state)
{
	static const char *const lines[] = {"", "CONN", "CONNECT 7\n", "CONNECT 7\nhello"};
	struct bench b;

	(void)state;
	bench_up(&b, FDRV_ALL_FEATURES);
	on_loop(&b, b.dev->cls->quiesce);
	for (u32 i = 0; i < ARRAY_SIZE(lines); i++) {
		int fd = unix_socket(b.path, false);

		host_write(fd, lines[i], strlen(lines[i]));
		close(fd);
	}
	on_loop(&b, b.dev->cls->resume);
	expect_nothing(&b);
	assert_int_equal(counter(&b, "conns_added"), ARRAY_SIZE(lines));
	assert_int_equal(counter(&b, "conns_removed"), ARRAY_SIZE(lines));
	bench_down(&b);
}

static void as_many_connections_as_allowed_work_and_one_more_is_refused(void **state)
{
	static int fds[VSOCK_MAX_CONNS];
	struct rlimit limit;
	struct bench b;
	char path[96];
	int server;

	(void)state;
	getrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_max < 2 * VSOCK_MAX_CONNS + 100)
		skip();
	limit.rlim_cur = limit.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	bench_up(&b, FDRV_ALL_FEATURES);
	server = serve_port(&b, 60, path);
	for (u32 i = 0; i < VSOCK_MAX_CONNS; i++) {
		guest_send(&b, VIRTIO_VSOCK_OP_REQUEST, 60, i, NULL, 0);
		/* Buffers of many are smaller. */
		assert_int_equal(expect(&b, VIRTIO_VSOCK_OP_RESPONSE, 60, i).buf_alloc,
				 i < VSOCK_MAX_LARGE ? VSOCK_BUF_LARGE : VSOCK_BUF_SMALL);
		fds[i] = accept(server, NULL, NULL);
		assert_true(fds[i] >= 0);
	}
	guest_send(&b, VIRTIO_VSOCK_OP_REQUEST, 60, VSOCK_MAX_CONNS, NULL, 0);
	expect(&b, VIRTIO_VSOCK_OP_RST, 60, VSOCK_MAX_CONNS);
	int over = unix_socket(b.path, false);

	expect_end(over);
	close(over);
	for (u32 i = 0; i < VSOCK_MAX_CONNS; i++) {
		u32 got;

		guest_send(&b, VIRTIO_VSOCK_OP_RW, 60, i, &i, sizeof(i));
		host_read(fds[i], &got, sizeof(got));
		assert_int_equal(got, i);
		host_write(fds[i], &got, sizeof(got));
		assert_int_equal(expect(&b, VIRTIO_VSOCK_OP_RW, 60, i).len, sizeof(got));
	}
	/* One leaves, another may come. */
	guest_send(&b, VIRTIO_VSOCK_OP_RST, 60, 17, NULL, 0);
	guest_send(&b, VIRTIO_VSOCK_OP_REQUEST, 60, VSOCK_MAX_CONNS, NULL, 0);
	expect(&b, VIRTIO_VSOCK_OP_RESPONSE, 60, VSOCK_MAX_CONNS);
	for (u32 i = 0; i < VSOCK_MAX_CONNS; i++)
		close(fds[i]);
	close(server);
	unlink(path);
	bench_down(&b);
}

static void without_descriptors_requests_are_refused_and_clients_wait(void **state)
{
	struct rlimit before, none = {0};
	struct virtio_vsock_hdr h;
	struct bench b;
	char path[96];
	int server, client;

	(void)state;
	bench_up(&b, FDRV_ALL_FEATURES);
	server = serve_port(&b, 60, path);
	client = unix_socket(b.path, false); /* accepted before */
	usleep(50000);
	getrlimit(RLIMIT_NOFILE, &before);
	none.rlim_max = before.rlim_max;
	int second = unix_socket(b.path, false);

	usleep(50000);
	int third = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	memcpy(addr.sun_path, b.path, strlen(b.path));
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	assert_int_equal(connect(third, (struct sockaddr *)&addr, sizeof(addr)), 0);
	guest_send(&b, VIRTIO_VSOCK_OP_REQUEST, 60, 1024, NULL, 0);
	expect(&b, VIRTIO_VSOCK_OP_RST, 60, 1024);
	usleep(300000);
	assert_in_range(counter(&b, "muxer_event_fails"), 1, 5); /* it does not spin */
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	host_write(third, "CONNECT 8\n", 10);
	assert_true(next_packet(&b, &h, WAIT_MS));
	assert_int_equal(h.op, VIRTIO_VSOCK_OP_REQUEST);
	assert_int_equal(h.dst_port, 8);
	close(client);
	close(second);
	close(third);
	close(server);
	unlink(path);
	bench_down(&b);
}

static void a_path_that_cannot_be_bound_is_said(void **state)
{
	char longer[VSOCK_UNIX_PATH_MAX + 2] = "", missing[96];
	struct bench b;
	struct stat st;
	struct err e;

	(void)state;
	bench_make(&b);
	assert_int_equal(virtio_vsock_class.probe(&b.cfg, &e), -EADDRINUSE); /* the device's own */
	assert_non_null(strstr(e.msg, "exists"));
	assert_null(fake_vm_add_err(&b.f, &virtio_vsock_class, &b.cfg, &e));
	assert_int_equal(stat(b.path, &st), 0);
	memset(longer, 'x', sizeof(longer) - 1);
	struct vsock_cfg cfg = {.guest_cid = 3, .uds_path = longer};

	assert_int_equal(virtio_vsock_class.probe(&cfg, &e), -ENAMETOOLONG);
	snprintf(missing, sizeof(missing), "%s/not/there", b.dir);
	cfg.uds_path = missing;
	assert_int_equal(virtio_vsock_class.probe(&cfg, &e), -ENOENT);
	/* A path that is free is free again after the probe. */
	snprintf(missing, sizeof(missing), "%s/free", b.dir);
	assert_int_equal(virtio_vsock_class.probe(&cfg, &e), 0);
	assert_int_equal(stat(missing, &st), -1);
	/* A file that somebody put in the socket's place is not the device's to remove. */
	unlink(b.path);
	int other = unix_socket(b.path, true);

	fake_vm_fini(&b.f);
	assert_int_equal(stat(b.path, &st), 0);
	close(other);
	unlink(b.path);
	assert_int_equal(rmdir(b.dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(identity_is_that_of_a_socket_device),
		cmocka_unit_test(a_host_program_connects_to_a_port_of_the_guest),
		cmocka_unit_test(the_guest_connects_to_a_program_of_the_host),
		cmocka_unit_test(connect_lines_may_come_in_pieces_and_with_data_behind),
		cmocka_unit_test(a_client_without_a_right_line_is_left_without_a_word),
		cmocka_unit_test(who_does_not_answer_is_left_after_two_seconds),
		cmocka_unit_test(a_guest_that_refuses_ends_the_clients_connection),
		cmocka_unit_test(much_data_arrives_whole_and_in_order),
		cmocka_unit_test(the_guests_credit_is_kept_to),
		cmocka_unit_test(a_guest_that_exceeds_its_credit_is_cut_off),
		cmocka_unit_test(a_program_that_does_not_read_holds_up_nobody_else),
		cmocka_unit_test(what_a_guest_sent_before_it_closed_arrives),
		cmocka_unit_test(the_guest_closes_one_direction),
		cmocka_unit_test(the_host_closes_one_direction),
		cmocka_unit_test(a_guest_that_does_not_end_what_the_host_closed_gets_a_reset),
		cmocka_unit_test(packets_that_no_driver_sends_harm_only_their_connection),
		cmocka_unit_test(lengths_that_cannot_be_end_the_connection),
		cmocka_unit_test(a_packet_may_be_split_anywhere),
		cmocka_unit_test(a_receive_buffer_without_room_breaks_the_queue),
		cmocka_unit_test(more_refusals_than_there_is_room_for_wait_for_receive_buffers),
		cmocka_unit_test(a_reset_of_the_driver_ends_its_connections),
		cmocka_unit_test(a_pause_holds_everything_and_loses_nothing),
		cmocka_unit_test(a_client_that_leaves_early_is_forgotten_at_once),
		cmocka_unit_test(as_many_connections_as_allowed_work_and_one_more_is_refused),
		cmocka_unit_test(without_descriptors_requests_are_refused_and_clients_wait),
		cmocka_unit_test(a_path_that_cannot_be_bound_is_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
