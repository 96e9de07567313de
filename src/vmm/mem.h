/*
 * mem.h: guest memory. All of it is one memfd, mapped shared, so that it can be handed to another process (vhost-user, clones, live
 * upgrade).
 *
 *   guest physical          memfd offset                  host virtual
 *   [0, hole)        <->    [0, hole)              <->    region[0].hva
 *   [4 GiB, ...)     <->    [hole, RAM)            <->    region[1].hva
 *   above            <->    [RAM, size)            <->    region[n].hva     memory that the guest may plug in (mem_add_hotplug)
 *   boot images in it: private mappings of their files (mem_load_file)
 *   above all RAM     <->    none: a file's pages  <->    region[n].hva     virtio-pmem (mem_add_file)
 *
 * Nothing is allocated ahead: a page costs host memory when it is first touched.
 * Guest memory is reached only through mem_ptr, mem_read and mem_write: they check the whole range against the regions, and wait for what
 * is still to be fetched (struct mem_fetch). The memory behind a pointer is shared with running vCPUs: copy a structure out once (mem_read)
 * before looking at it, never look twice. Whoever lets a device write guest memory calls mem_dirty (mem_write does) after the bytes are
 * there: it feeds the one dirty bitmap that snapshots and migration read (beside the accelerator's log), and tells the accelerator about
 * changed code.
 */
#ifndef HUSK_MEM_H
#define HUSK_MEM_H

#include <pthread.h>

#include "vmm/base/err.h"

#define MEM_PAGE_SHIFT	12
#define MEM_PAGE_SIZE	(1ull << MEM_PAGE_SHIFT)
#define MEM_MAX_REGIONS 32
#define MEM_MAX_IMAGES	(MEM_MAX_REGIONS + 4) /* files that lie over the RAM */

enum mem_huge { MEM_HUGE_NONE, MEM_HUGE_TRANSPARENT, MEM_HUGE_2M };

struct mem_region {
	u64 gpa;	/* start, page-aligned */
	u64 size;	/* bytes, multiple of a page */
	u64 fd_offset;	/* of its first byte in mem->fd; not when file is set */
	u64 first_page; /* pages of all regions before it: for tables with one entry per page of guest memory */
	u8 *hva;	/* host mapping, 2 MiB-aligned */
	u32 slot;	/* index in mem->regions, and KVM's slot number */
	u64 *vmm_dirty; /* owned; one bit per page that husk itself wrote; NULL while tracking is off; atomic words */
	bool ram;	/* there from the start: in the memory map that the guest's kernel gets */
	/* Pages of a file, not of the memfd (mem_add_file). The file keeps what the guest writes, so snapshots and migration leave the
	 * region out, its dirty pages too; nobody discards pages of it, and nobody maps it through the memfd. */
	bool file;
};

/* A file that mem_load_file or mem_overlay has mapped over the RAM, private: whole pages, in one region. */
struct mem_image {
	u64 gpa, len;
	int fd;		/* owned: tells where the file has data */
	u64 offset;	/* of its first byte in the file */
	u64 dev, inode; /* which file that is */
	u64 *gone;	/* owned; one bit per page that was discarded: there the memfd shows again */
};

/* Something that works on the memory beside the VM: a pager, a prefetch. mem_fini ends it, while everything is still mapped. */
struct mem_helper {
	void (*end)(struct mem_helper *h); /* ctx: the thread that calls mem_fini */
	const char *const *syscalls;	   /* what the loop thread asks of the kernel for it (sandbox.h); may be NULL */
	const u32 *ioctls;
	struct mem_helper *next;
};

/*
 * Brings pages that are not there yet where no userfaultfd does: for accelerators that ask before guest code touches one
 * (accel_ops.soft_fetch). A page comes once: it is missing from before the guest runs until its bytes are there or it was discarded, and
 * never again. The owner keeps this until mem_fini: who has seen mem->fetch may still look at it after it is NULL.
 */
struct mem_fetch {
	/* By region slot: a bit for each page of 1 << page_shift bytes that is not there; NULL: all of the region is. Atomic words; cleared
	 * (release) when the bytes are there. */
	const u64 *missing[MEM_MAX_REGIONS];
	u32 page_shift; /* MEM_PAGE_SHIFT, or 21 */
	/*
	 * Returns when the 4 KiB pages [first, first + nr) of the region are there, which may take as long as the network does. stop, when
	 * it is not NULL: comes back sooner when that is not 0; looked at 20 times a second at least, atomic. Neither this nor the threads
	 * that bring the pages may need a lock of husk's, the loop or a vCPU: the caller may be the loop, and may hold a device's lock.
	 * ctx: any thread that touches guest memory
	 */
	void (*wait)(void *opaque, const struct mem_region *r, u64 first, u64 nr, const u32 *stop);
	/* These are given back: zero from now on, and nobody brings them any more when it returns. ctx: any */
	void (*discard)(void *opaque, const struct mem_region *r, u64 first, u64 nr);
	void *opaque;
};

struct mem {
	int fd;	      /* owned memfd, or -1 */
	bool adopted; /* it was another husk's */
	u64 size;     /* of the memfd: RAM, and what the guest may plug in */
	enum mem_huge huge;
	/* Another process maps the memfd (vhost-user): every byte of RAM must be in it, so mem_load_file copies. Set by devices in create.
	 */
	bool share;
	u32 nr_regions;
	u64 nr_pages;				    /* of all regions */
	struct mem_region regions[MEM_MAX_REGIONS]; /* by ascending gpa; regions are only added, before start */
	struct mem_image images[MEM_MAX_IMAGES];
	u32 nr_images, nr_uncovered; /* under image_lock: mappings that mem_discard has put back */
	int pagemap_fd;		     /* owned: /proc/self/pagemap, for mem_scan; -1: no image, or no /proc */
	/* Pages that are not there are not zero, somebody has to fetch them (userfaultfd): whoever touches one waits for it, and
	 * mem_discard tells whoever fetches. Atomic: becomes false when the last page is there. */
	bool lazy;
	const struct mem_fetch *fetch; /* borrowed; NULL: all is there. Atomic, becomes NULL when the last page is there */
	bool own_pager;		       /* lazy, and this process fetches: it brings everything by itself, and fast */
	bool lost;		       /* atomic: pages cannot be fetched any more, and whoever touches one gets SIGSEGV; the VM ends */
	/* A copy is being made elsewhere, so that mem_discard marks what it drops dirty, and images stay where they are. Atomic, changed by
	 * mem_set_moving */
	bool moving;
	struct mem_helper *helpers; /* last added first */
	pthread_mutex_t image_lock;
	/* Set by an accelerator that keeps translated code: told of each write that did not come from a vCPU. ctx: any */
	void (*on_write)(void *opaque, u64 gpa, u64 len);
	void *on_write_opaque;
};

struct mem_range { /* what the machine wants where */
	u64 gpa, size;
};

/* Makes the memfd and maps it. -EINVAL for sizes that are not whole (huge) pages, -ENOMEM when the host cannot map that much. */
int mem_init(struct mem *m, const struct mem_range *ranges, u32 nr, enum mem_huge huge, struct err *e) MUST_CHECK;
void mem_fini(struct mem *m); /* accepts zeroed */

/* ---- mem_share.c: memory that another husk of this host goes on with ---- */

/* As mem_init, on a memfd that was another husk's (owned from now on, also on failure; -1: a new one, as mem_init). It is not looked at
 * before mem_seal, and nobody may touch the memory before that. */
int mem_adopt(struct mem *m, const struct mem_range *ranges, u32 nr, enum mem_huge huge, int fd, struct err *e) MUST_CHECK;
/* All regions of the memfd are there: its size is sealed, so that whoever it is passed to can rely on that. An adopted one has to be
 * sealed, of pages of this kind and exactly this size: -EINVAL. ctx: before start */
int mem_seal(struct mem *m, struct err *e) MUST_CHECK;
/* Sets `moving`; from then until it is false again mem_image_pages tells the same. ctx: any */
void mem_set_moving(struct mem *m, bool moving);
/* The pages of r that an image has and the memfd has not: private to this process. bitmap: mem_bitmap_words. ctx: any */
void mem_image_pages(struct mem *m, const struct mem_region *r, u64 *bitmap);
/* Frees what the memfd has where mem_image_pages tells of another page: nobody here sees it. ctx: any, while `moving` */
int mem_clear_below_images(struct mem *m, struct err *e) MUST_CHECK;
/* The memfd's pages are another husk's: from now on there are empty ones of this process only. ctx: any, the vCPUs never run again */
void mem_let_go(struct mem *m);

/* The region that holds [gpa, gpa + len) whole, or NULL. len 0 needs gpa inside a region. Inline: for code that must not touch vector
 * registers as well (src/tcg). ctx: any */
static inline const struct mem_region *mem_find(const struct mem *m, u64 gpa, u64 len)
{
	for (u32 i = 0; i < m->nr_regions; i++) {
		const struct mem_region *r = &m->regions[i];
		u64 offset = gpa - r->gpa; /* wraps to a huge value below the region */

		if (offset < r->size)
			return len <= r->size - offset ? r : NULL;
	}
	return NULL;
}

/* The same as a host address, without waiting for pages that are not there: for who knows that they are, or does not look. ctx: any */
static inline void *mem_at(const struct mem *m, u64 gpa, u64 len)
{
	const struct mem_region *r = mem_find(m, gpa, len);

	return r ? r->hva + (gpa - r->gpa) : NULL;
}

static inline const struct mem_fetch *mem_fetch(const struct mem *m)
{
	return __atomic_load_n(&m->fetch, __ATOMIC_ACQUIRE);
}

/* Whether the page (4 KiB, of the region) is still to be fetched. */
static inline bool mem_fetch_misses(const struct mem_fetch *f, const struct mem_region *r, u64 page)
{
	const u64 *missing = f->missing[r->slot];
	u64 bit = page >> (f->page_shift - MEM_PAGE_SHIFT);

	return missing && __atomic_load_n(&missing[bit / 64], __ATOMIC_ACQUIRE) >> bit % 64 & 1;
}

/* mem_fetch.c: waits for [offset, offset + len) of the region. stop: see struct mem_fetch. ctx: any */
void mem_await(const struct mem *m, const struct mem_region *r, u64 offset, u64 len, const u32 *stop);

/* Host address of [gpa, gpa + len), or NULL when any byte of it is not RAM of one region. Waits until all of it is there. ctx: any */
static inline void *mem_ptr(const struct mem *m, u64 gpa, u64 len)
{
	const struct mem_region *r = mem_find(m, gpa, len);

	if (!r)
		return NULL;
	if (unlikely(mem_fetch(m)))
		mem_await(m, r, gpa - r->gpa, len, NULL);
	return r->hva + (gpa - r->gpa);
}

/* Copies; 0 or -EFAULT with nothing copied. mem_write marks the pages dirty. ctx: any */
int mem_read(const struct mem *m, u64 gpa, void *dst, u64 len) MUST_CHECK;
int mem_write(struct mem *m, u64 gpa, const void *src, u64 len) MUST_CHECK;

/*
 * Puts len bytes of the file at gpa, before start. Nothing is copied where page boundaries agree: the file is mapped over the RAM, private,
 * so that boot images cost no memory until the guest writes there, and VMs share them. Two things follow: the file must keep its length
 * while the VM lives (a rename over it is fine), and the memfd does not hold these pages: who shares the memfd or discards pages of it has
 * to copy them into it first. With huge pages, and for what is not page-aligned, bytes are read. Errors: -EFAULT outside RAM, -EIO short.
 */
int mem_load_file(struct mem *m, u64 gpa, int fd, u64 offset, u64 len, struct err *e) MUST_CHECK;

/*
 * Maps the file from offset (whole pages) private over all of the region, for a restored VM: costs the same whatever the size. Where the
 * memfd must hold the bytes (share, 2 MiB pages), or when copy is wanted, what the file has there is read instead. The file must not change
 * while the VM lives. Marks nothing dirty, tells nobody. -EIO: the file is shorter. ctx: before the accelerator knows the region
 */
int mem_overlay(struct mem *m, struct mem_region *r, int fd, u64 offset, bool copy, struct err *e) MUST_CHECK;
/* Whether this file lies under guest memory: writing to it would change the guest. */
bool mem_is_backed_by(const struct mem *m, int fd);
void mem_add_helper(struct mem *m, struct mem_helper *h);
static inline bool mem_is_lazy(const struct mem *m)
{
	return __atomic_load_n(&m->lazy, __ATOMIC_ACQUIRE);
}

/* ---- mem_scan.c: which pages are there ---- */

struct mem_run { /* bytes of whole pages */
	u64 start, end;
};

enum mem_scan {
	MEM_SCAN_PRIVATE, /* of a private mapping: those that were written, no longer the file's */
	MEM_SCAN_PRESENT, /* in this process's page tables, so that it, a vCPU or a device has touched them (or a neighbour: fault-around)
			   */
};

/*
 * Runs of such pages in [start, end) of region r (bytes from its first), ascending, into runs[max]; returns how many, and in *next where to
 * go on (end: all was seen). What this host cannot tell counts as such a page. ctx: any
 */
u32 mem_scan(const struct mem *m, const struct mem_region *r, enum mem_scan what, u64 start, u64 end, struct mem_run *runs, u32 max,
	     u64 *next);
/* Opens what mem_scan asks, which the sandbox would forbid later. Without it (no /proc in a jail) other ways are tried. */
void mem_scan_open(struct mem *m);
/* Next data, or hole, of a file at or behind `at`, as lseek(SEEK_DATA) and SEEK_HOLE say; end when there is none before it. Files that know
 * no holes are all data. */
u64 mem_file_data(int fd, u64 at, u64 end);
u64 mem_file_hole(int fd, u64 at, u64 end);

/* Adds a region of memory that the guest may plug in: zero pages of the memfd, which grows. gpa lies above all regions. Errors as
 * mem_init's; the accelerator is told by the caller. ctx: before the first vCPU is made */
int mem_add_hotplug(struct mem *m, u64 gpa, u64 size, struct err *e) MUST_CHECK;

/* Bytes of the guest's memory at start. */
u64 mem_ram_size(const struct mem *m);

/*
 * Gives the memory behind [gpa, gpa + len) (whole pages) back to the host; it reads as zeroes after. The guest gave the pages up (balloon,
 * virtio-mem), so nothing is marked dirty (but while it is `moving`), and translated code is dropped. Of 2 MiB pages only whole ones go
 * back: what the range has of others keeps its content. -EFAULT with nothing done when any of it is outside of the memfd; other errors are
 * the host's. It takes the host some 0.2 us per page that was in use. ctx: any
 */
int mem_discard(struct mem *m, u64 gpa, u64 len, struct err *e) MUST_CHECK;

/*
 * Adds a region that is a file's pages (virtio-pmem): shared, or private when read_only (guest writes stay in this VM, and are lost with
 * it). gpa and size are multiples of 2 MiB, gpa behind all regions so far; bytes behind the file's end read as zeroes, and what is written
 * there is lost with the VM. The file must keep its length while the VM lives. fd is not needed afterwards. The accelerator is told by the
 * caller. -ENOSPC: too many regions; others are the host's. ctx: before start
 */
int mem_add_file(struct mem *m, u64 gpa, u64 size, int fd, bool read_only, struct err *e) MUST_CHECK;

/* Guest physical address of len bytes at a host address, as a virtqueue's iovecs have them. False outside of all regions. ctx: any */
bool mem_gpa(const struct mem *m, const void *hva, u64 len, u64 *gpa) MUST_CHECK;

/* Says that husk wrote [gpa, gpa + len); ranges outside RAM are ignored. ctx: any */
void mem_dirty(struct mem *m, u64 gpa, u64 len);
/* The same for a host address inside a region (an iovec that a backend filled). ctx: any */
void mem_dirty_hva(struct mem *m, const void *hva, u64 len);

/* Switches the record of husk's own writes on (cleared) or off. ctx: vCPUs and devices paused, or before start; on, when it is off: loop */
int mem_track(struct mem *m, bool on, struct err *e) MUST_CHECK;
/* ORs the record of region r into bitmap (r->size / page bits, u64 words) and clears it. ctx: any */
void mem_track_collect(struct mem_region *r, u64 *bitmap);
static inline u64 mem_bitmap_words(const struct mem_region *r)
{
	return ((r->size >> MEM_PAGE_SHIFT) + 63) / 64;
}

#endif
