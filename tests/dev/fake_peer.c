/* fake_peer.c: a vhost-user back end for tests; see fake_peer.h. */
#include "tests/dev/fake_peer.h"

#include <errno.h>
#include <linux/fuse.h>
#include <linux/virtio_blk.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/dev/fake_vm.h"
#include "virtio/virtio.h"

#define ADD(counter) __atomic_fetch_add(&p->counter, 1, __ATOMIC_SEQ_CST)

static void check(bool ok, const char *what)
{
	if (!ok)
		fake_die(what, NULL);
}

/* ---- memory ---- */

static void *at(struct fake_peer *p, u64 addr, u64 len, bool user)
{
	for (u32 i = 0; i < p->nr_regions; i++) {
		u64 offset = addr - (user ? p->regions[i].user : p->regions[i].gpa);

		if (offset < p->regions[i].size && len <= p->regions[i].size - offset)
			return p->regions[i].map + p->regions[i].offset + offset;
	}
	fake_die("the peer got an address that is in none of its regions", NULL);
}

static void unmap_all(struct fake_peer *p)
{
	for (u32 i = 0; i < p->nr_regions; i++)
		munmap(p->regions[i].map, p->regions[i].len);
	p->nr_regions = 0;
}

static void map_all(struct fake_peer *p, const struct vu_msg *msg, const int *fds, u32 nr_fds)
{
	const struct vu_memory copy = msg->p.memory, *m = &copy;

	check(m->nr == nr_fds && m->nr <= VU_MAX_REGIONS, "SET_MEM_TABLE: as many descriptors as regions");
	unmap_all(p);
	for (u32 i = 0; i < m->nr; i++) {
		const struct vu_region *r = &m->regions[i];

		p->regions[i].len = r->size + r->mmap_offset;
		p->regions[i].map = mmap(NULL, p->regions[i].len, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], 0);
		check(p->regions[i].map != MAP_FAILED, "the peer cannot map a region");
		p->regions[i].offset = r->mmap_offset;
		p->regions[i].gpa = r->guest_addr;
		p->regions[i].size = r->size;
		p->regions[i].user = r->user_addr;
		p->nr_regions++;
	}
}

/* ---- requests ---- */

struct piece {
	u8 *p;
	u32 len;
	bool write;
};

static u32 walk(struct fake_peer *p, u32 q, u16 head, struct piece *out, u32 max)
{
	const u8 *table = at(p, p->rings[q].desc, 16ull * p->rings[q].num, true), *d = table + head * 16;
	u32 nr = 0;

	if (ld_le16(d + 12) & 4) {
		ADD(indirect);
		table = d = at(p, ld_le64(d), ld_le32(d + 8), false);
	}
	for (;; d = table + ld_le16(d + 14) * 16) {
		check(nr < max, "a chain is too long for the peer");
		out[nr++] = (struct piece){at(p, ld_le64(d), ld_le32(d + 8), false), ld_le32(d + 8), ld_le16(d + 12) & 2};
		if (!(ld_le16(d + 12) & 1))
			return nr;
	}
}

static u32 do_disk(struct fake_peer *p, struct piece *s, u32 nr)
{
	struct virtio_blk_outhdr h;
	u64 pos;
	u32 written = 1;

	check(nr >= 2 && s[0].len == sizeof(h) && s[nr - 1].write && s[nr - 1].len == 1, "the test asks in header, data, status");
	memcpy(&h, s[0].p, sizeof(h));
	pos = h.sector * 512;
	for (u32 i = 1; i < nr - 1; i++) {
		check(pos + s[i].len <= PEER_DISK_BYTES, "beyond the end of the disk");
		if (h.type == VIRTIO_BLK_T_IN) {
			memcpy(s[i].p, p->disk + pos, s[i].len);
			written += s[i].len;
		} else if (h.type == VIRTIO_BLK_T_OUT) {
			memcpy(p->disk + pos, s[i].p, s[i].len);
		}
		pos += s[i].len;
	}
	*s[nr - 1].p = VIRTIO_BLK_S_OK;
	return written;
}

static u32 do_fs(struct piece *s, u32 nr)
{
	struct fuse_out_header out = {.len = sizeof(out)};
	struct fuse_in_header in;

	check(s[0].len >= sizeof(in), "a FUSE request has a header");
	memcpy(&in, s[0].p, sizeof(in));
	out.unique = in.unique;
	if (nr < 2 || !s[nr - 1].write)
		return 0;
	memcpy(s[nr - 1].p, &out, sizeof(out));
	return sizeof(out);
}

static void push(struct fake_peer *p, u32 q, u32 id, u32 len)
{
	u8 *used = at(p, p->rings[q].used, 4 + 8ull * p->rings[q].num, true);
	u8 *e = used + 4 + 8 * (p->rings[q].used_idx % p->rings[q].num);

	st_le32(e, id);
	st_le32(e + 4, p->used_len ? p->used_len : len);
	p->rings[q].used_idx++;
	__atomic_store_n((u16 *)(void *)(used + 2), p->rings[q].used_idx, __ATOMIC_RELEASE);
}

static void push_faulty(struct fake_peer *p, u32 q, u32 id, u32 len)
{
	switch (p->fault) {
	case PEER_USES_UNKNOWN:
		push(p, q, (id + 7) % p->rings[q].num, len);
		break;
	case PEER_USES_TWICE:
		push(p, q, id, len);
		push(p, q, id, len);
		break;
	case PEER_USES_FAR:
		p->rings[q].used_idx = (u16)(p->rings[q].used_idx + p->rings[q].num / 2);
		push(p, q, id, len);
		break;
	case PEER_USES_OUT_OF_RING:
		push(p, q, 70000, len);
		break;
	default:
		push(p, q, id, len);
		break;
	}
}

static void serve(struct fake_peer *p, u32 q)
{
	const u8 *avail;
	bool any = false;

	if (!p->rings[q].enabled || !p->rings[q].avail || p->rings[q].kick_fd < 0)
		return;
	avail = at(p, p->rings[q].avail, 4 + 2ull * p->rings[q].num, true);
	if (__atomic_load_n(&p->hold, __ATOMIC_SEQ_CST)) {
		u16 idx = __atomic_load_n((const u16 *)(const void *)(avail + 2), __ATOMIC_ACQUIRE);

		__atomic_store_n(&p->held, (u16)(idx - p->rings[q].last_avail), __ATOMIC_SEQ_CST);
		return;
	}
	while (__atomic_load_n((const u16 *)(const void *)(avail + 2), __ATOMIC_ACQUIRE) != p->rings[q].last_avail) {
		u16 head = ld_le16(avail + 4 + 2 * (p->rings[q].last_avail++ % p->rings[q].num));
		struct piece s[VIRTQ_MAX_SIZE];
		u32 nr = walk(p, q, head, s, ARRAY_SIZE(s));

		ADD(requests);
		push_faulty(p, q, head, p->kind == PEER_DISK ? do_disk(p, s, nr) : do_fs(s, nr));
		any = true;
	}
	if (any)
		check(eventfd_write(p->rings[q].call_fd, 1) == 0, "the peer cannot call");
}

/* ---- messages ---- */

static void reply(struct fake_peer *p, const struct vu_msg *ask, const void *data, u32 size)
{
	struct vu_msg m = {.h = {ask->h.request, VU_VERSION | VU_REPLY, size}};
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(2 * sizeof(int))];
	} control = {0};
	struct iovec iov = {.iov_base = &m};
	struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};

	memcpy((u8 *)&m + sizeof(m.h), data, size);
	if (p->fault == PEER_SHORT_ANSWER)
		m.h.size = 4;
	if (p->fault == PEER_OTHER_ANSWER)
		m.h.request = VU_GET_QUEUE_NUM;
	if (p->fault == PEER_NO_REPLY_FLAG)
		m.h.flags = VU_VERSION;
	if (p->fault == PEER_OTHER_VERSION)
		m.h.flags = VU_REPLY | 2;
	if (p->fault == PEER_EMPTY_CONFIG && ask->h.request == VU_GET_CONFIG)
		m.h.size = 0;
	iov.iov_len = sizeof(m.h) + m.h.size;
	if (p->fault == PEER_HUGE_ANSWER)
		m.h.size = UINT32_MAX;
	if (p->fault == PEER_HALF_MESSAGE)
		iov.iov_len = 15;
	if (p->fault == PEER_ATTACHES_FDS) {
		int fds[2] = {p->wake_fd, p->listen_fd};

		h.msg_control = &control;
		h.msg_controllen = sizeof(control);
		control.head = (struct cmsghdr){CMSG_LEN(sizeof(fds)), SOL_SOCKET, SCM_RIGHTS};
		memcpy(CMSG_DATA(&control.head), fds, sizeof(fds));
	}
	if (sendmsg(p->fd, &h, MSG_NOSIGNAL) < 0)
		return;
	if (p->fault == PEER_HALF_MESSAGE)
		shutdown(p->fd, SHUT_RDWR);
}

static void reply_u64(struct fake_peer *p, const struct vu_msg *ask, u64 val)
{
	reply(p, ask, &val, sizeof(val));
}

static u64 features(const struct fake_peer *p)
{
	u64 f = BIT(VIRTIO_F_VERSION_1) | BIT(VU_F_PROTOCOL_FEATURES) | BIT(VIRTIO_F_EVENT_IDX) | BIT(VIRTIO_F_INDIRECT_DESC) | p->extra;

	if (p->kind == PEER_DISK)
		f |= BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_CONFIG_WCE);
	if (p->no_indirect)
		f &= ~BIT(VIRTIO_F_INDIRECT_DESC);
	return p->fault == PEER_OLD ? f & ~BIT(VIRTIO_F_VERSION_1) : f;
}

static u64 protocol(const struct fake_peer *p)
{
	u64 f = BIT(VU_P_MQ) | BIT(VU_P_REPLY_ACK) | BIT(VU_P_BACKEND_REQ) | BIT(VU_P_CONFIG) | BIT(VU_P_STATUS) | BIT(VU_P_RESET_DEVICE) |
		BIT(40);

	return p->kind == PEER_FS || p->fault == PEER_NO_CONFIG ? f & ~BIT(VU_P_CONFIG) : f;
}

static void give_config(struct fake_peer *p, const struct vu_msg *ask)
{
	struct virtio_blk_config c = {
		.capacity = __atomic_load_n(&p->capacity, __ATOMIC_SEQ_CST),
		.blk_size = p->fault == PEER_ODD_BLOCKS ? 1000 : 512,
		.seg_max = 60000,
		.num_queues = p->queues,
	};
	struct vu_config answer = ask->p.config;

	check(answer.offset == 0 && answer.size <= sizeof(c) && ask->h.size == VU_CONFIG_HEAD + answer.size, "GET_CONFIG is well-formed");
	memcpy(answer.data, &c, answer.size);
	reply(p, ask, &answer, ask->h.size);
}

static void take_ring(struct fake_peer *p, const struct vu_msg *m, int fd)
{
	u32 q = m->h.request == VU_SET_VRING_KICK || m->h.request == VU_SET_VRING_CALL ? (u32)(m->p.u64 & 0xff) : m->p.state.index;

	check(q < p->queues, "the ring is one of the peer's");
	switch (m->h.request) {
	case VU_SET_VRING_NUM:
		p->rings[q].num = m->p.state.num;
		break;
	case VU_SET_VRING_BASE:
		p->rings[q].last_avail = p->rings[q].used_idx = (u16)m->p.state.num;
		break;
	case VU_SET_VRING_ADDR:
		p->rings[q].desc = m->p.addr.desc_user_addr;
		p->rings[q].avail = m->p.addr.avail_user_addr;
		p->rings[q].used = m->p.addr.used_user_addr;
		break;
	case VU_SET_VRING_KICK:
		fd_close(&p->rings[q].kick_fd);
		p->rings[q].kick_fd = dup(fd);
		ADD(starts);
		break;
	case VU_SET_VRING_CALL:
		fd_close(&p->rings[q].call_fd);
		p->rings[q].call_fd = dup(fd);
		break;
	case VU_SET_VRING_ENABLE:
		p->rings[q].enabled = m->p.state.num;
		break;
	default:
		p->rings[q].enabled = false;
		fd_close(&p->rings[q].kick_fd);
		ADD(stops);
		break;
	}
}

static void handle(struct fake_peer *p, const struct vu_msg *m, const int *fds, u32 nr_fds)
{
	u64 refusal = 0;

	switch (m->h.request) {
	case VU_GET_FEATURES:
		if (p->fault == PEER_CLOSES)
			shutdown(p->fd, SHUT_RDWR);
		reply_u64(p, m, features(p));
		return;
	case VU_GET_PROTOCOL_FEATURES:
		reply_u64(p, m, protocol(p));
		return;
	case VU_GET_QUEUE_NUM:
		reply_u64(p, m, p->queues);
		return;
	case VU_GET_CONFIG:
		give_config(p, m);
		return;
	case VU_GET_VRING_BASE:
		take_ring(p, m, -1);
		reply(p, m, &m->p.state, sizeof(m->p.state));
		return;
	case VU_SET_FEATURES:
		__atomic_store_n(&p->features, m->p.u64, __ATOMIC_SEQ_CST);
		check(!(m->p.u64 & ~features(p)), "acknowledged features are offered ones");
		break;
	case VU_SET_MEM_TABLE:
		map_all(p, m, fds, nr_fds);
		refusal = p->fault == PEER_REFUSES_MEMORY;
		break;
	case VU_SET_BACKEND_REQ_FD:
		check(nr_fds == 1, "one descriptor for the peer's channel");
		fd_close(&p->backend_fd);
		p->backend_fd = dup(fds[0]);
		break;
	case VU_SET_PROTOCOL_FEATURES:
		check(!(m->p.u64 & ~protocol(p)), "acknowledged protocol features are offered ones");
		break;
	case VU_SET_OWNER:
	case VU_SET_STATUS:
	case VU_RESET_DEVICE:
		break;
	default:
		take_ring(p, m, nr_fds ? fds[0] : -1);
		break;
	}
	if (m->h.flags & VU_NEED_REPLY)
		reply_u64(p, m, refusal);
	if (p->fault == PEER_UNASKED_ANSWER && m->h.request == VU_SET_VRING_ENABLE)
		reply_u64(p, m, 0);
}

/* False: the front end is gone. */
static bool read_message(struct fake_peer *p)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(VU_MAX_REGIONS * sizeof(int))];
	} control;
	struct vu_msg m = {0};
	struct iovec iov = {&m, sizeof(m.h)};
	struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	int fds[VU_MAX_REGIONS];
	u32 nr_fds = 0;
	struct cmsghdr *c;

	if (recvmsg(p->fd, &h, MSG_WAITALL | MSG_CMSG_CLOEXEC) != sizeof(m.h))
		return false;
	c = CMSG_FIRSTHDR(&h);
	if (c) {
		nr_fds = (u32)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(c), nr_fds * sizeof(int));
	}
	check(m.h.size <= sizeof(m.p) && (m.h.flags & 3) == VU_VERSION, "the front end's messages are well-formed");
	if (m.h.size && recv(p->fd, (u8 *)&m + sizeof(m.h), m.h.size, MSG_WAITALL) != (ssize_t)m.h.size)
		return false;
	handle(p, &m, fds, nr_fds);
	for (u32 i = 0; i < nr_fds; i++)
		close(fds[i]);
	return true;
}

static void forget(struct fake_peer *p)
{
	fd_close(&p->fd);
	fd_close(&p->backend_fd);
	unmap_all(p);
	for (u32 i = 0; i < PEER_MAX_QUEUES; i++) {
		fd_close(&p->rings[i].kick_fd);
		fd_close(&p->rings[i].call_fd);
		p->rings[i].enabled = false;
		p->rings[i].avail = 0;
	}
}

static void *run(void *arg)
{
	struct fake_peer *p = arg;

	while (!__atomic_load_n(&p->stop, __ATOMIC_SEQ_CST)) {
		struct pollfd f[3 + PEER_MAX_QUEUES] = {
			{p->wake_fd, POLLIN, 0}, {p->fd < 0 ? p->listen_fd : -1, POLLIN, 0}, {p->fd, POLLIN, 0}};
		eventfd_t n;

		for (u32 i = 0; i < PEER_MAX_QUEUES; i++)
			f[3 + i] = (struct pollfd){p->rings[i].kick_fd, POLLIN, 0};
		poll(f, ARRAY_SIZE(f), -1);
		if (f[0].revents)
			check(eventfd_read(p->wake_fd, &n) == 0, "wake");
		if (f[1].revents) {
			p->fd = accept4(p->listen_fd, NULL, NULL, SOCK_CLOEXEC);
			ADD(connections);
		}
		for (u32 i = 0; i < PEER_MAX_QUEUES; i++) {
			if (f[3 + i].revents && eventfd_read(p->rings[i].kick_fd, &n) < 0)
				continue;
			serve(p, i);
		}
		if (f[2].revents && !read_message(p))
			forget(p);
	}
	return NULL;
}

/* ---- life ---- */

void fake_peer_init(struct fake_peer *p, enum fake_peer_kind kind)
{
	*p = (struct fake_peer){.kind = kind,
				.queues = kind == PEER_FS ? 2 : 1,
				.capacity = PEER_DISK_BYTES / 512,
				.listen_fd = -1,
				.fd = -1,
				.backend_fd = -1,
				.wake_fd = -1};
	for (u32 i = 0; i < PEER_MAX_QUEUES; i++)
		p->rings[i].kick_fd = p->rings[i].call_fd = -1;
	snprintf(p->path, sizeof(p->path), "/tmp/husk-peer-%d-%p.sock", getpid(), (void *)p);
	p->disk = xzalloc(PEER_DISK_BYTES);
}

void fake_peer_start(struct fake_peer *p)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	memcpy(addr.sun_path, p->path, strlen(p->path));
	unlink(p->path);
	p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	p->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	check(p->listen_fd >= 0 && bind(p->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(p->listen_fd, 4) == 0,
	      "the peer cannot listen");
	p->stop = false;
	check(pthread_create(&p->thread, NULL, run, p) == 0, "no thread for the peer");
}

static void wake(struct fake_peer *p)
{
	check(eventfd_write(p->wake_fd, 1) == 0, "wake");
}

void fake_peer_stop(struct fake_peer *p)
{
	if (p->listen_fd < 0)
		return;
	__atomic_store_n(&p->stop, true, __ATOMIC_SEQ_CST);
	wake(p);
	pthread_join(p->thread, NULL);
	forget(p);
	unlink(p->path);
	fd_close(&p->listen_fd);
	fd_close(&p->wake_fd);
}

void fake_peer_release(struct fake_peer *p)
{
	__atomic_store_n(&p->hold, false, __ATOMIC_SEQ_CST);
	wake(p);
}

void fake_peer_config_changed(struct fake_peer *p)
{
	struct vu_header h = {.request = VU_BACKEND_CONFIG_CHANGE, .flags = VU_VERSION};

	check(send(p->backend_fd, &h, sizeof(h), MSG_NOSIGNAL) == sizeof(h), "the peer cannot tell of its change");
}

void fake_peer_fini(struct fake_peer *p)
{
	fake_peer_stop(p);
	free(p->disk);
}
