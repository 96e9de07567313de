/* test_arm_image.c: arm64 kernel files: what is recognized, what is refused with which sentence. */
#include "cm.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "arch/aarch64/image.h"

#define IMAGE_LEN 8192u

static void make_image(u8 *d, u64 flags)
{
	memset(d, 0x5a, IMAGE_LEN);
	st_le64(d + 8, 0);
	st_le64(d + 16, 3 * IMAGE_LEN);
	st_le64(d + 24, flags);
	memcpy(d + 56, "ARM\x64", 4);
}

static void refused(const u8 *data, size_t len, const char *why)
{
	struct arm_image im;
	struct err e = {0};

	assert_true(arm_image_parse(&im, data, len, &e) < 0);
	assert_null(im.bytes);
	if (!strstr(e.msg, why))
		fail_msg("expected \"%s\" in: %s", why, e.msg);
}

static size_t gzip(const u8 *src, size_t len, u8 *dst, size_t room)
{
	z_stream z = {.next_in = (Bytef *)src, .avail_in = (uInt)len, .next_out = dst, .avail_out = (uInt)room};

	assert_int_equal(deflateInit2(&z, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	return z.total_out;
}

static void an_image_tells_its_size_and_its_pages(void **state)
{
	u8 d[IMAGE_LEN];
	struct arm_image im;
	struct err e = {0};

	(void)state;
	make_image(d, 0xa); /* little-endian, 4 KiB pages, anywhere */
	assert_int_equal(arm_image_parse(&im, d, sizeof(d), &e), 0);
	assert_int_equal(im.len, IMAGE_LEN);
	assert_int_equal(im.mem_size, 3 * IMAGE_LEN);
	assert_int_equal(im.pages, ARM_PAGES_4K);
	arm_image_close(&im);
	make_image(d, 6);
	assert_int_equal(arm_image_parse(&im, d, sizeof(d), &e), 0);
	assert_int_equal(im.pages, ARM_PAGES_64K);
	arm_image_close(&im);
}

static void an_image_may_be_gzipped_alone_or_in_an_efi_program(void **state)
{
	u8 d[IMAGE_LEN], z[64 + 2 * IMAGE_LEN] = {0};
	struct arm_image im;
	struct err e = {0};
	size_t len;

	(void)state;
	make_image(d, 2);
	len = gzip(d, sizeof(d), z + 64, sizeof(z) - 64);
	assert_int_equal(arm_image_parse(&im, z + 64, len, &e), 0);
	assert_int_equal(im.len, IMAGE_LEN);
	assert_memory_equal(im.bytes, d, IMAGE_LEN);
	arm_image_close(&im);
	memcpy(z, "MZ\0\0zimg", 8);
	st_le32(z + 8, 64);
	st_le32(z + 12, (u32)len);
	memcpy(z + 24, "gzip", 4);
	assert_int_equal(arm_image_parse(&im, z, 64 + len, &e), 0);
	assert_memory_equal(im.bytes, d, IMAGE_LEN);
	arm_image_close(&im);
	memcpy(z + 24, "zstd", 4);
	refused(z, 64 + len, "not gzip'd");
	memcpy(z + 24, "gzip", 4);
	st_le32(z + 12, UINT32_MAX);
	refused(z, 64 + len, "damaged or cut off");
	for (size_t cut = 2; cut < len; cut++)
		refused(z + 64, cut, "damaged or cut off");
}

/* An EFI header with one section: the file's bytes from 1024 on. */
static void make_efi(u8 *d, u32 section_len)
{
	make_image(d, 2);
	memcpy(d, "MZ", 2);
	st_le32(d + 60, 64);
	memset(d + 64, 0, 100);
	memcpy(d + 64, "PE", 2);
	d[64 + 6] = 1;
	d[64 + 20] = 16;
	st_le32(d + 64 + 24 + 16 + 16, section_len);
	st_le32(d + 64 + 24 + 16 + 20, 1024);
}

static void an_image_that_is_cut_off_is_told_by_its_efi_header(void **state)
{
	u8 d[IMAGE_LEN];
	struct arm_image im;
	struct err e = {0};

	(void)state;
	make_efi(d, IMAGE_LEN - 1024);
	assert_int_equal(arm_image_parse(&im, d, sizeof(d), &e), 0);
	arm_image_close(&im);
	refused(d, sizeof(d) - 1, "it is cut off: 8191 of 8192 bytes are there");
	refused(d, 1024, "it is cut off: 1024 of 8192 bytes are there");
	make_efi(d, UINT32_MAX);
	refused(d, sizeof(d), "cut off");
	/* Of the header itself, too, wherever it is. */
	make_efi(d, IMAGE_LEN - 1024);
	for (size_t len = 64; len < 64 + 24; len++)
		refused(d, len, "of 88 bytes are there");
	for (size_t len = 64 + 24; len < 64 + 24 + 16 + 40; len++)
		refused(d, len, "of 144 bytes are there");
	for (u32 at = UINT32_MAX; at > IMAGE_LEN - 24; at = at > 2 * IMAGE_LEN ? at / 2 : at - 1) {
		st_le32(d + 60, at);
		refused(d, sizeof(d), "cut off");
	}
	/* A header that says nonsense says nothing. */
	for (u32 at = IMAGE_LEN - 24; at > IMAGE_LEN - 30; at--) {
		st_le32(d + 60, at);
		assert_int_equal(arm_image_parse(&im, d, sizeof(d), &e), 0);
		arm_image_close(&im);
	}
	make_efi(d, 1);
	memset(d + 64 + 6, 0xff, 2);
	memset(d + 64 + 20, 0xff, 2);
	refused(d, sizeof(d), "cut off");
}

static void what_is_no_arm64_kernel_is_named(void **state)
{
	u8 d[IMAGE_LEN] = {0};

	(void)state;
	refused(d, 0, "not an arm64 kernel");
	refused(d, sizeof(d), "not an arm64 kernel");
	memcpy(d + 0x202, "HdrS", 4);
	refused(d, sizeof(d), "an x86 kernel (bzImage)");
	memset(d, 0, sizeof(d));
	memcpy(d, "\177ELF", 4);
	d[18] = 62;
	refused(d, sizeof(d), "an x86 kernel (ELF)");
	d[18] = 183;
	refused(d, sizeof(d), "not vmlinux");
	make_image(d, 1);
	refused(d, sizeof(d), "big-endian");
	make_image(d, 2);
	st_le64(d + 8, 2 * MIB);
	refused(d, sizeof(d), "header is damaged");
	make_image(d, 2);
	st_le64(d + 16, UINT64_MAX);
	refused(d, sizeof(d), "header is damaged");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_image_tells_its_size_and_its_pages),
		cmocka_unit_test(an_image_may_be_gzipped_alone_or_in_an_efi_program),
		cmocka_unit_test(an_image_that_is_cut_off_is_told_by_its_efi_header),
		cmocka_unit_test(what_is_no_arm64_kernel_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
