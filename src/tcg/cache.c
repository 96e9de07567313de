/*
 * cache.c: room for translated code, and translation by copy; see unit.h. Lean.
 *
 * Code, units, exits and the rest lie in chunks that are filled one after the other and emptied in the same order: eviction is first in,
 * first out, a sixteenth at a time, with all vCPUs standing still.
 */
#include "tcg/exec.h"
#include "tcg/mmu.h"
#include "tcg/syscall.h"
#include "tcg/unit.h"
#include "tcg/x86_64/interp.h"
#include "tcg/x86_64/xlate.h"

#define PREPARE_LEAST	 (32 * KIB)
#define PREPARE_MOST	 (256 * KIB)
#define FIRST_COPY_CHUNK (CODE_CHUNKS - CODE_COPY_CHUNKS)

static bool is_copy_chunk(u32 n)
{
	return n >= FIRST_COPY_CHUNK;
}

static u32 next_chunk(u32 n)
{
	if (n + 1 == FIRST_COPY_CHUNK)
		return 0;
	return n + 1 == CODE_CHUNKS ? FIRST_COPY_CHUNK : n + 1;
}

static void chunk_begin(struct tcg_code *k, u32 n)
{
	struct code_chunk *ch = &k->chunks[n];

	k->cur[is_copy_chunk(n)] = n;
	*ch = (struct code_chunk){.ready = ch->ready,
				  .wanted = ch->wanted, /* emptied memory stays */
				  .first_unit = n * k->max_units,
				  .first_exit = n * k->max_exits,
				  .first_insn = n * k->max_insns,
				  .first_reloc = n * k->max_relocs,
				  .start = n ? n * k->chunk_size : k->thunks_end};
	ch->used = ch->start;
	ch->nr_units = ch->first_unit;
	ch->nr_exits = ch->first_exit;
	ch->nr_insns = ch->first_insn;
	ch->nr_relocs = ch->first_reloc;
}

/* A fault for each page, as it fills, would cost a tenth of the translation; all at once is too much for a guest that does little. */
void cache_prepare(struct tcg_cpu *c, bool copies)
{
	struct tcg_code *k = c->t->code;
	struct code_chunk *ch = &k->chunks[k->cur[copies]];
	u32 used = ch->used - k->cur[copies] * k->chunk_size, step = MIN(MAX(ch->wanted, PREPARE_LEAST), PREPARE_MOST);

	if (likely(used + step / 2 < ch->wanted) || ch->wanted == k->chunk_size)
		return;
	ch->wanted = MIN(ch->wanted + step, k->chunk_size);
	fpu_save(c);
	loop_post(&c->t->vm->loop, &k->prepare);
}

void cache_reset(struct tcg_code *k)
{
	for (u32 n = CODE_CHUNKS; n-- > 0;)
		chunk_begin(k, n);
}

bool cache_has_room(const struct tcg_code *k, bool copies)
{
	const struct code_chunk *ch = &k->chunks[k->cur[copies]];

	return (k->cur[copies] + 1) * k->chunk_size - ch->used > UNIT_MAX_CODE && ch->nr_units < ch->first_unit + k->max_units &&
	       ch->nr_exits + UNIT_MAX_EXITS < ch->first_exit + k->max_exits &&
	       ch->nr_insns + UNIT_MAX_INSNS < ch->first_insn + k->max_insns &&
	       ch->nr_relocs + UNIT_MAX_RELOCS < ch->first_reloc + k->max_relocs;
}

void cache_make_room(struct tcg_cpu *c, bool copies)
{
	struct tcg_vm *t = c->t;
	struct tcg_code *k = t->code;

	tcg_exclusive_begin(t, c);
	code_lock(k);			  /* devices' writes kill units from other threads */
	if (!cache_has_room(k, copies)) { /* nobody else has done it meanwhile */
		u32 next = next_chunk(k->cur[copies]);

		for (u32 u = k->chunks[next].first_unit; u < k->chunks[next].nr_units; u++) {
			if (!k->units[u].dead)
				unit_kill(k, u);
		}
		chunk_begin(k, next);
		for (u32 i = 0; i < t->nr_cpus; i++)
			exec_forget_jumps(t->cpus[i], !copies); /* only user code is copied */
		__atomic_store_n(&k->generation, k->generation + 1, __ATOMIC_RELAXED);
		c->counters[TCG_C_EVICTED]++;
	}
	code_unlock(k);
	tcg_exclusive_end(t, c);
}

/* ---- copies ---- */

static void copy(u8 *to, const u8 *from, u64 n)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
}

/* A number in the copy at its code offset. */
static void put32(struct tcg_code *k, u32 at, u32 value)
{
	st_le32(k->rw + at, value);
}

/* What depends on where code or guest code lies. by: how far the code has moved; va: how far the guest's address has. */
static void relocate(struct tcg_code *k, const struct unit *from, const struct unit *to, u32 number)
{
	u32 by = to->code - from->code;
	u64 va = to->va - from->va;

	for (u32 i = 0; i < from->nr_relocs; i++) {
		const struct unit_reloc *r = &k->relocs[from->relocs + i];
		u8 *p = k->rw + to->code + r->at;

		k->relocs[to->relocs + i] = *r;
		switch (r->kind) {
		case RELOC_THUNK:
			st_le32(p, ld_le32(p) - by);
			break;
		case RELOC_VA:
			st_le64(p, ld_le64(p) + va);
			break;
		case RELOC_UNIT:
			st_le32(p, number);
			break;
		case RELOC_CROSS:
			st_le32(p, to->id2);
			break;
		case RELOC_CROSS_NEG:
			st_le32(p, -to->id2);
			break;
		default: /* RELOC_CROSS_SLOT */
			st_le32(p, (u32)xlate_itlb_slot((u8)to->mode, (to->va & ~(MEM_PAGE_SIZE - 1)) + MEM_PAGE_SIZE));
		}
	}
}

/* The copy's exits are as new: linked to nothing. */
static void copy_exits(struct tcg_code *k, const struct unit *from, struct unit *to, u32 number)
{
	u32 by = to->code - from->code;

	for (u32 i = 0; i < from->nr_exits; i++) {
		struct unit_exit *e = &k->exits[to->exits + i];

		*e = k->exits[from->exits + i];
		e->unit = number;
		e->site += by;
		e->stub += by;
		e->linked = UNIT_NONE;
		put32(k, e->site, e->stub - (e->site + 4));
		put32(k, e->stub + 1, LEAVE_EXIT | (to->exits + i) << 8); /* mov ecx, imm32 */
		if (!e->guard)
			continue;
		e->guard += by;
		e->slot += by;
		put32(k, e->guard, e->guard_neg ? 1 : UINT32_MAX);
		put32(k, e->slot, (u32)xlate_itlb_slot((u8)to->mode, to->va + (u64)(s64)e->target));
	}
}

bool cache_copy_unit(struct tcg_code *k, u32 donor, u64 va, u32 *unit)
{
	struct code_chunk *ch = &k->chunks[k->cur[true]];
	const struct unit *from = &k->units[donor];
	struct unit *to = &k->units[ch->nr_units];

	*to = *from;
	to->va = va;
	to->copy = true;
	to->code = ALIGN_UP(ch->used, 16);
	to->poll_stub += to->code - from->code;
	to->in = UNIT_NONE;
	to->exits = ch->nr_exits;
	to->insns = ch->nr_insns;
	to->relocs = ch->nr_relocs;
	to->id2 = k->page2.id;
	copy(k->rw + to->code, k->rw + from->code, from->code_len);
	for (u32 i = 0; i < from->nr_insns; i++)
		k->insns[to->insns + i] = k->insns[from->insns + i];
	relocate(k, from, to, ch->nr_units);
	copy_exits(k, from, to, ch->nr_units);
	ch->used = to->code + to->code_len;
	ch->nr_exits += to->nr_exits;
	ch->nr_insns += to->nr_insns;
	ch->nr_relocs += to->nr_relocs;
	*unit = ch->nr_units++;
	return true;
}
