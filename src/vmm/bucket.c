/* bucket.c: see bucket.h. */
#include "vmm/bucket.h"

#include "vmm/clock.h"
#include "vmm/config.h"

/* A loop that serves many devices may be late: tokens of so much time are kept for a request that waits. */
#define LATE_NS (100 * NSEC_PER_MSEC)
/* Far beyond what any host moves; keeps all sums below 2^63. */
#define SIZE_MAX_TOKENS (1ull << 60)

typedef unsigned __int128 u128;

/* a * b / c, at most 2^62. */
static u64 scale(u64 a, u64 b, u64 c)
{
	u128 n = (u128)a * b / c;

	return n > BIT(62) ? BIT(62) : (u64)n;
}

void bucket_set(struct bucket *b, const struct cfg_bucket *cfg, u64 now)
{
	*b = (struct bucket){.updated_ns = now};
	if (!cfg->size || !cfg->refill_time)
		return;
	b->size = MIN(cfg->size, SIZE_MAX_TOKENS);
	b->refill_ns = MIN(cfg->refill_time, SIZE_MAX_TOKENS / NSEC_PER_MSEC) * NSEC_PER_MSEC;
	b->burst = MIN(cfg->one_time_burst, SIZE_MAX_TOKENS);
	b->balance = (s64)b->size;
}

/* Credits the time since the last call. */
static void bucket_refill(struct bucket *b, u64 now)
{
	u64 elapsed = now > b->updated_ns ? now - b->updated_ns : 0;
	s64 cap = (s64)(b->size + (b->waiting ? scale(LATE_NS, b->size, b->refill_ns) : 0));
	u64 room = cap > b->balance ? (u64)(cap - b->balance) : 0;
	u128 parts = (u128)elapsed * b->size + b->fraction; /* of tokens: refill_ns of them make one */

	b->updated_ns = MAX(b->updated_ns, now);
	if (parts / b->refill_ns < room) {
		b->balance += (s64)(parts / b->refill_ns);
		b->fraction = (u64)(parts % b->refill_ns);
	} else {
		b->balance += (s64)room;
		b->fraction = 0;
	}
}

u64 bucket_wait(struct bucket *b, u64 cost, u64 now)
{
	s64 want;

	if (!b->size)
		return 0;
	bucket_refill(b, now);
	want = cost > b->burst ? (s64)MIN(cost - b->burst, b->size) : 0;
	b->waiting = want > b->balance && cost > b->burst;
	return b->waiting ? scale((u64)(want - b->balance), b->refill_ns, b->size) + 1 : 0;
}

void bucket_pay(struct bucket *b, u64 cost)
{
	u64 from_burst = MIN(b->burst, cost);

	if (!b->size)
		return;
	b->burst -= from_burst;
	b->balance -= (s64)MIN(cost - from_burst, SIZE_MAX_TOKENS);
}

void bucket_refund(struct bucket *b, u64 cost)
{
	u64 room = b->balance < (s64)b->size ? (u64)((s64)b->size - b->balance) : 0, to_balance = MIN(cost, room);

	if (!b->size)
		return;
	b->balance += (s64)to_balance;
	b->burst = MIN(b->burst + (cost - to_balance), SIZE_MAX_TOKENS);
}

bool bucket_take(struct bucket *b, u64 cost, u64 now)
{
	bool there = !bucket_wait(b, cost, now);

	b->waiting = false;
	if (there)
		bucket_pay(b, cost);
	return there;
}

/* ---- configuration ---- */

#define BUCKET(k) .key = #k, .type = CFG_INT, .offset = offsetof(struct cfg_bucket, k)
static const struct cfg_field bucket_fields[] = {
	{BUCKET(size), .required = true, .help = "tokens that it holds: bytes or requests; 0: no limit"},
	{BUCKET(refill_time), .required = true, .help = "milliseconds in which an empty one fills up; 0: no limit"},
	{BUCKET(one_time_burst), .dflt = "0", .help = "extra tokens at the start, which do not come back"},
};
const struct cfg_table bucket_table = {
	.name = "token-bucket",
	.help = "size tokens per refill_time, and no more than size at once",
	.size = sizeof(struct cfg_bucket),
	.fields = bucket_fields,
	.nr_fields = ARRAY_SIZE(bucket_fields),
	.open = true,
};
