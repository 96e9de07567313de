/*
 * counters.h: what the API counts: requests and refusals by endpoint, with Firecracker's names, and how long some of them took.
 * Read by the metrics (vmm/metrics.h) on the main thread; added to by the API thread and the main thread.
 */
#ifndef HUSK_API_COUNTERS_H
#define HUSK_API_COUNTERS_H

#include "vmm/metrics.h"

struct route;

#define API_COUNTED    32 /* at least the endpoints that are counted */
#define API_NR_SOURCES 8  /* the last one has no group */

struct api_counters {
	struct {
		u64 count, fails;
	} requests[API_COUNTED];    /* by row of the table in counters.c */
	u64 deprecated;		    /* requests with something that Firecracker deprecates */
	u64 start_us, start_cpu_us; /* from the start of the process, or of who started it, until the API was there */
	/* Microseconds, of the last one: from request to answer, and of that the VM's part. */
	u64 pause_us, resume_us, vmm_pause_us, vmm_resume_us;
	u64 full_us, diff_us, load_us, vmm_full_us, vmm_diff_us, vmm_load_us;
	/* How the time of the last snapshot went; how many there were, and what was written for them. */
	u64 snapshot_drain_us, snapshot_state_us, snapshot_memory_us, snapshot_sync_us;
	u64 snapshots, snapshot_package_bytes, snapshot_memory_bytes;
	struct metrics_source sources[API_NR_SOURCES];
};

/* Adds them to the metrics of a VM. c outlives it. ctx: main */
void api_counters_attach(struct api_counters *c, struct metrics *m);
/* A request to r has come (so that metrics which it writes have it); was refused. ctx: API thread */
void api_counters_request(struct api_counters *c, const struct route *r);
void api_counters_refused(struct api_counters *c, const struct route *r);
/* The API is there. start: CLOCK_MONOTONIC, start_cpu: CPU time of this process, parent_cpu: of those before it; all in us; 0: not known */
void api_counters_started(struct api_counters *c, u64 start_us, u64 start_cpu_us, u64 parent_cpu_us);
/* Stores the microseconds since start_ns (CLOCK_MONOTONIC). ctx: any */
void api_counters_time(u64 *us, u64 start_ns);

#endif
