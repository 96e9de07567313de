/*
 * kaslr.h: what the decompressor inside a bzImage would do to the kernel that it unpacks: choose where it lies, physically and virtually,
 * and apply the relocations for the virtual address. husk does it when it unpacks the kernel itself. ctx: before start
 */
#ifndef HUSK_KASLR_H
#define HUSK_KASLR_H

#include "vmm/base/err.h"

#define KASLR_IMAGE_SPACE (1ull << 30) /* KERNEL_IMAGE_SIZE: the part of the address space that a relocatable kernel maps itself into */

/* A random multiple of align in 0..room (align a power of two). 0 when the host gives no random bytes. */
u64 kaslr_pick(u64 room, u64 align);
/* Whether table, what follows the ELF in the unpacked payload, looks like the kernel's relocation tables. */
bool kaslr_tables_ok(const u8 *table, size_t table_len);
/* Adds delta to every virtual address in the kernel of kernel_len bytes that is linked for physical address link_base.
 * -EBADMSG when a relocation points outside of it; the kernel is then unusable. */
int kaslr_relocate(u8 *kernel, u64 kernel_len, u64 link_base, const u8 *table, size_t table_len, u64 delta, struct err *e) MUST_CHECK;

#endif
