/*
 * fpu_stub.c: copies of guest vector and x87 instructions that run natively: made, cached, called.
 *
 * A stub is  [push r9; popfq]  instruction  [pushfq; pop r8]  ret,  the parts in brackets only for instructions that read or write flags.
 * The instruction's memory operand is [rdi] and its explicit general register operand is rax; implicit ones (rax, rcx, rdx) stay where they
 * are. The code is in one memfd mapped twice, so that it is never writable and executable at one address. A native fault goes on at the
 * exit (`ret`) with the vector in rsi (fpu_stub_fault).
 */
#include "tcg/x86_64/fpu_impl.h"

struct emit {
	u8 b[FPU_SLOT_SIZE];
	u32 n;
};

static void put(struct emit *e, u32 byte)
{
	e->b[e->n++] = (u8)byte;
}

static bool has_mem(const struct x86_insn *insn)
{
	return insn->has_modrm && insn->mod != 3;
}

/* The one explicit general register operand, or NULL: vector instructions have no more. */
static const struct x86_opnd *gpr_operand(const struct x86_insn *insn)
{
	for (u32 i = 0; i < insn->nr_opnds; i++)
		if (insn->opnd[i].kind == OPND_GPR && (insn->opnd[i].where == AT_REG || insn->opnd[i].where == AT_RM))
			return &insn->opnd[i];
	return NULL;
}

static void emit_legacy(struct emit *e, const struct x86_insn *insn, bool free_reg, bool free_rm)
{
	u32 rex = insn->rex;

	for (u32 i = 0; i < insn->nr_prefixes; i++)
		if (insn->bytes[i] == 0x66 || insn->bytes[i] == 0xf2 || insn->bytes[i] == 0xf3)
			put(e, insn->bytes[i]);
	if (free_reg)
		rex &= ~4u;
	if (free_rm)
		rex &= ~3u;
	if (rex)
		put(e, rex);
	if (insn->map != MAP_1)
		put(e, 0x0f);
	if (insn->map == MAP_0F38)
		put(e, 0x38);
	if (insn->map == MAP_0F3A)
		put(e, 0x3a);
}

/* Outside 64-bit code VEX.W does not choose 64-bit general registers (SDM 2A §2.3.13 and the instructions' own tables): forms that move
 * between a vector and a general register or memory of its size. */
static bool w_is_ignored(const struct x86_insn *insn)
{
	if (insn->mode == 64)
		return false;
	if (insn->map == MAP_0F3A)
		return insn->opcode == 0x16 || insn->opcode == 0x22;
	if (insn->map == MAP_0F && insn->vex_pp == 1)
		return insn->opcode == 0x6e || insn->opcode == 0x7e;
	if ((insn->map == MAP_0F || insn->map == MAP_5) && insn->vex_pp >= 2)
		return insn->opcode == 0x2a || insn->opcode == 0x2c || insn->opcode == 0x2d ||
		       (insn->enc == ENC_EVEX && (insn->opcode == 0x78 || insn->opcode == 0x79 || insn->opcode == 0x7b));
	return false;
}

/* Register extension bits are stored inverted. Outside 64-bit code those that are not checked are ignored: here they would count. */
static void emit_vex(struct emit *e, const struct x86_insn *insn, bool free_reg, bool free_rm)
{
	const u8 *v = insn->bytes + insn->at_vex;
	u32 p0 = v[0] == 0xc5 ? (v[1] & 0x80u) | 0x61u : v[1];
	u32 p1 = v[0] == 0xc5 ? v[1] & 0x7fu : v[2];

	if (free_reg)
		p0 |= 0x80;
	if (free_rm)
		p0 |= 0x60;
	if (insn->mode != 64) {
		p0 |= 0xe0;
		p1 |= 0x40;
	}
	if (w_is_ignored(insn))
		p1 &= 0x7f;
	put(e, 0xc4);
	put(e, p0);
	put(e, p1);
}

static void emit_evex(struct emit *e, const struct x86_insn *insn, bool free_reg, bool free_rm)
{
	const u8 *v = insn->bytes + insn->at_vex;
	u32 p0 = v[1], p1 = v[2], p2 = v[3];

	if (free_reg)
		p0 |= 0x80; /* R' must be as if clear: else the processor refuses the instruction, and so shall it */
	if (free_rm)
		p0 |= 0x60;
	if (insn->mode != 64) {
		p0 |= 0xf0;
		p1 |= 0x40;
		p2 |= 0x08;
	}
	if (w_is_ignored(insn))
		p1 &= 0x7f;
	put(e, 0x62);
	put(e, p0);
	put(e, p1);
	put(e, p2);
}

static void emit_immediate(struct emit *e, const struct x86_insn *insn)
{
	for (u32 i = 0; i < insn->imm_size && i < 4; i++)
		put(e, insn->bytes[insn->at_imm + i]);
	for (u32 i = 0; i < insn->nr_opnds; i++)
		if (insn->opnd[i].where == AT_IS4 && insn->mode != 64)
			e->b[e->n - 1] &= 0x7f;
}

static void emit_insn(struct emit *e, const struct x86_insn *insn)
{
	const struct x86_opnd *gpr = gpr_operand(insn);
	bool free_reg = gpr && gpr->where == AT_REG, free_rm = (gpr && gpr->where == AT_RM) || has_mem(insn);
	u32 modrm = insn->modrm;

	if (insn->enc == ENC_VEX)
		emit_vex(e, insn, free_reg, free_rm);
	else if (insn->enc == ENC_EVEX)
		emit_evex(e, insn, free_reg, free_rm);
	else
		emit_legacy(e, insn, free_reg, free_rm);
	put(e, insn->opcode);
	if (!insn->has_modrm)
		return;
	if (free_reg)
		modrm &= ~0x38u;
	if (has_mem(insn))
		modrm = (modrm & 0x38) | 7;
	else if (free_rm)
		modrm &= ~7u;
	put(e, modrm);
	emit_immediate(e, insn);
}

static u32 slot_of(u64 lo, u64 hi)
{
	return (u32)(((lo ^ hi << 7 ^ hi >> 50) * 0x9e3779b97f4a7c15ull) >> 55);
}
_Static_assert(FPU_SLOTS == 1 << (64 - 55), "slot_of gives 9 bits");

static void write_slot(struct fpu *f, u32 slot, struct emit *e)
{
	put(e, 0xc3);
	fpu_copy(f->rw + slot * FPU_SLOT_SIZE, e->b, e->n);
}

const u8 *fpu_stub_get(struct fpu *f, const struct x86_insn *insn)
{
	u64 lo = ld_le64(insn->bytes), hi = ld_le64(insn->bytes + 7) >> 8;
	u32 slot;

	if (insn->len < 8)
		lo &= BIT(8 * insn->len) - 1;
	hi = insn->len > 8 ? hi & (BIT(8 * (insn->len - 8)) - 1) : 0;
	hi |= (u64)insn->len << 56 | (u64)(insn->mode >> 4) << 60; /* mode: 1, 2 or 4 */
	slot = slot_of(lo, hi);
	if (f->key[slot][0] != lo || f->key[slot][1] != hi) {
		struct emit e = {.n = 0};

		if (insn->flags_read & X86_FLAGS_ARITH) {
			put(&e, 0x41); /* push r9 */
			put(&e, 0x51);
			put(&e, 0x9d); /* popfq */
		}
		emit_insn(&e, insn);
		if (insn->flags_write & X86_FLAGS_ARITH) {
			put(&e, 0x9c); /* pushfq */
			put(&e, 0x41); /* pop r8 */
			put(&e, 0x58);
		}
		write_slot(f, slot, &e);
		f->key[slot][0] = lo;
		f->key[slot][1] = hi;
	}
	return f->rx + slot * FPU_SLOT_SIZE;
}

const u8 *fpu_stub_raw(struct fpu *f, const u8 *bytes, u32 len)
{
	u64 lo = 0, hi = (u64)len << 56 | BIT(63);
	u32 slot;

	for (u32 i = 0; i < len; i++)
		if (i < 8)
			lo |= (u64)bytes[i] << 8 * i;
		else
			hi |= (u64)bytes[i] << 8 * (i - 8);
	hi |= 7ull << 60; /* no mode has this */
	slot = slot_of(lo, hi);
	if (f->key[slot][0] != lo || f->key[slot][1] != hi) {
		struct emit e = {.n = 0};

		fpu_copy(e.b, bytes, len); /* a loop would become a call of memcpy */
		e.n = len;
		write_slot(f, slot, &e);
		f->key[slot][0] = lo;
		f->key[slot][1] = hi;
	}
	return f->rx + slot * FPU_SLOT_SIZE;
}

/* No call may come between setting the register variables and the asm. */
static u32 call_stub(const u8 *code, struct fpu_regs *r)
{
	register u64 flags_out __asm__("r8") = 0;
	register u64 flags_in __asm__("r9") = (r->flags & X86_FLAGS_ARITH) | 2;
	register const u8 *to __asm__("r10") = code;
	u64 trap = 0;

	/* Below the red zone of this function. */
	__asm__ volatile("leaq -128(%%rsp), %%rsp\n\t"
			 "call *%%r10\n\t"
			 "leaq 128(%%rsp), %%rsp"
			 : "+a"(r->rax), "+c"(r->rcx), "+d"(r->rdx), "+S"(trap), "+r"(flags_out)
			 : "D"(r->mem), "r"(flags_in), "r"(to)
			 : "memory", "cc");
	r->flags = flags_out;
	return (u32)trap;
}

u32 fpu_stub_run(struct tcg_cpu *c, const u8 *code, struct fpu_regs *r)
{
	if (!c->fpu_live)
		fpu_restore(c);
	return call_stub(code, r);
}

u32 fpu_run_insn(struct tcg_cpu *c, const struct x86_insn *insn, u64 mem)
{
	const struct x86_opnd *gpr = gpr_operand(insn);
	struct fpu_regs r = {.rax = c->gpr[gpr ? gpr->reg & 15 : X86_RAX], .rcx = c->gpr[X86_RCX], .rdx = c->gpr[X86_RDX], .mem = mem};
	u16 written = insn->flags_write & X86_FLAGS_ARITH;
	u32 trap;

	r.flags = c->rflags;
	trap = fpu_stub_run(c, fpu_stub_get(fpu_of(c), insn), &r);
	if (trap)
		return trap;
	if (gpr) {
		if (gpr->access & OPND_W)
			c->gpr[gpr->reg & 15] = r.rax;
	} else {
		if (insn->gpr_write & BIT(X86_RAX))
			c->gpr[X86_RAX] = r.rax;
		if (insn->gpr_write & BIT(X86_RCX))
			c->gpr[X86_RCX] = r.rcx;
		if (insn->gpr_write & BIT(X86_RDX))
			c->gpr[X86_RDX] = r.rdx;
	}
	c->rflags = (c->rflags & ~(u64)written) | (r.flags & written);
	return 0;
}

void fpu_raise(struct tcg_cpu *c, u32 trap)
{
	switch (trap) {
	case 0:
		return;
	case X86_XM:
		tcg_raise(c, c->cr4 & X86_CR4_OSXMMEXCPT ? X86_XM : X86_UD);
	case X86_MF:
	case X86_UD:
		tcg_raise(c, (u8)trap);
	default:
		tcg_raise_err(c, X86_GP, 0);
	}
}
