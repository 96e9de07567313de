/*
 * mmu.h: guest virtual memory: page walks, the software TLB, PCID contexts (SDM 3A §4; design/tcg.md 4, 5).
 * Addresses are linear (segment base added). Every function that can fault leaves by tcg_raise_pf (or #GP/#SS for a non-canonical address,
 * #GP) unless said otherwise: nothing of the access is done then. So it is, by tcg_restart, when a page is still to be fetched (mem_fetch):
 * the vCPU waits for it outside the guest (vcpu.c), and no table ever holds one that is not there. Guest state: c->rip is the faulting
 * instruction's. ctx: vcpu, unless said otherwise. Lean: no libc, general registers only.
 */
#ifndef HUSK_TCG_MMU_H
#define HUSK_TCG_MMU_H

#include "tcg/tcg.h"

enum mmu_access { MMU_READ, MMU_WRITE, MMU_EXEC };

/* Page fault error code bits (SDM 3A §4.7). */
#define PF_P	1u
#define PF_W	2u
#define PF_U	4u
#define PF_RSVD 8u
#define PF_I	16u

/* Makes the TLB of a vCPU empty, its contexts invalid. At reset, after pushes of state. */
void mmu_reset(struct tcg_cpu *c);

/* One value of 1, 2, 4 or 8 bytes, also over a page's end and on devices. */
u64 mmu_load(struct tcg_cpu *c, u64 va, u32 size, enum tcg_mmu_mode mode);
void mmu_store(struct tcg_cpu *c, u64 va, u32 size, u64 value, enum tcg_mmu_mode mode);
/* Any number of bytes up to 4096: all pages are checked before the first byte moves. On devices: in pieces of up to 8. */
void mmu_load_bytes(struct tcg_cpu *c, u64 va, void *buf, u32 n, enum tcg_mmu_mode mode);
void mmu_store_bytes(struct tcg_cpu *c, u64 va, const void *buf, u32 n, enum tcg_mmu_mode mode);
/* Faults as an access would, moves nothing. write: A and D bits are set. */
void mmu_probe(struct tcg_cpu *c, u64 va, u32 n, enum mmu_access access, enum tcg_mmu_mode mode);
/*
 * Host address of [va, va + n) for direct use, when it is RAM of one page that may be read, or for MMU_WRITE written, without further work
 * (dirty bits are set, the page holds no translated code). NULL: use load/store instead (device, ROM, two pages, code).
 * Faults as an access would. The address is good until the next call of anything that may flush, or the end of the instruction.
 */
void *mmu_host(struct tcg_cpu *c, u64 va, u32 n, enum mmu_access access, enum tcg_mmu_mode mode);

/*
 * The slow path of translated code: puts the page of [va, va + n) into the mode's table. True: the access now hits. False: it must be
 * interpreted (it faults, crosses pages, is a device's, writes code). Never leaves by tcg_raise.
 */
bool mmu_fill(struct tcg_cpu *c, u64 va, u32 n, bool write, enum tcg_mmu_mode mode);
/* As mmu_fill for a group of accesses: never sets a bit in a page table: false when A or D would have to be set. */
bool mmu_fill_group(struct tcg_cpu *c, u64 va, u32 n, bool write, enum tcg_mmu_mode mode);

/*
 * Code: fetch permission of the page of linear address va in the current mode (NX, SMEP, U/S), through the itlb. Returns the entry, with
 * gpa of the page and an id that names (va, gpa): what a jump between pages may compare. Raises #PF with PF_I. NULL when the page is no
 * RAM.
 */
const struct tcg_itlb *mmu_code_page(struct tcg_cpu *c, u64 va);
/* The same without a fault and without setting a bit in a page table: NULL then. */
const struct tcg_itlb *mmu_code_try(struct tcg_cpu *c, u64 va);
/* Copies up to n bytes of code from va on (at most two pages), fewer when the second page cannot be executed. Raises for the first page. */
u32 mmu_fetch(struct tcg_cpu *c, u64 va, u8 *buf, u32 n);

/* Takes over the newest k_epoch of the VM, and forgets what was known of kernel code pages: the next mmu_code_page walks. */
void mmu_adopt_epoch(struct tcg_cpu *c);

/* Control registers and instructions. Validity was checked by the caller. */
void mmu_write_cr3(struct tcg_cpu *c, u64 value); /* MOV CR3 with its bit 63; sets c->cr3 (without bit 63), picks the context */
void mmu_flush_all(struct tcg_cpu *c);		  /* CR0.PG/WP, CR4 bits, EFER.NXE: global entries and all PCIDs too */
void mmu_flush_non_global(struct tcg_cpu *c);	  /* MOV CR3 without PCID; INVPCID type 3 (all contexts, not global) */
void mmu_invlpg(struct tcg_cpu *c, u64 va);	  /* the current PCID and global entries */
void mmu_invpcid(struct tcg_cpu *c, u64 type, u16 pcid, u64 va); /* types 0-3, SDM 2A INVPCID */
void mmu_flush_writable(struct tcg_cpu *c);			 /* all W tables: the next store of each page takes the slow path */

/* husk is about to use [gpa, gpa + n), n at most a page, for the instruction at rip: leaves by tcg_restart when some of it is not there. */
void mmu_need(struct tcg_cpu *c, u64 gpa, u32 n);

/* Walks for others: gpa of va for a supervisor read, without side effects. False: not mapped, or a table is not there yet. (debugger,
 * dumps) */
bool mmu_translate(struct tcg_cpu *c, u64 va, u64 *gpa);

/* ---- provided by unit.c, called by mmu.c ---- */
/* Whether translated code was made from this page: no writable entries then. ctx: any */
bool unit_page_has_code(const struct tcg_vm *t, u64 gpa);
/* The guest has stored n bytes at gpa, in one page, which had code: units over these bytes die (also those made while it stored). */
void unit_guest_write(struct tcg_cpu *c, u64 gpa, u32 n);
/* Names the pair; never 0. */
u32 unit_page_id(struct tcg_vm *t, u64 va, u64 gpa);

#endif
