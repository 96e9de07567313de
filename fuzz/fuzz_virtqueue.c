/* fuzz_virtqueue.c: a driver that puts anything into rings and registers, against the virtio core and an echo device on real guest memory.
 */
#include <fcntl.h>
#include <string.h>

#include "fuzz/input.h"
#include "tests/dev/echo_device.h"
#include "tests/dev/fake_driver.h"

/* The input is a sequence of operations, one byte each and its operands. What is missing at the end reads as zero. */
enum op {
	OP_KICK,
	OP_CHAIN,    /* a chain that hangs together, with elements of any kind, made available and kicked */
	OP_DESC,     /* one descriptor of the ring or of the indirect table */
	OP_AVAIL,    /* split: head and index; packed: flags of a slot */
	OP_EVENT,    /* the driver's wish for interrupts: what precedes or follows the ring, or the packed event structure */
	OP_WRITE,    /* 16 bits anywhere in the first 64 KiB */
	OP_REGISTER, /* 32 bits to any register */
	OP_CONFIG,   /* read and write configuration space in any size */
	OP_RELEASE,  /* ends what the device holds in flight */
	OP_TUNE,     /* how the device behaves */
	OP_BRING_UP, /* reset and a start by the book */
	OP_SETUP,    /* reset and a start with rings anywhere */
	NR_OPS,
};

#define TABLE	      0x8000u
#define TABLE_ENTRIES 32u
#define MAX_OPS	      400u

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

/* Mostly addresses that are RAM, and those around its limits. */
static u64 take_address(struct input *in)
{
	static const u64 bases[] = {0,	     TABLE, FAKE_RAM_LOW - 0x100, FAKE_RAM_HIGH_BASE, FAKE_RAM_HIGH_BASE + FAKE_RAM_HIGH - 0x100,
				    ~0xffull};
	u64 kind = take(in, 1), offset = take(in, 2);

	return kind < 128 ? bases[kind % ARRAY_SIZE(bases)] + offset : take(in, 8);
}

static void op_desc(struct fdrv *d, struct input *in)
{
	struct fdrv_queue *q = &d->q[0];
	u32 slot = (u32)take(in, 1);
	u64 gpa = take_address(in);
	u32 len = (u32)take(in, slot & 1 ? 1 : 4);
	u16 flags = (u16)take(in, 1) & 7, link = (u16)take(in, 1);
	u8 *table = fake_vm_ptr(d->f, TABLE, TABLE_ENTRIES * 16);

	if (slot & 0x80)
		fdrv_raw_desc(table, slot % TABLE_ENTRIES, gpa, len, flags, link, q->packed);
	else if (q->size)
		fdrv_raw_desc(q->desc, slot % q->size, gpa, len, flags, link, q->packed);
}

static void op_avail(struct fdrv *d, struct input *in)
{
	struct fdrv_queue *q = &d->q[0];
	u16 what = (u16)take(in, 1);
	u8 *flags;

	if (!q->size)
		return;
	if (!q->packed) {
		fdrv_raw_avail(d, 0, what);
		return;
	}
	flags = q->desc + 16 * (what % q->size) + 14;
	st_le16(flags, (u16)((ld_le16(flags) & 7) | (what & 0x80 ? FDESC_USED : FDESC_AVAIL)));
}

/* Elements from `first` on, in ring or indirect table, linked in order. */
static void write_elements(struct fdrv *d, struct input *in, u8 *at, u32 first, u32 nr, u32 wrap_at)
{
	struct fdrv_queue *q = &d->q[0];

	for (u32 i = 0; i < nr; i++) {
		u32 slot = (first + i) % wrap_at;
		u64 gpa = take_address(in);
		u8 kind = (u8)take(in, 1);
		u32 len = (u32)take(in, kind & 0x80 ? 4 : 1);
		u16 flags = (kind & 0x60 ? kind & FDESC_WRITE : kind & 7) | (i + 1 < nr ? FDESC_NEXT : 0);

		/* Half of what refers to a table refers to ours. */
		if (flags & FDESC_INDIRECT && kind & 8) {
			gpa = TABLE;
			len = 16 * (len % TABLE_ENTRIES);
		}
		fdrv_raw_desc(at, slot, gpa, len,
			      (u16)(flags | (q->packed && at == q->desc ? (q->avail_wrap ? FDESC_AVAIL : FDESC_USED) : 0)),
			      (u16)((slot + 1) % wrap_at), q->packed);
		if (q->packed && at == q->desc && slot + 1 == wrap_at)
			q->avail_wrap = !q->avail_wrap;
	}
}

static void op_chain(struct fdrv *d, struct input *in)
{
	struct fdrv_queue *q = &d->q[0];
	u8 shape = (u8)take(in, 1);
	u32 nr = (shape & 7) + 1, nr_table = shape >> 3 & 7;
	u16 head;

	if (!q->size)
		return;
	head = q->avail % q->size;
	write_elements(d, in, fake_vm_ptr(d->f, TABLE, TABLE_ENTRIES * 16), 0, nr_table, TABLE_ENTRIES);
	write_elements(d, in, q->desc, head, nr, q->size);
	if (q->packed)
		q->avail = (u16)((q->avail + nr) % q->size);
	else
		fdrv_raw_avail(d, 0, head);
	if (!(shape & 0x80))
		fdrv_notify(d, 0);
}

static void op_event(struct fdrv *d, struct input *in)
{
	struct fdrv_queue *q = &d->q[0];
	u32 val = (u32)take(in, 4);

	if (!q->size)
		return;
	if (q->packed) {
		st_le32(q->driver, val);
	} else {
		st_le16(q->driver, (u16)val);
		st_le16(q->driver + 4 + 2 * q->size, (u16)(val >> 16));
	}
}

static void op_config(struct fdrv *d, struct input *in)
{
	u32 len = 1u << (take(in, 1) & 3), off = (u32)take(in, 1);
	u64 val = take(in, 8);

	fdrv_config_write(d, off, &val, len);
	bus_read(&d->f->vm, BUS_MMIO, d->base + MMIO_CONFIG + off, &val, len);
}

/* For fdrv_probe, which waits for the reset: the loop runs on this thread. */
static void end_in_flight(struct fdrv *d, struct device *dev)
{
	fdrv_write(d, MMIO_STATUS, 0);
	echo_release(to_echo(dev));
	loop_turn(&d->f->vm.loop, 0);
}

static void op_bring_up(struct fdrv *d, struct input *in, struct device *dev)
{
	u64 features = FDRV_VERSION_1;
	u8 bits = (u8)take(in, 1);

	end_in_flight(d, dev);
	features |= (bits & 1 ? FDRV_PACKED : 0) | (bits & 2 ? FDRV_EVENT_IDX : 0) | (bits & 4 ? FDRV_INDIRECT : 0);
	ASSERT(fdrv_probe(d, d->f, dev, features));
	fdrv_queue_setup(d, 0, (u16)(1u << (bits >> 3 & 7)));
	ASSERT(fdrv_driver_ok(d));
}

static void op_setup(struct fdrv *d, struct input *in, struct device *dev)
{
	struct fdrv_queue *q = &d->q[0];

	end_in_flight(d, dev);
	ASSERT(fdrv_probe(d, d->f, dev, take(in, 1) & 1 ? FDRV_PACKED : 0));
	q->size = (u16)take(in, 2);
	q->desc_gpa = take_address(in);
	q->driver_gpa = take_address(in);
	q->device_gpa = take_address(in);
	fdrv_queue_write(d, 0);
	fdrv_driver_ok(d);
	q->size = 0; /* ops that fill rings leave this one alone */
}

static void run_op(struct fdrv *d, struct input *in, struct device *dev)
{
	struct echo_dev *echo = to_echo(dev);
	u32 val;

	switch ((enum op)(take(in, 1) % NR_OPS)) {
	case OP_KICK:
		fdrv_notify(d, 0);
		break;
	case OP_CHAIN:
		op_chain(d, in);
		break;
	case OP_DESC:
		op_desc(d, in);
		return;
	case OP_AVAIL:
		op_avail(d, in);
		return;
	case OP_EVENT:
		op_event(d, in);
		return;
	case OP_WRITE:
		val = (u32)take(in, 4);
		st_le16(fake_vm_ptr(d->f, val & 0xffff, 2), (u16)(val >> 16));
		return;
	case OP_REGISTER:
		val = (u32)take(in, 1) << 2;
		fdrv_write(d, val, (u32)take(in, 4));
		fdrv_read(d, val);
		break;
	case OP_CONFIG:
		op_config(d, in);
		break;
	case OP_RELEASE:
		echo_release(echo);
		break;
	case OP_TUNE:
		val = (u32)take(in, 1);
		echo->cfg = (struct echo_cfg){
			.touch = true,
			.hold = val & 1,
			.reverse = val & 2,
			.many = val & 4,
			.no_kicks = val & 8,
			.no_notify = val & 16,
			.unpop_first = val & 32,
		};
		return;
	case OP_SETUP:
		op_setup(d, in, dev);
		break;
	case OP_BRING_UP:
	case NR_OPS:
		op_bring_up(d, in, dev);
		break;
	}
	loop_turn(&d->f->vm.loop, 0);
}

/* Whatever came before: a reset ends in a device that works. */
static void check_recovers(struct fdrv *d, struct device *dev)
{
	struct input none = {0};
	struct fbuf in = {0x100, 8};
	u32 len;

	to_echo(dev)->cfg = (struct echo_cfg){.touch = true};
	op_bring_up(d, &none, dev);
	loop_turn(&d->f->vm.loop, 0);
	ASSERT(fdrv_add(d, 0, NULL, 0, &in, 1, NULL));
	fdrv_notify(d, 0);
	loop_turn(&d->f->vm.loop, 0);
	ASSERT(fdrv_get_used(d, 0, NULL, &len) && len == 8);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static struct fake_vm f; /* kept over runs: making one takes longer than a run */
	static struct device *dev;
	static u64 first_free;
	struct input in = {data, data + size};
	struct fdrv d;

	if (!dev) {
		fake_vm_init(&f, FAKE_VM_QUIET);
		dev = fake_vm_add(&f, &echo_class, &(struct echo_cfg){.touch = true});
		first_free = f.next_gpa;
	}
	/* Each run starts from memory that is zero, so that it depends on its input alone. */
	ASSERT(fallocate(f.vm.mem.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)f.vm.mem.size) == 0);
	f.next_gpa = first_free;
	to_echo(dev)->cfg = (struct echo_cfg){.touch = true};
	d = (struct fdrv){.f = &f, .dev = dev, .base = dev->slot.mmio_base, .gsi = dev->slot.gsi};
	op_bring_up(&d, &in, dev);
	for (u32 i = 0; i < MAX_OPS && in.at < in.end; i++)
		run_op(&d, &in, dev);
	check_recovers(&d, dev);
	return 0;
}
