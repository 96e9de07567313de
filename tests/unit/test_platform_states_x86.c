/* test_platform_states_x86.c: keyboard controller and clock of x86 machines, as test_platform_states.c. */
#include "platform_states.h"

extern const struct device_class i8042_class, rtc_cmos_class;

static const struct dev_slot i8042_slot = {.pio_base = 0x60, .pio_len = 5, .gsi = 1, .has_gsi = true};
static const struct dev_slot rtc_slot = {.pio_base = 0x70, .pio_len = 2};

/* ---- keyboard controller ---- */

static void keys_that_were_not_read_and_a_command_that_waits_survive(void **state)
{
	static const u8 codes[] = {0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14};
	struct devtest *a = make(&i8042_class, &i8042_slot, VM_BOOTED), *b = make(&i8042_class, &i8042_slot, VM_RESTORED);

	(void)state;
	assert_int_equal(i8042_class.ops[0].update(a->dev, NULL, NULL), 0);
	assert_int_equal(devtest_in(a, 0x60), codes[0]);
	devtest_out(a, 0x64, 0x60); /* write the command byte: its value is still to come */
	move(a, b);
	assert_true(b->level[1]);
	for (u32 i = 1; i < ARRAY_SIZE(codes); i++)
		assert_int_equal(devtest_in(b, 0x60), codes[i]);
	assert_false(b->level[1]);
	assert_int_equal(b->rises[1], ARRAY_SIZE(codes) - 1);
	devtest_out(b, 0x60, 0x45);
	devtest_out(b, 0x64, 0x20);
	assert_int_equal(devtest_in(b, 0x60), 0x45);
	devtest_free(a);
	devtest_free(b);
}

static void i8042_bad_head(void *data)
{
	put_number(i8042_class.states[0]->table, data, "head", 16);
}

static void i8042_overfull(void *data)
{
	put_number(i8042_class.states[0]->table, data, "count", 17);
}

static void impossible_states_of_the_keyboard_are_refused(void **state)
{
	struct devtest *t = make(&i8042_class, &i8042_slot, VM_RESTORED);

	(void)state;
	refused(t, i8042_bad_head, "head");
	refused(t, i8042_overfull, "count");
	devtest_free(t);
}

/* ---- clock ---- */

static u8 cmos(struct devtest *t, u8 reg)
{
	devtest_out(t, 0x70, reg);
	return devtest_in(t, 0x71);
}

static void set_cmos(struct devtest *t, u8 reg, u8 val)
{
	devtest_out(t, 0x70, reg);
	devtest_out(t, 0x71, val);
}

static u8 minute(struct devtest *t)
{
	cmos(t, 10); /* takes the time anew */
	return cmos(t, 2);
}

static void the_clock_keeps_its_distance_to_the_hosts_and_its_bytes(void **state)
{
	struct devtest *a = make(&rtc_cmos_class, &rtc_slot, VM_BOOTED), *b = make(&rtc_cmos_class, &rtc_slot, VM_RESTORED);
	u8 year = cmos(a, 9);

	(void)state;
	set_cmos(a, 9, (u8)(year ^ 0x10)); /* ten years off */
	set_cmos(a, 0x40, 0x77);
	devtest_out(a, 0x70, 0x40);
	move(a, b);
	assert_int_equal(devtest_in(b, 0x71), 0x77); /* the index, too */
	assert_int_equal(cmos(b, 9), year ^ 0x10);
	for (u32 i = 0; i < 3 && minute(a) != minute(b); i++)
		;
	assert_int_equal(minute(a), minute(b));
	devtest_free(a);
	devtest_free(b);
}

static void a_guest_that_sets_the_clock_goes_on_setting_it(void **state)
{
	struct devtest *a = make(&rtc_cmos_class, &rtc_slot, VM_BOOTED), *b = make(&rtc_cmos_class, &rtc_slot, VM_RESTORED);

	(void)state;
	set_cmos(a, 11, 0x82);
	set_cmos(a, 9, 0x42);
	set_cmos(a, 8, 0x05);
	move(a, b);
	assert_int_equal(cmos(b, 9), 0x42);
	set_cmos(b, 7, 0x17);
	set_cmos(b, 11, 0x02);
	assert_int_equal(cmos(b, 9), 0x42);
	assert_int_equal(cmos(b, 8), 0x05);
	assert_int_equal(cmos(b, 7), 0x17);
	devtest_free(a);
	devtest_free(b);
}

static void rtc_bad_index(void *data)
{
	put_number(rtc_cmos_class.states[0]->table, data, "index", 128);
}

static void rtc_far_off(void *data)
{
	put_number(rtc_cmos_class.states[0]->table, data, "offset", INT64_MAX);
}

static void rtc_long_ago(void *data)
{
	put_number(rtc_cmos_class.states[0]->table, data, "offset", (u64)INT64_MIN);
}

static void impossible_states_of_the_clock_are_refused(void **state)
{
	struct devtest *t = make(&rtc_cmos_class, &rtc_slot, VM_RESTORED);

	(void)state;
	refused(t, rtc_bad_index, "index");
	refused(t, rtc_far_off, "offset");
	refused(t, rtc_long_ago, "offset");
	devtest_free(t);
}

static void any_state_is_refused_or_the_device_goes_on(void **state)
{
	(void)state;
	spoil_states(&i8042_class, &i8042_slot);
	spoil_states(&rtc_cmos_class, &rtc_slot);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(keys_that_were_not_read_and_a_command_that_waits_survive),
		cmocka_unit_test(impossible_states_of_the_keyboard_are_refused),
		cmocka_unit_test(the_clock_keeps_its_distance_to_the_hosts_and_its_bytes),
		cmocka_unit_test(a_guest_that_sets_the_clock_goes_on_setting_it),
		cmocka_unit_test(impossible_states_of_the_clock_are_refused),
		cmocka_unit_test(any_state_is_refused_or_the_device_goes_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
