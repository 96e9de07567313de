/* test_pvpanic.c: how a guest's kernel ends the VM. */
#include "devtest.h"

#define PORT 0x505

extern const struct device_class pvpanic_class;

static int setup(void **state)
{
	static const struct dev_slot slot = {.pio_base = PORT, .pio_len = 1};
	struct devtest *t = devtest_new();

	devtest_add(t, &pvpanic_class, NULL, &slot);
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	devtest_free(*state);
	return 0;
}

static void a_read_gives_the_events_that_are_understood(void **state)
{
	assert_int_equal(devtest_in(*state, PORT), 0x07);
}

static void a_panic_ends_the_vm_and_is_logged(void **state)
{
	struct devtest *t = *state;

	devtest_out(t, PORT, 0xf8); /* events that nobody knows */
	assert_int_equal(t->vm.end, VM_END_NONE);
	devtest_out(t, PORT, 0x01);
	assert_int_equal(t->vm.end, VM_END_PANIC);
	assert_true(devtest_logged(t, "the guest's kernel panicked"));
}

static void a_crash_kernel_may_go_on(void **state)
{
	struct devtest *t = *state;

	devtest_out(t, PORT, 0x02);
	devtest_out(t, PORT, 0x03);
	assert_int_equal(t->vm.end, VM_END_NONE);
	assert_true(devtest_logged(t, "crash kernel"));
}

static void a_shutdown_powers_the_vm_off(void **state)
{
	struct devtest *t = *state;

	devtest_out(t, PORT, 0x04);
	assert_int_equal(t->vm.end, VM_END_POWEROFF);
	devtest_out(t, PORT, 0x01); /* the first reason wins */
	assert_int_equal(t->vm.end, VM_END_POWEROFF);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_read_gives_the_events_that_are_understood, setup, teardown),
		cmocka_unit_test_setup_teardown(a_panic_ends_the_vm_and_is_logged, setup, teardown),
		cmocka_unit_test_setup_teardown(a_crash_kernel_may_go_on, setup, teardown),
		cmocka_unit_test_setup_teardown(a_shutdown_powers_the_vm_off, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
