/* test_rtc_pl031.c: the time, setting it, what tells Linux' driver that it is a PL031; and its state. */
#include "platform_states.h"

#include <time.h>

#define BASE 0x40001000u

enum { DR = 0x00, MR = 0x04, LR = 0x08, CR = 0x0c, RIS = 0x14, ID = 0xfe0 };

extern const struct device_class rtc_pl031_class;

static const struct dev_slot slot = {.mmio_base = BASE, .mmio_len = 0x1000};

static int setup(void **state)
{
	struct devtest *t = devtest_new();

	devtest_add(t, &rtc_pl031_class, NULL, &slot);
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	devtest_free(*state);
	return 0;
}

static u32 get(struct devtest *t, u32 reg)
{
	u32 v = 0;

	bus_read(&t->vm, BUS_MMIO, BASE + reg, &v, 4);
	return v;
}

static void set(struct devtest *t, u32 reg, u32 v)
{
	bus_write(&t->vm, BUS_MMIO, BASE + reg, &v, 4);
}

static void it_tells_the_time_of_the_host(void **state)
{
	assert_in_range(get(*state, DR), time(NULL) - 2, time(NULL));
	assert_int_equal(get(*state, CR), 1);
	assert_int_equal(get(*state, RIS), 0);
}

static void a_time_that_is_set_runs_on(void **state)
{
	set(*state, LR, 1000);
	assert_in_range(get(*state, DR), 1000, 1003);
	assert_int_equal(get(*state, LR), 1000);
	set(*state, LR, UINT32_MAX); /* and over the end */
	assert_true(get(*state, DR) + 1 <= 3);
	set(*state, MR, 77);
	assert_int_equal(get(*state, MR), 77);
}

static void its_numbers_are_those_of_a_pl031(void **state)
{
	static const u8 id[] = {0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1};

	for (u32 i = 0; i < ARRAY_SIZE(id); i++)
		assert_int_equal(get(*state, ID + 4 * i), id[i]);
}

static void accesses_that_no_driver_makes_do_nothing(void **state)
{
	struct devtest *t = *state;
	u64 v = 0;

	for (u32 len = 1; len <= 8; len *= 2) {
		if (len == 4)
			continue;
		bus_write(&t->vm, BUS_MMIO, BASE + LR, &v, len);
		bus_read(&t->vm, BUS_MMIO, BASE + DR, &v, len);
	}
	for (u32 reg = 0; reg <= 0xffc; reg += 4)
		(void)get(t, reg);
	assert_in_range(get(t, DR), time(NULL) - 2, time(NULL));
}

static void it_keeps_its_distance_to_the_hosts_time_and_its_registers(void **state)
{
	struct devtest *b = make(&rtc_pl031_class, &slot, VM_RESTORED);

	set(*state, LR, 1000);
	set(*state, MR, 77);
	move(*state, b);
	assert_in_range(get(b, DR), 1000, 1003);
	assert_int_equal(get(b, LR), 1000);
	assert_int_equal(get(b, MR), 77);
	devtest_free(b);
}

static void any_state_is_refused_or_the_device_goes_on(void **state)
{
	(void)state;
	spoil_states(&rtc_pl031_class, &slot);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(it_tells_the_time_of_the_host, setup, teardown),
		cmocka_unit_test_setup_teardown(a_time_that_is_set_runs_on, setup, teardown),
		cmocka_unit_test_setup_teardown(its_numbers_are_those_of_a_pl031, setup, teardown),
		cmocka_unit_test_setup_teardown(accesses_that_no_driver_makes_do_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(it_keeps_its_distance_to_the_hosts_time_and_its_registers, setup, teardown),
		cmocka_unit_test(any_state_is_refused_or_the_device_goes_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
