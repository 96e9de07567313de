/*
 * counter.h: what devices, vCPUs and the API count for the metrics (metrics.h). A counter is a u64 that is only ever added to, a struct
 * latency, or a u64 that holds the last value of something; its name says which: "read_agg" is a struct latency, "init_time_us" a last
 * value. Names that Firecracker has mean what they mean there. ctx: any
 */
#ifndef HUSK_COUNTER_H
#define HUSK_COUNTER_H

#include "vmm/base/base.h"

/* A counter at this offset of some struct. Tables end with name NULL. */
struct counter_desc {
	const char *name;
	size_t offset;
};

/* How long something took: each time, and all times together. */
struct latency {
	u64 min_ns, max_ns, sum_ns; /* atomic */
};

static inline void counter_add(u64 *counter, u64 n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

/* Two threads at a time may lose a minimum or maximum, never a sum. */
static inline void latency_add(struct latency *l, u64 ns)
{
	u64 min = __atomic_load_n(&l->min_ns, __ATOMIC_RELAXED);

	counter_add(&l->sum_ns, ns);
	if (!min || ns < min)
		__atomic_store_n(&l->min_ns, MAX(ns, 1), __ATOMIC_RELAXED);
	if (ns > __atomic_load_n(&l->max_ns, __ATOMIC_RELAXED))
		__atomic_store_n(&l->max_ns, ns, __ATOMIC_RELAXED);
}

#endif
