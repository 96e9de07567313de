/*
 * fuzz_stream_dest.c: a source that says anything to a real destination: the good frames of a small VM's move up to any point, frames and
 * bytes of the input between and after them, connections closed and opened again as in a recovery. Whatever came, the destination and its
 * VM can be taken down.
 *
 * The input: a byte of offer flags (and WITH_DISK: a disk comes along), the number of good steps to begin with, then operations.
 */
#include "fuzz/stream_vm.h"
#include "migration/dest.h"

enum op {
	OP_FRAME,  /* channel; type, flags; body */
	OP_BYTES,  /* channel; bytes without a frame */
	OP_GOOD,   /* the good step of this number */
	OP_NEXT,   /* the good step that comes next */
	OP_WAIT,   /* for a frame of this type on CONTROL */
	OP_CLOSE,  /* channel */
	OP_AGAIN,  /* all connections anew, as for a recovery */
	OP_EDITED, /* the good body of this step's frame, with bytes changed */
	NR_OPS
};

enum step {
	STEP_CONTROL,
	STEP_BULK,
	STEP_URGENT,
	STEP_OFFER,
	STEP_PAGES,
	STEP_SYNC,
	STEP_MISSING,
	STEP_PACKAGE,
	STEP_COMMIT,
	STEP_LATE,
	STEP_DONE,
	STEP_DIGESTS,
	STEP_BYE,
	NR_STEPS
};

#define NR_CHANNELS  4u /* CONTROL, BULK 0 and 1, URGENT */
#define MAX_OPS	     24u
#define PATIENCE_MS  200u
#define MAX_SILENCES 2u /* of those that are waited for */
#define LATE_PAGE    (STREAM_COUNTER / 4096)
#define NR_SENT	     64u /* pages that are sent: from LATE_PAGE on; the last of them late */
#define NR_LATE	     8u
#define WITH_DISK    0x80u

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

/* Where there is a LeakSanitizer. */
void __lsan_disable(void) __attribute__((weak));
void __lsan_enable(void) __attribute__((weak));

/* Lives as long as the process. */
static struct {
	bool made;
	struct stream_vm vm;
	struct buf offer, devices, package;
} model;

struct run {
	struct stream_vm dst;
	struct dest *dest;
	pthread_t thread;
	int fds[NR_CHANNELS];
	u64 seq[NR_CHANNELS];
	struct buf heard; /* bytes of CONTROL that no frame was made of yet */
	u32 epoch;
	u64 flags;
	bool disk;
	u32 silences; /* waits that nothing came in */
};

static void model_remove(void)
{
	stream_vm_fini(&model.vm);
	buf_fini(&model.offer);
	buf_fini(&model.devices);
	buf_fini(&model.package);
	stream_dir_remove();
}

static void model_make(void)
{
	auto_free struct package_vm *info = xzalloc(sizeof(*info));
	struct err e;

	if (model.made)
		return;
	model.made = true;
	stream_dir_make();
	/* What only a vCPU points to would be leaked: LeakSanitizer does not look for pointers in memory that is shared. */
	if (__lsan_disable)
		__lsan_disable();
	stream_vm_boot(&model.vm);
	if (__lsan_enable)
		__lsan_enable();
	if (package_describe(&model.vm.vm, info, &e) < 0 || package_save_offer(&model.vm.vm, info, &model.offer, &model.devices, &e) < 0 ||
	    package_save(&model.vm.vm, info, PACKAGE_SOFT_CAP, &model.package, &e) < 0)
		stream_die("the VM to be moved", &e);
	atexit(model_remove);
}

/* ---- the destination ---- */

static int make_vm(struct run *r, struct err *e)
{
	struct json_object *own = json_tokener_parse("{\"accelerator\":\"tcg\",\"serial\":{\"mode\":\"null\"}}");
	struct vm_options options = {.document = &r->dst.doc, .restore = dest_restore(r->dest)};
	int ret = dest_configure(r->dest, own, &r->dst.doc, e);

	json_object_put(own);
	if (ret == 0)
		ret = config_parse(&r->dst.config, r->dst.doc, "the source", e);
	if (ret == 0)
		ret = vm_init_options(&r->dst.vm, &r->dst.config, &r->dst.log, &r->dst.trace, &options, e);
	r->dst.made = ret == 0;
	return ret;
}

/* As main does it. */
static void *run_dest(void *opaque)
{
	struct run *r = opaque;
	struct err e = {0};

	if (dest_wait_offer(r->dest, &e) < 0)
		return NULL;
	if (make_vm(r, &e) < 0) {
		ASSERT(e.code < 0 && e.msg[0]);
		dest_refuse(r->dest, &e);
	} else if (vm_run(&r->dst.vm, &r->dst.end, &e) < 0) {
		ASSERT(e.msg[0]);
	}
	return NULL;
}

static void begin(struct run *r)
{
	auto_free char *address = xasprintf("unix:%s/in", stream_dir);
	auto_free char *copy = xasprintf("%s/copy", stream_dir);
	const struct snapshot_override drive = {"d", copy};
	const struct dest_params p = {.address = address, .patience_ms = PATIENCE_MS, .paused = true, .drives = &drive, .nr_drives = 1};
	struct err e;

	stream_vm_prepare(&r->dst);
	/* One that comes along has none there, or one with something in it. */
	if (r->disk)
		unlink(copy);
	else
		stream_disk_make("copy");
	for (u32 i = 0; i < NR_CHANNELS; i++)
		r->fds[i] = -1;
	if (dest_listen(&r->dest, &p, &r->dst.log, &e) < 0)
		stream_die("listen", &e);
	ASSERT(pthread_create(&r->thread, NULL, run_dest, r) == 0);
}

static void hang_up(struct run *r)
{
	for (u32 i = 0; i < NR_CHANNELS; i++)
		fd_close(&r->fds[i]);
	buf_fini(&r->heard);
	r->heard = (struct buf){0};
}

static void end(struct run *r)
{
	struct migrate_status s;
	struct err e;

	hang_up(r);
	dest_status(r->dest, &s);
	ASSERT(s.destination && migrate_phase_name(s.phase));
	if (dest_abandon(r->dest, &e) < 0)
		vm_end(&r->dst.vm, VM_END_HOST);
	pthread_join(r->thread, NULL);
	if (r->dst.made)
		vm_fini(&r->dst.vm);
	r->dst.made = false;
	dest_close(r->dest);
	stream_vm_fini(&r->dst);
}

/* ---- the source ---- */

static void say(struct run *r, u32 channel, const struct buf *bytes)
{
	size_t at = 0;

	while (at < bytes->len && r->fds[channel] >= 0) {
		ssize_t n = send(r->fds[channel], bytes->data + at, bytes->len - at, MSG_NOSIGNAL | MSG_DONTWAIT);
		struct pollfd p = {.fd = r->fds[channel], .events = POLLOUT};

		if (n > 0)
			at += (size_t)n;
		else if (errno != EAGAIN || poll(&p, 1, PATIENCE_MS) != 1)
			return;
	}
}

static void say_frame(struct run *r, u32 channel, u16 type, u16 flags, const void *body, size_t len)
{
	struct frame f = {.type = type, .flags = flags, .epoch = r->epoch, .seq = r->seq[channel]++, .len = len};
	struct buf out = {0};

	stream_put_frame(&out, &f, body);
	say(r, channel, &out);
	buf_fini(&out);
}

/* The next frame that has come on CONTROL; 0: none within patience. */
static u16 hear(struct run *r)
{
	struct pollfd p = {.fd = r->fds[0], .events = POLLIN};

	while (r->fds[0] >= 0) {
		u8 bytes[4096];
		ssize_t n;

		if (r->heard.len >= FRAME_HEADER_SIZE) {
			size_t all = FRAME_HEADER_SIZE + ld_le64(r->heard.data + 24) + 4;
			u16 type = ld_le16(r->heard.data + 4);

			if (r->heard.len >= all) {
				memmove(r->heard.data, r->heard.data + all, r->heard.len - all);
				r->heard.len -= all;
				return type;
			}
		}
		if (poll(&p, 1, r->silences < MAX_SILENCES ? (int)PATIENCE_MS : 0) != 1) {
			r->silences++;
			return 0;
		}
		n = recv(r->fds[0], bytes, sizeof(bytes), MSG_DONTWAIT);
		if (n <= 0)
			return 0;
		buf_put(&r->heard, bytes, (size_t)n);
	}
	return 0;
}

static void await(struct run *r, u16 type)
{
	u64 end_ns = clock_host_ns() + PATIENCE_MS * NSEC_PER_MSEC;
	u16 got;

	do
		got = hear(r);
	while (got && got != type && got != FRAME_FAIL && clock_host_ns() < end_ns);
}

static void dial(struct run *r, u32 channel)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	u8 hello[24] = {WIRE_VERSION, 0, 0, 0, WIRE_BULK, 0, 2, 0, 's', 'e', 's', 's', 'i', 'o', 'n'};

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/in", stream_dir);
	fd_close(&r->fds[channel]);
	/* Nobody accepts any more where it has failed: then a connection is refused, or would wait. */
	r->fds[channel] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	ASSERT(r->fds[channel] >= 0);
	if (connect(r->fds[channel], (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		fd_close(&r->fds[channel]); /* it is over there */
		return;
	}
	if (channel == 0 || channel == NR_CHANNELS - 1)
		hello[4] = channel ? WIRE_URGENT : WIRE_CONTROL;
	hello[5] = channel == 2;
	r->seq[channel] = 0;
	if (channel == 0)
		r->heard.len = 0;
	say_frame(r, channel, FRAME_HELLO, 0, hello, sizeof(hello));
}

/* ---- good bodies ---- */

static void put_u64(struct buf *out, u64 v)
{
	u8 bytes[8];

	st_le64(bytes, v);
	buf_put(out, bytes, 8);
}

static void put_offer(const struct run *r, struct buf *out)
{
	u8 numbers[8];

	put_u64(out, r->flags);
	put_u64(out, model.package.len);
	st_le32(numbers, 12);
	st_le32(numbers + 4, (u32)model.devices.len);
	buf_put(out, numbers, 8);
	buf_put(out, model.devices.data, model.devices.len);
	buf_put(out, model.offer.data, model.offer.len);
}

static void put_disks(struct buf *out)
{
	u8 body[88] = {1};

	st_le64(body + 8, STREAM_DISK);
	body[16] = 'd';
	buf_put(out, body, sizeof(body));
}

/* Pages [first, end), every second of zeroes. */
static void put_pages(struct buf *out, u16 region, u32 first, u32 end)
{
	static const u8 page[4096] = {1, 2, 3};
	u8 numbers[8] = {0};

	st_le16(numbers, region);
	st_le32(numbers + 4, end - first);
	buf_put(out, numbers, 8);
	for (u32 i = first; i < end; i++) {
		st_le32(numbers, i | (i % 2 ? (u32)WIRE_ZERO_PAGE : 0));
		buf_put(out, numbers, 4);
	}
	for (u32 i = first; i < end; i++) {
		if (i % 2 == 0)
			buf_put(out, page, sizeof(page));
	}
}

static void put_missing(struct buf *out)
{
	u8 head[16] = {0}, bits[STREAM_PAGES / 8] = {0};

	st_le32(head + 8, STREAM_PAGES);
	for (u32 i = LATE_PAGE + NR_SENT - NR_LATE; i < LATE_PAGE + NR_SENT; i++)
		bits[i / 8] = (u8)(bits[i / 8] | 1 << i % 8);
	buf_put(out, head, sizeof(head));
	buf_put(out, bits, sizeof(bits));
}

/* The body of this step's frame, its type and channel. */
static u16 put_good(const struct run *r, enum step step, u32 *channel, struct buf *out)
{
	static const u16 types[NR_STEPS] = {
		[STEP_OFFER] = FRAME_OFFER,	[STEP_PAGES] = FRAME_PAGES,   [STEP_SYNC] = FRAME_SYNC,	 [STEP_MISSING] = FRAME_MISSING,
		[STEP_PACKAGE] = FRAME_PACKAGE, [STEP_COMMIT] = FRAME_COMMIT, [STEP_LATE] = FRAME_PAGES, [STEP_DONE] = FRAME_DONE,
		[STEP_DIGESTS] = FRAME_DIGESTS, [STEP_BYE] = FRAME_BYE};

	*channel = step == STEP_PAGES || step == STEP_SYNC || step == STEP_LATE;
	if (step == STEP_OFFER)
		put_offer(r, out);
	else if (step == STEP_PAGES)
		put_pages(out, 0, LATE_PAGE, LATE_PAGE + NR_SENT - NR_LATE);
	else if (step == STEP_LATE)
		put_pages(out, 0, LATE_PAGE + NR_SENT - NR_LATE, LATE_PAGE + NR_SENT);
	else if (step == STEP_SYNC || step == STEP_DONE)
		put_u64(out, 1);
	else if (step == STEP_MISSING)
		put_missing(out);
	else if (step == STEP_PACKAGE)
		buf_put(out, model.package.data, model.package.len);
	else if (step == STEP_DIGESTS)
		buf_put(out, (u8[16]){0}, 16);
	return types[step];
}

/* What the destination says to this step. */
static void await_answer(struct run *r, enum step step)
{
	static const u16 answers[NR_STEPS] = {[STEP_CONTROL] = FRAME_WELCOME,
					      [STEP_OFFER] = FRAME_ACCEPT,
					      [STEP_SYNC] = FRAME_SYNCED,
					      [STEP_PACKAGE] = FRAME_LOADED,
					      [STEP_COMMIT] = FRAME_RUNNING};

	if (answers[step])
		await(r, answers[step]);
	else if (step == (r->flags & OFFER_VERIFY ? STEP_DIGESTS : STEP_DONE))
		await(r, FRAME_RELEASE);
}

/* Bytes of it become others; edits NULL: none. */
static void edit(struct buf *body, struct input *edits)
{
	for (u32 n = edits ? (u32)take(edits, 1) % 8 : 0; n && body->len; n--) {
		u32 at = (u32)take(edits, 2);

		body->data[at % body->len] = (u8)take(edits, 1);
	}
}

/* What comes before this step's frame, when a disk comes along. */
static void say_disk(struct run *r, enum step step, struct input *edits)
{
	struct buf body = {0};

	if (step == STEP_OFFER)
		put_disks(&body);
	else
		put_pages(&body, WIRE_FIRST_DISK, 0, STREAM_DISK / 4096 + 1);
	edit(&body, edits);
	say_frame(r, step == STEP_PAGES, step == STEP_OFFER ? FRAME_DISKS : FRAME_PAGES, 0, body.data, body.len);
	buf_fini(&body);
}

static void do_step(struct run *r, enum step step, struct input *edits)
{
	struct buf body = {0};
	u32 channel;
	u16 type;

	if (step == STEP_CONTROL || step == STEP_URGENT)
		dial(r, step == STEP_CONTROL ? 0 : NR_CHANNELS - 1);
	if (step == STEP_BULK) {
		dial(r, 1);
		dial(r, 2);
	}
	if (step < STEP_OFFER)
		return await_answer(r, step);
	if (step == STEP_MISSING && !(r->flags & OFFER_POSTCOPY) && !edits)
		return;
	if (r->disk && (step == STEP_OFFER || step == STEP_PAGES))
		say_disk(r, step, edits);
	type = put_good(r, step, &channel, &body);
	edit(&body, edits);
	say_frame(r, channel, type, 0, body.data, body.len);
	if (step == STEP_SYNC)
		say_frame(r, 2, type, 0, body.data, body.len);
	buf_fini(&body);
	await_answer(r, step);
}

/* ---- runs ---- */

static void op_frame(struct run *r, struct input *in)
{
	u32 channel = (u32)take(in, 1) % NR_CHANNELS, len;
	u8 what = (u8)take(in, 1), body[STREAM_BODY];

	len = stream_take_body(in, body);
	say_frame(r, channel, what & 0x80 ? what : what % FRAME_TYPES, what & 0x40 ? FRAME_OPTIONAL : 0, body, len);
}

static void op_bytes(struct run *r, struct input *in)
{
	u32 channel = (u32)take(in, 1) % NR_CHANNELS;
	u8 body[STREAM_BODY];
	struct buf out = {0};

	buf_put(&out, body, stream_take_body(in, body));
	say(r, channel, &out);
	buf_fini(&out);
}

static void run_op(struct run *r, struct input *in, u32 *next)
{
	switch ((enum op)(take(in, 1) % NR_OPS)) {
	case OP_FRAME:
		op_frame(r, in);
		break;
	case OP_BYTES:
		op_bytes(r, in);
		break;
	case OP_GOOD:
		do_step(r, (enum step)(take(in, 1) % NR_STEPS), NULL);
		break;
	case OP_NEXT:
		if (*next < NR_STEPS)
			do_step(r, (enum step)(*next)++, NULL);
		break;
	case OP_WAIT:
		await(r, (u16)(take(in, 1) % FRAME_TYPES));
		break;
	case OP_CLOSE:
		fd_close(&r->fds[take(in, 1) % NR_CHANNELS]);
		break;
	case OP_AGAIN:
		hang_up(r);
		r->epoch++;
		for (enum step s = STEP_CONTROL; s < STEP_OFFER; s++)
			do_step(r, s, NULL);
		break;
	default:
		do_step(r, (enum step)(take(in, 1) % NR_STEPS), in);
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct input in = {data, data + size};
	auto_free struct run *r = xzalloc(sizeof(*r));
	u32 good, next = 0;
	u8 what;

	model_make();
	what = (u8)take(&in, 1);
	r->flags = what & OFFER_KNOWN;
	r->disk = what & WITH_DISK;
	good = (u32)take(&in, 1) % (NR_STEPS + 1);
	begin(r);
	while (next < good)
		do_step(r, (enum step)next++, NULL);
	for (u32 i = 0; i < MAX_OPS && in.at < in.end; i++)
		run_op(r, &in, &next);
	end(r);
	return 0;
}
