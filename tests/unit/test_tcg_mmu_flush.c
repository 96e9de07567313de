/*
 * test_tcg_mmu_flush.c: what CR3, INVLPG, INVPCID and flushes drop and what they leave; a torture of random page-table edits against a
 * naive walker; other vCPUs that change entries meanwhile; how long a refill takes.
 */
#include "tcg_mmu_rig.h"

#include <pthread.h>
#include <time.h>

#define USER_VA	  0x400000ull
#define KERNEL_VA 0xffff888000402000ull
#define DATA	  (8 * MIB)
#define NOFLUSH	  BIT(63)

/* ---- flushes, one by one ---- */
static void pcids_on(struct rig *r)
{
	r->c->cr4 |= X86_CR4_PCIDE;
	mmu_flush_all(r->c);
}

static void without_pcids_cr3_drops_all_but_global_pages(void **state)
{
	struct rig *r = *state;

	rig_map(r, USER_VA, DATA | LEAF_BITS);
	rig_map(r, KERNEL_VA, DATA | (LEAF_BITS & ~PTE_US) | PTE_G);
	rig_map(r, KERNEL_VA + MEM_PAGE_SIZE, DATA | (LEAF_BITS & ~PTE_US));
	for (u32 i = 0; i < 3; i++) {
		mmu_store(r->c, USER_VA, 8, 1, TCG_USER);
		mmu_store(r->c, KERNEL_VA, 8, 1, TCG_KERNEL);
		mmu_store(r->c, KERNEL_VA + MEM_PAGE_SIZE, 8, 1, TCG_KERNEL);
		mmu_store(r->c, KERNEL_VA, 8, 1, TCG_KERNEL_AC);
		mmu_store(r->c, USER_VA, 8, 1, TCG_KERNEL_AC);
		mmu_write_cr3(r->c, r->c->cr3);
		assert_false(rig_cached(r, USER_VA, true, TCG_USER) || rig_cached(r, USER_VA, false, TCG_USER));
		assert_false(rig_cached(r, USER_VA, true, TCG_KERNEL_AC) || rig_cached(r, USER_VA, false, TCG_KERNEL_AC));
		assert_true(rig_cached(r, KERNEL_VA, true, TCG_KERNEL) && rig_cached(r, KERNEL_VA, false, TCG_KERNEL));
		assert_false(rig_cached(r, KERNEL_VA + MEM_PAGE_SIZE, true, TCG_KERNEL));
		assert_false(rig_cached(r, KERNEL_VA + MEM_PAGE_SIZE, false, TCG_KERNEL));
	}
	r->c->cr4 &= ~X86_CR4_PGE;
	mmu_flush_all(r->c);
	assert_false(rig_cached(r, KERNEL_VA, false, TCG_KERNEL));
	mmu_load(r->c, KERNEL_VA, 8, TCG_KERNEL);
	mmu_write_cr3(r->c, r->c->cr3);
	assert_false(rig_cached(r, KERNEL_VA, false, TCG_KERNEL)); /* without PGE the G bit means nothing */
}

static void pcids_keep_their_pages_and_bit_63_decides(void **state)
{
	struct rig *r = *state;
	u64 cr3 = r->c->cr3;

	pcids_on(r);
	rig_map(r, USER_VA, DATA | LEAF_BITS);
	rig_map(r, KERNEL_VA, DATA | (LEAF_BITS & ~PTE_US));
	mmu_write_cr3(r->c, cr3 | 5 | NOFLUSH);
	assert_int_equal(r->c->cr3, cr3 | 5);
	mmu_load(r->c, USER_VA, 8, TCG_USER);
	mmu_load(r->c, KERNEL_VA, 8, TCG_KERNEL);
	mmu_write_cr3(r->c, cr3 | 5 | NOFLUSH);
	assert_true(rig_cached(r, USER_VA, false, TCG_USER) && rig_cached(r, KERNEL_VA, false, TCG_KERNEL));
	mmu_write_cr3(r->c, cr3 | 6 | NOFLUSH);
	assert_false(rig_cached(r, USER_VA, false, TCG_USER));
	assert_false(rig_cached(r, KERNEL_VA, false, TCG_KERNEL)); /* not global: PCID 5's alone */
	mmu_write_cr3(r->c, cr3 | 5 | NOFLUSH);
	assert_true(rig_cached(r, USER_VA, false, TCG_USER));
	mmu_write_cr3(r->c, cr3 | 5);
	assert_false(rig_cached(r, USER_VA, false, TCG_USER));
}

static void the_least_recently_used_pcid_makes_room(void **state)
{
	struct rig *r = *state;
	u64 cr3 = r->c->cr3;

	pcids_on(r);
	rig_map(r, USER_VA, DATA | LEAF_BITS);
	for (u64 pcid = 0; pcid < TCG_NR_CTX; pcid++) {
		mmu_write_cr3(r->c, cr3 | pcid | NOFLUSH);
		mmu_load(r->c, USER_VA, 8, TCG_USER);
	}
	mmu_write_cr3(r->c, cr3 | 0 | NOFLUSH);
	mmu_write_cr3(r->c, cr3 | 100 | NOFLUSH); /* takes the place of 1 */
	assert_false(rig_cached(r, USER_VA, false, TCG_USER));
	for (u64 pcid = 0; pcid < TCG_NR_CTX; pcid++) {
		if (pcid == 1)
			continue;
		mmu_write_cr3(r->c, cr3 | pcid | NOFLUSH);
		assert_true(rig_cached(r, USER_VA, false, TCG_USER));
	}
	mmu_write_cr3(r->c, cr3 | 1 | NOFLUSH);
	assert_false(rig_cached(r, USER_VA, false, TCG_USER));
}

/* In which of the PCIDs 1-3 the page is still cached, as a bitmap; PCID 1 is current afterwards. */
static u32 survivors(struct rig *r, u64 cr3, u64 va, enum tcg_mmu_mode mode)
{
	u32 map = 0;

	for (u64 pcid = 3; pcid; pcid--) {
		mmu_write_cr3(r->c, cr3 | pcid | NOFLUSH);
		map |= rig_cached(r, va, false, mode) ? 1u << pcid : 0;
	}
	return map;
}

static void invpcid_drops_what_its_type_says(void **state)
{
	static const struct {
		u64 type;
		u16 pcid;
		u64 va;
		u32 user, other, global, kernel;
	} cases[] = {
		{0, 1, USER_VA, 0xc, 0xe, 1, 1},   {0, 2, USER_VA, 0xa, 0xe, 1, 1},  {1, 1, USER_VA, 0xc, 0xc, 1, 0},
		{1, 3, USER_VA, 6, 6, 1, 1},	   {2, 0, USER_VA, 0, 0, 0, 0},	     {3, 0, USER_VA, 0, 0, 1, 0},
		{0, 77, USER_VA, 0xe, 0xe, 1, 1},  {1, 77, USER_VA, 0xe, 0xe, 1, 1}, {0, 1, KERNEL_VA, 0xe, 0xe, 1, 0},
		{0, 2, KERNEL_VA, 0xe, 0xe, 1, 1},
	};
	struct rig *r = *state;
	u64 cr3 = r->c->cr3, other = USER_VA + 5 * MEM_PAGE_SIZE, global = KERNEL_VA + 64 * MEM_PAGE_SIZE;

	pcids_on(r);
	rig_map(r, USER_VA, DATA | LEAF_BITS);
	rig_map(r, other, DATA | LEAF_BITS);
	rig_map(r, KERNEL_VA, DATA | (LEAF_BITS & ~PTE_US));
	rig_map(r, global, DATA | (LEAF_BITS & ~PTE_US) | PTE_G);
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		mmu_flush_all(r->c);
		for (u64 pcid = 3; pcid; pcid--) {
			mmu_write_cr3(r->c, cr3 | pcid);
			mmu_load(r->c, USER_VA, 8, TCG_USER);
			mmu_load(r->c, other, 8, TCG_USER);
			mmu_load(r->c, global, 8, TCG_KERNEL);
			mmu_load(r->c, KERNEL_VA, 8, TCG_KERNEL);
		}
		mmu_invpcid(r->c, cases[i].type, cases[i].pcid, cases[i].va + 0x77);
		assert_int_equal(rig_cached(r, global, false, TCG_KERNEL), cases[i].global);
		assert_int_equal(rig_cached(r, KERNEL_VA, false, TCG_KERNEL), cases[i].kernel);
		assert_int_equal(survivors(r, cr3, USER_VA, TCG_USER), cases[i].user);
		assert_int_equal(survivors(r, cr3, other, TCG_USER), cases[i].other);
	}
}

static void invlpg_drops_the_page_of_this_pcid_and_global_ones_of_all(void **state)
{
	struct rig *r = *state;
	u64 cr3 = r->c->cr3, global = USER_VA + MEM_PAGE_SIZE, near = KERNEL_VA + MEM_PAGE_SIZE;

	pcids_on(r);
	rig_map(r, USER_VA, DATA | LEAF_BITS);
	for (u64 pcid = 3; pcid; pcid--) {
		mmu_write_cr3(r->c, cr3 | pcid);
		mmu_load(r->c, USER_VA, 8, TCG_USER);
	}
	mmu_invlpg(r->c, USER_VA + 0xfff);
	assert_int_equal(survivors(r, cr3, USER_VA, TCG_USER), 0xc);
	rig_map(r, global, DATA | LEAF_BITS | PTE_G);
	rig_map(r, KERNEL_VA, DATA | (LEAF_BITS & ~PTE_US) | PTE_G);
	rig_map(r, near, DATA | (LEAF_BITS & ~PTE_US) | PTE_G);
	for (u64 pcid = 3; pcid; pcid--) {
		mmu_write_cr3(r->c, cr3 | pcid);
		mmu_load(r->c, global, 8, TCG_USER);
		mmu_store(r->c, KERNEL_VA, 8, 8, TCG_KERNEL_AC);
		mmu_store(r->c, KERNEL_VA, 8, 8, TCG_KERNEL);
		mmu_store(r->c, near, 8, 8, TCG_KERNEL);
		mmu_store(r->c, near, 8, 8, TCG_KERNEL_AC);
	}
	mmu_invlpg(r->c, global);
	mmu_invlpg(r->c, KERNEL_VA + 8);
	assert_int_equal(survivors(r, cr3, global, TCG_USER), 0);
	assert_int_equal(survivors(r, cr3, KERNEL_VA, TCG_KERNEL_AC), 0);
	assert_false(rig_cached(r, KERNEL_VA, false, TCG_KERNEL) || rig_cached(r, KERNEL_VA, true, TCG_KERNEL));
	assert_int_equal(survivors(r, cr3, near, TCG_KERNEL_AC), 0xe);
	assert_true(rig_cached(r, near, true, TCG_KERNEL));
}

static void invlpg_in_a_large_page_drops_all_of_it_and_nothing_else(void **state)
{
	static const struct {
		u64 va;
		u32 level;
		u64 size;
	} cases[] = {{0xffff888000600000ull, 1, 2 * MIB}, {0xffff888080000000ull, 2, GIB}, {0x40200000ull, 1, 2 * MIB}};
	struct rig *r = *state;
	u64 outside = 0xffffc90000003000ull;

	rig_map(r, outside, DATA | (LEAF_BITS & ~PTE_US) | PTE_G);
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		u64 va = cases[i].va, *e = rig_entry(r, r->c->cr3, va, cases[i].level), end = MIN(cases[i].size, 4 * MIB);

		*e = LEAF_BITS | PTE_PS | PTE_G;
		r->c->cr4 &= ~X86_CR4_SMAP;
		mmu_flush_all(r->c);
		mmu_load(r->c, outside, 8, TCG_KERNEL);
		for (u64 at = 4 * MEM_PAGE_SIZE; at < end; at += 16 * MEM_PAGE_SIZE) {
			mmu_store(r->c, va + at, 8, 3, TCG_KERNEL);
			mmu_store(r->c, va + at, 8, 3, TCG_USER);
			mmu_store(r->c, va + at, 8, 3, TCG_KERNEL_AC);
		}
		mmu_invlpg(r->c, va + end - 1);
		for (u64 at = 4 * MEM_PAGE_SIZE; at < end; at += 16 * MEM_PAGE_SIZE) {
			for (u32 mode = 0; mode < 6; mode++)
				assert_false(rig_cached(r, va + at, mode / 3, (enum tcg_mmu_mode)(mode % 3)));
		}
		assert_true(rig_cached(r, outside, false, TCG_KERNEL));
	}
}

static void an_ordinary_invlpg_costs_no_neighbours(void **state)
{
	struct rig *r = *state;
	u64 fills;

	for (u32 i = 0; i < 512; i++)
		rig_map(r, KERNEL_VA + i * MEM_PAGE_SIZE, (DATA + i * MEM_PAGE_SIZE) | (LEAF_BITS & ~PTE_US) | PTE_G);
	for (u32 i = 0; i < 512; i++)
		mmu_load(r->c, KERNEL_VA + i * MEM_PAGE_SIZE, 8, TCG_KERNEL);
	fills = r->c->counters[TCG_C_FILLS];
	mmu_invlpg(r->c, KERNEL_VA + 100 * MEM_PAGE_SIZE);
	for (u32 i = 0; i < 512; i++)
		mmu_load(r->c, KERNEL_VA + i * MEM_PAGE_SIZE, 8, TCG_KERNEL);
	assert_int_equal(r->c->counters[TCG_C_FILLS], fills + 1);
}

static void global_code_of_a_user_goes_from_all_pcids(void **state)
{
	struct rig *r = *state;
	u64 cr3 = r->c->cr3;

	pcids_on(r);
	r->c->cpl = 3;
	rig_map(r, USER_VA, DATA | LEAF_BITS | PTE_G);
	mmu_write_cr3(r->c, cr3 | 2);
	assert_int_equal(mmu_code_page(r->c, USER_VA)->gpa, DATA);
	mmu_write_cr3(r->c, cr3 | 1);
	rig_map(r, USER_VA, (DATA + MEM_PAGE_SIZE) | LEAF_BITS | PTE_G);
	mmu_invlpg(r->c, USER_VA);
	mmu_write_cr3(r->c, cr3 | 2 | NOFLUSH);
	assert_int_equal(mmu_code_page(r->c, USER_VA)->gpa, DATA + MEM_PAGE_SIZE);
}

static void a_large_global_page_of_a_device_goes_from_all_pcids(void **state)
{
	struct rig *r = *state;
	u64 cr3 = r->c->cr3, va = 0x40200000;

	pcids_on(r);
	*rig_entry(r, cr3, va, 1) = DEVICE | LEAF_BITS | PTE_PS | PTE_G;
	mmu_write_cr3(r->c, cr3 | 2);
	assert_int_equal(mmu_load(r->c, va + 0x55, 1, TCG_USER), 0x55);
	mmu_write_cr3(r->c, cr3 | 1);
	*rig_entry(r, cr3, va, 1) = DATA | LEAF_BITS | PTE_PS | PTE_G;
	mmu_invlpg(r->c, va);
	mmu_write_cr3(r->c, cr3 | 2 | NOFLUSH);
	assert_int_equal(rig_gpa(r, va, MMU_READ, TCG_USER), DATA);
}

static void parts_of_the_address_space_that_share_a_walk_slot_are_told_apart(void **state)
{
	struct rig *r = *state;

	for (u64 i = 0; i < 256; i++)
		rig_map(r, USER_VA + i * 2 * MIB, (DATA + i * MEM_PAGE_SIZE) | LEAF_BITS);
	for (u64 i = 0; i < 256; i++)
		assert_int_equal(rig_gpa(r, USER_VA + i * 2 * MIB, MMU_READ, TCG_USER), DATA + i * MEM_PAGE_SIZE);
	for (u64 i = 0; i < 256; i++)
		assert_int_equal(rig_gpa(r, USER_VA + (255 - i) * 2 * MIB, MMU_WRITE, TCG_USER), DATA + (255 - i) * MEM_PAGE_SIZE);
}

/* ---- torture ---- */
#define NR_PCIDS 11u
#define PER_TREE 5u /* PML4, PDPT, PD, and two page tables of a half */
#define TREES	 MIB
#define NR_PAGES 20u
#define MAX_SEEN 256u

struct seen { /* a translation that a processor may hold */
	u64 gpa, acc, cr3;
	u16 pcid;
	bool global, dirty;
	u8 size;
};
struct seen_table { /* and a page table that it may reach without looking above */
	u64 table, acc;
	bool valid;
};

struct world {
	struct rig *r;
	u64 random;
	u64 cr3[NR_PCIDS];
	u32 pcid; /* current */
	u64 va[NR_PAGES];
	struct seen seen[NR_PAGES][MAX_SEEN];
	u32 nr_seen[NR_PAGES];
	struct seen_table tables[NR_PCIDS][NR_PAGES][8];
	u64 hits, faults, stale;
};

static u32 pick(struct world *w, u32 n)
{
	w->random = w->random * 6364136223846793005ull + 1442695040888963407ull;
	return (u32)(w->random >> 33) % n;
}

static bool same(const struct seen *a, const struct seen *b)
{
	return a->gpa == b->gpa && a->acc == b->acc && a->pcid == b->pcid && a->global == b->global && a->dirty == b->dirty &&
	       a->size == b->size;
}

static void seen_add(struct world *w, u32 page, const struct seen *s)
{
	for (u32 i = 0; i < w->nr_seen[page]; i++) {
		if (same(&w->seen[page][i], s))
			return;
	}
	assert_true(w->nr_seen[page] < MAX_SEEN);
	w->seen[page][w->nr_seen[page]++] = *s;
}

static u64 naive_reserved(u64 e, int level)
{
	u64 bits = 0x000fc00000000000ull;

	if (level == 3)
		bits |= PTE_PS;
	if (level == 2 && (e & PTE_PS))
		bits |= 0x3fffe000;
	if (level == 1 && (e & PTE_PS))
		bits |= 0x1fe000;
	return bits;
}

/* The walk, from SDM 3A figure 4-8. 0, or the P and RSVD bits of a fault | 0x100. Also gives the last table, when there is one. */
static u32 naive_walk(struct world *w, u64 cr3, u64 va, int level, struct seen *s, struct seen_table *last)
{
	u64 table = cr3 & PTE_GPA;

	for (;; level--) {
		int shift = 12 + 9 * level;
		u64 e;

		if (level == 0 && last)
			*last = (struct seen_table){.table = table, .acc = s->acc, .valid = true};
		e = *rig_ram(w->r, table + (va >> shift & 511) * 8);
		if (!(e & PTE_P))
			return 0x100;
		if (e & naive_reserved(e, level))
			return 0x100 | PF_P | PF_RSVD;
		s->acc &= (e & (PTE_RW | PTE_US)) | (~e & PTE_NX);
		if (level == 0 || (e & PTE_PS)) {
			s->gpa = (e & PTE_GPA & ~(BIT(shift) - 1)) | (va & (BIT(shift) - 1) & ~PAGE_OFFSET);
			s->global = (e & PTE_G) && (w->r->c->cr4 & X86_CR4_PGE);
			s->dirty = e & PTE_D;
			s->size = (u8)level;
			return 0;
		}
		table = e & PTE_GPA;
	}
}

static struct seen fresh(const struct world *w, u32 pcid)
{
	return (struct seen){.acc = PTE_RW | PTE_US | PTE_NX, .pcid = (u16)pcid, .cr3 = w->cr3[pcid]};
}

static void table_add(struct world *w, u32 pcid, u32 page, const struct seen_table *t)
{
	struct seen_table *tables = w->tables[pcid][page];
	u32 i = 0;

	for (; tables[i].valid; i++) {
		assert_true(i < 7);
		if (tables[i].table == t->table && tables[i].acc == t->acc)
			return;
	}
	tables[i] = *t;
}

/* Notes all that a processor could cache now: translations from CR3, and through tables that it remembers. */
static void snapshot_one(struct world *w, u32 pcid, u32 page)
{
	struct seen s = fresh(w, pcid);
	struct seen_table last = {0};

	if (!naive_walk(w, w->cr3[pcid], w->va[page], 3, &s, &last))
		seen_add(w, page, &s);
	if (last.valid)
		table_add(w, pcid, page, &last);
	for (u32 i = 0; w->tables[pcid][page][i].valid; i++) {
		s = fresh(w, pcid);
		s.acc = w->tables[pcid][page][i].acc;
		if (!naive_walk(w, w->tables[pcid][page][i].table, w->va[page], 0, &s, NULL))
			seen_add(w, page, &s);
	}
}

static void snapshot(struct world *w)
{
	for (u32 page = 0; page < NR_PAGES; page++)
		snapshot_one(w, w->pcid, page);
}

/* Edits reach tables of one PCID, or the kernel's, which all share: the others' views are noted before they change. */
static void snapshot_all(struct world *w)
{
	for (u32 pcid = 0; pcid < NR_PCIDS; pcid++) {
		for (u32 page = 0; page < NR_PAGES; page++)
			snapshot_one(w, pcid, page);
	}
}

struct drop {
	bool any_pcid, globals, one_page, others_global; /* others_global: global ones of other PCIDs too */
	u32 pcid;
	u64 va;
};

static bool drops(const struct drop *d, u64 page_va, const struct seen *s)
{
	if (d->one_page && (page_va ^ d->va) >> (12 + 9 * s->size))
		return false;
	if (s->global)
		return d->globals;
	return d->any_pcid || s->pcid == d->pcid;
}

static void model_drop(struct world *w, const struct drop *d)
{
	for (u32 page = 0; page < NR_PAGES; page++) {
		u32 n = 0;

		for (u32 i = 0; i < w->nr_seen[page]; i++) {
			if (!drops(d, w->va[page], &w->seen[page][i]))
				w->seen[page][n++] = w->seen[page][i];
		}
		w->nr_seen[page] = n;
	}
	for (u32 pcid = 0; pcid < NR_PCIDS; pcid++) {
		if (d->any_pcid || pcid == d->pcid)
			memset(w->tables[pcid], 0, sizeof(w->tables[pcid]));
	}
	snapshot_all(w);
}

static bool model_allows(struct world *w, u32 page, u64 gpa, enum mmu_access access, enum tcg_mmu_mode mode)
{
	for (u32 i = 0; i < w->nr_seen[page]; i++) {
		const struct seen *s = &w->seen[page][i];

		if (s->gpa != gpa || (s->pcid != w->pcid && !s->global))
			continue;
		if (access == MMU_WRITE && !s->dirty)
			continue;
		if (mmu_allowed(w->r->c, s->acc, access, mode)) /* checked against the manual in test_tcg_mmu */
			return true;
	}
	return false;
}

/* What a processor without a TLB would say: 0, or 0x100 | error code. */
static u32 naive_fault(struct world *w, u32 page, enum mmu_access access, enum tcg_mmu_mode mode, u64 *gpa)
{
	struct seen s = fresh(w, w->pcid);
	u32 ret = naive_walk(w, w->r->c->cr3, w->va[page], 3, &s, NULL);

	*gpa = s.gpa;
	if (!ret && mmu_allowed(w->r->c, s.acc, access, mode))
		return 0;
	ret = ret ? ret : 0x100 | PF_P;
	return ret | (access == MMU_WRITE ? PF_W : 0) | (access == MMU_EXEC ? PF_I : 0) | (mode == TCG_USER ? PF_U : 0);
}

static u64 fetch_gpa(struct rig *r, u64 va, enum tcg_mmu_mode mode)
{
	const struct tcg_itlb *volatile e = NULL;
	struct tcg_jump *j = mode == TCG_USER ? tcg_ctx_at(r->c, r->c->ctx)->jump : r->c->k_jump;

	j += va >> 1 & (TCG_JUMP_SIZE - 1);
	if (!(va + j->neg))
		return j->host; /* as translated code does it: nothing but the jump cache is asked */
	r->c->cpl = mode == TCG_USER ? 3 : 0;
	if (!TRY(r, e = mmu_code_page(r->c, va)))
		return UINT64_MAX;
	assert_non_null(e);
	*j = (struct tcg_jump){.neg = -va, .host = e->gpa};
	return e->gpa;
}

static void access_one(struct world *w)
{
	u32 page = pick(w, NR_PAGES);
	enum mmu_access access = (enum mmu_access)pick(w, 3);
	enum tcg_mmu_mode mode = access == MMU_EXEC ? (pick(w, 2) ? TCG_USER : TCG_KERNEL) : (enum tcg_mmu_mode)pick(w, 3);
	u64 naive_gpa, gpa;
	u32 fault = naive_fault(w, page, access, mode, &naive_gpa);

	gpa = access == MMU_EXEC ? fetch_gpa(w->r, w->va[page], mode) : rig_gpa(w->r, w->va[page], access, mode);
	snapshot(w);
	if (gpa == UINT64_MAX) {
		w->faults++;
		assert_int_equal(w->r->vector, X86_PF);
		assert_int_equal(w->r->error | 0x100, fault);
		assert_int_equal(w->r->address, w->va[page]);
		return;
	}
	w->hits++;
	w->stale += fault || gpa != naive_gpa;
	assert_true(model_allows(w, page, gpa, access, mode));
	if (access != MMU_EXEC && pick(w, 2)) /* the next access may find the tables that this one filled */
		(void)mmu_fill(w->r->c, w->va[page], 8, access == MMU_WRITE, mode);
}

static u64 random_flags(struct world *w)
{
	u64 flags = PTE_P | PTE_A;

	flags |= pick(w, 6) ? PTE_RW : 0;
	flags |= pick(w, 3) ? PTE_US : 0;
	flags |= pick(w, 5) ? PTE_D : 0;
	flags |= pick(w, 4) ? 0 : PTE_NX;
	flags |= pick(w, 3) ? 0 : PTE_G;
	flags |= pick(w, 40) ? 0 : BIT(47); /* reserved */
	flags &= pick(w, 8) ? ~0ull : ~PTE_A;
	flags &= pick(w, 12) ? ~0ull : ~PTE_P;
	return flags;
}

static void edit_one(struct world *w)
{
	u32 page = pick(w, NR_PAGES), pcid = pick(w, 3) ? w->pcid : pick(w, NR_PCIDS), kind = pick(w, 12);
	u64 va = w->va[page], tree = va >> 63 ? TREES : w->cr3[pcid] & PTE_GPA, *pde, *e;

	pde = rig_ram(w->r, tree + 2 * MEM_PAGE_SIZE + (va >> 21 & 511) * 8);
	e = rig_ram(w->r, tree + (3 + (va >> 21 & 1)) * MEM_PAGE_SIZE + (va >> 12 & 511) * 8);
	if (kind == 0) /* a large page, or a table again */
		*pde = (DATA + pick(w, 3) * 2 * MIB) | random_flags(w) | PTE_PS;
	else if (kind < 3)
		*pde = (tree + (3 + pick(w, 2)) * MEM_PAGE_SIZE) | (random_flags(w) & ~PTE_G);
	else if (kind < 5)
		*pde = (tree + (3 + (va >> 21 & 1)) * MEM_PAGE_SIZE) | TABLE_BITS;
	else
		*e = (DATA + pick(w, 16) * MEM_PAGE_SIZE) | random_flags(w);
	snapshot_all(w);
}

static void write_cr3(struct world *w)
{
	u32 pcid = pick(w, 3) ? pick(w, 3) : pick(w, NR_PCIDS);
	bool pcide = w->r->c->cr4 & X86_CR4_PCIDE, keep = pcide && pick(w, 4);
	struct drop all = {.pcid = pcid, .any_pcid = !pcide};

	mmu_write_cr3(w->r->c, (w->cr3[pcid] & ~(pcide ? 0 : 0xfffull)) | (keep ? NOFLUSH : 0));
	w->pcid = pcid;
	if (!keep)
		model_drop(w, &all);
}

static void flush_one(struct world *w)
{
	struct tcg_cpu *c = w->r->c;
	u64 va = w->va[pick(w, NR_PAGES)] ^ pick(w, 4096);
	u32 pcid = pick(w, 2) ? w->pcid : pick(w, NR_PCIDS), kind = pick(w, 48);
	struct drop all = {.any_pcid = true, .globals = true}, d = {.pcid = pcid, .va = va};

	if (kind < 24) {
		mmu_invlpg(c, va);
		model_drop(w, &(struct drop){.pcid = w->pcid, .va = va, .one_page = true, .globals = true});
	} else if (kind < 44 && (c->cr4 & X86_CR4_PCIDE)) {
		bool single = kind < 36;

		mmu_invpcid(c, single ? 0 : 1, (u16)pcid, va);
		d.one_page = single;
		model_drop(w, &d);
	} else if (kind < 46) {
		mmu_invpcid(c, 3, 0, 0);
		model_drop(w, &(struct drop){.any_pcid = true});
	} else {
		u64 bits[] = {0, X86_CR4_PGE, X86_CR4_SMAP, X86_CR4_PGE};

		c->cr4 ^= bits[pick(w, 4)];
		if (pick(w, 4) == 0)
			c->cr0 ^= X86_CR0_WP;
		mmu_flush_all(c);
		model_drop(w, &all);
	}
}

static void tree_make(struct world *w, u64 tree, u64 va)
{
	*rig_ram(w->r, tree + (va >> 39 & 511) * 8) = (tree + MEM_PAGE_SIZE) | TABLE_BITS;
	*rig_ram(w->r, tree + MEM_PAGE_SIZE + (va >> 30 & 511) * 8) = (tree + 2 * MEM_PAGE_SIZE) | TABLE_BITS;
	for (u32 i = 0; i < 6; i++)
		*rig_ram(w->r, tree + 2 * MEM_PAGE_SIZE + i * 8) = (tree + (3 + (i & 1)) * MEM_PAGE_SIZE) | TABLE_BITS;
}

/* Pages that share slots of the tables: 2 MiB, 4 MiB and half an address space apart. */
static void world_make(struct world *w, struct rig *r)
{
	static const u64 bases[] = {0, 0x200000, 0x400000, 0xffff888000000000ull, 0xffff888000200000ull};
	static const u64 offsets[] = {0, 0x3000, 0x3000 + 256 * 4096, 0x1ff000};

	w->r = r;
	tree_make(w, TREES, bases[3]);
	for (u32 i = 0; i < NR_PCIDS; i++) {
		u64 tree = TREES + (i + 1) * 8 * MEM_PAGE_SIZE;

		tree_make(w, tree, 0);
		*rig_ram(r, tree + (bases[3] >> 39 & 511) * 8) = *rig_ram(r, TREES + (bases[3] >> 39 & 511) * 8);
		w->cr3[i] = tree | i;
	}
	for (u32 i = 0; i < NR_PAGES; i++)
		w->va[i] = bases[i / 4] + offsets[i % 4];
	mmu_write_cr3(r->c, w->cr3[0]);
	snapshot_all(w);
}

static void torture(struct rig *r, u64 seed, u32 steps)
{
	struct world *w = xzalloc(sizeof(*w));
	auto_free void *gone = w;

	assert_non_null(gone);
	w->random = seed;
	world_make(w, r);
	for (u32 i = 0; i < steps; i++) {
		u32 kind = pick(w, 100);

		if (kind < 82)
			access_one(w);
		else if (kind < 89)
			edit_one(w);
		else if (kind < 96)
			write_cr3(w);
		else
			flush_one(w);
	}
	print_message("# %llu hits, %llu of them stale, %llu faults\n", (unsigned long long)w->hits, (unsigned long long)w->stale,
		      (unsigned long long)w->faults);
	assert_true(w->stale > 100 && w->faults > 100);
}

static void random_edits_and_flushes_never_show_what_they_may_not(void **state)
{
	struct rig *r = *state;

	pcids_on(r);
	torture(r, 1, 150000);
}

static void the_same_without_pcids(void **state)
{
	struct rig *r = *state;

	torture(r, 2, 150000);
}

/* ---- other vCPUs ---- */
struct flipper {
	u64 *e;
	bool stop;
	u64 lost;
};

/* Empties the entry for a while, as an operating system does it: nothing may be written to it then. */
static void *flip(void *opaque)
{
	struct flipper *f = opaque;

	for (u32 round = 0; !__atomic_load_n(&f->stop, __ATOMIC_RELAXED); round++) {
		for (u32 i = 0; i < round % 500; i++)
			__asm__ volatile("");
		__atomic_exchange_n(f->e, 0, __ATOMIC_SEQ_CST);
		for (u32 i = 0; i < 500; i++)
			__asm__ volatile("");
		f->lost += __atomic_exchange_n(f->e, DATA | PTE_P | PTE_RW | PTE_US, __ATOMIC_SEQ_CST) != 0;
	}
	return NULL;
}

static void bits_are_set_only_in_the_entry_that_was_read(void **state)
{
	struct rig *r = *state;
	struct flipper f = {.e = rig_map(r, USER_VA, DATA | PTE_P | PTE_RW | PTE_US)};
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, flip, &f), 0);
	for (u32 i = 0; i < 1000000; i++) {
		mmu_invlpg(r->c, USER_VA);
		(void)mmu_fill(r->c, USER_VA, 8, i & 1, TCG_USER);
	}
	__atomic_store_n(&f.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	assert_int_equal(f.lost, 0);
}

/* ---- speed ---- */
static double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void refills_are_fast(void **state)
{
	struct rig *r = *state;
	double best = 1, full = 1, cr3 = 1, invlpg = 1;

	for (u32 i = 0; i < 2000; i++)
		rig_map(r, KERNEL_VA + i * MEM_PAGE_SIZE, (DATA + i * MEM_PAGE_SIZE) | (LEAF_BITS & ~PTE_US) | PTE_G);
	for (u32 round = 0; round < 60; round++) {
		double t = seconds();

		for (u32 i = 0; i < 2000; i++)
			assert_true(mmu_fill(r->c, KERNEL_VA + i * MEM_PAGE_SIZE, 8, true, TCG_KERNEL));
		best = MIN(best, (seconds() - t) / 2000);
		t = seconds();
		for (u32 i = 0; i < 2000; i++) {
			r->c->mmu.gen[0]++;
			assert_true(mmu_fill(r->c, KERNEL_VA + i * MEM_PAGE_SIZE, 8, true, TCG_KERNEL));
		}
		full = MIN(full, (seconds() - t) / 2000);
		t = seconds();
		for (u32 i = 0; i < 2000; i++)
			mmu_invlpg(r->c, KERNEL_VA + i * MEM_PAGE_SIZE);
		invlpg = MIN(invlpg, (seconds() - t) / 2000);
		r->c->cr4 |= X86_CR4_PCIDE;
		t = seconds();
		for (u32 i = 0; i < 2000; i++)
			mmu_write_cr3(r->c, NOFLUSH | MIB | (i & 3));
		cr3 = MIN(cr3, (seconds() - t) / 2000);
		mmu_write_cr3(r->c, MIB | NOFLUSH);
	}
	print_message("# refill %.1f ns, with a full walk %.1f ns; invlpg %.1f ns; CR3 without flush %.1f ns\n", best * 1e9, full * 1e9,
		      invlpg * 1e9, cr3 * 1e9);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		T(without_pcids_cr3_drops_all_but_global_pages),
		T(pcids_keep_their_pages_and_bit_63_decides),
		T(the_least_recently_used_pcid_makes_room),
		T(invpcid_drops_what_its_type_says),
		T(invlpg_drops_the_page_of_this_pcid_and_global_ones_of_all),
		T(invlpg_in_a_large_page_drops_all_of_it_and_nothing_else),
		T(an_ordinary_invlpg_costs_no_neighbours),
		T(global_code_of_a_user_goes_from_all_pcids),
		T(a_large_global_page_of_a_device_goes_from_all_pcids),
		T(parts_of_the_address_space_that_share_a_walk_slot_are_told_apart),
		T(random_edits_and_flushes_never_show_what_they_may_not),
		T(the_same_without_pcids),
		T(bits_are_set_only_in_the_entry_that_was_read),
		T(refills_are_fast),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
