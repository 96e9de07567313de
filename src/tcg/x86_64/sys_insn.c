/* sys_insn.c: the system instructions: those that are short, I/O ports, and the way to the others. Lean. */
#include "tcg/x86_64/sys.h"

#define KVM_ENOSYS 1000ull
#define KVM_EPERM  1ull

u16 sys_read_rm16(struct tcg_cpu *c, const struct x86_insn *insn)
{
	if (insn->mod == 3)
		return (u16)c->gpr[insn->rm];
	return (u16)mmu_load(c, interp_ea(c, insn, 2, false), 2, tcg_data_mode(c));
}

void sys_write_rm(struct tcg_cpu *c, const struct x86_insn *insn, u64 value)
{
	if (insn->mod == 3)
		interp_set_reg(c, insn->rm, insn->opsize, sys_cut(value, insn->opsize));
	else
		mmu_store(c, interp_ea(c, insn, 2, true), 2, value & 0xffff, tcg_data_mode(c));
}

void sys_check_umip(struct tcg_cpu *c)
{
	if (c->cpl && c->cr4 & X86_CR4_UMIP && c->cr0 & X86_CR0_PE)
		sys_gp(c, 0);
}

/* ---- I/O ports ---- */

#define TSS_IO_MAP   102
#define TSS_MIN_SIZE 104

/* A bit for each port in the TSS, which are all to be 0; two bytes are read always (SDM 1 §18.5.2). */
static bool io_map_allows(struct tcg_cpu *c, u16 port, u32 size)
{
	const struct x86_seg *tr = &c->seg[X86_TR];
	u32 at, bits;

	if (tr->attr & X86_SEG_UNUSABLE || !(tr->attr & X86_ATTR_P) || (tr->attr & 0xd) != DESC_TSS32 || tr->limit < TSS_MIN_SIZE - 1)
		return false;
	at = (u32)sys_load(c, tr->base + TSS_IO_MAP, 2) + port / 8;
	if (at + 1 > tr->limit)
		return false;
	bits = (u32)sys_load(c, tr->base + at, 2) >> port % 8;
	return !(bits & ((1u << size) - 1));
}

void sys_check_io(struct tcg_cpu *c, u16 port, u32 size)
{
	if (!(c->cr0 & X86_CR0_PE) || (!(c->rflags & X86_FLAG_VM) && c->cpl <= sys_iopl(c)))
		return;
	if (!io_map_allows(c, port, size))
		sys_gp(c, 0);
}

static void in_out(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u16 port = insn->opcode & 8 ? (u16)c->gpr[X86_RDX] : (u8)insn->imm;
	u32 size = insn->opcode & 1 ? MIN(insn->opsize, 4) : 1;

	sys_check_io(c, port, size);
	if (insn->op == OP_IN)
		interp_set_reg(c, X86_RAX, size, sys_cut(tcg_pio_read(c, port, size), size));
	else
		tcg_pio_write(c, port, size, (u32)sys_cut(c->gpr[X86_RAX], size));
}

/* ---- flags ---- */

static void cli_sti(struct tcg_cpu *c, const struct x86_insn *insn)
{
	if (c->cr0 & X86_CR0_PE && (c->rflags & X86_FLAG_VM ? sys_iopl(c) < 3 : c->cpl > sys_iopl(c)))
		sys_gp(c, 0);
	if (insn->op == OP_CLI) {
		c->rflags &= ~X86_FLAG_IF;
	} else if (!(c->rflags & X86_FLAG_IF)) {
		c->rflags |= X86_FLAG_IF;
		c->shadow = 1;
		sys_look(c);
	}
}

static void stac_clac(struct tcg_cpu *c, const struct x86_insn *insn)
{
	if (c->cpl || !tcg_has(c, FEAT_SMAP))
		tcg_raise(c, X86_UD);
	c->rflags = insn->op == OP_STAC ? c->rflags | X86_FLAG_AC : c->rflags & ~X86_FLAG_AC;
	tcg_mode_update(c);
}

/* ---- the rest ---- */

static void hlt(struct tcg_cpu *c, const struct x86_insn *insn)
{
	sys_need_cpl0(c);
	c->rip += insn->len;
	c->shadow = 0;
	c->halted = true;
	tcg_request(c, TCG_REQ_SHOOT);
}

static void set_edx_eax(struct tcg_cpu *c, u64 value)
{
	c->gpr[X86_RAX] = (u32)value;
	c->gpr[X86_RDX] = value >> 32;
}

static void rdmsr(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 value;

	(void)insn;
	sys_need_cpl0(c);
	if (!sys_rdmsr(c, (u32)c->gpr[X86_RCX], &value))
		sys_gp(c, 0);
	set_edx_eax(c, value);
}

static void wrmsr(struct tcg_cpu *c, const struct x86_insn *insn)
{
	(void)insn;
	sys_need_cpl0(c);
	if (!sys_wrmsr(c, (u32)c->gpr[X86_RCX], (u32)c->gpr[X86_RAX] | c->gpr[X86_RDX] << 32))
		sys_gp(c, 0);
}

static void rdtsc(struct tcg_cpu *c, const struct x86_insn *insn)
{
	if (c->cr4 & X86_CR4_TSD && c->cpl)
		sys_gp(c, 0);
	set_edx_eax(c, tcg_rdtsc(c));
	if (insn->op == OP_RDTSCP)
		c->gpr[X86_RCX] = (u32)c->tsc_aux;
}

/* There are no counters: any index is too high. */
static void rdpmc(struct tcg_cpu *c, const struct x86_insn *insn)
{
	(void)insn;
	sys_gp(c, 0);
}

static void rdpid(struct tcg_cpu *c, const struct x86_insn *insn)
{
	interp_set_reg(c, insn->rm, tcg_is_64(c) ? 8 : 4, (u32)c->tsc_aux);
}

static void cpuid(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 out[4];

	(void)insn;
	sys_cpuid(c, (u32)c->gpr[X86_RAX], (u32)c->gpr[X86_RCX], out);
	c->gpr[X86_RAX] = out[CPUID_EAX];
	c->gpr[X86_RBX] = out[CPUID_EBX];
	c->gpr[X86_RCX] = out[CPUID_ECX];
	c->gpr[X86_RDX] = out[CPUID_EDX];
}

static void random_number(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 value;
	bool ok;

	if (insn->op == OP_RDRAND)
		__asm__ volatile("rdrand %0" : "=r"(value), "=@ccc"(ok));
	else
		__asm__ volatile("rdseed %0" : "=r"(value), "=@ccc"(ok));
	c->rflags = (c->rflags & ~X86_FLAGS_ARITH) | (ok ? X86_FLAG_CF : 0);
	interp_set_reg(c, insn->rm, insn->opsize, ok ? sys_cut(value, insn->opsize) : 0);
}

static void cache_control(struct tcg_cpu *c, const struct x86_insn *insn)
{
	(void)insn;
	sys_need_cpl0(c);
}

/* As KVM answers hypercalls that it does not have. */
static void vmcall(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 value = c->cpl ? -KVM_EPERM : -KVM_ENOSYS;

	(void)insn;
	c->gpr[X86_RAX] = tcg_is_64(c) ? value : (u32)value;
}

static s64 sign_extend(u64 value, u32 size)
{
	return size == 2 ? (int16_t)value : (s32)value;
}

static void bound(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 size = insn->opsize;
	u64 va = interp_ea(c, insn, 2 * size, false);
	s64 low = sign_extend(mmu_load(c, va, size, tcg_data_mode(c)), size);
	s64 high = sign_extend(mmu_load(c, va + size, size, tcg_data_mode(c)), size), index = sign_extend(c->gpr[insn->reg], size);

	if (index < low || index > high)
		tcg_raise(c, X86_BR);
}

static void undefined(struct tcg_cpu *c, const struct x86_insn *insn)
{
	(void)insn;
	tcg_raise(c, X86_UD);
}

typedef void handler_fn(struct tcg_cpu *c, const struct x86_insn *insn);

#define FIRST OP_MOV_FROM_SREG
static handler_fn *const handlers[] = {
	[OP_MOV_FROM_SREG - FIRST] = sys_mov_from_sreg,
	[OP_MOV_TO_SREG - FIRST] = sys_mov_to_sreg,
	[OP_LOAD_FAR - FIRST] = sys_load_far,
	[OP_MOV_FROM_CR - FIRST] = sys_mov_from_cr,
	[OP_MOV_TO_CR - FIRST] = sys_mov_to_cr,
	[OP_MOV_FROM_DR - FIRST] = sys_mov_from_dr,
	[OP_MOV_TO_DR - FIRST] = sys_mov_to_dr,
	[OP_CLTS - FIRST] = sys_clts,
	[OP_LMSW - FIRST] = sys_lmsw,
	[OP_SMSW - FIRST] = sys_smsw,
	[OP_SGDT - FIRST] = sys_store_table,
	[OP_SIDT - FIRST] = sys_store_table,
	[OP_LGDT - FIRST] = sys_load_table,
	[OP_LIDT - FIRST] = sys_load_table,
	[OP_SLDT - FIRST] = sys_sldt_str,
	[OP_STR - FIRST] = sys_sldt_str,
	[OP_LLDT - FIRST] = sys_lldt,
	[OP_LTR - FIRST] = sys_ltr,
	[OP_VERR - FIRST] = sys_verify,
	[OP_VERW - FIRST] = sys_verify,
	[OP_LAR - FIRST] = sys_lar_lsl,
	[OP_LSL - FIRST] = sys_lar_lsl,
	[OP_ARPL - FIRST] = sys_arpl,
	[OP_BOUND - FIRST] = bound,
	[OP_INVLPG - FIRST] = sys_invlpg,
	[OP_INVPCID - FIRST] = sys_invpcid,
	[OP_INVD - FIRST] = cache_control,
	[OP_WBINVD - FIRST] = cache_control,
	[OP_RDMSR - FIRST] = rdmsr,
	[OP_WRMSR - FIRST] = wrmsr,
	[OP_RDTSC - FIRST] = rdtsc,
	[OP_RDTSCP - FIRST] = rdtsc,
	[OP_RDPMC - FIRST] = rdpmc,
	[OP_RDPID - FIRST] = rdpid,
	[OP_CPUID - FIRST] = cpuid,
	[OP_HLT - FIRST] = hlt,
	[OP_CLI - FIRST] = cli_sti,
	[OP_STI - FIRST] = cli_sti,
	[OP_STAC - FIRST] = stac_clac,
	[OP_CLAC - FIRST] = stac_clac,
	[OP_SWAPGS - FIRST] = sys_swapgs,
	[OP_RDFSBASE - FIRST] = sys_fsgsbase,
	[OP_RDGSBASE - FIRST] = sys_fsgsbase,
	[OP_WRFSBASE - FIRST] = sys_fsgsbase,
	[OP_WRGSBASE - FIRST] = sys_fsgsbase,
	[OP_XGETBV - FIRST] = sys_xgetbv,
	[OP_XSETBV - FIRST] = sys_xsetbv,
	[OP_MONITOR - FIRST] = undefined,
	[OP_MWAIT - FIRST] = undefined,
	[OP_RDRAND - FIRST] = random_number,
	[OP_RDSEED - FIRST] = random_number,
	[OP_IN - FIRST] = in_out,
	[OP_OUT - FIRST] = in_out,
	[OP_VMCALL - FIRST] = vmcall,
	[OP_RSM - FIRST] = undefined,
	[OP_UNSUPPORTED - FIRST] = undefined,
};

void sys_insn(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u32 i = insn->op - FIRST;

	/* Longer than 15 bytes: #GP (decode.h). */
	if (insn->op == OP_UD && insn->len == X86_INSN_MAX && insn->imm == 1)
		sys_gp(c, 0);
	if (i >= ARRAY_SIZE(handlers) || !handlers[i] || (insn->feat && !tcg_has(c, insn->feat)))
		undefined(c, insn);
	handlers[i](c, insn);
}
