/* tcg_mmu_rig.h: one vCPU with windows, 16 MiB of RAM at 0 and 4 MiB at 4 GiB, for tests of mmu*.c; and stand-ins for what mmu*.c calls. */
#ifndef HUSK_TEST_TCG_MMU_RIG_H
#define HUSK_TEST_TCG_MMU_RIG_H

#include "cm.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tcg/mmu_int.h"

#define RIG_RAM	 (16 * MIB)
#define RIG_HIGH (4 * MIB)
#define DEVICE	 0xfe000000ull

struct rig {
	struct vm vm;
	struct tcg_vm t;
	struct tcg_cpu *c;
	jmp_buf jb;
	/* of the last exception; vector 0xff: restart */
	u8 vector;
	u32 error;
	u64 address;
	u64 next_table; /* where map takes page tables from */
	u64 code_gpa;	/* this page has code, or 1: none */
	u64 written_gpa;
	u32 written_n, nr_writes;
	u8 written_byte; /* what was there when unit.c was told */
	u32 nr_mmio;
	struct {
		u64 gpa, value;
		u32 size;
		bool write;
	} mmio[16];
	u64 dirty[2][RIG_RAM / MEM_PAGE_SIZE / 64];
};

static inline struct rig *rig_of(const struct tcg_cpu *c)
{
	return container_of(c->t, struct rig, t);
}

/* ---- stand-ins ---- */
_Noreturn void tcg_raise_err(struct tcg_cpu *c, u8 vector, u32 error)
{
	struct rig *r = rig_of(c);

	r->vector = vector;
	r->error = error;
	longjmp(r->jb, 1);
}

_Noreturn void tcg_raise_pf(struct tcg_cpu *c, u64 va, u32 error)
{
	rig_of(c)->address = va;
	tcg_raise_err(c, X86_PF, error);
}

_Noreturn void tcg_restart(struct tcg_cpu *c)
{
	tcg_raise_err(c, 0xff, 0);
}

static void rig_mmio(struct rig *r, u64 gpa, u32 size, u64 value, bool write)
{
	u32 i = r->nr_mmio++ % ARRAY_SIZE(r->mmio);

	r->mmio[i].gpa = gpa;
	r->mmio[i].size = size;
	r->mmio[i].value = value;
	r->mmio[i].write = write;
}

/* Each byte of the device reads as the low byte of its address. */
u64 tcg_mmio_read(struct tcg_cpu *c, u64 gpa, u32 size)
{
	u64 value = 0;

	for (u32 i = 0; i < size; i++)
		value |= ((gpa + i) & 0xff) << 8 * i;
	rig_mmio(rig_of(c), gpa, size, value, false);
	return value;
}

void tcg_mmio_write(struct tcg_cpu *c, u64 gpa, u32 size, u64 value)
{
	rig_mmio(rig_of(c), gpa, size, value, true);
}

bool unit_page_has_code(const struct tcg_vm *t, u64 gpa)
{
	return container_of(t, struct rig, t)->code_gpa == (gpa & ~PAGE_OFFSET);
}

void unit_guest_write(struct tcg_cpu *c, u64 gpa, u32 n)
{
	struct rig *r = rig_of(c);

	r->written_gpa = gpa;
	r->written_n = n;
	r->written_byte = *(u8 *)mem_ptr(&r->vm.mem, gpa, 1);
	r->nr_writes++;
}

u32 unit_page_id(struct tcg_vm *t, u64 va, u64 gpa)
{
	(void)t;
	return mmu_hash(va + gpa * 3, 31) + 1;
}

/* ---- the rig ---- */
/* TRY(r, call): whether it came back without an exception. Nothing that calls change is kept in locals, so clobbering them does no harm. */
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wclobbered"
#endif
#define TRY(r, call) (setjmp((r)->jb) ? false : ((void)(call), true))

/* The windows: the vCPU's pages shared by all, each context's own. */
static inline u8 *rig_windows(void)
{
	size_t total = TCG_NR_CTX * TCG_WINDOW_SIZE;
	u8 *base = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int fd = memfd_create("windows", MFD_CLOEXEC);

	assert_true(base != MAP_FAILED && fd >= 0);
	assert_int_equal(ftruncate(fd, TCG_CPU_SIZE), 0);
	for (u32 i = 0; i < TCG_NR_CTX; i++) {
		u8 *cpu = base + i * TCG_WINDOW_SIZE + TCG_STACK_SIZE;

		assert_true(mmap(cpu, TCG_CPU_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == cpu);
	}
	close(fd);
	return base;
}

static inline int rig_setup(void **state)
{
	struct rig *r = xzalloc(sizeof(*r));
	const struct mem_range ranges[] = {{0, RIG_RAM}, {4 * GIB, RIG_HIGH}};
	u8 *windows = rig_windows();
	struct err e;

	assert_int_equal(mem_init(&r->vm.mem, ranges, 2, MEM_HUGE_NONE, &e), 0);
	r->t.vm = &r->vm;
	r->t.dirty[0] = r->dirty[0];
	r->t.dirty[1] = r->dirty[1];
	r->c = (struct tcg_cpu *)(void *)(windows + TCG_STACK_SIZE);
	r->c->t = &r->t;
	r->c->window0 = windows;
	r->c->cpuid.e[0] = (struct x86_cpuid){.leaf = 0x80000001, .edx = BIT(26)};
	r->c->cpuid.e[1] = (struct x86_cpuid){.leaf = 0x80000008, .eax = 0x302e};
	r->c->cpuid.nr = 2;
	r->code_gpa = 1;
	r->next_table = MIB;
	r->c->cr0 = X86_CR0_PE | X86_CR0_WP | X86_CR0_PG;
	r->c->cr4 = X86_CR4_PAE | X86_CR4_PGE | X86_CR4_SMEP | X86_CR4_SMAP;
	r->c->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
	r->c->mode = TCG_MODE_64 | TCG_MODE_PE;
	r->c->cr3 = MIB;
	r->next_table += MEM_PAGE_SIZE;
	mmu_reset(r->c);
	*state = r;
	return 0;
}

static inline int rig_teardown(void **state)
{
	struct rig *r = *state;
	auto_free void *gone = r;

	munmap(r->c->window0, TCG_NR_CTX * TCG_WINDOW_SIZE);
	mem_fini(&r->vm.mem);
	return gone == NULL;
}

static inline u64 *rig_ram(struct rig *r, u64 gpa)
{
	u64 *p = mem_ptr(&r->vm.mem, gpa, 8);

	assert_non_null(p);
	return p;
}

#define TABLE_BITS (PTE_P | PTE_RW | PTE_US | PTE_A)
#define LEAF_BITS  (PTE_P | PTE_RW | PTE_US | PTE_A | PTE_D)

/* The entry of va at a level (3: PML4E ... 0: PTE), with tables made on the way. */
static inline u64 *rig_entry(struct rig *r, u64 cr3, u64 va, u32 level)
{
	u64 table = cr3 & PTE_GPA;

	for (u32 l = 3;; l--) {
		u64 *e = rig_ram(r, table + (va >> (12 + 9 * l) & 511) * 8);

		if (l == level)
			return e;
		if (!(*e & PTE_P)) {
			*e = r->next_table | TABLE_BITS;
			r->next_table += MEM_PAGE_SIZE;
		}
		table = *e & PTE_GPA;
	}
}

static inline u64 *rig_map(struct rig *r, u64 va, u64 entry)
{
	u64 *e = rig_entry(r, r->c->cr3, va, 0);

	*e = entry;
	return e;
}

/* An access of 8 bytes: the guest physical address it reaches; UINT64_MAX: an exception, which is in r. */
static inline u64 rig_gpa(struct rig *r, u64 va, enum mmu_access access, enum tcg_mmu_mode mode)
{
	u8 *volatile host = NULL;

	if (!TRY(r, host = mmu_host(r->c, va, 8, access, mode)))
		return UINT64_MAX;
	assert_non_null(host);
	return (u64)(host - r->vm.mem.regions[0].hva);
}

static inline bool rig_cached(struct rig *r, u64 va, bool write, enum tcg_mmu_mode mode)
{
	return va + mmu_slot(r->c, va, write, mode)->neg <= MEM_PAGE_SIZE - 8;
}

#define assert_fault(r, call, pf_error, cr2) \
	do { \
		assert_false(TRY(r, call)); \
		assert_int_equal((r)->vector, X86_PF); \
		assert_int_equal((r)->error, pf_error); \
		assert_int_equal((r)->address, cr2); \
	} while (0)

#endif
