/*
 * gdb_arch.h: what an architecture gives the debugger: registers as gdb numbers them, addresses, breakpoints (src/arch/<arch>/gdb*.c).
 * ctx: any, on a state that nobody changes meanwhile.
 */
#ifndef HUSK_GDB_ARCH_H
#define HUSK_GDB_ARCH_H

#include "vmm/base/buf.h"
#include "vmm/debug.h"
#include "vmm/mem.h"

struct cpu_state;

#define GDB_REG_MAX 16 /* bytes of the largest register */

/* The breakpoint instruction: gdb_arch_break_len bytes, at addresses that are multiples of it. */
extern const u8 gdb_arch_break[DEBUG_BREAK_MAX];
extern const u32 gdb_arch_break_len;

/* Appends the target description: XML that names the registers, in the order of their numbers. */
void gdb_arch_describe(struct buf *out);
u32 gdb_arch_nr_regs(void);
/* Bytes of register n < gdb_arch_nr_regs(), at most GDB_REG_MAX. */
u32 gdb_arch_reg_size(u32 n);
/* Little-endian, gdb_arch_reg_size bytes. Set: false when the register is read-only, or the processor would refuse the value. */
void gdb_arch_reg_get(const struct cpu_state *c, u32 n, u8 *value);
bool gdb_arch_reg_set(struct cpu_state *c, u32 n, const u8 *value);

/* Where gva is in guest physical memory, by the page tables of this vCPU, whatever its privilege. -EFAULT: not mapped. The answer holds for
 * the rest of the 4 KiB page. */
int gdb_arch_translate(const struct mem *m, const struct cpu_state *c, u64 gva, u64 *gpa) MUST_CHECK;
/* Whether all address spaces share what is at gva (the kernel's half). */
bool gdb_arch_is_shared(u64 gva);
/* What the vCPU does, for a person: "halted". */
const char *gdb_arch_activity(const struct cpu_state *c);

#endif
