/* boot_pvh.c: the start info of the PVH boot protocol (Xen, docs/misc/pvh.pandoc, public/arch-x86/hvm/start_info.h; all version 1). */
#include "arch/x86_64/boot.h"

#define START_INFO_MAGIC   0x336ec578
#define START_INFO_VERSION 1
#define START_INFO_LEN	   56
#define MODLIST_LEN	   32
#define MEMMAP_ENTRY_LEN   24

_Static_assert(X86_PVH_INFO_GPA + START_INFO_LEN <= X86_PVH_MODLIST_GPA && X86_PVH_MODLIST_GPA + MODLIST_LEN <= X86_PVH_MEMMAP_GPA,
	       "the structures do not overlap");

static int write_memmap(const struct boot *b, u32 *n)
{
	struct e820_entry map[E820_MAX_ENTRIES];
	u8 out[E820_MAX_ENTRIES * MEMMAP_ENTRY_LEN] = {0};

	*n = e820_build(&b->vm->mem, map);
	for (u32 i = 0; i < *n; i++) {
		st_le64(out + i * MEMMAP_ENTRY_LEN, map[i].addr);
		st_le64(out + i * MEMMAP_ENTRY_LEN + 8, map[i].size);
		st_le32(out + i * MEMMAP_ENTRY_LEN + 16, map[i].type);
	}
	return mem_write(&b->vm->mem, X86_PVH_MEMMAP_GPA, out, *n * MEMMAP_ENTRY_LEN);
}

/* The one module is the initrd. */
static int write_modlist(const struct boot *b)
{
	u8 module[MODLIST_LEN] = {0};

	st_le64(module, b->initrd_gpa);
	st_le64(module + 8, b->initrd_size);
	return mem_write(&b->vm->mem, X86_PVH_MODLIST_GPA, module, sizeof(module));
}

int boot_pvh_write(const struct boot *b, struct err *e)
{
	u8 info[START_INFO_LEN] = {0};
	u32 n;
	int ret = write_memmap(b, &n);

	if (ret == 0)
		ret = write_modlist(b);
	if (ret < 0)
		return err_set(e, ret, "no room for the PVH start info");
	st_le32(info, START_INFO_MAGIC);
	st_le32(info + 4, START_INFO_VERSION);
	st_le32(info + 12, b->initrd_size ? 1 : 0);
	st_le64(info + 16, X86_PVH_MODLIST_GPA);
	st_le64(info + 24, X86_CMDLINE_GPA);
	st_le64(info + 32, X86_RSDP_GPA);
	st_le64(info + 40, X86_PVH_MEMMAP_GPA);
	st_le32(info + 48, n);
	return mem_write(&b->vm->mem, X86_PVH_INFO_GPA, info, sizeof(info));
}
