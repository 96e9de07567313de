/* sys_stack.c: stacks that are not, or not yet, the guest's current one: far returns, gates, exceptions (SDM 3A §5.8.5, §6.12). Lean. */
#include "tcg/x86_64/sys.h"

void sys_stack_of(struct tcg_cpu *c, struct sys_stack *s, const struct x86_seg *seg, u64 sp, u32 cpl, bool is_64, u32 error)
{
	s->seg = *seg;
	s->sp = sp;
	s->flat = is_64;
	s->mask = is_64 ? UINT64_MAX : seg->attr & X86_ATTR_DB ? UINT32_MAX : 0xffff;
	s->mode = cpl == 3 ? TCG_USER : c->mode & TCG_MODE_AC ? TCG_KERNEL_AC : TCG_KERNEL;
	s->error = error;
}

void sys_stack_here(struct tcg_cpu *c, struct sys_stack *s)
{
	sys_stack_of(c, s, &c->seg[X86_SS], c->gpr[X86_RSP], c->cpl, tcg_is_64(c), 0);
}

/* Whether size bytes at offset lie within the segment, which may grow down (SDM 3A §5.3). */
static bool in_limit(const struct x86_seg *seg, u64 offset, u32 size)
{
	u64 last = offset + size - 1;

	if (seg->attr & X86_SEG_UNUSABLE)
		return false;
	if (!(seg->attr & DESC_CODE) && seg->attr & DESC_CONFORMING)
		return offset > seg->limit && last <= (seg->attr & X86_ATTR_DB ? UINT32_MAX : 0xffff);
	return last <= seg->limit;
}

static u64 stack_linear(struct tcg_cpu *c, const struct sys_stack *s, u32 size)
{
	u64 offset = s->sp & s->mask;

	if (s->flat) {
		if (!tcg_canonical(offset) || !tcg_canonical(offset + size - 1))
			tcg_raise_err(c, X86_SS_EXC, s->error);
		return offset;
	}
	if (!in_limit(&s->seg, offset, size))
		tcg_raise_err(c, X86_SS_EXC, s->error);
	return (u32)(s->seg.base + offset);
}

void sys_stack_skip(struct sys_stack *s, s64 bytes)
{
	s->sp = (s->sp & ~s->mask) | ((s->sp + (u64)bytes) & s->mask);
}

u64 sys_stack_pop(struct tcg_cpu *c, struct sys_stack *s, u32 size)
{
	u64 value = mmu_load(c, stack_linear(c, s, size), size, s->mode);

	sys_stack_skip(s, size);
	return value;
}

void sys_stack_push(struct tcg_cpu *c, struct sys_stack *s, u32 size, u64 value)
{
	sys_stack_skip(s, -(s64)size);
	mmu_store(c, stack_linear(c, s, size), size, sys_cut(value, size), s->mode);
}

void sys_stack_commit(struct tcg_cpu *c, const struct sys_stack *s)
{
	c->gpr[X86_RSP] = s->mask == UINT32_MAX ? (u32)s->sp : s->sp;
}

/* Checks that a field of the TSS lies within its limit. */
static u64 tss_field(struct tcg_cpu *c, u32 offset, u32 size)
{
	const struct x86_seg *tr = &c->seg[X86_TR];

	if (tr->attr & X86_SEG_UNUSABLE || offset + size - 1 > tr->limit)
		tcg_raise_err(c, X86_TS, tr->selector & ~3u);
	return sys_load(c, tr->base + offset, size);
}

u64 sys_tss_rsp(struct tcg_cpu *c, u32 cpl, u32 ist)
{
	return tss_field(c, ist ? 28 + 8 * ist : 4 + 8 * cpl, 8);
}

void sys_tss_stack(struct tcg_cpu *c, u32 cpl, struct sys_stack *s)
{
	bool wide = c->seg[X86_TR].attr & 8; /* a 32-bit TSS */
	u32 at = wide ? 4 + 8 * cpl : 2 + 4 * cpl, size = wide ? 4 : 2;
	u16 selector = (u16)tss_field(c, at + size, 2);
	u64 sp = tss_field(c, at, size);
	struct sys_desc d;
	struct x86_seg seg;

	sys_desc_get(c, selector, X86_TS, &d);
	if ((selector & 3u) != cpl || desc_dpl(&d) != cpl || !desc_is_writable(d.attr))
		tcg_raise_err(c, X86_TS, selector & ~3u);
	if (!(d.attr & X86_ATTR_P))
		tcg_raise_err(c, X86_SS_EXC, selector & ~3u);
	sys_desc_touch(c, &d);
	sys_desc_seg(&d, selector, &seg);
	sys_stack_of(c, s, &seg, sp, cpl, false, selector & ~3u);
}
