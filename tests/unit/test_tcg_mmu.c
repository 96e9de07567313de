/* test_tcg_mmu.c: what guest virtual addresses mean under tcg: permissions, accessed and dirty bits, paging modes, and what flushes drop.
 */
#include "tcg_mmu_rig.h"

#define USER_VA	  0x7f0000401000ull
#define KERNEL_VA 0xffff888000402000ull
#define DATA	  (8 * MIB)

/* ---- permissions ---- */
struct situation {
	bool us, rw, nx;	  /* of the page */
	bool nxe, wp, smep, smap; /* of the processor */
	enum tcg_mmu_mode mode;
	enum mmu_access access;
	u32 level; /* where the page's missing rights are missing */
};

/* SDM 3A §4.6.1, word for word. */
static bool manual_allows(const struct situation *s)
{
	bool supervisor = s->mode != TCG_USER;

	if (s->access == MMU_EXEC) {
		if (supervisor && s->us && s->smep)
			return false;
		if (!supervisor && !s->us)
			return false;
		return !(s->nxe && s->nx);
	}
	if (!supervisor)
		return s->us && (s->access == MMU_READ || s->rw);
	if (s->us && s->smap && s->mode == TCG_KERNEL)
		return false;
	return s->access == MMU_READ || s->rw || !s->wp;
}

static u32 manual_error(const struct situation *s)
{
	u32 error = PF_P;

	error |= s->mode == TCG_USER ? PF_U : 0;
	error |= s->access == MMU_WRITE ? PF_W : 0;
	error |= s->access == MMU_EXEC && (s->smep || s->nxe) ? PF_I : 0;
	return error;
}

static void situation_set(struct rig *r, const struct situation *s)
{
	struct tcg_cpu *c = r->c;
	u64 *e = rig_map(r, USER_VA, DATA | LEAF_BITS);

	for (u32 level = 0; level < 4; level++)
		*rig_entry(r, c->cr3, USER_VA, level) |= PTE_RW | PTE_US;
	for (u32 level = 0; level < 4; level++)
		*rig_entry(r, c->cr3, USER_VA, level) &= ~PTE_NX;
	e = rig_entry(r, c->cr3, USER_VA, s->level);
	*e &= ~((s->us ? 0 : PTE_US) | (s->rw ? 0 : PTE_RW));
	*e |= s->nx && s->nxe ? PTE_NX : 0;
	c->efer = X86_EFER_LMA | X86_EFER_LME | (s->nxe ? X86_EFER_NXE : 0);
	c->cr0 = X86_CR0_PE | X86_CR0_PG | (s->wp ? X86_CR0_WP : 0);
	c->cr4 = X86_CR4_PAE | (s->smep ? X86_CR4_SMEP : 0) | (s->smap ? X86_CR4_SMAP : 0);
	c->cpl = s->mode == TCG_USER ? 3 : 0;
	mmu_flush_all(c);
}

/* Twice: through a walk from CR3, and with the page-walk cache warm from an access that is always allowed there. */
static void situation_check(struct rig *r, const struct situation *s, bool warm)
{
	bool allowed = manual_allows(s);
	struct tcg_cpu *c = r->c;

	situation_set(r, s);
	if (warm)
		(void)mmu_fill(c, USER_VA + MEM_PAGE_SIZE, 1, false, TCG_KERNEL_AC);
	if (s->access == MMU_EXEC) {
		assert_int_equal(TRY(r, mmu_code_page(c, USER_VA + 5)), allowed);
	} else {
		assert_int_equal(TRY(r, mmu_probe(c, USER_VA + 5, 1, s->access, s->mode)), allowed);
		assert_int_equal(rig_cached(r, USER_VA, s->access == MMU_WRITE, s->mode), allowed);
		assert_int_equal(mmu_fill(c, USER_VA + 5, 1, s->access == MMU_WRITE, s->mode), allowed);
	}
	if (allowed)
		return;
	assert_int_equal(r->vector, X86_PF);
	assert_int_equal(r->error, manual_error(s));
	assert_int_equal(r->address, USER_VA + 5);
}

static void permissions_are_the_manuals_in_every_combination(void **state)
{
	struct rig *r = *state;

	rig_map(r, USER_VA + MEM_PAGE_SIZE, DATA | LEAF_BITS);
	for (u32 i = 0; i < 1u << 7; i++) {
		for (u32 k = 0; k < 36; k++) {
			struct situation s = {.us = i & 1, .rw = i & 2, .nx = i & 4, .nxe = i & 8, .wp = i & 16, .smep = i & 32};

			s.smap = i & 64;
			s.mode = (enum tcg_mmu_mode)(k % 3);
			s.access = (enum mmu_access)(k / 3 % 3);
			s.level = k / 9;
			if (s.access == MMU_EXEC && s.mode == TCG_KERNEL_AC)
				continue; /* AC has no say in fetches */
			situation_check(r, &s, false);
			situation_check(r, &s, true);
		}
	}
}

static void a_page_that_is_not_there_faults_without_p(void **state)
{
	struct rig *r = *state;

	for (u32 level = 0; level < 4; level++) {
		rig_map(r, USER_VA, DATA | LEAF_BITS);
		mmu_probe(r->c, USER_VA, 1, MMU_READ, TCG_USER);
		*rig_entry(r, r->c->cr3, USER_VA, level) &= ~PTE_P;
		mmu_invlpg(r->c, USER_VA);
		assert_fault(r, mmu_load(r->c, USER_VA + 0xff8, 8, TCG_USER), PF_U, USER_VA + 0xff8);
		assert_fault(r, mmu_store(r->c, USER_VA, 8, 0, TCG_KERNEL), PF_W, USER_VA);
		assert_false(mmu_fill(r->c, USER_VA, 8, false, TCG_USER));
		*rig_entry(r, r->c->cr3, USER_VA, level) |= PTE_P;
		/* No negative caching: nothing has to be flushed for an entry that was not present. */
		assert_true(TRY(r, mmu_load(r->c, USER_VA, 8, TCG_USER)));
	}
}

static void reserved_bits_fault(void **state)
{
	static const struct {
		u32 level;
		u64 bits;
		bool faults;
	} cases[] = {
		{0, BIT(46), true},	     {1, BIT(46), true},	   {2, BIT(51), true},
		{3, BIT(50), true},	     {0, BIT(52), false},	   {1, BIT(62), false},
		{3, PTE_PS, true},	     {0, PTE_PS, false},	   {1, PTE_PS | BIT(13), true},
		{1, PTE_PS | BIT(20), true}, {1, PTE_PS | BIT(12), false}, {2, PTE_PS | BIT(13), true},
		{2, PTE_PS | BIT(29), true}, {0, BIT(45), false},
	};
	struct rig *r = *state;

	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		u64 *e, old;

		rig_map(r, USER_VA, DATA | LEAF_BITS);
		e = rig_entry(r, r->c->cr3, USER_VA, cases[i].level);
		old = *e;
		*e = (cases[i].bits & PTE_PS && cases[i].level ? LEAF_BITS : old) | cases[i].bits;
		mmu_invlpg(r->c, USER_VA);
		if (cases[i].faults)
			assert_fault(r, mmu_probe(r->c, USER_VA, 1, MMU_WRITE, TCG_USER), PF_P | PF_W | PF_U | PF_RSVD, USER_VA);
		else
			assert_true(TRY(r, mmu_probe(r->c, USER_VA, 1, MMU_READ, TCG_USER)));
		*e = old;
		mmu_invlpg(r->c, USER_VA);
	}
}

static void nx_is_reserved_without_nxe_and_1g_pages_without_their_cpuid_bit(void **state)
{
	struct rig *r = *state;

	rig_map(r, USER_VA, DATA | LEAF_BITS | PTE_NX);
	r->c->efer &= ~X86_EFER_NXE;
	mmu_flush_all(r->c);
	assert_fault(r, mmu_load(r->c, USER_VA, 1, TCG_USER), PF_P | PF_U | PF_RSVD, USER_VA);
	*rig_entry(r, r->c->cr3, USER_VA, 2) = LEAF_BITS | PTE_PS;
	assert_true(TRY(r, mmu_load(r->c, 0x7f0000401000ull, 1, TCG_USER)));
	r->c->cpuid.e[0].edx = 0;
	mmu_reset(r->c);
	assert_fault(r, mmu_load(r->c, USER_VA, 1, TCG_USER), PF_P | PF_U | PF_RSVD, USER_VA);
}

static void an_upgrade_needs_no_flush(void **state)
{
	struct rig *r = *state;
	u64 *e = rig_map(r, USER_VA, DATA | (LEAF_BITS & ~PTE_RW)), *pde = rig_entry(r, r->c->cr3, USER_VA, 1);

	assert_true(TRY(r, mmu_load(r->c, USER_VA, 8, TCG_USER)));
	assert_fault(r, mmu_store(r->c, USER_VA, 8, 1, TCG_USER), PF_P | PF_W | PF_U, USER_VA);
	*e |= PTE_RW;
	assert_true(TRY(r, mmu_store(r->c, USER_VA, 8, 1, TCG_USER)));
	/* The same in the level that the page-walk cache holds. */
	*pde &= ~PTE_RW;
	mmu_invlpg(r->c, USER_VA);
	assert_fault(r, mmu_store(r->c, USER_VA, 8, 1, TCG_USER), PF_P | PF_W | PF_U, USER_VA);
	assert_true(TRY(r, mmu_load(r->c, USER_VA, 8, TCG_USER)));
	*pde |= PTE_RW;
	assert_true(TRY(r, mmu_store(r->c, USER_VA, 8, 1, TCG_USER)));
}

/* ---- accessed and dirty bits ---- */
static void accessed_and_dirty_bits_are_set_when_they_have_to_be(void **state)
{
	struct rig *r = *state;
	u64 *e = rig_map(r, USER_VA, DATA | PTE_P | PTE_RW | PTE_US), *pde = rig_entry(r, r->c->cr3, USER_VA, 1);

	*pde &= ~PTE_A;
	assert_false(mmu_fill_group(r->c, USER_VA, 64, false, TCG_USER));
	assert_int_equal(*e & (PTE_A | PTE_D), 0);
	assert_int_equal(*pde & PTE_A, 0);
	assert_true(mmu_fill(r->c, USER_VA, 8, false, TCG_USER));
	assert_int_equal(*e & (PTE_A | PTE_D), PTE_A);
	assert_int_equal(*pde & (PTE_A | PTE_D), PTE_A);
	assert_false(rig_cached(r, USER_VA, true, TCG_USER)); /* the first store has to set D */
	assert_false(mmu_fill_group(r->c, USER_VA, 64, true, TCG_USER));
	assert_int_equal(*e & PTE_D, 0);
	assert_true(mmu_fill(r->c, USER_VA, 8, true, TCG_USER));
	assert_int_equal(*e & PTE_D, PTE_D);
	assert_true(rig_cached(r, USER_VA, true, TCG_USER));
	mmu_invlpg(r->c, USER_VA);
	assert_true(mmu_fill_group(r->c, USER_VA, 64, true, TCG_USER));
	assert_int_equal(*pde & PTE_D, 0);
}

static void a_fault_leaves_accessed_and_dirty_bits_alone(void **state)
{
	struct rig *r = *state;
	u64 *e = rig_map(r, USER_VA, DATA | PTE_P | PTE_RW | PTE_US), *next = rig_map(r, USER_VA + MEM_PAGE_SIZE, 0);

	*e &= ~PTE_RW;
	assert_fault(r, mmu_store(r->c, USER_VA, 1, 0, TCG_USER), PF_P | PF_W | PF_U, USER_VA);
	assert_int_equal(*e & (PTE_A | PTE_D), 0);
	*e |= PTE_RW;
	assert_fault(r, mmu_store(r->c, USER_VA + 0xffd, 8, ~0ull, TCG_USER), PF_W | PF_U, USER_VA + MEM_PAGE_SIZE);
	assert_int_equal(*e & PTE_D, 0);
	*next = (DATA + MEM_PAGE_SIZE) | PTE_P | PTE_RW | PTE_US;
	assert_true(TRY(r, mmu_store(r->c, USER_VA + 0xffd, 8, ~0ull, TCG_USER)));
	assert_int_equal(*e & PTE_D, PTE_D);
	assert_int_equal(*next & PTE_D, PTE_D);
}

static void a_fetch_sets_the_accessed_bit_only(void **state)
{
	struct rig *r = *state;
	u64 *e = rig_map(r, USER_VA, DATA | PTE_P | PTE_RW | PTE_US);

	r->c->cpl = 3;
	assert_non_null(mmu_code_page(r->c, USER_VA));
	assert_int_equal(*e & (PTE_A | PTE_D), PTE_A);
}

static void looking_from_outside_changes_nothing(void **state)
{
	struct rig *r = *state;
	u64 *e = rig_map(r, USER_VA, DATA | PTE_P), gpa;

	assert_true(mmu_translate(r->c, USER_VA + 0x123, &gpa));
	assert_int_equal(gpa, DATA + 0x123);
	assert_int_equal(*e & PTE_A, 0);
	assert_false(mmu_translate(r->c, USER_VA + MEM_PAGE_SIZE, &gpa));
	assert_false(mmu_translate(r->c, BIT(47), &gpa));
	*e = 5ull * GIB | PTE_P;
	assert_true(mmu_translate(r->c, USER_VA, &gpa));
	assert_int_equal(gpa, 5ull * GIB);
}

/* ---- values ---- */
static void values_of_each_size_are_moved_also_over_the_end_of_a_page(void **state)
{
	static const u64 value = 0x8877665544332211ull;
	struct rig *r = *state;

	rig_map(r, USER_VA, DATA | LEAF_BITS);
	rig_map(r, USER_VA + MEM_PAGE_SIZE, (DATA + 7 * MEM_PAGE_SIZE) | LEAF_BITS);
	for (u32 size = 1; size <= 8; size *= 2) {
		for (u64 at = 0xff0; at < 0x1008; at++) {
			u64 mask = size == 8 ? ~0ull : BIT(size * 8) - 1;

			mmu_store(r->c, USER_VA + at - 1, 1, 0xcc, TCG_USER);
			mmu_store(r->c, USER_VA + at + size, 1, 0xdd, TCG_USER);
			mmu_store(r->c, USER_VA + at, size, value, TCG_USER);
			assert_int_equal(mmu_load(r->c, USER_VA + at, size, TCG_USER), value & mask);
			assert_int_equal(mmu_load(r->c, USER_VA + at - 1, 1, TCG_USER), 0xcc);
			assert_int_equal(mmu_load(r->c, USER_VA + at + size, 1, TCG_USER), 0xdd);
		}
	}
	assert_int_equal(*(u8 *)rig_ram(r, DATA + 7 * MEM_PAGE_SIZE + 7), 0x11);
}

static void bytes_move_whole_or_not_at_all(void **state)
{
	struct rig *r = *state;
	u8 out[4096], in[4096];

	rig_map(r, USER_VA, DATA | LEAF_BITS);
	for (u32 i = 0; i < sizeof(out); i++)
		out[i] = (u8)(i * 7);
	assert_fault(r, mmu_store_bytes(r->c, USER_VA + 1, out, 4096, TCG_USER), PF_W | PF_U, USER_VA + MEM_PAGE_SIZE);
	assert_int_equal(*rig_ram(r, DATA), 0);
	rig_map(r, USER_VA + MEM_PAGE_SIZE, (DATA + 5 * MEM_PAGE_SIZE) | LEAF_BITS);
	for (u32 n = 0; n <= 4096; n = n * 2 + 1) {
		mmu_store_bytes(r->c, USER_VA + 4090, out, n, TCG_USER);
		memset(in, 0, sizeof(in));
		mmu_load_bytes(r->c, USER_VA + 4090, in, n, TCG_USER);
		assert_memory_equal(in, out, n);
		mmu_store_bytes(r->c, USER_VA, out, n, TCG_USER);
		mmu_load_bytes(r->c, USER_VA, in, n, TCG_USER);
		assert_memory_equal(in, out, n);
	}
}

static void the_first_byte_that_fails_is_reported(void **state)
{
	struct rig *r = *state;
	u64 *e = rig_map(r, USER_VA, DATA | LEAF_BITS);

	assert_fault(r, mmu_load(r->c, USER_VA + 0xfff, 2, TCG_USER), PF_U, USER_VA + MEM_PAGE_SIZE);
	assert_fault(r, mmu_host(r->c, USER_VA + 0xfff, 2, MMU_READ, TCG_USER), PF_U, USER_VA + MEM_PAGE_SIZE);
	assert_fault(r, mmu_probe(r->c, USER_VA + 3, 0x1000, MMU_WRITE, TCG_USER), PF_W | PF_U, USER_VA + MEM_PAGE_SIZE);
	*e = 0;
	mmu_invlpg(r->c, USER_VA);
	assert_fault(r, mmu_load(r->c, USER_VA + 0xffd, 4, TCG_USER), PF_U, USER_VA + 0xffd);
	assert_false(mmu_fill(r->c, USER_VA + 0xfff, 2, false, TCG_USER));
}

static void addresses_that_are_not_canonical_raise_gp(void **state)
{
	static const u64 bad[] = {BIT(47), BIT(63), 0xffff7fffffffffffull, 0x7fffffffffffull};
	struct rig *r = *state;

	rig_map(r, 0x7ffffffff000ull, DATA | LEAF_BITS);
	rig_map(r, 0xfffffffffffff000ull, DATA | LEAF_BITS);
	rig_map(r, 0, (DATA + MEM_PAGE_SIZE) | LEAF_BITS);
	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_false(TRY(r, mmu_load(r->c, bad[i], 2, TCG_USER)));
		assert_int_equal(r->vector, X86_GP);
		assert_int_equal(r->error, 0);
		assert_false(mmu_fill(r->c, bad[i], 2, false, TCG_USER));
	}
	assert_true(TRY(r, mmu_load(r->c, 0x7fffffffffffull, 1, TCG_USER)));
	/* The last byte and the first are neighbours; neither table holds a false entry for them. */
	assert_true(TRY(r, mmu_store(r->c, UINT64_MAX, 2, 0xaabb, TCG_USER)));
	assert_int_equal(*(u8 *)rig_ram(r, DATA + 0xff8), 0);
	assert_int_equal(mmu_load(r->c, UINT64_MAX, 1, TCG_USER), 0xbb);
	assert_int_equal(mmu_load(r->c, 0, 1, TCG_USER), 0xaa);
}

static void an_empty_table_holds_no_page(void **state)
{
	struct rig *r = *state;

	for (u32 round = 0; round < 2; round++) {
		rig_map(r, 4 * MIB, DATA | LEAF_BITS);
		mmu_store(r->c, 4 * MIB, 8, 0, TCG_USER);
		mmu_store(r->c, 4 * MIB, 8, 0, TCG_KERNEL_AC);
		mmu_invlpg(r->c, 4 * MIB);
		assert_false(rig_cached(r, 0, false, TCG_USER) || rig_cached(r, 0, true, TCG_USER));
		assert_false(rig_cached(r, 0, false, TCG_KERNEL_AC) || rig_cached(r, 0, true, TCG_KERNEL_AC));
	}
	r->c->cr4 &= ~X86_CR4_SMAP;
	mmu_flush_all(r->c);
	mmu_store(r->c, 4 * MIB, 8, 0, TCG_KERNEL); /* not global: CR3 drops it */
	mmu_write_cr3(r->c, r->c->cr3);
	for (u64 va = 0; va < 8 * MIB; va += MEM_PAGE_SIZE) {
		assert_false(rig_cached(r, va, false, TCG_USER));
		assert_false(rig_cached(r, va, true, TCG_KERNEL));
		assert_false(rig_cached(r, va, false, TCG_KERNEL_AC));
		assert_false(rig_cached(r, -va - MEM_PAGE_SIZE, false, TCG_KERNEL));
		assert_false(rig_cached(r, -va - MEM_PAGE_SIZE, true, TCG_KERNEL_AC));
	}
}

/* ---- devices, code, dirty log ---- */
static void devices_see_each_access_and_are_never_cached(void **state)
{
	struct rig *r = *state;

	rig_map(r, KERNEL_VA, DEVICE | LEAF_BITS | PTE_NX);
	rig_map(r, KERNEL_VA + MEM_PAGE_SIZE, DATA | LEAF_BITS);
	rig_map(r, KERNEL_VA - MEM_PAGE_SIZE, DATA | LEAF_BITS);
	assert_false(mmu_fill(r->c, KERNEL_VA, 4, false, TCG_USER));
	assert_null(mmu_host(r->c, KERNEL_VA, 4, MMU_READ, TCG_USER));
	assert_int_equal(mmu_load(r->c, KERNEL_VA + 0x10, 4, TCG_USER), 0x13121110);
	mmu_store(r->c, KERNEL_VA + 0x21, 2, 0x12345, TCG_USER);
	assert_int_equal(r->nr_mmio, 2);
	assert_int_equal(r->mmio[1].size, 2);
	assert_int_equal(r->mmio[1].value, 0x2345);
	assert_int_equal(r->mmio[1].gpa, DEVICE + 0x21);
	/* Eight bytes, five of them the device's: one and four; then three at its start. */
	mmu_store(r->c, KERNEL_VA + 0xffb, 8, 0x8877665544332211ull, TCG_USER);
	assert_int_equal(r->nr_mmio, 4);
	assert_int_equal(r->mmio[2].size, 1);
	assert_int_equal(r->mmio[3].size, 4);
	assert_int_equal(r->mmio[3].value, 0x55443322);
	assert_int_equal(*(u32 *)(void *)rig_ram(r, DATA) & 0xffffff, 0x887766);
	assert_int_equal(mmu_load(r->c, KERNEL_VA - 5, 8, TCG_USER) >> 40, 0x020100);
}

static void stores_into_code_are_told_each_time(void **state)
{
	struct rig *r = *state;

	rig_map(r, USER_VA, DATA | LEAF_BITS);
	rig_map(r, USER_VA + MEM_PAGE_SIZE, (DATA + MEM_PAGE_SIZE) | LEAF_BITS);
	r->code_gpa = DATA;
	assert_false(mmu_fill(r->c, USER_VA, 8, true, TCG_USER));
	assert_true(mmu_fill(r->c, USER_VA, 8, false, TCG_USER));
	assert_false(rig_cached(r, USER_VA, true, TCG_USER));
	assert_null(mmu_host(r->c, USER_VA, 8, MMU_WRITE, TCG_USER));
	assert_non_null(mmu_host(r->c, USER_VA, 8, MMU_READ, TCG_USER));
	mmu_store(r->c, USER_VA + 8, 4, 1, TCG_USER);
	mmu_store(r->c, USER_VA + 8, 4, 2, TCG_USER);
	assert_int_equal(r->nr_writes, 2);
	assert_int_equal(r->written_byte, 2); /* a unit made from the old byte meanwhile dies too */
	mmu_store(r->c, USER_VA + 0xffe, 4, 3, TCG_USER);
	assert_int_equal(r->nr_writes, 3);
	assert_int_equal(r->written_gpa, DATA + 0xffe);
	assert_int_equal(r->written_n, 2);
	assert_int_equal(mmu_load(r->c, USER_VA + 8, 4, TCG_USER), 2);
}

static bool is_dirty(struct rig *r, u64 gpa)
{
	return r->dirty[0][gpa / MEM_PAGE_SIZE / 64] >> gpa / MEM_PAGE_SIZE % 64 & 1;
}

static void the_dirty_log_learns_of_first_stores_and_of_page_tables(void **state)
{
	struct rig *r = *state;
	u64 *e = rig_map(r, USER_VA, DATA | LEAF_BITS),
	    *high = rig_map(r, USER_VA + MEM_PAGE_SIZE, (4 * GIB + 64 * MEM_PAGE_SIZE) | LEAF_BITS);
	u64 table = *rig_entry(r, r->c->cr3, USER_VA, 1) & PTE_GPA;

	assert_non_null(high);
	mmu_store(r->c, USER_VA, 8, 1, TCG_USER);
	r->t.dirty_on = true;
	mmu_flush_writable(r->c);
	assert_true(rig_cached(r, USER_VA, false, TCG_USER));
	assert_int_equal(mmu_load(r->c, USER_VA, 8, TCG_USER), 1);
	assert_true(mmu_fill(r->c, USER_VA, 8, false, TCG_USER));
	assert_false(rig_cached(r, USER_VA, true, TCG_USER));
	assert_false(is_dirty(r, DATA));
	mmu_store(r->c, USER_VA, 8, 1, TCG_USER);
	assert_true(is_dirty(r, DATA));
	assert_true(rig_cached(r, USER_VA, true, TCG_USER));
	mmu_store(r->c, USER_VA + MEM_PAGE_SIZE, 8, 1, TCG_USER);
	assert_int_equal(r->dirty[1][1], 1);
	assert_false(is_dirty(r, table));
	*e &= ~PTE_A;
	mmu_invlpg(r->c, USER_VA);
	mmu_load(r->c, USER_VA, 8, TCG_USER);
	assert_true(is_dirty(r, table));
	memset(r->dirty, 0, sizeof(r->dirty));
	r->code_gpa = DATA;
	mmu_flush_writable(r->c);
	mmu_store(r->c, USER_VA, 8, 1, TCG_USER);
	assert_true(is_dirty(r, DATA));
}

/* ---- other paging modes ---- */
static void without_paging_addresses_are_physical(void **state)
{
	struct rig *r = *state;

	r->c->cr0 = X86_CR0_PE | X86_CR0_WP;
	r->c->efer = 0;
	r->c->cr4 = X86_CR4_SMAP;
	r->c->mode = TCG_MODE_PE | TCG_MODE_32;
	mmu_flush_all(r->c);
	for (u32 mode = 0; mode < 3; mode++) {
		mmu_store(r->c, DATA + mode, 1, mode + 5, (enum tcg_mmu_mode)mode);
		assert_int_equal(*((u8 *)rig_ram(r, DATA) + mode), mode + 5);
		assert_true(rig_cached(r, DATA, true, (enum tcg_mmu_mode)mode));
	}
	assert_int_equal(mmu_load(r->c, DEVICE, 1, TCG_KERNEL), 0);
	/* 32-bit addresses wrap: two bytes at the end of 4 GiB, two at 0. */
	*rig_ram(r, 0) = 0xbbaa;
	assert_int_equal(mmu_load(r->c, 0xfffffffe, 4, TCG_KERNEL), 0xbbaafffe);
	assert_non_null(mmu_code_page(r->c, DATA));
	assert_null(mmu_code_page(r->c, DEVICE));
}

static void paging_32(struct rig *r, u64 cr4)
{
	r->c->efer = 0;
	r->c->cr4 = cr4;
	r->c->mode = TCG_MODE_PE | TCG_MODE_32;
	mmu_flush_all(r->c);
}

static void two_level_paging_with_large_pages_works(void **state)
{
	struct rig *r = *state;
	u32 *pd = (u32 *)(void *)rig_ram(r, MIB), *pt = (u32 *)(void *)rig_ram(r, 2 * MIB);

	pd[1] = 2 * MIB | PTE_P | PTE_RW | PTE_US;
	pt[3] = (u32)DATA | PTE_P | PTE_US;
	pt[4] = (u32)DATA | PTE_P | PTE_RW | PTE_PS;
	pd[1023] = (u32)(PTE_P | PTE_RW | PTE_PS | BIT(13));
	pd[1022] = (u32)(PTE_P | PTE_RW | PTE_PS | BIT(21));
	paging_32(r, X86_CR4_PSE);
	assert_int_equal(rig_gpa(r, 0x403010, MMU_READ, TCG_USER), DATA + 0x10);
	assert_int_equal(pd[1] & PTE_A, PTE_A);
	assert_int_equal(pt[3] & (PTE_A | PTE_D), PTE_A);
	assert_int_equal(pt[2] | pt[5] | pd[2], 0);
	assert_fault(r, mmu_store(r->c, 0x403010, 1, 0, TCG_KERNEL), PF_P | PF_W, 0x403010);
	assert_int_equal(rig_gpa(r, 0x404010, MMU_WRITE, TCG_KERNEL), DATA + 0x10);
	assert_int_equal(pt[4] & PTE_D, PTE_D);
	assert_fault(r, mmu_store(r->c, 0x404010, 1, 0, TCG_USER), PF_P | PF_W | PF_U, 0x404010);
	/* PSE-36: physical address bit 32. */
	mmu_store(r->c, 0xffc00008, 8, 77, TCG_KERNEL);
	assert_int_equal(*rig_ram(r, 4 * GIB + 8), 77);
	assert_int_equal(pd[1023] & (PTE_A | PTE_D), PTE_A | PTE_D);
	assert_fault(r, mmu_load(r->c, 0xff800000, 1, TCG_KERNEL), PF_P | PF_RSVD, 0xff800000);
	/* A change and INVLPG anywhere in the 4 MiB. */
	pd[1023] = (u32)(PTE_P | PTE_RW | PTE_PS);
	mmu_invlpg(r->c, 0xfffff000);
	assert_int_equal(rig_gpa(r, 0xffc00008, MMU_READ, TCG_KERNEL), 8);
	/* Without PSE bit 7 means nothing. */
	paging_32(r, 0);
	pd[1] |= PTE_PS;
	assert_int_equal(rig_gpa(r, 0x403010, MMU_READ, TCG_USER), DATA + 0x10);
	r->c->cpl = 3;
	pt[3] &= ~(u32)PTE_US;
	mmu_invlpg(r->c, 0x403000);
	assert_fault(r, mmu_code_page(r->c, 0x403000), PF_P | PF_U, 0x403000); /* no I: nothing could forbid fetches */
}

static void pae_paging_works(void **state)
{
	struct rig *r = *state;
	u64 *pdpt, *pd = rig_ram(r, 2 * MIB), *pt = rig_ram(r, 3 * MIB);

	r->c->cr3 = MIB + 0x20;
	pdpt = rig_ram(r, MIB + 0x20);
	pdpt[1] = 2 * MIB | PTE_P;
	pdpt[2] = 2 * MIB | PTE_P | PTE_RW;
	pd[2] = 3 * MIB | PTE_P | PTE_RW | PTE_US;
	pd[3] = (4 * MIB) | PTE_P | PTE_RW | PTE_US | PTE_PS;
	pt[3] = DATA | PTE_P | PTE_RW | PTE_US;
	paging_32(r, X86_CR4_PAE);
	r->c->efer = X86_EFER_NXE;
	assert_int_equal(rig_gpa(r, 0x40403010, MMU_WRITE, TCG_USER), DATA + 0x10);
	assert_int_equal(pdpt[1], 2 * MIB | PTE_P);
	assert_int_equal(pt[3] & PTE_D, PTE_D);
	assert_int_equal(rig_gpa(r, 0x40600010, MMU_WRITE, TCG_USER), 4 * MIB + 0x10);
	assert_fault(r, mmu_load(r->c, 0xc0000000, 1, TCG_USER), PF_U, 0xc0000000);
	assert_fault(r, mmu_load(r->c, 0x80000000, 1, TCG_USER), PF_U | PF_P | PF_RSVD, 0x80000000);
	pt[3] |= BIT(52); /* ignored in four levels, reserved here */
	mmu_invlpg(r->c, 0x40403000);
	assert_fault(r, mmu_load(r->c, 0x40403000, 1, TCG_USER), PF_U | PF_P | PF_RSVD, 0x40403000);
	pt[3] = DATA | LEAF_BITS | PTE_NX;
	r->c->cpl = 3;
	assert_fault(r, mmu_code_page(r->c, 0x40403000), PF_U | PF_P | PF_I, 0x40403000);
}

static void page_tables_outside_ram_are_all_ones(void **state)
{
	struct rig *r = *state;

	*rig_entry(r, r->c->cr3, USER_VA, 3) = DEVICE | TABLE_BITS;
	assert_fault(r, mmu_load(r->c, USER_VA, 1, TCG_USER), PF_U | PF_P | PF_RSVD, USER_VA);
	r->c->cr3 = 0x3ffffffff000ull;
	mmu_flush_all(r->c);
	assert_fault(r, mmu_load(r->c, USER_VA, 1, TCG_USER), PF_U | PF_P | PF_RSVD, USER_VA);
}

/* ---- code ---- */
static void fetches_stop_at_a_page_that_may_not_be_executed(void **state)
{
	struct rig *r = *state;
	const struct tcg_itlb *e;
	u8 buf[16];

	r->c->cpl = 3;
	rig_map(r, USER_VA, DATA | (LEAF_BITS & ~PTE_RW));
	rig_map(r, USER_VA + MEM_PAGE_SIZE, (DATA + MEM_PAGE_SIZE) | LEAF_BITS | PTE_NX);
	*rig_ram(r, DATA + 0xff8) = 0x8877665544332211ull;
	*rig_ram(r, DATA + 0x1000) = 0xaa99;
	assert_int_equal(mmu_fetch(r->c, USER_VA + 0xffb, buf, 15), 5);
	assert_memory_equal(buf, "\x44\x55\x66\x77\x88", 5);
	assert_int_equal(mmu_fetch(r->c, USER_VA, buf, 15), 15);
	*rig_entry(r, r->c->cr3, USER_VA + MEM_PAGE_SIZE, 0) &= ~PTE_NX;
	assert_int_equal(mmu_fetch(r->c, USER_VA + 0xffb, buf, 15), 15);
	assert_memory_equal(buf, "\x44\x55\x66\x77\x88\x99\xaa", 7);
	assert_fault(r, mmu_fetch(r->c, USER_VA + 0x2000, buf, 15), PF_U | PF_I, USER_VA + 0x2000);
	e = mmu_code_page(r->c, USER_VA + 9);
	assert_int_equal(e->va, USER_VA);
	assert_int_equal(e->gpa, DATA);
	assert_int_not_equal(e->id, 0);
	assert_false(TRY(r, mmu_code_page(r->c, BIT(47))));
	assert_int_equal(r->vector, X86_GP);
}

static void jump(struct tcg_jump *table, u64 slots, u64 rip)
{
	table[rip >> 1 & (slots - 1)] = (struct tcg_jump){.neg = -rip, .host = rip};
}

static bool jumps(const struct tcg_jump *table, u64 slots, u64 rip)
{
	return !(rip + table[rip >> 1 & (slots - 1)].neg);
}

static void jump_caches_are_wiped_when_a_page_of_code_goes_and_only_then(void **state)
{
	struct rig *r = *state;
	struct tcg_ctx *ctx = tcg_ctx_at(r->c, 0);

	assert_false(jumps(ctx->jump, TCG_JUMP_SIZE, 0) || jumps(r->c->k_jump, TCG_JUMP_SIZE, 0) || jumps(r->c->ac_jump, 64, 0));
	for (u32 i = 0; i < 300; i++) /* more than the itlb holds */
		rig_map(r, USER_VA + i * MEM_PAGE_SIZE, DATA | (LEAF_BITS & ~PTE_RW));
	rig_map(r, KERNEL_VA, DATA | (LEAF_BITS & ~PTE_US) | PTE_G);
	rig_map(r, KERNEL_VA + MEM_PAGE_SIZE, DATA | (LEAF_BITS & ~PTE_US) | PTE_G);
	mmu_code_page(r->c, KERNEL_VA);
	jump(r->c->k_jump, TCG_JUMP_SIZE, KERNEL_VA + 6);
	jump(r->c->ac_jump, 64, KERNEL_VA + 6);
	r->c->cpl = 3;
	for (u32 i = 0; i < 300; i++)
		mmu_code_page(r->c, USER_VA + i * MEM_PAGE_SIZE);
	jump(ctx->jump, TCG_JUMP_SIZE, USER_VA);
	mmu_invlpg(r->c, KERNEL_VA + MEM_PAGE_SIZE);
	mmu_invlpg(r->c, USER_VA + 4096 * MEM_PAGE_SIZE);
	assert_true(jumps(r->c->k_jump, TCG_JUMP_SIZE, KERNEL_VA + 6) && jumps(r->c->ac_jump, 64, KERNEL_VA + 6));
	assert_true(jumps(ctx->jump, TCG_JUMP_SIZE, USER_VA));
	mmu_invlpg(r->c, USER_VA); /* its itlb slot has gone to another page */
	assert_false(jumps(ctx->jump, TCG_JUMP_SIZE, USER_VA));
	mmu_write_cr3(r->c, r->c->cr3);
	assert_true(jumps(r->c->k_jump, TCG_JUMP_SIZE, KERNEL_VA + 6));
	mmu_invlpg(r->c, KERNEL_VA + 0x123);
	assert_false(jumps(r->c->k_jump, TCG_JUMP_SIZE, KERNEL_VA + 6) || jumps(r->c->ac_jump, 64, KERNEL_VA + 6));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		T(permissions_are_the_manuals_in_every_combination),
		T(a_page_that_is_not_there_faults_without_p),
		T(reserved_bits_fault),
		T(nx_is_reserved_without_nxe_and_1g_pages_without_their_cpuid_bit),
		T(an_upgrade_needs_no_flush),
		T(accessed_and_dirty_bits_are_set_when_they_have_to_be),
		T(a_fault_leaves_accessed_and_dirty_bits_alone),
		T(a_fetch_sets_the_accessed_bit_only),
		T(looking_from_outside_changes_nothing),
		T(values_of_each_size_are_moved_also_over_the_end_of_a_page),
		T(bytes_move_whole_or_not_at_all),
		T(the_first_byte_that_fails_is_reported),
		T(addresses_that_are_not_canonical_raise_gp),
		T(an_empty_table_holds_no_page),
		T(devices_see_each_access_and_are_never_cached),
		T(stores_into_code_are_told_each_time),
		T(the_dirty_log_learns_of_first_stores_and_of_page_tables),
		T(without_paging_addresses_are_physical),
		T(two_level_paging_with_large_pages_works),
		T(pae_paging_works),
		T(page_tables_outside_ram_are_all_ones),
		T(fetches_stop_at_a_page_that_may_not_be_executed),
		T(jump_caches_are_wiped_when_a_page_of_code_goes_and_only_then),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
