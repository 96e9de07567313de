/*
 * source_impl.h: what the parts of the source (source.h) share.
 *
 *   source.c           the thread, what it is asked, the loop's help, the status
 *   source_run.c       one migration from its beginning to its end: connect, offer, rounds until they are short enough
 *   source_handover.c  halt, package, COMMIT; back again when that fails
 *   source_finish.c    what follows COMMIT: the rest of the memory, digests, the end; pausing and recovery
 *   source_control.c   channels: opening, closing; what comes on CONTROL, heartbeats
 *   source_ram.c       threads that send pages: rounds, the push of postcopy, requests
 *   source_batch.c     a frame of pages: copied, looked at, compressed, sent in its time
 *   source_disks.c     the contents of disks, as further pages
 *   source_pages.c     which pages: in use, dirty, missing; their digests
 *   source_throttle.c  holds vCPUs for a part of their time
 *
 * Locks: `lock` guards what stands below it; `push_lock` the place of postcopy's push, `pace_lock` the bandwidth. No two are held at once,
 * none while sending or waiting for the network. ctx of all functions: "husk-migrate", unless said otherwise.
 */
#ifndef HUSK_SOURCE_IMPL_H
#define HUSK_SOURCE_IMPL_H

#include <zlib.h>

#include "migration/page_set.h"
#include "migration/source.h"
#include "migration/wire.h"
#include "vmm/disk.h"

#define SOURCE_CHUNK		256u /* pages side by side that go through one channel in precopy, so that versions of a page keep their order */
#define SOURCE_PUSH_PAGES	32u /* per frame, while somebody may wait for a page behind it */
#define SOURCE_ANSWER_PATIENCES 3u  /* how often the patience, for what the destination has to do before it answers */

/* What all senders do at once. */
enum source_job {
	JOB_SYNC,	/* send nothing: are all channels there? */
	JOB_ROUND,	/* the guest runs here */
	JOB_DISKS,	/* the same, and memory comes later */
	JOB_LAST,	/* it is halted, and waits: no limit of bandwidth */
	JOB_LAST_DISKS, /* the same, and memory comes later */
	JOB_PUSH,	/* it runs there */
};

enum source_ask { ASK_NONE, ASK_BEGIN, ASK_RECOVER, ASK_TAKE_BACK };

/* A piece of a disk, as it was at some time in the job that is at work: a write since then comes with the next one. */
struct disk_extent {
	u64 start, end; /* bytes */
	bool hole;
};

/* A BULK channel with its thread, or URGENT with its. */
struct sender {
	struct source *s;
	u32 index; /* of BULK; nr_bulk: URGENT */
	pthread_t thread;
	bool started;
	bool busy; /* under s->lock: at a job */
	struct channel channel;
	bool open;  /* under s->lock */
	u64 job;    /* the last one that it has taken up; its own */
	u64 synced; /* atomic: the last one whose SYNC is sent, or as good as */
	u8 *staging, *packed;
	struct disk_extent extent; /* of the region that is being sent */
	struct wire_pages batch;   /* data: staging */
	z_stream zip;
	bool has_zip;
	u32 zip_skip, zip_backoff; /* frames that are not even tried; how many the next time that it does not pay */
};

/* Work that the loop does for the thread. */
struct source_call {
	struct loop_work work;
	int (*fn)(struct source *s, struct err *e);
	struct err *e;
	int ret;
	bool done; /* under lock */
};

struct source {
	struct vm *vm;
	pthread_t thread;
	bool confine;
	struct source_params params; /* changed only while nothing runs, address also while paused */
	u8 session[16];
	u32 epoch;

	struct channel control;
	bool heartbeat;	  /* silence of the destination means something by now */
	u64 grace_end_ns; /* a sender has failed: so long it may take until the destination says why; 0: none has */
	struct sender senders[WIRE_MAX_BULK + 1];

	struct passed *passed; /* owned, its descriptors borrowed; NULL but in mode local */
	struct page_set pages; /* still to be sent */
	struct {
		u32 nr;
		struct source_disk {
			struct device *dev; /* borrowed */
			const char *path;   /* the same */
			int fd;		    /* the same */
			u64 bytes;
			struct disk_dirty dirty; /* bits are owned. ctx: loop */
		} list[WIRE_MAX_DISKS];
		struct page_set pages; /* still to be sent; nothing of it comes after COMMIT */
		bool tracking;	       /* devices mark in dirty. ctx: loop */
		bool has_pages;	       /* pages is made; under lock */
	} disks;		       /* that come along */
	u64 *bitmap[MEM_MAX_REGIONS];  /* owned; scratch of source_collect */
	u64 *only[MEM_MAX_REGIONS];    /* owned; mode local: pages of images (4 KiB); NULL: all are sent */
	bool logging;		       /* the dirty log was switched on for this */
	u64 collected_ns;	       /* when dirty pages were asked for last */
	u64 bandwidth;		       /* bytes of memory per second, measured; 0: not yet */
	bool halted;		       /* the VM was halted for the hand-over. ctx: loop */
	u64 halt_ns;		       /* when that began */
	struct buf package;
	struct buf offer, devices; /* of source_offer */

	struct { /* ctx: loop */
		struct loop_timer timer;
		u32 tries;
	} reclaim; /* disks that the destination has not let go of yet */
	struct {   /* ctx: loop */
		struct loop_timer timer;
		u32 percent;
		bool holding;
	} throttle;

	/* Atomic. */
	bool holds;	/* source_holds */
	bool committed; /* COMMIT is on its way, or was; changed under lock */
	bool there;	/* the VM runs at the destination: it says what it misses when the connection was lost */
	bool serving;	/* pages may be asked for */
	bool quit;	/* senders are to end */
	u64 sent_pages, zero_pages, late_pages, requests; /* of memory and disks; late: after COMMIT */

	pthread_mutex_t push_lock;
	u32 push_region, push_page; /* where the push goes on */
	pthread_mutex_t pace_lock;
	u64 pace_ns; /* when the next frame may be sent */

	pthread_mutex_t lock;
	pthread_cond_t cond; /* asked; a job for the senders; the loop is done */
	enum source_ask ask;
	bool running; /* the thread is at it; ends together with the phase that says so: whoever sees that may ask again */
	bool stop;    /* the VM has ended */
	bool cancel;
	bool seen; /* somebody was told that it is completed */
	bool control_open;
	u64 job; /* number of the job that the senders are to do */
	enum source_job job_kind;
	bool failed; /* a sender has, with failure */
	struct err failure;
	bool has_pages;			  /* pages is made */
	u64 closed_sent, closed_received; /* bytes of channels that are closed */
	struct source_call call;
	struct migrate_status status;
};

static inline u64 source_page_size(const struct source *s)
{
	return 1ull << s->pages.page_shift;
}
/* Whether pages are to come after the package. */
static inline bool source_is_postcopy(const struct source *s)
{
	return s->params.mode == MIGRATE_MODE_POSTCOPY || s->params.mode == MIGRATE_MODE_HYBRID;
}
/* Whether they may: then there is URGENT. */
static inline bool source_may_postcopy(const struct source *s)
{
	return source_is_postcopy(s) || s->params.stall == MIGRATE_STALL_POSTCOPY;
}
/* Whether there are pages to be sent at all: in mode local only those that the memfd has not. */
static inline bool source_sends_pages(const struct source *s)
{
	return !s->passed || s->vm->mem.nr_images;
}

/* What is to be sent of this region, as the wire numbers it, and its number there. */
static inline struct page_set *source_set(struct source *s, u32 region, u32 *index)
{
	*index = region < WIRE_FIRST_DISK ? region : region - WIRE_FIRST_DISK;
	return region < WIRE_FIRST_DISK ? &s->pages : &s->disks.pages;
}

/* ---- source.c ---- */
void source_phase(struct source *s, enum migrate_phase p);
/* Has the loop call fn, and waits for it. -ECANCELED: the VM has ended, fn was not called. */
int source_on_loop(struct source *s, int (*fn)(struct source *s, struct err *e), struct err *e) MUST_CHECK;
/* -ECANCELED when the VM has ended, or the migration was cancelled before COMMIT. ctx: any */
int source_interrupted(struct source *s, struct err *e) MUST_CHECK;
/* Atomic writes of status fields. */
#define source_note(s, field, value) \
	do { \
		pthread_mutex_lock(&(s)->lock); \
		(s)->status.field = (value); \
		pthread_mutex_unlock(&(s)->lock); \
	} while (0)

/* ---- source_run.c ---- */
/* All of it; what came of it is in the status. */
void source_migrate(struct source *s);

/* ---- source_handover.c ---- */
int source_hand_over(struct source *s, bool postcopy, struct err *e) MUST_CHECK;
/* COMMIT and the answer. */
int source_commit(struct source *s, struct err *e) MUST_CHECK;
void source_handover_init(struct source *s);
void source_handover_fini(struct source *s); /* ctx: main, vm_run is over */
/* Disks are this husk's again. -EBUSY: the destination has one. ctx: loop */
int source_reclaim(struct source *s, struct err *e) MUST_CHECK;
/* The VM goes on here, as if nothing had been; dirty pages are no longer logged. */
int source_go_on(struct source *s, struct err *e) MUST_CHECK;

/* ---- source_finish.c ---- */
int source_finish(struct source *s, struct err *e) MUST_CHECK;
/* The end of an attempt after COMMIT: ret 0: the VM has moved; else it waits for a recovery. */
void source_settle(struct source *s, int ret, struct err *e);
void source_do_recover(struct source *s);
void source_do_take_back(struct source *s);

/* ---- source_control.c ---- */
/* CONTROL and its HELLO. */
int source_connect(struct source *s, struct wire_welcome *w, struct err *e) MUST_CHECK;
/* BULK and URGENT with their threads. */
int source_open_senders(struct source *s, struct err *e) MUST_CHECK;
/* All threads ended, all channels closed. */
void source_disconnect(struct source *s);
/* Tells the destination, as far as there is a way to. type: FRAME_ABORT: the VM stays here; FRAME_FAIL: this attempt is over. A lost
 * connection whose reason the destination has said becomes that reason. */
void source_say_why(struct source *s, u16 type, struct err *why);
/* The next frame on CONTROL that is neither a heartbeat nor FAIL; within_ms 0: as long as the destination is alive. */
int source_receive(struct source *s, u32 within_ms, struct frame *f, struct err *e) MUST_CHECK;
/* Until all senders have done their job; nothing else may come meanwhile. */
int source_await_senders(struct source *s, struct err *e) MUST_CHECK;
/* The same, and of this type, with nr numbers. */
int source_expect(struct source *s, u16 type, u32 within_ms, u64 *v, u32 nr, struct err *e) MUST_CHECK;
/* Wakes whoever waits for the network. ctx: any, lock held */
void source_break_channels(struct source *s, bool control);

/* ---- source_ram.c ---- */
/* ctx: the sender's thread */
void *source_bulk_thread(void *opaque);
void *source_urgent_thread(void *opaque);
/* Sends all pages of the set on all channels, and waits until the destination has them (JOB_PUSH: until they are sent). */
int source_send_all(struct source *s, enum source_job kind, struct err *e) MUST_CHECK;

/* ---- source_batch.c ---- */
void batch_init(struct sender *b);
void batch_fini(struct sender *b); /* accepts zeroed */
/* The pages of the region's set in [*from, end), as far as they go into one frame: taken out of the set and copied. *from: where to go on.
 * -EIO and the like: a disk cannot be read. ctx: the sender's thread */
int batch_fill(struct sender *b, u32 region, u32 *from, u32 end, u32 most, struct err *e) MUST_CHECK;
/* This page of memory, whether it is in the set or not. ctx: the sender's thread */
void batch_one(struct sender *b, u32 region, u32 page);
/* Waits until the bandwidth allows another frame. ctx: the sender's thread */
void batch_wait_turn(struct source *s);
/* Sends what batch_fill has found, if it has found any. ctx: the sender's thread */
int batch_send(struct sender *b, struct err *e) MUST_CHECK;

/* ---- source_pages.c ---- */
/* Switches the record of dirty pages on. ctx: loop */
int source_track(struct source *s, struct err *e) MUST_CHECK;
void source_untrack(struct source *s); /* ctx: loop */
/* Adds what was written since the last call to the set. ctx: loop */
int source_collect(struct source *s, struct err *e) MUST_CHECK;
/* Fills the set with all pages that somebody has used. */
int source_add_used(struct source *s, struct err *e) MUST_CHECK;
int source_pages_init(struct source *s, struct err *e) MUST_CHECK;
void source_pages_fini(struct source *s);
int source_send_missing(struct source *s, struct err *e) MUST_CHECK;
/* What the destination says that it misses becomes the set. */
int source_receive_missing(struct source *s, struct err *e) MUST_CHECK;
int source_send_digests(struct source *s, struct err *e) MUST_CHECK;

/* ---- source_disks.c ---- */

/* Which disks come along; copy false: none. -EOPNOTSUPP: one cannot, e says which and why. ctx: loop, lock held; source_disks_fini came
 * before */
int source_disks_find(struct source *s, bool copy, struct err *e) MUST_CHECK;
u64 source_disks_bytes(const struct source *s);
int source_disks_init(struct source *s, struct err *e) MUST_CHECK; /* after source_pages_init */
/* Accepts zeroed. Nothing happens while devices still mark. ctx: no sender works */
void source_disks_fini(struct source *s);
/* on: all blocks are to be sent, and what is written from now on once more. ctx: loop, or vm_run is over */
void source_disks_track(struct source *s, bool on);
void source_disks_collect(struct source *s); /* ctx: loop */
/* Frame DISKS, if there are any. */
int source_send_disks(struct source *s, struct err *e) MUST_CHECK;
/* A page, filled up with zeroes behind the end of the disk. ctx: any */
int source_read_disk(const struct source *s, u32 disk, u32 page, u8 *to, struct err *e) MUST_CHECK;
/* Whether the page lies in a hole, which reads as zeroes. x: what the last call has found, zeroed at the beginning of a job and of a disk.
 * ctx: any */
bool source_disk_hole(const struct source *s, u32 disk, u32 page, struct disk_extent *x);
int source_send_disk_digests(struct source *s, struct err *e) MUST_CHECK;

/* ---- source_throttle.c ---- */
void source_throttle_init(struct source *s);
/* percent of the vCPUs' time that they are held; 0: they are not. ctx: loop, or vm_run is over */
void source_throttle_set(struct source *s, u32 percent);

#endif
