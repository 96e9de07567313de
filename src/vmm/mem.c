/* mem.c: guest memory over one memfd; see mem.h. */
#include "vmm/mem.h"

#include <errno.h>
#include <linux/memfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HUGE_2M (2 * MIB)

static int check_ranges(const struct mem_range *ranges, u32 nr, enum mem_huge huge, u64 *total, struct err *e)
{
	u64 unit = huge == MEM_HUGE_2M ? HUGE_2M : MEM_PAGE_SIZE;

	ASSERT(nr > 0 && nr <= MEM_MAX_REGIONS);
	*total = 0;
	for (u32 i = 0; i < nr; i++) {
		if (!ranges[i].size || ranges[i].size % unit)
			return err_set(e, -EINVAL, "guest memory of %llu bytes is not a multiple of %llu KiB pages",
				       (unsigned long long)ranges[i].size, (unsigned long long)(unit / KIB));
		if (__builtin_add_overflow(*total, ranges[i].size, total) || *total > INT64_MAX)
			return err_set(e, -EINVAL, "guest memory is too large for this host");
	}
	return 0;
}

/* Maps one region at a 2 MiB-aligned address, so that huge pages line up with guest physical ones. */
static int map_region(struct mem *m, struct mem_region *r, struct err *e)
{
	int flags = MAP_SHARED | MAP_NORESERVE | MAP_FIXED;
	size_t span = r->size + HUGE_2M;
	u8 *area = mmap(NULL, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	u8 *hva;

	if (area == MAP_FAILED)
		return err_errno(e, "cannot reserve %llu MiB of address space for guest memory", (unsigned long long)(r->size / MIB));
	hva = (u8 *)ALIGN_UP((uintptr_t)area, HUGE_2M);
	if (mmap(hva, r->size, PROT_READ | PROT_WRITE, flags, m->fd, (off_t)r->fd_offset) == MAP_FAILED) {
		int ret = err_errno(e, "cannot map %llu MiB of guest memory%s", (unsigned long long)(r->size / MIB),
				    m->huge == MEM_HUGE_2M ? " in 2 MiB pages (reserve some: sysctl vm.nr_hugepages)" : "");

		munmap(area, span);
		return ret;
	}
	r->hva = hva;
	if (hva > area)
		munmap(area, (size_t)(hva - area));
	if (area + span > hva + r->size)
		munmap(hva + r->size, (size_t)(area + span - (hva + r->size)));
	if (m->huge == MEM_HUGE_TRANSPARENT && madvise(hva, r->size, MADV_HUGEPAGE) < 0)
		return err_errno(e, "transparent huge pages are not to be had for guest memory");
	madvise(hva, r->size, MADV_DONTDUMP);
	return 0;
}

int mem_init(struct mem *m, const struct mem_range *ranges, u32 nr, enum mem_huge huge, struct err *e)
{
	u32 flags = MFD_CLOEXEC | (huge == MEM_HUGE_2M ? MFD_HUGETLB | MFD_HUGE_2MB : 0);
	u64 offset = 0;
	int ret;

	*m = (struct mem){.fd = -1, .huge = huge};
	ret = check_ranges(ranges, nr, huge, &m->size, e);
	if (ret < 0)
		return ret;
	m->fd = memfd_create("husk-guest-memory", flags);
	if (m->fd < 0)
		return err_errno(e, "cannot create guest memory%s", huge == MEM_HUGE_2M ? " in 2 MiB pages" : "");
	if (ftruncate(m->fd, (off_t)m->size) < 0) {
		ret = err_errno(e, "cannot size guest memory to %llu MiB", (unsigned long long)(m->size / MIB));
		mem_fini(m);
		return ret;
	}
	for (u32 i = 0; i < nr; i++) {
		struct mem_region *r = &m->regions[m->nr_regions++];

		*r = (struct mem_region){.gpa = ranges[i].gpa, .size = ranges[i].size, .fd_offset = offset, .slot = i};
		ret = map_region(m, r, e);
		if (ret < 0) {
			mem_fini(m);
			return ret;
		}
		offset += r->size;
	}
	return 0;
}

void mem_fini(struct mem *m)
{
	for (u32 i = 0; i < m->nr_regions; i++) {
		if (m->regions[i].hva)
			munmap(m->regions[i].hva, m->regions[i].size);
		free(m->regions[i].vmm_dirty);
	}
	if (m->size)
		fd_close(&m->fd);
	*m = (struct mem){.fd = -1};
}

int mem_read(const struct mem *m, u64 gpa, void *dst, u64 len)
{
	const void *p = mem_ptr(m, gpa, len);

	if (!p)
		return -EFAULT;
	memcpy(dst, p, len);
	return 0;
}

int mem_write(struct mem *m, u64 gpa, const void *src, u64 len)
{
	void *p = mem_ptr(m, gpa, len);

	if (!p)
		return -EFAULT;
	memcpy(p, src, len);
	mem_dirty(m, gpa, len);
	return 0;
}

/* Lays whole pages of the file over the RAM at dst, if it is made of small pages; returns how many bytes. */
static u64 overlay_file(const struct mem *m, u8 *dst, int fd, u64 offset, u64 len)
{
	u64 whole = ALIGN_DOWN(len, MEM_PAGE_SIZE);

	if (m->huge != MEM_HUGE_NONE || (uintptr_t)dst % MEM_PAGE_SIZE || offset % MEM_PAGE_SIZE || !whole)
		return 0;
	if (mmap(dst, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, (off_t)offset) == MAP_FAILED)
		return 0;
	madvise(dst, whole, MADV_DONTDUMP);
	return whole;
}

int mem_load_file(struct mem *m, u64 gpa, int fd, u64 offset, u64 len, struct err *e)
{
	u8 *dst = mem_ptr(m, gpa, len);
	struct stat st;
	u64 done, end;

	if (!dst)
		return err_set(e, -EFAULT, "it does not fit into guest memory");
	if (fstat(fd, &st) < 0)
		return err_errno(e, "cannot read it");
	if (__builtin_add_overflow(offset, len, &end) || end > (u64)st.st_size)
		return err_set(e, -EIO, "cannot read it to its end");
	for (done = overlay_file(m, dst, fd, offset, len); done < len;) {
		ssize_t n = pread(fd, dst + done, len - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(e, "cannot read it");
		if (n == 0)
			return err_set(e, -EIO, "cannot read it to its end");
		done += (u64)n;
	}
	mem_dirty(m, gpa, len);
	return 0;
}

static void mark_dirty(struct mem *m, const struct mem_region *r, u64 offset, u64 len)
{
	if (r->vmm_dirty) {
		for (u64 page = offset >> MEM_PAGE_SHIFT; page <= (offset + len - 1) >> MEM_PAGE_SHIFT; page++)
			__atomic_fetch_or(&r->vmm_dirty[page / 64], BIT(page % 64), __ATOMIC_RELEASE);
	}
	if (m->on_write)
		m->on_write(m->on_write_opaque, r->gpa + offset, len);
}

void mem_dirty(struct mem *m, u64 gpa, u64 len)
{
	const struct mem_region *r = len ? mem_find(m, gpa, len) : NULL;

	if (r)
		mark_dirty(m, r, gpa - r->gpa, len);
}

void mem_dirty_hva(struct mem *m, const void *hva, u64 len)
{
	for (u32 i = 0; i < m->nr_regions; i++) {
		const struct mem_region *r = &m->regions[i];
		u64 offset = (u64)((uintptr_t)hva - (uintptr_t)r->hva);

		if (offset < r->size && len && len <= r->size - offset) {
			mark_dirty(m, r, offset, len);
			return;
		}
	}
}

int mem_track(struct mem *m, bool on, struct err *e)
{
	u64 *maps[MEM_MAX_REGIONS] = {0};

	for (u32 i = 0; on && i < m->nr_regions; i++) {
		maps[i] = calloc(mem_bitmap_words(&m->regions[i]), sizeof(u64));
		if (!maps[i]) {
			while (i--)
				free(maps[i]);
			return err_set(e, -ENOMEM, "no memory for the bitmap of dirty pages");
		}
	}
	for (u32 i = 0; i < m->nr_regions; i++) {
		free(m->regions[i].vmm_dirty);
		m->regions[i].vmm_dirty = maps[i];
	}
	return 0;
}

void mem_track_collect(struct mem_region *r, u64 *bitmap)
{
	for (u64 i = 0; r->vmm_dirty && i < mem_bitmap_words(r); i++) {
		if (__atomic_load_n(&r->vmm_dirty[i], __ATOMIC_RELAXED))
			bitmap[i] |= __atomic_exchange_n(&r->vmm_dirty[i], 0, __ATOMIC_ACQUIRE);
	}
}
