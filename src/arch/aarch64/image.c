/* image.c: see image.h. Linux Documentation/arch/arm64/booting.rst, drivers/firmware/efi/libstub/zboot-header.S */
#include "arch/aarch64/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <zlib.h>

#define IMAGE_TEXT_OFFSET 8
#define IMAGE_SIZE	  16
#define IMAGE_FLAGS	  24
#define IMAGE_MAGIC	  56
#define IMAGE_HEADER	  64
#define FLAG_BIG_ENDIAN	  1u
#define FLAG_PAGES(flags) ((flags) >> 1 & 3)

/* Where an Image is an EFI program, too (PE/COFF, Microsoft's specification §3): its header says which bytes the file must have. */
#define PE_OFFSET    60 /* u32 */
#define PE_SECTIONS  6	/* u16: how many; from here on offsets in the PE header */
#define PE_OPTIONAL  20 /* u16: bytes of the optional header */
#define PE_HEADER    24
#define PE_SECTION   40 /* bytes of an entry */
#define SECTION_SIZE 16
#define SECTION_AT   20

#define OLD_TEXT_OFFSET 0x80000u /* of kernels before 3.17, which do not tell their size */

#define ZBOOT_MAGIC  4 /* "zimg" */
#define ZBOOT_OFFSET 8 /* u32: of the compressed Image in the file */
#define ZBOOT_SIZE   12
#define ZBOOT_TYPE   24 /* "gzip" */

#define BZIMAGE_MAGIC	0x202 /* "HdrS" */
#define ELF_MACHINE	18
#define ELF_MACHINE_386 3
#define ELF_MACHINE_X86 62

static bool has(const u8 *data, size_t len, size_t at, const char *text)
{
	return at < len && len - at >= strlen(text) && !memcmp(data + at, text, strlen(text));
}

/* What the file is, when it is not an Image. */
static int not_an_image(const u8 *data, size_t len, struct err *e)
{
	u16 machine = len >= ELF_MACHINE + sizeof(u16) ? ld_le16(data + ELF_MACHINE) : 0;

	if (has(data, len, BZIMAGE_MAGIC, "HdrS"))
		return err_set(e, -EINVAL, "it is an x86 kernel (bzImage), and this machine is an arm64: an arm64 Image is needed");
	if (!has(data, len, 0, "\177ELF"))
		return err_set(e, -EINVAL, "it is not an arm64 kernel: not an Image (arch/arm64/boot/Image), plain or gzip'd");
	if (machine == ELF_MACHINE_X86 || machine == ELF_MACHINE_386)
		return err_set(e, -EINVAL, "it is an x86 kernel (ELF), and this machine is an arm64: an arm64 Image is needed");
	return err_set(e, -EINVAL, "it is an ELF file: arm64 boots the Image (arch/arm64/boot/Image), not vmlinux");
}

/* How many bytes the file must have as its EFI header tells, at least; 0: it has none, or a damaged one. */
static u64 efi_bytes(const u8 *h, size_t len)
{
	u64 pe = ld_le32(h + PE_OFFSET), at, most, sections;

	if (!has(h, len, 0, "MZ"))
		return 0;
	if (len < pe + PE_HEADER)
		return pe + PE_HEADER;
	if (!has(h, len, pe, "PE"))
		return 0;
	at = pe + PE_HEADER + ld_le16(h + pe + PE_OPTIONAL);
	sections = ld_le16(h + pe + PE_SECTIONS);
	most = at + sections * PE_SECTION;
	for (u64 n = 0; n < sections && at + PE_SECTION <= len; n++, at += PE_SECTION)
		most = MAX(most, (u64)ld_le32(h + at + SECTION_AT) + ld_le32(h + at + SECTION_SIZE));
	return most;
}

static int parse_header(struct arm_image *im, struct err *e)
{
	const u8 *h = im->bytes;
	u64 flags;

	if (im->len < IMAGE_HEADER || !has(h, im->len, IMAGE_MAGIC, "ARM\x64"))
		return not_an_image(h, im->len, e);
	if (efi_bytes(h, im->len) > im->len)
		return err_set(e, -EBADMSG, "it is cut off: %zu of %llu bytes are there", im->len,
			       (unsigned long long)efi_bytes(h, im->len));
	flags = ld_le64(h + IMAGE_FLAGS);
	if (flags & FLAG_BIG_ENDIAN)
		return err_set(e, -EINVAL, "it is a big-endian arm64 kernel; husk boots little-endian ones");
	im->pages = FLAG_PAGES(flags);
	im->text_offset = ld_le64(h + IMAGE_TEXT_OFFSET);
	im->mem_size = ld_le64(h + IMAGE_SIZE);
	if (im->mem_size == 0) {
		im->text_offset = OLD_TEXT_OFFSET;
		im->mem_size = im->len;
	}
	if (im->text_offset >= 2 * MIB || im->mem_size > ARM_IMAGE_MAX)
		return err_set(e, -EINVAL, "its header is damaged: text offset %#llx, size %#llx", (unsigned long long)im->text_offset,
			       (unsigned long long)im->mem_size);
	im->mem_size = MAX(im->mem_size, (u64)im->len);
	return 0;
}

static int damaged(struct err *e)
{
	return err_set(e, -EBADMSG, "its gzip data is damaged or cut off");
}

/* The one stream that src begins with. Its length stands at the end of a .gz; the Image grows until the stream ends all the same. */
static int gunzip(struct arm_image *im, const u8 *src, size_t len, struct err *e)
{
	z_stream z = {.next_in = (Bytef *)src, .avail_in = (uInt)len};
	size_t room = 0;
	int ret = inflateInit2(&z, 15 + 16); /* + 16: a gzip header, CRC checked */

	while (ret == Z_OK) {
		size_t more = room ? MIN(2 * room, (size_t)ARM_IMAGE_MAX) : MIN(4 * len + KIB, (size_t)ARM_IMAGE_MAX);
		u8 *bytes = more > room ? realloc(im->bytes, more) : NULL;

		if (!bytes) {
			inflateEnd(&z);
			return err_set(e, -EBADMSG, "unpacked it is larger than %u MiB, or than the host's memory", ARM_IMAGE_MAX >> 20);
		}
		im->bytes = bytes;
		room = more;
		z.next_out = im->bytes + z.total_out;
		z.avail_out = (uInt)(room - z.total_out);
		ret = inflate(&z, Z_NO_FLUSH);
		if (ret == Z_OK && z.avail_out)
			ret = Z_DATA_ERROR; /* all input is used up */
	}
	im->len = z.total_out;
	inflateEnd(&z);
	return ret == Z_STREAM_END ? 0 : damaged(e);
}

static int unpack(struct arm_image *im, const u8 *data, size_t len, struct err *e)
{
	u32 at, size;

	if (has(data, len, 0, "\x1f\x8b"))
		return gunzip(im, data, len, e);
	if (has(data, len, 0, "MZ") && has(data, len, ZBOOT_MAGIC, "zimg") && len >= IMAGE_HEADER) {
		at = ld_le32(data + ZBOOT_OFFSET);
		size = ld_le32(data + ZBOOT_SIZE);
		if (!has(data, len, ZBOOT_TYPE, "gzip"))
			return err_set(e, -EINVAL, "it is an EFI program with a kernel that is not gzip'd; give husk the Image in it");
		if (at > len || size > len - at)
			return damaged(e);
		return gunzip(im, data + at, size, e);
	}
	im->bytes = malloc(MAX(len, (size_t)1));
	if (!im->bytes)
		return err_set(e, -ENOMEM, "no memory for its %zu bytes", len);
	memcpy(im->bytes, data, len);
	im->len = len;
	return 0;
}

int arm_image_parse(struct arm_image *im, const u8 *data, size_t len, struct err *e)
{
	int ret;

	*im = (struct arm_image){0};
	if (len > ARM_IMAGE_MAX)
		return err_set(e, -EINVAL, "it is larger than %u MiB: not a kernel", ARM_IMAGE_MAX >> 20);
	ret = unpack(im, data, len, e);
	if (ret == 0)
		ret = parse_header(im, e);
	if (ret < 0)
		arm_image_close(im);
	return ret;
}

int arm_image_open(struct arm_image *im, const char *path, struct err *e)
{
	auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *data;
	int ret;

	*im = (struct arm_image){0};
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(e, "cannot open it");
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "not a regular file");
	if (st.st_size == 0)
		return err_set(e, -EINVAL, "it is empty");
	data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (data == MAP_FAILED)
		return err_errno(e, "cannot read it");
	ret = arm_image_parse(im, data, (size_t)st.st_size, e);
	munmap(data, (size_t)st.st_size);
	return ret;
}

void arm_image_close(struct arm_image *im)
{
	free(im->bytes);
	*im = (struct arm_image){0};
}
