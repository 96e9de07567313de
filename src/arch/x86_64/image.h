/*
 * image.h: a kernel file: what it is, and the header of a bzImage. The file is mapped, so that its pages come from the page cache and only
 * as they are read; a whole-file gzip is unpacked into memory first.
 */
#ifndef HUSK_IMAGE_H
#define HUSK_IMAGE_H

#include "arch/x86_64/unpack.h"

enum image_kind { IMAGE_ELF, IMAGE_BZIMAGE };

/* Offsets in a bzImage and in the zero page, where the header goes (Documentation/arch/x86/boot.rst). */
#define BZ_HEADER	    0x1f1u
#define BZ_SETUP_SECTS	    0x1f1u
#define BZ_BOOT_FLAG	    0x1feu
#define BZ_HEADER_LEN	    0x201u /* of the jump: the header ends at 0x202 plus this byte */
#define BZ_MAGIC	    0x202u
#define BZ_VERSION	    0x206u
#define BZ_TYPE_OF_LOADER   0x210u
#define BZ_LOADFLAGS	    0x211u
#define BZ_RAMDISK_IMAGE    0x218u
#define BZ_RAMDISK_SIZE	    0x21cu
#define BZ_CMD_LINE_PTR	    0x228u
#define BZ_INITRD_ADDR_MAX  0x22cu
#define BZ_KERNEL_ALIGNMENT 0x230u
#define BZ_RELOCATABLE	    0x234u
#define BZ_XLOADFLAGS	    0x236u
#define BZ_CMDLINE_SIZE	    0x238u
#define BZ_PAYLOAD_OFFSET   0x248u
#define BZ_PAYLOAD_LENGTH   0x24cu
#define BZ_SETUP_DATA	    0x250u
#define BZ_PREF_ADDRESS	    0x258u
#define BZ_INIT_SIZE	    0x260u
#define BZ_HEADER_END_MAX   0x290u	/* where other fields of the zero page begin */
#define BZ_MAGIC_VALUE	    0x53726448u /* "HdrS" */
#define BZ_BOOT_FLAG_VALUE  0xaa55u
#define BZ_LOADFLAGS_KASLR  BIT(1)

struct bzimage {
	const u8 *header; /* at BZ_HEADER; header_len bytes */
	u32 header_len;
	const u8 *kernel; /* the protected-mode part, which is loaded */
	u64 kernel_len;
	int fd; /* borrowed: the file that holds it at file_offset; -1: it was unpacked, and is in memory only */
	u64 file_offset;
	const u8 *payload; /* the compressed ELF in it, payload_len bytes with the unpacked size in the last four; NULL: unknown */
	u64 payload_len;
	u64 pref_address, init_size; /* where it runs, and how much memory it uses from there until it reads the memory map */
	u64 alignment;
	u32 initrd_addr_max, cmdline_size;
};

struct image {
	enum image_kind kind;
	const u8 *data;
	size_t size;
	void *map, *heap; /* owned: one of them is behind data */
	size_t map_len;
	int fd;		   /* owned */
	struct bzimage bz; /* IMAGE_BZIMAGE */
};

/* Opens, maps and recognizes a kernel file. Messages name the path. */
int image_open(struct image *img, const char *path, struct err *e) MUST_CHECK;
void image_close(struct image *img); /* accepts zeroed */

#endif
