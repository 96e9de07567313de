/*
 * cpu_template.h: CPU templates: the processor that guests see, made like another one or less than this one. Firecracker's named ones
 * (machine-config.cpu_template) and those that the user brings (cpu-config); docs/cpu-templates.md.
 *
 *   what the accelerator can show (arch_cpu_caps) -> template -> x86_cpuid_build: topology, frequencies -> what each vCPU shows
 *
 * A template takes away. It sets a bit only where the accelerator has what the bit promises (or the bit promises nothing); features that
 * need one that it took away go too, so that what is shown is what works. ctx: before start
 */
#ifndef HUSK_X86_CPU_TEMPLATE_H
#define HUSK_X86_CPU_TEMPLATE_H

#include "arch/x86_64/cpu.h"
#include "vmm/config_cpu.h"

/* One change of a register of CPUID, or of a feature MSR: bits in mask become what they are in value. */
struct x86_template_cpuid {
	u32 leaf, subleaf;
	u32 reg; /* enum cfg_cpuid_reg */
	u32 mask, value;
};
struct x86_template_msr {
	u32 index;
	u64 mask, value;
};

/* Applies the template that the configuration asks for, if any, to *caps. accel is its name, for messages. -EINVAL: not on this processor,
 * or it asks for something that the accelerator does not have; e names it. */
int cpu_template_apply(const struct config *c, const char *accel, struct arch_cpu_caps *caps, struct err *e) MUST_CHECK;
/* The changes of a named template, one after the other: NULL behind the last one. For tests and for cpu_template_apply. */
const struct x86_template_cpuid *cpu_template_cpuid(enum cfg_cpu_template name, u32 nth);
const struct x86_template_msr *cpu_template_msr(enum cfg_cpu_template name, u32 nth);
/* Puts the MSRs that a template changed into a vCPU's state. */
void cpu_template_set_msrs(const struct arch_cpu_caps *caps, struct cpu_state *c);

#endif
