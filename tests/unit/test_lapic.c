/* test_lapic.c: priorities, destinations, the two modes and the timer of the local APIC; sections of SDM 3A chapter 11. */
#include "chips_rig.h"

#include <pthread.h>
#include <string.h>

#define X2_ICR(dest, low) ((u64)(dest) << 32 | (low))

static void raise_irq(struct rig *r, u32 cpu, u8 vector)
{
	chips_msi(r->ch, 0xfee00000 | (u64)cpu << 12, vector);
}

/* ---- priorities ---- */

static void the_highest_vector_is_delivered_first(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);

	assert_int_equal(lapic_pending(l), -1);
	raise_irq(r, 0, 0x31);
	raise_irq(r, 0, 0xef);
	raise_irq(r, 0, 0x20);
	assert_int_equal(r->woken[0], 3);
	rig_take(l, 0xef);
	assert_int_equal(lapic_pending(l), -1); /* the others wait for its EOI */
	rig_eoi(l);
	rig_take(l, 0x31);
	rig_eoi(l);
	rig_take(l, 0x20);
	rig_eoi(l);
	assert_int_equal(lapic_pending(l), -1);
}

static void only_a_higher_class_interrupts_a_handler(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);

	raise_irq(r, 0, 0x51);
	rig_take(l, 0x51);
	assert_int_equal(lapic_mmio_read(l, 0xa0), 0x50); /* PPR */
	raise_irq(r, 0, 0x5f);
	assert_int_equal(lapic_pending(l), -1); /* the same class */
	lapic_mmio_write(l, 0x80, 0x57);	/* of the same class: all eight bits count (§11.8.3.1) */
	assert_int_equal(lapic_mmio_read(l, 0xa0), 0x57);
	lapic_mmio_write(l, 0x80, 0x47);
	assert_int_equal(lapic_mmio_read(l, 0xa0), 0x50);
	lapic_mmio_write(l, 0x80, 0);
	raise_irq(r, 0, 0x60);
	rig_take(l, 0x60);
	assert_int_equal(lapic_mmio_read(l, 0x120), 1u << 17); /* ISR 0x51 */
	assert_int_equal(lapic_mmio_read(l, 0x130), 1);	       /* and 0x60 */
	assert_int_equal(lapic_mmio_read(l, 0x220), 1u << 31); /* IRR 0x5f */
	rig_eoi(l);					       /* of the higher */
	assert_int_equal(lapic_pending(l), -1);
	rig_eoi(l);
	assert_int_equal(lapic_pending(l), 0x5f);
}

static void the_task_priority_holds_back_its_class_and_lower(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);

	lapic_mmio_write(l, 0x80, 0x45);
	assert_int_equal(lapic_mmio_read(l, 0xa0), 0x45);
	raise_irq(r, 0, 0x4f);
	assert_int_equal(lapic_pending(l), -1);
	raise_irq(r, 0, 0x50);
	assert_int_equal(lapic_pending(l), 0x50);
	lapic_set_cr8(l, 5);
	assert_int_equal(lapic_mmio_read(l, 0x80), 0x50);
	assert_int_equal(lapic_pending(l), -1);
	r->woken[0] = 0;
	lapic_set_cr8(l, 3);
	assert_int_equal(lapic_get_cr8(l), 3);
	assert_int_equal(r->woken[0], 1); /* there is something to deliver now */
	rig_take(l, 0x50);
	lapic_set_cr8(l, 0xff); /* four bits */
	assert_int_equal(lapic_get_cr8(l), 0xf);
	raise_irq(r, 0, 0xff);
	assert_int_equal(lapic_pending(l), -1);
}

static void an_eoi_that_lets_the_next_through_wakes(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);

	raise_irq(r, 0, 0x51);
	rig_take(l, 0x51);
	raise_irq(r, 0, 0x41);
	r->woken[0] = 0;
	rig_eoi(l);
	assert_int_equal(r->woken[0], 1);
	rig_take(l, 0x41);
	rig_eoi(l);
	rig_eoi(l); /* nothing in service: nothing happens */
	assert_int_equal(lapic_pending(l), -1);
}

static void a_software_disabled_lapic_takes_no_interrupt_but_nmi_init_and_sipi(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 1), *from = rig_enable(r, 0);
	u8 vector = 0;

	raise_irq(r, 1, 0x31);
	lapic_mmio_write(l, 0xf0, 0xff);
	raise_irq(r, 1, 0x41);
	rig_take(l, 0x31); /* what was requested before stays (§11.4.7.2) */
	assert_int_equal(lapic_pending(l), -1);
	lapic_mmio_write(from, 0x310, 1 << 24);
	lapic_mmio_write(from, 0x300, 0x4400);
	assert_int_equal(lapic_take_events(l, ~0u, &vector), LAPIC_EV_NMI);
	lapic_mmio_write(from, 0x300, 0x4500);
	lapic_mmio_write(from, 0x300, 0x4699);
	assert_int_equal(lapic_take_events(l, LAPIC_EV_INIT | LAPIC_EV_SIPI, &vector), LAPIC_EV_INIT | LAPIC_EV_SIPI);
	assert_int_equal(vector, 0x99);
}

static void software_disable_masks_the_lvt(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);

	lapic_mmio_write(l, 0x320, 0x31);
	lapic_mmio_write(l, 0x360, 0x400);
	lapic_mmio_write(l, 0xf0, 0xff);
	assert_int_equal(lapic_mmio_read(l, 0x320), 0x10031);
	assert_int_equal(lapic_mmio_read(l, 0x360), 0x10400);
	lapic_mmio_write(l, 0x320, 0x32); /* and they cannot be unmasked */
	assert_int_equal(lapic_mmio_read(l, 0x320), 0x10032);
	lapic_mmio_write(l, 0xf0, 0x1ff);
	assert_int_equal(lapic_mmio_read(l, 0x320), 0x10032);
}

/* ---- registers ---- */

static void registers_after_reset_are_as_the_manual_says(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_lapic(r, 3);

	assert_int_equal(lapic_mmio_read(l, 0x20), 3u << 24);
	assert_int_equal(lapic_mmio_read(l, 0x30), 0x50014);
	assert_int_equal(lapic_mmio_read(l, 0xe0), 0xffffffff);
	assert_int_equal(lapic_mmio_read(l, 0xf0), 0xff);
	for (u32 lvt = 0x320; lvt <= 0x370; lvt += 0x10)
		assert_int_equal(lapic_mmio_read(l, lvt), 0x10000);
	assert_int_equal(lapic_mmio_read(l, 0x3e0), 0);
	assert_true(lapic_base(l) == 0xfee00800);
	assert_true(lapic_base(rig_lapic(r, 0)) == 0xfee00900);
	assert_int_equal(lapic_mmio_read(rig_lapic(r, 0), 0x350), 0x700);
}

static void registers_hold_their_writable_bits(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);
	static const struct {
		u32 offset, value;
	} t[] = {
		{0x20, 0xff000000}, {0x80, 0xff},	 {0xd0, 0xff000000}, {0xe0, 0xffffffff}, {0xf0, 0x3ff},
		{0x300, 0xccfff},   {0x310, 0xff000000}, {0x320, 0x700ff},   {0x330, 0x107ff},	 {0x340, 0x107ff},
		{0x350, 0x1a7ff},   {0x360, 0x1a7ff},	 {0x370, 0x100ff},   {0x3e0, 0xb},
	};

	for (u32 i = 0; i < ARRAY_SIZE(t); i++) {
		lapic_mmio_write(l, t[i].offset, 0xffffffff);
		assert_int_equal(lapic_mmio_read(l, t[i].offset), t[i].value);
	}
	lapic_mmio_write(l, 0x30, 0);
	assert_int_equal(lapic_mmio_read(l, 0x30), 0x50014);
	lapic_mmio_write(l, 0x200, 0xffffffff); /* IRR is for reading */
	assert_int_equal(lapic_mmio_read(l, 0x200), 0);
	lapic_mmio_write(l, 0x84, 0); /* no register begins here */
	assert_int_equal(lapic_mmio_read(l, 0x80), 0xff);
	assert_int_equal(lapic_mmio_read(l, 0x84), 0);
	assert_int_equal(lapic_mmio_read(l, 0x32), 0x5);
}

static void errors_show_after_a_write_to_esr_and_interrupt_once(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);

	lapic_mmio_write(l, 0x370, 0xfe);
	lapic_mmio_read(l, 0x40); /* reserved */
	assert_int_equal(lapic_mmio_read(l, 0x280), 0);
	rig_take(l, 0xfe);
	rig_eoi(l);
	lapic_mmio_write(l, 0x3f0, 0);
	assert_int_equal(lapic_pending(l), -1);
	lapic_mmio_write(l, 0x300, 0x40000 | 15); /* vectors below 16 are illegal */
	rig_take(l, 0xfe);
	lapic_mmio_write(l, 0x280, 0);
	assert_int_equal(lapic_mmio_read(l, 0x280), 0xa0);
	raise_irq(r, 0, 3);
	lapic_mmio_write(l, 0x280, 0);
	assert_int_equal(lapic_mmio_read(l, 0x280), 0x40);
	lapic_mmio_write(l, 0x280, 0);
	assert_int_equal(lapic_mmio_read(l, 0x280), 0);
}

/* ---- destinations ---- */

/* Which CPUs have the vector requested, as a mask, and takes it there. */
static u32 reached(struct rig *r, u8 vector)
{
	u32 mask = 0;

	for (u32 i = 0; i < RIG_CPUS; i++) {
		struct lapic *l = rig_lapic(r, i);

		if (lapic_pending(l) < 0)
			continue;
		rig_take(l, vector);
		rig_eoi(l);
		mask |= 1u << i;
	}
	return mask;
}

static u32 send_x1(struct rig *r, u32 from, u8 dest, u32 low)
{
	lapic_mmio_write(rig_lapic(r, from), 0x310, (u32)dest << 24);
	lapic_mmio_write(rig_lapic(r, from), 0x300, low | 0x4000);
	return reached(r, (u8)low);
}

static u32 send_x2(struct rig *r, u32 from, u32 dest, u32 low)
{
	assert_true(lapic_msr_write(rig_lapic(r, from), 0x830, X2_ICR(dest, low)));
	return reached(r, (u8)low);
}

static void xapic_physical_and_shorthand_destinations(void **state)
{
	struct rig *r = *state;
	const u32 all = (1u << RIG_CPUS) - 1;

	for (u32 i = 0; i < RIG_CPUS; i++)
		rig_enable(r, i);
	assert_int_equal(send_x1(r, 0, 3, 0x51), 1 << 3);
	assert_int_equal(send_x1(r, 0, 0, 0x51), 1);
	assert_int_equal(send_x1(r, 0, RIG_CPUS, 0x51), 0);
	assert_int_equal(send_x1(r, 0, 0xff, 0x51), all);
	assert_int_equal(send_x1(r, 2, 0, 0x40051), 1 << 2);
	assert_int_equal(send_x1(r, 2, 0, 0x80051), all);
	assert_int_equal(send_x1(r, 2, 0, 0xc0051), all & ~(1u << 2));
	assert_int_equal(lapic_mmio_read(rig_lapic(r, 2), 0x300), 0xc4051);
	assert_int_equal(send_x1(r, 0, 0, 0x1051), 1); /* delivery status is not the guest's */
	assert_int_equal(lapic_mmio_read(rig_lapic(r, 0), 0x300), 0x4051);
	assert_int_equal(send_x1(r, 0, 3, 0x8051), 1 << 3); /* trigger mode is ignored */
	assert_int_equal(lapic_mmio_read(rig_lapic(r, 3), 0x1a0), 0);
}

static void xapic_flat_logical_destinations(void **state)
{
	struct rig *r = *state;

	for (u32 i = 0; i < 10; i++)
		lapic_mmio_write(rig_enable(r, i), 0xd0, i < 8 ? 0x01000000u << i : 0);
	assert_int_equal(send_x1(r, 0, 0x04, 0x851), 1 << 2);
	assert_int_equal(send_x1(r, 0, 0x85, 0x851), 0x85);
	assert_int_equal(send_x1(r, 0, 0xff, 0x851), 0x3ff); /* all ones are everybody, also who has no logical id */
	assert_int_equal(send_x1(r, 0, 0, 0x851), 0);
	assert_int_equal(__builtin_popcount(send_x1(r, 0, 0x0f, 0x951)), 1); /* lowest priority */
}

static void xapic_cluster_logical_destinations(void **state)
{
	struct rig *r = *state;

	for (u32 i = 0; i < 8; i++) {
		struct lapic *l = rig_enable(r, i);

		lapic_mmio_write(l, 0xe0, 0);
		lapic_mmio_write(l, 0xd0, ((i / 4) << 4 | 1u << i % 4) << 24);
	}
	assert_int_equal(send_x1(r, 0, 0x03, 0x851), 0x03);
	assert_int_equal(send_x1(r, 0, 0x1c, 0x851), 0xc0);
	assert_int_equal(send_x1(r, 0, 0x21, 0x851), 0);
	assert_int_equal(send_x1(r, 0, 0xff, 0x851), 0xff);
	lapic_mmio_write(rig_lapic(r, 0), 0xe0, 0x50000000); /* a model that does not exist */
	assert_int_equal(send_x1(r, 0, 0x01, 0x851), 0);
}

static void x2apic_destinations(void **state)
{
	struct rig *r = *state;
	const u32 all = (1u << RIG_CPUS) - 1;
	u64 v;

	for (u32 i = 0; i < RIG_CPUS; i++)
		rig_enable_x2apic(r, i);
	assert_true(lapic_msr_read(rig_lapic(r, 18), 0x80d, &v));
	assert_int_equal(v, 0x10004); /* cluster 1, bit 2 */
	assert_int_equal(send_x2(r, 0, 18, 0x51), 1 << 18);
	assert_int_equal(send_x2(r, 0, 0x100, 0x51), 0);
	assert_int_equal(send_x2(r, 0, 0xff, 0x51), 0); /* just an id */
	assert_int_equal(send_x2(r, 0, 0xffffffff, 0x51), all);
	assert_int_equal(send_x2(r, 0, 0xffffffff, 0x851), all);
	assert_int_equal(send_x2(r, 0, 0x8005, 0x851), 0x8005);
	assert_int_equal(send_x2(r, 0, 0x1000f, 0x851), 0xf << 16);
	assert_int_equal(send_x2(r, 0, 0x2000f, 0x851), 0);
	assert_int_equal(send_x2(r, 5, 0, 0xc0051), all & ~(1u << 5));
	assert_int_equal(send_x2(r, 5, 0, 0x40051), 1 << 5);
	assert_int_equal(__builtin_popcount(send_x2(r, 0, 0x1000f, 0x951)), 1);
	chips_msi(r->ch, 0xfee00004 | 0x12 << 12, 0x51); /* eight bits of logical id: cluster 0 */
	assert_int_equal(reached(r, 0x51), 0x12);
}

static void processors_of_both_modes_reach_each_other(void **state)
{
	struct rig *r = *state;

	rig_enable_x2apic(r, 0);
	for (u32 i = 1; i < 4; i++)
		rig_enable(r, i);
	assert_int_equal(send_x2(r, 0, 2, 0x51), 1 << 2);
	assert_int_equal(send_x2(r, 0, 0xffffffff, 0x51), 0xf);
	assert_int_equal(send_x1(r, 1, 0, 0x51), 1);
	assert_int_equal(send_x1(r, 1, 0xff, 0x51), 0xe);
}

static void init_and_sipi_start_another_processor(void **state)
{
	struct rig *r = *state;
	struct lapic *from = rig_enable_x2apic(r, 0), *to = rig_lapic(r, 1);
	u8 vector = 0;

	assert_true(lapic_msr_write(from, 0x830, X2_ICR(1, 0xc500)));
	assert_int_equal(r->woken[1], 1);
	assert_true(lapic_has_events(to, LAPIC_EV_INIT));
	assert_int_equal(lapic_take_events(to, ~0u, &vector), LAPIC_EV_INIT);
	assert_true(lapic_msr_write(from, 0x830, X2_ICR(1, 0x8500))); /* de-assert: nothing */
	assert_int_equal(lapic_take_events(to, ~0u, &vector), 0);
	assert_true(lapic_msr_write(from, 0x830, X2_ICR(1, 0x608)));
	assert_true(lapic_msr_write(from, 0x830, X2_ICR(1, 0x609)));
	assert_int_equal(lapic_take_events(to, LAPIC_EV_SIPI, &vector), LAPIC_EV_SIPI);
	assert_int_equal(vector, 9);
	assert_true(lapic_msr_write(from, 0x830, X2_ICR(1, 0x608)));
	assert_true(lapic_msr_write(from, 0x830, X2_ICR(1, 0x4500))); /* INIT after SIPI: the SIPI is void */
	assert_int_equal(lapic_take_events(to, ~0u, &vector), LAPIC_EV_INIT);
	assert_true(lapic_msr_write(from, 0x830, X2_ICR(0, 0xc0400)));
	assert_true(lapic_has_events(to, LAPIC_EV_NMI));
	assert_false(lapic_has_events(from, LAPIC_EV_NMI));
}

/* ---- x2APIC mode ---- */

static void only_the_mode_changes_of_the_manual_are_legal(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_lapic(r, 3);
	const u64 addr = X86_LAPIC_GPA, en = 0x800, x2 = 0xc00;

	assert_false(lapic_set_base(l, addr | 0x400)); /* EXTD without EN */
	assert_true(lapic_set_base(l, addr | en));     /* as it is */
	assert_true(lapic_set_base(l, addr));	       /* xAPIC -> disabled */
	assert_false(lapic_set_base(l, addr | x2));    /* disabled -> x2APIC */
	assert_true(lapic_set_base(l, addr | en));
	assert_true(lapic_set_base(l, addr | x2));
	assert_false(lapic_set_base(l, addr | en)); /* x2APIC -> xAPIC */
	assert_false(lapic_set_base(l, addr | 0x400));
	assert_true(lapic_base(l) == (addr | x2));
	assert_true(lapic_set_base(l, addr)); /* x2APIC -> disabled */
	assert_true(lapic_set_base(l, addr | en));
	assert_false(lapic_set_base(l, addr | en | 1)); /* reserved */
	assert_false(lapic_set_base(l, addr | en | 0x200));
	assert_false(lapic_set_base(l, addr | en | BIT(52)));
	assert_true(lapic_set_base(l, 0x12345000 | en)); /* the page can move */
	assert_true(lapic_base(l) == (0x12345000 | en));
}

static void each_mode_has_its_own_way_to_the_registers(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 19);
	u64 v;

	assert_false(lapic_msr_read(l, 0x802, &v));
	assert_false(lapic_msr_write(l, 0x808, 0));
	assert_true(lapic_set_base(l, lapic_base(l) | 0x400));
	assert_int_equal(lapic_mmio_read(l, 0x20), 0xffffffff);
	lapic_mmio_write(l, 0x80, 0x20);
	assert_int_equal(lapic_get_cr8(l), 0);
	assert_true(lapic_msr_read(l, 0x802, &v));
	assert_true(v == 19); /* 32 bits wide */
	assert_true(lapic_msr_read(l, 0x80f, &v));
	assert_true(v == 0x1ff); /* kept from xAPIC mode */
	assert_true(lapic_set_base(l, X86_LAPIC_GPA));
	assert_false(lapic_msr_read(l, 0x802, &v));
	assert_int_equal(lapic_mmio_read(l, 0x20), 0xffffffff);
	assert_int_equal(lapic_pending(l), -1);
	assert_true(lapic_set_base(l, X86_LAPIC_GPA | 0x800));
	assert_int_equal(lapic_mmio_read(l, 0x20), 19u << 24);
	assert_int_equal(lapic_mmio_read(l, 0xf0), 0xff); /* as after reset */
}

static void a_disabled_lapic_forgets_and_takes_nothing(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);

	raise_irq(r, 0, 0x51);
	assert_true(lapic_set_base(l, X86_LAPIC_GPA));
	assert_int_equal(lapic_pending(l), -1);
	raise_irq(r, 0, 0x51);
	assert_true(lapic_set_base(l, X86_LAPIC_GPA | 0x800));
	rig_enable(r, 0);
	assert_int_equal(lapic_pending(l), -1);
	raise_irq(r, 0, 0x51);
	assert_int_equal(lapic_pending(l), 0x51);
}

static void reserved_registers_and_bits_of_x2apic_msrs_fault(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable_x2apic(r, 0);
	static const u8 no_read[] = {0x00, 0x01, 0x04, 0x09, 0x0b, 0x0c, 0x0e, 0x29, 0x2f, 0x31, 0x3a, 0x3f, 0x40, 0xff};
	static const u8 no_write[] = {0x02, 0x03, 0x0a, 0x0d, 0x0e, 0x10, 0x18, 0x27, 0x2f, 0x31, 0x39, 0x3a, 0x40, 0xff};
	static const struct {
		u32 msr;
		u64 good, bad;
	} t[] = {
		{0x808, 0xff, 0x100},	   {0x80b, 0, 1},
		{0x80f, 0x3ff, 0x400},	   {0x828, 0, 1},
		{0x830, 0, 0x2000},	   {0x830, 0x41051, 0x10051},
		{0x832, 0x410ff, 0x60031}, {0x832, 0x10031, 0x100031},
		{0x833, 0x117ff, 0x2000},  {0x835, 0x1f7ff, 0x800},
		{0x837, 0x110ff, 0x100},   {0x838, 0xffffffff, BIT(32)},
		{0x83e, 0xb, 4},	   {0x83f, 0xff, 0x100},
	};
	u64 v;

	for (u32 i = 0; i < ARRAY_SIZE(no_read); i++)
		assert_false(lapic_msr_read(l, 0x800u + no_read[i], &v));
	for (u32 i = 0; i < ARRAY_SIZE(no_write); i++)
		assert_false(lapic_msr_write(l, 0x800u + no_write[i], 0));
	for (u32 i = 0; i < ARRAY_SIZE(t); i++) {
		assert_true(lapic_msr_write(l, t[i].msr, t[i].good));
		assert_false(lapic_msr_write(l, t[i].msr, t[i].bad));
		assert_false(t[i].msr != 0x830 && lapic_msr_write(l, t[i].msr, BIT(32)));
	}
}

static void the_x2apic_icr_is_one_register(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable_x2apic(r, 0);
	u64 v;

	assert_true(lapic_msr_write(l, 0x830, X2_ICR(0x12345678, 0x51)));
	assert_true(lapic_msr_read(l, 0x830, &v));
	assert_true(v == X2_ICR(0x12345678, 0x51));
}

static void the_self_ipi_register_sends_an_edge_to_oneself(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable_x2apic(r, 7);

	assert_true(lapic_msr_write(l, 0x83f, 0xf3));
	assert_int_equal(reached(r, 0xf3), 1 << 7);
	assert_true(lapic_msr_write(l, 0x83f, 15)); /* illegal, no fault */
	assert_int_equal(lapic_pending(l), -1);
}

/* ---- timer ---- */

static void set_timer(struct lapic *l, u32 lvt, u32 divide, u32 count)
{
	lapic_mmio_write(l, 0x320, lvt);
	lapic_mmio_write(l, 0x3e0, divide);
	lapic_mmio_write(l, 0x380, count);
}

static void a_one_shot_timer_counts_down_and_interrupts_once(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);
	u64 host = clock_host_ns();

	set_timer(l, 0x31, 0x3, 10000000); /* by 16: 160 ms */
	assert_in_range(r->timer[0], host + 160000000, clock_host_ns() + 160000000);
	assert_int_equal(lapic_mmio_read(l, 0x390), 10000000);
	rig_advance(r, 16000000);
	assert_int_equal(lapic_mmio_read(l, 0x390), 9000000);
	lapic_timer_expire(l); /* too early */
	assert_int_equal(lapic_pending(l), -1);
	assert_int_not_equal(r->timer[0], 0);
	rig_advance(r, 144000000);
	lapic_timer_expire(l);
	rig_take(l, 0x31);
	rig_eoi(l);
	assert_int_equal(r->timer[0], 0);
	assert_int_equal(lapic_mmio_read(l, 0x390), 0);
	assert_int_equal(lapic_mmio_read(l, 0x380), 10000000);
	rig_advance(r, NSEC_PER_SEC);
	lapic_timer_expire(l);
	assert_int_equal(lapic_pending(l), -1);
}

static void every_divide_configuration_counts_at_its_rate(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);
	static const u8 config[] = {0xb, 0x0, 0x1, 0x2, 0x3, 0x8, 0x9, 0xa}; /* by 1, 2, 4 ... 128 */

	for (u32 i = 0; i < ARRAY_SIZE(config); i++) {
		set_timer(l, 0x31, config[i], 1000000);
		rig_advance(r, 1000ull << i);
		assert_int_equal(lapic_mmio_read(l, 0x390), 999000);
	}
	set_timer(l, 0x31, 0xa, 0xffffffff); /* the longest: nine minutes */
	assert_in_range(r->timer[0], clock_host_ns() + 549 * NSEC_PER_SEC, clock_host_ns() + 550 * NSEC_PER_SEC);
}

static void a_new_divide_configuration_keeps_the_current_count(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);

	set_timer(l, 0x31, 0xb, 1000000);
	rig_advance(r, 400000);
	lapic_mmio_write(l, 0x3e0, 0x0);
	assert_int_equal(lapic_mmio_read(l, 0x390), 600000);
	rig_advance(r, 1200000);
	lapic_timer_expire(l);
	assert_int_equal(lapic_pending(l), 0x31);
}

static void a_periodic_timer_goes_on(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);

	set_timer(l, 0x20031, 0xb, 4000000);
	for (u32 i = 0; i < 3; i++) {
		rig_advance(r, 4000000);
		lapic_timer_expire(l);
		rig_take(l, 0x31);
		rig_eoi(l);
		assert_int_equal(lapic_mmio_read(l, 0x390), 4000000);
	}
	rig_advance(r, 4000000 * 5 + 1000000); /* late: one interrupt, and the phase stays */
	assert_int_equal(lapic_mmio_read(l, 0x390), 3000000);
	lapic_timer_expire(l);
	rig_take(l, 0x31);
	rig_eoi(l);
	assert_int_equal(lapic_mmio_read(l, 0x390), 3000000);
	lapic_mmio_write(l, 0x380, 0); /* stops it */
	assert_int_equal(r->timer[0], 0);
	rig_advance(r, NSEC_PER_SEC);
	lapic_timer_expire(l);
	assert_int_equal(lapic_pending(l), -1);
}

static void a_period_of_a_nanosecond_does_not_occupy_the_host(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);

	r->vm.clock = (struct clock){.base_ns = clock_host_ns() - RIG_START};
	set_timer(l, 0x20031, 0xb, 1);
	while (lapic_pending(l) < 0)
		lapic_timer_expire(l);
	assert_true(r->timer[0] >= clock_host_ns() + 10000);
}

static void a_masked_timer_runs_and_does_not_interrupt(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);

	set_timer(l, 0x10031, 0xb, 1000000);
	rig_advance(r, 500000);
	assert_int_equal(lapic_mmio_read(l, 0x390), 500000);
	lapic_mmio_write(l, 0x320, 0x32); /* unmasked in time */
	rig_advance(r, 500000);
	lapic_timer_expire(l);
	rig_take(l, 0x32);
	rig_eoi(l);
	set_timer(l, 0x10031, 0xb, 1000000);
	rig_advance(r, 1000000);
	lapic_timer_expire(l);
	lapic_mmio_write(l, 0x320, 0x32); /* too late */
	assert_int_equal(lapic_pending(l), -1);
}

static void a_deadline_interrupts_once_and_reads_as_zero_then(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);
	u64 host = clock_host_ns();

	lapic_mmio_write(l, 0x320, 0x40031);
	lapic_set_tsc_deadline(l, r->tsc + 50000000);
	assert_true(lapic_tsc_deadline(l) == r->tsc + 50000000);
	assert_in_range(r->timer[0], host + 50000000, clock_host_ns() + 50000000);
	lapic_timer_expire(l); /* too early: wait on */
	assert_int_equal(lapic_pending(l), -1);
	assert_true(lapic_tsc_deadline(l) == r->tsc + 50000000);
	assert_in_range(r->timer[0], host + 50000000, clock_host_ns() + 50000000);
	r->tsc += 49999999;
	lapic_timer_expire(l);
	assert_int_equal(lapic_pending(l), -1);
	r->tsc++;
	lapic_timer_expire(l);
	rig_take(l, 0x31);
	rig_eoi(l);
	assert_true(lapic_tsc_deadline(l) == 0);
	assert_int_equal(r->timer[0], 0);
	lapic_timer_expire(l);
	assert_int_equal(lapic_pending(l), -1);
}

static void a_deadline_in_the_past_interrupts_at_once(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);

	lapic_mmio_write(l, 0x320, 0x40031);
	lapic_set_tsc_deadline(l, r->tsc);
	rig_take(l, 0x31);
	rig_eoi(l);
	lapic_set_tsc_deadline(l, 1);
	rig_take(l, 0x31);
	rig_eoi(l);
	assert_true(lapic_tsc_deadline(l) == 0);
	lapic_set_tsc_deadline(l, UINT64_MAX);
	lapic_set_tsc_deadline(l, 0); /* disarms */
	assert_int_equal(r->timer[0], 0);
	assert_int_equal(lapic_pending(l), -1);
}

static void a_past_deadline_takes_an_armed_one_with_it(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);

	lapic_mmio_write(l, 0x320, 0x40031);
	lapic_set_tsc_deadline(l, r->tsc + 1000);
	lapic_set_tsc_deadline(l, r->tsc - 1);
	assert_int_equal(r->timer[0], 0);
	rig_take(l, 0x31);
	rig_eoi(l);
	r->tsc += 2000;
	lapic_timer_expire(l);
	assert_int_equal(lapic_pending(l), -1);
}

/* §11.5.4.1 */
static void deadline_and_count_belong_to_their_modes(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);

	lapic_mmio_write(l, 0x320, 0x31);
	lapic_set_tsc_deadline(l, r->tsc + 1000);
	assert_true(lapic_tsc_deadline(l) == 0);
	set_timer(l, 0x31, 0xb, 1000);
	lapic_mmio_write(l, 0x320, 0x40031); /* the count is gone */
	assert_int_equal(lapic_mmio_read(l, 0x380), 0);
	assert_int_equal(r->timer[0], 0);
	lapic_mmio_write(l, 0x380, 1000); /* ignored */
	assert_int_equal(lapic_mmio_read(l, 0x390), 0);
	lapic_set_tsc_deadline(l, r->tsc + 1000);
	assert_int_not_equal(r->timer[0], 0);
	lapic_mmio_write(l, 0x320, 0x31);
	assert_true(lapic_tsc_deadline(l) == 0);
	assert_int_equal(r->timer[0], 0);
	rig_advance(r, NSEC_PER_SEC);
	lapic_timer_expire(l);
	assert_int_equal(lapic_pending(l), -1);
}

static void init_resets_all_but_id_and_mode(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable_x2apic(r, 2);
	u64 v;

	assert_true(lapic_msr_write(l, 0x832, 0x40031));
	lapic_set_tsc_deadline(l, r->tsc + 1000);
	raise_irq(r, 2, 0x51);
	raise_irq(r, 2, 0x61);
	rig_take(l, 0x61);
	lapic_reset(l, false);
	assert_int_equal(lapic_pending(l), -1);
	assert_int_equal(r->timer[2], 0);
	assert_true(lapic_base(l) == 0xfee00c00);
	assert_true(lapic_msr_read(l, 0x802, &v) && v == 2);
	assert_true(lapic_msr_read(l, 0x80d, &v) && v == 4);
	assert_true(lapic_msr_read(l, 0x80f, &v) && v == 0xff);
	assert_true(lapic_msr_read(l, 0x80a, &v) && v == 0);
	assert_true(lapic_msr_write(l, 0x80f, 0x1ff));
	raise_irq(r, 2, 0x21);
	assert_int_equal(lapic_pending(l), 0x21);
}

/* ---- saved state ---- */

static u32 page(const struct cpu_state *s, u32 offset)
{
	return ld_le32(s->lapic.regs + offset);
}

static void a_saved_lapic_goes_on_elsewhere(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 1), *to = rig_lapic(r, 1);
	auto_free struct cpu_state *s = xzalloc(sizeof(*s)), *again = xzalloc(sizeof(*again));

	lapic_mmio_write(l, 0x80, 0x30);
	lapic_mmio_write(l, 0xd0, 0x02000000);
	lapic_mmio_write(l, 0x350, 0x700);
	set_timer(l, 0x20031, 0x0, 1000000);
	rig_route(r, 9, 0x8061, 1);
	chips_set_irq(r->ch, 9, true);
	rig_take(l, 0x61);
	raise_irq(r, 1, 0x71);
	rig_advance(r, 600000);
	lapic_save(l, s);
	assert_true(s->apic_base == 0xfee00800);
	assert_int_equal(s->cr8, 3);
	assert_int_equal(page(s, 0x20), 1 << 24);
	assert_int_equal(page(s, 0x130), 2);
	assert_int_equal(page(s, 0x1b0), 2);
	assert_int_equal(page(s, 0x230), 1 << 17);
	assert_int_equal(page(s, 0x390), 700000);
	lapic_reset(to, false);
	rig_advance(r, NSEC_PER_SEC);
	lapic_load(to, s);
	lapic_save(to, again);
	assert_memory_equal(s->lapic.regs, again->lapic.regs, sizeof(s->lapic.regs));
	rig_take(to, 0x71);
	rig_eoi(to);
	rig_eoi(to); /* level: goes to the IOAPIC, which has the line still up */
	rig_take(to, 0x61);
	rig_advance(r, 1400000);
	lapic_timer_expire(to);
	assert_int_equal(page(again, 0x320), 0x20031);
	assert_int_equal(lapic_mmio_read(to, 0x210), 1 << 17);
	rig_advance(r, 2000000);
	assert_int_not_equal(lapic_mmio_read(to, 0x390), 0);
}

static void x2apic_state_has_the_32_bit_id_and_both_halves_of_the_icr(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable_x2apic(r, 18);
	auto_free struct cpu_state *s = xzalloc(sizeof(*s));
	u64 v;

	assert_true(lapic_msr_write(l, 0x830, X2_ICR(0x4321, 0x51)));
	lapic_save(l, s);
	assert_true(s->apic_base == 0xfee00c00);
	assert_int_equal(page(s, 0x20), 18);
	assert_int_equal(page(s, 0xd0), 0x10004);
	assert_int_equal(page(s, 0x310), 0x4321);
	lapic_reset(l, false);
	st_le32(s->lapic.regs + 0xd0, 0); /* follows from the id */
	lapic_load(l, s);
	assert_true(lapic_msr_read(l, 0x830, &v) && v == X2_ICR(0x4321, 0x51));
	assert_true(lapic_msr_read(l, 0x80d, &v) && v == 0x10004);
	assert_true(lapic_msr_read(l, 0x802, &v) && v == 18);
}

static void an_expired_one_shot_does_not_interrupt_again_after_a_load(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);
	auto_free struct cpu_state *s = xzalloc(sizeof(*s));

	set_timer(l, 0x31, 0x0, 1000);
	rig_advance(r, 2000);
	lapic_timer_expire(l);
	rig_take(l, 0x31);
	rig_eoi(l);
	lapic_save(l, s);
	lapic_load(l, s);
	assert_int_equal(r->timer[0], 0);
	set_timer(l, 0x31, 0x3, 1000);
	rig_advance(r, 15999); /* less than one count to go */
	lapic_save(l, s);
	assert_int_equal(page(s, 0x390), 1);
	lapic_load(l, s);
	rig_advance(r, 16);
	lapic_timer_expire(l);
	assert_int_equal(lapic_pending(l), 0x31);
}

static void a_deadline_is_loaded_after_the_registers(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);
	auto_free struct cpu_state *s = xzalloc(sizeof(*s));
	u64 deadline = r->tsc + 1000000;

	lapic_mmio_write(l, 0x320, 0x40031);
	lapic_set_tsc_deadline(l, deadline);
	lapic_save(l, s);
	lapic_reset(l, true);
	lapic_load(l, s);
	assert_true(lapic_tsc_deadline(l) == 0);
	lapic_set_tsc_deadline(l, deadline);
	assert_true(lapic_tsc_deadline(l) == deadline);
	assert_int_not_equal(r->timer[0], 0);
}

static void a_state_without_a_lapic_loads_as_firmware_leaves_it(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_lapic(r, 4);
	auto_free struct cpu_state *s = xzalloc(sizeof(*s));

	s->apic_base = 0xfee00800;
	lapic_load(l, s);
	assert_int_equal(lapic_mmio_read(l, 0x20), 4 << 24);
	assert_int_equal(lapic_mmio_read(l, 0x30), 0x50014);
	assert_int_equal(lapic_mmio_read(l, 0x350), 0x700);
	assert_int_equal(lapic_mmio_read(l, 0x360), 0x400);
}

static void any_page_can_be_loaded(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_lapic(r, 0);
	auto_free struct cpu_state *s = xzalloc(sizeof(*s));

	memset(s, 0xff, sizeof(*s));
	lapic_load(l, s);
	assert_int_equal(lapic_pending(l), -1);
	lapic_timer_expire(l);
	assert_int_equal(lapic_get_cr8(l), 0xf);
	for (u32 i = 0; i < 300; i++) {
		lapic_msr_write(l, 0x80b, 0);
		lapic_mmio_write(l, 0xb0, 0);
	}
	lapic_save(l, s);
}

/* ---- threads ---- */

#define ROUNDS	20000u
#define VECTORS 5u

struct sender {
	struct rig *r;
	u8 vector;
	u32 *done; /* how many the receiver has handled */
};

/* Sends the next only after the last was handled, so each must arrive exactly once. */
static void *send_loop(void *arg)
{
	const struct sender *s = arg;

	for (u32 i = 0; i < ROUNDS; i++) {
		raise_irq(s->r, 0, s->vector);
		while (__atomic_load_n(s->done, __ATOMIC_ACQUIRE) <= i)
			sched_yield();
	}
	return NULL;
}

static void no_request_of_another_thread_is_lost_or_doubled(void **state)
{
	static const u8 vectors[VECTORS] = {0x20, 0x21, 0x3f, 0x80, 0xff};
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);
	struct sender senders[VECTORS];
	u32 done[VECTORS] = {0}, total = 0;
	pthread_t threads[VECTORS];

	for (u32 i = 0; i < VECTORS; i++) {
		senders[i] = (struct sender){r, vectors[i], &done[i]};
		assert_int_equal(pthread_create(&threads[i], NULL, send_loop, &senders[i]), 0);
	}
	while (total < ROUNDS * VECTORS) {
		int v = lapic_pending(l);

		if (v < 0) {
			sched_yield();
			continue;
		}
		lapic_accept(l, (u8)v);
		rig_eoi(l);
		total++;
		for (u32 i = 0; i < VECTORS; i++) {
			if (vectors[i] == v)
				__atomic_fetch_add(&done[i], 1, __ATOMIC_RELEASE);
		}
	}
	for (u32 i = 0; i < VECTORS; i++) {
		assert_int_equal(pthread_join(threads[i], NULL), 0);
		assert_int_equal(done[i], ROUNDS);
	}
	assert_int_equal(lapic_pending(l), -1);
}

static void *level_loop(void *arg)
{
	struct rig *r = arg;

	for (u32 i = 0; i < ROUNDS / 4; i++)
		chips_set_irq(r->ch, 9, i & 1);
	chips_set_irq(r->ch, 9, true);
	return NULL;
}

static void a_level_line_that_other_threads_move_never_gets_stuck(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);
	pthread_t thread;

	rig_route(r, 9, 0x8061, 0);
	assert_int_equal(pthread_create(&thread, NULL, level_loop, r), 0);
	for (u32 i = 0; i < ROUNDS; i++) {
		if (lapic_pending(l) < 0)
			continue;
		lapic_accept(l, 0x61);
		rig_eoi(l);
	}
	assert_int_equal(pthread_join(thread, NULL), 0);
	rig_take(l, 0x61); /* the line is up */
}

#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_highest_vector_is_delivered_first),
		T(only_a_higher_class_interrupts_a_handler),
		T(the_task_priority_holds_back_its_class_and_lower),
		T(an_eoi_that_lets_the_next_through_wakes),
		T(a_software_disabled_lapic_takes_no_interrupt_but_nmi_init_and_sipi),
		T(software_disable_masks_the_lvt),
		T(registers_after_reset_are_as_the_manual_says),
		T(registers_hold_their_writable_bits),
		T(errors_show_after_a_write_to_esr_and_interrupt_once),
		T(xapic_physical_and_shorthand_destinations),
		T(xapic_flat_logical_destinations),
		T(xapic_cluster_logical_destinations),
		T(x2apic_destinations),
		T(processors_of_both_modes_reach_each_other),
		T(init_and_sipi_start_another_processor),
		T(only_the_mode_changes_of_the_manual_are_legal),
		T(each_mode_has_its_own_way_to_the_registers),
		T(a_disabled_lapic_forgets_and_takes_nothing),
		T(reserved_registers_and_bits_of_x2apic_msrs_fault),
		T(the_x2apic_icr_is_one_register),
		T(the_self_ipi_register_sends_an_edge_to_oneself),
		T(a_one_shot_timer_counts_down_and_interrupts_once),
		T(every_divide_configuration_counts_at_its_rate),
		T(a_new_divide_configuration_keeps_the_current_count),
		T(a_periodic_timer_goes_on),
		T(a_period_of_a_nanosecond_does_not_occupy_the_host),
		T(a_masked_timer_runs_and_does_not_interrupt),
		T(a_deadline_interrupts_once_and_reads_as_zero_then),
		T(a_deadline_in_the_past_interrupts_at_once),
		T(a_past_deadline_takes_an_armed_one_with_it),
		T(deadline_and_count_belong_to_their_modes),
		T(init_resets_all_but_id_and_mode),
		T(a_saved_lapic_goes_on_elsewhere),
		T(x2apic_state_has_the_32_bit_id_and_both_halves_of_the_icr),
		T(an_expired_one_shot_does_not_interrupt_again_after_a_load),
		T(a_deadline_is_loaded_after_the_registers),
		T(a_state_without_a_lapic_loads_as_firmware_leaves_it),
		T(any_page_can_be_loaded),
		T(no_request_of_another_thread_is_lost_or_doubled),
		T(a_level_line_that_other_threads_move_never_gets_stuck),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
