/* x86_elf.h: kernels for tests: small ELF ones made here, and where tools/mkguest puts the real ones. */
#ifndef HUSK_TEST_X86_ELF_H
#define HUSK_TEST_X86_ELF_H

#include <elf.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/base/base.h"

#define ELF_TEXT_LEN   0x1800u
#define ELF_DATA_LEN   0x400u
#define ELF_DATA_MEM   0x2000u
#define ELF_NOTE_LEN   20u
#define ELF_TEXT_PADDR 0x1000000ull
#define ELF_DATA_PADDR 0x1002000ull
#define ELF_PVH_ENTRY  0x1000040u

/* A kernel of two segments at 16 MiB, the first at text_offset in the file, the bytes of each counting up; with a PVH note if pvh. */
static u8 *make_elf(u64 text_offset, bool pvh, size_t *size)
{
	u64 data_offset = text_offset + ELF_TEXT_LEN + 0x100, note_offset = data_offset + ELF_DATA_LEN;
	u8 *file = xzalloc(note_offset + ELF_NOTE_LEN);
	Elf64_Ehdr *h = (void *)file;
	Elf64_Phdr *p = (void *)(file + sizeof(*h));

	*h = (Elf64_Ehdr){
		.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
		.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_version = 1,
		.e_entry = ELF_TEXT_PADDR + 0x10,
		.e_phoff = sizeof(*h),
		.e_ehsize = sizeof(*h),
		.e_phentsize = sizeof(*p),
		.e_phnum = pvh ? 3 : 2,
	};
	p[0] = (Elf64_Phdr){
		.p_type = PT_LOAD, .p_offset = text_offset, .p_paddr = ELF_TEXT_PADDR, .p_filesz = ELF_TEXT_LEN, .p_memsz = ELF_TEXT_LEN};
	p[1] = (Elf64_Phdr){
		.p_type = PT_LOAD, .p_offset = data_offset, .p_paddr = ELF_DATA_PADDR, .p_filesz = ELF_DATA_LEN, .p_memsz = ELF_DATA_MEM};
	if (pvh) {
		static const u32 note[] = {4, 4, 18, 0x006e6558 /* Xen */, ELF_PVH_ENTRY};

		p[2] = (Elf64_Phdr){.p_type = PT_NOTE, .p_offset = note_offset, .p_filesz = ELF_NOTE_LEN};
		memcpy(file + note_offset, note, sizeof(note));
	}
	for (u32 i = 0; i < ELF_TEXT_LEN; i++)
		file[text_offset + i] = (u8)(i + 1);
	for (u32 i = 0; i < ELF_DATA_LEN; i++)
		file[data_offset + i] = (u8)(i + 7);
	*size = note_offset + ELF_NOTE_LEN;
	return file;
}

/* Path of a file that tools/mkguest makes, or NULL when it is not there. */
static inline char *guest_file(const char *name)
{
	const char *dir = getenv("HUSK_GUEST_DIR");
	char *path = xasprintf("%s/%s", dir ? dir : "build/guest", name);

	if (access(path, R_OK) == 0)
		return path;
	free(path);
	return NULL;
}

#endif
