/*
 * toy_vm.h: a VM of toys for tests of the package: two vCPUs, a few devices and their tables, nothing of the host but guest memory. Include
 * once, in a test's only file: it brings the lists and the sections of the machine that husk's own would.
 */
#ifndef HUSK_TEST_TOY_VM_H
#define HUSK_TEST_TOY_VM_H

#include "cm.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "migration/package.h"
#include "vmm/config.h"
#include "vmm/machine.h"
#include "vmm/vm.h"

#define TOY_CPUS 2
#define TOY_RAM	 (8 * MIB)

struct toy_cpu {
	u64 rip;
	u32 flags;
};

static const struct state_field toy_cpu_fields[] = {
	STATE_NUM(struct toy_cpu, rip, 1, .hex = true),
	STATE_NUM(struct toy_cpu, flags, 2, .max = 0xff),
	STATE_END,
};
static const struct state_table toy_cpu_table = {
	.name = "cpu", .version = 1, .min_version = 1, .size = sizeof(struct toy_cpu), .fields = toy_cpu_fields};

struct toy_ring {
	u16 head, tail;
};

struct toy_state {
	u32 nr_rings;
	struct toy_ring rings[4];
	bool on;
	char name[12];
	u8 data[32];
};

static const struct state_field toy_ring_fields[] = {
	STATE_NUM(struct toy_ring, head, 1),
	STATE_NUM(struct toy_ring, tail, 2),
	STATE_END,
};
static const struct state_table toy_ring_table = {
	.name = "toy-ring", .version = 1, .min_version = 1, .size = sizeof(struct toy_ring), .fields = toy_ring_fields};

static const struct state_field toy_fields[] = {
	STATE_NUM(struct toy_state, nr_rings, 1),
	STATE_MANY(struct toy_state, rings, 2, &toy_ring_table, STATE_NR(struct toy_state, nr_rings)),
	STATE_FLAG(struct toy_state, on, 3),
	STATE_STR(struct toy_state, name, 4),
	STATE_BUF(struct toy_state, data, 5, .since = 3),
	STATE_END,
};
static const struct state_table toy_table = {
	.name = "toy", .version = 3, .min_version = 2, .size = sizeof(struct toy_state), .fields = toy_fields};

struct toy_hint {
	u64 hint;
};

static const struct state_field toy_hint_fields[] = {STATE_NUM(struct toy_hint, hint, 1), STATE_END};
static const struct state_table toy_hint_table = {
	.name = "toy-hint", .version = 1, .min_version = 1, .size = sizeof(struct toy_hint), .fields = toy_hint_fields};

const struct state_table *const machine_tables[] = {&toy_cpu_table, NULL};

struct toy {
	struct device dev; /* first */
	struct toy_state state;
	struct toy_hint hint;
	u32 loads;
};

struct toy_vm {
	struct vm vm;
	struct log log;
	struct json_object *document;
	struct toy_cpu live[TOY_CPUS], pulled[TOY_CPUS]; /* pulled: what vcpu_pull leaves, as v->cpu is */
	struct toy toys[3];				 /* "toys/a", "toys/b", "rng" */
	u32 pulls, vm_pulls, cpu_loads, order;		 /* order: of the last cpu load among all loads */
	int refuse_save;				 /* of toys/b */
};

static struct toy_vm *toy_of(struct vm *vm)
{
	return container_of(vm, struct toy_vm, vm);
}

static struct toy *to_toy(struct device *dev)
{
	return (struct toy *)dev;
}

static int toy_save(struct device *dev, void *data, struct err *e)
{
	struct toy_vm *t = toy_of(dev->vm);

	if (t->refuse_save && dev == &t->toys[1].dev)
		return err_set(e, t->refuse_save, "it is being played with");
	*(struct toy_state *)data = to_toy(dev)->state;
	return 0;
}

static int toy_check(struct device *dev, const void *data, struct err *e)
{
	const struct toy_state *s = data;

	(void)dev;
	for (u32 i = 0; i < s->nr_rings; i++) {
		if (s->rings[i].head < s->rings[i].tail)
			return err_set(e, -EINVAL, "field rings[%u].tail: it is before the head", i);
	}
	return 0;
}

static void toy_load(struct device *dev, const void *data)
{
	to_toy(dev)->state = *(const struct toy_state *)data;
	to_toy(dev)->loads++;
}

static int toy_hint_save(struct device *dev, void *data, struct err *e)
{
	(void)e;
	*(struct toy_hint *)data = to_toy(dev)->hint;
	return 0;
}

static void toy_hint_load(struct device *dev, const void *data)
{
	to_toy(dev)->hint = *(const struct toy_hint *)data;
	to_toy(dev)->loads++;
}

static const struct device_state toy_device_state = {.table = &toy_table, .save = toy_save, .check = toy_check, .load = toy_load};
static const struct device_state toy_hint_state = {
	.table = &toy_hint_table, .save = toy_hint_save, .load = toy_hint_load, .optional = true};
static const struct device_state *const toy_states[] = {&toy_device_state, NULL};
static const struct device_state *const toy_both[] = {&toy_device_state, &toy_hint_state, NULL};

static const struct device_class toy_list_class = {.name = "toy-list", .section = "toys", .list = true, .states = toy_states};
static const struct device_class toy_one_class = {.name = "toy-one", .section = "toy", .states = toy_both};
const struct device_class *const device_classes[] = {&toy_list_class, &toy_one_class, NULL};

static int toy_cpu_save(struct vm *vm, const struct state_section *s, void *data, struct err *e)
{
	(void)e;
	*(struct toy_cpu *)data = toy_of(vm)->pulled[s->index];
	return 0;
}

static int toy_cpu_load(struct vm *vm, const struct state_section *s, const void *data, struct err *e)
{
	struct toy_vm *t = toy_of(vm);

	(void)e;
	t->live[s->index] = *(const struct toy_cpu *)data;
	t->cpu_loads++;
	t->order = t->toys[0].loads + t->toys[1].loads + t->toys[2].loads;
	return 0;
}

u32 machine_sections(struct vm *vm, struct state_section *out)
{
	for (u32 i = 0; i < vm->nr_vcpus; i++) {
		out[i] = (struct state_section){.table = &toy_cpu_table, .index = i, .save = toy_cpu_save, .load = toy_cpu_load};
		snprintf(out[i].instance, sizeof(out[i].instance), "%u", i);
	}
	return vm->nr_vcpus;
}

static int toy_pull(struct vcpu *v, struct err *e)
{
	struct toy_vm *t = toy_of(v->vm);

	(void)e;
	t->pulled[v->index] = t->live[v->index];
	t->pulls++;
	return 0;
}

static int toy_vm_pull(struct vm *vm, struct err *e)
{
	(void)e;
	toy_of(vm)->vm_pulls++;
	return 0;
}

static const struct accel_ops toy_accel = {.name = "toy", .vcpu_pull = toy_pull, .vm_pull = toy_vm_pull};

static void toy_add(struct toy_vm *t, const struct device_class *cls, const char *id)
{
	struct toy *toy = &t->toys[t->vm.nr_devices];

	toy->dev = (struct device){.cls = cls, .vm = &t->vm};
	snprintf(toy->dev.id, sizeof(toy->dev.id), "%s", id);
	t->vm.devices[t->vm.nr_devices++] = &toy->dev;
}

/* Empty toys: what a VM is before its state is loaded. */
static void toy_vm_init(struct toy_vm *t)
{
	static const struct mem_range ram = {0, TOY_RAM};
	struct err e;

	*t = (struct toy_vm){0};
	log_init(&t->log, 2, LOG_OFF);
	t->vm.log = &t->log;
	t->vm.accel = &toy_accel;
	t->document = json_tokener_parse("{\"machine-config\":{\"vcpu_count\":2}}");
	t->vm.document = &t->document;
	t->vm.vcpus = xzalloc(TOY_CPUS * sizeof(*t->vm.vcpus));
	t->vm.nr_vcpus = TOY_CPUS;
	for (u32 i = 0; i < TOY_CPUS; i++)
		t->vm.vcpus[i] = (struct vcpu){.vm = &t->vm, .index = i};
	assert_int_equal(mem_init(&t->vm.mem, &ram, 1, MEM_HUGE_NONE, &e), 0);
	toy_add(t, &toy_list_class, "a");
	toy_add(t, &toy_list_class, "b");
	toy_add(t, &toy_one_class, "rng");
}

/* The same with a life behind it. */
static void toy_vm_live(struct toy_vm *t)
{
	for (u32 i = 0; i < TOY_CPUS; i++)
		t->live[i] = (struct toy_cpu){.rip = 0xffffffff81000000 + i, .flags = 2};
	for (u32 i = 0; i < ARRAY_SIZE(t->toys); i++) {
		struct toy_state *s = &t->toys[i].state;

		s->nr_rings = i;
		for (u32 k = 0; k < i; k++)
			s->rings[k] = (struct toy_ring){.head = (u16)(10 * k + 1), .tail = (u16)k};
		s->on = i & 1;
		snprintf(s->name, sizeof(s->name), "toy %u", i % 10);
		memset(s->data, (int)(0xa0 + i), sizeof(s->data));
	}
	t->toys[2].hint.hint = 77;
}

static void toy_vm_fini(struct toy_vm *t)
{
	json_object_put(t->document);
	mem_fini(&t->vm.mem);
	free(t->vm.vcpus);
	log_fini(&t->log);
}

/* Whether all that a load could change is as it is in the other. */
static inline bool toy_same(const struct toy_vm *a, const struct toy_vm *b)
{
	for (u32 i = 0; i < ARRAY_SIZE(a->toys); i++) {
		if (memcmp(&a->toys[i].state, &b->toys[i].state, sizeof(a->toys[i].state)) ||
		    a->toys[i].hint.hint != b->toys[i].hint.hint || a->toys[i].loads != b->toys[i].loads)
			return false;
	}
	return !memcmp(a->live, b->live, sizeof(a->live)) && a->cpu_loads == b->cpu_loads;
}

static inline void toy_vm_save(struct toy_vm *t, struct buf *out)
{
	struct package_vm *info = xzalloc(sizeof(*info));
	struct err e;

	if (package_describe(&t->vm, info, &e) < 0 || package_save(&t->vm, info, PACKAGE_SOFT_CAP, out, &e) < 0)
		fail_msg("%s", e.msg);
	free(info);
}

#endif
