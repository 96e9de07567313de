/*
 * net.h: where a network device sends its frames and takes them from: a tap interface of the host, or a stream socket to passt.
 *
 * A frame starts with struct virtio_net_hdr_v1 (12 bytes), as in the virtqueues. A backend has one descriptor per queue pair, which the
 * device watches. ctx of all ops: loop with the device's lock held; offloads and pairs: also a vcpu thread with the lock held.
 */
#ifndef HUSK_BACKEND_NET_H
#define HUSK_BACKEND_NET_H

#include <linux/virtio_net.h>
#include <sys/uio.h>

#include "vmm/base/err.h"

#define NET_MAX_PAIRS 8
#define NET_HDR_LEN   ((u32)sizeof(struct virtio_net_hdr_v1))
/* Header, Ethernet with a VLAN tag, the largest GSO payload (virtio 1.2 §5.1.6.3.1 counts no tag). */
#define NET_FRAME_MAX (NET_HDR_LEN + 14 + 4 + 65536)

struct net_backend;

struct net_backend_ops {
	/* Takes one frame into iov (header first; num_buffers is left to the caller). Returns its length, which may be more than iov holds:
	 * the rest is lost then. -EAGAIN: none there. Else -errno: the other end is gone. */
	ssize_t (*recv)(struct net_backend *b, u32 pair, const struct iovec *iov, u32 nr);
	/* Sends one frame of len bytes (NET_HDR_LEN..NET_FRAME_MAX). 0: taken. 1: taken by husk itself (metadata service), which
	 * no limit counts. -EAGAIN: not now, wait until the descriptor is writable.
	 * -ENOTCONN: the other end is gone. Else -errno: the frame is refused. */
	int (*send)(struct net_backend *b, u32 pair, const struct iovec *iov, u32 nr, u32 len);
	/* Optional. The descriptor is writable and more_out is set: write on. 0 or -errno: the other end is gone. */
	int (*flush)(struct net_backend *b);
	/* Optional. What may be handed to the guest, as a set of VIRTIO_NET_F_GUEST_* bits. 0 or -errno */
	int (*offloads)(struct net_backend *b, u64 guest_features);
	/* Optional. Queue pairs 0..n-1 carry frames from now on. 0 or -errno */
	int (*pairs)(struct net_backend *b, u32 n);
	void (*close)(struct net_backend *b); /* and free */
};

struct net_backend {
	const struct net_backend_ops *ops;
	char *name;   /* owned; for messages: tap "tap0" */
	u64 features; /* VIRTIO_NET_F_* that it brings: checksum and segmentation offloads, CTRL_GUEST_OFFLOADS */
	u32 nr_fds;
	int fds[NET_MAX_PAIRS]; /* owned */
	bool more_in;		/* frames are buffered inside: recv again, the descriptor need not become readable */
	bool more_out;		/* bytes are buffered inside: flush when the descriptor is writable */
};

/* Attaches to an existing tap interface, pair by pair. On failure e says what to do. ctx: before start */
int net_tap_open(struct net_backend **out, const char *ifname, u32 pairs, struct err *e) MUST_CHECK;
/* The same with descriptors of its queues (nr of them; owned from now on, also on failure) that another husk on this host uses still:
 * nothing of the interface is changed. features: what that husk's backend had. -EINVAL: they are something else; a `pairs` other than nr
 * is, too. */
int net_tap_adopt(struct net_backend **out, const char *ifname, u32 pairs, int *fds, u32 nr, u64 features, struct err *e) MUST_CHECK;
/* Connects to the socket of a passt process (QEMU's stream protocol: big-endian length, frame). ctx: before start */
int net_stream_open(struct net_backend **out, const char *path, struct err *e) MUST_CHECK;

#endif
