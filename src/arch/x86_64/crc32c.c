/* crc32c.c: CRC-32C (Castagnoli) with SSE4.2's instruction, which every processor has that husk's translator needs; see
 * vmm/base/crc32c.h. */
#include <nmmintrin.h>

#include "vmm/base/crc32c.h"

/* A CRC of the next 3 x STRIPE bytes runs three chains at once: the instruction takes three cycles, and one can begin in each. */
#define STRIPE 256u

/* What a CRC becomes over STRIPE bytes of zeroes, for each nibble of it: CRCs are linear. test_wire tries them against the definition. */
static const u32 over[8][16] = {
	{0x00000000, 0xdcb17aa4, 0xbc8e83b9, 0x603ff91d, 0x7cf17183, 0xa0400b27, 0xc07ff23a, 0x1cce889e, 0xf9e2e306, 0x255399a2, 0x456c60bf,
	 0x99dd1a1b, 0x85139285, 0x59a2e821, 0x399d113c, 0xe52c6b98},
	{0x00000000, 0xf629b0fd, 0xe9bf170b, 0x1f96a7f6, 0xd69258e7, 0x20bbe81a, 0x3f2d4fec, 0xc904ff11, 0xa8c8c73f, 0x5ee177c2, 0x4177d034,
	 0xb75e60c9, 0x7e5a9fd8, 0x88732f25, 0x97e588d3, 0x61cc382e},
	{0x00000000, 0x547df88f, 0xa8fbf11e, 0xfc860991, 0x541b94cd, 0x00666c42, 0xfce065d3, 0xa89d9d5c, 0xa837299a, 0xfc4ad115, 0x00ccd884,
	 0x54b1200b, 0xfc2cbd57, 0xa85145d8, 0x54d74c49, 0x00aab4c6},
	{0x00000000, 0x558225c5, 0xab044b8a, 0xfe866e4f, 0x53e4e1e5, 0x0666c420, 0xf8e0aa6f, 0xad628faa, 0xa7c9c3ca, 0xf24be60f, 0x0ccd8840,
	 0x594fad85, 0xf42d222f, 0xa1af07ea, 0x5f2969a5, 0x0aab4c60},
	{0x00000000, 0x4a7ff165, 0x94ffe2ca, 0xde8013af, 0x2c13b365, 0x666c4200, 0xb8ec51af, 0xf293a0ca, 0x582766ca, 0x125897af, 0xccd88400,
	 0x86a77565, 0x7434d5af, 0x3e4b24ca, 0xe0cb3765, 0xaab4c600},
	{0x00000000, 0xb04ecd94, 0x6571edd9, 0xd53f204d, 0xcae3dbb2, 0x7aad1626, 0xaf92366b, 0x1fdcfbff, 0x902bc195, 0x20650c01, 0xf55a2c4c,
	 0x4514e1d8, 0x5ac81a27, 0xea86d7b3, 0x3fb9f7fe, 0x8ff73a6a},
	{0x00000000, 0x25bbf5db, 0x4b77ebb6, 0x6ecc1e6d, 0x96efd76c, 0xb35422b7, 0xdd983cda, 0xf823c901, 0x2833d829, 0x0d882df2, 0x6344339f,
	 0x46ffc644, 0xbedc0f45, 0x9b67fa9e, 0xf5abe4f3, 0xd0101128},
	{0x00000000, 0x5067b052, 0xa0cf60a4, 0xf0a8d0f6, 0x4472b7b9, 0x141507eb, 0xe4bdd71d, 0xb4da674f, 0x88e56f72, 0xd882df20, 0x282a0fd6,
	 0x784dbf84, 0xcc97d8cb, 0x9cf06899, 0x6c58b86f, 0x3c3f083d},
};

static u32 shift(u32 crc)
{
	u32 out = 0;

	for (u32 n = 0; n < 8; n++)
		out ^= over[n][crc >> 4 * n & 15];
	return out;
}

__attribute__((target("sse4.2"))) u32 crc32c(u32 crc, const void *data, size_t len)
{
	const u8 *p = data;
	u64 c = ~crc;

	for (; len >= 3 * STRIPE; p += 3 * STRIPE, len -= 3 * STRIPE) {
		u64 c1 = 0, c2 = 0;

		for (u32 i = 0; i < STRIPE; i += 8) {
			c = _mm_crc32_u64(c, ld_le64(p + i));
			c1 = _mm_crc32_u64(c1, ld_le64(p + STRIPE + i));
			c2 = _mm_crc32_u64(c2, ld_le64(p + 2 * STRIPE + i));
		}
		c = shift((u32)c) ^ c1;
		c = shift((u32)c) ^ c2;
	}
	for (; len >= 8; p += 8, len -= 8)
		c = _mm_crc32_u64(c, ld_le64(p));
	for (; len; p++, len--)
		c = _mm_crc32_u8((u32)c, *p);
	return ~(u32)c;
}
