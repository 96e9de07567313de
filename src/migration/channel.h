/*
 * channel.h: a connection between two husks that carries frames. Several threads may send on one; one at a time receives. Nothing blocks
 * for longer than the channel's patience without a byte moving.
 *
 * Addresses: "tls:HOST:PORT" (tls.h), "tcp:HOST:PORT" ("tcp:[::1]:4000"; port 0: any), "unix:PATH", "fd:N" (a connected socket; one channel
 * only).
 */
#ifndef HUSK_CHANNEL_H
#define HUSK_CHANNEL_H

#include <pthread.h>
#include <sys/uio.h>

#include "migration/frame.h"
#include "vmm/base/buf.h"
#include "vmm/passed.h"

#define CHANNEL_ANY_EPOCH UINT32_MAX

struct tls;
struct tls_identity;

struct channel {
	int fd;	   /* owned; -1: closed */
	u32 epoch; /* CHANNEL_ANY_EPOCH: what the first frame that comes has */
	u64 package_cap;
	u32 patience_ms; /* without progress, a transfer has failed; also TCP_USER_TIMEOUT */
	u64 sent_seq, received_seq;
	u64 sent_bytes, received_bytes; /* atomic */
	u64 last_received_ns;		/* CLOCK_MONOTONIC, atomic: a byte came */
	u64 last_sent_ns;		/* the same, for heartbeats */
	pthread_mutex_t send_lock;
	bool (*stop)(void *opaque); /* NULL: whoever waits for room waits for all of the patience */
	void *opaque;		    /* borrowed */
	struct buf body;	    /* owned: of the frame that was received last */
	struct tls *tls;	    /* owned; NULL: none */
	bool secured;		    /* its handshake is over, or there is none */
	u32 nr_fds;		    /* that came with the frame that was received last */
	int fds[PASSED_MAX];	    /* owned */
};

/* "tls:...". */
bool channel_is_tls(const char *address);
/* Connects, within patience_ms. id: for an address that wants TLS (borrowed, as long as the channel lives); may be NULL. c is unused
 * memory; channel_close it in any case. */
int channel_connect(struct channel *c, const char *address, struct tls_identity *id, u32 patience_ms, struct err *e) MUST_CHECK;
/* The same, until stop says that nobody wants it any more: -ECANCELED. That is asked in every later channel_send, too, while it waits for
 * room; what is said so breaks the channel then. ctx of stop: who sends */
int channel_connect_unless(struct channel *c, const char *address, struct tls_identity *id, u32 patience_ms, bool (*stop)(void *opaque),
			   void *opaque, struct err *e) MUST_CHECK;
/* Takes an accepted socket (owned from now on, also on failure). id: this side of TLS; NULL: none is wanted. */
int channel_take(struct channel *c, int fd, struct tls_identity *id, u32 patience_ms, struct err *e) MUST_CHECK;
/* Of an accepted one: goes on with what TLS wants first, without waiting. 0: a frame may be read now; -EAGAIN: not yet; others as
 * tls_handshake's. ctx: who receives */
int channel_greet(struct channel *c, struct err *e) MUST_CHECK;
/* Something is here that poll on its fd does not tell. ctx: who receives */
bool channel_pending(const struct channel *c);
void channel_close(struct channel *c); /* accepts zeroed with fd -1, and closed ones. No other thread uses it any more */
/* Every call on it, running or to come, fails soon. ctx: any */
void channel_break(struct channel *c);

/* A listening socket, non-blocking, CLOEXEC. A unix socket that nobody listens on any more is replaced. bound: the address with the port
 * that was chosen (room for size bytes). */
int channel_listen(const char *address, int *fd, char *bound, size_t size, struct err *e) MUST_CHECK;

/* One frame: its body is the parts, one behind the other, read exactly once each (they must not change meanwhile: the CRC goes over
 * them). ctx: any */
int channel_send(struct channel *c, u16 type, const struct iovec *parts, u32 nr, struct err *e) MUST_CHECK;
int channel_send_bytes(struct channel *c, u16 type, const void *body, size_t len, struct err *e) MUST_CHECK;
/* One frame with nr descriptors (1..PASSED_MAX), which stay the caller's. Over unix sockets only. */
int channel_send_fds(struct channel *c, u16 type, const void *body, size_t len, const int *fds, u32 nr, struct err *e) MUST_CHECK;
/* Waits at most wait_ms (-1: as long as it takes) for a frame to begin, then at most patience for it to go on. -EAGAIN: none has begun;
 * -ECONNRESET: the peer has closed between two frames; all others, too, make the channel useless: -ETIMEDOUT, -EPROTO (a bad header, a
 * frame of another epoch, a gap in numbers, a CRC, descriptors that are not for such a frame), -EFBIG. Optional frames of unknown type are
 * skipped. */
int channel_receive(struct channel *c, struct frame *f, int wait_ms, struct err *e) MUST_CHECK;

#endif
