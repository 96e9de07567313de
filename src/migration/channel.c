/* channel.c: frames on a connection; see channel.h. */
#include "migration/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migration/channel_addr.h"
#include "migration/tls.h"
#include "vmm/base/crc32c.h"
#include "vmm/clock.h"

#define MAX_PARTS 6
#define STOP_MS	  50  /* how long `stop` may go unasked */
#define GROW	  MIB /* a body's buffer grows by so much at once, as bytes come */

/* ---- waiting ---- */

static int lost(struct err *e, int code)
{
	return err_set(e, -code, "the connection is lost: %s", strerror(code));
}

/* 0, -EAGAIN after wait_ms without anything. */
static int wait_for(const struct channel *c, short events, int wait_ms)
{
	struct pollfd p = {.fd = c->fd, .events = events};
	int n = poll(&p, 1, wait_ms);

	return n > 0 || (n < 0 && errno == EINTR) ? 0 : n == 0 ? -EAGAIN : -errno;
}

/* The same within the channel's patience; -ECANCELED: nobody wants it any more. */
static int wait_wanted(const struct channel *c, short events)
{
	u64 end_ns = clock_host_ns() + c->patience_ms * NSEC_PER_MSEC;
	int ret;

	if (!c->stop)
		return wait_for(c, events, (int)c->patience_ms);
	do {
		if (c->stop(c->opaque))
			return -ECANCELED;
		ret = wait_for(c, events, (int)MIN(c->patience_ms, STOP_MS));
	} while (ret == -EAGAIN && clock_host_ns() < end_ns);
	return ret;
}

static int silent(const struct channel *c, struct err *e)
{
	return err_set(e, -ETIMEDOUT, "the connection is lost: the peer has been silent for %u ms", c->patience_ms);
}

/* ---- begin and end ---- */

static void init(struct channel *c, u32 patience_ms)
{
	*c = (struct channel){.fd = -1, .patience_ms = patience_ms, .last_received_ns = clock_host_ns(), .last_sent_ns = clock_host_ns()};
	pthread_mutex_init(&c->send_lock, NULL);
}

int channel_take(struct channel *c, int fd, struct tls_identity *id, u32 patience_ms, struct err *e)
{
	int ret;

	init(c, patience_ms);
	c->fd = fd;
	c->secured = !id;
	ret = channel_set_up_socket(fd, patience_ms, e);
	return ret == 0 && id ? tls_new(&c->tls, id, fd, NULL, e) : ret;
}

static int secure(struct channel *c, const char *address, struct tls_identity *id, struct err *e)
{
	auto_free char *host = NULL;
	int ret;

	c->secured = !channel_is_tls(address);
	if (c->secured)
		return 0;
	if (!id)
		return err_set(e, -EINVAL, "this husk has no certificate: it was started without --tls DIR");
	host = channel_host(address);
	ret = tls_new(&c->tls, id, c->fd, host, e);
	while (ret == 0 && !c->secured) {
		short events = 0;

		ret = tls_handshake(c->tls, &events, e);
		if (ret == 0)
			c->secured = true;
		else if (ret == -EAGAIN)
			ret = wait_wanted(c, events);
		if (ret == -EAGAIN)
			ret = silent(c, e);
		if (ret == -ECANCELED)
			ret = err_set(e, ret, "cancelled");
	}
	return ret;
}

int channel_connect(struct channel *c, const char *address, struct tls_identity *id, u32 patience_ms, struct err *e)
{
	return channel_connect_unless(c, address, id, patience_ms, NULL, NULL, e);
}

int channel_connect_unless(struct channel *c, const char *address, struct tls_identity *id, u32 patience_ms, bool (*stop)(void *opaque),
			   void *opaque, struct err *e)
{
	const struct dial_limit limit = {.ms = patience_ms, .stop = stop, .opaque = opaque};
	int ret;

	init(c, patience_ms);
	c->stop = stop;
	c->opaque = opaque;
	ret = channel_dial(address, &limit, &c->fd, e);
	if (ret == 0)
		ret = channel_set_up_socket(c->fd, patience_ms, e);
	if (ret == 0)
		ret = secure(c, address, id, e);
	return ret < 0 ? err_prefix(e, "%s", address) : 0;
}

int channel_greet(struct channel *c, struct err *e)
{
	short events = 0;
	int ret;

	if (c->secured)
		return 0;
	ret = tls_handshake(c->tls, &events, e);
	if (ret < 0)
		return ret;
	c->secured = true;
	return channel_pending(c) ? 0 : wait_for(c, POLLIN, 0);
}

bool channel_pending(const struct channel *c)
{
	return c->tls && tls_pending(c->tls);
}

static void drop_fds(struct channel *c)
{
	while (c->nr_fds)
		fd_close(&c->fds[--c->nr_fds]);
}

void channel_close(struct channel *c)
{
	tls_free(c->tls);
	c->tls = NULL;
	if (c->patience_ms)
		pthread_mutex_destroy(&c->send_lock);
	c->patience_ms = 0;
	fd_close(&c->fd);
	drop_fds(c);
	buf_fini(&c->body);
}

void channel_break(struct channel *c)
{
	if (c->fd >= 0)
		shutdown(c->fd, SHUT_RDWR);
}

/* ---- bytes ---- */

/* Takes n bytes off the front. */
static void advance(struct iovec **iov, u32 *nr, size_t n)
{
	while (*nr && n >= (*iov)->iov_len) {
		n -= (*iov)->iov_len;
		(*iov)++;
		(*nr)--;
	}
	if (*nr) {
		(*iov)->iov_base = (u8 *)(*iov)->iov_base + n;
		(*iov)->iov_len -= n;
	}
}

/* The front of the parts, as one piece. */
static size_t gather(const struct iovec *iov, u32 nr, u8 *out, size_t room)
{
	size_t n = 0;

	for (u32 i = 0; i < nr && n < room; i++) {
		size_t part = MIN(iov[i].iov_len, room - n);

		memcpy(out + n, iov[i].iov_base, part);
		n += part;
	}
	return n;
}

static ssize_t send_record(struct channel *c, const struct iovec *iov, u32 nr, short *events, struct err *e)
{
	u8 record[TLS_RECORD];

	return tls_send(c->tls, record, gather(iov, nr, record, sizeof(record)), events, e);
}

/* Room for the descriptors of one message (cmsg(3)). */
union fd_message {
	struct cmsghdr head;
	u8 room[CMSG_SPACE(PASSED_MAX * sizeof(int))];
};

/* What is to be sent: parts, and descriptors that go with the first byte. */
struct outgoing {
	struct iovec *iov;
	u32 nr;
	const int *fds;
	u32 nr_fds;
};

/* Some bytes of it. -EAGAIN: `events` have to come first, then the same again. */
static ssize_t send_some(struct channel *c, const struct outgoing *o, short *events, struct err *e)
{
	struct msghdr msg = {.msg_iov = o->iov, .msg_iovlen = o->nr};
	union fd_message fds;
	ssize_t n;

	if (c->tls)
		return send_record(c, o->iov, o->nr, events, e);
	if (o->nr_fds) {
		fds.head = (struct cmsghdr){CMSG_LEN(o->nr_fds * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
		memcpy(CMSG_DATA(&fds.head), o->fds, o->nr_fds * sizeof(int));
		msg.msg_control = &fds;
		msg.msg_controllen = CMSG_SPACE(o->nr_fds * sizeof(int));
	}
	do
		n = sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	*events = POLLOUT;
	if (n >= 0)
		return n;
	return errno == EAGAIN ? -EAGAIN : lost(e, errno);
}

/* Descriptors that came with some bytes: one message of them for a frame, or none. */
static int take_fds(struct channel *c, struct msghdr *msg, struct err *e)
{
	const struct cmsghdr *head = msg->msg_controllen ? CMSG_FIRSTHDR(msg) : NULL;
	bool more = c->nr_fds;

	if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS) {
		drop_fds(c);
		c->nr_fds = (u32)((head->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(c->fds, CMSG_DATA(head), c->nr_fds * sizeof(int));
		if (more)
			return err_set(e, -EPROTO, "descriptors come twice with one frame");
	}
	if (msg->msg_flags & MSG_CTRUNC)
		return err_set(e, -EMFILE, "descriptors that came did not all find room here (ulimit -n)");
	return 0;
}

/* As send_some; 0: the peer has closed. */
static ssize_t receive_some(struct channel *c, u8 *data, size_t len, short *events, struct err *e)
{
	struct iovec part = {data, len};
	union fd_message fds;
	struct msghdr msg;
	ssize_t n;
	int ret;

	if (c->tls)
		return tls_receive(c->tls, data, len, events, e);
	do {
		msg = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1, .msg_control = &fds, .msg_controllen = sizeof(fds)};
		n = recvmsg(c->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	*events = POLLIN;
	if (n >= 0) {
		ret = take_fds(c, &msg, e);
		return ret < 0 ? ret : n;
	}
	return errno == EAGAIN ? -EAGAIN : lost(e, errno);
}

static int write_all(struct channel *c, struct outgoing *o, struct err *e)
{
	while (o->nr) {
		short events = 0;
		ssize_t n = send_some(c, o, &events, e);
		int ret;

		if (n >= 0) {
			__atomic_fetch_add(&c->sent_bytes, (u64)n, __ATOMIC_RELAXED);
			__atomic_store_n(&c->last_sent_ns, clock_host_ns(), __ATOMIC_RELAXED);
			advance(&o->iov, &o->nr, (size_t)n);
			o->nr_fds = 0;
			continue;
		}
		if (n != -EAGAIN)
			return (int)n;
		ret = wait_wanted(c, events);
		if (ret == -EAGAIN)
			return silent(c, e);
		if (ret == -ECANCELED) {
			channel_break(c); /* in the middle of a frame, behind which nothing can come */
			return err_set(e, ret, "cancelled");
		}
		if (ret < 0)
			return lost(e, -ret);
	}
	return 0;
}

/* first: nothing of the frame has come yet, and for that there is wait_ms: -EAGAIN; the rest has the channel's patience. */
static int read_all(struct channel *c, u8 *data, size_t len, bool first, int wait_ms, struct err *e)
{
	while (len) {
		short events = 0;
		ssize_t n = receive_some(c, data, len, &events, e);
		int ret;

		if (n > 0) {
			__atomic_fetch_add(&c->received_bytes, (u64)n, __ATOMIC_RELAXED);
			__atomic_store_n(&c->last_received_ns, clock_host_ns(), __ATOMIC_RELAXED);
			data += n;
			len -= (size_t)n;
			first = false;
			continue;
		}
		if (n == 0)
			return err_set(e, -ECONNRESET, "the connection is lost: the peer has closed it");
		if (n != -EAGAIN)
			return (int)n;
		ret = wait_for(c, events, first ? wait_ms : (int)c->patience_ms);
		if (ret == -EAGAIN)
			return first ? -EAGAIN : silent(c, e);
		if (ret < 0)
			return lost(e, -ret);
	}
	return 0;
}

/* ---- frames ---- */

static int send_frame(struct channel *c, u16 type, const struct iovec *parts, u32 nr, const int *fds, u32 nr_fds, struct err *e)
{
	struct frame f = {.type = type, .epoch = c->epoch};
	u8 header[FRAME_HEADER_SIZE], tail[4];
	struct iovec iov[MAX_PARTS + 2];
	struct outgoing out = {.iov = iov, .nr = nr + 2, .fds = fds, .nr_fds = nr_fds};
	u32 crc = 0;
	int ret;

	ASSERT(nr <= MAX_PARTS);
	for (u32 i = 0; i < nr; i++) {
		crc = crc32c(crc, parts[i].iov_base, parts[i].iov_len);
		f.len += parts[i].iov_len;
		iov[i + 1] = parts[i];
	}
	ASSERT(type == FRAME_PACKAGE || f.len <= frame_cap(type, 0));
	st_le32(tail, crc);
	iov[0] = (struct iovec){header, sizeof(header)};
	iov[nr + 1] = (struct iovec){tail, sizeof(tail)};
	pthread_mutex_lock(&c->send_lock);
	f.seq = c->sent_seq++;
	frame_encode(&f, header);
	ret = write_all(c, &out, e);
	pthread_mutex_unlock(&c->send_lock);
	return ret < 0 ? err_prefix(e, "%s", frame_name(type)) : 0;
}

int channel_send(struct channel *c, u16 type, const struct iovec *parts, u32 nr, struct err *e)
{
	return send_frame(c, type, parts, nr, NULL, 0, e);
}

int channel_send_bytes(struct channel *c, u16 type, const void *body, size_t len, struct err *e)
{
	struct iovec part = {(void *)(uintptr_t)body, len};

	return channel_send(c, type, &part, 1, e);
}

int channel_send_fds(struct channel *c, u16 type, const void *body, size_t len, const int *fds, u32 nr, struct err *e)
{
	struct iovec part = {(void *)(uintptr_t)body, len};

	ASSERT(nr && nr <= PASSED_MAX && !c->tls);
	return send_frame(c, type, &part, 1, fds, nr, e);
}

/* Room for len bytes of body, as far as they have come: a peer that announces much and sends little costs little. */
static int make_room(struct channel *c, size_t len, struct err *e)
{
	u8 *more;

	if (c->body.cap >= len)
		return 0;
	more = realloc(c->body.data, len);
	if (!more)
		return err_set(e, -ENOMEM, "no memory for a frame of %zu bytes", len);
	c->body.data = more;
	c->body.cap = len;
	return 0;
}

static int read_body(struct channel *c, struct frame *f, struct err *e)
{
	u64 total = f->len + 4;
	int ret = 0;

	for (u64 got = 0; ret == 0 && got < total;) {
		u64 step = MIN(total - got, MAX(got, GROW));

		ret = make_room(c, got + step, e);
		if (ret == 0)
			ret = read_all(c, c->body.data + got, step, false, 0, e);
		got += step;
	}
	if (ret < 0)
		return ret;
	if (ld_le32(c->body.data + f->len) != crc32c(0, c->body.data, f->len))
		return err_set(e, -EPROTO, "its body is damaged (CRC)");
	f->body = c->body.data;
	return 0;
}

static int receive_one(struct channel *c, struct frame *f, int wait_ms, struct err *e)
{
	u8 header[FRAME_HEADER_SIZE];
	int ret;

	drop_fds(c);
	ret = read_all(c, header, sizeof(header), true, wait_ms, e);
	if (ret == 0)
		ret = frame_decode(header, c->package_cap, f, e);
	if (ret < 0)
		return ret;
	if (c->epoch == CHANNEL_ANY_EPOCH)
		c->epoch = f->epoch;
	if (f->epoch != c->epoch)
		return err_set(e, -EPROTO, "frame %s is of epoch %u, and this connection of epoch %u", frame_name(f->type), f->epoch,
			       c->epoch);
	if (f->seq != c->received_seq)
		return err_set(e, -EPROTO, "frame %s has number %llu in place of %llu", frame_name(f->type), (unsigned long long)f->seq,
			       (unsigned long long)c->received_seq);
	c->received_seq++;
	ret = read_body(c, f, e);
	if (ret == 0 && c->nr_fds && f->type != FRAME_PASSED)
		ret = err_set(e, -EPROTO, "%u descriptors come with it", c->nr_fds);
	return ret < 0 ? err_prefix(e, "frame %s", frame_name(f->type)) : 0;
}

int channel_receive(struct channel *c, struct frame *f, int wait_ms, struct err *e)
{
	int ret;

	do
		ret = receive_one(c, f, wait_ms, e);
	while (ret == 0 && f->type >= FRAME_TYPES);
	return ret;
}
