/*
 * tcg_sys_rig.h: what the tests of src/tcg/x86_64/sys_*.c stand on: one vCPU, a megabyte of memory that every address wraps into,
 * descriptor tables, and stubs for MMU, interpreter, chips and run loop. Include in one file of a program only.
 */
#ifndef HUSK_TEST_TCG_SYS_RIG_H
#define HUSK_TEST_TCG_SYS_RIG_H

#include "cm.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include "arch/x86_64/chips.h"
#include "tcg/cpumodel.h"
#include "tcg/pvclock.h"
#include "tcg/x86_64/interp.h"

#define RAM 0x100000u
#define GDT 0x1000
#define IDT 0x2000
#define TSS 0x4000
#define LDT 0x6000

/* Selectors in the GDT. */
enum {
	KCODE = 0x08,
	KDATA = 0x10,
	UCODE32 = 0x18,
	UDATA = 0x20,
	UCODE = 0x28,
	KCODE32 = 0x30,
	CONFORMING = 0x38,
	TSSD = 0x40,
	ABSENT_DATA = 0x50,
	READONLY = 0x58,
	BOTH_L_D = 0x60,
	LDTD = 0x68,
	CALLGATE = 0x78,
	ABSENT_CODE = 0x88,
	FRESH_DATA = 0x90, /* not accessed yet */
	EXECONLY = 0x98,
	DATA16 = 0xa0,
	GDT_END = 0xa8,
};

struct rig {
	struct tcg_cpu *c;
	u8 ram[RAM];
	jmp_buf env;
	u64 bad_page; /* linear page number that faults on writes, or NONE */
	enum tcg_mmu_mode last_mode;
	u32 requests, flushes, restarts;
	u32 give_up; /* this many more stores, and one restarts */
	u64 cr3_written, invlpg_va, invpcid_type, deadline, apic_base;
	u8 cr8;
	int pending; /* lapic_pending */
	u32 pio_port, pio_size;
};
#define NONE UINT64_MAX

/* The stubs have no other way to find it; one test runs at a time. */
static struct rig *rig;

/* ---- stubs ---- */

_Noreturn void tcg_restart(struct tcg_cpu *c)
{
	(void)c;
	rig->restarts++;
	longjmp(rig->env, 1);
}
static _Noreturn void stub_raise(struct tcg_exception x)
{
	x.pending = true;
	rig->c->exc = x;
	longjmp(rig->env, 1);
}
_Noreturn void tcg_raise(struct tcg_cpu *c, u8 vector)
{
	(void)c;
	stub_raise((struct tcg_exception){.vector = vector});
}
_Noreturn void tcg_raise_err(struct tcg_cpu *c, u8 vector, u32 error)
{
	(void)c;
	stub_raise((struct tcg_exception){.vector = vector, .has_error = true, .error = error});
}
_Noreturn void tcg_raise_pf(struct tcg_cpu *c, u64 va, u32 error)
{
	(void)c;
	stub_raise((struct tcg_exception){.vector = X86_PF, .has_error = true, .error = error, .address = va});
}
void fpu_save(struct tcg_cpu *c)
{
	(void)c;
}
void tcg_request(struct tcg_cpu *c, u32 req)
{
	(void)c;
	rig->requests |= req;
}
void tcg_mode_update(struct tcg_cpu *c)
{
	bool is_64 = c->efer & X86_EFER_LMA && c->seg[X86_CS].attr & X86_ATTR_L;

	c->mode = (u8)((c->cpl == 3 ? TCG_MODE_USER : 0) | (is_64 ? TCG_MODE_64 : 0));
	if (c->cpl < 3 && c->cr4 & X86_CR4_SMAP && c->rflags & X86_FLAG_AC)
		c->mode |= TCG_MODE_AC;
	if (c->cr0 & X86_CR0_PE && !(c->rflags & X86_FLAG_VM))
		c->mode |= TCG_MODE_PE;
}
static void *stub_at(struct tcg_cpu *c, u64 va, u32 size, bool write, enum tcg_mmu_mode mode)
{
	rig->last_mode = mode;
	if (write && (va >> 12 == rig->bad_page || (va + size - 1) >> 12 == rig->bad_page))
		tcg_raise_pf(c, va >> 12 == rig->bad_page ? va : rig->bad_page << 12, PF_W);
	if (write && rig->give_up && !--rig->give_up)
		tcg_restart(c);
	va &= RAM - 1;
	assert_true(va + size <= RAM);
	return rig->ram + va;
}
u64 mmu_load(struct tcg_cpu *c, u64 va, u32 size, enum tcg_mmu_mode mode)
{
	u64 value = 0;

	memcpy(&value, stub_at(c, va, size, false, mode), size);
	return value;
}
void mmu_store(struct tcg_cpu *c, u64 va, u32 size, u64 value, enum tcg_mmu_mode mode)
{
	memcpy(stub_at(c, va, size, true, mode), &value, size);
}
void mmu_store_bytes(struct tcg_cpu *c, u64 va, const void *buf, u32 n, enum tcg_mmu_mode mode)
{
	memcpy(stub_at(c, va, n, true, mode), buf, n);
}
void mmu_probe(struct tcg_cpu *c, u64 va, u32 n, enum mmu_access access, enum tcg_mmu_mode mode)
{
	stub_at(c, va, n, access == MMU_WRITE, mode);
}
void mmu_write_cr3(struct tcg_cpu *c, u64 value)
{
	rig->cr3_written = value;
	c->cr3 = value & ~BIT(63);
}
void mmu_flush_all(struct tcg_cpu *c)
{
	(void)c;
	rig->flushes++;
}
void mmu_reset(struct tcg_cpu *c)
{
	(void)c;
	rig->flushes++;
}
void mmu_invlpg(struct tcg_cpu *c, u64 va)
{
	(void)c;
	rig->invlpg_va = va;
}
void mmu_invpcid(struct tcg_cpu *c, u64 type, u16 pcid, u64 va)
{
	(void)c;
	(void)pcid;
	(void)va;
	rig->invpcid_type = type;
}
/* Memory operands: the address is the displacement. */
u64 interp_ea(struct tcg_cpu *c, const struct x86_insn *insn, u32 size, bool write)
{
	(void)c;
	(void)size;
	(void)write;
	return (u64)insn->mem.disp;
}
u64 interp_offset(struct tcg_cpu *c, const struct x86_insn *insn)
{
	(void)c;
	return (u64)insn->mem.disp;
}
void interp_set_reg(struct tcg_cpu *c, u32 reg, u32 size, u64 value)
{
	if (size == 4)
		c->gpr[reg] = (u32)value;
	else
		memcpy(&c->gpr[reg], &value, size);
}
int lapic_pending(struct lapic *l)
{
	(void)l;
	return rig->pending;
}
u64 lapic_base(const struct lapic *l)
{
	(void)l;
	return rig->apic_base;
}
bool lapic_set_base(struct lapic *l, u64 value)
{
	(void)l;
	rig->apic_base = value;
	return !(value & 0xff);
}
u8 lapic_get_cr8(const struct lapic *l)
{
	(void)l;
	return rig->cr8;
}
void lapic_set_cr8(struct lapic *l, u8 value)
{
	(void)l;
	rig->cr8 = value;
}
bool lapic_msr_read(struct lapic *l, u32 msr, u64 *value)
{
	(void)l;
	*value = msr;
	return msr == 0x802;
}
bool lapic_msr_write(struct lapic *l, u32 msr, u64 value)
{
	(void)l;
	(void)value;
	return msr == 0x80b;
}
u64 lapic_tsc_deadline(const struct lapic *l)
{
	(void)l;
	return rig->deadline;
}
void lapic_set_tsc_deadline(struct lapic *l, u64 value)
{
	(void)l;
	rig->deadline = value;
}
bool pvclock_read_msr(struct tcg_cpu *c, u32 msr, u64 *value)
{
	(void)c;
	*value = 1;
	return msr == MSR_KVM_SYSTEM_TIME;
}
bool pvclock_write_msr(struct tcg_cpu *c, u32 msr, u64 value)
{
	(void)c;
	(void)value;
	return msr == MSR_KVM_SYSTEM_TIME;
}
u64 tcg_rdtsc(const struct tcg_cpu *c)
{
	return 1000 + c->tsc_offset;
}
u32 tcg_pio_read(struct tcg_cpu *c, u16 port, u32 size)
{
	(void)c;
	rig->pio_port = port;
	rig->pio_size = size;
	return 0x12345678;
}
void tcg_pio_write(struct tcg_cpu *c, u16 port, u32 size, u32 value)
{
	(void)c;
	(void)value;
	rig->pio_port = port;
	rig->pio_size = size;
}

/* ---- memory ---- */

static inline void put(u64 at, u64 value, u32 size)
{
	memcpy(rig->ram + (at & (RAM - 1)), &value, size);
}
static inline u64 get(u64 at, u32 size)
{
	u64 value = 0;

	memcpy(&value, rig->ram + (at & (RAM - 1)), size);
	return value;
}
/* attr: as struct x86_seg's. */
static inline void put_desc(u64 table, u32 selector, u64 base, u32 limit, u32 attr)
{
	u64 d = (limit & 0xffff) | (base & 0xffffff) << 16 | (u64)(attr & 0xff) << 40 | (u64)(limit >> 16 & 0xf) << 48;

	put(table + (selector & ~7u), d | (u64)(attr >> 8 & 0xf) << 52 | (base >> 24 & 0xff) << 56, 8);
}
static inline void put_gate64(u32 vector, u16 selector, u64 rip, u32 type, u32 dpl, u32 ist)
{
	u64 low = (rip & 0xffff) | (u64)selector << 16 | (u64)ist << 32 | (u64)(type | dpl << 5 | 0x80) << 40 | (rip >> 16 & 0xffff) << 48;

	put(IDT + vector * 16, low, 8);
	put(IDT + vector * 16 + 8, rip >> 32, 8);
}
static inline void put_gate32(u32 vector, u16 selector, u32 eip, u32 type, u32 dpl)
{
	put(IDT + vector * 8, (eip & 0xffff) | (u64)selector << 16 | (u64)(type | dpl << 5 | 0x80) << 40 | (u64)(eip >> 16) << 48, 8);
}

#define A_CODE64 0xa9b /* G L, P S code */
#define A_CODE32 0xc9b
#define A_DATA	 0xc93
#define A_DPL3	 0x60

static inline void put_gdt(void)
{
	put_desc(GDT, KCODE, 0, 0xfffff, A_CODE64);
	put_desc(GDT, KDATA, 0, 0xfffff, A_DATA);
	put_desc(GDT, UCODE32, 0, 0xfffff, A_CODE32 | A_DPL3);
	put_desc(GDT, UDATA, 0, 0xfffff, A_DATA | A_DPL3);
	put_desc(GDT, UCODE, 0, 0xfffff, A_CODE64 | A_DPL3);
	put_desc(GDT, KCODE32, 0, 0xfffff, A_CODE32);
	put_desc(GDT, CONFORMING, 0, 0xfffff, A_CODE64 | 4);
	put_desc(GDT, TSSD, TSS, 0x67, 0x89);
	put_desc(GDT, ABSENT_DATA, 0, 0xfffff, A_DATA & ~0x80);
	put_desc(GDT, READONLY, 0, 0xfffff, 0xc91);
	put_desc(GDT, BOTH_L_D, 0, 0xfffff, A_CODE64 | 0x400);
	put_desc(GDT, LDTD, LDT, 0x17, 0x82);
	put_desc(GDT, ABSENT_CODE, 0, 0xfffff, A_CODE64 & ~0x80);
	put_desc(GDT, FRESH_DATA, 0x12345678, 0x1ff, 0x92);
	put_desc(GDT, EXECONLY, 0, 0xfffff, 0xc99);
	put_desc(GDT, DATA16, 0, 0xffff, 0x93);
}

/* ---- the processor ---- */

static inline struct x86_seg seg_of(u16 selector, u32 attr)
{
	return (struct x86_seg){.selector = selector, .limit = UINT32_MAX, .attr = (u16)attr};
}

/* 64-bit mode at CPL 0 or 3, stack at 0x8ff8 (not aligned to 16), rip 0x10000. */
static inline void enter_long(u32 cpl)
{
	struct tcg_cpu *c = rig->c;

	c->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_ET | X86_CR0_WP;
	c->cr4 = X86_CR4_PAE;
	c->efer = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
	c->cpl = (u8)cpl;
	c->seg[X86_CS] = cpl ? seg_of(UCODE | 3, A_CODE64 | A_DPL3) : seg_of(KCODE, A_CODE64);
	c->seg[X86_SS] = cpl ? seg_of(UDATA | 3, A_DATA | A_DPL3) : seg_of(KDATA, A_DATA);
	c->seg[X86_DS] = c->seg[X86_ES] = c->seg[X86_SS];
	c->rflags = 2 | X86_FLAG_IF;
	c->rip = 0x10000;
	c->gpr[X86_RSP] = 0x8ff8;
	c->gdt = (struct x86_dtable){.base = GDT, .limit = GDT_END - 1};
	c->idt = (struct x86_dtable){.base = IDT, .limit = 0xfff};
	c->seg[X86_TR] = (struct x86_seg){.selector = TSSD, .base = TSS, .limit = 0x67, .attr = 0x8b};
	tcg_mode_update(c);
}

/* 32-bit protected mode, no paging. */
static inline void enter_32(u32 cpl)
{
	struct tcg_cpu *c = rig->c;

	enter_long(cpl);
	c->cr0 = X86_CR0_PE | X86_CR0_ET;
	c->efer = c->cr4 = 0;
	c->seg[X86_CS] = cpl ? seg_of(UCODE32 | 3, A_CODE32 | A_DPL3) : seg_of(KCODE32, A_CODE32);
	tcg_mode_update(c);
}

static inline void enter_real(void)
{
	struct tcg_cpu *c = rig->c;

	sys_init_reset(c);
	c->seg[X86_CS].base = 0x10000;
	c->seg[X86_CS].selector = 0x1000;
	c->rip = 0x100;
	c->gpr[X86_RSP] = 0x1000;
	c->idt = (struct x86_dtable){.base = IDT, .limit = 0x3ff};
}

static inline void add_cpuid(u32 leaf, s64 subleaf, u32 eax, u32 ebx, u32 ecx, u32 edx)
{
	struct x86_cpuid_table *t = &rig->c->cpuid;

	t->e[t->nr++] = (struct x86_cpuid){.leaf = leaf,
					   .subleaf = subleaf < 0 ? 0 : (u32)subleaf,
					   .has_subleaf = subleaf >= 0,
					   .eax = eax,
					   .ebx = ebx,
					   .ecx = ecx,
					   .edx = edx};
}

static inline void add_model(void)
{
	add_cpuid(0, -1, 0x16, 0x756e6547, 0x6c65746e, 0x49656e69);
	/* PCID, TSC deadline, XSAVE; all of the basic features but VME */
	add_cpuid(1, -1, 0x806f8, 0, 1u << 17 | 1u << 24 | 1u << 26, 0x178bfbfd);
	/* FSGSBASE, TSC_ADJUST, SMEP, INVPCID, SMAP; UMIP; IBRS, ARCH_CAPABILITIES */
	add_cpuid(7, 0, 2, 1u << 0 | 1u << 1 | 1u << 7 | 1u << 10 | 1u << 20, 1u << 2, 1u << 26 | 1u << 29);
	add_cpuid(0xb, 0, 1, 2, 0x100, 5);
	add_cpuid(0xd, 0, 0xe7, 0, 0xa88, 0);
	add_cpuid(0xd, 1, 0xf, 0, 0, 0);
	add_cpuid(0xd, 2, 256, 576, 0, 0);
	add_cpuid(0xd, 5, 72, 1088, 0, 0); /* not the real size: the next one has to be aligned */
	add_cpuid(0xd, 6, 512, 1152, 2, 0);
	add_cpuid(0xd, 7, 1024, 1664, 2, 0);
	add_cpuid(0x16, -1, 2000, 2000, 100, 7);
	add_cpuid(0x40000000, -1, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d);
	add_cpuid(0x40000001, -1, 0x1000009, 0, 0, 0);
	add_cpuid(0x80000000, -1, 0x80000008, 0, 0, 0);
	add_cpuid(0x80000001, -1, 0, 0, 1, 1u << 11 | 1u << 20 | 1u << 27 | 1u << 29);
	add_cpuid(0x80000008, -1, 0x302e, 0, 0, 0);
	rig->c->mmu.rsvd = 0xfffffull << 46 & (BIT(52) - 1);
	memset(rig->c->features, 0xff, sizeof(rig->c->features));
}

static inline int setup(void **state)
{
	(void)state;
	rig = xzalloc(sizeof(*rig));
	rig->c = aligned_alloc(64, ALIGN_UP(sizeof(struct tcg_cpu), 64));
	if (!rig->c)
		return -1;
	memset(rig->c, 0, sizeof(*rig->c));
	rig->c->arch_capabilities = CPUMODEL_ARCH_CAPABILITIES;
	rig->bad_page = NONE;
	rig->pending = -1;
	rig->apic_base = 0xfee00900;
	rig->c->irq_waiting = true;
	put_gdt();
	add_model();
	enter_long(0);
	return 0;
}

static inline int teardown(void **state)
{
	(void)state;
	free(rig->c);
	free(rig);
	return 0;
}

/* ---- doing ---- */

static inline struct x86_insn insn_of(u32 op, u32 opsize)
{
	return (struct x86_insn){.op = (u16)op, .len = 2, .opsize = (u8)opsize, .adsize = 8, .mode = 64};
}
/* Each: true: it raised nothing. What it raised is in c->exc. */
static inline bool does_far(const struct x86_insn *insn)
{
	rig->c->exc.pending = false;
	if (setjmp(rig->env))
		return false;
	sys_far(rig->c, insn);
	return true;
}
static inline bool far_op(u32 op, u32 opsize)
{
	struct x86_insn insn = insn_of(op, opsize);

	return does_far(&insn);
}
static inline bool does_system(const struct x86_insn *insn)
{
	rig->c->exc.pending = false;
	if (setjmp(rig->env))
		return false;
	sys_insn(rig->c, insn);
	return true;
}
static inline bool system_op(u32 op)
{
	struct x86_insn insn = insn_of(op, tcg_is_64(rig->c) ? 8 : 4);

	return does_system(&insn);
}
/* With operands in registers: reg and rm. */
static inline bool system_op_reg(u32 op, u32 opsize, u32 reg, u32 rm)
{
	struct x86_insn insn = insn_of(op, opsize);

	insn.mod = 3;
	insn.reg = (u8)reg;
	insn.rm = (u8)rm;
	return does_system(&insn);
}
/* With an operand in memory. */
static inline bool system_op_mem(u32 op, u32 opsize, u32 reg, s32 address)
{
	struct x86_insn insn = insn_of(op, opsize);

	insn.reg = (u8)reg;
	insn.mem.disp = address;
	insn.mem.seg = X86_DS;
	return does_system(&insn);
}
static inline bool does_load_seg(u32 seg, u32 selector)
{
	rig->c->exc.pending = false;
	if (setjmp(rig->env))
		return false;
	sys_load_seg(rig->c, seg, (u16)selector);
	return true;
}
/* An exception as tcg_raise makes it, delivered. */
static inline bool deliver(u8 vector, bool has_error, u32 error)
{
	rig->c->exc = (struct tcg_exception){.pending = true, .vector = vector, .has_error = has_error, .error = error};
	if (setjmp(rig->env))
		return false;
	sys_deliver(rig->c);
	return true;
}

#define assert_exception(v, err) \
	do { \
		assert_true(rig->c->exc.pending); \
		assert_int_equal(rig->c->exc.vector, v); \
		assert_int_equal(rig->c->exc.error, err); \
	} while (0)

#endif
