/*
 * bus.h: guest physical addresses and I/O ports -> devices.
 * Ranges are added while the VM is built and never change after: lookups take no lock. The bus holds the device's lock around its handlers.
 * An address that nobody claims reads as all ones and swallows writes, as on a PC.
 */
#ifndef HUSK_BUS_H
#define HUSK_BUS_H

#include "vmm/base/err.h"

struct device;
struct vm;

enum bus_space { BUS_MMIO, BUS_PIO };

/* offset is relative to the range; len is 1, 2, 4 or 8 and may be unaligned (a guest's wish): a handler that does not take that size reads
 * zero or ignores it. data holds len little-endian bytes. ctx: vcpu, with dev->lock held */
struct bus_ops {
	void (*read)(struct device *dev, u64 offset, void *data, u32 len);
	void (*write)(struct device *dev, u64 offset, const void *data, u32 len);
};

struct bus_range {
	u64 base, len;
	struct device *dev; /* borrowed */
	const struct bus_ops *ops;
};

struct bus {
	struct bus_range *ranges; /* owned, by ascending base, disjoint */
	u32 nr;
};

void bus_fini(struct bus *b);
/* -EEXIST when the range overlaps one that is there. ctx: before start */
int bus_add(struct vm *vm, enum bus_space space, u64 base, u64 len, struct device *dev, const struct bus_ops *ops,
	    struct err *e) MUST_CHECK;
/* ctx: vcpu */
void bus_read(struct vm *vm, enum bus_space space, u64 addr, void *data, u32 len);
void bus_write(struct vm *vm, enum bus_space space, u64 addr, const void *data, u32 len);
bool bus_claimed(const struct vm *vm, enum bus_space space, u64 addr);

#endif
