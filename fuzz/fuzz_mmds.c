/*
 * fuzz_mmds.c: the metadata service: requests of any bytes, documents of any JSON, frames of any content, and a TCP peer that keeps half
 * the rules. The first byte says which.
 */
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "api/mmds.h"
#include "virtio/backend/net_mmds.h"
#include "virtio/virtq.h"
#include "vmm/base/json.h"
#include "vmm/loop.h"

#define SECOND	NSEC_PER_SEC
#define MAX_OPS 300u

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

struct input {
	const u8 *at, *end;
};

static u32 take(struct input *in, u32 bytes)
{
	u32 v = 0;

	for (u32 i = 0; i < bytes && in->at < in->end; i++)
		v |= (u32)*in->at++ << (8 * i);
	return v;
}

static u32 left(const struct input *in)
{
	return (u32)(in->end - in->at);
}

static void put_json(struct mmds *m, const char *text, size_t len, bool patch)
{
	struct json_object *v = NULL;

	if (json_parse("fuzz", text, len, &v, NULL) == 0)
		(void)!(patch ? mmds_patch(m, v, NULL) : mmds_put(m, v, NULL));
	json_object_put(v);
}

static void new_service(struct mmds *m, u8 mode)
{
	static const char store[] = "{\"latest\":{\"a\":\"b\",\"l\":[1,{\"x\":null}],\"~/"
				    "\":\"t\"},\"n\":5,\"big\":\"0123456789012345678901234567890123456789\"}";
	const struct cfg_mmds cfg = {.version = mode & 0x40 ? CFG_MMDS_V2 : CFG_MMDS_V1, .imds_compat = mode & 0x80};

	mmds_init(m, 1000);
	put_json(m, store, sizeof(store) - 1, false);
	mmds_configure(m, &cfg);
}

/* An answer is whole and says how long it is. */
static void check_reply(const struct buf *reply)
{
	const char *end = memmem(reply->data, reply->len, "\r\n\r\n", 4), *length = memmem(reply->data, reply->len, "Content-Length: ", 16);
	size_t body = reply->len - (size_t)(end + 4 - (char *)reply->data);

	ASSERT(reply->len > 12 && !memcmp(reply->data, "HTTP/1.", 7) && end && length);
	ASSERT(strtoul(length + 16, NULL, 10) == body || body == 0);
}

static void fuzz_requests(struct mmds *m, struct input *in)
{
	while (left(in)) {
		u32 len = MIN(left(in), MMDS_REQUEST_MAX), taken;
		u8 *exact = malloc(len);
		struct buf reply = {0};
		bool close = false;

		memcpy(exact, in->at, len);
		taken = m->service.serve(&m->service, exact, len, &reply, &close);
		ASSERT(taken <= len && !!taken == !!reply.len);
		if (taken)
			check_reply(&reply);
		in->at += taken ? taken : left(in);
		buf_fini(&reply);
		free(exact);
	}
}

static void fuzz_documents(struct mmds *m, struct input *in)
{
	while (left(in)) {
		u8 op = (u8)take(in, 1);
		const u8 *end = memchr(in->at, '\0', left(in));
		size_t len = end ? (size_t)(end - in->at) : left(in);
		struct json_object *v;

		put_json(m, (const char *)in->at, len, op & 1);
		in->at += len;
		v = mmds_get(m);
		ASSERT(v && strlen(json_object_to_json_string_ext(v, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)) <= 1000);
		json_object_put(v);
	}
}

/* ---- frames ---- */

static ssize_t no_recv(struct net_backend *b, u32 pair, const struct iovec *iov, u32 nr)
{
	(void)b, (void)pair, (void)iov, (void)nr;
	return -EAGAIN;
}

static int any_send(struct net_backend *b, u32 pair, const struct iovec *iov, u32 nr, u32 len)
{
	(void)b, (void)pair, (void)iov, (void)nr, (void)len;
	return 0;
}

static void no_close(struct net_backend *b)
{
	(void)b;
}

static void no_wake(void *device)
{
	(void)device;
}

/* Mostly frames for the service, with the fields that would otherwise all be wrong put right. */
static u32 make_frame(struct input *in, u8 *frame)
{
	static const u8 ip[] = {2, 0, 0, 0, 0, 1,  2, 0, 0, 0,	 0,  7,	 8, 0,	 0x45, 0,   0,
				0, 0, 0, 0, 0, 64, 6, 0, 0, 172, 31, 77, 2, 169, 254,  169, 254};
	u8 kind = (u8)take(in, 1);
	u32 len = take(in, 1) + 1, total;

	len = MIN(len, left(in));
	memset(frame, 0, NET_HDR_LEN);
	frame[0] = kind & 1 ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0;
	memcpy(frame + NET_HDR_LEN, in->at, len);
	in->at += len;
	if (!(kind & 2) || len < sizeof(ip))
		return NET_HDR_LEN + len;
	memcpy(frame + NET_HDR_LEN, ip, sizeof(ip));
	frame[NET_HDR_LEN + 17] = (u8)(len - 14);
	if (kind & 4 && len >= 40)
		memcpy(frame + NET_HDR_LEN + 36, "\0\x50", 2);
	total = 0x4500 + len - 14 + 0x4006 + 0xac1f + 0x4d02 + 0xa9fe + 0xa9fe;
	total = (total & 0xffff) + (total >> 16);
	total = ~(total + (total >> 16));
	frame[NET_HDR_LEN + 24] = (u8)(total >> 8);
	frame[NET_HDR_LEN + 25] = (u8)total;
	return NET_HDR_LEN + len;
}

static void fuzz_frames(struct mmds *m, struct input *in)
{
	static const struct net_backend_ops ops = {.recv = no_recv, .send = any_send, .close = no_close};
	struct mmds_service *service = &m->service;
	struct loop loop;
	struct net_backend inner = {.ops = &ops, .name = (char *)"none"}, *b = &inner;
	u8 frame[NET_HDR_LEN + 300], got[2000];

	ASSERT(loop_init(&loop, NULL) == 0);
	net_mmds_wrap(&b, &(struct net_mmds_cfg){.address = "169.254.169.254", .service = &service, .loop = &loop, .wake = no_wake});
	for (u32 i = 0; i < MAX_OPS && left(in); i++) {
		struct iovec out = {.iov_base = frame, .iov_len = make_frame(in, frame)}, into = {.iov_base = got, .iov_len = sizeof(got)};

		int sent = b->ops->send(b, 0, &out, 1, (u32)out.iov_len);

		ASSERT(sent == 0 || sent == 1); /* taken, by the network or by husk */
		while (take(in, 1) & 1) {
			ssize_t n = b->ops->recv(b, 0, &into, 1);

			if (n == -EAGAIN)
				break;
			ASSERT(n >= (ssize_t)NET_HDR_LEN + 42 && n <= (ssize_t)NET_HDR_LEN + 14 + 40 + (ssize_t)MMDS_MSS);
		}
	}
	b->ops->close(b);
	loop_fini(&loop);
}

/* ---- TCP ---- */

struct peer {
	u32 seq, ack; /* what would be right next */
};

static void output(struct mmds_tcp *t, struct peer *peers, u64 now)
{
	struct mmds_segment s;
	bool ready = mmds_tcp_ready(t);

	ASSERT(mmds_tcp_output(t, &s, now) == ready);
	if (!ready)
		return;
	ASSERT(s.len <= MMDS_MSS && (!s.len || s.data));
	for (u32 i = 0; i < s.len; i++)
		ASSERT(s.data[i] || !s.data[i]); /* reads it */
	peers[s.peer.port % 4].ack = s.seq + s.len + !!(s.flags & TCP_SYN) + !!(s.flags & TCP_FIN);
	if (s.flags & TCP_SYN)
		peers[s.peer.port % 4].seq = s.ack;
}

static void one_segment(struct mmds_tcp *t, struct peer *peers, struct input *in, u64 now)
{
	static const char request[] = "GET /big HTTP/1.1\r\n\r\n";
	u8 kind = (u8)take(in, 1), wild = (u8)take(in, 1);
	u16 port = (u16)(kind & 0x40 ? take(in, 1) : kind & 3u);
	struct peer *p = &peers[port % 4];
	struct mmds_segment s = {
		.peer = {.ip = 1, .port = port}, .port = MMDS_PORT, .flags = TCP_ACK, .seq = p->seq, .ack = p->ack, .window = 60000};
	u8 data[255];

	s.mss = (u16)(wild & 1 ? take(in, 2) : 1460);
	s.window = (u16)(wild & 2 ? take(in, 1) : 60000);
	s.seq += wild & 4 ? (u32)(s32)(int8_t)take(in, 1) : 0;
	s.ack += wild & 8 ? (u32)(s32)(int8_t)take(in, 1) : 0;
	s.flags = wild & 16 ? (u8)take(in, 1) : kind & 0x80 ? TCP_SYN : TCP_ACK;
	if (kind & 4) {
		s.data = (const u8 *)request;
		s.len = sizeof(request) - 1;
	} else if (kind & 8) {
		s.len = take(in, 1);
		s.len = MIN(s.len, left(in));
		memcpy(data, in->at, s.len);
		s.data = data;
		in->at += s.len;
	}
	mmds_tcp_input(t, &s, now);
	if (!(wild & 4))
		p->seq += s.len + !!(s.flags & TCP_FIN);
}

/* Whatever came before: a new connection gets its answer. */
static void check_works(struct mmds_tcp *t, u64 now)
{
	struct mmds_segment s = {.peer = {.ip = 2, .port = 9}, .port = MMDS_PORT, .flags = TCP_SYN, .seq = 7, .window = 1000}, o = {0};

	mmds_tcp_input(t, &s, now);
	while (mmds_tcp_output(t, &o, now) && !(o.peer.ip == 2 && o.flags == (TCP_SYN | TCP_ACK)))
		;
	ASSERT(o.peer.ip == 2 && o.flags == (TCP_SYN | TCP_ACK) && o.ack == 8);
	s.flags = TCP_ACK;
	s.seq = 8;
	s.ack = o.seq + 1;
	s.data = (const u8 *)"GET /n HTTP/1.1\r\n\r\n";
	s.len = 19;
	mmds_tcp_input(t, &s, now);
	while (mmds_tcp_output(t, &o, now) && !(o.peer.ip == 2 && o.len))
		;
	ASSERT(o.peer.ip == 2 && o.len > 12);
}

static void fuzz_tcp(struct mmds *m, struct input *in)
{
	struct mmds_service *service = &m->service;
	struct mmds_tcp t = {.service = &service};
	struct peer peers[4] = {{0}};
	u64 now = 1000 * SECOND;

	for (u32 i = 0; i < MAX_OPS && left(in); i++) {
		u8 op = (u8)take(in, 1);

		if (op & 3) {
			one_segment(&t, peers, in, now);
		} else if (op & 4) {
			output(&t, peers, now);
		} else {
			now += take(in, 1) * SECOND / 20;
			mmds_tcp_expire(&t, now);
		}
		now += 1000;
	}
	check_works(&t, now + 60 * SECOND);
	mmds_tcp_fini(&t);
	ASSERT(m->service.counters.connections_created - m->service.counters.connections_destroyed <= MMDS_CONNECTIONS);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static void (*const targets[])(struct mmds *, struct input *) = {fuzz_requests, fuzz_tcp, fuzz_frames, fuzz_documents};
	struct input in = {data, data + size};
	struct mmds m;
	u8 mode;

	if (!size)
		return 0;
	mode = (u8)take(&in, 1);
	new_service(&m, mode);
	targets[mode % ARRAY_SIZE(targets)](&m, &in);
	mmds_fini(&m);
	return 0;
}
