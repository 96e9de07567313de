/* msr.c: boot values of model-specific registers. */
#include "arch/x86_64/msr.h"

#define MISC_ENABLE_FAST_STRING BIT(0)
#define MTRR_ENABLE		BIT(11)
#define MTRR_WRITE_BACK		6
#define PAT_RESET		0x0007040600070406ull /* SDM 3A table 12-12 */

void x86_msr_boot(struct cpu_state *c)
{
	static const struct x86_msr boot[] = {
		{MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING},
		{MSR_IA32_PAT, PAT_RESET},
		{MSR_IA32_MTRR_DEF_TYPE, MTRR_ENABLE | MTRR_WRITE_BACK},
	};

	c->nr_msrs = ARRAY_SIZE(boot);
	__builtin_memcpy(c->msrs, boot, sizeof(boot));
}
