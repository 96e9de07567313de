/* mmds_tcp.c: see mmds_tcp.h. Section numbers are RFC 9293's. */
#include "virtio/backend/mmds_tcp.h"

#include <stdlib.h>
#include <string.h>

#define MSS_DEFAULT 536u /* §3.7.1 */
#define MSS_MIN	    28u	 /* of the smallest MTU that IPv4 has */
#define RTO_MIN_NS  (500 * NSEC_PER_MSEC)
#define RTO_MAX_NS  (8 * NSEC_PER_SEC)
#define MAX_RETRIES 10u
#define LINGER_NS   (10 * NSEC_PER_SEC) /* after our FIN was acknowledged, until the guest's comes */
#define IDLE_NS	    (10 * NSEC_PER_SEC) /* then a connection gives way to a new one when there are no more */

/* §3.4: sequence numbers wrap. */
static bool after(u32 a, u32 b)
{
	return (s32)(a - b) > 0;
}

static struct mmds_counters *counters(struct mmds_tcp *t)
{
	return &(*t->service)->counters;
}

/* ---- what a connection has to send ---- */

static u32 data_end(const struct mmds_conn *c)
{
	return c->reply_seq + (u32)c->reply.len;
}

static u32 unsent(const struct mmds_conn *c)
{
	return after(data_end(c), c->snd_nxt) ? data_end(c) - c->snd_nxt : 0;
}

/* Bytes that the guest's window takes now. */
static u32 window_left(const struct mmds_conn *c)
{
	u32 in_flight = c->snd_nxt - c->snd_una;

	if (c->probe && !in_flight && !c->snd_wnd)
		return 1; /* §3.8.6.1 */
	return c->snd_wnd > in_flight ? c->snd_wnd - in_flight : 0;
}

static bool fin_unsent(const struct mmds_conn *c)
{
	return c->closing && !after(c->snd_nxt, data_end(c));
}

static bool can_send(const struct mmds_conn *c)
{
	if (!c->established)
		return c->snd_nxt == c->snd_una;
	return c->ack_due || (unsent(c) ? window_left(c) > 0 : fin_unsent(c));
}

/* After any change: is there something to send, and is a timer needed? */
static void update(struct mmds_tcp *t, u32 n, u64 now)
{
	struct mmds_conn *c = t->conns[n];
	bool waits = c->snd_nxt != c->snd_una || (unsent(c) && !window_left(c));

	if (can_send(c))
		t->ready |= 1u << n;
	else
		t->ready &= ~(1u << n);
	if (waits && !c->deadline_ns)
		c->deadline_ns = now + c->rto_ns;
	else if (!waits && !c->lingers)
		c->deadline_ns = 0;
}

/* ---- connections ---- */

static void conn_free(struct mmds_tcp *t, u32 n)
{
	buf_fini(&t->conns[n]->reply);
	free(t->conns[n]);
	t->conns[n] = NULL;
	t->ready &= ~(1u << n);
	mmds_count(&counters(t)->connections_destroyed, 1);
}

void mmds_tcp_fini(struct mmds_tcp *t)
{
	for (u32 n = 0; n < MMDS_CONNECTIONS; n++) {
		if (t->conns[n])
			buf_fini(&t->conns[n]->reply);
		free(t->conns[n]);
		t->conns[n] = NULL;
	}
}

static void add_reset(struct mmds_tcp *t, struct mmds_segment reset)
{
	if (t->nr_resets < MMDS_RESETS)
		t->resets[t->nr_resets++] = reset;
}

/* §3.5.2: the answer to what belongs to no connection. */
static void refuse(struct mmds_tcp *t, const struct mmds_segment *s)
{
	u32 used = s->len + !!(s->flags & TCP_SYN) + !!(s->flags & TCP_FIN);
	struct mmds_segment reset = {.peer = s->peer, .port = s->port, .flags = TCP_RST};

	if (s->flags & TCP_RST)
		return;
	if (s->flags & TCP_ACK) {
		reset.seq = s->ack;
	} else {
		reset.flags |= TCP_ACK;
		reset.ack = s->seq + used;
	}
	add_reset(t, reset);
}

static void give_up(struct mmds_tcp *t, u32 n)
{
	const struct mmds_conn *c = t->conns[n];

	if (!c->lingers)
		add_reset(t, (struct mmds_segment){
				     .peer = c->peer, .port = MMDS_PORT, .flags = TCP_RST | TCP_ACK, .seq = c->snd_nxt, .ack = c->rcv_nxt});
	conn_free(t, n);
}

static bool find_conn(const struct mmds_tcp *t, const struct mmds_peer *peer, u32 *n)
{
	for (*n = 0; *n < MMDS_CONNECTIONS; ++*n) {
		const struct mmds_conn *c = t->conns[*n];

		if (c && c->peer.ip == peer->ip && c->peer.port == peer->port)
			return true;
	}
	return false;
}

/* A free place, if need be that of the connection that has been idle for longest. */
static bool find_place(struct mmds_tcp *t, u64 now, u32 *n)
{
	u64 oldest = UINT64_MAX;

	for (u32 i = 0; i < MMDS_CONNECTIONS; i++) {
		u64 active = t->conns[i] ? t->conns[i]->active_ns : 0;

		if (active < oldest) {
			oldest = active;
			*n = i;
		}
	}
	if (!t->conns[*n])
		return true;
	if (now - oldest < IDLE_NS)
		return false;
	give_up(t, *n);
	return true;
}

static void accept_syn(struct mmds_tcp *t, const struct mmds_segment *s, u64 now)
{
	u32 n = 0, iss = (u32)(now >> 12); /* §3.4.1: goes on by one each 4 us */
	struct mmds_conn *c;

	if (!find_place(t, now, &n)) {
		refuse(t, s);
		return;
	}
	c = xzalloc(sizeof(*c));
	c->peer = s->peer;
	c->mss = s->mss ? (u16)MIN(MAX(s->mss, MSS_MIN), MMDS_MSS) : MSS_DEFAULT;
	c->rcv_nxt = s->seq + 1;
	c->snd_una = c->snd_nxt = c->snd_max = iss;
	c->reply_seq = iss + 1;
	c->rto_ns = RTO_MIN_NS;
	c->active_ns = now;
	t->conns[n] = c;
	mmds_count(&counters(t)->connections_created, 1);
	update(t, n, now);
}

/* ---- input ---- */

/* Requests are served one by one: the next when the guest has all of the last answer. Behind the guest's FIN no more can come. */
static void serve(struct mmds_tcp *t, struct mmds_conn *c)
{
	struct mmds_service *service = *t->service;

	while (!c->closing && !c->reply.len && c->rx_len) {
		u32 taken = service->serve(service, c->rx, c->rx_len, &c->reply, &c->closing);

		if (!taken)
			break;
		c->rx_len -= taken;
		memmove(c->rx, c->rx + taken, c->rx_len);
	}
	if (c->peer_done && !c->reply.len)
		c->closing = true;
}

/* §3.10.7.4, fifth. False: the segment is not to be looked at further. */
static bool take_ack(struct mmds_conn *c, const struct mmds_segment *s)
{
	if (after(s->ack, c->snd_max)) {
		c->ack_due = true;
		return false;
	}
	if (after(s->ack, c->snd_una)) {
		c->snd_una = s->ack;
		if (after(c->snd_una, c->snd_nxt))
			c->snd_nxt = c->snd_una;
		c->retries = 0;
		c->rto_ns = RTO_MIN_NS;
		c->deadline_ns = 0;
		c->probe = false;
	}
	if (s->ack == c->snd_una) {
		if (!c->snd_wnd)
			c->snd_nxt = c->snd_una; /* a probe of the closed window was likely thrown away */
		c->snd_wnd = s->window;
	}
	if (c->established && !after(data_end(c), c->snd_una)) {
		c->reply_seq += (u32)c->reply.len;
		buf_fini(&c->reply);
	}
	return true;
}

/* §3.10.7.4, seventh and eighth: what is next in order and has room. */
static void take_data(struct mmds_conn *c, const struct mmds_segment *s)
{
	u32 old = c->rcv_nxt - s->seq, len, room = (u32)sizeof(c->rx) - c->rx_len;

	if (s->len || s->flags & TCP_FIN || old)
		c->ack_due = true;
	if (old > s->len)
		return; /* from the future, or all of it known */
	len = s->len - old;
	if (!c->closing) { /* else it goes nowhere */
		len = MIN(len, room);
		if (len)
			memcpy(c->rx + c->rx_len, s->data + old, len);
		c->rx_len += len;
	}
	c->rcv_nxt += len;
	if (s->flags & TCP_FIN && old + len == s->len && !c->peer_done) {
		c->rcv_nxt++;
		c->peer_done = true;
	}
}

/* §3.10.7.4, second and fourth, as RFC 5961 §3 and §4 want them. True: the segment was a RST or SYN. */
static bool take_reset_or_syn(struct mmds_tcp *t, u32 n, const struct mmds_segment *s, u64 now)
{
	struct mmds_conn *c = t->conns[n];

	if (s->flags & TCP_RST) {
		if (s->seq == c->rcv_nxt)
			conn_free(t, n);
		else
			c->ack_due = s->seq - c->rcv_nxt < sizeof(c->rx);
		return true;
	}
	if (!(s->flags & TCP_SYN))
		return false;
	if (c->established) {
		c->ack_due = true;
	} else if (s->seq + 1 == c->rcv_nxt) {
		c->snd_nxt = c->snd_una;
	} else {
		conn_free(t, n);
		accept_syn(t, s, now);
	}
	return true;
}

static void conn_input(struct mmds_tcp *t, u32 n, const struct mmds_segment *s, u64 now)
{
	struct mmds_conn *c = t->conns[n];

	if (!c->established) {
		if (s->ack != c->snd_una + 1 || c->snd_max == c->snd_una) {
			refuse(t, s);
			return;
		}
		c->established = true;
	}
	memcpy(c->peer.mac, s->peer.mac, sizeof(c->peer.mac));
	c->active_ns = now;
	if (!take_ack(c, s))
		return;
	take_data(c, s);
	serve(t, c);
	if (!c->closing || c->snd_una != data_end(c) + 1)
		return;
	/* Our FIN is acknowledged. */
	if (c->peer_done && !c->ack_due) {
		conn_free(t, n);
	} else if (!c->lingers) {
		c->lingers = true;
		c->deadline_ns = now + LINGER_NS;
	}
}

void mmds_tcp_input(struct mmds_tcp *t, const struct mmds_segment *s, u64 now)
{
	u32 n;

	if (!*t->service) {
		refuse(t, s);
	} else if (s->port == MMDS_PORT && find_conn(t, &s->peer, &n)) {
		if (!take_reset_or_syn(t, n, s, now) && s->flags & TCP_ACK)
			conn_input(t, n, s, now);
		if (t->conns[n])
			update(t, n, now);
	} else if (s->port == MMDS_PORT && (s->flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN) {
		accept_syn(t, s, now);
	} else {
		mmds_count(&counters(t)->rx_accepted_unusual, 1);
		refuse(t, s);
	}
}

/* ---- output ---- */

static struct mmds_segment next_segment(struct mmds_conn *c)
{
	struct mmds_segment s = {.peer = c->peer, .port = MMDS_PORT, .seq = c->snd_nxt, .ack = c->rcv_nxt, .flags = TCP_ACK};
	u32 left = unsent(c);

	s.window = (u16)(c->closing ? sizeof(c->rx) : sizeof(c->rx) - c->rx_len);
	if (!c->established) {
		s.flags |= TCP_SYN;
		s.mss = MMDS_MSS;
		c->snd_nxt++;
		return s;
	}
	s.len = MIN(MIN(left, window_left(c)), c->mss);
	s.data = s.len ? c->reply.data + (c->snd_nxt - c->reply_seq) : NULL;
	if (s.len && s.len == left)
		s.flags |= TCP_PSH;
	if (s.len == left && fin_unsent(c)) {
		s.flags |= TCP_FIN;
		c->snd_nxt++;
	}
	c->snd_nxt += s.len;
	return s;
}

bool mmds_tcp_output(struct mmds_tcp *t, struct mmds_segment *out, u64 now)
{
	if (t->nr_resets) {
		*out = t->resets[--t->nr_resets];
		return true;
	}
	if (!t->ready)
		return false;
	do {
		t->last = (t->last + 1) % MMDS_CONNECTIONS;
	} while (!(t->ready >> t->last & 1));
	*out = next_segment(t->conns[t->last]);
	t->conns[t->last]->ack_due = t->conns[t->last]->probe = false;
	if (after(t->conns[t->last]->snd_nxt, t->conns[t->last]->snd_max))
		t->conns[t->last]->snd_max = t->conns[t->last]->snd_nxt;
	if (t->conns[t->last]->lingers && t->conns[t->last]->peer_done)
		conn_free(t, t->last); /* that was the last acknowledgement; FIN again: refused */
	else
		update(t, t->last, now);
	return true;
}

/* ---- time ---- */

u64 mmds_tcp_deadline(const struct mmds_tcp *t)
{
	u64 first = 0;

	for (u32 n = 0; n < MMDS_CONNECTIONS; n++) {
		const struct mmds_conn *c = t->conns[n];

		if (c && c->deadline_ns && (!first || c->deadline_ns < first))
			first = c->deadline_ns;
	}
	return first;
}

void mmds_tcp_expire(struct mmds_tcp *t, u64 now)
{
	for (u32 n = 0; n < MMDS_CONNECTIONS; n++) {
		struct mmds_conn *c = t->conns[n];

		if (!c || !c->deadline_ns || c->deadline_ns > now)
			continue;
		if (c->lingers || ++c->retries > MAX_RETRIES) {
			give_up(t, n);
			continue;
		}
		c->rto_ns = MIN(2 * c->rto_ns, RTO_MAX_NS);
		c->deadline_ns = 0;
		c->snd_nxt = c->snd_una;
		c->probe = true;
		update(t, n, now);
	}
}
