/*
 * kvm_rig.h: a small VM under the real KVM, for test_kvm_*.c, or under the accelerator that RIG_ACCEL names: memory at 0 and at 4 GiB,
 * vCPUs in real mode, a device that records.
 */
#ifndef HUSK_TEST_KVM_RIG_H
#define HUSK_TEST_KVM_RIG_H

#include "cm.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arch/x86_64/cpu.h"
#include "kvm/kvm.h"
#include "vmm/config.h"

#ifndef RIG_ACCEL
#define RIG_ACCEL kvm_accel_ops
#define RIG_NODE  "/dev/kvm"
#endif
extern const struct accel_ops RIG_ACCEL;

#define RIG_LOW	     (32 * MIB) /* bytes at 0 */
#define RIG_HIGH     (2 * MIB)
#define RIG_HIGH_GPA (4 * GIB)
#define RIG_CODE     0x1000
#define RIG_PORT     0x500
#define RIG_MMIO     0xd0000000ull
#define RIG_LEN	     0x100

struct rig;
#ifdef RIG_MEMORY
static int RIG_MEMORY(struct rig *rig, struct err *e);
#endif

struct rig_access {
	bool write;
	u64 offset, data;
	u32 len;
};

struct rig {
	struct vm vm;
	struct config config;
	struct cfg_machine machine;
	struct log log;
	struct trace trace;
	struct device dev;
	struct rig_access access[16]; /* what the device saw */
	u32 nr_access;
	u64 answer; /* what it reads as */
	bool kick;  /* kick vCPU 0 from inside an access */
	struct err e;
};

static void rig_record(struct rig *rig, bool write, u64 offset, const void *data, u32 len)
{
	struct rig_access *a = &rig->access[rig->nr_access++ % ARRAY_SIZE(rig->access)];

	*a = (struct rig_access){.write = write, .offset = offset, .len = len};
	memcpy(&a->data, data, len);
	if (rig->kick)
		RIG_ACCEL.vcpu_kick(&rig->vm.vcpus[0]);
}

static void rig_read(struct device *dev, u64 offset, void *data, u32 len)
{
	struct rig *rig = container_of(dev, struct rig, dev);

	memcpy(data, &rig->answer, len);
	rig_record(rig, false, offset, data, len);
}

static void rig_write(struct device *dev, u64 offset, const void *data, u32 len)
{
	rig_record(container_of(dev, struct rig, dev), true, offset, data, len);
}

static const struct bus_ops rig_ops = {.read = rig_read, .write = rig_write};

#define rig_ok(rig, call) \
	do { \
		if ((call) != 0) \
			fail_msg("%s", (rig)->e.msg); \
	} while (0)

/* The registers after a reset, at RIG_CODE. SDM 3A table 9-1 */
static inline void rig_reset_cpu(struct cpu_state *c, u32 index)
{
	for (u32 i = 0; i < X86_NR_SEGS; i++)
		c->seg[i] = (struct x86_seg){.limit = 0xffff, .attr = 0x93};
	c->seg[X86_CS].attr = 0x9b;
	c->seg[X86_DS] = (struct x86_seg){.limit = 0xffffffff, .attr = 0x893}; /* not as after a reset: all of memory is in reach */
	c->seg[X86_LDTR].attr = 0x82;
	c->seg[X86_TR].attr = 0x8b;
	c->gdt.limit = c->idt.limit = 0xffff;
	c->rip = RIG_CODE;
	c->rflags = 2;
	c->cr0 = 0x60000010;
	c->apic_base = 0xfee00800 | (index == 0 ? 0x100 : 0);
	c->dr6 = 0xffff0ff0;
	c->dr7 = 0x400;
	c->mp_state = index == 0 ? X86_MP_RUNNABLE : X86_MP_UNINIT;
}

static inline void rig_add_vcpus(struct rig *rig, u32 n)
{
	rig->vm.vcpus = xzalloc(n * sizeof(*rig->vm.vcpus));
	rig->vm.nr_vcpus = n;
	for (u32 i = 0; i < n; i++) {
		struct vcpu *v = &rig->vm.vcpus[i];

		v->vm = &rig->vm;
		v->index = i;
		v->cpu = xzalloc(sizeof(*v->cpu));
		rig_reset_cpu(v->cpu, i);
		rig_ok(rig, RIG_ACCEL.vcpu_init(v, &rig->e));
	}
}

/* Skips the test when there is no KVM at all. One that emulates is good enough. */
static inline struct rig *rig_new(u32 nr_vcpus, bool track_dirty)
{
	const struct mem_range ranges[] = {{0, RIG_LOW}, {RIG_HIGH_GPA, RIG_HIGH}};
	struct rig *rig;

#ifdef RIG_NODE
	if (access(RIG_NODE, R_OK | W_OK) != 0)
		skip();
#endif
	rig = xzalloc(sizeof(*rig));
	log_init(&rig->log, memfd_create("log", MFD_CLOEXEC), LOG_DEBUG);
	rig->machine.track_dirty_pages = track_dirty;
	rig->config.machine = &rig->machine;
	rig->vm.config = &rig->config;
	rig->vm.log = &rig->log;
	rig->vm.trace = &rig->trace;
	rig->vm.accel = &RIG_ACCEL;
	rig_ok(rig, loop_init(&rig->vm.loop, &rig->e));
	rig_ok(rig, RIG_ACCEL.vm_init(&rig->vm, &rig->e));
	rig_ok(rig, mem_init(&rig->vm.mem, ranges, ARRAY_SIZE(ranges), MEM_HUGE_NONE, &rig->e));
#ifdef RIG_MEMORY
	rig_ok(rig, RIG_MEMORY(rig, &rig->e)); /* brings what is in it, as a restore does */
#endif
	for (u32 i = 0; i < rig->vm.mem.nr_regions; i++)
		rig_ok(rig, RIG_ACCEL.mem_map(&rig->vm, &rig->vm.mem.regions[i], &rig->e));
	device_init(&rig->dev, &rig->vm, NULL, "rig", NULL);
	rig_ok(rig, bus_add(&rig->vm, BUS_PIO, RIG_PORT, RIG_LEN, &rig->dev, &rig_ops, &rig->e));
	rig_ok(rig, bus_add(&rig->vm, BUS_MMIO, RIG_MMIO, RIG_LEN, &rig->dev, &rig_ops, &rig->e));
	rig_add_vcpus(rig, nr_vcpus);
	return rig;
}

static inline void rig_free(struct rig *rig)
{
	for (u32 i = 0; i < rig->vm.nr_vcpus; i++) {
		RIG_ACCEL.vcpu_fini(&rig->vm.vcpus[i]);
		free(rig->vm.vcpus[i].cpu);
	}
	free(rig->vm.vcpus);
	RIG_ACCEL.vm_fini(&rig->vm);
	bus_fini(&rig->vm.bus[BUS_MMIO]);
	bus_fini(&rig->vm.bus[BUS_PIO]);
	device_fini(&rig->dev);
	mem_fini(&rig->vm.mem);
	loop_fini(&rig->vm.loop);
	close(rig->log.fd);
	log_fini(&rig->log);
	free(rig);
}

/* Puts code at RIG_CODE and the vCPU's canonical state into KVM. */
static inline void rig_load(struct rig *rig, const void *code, size_t size)
{
	rig_ok(rig, mem_write(&rig->vm.mem, RIG_CODE, code, size));
	rig_ok(rig, RIG_ACCEL.vcpu_push(&rig->vm.vcpus[0], &rig->e));
}

static inline struct cpu_state *rig_pull(struct rig *rig, u32 index)
{
	rig_ok(rig, RIG_ACCEL.vcpu_pull(&rig->vm.vcpus[index], &rig->e));
	return rig->vm.vcpus[index].cpu;
}

static inline bool rig_logged(struct rig *rig, const char *text)
{
	char buf[4096] = "";

	if (pread(rig->log.fd, buf, sizeof(buf) - 1, 0) < 0)
		return false;
	return strstr(buf, text) != NULL;
}

#endif
