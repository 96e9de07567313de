/* test_vsock_state.c: a restored guest hears that its connections are gone, and new ones wait until it has; the VM that was saved goes on.
 */
#include "tests/unit/cm.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/dev/saved.h"
#include "virtio/vsock_dev.h"

extern const struct device_class virtio_vsock_class;

#define CID	   42u
#define PORT	   52u /* of a server on the host */
#define RX_SIZE	   4096u
#define EVENT_SIZE 4u
#define NR_EVENTS  8u
#define WAIT_MS	   5000u
#define QUIET_MS   100u

static const u64 layouts[] = {FDRV_VERSION_1, FDRV_ALL_FEATURES & ~FDRV_PACKED, FDRV_ALL_FEATURES};

struct bench {
	struct fake_vm f;
	struct fdrv d;
	struct vsock_cfg cfg;
	struct device *dev;
	char dir[32], path[64], server_path[80];
	int server;
	u64 tx; /* guest address of a packet to send */
	struct saved saved;
};

static int unix_socket(const char *path, bool server)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct timeval patience = {.tv_sec = WAIT_MS / 1000};

	memcpy(addr.sun_path, path, strlen(path));
	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (server) {
		assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
		assert_int_equal(listen(fd, 16), 0);
	} else {
		assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	}
	return fd;
}

/* A VM with a device that no driver has found yet. */
static void make(struct bench *b, enum vm_origin origin)
{
	memset(b, 0, sizeof(*b));
	snprintf(b->dir, sizeof(b->dir), "/tmp/husk-vsock-XXXXXX");
	assert_non_null(mkdtemp(b->dir));
	snprintf(b->path, sizeof(b->path), "%s/v", b->dir);
	snprintf(b->server_path, sizeof(b->server_path), "%s_%u", b->path, PORT);
	b->cfg = (struct vsock_cfg){.guest_cid = CID, .uds_path = b->path};
	fake_vm_init(&b->f, FAKE_VM_QUIET);
	b->f.vm.origin = origin;
	b->tx = fake_vm_alloc(&b->f, 4096, 4096);
	b->dev = fake_vm_add(&b->f, &virtio_vsock_class, &b->cfg);
	b->server = unix_socket(b->server_path, true);
}

static void post(struct bench *b, u16 q, u32 nr, u32 size)
{
	for (u32 i = 0; i < nr; i++) {
		struct fbuf in = {fake_vm_alloc(&b->f, size, 4), size};

		assert_true(fdrv_add(&b->d, q, NULL, 0, &in, 1, (void *)(uintptr_t)in.gpa));
	}
	fdrv_kick(&b->d, q);
}

static void up(struct bench *b, u64 features, u32 nr_rx, u32 nr_events)
{
	make(b, VM_BOOTED);
	fake_vm_start(&b->f);
	fdrv_up(&b->d, &b->f, b->dev, features, VSOCK_QUEUES, 64);
	post(b, VSOCK_RXQ, nr_rx, RX_SIZE);
	post(b, VSOCK_EVENTQ, nr_events, EVENT_SIZE);
}

static void down(struct bench *b)
{
	saved_free(&b->saved);
	fake_vm_fini(&b->f);
	close(b->server);
	unlink(b->server_path);
	assert_int_equal(rmdir(b->dir), 0);
}

/* b becomes what a is now, up to its start. */
static void restore(struct bench *b, struct bench *a)
{
	struct err e;

	if (saved_take(&a->saved, &a->f, a->dev, &e) < 0)
		fail_msg("%s", e.msg);
	make(b, VM_RESTORED);
	saved_memory(&a->saved, &b->f);
	if (saved_put(&a->saved, &b->f, b->dev, &e) < 0)
		fail_msg("%s", e.msg);
	b->d = a->d;
	fdrv_move(&b->d, &b->f, b->dev);
	fake_vm_start(&b->f);
}

/* ---- the guest ---- */

static void queue_packet(struct bench *b, u16 op, u32 host_port, u32 guest_port, u32 len)
{
	const struct virtio_vsock_hdr h = {
		.src_cid = CID,
		.dst_cid = VSOCK_HOST_CID,
		.src_port = guest_port,
		.dst_port = host_port,
		.len = len,
		.type = VIRTIO_VSOCK_TYPE_STREAM,
		.op = op,
		.buf_alloc = 64 * KIB,
	};
	struct fbuf out = {b->tx, VSOCK_HDR_LEN + len};

	memcpy(fake_vm_ptr(&b->f, b->tx, VSOCK_HDR_LEN), &h, VSOCK_HDR_LEN);
	memset(fake_vm_ptr(&b->f, b->tx + VSOCK_HDR_LEN, len), 'g', len);
	assert_true(fdrv_add(&b->d, VSOCK_TXQ, &out, 1, NULL, 0, NULL));
	fdrv_kick(&b->d, VSOCK_TXQ);
}

static void guest_send(struct bench *b, u16 op, u32 host_port, u32 guest_port, u32 len)
{
	queue_packet(b, op, host_port, guest_port, len);
	assert_true(fdrv_wait_used(&b->d, VSOCK_TXQ, NULL, NULL, WAIT_MS));
}

static struct virtio_vsock_hdr expect(struct bench *b, u16 op)
{
	struct virtio_vsock_hdr h = {0};
	void *token;

	if (!fdrv_wait_used(&b->d, VSOCK_RXQ, &token, NULL, WAIT_MS))
		fail_msg("no packet, expected op %u", op);
	memcpy(&h, fake_vm_ptr(&b->f, (u64)(uintptr_t)token, VSOCK_HDR_LEN), VSOCK_HDR_LEN);
	assert_int_equal(h.op, op);
	return h;
}

static void expect_nothing(struct bench *b)
{
	void *token;

	if (fdrv_wait_used(&b->d, VSOCK_RXQ, &token, NULL, QUIET_MS))
		fail_msg("an unexpected packet");
}

static u64 take_event(struct bench *b)
{
	void *token;
	u32 len;

	assert_true(fdrv_wait_used(&b->d, VSOCK_EVENTQ, &token, &len, WAIT_MS));
	assert_int_equal(len, EVENT_SIZE);
	assert_int_equal(ld_le32(fake_vm_ptr(&b->f, (u64)(uintptr_t)token, EVENT_SIZE)), VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
	return (u64)(uintptr_t)token;
}

/* True: the device wanted to hear of it. */
static bool give_back_event(struct bench *b, u64 gpa)
{
	struct fbuf in = {gpa, EVENT_SIZE};

	assert_true(fdrv_add(&b->d, VSOCK_EVENTQ, NULL, 0, &in, 1, (void *)(uintptr_t)gpa));
	return fdrv_kick(&b->d, VSOCK_EVENTQ);
}

/* A connection of the guest's port to the server. */
static int guest_connect(struct bench *b, u32 guest_port)
{
	int fd;

	guest_send(b, VIRTIO_VSOCK_OP_REQUEST, PORT, guest_port, 0);
	expect(b, VIRTIO_VSOCK_OP_RESPONSE);
	fd = accept(b->server, NULL, NULL);
	assert_true(fd >= 0);
	return fd;
}

static int host_connect(struct bench *b)
{
	int fd = unix_socket(b->path, false);

	assert_int_equal(fd_write_all(fd, "CONNECT 7\n", 10), 0);
	return fd;
}

static void expect_data(int fd, u32 len)
{
	char got[64];

	assert_int_equal(fd_read_all(fd, got, len), 0);
	for (u32 i = 0; i < len; i++)
		assert_int_equal(got[i], 'g');
}

/* ---- tests ---- */

static void connections_end_with_an_event_and_new_ones_wait_until_the_guest_took_it(void **state)
{
	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(layouts); i++) {
		struct bench a, b;
		int old, client;
		u64 event;

		up(&a, layouts[i], 32, NR_EVENTS);
		old = guest_connect(&a, 1024);
		restore(&b, &a);
		client = host_connect(&b);
		saved_resume(&b.f, b.dev);
		event = take_event(&b);
		fdrv_notify(&b.d, VSOCK_EVENTQ); /* for nothing */
		queue_packet(&b, VIRTIO_VSOCK_OP_REQUEST, PORT, 1025, 0);
		expect_nothing(&b);
		assert_false(fdrv_get_used(&b.d, VSOCK_TXQ, NULL, NULL));
		assert_true(give_back_event(&b, event));
		assert_true(fdrv_wait_used(&b.d, VSOCK_TXQ, NULL, NULL, WAIT_MS));
		for (u32 n = 0, seen = 0; n < 2; n++) { /* in any order */
			void *token;
			struct virtio_vsock_hdr h;

			assert_true(fdrv_wait_used(&b.d, VSOCK_RXQ, &token, NULL, WAIT_MS));
			memcpy(&h, fake_vm_ptr(&b.f, (u64)(uintptr_t)token, VSOCK_HDR_LEN), VSOCK_HDR_LEN);
			assert_true(h.op == VIRTIO_VSOCK_OP_REQUEST || h.op == VIRTIO_VSOCK_OP_RESPONSE);
			assert_int_not_equal(seen, h.op);
			seen = h.op;
		}
		guest_send(&b, VIRTIO_VSOCK_OP_RW, PORT, 1024, 5); /* the old one */
		assert_int_equal(expect(&b, VIRTIO_VSOCK_OP_RST).dst_port, 1024);
		assert_false(fdrv_get_used(&b.d, VSOCK_EVENTQ, NULL, NULL));
		/* The other VM noticed nothing. */
		saved_resume(&a.f, a.dev);
		guest_send(&a, VIRTIO_VSOCK_OP_RW, PORT, 1024, 5);
		expect_data(old, 5);
		assert_false(fdrv_get_used(&a.d, VSOCK_EVENTQ, NULL, NULL));
		close(old);
		close(client);
		down(&a);
		down(&b);
	}
}

static void a_guest_that_does_not_take_the_event_can_connect_a_second_later(void **state)
{
	(void)state;
	for (u32 nr = 0; nr < 2; nr++) { /* event buffers */
		struct bench a, b;
		u64 start;
		int fd;

		up(&a, FDRV_ALL_FEATURES, 32, nr);
		restore(&b, &a);
		start = clock_host_ns();
		saved_resume(&b.f, b.dev);
		fd = guest_connect(&b, 1025);
		assert_in_range(clock_host_ns() - start, 900 * NSEC_PER_MSEC, 4 * NSEC_PER_SEC);
		assert_int_equal(fdrv_get_used(&b.d, VSOCK_EVENTQ, NULL, NULL), nr != 0);
		close(fd);
		down(&a);
		down(&b);
	}
}

static void a_paused_vm_keeps_the_event_until_it_runs(void **state)
{
	struct bench a, b, c;

	(void)state;
	up(&a, FDRV_ALL_FEATURES, 32, NR_EVENTS);
	restore(&b, &a);
	restore(&c, &b); /* a copy of one that never ran */
	saved_resume(&c.f, c.dev);
	give_back_event(&c, take_event(&c));
	close(guest_connect(&c, 1030));
	assert_false(fdrv_get_used(&b.d, VSOCK_EVENTQ, NULL, NULL));
	saved_resume(&b.f, b.dev);
	take_event(&b); /* and saved before it gave that back */
	down(&c);
	saved_free(&b.saved);
	restore(&c, &b);
	saved_resume(&c.f, c.dev);
	take_event(&c);
	down(&a);
	down(&b);
	down(&c);
}

static void a_guest_that_waits_for_an_answer_gets_a_refusal(void **state)
{
	struct bench a, b;

	(void)state;
	up(&a, FDRV_ALL_FEATURES, 0, NR_EVENTS);	      /* no room for answers */
	guest_send(&a, VIRTIO_VSOCK_OP_REQUEST, 53, 1024, 0); /* nobody there */
	guest_send(&a, VIRTIO_VSOCK_OP_REQUEST, PORT, 1025, 0);
	restore(&b, &a);
	saved_resume(&b.f, b.dev);
	give_back_event(&b, take_event(&b));
	post(&b, VSOCK_RXQ, 8, RX_SIZE);
	assert_int_equal(expect(&b, VIRTIO_VSOCK_OP_RST).dst_port, 1024);
	assert_int_equal(expect(&b, VIRTIO_VSOCK_OP_RST).dst_port, 1025);
	saved_resume(&a.f, a.dev);
	post(&a, VSOCK_RXQ, 8, RX_SIZE);
	expect(&a, VIRTIO_VSOCK_OP_RST);
	expect(&a, VIRTIO_VSOCK_OP_RESPONSE);
	down(&a);
	down(&b);
}

static void ports_of_ended_connections_are_not_used_again(void **state)
{
	struct bench a, b;
	int fds[3];
	u32 last;

	(void)state;
	up(&a, FDRV_ALL_FEATURES, 32, NR_EVENTS);
	fds[0] = host_connect(&a);
	expect(&a, VIRTIO_VSOCK_OP_REQUEST);
	fds[1] = host_connect(&a);
	last = expect(&a, VIRTIO_VSOCK_OP_REQUEST).src_port;
	restore(&b, &a);
	saved_resume(&b.f, b.dev);
	give_back_event(&b, take_event(&b));
	fds[2] = host_connect(&b);
	assert_int_equal(expect(&b, VIRTIO_VSOCK_OP_REQUEST).src_port, last + 1);
	for (u32 i = 0; i < 3; i++)
		close(fds[i]);
	down(&a);
	down(&b);
}

static void a_device_that_no_driver_uses_yet_is_restored_as_such(void **state)
{
	struct bench a, b;

	(void)state;
	make(&a, VM_BOOTED);
	restore(&b, &a);
	saved_resume(&b.f, b.dev);
	fdrv_up(&b.d, &b.f, b.dev, FDRV_ALL_FEATURES, VSOCK_QUEUES, 64);
	post(&b, VSOCK_RXQ, 8, RX_SIZE);
	post(&b, VSOCK_EVENTQ, NR_EVENTS, EVENT_SIZE);
	close(guest_connect(&b, 1024)); /* at once */
	assert_false(fdrv_get_used(&b.d, VSOCK_EVENTQ, NULL, NULL));
	down(&a);
	down(&b);
}

/* The reset's work waits for the loop, which stands still. */
static void a_reset_that_has_just_begun_ends_before_the_save(void **state)
{
	struct bench a, b;

	(void)state;
	make(&a, VM_BOOTED);
	fdrv_up(&a.d, &a.f, a.dev, FDRV_ALL_FEATURES, VSOCK_QUEUES, 64);
	fdrv_write(&a.d, MMIO_STATUS, 0);
	assert_int_not_equal(fdrv_read(&a.d, MMIO_STATUS), 0);
	restore(&b, &a);
	assert_int_equal(fdrv_read(&a.d, MMIO_STATUS), 0);
	assert_int_equal(fdrv_read(&b.d, MMIO_STATUS), 0);
	down(&a);
	down(&b);
}

static void a_driver_that_is_reset_while_the_event_waits_does_not_get_it(void **state)
{
	struct bench a, b;

	(void)state;
	up(&a, FDRV_ALL_FEATURES, 32, 0);
	restore(&b, &a);
	saved_resume(&b.f, b.dev);
	assert_true(fdrv_reset(&b.d, WAIT_MS));
	fdrv_up(&b.d, &b.f, b.dev, FDRV_ALL_FEATURES, VSOCK_QUEUES, 64);
	post(&b, VSOCK_RXQ, 8, RX_SIZE);
	post(&b, VSOCK_EVENTQ, NR_EVENTS, EVENT_SIZE);
	close(guest_connect(&b, 1024));
	assert_false(fdrv_get_used(&b.d, VSOCK_EVENTQ, NULL, NULL));
	down(&a);
	down(&b);
}

static void an_event_buffer_without_room_breaks_the_device_not_husk(void **state)
{
	struct bench a, b;

	(void)state;
	up(&a, FDRV_ALL_FEATURES, 32, 0);
	post(&a, VSOCK_EVENTQ, 2, 3);
	restore(&b, &a);
	saved_resume(&b.f, b.dev);
	assert_true(fdrv_wait_needs_reset(&b.d, WAIT_MS));
	down(&a);
	down(&b);
}

static void the_socket_of_the_vm_that_was_saved_is_in_the_way_and_the_message_says_what_to_do(void **state)
{
	struct bench a, b;
	struct err e = {0};

	(void)state;
	up(&a, FDRV_ALL_FEATURES, 4, 4);
	make(&b, VM_RESTORED);
	assert_null(fake_vm_add_err(&b.f, &virtio_vsock_class, &a.cfg, &e));
	assert_non_null(strstr(e.msg, a.path));
	assert_non_null(strstr(e.msg, "another path"));
	down(&b);
	down(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(connections_end_with_an_event_and_new_ones_wait_until_the_guest_took_it),
		cmocka_unit_test(a_guest_that_does_not_take_the_event_can_connect_a_second_later),
		cmocka_unit_test(a_paused_vm_keeps_the_event_until_it_runs),
		cmocka_unit_test(a_guest_that_waits_for_an_answer_gets_a_refusal),
		cmocka_unit_test(ports_of_ended_connections_are_not_used_again),
		cmocka_unit_test(a_device_that_no_driver_uses_yet_is_restored_as_such),
		cmocka_unit_test(a_reset_that_has_just_begun_ends_before_the_save),
		cmocka_unit_test(a_driver_that_is_reset_while_the_event_waits_does_not_get_it),
		cmocka_unit_test(an_event_buffer_without_room_breaks_the_device_not_husk),
		cmocka_unit_test(the_socket_of_the_vm_that_was_saved_is_in_the_way_and_the_message_says_what_to_do),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
