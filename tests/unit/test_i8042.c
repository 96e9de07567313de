/* test_i8042.c: what a driver that probes the keyboard controller sees, and the reset line. */
#include "devtest.h"

#include <errno.h>

#define DATA 0x60
#define CTL  0x64
#define IRQ  1

extern const struct device_class i8042_class;

static int setup(void **state)
{
	static const struct dev_slot slot = {.pio_base = DATA, .pio_len = 5, .gsi = IRQ, .has_gsi = true};
	struct devtest *t = devtest_new();

	devtest_add(t, &i8042_class, NULL, &slot);
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	devtest_free(*state);
	return 0;
}

/* The answer to a command; it must be there at once. */
static u8 ask(struct devtest *t, u8 cmd)
{
	devtest_out(t, CTL, cmd);
	assert_true(devtest_in(t, CTL) & 1);
	return devtest_in(t, DATA);
}

static void the_status_says_that_commands_are_taken_at_once(void **state)
{
	struct devtest *t = *state;

	assert_int_equal(devtest_in(t, CTL), 0x14); /* nothing to read, input empty, tested, not locked */
	devtest_out(t, CTL, 0x60);
	assert_int_equal(devtest_in(t, CTL), 0x1c); /* input empty, last write was a command */
	devtest_out(t, DATA, 0x05);
	assert_int_equal(devtest_in(t, CTL), 0x14);
}

static void reset_command_reboots_the_vm(void **state)
{
	struct devtest *t = *state;

	devtest_out(t, CTL, 0xff); /* pulses no line */
	assert_int_equal(t->vm.end, VM_END_NONE);
	devtest_out(t, CTL, 0xfe);
	assert_int_equal(t->vm.end, VM_END_REBOOT);
	assert_true(t->vm.loop.stop);
}

static void lowering_the_reset_bit_of_the_output_port_reboots_the_vm(void **state)
{
	struct devtest *t = *state;

	assert_int_equal(ask(t, 0xd0), 0x03);
	devtest_out(t, CTL, 0xd1);
	devtest_out(t, DATA, 0x01);
	assert_int_equal(t->vm.end, VM_END_NONE);
	assert_int_equal(ask(t, 0xd0), 0x01);
	devtest_out(t, CTL, 0xd1);
	devtest_out(t, DATA, 0xfe);
	assert_int_equal(t->vm.end, VM_END_REBOOT);
}

/* The sequence of Linux's i8042_controller_selftest, i8042_controller_init and i8042_check_aux. */
static void every_probe_of_linux_is_answered_at_once(void **state)
{
	struct devtest *t = *state;

	assert_int_equal(ask(t, 0xaa), 0x55);
	assert_int_equal(ask(t, 0x20), 0x05);
	devtest_out(t, CTL, 0x60);
	devtest_out(t, DATA, 0x14);
	assert_int_equal(ask(t, 0x20), 0x14);
	assert_int_equal(ask(t, 0xab), 0x00);
	devtest_out(t, CTL, 0xd3);
	devtest_out(t, DATA, 0x5a);
	assert_int_equal(devtest_in(t, CTL) & 0x21, 0x01); /* a byte, and not from a mouse port */
	assert_int_equal(devtest_in(t, DATA), 0x5a);
	assert_in_range(ask(t, 0xa9), 0x01, 0x03); /* no mouse port */
	devtest_out(t, CTL, 0xad);
	assert_int_equal(ask(t, 0x20) & 0x10, 0x10);
	devtest_out(t, CTL, 0xae);
	assert_int_equal(ask(t, 0x20) & 0x10, 0);
}

static void the_keyboard_identifies_itself(void **state)
{
	struct devtest *t = *state;

	devtest_out(t, DATA, 0xf2);
	assert_int_equal(devtest_in(t, DATA), 0xfa);
	assert_int_equal(devtest_in(t, DATA), 0xab);
	assert_int_equal(devtest_in(t, DATA), 0x83);
	assert_int_equal(devtest_in(t, CTL) & 1, 0);
	devtest_out(t, DATA, 0xff);
	assert_int_equal(devtest_in(t, DATA), 0xfa);
	assert_int_equal(devtest_in(t, DATA), 0xaa);
}

static void each_byte_makes_an_interrupt_of_its_own(void **state)
{
	struct devtest *t = *state;

	devtest_out(t, DATA, 0xf2);
	assert_true(t->level[IRQ]);
	for (u32 i = 0; i < 3; i++) {
		assert_int_equal(t->rises[IRQ], i + 1);
		devtest_in(t, DATA);
	}
	assert_false(t->level[IRQ]);
	devtest_out(t, CTL, 0x60); /* keyboard interrupt off */
	devtest_out(t, DATA, 0x04);
	devtest_out(t, DATA, 0xf4);
	assert_false(t->level[IRQ]);
	assert_int_equal(devtest_in(t, DATA), 0xfa);
}

static void a_guest_that_never_reads_loses_only_the_surplus(void **state)
{
	struct devtest *t = *state;

	for (u32 i = 0; i < 1000; i++)
		devtest_out(t, DATA, 0xf4);
	for (u32 i = 0; i < 16; i++)
		assert_int_equal(devtest_in(t, DATA), 0xfa);
	assert_int_equal(devtest_in(t, CTL) & 1, 0);
	assert_int_equal(devtest_in(t, DATA), 0xfa); /* again: an empty buffer keeps its byte */
}

static void the_ports_between_are_nobodys(void **state)
{
	struct devtest *t = *state;
	u32 wide = 0xfefefefe;

	for (u16 port = 0x61; port <= 0x63; port++) {
		devtest_out(t, port, 0xfe);
		assert_int_equal(devtest_in(t, port), 0xff);
	}
	bus_write(&t->vm, BUS_PIO, DATA, &wide, 4);
	assert_int_equal(devtest_in(t, CTL), 0x14);
	assert_int_equal(t->vm.end, VM_END_NONE);
}

static int press_ctrl_alt_del(struct devtest *t)
{
	struct err e;

	return i8042_class.ops[0].update(t->dev, NULL, &e);
}

static void ctrl_alt_del_is_pressed_and_released_as_a_whole_or_not_at_all(void **state)
{
	static const u8 keys[] = {0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14};
	struct devtest *t = *state;

	for (u32 round = 0; round < 3; round++) {
		assert_int_equal(press_ctrl_alt_del(t), 0);
		assert_int_equal(press_ctrl_alt_del(t), -EBUSY);
		for (u32 i = 0; i < sizeof(keys); i++) {
			assert_true(devtest_in(t, CTL) & 1);
			assert_int_equal(devtest_in(t, DATA), keys[i]);
		}
		assert_false(devtest_in(t, CTL) & 1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_status_says_that_commands_are_taken_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(reset_command_reboots_the_vm, setup, teardown),
		cmocka_unit_test_setup_teardown(lowering_the_reset_bit_of_the_output_port_reboots_the_vm, setup, teardown),
		cmocka_unit_test_setup_teardown(every_probe_of_linux_is_answered_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(the_keyboard_identifies_itself, setup, teardown),
		cmocka_unit_test_setup_teardown(each_byte_makes_an_interrupt_of_its_own, setup, teardown),
		cmocka_unit_test_setup_teardown(a_guest_that_never_reads_loses_only_the_surplus, setup, teardown),
		cmocka_unit_test_setup_teardown(the_ports_between_are_nobodys, setup, teardown),
		cmocka_unit_test_setup_teardown(ctrl_alt_del_is_pressed_and_released_as_a_whole_or_not_at_all, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
