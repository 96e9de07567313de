/*
 * net.c: the virtio network device (virtio 1.2 §5.1) on a tap interface or passt; configuration section "network-interfaces".
 * Here are the class, the features, the configuration space and the control queue; net_io.c moves the frames.
 */
#include <ctype.h>
#include <errno.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>

#include "virtio/backend/net_mmds.h"
#include "virtio/net_dev.h"
#include "vmm/config.h"

#define VIRTIO_ID_NET  1
#define NET_CONFIG_LEN ((u32)offsetof(struct virtio_net_config, speed))
#define CTRL_BATCH     16u

/* ---- control queue (virtio 1.2 §5.1.6.5) ---- */

/* A command: its head, and where the rest can be read. Each byte is read once. */
struct net_ctrl {
	struct virtio_net_ctrl_hdr hdr;
	const struct virtq_chain *chain;
	u32 len; /* of the data behind the head */
};

static bool ctrl_data(const struct net_ctrl *c, u32 at, void *dst, u32 len)
{
	if (at > c->len || len > c->len - at)
		return false;
	return iov_read(c->chain->iov, c->chain->nr_out, (u32)sizeof(c->hdr) + at, dst, len) == len;
}

/* Two tables, unicast and multicast: a count and as many addresses. husk filters nothing, so they are only checked. */
static bool ctrl_mac_tables(const struct net_ctrl *c)
{
	u32 at = 0, entries;

	for (int i = 0; i < 2; i++) {
		if (!ctrl_data(c, at, &entries, sizeof(entries)))
			return false;
		at += (u32)sizeof(entries);
		if (entries > (c->len - at) / 6)
			return false;
		at += entries * 6;
	}
	return at == c->len;
}

static bool ctrl_mac(struct virtio_net *n, const struct net_ctrl *c)
{
	switch (c->hdr.cmd) {
	case VIRTIO_NET_CTRL_MAC_TABLE_SET:
		return ctrl_mac_tables(c);
	case VIRTIO_NET_CTRL_MAC_ADDR_SET:
		if (c->len != sizeof(n->state.mac) || !ctrl_data(c, 0, n->state.mac, sizeof(n->state.mac)))
			return false;
		counter_add(&n->counters.mac_updates, 1);
		return true;
	default:
		return false;
	}
}

static bool ctrl_pairs(struct virtio_net *n, const struct net_ctrl *c)
{
	u16 pairs;

	if (c->hdr.cmd != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET || !virtio_has(&n->vdev, VIRTIO_NET_F_MQ))
		return false;
	if (c->len != sizeof(pairs) || !ctrl_data(c, 0, &pairs, sizeof(pairs)) || !pairs || pairs > n->backend->nr_fds)
		return false;
	if (n->backend->ops->pairs && n->backend->ops->pairs(n->backend, pairs) < 0)
		return false;
	n->state.pairs = pairs;
	net_io_watch(n);
	virtio_kick_all(&n->vdev);
	return true;
}

bool net_set_offloads(struct virtio_net *n, u64 wanted)
{
	if (n->backend->ops->offloads && n->backend->ops->offloads(n->backend, wanted) < 0)
		return false;
	n->state.guest_offloads = wanted;
	return true;
}

static bool ctrl_offloads(struct virtio_net *n, const struct net_ctrl *c)
{
	u64 wanted;

	if (c->hdr.cmd != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET || !virtio_has(&n->vdev, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS))
		return false;
	if (c->len != sizeof(wanted) || !ctrl_data(c, 0, &wanted, sizeof(wanted)) ||
	    wanted & ~(n->vdev.driver_features & NET_GUEST_OFFLOADS))
		return false;
	return net_set_offloads(n, wanted);
}

/* Promiscuous and the like: the guest gets all frames anyway. */
static bool ctrl_rx_mode(const struct net_ctrl *c)
{
	u8 on;

	return c->hdr.cmd <= VIRTIO_NET_CTRL_RX_ALLMULTI && c->len == sizeof(on) && ctrl_data(c, 0, &on, sizeof(on));
}

static bool ctrl_command(struct virtio_net *n, const struct net_ctrl *c)
{
	switch (c->hdr.class) {
	case VIRTIO_NET_CTRL_RX:
		return ctrl_rx_mode(c);
	case VIRTIO_NET_CTRL_MAC:
		return ctrl_mac(n, c);
	case VIRTIO_NET_CTRL_MQ:
		return ctrl_pairs(n, c);
	case VIRTIO_NET_CTRL_GUEST_OFFLOADS:
		return ctrl_offloads(n, c);
	case VIRTIO_NET_CTRL_ANNOUNCE:
		n->state.status &= (u16)~VIRTIO_NET_S_ANNOUNCE;
		return c->hdr.cmd == VIRTIO_NET_CTRL_ANNOUNCE_ACK;
	default:
		return false;
	}
}

static bool ctrl_one(struct virtio_net *n, struct virtq *q)
{
	struct virtq_chain chain;
	struct net_ctrl c = {.chain = &chain};
	u8 ack;

	if (virtq_pop(q, &chain) <= 0)
		return false;
	if (chain.out_len < sizeof(c.hdr) || chain.in_len < sizeof(ack)) {
		virtio_broken(&n->vdev, "control command with %u readable and %u writable bytes", chain.out_len, chain.in_len);
		virtq_push(q, &chain, 0);
		return false;
	}
	iov_read(chain_out(&chain), chain.nr_out, 0, &c.hdr, sizeof(c.hdr));
	c.len = chain.out_len - (u32)sizeof(c.hdr);
	ack = ctrl_command(n, &c) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
	trace(n->vdev.dev.vm->trace, net_ctrl, "dev=%s class=%u cmd=%u len=%u ack=%u", n->vdev.dev.id, c.hdr.class, c.hdr.cmd, c.len, ack);
	iov_write(chain_in(&chain), chain.nr_in, 0, &ack, sizeof(ack));
	virtq_push(q, &chain, sizeof(ack));
	return true;
}

static void ctrl_kick(struct virtio_net *n, struct virtq *q)
{
	u32 budget = CTRL_BATCH;

	while (budget && ctrl_one(n, q))
		budget--;
	virtq_notify(q);
	if (!budget)
		virtio_kick_all(&n->vdev);
}

/* ---- virtio ops ---- */

/* virtio 1.2 §5.1.2: behind all pairs when the driver knows of them, else behind the first. */
static u16 ctrl_index(const struct virtio_net *n)
{
	return virtio_has(&n->vdev, VIRTIO_NET_F_MQ) ? (u16)(n->vdev.nr_queues - 1) : 2;
}

static void net_kick(struct virtio_dev *vdev, u16 q)
{
	struct virtio_net *n = to_net(vdev);

	if (n->paused)
		return;
	if (q == ctrl_index(n) && virtio_has(vdev, VIRTIO_NET_F_CTRL_VQ))
		ctrl_kick(n, &vdev->queues[q]);
	else if (q / 2 >= n->backend->nr_fds)
		return;
	else if (q % 2) {
		counter_add(&n->counters.tx_kicks, 1);
		net_tx(&n->pairs[q / 2]);
	} else {
		counter_add(&n->counters.rx_kicks, 1);
		net_rx(&n->pairs[q / 2]);
	}
}

/* The kicks that follow start the traffic. */
static int net_activate(struct virtio_dev *vdev)
{
	struct virtio_net *n = to_net(vdev);

	if (!net_set_offloads(n, vdev->driver_features & NET_GUEST_OFFLOADS) && !n->gone)
		log_warn(vdev->dev.vm->log, "network interface \"%s\": %s refuses the offloads", vdev->dev.id, n->backend->name);
	return 0;
}

static bool net_reset(struct virtio_dev *vdev)
{
	struct virtio_net *n = to_net(vdev);

	net_io_release(n);
	n->state.status &= (u16)~VIRTIO_NET_S_ANNOUNCE;
	n->state.pairs = 1;
	if (n->backend->ops->pairs)
		n->backend->ops->pairs(n->backend, 1); /* fails only when the link is gone */
	return true;
}

static void net_config_read(struct virtio_dev *vdev, u32 off, void *data, u32 len)
{
	const struct virtio_net *n = to_net(vdev);
	struct virtio_net_config space = {
		.status = n->state.status,
		.max_virtqueue_pairs = (u16)n->backend->nr_fds,
		.mtu = n->state.mtu,
	};

	memcpy(space.mac, n->state.mac, sizeof(space.mac));
	memcpy(data, (const u8 *)&space + off, len);
}

static const struct virtio_ops net_ops = {
	.activate = net_activate,
	.queue_kick = net_kick,
	.reset = net_reset,
	.config_read = net_config_read,
};

/* ---- class ---- */

static u64 offered_features(const struct virtio_net *n)
{
	u64 f = n->backend->features | BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(VIRTIO_NET_F_STATUS) |
		BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_CTRL_RX) | BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) | BIT(VIRTIO_NET_F_GUEST_ANNOUNCE);

	if (n->cfg->mtu)
		f |= BIT(VIRTIO_NET_F_MTU);
	if (n->backend->nr_fds > 1)
		f |= BIT(VIRTIO_NET_F_MQ);
	return f;
}

static bool parse_mac(const char *s, u8 mac[6])
{
	for (u32 i = 0; i < 6; i++, s += 3) {
		if (!isxdigit((unsigned char)s[0]) || !isxdigit((unsigned char)s[1]) || s[2] != (i < 5 ? ':' : '\0'))
			return false;
		mac[i] = (u8)strtoul(s, NULL, 16);
	}
	return true;
}

/* Random and locally administered when the user gave none. Nothing that this process knows tells it from the VMs beside it, so no hash of
 * names would be unique on a bridge. */
static int choose_mac(struct virtio_net *n, struct err *e)
{
	u8 *mac = n->state.mac;

	if (n->cfg->guest_mac) {
		parse_mac(n->cfg->guest_mac, mac);
		return 0;
	}
	if (getrandom(mac, 6, 0) != 6)
		return err_errno(e, "no random numbers for a MAC address");
	mac[0] = (u8)((mac[0] & ~1u) | 2u);
	return 0;
}

static int open_backend(struct virtio_net *n, struct err *e)
{
	const struct net_cfg *cfg = n->cfg;
	int rc = net_inherit(n, e);

	if (rc == 0 && cfg->passt_socket)
		rc = net_stream_open(&n->backend, cfg->passt_socket, e);
	else if (rc == 0 && !n->backend)
		rc = net_tap_open(&n->backend, cfg->host_dev_name, (u32)cfg->queue_pairs, e);
	return rc < 0 ? err_prefix(e, "network interface \"%s\"", cfg->iface_id) : 0;
}

static void mmds_wake(void *device)
{
	struct virtio_net *n = device;

	virtio_kick_all(&n->vdev);
}

/* The metadata service, if it is to be reached here, stands between the device and its backend. */
static void add_mmds(struct virtio_net *n)
{
	struct vm *vm = n->vdev.dev.vm;

	if (config_mmds_on(vm->config, n->cfg->iface_id))
		net_mmds_wrap(&n->backend, &(struct net_mmds_cfg){.address = vm->config->mmds->ipv4_address,
								  .service = &vm->mmds,
								  .loop = &vm->loop,
								  .wake = mmds_wake,
								  .device = n});
}

static void resume_rx(struct ratelimit *r)
{
	virtio_kick_all(&container_of(r, struct virtio_net, rx_limit)->vdev);
}

static void resume_tx(struct ratelimit *r)
{
	virtio_kick_all(&container_of(r, struct virtio_net, tx_limit)->vdev);
}

static void net_destroy(struct device *dev)
{
	struct virtio_net *n = to_net(to_virtio(dev));

	net_announce_stop(n);
	net_io_fini(n);
	ratelimit_fini(&n->rx_limit);
	ratelimit_fini(&n->tx_limit);
	virtio_fini(&n->vdev);
	if (n->backend)
		n->backend->ops->close(n->backend);
	device_fini(dev);
	free(n);
}

static int net_create(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct device **out,
		      struct err *e)
{
	struct virtio_net *n = xzalloc(sizeof(*n));
	int rc;

	n->cfg = cfg;
	device_init(&n->vdev.dev, vm, cls, n->cfg->iface_id, slot);
	ratelimit_init(&n->rx_limit, &vm->loop, n->cfg->rx_rate_limiter, resume_rx);
	ratelimit_init(&n->tx_limit, &vm->loop, n->cfg->tx_rate_limiter, resume_tx);
	rc = choose_mac(n, e);
	if (rc == 0)
		rc = open_backend(n, e);
	if (rc == 0) {
		add_mmds(n);
		net_io_init(n);
		n->state.status = VIRTIO_NET_S_LINK_UP;
		n->state.pairs = 1;
		n->state.mtu = (u16)n->cfg->mtu;
		memcpy(n->state.given_mac, n->state.mac, sizeof(n->state.mac));
		n->vdev.ops = &net_ops;
		n->vdev.type = VIRTIO_ID_NET;
		n->vdev.config_len = NET_CONFIG_LEN;
		n->vdev.features = offered_features(n);
		rc = virtio_init(&n->vdev, (u16)(2 * n->backend->nr_fds + 1), e);
	}
	if (rc < 0) {
		net_destroy(&n->vdev.dev);
		return rc;
	}
	*out = &n->vdev.dev;
	return 0;
}

static void net_quiesce(struct device *dev)
{
	struct virtio_net *n = to_net(to_virtio(dev));

	device_lock(dev);
	n->paused = true;
	net_announce_stop(n);
	net_io_watch(n);
	net_io_release(n);
	device_unlock(dev);
}

static void net_resume(struct device *dev)
{
	struct virtio_net *n = to_net(to_virtio(dev));

	device_lock(dev);
	n->paused = false;
	if (n->vdev.restored)
		net_announce(n);
	device_unlock(dev);
	virtio_resume(&n->vdev);
}

/* What a PATCH can say. */
struct net_patch {
	char *iface_id;
	struct cfg_ratelimit *rx_rate_limiter, *tx_rate_limiter;
};

static int net_update(struct device *dev, const void *patch, struct err *e)
{
	struct virtio_net *n = to_net(to_virtio(dev));
	const struct net_patch *p = patch;

	(void)e;
	device_lock(dev);
	if (p->rx_rate_limiter)
		ratelimit_update(&n->rx_limit, p->rx_rate_limiter);
	if (p->tx_rate_limiter)
		ratelimit_update(&n->tx_limit, p->tx_rate_limiter);
	device_unlock(dev);
	return 0;
}

static bool iface_id_ok(const char *s)
{
	while (isalnum((unsigned char)*s) || *s == '_' || *s == '-')
		s++;
	return *s == '\0';
}

static bool mac_ok(const char *s)
{
	u8 mac[6];

	return parse_mac(s, mac) && !(mac[0] & 1);
}

static int net_check(const void *p, struct err *e)
{
	const struct net_cfg *cfg = p;

	if (!cfg->host_dev_name == !cfg->passt_socket)
		return err_set(e, -EINVAL, "give either host_dev_name (a tap interface) or passt_socket");
	if (cfg->passt_socket && cfg->queue_pairs > 1)
		return err_set(e, -EINVAL, "passt has one queue: queue_pairs above 1 needs a tap interface");
	return 0;
}

#define FIELD(k, t) .key = #k, .type = (t), .offset = offsetof(struct net_cfg, k)
static const struct cfg_field net_fields[] = {
	{FIELD(iface_id, CFG_STR), .required = true, .min = 1, .max = 64, .accept = iface_id_ok,
	 .expected = "1 to 64 letters, digits, \"_\" or \"-\"", .help = "name of the interface"},
	{FIELD(host_dev_name, CFG_STR), .min = 1, .max = 15, .unique = "another interface uses this tap",
	 .help = "tap interface of the host, which exists already"},
	{FIELD(passt_socket, CFG_STR), .min = 1, .max = 107, .extension = true,
	 .help = "socket of a passt process: networking without privileges, instead of host_dev_name"},
	{FIELD(guest_mac, CFG_STR), .accept = mac_ok, .unique = "another interface has this MAC address", .any_case = true,
	 .expected = "6 bytes in hexadecimal, not multicast, like 06:00:ac:10:00:02", .help = "MAC address; random when absent"},
	{FIELD(mtu, CFG_INT), .min = 68, .max = 65535, .help = "MTU that the guest's driver sets; its own default when absent"},
	{FIELD(rx_rate_limiter, CFG_OBJ), .sub = &ratelimit_table, .help = "limits of what the guest receives"},
	{FIELD(tx_rate_limiter, CFG_OBJ), .sub = &ratelimit_table, .help = "limits of what the guest sends"},
	{FIELD(queue_pairs, CFG_INT), .min = 1, .max = NET_MAX_PAIRS, .dflt = "1", .extension = true,
	 .help = "pairs of queues; more than one needs a tap made with multi_queue"},
};

static const struct cfg_table net_table = {
	.name = "network-interface",
	.help = "a virtio network interface on a tap interface or on passt",
	.size = sizeof(struct net_cfg),
	.fields = net_fields,
	.nr_fields = ARRAY_SIZE(net_fields),
};

#define PATCH(k, t) .key = #k, .type = (t), .offset = offsetof(struct net_patch, k)
static const struct cfg_field net_patch_fields[] = {
	{PATCH(iface_id, CFG_STR), .required = true, .min = 1, .max = 64, .help = "name of the interface"},
	{PATCH(rx_rate_limiter, CFG_OBJ), .sub = &ratelimit_table, .help = "new limits of what the guest receives; what is absent stays"},
	{PATCH(tx_rate_limiter, CFG_OBJ), .sub = &ratelimit_table, .help = "new limits of what the guest sends; what is absent stays"},
};

static const struct cfg_table net_patch_table = {
	.name = "partial-network-interface",
	.help = "changes of a network interface while the VM runs",
	.size = sizeof(struct net_patch),
	.fields = net_patch_fields,
	.nr_fields = ARRAY_SIZE(net_patch_fields),
};

static const struct device_op net_device_ops[] = {
	{.path = "", .patch = &net_patch_table, .update = net_update, .help = "Changes the limits of a network interface."},
	{.path = NULL},
};

static const struct cfg_alias net_aliases[] = {
	{"id", "iface_id", NULL},   {"tap", "host_dev_name", NULL},  {"passt", "passt_socket", NULL},
	{"mac", "guest_mac", NULL}, {"queues", "queue_pairs", NULL}, {0},
};

static const struct cfg_flag net_flag = {
	.name = "net",
	.id_key = "iface_id",
	.id_prefix = "net",
	.aliases = net_aliases,
	.usage = "tap=NAME|passt=SOCKET[,mac=MAC][,mtu=N][,queues=N][,id=NAME]",
	.help = "add a network interface",
};

#define COUNTER(name, field) \
	{ \
		name, offsetof(struct virtio_net, counters.field) \
	}
static const struct counter_desc net_counters[] = {
	COUNTER("rx_packets_count", rx_frames),
	COUNTER("rx_bytes_count", rx_bytes),
	COUNTER("rx_fails", rx_drops),
	COUNTER("no_rx_avail_buffer", rx_starved),
	COUNTER("tx_packets_count", tx_frames),
	COUNTER("tx_bytes_count", tx_bytes),
	COUNTER("tx_fails", tx_drops),
	COUNTER("tx_malformed_frames", tx_malformed),
	COUNTER("rx_count", rx_frames),
	COUNTER("tx_count", tx_frames),
	COUNTER("tap_write_fails", tx_drops),
	COUNTER("rx_queue_event_count", rx_kicks),
	COUNTER("tx_queue_event_count", tx_kicks),
	COUNTER("rx_tap_event_count", tap_events),
	COUNTER("mac_address_updates", mac_updates),
	COUNTER("tx_spoofed_mac_count", tx_spoofed),
	COUNTER("tap_write_agg", tap_write),
	{"rx_rate_limiter_throttled", offsetof(struct virtio_net, rx_limit.throttled)},
	{"tx_rate_limiter_throttled", offsetof(struct virtio_net, tx_limit.throttled)},
	{NULL, 0},
};

/* A connection to passt cannot be tried: passt ends with the first one. */
static int net_probe(const void *cfg, struct err *e)
{
	const struct net_cfg *c = cfg;
	struct net_backend *tap;
	int rc;

	if (c->passt_socket)
		return 0;
	rc = net_tap_open(&tap, c->host_dev_name, (u32)c->queue_pairs, e);
	if (rc == 0)
		tap->ops->close(tap);
	return rc;
}

/* A tap; passt's socket; the metadata service's tokens. */
static const char *const net_syscalls[] = {"readv", "writev", "recvfrom", "sendto", "sendmsg", NULL};
static const u32 net_ioctls[] = {TUNSETOFFLOAD, TUNSETQUEUE, 0};

static const struct device_state *const net_states[] = {&virtio_core_state, &net_device_state, NULL};

const struct device_class virtio_net_class = {
	.name = "virtio-net",
	.section = "network-interfaces",
	.list = true,
	.config = &net_table,
	.flag = &net_flag,
	.check = net_check,
	.probe = net_probe,
	.ops = net_device_ops,
	.syscalls = net_syscalls,
	.ioctls = net_ioctls,
	.mmio_slot = true,
	.metrics_group = "net",
	.counters = net_counters,
	.acpi_hid = "LNRO0005",
	.create = net_create,
	.destroy = net_destroy,
	.quiesce = net_quiesce,
	.resume = net_resume,
	.pass = net_pass,
	.states = net_states,
};
