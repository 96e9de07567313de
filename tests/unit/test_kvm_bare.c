/* test_kvm_bare.c: bare guests (bare.h) on this machine's /dev/kvm. */
#define BARE_ACCEL kvm_accel_ops
#include "bare.h"

static void the_dirty_ring_holds_what_the_guest_wrote(void **state)
{
	struct cfg_machine machine = {.track_dirty_pages = true};
	struct config config = {.machine = &machine};

	(void)state;
	dirty_log_holds_what_the_guest_wrote(guest_make("dirty", 1, &config));
}

/* Vector instructions, software interrupts, and what translators get wrong: a KVM that only emulates knows neither, or takes minutes. */
static int processor_tests(void)
{
	const struct CMUnitTest tests[] = {
		{"softint_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"softint"},
		{"sse_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"sse"},
		/* Not selfmod: QEMU's emulated SVM, which the nested tests have, misses the first store of nested code into what follows.
		 */
		{"pagecross_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"pagecross"},
		{"churn_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"churn"},
		{"unaligned_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"unaligned"},
		{"flood_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"flood"},
	};
	struct err e;

	if (kvm_accel_ops.probe(&e) < 0)
		return skip_all(&e);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Usage: test_kvm_bare [processor] */
int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		{"alu_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"alu"},
		{"flow_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"flow"},
		{"memory_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"memory"},
		{"system_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"system"},
		cmocka_unit_test(port_accesses_reach_the_bus_with_size_and_data),
		cmocka_unit_test(memory_accesses_reach_the_bus_with_size_and_data),
		cmocka_unit_test(a_sleeping_guest_wakes_for_pulses_and_levels),
		cmocka_unit_test(a_kick_gets_a_running_guest_out_and_it_goes_on),
		cmocka_unit_test(a_kick_before_entry_lets_nothing_run),
		cmocka_unit_test(a_second_processor_starts_by_init_and_sipi),
		cmocka_unit_test(a_triple_fault_is_a_shutdown),
		cmocka_unit_test(the_state_of_a_vcpu_moves_to_another_vm),
		cmocka_unit_test(the_dirty_bitmap_holds_what_the_guest_wrote),
		cmocka_unit_test(the_dirty_ring_holds_what_the_guest_wrote),
	};
	struct err e;
	int ret;

	if (argc > 1 && !strcmp(argv[1], "processor"))
		return processor_tests();
	ret = kvm_accel_ops.probe(&e);
	if (ret < 0 && ret != -EOPNOTSUPP)
		return skip_all(&e);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
