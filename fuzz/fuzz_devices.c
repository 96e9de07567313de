/*
 * fuzz_devices.c: a driver that asks anything of each virtio device, and an API that changes it meanwhile. The first byte says which
 * device. Whatever came before: after a reset the device answers a plain request. (vsock and vhost-user have targets of their own; what
 * rings can be made of is fuzz_virtqueue's.)
 */
#include <errno.h>
#include <json-c/json.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_mem.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fuzz/input.h"
#include "fuzz/no_files.h"
#include "tests/dev/fake_driver.h"
#include "vmm/config_table.h"

/* The input: the device, features, then operations, one byte each and its operands. What is missing at the end reads as zero. The
 * operation's highest bit: what it began may still be under way at the next one. */
enum op {
	OP_REQUEST, /* one that the device knows, with fields of any value */
	OP_CHAIN,   /* elements of any kind, at any address */
	OP_BYTES,   /* any bytes into the driver's memory */
	OP_REGISTER,
	OP_CONFIG,
	OP_LOOK,  /* at what is done */
	OP_RESET, /* and a new start */
	OP_PAUSE,
	OP_API,	 /* PATCH and GET */
	OP_HOST, /* bytes from the host's end of a network or console */
	OP_TIME, /* the next timer is due */
	NR_OPS,
};

#define MAX_OPS	    200u
#define QUEUE_SIZE  16u
#define MAX_QUEUES  5u
#define OUT	    0x10000u /* guest addresses of the driver's buffers */
#define IN	    0x20000u
#define PAGES	    (64 * MIB) /* and of pages that it gives away */
#define RINGS	    (1 * MIB)
#define RINGS_SIZE  (128 * KIB)
#define PLUG	    (8 * GIB) /* memory to be plugged in */
#define BLOCK	    (2 * MIB)
#define SETTLE_MS   1
#define MAX_SETTLES 5000u

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

struct rig;

struct request {
	u16 queue;
	u32 out, in; /* bytes at OUT, at IN */
};

/* A kind of device. */
struct kind {
	const char *class_name, *config; /* JSON text; %s: the folder of sockets */
	u16 nr_queues;
	/* Writes what is at OUT; with no input left the plainest one. */
	struct request (*request)(struct rig *r, struct input *in);
	const char *socket;    /* in the folder: that the device connects to */
	const char *bodies[4]; /* of PATCH, by number of the operation; %u: any number */
};

struct rig {
	const struct kind *kind;
	struct fake_vm f;
	struct device *dev;
	struct fdrv d;
	void *cfg;
	bool paused;
	char dir[32], path[64];
	int listen_fd, peer;
};

static u32 fill(struct rig *r, struct input *in, u32 at, u32 len)
{
	u8 *to = fake_vm_ptr(&r->f, OUT + at, len);

	for (u32 i = 0; i < len; i++)
		to[i] = (u8)take(in, 1);
	return len;
}

/* ---- requests by the rules ---- */

static struct request balloon_request(struct rig *r, struct input *in)
{
	u16 queue = (u16)take(in, 1) % MAX_QUEUES;
	u32 nr = (u32)take(in, 1) % 16, first = (u32)take(in, 1), step = (u32)take(in, 1);
	u8 *out = fake_vm_ptr(&r->f, OUT, 256);

	switch (queue) {
	case 2: /* statistics: tag and value */
		return (struct request){queue, fill(r, in, 0, nr * 10), 0};
	case 3: /* hinting: a command, or pages */
		st_le32(out, first);
		return (struct request){queue, nr & 1 ? 4 : 0, nr & 1 ? 0 : step * 64};
	case 4:
		return (struct request){queue, 0, first * 64};
	default:
		for (u32 i = 0; i <= nr; i++)
			st_le32(out + 4 * i, (u32)(PAGES / MEM_PAGE_SIZE) + first + i * step);
		if (step == 255)
			st_le32(out, (u32)take(in, 4));
		return (struct request){queue, 4 * (nr + 1), 0};
	}
}

static struct request blk_request(struct rig *r, struct input *in)
{
	static const u32 types[] = {VIRTIO_BLK_T_IN,
				    VIRTIO_BLK_T_OUT,
				    VIRTIO_BLK_T_FLUSH,
				    VIRTIO_BLK_T_GET_ID,
				    VIRTIO_BLK_T_DISCARD,
				    VIRTIO_BLK_T_WRITE_ZEROES,
				    77};
	u32 type = types[take(in, 1) % ARRAY_SIZE(types)], len = (u32)take(in, 1) * 64;
	u8 *out = fake_vm_ptr(&r->f, OUT, 16);
	bool writes = type == VIRTIO_BLK_T_OUT;

	st_le32(out, type);
	st_le32(out + 4, 0);
	st_le64(out + 8, take(in, 2));
	if (type == VIRTIO_BLK_T_DISCARD || type == VIRTIO_BLK_T_WRITE_ZEROES)
		return (struct request){0, 16 + fill(r, in, 16, 16 * (len / 64 % 4)), 1};
	return (struct request){0, 16 + (writes ? len : 0), 1 + (writes ? 0 : len)};
}

static struct request pmem_request(struct rig *r, struct input *in)
{
	st_le32(fake_vm_ptr(&r->f, OUT, 4), (u32)take(in, 1));
	return (struct request){0, 4, 4};
}

static struct request mem_request(struct rig *r, struct input *in)
{
	u8 *out = fake_vm_ptr(&r->f, OUT, 24);
	u8 type = (u8)take(in, 1);

	memset(out, 0, 24);
	st_le16(out, type ? type % 5 : VIRTIO_MEM_REQ_STATE);
	st_le64(out + 8, PLUG + take(in, 2) * (type & 0x80 ? 0x1000 : BLOCK));
	st_le16(out + 16, (u16)(take(in, type & 0x40 ? 2 : 1) + 1));
	return (struct request){0, 24, 10};
}

static struct request rng_request(struct rig *r, struct input *in)
{
	(void)r;
	return (struct request){0, 0, (u32)take(in, 2) + 1};
}

static struct request net_request(struct rig *r, struct input *in)
{
	u8 what = (u8)take(in, 1);
	u32 len = (u32)take(in, 1);

	if (what & 1)
		return (struct request){0, 0, len * 16 + 1}; /* a buffer for frames */
	if (what & 2)
		return (struct request){2, fill(r, in, 0, 2 + len % 8), 1}; /* control */
	return (struct request){1, fill(r, in, 0, 12 + 60 + len), 0};
}

static struct request console_request(struct rig *r, struct input *in)
{
	u32 what = (u32)take(in, 1);

	return what & 1 ? (struct request){0, 0, what} : (struct request){1, fill(r, in, 0, 1 + what), 0};
}

static const struct kind kinds[] = {
	{"virtio-balloon",
	 "{\"amount_mib\":4,\"deflate_on_oom\":true,\"stats_polling_interval_s\":1,\"free_page_hinting\":true,\"free_page_reporting\":"
	 "true}",
	 5,
	 balloon_request,
	 NULL,
	 {"{\"amount_mib\":%u}", "{\"stats_polling_interval_s\":%u}", "{\"acknowledge_on_stop\":true}", NULL}},
	{"virtio-blk",
	 "{\"drive_id\":\"d\",\"is_root_device\":false,\"path_on_host\":\"/disk0\",\"cache_type\":\"Writeback\"}",
	 1,
	 blk_request,
	 NULL,
	 {"{\"drive_id\":\"d\",\"path_on_host\":\"/disk1\",\"rate_limiter\":{\"ops\":{\"size\":%u,\"refill_time\":1}}}"}},
	{"virtio-blk",
	 "{\"drive_id\":\"d\",\"is_root_device\":false,\"path_on_host\":\"/disk0\",\"io_engine\":\"Async\",\"num_queues\":2,"
	 "\"rate_limiter\":{\"ops\":{\"size\":20,\"refill_time\":1}}}",
	 2,
	 blk_request,
	 NULL,
	 {"{\"drive_id\":\"d\",\"path_on_host\":\"/disk0\",\"rate_limiter\":{\"bandwidth\":{\"size\":%u,\"refill_time\":0}}}"}},
	{"virtio-pmem",
	 "{\"id\":\"p\",\"path_on_host\":\"/disk1\",\"rate_limiter\":{\"ops\":{\"size\":5,\"refill_time\":1}}}",
	 1,
	 pmem_request,
	 NULL,
	 {"{\"id\":\"p\",\"rate_limiter\":{\"ops\":{\"size\":%u,\"refill_time\":1}}}"}},
	{"virtio-mem", "{\"total_size_mib\":512}", 1, mem_request, NULL, {"{\"requested_size_mib\":%u}"}},
	{"virtio-rng", "{\"rate_limiter\":{\"bandwidth\":{\"size\":100000,\"refill_time\":1}}}", 1, rng_request, NULL, {NULL}},
	{"virtio-net",
	 "{\"iface_id\":\"n\",\"passt_socket\":\"%s/net\",\"guest_mac\":\"06:00:ac:10:00:02\",\"mtu\":1400}",
	 2,
	 net_request,
	 "net",
	 {"{\"iface_id\":\"n\",\"tx_rate_limiter\":{\"ops\":{\"size\":%u,\"refill_time\":1}}}"}},
	{"virtio-console", "{\"mode\":\"unix:%s/console\"}", 2, console_request, NULL, {NULL}},
};

/* ---- the driver ---- */

static void turn(struct rig *r, int wait_ms)
{
	loop_turn(&r->f.vm.loop, wait_ms);
}

static bool has_ended(struct rig *r)
{
	return fdrv_read(&r->d, MMIO_STATUS) == 0;
}

/* Threads of the device may still be at work. */
static void reset(struct rig *r)
{
	fdrv_write(&r->d, MMIO_STATUS, 0);
	for (u32 i = 0; i < MAX_SETTLES && !has_ended(r); i++)
		turn(r, SETTLE_MS);
	ASSERT(has_ended(r));
	turn(r, 0);
}

/* False: the device refuses to work with so few features. */
static bool bring_up(struct rig *r, u64 features)
{
	bool ok;

	reset(r);
	r->f.next_gpa = RINGS;
	memset(fake_vm_ptr(&r->f, RINGS, RINGS_SIZE), 0, RINGS_SIZE);
	ASSERT(fdrv_probe(&r->d, &r->f, r->dev, features));
	for (u16 i = 0; i < r->kind->nr_queues && fdrv_read(&r->d, (fdrv_write(&r->d, MMIO_QUEUE_SEL, i), MMIO_QUEUE_NUM_MAX)); i++)
		fdrv_queue_setup(&r->d, i, QUEUE_SIZE);
	ok = fdrv_driver_ok(&r->d);
	turn(r, 0);
	return ok;
}

static void look(struct rig *r)
{
	u32 len;

	for (u16 i = 0; i < MAX_QUEUES && r->d.q[i].size; i++) {
		while (fdrv_get_used(&r->d, i, NULL, &len))
			;
	}
}

/* In pieces, so that the device has to put them together. */
static u16 split(struct fbuf *to, u64 gpa, u32 len, u32 piece)
{
	u16 nr = 0;

	while (len && nr < 7) {
		to[nr] = (struct fbuf){gpa, nr == 6 ? len : MIN(len, piece)};
		gpa += to[nr].len;
		len -= to[nr++].len;
	}
	return nr;
}

/* False: there is no room in the ring, or no such queue. */
static bool make_available(struct rig *r, const struct request *q, u32 piece)
{
	struct fbuf out[7], in[7];
	u16 nr_out = split(out, OUT, q->out, piece), nr_in = split(in, q->queue == 4 ? PAGES : IN, q->in, piece);

	if (!(nr_out + nr_in) || q->queue >= MAX_QUEUES || !fdrv_add(&r->d, q->queue, out, nr_out, in, nr_in, NULL))
		return false;
	fdrv_notify(&r->d, q->queue);
	return true;
}

/* Guest memory, what may be plugged in, the persistent one, and what lies between. */
static u64 take_address(struct rig *r, struct input *in)
{
	static const u64 bases[] = {OUT, IN, PAGES, PLUG, FAKE_RAM_LOW - 0x80, FAKE_RAM_HIGH_BASE, PLUG + 512 * MIB - 0x80};
	const struct mem *m = &r->f.vm.mem;
	u8 kind = (u8)take(in, 1);

	if (kind & 0x80)
		return m->regions[m->nr_regions - 1].gpa + take(in, 2);
	return kind & 0x40 ? take(in, 8) : bases[kind % ARRAY_SIZE(bases)] + take(in, 1) * 16;
}

static void op_chain(struct rig *r, struct input *in)
{
	u8 shape = (u8)take(in, 1);
	u16 nr_out = shape & 3, nr_in = shape >> 2 & 3, queue = (u16)((shape >> 4) % MAX_QUEUES);
	struct fbuf bufs[6];

	for (u32 i = 0; i < nr_out + nr_in; i++) {
		u64 gpa = take_address(r, in);
		u8 len = (u8)take(in, 1);

		bufs[i] = (struct fbuf){gpa, len < 0xf0 ? len : (u32)take(in, 4)};
	}
	if (nr_out + nr_in && fdrv_add(&r->d, queue, bufs, nr_out, bufs + nr_out, nr_in, NULL))
		fdrv_notify(&r->d, queue);
}

/* ---- the host ---- */

static void connect_console(struct rig *r)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/console", r->dir);
	r->peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (connect(r->peer, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		fd_close(&r->peer);
}

static void drain(struct rig *r)
{
	u8 bytes[4096];

	while (r->peer >= 0 && read(r->peer, bytes, sizeof(bytes)) > 0)
		;
}

/* Frames are whole, mostly. */
static void op_host(struct rig *r, struct input *in)
{
	u8 what = (u8)take(in, 1), bytes[4 + 255] = {0};
	u32 len = (u32)take(in, 1);

	if (r->peer < 0 && r->dev->cls == device_class_find("virtio-console"))
		connect_console(r);
	if (r->peer < 0)
		return;
	for (u32 i = 0; i < len; i++)
		bytes[4 + i] = (u8)take(in, 1);
	bytes[3] = (u8)len;
	if (what & 0x40)
		st_le32(bytes, (u32)take(in, 4));
	if (what & 1)
		(void)!write(r->peer, bytes, 4 + len);
	if (what & 2)
		drain(r);
	if ((what & 0x3c) == 0x3c)
		fd_close(&r->peer);
}

static void patch(struct rig *r, const struct device_op *op, const char *format, u32 number)
{
	const struct cfg_place at = {.origin = "fuzz"};
	void *body = op->patch ? xzalloc(op->patch->size) : NULL;
	struct json_object *json;
	struct err e = {0};
	char text[300];
	int ret = 0;

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	snprintf(text, sizeof(text), format ? format : "{}", number);
#pragma GCC diagnostic pop
	if (op->patch) {
		json = json_tokener_parse(text);
		ASSERT(json);
		ret = cfg_read_object(op->patch, json, body, &at, &e);
		json_object_put(json);
	}
	if (ret == 0)
		ret = op->update(r->dev, body, &e);
	ASSERT(ret == 0 || (ret < 0 && e.code < 0 && *e.msg));
	if (op->patch)
		cfg_free(op->patch, body);
	free(body);
}

static void op_api(struct rig *r, struct input *in)
{
	const struct device_op *op = r->dev->cls->ops;
	u32 what = (u32)take(in, 1), number = (u32)take(in, 2), at = 0;
	struct json_object *out;
	struct err e = {0};

	for (u32 skip = what & 7; op && op->path && skip; skip--, op++)
		at += op->update != NULL;
	if (!op || !op->path)
		return;
	if (op->update)
		patch(r, op, r->kind->bodies[at % ARRAY_SIZE(r->kind->bodies)], number);
	if (!op->status)
		return;
	out = json_object_new_object();
	ASSERT(op->status(r->dev, out, &e) == 0 || (e.code < 0 && *e.msg));
	json_object_put(out);
}

static void op_pause(struct rig *r)
{
	const struct device_class *cls = r->dev->cls;

	if (r->paused && cls->resume)
		cls->resume(r->dev);
	else if (!r->paused && cls->quiesce)
		cls->quiesce(r->dev);
	r->paused = !r->paused;
}

/* ---- runs ---- */

static void op_config(struct rig *r, struct input *in)
{
	u32 len = 1u << (take(in, 1) & 3), off = (u32)take(in, 1);
	u64 val = take(in, 8);

	fdrv_config_write(&r->d, off, &val, len);
	bus_read(&r->f.vm, BUS_MMIO, r->d.base + MMIO_CONFIG + off, &val, len);
}

static void op_register(struct rig *r, struct input *in)
{
	u32 reg = (u32)take(in, 1) << 2;

	fdrv_write(&r->d, reg, (u32)take(in, 4));
	fdrv_read(&r->d, reg);
}

static void op_request(struct rig *r, struct input *in)
{
	u32 piece = (u32)take(in, 1) + 1;
	struct request q = r->kind->request(r, in);

	make_available(r, &q, piece);
}

static void run_op(struct rig *r, struct input *in)
{
	u8 code = (u8)take(in, 1);
	struct loop *l = &r->f.vm.loop;

	switch ((enum op)((code & 0x7f) % NR_OPS)) {
	case OP_REQUEST:
		op_request(r, in);
		break;
	case OP_CHAIN:
		op_chain(r, in);
		break;
	case OP_BYTES:
		fill(r, in, (u32)take(in, 1) * 4, (u32)take(in, 1) & 31);
		break;
	case OP_REGISTER:
		op_register(r, in);
		break;
	case OP_CONFIG:
		op_config(r, in);
		break;
	case OP_LOOK:
		look(r);
		break;
	case OP_RESET:
		bring_up(r, take(in, 8) | FDRV_VERSION_1);
		break;
	case OP_PAUSE:
		op_pause(r);
		break;
	case OP_API:
		op_api(r, in);
		break;
	case OP_HOST:
		op_host(r, in);
		break;
	case OP_TIME:
	case NR_OPS:
		if (l->timers)
			loop_timer_arm(l, l->timers, 1);
		break;
	}
	turn(r, 0);
	/* Waits for threads of the device, so that a run depends on its input alone. */
	if (!(code & 0x80) && !r->paused) {
		op_pause(r);
		op_pause(r);
		turn(r, 0);
	}
}

static void check_recovers(struct rig *r)
{
	struct input none = {0};
	struct request q;
	u16 used;

	if (r->paused)
		op_pause(r);
	ASSERT(bring_up(r, FDRV_ALL_FEATURES));
	q = r->kind->request(r, &none);
	used = r->d.q[q.queue].used;
	ASSERT(make_available(r, &q, 64));
	/* A limiter may hold it back for its next refill, and a host's end that reads nothing for ever. */
	for (u32 i = 0; i < MAX_SETTLES && r->d.q[q.queue].used == used; i++) {
		drain(r);
		turn(r, i ? SETTLE_MS : 0);
		look(r);
	}
	if (r->d.q[q.queue].used == used || fdrv_read(&r->d, MMIO_STATUS) & VIRTIO_S_NEEDS_RESET)
		fake_die(r->kind->class_name, NULL);
}

static void listen_at(struct rig *r, const char *name)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	snprintf(r->path, sizeof(r->path), "%s/%s", r->dir, name);
	memcpy(addr.sun_path, r->path, strlen(r->path));
	r->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	ASSERT(r->listen_fd >= 0 && bind(r->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(r->listen_fd, 1) == 0);
}

static void make(struct rig *r, const struct kind *kind)
{
	const struct device_class *cls = device_class_find(kind->class_name);
	const struct cfg_place at = {.origin = "fuzz"};
	struct json_object *json;
	struct err e = {0};
	char text[400];

	*r = (struct rig){.kind = kind, .dir = "/tmp/husk-fuzz-XXXXXX", .listen_fd = -1, .peer = -1};
	ASSERT(cls && mkdtemp(r->dir));
	if (kind->socket)
		listen_at(r, kind->socket);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	snprintf(text, sizeof(text), kind->config, r->dir);
#pragma GCC diagnostic pop
	json = json_tokener_parse(text);
	r->cfg = xzalloc(cls->config->size);
	if (!json || cfg_read_object(cls->config, json, r->cfg, &at, &e) < 0)
		fake_die(kind->class_name, &e);
	json_object_put(json);
	fake_vm_init(&r->f, FAKE_VM_QUIET);
	if (cls->hotplug_memory && mem_add_hotplug(&r->f.vm.mem, PLUG, cls->hotplug_memory(r->cfg), &e) < 0)
		fake_die("hotplug memory", &e);
	r->dev = fake_vm_add(&r->f, cls, r->cfg);
	if (cls->start && cls->start(r->dev, &e) < 0)
		fake_die(kind->class_name, &e);
	if (kind->socket)
		r->peer = accept4(r->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	r->d = (struct fdrv){.f = &r->f, .dev = r->dev, .base = r->dev->slot.mmio_base, .gsi = r->dev->slot.gsi};
}

static void unmake(struct rig *r)
{
	const struct cfg_table *t = r->dev->cls->config;

	fake_vm_fini(&r->f);
	cfg_free(t, r->cfg);
	free(r->cfg);
	fd_close(&r->peer);
	fd_close(&r->listen_fd);
	if (*r->path)
		unlink(r->path);
	ASSERT(rmdir(r->dir) == 0);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static struct rig r; /* large */
	struct input in = {data, data + size};

	signal(SIGPIPE, SIG_IGN); /* as husk does */
	no_files_begin();
	make(&r, &kinds[take(&in, 1) % ARRAY_SIZE(kinds)]);
	bring_up(&r, take(&in, 1) & 1 ? FDRV_ALL_FEATURES : ~FDRV_PACKED);
	for (u32 i = 0; i < MAX_OPS && in.at < in.end; i++)
		run_op(&r, &in);
	check_recovers(&r);
	unmake(&r);
	no_files_end();
	return 0;
}
