/* net_mmds.c: frames of the metadata service: Ethernet, ARP (RFC 826), IPv4 (RFC 791), TCP's header; see net_mmds.h. */
#include "virtio/backend/net_mmds.h"

#include <arpa/inet.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/virtq.h"
#include "vmm/clock.h"
#include "vmm/loop.h"

#define ETH_LEN	 14u
#define ARP_LEN	 28u
#define IP_LEN	 20u
#define TCP_LEN	 20u
#define MSS_LEN	 4u				   /* TCP's option */
#define HEAD_LEN (NET_HDR_LEN + ETH_LEN + ARP_LEN) /* enough to tell whose a frame is */

struct arp_packet { /* of Ethernet and IPv4 */
	u16 hardware, protocol;
	u8 hardware_len, protocol_len;
	u16 operation;
	u8 sender_mac[6], sender_ip[4], target_mac[6], target_ip[4];
};
_Static_assert(sizeof(struct arp_packet) == ARP_LEN, "RFC 826");

struct net_mmds {
	struct net_backend b; /* first */
	struct net_mmds_cfg cfg;
	struct net_backend *inner; /* owned */
	u8 ip[4];
	struct mmds_tcp tcp;
	bool arp_due;
	struct arp_packet arp; /* the last request */
	struct loop_timer timer;
	bool expired;
	u8 *frame; /* owned, NET_FRAME_MAX bytes; of the guest, or to it */
};

static struct net_mmds *to_mmds(struct net_backend *b)
{
	return container_of(b, struct net_mmds, b);
}

static void count(struct net_mmds *m, size_t counter, u64 n)
{
	struct mmds_service *service = *m->cfg.service;

	if (service)
		mmds_count((u64 *)(void *)((u8 *)&service->counters + counter), n);
}
#define COUNT(m, field, n) count((m), offsetof(struct mmds_counters, field), (n))

static u16 ld_be16(const void *p)
{
	return ntohs(ld_le16(p));
}

static u32 ld_be32(const void *p)
{
	return ntohl(ld_le32(p));
}

/* ---- checksums, RFC 1071; sums of 16-bit words in network order ---- */

static u32 sum_words(const u8 *p, u32 len, u32 sum)
{
	for (; len > 1; p += 2, len -= 2)
		sum += ld_be16(p);
	return len ? sum + ((u32)*p << 8) : sum;
}

static u16 fold(u32 sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (u16)~sum;
}

/* Over the pseudo header and the segment: 0 when the checksum inside is right. */
static u16 tcp_sum(const u8 *ip, const u8 *tcp, u32 len)
{
	return fold(sum_words(tcp, len, sum_words(ip + offsetof(struct iphdr, saddr), 8, IPPROTO_TCP + len)));
}

/* ---- from the guest ---- */

/* RFC 9293 §3.2: the MSS option; 0: there is none. */
static u16 find_mss(const u8 *options, u32 len)
{
	for (u32 i = 0; i < len && options[i] != TCPOPT_EOL;) {
		if (options[i] == TCPOPT_NOP) {
			i++;
			continue;
		}
		if (len - i < 2 || options[i + 1] < 2 || options[i + 1] > len - i)
			return 0;
		if (options[i] == TCPOPT_MAXSEG && options[i + 1] == MSS_LEN)
			return ld_be16(options + i + 2);
		i += options[i + 1];
	}
	return 0;
}

/* len: of the IPv4 packet's payload. partial: the guest left the checksum to the device. */
static bool read_tcp(const u8 *ip, const u8 *tcp, u32 len, bool partial, struct mmds_segment *s)
{
	u32 head;

	if (len < TCP_LEN)
		return false;
	head = (tcp[12] >> 4) * 4u;
	if (head < TCP_LEN || head > len || (!partial && tcp_sum(ip, tcp, len)))
		return false;
	s->peer.port = ld_be16(tcp);
	s->port = ld_be16(tcp + 2);
	s->seq = ld_be32(tcp + 4);
	s->ack = ld_be32(tcp + 8);
	s->flags = tcp[13] & (TCP_FIN | TCP_SYN | TCP_RST | TCP_PSH | TCP_ACK);
	s->window = ld_be16(tcp + 14);
	s->mss = s->flags & TCP_SYN ? find_mss(tcp + TCP_LEN, head - TCP_LEN) : 0;
	s->data = tcp + head;
	s->len = len - head;
	return true;
}

/* A whole, unfragmented TCP packet from another address than ours. len: bytes behind the Ethernet header, padding included. */
static bool read_ip(const struct net_mmds *m, const u8 *ip, u32 len, bool partial, struct mmds_segment *s)
{
	u32 head, total;

	if (len < IP_LEN || ip[0] >> 4 != 4)
		return false;
	head = (ip[0] & 15) * 4u;
	total = ld_be16(ip + offsetof(struct iphdr, tot_len));
	if (head < IP_LEN || total < head || total > len || fold(sum_words(ip, head, 0)))
		return false;
	if (ld_be16(ip + offsetof(struct iphdr, frag_off)) & (IP_MF | IP_OFFMASK) || ip[offsetof(struct iphdr, protocol)] != IPPROTO_TCP)
		return false;
	s->peer.ip = ld_be32(ip + offsetof(struct iphdr, saddr));
	return memcmp(ip + offsetof(struct iphdr, saddr), m->ip, 4) != 0 && read_tcp(ip, ip + head, total - head, partial, s);
}

/* virtio 1.2 §5.1.6.2: a TSO frame is one large packet here, and a checksum that is not there yet needs no check: no wire could hurt it. */
static bool input_ip(struct net_mmds *m, u32 len)
{
	const u8 *eth = m->frame + NET_HDR_LEN;
	struct virtio_net_hdr_v1 h;
	struct mmds_segment s = {0};
	u8 gso;

	memcpy(&h, m->frame, sizeof(h));
	gso = h.gso_type & (u8)~VIRTIO_NET_HDR_GSO_ECN;
	if ((gso != VIRTIO_NET_HDR_GSO_NONE && gso != VIRTIO_NET_HDR_GSO_TCPV4) || eth[6] & 1)
		return false;
	if (!read_ip(m, eth + ETH_LEN, len - NET_HDR_LEN - ETH_LEN, h.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM, &s))
		return false;
	memcpy(s.peer.mac, eth + 6, sizeof(s.peer.mac));
	mmds_tcp_input(&m->tcp, &s, clock_host_ns());
	return true;
}

/* The guest's claims and answers about our address are for nobody. */
static bool input_arp(struct net_mmds *m)
{
	struct arp_packet arp;

	memcpy(&arp, m->frame + NET_HDR_LEN + ETH_LEN, sizeof(arp));
	if (arp.hardware != htons(ARPHRD_ETHER) || arp.hardware_len != 6 || arp.protocol_len != 4 || arp.sender_mac[0] & 1)
		return false;
	if (arp.operation == htons(ARPOP_REQUEST) && memcmp(arp.sender_ip, m->ip, 4) != 0) {
		m->arp = arp;
		m->arp_due = true;
	}
	return true;
}

/* head: the first bytes of a frame. The Ethernet type, when the frame is for the service; 0: it is not. */
static u16 is_ours(struct net_mmds *m, const u8 *head, u32 len)
{
	const u8 *eth = head + NET_HDR_LEN, *payload = eth + ETH_LEN;
	u16 type;

	if (len < NET_HDR_LEN + ETH_LEN) {
		COUNT(m, rx_bad_eth, 1);
		return 0;
	}
	type = ld_be16(eth + 12);
	if (type == ETHERTYPE_IP && len >= NET_HDR_LEN + ETH_LEN + IP_LEN)
		return memcmp(payload + offsetof(struct iphdr, daddr), m->ip, 4) ? 0 : type;
	if (type == ETHERTYPE_ARP && len >= HEAD_LEN && ld_be16(payload + offsetof(struct arp_packet, protocol)) == ETHERTYPE_IP)
		return memcmp(payload + offsetof(struct arp_packet, target_ip), m->ip, 4) ? 0 : type;
	return 0;
}

/* ---- to the guest; each leaves a frame in m->frame and returns its length ---- */

static void write_eth(struct net_mmds *m, const u8 *mac, u16 type)
{
	u8 *eth = m->frame + NET_HDR_LEN;

	memset(m->frame, 0, NET_HDR_LEN);
	memcpy(eth, mac, 6);
	memcpy(eth + 6, MMDS_MAC, 6);
	st_le16(eth + 12, htons(type));
}

static u32 write_arp(struct net_mmds *m)
{
	struct arp_packet reply = m->arp;

	reply.operation = htons(ARPOP_REPLY);
	memcpy(reply.target_mac, m->arp.sender_mac, 6);
	memcpy(reply.target_ip, m->arp.sender_ip, 4);
	memcpy(reply.sender_mac, MMDS_MAC, 6);
	memcpy(reply.sender_ip, m->ip, 4);
	write_eth(m, m->arp.sender_mac, ETHERTYPE_ARP);
	memcpy(m->frame + NET_HDR_LEN + ETH_LEN, &reply, sizeof(reply));
	m->arp_due = false;
	return HEAD_LEN;
}

static void write_ip(struct net_mmds *m, u8 *ip, const struct mmds_segment *s, u32 len)
{
	struct iphdr h = {.version = 4, .ihl = 5, .tot_len = htons((u16)len), .frag_off = htons(IP_DF), .ttl = 64, .protocol = IPPROTO_TCP};

	memcpy(&h.saddr, m->ip, 4);
	h.daddr = htonl(s->peer.ip);
	memcpy(ip, &h, sizeof(h));
	st_le16(ip + offsetof(struct iphdr, check), htons(fold(sum_words(ip, IP_LEN, 0))));
}

static u32 write_tcp(struct net_mmds *m, const struct mmds_segment *s)
{
	u8 *ip = m->frame + NET_HDR_LEN + ETH_LEN, *tcp = ip + IP_LEN;
	u32 head = TCP_LEN + (s->mss ? MSS_LEN : 0), len = head + s->len;

	write_eth(m, s->peer.mac, ETHERTYPE_IP);
	write_ip(m, ip, s, IP_LEN + len);
	memset(tcp, 0, head);
	st_le16(tcp, htons(s->port));
	st_le16(tcp + 2, htons(s->peer.port));
	st_le32(tcp + 4, htonl(s->seq));
	st_le32(tcp + 8, htonl(s->flags & TCP_ACK ? s->ack : 0));
	tcp[12] = (u8)(head / 4 << 4);
	tcp[13] = s->flags;
	st_le16(tcp + 14, htons(s->window));
	if (s->mss) {
		tcp[20] = TCPOPT_MAXSEG;
		tcp[21] = MSS_LEN;
		st_le16(tcp + 22, htons(s->mss));
	}
	if (s->len)
		memcpy(tcp + head, s->data, s->len);
	st_le16(tcp + 16, htons(tcp_sum(ip, tcp, len)));
	return NET_HDR_LEN + ETH_LEN + IP_LEN + len;
}

static u32 next_frame(struct net_mmds *m)
{
	struct mmds_segment s;

	if (m->arp_due)
		return write_arp(m);
	if (m->expired) {
		m->expired = false;
		mmds_tcp_expire(&m->tcp, clock_host_ns());
	}
	return mmds_tcp_output(&m->tcp, &s, clock_host_ns()) ? write_tcp(m, &s) : 0;
}

/* ---- the backend ---- */

static bool pending(const struct net_mmds *m)
{
	return m->arp_due || m->expired || mmds_tcp_ready(&m->tcp);
}

static void timer_expired(struct loop_timer *timer)
{
	struct net_mmds *m = container_of(timer, struct net_mmds, timer);

	m->expired = true; /* the device's lock is not held: the rest in recv */
	m->b.more_in = true;
	m->cfg.wake(m->cfg.device);
}

/* After each call of a connection's: what the device looks at, and when to come back. */
static void update(struct net_mmds *m)
{
	u64 deadline = m->expired ? 0 : mmds_tcp_deadline(&m->tcp);

	m->b.more_in = m->inner->more_in || pending(m);
	m->b.more_out = m->inner->more_out;
	if (deadline == m->timer.deadline_ns)
		return;
	if (deadline)
		loop_timer_arm(m->cfg.loop, &m->timer, deadline);
	else
		loop_timer_cancel(m->cfg.loop, &m->timer);
}

static ssize_t mmds_recv(struct net_backend *b, u32 pair, const struct iovec *iov, u32 nr)
{
	struct net_mmds *m = to_mmds(b);
	u32 len = pair == 0 && unlikely(pending(m)) ? next_frame(m) : 0;
	ssize_t ret;

	if (len) {
		ret = iov_write(iov, nr, 0, m->frame, len);
		COUNT(m, tx_frames, 1);
		COUNT(m, tx_count, 1);
		COUNT(m, tx_bytes, len - NET_HDR_LEN);
	} else {
		ret = m->inner->ops->recv(m->inner, pair, iov, nr);
	}
	update(m);
	return ret;
}

static void input(struct net_mmds *m, u16 type, const struct iovec *iov, u32 nr, u32 len)
{
	COUNT(m, rx_accepted, 1);
	len = iov_read(iov, nr, 0, m->frame, MIN(len, NET_FRAME_MAX));
	if (!(type == ETHERTYPE_ARP ? input_arp(m) : input_ip(m, len)))
		COUNT(m, rx_accepted_err, 1);
}

/* The guest may change a frame while it is looked at: what is taken for the service is looked at in our copy only, and what is not could
 * as well have been sent to the network in the first place. */
static int mmds_send(struct net_backend *b, u32 pair, const struct iovec *iov, u32 nr, u32 len)
{
	struct net_mmds *m = to_mmds(b);
	u8 head[HEAD_LEN];
	u16 type = is_ours(m, head, iov_read(iov, nr, 0, head, sizeof(head)));
	int ret = 1;

	if (type)
		input(m, type, iov, nr, len);
	else
		ret = m->inner->ops->send(m->inner, pair, iov, nr, len);
	update(m);
	if (type && pending(m))
		m->cfg.wake(m->cfg.device);
	return ret;
}

static int mmds_flush(struct net_backend *b)
{
	struct net_mmds *m = to_mmds(b);
	int ret = m->inner->ops->flush(m->inner);

	update(m);
	return ret;
}

static int mmds_offloads(struct net_backend *b, u64 guest_features)
{
	struct net_backend *inner = to_mmds(b)->inner;

	return inner->ops->offloads ? inner->ops->offloads(inner, guest_features) : 0;
}

static int mmds_pairs(struct net_backend *b, u32 n)
{
	struct net_backend *inner = to_mmds(b)->inner;

	return inner->ops->pairs ? inner->ops->pairs(inner, n) : 0;
}

static void mmds_close(struct net_backend *b)
{
	struct net_mmds *m = to_mmds(b);

	loop_timer_cancel(m->cfg.loop, &m->timer);
	m->inner->ops->close(m->inner);
	mmds_tcp_fini(&m->tcp);
	free(m->b.name);
	free(m->frame);
	free(m);
}

static const struct net_backend_ops mmds_ops = {
	.recv = mmds_recv,
	.send = mmds_send,
	.flush = mmds_flush,
	.offloads = mmds_offloads,
	.pairs = mmds_pairs,
	.close = mmds_close,
};

void net_mmds_wrap(struct net_backend **b, const struct net_mmds_cfg *cfg)
{
	struct net_mmds *m = xzalloc(sizeof(*m));

	m->cfg = *cfg;
	m->inner = *b;
	m->b = **b; /* features, descriptors; the inner one closes them */
	m->b.ops = &mmds_ops;
	m->b.name = xstrdup((*b)->name);
	m->tcp.service = cfg->service;
	m->timer.expired = timer_expired;
	m->frame = xzalloc(NET_FRAME_MAX);
	ASSERT(inet_pton(AF_INET, cfg->address, m->ip) == 1);
	*b = &m->b;
}
