/*
 * metrics.h: all counters of a process as JSON, in Firecracker's shape: one object per line when the VM starts, every minute, on request
 * and when it ends. docs/metrics.md is about what users see.
 *
 *   {"utc_timestamp_ms":1,"api_server":{...},"block":{...},"block_rootfs":{...},...,"vcpu":{...},"husk":{"tcg":{...}}}
 *
 * A line has what has been added since the line before. Where counters are: each device's and accelerator's in their own structs, by tables
 * (counter.h); the core's in struct vm_counters; those of layers above (API, metadata service) as sources.
 * ctx: loop, or before and after vm_run
 */
#ifndef HUSK_METRICS_H
#define HUSK_METRICS_H

#include "vmm/counter.h"
#include "vmm/loop.h"

struct cfg_metrics;
struct json_object;
struct vm;

/* Moves of this VM between hosts (migration/migrate.h). */
struct migration_counters {
	u64 started, completed, failed, cancelled, taken_back; /* away from here */
	u64 arrived, taken_over;			       /* to here */
	u64 paused, recovered;				       /* connections that were lost after COMMIT, and made again */
	u64 sent_bytes, received_bytes;			       /* of channels, when they are closed */
	u64 sent_pages, zero_pages, rounds;
	u64 sent_disk_pages, received_disk_pages; /* of those, and of received_pages: of disks that come along */
	u64 requests;				  /* pages that the destination has asked for */
	u64 received_pages;
	u64 faults;	      /* pages that somebody had to wait for here */
	struct latency fault; /* how long */
	u64 downtime_us;      /* of the last move */
};

/* What the core counts. */
struct vm_counters {
	struct migration_counters migration;
	/* Accesses of vCPUs to devices: by enum bus_space, and whether they wrote. */
	u64 accesses[2][2];
	struct latency access_time[2][2];
	u64 vcpu_failures; /* vCPUs that could not go on */
	u64 interrupts;	   /* edges that devices raised */
};

/* Counters from outside the VM. Embed it, or keep it in the owner; it outlives the VM. */
struct metrics_source {
	const char *group; /* "mmds" */
	const struct counter_desc *counters;
	const void *base; /* that the table's offsets count from */
	struct metrics_source *next;
};

struct metrics {
	struct metrics_source *sources; /* borrowed. Added between vm_init and vm_run */
	bool own;			/* lines have husk's own counters, too. Set there as well */
	struct vm *vm;			/* borrowed; NULL = no lines are written */
	const struct cfg_metrics *cfg;	/* borrowed */
	int fd;				/* owned */
	struct json_object *last;	/* owned; totals when the last line was written */
	char *rest;			/* owned; the end of a line whose beginning a full FIFO took; NULL: none */
	u64 missed_metrics_count;	/* lines that a full FIFO or disk refused */
	u64 metrics_fails;		/* other errors */
	struct loop_timer timer;
};

void metrics_add_source(struct metrics *m, struct metrics_source *s);
/* Opens the file or FIFO (created if missing, neither truncated nor waited for) and writes the first line. cfg outlives the VM. */
int metrics_start(struct metrics *m, struct vm *vm, const struct cfg_metrics *cfg, struct err *e) MUST_CHECK;
/* Writes a line now. What does not fit is in the next line: nothing is lost but a time. Accepts zeroed: there is nowhere to write it. */
void metrics_flush(struct metrics *m);
/* Writes the last line and closes. Accepts zeroed. */
void metrics_stop(struct metrics *m);

/* Everything since the start, in the shape of a line; own: with the group "husk". The caller's (json_object_put). */
struct json_object *metrics_totals(const struct vm *vm, bool own);
/* What is in `now` and not yet in `before` (totals; NULL: none). The caller's. */
struct json_object *metrics_since(struct json_object *now, struct json_object *before);
/* Whether the key holds a last value, no sum: it may go down. */
bool metrics_is_last_value(const char *group, const char *key);

#endif
