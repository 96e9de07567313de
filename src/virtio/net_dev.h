/* net_dev.h: what the parts of the network device share: net.c (class, features, control queue), net_io.c (frames). */
#ifndef HUSK_NET_DEV_H
#define HUSK_NET_DEV_H

#include "virtio/backend/net.h"
#include "virtio/backend/ratelimit.h"
#include "virtio/virtio_state.h"

struct net_cfg {
	char *iface_id, *host_dev_name, *passt_socket, *guest_mac;
	u64 mtu, queue_pairs;
	struct cfg_ratelimit *rx_rate_limiter, *tx_rate_limiter; /* NULL: no limit */
};

/* Goes into a snapshot. */
struct net_state {
	u8 mac[6];	    /* now: the driver may have set another */
	u8 given_mac[6];    /* configured, or chosen at random */
	u16 status;	    /* VIRTIO_NET_S_* */
	u16 pairs;	    /* that the driver uses */
	u16 mtu;	    /* 0: none is offered */
	u64 guest_offloads; /* VIRTIO_NET_F_GUEST_* that it wants now */
};
#define NET_GUEST_OFFLOADS \
	(BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6) | BIT(VIRTIO_NET_F_GUEST_UFO))

struct net_counters {
	u64 rx_frames, rx_bytes, rx_drops, rx_starved; /* starved: the driver had no buffers */
	u64 tx_frames, tx_bytes, tx_drops, tx_malformed;
	u64 rx_kicks, tx_kicks, tap_events, mac_updates, tx_spoofed;
	struct latency tap_write;
};

/*
 * A queue pair: receive queue 2n, transmit queue 2n + 1, descriptor n of the backend.
 *
 * Receive buffers are taken off the queue ahead of the frame, as many as rx_goal bytes need, so that the host writes straight into them.
 *
 *   rx_mem   | filled, pushed | chain | chain | chain |            |     a chain is cut off behind its last element
 *                     rx_head ^                       ^ rx_tail
 *   one readv = [ iovecs of these chains ........... | spill ]           spill: NET_FRAME_MAX bytes of our own
 *
 * Most frames end inside the chains. One that does not is not lost: it is pending until the driver has added the buffers that its part in
 * the spill needs. rx_goal is a few frames' worth while frames are small, and a whole GSO frame after a large one.
 */
struct net_pair {
	struct virtio_net *net; /* borrowed */
	u32 index;
	struct loop_fd watch;	     /* fd is the backend's */
	u32 watched;		     /* for these events */
	bool rx_starved;	     /* no buffers: the driver's kick goes on */
	bool tx_blocked;	     /* the descriptor is full: EPOLLOUT goes on */
	bool rx_limited, tx_limited; /* the interface may move no more for now: the limiter goes on */
	u8 *rx_mem, *spill;	     /* owned */
	u32 rx_head, rx_tail;	     /* bytes in rx_mem */
	u64 rx_room;		     /* bytes that the chains hold */
	u32 rx_goal, rx_small_run;
	u32 pending, pending_placed; /* length of the pending frame, 0: none; bytes of it that are in the chains */
};

struct virtio_net {
	struct virtio_dev vdev; /* first */
	const struct net_cfg *cfg;
	struct net_backend *backend; /* owned */
	struct net_state state;
	struct net_counters counters;
	struct ratelimit rx_limit, tx_limit; /* of all pairs together */
	bool paused;
	bool gone; /* the other end of the backend: link down for good */
	struct loop_timer announce;
	u32 announced; /* rounds of husk's own announcement so far */
	struct net_pair pairs[NET_MAX_PAIRS];
};

static inline struct virtio_net *to_net(struct virtio_dev *vdev)
{
	return container_of(vdev, struct virtio_net, vdev);
}

/* net.c: tells the backend what the guest takes. False: it refuses. ctx: any, lock held */
bool net_set_offloads(struct virtio_net *n, u64 wanted);

/* net_state.c */
/* What a snapshot has of it beside virtio_core_state. */
extern const struct device_state net_device_state;
/* Before the first run after a restore: tells the network, which may have known the guest elsewhere, where it is now: the guest's driver
 * does it, or husk. ctx: loop, lock held */
void net_announce(struct virtio_net *n);
/* device_class.pass: the tap's descriptors. ctx: loop */
int net_pass(struct device *dev, struct passed *out, struct err *e) MUST_CHECK;
/* The tap that came with the VM. 0: n->backend is set, or none came. ctx: create */
int net_inherit(struct virtio_net *n, struct err *e) MUST_CHECK;
/* Ends husk's announcement. ctx: loop, or after it */
void net_announce_stop(struct virtio_net *n);

/* net_io.c */
/* Sets up n->pairs for the backend's descriptors, and undoes it. ctx: before start; loop */
void net_io_init(struct virtio_net *n);
void net_io_fini(struct virtio_net *n);
/* Moves frames, a bounded number. ctx: loop, lock held */
void net_rx(struct net_pair *p);
void net_tx(struct net_pair *p);
/* Gives buffers back to the queues and forgets the pending frames: before a reset or a snapshot. ctx: any, lock held */
void net_io_release(struct virtio_net *n);
/* Watches the descriptors of the pairs in use for what they wait for. ctx: loop, lock held */
void net_io_watch(struct virtio_net *n);

#endif
