/* ratelimit.c: token buckets; see ratelimit.h. */
#include "virtio/backend/ratelimit.h"

#include "vmm/clock.h"
#include "vmm/config.h"

/* Both are asked, so that each knows whether a request waits for it. */
static u64 wait_for(struct ratelimit *r, u64 bytes, u64 now)
{
	u64 bandwidth = bucket_wait(&r->bandwidth, bytes, now), ops = bucket_wait(&r->ops, 1, now);

	return MAX(bandwidth, ops);
}

u64 ratelimit_take_at(struct ratelimit *r, u64 bytes, u64 now_ns)
{
	u64 wait = wait_for(r, bytes, now_ns);

	if (!wait)
		ratelimit_charge(r, bytes);
	return wait;
}

/* Several queues may wait: the earliest of them is resumed in time, and with it all. */
static bool wait_until(struct ratelimit *r, u64 now, u64 wait)
{
	if (!wait)
		return true;
	__atomic_store_n(&r->throttled, r->throttled + 1, __ATOMIC_RELAXED);
	if (!r->timer.deadline_ns || now + wait < r->timer.deadline_ns)
		loop_timer_arm(r->loop, &r->timer, now + wait);
	return false;
}

bool ratelimit_take(struct ratelimit *r, u64 bytes)
{
	u64 now = clock_host_ns();

	return wait_until(r, now, ratelimit_take_at(r, bytes, now));
}

bool ratelimit_ready(struct ratelimit *r)
{
	u64 now = clock_host_ns();

	return wait_until(r, now, wait_for(r, 1, now));
}

void ratelimit_charge(struct ratelimit *r, u64 bytes)
{
	bucket_pay(&r->bandwidth, bytes);
	bucket_pay(&r->ops, 1);
}

void ratelimit_refund(struct ratelimit *r, u64 bytes)
{
	bucket_refund(&r->bandwidth, bytes);
	bucket_refund(&r->ops, 1);
}

static void expired(struct loop_timer *t)
{
	struct ratelimit *r = container_of(t, struct ratelimit, timer);

	r->resume(r);
}

static void set_buckets(struct ratelimit *r, const struct cfg_ratelimit *cfg)
{
	u64 now = clock_host_ns();

	if (cfg && cfg->bandwidth)
		bucket_set(&r->bandwidth, cfg->bandwidth, now);
	if (cfg && cfg->ops)
		bucket_set(&r->ops, cfg->ops, now);
}

void ratelimit_init(struct ratelimit *r, struct loop *loop, const struct cfg_ratelimit *cfg, void (*resume)(struct ratelimit *r))
{
	*r = (struct ratelimit){.loop = loop, .timer.expired = expired, .resume = resume};
	set_buckets(r, cfg);
}

void ratelimit_fini(struct ratelimit *r)
{
	if (r->loop)
		loop_timer_cancel(r->loop, &r->timer);
	*r = (struct ratelimit){0};
}

void ratelimit_update(struct ratelimit *r, const struct cfg_ratelimit *cfg)
{
	set_buckets(r, cfg);
	if (r->timer.deadline_ns) {
		loop_timer_cancel(r->loop, &r->timer);
		r->resume(r);
	}
}

/* ---- configuration ---- */

#define LIMIT(k) .key = #k, .type = CFG_OBJ, .offset = offsetof(struct cfg_ratelimit, k), .sub = &bucket_table
static const struct cfg_field ratelimit_fields[] = {
	{LIMIT(bandwidth), .help = "bytes; absent: not limited"},
	{LIMIT(ops), .help = "requests or frames; absent: not limited"},
};
const struct cfg_table ratelimit_table = {
	.name = "rate-limiter",
	.help = "limits of a device: what exceeds them waits",
	.size = sizeof(struct cfg_ratelimit),
	.fields = ratelimit_fields,
	.nr_fields = ARRAY_SIZE(ratelimit_fields),
};
