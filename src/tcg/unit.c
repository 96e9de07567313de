/* unit.c: finding, linking and killing translated code; see unit.h. Lean, but for code_new and code_free (code.c). */
#include "tcg/unit.h"

#include "tcg/mmu.h"
#include "tcg/tools.h"
#include "tcg/x86_64/interp.h"
#include "tcg/x86_64/xlate.h"

/* ---- lock: short sections, mostly one vCPU at a time; spins, then lets others run ---- */

void code_lock(struct tcg_code *k)
{
	for (u32 n = 0; __atomic_exchange_n(&k->lock, 1, __ATOMIC_ACQUIRE); n++) {
		while (__atomic_load_n(&k->lock, __ATOMIC_RELAXED)) {
			__builtin_ia32_pause();
			if (++n > 200)
				tcg_yield();
		}
	}
}

void code_unlock(struct tcg_code *k)
{
	__atomic_store_n(&k->lock, 0, __ATOMIC_RELEASE);
}

/* ---- guest pages ---- */

/* Number of a page of RAM; nr_pages for what is none. */
static u64 page_number(const struct tcg_vm *t, u64 gpa)
{
	const struct mem *m = &t->vm->mem;

	for (u32 i = 0; i < m->nr_regions; i++) {
		const struct mem_region *r = &m->regions[i];

		if (gpa >= r->gpa && gpa - r->gpa < r->size)
			return r->first_page + ((gpa - r->gpa) >> MEM_PAGE_SHIFT);
	}
	return t->code->nr_pages;
}

static bool map_test(const u64 *map, u64 n)
{
	return __atomic_load_n(&map[n / 64], __ATOMIC_SEQ_CST) >> n % 64 & 1;
}
static void map_set(u64 *map, u64 n)
{
	__atomic_or_fetch(&map[n / 64], BIT(n % 64), __ATOMIC_SEQ_CST);
}
static void map_clear(u64 *map, u64 n)
{
	__atomic_and_fetch(&map[n / 64], ~BIT(n % 64), __ATOMIC_SEQ_CST);
}

/*
 * Who wants to keep a writable TLB entry says so in write_map before it looks at code_map; who wants to translate says so in code_map
 * before it looks at write_map (claim_page). So one of the two sees the other: both maps are sequentially consistent.
 */
bool unit_page_has_code(const struct tcg_vm *t, u64 gpa)
{
	struct tcg_code *k = t->code;
	u64 n;

	if (!k)
		return false;
	n = page_number(t, gpa);
	if (n == k->nr_pages || map_test(k->code_map, n))
		return n != k->nr_pages;
	if (!map_test(k->write_map, n))
		map_set(k->write_map, n);
	return map_test(k->code_map, n);
}

/* Makes sure that no vCPU writes to the page unseen. May wait for the others: not with the lock held. */
static void claim_page(struct tcg_cpu *c, u64 n)
{
	struct tcg_vm *t = c->t;
	struct tcg_code *k = t->code;

	if (!map_test(k->code_map, n))
		map_set(k->code_map, n);
	if (!map_test(k->write_map, n))
		return;
	tcg_exclusive_begin(t, c);
	for (u32 i = 0; i < t->nr_cpus; i++)
		mmu_flush_writable(t->cpus[i]);
	for (u64 i = 0; i < (k->nr_pages + 63) / 64; i++) {
		if (k->write_map[i])
			k->write_map[i] = 0;
	}
	tcg_exclusive_end(t, c);
}

u32 unit_page_id(struct tcg_vm *t, u64 va, u64 gpa)
{
	struct tcg_code *k = t->code;
	/* By their distance, then in their order: the neighbours of a mapping lie beside each other, and few pages of the table are
	 * touched. */
	u64 key = (((va - gpa) >> MEM_PAGE_SHIFT) * 0x9e3779b97f4a7c15ull >> 48) + (va >> MEM_PAGE_SHIFT);
	struct page_id *slot;
	u32 id;

	if (!k)
		return 1;
	slot = &k->ids[key & (UNIT_ID_CACHE - 1)];
	va &= ~(MEM_PAGE_SIZE - 1);
	gpa &= ~(MEM_PAGE_SIZE - 1);
	code_lock(k);
	if (!slot->id || slot->va != va || slot->gpa != gpa) {
		/* 2^32 pages later a number comes again: whoever still holds the old one has not run since. Never 0 or ~0. */
		if (++k->last_id >= UINT32_MAX)
			k->last_id = 1;
		*slot = (struct page_id){va, gpa, k->last_id};
	}
	id = slot->id;
	code_unlock(k);
	return id;
}

/* ---- finding ---- */

static u32 hash_of(u64 gpa, u16 mode)
{
	u32 in_page = (u32)(gpa ^ gpa >> 6) & 63;

	return ((u32)(gpa >> MEM_PAGE_SHIFT) << 6 ^ in_page ^ mode * 0x9e40u) & (BIT(UNIT_HASH_BITS) - 1);
}

/* What find has met of units for the same code at other addresses. */
struct others {
	u32 any, oldest_copy; /* UNIT_NONE: no such unit */
	u32 copies;
};

static u32 find(const struct tcg_code *k, u64 va, u64 gpa, u16 mode, struct others *o)
{
	u32 u = k->hash[hash_of(gpa, mode)] - 1;

	*o = (struct others){UNIT_NONE, UNIT_NONE, 0};
	for (; u != UNIT_NONE; u = k->units[u].hash_next) {
		const struct unit *n = &k->units[u];

		if (n->gpa != gpa || n->mode != mode)
			continue;
		if (n->va == va)
			break;
		o->any = u;
		if (n->copy) {
			o->oldest_copy = u;
			o->copies++;
		}
	}
	return u;
}

/* The link of unit u in the list of page n: it may be its first or its second page. */
static struct unit_link *page_link(struct tcg_code *k, u32 u, u64 n)
{
	return page_number(k->t, k->units[u].gpa) == n ? &k->units[u].page : &k->units[u].page2;
}

static void page_add(struct tcg_code *k, u32 u, u64 gpa)
{
	u64 n = page_number(k->t, gpa);
	u32 *first = &k->pages[n].first;

	*page_link(k, u, n) = (struct unit_link){0, *first};
	if (*first)
		page_link(k, *first - 1, n)->prev = u + 1;
	*first = u + 1;
}

static void page_remove(struct tcg_code *k, u32 u, u64 gpa)
{
	u64 n = page_number(k->t, gpa);
	const struct unit_link *link = page_link(k, u, n);

	if (link->prev)
		page_link(k, link->prev - 1, n)->next = link->next;
	else
		k->pages[n].first = link->next;
	if (link->next)
		page_link(k, link->next - 1, n)->prev = link->prev;
}

static void insert(struct tcg_code *k, u32 u)
{
	struct unit *n = &k->units[u];
	u32 *slot = &k->hash[hash_of(n->gpa, n->mode)];

	n->hash_next = *slot - 1;
	*slot = u + 1;
	page_add(k, u, n->gpa);
	if (n->gpa2 != UNIT_NO_PAGE)
		page_add(k, u, n->gpa2);
}

static u64 ns_since(const struct tcg_cpu *c, u64 tsc)
{
	return (__builtin_ia32_rdtsc() - tsc) * 1000 * 1000 / MAX(c->t->tsc_khz, 1ull);
}

/* Whether unit `other` may be copied: same code, and the same second page if it has one. */
static bool can_copy(struct tcg_code *k, u32 other)
{
	const struct unit *n;

	if (other == UNIT_NONE)
		return false;
	n = &k->units[other];
	if (n->gpa2 != UNIT_NO_PAGE && !k->page2.known)
		k->page2.wanted = true;
	return !n->fixed && (n->gpa2 == UNIT_NO_PAGE || n->gpa2 == k->page2.gpa);
}

static u32 translate(struct tcg_cpu *c, u64 va, u64 gpa, u16 mode, u32 other)
{
	struct tcg_code *k = c->t->code;
	u64 begin = __builtin_ia32_rdtsc();
	bool copied = can_copy(k, other);
	u32 u = UNIT_NONE, first = k->pages[page_number(c->t, gpa)].first;

	cache_prepare(c, copied);
	if (first) /* insert() will write to it */
		__builtin_prefetch(&k->units[first - 1].page, 1);
	if (k->page2.wanted || !(copied ? cache_copy_unit(k, other, va, &u) : xlate_unit(c, k, va, gpa, mode, &u)))
		return UNIT_NONE;
	insert(k, u);
	c->counters[copied ? TCG_C_COPIES : TCG_C_UNITS]++;
	if (!copied)
		c->counters[TCG_C_INSNS] += k->units[u].nr_insns;
	c->counters[copied ? TCG_C_COPY_NS : TCG_C_TRANS_NS] += ns_since(c, begin);
	if (unlikely(c->t->tools)) {
		fpu_save(c);
		tools_unit(c, u);
	}
	return u;
}

/* Looks at the page after the unit's for the translator, which has stopped at an instruction that ends there. */
static void look_at_page2(struct tcg_cpu *c, u64 va, struct code_page2 *p)
{
	const struct tcg_itlb *e = mmu_code_try(c, (va & ~(MEM_PAGE_SIZE - 1)) + MEM_PAGE_SIZE);

	*p = (struct code_page2){.known = true, .gpa = UNIT_NO_PAGE};
	if (!e)
		return;
	p->gpa = e->gpa;
	p->id = c->mode & TCG_MODE_USER ? e->id : c->k_epoch;
	claim_page(c, page_number(c->t, p->gpa));
}

/* Whether nobody can write to the page unseen, and its code may be read. */
static bool is_claimed(const struct tcg_code *k, u64 n)
{
	return map_test(k->code_map, n) && !map_test(k->write_map, n);
}

/* Makes the unit, or finds the one that another vCPU has made meanwhile. */
static u32 make(struct tcg_cpu *c, u64 va, u64 gpa, u16 mode, struct code_page2 *page2)
{
	struct tcg_code *k = c->t->code;
	u64 page = page_number(c->t, gpa);
	struct others others;
	u32 u;

	claim_page(c, page);
	code_lock(k);
	u = find(k, va, gpa, mode, &others);
	if (u == UNIT_NONE && others.copies >= UNIT_MAX_COPIES) {
		unit_kill(k, others.oldest_copy); /* of a process that is no more, most likely */
		if (others.any == others.oldest_copy)
			others.any = UNIT_NONE; /* a dead unit's first instruction is a jump: not to be copied */
	}
	k->page2 = *page2;
	if (page2->known && page2->gpa != UNIT_NO_PAGE && !is_claimed(k, page_number(c->t, page2->gpa)))
		k->page2.gpa = UNIT_NO_PAGE;
	/* The page may have been given up again meanwhile: then the interpreter runs this once. */
	if (u == UNIT_NONE && cache_has_room(k, false) && cache_has_room(k, true) && is_claimed(k, page))
		u = translate(c, va, gpa, mode, others.any);
	page2->wanted = k->page2.wanted;
	code_unlock(k);
	return u;
}

u32 unit_get(struct tcg_cpu *c, u64 va, u64 gpa, u16 mode)
{
	struct tcg_code *k = c->t->code;
	struct code_page2 page2 = {0};
	struct others others;
	u32 u;

	if (page_number(c->t, gpa) == k->nr_pages)
		return UNIT_NONE;
	__builtin_prefetch(mem_at(&c->t->vm->mem, gpa, 1)); /* what translation will wait for, most likely */
	code_lock(k);
	u = find(k, va, gpa, mode, &others);
	code_unlock(k);
	if (u != UNIT_NONE)
		return u;
	for (u32 copies = 0; copies < 2; copies++) {
		if (!cache_has_room(k, copies))
			cache_make_room(c, copies);
	}
	u = make(c, va, gpa, mode, &page2);
	if (u != UNIT_NONE || !page2.wanted)
		return u;
	look_at_page2(c, va, &page2);
	return make(c, va, gpa, mode, &page2);
}

u32 unit_by_host(const struct tcg_code *k, u64 host)
{
	u64 at = host - (u64)k->rx;
	const struct code_chunk *ch = &k->chunks[at < k->size ? at / k->chunk_size : 0];
	u32 lo = ch->first_unit, hi = ch->nr_units;

	while (lo < hi) { /* units lie in the order of their numbers */
		u32 mid = lo + (hi - lo) / 2;

		if (k->units[mid].code <= at)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == ch->first_unit || at - k->units[lo - 1].code >= k->units[lo - 1].code_len)
		return UNIT_NONE;
	return lo - 1;
}

u32 unit_guest_offset(const struct tcg_code *k, const struct unit *u, u64 host)
{
	u32 at = (u32)(host - (u64)k->rx - u->code), guest = 0;

	for (u32 i = 0; i < u->nr_insns && k->insns[u->insns + i].code <= at; i++)
		guest = k->insns[u->insns + i].guest;
	return guest;
}

/* ---- linking ---- */

/* The 4 bytes lie in one aligned word (e_align_patch): others execute the old jump or the new one. */
static void patch32(struct tcg_code *k, u32 at, u32 value)
{
	__atomic_store_n((u32 *)(void *)(k->rw + at), value, __ATOMIC_RELEASE);
}

static void unlink_exit(struct tcg_code *k, u32 x)
{
	struct unit_exit *e = &k->exits[x];

	if (e->guard)
		patch32(k, e->guard, e->guard_neg ? 1 : UINT32_MAX);
	patch32(k, e->site, e->stub - (e->site + 4));
	e->linked = UNIT_NONE;
}

/* Takes exit x out of the list of those that lead to its target. */
static void forget_in(struct tcg_code *k, u32 x)
{
	u32 *at = &k->units[k->exits[x].linked].in;

	while (*at != x) {
		ASSERT(*at != UNIT_NONE);
		at = &k->exits[*at].in_next;
	}
	*at = k->exits[x].in_next;
}

void unit_link(struct tcg_code *k, u32 x, u32 u, u32 id)
{
	struct unit_exit *e = &k->exits[x];
	struct unit *to = &k->units[u];

	code_lock(k);
	if (!to->dead && !k->units[e->unit].dead) {
		if (e->linked != UNIT_NONE) { /* the guard has failed: another page is there now */
			forget_in(k, x);
			unlink_exit(k, x);
		}
		patch32(k, e->site, to->code + (e->back ? 0 : to->body) - (e->site + 4));
		if (e->guard)
			patch32(k, e->guard, e->guard_neg ? -id : id);
		e->linked = u;
		e->in_next = to->in;
		to->in = x;
	}
	code_unlock(k);
}

/* ---- killing ---- */

static void hash_remove(struct tcg_code *k, u32 u)
{
	u32 *head = &k->hash[hash_of(k->units[u].gpa, k->units[u].mode)], at = *head - 1;

	if (at == u) {
		*head = k->units[u].hash_next + 1;
		return;
	}
	for (; k->units[at].hash_next != u; at = k->units[at].hash_next)
		ASSERT(k->units[at].hash_next != UNIT_NONE);
	k->units[at].hash_next = k->units[u].hash_next;
}

/* A vCPU that is in the unit may run to its next exit. */
void unit_kill(struct tcg_code *k, u32 u)
{
	struct unit *n = &k->units[u];
	u64 jump;

	for (u32 x = n->in; x != UNIT_NONE; x = k->exits[x].in_next)
		unlink_exit(k, x);
	n->in = UNIT_NONE;
	for (u32 i = 0; i < n->nr_exits; i++) {
		if (k->exits[n->exits + i].linked != UNIT_NONE && k->exits[n->exits + i].linked != u)
			forget_in(k, n->exits + i);
		if (k->exits[n->exits + i].linked != UNIT_NONE)
			unlink_exit(k, n->exits + i);
	}
	/* jmp poll_stub over the first instruction of the poll entry: 8 bytes long, 8-aligned */
	jump = ld_le64(k->rw + n->code) & ~0xffffffffffull;
	jump |= 0xe9 | (u64)(u32)(n->poll_stub - (n->code + 5)) << 8;
	__atomic_store_n((u64 *)(void *)(k->rw + n->code), jump, __ATOMIC_RELEASE);
	hash_remove(k, u);
	page_remove(k, u, n->gpa);
	if (n->gpa2 != UNIT_NO_PAGE)
		page_remove(k, u, n->gpa2);
	n->dead = true;
}

/* Kills what depends on bytes [lo, hi) of page n; all: everything. Returns how many. */
static u32 kill_range(struct tcg_code *k, u64 n, u32 lo, u32 hi, bool all)
{
	u32 at = k->pages[n].first, killed = 0;

	while (at) {
		const struct unit_link *link = page_link(k, at - 1, n);
		u32 u = at - 1, shift = link == &k->units[u].page ? 0 : (u32)MEM_PAGE_SIZE;

		at = link->next;
		if (all || (k->units[u].lo < hi + shift && k->units[u].hi > lo + shift)) {
			unit_kill(k, u);
			killed++;
		}
	}
	if (!k->pages[n].first) {
		k->pages[n].writes = 0;
		map_clear(k->code_map, n);
	}
	return killed;
}

/* After this many stores into a page beside its code, it is taken for data. */
#define WRITES_MAX 64u

void unit_guest_write(struct tcg_cpu *c, u64 gpa, u32 len)
{
	struct tcg_code *k = c->t->code;
	u32 lo = gpa & (MEM_PAGE_SIZE - 1), killed;
	u64 n;

	if (!k)
		return;
	n = page_number(c->t, gpa);
	if (n == k->nr_pages)
		return;
	c->counters[TCG_C_CODE_WRITES]++;
	code_lock(k);
	killed = kill_range(k, n, lo, lo + len, ++k->pages[n].writes > WRITES_MAX);
	c->counters[TCG_C_INVALIDATED] += killed;
	code_unlock(k);
	tcg_trace(c, tcg_code_write, "gpa=0x%llx len=%u units=%u rip=0x%llx", (unsigned long long)gpa, len, killed,
		  (unsigned long long)c->rip);
}

void unit_host_write(struct tcg_vm *t, u64 gpa, u64 len)
{
	struct tcg_code *k = t->code;

	if (!k)
		return;
	while (len) {
		u64 n = page_number(t, gpa), lo = gpa & (MEM_PAGE_SIZE - 1), chunk = MIN(len, MEM_PAGE_SIZE - lo);

		if (n != k->nr_pages && map_test(k->code_map, n)) {
			code_lock(k);
			kill_range(k, n, (u32)lo, (u32)(lo + chunk), false);
			code_unlock(k);
		}
		gpa += chunk;
		len -= chunk;
	}
}

void unit_recheck_cross(struct tcg_code *k, u32 u, u64 gpa2, u32 id)
{
	code_lock(k);
	if (!k->units[u].dead && (k->units[u].gpa2 != gpa2 || k->units[u].id2 != id))
		unit_kill(k, u);
	code_unlock(k);
}
