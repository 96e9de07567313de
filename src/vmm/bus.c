/* bus.c: sorted address ranges; see bus.h. */
#include "vmm/bus.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/device.h"
#include "vmm/vm.h"

void bus_fini(struct bus *b)
{
	free(b->ranges);
	*b = (struct bus){0};
}

/* Index of the first range that ends beyond addr. */
static u32 lower_bound(const struct bus *b, u64 addr)
{
	u32 lo = 0, hi = b->nr;

	while (lo < hi) {
		u32 mid = lo + (hi - lo) / 2;

		if (addr - b->ranges[mid].base < b->ranges[mid].len || addr < b->ranges[mid].base)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

int bus_add(struct vm *vm, enum bus_space space, u64 base, u64 len, struct device *dev, const struct bus_ops *ops, struct err *e)
{
	struct bus *b = &vm->bus[space];
	u32 at = lower_bound(b, base);
	u64 last;

	ASSERT(ops && ops->read && ops->write && len && !__builtin_add_overflow(base, len - 1, &last));
	if (at < b->nr && b->ranges[at].base <= last)
		return err_set(e, -EEXIST, "%s: %s range %#llx-%#llx is taken by %s", dev->id, space == BUS_PIO ? "port" : "memory",
			       (unsigned long long)base, (unsigned long long)last, b->ranges[at].dev->id);
	b->ranges = realloc(b->ranges, (b->nr + 1) * sizeof(*b->ranges));
	ASSERT(b->ranges);
	memmove(&b->ranges[at + 1], &b->ranges[at], (b->nr - at) * sizeof(*b->ranges));
	b->ranges[at] = (struct bus_range){.base = base, .len = len, .dev = dev, .ops = ops};
	b->nr++;
	return 0;
}

/* Of a vCPU that began at start_ns. */
static void count_access(struct vm *vm, enum bus_space space, bool write, u64 start_ns)
{
	counter_add(&vm->counters.accesses[space][write], 1);
	latency_add(&vm->counters.access_time[space][write], clock_host_ns() - start_ns);
}

/* The range that holds [addr, addr + len) whole. */
static const struct bus_range *find(const struct bus *b, u64 addr, u32 len)
{
	u32 i = lower_bound(b, addr);
	const struct bus_range *r;

	if (i == b->nr)
		return NULL;
	r = &b->ranges[i];
	return addr >= r->base && len <= r->len - (addr - r->base) ? r : NULL;
}

void bus_read(struct vm *vm, enum bus_space space, u64 addr, void *data, u32 len)
{
	const struct bus_range *r = find(&vm->bus[space], addr, len);
	u64 start_ns = clock_host_ns();

	if (!r) {
		trace(vm->trace, bus_unclaimed_read, "space=%d addr=%#llx len=%u", (int)space, (unsigned long long)addr, len);
		memset(data, 0xff, len);
		count_access(vm, space, false, start_ns);
		return;
	}
	memset(data, 0, len);
	device_lock(r->dev);
	r->ops->read(r->dev, addr - r->base, data, len);
	device_unlock(r->dev);
	count_access(vm, space, false, start_ns);
}

void bus_write(struct vm *vm, enum bus_space space, u64 addr, const void *data, u32 len)
{
	const struct bus_range *r = find(&vm->bus[space], addr, len);
	u64 start_ns = clock_host_ns();

	if (!r) {
		trace(vm->trace, bus_unclaimed_write, "space=%d addr=%#llx len=%u", (int)space, (unsigned long long)addr, len);
		count_access(vm, space, true, start_ns);
		return;
	}
	device_lock(r->dev);
	r->ops->write(r->dev, addr - r->base, data, len);
	device_unlock(r->dev);
	count_access(vm, space, true, start_ns);
}

bool bus_claimed(const struct vm *vm, enum bus_space space, u64 addr)
{
	return find(&vm->bus[space], addr, 1) != NULL;
}
