/* mem_fetch.c: waiting for pages of guest memory that are not there yet; see struct mem_fetch in mem.h. */
#include "vmm/mem.h"

void mem_await(const struct mem *m, const struct mem_region *r, u64 offset, u64 len, const u32 *stop)
{
	const struct mem_fetch *f = mem_fetch(m);
	u64 first, last;

	if (!f || !len)
		return;
	first = offset >> MEM_PAGE_SHIFT;
	last = (offset + len - 1) >> MEM_PAGE_SHIFT;
	while (first <= last && !mem_fetch_misses(f, r, first))
		first++;
	while (last > first && !mem_fetch_misses(f, r, last))
		last--;
	if (first <= last)
		f->wait(f->opaque, r, first, last - first + 1, stop);
}
