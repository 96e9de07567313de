/* net_io.c: network device, receive and transmit (virtio 1.2 §5.1.6); see net_dev.h for the receive buffers. */
#include "virtio/net_dev.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NET_BATCH    64u   /* frames per queue before the loop turns to other devices */
#define RX_SMALL     4096u /* bytes of a small frame */
#define RX_SMALL_RUN 64u   /* that many in a row: no need to keep buffers for large ones */

/* Chains are popped while they fill less than this; the last may have any size. */
#define RX_MEM_SOFT 4096u
#define RX_MEM	    (RX_MEM_SOFT + (u32)sizeof(struct virtq_chain))
#define RX_IOVS	    (RX_MEM / sizeof(struct iovec))

_Static_assert(offsetof(struct virtq_chain, iov) % _Alignof(struct virtq_chain) == 0, "chains lie one behind the other");

/* Counting is under the device's lock; only the metrics read without it. */
static void count(u64 *counter, u64 n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

static struct virtq *rx_queue(const struct net_pair *p)
{
	return &p->net->vdev.queues[2 * p->index];
}

static struct virtq *tx_queue(const struct net_pair *p)
{
	return &p->net->vdev.queues[2 * p->index + 1];
}

static bool in_use(const struct net_pair *p)
{
	const struct virtio_net *n = p->net;

	return n->vdev.live && !n->paused && !n->gone && p->index < n->state.pairs;
}

static void watch(struct net_pair *p)
{
	struct net_backend *b = p->net->backend;
	u32 events = 0;

	if (in_use(p))
		events = (p->rx_starved || p->rx_limited ? 0u : EPOLLIN) | (p->tx_blocked || b->more_out ? EPOLLOUT : 0u);
	if (events == p->watched)
		return;
	if (!events)
		loop_unwatch(&p->watch);
	else if (p->watch.loop)
		loop_modify(&p->watch, events);
	else if (loop_watch(&p->net->vdev.dev.vm->loop, &p->watch, events, NULL) < 0)
		return;
	p->watched = events;
}

void net_io_watch(struct virtio_net *n)
{
	for (u32 i = 0; i < n->backend->nr_fds; i++)
		watch(&n->pairs[i]);
}

static void link_down(struct virtio_net *n, int error)
{
	if (n->gone)
		return;
	n->gone = true;
	n->state.status &= (u16)~VIRTIO_NET_S_LINK_UP;
	log_warn(n->vdev.dev.vm->log, "network interface \"%s\": %s is gone (%s), the link is down", n->vdev.dev.id, n->backend->name,
		 strerror(-error));
	virtio_config_changed(&n->vdev);
	net_io_watch(n);
}

/* ---- receive ---- */

static u32 chain_bytes(const struct virtq_chain *c)
{
	return (u32)(offsetof(struct virtq_chain, iov) + ((u32)c->nr_out + c->nr_in) * sizeof(struct iovec));
}

static struct virtq_chain *chain_at(const struct net_pair *p, u32 at)
{
	return (struct virtq_chain *)(void *)(p->rx_mem + at);
}

/* No further buffer can be had: no space for it here, or the whole ring is here already. */
static bool rx_full(const struct net_pair *p)
{
	const struct virtq *q = rx_queue(p);

	return p->rx_tail - p->rx_head > RX_MEM_SOFT || q->slots_in_flight >= q->size;
}

/* Pops chains until they hold rx_goal bytes, and the pending frame. Without MRG_RXBUF a frame must fit into one chain. */
static void rx_gather(struct net_pair *p)
{
	bool merge = virtio_has(&p->net->vdev, VIRTIO_NET_F_MRG_RXBUF);
	u32 goal = merge ? MAX(p->rx_goal, p->pending) : 1;

	while (p->rx_room < goal && !rx_full(p)) {
		struct virtq_chain *c;

		if (p->rx_tail > RX_MEM_SOFT) {
			memmove(p->rx_mem, p->rx_mem + p->rx_head, p->rx_tail - p->rx_head);
			p->rx_tail -= p->rx_head;
			p->rx_head = 0;
		}
		c = chain_at(p, p->rx_tail);
		if (virtq_pop(rx_queue(p), c) <= 0)
			return;
		if (!c->in_len) {
			virtq_unpop(rx_queue(p), c);
			virtio_broken(&p->net->vdev, "a receive buffer has no room");
			return;
		}
		p->rx_tail += chain_bytes(c);
		p->rx_room += c->in_len;
	}
}

static void rx_drop_pending(struct net_pair *p)
{
	count(&p->net->counters.rx_drops, 1);
	p->pending = 0;
}

/* Buffers for the pending frame, or for any frame. False: the driver has none; it will kick. */
static bool rx_refill(struct net_pair *p)
{
	for (;;) {
		rx_gather(p);
		if (p->rx_room >= MAX(p->pending, 1u))
			return true;
		if (p->pending && rx_full(p)) {
			rx_drop_pending(p); /* more than the driver can ever offer at a time */
			continue;
		}
		if (!virtq_want_kicks(rx_queue(p), true))
			break;
		virtq_want_kicks(rx_queue(p), false);
	}
	if (!p->rx_starved)
		count(&p->net->counters.rx_starved, 1);
	p->rx_starved = true;
	return false;
}

/* The device-writable elements of all chains in one list; returns how many. */
static u32 rx_list(struct net_pair *p, struct iovec *iov)
{
	u32 nr = 0;

	for (u32 at = p->rx_head; at < p->rx_tail; at += chain_bytes(chain_at(p, at))) {
		struct virtq_chain *c = chain_at(p, at);

		memcpy(iov + nr, chain_in(c), c->nr_in * sizeof(*iov));
		nr += c->nr_in;
	}
	return nr;
}

/* The frame fills the first chains: hands them to the driver, all at once. */
static void rx_commit(struct net_pair *p, const struct iovec *iov, u32 nr, u32 len)
{
	const struct virtq_chain *chains[VIRTQ_MAX_SIZE];
	u32 written[VIRTQ_MAX_SIZE], left = len;
	u16 k = 0;

	while (left) {
		const struct virtq_chain *c = chain_at(p, p->rx_head);

		chains[k] = c;
		written[k] = MIN(c->in_len, left);
		left -= written[k++];
		p->rx_head += chain_bytes(c);
		p->rx_room -= c->in_len;
	}
	iov_write(iov, nr, offsetof(struct virtio_net_hdr_v1, num_buffers), &k, sizeof(k));
	virtq_push_many(rx_queue(p), chains, written, k);
	if (p->rx_head == p->rx_tail)
		p->rx_head = p->rx_tail = 0;
	count(&p->net->counters.rx_frames, 1);
	count(&p->net->counters.rx_bytes, len - NET_HDR_LEN);
	trace(p->net->vdev.dev.vm->trace, net_rx, "dev=%s pair=%u len=%u buffers=%u", p->net->vdev.dev.id, p->index, len, k);
}

static void rx_adapt(struct net_pair *p, u32 len)
{
	p->rx_small_run = len > RX_SMALL ? 0 : p->rx_small_run + 1;
	if (!p->rx_small_run)
		p->rx_goal = NET_FRAME_MAX;
	else if (p->rx_small_run >= RX_SMALL_RUN)
		p->rx_goal = RX_SMALL;
}

/* A frame of len bytes did not fit into the chains. */
static void rx_overflow(struct net_pair *p, u32 len)
{
	p->pending = len;
	p->pending_placed = (u32)p->rx_room;
	if (len > NET_FRAME_MAX || !virtio_has(&p->net->vdev, VIRTIO_NET_F_MRG_RXBUF))
		rx_drop_pending(p);
}

/* Receives one frame. False: none there, no buffers, the limit is reached, or the link is gone. A frame is paid for when it has come: its
 * length is not known before. */
static bool rx_one(struct net_pair *p)
{
	struct net_backend *b = p->net->backend;
	struct iovec iov[RX_IOVS + 1];
	ssize_t len;
	u32 nr;

	if (!rx_refill(p))
		return false;
	nr = rx_list(p, iov);
	if (p->pending) {
		iov_write(iov, nr, p->pending_placed, p->spill, p->pending - p->pending_placed);
		rx_commit(p, iov, nr, p->pending);
		p->pending = 0;
		return true;
	}
	if (ratelimit_active(&p->net->rx_limit) && !ratelimit_ready(&p->net->rx_limit)) {
		p->rx_limited = true;
		return false;
	}
	iov[nr] = (struct iovec){.iov_base = p->spill, .iov_len = NET_FRAME_MAX};
	len = b->ops->recv(b, p->index, iov, nr + 1);
	if (len < 0) {
		if (len != -EAGAIN)
			link_down(p->net, (int)len);
		return false;
	}
	if (ratelimit_active(&p->net->rx_limit))
		ratelimit_charge(&p->net->rx_limit, MAX((u64)len, NET_HDR_LEN) - NET_HDR_LEN);
	rx_adapt(p, (u32)len);
	if ((u64)len > p->rx_room)
		rx_overflow(p, (u32)len);
	else
		rx_commit(p, iov, nr, (u32)len);
	return true;
}

void net_rx(struct net_pair *p)
{
	struct virtio_net *n = p->net;
	u32 budget = NET_BATCH;

	if (in_use(p) && rx_queue(p)->enabled) {
		p->rx_starved = p->rx_limited = false;
		virtq_want_kicks(rx_queue(p), false);
		while (budget && rx_one(p))
			budget--;
		virtq_notify(rx_queue(p));
		if (!budget && n->backend->more_in)
			virtio_kick_all(&n->vdev); /* the descriptor will not tell of these */
	}
	watch(p);
}

/* ---- transmit ---- */

/* The guest says that it is somebody else: counted only, as by Firecracker. */
static void look_at_sender(struct virtio_net *n, struct virtq_chain *c)
{
	enum { SENDER = NET_HDR_LEN + sizeof(n->state.mac) };
	u8 mac[sizeof(n->state.mac)];

	if (iov_read(chain_out(c), c->nr_out, SENDER, mac, sizeof(mac)) == sizeof(mac) && memcmp(mac, n->state.mac, sizeof(mac)) != 0)
		count(&n->counters.tx_spoofed, 1);
}

/* 0: sent or dropped. 1: taken by husk itself. -EAGAIN: not now. */
static int tx_send(struct net_pair *p, struct virtq_chain *c)
{
	struct virtio_net *n = p->net;
	u64 start_ns = clock_host_ns();
	int rc = -ENOTCONN;

	if (c->out_len <= NET_HDR_LEN || c->out_len > NET_FRAME_MAX) {
		count(&n->counters.tx_malformed, 1);
		return 0;
	}
	if (!n->gone)
		rc = n->backend->ops->send(n->backend, p->index, chain_out(c), c->nr_out, c->out_len);
	if (rc == -EAGAIN)
		return rc;
	if (rc == -ENOTCONN)
		link_down(n, rc);
	if (rc < 0) {
		count(&n->counters.tx_drops, 1);
		return 0;
	}
	latency_add(&n->counters.tap_write, clock_host_ns() - start_ns);
	look_at_sender(n, c);
	count(&n->counters.tx_frames, 1);
	count(&n->counters.tx_bytes, c->out_len - NET_HDR_LEN);
	trace(n->vdev.dev.vm->trace, net_tx, "dev=%s pair=%u len=%u", n->vdev.dev.id, p->index, c->out_len);
	return rc;
}

static u64 tx_bytes(const struct virtq_chain *c)
{
	return MAX(c->out_len, NET_HDR_LEN) - NET_HDR_LEN;
}

/* Sends one frame. False: none there, the limit is reached, or the descriptor is full. */
static bool tx_one(struct net_pair *p)
{
	struct virtq_chain c;
	int rc;

	if (virtq_pop(tx_queue(p), &c) <= 0)
		return false;
	if (ratelimit_active(&p->net->tx_limit) && !ratelimit_take(&p->net->tx_limit, tx_bytes(&c))) {
		virtq_unpop(tx_queue(p), &c);
		p->tx_limited = true;
		return false;
	}
	rc = tx_send(p, &c);
	if (rc)
		ratelimit_refund(&p->net->tx_limit, tx_bytes(&c));
	if (rc == -EAGAIN) {
		virtq_unpop(tx_queue(p), &c);
		p->tx_blocked = true;
		return false;
	}
	virtq_push(tx_queue(p), &c, 0);
	return true;
}

/* Frames for a link that is gone are dropped, so that the guest does not wait for them. */
void net_tx(struct net_pair *p)
{
	struct virtio_net *n = p->net;
	struct virtq *q = tx_queue(p);
	u32 budget = NET_BATCH;

	if (n->vdev.live && !n->paused && p->index < n->state.pairs && q->enabled) {
		p->tx_blocked = p->tx_limited = false;
		do {
			virtq_want_kicks(q, false);
			while (budget && tx_one(p))
				budget--;
		} while (!p->tx_blocked && !p->tx_limited && virtq_want_kicks(q, true) && budget);
		virtq_notify(q);
		if (!budget && !p->tx_blocked)
			virtio_kick_all(&n->vdev);
	}
	watch(p);
}

/* ---- the descriptors ---- */

static void pair_ready(struct loop_fd *w, u32 events)
{
	struct net_pair *p = container_of(w, struct net_pair, watch);
	struct virtio_net *n = p->net;
	int rc = 0;

	device_lock(&n->vdev.dev);
	count(&n->counters.tap_events, 1);
	if (!in_use(p)) {
		watch(p); /* the driver has reset the device: it wants nothing more */
	} else {
		if (n->backend->more_out)
			rc = n->backend->ops->flush(n->backend);
		if (rc < 0)
			link_down(n, rc);
		if (events & EPOLLOUT)
			net_tx(p);
		net_rx(p);
	}
	device_unlock(&n->vdev.dev);
}

void net_io_release(struct virtio_net *n)
{
	for (u32 i = 0; i < n->backend->nr_fds; i++) {
		struct net_pair *p = &n->pairs[i];

		/* All of them go back, so their order does not matter. */
		for (; p->rx_head < p->rx_tail; p->rx_head += chain_bytes(chain_at(p, p->rx_head)))
			virtq_unpop(rx_queue(p), chain_at(p, p->rx_head));
		p->rx_head = p->rx_tail = 0;
		p->rx_room = 0;
		if (p->pending)
			rx_drop_pending(p);
		p->rx_starved = p->tx_blocked = p->rx_limited = p->tx_limited = false;
	}
}

void net_io_init(struct virtio_net *n)
{
	for (u32 i = 0; i < n->backend->nr_fds; i++) {
		n->pairs[i] = (struct net_pair){
			.net = n,
			.index = i,
			.watch = {.fd = n->backend->fds[i], .ready = pair_ready},
			.rx_mem = xzalloc(RX_MEM),
			.spill = xzalloc(NET_FRAME_MAX),
			.rx_goal = RX_SMALL,
		};
	}
}

void net_io_fini(struct virtio_net *n)
{
	for (u32 i = 0; i < NET_MAX_PAIRS; i++) {
		loop_unwatch(&n->pairs[i].watch);
		free(n->pairs[i].rx_mem);
		free(n->pairs[i].spill);
	}
}
