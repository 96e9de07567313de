/*
 * source.h: the side that a VM leaves. One thread ("husk-migrate") waits from the VM's start on, with system calls of its own (sandbox.h),
 * and does what is asked; what concerns vCPUs and devices it hands to the loop.
 */
#ifndef HUSK_SOURCE_H
#define HUSK_SOURCE_H

#include "migration/migrate.h"
#include "vmm/vm.h"

struct tls_identity; /* tls.h */

struct source_params {
	char address[256];	  /* channel.h */
	struct tls_identity *tls; /* for addresses that want it; borrowed, NULL: there is none */
	enum migrate_mode mode;
	enum migrate_stall stall;
	u64 max_downtime_ns; /* precopy hands over when it expects less; default 300 ms */
	u64 bandwidth;	     /* bytes per second over all BULK channels; 0: no limit. Pages that are waited for ignore it */
	u32 nr_bulk;	     /* 1..8 */
	u32 nr_push;	     /* how many of them send in postcopy what nobody asks for yet, which delays what the guest waits for; 0: all */
	bool compress, verify; /* zlib, where a batch of pages shrinks; digests at the end */
	bool copy_disks;       /* the contents of all drives that the guest can write come along; else the destination sees the same */
	u32 patience_ms;       /* without a word from the peer the connection is lost; default 10000 */
	u64 package_cap;       /* bytes; 0: PACKAGE_SOFT_CAP */
};

struct source;
/* Starts the thread. ctx: main, between vm_init and vm_run (before the sandbox closes) */
int source_start_thread(struct source **out, struct vm *vm, struct err *e) MUST_CHECK;
/* Breaks off whatever runs. ctx: main, vm_run is over */
void source_stop_thread(struct source *s); /* accepts NULL */

/* Begins; what comes of it is in the status. Refused at once (the VM runs on): -EBUSY: one is under way, a debugger is attached, pages are
 * outstanding; -EOPNOTSUPP: a device cannot be saved; -EFBIG: the package is over its cap, sections named; -EINVAL. ctx: loop */
int source_begin(struct source *s, const struct source_params *p, struct err *e) MUST_CHECK;
/* The VM stays here. -EBUSY: too late, COMMIT was sent; -ENOENT: there is none. Returns at once. ctx: any */
int source_cancel(struct source *s, struct err *e) MUST_CHECK;
/* After PAUSED: connects again; address NULL or "": the same. -EINVAL: it is not paused. ctx: any */
int source_recover(struct source *s, const char *address, struct err *e) MUST_CHECK;
/* After PAUSED: the user says that the destination is dead and never ran, or shall not have: the VM goes on here as it was at the
 * hand-over. ctx: any */
int source_take_back(struct source *s, struct err *e) MUST_CHECK;
/* Gives up the connection as if the network were cut, for whoever sees it hang. ctx: any */
int source_break(struct source *s, struct err *e) MUST_CHECK;
void source_status(struct source *s, struct migrate_status *out); /* ctx: any */
/* From begin on, until it has failed or was cancelled: the configuration stays as it is, nobody makes a snapshot. ctx: any */
bool source_is_active(struct source *s);
/* Neither resumed, saved nor changed by others while this is true: HANDOVER and after. ctx: any */
bool source_holds(const struct source *s);

#endif
