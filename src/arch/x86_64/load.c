/* load.c: kernel images into guest memory. */
#include "arch/x86_64/load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "arch/x86_64/elf_image.h"
#include "arch/x86_64/kaslr.h"
#include "arch/x86_64/layout.h"

/* The x86-64 linker puts the first segment of a vmlinux this far into the file (its maximal page size). Unpacked this far below the
 * kernel's address, the first segments are in place as they come out; were it otherwise, they would be moved. */
#define VMLINUX_TEXT_OFFSET (2 * MIB)

#define BZ_ENTRY_64 0x200 /* of the 64-bit entry point in the protected-mode part */

/* An unpacked vmlinux, and by how much it is placed above its link addresses. */
struct vmlinux {
	const u8 *file;
	u64 file_gpa; /* where the file was unpacked in guest memory; 0: it was not */
	u8 *copy;     /* owned; what file points to when it had to be saved from the segments */
	u64 file_len;
	struct elf_image elf;
	u64 phys_offset;
};

static int too_small(const struct load_request *rq, u64 end, struct err *e)
{
	const struct mem_region *low = &rq->mem->regions[0];

	if (end < low->size)
		return err_set(e, -ENOMEM,
			       "the kernel needs memory up to %llu MiB, and the initrd begins at %llu MiB; give the machine more memory",
			       (unsigned long long)(ALIGN_UP(end, MIB) >> 20), (unsigned long long)(rq->limit >> 20));
	return err_set(e, -ENOMEM, "the kernel needs memory up to %llu MiB; the machine has %llu MiB",
		       (unsigned long long)(ALIGN_UP(end, MIB) >> 20), (unsigned long long)(rq->mem->size >> 20));
}

/* Kernels live between 1 MiB and the limit. */
static int check_extent(const struct load_request *rq, u64 start, u64 end, struct err *e)
{
	if (start < X86_HIGH_RAM_GPA)
		return err_set(e, -ENOEXEC, "the kernel asks to be loaded below 1 MiB (at %#llx)", (unsigned long long)start);
	if (end > rq->limit || !mem_ptr(rq->mem, start, end - start))
		return too_small(rq, end, e);
	return 0;
}

/* Whether segments can be moved inside guest memory one after the other: each goes down or stays, and never onto one still to be moved. */
static bool moves_down(const struct vmlinux *k)
{
	u64 last = 0;

	for (u32 i = 0; i < k->elf.nr_segments; i++) {
		const struct elf_segment *s = &k->elf.segments[i];

		if (s->offset < last || s->paddr + k->phys_offset > k->file_gpa + s->offset)
			return false;
		last = s->offset + s->filesz;
	}
	return true;
}

static void copy_segments(const struct load_request *rq, const struct vmlinux *k)
{
	for (u32 i = 0; i < k->elf.nr_segments; i++) {
		const struct elf_segment *s = &k->elf.segments[i];
		u8 *dst = mem_ptr(rq->mem, s->paddr + k->phys_offset, s->memsz);

		if (s->filesz && dst != k->file + s->offset)
			memmove(dst, k->file + s->offset, s->filesz);
	}
}

/* Memory beyond a segment's file part reads as zero: fresh memory does; what the unpacked file lay on does not. */
static void clear_bss(const struct load_request *rq, const struct vmlinux *k)
{
	u64 dirty_end = k->file_gpa + k->file_len;

	for (u32 i = 0; k->file_gpa && i < k->elf.nr_segments; i++) {
		const struct elf_segment *s = &k->elf.segments[i];
		u64 start = s->paddr + k->phys_offset + s->filesz, end = MIN(s->paddr + k->phys_offset + s->memsz, dirty_end);

		if (start < end)
			memset(mem_ptr(rq->mem, start, end - start), 0, end - start);
	}
}

static int place_vmlinux(const struct load_request *rq, struct vmlinux *k, struct err *e)
{
	u64 start = k->elf.start + k->phys_offset, end = k->elf.end + k->phys_offset;
	int ret = check_extent(rq, start, end, e);

	if (ret < 0)
		return ret;
	if (k->file_gpa && !moves_down(k)) {
		k->copy = malloc(k->file_len);
		if (!k->copy)
			return err_set(e, -ENOMEM, "no memory to unpack the kernel (%llu bytes)", (unsigned long long)k->file_len);
		k->file = memcpy(k->copy, k->file, k->file_len);
	}
	copy_segments(rq, k);
	mem_dirty(rq->mem, start, end - start);
	return 0;
}

int load_elf(const struct load_request *rq, const struct image *img, struct loaded_kernel *out, struct err *e)
{
	struct vmlinux k = {.file = img->data, .file_len = img->size};
	int ret = elf_parse(&k.elf, img->data, img->size, e);

	if (ret == 0)
		ret = place_vmlinux(rq, &k, e);
	*out = (struct loaded_kernel){
		.entry = k.elf.pvh_entry ? k.elf.pvh_entry : k.elf.entry,
		.pvh = k.elf.pvh_entry != 0,
		.start = k.elf.start,
		.end = k.elf.end,
	};
	return ret;
}

/* Gives the pages back on which only the rest of the unpacked file lies. A kernel does not mind what is there: failure is no matter. */
static void drop_leftovers(const struct load_request *rq, const struct vmlinux *k)
{
	u64 start = k->elf.start + k->phys_offset, end = ALIGN_UP(k->elf.end + k->phys_offset, MEM_PAGE_SIZE);
	u64 file_end = ALIGN_DOWN(k->file_gpa + k->file_len, MEM_PAGE_SIZE);

	if (k->file_gpa < start)
		madvise(mem_ptr(rq->mem, k->file_gpa, start - k->file_gpa), start - k->file_gpa, MADV_REMOVE);
	if (end < file_end)
		madvise(mem_ptr(rq->mem, end, file_end - end), file_end - end, MADV_REMOVE);
}

/* Moves the kernel to a random virtual address, if it brings relocations. Its tables lie behind all segments, where nothing was moved. */
static int randomize(const struct load_request *rq, const struct bzimage *bz, const struct vmlinux *k, struct loaded_kernel *out,
		     struct err *e)
{
	u64 size = MAX(bz->init_size, k->elf.end - k->elf.start), virt = k->elf.start, len = k->elf.end - k->elf.start;
	const u8 *table = k->file + k->elf.file_end;
	size_t table_len = k->file_len - k->elf.file_end;
	u8 *kernel = mem_ptr(rq->mem, k->elf.start + k->phys_offset, len);

	if (!kaslr_tables_ok(table, table_len) || virt > KASLR_IMAGE_SPACE || size > KASLR_IMAGE_SPACE - virt)
		return 0;
	out->kaslr = true;
	return kaslr_relocate(kernel, len, k->elf.start, table, table_len, kaslr_pick(KASLR_IMAGE_SPACE - virt - size, bz->alignment), e);
}

/* Unpacks the payload into guest memory, so that the kernel comes out at pref_address + phys_offset. */
static int unpack_vmlinux(const struct load_request *rq, const struct bzimage *bz, struct vmlinux *k, struct err *e)
{
	u64 packed = bz->payload_len - sizeof(u32);
	int ret;

	k->file_gpa = bz->pref_address + k->phys_offset - VMLINUX_TEXT_OFFSET;
	k->file = mem_ptr(rq->mem, k->file_gpa, k->file_len);
	if (!k->file || k->file_gpa + k->file_len > rq->mem->regions[0].size)
		return too_small(rq, k->file_gpa + k->file_len, e);
	ret = unpack(unpack_detect(bz->payload, packed), bz->payload, packed, (u8 *)k->file, k->file_len, e);
	if (ret == 0)
		ret = elf_parse(&k->elf, k->file, k->file_len, e);
	return ret;
}

static int load_vmlinux(const struct load_request *rq, const struct bzimage *bz, struct vmlinux *k, struct loaded_kernel *out,
			struct err *e)
{
	int ret = unpack_vmlinux(rq, bz, k, e);

	if (ret == 0)
		ret = place_vmlinux(rq, k, e);
	if (ret < 0)
		return ret;
	*out = (struct loaded_kernel){
		.entry = k->elf.entry + k->phys_offset,
		.start = k->elf.start + k->phys_offset,
		.end = MAX(k->elf.end, k->elf.start + bz->init_size) + k->phys_offset,
	};
	if (rq->kaslr)
		ret = randomize(rq, bz, k, out, e);
	clear_bss(rq, k);
	drop_leftovers(rq, k);
	return ret;
}

int load_bzimage_unpacked(const struct load_request *rq, const struct bzimage *bz, struct loaded_kernel *out, struct err *e)
{
	struct vmlinux k = {0};
	u64 need;
	int ret;

	if (!bz->payload || unpack_detect(bz->payload, bz->payload_len - sizeof(u32)) == UNPACK_UNKNOWN)
		return -EOPNOTSUPP;
	k.file_len = ld_le32(bz->payload + bz->payload_len - sizeof(u32));
	if (k.file_len > UNPACK_MAX || bz->pref_address < X86_HIGH_RAM_GPA + VMLINUX_TEXT_OFFSET || bz->pref_address > UNPACK_MAX)
		return -EOPNOTSUPP;
	need = bz->pref_address + MAX(bz->init_size, k.file_len);
	if (need > rq->limit)
		return too_small(rq, need, e);
	if (rq->kaslr)
		k.phys_offset = kaslr_pick(rq->limit - need, bz->alignment);
	ret = load_vmlinux(rq, bz, &k, out, e);
	free(k.copy);
	return ret;
}

int load_bzimage(const struct load_request *rq, const struct bzimage *bz, struct loaded_kernel *out, struct err *e)
{
	u64 size = MAX(bz->init_size, bz->kernel_len), end;
	int ret;

	if (__builtin_add_overflow(bz->pref_address, size, &end))
		return err_set(e, -ENOEXEC, "the bzImage header asks for an impossible address");
	ret = check_extent(rq, bz->pref_address, end, e);
	if (ret == 0)
		ret = bz->fd >= 0 ? mem_load_file(rq->mem, bz->pref_address, bz->fd, bz->file_offset, bz->kernel_len, e)
				  : mem_write(rq->mem, bz->pref_address, bz->kernel, bz->kernel_len);
	*out = (struct loaded_kernel){.entry = bz->pref_address + BZ_ENTRY_64, .start = bz->pref_address, .end = end};
	return ret;
}
