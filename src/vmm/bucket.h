/*
 * bucket.h: one token bucket, Firecracker's: it holds `size` tokens and gets `size` new ones evenly over each `refill_time`;
 * `one_time_burst` are extra tokens at the start that never come back. Size 0 or refill time 0: it does not limit.
 * Devices with queues take a struct ratelimit of two (virtio/backend/ratelimit.h). Times are clock_host_ns. ctx: the owner's lock
 */
#ifndef HUSK_BUCKET_H
#define HUSK_BUCKET_H

#include "vmm/base/base.h"

struct cfg_table;

struct cfg_bucket {
	u64 size;	    /* tokens: bytes or requests */
	u64 refill_time;    /* ms */
	u64 one_time_burst; /* tokens */
};

/* Of struct cfg_bucket. */
extern const struct cfg_table bucket_table;

struct bucket {
	u64 size, refill_ns, burst; /* size 0: no limit */
	s64 balance;		    /* tokens; below zero after a request larger than the bucket */
	u64 fraction;		    /* of a token, in 1/refill_ns */
	u64 updated_ns;		    /* up to which tokens are in balance */
	bool waiting;		    /* a request was refused for want of tokens here */
};

/* Full, and not limiting when cfg says so. */
void bucket_set(struct bucket *b, const struct cfg_bucket *cfg, u64 now);
/* Nanoseconds until the bucket gives cost tokens; 0: now. One that can never hold as many gives them when it is full. */
u64 bucket_wait(struct bucket *b, u64 cost, u64 now);
/* Takes cost tokens, whether they are there or not. */
void bucket_pay(struct bucket *b, u64 cost);
/* Gives back what was paid for nothing. */
void bucket_refund(struct bucket *b, u64 cost);
/* For a user whose requests do not wait but are dropped: true when cost tokens were there, and are paid. What is refused leaves no claim.
 */
bool bucket_take(struct bucket *b, u64 cost, u64 now);

#endif
