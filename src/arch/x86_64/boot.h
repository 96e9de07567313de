/* boot.h: what the steps of one boot hand on to each other. ctx: before start */
#ifndef HUSK_BOOT_H
#define HUSK_BOOT_H

#include "arch/x86_64/load.h"
#include "arch/x86_64/x86.h"
#include "vmm/config.h"

struct boot {
	struct vm *vm;
	const struct cfg_boot_source *cfg;
	struct image image;
	char cmdline[X86_CMDLINE_MAX];
	u32 cmdline_len;
	u64 initrd_gpa, initrd_size; /* size 0: none */
	struct loaded_kernel kernel;
};

/* Composes b->cmdline: boot_args or husk's default, then what the machine and the devices add; text after " -- " stays last. */
int cmdline_build(struct boot *b, struct err *e) MUST_CHECK;
/* Whether the kernel's part of the command line has word as a word of its own. */
bool cmdline_has(const struct boot *b, const char *word);

/* Write the structures that the kernel is given at its entry. boot_linux.c: the zero page; boot_pvh.c: the start info. */
int boot_linux_write(const struct boot *b, struct err *e) MUST_CHECK;
int boot_pvh_write(const struct boot *b, struct err *e) MUST_CHECK;

#endif
