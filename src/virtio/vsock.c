/*
 * vsock.c: the virtio socket device (virtio 1.2 §5.10); configuration section "vsock". Stream connections between the guest and programs of
 * the host, which speak Firecracker's protocol on unix sockets (backend/vsock_unix.h).
 * Here are the class and the packets from the guest; see vsock_dev.h for the other parts.
 */
#include "virtio/vsock_dev.h"

#include <errno.h>
#include <stdlib.h>

#include "vmm/config.h"

#define VIRTIO_ID_VSOCK 19
#define TX_BATCH	64u /* packets before the loop turns to other devices */

/* ---- packets from the guest ---- */

/* A packet is where its header's copy says; the data is behind VSOCK_HDR_LEN bytes of the chain. */
struct packet {
	struct virtio_vsock_hdr hdr;
	const struct virtq_chain *chain;
};

static void refuse(struct virtio_vsock *vs, const struct packet *p)
{
	const struct vsock_rst rst = {p->hdr.dst_cid, p->hdr.dst_port, p->hdr.src_port, p->hdr.type};

	if (p->hdr.op != VIRTIO_VSOCK_OP_RST)
		vsock_rst(vs, &rst);
}

/* The guest may send no more than the buffer's rest (§5.10.6.3). */
static void take_data(struct vsock_conn *c, const struct packet *p)
{
	u32 buffered = c->received - c->forwarded;

	if (p->hdr.len > c->buf_size - buffered || c->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND) {
		log_guest(c->vs->vdev.dev.vm->log, &c->vs->vdev.dev.guest_log,
			  "vsock: the guest sends %u bytes with %u buffered, or after it said that it would send no more", p->hdr.len,
			  buffered);
		vsock_conn_kill(c);
		return;
	}
	vsock_count(&c->vs->counters.tx_bytes, p->hdr.len);
	vsock_conn_write(c, p->chain->iov, p->chain->nr_out, VSOCK_HDR_LEN, p->hdr.len);
}

static void packet_established(struct vsock_conn *c, const struct packet *p)
{
	switch (p->hdr.op) {
	case VIRTIO_VSOCK_OP_RW:
		take_data(c, p);
		break;
	case VIRTIO_VSOCK_OP_SHUTDOWN:
		vsock_conn_guest_shut(c, p->hdr.flags);
		break;
	case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
		break;
	case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
		c->due |= BIT(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
		vsock_conn_ready(c);
		break;
	default: /* a request or response for what is connected already */
		vsock_conn_kill(c);
		break;
	}
}

static void packet_of(struct vsock_conn *c, const struct packet *p)
{
	c->peer_alloc = p->hdr.buf_alloc;
	c->peer_fwd = p->hdr.fwd_cnt;
	if (p->hdr.op == VIRTIO_VSOCK_OP_RST) {
		vsock_conn_free(c);
		return;
	}
	if (c->state == VSOCK_DEAD)
		return; /* our RST is under way */
	if (vsock_peer_credit(c)) {
		c->asked = false;
		if (c->readable)
			vsock_conn_ready(c);
	}
	if (c->state == VSOCK_ESTABLISHED)
		packet_established(c, p);
	else if (p->hdr.op == VIRTIO_VSOCK_OP_RESPONSE && !(c->due & BIT(VIRTIO_VSOCK_OP_REQUEST)))
		vsock_conn_accepted(c);
	else
		vsock_conn_kill(c);
}

/* §5.10.6.4: what the driver must not send is dropped, or answered with RST where somebody may wait for an answer. */
static void packet(struct virtio_vsock *vs, const struct packet *p)
{
	const struct virtio_vsock_hdr *h = &p->hdr;
	struct vsock_conn *c;

	trace(vs->vdev.dev.vm->trace, vsock_tx, "op=%u host=%u guest=%u len=%u flags=%u fwd=%u", h->op, h->dst_port, h->src_port, h->len,
	      h->flags, h->fwd_cnt);
	if (h->src_cid != vs->cfg->guest_cid) {
		vsock_count(&vs->counters.tx_queue_fails, 1);
		log_guest(vs->vdev.dev.vm->log, &vs->vdev.dev.guest_log, "vsock: the guest sends as CID %llu, but its own is %llu",
			  (unsigned long long)h->src_cid, (unsigned long long)vs->cfg->guest_cid);
		return;
	}
	if (h->dst_cid != VSOCK_HOST_CID || h->type != VIRTIO_VSOCK_TYPE_STREAM) {
		refuse(vs, p); /* there is nobody but the host, and it speaks streams */
		return;
	}
	c = vsock_conn_find(vs, h->dst_port, h->src_port);
	if (!c && h->op == VIRTIO_VSOCK_OP_REQUEST) {
		c = vsock_conn_open(vs, h->dst_port, h->src_port);
		if (c) {
			c->peer_alloc = h->buf_alloc;
			c->peer_fwd = h->fwd_cnt;
			return;
		}
	}
	if (c)
		packet_of(c, p);
	else
		refuse(vs, p);
}

/* The data that the header tells of must be there; else nobody knows where the stream goes on. */
static void chain_out_packet(struct virtio_vsock *vs, const struct virtq_chain *chain)
{
	struct packet p = {.chain = chain};

	if (iov_read(chain->iov, chain->nr_out, 0, &p.hdr, VSOCK_HDR_LEN) < VSOCK_HDR_LEN) {
		vsock_count(&vs->counters.tx_queue_fails, 1);
		log_guest(vs->vdev.dev.vm->log, &vs->vdev.dev.guest_log, "vsock: the guest sends a packet of %u bytes, less than a header",
			  chain->out_len);
		return;
	}
	vsock_count(&vs->counters.tx_packets, 1);
	if (p.hdr.op == VIRTIO_VSOCK_OP_RW && (p.hdr.len > chain->out_len - VSOCK_HDR_LEN || p.hdr.len > VSOCK_MAX_PACKET)) {
		vsock_count(&vs->counters.tx_queue_fails, 1);
		log_guest(vs->vdev.dev.vm->log, &vs->vdev.dev.guest_log, "vsock: the guest sends %u bytes in a packet of %u", p.hdr.len,
			  chain->out_len);
		p.hdr.op = VIRTIO_VSOCK_OP_INVALID; /* ends its connection */
	}
	packet(vs, &p);
}

/* A packet is answered with one RST at most. Without room for that the queue waits until the driver gives receive buffers (§5.10.6.1.2),
 * and vsock_rx kicks. It also waits for a guest that is to hear of a reset: what it connects before would end with the rest. */
static void tx(struct virtio_vsock *vs)
{
	struct virtq *q = &vs->vdev.queues[VSOCK_TXQ];
	u32 batch;

	if (vs->lost)
		return;
	for (batch = 0; batch < TX_BATCH && !vsock_rsts_full(vs) && virtq_pop(q, &vs->tx_chain) > 0; batch++) {
		chain_out_packet(vs, &vs->tx_chain);
		virtq_push(q, &vs->tx_chain, 0);
	}
	virtq_notify(q);
	if (batch == TX_BATCH)
		virtio_kick_all(&vs->vdev);
}

static void vsock_kick(struct virtio_dev *vdev, u16 index)
{
	struct virtio_vsock *vs = to_vsock(vdev);

	if (vs->paused)
		return;
	if (index == VSOCK_TXQ) {
		vsock_count(&vs->counters.tx_kicks, 1);
		tx(vs);
	}
	if (index == VSOCK_RXQ)
		vsock_count(&vs->counters.rx_kicks, 1);
	if (index == VSOCK_EVENTQ)
		vsock_events(vs);
	vsock_rx(vs);
}

/* ---- life cycle ---- */

static int vsock_activate(struct virtio_dev *vdev)
{
	(void)vdev;
	return 0;
}

static void end_reset(struct loop_work *w)
{
	struct virtio_vsock *vs = container_of(w, struct virtio_vsock, reset_work);

	device_lock(&vs->vdev.dev);
	vsock_lost_done(vs); /* the new driver has no connections */
	vsock_conns_reset(vs);
	virtio_reset_done(&vs->vdev);
	device_unlock(&vs->vdev.dev);
}

/* Descriptors are the loop's business. */
static bool vsock_reset(struct virtio_dev *vdev)
{
	struct virtio_vsock *vs = to_vsock(vdev);

	loop_post(&vdev->dev.vm->loop, &vs->reset_work);
	return false;
}

static void vsock_config_read(struct virtio_dev *vdev, u32 off, void *data, u32 len)
{
	const struct virtio_vsock_config space = {.guest_cid = to_vsock(vdev)->cfg->guest_cid};

	__builtin_memcpy(data, (const u8 *)&space + off, len);
}

static const struct virtio_ops vsock_ops = {
	.activate = vsock_activate,
	.queue_kick = vsock_kick,
	.reset = vsock_reset,
	.config_read = vsock_config_read,
};

static void vsock_destroy(struct device *dev)
{
	struct virtio_vsock *vs = to_vsock(to_virtio(dev));

	loop_work_cancel(&dev->vm->loop, &vs->reset_work);
	vsock_conns_fini(vs);
	virtio_fini(&vs->vdev);
	device_fini(dev);
	free(vs);
}

static int vsock_create(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct device **out,
			struct err *e)
{
	struct virtio_vsock *vs = xzalloc(sizeof(*vs));
	int rc;

	vs->cfg = cfg;
	device_init(&vs->vdev.dev, vm, cls, "vsock", slot);
	vs->reset_work.run = end_reset;
	vs->vdev.ops = &vsock_ops;
	vs->vdev.type = VIRTIO_ID_VSOCK;
	vs->vdev.config_len = sizeof(struct virtio_vsock_config);
	rc = vsock_conns_init(vs, e);
	if (rc == 0)
		rc = virtio_init(&vs->vdev, VSOCK_QUEUES, e);
	if (rc < 0) {
		vsock_destroy(&vs->vdev.dev);
		return rc;
	}
	*out = &vs->vdev.dev;
	return 0;
}

static int vsock_probe(const void *cfg, struct err *e)
{
	struct vsock_listener l;
	int rc = vsock_unix_listen(&l, ((const struct vsock_cfg *)cfg)->uds_path, e);

	vsock_unix_unlisten(&l, false);
	return rc;
}

/* No descriptor is ever held over a turn of the loop; a reset that still waits for its turn has it now. */
static void vsock_quiesce(struct device *dev)
{
	struct virtio_vsock *vs = to_vsock(to_virtio(dev));

	if (vs->vdev.resetting) {
		loop_work_cancel(&dev->vm->loop, &vs->reset_work);
		end_reset(&vs->reset_work);
	}
	device_lock(dev);
	vsock_conns_pause(vs);
	device_unlock(dev);
}

static void vsock_resume(struct device *dev)
{
	struct virtio_vsock *vs = to_vsock(to_virtio(dev));

	device_lock(dev);
	vsock_conns_resume(vs);
	vsock_lost_resume(vs);
	device_unlock(dev);
	virtio_resume(&vs->vdev);
}

/* The socket; connections end with the move. */
static int vsock_pass(struct device *dev, struct passed *out, struct err *e)
{
	struct virtio_vsock *vs = to_vsock(to_virtio(dev));
	auto_free char *name = vsock_passed_name(vs);
	int ret = passed_add(out, name, vs->listener.fd, 0, e);

	vs->listener.passed = ret == 0;
	return ret;
}

/* ---- class ---- */

static const struct cfg_field vsock_fields[] = {
	{.key = "guest_cid",
	 .type = CFG_INT,
	 .offset = offsetof(struct vsock_cfg, guest_cid),
	 .required = true,
	 .min = 3,
	 .max = UINT32_MAX,
	 .help = "CID of the guest"},
	{.key = "uds_path",
	 .type = CFG_STR,
	 .offset = offsetof(struct vsock_cfg, uds_path),
	 .required = true,
	 .min = 1,
	 .max = VSOCK_UNIX_PATH_MAX,
	 .help = "socket for programs of the host, which husk makes; for port P of the host, PATH_P is theirs"},
	{.key = "vsock_id",
	 .type = CFG_STR,
	 .deprecated = true,
	 .offset = offsetof(struct vsock_cfg, vsock_id),
	 .help = "ignored (deprecated)"},
};

static const struct cfg_table vsock_table = {
	.name = "vsock",
	.help = "a virtio socket device: connections between the guest and unix sockets of the host, see docs/vsock.md",
	.size = sizeof(struct vsock_cfg),
	.fields = vsock_fields,
	.nr_fields = ARRAY_SIZE(vsock_fields),
};

static const struct cfg_alias vsock_aliases[] = {{"cid", "guest_cid", NULL}, {"path", "uds_path", NULL}, {0}};

static const struct cfg_flag vsock_flag = {
	.name = "vsock",
	.positional = "uds_path",
	.aliases = vsock_aliases,
	.usage = "PATH,cid=N",
	.help = "add a virtio socket device",
};

#define COUNTER(name, field) \
	{ \
		name, offsetof(struct virtio_vsock, counters.field) \
	}
static const struct counter_desc vsock_counters[] = {
	COUNTER("activate_fails", none),
	COUNTER("cfg_fails", none),
	COUNTER("rx_queue_event_fails", rx_queue_fails),
	COUNTER("tx_queue_event_fails", tx_queue_fails),
	COUNTER("ev_queue_event_fails", none),
	COUNTER("muxer_event_fails", accept_fails),
	COUNTER("conn_event_fails", conn_fails),
	COUNTER("rx_queue_event_count", rx_kicks),
	COUNTER("tx_queue_event_count", tx_kicks),
	COUNTER("rx_bytes_count", rx_bytes),
	COUNTER("tx_bytes_count", tx_bytes),
	COUNTER("rx_packets_count", rx_packets),
	COUNTER("tx_packets_count", tx_packets),
	COUNTER("conns_added", added),
	COUNTER("conns_killed", killed),
	COUNTER("conns_removed", removed),
	COUNTER("killq_resync", none),
	COUNTER("tx_flush_fails", flush_fails),
	COUNTER("tx_write_fails", write_fails),
	COUNTER("rx_read_fails", read_fails),
	{NULL, 0},
};

static const char *const vsock_syscalls[] = {
	"accept4", "connect", "newfstatat", "recvfrom", "recvmsg", "sendmsg", "sendto", "shutdown", "socket", "unlink", NULL,
};

const struct device_class virtio_vsock_class = {
	.name = "virtio-vsock",
	.section = "vsock",
	.config = &vsock_table,
	.flag = &vsock_flag,
	.probe = vsock_probe,
	.syscalls = vsock_syscalls,
	.mmio_slot = true,
	.metrics_group = "vsock",
	.counters = vsock_counters,
	.acpi_hid = "LNRO0005",
	.create = vsock_create,
	.destroy = vsock_destroy,
	.quiesce = vsock_quiesce,
	.resume = vsock_resume,
	.pass = vsock_pass,
	.states = vsock_states,
};
