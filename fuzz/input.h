/* input.h: an input taken to pieces. What is missing at the end reads as zero. */
#ifndef HUSK_FUZZ_INPUT_H
#define HUSK_FUZZ_INPUT_H

#include "vmm/base/base.h"

struct input {
	const u8 *at, *end;
};

/* The next bytes (at most 8) as a little-endian number. */
static inline u64 take(struct input *in, u32 bytes)
{
	u64 v = 0;

	for (u32 i = 0; i < bytes && in->at < in->end; i++)
		v |= (u64)*in->at++ << (8 * i);
	return v;
}

#endif
