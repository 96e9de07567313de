/* virtq.c: split and packed virtqueues from the device's side; see virtq.h. */
#include "virtio/virtq.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "virtio/virtio.h"

/* Descriptor flags, virtio 1.2 §2.7.5 and §2.8.1 */
#define DESC_F_NEXT	1
#define DESC_F_WRITE	2
#define DESC_F_INDIRECT 4
#define DESC_F_AVAIL	(1 << 7)  /* packed */
#define DESC_F_USED	(1 << 15) /* packed */
#define DESC_SIZE	16u

/* Split rings, virtio 1.2 §2.7.6 and §2.7.8: le16 flags, le16 idx, ring[size], le16 event */
#define AVAIL_F_NO_INTERRUPT	       1
#define USED_F_NO_NOTIFY	       1
#define RING_IDX		       2
#define RING_ENTRIES		       4
#define AVAIL_ENTRY_SIZE	       2u
#define USED_ENTRY_SIZE		       8u
#define SPLIT_RING_SIZE(entry_size, n) (RING_ENTRIES + (entry_size) * (n) + 2u)

/* Packed event suppression structures, virtio 1.2 §2.8.14: le16 offset and wrap counter, le16 flags */
#define EVENT_SIZE	4u
#define EVENT_WRAP	(1u << 15)
#define EVENT_F_ENABLE	0u
#define EVENT_F_DISABLE 1u
#define EVENT_F_DESC	2u

#define UNSIGNALLED_MAX 0x10000u

struct desc {
	u64 addr;
	u32 len;
	u16 flags;
	u16 link; /* split: index of the next one; packed: buffer id */
};

/* Reports what the driver did wrong; -EIO, for `return`. */
static PRINTF_LIKE(2, 3) int broken(struct virtq *q, const char *fmt, ...)
{
	char what[160];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	virtio_broken(q->vdev, "queue %u: %s", q->index, what);
	return -EIO;
}

/* The driver may write while we read, so each field is loaded once, here. */
static struct desc copy_desc(const u8 *at, bool packed)
{
	u8 raw[DESC_SIZE];

	memcpy(raw, at, sizeof(raw));
	/* Keeps the compiler from reading guest memory again where the copy is used. */
	__asm__ volatile("" : : : "memory");
	return (struct desc){
		.addr = ld_le64(raw),
		.len = ld_le32(raw + 8),
		.flags = ld_le16(raw + (packed ? 14 : 12)),
		.link = ld_le16(raw + (packed ? 12 : 14)),
	};
}

/* Ring fields that the other side writes or polls. Acquire: what it wrote before is seen after. Release: the reverse. */
static u16 load16(const u8 *at)
{
	return __atomic_load_n((const u16 *)(const void *)at, __ATOMIC_ACQUIRE);
}

static u32 load32(const u8 *at)
{
	return __atomic_load_n((const u32 *)(const void *)at, __ATOMIC_ACQUIRE);
}

static void store16(u8 *at, u16 v)
{
	__atomic_store_n((u16 *)(void *)at, v, __ATOMIC_RELEASE);
}

static void store32(u8 *at, u32 v)
{
	__atomic_store_n((u32 *)(void *)at, v, __ATOMIC_RELEASE);
}

static void mark_dirty(struct virtq *q, const void *hva, u64 len)
{
	mem_dirty_hva(&q->vdev->dev.vm->mem, hva, len);
}

/* Rings may be touched: the driver is ready for that and has broken no rule. */
static bool usable(const struct virtq *q)
{
	return q->enabled && q->vdev->live && !(q->vdev->status & VIRTIO_S_NEEDS_RESET);
}

/* ---- start and reset ---- */

static int map_area(struct virtq *q, const char *what, u64 gpa, u64 len, u64 align, u8 **hva, struct err *e)
{
	*hva = NULL;
	if (gpa % align)
		return err_set(e, -EINVAL, "%s area at %#llx is not aligned to %llu bytes", what, (unsigned long long)gpa,
			       (unsigned long long)align);
	*hva = mem_ptr(&q->vdev->dev.vm->mem, gpa, len);
	if (!*hva)
		return err_set(e, -EINVAL, "%s area at %#llx, %llu bytes, is not in RAM", what, (unsigned long long)gpa,
			       (unsigned long long)len);
	return 0;
}

/* Sizes and alignments: virtio 1.2 §2.7 and §2.8.10.1 */
int virtq_map(struct virtq *q, u64 features, struct err *e)
{
	u32 driver_len, device_len;
	int ret;

	q->packed = features >> VIRTIO_F_RING_PACKED & 1;
	q->event_idx = features >> VIRTIO_F_EVENT_IDX & 1;
	q->indirect = features >> VIRTIO_F_INDIRECT_DESC & 1;
	if (!q->size || q->size > VIRTQ_MAX_SIZE || (!q->packed && (q->size & (q->size - 1))))
		return err_set(e, -EINVAL, "a size of %u is not possible", q->size);
	driver_len = q->packed ? EVENT_SIZE : SPLIT_RING_SIZE(AVAIL_ENTRY_SIZE, q->size);
	device_len = q->packed ? EVENT_SIZE : SPLIT_RING_SIZE(USED_ENTRY_SIZE, q->size);
	ret = map_area(q, "descriptor", q->desc_gpa, DESC_SIZE * q->size, DESC_SIZE, &q->desc, e);
	if (ret == 0)
		ret = map_area(q, "driver", q->driver_gpa, driver_len, q->packed ? 4 : 2, &q->driver, e);
	if (ret == 0)
		ret = map_area(q, "device", q->device_gpa, device_len, 4, &q->device, e);
	return ret;
}

int virtq_start(struct virtq *q)
{
	struct err e;

	q->last_avail = q->used_idx = 0;
	q->avail_wrap = q->used_wrap = true; /* §2.8.1: both wrap counters start at 1 */
	q->kicks_off = false;
	q->unsignalled = 0;
	q->in_flight = q->slots_in_flight = 0;
	return virtq_map(q, q->vdev->driver_features, &e) < 0 ? broken(q, "%s", e.msg) : 0;
}

void virtq_reset(struct virtq *q)
{
	*q = (struct virtq){
		.vdev = q->vdev,
		.index = q->index,
		.kick_fd = q->kick_fd,
		.in_flight = q->in_flight,
		.slots_in_flight = q->slots_in_flight,
	};
}

/* ---- chains ---- */

/* Appends one element to the chain. Only descriptors with a length count: drivers may leave others in any state. */
static int add_element(struct virtq *q, struct virtq_chain *c, const struct desc *d)
{
	bool write = d->flags & DESC_F_WRITE;
	u32 *len = write ? &c->in_len : &c->out_len;
	u32 total, nr = (u32)c->nr_out + c->nr_in;
	const struct mem *m = &q->vdev->dev.vm->mem;
	void *hva;

	if (!d->len)
		return 0;
	if (!write && c->nr_in)
		return broken(q, "a device-readable element follows a device-writable one");
	if (nr == VIRTQ_MAX_SIZE)
		return broken(q, "a chain has more than %u elements", VIRTQ_MAX_SIZE);
	if (__builtin_add_overflow(c->out_len + c->in_len, d->len, &total))
		return broken(q, "a chain has 4 GiB or more");
	hva = write && q->names_pages ? mem_at(m, d->addr, d->len) : mem_ptr(m, d->addr, d->len);
	if (!hva)
		return broken(q, "an element at %#llx, %u bytes, is not in RAM", (unsigned long long)d->addr, d->len);
	c->iov[nr] = (struct iovec){.iov_base = hva, .iov_len = d->len};
	*len += d->len;
	if (write)
		c->nr_in++;
	else
		c->nr_out++;
	return 0;
}

/* The table that *d points to. DEVIATION: virtio 1.2 §2.7.5.3.1 bounds a chain by the queue size. Linux puts more into an indirect table
 * when a queue was made small, so the bound here is that of struct virtq_chain. */
static int indirect_table(struct virtq *q, const struct desc *d, const u8 **table, u32 *nr)
{
	*nr = d->len / DESC_SIZE;
	if (!q->indirect)
		return broken(q, "an indirect table without VIRTIO_F_INDIRECT_DESC");
	if (d->flags & DESC_F_NEXT)
		return broken(q, "an indirect table has a next element");
	if (!*nr || d->len % DESC_SIZE || *nr > VIRTQ_MAX_SIZE)
		return broken(q, "an indirect table of %u bytes is not possible", d->len);
	*table = mem_ptr(&q->vdev->dev.vm->mem, d->addr, d->len);
	if (!*table)
		return broken(q, "an indirect table at %#llx is not in RAM", (unsigned long long)d->addr);
	return 0;
}

/* Follows `next` from descriptor i through a table of nr descriptors, down into one indirect table at most. */
static int walk_split(struct virtq *q, struct virtq_chain *c, const u8 *table, u32 nr, u32 i, bool nested)
{
	for (u32 seen = 0; seen < nr; seen++) {
		struct desc d;

		if (i >= nr)
			return broken(q, "descriptor %u is outside its table of %u", i, nr);
		d = copy_desc(table + i * DESC_SIZE, false);
		if (d.flags & DESC_F_INDIRECT) {
			if (nested)
				return broken(q, "an indirect table in an indirect table");
			if (indirect_table(q, &d, &table, &nr) < 0)
				return -EIO;
			return walk_split(q, c, table, nr, 0, true);
		}
		if (add_element(q, c, &d) < 0)
			return -EIO;
		if (!(d.flags & DESC_F_NEXT))
			return 0;
		i = d.link;
	}
	return broken(q, "a chain is a loop or longer than its table of %u", nr);
}

/* Packed indirect tables hold their elements in order; of their flags only WRITE means something (virtio 1.2 §2.8.7). DEVIATION: INDIRECT
 * is refused there, not ignored: no driver means a table to be data. */
static int walk_packed_table(struct virtq *q, struct virtq_chain *c, const struct desc *ref)
{
	const u8 *table;
	u32 nr;

	if (indirect_table(q, ref, &table, &nr) < 0)
		return -EIO;
	for (u32 i = 0; i < nr; i++) {
		struct desc d = copy_desc(table + i * DESC_SIZE, true);

		if (d.flags & DESC_F_INDIRECT)
			return broken(q, "an indirect table in an indirect table");
		if (add_element(q, c, &d) < 0)
			return -EIO;
	}
	return 0;
}

static u16 next_slot(const struct virtq *q, u16 slot)
{
	return slot + 1 == q->size ? 0 : (u16)(slot + 1);
}

/* Takes the ring slots from last_avail on until one has no NEXT. The driver makes the first available last, so the others are complete. */
static int walk_packed(struct virtq *q, struct virtq_chain *c)
{
	u16 slot = q->last_avail;

	for (;;) {
		struct desc d = copy_desc(q->desc + slot * DESC_SIZE, true);

		if (++c->nr_descs > q->size - q->slots_in_flight)
			return broken(q, "a chain is a loop or takes slots that are still in use");
		if (d.flags & DESC_F_INDIRECT) {
			/* virtio 1.2 §2.8.19: an indirect descriptor stands alone. */
			if (c->nr_descs > 1)
				return broken(q, "an indirect table inside a chain");
			c->id = d.link;
			return walk_packed_table(q, c, &d);
		}
		if (add_element(q, c, &d) < 0)
			return -EIO;
		if (!(d.flags & DESC_F_NEXT)) {
			c->id = d.link; /* §2.8.6: the id is in the last one */
			return 0;
		}
		slot = next_slot(q, slot);
	}
}

/* ---- pop ---- */

/* 1: the driver made something available; 0: no; < 0: the queue is broken. The acquiring load is what orders the reads of descriptors after
 * it (§2.7.13.3, §2.8.21.1). */
static int ready(struct virtq *q)
{
	u16 flags, pending;

	if (q->packed) {
		flags = load16(q->desc + q->last_avail * DESC_SIZE + 14);
		return !!(flags & DESC_F_AVAIL) == q->avail_wrap && !!(flags & DESC_F_USED) != q->avail_wrap;
	}
	pending = (u16)(load16(q->driver + RING_IDX) - q->last_avail);
	if (pending > q->size - q->slots_in_flight)
		return broken(q, "the available index jumps by %u with %u of %u in flight", pending, q->slots_in_flight, q->size);
	return pending > 0;
}

static int walk(struct virtq *q, struct virtq_chain *c)
{
	u16 slot;

	c->nr_out = c->nr_in = c->nr_descs = 0;
	c->out_len = c->in_len = 0;
	if (q->packed)
		return walk_packed(q, c);
	slot = q->last_avail & (q->size - 1);
	c->id = load16(q->driver + RING_ENTRIES + slot * AVAIL_ENTRY_SIZE);
	c->nr_descs = 1;
	return walk_split(q, c, q->desc, q->size, c->id, false);
}

/* Moves last_avail by nr slots, forward or back; a packed ring turns its wrap counter at the end. */
static void move_avail(struct virtq *q, int nr)
{
	int to = q->last_avail + nr;

	if (q->packed && (to < 0 || to >= q->size)) {
		to += to < 0 ? q->size : -q->size;
		q->avail_wrap = !q->avail_wrap;
	}
	q->last_avail = (u16)to;
}

int virtq_pop(struct virtq *q, struct virtq_chain *chain)
{
	int ret;

	if (!usable(q))
		return q->vdev->status & VIRTIO_S_NEEDS_RESET ? -EIO : 0;
	ret = ready(q);
	if (ret == 0 && !q->kicks_off)
		ret = virtq_want_kicks(q, true);
	if (ret > 0)
		ret = walk(q, chain) < 0 ? -EIO : 1;
	if (ret <= 0)
		return ret;
	move_avail(q, chain->nr_descs);
	q->in_flight++;
	q->slots_in_flight = (u16)(q->slots_in_flight + chain->nr_descs);
	return 1;
}

/* The chain is not the device's any more. A chain that is handed back twice is a bug of the device. */
static void end_flight(struct virtq *q, const struct virtq_chain *chain)
{
	ASSERT(q->in_flight && q->slots_in_flight >= chain->nr_descs);
	q->in_flight--;
	q->slots_in_flight = (u16)(q->slots_in_flight - chain->nr_descs);
}

void virtq_unpop(struct virtq *q, const struct virtq_chain *chain)
{
	end_flight(q, chain);
	if (usable(q))
		move_avail(q, -chain->nr_descs);
}

/* ---- push ---- */

/* After the device wrote, so that a copy of the page taken meanwhile is taken again. */
static void mark_written(struct virtq *q, const struct virtq_chain *c, u32 written)
{
	const struct iovec *iov = c->iov + c->nr_out;

	ASSERT(written <= c->in_len);
	for (; written; iov++) {
		u32 n = (u32)MIN(iov->iov_len, written);

		mark_dirty(q, iov->iov_base, n);
		written -= n;
	}
}

/* virtio 1.2 §2.7.8: the elements, then the index that makes them visible. */
static void push_split(struct virtq *q, const struct virtq_chain *const *chains, const u32 *written, u32 nr)
{
	for (u32 i = 0; i < nr; i++) {
		u32 slot = (q->used_idx + i) & (q->size - 1u);
		u8 *entry = q->device + RING_ENTRIES + slot * USED_ENTRY_SIZE;

		st_le32(entry, chains[i]->id);
		st_le32(entry + 4, written[i]);
		mark_dirty(q, entry, USED_ENTRY_SIZE);
	}
	q->used_idx = (u16)(q->used_idx + nr);
	store16(q->device + RING_IDX, q->used_idx);
	mark_dirty(q, q->device + RING_IDX, sizeof(u16));
}

/* Writes one used descriptor where the used position is and moves that on. Returns its flags, which the caller stores: they make it visible
 * (virtio 1.2 §2.8.2). */
static u16 push_packed_one(struct virtq *q, const struct virtq_chain *c, u32 written, u8 **desc)
{
	u32 to = (u32)q->used_idx + c->nr_descs;
	u16 flags = (q->used_wrap ? DESC_F_AVAIL | DESC_F_USED : 0) | (written ? DESC_F_WRITE : 0);

	*desc = q->desc + q->used_idx * DESC_SIZE;
	st_le32(*desc + 8, written);
	st_le16(*desc + 12, c->id);
	if (to >= q->size) {
		to -= q->size;
		q->used_wrap = !q->used_wrap;
	}
	q->used_idx = (u16)to;
	return flags;
}

/* The driver looks at used descriptors in order and stops at the first that is not used: storing that one's flags last shows them all at
 * once (§2.8.9). */
static void push_packed(struct virtq *q, const struct virtq_chain *const *chains, const u32 *written, u32 nr)
{
	u8 *first, *desc;
	u16 first_flags = push_packed_one(q, chains[0], written[0], &first);

	for (u32 i = 1; i < nr; i++) {
		u16 flags = push_packed_one(q, chains[i], written[i], &desc);

		store16(desc + 14, flags);
		mark_dirty(q, desc, DESC_SIZE);
	}
	store16(first + 14, first_flags);
	mark_dirty(q, first, DESC_SIZE);
}

void virtq_push_many(struct virtq *q, const struct virtq_chain *const *chains, const u32 *written, u32 nr)
{
	u32 slots = 0;

	/* The data is in guest memory, whatever becomes of the queue. */
	for (u32 i = 0; i < nr; i++) {
		mark_written(q, chains[i], written[i]);
		end_flight(q, chains[i]);
		slots += chains[i]->nr_descs;
	}
	if (!nr || !usable(q))
		return;
	if (q->packed)
		push_packed(q, chains, written, nr);
	else
		push_split(q, chains, written, nr);
	q->unsignalled = MIN(q->unsignalled + slots, UNSIGNALLED_MAX);
}

void virtq_push(struct virtq *q, const struct virtq_chain *chain, u32 written)
{
	virtq_push_many(q, &chain, &written, 1);
}

/* ---- notifications ---- */

/* Orders a store to the ring before a load from it, as each side does before it decides to notify or to sleep: either the driver sees our
 * store, or we see the driver's. Acquire and release do not give that. */
static void full_barrier(void)
{
	__sync_synchronize();
}

/* virtio 1.2 §2.7.10: was the entry at `event` among the last n up to idx? n may exceed 16 bits, and then it was. */
static bool event_passed(u16 event, u16 idx, u32 n)
{
	return (u16)(idx - event - 1) < n;
}

static bool split_wants_interrupt(const struct virtq *q, u32 n)
{
	if (!q->event_idx)
		return !(load16(q->driver) & AVAIL_F_NO_INTERRUPT);
	return event_passed(load16(q->driver + RING_ENTRIES + q->size * AVAIL_ENTRY_SIZE), q->used_idx, n);
}

/* One load, for the same reason as in write_packed_wish. */
static bool packed_wants_interrupt(const struct virtq *q, u32 n)
{
	u32 event = load32(q->driver);
	u16 flags = event >> 16 & 3, slot = event & (EVENT_WRAP - 1);

	if (flags != EVENT_F_DESC || !q->event_idx)
		return flags != EVENT_F_DISABLE;
	/* A slot of the lap before counts from where this lap began. */
	if (!!(event & EVENT_WRAP) != q->used_wrap)
		slot = (u16)(slot - q->size);
	return event_passed(slot, q->used_idx, n);
}

void virtq_notify(struct virtq *q)
{
	u32 n = q->unsignalled;

	q->unsignalled = 0;
	if (!n || !usable(q))
		return;
	full_barrier(); /* used index, then the driver's wish: §2.7.7.2 */
	if (q->packed ? packed_wants_interrupt(q, n) : split_wants_interrupt(q, n))
		virtio_interrupt(q->vdev);
}

/* Split: `avail_event` with EVENT_IDX, else the flag in the used ring. */
static void write_split_wish(struct virtq *q, bool on)
{
	u8 *at = q->event_idx ? q->device + RING_ENTRIES + q->size * USED_ENTRY_SIZE : q->device;

	/* With EVENT_IDX silence is the old event, which the driver has passed. */
	if (q->event_idx && !on)
		return;
	store16(at, q->event_idx ? q->last_avail : on ? 0 : USED_F_NO_NOTIFY);
	mark_dirty(q, at, sizeof(u16));
}

/* Packed: one 32-bit store, so that the driver never sees the flags of one wish with the slot of another. */
static void write_packed_wish(struct virtq *q, bool on)
{
	u32 event = (on ? EVENT_F_ENABLE : EVENT_F_DISABLE) << 16;

	if (on && q->event_idx)
		event = EVENT_F_DESC << 16 | (q->avail_wrap ? EVENT_WRAP : 0) | q->last_avail;
	store32(q->device, event);
	mark_dirty(q, q->device, EVENT_SIZE);
}

bool virtq_want_kicks(struct virtq *q, bool on)
{
	if (!usable(q))
		return false;
	q->kicks_off = !on;
	if (q->packed)
		write_packed_wish(q, on);
	else
		write_split_wish(q, on);
	if (!on)
		return false;
	full_barrier(); /* our wish, then what is available; the driver does the reverse: §2.7.13.4.1 */
	return ready(q) > 0;
}

/* ---- iovec copies: memmove, as the other buffer may be guest memory too, and a guest can make them overlap ---- */

/* The part of iov[i] beyond *skip, at most len bytes; *skip shrinks by what was passed over. */
static u32 iov_part(const struct iovec *iov, u32 *skip, u32 len, u8 **at)
{
	u32 pass = (u32)MIN(iov->iov_len, *skip);

	*skip -= pass;
	*at = (u8 *)iov->iov_base + pass;
	return (u32)MIN(iov->iov_len - pass, len);
}

u32 iov_read(const struct iovec *iov, u32 nr, u32 skip, void *dst, u32 len)
{
	u32 done = 0;

	for (u32 i = 0; i < nr && done < len; i++) {
		u8 *at;
		u32 n = iov_part(&iov[i], &skip, len - done, &at);

		memmove((u8 *)dst + done, at, n);
		done += n;
	}
	return done;
}

u32 iov_write(const struct iovec *iov, u32 nr, u32 skip, const void *src, u32 len)
{
	u32 done = 0;

	for (u32 i = 0; i < nr && done < len; i++) {
		u8 *at;
		u32 n = iov_part(&iov[i], &skip, len - done, &at);

		memmove(at, (const u8 *)src + done, n);
		done += n;
	}
	return done;
}
