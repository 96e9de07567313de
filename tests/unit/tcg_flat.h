/*
 * tcg_flat.h: a vCPU for tests of the interpreter alone: guest memory is a piece of the test's own address space, linear = physical = host
 * address, with pages that fault, are devices, or hold code. What other parts of src/tcg own is stubbed.
 */
#ifndef HUSK_TEST_TCG_FLAT_H
#define HUSK_TEST_TCG_FLAT_H

#include "cm.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tcg/x86_64/interp.h"

#define FLAT_BASE  0x10000000ull
#define FLAT_PAGES 32u
#define FLAT_SIZE  (FLAT_PAGES * MEM_PAGE_SIZE)

enum flat_page { FLAT_RAM, FLAT_ABSENT, FLAT_READONLY, FLAT_DEVICE, FLAT_CODE };

struct flat {
	struct tcg_cpu *c;
	struct tcg_vm t;
	struct vm vm;
	u8 page[FLAT_PAGES];
	u32 exclusive, exclusive_ends; /* sections begun, ended */
	u32 pio_in;		       /* next value of IN */
	u32 pio_out[64], nr_out;
	u32 requests_seen;
	u32 stop_after; /* store that asks for a stop of REP, 0 = none */
	u32 device_reads;
	u32 revoke_when_alone; /* page that goes away when a section begins, 0 = none */
	bool io_denied;
	struct tcg_itlb itlb;
};

static struct flat flat;

static u8 flat_page_of(u64 va)
{
	return va - FLAT_BASE < FLAT_SIZE ? flat.page[(va - FLAT_BASE) / MEM_PAGE_SIZE] : FLAT_ABSENT;
}

_Noreturn static void flat_leave(struct tcg_cpu *c)
{
	__builtin_longjmp(c->jmp, 1);
}
_Noreturn void tcg_restart(struct tcg_cpu *c)
{
	flat_leave(c);
}
_Noreturn void tcg_raise(struct tcg_cpu *c, u8 vector)
{
	c->exc = (struct tcg_exception){.pending = true, .vector = vector};
	flat_leave(c);
}
_Noreturn void tcg_raise_err(struct tcg_cpu *c, u8 vector, u32 error)
{
	c->exc = (struct tcg_exception){.pending = true, .vector = vector, .has_error = true, .error = error};
	flat_leave(c);
}
_Noreturn void tcg_raise_pf(struct tcg_cpu *c, u64 va, u32 error)
{
	c->exc = (struct tcg_exception){.pending = true, .vector = X86_PF, .has_error = true, .error = error, .address = va};
	flat_leave(c);
}
void tcg_mode_update(struct tcg_cpu *c)
{
	u8 mode = c->mode & (TCG_MODE_64 | TCG_MODE_32 | TCG_MODE_PE);

	c->mode = (u8)(mode | (c->cpl == 3 ? TCG_MODE_USER : 0) | (c->rflags & X86_FLAG_TF || c->dr7 & 0xff ? TCG_MODE_TF : 0));
}
void tcg_request(struct tcg_cpu *c, u32 req)
{
	(void)c;
	flat.requests_seen |= req;
}
void tcg_exclusive_begin(struct tcg_vm *t, struct tcg_cpu *c)
{
	assert_ptr_equal(t, c->t);
	flat.exclusive++;
	if (flat.revoke_when_alone)
		flat.page[flat.revoke_when_alone] = FLAT_ABSENT;
}
void tcg_exclusive_end(struct tcg_vm *t, struct tcg_cpu *c)
{
	assert_ptr_equal(t, c->t);
	flat.exclusive_ends++;
}
u32 tcg_pio_read(struct tcg_cpu *c, u16 port, u32 size)
{
	(void)c;
	(void)port;
	(void)size;
	return flat.pio_in++;
}
void tcg_pio_write(struct tcg_cpu *c, u16 port, u32 size, u32 value)
{
	(void)c;
	(void)port;
	(void)size;
	flat.pio_out[flat.nr_out++ % 64] = value;
}
void sys_check_io(struct tcg_cpu *c, u16 port, u32 size)
{
	(void)port;
	(void)size;
	if (flat.io_denied)
		tcg_raise_err(c, X86_GP, 0);
}
/* STI, MOV SS, INT n and IRET as far as the tests look at them. */
void sys_insn(struct tcg_cpu *c, const struct x86_insn *insn)
{
	if (insn->op == OP_STI) {
		c->shadow = 1;
		c->rflags |= X86_FLAG_IF;
	} else if (insn->op == OP_MOV_TO_SREG) {
		c->shadow = 2;
	} else if (insn->op == OP_HLT) {
		c->rip += insn->len;
		c->halted = true;
	}
}
void sys_far(struct tcg_cpu *c, const struct x86_insn *insn)
{
	c->rip += insn->len;
	if (insn->op == OP_IRET)
		c->rflags |= X86_FLAG_TF | X86_FLAG_RF;
	tcg_mode_update(c);
}
void fpu_insn(struct tcg_cpu *c, const struct x86_insn *insn)
{
	(void)insn;
	tcg_raise(c, X86_NM);
}

/* ---- the MMU ---- */

static void flat_check(struct tcg_cpu *c, u64 va, u32 n, enum mmu_access access)
{
	for (u64 at = va; at < va + n; at = (at | (MEM_PAGE_SIZE - 1)) + 1) {
		u8 page = flat_page_of(at);
		u32 error = access == MMU_WRITE ? PF_W : access == MMU_EXEC ? PF_I : 0;

		if (page == FLAT_ABSENT)
			tcg_raise_pf(c, at, error);
		if (page == FLAT_READONLY && access == MMU_WRITE)
			tcg_raise_pf(c, at, error | PF_P);
	}
}
void mmu_probe(struct tcg_cpu *c, u64 va, u32 n, enum mmu_access access, enum tcg_mmu_mode mode)
{
	(void)mode;
	flat_check(c, va, n, access);
}
void *mmu_host(struct tcg_cpu *c, u64 va, u32 n, enum mmu_access access, enum tcg_mmu_mode mode)
{
	u8 page = flat_page_of(va);

	(void)mode;
	flat_check(c, va, n, access);
	if ((va & (MEM_PAGE_SIZE - 1)) + n > MEM_PAGE_SIZE || page == FLAT_DEVICE || (page == FLAT_CODE && access == MMU_WRITE))
		return NULL;
	return (void *)va;
}
u64 mmu_load(struct tcg_cpu *c, u64 va, u32 size, enum tcg_mmu_mode mode)
{
	u64 v = 0;

	(void)mode;
	flat_check(c, va, size, MMU_READ);
	flat.device_reads += flat_page_of(va) == FLAT_DEVICE;
	memcpy(&v, (void *)va, size);
	return v;
}
void mmu_store(struct tcg_cpu *c, u64 va, u32 size, u64 value, enum tcg_mmu_mode mode)
{
	(void)mode;
	flat_check(c, va, size, MMU_WRITE);
	memcpy((void *)va, &value, size);
	if (flat.stop_after && !--flat.stop_after)
		c->requests |= TCG_REQ_KICK;
}
const struct tcg_itlb *mmu_code_page(struct tcg_cpu *c, u64 va)
{
	flat_check(c, va, 1, MMU_EXEC);
	if (flat_page_of(va) == FLAT_DEVICE)
		return NULL;
	flat.itlb.va = flat.itlb.gpa = va & ~(MEM_PAGE_SIZE - 1);
	flat.itlb.id = 1;
	return &flat.itlb;
}
u32 mmu_fetch(struct tcg_cpu *c, u64 va, u8 *buf, u32 n)
{
	u32 got = 0;

	flat_check(c, va, 1, MMU_EXEC);
	for (; got < n && flat_page_of(va + got) != FLAT_ABSENT; got++)
		buf[got] = flat_page_of(va + got) == FLAT_DEVICE ? 0xff : *(u8 *)(va + got);
	return got;
}

/* ---- the machine ---- */

/* Flat 4 GiB segments, ring 0, all integer features. bits: of code. */
static void flat_reset(u32 bits)
{
	struct tcg_cpu *c = flat.c;
	void *cache = c->interp_cache;

	memset(c, 0, sizeof(*c));
	memset(flat.page, FLAT_RAM, sizeof(flat.page));
	flat.exclusive = flat.exclusive_ends = flat.nr_out = flat.requests_seen = flat.device_reads = flat.stop_after =
		flat.revoke_when_alone = 0;
	flat.io_denied = false;
	c->interp_cache = cache;
	c->t = &flat.t;
	c->mode = bits == 64 ? TCG_MODE_64 | TCG_MODE_PE : bits == 32 ? TCG_MODE_32 | TCG_MODE_PE : 0;
	c->rflags = 2;
	for (u32 i = 0; i < 4; i++)
		c->features[i] = ~0ull;
	for (u32 i = 0; i < X86_NR_SEGS; i++)
		c->seg[i] = (struct x86_seg){.limit = UINT32_MAX, .attr = (u16)((i == X86_CS ? 0x9b : 0x93) | X86_ATTR_G | X86_ATTR_DB)};
	if (bits == 16) /* real mode: every segment begins where the memory does */
		for (u32 i = 0; i < X86_NR_SEGS; i++)
			c->seg[i] = (struct x86_seg){.limit = 0xffff, .attr = 0x93, .base = FLAT_BASE};
}

static int flat_setup(void **state)
{
	static struct tcg_cpu cpu;
	int prot = PROT_READ | PROT_WRITE | PROT_EXEC;
	void *at = mmap((void *)FLAT_BASE, FLAT_SIZE, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	(void)state;
	if (at != (void *)FLAT_BASE)
		return -1;
	flat.c = &cpu;
	flat.t.vm = &flat.vm;
	flat.vm.mem.nr_regions = 1;
	flat.vm.mem.regions[0] = (struct mem_region){.gpa = FLAT_BASE, .size = FLAT_SIZE, .hva = (u8 *)FLAT_BASE};
	return interp_init(&cpu, NULL);
}

static int flat_teardown(void **state)
{
	(void)state;
	interp_fini(flat.c);
	return munmap((void *)FLAT_BASE, FLAT_SIZE);
}

/* One interp_step; whether it raised (c->exc says what). */
static __attribute__((noinline)) bool flat_step(void)
{
	struct tcg_cpu *c = flat.c;

	c->exc.pending = false;
	if (__builtin_setjmp(c->jmp))
		return true;
	interp_step(c);
	return false;
}

/* ---- what tests are written with ---- */

#define CODE	FLAT_BASE
#define PAGE(n) (FLAT_BASE + (n)*MEM_PAGE_SIZE)

/* Setup of a test: 64-bit code that begins at CODE. */
__attribute__((unused)) static int flat_reset64(void **state)
{
	(void)state;
	flat_reset(64);
	flat.c->rip = CODE;
	flat.c->gpr[X86_RSP] = PAGE(4);
	memset((void *)CODE, 0x90, MEM_PAGE_SIZE);
	return 0;
}

#define PUT(...) flat_put((const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}))
__attribute__((unused)) static void flat_put(const u8 *bytes, size_t n)
{
	memcpy((void *)flat.c->rip, bytes, n);
}

__attribute__((unused)) static void assert_fault(u8 vector, u64 address)
{
	assert_true(flat.c->exc.pending);
	assert_int_equal(flat.c->exc.vector, vector);
	if (vector == X86_PF)
		assert_int_equal(flat.c->exc.address, address);
}

#define R(name) (flat.c->gpr[X86_##name])
#define RIP	(flat.c->rip)

#endif
