/* test_gpio_pl061.c: the registers, a press of the power button as a driver sees it, and its state. */
#include "platform_states.h"

#include <errno.h>

#define BASE   0x40044000u
#define GSI    3u
#define BUTTON 0x08u

enum { DIR = 0x400, IS = 0x404, IBE = 0x408, IEV = 0x40c, IE = 0x410, RIS = 0x414, MIS = 0x418, IC = 0x41c, AFSEL = 0x420, ID = 0xfe0 };

extern const struct device_class gpio_pl061_class;

static const struct dev_slot slot = {.mmio_base = BASE, .mmio_len = 0x1000, .gsi = GSI, .has_gsi = true};

static int setup(void **state)
{
	*state = make(&gpio_pl061_class, &slot, VM_BOOTED);
	return 0;
}

static int teardown(void **state)
{
	devtest_free(*state);
	return 0;
}

/* As Linux does it: bytes. */
static u8 get(struct devtest *t, u32 reg)
{
	u8 v = 0;

	bus_read(&t->vm, BUS_MMIO, BASE + reg, &v, 1);
	return v;
}

static void set(struct devtest *t, u32 reg, u8 v)
{
	bus_write(&t->vm, BUS_MMIO, BASE + reg, &v, 1);
}

/* GPIODATA for these lines. */
static u32 data(u8 mask)
{
	return (u32)mask << 2;
}

static int press(struct devtest *t)
{
	struct err e = {0};

	return vm_ask_device(&t->vm, "gpio_pl061", "/power-button", &e);
}

/* gpio-keys: an interrupt by both edges. */
static void listen(struct devtest *t)
{
	t->vm.devices[0] = t->dev;
	t->vm.nr_devices = 1;
	set(t, IBE, BUTTON);
	set(t, IE, BUTTON);
}

static void until_released(struct devtest *t)
{
	u64 end_ns = clock_host_ns() + 10 * NSEC_PER_SEC;

	while (get(t, data(BUTTON)) && clock_host_ns() < end_ns)
		loop_turn(&t->vm.loop, 20);
	assert_int_equal(get(t, data(BUTTON)), 0);
}

static void its_numbers_are_those_of_a_pl061(void **state)
{
	static const u8 id[] = {0x61, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1};

	for (u32 i = 0; i < ARRAY_SIZE(id); i++)
		assert_int_equal(get(*state, ID + 4 * i), id[i]);
}

static void data_is_read_and_written_by_the_address_bits(void **state)
{
	struct devtest *t = *state;
	u32 word = 0;

	set(t, data(0xff), 0xff);
	assert_int_equal(get(t, data(0xff)), 0); /* all are inputs, and nothing drives them */
	set(t, DIR, 0xf0);
	set(t, data(0xff), 0xff);
	assert_int_equal(get(t, data(0xff)), 0xf0);
	set(t, data(0x50), 0);
	assert_int_equal(get(t, data(0xff)), 0xa0);
	assert_int_equal(get(t, data(0x2f)), 0x20);
	bus_read(&t->vm, BUS_MMIO, BASE + DIR, &word, 4);
	assert_int_equal(word, 0xf0);
}

static void turn_for(struct devtest *t, u64 ms)
{
	u64 end_ns = clock_host_ns() + ms * NSEC_PER_MSEC;

	while (clock_host_ns() < end_ns)
		loop_turn(&t->vm.loop, 10);
}

static void a_press_is_two_edges_a_moment_apart(void **state)
{
	struct devtest *t = *state;
	u64 start_ns;

	listen(t);
	assert_int_equal(press(t), 0);
	assert_int_equal(get(t, data(0xff)), BUTTON);
	assert_int_equal(get(t, MIS), BUTTON);
	assert_true(t->level[GSI]);
	turn_for(t, 400); /* a guest that has no time */
	assert_int_equal(get(t, data(BUTTON)), BUTTON);
	start_ns = clock_host_ns();
	set(t, IC, BUTTON);
	assert_false(t->level[GSI]);
	assert_int_equal(get(t, RIS), 0);
	until_released(t);
	assert_true(clock_host_ns() - start_ns >= 50 * NSEC_PER_MSEC);
	assert_true(t->level[GSI]);
	assert_int_equal(t->rises[GSI], 2);
	set(t, IC, BUTTON);
	assert_false(t->level[GSI]);
}

static void a_guest_that_does_not_listen_is_told_of(void **state)
{
	struct devtest *t = *state;
	struct err e = {0};

	t->vm.devices[0] = t->dev;
	t->vm.nr_devices = 1;
	assert_int_equal(vm_ask_device(&t->vm, "gpio_pl061", "/power-button", &e), -ENODEV);
	assert_non_null(strstr(e.msg, "gpio_keys"));
	assert_int_equal(get(t, data(0xff)), 0);
	assert_int_equal(get(t, RIS), 0);
	assert_int_equal(vm_ask_device(&t->vm, "i8042", "/ctrl-alt-del", &e), -ENODEV);
}

/* One edge alone, and the level, as their bits say. */
static void interrupts_are_of_the_kind_that_was_asked_for(void **state)
{
	struct devtest *t = *state;

	listen(t);
	set(t, IBE, 0);
	assert_int_equal(press(t), 0); /* the falling one */
	assert_int_equal(get(t, RIS), 0);
	until_released(t);
	assert_int_equal(get(t, RIS), BUTTON);
	set(t, IC, BUTTON);
	set(t, IEV, BUTTON); /* the rising one */
	assert_int_equal(press(t), 0);
	assert_int_equal(get(t, RIS), BUTTON);
	set(t, IC, BUTTON);
	until_released(t);
	assert_int_equal(get(t, RIS), 0);
	set(t, IS, BUTTON); /* high */
	assert_int_equal(press(t), 0);
	set(t, IC, BUTTON);
	assert_true(t->level[GSI]);
	set(t, IE, 0);
	assert_false(t->level[GSI]);
	assert_int_equal(get(t, RIS), BUTTON);
	assert_int_equal(get(t, MIS), 0);
	until_released(t);
	assert_int_equal(get(t, RIS), 0);
}

static void a_paused_guest_finds_the_button_pressed(void **state)
{
	struct devtest *t = *state;

	listen(t);
	t->vm.clock.paused = true;
	assert_int_equal(press(t), 0);
	set(t, IC, BUTTON);
	turn_for(t, 300);
	assert_int_equal(get(t, data(BUTTON)), BUTTON);
	gpio_pl061_class.resume(t->dev); /* before the clock */
	t->vm.clock.paused = false;
	until_released(t);
	assert_int_equal(press(t), 0);
	set(t, IC, BUTTON);
	gpio_pl061_class.quiesce(t->dev);
	turn_for(t, 300);
	assert_int_equal(get(t, data(BUTTON)), BUTTON);
	gpio_pl061_class.resume(t->dev);
	until_released(t);
}

static void a_press_goes_on_in_another_vm(void **state)
{
	struct devtest *a = *state, *b = make(&gpio_pl061_class, &slot, VM_RESTORED);

	listen(a);
	set(a, DIR, 0x10);
	set(a, AFSEL, 0x42);
	set(a, data(0x10), 0x10);
	assert_int_equal(press(a), 0);
	move(a, b);
	assert_true(b->level[GSI]);
	assert_int_equal(b->rises[GSI], 1);
	assert_int_equal(get(b, MIS), BUTTON);
	assert_int_equal(get(b, AFSEL), 0x42);
	assert_int_equal(get(b, data(0xff)), BUTTON | 0x10);
	set(b, IC, BUTTON);
	gpio_pl061_class.resume(b->dev);
	until_released(b);
	assert_int_equal(b->rises[GSI], 2);
	devtest_free(b);
}

static void accesses_that_no_driver_makes_do_nothing(void **state)
{
	struct devtest *t = *state;
	u64 v = 0;

	listen(t);
	for (u32 at = 0; at < 0x1000 - 8; at += 3) {
		bus_read(&t->vm, BUS_MMIO, BASE + at, &v, 1u << at % 4);
		if (at % 4 || at > AFSEL)
			bus_write(&t->vm, BUS_MMIO, BASE + at, &v, 1u << at % 4);
	}
	assert_int_equal(get(t, IE), BUTTON);
	assert_int_equal(press(t), 0);
}

static void any_state_is_refused_or_the_device_goes_on(void **state)
{
	(void)state;
	spoil_states(&gpio_pl061_class, &slot);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(its_numbers_are_those_of_a_pl061, setup, teardown),
		cmocka_unit_test_setup_teardown(data_is_read_and_written_by_the_address_bits, setup, teardown),
		cmocka_unit_test_setup_teardown(a_press_is_two_edges_a_moment_apart, setup, teardown),
		cmocka_unit_test_setup_teardown(a_guest_that_does_not_listen_is_told_of, setup, teardown),
		cmocka_unit_test_setup_teardown(interrupts_are_of_the_kind_that_was_asked_for, setup, teardown),
		cmocka_unit_test_setup_teardown(a_paused_guest_finds_the_button_pressed, setup, teardown),
		cmocka_unit_test_setup_teardown(a_press_goes_on_in_another_vm, setup, teardown),
		cmocka_unit_test_setup_teardown(accesses_that_no_driver_makes_do_nothing, setup, teardown),
		cmocka_unit_test(any_state_is_refused_or_the_device_goes_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
