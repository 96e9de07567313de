/* load.h: puts a kernel image into guest memory. ctx: before start */
#ifndef HUSK_LOAD_H
#define HUSK_LOAD_H

#include "arch/x86_64/image.h"
#include "vmm/mem.h"

struct loaded_kernel {
	u64 entry;	/* physical */
	u64 start, end; /* memory that the kernel uses until it has read the memory map */
	bool pvh;	/* the entry is PVH's, else that of the 64-bit boot protocol */
	bool kaslr;	/* husk chose a random virtual address */
};

struct load_request {
	struct mem *mem;
	u64 limit;  /* first address that the kernel must not use (the initrd's place) */
	bool kaslr; /* randomize if the image can be */
};

/* Loads an ELF vmlinux at its own addresses; entered by PVH if it has the note. */
int load_elf(const struct load_request *rq, const struct image *img, struct loaded_kernel *out, struct err *e) MUST_CHECK;
/* Loads the kernel inside a bzImage, unpacked here: several times faster than by the guest's own decompressor.
 * -EOPNOTSUPP, without a message, when husk does not know the compression; then load_bzimage works. */
int load_bzimage_unpacked(const struct load_request *rq, const struct bzimage *bz, struct loaded_kernel *out, struct err *e) MUST_CHECK;
/* Loads a bzImage as it is; it unpacks itself. */
int load_bzimage(const struct load_request *rq, const struct bzimage *bz, struct loaded_kernel *out, struct err *e) MUST_CHECK;

#endif
