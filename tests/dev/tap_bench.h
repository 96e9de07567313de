/* tap_bench.h: real tap interfaces for tests of the network device, in a network namespace of their own. */
#ifndef HUSK_TESTS_TAP_BENCH_H
#define HUSK_TESTS_TAP_BENCH_H

#include "tests/dev/net_bench.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define TAP "huskt0"

/* ---- the host's side ---- */

static inline void ifr_ioctl(unsigned long request, struct ifreq *r)
{
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	if (ioctl(s, request, r) < 0)
		fail_msg("interface ioctl %#lx: %s", request, strerror(errno));
	close(s);
}

static inline void tap_persist(const char *name, short flags, bool on)
{
	struct ifreq r = {.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | flags)};
	int fd = open("/dev/net/tun", O_RDWR);

	strcpy(r.ifr_name, name);
	assert_return_code(ioctl(fd, TUNSETIFF, &r), errno);
	assert_return_code(ioctl(fd, TUNSETPERSIST, on), errno);
	close(fd);
}

static inline void tap_up(const char *name, int mtu)
{
	struct ifreq r = {0};

	strcpy(r.ifr_name, name);
	r.ifr_mtu = mtu;
	ifr_ioctl(SIOCSIFMTU, &r);
	r.ifr_flags = IFF_UP;
	ifr_ioctl(SIOCSIFFLAGS, &r);
}

/* Attaching switches the carrier on; until then what is sent to the tap goes nowhere. */
static inline void tap_wait_running(const char *name)
{
	struct ifreq r = {0};

	strcpy(r.ifr_name, name);
	for (int i = 0; i < 5000 && !(r.ifr_flags & IFF_RUNNING); i++) {
		usleep(1000);
		ifr_ioctl(SIOCGIFFLAGS, &r);
	}
	assert_true(r.ifr_flags & IFF_RUNNING);
}

/* `ip link del`: netlink, as an ioctl cannot do it. */
static inline void tap_delete(const char *name)
{
	struct {
		u32 len;
		u16 type, flags;
		u32 seq, pid;
		u8 family, pad;
		u16 iftype;
		int index;
		u32 iflags, change;
	} msg = {.len = sizeof(msg), .type = 17 /* RTM_DELLINK */, .flags = 5 /* REQUEST, ACK */};
	int s = socket(AF_NETLINK, SOCK_RAW, 0);
	u8 ack[256];

	msg.index = (int)if_nametoindex(name);
	assert_int_equal(send(s, &msg, sizeof(msg), 0), sizeof(msg));
	assert_true(recv(s, ack, sizeof(ack), 0) > 0);
	close(s);
	assert_int_equal(if_nametoindex(name), 0);
}

/* A socket that sees the frames of TEST_PROTO that the device puts out of the tap, and puts frames into it. */
static inline int packet_socket(const char *name, bool vnet_hdr)
{
	struct sockaddr_ll a = {.sll_family = AF_PACKET, .sll_protocol = htons(TEST_PROTO), .sll_ifindex = (int)if_nametoindex(name)};
	struct timeval timeout = {.tv_sec = 5};
	int s = socket(AF_PACKET, SOCK_RAW, 0), on = 1, size = 4 << 20;

	if (vnet_hdr) {
		a.sll_protocol = 0;
		assert_return_code(setsockopt(s, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)), errno);
	} else {
		/* Past the queueing discipline: a kernel worker attaches the real one some time after the carrier is on, and until then
		 * frames are lost. Not for offloads: that path segments nothing. */
		assert_return_code(setsockopt(s, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof(on)), errno);
	}
	setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	setsockopt(s, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	assert_return_code(bind(s, (struct sockaddr *)&a, sizeof(a)), errno);
	return s;
}

static inline void host_send(struct fixture *x, u32 len, u32 seed)
{
	make_frame(x->frame, len, seed);
	assert_int_equal(send(x->host, x->frame, len, 0), len);
}

static inline void host_expect(struct fixture *x, u32 len, u32 seed)
{
	make_frame(x->frame, len, seed);
	assert_int_equal(recv(x->host, x->got, 128 * KIB, MSG_TRUNC), len);
	assert_memory_equal(x->got, x->frame, len);
}

/* A network namespace of our own: no interface of the machine is touched, none is left behind. */
static inline bool own_network(void)
{
	int fd;

	if (unshare(CLONE_NEWNET) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
		return false;
	fd = open("/proc/sys/net/ipv6/conf/default/disable_ipv6", O_WRONLY); /* its router solicitations would get among our frames */
	if (fd >= 0 && write(fd, "1", 1) < 0)
		print_message("# IPv6 stays on\n");
	close(fd);
	return access("/dev/net/tun", R_OK | W_OK) == 0;
}

#endif
