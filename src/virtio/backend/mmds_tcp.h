/*
 * mmds_tcp.h: the TCP side of the metadata service: a server on one port whose peers are all inside one guest, a virtqueue away. Frames do
 * not cross a network, so there is no congestion control and no reassembly: what is out of order is dropped and sent again (RFC 9293).
 *
 *   segment from the guest -> mmds_tcp_input -> service -> reply kept until it is acknowledged
 *   mmds_tcp_output: makes the next segment when there is room for it, so nothing is queued
 *
 * Everything is bounded: connections, bytes of a request, one answer at a time per connection, resets that wait to be sent. The guest is
 * hostile. ctx: loop (all of it)
 */
#ifndef HUSK_MMDS_TCP_H
#define HUSK_MMDS_TCP_H

#include "vmm/mmds.h"

#define MMDS_CONNECTIONS 30u
#define MMDS_RESETS	 8u
#define MMDS_PORT	 80u
#define MMDS_MSS	 1460u /* bytes of a segment, at most */

#define TCP_FIN 1u
#define TCP_SYN 2u
#define TCP_RST 4u
#define TCP_PSH 8u
#define TCP_ACK 16u

/* All in host byte order. */
struct mmds_peer {
	u8 mac[6];
	u16 port;
	u32 ip;
};

struct mmds_segment {
	struct mmds_peer peer; /* in the guest: source of what comes in, destination of what goes out */
	u16 port;	       /* ours */
	u32 seq, ack;
	u16 window, mss; /* mss: the option of a SYN, 0: none */
	u8 flags;
	const u8 *data; /* borrowed; of output: until the next call */
	u32 len;
};

struct mmds_conn {
	struct mmds_peer peer;
	u16 mss;
	bool established;
	bool closing;	/* no further request is read; a FIN follows the answer */
	bool peer_done; /* the guest's FIN is here */
	bool ack_due, probe, lingers;
	u32 rcv_nxt, snd_una, snd_nxt, snd_max, snd_wnd; /* RFC 9293 §3.3.1; snd_max: the highest snd_nxt so far */
	u32 reply_seq;					 /* of reply's first byte */
	struct buf reply;				 /* owned; empty: the next request may be read */
	u32 rx_len;
	u8 rx[MMDS_REQUEST_MAX];
	u32 retries;
	u64 rto_ns, deadline_ns, active_ns; /* deadline: of what is unacknowledged; 0: none */
};

struct mmds_tcp {
	struct mmds_service *const *service;	   /* borrowed; where the service will be; NULL there: connections are refused */
	struct mmds_conn *conns[MMDS_CONNECTIONS]; /* owned; NULL: free */
	u32 ready;				   /* bit n: conns[n] has something to send */
	u32 last;				   /* that sent */
	u32 nr_resets;
	struct mmds_segment resets[MMDS_RESETS];
};

void mmds_tcp_fini(struct mmds_tcp *t); /* accepts zeroed */
/* A segment of the guest. now: CLOCK_MONOTONIC */
void mmds_tcp_input(struct mmds_tcp *t, const struct mmds_segment *s, u64 now);
/* The next segment to the guest, at most MMDS_MSS bytes of data. False: none. */
bool mmds_tcp_output(struct mmds_tcp *t, struct mmds_segment *out, u64 now);
static inline bool mmds_tcp_ready(const struct mmds_tcp *t)
{
	return t->ready || t->nr_resets;
}
/* When mmds_tcp_expire is to be called next; 0: no need. */
u64 mmds_tcp_deadline(const struct mmds_tcp *t);
/* Sends again, or gives up, what has not been acknowledged in time. */
void mmds_tcp_expire(struct mmds_tcp *t, u64 now);

#endif
