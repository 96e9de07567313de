/* test_net.c: the virtio network device on real tap interfaces, in a network namespace of its own. */
#include "tests/dev/patch.h"
#include "tests/dev/tap_bench.h"
#include "vmm/clock.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define NO_MERGE (~BIT(VIRTIO_NET_F_MRG_RXBUF))
#define SPLIT	 (~FDRV_PACKED)

/* ---- set-up ---- */

static int setup(void **state)
{
	*state = bench_new();
	return 0;
}

static int teardown(void **state)
{
	bench_free(*state);
	return 0;
}

static int setup_tap(void **state)
{
	tap_persist(TAP, 0, true);
	tap_up(TAP, 65000);
	return setup(state);
}

static int setup_multi(void **state)
{
	tap_persist(TAP, IFF_MULTI_QUEUE, true);
	tap_up(TAP, 65000);
	return setup(state);
}

static int teardown_tap(void **state)
{
	int rc = teardown(state);

	if (if_nametoindex(TAP))
		tap_delete(TAP);
	return rc;
}

/* vnet_hdr: the host's side speaks of offloads, too. */
static void up_with(struct fixture *x, u64 features, bool vnet_hdr)
{
	x->cfg.host_dev_name = (char *)TAP;
	bench_add(x);
	tap_wait_running(TAP);
	bench_run(x, features);
	x->host = packet_socket(TAP, vnet_hdr);
}

static void up(struct fixture *x, u64 features)
{
	up_with(x, features, false);
}

/* ---- configuration ---- */

static void a_missing_tap_is_refused_and_not_made(void **state)
{
	struct fixture *x = *state;

	x->cfg.host_dev_name = (char *)"nosuchtap";
	refuse(x, -ENODEV, "ip tuntap add nosuchtap mode tap");
	assert_int_equal(if_nametoindex("nosuchtap"), 0);
}

static void a_tap_in_use_is_refused(void **state)
{
	struct fixture *x = *state;
	struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI};
	int fd = open("/dev/net/tun", O_RDWR);

	strcpy(r.ifr_name, TAP);
	assert_return_code(ioctl(fd, TUNSETIFF, &r), errno);
	x->cfg.host_dev_name = (char *)TAP;
	refuse(x, -EBUSY, "in use");
	close(fd);
}

static void what_is_no_tap_is_refused(void **state)
{
	struct fixture *x = *state;

	x->cfg.host_dev_name = (char *)"lo";
	refuse(x, -EINVAL, "not a tap");
}

static void several_queues_need_a_tap_made_for_them(void **state)
{
	struct fixture *x = *state;

	x->cfg.host_dev_name = (char *)TAP;
	x->cfg.queue_pairs = 2;
	refuse(x, -EINVAL, "multi_queue");
}

static void the_configuration_is_checked(void **state)
{
	struct net_cfg c = {.iface_id = (char *)"a", .queue_pairs = 1};
	const struct cfg_field *mac = NULL;
	struct err e;

	(void)state;
	assert_int_equal(virtio_net_class.check(&c, &e), -EINVAL);
	c.host_dev_name = (char *)"tap0";
	assert_int_equal(virtio_net_class.check(&c, &e), 0);
	c.passt_socket = (char *)"/s";
	assert_int_equal(virtio_net_class.check(&c, &e), -EINVAL);
	c.host_dev_name = NULL;
	assert_int_equal(virtio_net_class.check(&c, &e), 0);
	c.queue_pairs = 2;
	assert_int_equal(virtio_net_class.check(&c, &e), -EINVAL);
	for (u32 i = 0; i < virtio_net_class.config->nr_fields; i++) {
		if (!strcmp(virtio_net_class.config->fields[i].key, "guest_mac"))
			mac = &virtio_net_class.config->fields[i];
	}
	assert_non_null(mac);
	assert_true(mac->accept("06:00:ac:10:00:02") && mac->accept("AA:bb:cc:dd:ee:FF"));
	assert_false(mac->accept("") || mac->accept("06:00:ac:10:00") || mac->accept("06:00:ac:10:00:02:") ||
		     mac->accept("06-00-ac-10-00-02"));
	assert_false(mac->accept("01:00:5e:00:00:01") || mac->accept("6:0:a:1:0:2") || mac->accept("06:00:ac:10:00:0g"));
}

static void the_configuration_space_shows_mac_and_mtu(void **state)
{
	struct fixture *x = *state;

	x->cfg.guest_mac = (char *)"06:00:ac:10:00:02";
	x->cfg.mtu = 1400;
	up(x, FDRV_ALL_FEATURES);
	assert_int_equal(fdrv_config32(&x->d, 0), 0x10ac0006);
	assert_int_equal(fdrv_config8(&x->d, 4) << 8 | fdrv_config8(&x->d, 5), 0x0002);
	assert_int_equal(fdrv_config16(&x->d, 8), 1);
	assert_int_equal(fdrv_config16(&x->d, 10), 1400);
	assert_true(link_is_up(x));
	assert_true(x->d.features & BIT(VIRTIO_NET_F_MTU));
	assert_true(x->d.features & BIT(VIRTIO_NET_F_HOST_TSO4));
	assert_false(x->d.features & BIT(VIRTIO_NET_F_MQ));
}

static void a_mac_that_is_not_given_is_random_and_local(void **state)
{
	struct fixture *x = *state;
	u64 mac[2] = {0};

	up(x, FDRV_ALL_FEATURES);
	assert_int_equal(fdrv_config8(&x->d, 0) & 3, 2);
	assert_false(x->d.features & BIT(VIRTIO_NET_F_MTU));
	memcpy(&mac[0], to_net(to_virtio(x->dev))->state.mac, 6);
	fake_vm_fini(&x->f);
	fake_vm_init(&x->f, FAKE_VM_QUIET);
	bench_add(x);
	memcpy(&mac[1], to_net(to_virtio(x->dev))->state.mac, 6);
	assert_true(mac[0] != mac[1]);
}

/* ---- frames ---- */

static const u64 rings[] = {FDRV_ALL_FEATURES, SPLIT, SPLIT & ~FDRV_EVENT_IDX, ~FDRV_EVENT_IDX};

static void sent_frames_come_out_of_the_tap(void **state, u64 features)
{
	struct fixture *x = *state;

	up(x, features);
	for (u32 i = 0; i < 300; i++) {
		tx_frame(x, 60 + i * 97, i);
		host_expect(x, 60 + i * 97, i);
	}
	assert_int_equal(counters(x)->tx_frames, 300);
	assert_int_equal(counters(x)->tx_drops + counters(x)->tx_malformed, 0);
}

static void received_frames_reach_the_driver(void **state, u64 features)
{
	struct fixture *x = *state;

	up(x, features);
	post_rx(x, 0, 200, BUF_SIZE);
	for (u32 i = 0; i < 600; i++) {
		u32 len = 60 + (i * 7919) % BIG;

		host_send(x, len, i);
		expect_frame(x, len, i, BUF_SIZE);
	}
	assert_int_equal(counters(x)->rx_frames, 600);
	assert_int_equal(counters(x)->rx_drops, 0);
}

#define ON_RINGS(test) \
	static void test##_packed(void **state) \
	{ \
		test(state, rings[0]); \
	} \
	static void test##_split(void **state) \
	{ \
		test(state, rings[1]); \
	} \
	static void test##_split_no_event(void **state) \
	{ \
		test(state, rings[2]); \
	} \
	static void test##_packed_no_event(void **state) \
	{ \
		test(state, rings[3]); \
	}
ON_RINGS(sent_frames_come_out_of_the_tap)
ON_RINGS(received_frames_reach_the_driver)

static void a_burst_keeps_its_order(void **state)
{
	struct fixture *x = *state;

	up(x, FDRV_ALL_FEATURES);
	for (u32 i = 0; i < 400; i++) /* more than one batch, and they wait in the tap until the buffers come */
		host_send(x, 100 + i, i);
	post_rx(x, 0, 256, BUF_SIZE);
	for (u32 i = 0; i < 400; i++)
		expect_frame(x, 100 + i, i, BUF_SIZE);
}

static void frames_wait_while_the_driver_has_no_buffers(void **state)
{
	struct fixture *x = *state;

	up(x, SPLIT);
	host_send(x, 500, 1);
	host_send(x, 501, 2);
	expect_silence(x);
	assert_int_equal(counters(x)->rx_starved, 1);
	post_rx(x, 0, 1, BUF_SIZE);
	expect_frame(x, 500, 1, 0);
	expect_silence(x);
	post_rx(x, 0, 1, BUF_SIZE);
	expect_frame(x, 501, 2, 0);
	assert_int_equal(counters(x)->rx_drops, 0);
}

static void a_large_frame_waits_for_the_buffers_it_needs(void **state)
{
	struct fixture *x = *state;

	up(x, FDRV_ALL_FEATURES);
	post_rx(x, 0, 5, BUF_SIZE);
	host_send(x, BIG, 7);
	host_send(x, 70, 8);
	expect_silence(x);
	post_rx(x, 0, 20, BUF_SIZE);
	expect_silence(x);
	post_rx(x, 0, 30, BUF_SIZE);
	expect_frame(x, BIG, 7, BUF_SIZE);
	expect_frame(x, 70, 8, BUF_SIZE);
	assert_int_equal(counters(x)->rx_drops, 0);
	host_send(x, BIG, 9); /* now they are there beforehand */
	expect_frame(x, BIG, 9, BUF_SIZE);
}

static void a_frame_that_the_ring_can_never_hold_is_dropped(void **state)
{
	struct fixture *x = *state;

	up(x, SPLIT);
	assert_true(fdrv_reset(&x->d, WAIT_MS));
	assert_true(fdrv_probe(&x->d, &x->f, x->dev, SPLIT));
	fdrv_queue_setup(&x->d, 0, 4);
	fdrv_queue_setup(&x->d, 1, 4);
	fdrv_queue_setup(&x->d, 2, 4);
	assert_true(fdrv_driver_ok(&x->d));
	post_rx(x, 0, 4, BUF_SIZE);
	host_send(x, BIG, 1);
	host_send(x, 3000, 2);
	expect_frame(x, 3000, 2, 0);
	assert_int_equal(counters(x)->rx_drops, 1);
}

static void tiny_receive_buffers_work(void **state)
{
	struct fixture *x = *state;

	up(x, FDRV_ALL_FEATURES);
	post_rx(x, 0, 200, 5); /* not even the header fits into one */
	host_send(x, 300, 3);
	expect_frame(x, 300, 3, 5);
	host_send(x, 2000, 4); /* needs 403 of them: never */
	host_send(x, 301, 5);
	expect_frame(x, 301, 5, 5);
	assert_int_equal(counters(x)->rx_drops, 1);
}

static void without_merging_a_frame_needs_one_buffer_that_holds_it(void **state)
{
	struct fixture *x = *state;

	up(x, NO_MERGE);
	post_rx(x, 0, 3, BUF_SIZE);
	host_send(x, 1000, 1);
	expect_frame(x, 1000, 1, 0);
	host_send(x, BUF_SIZE - NET_HDR_LEN + 1, 2); /* one byte too long */
	host_send(x, BUF_SIZE - NET_HDR_LEN, 3);
	expect_frame(x, BUF_SIZE - NET_HDR_LEN, 3, 0);
	assert_int_equal(counters(x)->rx_drops, 1);
}

static void a_scattered_receive_buffer_is_filled_in_order(void **state)
{
	struct fixture *x = *state;
	u64 gpa = fake_vm_alloc(&x->f, 70000, 1);
	struct fbuf in[4] = {{gpa, 3}, {gpa + 3, 12}, {gpa + 15, 1000}, {gpa + 1015, 68000}};

	up(x, NO_MERGE);
	assert_true(fdrv_add(&x->d, 0, NULL, 0, in, 4, token_of(gpa)));
	fdrv_kick(&x->d, 0);
	host_send(x, BIG, 1);
	expect_frame(x, BIG, 1, 0);
}

static void a_receive_buffer_without_room_breaks_the_device(void **state)
{
	struct fixture *x = *state;
	struct fbuf out = {x->tx, 64};

	up(x, FDRV_ALL_FEATURES);
	assert_true(fdrv_add(&x->d, 0, &out, 1, NULL, 0, NULL));
	fdrv_kick(&x->d, 0);
	assert_true(fdrv_wait_needs_reset(&x->d, WAIT_MS));
	host_send(x, 100, 1);
	assert_true(fdrv_reset(&x->d, WAIT_MS));
	fdrv_up(&x->d, &x->f, x->dev, FDRV_ALL_FEATURES, 3, 256);
	post_rx(x, 0, 4, BUF_SIZE);
	expect_frame(x, 100, 1, 0);
}

static void a_reset_gives_all_buffers_up(void **state)
{
	struct fixture *x = *state;

	up(x, FDRV_ALL_FEATURES);
	for (u32 i = 0; i < 5; i++) {
		post_rx(x, 0, 5, BUF_SIZE);
		host_send(x, BIG, i); /* pending, with all buffers */
		usleep(2000);
		assert_true(fdrv_reset(&x->d, WAIT_MS));
		fdrv_up(&x->d, &x->f, x->dev, i & 1 ? FDRV_ALL_FEATURES : SPLIT, 3, 64);
	}
	post_rx(x, 0, 60, BUF_SIZE);
	host_send(x, BIG, 77);
	while (rx_frame(x, 0, BUF_SIZE) != BIG || memcmp(x->got + NET_HDR_LEN, x->frame, BIG))
		;
}

/* Calls fn(dev) on the loop thread, as a pause does. */
struct on_loop {
	struct loop_work work;
	void (*fn)(struct device *dev);
	struct device *dev;
	sem_t done;
};

static void on_loop_run(struct loop_work *w)
{
	struct on_loop *o = container_of(w, struct on_loop, work);

	o->fn(o->dev);
	sem_post(&o->done);
}

static void on_loop(struct fixture *x, void (*fn)(struct device *dev))
{
	struct on_loop o = {.work = {.run = on_loop_run}, .fn = fn, .dev = x->dev};

	sem_init(&o.done, 0, 0);
	loop_post(&x->f.vm.loop, &o.work);
	sem_wait(&o.done);
	sem_destroy(&o.done);
}

static void a_pause_holds_frames_and_gives_buffers_back(void **state)
{
	struct fixture *x = *state;
	struct virtio_dev *vdev;

	up(x, SPLIT);
	vdev = to_virtio(x->dev);
	post_rx(x, 0, 100, BUF_SIZE);
	host_send(x, 200, 1);
	expect_frame(x, 200, 1, 0);
	on_loop(x, virtio_net_class.quiesce);
	assert_int_equal(vdev->queues[0].in_flight, 0);
	assert_int_equal(vdev->queues[0].last_avail, 1);
	host_send(x, 201, 2);
	expect_silence(x);
	on_loop(x, virtio_net_class.resume);
	expect_frame(x, 201, 2, 0);
	tx_frame(x, 100, 3);
	host_expect(x, 100, 3);
}

/* ---- limits ---- */

static u64 throttled(struct fixture *x, bool rx)
{
	const struct virtio_net *n = to_net(to_virtio(x->dev));

	return __atomic_load_n(rx ? &n->rx_limit.throttled : &n->tx_limit.throttled, __ATOMIC_RELAXED);
}

static void a_transmit_limit_holds_frames_back_and_keeps_their_order(void **state, u64 features)
{
	struct cfg_bucket bytes = {.size = 10000, .refill_time = 200};
	struct cfg_ratelimit limit = {.bandwidth = &bytes};
	struct fixture *x = *state;
	u64 start;

	x->cfg.tx_rate_limiter = &limit;
	up(x, features);
	start = clock_host_ns();
	for (u32 i = 0; i < 30; i++) {
		struct fbuf out = {fake_vm_alloc(&x->f, 2000, 1), NET_HDR_LEN + 1000};

		make_frame(fake_vm_ptr(&x->f, out.gpa + NET_HDR_LEN, 1000), 1000, i);
		assert_true(fdrv_add(&x->d, 1, &out, 1, NULL, 0, NULL));
	}
	fdrv_kick(&x->d, 1);
	for (u32 i = 0; i < 30; i++)
		host_expect(x, 1000, i);
	assert_true(clock_host_ns() - start >= 400 * NSEC_PER_MSEC);
	assert_true(throttled(x, false) > 0);
	assert_int_equal(throttled(x, true), 0);
}

static void a_receive_limit_holds_frames_back_and_keeps_their_order(void **state, u64 features)
{
	struct cfg_bucket ops = {.size = 10, .refill_time = 200};
	struct cfg_ratelimit limit = {.ops = &ops};
	struct fixture *x = *state;
	u64 start;

	x->cfg.rx_rate_limiter = &limit;
	up(x, features);
	post_rx(x, 0, 100, BUF_SIZE);
	start = clock_host_ns();
	for (u32 i = 0; i < 30; i++)
		host_send(x, 500, i);
	for (u32 i = 0; i < 30; i++)
		expect_frame(x, 500, i, BUF_SIZE);
	assert_true(clock_host_ns() - start >= 400 * NSEC_PER_MSEC);
	assert_true(throttled(x, true) > 0);
	/* The other direction is free. */
	for (u32 i = 0; i < 30; i++) {
		tx_frame(x, 100, i);
		host_expect(x, 100, i);
	}
	assert_int_equal(throttled(x, false), 0);
}

ON_RINGS(a_transmit_limit_holds_frames_back_and_keeps_their_order)
ON_RINGS(a_receive_limit_holds_frames_back_and_keeps_their_order)

static void limits_change_while_frames_wait(void **state)
{
	struct cfg_bucket ops = {.size = 1, .refill_time = 60000};
	struct cfg_ratelimit limit = {.ops = &ops};
	struct fixture *x = *state;
	struct err e;

	x->cfg.rx_rate_limiter = x->cfg.tx_rate_limiter = &limit;
	up(x, FDRV_ALL_FEATURES);
	post_rx(x, 0, 100, BUF_SIZE);
	for (u32 i = 0; i < 3; i++)
		host_send(x, 500, i);
	expect_frame(x, 500, 0, BUF_SIZE);
	expect_silence(x);
	assert_int_equal(patch_device(&x->f, x->dev, "{\"iface_id\": \"net0\"}", NULL), 0);
	expect_silence(x);
	assert_int_equal(patch_device(&x->f, x->dev,
				      "{\"iface_id\": \"net0\", \"rx_rate_limiter\": {\"ops\": {\"size\": 0, \"refill_time\": 0}}}", NULL),
			 0);
	expect_frame(x, 500, 1, BUF_SIZE);
	expect_frame(x, 500, 2, BUF_SIZE);
	/* That of the other direction is as it was. */
	tx_frame(x, 100, 7);
	host_expect(x, 100, 7);
	struct fbuf out = {x->tx, NET_HDR_LEN + 100};

	assert_true(fdrv_add(&x->d, 1, &out, 1, NULL, 0, NULL));
	fdrv_kick(&x->d, 1);
	assert_false(fdrv_wait_used(&x->d, 1, NULL, NULL, 50));
	assert_int_equal(patch_device(&x->f, x->dev,
				      "{\"iface_id\": \"net0\", \"tx_rate_limiter\": {\"ops\": {\"size\": 10, \"refill_time\": 1}}}", NULL),
			 0);
	assert_true(fdrv_wait_used(&x->d, 1, NULL, NULL, 2000));
	host_expect(x, 100, 7);
	assert_int_equal(patch_device(&x->f, x->dev, "{\"iface_id\": \"net0\", \"guest_mac\": \"06:00:ac:10:00:02\"}", &e), -EINVAL);
}

static void a_reset_forgets_limited_frames(void **state)
{
	struct cfg_bucket ops = {.size = 1, .refill_time = 300};
	struct cfg_ratelimit limit = {.ops = &ops};
	struct fixture *x = *state;

	x->cfg.rx_rate_limiter = x->cfg.tx_rate_limiter = &limit;
	up(x, FDRV_ALL_FEATURES);
	post_rx(x, 0, 10, BUF_SIZE);
	host_send(x, 500, 0);
	host_send(x, 500, 1);
	expect_frame(x, 500, 0, 0);
	assert_true(fdrv_reset(&x->d, 1000));
	assert_int_equal(to_virtio(x->dev)->queues[0].in_flight, 0);
	fdrv_up(&x->d, &x->f, x->dev, FDRV_ALL_FEATURES, 3, 256);
	post_rx(x, 0, 10, BUF_SIZE);
	expect_frame(x, 500, 1, 0); /* it waited in the tap */
}

static void a_header_in_pieces_is_understood(void **state)
{
	struct fixture *x = *state;
	struct fbuf out[5] = {{x->tx, 1}, {x->tx + 1, 10}, {x->tx + 11, 2}, {x->tx + 13, 100}, {x->tx + 113, 899}};

	up(x, FDRV_ALL_FEATURES);
	memset(fake_vm_ptr(&x->f, x->tx, 12), 0, 12);
	make_frame(fake_vm_ptr(&x->f, x->tx + 12, 1000), 1000, 4);
	fdrv_request(&x->d, 1, out, 5, NULL, 0);
	host_expect(x, 1000, 4);
}

static void hostile_transmit_headers_cost_the_frame_only(void **state)
{
	struct fixture *x = *state;
	struct virtio_net_hdr_v1 h;

	up(x, FDRV_ALL_FEATURES);
	make_frame(fake_vm_ptr(&x->f, x->tx + NET_HDR_LEN, 1000), 1000, 1);
	for (u32 i = 0; i < 500; i++) {
		fill((u8 *)&h, sizeof(h), i);
		tx_raw(x, 0, &h, 1000);
	}
	h = (struct virtio_net_hdr_v1){.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 65535, .csum_offset = 65535};
	tx_raw(x, 0, &h, 1000);
	h = (struct virtio_net_hdr_v1){.gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .hdr_len = 65535, .gso_size = 0};
	tx_raw(x, 0, &h, 1000);
	assert_true(counters(x)->tx_drops > 100);
	close(x->host);
	x->host = packet_socket(TAP, false); /* forget what got through */
	tx_frame(x, 100, 5);
	host_expect(x, 100, 5);
}

static void frames_of_impossible_length_are_dropped(void **state)
{
	static const u32 lens[] = {1, 11, 12, 13, 25, 65567, 65568, 100000};
	struct fixture *x = *state;

	up(x, FDRV_ALL_FEATURES);
	memset(fake_vm_ptr(&x->f, x->tx, 128 * KIB), 0, 128 * KIB);
	for (u32 i = 0; i < ARRAY_SIZE(lens); i++) {
		struct fbuf out = {x->tx, lens[i]};

		fdrv_request(&x->d, 1, &out, 1, NULL, 0);
	}
	assert_int_equal(counters(x)->tx_malformed, 6);
	assert_int_equal(counters(x)->tx_drops, 2); /* 13, 25: the kernel refuses these */
	tx_frame(x, 100, 5);
	host_expect(x, 100, 5);
}

/* ---- offloads ---- */

/* A TCP segment of `payload` bytes over IPv4, with a virtio header that asks for segments of 1000. Returns its length. */
static u32 make_tso(u8 *p, u32 payload)
{
	static const u8 ip[20] = {0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2};
	struct virtio_net_hdr h = {
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		.gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
		.hdr_len = 54,
		.gso_size = 1000,
		.csum_start = 34,
		.csum_offset = 16,
	};
	u8 *eth = p + sizeof(h);
	u16 total = htons((u16)(40 + payload));

	memcpy(p, &h, sizeof(h));
	memset(eth, 0, 54 + payload);
	memcpy(eth, "\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\1\x08", 13);
	memcpy(eth + 14, ip, 20);
	memcpy(eth + 16, &total, 2);
	eth[46] = 0x50; /* data offset */
	eth[47] = 0x10; /* ACK */
	return (u32)sizeof(h) + 54 + payload;
}

/* The first frame through the host's queueing discipline: a kernel worker attaches that some time after the carrier is on, and until then
 * frames are lost without a word. */
static void host_send_until_seen(struct fixture *x, u32 len)
{
	u64 before = counters(x)->rx_frames;

	for (int i = 0; i < 500 && counters(x)->rx_frames == before; i++) {
		if (i % 50 == 0)
			assert_int_equal(send(x->host, x->frame, len, 0), len);
		usleep(10000);
	}
}

static void segmentation_follows_what_the_driver_wants(void **state)
{
	struct fixture *x = *state;
	struct virtio_net_hdr_v1 h;
	u64 none = 0, csum = BIT(VIRTIO_NET_F_GUEST_CSUM), too_much = BIT(VIRTIO_NET_F_HOST_TSO4);
	u32 len;

	up_with(x, FDRV_ALL_FEATURES, true);
	post_rx(x, 0, 100, BUF_SIZE);
	len = make_tso(x->frame, 5000);
	host_send_until_seen(x, len);
	assert_int_equal(rx_frame(x, 0, BUF_SIZE), 5054);
	memcpy(&h, x->got, sizeof(h));
	assert_int_equal(h.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
	assert_int_equal(h.gso_size, 1000);
	assert_int_equal(h.num_buffers, 4);

	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &csum, 8), VIRTIO_NET_OK);
	assert_int_equal(send(x->host, x->frame, len, 0), len);
	for (int i = 0; i < 5; i++) { /* the kernel cuts it up now */
		assert_int_equal(rx_frame(x, 0, BUF_SIZE), 1054);
		memcpy(&h, x->got, sizeof(h));
		assert_int_equal(h.gso_type, VIRTIO_NET_HDR_GSO_NONE);
	}
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &none, 8), VIRTIO_NET_OK);
	assert_int_equal(send(x->host, x->frame, len, 0), len);
	for (int i = 0; i < 5; i++) {
		rx_frame(x, 0, BUF_SIZE);
		assert_false(x->got[0] & VIRTIO_NET_HDR_F_NEEDS_CSUM);
	}
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &too_much, 8), VIRTIO_NET_ERR);
}

static void a_driver_without_offloads_gets_plain_frames(void **state)
{
	struct fixture *x = *state;
	u32 len;

	up_with(x, FDRV_VERSION_1 | BIT(VIRTIO_NET_F_MRG_RXBUF), true);
	post_rx(x, 0, 100, BUF_SIZE);
	len = make_tso(x->frame, 3000);
	host_send_until_seen(x, len);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(rx_frame(x, 0, BUF_SIZE), 1054);
		assert_int_equal(x->got[0] | x->got[1], 0);
	}
}

/* ---- control queue ---- */

static void the_control_queue_takes_its_commands(void **state)
{
	static const u8 tables[] = {1, 0, 0, 0, 2, 0, 0, 0, 0, 9, 0, 0, 0, 0};
	struct fixture *x = *state;
	u8 on = 1;

	up(x, FDRV_ALL_FEATURES);
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, "\x02\1\2\3\4\5", 6), VIRTIO_NET_OK);
	assert_int_equal(fdrv_config32(&x->d, 0), 0x03020102);
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, tables, sizeof(tables)), VIRTIO_NET_OK);
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &on, 1), VIRTIO_NET_OK);
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLMULTI, &on, 1), VIRTIO_NET_OK);
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, &on, 0), VIRTIO_NET_OK);
}

static void the_control_queue_refuses_what_it_does_not_know(void **state)
{
	static const u8 bad_tables[] = {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0};
	struct fixture *x = *state;
	u8 junk[1000];
	u16 pairs = 1;

	up(x, FDRV_ALL_FEATURES);
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, &pairs, 2), VIRTIO_NET_ERR);
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &pairs, 2), VIRTIO_NET_ERR); /* not offered */
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, junk, 5), VIRTIO_NET_ERR);
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, junk, 7), VIRTIO_NET_ERR);
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, bad_tables, 8), VIRTIO_NET_ERR);
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, bad_tables, 3), VIRTIO_NET_ERR);
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, junk, 0), VIRTIO_NET_ERR);
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_NOBCAST, junk, 1), VIRTIO_NET_ERR);
	for (u32 i = 0; i < 2000; i++) {
		u8 ack;

		fill(junk, sizeof(junk), i);
		ack = ctrl(x, junk[0] % 8, junk[1] % 4, junk + 2, junk[2] | (junk[3] & 1) << 8);
		assert_true(ack == VIRTIO_NET_OK || ack == VIRTIO_NET_ERR);
	}
	tx_frame(x, 100, 5);
	host_expect(x, 100, 5);
}

static void a_control_command_without_head_or_room_breaks_the_device(void **state)
{
	struct fixture *x = *state;
	struct fbuf one = {x->ctrl, 1}, two = {x->ctrl, 2};

	up(x, FDRV_ALL_FEATURES);
	fdrv_add(&x->d, 2, &one, 1, &one, 1, NULL);
	fdrv_kick(&x->d, 2);
	assert_true(fdrv_wait_needs_reset(&x->d, WAIT_MS));
	assert_true(fdrv_reset(&x->d, WAIT_MS));
	fdrv_up(&x->d, &x->f, x->dev, FDRV_ALL_FEATURES, 3, 64);
	fdrv_add(&x->d, 2, &two, 1, NULL, 0, NULL);
	fdrv_kick(&x->d, 2);
	assert_true(fdrv_wait_needs_reset(&x->d, WAIT_MS));
}

/* ---- several queues ---- */

static void one_pair_works_on_a_multi_queue_tap(void **state)
{
	struct fixture *x = *state;

	up(x, FDRV_ALL_FEATURES);
	tx_frame(x, 100, 1);
	host_expect(x, 100, 1);
}

/* Receives on whichever pair the kernel chose. */
static u32 rx_any(struct fixture *x, u32 nr_pairs)
{
	for (int i = 0; i < 500; i++) {
		for (u16 p = 0; p < nr_pairs; p++) {
			struct fdrv_queue *q = &x->d.q[2 * p];
			u16 used = q->used;

			if (fdrv_wait_used(&x->d, (u16)(2 * p), NULL, NULL, 1))
				return p;
			(void)used;
		}
	}
	fail_msg("no frame on any pair");
	return 0;
}

static void pairs_come_into_use_when_the_driver_says_so(void **state)
{
	struct fixture *x = *state;
	struct virtio_net_hdr_v1 h = {0};
	u16 pairs = 4, zero = 0, many = 5, one = 1;

	x->cfg.queue_pairs = 4;
	up(x, FDRV_ALL_FEATURES);
	assert_int_equal(fdrv_config16(&x->d, 8), 4);
	for (u16 p = 0; p < 4; p++)
		post_rx(x, p, 50, BUF_SIZE);
	host_send(x, 200, 1);
	assert_int_equal(rx_any(x, 4), 0);
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_MQ, 0, &zero, 2), VIRTIO_NET_ERR);
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_MQ, 0, &many, 2), VIRTIO_NET_ERR);
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_MQ, 0, &pairs, 2), VIRTIO_NET_OK);
	for (u16 p = 0; p < 4; p++) {
		make_frame(fake_vm_ptr(&x->f, x->tx + NET_HDR_LEN, 500), 500, p);
		tx_raw(x, p, &h, 500);
		host_expect(x, 500, p);
	}
	for (u32 i = 0; i < 40; i++) {
		host_send(x, 200, i);
		rx_any(x, 4);
	}
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_MQ, 0, &one, 2), VIRTIO_NET_OK);
	for (u32 i = 0; i < 10; i++) {
		host_send(x, 200, i);
		assert_int_equal(rx_any(x, 4), 0);
	}
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_MQ, 0, &pairs, 2), VIRTIO_NET_OK);
	assert_true(fdrv_reset(&x->d, WAIT_MS));
	fdrv_up(&x->d, &x->f, x->dev, ~BIT(VIRTIO_NET_F_MQ), 3, 64); /* the control queue is number 2 now */
	assert_int_equal(ctrl(x, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, "\x02\1\2\3\4\5", 6), VIRTIO_NET_OK);
	post_rx(x, 0, 10, BUF_SIZE);
	host_send(x, 300, 9);
	expect_frame(x, 300, 9, 0);
}

/* ---- trouble ---- */

static void a_tap_that_is_removed_takes_the_link_down(void **state)
{
	struct fixture *x = *state;

	up(x, FDRV_ALL_FEATURES);
	post_rx(x, 0, 10, BUF_SIZE);
	tap_delete(TAP);
	expect_link_down(x);
	tx_frame(x, 100, 1); /* completes */
	tx_frame(x, 100, 1);
	assert_int_equal(counters(x)->tx_drops, 2);
	assert_true(fdrv_reset(&x->d, WAIT_MS));
	fdrv_up(&x->d, &x->f, x->dev, FDRV_ALL_FEATURES, 3, 64);
	assert_false(link_is_up(x));
}

static void a_tap_that_is_removed_is_noticed_by_transmission(void **state)
{
	struct fixture *x = *state;

	up(x, FDRV_ALL_FEATURES);
	expect_silence(x); /* no receive buffers: nobody looks at the descriptor */
	tap_delete(TAP);
	tx_frame(x, 100, 1);
	expect_link_down(x);
}

static void a_tap_that_is_down_costs_frames_only(void **state)
{
	struct fixture *x = *state;
	struct ifreq r = {.ifr_flags = 0};

	up(x, FDRV_ALL_FEATURES);
	post_rx(x, 0, 10, BUF_SIZE);
	strcpy(r.ifr_name, TAP);
	ifr_ioctl(SIOCSIFFLAGS, &r);
	tx_frame(x, 100, 1);
	assert_int_equal(counters(x)->tx_drops, 1);
	assert_true(link_is_up(x));
	tap_up(TAP, 65000);
	tap_wait_running(TAP);
	close(x->host);
	x->host = packet_socket(TAP, false);
	tx_frame(x, 100, 2);
	host_expect(x, 100, 2);
}

#define TEST(f)	     cmocka_unit_test_setup_teardown(f, setup, teardown)
#define ON_TAP(f)    cmocka_unit_test_setup_teardown(f, setup_tap, teardown_tap)
#define ON_MULTI(f)  cmocka_unit_test_setup_teardown(f, setup_multi, teardown_tap)
#define ALL_RINGS(f) ON_TAP(f##_packed), ON_TAP(f##_split), ON_TAP(f##_split_no_event), ON_TAP(f##_packed_no_event)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_configuration_is_checked),
		TEST(a_missing_tap_is_refused_and_not_made),
		TEST(what_is_no_tap_is_refused),
		ON_TAP(a_tap_in_use_is_refused),
		ON_TAP(several_queues_need_a_tap_made_for_them),
		ON_TAP(the_configuration_space_shows_mac_and_mtu),
		ON_TAP(a_mac_that_is_not_given_is_random_and_local),
		ALL_RINGS(sent_frames_come_out_of_the_tap),
		ALL_RINGS(received_frames_reach_the_driver),
		ON_TAP(a_burst_keeps_its_order),
		ON_TAP(frames_wait_while_the_driver_has_no_buffers),
		ON_TAP(a_large_frame_waits_for_the_buffers_it_needs),
		ON_TAP(a_frame_that_the_ring_can_never_hold_is_dropped),
		ON_TAP(tiny_receive_buffers_work),
		ON_TAP(without_merging_a_frame_needs_one_buffer_that_holds_it),
		ON_TAP(a_scattered_receive_buffer_is_filled_in_order),
		ON_TAP(a_receive_buffer_without_room_breaks_the_device),
		ON_TAP(a_reset_gives_all_buffers_up),
		ON_TAP(a_pause_holds_frames_and_gives_buffers_back),
		ALL_RINGS(a_transmit_limit_holds_frames_back_and_keeps_their_order),
		ALL_RINGS(a_receive_limit_holds_frames_back_and_keeps_their_order),
		ON_TAP(limits_change_while_frames_wait),
		ON_TAP(a_reset_forgets_limited_frames),
		ON_TAP(a_header_in_pieces_is_understood),
		ON_TAP(hostile_transmit_headers_cost_the_frame_only),
		ON_TAP(frames_of_impossible_length_are_dropped),
		ON_TAP(segmentation_follows_what_the_driver_wants),
		ON_TAP(a_driver_without_offloads_gets_plain_frames),
		ON_TAP(the_control_queue_takes_its_commands),
		ON_TAP(the_control_queue_refuses_what_it_does_not_know),
		ON_TAP(a_control_command_without_head_or_room_breaks_the_device),
		ON_MULTI(one_pair_works_on_a_multi_queue_tap),
		ON_MULTI(pairs_come_into_use_when_the_driver_says_so),
		ON_TAP(a_tap_that_is_removed_takes_the_link_down),
		ON_TAP(a_tap_that_is_removed_is_noticed_by_transmission),
		ON_TAP(a_tap_that_is_down_costs_frames_only),
	};

	if (!own_network()) {
		puts("1..0 # SKIP no permission for network namespaces and tap interfaces");
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
