/* xlate_tail.c: what translated code has out of line: slow ways of accesses, stubs of exits; calls of thunks. Lean. */
#include "tcg/x86_64/xlate_impl.h"

void xlate_add_reloc(struct xlate *x, u32 kind, u32 back)
{
	struct unit_reloc *reloc = &x->k->relocs[x->first_reloc + x->nr_relocs];

	if (x->nr_relocs == UNIT_MAX_RELOCS) {
		x->fixed = true;
		return;
	}
	*reloc = (struct unit_reloc){.at = (u16)(e_off(&x->e) - back - x->code), .kind = (u16)kind};
	x->nr_relocs++;
}

void xlate_call_thunk(struct xlate *x, u32 thunk)
{
	e_call_off(&x->e, thunk);
	xlate_reloc(x, RELOC_THUNK, 4);
}

void xlate_jmp_thunk(struct xlate *x, u32 thunk)
{
	e_jmp_off(&x->e, thunk);
	xlate_reloc(x, RELOC_THUNK, 4);
}

/* User code is loaded at random addresses: a form that holds any. */
void xlate_mov_va(struct xlate *x, u32 reg, u64 va)
{
	if (!(x->mode & TCG_MODE_USER)) {
		e_mov_imm(&x->e, reg, va);
		return;
	}
	e8(&x->e, 0x48 | reg >> 3); /* movabs */
	e8(&x->e, 0xb8 | (reg & 7));
	e64(&x->e, va);
	xlate_reloc(x, RELOC_VA, 8);
}

struct tail *xlate_tail(struct xlate *x, enum tail_kind kind, bool live, u8 *fix, u32 arg)
{
	struct tail *t = &x->tails[x->nr_tails++];

	ASSERT(x->nr_tails <= ARRAY_SIZE(x->tails));
	t->kind = (u8)kind;
	t->live = live;
	t->fix[0] = fix;
	t->fix[1] = NULL;
	t->arg = arg;
	return t;
}

static void emit_stub(struct xlate *x, u32 reason)
{
	bool named = (reason & 0xff) != LEAVE_EXIT;

	if (named) { /* mov r10d, number of the unit */
		e8(&x->e, 0x41), e8(&x->e, 0xb8 | (T0 & 7)), e32(&x->e, x->unit);
		xlate_reloc(x, RELOC_UNIT, 4);
	}
	e_mov_imm(&x->e, H_RCX, reason);
	xlate_call_thunk(x, named ? x->k->leave_unit : x->k->leave);
}

static void emit_tail(struct xlate *x, u32 i, struct unit *u)
{
	struct tail *t = &x->tails[i];
	u8 none[4];

	for (u32 f = 0; f < ARRAY_SIZE(t->fix); f++)
		e_patch(t->fix[f] ? t->fix[f] : none, x->e.p);
	switch (t->kind) {
	case TAIL_SLOW:
		e_bytes(&x->e, t->reg != T0 ? 3 : 0, 0xc08949 | (t->reg & 7) << 19 | (T0 & 7) << 16 | (t->reg & 8) >> 1); /* mov T0, reg */
		e_mov_imm(&x->e, H_RCX, t->arg | (u64)t->group << 32);
		xlate_call_thunk(x, t->live ? x->k->slow_live : x->k->slow_dead);
		e_jmp(&x->e, t->retry);
		break;
	case TAIL_GUARD:
		xlate_guard(x, xlate_tail(x, TAIL_EXIT, t->live, NULL, t->arg), t->target, t->arg, t->live);
		break;
	case TAIL_EXIT:
		x->k->exits[t->arg].stub = e_off(&x->e);
		emit_stub(x, LEAVE_EXIT | t->arg << 8);
		break;
	default:
		if ((t->arg & 0xff) == LEAVE_POLL)
			u->poll_stub = e_off(&x->e);
		emit_stub(x, t->arg);
	}
}

void xlate_emit_tails(struct xlate *x, struct unit *u)
{
	for (u32 i = 0; i < x->nr_tails; i++)
		emit_tail(x, i, u);
}
