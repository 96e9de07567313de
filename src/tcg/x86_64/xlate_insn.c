/* xlate_insn.c: instructions that are copied with their registers renamed and their memory operand replaced by a checked host address. */
#include "tcg/x86_64/xlate_impl.h"

/* The encoding that is being built: the guest's, with fields replaced. */
struct enc {
	u32 reg, rm, vvvv, opreg; /* rm: register, or base of the memory operand */
	bool mem, has_opreg, need_rex;
	struct emem at; /* the memory operand, when mem */
	u32 temps;	/* scratch registers that are free, a bit each */
	struct homed {
		u8 reg, guest;
		bool loaded, write;
	} homed[3]; /* guest registers that are in scratch registers meanwhile */
	u32 nr_homed;
	u8 high_guest; /* GPR8H operand that goes through cl: 0-3, else HOME */
	bool high_write;
	bool rcx_write;
};

/* Guest registers that are not in the host registers of their number. */
#define RENAMED (0xf00 | BIT(X86_RCX) | BIT(X86_RSP))

static u32 take_temp(struct enc *n)
{
	static const u8 order[] = {T1, T0, T2};

	for (u32 i = 0; i < ARRAY_SIZE(order); i++) {
		if (n->temps & BIT(order[i])) {
			n->temps &= ~(u32)BIT(order[i]);
			return order[i];
		}
	}
	return HOME;
}

static bool uses_rex(const struct x86_insn *in, const struct enc *n)
{
	return n->mem || n->need_rex || (in->rex & 8) || n->reg > 7 || n->rm > 7 || (n->has_opreg && n->opreg > 7);
}

/* Puts operand o's register into its field. */
static void set_field(struct enc *n, const struct x86_opnd *o, u32 reg)
{
	switch (o->where) {
	case AT_REG:
		n->reg = reg;
		break;
	case AT_RM:
		n->rm = reg;
		break;
	case AT_VVVV:
		n->vvvv = reg;
		break;
	default:
		n->opreg = reg;
		n->has_opreg = true;
	}
}

/* The scratch register that stands for a homed one; the same for all operands that name it. HOME: none is left. */
static u32 place_homed(struct xlate *x, struct enc *n, const struct x86_opnd *o)
{
	struct homed *h = n->homed;

	while (h < n->homed + n->nr_homed && h->guest != o->reg)
		h++;
	if (h == n->homed + n->nr_homed) {
		u32 reg = n->nr_homed < ARRAY_SIZE(n->homed) ? take_temp(n) : HOME;

		if (reg == HOME)
			return HOME;
		*h = (struct homed){.reg = (u8)reg, .guest = o->reg};
		n->nr_homed++;
	}
	if (!h->loaded && (o->access & OPND_R || o->size < 4)) {
		e_load(&x->e, h->reg, xlate_home(h->guest));
		h->loaded = true;
	}
	h->write |= o->access & OPND_W;
	return h->reg;
}

/* Finds a host register for a general register operand. */
static bool place_gpr(struct xlate *x, struct enc *n, const struct x86_opnd *o)
{
	u32 reg = xlate_host_reg(o->reg);

	if (o->where == AT_IMPLICIT) /* rax, rdx, rbx are themselves; rcx was seen to; others have no home for it */
		return reg == o->reg || o->reg == X86_RCX;
	if (reg == HOME)
		reg = place_homed(x, n, o);
	if (reg == HOME)
		return false;
	if (o->size == 1 && reg >= 4)
		n->need_rex = true;
	set_field(n, o, reg);
	return true;
}

/* movzx ecx, ah|ch|dh|bh; CH is in r9. */
static void load_high(struct xlate *x, u32 guest)
{
	if (guest == X86_RCX)
		e_mov(&x->e, T2, H_GUEST_RCX);
	e_op_rr(&x->e, 0, 0x0fb6, T2, 4 + guest);
}

static void store_high(struct xlate *x, u32 guest)
{
	struct emem slot = EENV(offsetof(struct tcg_cpu, scratch) + 8 * 7);

	if (guest != X86_RCX) {
		e_op_rr(&x->e, 0, 0x88, T2, 4 + guest); /* mov ah, cl */
		return;
	}
	e_store(&x->e, H_GUEST_RCX, slot);
	slot.disp++;
	e_op_mem(&x->e, 0, 0x88, T2, slot); /* mov [slot + 1], cl */
	slot.disp--;
	e_load(&x->e, H_GUEST_RCX, slot);
}

/* AH, CH, DH, BH cannot be named beside a REX prefix, which most rewritten operands want: then they go through cl. */
static bool place_high(struct xlate *x, const struct x86_insn *in, struct enc *n)
{
	const struct x86_opnd *high = NULL;

	for (u32 i = 0; i < in->nr_opnds; i++) {
		const struct x86_opnd *o = &in->opnd[i];

		if (o->kind != OPND_GPR8H || o->where == AT_IMPLICIT)
			continue;
		if (high) { /* two of them: only if nothing asks for a REX */
			if (uses_rex(in, n) || high->reg == X86_RCX || o->reg == X86_RCX)
				return false;
			set_field(n, o, 4u + o->reg);
			set_field(n, high, 4u + high->reg);
			return true;
		}
		high = o;
	}
	if (!high)
		return true;
	if (!uses_rex(in, n) && high->reg != X86_RCX) {
		set_field(n, high, 4u + high->reg);
		return true;
	}
	if (!(n->temps & BIT(T2)))
		return false;
	n->temps &= ~(u32)BIT(T2);
	load_high(x, high->reg);
	set_field(n, high, T2);
	n->high_guest = high->reg;
	n->high_write = high->access & OPND_W;
	return true;
}

static bool place_operands(struct xlate *x, const struct x86_insn *in, struct enc *n)
{
	for (u32 i = 0; i < in->nr_opnds; i++) {
		const struct x86_opnd *o = &in->opnd[i];

		if (o->kind == OPND_GPR && !place_gpr(x, n, o))
			return false;
		if (o->kind == OPND_XMM && o->where >= AT_REG && o->where <= AT_VVVV) /* all five bits of it */
			set_field(n, o, o->reg);
	}
	return place_high(x, in, n);
}

/* OPND_R, OPND_W: how fields of the encoding that name rcx, and are renamed, use it. */
static u32 named_rcx(const struct x86_insn *in)
{
	u32 access = in->has_modrm && in->mod != 3 && (in->mem.base == X86_RCX || in->mem.index == X86_RCX) ? OPND_R : 0;

	for (u32 i = 0; i < in->nr_opnds; i++) {
		const struct x86_opnd *o = &in->opnd[i];

		if ((o->kind == OPND_GPR || o->kind == OPND_GPR8H) && o->reg == X86_RCX && o->where != AT_IMPLICIT)
			access |= o->size < 4 ? OPND_R | o->access : o->access;
	}
	return access;
}

/* OPND_R, OPND_W: how the instruction uses rcx without a field for it: shift counts, CMPXCHG16B, PCMPESTRI. */
static u32 implicit_rcx(const struct x86_insn *in)
{
	for (u32 i = 0; i < in->nr_opnds; i++) {
		const struct x86_opnd *o = &in->opnd[i];

		if (o->where == AT_IMPLICIT && o->kind == OPND_GPR && o->reg == X86_RCX)
			return o->access;
	}
	if (in->op == OP_CMPXCHG8B || in->op == OP_CMPXCHG16B)
		return OPND_R;
	return ((in->gpr_read & BIT(X86_RCX) ? OPND_R : 0) | (in->gpr_write & BIT(X86_RCX) ? OPND_W : 0)) & ~named_rcx(in);
}

/* It gets a copy. False: no register is left. */
static bool place_rcx(struct xlate *x, const struct x86_insn *in, struct enc *n)
{
	u32 access = (in->gpr_read | in->gpr_write) & BIT(X86_RCX) ? implicit_rcx(in) : 0;

	if (!access)
		return true;
	if (!(n->temps & BIT(T2)))
		return false;
	n->temps &= ~(u32)BIT(T2);
	e_mov(&x->e, T2, H_GUEST_RCX);
	n->rcx_write = access & OPND_W;
	return true;
}

/* F2 and F3 that mean nothing are left out: F3 XCHG eax, esp would become PAUSE (its new register field is 0), and with LOCK they would
 * begin a transaction (XACQUIRE). */
static void emit_prefixes(struct xlate *x, const struct x86_insn *in)
{
	bool rep = in->map != MAP_1 && !in->lock;

	for (u32 i = 0; i < in->nr_prefixes; i++) {
		u8 p = in->bytes[i];

		if (p == 0x66 || p == 0xf0 || (rep && (p == 0xf2 || p == 0xf3)))
			e8(&x->e, p);
	}
}

/* REX.X of the memory operand. */
static u32 index_bit(const struct enc *n)
{
	return n->mem && n->at.index != H_RSP ? n->at.index >> 3 & 1u : 0;
}

static void put_legacy(struct ebytes *b, const struct x86_insn *in, const struct enc *n)
{
	u32 rex = 0x40 | (in->rex & 8) | (n->reg >> 3 & 1) << 2 | index_bit(n) << 1 | ((n->has_opreg ? n->opreg : n->rm) >> 3 & 1);

	if (rex != 0x40 || n->need_rex)
		b8(b, rex);
	if (in->map != MAP_1)
		b8(b, 0x0f);
	if (in->map == MAP_0F38)
		b8(b, 0x38);
	if (in->map == MAP_0F3A)
		b8(b, 0x3a);
	b8(b, n->has_opreg ? (in->opcode & ~7u) | (n->opreg & 7) : in->opcode);
}

static void put_vex(struct ebytes *b, const struct x86_insn *in, const struct enc *n)
{
	b8(b, 0xc4);
	b8(b, (n->reg >> 3 & 1 ? 0 : 0x80) | (index_bit(n) ? 0 : 0x40u) | (n->rm >> 3 & 1 ? 0 : 0x20) | in->map);
	b8(b, (u32)in->vex_w << 7 | (~n->vvvv & 15) << 3 | (u32)in->vex_l << 2 | in->vex_pp);
	b8(b, in->opcode);
}

static void put_evex(struct ebytes *b, const struct x86_insn *in, const struct enc *n)
{
	const u8 *p = in->bytes + in->at_vex;
	u32 p0 = p[1] & 0x0f;

	p0 |= (n->reg >> 3 & 1 ? 0 : 0x80) | (n->reg >> 4 & 1 ? 0 : 0x10) | (n->rm >> 3 & 1 ? 0 : 0x20);
	p0 |= (n->mem ? index_bit(n) : n->rm >> 4 & 1) ? 0 : 0x40;
	b8(b, 0x62);
	b8(b, p0);
	b8(b, (p[2] & 0x87) | (~n->vvvv & 15) << 3);
	b8(b, (p[3] & ~8u) | (n->vvvv >> 4 & 1 ? 0 : 8));
	b8(b, in->opcode);
}

/* ModRM and displacement; EVEX scales one of 8 bits (SDM 2A §2.7.5): always one of 32. */
static void emit_operand(struct xlate *x, const struct x86_insn *in, struct ebytes *b, const struct enc *n)
{
	if (in->enc != ENC_EVEX || !n->at.disp) {
		e_put_mem(&x->e, b, n->reg, n->at);
		return;
	}
	b8(b, 0x80 | (n->reg & 7) << 3 | (n->at.base & 7u));
	e_put(&x->e, b);
	e32(&x->e, (u32)n->at.disp);
}

static void emit_imm(struct xlate *x, const struct x86_insn *in)
{
	const u8 *imm = in->bytes + in->at_imm;

	if (in->imm_size == 4) {
		e32(&x->e, ld_le32(imm));
		return;
	}
	for (u32 i = 0; i < in->imm_size; i++)
		e8(&x->e, imm[i]);
}

static void emit_insn(struct xlate *x, const struct x86_insn *in, const struct enc *n)
{
	struct ebytes b = {0};

	if (in->nr_prefixes)
		emit_prefixes(x, in);
	if (in->enc == ENC_LEGACY)
		put_legacy(&b, in, n);
	else if (in->enc == ENC_VEX)
		put_vex(&b, in, n);
	else
		put_evex(&b, in, n);
	if (in->has_modrm && n->mem) {
		emit_operand(x, in, &b, n);
	} else {
		if (in->has_modrm)
			b8(&b, 0xc0 | (n->reg & 7) << 3 | (n->rm & 7));
		e_put(&x->e, &b);
	}
	if (in->at_imm)
		emit_imm(x, in);
}

static void write_back(struct xlate *x, const struct enc *n)
{
	for (u32 i = 0; i < n->nr_homed; i++) {
		if (n->homed[i].write)
			e_store(&x->e, n->homed[i].reg, xlate_home(n->homed[i].guest));
	}
	if (n->high_guest != HOME && n->high_write)
		store_high(x, n->high_guest);
	if (n->rcx_write)
		e_mov(&x->e, H_GUEST_RCX, T2);
}

/* The operand, which may take T0 and T1. */
static void place_memory(struct xlate *x, const struct x86_insn *in, struct enc *n)
{
	n->at = xlate_operand(x, in);
	if (n->at.index == T1 && xlate_temps_needed(in) > (n->at.base != T0 ? 2u : 1u))
		n->at = xlate_fold(x, n->at);
	n->mem = true;
	n->rm = n->at.base;
	n->temps &= ~(u32)(BIT(n->at.base) | BIT(n->at.index));
}

/* Whether general register operands are in the fields of the encoding with their guest's number, and no other register is renamed. */
static bool keeps_operands(const struct x86_insn *in)
{
	u32 renamed = (in->gpr_read | in->gpr_write) & RENAMED;

	if (renamed & BIT(X86_RCX) && in->mem.base != X86_RCX && in->mem.index != X86_RCX)
		return false;
	for (u32 i = 0; i < in->nr_opnds; i++) {
		const struct x86_opnd *o = &in->opnd[i];

		if (o->kind == OPND_GPR8H || (o->kind == OPND_GPR && BIT(o->reg) & RENAMED))
			return false;
	}
	return true;
}

u8 xlate_form(const struct x86_insn *in)
{
	u32 other = in->enc | in->mem.moffs;

	if (!(in->has_modrm & (in->mod != 3)))
		return ((in->gpr_read | in->gpr_write) & RENAMED) | in->nr_prefixes | other ? NOTE_OTHER : NOTE_COPY;
	return !other && in->map <= MAP_0F && in->op < OP_VEC && in->mem.access && in->mem.size && keeps_operands(in) ? NOTE_MEMORY
														      : NOTE_OTHER;
}

void xlate_copy(struct xlate *x, const struct x86_insn *in)
{
	st_le64(x->e.p, ld_le64(in->bytes));
	st_le64(x->e.p + 7, ld_le64(in->bytes + 7));
	x->e.p += in->len;
}

/* The operand is off T0, or has T1 for its index: so there is a REX. */
void xlate_memory(struct xlate *x, const struct x86_insn *in)
{
	struct emem m = xlate_operand(x, in);
	struct ebytes b;

	if (in->nr_prefixes)
		emit_prefixes(x, in);
	b.v = e_rex_mem(in->rex >> 3 & 1, in->reg, m) | (in->map ? 0x0f00 | (u32)in->opcode << 16 : (u32)in->opcode << 8);
	b.n = 2u + in->map;
	e_put_mem(&x->e, &b, in->reg, m);
	st_le32(x->e.p, (u32)in->imm); /* of 8 bytes: not with memory */
	x->e.p += in->imm_size;
}

bool xlate_generic(struct xlate *x, const struct x86_insn *in)
{
	struct enc n;
	bool ok;

	if (in->mem.moffs)
		return false;
	n = (struct enc){.reg = in->reg, .rm = in->rm, .vvvv = in->vvvv, .high_guest = HOME};
	n.temps = BIT(T1) | BIT(T2) | (x->group.on ? 0 : (u32)BIT(T0));
	if (in->has_modrm && in->mod != 3) {
		if (!in->mem.access || in->mem.size == 0 || in->mem.size > 64)
			return false;
		place_memory(x, in, &n);
	}
	ok = place_rcx(x, in, &n) && place_operands(x, in, &n);
	if (!ok)
		return false;
	emit_insn(x, in, &n);
	write_back(x, &n);
	return true;
}

bool xlate_lea(struct xlate *x, const struct x86_insn *in)
{
	u32 dst = xlate_host_reg(in->opnd[0].reg), to = dst == HOME ? T0 : dst;
	const struct x86_mem *m = &in->mem;
	bool wide = in->opsize == 8 && in->adsize == 8;
	u32 base, index;

	if (in->opsize == 2)
		return false;
	if (m->base == X86_RIP || m->base == X86_NO_REG) {
		u64 constant = (u64)(s64)m->disp + (m->base == X86_RIP ? x->insn_va[x->cur] + in->len : 0);

		if (m->index == X86_NO_REG) {
			if (m->base == X86_RIP && wide)
				xlate_mov_va(x, to, constant);
			else
				e_mov_imm(&x->e, to, wide ? constant : (u32)constant);
			x->fixed |= m->base == X86_RIP && !wide;
		} else {
			index = xlate_get(x, m->index, T1);
			e8(&x->e, 0x40 | (u32)wide << 3 | (to >> 3) << 2 | (index >> 3) << 1);
			e8(&x->e, 0x8d);
			e8(&x->e, (to & 7) << 3 | 4);
			e8(&x->e, (m->scale == 8 ? 3u : m->scale == 4 ? 2u : m->scale == 2 ? 1u : 0u) << 6 | (index & 7) << 3 | 5);
			e32(&x->e, (u32)m->disp);
		}
	} else {
		base = xlate_get(x, m->base, T0);
		index = m->index == X86_NO_REG ? H_RSP : xlate_get(x, m->index, T1);
		e_op_mem(&x->e, wide, 0x8d, to, EMEMX(base, index, m->scale, m->disp));
	}
	if (dst == HOME)
		e_store(&x->e, to, xlate_home(in->opnd[0].reg));
	return true;
}
