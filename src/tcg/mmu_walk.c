/*
 * mmu_walk.c: page walks of the four paging modes (SDM 3A §4.3-4.5), permissions (§4.6), accessed and dirty bits (§4.8), and the page-walk
 * cache.
 *
 * The cache holds the last level but one: a table's host address with the permissions gathered above it, or a large page. What it gives is
 * used when the access succeeds; else the walk is done anew from CR3, so that a fault always tells what is in memory now.
 */
#include "tcg/mmu_int.h"

/* More failures of cmpxchg in one walk than other vCPUs could cause by accident: something else gets its turn. */
#define MAX_TRIES 100

#define MMU_AGAIN 0x20000000u

#define PWC_LARGE  BIT(0)
#define PWC_HUGE   BIT(3)
#define PWC_GLOBAL PTE_G
#define PWC_DIRTY  PTE_D

/* A walk on its way. */
struct walk {
	struct tcg_cpu *c;
	u64 va;
	u64 rsvd;	/* bits that no entry may have */
	u64 acc;	/* as in struct mmu_page */
	u64 acc_tables; /* the same without the leaf */
	bool narrow;	/* entries of 4 bytes */
	bool missing;	/* a table is not there: what was found is nothing */
	u32 n;
	struct step {
		void *host; /* NULL: no bits to set there */
		u64 gpa, value;
	} steps[4];
};

/* What no RAM holds reads as all ones; what is still to be fetched as "not present", for walk_once. */
static u64 step_read(struct walk *w, u64 gpa)
{
	const struct mem_region *r = mmu_region(w->c, gpa);
	struct step *s = &w->steps[w->n++];
	void *host = r ? r->hva + (gpa - r->gpa) : NULL;

	if (r && unlikely(mmu_missing(w->c, r, gpa))) {
		w->missing = true;
		host = NULL;
	}
	s->host = host;
	s->gpa = gpa;
	if (unlikely(w->missing))
		s->value = 0;
	else if (!host)
		s->value = w->narrow ? UINT32_MAX : UINT64_MAX;
	else if (w->narrow)
		s->value = __atomic_load_n((u32 *)host, __ATOMIC_RELAXED);
	else
		s->value = __atomic_load_n((u64 *)host, __ATOMIC_RELAXED);
	return s->value;
}

static bool step_set(struct walk *w, struct step *s, u64 want)
{
	u64 value = s->value;
	u32 value32 = (u32)value;

	if (!s->host || (value & want) == want)
		return true;
	mmu_mark_dirty(w->c, mmu_region(w->c, s->gpa), s->gpa);
	if (w->narrow)
		return __atomic_compare_exchange_n((u32 *)s->host, &value32, value32 | (u32)want, false, __ATOMIC_SEQ_CST,
						   __ATOMIC_RELAXED);
	return __atomic_compare_exchange_n((u64 *)s->host, &value, value | want, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

static bool walk_complete(struct walk *w, bool write)
{
	for (u32 i = 0; i + 1 < w->n; i++) {
		if (!step_set(w, &w->steps[i], PTE_A))
			return false;
	}
	return step_set(w, &w->steps[w->n - 1], write ? PTE_A | PTE_D : PTE_A);
}

static bool walk_needs_bits(const struct walk *w, bool write)
{
	u64 all = write ? PTE_A | PTE_D : PTE_A;

	for (u32 i = 0; i < w->n; i++) {
		u64 want = i + 1 == w->n ? all : PTE_A;

		if (w->steps[i].host && (w->steps[i].value & want) != want)
			return true;
	}
	return false;
}

static u64 level_reserved(const struct walk *w, u64 e, u32 level)
{
	if (level == 3)
		return w->rsvd | PTE_PS;
	if (!level || !(e & PTE_PS))
		return w->rsvd;
	if (level == 2)
		return w->c->mmu.pages_1g ? w->rsvd | 0x3fffe000 : w->rsvd | PTE_PS;
	return w->rsvd | 0x1fe000;
}

/* Tables of 512 entries, from this level on. The leaf is the last step. */
static u32 walk_levels(struct walk *w, u64 table, u32 level, struct mmu_page *page)
{
	for (;; level--) {
		u64 e = step_read(w, table | (w->va >> (12 + 9 * level) & 511) << 3), span;

		if (!(e & PTE_P))
			return MMU_FAULT;
		if (e & level_reserved(w, e, level))
			return MMU_FAULT | PF_P | PF_RSVD;
		w->acc_tables = w->acc;
		w->acc &= e ^ PTE_NX;
		if (level && !(e & PTE_PS)) {
			table = e & PTE_GPA;
			continue;
		}
		span = BIT(12 + 9 * level) - 1;
		*page = (struct mmu_page){.gpa = (e & PTE_GPA & ~span) | (w->va & span & ~PAGE_OFFSET), .size = (u8)level};
		return 0;
	}
}
_Static_assert(MMU_4K == 0 && MMU_LARGE == 1 && MMU_HUGE == 2, "levels");

static u32 walk_32(struct walk *w, struct mmu_page *page)
{
	u64 cr3 = w->c->cr3 & 0xfffff000, e;

	w->narrow = true;
	e = step_read(w, cr3 | (w->va >> 22 & 1023) << 2);
	if (!(e & PTE_P))
		return MMU_FAULT;
	w->acc &= e ^ PTE_NX;
	if ((e & PTE_PS) && (w->c->cr4 & X86_CR4_PSE)) {
		/* PSE-36: bits 13-20 are address bits 32-39 (SDM 3A table 4-4). */
		u64 high = (e >> 13 & 0xff) << 32;

		if ((e & BIT(21)) || (high & w->c->mmu.rsvd))
			return MMU_FAULT | PF_P | PF_RSVD;
		*page = (struct mmu_page){.gpa = high | (e & 0xffc00000) | (w->va & 0x3ff000), .size = MMU_HUGE};
		return 0;
	}
	e = step_read(w, (e & 0xfffff000) | (w->va >> 12 & 1023) << 2);
	if (!(e & PTE_P))
		return MMU_FAULT;
	w->acc &= e ^ PTE_NX;
	*page = (struct mmu_page){.gpa = e & 0xfffff000};
	return 0;
}

/*
 * PDPTEs are read when they are used, as AMD's processors do, not at MOV CR3. They have no permissions and no accessed bit (SDM 3A §4.4.1).
 */
static u32 walk_pae(struct walk *w, struct mmu_page *page)
{
	u64 e = step_read(w, (w->c->cr3 & 0xffffffe0) | (w->va >> 30 & 3) << 3);

	w->n = 0;
	if (!(e & PTE_P))
		return MMU_FAULT;
	if (e & (w->c->mmu.rsvd | 0xfff00000000001e6ull))
		return MMU_FAULT | PF_P | PF_RSVD;
	w->rsvd |= 0x7ff0000000000000ull;
	return walk_levels(w, e & PTE_GPA, 1, page);
}

bool mmu_allowed(const struct tcg_cpu *c, u64 acc, enum mmu_access access, enum tcg_mmu_mode mode)
{
	bool user_page = acc & PTE_US;

	if (access == MMU_EXEC && !(acc & PTE_NX))
		return false;
	if (mode == TCG_USER)
		return user_page && (access != MMU_WRITE || (acc & PTE_RW));
	if (access == MMU_EXEC)
		return !user_page || !(c->cr4 & X86_CR4_SMEP);
	if (user_page && mode == TCG_KERNEL && (c->cr4 & X86_CR4_SMAP))
		return false;
	return access != MMU_WRITE || (acc & PTE_RW) || !(c->cr0 & X86_CR0_WP);
}

static u32 error_code(const struct tcg_cpu *c, enum mmu_access access, enum tcg_mmu_mode mode)
{
	u32 error = mode == TCG_USER ? PF_U : 0;

	if (access == MMU_WRITE)
		error |= PF_W;
	/* SDM 3A §4.7: only when something can make a page not executable. */
	if (access == MMU_EXEC && ((c->cr4 & X86_CR4_SMEP) || ((c->cr4 & X86_CR4_PAE) && (c->efer & X86_EFER_NXE))))
		error |= PF_I;
	return error;
}

static struct tcg_pwc *pwc_slot(const struct tcg_cpu *c, u64 va)
{
	return &tcg_ctx_at(c, c->ctx)->pwc[(va >> 21 ^ va >> 30 ^ va >> 47) % TCG_PWC_SIZE];
}

static u64 no_nx(const struct tcg_cpu *c)
{
	return c->efer & X86_EFER_NXE ? 0 : PTE_NX;
}

/* Remembers how a walk of four levels ended. */
static void pwc_put(struct walk *w, const struct mmu_page *page)
{
	struct tcg_cpu *c = w->c;
	struct tcg_pwc *p = pwc_slot(c, w->va);
	const struct step *leaf = &w->steps[w->n - 1];

	if (page->size == MMU_4K) {
		if (!leaf->host)
			return;
		p->where = (u64)(uintptr_t)leaf->host & ~PAGE_OFFSET;
		p->acc = w->acc_tables & (PTE_RW | PTE_US | PTE_NX);
	} else {
		p->where = page->gpa & ~(2 * MIB - 1);
		p->acc = (w->acc & (PTE_RW | PTE_US | PTE_NX)) | PWC_LARGE;
		p->acc |= (page->size == MMU_HUGE ? PWC_HUGE : 0) | (page->global ? PWC_GLOBAL : 0) | (page->dirty ? PWC_DIRTY : 0);
		if (page->global)
			tcg_ctx_at(c, c->ctx)->has_global[w->va >> 63] = true;
	}
	p->va = w->va >> 21;
	p->gen = c->mmu.gen[c->ctx];
}

/* True: the cache knows the page, the access is allowed and no bit has to be set. */
static bool pwc_get(struct tcg_cpu *c, u64 va, enum mmu_access access, enum tcg_mmu_mode mode, struct mmu_page *page)
{
	const struct tcg_pwc *p = pwc_slot(c, va);
	u64 e, want = access == MMU_WRITE ? PTE_P | PTE_A | PTE_D : PTE_P | PTE_A;

	if (p->va != va >> 21 || p->gen != c->mmu.gen[c->ctx])
		return false;
	if (p->acc & PWC_LARGE) {
		page->gpa = p->where | (va & 0x1ff000);
		page->size = p->acc & PWC_HUGE ? MMU_HUGE : MMU_LARGE;
		page->acc = p->acc;
		page->global = p->acc & PWC_GLOBAL;
		page->dirty = p->acc & PWC_DIRTY;
		return (access != MMU_WRITE || page->dirty) && mmu_allowed(c, page->acc, access, mode);
	}
	e = __atomic_load_n((const u64 *)(uintptr_t)p->where + (va >> 12 & 511), __ATOMIC_RELAXED);
	if ((e & want) != want || (e & (c->mmu.rsvd | no_nx(c))))
		return false;
	page->gpa = e & PTE_GPA;
	page->size = MMU_4K;
	page->acc = p->acc & (e ^ PTE_NX);
	page->global = (e & PTE_G) && (c->cr4 & X86_CR4_PGE);
	page->dirty = e & PTE_D;
	return mmu_allowed(c, page->acc, access, mode);
}

static u32 walk_tables(struct walk *w, struct mmu_page *page)
{
	struct tcg_cpu *c = w->c;

	w->n = 0;
	w->acc = PTE_RW | PTE_US | PTE_NX;
	w->rsvd = c->mmu.rsvd | no_nx(c);
	if (c->efer & X86_EFER_LMA)
		return walk_levels(w, c->cr3 & PTE_GPA & ~c->mmu.rsvd, 3, page);
	if (c->cr4 & X86_CR4_PAE)
		return walk_pae(w, page);
	return walk_32(w, page);
}

/* One walk from CR3 on. Bits are set when all else is well, as KVM's walker does it: a fault leaves memory as it was. */
static u32 walk_once(struct walk *w, enum mmu_access access, enum tcg_mmu_mode mode, enum mmu_bits bits, struct mmu_page *page)
{
	struct tcg_cpu *c = w->c;
	u32 ret = walk_tables(w, page);
	bool write = access == MMU_WRITE;

	if (bits != MMU_BITS_IGNORE)
		pwc_slot(c, w->va)->gen = 0;
	if (unlikely(w->missing))
		return MMU_MISSING;
	if (ret)
		return ret | error_code(c, access, mode);
	page->acc = w->acc;
	page->global = (w->steps[w->n - 1].value & PTE_G) && (c->cr4 & X86_CR4_PGE);
	page->dirty = write || (w->steps[w->n - 1].value & PTE_D);
	if (bits == MMU_BITS_IGNORE)
		return 0;
	if (!mmu_allowed(c, w->acc, access, mode))
		return MMU_FAULT | PF_P | error_code(c, access, mode);
	if (bits == MMU_BITS_REFUSE && walk_needs_bits(w, write))
		return MMU_REFUSED;
	if (!walk_complete(w, write))
		return MMU_AGAIN;
	if (c->efer & X86_EFER_LMA)
		pwc_put(w, page);
	return 0;
}

static u32 walk(struct tcg_cpu *c, u64 va, enum mmu_access access, enum tcg_mmu_mode mode, enum mmu_bits bits, struct mmu_page *page)
{
	struct walk w;

	if (!(c->cr0 & X86_CR0_PG)) {
		/* Entering or leaving this mode flushes all. Everything is allowed, whatever CR4 says. */
		*page = (struct mmu_page){.gpa = va & ~PAGE_OFFSET, .acc = PTE_RW | PTE_NX, .global = true, .dirty = true};
		page->acc |= mode == TCG_USER ? PTE_US : 0;
		return 0;
	}
	if ((c->efer & X86_EFER_LMA) && bits != MMU_BITS_IGNORE && pwc_get(c, va, access, mode, page))
		return 0;
	w.c = c;
	w.va = va;
	w.narrow = w.missing = false;
	for (u32 i = 0; i < MAX_TRIES; i++) {
		u32 ret = walk_once(&w, access, mode, bits, page);

		if (ret != MMU_AGAIN)
			return ret;
	}
	return MMU_REFUSED;
}

u32 mmu_walk(struct tcg_cpu *c, u64 va, enum mmu_access access, enum tcg_mmu_mode mode, enum mmu_bits bits, struct mmu_page *page)
{
	u32 ret = walk(c, va, access, mode, bits, page);
	const struct mem_region *r;

	if (likely(!mem_fetch(c->mmu.mem)) || ret || bits == MMU_BITS_IGNORE)
		return ret;
	r = mmu_region(c, page->gpa);
	return r && mmu_missing(c, r, page->gpa) ? MMU_MISSING : 0;
}

bool mmu_translate(struct tcg_cpu *c, u64 va, u64 *gpa)
{
	struct mmu_page page;

	if (!tcg_canonical(va) || mmu_walk(c, va, MMU_READ, TCG_KERNEL_AC, MMU_BITS_IGNORE, &page))
		return false;
	*gpa = page.gpa | (va & PAGE_OFFSET);
	return true;
}
