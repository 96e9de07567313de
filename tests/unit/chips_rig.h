/*
 * chips_rig.h: the interrupt chips on the bus of a VM whose clock the test holds (vm.clock stands at `now`), with an accelerator that
 * records: how often each CPU was woken, and when its timer is to expire.
 */
#ifndef HUSK_TEST_CHIPS_RIG_H
#define HUSK_TEST_CHIPS_RIG_H

#include "cm.h"

#include <stdlib.h>

#include "arch/x86_64/chips_impl.h"

#define RIG_CPUS  20u /* more than one cluster of x2APIC mode */
#define RIG_START (1000 * NSEC_PER_SEC)

struct rig {
	struct vm vm;
	struct trace trace;
	struct chips *ch;
	u32 woken[RIG_CPUS];
	u64 timer[RIG_CPUS]; /* host time */
	u64 tsc;
};

static void rig_wake(void *opaque, u32 cpu)
{
	struct rig *r = opaque;

	__atomic_fetch_add(&r->woken[cpu], 1, __ATOMIC_RELAXED);
}

static void rig_set_timer(void *opaque, u32 cpu, u64 host_ns)
{
	struct rig *r = opaque;

	r->timer[cpu] = host_ns;
}

static u64 rig_rdtsc(void *opaque, u32 cpu)
{
	const struct rig *r = opaque;

	(void)cpu;
	return r->tsc;
}

/* One tick of the TSC is a nanosecond. */
static u64 rig_tsc_to_host_ns(void *opaque, u32 cpu, u64 tsc)
{
	const struct rig *r = opaque;

	(void)cpu;
	return clock_host_ns() + (tsc - r->tsc);
}

static inline int rig_setup(void **state)
{
	static const struct chips_ops ops = {rig_wake, rig_set_timer, rig_rdtsc, rig_tsc_to_host_ns};
	struct rig *r = xzalloc(sizeof(*r));
	struct err e;

	r->vm.trace = &r->trace;
	r->vm.clock = (struct clock){.paused = true, .paused_at_ns = RIG_START};
	r->tsc = 1000000;
	assert_int_equal(loop_init(&r->vm.loop, &e), 0);
	assert_int_equal(chips_new(&r->ch, &r->vm, RIG_CPUS, &ops, r, &e), 0);
	*state = r;
	return 0;
}

static inline int rig_teardown(void **state)
{
	struct rig *r = *state;

	chips_free(r->ch);
	bus_fini(&r->vm.bus[BUS_PIO]);
	bus_fini(&r->vm.bus[BUS_MMIO]);
	loop_fini(&r->vm.loop);
	free(r);
	return 0;
}

static inline void rig_advance(struct rig *r, u64 ns)
{
	r->vm.clock.paused_at_ns += ns;
}

static inline u8 rig_in(struct rig *r, u16 port)
{
	u8 val;

	bus_read(&r->vm, BUS_PIO, port, &val, 1);
	return val;
}

static inline void rig_out(struct rig *r, u16 port, u8 val)
{
	bus_write(&r->vm, BUS_PIO, port, &val, 1);
}

static inline u32 rig_ioapic_read(struct rig *r, u8 reg)
{
	u32 select = reg, val;

	bus_write(&r->vm, BUS_MMIO, X86_IOAPIC_GPA, &select, 4);
	bus_read(&r->vm, BUS_MMIO, X86_IOAPIC_GPA + 0x10, &val, 4);
	return val;
}

static inline void rig_ioapic_write(struct rig *r, u8 reg, u32 val)
{
	u32 select = reg;

	bus_write(&r->vm, BUS_MMIO, X86_IOAPIC_GPA, &select, 4);
	bus_write(&r->vm, BUS_MMIO, X86_IOAPIC_GPA + 0x10, &val, 4);
}

/* A pin's entry: both halves, masked while they change. */
static inline void rig_route(struct rig *r, u32 pin, u32 low, u8 dest)
{
	rig_ioapic_write(r, (u8)(0x10 + pin * 2), 0x10000);
	rig_ioapic_write(r, (u8)(0x11 + pin * 2), (u32)dest << 24);
	rig_ioapic_write(r, (u8)(0x10 + pin * 2), low);
}

static inline struct lapic *rig_lapic(struct rig *r, u32 cpu)
{
	return chips_lapic(r->ch, cpu);
}

/* Software enable, spurious vector 0xff. */
static inline struct lapic *rig_enable(struct rig *r, u32 cpu)
{
	struct lapic *l = rig_lapic(r, cpu);

	lapic_mmio_write(l, 0xf0, 0x1ff);
	return l;
}

static inline struct lapic *rig_enable_x2apic(struct rig *r, u32 cpu)
{
	struct lapic *l = rig_enable(r, cpu);

	assert_true(lapic_set_base(l, lapic_base(l) | LAPIC_BASE_X2APIC));
	return l;
}

/* Takes what is pending and is expected to be `vector`. */
static inline void rig_take(struct lapic *l, int vector)
{
	assert_int_equal(lapic_pending(l), vector);
	lapic_accept(l, (u8)vector);
}

static inline void rig_eoi(struct lapic *l)
{
	if (lapic_base(l) & LAPIC_BASE_X2APIC)
		assert_true(lapic_msr_write(l, 0x80b, 0));
	else
		lapic_mmio_write(l, 0xb0, 0);
}

#endif
