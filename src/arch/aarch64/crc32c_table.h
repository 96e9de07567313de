/* crc32c_table.h: CRC-32C without the processor's instruction, for those that lack it; apart, so that a test can compare the two. */
#ifndef HUSK_ARM_CRC32C_TABLE_H
#define HUSK_ARM_CRC32C_TABLE_H

#include "vmm/base/base.h"

/* As crc32c (vmm/base/crc32c.h). ctx: any */
u32 arm_crc32c_table(u32 crc, const void *data, size_t len);

#endif
