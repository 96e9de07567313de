/* sys_desc.c: segment descriptors: finding them, checking them, loading segment registers (SDM 3A §3.4, §5). Lean. */
#include "tcg/x86_64/sys.h"

u64 sys_load(struct tcg_cpu *c, u64 va, u32 size)
{
	return mmu_load(c, sys_long(c) ? va : (u32)va, size, TCG_KERNEL);
}

void sys_store(struct tcg_cpu *c, u64 va, u32 size, u64 value)
{
	mmu_store(c, sys_long(c) ? va : (u32)va, size, value, TCG_KERNEL);
}

/* Base and limit of the table that a selector points into. False: there is no LDT. */
static bool table_of(const struct tcg_cpu *c, u16 selector, u64 *base, u32 *limit)
{
	const struct x86_seg *ldt = &c->seg[X86_LDTR];

	*base = selector & 4 ? ldt->base : c->gdt.base;
	*limit = selector & 4 ? ldt->limit : c->gdt.limit;
	return !(selector & 4) || (!(ldt->attr & X86_SEG_UNUSABLE) && ldt->attr & X86_ATTR_P);
}

bool sys_desc_find(struct tcg_cpu *c, u16 selector, struct sys_desc *d)
{
	u64 base;
	u32 limit;

	if (sys_null(selector) || !table_of(c, selector, &base, &limit) || (selector | 7u) > limit)
		return false;
	d->va = base + (selector & ~7u);
	d->low = sys_load(c, d->va, 8);
	d->attr = desc_attr(d->low);
	d->selector = selector;
	return true;
}

void sys_desc_get(struct tcg_cpu *c, u16 selector, u8 vector, struct sys_desc *d)
{
	if (!sys_desc_find(c, selector, d))
		tcg_raise_err(c, vector, selector & ~3u);
}

u64 sys_desc_high(struct tcg_cpu *c, const struct sys_desc *d, u8 vector)
{
	u64 base;
	u32 limit;

	if (!table_of(c, d->selector, &base, &limit) || (d->selector & ~7u) + 15 > limit)
		tcg_raise_err(c, vector, d->selector & ~3u);
	return sys_load(c, d->va + 8, 8);
}

void sys_desc_touch(struct tcg_cpu *c, struct sys_desc *d)
{
	if (d->attr & DESC_ACCESSED)
		return;
	d->attr |= DESC_ACCESSED;
	d->low |= BIT(40);
	sys_store(c, d->va + 5, 1, d->attr & 0xff);
}

void sys_desc_seg(const struct sys_desc *d, u16 selector, struct x86_seg *out)
{
	*out = (struct x86_seg){.base = desc_base(d->low), .limit = desc_limit(d->low), .selector = selector, .attr = (u16)d->attr};
}

void sys_null_ss(struct x86_seg *ss, u32 cpl)
{
	*ss = (struct x86_seg){.selector = (u16)cpl, .attr = (u16)(X86_SEG_UNUSABLE | cpl << 5)};
}

/* A null selector: legal but for SS outside 64-bit mode, and there at CPL 3 or with another RPL (SDM 2B MOV). */
static void load_null(struct tcg_cpu *c, u32 seg, u16 selector)
{
	if (seg != X86_SS) {
		c->seg[seg] = (struct x86_seg){.selector = selector, .attr = X86_SEG_UNUSABLE};
		return;
	}
	if (!tcg_is_64(c) || c->cpl == 3 || (selector & 3) != c->cpl)
		sys_gp(c, 0);
	sys_null_ss(&c->seg[X86_SS], c->cpl);
}

static void check_ss(struct tcg_cpu *c, const struct sys_desc *d)
{
	if ((d->selector & 3) != c->cpl || !desc_is_writable(d->attr) || desc_dpl(d) != c->cpl)
		sys_gp(c, d->selector & ~3u);
	if (!(d->attr & X86_ATTR_P))
		tcg_raise_err(c, X86_SS_EXC, d->selector & ~3u);
}

static void check_data(struct tcg_cpu *c, const struct sys_desc *d)
{
	bool code = d->attr & DESC_CODE;

	if (!(d->attr & X86_ATTR_S) || (code && !(d->attr & DESC_WRITABLE)))
		sys_gp(c, d->selector & ~3u);
	if (!(code && d->attr & DESC_CONFORMING) && (desc_dpl(d) < (d->selector & 3u) || desc_dpl(d) < c->cpl))
		sys_gp(c, d->selector & ~3u);
	if (!(d->attr & X86_ATTR_P))
		tcg_raise_err(c, X86_NP, d->selector & ~3u);
}

/* In real mode limit and attributes stay what they are ("unreal mode"), unless there is none. */
void sys_set_real_seg(struct tcg_cpu *c, u32 seg, u16 selector)
{
	struct x86_seg *s = &c->seg[seg];

	s->selector = selector;
	s->base = (u64)selector << 4;
	if (c->rflags & X86_FLAG_VM) {
		s->limit = 0xffff;
		s->attr = 0xf3;
	} else if (s->attr & X86_SEG_UNUSABLE) {
		s->limit = 0xffff;
		s->attr = 0x93;
	}
}

void sys_load_seg(struct tcg_cpu *c, u32 seg, u16 selector)
{
	struct sys_desc d;

	if (!sys_protected(c)) {
		sys_set_real_seg(c, seg, selector);
	} else if (sys_null(selector)) {
		load_null(c, seg, selector);
	} else {
		sys_desc_get(c, selector, X86_GP, &d);
		if (seg == X86_SS)
			check_ss(c, &d);
		else
			check_data(c, &d);
		sys_desc_touch(c, &d);
		sys_desc_seg(&d, selector, &c->seg[seg]);
	}
	if (!tcg_is_64(c) || seg == X86_SS)
		tcg_mode_update(c);
}

/* ---- code segments ---- */

void sys_check_rip(struct tcg_cpu *c, const struct x86_seg *cs, u64 rip)
{
	if (sys_long(c) && cs->attr & X86_ATTR_L ? !tcg_canonical(rip) : rip > cs->limit)
		sys_gp(c, 0);
}

void sys_set_cs(struct tcg_cpu *c, const struct x86_seg *cs, u32 cpl, u64 rip)
{
	c->seg[X86_CS] = *cs;
	c->seg[X86_CS].selector = (u16)((cs->selector & ~3u) | cpl);
	c->cpl = (u8)cpl;
	c->rip = rip;
	tcg_mode_update(c);
}

void sys_flat_cs_ss(struct tcg_cpu *c, u16 cs, u16 ss, u32 cpl, bool is_64)
{
	u32 common = cpl << 5 | X86_ATTR_P | X86_ATTR_S | X86_ATTR_G;

	c->seg[X86_CS] = (struct x86_seg){
		.selector = cs, .limit = UINT32_MAX, .attr = (u16)(common | 0xb | (is_64 ? X86_ATTR_L : X86_ATTR_DB))};
	c->seg[X86_SS] = (struct x86_seg){.selector = ss, .limit = UINT32_MAX, .attr = (u16)(common | 0x3 | X86_ATTR_DB)};
	c->cpl = (u8)cpl;
	tcg_mode_update(c);
}

void sys_set_real_cs(struct tcg_cpu *c, u16 selector, u64 rip)
{
	if (rip > c->seg[X86_CS].limit)
		sys_gp(c, 0);
	sys_set_real_seg(c, X86_CS, selector);
	c->rip = rip;
	tcg_mode_update(c);
}
