/* image.h: kernel images of arm64: the Image of Linux' build, plain, gzip'd, or in an EFI program that unpacks itself (vmlinuz.efi). */
#ifndef HUSK_ARM_IMAGE_H
#define HUSK_ARM_IMAGE_H

#include "vmm/base/err.h"

/* No kernel is larger; what claims to be is refused before memory is set aside for it. */
#define ARM_IMAGE_MAX (1u << 30)

enum arm_page_size { ARM_PAGES_ANY, ARM_PAGES_4K, ARM_PAGES_16K, ARM_PAGES_64K };

struct arm_image {
	u8 *bytes; /* owned: the Image */
	size_t len;
	u64 text_offset;	  /* from a 2 MiB boundary */
	u64 mem_size;		  /* with what it clears behind its bytes */
	enum arm_page_size pages; /* that it is built for */
};

/* Reads and checks the file. -EINVAL, -EBADMSG: it is no kernel for this machine; e says what it is instead. ctx: before start */
int arm_image_open(struct arm_image *im, const char *path, struct err *e) MUST_CHECK;
/* The same for bytes that the caller keeps. */
int arm_image_parse(struct arm_image *im, const u8 *data, size_t len, struct err *e) MUST_CHECK;
void arm_image_close(struct arm_image *im); /* accepts zeroed */

#endif
