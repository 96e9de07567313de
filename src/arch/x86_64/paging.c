/* paging.c: the page tables and descriptors that a kernel finds at its first instruction; it soon makes its own. */
#include <errno.h>

#include "arch/x86_64/x86.h"

#define PTE_PRESENT  BIT(0)
#define PTE_WRITABLE BIT(1)
#define PTE_LARGE    BIT(7)
#define PTE_TABLE    (PTE_PRESENT | PTE_WRITABLE)
#define TABLE_LEN    512
#define NR_PD	     4 /* 1 GiB each */

/* Descriptors at the selectors that cpu.c loads (SDM 3A §3.4.5). Code: 64-bit; PVH guests load their own before they need a far jump. */
static const u64 gdt[X86_GDT_BYTES / 8] = {
	0,
	0,
	0x00af9b000000ffff, /* 0x10: code */
	0x00cf93000000ffff, /* 0x18: data */
	0x00008b0000000067, /* 0x20: task state, 16 bytes */
	0,
};

int paging_write(struct mem *m, struct err *e)
{
	u64 *pml4 = mem_ptr(m, X86_PML4_GPA, MEM_PAGE_SIZE), *pdpt = mem_ptr(m, X86_PDPT_GPA, MEM_PAGE_SIZE);
	u64 *pd = mem_ptr(m, X86_PD_GPA, NR_PD * MEM_PAGE_SIZE);

	if (!pml4 || !pdpt || !pd || mem_write(m, X86_GDT_GPA, gdt, sizeof(gdt)) < 0)
		return err_set(e, -EINVAL, "the machine needs at least 1 MiB of memory");
	pml4[0] = X86_PDPT_GPA | PTE_TABLE;
	for (u64 i = 0; i < NR_PD; i++)
		pdpt[i] = (X86_PD_GPA + i * MEM_PAGE_SIZE) | PTE_TABLE;
	for (u64 i = 0; i < NR_PD * TABLE_LEN; i++)
		pd[i] = i << 21 | PTE_LARGE | PTE_TABLE;
	mem_dirty(m, X86_PML4_GPA, (2 + NR_PD) * MEM_PAGE_SIZE);
	return 0;
}
