/* state.c: the tables of an arm64 vCPU. The accelerator refuses to save one (accel_ops.vm_pull), so nothing is ever loaded. */
#include <stdlib.h>

#include "arch/aarch64/arm.h"
#include "arch/aarch64/vm_state.h"
#include "vmm/machine.h"

static const struct state_field cpu_fields[] = {
	STATE_ARRAY(struct cpu_state, x, 1, .hex = true), STATE_NUM(struct cpu_state, sp, 2, .hex = true),
	STATE_NUM(struct cpu_state, pc, 3, .hex = true),  STATE_NUM(struct cpu_state, pstate, 4, .hex = true),
	STATE_FLAG(struct cpu_state, powered_off, 5),	  STATE_END,
};
const struct state_table arm_cpu_table = {
	.name = "arm_cpu", .version = 1, .min_version = 1, .size = sizeof(struct cpu_state), .fields = cpu_fields};

const struct state_table *const machine_tables[] = {&arm_cpu_table, NULL};

u32 machine_sections(struct vm *vm, struct state_section *out)
{
	(void)vm;
	(void)out;
	return 0;
}

struct chip_state *machine_chips_new(void)
{
	return xzalloc(sizeof(struct chip_state));
}

void machine_chips_free(struct chip_state *c)
{
	free(c);
}

struct cpu_state *machine_cpu_new(void)
{
	return xzalloc(sizeof(struct cpu_state));
}

void machine_cpu_free(struct cpu_state *c)
{
	free(c);
}
