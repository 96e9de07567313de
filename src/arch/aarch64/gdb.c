/*
 * gdb.c: the registers of an arm64 vCPU as gdb numbers them: aarch64's core and FPU, and system registers that a kernel's debugging takes
 * (GDB manual, G.5.1). See vmm/gdb_arch.h.
 */
#include <stdio.h>
#include <string.h>

#include "arch/aarch64/cpu.h"
#include "vmm/gdb_arch.h"

enum { REG_SP = 31, REG_PC, REG_CPSR, REG_V0, REG_FPSR = REG_V0 + ARM_NR_VREGS, REG_FPCR, REG_SYSTEM };

#define PSTATE_SP   1u /* the stack pointer in use is the level's own */
#define PSTATE_MODE 0x1full

static const struct system_reg {
	const char *name;
	u64 id; /* 0: SPSR_EL1, ELR_EL1, which have places of their own */
} system_regs[] = {
	{"elr_el1", 0},
	{"spsr_el1", 0},
	{"esr_el1", ARM_SYSTEM_REG(3, 0, 5, 2, 0)},
	{"far_el1", ARM_SYSTEM_REG(3, 0, 6, 0, 0)},
	{"vbar_el1", ARM_VBAR},
	{"sctlr_el1", ARM_SCTLR},
	{"tcr_el1", ARM_TCR},
	{"ttbr0_el1", ARM_TTBR0},
	{"ttbr1_el1", ARM_TTBR1},
	{"tpidr_el1", ARM_SYSTEM_REG(3, 0, 13, 0, 4)},
};

/* BRK with a number that no compiler, kernel or other debugger uses; little-endian. */
const u8 gdb_arch_break[DEBUG_BREAK_MAX] = {
	(ARM_BREAK & 7) << 5,
	ARM_BREAK >> 3 & 0xff,
	0x20 | ARM_BREAK >> 11,
	0xd4,
};
const u32 gdb_arch_break_len = 4;

static void put_text(struct buf *out, const char *text)
{
	buf_put(out, text, strlen(text));
}

static void put_reg(struct buf *out, const char *name, u32 n, const char *type)
{
	char line[128];

	snprintf(line, sizeof(line), "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\"/>\n", name, gdb_arch_reg_size(n) * 8, type);
	put_text(out, line);
}

static void put_regs(struct buf *out, char letter, u32 first, u32 nr, const char *type)
{
	char name[8];

	for (u32 i = 0; i < nr; i++) {
		snprintf(name, sizeof(name), "%c%u", letter, i);
		put_reg(out, name, first + i, type);
	}
}

void gdb_arch_describe(struct buf *out)
{
	put_text(out, "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n"
		      "<target version=\"1.0\"><architecture>aarch64</architecture>\n<feature name=\"org.gnu.gdb.aarch64.core\">\n");
	put_regs(out, 'x', 0, ARM_NR_GPRS, "int64");
	put_reg(out, "sp", REG_SP, "data_ptr");
	put_reg(out, "pc", REG_PC, "code_ptr");
	put_reg(out, "cpsr", REG_CPSR, "int32");
	put_text(out,
		 "</feature>\n<feature name=\"org.gnu.gdb.aarch64.fpu\">\n"
		 "<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/><vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>"
		 "<vector id=\"v16i8\" type=\"uint8\" count=\"16\"/><vector id=\"v2i64\" type=\"uint64\" count=\"2\"/>"
		 "<union id=\"vec128\"><field name=\"d\" type=\"v2d\"/><field name=\"s\" type=\"v4f\"/><field name=\"b\" type=\"v16i8\"/>"
		 "<field name=\"u\" type=\"v2i64\"/><field name=\"q\" type=\"uint128\"/></union>\n");
	put_regs(out, 'v', REG_V0, ARM_NR_VREGS, "vec128");
	put_reg(out, "fpsr", REG_FPSR, "int");
	put_reg(out, "fpcr", REG_FPCR, "int");
	put_text(out, "</feature>\n<feature name=\"org.husk.aarch64.system\">\n");
	for (u32 i = 0; i < ARRAY_SIZE(system_regs); i++)
		put_reg(out, system_regs[i].name, REG_SYSTEM + i, "int64");
	put_text(out, "</feature></target>\n");
}

u32 gdb_arch_nr_regs(void)
{
	return REG_SYSTEM + ARRAY_SIZE(system_regs);
}

u32 gdb_arch_reg_size(u32 n)
{
	if (n >= REG_V0 && n < REG_FPSR)
		return ARM_VREG_SIZE;
	return n == REG_CPSR || n == REG_FPSR || n == REG_FPCR ? 4 : 8;
}

/* Where V register n is: alone, or the lower end of Z register n. */
static u32 vreg_at(const struct cpu_state *c, u32 n)
{
	return n * (c->nr_v / ARM_NR_VREGS);
}

static u64 system_value(const struct cpu_state *c, u32 i)
{
	const u64 *value = arm_reg_find(c->regs, c->nr_regs, system_regs[i].id);

	if (!system_regs[i].id)
		return i ? c->spsr[0] : c->elr_el1;
	return value ? *value : 0;
}

static u64 get_number(const struct cpu_state *c, u32 n)
{
	if (n < ARM_NR_GPRS)
		return c->x[n];
	switch (n) {
	case REG_SP:
		return c->pstate & PSTATE_SP ? c->sp_el1 : c->sp;
	case REG_PC:
		return c->pc;
	case REG_CPSR:
		return c->pstate;
	case REG_FPSR:
		return c->fpsr;
	case REG_FPCR:
		return c->fpcr;
	default:
		return system_value(c, n - REG_SYSTEM);
	}
}

void gdb_arch_reg_get(const struct cpu_state *c, u32 n, u8 *value)
{
	u64 number;

	if (n >= REG_V0 && n < REG_FPSR) {
		memcpy(value, c->v + vreg_at(c, n - REG_V0), ARM_VREG_SIZE);
		return;
	}
	number = get_number(c, n);
	memcpy(value, &number, gdb_arch_reg_size(n));
}

static bool set_number(struct cpu_state *c, u32 n, u64 number)
{
	if (n < ARM_NR_GPRS) {
		c->x[n] = number;
		return true;
	}
	switch (n) {
	case REG_SP:
		*(c->pstate & PSTATE_SP ? &c->sp_el1 : &c->sp) = number;
		return true;
	case REG_PC:
		c->pc = number;
		return true;
	case REG_CPSR: /* the level stays */
		if ((number ^ c->pstate) & PSTATE_MODE)
			return false;
		c->pstate = number;
		return true;
	case REG_FPSR:
		c->fpsr = (u32)number;
		return true;
	case REG_FPCR:
		c->fpcr = (u32)number;
		return true;
	default:
		return number == get_number(c, n); /* system registers are to be looked at */
	}
}

bool gdb_arch_reg_set(struct cpu_state *c, u32 n, const u8 *value)
{
	u64 number = 0;

	if (n >= REG_V0 && n < REG_FPSR) {
		memcpy(c->v + vreg_at(c, n - REG_V0), value, ARM_VREG_SIZE);
		return true;
	}
	memcpy(&number, value, gdb_arch_reg_size(n));
	return set_number(c, n, number);
}

const char *gdb_arch_activity(const struct cpu_state *c)
{
	if (c->powered_off)
		return "powered off";
	return c->pstate & 0xc ? "kernel mode" : "user mode";
}
