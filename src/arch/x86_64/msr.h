/* msr.h: the model-specific registers that boot sets, beside what reset leaves as zero. Numbers: SDM 4. */
#ifndef HUSK_X86_MSR_H
#define HUSK_X86_MSR_H

#include "arch/x86_64/cpu.h"

#define MSR_IA32_TSC		   0x10u
#define MSR_IA32_UCODE_REV	   0x8bu
#define MSR_IA32_ARCH_CAPABILITIES 0x10au
#define MSR_IA32_MISC_ENABLE	   0x1a0u
#define MSR_IA32_PAT		   0x277u
#define MSR_IA32_MTRR_DEF_TYPE	   0x2ffu

/* Sets c->msrs to what firmware would leave: fast strings on, all memory write-back but for what the page tables say. */
void x86_msr_boot(struct cpu_state *c);

#endif
