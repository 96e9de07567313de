/* cpuid.h: what CPUID tells each vCPU, made from what the accelerator can show. Leaves: SDM 2A "CPUID", APM 3 appendix E. */
#ifndef HUSK_X86_CPUID_H
#define HUSK_X86_CPUID_H

#include "arch/x86_64/cpu.h"

struct x86_topology {
	u32 nr_vcpus; /* 1..64, in one package */
	bool smt;     /* vCPUs 2n and 2n+1 are the threads of one core */
};

/* Fills *out for the vCPU whose index (and APIC id) is given: topology, frequencies, and without what a guest must not see: performance
 * counters, MONITOR/MWAIT, nested virtualization, TSX, AMX, power management. Leaves that caps does not have do not appear, but for
 * topology and frequency. */
void x86_cpuid_build(struct x86_cpuid_table *out, const struct arch_cpu_caps *caps, const struct x86_topology *topo, u32 index);

/* Takes all that out of a table at once, for who works on it before. */
void x86_cpuid_hide(struct x86_cpuid_table *t);

#endif
