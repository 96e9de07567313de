/* cpu_common.c: see cpu_common.h. */
#include "arch/x86_64/cpu_common.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "arch/x86_64/cpu.h"
#include "arch/x86_64/cpuid.h"
#include "vmm/config_cpu.h"

#define LEAF_XSAVE 0xdu
#define LEAF_SIZES 0x80000008u
#define REG_WIDTH  32u
#define MAX_PHYS   52u

static const char *const reg_names[] = {"eax", "ebx", "ecx", "edx"};

static u32 value_of(const struct x86_cpuid_table *t, u32 leaf, u32 subleaf, u32 reg)
{
	const struct x86_cpuid *c = x86_cpuid_find((struct x86_cpuid_table *)t, leaf, subleaf);

	return !c ? 0 : reg == CFG_EAX ? c->eax : reg == CFG_EBX ? c->ebx : reg == CFG_ECX ? c->ecx : c->edx;
}

/* Which of the registers is the one with the components of XCR0. */
static u32 xcr0_reg(void)
{
	struct x86_feature_bits f;

	for (u32 i = 0; x86_feature_reg(i, &f); i++) {
		if (f.leaf == LEAF_XSAVE && f.subleaf == 0 && f.reg == CFG_EAX)
			return i;
	}
	return 0;
}

void cpu_common_init(struct cpu_common *c)
{
	*c = (struct cpu_common){.phys_bits = MAX_PHYS};
	memset(c->offered, 0xff, sizeof(c->offered));
}

/* A component that lies elsewhere is none that they have in common. */
static void add_component(struct cpu_common *c, u32 i, u32 size, u32 offset)
{
	if (!size)
		return;
	if (!c->size[i]) {
		c->size[i] = size;
		c->offset[i] = offset;
	} else if (c->size[i] != size || c->offset[i] != offset) {
		c->offered[xcr0_reg()] &= ~(u32)BIT(i);
	}
}

void cpu_common_add(struct cpu_common *c, const struct arch_cpu_caps *caps)
{
	struct arch_cpu_caps shown = *caps;
	struct x86_feature_bits f;
	u32 phys = value_of(&caps->cpuid, LEAF_SIZES, 0, CFG_EAX) & 0xff;

	x86_cpuid_hide(&shown.cpuid);
	for (u32 i = 0; x86_feature_reg(i, &f); i++)
		c->offered[i] &= x86_feature_offered(i, &shown);
	for (u32 i = 2; i < 32; i++)
		add_component(c, i, value_of(&caps->cpuid, LEAF_XSAVE, i, CFG_EAX), value_of(&caps->cpuid, LEAF_XSAVE, i, CFG_EBX));
	c->phys_bits = MIN(c->phys_bits, phys ? phys : 36u);
}

/* ---- from a template ---- */

static u64 number(struct json_object *o, const char *key, u64 max)
{
	struct json_object *v = json_object_object_get(o, key);
	u64 n;

	return v && json_object_is_type(v, json_type_string) && config_cpu_number(json_object_get_string(v), max, &n) ? n : UINT64_MAX;
}

static void merge_reg(struct cpu_common *c, u32 leaf, u32 subleaf, u32 reg, u32 mask, u32 value, u32 *component)
{
	struct x86_feature_bits f;

	for (u32 i = 0; x86_feature_reg(i, &f); i++) {
		if (f.leaf == leaf && f.subleaf == subleaf && f.reg == reg)
			c->offered[i] &= ~(mask & ~value);
	}
	if (leaf == LEAF_SIZES && reg == CFG_EAX && (mask & 0xff) == 0xff)
		c->phys_bits = MIN(c->phys_bits, value & 0xff);
	if (leaf == LEAF_XSAVE && subleaf >= 2 && subleaf < 32 && mask == UINT32_MAX && reg <= CFG_EBX)
		component[reg] = value;
}

static int merge_leaf(struct cpu_common *c, struct json_object *l, struct err *e)
{
	struct json_object *regs = json_object_object_get(l, "modifiers");
	u64 leaf = number(l, "leaf", UINT32_MAX), subleaf = number(l, "subleaf", UINT32_MAX), mask, value;
	u32 component[2] = {0};

	if (leaf == UINT64_MAX || subleaf == UINT64_MAX || !json_object_is_type(regs, json_type_array))
		return err_set(e, -EINVAL, "not a CPU template: a leaf of cpuid_modifiers lacks leaf, subleaf or modifiers");
	for (size_t i = 0; i < json_object_array_length(regs); i++) {
		struct json_object *m = json_object_array_get_idx(regs, i);
		const char *name = json_object_get_string(json_object_object_get(m, "register"));
		const char *bitmap = json_object_get_string(json_object_object_get(m, "bitmap"));
		u32 reg = 0;

		while (name && reg < ARRAY_SIZE(reg_names) && strcmp(name, reg_names[reg]))
			reg++;
		if (!name || !bitmap || reg == ARRAY_SIZE(reg_names) || !config_cpu_bitmap(bitmap, REG_WIDTH, &mask, &value))
			return err_set(e, -EINVAL, "not a CPU template: register %s of leaf 0x%llx", name ? name : "(none)",
				       (unsigned long long)leaf);
		merge_reg(c, (u32)leaf, (u32)subleaf, reg, (u32)mask, (u32)value, component);
	}
	if (component[CFG_EAX])
		add_component(c, (u32)subleaf, component[CFG_EAX], component[CFG_EBX]);
	return 0;
}

int cpu_common_merge(struct cpu_common *c, struct json_object *template, struct err *e)
{
	struct json_object *leaves = json_object_is_type(template, json_type_object) ? json_object_object_get(template, "cpuid_modifiers")
										     : NULL;
	int ret = 0;

	if (!json_object_is_type(leaves, json_type_array))
		return err_set(e, -EINVAL, "not a CPU template: it has no list cpuid_modifiers");
	for (size_t i = 0; ret == 0 && i < json_object_array_length(leaves); i++) {
		struct json_object *l = json_object_array_get_idx(leaves, i);

		ret = json_object_is_type(l, json_type_object) ? merge_leaf(c, l, e)
							       : err_set(e, -EINVAL, "not a CPU template: cpuid_modifiers[%zu]", i);
	}
	return ret;
}

/* ---- to a template ---- */

/* The list of a leaf's registers; made if it is not there. */
static struct json_object *leaf_regs(struct json_object *leaves, u32 leaf, u32 subleaf)
{
	struct json_object *l, *regs;
	char text[16], sub[16];

	snprintf(text, sizeof(text), "0x%x", leaf);
	snprintf(sub, sizeof(sub), "0x%x", subleaf);
	for (size_t i = 0; i < json_object_array_length(leaves); i++) {
		l = json_object_array_get_idx(leaves, i);
		if (number(l, "leaf", UINT32_MAX) == leaf && number(l, "subleaf", UINT32_MAX) == subleaf)
			return json_object_object_get(l, "modifiers");
	}
	l = json_object_new_object();
	regs = json_object_new_array();
	json_object_object_add(l, "leaf", json_object_new_string(text));
	json_object_object_add(l, "subleaf", json_object_new_string(sub));
	json_object_object_add(l, "flags", json_object_new_int(leaf == 7 || leaf == LEAF_XSAVE));
	json_object_object_add(l, "modifiers", regs);
	json_object_array_add(leaves, l);
	return regs;
}

static void put_bitmap(struct json_object *leaves, u32 leaf, u32 subleaf, u32 reg, u32 mask, u32 value)
{
	struct json_object *m = json_object_new_object();
	char text[2 + REG_WIDTH + 1] = "0b";

	for (u32 i = 0; i < REG_WIDTH; i++) {
		u32 bit = REG_WIDTH - 1 - i;

		text[2 + i] = !(mask >> bit & 1) ? 'x' : value >> bit & 1 ? '1' : '0';
	}
	json_object_object_add(m, "register", json_object_new_string(reg_names[reg]));
	json_object_object_add(m, "bitmap", json_object_new_string(text));
	json_object_array_add(leaf_regs(leaves, leaf, subleaf), m);
}

struct json_object *cpu_common_template(const struct cpu_common *c)
{
	struct json_object *o = json_object_new_object(), *leaves = json_object_new_array();
	struct x86_feature_bits f;

	for (u32 i = 0; x86_feature_reg(i, &f); i++) {
		if (f.bits & ~c->offered[i])
			put_bitmap(leaves, f.leaf, f.subleaf, f.reg, f.bits & ~c->offered[i], 0);
	}
	/* Where the components lie, which a template does not change: for cpu_common_merge. */
	for (u32 i = 2; i < 32; i++) {
		if (!c->size[i] || !(c->offered[xcr0_reg()] & BIT(i)))
			continue;
		put_bitmap(leaves, LEAF_XSAVE, i, CFG_EAX, UINT32_MAX, c->size[i]);
		put_bitmap(leaves, LEAF_XSAVE, i, CFG_EBX, UINT32_MAX, c->offset[i]);
	}
	put_bitmap(leaves, LEAF_SIZES, 0, CFG_EAX, 0xff, c->phys_bits);
	json_object_object_add(o, "cpuid_modifiers", leaves);
	return o;
}
