/* gdb_walk.c: page tables for the debugger (SDM 3A §4.3-4.5): where a virtual address is, whatever its permissions. */
#include <errno.h>

#include "arch/x86_64/cpu.h"
#include "vmm/gdb_arch.h"

#define CR0_PE	   BIT(0)
#define CR0_PG	   BIT(31)
#define CR4_PSE	   BIT(4)
#define CR4_PAE	   BIT(5)
#define CR4_LA57   BIT(12)
#define EFER_LMA   BIT(10)
#define PTE_P	   1u
#define PTE_PS	   BIT(7)
#define PTE_ADDR   0x000ffffffffff000ull
#define LEVEL_BITS 9u

static int read_entry(const struct mem *m, u64 table, u64 index, u32 size, u64 *entry)
{
	*entry = 0;
	return mem_read(m, table + index * size, entry, size) == 0 && *entry & PTE_P ? 0 : -EFAULT;
}

/* Tables of 512 entries, from `level` down (4 KiB pages are level 1's). top: the address of the first. */
static int walk_wide(const struct mem *m, u64 table, u32 level, u64 gva, u64 *gpa)
{
	for (; level > 0; level--) {
		u32 shift = MEM_PAGE_SHIFT + LEVEL_BITS * (level - 1);
		u64 page = BIT(shift) - 1, entry;

		if (read_entry(m, table, gva >> shift & (BIT(LEVEL_BITS) - 1), 8, &entry) < 0)
			return -EFAULT;
		table = entry & PTE_ADDR;
		if (level == 1 || (entry & PTE_PS && level <= 3)) {
			*gpa = (table & ~page) | (gva & page);
			return 0;
		}
	}
	return -EFAULT;
}

/* 32-bit paging: two levels, 4 MiB pages whose address has its upper bits in bits 13-20 (table 4-4). */
static int walk_narrow(const struct mem *m, const struct cpu_state *c, u64 gva, u64 *gpa)
{
	u64 entry;

	if (read_entry(m, c->cr3 & 0xfffff000, gva >> 22, 4, &entry) < 0)
		return -EFAULT;
	if (entry & PTE_PS && c->cr4 & CR4_PSE) {
		*gpa = (entry & 0xffc00000) | (entry >> 13 & 0xff) << 32 | (gva & 0x3fffff);
		return 0;
	}
	if (read_entry(m, entry & 0xfffff000, gva >> 12 & 0x3ff, 4, &entry) < 0)
		return -EFAULT;
	*gpa = (entry & 0xfffff000) | (gva & 0xfff);
	return 0;
}

int gdb_arch_translate(const struct mem *m, const struct cpu_state *c, u64 gva, u64 *gpa)
{
	u32 unused = c->cr4 & CR4_LA57 ? 7 : 16; /* bits above the linear address */
	u64 entry;

	if (!(c->efer & EFER_LMA) && gva > UINT32_MAX)
		return -EFAULT;
	if (!(c->cr0 & CR0_PE) || !(c->cr0 & CR0_PG)) {
		*gpa = gva;
		return 0;
	}
	if (!(c->cr4 & CR4_PAE))
		return walk_narrow(m, c, gva, gpa);
	if (c->efer & EFER_LMA) {
		if ((u64)((s64)(gva << unused) >> unused) != gva)
			return -EFAULT;
		return walk_wide(m, c->cr3 & PTE_ADDR, c->cr4 & CR4_LA57 ? 5 : 4, gva, gpa);
	}
	if (read_entry(m, c->cr3 & 0xffffffe0, gva >> 30, 8, &entry) < 0)
		return -EFAULT;
	return walk_wide(m, entry & PTE_ADDR, 2, gva, gpa);
}

bool gdb_arch_is_shared(u64 gva)
{
	return gva >> 63;
}
