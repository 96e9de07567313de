/* code.c: the memory of translated code: a memfd mapped twice, writable for the translator, executable for the processor. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tcg/tools.h"
#include "tcg/unit.h"
#include "tcg/x86_64/decode.h"
#include "tcg/x86_64/xlate.h"

/* What an average unit needs, by counts on a boot of Debian's kernel: 330 bytes of code, 2 exits, 10 instructions, 5 relocations. */
#define BYTES_PER_UNIT 330u
/* Per cent of the size asked for that holds code; the rest is for the arrays. */
#define CODE_SHARE 56

/* ---- its memory comes as it fills ---- */

/* Elements [first, first + n) of an array. */
static void populate(void *p, u64 first, u64 n, u64 size)
{
	u64 from = ALIGN_DOWN((u64)(uintptr_t)p + first * size, MEM_PAGE_SIZE), to = (u64)(uintptr_t)p + (first + n) * size;

	/* Where the host cannot (before Linux 5.14) it comes page by page. */
	madvise((void *)(uintptr_t)from, ALIGN_UP(to, MEM_PAGE_SIZE) - from, MADV_POPULATE_WRITE);
}

/* Relocations, which few units have, come page by page. */
static void populate_piece(struct tcg_code *k, u32 n, u64 from, u64 to)
{
	const struct code_chunk *ch = &k->chunks[n];
	u64 size = k->chunk_size;

	populate(k->rw, n * size + from, to - from, 1);
	populate(k->units, ch->first_unit + k->max_units * from / size, k->max_units * (to - from) / size, sizeof(*k->units));
	populate(k->exits, ch->first_exit + k->max_exits * from / size, k->max_exits * (to - from) / size, sizeof(*k->exits));
	populate(k->insns, ch->first_insn + k->max_insns * from / size, k->max_insns * (to - from) / size, sizeof(*k->insns));
}

/* What cache_prepare has asked for. ctx: loop */
static void prepare(struct loop_work *w)
{
	struct tcg_code *k = container_of(w, struct tcg_code, prepare);

	if (!k->populated) {
		k->populated = true;
		populate(k->hash, 0, BIT(UNIT_HASH_BITS), sizeof(*k->hash));
		populate(k->ids, 0, UNIT_ID_CACHE, sizeof(*k->ids));
	}
	for (u32 i = 0; i < ARRAY_SIZE(k->cur); i++) {
		struct code_chunk *ch;
		u32 n, from, to;

		code_lock(k);
		n = k->cur[i];
		ch = &k->chunks[n];
		from = ch->ready;
		to = ch->ready = ch->wanted;
		code_unlock(k);
		if (from < to)
			populate_piece(k, n, from, to);
	}
}

/* ---- begin and end ---- */

static void *map_anon(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static int map_code(struct tcg_code *k, struct err *e)
{
	void *rw, *rx;

	k->fd = memfd_create("husk-code", MFD_CLOEXEC);
	if (k->fd < 0 || ftruncate(k->fd, (off_t)k->size) < 0)
		return err_errno(e, "cannot make the memory of translated code");
	rw = mmap(NULL, k->size, PROT_READ | PROT_WRITE, MAP_SHARED, k->fd, 0);
	if (rw == MAP_FAILED)
		return err_errno(e, "cannot map the memory of translated code");
	k->rw = rw;
	rx = mmap(NULL, k->size, PROT_READ | PROT_EXEC, MAP_SHARED, k->fd, 0);
	if (rx == MAP_FAILED)
		return err_errno(e, "this host does not let husk map its own code as executable (SELinux execmem, a noexec policy?)");
	k->rx = rx;
	return 0;
}

static void *map_checked(size_t size, int *ret)
{
	void *p = map_anon(size);

	if (!p)
		*ret = -ENOMEM;
	return p;
}

static int map_tables(struct tcg_code *k, struct err *e)
{
	int ret = 0;

	k->max_units = k->chunk_size / BYTES_PER_UNIT;
	k->max_exits = k->max_units * 5 / 2;
	k->max_insns = k->max_units * 12;
	k->max_relocs = k->max_units * 8;
	k->units = map_checked(CODE_CHUNKS * k->max_units * sizeof(*k->units), &ret);
	k->exits = map_checked(CODE_CHUNKS * k->max_exits * sizeof(*k->exits), &ret);
	k->insns = map_checked(CODE_CHUNKS * k->max_insns * sizeof(*k->insns), &ret);
	k->relocs = map_checked(CODE_CHUNKS * k->max_relocs * sizeof(*k->relocs), &ret);
	k->hash = map_checked(sizeof(u32) << UNIT_HASH_BITS, &ret);
	k->callouts = map_checked(CODE_CALLOUTS * sizeof(*k->callouts), &ret);
	k->ids = map_checked(UNIT_ID_CACHE * sizeof(*k->ids), &ret);
	return ret ? err_set(e, ret, "no memory for the tables of translated code") : 0;
}

/* The tables with an entry per page of guest memory. */
static int map_pages(struct tcg_code *k, struct err *e)
{
	int ret = 0;

	k->nr_pages = k->t->vm->mem.nr_pages;
	k->code_map = map_checked((k->nr_pages + 64) / 8 + 8, &ret);
	k->write_map = map_checked((k->nr_pages + 64) / 8 + 8, &ret);
	k->pages = map_checked((k->nr_pages + 1) * sizeof(*k->pages), &ret);
	return ret ? err_set(e, ret, "no memory for the tables of translated code") : 0;
}

static void unmap(void *p, size_t size)
{
	if (p)
		munmap(p, size);
}

static void unmap_pages(struct tcg_code *k)
{
	unmap(k->pages, (k->nr_pages + 1) * sizeof(*k->pages));
	unmap(k->write_map, (k->nr_pages + 64) / 8 + 8);
	unmap(k->code_map, (k->nr_pages + 64) / 8 + 8);
	k->pages = NULL;
	k->write_map = k->code_map = NULL;
}

int code_mem_changed(struct tcg_code *k, struct err *e)
{
	unmap_pages(k);
	return map_pages(k, e);
}

int code_new(struct tcg_vm *t, u64 size, struct err *e)
{
	struct tcg_code *k = xzalloc(sizeof(*k));
	int ret;

	t->code = k;
	k->t = t;
	k->prepare.run = prepare;
	k->size = ALIGN_DOWN(size * CODE_SHARE / 100, CODE_CHUNKS * MEM_PAGE_SIZE);
	k->chunk_size = (u32)(k->size / CODE_CHUNKS);
	ret = map_code(k, e);
	if (!ret)
		ret = map_tables(k, e);
	if (!ret)
		ret = map_pages(k, e);
	if (!ret)
		ret = xlate_init(k, e);
	if (ret) {
		code_free(t);
		return ret;
	}
	cache_reset(k);
	ret = tools_new(t, e);
	if (ret)
		code_free(t);
	return ret;
}

void code_free(struct tcg_vm *t)
{
	struct tcg_code *k = t->code;

	if (!k)
		return;
	loop_work_cancel(&t->vm->loop, &k->prepare);
	tools_free(t);
	t->code = NULL;
	xlate_fini(k);
	unmap_pages(k);
	unmap(k->callouts, CODE_CALLOUTS * sizeof(*k->callouts));
	unmap(k->ids, UNIT_ID_CACHE * sizeof(*k->ids));
	unmap(k->hash, sizeof(u32) << UNIT_HASH_BITS);
	unmap(k->relocs, CODE_CHUNKS * k->max_relocs * sizeof(*k->relocs));
	unmap(k->insns, CODE_CHUNKS * k->max_insns * sizeof(*k->insns));
	unmap(k->exits, CODE_CHUNKS * k->max_exits * sizeof(*k->exits));
	unmap(k->units, CODE_CHUNKS * k->max_units * sizeof(*k->units));
	unmap(k->rx, k->size);
	unmap(k->rw, k->size);
	if (k->fd > 0)
		fd_close(&k->fd);
	free(k);
}
