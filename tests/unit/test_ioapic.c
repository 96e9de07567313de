/* test_ioapic.c: pins, levels, Remote IRR and where the messages go. */
#include "chips_rig.h"

#define LEVEL  0x8000u
#define MASKED 0x10000u
#define RIRR   0x4000u

static void pulse(struct rig *r, u32 gsi)
{
	chips_set_irq(r->ch, gsi, true);
	chips_set_irq(r->ch, gsi, false);
}

static u32 entry(struct rig *r, u32 pin)
{
	return rig_ioapic_read(r, (u8)(0x10 + pin * 2));
}

static void the_registers_are_those_of_version_0x11_with_24_pins(void **state)
{
	struct rig *r = *state;
	u8 byte = 0xff;

	assert_int_equal(rig_ioapic_read(r, 1), 0x170011);
	rig_ioapic_write(r, 1, 0);
	assert_int_equal(rig_ioapic_read(r, 1), 0x170011);
	rig_ioapic_write(r, 0, 0xffffffff);
	assert_int_equal(rig_ioapic_read(r, 0), 0x0f000000);
	assert_int_equal(rig_ioapic_read(r, 2), 0x0f000000);
	assert_int_equal(entry(r, 0), MASKED);
	assert_int_equal(entry(r, 23), MASKED);
	assert_int_equal(rig_ioapic_read(r, 0x40), 0xffffffff);
	assert_int_equal(rig_ioapic_read(r, 0x03), 0xffffffff);
	rig_ioapic_write(r, 0x40, 0x12345678); /* nobody there */
	rig_ioapic_write(r, 0xff, 0x12345678);
	bus_read(&r->vm, BUS_MMIO, X86_IOAPIC_GPA, &byte, 1);
	assert_int_equal(byte, 0xff);
}

static void an_entry_holds_what_is_written_but_for_status_and_remote_irr(void **state)
{
	struct rig *r = *state;

	rig_ioapic_write(r, 0x11, 0xffffffff);
	assert_int_equal(rig_ioapic_read(r, 0x11), 0xff000000);
	rig_ioapic_write(r, 0x10, 0xffffffff);
	assert_int_equal(rig_ioapic_read(r, 0x10), 0x1afff);
}

static void an_edge_pin_sends_on_the_rising_edge(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 1);

	rig_route(r, 5, 0x55, 1);
	chips_set_irq(r->ch, 5, true);
	assert_int_equal(r->woken[1], 1);
	rig_take(l, 0x55);
	rig_eoi(l);
	chips_set_irq(r->ch, 5, true); /* still up */
	chips_set_irq(r->ch, 5, false);
	assert_int_equal(lapic_pending(l), -1);
	pulse(r, 5);
	pulse(r, 5); /* one request holds both */
	rig_take(l, 0x55);
	assert_int_equal(lapic_pending(l), -1);
	assert_int_equal(entry(r, 5), 0x55);
}

static void an_edge_on_a_masked_pin_is_lost(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);

	rig_route(r, 5, 0x55 | MASKED, 0);
	pulse(r, 5);
	rig_ioapic_write(r, 0x1a, 0x55);
	assert_int_equal(lapic_pending(l), -1);
}

static void a_level_pin_is_sent_again_after_the_eoi_while_it_is_up(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 2);

	rig_route(r, 9, 0x61 | LEVEL, 2);
	chips_set_irq(r->ch, 9, true);
	assert_int_equal(entry(r, 9), 0x61 | LEVEL | RIRR);
	rig_take(l, 0x61);
	chips_set_irq(r->ch, 9, true); /* not before the EOI */
	assert_int_equal(lapic_pending(l), -1);
	rig_eoi(l);
	rig_take(l, 0x61);
	assert_int_equal(entry(r, 9), 0x61 | LEVEL | RIRR);
	chips_set_irq(r->ch, 9, false);
	rig_eoi(l);
	assert_int_equal(lapic_pending(l), -1);
	assert_int_equal(entry(r, 9), 0x61 | LEVEL);
}

static void an_eoi_of_another_vector_or_of_an_edge_changes_nothing(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);

	rig_route(r, 9, 0x61 | LEVEL, 0);
	chips_set_irq(r->ch, 9, true);
	chips_msi(r->ch, 0xfee00000, 0x71);
	rig_take(l, 0x71);
	rig_eoi(l);
	assert_int_equal(entry(r, 9), 0x61 | LEVEL | RIRR);
	rig_take(l, 0x61);
	lapic_mmio_write(l, 0x300, 0x40061); /* the same vector as an edge, while the level is in service */
	rig_eoi(l);
	rig_take(l, 0x61);
}

static void a_vector_that_was_level_triggered_can_be_an_edge_again(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);

	rig_route(r, 9, 0x61 | LEVEL, 0);
	chips_set_irq(r->ch, 9, true);
	assert_int_equal(lapic_mmio_read(l, 0x1b0), 2); /* TMR */
	chips_set_irq(r->ch, 9, false);
	rig_take(l, 0x61);
	rig_eoi(l);
	chips_msi(r->ch, 0xfee00000, 0x61);
	assert_int_equal(lapic_mmio_read(l, 0x1b0), 0);
}

static void a_masked_level_pin_is_sent_when_it_is_unmasked(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);

	rig_route(r, 9, 0x61 | LEVEL | MASKED, 0);
	chips_set_irq(r->ch, 9, true);
	assert_int_equal(lapic_pending(l), -1);
	rig_ioapic_write(r, 0x22, 0x61 | LEVEL);
	assert_int_equal(lapic_pending(l), 0x61);
	chips_set_irq(r->ch, 9, false);
	rig_take(l, 0x61);
	rig_eoi(l);
	rig_ioapic_write(r, 0x22, 0x61 | LEVEL | MASKED);
	chips_set_irq(r->ch, 9, true);
	chips_set_irq(r->ch, 9, false);
	rig_ioapic_write(r, 0x22, 0x61 | LEVEL); /* down again in between */
	assert_int_equal(lapic_pending(l), -1);
}

/* Linux' __eoi_ioapic_pin for versions below 0x20: mask and edge, then back. */
static void remote_irr_goes_when_the_entry_becomes_edge_triggered(void **state)
{
	struct rig *r = *state;

	rig_enable(r, 0);
	rig_route(r, 9, 0x61 | LEVEL, 0);
	chips_set_irq(r->ch, 9, true);
	rig_ioapic_write(r, 0x22, 0x61 | LEVEL | MASKED);
	assert_int_equal(entry(r, 9), 0x61 | LEVEL | MASKED | RIRR);
	rig_ioapic_write(r, 0x22, 0x61 | MASKED);
	rig_ioapic_write(r, 0x22, 0x61 | LEVEL | MASKED);
	assert_int_equal(entry(r, 9), 0x61 | LEVEL | MASKED);
}

static void a_level_that_no_lapic_takes_is_offered_again(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_lapic(r, 0);

	rig_route(r, 9, 0x61 | LEVEL, 0);
	chips_set_irq(r->ch, 9, true); /* LAPIC 0 is not enabled */
	assert_int_equal(entry(r, 9), 0x61 | LEVEL);
	rig_enable(r, 0);
	chips_set_irq(r->ch, 9, true);
	rig_take(l, 0x61);
}

static void a_lowest_priority_message_goes_to_one_of_the_set(void **state)
{
	struct rig *r = *state;
	u32 n = 0;

	for (u32 i = 0; i < 4; i++)
		lapic_mmio_write(rig_enable(r, i), 0xd0, 0x01000000u << i);
	rig_route(r, 10, 0x900 | 0x62, 0x0f);
	pulse(r, 10);
	for (u32 i = 0; i < 4; i++)
		n += lapic_pending(rig_lapic(r, i)) == 0x62;
	assert_int_equal(n, 1);
}

static void a_pin_can_send_nmi(void **state)
{
	struct rig *r = *state;

	rig_route(r, 11, 0x400, 3);
	pulse(r, 11);
	assert_true(lapic_has_events(rig_lapic(r, 3), LAPIC_EV_NMI));
	assert_int_equal(lapic_take_events(rig_lapic(r, 3), LAPIC_EV_NMI, NULL), LAPIC_EV_NMI);
	assert_false(lapic_has_events(rig_lapic(r, 3), LAPIC_EV_NMI));
}

static void an_msi_reaches_its_destination(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 3);

	chips_msi(r->ch, 0xfee00000 | 3 << 12, 0x77);
	rig_take(l, 0x77);
	chips_msi(r->ch, 0xfec00000 | 3 << 12, 0x88); /* not an address of messages */
	chips_msi(r->ch, 0x1fee00000 | 3 << 12, 0x88);
	assert_int_equal(lapic_pending(l), -1);
	lapic_mmio_write(l, 0xd0, 0x08000000);
	chips_msi(r->ch, 0xfee00004 | 8 << 12, 0x99);
	assert_int_equal(lapic_pending(l), 0x99);
}

static void a_gsi_is_a_pin_of_both_controllers(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);

	rig_route(r, 4, 0x54, 0);
	rig_out(r, 0x20, 0x13);
	rig_out(r, 0x21, 0x20);
	rig_out(r, 0x21, 0x04);
	rig_out(r, 0x21, 0x01);
	pulse(r, 4);
	assert_int_equal(lapic_pending(l), 0x54);
	assert_true(chips_extint_pending(r->ch, 0));
	assert_int_equal(chips_extint_accept(r->ch, 0), 0x24);
	rig_route(r, 23, 0x63, 0);
	pulse(r, 23);
	assert_int_equal(lapic_pending(l), 0x63);
	pulse(r, 24); /* there is none */
}

#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_registers_are_those_of_version_0x11_with_24_pins),
		T(an_entry_holds_what_is_written_but_for_status_and_remote_irr),
		T(an_edge_pin_sends_on_the_rising_edge),
		T(an_edge_on_a_masked_pin_is_lost),
		T(a_level_pin_is_sent_again_after_the_eoi_while_it_is_up),
		T(an_eoi_of_another_vector_or_of_an_edge_changes_nothing),
		T(a_vector_that_was_level_triggered_can_be_an_edge_again),
		T(a_masked_level_pin_is_sent_when_it_is_unmasked),
		T(remote_irr_goes_when_the_entry_becomes_edge_triggered),
		T(a_level_that_no_lapic_takes_is_offered_again),
		T(a_lowest_priority_message_goes_to_one_of_the_set),
		T(a_pin_can_send_nmi),
		T(an_msi_reaches_its_destination),
		T(a_gsi_is_a_pin_of_both_controllers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
