/* crc32c.c: CRC-32C (Castagnoli) with the instruction that is optional in Armv8.0 and there from Armv8.1 on; see vmm/base/crc32c.h. */
#include "vmm/base/crc32c.h"

#include <arm_acle.h>
#include <sys/auxv.h>

#include "arch/aarch64/crc32c_table.h"

u32 arm_crc32c_table(u32 crc, const void *data, size_t len)
{
	/* What four zero bits do to a CRC that ends with the nibble: the polynomial, reflected, is 0x82f63b78. */
	static const u32 nibble[16] = {
		0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
		0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
	};
	const u8 *p = data;
	u32 c = ~crc;

	for (; len; p++, len--) {
		c ^= *p;
		c = c >> 4 ^ nibble[c & 15];
		c = c >> 4 ^ nibble[c & 15];
	}
	return ~c;
}

__attribute__((target("+crc"))) static u32 by_instruction(u32 crc, const void *data, size_t len)
{
	const u8 *p = data;
	u32 c = ~crc;

	for (; len >= 8; p += 8, len -= 8)
		c = __crc32cd(c, ld_le64(p));
	for (; len; p++, len--)
		c = __crc32cb(c, *p);
	return ~c;
}

u32 crc32c(u32 crc, const void *data, size_t len)
{
	return getauxval(AT_HWCAP) & HWCAP_CRC32 ? by_instruction(crc, data, len) : arm_crc32c_table(crc, data, len);
}
