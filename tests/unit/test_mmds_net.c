/*
 * test_mmds_net.c: the metadata service's network side, frame by frame: ARP, TCP as RFC 9293 wants it, offloads, time-outs, and what a
 * guest might send to harm it. The test plays the guest and the network behind the device; its service answers "R<n>\n" with n bytes and
 * "C<n>\n" too, but then closes.
 */
#include "cm.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "virtio/backend/net_mmds.h"
#include "virtio/virtq.h"
#include "vmm/clock.h"
#include "vmm/loop.h"

#define US	  "\xa9\xfe\xa9\xfe" /* 169.254.169.254 */
#define GUEST_IP  "\xac\x1f\x4d\x02"
#define GUEST_MAC "\x02\x00\x00\x00\x00\x07"
#define PORT	  40000
#define HDR	  NET_HDR_LEN
#define ETH	  14u
#define IP	  20u
#define TCP	  20u
#define DATA	  (HDR + ETH + IP + TCP)
#define SECOND	  NSEC_PER_SEC

struct fixture {
	struct mmds_service service;
	struct mmds_service *service_ptr;
	struct loop loop;
	struct net_backend *b; /* the one in front */
	struct net_backend inner;
	bool inner_closed;
	u32 sent, sent_len, to_receive; /* frames of the network: taken, to be given */
	u32 wakes;
	u8 in[NET_FRAME_MAX];  /* from the service */
	u8 out[NET_FRAME_MAX]; /* from the guest */
	u32 in_len;
	struct mmds_tcp tcp; /* of the tests below the frames */
	struct mmds_segment seg;
	u64 now;
};

static u32 test_serve(struct mmds_service *s, const u8 *data, u32 len, struct buf *reply, bool *close)
{
	const u8 *end = memchr(data, '\n', len);
	char number[12] = "";
	u32 n;

	if (!end && len < MMDS_REQUEST_MAX)
		return 0;
	mmds_count(&s->counters.rx_count, 1);
	*close = !end || data[0] == 'C';
	if (end) /* its last digits */
		memcpy(number, end - MIN((size_t)(end - data) - 1, 6), MIN((size_t)(end - data) - 1, 6));
	n = end ? (u32)strtoul(number, NULL, 10) : 1;
	for (u32 i = 0; i < n; i++)
		buf_u8(reply, (u8)(i * 7 + i / 256));
	return end ? (u32)(end - data) + 1 : len;
}

/* ---- the network behind ---- */

static struct fixture *of_inner(struct net_backend *b)
{
	return container_of(b, struct fixture, inner);
}

static ssize_t inner_recv(struct net_backend *b, u32 pair, const struct iovec *iov, u32 nr)
{
	struct fixture *x = of_inner(b);

	(void)pair;
	if (!x->to_receive)
		return -EAGAIN;
	x->to_receive--;
	return iov_write(iov, nr, 0, "a frame of the network, from the tap", 36);
}

static int inner_send(struct net_backend *b, u32 pair, const struct iovec *iov, u32 nr, u32 len)
{
	(void)pair, (void)iov, (void)nr;
	of_inner(b)->sent++;
	of_inner(b)->sent_len = len;
	return 0;
}

static void inner_close(struct net_backend *b)
{
	of_inner(b)->inner_closed = true;
}

static const struct net_backend_ops inner_ops = {.recv = inner_recv, .send = inner_send, .close = inner_close};

static void wake(void *device)
{
	((struct fixture *)device)->wakes++;
}

static int setup(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));
	struct net_mmds_cfg cfg = {.address = "169.254.169.254", .service = &x->service_ptr, .loop = &x->loop, .wake = wake, .device = x};
	struct err e;

	x->service.serve = test_serve;
	x->service_ptr = &x->service;
	x->inner = (struct net_backend){.ops = &inner_ops, .name = (char *)"network", .nr_fds = 1, .fds = {-1}, .features = 5};
	x->b = &x->inner;
	x->tcp.service = &x->service_ptr;
	x->now = 1000 * SECOND;
	*state = x;
	if (loop_init(&x->loop, &e) < 0)
		return -1;
	net_mmds_wrap(&x->b, &cfg);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;

	x->b->ops->close(x->b);
	assert_true(x->inner_closed);
	mmds_tcp_fini(&x->tcp);
	loop_fini(&x->loop);
	free(x);
	return 0;
}

/* ---- frames ---- */

static u16 sum16(const u8 *p, u32 len, u32 sum)
{
	for (u32 i = 0; i < len; i++)
		sum += i % 2 ? p[i] : (u32)p[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (u16)sum;
}

static u16 tcp_sum(const u8 *ip, u32 len)
{
	return sum16(ip + IP, len, sum16(ip + 12, 8, 6 + len));
}

static void put16(u8 *p, u32 v)
{
	p[0] = (u8)(v >> 8);
	p[1] = (u8)v;
}
static void put32(u8 *p, u32 v)
{
	put16(p, v >> 16);
	put16(p + 2, v & 0xffff);
}
static u32 get16(const u8 *p)
{
	return (u32)p[0] << 8 | p[1];
}
static u32 get32(const u8 *p)
{
	return get16(p) << 16 | get16(p + 2);
}

/* Sends len bytes of x->out from memory that ends behind them, in two parts. */
static void send_out(struct fixture *x, u32 len)
{
	u8 *exact = malloc(len);
	u32 cut = len / 3;
	struct iovec iov[] = {{exact, cut}, {exact + cut, len - cut}};

	memcpy(exact, x->out, len);
	assert_true(x->b->ops->send(x->b, 0, iov, 2, len) >= 0);
	free(exact);
}

/* The next frame to the guest: its length without the header, 0: none. */
static u32 receive(struct fixture *x)
{
	struct iovec iov[] = {{x->in, 50}, {x->in + 50, sizeof(x->in) - 50}};
	ssize_t n = x->b->ops->recv(x->b, 0, iov, 2);

	if (n == -EAGAIN)
		return 0;
	assert_true(n > (ssize_t)HDR);
	x->in_len = (u32)n;
	return (u32)n - HDR;
}

static void make_arp(struct fixture *x, u16 operation, const char *target)
{
	static const u8 head[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 7, 8, 6, 0, 1, 8, 0, 6, 4};

	memset(x->out, 0, HDR + 42);
	memcpy(x->out + HDR, head, sizeof(head));
	put16(x->out + HDR + 20, operation);
	memcpy(x->out + HDR + 22, GUEST_MAC GUEST_IP, 10);
	memcpy(x->out + HDR + 38, target, 4);
}

/* A TCP segment without options; the checksums are right. Returns the frame's length. */
static u32 make_tcp(struct fixture *x, u8 flags, u32 seq, u32 ack, const void *data, u32 len)
{
	u8 *eth = x->out + HDR, *ip = eth + ETH, *tcp = ip + IP;

	memset(x->out, 0, DATA);
	memcpy(eth, MMDS_MAC GUEST_MAC "\x08", 13);
	ip[0] = 0x45;
	put16(ip + 2, IP + TCP + len);
	ip[8] = 64;
	ip[9] = 6;
	memcpy(ip + 12, GUEST_IP US, 8);
	put16(ip + 10, (u16)~sum16(ip, IP, 0));
	put16(tcp, PORT);
	put16(tcp + 2, 80);
	put32(tcp + 4, seq);
	put32(tcp + 8, ack);
	tcp[12] = 0x50;
	tcp[13] = flags;
	put16(tcp + 14, 64000);
	if (len)
		memcpy(tcp + TCP, data, len);
	put16(tcp + 16, (u16)~tcp_sum(ip, TCP + len));
	return DATA + len;
}

static void send_tcp(struct fixture *x, u8 flags, u32 seq, u32 ack, const void *data, u32 len)
{
	send_out(x, make_tcp(x, flags, seq, ack, data, len));
}

/* The next frame must be a TCP segment to the guest that any stack would take. */
static const u8 *expect_tcp(struct fixture *x, u8 flags)
{
	const u8 *eth = x->in + HDR, *ip = eth + ETH, *tcp = ip + IP;
	u32 len = receive(x);

	assert_true(len >= ETH + IP + TCP && len <= ETH + IP + TCP + MMDS_MSS);
	assert_memory_equal(eth, GUEST_MAC MMDS_MAC "\x08", 13);
	for (u32 i = 0; i < HDR; i++)
		assert_int_equal(x->in[i], 0);
	assert_int_equal(get16(ip + 2), len - ETH);
	assert_int_equal(sum16(ip, IP, 0), 0xffff);
	assert_memory_equal(ip + 12, US GUEST_IP, 8);
	assert_int_equal(tcp_sum(ip, len - ETH - IP), 0xffff);
	assert_int_equal(get16(tcp), 80);
	assert_int_equal(get16(tcp + 2), PORT);
	if (tcp[13] != flags)
		fail_msg("flags %#x instead of %#x", tcp[13], flags);
	return tcp;
}

static void expect_nothing(struct fixture *x)
{
	assert_int_equal(receive(x), 0);
	assert_false(x->b->more_in);
}

/* Handshake; the guest's next number is 1001. Returns the service's. */
static u32 connect_guest(struct fixture *x)
{
	const u8 *tcp;
	u32 iss;

	send_tcp(x, TCP_SYN, 1000, 0, NULL, 0);
	tcp = expect_tcp(x, TCP_SYN | TCP_ACK);
	iss = get32(tcp + 4);
	assert_int_equal(get32(tcp + 8), 1001);
	assert_int_equal(tcp[12], 0x60);
	assert_int_equal(get32(tcp + 20), 0x02040000 + MMDS_MSS);
	send_tcp(x, TCP_ACK, 1001, iss + 1, NULL, 0);
	expect_nothing(x);
	return iss + 1;
}

static void arp_for_the_service_is_answered(void **state)
{
	struct fixture *x = *state;
	u8 *arp = x->in + HDR + ETH;

	make_arp(x, 1, US);
	send_out(x, HDR + 42);
	assert_int_equal(x->wakes, 1);
	assert_true(x->b->more_in);
	assert_int_equal(receive(x), 42);
	assert_memory_equal(x->in + HDR, GUEST_MAC MMDS_MAC "\x08\x06", 14);
	assert_memory_equal(arp, "\0\1\x08\0\6\4\0\2" MMDS_MAC US GUEST_MAC GUEST_IP, 28);
	expect_nothing(x);
	assert_int_equal(x->sent, 0);
	make_arp(x, 1, US);
	send_out(x, HDR + 60); /* padded */
	assert_int_equal(receive(x), 42);
}

static void arp_that_asks_nothing_gets_no_answer(void **state)
{
	struct fixture *x = *state;

	make_arp(x, 2, US);
	send_out(x, HDR + 42);
	make_arp(x, 1, US);
	memcpy(x->out + HDR + 28, US, 4); /* the guest claims the address */
	send_out(x, HDR + 42);
	make_arp(x, 1, US);
	x->out[HDR + 18] = 7;
	send_out(x, HDR + 42);
	make_arp(x, 1, US);
	x->out[HDR + 22] = 3; /* a sender to which nothing can be sent */
	send_out(x, HDR + 42);
	expect_nothing(x);
	assert_int_equal(x->sent, 0);
	assert_int_equal(x->service.counters.rx_accepted_err, 2);
}

static void everything_else_passes_both_ways(void **state)
{
	struct fixture *x = *state;
	u32 len;

	make_arp(x, 1, "\xac\x1f\x4d\x01");
	send_out(x, HDR + 42);
	make_arp(x, 1, US);
	send_out(x, HDR + 41); /* cut off */
	len = make_tcp(x, TCP_SYN, 1, 0, NULL, 0);
	x->out[HDR + ETH + 19] ^= 1; /* another address */
	send_out(x, len);
	make_tcp(x, TCP_SYN, 1, 0, NULL, 0);
	memcpy(x->out + HDR + 12, "\x81\0", 2); /* a VLAN */
	send_out(x, len);
	send_out(x, HDR + 13);
	assert_int_equal(x->sent, 5);
	assert_int_equal(x->sent_len, HDR + 13);
	assert_int_equal(x->service.counters.rx_bad_eth, 1);
	assert_int_equal(x->service.counters.rx_accepted, 0);
	expect_nothing(x);
	x->to_receive = 2;
	assert_int_equal(receive(x), 36 - HDR);
	make_arp(x, 1, US);
	send_out(x, HDR + 42);
	assert_int_equal(receive(x), 42); /* the service's come first */
	assert_int_equal(receive(x), 36 - HDR);
	assert_int_equal(x->b->features, 5);
	assert_int_equal(x->wakes, 1);
}

static void a_request_is_answered_and_the_connection_ends(void **state)
{
	struct fixture *x = *state;
	u32 seq = connect_guest(x);
	const u8 *tcp;

	send_tcp(x, TCP_ACK | TCP_PSH, 1001, seq, "R10\n", 4);
	tcp = expect_tcp(x, TCP_ACK | TCP_PSH);
	assert_int_equal(get32(tcp + 4), seq);
	assert_int_equal(get32(tcp + 8), 1005);
	assert_int_equal(x->in_len, DATA + 10);
	for (u32 i = 0; i < 10; i++)
		assert_int_equal(x->in[DATA + i], i * 7);
	expect_nothing(x);
	send_tcp(x, TCP_ACK | TCP_FIN, 1005, seq + 10, NULL, 0);
	tcp = expect_tcp(x, TCP_ACK | TCP_FIN);
	assert_int_equal(get32(tcp + 8), 1006);
	send_tcp(x, TCP_ACK, 1006, seq + 11, NULL, 0);
	expect_nothing(x);
	assert_int_equal(x->service.counters.connections_created, 1);
	assert_int_equal(x->service.counters.connections_destroyed, 1);
	assert_int_equal(x->service.counters.tx_frames, 3);
	assert_int_equal(x->sent, 0);
}

static void a_close_by_the_service_ends_the_connection(void **state)
{
	struct fixture *x = *state;
	u32 seq = connect_guest(x);
	const u8 *tcp;

	send_tcp(x, TCP_ACK, 1001, seq, "C3\ngarbage behind it", 20);
	tcp = expect_tcp(x, TCP_ACK | TCP_PSH | TCP_FIN);
	assert_int_equal(get32(tcp + 8), 1021);
	send_tcp(x, TCP_ACK, 1021, seq, "more", 4); /* swallowed, not reset: the answer must arrive */
	expect_tcp(x, TCP_ACK);
	send_tcp(x, TCP_ACK, 1025, seq + 4, NULL, 0);
	expect_nothing(x);
	send_tcp(x, TCP_ACK | TCP_FIN, 1025, seq + 4, NULL, 0);
	tcp = expect_tcp(x, TCP_ACK);
	assert_int_equal(get32(tcp + 8), 1026);
	assert_int_equal(x->service.counters.connections_destroyed, 1);
}

/* Acknowledges all as it comes; returns the bytes received. */
static u32 drain(struct fixture *x, u32 seq, u32 guest_seq, u32 want)
{
	u32 got = 0;

	while (receive(x)) {
		const u8 *tcp = x->in + HDR + ETH + IP;
		u32 len = x->in_len - DATA;

		assert_int_equal(get32(tcp + 4), seq + got);
		for (u32 i = 0; i < len; i++)
			assert_int_equal(x->in[DATA + i], (u8)((got + i) * 7 + (got + i) / 256));
		got += len;
		send_tcp(x, TCP_ACK, guest_seq, seq + got, NULL, 0);
	}
	assert_int_equal(got, want);
	return got;
}

static void a_long_answer_comes_in_segments(void **state)
{
	struct fixture *x = *state;
	u32 seq = connect_guest(x);

	send_tcp(x, TCP_ACK, 1001, seq, "R60000\n", 7);
	seq += drain(x, seq, 1008, 60000);
	send_tcp(x, TCP_ACK, 1008, seq, "R1\n", 3);
	drain(x, seq, 1011, 1);
}

static void requests_in_a_row_are_answered_one_by_one(void **state)
{
	struct fixture *x = *state;
	u32 seq = connect_guest(x);

	send_tcp(x, TCP_ACK, 1001, seq, "R5\nR6\nR7", 8);
	expect_tcp(x, TCP_ACK | TCP_PSH);
	assert_int_equal(x->in_len, DATA + 5);
	expect_nothing(x);
	send_tcp(x, TCP_ACK, 1009, seq + 5, NULL, 0);
	expect_tcp(x, TCP_ACK | TCP_PSH);
	assert_int_equal(x->in_len, DATA + 6);
	send_tcp(x, TCP_ACK, 1009, seq + 11, "\n", 1);
	expect_tcp(x, TCP_ACK | TCP_PSH);
	assert_int_equal(x->in_len, DATA + 7);
}

static void only_what_is_next_in_order_is_taken(void **state)
{
	struct fixture *x = *state;
	u32 seq = connect_guest(x);
	const u8 *tcp;

	send_tcp(x, TCP_ACK, 1002, seq, "1\n", 2); /* a hole before it */
	tcp = expect_tcp(x, TCP_ACK);
	assert_int_equal(get32(tcp + 8), 1001);
	send_tcp(x, TCP_ACK, 1001, seq, "R", 1);
	tcp = expect_tcp(x, TCP_ACK);
	assert_int_equal(get32(tcp + 8), 1002);
	send_tcp(x, TCP_ACK, 1001, seq, "R1", 2); /* half of it is known */
	tcp = expect_tcp(x, TCP_ACK);
	assert_int_equal(get32(tcp + 8), 1003);
	send_tcp(x, TCP_ACK, 1001, seq, "R1", 2); /* all of it */
	tcp = expect_tcp(x, TCP_ACK);
	assert_int_equal(get32(tcp + 8), 1003);
	send_tcp(x, TCP_ACK, 1000, seq, NULL, 0); /* a keepalive */
	expect_tcp(x, TCP_ACK);
	send_tcp(x, TCP_ACK, 1003, seq, "\n", 1);
	expect_tcp(x, TCP_ACK | TCP_PSH);
	send_tcp(x, TCP_ACK | TCP_FIN, 1005, seq + 1, NULL, 0); /* a FIN behind a hole */
	tcp = expect_tcp(x, TCP_ACK);
	assert_int_equal(get32(tcp + 8), 1004);
}

static void a_window_is_what_there_is_room_for(void **state)
{
	struct fixture *x = *state;
	u32 seq = connect_guest(x);
	u8 text[MMDS_REQUEST_MAX + 100];
	const u8 *tcp;

	memset(text, 'R', sizeof(text));
	send_tcp(x, TCP_ACK, 1001, seq, text, 1000);
	tcp = expect_tcp(x, TCP_ACK);
	assert_int_equal(get16(tcp + 14), MMDS_REQUEST_MAX - 1000);
	send_tcp(x, TCP_ACK, 2001, seq, text, 3200); /* more than the window */
	tcp = expect_tcp(x, TCP_ACK | TCP_PSH | TCP_FIN);
	assert_int_equal(get32(tcp + 8), 1001 + MMDS_REQUEST_MAX);
	assert_int_equal(x->in_len, DATA + 1);
}

static void offloads_of_the_guest_are_honoured(void **state)
{
	struct fixture *x = *state;
	u32 seq = connect_guest(x), len;
	u8 text[3000];
	struct virtio_net_hdr_v1 h = {
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		.gso_type = VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN,
		.hdr_len = ETH + IP + TCP,
		.gso_size = 1460,
		.csum_start = ETH + IP,
		.csum_offset = 16,
	};
	u8 *tcp = x->out + HDR + ETH + IP;

	memset(text, '0', sizeof(text));
	text[0] = 'R';
	memcpy(text + sizeof(text) - 2, "9\n", 2);
	len = make_tcp(x, TCP_ACK, 1001, seq, text, sizeof(text));
	memcpy(x->out, &h, sizeof(h));
	put16(tcp + 16, sum16(x->out + HDR + ETH + 12, 8, 6 + TCP + sizeof(text))); /* of the pseudo header alone */
	send_out(x, len);
	expect_tcp(x, TCP_ACK | TCP_PSH);
	assert_int_equal(get32(x->in + DATA - TCP + 8), 1001 + sizeof(text));
	send_tcp(x, TCP_ACK, 4001, seq, NULL, 0);
	h.gso_type = VIRTIO_NET_HDR_GSO_UDP;
	len = make_tcp(x, TCP_ACK, 4001, seq, "R1\n", 3);
	memcpy(x->out, &h, sizeof(h));
	send_out(x, len);
	assert_int_equal(x->service.counters.rx_accepted_err, 1);
	assert_int_equal(x->service.counters.rx_count, 1);
}

static void a_reset_ends_a_connection_only_with_the_right_number(void **state)
{
	struct fixture *x = *state;
	u32 seq = connect_guest(x);

	send_tcp(x, TCP_RST, 1002, 0, NULL, 0);
	expect_tcp(x, TCP_ACK); /* RFC 5961: are you sure? */
	send_tcp(x, TCP_RST, 999, 0, NULL, 0);
	expect_nothing(x);
	assert_int_equal(x->service.counters.connections_destroyed, 0);
	send_tcp(x, TCP_RST, 1001, 0, NULL, 0);
	expect_nothing(x);
	assert_int_equal(x->service.counters.connections_destroyed, 1);
	send_tcp(x, TCP_ACK, 1001, seq, "R1\n", 3);
	expect_tcp(x, TCP_RST);
	assert_int_equal(get32(x->in + DATA - TCP + 4), seq);
}

static void what_belongs_to_no_connection_is_refused(void **state)
{
	struct fixture *x = *state;
	const u8 *tcp;
	u32 len;

	send_tcp(x, TCP_ACK, 5, 77, NULL, 0);
	tcp = expect_tcp(x, TCP_RST);
	assert_int_equal(get32(tcp + 4), 77);
	send_tcp(x, TCP_FIN, 5, 0, "abc", 3);
	tcp = expect_tcp(x, TCP_RST | TCP_ACK);
	assert_int_equal(get32(tcp + 8), 9);
	send_tcp(x, TCP_SYN | TCP_FIN, 5, 0, NULL, 0);
	expect_tcp(x, TCP_RST | TCP_ACK);
	send_tcp(x, TCP_RST | TCP_ACK, 5, 6, NULL, 0);
	send_tcp(x, TCP_RST, 5, 6, NULL, 0);
	expect_nothing(x);
	assert_int_equal(x->service.counters.rx_accepted_unusual, 5);
	len = make_tcp(x, TCP_SYN, 5, 0, NULL, 0);
	put16(x->out + DATA - TCP + 2, 81);
	put16(x->out + DATA - TCP + 16, 0);
	put16(x->out + DATA - TCP + 16, (u16)~tcp_sum(x->out + HDR + ETH, TCP));
	send_out(x, len);
	assert_int_equal(receive(x), ETH + IP + TCP);
	assert_int_equal(get16(x->in + DATA - TCP), 81);
	assert_int_equal(x->in[DATA - 7], TCP_RST | TCP_ACK);
	for (u32 i = 0; i < 100; i++) /* the guest takes none of them: bounded */
		send_tcp(x, TCP_ACK, 5, i, NULL, 0);
	for (u32 i = 0; i < MMDS_RESETS; i++)
		expect_tcp(x, TCP_RST);
	expect_nothing(x);
}

static void without_a_service_connections_are_refused(void **state)
{
	struct fixture *x = *state;

	x->service_ptr = NULL;
	send_tcp(x, TCP_SYN, 5, 0, NULL, 0);
	expect_tcp(x, TCP_RST | TCP_ACK);
	expect_nothing(x);
}

static void a_syn_again_is_answered_again(void **state)
{
	struct fixture *x = *state;
	u32 iss;

	send_tcp(x, TCP_SYN, 1000, 0, NULL, 0);
	iss = get32(expect_tcp(x, TCP_SYN | TCP_ACK) + 4);
	send_tcp(x, TCP_SYN, 1000, 0, NULL, 0);
	assert_int_equal(get32(expect_tcp(x, TCP_SYN | TCP_ACK) + 4), iss);
	send_tcp(x, TCP_SYN, 7000, 0, NULL, 0); /* the guest has forgotten and starts anew */
	assert_int_equal(get32(expect_tcp(x, TCP_SYN | TCP_ACK) + 8), 7001);
	send_tcp(x, TCP_ACK, 7001, 12345, NULL, 0);
	expect_tcp(x, TCP_RST);
	assert_int_equal(x->service.counters.connections_created, 2);
	expect_nothing(x);
}

static void a_syn_into_a_connection_is_questioned(void **state)
{
	struct fixture *x = *state;
	u32 seq = connect_guest(x);

	send_tcp(x, TCP_SYN, 5000, 0, NULL, 0);
	assert_int_equal(get32(expect_tcp(x, TCP_ACK) + 8), 1001);
	send_tcp(x, TCP_RST, 1001, 0, NULL, 0); /* what a guest that knows of none answers */
	send_tcp(x, TCP_SYN, 5000, 0, NULL, 0);
	assert_int_equal(get32(expect_tcp(x, TCP_SYN | TCP_ACK) + 8), 5001);
	(void)seq;
}

static void acknowledgements_of_what_was_not_sent_do_no_harm(void **state)
{
	struct fixture *x = *state;
	u32 seq = connect_guest(x);

	send_tcp(x, TCP_ACK, 1001, seq + 1, "R1\n", 3);
	assert_int_equal(get32(expect_tcp(x, TCP_ACK) + 8), 1001);
	send_tcp(x, TCP_ACK, 1001, seq - 70000, "R1\n", 3);
	expect_tcp(x, TCP_ACK | TCP_PSH);
	send_tcp(x, TCP_ACK, 1004, seq + 2, NULL, 0);
	expect_tcp(x, TCP_ACK);
	send_tcp(x, TCP_ACK, 1004, seq + 1, NULL, 0);
	expect_nothing(x);
}

/* One wrong thing at a time: none reaches TCP, none the network. */
static void malformed_packets_are_dropped(void **state)
{
	static const struct {
		u32 at;
		u8 value;
	} wrong[] = {
		{HDR + 6, 0x03},
		{HDR + ETH, 0x65},
		{HDR + ETH, 0x44},
		{HDR + ETH, 0x4f},
		{HDR + ETH + 2, 0xff},
		{HDR + ETH + 3, 19},
		{HDR + ETH + 3, 39},
		{HDR + ETH + 6, 0x20},
		{HDR + ETH + 7, 1},
		{HDR + ETH + 9, 17},
		{HDR + ETH + 12, 0x55},
		{HDR + ETH + 10, 0x99},
		{HDR + ETH + IP + 12, 0x40},
		{HDR + ETH + IP + 12, 0xf0},
		{DATA - 4, 0x42},
		{DATA + 1, 0x42},
		{1, VIRTIO_NET_HDR_GSO_TCPV6},
		{1, 0xff},
	};
	struct fixture *x = *state;
	u32 seq = connect_guest(x);

	for (u32 i = 0; i < ARRAY_SIZE(wrong); i++) {
		u32 len = make_tcp(x, TCP_ACK, 1001, seq, "R1\n", 3);

		x->out[wrong[i].at] = wrong[i].value;
		send_out(x, len);
		assert_int_equal(x->service.counters.rx_accepted_err, i + 1);
		expect_nothing(x);
	}
	for (u32 len = HDR + ETH + IP; len < DATA; len++) { /* cut off, the IP header says so, too */
		make_tcp(x, TCP_ACK, 1001, seq, "R1\n", 3);
		put16(x->out + HDR + ETH + 2, len - HDR - ETH);
		put16(x->out + HDR + ETH + 10, 0);
		put16(x->out + HDR + ETH + 10, (u16)~sum16(x->out + HDR + ETH, IP, 0));
		x->out[0] = VIRTIO_NET_HDR_F_NEEDS_CSUM;
		send_out(x, len);
		expect_nothing(x);
	}
	make_tcp(x, TCP_ACK, 1001, seq, "R1\n", 3);
	memcpy(x->out + HDR + ETH + 12, US, 4); /* from the service to itself */
	put16(x->out + HDR + ETH + 10, 0);
	put16(x->out + HDR + ETH + 10, (u16)~sum16(x->out + HDR + ETH, IP, 0));
	x->out[0] = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	send_out(x, DATA + 3);
	expect_nothing(x);
	assert_int_equal(x->sent, 0);
	send_tcp(x, TCP_ACK, 1001, seq, "R1\n", 3);
	expect_tcp(x, TCP_ACK | TCP_PSH);
}

/* A SYN with these options; what MSS do the data segments have? */
static u32 mss_after(struct fixture *x, const void *options, u32 len)
{
	u32 port = PORT - 1 - len * 8 - ((const u8 *)options)[0], iss;
	u8 *ip = x->out + HDR + ETH, *tcp = ip + IP;

	make_tcp(x, TCP_SYN, 1000, 0, options, len);
	put16(tcp, port);
	tcp[12] = (u8)(0x50 + (len / 4 << 4));
	x->out[0] = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	send_out(x, DATA + len);
	assert_true(receive(x));
	iss = get32(x->in + DATA - TCP + 4);
	make_tcp(x, TCP_ACK, 1001, iss + 1, "R5000\n", 6);
	put16(tcp, port);
	x->out[0] = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	send_out(x, DATA + 6);
	assert_true(receive(x));
	len = x->in_len - DATA;
	make_tcp(x, TCP_RST, 1007, 0, NULL, 0);
	put16(tcp, port);
	x->out[0] = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	send_out(x, DATA);
	expect_nothing(x);
	return len;
}

static void the_guests_mss_is_kept_within_reason(void **state)
{
	struct fixture *x = *state;

	assert_int_equal(mss_after(x, "\2\4\2\0", 4), 512);
	assert_int_equal(mss_after(x, "\1\2\4\3\0\0\0\0", 8), 768);
	assert_int_equal(mss_after(x, "\2\4\xff\xff\1\1\1\1\1\1\1\1", 12), MMDS_MSS);
	assert_int_equal(mss_after(x, "\2\4\0\1\1\1\1\1\1\1\1\1\1\1\1\1", 16), 28);
	assert_int_equal(mss_after(x, "\3\3\7\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1", 20), 536);
	assert_int_equal(mss_after(x, "\3\0\2\4\4\0\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1", 24), 536);	     /* option of length 0 */
	assert_int_equal(mss_after(x, "\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\2", 28), 536); /* cut off */
	assert_int_equal(mss_after(x, "\0\2\4\2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 32), 536);
}

static void what_is_lost_is_sent_again_by_the_timer(void **state)
{
	struct fixture *x = *state;
	u32 seq = connect_guest(x), wakes;

	send_tcp(x, TCP_ACK, 1001, seq, "R1000\n", 6);
	expect_tcp(x, TCP_ACK);
	expect_tcp(x, TCP_ACK | TCP_PSH);
	expect_nothing(x);
	wakes = x->wakes;
	for (u32 i = 0; i < 100 && x->wakes == wakes; i++)
		loop_turn(&x->loop, 100);
	assert_int_equal(x->wakes, wakes + 1);
	assert_true(x->b->more_in);
	assert_int_equal(get32(expect_tcp(x, TCP_ACK) + 4), seq);
	send_tcp(x, TCP_ACK, 1007, seq + 1000, NULL, 0); /* the other one was not lost */
	expect_nothing(x);
	assert_int_equal(x->loop.timers, NULL);
}

/* ---- TCP by itself, in a time of our own ---- */

static void give(struct fixture *x, u16 port, u8 flags, u32 seq, u32 ack, u16 window, const char *data)
{
	struct mmds_segment s = {.peer = {.ip = 1, .port = port},
				 .port = MMDS_PORT,
				 .flags = flags,
				 .seq = seq,
				 .ack = ack,
				 .window = window,
				 .mss = flags & TCP_SYN ? MMDS_MSS : 0,
				 .data = (const u8 *)data,
				 .len = data ? (u32)strlen(data) : 0};

	mmds_tcp_input(&x->tcp, &s, x->now);
}

static bool take(struct fixture *x)
{
	bool ready = mmds_tcp_ready(&x->tcp), some = mmds_tcp_output(&x->tcp, &x->seg, x->now);

	assert_int_equal(ready, some);
	return some;
}

static u32 open_port(struct fixture *x, u16 port, u32 seq)
{
	u32 iss;

	give(x, port, TCP_SYN, seq, 0, 64000, NULL);
	assert_true(take(x));
	assert_int_equal(x->seg.flags, TCP_SYN | TCP_ACK);
	iss = x->seg.seq;
	give(x, port, TCP_ACK, seq + 1, iss + 1, 64000, NULL);
	assert_false(take(x));
	return iss + 1;
}

/* To the next deadline. */
static void pass_time(struct fixture *x)
{
	x->now = mmds_tcp_deadline(&x->tcp);
	assert_true(x->now);
	mmds_tcp_expire(&x->tcp, x->now);
}

static void a_guest_that_never_answers_is_given_up(void **state)
{
	struct fixture *x = *state;
	u64 start = x->now, last = x->now;
	u32 seq = open_port(x, 1, 0), sent = 0;

	give(x, 1, TCP_ACK, 1, seq, 64000, "R10\n");
	while (x->tcp.conns[0] || x->tcp.nr_resets) {
		assert_true(take(x));
		sent++;
		if (x->seg.flags & TCP_RST)
			break;
		assert_int_equal(x->seg.seq, seq);
		assert_int_equal(x->seg.len, 10);
		pass_time(x);
		assert_true(x->now - last <= 8 * SECOND && x->now > last);
		last = x->now;
	}
	assert_true(sent > 5 && sent < 15 && x->now - start < 120 * SECOND);
	assert_int_equal(x->seg.flags, TCP_RST | TCP_ACK);
	assert_int_equal(x->service.counters.connections_destroyed, 1);
	assert_int_equal(mmds_tcp_deadline(&x->tcp), 0);
}

static void a_handshake_that_is_not_finished_is_given_up(void **state)
{
	struct fixture *x = *state;
	u32 tries = 0;

	give(x, 1, TCP_SYN, 0, 0, 100, NULL);
	while (take(x) && !(x->seg.flags & TCP_RST)) {
		assert_int_equal(x->seg.flags, TCP_SYN | TCP_ACK);
		tries++;
		pass_time(x);
	}
	assert_true(tries > 5 && tries < 15);
	assert_int_equal(x->service.counters.connections_destroyed, 1);
}

static void a_closed_window_is_probed_until_it_opens(void **state)
{
	struct fixture *x = *state;
	u32 seq = open_port(x, 1, 0);

	give(x, 1, TCP_ACK, 1, seq, 100, "R300\n");
	assert_true(take(x));
	assert_int_equal(x->seg.len, 100);
	assert_false(take(x));
	give(x, 1, TCP_ACK, 6, seq + 100, 0, NULL);
	assert_false(take(x));
	for (u32 i = 0; i < 3; i++) {
		pass_time(x);
		assert_true(take(x));
		assert_int_equal(x->seg.len, 1);
		assert_int_equal(x->seg.seq, seq + 100);
		assert_false(take(x));
		give(x, 1, TCP_ACK, 6, seq + 100, 0, NULL);
	}
	give(x, 1, TCP_ACK, 6, seq + 100, 50, NULL);
	assert_true(take(x));
	assert_int_equal(x->seg.seq, seq + 100);
	assert_int_equal(x->seg.len, 50);
	give(x, 1, TCP_ACK, 6, seq + 150, 1000, NULL);
	assert_true(take(x));
	assert_int_equal(x->seg.len, 150);
	give(x, 1, TCP_ACK, 6, seq + 300, 1000, NULL);
	assert_false(take(x));
	assert_int_equal(mmds_tcp_deadline(&x->tcp), 0);
}

static void numbers_wrap_around(void **state)
{
	struct fixture *x = *state;
	u32 seq, guest = 0xfffffffd;

	x->now = 0xfffff800ull << 12; /* the service's number is near its end, too */
	seq = open_port(x, 1, guest - 1);
	assert_true(seq > 0xfffff000);
	for (u32 i = 0; i < 20; i++) {
		give(x, 1, TCP_ACK, guest, seq, 64000, "R1000\n");
		guest += 6;
		assert_true(take(x));
		assert_int_equal(x->seg.ack, guest);
		assert_int_equal(x->seg.seq, seq);
		assert_int_equal(x->seg.len, 1000);
		seq += 1000;
		give(x, 1, TCP_ACK, guest, seq, 64000, NULL);
		assert_false(take(x));
	}
}

static void connections_are_bounded_and_idle_ones_give_way(void **state)
{
	struct fixture *x = *state;
	u32 seq[MMDS_CONNECTIONS];

	for (u16 i = 0; i < MMDS_CONNECTIONS; i++) {
		seq[i] = open_port(x, i, 0);
		x->now += SECOND / 10;
	}
	give(x, 1000, TCP_SYN, 0, 0, 64000, NULL);
	assert_true(take(x));
	assert_int_equal(x->seg.flags, TCP_RST | TCP_ACK);
	x->now += 8 * SECOND;
	give(x, 0, TCP_ACK, 1, seq[0], 64000, NULL); /* alive */
	give(x, 1001, TCP_SYN, 0, 0, 64000, NULL);
	assert_true(take(x));
	assert_int_equal(x->seg.flags, TCP_RST | TCP_ACK);
	assert_int_equal(x->seg.peer.port, 1);
	assert_true(take(x));
	assert_int_equal(x->seg.flags, TCP_SYN | TCP_ACK);
	assert_int_equal(x->seg.peer.port, 1001);
}

static void many_connections_take_turns(void **state)
{
	struct fixture *x = *state;
	u32 seq[3], got[3] = {0};

	for (u16 i = 0; i < 3; i++)
		seq[i] = open_port(x, i, 0);
	for (u16 i = 0; i < 3; i++)
		give(x, i, TCP_ACK, 1, seq[i], 64000, "R30000\n");
	for (u32 i = 0; i < 9; i++) {
		assert_true(take(x));
		got[x->seg.peer.port]++;
	}
	assert_true(got[0] == 3 && got[1] == 3 && got[2] == 3);
}

static void a_guest_that_never_closes_is_forgotten(void **state)
{
	struct fixture *x = *state;
	u32 seq = open_port(x, 1, 0);

	give(x, 1, TCP_ACK, 1, seq, 64000, "C1\n");
	assert_true(take(x));
	assert_int_equal(x->seg.flags, TCP_ACK | TCP_PSH | TCP_FIN);
	give(x, 1, TCP_ACK, 4, seq + 2, 64000, NULL);
	assert_false(take(x));
	pass_time(x);
	assert_false(take(x));
	assert_null(x->tcp.conns[0]);
}

static void a_lost_fin_is_sent_again(void **state)
{
	struct fixture *x = *state;
	u32 seq = open_port(x, 1, 0);

	give(x, 1, TCP_ACK | TCP_FIN, 1, seq, 64000, NULL);
	for (u32 i = 0; i < 3; i++) {
		assert_true(take(x));
		assert_int_equal(x->seg.flags, TCP_ACK | TCP_FIN);
		assert_int_equal(x->seg.seq, seq);
		assert_int_equal(x->seg.ack, 2);
		assert_false(take(x));
		pass_time(x);
	}
	assert_true(take(x));
	give(x, 1, TCP_ACK, 2, seq + 1, 64000, NULL);
	assert_null(x->tcp.conns[0]);
}

static void an_answer_is_finished_after_the_guest_has_closed(void **state)
{
	struct fixture *x = *state;
	u32 seq = open_port(x, 1, 0);

	give(x, 1, TCP_ACK | TCP_FIN, 1, seq, 1000, "R2000\nR5\nR6");
	assert_true(take(x));
	assert_int_equal(x->seg.len, 1000);
	give(x, 1, TCP_ACK, 13, seq + 1000, 1000, NULL);
	assert_true(take(x));
	assert_int_equal(x->seg.flags, TCP_ACK | TCP_PSH);
	give(x, 1, TCP_ACK, 13, seq + 2000, 1000, NULL);
	assert_true(take(x));
	assert_int_equal(x->seg.len, 5); /* the second whole request, too */
	give(x, 1, TCP_ACK, 13, seq + 2005, 1000, NULL);
	assert_true(take(x));
	assert_int_equal(x->seg.flags, TCP_ACK | TCP_FIN);
	give(x, 1, TCP_ACK, 13, seq + 2006, 1000, NULL);
	assert_null(x->tcp.conns[0]);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(arp_for_the_service_is_answered),
		TEST(arp_that_asks_nothing_gets_no_answer),
		TEST(everything_else_passes_both_ways),
		TEST(a_request_is_answered_and_the_connection_ends),
		TEST(a_close_by_the_service_ends_the_connection),
		TEST(a_long_answer_comes_in_segments),
		TEST(requests_in_a_row_are_answered_one_by_one),
		TEST(only_what_is_next_in_order_is_taken),
		TEST(a_window_is_what_there_is_room_for),
		TEST(offloads_of_the_guest_are_honoured),
		TEST(a_reset_ends_a_connection_only_with_the_right_number),
		TEST(what_belongs_to_no_connection_is_refused),
		TEST(without_a_service_connections_are_refused),
		TEST(a_syn_again_is_answered_again),
		TEST(a_syn_into_a_connection_is_questioned),
		TEST(acknowledgements_of_what_was_not_sent_do_no_harm),
		TEST(malformed_packets_are_dropped),
		TEST(the_guests_mss_is_kept_within_reason),
		TEST(what_is_lost_is_sent_again_by_the_timer),
		TEST(a_guest_that_never_answers_is_given_up),
		TEST(a_handshake_that_is_not_finished_is_given_up),
		TEST(a_closed_window_is_probed_until_it_opens),
		TEST(numbers_wrap_around),
		TEST(connections_are_bounded_and_idle_ones_give_way),
		TEST(many_connections_take_turns),
		TEST(a_guest_that_never_closes_is_forgotten),
		TEST(a_lost_fin_is_sent_again),
		TEST(an_answer_is_finished_after_the_guest_has_closed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
