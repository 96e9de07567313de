/* test_net_mmds.c: the network device with the metadata service in front of its backend: which frames go where, and who wakes whom. */
#include "tests/dev/net_bench.h"

#include <arpa/inet.h>
#include <semaphore.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "virtio/backend/net_mmds.h"

#define US	 "\xa9\xfe\xa9\xfe" /* 169.254.169.254 */
#define GUEST_IP "\xac\x1f\x4d\x02"
#define ETH_IP	 (14u + 20u)
#define SYN_LEN	 (ETH_IP + 20u)

struct mmds_bench {
	struct fixture *x;
	struct mmds_service service;
	struct cfg_mmds cfg;
	struct cfg_mmds_iface iface;
	int listener;
	char dir[32], path[40];
};

static u32 no_requests(struct mmds_service *s, const u8 *data, u32 len, struct buf *reply, bool *close_after)
{
	(void)s, (void)data, (void)len, (void)reply, (void)close_after;
	return 0;
}

static int setup(void **state)
{
	struct mmds_bench *s = calloc(1, sizeof(*s));
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	*state = s;
	s->x = bench_new();
	strcpy(s->dir, "/tmp/husk-net-XXXXXX");
	if (!mkdtemp(s->dir))
		return -1;
	snprintf(s->path, sizeof(s->path), "%s/s", s->dir);
	strcpy(a.sun_path, s->path);
	s->listener = socket(AF_UNIX, SOCK_STREAM, 0);
	if (bind(s->listener, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(s->listener, 1) < 0)
		return -1;
	s->iface.iface_id = s->x->cfg.iface_id;
	s->cfg = (struct cfg_mmds){.network_interfaces = {&s->iface, 1}, .ipv4_address = (char *)"169.254.169.254"};
	s->service.serve = no_requests;
	s->x->f.config.mmds = &s->cfg;
	s->x->f.vm.mmds = &s->service;
	return 0;
}

static int teardown(void **state)
{
	struct mmds_bench *s = *state;

	bench_free(s->x);
	close(s->listener);
	unlink(s->path);
	rmdir(s->dir);
	free(s);
	return 0;
}

static void up(struct mmds_bench *s)
{
	s->x->cfg.passt_socket = s->path;
	bench_add(s->x);
	bench_run(s->x, FDRV_ALL_FEATURES);
	s->x->host = accept(s->listener, NULL, NULL);
}

static void send_arp(struct fixture *x)
{
	struct virtio_net_hdr_v1 h = {0};
	u8 *p = fake_vm_ptr(&x->f, x->tx + NET_HDR_LEN, 42);

	memset(p, 0, 42);
	memcpy(p, "\xff\xff\xff\xff\xff\xff\2\0\0\0\0\1\x08\6\0\1\x08\0\6\4\0\1\2\0\0\0\0\1" GUEST_IP, 32);
	memcpy(p + 38, US, 4);
	tx_raw(x, 0, &h, 42);
}

static void expect_arp(struct fixture *x)
{
	assert_int_equal(rx_frame(x, 0, 0), 42);
	assert_memory_equal(x->got + NET_HDR_LEN, "\2\0\0\0\0\1" MMDS_MAC "\x08\6", 14);
}

/* The guest leaves the checksum to the device, as Linux does. */
static void send_syn(struct fixture *x)
{
	struct virtio_net_hdr_v1 h = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = ETH_IP, .csum_offset = 16};
	u8 *p = fake_vm_ptr(&x->f, x->tx + NET_HDR_LEN, SYN_LEN);
	u32 sum = 0x4500 + 40 + 0x4006 + 0xac1f + 0x4d02 + 0xa9fe + 0xa9fe;

	memset(p, 0, SYN_LEN);
	memcpy(p, MMDS_MAC "\2\0\0\0\0\1\x08\0\x45\0\0\x28\0\0\0\0\x40\6\0\0" GUEST_IP US "\x12\x34\0\x50", 38);
	sum = (sum & 0xffff) + (sum >> 16);
	st_le16(p + 24, htons((u16)~sum));
	p[46] = 0x50;
	p[47] = TCP_SYN;
	tx_raw(x, 0, &h, SYN_LEN);
}

static void expect_syn_ack(struct fixture *x)
{
	assert_int_equal(rx_frame(x, 0, 0), SYN_LEN + 4);
	assert_int_equal(x->got[NET_HDR_LEN + 47], TCP_SYN | TCP_ACK);
}

static u64 accepted(struct mmds_bench *s)
{
	return __atomic_load_n(&s->service.counters.rx_accepted, __ATOMIC_RELAXED);
}

static void frames_for_the_service_do_not_reach_the_network(void **state)
{
	struct mmds_bench *s = *state;
	u8 byte;

	up(s);
	post_rx(s->x, 0, 10, BUF_SIZE);
	for (u32 i = 0; i < 3; i++) {
		send_arp(s->x);
		expect_arp(s->x);
	}
	send_syn(s->x);
	expect_syn_ack(s->x);
	assert_int_equal(recv(s->x->host, &byte, 1, MSG_DONTWAIT), -1);
	tx_frame(s->x, 100, 1);
	assert_int_equal(recv(s->x->host, s->x->got, 104, MSG_WAITALL), 104);
	make_frame(s->x->frame, 100, 1);
	assert_memory_equal(s->x->got + 4, s->x->frame, 100);
	make_frame(s->x->frame + 4, 100, 2);
	memcpy(s->x->frame, "\0\0\0\x64", 4);
	assert_int_equal(write(s->x->host, s->x->frame, 104), 104);
	expect_frame(s->x, 100, 2, 0);
	assert_int_equal(accepted(s), 4);
	assert_int_equal(counters(s->x)->tx_frames, 5);
}

static void an_answer_waits_for_buffers_and_is_sent_again(void **state)
{
	struct mmds_bench *s = *state;

	up(s);
	send_syn(s->x);
	send_arp(s->x);
	expect_silence(s->x);
	post_rx(s->x, 0, 2, BUF_SIZE);
	expect_arp(s->x);
	expect_syn_ack(s->x);
	expect_silence(s->x);
	post_rx(s->x, 0, 2, BUF_SIZE);
	expect_syn_ack(s->x); /* by the timer */
}

/* A pause that lasts until the timer of an answer has expired; on the loop thread, as the loop's own is. */
struct pause {
	struct loop_work work;
	struct device *dev;
	void (*fn)(struct device *dev);
	sem_t done;
};

static void pause_run(struct loop_work *w)
{
	struct pause *p = container_of(w, struct pause, work);

	p->fn(p->dev);
	sem_post(&p->done);
}

static void pause_step(struct fixture *x, void (*fn)(struct device *dev))
{
	struct pause p = {.work = {.run = pause_run}, .dev = x->dev, .fn = fn};

	sem_init(&p.done, 0, 0);
	loop_post(&x->f.vm.loop, &p.work);
	sem_wait(&p.done);
	sem_destroy(&p.done);
}

static void a_pause_and_a_reset_lose_no_service(void **state)
{
	struct mmds_bench *s = *state;
	struct fixture *x = s->x;

	up(s);
	post_rx(x, 0, 4, BUF_SIZE);
	send_syn(x);
	expect_syn_ack(x);
	pause_step(x, virtio_net_class.quiesce);
	usleep(700000);
	expect_silence(x);
	pause_step(x, virtio_net_class.resume);
	expect_syn_ack(x);
	fdrv_up(&x->d, &x->f, x->dev, FDRV_ALL_FEATURES, 3, 256);
	post_rx(x, 0, 4, BUF_SIZE);
	send_arp(x);
	do
		assert_true(rx_frame(x, 0, 0));
	while (x->got[NET_HDR_LEN + 13] != 6);
}

static void an_interface_that_is_not_named_has_no_service(void **state)
{
	struct mmds_bench *s = *state;

	s->iface.iface_id = (char *)"net1";
	up(s);
	send_arp(s->x);
	assert_int_equal(recv(s->x->host, s->x->got, 46, MSG_WAITALL), 46);
	assert_int_equal(accepted(s), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(frames_for_the_service_do_not_reach_the_network),
		TEST(an_answer_waits_for_buffers_and_is_sent_again),
		TEST(a_pause_and_a_reset_lose_no_service),
		TEST(an_interface_that_is_not_named_has_no_service),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
