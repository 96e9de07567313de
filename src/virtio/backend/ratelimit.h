/*
 * ratelimit.h: token buckets, Firecracker's: a request takes its bytes from one bucket and 1 from another; a bucket holds `size` tokens and
 * gets `size` new ones evenly over each `refill_time`; `one_time_burst` are extra tokens at the start that never come back.
 * A request larger than the whole bucket is let through and paid for afterwards (the balance goes below zero), so that nothing stalls for
 * good. A bucket of size 0 or refill time 0 does not limit.
 *
 * The owner embeds a struct ratelimit, asks ratelimit_take before it serves a request, and when refused keeps the request (or leaves it in
 * the queue) and stops until `resume` is called. An owner that learns the size of a request by serving it (a frame received) asks
 * ratelimit_ready first and pays with ratelimit_charge. Time in which a request waits is never lost: however late the owner is resumed (up
 * to 100 ms), the tokens of that time are there, so that a limit is met, not just kept. Over t ms no more than
 * size + one_time_burst + size * t / refill_time tokens (and 100 ms' worth after a wait) are given out, plus what a last request takes
 * beyond its bucket.
 *
 * ctx: loop (all of it); under the device's lock where the owner has one.
 */
#ifndef HUSK_RATELIMIT_H
#define HUSK_RATELIMIT_H

#include "vmm/bucket.h"
#include "vmm/loop.h"

struct cfg_ratelimit {
	struct cfg_bucket *bandwidth, *ops; /* NULL: not limited (in a PATCH: as it was) */
};

/* Of struct cfg_ratelimit, for device configurations and PATCH bodies: {"bandwidth": {...}, "ops": {...}}. */
extern const struct cfg_table ratelimit_table;

struct ratelimit {
	struct bucket bandwidth, ops;
	struct loop *loop; /* borrowed */
	struct loop_timer timer;
	void (*resume)(struct ratelimit *r); /* the owner goes on. ctx: loop; with or without the device's lock */
	u64 throttled;			     /* how often a request had to wait: a counter */
};

/* cfg may be NULL: no limit. The buckets start full. */
void ratelimit_init(struct ratelimit *r, struct loop *loop, const struct cfg_ratelimit *cfg, void (*resume)(struct ratelimit *r));
void ratelimit_fini(struct ratelimit *r); /* accepts zeroed */
/* True: bytes and one op are paid. False: not now; resume will be called when it is worth asking again. */
bool ratelimit_take(struct ratelimit *r, u64 bytes);
/* True: something may be served now, of any size, and has to be paid with ratelimit_charge. False: as above. */
bool ratelimit_ready(struct ratelimit *r);
void ratelimit_charge(struct ratelimit *r, u64 bytes);
/* Takes back what was paid for one request that was not served after all. */
void ratelimit_refund(struct ratelimit *r, u64 bytes);
/* New settings for the buckets that cfg has; a changed bucket starts full. What waits is resumed. */
void ratelimit_update(struct ratelimit *r, const struct cfg_ratelimit *cfg);
/* False when neither bucket limits: the owner may skip all of it. */
static inline bool ratelimit_active(const struct ratelimit *r)
{
	return r->bandwidth.size || r->ops.size;
}

/* What ratelimit_take is made of, at a time of the caller's, without timer and counter: for tests. 0: paid; else the nanoseconds until
 * asking again makes sense. */
u64 ratelimit_take_at(struct ratelimit *r, u64 bytes, u64 now_ns);

#endif
