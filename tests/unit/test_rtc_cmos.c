/* test_rtc_cmos.c: the time in all its formats, setting it, and the bytes beside it. */
#include "devtest.h"

#include <time.h>

enum { SEC = 0, MIN_ = 2, HOUR = 4, WDAY = 6, DAY = 7, MONTH = 8, YEAR = 9, A = 10, B = 11, C = 12, D = 13, CENTURY = 0x32 };

#define B_SET	 0x80
#define B_BINARY 0x04
#define B_24H	 0x02

extern const struct device_class rtc_cmos_class;

static int setup(void **state)
{
	static const struct dev_slot slot = {.pio_base = 0x70, .pio_len = 2, .gsi = 8, .has_gsi = true};
	struct devtest *t = devtest_new();

	devtest_add(t, &rtc_cmos_class, NULL, &slot);
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	devtest_free(*state);
	return 0;
}

static u8 get(struct devtest *t, u8 reg)
{
	devtest_out(t, 0x70, reg);
	return devtest_in(t, 0x71);
}

static void set(struct devtest *t, u8 reg, u8 val)
{
	devtest_out(t, 0x70, reg);
	devtest_out(t, 0x71, val);
}

static int from_bcd(u8 v)
{
	return (v >> 4) * 10 + (v & 0xf);
}

/* Reads the time as Linux does: wait until no update is in progress, then all registers. */
static time_t read_bcd(struct devtest *t)
{
	struct tm tm = {0};

	assert_int_equal(get(t, A) & 0x80, 0);
	tm.tm_sec = from_bcd(get(t, SEC));
	tm.tm_min = from_bcd(get(t, MIN_));
	tm.tm_hour = from_bcd(get(t, HOUR));
	tm.tm_mday = from_bcd(get(t, DAY));
	tm.tm_mon = from_bcd(get(t, MONTH)) - 1;
	tm.tm_year = from_bcd(get(t, CENTURY)) * 100 + from_bcd(get(t, YEAR)) - 1900;
	return timegm(&tm);
}

static void write_time(struct devtest *t, u8 century, const u8 fields[7])
{
	static const u8 regs[] = {YEAR, MONTH, DAY, WDAY, HOUR, MIN_, SEC};

	set(t, B, get(t, B) | B_SET);
	for (u32 i = 0; i < ARRAY_SIZE(regs); i++)
		set(t, regs[i], fields[i]);
	set(t, CENTURY, century);
	set(t, B, get(t, B) & (u8)~B_SET);
}

static void it_reads_as_the_hosts_time(void **state)
{
	struct devtest *t = *state;
	time_t before = time(NULL), seen = read_bcd(t);
	struct tm tm;

	assert_in_range(seen, before, time(NULL));
	gmtime_r(&seen, &tm);
	assert_in_range(get(t, WDAY), 1, 7);
	assert_int_equal(get(t, B), B_24H);
	assert_int_equal(get(t, D), 0x80); /* the battery is fine */
}

static void an_update_is_never_in_progress(void **state)
{
	struct devtest *t = *state;

	set(t, A, 0xff);
	assert_int_equal(get(t, A), 0x7f);
	set(t, A, 0x26);
	assert_int_equal(get(t, A), 0x26);
}

static void a_time_that_the_guest_sets_runs_on(void **state)
{
	struct devtest *t = *state;
	struct tm tm = {.tm_year = 99, .tm_mon = 11, .tm_mday = 31, .tm_hour = 23, .tm_min = 58, .tm_sec = 30};

	write_time(t, 0x19, (const u8[]){0x99, 0x12, 0x31, 6, 0x23, 0x58, 0x30});
	assert_in_range(read_bcd(t), timegm(&tm), timegm(&tm) + 5);
	assert_int_equal(get(t, WDAY), 6); /* a Friday */
}

static void the_clock_stands_while_the_guest_sets_it(void **state)
{
	struct devtest *t = *state;

	set(t, B, B_24H | B_SET);
	set(t, SEC, 0x59);
	set(t, HOUR, 0x12);
	assert_int_equal(get(t, SEC), 0x59);
	assert_int_equal(get(t, HOUR), 0x12);
}

static void binary_and_12_hour_formats_are_kept_to(void **state)
{
	struct devtest *t = *state;

	write_time(t, 0x20, (const u8[]){0x24, 0x02, 0x29, 5, 0x13, 0x07, 0x00});
	set(t, B, B_24H | B_BINARY);
	assert_int_equal(get(t, YEAR), 24);
	assert_int_equal(get(t, HOUR), 13);
	assert_int_equal(get(t, CENTURY), 20);
	set(t, B, B_BINARY);
	assert_int_equal(get(t, HOUR), 0x80 | 1);
	set(t, B, 0);
	assert_int_equal(get(t, HOUR), 0x80 | 1);
	write_time(t, 0x20, (const u8[]){0x24, 0x02, 0x29, 5, 0x12, 0x07, 0x00}); /* midnight */
	set(t, B, B_24H);
	assert_int_equal(get(t, HOUR), 0);
	set(t, B, 0);
	write_time(t, 0x20, (const u8[]){0x24, 0x02, 0x29, 5, 0x92, 0x07, 0x00}); /* noon */
	assert_int_equal(get(t, HOUR), 0x92);
	set(t, B, B_24H);
	assert_int_equal(get(t, HOUR), 0x12);
}

static void a_single_register_can_be_set_without_stopping_the_clock(void **state)
{
	struct devtest *t = *state;
	time_t before = read_bcd(t);
	u8 hour = get(t, HOUR);

	set(t, HOUR, hour == 0x10 ? 0x11 : 0x10);
	assert_in_range(read_bcd(t) - ((hour == 0x10 ? 11 : 10) - from_bcd(hour)) * 3600, before, before + 5);
}

static void a_reader_gets_one_consistent_time(void **state)
{
	struct devtest *t = *state;
	u64 start = clock_host_ns();
	time_t now = time(NULL);
	u8 hour;

	write_time(t, 0x20, (const u8[]){0x24, 0x02, 0x28, 4, 0x23, 0x59, 0x59});
	if (get(t, SEC) != 0x59)
		return; /* the second passed in this very moment */
	while (time(NULL) == now)
		usleep(1000);
	hour = get(t, HOUR); /* midnight has passed, but not for one who read the seconds before it */
	if (clock_host_ns() - start < NSEC_PER_SEC)
		assert_int_equal(hour, 0x23);
	get(t, SEC);
	assert_int_equal(get(t, HOUR), 0x00);
}

static void nonsense_makes_some_time_and_nothing_worse(void **state)
{
	struct devtest *t = *state;

	for (u32 v = 0; v < 0x100; v += 0x33) {
		for (u32 b = 0; b < 8; b += 2) {
			u8 n = (u8)v;

			set(t, B, (u8)b);
			write_time(t, n, (const u8[]){n, n, n, n, n, n, n});
			assert_int_equal(get(t, A), 0x26);
			get(t, SEC);
		}
	}
}

static void other_bytes_are_memory_and_the_memory_sizes_are_zero(void **state)
{
	static const u8 sizes[] = {0x15, 0x16, 0x17, 0x18, 0x30, 0x31, 0x34, 0x35};
	struct devtest *t = *state;

	for (u32 i = 0; i < ARRAY_SIZE(sizes); i++)
		assert_int_equal(get(t, sizes[i]), 0);
	set(t, 0x0f, 0x0a);
	set(t, 0x7f, 0x5a);
	assert_int_equal(get(t, 0x8f), 0x0a); /* bit 7 is the NMI mask, not part of the index */
	assert_int_equal(get(t, 0x7f), 0x5a);
	set(t, D, 0x00);
	set(t, C, 0xff);
	assert_int_equal(get(t, D), 0x80);
	assert_int_equal(get(t, C), 0x00);
	assert_int_equal(devtest_in(t, 0x70), 0xff);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(it_reads_as_the_hosts_time, setup, teardown),
		cmocka_unit_test_setup_teardown(an_update_is_never_in_progress, setup, teardown),
		cmocka_unit_test_setup_teardown(a_time_that_the_guest_sets_runs_on, setup, teardown),
		cmocka_unit_test_setup_teardown(the_clock_stands_while_the_guest_sets_it, setup, teardown),
		cmocka_unit_test_setup_teardown(binary_and_12_hour_formats_are_kept_to, setup, teardown),
		cmocka_unit_test_setup_teardown(a_single_register_can_be_set_without_stopping_the_clock, setup, teardown),
		cmocka_unit_test_setup_teardown(a_reader_gets_one_consistent_time, setup, teardown),
		cmocka_unit_test_setup_teardown(nonsense_makes_some_time_and_nothing_worse, setup, teardown),
		cmocka_unit_test_setup_teardown(other_bytes_are_memory_and_the_memory_sizes_are_zero, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
