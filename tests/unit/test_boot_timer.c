/* test_boot_timer.c: Firecracker's line in the log. */
#include "devtest.h"

#define BASE 0xc0000000

extern const struct device_class boot_timer_class;

static int setup(void **state)
{
	static const struct dev_slot slot = {.mmio_base = BASE, .mmio_len = 0x1000};
	struct devtest *t = devtest_new();

	devtest_add(t, &boot_timer_class, NULL, &slot);
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	devtest_free(*state);
	return 0;
}

static void write_byte(struct devtest *t, u64 addr, u8 val)
{
	bus_write(&t->vm, BUS_MMIO, addr, &val, 1);
}

static void the_agreed_byte_logs_the_boot_time(void **state)
{
	struct devtest *t = *state;
	unsigned long long us, ms, cpu_us, cpu_ms;
	char buf[512] = "";
	const char *line;

	t->vm.start_ns = clock_host_ns() - 1234567 * 1000ull;
	write_byte(t, BASE, 123);
	assert_true(pread(t->log.fd, buf, sizeof(buf) - 1, 0) > 0);
	line = strstr(buf, "Guest-boot-time = ");
	assert_non_null(line);
	assert_int_equal(sscanf(line, "Guest-boot-time = %llu us %llu ms, %llu CPU us %llu CPU ms", &us, &ms, &cpu_us, &cpu_ms), 4);
	assert_in_range(us, 1234567, 3000000);
	assert_int_equal(ms, us / 1000);
	assert_int_equal(cpu_ms, cpu_us / 1000);
}

static void anything_else_is_ignored(void **state)
{
	struct devtest *t = *state;
	u32 wide = 123;

	write_byte(t, BASE, 122);
	write_byte(t, BASE + 1, 123);
	bus_write(&t->vm, BUS_MMIO, BASE, &wide, 4);
	assert_false(devtest_logged(t, "Guest-boot-time"));
	bus_read(&t->vm, BUS_MMIO, BASE, &wide, 4);
	assert_int_equal(wide, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_agreed_byte_logs_the_boot_time, setup, teardown),
		cmocka_unit_test_setup_teardown(anything_else_is_ignored, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
