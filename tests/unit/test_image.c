/* test_image.c: kernel files: what is recognized, and that no damaged file gets through. */
#include "cm.h"

#include <errno.h>
#include <fcntl.h>
#include <lz4.h>
#include <lzma.h>
#include <stdio.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "arch/x86_64/elf_image.h"
#include "arch/x86_64/image.h"
#include "x86_elf.h"

#define SETUP_LEN  1024u /* one sector of setup behind the first */
#define KERNEL_LEN 4096u

static int open_bytes(struct image *img, const void *data, size_t len, struct err *e)
{
	char path[] = "/tmp/husk-image-XXXXXX";
	int fd = mkstemp(path), ret;

	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, data, len), 0);
	close(fd);
	ret = image_open(img, path, e);
	if (ret < 0 && !strstr(e->msg, path))
		fail_msg("the message does not name the file: %s", e->msg);
	unlink(path);
	return ret;
}

static void refused(const void *data, size_t len, const char *why)
{
	struct image img;
	struct err e = {0};

	assert_true(open_bytes(&img, data, len, &e) < 0);
	if (!strstr(e.msg, why))
		fail_msg("expected \"%s\" in: %s", why, e.msg);
}

/* A bzImage of SETUP_LEN + KERNEL_LEN bytes whose payload are the 64 bytes at 0x100 of the kernel. */
static u8 *make_bzimage(void)
{
	u8 *d = xzalloc(SETUP_LEN + KERNEL_LEN);

	d[BZ_SETUP_SECTS] = 1;
	st_le16(d + BZ_BOOT_FLAG, BZ_BOOT_FLAG_VALUE);
	d[BZ_HEADER_LEN] = 0x6a;
	st_le32(d + BZ_MAGIC, BZ_MAGIC_VALUE);
	st_le16(d + BZ_VERSION, 0x20f);
	st_le16(d + BZ_XLOADFLAGS, 0x7f);
	st_le32(d + BZ_KERNEL_ALIGNMENT, 0x200000);
	st_le64(d + BZ_PREF_ADDRESS, 0x1000000);
	st_le32(d + BZ_INIT_SIZE, 0x300000);
	st_le32(d + BZ_CMDLINE_SIZE, 2047);
	st_le32(d + BZ_PAYLOAD_OFFSET, 0x100);
	st_le32(d + BZ_PAYLOAD_LENGTH, 64);
	return d;
}

static void a_bzimage_is_taken_apart(void **state)
{
	auto_free u8 *d = make_bzimage();
	struct image img;
	struct err e = {0};

	(void)state;
	assert_int_equal(open_bytes(&img, d, SETUP_LEN + KERNEL_LEN, &e), 0);
	assert_int_equal(img.kind, IMAGE_BZIMAGE);
	assert_ptr_equal(img.bz.kernel, img.data + SETUP_LEN);
	assert_int_equal(img.bz.kernel_len, KERNEL_LEN);
	assert_ptr_equal(img.bz.payload, img.data + SETUP_LEN + 0x100);
	assert_int_equal(img.bz.payload_len, 64);
	assert_int_equal(img.bz.header_len, 0x26c - 0x1f1);
	image_close(&img);
}

static void what_is_no_kernel_is_refused(void **state)
{
	u8 junk[4096];

	(void)state;
	memset(junk, 0x5a, sizeof(junk));
	refused(junk, sizeof(junk), "neither a bzImage nor an ELF vmlinux");
	refused(junk, 3, "neither a bzImage nor an ELF vmlinux");
	refused(junk, 0, "the file is empty");
}

static void a_missing_file_and_a_directory_are_refused(void **state)
{
	struct image img;
	struct err e = {0};

	(void)state;
	assert_int_equal(image_open(&img, "/nonexistent/kernel", &e), -ENOENT);
	assert_string_equal(e.msg, "kernel image \"/nonexistent/kernel\": cannot open it: No such file or directory");
	assert_true(image_open(&img, "/tmp", &e) < 0);
	assert_string_equal(e.msg, "kernel image \"/tmp\": not a regular file");
}

static void a_bzimage_that_is_cut_off_is_refused(void **state)
{
	auto_free u8 *d = make_bzimage();

	(void)state;
	refused(d, 0x280, "neither");
	refused(d, SETUP_LEN, "cut off");
	refused(d, SETUP_LEN + 0x110, "its compressed kernel ends 48 bytes after the file");
	st_le32(d + BZ_PAYLOAD_OFFSET, 0xffffffff);
	st_le32(d + BZ_PAYLOAD_LENGTH, 0xffffffff);
	refused(d, SETUP_LEN + KERNEL_LEN, "cut off");
}

static void an_old_or_32_bit_bzimage_is_refused(void **state)
{
	auto_free u8 *d = make_bzimage();

	(void)state;
	st_le16(d + BZ_VERSION, 0x20b);
	refused(d, SETUP_LEN + KERNEL_LEN, "without the 64-bit boot protocol (version 2.11");
	st_le16(d + BZ_VERSION, 0x20f);
	st_le16(d + BZ_XLOADFLAGS, 0);
	refused(d, SETUP_LEN + KERNEL_LEN, "without the 64-bit boot protocol");
	st_le16(d + BZ_XLOADFLAGS, 1);
	st_le32(d + BZ_KERNEL_ALIGNMENT, 3);
	refused(d, SETUP_LEN + KERNEL_LEN, "impossible alignment");
}

static size_t gzip(const u8 *src, size_t len, u8 *dst, size_t cap)
{
	z_stream z = {.next_in = (Bytef *)src, .avail_in = (uInt)len, .next_out = dst, .avail_out = (uInt)cap};

	assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	return z.total_out;
}

static void a_gzipped_elf_is_unpacked(void **state)
{
	size_t size, packed;
	auto_free u8 *elf = make_elf(0x1000, true, &size), *gz = xzalloc(size + 100);
	struct image img;
	struct err e = {0};

	(void)state;
	packed = gzip(elf, size, gz, size + 100);
	assert_int_equal(open_bytes(&img, gz, packed, &e), 0);
	assert_int_equal(img.kind, IMAGE_ELF);
	assert_int_equal(img.size, size);
	assert_memory_equal(img.data, elf, size);
	image_close(&img);
	refused(gz, packed - 100, "gzip data");
	gz[packed / 2] ^= 0xff;
	refused(gz, packed, "gzip data");
}

/* Packs src by format into dst; returns the size. */
static size_t pack(enum unpack_format format, const u8 *src, size_t len, u8 *dst, size_t cap)
{
	size_t n = 0;

	switch (format) {
	case UNPACK_GZIP:
		return gzip(src, len, dst, cap);
	case UNPACK_XZ:
		assert_int_equal(lzma_easy_buffer_encode(0, LZMA_CHECK_CRC32, NULL, src, len, dst, &n, cap), LZMA_OK);
		return n;
	case UNPACK_ZSTD:
		return ZSTD_compress(dst, cap, src, len, 3);
	case UNPACK_LZ4:
		st_le32(dst, 0x184c2102);
		n = (size_t)LZ4_compress_default((const char *)src, (char *)dst + 8, (int)len, (int)cap - 8);
		st_le32(dst + 4, (u32)n);
		return n + 8;
	default:
		fail();
		return 0;
	}
}

static void each_format_unpacks_and_ignores_what_follows(void **state)
{
	static const enum unpack_format formats[] = {UNPACK_GZIP, UNPACK_XZ, UNPACK_ZSTD, UNPACK_LZ4};
	u8 src[20000], packed[30000], out[20000];
	struct err e = {0};

	(void)state;
	for (u32 i = 0; i < sizeof(src); i++)
		src[i] = (u8)(i * i >> 7);
	for (u32 i = 0; i < ARRAY_SIZE(formats); i++) {
		size_t n = pack(formats[i], src, sizeof(src), packed, sizeof(packed));

		st_le32(packed + n, sizeof(src)); /* the size, as Linux appends it */
		assert_int_equal(unpack_detect(packed, n), formats[i]);
		memset(out, 0, sizeof(out));
		if (unpack(formats[i], packed, n + 4, out, sizeof(out), &e) < 0)
			fail_msg("format %u: %s", formats[i], e.msg);
		assert_memory_equal(out, src, sizeof(src));
	}
}

static void damaged_short_and_long_streams_are_refused(void **state)
{
	static const enum unpack_format formats[] = {UNPACK_GZIP, UNPACK_XZ, UNPACK_ZSTD, UNPACK_LZ4};
	u8 src[20000], packed[30000], out[20001];
	struct err e = {0};

	(void)state;
	for (u32 i = 0; i < sizeof(src); i++)
		src[i] = (u8)(i * i >> 7);
	for (u32 i = 0; i < ARRAY_SIZE(formats); i++) {
		size_t n = pack(formats[i], src, sizeof(src), packed, sizeof(packed));

		assert_int_equal(unpack(formats[i], packed, n / 2, out, sizeof(src), &e), -EBADMSG);
		assert_int_equal(unpack(formats[i], packed, 6, out, sizeof(src), &e), -EBADMSG);
		assert_int_equal(unpack(formats[i], packed, n, out, sizeof(src) - 1, &e), -EBADMSG);
		assert_int_equal(unpack(formats[i], packed, n, out, sizeof(src) + 1, &e), -EBADMSG);
	}
}

static void an_elf_gives_its_segments_and_entries(void **state)
{
	size_t size;
	auto_free u8 *file = make_elf(0x1000, true, &size);
	struct elf_image elf;
	struct err e = {0};

	(void)state;
	assert_int_equal(elf_parse(&elf, file, size, &e), 0);
	assert_int_equal(elf.nr_segments, 2);
	assert_int_equal(elf.start, ELF_TEXT_PADDR);
	assert_int_equal(elf.end, ELF_DATA_PADDR + ELF_DATA_MEM);
	assert_int_equal(elf.entry, ELF_TEXT_PADDR + 0x10);
	assert_int_equal(elf.pvh_entry, ELF_PVH_ENTRY);
}

/* Sets one field, expects the sentence, and sets it back. */
#define elf_refused(field, value, why) \
	do { \
		__typeof__(field) good = field; \
		field = (value); \
		assert_true(elf_parse(&elf, file, size, &e) < 0); \
		if (!strstr(e.msg, why)) \
			fail_msg("expected \"%s\": %s", why, e.msg); \
		field = good; \
	} while (0)

static void an_elf_with_impossible_fields_is_refused(void **state)
{
	size_t size;
	auto_free u8 *file = make_elf(0x1000, true, &size);
	Elf64_Ehdr *h = (void *)file;
	Elf64_Phdr *p = (void *)(file + sizeof(*h));
	struct elf_image elf;
	struct err e = {0};

	(void)state;
	elf_refused(h->e_machine, EM_AARCH64, "not an x86-64 ELF");
	elf_refused(h->e_ident[EI_CLASS], ELFCLASS32, "not an x86-64 ELF");
	elf_refused(h->e_type, ET_REL, "not an executable");
	elf_refused(h->e_phoff, UINT64_MAX - 8, "cut off");
	elf_refused(h->e_phnum, 0xffff, "cut off");
	elf_refused(h->e_phentsize, 8, "cut off");
	elf_refused(h->e_phnum, 0, "nothing to load");
	elf_refused(h->e_entry, 0x10, "entry point");
	elf_refused(*(u32 *)(file + size - 4), 0x10, "entry point"); /* PVH's */
	elf_refused(p[0].p_offset, UINT64_MAX, "cut off");
	elf_refused(p[0].p_filesz, size, "cut off");
	elf_refused(p[0].p_memsz, 8, "impossible size");
	elf_refused(p[0].p_paddr, UINT64_MAX - 8, "impossible size");
	for (size_t n = 0; n < size; n++) {
		auto_free u8 *cut = malloc(n ? n : 1); /* of its own, so that the sanitizer sees a read past its end */

		memcpy(cut, file, n);
		if (n < size - ELF_NOTE_LEN)
			assert_true(elf_parse(&elf, cut, n, &e) < 0);
		else
			assert_int_equal(elf_parse(&elf, cut, n, &e), 0);
	}
}

static void notes_with_impossible_sizes_are_passed_over(void **state)
{
	size_t size;
	auto_free u8 *file = make_elf(0x1000, true, &size);
	u8 *note = file + size - ELF_NOTE_LEN;
	struct elf_image elf;
	struct err e = {0};

	(void)state;
	st_le32(note, 0xfffffffe);
	assert_int_equal(elf_parse(&elf, file, size, &e), 0);
	assert_int_equal(elf.pvh_entry, 0);
	st_le32(note, 4);
	st_le32(note + 4, 0xffffffff);
	assert_int_equal(elf_parse(&elf, file, size, &e), 0);
	assert_int_equal(elf.pvh_entry, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_bzimage_is_taken_apart),
		cmocka_unit_test(what_is_no_kernel_is_refused),
		cmocka_unit_test(a_missing_file_and_a_directory_are_refused),
		cmocka_unit_test(a_bzimage_that_is_cut_off_is_refused),
		cmocka_unit_test(an_old_or_32_bit_bzimage_is_refused),
		cmocka_unit_test(a_gzipped_elf_is_unpacked),
		cmocka_unit_test(each_format_unpacks_and_ignores_what_follows),
		cmocka_unit_test(damaged_short_and_long_streams_are_refused),
		cmocka_unit_test(an_elf_gives_its_segments_and_entries),
		cmocka_unit_test(an_elf_with_impossible_fields_is_refused),
		cmocka_unit_test(notes_with_impossible_sizes_are_passed_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
