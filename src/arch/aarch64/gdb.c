/* gdb.c: the debugger (vmm/gdb_arch.h) does not know arm64 yet: machine_init refuses one, and none of this is ever asked. */

#include <errno.h>

#include "arch/aarch64/cpu.h"
#include "vmm/gdb_arch.h"

const u8 gdb_arch_break;

void gdb_arch_describe(struct buf *out)
{
	(void)out;
}

u32 gdb_arch_nr_regs(void)
{
	return 0;
}

u32 gdb_arch_reg_size(u32 n)
{
	(void)n;
	return 0;
}

void gdb_arch_reg_get(const struct cpu_state *c, u32 n, u8 *value)
{
	(void)c;
	(void)n;
	(void)value;
}

bool gdb_arch_reg_set(struct cpu_state *c, u32 n, const u8 *value)
{
	(void)c;
	(void)n;
	(void)value;
	return false;
}

int gdb_arch_translate(const struct mem *m, const struct cpu_state *c, u64 gva, u64 *gpa)
{
	(void)m;
	(void)c;
	(void)gva;
	(void)gpa;
	return -EFAULT;
}

bool gdb_arch_is_shared(u64 gva)
{
	return gva >> 63;
}

const char *gdb_arch_activity(const struct cpu_state *c)
{
	return c->powered_off ? "powered off" : "running";
}
