/* unpack.c: zlib, liblzma, libzstd and liblz4 behind one call. Each decodes straight into the destination, in one piece. */
#include "arch/x86_64/unpack.h"

#include <errno.h>
#include <limits.h>
#include <lz4.h>
#include <lzma.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

/* The legacy frame of `lz4 -l`, which Linux uses: magic, then blocks of {u32 size, bytes}; each but the last unpacks to 8 MiB. */
#define LZ4_LEGACY_MAGIC 0x184c2102u
#define LZ4_BLOCK_MAX	 (8u << 20)

static const struct {
	enum unpack_format format;
	u8 len;
	u8 magic[6];
} magics[] = {
	{UNPACK_GZIP, 2, {0x1f, 0x8b}},
	{UNPACK_XZ, 6, {0xfd, '7', 'z', 'X', 'Z', 0}},
	{UNPACK_ZSTD, 4, {0x28, 0xb5, 0x2f, 0xfd}},
	{UNPACK_LZ4, 4, {0x02, 0x21, 0x4c, 0x18}},
};

enum unpack_format unpack_detect(const u8 *src, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(magics); i++) {
		if (len >= magics[i].len && !memcmp(src, magics[i].magic, magics[i].len))
			return magics[i].format;
	}
	return UNPACK_UNKNOWN;
}

static int broken(struct err *e, const char *what)
{
	return err_set(e, -EBADMSG, "its %s data is damaged or cut off", what);
}

/* Each decoder returns 0 with *got = bytes written, when the stream is whole. */

static int unpack_gzip(const u8 *src, size_t len, u8 *dst, size_t dst_len, size_t *got, struct err *e)
{
	z_stream z = {.next_in = (Bytef *)src, .avail_in = (uInt)len, .next_out = dst, .avail_out = (uInt)dst_len};
	int ret = inflateInit2(&z, 15 + 16); /* + 16: a gzip header, CRC checked */

	if (ret == Z_OK)
		ret = inflate(&z, Z_FINISH);
	*got = z.total_out;
	inflateEnd(&z);
	return ret == Z_STREAM_END ? 0 : broken(e, "gzip");
}

static int unpack_xz(const u8 *src, size_t len, u8 *dst, size_t dst_len, size_t *got, struct err *e)
{
	u64 memlimit = UINT64_MAX;
	size_t in = 0;

	*got = 0;
	if (lzma_stream_buffer_decode(&memlimit, 0, NULL, src, &in, len, dst, got, dst_len) != LZMA_OK)
		return broken(e, "xz");
	return 0;
}

static int unpack_zstd(const u8 *src, size_t len, u8 *dst, size_t dst_len, size_t *got, struct err *e)
{
	size_t frame = ZSTD_findFrameCompressedSize(src, len);

	if (ZSTD_isError(frame))
		return broken(e, "zstd");
	*got = ZSTD_decompress(dst, dst_len, src, frame);
	return ZSTD_isError(*got) ? broken(e, "zstd") : 0;
}

static int unpack_lz4(const u8 *src, size_t len, u8 *dst, size_t dst_len, size_t *got, struct err *e)
{
	size_t at = sizeof(u32);

	*got = 0;
	while (*got < dst_len && len - at >= sizeof(u32)) {
		u32 block = ld_le32(src + at);
		int n;

		at += sizeof(u32);
		if (block > len - at || block > INT_MAX)
			return broken(e, "lz4");
		n = LZ4_decompress_safe((const char *)src + at, (char *)dst + *got, (int)block, (int)MIN(dst_len - *got, LZ4_BLOCK_MAX));
		if (n <= 0)
			return broken(e, "lz4");
		at += block;
		*got += (size_t)n;
	}
	return 0;
}

int unpack(enum unpack_format format, const u8 *src, size_t len, u8 *dst, size_t dst_len, struct err *e)
{
	static int (*const decoders[])(const u8 *, size_t, u8 *, size_t, size_t *, struct err *) = {
		[UNPACK_GZIP] = unpack_gzip,
		[UNPACK_XZ] = unpack_xz,
		[UNPACK_ZSTD] = unpack_zstd,
		[UNPACK_LZ4] = unpack_lz4,
	};
	size_t got = 0;
	int ret;

	ASSERT(format != UNPACK_UNKNOWN && dst_len <= UNPACK_MAX);
	if (len > UNPACK_MAX)
		return err_set(e, -EBADMSG, "its compressed data is larger than %u MiB", UNPACK_MAX >> 20);
	ret = decoders[format](src, len, dst, dst_len, &got, e);
	if (ret == 0 && got != dst_len)
		return err_set(e, -EBADMSG, "its compressed data holds %zu bytes instead of %zu", got, dst_len);
	return ret;
}
