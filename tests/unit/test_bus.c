/* test_bus.c: address ranges and what lies between them. */
#include "cm.h"

#include <errno.h>
#include <string.h>

#include "vmm/vm.h"

struct echo {
	struct device dev;
	u64 last_offset;
	u32 last_len;
};

static void echo_read(struct device *dev, u64 offset, void *data, u32 len)
{
	struct echo *echo = container_of(dev, struct echo, dev);

	echo->last_offset = offset;
	memset(data, 0x5a, len);
}

static void echo_write(struct device *dev, u64 offset, const void *data, u32 len)
{
	struct echo *echo = container_of(dev, struct echo, dev);

	(void)data;
	echo->last_offset = offset;
	echo->last_len = len;
}

static const struct bus_ops echo_ops = {.read = echo_read, .write = echo_write};

struct fixture {
	struct vm vm;
	struct trace trace;
	struct echo dev;
};

static int setup(void **state)
{
	struct fixture *f = xzalloc(sizeof(*f));

	f->vm.trace = &f->trace;
	device_init(&f->dev.dev, &f->vm, NULL, "echo", NULL);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	auto_free void *gone = f;

	bus_fini(&f->vm.bus[BUS_MMIO]);
	bus_fini(&f->vm.bus[BUS_PIO]);
	device_fini(&f->dev.dev);
	return gone == NULL;
}

static void add(struct fixture *f, u64 base, u64 len, int expected)
{
	struct err e;

	assert_int_equal(bus_add(&f->vm, BUS_MMIO, base, len, &f->dev.dev, &echo_ops, &e), expected);
}

static void overlapping_ranges_are_refused(void **state)
{
	struct fixture *f = *state;

	add(f, 0x2000, 0x1000, 0);
	add(f, 0x1000, 0x1000, 0);
	add(f, 0x4000, 0x1000, 0);
	add(f, 0x2fff, 1, -EEXIST);
	add(f, 0x1fff, 2, -EEXIST);
	add(f, 0x3000, 0x1001, -EEXIST);
	add(f, 0, 0x10000, -EEXIST);
	add(f, 0x3000, 0x1000, 0);
}

static void an_access_reaches_its_device_with_the_offset(void **state)
{
	struct fixture *f = *state;
	u32 v = 0;

	add(f, 0x1000, 0x100, 0);
	add(f, 0x1100, 0x100, 0);
	bus_read(&f->vm, BUS_MMIO, 0x10fc, &v, 4);
	assert_int_equal(v, 0x5a5a5a5a);
	assert_int_equal(f->dev.last_offset, 0xfc);
	bus_write(&f->vm, BUS_MMIO, 0x1100, &v, 2);
	assert_int_equal(f->dev.last_offset, 0);
	assert_int_equal(f->dev.last_len, 2);
}

static void unclaimed_addresses_read_as_all_ones(void **state)
{
	struct fixture *f = *state;
	u64 v = 0;

	add(f, 0x1000, 0x100, 0);
	bus_read(&f->vm, BUS_MMIO, 0x10fc, &v, 8); /* half of it beyond the end */
	assert_int_equal(v, UINT64_MAX);
	v = 0;
	bus_read(&f->vm, BUS_PIO, 0x1000, &v, 1);
	assert_int_equal(v, 0xff);
	bus_read(&f->vm, BUS_MMIO, UINT64_MAX, &v, 8);
	bus_write(&f->vm, BUS_MMIO, UINT64_MAX, &v, 8);
	assert_true(bus_claimed(&f->vm, BUS_MMIO, 0x10ff));
	assert_false(bus_claimed(&f->vm, BUS_MMIO, 0x1100));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(overlapping_ranges_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(an_access_reaches_its_device_with_the_offset, setup, teardown),
		cmocka_unit_test_setup_teardown(unclaimed_addresses_read_as_all_ones, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
