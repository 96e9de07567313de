/* crc32c.h: CRC-32C (Castagnoli, as iSCSI has it), by the processor's instruction: src/arch/<arch>/crc32c.c. */
#ifndef HUSK_CRC32C_H
#define HUSK_CRC32C_H

#include "vmm/base/base.h"

/* Of len bytes behind those that crc is of; 0 to begin with. ctx: any */
u32 crc32c(u32 crc, const void *data, size_t len);

#endif
