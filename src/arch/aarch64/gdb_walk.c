/* gdb_walk.c: page tables for the debugger (Arm ARM D8.2, D8.3): where a virtual address is, whatever its permissions. */
#include <errno.h>

#include "arch/aarch64/cpu.h"
#include "vmm/gdb_arch.h"

#define SCTLR_M	   BIT(0)
#define TCR_EPD0   BIT(7)
#define TCR_EPD1   BIT(23)
#define TCR_TBI0   BIT(37)
#define TCR_TBI1   BIT(38)
#define TCR_DS	   BIT(59) /* addresses of 52 bits with small pages */
#define TTBR_TABLE 0x0000ffffffffffc0ull
#define PTE_VALID  1u
#define PTE_TABLE  2u /* or, at the last level, a page */

/* One half of the address space. */
struct half {
	u64 table;
	u32 va_bits, page_bits;
	bool tagged, off;
	u64 address_mask;
};

static u64 value_of(const struct cpu_state *c, u64 id)
{
	const u64 *value = arm_reg_find(c->regs, c->nr_regs, id);

	return value ? *value : 0;
}

static struct half half_of(const struct cpu_state *c, bool upper)
{
	static const u8 lower_pages[] = {12, 16, 14, 0}, upper_pages[] = {0, 14, 12, 16};
	u64 tcr = value_of(c, ARM_TCR);

	return (struct half){
		.table = value_of(c, upper ? ARM_TTBR1 : ARM_TTBR0) & TTBR_TABLE,
		.va_bits = 64 - (u32)(tcr >> (upper ? 16 : 0) & 63),
		.page_bits = upper ? upper_pages[tcr >> 30 & 3] : lower_pages[tcr >> 14 & 3],
		.tagged = tcr & (upper ? TCR_TBI1 : TCR_TBI0),
		.off = tcr & (upper ? TCR_EPD1 : TCR_EPD0),
		.address_mask = (tcr & TCR_DS ? BIT(50) : BIT(48)) - 1,
	};
}

/* Whether the bits above the half's addresses are what they have to be. */
static bool in_half(const struct half *h, bool upper, u64 gva)
{
	u64 above = (upper ? ~gva : gva) >> h->va_bits;

	return h->tagged ? !(above & (BIT(56 - MIN(h->va_bits, 56u)) - 1)) : !above;
}

static int walk(const struct mem *m, const struct half *h, u64 gva, u64 *gpa)
{
	u32 stride = h->page_bits - 3, levels = (h->va_bits - h->page_bits + stride - 1) / stride;
	u64 table = h->table, va = gva & (BIT(h->va_bits) - 1);

	for (u32 n = levels; n > 0; n--) {
		u32 shift = h->page_bits + stride * (n - 1);
		u64 index = va >> shift & (n == levels ? UINT64_MAX : BIT(stride) - 1), entry = 0;

		if (mem_read(m, table + index * 8, &entry, 8) < 0 || !(entry & PTE_VALID) || (n == 1 && !(entry & PTE_TABLE)))
			return -EFAULT;
		if (n == 1 || !(entry & PTE_TABLE)) {
			*gpa = (entry & h->address_mask & ~(BIT(shift) - 1)) | (va & (BIT(shift) - 1));
			return 0;
		}
		table = entry & h->address_mask & ~(BIT(h->page_bits) - 1);
	}
	return -EFAULT;
}

int gdb_arch_translate(const struct mem *m, const struct cpu_state *c, u64 gva, u64 *gpa)
{
	bool upper = gva >> 55 & 1;
	struct half h = half_of(c, upper);

	if (!(value_of(c, ARM_SCTLR) & SCTLR_M)) {
		*gpa = gva;
		return 0;
	}
	if (h.off || !h.page_bits || h.va_bits <= h.page_bits || h.va_bits > 52 || !in_half(&h, upper, gva))
		return -EFAULT;
	return walk(m, &h, gva, gpa);
}

bool gdb_arch_is_shared(u64 gva)
{
	return gva >> 63;
}
