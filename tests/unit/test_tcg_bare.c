/* test_tcg_bare.c: bare guests (bare.h) under the software accelerator. */
#define BARE_ACCEL tcg_accel_ops
#include "bare.h"

int main(void)
{
	const struct CMUnitTest tests[] = {
		{"alu_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"alu"},
		{"flow_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"flow"},
		{"memory_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"memory"},
		{"system_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"system"},
		{"softint_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"softint"},
		{"sse_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"sse"},
		cmocka_unit_test(port_accesses_reach_the_bus_with_size_and_data),
		cmocka_unit_test(memory_accesses_reach_the_bus_with_size_and_data),
		cmocka_unit_test(a_sleeping_guest_wakes_for_pulses_and_levels),
		cmocka_unit_test(a_kick_gets_a_running_guest_out_and_it_goes_on),
		cmocka_unit_test(a_kick_before_entry_lets_nothing_run),
		cmocka_unit_test(a_second_processor_starts_by_init_and_sipi),
		cmocka_unit_test(a_triple_fault_is_a_shutdown),
		cmocka_unit_test(the_state_of_a_vcpu_moves_to_another_vm),
		cmocka_unit_test(the_dirty_bitmap_holds_what_the_guest_wrote),
	};
	struct err e;

	if (tcg_accel_ops.probe(&e) < 0)
		return skip_all(&e);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
