/*
 * net_stream.c: network backend on a stream socket to passt(1): networking without privileges.
 * On the wire each frame is a 32-bit big-endian length and the frame, without a virtio header (QEMU's -netdev stream).
 */
#include "virtio/backend/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "virtio/virtq.h"

#define LEN_SIZE 4u
#define WIRE_MAX (LEN_SIZE + NET_FRAME_MAX - NET_HDR_LEN)
/* Room for one frame behind another that is not whole yet; small ones are read many at a time. */
#define RX_SIZE (2 * WIRE_MAX)

struct net_stream {
	struct net_backend b; /* first */
	u8 *rx;		      /* owned, RX_SIZE; frames from rx_head to rx_tail */
	u32 rx_head, rx_tail;
	u8 *tx; /* owned, WIRE_MAX; the rest of a frame that the socket took in part; NULL until that happens */
	u32 tx_head, tx_tail;
};

static struct net_stream *to_stream(struct net_backend *b)
{
	return container_of(b, struct net_stream, b);
}

/* Bytes of the next frame without its length, when all of it is there; 0: not yet; -EPROTO: out of step. */
static int whole_frame(const struct net_stream *s)
{
	u32 have = s->rx_tail - s->rx_head, len;

	if (have < LEN_SIZE)
		return 0;
	len = ntohl(ld_le32(s->rx + s->rx_head));
	if (len == 0 || len > WIRE_MAX - LEN_SIZE)
		return -EPROTO;
	return have >= LEN_SIZE + len ? (int)len : 0;
}

static int fill(struct net_stream *s)
{
	ssize_t n;

	memmove(s->rx, s->rx + s->rx_head, s->rx_tail - s->rx_head);
	s->rx_tail -= s->rx_head;
	s->rx_head = 0;
	n = recv(s->b.fds[0], s->rx + s->rx_tail, RX_SIZE - s->rx_tail, MSG_DONTWAIT);
	if (n < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	s->rx_tail += (u32)n;
	return n ? 0 : -ENOTCONN;
}

static ssize_t stream_recv(struct net_backend *b, u32 pair, const struct iovec *iov, u32 nr)
{
	static const struct virtio_net_hdr_v1 no_offloads;
	struct net_stream *s = to_stream(b);
	int len = whole_frame(s);

	(void)pair;
	if (len == 0) {
		int rc = fill(s);

		if (rc < 0)
			return rc;
		len = whole_frame(s);
	}
	if (len <= 0)
		return len ? len : -EAGAIN;
	iov_write(iov, nr, 0, &no_offloads, NET_HDR_LEN);
	iov_write(iov, nr, NET_HDR_LEN, s->rx + s->rx_head + LEN_SIZE, (u32)len);
	s->rx_head += LEN_SIZE + (u32)len;
	b->more_in = whole_frame(s) != 0;
	return (ssize_t)NET_HDR_LEN + len;
}

static int stream_flush(struct net_backend *b)
{
	struct net_stream *s = to_stream(b);

	while (s->tx_head < s->tx_tail) {
		ssize_t n = send(b->fds[0], s->tx + s->tx_head, s->tx_tail - s->tx_head, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -errno;
		s->tx_head += (u32)n;
	}
	b->more_out = false;
	return 0;
}

/* The socket took `sent` bytes of the frame: a stream must get the rest before anything else. */
static void keep_rest(struct net_stream *s, const struct iovec *iov, u32 nr, u32 sent, u32 total)
{
	if (!s->tx)
		s->tx = xzalloc(WIRE_MAX);
	s->tx_head = 0;
	s->tx_tail = iov_read(iov, nr, sent, s->tx, total - sent);
	s->b.more_out = true;
}

/* Copies iov without its first `skip` bytes to out; returns how many entries that takes. */
static u32 iov_behind(const struct iovec *iov, u32 nr, u32 skip, struct iovec *out)
{
	u32 n = 0;

	for (u32 i = 0; i < nr; i++) {
		u32 pass = (u32)MIN(iov[i].iov_len, skip);

		skip -= pass;
		if (iov[i].iov_len > pass)
			out[n++] = (struct iovec){.iov_base = (u8 *)iov[i].iov_base + pass, .iov_len = iov[i].iov_len - pass};
	}
	return n;
}

static int stream_send(struct net_backend *b, u32 pair, const struct iovec *iov, u32 nr, u32 len)
{
	struct net_stream *s = to_stream(b);
	struct iovec wire[VIRTQ_MAX_SIZE + 1];
	u32 wire_len = htonl(len - NET_HDR_LEN), total = LEN_SIZE + len - NET_HDR_LEN;
	struct msghdr msg = {.msg_iov = wire};
	ssize_t n;

	(void)pair;
	if (b->more_out)
		return -EAGAIN;
	wire[0] = (struct iovec){.iov_base = &wire_len, .iov_len = LEN_SIZE};
	msg.msg_iovlen = 1 + iov_behind(iov, nr, NET_HDR_LEN, wire + 1);
	n = sendmsg(b->fds[0], &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
		return -ENOTCONN;
	if (n < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	if ((u32)n < total)
		keep_rest(s, wire, (u32)msg.msg_iovlen, (u32)n, total);
	return 0;
}

static void stream_close(struct net_backend *b)
{
	struct net_stream *s = to_stream(b);

	fd_close(&b->fds[0]);
	free(b->name);
	free(s->rx);
	free(s->tx);
	free(s);
}

static const struct net_backend_ops stream_ops = {
	.recv = stream_recv,
	.send = stream_send,
	.flush = stream_flush,
	.close = stream_close,
};

static int connect_to(const char *path, int *out, struct err *e)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	auto_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(addr.sun_path))
		return err_set(e, -ENAMETOOLONG, "passt socket \"%s\": a path has at most %zu bytes", path, sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, path, strlen(path));
	if (fd < 0)
		return err_errno(e, "passt socket \"%s\"", path);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		if (errno == ENOENT || errno == ECONNREFUSED)
			return err_set(e, -errno, "nobody listens on passt socket \"%s\": start `passt --socket %s` first", path, path);
		return err_errno(e, "passt socket \"%s\"", path);
	}
	*out = fd_take(&fd);
	return 0;
}

int net_stream_open(struct net_backend **out, const char *path, struct err *e)
{
	struct net_stream *s;
	int fd = -1, rc;

	rc = connect_to(path, &fd, e);
	if (rc < 0)
		return rc;
	s = xzalloc(sizeof(*s));
	s->b.ops = &stream_ops;
	s->b.name = xasprintf("passt socket \"%s\"", path);
	s->b.nr_fds = 1;
	s->b.fds[0] = fd;
	s->rx = xzalloc(RX_SIZE);
	*out = &s->b;
	return 0;
}
