/* net_state.c: network device, saved state and the announcement after a restore; see net_dev.h. */
#include <arpa/inet.h>
#include <errno.h>
#include <net/ethernet.h>
#include <string.h>

#include "virtio/net_dev.h"
#include "vmm/clock.h"

#define STATUS_BITS (VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE)

static const struct state_field fields[] = {
	STATE_BUF(struct net_state, mac, 1),
	STATE_BUF(struct net_state, given_mac, 2),
	STATE_NUM(struct net_state, status, 3, .max = STATUS_BITS),
	STATE_NUM(struct net_state, pairs, 4, .max = NET_MAX_PAIRS),
	STATE_NUM(struct net_state, mtu, 5),
	STATE_NUM(struct net_state, guest_offloads, 6, .hex = true),
	STATE_END,
};

static const struct state_table net_state_table = {
	.name = "net",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct net_state),
	.fields = fields,
};

/* Frames are in the queues or in the backend: what was taken out of the first is put back by quiesce, and the host keeps the others. */
static int net_save(struct device *dev, void *data, struct err *e)
{
	struct virtio_net *n = to_net(to_virtio(dev));

	(void)e;
	device_lock(dev);
	*(struct net_state *)data = n->state;
	device_unlock(dev);
	return 0;
}

static int net_check(struct device *dev, const void *data, struct err *e)
{
	const struct virtio_net *n = to_net(to_virtio(dev));
	const struct net_state *s = data;
	const u8 *now = n->state.given_mac, *then = s->given_mac;

	if (n->cfg->guest_mac && memcmp(now, then, sizeof(s->given_mac)) != 0)
		return err_set(
			e, -EINVAL,
			"guest_mac is %02x:%02x:%02x:%02x:%02x:%02x, in the snapshot %02x:%02x:%02x:%02x:%02x:%02x: the guest knows only "
			"that one",
			now[0], now[1], now[2], now[3], now[4], now[5], then[0], then[1], then[2], then[3], then[4], then[5]);
	if (s->mtu != n->state.mtu)
		return err_set(e, -EINVAL, "mtu is %u, in the snapshot %u", n->state.mtu, s->mtu);
	if (!s->pairs || s->pairs > n->backend->nr_fds)
		return err_set(e, -EINVAL, "the guest uses %u pairs of queues; there are %u", s->pairs, n->backend->nr_fds);
	if (s->guest_offloads & ~(n->vdev.features & NET_GUEST_OFFLOADS))
		return err_set(e, -EINVAL, "the guest takes offloads %#llx; %s has %#llx", (unsigned long long)s->guest_offloads,
			       n->backend->name, (unsigned long long)(n->vdev.features & NET_GUEST_OFFLOADS));
	return 0;
}

/* The link is what the backend says here and now; a driver that has heard otherwise is told by net_announce. */
static void net_load(struct device *dev, const void *data)
{
	struct virtio_net *n = to_net(to_virtio(dev));
	const struct net_state *s = data;

	device_lock(dev);
	n->state = *s;
	if (!virtio_has(&n->vdev, VIRTIO_NET_F_MQ))
		n->state.pairs = 1;
	if (n->vdev.live) {
		if (n->backend->ops->pairs && n->backend->ops->pairs(n->backend, n->state.pairs) < 0)
			n->state.pairs = 1;
		if (!net_set_offloads(n, s->guest_offloads & n->vdev.driver_features))
			log_warn(dev->vm->log, "network interface \"%s\": %s refuses the offloads", dev->id, n->backend->name);
	}
	device_unlock(dev);
}

const struct device_state net_device_state = {
	.table = &net_state_table,
	.save = net_save,
	.check = net_check,
	.load = net_load,
};

/* ---- another husk on this host ---- */

/* By its name on the host: a VM that is to have another interface there opens that one. */
static char *passed_name(const struct virtio_net *n, u32 pair)
{
	return xasprintf("net %s %u", n->cfg->host_dev_name, pair);
}

int net_pass(struct device *dev, struct passed *out, struct err *e)
{
	struct virtio_net *n = to_net(to_virtio(dev));
	int ret = 0;

	if (n->cfg->passt_socket)
		return err_set(e, -EOPNOTSUPP,
			       "network interface \"%s\": a connection to passt cannot be handed over; use mode precopy, to a husk with a "
			       "passt of its own",
			       dev->id);
	for (u32 i = 0; ret == 0 && i < n->backend->nr_fds; i++) {
		auto_free char *name = passed_name(n, i);

		ret = passed_add(out, name, n->backend->fds[i], n->backend->features, e);
	}
	return ret;
}

int net_inherit(struct virtio_net *n, struct err *e)
{
	struct vm *vm = n->vdev.dev.vm;
	int fds[NET_MAX_PAIRS];
	u64 features = 0;
	u32 nr = 0;

	for (; !n->cfg->passt_socket && nr < NET_MAX_PAIRS; nr++) {
		auto_free char *name = passed_name(n, nr);

		fds[nr] = vm_inherit(vm, name, &features);
		if (fds[nr] < 0)
			break;
	}
	return nr ? net_tap_adopt(&n->backend, n->cfg->host_dev_name, (u32)n->cfg->queue_pairs, fds, nr, features, e) : 0;
}

/* ---- announcement ---- */

/* When husk sends its own, after the resume; the first may get lost while the host's link comes up. */
static const u32 rounds_ms[] = {0, 50, 200, 450, 800};

struct rarp { /* RFC 903 on Ethernet */
	struct virtio_net_hdr_v1 hdr;
	struct ether_header eth;
	u16 hardware, protocol;
	u8 hardware_len, protocol_len;
	u16 op;
	u8 sender[6], sender_ip[4], target[6], target_ip[4];
	u8 padding[18]; /* to the shortest frame */
};
_Static_assert(sizeof(struct rarp) == sizeof(struct virtio_net_hdr_v1) + 60, "the shortest Ethernet frame, without its check sum");

/* "Which address have I?", to all: switches learn where the guest is, hosts do not care. */
static void send_rarp(struct virtio_net *n)
{
	struct rarp r = {
		.eth.ether_type = htons(ETHERTYPE_REVARP),
		.hardware = htons(1),
		.protocol = htons(ETHERTYPE_IP),
		.hardware_len = 6,
		.protocol_len = 4,
		.op = htons(3),
	};
	struct iovec iov = {&r, sizeof(r)};

	memset(r.eth.ether_dhost, 0xff, sizeof(r.eth.ether_dhost));
	memcpy(r.eth.ether_shost, n->state.mac, sizeof(n->state.mac));
	memcpy(r.sender, n->state.mac, sizeof(n->state.mac));
	memcpy(r.target, n->state.mac, sizeof(n->state.mac));
	n->backend->ops->send(n->backend, 0, &iov, 1, sizeof(r)); /* a lost one is not the last */
	net_io_watch(n);
}

static void announce_round(struct virtio_net *n)
{
	u32 gap;

	send_rarp(n);
	if (++n->announced == ARRAY_SIZE(rounds_ms))
		return;
	gap = rounds_ms[n->announced] - rounds_ms[n->announced - 1];
	loop_timer_arm(&n->vdev.dev.vm->loop, &n->announce, clock_host_ns() + gap * NSEC_PER_MSEC);
}

static void announce_expired(struct loop_timer *t)
{
	struct virtio_net *n = container_of(t, struct virtio_net, announce);

	device_lock(&n->vdev.dev);
	if (n->vdev.live && !n->gone)
		announce_round(n);
	device_unlock(&n->vdev.dev);
}

void net_announce_stop(struct virtio_net *n)
{
	loop_timer_cancel(&n->vdev.dev.vm->loop, &n->announce);
}

void net_announce(struct virtio_net *n)
{
	u16 was = n->state.status, link = n->gone ? 0 : VIRTIO_NET_S_LINK_UP;

	n->state.status = (u16)((was & VIRTIO_NET_S_ANNOUNCE) | link);
	if (!n->vdev.live)
		return;
	if (link && virtio_has(&n->vdev, VIRTIO_NET_F_GUEST_ANNOUNCE)) {
		n->state.status |= VIRTIO_NET_S_ANNOUNCE; /* virtio 1.2 §5.1.6.5.4: until the driver acknowledges */
	} else if (link) {
		n->announced = 0;
		n->announce.expired = announce_expired;
		announce_round(n);
	}
	if (n->state.status != was || n->state.status & VIRTIO_NET_S_ANNOUNCE)
		virtio_config_changed(&n->vdev);
}
