/* uffd.c: guest memory from an external pager; see uffd.h. */
#include "migration/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "migration/mem_thread.h"

/* Linux 6.1: /dev/userfaultfd; older headers have it not. */
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

/* The connection has ended and its process lives: so many seconds faults may wait before that means that nobody reads them. */
#define PATIENCE_S 5

/* A thread watches the connection: the loop may be waiting for a page itself. */
struct uffd {
	struct mem_thread thread;
	int fd;	    /* owned */
	int sock;   /* owned: the connection */
	int pid_fd; /* owned: the process that listened; -1: it cannot be told */
	char *path; /* owned, for messages */
};

/* ---- the descriptor ---- */

/* Whoever may open the device node may handle faults of the kernel, without any capability. */
static int open_node(void)
{
	auto_fd int node = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	return node < 0 ? -errno : ioctl(node, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK) ?: -EBADF;
}

static int open_any(struct err *e)
{
	int fd = open_node();

	/* Flags 0: with UFFD_USER_MODE_ONLY KVM's faults would not be seen. */
	if (fd < 0)
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0)
		return fd;
	if (errno == EPERM || errno == EACCES)
		return err_errno(
			e, "this user may not fetch guest memory page by page: give it access to /dev/userfaultfd (setfacl -m u:USER:rw "
			   "/dev/userfaultfd), or set vm.unprivileged_userfaultfd=1");
	return err_errno(e, "this kernel cannot fetch guest memory page by page (CONFIG_USERFAULTFD)");
}

int uffd_open(struct err *e)
{
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};
	int fd = open_any(e);

	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) < 0) {
		err_errno(e, "this kernel's userfaultfd does not tell of discarded pages (Linux 4.11 does)");
		fd_close(&fd);
		return e ? e->code : -EINVAL;
	}
	return fd;
}

int uffd_register(struct vm *vm, int fd, struct err *e)
{
	struct mem *m = &vm->mem;

	ASSERT(!m->nr_images);
	for (u32 i = 0; i < m->nr_regions; i++) {
		const struct mem_region *r = &m->regions[i];
		struct uffdio_register reg = {
			.range = {.start = (uintptr_t)r->hva, .len = r->size},
			.mode = UFFDIO_REGISTER_MODE_MISSING,
		};

		if (!r->file && ioctl(fd, UFFDIO_REGISTER, &reg) < 0)
			return err_errno(e, "cannot have guest memory fetched page by page");
	}
	__atomic_store_n(&m->lazy, true, __ATOMIC_RELEASE);
	return 0;
}

void uffd_unregister(struct vm *vm, int fd)
{
	struct mem *m = &vm->mem;

	for (u32 i = 0; i < m->nr_regions; i++) {
		struct uffdio_range range = {.start = (uintptr_t)m->regions[i].hva, .len = m->regions[i].size};

		if (!m->regions[i].file)
			ioctl(fd, UFFDIO_UNREGISTER, &range);
	}
	__atomic_store_n(&m->lazy, false, __ATOMIC_RELEASE);
}

u64 uffd_missing(const struct vm *vm)
{
	const struct mem *m = &vm->mem;
	u64 missing = 0;

	for (u64 at = 0, data; at < m->size; at = mem_file_hole(m->fd, data, m->size)) {
		data = mem_file_data(m->fd, at, m->size);
		missing += data - at;
	}
	return missing;
}

void uffd_lose_missing(struct vm *vm, int fd)
{
	struct mem *m = &vm->mem;

	__atomic_store_n(&m->lost, true, __ATOMIC_RELEASE);
	/* First: pages are given back by the memfd from now on, nobody has to hear of it. */
	__atomic_store_n(&m->lazy, false, __ATOMIC_RELEASE);
	for (u32 i = 0; i < m->nr_regions; i++) {
		const struct mem_region *r = &m->regions[i];
		u64 end = r->fd_offset + r->size, data;

		for (u64 at = r->fd_offset; !r->file && at < end; at = mem_file_hole(m->fd, data, end)) {
			struct uffdio_range range = {.start = (uintptr_t)r->hva + (at - r->fd_offset)};
			void *p = (void *)(uintptr_t)range.start;

			data = mem_file_data(m->fd, at, end);
			range.len = data - at;
			if (!range.len)
				continue;
			/* Too many mappings: the rest goes as a whole. */
			if (mmap(p, range.len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
				range.len = end - at;
				data = end;
				mprotect(p, range.len, PROT_NONE);
			}
			ioctl(fd, UFFDIO_WAKE, &range);
		}
	}
}

/* ---- the connection ---- */

/* Waits until the pager is gone; false: until the VM ends. */
static bool wait_for_end(struct uffd *u)
{
	struct pollfd sock = {.fd = u->sock, .events = POLLRDHUP};
	struct pollfd process = {.fd = u->pid_fd, .events = POLLIN}, faults = {.fd = u->fd, .events = POLLIN};

	if (!mem_thread_poll(&u->thread, &sock, 1, -1))
		return false;
	/* Whoever listened is not always who serves, and who serves need not keep the connection. */
	for (u32 waiting = 0; waiting < PATIENCE_S;) {
		if (!mem_thread_poll(&u->thread, &process, 1, 1000))
			return false;
		if (process.revents)
			return true;
		if (!mem_thread_poll(&u->thread, &faults, 1, 0))
			return false;
		waiting = faults.revents ? waiting + 1 : 0;
	}
	return true;
}

static void watch_pager(struct mem_thread *t)
{
	struct uffd *u = container_of(t, struct uffd, thread);
	struct pollfd events = {.fd = u->fd, .events = POLLIN};
	struct uffd_msg msg;
	u64 missing;

	if (!wait_for_end(u))
		return;
	missing = uffd_missing(t->vm);
	if (!missing) { /* whoever gives pages back at this moment waits for nobody any more */
		uffd_unregister(t->vm, u->fd);
		fd_close(&u->fd);
		return;
	}
	log_error(t->vm->log, "the pager at \"%s\" is gone, and %llu MiB of the guest's memory with it: the VM ends", u->path,
		  (unsigned long long)((missing + MIB - 1) / MIB));
	vm_end(t->vm, VM_END_INTERNAL);
	uffd_lose_missing(t->vm, u->fd);
	/* Whoever discards pages waits until somebody has heard of it. */
	while (mem_thread_poll(t, &events, 1, -1)) {
		if (read(u->fd, &msg, sizeof(msg)) < 0 && errno != EAGAIN)
			return;
	}
}

static void free_uffd(struct mem_thread *t)
{
	struct uffd *u = container_of(t, struct uffd, thread);

	fd_close(&u->sock);
	fd_close(&u->pid_fd);
	fd_close(&u->fd); /* the mappings go next */
	free(u->path);
	free(u);
}

/* {offset, size} of each region, as the pager wants them. The caller's. */
static char *regions_json(const struct mem *m)
{
	unsigned long long page = m->huge == MEM_HUGE_2M ? 2 * MIB : MEM_PAGE_SIZE;
	char *all = xstrdup("[");

	for (u32 i = 0; i < m->nr_regions; i++) {
		const struct mem_region *r = &m->regions[i];
		char *longer;

		if (r->file)
			continue;
		longer = xasprintf(
			"%s%s{\"base_host_virt_addr\":%llu,\"size\":%llu,\"offset\":%llu,\"page_size\":%llu,\"page_size_kib\":%llu}", all,
			all[1] ? "," : "", (unsigned long long)(uintptr_t)r->hva, (unsigned long long)r->size,
			(unsigned long long)r->fd_offset, page, page);
		free(all);
		all = longer;
	}
	all = realloc(all, strlen(all) + 2);
	ASSERT(all);
	memcpy(all + strlen(all), "]", 2);
	return all;
}

static int send_handshake(const struct uffd *u, struct err *e)
{
	auto_free char *json = regions_json(&u->thread.vm->mem);
	struct iovec iov = {json, strlen(json)};
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	ssize_t n;

	control.head = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
	memcpy(CMSG_DATA(&control.head), &u->fd, sizeof(int));
	do
		n = sendmsg(u->sock, &msg, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return err_errno(e, "cannot send the memory's layout to the pager");
	return (size_t)n == iov.iov_len ? 0 : err_set(e, -EIO, "cannot send the memory's layout to the pager at once");
}

static int connect_pager(struct uffd *u, struct err *e)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct ucred cred = {0};
	socklen_t len = sizeof(cred);

	if (strlen(u->path) >= sizeof(addr.sun_path))
		return err_set(e, -ENAMETOOLONG, "the path has more than %zu bytes", sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, u->path, strlen(u->path) + 1);
	u->sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (u->sock < 0)
		return err_errno(e, "cannot make a socket");
	if (connect(u->sock, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return err_errno(e, "cannot connect to the pager; it has to listen there before the snapshot is loaded");
	/* In another process namespace its number is 0: then the connection alone tells. */
	if (getsockopt(u->sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 && cred.pid > 0)
		u->pid_fd = (int)syscall(SYS_pidfd_open, cred.pid, 0);
	return 0;
}

int uffd_connect(struct vm *vm, const char *sock, struct uffd **out, struct err *e)
{
	struct uffd *u = xzalloc(sizeof(*u));
	int ret;

	*u = (struct uffd){.fd = -1, .sock = -1, .pid_fd = -1, .path = xstrdup(sock)};
	mem_thread_init(&u->thread, vm, watch_pager, free_uffd);
	ret = connect_pager(u, e);
	if (ret == 0) {
		u->fd = uffd_open(e);
		ret = MIN(u->fd, 0);
	}
	if (ret == 0)
		ret = uffd_register(vm, u->fd, e);
	if (ret == 0)
		ret = send_handshake(u, e);
	if (ret == 0)
		ret = mem_thread_start(&u->thread, e);
	if (ret < 0)
		return err_prefix(e, "the pager's socket \"%s\"", sock);
	*out = u;
	return 0;
}
