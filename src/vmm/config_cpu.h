/*
 * config_cpu.h: section "cpu-config", Firecracker's custom CPU template: bits to set and to clear in what the guest's processor shows.
 * Numbers and bitmaps stay the text that they are in the file; the parser has checked them. What they mean is the machine's to know
 * (arch/x86_64/cpu_template.h).
 */
#ifndef HUSK_CONFIG_CPU_H
#define HUSK_CONFIG_CPU_H

#include "vmm/config.h"

enum cfg_cpuid_reg { CFG_EAX, CFG_EBX, CFG_ECX, CFG_EDX };

struct cfg_cpuid_bits {
	u32 reg; /* enum cfg_cpuid_reg */
	char *bitmap;
};

struct cfg_cpuid_leaf {
	char *leaf, *subleaf;
	u64 flags;	      /* KVM's: whether the leaf has subleaves. The accelerator knows that by itself */
	struct cfg_list bits; /* of struct cfg_cpuid_bits */
};

struct cfg_msr_bits {
	char *addr, *bitmap;
};

struct cfg_arm_feature {
	u64 index;
	char *bitmap;
};

struct cfg_kvm_capability {
	char *number; /* "121": KVM must have it; "!121": need not */
};

struct cfg_cpu {
	struct cfg_list kvm_capabilities;	     /* of struct cfg_kvm_capability */
	struct cfg_list cpuid, msrs;		     /* of struct cfg_cpuid_leaf, cfg_msr_bits */
	struct cfg_list arm_registers, arm_features; /* of struct cfg_msr_bits, cfg_arm_feature */
};

extern const struct cfg_table config_cpu_table;

/* "0x1f", "0b101" or "31", up to max. ctx: any */
bool config_cpu_number(const char *text, u64 max, u64 *out);
/* "0b1x0_01": the lowest bit last; x and what is missing at the front stay as they are; 1 to width digits. Bits to be changed go to *mask,
 * what they become to *value (within mask). ctx: any */
bool config_cpu_bitmap(const char *text, u32 width, u64 *mask, u64 *value);

#endif
