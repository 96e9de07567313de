/*
 * fuzz_vsock.c: a driver that sends any packet, and programs of the host that do anything with their sockets, against the vsock device;
 * saved and restored in between.
 * Whatever came before: after a reset of the driver, a connection each way works, and nothing of the old ones is left.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fuzz/input.h"
#include "tests/dev/fake_driver.h"
#include "virtio/vsock_dev.h"

/* The input is a sequence of operations, one byte each and its operands. What is missing at the end reads as zero. */
enum op {
	OP_PACKET, /* a packet from the guest: mostly a right one, with fields out of place */
	OP_CHAIN,  /* any bytes as a packet, in elements of any size */
	OP_BUFFERS,
	OP_CLIENT, /* a program connects, writes a line or something else */
	OP_WRITE,
	OP_READ,
	OP_SHUT,
	OP_CLOSE,
	OP_ACCEPT, /* the server on port PORT takes a guest's connection */
	OP_ANSWER, /* the guest looks at what it got, and accepts what is asked */
	OP_PAUSE,
	OP_RESET,
	OP_TIME, /* all time-outs are over */
	NR_OPS,
	OP_RESTORE = 254, /* the device is saved, and becomes what was saved */
	OP_EVENTS,	  /* buffers of the event queue */
};

#define CID	   3u
#define PORT	   52u
#define MAX_OPS	   300u
#define NR_FDS	   8u
#define RX_SIZE	   512u
#define PACKET	   0x10000u /* guest address, 128 KiB */
#define RX	   0x40000u /* and of receive buffers */
#define NR_RX	   64u
#define EVENTS	   0x50000u
#define RINGS	   MIB
#define RINGS_SIZE MIB
#define SETTLED	   64u /* turns of the loop within which everything has settled */
#define TX_SLOTS   64u

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

extern const struct device_class virtio_vsock_class;

struct rig {
	struct fake_vm f;
	struct device *dev;
	struct fdrv d;
	struct vsock_cfg cfg;
	char path[64];
	int server;
	int fds[NR_FDS]; /* of programs; -1: none */
	u32 next_rx;
	u32 last_port, last_guest; /* of the last packet to the guest */
};

static void settle(struct rig *r)
{
	for (u32 i = 0; i < SETTLED; i++)
		loop_turn(&r->f.vm.loop, 0);
}

static int unix_socket(const char *path, bool server)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	ASSERT(fd >= 0 && strlen(path) < sizeof(addr.sun_path));
	memcpy(addr.sun_path, path, strlen(path));
	if (server)
		ASSERT(bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(fd, 64) == 0);
	else
		ASSERT(connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0);
	return fd;
}

/* ---- the driver ---- */

static void post_events(struct rig *r, u32 nr, u32 size)
{
	const struct fbuf in = {EVENTS, size}; /* nobody looks at them */

	while (fdrv_get_used(&r->d, VSOCK_EVENTQ, NULL, NULL))
		;
	while (nr-- && fdrv_add(&r->d, VSOCK_EVENTQ, NULL, 0, &in, 1, NULL))
		;
	fdrv_notify(&r->d, VSOCK_EVENTQ);
}

static void post_buffers(struct rig *r, u32 nr, u32 size)
{
	while (nr--) {
		struct fbuf in = {RX + r->next_rx % NR_RX * RX_SIZE, size};

		if (!fdrv_add(&r->d, 0, NULL, 0, &in, 1, (void *)(uintptr_t)in.gpa))
			break;
		r->next_rx++; /* only now: as many as the queue holds are never the same */
	}
	fdrv_notify(&r->d, 0);
}

static void send_elements(struct rig *r, const struct fbuf *out, u16 nr)
{
	while (fdrv_get_used(&r->d, 1, NULL, NULL))
		;
	if (fdrv_add(&r->d, 1, out, nr, NULL, 0, NULL))
		fdrv_notify(&r->d, 1);
}

static void send_packet(struct rig *r, const struct virtio_vsock_hdr *h, u32 data)
{
	struct fbuf out[2] = {{PACKET, VSOCK_HDR_LEN}, {PACKET + VSOCK_HDR_LEN, data}};

	memcpy(fake_vm_ptr(&r->f, PACKET, VSOCK_HDR_LEN), h, VSOCK_HDR_LEN);
	send_elements(r, out, data ? 2 : 1);
}

static struct virtio_vsock_hdr right_packet(u16 op, u32 host_port, u32 guest_port, u32 len)
{
	return (struct virtio_vsock_hdr){
		.src_cid = CID,
		.dst_cid = VSOCK_HOST_CID,
		.src_port = guest_port,
		.dst_port = host_port,
		.len = len,
		.type = VIRTIO_VSOCK_TYPE_STREAM,
		.op = op,
		.buf_alloc = 64 * KIB,
	};
}

static void op_packet(struct rig *r, struct input *in)
{
	u8 what = (u8)take(in, 1), ports = (u8)take(in, 1), wrong;
	u32 len = (what & 15) == VIRTIO_VSOCK_OP_RW ? (u32)take(in, 2) : 0;
	struct virtio_vsock_hdr h = right_packet(what & 15, PORT, 1000 + (ports & 7), len);

	if (ports & 0x80) { /* about what came last */
		h.dst_port = r->last_port;
		h.src_port = r->last_guest;
	}
	if (h.op == VIRTIO_VSOCK_OP_SHUTDOWN)
		h.flags = ports >> 3 & 3;
	h.fwd_cnt = what & 0x10 ? (u32)take(in, 4) : 0;
	wrong = what & 0x80 ? (u8)take(in, 1) : 0;
	if (wrong & 1)
		h.src_cid = take(in, 8);
	if (wrong & 2)
		h.dst_cid = take(in, 8);
	if (wrong & 4)
		h.len = (u32)take(in, 4);
	if (wrong & 8)
		h.type = (u16)take(in, 2);
	if (wrong & 16)
		h.buf_alloc = (u32)take(in, 4);
	if (wrong & 32)
		h.dst_port = (u32)take(in, 4);
	if (wrong & 64)
		h.op = (u16)take(in, 2);
	send_packet(r, &h, len);
}

static void op_chain(struct rig *r, struct input *in)
{
	u32 nr = (u32)take(in, 1) % 32 + 1, at = 0;
	struct fbuf out[32];

	for (u32 i = 0; i < nr; i++) {
		out[i] = (struct fbuf){PACKET + at, (u32)take(in, 1) % 64};
		for (u32 j = 0; j < out[i].len; j++)
			*(u8 *)fake_vm_ptr(&r->f, PACKET + at++, 1) = (u8)take(in, 1);
	}
	send_elements(r, out, (u16)nr);
}

/* Looks at what came; the buffers are not given back. Returns how many packets had this op. */
static u32 look(struct rig *r, u16 op, bool accept_requests)
{
	void *token;
	u32 len, found = 0;

	while (fdrv_get_used(&r->d, 0, &token, &len)) {
		struct virtio_vsock_hdr h;

		ASSERT(len >= VSOCK_HDR_LEN && len <= RX_SIZE);
		memcpy(&h, fake_vm_ptr(&r->f, (u64)(uintptr_t)token, VSOCK_HDR_LEN), VSOCK_HDR_LEN);
		ASSERT(h.dst_cid == CID && h.len == len - VSOCK_HDR_LEN && h.op && h.op <= VIRTIO_VSOCK_OP_CREDIT_REQUEST);
		ASSERT(h.op == VIRTIO_VSOCK_OP_RST || (h.src_cid == VSOCK_HOST_CID && h.type == VIRTIO_VSOCK_TYPE_STREAM));
		r->last_port = h.src_port;
		r->last_guest = h.dst_port;
		found += h.op == op;
		if (accept_requests && h.op == VIRTIO_VSOCK_OP_REQUEST) {
			struct virtio_vsock_hdr yes = right_packet(VIRTIO_VSOCK_OP_RESPONSE, h.src_port, h.dst_port, 0);

			send_packet(r, &yes, 0);
			loop_turn(&r->f.vm.loop, 0);
		}
	}
	return found;
}

static void bring_up(struct rig *r, u64 features)
{
	fdrv_write(&r->d, MMIO_STATUS, 0);
	settle(r);
	r->f.next_gpa = RINGS;
	memset(fake_vm_ptr(&r->f, RINGS, RINGS_SIZE), 0, RINGS_SIZE);
	ASSERT(fdrv_probe(&r->d, &r->f, r->dev, features));
	fdrv_queue_setup(&r->d, 0, 64);
	fdrv_queue_setup(&r->d, 1, TX_SLOTS);
	fdrv_queue_setup(&r->d, 2, 8);
	ASSERT(r->f.next_gpa <= RINGS + RINGS_SIZE && fdrv_driver_ok(&r->d));
	settle(r);
}

/* ---- the programs ---- */

static int *any_fd(struct rig *r, struct input *in)
{
	return &r->fds[take(in, 1) % NR_FDS];
}

static void op_client(struct rig *r, struct input *in)
{
	int *fd = any_fd(r, in);
	u8 what = (u8)take(in, 1);
	char line[64];
	u32 len;

	if (*fd >= 0)
		return;
	*fd = unix_socket(r->path, false);
	if (what & 0x80) {
		len = (u32)snprintf(line, sizeof(line), "CONNECT %u\nhello", what & 7u);
		len -= what & 0x40 ? 5 : 0;
	} else {
		for (len = 0; len < (what & 63u); len++)
			line[len] = (char)take(in, 1);
	}
	(void)!write(*fd, line, len);
}

static void op_io(struct rig *r, struct input *in, enum op op)
{
	static u8 bytes[1 << 16];
	int *fd = any_fd(r, in);
	u32 len = op == OP_CLOSE ? 0 : (u32)take(in, 2);

	if (*fd < 0)
		return;
	if (op == OP_WRITE)
		(void)!send(*fd, bytes, len, MSG_NOSIGNAL);
	else if (op == OP_READ)
		(void)!read(*fd, bytes, len);
	else if (op == OP_SHUT)
		shutdown(*fd, (int)(len % 3));
	else
		fd_close(fd);
}

static void op_pause(struct rig *r)
{
	bool paused = to_vsock(to_virtio(r->dev))->paused;

	if (paused)
		r->dev->cls->resume(r->dev);
	else
		r->dev->cls->quiesce(r->dev);
}

/* ---- restore ---- */

/* What a device says of itself it takes back, whatever a driver did to it. */
static void reload(struct device *dev, const struct device_state *st, const void *data)
{
	auto_free void *loaded = xzalloc(st->table->size);
	struct buf bytes = {0};
	struct err e;

	state_encode(st->table, data, &bytes);
	ASSERT(state_decode(st->table, st->table->version, bytes.data, bytes.len, loaded, &e) == 0);
	ASSERT(!st->check || st->check(dev, loaded, &e) == 0);
	st->load(dev, loaded);
	buf_fini(&bytes);
}

static void op_restore(struct rig *r)
{
	struct virtio_vsock *vs = to_vsock(to_virtio(r->dev));
	void *data[2];
	struct err e;

	r->dev->cls->quiesce(r->dev);
	for (u32 i = 0; i < ARRAY_SIZE(data); i++) {
		data[i] = xzalloc(vsock_states[i]->table->size);
		ASSERT(vsock_states[i]->save(r->dev, data[i], &e) == 0);
	}
	while (!LIST_EMPTY(&vs->conns))
		vsock_conn_free(LIST_FIRST(&vs->conns));
	for (u32 i = 0; i < ARRAY_SIZE(data); i++) {
		reload(r->dev, vsock_states[i], data[i]);
		free(data[i]);
	}
	r->dev->cls->resume(r->dev);
}

/* ---- runs ---- */

static void run_op(struct rig *r, struct input *in)
{
	u8 code = (u8)take(in, 1);
	enum op op = (enum op)(code < OP_RESTORE ? code % NR_OPS : code);
	struct virtio_vsock *vs = to_vsock(to_virtio(r->dev));
	int *fd;

	switch (op) {
	case OP_PACKET:
		op_packet(r, in);
		break;
	case OP_CHAIN:
		op_chain(r, in);
		break;
	case OP_BUFFERS:
		look(r, 0, false);
		post_buffers(r, (u32)take(in, 1) % 32, RX_SIZE - (u32)take(in, 2) % RX_SIZE);
		break;
	case OP_CLIENT:
		op_client(r, in);
		break;
	case OP_WRITE:
	case OP_READ:
	case OP_SHUT:
	case OP_CLOSE:
		op_io(r, in, op);
		break;
	case OP_ACCEPT:
		fd = any_fd(r, in);
		if (*fd < 0)
			*fd = accept4(r->server, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		break;
	case OP_ANSWER:
		look(r, 0, true);
		break;
	case OP_PAUSE:
		op_pause(r);
		break;
	case OP_RESET:
		bring_up(r, FDRV_VERSION_1 | (take(in, 1) & 1 ? FDRV_PACKED : 0) | FDRV_INDIRECT | FDRV_EVENT_IDX);
		break;
	case OP_RESTORE:
		op_restore(r);
		break;
	case OP_EVENTS:
		post_events(r, (u32)take(in, 1) % 10, (u32)take(in, 1) % 16 + 1);
		break;
	case OP_TIME:
	case NR_OPS:
		if (vs->lost_timer.deadline_ns)
			loop_timer_arm(&r->f.vm.loop, &vs->lost_timer, 1);
		if (vs->timer.deadline_ns) {
			struct vsock_conn *c;

			TAILQ_FOREACH(c, &vs->waiting, waiting)
			c->deadline_ns = 1;
			loop_timer_arm(&r->f.vm.loop, &vs->timer, 1);
		}
		break;
	}
	loop_turn(&r->f.vm.loop, 0);
}

static void forget_programs(struct rig *r)
{
	int fd;

	for (u32 i = 0; i < NR_FDS; i++)
		fd_close(&r->fds[i]);
	while ((fd = accept(r->server, NULL, NULL)) >= 0)
		close(fd);
}

static void check_recovers(struct rig *r)
{
	struct virtio_vsock *vs = to_vsock(to_virtio(r->dev));
	struct virtio_vsock_hdr h = right_packet(VIRTIO_VSOCK_OP_REQUEST, PORT, 5, 0);
	char got[16] = "";

	if (vs->paused)
		op_pause(r);
	forget_programs(r);
	bring_up(r, FDRV_ALL_FEATURES);
	forget_programs(r);
	settle(r);
	bring_up(r, FDRV_ALL_FEATURES); /* what was asked for by clients that left */
	ASSERT(!vs->lost && vs->nr_conns == 0 && LIST_EMPTY(&vs->conns) && TAILQ_EMPTY(&vs->ready) && TAILQ_EMPTY(&vs->waiting));
	post_buffers(r, 16, RX_SIZE);
	send_packet(r, &h, 0);
	settle(r);
	ASSERT(look(r, VIRTIO_VSOCK_OP_RESPONSE, false) == 1);
	r->fds[0] = accept(r->server, NULL, NULL);
	ASSERT(r->fds[0] >= 0 && write(r->fds[0], "x", 1) == 1);
	r->fds[1] = unix_socket(r->path, false);
	ASSERT(write(r->fds[1], "CONNECT 6\n", 10) == 10);
	settle(r);
	ASSERT(look(r, VIRTIO_VSOCK_OP_RW, true) == 1);
	settle(r);
	ASSERT(read(r->fds[1], got, 3) == 3 && !memcmp(got, "OK ", 3));
	forget_programs(r);
}

static void make(struct rig *r)
{
	char dir[] = "/tmp/husk-fuzz-XXXXXX", port_path[96];

	ASSERT(mkdtemp(dir));
	snprintf(r->path, sizeof(r->path), "%s/v", dir);
	snprintf(port_path, sizeof(port_path), "%s_%u", r->path, PORT);
	r->cfg = (struct vsock_cfg){.guest_cid = CID, .uds_path = r->path};
	fake_vm_init(&r->f, FAKE_VM_QUIET);
	r->dev = fake_vm_add(&r->f, &virtio_vsock_class, &r->cfg);
	r->server = unix_socket(port_path, true);
	for (u32 i = 0; i < NR_FDS; i++)
		r->fds[i] = -1;
	r->d = (struct fdrv){.f = &r->f, .dev = r->dev, .base = r->dev->slot.mmio_base, .gsi = r->dev->slot.gsi};
}

static void unmake(struct rig *r)
{
	char name[96];

	snprintf(name, sizeof(name), "%s_%u", r->path, PORT);
	unlink(name);
	unlink(r->path);
	*strrchr(r->path, '/') = '\0';
	rmdir(r->path);
}

/* The process ends without telling: nothing of it is to stay in /tmp. */
static struct rig *the_rig(void)
{
	static struct rig r; /* kept over runs: making one takes longer than a run */

	if (!r.dev)
		make(&r);
	return &r;
}

static void at_end(void)
{
	unmake(the_rig());
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static bool registered;
	struct rig *r = the_rig();
	struct input in = {data, data + size};

	if (!registered)
		registered = atexit(at_end) == 0;
	ASSERT(fallocate(r->f.vm.mem.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)r->f.vm.mem.size) == 0);
	r->next_rx = r->last_port = r->last_guest = 0;
	bring_up(r, FDRV_ALL_FEATURES);
	for (u32 i = 0; i < MAX_OPS && in.at < in.end; i++)
		run_op(r, &in);
	check_recovers(r);
	return 0;
}
