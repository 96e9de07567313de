/*
 * vsock_dev.h: what the parts of the vsock device share: vsock.c (class, queues, packets from the guest), vsock_rx.c (packets to the
 * guest), vsock_conn.c (connections and their sockets), vsock_state.c (saved state, and how a restored guest hears of it).
 *
 * ctx of everything here: loop, with the device's lock held.
 */
#ifndef HUSK_VSOCK_DEV_H
#define HUSK_VSOCK_DEV_H

#include <linux/virtio_vsock.h>
#include <sys/queue.h>

#include "virtio/backend/vsock_unix.h"
#include "virtio/virtio_state.h"
#include "vmm/clock.h"

enum { VSOCK_RXQ, VSOCK_TXQ, VSOCK_EVENTQ, VSOCK_QUEUES };

#define VSOCK_HOST_CID	 2u
#define VSOCK_HDR_LEN	 ((u32)sizeof(struct virtio_vsock_hdr))
#define VSOCK_MAX_PACKET (64 * (u32)KIB) /* bytes behind the header */
#define VSOCK_MAX_CONNS	 2048u
/* What the guest may send ahead of what the host's program took: powers of two. A stream needs the large one to be fast; those beyond the
 * first connections get the small one, so that all of them together hold 152 MiB at most. */
#define VSOCK_BUF_LARGE	 (256 * (u32)KIB)
#define VSOCK_BUF_SMALL	 (64 * (u32)KIB)
#define VSOCK_MAX_LARGE	 128u
#define VSOCK_FIRST_PORT (1u << 30) /* of the host's side of connections that the host makes; as many above */
#define VSOCK_MAX_RSTS	 256u
#define VSOCK_BUCKETS	 1024u
#define VSOCK_RX_CHAINS	 16u /* buffers of the guest that one read fills */
#define VSOCK_RX_IOVS	 512u
/* For the CONNECT line, the guest's answer to a request, and its RST after both sides closed. */
#define VSOCK_TIMEOUT_NS (2 * NSEC_PER_SEC)

#define VSOCK_SHUT_BOTH ((u32)(VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND))

struct vsock_cfg {
	u64 guest_cid;
	char *uds_path, *vsock_id;
};

/*
 *   host connects ─> LINE ─ CONNECT line ─> REQUESTED ─ RESPONSE ─> ESTABLISHED <─ socket connected ─ REQUEST of the guest
 *                                                                    │       │
 *                        both ends of the socket or the host gave up │       │ the guest closed, bytes of it are still buffered
 *                                                                   DEAD   ORPHAN
 *
 * Freed: LINE at any trouble, REQUESTED and ESTABLISHED at the guest's RST, DEAD when its RST is with the guest, ORPHAN when drained.
 */
enum vsock_state {
	VSOCK_LINE,
	VSOCK_REQUESTED,
	VSOCK_ESTABLISHED,
	VSOCK_DEAD,   /* no socket any more */
	VSOCK_ORPHAN, /* the guest knows it no more */
};

struct vsock_conn {
	struct loop_fd watch;	 /* its descriptor is owned */
	struct virtio_vsock *vs; /* borrowed */
	enum vsock_state state;
	u32 host_port, guest_port;
	u32 due;		   /* packets for the guest: BIT(VIRTIO_VSOCK_OP_*) */
	u32 host_shut, guest_shut; /* VIRTIO_VSOCK_SHUTDOWN_*: what that side does no more */
	/* The socket. Its events are edges, so what they say is kept until EAGAIN. */
	bool readable; /* bytes, or the end of them */
	bool writable; /* it was full and is not any more */
	bool full;     /* watched for EPOLLOUT */
	bool ending;   /* behind what can be read the end comes */
	bool hung_up;  /* the other end is closed */
	/* Credit (virtio 1.2 §5.10.6.3): counts of bytes that wrap. */
	u32 peer_alloc, peer_fwd; /* the guest's, from its last packet */
	u32 sent;		  /* to the guest */
	u32 received, forwarded;  /* from the guest; of these, to the socket or thrown away */
	u32 told;		  /* forwarded as the guest knows it */
	bool asked;		  /* the guest, for credit */
	u32 buf_size;		  /* VSOCK_BUF_* */
	u8 *buf;		  /* owned, buf_size: byte n of the guest's lies at n % buf_size; NULL while there is none */
	u32 rx_goal;		  /* bytes to make room for before a read */
	bool in_ready, hashed;
	u64 deadline_ns; /* CLOCK_MONOTONIC; 0: none */
	LIST_ENTRY(vsock_conn) all, bucket;
	TAILQ_ENTRY(vsock_conn) ready, waiting;
};

struct vsock_rst { /* for the guest, about a connection that is not there */
	u64 cid;   /* that it wanted */
	u32 host_port, guest_port;
	u16 type;
};

/* Connections end with a restore or a move; their guest's ends do with an event (virtio 1.2 §5.10.6.7). */
enum vsock_lost {
	VSOCK_LOST_NONE,
	VSOCK_LOST_DUE,	 /* the guest is still to hear of it */
	VSOCK_LOST_TOLD, /* it was told, and its driver has not given the event's buffer back yet */
};

struct vsock_counters {
	u64 rx_queue_fails, tx_queue_fails, accept_fails, conn_fails;
	u64 rx_kicks, tx_kicks, rx_bytes, tx_bytes, rx_packets, tx_packets;
	u64 added, killed, removed, flush_fails, write_fails, read_fails;
	u64 none; /* of Firecracker's, what cannot happen here */
};

LIST_HEAD(vsock_list, vsock_conn);
TAILQ_HEAD(vsock_queue, vsock_conn);

struct virtio_vsock {
	struct virtio_dev vdev; /* first */
	const struct vsock_cfg *cfg;
	struct vsock_listener listener;
	struct loop_fd listen_watch;
	struct loop_timer listen_timer; /* the host had no descriptor left: when to go on */
	struct loop_timer timer;	/* of the first in waiting */
	struct loop_work reset_work;
	bool paused;
	u32 next_port;
	u32 nr_conns;
	struct vsock_list conns, buckets[VSOCK_BUCKETS];
	struct vsock_queue ready;   /* something is due, or can be read: served in turn */
	struct vsock_queue waiting; /* by deadline: all time-outs are the same */
	struct vsock_rst rsts[VSOCK_MAX_RSTS];
	u32 rst_head, rst_tail; /* counts */
	enum vsock_lost lost;
	u32 lost_buffers;	      /* event buffers that the driver had there when it was told */
	struct loop_timer lost_timer; /* when a driver that does not answer is believed to know */
	struct vsock_counters counters;
	/* scratch */
	struct virtq_chain tx_chain, rx_chains[VSOCK_RX_CHAINS];
	u32 rx_room[VSOCK_RX_CHAINS];
	struct iovec rx_iov[VSOCK_RX_IOVS];
};

static inline struct virtio_vsock *to_vsock(struct virtio_dev *vdev)
{
	return container_of(vdev, struct virtio_vsock, vdev);
}

/* Counting is under the lock; only the metrics read without it. */
static inline void vsock_count(u64 *counter, u64 n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

/* The part of an iovec list behind `skip` bytes, at most len bytes of it, to out, which has room for nr entries. Returns how many. */
u32 vsock_iov_part(const struct iovec *iov, u32 nr, u32 skip, u32 len, struct iovec *out);

/* ---- vsock_conn.c ---- */

/* The listening socket's name for another husk (passed.h); the caller's. */
static inline char *vsock_passed_name(const struct virtio_vsock *vs)
{
	return xasprintf("vsock %s", vs->cfg->uds_path);
}

/* Queue of connections, listener and timers. init opens the listening socket. ctx: before start */
int vsock_conns_init(struct virtio_vsock *vs, struct err *e) MUST_CHECK;
void vsock_conns_fini(struct virtio_vsock *vs);
/* Ends those that the guest's driver knows of: it was reset. */
void vsock_conns_reset(struct virtio_vsock *vs);
/* Pause: sockets are left alone. Resume: on with what happened meanwhile; time-outs begin anew. */
void vsock_conns_pause(struct virtio_vsock *vs);
void vsock_conns_resume(struct virtio_vsock *vs);

struct vsock_conn *vsock_conn_find(struct virtio_vsock *vs, u32 host_port, u32 guest_port);
/* The guest wants port host_port of the host: NULL when nobody is there, or husk or the host has no room. */
struct vsock_conn *vsock_conn_open(struct virtio_vsock *vs, u32 host_port, u32 guest_port);
/* Forgets it at once. c is gone then. */
void vsock_conn_free(struct vsock_conn *c);
/* Ends it on the host's side; the guest gets an RST, and then it is gone. */
void vsock_conn_kill(struct vsock_conn *c);
/* The guest answered a REQUEST of the host. */
void vsock_conn_accepted(struct vsock_conn *c);
/* len bytes of the guest, which its credit covers, behind skip bytes of the iovecs; c may be dead after. */
void vsock_conn_write(struct vsock_conn *c, const struct iovec *iov, u32 nr, u32 skip, u32 len);
/* The guest does VIRTIO_VSOCK_SHUTDOWN_* no more. c may be gone after. */
void vsock_conn_guest_shut(struct vsock_conn *c, u32 flags);
/* The host's side does VIRTIO_VSOCK_SHUTDOWN_* no more: tells the guest. */
void vsock_conn_host_shut(struct vsock_conn *c, u32 flags);
/* Puts it into the turn of those that have something for the guest. */
void vsock_conn_ready(struct vsock_conn *c);

/* ---- vsock_state.c ---- */

extern const struct device_state *const vsock_states[];
/* The driver's event queue: goes on with what the guest is to hear of. */
void vsock_events(struct virtio_vsock *vs);
/* The VM runs on. */
void vsock_lost_resume(struct virtio_vsock *vs);
/* There is nothing (more) to hear of: connections are made again. */
void vsock_lost_done(struct virtio_vsock *vs);

/* ---- vsock_rx.c ---- */

/* Gives the guest what is due, a bounded amount; the rest follows in a later turn of the loop. */
void vsock_rx(struct virtio_vsock *vs);
/* An RST about a connection that is not there. The caller made sure that vsock_rsts_full is false. */
void vsock_rst(struct virtio_vsock *vs, const struct vsock_rst *rst);
static inline bool vsock_rsts_full(const struct virtio_vsock *vs)
{
	return vs->rst_tail - vs->rst_head == VSOCK_MAX_RSTS;
}
/* Bytes that the guest still takes. */
u32 vsock_peer_credit(const struct vsock_conn *c);

#endif
