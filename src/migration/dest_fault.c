/* dest_fault.c: who waits for which page of a VM that runs before all its memory is here; see dest_impl.h. */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "migration/dest_impl.h"
#include "vmm/clock.h"

#define EVENTS_PER_READ 32u
#define SOFT_WAIT_NS	(2 * NSEC_PER_MSEC) /* as long may a request of the vCPU (an interrupt, a pause) wait */

struct asked_page {
	u32 region, page;
};

/* ---- requests ---- */

/* ctx: request_lock held */
static void send_request(struct dest *d, const struct wire_request *q)
{
	struct err e;

	if (!q->nr || !d->requests_open || wire_send_request(d->urgent.channel, q, &e) == 0)
		return;
	/* The pages are asked for again after the recovery. */
	d->requests_open = false;
	__atomic_store_n(&d->urgent_broken, true, __ATOMIC_RELEASE);
	dest_wake(d);
}

static void request(struct dest *d, const struct asked_page *pages, u32 nr)
{
	struct wire_request q = {0};

	pthread_mutex_lock(&d->request_lock);
	for (u32 i = 0; d->requests_open && i < nr; i++) {
		if (q.nr == WIRE_REQUEST_PAGES || (q.nr && q.region != pages[i].region)) {
			send_request(d, &q);
			q.nr = 0;
		}
		q.region = (u16)pages[i].region;
		q.pages[q.nr++] = pages[i].page;
	}
	send_request(d, &q);
	pthread_mutex_unlock(&d->request_lock);
}

void dest_fault_open(struct dest *d)
{
	const struct page_set *asked = &d->ram.asked;

	d->serving = true;
	pthread_mutex_lock(&d->request_lock);
	d->requests_open = d->urgent.channel != NULL;
	pthread_mutex_unlock(&d->request_lock);
	for (u32 i = 0; i < asked->nr_regions; i++) {
		u32 page = page_set_next(asked, i, 0);

		for (; page != UINT32_MAX; page = page_set_next(asked, i, page + 1))
			request(d, &(struct asked_page){i, page}, 1);
	}
}

void dest_fault_close(struct dest *d)
{
	d->serving = false;
	pthread_mutex_lock(&d->request_lock);
	d->requests_open = false;
	__atomic_store_n(&d->urgent_broken, false, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&d->request_lock);
}

/* ---- waiting ---- */

/* Somebody waits for a page that is missing. Whether it has to be asked for. ctx: r->lock held */
static bool ask(struct dest_ram *r, u32 region, u32 page)
{
	if (!page_set_add(&r->asked, region, page))
		return false;
	r->faults++;
	counter_add(&r->vm->counters.migration.faults, 1);
	if (r->nr_waits < DEST_MAX_WAITS)
		r->waits[r->nr_waits++] = (struct dest_wait){region, page, clock_host_ns()};
	return true;
}

static void note_latency(struct dest_ram *r, u64 ns)
{
	u64 us = ns / 1000;
	u32 bucket = us ? 63 - (u32)__builtin_clzll(us) : 0;

	latency_add(&r->vm->counters.migration.fault, ns);
	r->fault_total_ns += ns;
	r->fault_max_ns = MAX(r->fault_max_ns, ns);
	r->fault_histogram[MIN(bucket, MIGRATE_LATENCY_BUCKETS - 1u)]++;
}

void dest_fault_served(struct dest_ram *r, u32 region, u32 page)
{
	for (u32 i = 0; i < r->nr_waits; i++) {
		struct dest_wait *w = &r->waits[i];

		if (w->region != region || w->page != page)
			continue;
		note_latency(r, clock_host_ns() - w->since_ns);
		*w = r->waits[--r->nr_waits];
		break;
	}
	if (r->soft)
		pthread_cond_broadcast(&r->came);
}

/* ---- userfaultfd ---- */

static bool find_page(const struct dest_ram *r, u64 address, struct asked_page *out)
{
	const struct mem *m = &r->vm->mem;

	for (u32 i = 0; i < r->missing.nr_regions; i++) {
		u64 offset = address - (uintptr_t)m->regions[i].hva;

		if (m->regions[i].file || offset >= m->regions[i].size)
			continue;
		*out = (struct asked_page){i, (u32)(offset >> r->page_shift)};
		return true;
	}
	return false;
}

static void wake(const struct dest_ram *r, const struct asked_page *at)
{
	struct uffdio_range range = {(uintptr_t)dest_ram_at(r, at->region, at->page), BIT(r->page_shift)};

	ioctl(r->uffd, UFFDIO_WAKE, &range);
}

/* A page that the source has not either. When that does not go now (a discard is under way), who waits faults again. */
static void give_zero(struct dest_ram *r, const struct asked_page *at)
{
	u64 to = (uintptr_t)dest_ram_at(r, at->region, at->page), len = BIT(r->page_shift);
	struct uffdio_zeropage z = {.range = {to, len}};
	struct uffdio_copy c = {.dst = to, .src = (uintptr_t)r->zero, .len = len};
	bool huge = r->vm->mem.huge == MEM_HUGE_2M;

	if (!__atomic_load_n(&r->placing, __ATOMIC_ACQUIRE))
		page_set_add(&r->filled, at->region, at->page);
	if (ioctl(r->uffd, huge ? UFFDIO_COPY : UFFDIO_ZEROPAGE, huge ? (void *)&c : (void *)&z) == 0)
		return;
	if (errno == ENOMEM) {
		log_error(r->vm->log, "no page for guest memory is to be had of this host: the VM ends");
		vm_end(r->vm, VM_END_INTERNAL);
	}
	wake(r, at);
}

/* The guest gave a page up: it is zero from now on, and nobody brings it. Whether somebody waits for it. ctx: r->lock held */
static bool give_up(struct dest_ram *r, u32 region, u32 page)
{
	if (!page_set_take(&r->missing, region, page))
		return false;
	if (r->verify)
		page_set_add(&r->given_up, region, page);
	if (!page_set_take(&r->asked, region, page))
		return false;
	dest_fault_served(r, region, page);
	return true;
}

static void remove_pages(struct dest_ram *r, u64 start, u64 end)
{
	struct asked_page at;

	for (; start < end && find_page(r, start, &at); start += BIT(r->page_shift)) {
		if (give_up(r, at.region, at.page))
			wake(r, &at);
	}
}

/* Reads what has happened; returns how many pages are to be asked for. The lock is held from before the read on: a discard goes on when it
 * was read, and no page may be placed behind it that it was to take away. */
static u32 read_events(struct dest_ram *r, struct asked_page *pages)
{
	struct uffd_msg msgs[EVENTS_PER_READ];
	u32 nr = 0;
	ssize_t n;

	pthread_mutex_lock(&r->lock);
	n = read(r->uffd, msgs, sizeof(msgs));
	for (ssize_t i = 0; i < n / (ssize_t)sizeof(*msgs); i++) {
		const struct uffd_msg *m = &msgs[i];
		struct asked_page at;

		if (m->event == UFFD_EVENT_REMOVE) {
			remove_pages(r, m->arg.remove.start, m->arg.remove.end);
			continue;
		}
		if (m->event != UFFD_EVENT_PAGEFAULT || !find_page(r, m->arg.pagefault.address, &at))
			continue;
		if (!page_set_has(&r->missing, at.region, at.page))
			give_zero(r, &at);
		else if (ask(r, at.region, at.page))
			pages[nr++] = at;
	}
	pthread_mutex_unlock(&r->lock);
	return nr;
}

/* ---- threads that ask by themselves (mem_fetch) ---- */

/* What is missing of pages [first, last], and was not asked for yet. Returns how many; *left: whether any is missing. ctx: r->lock held */
static u32 ask_range(struct dest_ram *r, u32 region, u32 first, u32 last, struct asked_page *pages, bool *left)
{
	u32 nr = 0;

	*left = false;
	for (u32 page = first; page <= last && nr < WIRE_REQUEST_PAGES; page++) {
		if (!page_set_has(&r->missing, region, page))
			continue;
		*left = true;
		if (ask(r, region, page))
			pages[nr++] = (struct asked_page){region, page};
	}
	return nr;
}

static void wait_a_while(struct dest_ram *r)
{
	u64 end_ns = clock_host_ns() + SOFT_WAIT_NS;
	struct timespec until = {.tv_sec = (time_t)(end_ns / NSEC_PER_SEC), .tv_nsec = (long)(end_ns % NSEC_PER_SEC)};

	pthread_cond_clockwait(&r->came, &r->lock, CLOCK_MONOTONIC, &until);
}

/* What is asked for is requested in any case, also when there is no time to wait for it: nobody asks for it again. */
static void soft_wait(void *opaque, const struct mem_region *m, u64 first, u64 nr, const u32 *stop)
{
	struct dest_ram *r = opaque;
	u32 shift = r->page_shift - MEM_PAGE_SHIFT, from = (u32)(first >> shift), to = (u32)((first + nr - 1) >> shift);
	struct asked_page pages[WIRE_REQUEST_PAGES];
	bool left;

	pthread_mutex_lock(&r->lock);
	for (;;) {
		u32 n = ask_range(r, m->slot, from, to, pages, &left);

		if (n) {
			pthread_mutex_unlock(&r->lock);
			request(container_of(r, struct dest, ram), pages, n);
			pthread_mutex_lock(&r->lock);
		} else if (!left || r->lost || (stop && __atomic_load_n(stop, __ATOMIC_SEQ_CST))) {
			break;
		} else {
			wait_a_while(r);
		}
	}
	pthread_mutex_unlock(&r->lock);
}

static void soft_discard(void *opaque, const struct mem_region *m, u64 first, u64 nr)
{
	struct dest_ram *r = opaque;
	u32 shift = r->page_shift - MEM_PAGE_SHIFT;

	pthread_mutex_lock(&r->lock);
	for (u64 page = first >> shift; page < (first + nr) >> shift; page++)
		give_up(r, m->slot, (u32)page);
	pthread_mutex_unlock(&r->lock);
}

void dest_fault_soft(struct dest_ram *r)
{
	r->fetch = (struct mem_fetch){.page_shift = r->page_shift, .wait = soft_wait, .discard = soft_discard, .opaque = r};
	for (u32 i = 0; i < r->missing.nr_regions; i++)
		r->fetch.missing[i] = r->missing.regions[i].bits;
	__atomic_store_n(&r->vm->mem.fetch, &r->fetch, __ATOMIC_RELEASE);
}

/* ---- the thread of userfaultfd ---- */

static void *run(void *opaque)
{
	struct dest *d = opaque;
	struct asked_page pages[EVENTS_PER_READ];
	struct pollfd p[] = {{.fd = d->ram.uffd, .events = POLLIN}, {.fd = d->fault_stop, .events = POLLIN}};

	prctl(PR_SET_NAME, "husk-fault");
	while (!p[1].revents) {
		if (poll(p, ARRAY_SIZE(p), -1) < 0)
			ASSERT(errno == EINTR || errno == ENOMEM);
		else if (p[0].revents)
			request(d, pages, read_events(&d->ram, pages));
	}
	return NULL;
}

int dest_fault_start(struct dest *d, struct err *e)
{
	int ret;

	if (d->ram.uffd < 0)
		return 0;
	d->fault_stop = eventfd(0, EFD_CLOEXEC);
	if (d->fault_stop < 0)
		return err_errno(e, "no event descriptor");
	ret = dest_thread_start(&d->fault_thread, run, d, e);
	d->fault_started = ret == 0;
	return ret;
}

void dest_fault_stop(struct dest *d)
{
	if (d->fault_started && write(d->fault_stop, &(u64){1}, 8) == 8)
		pthread_join(d->fault_thread, NULL);
	d->fault_started = false;
	fd_close(&d->fault_stop);
}
