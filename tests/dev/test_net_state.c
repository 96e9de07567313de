/* test_net_state.c: a network interface goes on in another VM, and the network hears of it. */
#include <semaphore.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "tests/dev/saved.h"
#include "tests/dev/tap_bench.h"

#define SPLIT	    (~FDRV_PACKED)
#define NO_ANNOUNCE (~BIT(VIRTIO_NET_F_GUEST_ANNOUNCE))

struct move {
	struct fixture *x;
	struct saved saved;
	int rarp; /* socket that sees only these */
};

static int setup_with(void **state, short flags)
{
	struct move *m = xzalloc(sizeof(*m));

	*state = m;
	tap_persist(TAP, flags, true);
	tap_up(TAP, 65000);
	m->x = bench_new();
	m->rarp = -1;
	return 0;
}

static int setup(void **state)
{
	return setup_with(state, 0);
}

static int setup_multi(void **state)
{
	return setup_with(state, IFF_MULTI_QUEUE);
}

static int teardown(void **state)
{
	struct move *m = *state;

	saved_free(&m->saved);
	bench_free(m->x);
	close(m->rarp);
	free(m);
	if (if_nametoindex(TAP))
		tap_delete(TAP);
	return 0;
}

static void up(struct move *m, u64 features)
{
	struct fixture *x = m->x;

	x->cfg.host_dev_name = (char *)TAP;
	bench_add(x);
	tap_wait_running(TAP);
	bench_run(x, features);
	x->host = packet_socket(TAP, false);
}

static void take(struct move *m)
{
	struct err e = {0};

	saved_free(&m->saved);
	if (saved_take(&m->saved, &m->x->f, m->x->dev, &e) < 0)
		fail_msg("not saved: %s", e.msg);
}

static struct net_state *state_of(struct move *m)
{
	return m->saved.data[1];
}

static int put_into_next(struct move *m, struct err *e)
{
	struct fixture *x = m->x;

	fake_vm_fini(&x->f);
	fake_vm_init(&x->f, FAKE_VM_QUIET);
	bench_add(x);
	saved_memory(&m->saved, &x->f);
	fdrv_move(&x->d, &x->f, x->dev);
	return saved_put(&m->saved, &x->f, x->dev, e);
}

static void go_on(struct move *m)
{
	fake_vm_start(&m->x->f);
	if (m->x->cfg.host_dev_name)
		tap_wait_running(TAP);
	saved_resume(&m->x->f, m->x->dev);
}

static void hop(struct move *m)
{
	struct err e = {0};

	take(m);
	if (put_into_next(m, &e) < 0)
		fail_msg("not loaded: %s", e.msg);
	go_on(m);
}

/* ---- frames ---- */

static void frames_go_on_after_a_move(void **state, u64 features)
{
	struct move *m = *state;
	struct fixture *x = m->x;
	struct virtio_net_hdr_v1 h = {0};

	up(m, features);
	post_rx(x, 0, 200, BUF_SIZE);
	for (u32 i = 0; i < 20; i++) {
		struct fbuf out = {x->tx, NET_HDR_LEN + 700};

		host_send(x, 60 + i * 2000, i); /* so that buffers are taken off the queue */
		expect_frame(x, 60 + i * 2000, i, BUF_SIZE);
		memcpy(fake_vm_ptr(&x->f, x->tx, NET_HDR_LEN), &h, NET_HDR_LEN);
		make_frame(fake_vm_ptr(&x->f, x->tx + NET_HDR_LEN, 700), 700, i);
		fdrv_sync(&x->d);
		assert_true(fdrv_add(&x->d, 1, &out, 1, NULL, 0, NULL)); /* without a kick */
		hop(m);
		assert_true(fdrv_wait_used(&x->d, 1, NULL, NULL, WAIT_MS));
		host_expect(x, 700, i);
	}
	assert_int_equal(x->d.q[0].size - x->d.q[0].nr_free, 200);
	assert_int_equal(counters(x)->rx_drops + counters(x)->tx_drops, 0);
}

static void frames_go_on_after_a_move_packed(void **state)
{
	frames_go_on_after_a_move(state, FDRV_ALL_FEATURES);
}

static void frames_go_on_after_a_move_split(void **state)
{
	frames_go_on_after_a_move(state, SPLIT);
}

static int pair_of_the_next_frame(struct fixture *x, u16 pairs)
{
	for (u32 i = 0; i < 5000; i++, usleep(1000)) {
		for (u16 p = 0; p < pairs; p++) {
			if (fdrv_get_used(&x->d, (u16)(2 * p), NULL, NULL))
				return p;
		}
	}
	fail_msg("no frame on any pair");
	return -1;
}

static void all_pairs_stay_in_use(void **state)
{
	struct move *m = *state;
	struct fixture *x = m->x;
	struct virtio_net_hdr_v1 h = {0};
	u16 pairs = 4;

	x->cfg.queue_pairs = 4;
	up(m, FDRV_ALL_FEATURES);
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_MQ, 0, &pairs, 2), VIRTIO_NET_OK);
	for (u16 p = 0; p < 4; p++)
		post_rx(x, p, 30, BUF_SIZE);
	hop(m);
	for (u16 p = 0; p < 4; p++) {
		make_frame(fake_vm_ptr(&x->f, x->tx + NET_HDR_LEN, 500), 500, p);
		tx_raw(x, p, &h, 500);
		host_expect(x, 500, p);
	}
	for (u32 i = 0; i < 20; i++) {
		host_send(x, 200, i);
		pair_of_the_next_frame(x, 4);
	}
}

/* ---- what the network and the guest hear ---- */

static void the_driver_is_asked_to_announce_itself(void **state)
{
	struct move *m = *state;
	struct fixture *x = m->x;

	up(m, FDRV_ALL_FEATURES);
	assert_int_equal(fdrv_config16(&x->d, 6), VIRTIO_NET_S_LINK_UP);
	hop(m);
	assert_int_equal(fdrv_config16(&x->d, 6), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	assert_true(fdrv_isr(&x->d) & VIRTIO_ISR_CONFIG);
	assert_int_equal(fdrv_read(&x->d, MMIO_CONFIG_GENERATION), 1);
	hop(m); /* before it has answered */
	assert_int_equal(fdrv_config16(&x->d, 6), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, "", 0), VIRTIO_NET_OK);
	assert_int_equal(fdrv_config16(&x->d, 6), VIRTIO_NET_S_LINK_UP);
	saved_resume(&x->f, x->dev); /* an ordinary pause */
	assert_int_equal(fdrv_config16(&x->d, 6), VIRTIO_NET_S_LINK_UP);
	hop(m);
	assert_true(fdrv_reset(&x->d, WAIT_MS));
	assert_int_equal(fdrv_config16(&x->d, 6), VIRTIO_NET_S_LINK_UP);
}

static void listen_for_rarp(struct move *m)
{
	struct sockaddr_ll a = {.sll_family = AF_PACKET, .sll_protocol = htons(0x8035), .sll_ifindex = (int)if_nametoindex(TAP)};
	struct timeval timeout = {.tv_sec = 2};

	m->rarp = socket(AF_PACKET, SOCK_RAW, 0);
	setsockopt(m->rarp, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	assert_return_code(bind(m->rarp, (struct sockaddr *)&a, sizeof(a)), errno);
}

static void expect_rarp(struct move *m, const u8 *mac)
{
	u8 p[128];

	assert_int_equal(recv(m->rarp, p, sizeof(p), 0), 60);
	assert_memory_equal(p, "\xff\xff\xff\xff\xff\xff", 6);
	assert_memory_equal(p + 6, mac, 6);
	assert_memory_equal(p + 12, "\x80\x35\x00\x01\x08\x00\x06\x04\x00\x03", 10);
	assert_memory_equal(p + 22, mac, 6);
	assert_memory_equal(p + 32, mac, 6);
}

static void husk_announces_a_driver_that_cannot(void **state)
{
	static const u8 mac[] = {2, 1, 2, 3, 4, 5};
	struct move *m = *state;
	struct fixture *x = m->x;

	up(m, NO_ANNOUNCE);
	listen_for_rarp(m);
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mac, 6), VIRTIO_NET_OK);
	hop(m);
	for (u32 i = 0; i < 3; i++)
		expect_rarp(m, mac);
	assert_int_equal(fdrv_config16(&x->d, 6), VIRTIO_NET_S_LINK_UP);
	saved_quiesce(&x->f, x->dev); /* no more of them */
	saved_quiesce(&x->f, x->dev);
}

static void an_idle_interface_announces_nothing(void **state)
{
	struct move *m = *state;
	struct fixture *x = m->x;

	up(m, NO_ANNOUNCE);
	assert_true(fdrv_reset(&x->d, WAIT_MS));
	hop(m);
	fdrv_sync(&x->d);
	assert_int_equal(fdrv_edges(&x->d), 0);
	assert_int_equal(to_net(to_virtio(x->dev))->announced, 0);
}

static void addresses_stay_what_the_guest_knows(void **state)
{
	struct move *m = *state;
	struct fixture *x = m->x;
	u8 given[6], set[6] = {2, 9, 8, 7, 6, 5};

	up(m, FDRV_ALL_FEATURES);
	memcpy(given, to_net(to_virtio(x->dev))->state.mac, 6); /* at random */
	hop(m);
	assert_memory_equal(to_net(to_virtio(x->dev))->state.mac, given, 6);
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, set, 6), VIRTIO_NET_OK);
	hop(m);
	for (u32 i = 0; i < 6; i++)
		assert_int_equal(fdrv_config8(&x->d, i), set[i]);
	assert_memory_equal(to_net(to_virtio(x->dev))->state.given_mac, given, 6);
}

static void a_link_that_was_gone_comes_back(void **state)
{
	struct move *m = *state;
	struct fixture *x = m->x;

	up(m, NO_ANNOUNCE);
	post_rx(x, 0, 10, BUF_SIZE);
	tap_delete(TAP);
	expect_link_down(x);
	take(m);
	tap_persist(TAP, 0, true);
	tap_up(TAP, 65000);
	assert_return_code(put_into_next(m, NULL), 0);
	go_on(m);
	assert_true(link_is_up(x));
	assert_true(fdrv_isr(&x->d) & VIRTIO_ISR_CONFIG);
	close(x->host);
	x->host = packet_socket(TAP, false);
	tx_frame(x, 100, 1);
	host_expect(x, 100, 1);
	host_send(x, 300, 2);
	expect_frame(x, 300, 2, 0);
}

/* ---- refusals ---- */

static void expect_refusal(struct move *m, const char *words)
{
	struct err e = {0};

	assert_int_equal(put_into_next(m, &e), -EINVAL);
	if (!strstr(e.msg, words))
		fail_msg("\"%s\" does not say \"%s\"", e.msg, words);
}

static void another_mtu_or_address_is_refused(void **state)
{
	struct move *m = *state;
	struct fixture *x = m->x;

	x->cfg.mtu = 1400;
	x->cfg.guest_mac = (char *)"06:00:ac:10:00:02";
	up(m, FDRV_ALL_FEATURES & ~BIT(VIRTIO_NET_F_MTU));
	take(m);
	x->cfg.mtu = 1500;
	expect_refusal(m, "mtu is 1500, in the snapshot 1400");
	x->cfg.mtu = 1400;
	x->cfg.guest_mac = (char *)"06:00:ac:10:00:03";
	expect_refusal(m, "guest_mac is 06:00:ac:10:00:03, in the snapshot 06:00:ac:10:00:02");
	x->cfg.guest_mac = NULL; /* then it is the snapshot's */
	assert_return_code(put_into_next(m, NULL), 0);
	assert_int_equal(fdrv_config8(&x->d, 5), 2);
}

static void made_up_states_are_refused(void **state)
{
	struct move *m = *state;
	struct net_state good;

	up(m, FDRV_ALL_FEATURES);
	take(m);
	good = *state_of(m);
	state_of(m)->pairs = 0;
	expect_refusal(m, "uses 0 pairs");
	state_of(m)->pairs = 2;
	expect_refusal(m, "uses 2 pairs");
	state_of(m)->pairs = 9;
	expect_refusal(m, "pairs");
	*state_of(m) = good;
	state_of(m)->status = 4;
	expect_refusal(m, "status");
	*state_of(m) = good;
	state_of(m)->guest_offloads |= BIT(40);
	expect_refusal(m, "takes offloads 0x10000000");
	*state_of(m) = good;
	assert_return_code(put_into_next(m, NULL), 0);
	go_on(m);
	tx_frame(m->x, 100, 1);
	host_expect(m->x, 100, 1);
}

/* The driver hands over frames that are to be cut: a stream cannot do that. */
static void offloads_that_are_missing_are_named(void **state)
{
	struct move *m = *state;
	struct fixture *x = m->x;
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	char dir[] = "/tmp/husk-net-XXXXXX";
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);

	assert_non_null(mkdtemp(dir));
	snprintf(a.sun_path, sizeof(a.sun_path), "%s/s", dir);
	assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof(a)) | listen(listener, 4), 0);
	up(m, FDRV_ALL_FEATURES);
	take(m);
	x->cfg.host_dev_name = NULL;
	x->cfg.passt_socket = a.sun_path;
	expect_refusal(m, "CSUM, GUEST_CSUM, CTRL_GUEST_OFFLOADS, GUEST_TSO4, GUEST_TSO6");
	close(listener);
	unlink(a.sun_path);
	rmdir(dir);
}

static void no_state_does_harm(void **state)
{
	struct move *m = *state;
	struct fixture *x = m->x;
	u32 accepted;

	x->cfg.queue_pairs = 4;
	up(m, SPLIT);
	for (u16 p = 0; p < 4; p++)
		post_rx(x, p, 30, BUF_SIZE);
	take(m);
	accepted = saved_torment(&m->saved, &x->d, 9, 2000);
	print_message("# %u of 2000 accepted\n", accepted);
	assert_in_range(accepted, 100, 1900);
	fdrv_up(&x->d, &x->f, x->dev, FDRV_ALL_FEATURES, 9, 64);
	tx_frame(x, 100, 1);
	host_expect(x, 100, 1);
}

#define ON_TAP(f)   cmocka_unit_test_setup_teardown(f, setup, teardown)
#define ON_MULTI(f) cmocka_unit_test_setup_teardown(f, setup_multi, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_TAP(frames_go_on_after_a_move_packed),
		ON_TAP(frames_go_on_after_a_move_split),
		ON_MULTI(all_pairs_stay_in_use),
		ON_TAP(the_driver_is_asked_to_announce_itself),
		ON_TAP(husk_announces_a_driver_that_cannot),
		ON_TAP(an_idle_interface_announces_nothing),
		ON_TAP(addresses_stay_what_the_guest_knows),
		ON_TAP(a_link_that_was_gone_comes_back),
		ON_TAP(another_mtu_or_address_is_refused),
		ON_TAP(made_up_states_are_refused),
		ON_TAP(offloads_that_are_missing_are_named),
		ON_MULTI(no_state_does_harm),
	};

	if (!own_network()) {
		puts("1..0 # SKIP no permission for network namespaces and tap interfaces");
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
