/*
 * gdb.c: the registers of an x86-64 vCPU as gdb numbers them: i386:x86-64's core and SSE, segment bases, and the control registers that a
 * kernel's debugging takes (GDB manual, G.5.16). See vmm/gdb_arch.h.
 */
#include <stdio.h>
#include <string.h>

#include "arch/x86_64/cpu.h"
#include "vmm/gdb_arch.h"

/* The XSAVE area (SDM 1 §10.5.1, §13.4) */
#define FX_FCW		0
#define FX_FSW		2
#define FX_FTW		4 /* a bit for each register that is not empty */
#define FX_FOP		6
#define FX_FIP		8
#define FX_FCS		12
#define FX_FDP		16
#define FX_FDS		20
#define FX_MXCSR	24
#define FX_ST		32
#define FX_XMM		160
#define XSTATE_BV	512
#define XSTATE_X87	1
#define XSTATE_SSE	2
#define FCW_INIT	0x37f
#define MXCSR_INIT	0x1f80
#define MXCSR_MASK	0xffffu
#define MSR_KERNEL_GS	0xc0000102u
#define RFLAGS_WRITABLE 0x3f7fd7ull
#define RFLAGS_ONE	2ull

enum kind { GPR, RIP, RFLAGS, SELECTOR, ST, X87, XMM, MXCSR, BASE, KERNEL_GS, CR };
enum { CR0, CR2, CR3, CR4, EFER };
enum { CONTROL, STATUS, TAGS, CODE_SEG, CODE_OFFSET, DATA_SEG, DATA_OFFSET, OPCODE };

static const struct reg {
	const char *name, *type;
	u8 size; /* bytes */
	u8 kind, index;
} regs[] = {
	{"rax", "int64", 8, GPR, X86_RAX},
	{"rbx", "int64", 8, GPR, X86_RBX},
	{"rcx", "int64", 8, GPR, X86_RCX},
	{"rdx", "int64", 8, GPR, X86_RDX},
	{"rsi", "int64", 8, GPR, X86_RSI},
	{"rdi", "int64", 8, GPR, X86_RDI},
	{"rbp", "data_ptr", 8, GPR, X86_RBP},
	{"rsp", "data_ptr", 8, GPR, X86_RSP},
	{"r8", "int64", 8, GPR, 8},
	{"r9", "int64", 8, GPR, 9},
	{"r10", "int64", 8, GPR, 10},
	{"r11", "int64", 8, GPR, 11},
	{"r12", "int64", 8, GPR, 12},
	{"r13", "int64", 8, GPR, 13},
	{"r14", "int64", 8, GPR, 14},
	{"r15", "int64", 8, GPR, 15},
	{"rip", "code_ptr", 8, RIP, 0},
	{"eflags", "i386_eflags", 4, RFLAGS, 0},
	{"cs", "int32", 4, SELECTOR, X86_CS},
	{"ss", "int32", 4, SELECTOR, X86_SS},
	{"ds", "int32", 4, SELECTOR, X86_DS},
	{"es", "int32", 4, SELECTOR, X86_ES},
	{"fs", "int32", 4, SELECTOR, X86_FS},
	{"gs", "int32", 4, SELECTOR, X86_GS},
	{"st0", "i387_ext", 10, ST, 0},
	{"st1", "i387_ext", 10, ST, 1},
	{"st2", "i387_ext", 10, ST, 2},
	{"st3", "i387_ext", 10, ST, 3},
	{"st4", "i387_ext", 10, ST, 4},
	{"st5", "i387_ext", 10, ST, 5},
	{"st6", "i387_ext", 10, ST, 6},
	{"st7", "i387_ext", 10, ST, 7},
	{"fctrl", "int", 4, X87, CONTROL},
	{"fstat", "int", 4, X87, STATUS},
	{"ftag", "int", 4, X87, TAGS},
	{"fiseg", "int", 4, X87, CODE_SEG},
	{"fioff", "int", 4, X87, CODE_OFFSET},
	{"foseg", "int", 4, X87, DATA_SEG},
	{"fooff", "int", 4, X87, DATA_OFFSET},
	{"fop", "int", 4, X87, OPCODE},
	{"xmm0", "vec128", 16, XMM, 0},
	{"xmm1", "vec128", 16, XMM, 1},
	{"xmm2", "vec128", 16, XMM, 2},
	{"xmm3", "vec128", 16, XMM, 3},
	{"xmm4", "vec128", 16, XMM, 4},
	{"xmm5", "vec128", 16, XMM, 5},
	{"xmm6", "vec128", 16, XMM, 6},
	{"xmm7", "vec128", 16, XMM, 7},
	{"xmm8", "vec128", 16, XMM, 8},
	{"xmm9", "vec128", 16, XMM, 9},
	{"xmm10", "vec128", 16, XMM, 10},
	{"xmm11", "vec128", 16, XMM, 11},
	{"xmm12", "vec128", 16, XMM, 12},
	{"xmm13", "vec128", 16, XMM, 13},
	{"xmm14", "vec128", 16, XMM, 14},
	{"xmm15", "vec128", 16, XMM, 15},
	{"mxcsr", "int", 4, MXCSR, 0},
	{"fs_base", "int", 8, BASE, X86_FS},
	{"gs_base", "int", 8, BASE, X86_GS},
	{"k_gs_base", "int", 8, KERNEL_GS, 0},
	{"cr0", "int", 8, CR, CR0},
	{"cr2", "int", 8, CR, CR2},
	{"cr3", "int", 8, CR, CR3},
	{"cr4", "int", 8, CR, CR4},
	{"efer", "int", 8, CR, EFER},
};

/* A feature of the description begins at the register with its first kind. */
static const struct feature {
	const char *first, *name, *types;
} features[] = {
	{"rax", "org.gnu.gdb.i386.core",
	 "<flags id=\"i386_eflags\" size=\"4\">"
	 "<field name=\"CF\" start=\"0\" end=\"0\"/><field name=\"\" start=\"1\" end=\"1\"/><field name=\"PF\" start=\"2\" end=\"2\"/>"
	 "<field name=\"AF\" start=\"4\" end=\"4\"/><field name=\"ZF\" start=\"6\" end=\"6\"/><field name=\"SF\" start=\"7\" end=\"7\"/>"
	 "<field name=\"TF\" start=\"8\" end=\"8\"/><field name=\"IF\" start=\"9\" end=\"9\"/><field name=\"DF\" start=\"10\" end=\"10\"/>"
	 "<field name=\"OF\" start=\"11\" end=\"11\"/><field name=\"NT\" start=\"14\" end=\"14\"/>"
	 "<field name=\"RF\" start=\"16\" end=\"16\"/><field name=\"VM\" start=\"17\" end=\"17\"/>"
	 "<field name=\"AC\" start=\"18\" end=\"18\"/><field name=\"ID\" start=\"21\" end=\"21\"/></flags>\n"},
	{"xmm0", "org.gnu.gdb.i386.sse",
	 "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/><vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>"
	 "<vector id=\"v16i8\" type=\"int8\" count=\"16\"/><vector id=\"v8i16\" type=\"int16\" count=\"8\"/>"
	 "<vector id=\"v4i32\" type=\"int32\" count=\"4\"/><vector id=\"v2i64\" type=\"int64\" count=\"2\"/>"
	 "<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/><field name=\"v2_double\" type=\"v2d\"/>"
	 "<field name=\"v16_int8\" type=\"v16i8\"/><field name=\"v8_int16\" type=\"v8i16\"/><field name=\"v4_int32\" type=\"v4i32\"/>"
	 "<field name=\"v2_int64\" type=\"v2i64\"/><field name=\"uint128\" type=\"uint128\"/></union>\n"},
	{"fs_base", "org.gnu.gdb.i386.segments", ""},
	{"k_gs_base", "org.husk.x86.system", ""},
};

const u8 gdb_arch_break[DEBUG_BREAK_MAX] = {0xcc}; /* INT3 */
const u32 gdb_arch_break_len = 1;

static void put_text(struct buf *out, const char *text)
{
	buf_put(out, text, strlen(text));
}

static const struct feature *feature_at(const struct reg *r)
{
	for (u32 i = 0; i < ARRAY_SIZE(features); i++) {
		if (!strcmp(features[i].first, r->name))
			return &features[i];
	}
	return NULL;
}

void gdb_arch_describe(struct buf *out)
{
	char line[256];

	put_text(out, "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n"
		      "<target version=\"1.0\"><architecture>i386:x86-64</architecture>\n");
	for (u32 n = 0; n < ARRAY_SIZE(regs); n++) {
		const struct feature *f = feature_at(&regs[n]);

		if (f) {
			snprintf(line, sizeof(line), "%s<feature name=\"%s\">\n", n ? "</feature>\n" : "", f->name);
			put_text(out, line);
			put_text(out, f->types);
		}
		snprintf(line, sizeof(line), "<reg name=\"%s\" bitsize=\"%d\" type=\"%s\"/>\n", regs[n].name, regs[n].size * 8,
			 regs[n].type);
		put_text(out, line);
	}
	put_text(out, "</feature></target>\n");
}

u32 gdb_arch_nr_regs(void)
{
	return ARRAY_SIZE(regs);
}

u32 gdb_arch_reg_size(u32 n)
{
	return regs[n].size;
}

/* ---- x87 and SSE, in the XSAVE area ---- */

static bool has_state(const struct cpu_state *c, u64 component)
{
	return c->xsave_size && ld_le64(c->xsave + XSTATE_BV) & component;
}

/* A component that is not there reads as its initial state; now it gets one. */
static void make_state(struct cpu_state *c, u64 component)
{
	if (has_state(c, component))
		return;
	if (component == XSTATE_X87) {
		memset(c->xsave, 0, FX_MXCSR);
		memset(c->xsave + FX_ST, 0, FX_XMM - FX_ST);
		st_le16(c->xsave + FX_FCW, FCW_INIT);
	} else {
		memset(c->xsave + FX_XMM, 0, 16 * 16);
	}
	st_le64(c->xsave + XSTATE_BV, ld_le64(c->xsave + XSTATE_BV) | component);
}

/* gdb has two bits for each register: 3 is empty. */
static u32 wide_tags(u8 abridged)
{
	u32 tags = 0;

	for (u32 i = 0; i < 8; i++)
		tags |= (abridged >> i & 1 ? 0u : 3u) << (2 * i);
	return tags;
}

static u8 abridged_tags(u32 tags)
{
	u8 abridged = 0;

	for (u32 i = 0; i < 8; i++)
		abridged |= (u8)(((tags >> (2 * i) & 3) != 3) << i);
	return abridged;
}

static const struct x87_field {
	u16 at, size;
} x87_fields[] = {
	[CONTROL] = {FX_FCW, 2},     [STATUS] = {FX_FSW, 2},   [TAGS] = {FX_FTW, 1},	    [CODE_SEG] = {FX_FCS, 2},
	[CODE_OFFSET] = {FX_FIP, 4}, [DATA_SEG] = {FX_FDS, 2}, [DATA_OFFSET] = {FX_FDP, 4}, [OPCODE] = {FX_FOP, 2},
};

static u32 get_x87(const struct cpu_state *c, u32 index)
{
	u32 value = 0;

	if (!has_state(c, XSTATE_X87))
		return index == CONTROL ? FCW_INIT : index == TAGS ? 0xffff : 0;
	memcpy(&value, c->xsave + x87_fields[index].at, x87_fields[index].size);
	return index == TAGS ? wide_tags((u8)value) : value;
}

static void set_x87(struct cpu_state *c, u32 index, u32 value)
{
	make_state(c, XSTATE_X87);
	if (index == TAGS)
		value = abridged_tags(value);
	memcpy(c->xsave + x87_fields[index].at, &value, x87_fields[index].size);
}

/* ---- one register ---- */

static const u64 *kernel_gs(const struct cpu_state *c)
{
	for (u32 i = 0; i < c->nr_msrs; i++) {
		if (c->msrs[i].index == MSR_KERNEL_GS)
			return &c->msrs[i].value;
	}
	return NULL;
}

static const u64 *control_reg(const struct cpu_state *c, u32 index)
{
	switch (index) {
	case CR0:
		return &c->cr0;
	case CR2:
		return &c->cr2;
	case CR3:
		return &c->cr3;
	case CR4:
		return &c->cr4;
	default:
		return &c->efer;
	}
}

/* Those that are one number. */
static u64 get_number(const struct cpu_state *c, const struct reg *r)
{
	const u64 *gs = kernel_gs(c);

	switch (r->kind) {
	case GPR:
		return c->gpr[r->index];
	case RIP:
		return c->rip;
	case RFLAGS:
		return c->rflags;
	case SELECTOR:
		return c->seg[r->index].selector;
	case X87:
		return get_x87(c, r->index);
	case MXCSR:
		return c->xsave_size ? ld_le32(c->xsave + FX_MXCSR) : MXCSR_INIT;
	case BASE:
		return c->seg[r->index].base;
	case KERNEL_GS:
		return gs ? *gs : 0;
	default:
		return *control_reg(c, r->index);
	}
}

void gdb_arch_reg_get(const struct cpu_state *c, u32 n, u8 *value)
{
	const struct reg *r = &regs[n];
	u64 number;

	memset(value, 0, r->size);
	if (r->kind == ST) {
		if (has_state(c, XSTATE_X87))
			memcpy(value, c->xsave + FX_ST + 16 * r->index, r->size);
	} else if (r->kind == XMM) {
		if (has_state(c, XSTATE_SSE))
			memcpy(value, c->xsave + FX_XMM + 16 * r->index, r->size);
	} else {
		number = get_number(c, r);
		memcpy(value, &number, r->size);
	}
}

static bool set_number(struct cpu_state *c, const struct reg *r, u64 number)
{
	switch (r->kind) {
	case GPR:
		c->gpr[r->index] = number;
		return true;
	case RIP:
		c->rip = number;
		return true;
	case RFLAGS:
		c->rflags = (number & RFLAGS_WRITABLE) | RFLAGS_ONE;
		return true;
	case X87:
		set_x87(c, r->index, (u32)number);
		return true;
	case MXCSR:
		if (number & ~(u64)MXCSR_MASK || !c->xsave_size)
			return false;
		st_le32(c->xsave + FX_MXCSR, (u32)number);
		return true;
	case BASE:
		if ((u64)((s64)(number << 7) >> 7) != number) /* canonical, with five levels */
			return false;
		c->seg[r->index].base = number;
		return true;
	default: /* selectors without their descriptors, and what changes the mode: read-only, but for what they are */
		return number == get_number(c, r);
	}
}

bool gdb_arch_reg_set(struct cpu_state *c, u32 n, const u8 *value)
{
	const struct reg *r = &regs[n];
	u64 number = 0;

	if (r->kind != ST && r->kind != XMM) {
		memcpy(&number, value, r->size);
		return (r->kind != X87 || c->xsave_size) && set_number(c, r, number);
	}
	if (!c->xsave_size)
		return false;
	make_state(c, r->kind == ST ? XSTATE_X87 : XSTATE_SSE);
	memcpy(c->xsave + (r->kind == ST ? FX_ST : FX_XMM) + 16 * r->index, value, r->size);
	return true;
}

const char *gdb_arch_activity(const struct cpu_state *c)
{
	switch (c->mp_state) {
	case X86_MP_HALTED:
		return "halted";
	case X86_MP_UNINIT:
	case X86_MP_INIT_RECEIVED:
	case X86_MP_SIPI_RECEIVED:
		return "not started";
	default:
		return c->cr0 & 1 && (c->seg[X86_SS].attr >> 5 & 3) == 3 ? "user mode" : "kernel mode";
	}
}
