/*
 * kaslr.c: relocation of an unpacked kernel. The tables that follow the ELF are arrays of u32 virtual addresses, sign-extended; in the
 * order of the file (arch/x86/boot/compressed/misc.c, handle_relocations, reads them backwards):
 *
 *   0, places with a 64-bit address
 *   0, places with a 32-bit address relative to the per-CPU base, which moves the other way (until Linux 6.14)
 *   0, places with a 32-bit address
 */
#include "arch/x86_64/kaslr.h"

#include <errno.h>
#include <sys/random.h>

#define KERNEL_MAP 0xffffffff80000000ull /* __START_KERNEL_map: virtual address of physical 0 for the kernel's own image */

enum reloc { RELOC_64, RELOC_INVERSE_32, RELOC_32 };

u64 kaslr_pick(u64 room, u64 align)
{
	u64 random;

	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		return 0;
	return random % (room / align + 1) * align;
}

static size_t count_tables(const u8 *table, size_t len)
{
	size_t zeros = 0;

	for (size_t at = 0; at + sizeof(u32) <= len; at += sizeof(u32))
		zeros += ld_le32(table + at) == 0;
	return zeros;
}

bool kaslr_tables_ok(const u8 *table, size_t table_len)
{
	size_t tables;

	if (table_len < 2 * sizeof(u32) || table_len % sizeof(u32) || ld_le32(table) != 0)
		return false;
	tables = count_tables(table, table_len);
	return tables == 2 || tables == 3;
}

static void apply(u8 *at, enum reloc kind, u64 delta)
{
	switch (kind) {
	case RELOC_64:
		st_le64(at, ld_le64(at) + delta);
		break;
	case RELOC_INVERSE_32:
		st_le32(at, ld_le32(at) - (u32)delta);
		break;
	case RELOC_32:
		st_le32(at, ld_le32(at) + (u32)delta);
		break;
	}
}

int kaslr_relocate(u8 *kernel, u64 kernel_len, u64 link_base, const u8 *table, size_t table_len, u64 delta, struct err *e)
{
	static const enum reloc with_inverse[] = {RELOC_64, RELOC_INVERSE_32, RELOC_32}, without[] = {RELOC_64, RELOC_32};
	const enum reloc *kinds = count_tables(table, table_len) == 3 ? with_inverse : without;

	ASSERT(kaslr_tables_ok(table, table_len));
	for (size_t at = sizeof(u32); at < table_len; at += sizeof(u32)) {
		u32 word = ld_le32(table + at);
		u64 offset = (u64)(s64)(s32)word - KERNEL_MAP - link_base;

		if (word == 0) {
			kinds++;
			continue;
		}
		if (offset >= kernel_len || kernel_len - offset < (*kinds == RELOC_64 ? sizeof(u64) : sizeof(u32)))
			return err_set(e, -EBADMSG, "a relocation (%#x) points outside of the kernel", word);
		apply(kernel + offset, *kinds, delta);
	}
	return 0;
}
