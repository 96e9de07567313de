/*
 * virtq.h: one virtqueue, split (virtio 1.2 §2.7) or packed (§2.8), from the device's side.
 *
 *   virtq_pop -> chain of checked host iovecs -> the device does its work -> virtq_push -> (once per batch) virtq_notify
 *
 * The driver is hostile. Every descriptor is copied once, then checked: addresses inside RAM, chain no longer than the queue (with an
 * indirect table: than VIRTQ_MAX_SIZE), no loop, no indirect inside indirect, device-readable before device-writable, total length below
 * 4 GiB. Elements of length 0 are skipped. A queue that breaks a rule marks its device NEEDS_RESET (virtio_broken) and yields nothing until
 * the driver resets it.
 *
 * ctx: loop, with the device's lock held, unless said otherwise.
 */
#ifndef HUSK_VIRTQ_H
#define HUSK_VIRTQ_H

#include <sys/uio.h>

#include "vmm/base/err.h"

#define VIRTQ_MAX_SIZE 256u

struct virtio_dev;

struct virtq {
	struct virtio_dev *vdev; /* borrowed */
	u16 index;		 /* in vdev->queues */
	/* set by the driver through the transport */
	u16 size; /* 1..VIRTQ_MAX_SIZE; split: a power of two */
	bool enabled;
	u64 desc_gpa, driver_gpa, device_gpa;
	/* set when the driver said DRIVER_OK */
	bool packed, event_idx, indirect;
	u8 *desc, *driver, *device; /* host addresses of the three areas, checked over their whole length */
	/* position */
	u16 last_avail, used_idx;   /* split: free-running; packed: slot index */
	bool avail_wrap, used_wrap; /* packed */
	bool kicks_off;		    /* the device asked for no kicks */
	/* Set by the device in activate and load: device-writable elements are names of pages to it, whose bytes it does not look at. So
	 * they are not waited for (mem_fetch). */
	bool names_pages;
	u32 unsignalled;     /* ring slots pushed since the last virtq_notify; stays at 0x10000 */
	u16 in_flight;	     /* chains popped, not pushed yet */
	u16 slots_in_flight; /* ring slots that these take */
	int kick_fd;	     /* owned eventfd: the driver's notify */
};

/* A popped chain. Embed it in a request; it is valid until pushed. iov holds the device-readable part, then the device-writable one. */
struct virtq_chain {
	u16 id;	      /* what virtq_push hands back */
	u16 nr_descs; /* ring slots that the chain takes; split: 1, in the available ring */
	u16 nr_out, nr_in;
	u32 out_len, in_len;		  /* bytes */
	struct iovec iov[VIRTQ_MAX_SIZE]; /* nr_out device-readable, then nr_in device-writable; no empty ones */
};

static inline struct iovec *chain_out(struct virtq_chain *c)
{
	return c->iov;
}
static inline struct iovec *chain_in(struct virtq_chain *c)
{
	return c->iov + c->nr_out;
}

/* 1: *chain filled; 0: nothing there; < 0: the queue is broken (already reported). At 0 the driver has been asked for a kick, unless
 * virtq_want_kicks switched kicks off; a device that stops popping before 0 has to come back by itself. No more than q->size ring slots are
 * ever in flight. */
int virtq_pop(struct virtq *q, struct virtq_chain *chain);
/* Puts the last popped chain back (the device had no room for it). Only right after virtq_pop. */
void virtq_unpop(struct virtq *q, const struct virtq_chain *chain);
/* Hands the chain back with `written` bytes (at most in_len) of the device-writable part filled; marks those pages dirty. After a reset, or
 * on a broken device, only the bookkeeping is done: requests that were in flight end that way. */
void virtq_push(struct virtq *q, const struct virtq_chain *chain, u32 written);
/* Interrupts the driver if it wants to know about what was pushed since the last call. */
void virtq_notify(struct virtq *q);
/* Asks the driver for kicks (or not). After enabling, returns true when work came in meanwhile: pop again. */
bool virtq_want_kicks(struct virtq *q, bool on);
/* Several chains pushed as one (mergeable receive buffers): all become visible together. written[i] belongs to chains[i]. */
void virtq_push_many(struct virtq *q, const struct virtq_chain *const *chains, const u32 *written, u32 nr);

/* For the core: checks sizes, addresses and alignment of an enabled queue and starts at its beginning (DRIVER_OK); 0 or reported and < 0.
 * ctx: any, with the device's lock held */
int virtq_start(struct virtq *q) MUST_CHECK;
/* For the core: takes over what features say, checks size, addresses and alignment of the queue and finds its host addresses, of which no
 * byte is read; the position stays. -EINVAL: e says what is wrong, nothing is reported. ctx: any */
int virtq_map(struct virtq *q, u64 features, struct err *e) MUST_CHECK;
/* For the core: forgets all that the driver set, but not what is in flight. ctx: any, with the device's lock held */
void virtq_reset(struct virtq *q);

/* Copy between a buffer and an iovec list starting `skip` bytes in; return bytes copied. */
u32 iov_read(const struct iovec *iov, u32 nr, u32 skip, void *dst, u32 len);
u32 iov_write(const struct iovec *iov, u32 nr, u32 skip, const void *src, u32 len);

#endif
