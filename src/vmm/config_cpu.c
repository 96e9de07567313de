/* config_cpu.c: see config_cpu.h. */
#include "vmm/config_cpu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/config_table.h"

#define MAX_LEAVES 256 /* far more than any processor has */
#define MAX_MSRS   1024
#define MAX_CAPS   1024

/* ---- texts ---- */

bool config_cpu_number(const char *text, u64 max, u64 *out)
{
	int base = !strncmp(text, "0x", 2) ? 16 : !strncmp(text, "0b", 2) ? 2 : 10;
	const char *digits = base == 10 ? text : text + 2;
	char *end;

	if (!*digits || strspn(digits, base == 16 ? "0123456789abcdefABCDEF" : base == 2 ? "01" : "0123456789") != strlen(digits))
		return false;
	errno = 0;
	*out = strtoull(digits, &end, base);
	return !errno && *out <= max;
}

bool config_cpu_bitmap(const char *text, u32 width, u64 *mask, u64 *value)
{
	const char *digits = !strncmp(text, "0b", 2) ? text + 2 : text;
	u32 n = 0;

	*mask = *value = 0;
	for (size_t i = strlen(digits); i--;) {
		if (digits[i] == '_')
			continue;
		if (n == width || !strchr("01x", digits[i]))
			return false;
		if (digits[i] != 'x')
			*mask |= BIT(n);
		if (digits[i] == '1')
			*value |= BIT(n);
		n++;
	}
	return n;
}

static bool number32_ok(const char *text)
{
	u64 n;

	return config_cpu_number(text, UINT32_MAX, &n);
}

static bool number64_ok(const char *text)
{
	u64 n;

	return config_cpu_number(text, UINT64_MAX, &n);
}

static bool bitmap32_ok(const char *text)
{
	u64 mask, value;

	return config_cpu_bitmap(text, 32, &mask, &value);
}

static bool bitmap64_ok(const char *text)
{
	u64 mask, value;

	return config_cpu_bitmap(text, 64, &mask, &value);
}

/* Registers of ARM have up to 128 bits. */
static bool bitmap_of_arm_ok(const char *text)
{
	return text[strspn(text, "01xb_")] == '\0' && *text;
}

static bool capability_ok(const char *text)
{
	u64 n;

	text += *text == '!';
	return *text >= '0' && *text <= '9' && text[1] != 'x' && text[1] != 'b' && config_cpu_number(text, UINT32_MAX, &n);
}

/* ---- tables ---- */

#define FIELD(s, member, k, t, ...) \
	{ \
		.key = (k), .type = (t), .offset = offsetof(struct s, member), __VA_ARGS__ \
	}
#define LIST(n, s, f, h, ...) \
	{ \
		.name = (n), .help = (h), .size = sizeof(struct s), .fields = (f), .nr_fields = ARRAY_SIZE(f), __VA_ARGS__ \
	}
#define NUMBER(bits) .required = true, .expected = "a number of up to " #bits " bits in quotes, like \"0x1\", \"0b1\" or \"1\""
#define BITMAP(bits) \
	.required = true, \
	.expected = "1 to " #bits " digits 0, 1 and x in quotes, like \"0b01x\": to be cleared, set, left alone; the lowest bit is last"

static const char *const reg_names[] = {"eax", "ebx", "ecx", "edx", NULL}; /* by enum cfg_cpuid_reg */

static const struct cfg_field bits_fields[] = {
	FIELD(cfg_cpuid_bits, reg, "register", CFG_ENUM, .required = true, .values = reg_names, .help = "Register of the answer."),
	FIELD(cfg_cpuid_bits, bitmap, "bitmap", CFG_STR, .accept = bitmap32_ok, BITMAP(32), .help = "What becomes of its bits."),
};
static const struct cfg_table bits_table = LIST("cpuid-register", cfg_cpuid_bits, bits_fields, "Changes of a register.");

static const struct cfg_field leaf_fields[] = {
	FIELD(cfg_cpuid_leaf, leaf, "leaf", CFG_STR, .accept = number32_ok, NUMBER(32), .help = "Leaf of CPUID."),
	FIELD(cfg_cpuid_leaf, subleaf, "subleaf", CFG_STR, .accept = number32_ok, NUMBER(32),
	      .help = "Its subleaf; 0 for a leaf that has none."),
	FIELD(cfg_cpuid_leaf, flags, "flags", CFG_INT, .required = true, .max = UINT32_MAX,
	      .help = "KVM's flags of the leaf; husk knows them by itself."),
	FIELD(cfg_cpuid_leaf, bits, "modifiers", CFG_LIST, .required = true, .sub = &bits_table, .help = "Changes, in their order."),
};
static const struct cfg_table leaf_table = LIST("cpuid-leaf", cfg_cpuid_leaf, leaf_fields, "Changes of a leaf of CPUID.", .open = true,
						.max_items = MAX_LEAVES);

static const struct cfg_field msr_fields[] = {
	FIELD(cfg_msr_bits, addr, "addr", CFG_STR, .accept = number32_ok, NUMBER(32), .help = "Number of the register."),
	FIELD(cfg_msr_bits, bitmap, "bitmap", CFG_STR, .accept = bitmap64_ok, BITMAP(64), .help = "What becomes of its bits."),
};
static const struct cfg_table msr_table = LIST("msr", cfg_msr_bits, msr_fields, "Changes of a model-specific register.",
					       .max_items = MAX_MSRS);

static const struct cfg_field capability_fields[] = {
	FIELD(cfg_kvm_capability, number, "capability", CFG_STR, .required = true, .accept = capability_ok,
	      .expected = "a number in quotes, like \"121\" or \"!121\"",
	      .help = "Number of a KVM capability, with ! before it to waive it."),
};
static const struct cfg_table capability_table = LIST("kvm-capability", cfg_kvm_capability, capability_fields,
						      "A capability that KVM must have.", .bare = true, .max_items = MAX_CAPS);

static const struct cfg_field arm_register_fields[] = {
	FIELD(cfg_msr_bits, addr, "addr", CFG_STR, .accept = number64_ok, NUMBER(64), .help = "Number of the register."),
	FIELD(cfg_msr_bits, bitmap, "bitmap", CFG_STR, .accept = bitmap_of_arm_ok, BITMAP(128), .help = "What becomes of its bits."),
};
static const struct cfg_table arm_register_table = LIST("arm-register", cfg_msr_bits, arm_register_fields,
							"Changes of a register of an ARM processor.", .max_items = MAX_MSRS);

static const struct cfg_field arm_feature_fields[] = {
	FIELD(cfg_arm_feature, index, "index", CFG_INT, .required = true, .max = UINT32_MAX, .help = "Index of the word."),
	FIELD(cfg_arm_feature, bitmap, "bitmap", CFG_STR, .accept = bitmap32_ok, BITMAP(32), .help = "What becomes of its bits."),
};
static const struct cfg_table arm_feature_table = LIST("arm-feature", cfg_arm_feature, arm_feature_fields,
						       "Changes of the features of an ARM processor.");

static const struct cfg_field cpu_fields[] = {
	FIELD(cfg_cpu, kvm_capabilities, "kvm_capabilities", CFG_LIST, .sub = &capability_table,
	      .help = "Capabilities that KVM must have beyond what husk asks for; without KVM nothing is asked."),
	FIELD(cfg_cpu, cpuid, "cpuid_modifiers", CFG_LIST, .sub = &leaf_table, .help = "Changes of CPUID."),
	FIELD(cfg_cpu, msrs, "msr_modifiers", CFG_LIST, .sub = &msr_table, .help = "Changes of model-specific registers."),
	FIELD(cfg_cpu, arm_registers, "reg_modifiers", CFG_LIST, .sub = &arm_register_table,
	      .help = "For ARM processors; refused on x86-64."),
	FIELD(cfg_cpu, arm_features, "vcpu_features", CFG_LIST, .sub = &arm_feature_table,
	      .help = "For ARM processors; refused on x86-64."),
};
const struct cfg_table config_cpu_table = LIST(
	"cpu-config", cfg_cpu, cpu_fields,
	"A CPU template of your own; see docs/cpu-templates.md. In a file also the path of another file "
	"with it.");
