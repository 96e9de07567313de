/* cpu_template.c: see cpu_template.h. Fields of registers: Arm ARM D19.2. */
#include "arch/aarch64/cpu_template.h"

#include <errno.h>
#include <string.h>

#include "vmm/config.h"
#include "vmm/config_cpu.h"

#define ID_AA64PFR0  ARM_SYSTEM_REG(3, 0, 0, 4, 0)
#define ID_AA64ISAR0 ARM_SYSTEM_REG(3, 0, 0, 6, 0)
#define ID_AA64ISAR1 ARM_SYSTEM_REG(3, 0, 0, 6, 1)
#define ID_AA64ISAR2 ARM_SYSTEM_REG(3, 0, 0, 6, 2)
#define ID_AA64MMFR2 ARM_SYSTEM_REG(3, 0, 0, 7, 2)

#define FIELD(low)	 (15ull << (low)) /* ID registers have fields of four bits */
#define VALUE(low, is)	 ((u64)(is) << (low))
#define NEOVERSE_V1	 (0x41u << 12 | 0xd40u)
#define REG_ARCH(id)	 ((id) >> 56)
#define REG_ARCH_ARM64	 0x60u
#define REG_LOG_SIZE(id) ((u32)((id) >> 52 & 15)) /* log2 of its bytes */

/* V1N1: Neoverse V1 with what Neoverse N1 has. */
static const struct arm_template_reg v1n1[] = {
	/* no SVE, no DIT */
	{ID_AA64PFR0, FIELD(32) | FIELD(48), 0},
	/* SHA2 without SHA512; no SHA3, SM3, SM4, FHM, TS (flags), RNDR */
	{ID_AA64ISAR0, FIELD(12) | FIELD(32) | FIELD(36) | FIELD(40) | FIELD(48) | FIELD(52) | FIELD(60), VALUE(12, 1)},
	/* DPB and LRCPC of the first kind; no JSCVT, FCMA, BF16, DGH, I8MM */
	{ID_AA64ISAR1, FIELD(0) | FIELD(12) | FIELD(16) | FIELD(20) | FIELD(44) | FIELD(48) | FIELD(52), VALUE(0, 1) | VALUE(20, 1)},
	/* no AT (unaligned atomics) */
	{ID_AA64MMFR2, FIELD(32), 0},
};

/* Fields that KVM shows with a feature, and that cannot be cleared but without it. */
static const struct {
	u64 id, field;
	u32 feature;
} shown_with[] = {
	{ID_AA64PFR0, FIELD(32), ARM_FEATURE_SVE},    {ID_AA64ISAR1, FIELD(4), ARM_FEATURE_PAUTH}, /* APA */
	{ID_AA64ISAR1, FIELD(8), ARM_FEATURE_PAUTH},						   /* API */
	{ID_AA64ISAR1, FIELD(24), ARM_FEATURE_PAUTH},						   /* GPA */
	{ID_AA64ISAR1, FIELD(28), ARM_FEATURE_PAUTH},						   /* GPI */
	{ID_AA64ISAR2, FIELD(8), ARM_FEATURE_PAUTH},						   /* GPA3 */
	{ID_AA64ISAR2, FIELD(12), ARM_FEATURE_PAUTH},						   /* APA3 */
};

static const struct {
	u32 bits;
	const char *why;
} not_changed[] = {
	{BIT(0), "which vCPUs are off is the boot's to say"},
	{BIT(1), "husk's guests are of 64 bits"},
	{BIT(2), "PSCI is how husk's guests start their processors"},
	{BIT(3), "husk's guests have no performance counters"},
	{UINT32_MAX & ~(u32)(BIT(0) | BIT(1) | BIT(2) | BIT(3) | ARM_FEATURE_SVE | ARM_FEATURE_PAUTH),
	 "only SVE (bit 4) and pointer authentication (5 and 6) can be changed"},
};

/* Those that tell what the processor, or the firmware that KVM is, is like. Where a vCPU is in the machine is not the template's. */
static bool can_change(u64 id)
{
	u32 kind = ARM_REG_KIND(id);

	return REG_ARCH(id) == REG_ARCH_ARM64 && (REG_LOG_SIZE(id) == 2 || REG_LOG_SIZE(id) == 3) && id != ARM_MPIDR &&
	       (kind == ARM_KIND_DEMUX || kind == ARM_KIND_SYSTEM || kind == ARM_KIND_FIRMWARE || kind == ARM_KIND_SERVICES) &&
	       arm_reg_is_fixed(id);
}

static int check_reg(const struct cfg_msr_bits *r, const struct cfg_place *at, struct err *e)
{
	char name[ARM_REG_NAME_SIZE];
	u64 id = 0, mask, value;

	config_cpu_number(r->addr, UINT64_MAX, &id);
	if (!can_change(id))
		return cfg_fail(at, e, -EINVAL,
				"%s does not say what the processor is like: a template changes ID registers, caches, and what KVM "
				"offers as firmware, in KVM's numbers (0x603000000013c020: ID_AA64PFR0_EL1)",
				arm_reg_name(id, name));
	if (!config_cpu_bitmap(r->bitmap, 8u << REG_LOG_SIZE(id), &mask, &value))
		return cfg_fail(at, e, -EINVAL, "%s has %u bits: the bitmap is to be 1 to %u digits 0, 1 and x", arm_reg_name(id, name),
				8u << REG_LOG_SIZE(id), 8u << REG_LOG_SIZE(id));
	return 0;
}

static int check_feature(const struct cfg_arm_feature *f, const struct cfg_place *at, struct err *e)
{
	u64 mask = 0, value;

	config_cpu_bitmap(f->bitmap, 32, &mask, &value);
	if (f->index > 0)
		return cfg_fail(at, e, -EINVAL, "vCPU features are in the word of index 0");
	for (u32 i = 0; i < ARRAY_SIZE(not_changed); i++) {
		if (mask & not_changed[i].bits)
			return cfg_fail(at, e, -EINVAL, "bit %u: %s", (u32)__builtin_ctzll(mask & not_changed[i].bits), not_changed[i].why);
	}
	return 0;
}

int arm_template_check(const struct cfg_cpu *cpu, const struct cfg_place *at, struct err *e)
{
	const struct cfg_msr_bits *regs = cpu->arm_registers.items;
	const struct cfg_arm_feature *features = cpu->arm_features.items;
	struct cfg_place list = cfg_below(at, "reg_modifiers", NULL), item;
	int ret = 0;

	for (u32 i = 0; ret == 0 && i < cpu->arm_registers.nr; i++) {
		item = cfg_item(&list, i, NULL);
		ret = check_reg(&regs[i], &item, e);
	}
	list = cfg_below(at, "vcpu_features", NULL);
	for (u32 i = 0; ret == 0 && i < cpu->arm_features.nr; i++) {
		item = cfg_item(&list, i, NULL);
		ret = check_feature(&features[i], &item, e);
	}
	return ret;
}

/* A feature goes with the fields that show it. */
static void add_reg(struct arm_template *t, const struct arm_template_reg *r)
{
	ASSERT(t->nr < ARM_REG_MAX);
	t->regs[t->nr++] = *r;
	for (u32 i = 0; i < ARRAY_SIZE(shown_with); i++) {
		if (shown_with[i].id == r->id && !(~r->mask & shown_with[i].field) && !(r->value & shown_with[i].field))
			t->features_dropped |= shown_with[i].feature;
	}
}

static u32 whole_features(u64 bits)
{
	return (bits & ARM_FEATURE_SVE ? ARM_FEATURE_SVE : 0) | (bits & ARM_FEATURE_PAUTH ? ARM_FEATURE_PAUTH : 0);
}

static void make_own(const struct cfg_cpu *cpu, struct arm_template *t)
{
	const struct cfg_msr_bits *regs = cpu->arm_registers.items;
	const struct cfg_arm_feature *features = cpu->arm_features.items;
	u64 mask = 0, value = 0;

	t->name = "cpu-config";
	for (u32 i = 0; i < cpu->arm_registers.nr; i++) {
		struct arm_template_reg r = {0};

		config_cpu_number(regs[i].addr, UINT64_MAX, &r.id);
		config_cpu_bitmap(regs[i].bitmap, 64, &r.mask, &r.value);
		add_reg(t, &r);
	}
	for (u32 i = 0; i < cpu->arm_features.nr; i++) {
		config_cpu_bitmap(features[i].bitmap, 32, &mask, &value);
		t->features_wanted |= whole_features(value);
		t->features_dropped |= whole_features(mask & ~value);
	}
}

bool arm_template_make(const struct config *c, struct arm_template *out)
{
	memset(out, 0, sizeof(*out));
	if (c->cpu) {
		make_own(c->cpu, out);
		return true;
	}
	if (c->machine->cpu_template != CFG_CPU_V1N1)
		return false;
	out->name = "cpu_template V1N1";
	out->part = NEOVERSE_V1;
	for (u32 i = 0; i < ARRAY_SIZE(v1n1); i++)
		add_reg(out, &v1n1[i]);
	return true;
}
