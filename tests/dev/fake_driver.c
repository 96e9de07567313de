/* fake_driver.c: the driver's side of virtio-mmio, split and packed rings; see fake_driver.h. */
#include "tests/dev/fake_driver.h"

#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define MAX_TABLE      64u /* elements of one indirect table */
#define TABLE_BYTES    (MAX_TABLE * 16u)
#define POLL_US	       20u
#define REQUEST_MS     5000u
#define SPLIT_ENTRIES  4u /* offset of the entries in both rings */
#define PACKED_DISABLE 1u
#define PACKED_DESC    2u

static bool before(u64 deadline_ns)
{
	if (clock_host_ns() >= deadline_ns)
		return false;
	usleep(POLL_US);
	return true;
}

static u64 deadline(u32 timeout_ms)
{
	return clock_host_ns() + timeout_ms * NSEC_PER_MSEC;
}

/* ---- registers ---- */

u32 fdrv_read(struct fdrv *d, u32 reg)
{
	u32 val;

	bus_read(&d->f->vm, BUS_MMIO, d->base + reg, &val, sizeof(val));
	return val;
}

void fdrv_write(struct fdrv *d, u32 reg, u32 val)
{
	bus_write(&d->f->vm, BUS_MMIO, d->base + reg, &val, sizeof(val));
}

static u64 config_read(struct fdrv *d, u32 off, u32 len)
{
	u64 val = 0;

	bus_read(&d->f->vm, BUS_MMIO, d->base + MMIO_CONFIG + off, &val, len);
	return val;
}

u8 fdrv_config8(struct fdrv *d, u32 off)
{
	return (u8)config_read(d, off, 1);
}

u16 fdrv_config16(struct fdrv *d, u32 off)
{
	return (u16)config_read(d, off, 2);
}

u32 fdrv_config32(struct fdrv *d, u32 off)
{
	return (u32)config_read(d, off, 4);
}

u64 fdrv_config64(struct fdrv *d, u32 off)
{
	return config_read(d, off, 8);
}

void fdrv_config_write(struct fdrv *d, u32 off, const void *data, u32 len)
{
	bus_write(&d->f->vm, BUS_MMIO, d->base + MMIO_CONFIG + off, data, len);
}

u32 fdrv_edges(const struct fdrv *d)
{
	return __atomic_load_n(&d->f->edges[d->gsi], __ATOMIC_ACQUIRE);
}

u32 fdrv_isr(struct fdrv *d)
{
	return fdrv_read(d, MMIO_INTERRUPT_STATUS);
}

/* ---- bringing the device up ---- */

static void add_status(struct fdrv *d, u32 bits)
{
	fdrv_write(d, MMIO_STATUS, fdrv_read(d, MMIO_STATUS) | bits);
}

static u64 offered_features(struct fdrv *d)
{
	u64 lo, hi;

	fdrv_write(d, MMIO_DEVICE_FEATURES_SEL, 0);
	lo = fdrv_read(d, MMIO_DEVICE_FEATURES);
	fdrv_write(d, MMIO_DEVICE_FEATURES_SEL, 1);
	hi = fdrv_read(d, MMIO_DEVICE_FEATURES);
	return hi << 32 | lo;
}

bool fdrv_reset(struct fdrv *d, u32 timeout_ms)
{
	u64 end = deadline(timeout_ms);

	fdrv_write(d, MMIO_STATUS, 0);
	while (fdrv_read(d, MMIO_STATUS)) {
		if (!before(end))
			return false;
	}
	return true;
}

bool fdrv_probe(struct fdrv *d, struct fake_vm *f, struct device *dev, u64 wanted)
{
	*d = (struct fdrv){.f = f, .dev = dev, .base = dev->slot.mmio_base, .gsi = dev->slot.gsi};
	if (!fdrv_reset(d, REQUEST_MS))
		return false;
	add_status(d, VIRTIO_S_ACKNOWLEDGE);
	add_status(d, VIRTIO_S_DRIVER);
	d->features = offered_features(d) & (wanted | FDRV_VERSION_1);
	fdrv_write(d, MMIO_DRIVER_FEATURES_SEL, 0);
	fdrv_write(d, MMIO_DRIVER_FEATURES, (u32)d->features);
	fdrv_write(d, MMIO_DRIVER_FEATURES_SEL, 1);
	fdrv_write(d, MMIO_DRIVER_FEATURES, (u32)(d->features >> 32));
	add_status(d, VIRTIO_S_FEATURES_OK);
	return fdrv_read(d, MMIO_STATUS) & VIRTIO_S_FEATURES_OK;
}

static void alloc_rings(struct fdrv *d, struct fdrv_queue *q)
{
	u64 driver_len = q->packed ? 4 : 6u + 2u * q->size, device_len = q->packed ? 4 : 6u + 8u * q->size;

	q->desc_gpa = fake_vm_alloc(d->f, 16u * q->size, 16);
	q->driver_gpa = fake_vm_alloc(d->f, driver_len, 4);
	q->device_gpa = fake_vm_alloc(d->f, device_len, 4);
	q->tables_gpa = fake_vm_alloc(d->f, (u64)TABLE_BYTES * q->size, 16);
	q->desc = fake_vm_ptr(d->f, q->desc_gpa, 16u * q->size);
	q->driver = fake_vm_ptr(d->f, q->driver_gpa, driver_len);
	q->device = fake_vm_ptr(d->f, q->device_gpa, device_len);
}

void fdrv_queue_write(struct fdrv *d, u16 index)
{
	const struct fdrv_queue *q = &d->q[index];

	fdrv_write(d, MMIO_QUEUE_SEL, index);
	fdrv_write(d, MMIO_QUEUE_NUM, q->size);
	fdrv_write(d, MMIO_QUEUE_DESC_LOW, (u32)q->desc_gpa);
	fdrv_write(d, MMIO_QUEUE_DESC_HIGH, (u32)(q->desc_gpa >> 32));
	fdrv_write(d, MMIO_QUEUE_DRIVER_LOW, (u32)q->driver_gpa);
	fdrv_write(d, MMIO_QUEUE_DRIVER_HIGH, (u32)(q->driver_gpa >> 32));
	fdrv_write(d, MMIO_QUEUE_DEVICE_LOW, (u32)q->device_gpa);
	fdrv_write(d, MMIO_QUEUE_DEVICE_HIGH, (u32)(q->device_gpa >> 32));
	fdrv_write(d, MMIO_QUEUE_READY, 1);
}

void fdrv_queue_setup(struct fdrv *d, u16 index, u16 size)
{
	struct fdrv_queue *q = &d->q[index];

	ASSERT(size <= ARRAY_SIZE(q->ids));
	*q = (struct fdrv_queue){
		.index = index,
		.size = size,
		.packed = d->features & FDRV_PACKED,
		.event_idx = d->features & FDRV_EVENT_IDX,
		.indirect = d->features & FDRV_INDIRECT,
		.avail_wrap = true,
		.used_wrap = true,
		.nr_free = size,
		.nr_ids = size,
	};
	for (u16 i = 0; i < size; i++)
		q->ids[i] = (u16)(size - 1 - i);
	alloc_rings(d, q);
	fdrv_queue_write(d, index);
}

bool fdrv_driver_ok(struct fdrv *d)
{
	add_status(d, VIRTIO_S_DRIVER_OK);
	return !(fdrv_read(d, MMIO_STATUS) & VIRTIO_S_NEEDS_RESET);
}

void fdrv_up(struct fdrv *d, struct fake_vm *f, struct device *dev, u64 wanted, u16 nr_queues, u16 size)
{
	if (!fdrv_probe(d, f, dev, wanted))
		fake_die("the device refuses the features", NULL);
	for (u16 i = 0; i < nr_queues; i++)
		fdrv_queue_setup(d, i, size);
	if (!fdrv_driver_ok(d))
		fake_die("the device refuses the queues", NULL);
}

/* ---- making buffers available ---- */

static void store16(u8 *at, u16 v)
{
	__atomic_store_n((u16 *)(void *)at, v, __ATOMIC_RELEASE);
}

static u16 load16(const u8 *at)
{
	return __atomic_load_n((const u16 *)(const void *)at, __ATOMIC_ACQUIRE);
}

void fdrv_raw_desc(u8 *table, u32 i, u64 gpa, u32 len, u16 flags, u16 id_next, bool packed)
{
	u8 *at = table + 16 * i;

	st_le64(at, gpa);
	st_le32(at + 8, len);
	st_le16(at + (packed ? 12 : 14), id_next);
	store16(at + (packed ? 14 : 12), flags);
}

void fdrv_raw_avail(struct fdrv *d, u16 index, u16 head)
{
	struct fdrv_queue *q = &d->q[index];

	st_le16(q->driver + SPLIT_ENTRIES + 2 * (q->avail % q->size), head);
	store16(q->driver + 2, ++q->avail);
	q->nr_since_kick++;
}

struct elem { /* a descriptor to be */
	struct fbuf buf;
	u16 flags; /* FDESC_WRITE, FDESC_INDIRECT */
};

static u16 take_id(struct fdrv_queue *q)
{
	return q->ids[--q->nr_ids];
}

/* Split: the id is the first descriptor, and the others are ids as well. */
static void place_split(struct fdrv *d, struct fdrv_queue *q, const struct elem *elems, u16 nr, u16 id)
{
	u16 at = id;

	for (u16 i = 0; i < nr; i++) {
		bool last = i + 1 == nr;
		u16 next = last ? 0 : take_id(q);

		fdrv_raw_desc(q->desc, at, elems[i].buf.gpa, elems[i].buf.len, (u16)(elems[i].flags | (last ? 0 : FDESC_NEXT)), next,
			      false);
		at = next;
	}
	fdrv_raw_avail(d, q->index, id);
}

/* Packed: nr slots from the next one on; the first becomes available last. */
static void place_packed(struct fdrv_queue *q, const struct elem *elems, u16 nr, u16 id)
{
	u16 first = q->avail, first_flags = 0;

	for (u16 i = 0; i < nr; i++) {
		u16 flags = (u16)(elems[i].flags | (i + 1 == nr ? 0 : FDESC_NEXT) | (q->avail_wrap ? FDESC_AVAIL : FDESC_USED));

		if (i == 0)
			first_flags = flags;
		fdrv_raw_desc(q->desc, q->avail, elems[i].buf.gpa, elems[i].buf.len, i == 0 ? load16(q->desc + 16 * q->avail + 14) : flags,
			      id, true);
		if (++q->avail == q->size) {
			q->avail = 0;
			q->avail_wrap = !q->avail_wrap;
		}
	}
	store16(q->desc + 16 * first + 14, first_flags);
	q->nr_since_kick = (u16)(q->nr_since_kick + nr);
}

/* Moves the elements into the indirect table of the id; one element is left. */
static void move_to_table(struct fdrv *d, struct fdrv_queue *q, struct elem *elems, u16 nr, u16 id)
{
	u64 gpa = q->tables_gpa + (u64)id * TABLE_BYTES;
	u8 *table = fake_vm_ptr(d->f, gpa, TABLE_BYTES);

	ASSERT(nr <= MAX_TABLE);
	for (u16 i = 0; i < nr; i++) {
		bool chained = !q->packed && i + 1 < nr;

		fdrv_raw_desc(table, i, elems[i].buf.gpa, elems[i].buf.len, (u16)(elems[i].flags | (chained ? FDESC_NEXT : 0)),
			      chained ? (u16)(i + 1) : 0, q->packed);
	}
	elems[0] = (struct elem){{gpa, nr * 16u}, FDESC_INDIRECT};
}

bool fdrv_add(struct fdrv *d, u16 index, const struct fbuf *out, u16 nr_out, const struct fbuf *in, u16 nr_in, void *token)
{
	struct fdrv_queue *q = &d->q[index];
	u16 nr = (u16)(nr_out + nr_in), slots = q->indirect && nr > 1 ? 1 : nr, id;
	struct elem elems[256];

	ASSERT(nr && nr <= ARRAY_SIZE(elems));
	if (q->nr_free < slots || !q->nr_ids)
		return false;
	for (u16 i = 0; i < nr; i++)
		elems[i] = i < nr_out ? (struct elem){out[i], 0} : (struct elem){in[i - nr_out], FDESC_WRITE};
	id = take_id(q);
	q->nr_free = (u16)(q->nr_free - slots);
	q->bufs[id].token = token;
	q->bufs[id].nr_descs = slots;
	q->bufs[id].busy = true;
	if (slots < nr)
		move_to_table(d, q, elems, nr, id);
	if (q->packed)
		place_packed(q, elems, slots, id);
	else
		place_split(d, q, elems, slots, id);
	return true;
}

/* ---- kicks and used buffers ---- */

static bool event_passed(u16 event, u16 idx, u16 n)
{
	return (u16)(idx - event - 1) < n;
}

static bool device_wants_kick(const struct fdrv_queue *q)
{
	u16 event, flags;

	if (!q->packed) {
		if (q->event_idx)
			return event_passed(load16(q->device + SPLIT_ENTRIES + 8 * q->size), q->avail, q->nr_since_kick);
		return !(load16(q->device) & 1);
	}
	flags = load16(q->device + 2);
	event = load16(q->device);
	if (flags != PACKED_DESC)
		return flags != PACKED_DISABLE;
	ASSERT(q->event_idx);
	if (!!(event & FDESC_USED) != q->avail_wrap)
		return event_passed((u16)((event & 0x7fff) - q->size), q->avail, q->nr_since_kick);
	return event_passed(event & 0x7fff, q->avail, q->nr_since_kick);
}

void fdrv_notify(struct fdrv *d, u16 index)
{
	struct fake_vm *f = d->f;

	d->q[index].kicks++;
	for (u32 i = 0; i < f->nr_ioeventfds; i++) {
		if (f->ioeventfds[i].addr == d->base + MMIO_QUEUE_NOTIFY && f->ioeventfds[i].value == index) {
			/* ThreadSanitizer sees the order that the kernel gives only where an eventfd is read, which husk does not do here.
			 */
			device_lock(d->dev);
			device_unlock(d->dev);
			ASSERT(eventfd_write(f->ioeventfds[i].fd, 1) == 0);
			return;
		}
	}
	fdrv_write(d, MMIO_QUEUE_NOTIFY, index);
}

bool fdrv_kick(struct fdrv *d, u16 index)
{
	struct fdrv_queue *q = &d->q[index];
	bool wanted;

	__sync_synchronize(); /* what is available, before what the device wants */
	wanted = device_wants_kick(q);
	q->nr_since_kick = 0;
	if (wanted)
		fdrv_notify(d, index);
	return wanted;
}

static bool has_used(const struct fdrv_queue *q)
{
	u16 flags;

	if (!q->packed)
		return load16(q->device + 2) != q->used;
	flags = load16(q->desc + 16 * q->used + 14);
	return !!(flags & FDESC_AVAIL) == q->used_wrap && !!(flags & FDESC_USED) == q->used_wrap;
}

/* Split: the chain's descriptors become free ids again, by way of their next fields. */
static void free_buf(struct fdrv_queue *q, u16 id)
{
	u16 at = id;

	ASSERT(id < q->size && q->bufs[id].busy);
	q->bufs[id].busy = false;
	q->nr_free = (u16)(q->nr_free + q->bufs[id].nr_descs);
	q->ids[q->nr_ids++] = id;
	for (u16 i = 1; !q->packed && i < q->bufs[id].nr_descs; i++) {
		at = ld_le16(q->desc + 16 * at + 14);
		q->ids[q->nr_ids++] = at;
	}
}

bool fdrv_get_used(struct fdrv *d, u16 index, void **token, u32 *len)
{
	struct fdrv_queue *q = &d->q[index];
	const u8 *entry;
	u16 id;
	u32 n;

	if (!has_used(q))
		return false;
	if (q->packed) {
		entry = q->desc + 16 * q->used;
		id = ld_le16(entry + 12);
		n = ld_le16(entry + 14) & FDESC_WRITE ? ld_le32(entry + 8) : 0;
		ASSERT(id < q->size);
		q->used = (u16)(q->used + q->bufs[id].nr_descs);
		if (q->used >= q->size) {
			q->used = (u16)(q->used - q->size);
			q->used_wrap = !q->used_wrap;
		}
	} else {
		entry = q->device + SPLIT_ENTRIES + 8 * (q->used++ % q->size);
		id = (u16)ld_le32(entry);
		n = ld_le32(entry + 4);
	}
	free_buf(q, id);
	if (token)
		*token = q->bufs[id].token;
	if (len)
		*len = n;
	return true;
}

static void want_interrupts_packed(struct fdrv_queue *q, bool on)
{
	if (on && q->event_idx)
		store16(q->driver, (u16)(q->used | (q->used_wrap ? FDESC_USED : 0)));
	store16(q->driver + 2, !on ? PACKED_DISABLE : q->event_idx ? PACKED_DESC : 0);
}

void fdrv_want_interrupts(struct fdrv *d, u16 index, bool on)
{
	struct fdrv_queue *q = &d->q[index];

	if (q->packed)
		want_interrupts_packed(q, on);
	else if (q->event_idx) /* off: an event that has just passed comes round again last */
		store16(q->driver + SPLIT_ENTRIES + 2 * q->size, on ? q->used : (u16)(q->used - 1));
	else
		store16(q->driver, on ? 0 : 1);
	__sync_synchronize(); /* what we want, before we look whether it is there already */
}

bool fdrv_wait_used(struct fdrv *d, u16 index, void **token, u32 *len, u32 timeout_ms)
{
	struct fdrv_queue *q = &d->q[index];
	u64 end = deadline(timeout_ms);

	for (;;) {
		u32 edges = fdrv_edges(d);

		if (fdrv_get_used(d, index, token, len))
			return true;
		if (!q->polled)
			fdrv_want_interrupts(d, index, true);
		if (has_used(q))
			continue;
		while (fdrv_edges(d) == edges && !(q->polled && has_used(q))) {
			if (!before(end))
				return false;
		}
		if (!q->polled)
			fdrv_write(d, MMIO_INTERRUPT_ACK, fdrv_isr(d));
	}
}

u32 fdrv_request(struct fdrv *d, u16 q, const struct fbuf *out, u16 nr_out, const struct fbuf *in, u16 nr_in)
{
	void *token;
	u32 len;

	if (!fdrv_add(d, q, out, nr_out, in, nr_in, &len))
		fake_die("the ring is full", NULL);
	fdrv_kick(d, q);
	if (!fdrv_wait_used(d, q, &token, &len, REQUEST_MS))
		fake_die("the device does not answer", NULL);
	ASSERT(token == &len);
	return len;
}

/* ---- waiting ---- */

bool fdrv_wait_needs_reset(struct fdrv *d, u32 timeout_ms)
{
	u64 end = deadline(timeout_ms);

	while (!(fdrv_read(d, MMIO_STATUS) & VIRTIO_S_NEEDS_RESET)) {
		if (!before(end))
			return false;
	}
	return true;
}

struct sync_work {
	struct loop_work work; /* first */
	bool done;	       /* atomic */
};

static void sync_run(struct loop_work *w)
{
	__atomic_store_n(&((struct sync_work *)w)->done, true, __ATOMIC_RELEASE);
}

void fdrv_sync(struct fdrv *d)
{
	/* The first one may run in a turn of the loop before kicks that the same turn has found; the second not. */
	for (int turn = 0; turn < 2; turn++) {
		struct sync_work sync = {.work.run = sync_run};

		loop_post(&d->f->vm.loop, &sync.work);
		while (!__atomic_load_n(&sync.done, __ATOMIC_ACQUIRE))
			usleep(POLL_US);
	}
}
