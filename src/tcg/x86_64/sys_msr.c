/*
 * sys_msr.c: model-specific registers (SDM 4). Unknown ones are #GP: guests probe them with exception tables, and a wrong zero makes them
 * drive hardware that is not there. Lean.
 */
#include "arch/x86_64/chips.h"
#include "tcg/cpumodel.h"
#include "tcg/pvclock.h"
#include "tcg/x86_64/sys.h"

enum {
	MSR_TSC = 0x10,
	MSR_PLATFORM_ID = 0x17,
	MSR_APIC_BASE = 0x1b,
	MSR_FEATURE_CONTROL = 0x3a,
	MSR_TSC_ADJUST = 0x3b,
	MSR_SPEC_CTRL = 0x48,
	MSR_PRED_CMD = 0x49,
	MSR_UCODE_WRITE = 0x79,
	MSR_UCODE_REV = 0x8b,
	MSR_MISC_PACKAGE_CTLS = 0xbc,
	MSR_PLATFORM_INFO = 0xce,
	MSR_MTRR_CAP = 0xfe,
	MSR_ARCH_CAPABILITIES = 0x10a,
	MSR_FLUSH_CMD = 0x10b,
	MSR_MISC_FEATURES_ENABLES = 0x140,
	MSR_SYSENTER_CS = 0x174,
	MSR_SYSENTER_ESP,
	MSR_SYSENTER_EIP,
	MSR_MCG_CAP = 0x179,
	MSR_MCG_STATUS,
	MSR_MISC_ENABLE = 0x1a0,
	MSR_DEBUGCTL = 0x1d9,
	MSR_PAT = 0x277,
	MSR_MTRR_DEF_TYPE = 0x2ff,
	MSR_TSC_DEADLINE = 0x6e0,
	MSR_X2APIC = 0x800,
	MSR_X2APIC_TMICT = 0x838, /* initial count; then current count, divide configuration */
	MSR_X2APIC_TDCR = 0x83e,
	MSR_X2APIC_LAST = 0x8ff,
	MSR_XSS = 0xda0,
	MSR_KVM = 0x4b564d00,
	MSR_KVM_LAST = 0x4b564dff,
};
#define MSR_EFER	   0xc0000080u
#define MSR_STAR	   0xc0000081u
#define MSR_LSTAR	   0xc0000082u
#define MSR_CSTAR	   0xc0000083u
#define MSR_SFMASK	   0xc0000084u
#define MSR_FS_BASE	   0xc0000100u
#define MSR_GS_BASE	   0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX	   0xc0000103u

#define UCODE_REVISION	   (0xffffffffull << 32)
#define FEATURE_LOCKED	   1ull
#define MTRR_CAP_WC	   0x400ull /* no fixed, no variable ranges */
#define MTRR_DEF_TYPE_BITS 0xcffull
#define MISC_NO_BTS_PEBS   0x1800ull
/* Fast strings, TCC, (BTS, PEBS unavailable: read-only), EIST, MONITOR, CPUID limit, xTPR: no effect. XD disable, bit 34, is none of them.
 */
#define MISC_WRITABLE (0xc50009ull | MISC_NO_BTS_PEBS)
/* Shown by the CPU template T2S only: a filter of energy readings, of which there are none. */
#define ARCH_PACKAGE_CTLS BIT(10)
#define DEBUGCTL_IGNORED  0x3ull /* LBR; BTF: single steps are not made longer */

static bool writable_xss(struct tcg_cpu *c)
{
	return sys_cpuid_reg(c, 0xd, 1, CPUID_EAX) & 8;
}

/* ---- those that are a field and little else ---- */

enum kind { PLAIN, LOW32, ONLY32, CANONICAL };

static const struct field {
	u32 index;
	u16 offset;
	u8 kind;
} fields[] = {
	{MSR_FS_BASE, offsetof(struct tcg_cpu, seg[X86_FS].base), CANONICAL},
	{MSR_GS_BASE, offsetof(struct tcg_cpu, seg[X86_GS].base), CANONICAL},
	{MSR_KERNEL_GS_BASE, offsetof(struct tcg_cpu, kernel_gs_base), CANONICAL},
	{MSR_STAR, offsetof(struct tcg_cpu, star), PLAIN},
	{MSR_LSTAR, offsetof(struct tcg_cpu, lstar), CANONICAL},
	{MSR_CSTAR, offsetof(struct tcg_cpu, cstar), CANONICAL},
	{MSR_SFMASK, offsetof(struct tcg_cpu, sfmask), LOW32},
	{MSR_TSC_AUX, offsetof(struct tcg_cpu, tsc_aux), ONLY32},
	{MSR_SYSENTER_CS, offsetof(struct tcg_cpu, sysenter_cs), LOW32},
	{MSR_SYSENTER_ESP, offsetof(struct tcg_cpu, sysenter_esp), CANONICAL},
	{MSR_SYSENTER_EIP, offsetof(struct tcg_cpu, sysenter_eip), CANONICAL},
};

static u64 *field_of(struct tcg_cpu *c, u32 index, u8 *kind)
{
	for (u32 i = 0; i < ARRAY_SIZE(fields); i++) {
		if (fields[i].index == index) {
			*kind = fields[i].kind;
			return (u64 *)(void *)((u8 *)c + fields[i].offset);
		}
	}
	return NULL;
}

static bool write_field(u64 *field, u8 kind, u64 value)
{
	if ((kind == CANONICAL && !tcg_canonical(value)) || (kind == ONLY32 && value >> 32))
		return false;
	*field = kind == LOW32 ? (u32)value : value;
	return true;
}

/* TSC_AUX belongs to RDTSCP and RDPID. */
static bool field_is_shown(const struct tcg_cpu *c, u32 index)
{
	return index != MSR_TSC_AUX || tcg_has(c, FEAT_RDTSCP) || tcg_has(c, FEAT_RDPID);
}

/* ---- what AMD's kernels expect to be there; they do nothing ---- */

#define AMD_HWCR_TSC_FREQ  BIT(24) /* TSC counts at P0 frequency */
#define AMD_LFENCE_ORDERED BIT(1)

static bool read_amd(struct tcg_cpu *c, u32 index, u64 *value)
{
	static const u32 known[] = {0xc0010010, 0xc0010015, 0xc001001f, 0xc0010055, 0xc0011020, 0xc0011022, 0xc0011029};

	for (u32 i = 0; sys_is_amd(c) && i < ARRAY_SIZE(known); i++) {
		if (known[i] == index) {
			*value = index == 0xc0010015 ? AMD_HWCR_TSC_FREQ : index == 0xc0011029 ? AMD_LFENCE_ORDERED : 0;
			return true;
		}
	}
	return false;
}

/* ---- the TSC: the guest's is the host's plus an offset, which TSC_ADJUST follows (SDM 3B §17.17.3) ---- */

static bool move_tsc(struct tcg_cpu *c, u64 by)
{
	u64 deadline = lapic_tsc_deadline(c->lapic);

	c->tsc_offset += by;
	c->tsc_adjust += by;
	if (deadline)
		lapic_set_tsc_deadline(c->lapic, deadline);
	return true;
}

static bool has_tsc_adjust(struct tcg_cpu *c)
{
	return sys_cpuid_bit(c, 7, CPUID_EBX, 1);
}
static bool has_deadline(struct tcg_cpu *c)
{
	return sys_cpuid_bit(c, 1, CPUID_ECX, 24);
}

/* ---- legality ---- */

/* Memory types: 0 UC, 1 WC, 4 WT, 5 WP, 6 WB, and in PAT 7 UC-. */
static bool is_memory_type(u32 type, bool pat)
{
	return type < 8 && (pat ? 0xf3u : 0x73u) >> type & 1;
}

static bool pat_is_legal(u64 value)
{
	for (u32 i = 0; i < 64; i += 8) {
		if (!is_memory_type(value >> i & 0xff, true))
			return false;
	}
	return true;
}

static bool mtrr_is_legal(u64 value)
{
	return !(value & ~MTRR_DEF_TYPE_BITS) && is_memory_type(value & 0xff, false);
}

/* IBRS; STIBP may be set where it does nothing; SSBD; and the controls of leaf 7.2. */
static u64 spec_ctrl_bits(struct tcg_cpu *c)
{
	u32 edx = sys_cpuid_reg(c, 7, 0, CPUID_EDX), more = sys_cpuid_reg(c, 7, 2, CPUID_EDX);
	u64 bits = edx >> 26 & 1 ? 3 : 0;

	bits |= edx >> 27 & 1 ? 2 : 0;
	bits |= edx >> 31 & 1 ? 4 : 0;
	bits |= more & 1 ? BIT(7) : 0;
	bits |= more & 2 ? BIT(3) | BIT(4) : 0;
	bits |= more & 4 ? BIT(5) | BIT(6) : 0;
	bits |= more & 8 ? BIT(8) : 0;
	bits |= more & 16 ? BIT(10) : 0;
	return bits;
}

/* *field = value if no other bits than these are set. */
static bool write_masked(u64 *field, u64 value, u64 bits)
{
	if (value & ~bits)
		return false;
	*field = value;
	return true;
}

/* ---- the rest ---- */

/* The timer's registers count on the VM's clock, which is not lean. */
static void save_for_clock(struct tcg_cpu *c, u32 index)
{
	if (index >= MSR_X2APIC_TMICT && index <= MSR_X2APIC_TDCR)
		fpu_save(c);
}

static bool read_other(struct tcg_cpu *c, u32 index, u64 *value)
{
	u8 kind;
	const u64 *field = field_of(c, index, &kind);

	if (field && field_is_shown(c, index)) {
		*value = *field;
		return true;
	}
	if (index >= MSR_X2APIC && index <= MSR_X2APIC_LAST) {
		save_for_clock(c, index);
		return lapic_msr_read(c->lapic, index, value);
	}
	if (index == MSR_KVM_WALL_CLOCK_OLD || index == MSR_KVM_SYSTEM_TIME_OLD || (index >= MSR_KVM && index <= MSR_KVM_LAST))
		return pvclock_read_msr(c, index, value);
	return read_amd(c, index, value);
}

/* long: a table */
bool sys_rdmsr(struct tcg_cpu *c, u32 index, u64 *value)
{
	*value = 0;
	switch (index) {
	case MSR_TSC:
		*value = tcg_rdtsc(c);
		return true;
	case MSR_TSC_ADJUST:
		*value = c->tsc_adjust;
		return has_tsc_adjust(c);
	case MSR_TSC_DEADLINE:
		*value = lapic_tsc_deadline(c->lapic);
		return has_deadline(c);
	case MSR_APIC_BASE:
		*value = lapic_base(c->lapic);
		return true;
	case MSR_FEATURE_CONTROL:
		*value = FEATURE_LOCKED;
		return true;
	case MSR_SPEC_CTRL:
		*value = c->spec_ctrl;
		return spec_ctrl_bits(c) != 0;
	case MSR_UCODE_REV:
		*value = UCODE_REVISION;
		return true;
	case MSR_MTRR_CAP:
		*value = MTRR_CAP_WC;
		return true;
	case MSR_MTRR_DEF_TYPE:
		*value = c->mtrr_def_type;
		return true;
	case MSR_PAT:
		*value = c->pat;
		return true;
	case MSR_ARCH_CAPABILITIES:
		*value = c->arch_capabilities;
		return sys_cpuid_bit(c, 7, CPUID_EDX, 29);
	case MSR_MISC_PACKAGE_CTLS:
		return c->arch_capabilities & ARCH_PACKAGE_CTLS;
	case MSR_MISC_ENABLE:
		*value = c->misc_enable | MISC_NO_BTS_PEBS;
		return true;
	case MSR_EFER:
		*value = c->efer;
		return true;
	case MSR_XSS:
		*value = c->xss;
		return writable_xss(c);
	case MSR_PLATFORM_ID:
	case MSR_PLATFORM_INFO:
	case MSR_MISC_FEATURES_ENABLES:
	case MSR_MCG_CAP:
	case MSR_MCG_STATUS:
	case MSR_DEBUGCTL:
		return true;
	default:
		return read_other(c, index, value);
	}
}

static bool write_lapic(struct tcg_cpu *c, u32 index, u64 value)
{
	bool ok;

	save_for_clock(c, index);
	ok = index == MSR_APIC_BASE ? lapic_set_base(c->lapic, value) : lapic_msr_write(c->lapic, index, value);
	sys_look_lapic(c);
	return ok;
}

static bool write_other(struct tcg_cpu *c, u32 index, u64 value)
{
	u64 *field, old;
	u8 kind;

	if (index >= MSR_X2APIC && index <= MSR_X2APIC_LAST)
		return write_lapic(c, index, value);
	field = field_of(c, index, &kind);
	if (field && field_is_shown(c, index))
		return write_field(field, kind, value);
	if (index == MSR_KVM_WALL_CLOCK_OLD || index == MSR_KVM_SYSTEM_TIME_OLD || (index >= MSR_KVM && index <= MSR_KVM_LAST))
		return pvclock_write_msr(c, index, value);
	return read_amd(c, index, &old);
}

/* long: a table */
bool sys_wrmsr(struct tcg_cpu *c, u32 index, u64 value)
{
	switch (index) {
	case MSR_TSC:
		return move_tsc(c, value - tcg_rdtsc(c));
	case MSR_TSC_ADJUST:
		return has_tsc_adjust(c) && move_tsc(c, value - c->tsc_adjust);
	case MSR_TSC_DEADLINE:
		if (!has_deadline(c))
			return false;
		lapic_set_tsc_deadline(c->lapic, value);
		return true;
	case MSR_APIC_BASE:
		return write_lapic(c, index, value);
	case MSR_SPEC_CTRL:
		return spec_ctrl_bits(c) && write_masked(&c->spec_ctrl, value, spec_ctrl_bits(c));
	case MSR_PRED_CMD:
		return sys_cpuid_bit(c, 7, CPUID_EDX, 26) && !(value & ~1ull);
	case MSR_FLUSH_CMD:
		return sys_cpuid_bit(c, 7, CPUID_EDX, 28) && !(value & ~1ull);
	case MSR_UCODE_WRITE:
	case MSR_UCODE_REV:
		return true;
	case MSR_MTRR_DEF_TYPE:
		return mtrr_is_legal(value) && write_masked(&c->mtrr_def_type, value, MTRR_DEF_TYPE_BITS);
	case MSR_PAT:
		return pat_is_legal(value) && write_masked(&c->pat, value, UINT64_MAX);
	case MSR_MISC_ENABLE:
		return write_masked(&c->misc_enable, value, MISC_WRITABLE);
	case MSR_EFER:
		return sys_set_efer(c, value);
	case MSR_XSS:
		return writable_xss(c) && write_masked(&c->xss, value, 0);
	case MSR_MISC_PACKAGE_CTLS:
		return c->arch_capabilities & ARCH_PACKAGE_CTLS && !(value & ~1ull);
	case MSR_MISC_FEATURES_ENABLES:
	case MSR_MCG_STATUS:
		return !value;
	case MSR_DEBUGCTL:
		return !(value & ~DEBUGCTL_IGNORED);
	default:
		return write_other(c, index, value);
	}
}
