/*
 * fuzz_vhost_user.c: a vhost-user back end that sends and writes anything, in every state of the connection, with a driver at work on the
 * other side. Whatever came before: a back end by the rules that comes next serves the driver.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "fuzz/input.h"
#include "tests/dev/fake_driver.h"
#include "virtio/vhost_user.h"

/* The input: how the connection begins, then operations, one byte each and its operands. What is missing at the end reads as zero. */
enum op {
	OP_MESSAGE, /* from the back end: header and payload, of any kind */
	OP_ANSWER,  /* what is asked next is answered, or refused */
	OP_RAW,	    /* any bytes */
	OP_BACKEND, /* a message on its own channel */
	OP_USED,    /* an entry of a used ring, and its index */
	OP_SHADOW,  /* 16 bits anywhere in a shadow ring */
	OP_CALL,
	OP_CHAIN,   /* the driver makes a request available */
	OP_USED_UP, /* the driver looks at what is done */
	OP_RESET,
	OP_PAUSE,
	OP_CLOSE,
	OP_ACCEPT, /* the next back end */
	OP_TIME,   /* what waits for time is due */
	OP_REFRESH,
	NR_OPS,
};

#define MAX_OPS	   300u
#define NR_QUEUES  2u
#define CONFIG_LEN 32u
#define RING	   16u
#define SETTLED	   8u /* turns of the loop */
#define RINGS	   MIB
#define RINGS_SIZE (64 * KIB)
#define DATA	   0x10000u /* guest address of the driver's buffers */

#define ALL_FEATURES (BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_INDIRECT_DESC) | BIT(VU_F_PROTOCOL_FEATURES) | 0xff)
#define ALL_PROTOCOL \
	(BIT(VU_P_MQ) | BIT(VU_P_REPLY_ACK) | BIT(VU_P_BACKEND_REQ) | BIT(VU_P_CONFIG) | BIT(VU_P_RESET_DEVICE) | BIT(VU_P_STATUS))

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

/* How a device begins. */
struct start {
	char *path;
	int fd; /* connected already; the device takes it */
	bool fails_when_lost;
};

struct rig {
	struct fake_vm f;
	struct device *dev;
	struct fdrv d;
	struct start start;
	char path[64];
	int listen_fd, peer, backend; /* the back end's ends; -1: none */
};

/* ---- the device ---- */

static int meet(struct vhost_user *u, struct err *e)
{
	return u->config[0] == 0xff ? err_set(e, -EPROTO, "it is not liked") : 0;
}

static bool admit(struct vhost_user *u, u16 queue, struct virtq_chain *c)
{
	(void)u;
	return queue != 1 || c->nr_out;
}

static u32 fail(struct vhost_user *u, struct virtq_chain *c)
{
	(void)u;
	if (!c->nr_in)
		return 0;
	memset(chain_in(c)[0].iov_base, 0xee, chain_in(c)[0].iov_len);
	return c->in_len;
}

static void lost(struct vhost_user *u)
{
	ASSERT(u->state == VU_DOWN);
}

static const struct vhost_user_ops holding_ops = {.meet = meet, .fail = fail};
static const struct vhost_user_ops failing_ops = {.meet = meet, .admit = admit, .fail = fail, .lost = lost};
static const struct virtio_ops device_ops = {
	.activate = vhost_user_activate,
	.queue_kick = vhost_user_queue_kick,
	.reset = vhost_user_reset,
	.config_read = vhost_user_config_read,
};

static struct vhost_user *user_of(struct device *dev)
{
	return to_vhost_user(to_virtio(dev));
}

static void destroy(struct device *dev)
{
	vhost_user_fini(user_of(dev));
	device_fini(dev);
	free(user_of(dev));
}

static int create(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct device **out,
		  struct err *e)
{
	const struct start *start = cfg;
	struct vhost_user *u = xzalloc(sizeof(*u));
	int ret;

	device_init(&u->vdev.dev, vm, cls, "fuzz", slot);
	vhost_user_prepare(u, start->fails_when_lost ? &failing_ops : &holding_ops, start->path);
	u->fd = start->fd;
	u->config_wanted = CONFIG_LEN;
	u->queues_wanted = NR_QUEUES;
	u->features_known = 0xff;
	u->vdev.ops = &device_ops;
	u->vdev.type = 2;
	u->vdev.config_len = CONFIG_LEN;
	ret = vhost_user_open(u, e);
	if (ret == 0)
		ret = vhost_user_init(u, NR_QUEUES, e);
	if (ret < 0)
		destroy(&u->vdev.dev);
	else
		*out = &u->vdev.dev;
	return ret;
}

static const struct device_class hostile_class = {.name = "fuzz-vhost-user", .mmio_slot = true, .create = create, .destroy = destroy};

/* ---- the back end ---- */

static void keep_or_close(struct rig *r, int fd)
{
	struct stat st;

	if (fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode) && r->backend < 0)
		r->backend = fd;
	else
		close(fd);
}

/* Reads what husk sends; of its descriptors the one of the own channel is kept. */
static void drain(struct rig *r)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(VU_MAX_REGIONS * sizeof(int))];
	} control;
	char bytes[4096];

	for (;;) {
		struct iovec iov = {.iov_base = bytes, .iov_len = sizeof(bytes)};
		struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};

		if (r->peer < 0 || recvmsg(r->peer, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) <= 0)
			break;
		for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
			for (size_t at = CMSG_LEN(0); at + sizeof(int) <= c->cmsg_len; at += sizeof(int)) {
				int fd;

				memcpy(&fd, (char *)c + at, sizeof(fd));
				keep_or_close(r, fd);
			}
		}
	}
	while (r->backend >= 0 && recv(r->backend, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
}

static void settle(struct rig *r)
{
	for (u32 i = 0; i < SETTLED; i++) {
		loop_turn(&r->f.vm.loop, 0);
		drain(r);
	}
}

static void hang_up(struct rig *r)
{
	fd_close(&r->peer);
	fd_close(&r->backend);
}

static void send_message(int fd, u32 request, u32 flags, u32 size, const void *payload, size_t len)
{
	struct vu_msg m = {.h = {request, flags, size}};

	ASSERT(len <= sizeof(m.p));
	memcpy(&m.p, payload, len);
	(void)!send(fd, &m, sizeof(m.h) + len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void send_answer(struct rig *r, u32 request, u64 value)
{
	struct vu_config c = {.size = CONFIG_LEN, .data = {(u8)value}};

	if (request == VU_GET_CONFIG)
		send_message(r->peer, request, VU_VERSION | VU_REPLY, VU_CONFIG_HEAD + CONFIG_LEN, &c, VU_CONFIG_HEAD + CONFIG_LEN);
	else
		send_message(r->peer, request, VU_VERSION | VU_REPLY, sizeof(value), &value, sizeof(value));
}

/* All that a connection begins with, by the rules. */
static void send_hello(struct rig *r)
{
	send_answer(r, VU_GET_FEATURES, ALL_FEATURES);
	send_answer(r, VU_GET_PROTOCOL_FEATURES, ALL_PROTOCOL);
	send_answer(r, VU_GET_QUEUE_NUM, NR_QUEUES);
	send_answer(r, VU_GET_CONFIG, 0);
}

/* Descriptors come with it now and then. */
static void op_message(int fd, struct input *in)
{
	static const u32 flags[] = {VU_VERSION | VU_REPLY,	VU_VERSION, VU_VERSION | VU_REPLY | VU_NEED_REPLY,
				    VU_VERSION | VU_NEED_REPLY, 0,	    ~0u};
	u32 request = (u32)take(in, 1), kind = (u32)take(in, 1), len = (u32)take(in, 1);
	u8 payload[256];

	for (u32 i = 0; i < len; i++)
		payload[i] = (u8)take(in, 1);
	if (fd >= 0)
		send_message(fd, request, flags[(kind & 15) % ARRAY_SIZE(flags)], kind & 0x80 ? (u32)take(in, 4) : len, payload, len);
}

static void op_raw(struct rig *r, struct input *in)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {.head = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))}};
	u32 what = (u32)take(in, 1), len = what & 63;
	u8 bytes[64];
	struct iovec iov = {.iov_base = bytes, .iov_len = len};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	for (u32 i = 0; i < len; i++)
		bytes[i] = (u8)take(in, 1);
	if (what & 0x80) {
		memcpy(CMSG_DATA(&control.head), &r->listen_fd, sizeof(int));
		m.msg_control = &control;
		m.msg_controllen = sizeof(control);
	}
	if (r->peer >= 0 && len)
		(void)!sendmsg(r->peer, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void op_answer(struct rig *r, struct input *in)
{
	struct vhost_user *u = user_of(r->dev);
	u32 what = (u32)take(in, 1), asked = u->nr_replies ? u->replies[u->first_reply % VU_MAX_REPLIES] : 0;
	u64 value = what & 1 ? take(in, 8) : 0;

	if (r->peer < 0 || !asked)
		return;
	if (!(what & 1))
		value = asked == VU_GET_FEATURES	    ? ALL_FEATURES
			: asked == VU_GET_PROTOCOL_FEATURES ? ALL_PROTOCOL
			: asked == VU_GET_QUEUE_NUM	    ? NR_QUEUES
							    : 0;
	send_answer(r, asked, value);
}

static u8 *ring_of(struct rig *r, struct input *in)
{
	return user_of(r->dev)->shadow + take(in, 1) % NR_QUEUES * VU_RING_BYTES;
}

static void op_used(struct rig *r, struct input *in)
{
	u8 *used = ring_of(r, in) + VU_RING_USED;
	u8 by = (u8)take(in, 1);
	u16 idx = ld_le16(used + 2);

	st_le32(used + 4 + 8 * (idx % VU_RING_SIZE), (u32)take(in, by & 0x80 ? 4 : 1));
	st_le32(used + 8 + 8 * (idx % VU_RING_SIZE), (u32)take(in, by & 0x40 ? 4 : 1));
	st_le16(used + 2, (u16)(idx + (by & 0x3f)));
}

static void op_shadow(struct rig *r, struct input *in)
{
	u8 *ring = ring_of(r, in);
	u32 at = (u32)take(in, 2);

	st_le16(ring + (at < 0x8000 ? VU_RING_USED + at % 64 : at % VU_RING_TABLES & ~1u), (u16)take(in, 2));
}

static void op_time(struct rig *r, struct input *in)
{
	struct vhost_user *u = user_of(r->dev);
	u8 what = (u8)take(in, 1);

	if (what & 1)
		u->deadline_ns = u->drain_end_ns = 1;
	if (what & 2)
		u->lost_ns = 0;
	if (u->timer.deadline_ns)
		loop_timer_arm(&r->f.vm.loop, &u->timer, 1);
}

static void op_accept(struct rig *r, struct input *in)
{
	bool good = take(in, 1) & 1;

	if (r->peer >= 0)
		return;
	r->peer = accept4(r->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (r->peer >= 0 && good)
		send_hello(r);
}

/* ---- the driver ---- */

/* Resets, also when the back end does not let go. */
static void bring_up(struct rig *r, u64 features)
{
	fdrv_write(&r->d, MMIO_STATUS, 0);
	settle(r);
	if (fdrv_read(&r->d, MMIO_STATUS))
		hang_up(r);
	settle(r);
	ASSERT(fdrv_read(&r->d, MMIO_STATUS) == 0);
	r->f.next_gpa = RINGS;
	memset(fake_vm_ptr(&r->f, RINGS, RINGS_SIZE), 0, RINGS_SIZE);
	ASSERT(fdrv_probe(&r->d, &r->f, r->dev, features));
	for (u16 i = 0; i < NR_QUEUES; i++)
		fdrv_queue_setup(&r->d, i, RING);
	ASSERT(fdrv_driver_ok(&r->d));
	settle(r);
}

static void op_chain(struct rig *r, struct input *in)
{
	u8 what = (u8)take(in, 1), lens = (u8)take(in, 1);
	u16 nr_out = what & 3, nr_in = what >> 2 & 3, queue = what >> 4 & 1;
	struct fbuf out[3], into[3];

	for (u32 i = 0; i < 3; i++) {
		out[i] = (struct fbuf){DATA + i * 0x100, lens & 15};
		into[i] = (struct fbuf){DATA + 0x1000 + i * 0x100, lens >> 4};
	}
	if (nr_out + nr_in && fdrv_add(&r->d, queue, out, nr_out, into, nr_in, NULL))
		fdrv_notify(&r->d, queue);
}

static void look(struct rig *r)
{
	u32 len;

	for (u16 i = 0; i < NR_QUEUES && r->d.q[i].size; i++) {
		while (fdrv_get_used(&r->d, i, NULL, &len))
			ASSERT(len <= 3 * 15);
	}
}

/* With requests in flight it would wait for them. */
static void op_pause(struct rig *r)
{
	struct vhost_user *u = user_of(r->dev);

	if (u->paused)
		vhost_user_resume(r->dev);
	else if (!vu_in_flight(u))
		vhost_user_quiesce(r->dev);
}

/* ---- runs ---- */

static void run_op(struct rig *r, struct input *in)
{
	struct vhost_user *u = user_of(r->dev);
	struct err e;

	switch ((enum op)(take(in, 1) % NR_OPS)) {
	case OP_MESSAGE:
		op_message(r->peer, in);
		break;
	case OP_ANSWER:
		op_answer(r, in);
		break;
	case OP_RAW:
		op_raw(r, in);
		break;
	case OP_BACKEND:
		op_message(r->backend, in);
		break;
	case OP_USED:
		op_used(r, in);
		break;
	case OP_SHADOW:
		op_shadow(r, in);
		break;
	case OP_CALL:
		ASSERT(eventfd_write(u->queues[take(in, 1) % NR_QUEUES].call_fd, 1) == 0);
		break;
	case OP_CHAIN:
		op_chain(r, in);
		break;
	case OP_USED_UP:
		look(r);
		break;
	case OP_RESET:
		bring_up(r, FDRV_VERSION_1 | 0xff | (take(in, 1) & 1 ? FDRV_PACKED : 0) | FDRV_INDIRECT);
		break;
	case OP_PAUSE:
		op_pause(r);
		break;
	case OP_CLOSE:
		hang_up(r);
		break;
	case OP_ACCEPT:
		op_accept(r, in);
		break;
	case OP_TIME:
		op_time(r, in);
		break;
	case OP_REFRESH:
	case NR_OPS:
		if (vhost_user_refresh(u, &e) < 0)
			ASSERT(e.code < 0 && *e.msg);
		break;
	}
	loop_turn(&r->f.vm.loop, 0);
	drain(r);
	ASSERT(u->nr_replies <= VU_MAX_REPLIES && vu_in_flight(u) <= NR_QUEUES * RING);
}

/* The next back end, by the rules: there may be some whose connection has begun and that nobody has accepted. */
static void next_peer(struct rig *r)
{
	struct vhost_user *u = user_of(r->dev);
	int stale;

	hang_up(r);
	settle(r);
	while ((stale = accept(r->listen_fd, NULL, NULL)) >= 0)
		close(stale);
	for (u32 i = 0; i < 8 && u->state < VU_READY; i++) {
		struct input in = {0};

		settle(r);
		op_time(r, &in);
		loop_turn(&r->f.vm.loop, 0);
		in = (struct input){(const u8 *)"\1", (const u8 *)"\1" + 1};
		op_accept(r, &in);
		settle(r);
		if (u->state == VU_DOWN)
			hang_up(r);
	}
	ASSERT(u->state == VU_READY || u->state == VU_RUNNING);
}

static void check_recovers(struct rig *r)
{
	struct vhost_user *u = user_of(r->dev);
	struct fbuf out = {DATA, 8}, into = {DATA + 0x100, 8};
	u8 *used = u->shadow + VU_RING_USED;
	u32 len = 0;

	if (u->paused)
		vhost_user_resume(r->dev);
	hang_up(r);
	settle(r);
	bring_up(r, FDRV_ALL_FEATURES);
	next_peer(r);
	ASSERT(u->state == VU_RUNNING && !vu_in_flight(u));
	ASSERT(fdrv_add(&r->d, 0, &out, 1, &into, 1, NULL));
	fdrv_notify(&r->d, 0);
	settle(r);
	ASSERT(vu_in_flight(u) == 1);
	memcpy(used + 4, u->shadow + VU_RING_AVAIL + 4, 2);
	st_le32(used + 8, 8);
	st_le16(used + 2, 1);
	ASSERT(eventfd_write(u->queues[0].call_fd, 1) == 0);
	settle(r);
	ASSERT(fdrv_get_used(&r->d, 0, NULL, &len) && len == 8);
}

/* Devices go with their VM, and so do their places on the bus. */
static void end_device(struct rig *r)
{
	destroy(r->f.vm.devices[--r->f.vm.nr_devices]);
	bus_fini(&r->f.vm.bus[BUS_MMIO]);
	bus_fini(&r->f.vm.bus[BUS_PIO]);
}

/* What the back end sends is there before husk asks, and its end follows: husk waits for nothing. */
static void begin_badly(struct rig *r, struct input *in)
{
	u32 nr = (u32)take(in, 1) % 8;
	struct err e = {0};
	int pair[2];

	ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	r->peer = pair[1];
	for (u32 i = 0; i < nr; i++) {
		static const u32 usual[] = {VU_GET_FEATURES, VU_GET_PROTOCOL_FEATURES, VU_GET_QUEUE_NUM, VU_GET_CONFIG};
		u8 what = (u8)take(in, 1);

		if (what & 0x80)
			op_message(r->peer, in);
		else
			send_answer(r, usual[what % 4], what & 0x40 ? take(in, 8) : what & 4 ? ALL_FEATURES : ALL_PROTOCOL);
	}
	shutdown(r->peer, SHUT_WR);
	r->start.fd = pair[0];
	r->dev = fake_vm_add_err(&r->f, &hostile_class, &r->start, &e);
	ASSERT(r->dev || (e.code < 0 && *e.msg));
	hang_up(r);
	if (r->dev)
		end_device(r);
}

static void begin(struct rig *r)
{
	int pair[2];

	ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	r->peer = pair[1];
	send_hello(r);
	r->start.fd = pair[0];
	r->dev = fake_vm_add(&r->f, &hostile_class, &r->start);
	r->d = (struct fdrv){.f = &r->f, .dev = r->dev, .base = r->dev->slot.mmio_base, .gsi = r->dev->slot.gsi};
	drain(r);
}

static void make(struct rig *r)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	char dir[] = "/tmp/husk-fuzz-XXXXXX";

	ASSERT(mkdtemp(dir));
	snprintf(r->path, sizeof(r->path), "%s/s", dir);
	memcpy(addr.sun_path, r->path, strlen(r->path));
	r->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	ASSERT(r->listen_fd >= 0 && bind(r->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(r->listen_fd, 16) == 0);
	r->start.path = r->path;
	r->peer = r->backend = -1;
	fake_vm_init(&r->f, FAKE_VM_QUIET);
}

/* The process ends without telling: nothing of it is to stay in /tmp. */
static struct rig *the_rig(void)
{
	static struct rig r; /* kept over runs, but for the device */

	if (!*r.path)
		make(&r);
	return &r;
}

static void at_end(void)
{
	struct rig *r = the_rig();

	unlink(r->path);
	*strrchr(r->path, '/') = '\0';
	rmdir(r->path);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static bool registered;
	struct rig *r = the_rig();
	struct input in = {data, data + size};
	u8 how;

	if (!registered)
		registered = atexit(at_end) == 0;
	ASSERT(fallocate(r->f.vm.mem.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)r->f.vm.mem.size) == 0);
	how = (u8)take(&in, 1);
	r->start.fails_when_lost = how & 1;
	if (how & 2)
		begin_badly(r, &in);
	begin(r);
	if (how & 4)
		bring_up(r, FDRV_ALL_FEATURES);
	for (u32 i = 0; i < MAX_OPS && in.at < in.end; i++)
		run_op(r, &in);
	check_recovers(r);
	hang_up(r);
	end_device(r);
	return 0;
}
