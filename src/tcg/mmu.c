/*
 * mmu.c: guest virtual memory as interpreter and helpers use it: the software TLB in front of the walks (mmu_walk.c), values that cross
 * pages, device accesses, and code pages.
 *
 * A writable entry says three things at once: the guest may write, the page's D bit is set, and no one wants to know of the write (no
 * translated code was made from the page; under a dirty log it is marked already).
 */
#include "tcg/mmu_int.h"

typedef u16 any16 __attribute__((aligned(1), may_alias));
typedef u32 any32 __attribute__((aligned(1), may_alias));
typedef u64 any64 __attribute__((aligned(1), may_alias));

/* One instruction each: other vCPUs see all of the value or nothing, where the processor promises it (SDM 3A §8.1.1). */
static inline u64 ram_get(const void *p, u32 size)
{
	switch (size) {
	case 1:
		return *(const volatile u8 *)p;
	case 2:
		return *(const volatile any16 *)p;
	case 4:
		return *(const volatile any32 *)p;
	default:
		return *(const volatile any64 *)p;
	}
}

static inline void ram_put(void *p, u32 size, u64 value)
{
	switch (size) {
	case 1:
		*(volatile u8 *)p = (u8)value;
		break;
	case 2:
		*(volatile any16 *)p = (u16)value;
		break;
	case 4:
		*(volatile any32 *)p = (u32)value;
		break;
	default:
		*(volatile any64 *)p = value;
	}
}

/* ---- filling ---- */
static void table_put(struct tcg_cpu *c, u64 va, u8 *host, bool write, enum tcg_mmu_mode mode)
{
	struct tcg_tlb entry = {.neg = -(va & ~PAGE_OFFSET), .addend = (u64)(uintptr_t)host - (va & ~PAGE_OFFSET)};
	u32 i = mmu_index(va);
	struct tcg_ctx *ctx;

	*mmu_slot(c, va, write, mode) = entry;
	if (mode == TCG_KERNEL) {
		c->mmu.touched_k[write] |= BIT(i / (TCG_TLB_SIZE / 64));
		return;
	}
	ctx = tcg_ctx_at(c, c->ctx);
	if (mode == TCG_USER)
		ctx->touched_user[write] |= BIT(i / (TCG_TLB_SIZE / 64));
	else
		ctx->touched_ac[write] |= BIT(i % TCG_AC_SIZE / (TCG_AC_SIZE / 64));
}

/* Notes what flushes have to know about a page that goes into a table of this mode. */
static void page_note(struct tcg_cpu *c, u64 va, const struct mmu_page *page, enum tcg_mmu_mode mode)
{
	struct tcg_ctx *ctx;
	u32 i = mmu_index(va);

	if (mode == TCG_KERNEL) {
		mmu_saw_size(&c->mmu.k, va, page->size);
		if (!page->global) {
			c->mmu.nonglobal[i / 64] |= BIT(i % 64);
			c->mmu.nonglobal_words |= 1u << i / 64;
		}
		return;
	}
	ctx = tcg_ctx_at(c, c->ctx);
	mmu_saw_size(&ctx->seen, va, page->size);
	if (page->global)
		ctx->has_global[va >> 63] = true;
}

/*
 * Puts a page of RAM that may be accessed so into the table. False: a write that must be told about each time (code). A read makes the page
 * writable as well, if nothing is lost by it.
 */
static bool page_put(struct tcg_cpu *c, u64 va, const struct mmu_page *page, const struct mem_region *r, bool write, enum tcg_mmu_mode mode)
{
	u8 *host = r->hva + (page->gpa - r->gpa);
	bool logged = __atomic_load_n(&c->t->dirty_on, __ATOMIC_RELAXED), writable;

	c->counters[TCG_C_FILLS]++;
	page_note(c, va, page, mode);
	table_put(c, va, host, false, mode);
	if (write && logged)
		mmu_mark_dirty(c, r, page->gpa);
	writable = write || (page->dirty && !logged && mmu_allowed(c, page->acc, MMU_WRITE, mode));
	if (!writable || unit_page_has_code(c->t, page->gpa))
		return false;
	table_put(c, va, host, true, mode);
	return true;
}

static bool fill(struct tcg_cpu *c, u64 va, u32 n, bool write, enum tcg_mmu_mode mode, enum mmu_bits bits)
{
	const struct mem_region *r;
	struct mmu_page page;

	if ((va & PAGE_OFFSET) + n > MEM_PAGE_SIZE || !tcg_canonical(va))
		return false;
	if (mmu_walk(c, va, write ? MMU_WRITE : MMU_READ, mode, bits, &page))
		return false;
	r = mmu_region(c, page.gpa);
	if (!r)
		return false;
	return page_put(c, va, &page, r, write, mode) || !write;
}

bool mmu_fill(struct tcg_cpu *c, u64 va, u32 n, bool write, enum tcg_mmu_mode mode)
{
	return fill(c, va, n, write, mode, MMU_BITS_SET);
}

bool mmu_fill_group(struct tcg_cpu *c, u64 va, u32 n, bool write, enum tcg_mmu_mode mode)
{
	return fill(c, va, n, write, mode, MMU_BITS_REFUSE);
}

/* ---- slow accesses ---- */
/* Part of an access, in one page. */
struct piece {
	u8 *host; /* NULL: a device */
	u64 gpa;
	u32 n;
	bool code; /* a write that unit.c wants to hear about */
};

static _Noreturn void await_page(struct tcg_cpu *c)
{
	__atomic_fetch_or(&c->requests, TCG_REQ_FETCH, __ATOMIC_SEQ_CST);
	tcg_restart(c);
}

void mmu_need(struct tcg_cpu *c, u64 gpa, u32 n)
{
	const struct mem_region *r = mem_find(c->mmu.mem, gpa, n);

	if (r && (mmu_missing(c, r, gpa) || mmu_missing(c, r, gpa + n - 1)))
		await_page(c);
}

static struct mmu_page walk_or_raise(struct tcg_cpu *c, u64 va, enum mmu_access access, enum tcg_mmu_mode mode, enum mmu_bits bits)
{
	struct mmu_page page = {0};
	u32 ret = mmu_walk(c, va, access, mode, bits, &page);

	if (likely(!ret))
		return page;
	if (ret & MMU_FAULT) {
		mmu_forget(c, va);
		tcg_raise_pf(c, va, ret & ~MMU_FAULT);
	}
	if (ret == MMU_MISSING)
		await_page(c);
	if (bits == MMU_BITS_SET)
		tcg_restart(c);
	return page;
}

/* Finds the page of a piece of at most what is left of it. */
static struct piece piece_find(struct tcg_cpu *c, u64 va, u32 n, enum mmu_access access, enum tcg_mmu_mode mode)
{
	struct piece p = {.n = (u32)MIN(n, MEM_PAGE_SIZE - (va & PAGE_OFFSET))};
	struct mmu_page page = walk_or_raise(c, va, access, mode, MMU_BITS_SET);
	const struct mem_region *r;

	p.gpa = page.gpa | (va & PAGE_OFFSET);
	r = mmu_region(c, p.gpa);
	if (!r)
		return p;
	p.host = r->hva + (p.gpa - r->gpa);
	if (access != MMU_EXEC)
		p.code = !page_put(c, va, &page, r, access == MMU_WRITE, mode) && access == MMU_WRITE;
	return p;
}

/* Where the byte after this page's last is: linear addresses have 32 bits outside 64-bit mode. */
static u64 next_page(const struct tcg_cpu *c, u64 va)
{
	u64 next = (va & ~PAGE_OFFSET) + MEM_PAGE_SIZE;

	return next == BIT(32) && !tcg_is_64(c) ? 0 : next;
}

/* The pieces of an access of 1 to 4096 bytes: #GP, or #PF at the first byte that faults; else nothing can go wrong any more. */
static u32 pieces_find(struct tcg_cpu *c, u64 va, u32 n, enum mmu_access access, enum tcg_mmu_mode mode, struct piece p[2])
{
	u32 first = (u32)(MEM_PAGE_SIZE - (va & PAGE_OFFSET));
	u64 next = next_page(c, va);

	if (!tcg_canonical(va))
		tcg_raise_err(c, X86_GP, 0);
	if (n <= first) {
		p[0] = piece_find(c, va, n, access, mode);
		return 1;
	}
	if (!tcg_canonical(next))
		tcg_raise_err(c, X86_GP, 0);
	/* The first page's faults come first, but its D bit stays clear when the second one faults. */
	walk_or_raise(c, va, access, mode, MMU_BITS_REFUSE);
	p[1] = piece_find(c, next, n - first, access, mode);
	p[0] = piece_find(c, va, first, access, mode);
	return 2;
}

/* How much of a device access goes out at once: all, if it is a size that buses have; else what is aligned. */
static u32 device_size(u64 gpa, u32 n)
{
	u32 size = 8;

	if (n == 1 || n == 2 || n == 4 || n == 8)
		return n;
	while (size > n || (gpa & (size - 1)))
		size /= 2;
	return size;
}

/* RAM: eight bytes at a time, so that what the processor would move at once is not torn more than there. */
static inline void ram_copy(void *to, const void *from, u32 n)
{
	u32 i = 0;

	for (; n - i >= 8; i += 8)
		ram_put((u8 *)to + i, 8, ram_get((const u8 *)from + i, 8));
	for (u32 size = 4; size; size /= 2) {
		if (n & size) {
			ram_put((u8 *)to + i, size, ram_get((const u8 *)from + i, size));
			i += size;
		}
	}
}

static void piece_load(struct tcg_cpu *c, const struct piece *p, u8 *buf)
{
	if (p->host) {
		ram_copy(buf, p->host, p->n);
		return;
	}
	for (u32 i = 0, size; i < p->n; i += size) {
		size = device_size(p->gpa + i, p->n - i);
		ram_put(buf + i, size, tcg_mmio_read(c, p->gpa + i, size));
	}
}

static void piece_store(struct tcg_cpu *c, const struct piece *p, const u8 *buf)
{
	if (p->host) {
		ram_copy(p->host, buf, p->n);
		/* Not before: another vCPU could translate the old bytes once more in between. */
		if (p->code)
			unit_guest_write(c, p->gpa, p->n);
		return;
	}
	for (u32 i = 0, size; i < p->n; i += size) {
		size = device_size(p->gpa + i, p->n - i);
		tcg_mmio_write(c, p->gpa + i, size, ram_get(buf + i, size));
	}
}

static __attribute__((noinline)) void load_slow(struct tcg_cpu *c, u64 va, u8 *buf, u32 n, enum tcg_mmu_mode mode)
{
	struct piece p[2];
	u32 nr = pieces_find(c, va, n, MMU_READ, mode, p);

	piece_load(c, &p[0], buf);
	if (nr == 2)
		piece_load(c, &p[1], buf + p[0].n);
}

static __attribute__((noinline)) void store_slow(struct tcg_cpu *c, u64 va, const u8 *buf, u32 n, enum tcg_mmu_mode mode)
{
	struct piece p[2];
	u32 nr = pieces_find(c, va, n, MMU_WRITE, mode, p);

	/* RAM first: in a device this vCPU counts as out of the guest, and another may make code from a page that had none. */
	if (nr == 2 && p[1].host)
		piece_store(c, &p[1], buf + p[0].n);
	piece_store(c, &p[0], buf);
	if (nr == 2 && !p[1].host)
		piece_store(c, &p[1], buf + p[0].n);
}

u64 mmu_load(struct tcg_cpu *c, u64 va, u32 size, enum tcg_mmu_mode mode)
{
	u8 *host = mmu_hit(mmu_slot(c, va, false, mode), va, size);
	u64 value = 0;

	if (likely(host))
		return ram_get(host, size);
	load_slow(c, va, (u8 *)&value, size, mode);
	return value;
}

void mmu_store(struct tcg_cpu *c, u64 va, u32 size, u64 value, enum tcg_mmu_mode mode)
{
	u8 *host = mmu_hit(mmu_slot(c, va, true, mode), va, size);

	if (likely(host))
		ram_put(host, size, value);
	else
		store_slow(c, va, (const u8 *)&value, size, mode);
}

void mmu_load_bytes(struct tcg_cpu *c, u64 va, void *buf, u32 n, enum tcg_mmu_mode mode)
{
	u8 *host = mmu_hit(mmu_slot(c, va, false, mode), va, n);

	if (likely(host))
		ram_copy(buf, host, n);
	else if (n)
		load_slow(c, va, buf, n, mode);
}

void mmu_store_bytes(struct tcg_cpu *c, u64 va, const void *buf, u32 n, enum tcg_mmu_mode mode)
{
	u8 *host = mmu_hit(mmu_slot(c, va, true, mode), va, n);

	if (likely(host))
		ram_copy(host, buf, n);
	else if (n)
		store_slow(c, va, buf, n, mode);
}

void mmu_probe(struct tcg_cpu *c, u64 va, u32 n, enum mmu_access access, enum tcg_mmu_mode mode)
{
	struct piece p[2];

	while (n) {
		u32 now = (u32)MIN(n, MEM_PAGE_SIZE);

		if (access == MMU_EXEC || !mmu_hit(mmu_slot(c, va, access == MMU_WRITE, mode), va, now))
			pieces_find(c, va, now, access, mode, p);
		va += now;
		n -= now;
	}
}

void *mmu_host(struct tcg_cpu *c, u64 va, u32 n, enum mmu_access access, enum tcg_mmu_mode mode)
{
	struct piece p[2];
	u8 *host;

	if (access != MMU_EXEC) {
		host = mmu_hit(mmu_slot(c, va, access == MMU_WRITE, mode), va, n);
		if (likely(host))
			return host;
	}
	if (pieces_find(c, va, n, access, mode, p) == 2 || p[0].code)
		return NULL;
	return p[0].host;
}

/* ---- code ---- */
static void code_note(struct tcg_cpu *c, u64 va, const struct mmu_page *page, bool user)
{
	struct tcg_ctx *ctx = tcg_ctx_at(c, c->ctx);
	struct tcg_seen *seen = user ? &ctx->seen : &c->mmu.k;

	mmu_saw_code(seen, va);
	mmu_saw_size(seen, va, page->size);
	if (!user)
		c->mmu.nonglobal_code |= !page->global;
	else if (page->global)
		ctx->has_global[va >> 63] = true;
}

static struct tcg_itlb *code_slot(struct tcg_cpu *c, u64 va)
{
	struct tcg_itlb *table = tcg_is_user(c) ? tcg_ctx_at(c, c->ctx)->itlb : c->k_itlb;

	return table + (va >> MEM_PAGE_SHIFT & (TCG_ITLB_SIZE - 1));
}

static const struct tcg_itlb *code_fill(struct tcg_cpu *c, struct tcg_itlb *e, u64 page_va, const struct mmu_page *page)
{
	if (!mmu_region(c, page->gpa))
		return NULL;
	code_note(c, page_va, page, tcg_is_user(c));
	*e = (struct tcg_itlb){.va = page_va, .gpa = page->gpa, .id = unit_page_id(c->t, page_va, page->gpa)};
	return e;
}

const struct tcg_itlb *mmu_code_page(struct tcg_cpu *c, u64 va)
{
	struct tcg_itlb *e = code_slot(c, va);
	u64 page_va = va & ~PAGE_OFFSET;
	struct mmu_page page;

	if (likely(e->id && e->va == page_va))
		return e;
	if (!tcg_canonical(va))
		tcg_raise_err(c, X86_GP, 0);
	page = walk_or_raise(c, va, MMU_EXEC, tcg_is_user(c) ? TCG_USER : TCG_KERNEL, MMU_BITS_SET);
	return code_fill(c, e, page_va, &page);
}

const struct tcg_itlb *mmu_code_try(struct tcg_cpu *c, u64 va)
{
	struct tcg_itlb *e = code_slot(c, va);
	u64 page_va = va & ~PAGE_OFFSET;
	struct mmu_page page;

	if (e->id && e->va == page_va)
		return e;
	if (!tcg_canonical(va) || mmu_walk(c, va, MMU_EXEC, tcg_is_user(c) ? TCG_USER : TCG_KERNEL, MMU_BITS_REFUSE, &page))
		return NULL;
	return code_fill(c, e, page_va, &page);
}

/* Bytes of one page. What no RAM holds reads as a device gives it, one byte at a time. */
static void fetch_piece(struct tcg_cpu *c, u64 gpa, u8 *buf, u32 n)
{
	const struct mem_region *r = mmu_region(c, gpa);

	for (u32 i = 0; i < n; i++)
		buf[i] = (u8)(r ? ram_get(r->hva + (gpa - r->gpa) + i, 1) : tcg_mmio_read(c, gpa + i, 1));
}

u32 mmu_fetch(struct tcg_cpu *c, u64 va, u8 *buf, u32 n)
{
	enum tcg_mmu_mode mode = tcg_is_user(c) ? TCG_USER : TCG_KERNEL;
	u32 first = (u32)MIN(n, MEM_PAGE_SIZE - (va & PAGE_OFFSET)), rest = (u32)MIN(n - first, MEM_PAGE_SIZE);
	const struct tcg_itlb *e = mmu_code_page(c, va);
	u64 next = next_page(c, va);
	struct mmu_page page;

	page.gpa = e ? e->gpa : walk_or_raise(c, va, MMU_EXEC, mode, MMU_BITS_SET).gpa;
	fetch_piece(c, page.gpa | (va & PAGE_OFFSET), buf, first);
	/* The instruction may end before the second page: no fault there yet. */
	if (!rest || !tcg_canonical(next) || mmu_walk(c, next, MMU_EXEC, mode, MMU_BITS_SET, &page))
		return first;
	fetch_piece(c, page.gpa, buf + first, rest);
	return first + rest;
}
