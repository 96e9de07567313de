/*
 * blk_file.h: a disk that is a raw file or a block device of the host, with two engines behind one interface.
 *
 *   loop thread                                  worker thread, one per disk                     kernel
 *   blk_file_submit   collects a batch
 *   blk_file_kick ---- Sync: everything -------> preadv pwritev fdatasync fallocate ioctl
 *                 ---- Async: discard, zeroes -> (fallocate would block io_uring_enter's caller)
 *                 ---- Async: read, write, flush ----------------------------------------------> io_uring
 *   done(list)   <---- one eventfd ------------- finished list                    completion queue
 *
 * An image is locked (OFD lock, advisory): many readers or one writer, so that two VMs do not destroy one file system.
 * ctx: loop, or before and after loop_run, unless said otherwise.
 */
#ifndef HUSK_BLK_FILE_H
#define HUSK_BLK_FILE_H

#include <pthread.h>
#include <sys/uio.h>

#include "vmm/base/log.h"
#include "vmm/loop.h"
#include "vmm/sandbox.h"

#define BLK_SECTOR   512u
#define BLK_ID_BYTES 20u /* virtio 1.2 §5.2.6 */

struct io_uring;

enum blk_op { BLK_OP_READ, BLK_OP_WRITE, BLK_OP_FLUSH, BLK_OP_DISCARD, BLK_OP_ZERO };

/* One piece of I/O. The caller fills the first part and keeps the struct and the iovecs until done hands it back. */
struct blk_io {
	enum blk_op op;
	bool unmap;		 /* ZERO: the blocks may be given back to the host */
	u64 offset, len;	 /* bytes; FLUSH: unused */
	const struct iovec *iov; /* READ, WRITE: len bytes in all; borrowed */
	u32 nr_iov;

	int result;	     /* 0, or -errno with an unknown part done */
	u64 moved;	     /* bytes so far; the engine's */
	struct blk_io *next; /* in the list that has it */
};

struct blk_list {
	struct blk_io *first, *last;
};

/* The Sync engine. */
struct blk_worker {
	pthread_t thread;
	bool started;
	bool confine;	      /* it is to confine itself: it does not inherit that */
	pthread_mutex_t lock; /* guards what follows; no lock is taken inside */
	pthread_cond_t cond;
	struct blk_list todo, finished;
	bool stop;
};

struct blk_file_params {
	const char *path;
	bool read_only;
	bool async;    /* use io_uring; without it (not there, forbidden) the Sync engine takes over, with a warning */
	bool unlocked; /* blk_file_claim takes the lock later */
	/* Its lock does not stand in the way: the same image may be opened again. NULL: none. Borrowed, not needed after blk_file_open */
	const struct blk_file *replaces;
	struct loop *loop;	 /* borrowed */
	struct log *log;	 /* borrowed */
	struct sandbox *sandbox; /* borrowed; NULL: the worker is not confined */
	/* Takes finished requests, linked by next, in the order in which they ended. ctx: loop */
	void (*done)(void *opaque, struct blk_io *list);
	void *opaque;
};

struct blk_file {
	struct blk_file_params p; /* path is owned; NULL while not open */
	int fd;			  /* owned */
	bool is_bdev;
	bool can_discard;      /* writable, and the host takes discards for it */
	u64 size;	       /* bytes, a multiple of BLK_SECTOR, not 0 */
	u8 id[BLK_ID_BYTES];   /* digits of st_dev, st_rdev, st_ino; zero-padded */
	struct loop_fd event;  /* owned eventfd: requests ended */
	u32 in_flight;	       /* submitted, not given to done yet */
	struct blk_io *sync;   /* blk_file_sync's own; done does not get it */
	struct blk_list batch; /* for the worker, since the last kick */
	struct blk_worker worker;
	struct io_uring *ring; /* owned; NULL: Sync */
};

/* Opens, checks and locks the image and starts its engine. -ENOENT, -EACCES, -EBUSY (locked), -EINVAL (kind or size). */
int blk_file_open(struct blk_file *f, const struct blk_file_params *p, struct err *e) MUST_CHECK;
/* The checks of blk_file_open, without an engine and without a trace: path and read_only of p are looked at. ctx: any */
int blk_file_probe(const struct blk_file_params *p, struct err *e) MUST_CHECK;
/* While a VM moves between two husks that have the image open. mine: takes the lock, and believes nothing that this host remembers of the
 * image. Else all that was written is put on the disk, and the lock is given up. same_host: both see the same page cache, and only the lock
 * goes. Nothing is in flight. -EBUSY: the other VM has it. */
int blk_file_claim(struct blk_file *f, bool mine, bool same_host, struct err *e) MUST_CHECK;
/* Finishes what is in flight, then closes. Accepts zeroed. */
void blk_file_close(struct blk_file *f);

/* Hands io to the engine, which may wait for blk_file_kick before it starts. The range lies inside the disk (the caller checked). */
void blk_file_submit(struct blk_file *f, struct blk_io *io);
/* Starts everything submitted: one system call per batch. */
void blk_file_kick(struct blk_file *f);
/* Waits until nothing is in flight; done was called for all. */
void blk_file_drain(struct blk_file *f);
/* Waits until nothing is in flight and all that was written so far is on the disk, as after a flush. 0 or -errno. */
int blk_file_sync(struct blk_file *f) MUST_CHECK;

static inline void blk_list_add(struct blk_list *l, struct blk_io *io)
{
	io->next = NULL;
	if (l->first)
		l->last->next = io;
	else
		l->first = io;
	l->last = io;
}
/* Moves all of src behind dst. */
void blk_list_splice(struct blk_list *dst, struct blk_list *src);

/* What is between blk_file.c and the engines. */

/* Wakes the loop up for finished requests. ctx: any */
void blk_file_raise(struct blk_file *f);
/* Where a short transfer goes on: the part of one iovec that starts io->moved bytes into the list. */
struct iovec blk_io_rest(const struct blk_io *io);

/* blk_sync.c */
int blk_sync_start(struct blk_file *f, struct err *e) MUST_CHECK;
void blk_sync_stop(struct blk_file *f); /* after the requests handed over so far */
void blk_sync_kick(struct blk_file *f, struct blk_list *batch);
void blk_sync_reap(struct blk_file *f, struct blk_list *out);

/* blk_uring.c */
int blk_uring_start(struct blk_file *f); /* 0 or -errno */
void blk_uring_stop(struct blk_file *f);
/* False: the ring has no room or does not do this operation; the worker takes it. */
bool blk_uring_queue(struct blk_file *f, struct blk_io *io);
void blk_uring_kick(struct blk_file *f);
void blk_uring_reap(struct blk_file *f, struct blk_list *out);

#endif
