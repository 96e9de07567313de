/*
 * buf.h: a byte buffer that grows as it is written, little-endian. For what husk itself composes (firmware tables, device state):
 * memory that runs out ends the process with one message, so that no call has to be checked.
 */
#ifndef HUSK_BUF_H
#define HUSK_BUF_H

#include "vmm/base/base.h"

struct buf {
	u8 *data; /* owned; NULL while nothing was written */
	size_t len, cap;
};

void buf_fini(struct buf *b); /* accepts zeroed */
/* Appends len bytes, zeroed, and returns where they are until the next append. */
void *buf_grow(struct buf *b, size_t len);
void buf_put(struct buf *b, const void *data, size_t len);

static inline void buf_u8(struct buf *b, u8 v)
{
	*(u8 *)buf_grow(b, 1) = v;
}
static inline void buf_u16(struct buf *b, u16 v)
{
	st_le16(buf_grow(b, 2), v);
}
static inline void buf_u32(struct buf *b, u32 v)
{
	st_le32(buf_grow(b, 4), v);
}
static inline void buf_u64(struct buf *b, u64 v)
{
	st_le64(buf_grow(b, 8), v);
}

#endif
