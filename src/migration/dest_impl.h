/*
 * dest_impl.h: what the parts of the destination share.
 *
 *   dest.c          the calls of dest.h, and what the VM's threads do: wait, load, start
 *   dest_link.c     connections: accepted, welcomed, lost, recovered; a thread for each that carries pages
 *   dest_control.c  the conversation on CONTROL: what follows from the state, the clock and the user's orders
 *   dest_frames.c   the same: what each frame does
 *   dest_ram.c      pages into guest memory
 *   dest_disks.c    disks that come along
 *   dest_fault.c    who waits for which page
 *   dest_verify.c   digests
 *
 * One thread at a time, the "speaker", holds the conversation: the main thread until there is a VM, then "husk-migrate". The speaker alone
 * sends on CONTROL, changes the state and opens or closes connections. Others leave word under `lock` and wake it.
 */
#ifndef HUSK_DEST_IMPL_H
#define HUSK_DEST_IMPL_H

#include "migration/dest.h"
#include "migration/page_set.h"
#include "migration/saved_config.h"
#include "migration/wire.h"

/* ---- dest_disks.c ---- */

struct dest_disks {
	u32 nr;
	struct dest_disk {
		char id[WIRE_DISK_ID];
		u64 bytes;
		char *path;   /* owned */
		int fd;	      /* owned; -1: not opened yet, or closed */
		bool made;    /* by this husk, for this attempt */
		bool touched; /* atomic: written to */
		bool blank;   /* what was not written is zero */
		bool durable; /* what was written is to be on the disk before the VM runs */
		u32 *digests; /* owned; verify: CRC-32C of each page as it came; NULL: none */
	} list[WIRE_MAX_DISKS];
	struct page_set missing; /* did not come yet */
	struct page_set written; /* with something else than zeroes */
	u32 zero_digest;	 /* of a page */
	pthread_rwlock_t lock;	 /* who writes pages holds it for reading */
	bool sealed;		 /* under lock: the VM is packaged, or all is over: nobody writes any more */
};

/* What the source is to send. ctx: speaker */
void dest_disks_take(struct dest_disks *d, const struct wire_disks *w);
u64 dest_disks_bytes(const struct dest_disks *d);
/* Opens, checks and locks each drive's file, or makes it: the VM finds it there. document: the configuration. -EINVAL: its size; -EBUSY: in
 * use; -EPROTO: no such drive. ctx: main, before there is a VM */
int dest_disks_open(struct dest_disks *d, struct json_object *document, u32 page_shift, bool verify, struct err *e) MUST_CHECK;
/* Tells it what dest_disks_drop removes. ctx: main, before the sandbox closes */
void dest_disks_will_remove(const struct dest_disks *d, struct sandbox *sandbox);
/* Unpacked pages, whose numbers were checked. -ENOSPC and the like: e names the file. ctx: any */
int dest_disks_pages(struct dest_disks *d, const struct wire_pages *p, const u8 *data, struct err *e) MUST_CHECK;
/* What was written is on the disk, where the drive's cache_type asks for that. ctx: any */
int dest_disks_sync(struct dest_disks *d, struct err *e) MUST_CHECK;
/* All is there, and nothing more comes; locks are free for the drives. -EPROTO: pages did not come. ctx: main */
int dest_disks_seal(struct dest_disks *d, struct err *e) MUST_CHECK;
/* The files are the VM's from now on. ctx: speaker */
void dest_disks_keep(struct dest_disks *d);
/* The VM does not come. remove: the source is known to go on with its own: files that were made here are removed. ctx: speaker, or the only
 * thread */
void dest_disks_drop(struct dest_disks *d, struct log *log, bool remove);
void dest_disks_fini(struct dest_disks *d); /* can be used again. ctx: as dest_disks_drop, no receiver runs */

/* ---- dest_ram.c ---- */

#define DEST_MAX_WAITS 128u	 /* pages whose waiting time is measured at once */
#define DEST_SCRATCH   (2 * MIB) /* pages of one frame, unpacked */

struct dest_ram {
	struct vm *vm;		  /* borrowed; NULL: not made */
	struct dest_disks *disks; /* borrowed */
	u32 page_shift;
	bool postcopy, verify;
	bool soft; /* the accelerator asks for pages itself: no userfaultfd */
	struct mem_fetch fetch;
	int uffd;			   /* owned; -1: none (any more) */
	u8 *alias;			   /* owned: a second mapping of the memfd, which nothing waits on; NULL: none */
	u8 *base[MEM_MAX_REGIONS];	   /* where pages are filled: in alias, or the VM's own mapping */
	struct page_set filled;		   /* before the hand-over: may be other than zero */
	struct page_set missing;	   /* announced, and not there */
	struct page_set asked;		   /* of those: somebody waits */
	struct page_set given_up;	   /* verify: the guest gave them up while they were missing */
	bool placing;			   /* atomic: after the hand-over */
	u8 *zero;			   /* owned: a page of zeroes, of 2 MiB */
	u32 *digests[MEM_MAX_REGIONS];	   /* owned; verify: CRC-32C of each page as it came */
	u64 pages, zero_pages, duplicates; /* atomic */
	u64 placed;			   /* atomic: pages that were missing, and came */
	u64 last_placed_ns;		   /* atomic */

	/* Who changes `missing` and memory together holds it: for 16 pages at most. */
	pthread_mutex_t lock;
	struct dest_wait {
		u32 region, page;
		u64 since_ns;
	} waits[DEST_MAX_WAITS];
	u32 nr_waits;
	pthread_cond_t came; /* soft: a page that was asked for */
	bool lost;	     /* soft: nobody brings what is missing */
	u64 faults, fault_total_ns, fault_max_ns;
	u64 fault_histogram[MIGRATE_LATENCY_BUCKETS];
};

/* r is zeroed, uffd -1. Makes the memory fit to be filled, and with OFFER_POSTCOPY to be fetched. -EPERM and the like: this user may not;
 * e says what to do. ctx: before the accelerator knows the regions */
int dest_ram_init(struct dest_ram *r, struct vm *vm, u64 offer_flags, u32 page_shift, struct err *e) MUST_CHECK;
/* ctx: the memory is still mapped, no other thread works on it */
void dest_ram_fini(struct dest_ram *r);
/* Puts pages, of disks also, where they belong: before the hand-over all of them, after it those that are missing. scratch: DEST_SCRATCH
 * bytes. -EPROTO: no such pages, or damaged data; others: the host's, the page is still missing. ctx: any */
int dest_ram_pages(struct dest_ram *r, const struct wire_pages *p, u8 *scratch, struct err *e) MUST_CHECK;
/* Notes pages that come later. ctx: before dest_ram_hand_over */
int dest_ram_missing(struct dest_ram *r, const struct wire_bits *b, struct err *e) MUST_CHECK;
/* No page is filled from now on; old contents of missing ones go. ctx: speaker */
int dest_ram_hand_over(struct dest_ram *r, struct err *e) MUST_CHECK;
/* Nothing is missing: the memory becomes like any other's. ctx: speaker, the faults' thread has ended */
void dest_ram_settle(struct dest_ram *r);
/* Nobody will bring what is missing, see uffd_lose_missing. ctx: speaker */
void dest_ram_lose(struct dest_ram *r);
/* Page's address in the VM's mapping. */
static inline u8 *dest_ram_at(const struct dest_ram *r, u32 region, u32 page)
{
	return r->vm->mem.regions[region].hva + ((u64)page << r->page_shift);
}

/* ---- dest_verify.c ---- */

int dest_verify_init(struct dest_ram *r, struct err *e) MUST_CHECK;
void dest_verify_fini(struct dest_ram *r);
/* Of what is there at the hand-over. */
void dest_verify_present(struct dest_ram *r);
/* data NULL: zeroes */
void dest_verify_placed(struct dest_ram *r, u32 region, u32 page, const u8 *data);
/* Adds to what was compared, and differed. *differing: the first page that does, or UINT32_MAX. */
int dest_verify_compare(const struct dest_ram *r, const struct wire_digests *d, u64 *compared, u64 *different, u32 *differing,
			struct err *e) MUST_CHECK;

/* ---- connections ---- */

#define DEST_MAX_PENDING 8u

/* A channel that carries pages, and its thread. */
struct dest_receiver {
	struct dest *d;
	struct channel *channel; /* owned; NULL: none */
	u8 role;
	u32 index;
	pthread_t thread;
	bool started;
	u8 *scratch; /* owned */
	/* Under d->lock: */
	bool ended;	/* its thread has nothing more to do; why says more */
	bool quiet;	/* nothing has come since the last SYNC */
	u64 round;	/* of the last SYNC */
	struct err why; /* code 0: none */
};

enum dest_state {
	DEST_LISTEN,  /* nobody is there */
	DEST_SETUP,   /* OFFER is awaited */
	DEST_OFFERED, /* the VM is being made */
	DEST_RECEIVE, /* ACCEPT was sent */
	DEST_LOADING, /* the package is here, all pages are placed or missing; the main thread applies it */
	DEST_LOADED,  /* LOADED was sent, or tried to be */
	DEST_RUNNING, /* COMMIT has come */
	DEST_COMPLETE,
	DEST_FAILED, /* the VM never runs here */
};

struct dest {
	struct log *log; /* borrowed */
	u64 package_cap;
	u32 patience_ms;
	bool paused;
	struct saved_config_changes changes; /* what it points to is owned */
	char address[300];
	int listen_fd, wake_fd;	  /* owned */
	struct tls_identity *tls; /* borrowed; NULL: its address wants no TLS */
	bool threaded;		  /* husk-migrate is the speaker */
	pthread_t thread;
	bool confine;

	/* The offer. */
	u8 *offer_bytes; /* owned */
	char *devices;	 /* owned */
	u64 devices_len, offer_flags;
	u32 page_shift;
	struct package *offer; /* owned */
	struct passed *passed; /* owned, with its descriptors; NULL: memory comes in frames */
	struct json_object *document;
	struct vm_restore restore;

	struct vm *vm; /* borrowed; NULL: not made, or gone */
	struct mem_helper helper;
	struct loop_work start;
	struct dest_disks disks;
	struct dest_ram ram;
	pthread_t fault_thread;
	bool fault_started;
	int fault_stop; /* owned eventfd */

	/* The speaker's. */
	u8 session[16];
	u32 epoch;
	u32 nr_bulk;
	struct channel *control; /* owned; NULL: no link. Set and closed under `lock` */
	struct dest_receiver bulk[WIRE_MAX_BULK], urgent;
	struct {
		struct channel *channel; /* owned; NULL: free */
		u64 until_ns;
	} pending[DEST_MAX_PENDING];
	u64 synced;	 /* round of the last SYNCED */
	struct buf held; /* owned: the package, until all pages before it are placed */
	bool serving;	 /* the source serves requests */
	bool stays;	 /* the source has said that it goes on with the VM */
	bool have_package, running_sent, done, settled, verified, released;
	u64 package_ns, commit_ns, done_ns; /* when they came */
	u64 grace_end_ns;		    /* of dest_link_may_hear_why; 0: not begun */

	pthread_mutex_t request_lock; /* REQUESTs are sent one batch at a time */
	bool requests_open;	      /* under request_lock: the channel is there, and the source serves them */
	bool urgent_broken;	      /* atomic: a request could not be sent */

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t changed;
	enum dest_state state;
	bool recovering;     /* linked again, RESUME is awaited */
	bool agreed;	     /* main: the offer fits */
	u64 load_ns, run_ns; /* what these took */
	bool refused;	     /* main: it failed, `why` */
	bool loaded;	     /* loop: the VM is ready */
	bool started;	     /* loop: vCPUs run */
	bool abandoned, cancelled;
	bool over;			  /* dest_take_over was called */
	bool stop;			  /* mem_fini: husk-migrate ends */
	struct err why;			  /* of the failure, or of the lost connection */
	u64 closed_sent, closed_received; /* bytes of channels that are no more */
	struct migrate_status status;	  /* what is noted on the way; dest_status fills the rest */
};

/* ---- dest.c ---- */

/* While the source is connected. */
enum migrate_phase dest_phase_of(enum dest_state state);

/* ---- dest_link.c ---- */

/* Takes what has connected. ctx: speaker */
void dest_link_accept(struct dest *d);
/* A connection that said nothing yet has something to say, or its time is over. ctx: speaker */
void dest_link_greet(struct dest *d, u32 pending);
/* Starts the threads of channels that were welcomed before there was memory. ctx: speaker */
int dest_link_start_receivers(struct dest *d, struct err *e) MUST_CHECK;
/* Ends the threads and connections. ctx: speaker */
void dest_link_drop(struct dest *d);
void dest_link_drop_receivers(struct dest *d);
void dest_link_drop_pending(struct dest *d);
/* A channel of pages is closed: for a moment the source may be about to say on CONTROL why. ctx: speaker */
bool dest_link_may_hear_why(struct dest *d) MUST_CHECK;
/* The connection is lost, or the peer talks nonsense: by state that is a failure, or a pause. tell: send it to the peer, too.
 * ctx: speaker */
void dest_link_lost(struct dest *d, const struct err *e, bool tell);
/* Sends FAIL, if there is a connection; waits for a second at most. ctx: speaker */
void dest_link_tell(struct dest *d, const struct err *e);
/* Makes a thread of this process that takes no signals. */
int dest_thread_start(pthread_t *id, void *(*run)(void *), void *opaque, struct err *e) MUST_CHECK;

/* ---- dest_control.c ---- */

/* Waits for something and does what follows from it. ctx: speaker */
void dest_turn(struct dest *d);
void dest_set_state(struct dest *d, enum dest_state state);
void dest_wake(struct dest *d); /* ctx: any */
/* It runs, and nothing is missing. lost: the connection is, for this reason; else NULL. ctx: speaker */
void dest_complete(struct dest *d, const struct err *lost);
/* Ends the attempt: the VM does not come here. ctx: speaker */
void dest_fail(struct dest *d, const struct err *e, bool tell);
/* husk-migrate. */
void *dest_thread(void *opaque);
/* Gives up the session, so that another source may come. ctx: speaker */
void dest_forget(struct dest *d);
/* What a WELCOME says now. */
enum wire_phase dest_wire_phase(const struct dest *d);

/* ---- dest_frames.c ---- */

/* A frame on CONTROL. -EPROTO: it has no place here, or says nonsense; others: what it asks for cannot be. ctx: speaker */
int dest_on_frame(struct dest *d, const struct frame *f, struct err *e) MUST_CHECK;
/* The VM runs here from now on. ctx: speaker */
void dest_commit(struct dest *d);

/* ---- dest_fault.c ---- */

/* Has the accelerator ask for pages that are missing. ctx: before guest memory is touched */
void dest_fault_soft(struct dest_ram *r);
int dest_fault_start(struct dest *d, struct err *e) MUST_CHECK;
void dest_fault_stop(struct dest *d); /* accepts one that does not run */
/* The source serves requests from now on: everything that somebody waits for is asked for (again). ctx: speaker */
void dest_fault_open(struct dest *d);
void dest_fault_close(struct dest *d); /* ctx: speaker */
/* A page that was asked for is there. ctx: r->lock held */
void dest_fault_served(struct dest_ram *r, u32 region, u32 page);

#endif
