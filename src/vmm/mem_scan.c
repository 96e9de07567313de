/*
 * mem_scan.c: which pages of guest memory are there; see mem.h.
 *
 * The kernel tells by the PAGEMAP_SCAN request (Linux 6.7), by /proc/self/pagemap itself (64 bits per page), or, where there is no /proc,
 * by mincore, which takes the page cache's pages for present, too, but misses those that are swapped out.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "vmm/mem.h"

/* <linux/fs.h> of Linux 6.7; the build's headers may know less. */
struct scan_arg {
	u64 size, flags, start, end, walk_end, vec, vec_len, max_pages, inverted, mask, anyof, wanted;
};
struct scan_region {
	u64 start, end, categories;
};
#define SCAN_REQUEST _IOWR('f', 16, struct scan_arg)
#define SCAN_FILE    BIT(2)
#define SCAN_PRESENT BIT(3)
#define SCAN_SWAPPED BIT(4)

/* Documentation/admin-guide/mm/pagemap.rst */
#define ENTRY_FILE    BIT(61)
#define ENTRY_SWAPPED BIT(62)
#define ENTRY_PRESENT BIT(63)

#define BATCH 512u

/* Whoever opens it with CAP_SYS_ADMIN can read the host's physical addresses there, and the descriptor stays open in the sandbox: it is
 * opened without. */
void mem_scan_open(struct mem *m)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct old[_LINUX_CAPABILITY_U32S_3] = {0}, less[_LINUX_CAPABILITY_U32S_3];

	if (m->pagemap_fd >= 0 || syscall(SYS_capget, &head, old) < 0)
		return;
	less[0] = old[0];
	less[1] = old[1];
	less[CAP_SYS_ADMIN / 32].effective &= ~(1u << CAP_SYS_ADMIN % 32);
	if (syscall(SYS_capset, &head, less) < 0)
		return;
	m->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	ASSERT(syscall(SYS_capset, &head, old) == 0);
}

/* A list of runs that grows at its end. */
struct list {
	struct mem_run *runs;
	u32 nr, max;
};

/* False: the list is full. */
static bool add_run(struct list *l, u64 start, u64 end)
{
	if (l->nr && l->runs[l->nr - 1].end == start) {
		l->runs[l->nr - 1].end = end;
		return true;
	}
	if (l->nr == l->max)
		return false;
	l->runs[l->nr++] = (struct mem_run){start, end};
	return true;
}

static bool scan_by_request(const struct mem *m, const u8 *hva, enum mem_scan what, u64 start, u64 end, struct list *l, u64 *next)
{
	struct scan_region got[BATCH];
	struct scan_arg arg = {
		.size = sizeof(arg),
		.start = (uintptr_t)hva + start,
		.end = (uintptr_t)hva + end,
		.vec = (uintptr_t)got,
		.vec_len = MIN(l->max, BATCH),
		.inverted = what == MEM_SCAN_PRIVATE ? SCAN_FILE : 0,
		.mask = what == MEM_SCAN_PRIVATE ? SCAN_FILE : SCAN_PRESENT,
		.anyof = what == MEM_SCAN_PRIVATE ? SCAN_PRESENT | SCAN_SWAPPED : 0,
		.wanted = SCAN_PRESENT,
	};
	int n = ioctl(m->pagemap_fd, SCAN_REQUEST, &arg);

	if (n < 0)
		return false;
	for (int i = 0; i < n; i++)
		add_run(l, got[i].start - (uintptr_t)hva, got[i].end - (uintptr_t)hva);
	*next = arg.walk_end - (uintptr_t)hva;
	return true;
}

static bool entry_matches(u64 entry, enum mem_scan what)
{
	if (what == MEM_SCAN_PRESENT)
		return entry & ENTRY_PRESENT;
	return entry & (ENTRY_PRESENT | ENTRY_SWAPPED) && !(entry & ENTRY_FILE);
}

static bool scan_by_entries(const struct mem *m, const u8 *hva, enum mem_scan what, u64 start, u64 end, struct list *l, u64 *next)
{
	u64 entries[BATCH];

	for (u64 at = start, n; at < end; at += n * MEM_PAGE_SIZE) {
		off_t offset = (off_t)(((uintptr_t)hva + at) / MEM_PAGE_SIZE * sizeof(u64));
		ssize_t got;

		n = MIN((end - at) / MEM_PAGE_SIZE, BATCH);
		got = pread(m->pagemap_fd, entries, n * sizeof(u64), offset);
		if (got <= 0 || got % sizeof(u64))
			return false;
		n = (u64)got / sizeof(u64);
		for (u64 i = 0; i < n; i++) {
			u64 page = at + i * MEM_PAGE_SIZE;

			if (entry_matches(entries[i], what) && !add_run(l, page, page + MEM_PAGE_SIZE)) {
				*next = page;
				return true;
			}
		}
	}
	*next = end;
	return true;
}

static bool scan_by_mincore(u8 *hva, u64 start, u64 end, struct list *l, u64 *next)
{
	u8 there[BATCH];
	struct sysinfo info;

	if (sysinfo(&info) < 0 || info.totalswap)
		return false;
	for (u64 at = start, n; at < end; at += n * MEM_PAGE_SIZE) {
		n = MIN((end - at) / MEM_PAGE_SIZE, BATCH);
		if (mincore(hva + at, n * MEM_PAGE_SIZE, there) < 0)
			return false;
		for (u64 i = 0; i < n; i++) {
			u64 page = at + i * MEM_PAGE_SIZE;

			if (there[i] & 1 && !add_run(l, page, page + MEM_PAGE_SIZE)) {
				*next = page;
				return true;
			}
		}
	}
	*next = end;
	return true;
}

u32 mem_scan(const struct mem *m, const struct mem_region *r, enum mem_scan what, u64 start, u64 end, struct mem_run *runs, u32 max,
	     u64 *next)
{
	struct list l = {.runs = runs, .max = max};

	if (start >= end) {
		*next = end;
		return 0;
	}
	if (m->pagemap_fd >= 0 && scan_by_request(m, r->hva, what, start, end, &l, next))
		return l.nr;
	l.nr = 0;
	if (m->pagemap_fd >= 0 && scan_by_entries(m, r->hva, what, start, end, &l, next))
		return l.nr;
	l.nr = 0;
	if (scan_by_mincore(r->hva, start, end, &l, next))
		return l.nr;
	runs[0] = (struct mem_run){start, end};
	*next = end;
	return 1;
}

u64 mem_file_data(int fd, u64 at, u64 end)
{
	off_t got = at < end ? lseek(fd, (off_t)at, SEEK_DATA) : (off_t)end;

	if (got < 0)
		return errno == ENXIO ? end : at;
	return MIN((u64)got, end);
}

u64 mem_file_hole(int fd, u64 at, u64 end)
{
	off_t got = at < end ? lseek(fd, (off_t)at, SEEK_HOLE) : (off_t)end;

	return got < 0 ? end : MIN((u64)got, end);
}
