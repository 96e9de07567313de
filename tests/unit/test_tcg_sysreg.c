/* test_tcg_sysreg.c: control, debug and model-specific registers, CPUID, ports and other system instructions of the tcg accelerator. */
#include "tcg_sys_rig.h"

#define PE X86_CR0_PE
#define PG X86_CR0_PG
#define CD X86_CR0_CD
#define NW X86_CR0_NW

static bool write_cr(u32 n, u64 value)
{
	rig->c->gpr[X86_RBX] = value;
	return system_op_reg(OP_MOV_TO_CR, 8, n, X86_RBX);
}
static u64 read_cr(u32 n)
{
	assert_true(system_op_reg(OP_MOV_FROM_CR, 8, n, X86_RBX));
	return rig->c->gpr[X86_RBX];
}

static void cr0_takes_legal_values_only(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	static const struct {
		u64 value;
		bool ok;
	} t[] = {
		{PE | PG, true},	   {PG, false},		 {PE, false /* 64-bit code */}, {PE | PG | NW, false},
		{PE | PG | NW | CD, true}, {PE | PG | CD, true}, {PE | PG | BIT(32), false},	{PE | PG | BIT(6), true /* ignored */},
	};
	for (u32 i = 0; i < ARRAY_SIZE(t); i++) {
		enter_long(0);
		assert_int_equal(write_cr(0, t[i].value), t[i].ok);
		if (t[i].ok)
			assert_int_equal(c->cr0, (t[i].value & ~BIT(6)) | X86_CR0_ET);
		else
			assert_exception(X86_GP, 0);
	}
	enter_long(3);
	assert_false(write_cr(0, PE | PG));
	assert_exception(X86_GP, 0);
	enter_long(0);
	assert_false(write_cr(1, 0));
	assert_exception(X86_UD, 0);
	assert_false(write_cr(9, 0));
	assert_exception(X86_UD, 0);
}

static void paging_turns_long_mode_on_and_off(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	enter_32(0);
	c->efer = X86_EFER_LME;
	assert_false(write_cr(0, PE | PG)); /* without PAE */
	c->cr4 = X86_CR4_PAE;
	c->seg[X86_CS].attr |= X86_ATTR_L;
	assert_false(write_cr(0, PE | PG)); /* with CS.L */
	c->seg[X86_CS].attr &= (u16)~X86_ATTR_L;
	rig->flushes = 0;
	assert_true(write_cr(0, PE | PG));
	assert_int_equal(c->efer, X86_EFER_LME | X86_EFER_LMA);
	assert_int_equal(rig->flushes, 1);
	assert_false(write_cr(4, 0)); /* PAE has to stay */
	assert_true(write_cr(4, X86_CR4_PAE | X86_CR4_PCIDE));
	assert_false(write_cr(0, PE)); /* with PCIDE */
	c->cr4 = X86_CR4_PAE;
	assert_true(write_cr(0, PE));
	assert_int_equal(c->efer, X86_EFER_LME);
}

static void lmsw_sets_protection_and_cannot_clear_it(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	enter_real();
	c->gpr[X86_RBX] = 0xfff1;
	assert_true(system_op_reg(OP_LMSW, 2, 0, X86_RBX));
	assert_int_equal(c->cr0 & 0xf, 1);
	c->gpr[X86_RBX] = 0x8;
	assert_true(system_op_reg(OP_LMSW, 2, 0, X86_RBX));
	assert_int_equal(c->cr0 & 0xf, 9);
	assert_true(system_op(OP_CLTS));
	assert_int_equal(c->cr0 & 0xf, 1);
}

static void cr4_has_the_bits_of_the_model(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	const u64 pae = X86_CR4_PAE;
	const u64 good[] = {X86_CR4_TSD,   X86_CR4_DE,	    X86_CR4_PSE,	X86_CR4_MCE,  X86_CR4_PGE,
			    X86_CR4_PCE,   X86_CR4_OSFXSR,  X86_CR4_OSXMMEXCPT, X86_CR4_UMIP, X86_CR4_FSGSBASE,
			    X86_CR4_PCIDE, X86_CR4_OSXSAVE, X86_CR4_SMEP,	X86_CR4_SMAP};
	const u64 bad[] = {1,	    2,	     X86_CR4_LA57, X86_CR4_PKE, BIT(13), BIT(14), BIT(15),
			   BIT(19), BIT(23), BIT(24),	   BIT(28),	BIT(32), BIT(63)};
	for (u32 i = 0; i < ARRAY_SIZE(good); i++) {
		enter_long(0);
		assert_true(write_cr(4, pae | good[i]));
		assert_int_equal(c->cr4, pae | good[i]);
	}
	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		enter_long(0);
		assert_false(write_cr(4, pae | bad[i]));
		assert_int_equal(c->cr4, pae);
	}
	c->cr3 = 0x1001;
	assert_false(write_cr(4, pae | X86_CR4_PCIDE)); /* CR3 has a PCID */
	c->cr3 = 0x1000;
	rig->flushes = 0;
	assert_true(write_cr(4, pae | X86_CR4_PGE));
	assert_true(write_cr(4, pae | X86_CR4_PGE | X86_CR4_OSFXSR));
	assert_int_equal(rig->flushes, 1);
}

static void cr3_refuses_reserved_bits(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	assert_true(write_cr(3, BIT(45) | 0x1fff));
	assert_false(write_cr(3, BIT(46)));
	assert_false(write_cr(3, BIT(51)));
	assert_false(write_cr(3, BIT(52)));
	assert_false(write_cr(3, BIT(63) | 0x1000));
	c->cr4 |= X86_CR4_PCIDE;
	assert_true(write_cr(3, BIT(63) | 0x1005));
	assert_int_equal(rig->cr3_written, BIT(63) | 0x1005);
	assert_int_equal(read_cr(3), 0x1005);
	assert_false(write_cr(3, BIT(62)));
}

static void cr8_is_the_task_priority(void **state)
{
	(void)state;
	assert_true(write_cr(8, 9));
	assert_int_equal(rig->cr8, 9);
	assert_int_equal(rig->requests, 0);
	rig->pending = 0x80;
	assert_true(write_cr(8, 0));
	assert_int_equal(rig->requests, TCG_REQ_SHOOT);
	assert_false(write_cr(8, 16));
	rig->cr8 = 7;
	assert_int_equal(read_cr(8), 7);
}

static void debug_registers(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	c->gpr[X86_RBX] = 0xffffffff;
	assert_true(system_op_reg(OP_MOV_TO_DR, 8, 7, X86_RBX));
	assert_int_equal(c->dr7, 0xffff2fff);
	c->dr7 = 0x400;
	assert_true(system_op_reg(OP_MOV_TO_DR, 8, 4, X86_RBX)); /* another name of DR6 */
	assert_int_equal(c->dr6, 0xffffefff);
	c->gpr[X86_RBX] = BIT(32);
	assert_false(system_op_reg(OP_MOV_TO_DR, 8, 6, X86_RBX));
	assert_exception(X86_GP, 0);
	assert_true(system_op_reg(OP_MOV_TO_DR, 8, 3, X86_RBX));
	c->cr4 |= X86_CR4_DE;
	assert_false(system_op_reg(OP_MOV_FROM_DR, 8, 5, X86_RBX));
	assert_exception(X86_UD, 0);
	c->dr7 = 0x2400;
	assert_false(system_op_reg(OP_MOV_FROM_DR, 8, 0, X86_RBX));
	assert_exception(X86_DB, 0);
	assert_int_equal(c->exc.address, 0x2000);
	enter_long(3);
	assert_false(system_op_reg(OP_MOV_FROM_DR, 8, 0, X86_RBX));
	assert_exception(X86_GP, 0);
}

/* ---- MSRs ---- */

static void msrs_refuse_what_the_processor_refuses(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	static const struct {
		u32 msr;
		u64 value;
		bool ok;
	} t[] = {
		{0xc0000080, 0xd01, true},
		{0xc0000080, 0x1d01, false},
		{0xc0000080, 0xc01, false}, /* LME under paging */
		{0xc0000082, 0xffff800000000000, true},
		{0xc0000082, 0x800000000000, false},
		{0xc0000100, BIT(63), false},
		{0xc0000101, 0x7fffffffffff, true},
		{0xc0000102, 0xfffe000000000000, false},
		{0xc0000103, UINT32_MAX, true},
		{0xc0000103, BIT(32), false},
		{0x174, 0x10, true},
		{0x175, 0x1000000000000, false},
		{0x277, 0x0007040600070406, true},
		{0x277, 0x0007040600070402, false},
		{0x277, 0x0007040600070408, false},
		{0x277, 0x8007040600070406, false},
		{0x2ff, 0xc06, true},
		{0x2ff, 0xc07, false},
		{0x2ff, 0x1006, false},
		{0x48, 1, true},
		{0x48, 4, false},
		{0x49, 1, true},
		{0x49, 2, false},
		{0x10b, 1, false}, /* not shown */
		{0x8b, 0, true},
		{0x79, 0x1000, true},
		{0x3a, 5, false},
		{0x10a, 0, false},
		{0xfe, 0, false},
		{0x1a0, 1, true},
		{0x1a0, BIT(34), false},
		{0xda0, 0, true},
		{0xda0, 0x100, false},
		{0x17a, 0, true},
		{0x17a, 1, false},
		{0x140, 0, true},
		{0x140, 1, false},
		{0x6e0, 0x123456, true},
		{0x80b, 0, true},
		{0x80c, 0, false},
		{0x1b, 0xfee00d00, true},
		{0x4b564d01, 1, true},
		{0x4b564d02, 1, false},
		{0x12, 1, false}, /* the stub knows the new one only */
		{0x200, 0, false},
		{0xc0010015, 0, false}, /* AMD's */
		{0, 0, false},
		{UINT32_MAX, 0, false},
	};
	for (u32 i = 0; i < ARRAY_SIZE(t); i++) {
		enter_long(0);
		if (sys_wrmsr(c, t[i].msr, t[i].value) != t[i].ok)
			fail_msg("MSR %x = %lx", t[i].msr, t[i].value);
	}
}

static void msrs_that_linux_probes(void **state)
{
	struct tcg_cpu *c = rig->c;
	u64 v;

	(void)state;
	/* There: */
	static const struct {
		u32 msr;
		u64 value;
	} t[] = {{0x3a, 1},  {0x8b, 0xffffffff00000000}, {0xfe, 0x400},	  {0x179, 0},	  {0x17, 0},   {0xce, 0},
		 {0x140, 0}, {0x1b, 0xfee00900},	 {0x1a0, 0x1800}, {0x802, 0x802}, {0x10, 1000}};
	for (u32 i = 0; i < ARRAY_SIZE(t); i++) {
		assert_true(sys_rdmsr(c, t[i].msr, &v));
		assert_int_equal(v, t[i].value);
	}
	assert_true(sys_rdmsr(c, 0x10a, &v));
	assert_int_equal(v & 0x3, 3);
	/* Not there: */
	static const u32 missing[] = {0x34,  0x9b,	 0xc1,	     0xe7,	 0xe8,	     0x122,	 0x123,	     0x17b,	0x186,
				      0x198, 0x19c,	 0x1a2,	     0x1aa,	 0x1ad,	     0x1b0,	 0x1c9,	     0x1fc,	0x200,
				      0x250, 0x309,	 0x345,	     0x38d,	 0x400,	     0x480,	 0x4e0,	     0x560,	0x570,
				      0x600, 0x606,	 0x611,	     0x64f,	 0x6a0,	     0x770,	 0x803,	     0x981,	0xc80,
				      0xd90, 0xc0000104, 0xc0010010, 0xc0010015, 0xc001001f, 0xc0010140, 0xc0011029, 0x4b564d08};
	for (u32 i = 0; i < ARRAY_SIZE(missing); i++)
		assert_false(sys_rdmsr(c, missing[i], &v));
}

static void rdmsr_and_wrmsr_are_for_ring_0(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	c->gpr[X86_RCX] = 0xffffffffc0000102;
	c->gpr[X86_RAX] = 0xaaaaaaaa12345678;
	c->gpr[X86_RDX] = 0xbbbbbbbbffff8000;
	assert_true(system_op(OP_WRMSR));
	assert_int_equal(c->kernel_gs_base, 0xffff800012345678);
	assert_true(system_op(OP_RDMSR));
	assert_int_equal(c->gpr[X86_RAX], 0x12345678);
	assert_int_equal(c->gpr[X86_RDX], 0xffff8000);
	assert_true(system_op(OP_SWAPGS));
	assert_int_equal(c->seg[X86_GS].base, 0xffff800012345678);
	assert_int_equal(c->kernel_gs_base, 0);
	enter_long(3);
	assert_false(system_op(OP_RDMSR));
	assert_exception(X86_GP, 0);
	assert_false(system_op(OP_SWAPGS));
	assert_exception(X86_GP, 0);
}

static void writes_of_the_tsc_move_its_offset(void **state)
{
	struct tcg_cpu *c = rig->c;
	u64 v;

	(void)state;
	assert_true(sys_wrmsr(c, 0x10, 5000));
	assert_int_equal(c->tsc_offset, 4000);
	assert_true(sys_rdmsr(c, 0x3b, &v));
	assert_int_equal(v, 4000);
	assert_true(sys_wrmsr(c, 0x3b, 0));
	assert_int_equal(c->tsc_offset, 0);
	assert_true(sys_rdmsr(c, 0x10, &v));
	assert_int_equal(v, 1000);
}

static void efer_nxe_flushes(void **state)
{
	(void)state;
	rig->flushes = 0;
	assert_true(sys_wrmsr(rig->c, 0xc0000080, 0x501));
	assert_int_equal(rig->flushes, 1);
	assert_int_equal(rig->c->efer, 0x501);
	assert_true(sys_wrmsr(rig->c, 0xc0000080, 0x901)); /* LMA is not written */
	assert_int_equal(rig->c->efer, 0xd01);
}

/* ---- XCR0, CPUID ---- */

static void xsetbv_knows_what_depends_on_what(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	static const struct {
		u64 value;
		bool ok;
	} t[] = {{1, true},	{3, true},     {7, true},  {0xe7, true},  {0, false},	  {2, false},	    {5, false},
		 {0x27, false}, {0xe3, false}, {8, false}, {0x1f, false}, {0x207, false}, {0x60007, false}, {BIT(62) | 7, false}};
	assert_false(system_op(OP_XSETBV));
	assert_exception(X86_UD, 0);
	c->cr4 |= X86_CR4_OSXSAVE;
	for (u32 i = 0; i < ARRAY_SIZE(t); i++) {
		c->xcr0 = 0;
		c->gpr[X86_RAX] = (u32)t[i].value;
		c->gpr[X86_RDX] = t[i].value >> 32;
		assert_int_equal(system_op(OP_XSETBV), t[i].ok);
		assert_int_equal(c->xcr0, t[i].ok ? t[i].value : 0);
	}
	c->xcr0 = 7;
	assert_true(system_op(OP_XGETBV));
	assert_int_equal(c->gpr[X86_RAX], 7);
	c->gpr[X86_RCX] = 1;
	st_le64(c->fpu + 512, 0x85);
	assert_true(system_op(OP_XGETBV));
	assert_int_equal(c->gpr[X86_RAX], 5);
	assert_false(system_op(OP_XSETBV));
	c->gpr[X86_RCX] = 2;
	assert_false(system_op(OP_XGETBV));
	assert_exception(X86_GP, 0);
}

static void cpuid_follows_the_state(void **state)
{
	struct tcg_cpu *c = rig->c;
	u32 out[4];

	(void)state;
	sys_cpuid(c, 1, 0, out);
	assert_int_equal(out[2] >> 27 & 1, 0);
	assert_int_equal(out[3] >> 9 & 1, 1);
	c->cr4 |= X86_CR4_OSXSAVE;
	rig->apic_base = 0xfee00100;
	sys_cpuid(c, 1, 7, out);
	assert_int_equal(out[2] >> 27 & 1, 1);
	assert_int_equal(out[3] >> 9 & 1, 0);
	static const struct {
		u64 xcr0;
		u32 standard, compact;
	} t[] = {{1, 576, 576}, {3, 576, 576}, {7, 832, 832}, {0xe7, 2688, 2496}};
	for (u32 i = 0; i < ARRAY_SIZE(t); i++) {
		c->xcr0 = t[i].xcr0;
		sys_cpuid(c, 0xd, 0, out);
		assert_int_equal(out[1], t[i].standard);
		sys_cpuid(c, 0xd, 1, out);
		assert_int_equal(out[1], t[i].compact);
	}
}

static void cpuid_beyond_its_ranges(void **state)
{
	struct tcg_cpu *c = rig->c;
	u32 out[4];

	(void)state;
	static const u32 beyond[] = {0x17, 0x3fffffff, 0x40000002, 0x40000100, 0x50000000, 0x7fffffff, 0x80000009, 0xffffffff};
	for (u32 i = 0; i < ARRAY_SIZE(beyond); i++) {
		sys_cpuid(c, beyond[i], 0, out);
		assert_int_equal(out[0], 2000);
		assert_int_equal(out[3], 7);
	}
	sys_cpuid(c, 0x15, 0, out);
	assert_int_equal(out[0] | out[1] | out[2] | out[3], 0);
	sys_cpuid(c, 0x80000003, 0, out);
	assert_int_equal(out[0] | out[1] | out[2] | out[3], 0);
	sys_cpuid(c, 0xb, 9, out);
	assert_int_equal(out[0] | out[1], 0);
	assert_int_equal(out[2], 9);
	assert_int_equal(out[3], 5);
	sys_cpuid(c, 0x40000001, 3, out);
	assert_int_equal(out[0], 0x1000009);
}

/* ---- ports ---- */

static void ports_need_iopl_or_the_bitmap(void **state)
{
	struct tcg_cpu *c = rig->c;
	struct x86_insn in = insn_of(OP_IN, 4);

	(void)state;
	in.opcode = 0xed;
	c->gpr[X86_RDX] = 0x3f7;
	c->gpr[X86_RAX] = UINT64_MAX;
	assert_true(does_system(&in));
	assert_int_equal(c->gpr[X86_RAX], 0x12345678);
	enter_long(3);
	assert_false(does_system(&in)); /* the TSS has no bitmap */
	assert_exception(X86_GP, 0);
	put(TSS + 102, 104, 2);
	c->seg[X86_TR].limit = 104 + 0x80;
	assert_true(does_system(&in));
	put(TSS + 104 + 0x7f, 4, 1); /* 0x3fa: one of the four */
	assert_false(does_system(&in));
	put(TSS + 104 + 0x7f, 8, 1);
	assert_true(does_system(&in));
	c->seg[X86_TR].limit = 104 + 0x7e; /* the second byte is beyond it */
	assert_false(does_system(&in));
	in.opcode = 0xe4; /* IN AL, imm8 */
	in.imm = 0x70;
	c->gpr[X86_RAX] = 0x1111;
	assert_true(does_system(&in));
	assert_int_equal(rig->pio_port, 0x70);
	assert_int_equal(rig->pio_size, 1);
	assert_int_equal(c->gpr[X86_RAX], 0x1178);
	c->rflags |= X86_FLAG_IOPL;
	in.opcode = 0xed;
	assert_true(does_system(&in));
}

/* ---- descriptor tables, selectors ---- */

static void tables_are_loaded_and_stored(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	put(0x9000, 0x1ff, 2);
	put(0x9002, 0xffff800000abcdef, 8);
	assert_true(system_op_mem(OP_LIDT, 8, 0, 0x9000));
	assert_int_equal(c->idt.base, 0xffff800000abcdef);
	assert_int_equal(c->idt.limit, 0x1ff);
	assert_true(system_op_mem(OP_SIDT, 8, 0, 0x9100));
	assert_memory_equal(rig->ram + 0x9000, rig->ram + 0x9100, 10);
	put(0x9002, 0x800000000000, 8);
	assert_false(system_op_mem(OP_LGDT, 8, 0, 0x9000));
	assert_exception(X86_GP, 0);
	enter_long(3);
	assert_true(system_op_mem(OP_SGDT, 8, 0, 0x9100));
	c->cr4 |= X86_CR4_UMIP;
	static const u16 hidden[] = {OP_SGDT, OP_SIDT, OP_SLDT, OP_STR, OP_SMSW};
	for (u32 i = 0; i < ARRAY_SIZE(hidden); i++) {
		assert_false(system_op_mem(hidden[i], 8, 0, 0x9100));
		assert_exception(X86_GP, 0);
	}
	enter_real();
	put(0x9002, 0x12345678, 4);
	assert_true(system_op_mem(OP_LGDT, 2, 0, 0x9000));
	assert_int_equal(c->gdt.base, 0x345678);
	assert_false(system_op_mem(OP_STR, 2, 0, 0x9100));
	assert_exception(X86_UD, 0);
}

static void ltr_makes_the_tss_busy(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	put(GDT + TSSD + 8, 0xffff8000, 8);
	c->gpr[X86_RBX] = TSSD;
	assert_true(system_op_reg(OP_LTR, 2, 0, X86_RBX));
	assert_int_equal(c->seg[X86_TR].base, 0xffff800000000000 | TSS);
	assert_int_equal(c->seg[X86_TR].attr, 0x8b);
	assert_int_equal(get(GDT + TSSD + 5, 1), 0x8b);
	assert_false(system_op_reg(OP_LTR, 2, 0, X86_RBX)); /* busy now */
	assert_exception(X86_GP, TSSD);
	c->gpr[X86_RBX] = 0;
	assert_false(system_op_reg(OP_LTR, 2, 0, X86_RBX));
	assert_exception(X86_GP, 0);
	put(GDT + LDTD + 8, 0, 8);
	c->gpr[X86_RBX] = LDTD;
	assert_true(system_op_reg(OP_LLDT, 2, 0, X86_RBX));
	assert_int_equal(c->seg[X86_LDTR].base, LDT);
	put_desc(LDT, 0x10, 0x1000, 0xff, A_DATA);
	assert_true(does_load_seg(X86_ES, 0x14));
	assert_int_equal(c->seg[X86_ES].base, 0x1000);
	assert_false(does_load_seg(X86_ES, 0x1c));
	assert_exception(X86_GP, 0x1c);
	c->gpr[X86_RBX] = KDATA;
	assert_false(system_op_reg(OP_LLDT, 2, 0, X86_RBX));
	assert_exception(X86_GP, KDATA);
}

static void selectors_are_examined(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	static const struct {
		u32 cpl;
		u16 selector;
		bool lar, lsl, verr, verw;
	} t[] = {
		{0, 0, false, false, false, false},	  {0, KDATA, true, true, true, true},
		{3, KDATA, false, false, false, false},	  {0, KDATA | 3, false, false, false, false},
		{3, UDATA | 3, true, true, true, true},	  {0, READONLY, true, true, true, false},
		{0, EXECONLY, true, true, false, false},  {3, CONFORMING, true, true, true, false},
		{0, TSSD, true, true, false, false},	  {0, CALLGATE, true, false, false, false},
		{0, GDT_END, false, false, false, false}, {0, ABSENT_DATA, true, true, true, true},
	};
	put(GDT + CALLGATE, (u64)0x8c << 40, 8);
	for (u32 i = 0; i < ARRAY_SIZE(t); i++) {
		const u16 ops[] = {OP_LAR, OP_LSL, OP_VERR, OP_VERW};
		const bool zf[] = {t[i].lar, t[i].lsl, t[i].verr, t[i].verw};

		enter_long(t[i].cpl);
		for (u32 k = 0; k < 4; k++) {
			c->gpr[X86_RBX] = t[i].selector;
			c->gpr[X86_RCX] = 0x55;
			assert_true(system_op_reg(ops[k], 4, X86_RCX, X86_RBX));
			if (!!(c->rflags & X86_FLAG_ZF) != zf[k])
				fail_msg("selector %x at %u, instruction %u", t[i].selector, t[i].cpl, k);
			if (!zf[k])
				assert_int_equal(c->gpr[X86_RCX], 0x55);
		}
	}
	enter_long(0);
	c->gpr[X86_RBX] = TSSD;
	assert_true(system_op_reg(OP_LSL, 4, X86_RCX, X86_RBX));
	assert_int_equal(c->gpr[X86_RCX], 0x67);
	c->gpr[X86_RBX] = KDATA;
	assert_true(system_op_reg(OP_LSL, 4, X86_RCX, X86_RBX));
	assert_int_equal(c->gpr[X86_RCX], UINT32_MAX);
	assert_true(system_op_reg(OP_LAR, 2, X86_RCX, X86_RBX));
	assert_int_equal(c->gpr[X86_RCX], 0xffff9300);
	enter_real();
	assert_false(system_op_reg(OP_LAR, 2, X86_RCX, X86_RBX));
	assert_exception(X86_UD, 0);
}

/* ---- the rest ---- */

static void privileged_instructions_are_for_ring_0(void **state)
{
	(void)state;
	static const u16 ops[] = {OP_HLT,   OP_CLTS, OP_INVD,	 OP_WBINVD, OP_INVLPG, OP_LGDT, OP_LIDT, OP_RDMSR,
				  OP_WRMSR, OP_LMSW, OP_INVPCID, OP_CLI,    OP_STI,    OP_LTR,	OP_LLDT, OP_RDPMC};
	static const u16 undefined[] = {OP_MONITOR, OP_MWAIT, OP_RSM, OP_UNSUPPORTED, OP_UD, OP_NR, OP_STAC, OP_CLAC};

	enter_long(3);
	for (u32 i = 0; i < ARRAY_SIZE(ops); i++) {
		assert_false(system_op_mem(ops[i], 8, 0, 0x9000));
		assert_exception(X86_GP, 0);
	}
	for (u32 i = 0; i < ARRAY_SIZE(undefined); i++) {
		assert_false(system_op(undefined[i]));
		assert_exception(X86_UD, 0);
	}
}

static void sti_delays_and_hlt_waits(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	assert_true(system_op(OP_STI)); /* IF is set already: no shadow */
	assert_int_equal(c->shadow, 0);
	assert_true(system_op(OP_CLI));
	assert_int_equal(rig->requests, 0);
	assert_true(system_op(OP_STI));
	assert_int_equal(c->shadow, 1);
	assert_int_equal(rig->requests, TCG_REQ_SHOOT);
	assert_true(system_op(OP_HLT));
	assert_true(c->halted);
	assert_int_equal(c->rip, 0x10002);
}

static void the_tsc_can_be_hidden(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	enter_long(3);
	c->tsc_aux = 0x42;
	c->tsc_offset = BIT(40);
	assert_true(system_op(OP_RDTSCP));
	assert_int_equal(c->gpr[X86_RAX], 1000);
	assert_int_equal(c->gpr[X86_RDX], 0x100);
	assert_int_equal(c->gpr[X86_RCX], 0x42);
	assert_true(system_op_reg(OP_RDPID, 8, 7, X86_RSI));
	assert_int_equal(c->gpr[X86_RSI], 0x42);
	c->cr4 |= X86_CR4_TSD;
	assert_false(system_op(OP_RDTSC));
	assert_exception(X86_GP, 0);
	enter_long(0);
	c->cr4 |= X86_CR4_TSD;
	assert_true(system_op(OP_RDTSC));
}

static void fs_and_gs_bases_need_cr4(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	enter_long(3);
	assert_false(system_op_reg(OP_RDFSBASE, 8, 0, X86_RBX));
	assert_exception(X86_UD, 0);
	c->cr4 |= X86_CR4_FSGSBASE;
	c->gpr[X86_RBX] = 0x7fff12345678;
	assert_true(system_op_reg(OP_WRGSBASE, 8, 0, X86_RBX));
	assert_true(system_op_reg(OP_RDGSBASE, 4, 0, X86_RSI));
	assert_int_equal(c->gpr[X86_RSI], 0x12345678);
	assert_true(system_op_reg(OP_WRFSBASE, 4, 0, X86_RBX));
	assert_int_equal(c->seg[X86_FS].base, 0x12345678);
	c->gpr[X86_RBX] = 0x800000000000;
	assert_false(system_op_reg(OP_WRFSBASE, 8, 0, X86_RBX));
	assert_exception(X86_GP, 0);
}

static void invpcid_and_invlpg(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	static const struct {
		u64 type, pcid, address;
		bool pcide, ok;
	} t[] = {
		{0, 5, 0x1000, true, true},	 {0, 5, 0x1000, false, false}, {0, 0, 0x1000, false, true},
		{0, 0x1000, 0, true, false},	 {0, 1, BIT(47), true, false}, {1, 0xfff, BIT(47), true, true},
		{2, UINT64_MAX, 0, false, true}, {3, 0, 0, true, true},	       {4, 0, 0, true, false},
	};
	for (u32 i = 0; i < ARRAY_SIZE(t); i++) {
		enter_long(0);
		c->cr4 |= t[i].pcide ? X86_CR4_PCIDE : 0;
		c->gpr[X86_RBX] = t[i].type;
		put(0x9000, t[i].pcid, 8);
		put(0x9008, t[i].address, 8);
		rig->invpcid_type = NONE;
		assert_int_equal(system_op_mem(OP_INVPCID, 8, X86_RBX, 0x9000), t[i].ok);
		assert_int_equal(rig->invpcid_type, t[i].ok ? t[i].type : NONE);
	}
	c->seg[X86_DS].base = 0x5000; /* has none in 64-bit mode */
	assert_true(system_op_mem(OP_INVLPG, 8, 7, 0x1234));
	assert_int_equal(rig->invlpg_va, 0x1234);
}

static void bound_and_arpl(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	enter_32(0);
	put(0x9000, (u32)-5, 4);
	put(0x9004, 10, 4);
	c->gpr[X86_RBX] = 10;
	assert_true(system_op_mem(OP_BOUND, 4, X86_RBX, 0x9000));
	c->gpr[X86_RBX] = (u32)-6;
	assert_false(system_op_mem(OP_BOUND, 4, X86_RBX, 0x9000));
	assert_exception(X86_BR, 0);
	c->gpr[X86_RBX] = 3;
	c->gpr[X86_RSI] = 0x1234508;
	assert_true(system_op_reg(OP_ARPL, 2, X86_RBX, X86_RSI));
	assert_int_equal(c->gpr[X86_RSI], 0x123450b);
	assert_int_equal(c->rflags & X86_FLAG_ZF, X86_FLAG_ZF);
	assert_true(system_op_reg(OP_ARPL, 2, X86_RBX, X86_RSI));
	assert_int_equal(c->rflags & X86_FLAG_ZF, 0);
}

static void random_numbers_and_hypercalls(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	c->rflags |= X86_FLAGS_ARITH;
	assert_true(system_op_reg(OP_RDRAND, 4, 6, X86_RSI));
	assert_int_equal(c->rflags & X86_FLAGS_ARITH & ~X86_FLAG_CF, 0);
	assert_int_equal(c->gpr[X86_RSI] >> 32, 0);
	assert_true(system_op(OP_VMCALL));
	assert_int_equal(c->gpr[X86_RAX], -1000ll);
	enter_long(3);
	assert_true(system_op(OP_VMCALL));
	assert_int_equal(c->gpr[X86_RAX], -1ll);
	c->features[FEAT_RDRAND / 64] = 0;
	struct x86_insn insn = insn_of(OP_RDRAND, 8);
	insn.feat = FEAT_RDRAND;
	assert_false(does_system(&insn));
	assert_exception(X86_UD, 0);
}

static void init_and_sipi_start_a_processor(void **state)
{
	struct tcg_cpu *c = rig->c;

	(void)state;
	c->cr0 |= CD | NW;
	c->star = 0x1234;
	c->halted = c->nmi_masked = true;
	sys_init_reset(c);
	assert_int_equal(c->cr0, CD | NW | X86_CR0_ET);
	assert_int_equal(c->rip, 0xfff0);
	assert_int_equal(c->seg[X86_CS].base, 0xffff0000);
	assert_int_equal(c->gpr[X86_RDX], 0x806f8);
	assert_int_equal(c->efer, 0);
	assert_int_equal(c->star, 0x1234);
	assert_int_equal(c->dr6, 0xffff0ff0);
	assert_false(c->nmi_masked);
	assert_int_equal(c->mode, 0);
	sys_sipi(c, 0x9a);
	assert_int_equal(c->seg[X86_CS].selector, 0x9a00);
	assert_int_equal(c->seg[X86_CS].base, 0x9a000);
	assert_int_equal(c->rip, 0);
	assert_false(c->halted);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(cr0_takes_legal_values_only, setup, teardown),
		cmocka_unit_test_setup_teardown(paging_turns_long_mode_on_and_off, setup, teardown),
		cmocka_unit_test_setup_teardown(lmsw_sets_protection_and_cannot_clear_it, setup, teardown),
		cmocka_unit_test_setup_teardown(cr4_has_the_bits_of_the_model, setup, teardown),
		cmocka_unit_test_setup_teardown(cr3_refuses_reserved_bits, setup, teardown),
		cmocka_unit_test_setup_teardown(cr8_is_the_task_priority, setup, teardown),
		cmocka_unit_test_setup_teardown(debug_registers, setup, teardown),
		cmocka_unit_test_setup_teardown(msrs_refuse_what_the_processor_refuses, setup, teardown),
		cmocka_unit_test_setup_teardown(msrs_that_linux_probes, setup, teardown),
		cmocka_unit_test_setup_teardown(rdmsr_and_wrmsr_are_for_ring_0, setup, teardown),
		cmocka_unit_test_setup_teardown(writes_of_the_tsc_move_its_offset, setup, teardown),
		cmocka_unit_test_setup_teardown(efer_nxe_flushes, setup, teardown),
		cmocka_unit_test_setup_teardown(xsetbv_knows_what_depends_on_what, setup, teardown),
		cmocka_unit_test_setup_teardown(cpuid_follows_the_state, setup, teardown),
		cmocka_unit_test_setup_teardown(cpuid_beyond_its_ranges, setup, teardown),
		cmocka_unit_test_setup_teardown(ports_need_iopl_or_the_bitmap, setup, teardown),
		cmocka_unit_test_setup_teardown(tables_are_loaded_and_stored, setup, teardown),
		cmocka_unit_test_setup_teardown(ltr_makes_the_tss_busy, setup, teardown),
		cmocka_unit_test_setup_teardown(selectors_are_examined, setup, teardown),
		cmocka_unit_test_setup_teardown(privileged_instructions_are_for_ring_0, setup, teardown),
		cmocka_unit_test_setup_teardown(sti_delays_and_hlt_waits, setup, teardown),
		cmocka_unit_test_setup_teardown(the_tsc_can_be_hidden, setup, teardown),
		cmocka_unit_test_setup_teardown(fs_and_gs_bases_need_cr4, setup, teardown),
		cmocka_unit_test_setup_teardown(invpcid_and_invlpg, setup, teardown),
		cmocka_unit_test_setup_teardown(bound_and_arpl, setup, teardown),
		cmocka_unit_test_setup_teardown(random_numbers_and_hypercalls, setup, teardown),
		cmocka_unit_test_setup_teardown(init_and_sipi_start_a_processor, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
