/* unpack.h: decompression of kernel images. The formats are those that Linux' build offers and that husk's libraries know. */
#ifndef HUSK_UNPACK_H
#define HUSK_UNPACK_H

#include "vmm/base/err.h"

/* No kernel is larger; what claims to be is refused before memory is set aside for it. */
#define UNPACK_MAX (1u << 30)

enum unpack_format { UNPACK_UNKNOWN, UNPACK_GZIP, UNPACK_XZ, UNPACK_ZSTD, UNPACK_LZ4 };

/* By magic number. */
enum unpack_format unpack_detect(const u8 *src, size_t len);
/* Decompresses the one stream that src begins with into dst; bytes after the stream are ignored. Returns 0 only when it came to exactly
 * dst_len bytes; -EBADMSG says what is wrong. dst_len <= UNPACK_MAX. The content of dst is undefined on failure. */
int unpack(enum unpack_format format, const u8 *src, size_t len, u8 *dst, size_t dst_len, struct err *e) MUST_CHECK;

#endif
