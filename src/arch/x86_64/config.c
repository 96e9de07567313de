/* config.c: what of a configuration is for other machines than this one. */
#include <errno.h>

#include "vmm/config.h"
#include "vmm/config_cpu.h"
#include "vmm/config_table.h"
#include "vmm/machine.h"

int machine_check_config(const struct config *c, const struct cfg_place *top, struct err *e)
{
	struct cfg_place at = cfg_below(top, "machine-config", NULL), cpu = cfg_below(top, "cpu-config", NULL), below;

	if (c->machine->cpu_template == CFG_CPU_V1N1)
		return cfg_fail(&at, e, -EINVAL, "cpu_template V1N1 is for ARM processors, and this husk runs x86-64 guests");
	if (!c->cpu || (!c->cpu->arm_registers.nr && !c->cpu->arm_features.nr))
		return 0;
	below = cfg_below(&cpu, c->cpu->arm_registers.nr ? "reg_modifiers" : "vcpu_features", NULL);
	return cfg_fail(&below, e, -EINVAL, "it is for ARM processors, and this husk runs x86-64 guests: take it out");
}
