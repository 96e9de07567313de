/* fake_vm.c: a VM without vCPUs for device tests; see fake_vm.h. */
#include "tests/dev/fake_vm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ALLOC_START (1 * MIB)

_Noreturn void fake_die(const char *what, const struct err *e)
{
	fprintf(stderr, "device test: %s%s%s\n", what, e ? ": " : "", e ? e->msg : "");
	abort();
}

static struct fake_vm *to_fake(struct vm *vm)
{
	return container_of(vm, struct fake_vm, vm);
}

static void fake_irq_line(struct vm *vm, u32 gsi, bool level)
{
	ASSERT(gsi < FAKE_GSIS);
	if (level)
		__atomic_fetch_add(&to_fake(vm)->edges[gsi], 1, __ATOMIC_RELEASE);
}

static int fake_ioeventfd(struct vm *vm, int fd, u64 addr, u32 len, u64 value, bool add, struct err *e)
{
	struct fake_vm *f = to_fake(vm);

	(void)e;
	ASSERT(len == 4);
	for (u32 i = 0; i < f->nr_ioeventfds; i++) {
		if (f->ioeventfds[i].addr == addr && f->ioeventfds[i].value == value) {
			ASSERT(!add && f->ioeventfds[i].fd == fd);
			f->ioeventfds[i] = f->ioeventfds[--f->nr_ioeventfds];
			return 0;
		}
	}
	ASSERT(add && f->nr_ioeventfds < FAKE_IOEVENTFDS);
	f->ioeventfds[f->nr_ioeventfds].addr = addr;
	f->ioeventfds[f->nr_ioeventfds].value = value;
	f->ioeventfds[f->nr_ioeventfds++].fd = fd;
	return 0;
}

/* Nobody runs guest code here. */
static int fake_mem_map(struct vm *vm, const struct mem_region *r, struct err *e)
{
	(void)vm;
	(void)r;
	(void)e;
	return 0;
}

static const struct accel_ops fake_accel = {.name = "fake", .irq_line = fake_irq_line, .mem_map = fake_mem_map};
static const struct accel_ops fake_accel_ioeventfd = {
	.name = "fake", .irq_line = fake_irq_line, .mem_map = fake_mem_map, .ioeventfd = fake_ioeventfd};

void fake_vm_init(struct fake_vm *f, u32 flags)
{
	static const struct mem_range ranges[] = {{0, FAKE_RAM_LOW}, {FAKE_RAM_HIGH_BASE, FAKE_RAM_HIGH}};
	const char *patterns = getenv("HUSK_TEST_TRACE");
	struct err e;

	memset(f, 0, sizeof(*f));
	log_init(&f->log, STDERR_FILENO, flags & FAKE_VM_QUIET ? LOG_OFF : LOG_WARN);
	if (patterns && trace_enable(&f->trace, patterns, STDERR_FILENO, &e) < 0)
		fake_die("HUSK_TEST_TRACE", &e);
	f->next_gpa = ALLOC_START;
	f->config.machine = &f->machine;
	f->vm.config = &f->config;
	f->vm.log = &f->log;
	f->vm.trace = &f->trace;
	f->vm.accel = flags & FAKE_VM_IOEVENTFD ? &fake_accel_ioeventfd : &fake_accel;
	f->vm.clock.base_ns = clock_host_ns();
	pthread_mutex_init(&f->vm.run_lock, NULL);
	pthread_cond_init(&f->vm.run_cond, NULL);
	if (mem_init(&f->vm.mem, ranges, ARRAY_SIZE(ranges), MEM_HUGE_NONE, &e) < 0 || loop_init(&f->vm.loop, &e) < 0)
		fake_die("cannot make a VM", &e);
}

struct device *fake_vm_add_err(struct fake_vm *f, const struct device_class *cls, const void *cfg, struct err *e)
{
	u32 n = f->vm.nr_devices;
	struct dev_slot slot = {
		.mmio_base = FAKE_MMIO_BASE + n * 0x1000ull,
		.mmio_len = 0x1000,
		.gsi = FAKE_FIRST_GSI + n,
		.has_gsi = true,
	};

	ASSERT(!f->running);
	if (cls->create(&f->vm, cls, cfg, &slot, &f->vm.devices[n], e) < 0)
		return NULL;
	return f->vm.devices[f->vm.nr_devices++];
}

struct device *fake_vm_add(struct fake_vm *f, const struct device_class *cls, const void *cfg)
{
	struct err e;
	struct device *dev = fake_vm_add_err(f, cls, cfg, &e);

	if (!dev)
		fake_die("cannot make a device", &e);
	return dev;
}

static void *run_loop(void *arg)
{
	struct fake_vm *f = arg;

	loop_run(&f->vm.loop);
	return NULL;
}

void fake_vm_start(struct fake_vm *f)
{
	struct err e;

	for (u32 i = 0; i < f->vm.nr_devices; i++) {
		struct device *dev = f->vm.devices[i];

		if (dev->cls->start && dev->cls->start(dev, &e) < 0)
			fake_die("a device does not start", &e);
	}
	if (pthread_create(&f->loop_thread, NULL, run_loop, f))
		fake_die("no thread", NULL);
	f->running = true;
}

void fake_vm_fini(struct fake_vm *f)
{
	if (f->running) {
		loop_stop(&f->vm.loop);
		pthread_join(f->loop_thread, NULL);
	}
	while (f->vm.nr_devices) {
		struct device *dev = f->vm.devices[--f->vm.nr_devices];

		dev->cls->destroy(dev);
	}
	ASSERT(!f->nr_ioeventfds);
	loop_fini(&f->vm.loop);
	bus_fini(&f->vm.bus[BUS_MMIO]);
	bus_fini(&f->vm.bus[BUS_PIO]);
	mem_fini(&f->vm.mem);
	pthread_mutex_destroy(&f->vm.run_lock);
	pthread_cond_destroy(&f->vm.run_cond);
	trace_fini(&f->trace);
	log_fini(&f->log);
}

u64 fake_vm_alloc(struct fake_vm *f, u64 size, u64 align)
{
	u64 gpa = ALIGN_UP(f->next_gpa, align);

	if (gpa + size > FAKE_RAM_LOW)
		fake_die("guest memory is used up", NULL);
	f->next_gpa = gpa + size;
	return gpa;
}

void *fake_vm_ptr(struct fake_vm *f, u64 gpa, u64 len)
{
	void *p = mem_ptr(&f->vm.mem, gpa, len);

	ASSERT(p);
	return p;
}
