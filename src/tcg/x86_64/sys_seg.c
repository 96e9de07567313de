/* sys_seg.c: instructions on segment registers and descriptor tables (SDM 3A §2.8, §5.10). Lean. */
#include "tcg/x86_64/sys.h"

void sys_mov_from_sreg(struct tcg_cpu *c, const struct x86_insn *insn)
{
	sys_write_rm(c, insn, c->seg[insn->sreg].selector);
}

void sys_mov_to_sreg(struct tcg_cpu *c, const struct x86_insn *insn)
{
	if (insn->sreg == X86_CS || insn->sreg > X86_GS)
		tcg_raise(c, X86_UD);
	sys_load_seg(c, insn->sreg, sys_read_rm16(c, insn));
	if (insn->sreg == X86_SS)
		c->shadow = 2;
}

void sys_load_far(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 va = interp_ea(c, insn, insn->opsize + 2u, false);
	u64 offset = mmu_load(c, va, insn->opsize, tcg_data_mode(c));
	u16 selector = (u16)mmu_load(c, va + insn->opsize, 2, tcg_data_mode(c));

	sys_load_seg(c, insn->sreg, selector);
	interp_set_reg(c, insn->reg, insn->opsize, offset);
}

void sys_push_sreg(struct tcg_cpu *c, const struct x86_insn *insn)
{
	struct sys_stack s;

	sys_stack_here(c, &s);
	sys_stack_push(c, &s, insn->opsize, c->seg[insn->sreg].selector);
	sys_stack_commit(c, &s);
}

void sys_pop_sreg(struct tcg_cpu *c, const struct x86_insn *insn)
{
	struct sys_stack s;
	u16 selector;

	sys_stack_here(c, &s);
	selector = (u16)sys_stack_pop(c, &s, insn->opsize);
	sys_load_seg(c, insn->sreg, selector);
	sys_stack_commit(c, &s);
	if (insn->sreg == X86_SS)
		c->shadow = 2;
}

/* ---- descriptor tables ---- */

/* Not one store but two, as the processor does; both pages are checked first. */
void sys_store_table(struct tcg_cpu *c, const struct x86_insn *insn)
{
	const struct x86_dtable *t = insn->op == OP_SGDT ? &c->gdt : &c->idt;
	u32 size = tcg_is_64(c) ? 8 : 4;
	u64 va;

	sys_check_umip(c);
	va = interp_ea(c, insn, size + 2, true);
	mmu_probe(c, va, size + 2, MMU_WRITE, tcg_data_mode(c));
	mmu_store(c, va, 2, t->limit, tcg_data_mode(c));
	mmu_store(c, va + 2, size, sys_cut(t->base, size), tcg_data_mode(c));
}

void sys_load_table(struct tcg_cpu *c, const struct x86_insn *insn)
{
	struct x86_dtable *t = insn->op == OP_LGDT ? &c->gdt : &c->idt;
	u32 size = tcg_is_64(c) ? 8 : 4;
	u64 va, base;
	u16 limit;

	sys_need_cpl0(c);
	va = interp_ea(c, insn, size + 2, false);
	limit = (u16)mmu_load(c, va, 2, tcg_data_mode(c));
	base = mmu_load(c, va + 2, size, tcg_data_mode(c));
	if (size == 8 && !tcg_canonical(base))
		sys_gp(c, 0);
	if (size == 4 && insn->opsize == 2)
		base &= 0xffffff;
	*t = (struct x86_dtable){.base = base, .limit = limit};
}

void sys_sldt_str(struct tcg_cpu *c, const struct x86_insn *insn)
{
	sys_need_protected(c);
	sys_check_umip(c);
	sys_write_rm(c, insn, c->seg[insn->op == OP_SLDT ? X86_LDTR : X86_TR].selector);
}

/* The descriptor for LDTR or TR, which lies in the GDT; base in out. */
static void load_system(struct tcg_cpu *c, u16 selector, bool tr, struct sys_desc *d, struct x86_seg *out)
{
	u32 error = selector & ~3u, type;

	if (selector & 4)
		sys_gp(c, error);
	sys_desc_get(c, selector, X86_GP, d);
	type = d->attr & (X86_ATTR_TYPE | X86_ATTR_S);
	if (tr ? type != DESC_TSS32 && (type != DESC_TSS16 || sys_long(c)) : type != DESC_LDT)
		sys_gp(c, error);
	if (!(d->attr & X86_ATTR_P))
		tcg_raise_err(c, X86_NP, error);
	sys_desc_seg(d, selector, out);
	if (sys_long(c)) {
		out->base |= sys_desc_high(c, d, X86_GP) << 32;
		if (!tcg_canonical(out->base))
			sys_gp(c, error);
	}
}

void sys_lldt(struct tcg_cpu *c, const struct x86_insn *insn)
{
	struct x86_seg seg;
	struct sys_desc d;
	u16 selector;

	sys_need_protected(c);
	sys_need_cpl0(c);
	selector = sys_read_rm16(c, insn);
	if (sys_null(selector)) {
		c->seg[X86_LDTR] = (struct x86_seg){.selector = selector, .attr = X86_SEG_UNUSABLE | DESC_LDT};
		return;
	}
	load_system(c, selector, false, &d, &seg);
	c->seg[X86_LDTR] = seg;
}

void sys_ltr(struct tcg_cpu *c, const struct x86_insn *insn)
{
	struct x86_seg seg;
	struct sys_desc d;
	u16 selector;

	sys_need_protected(c);
	sys_need_cpl0(c);
	selector = sys_read_rm16(c, insn);
	if (sys_null(selector))
		sys_gp(c, 0);
	load_system(c, selector, true, &d, &seg);
	seg.attr |= 2; /* busy */
	sys_store(c, d.va + 5, 1, seg.attr & 0xff);
	c->seg[X86_TR] = seg;
}

/* ---- asking about selectors: ZF says whether ---- */

static void set_zf(struct tcg_cpu *c, bool zf)
{
	c->rflags = zf ? c->rflags | X86_FLAG_ZF : c->rflags & ~X86_FLAG_ZF;
}

/* The descriptor may be seen from CPL and RPL. */
static bool visible(const struct tcg_cpu *c, const struct sys_desc *d)
{
	if (desc_is_code(d->attr) && d->attr & DESC_CONFORMING)
		return true;
	return desc_dpl(d) >= c->cpl && desc_dpl(d) >= (d->selector & 3u);
}

void sys_verify(struct tcg_cpu *c, const struct x86_insn *insn)
{
	struct sys_desc d;
	u16 selector;
	bool ok;

	sys_need_protected(c);
	selector = sys_read_rm16(c, insn);
	ok = sys_desc_find(c, selector, &d) && d.attr & X86_ATTR_S && visible(c, &d);
	if (ok && insn->op == OP_VERW)
		ok = desc_is_writable(d.attr);
	else if (ok && desc_is_code(d.attr))
		ok = d.attr & DESC_WRITABLE;
	set_zf(c, ok);
}

/* System descriptors that LAR and LSL know, as bits by type (SDM 2A tables 3-53, 3-54). */
#define LAR_TYPES      0x1a3eu
#define LAR_TYPES_LONG 0x1a04u
#define LSL_TYPES      0x0a0eu
#define LSL_TYPES_LONG 0x0a04u

void sys_lar_lsl(struct tcg_cpu *c, const struct x86_insn *insn)
{
	bool lar = insn->op == OP_LAR, ok;
	u32 types = lar ? (sys_long(c) ? LAR_TYPES_LONG : LAR_TYPES) : sys_long(c) ? LSL_TYPES_LONG : LSL_TYPES;
	struct sys_desc d;
	u16 selector;

	sys_need_protected(c);
	selector = sys_read_rm16(c, insn);
	ok = sys_desc_find(c, selector, &d) && (d.attr & X86_ATTR_S || types >> (d.attr & X86_ATTR_TYPE) & 1) && visible(c, &d);
	set_zf(c, ok);
	if (ok)
		interp_set_reg(c, insn->reg, insn->opsize, sys_cut(lar ? d.low >> 32 & 0xffff00 : desc_limit(d.low), insn->opsize));
}

void sys_arpl(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u16 rpl = (u16)(c->gpr[insn->reg] & 3), selector;

	sys_need_protected(c);
	if (insn->mod != 3)
		mmu_probe(c, interp_ea(c, insn, 2, true), 2, MMU_WRITE, tcg_data_mode(c));
	selector = sys_read_rm16(c, insn);
	set_zf(c, (selector & 3) < rpl);
	if ((selector & 3) >= rpl)
		return;
	selector = (u16)((selector & ~3u) | rpl);
	if (insn->mod == 3)
		interp_set_reg(c, insn->rm, 2, selector);
	else
		mmu_store(c, interp_ea(c, insn, 2, true), 2, selector, tcg_data_mode(c));
}

/* ---- FS and GS bases ---- */

void sys_swapgs(struct tcg_cpu *c, const struct x86_insn *insn)
{
	u64 gs = c->seg[X86_GS].base;

	(void)insn;
	if (!tcg_is_64(c))
		tcg_raise(c, X86_UD);
	sys_need_cpl0(c);
	c->seg[X86_GS].base = c->kernel_gs_base;
	c->kernel_gs_base = gs;
}

void sys_fsgsbase(struct tcg_cpu *c, const struct x86_insn *insn)
{
	struct x86_seg *seg = &c->seg[insn->op == OP_RDFSBASE || insn->op == OP_WRFSBASE ? X86_FS : X86_GS];

	if (!tcg_is_64(c) || !(c->cr4 & X86_CR4_FSGSBASE))
		tcg_raise(c, X86_UD);
	if (insn->op == OP_RDFSBASE || insn->op == OP_RDGSBASE) {
		interp_set_reg(c, insn->rm, insn->opsize, sys_cut(seg->base, insn->opsize));
		return;
	}
	if (insn->opsize == 8 && !tcg_canonical(c->gpr[insn->rm]))
		sys_gp(c, 0);
	seg->base = sys_cut(c->gpr[insn->rm], insn->opsize);
}
