/* mmu_int.h: what mmu.c, mmu_walk.c and mmu_flush.c share. */
#ifndef HUSK_TCG_MMU_INT_H
#define HUSK_TCG_MMU_INT_H

#include "tcg/mmu.h"

/* Paging-structure entries (SDM 3A §4.3-4.5). */
#define PTE_P	BIT(0)
#define PTE_RW	BIT(1)
#define PTE_US	BIT(2)
#define PTE_A	BIT(5)
#define PTE_D	BIT(6)
#define PTE_PS	BIT(7)
#define PTE_G	BIT(8)
#define PTE_NX	BIT(63)
#define PTE_GPA 0xffffffffff000ull /* bits 12-51 */

#define PAGE_OFFSET 4095ull

enum mmu_size { MMU_4K, MMU_LARGE /* 2 MiB */, MMU_HUGE /* 1 GiB, and 4 MiB of 32-bit paging */ };

/* A translation of one 4 KiB page. */
struct mmu_page {
	u64 gpa;
	u64 acc; /* over all levels: PTE_RW, PTE_US; PTE_NX is inverted: set means executable */
	bool global, dirty;
	u8 size; /* enum mmu_size: what it is part of */
};

/* What to do about accessed and dirty bits that are not set. */
enum mmu_bits {
	MMU_BITS_SET,
	MMU_BITS_REFUSE, /* the walk fails with MMU_REFUSED */
	MMU_BITS_IGNORE, /* nor are permissions looked at */
};

#define MMU_FAULT   0x80000000u /* with the error code in the low bits */
#define MMU_REFUSED 0x40000000u /* neither fault nor translation */
#define MMU_MISSING 0x10000000u /* a table, or the page itself, is still to be fetched: c->mmu.awaited */

/* Translates va, which is canonical, for one kind of access. 0, or MMU_*. A page of RAM that is found so is there, but with
 * MMU_BITS_IGNORE. */
u32 mmu_walk(struct tcg_cpu *c, u64 va, enum mmu_access access, enum tcg_mmu_mode mode, enum mmu_bits bits, struct mmu_page *page);
/* Whether a page with these permissions may be accessed so. */
bool mmu_allowed(const struct tcg_cpu *c, u64 acc, enum mmu_access access, enum tcg_mmu_mode mode);
/* Drops what the TLB holds of this one page in the current context (SDM 3A §4.10.4.1: a page fault does). mmu_flush.c */
void mmu_forget(struct tcg_cpu *c, u64 va);

/* The region of RAM that holds the byte, or NULL. Regions are made of whole pages. */
static inline const struct mem_region *mmu_region(const struct tcg_cpu *c, u64 gpa)
{
	const struct mem *m = c->mmu.mem;

	for (u32 i = 0; i < m->nr_regions; i++) {
		if (gpa - m->regions[i].gpa < m->regions[i].size)
			return &m->regions[i];
	}
	return NULL;
}

/* Whether the page that holds the byte is still to be fetched: it must not be looked at, nor get into a table. */
static inline bool mmu_missing(struct tcg_cpu *c, const struct mem_region *r, u64 gpa)
{
	const struct mem_fetch *f = mem_fetch(c->mmu.mem);

	if (likely(!f) || !mem_fetch_misses(f, r, (gpa - r->gpa) >> MEM_PAGE_SHIFT))
		return false;
	c->mmu.awaited = gpa;
	return true;
}

static inline void mmu_mark_dirty(const struct tcg_cpu *c, const struct mem_region *r, u64 gpa)
{
	u64 *map = c->t->dirty[r->slot], page = (gpa - r->gpa) >> MEM_PAGE_SHIFT;

	if (!__atomic_load_n(&c->t->dirty_on, __ATOMIC_RELAXED) || !map)
		return;
	if (!(__atomic_load_n(&map[page / 64], __ATOMIC_RELAXED) >> page % 64 & 1))
		__atomic_fetch_or(&map[page / 64], BIT(page % 64), __ATOMIC_RELAXED);
}

/* ---- tables ---- */
static inline u32 mmu_index(u64 va)
{
	return va >> MEM_PAGE_SHIFT & (TCG_TLB_SIZE - 1);
}

static inline struct tcg_tlb *mmu_slot(struct tcg_cpu *c, u64 va, bool write, enum tcg_mmu_mode mode)
{
	struct tcg_ctx *ctx;

	if (mode == TCG_KERNEL)
		return (write ? c->k_w : c->k_r) + mmu_index(va);
	ctx = tcg_ctx_at(c, c->ctx);
	if (mode == TCG_USER)
		return (write ? ctx->user_w : ctx->user_r) + mmu_index(va);
	return (write ? ctx->ac_w : ctx->ac_r) + (mmu_index(va) & (TCG_AC_SIZE - 1));
}

/* Host address of [va, va + n), or NULL: not in this slot. */
static inline u8 *mmu_hit(const struct tcg_tlb *e, u64 va, u32 n)
{
	return va + e->neg <= MEM_PAGE_SIZE - n ? (u8 *)(uintptr_t)(va + e->addend) : NULL;
}

/* ---- filters ---- */
static inline u32 mmu_hash(u64 number, u32 bits)
{
	return (u32)(number * 0x9e3779b97f4a7c15ull >> (64 - bits));
}
#define MMU_CODE_BITS  14
#define MMU_LARGE_BITS 11
_Static_assert(sizeof(((struct tcg_seen *)0)->code) * 8 == 1u << MMU_CODE_BITS, "filter");
_Static_assert(sizeof(((struct tcg_seen *)0)->large) * 8 == 1u << MMU_LARGE_BITS, "filter");

static inline void mmu_saw_code(struct tcg_seen *s, u64 va)
{
	u32 h = mmu_hash(va >> 12, MMU_CODE_BITS);

	s->code[h / 64] |= BIT(h % 64);
	s->code_large |= BIT(mmu_hash(va >> 21, 6));
}

static inline void mmu_saw_size(struct tcg_seen *s, u64 va, enum mmu_size size)
{
	u32 h = mmu_hash(va >> 21, MMU_LARGE_BITS);

	if (size == MMU_LARGE)
		s->large[h / 64] |= BIT(h % 64);
	else if (size == MMU_HUGE)
		s->huge |= BIT(mmu_hash(va >> 30, 6));
}

static inline bool mmu_seen_code(const struct tcg_seen *s, u64 va, enum mmu_size size)
{
	u32 h = mmu_hash(va >> 12, MMU_CODE_BITS);

	if (size == MMU_HUGE)
		return s->code_large;
	if (size == MMU_LARGE)
		return s->code_large >> mmu_hash(va >> 21, 6) & 1;
	return s->code[h / 64] >> h % 64 & 1;
}

/* The largest page that va may have been part of. */
static inline enum mmu_size mmu_seen_size(const struct tcg_seen *s, u64 va)
{
	u32 h = mmu_hash(va >> 21, MMU_LARGE_BITS);

	if (unlikely(s->huge >> mmu_hash(va >> 30, 6) & 1))
		return MMU_HUGE;
	return s->large[h / 64] >> h % 64 & 1 ? MMU_LARGE : MMU_4K;
}

#endif
