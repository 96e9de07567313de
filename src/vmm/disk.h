/* disk.h: what a migration that takes disks along wants of a device whose contents are on the host (device_class.disk, disk_track). */
#ifndef HUSK_DISK_H
#define HUSK_DISK_H

#include "vmm/base/base.h"

#define DISK_BLOCK_SHIFT 12 /* 4 KiB: what a bit of disk_dirty stands for */

struct device_disk {
	const char *path; /* borrowed from the device */
	int fd;		  /* the same; may be read at any time, by any thread */
	u64 bytes;	  /* a multiple of 512; the last block may be a part of one */
};

/* Blocks that were written, one bit each. Its owner makes it, reads it and frees it. ctx: loop */
struct disk_dirty {
	u64 nr; /* blocks */
	u64 *bits;
};

/* Bytes [offset, offset + len) were written, or may have been. They lie inside the disk. */
static inline void disk_mark(struct disk_dirty *d, u64 offset, u64 len)
{
	for (u64 b = offset >> DISK_BLOCK_SHIFT; len && b <= (offset + len - 1) >> DISK_BLOCK_SHIFT && b < d->nr; b++)
		d->bits[b / 64] |= BIT(b % 64);
}

#endif
