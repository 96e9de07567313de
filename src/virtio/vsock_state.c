/*
 * vsock_state.c: the vsock device's saved state, and what follows a restore.
 *
 * Connections are not saved: the other ends are programs of the host. Listening sockets of the guest live on. A guest that was restored or
 * moved hears of it by an event, and ends its connections (virtio 1.2 §5.10.6.7). It may take its time, and then also ends those that were
 * made meanwhile; so until its driver has given the event's buffer back, new connections wait, in both directions:
 *
 *   load ─> DUE ─ event into a buffer ─> TOLD ─ as many buffers there as before ─> NONE
 *            └───────────── LOST_WAIT_NS after the VM was resumed ────────────────^   the driver does not play along
 */
#include <string.h>

#include "virtio/vsock_dev.h"

#define LOST_WAIT_NS NSEC_PER_SEC /* less than the clients' time-out */

/* ---- after a restore ---- */

void vsock_lost_done(struct virtio_vsock *vs)
{
	struct vsock_conn *c;

	if (!vs->lost)
		return;
	vs->lost = VSOCK_LOST_NONE;
	loop_timer_cancel(&vs->vdev.dev.vm->loop, &vs->lost_timer);
	LIST_FOREACH(c, &vs->conns, all)
	{
		if (c->due)
			vsock_conn_ready(c);
	}
	virtio_kick_all(&vs->vdev);
}

static void lost_timed_out(struct loop_timer *t)
{
	struct virtio_vsock *vs = container_of(t, struct virtio_vsock, lost_timer);

	device_lock(&vs->vdev.dev);
	if (!vs->paused && vs->lost) {
		log_debug(vs->vdev.dev.vm->log, "vsock: the guest's driver does not take the event that its connections are gone");
		vsock_lost_done(vs);
	}
	device_unlock(&vs->vdev.dev);
}

void vsock_lost_resume(struct virtio_vsock *vs)
{
	vs->lost_timer.expired = lost_timed_out;
	if (vs->lost)
		loop_timer_arm(&vs->vdev.dev.vm->loop, &vs->lost_timer, clock_host_ns() + LOST_WAIT_NS);
}

/* Event buffers that the driver has there, in rx_chains: mostly all, and then it has been asked for a kick at the next one. */
static u32 pop_buffers(struct virtio_vsock *vs)
{
	u32 nr = 0;

	while (nr < VSOCK_RX_CHAINS && virtq_pop(&vs->vdev.queues[VSOCK_EVENTQ], &vs->rx_chains[nr]) > 0)
		nr++;
	return nr;
}

static void tell(struct virtio_vsock *vs, struct virtq_chain *chain)
{
	struct virtq *q = &vs->vdev.queues[VSOCK_EVENTQ];
	const struct virtio_vsock_event event = {.id = VIRTIO_VSOCK_EVENT_TRANSPORT_RESET};

	if (chain->in_len < sizeof(event)) {
		virtq_unpop(q, chain);
		virtio_broken(&vs->vdev, "an event buffer of %u bytes", chain->in_len);
		return;
	}
	trace(vs->vdev.dev.vm->trace, vsock_event, "transport reset, buffers=%u", vs->lost_buffers);
	iov_write(chain_in(chain), chain->nr_in, 0, &event, sizeof(event));
	virtq_push(q, chain, sizeof(event));
	virtq_notify(q);
	vs->lost = VSOCK_LOST_TOLD;
}

void vsock_events(struct virtio_vsock *vs)
{
	bool due = vs->lost == VSOCK_LOST_DUE;
	u32 nr;

	if (!vs->lost)
		return;
	nr = pop_buffers(vs);
	for (u32 i = nr; i-- > (due ? 1 : 0);)
		virtq_unpop(&vs->vdev.queues[VSOCK_EVENTQ], &vs->rx_chains[i]);
	if (due && nr) {
		vs->lost_buffers = nr;
		tell(vs, &vs->rx_chains[0]);
	} else if (!due && nr >= vs->lost_buffers) {
		vsock_lost_done(vs);
	}
}

/* ---- saved state ---- */

struct vsock_saved {
	u32 next_port; /* a port of an ended connection is not used again soon: the guest may know it still */
	u32 nr_rsts;
	struct vsock_rst rsts[VSOCK_MAX_RSTS]; /* for a guest that waits for an answer, which no event ends */
};

static const struct state_field rst_fields[] = {
	STATE_NUM(struct vsock_rst, cid, 1),
	STATE_NUM(struct vsock_rst, host_port, 2),
	STATE_NUM(struct vsock_rst, guest_port, 3),
	STATE_NUM(struct vsock_rst, type, 4),
	STATE_END,
};

static const struct state_table rst_table = {
	.name = "vsock_rst", .version = 1, .min_version = 1, .size = sizeof(struct vsock_rst), .fields = rst_fields};

static const struct state_field vsock_fields[] = {
	STATE_NUM(struct vsock_saved, next_port, 1),
	STATE_NUM(struct vsock_saved, nr_rsts, 2, .max = VSOCK_MAX_RSTS),
	STATE_MANY(struct vsock_saved, rsts, 3, &rst_table, STATE_NR(struct vsock_saved, nr_rsts)),
	STATE_END,
};

static const struct state_table vsock_state_table = {
	.name = "vsock", .version = 1, .min_version = 1, .size = sizeof(struct vsock_saved), .fields = vsock_fields};

static void add_rst(struct vsock_saved *s, const struct vsock_rst *rst)
{
	if (s->nr_rsts < VSOCK_MAX_RSTS)
		s->rsts[s->nr_rsts++] = *rst;
}

static int vsock_save(struct device *dev, void *data, struct err *e)
{
	struct virtio_vsock *vs = to_vsock(to_virtio(dev));
	struct vsock_saved *s = data;
	struct vsock_conn *c;

	(void)e;
	device_lock(dev);
	s->next_port = vs->next_port;
	for (u32 i = vs->rst_head; i != vs->rst_tail; i++)
		add_rst(s, &vs->rsts[i % VSOCK_MAX_RSTS]);
	LIST_FOREACH(c, &vs->conns, all)
	{
		const struct vsock_rst rst = {VSOCK_HOST_CID, c->host_port, c->guest_port, VIRTIO_VSOCK_TYPE_STREAM};

		if (c->due & (BIT(VIRTIO_VSOCK_OP_RESPONSE) | BIT(VIRTIO_VSOCK_OP_RST)))
			add_rst(s, &rst);
	}
	device_unlock(dev);
	return 0;
}

/* Any port and any packet is one that there may be. */
static void vsock_load(struct device *dev, const void *data)
{
	struct virtio_vsock *vs = to_vsock(to_virtio(dev));
	const struct vsock_saved *s = data;

	device_lock(dev);
	vs->next_port = s->next_port;
	memcpy(vs->rsts, s->rsts, s->nr_rsts * sizeof(s->rsts[0]));
	vs->rst_head = 0;
	vs->rst_tail = s->nr_rsts;
	vs->lost = vs->vdev.live ? VSOCK_LOST_DUE : VSOCK_LOST_NONE;
	device_unlock(dev);
}

static const struct device_state vsock_device_state = {.table = &vsock_state_table, .save = vsock_save, .load = vsock_load};
const struct device_state *const vsock_states[] = {&virtio_core_state, &vsock_device_state, NULL};
