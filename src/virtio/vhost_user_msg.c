/* vhost_user_msg.c: sending and receiving vhost-user messages; see vhost_user_msg.h. */
#include "virtio/vhost_user_msg.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEAD sizeof(struct vu_header)

const char *vu_request_name(u32 request)
{
	static const char *const names[] = {
		[VU_GET_FEATURES] = "GET_FEATURES",
		[VU_SET_FEATURES] = "SET_FEATURES",
		[VU_SET_OWNER] = "SET_OWNER",
		[VU_SET_MEM_TABLE] = "SET_MEM_TABLE",
		[VU_SET_VRING_NUM] = "SET_VRING_NUM",
		[VU_SET_VRING_ADDR] = "SET_VRING_ADDR",
		[VU_SET_VRING_BASE] = "SET_VRING_BASE",
		[VU_GET_VRING_BASE] = "GET_VRING_BASE",
		[VU_SET_VRING_KICK] = "SET_VRING_KICK",
		[VU_SET_VRING_CALL] = "SET_VRING_CALL",
		[VU_GET_PROTOCOL_FEATURES] = "GET_PROTOCOL_FEATURES",
		[VU_SET_PROTOCOL_FEATURES] = "SET_PROTOCOL_FEATURES",
		[VU_GET_QUEUE_NUM] = "GET_QUEUE_NUM",
		[VU_SET_VRING_ENABLE] = "SET_VRING_ENABLE",
		[VU_SET_BACKEND_REQ_FD] = "SET_BACKEND_REQ_FD",
		[VU_GET_CONFIG] = "GET_CONFIG",
		[VU_RESET_DEVICE] = "RESET_DEVICE",
		[VU_SET_STATUS] = "SET_STATUS",
	};

	return request < ARRAY_SIZE(names) && names[request] ? names[request] : "an unknown request";
}

/* A peer may attach descriptors to anything; kept, they would use up husk's. */
static void close_fds(struct msghdr *m)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		const unsigned char *at = CMSG_DATA(c);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t left = c->cmsg_len - CMSG_LEN(0); left >= sizeof(int); left -= sizeof(int), at += sizeof(int)) {
			int fd;

			memcpy(&fd, at, sizeof(fd));
			close(fd);
		}
	}
}

/* Reads up to `len` bytes behind what is there. 0: all of them; 1: not yet. */
static int fill(struct vu_stream *s, int fd, size_t len, struct err *e)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(VU_MAX_REGIONS * sizeof(int))];
	} control;

	while (s->have < len) {
		struct iovec iov = {.iov_base = (u8 *)&s->msg + s->have, .iov_len = len - s->have};
		struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
		ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return 1;
		if (n < 0)
			return err_set(e, -ENOTCONN, "the connection failed: %s", strerror(errno));
		close_fds(&m);
		if (n == 0)
			return err_set(e, -ENOTCONN, "it closed the connection%s", s->have ? " in the middle of a message" : "");
		s->have += (u32)n;
	}
	return 0;
}

int vu_receive(struct vu_stream *s, int fd, struct err *e)
{
	int ret = fill(s, fd, HEAD, e);

	if (ret == 0 && (s->msg.h.flags & 3) != VU_VERSION)
		return err_set(e, -EPROTO, "it speaks version %u of the protocol", s->msg.h.flags & 3);
	if (ret == 0 && s->msg.h.size > sizeof(s->msg.p))
		return err_set(e, -EPROTO, "it sends a message of %u bytes", s->msg.h.size);
	if (ret == 0)
		ret = fill(s, fd, HEAD + s->msg.h.size, e);
	if (ret)
		return ret == 1 ? 0 : ret;
	s->have = 0;
	return 1;
}

int vu_transmit(int fd, const struct vu_msg *msg, const int *fds, u32 nr_fds, struct err *e)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(VU_MAX_REGIONS * sizeof(int))];
	} control = {0};
	struct iovec iov = {.iov_base = (void *)(uintptr_t)msg, .iov_len = HEAD + msg->h.size};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	ASSERT(nr_fds <= VU_MAX_REGIONS && msg->h.size <= sizeof(msg->p));
	if (nr_fds) {
		m.msg_control = &control;
		m.msg_controllen = CMSG_SPACE(nr_fds * sizeof(int));
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		control.head.cmsg_len = CMSG_LEN(nr_fds * sizeof(int));
		memcpy(CMSG_DATA(&control.head), fds, nr_fds * sizeof(int));
	}
	do {
		n = sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return err_set(e, -EPROTO, "it does not read what husk sends");
	if (n < 0)
		return err_set(e, -ENOTCONN, "the connection failed: %s", strerror(errno));
	/* A unix stream socket takes a message of this size whole or not at all. */
	return (size_t)n == iov.iov_len ? 0 : err_set(e, -EPROTO, "it does not read what husk sends");
}
