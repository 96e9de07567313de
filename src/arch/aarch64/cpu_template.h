/*
 * cpu_template.h: CPU templates: the processor that guests see, made like another one or less than this one. Firecracker's named one for
 * arm64 (machine-config.cpu_template) and those that the user brings (cpu-config); docs/cpu-templates.md.
 */
#ifndef HUSK_ARM_CPU_TEMPLATE_H
#define HUSK_ARM_CPU_TEMPLATE_H

#include "arch/aarch64/cpu.h"
#include "vmm/config_table.h"

struct cfg_cpu;
struct config;

/* vCPU features that a template changes; bits of the first word of KVM_ARM_VCPU_INIT, as vcpu_features names them. */
#define ARM_FEATURE_SVE	  BIT(4)
#define ARM_FEATURE_PAUTH (BIT(5) | BIT(6)) /* pointer authentication: of addresses, generic; KVM has them together only */

/* The bits of mask become those of value (within mask). */
struct arm_template_reg {
	u64 id, mask, value;
};

/* What a configuration asks for. Plain data. */
struct arm_template {
	const char *name;     /* for messages: "cpu-config" */
	u32 part;	      /* MIDR_EL1's implementer << 12 | part number that it is for; 0: any */
	u32 features_wanted;  /* ARM_FEATURE_*: the accelerator must have these */
	u32 features_dropped; /* and does not show these; goes before wanted */
	u32 nr;
	struct arm_template_reg regs[ARM_REG_MAX];
};

/* What no arm64 template can ask for is refused, with its place. ctx: any */
int arm_template_check(const struct cfg_cpu *cpu, const struct cfg_place *at, struct err *e) MUST_CHECK;

/* The template of a configuration that machine_check_config has passed, into out. False: it has none. ctx: any */
bool arm_template_make(const struct config *c, struct arm_template *out);

#endif
