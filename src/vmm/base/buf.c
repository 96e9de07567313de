/* buf.c: the growing byte buffer. */
#include "vmm/base/buf.h"

#include <stdlib.h>
#include <string.h>

void buf_fini(struct buf *b)
{
	free(b->data);
	*b = (struct buf){0};
}

void *buf_grow(struct buf *b, size_t len)
{
	size_t need;
	u8 *at;

	ASSERT(!__builtin_add_overflow(b->len, len, &need));
	if (need > b->cap || !b->data) {
		size_t cap = MAX(need, b->cap * 2);
		u8 *bigger = xzalloc(MAX(cap, 64));

		if (b->len)
			memcpy(bigger, b->data, b->len);
		free(b->data);
		b->data = bigger;
		b->cap = MAX(cap, 64);
	}
	at = b->data + b->len;
	b->len = need;
	return at;
}

void buf_put(struct buf *b, const void *data, size_t len)
{
	void *at = buf_grow(b, len);

	if (len)
		memcpy(at, data, len);
}
