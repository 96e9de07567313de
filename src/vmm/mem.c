/* mem.c: guest memory over one memfd; see mem.h. */
#include "vmm/mem.h"

#include <errno.h>
#include <fcntl.h>
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

/* Address space for one region at a 2 MiB-aligned address, so that huge pages line up with guest physical ones; no access to it yet. */
static int reserve_region(struct mem_region *r, struct err *e)
{
	size_t span;
	u8 *area = MAP_FAILED;

	errno = ENOMEM;
	if (!__builtin_add_overflow(r->size, HUGE_2M, &span))
		area = mmap(NULL, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (area == MAP_FAILED)
		return err_errno(e, "cannot reserve %llu MiB of address space for guest memory", (unsigned long long)(r->size / MIB));
	r->hva = (u8 *)ALIGN_UP((uintptr_t)area, HUGE_2M);
	if (r->hva > area)
		munmap(area, (size_t)(r->hva - area));
	if (area + span > r->hva + r->size)
		munmap(r->hva + r->size, (size_t)(area + span - (r->hva + r->size)));
	return 0;
}

static int map_region(struct mem *m, struct mem_region *r, struct err *e)
{
	/* Pages of 2 MiB are set aside now: too few of them is an error here, and no SIGBUS in the middle of the guest's life. */
	int flags = MAP_SHARED | MAP_FIXED | (m->huge == MEM_HUGE_2M ? 0 : MAP_NORESERVE), ret = reserve_region(r, e);
	u8 *hva = r->hva;

	if (ret < 0)
		return ret;
	if (mmap(hva, r->size, PROT_READ | PROT_WRITE, flags, m->fd, (off_t)r->fd_offset) == MAP_FAILED)
		return err_errno(e, "cannot map %llu MiB of guest memory%s", (unsigned long long)(r->size / MIB),
				 m->huge == MEM_HUGE_2M ? " in 2 MiB pages (reserve some: sysctl vm.nr_hugepages)" : "");
	if (m->huge == MEM_HUGE_TRANSPARENT && madvise(hva, r->size, MADV_HUGEPAGE) < 0)
		return err_errno(e, "transparent huge pages are not to be had for guest memory");
	madvise(hva, r->size, MADV_DONTDUMP);
	return 0;
}

/* The caller saw to it that there is room, and maps it. */
static struct mem_region *add_region(struct mem *m, u64 gpa, u64 size)
{
	struct mem_region *r = &m->regions[m->nr_regions];

	*r = (struct mem_region){.gpa = gpa, .size = size, .slot = m->nr_regions, .first_page = m->nr_pages};
	m->nr_regions++;
	m->nr_pages += size >> MEM_PAGE_SHIFT;
	return r;
}

/* An adopted memfd has its size. */
static int set_size(const struct mem *m, u64 size, struct err *e)
{
	if (!m->adopted && ftruncate(m->fd, (off_t)size) < 0)
		return err_errno(e, "cannot size guest memory to %llu MiB", (unsigned long long)(size / MIB));
	return 0;
}

static int make_memfd(struct mem *m, struct err *e)
{
	u32 flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | (m->huge == MEM_HUGE_2M ? MFD_HUGETLB | MFD_HUGE_2MB : 0);

	m->fd = memfd_create("husk-guest-memory", flags);
	return m->fd < 0 ? err_errno(e, "cannot create guest memory%s", m->huge == MEM_HUGE_2M ? " in 2 MiB pages" : "") : 0;
}

static int map_ranges(struct mem *m, const struct mem_range *ranges, u32 nr, struct err *e)
{
	u64 offset = 0;
	int ret = 0;

	for (u32 i = 0; ret == 0 && i < nr; i++) {
		struct mem_region *r = add_region(m, ranges[i].gpa, ranges[i].size);

		r->fd_offset = offset;
		r->ram = true;
		ret = map_region(m, r, e);
		offset += r->size;
	}
	return ret;
}

int mem_adopt(struct mem *m, const struct mem_range *ranges, u32 nr, enum mem_huge huge, int fd, struct err *e)
{
	int ret;

	*m = (struct mem){.fd = fd, .adopted = fd >= 0, .huge = huge, .pagemap_fd = -1};
	pthread_mutex_init(&m->image_lock, NULL);
	ret = check_ranges(ranges, nr, huge, &m->size, e);
	if (ret == 0 && !m->adopted)
		ret = make_memfd(m, e);
	if (ret == 0)
		ret = set_size(m, m->size, e);
	if (ret == 0)
		ret = map_ranges(m, ranges, nr, e);
	if (ret < 0)
		mem_fini(m);
	return ret;
}

int mem_init(struct mem *m, const struct mem_range *ranges, u32 nr, enum mem_huge huge, struct err *e)
{
	return mem_adopt(m, ranges, nr, huge, -1, e);
}

int mem_add_hotplug(struct mem *m, u64 gpa, u64 size, struct err *e)
{
	const struct mem_range range = {gpa, size};
	const struct mem_region *last = &m->regions[m->nr_regions - 1];
	struct mem_region *r;
	u64 checked, total;
	int ret = check_ranges(&range, 1, m->huge, &checked, e);

	ASSERT(m->nr_regions < MEM_MAX_REGIONS && gpa >= last->gpa + last->size);
	if (ret < 0)
		return ret;
	if (__builtin_add_overflow(m->size, size, &total) || total > INT64_MAX)
		return err_set(e, -EINVAL, "guest memory is too large for this host");
	ret = set_size(m, total, e);
	if (ret < 0)
		return ret;
	r = add_region(m, gpa, size);
	r->fd_offset = m->size;
	m->size = total;
	return map_region(m, r, e);
}

u64 mem_ram_size(const struct mem *m)
{
	u64 size = 0;

	for (u32 i = 0; i < m->nr_regions; i++)
		size += m->regions[i].ram ? m->regions[i].size : 0;
	return size;
}

static int map_file(struct mem_region *r, int fd, u64 len, bool read_only, struct err *e)
{
	int flags = (read_only ? MAP_PRIVATE : MAP_SHARED) | MAP_NORESERVE | MAP_FIXED, ret = reserve_region(r, e);

	if (ret < 0)
		return ret;
	/* Zeroes first: they stay behind the file's end. */
	if (mmap(r->hva, r->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED ||
	    mmap(r->hva, len, PROT_READ | PROT_WRITE, flags, fd, 0) == MAP_FAILED)
		return err_errno(e, "cannot map it");
	madvise(r->hva, r->size, MADV_DONTDUMP);
	return 0;
}

int mem_add_file(struct mem *m, u64 gpa, u64 size, int fd, bool read_only, struct err *e)
{
	const struct mem_region *last = &m->regions[m->nr_regions - 1];
	off_t len = lseek(fd, 0, SEEK_END); /* of a block device, too */

	ASSERT(gpa % HUGE_2M == 0 && size % HUGE_2M == 0 && gpa >= last->gpa + last->size);
	if (len < 0)
		return err_errno(e, "cannot tell its size");
	if (m->nr_regions == MEM_MAX_REGIONS)
		return err_set(e, -ENOSPC, "a VM can have at most %d pieces of memory; take some out of the configuration",
			       MEM_MAX_REGIONS);
	struct mem_region *r = add_region(m, gpa, size);

	r->file = true;
	return map_file(r, fd, MIN((u64)len, size), read_only, e);
}

void mem_fini(struct mem *m)
{
	while (m->helpers) {
		struct mem_helper *h = m->helpers;

		m->helpers = h->next;
		h->end(h);
	}
	for (u32 i = 0; i < m->nr_regions; i++) {
		if (m->regions[i].hva)
			munmap(m->regions[i].hva, m->regions[i].size);
		free(m->regions[i].vmm_dirty);
	}
	for (u32 i = 0; i < m->nr_images; i++) {
		free(m->images[i].gone);
		fd_close(&m->images[i].fd);
	}
	if (m->size || m->adopted) {
		fd_close(&m->fd);
		fd_close(&m->pagemap_fd);
	}
	*m = (struct mem){.fd = -1, .pagemap_fd = -1};
}

void mem_add_helper(struct mem *m, struct mem_helper *h)
{
	h->next = m->helpers;
	m->helpers = h;
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

/* Lays whole pages of the file over the RAM at dst; returns whether that went. */
static bool map_image(struct mem *m, u64 gpa, u8 *dst, int fd, u64 offset, u64 len)
{
	struct stat st;
	int keep;

	if (m->nr_images == MEM_MAX_IMAGES || fstat(fd, &st) < 0)
		return false;
	keep = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (keep < 0)
		return false;
	if (mmap(dst, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, (off_t)offset) == MAP_FAILED) {
		fd_close(&keep);
		return false;
	}
	madvise(dst, len, MADV_DONTDUMP);
	mem_scan_open(m);
	m->images[m->nr_images++] = (struct mem_image){
		.gpa = gpa,
		.len = len,
		.fd = keep,
		.offset = offset,
		.dev = st.st_dev,
		.inode = st.st_ino,
		.gone = xzalloc((len / MEM_PAGE_SIZE + 63) / 64 * sizeof(u64)),
	};
	return true;
}

/* Boot images: as much of the file as can be mapped is; returns how many bytes. */
static u64 overlay_file(struct mem *m, u64 gpa, u8 *dst, int fd, u64 offset, u64 len)
{
	u64 whole = ALIGN_DOWN(len, MEM_PAGE_SIZE);

	if (m->share || m->huge != MEM_HUGE_NONE || (uintptr_t)dst % MEM_PAGE_SIZE || offset % MEM_PAGE_SIZE || !whole)
		return 0;
	return map_image(m, gpa, dst, fd, offset, whole) ? whole : 0;
}

static int read_file(u8 *dst, int fd, u64 offset, u64 len, struct err *e)
{
	for (u64 done = 0; done < len;) {
		ssize_t n = pread(fd, dst + done, len - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(e, "cannot read it");
		if (n == 0)
			return err_set(e, -EIO, "cannot read it to its end");
		done += (u64)n;
	}
	return 0;
}

static int check_length(int fd, u64 offset, u64 len, struct err *e)
{
	struct stat st;
	u64 end;

	if (fstat(fd, &st) < 0)
		return err_errno(e, "cannot read it");
	if (__builtin_add_overflow(offset, len, &end) || end > (u64)st.st_size)
		return err_set(e, -EIO, "cannot read it to its end");
	return 0;
}

int mem_load_file(struct mem *m, u64 gpa, int fd, u64 offset, u64 len, struct err *e)
{
	u8 *dst = mem_ptr(m, gpa, len);
	u64 done;
	int ret;

	if (!dst)
		return err_set(e, -EFAULT, "it does not fit into guest memory");
	ret = check_length(fd, offset, len, e);
	if (ret < 0)
		return ret;
	done = overlay_file(m, gpa, dst, fd, offset, len);
	ret = read_file(dst + done, fd, offset + done, len - done, e);
	if (ret == 0)
		mem_dirty(m, gpa, len);
	return ret;
}

int mem_overlay(struct mem *m, struct mem_region *r, int fd, u64 offset, bool copy, struct err *e)
{
	u64 end = offset + r->size;
	int ret = check_length(fd, offset, r->size, e);

	ASSERT(!r->file && offset % MEM_PAGE_SIZE == 0);
	if (ret < 0)
		return ret;
	if (!copy && !m->share && m->huge != MEM_HUGE_2M) {
		if (map_image(m, r->gpa, r->hva, fd, offset, r->size))
			return 0;
		return err_errno(e, "cannot map %llu MiB of it", (unsigned long long)(r->size / MIB));
	}
	for (u64 at = mem_file_data(fd, offset, end), next; ret == 0 && at < end; at = mem_file_data(fd, next, end)) {
		next = mem_file_hole(fd, at, end);
		ret = read_file(r->hva + (at - offset), fd, at, next - at, e);
	}
	return ret;
}

bool mem_is_backed_by(const struct mem *m, int fd)
{
	struct stat st;

	for (u32 i = 0; fstat(fd, &st) == 0 && i < m->nr_images; i++) {
		if (m->images[i].dev == st.st_dev && m->images[i].inode == st.st_ino)
			return true;
	}
	return false;
}

static void mark_dirty(struct mem *m, const struct mem_region *r, u64 offset, u64 len)
{
	u64 *bits = __atomic_load_n(&r->vmm_dirty, __ATOMIC_ACQUIRE);

	if (bits) {
		for (u64 page = offset >> MEM_PAGE_SHIFT; page <= (offset + len - 1) >> MEM_PAGE_SHIFT; page++)
			__atomic_fetch_or(&bits[page / 64], BIT(page % 64), __ATOMIC_RELEASE);
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

bool mem_gpa(const struct mem *m, const void *hva, u64 len, u64 *gpa)
{
	for (u32 i = 0; i < m->nr_regions; i++) {
		const struct mem_region *r = &m->regions[i];
		u64 offset = (u64)((uintptr_t)hva - (uintptr_t)r->hva);

		if (offset < r->size && len <= r->size - offset) {
			*gpa = r->gpa + offset;
			return true;
		}
	}
	return false;
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
		__atomic_store_n(&m->regions[i].vmm_dirty, maps[i], __ATOMIC_RELEASE);
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
