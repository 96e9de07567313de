/*
 * cpu_common.h: the processor that several accelerators and hosts have in common, as a CPU template of the user's own
 * (docs/cpu-templates.md): a guest that was booted with it moves between them. What is compared is what x86_cpu_check compares. ctx: any
 */
#ifndef HUSK_X86_CPU_COMMON_H
#define HUSK_X86_CPU_COMMON_H

#include "arch/x86_64/vm_state.h"

struct arch_cpu_caps;
struct json_object;

struct cpu_common {
	u32 offered[X86_NR_FEATURE_REGS]; /* by x86_feature_reg */
	u32 phys_bits;
	u32 size[32], offset[32]; /* of XSAVE components; size 0: of none so far */
};

void cpu_common_init(struct cpu_common *c);
/* Takes away what these lack. */
void cpu_common_add(struct cpu_common *c, const struct arch_cpu_caps *caps);
/* The same for a template that cpu_common_template made, on another host. -EINVAL: it is none. */
int cpu_common_merge(struct cpu_common *c, struct json_object *template, struct err *e) MUST_CHECK;
/* The template ("cpu-config"); the caller's. */
struct json_object *cpu_common_template(const struct cpu_common *c);

#endif
