/*
 * migrate.h: a VM moves from one husk, the source, to another, the destination, while it runs. docs/migration.md tells users, WIRE.md what
 * goes over the network.
 *
 *   source (source.h)                                          destination (dest.h)
 *   CONNECT   ── HELLO on each channel ──────────────────────>  LISTEN
 *             ── PASSED: memfd, taps (mode local only) ────>
 *             ── DISKS: what comes along, if anything does ─>
 *   SETUP     ── OFFER: what the VM is ──────────────────────>  makes that VM from its configuration; compares devices and CPU
 *             <──────────────────────────── ACCEPT (or FAIL) ──
 *   PRECOPY   ── PAGES, SYNC: 0..n rounds, the guest runs ───>  RECEIVE
 *   HANDOVER  vCPUs halt, devices drain, state is packaged, dirty pages are looked up once more
 *             ── PAGES (what is short), MISSING, PACKAGE ────>
 *             <────────────────────────────────────── LOADED ──  LOADED: everything is applied, nothing runs
 *             ── COMMIT: from here the source never runs it by itself
 *             <───────────────────────────────────── RUNNING ──
 *   POSTCOPY  ── PAGES: asked for, and all others ───────────>  RUNNING
 *             <───────────────────────────────────── REQUEST ──
 *             ── DONE ───────────────────────────────────────>
 *             <───────────────────────────────────── RELEASE ──  COMPLETE
 *   COMPLETED ── BYE ────────────────────────────────────────>
 *
 * Until COMMIT is written any failure has the source run on, and the destination end. After it, whatever fails leaves the source PAUSED:
 * it keeps memory and state and waits for a recovery: the same connections again with epoch + 1, in which the destination says how far it
 * is.
 */
#ifndef HUSK_MIGRATE_H
#define HUSK_MIGRATE_H

#include <pthread.h>

#include "vmm/base/err.h"

enum migrate_phase { /* names in migrate_phase_name; in the API */
		     MIGRATE_NONE,
		     MIGRATE_LISTEN, /* destination */
		     MIGRATE_CONNECT,
		     MIGRATE_SETUP,
		     MIGRATE_PRECOPY, /* source */
		     MIGRATE_RECEIVE, /* destination */
		     MIGRATE_HANDOVER,
		     MIGRATE_LOADED,   /* destination: waits for COMMIT */
		     MIGRATE_POSTCOPY, /* both: the destination runs, pages are missing */
		     MIGRATE_PAUSED,   /* after COMMIT the connection was lost; waits for a recovery */
		     MIGRATE_RECOVER,
		     MIGRATE_COMPLETED,
		     MIGRATE_FAILED, /* the source runs on */
		     MIGRATE_CANCELLED,
		     MIGRATE_PHASES
};

enum migrate_mode {
	MIGRATE_MODE_PRECOPY,
	MIGRATE_MODE_POSTCOPY,
	MIGRATE_MODE_HYBRID, /* one round, then postcopy */
	MIGRATE_MODE_LOCAL, /* to another husk on this host: the memfd itself goes. Only pages of images (mem_image) are sent, as in precopy
			     */
};
/* Precopy whose rounds do not become short enough. */
enum migrate_stall { MIGRATE_STALL_THROTTLE, MIGRATE_STALL_POSTCOPY, MIGRATE_STALL_CANCEL, MIGRATE_STALL_WAIT };

#define MIGRATE_LATENCY_BUCKETS 24 /* of 1, 2, 4, ... microseconds */

/* What is known of a migration; a copy is taken under the lock of who writes it. Times are nanoseconds, 0: not yet. */
struct migrate_status {
	enum migrate_phase phase;
	bool destination;
	enum migrate_mode mode;
	char peer[128];				/* address */
	char error[1024];			/* why it failed or is paused, and what to do; "" */
	u64 ram_bytes;				/* of the VM */
	u64 disk_bytes, disk_remaining_bytes;	/* of disks that come along; remaining: not yet sent, or not here */
	u64 sent_bytes, received_bytes;		/* of all channels */
	u64 pages, zero_pages, duplicate_pages; /* sent, or placed */
	u64 remaining_bytes;			/* not yet sent, or missing; with those of disks */
	u64 rounds;
	u64 bytes_per_sec;	  /* measured */
	u64 dirty_bytes_per_sec;  /* written by the guest in the last round */
	u64 expected_downtime_ns; /* if it were to hand over now */
	u32 throttle_percent;	  /* of the vCPUs' time */
	u64 recoveries;
	u64 package_bytes;
	u64 start_ns, end_ns; /* CLOCK_MONOTONIC */
	u64 setup_ns;
	/* Downtime, by step, as this side saw it; the source's sum is what the guest was halted. */
	u64 downtime_ns;
	u64 stop_ns, capture_ns, last_ram_ns, send_ns, load_ns, run_ns;
	/* Postcopy. */
	u64 faults, fault_total_ns, fault_max_ns;
	u64 fault_histogram[MIGRATE_LATENCY_BUCKETS];
	u64 verified_pages, different_pages; /* verify mode */
};

const char *migrate_phase_name(enum migrate_phase p); /* "precopy" */
struct log;
/* The line in the log that tells of a change of phase: "migration: PHASE" or "migration: PHASE: text". text may be NULL. */
void migrate_tell(struct log *log, enum migrate_phase p, const char *text);
struct json_object;
/* For GET /migration. The caller's. */
struct json_object *migrate_status_json(const struct migrate_status *s);

#endif
