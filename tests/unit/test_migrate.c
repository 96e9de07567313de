/*
 * test_migrate.c: a VM leaves: by precopy and in the other modes to a true destination in this process; cancelled at any time; to
 * destinations that refuse, break off or lie. Wherever it is in the end its guest finds no page older or newer than it left it.
 */
#include "huge_pages.h"
#include "move_vm.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "migration/source.h"
#include "migration/wire.h"

static struct move_dir dir;

/* A VM that can leave. */
struct leaver {
	struct mover m;
	struct source *source;
	struct source_params params;
};

static struct leaver *leaver_boot(u32 cpus)
{
	struct leaver *l = xzalloc(sizeof(*l));

	mover_boot(&l->m, &dir, move_accel, cpus, "");
	return l;
}

static void leaver_run(struct leaver *l)
{
	if (source_start_thread(&l->source, &l->m.vm, &l->m.e) < 0)
		move_die("source", &l->m.e);
	mover_run(&l->m);
	while (!move_word(&l->m, MOVE_STATUS))
		usleep(1000);
	l->params = (struct source_params){.nr_bulk = 2, .patience_ms = 3000, .verify = true};
	snprintf(l->params.address, sizeof(l->params.address), "unix:%s/in", dir.path);
}

static struct leaver *leaver_new(u32 cpus)
{
	struct leaver *l = leaver_boot(cpus);

	leaver_run(l);
	return l;
}

/* As main does at the end. */
static void leaver_free(struct leaver *l)
{
	mover_end(&l->m);
	source_stop_thread(l->source);
	mover_fini(&l->m);
	free(l);
}

static void set_mode(struct leaver *l, enum migrate_mode mode)
{
	l->params.mode = mode;
	l->params.verify = mode != MIGRATE_MODE_LOCAL; /* there is one copy only */
}

/* ---- on the loop ---- */

struct ask {
	struct loop_work work;
	struct leaver *l;
	void (*fn)(struct leaver *l);
	int ret;
	struct err e;
	bool done; /* atomic */
};

static void run_ask(struct loop_work *w)
{
	struct ask *a = container_of(w, struct ask, work);

	if (a->fn)
		a->fn(a->l);
	else
		a->ret = source_begin(a->l->source, &a->l->params, &a->e);
	__atomic_store_n(&a->done, true, __ATOMIC_RELEASE);
}

static struct ask on_loop(struct leaver *l, void (*fn)(struct leaver *l))
{
	struct ask a = {.work.run = run_ask, .l = l, .fn = fn};

	loop_post(&l->m.vm.loop, &a.work);
	while (!__atomic_load_n(&a.done, __ATOMIC_ACQUIRE))
		usleep(200);
	return a;
}

static void begin(struct leaver *l)
{
	struct ask a = on_loop(l, NULL);

	if (a.ret < 0)
		move_die("begin", &a.e);
}

static void refused(struct leaver *l, int code, const char *word)
{
	struct ask a = on_loop(l, NULL);

	assert_int_equal(a.ret, code);
	if (!strstr(a.e.msg, word))
		fail_msg("%s", a.e.msg);
}

static void pause_vm(struct leaver *l)
{
	vm_pause(&l->m.vm);
}

static void resume_vm(struct leaver *l)
{
	vm_resume(&l->m.vm);
}

/* ---- outcomes ---- */

static struct migrate_status status_of(struct leaver *l)
{
	struct migrate_status s;

	source_status(l->source, &s);
	return s;
}

static bool is_over(enum migrate_phase p)
{
	return p >= MIGRATE_COMPLETED || p == MIGRATE_PAUSED;
}

static struct migrate_status outcome(struct leaver *l)
{
	struct migrate_status s = status_of(l);

	for (u32 i = 0; i < 60000 && !is_over(s.phase); i++) {
		usleep(500);
		s = status_of(l);
	}
	return s;
}

static void wait_phase(struct leaver *l, enum migrate_phase p)
{
	while (status_of(l).phase < p)
		usleep(200);
}

/* The guest passes over its memory twice more, and finds no mistake. */
static void goes_on(struct mover *m)
{
	u64 passes = move_word(m, MOVE_STATUS);

	for (u32 i = 0; i < 40000 && move_word(m, MOVE_STATUS) < passes + 2 && !move_word(m, MOVE_STATUS + 8); i++)
		usleep(500);
	assert_int_equal(move_word(m, MOVE_STATUS + 8), 0);
	assert_true(move_word(m, MOVE_STATUS) >= passes + 2);
}

static void stayed(struct leaver *l, enum migrate_phase phase, const char *word)
{
	struct migrate_status s = outcome(l);

	if (s.phase != phase || !strstr(s.error, word))
		fail_msg("%s: %s", migrate_phase_name(s.phase), s.error);
	assert_false(source_holds(l->source));
	goes_on(&l->m);
}

static void moved(struct leaver *l, struct mover *dst)
{
	struct migrate_status s = outcome(l);

	if (s.phase != MIGRATE_COMPLETED)
		fail_msg("%s: %s", migrate_phase_name(s.phase), s.error);
	assert_true(move_until_phase(dst, MIGRATE_COMPLETED));
	goes_on(dst);
	assert_int_equal(s.different_pages, 0);
	assert_true(!l->params.verify || s.verified_pages == MOVE_RAM_MIB * MIB / MEM_PAGE_SIZE);
	assert_true(s.stop_ns + s.capture_ns + s.last_ram_ns + s.send_ns + s.load_ns + s.run_ns <= s.downtime_ns);
	mover_join(&l->m);
	assert_int_equal(l->m.end, VM_END_MOVED);
	/* In mode local its memory is the destination's: nothing that ends here reaches it. */
	assert_true(move_word(dst, MOVE_STATUS) > move_word(&l->m, MOVE_STATUS));
}

static struct mover *receiver(void)
{
	struct mover *m = xzalloc(sizeof(*m));

	mover_receive(m, &dir, &(struct dest_params){.patience_ms = 3000});
	return m;
}

static void receiver_free(struct mover *m)
{
	mover_fini(m);
	free(m);
}

/* ---- moves ---- */

static void a_vm_moves_in_each_mode_and_over_any_number_of_channels(void **state)
{
	static const u32 channels[] = {1, 3, 8};

	(void)state;
	for (u32 i = 0; i < 8; i++) {
		struct leaver *l = leaver_new(1 + i % 2);
		struct mover *dst = receiver();

		set_mode(l, (enum migrate_mode)(i % 4));
		l->params.nr_bulk = channels[i / 3];
		l->params.compress = i >= 4;
		begin(l);
		moved(l, dst);
		leaver_free(l);
		receiver_free(dst);
	}
}

/* What the guest writes to is a file's, mapped over the memory as a kernel or an initrd is. */
static void put_image(struct leaver *l)
{
	int fd = open(dir.path, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	assert_int_equal(ftruncate(fd, MOVE_PAGES * MEM_PAGE_SIZE), 0);
	assert_int_equal(mem_load_file(&l->m.vm.mem, MOVE_AREA, fd, 0, MOVE_PAGES * MEM_PAGE_SIZE, &l->m.e), 0);
	assert_true(l->m.vm.mem.nr_images > 0);
	close(fd);
}

/* The husk that has it now. */
static struct leaver *upgraded(struct leaver *l)
{
	struct leaver *next = xzalloc(sizeof(*next));
	struct stat then, now;

	assert_int_equal(fstat(l->m.vm.mem.fd, &then), 0);
	mover_receive(&next->m, &dir, &(struct dest_params){.patience_ms = 3000});
	/* Where it came in itself may not be free yet. */
	snprintf(l->params.address, sizeof(l->params.address), "%s", dest_address(next->m.dest));
	next->params = l->params;
	begin(l);
	moved(l, &next->m);
	next->source = next->m.source;
	next->m.source = NULL;
	assert_int_equal(fstat(next->m.vm.mem.fd, &now), 0);
	assert_int_equal(now.st_ino, then.st_ino);
	return next;
}

/* Each place it comes to is where it leaves next. The first sends what it had of the file; then there is nothing to send. */
static void a_vm_goes_from_husk_to_husk_by_its_memfd(void **state)
{
	struct leaver *l = leaver_boot(2), *next;

	(void)state;
	put_image(l);
	leaver_run(l);
	set_mode(l, MIGRATE_MODE_LOCAL);
	/* What these leave in the memfd, below the file, is not the guest's. */
	for (u32 i = 0; i < 6; i++) {
		struct mover *dst = receiver();
		struct err e;

		l->params.bandwidth = 100 * MIB;
		begin(l);
		usleep(20000 * i);
		assert_int_equal(source_cancel(l->source, &e), 0);
		stayed(l, MIGRATE_CANCELLED, "cancelled");
		receiver_free(dst);
	}
	l->params.bandwidth = 0;
	for (u32 i = 0; i < 4; i++) {
		next = upgraded(l);
		assert_true((status_of(l).pages >= MOVE_PAGES) == (i == 0) && (status_of(l).pages == 0) == (i > 0));
		leaver_free(l);
		l = next;
	}
	leaver_free(l);
}

/* Both husks have the same pages: the host needs no more of them than one VM takes. */
static void pages_of_2_mib_go_as_well(void **state)
{
	struct leaver *l, *next;
	u64 left;

	(void)state;
	move_machine = ",\"huge_pages\":\"2M\"";
	l = leaver_new(1);
	left = huge_pages("free") - huge_pages("resv");
	set_mode(l, MIGRATE_MODE_LOCAL);
	for (u32 i = 0; i < 3; i++) {
		next = upgraded(l);
		assert_int_equal(status_of(l).pages, 0);
		assert_int_equal(huge_pages("free") - huge_pages("resv"), left);
		leaver_free(l);
		l = next;
	}
	leaver_free(l);
	move_machine = "";
}

static void bandwidth_is_kept(void **state)
{
	struct leaver *l = leaver_new(1);
	struct mover *dst = receiver();
	u64 sent;

	(void)state;
	l->params.bandwidth = 20 * MIB;
	begin(l);
	wait_phase(l, MIGRATE_PRECOPY);
	usleep(300000);
	sent = status_of(l).sent_bytes;
	assert_int_equal(source_cancel(l->source, &l->m.e), 0);
	stayed(l, MIGRATE_CANCELLED, "cancelled");
	assert_in_range(sent, 2 * MIB, 10 * MIB);
	leaver_free(l);
	receiver_free(dst);
}

/* The guest writes 16 MiB again and again: more than fits into a downtime of nothing. */
static void a_guest_that_writes_too_fast_is_dealt_with_as_was_asked(void **state)
{
	struct leaver *l = leaver_new(1);
	struct mover *dst = receiver();

	(void)state;
	l->params.max_downtime_ns = 1;
	l->params.bandwidth = 400 * MIB;
	l->params.stall = MIGRATE_STALL_CANCEL;
	begin(l);
	stayed(l, MIGRATE_FAILED, "the guest writes faster");
	receiver_free(dst);

	dst = receiver();
	l->params.stall = MIGRATE_STALL_THROTTLE;
	begin(l);
	while (status_of(l).throttle_percent < 40 && !is_over(status_of(l).phase))
		usleep(1000);
	assert_true(status_of(l).throttle_percent >= 40);
	assert_int_equal(source_cancel(l->source, &l->m.e), 0);
	stayed(l, MIGRATE_CANCELLED, "cancelled");
	assert_false(l->m.vm.vcpus[0].held);
	receiver_free(dst);

	dst = receiver();
	l->params.stall = MIGRATE_STALL_POSTCOPY;
	begin(l);
	moved(l, dst);
	leaver_free(l);
	receiver_free(dst);
}

/* ---- refusals ---- */

static void what_cannot_move_is_refused_at_once(void **state)
{
	struct leaver *l = leaver_new(1);
	struct err e;

	(void)state;
	assert_int_equal(source_cancel(l->source, &e), -ENOENT);
	assert_int_equal(source_break(l->source, &e), -ENOENT);
	assert_int_equal(source_recover(l->source, NULL, &e), -EINVAL);
	assert_int_equal(source_take_back(l->source, &e), -EINVAL);
	l->params.nr_bulk = 9;
	refused(l, -EINVAL, "1 to 8");
	l->params.nr_bulk = 1;
	l->params.package_cap = 4096;
	refused(l, -EFBIG, "cpu");
	l->params.package_cap = 0;
	on_loop(l, pause_vm);
	refused(l, -EINVAL, "runs");
	on_loop(l, resume_vm);
	set_mode(l, MIGRATE_MODE_LOCAL);
	l->params.verify = true;
	refused(l, -EINVAL, "verify");
	l->params.verify = false;
	l->params.stall = MIGRATE_STALL_POSTCOPY;
	refused(l, -EINVAL, "postcopy");
	l->params.stall = MIGRATE_STALL_THROTTLE;
	snprintf(l->params.address, sizeof(l->params.address), "tcp:127.0.0.1:1");
	refused(l, -EINVAL, "unix:PATH");
	snprintf(l->params.address, sizeof(l->params.address), "fd:3");
	refused(l, -EINVAL, "fd:3");
	l->params.address[0] = 0;
	refused(l, -EINVAL, "address");
	goes_on(&l->m);
	leaver_free(l);
}

static void a_destination_that_is_not_there_or_takes_less_is_an_error(void **state)
{
	struct leaver *l = leaver_new(1);
	struct mover *dst = xzalloc(sizeof(*dst));

	(void)state;
	begin(l);
	stayed(l, MIGRATE_FAILED, "husk receive");
	mover_receive(dst, &dir, &(struct dest_params){.package_cap = 4096});
	begin(l);
	stayed(l, MIGRATE_FAILED, "4096");
	mover_fini(dst);
	snprintf(l->params.address, sizeof(l->params.address), "nonsense");
	begin(l);
	stayed(l, MIGRATE_FAILED, "nonsense");
	leaver_free(l);
	free(dst);
}

/* ---- cancel ---- */

static void cancelled_at_any_time_it_runs_on_or_has_moved(void **state)
{
	struct leaver *l = leaver_new(1);
	u32 late = 0;

	(void)state;
	for (u32 i = 0; i < 32 && !late; i++) {
		struct mover *dst = receiver();
		struct err e;

		set_mode(l, (enum migrate_mode)(i % 4));
		begin(l);
		if (i < 4)
			refused(l, -EBUSY, "under way");
		usleep(i * i * 400);
		late = source_cancel(l->source, &e) < 0;
		if (late)
			moved(l, dst);
		else
			stayed(l, MIGRATE_CANCELLED, "cancelled");
		assert_true(late || source_cancel(l->source, &e) == -ENOENT);
		receiver_free(dst);
	}
	leaver_free(l);
}

/* A host that answers nothing: its listener's backlog is full. */
static void a_connection_that_hangs_can_be_given_up(void **state)
{
	struct leaver *l = leaver_new(1);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), others[3];
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(at);
	struct err e;
	u64 start_ns;

	(void)state;
	assert_int_equal(bind(listener, (struct sockaddr *)&at, len) | listen(listener, 0), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&at, &len), 0);
	for (u32 i = 0; i < ARRAY_SIZE(others); i++) {
		others[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		(void)!connect(others[i], (struct sockaddr *)&at, len);
	}
	snprintf(l->params.address, sizeof(l->params.address), "tcp:127.0.0.1:%u", ntohs(at.sin_port));
	l->params.patience_ms = 60000;
	begin(l);
	usleep(100000);
	assert_int_equal(status_of(l).phase, MIGRATE_CONNECT);
	start_ns = clock_host_ns();
	assert_int_equal(source_cancel(l->source, &e), 0);
	stayed(l, MIGRATE_CANCELLED, "cancelled");
	assert_true(clock_host_ns() - start_ns < 20 * NSEC_PER_SEC);
	leaver_free(l);
	for (u32 i = 0; i < ARRAY_SIZE(others); i++)
		close(others[i]);
	close(listener);
}

static void a_vm_that_ends_meanwhile_ends(void **state)
{
	(void)state;
	for (u32 i = 0; i < 4; i++) {
		struct leaver *l = leaver_new(1);
		struct mover *dst = receiver();
		u64 start_ns;

		l->params.mode = (enum migrate_mode)(i % 3);
		l->params.bandwidth = 8 * MIB;
		begin(l);
		wait_phase(l, i < 3 ? MIGRATE_PRECOPY : MIGRATE_CONNECT);
		start_ns = clock_host_ns();
		leaver_free(l);
		assert_true(clock_host_ns() - start_ns < NSEC_PER_SEC);
		mover_end(dst);
		receiver_free(dst);
	}
}

static void a_vm_that_is_paused_meanwhile_stays_so(void **state)
{
	struct leaver *l = leaver_new(1);
	struct mover *dst = receiver();
	struct migrate_status s;

	(void)state;
	l->params.bandwidth = 40 * MIB;
	begin(l);
	wait_phase(l, MIGRATE_PRECOPY);
	on_loop(l, pause_vm);
	s = outcome(l);
	assert_int_equal(s.phase, MIGRATE_FAILED);
	assert_non_null(strstr(s.error, "paused meanwhile"));
	assert_int_equal(l->m.vm.state, VM_PAUSED);
	on_loop(l, resume_vm);
	goes_on(&l->m);
	leaver_free(l);
	receiver_free(dst);
}

/* ---- destinations of another kind ---- */

enum act { ACT_WELCOME, ACT_ACCEPT, ACT_SYNCED, ACT_LOADED, ACT_RUNNING, NR_ACTS };

/* A destination that plays its part up to an act, in whose place it breaks off: closes, fails, or talks nonsense. */
struct actor {
	int listen_fd;
	enum act last;
	enum { LEAVE, FAIL, NONSENSE, SILENCE, LIE } how;
	bool commit; /* has come */
	struct channel control, bulk;
	pthread_t thread;
	struct err e;
};

static void break_off(struct actor *a)
{
	u64 big[3] = {0};
	struct frame f;

	if (a->how == FAIL)
		wire_send_fail(&a->control, FRAME_FAIL, -EIO, "the disk is full");
	else if (a->how == NONSENSE)
		(void)!wire_send_u64(&a->control, FRAME_DONE, big, 3, &a->e);
	else if (a->how == SILENCE)
		usleep(900000);
	while (a->how != LEAVE && channel_receive(&a->control, &f, 2000, &a->e) == 0)
		;
}

static bool act(struct actor *a, enum act now, u16 type, u64 number)
{
	if (a->last == now) {
		break_off(a);
		return false;
	}
	return wire_send_u64(&a->control, type, &number, 1, &a->e) == 0;
}

static bool take_channel(struct actor *a, struct channel *c)
{
	const struct wire_welcome w = {.phase = WIRE_NEW, .package_cap = PACKAGE_SOFT_CAP};
	struct pollfd p = {.fd = a->listen_fd, .events = POLLIN};
	struct frame f;

	if (poll(&p, 1, 5000) != 1 || channel_take(c, accept(a->listen_fd, NULL, NULL), NULL, 3000, &a->e) < 0 ||
	    channel_receive(c, &f, 3000, &a->e) < 0)
		return false;
	c->package_cap = PACKAGE_SOFT_CAP;
	if (a->last == ACT_WELCOME) {
		break_off(a);
		return false;
	}
	return wire_send_welcome(c, &w, &a->e) == 0;
}

static bool bulk_round(struct actor *a)
{
	struct frame f;
	u64 round;

	/* The first round's pages are not even read: they do not fit into the socket. */
	if (a->how == LIE && a->last == ACT_SYNCED) {
		(void)!wire_send_u64(&a->control, FRAME_SYNCED, &(u64){1}, 1, &a->e);
		break_off(a);
		return false;
	}
	do {
		if (channel_receive(&a->bulk, &f, 5000, &a->e) < 0)
			return false;
	} while (f.type != FRAME_SYNC);
	return wire_get_u64(&f, &round, 1, &a->e) == 0 && act(a, ACT_SYNCED, FRAME_SYNCED, round);
}

static bool answer(struct actor *a, const struct frame *f)
{
	switch (f->type) {
	case FRAME_OFFER:
		return act(a, ACT_ACCEPT, FRAME_ACCEPT, PACKAGE_SOFT_CAP);
	case FRAME_PACKAGE:
		return act(a, ACT_LOADED, FRAME_LOADED, 1);
	case FRAME_COMMIT:
		a->commit = true;
		return act(a, ACT_RUNNING, FRAME_RUNNING, 1);
	default:
		return true;
	}
}

static void *actor_thread(void *opaque)
{
	struct actor *a = opaque;
	bool more = take_channel(a, &a->control) && take_channel(a, &a->bulk);
	struct frame f;

	while (more) {
		struct pollfd p[2] = {{.fd = a->control.fd, .events = POLLIN}, {.fd = a->bulk.fd, .events = POLLIN}};

		if (poll(p, 2, 5000) <= 0)
			break;
		if (p[1].revents)
			more = bulk_round(a);
		if (more && p[0].revents)
			more = channel_receive(&a->control, &f, 0, &a->e) == 0 && answer(a, &f);
	}
	channel_close(&a->bulk);
	channel_close(&a->control);
	return NULL;
}

static struct actor *actor_new(struct leaver *l, enum act last, int how)
{
	struct actor *a = xzalloc(sizeof(*a));
	char bound[300];

	*a = (struct actor){.last = last, .how = how, .control.fd = -1, .bulk.fd = -1};
	if (channel_listen(l->params.address, &a->listen_fd, bound, sizeof(bound), &a->e) < 0)
		move_die("listen", &a->e);
	assert_int_equal(pthread_create(&a->thread, NULL, actor_thread, a), 0);
	return a;
}

static bool actor_end(struct actor *a)
{
	bool commit;

	pthread_join(a->thread, NULL);
	commit = a->commit;
	close(a->listen_fd);
	free(a);
	return commit;
}

static void destinations_break_off(enum migrate_mode mode)
{
	static const char *const words[] = {"", "the disk is full", "DONE", "", "not sent as a whole"};
	struct leaver *l = leaver_new(1);

	set_mode(l, mode);
	l->params.nr_bulk = 1;
	for (enum act last = ACT_WELCOME; last <= ACT_LOADED; last++) {
		for (int how = LEAVE; how <= (last == ACT_SYNCED && mode != MIGRATE_MODE_LOCAL ? LIE : SILENCE); how++) {
			struct actor *a = actor_new(l, last, how);

			l->params.patience_ms = how == SILENCE ? 600 : 10000;
			begin(l);
			stayed(l, MIGRATE_FAILED, words[how]);
			assert_false(actor_end(a));
		}
	}
	leaver_free(l);
}

static void a_destination_that_breaks_off_before_commit_costs_nothing(void **state)
{
	(void)state;
	destinations_break_off(MIGRATE_MODE_PRECOPY);
	destinations_break_off(MIGRATE_MODE_LOCAL);
}

/* It had the memory itself. */
static void what_was_handed_over_is_not_taken_back(void **state)
{
	struct leaver *l = leaver_new(1);
	struct actor *a = actor_new(l, ACT_RUNNING, LEAVE);
	struct migrate_status s;
	struct err e;

	(void)state;
	set_mode(l, MIGRATE_MODE_LOCAL);
	l->params.nr_bulk = 1;
	begin(l);
	s = outcome(l);
	assert_int_equal(s.phase, MIGRATE_PAUSED);
	assert_null(strstr(s.error, "take-back"));
	assert_true(actor_end(a));
	assert_int_equal(source_take_back(l->source, &e), -EOPNOTSUPP);
	leaver_free(l);
}

static void after_commit_it_never_runs_by_itself(void **state)
{
	struct leaver *l = leaver_new(1);
	u64 passes;

	(void)state;
	l->params.nr_bulk = 1;
	l->params.patience_ms = 2000;
	for (int how = LEAVE; how <= SILENCE; how++) {
		struct actor *a = actor_new(l, ACT_RUNNING, how);
		struct migrate_status s;
		struct err e;

		begin(l);
		s = outcome(l);
		assert_int_equal(s.phase, MIGRATE_PAUSED);
		assert_non_null(strstr(s.error, "migrate recover"));
		assert_true(actor_end(a));
		assert_true(source_holds(l->source) && l->m.vm.elsewhere);
		assert_int_equal(source_cancel(l->source, &e), -EBUSY);
		on_loop(l, resume_vm);
		passes = move_word(&l->m, MOVE_STATUS);
		/* Nobody is there, or somebody else. */
		assert_int_equal(source_recover(l->source, NULL, &e), 0);
		assert_int_equal(outcome(l).phase, MIGRATE_PAUSED);
		a = actor_new(l, NR_ACTS, LEAVE);
		assert_int_equal(source_recover(l->source, "", &e), 0);
		usleep(20000);
		s = outcome(l);
		assert_int_equal(s.phase, MIGRATE_PAUSED);
		assert_false(actor_end(a));
		assert_int_equal(move_word(&l->m, MOVE_STATUS), passes);
		assert_int_equal(source_take_back(l->source, &e), 0);
		while (status_of(l).phase == MIGRATE_PAUSED)
			usleep(500);
		stayed(l, MIGRATE_FAILED, "taken back");
	}
	leaver_free(l);
}

static int run_with_huge_pages(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(pages_of_2_mib_go_as_well)};
	bool enough;
	u64 before = huge_pages_add(MOVE_RAM_MIB / 2 + 2, &enough);
	int ret = 0;

	move_dir_make(&dir);
	if (enough)
		ret = cmocka_run_group_tests_name("huge", tests, NULL, NULL);
	move_dir_remove(&dir);
	huge_pages_set(before);
	return ret;
}

/* With "huge": in pages of 2 MiB; else with the name of an accelerator, or tcg. */
int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_vm_moves_in_each_mode_and_over_any_number_of_channels),
		cmocka_unit_test(a_vm_goes_from_husk_to_husk_by_its_memfd),
		cmocka_unit_test(bandwidth_is_kept),
		cmocka_unit_test(a_guest_that_writes_too_fast_is_dealt_with_as_was_asked),
		cmocka_unit_test(what_cannot_move_is_refused_at_once),
		cmocka_unit_test(a_destination_that_is_not_there_or_takes_less_is_an_error),
		cmocka_unit_test(cancelled_at_any_time_it_runs_on_or_has_moved),
		cmocka_unit_test(a_connection_that_hangs_can_be_given_up),
		cmocka_unit_test(a_vm_that_ends_meanwhile_ends),
		cmocka_unit_test(a_vm_that_is_paused_meanwhile_stays_so),
		cmocka_unit_test(a_destination_that_breaks_off_before_commit_costs_nothing),
		cmocka_unit_test(what_was_handed_over_is_not_taken_back),
		cmocka_unit_test(after_commit_it_never_runs_by_itself),
	};

	int failed;

	if (argc > 1 && !strcmp(argv[1], "huge"))
		return run_with_huge_pages();
	if (argc > 1)
		move_accel = argv[1];
	if (!strcmp(move_accel, "kvm") && access("/dev/kvm", R_OK | W_OK) != 0) {
		printf("1..0 # SKIP no /dev/kvm\n");
		return 0;
	}
	move_dir_make(&dir);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	move_dir_remove(&dir);
	return failed;
}
