/*
 * mmu_flush.c: what drops TLB entries (SDM 3A §4.10.4), and the contexts that PCIDs live in.
 *
 *   kernel tables, k_itlb, k_jump    global pages of any PCID; others only of the current one (nonglobal[], nonglobal_code tell which)
 *   user and AC tables, itlb, jump   of one context = PCID; has_global tells whether global pages are among them
 *   page-walk cache                  of one context, dropped by counting its gen up
 *
 * Jump caches are filled with code of pages that went through an itlb, so the filters of executed pages (struct tcg_seen) speak for both.
 */
#include "tcg/mmu_int.h"

static void words_zero(void *to, u64 n)
{
	__asm__ volatile("rep stosq" : "+D"(to), "+c"(n) : "a"(0ull) : "memory");
}

/* ---- whole tables ---- */
/* touched: which sixty-fourths hold anything. */
static void table_wipe(struct tcg_tlb *table, u32 size, u64 *touched)
{
	u32 part = size / 64, n = 0;

	for (u64 left = *touched; left && n <= 16; left &= left - 1)
		n++;
	if (n > 16) {
		words_zero(table, size * sizeof(*table) / 8);
	} else {
		for (u64 left = *touched; left; left &= left - 1)
			words_zero(table + part * (u32)__builtin_ctzll(left), part * sizeof(*table) / 8);
	}
	*touched = 0;
	table[0] = (struct tcg_tlb){.neg = TCG_TLB_NEVER};
}

static void code_wipe(struct tcg_seen *s, struct tcg_itlb *itlb, struct tcg_jump *jump, u32 jumps)
{
	if (s->code_large) {
		words_zero(s->code, ARRAY_SIZE(s->code));
		s->code_large = 0;
		words_zero(itlb, TCG_ITLB_SIZE * sizeof(*itlb) / 8);
		words_zero(jump, jumps * sizeof(*jump) / 8);
	}
	jump[0].neg = 1; /* also in memory that was never used */
}

void mmu_adopt_epoch(struct tcg_cpu *c)
{
	u32 newest = __atomic_load_n(&c->t->code_epoch, __ATOMIC_SEQ_CST);

	if (c->k_epoch == newest)
		return;
	c->k_epoch = newest;
	words_zero(c->k_itlb, sizeof(c->k_itlb) / 8);
}

static void k_code_wipe(struct tcg_cpu *c)
{
	if (c->mmu.k.code_large) {
		words_zero(c->ac_jump, sizeof(c->ac_jump) / 8);
		c->k_epoch = __atomic_add_fetch(&c->t->code_epoch, 1, __ATOMIC_SEQ_CST);
	}
	c->ac_jump[0].neg = 1;
	code_wipe(&c->mmu.k, c->k_itlb, c->k_jump, TCG_K_JUMP_SIZE);
	c->mmu.nonglobal_code = false;
}

static void ctx_wipe(struct tcg_cpu *c, u32 i)
{
	struct tcg_ctx *ctx = tcg_ctx_at(c, i);

	table_wipe(ctx->user_r, TCG_TLB_SIZE, &ctx->touched_user[0]);
	table_wipe(ctx->user_w, TCG_TLB_SIZE, &ctx->touched_user[1]);
	table_wipe(ctx->ac_r, TCG_AC_SIZE, &ctx->touched_ac[0]);
	table_wipe(ctx->ac_w, TCG_AC_SIZE, &ctx->touched_ac[1]);
	code_wipe(&ctx->seen, ctx->itlb, ctx->jump, TCG_JUMP_SIZE);
	words_zero(ctx->seen.large, ARRAY_SIZE(ctx->seen.large));
	ctx->seen.huge = 0;
	ctx->has_global[0] = ctx->has_global[1] = false;
	c->mmu.gen[i]++;
}

static void others_drop(struct tcg_cpu *c)
{
	for (u32 i = 0; i < TCG_NR_CTX; i++) {
		if (i != c->ctx)
			c->mmu.use[i].valid = false;
	}
}

/* The kernel tables' pages that belong to the PCID that was current. */
static void k_nonglobal_drop(struct tcg_cpu *c)
{
	struct tcg_mmu *m = &c->mmu;

	for (; m->nonglobal_words; m->nonglobal_words &= m->nonglobal_words - 1) {
		u32 word = (u32)__builtin_ctz(m->nonglobal_words);

		for (u64 bits = m->nonglobal[word]; bits; bits &= bits - 1) {
			u32 i = word * 64 + (u32)__builtin_ctzll(bits);

			c->k_r[i] = c->k_w[i] = (struct tcg_tlb){.neg = i ? 0 : TCG_TLB_NEVER};
		}
		m->nonglobal[word] = 0;
	}
	if (m->nonglobal_code)
		k_code_wipe(c);
}

static void k_wipe(struct tcg_cpu *c)
{
	struct tcg_mmu *m = &c->mmu;

	table_wipe(c->k_r, TCG_TLB_SIZE, &m->touched_k[0]);
	table_wipe(c->k_w, TCG_TLB_SIZE, &m->touched_k[1]);
	k_code_wipe(c);
	words_zero(m->k.large, ARRAY_SIZE(m->k.large));
	m->k.huge = 0;
	m->nonglobal_words = 0;
	words_zero(m->nonglobal, ARRAY_SIZE(m->nonglobal));
}

/* ---- single pages ---- */
static u32 size_shift(enum mmu_size size)
{
	return size == MMU_4K ? 12 : size == MMU_LARGE ? 21 : 30;
}

/* Drops the entries of the page of this size that va lies in. */
static void table_drop(struct tcg_tlb *table, u32 slots, u64 va, enum mmu_size size)
{
	u32 shift = size_shift(size), first = mmu_index(va), n = 1;

	if (size != MMU_4K) {
		n = size == MMU_LARGE ? MIN(slots, 512u) : slots;
		first &= ~(n - 1);
	}
	for (u32 k = 0; k < n; k++) {
		u32 i = (first + k) & (slots - 1);

		if ((-table[i].neg ^ va) >> shift == 0)
			table[i] = (struct tcg_tlb){.neg = i ? 0 : TCG_TLB_NEVER};
	}
}

static void ctx_drop(struct tcg_cpu *c, u32 i, u64 va)
{
	struct tcg_ctx *ctx = tcg_ctx_at(c, i);
	enum mmu_size size = mmu_seen_size(&ctx->seen, va);

	table_drop(ctx->user_r, TCG_TLB_SIZE, va, size);
	table_drop(ctx->user_w, TCG_TLB_SIZE, va, size);
	table_drop(ctx->ac_r, TCG_AC_SIZE, va, size);
	table_drop(ctx->ac_w, TCG_AC_SIZE, va, size);
	if (mmu_seen_code(&ctx->seen, va, size))
		code_wipe(&ctx->seen, ctx->itlb, ctx->jump, TCG_JUMP_SIZE);
	c->mmu.gen[i]++;
}

static void k_drop(struct tcg_cpu *c, u64 va)
{
	enum mmu_size size = mmu_seen_size(&c->mmu.k, va);

	table_drop(c->k_r, TCG_TLB_SIZE, va, size);
	table_drop(c->k_w, TCG_TLB_SIZE, va, size);
	if (mmu_seen_code(&c->mmu.k, va, size))
		k_code_wipe(c);
}

void mmu_forget(struct tcg_cpu *c, u64 va)
{
	struct tcg_ctx *ctx = tcg_ctx_at(c, c->ctx);

	table_drop(c->k_r, TCG_TLB_SIZE, va, MMU_4K);
	table_drop(c->k_w, TCG_TLB_SIZE, va, MMU_4K);
	table_drop(ctx->user_r, TCG_TLB_SIZE, va, MMU_4K);
	table_drop(ctx->user_w, TCG_TLB_SIZE, va, MMU_4K);
	table_drop(ctx->ac_r, TCG_AC_SIZE, va, MMU_4K);
	table_drop(ctx->ac_w, TCG_AC_SIZE, va, MMU_4K);
}

/* ---- contexts ---- */
static u32 ctx_find(const struct tcg_cpu *c, u16 pcid)
{
	u32 i = 0;

	while (i < TCG_NR_CTX && (!c->mmu.use[i].valid || c->mmu.use[i].pcid != pcid))
		i++;
	return i;
}

/* One that is free, or the one that was not used for longest. */
static u32 ctx_victim(const struct tcg_cpu *c)
{
	u32 best = 0;

	for (u32 i = 0; i < TCG_NR_CTX; i++) {
		if (!c->mmu.use[i].valid)
			return i;
		if (c->mmu.use[i].used < c->mmu.use[best].used)
			best = i;
	}
	return best;
}

static u16 current_pcid(const struct tcg_cpu *c)
{
	return c->cr4 & X86_CR4_PCIDE ? c->cr3 & 0xfff : 0;
}

static void ctx_enter(struct tcg_cpu *c, u32 i, u16 pcid)
{
	c->mmu.use[i] = (struct tcg_ctx_use){.used = ++c->ctx_stamp, .pcid = pcid, .valid = true};
	c->ctx = i;
}

/* ---- the guest's instructions ---- */
void mmu_write_cr3(struct tcg_cpu *c, u64 value)
{
	bool pcide = c->cr4 & X86_CR4_PCIDE, keep = pcide && value >> 63;
	u16 pcid = pcide ? value & 0xfff : 0;
	u32 i;

	c->cr3 = value & ~BIT(63);
	c->counters[TCG_C_CR3]++;
	tcg_trace(c, tcg_cr3, "cr3=0x%llx keep=%d rip=0x%llx", (unsigned long long)c->cr3, (int)keep, (unsigned long long)c->rip);
	if (!pcide) {
		k_nonglobal_drop(c);
		ctx_wipe(c, c->ctx);
		ctx_enter(c, c->ctx, 0);
		return;
	}
	i = ctx_find(c, pcid);
	if (i != c->ctx || !keep)
		k_nonglobal_drop(c);
	if (i == TCG_NR_CTX) {
		i = ctx_victim(c);
		keep = false;
	}
	if (!keep)
		ctx_wipe(c, i);
	ctx_enter(c, i, pcid);
}

void mmu_flush_all(struct tcg_cpu *c)
{
	c->counters[TCG_C_FLUSHES]++;
	tcg_trace(c, tcg_flush, "rip=0x%llx", (unsigned long long)c->rip);
	others_drop(c);
	k_wipe(c);
	ctx_wipe(c, c->ctx);
	ctx_enter(c, c->ctx, current_pcid(c));
}

void mmu_flush_non_global(struct tcg_cpu *c)
{
	tcg_trace(c, tcg_flush_non_global, "rip=0x%llx", (unsigned long long)c->rip);
	others_drop(c);
	k_nonglobal_drop(c);
	ctx_wipe(c, c->ctx);
}

/*
 * Global pages go in every context. Page-walk caches of other PCIDs need not (SDM 3A §4.10.4.1); for the upper half they do, since kernels
 * free tables that all PCIDs share.
 */
void mmu_invlpg(struct tcg_cpu *c, u64 va)
{
	bool upper = va >> 63;

	c->counters[TCG_C_INVLPG]++;
	tcg_trace(c, tcg_invlpg, "va=0x%llx rip=0x%llx", (unsigned long long)va, (unsigned long long)c->rip);
	k_drop(c, va);
	ctx_drop(c, c->ctx, va);
	for (u32 i = 0; i < TCG_NR_CTX; i++) {
		struct tcg_ctx *ctx = tcg_ctx_at(c, i);

		if (i == c->ctx || !c->mmu.use[i].valid)
			continue;
		if (ctx->has_global[upper])
			ctx_drop(c, i, va);
		else if (upper)
			c->mmu.gen[i]++;
	}
}

void mmu_invpcid(struct tcg_cpu *c, u64 type, u16 pcid, u64 va)
{
	u32 i;

	if (type == 2) {
		mmu_flush_all(c);
		return;
	}
	if (type == 3) {
		mmu_flush_non_global(c);
		return;
	}
	i = ctx_find(c, pcid);
	if (i == TCG_NR_CTX)
		return;
	if (type == 0) {
		ctx_drop(c, i, va);
		if (i == c->ctx)
			k_drop(c, va);
	} else if (i == c->ctx) {
		k_nonglobal_drop(c);
		ctx_wipe(c, i);
	} else {
		c->mmu.use[i].valid = false;
	}
}

void mmu_flush_writable(struct tcg_cpu *c)
{
	table_wipe(c->k_w, TCG_TLB_SIZE, &c->mmu.touched_k[1]);
	for (u32 i = 0; i < TCG_NR_CTX; i++) {
		struct tcg_ctx *ctx = tcg_ctx_at(c, i);

		if (!c->mmu.use[i].valid)
			continue;
		table_wipe(ctx->user_w, TCG_TLB_SIZE, &ctx->touched_user[1]);
		table_wipe(ctx->ac_w, TCG_AC_SIZE, &ctx->touched_ac[1]);
	}
}

/* ---- reset ---- */
/* SDM 2A CPUID: leaf 80000008H, EAX bits 0-7. Without it: as much as entries have room for. */
static void read_cpuid(struct tcg_cpu *c)
{
	const struct x86_cpuid *sizes = x86_cpuid_find(&c->cpuid, 0x80000008, 0), *features = x86_cpuid_find(&c->cpuid, 0x80000001, 0);
	u32 bits = sizes ? sizes->eax & 0xff : 52;

	bits = MIN(MAX(bits, 32u), 52u);
	c->mmu.rsvd = PTE_GPA & ~(BIT(bits) - 1);
	c->mmu.pages_1g = features ? features->edx >> 26 & 1 : true;
}

void mmu_reset(struct tcg_cpu *c)
{
	c->mmu.mem = &c->t->vm->mem;
	read_cpuid(c);
	k_wipe(c);
	c->k_epoch = __atomic_add_fetch(&c->t->code_epoch, 1, __ATOMIC_SEQ_CST);
	/* The others are wiped when they are entered: most never are, and their memory stays untouched. */
	for (u32 i = 0; i < TCG_NR_CTX; i++)
		c->mmu.use[i].valid = false;
	ctx_wipe(c, 0);
	ctx_enter(c, 0, current_pcid(c));
}
