/*
 * mem_share.c: guest memory that another husk of this host goes on with: the memfd, adopted, and what is not in it; see mem.h.
 *
 * Pages of images (mem_image) are private to the process that mapped them: below them the memfd has nothing that the guest knows of.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "vmm/mem.h"

#define SIZE_SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

/* ---- adopted ---- */

/* Descriptors of somebody else's: only what such a memfd is can be guest memory here, since what shrinks under us would be a SIGBUS. */
static int check_adopted(const struct mem *m, struct err *e)
{
	u64 page = m->huge == MEM_HUGE_2M ? 2 * MIB : MEM_PAGE_SIZE;
	int seals = fcntl(m->fd, F_GET_SEALS);
	struct statfs fs;
	struct stat st;

	if (fstat(m->fd, &st) < 0 || fstatfs(m->fd, &fs) < 0)
		return err_errno(e, "guest memory's descriptor cannot be looked at");
	if (seals < 0 || !S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "the descriptor that came as guest memory is no memfd");
	if ((u64)fs.f_bsize != page)
		return err_set(e, -EINVAL, "the guest memory that came is made of pages of %llu KiB, and the configuration wants %llu KiB",
			       (unsigned long long)fs.f_bsize / KIB, (unsigned long long)(page / KIB));
	if ((u64)st.st_size != m->size)
		return err_set(e, -EINVAL, "the guest memory that came has %llu bytes, and the configuration wants %llu",
			       (unsigned long long)st.st_size, (unsigned long long)m->size);
	if ((seals & SIZE_SEALS) != SIZE_SEALS)
		return err_set(e, -EINVAL, "the guest memory that came is not sealed: its size could change under the guest");
	return 0;
}

int mem_seal(struct mem *m, struct err *e)
{
	if (m->adopted)
		return check_adopted(m, e);
	return fcntl(m->fd, F_ADD_SEALS, SIZE_SEALS) < 0 ? err_errno(e, "the size of guest memory cannot be sealed") : 0;
}

/* ---- what the memfd has not ---- */

void mem_set_moving(struct mem *m, bool moving)
{
	pthread_mutex_lock(&m->image_lock);
	__atomic_store_n(&m->moving, moving, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&m->image_lock);
}

static bool is_private(const struct mem_image *img, u64 page)
{
	return !(img->gone[page / 64] >> page % 64 & 1);
}

void mem_image_pages(struct mem *m, const struct mem_region *r, u64 *bitmap)
{
	memset(bitmap, 0, mem_bitmap_words(r) * sizeof(u64));
	pthread_mutex_lock(&m->image_lock);
	for (u32 i = 0; i < m->nr_images; i++) {
		const struct mem_image *img = &m->images[i];
		u64 first = (img->gpa - r->gpa) >> MEM_PAGE_SHIFT;

		if (img->gpa - r->gpa >= r->size)
			continue;
		for (u64 page = 0; page < img->len >> MEM_PAGE_SHIFT; page++)
			bitmap[(first + page) / 64] |= is_private(img, page) ? BIT((first + page) % 64) : 0;
	}
	pthread_mutex_unlock(&m->image_lock);
}

static int clear_below(struct mem *m, const struct mem_image *img, struct err *e)
{
	const struct mem_region *r = mem_find(m, img->gpa, img->len);
	u64 nr = img->len >> MEM_PAGE_SHIFT, end;

	for (u64 page = 0; page < nr; page = end + 1) {
		u64 at = r->fd_offset + (img->gpa - r->gpa) + page * MEM_PAGE_SIZE;

		for (end = page; end < nr && is_private(img, end);)
			end++;
		if (end > page &&
		    fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)((end - page) * MEM_PAGE_SIZE)) < 0)
			return err_errno(e, "the host does not take guest memory back");
	}
	return 0;
}

int mem_clear_below_images(struct mem *m, struct err *e)
{
	int ret = 0;

	pthread_mutex_lock(&m->image_lock);
	for (u32 i = 0; ret == 0 && i < m->nr_images; i++)
		ret = clear_below(m, &m->images[i], e);
	pthread_mutex_unlock(&m->image_lock);
	return ret;
}

/* ---- given away ---- */

void mem_let_go(struct mem *m)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;

	for (u32 i = 0; i < m->nr_regions; i++) {
		const struct mem_region *r = &m->regions[i];
		void *at = r->file ? r->hva : mmap(r->hva, r->size, PROT_READ | PROT_WRITE, flags, -1, 0);

		ASSERT(at == r->hva);
	}
}
