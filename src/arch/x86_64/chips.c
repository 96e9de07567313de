/*
 * chips.c: the chips together: ports and memory on the bus, GSIs to pins, the PICs' output to LINT0, channel 0 of the PIT to GSI 0.
 */
#include "arch/x86_64/chips_impl.h"

#include <stdlib.h>

#define PORT_PIC0    0x20u
#define PORT_PIC1    0xa0u
#define PORT_ELCR    0x4d0u
#define PORT_PIT     0x40u
#define PORT_SPEAKER 0x61u
#define GSI_PIT	     0u
#define NR_PIC_PINS  16u
#define IOAPIC_BYTES 0x100u

#define MSI_BASE    0xfee00000ull /* SDM 3A §11.11.1 */
#define MSI_HINT    0x8u
#define MSI_LOGICAL 0x4u
#define MSI_LEVEL   0x8000u

/* The loop's timers have milliseconds, and a guest must not keep it busier than that; while the clock stands still it only looks. */
#define PIT_MIN_NS    (NSEC_PER_MSEC / 2)
#define PIT_PAUSED_NS (20 * NSEC_PER_MSEC)

static struct chips *to_chips(struct device *dev)
{
	return container_of(dev, struct chips, dev);
}

/* ---- LINT0 ---- */

static bool takes_extint(const struct lapic *l)
{
	u32 lvt = lapic_get(l, LAPIC_LVT_LINT0);

	return !lapic_mode(l) || (!(lvt & LAPIC_LVT_MASKED) && LAPIC_LVT_MODE(lvt) == APIC_EXTINT);
}

/* After every change of the PICs: lock held. Modes other than ExtINT take the rising edge. */
static void pic_changed(struct chips *ch, bool before)
{
	if (!ch->pics.output)
		return;
	for (u32 i = 0; i < ch->nr_lapics; i++) {
		struct lapic *l = &ch->lapics[i];

		if (takes_extint(l))
			chips_wake(ch, i);
		else if (!before)
			lapic_deliver_local(l, LAPIC_LVT_LINT0);
	}
}

bool chips_extint_pending(struct chips *ch, u32 cpu)
{
	return __atomic_load_n(&ch->pics.output, __ATOMIC_ACQUIRE) && takes_extint(&ch->lapics[cpu]);
}

u8 chips_extint_accept(struct chips *ch, u32 cpu)
{
	u8 vector;

	(void)cpu;
	device_lock(&ch->dev);
	vector = pic_accept(&ch->pics);
	pic_changed(ch, true);
	device_unlock(&ch->dev);
	return vector;
}

/* ---- lines and messages ---- */

static void set_gsi(struct chips *ch, u32 gsi, bool level)
{
	bool output = ch->pics.output;

	if (gsi < X86_IOAPIC_PINS)
		ioapic_set_line(ch, gsi, level);
	if (gsi < NR_PIC_PINS) {
		pic_set_line(&ch->pics, gsi, level);
		if (ch->pics.output != output)
			pic_changed(ch, output);
	}
}

void chips_set_irq(struct chips *ch, u32 gsi, bool level)
{
	device_lock(&ch->dev);
	set_gsi(ch, gsi, level);
	device_unlock(&ch->dev);
}

void chips_msi(struct chips *ch, u64 address, u32 data)
{
	const struct apic_msg m = {
		.dest = (u32)(address >> 12 & 0xff),
		.vector = (u8)data,
		.mode = (u8)(data >> 8 & 7),
		.logical = address & MSI_LOGICAL,
		.level = data & MSI_LEVEL,
		.lowest = (data >> 8 & 7) == APIC_LOWEST || (address & MSI_HINT),
	};

	if ((address & ~0xfffffull) == MSI_BASE)
		apic_send(ch, &m);
}

/* ---- PIT: channel 0's interrupts come from the loop ---- */

/* ctx: loop */
static void rearm(struct loop_work *w)
{
	struct chips *ch = container_of(w, struct chips, pit_rearm);
	struct vm *vm = ch->dev.vm;
	u64 now = clock_now(vm), wait, at;

	device_lock(&ch->dev);
	at = ch->pit.irq_ns;
	device_unlock(&ch->dev);
	if (!at) {
		loop_timer_cancel(&vm->loop, &ch->pit_timer);
		return;
	}
	wait = at > now ? at - now : 0;
	loop_timer_arm(&vm->loop, &ch->pit_timer, clock_host_ns() + MAX(wait, vm->clock.paused ? PIT_PAUSED_NS : PIT_MIN_NS));
}

static void pit_expired(struct loop_timer *t)
{
	struct chips *ch = container_of(t, struct chips, pit_timer);

	device_lock(&ch->dev);
	if (pit_tick(&ch->pit, clock_now(ch->dev.vm))) {
		set_gsi(ch, GSI_PIT, true);
		set_gsi(ch, GSI_PIT, false);
	}
	device_unlock(&ch->dev);
	rearm(&ch->pit_rearm);
}

/* ---- bus: each chip takes one-byte accesses, the IOAPIC any aligned one ---- */

static void pit_bus_read(struct device *dev, u64 offset, void *data, u32 len)
{
	if (len == 1)
		*(u8 *)data = pit_read(&to_chips(dev)->pit, (u32)offset, clock_now(dev->vm));
}

static void pit_bus_write(struct device *dev, u64 offset, const void *data, u32 len)
{
	struct chips *ch = to_chips(dev);
	u64 before = ch->pit.irq_ns;

	if (len != 1)
		return;
	pit_write(&ch->pit, (u32)offset, *(const u8 *)data, clock_now(dev->vm));
	if (ch->pit.irq_ns != before)
		loop_post(&dev->vm->loop, &ch->pit_rearm);
}

static void speaker_bus_read(struct device *dev, u64 offset, void *data, u32 len)
{
	(void)offset;
	if (len == 1)
		*(u8 *)data = pit_read_speaker(&to_chips(dev)->pit, clock_now(dev->vm));
}

static void speaker_bus_write(struct device *dev, u64 offset, const void *data, u32 len)
{
	(void)offset;
	if (len == 1)
		pit_write_speaker(&to_chips(dev)->pit, *(const u8 *)data, clock_now(dev->vm));
}

static void pic_bus_read(struct chips *ch, u32 chip, u64 port, void *data, u32 len)
{
	bool output = ch->pics.output;

	if (len != 1)
		return;
	*(u8 *)data = pic_read(&ch->pics, chip, (u32)port);
	pic_changed(ch, output);
}

static void pic_bus_write(struct chips *ch, u32 chip, u64 port, const void *data, u32 len)
{
	bool output = ch->pics.output;

	if (len != 1)
		return;
	pic_write(&ch->pics, chip, (u32)port, *(const u8 *)data);
	pic_changed(ch, output);
}

static void pic0_bus_read(struct device *dev, u64 offset, void *data, u32 len)
{
	pic_bus_read(to_chips(dev), 0, offset, data, len);
}

static void pic0_bus_write(struct device *dev, u64 offset, const void *data, u32 len)
{
	pic_bus_write(to_chips(dev), 0, offset, data, len);
}

static void pic1_bus_read(struct device *dev, u64 offset, void *data, u32 len)
{
	pic_bus_read(to_chips(dev), 1, offset, data, len);
}

static void pic1_bus_write(struct device *dev, u64 offset, const void *data, u32 len)
{
	pic_bus_write(to_chips(dev), 1, offset, data, len);
}

static void elcr_bus_read(struct device *dev, u64 offset, void *data, u32 len)
{
	if (len == 1)
		*(u8 *)data = pic_read_elcr(&to_chips(dev)->pics, (u32)offset);
}

static void elcr_bus_write(struct device *dev, u64 offset, const void *data, u32 len)
{
	if (len == 1)
		pic_write_elcr(&to_chips(dev)->pics, (u32)offset, *(const u8 *)data);
}

static void ioapic_bus_read(struct device *dev, u64 offset, void *data, u32 len)
{
	u32 v = ioapic_read(&to_chips(dev)->ioapic, (u32)offset);

	__builtin_memcpy(data, &v, MIN(len, sizeof(v)));
}

static void ioapic_bus_write(struct device *dev, u64 offset, const void *data, u32 len)
{
	u32 v = 0;

	__builtin_memcpy(&v, data, MIN(len, sizeof(v)));
	ioapic_write(to_chips(dev), (u32)offset, v);
}

static const struct bus_ops pit_ops = {pit_bus_read, pit_bus_write}, speaker_ops = {speaker_bus_read, speaker_bus_write},
			    pic0_ops = {pic0_bus_read, pic0_bus_write}, pic1_ops = {pic1_bus_read, pic1_bus_write},
			    elcr_ops = {elcr_bus_read, elcr_bus_write}, ioapic_ops = {ioapic_bus_read, ioapic_bus_write};

static int add_ranges(struct chips *ch, struct err *e)
{
	static const struct {
		enum bus_space space;
		u64 base, len;
		const struct bus_ops *ops;
	} ranges[] = {
		{BUS_PIO, PORT_PIC0, 2, &pic0_ops},	  {BUS_PIO, PORT_PIC1, 2, &pic1_ops},
		{BUS_PIO, PORT_ELCR, 2, &elcr_ops},	  {BUS_PIO, PORT_PIT, 4, &pit_ops},
		{BUS_PIO, PORT_SPEAKER, 1, &speaker_ops}, {BUS_MMIO, X86_IOAPIC_GPA, IOAPIC_BYTES, &ioapic_ops},
	};
	int ret = 0;

	for (u32 i = 0; ret == 0 && i < ARRAY_SIZE(ranges); i++)
		ret = bus_add(ch->dev.vm, ranges[i].space, ranges[i].base, ranges[i].len, &ch->dev, ranges[i].ops, e);
	return ret;
}

/* ---- life ---- */

static void init_lapics(struct chips *ch, u32 nr)
{
	ch->lapics = aligned_alloc(_Alignof(struct lapic), nr * sizeof(*ch->lapics));
	ASSERT(ch->lapics);
	for (u32 i = 0; i < nr; i++) {
		struct lapic *l = &ch->lapics[i];

		*l = (struct lapic){.ch = ch, .id = i, .base = X86_LAPIC_GPA | LAPIC_BASE_ENABLE};
		lapic_put(l, LAPIC_ID, i << 24);
		lapic_timer_init(l);
		lapic_reset(l, i == 0);
	}
	ch->nr_lapics = nr;
}

int chips_new(struct chips **out, struct vm *vm, u32 nr_cpus, const struct chips_ops *ops, void *opaque, struct err *e)
{
	struct chips *ch = xzalloc(sizeof(*ch));
	int ret;

	ASSERT(nr_cpus && nr_cpus <= VM_MAX_VCPUS);
	ch->ops = ops;
	ch->opaque = opaque;
	ch->pit_timer.expired = pit_expired;
	ch->pit_rearm.run = rearm;
	device_init(&ch->dev, vm, NULL, "chips", NULL);
	ioapic_reset(&ch->ioapic);
	pic_reset(&ch->pics);
	pit_reset(&ch->pit, clock_now(vm));
	init_lapics(ch, nr_cpus);
	ret = add_ranges(ch, e);
	if (ret < 0) {
		chips_free(ch);
		return ret;
	}
	*out = ch;
	return 0;
}

void chips_free(struct chips *ch)
{
	if (!ch)
		return;
	loop_timer_cancel(&ch->dev.vm->loop, &ch->pit_timer);
	loop_work_cancel(&ch->dev.vm->loop, &ch->pit_rearm);
	device_fini(&ch->dev);
	free(ch->lapics);
	free(ch);
}

void chips_save(struct chips *ch, struct x86_chips_state *s)
{
	device_lock(&ch->dev);
	ioapic_save(&ch->ioapic, &s->ioapic);
	pic_save(&ch->pics, s->pic);
	pit_save(&ch->pit, s, clock_now(ch->dev.vm));
	device_unlock(&ch->dev);
}

void chips_load(struct chips *ch, const struct x86_chips_state *s)
{
	device_lock(&ch->dev);
	pic_load(&ch->pics, s->pic);
	pit_load(&ch->pit, s, clock_now(ch->dev.vm));
	ioapic_load(ch, &s->ioapic);
	pic_changed(ch, true); /* an edge that LINT0 has had is in the LAPIC's registers */
	device_unlock(&ch->dev);
	rearm(&ch->pit_rearm);
}

struct lapic *chips_lapic(struct chips *ch, u32 cpu)
{
	ASSERT(cpu < ch->nr_lapics);
	return &ch->lapics[cpu];
}
