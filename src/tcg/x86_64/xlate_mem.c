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

/* Flags are free:
 *	rorx	T1, T0, 8
 *	and	T1d, index mask << 4
 *	add	T0, [rsp + T1 + neg]		offset in the page, if it is the page of this entry
 *	cmp	T0, 4096 - size
 *	ja	slow
 *	add	T0, [rsp + T1 + host]
 */
static void check_dead(struct xlate *x, u32 size, s32 table, struct tail *slow)
{
	e_rorx(&x->e, T1, T0, 8);
	e_alu_imm(&x->e, 0, 4, T1, (s32)x->tlb_index_mask);
	e_op_mem(&x->e, 1, 0x03, T0, EMEMX(H_RSP, T1, 1, table));
	e_alu_imm(&x->e, 1, 7, T0, (s32)(4096 - size));
	slow->fix[0] = e_jcc(&x->e, CC_A, NULL);
	e_op_mem(&x->e, 1, 0x03, T0, EMEMX(H_RSP, T1, 1, table + 8));
}

/* Flags must survive:
 *	pext	T1, T0, [rsp + index mask]
 *	lea	T1, [T1 + T1]			* 8 in the address: 16 bytes per entry
 *	mov	T2, [rsp + T1 * 8 + neg]
 *	lea	T0, [T0 + T2]
 *	lea	T2, [T0 + size - 1]
 *	pext	T2, T2, [rsp + page mask]	zero: the last byte is in the page, too
 *	jrcxz	1f
 *	jmp	slow
 * 1:	mov	T1, [rsp + T1 * 8 + host]
 *	lea	T0, [T0 + T1]
 */
static void check_live(struct xlate *x, u32 size, s32 table, struct tail *slow)
{
	e_pext(&x->e, T1, T0, EENV(x->pext_mask));
	e_lea(&x->e, T1, EMEMX(T1, T1, 1, 0));
	e_load(&x->e, T2, EMEMX(H_RSP, T1, 8, table));
	e_lea(&x->e, T0, EMEMX(T0, T2, 1, 0));
	e_lea(&x->e, T2, EMEM(T0, size - 1));
	e_pext(&x->e, T2, T2, EENV(offsetof(struct tcg_cpu, page_mask)));
	e_jrcxz(&x->e, 5);
	slow->fix[0] = e_jmp(&x->e, NULL);
	e_load(&x->e, T1, EMEMX(H_RSP, T1, 8, table + 8));
	e_lea(&x->e, T0, EMEMX(T0, T1, 1, 0));
}

void xlate_check_group(struct xlate *x, u32 span, u32 first, u32 size, bool write, u8 *retry)
{
	u32 offset = (u32)(x->insn_va[x->cur] - x->va) & 0xffff, live = xlate_live(x);
	struct tail *slow = xlate_tail(x, TAIL_SLOW, live, NULL, size | (u32)write << 7 | (live ? 0x100u : 0) | offset << 16);
	s32 table = write ? x->tlb_w : x->tlb_r;

	slow->retry = retry;
	slow->group = span == size ? 0 : first | span << 16;
	if (slow->live)
		check_live(x, span, table, slow);
	else
		check_dead(x, span, table, slow);
}

void xlate_check(struct xlate *x, u32 size, bool write, u8 *retry)
{
	xlate_check_group(x, size, 0, size, write, retry);
}
