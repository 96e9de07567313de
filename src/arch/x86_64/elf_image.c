/* elf_image.c: reads ELF64 kernels; System V ABI, chapters 4 and 5. */
#include "arch/x86_64/elf_image.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

#define XEN_ELFNOTE_PHYS32_ENTRY 18 /* Xen, public/elfnote.h: the PVH entry */

bool elf_detect(const u8 *data, size_t size)
{
	return size >= SELFMAG && !memcmp(data, ELFMAG, SELFMAG);
}

static bool range_ok(u64 offset, u64 len, u64 size)
{
	return offset <= size && len <= size - offset;
}

static int read_header(Elf64_Ehdr *h, const u8 *data, size_t size, struct err *e)
{
	if (size < sizeof(*h))
		return err_set(e, -ENOEXEC, "the ELF header is cut off");
	memcpy(h, data, sizeof(*h));
	if (h->e_ident[EI_CLASS] != ELFCLASS64 || h->e_ident[EI_DATA] != ELFDATA2LSB || h->e_machine != EM_X86_64)
		return err_set(e, -ENOEXEC, "not an x86-64 ELF file");
	if (h->e_type != ET_EXEC && h->e_type != ET_DYN)
		return err_set(e, -ENOEXEC, "not an executable ELF file (type %u)", h->e_type);
	if (h->e_phentsize != sizeof(Elf64_Phdr) || !range_ok(h->e_phoff, (u64)h->e_phnum * sizeof(Elf64_Phdr), size))
		return err_set(e, -ENOEXEC, "the ELF program headers are cut off");
	return 0;
}

static int add_segment(struct elf_image *elf, const Elf64_Phdr *p, size_t size, struct err *e)
{
	u64 end;

	if (p->p_memsz == 0)
		return 0;
	if (!range_ok(p->p_offset, p->p_filesz, size))
		return err_set(e, -ENOEXEC, "an ELF segment is cut off: the file has %zu bytes", size);
	if (p->p_filesz > p->p_memsz || __builtin_add_overflow(p->p_paddr, p->p_memsz, &end))
		return err_set(e, -ENOEXEC, "an ELF segment has an impossible size");
	if (elf->nr_segments == ELF_MAX_SEGMENTS)
		return err_set(e, -ENOEXEC, "more than %d ELF segments", ELF_MAX_SEGMENTS);
	elf->segments[elf->nr_segments++] = (struct elf_segment){p->p_offset, p->p_filesz, p->p_paddr, p->p_memsz};
	elf->start = elf->nr_segments == 1 ? p->p_paddr : MIN(elf->start, p->p_paddr);
	elf->end = MAX(elf->end, end);
	elf->file_end = MAX(elf->file_end, p->p_offset + p->p_filesz);
	return 0;
}

/* A 4-byte or 8-byte physical address, as Linux and others write the note. */
static u64 note_address(const u8 *desc, u32 len)
{
	return len >= 8 ? ld_le64(desc) : len >= 4 ? ld_le32(desc) : 0;
}

/* Looks through one PT_NOTE segment. Entries are {u32 namesz, descsz, type; name, desc}, each padded to four bytes. */
static void find_pvh_note(struct elf_image *elf, const u8 *notes, u64 len)
{
	while (len >= sizeof(Elf64_Nhdr)) {
		u32 namesz = ld_le32(notes), descsz = ld_le32(notes + 4), type = ld_le32(notes + 8);
		u64 desc = sizeof(Elf64_Nhdr) + ALIGN_UP((u64)namesz, 4), next = desc + ALIGN_UP((u64)descsz, 4);

		if (desc + descsz > len)
			return;
		if (type == XEN_ELFNOTE_PHYS32_ENTRY && namesz == 4 && !memcmp(notes + sizeof(Elf64_Nhdr), "Xen", 4))
			elf->pvh_entry = note_address(notes + desc, descsz);
		if (next >= len)
			return;
		notes += next;
		len -= next;
	}
}

static bool in_extent(const struct elf_image *elf, u64 addr)
{
	return addr >= elf->start && addr < elf->end;
}

int elf_parse(struct elf_image *elf, const u8 *data, size_t size, struct err *e)
{
	Elf64_Ehdr h;
	int ret = read_header(&h, data, size, e);

	*elf = (struct elf_image){0};
	for (u32 i = 0; ret == 0 && i < h.e_phnum; i++) {
		Elf64_Phdr p;

		memcpy(&p, data + h.e_phoff + i * sizeof(p), sizeof(p));
		if (p.p_type == PT_LOAD)
			ret = add_segment(elf, &p, size, e);
		else if (p.p_type == PT_NOTE && range_ok(p.p_offset, p.p_filesz, size))
			find_pvh_note(elf, data + p.p_offset, p.p_filesz);
	}
	if (ret < 0)
		return ret;
	if (elf->nr_segments == 0)
		return err_set(e, -ENOEXEC, "the ELF file has nothing to load");
	elf->entry = h.e_entry;
	if (!in_extent(elf, elf->entry) || (elf->pvh_entry && !in_extent(elf, elf->pvh_entry)))
		return err_set(e, -ENOEXEC, "the ELF entry point lies outside of its segments");
	/* Section headers are not needed, only where they end; a file without, or with broken ones, is none the worse. */
	if (range_ok(h.e_shoff, (u64)h.e_shnum * sizeof(Elf64_Shdr), size))
		elf->file_end = MAX(elf->file_end, h.e_shoff + (u64)h.e_shnum * sizeof(Elf64_Shdr));
	return 0;
}
