/*
 * uffd.h: guest memory whose pages another process brings when they are needed (userfaultfd): Firecracker's handshake. The pager listens on
 * a Unix stream socket; husk connects and sends one message: a JSON array of {base_host_virt_addr, size, offset, page_size, page_size_kib}
 * (offset: in the memory file; page_size_kib holds bytes, too), and with it a userfaultfd on which these ranges are registered for missing
 * pages. Nothing comes back. The connection stays open; the pager learns by SO_PEERCRED who asks.
 *
 * The pager answers faults with UFFDIO_COPY, and pages that a UFFD_EVENT_REMOVE has named since (the balloon took them) with zeroes.
 * A pager that dies with pages outstanding ends the VM: nobody else has them, and who waits for one would wait for ever.
 */
#ifndef HUSK_UFFD_H
#define HUSK_UFFD_H

#include "vmm/vm.h"

struct uffd;

/* A userfaultfd that sees the kernel's own accesses too (KVM, io_uring), CLOEXEC and NONBLOCK, with EVENT_REMOVE. -EPERM and the like: e
 * says whom to ask. */
int uffd_open(struct err *e);
/* Registers all of the memfd's regions for missing pages, and makes the memory lazy (mem.h). ctx: before the accelerator knows the regions
 */
int uffd_register(struct vm *vm, int fd, struct err *e) MUST_CHECK;
/* Gives them back: what is missing from now on is zero. */
void uffd_unregister(struct vm *vm, int fd);
/* Nobody will bring what is still missing: who waits for such a page, or touches one from now on, gets -EFAULT from its system call, or a
 * signal. Zeroes would be worse: a write of the guest's may be under way that would put them on its disk. ctx: any thread that never
 * touches guest memory; the VM was ended (vm_end) */
void uffd_lose_missing(struct vm *vm, int fd);
/* Bytes of the memfd's regions that nobody has brought yet, or that were given back since. ctx: loop */
u64 uffd_missing(const struct vm *vm);

/* Hands the memory over to the pager that listens on the socket. *out is the memory's (mem_fini ends it). The memory is empty, nothing is
 * mapped over it. ctx: before the accelerator knows the regions */
int uffd_connect(struct vm *vm, const char *sock, struct uffd **out, struct err *e) MUST_CHECK;

#endif
