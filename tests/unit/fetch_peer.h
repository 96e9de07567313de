/*
 * fetch_peer.h: brings pages of guest memory on demand, as the destination of a migration does (struct mem_fetch), from a copy that it made
 * when it took them away. A page that is not there has no access rights: whoever touches it without having waited crashes.
 */
#ifndef HUSK_TEST_FETCH_PEER_H
#define HUSK_TEST_FETCH_PEER_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "vmm/mem.h"

#define POISON 0xdb /* what a page's bytes are before it comes */

struct fetch_peer {
	struct mem *mem;
	struct mem_fetch fetch;
	u64 *missing[MEM_MAX_REGIONS], *wanted[MEM_MAX_REGIONS];
	u8 *alias, *copy; /* of the memfd; what it held */
	u64 left;	  /* pages that are missing */
	u32 delay_us;	  /* for each page */
	u32 nr_waits, nr_brought, nr_discarded;
	bool held, stop; /* held: nothing comes */
	pthread_mutex_t lock;
	pthread_cond_t asked, came;
	pthread_t thread;
};

static inline bool peer_misses(const struct fetch_peer *p, u32 slot, u64 page)
{
	return p->missing[slot][page / 64] >> page % 64 & 1;
}

/* With the lock. The page of guest memory may be touched from now on. */
static inline void peer_there(struct fetch_peer *p, const struct mem_region *r, u64 page)
{
	assert_int_equal(mprotect(r->hva + page * MEM_PAGE_SIZE, MEM_PAGE_SIZE, PROT_READ | PROT_WRITE), 0);
	p->wanted[r->slot][page / 64] &= ~BIT(page % 64);
	__atomic_fetch_and(&p->missing[r->slot][page / 64], ~BIT(page % 64), __ATOMIC_RELEASE);
	if (--p->left == 0)
		__atomic_store_n(&p->mem->fetch, NULL, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&p->came);
}

static inline void peer_bring(struct fetch_peer *p, const struct mem_region *r, u64 page)
{
	u64 at = r->fd_offset + page * MEM_PAGE_SIZE;

	memcpy(p->alias + at, p->copy + at, MEM_PAGE_SIZE);
	peer_there(p, r, page);
	p->nr_brought++;
}

/* With the lock. The next page that somebody wants. */
static inline bool peer_next(const struct fetch_peer *p, u32 *slot, u64 *page)
{
	for (*slot = 0; *slot < p->mem->nr_regions; ++*slot) {
		const struct mem_region *r = &p->mem->regions[*slot];

		for (u64 w = 0; w < mem_bitmap_words(r); w++) {
			if (!p->wanted[*slot][w])
				continue;
			*page = w * 64 + (u64)__builtin_ctzll(p->wanted[*slot][w]);
			return true;
		}
	}
	return false;
}

static inline void *peer_run(void *opaque)
{
	struct fetch_peer *p = opaque;
	u64 page;
	u32 slot;

	pthread_mutex_lock(&p->lock);
	while (!p->stop) {
		if (p->held || !peer_next(p, &slot, &page)) {
			pthread_cond_wait(&p->asked, &p->lock);
			continue;
		}
		pthread_mutex_unlock(&p->lock);
		if (p->delay_us)
			usleep(p->delay_us);
		pthread_mutex_lock(&p->lock);
		if (!p->held && peer_misses(p, slot, page))
			peer_bring(p, &p->mem->regions[slot], page);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

static inline void peer_wait(void *opaque, const struct mem_region *r, u64 first, u64 nr, const u32 *stop)
{
	struct fetch_peer *p = opaque;

	pthread_mutex_lock(&p->lock);
	p->nr_waits++;
	for (u64 page = first; page < first + nr; page++) {
		while (peer_misses(p, r->slot, page) && !(stop && __atomic_load_n(stop, __ATOMIC_SEQ_CST))) {
			struct timespec at;

			for (u64 i = page; i < first + nr; i++) {
				if (peer_misses(p, r->slot, i))
					p->wanted[r->slot][i / 64] |= BIT(i % 64);
			}
			pthread_cond_signal(&p->asked);
			clock_gettime(CLOCK_REALTIME, &at);
			at.tv_nsec += 20 * 1000 * 1000;
			at.tv_sec += at.tv_nsec / 1000000000;
			at.tv_nsec %= 1000000000;
			pthread_cond_timedwait(&p->came, &p->lock, &at);
		}
	}
	pthread_mutex_unlock(&p->lock);
}

static inline void peer_discard(void *opaque, const struct mem_region *r, u64 first, u64 nr)
{
	struct fetch_peer *p = opaque;

	pthread_mutex_lock(&p->lock);
	for (u64 page = first; page < first + nr; page++) {
		if (!peer_misses(p, r->slot, page))
			continue;
		peer_there(p, r, page);
		p->nr_discarded++;
	}
	pthread_mutex_unlock(&p->lock);
}

static inline struct fetch_peer *peer_new(struct mem *m)
{
	struct fetch_peer *p = xzalloc(sizeof(*p));

	p->mem = m;
	p->fetch = (struct mem_fetch){.page_shift = MEM_PAGE_SHIFT, .wait = peer_wait, .discard = peer_discard, .opaque = p};
	p->alias = mmap(NULL, m->size, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
	p->copy = mmap(NULL, m->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_true(p->alias != MAP_FAILED && p->copy != MAP_FAILED);
	for (u32 i = 0; i < m->nr_regions; i++) {
		p->missing[i] = xzalloc(mem_bitmap_words(&m->regions[i]) * sizeof(u64));
		p->wanted[i] = xzalloc(mem_bitmap_words(&m->regions[i]) * sizeof(u64));
		p->fetch.missing[i] = p->missing[i];
	}
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->asked, NULL);
	pthread_cond_init(&p->came, NULL);
	assert_int_equal(pthread_create(&p->thread, NULL, peer_run, p), 0);
	return p;
}

/* Takes pages away, while nobody runs. */
static inline void peer_take(struct fetch_peer *p, u32 slot, u64 first, u64 nr)
{
	const struct mem_region *r = &p->mem->regions[slot];
	u64 at = r->fd_offset + first * MEM_PAGE_SIZE, len = nr * MEM_PAGE_SIZE;

	pthread_mutex_lock(&p->lock);
	memcpy(p->copy + at, p->alias + at, len);
	memset(p->alias + at, POISON, len);
	assert_int_equal(mprotect(r->hva + first * MEM_PAGE_SIZE, len, PROT_NONE), 0);
	for (u64 page = first; page < first + nr; page++)
		p->missing[slot][page / 64] |= BIT(page % 64);
	p->left += nr;
	__atomic_store_n(&p->mem->fetch, &p->fetch, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&p->lock);
}

static inline void peer_take_all(struct fetch_peer *p)
{
	for (u32 i = 0; i < p->mem->nr_regions; i++)
		peer_take(p, i, 0, p->mem->regions[i].size / MEM_PAGE_SIZE);
}

static inline void peer_hold(struct fetch_peer *p, bool held)
{
	pthread_mutex_lock(&p->lock);
	p->held = held;
	pthread_cond_signal(&p->asked);
	pthread_mutex_unlock(&p->lock);
}

/* Until somebody has waited n times. */
static inline void peer_await_waits(struct fetch_peer *p, u32 n)
{
	bool enough;

	do {
		usleep(500);
		pthread_mutex_lock(&p->lock);
		enough = p->nr_waits >= n;
		pthread_mutex_unlock(&p->lock);
	} while (!enough);
}

/* Brings the rest. */
static inline void peer_finish(struct fetch_peer *p)
{
	pthread_mutex_lock(&p->lock);
	for (u32 i = 0; i < p->mem->nr_regions; i++) {
		const struct mem_region *r = &p->mem->regions[i];

		for (u64 page = 0; page < r->size / MEM_PAGE_SIZE; page++) {
			if (peer_misses(p, i, page))
				peer_bring(p, r, page);
		}
	}
	pthread_mutex_unlock(&p->lock);
}

static inline void peer_free(struct fetch_peer *p)
{
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_signal(&p->asked);
	pthread_mutex_unlock(&p->lock);
	pthread_join(p->thread, NULL);
	munmap(p->alias, p->mem->size);
	munmap(p->copy, p->mem->size);
	for (u32 i = 0; i < p->mem->nr_regions; i++) {
		free(p->missing[i]);
		free(p->wanted[i]);
	}
	pthread_mutex_destroy(&p->lock);
	pthread_cond_destroy(&p->asked);
	pthread_cond_destroy(&p->came);
	free(p);
}

#endif
