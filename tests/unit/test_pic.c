/* test_pic.c: the two 8259s as a guest programs them, and their way to the processors. */
#include "chips_rig.h"

/* As Linux' init_8259A: vectors 0x30 and 0x38, no auto EOI; all inputs open. */
static void init(struct rig *r, u8 icw4)
{
	rig_out(r, 0x20, 0x11);
	rig_out(r, 0x21, 0x30);
	rig_out(r, 0x21, 0x04);
	rig_out(r, 0x21, icw4);
	rig_out(r, 0xa0, 0x11);
	rig_out(r, 0xa1, 0x38);
	rig_out(r, 0xa1, 0x02);
	rig_out(r, 0xa1, 0x01);
	rig_out(r, 0x21, 0);
	rig_out(r, 0xa1, 0);
}

static void pulse(struct rig *r, u32 irq)
{
	chips_set_irq(r->ch, irq, true);
	chips_set_irq(r->ch, irq, false);
}

static void take(struct rig *r, u8 vector)
{
	assert_true(chips_extint_pending(r->ch, 0));
	assert_int_equal(chips_extint_accept(r->ch, 0), vector);
}

/* A kernel that has no driver for them (hardware-reduced ACPI) may still listen to LINT0 (noapic): vectors 0 to 7 would be exceptions. */
static void chips_that_nobody_has_set_up_interrupt_nobody(void **state)
{
	struct rig *r = *state;

	for (u32 irq = 0; irq < 16; irq++)
		chips_set_irq(r->ch, irq, true);
	assert_false(chips_extint_pending(r->ch, 0));
}

static void an_edge_interrupts_once(void **state)
{
	struct rig *r = *state;

	init(r, 1);
	assert_false(chips_extint_pending(r->ch, 0));
	chips_set_irq(r->ch, 4, true);
	assert_true(r->woken[0] > 0);
	take(r, 0x34);
	rig_out(r, 0x20, 0x20);
	assert_false(chips_extint_pending(r->ch, 0));
	chips_set_irq(r->ch, 4, true); /* still up: no edge */
	assert_false(chips_extint_pending(r->ch, 0));
	chips_set_irq(r->ch, 4, false);
	chips_set_irq(r->ch, 4, true);
	take(r, 0x34);
}

static void the_lower_input_goes_first_and_blocks_the_others_until_its_eoi(void **state)
{
	struct rig *r = *state;

	init(r, 1);
	pulse(r, 5);
	pulse(r, 3);
	take(r, 0x33);
	assert_false(chips_extint_pending(r->ch, 0)); /* 5 waits for the EOI of 3 */
	pulse(r, 1);
	take(r, 0x31); /* 1 does not */
	rig_out(r, 0x20, 0x20);
	assert_false(chips_extint_pending(r->ch, 0));
	rig_out(r, 0x20, 0x20);
	take(r, 0x35);
}

static void a_specific_eoi_ends_the_one_it_names(void **state)
{
	struct rig *r = *state;

	init(r, 1);
	pulse(r, 5);
	take(r, 0x35);
	pulse(r, 3);
	take(r, 0x33);
	rig_out(r, 0x20, 0x65);
	rig_out(r, 0x20, 0x0b); /* read ISR */
	assert_int_equal(rig_in(r, 0x20), 0x08);
	rig_out(r, 0x20, 0x0a); /* read IRR */
	assert_int_equal(rig_in(r, 0x20), 0);
}

static void the_second_chip_interrupts_through_input_2(void **state)
{
	struct rig *r = *state;

	init(r, 1);
	pulse(r, 12);
	pulse(r, 8);
	take(r, 0x38);
	assert_false(chips_extint_pending(r->ch, 0));
	rig_out(r, 0xa0, 0x20);
	assert_false(chips_extint_pending(r->ch, 0)); /* the first chip has not been told */
	rig_out(r, 0x20, 0x62);
	take(r, 0x3c);
	pulse(r, 0);
	take(r, 0x30);
}

static void a_higher_input_of_the_second_chip_gets_through_only_in_special_fully_nested_mode(void **state)
{
	struct rig *r = *state;

	init(r, 0x01);
	pulse(r, 12);
	take(r, 0x3c);
	pulse(r, 9);
	assert_false(chips_extint_pending(r->ch, 0));
	init(r, 0x11);
	pulse(r, 12);
	take(r, 0x3c);
	pulse(r, 9);
	take(r, 0x39);
}

static void a_masked_input_keeps_its_edge(void **state)
{
	struct rig *r = *state;

	init(r, 1);
	rig_out(r, 0x21, 0x10);
	assert_int_equal(rig_in(r, 0x21), 0x10);
	pulse(r, 4);
	assert_false(chips_extint_pending(r->ch, 0));
	rig_out(r, 0x21, 0);
	take(r, 0x34);
}

static void a_level_input_interrupts_as_long_as_it_is_up(void **state)
{
	struct rig *r = *state;

	init(r, 1);
	rig_out(r, 0x4d0, 0xff);
	rig_out(r, 0x4d1, 0xff);
	assert_int_equal(rig_in(r, 0x4d0), 0xf8); /* timer, keyboard and cascade stay edge-triggered */
	assert_int_equal(rig_in(r, 0x4d1), 0xde);
	chips_set_irq(r->ch, 5, true);
	take(r, 0x35);
	rig_out(r, 0x20, 0x20);
	take(r, 0x35);
	chips_set_irq(r->ch, 5, false);
	rig_out(r, 0x20, 0x20);
	assert_false(chips_extint_pending(r->ch, 0));
}

static void an_interrupt_that_is_gone_is_spurious(void **state)
{
	struct rig *r = *state;

	init(r, 1);
	rig_out(r, 0x4d1, 0x08);
	chips_set_irq(r->ch, 11, true);
	assert_true(chips_extint_pending(r->ch, 0));
	chips_set_irq(r->ch, 11, false);
	assert_false(chips_extint_pending(r->ch, 0));
	assert_int_equal(chips_extint_accept(r->ch, 0), 0x37);
	rig_out(r, 0x20, 0x0b);
	assert_int_equal(rig_in(r, 0x20), 0); /* nothing is in service */
}

static void auto_eoi_leaves_nothing_in_service(void **state)
{
	struct rig *r = *state;

	init(r, 3);
	pulse(r, 3);
	pulse(r, 4);
	take(r, 0x33);
	take(r, 0x34);
	rig_out(r, 0x20, 0x0b);
	assert_int_equal(rig_in(r, 0x20), 0);
}

static void rotation_makes_the_served_input_the_last(void **state)
{
	struct rig *r = *state;

	init(r, 1);
	pulse(r, 3);
	take(r, 0x33);
	rig_out(r, 0x20, 0xa0); /* rotate on non-specific EOI */
	pulse(r, 3);
	pulse(r, 4);
	take(r, 0x34);
	rig_out(r, 0x20, 0x20);
	take(r, 0x33);
	rig_out(r, 0x20, 0x20);
	rig_out(r, 0x20, 0xc0 | 5); /* 5 is the last, 6 the first */
	pulse(r, 0);
	pulse(r, 6);
	take(r, 0x36);
}

static void special_mask_mode_lets_lower_inputs_through(void **state)
{
	struct rig *r = *state;

	init(r, 1);
	pulse(r, 3);
	take(r, 0x33);
	rig_out(r, 0x21, 0x08);
	pulse(r, 6);
	assert_false(chips_extint_pending(r->ch, 0));
	rig_out(r, 0x20, 0x68);
	take(r, 0x36);
}

static void the_poll_command_acknowledges_without_the_processor(void **state)
{
	struct rig *r = *state;

	init(r, 1);
	rig_out(r, 0x20, 0x0c);
	assert_int_equal(rig_in(r, 0x20), 0);
	pulse(r, 6);
	rig_out(r, 0x20, 0x0c);
	assert_int_equal(rig_in(r, 0x20), 0x86);
	assert_false(chips_extint_pending(r->ch, 0));
	rig_out(r, 0x20, 0x0b);
	assert_int_equal(rig_in(r, 0x20), 0x40);
}

static void icw1_forgets_edges_and_masks(void **state)
{
	struct rig *r = *state;

	init(r, 1);
	rig_out(r, 0x21, 0xff);
	pulse(r, 4);
	rig_out(r, 0x20, 0x11);
	rig_out(r, 0x21, 0x40);
	rig_out(r, 0x21, 0x04);
	rig_out(r, 0x21, 0x01);
	assert_int_equal(rig_in(r, 0x21), 0);
	assert_false(chips_extint_pending(r->ch, 0));
	pulse(r, 4);
	take(r, 0x44);
}

/* SDM 3A §11.5.1: ExtINT on LINT0; a LAPIC that is off leaves the pin to the processor. */
static void only_a_processor_that_listens_on_lint0_gets_the_interrupt(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);

	init(r, 1);
	pulse(r, 4);
	assert_true(chips_extint_pending(r->ch, 0)); /* after reset the boot processor listens */
	assert_false(chips_extint_pending(r->ch, 1));
	lapic_mmio_write(l, 0x350, 0x10700);
	assert_false(chips_extint_pending(r->ch, 0));
	r->woken[0] = 0;
	lapic_mmio_write(l, 0x350, 0x700);
	assert_true(chips_extint_pending(r->ch, 0));
	assert_true(r->woken[0] > 0);
	lapic_mmio_write(l, 0x350, 0x10700);
	assert_true(lapic_set_base(l, X86_LAPIC_GPA));
	assert_true(chips_extint_pending(r->ch, 0));
}

static void lint0_in_fixed_or_nmi_mode_takes_the_edge_of_the_pics_output(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0), *nmi = rig_enable(r, 1);

	init(r, 1);
	lapic_mmio_write(l, 0x350, 0x45);
	lapic_mmio_write(nmi, 0x350, 0x400);
	pulse(r, 0);
	assert_false(chips_extint_pending(r->ch, 0));
	rig_take(l, 0x45);
	assert_int_equal(lapic_take_events(nmi, ~0u, NULL), LAPIC_EV_NMI);
}

static void wide_accesses_do_nothing(void **state)
{
	struct rig *r = *state;
	u16 v = 0xffff;

	init(r, 1);
	bus_write(&r->vm, BUS_PIO, 0x20, &v, 2);
	bus_read(&r->vm, BUS_PIO, 0x20, &v, 2);
	assert_int_equal(v, 0);
	assert_int_equal(rig_in(r, 0x21), 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(chips_that_nobody_has_set_up_interrupt_nobody),
		T(an_edge_interrupts_once),
		T(the_lower_input_goes_first_and_blocks_the_others_until_its_eoi),
		T(a_specific_eoi_ends_the_one_it_names),
		T(the_second_chip_interrupts_through_input_2),
		T(a_higher_input_of_the_second_chip_gets_through_only_in_special_fully_nested_mode),
		T(a_masked_input_keeps_its_edge),
		T(a_level_input_interrupts_as_long_as_it_is_up),
		T(an_interrupt_that_is_gone_is_spurious),
		T(auto_eoi_leaves_nothing_in_service),
		T(rotation_makes_the_served_input_the_last),
		T(special_mask_mode_lets_lower_inputs_through),
		T(the_poll_command_acknowledges_without_the_processor),
		T(icw1_forgets_edges_and_masks),
		T(only_a_processor_that_listens_on_lint0_gets_the_interrupt),
		T(lint0_in_fixed_or_nmi_mode_takes_the_edge_of_the_pics_output),
		T(wide_accesses_do_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
