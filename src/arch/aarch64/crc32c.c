/* crc32c.c: CRC-32C (Castagnoli) with the instruction of Armv8.1 (optional before); see vmm/base/crc32c.h. */
#include "vmm/base/crc32c.h"

#pragma GCC target("+crc")
#include <arm_acle.h>

u32 crc32c(u32 crc, const void *data, size_t len)
{
	const u8 *p = data;
	u32 c = ~crc;

	for (; len >= 8; p += 8, len -= 8)
		c = __crc32cd(c, ld_le64(p));
	for (; len; p++, len--)
		c = __crc32cb(c, *p);
	return ~c;
}
