/* config.c: what of a configuration is for other machines than this one: refused, not left out. */
#include <errno.h>

#include "arch/aarch64/cpu_template.h"
#include "vmm/config.h"
#include "vmm/config_cpu.h"
#include "vmm/config_table.h"
#include "vmm/machine.h"

static int check_cpu(const struct cfg_cpu *cpu, const struct cfg_place *at, struct err *e)
{
	struct cfg_place below = cfg_below(at, cpu->cpuid.nr ? "cpuid_modifiers" : "msr_modifiers", NULL);

	if (cpu->cpuid.nr || cpu->msrs.nr)
		return cfg_fail(&below, e, -EINVAL, "it is for x86-64 processors, and this husk runs arm64 guests: take it out");
	return arm_template_check(cpu, at, e);
}

int machine_check_config(const struct config *c, const struct cfg_place *top, struct err *e)
{
	struct cfg_place at = cfg_below(top, "machine-config", NULL), cpu = cfg_below(top, "cpu-config", NULL),
			 boot = cfg_below(top, "boot-source", NULL);
	u32 template = c->machine->cpu_template;

	if (c->machine->smt)
		return cfg_fail(&at, e, -EINVAL, "Enabling simultaneous multithreading is not supported on aarch64: leave smt false");
	if (template != CFG_CPU_NONE && template != CFG_CPU_V1N1)
		return cfg_fail(&at, e, -EINVAL, "cpu_template %s is for x86-64 processors, and this husk runs arm64 guests",
				config_cpu_template_names[template]);
	if (c->boot && c->boot->unpack == CFG_UNPACK_GUEST)
		return cfg_fail(&boot, e, -EINVAL,
				"unpack guest is for x86-64's bzImage; arm64 kernels are unpacked by husk: leave it out");
	return c->cpu ? check_cpu(c->cpu, &cpu, e) : 0;
}
