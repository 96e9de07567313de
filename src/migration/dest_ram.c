/* dest_ram.c: pages of a VM that comes here, into its memory; see dest_impl.h. */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <zlib.h>

#include "migration/dest_impl.h"
#include "migration/memfile_impl.h"
#include "migration/uffd.h"
#include "vmm/clock.h"

#define BURST 16u /* pages under one hold of the lock: who waits for a page waits for so many others at most */

/* ---- begin and end ---- */

static u64 page_bytes(const struct dest_ram *r)
{
	return BIT(r->page_shift);
}

/* A huge page would bring pages that are missing with it, as zeroes. */
static void allow_huge(struct dest_ram *r, bool allow)
{
	struct mem *m = &r->vm->mem;

	for (u32 i = 0; i < m->nr_regions && m->huge != MEM_HUGE_2M; i++) {
		if (!m->regions[i].file && (!allow || m->huge == MEM_HUGE_TRANSPARENT))
			madvise(m->regions[i].hva, m->regions[i].size, allow ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	}
	if (r->alias && !allow && m->huge != MEM_HUGE_2M)
		madvise(r->alias, m->size, MADV_NOHUGEPAGE);
}

static int make_alias(struct dest_ram *r, struct err *e)
{
	struct mem *m = &r->vm->mem;
	void *p = mmap(NULL, m->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, m->fd, 0);

	if (p == MAP_FAILED)
		return err_errno(e, "cannot map guest memory a second time, to fill it");
	madvise(p, m->size, MADV_DONTDUMP);
	r->alias = p;
	for (u32 i = 0; i < m->nr_regions; i++)
		r->base[i] = m->regions[i].file ? NULL : r->alias + m->regions[i].fd_offset;
	return 0;
}

static int make_fetchable(struct dest_ram *r, struct err *e)
{
	int ret = make_alias(r, e);

	if (ret < 0)
		return ret;
	allow_huge(r, false);
	r->uffd = uffd_open(e);
	ret = r->uffd < 0 ? e->code : uffd_register(r->vm, r->uffd, e);
	return ret < 0 ? err_prefix(e, "the source may send pages after the VM has moved (mode postcopy or hybrid)") : 0;
}

static int init_sets(struct dest_ram *r, struct err *e)
{
	struct page_set *sets[] = {&r->filled, &r->missing, &r->asked, &r->given_up};
	int ret = 0;

	for (u32 i = 0; ret == 0 && i < ARRAY_SIZE(sets); i++)
		ret = page_set_init(sets[i], &r->vm->mem, r->page_shift, e);
	return ret;
}

int dest_ram_init(struct dest_ram *r, struct vm *vm, u64 offer_flags, u32 page_shift, struct err *e)
{
	const struct mem *m = &vm->mem;
	int ret;

	r->vm = vm;
	r->page_shift = page_shift;
	r->postcopy = offer_flags & OFFER_POSTCOPY;
	r->verify = offer_flags & OFFER_VERIFY;
	r->soft = r->postcopy && vm->accel->soft_fetch;
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->came, NULL);
	if ((m->huge == MEM_HUGE_2M) != (page_shift == 21))
		return err_set(e, -EINVAL, "frame OFFER: field page_shift: %u, and guest memory here is made of other pages", page_shift);
	for (u32 i = 0; i < m->nr_regions; i++)
		r->base[i] = m->regions[i].file ? NULL : m->regions[i].hva;
	r->zero = calloc(1, page_bytes(r));
	if (!r->zero)
		return err_set(e, -ENOMEM, "no memory for a page");
	ret = init_sets(r, e);
	if (ret == 0 && r->verify)
		ret = dest_verify_init(r, e);
	return ret == 0 && r->postcopy && !r->soft ? make_fetchable(r, e) : ret;
}

void dest_ram_settle(struct dest_ram *r)
{
	if (r->soft)
		__atomic_store_n(&r->vm->mem.fetch, NULL, __ATOMIC_RELEASE);
	if (r->uffd >= 0)
		uffd_unregister(r->vm, r->uffd);
	fd_close(&r->uffd);
	if (!r->alias)
		return;
	munmap(r->alias, r->vm->mem.size);
	r->alias = NULL;
	for (u32 i = 0; i < r->vm->mem.nr_regions; i++)
		r->base[i] = NULL;
	allow_huge(r, true);
}

static void lose_soft(struct dest_ram *r)
{
	for (u32 i = 0; i < r->missing.nr_regions; i++) {
		u32 page = page_set_next(&r->missing, i, 0);

		for (; page != UINT32_MAX; page = page_set_next(&r->missing, i, page + 1))
			mprotect(dest_ram_at(r, i, page), page_bytes(r), PROT_NONE);
	}
	pthread_mutex_lock(&r->lock);
	r->lost = true;
	pthread_cond_broadcast(&r->came);
	pthread_mutex_unlock(&r->lock);
}

void dest_ram_lose(struct dest_ram *r)
{
	if (r->soft)
		lose_soft(r);
	else if (r->uffd >= 0)
		uffd_lose_missing(r->vm, r->uffd);
}

void dest_ram_fini(struct dest_ram *r)
{
	if (!r->vm)
		return;
	if (r->alias)
		munmap(r->alias, r->vm->mem.size);
	fd_close(&r->uffd); /* the mappings go next */
	dest_verify_fini(r);
	page_set_fini(&r->filled);
	page_set_fini(&r->missing);
	page_set_fini(&r->asked);
	page_set_fini(&r->given_up);
	free(r->zero);
	pthread_cond_destroy(&r->came);
	pthread_mutex_destroy(&r->lock);
	r->vm = NULL;
}

/* ---- before the hand-over ---- */

/* 2 MiB pages that the host has not would be a signal. */
static int reserve(struct dest_ram *r, u32 region, u32 page, struct err *e)
{
	const struct mem *m = &r->vm->mem;
	u64 at = m->regions[region].fd_offset + ((u64)page << r->page_shift);

	if (m->huge != MEM_HUGE_2M || fallocate(m->fd, 0, (off_t)at, (off_t)page_bytes(r)) == 0)
		return 0;
	return err_errno(e, "no 2 MiB page for guest memory (reserve some: sysctl vm.nr_hugepages)");
}

/* Pages that nobody has touched yet. Written as a file where that makes no difference to how large the host's pages are: before a store the
 * host would fill them with zeroes. */
static int put_new(struct dest_ram *r, u32 region, u32 first, u32 nr, const u8 *data, struct err *e)
{
	const struct mem *m = &r->vm->mem;
	u64 at = (u64)first << r->page_shift, len = (u64)nr << r->page_shift;
	int ret;

	if (m->huge == MEM_HUGE_NONE) {
		ret = memfile_pwrite(m->fd, data, len, m->regions[region].fd_offset + at);
		return ret < 0 ? err_set(e, ret, "no memory for pages of the guest: %s", strerror(-ret)) : 0;
	}
	ret = reserve(r, region, first, e);
	if (ret == 0)
		memcpy(r->base[region] + at, data, len);
	return ret;
}

/* How many pages from the i-th on are side by side, have data, and are fresh as the first is, or not. */
static u32 fill_length(const struct dest_ram *r, const struct wire_pages *p, u32 i, bool fresh)
{
	u32 n = 1, max = r->page_shift == MEM_PAGE_SHIFT ? p->nr - i : 1;

	while (n < max && p->numbers[i + n] == p->numbers[i] + n && page_set_has(&r->filled, p->region, p->numbers[i + n]) != fresh)
		n++;
	return n;
}

static int fill(struct dest_ram *r, const struct wire_pages *p, const u8 *data, struct err *e)
{
	int ret = 0;

	for (u32 i = 0, n; ret == 0 && i < p->nr; i += n) {
		u32 page = p->numbers[i] & ~(u32)WIRE_ZERO_PAGE;
		u8 *to = r->base[p->region] + ((u64)page << r->page_shift);
		bool fresh = !page_set_has(&r->filled, p->region, page);

		n = 1;
		if (p->numbers[i] & WIRE_ZERO_PAGE) {
			__atomic_fetch_add(&r->zero_pages, 1, __ATOMIC_RELAXED);
			if (!fresh)
				memset(to, 0, page_bytes(r));
			continue;
		}
		n = fill_length(r, p, i, fresh);
		if (fresh)
			ret = put_new(r, p->region, page, n, data, e);
		else
			memcpy(to, data, n * page_bytes(r));
		for (u32 k = 0; fresh && k < n; k++)
			page_set_add(&r->filled, p->region, page + k);
		data += n * page_bytes(r);
	}
	return ret;
}

int dest_ram_missing(struct dest_ram *r, const struct wire_bits *b, struct err *e)
{
	u32 nr = page_set_valid(&r->missing, b->region, b->first) ? r->missing.regions[b->region].nr : 0;

	if (!r->postcopy)
		return err_set(e, -EPROTO, "frame MISSING: the source did not offer to send pages later");
	if (b->nr > nr - MIN(nr, b->first))
		return err_set(e, -EPROTO, "frame MISSING: region %u has no pages %u..%llu", b->region, b->first,
			       (unsigned long long)b->first + b->nr - 1);
	page_set_put(&r->missing, b->region, b->first, b->nr, b->bits);
	return 0;
}

/* Takes what was sent earlier of pages [first, end), which are missing. */
static int punch(struct dest_ram *r, u32 region, u32 first, u32 end, struct err *e)
{
	u64 at = r->vm->mem.regions[region].fd_offset + ((u64)first << r->page_shift);

	if (fallocate(r->vm->mem.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)((u64)(end - first) << r->page_shift)) <
	    0)
		return err_errno(e, "the host does not take pages of guest memory back");
	for (u32 page = first; page < end; page++)
		page_set_take(&r->filled, region, page);
	return 0;
}

static bool is_stale(const struct dest_ram *r, u32 region, u32 page)
{
	return page_set_valid(&r->missing, region, page) && page_set_has(&r->missing, region, page) &&
	       page_set_has(&r->filled, region, page);
}

int dest_ram_hand_over(struct dest_ram *r, struct err *e)
{
	int ret = 0;

	/* Where the accelerator asks first, nobody sees them. */
	for (u32 i = 0; i < r->missing.nr_regions && !r->soft && page_set_count(&r->filled) && ret == 0; i++) {
		u32 page = page_set_next(&r->missing, i, 0), end = 0;

		for (; page != UINT32_MAX && ret == 0; page = page_set_next(&r->missing, i, MAX(end, page + 1))) {
			for (end = page; is_stale(r, i, end);)
				end++;
			ret = end > page ? punch(r, i, page, end, e) : 0;
		}
	}
	if (ret == 0 && r->verify)
		dest_verify_present(r);
	if (r->soft)
		dest_fault_soft(r);
	__atomic_store_n(&r->placing, true, __ATOMIC_RELEASE);
	return ret;
}

/* ---- after it ---- */

/* As copy, where everybody asks before he touches a page. */
static s64 copy_soft(struct dest_ram *r, u32 region, u32 first, u32 nr, const u8 *data)
{
	bool old = page_set_has(&r->filled, region, first);
	struct err e;
	u32 n = 1;
	int ret = 0;

	while (data && n < nr && r->page_shift == MEM_PAGE_SHIFT && page_set_has(&r->filled, region, first + n) == old)
		n++;
	if (old && data)
		memcpy(dest_ram_at(r, region, first), data, n * page_bytes(r));
	else if (old)
		memset(dest_ram_at(r, region, first), 0, page_bytes(r));
	else if (data)
		ret = put_new(r, region, first, n, data, &e);
	return ret < 0 ? ret : (s64)n;
}

/* Pages that are missing, to where they are; data NULL: zeroes. Returns how many are there now, 0: not at this moment, a discard has to be
 * noted first; -errno. */
static s64 copy(struct dest_ram *r, u32 region, u32 first, u32 nr, const u8 *data)
{
	u8 *to = dest_ram_at(r, region, first);
	struct uffdio_copy c = {.dst = (uintptr_t)to, .src = (uintptr_t)(data ?: r->zero), .len = (u64)nr << r->page_shift};
	struct uffdio_zeropage z = {.range = {c.dst, c.len}};
	bool zero = !data && r->vm->mem.huge != MEM_HUGE_2M; /* those know no zero page */
	s64 done;

	if (r->soft)
		return copy_soft(r, region, first, nr, data);
	if (!data && !zero) {
		nr = 1;
		c.len = page_bytes(r);
	}
	if (ioctl(r->uffd, zero ? UFFDIO_ZEROPAGE : UFFDIO_COPY, zero ? (void *)&z : (void *)&c) == 0)
		return nr;
	done = zero ? z.zeropage : c.copy;
	if (done > 0)
		return done >> r->page_shift;
	if (errno == EEXIST) {
		struct uffdio_range range = {c.dst, page_bytes(r)};

		ioctl(r->uffd, UFFDIO_WAKE, &range);
		return 1;
	}
	return errno == EAGAIN ? 0 : -errno;
}

/* Counts as received from now on. ctx: lock held */
static void taken(struct dest_ram *r, u32 region, u32 page, const u8 *data)
{
	/* Before it stops to be missing: nobody compares digests while pages are. */
	if (r->verify && page_set_has(&r->missing, region, page))
		dest_verify_placed(r, region, page, data);
	if (!page_set_take(&r->missing, region, page))
		return;
	if (page_set_take(&r->asked, region, page))
		dest_fault_served(r, region, page);
	__atomic_fetch_add(&r->placed, 1, __ATOMIC_RELAXED);
	if (!data)
		__atomic_fetch_add(&r->zero_pages, 1, __ATOMIC_RELAXED);
}

/* How many of the pages from i on can be placed at once: side by side, missing, and all of zeroes or none. */
static u32 run_length(const struct dest_ram *r, const struct wire_pages *p, u32 i, u32 max)
{
	u32 n = 0;

	while (n < max && i + n < p->nr && p->numbers[i + n] == p->numbers[i] + n &&
	       page_set_has(&r->missing, p->region, p->numbers[i + n] & ~(u32)WIRE_ZERO_PAGE))
		n++;
	return n;
}

struct placing {
	const struct wire_pages *p;
	const u8 *data; /* of page `next` */
	u32 next;
};

/* Up to BURST pages. As copy. */
static s64 place_some(struct dest_ram *r, struct placing *at)
{
	const struct wire_pages *p = at->p;
	s64 ret = 1;

	for (u32 left = BURST; left && at->next < p->nr && ret > 0;) {
		u32 number = p->numbers[at->next], page = number & ~(u32)WIRE_ZERO_PAGE;
		u32 run = run_length(r, p, at->next, left);
		const u8 *data = number & WIRE_ZERO_PAGE ? NULL : at->data;

		if (!run)
			__atomic_fetch_add(&r->duplicates, 1, __ATOMIC_RELAXED);
		ret = run ? copy(r, p->region, page, run, data) : 1;
		for (u32 i = 0; run && i < ret; i++)
			taken(r, p->region, page + i, data ? data + ((u64)i << r->page_shift) : NULL);
		if (ret <= 0)
			break;
		at->next += (u32)ret;
		left -= MIN(left, (u32)ret);
		at->data += data ? (u64)ret << r->page_shift : 0;
	}
	return ret;
}

static int place(struct dest_ram *r, const struct wire_pages *p, const u8 *data, struct err *e)
{
	struct placing at = {.p = p, .data = data};

	while (at.next < p->nr) {
		s64 ret;

		pthread_mutex_lock(&r->lock);
		ret = place_some(r, &at);
		pthread_mutex_unlock(&r->lock);
		if (ret < 0)
			return err_set(e, (int)ret, "page %u of memory region %u cannot be placed: %s",
				       p->numbers[at.next] & ~(u32)WIRE_ZERO_PAGE, p->region, strerror((int)-ret));
		if (ret == 0)
			sched_yield();
	}
	__atomic_store_n(&r->last_placed_ns, clock_host_ns(), __ATOMIC_RELAXED);
	return 0;
}

/* ---- either ---- */

static int unpack(const u8 *data, u64 len, u8 *out, u64 want, struct err *e)
{
	z_stream z = {.next_in = (Bytef *)(uintptr_t)data, .avail_in = (uInt)len, .next_out = out, .avail_out = (uInt)want};
	int ret;

	if (inflateInit(&z) != Z_OK)
		return err_set(e, -ENOMEM, "no memory to unpack pages");
	ret = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	if (ret != Z_STREAM_END || z.total_out != want || z.avail_in)
		return err_set(e, -EPROTO, "frame PAGES: field data: its compressed bytes are not %llu bytes of pages",
			       (unsigned long long)want);
	return 0;
}

static int check_pages(const struct dest_ram *r, const struct wire_pages *p, u32 *nr_data, struct err *e)
{
	bool disk = p->region >= WIRE_FIRST_DISK;
	const struct page_set *set = disk ? &r->disks->missing : &r->missing;
	u32 region = disk ? p->region - WIRE_FIRST_DISK : p->region;

	*nr_data = 0;
	for (u32 i = 0; i < p->nr; i++) {
		u32 page = p->numbers[i] & ~(u32)WIRE_ZERO_PAGE;

		if (!page_set_valid(set, region, page))
			return err_set(e, -EPROTO, "frame PAGES: %s region %u has no page %u", disk ? "disk" : "memory", p->region, page);
		*nr_data += !(p->numbers[i] & WIRE_ZERO_PAGE);
	}
	return 0;
}

int dest_ram_pages(struct dest_ram *r, const struct wire_pages *p, u8 *scratch, struct err *e)
{
	const u8 *data = p->data;
	u32 nr_data;
	u64 want;
	int ret = check_pages(r, p, &nr_data, e);

	if (ret < 0)
		return ret;
	want = (u64)nr_data << r->page_shift;
	if (want > DEST_SCRATCH || (p->encoding == WIRE_RAW && p->data_len != want))
		return err_set(e, -EPROTO, "frame PAGES: field data: %llu bytes for %u pages", (unsigned long long)p->data_len, nr_data);
	if (p->encoding == WIRE_ZLIB) {
		ret = unpack(p->data, p->data_len, scratch, want, e);
		data = scratch;
	}
	if (ret < 0)
		return ret;
	__atomic_fetch_add(&r->pages, p->nr, __ATOMIC_RELAXED);
	counter_add(&r->vm->counters.migration.received_pages, p->nr);
	if (p->region >= WIRE_FIRST_DISK) {
		counter_add(&r->vm->counters.migration.received_disk_pages, p->nr);
		return dest_disks_pages(r->disks, p, data, e);
	}
	return __atomic_load_n(&r->placing, __ATOMIC_ACQUIRE) ? place(r, p, data, e) : fill(r, p, data, e);
}
