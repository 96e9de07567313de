/* gdb_mem.c: guest memory as the debugger sees it, by virtual address and without its own breakpoints; and these. */
#include <errno.h>
#include <string.h>

#include "vmm/gdb_impl.h"

/* ---- addresses ---- */

static bool translate_by(struct gdb *g, u32 index, u64 gva, u64 *gpa)
{
	const struct cpu_state *c = gdb_cpu(g, index, false);

	return c && gdb_arch_translate(&g->vm->mem, c, gva, gpa) == 0 && mem_find(&g->vm->mem, *gpa, 1);
}

/* By the vCPU that the debugger looks at; what all address spaces share also by another one, should that one not have paging yet. */
static bool translate(struct gdb *g, u64 gva, u64 *gpa)
{
	if (translate_by(g, g->thread_g, gva, gpa))
		return true;
	for (u32 i = 0; i < g->vm->nr_vcpus && gdb_arch_is_shared(gva); i++) {
		if (i != g->thread_g && translate_by(g, i, gva, gpa))
			return true;
	}
	return false;
}

/* ---- memory ---- */

/* gcc wants to see that they fit into debug_break.saved. */
static u32 break_len(void)
{
	return MIN(gdb_arch_break_len, (u32)DEBUG_BREAK_MAX);
}

/* The bytes of [gpa, gpa + len) that breakpoints hide: into data. */
static void show_saved(const struct gdb *g, u64 gpa, u8 *data, u64 len)
{
	const struct vm_debug *d = &g->vm->debug;

	for (u32 i = 0; i < d->nr_breaks; i++) {
		for (u32 k = 0; k < break_len(); k++) {
			if (d->breaks[i].gpa + k - gpa < len)
				data[d->breaks[i].gpa + k - gpa] = d->breaks[i].saved[k];
		}
	}
}

u64 gdb_mem_read(struct gdb *g, u64 gva, u8 *data, u64 len)
{
	u64 done = 0, gpa;

	while (done < len) {
		u64 at = gva + done, n = MIN(len - done, MEM_PAGE_SIZE - at % MEM_PAGE_SIZE);

		if (!translate(g, at, &gpa) || mem_read(&g->vm->mem, gpa, data + done, n) < 0)
			break;
		show_saved(g, gpa, data + done, n);
		done += n;
	}
	return done;
}

/* Writes under the breakpoints: they stay, and hide the new bytes. */
static int write_page(struct gdb *g, u64 gpa, const u8 *data, u64 len)
{
	struct vm_debug *d = &g->vm->debug;
	int ret = mem_write(&g->vm->mem, gpa, data, len);

	for (u32 i = 0; i < d->nr_breaks && ret == 0; i++) {
		struct debug_break *b = &d->breaks[i];
		bool hit = false;

		for (u32 k = 0; k < break_len(); k++) {
			if (b->gpa + k - gpa >= len)
				continue;
			b->saved[k] = data[b->gpa + k - gpa];
			hit = true;
		}
		if (hit)
			ret = mem_write(&g->vm->mem, b->gpa, gdb_arch_break, gdb_arch_break_len);
	}
	return ret;
}

u64 gdb_mem_write(struct gdb *g, u64 gva, const u8 *data, u64 len)
{
	u64 done = 0, gpa;

	while (done < len) {
		u64 at = gva + done, n = MIN(len - done, MEM_PAGE_SIZE - at % MEM_PAGE_SIZE);

		if (!translate(g, at, &gpa) || write_page(g, gpa, data + done, n) < 0)
			break;
		done += n;
	}
	return done;
}

/* ---- breakpoints in memory ---- */

static int add_soft(struct gdb *g, u64 gva)
{
	struct vm_debug *d = &g->vm->debug;
	struct debug_break b = {.gva = gva};
	int ret;

	for (u32 i = 0; i < d->nr_breaks; i++) {
		if (d->breaks[i].gva == gva)
			return 0; /* gdb may repeat itself */
	}
	if (d->nr_breaks == DEBUG_MAX_BREAKS)
		return -ENOSPC;
	if (gva % gdb_arch_break_len)
		return -EINVAL;
	if (!translate(g, gva, &b.gpa))
		return -EFAULT;
	ret = mem_read(&g->vm->mem, b.gpa, b.saved, gdb_arch_break_len);
	show_saved(g, b.gpa, b.saved, gdb_arch_break_len); /* another address of the same bytes */
	if (ret == 0)
		ret = mem_write(&g->vm->mem, b.gpa, gdb_arch_break, gdb_arch_break_len);
	if (ret == 0)
		d->breaks[d->nr_breaks++] = b;
	return ret;
}

/* The guest may have changed the bytes meanwhile: then they stay. */
static void restore(struct gdb *g, const struct debug_break *b)
{
	u8 now[DEBUG_BREAK_MAX];

	if (debug_break_at(&g->vm->debug, b->gpa) || mem_read(&g->vm->mem, b->gpa, now, gdb_arch_break_len) < 0 ||
	    memcmp(now, gdb_arch_break, gdb_arch_break_len) != 0)
		return;
	if (mem_write(&g->vm->mem, b->gpa, b->saved, gdb_arch_break_len) < 0)
		log_warn(g->vm->log, "gdb: a breakpoint at 0x%llx cannot be taken back", (unsigned long long)b->gva);
}

static int remove_soft(struct gdb *g, u64 gva)
{
	struct vm_debug *d = &g->vm->debug;

	for (u32 i = 0; i < d->nr_breaks; i++) {
		struct debug_break b = d->breaks[i];

		if (b.gva != gva)
			continue;
		d->breaks[i] = d->breaks[--d->nr_breaks];
		restore(g, &b);
		return 0;
	}
	return -ENOENT;
}

/* ---- those of the processor ---- */

static enum debug_hw_kind kind_of(u32 type)
{
	return type == 1 ? DEBUG_HW_EXEC : type == 2 ? DEBUG_HW_WRITE : DEBUG_HW_ACCESS;
}

static struct debug_hw *find_hw(struct gdb *g, u32 type, u64 gva, u64 len)
{
	for (u32 i = 0; i < DEBUG_MAX_HW; i++) {
		if (g->hw[i].len && g->hw_type[i] == type && g->hw[i].addr == gva && (type == 1 || g->hw[i].len == len))
			return &g->hw[i];
	}
	return NULL;
}

static int add_hw(struct gdb *g, u32 type, u64 gva, u64 len)
{
	if (type == 1)
		len = 1;
	if (len < 1 || len > 8 || len & (len - 1) || gva & (len - 1))
		return -EINVAL;
	if (find_hw(g, type, gva, len))
		return 0;
	for (u32 i = 0; i < DEBUG_MAX_HW; i++) {
		if (g->hw[i].len)
			continue;
		g->hw[i] = (struct debug_hw){.addr = gva, .len = (u8)len, .kind = (u8)kind_of(type)};
		g->hw_type[i] = (u8)type;
		return 0;
	}
	return -ENOSPC;
}

int gdb_break_add(struct gdb *g, u32 type, u64 gva, u64 len)
{
	return type == 0 ? add_soft(g, gva) : add_hw(g, type, gva, len);
}

int gdb_break_remove(struct gdb *g, u32 type, u64 gva, u64 len)
{
	struct debug_hw *hw = type ? find_hw(g, type, gva, len) : NULL;

	if (type == 0)
		return remove_soft(g, gva);
	if (!hw)
		return -ENOENT;
	hw->len = 0;
	return 0;
}

void gdb_break_clear(struct gdb *g)
{
	struct vm_debug *d = &g->vm->debug;

	while (d->nr_breaks) {
		struct debug_break b = d->breaks[--d->nr_breaks];

		restore(g, &b);
	}
	memset(g->hw, 0, sizeof(g->hw));
}
