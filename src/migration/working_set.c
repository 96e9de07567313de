/* working_set.c: which pages a restored VM touches first; see working_set.h. */
#include "migration/working_set.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "migration/exact_faults.h"
#include "migration/mem_thread.h"
#include "migration/memfile_impl.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif

#define VERSION	   1u
#define ENTRY_SIZE 8u
#define GAP	   (32 * KIB)  /* ranges that are closer are one: a read costs more than what is between */
#define READ_AHEAD (128 * KIB) /* what the kernel takes of one request without a doubt */
#define BATCH	   256u

/* ---- the file ---- */

static u32 checksum(const u8 *bytes, u64 len)
{
	u32 crc = (u32)crc32_z(0, bytes, 32);

	return (u32)crc32_z(crc, bytes + 36, len - 36);
}

int working_set_write(int fd, u64 memory_id, u64 memory_bytes, const struct mem_run *runs, u32 nr)
{
	u64 len = WORKING_SET_HEADER + (u64)nr * ENTRY_SIZE;
	auto_free u8 *b = calloc(1, len);

	if (!b)
		return -ENOMEM;
	memcpy(b, WORKING_SET_MAGIC, 8);
	st_le32(b + 8, VERSION);
	st_le32(b + 12, nr);
	st_le64(b + 16, memory_id);
	st_le64(b + 24, memory_bytes);
	for (u32 i = 0; i < nr; i++) {
		st_le32(b + WORKING_SET_HEADER + i * ENTRY_SIZE, (u32)(runs[i].start / MEM_PAGE_SIZE));
		st_le32(b + WORKING_SET_HEADER + i * ENTRY_SIZE + 4, (u32)((runs[i].end - runs[i].start) / MEM_PAGE_SIZE));
	}
	st_le32(b + 32, checksum(b, len));
	return memfile_pwrite(fd, b, len, 0);
}

static int check_head(const u8 *b, u64 len, u64 memory_id, u64 memory_bytes, struct err *e)
{
	if (len < WORKING_SET_HEADER || memcmp(b, WORKING_SET_MAGIC, 8) != 0)
		return err_set(e, -EINVAL, "it is no list of pages%s", len ? "" : ": it is empty, its recording did not come to an end");
	if (ld_le32(b + 8) != VERSION)
		return err_set(e, -EINVAL, "it has version %u; this husk reads version %u", ld_le32(b + 8), VERSION);
	if (len != WORKING_SET_HEADER + (u64)ld_le32(b + 12) * ENTRY_SIZE || ld_le32(b + 32) != checksum(b, len))
		return err_set(e, -EINVAL, "it is damaged");
	if (ld_le64(b + 16) != memory_id || ld_le64(b + 24) != memory_bytes)
		return err_set(e, -EINVAL, "it was recorded with another snapshot");
	return 0;
}

static int take_ranges(const u8 *b, u64 memory_bytes, struct mem_run *runs, u32 nr, struct err *e)
{
	u64 at = 0;

	for (u32 i = 0; i < nr; i++) {
		const u8 *entry = b + WORKING_SET_HEADER + i * ENTRY_SIZE;

		runs[i].start = ld_le32(entry) * MEM_PAGE_SIZE;
		runs[i].end = runs[i].start + ld_le32(entry + 4) * MEM_PAGE_SIZE;
		if (runs[i].start < at || runs[i].end <= runs[i].start || runs[i].end > memory_bytes)
			return err_set(e, -EINVAL, "its range %u is not in order", i);
		at = runs[i].end;
	}
	return 0;
}

int working_set_read(int fd, u64 memory_id, u64 memory_bytes, struct mem_run **out, u32 *nr, struct err *e)
{
	u64 most = WORKING_SET_HEADER + memory_bytes / MEM_PAGE_SIZE * ENTRY_SIZE;
	auto_free u8 *b = NULL;
	struct stat st;
	int ret;

	*out = NULL;
	*nr = 0;
	if (fstat(fd, &st) < 0)
		return err_errno(e, "cannot read it");
	if (!S_ISREG(st.st_mode) || (u64)st.st_size > most)
		return err_set(e, -EINVAL, "it is no list of pages of this snapshot");
	b = malloc((size_t)st.st_size + 1);
	if (!b)
		return err_set(e, -ENOMEM, "no memory for it");
	ret = memfile_pread(fd, b, (u64)st.st_size, 0);
	if (ret < 0)
		return err_set(e, ret, "cannot read it: %s", strerror(-ret));
	ret = check_head(b, (u64)st.st_size, memory_id, memory_bytes, e);
	if (ret < 0)
		return ret;
	*nr = ld_le32(b + 12);
	*out = xzalloc(((u64)*nr + 1) * sizeof(**out));
	ret = take_ranges(b, memory_bytes, *out, *nr, e);
	if (ret < 0) {
		free(*out);
		*out = NULL;
	}
	return ret;
}

/* ---- record ---- */

struct recording {
	struct mem_thread thread;
	struct exact_faults exact;
	char *path; /* owned, for messages */
	int fd;	    /* owned */
	u64 memory_id;
	u32 seconds;
	struct mem_run *runs; /* owned: in bytes of the memory file */
	u32 nr, max;
};

static void add_run(struct recording *rec, u64 start, u64 end)
{
	if (rec->nr && start - rec->runs[rec->nr - 1].end <= GAP) {
		rec->runs[rec->nr - 1].end = end;
		return;
	}
	if (rec->nr == rec->max) {
		rec->max = MAX(2 * rec->max, BATCH);
		rec->runs = realloc(rec->runs, rec->max * sizeof(*rec->runs));
		ASSERT(rec->runs);
	}
	rec->runs[rec->nr++] = (struct mem_run){start, end};
}

/* Of pages that the file has no data for nothing can be read ahead. offset: of the image's first byte in the region. */
static void add_data(struct recording *rec, const struct mem_image *img, u64 offset, const struct mem_run *run)
{
	u64 at = img->offset + run->start - offset, end = img->offset + run->end - offset, data;

	for (; (data = mem_file_data(img->fd, at, end)) < end; at = mem_file_hole(img->fd, data, end))
		add_run(rec, ALIGN_DOWN(data, MEM_PAGE_SIZE), ALIGN_UP(mem_file_hole(img->fd, data, end), MEM_PAGE_SIZE));
}

static void scan_image(struct recording *rec, const struct mem *m, const struct mem_image *img)
{
	const struct mem_region *r = mem_find(m, img->gpa, img->len);
	u64 offset = img->gpa - r->gpa, next;
	struct mem_run runs[BATCH];

	for (u64 at = offset; at < offset + img->len; at = next) {
		u32 n = mem_scan(m, r, MEM_SCAN_PRESENT, at, offset + img->len, runs, BATCH, &next);

		for (u32 i = 0; i < n; i++)
			add_data(rec, img, offset, &runs[i]);
	}
}

static void finish_recording(struct recording *rec)
{
	const struct mem *m = &rec->thread.vm->mem;
	u64 pages = 0;
	int ret;

	for (u32 i = 0; i < m->nr_images; i++)
		scan_image(rec, m, &m->images[i]);
	exact_faults_end(&rec->exact, m);
	for (u32 i = 0; i < rec->nr; i++)
		pages += (rec->runs[i].end - rec->runs[i].start) / MEM_PAGE_SIZE;
	ret = working_set_write(rec->fd, rec->memory_id, m->size, rec->runs, rec->nr);
	if (ret < 0)
		log_error(rec->thread.vm->log, "the working set \"%s\" was not recorded: %s", rec->path, strerror(-ret));
	else
		log_info(rec->thread.vm->log, "working set \"%s\": %llu MiB in %u ranges", rec->path,
			 (unsigned long long)(pages * MEM_PAGE_SIZE / MIB), rec->nr);
	fd_close(&rec->fd);
}

static void record(struct mem_thread *t)
{
	struct recording *rec = container_of(t, struct recording, thread);
	bool go_on = true;

	while (go_on && !__atomic_load_n(&t->vm->want_run, __ATOMIC_RELAXED))
		go_on = mem_thread_poll(t, NULL, 0, 10);
	if (go_on)
		mem_thread_poll(t, NULL, 0, (int)MIN(rec->seconds, 1000000u) * 1000);
	finish_recording(rec);
}

static void free_recording(struct mem_thread *t)
{
	struct recording *rec = container_of(t, struct recording, thread);

	exact_faults_end(&rec->exact, &t->vm->mem);
	fd_close(&rec->fd);
	free(rec->runs);
	free(rec->path);
	free(rec);
}

static int check_mapped(const struct vm *vm, struct err *e)
{
	if (vm->mem.nr_images)
		return 0;
	return err_set(e, -EINVAL, "the memory is not mapped from a plain file (compressed, read eagerly, 2 MiB pages, or from a pager)");
}

int working_set_record(struct vm *vm, const char *path, u64 memory_id, u32 seconds, struct err *e)
{
	struct recording *rec;
	int ret = check_mapped(vm, e);

	if (ret < 0)
		return ret;
	rec = xzalloc(sizeof(*rec));
	*rec = (struct recording){.memory_id = memory_id, .seconds = seconds, .path = xstrdup(path), .exact.fd = -1};
	mem_thread_init(&rec->thread, vm, record, free_recording);
	rec->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
	if (rec->fd < 0)
		return err_errno(e, "cannot make it");
	exact_faults_begin(&rec->exact, &vm->mem);
	return mem_thread_start(&rec->thread, e);
}

/* ---- prefetch ---- */

struct prefetch {
	struct mem_thread thread;
	int fd;		      /* owned: the memory file */
	struct mem_run *runs; /* owned */
	u32 nr;
};

/* Into the page cache: nothing waits here, so that the disk has all of it to do at once. */
static bool read_ahead(struct prefetch *p)
{
	for (u32 i = 0; i < p->nr; i++) {
		for (u64 at = p->runs[i].start; at < p->runs[i].end; at += READ_AHEAD)
			readahead(p->fd, (off_t)at, MIN(READ_AHEAD, p->runs[i].end - at));
		if (!mem_thread_poll(&p->thread, NULL, 0, 0))
			return false;
	}
	return true;
}

/* Into the page tables, as it arrives. */
static void populate(struct prefetch *p)
{
	for (u32 i = 0; i < p->nr; i++) {
		for (u64 at = p->runs[i].start, len; at < p->runs[i].end; at += len) {
			u8 *hva;

			len = MIN(p->runs[i].end - at, MEMFILE_PIECE);
			hva = memfile_at(&p->thread.vm->mem, at, &len);
			if (madvise(hva, len, MADV_POPULATE_READ) < 0 && errno == EINVAL)
				return;
			if (!mem_thread_poll(&p->thread, NULL, 0, 0))
				return;
		}
	}
}

/* What the guest touches before it was read is to cost one page's read then, not the neighbourhood's. */
static void advise(const struct mem *m, int advice)
{
	for (u32 i = 0; i < m->nr_images; i++)
		madvise(mem_ptr(m, m->images[i].gpa, m->images[i].len), m->images[i].len, advice);
}

static void prefetch(struct mem_thread *t)
{
	struct prefetch *p = container_of(t, struct prefetch, thread);
	bool go_on = read_ahead(p);

	advise(&t->vm->mem, MADV_NORMAL);
	if (go_on)
		populate(p);
	fd_close(&p->fd);
}

static void free_prefetch(struct mem_thread *t)
{
	struct prefetch *p = container_of(t, struct prefetch, thread);

	fd_close(&p->fd);
	free(p->runs);
	free(p);
}

int working_set_prefetch(struct vm *vm, const char *path, u64 memory_id, int fd, struct err *e)
{
	auto_fd int list = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct prefetch *p;
	int ret = check_mapped(vm, e);

	if (ret == 0 && list < 0)
		ret = err_errno(e, "cannot open it");
	if (ret < 0)
		return ret;
	p = xzalloc(sizeof(*p));
	p->fd = -1;
	mem_thread_init(&p->thread, vm, prefetch, free_prefetch);
	ret = working_set_read(list, memory_id, vm->mem.size, &p->runs, &p->nr, e);
	if (ret == 0) {
		advise(&vm->mem, MADV_RANDOM);
		p->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		ret = p->fd < 0 ? err_errno(e, "no descriptor") : mem_thread_start(&p->thread, e);
	}
	return ret;
}
