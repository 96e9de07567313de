/*
 * elf_image.h: an ELF64 kernel in memory: its segments, its entry, its notes. Everything in the file is checked: a parsed struct elf_image
 * has file ranges inside of the file and guest ranges that do not wrap.
 */
#ifndef HUSK_ELF_IMAGE_H
#define HUSK_ELF_IMAGE_H

#include "vmm/base/err.h"

#define ELF_MAX_SEGMENTS 16

struct elf_segment {
	u64 offset, filesz; /* in the file */
	u64 paddr, memsz;   /* in guest memory; memsz >= filesz */
};

struct elf_image {
	u64 entry;	 /* physical */
	u64 pvh_entry;	 /* physical; 0: no XEN_ELFNOTE_PHYS32_ENTRY */
	u64 start, end;	 /* physical extent of the segments */
	u64 file_end;	 /* where the ELF ends in the file: last segment or section headers, whichever is last */
	u32 nr_segments; /* at least 1; empty ones are left out */
	struct elf_segment segments[ELF_MAX_SEGMENTS];
};

bool elf_detect(const u8 *data, size_t size);
/* Parses an x86-64 executable. -ENOEXEC with a sentence otherwise. */
int elf_parse(struct elf_image *elf, const u8 *data, size_t size, struct err *e) MUST_CHECK;

#endif
