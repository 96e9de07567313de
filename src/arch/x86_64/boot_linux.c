/* boot_linux.c: the zero page of Linux' 64-bit boot protocol (Documentation/arch/x86/boot.rst, zero-page.rst). */
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "arch/x86_64/boot.h"

/* Offsets in the zero page beside the setup header (image.h). */
#define ZP_ACPI_RSDP	0x070
#define ZP_E820_ENTRIES 0x1e8
#define ZP_E820_TABLE	0x2d0
#define ZP_SIZE		4096
#define E820_ENTRY_SIZE 20

#define LOADER_UNDEFINED 0xff
#define ELF_ALIGNMENT	 0x1000000u /* what an ELF kernel without a header is told, as by Firecracker */

#define SETUP_RNG_SEED 9
#define RNG_SEED_LEN   32
#define SETUP_DATA_LEN (16 + RNG_SEED_LEN) /* u64 next; u32 type, len */

/* A bzImage's own header, or as much of one as an ELF kernel needs. */
static void write_header(const struct boot *b, u8 *zp)
{
	if (b->image.kind == IMAGE_BZIMAGE) {
		memcpy(zp + BZ_HEADER, b->image.bz.header, b->image.bz.header_len);
	} else {
		st_le16(zp + BZ_BOOT_FLAG, BZ_BOOT_FLAG_VALUE);
		st_le32(zp + BZ_MAGIC, BZ_MAGIC_VALUE);
		st_le32(zp + BZ_KERNEL_ALIGNMENT, ELF_ALIGNMENT);
	}
	zp[BZ_TYPE_OF_LOADER] = LOADER_UNDEFINED;
	if (b->kernel.kaslr) /* the kernel then randomizes its other memory areas too */
		zp[BZ_LOADFLAGS] |= (u8)BZ_LOADFLAGS_KASLR;
	st_le32(zp + BZ_CMD_LINE_PTR, (u32)X86_CMDLINE_GPA);
	st_le32(zp + BZ_CMDLINE_SIZE, b->cmdline_len);
	st_le32(zp + BZ_RAMDISK_IMAGE, (u32)b->initrd_gpa);
	st_le32(zp + BZ_RAMDISK_SIZE, (u32)b->initrd_size);
}

static void write_e820(const struct boot *b, u8 *zp)
{
	struct e820_entry map[E820_MAX_ENTRIES];
	u32 n = e820_build(&b->vm->mem, map);

	zp[ZP_E820_ENTRIES] = (u8)n;
	for (u32 i = 0; i < n; i++) {
		u8 *at = zp + ZP_E820_TABLE + i * E820_ENTRY_SIZE;

		st_le64(at, map[i].addr);
		st_le64(at + 8, map[i].size);
		st_le32(at + 16, map[i].type);
	}
}

/* A seed for the kernel's random number generator, so that it need not wait for entropy. It erases it after use. */
static int write_seed(const struct boot *b, struct err *e)
{
	u8 data[SETUP_DATA_LEN] = {0};

	st_le32(data + 8, SETUP_RNG_SEED);
	st_le32(data + 12, RNG_SEED_LEN);
	if (getrandom(data + 16, RNG_SEED_LEN, 0) != RNG_SEED_LEN)
		return err_errno(e, "cannot get random bytes for the kernel");
	return mem_write(&b->vm->mem, X86_SETUP_DATA_GPA, data, sizeof(data));
}

int boot_linux_write(const struct boot *b, struct err *e)
{
	u8 zp[ZP_SIZE] = {0};
	int ret = write_seed(b, e);

	if (ret < 0)
		return ret;
	write_header(b, zp);
	write_e820(b, zp);
	st_le64(zp + BZ_SETUP_DATA, X86_SETUP_DATA_GPA);
	st_le64(zp + ZP_ACPI_RSDP, X86_RSDP_GPA);
	return mem_write(&b->vm->mem, X86_ZERO_PAGE_GPA, zp, sizeof(zp));
}
