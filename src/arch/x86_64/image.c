/* image.c: opens kernel files and reads bzImage headers. */
#include "arch/x86_64/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "arch/x86_64/elf_image.h"

#define SECTOR	      512u
#define VERSION_2_12  0x020cu /* the first with xloadflags */
#define XLF_KERNEL_64 BIT(0)
#define GZIP_TRAILER  8 /* CRC32, then the unpacked size modulo 2^32 (RFC 1952 §2.3.1) */

static int map_file(struct image *img, const char *path, struct err *e)
{
	auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(e, "cannot open it");
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "not a regular file");
	if (st.st_size == 0)
		return err_set(e, -ENOEXEC, "the file is empty");
	img->map_len = (size_t)st.st_size;
	img->map = mmap(NULL, img->map_len, PROT_READ, MAP_PRIVATE, fd, 0);
	if (img->map == MAP_FAILED) {
		img->map = NULL;
		return err_errno(e, "cannot map it");
	}
	img->data = img->map;
	img->size = img->map_len;
	img->fd = fd_take(&fd);
	return 0;
}

/* A file that is gzip as a whole (vmlinux.gz, or a bzImage that a distribution packed once more). */
static int gunzip_file(struct image *img, struct err *e)
{
	size_t len;

	if (unpack_detect(img->data, img->size) != UNPACK_GZIP)
		return 0;
	if (img->size < GZIP_TRAILER)
		return err_set(e, -ENOEXEC, "its gzip data is cut off");
	len = ld_le32(img->data + img->size - 4);
	if (len == 0 || len > UNPACK_MAX)
		return err_set(e, -ENOEXEC, "its gzip data unpacks to %zu bytes; a kernel has at most %u MiB", len, UNPACK_MAX >> 20);
	img->heap = malloc(len);
	if (!img->heap)
		return err_set(e, -ENOMEM, "no memory to unpack it (%zu bytes)", len);
	if (unpack(UNPACK_GZIP, img->data, img->size, img->heap, len, e) < 0)
		return -EBADMSG;
	img->data = img->heap;
	img->size = len;
	return 0;
}

/* The compressed ELF; absent in images of other systems that speak this protocol, and then nobody unpacks it. */
static int parse_payload(struct bzimage *bz, const u8 *d, struct err *e)
{
	u64 offset = ld_le32(d + BZ_PAYLOAD_OFFSET), len = ld_le32(d + BZ_PAYLOAD_LENGTH);

	if (len <= sizeof(u32))
		return 0;
	if (offset > bz->kernel_len || len > bz->kernel_len - offset)
		return err_set(e, -ENOEXEC, "the bzImage is cut off: its compressed kernel ends %llu bytes after the file",
			       (unsigned long long)(offset + len - bz->kernel_len));
	bz->payload = bz->kernel + offset;
	bz->payload_len = len;
	return 0;
}

/* Copies what husk needs out of the header. The caller checked that BZ_HEADER_END_MAX bytes are there. */
static int parse_bzimage(struct bzimage *bz, const u8 *d, size_t size, struct err *e)
{
	u32 version = ld_le16(d + BZ_VERSION), sects = d[BZ_SETUP_SECTS] ? d[BZ_SETUP_SECTS] : 4; /* 0 means 4, for ancient ones */
	u64 setup = (sects + 1) * SECTOR;

	if (version < VERSION_2_12 || !(ld_le16(d + BZ_XLOADFLAGS) & XLF_KERNEL_64))
		return err_set(e, -ENOEXEC,
			       "a bzImage without the 64-bit boot protocol (version %u.%u; husk needs 2.12 and a 64-bit kernel)",
			       version >> 8, version & 0xff);
	if (setup >= size)
		return err_set(e, -ENOEXEC, "the bzImage is cut off");
	*bz = (struct bzimage){
		.header = d + BZ_HEADER,
		.header_len = MIN(BZ_MAGIC + d[BZ_HEADER_LEN], BZ_HEADER_END_MAX) - BZ_HEADER,
		.kernel = d + setup,
		.kernel_len = size - setup,
		.fd = -1,
		.file_offset = setup,
		.pref_address = ld_le64(d + BZ_PREF_ADDRESS),
		.init_size = ld_le32(d + BZ_INIT_SIZE),
		.alignment = ld_le32(d + BZ_KERNEL_ALIGNMENT),
		.initrd_addr_max = ld_le32(d + BZ_INITRD_ADDR_MAX),
		.cmdline_size = ld_le32(d + BZ_CMDLINE_SIZE),
	};
	if (bz->alignment == 0 || (bz->alignment & (bz->alignment - 1)) || bz->pref_address % bz->alignment)
		return err_set(e, -ENOEXEC, "the bzImage header asks for an impossible alignment (%#llx)",
			       (unsigned long long)bz->alignment);
	return parse_payload(bz, d, e);
}

static int recognize(struct image *img, struct err *e)
{
	const u8 *d = img->data;
	int ret;

	if (elf_detect(d, img->size)) {
		img->kind = IMAGE_ELF;
		return 0;
	}
	if (img->size < BZ_HEADER_END_MAX || ld_le16(d + BZ_BOOT_FLAG) != BZ_BOOT_FLAG_VALUE || ld_le32(d + BZ_MAGIC) != BZ_MAGIC_VALUE)
		return err_set(e, -ENOEXEC, "neither a bzImage nor an ELF vmlinux (nor one of them gzipped)");
	img->kind = IMAGE_BZIMAGE;
	ret = parse_bzimage(&img->bz, d, img->size, e);
	img->bz.fd = img->heap ? -1 : img->fd;
	return ret;
}

int image_open(struct image *img, const char *path, struct err *e)
{
	int ret;

	*img = (struct image){.fd = -1};
	ret = map_file(img, path, e);
	if (ret == 0)
		ret = gunzip_file(img, e);
	if (ret == 0)
		ret = recognize(img, e);
	if (ret < 0) {
		image_close(img);
		return err_prefix(e, "kernel image \"%s\"", path);
	}
	return 0;
}

void image_close(struct image *img)
{
	if (img->map)
		fd_close(&img->fd);
	if (img->map)
		munmap(img->map, img->map_len);
	free(img->heap);
	*img = (struct image){0};
}
