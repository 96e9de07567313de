/* cpu.c: the canonical vCPU state: its life, the state after RESET, and the two states that a kernel is entered in. */
#include <stdlib.h>
#include <string.h>

#include "arch/x86_64/x86.h"
#include "vmm/machine.h"

#define CR0_PE	   BIT(0)
#define CR0_ET	   BIT(4)
#define CR0_NW	   BIT(29)
#define CR0_CD	   BIT(30)
#define CR0_PG	   BIT(31)
#define CR4_PAE	   BIT(5)
#define EFER_LME   BIT(8)
#define EFER_LMA   BIT(10)
#define RFLAGS_ONE BIT(1)

/* Segment attributes (cpu.h) */
#define SEG_CODE16 0x009b
#define SEG_DATA16 0x0093
#define SEG_CODE32 0x0c9b
#define SEG_CODE64 0x0a9b
#define SEG_DATA32 0x0c93
#define SEG_LDT	   0x0082
#define SEG_TSS	   0x008b /* busy; 32 or 64 bits by mode */

/* Selectors of Linux' boot protocol: __BOOT_CS, __BOOT_DS; the descriptors behind them are in the GDT that paging_write makes. */
#define BOOT_CS	 0x10
#define BOOT_DS	 0x18
#define BOOT_TSS 0x20

#define APIC_BASE_BSP	 BIT(8)
#define APIC_BASE_ENABLE BIT(11)

/* Offsets in the local APIC page (SDM 3A §11.4.1) */
#define APIC_ID	       0x20
#define APIC_VERSION   0x30
#define APIC_DFR       0xe0
#define APIC_SVR       0xf0
#define APIC_LVT_TIMER 0x320
#define APIC_LVT_LINT0 0x350
#define APIC_LVT_LINT1 0x360
#define APIC_LVT_LAST  0x370
#define LVT_MASKED     0x10000u
#define LVT_NMI	       0x400u
#define LVT_EXTINT     0x700u

/* The XSAVE area (SDM 1 §13.4) */
#define XSAVE_FCW	 0
#define XSAVE_MXCSR	 24
#define XSAVE_XSTATE_BV	 512
#define XSAVE_HEADER_END 576

struct cpu_state *machine_cpu_new(void)
{
	return xzalloc(sizeof(struct cpu_state));
}

void machine_cpu_free(struct cpu_state *c)
{
	free(c);
}

/* After RESET, with the virtual wire that firmware sets up: PIC on LINT0, NMI on LINT1 (MP specification §3.6.2.2). */
static void reset_lapic(struct x86_lapic *apic, u32 id)
{
	memset(apic, 0, sizeof(*apic));
	st_le32(apic->regs + APIC_ID, id << 24);
	st_le32(apic->regs + APIC_VERSION, 0x50014);
	st_le32(apic->regs + APIC_DFR, 0xffffffff);
	st_le32(apic->regs + APIC_SVR, 0xff);
	for (u32 lvt = APIC_LVT_TIMER; lvt <= APIC_LVT_LAST; lvt += 0x10)
		st_le32(apic->regs + lvt, LVT_MASKED);
	st_le32(apic->regs + APIC_LVT_LINT0, LVT_EXTINT);
	st_le32(apic->regs + APIC_LVT_LINT1, LVT_NMI);
}

/* x87 and SSE as RESET leaves them; all other components are in their initial state (SDM 1 §13.4, §13.6). */
static void reset_xsave(struct cpu_state *c)
{
	memset(c->xsave, 0, sizeof(c->xsave));
	st_le16(c->xsave + XSAVE_FCW, 0x37f);
	st_le32(c->xsave + XSAVE_MXCSR, 0x1f80);
	st_le64(c->xsave + XSAVE_XSTATE_BV, 3);
	c->xsave_size = XSAVE_HEADER_END;
	c->xcr0 = 1;
}

void x86_cpu_reset(struct cpu_state *c, u32 index)
{
	*c = (struct cpu_state){
		.rip = 0xfff0,
		.rflags = RFLAGS_ONE,
		.cr0 = CR0_CD | CR0_NW | CR0_ET,
		.apic_base = X86_LAPIC_GPA | APIC_BASE_ENABLE | (index == 0 ? APIC_BASE_BSP : 0),
		.dr6 = 0xffff0ff0,
		.dr7 = 0x400,
		.gdt.limit = 0xffff,
		.idt.limit = 0xffff,
		.mp_state = index == 0 ? X86_MP_RUNNABLE : X86_MP_UNINIT,
	};
	for (u32 i = 0; i < X86_NR_SEGS; i++)
		c->seg[i] = (struct x86_seg){.limit = 0xffff, .attr = SEG_DATA16};
	c->seg[X86_CS] = (struct x86_seg){.base = 0xffff0000, .limit = 0xffff, .selector = 0xf000, .attr = SEG_CODE16};
	c->seg[X86_LDTR].attr = SEG_LDT;
	c->seg[X86_TR].attr = SEG_TSS;
	reset_lapic(&c->lapic, index);
	reset_xsave(c);
}

/* Flat segments, a loaded task register, the GDT of paging_write; interrupts off. */
static void enter_flat(struct cpu_state *c, u16 code_attr)
{
	static const u8 data_segs[] = {X86_DS, X86_ES, X86_SS, X86_FS, X86_GS};

	c->seg[X86_CS] = (struct x86_seg){.limit = 0xffffffff, .selector = BOOT_CS, .attr = code_attr};
	for (u32 i = 0; i < ARRAY_SIZE(data_segs); i++)
		c->seg[data_segs[i]] = (struct x86_seg){.limit = 0xffffffff, .selector = BOOT_DS, .attr = SEG_DATA32};
	c->seg[X86_TR] = (struct x86_seg){.limit = 0x67, .selector = BOOT_TSS, .attr = SEG_TSS};
	c->gdt = (struct x86_dtable){X86_GDT_GPA, X86_GDT_BYTES - 1};
	c->idt = (struct x86_dtable){0, 0};
	c->cr0 = CR0_PE | CR0_ET;
}

void x86_cpu_enter_long(struct cpu_state *c, u64 rip, u64 rsi)
{
	enter_flat(c, SEG_CODE64);
	c->cr0 |= CR0_PG;
	c->cr3 = X86_PML4_GPA;
	c->cr4 = CR4_PAE;
	c->efer = EFER_LME | EFER_LMA;
	c->rip = rip;
	c->gpr[X86_RSI] = rsi;
	c->gpr[X86_RSP] = c->gpr[X86_RBP] = X86_BOOT_STACK_GPA;
}

void x86_cpu_enter_pvh(struct cpu_state *c, u64 rip, u64 rbx)
{
	enter_flat(c, SEG_CODE32);
	c->rip = rip;
	c->gpr[X86_RBX] = rbx;
}
