/*
 * vhost_user.h: a virtio device whose work another process does (vhost-user; husk is the front end). What block and file system share: the
 * connection, negotiation, the rings, reset, loss of the peer and its return.
 *
 *   guest ── its rings ── husk (vu_queue: pops, checks, marks written pages) ── rings of husk's own ── peer
 *     ╰───────────────────────── data: the memfd of guest memory, mapped by both ─────────────────────╯
 *
 * The peer never sees the guest's rings. Husk takes each chain off the guest's ring, checks it, and puts its addresses into a split ring in
 * a memfd of its own ("shadow ring"); what the peer has used goes back the same way. No data is copied. Reasons:
 *   - A peer writes guest memory behind husk's back. Before the guest can see a used entry, husk marks what was written: translated code
 *     in those pages is dropped (tcg), snapshots and migration find them (mem_dirty). Holds for guests that poll, too.
 *   - Husk knows which requests are in flight: when the peer dies, they are sent again to its successor (block), or fail; and a reset waits
 *     for them. No INFLIGHT_FD needed of the peer.
 *   - Any guest ring (packed, EVENT_IDX, indirect) works with any peer, and the peer gets only descriptors that lie in RAM.
 *   - virtio-mmio's InterruptStatus must be set before the interrupt, so the loop has to wake up for each one anyway.
 *
 *   state      connection   peer's rings
 *   DOWN       none         -           the timer tries to connect
 *   HELLO      up           -           negotiating
 *   READY      up           stopped     the driver has not said DRIVER_OK
 *   RUNNING    up           run
 *   STOPPING   up           stopping    a reset waits for the answers to GET_VRING_BASE
 *
 * All of it under vdev.dev.lock. ctx: loop, unless said otherwise
 */
#ifndef HUSK_VHOST_USER_H
#define HUSK_VHOST_USER_H

#include "virtio/vhost_user_msg.h"
#include "virtio/virtio.h"

#define VU_MAX_QUEUES  16u
#define VU_RING_SIZE   VIRTQ_MAX_SIZE
#define VU_MAX_REPLIES (3u * VU_MAX_QUEUES + 8u)

/* Addresses as the peer sees them, instead of husk's own: a constant above guest physical ones. The shadow rings lie above all RAM. */
#define VU_USER_BASE  (1ull << 46)
#define VU_SHADOW_GPA (1ull << 44)
/* One queue in the shadow memory: descriptors, available ring, used ring, an indirect table for each head. */
#define VU_RING_AVAIL  (16u * VU_RING_SIZE)
#define VU_RING_USED   (VU_RING_AVAIL + 4096u)
#define VU_RING_TABLES (VU_RING_USED + 4096u)
#define VU_RING_BYTES  (VU_RING_TABLES + VU_RING_SIZE * 16u * VIRTQ_MAX_SIZE)

#define VU_HELLO_MS 5000u  /* the peer answers the first questions */
#define VU_REPLY_MS 30000u /* it answers later ones, and finishes what is in flight at a reset */
#define VU_HOLD_MS  10000u /* a lost peer may come back before requests fail */
#define VU_TICK_MS  100u

struct vhost_user;

struct vhost_user_ops {
	/* The peer has told features (u->offered), queues (u->peer_queues) and configuration (u->config): is it fit? Also called when it
	 * comes back and when its configuration changes. */
	int (*meet)(struct vhost_user *u, struct err *e);
	/* May this request go to the peer? NULL: all may. */
	bool (*admit)(struct vhost_user *u, u16 queue, struct virtq_chain *c);
	/* Answers the request with an error of the device's protocol; returns the bytes written. */
	u32 (*fail)(struct vhost_user *u, struct virtq_chain *c);
	/* The peer is gone. NULL: its requests are sent again to the next one; else they fail at once. */
	void (*lost)(struct vhost_user *u);
};

enum vu_state { VU_DOWN, VU_HELLO, VU_READY, VU_RUNNING, VU_STOPPING };

/* One queue: between the driver's and the peer's. Heads are descriptors of the shadow ring that start a request. */
struct vu_queue {
	struct vhost_user *u;
	u16 index;
	int kick_fd, call_fd; /* owned eventfds: to the peer, from it */
	struct loop_fd call;
	u8 *ring; /* shadow ring: mapped, and where the peer sees it */
	u64 ring_addr;
	u16 avail_idx, last_used;
	u16 nr_free, free_head;			    /* list through next[] */
	u16 next[VU_RING_SIZE];			    /* of a free descriptor, or of one inside a chain */
	u16 nr_descs[VU_RING_SIZE];		    /* by head; 0: not in flight */
	struct virtq_chain *requests[VU_RING_SIZE]; /* by head; owned, kept for reuse */
	u16 in_flight;
	bool started; /* the peer has been told of the ring */
	bool full;    /* a chain did not fit: look again when something ends */
};

struct vhost_user {
	struct virtio_dev vdev; /* first */
	const struct vhost_user_ops *ops;
	const char *path; /* socket; borrowed */
	/* set by the device before vhost_user_open */
	u32 config_wanted;  /* bytes of configuration space to ask the peer for; 0: none */
	u16 queues_wanted;  /* most queues that the device wants */
	u64 features_known; /* device-specific features that may be passed on to the driver */

	/* the connection */
	enum vu_state state;
	int fd; /* owned, or -1 */
	struct loop_fd watch;
	struct vu_stream in;
	int backend_fd; /* owned; the peer's own channel, or -1 */
	struct loop_fd backend_watch;
	struct vu_stream backend_in;
	u32 replies[VU_MAX_REPLIES]; /* requests that wait for their answer, in order */
	u32 first_reply, nr_replies;
	u64 deadline_ns;   /* for the next answer */
	u64 drain_end_ns;  /* for the requests that a reset waits for */
	bool no_reconnect; /* the peer cannot come back: husk has started it */

	/* what the peer said */
	u64 offered, protocol; /* its features; the protocol features that both have */
	u16 peer_queues;
	u8 config[VU_MAX_CONFIG]; /* config_wanted bytes */
	u64 ring_features;	  /* of the shadow rings; the same for all peers in this device's life */

	struct vu_queue *queues; /* owned, vdev.nr_queues */
	int shadow_fd;		 /* owned memfd with the shadow rings */
	u8 *shadow;
	u64 shadow_len;
	struct loop_timer timer;
	struct loop_work work; /* runs the timer's work soon; from vCPU threads */
	u64 lost_ns;	       /* when the peer was lost */
	bool failing;	       /* no peer for too long: requests fail */
	bool reset_wanted;     /* the driver's reset waits for requests in flight */
	bool paused;
	struct log_limit peer_log;

	struct { /* metrics; the first five are Firecracker's */
		u64 activate_fails, cfg_fails, init_time_us, activate_time_us, config_change_time_us;
		u64 peer_lost, peer_back, requests, failed_requests;
	} counters;
};

static inline struct vhost_user *to_vhost_user(struct virtio_dev *vdev)
{
	return container_of(vdev, struct vhost_user, vdev);
}

/* Before anything else; u is zeroed but for vdev.dev. path is borrowed. */
void vhost_user_prepare(struct vhost_user *u, const struct vhost_user_ops *ops, const char *path);
/* Connects (or takes u->fd if that is one already) and negotiates; blocks VU_HELLO_MS at most. vdev.dev is initialised. Guest memory will
 * be shared from here on. ctx: before start */
int vhost_user_open(struct vhost_user *u, struct err *e) MUST_CHECK;
/* Makes rings and the virtio device (type, config_len and ops of vdev are set; features are those of the peer). ctx: before start */
int vhost_user_init(struct vhost_user *u, u16 nr_queues, struct err *e) MUST_CHECK;
/* Accepts one that has been prepared, and half-built ones. */
void vhost_user_fini(struct vhost_user *u);

/* For struct virtio_ops and device_class of the device. */
int vhost_user_activate(struct virtio_dev *vdev);
bool vhost_user_reset(struct virtio_dev *vdev);
void vhost_user_queue_kick(struct virtio_dev *vdev, u16 queue);
void vhost_user_config_read(struct virtio_dev *vdev, u32 off, void *data, u32 len);
void vhost_user_quiesce(struct device *dev);
void vhost_user_resume(struct device *dev);
extern const char *const vhost_user_syscalls[];
extern const struct counter_desc vhost_user_counters[];

/* Asks the peer for its configuration again; the driver hears of it when the answer is there. -ENOTCONN without a peer. */
int vhost_user_refresh(struct vhost_user *u, struct err *e) MUST_CHECK;
/* 0 when path is a socket: the sentence says what to do else. Connects not: some back ends serve one connection only. ctx: any */
int vhost_user_probe(const char *path, struct err *e) MUST_CHECK;

/* vhost_user_conn.c: the connection. For vhost_user.c. */
int vu_connect(struct vhost_user *u, struct err *e) MUST_CHECK;
void vu_disconnect(struct vhost_user *u);
/* Handles what has come in; at most a few messages. < 0: the peer is of no use any more. */
int vu_process(struct vhost_user *u, struct err *e) MUST_CHECK;
int vu_process_backend(struct vhost_user *u, struct err *e) MUST_CHECK;
int vu_send_start(struct vhost_user *u, struct err *e) MUST_CHECK; /* ctx: any */
int vu_send_stop(struct vhost_user *u, struct err *e) MUST_CHECK;
/* Told by the connection: negotiated (ops->meet agreed); all rings have stopped. */
int vu_hello_done(struct vhost_user *u, struct err *e) MUST_CHECK;
void vu_stopped(struct vhost_user *u);

/* vhost_user_queue.c: the shadow rings. For vhost_user.c. */
int vu_queues_init(struct vhost_user *u, u16 nr, struct err *e) MUST_CHECK;
void vu_queues_fini(struct vhost_user *u);
/* Empties the rings and puts in what is in flight: before the peer starts. */
void vu_queue_restart(struct vu_queue *q);
/* Moves requests of the driver to the peer, or fails them when u->failing. */
void vu_queue_forward(struct vu_queue *q);
/* Hands back what the peer has used. -EPROTO when it breaks the ring's rules. */
int vu_queue_collect(struct vu_queue *q, struct err *e) MUST_CHECK;
/* Ends all that is in flight with an error. */
void vu_queue_fail(struct vu_queue *q);
u32 vu_in_flight(const struct vhost_user *u);

/* Regions of guest memory that the peer shares, with the shadow rings. Returns how many; their descriptors are in fds. */
u32 vu_memory_table(const struct vhost_user *u, struct vu_memory *m, int *fds);

#endif
