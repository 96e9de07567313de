/*
 * fake_driver.h: a virtio driver for device tests, in a VM without vCPUs (fake_vm.h). The calling thread plays the vCPU; the device cannot
 * tell the difference.
 *
 *   struct fake_vm f;
 *   struct fdrv d;
 *   fake_vm_init(&f, 0);
 *   struct device *dev = fake_vm_add(&f, &virtio_rng_class, NULL);
 *   fake_vm_start(&f);
 *   fdrv_probe(&d, &f, dev, FDRV_ALL_FEATURES);          status up to FEATURES_OK
 *   fdrv_queue_setup(&d, 0, 256);                        for each queue
 *   fdrv_driver_ok(&d);
 *   struct fbuf in = { fake_vm_alloc(&f, 64, 1), 64 };
 *   fdrv_add(&d, 0, NULL, 0, &in, 1, token);
 *   fdrv_kick(&d, 0);                                    only when the device wants it, as a real driver
 *   fdrv_wait_used(&d, 0, &token, &len, 1000);           sleeps until the interrupt: a lost one fails the test
 *   fake_vm_fini(&f);                                    stops the loop, destroys the devices
 *
 * The driver is a well-behaved one. Hostile tests write the rings themselves (fdrv_queue has their addresses) or use the raw calls below.
 * ctx: the test's thread
 */
#ifndef HUSK_TESTS_FAKE_DRIVER_H
#define HUSK_TESTS_FAKE_DRIVER_H

#include "tests/dev/fake_vm.h"
#include "virtio/virtio.h"

/* The features a current Linux driver takes from the core. */
#define FDRV_VERSION_1	  BIT(VIRTIO_F_VERSION_1)
#define FDRV_INDIRECT	  BIT(VIRTIO_F_INDIRECT_DESC)
#define FDRV_EVENT_IDX	  BIT(VIRTIO_F_EVENT_IDX)
#define FDRV_PACKED	  BIT(VIRTIO_F_RING_PACKED)
#define FDRV_ALL_FEATURES (~0ull) /* whatever the device offers */

/* virtio 1.2 §4.2.2: the registers, for raw access */
#define MMIO_MAGIC		 0x000u
#define MMIO_VERSION		 0x004u
#define MMIO_DEVICE_ID		 0x008u
#define MMIO_VENDOR_ID		 0x00cu
#define MMIO_DEVICE_FEATURES	 0x010u
#define MMIO_DEVICE_FEATURES_SEL 0x014u
#define MMIO_DRIVER_FEATURES	 0x020u
#define MMIO_DRIVER_FEATURES_SEL 0x024u
#define MMIO_QUEUE_SEL		 0x030u
#define MMIO_QUEUE_NUM_MAX	 0x034u
#define MMIO_QUEUE_NUM		 0x038u
#define MMIO_QUEUE_READY	 0x044u
#define MMIO_QUEUE_NOTIFY	 0x050u
#define MMIO_INTERRUPT_STATUS	 0x060u
#define MMIO_INTERRUPT_ACK	 0x064u
#define MMIO_STATUS		 0x070u
#define MMIO_QUEUE_DESC_LOW	 0x080u
#define MMIO_QUEUE_DESC_HIGH	 0x084u
#define MMIO_QUEUE_DRIVER_LOW	 0x090u
#define MMIO_QUEUE_DRIVER_HIGH	 0x094u
#define MMIO_QUEUE_DEVICE_LOW	 0x0a0u
#define MMIO_QUEUE_DEVICE_HIGH	 0x0a4u
#define MMIO_SHM_SEL		 0x0acu
#define MMIO_SHM_LEN_LOW	 0x0b0u
#define MMIO_SHM_LEN_HIGH	 0x0b4u
#define MMIO_SHM_BASE_LOW	 0x0b8u
#define MMIO_SHM_BASE_HIGH	 0x0bcu
#define MMIO_QUEUE_RESET	 0x0c0u
#define MMIO_CONFIG_GENERATION	 0x0fcu
#define MMIO_CONFIG		 0x100u

struct fbuf { /* one element of a buffer */
	u64 gpa;
	u32 len;
};

/* Descriptor flags, split and packed (virtio 1.2 §2.7.5, §2.8.5). */
#define FDESC_NEXT     1u
#define FDESC_WRITE    2u
#define FDESC_INDIRECT 4u
#define FDESC_AVAIL    0x80u   /* packed */
#define FDESC_USED     0x8000u /* packed */

struct fdrv_queue {
	u16 index, size;
	bool packed, event_idx;
	bool indirect; /* put every buffer of two elements or more into an indirect table; clear it to stay direct */
	bool polled;   /* fdrv_wait_used polls the ring and leaves interrupts as they are */
	u64 desc_gpa, driver_gpa, device_gpa;
	u8 *desc, *driver, *device; /* host addresses of the same */
	u16 avail, used;	    /* next position to fill and to look at; split: free-running, packed: slot */
	bool avail_wrap, used_wrap;
	u16 nr_free;	      /* descriptors */
	u16 nr_since_kick;    /* positions filled since the last kick decision */
	u16 nr_ids, ids[256]; /* stack of free buffer ids (packed) or descriptors (split) */
	u64 tables_gpa;	      /* one indirect table per id */
	u64 kicks;	      /* notifications really sent */
	struct {
		void *token;
		u16 nr_descs;
		bool busy;
	} bufs[256]; /* by id */
};

struct fdrv {
	struct fake_vm *f;
	struct device *dev;
	u64 base; /* of the registers */
	u32 gsi;
	u64 features; /* negotiated */
	struct fdrv_queue q[VIRTIO_MAX_QUEUES];
};

/* Reset, then ACKNOWLEDGE, DRIVER, features (offered & wanted, VERSION_1 always), FEATURES_OK. Returns false when the device refused. */
bool fdrv_probe(struct fdrv *d, struct fake_vm *f, struct device *dev, u64 wanted);
/* Allocates the rings and enables queue q with the given size. */
void fdrv_queue_setup(struct fdrv *d, u16 q, u16 size);
/* Writes what q[q] says (addresses, size) to the registers and enables it: for tests that want it wrong. */
void fdrv_queue_write(struct fdrv *d, u16 q);
/* DRIVER_OK. Returns false when the device wants a reset instead. */
bool fdrv_driver_ok(struct fdrv *d);
/* All of it: probe, `nr_queues` queues of `size`, DRIVER_OK. Dies when the device refuses. */
void fdrv_up(struct fdrv *d, struct fake_vm *f, struct device *dev, u64 wanted, u16 nr_queues, u16 size);
/* Writes status 0 and waits until it reads 0. False after timeout_ms. The queues are gone. */
bool fdrv_reset(struct fdrv *d, u32 timeout_ms);

/* Makes a buffer available: nr_out device-readable elements, then nr_in device-writable ones. False when the ring is full. */
bool fdrv_add(struct fdrv *d, u16 q, const struct fbuf *out, u16 nr_out, const struct fbuf *in, u16 nr_in, void *token);
/* Notifies the device if it asked for that; true when it did. */
bool fdrv_kick(struct fdrv *d, u16 q);
/* Notifies the device in any case. */
void fdrv_notify(struct fdrv *d, u16 q);
/* Takes one used buffer if there is one. */
bool fdrv_get_used(struct fdrv *d, u16 q, void **token, u32 *len);
/* Waits for a used buffer: asks for an interrupt and sleeps until one comes (q.polled: polls). False after timeout_ms. token, len may be
 * NULL. Interrupts that come are acknowledged. */
bool fdrv_wait_used(struct fdrv *d, u16 q, void **token, u32 *len, u32 timeout_ms);
/* Asks for an interrupt at the next used buffer, or for none. */
void fdrv_want_interrupts(struct fdrv *d, u16 q, bool on);
/* One synchronous request: add, kick, wait (5 s). Returns the used length; dies on timeout. */
u32 fdrv_request(struct fdrv *d, u16 q, const struct fbuf *out, u16 nr_out, const struct fbuf *in, u16 nr_in);

/* Waits until the device says NEEDS_RESET. */
bool fdrv_wait_needs_reset(struct fdrv *d, u32 timeout_ms);
/* Interrupts of this device so far, and the InterruptStatus register. */
u32 fdrv_edges(const struct fdrv *d);
u32 fdrv_isr(struct fdrv *d);
/* Waits for everything that was kicked before to have been looked at by the loop. */
void fdrv_sync(struct fdrv *d);

/* Registers and configuration space. */
u32 fdrv_read(struct fdrv *d, u32 reg);
void fdrv_write(struct fdrv *d, u32 reg, u32 val);
u8 fdrv_config8(struct fdrv *d, u32 off);
u16 fdrv_config16(struct fdrv *d, u32 off);
u32 fdrv_config32(struct fdrv *d, u32 off);
u64 fdrv_config64(struct fdrv *d, u32 off);
void fdrv_config_write(struct fdrv *d, u32 off, const void *data, u32 len);

/* Raw ring access, for hostile tests. fdrv_raw_desc writes one descriptor; `id_next` is next (split) or buffer id (packed).
 * fdrv_raw_avail (split only) makes head available without any bookkeeping. */
void fdrv_raw_desc(u8 *table, u32 i, u64 gpa, u32 len, u16 flags, u16 id_next, bool packed);
void fdrv_raw_avail(struct fdrv *d, u16 q, u16 head);

#endif
