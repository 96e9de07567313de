/* test_load.c: kernels into guest memory: copied, unpacked in place, moved to a random address; the real Debian kernels when they are
 * there. */
#include "cm.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>
#include <zstd.h>

#include "arch/x86_64/elf_image.h"
#include "arch/x86_64/kaslr.h"
#include "arch/x86_64/load.h"
#include "x86_elf.h"

#define RAM  (64 * MIB)
#define VIRT 0xffffffff80000000ull

struct fixture {
	struct mem mem;
	struct load_request rq;
	struct err err;
	struct loaded_kernel kernel;
	u8 *packed; /* of the bzImage */
	struct bzimage bz;
};

static struct fixture *start(u64 ram)
{
	const struct mem_range range = {0, ram};
	struct fixture *f = xzalloc(sizeof(*f));

	assert_int_equal(mem_init(&f->mem, &range, 1, MEM_HUGE_NONE, &f->err), 0);
	f->rq = (struct load_request){.mem = &f->mem, .limit = ram};
	return f;
}

static void stop(struct fixture *f)
{
	mem_fini(&f->mem);
	free(f->packed);
	free(f);
}

static const u8 *at(struct fixture *f, u64 gpa)
{
	return mem_ptr(&f->mem, gpa, 1);
}

/* The two segments of make_elf, moved by offset; the rest of the second is zero. */
static void assert_loaded(struct fixture *f, u64 offset)
{
	for (u32 i = 0; i < ELF_TEXT_LEN; i++)
		assert_int_equal(at(f, ELF_TEXT_PADDR + offset)[i], (u8)(i + 1));
	for (u32 i = 0; i < ELF_DATA_MEM; i++)
		assert_int_equal(at(f, ELF_DATA_PADDR + offset)[i], i < ELF_DATA_LEN ? (u8)(i + 7) : 0);
}

/* A bzImage with file as its payload. */
static void set_payload(struct fixture *f, const u8 *file, size_t size)
{
	size_t cap = ZSTD_compressBound(size), n;

	free(f->packed);
	f->packed = xzalloc(cap + 4);
	n = ZSTD_compress(f->packed, cap, file, size, 1);
	assert_false(ZSTD_isError(n));
	st_le32(f->packed + n, (u32)size);
	f->bz = (struct bzimage){
		.fd = -1,
		.kernel = f->packed,
		.kernel_len = n + 4,
		.payload = f->packed,
		.payload_len = n + 4,
		.pref_address = ELF_TEXT_PADDR,
		.init_size = 0x10000,
		.alignment = 2 * MIB,
	};
}

static void an_elf_is_copied_to_its_addresses(void **state)
{
	struct fixture *f = start(RAM);
	size_t size;
	auto_free u8 *elf = make_elf(0x1000, false, &size);
	const struct image img = {.kind = IMAGE_ELF, .data = elf, .size = size};

	(void)state;
	assert_int_equal(load_elf(&f->rq, &img, &f->kernel, &f->err), 0);
	assert_loaded(f, 0);
	assert_int_equal(f->kernel.entry, ELF_TEXT_PADDR + 0x10);
	assert_false(f->kernel.pvh);
	assert_int_equal(f->kernel.end, ELF_DATA_PADDR + ELF_DATA_MEM);
	stop(f);
}

static void an_elf_with_the_note_is_entered_by_pvh(void **state)
{
	struct fixture *f = start(RAM);
	size_t size;
	auto_free u8 *elf = make_elf(0x1000, true, &size);
	const struct image img = {.kind = IMAGE_ELF, .data = elf, .size = size};

	(void)state;
	assert_int_equal(load_elf(&f->rq, &img, &f->kernel, &f->err), 0);
	assert_true(f->kernel.pvh);
	assert_int_equal(f->kernel.entry, ELF_PVH_ENTRY);
	stop(f);
}

static void a_kernel_that_does_not_fit_or_lies_too_low_is_refused(void **state)
{
	struct fixture *f = start(17 * MIB);
	size_t size;
	auto_free u8 *elf = make_elf(0x1000, false, &size);
	struct image img = {.kind = IMAGE_ELF, .data = elf, .size = size};
	Elf64_Phdr *p = (void *)(elf + sizeof(Elf64_Ehdr));

	(void)state;
	f->rq.limit = 16 * MIB;
	assert_int_equal(load_elf(&f->rq, &img, &f->kernel, &f->err), -ENOMEM);
	assert_string_equal(f->err.msg,
			    "the kernel needs memory up to 17 MiB, and the initrd begins at 16 MiB; give the machine more memory");
	f->rq.limit = 17 * MIB;
	p[1].p_memsz = 100 * MIB;
	assert_int_equal(load_elf(&f->rq, &img, &f->kernel, &f->err), -ENOMEM);
	assert_string_equal(f->err.msg, "the kernel needs memory up to 117 MiB; the machine has 17 MiB");
	p[1].p_memsz = ELF_DATA_MEM;
	p[0].p_paddr = 0x7000;
	assert_int_equal(load_elf(&f->rq, &img, &f->kernel, &f->err), -ENOEXEC);
	stop(f);
}

/* Offsets that put the unpacked file so that segments have to move down (in place) and up (through a copy). */
static void the_kernel_of_a_bzimage_is_unpacked_wherever_it_lies_in_the_file(void **state)
{
	static const u64 offsets[] = {0x1000, 2 * MIB, 2 * MIB + 0x1000};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(offsets); i++) {
		struct fixture *f = start(RAM);
		size_t size;
		auto_free u8 *elf = make_elf(offsets[i], false, &size);

		set_payload(f, elf, size);
		if (load_bzimage_unpacked(&f->rq, &f->bz, &f->kernel, &f->err) < 0)
			fail_msg("%s", f->err.msg);
		assert_loaded(f, 0);
		assert_int_equal(f->kernel.entry, ELF_TEXT_PADDR + 0x10);
		assert_int_equal(f->kernel.end, ELF_TEXT_PADDR + 0x10000);
		assert_false(f->kernel.kaslr);
		assert_int_equal(*at(f, ELF_TEXT_PADDR - MIB), 0); /* nothing of the file is left there */
		stop(f);
	}
}

static void an_unknown_compression_is_left_to_the_guest(void **state)
{
	struct fixture *f = start(RAM);
	size_t size;
	auto_free u8 *elf = make_elf(0x1000, false, &size);

	(void)state;
	set_payload(f, elf, size);
	f->packed[0] = 'B';
	assert_int_equal(load_bzimage_unpacked(&f->rq, &f->bz, &f->kernel, &f->err), -EOPNOTSUPP);
	assert_int_equal(load_bzimage(&f->rq, &f->bz, &f->kernel, &f->err), 0);
	assert_memory_equal(at(f, ELF_TEXT_PADDR), f->packed, f->bz.kernel_len);
	assert_int_equal(f->kernel.entry, ELF_TEXT_PADDR + 0x200);
	stop(f);
}

static void a_damaged_payload_is_refused(void **state)
{
	struct fixture *f = start(RAM);
	size_t size;
	auto_free u8 *elf = make_elf(0x1000, false, &size);

	(void)state;
	set_payload(f, elf, size);
	st_le32(f->packed + f->bz.payload_len - 4, (u32)size + 1);
	assert_int_equal(load_bzimage_unpacked(&f->rq, &f->bz, &f->kernel, &f->err), -EBADMSG);
	st_le32(f->packed + f->bz.payload_len - 4, 63 * MIB);
	assert_int_equal(load_bzimage_unpacked(&f->rq, &f->bz, &f->kernel, &f->err), -ENOMEM);
	set_payload(f, (const u8 *)"no ELF at all", 13);
	assert_int_equal(load_bzimage_unpacked(&f->rq, &f->bz, &f->kernel, &f->err), -ENOEXEC);
	stop(f);
}

/* One place of each kind, in the text segment. */
#define PLACE_64      0x100u
#define PLACE_INVERSE 0x110u
#define PLACE_32      0x120u

static size_t add_relocations(u8 **elf, size_t size, bool inverse, u32 extra)
{
	const u32 base = (u32)(VIRT + ELF_TEXT_PADDR);
	const u32 with[] = {0, base + PLACE_64, 0, base + PLACE_INVERSE, 0, base + PLACE_32, extra};
	const u32 without[] = {0, base + PLACE_64, 0, base + PLACE_32};
	size_t len = inverse ? sizeof(with) - (extra ? 0 : 4) : sizeof(without);

	*elf = realloc(*elf, size + len);
	memcpy(*elf + size, inverse ? with : without, len);
	return size + len;
}

/* Loads a kernel with tables at random, checks all three places, and adds to what of it has moved. */
static void check_random(bool inverse, bool *moved_phys, bool *moved_virt)
{
	struct fixture *f = start(RAM);
	size_t size;
	u8 *elf = make_elf(2 * MIB + 0x1000, false, &size), *text;
	const u8 *k;
	u64 delta;

	size = add_relocations(&elf, size - ELF_NOTE_LEN, inverse, 0); /* the tables begin where the last segment ends */
	text = elf + 2 * MIB + 0x1000;
	set_payload(f, elf, size);
	f->rq.kaslr = true;
	if (load_bzimage_unpacked(&f->rq, &f->bz, &f->kernel, &f->err) < 0)
		fail_msg("%s", f->err.msg);
	assert_true(f->kernel.kaslr);
	assert_int_equal(f->kernel.start % (2 * MIB), 0);
	assert_int_equal(f->kernel.entry, f->kernel.start + 0x10);
	k = at(f, f->kernel.start);
	delta = ld_le64(k + PLACE_64) - ld_le64(text + PLACE_64);
	assert_int_equal(delta % (2 * MIB), 0);
	assert_true(delta <= KASLR_IMAGE_SPACE - ELF_TEXT_PADDR - 0x10000);
	assert_int_equal(ld_le32(k + PLACE_32), ld_le32(text + PLACE_32) + (u32)delta);
	assert_int_equal(ld_le32(k + PLACE_INVERSE), ld_le32(text + PLACE_INVERSE) - (inverse ? (u32)delta : 0));
	*moved_phys |= f->kernel.start != ELF_TEXT_PADDR;
	*moved_virt |= delta != 0;
	free(elf);
	stop(f);
}

static void a_kernel_with_relocations_moves_to_random_addresses(void **state)
{
	bool moved_phys = false, moved_virt = false;

	(void)state;
	for (u32 i = 0; i < 16; i++)
		check_random(i & 1, &moved_phys, &moved_virt);
	assert_true(moved_phys && moved_virt); /* 16 times the same of 23 and of 500 places: not in this life */
}

static void a_relocation_outside_of_the_kernel_is_refused(void **state)
{
	static const u32 bad[] = {0x81000000u + 0x4000 - 3, 0x80ffffff, 0x7fffffff, 1};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		struct fixture *f = start(RAM);
		size_t size;
		u8 *elf = make_elf(2 * MIB + 0x1000, false, &size);

		size = add_relocations(&elf, size - ELF_NOTE_LEN, true, bad[i]);
		set_payload(f, elf, size);
		f->rq.kaslr = true;
		assert_int_equal(load_bzimage_unpacked(&f->rq, &f->bz, &f->kernel, &f->err), -EBADMSG);
		free(elf);
		stop(f);
	}
}

static void tables_that_are_none_are_not_applied(void **state)
{
	const u32 four[] = {0, 1, 0, 2, 0, 3, 0, 4}, headless[] = {1, 0, 2, 0};

	(void)state;
	assert_false(kaslr_tables_ok((const u8 *)four, sizeof(four)));
	assert_false(kaslr_tables_ok((const u8 *)headless, sizeof(headless)));
	assert_true(kaslr_tables_ok((const u8 *)four, sizeof(four) - 8));
	assert_true(kaslr_tables_ok((const u8 *)four, sizeof(four) - 16));
	assert_false(kaslr_tables_ok((const u8 *)four, sizeof(four) - 17));
	assert_false(kaslr_tables_ok((const u8 *)four, 0));
}

/* In place into guest memory, and the straightforward way: into a buffer, then segment by segment. */
static void check_real_kernel(const char *path)
{
	struct fixture *f = start(512 * MIB);
	struct image img;
	struct elf_image elf;
	auto_free u8 *file = NULL;
	size_t len, packed;

	assert_int_equal(image_open(&img, path, &f->err), 0);
	assert_int_equal(load_bzimage_unpacked(&f->rq, &img.bz, &f->kernel, &f->err), 0);
	packed = img.bz.payload_len - 4;
	len = ld_le32(img.bz.payload + packed);
	file = xzalloc(len);
	assert_int_equal(unpack(unpack_detect(img.bz.payload, packed), img.bz.payload, packed, file, len, &f->err), 0);
	assert_int_equal(elf_parse(&elf, file, len, &f->err), 0);
	assert_true(kaslr_tables_ok(file + elf.file_end, len - elf.file_end));
	assert_int_equal(f->kernel.entry, elf.entry);
	for (u32 s = 0; s < elf.nr_segments; s++)
		assert_int_equal(memcmp(at(f, elf.segments[s].paddr), file + elf.segments[s].offset, elf.segments[s].filesz), 0);
	f->rq.kaslr = true;
	assert_int_equal(load_bzimage_unpacked(&f->rq, &img.bz, &f->kernel, &f->err), 0);
	assert_true(f->kernel.kaslr);
	image_close(&img);
	stop(f);
}

static void debians_kernels_come_out_the_same_both_ways(void **state)
{
	static const char *const names[] = {"vmlinuz-6.1", "vmlinuz-6.12"};
	u32 found = 0;

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(names); i++) {
		auto_free char *path = guest_file(names[i]);

		if (path)
			check_real_kernel(path);
		found += path != NULL;
	}
	if (!found)
		skip();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_elf_is_copied_to_its_addresses),
		cmocka_unit_test(an_elf_with_the_note_is_entered_by_pvh),
		cmocka_unit_test(a_kernel_that_does_not_fit_or_lies_too_low_is_refused),
		cmocka_unit_test(the_kernel_of_a_bzimage_is_unpacked_wherever_it_lies_in_the_file),
		cmocka_unit_test(an_unknown_compression_is_left_to_the_guest),
		cmocka_unit_test(a_damaged_payload_is_refused),
		cmocka_unit_test(a_kernel_with_relocations_moves_to_random_addresses),
		cmocka_unit_test(a_relocation_outside_of_the_kernel_is_refused),
		cmocka_unit_test(tables_that_are_none_are_not_applied),
		cmocka_unit_test(debians_kernels_come_out_the_same_both_ways),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
