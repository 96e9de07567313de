/* xlate_mem.c: the memory operand in translated code: address, TLB check, host address (design/tcg.md 4). */
#include "tcg/x86_64/xlate_impl.h"

u32 xlate_get(struct xlate *x, u32 guest, u32 tmp)
{
	u32 reg = xlate_host_reg(guest);

	if (reg != HOME)
		return reg;
	e_load(&x->e, tmp, xlate_home(guest));
	return tmp;
}

static void add_segment(struct xlate *x, const struct x86_insn *in)
{
	struct emem base = EENV(offsetof(struct tcg_cpu, seg) + in->mem.seg * sizeof(struct x86_seg) + offsetof(struct x86_seg, base));

	if (in->mem.seg != X86_FS && in->mem.seg != X86_GS)
		return;
	if (!xlate_live(x)) {
		e_op_mem(&x->e, 1, 0x03, T0, base); /* add T0, [base] */
		return;
	}
	e_load(&x->e, T1, base);
	e_lea(&x->e, T0, EMEMX(T0, T1, 1, 0));
}

void xlate_ea(struct xlate *x, const struct x86_insn *in)
{
	const struct x86_mem *m = &in->mem;
	bool wide = in->adsize == 8;
	u64 constant = m->moffs ? (u64)in->imm : (u64)(s64)m->disp;

	if (m->base == X86_RIP || (m->base == X86_NO_REG && m->index == X86_NO_REG)) {
		if (m->base == X86_RIP)
			constant += x->insn_va[x->cur] + in->len;
		if (m->base == X86_RIP && wide)
			xlate_mov_va(x, T0, constant);
		else
			e_mov_imm(&x->e, T0, wide ? constant : (u32)constant);
		x->fixed |= m->base == X86_RIP && !wide;
	} else {
		u32 base = m->base == X86_NO_REG ? 0 : xlate_get(x, m->base, T0);
		u32 index = m->index == X86_NO_REG ? H_RSP : xlate_get(x, m->index, T1);

		if (m->base == X86_NO_REG) { /* [index * scale + disp32]: mod 0, SIB base 5 */
			e8(&x->e, 0x40 | (u32)wide << 3 | (T0 >> 3) << 2 | (index >> 3) << 1);
			e8(&x->e, 0x8d);
			e8(&x->e, (T0 & 7) << 3 | 4);
			e8(&x->e, (m->scale == 8 ? 3u : m->scale == 4 ? 2u : m->scale == 2 ? 1u : 0u) << 6 | (index & 7) << 3 | 5);
			e32(&x->e, (u32)m->disp);
		} else if (index == H_RSP && !m->disp && wide) {
			if (base != T0)
				e_mov(&x->e, T0, base);
		} else {
			e_op_mem(&x->e, wide, 0x8d, T0, EMEMX(base, index, m->scale, m->disp)); /* lea T0, [...] */
		}
	}
	add_segment(x, in);
}

/*
 * Flags are free; B holds the address:
 *	rorx	T1, B, 8
 *	and	T1d, index mask << 4
 *	mov	T2, [rsp + T1 + neg]
 *	add	T2, B				offset in the page, if it is the page of this entry
 *	cmp	T2, 4096 - size
 *	ja	slow
 *	mov	T1, [rsp + T1 + addend]		or, to make T0 the host address:	add	T0, [rsp + T1 + addend]
 */
static void check_dead(struct xlate *x, const struct check *c, s32 table, struct tail *slow)
{
	u64 reg = c->reg & 7, high = c->reg >> 3, mask = x->tlb_index_mask, room = 4096 - c->span, neg = (u32)table,
	    addend = (u32)(table + 8);
	u8 *p = x->e.p;

	_Static_assert(offsetof(struct tcg_cpu, k_r) > 127 && offsetof(struct tcg_cpu, k_w) > 127 && TCG_CTX_OFFSET > 127,
		       "displacements of 4 bytes");
	/* As e_rorx(), e_alu_imm(), e_load()... would have it; but there is more of this than of anything else. */
	st_le64(p, 0x814108d8f0fb63c4 ^ high << 13 ^ reg << 32);
	st_le64(p + 8, 0x8c8b4a00000000e3 | mask << 8);
	st_le64(p + 16, 0xc10148000000001c | neg << 8 | high << 42 | reg << 59);
	st_le64(p + 24, 0x0f00000000f98148 | room << 24);
	st_le64(p + 32, c->fold ? 0x94034e0000000087 : 0x9c8b4e0000000087);
	st_le64(p + 40, 0x1c | addend << 8);
	slow->fix[0] = p + 33;
	x->e.p = p + 45;
}

/*
 * Flags must survive:
 *	pext	T1, B, [rsp + index mask]
 *	lea	T1, [T1 + T1]			* 8 in the address: 16 bytes per entry
 *	mov	T2, [rsp + T1 * 8 + neg]
 *	lea	T2, [T2 + B + size - 1]
 *	pext	T2, T2, [rsp + page mask]	zero: the last byte is in the page, and with TCG_TLB_NEVER the first one, too
 *	jrcxz	1f
 *	jmp	slow
 * 1:	mov	T1, [rsp + T1 * 8 + addend]
 *	[lea	T0, [T0 + T1]]
 */
static void check_live(struct xlate *x, const struct check *c, s32 table, struct tail *slow)
{
	e_pext(&x->e, T1, c->reg, EENV(x->pext_mask));
	st_le32(x->e.p, 0x1b1c8d4f); /* lea T1, [T1 + T1] */
	st_le64(x->e.p + 4, 0xdc8c8b4a | (u64)(u32)table << 32);
	x->e.p += 12;
	e_lea(&x->e, T2, EMEMX(T2, c->reg, 1, c->span - 1));
	e_pext(&x->e, T2, T2, EENV(offsetof(struct tcg_cpu, page_mask)));
	st_le64(x->e.p, 0xe905e3);
	slow->fix[0] = x->e.p + 3;
	st_le64(x->e.p + 7, 0xdc9c8b4e | (u64)(u32)(table + 8) << 32);
	x->e.p += 15;
	if (c->fold)
		e_lea(&x->e, T0, EMEMX(T0, T1, 1, 0));
}

struct emem xlate_check(struct xlate *x, const struct check *c)
{
	u32 offset = (u32)(x->insn_va[x->cur] - x->va) & 0xffff, live = xlate_live(x);
	struct tail *slow = xlate_tail(x, TAIL_SLOW, live, NULL, c->size | (u32)c->write << 7 | (live ? 0x100u : 0) | offset << 16);
	s32 table = c->write ? x->tlb_w : x->tlb_r;

	slow->retry = c->retry;
	slow->reg = (u8)c->reg;
	slow->group = c->span == c->size ? 0 : c->first | c->span << 16;
	if (live)
		check_live(x, c, table, slow);
	else
		check_dead(x, c, table, slow);
	return c->fold ? EMEM(T0, 0) : EMEMX(c->reg, T1, 1, 0);
}

struct emem xlate_fold(struct xlate *x, struct emem m)
{
	if (m.index == H_RSP)
		return m;
	e_lea(&x->e, T0, m);
	return EMEM(T0, 0);
}
