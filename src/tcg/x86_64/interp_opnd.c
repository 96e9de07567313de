/* interp_opnd.c: operands of the interpreter: addresses and segments, registers, the stack, near targets, flags. Lean. */
#include "tcg/x86_64/interp_int.h"

static _Noreturn void raise_segment(struct tcg_cpu *c, u32 seg)
{
	tcg_raise_err(c, seg == X86_SS ? X86_SS_EXC : X86_GP, 0);
}

/* SDM 3A §5.3, §5.5: limits (expand-down ones too) and types. Real and virtual-8086 mode check limits only. */
bool interp_seg_allows(const struct tcg_cpu *c, u32 seg, u64 offset, u64 size, bool write)
{
	const struct x86_seg *s = &c->seg[seg];
	u64 last = offset + size - 1;
	bool code = s->attr & 8;

	if (c->mode & TCG_MODE_PE) {
		if (s->attr & X86_SEG_UNUSABLE)
			return false;
		if (write ? code || !(s->attr & 2) : code && !(s->attr & 2))
			return false;
	}
	if ((s->attr & 0xc) == 4)
		return offset > s->limit && last <= (s->attr & X86_ATTR_DB ? 0xffffffffull : 0xffffull);
	return last <= s->limit;
}

/* Data breakpoints (SDM 3B §17.2.4) are looked at only while something is armed: TCG_MODE_TF. */
static u64 data_hits(const u64 *dr, u64 dr7, u64 va, u32 size, bool write)
{
	u64 hits = 0;

	for (u32 i = 0; i < 4; i++) {
		u32 ctl = (u32)(dr7 >> (16 + 4 * i)) & 0xf;
		u64 len = (ctl >> 2) == 2 ? 8 : (ctl >> 2) + 1u;
		u64 start = dr[i] & ~(len - 1);

		if (!(dr7 >> (2 * i) & 3) || !(ctl & 1) || (!write && (ctl & 3) != 3))
			continue;
		if (va < start + len && start < va + size)
			hits |= BIT(i);
	}
	return hits;
}

static void note_breakpoints(struct tcg_cpu *c, u64 va, u32 size, bool write)
{
	struct interp_cache *k = c->interp_cache;

	if (k)
		k->dr6 |= data_hits(c->dr, c->dr7, va, size, write);
	if (c->debug.dr7)
		c->debug.hits |= (u8)data_hits(c->debug.dr, c->debug.dr7, va, size, write);
}

u64 interp_linear(struct tcg_cpu *c, u32 seg, u64 offset, u32 size, bool write)
{
	u64 va;

	if (likely(tcg_is_64(c))) {
		va = offset + (seg == X86_FS || seg == X86_GS ? c->seg[seg].base : 0);
		if (unlikely(!tcg_canonical(va) || !tcg_canonical(va + size - (size > 0))))
			raise_segment(c, seg);
	} else {
		if (!interp_seg_allows(c, seg, offset, MAX(size, 1u), write))
			raise_segment(c, seg);
		va = (u32)(c->seg[seg].base + offset);
	}
	if (unlikely(c->mode & TCG_MODE_TF))
		note_breakpoints(c, va, size, write);
	return va;
}

u64 interp_offset(struct tcg_cpu *c, const struct x86_insn *insn)
{
	const struct x86_mem *m = &insn->mem;
	u64 off;

	if (m->moffs)
		return (u64)insn->imm & interp_mask(insn->adsize);
	off = (u64)(s64)m->disp;
	if (m->base == X86_RIP)
		off += c->rip + insn->len;
	else if (m->base != X86_NO_REG)
		off += c->gpr[m->base];
	if (m->index != X86_NO_REG)
		off += c->gpr[m->index] * m->scale;
	return off & interp_mask(insn->adsize);
}

u64 interp_ea(struct tcg_cpu *c, const struct x86_insn *insn, u32 size, bool write)
{
	return interp_linear(c, insn->mem.seg, interp_offset(c, insn), size, write);
}

u32 interp_data_seg(const struct x86_insn *insn)
{
	switch (insn->seg_prefix) {
	case 0x26:
		return X86_ES;
	case 0x2e:
		return X86_CS;
	case 0x36:
		return X86_SS;
	case 0x64:
		return X86_FS;
	case 0x65:
		return X86_GS;
	default:
		return X86_DS;
	}
}

u64 interp_reg(const struct tcg_cpu *c, u32 reg, u32 size)
{
	return c->gpr[reg] & interp_mask(size);
}

void interp_set_reg(struct tcg_cpu *c, u32 reg, u32 size, u64 value)
{
	u64 mask = interp_mask(size);

	if (size >= 4)
		c->gpr[reg] = value & mask;
	else
		c->gpr[reg] = (c->gpr[reg] & ~mask) | (value & mask);
}

u64 interp_read(struct tcg_cpu *c, const struct x86_insn *insn, u32 n)
{
	const struct x86_opnd *o = &insn->opnd[n];

	switch (o->kind) {
	case OPND_GPR:
		return interp_reg(c, o->reg, o->size);
	case OPND_GPR8H:
		return c->gpr[o->reg] >> 8 & 0xff;
	case OPND_MEM:
		return interp_load(c, interp_ea(c, insn, o->size, false), o->size);
	case OPND_IMM:
		/* Some are encoded shorter than the operand they meet. */
		return (u64)insn->imm & interp_mask(MAX(o->size, insn->opnd[0].size));
	case OPND_SREG:
		return c->seg[o->reg].selector;
	default:
		return 0;
	}
}

void interp_write(struct tcg_cpu *c, const struct x86_insn *insn, u32 n, u64 value)
{
	const struct x86_opnd *o = &insn->opnd[n];

	if (o->kind == OPND_GPR)
		interp_set_reg(c, o->reg, o->size, value);
	else if (o->kind == OPND_GPR8H)
		c->gpr[o->reg] = (c->gpr[o->reg] & ~0xff00ull) | (value & 0xff) << 8;
	else if (o->kind == OPND_MEM)
		interp_store(c, interp_ea(c, insn, o->size, true), o->size, value & interp_mask(o->size));
}

u64 interp_stack_mask(const struct tcg_cpu *c)
{
	if (tcg_is_64(c))
		return ~0ull;
	return c->seg[X86_SS].attr & X86_ATTR_DB ? 0xffffffffull : 0xffffull;
}

void interp_set_sp(struct tcg_cpu *c, u64 sp)
{
	u64 mask = interp_stack_mask(c);

	c->gpr[X86_RSP] = mask == 0xffff ? (c->gpr[X86_RSP] & ~mask) | (sp & mask) : sp & mask;
}

void interp_push(struct tcg_cpu *c, u32 size, u64 value)
{
	u64 sp = (c->gpr[X86_RSP] - size) & interp_stack_mask(c);

	interp_store(c, interp_linear(c, X86_SS, sp, size, true), size, value & interp_mask(size));
	interp_set_sp(c, sp);
}

u64 interp_peek(struct tcg_cpu *c, u64 offset, u32 size)
{
	u64 sp = (c->gpr[X86_RSP] + offset) & interp_stack_mask(c);

	return interp_load(c, interp_linear(c, X86_SS, sp, size, false), size);
}

void interp_stack_add(struct tcg_cpu *c, u64 delta)
{
	interp_set_sp(c, c->gpr[X86_RSP] + delta);
}

u64 interp_pop(struct tcg_cpu *c, u32 size)
{
	u64 value = interp_peek(c, 0, size);

	interp_stack_add(c, size);
	return value;
}

u64 interp_target(struct tcg_cpu *c, u64 rip, u32 opsize)
{
	rip &= interp_mask(opsize);
	if (tcg_is_64(c) ? !tcg_canonical(rip) : rip > c->seg[X86_CS].limit)
		tcg_raise_err(c, X86_GP, 0);
	return rip;
}

void interp_jump(struct tcg_cpu *c, u64 rip, u32 opsize)
{
	c->rip = interp_target(c, rip, opsize);
}

/* SDM 2A appendix B.1.4.7: tttn. */
bool interp_condition(u64 rflags, u8 cc)
{
	bool of = rflags & X86_FLAG_OF, sf = rflags & X86_FLAG_SF, yes;

	switch (cc >> 1 & 7) {
	case 0:
		yes = of;
		break;
	case 1:
		yes = rflags & X86_FLAG_CF;
		break;
	case 2:
		yes = rflags & X86_FLAG_ZF;
		break;
	case 3:
		yes = rflags & (X86_FLAG_CF | X86_FLAG_ZF);
		break;
	case 4:
		yes = sf;
		break;
	case 5:
		yes = rflags & X86_FLAG_PF;
		break;
	case 6:
		yes = sf != of;
		break;
	default:
		yes = sf != of || rflags & X86_FLAG_ZF;
		break;
	}
	return yes != (cc & 1);
}

/* SDM 2B POPF, table 4-17: IF needs CPL <= IOPL, IOPL CPL 0 (VM86 runs at CPL 3). RF and the VM bits are for IRET, which passes them. */
void interp_set_flags(struct tcg_cpu *c, u64 value, u64 mask)
{
	u64 iopl = (c->rflags & X86_FLAG_IOPL) >> 12, old = c->rflags;
	u64 may = X86_FLAGS_ARITH | X86_FLAG_TF | X86_FLAG_DF | X86_FLAG_NT | X86_FLAG_RF | X86_FLAG_AC | X86_FLAG_ID;

	if (c->cpl == 0)
		may |= X86_FLAG_IOPL | X86_FLAG_VM | X86_FLAG_VIF | X86_FLAG_VIP;
	if (c->cpl <= iopl)
		may |= X86_FLAG_IF;
	mask &= may;
	c->rflags = (old & ~mask) | (value & mask) | 2;
	if ((old ^ c->rflags) & (X86_FLAG_TF | X86_FLAG_AC | X86_FLAG_VM))
		tcg_mode_update(c);
	if (~old & c->rflags & X86_FLAG_IF && c->irq_waiting)
		tcg_request(c, TCG_REQ_SHOOT);
}
