/* vhost_user_conn.c: the connection to a vhost-user back end: negotiation, start and stop of its rings, its answers; see vhost_user.h. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "virtio/vhost_user.h"

#define PROTOCOL_KNOWN \
	(BIT(VU_P_MQ) | BIT(VU_P_REPLY_ACK) | BIT(VU_P_BACKEND_REQ) | BIT(VU_P_CONFIG) | BIT(VU_P_RESET_DEVICE) | BIT(VU_P_STATUS))
#define MESSAGES_PER_TURN 16u

static bool protocol_has(const struct vhost_user *u, u32 bit)
{
	return u->protocol >> bit & 1;
}

/* ---- sending ---- */

/* Is the request one that has an answer by itself? Others are acknowledged when asked to (REPLY_ACK). */
static bool has_answer(u32 request)
{
	switch (request) {
	case VU_GET_FEATURES:
	case VU_GET_PROTOCOL_FEATURES:
	case VU_GET_QUEUE_NUM:
	case VU_GET_VRING_BASE:
	case VU_GET_CONFIG:
		return true;
	default:
		return false;
	}
}

/* The loop looks at the deadline: timers are its alone. */
static void expect(struct vhost_user *u, u32 request)
{
	ASSERT(u->nr_replies < VU_MAX_REPLIES);
	u->replies[(u->first_reply + u->nr_replies++) % VU_MAX_REPLIES] = request;
	if (u->nr_replies == 1)
		u->deadline_ns = clock_host_ns() + (u->state == VU_HELLO ? VU_HELLO_MS : VU_REPLY_MS) * NSEC_PER_MSEC;
	loop_post(&u->vdev.dev.vm->loop, &u->work);
}

/* ack: a mistake in this one shows up later or never, so the peer has to say that it is well. */
static int send_msg(struct vhost_user *u, struct vu_msg *m, u32 request, size_t size, bool ack, const int *fds, u32 nr_fds, struct err *e)
{
	int ret;

	ack = ack && protocol_has(u, VU_P_REPLY_ACK);
	m->h = (struct vu_header){.request = request, .flags = VU_VERSION | (ack ? VU_NEED_REPLY : 0), .size = (u32)size};
	ret = vu_transmit(u->fd, m, fds, nr_fds, e);
	if (ret == 0 && (ack || has_answer(request)))
		expect(u, request);
	return ret;
}

static int send_u64(struct vhost_user *u, u32 request, u64 val, bool ack, struct err *e)
{
	struct vu_msg m = {.p.u64 = val};

	return send_msg(u, &m, request, sizeof(m.p.u64), ack, NULL, 0, e);
}

static int send_plain(struct vhost_user *u, u32 request, struct err *e)
{
	struct vu_msg m = {0};

	return send_msg(u, &m, request, 0, false, NULL, 0, e);
}

static int send_state(struct vhost_user *u, u32 request, u32 queue, u32 num, struct err *e)
{
	struct vu_msg m = {.p.state = {.index = queue, .num = num}};

	return send_msg(u, &m, request, sizeof(m.p.state), false, NULL, 0, e);
}

static int send_fd(struct vhost_user *u, u32 request, u32 queue, int fd, struct err *e)
{
	struct vu_msg m = {.p.u64 = queue};

	return send_msg(u, &m, request, sizeof(m.p.u64), false, &fd, 1, e);
}

static int send_get_config(struct vhost_user *u, struct err *e)
{
	struct vu_msg m = {.p.config.size = u->config_wanted};

	return send_msg(u, &m, VU_GET_CONFIG, VU_CONFIG_HEAD + u->config_wanted, false, NULL, 0, e);
}

int vhost_user_refresh(struct vhost_user *u, struct err *e)
{
	if (u->state < VU_READY)
		return err_set(e, -ENOTCONN, "the vhost-user back end at \"%s\" is not there; start it again first", u->path);
	if (!protocol_has(u, VU_P_CONFIG))
		return err_set(e, -EOPNOTSUPP, "the vhost-user back end at \"%s\" has no configuration to read", u->path);
	if (u->nr_replies >= VU_MAX_REPLIES / 2)
		return err_set(e, -EBUSY, "the vhost-user back end at \"%s\" has not answered earlier questions yet; try again", u->path);
	return send_get_config(u, e);
}

/* ---- connecting ---- */

int vu_connect(struct vhost_user *u, struct err *e)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	auto_fd int fd = -1;

	if (u->fd < 0) {
		if (strlen(u->path) >= sizeof(addr.sun_path))
			return err_set(e, -EINVAL, "the socket path \"%s\" is longer than %zu bytes", u->path, sizeof(addr.sun_path) - 1);
		memcpy(addr.sun_path, u->path, strlen(u->path));
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (fd < 0)
			return err_errno(e, "cannot make a socket");
		if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
			return err_errno(e, "cannot connect to \"%s\"; is the vhost-user back end running?", u->path);
		u->fd = fd_take(&fd);
	}
	u->state = VU_HELLO;
	u->protocol = 0;
	u->peer_queues = 1;
	return send_plain(u, VU_GET_FEATURES, e);
}

void vu_disconnect(struct vhost_user *u)
{
	loop_unwatch(&u->watch);
	loop_unwatch(&u->backend_watch);
	fd_close(&u->fd);
	fd_close(&u->backend_fd);
	u->in.have = u->backend_in.have = 0;
	u->nr_replies = 0;
	u->state = VU_DOWN;
}

/* A channel on which the peer says that its configuration has changed. */
static int open_backend_channel(struct vhost_user *u, struct err *e)
{
	struct vu_msg m = {0};
	int pair[2], ret;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return err_errno(e, "cannot make a socket pair");
	ret = send_msg(u, &m, VU_SET_BACKEND_REQ_FD, 0, false, &pair[1], 1, e);
	close(pair[1]);
	u->backend_fd = pair[0];
	u->backend_watch.fd = pair[0];
	return ret;
}

/* Second half of negotiation: what the protocol features allow to ask. */
static int negotiate(struct vhost_user *u, u64 protocol, struct err *e)
{
	int ret;

	u->protocol = protocol & PROTOCOL_KNOWN;
	if (!u->config_wanted)
		u->protocol &= ~(BIT(VU_P_CONFIG) | BIT(VU_P_BACKEND_REQ));
	ret = send_u64(u, VU_SET_PROTOCOL_FEATURES, u->protocol, false, e);
	if (ret == 0)
		ret = send_plain(u, VU_SET_OWNER, e);
	if (ret == 0 && protocol_has(u, VU_P_BACKEND_REQ))
		ret = open_backend_channel(u, e);
	if (ret == 0 && protocol_has(u, VU_P_MQ))
		ret = send_plain(u, VU_GET_QUEUE_NUM, e);
	if (ret == 0 && protocol_has(u, VU_P_CONFIG))
		ret = send_get_config(u, e);
	return ret;
}

/* ---- rings ---- */

u32 vu_memory_table(const struct vhost_user *u, struct vu_memory *m, int *fds)
{
	const struct mem *mem = &u->vdev.dev.vm->mem;

	*m = (struct vu_memory){0};
	for (u32 i = 0; i < mem->nr_regions && m->nr < VU_MAX_REGIONS - 1; i++) {
		const struct mem_region *r = &mem->regions[i];

		if (r->file)
			continue;
		fds[m->nr] = mem->fd;
		m->regions[m->nr++] = (struct vu_region){r->gpa, r->size, VU_USER_BASE + r->gpa, r->fd_offset};
	}
	fds[m->nr] = u->shadow_fd;
	m->regions[m->nr++] = (struct vu_region){VU_SHADOW_GPA, u->shadow_len, VU_USER_BASE + VU_SHADOW_GPA, 0};
	return m->nr;
}

static int send_memory(struct vhost_user *u, struct err *e)
{
	struct vu_memory table;
	int fds[VU_MAX_REGIONS];
	u32 nr = vu_memory_table(u, &table, fds);
	struct vu_msg m = {.p.memory = table};

	return send_msg(u, &m, VU_SET_MEM_TABLE, offsetof(struct vu_memory, regions[nr]), true, fds, nr, e);
}

static int send_ring(struct vhost_user *u, struct vu_queue *q, struct err *e)
{
	struct vu_msg m = {.p.addr = {
				   .index = q->index,
				   .desc_user_addr = VU_USER_BASE + q->ring_addr,
				   .avail_user_addr = VU_USER_BASE + q->ring_addr + VU_RING_AVAIL,
				   .used_user_addr = VU_USER_BASE + q->ring_addr + VU_RING_USED,
			   }};
	int ret = send_state(u, VU_SET_VRING_NUM, q->index, VU_RING_SIZE, e);

	if (ret == 0)
		ret = send_state(u, VU_SET_VRING_BASE, q->index, 0, e);
	if (ret == 0)
		ret = send_msg(u, &m, VU_SET_VRING_ADDR, sizeof(m.p.addr), true, NULL, 0, e);
	if (ret == 0)
		ret = send_fd(u, VU_SET_VRING_CALL, q->index, q->call_fd, e);
	if (ret == 0)
		ret = send_fd(u, VU_SET_VRING_KICK, q->index, q->kick_fd, e);
	if (ret == 0 && u->offered >> VU_F_PROTOCOL_FEATURES & 1)
		ret = send_state(u, VU_SET_VRING_ENABLE, q->index, 1, e);
	return ret;
}

int vu_send_start(struct vhost_user *u, struct err *e)
{
	u64 features = u->ring_features | (u->vdev.driver_features & u->features_known);
	int ret;

	features |= u->offered & BIT(VU_F_PROTOCOL_FEATURES);
	ret = send_u64(u, VU_SET_FEATURES, features, true, e);
	if (ret == 0)
		ret = send_memory(u, e);
	for (u16 i = 0; ret == 0 && i < u->vdev.nr_queues; i++) {
		if (!u->queues[i].started)
			continue;
		ret = send_ring(u, &u->queues[i], e);
	}
	if (ret == 0 && protocol_has(u, VU_P_STATUS))
		ret = send_u64(u, VU_SET_STATUS, VIRTIO_S_ACKNOWLEDGE | VIRTIO_S_DRIVER | VIRTIO_S_FEATURES_OK | VIRTIO_S_DRIVER_OK, false,
			       e);
	return ret;
}

int vu_send_stop(struct vhost_user *u, struct err *e)
{
	int ret = 0;

	for (u16 i = 0; ret == 0 && i < u->vdev.nr_queues; i++) {
		if (u->queues[i].started)
			ret = send_state(u, VU_GET_VRING_BASE, i, 0, e);
	}
	if (ret == 0 && protocol_has(u, VU_P_STATUS))
		ret = send_u64(u, VU_SET_STATUS, 0, false, e);
	if (ret == 0 && protocol_has(u, VU_P_RESET_DEVICE))
		ret = send_plain(u, VU_RESET_DEVICE, e);
	return ret;
}

/* ---- answers ---- */

static int check_answer(struct vhost_user *u, struct err *e)
{
	const struct vu_header h = u->in.msg.h;
	u32 asked = u->replies[u->first_reply % VU_MAX_REPLIES];
	u32 size = asked == VU_GET_CONFIG ? (u32)VU_CONFIG_HEAD + u->config_wanted : 8;

	if (!u->nr_replies || !(h.flags & VU_REPLY))
		return err_set(e, -EPROTO, "it sends %s, which it was not asked for", vu_request_name(h.request));
	if (h.request != asked)
		return err_set(e, -EPROTO, "it answers %s with %s", vu_request_name(asked), vu_request_name(h.request));
	if (h.size != size)
		return err_set(e, -EPROTO, "it answers %s with %u bytes; %u are right", vu_request_name(asked), h.size, size);
	return 0;
}

static int take_config(struct vhost_user *u, struct err *e)
{
	u64 start = clock_host_ns();
	u8 old[VU_MAX_CONFIG];
	int ret;

	memcpy(old, u->config, sizeof(old));
	memcpy(u->config, u->in.msg.p.config.data, u->config_wanted);
	if (u->state == VU_HELLO)
		return 0; /* looked at when negotiation is done */
	ret = u->ops->meet(u, e);
	if (ret < 0) {
		memcpy(u->config, old, sizeof(old));
		u->counters.cfg_fails++;
		return ret;
	}
	virtio_config_changed(&u->vdev);
	u->counters.config_change_time_us = (clock_host_ns() - start) / 1000;
	return 0;
}

static int answered(struct vhost_user *u, u32 asked, struct err *e)
{
	u64 val = u->in.msg.p.u64;

	switch (asked) {
	case VU_GET_FEATURES:
		u->offered = val;
		if (!(val >> VIRTIO_F_VERSION_1 & 1))
			return err_set(e, -EPROTO, "it does not offer VIRTIO_F_VERSION_1; a newer one is needed");
		if (val >> VU_F_PROTOCOL_FEATURES & 1)
			return send_plain(u, VU_GET_PROTOCOL_FEATURES, e);
		return send_plain(u, VU_SET_OWNER, e);
	case VU_GET_PROTOCOL_FEATURES:
		return negotiate(u, val, e);
	case VU_GET_QUEUE_NUM:
		u->peer_queues = (u16)MIN(val, VU_MAX_QUEUES);
		return 0;
	case VU_GET_CONFIG:
		return take_config(u, e);
	case VU_GET_VRING_BASE:
		return 0;
	default:
		return val ? err_set(e, -EPROTO, "it refuses %s", vu_request_name(asked)) : 0;
	}
}

static int answer(struct vhost_user *u, struct err *e)
{
	u32 asked;
	int ret = check_answer(u, e);

	if (ret < 0)
		return ret;
	asked = u->replies[u->first_reply];
	u->first_reply = (u->first_reply + 1) % VU_MAX_REPLIES;
	u->nr_replies--;
	u->deadline_ns = clock_host_ns() + VU_REPLY_MS * NSEC_PER_MSEC;
	ret = answered(u, asked, e);
	if (ret == 0 && u->nr_replies == 0 && u->state == VU_HELLO)
		ret = vu_hello_done(u, e);
	else if (ret == 0 && u->nr_replies == 0 && u->state == VU_STOPPING)
		vu_stopped(u);
	return ret;
}

int vu_process(struct vhost_user *u, struct err *e)
{
	int ret = 1;

	for (u32 i = 0; ret == 1 && i < MESSAGES_PER_TURN; i++) {
		ret = vu_receive(&u->in, u->fd, e);
		if (ret == 1) {
			int rc = answer(u, e);

			if (rc < 0)
				return rc;
		}
	}
	return MIN(ret, 0);
}

/* ---- the peer's own channel ---- */

static int backend_asks(struct vhost_user *u, struct err *e)
{
	struct vu_msg m = u->backend_in.msg;
	bool known = m.h.request == VU_BACKEND_CONFIG_CHANGE;
	bool reply = m.h.flags & VU_NEED_REPLY;

	/* Many at once ask for no more than a few readings. */
	if (known && u->state >= VU_READY && u->nr_replies < VU_MAX_REPLIES / 2 && send_get_config(u, e) < 0)
		return e->code;
	if (!reply)
		return 0;
	m.h.flags = VU_VERSION | VU_REPLY;
	m.h.size = sizeof(m.p.u64);
	m.p.u64 = !known;
	return vu_transmit(u->backend_fd, &m, NULL, 0, e);
}

int vu_process_backend(struct vhost_user *u, struct err *e)
{
	int ret = vu_receive(&u->backend_in, u->backend_fd, e);

	if (ret == 1)
		ret = backend_asks(u, e);
	if (ret != -ENOTCONN)
		return ret;
	/* The peer may do without; its end of the main connection counts. */
	loop_unwatch(&u->backend_watch);
	return 0;
}
