/* test_tcg_bare.c: bare guests (bare.h) under the software accelerator. */
#define BARE_ACCEL tcg_accel_ops
#include "bare.h"

#include "tcg/tcg.h"

static u64 counted(const struct guest *g, enum tcg_counter n)
{
	const struct tcg_cpu *c = g->vm.vcpus[0].accel;

	return c->counters[n];
}

static void code_that_is_written_to_is_translated_again(void **state)
{
	struct guest *g = run_whole("selfmod");

	(void)state;
	assert_true(counted(g, TCG_C_INVALIDATED) > 1000);
	guest_free(g);
}

static void code_that_was_evicted_is_translated_again(void **state)
{
	struct guest *g = run_whole("flood");

	(void)state;
	assert_true(counted(g, TCG_C_EVICTED) > 0);
	assert_true(counted(g, TCG_C_UNITS) > 2 * 98304);
	guest_free(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		{"alu_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"alu"},
		{"flow_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"flow"},
		{"memory_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"memory"},
		{"system_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"system"},
		{"softint_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"softint"},
		{"sse_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"sse"},
		{"unaligned_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"unaligned"},
		{"churn_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"churn"},
		{"pagecross_ends_with_its_registers", the_guest_ends_with_its_registers, NULL, NULL, (void *)"pagecross"},
		cmocka_unit_test(code_that_is_written_to_is_translated_again),
		cmocka_unit_test(code_that_was_evicted_is_translated_again),
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
