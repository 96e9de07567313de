/*
 * devtest.h: the pieces of a VM that a platform device touches (bus, loop, log, a little guest memory), without accelerator and vCPUs.
 * Interrupt lines end in a recorder: their level, and how often each has gone up.
 */
#ifndef HUSK_TEST_DEVTEST_H
#define HUSK_TEST_DEVTEST_H

#include "cm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/vm.h"

struct devtest {
	struct vm vm;
	struct log log; /* into a memfd */
	struct trace trace;
	struct device *dev;
	bool level[24];
	u32 rises[24];
};

static void devtest_irq_line(struct vm *vm, u32 gsi, bool level)
{
	struct devtest *t = container_of(vm, struct devtest, vm);

	if (gsi >= ARRAY_SIZE(t->level))
		fail_msg("GSI %u does not exist", gsi);
	t->rises[gsi] += level && !t->level[gsi];
	t->level[gsi] = level;
}

static inline struct devtest *devtest_new(void)
{
	static const struct accel_ops recorder = {.name = "recorder", .irq_line = devtest_irq_line};
	static const struct mem_range ram = {.gpa = 0, .size = MIB};
	struct devtest *t = xzalloc(sizeof(*t));

	log_init(&t->log, memfd_create("log", MFD_CLOEXEC), LOG_INFO);
	t->vm.log = &t->log;
	t->vm.trace = &t->trace;
	t->vm.accel = &recorder;
	t->vm.start_ns = clock_host_ns();
	assert_int_equal(loop_init(&t->vm.loop, NULL), 0);
	assert_int_equal(mem_init(&t->vm.mem, &ram, 1, MEM_HUGE_NONE, NULL), 0);
	return t;
}

static inline void devtest_add(struct devtest *t, const struct device_class *cls, const void *cfg, const struct dev_slot *slot)
{
	struct err e = {0};

	if (cls->create(&t->vm, cls, cfg, slot, &t->dev, &e) < 0)
		fail_msg("%s: %s", cls->name, e.msg);
}

static inline void devtest_free(struct devtest *t)
{
	if (t->dev)
		t->dev->cls->destroy(t->dev);
	bus_fini(&t->vm.bus[BUS_PIO]);
	bus_fini(&t->vm.bus[BUS_MMIO]);
	mem_fini(&t->vm.mem);
	loop_fini(&t->vm.loop);
	close(t->log.fd);
	free(t);
}

static inline u8 devtest_in(struct devtest *t, u16 port)
{
	u8 val;

	bus_read(&t->vm, BUS_PIO, port, &val, 1);
	return val;
}

static inline void devtest_out(struct devtest *t, u16 port, u8 val)
{
	bus_write(&t->vm, BUS_PIO, port, &val, 1);
}

/* Whether the log holds text. */
static inline bool devtest_logged(struct devtest *t, const char *text)
{
	char buf[4096];
	ssize_t n = pread(t->log.fd, buf, sizeof(buf) - 1, 0);

	buf[MAX(n, 0)] = '\0';
	return strstr(buf, text) != NULL;
}

#endif
