/* pager.c: compressed memory, page by page; see pager.h. */
#include "migration/pager.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "migration/mem_thread.h"
#include "migration/memfile_impl.h"
#include "migration/memfile_zip.h"
#include "migration/uffd.h"

/* Its thread never touches guest memory: nobody would bring it the page. */
struct pager {
	struct mem_thread thread;
	struct memzip zip;
	int fd, file; /* owned: userfaultfd, memory file */
	u64 *placed;  /* owned: one bit per chunk: what it has that is not zero is in memory */
	u64 *removed; /* owned: one bit per page that the guest gave up: zero, whatever the file says */
	u64 next;     /* chunk: all before are placed */
	u8 *data;     /* owned: a chunk */
	bool failed;  /* a chunk is damaged: the VM ends */
};

static bool test_bit(const u64 *bits, u64 n)
{
	return bits[n / 64] >> n % 64 & 1;
}

static void set_bit(u64 *bits, u64 n)
{
	bits[n / 64] |= BIT(n % 64);
}

static void wake(struct pager *p, u64 address, u64 len)
{
	struct uffdio_range range = {address, len};

	ioctl(p->fd, UFFDIO_WAKE, &range);
}

/* False: an event has to be read first, the rest of it comes later. */
static bool copy_pages(struct pager *p, u64 address, const u8 *data, u64 len)
{
	while (len) {
		struct uffdio_copy copy = {.dst = address, .src = (uintptr_t)data, .len = len};
		u64 done = len;

		if (ioctl(p->fd, UFFDIO_COPY, &copy) < 0) {
			done = copy.copy > 0 ? (u64)copy.copy : 0;
			if (!done && errno != EEXIST)
				return false;
			if (!done) { /* there already */
				done = MEM_PAGE_SIZE;
				wake(p, address, done);
			}
		}
		address += done;
		data += done;
		len -= done;
	}
	return true;
}

/* Does the page of the memory file come from the file? */
static bool wanted(const struct pager *p, const u8 *data, u64 offset)
{
	return !memfile_is_zero(data) && !test_bit(p->removed, offset / MEM_PAGE_SIZE);
}

/* Puts the chunk in p->data where it belongs. False: as copy_pages. */
static bool place(struct pager *p, u64 chunk)
{
	u64 offset = chunk * p->zip.header.chunk_bytes, len = memzip_chunk_bytes(&p->zip, chunk);

	for (u64 at = 0, end; at < len; at = end) {
		u64 room = len - at;
		u8 *hva = memfile_at(&p->thread.vm->mem, offset + at, &room);

		end = at + MEM_PAGE_SIZE;
		if (!wanted(p, p->data + at, offset + at))
			continue;
		while (end < at + room && wanted(p, p->data + end, offset + end))
			end += MEM_PAGE_SIZE;
		if (!copy_pages(p, (uintptr_t)hva, p->data + at, end - at))
			return false;
	}
	return true;
}

/* False: not now, or never (failed). */
static bool bring_chunk(struct pager *p, u64 chunk)
{
	struct vm *vm = p->thread.vm;
	struct err e;

	if (test_bit(p->placed, chunk))
		return true;
	if (p->zip.chunks[chunk].stored) {
		if (memzip_read(&p->zip, chunk, p->data, &e) < 0) {
			log_error(vm->log, "%s: the VM ends", e.msg);
			vm_end(vm, VM_END_INTERNAL);
			uffd_lose_missing(vm, p->fd);
			p->failed = true;
			return false;
		}
		if (!place(p, chunk))
			return false;
	}
	set_bit(p->placed, chunk);
	return true;
}

/* Offset in the memory file of a host address; UINT64_MAX: none. */
static u64 offset_of(const struct mem *m, u64 address)
{
	for (u32 i = 0; i < m->nr_regions; i++) {
		const struct mem_region *r = &m->regions[i];

		if (!r->file && address - (uintptr_t)r->hva < r->size)
			return r->fd_offset + (address - (uintptr_t)r->hva);
	}
	return UINT64_MAX;
}

/* Who waits is woken in any case: whoever does not find the page faults again. */
static void serve_fault(struct pager *p, u64 address)
{
	u64 offset = offset_of(&p->thread.vm->mem, address);
	struct uffdio_zeropage zero = {.range = {address, MEM_PAGE_SIZE}};

	if (offset == UINT64_MAX || p->failed)
		return;
	/* Zero is what the file has not, so that a page that is still missing is. */
	if (bring_chunk(p, offset / p->zip.header.chunk_bytes))
		ioctl(p->fd, UFFDIO_ZEROPAGE, &zero);
	wake(p, address, MEM_PAGE_SIZE);
}

static void note_removal(struct pager *p, u64 start, u64 end)
{
	u64 offset = offset_of(&p->thread.vm->mem, start);

	for (u64 at = 0; offset != UINT64_MAX && at < end - start; at += MEM_PAGE_SIZE)
		set_bit(p->removed, (offset + at) / MEM_PAGE_SIZE);
}

static void serve_events(struct pager *p)
{
	struct uffd_msg msgs[16];
	ssize_t n = read(p->fd, msgs, sizeof(msgs));

	for (ssize_t i = 0; i < n / (ssize_t)sizeof(*msgs); i++) {
		const struct uffd_msg *m = &msgs[i];

		if (m->event == UFFD_EVENT_PAGEFAULT)
			serve_fault(p, ALIGN_DOWN((u64)m->arg.pagefault.address, MEM_PAGE_SIZE));
		else if (m->event == UFFD_EVENT_REMOVE)
			note_removal(p, m->arg.remove.start, m->arg.remove.end);
	}
}

static void run(struct mem_thread *t)
{
	struct pager *p = container_of(t, struct pager, thread);
	struct pollfd events = {.fd = p->fd, .events = POLLIN};

	while (p->next < p->zip.header.nr_chunks || p->failed) {
		if (!mem_thread_poll(t, &events, 1, p->failed ? -1 : 0))
			return;
		if (events.revents)
			serve_events(p);
		else if (bring_chunk(p, p->next))
			p->next++;
	}
	/* What is missing now is zero. Whoever gives pages back at this moment waits for nobody any more. */
	uffd_unregister(t->vm, p->fd);
	fd_close(&p->fd);
	log_debug(t->vm->log, "all memory is unpacked");
}

static void free_pager(struct mem_thread *t)
{
	struct pager *p = container_of(t, struct pager, thread);

	memzip_close(&p->zip);
	fd_close(&p->fd);
	fd_close(&p->file);
	free(p->placed);
	free(p->removed);
	free(p->data);
	free(p);
}

static int init(struct pager *p, int fd, struct err *e)
{
	struct vm *vm = p->thread.vm;
	int ret;

	p->file = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (p->file < 0)
		return err_errno(e, "no descriptor");
	ret = memzip_open(&p->zip, p->file, vm->mem.size, e);
	if (ret < 0)
		return ret;
	p->placed = calloc((p->zip.header.nr_chunks + 63) / 64, sizeof(u64));
	p->removed = calloc((vm->mem.size / MEM_PAGE_SIZE + 63) / 64, sizeof(u64));
	if (!p->placed || !p->removed)
		return err_set(e, -ENOMEM, "no memory for the pager's bitmaps");
	p->data = xzalloc(MEMZIP_MAX_CHUNK);
	p->fd = uffd_open(e);
	ret = MIN(p->fd, 0);
	if (ret == 0)
		ret = uffd_register(vm, p->fd, e);
	return ret;
}

int pager_start(struct vm *vm, int fd, struct err *e)
{
	struct pager *p;
	int ret;

	/* Pages of 2 MiB come whole or not at all, and shared memory has other users. */
	if (vm->mem.huge == MEM_HUGE_2M || vm->mem.share)
		return err_set(e, -EOPNOTSUPP, "this memory cannot be unpacked page by page");
	p = xzalloc(sizeof(*p));
	p->fd = p->file = -1;
	mem_thread_init(&p->thread, vm, run, free_pager);
	ret = init(p, fd, e);
	vm->mem.own_pager = ret == 0;
	if (ret == 0)
		ret = mem_thread_start(&p->thread, e);
	if (ret < 0 && p->fd >= 0) {
		uffd_unregister(vm, p->fd);
		fd_close(&p->fd);
	}
	return ret;
}
