/*
 * vsock_rx.c: the vsock device's packets for the guest (virtio 1.2 §5.10.6).
 *
 * Connections that have something for the guest stand in a queue; each in its turn gives one packet without data, or one read of at most
 * 64 KiB, straight into the guest's buffers, and goes to the end of the queue. One that the guest has no credit for leaves the queue until
 * it has: nobody waits behind it.
 */
#include <errno.h>
#include <sys/socket.h>

#include "virtio/vsock_dev.h"

#define RX_TURNS    64u	  /* connections served before the loop turns to other devices */
#define RX_GOAL_MIN 1024u /* bytes */

enum served { SERVED, NOTHING_DUE, NO_BUFFER };

static struct virtq *rx_queue(struct virtio_vsock *vs)
{
	return &vs->vdev.queues[VSOCK_RXQ];
}

u32 vsock_peer_credit(const struct vsock_conn *c)
{
	u32 in_flight = c->sent - c->peer_fwd;

	return in_flight < c->peer_alloc ? c->peer_alloc - in_flight : 0;
}

u32 vsock_iov_part(const struct iovec *iov, u32 nr, u32 skip, u32 len, struct iovec *out)
{
	u32 n = 0;

	for (u32 i = 0; i < nr && len; i++) {
		u32 pass = (u32)MIN(iov[i].iov_len, skip), take = (u32)MIN(iov[i].iov_len - pass, len);

		skip -= pass;
		len -= take;
		if (take)
			out[n++] = (struct iovec){.iov_base = (u8 *)iov[i].iov_base + pass, .iov_len = take};
	}
	return n;
}

/* A buffer of the guest with room for more than a header. */
static bool pop(struct virtio_vsock *vs, struct virtq_chain *chain)
{
	if (virtq_pop(rx_queue(vs), chain) <= 0)
		return false;
	if (chain->in_len > VSOCK_HDR_LEN)
		return true;
	vsock_count(&vs->counters.rx_queue_fails, 1);
	virtq_unpop(rx_queue(vs), chain);
	virtio_broken(&vs->vdev, "a receive buffer of %u bytes has no room for a packet", chain->in_len);
	return false;
}

/* The packet's data is in the chain; the header comes in front. */
static void push(struct virtio_vsock *vs, const struct virtq_chain *chain, const struct virtio_vsock_hdr *hdr)
{
	iov_write(chain->iov + chain->nr_out, chain->nr_in, 0, hdr, VSOCK_HDR_LEN);
	virtq_push(rx_queue(vs), chain, VSOCK_HDR_LEN + hdr->len);
	vsock_count(&vs->counters.rx_packets, 1);
	trace(vs->vdev.dev.vm->trace, vsock_rx, "op=%u host=%u guest=%u len=%u flags=%u fwd=%u", hdr->op, hdr->src_port, hdr->dst_port,
	      hdr->len, hdr->flags, hdr->fwd_cnt);
}

/* Every packet tells the credit, too. */
static struct virtio_vsock_hdr header(struct vsock_conn *c, u16 op, u32 len)
{
	c->told = c->forwarded;
	c->due &= ~(u32)(BIT(op) | BIT(VIRTIO_VSOCK_OP_CREDIT_UPDATE));
	return (struct virtio_vsock_hdr){
		.src_cid = VSOCK_HOST_CID,
		.dst_cid = c->vs->cfg->guest_cid,
		.src_port = c->host_port,
		.dst_port = c->guest_port,
		.len = len,
		.type = VIRTIO_VSOCK_TYPE_STREAM,
		.op = op,
		.flags = op == VIRTIO_VSOCK_OP_SHUTDOWN ? c->host_shut : 0,
		.buf_alloc = c->buf_size,
		.fwd_cnt = c->forwarded,
	};
}

/* ---- packets without data ---- */

static enum served give_rst(struct virtio_vsock *vs)
{
	const struct vsock_rst *rst = &vs->rsts[vs->rst_head % VSOCK_MAX_RSTS];
	const struct virtio_vsock_hdr hdr = {
		.src_cid = rst->cid,
		.dst_cid = vs->cfg->guest_cid,
		.src_port = rst->host_port,
		.dst_port = rst->guest_port,
		.type = rst->type,
		.op = VIRTIO_VSOCK_OP_RST,
	};

	if (!pop(vs, &vs->rx_chains[0]))
		return NO_BUFFER;
	push(vs, &vs->rx_chains[0], &hdr);
	vs->rst_head++;
	return SERVED;
}

void vsock_rst(struct virtio_vsock *vs, const struct vsock_rst *rst)
{
	ASSERT(!vsock_rsts_full(vs));
	vs->rsts[vs->rst_tail++ % VSOCK_MAX_RSTS] = *rst;
}

static enum served give_control(struct vsock_conn *c, u16 op)
{
	struct virtio_vsock *vs = c->vs;
	struct virtio_vsock_hdr hdr;

	if (!pop(vs, &vs->rx_chains[0]))
		return NO_BUFFER;
	hdr = header(c, op, 0);
	push(vs, &vs->rx_chains[0], &hdr);
	return SERVED;
}

/* ---- data ---- */

/* Pops buffers until they hold `goal` bytes, and puts at most `limit` bytes of them into rx_iov. Returns how many, and the bytes. */
static u32 gather(struct virtio_vsock *vs, u32 goal, u32 limit, u32 *room, u32 *nr_iov)
{
	u32 nr = 0;

	*room = *nr_iov = 0;
	while (nr < VSOCK_RX_CHAINS && *room < MIN(goal, limit) && *nr_iov + VIRTQ_MAX_SIZE <= VSOCK_RX_IOVS) {
		struct virtq_chain *c = &vs->rx_chains[nr];

		if (!pop(vs, c))
			break;
		vs->rx_room[nr] = MIN(c->in_len - VSOCK_HDR_LEN, limit - *room);
		*nr_iov += vsock_iov_part(c->iov + c->nr_out, c->nr_in, VSOCK_HDR_LEN, vs->rx_room[nr], vs->rx_iov + *nr_iov);
		*room += vs->rx_room[nr++];
	}
	return nr;
}

/* Of nr buffers with room bytes the first n bytes are filled. */
static void hand_over(struct vsock_conn *c, u32 nr, u32 n)
{
	struct virtio_vsock *vs = c->vs;
	u32 used = 0;

	c->sent += n;
	vsock_count(&vs->counters.rx_bytes, n);
	for (; n; used++) {
		u32 len = MIN(n, vs->rx_room[used]);
		struct virtio_vsock_hdr hdr = header(c, VIRTIO_VSOCK_OP_RW, len);

		push(vs, &vs->rx_chains[used], &hdr);
		n -= len;
	}
	while (nr > used)
		virtq_unpop(rx_queue(vs), &vs->rx_chains[--nr]);
}

/* The socket's end, or its failure. */
static void read_ended(struct vsock_conn *c, int error)
{
	c->readable = error == EINTR;
	if (error == EAGAIN || error == EINTR)
		return;
	if (error) {
		vsock_count(&c->vs->counters.read_fails, 1);
		vsock_conn_kill(c);
		return;
	}
	vsock_conn_host_shut(c, VIRTIO_VSOCK_SHUTDOWN_SEND);
}

static enum served give_data(struct vsock_conn *c)
{
	struct virtio_vsock *vs = c->vs;
	struct msghdr msg = {.msg_iov = vs->rx_iov};
	u32 room, nr_iov, limit = MIN(vsock_peer_credit(c), VSOCK_MAX_PACKET);
	u32 nr = gather(vs, MAX(c->rx_goal, RX_GOAL_MIN), limit, &room, &nr_iov);
	ssize_t n;
	int error;

	if (!nr)
		return NO_BUFFER;
	msg.msg_iovlen = nr_iov;
	n = recvmsg(c->watch.fd, &msg, MSG_DONTWAIT);
	error = n < 0 ? errno : 0;
	hand_over(c, nr, (u32)MAX(n, 0));
	if (n <= 0) {
		read_ended(c, error);
		return SERVED;
	}
	/* Less than there was room for: the socket is empty, unless its end is there or the read stopped at a descriptor that somebody
	 * passed, which is thrown away. */
	if ((u32)n < room && !c->ending && !(msg.msg_flags & MSG_CTRUNC))
		c->readable = false;
	c->rx_goal = (u32)MIN(2 * (u32)n, VSOCK_MAX_PACKET);
	return SERVED;
}

/* ---- turns ---- */

static enum served serve_established(struct vsock_conn *c)
{
	static const u16 first[] = {VIRTIO_VSOCK_OP_RESPONSE, VIRTIO_VSOCK_OP_SHUTDOWN};

	for (u32 i = 0; i < ARRAY_SIZE(first); i++) {
		if (c->due & BIT(first[i]))
			return give_control(c, first[i]);
	}
	if (c->readable && !(c->host_shut & VIRTIO_VSOCK_SHUTDOWN_SEND) && !(c->guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV)) {
		if (vsock_peer_credit(c))
			return give_data(c);
		if (!c->asked) {
			c->asked = true;
			return give_control(c, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
		}
	}
	if (c->due & BIT(VIRTIO_VSOCK_OP_CREDIT_UPDATE))
		return give_control(c, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	return NOTHING_DUE;
}

static enum served serve(struct vsock_conn *c)
{
	enum served served;

	switch (c->state) {
	case VSOCK_DEAD:
		served = give_control(c, VIRTIO_VSOCK_OP_RST);
		if (served == SERVED)
			vsock_conn_free(c);
		return served;
	case VSOCK_REQUESTED: /* one that the guest takes before it hears of a reset would end with the others */
		return !c->vs->lost && c->due & BIT(VIRTIO_VSOCK_OP_REQUEST) ? give_control(c, VIRTIO_VSOCK_OP_REQUEST) : NOTHING_DUE;
	case VSOCK_ESTABLISHED:
		return serve_established(c);
	case VSOCK_LINE:
	case VSOCK_ORPHAN:
		break;
	}
	return NOTHING_DUE;
}

/* The first of the queue has its turn; it joins the end, unless nothing is due (then it is back when something is). */
static enum served serve_first(struct virtio_vsock *vs)
{
	struct vsock_conn *c = TAILQ_FIRST(&vs->ready);
	enum served served;

	TAILQ_REMOVE(&vs->ready, c, ready);
	TAILQ_INSERT_TAIL(&vs->ready, c, ready);
	served = serve(c);
	if (served == NO_BUFFER) {
		TAILQ_REMOVE(&vs->ready, c, ready);
		TAILQ_INSERT_HEAD(&vs->ready, c, ready);
	} else if (served == NOTHING_DUE) {
		c->in_ready = false;
		TAILQ_REMOVE(&vs->ready, c, ready);
	}
	return served;
}

void vsock_rx(struct virtio_vsock *vs)
{
	enum served served = SERVED;
	bool was_full = vsock_rsts_full(vs);
	u32 turns;

	if (!vs->vdev.live || vs->paused)
		return;
	for (turns = 0; turns < RX_TURNS && served != NO_BUFFER; turns++) {
		if (vs->rst_head != vs->rst_tail)
			served = give_rst(vs);
		else if (!TAILQ_EMPTY(&vs->ready))
			served = serve_first(vs);
		else
			break;
	}
	virtq_notify(rx_queue(vs));
	/* There is more, or the transmit queue waited for room. */
	if ((turns == RX_TURNS && served != NO_BUFFER) || (was_full && !vsock_rsts_full(vs)))
		virtio_kick_all(&vs->vdev);
}
