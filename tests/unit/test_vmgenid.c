/* test_vmgenid.c: the generation ID in guest memory. */
#include "devtest.h"

#include <errno.h>

#define GUID_AT 0x9fc00

extern const struct device_class vmgenid_class;

/* What 48 bytes of guest memory around the ID hold after a VM was made. */
static void make(u8 around[48])
{
	static const struct dev_slot slot = {.mmio_base = GUID_AT, .mmio_len = 16};
	struct devtest *t = devtest_new();

	devtest_add(t, &vmgenid_class, NULL, &slot);
	assert_int_equal(mem_read(&t->vm.mem, GUID_AT - 16, around, 48), 0);
	devtest_free(t);
}

static void each_vm_gets_an_id_of_its_own_and_nothing_else_is_touched(void **state)
{
	static const u8 zero[16];
	u8 a[48], b[48];

	(void)state;
	make(a);
	make(b);
	assert_memory_equal(a, zero, 16);
	assert_memory_equal(a + 32, zero, 16);
	assert_memory_not_equal(a + 16, zero, 16);
	assert_memory_not_equal(a + 16, b + 16, 16);
}

static void an_address_outside_of_memory_is_an_error(void **state)
{
	static const struct dev_slot slot = {.mmio_base = MIB - 8, .mmio_len = 16};
	struct devtest *t = devtest_new();
	struct err e = {0};

	(void)state;
	assert_int_equal(vmgenid_class.create(&t->vm, &vmgenid_class, NULL, &slot, &t->dev, &e), -EFAULT);
	assert_null(t->dev);
	assert_non_null(strstr(e.msg, "0xffff8"));
	devtest_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_vm_gets_an_id_of_its_own_and_nothing_else_is_touched),
		cmocka_unit_test(an_address_outside_of_memory_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
