/* sys_cpuid.c: CPUID: the guest's table, and the few bits that depend on its state (SDM 2A CPUID); INIT and SIPI. Lean. */
#include "arch/x86_64/chips.h"
#include "tcg/x86_64/sys.h"

#define APIC_BASE_ENABLED  0x800u
#define CPUID1_EDX_APIC	   BIT(9)
#define CPUID1_ECX_OSXSAVE BIT(27)
#define CPUID7_ECX_OSPKE   BIT(4)
#define XSAVE_LEGACY	   576u /* legacy region and header */

/* Size of an XSAVE area for these components: offsets as in the table, or one after the other (compacted). */
static u32 xsave_size(struct tcg_cpu *c, u64 components, bool compacted)
{
	u32 size = XSAVE_LEGACY;

	for (u32 i = 2; i < 63; i++) {
		const struct x86_cpuid *e = components >> i & 1 ? x86_cpuid_find(&c->cpuid, 0xd, i) : NULL;

		if (!e)
			continue;
		if (compacted)
			size = (e->ecx & 2 ? ALIGN_UP(size, 64u) : size) + e->eax;
		else
			size = MAX(size, e->ebx + e->eax);
	}
	return size;
}

static void set_bit(u32 *reg, u64 bit, bool on)
{
	*reg = on ? *reg | (u32)bit : *reg & ~(u32)bit;
}

static void add_state(struct tcg_cpu *c, u32 leaf, u32 subleaf, u32 out[4])
{
	if (leaf == 1) {
		set_bit(&out[CPUID_ECX], CPUID1_ECX_OSXSAVE, c->cr4 & X86_CR4_OSXSAVE);
		set_bit(&out[CPUID_EDX], CPUID1_EDX_APIC, lapic_base(c->lapic) & APIC_BASE_ENABLED);
	} else if (leaf == 7 && subleaf == 0) {
		set_bit(&out[CPUID_ECX], CPUID7_ECX_OSPKE, c->cr4 & X86_CR4_PKE);
	} else if (leaf == 0xd && subleaf == 0) {
		out[CPUID_EBX] = xsave_size(c, c->xcr0, false);
	} else if (leaf == 0xd && subleaf == 1 && out[CPUID_EAX] & 2) {
		out[CPUID_EBX] = xsave_size(c, c->xcr0 | c->xss, true);
	}
}

/* Leaves beyond the end of their range show the highest basic one (Intel; AMD: nothing). */
static u32 effective_leaf(struct tcg_cpu *c, u32 leaf)
{
	u32 max = sys_cpuid_reg(c, 0, 0, CPUID_EAX), top = leaf >> 30 == 1 || leaf >> 31 ? leaf & 0xffffff00 : 0;

	if (leaf >> 31)
		top = 0x80000000;
	if (top && leaf <= sys_cpuid_reg(c, top, 0, CPUID_EAX))
		return leaf;
	if (!top && leaf <= max)
		return leaf;
	return sys_is_amd(c) ? leaf : max;
}

/* Topology leaves have EDX and the subleaf's number even where there is no such level. */
static void missing_subleaf(struct tcg_cpu *c, u32 leaf, u32 subleaf, u32 out[4])
{
	if ((leaf != 0xb && leaf != 0x1f) || !x86_cpuid_find(&c->cpuid, leaf, 0))
		return;
	out[CPUID_ECX] = subleaf & 0xff;
	out[CPUID_EDX] = sys_cpuid_reg(c, leaf, 0, CPUID_EDX);
}

void sys_cpuid(struct tcg_cpu *c, u32 leaf, u32 subleaf, u32 out[4])
{
	const struct x86_cpuid *e;

	leaf = effective_leaf(c, leaf);
	e = x86_cpuid_find(&c->cpuid, leaf, subleaf);
	out[0] = out[1] = out[2] = out[3] = 0;
	if (!e) {
		missing_subleaf(c, leaf, subleaf, out);
		return;
	}
	out[CPUID_EAX] = e->eax;
	out[CPUID_EBX] = e->ebx;
	out[CPUID_ECX] = e->ecx;
	out[CPUID_EDX] = e->edx;
	add_state(c, leaf, subleaf, out);
}

/* ---- INIT and SIPI ---- */

static void reset_segs(struct tcg_cpu *c)
{
	for (u32 i = X86_ES; i <= X86_GS; i++)
		c->seg[i] = (struct x86_seg){.limit = 0xffff, .attr = 0x93};
	c->seg[X86_CS].selector = 0xf000;
	c->seg[X86_CS].base = 0xffff0000;
	c->seg[X86_CS].attr = 0x9b;
	c->seg[X86_LDTR] = (struct x86_seg){.limit = 0xffff, .attr = 0x82};
	c->seg[X86_TR] = (struct x86_seg){.limit = 0xffff, .attr = 0x8b};
	c->gdt = c->idt = (struct x86_dtable){.limit = 0xffff};
}

/* MSRs but EFER, vector state, XCR0 and the caches' bits of CR0 stay what they are. */
void sys_init_reset(struct tcg_cpu *c)
{
	for (u32 i = 0; i < X86_NR_GPRS; i++)
		c->gpr[i] = 0;
	c->gpr[X86_RDX] = sys_cpuid_reg(c, 1, 0, CPUID_EAX);
	c->rip = 0xfff0;
	c->rflags = 2;
	reset_segs(c);
	c->cr0 = (c->cr0 & (X86_CR0_CD | X86_CR0_NW)) | X86_CR0_ET;
	c->cr2 = c->cr3 = c->cr4 = c->cr8 = c->efer = 0;
	c->dr[0] = c->dr[1] = c->dr[2] = c->dr[3] = 0;
	c->dr6 = 0xffff0ff0;
	c->dr7 = 0x400;
	c->cpl = c->shadow = 0;
	c->halted = c->nmi_masked = c->delivering = c->triple_fault = false;
	c->exc = (struct tcg_exception){0};
	c->spec_ctrl = 0;
	mmu_reset(c);
	tcg_mode_update(c);
}

void sys_sipi(struct tcg_cpu *c, u8 vector)
{
	c->seg[X86_CS].selector = (u16)(vector << 8);
	c->seg[X86_CS].base = (u64)vector << 12;
	c->rip = 0;
	c->halted = false;
	tcg_mode_update(c);
}
