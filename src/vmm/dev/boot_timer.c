/* boot_timer.c: Firecracker's boot timer: a guest's init writes one byte, and the log says how long the boot took. */
#include <stdlib.h>
#include <time.h>

#include "vmm/vm.h"

#define BOOT_TIMER_SIGNAL 123

/* CPU time of the whole process: what the host paid for the boot, vCPU threads included. */
static u64 process_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

static void boot_timer_read(struct device *dev, u64 offset, void *data, u32 len)
{
	(void)dev;
	(void)offset;
	(void)data; /* reads as zero */
	(void)len;
}

static void boot_timer_write(struct device *dev, u64 offset, const void *data, u32 len)
{
	const struct vm *vm = dev->vm;
	unsigned long long us = (clock_host_ns() - vm->start_ns) / 1000, cpu_us = (process_cpu_ns() - vm->start_cpu_ns) / 1000;

	if (offset != 0 || len != 1 || *(const u8 *)data != BOOT_TIMER_SIGNAL)
		return;
	/* Firecracker's very words, which scripts look for. */
	log_info(vm->log, "Guest-boot-time = %6llu us %llu ms, %6llu CPU us %llu CPU ms", us, us / 1000, cpu_us, cpu_us / 1000);
}

static const struct bus_ops boot_timer_ops = {.read = boot_timer_read, .write = boot_timer_write};

static void boot_timer_destroy(struct device *dev)
{
	device_fini(dev);
	free(dev);
}

static int boot_timer_create(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot,
			     struct device **out, struct err *e)
{
	struct device *dev = xzalloc(sizeof(*dev));
	int ret;

	(void)cfg;
	device_init(dev, vm, cls, cls->name, slot);
	ret = bus_add(vm, BUS_MMIO, slot->mmio_base, slot->mmio_len, dev, &boot_timer_ops, e);
	if (ret < 0) {
		boot_timer_destroy(dev);
		return ret;
	}
	*out = dev;
	return 0;
}

const struct device_class boot_timer_class = {
	.name = "boot_timer",
	.create = boot_timer_create,
	.destroy = boot_timer_destroy,
};
