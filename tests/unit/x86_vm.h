/*
 * x86_vm.h: a whole x86-64 VM for tests of what the machine writes into guest memory: vm_init with a parsed configuration, real devices and
 * an accelerator that shows the host's own CPUID and runs nothing. Include once, in a test's only file: it brings the lists that
 * src/class_list.c would.
 */
#ifndef HUSK_TEST_X86_VM_H
#define HUSK_TEST_X86_VM_H

#include "cm.h"

#include <cpuid.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arch/x86_64/x86.h"
#include "vmm/config.h"
#include "vmm/machine.h"

static u32 x86_pulses[X86_IOAPIC_PINS];

static int null_vm_init(struct vm *vm, struct err *e)
{
	(void)vm;
	(void)e;
	return 0;
}

static int null_probe(struct err *e)
{
	(void)e;
	return 0;
}

static int null_mem_map(struct vm *vm, const struct mem_region *r, struct err *e)
{
	(void)vm;
	(void)r;
	(void)e;
	return 0;
}

static int null_vcpu(struct vcpu *v, struct err *e)
{
	(void)v;
	(void)e;
	return 0;
}

static void null_irq_line(struct vm *vm, u32 gsi, bool level)
{
	(void)vm;
	x86_pulses[gsi] += level;
}

static void add_leaf(struct x86_cpuid_table *t, u32 leaf, u32 subleaf, bool has_subleaf)
{
	struct x86_cpuid *c = &t->e[t->nr++];

	*c = (struct x86_cpuid){.leaf = leaf, .subleaf = subleaf, .has_subleaf = has_subleaf};
	__cpuid_count(leaf, subleaf, c->eax, c->ebx, c->ecx, c->edx);
}

static int host_cpu_caps(struct vm *vm, struct arch_cpu_caps *caps, struct err *e)
{
	(void)vm;
	(void)e;
	*caps = (struct arch_cpu_caps){.tsc_khz = 2500000, .tsc_deadline = true, .x2apic = true};
	add_leaf(&caps->cpuid, 0, 0, false);
	add_leaf(&caps->cpuid, 1, 0, false);
	add_leaf(&caps->cpuid, 7, 0, true);
	return 0;
}

static const struct accel_ops null_accel = {
	.name = "kvm",
	.probe = null_probe,
	.vm_init = null_vm_init,
	.mem_map = null_mem_map,
	.vcpu_init = null_vcpu,
	.vcpu_push = null_vcpu,
	.cpu_caps = host_cpu_caps,
	.irq_line = null_irq_line,
};
const struct accel_ops *const accel_list[] = {&null_accel, NULL};

/* The machine's own devices, and virtio ones that need nothing of the host. */
extern const struct device_class uart16550_class, i8042_class, rtc_cmos_class, pvpanic_class, vmgenid_class, boot_timer_class;
static const struct device_class slot_class;
const struct device_class *const device_classes[] = {
	&uart16550_class, &i8042_class, &rtc_cmos_class, &pvpanic_class, &vmgenid_class, &boot_timer_class, &slot_class, NULL,
};

const struct device_class *device_class_find(const char *name)
{
	for (u32 i = 0; device_classes[i]; i++) {
		if (!strcmp(device_classes[i]->name, name))
			return device_classes[i];
	}
	return NULL;
}

/* "slots": devices that do nothing but sit in a virtio-mmio slot, and put their text on the command line. */
struct slot_cfg {
	char *text;
};

static const struct cfg_field slot_fields[] = {{.key = "text", .type = CFG_STR, .offset = offsetof(struct slot_cfg, text), .help = "x"}};
static const struct cfg_table slot_table = {"slot", "x", sizeof(struct slot_cfg), slot_fields, 1, false, false, 0};

static int slot_create(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct device **out,
		       struct err *e)
{
	(void)e;
	*out = xzalloc(sizeof(**out));
	device_init(*out, vm, cls, ((const struct slot_cfg *)cfg)->text ? ((const struct slot_cfg *)cfg)->text : "", slot);
	return 0;
}

static void slot_destroy(struct device *dev)
{
	device_fini(dev);
	free(dev);
}

static void slot_cmdline(struct device *dev, char *buf, size_t size)
{
	snprintf(buf, size, "%s", dev->id);
}

static const struct device_class slot_class = {
	.name = "slot",
	.section = "slots",
	.list = true,
	.config = &slot_table,
	.mmio_slot = true,
	.acpi_hid = "LNRO0005",
	.create = slot_create,
	.destroy = slot_destroy,
	.cmdline = slot_cmdline,
};

struct x86_vm {
	struct vm vm;
	struct log log;
	struct trace trace;
	struct config config;
	struct err err; /* of the last x86_vm_init */
};

/* Builds the VM that the JSON text (with ' for ") describes; the result of vm_init. x86_vm_fini in any case. */
static int x86_vm_init(struct x86_vm *x, const char *text)
{
	auto_free char *json_text = xstrdup(text);
	struct json_object *json;

	*x = (struct x86_vm){.vm.mem.fd = -1};
	log_init(&x->log, STDERR_FILENO, LOG_WARN);
	for (char *p = json_text; (p = strchr(p, '\'')); p++)
		*p = '"';
	json = json_tokener_parse(json_text);
	assert_non_null(json);
	if (config_parse(&x->config, json, "test", &x->err) < 0)
		fail_msg("%s", x->err.msg);
	json_object_put(json);
	return vm_init(&x->vm, &x->config, &x->log, &x->trace, &x->err);
}

static void x86_vm_fini(struct x86_vm *x)
{
	vm_fini(&x->vm);
	config_fini(&x->config);
	log_fini(&x->log);
}

/* Writes a file for a test and returns its path, which the caller frees and unlinks. */
static char *temp_file(const void *data, size_t len)
{
	char *path = xstrdup("/tmp/husk-test-XXXXXX");
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, data, len), 0);
	close(fd);
	return path;
}

static const u8 *guest(struct x86_vm *x, u64 gpa, u64 len)
{
	const u8 *p = mem_ptr(&x->vm.mem, gpa, len);

	assert_non_null(p);
	return p;
}

#endif
