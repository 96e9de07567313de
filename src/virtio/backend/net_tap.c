/* net_tap.c: network backend on a tap interface of the host (Linux Documentation/networking/tuntap.rst). */
#include "virtio/backend/net.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define TUN_DEV "/dev/net/tun"

struct net_tap {
	struct net_backend b; /* first */
	u32 pairs;	      /* attached */
};

static struct net_tap *to_tap(struct net_backend *b)
{
	return container_of(b, struct net_tap, b);
}

static ssize_t tap_recv(struct net_backend *b, u32 pair, const struct iovec *iov, u32 nr)
{
	ssize_t n = readv(b->fds[pair], iov, (int)nr);

	if (n < 0) /* short of memory is no reason to give up */
		return errno == EINTR || errno == ENOMEM ? -EAGAIN : -errno;
	return n < NET_HDR_LEN ? -EIO : n;
}

/* The kernel copies the header once and checks it: what makes no sense comes back as EINVAL. */
static int tap_send(struct net_backend *b, u32 pair, const struct iovec *iov, u32 nr, u32 len)
{
	(void)len;
	if (writev(b->fds[pair], iov, (int)nr) >= 0)
		return 0;
	if (errno == EBADFD)
		return -ENOTCONN; /* the interface was removed */
	return errno == EINTR ? -EAGAIN : -errno;
}

static unsigned long tun_flags(u64 guest_features)
{
	static const struct {
		u32 feature;
		unsigned long flag;
	} map[] = {
		{VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4},
		{VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6},
		{VIRTIO_NET_F_GUEST_UFO, TUN_F_UFO},
	};
	unsigned long flags = TUN_F_CSUM;

	if (!(guest_features & BIT(VIRTIO_NET_F_GUEST_CSUM)))
		return 0; /* segmentation needs it: virtio 1.2 §5.1.3.1 */
	for (u32 i = 0; i < ARRAY_SIZE(map); i++)
		flags |= guest_features & BIT(map[i].feature) ? map[i].flag : 0;
	return flags;
}

static int tap_offloads(struct net_backend *b, u64 guest_features)
{
	return ioctl(b->fds[0], TUNSETOFFLOAD, tun_flags(guest_features)) < 0 ? -errno : 0;
}

/* The kernel spreads flows over all attached queues: those that the driver does not serve must not be among them. */
static int tap_pairs(struct net_backend *b, u32 n)
{
	struct net_tap *t = to_tap(b);

	for (; t->pairs < n; t->pairs++) {
		struct ifreq req = {.ifr_flags = IFF_ATTACH_QUEUE};

		if (ioctl(b->fds[t->pairs], TUNSETQUEUE, &req) < 0)
			return -errno;
	}
	for (; t->pairs > n; t->pairs--) {
		struct ifreq req = {.ifr_flags = IFF_DETACH_QUEUE};

		if (ioctl(b->fds[t->pairs - 1], TUNSETQUEUE, &req) < 0)
			return -errno;
	}
	return 0;
}

static void tap_close(struct net_backend *b)
{
	for (u32 i = 0; i < b->nr_fds; i++)
		fd_close(&b->fds[i]);
	free(b->name);
	free(to_tap(b));
}

static const struct net_backend_ops tap_ops = {
	.recv = tap_recv,
	.send = tap_send,
	.offloads = tap_offloads,
	.pairs = tap_pairs,
	.close = tap_close,
};

static int refused(const char *ifname, bool multi, struct err *e)
{
	switch (errno) {
	case EBUSY:
		return err_set(e, -EBUSY, "tap \"%s\" is in use by another process or another interface of this VM", ifname);
	case EPERM:
		return err_set(e, -EPERM, "tap \"%s\" belongs to another user: create it with `ip tuntap add %s mode tap user <you>`",
			       ifname, ifname);
	case EINVAL:
		return err_set(e, -EINVAL, "\"%s\" is not a tap interface%s: create one with `ip tuntap add <name> mode tap%s`", ifname,
			       multi ? " with several queues" : "", multi ? " multi_queue" : "");
	default:
		return err_errno(e, "tap \"%s\"", ifname);
	}
}

/* Attaches fd to the interface. One made with multi_queue wants to be opened so even for one pair. */
static int attach(int fd, const char *ifname, u32 pairs, struct err *e)
{
	short multi = pairs > 1 ? IFF_MULTI_QUEUE : 0;
	struct ifreq req = {.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | multi)};
	int hdr_len = (int)NET_HDR_LEN;
	int rc;

	strncpy(req.ifr_name, ifname, IFNAMSIZ - 1);
	rc = ioctl(fd, TUNSETIFF, &req);
	if (rc < 0 && errno == EINVAL && !multi) {
		req.ifr_flags |= IFF_MULTI_QUEUE;
		rc = ioctl(fd, TUNSETIFF, &req);
	}
	if (rc < 0)
		return refused(ifname, multi, e);
	if (ioctl(fd, TUNSETVNETHDRSZ, &hdr_len) < 0)
		return err_errno(e, "tap \"%s\": cannot set the header size", ifname);
	return 0;
}

static int open_pair(struct net_backend *b, const char *ifname, u32 pairs, struct err *e)
{
	auto_fd int fd = open(TUN_DEV, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	int rc;

	if (fd < 0 && (errno == EACCES || errno == EPERM))
		return err_set(e, -EACCES, "no permission to open " TUN_DEV ": `chmod 666 " TUN_DEV "`, run as root, or use passt_socket");
	if (fd < 0)
		return err_errno(e, TUN_DEV " cannot be opened (`modprobe tun`, or use passt_socket)");
	rc = attach(fd, ifname, pairs, e);
	if (rc == 0)
		b->fds[b->nr_fds++] = fd_take(&fd);
	return rc;
}

#define FEATURES \
	(BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6) | \
	 BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6) | BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) | UFO)
#define UFO (BIT(VIRTIO_NET_F_GUEST_UFO) | BIT(VIRTIO_NET_F_HOST_UFO))

/* UFO: kernels from 4.14 on have lost and regained parts of it. */
static u64 probe_features(struct net_backend *b)
{
	u64 f = FEATURES;

	if (tap_offloads(b, f) < 0)
		f &= ~UFO;
	if (tap_offloads(b, f) < 0)
		f = 0;
	tap_offloads(b, 0); /* until a driver has negotiated */
	return f;
}

static struct net_tap *new_tap(const char *ifname)
{
	struct net_tap *t = xzalloc(sizeof(*t));

	t->b.ops = &tap_ops;
	t->b.name = xasprintf("tap \"%s\"", ifname);
	return t;
}

int net_tap_open(struct net_backend **out, const char *ifname, u32 pairs, struct err *e)
{
	struct net_tap *t;
	int rc = 0;

	/* TUNSETIFF would make a missing interface, with no address and no bridge: not what the user meant. */
	if (!if_nametoindex(ifname))
		return err_set(e, -ENODEV, "tap \"%s\" does not exist: create it with `ip tuntap add %s mode tap%s && ip link set %s up`",
			       ifname, ifname, pairs > 1 ? " multi_queue" : "", ifname);
	t = new_tap(ifname);
	while (rc == 0 && t->b.nr_fds < pairs)
		rc = open_pair(&t->b, ifname, pairs, e);
	if (rc == 0) {
		t->pairs = pairs;
		t->b.features = probe_features(&t->b);
		rc = tap_pairs(&t->b, 1);
		if (rc < 0)
			err_set(e, rc, "tap \"%s\": cannot detach its further queues: %s", ifname, strerror(-rc));
	}
	if (rc < 0) {
		tap_close(&t->b);
		return rc;
	}
	*out = &t->b;
	return 0;
}

/* An attached or detached queue of that interface, as attach made it. */
static int check_queue(int fd, const char *ifname, bool *attached, struct err *e)
{
	const short want = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
	struct ifreq req = {0};
	int hdr_len = 0;

	if (ioctl(fd, TUNGETIFF, &req) < 0 || ioctl(fd, TUNGETVNETHDRSZ, &hdr_len) < 0)
		return err_set(e, -EINVAL, "the descriptor that came for tap \"%s\" is no tap: %s", ifname, strerror(errno));
	if (strncmp(req.ifr_name, ifname, IFNAMSIZ) != 0 || (req.ifr_flags & want) != want || hdr_len != (int)NET_HDR_LEN)
		return err_set(e, -EINVAL, "the descriptor that came for tap \"%s\" is of \"%.*s\", or made another way", ifname, IFNAMSIZ,
			       req.ifr_name);
	*attached = !(req.ifr_flags & IFF_DETACH_QUEUE);
	return 0;
}

int net_tap_adopt(struct net_backend **out, const char *ifname, u32 pairs, int *fds, u32 nr, u64 features, struct err *e)
{
	struct net_tap *t = new_tap(ifname);
	int rc = nr == pairs ? 0 : err_set(e, -EINVAL, "tap \"%s\": %u descriptors came for %u pairs of queues", ifname, nr, pairs);

	for (; t->b.nr_fds < nr; t->b.nr_fds++)
		t->b.fds[t->b.nr_fds] = fds[t->b.nr_fds];
	t->b.features = features & FEATURES;
	for (u32 i = 0; rc == 0 && i < nr; i++) {
		bool attached = false;

		rc = check_queue(t->b.fds[i], ifname, &attached, e);
		t->pairs += attached;
	}
	if (rc < 0)
		tap_close(&t->b);
	else
		*out = &t->b;
	return rc;
}
