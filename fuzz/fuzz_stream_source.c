/*
 * fuzz_stream_source.c: a destination that answers anything to a real source, whose VM runs: the good answers up to any point, then frames
 * and bytes of the input, also on the channels of pages; and again for a recovery. Afterwards the VM runs here, taken back where COMMIT
 * was sent; the same one serves the next input, unless it was told that it has moved.
 *
 * The input: mode and flags, the number of good answers, then records: channel, type (255: bytes without a frame), body. Channel 255: what
 * follows is for the recovery.
 */
#include "fuzz/stream_vm.h"
#include "migration/source.h"

enum answer { ANSWER_WELCOME, ANSWER_ACCEPT, ANSWER_SYNCED, ANSWER_LOADED, ANSWER_RUNNING, ANSWER_VERIFIED, ANSWER_RELEASE, NR_ANSWERS };

#define NR_CHANNELS 4u /* CONTROL, BULK 0 and 1, URGENT */
#define MAX_RECORDS 32u
#define PATIENCE_MS 300u
#define HANG_NS	    (20 * NSEC_PER_SEC)

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

/* Lives as long as the process. */
static struct {
	struct stream_vm vm;
	struct source *source;
	bool made;
	int listen_fd;
} rig;

/* The harness's ends of the connections of one attempt. */
struct peer {
	u32 nr_bulk, nr, epoch;
	int fds[NR_CHANNELS];
	u64 seq[NR_CHANNELS];
	struct buf out[NR_CHANNELS];
	struct buf last;    /* for CONTROL, after DONE */
	struct buf control; /* what came on it, as far as it is not looked at */
	bool done;	    /* DONE has come, or nothing waits for it */
};

/* ---- the VM ---- */

static void *run_vm(void *opaque)
{
	struct err e;

	if (vm_run(&rig.vm.vm, &rig.vm.end, &e) < 0)
		stream_die("run", &e);
	return opaque;
}

static void await_guest(void)
{
	const u64 *word = (const void *)(rig.vm.vm.mem.regions[0].hva + STREAM_COUNTER);
	u64 before = __atomic_load_n(word, __ATOMIC_RELAXED), end_ns = clock_host_ns() + HANG_NS;

	while (__atomic_load_n(word, __ATOMIC_RELAXED) == before) {
		ASSERT(clock_host_ns() < end_ns);
		usleep(50);
	}
}

static void vm_make(void)
{
	struct err e;

	stream_vm_boot(&rig.vm);
	if (source_start_thread(&rig.source, &rig.vm.vm, &e) < 0)
		stream_die("source", &e);
	ASSERT(pthread_create(&rig.vm.thread, NULL, run_vm, NULL) == 0);
	await_guest();
}

static void vm_remove(void)
{
	vm_end(&rig.vm.vm, VM_END_HOST);
	pthread_join(rig.vm.thread, NULL);
	source_stop_thread(rig.source);
	stream_vm_fini(&rig.vm);
}

static void rig_remove(void)
{
	vm_remove();
	fd_close(&rig.listen_fd);
	stream_dir_remove();
}

static void rig_make(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	if (rig.made)
		return;
	rig.made = true;
	stream_dir_make();
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/in", stream_dir);
	rig.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	ASSERT(bind(rig.listen_fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(rig.listen_fd, 16) == 0);
	vm_make();
	atexit(rig_remove);
}

struct ask {
	struct loop_work work;
	const struct source_params *params;
	struct err e;
	int ret;
	bool done; /* atomic */
};

static void run_ask(struct loop_work *w)
{
	struct ask *a = container_of(w, struct ask, work);

	a->ret = source_begin(rig.source, a->params, &a->e);
	__atomic_store_n(&a->done, true, __ATOMIC_RELEASE);
}

static void begin(const struct source_params *p)
{
	struct ask a = {.work.run = run_ask, .params = p};

	loop_post(&rig.vm.vm.loop, &a.work);
	while (!__atomic_load_n(&a.done, __ATOMIC_ACQUIRE))
		usleep(20);
	if (a.ret < 0)
		stream_die("begin", &a.e);
}

/* ---- the destination ---- */

static void put_answer(struct peer *p, u32 channel, struct buf *out, u16 type, const u8 *body, u32 len)
{
	struct frame f = {.type = type, .epoch = p->epoch, .seq = p->seq[channel]++, .len = len};

	stream_put_frame(out, &f, body);
}

static void put_welcome(struct peer *p, u32 channel)
{
	u8 body[24] = {p->epoch ? WIRE_RUNNING : WIRE_NEW, WIRE_KNOWS_DISKS};

	st_le64(body + 8, PACKAGE_SOFT_CAP);
	put_answer(p, channel, &p->out[channel], FRAME_WELCOME, body, sizeof(body));
}

/* rounds: that wait for SYNCED. What has to come after DONE goes into last. */
static void put_good(struct peer *p, u32 nr, u32 rounds, bool verify)
{
	static const u16 types[NR_ANSWERS] = {
		[ANSWER_ACCEPT] = FRAME_ACCEPT,	  [ANSWER_SYNCED] = FRAME_SYNCED,     [ANSWER_LOADED] = FRAME_LOADED,
		[ANSWER_RUNNING] = FRAME_RUNNING, [ANSWER_VERIFIED] = FRAME_VERIFIED, [ANSWER_RELEASE] = FRAME_RELEASE};

	p->done = nr <= ANSWER_VERIFIED;
	for (u32 c = 0; nr && c < NR_CHANNELS; c++)
		put_welcome(p, c);
	for (u32 i = ANSWER_ACCEPT; i < nr; i++) {
		u32 times = i == ANSWER_SYNCED ? rounds : i != ANSWER_VERIFIED || verify;

		for (u64 v = 1; v <= times; v++) {
			u8 body[16] = {0};

			st_le64(body, i == ANSWER_ACCEPT ? PACKAGE_SOFT_CAP : v);
			put_answer(p, 0, i < ANSWER_VERIFIED ? &p->out[0] : &p->last, types[i], body, i == ANSWER_VERIFIED ? 16 : 8);
		}
	}
}

static void put_records(struct peer *p, struct input *in)
{
	u8 body[STREAM_BODY];

	for (u32 i = 0; i < MAX_RECORDS && in->at < in->end; i++) {
		u8 channel = (u8)take(in, 1), type;
		struct buf *out = channel % NR_CHANNELS || p->done ? &p->out[channel % NR_CHANNELS] : &p->last;
		u32 len;

		if (channel == 255)
			return;
		type = (u8)take(in, 1);
		len = stream_take_body(in, body);
		if (type == 255)
			buf_put(out, body, len);
		else
			put_answer(p, channel % NR_CHANNELS, out, type & 0x80 ? type : type % FRAME_TYPES, body, len);
	}
}

static void hear_control(struct peer *p, const u8 *bytes, size_t len)
{
	buf_put(&p->control, bytes, len);
	while (p->control.len >= FRAME_HEADER_SIZE) {
		size_t all = FRAME_HEADER_SIZE + ld_le64(p->control.data + 24) + 4;

		if (p->control.len < all)
			return;
		p->done |= ld_le16(p->control.data + 4) == FRAME_DONE;
		memmove(p->control.data, p->control.data + all, p->control.len - all);
		p->control.len -= all;
	}
}

static void say(struct peer *p, u32 channel, struct buf *out)
{
	ssize_t n = out->len ? send(p->fds[channel], out->data, out->len, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;

	/* Some ten KiB at most, which the socket takes at once. */
	(void)n;
	out->len = 0;
}

/* The source opens CONTROL, BULK and URGENT in this order. */
static void take_connection(struct peer *p)
{
	int fd = accept4(rig.listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	u32 channel = p->nr <= p->nr_bulk ? p->nr : NR_CHANNELS - 1;

	if (fd < 0)
		return;
	p->nr++;
	fd_close(&p->fds[channel]);
	p->fds[channel] = fd;
	if (channel && !p->out[channel].len)
		shutdown(fd, SHUT_WR);
	say(p, channel, &p->out[channel]);
}

static void turn(struct peer *p)
{
	static u8 bytes[1 << 16];
	struct pollfd fds[NR_CHANNELS + 1] = {[NR_CHANNELS] = {.fd = rig.listen_fd, .events = POLLIN}};

	for (u32 i = 0; i < NR_CHANNELS; i++)
		fds[i] = (struct pollfd){.fd = p->fds[i], .events = POLLIN};
	if (poll(fds, ARRAY_SIZE(fds), 1) <= 0)
		return;
	for (u32 i = 0; i < NR_CHANNELS; i++) {
		ssize_t n = fds[i].revents ? recv(p->fds[i], bytes, sizeof(bytes), MSG_DONTWAIT) : -1;

		if (n > 0 && i == 0)
			hear_control(p, bytes, (size_t)n);
		if (fds[i].revents && (n == 0 || (n < 0 && errno != EAGAIN)))
			fd_close(&p->fds[i]);
	}
	if (fds[NR_CHANNELS].revents)
		take_connection(p);
	if (p->done && p->fds[0] >= 0 && p->nr) {
		say(p, 0, &p->last);
		shutdown(p->fds[0], SHUT_WR);
	}
}

static bool is_over(enum migrate_phase p)
{
	return p == MIGRATE_COMPLETED || p == MIGRATE_FAILED || p == MIGRATE_CANCELLED || p == MIGRATE_PAUSED;
}

/* Until the attempt has come to something. */
static enum migrate_phase play(struct peer *p)
{
	u64 end_ns = clock_host_ns() + HANG_NS;
	struct migrate_status s;

	source_status(rig.source, &s);
	while (!is_over(s.phase)) {
		ASSERT(clock_host_ns() < end_ns);
		turn(p);
		source_status(rig.source, &s);
	}
	ASSERT(s.phase == MIGRATE_COMPLETED || s.error[0]);
	return s.phase;
}

static void peer_init(struct peer *p, u32 nr_bulk, u32 epoch)
{
	*p = (struct peer){.nr_bulk = nr_bulk, .epoch = epoch};
	for (u32 i = 0; i < NR_CHANNELS; i++)
		p->fds[i] = -1;
}

static void peer_fini(struct peer *p)
{
	int fd;

	for (u32 i = 0; i < NR_CHANNELS; i++) {
		fd_close(&p->fds[i]);
		buf_fini(&p->out[i]);
	}
	buf_fini(&p->last);
	buf_fini(&p->control);
	while ((fd = accept(rig.listen_fd, NULL, NULL)) >= 0)
		close(fd);
}

/* ---- runs ---- */

static enum migrate_phase attempt(const struct source_params *params, u32 good, u32 rounds, struct input *in, u32 epoch)
{
	enum migrate_phase phase;
	struct peer p;
	struct err e;

	peer_init(&p, params->nr_bulk, epoch);
	put_good(&p, good, rounds, params->verify);
	put_records(&p, in);
	if (epoch == 0)
		begin(params);
	else if (source_recover(rig.source, NULL, &e) < 0)
		stream_die("recover", &e);
	phase = play(&p);
	peer_fini(&p);
	return phase;
}

static enum migrate_phase take_back(void)
{
	enum migrate_phase phase = MIGRATE_PAUSED;
	struct migrate_status s;
	struct err e;

	if (source_take_back(rig.source, &e) < 0)
		stream_die("take back", &e);
	for (u64 end_ns = clock_host_ns() + HANG_NS; phase != MIGRATE_FAILED; phase = s.phase) {
		ASSERT(clock_host_ns() < end_ns);
		usleep(50);
		source_status(rig.source, &s);
	}
	return phase;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct input in = {data, data + size};
	u8 flags = (u8)take(&in, 1), good = (u8)(take(&in, 1) % (NR_ANSWERS + 1));
	struct source_params params = {
		.mode = (enum migrate_mode)(flags % 3),
		.stall = MIGRATE_STALL_POSTCOPY,
		.nr_bulk = 1 + (flags >> 2 & 1),
		.verify = flags >> 3 & 1,
		.compress = flags >> 4 & 1,
		.copy_disks = flags >> 5 & 1,
		.patience_ms = PATIENCE_MS,
	};
	enum migrate_phase phase;

	rig_make();
	snprintf(params.address, sizeof(params.address), "unix:%s/in", stream_dir);
	phase = attempt(&params, good, params.mode == MIGRATE_MODE_PRECOPY || params.copy_disks ? 2 : 1, &in, 0);
	if (phase == MIGRATE_PAUSED && in.at < in.end)
		phase = attempt(&params, 1, 0, &in, 1);
	if (phase == MIGRATE_PAUSED)
		phase = take_back();
	if (phase == MIGRATE_COMPLETED) {
		vm_remove();
		vm_make();
	}
	ASSERT(!source_holds(rig.source) && !source_is_active(rig.source));
	await_guest();
	return 0;
}
