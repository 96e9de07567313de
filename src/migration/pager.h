/*
 * pager.h: the built-in pager: brings the pages of a compressed memory file when they are touched, and all others meanwhile, so that a VM
 * starts before its memory is unpacked. (Plain files are mapped: there the kernel does that, working_set.h helps.)
 *
 * The header and the index are checked when it starts, a chunk when it is unpacked: one that is damaged ends the VM then.
 */
#ifndef HUSK_PAGER_H
#define HUSK_PAGER_H

#include "vmm/vm.h"

/* Serves the VM's memory, which is empty, from the compressed file (fd is not needed afterwards). A thread of the memory's does it, until
 * all is there. -EINVAL: damaged, or another VM's. What uffd_open returns: this user may not: memfile_read_compressed can do it at once.
 * ctx: before the accelerator knows the regions */
int pager_start(struct vm *vm, int fd, struct err *e) MUST_CHECK;

#endif
