/* boot.c: machine_boot: command line, kernel, initrd, device tree, vCPU states. Linux Documentation/arch/arm64/booting.rst */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "arch/aarch64/arm.h"
#include "arch/aarch64/image.h"
#include "vmm/base/buf.h"
#include "vmm/config.h"
#include "vmm/machine.h"

#define MIN_RAM (32 * MIB)

/* When the configuration has no boot_args. panic=-1: a panic resets through PSCI at once. quiet: each character costs an exit. */
#define DEFAULT_ARGS "console=ttyS0 panic=-1 8250.nr_uarts=1 cryptomgr.notests quiet"
#define DEVICE_TEXT  512

struct boot {
	struct vm *vm;
	const struct cfg_boot_source *cfg;
	struct arm_image image;
	char cmdline[2 * ARM_CMDLINE_MAX];
	u32 cmdline_len;
	u64 entry, fdt_gpa, initrd_gpa, initrd_size; /* size 0: none */
};

static void add(struct boot *b, const char *text)
{
	u32 at = MIN(b->cmdline_len, (u32)sizeof(b->cmdline) - 1), room = (u32)sizeof(b->cmdline) - at;

	text += strspn(text, " ");
	if (*text)
		b->cmdline_len += (u32)snprintf(b->cmdline + at, room, "%s%s", b->cmdline_len ? " " : "", text);
}

/* boot_args or husk's default, then what the devices add; text after " -- " stays last. */
static int build_cmdline(struct boot *b, struct err *e)
{
	const char *args = b->cfg->boot_args ? b->cfg->boot_args : DEFAULT_ARGS, *init = strstr(args, " -- ");
	auto_free char *own = xasprintf("%.*s", init ? (int)(init - args) : (int)strlen(args), args);

	add(b, own);
	for (u32 i = 0; i < b->vm->nr_devices; i++) {
		struct device *dev = b->vm->devices[i];
		char text[DEVICE_TEXT] = "";

		if (dev->cls->cmdline)
			dev->cls->cmdline(dev, text, sizeof(text));
		add(b, text);
	}
	if (init)
		add(b, init + 1);
	if (b->cmdline_len >= ARM_CMDLINE_MAX)
		return err_set(e, -E2BIG, "the kernel command line is %u bytes; arm64 kernels take at most %u", b->cmdline_len,
			       ARM_CMDLINE_MAX - 1);
	return 0;
}

/* Whether vCPUs have the page size that the kernel is built for (ID_AA64MMFR0_EL1: TGran16 20-23, TGran64 24-27, TGran4 28-31). */
static int check_pages(struct boot *b, struct err *e)
{
	static const char *const name[] = {"", "4", "16", "64"};
	struct arch_cpu_caps caps = {0};
	int ret = b->vm->accel->cpu_caps(b->vm, &caps, e);
	bool have = true;

	if (ret < 0)
		return ret;
	if (b->image.pages == ARM_PAGES_4K)
		have = (caps.mmfr0 >> 28 & 15) != 15;
	else if (b->image.pages == ARM_PAGES_16K)
		have = (caps.mmfr0 >> 20 & 15) != 0;
	else if (b->image.pages == ARM_PAGES_64K)
		have = (caps.mmfr0 >> 24 & 15) != 15;
	if (have)
		return 0;
	return err_set(e, -EINVAL, "it is built for pages of %s KiB, which this processor does not have: take one for another page size",
		       name[b->image.pages]);
}

static int load_kernel(struct boot *b, struct err *e)
{
	u64 start = ARM_KERNEL_GPA + b->image.text_offset, limit = b->initrd_size ? b->initrd_gpa : b->fdt_gpa;
	int ret = check_pages(b, e);

	if (ret < 0)
		return ret;
	if (start > limit || b->image.mem_size > limit - start)
		return err_set(e, -ENOMEM, "it needs %llu MiB, the initrd %llu MiB: they do not fit into the machine's memory (%llu MiB)",
			       (unsigned long long)(b->image.mem_size >> 20), (unsigned long long)(b->initrd_size >> 20),
			       (unsigned long long)(mem_ram_size(&b->vm->mem) >> 20));
	b->entry = start;
	return mem_write(&b->vm->mem, start, b->image.bytes, b->image.len);
}

/* Ends below the device tree, page-aligned. */
static int load_initrd(struct boot *b, struct err *e)
{
	auto_fd int fd = open(b->cfg->initrd_path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(e, "cannot open it");
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "not a regular file");
	b->initrd_size = (u64)st.st_size;
	if (b->initrd_size > b->fdt_gpa - ARM_KERNEL_GPA)
		return err_set(e, -ENOMEM, "it has %llu MiB and does not fit into the machine's memory (%llu MiB)",
			       (unsigned long long)(b->initrd_size >> 20), (unsigned long long)(mem_ram_size(&b->vm->mem) >> 20));
	b->initrd_gpa = ALIGN_DOWN(b->fdt_gpa - b->initrd_size, MEM_PAGE_SIZE);
	return b->initrd_size ? mem_load_file(&b->vm->mem, b->initrd_gpa, fd, 0, b->initrd_size, e) : 0;
}

/* Each failure names the file that it is about. */
static int load_images(struct boot *b, struct err *e)
{
	int ret = arm_image_open(&b->image, b->cfg->kernel_image_path, e);

	if (ret == 0 && b->cfg->initrd_path && load_initrd(b, e) < 0)
		return err_prefix(e, "initrd \"%s\"", b->cfg->initrd_path);
	if (ret == 0)
		ret = load_kernel(b, e);
	return ret < 0 ? err_prefix(e, "kernel image \"%s\"", b->cfg->kernel_image_path) : 0;
}

static int write_fdt(struct boot *b, struct err *e)
{
	struct vm *vm = b->vm;
	struct arm_fdt_plan plan = {
		.nr_vcpus = vm->nr_vcpus,
		.nr_slots = vm->machine->nr_slots,
		.bootargs = b->cmdline,
		.initrd_gpa = b->initrd_gpa,
		.initrd_size = b->initrd_size,
	};
	auto_free void *fdt = xzalloc(ARM_FDT_SIZE);
	size_t len;
	int ret;

	plan.nr_ranges = machine_memory_map(mem_ram_size(&vm->mem), plan.ranges);
	if (getrandom(plan.seed, sizeof(plan.seed), 0) != (ssize_t)sizeof(plan.seed))
		return err_errno(e, "cannot get random bytes for the kernel");
	ret = arm_fdt_build(&plan, fdt, ARM_FDT_SIZE, &len, e);
	return ret < 0 ? ret : mem_write(&vm->mem, b->fdt_gpa, fdt, len);
}

int machine_dtb(const struct config *c, struct buf *out, struct err *e)
{
	struct arm_fdt_plan plan = {
		.nr_vcpus = (u32)c->machine->vcpu_count,
		.bootargs = c->boot->boot_args ? c->boot->boot_args : DEFAULT_ARGS,
	};
	auto_free void *fdt = xzalloc(ARM_FDT_SIZE);
	size_t len;
	int ret;

	for (u32 i = 0; device_classes[i]; i++)
		plan.nr_slots += device_classes[i]->mmio_slot ? c->devices[i].nr : 0;
	if (plan.nr_slots > ARM_VIRTIO_SLOTS)
		return err_set(e, -ENOSPC, "this machine has room for %u virtio devices; take some out of the configuration",
			       ARM_VIRTIO_SLOTS);
	plan.nr_ranges = machine_memory_map(c->machine->mem_size_mib * MIB, plan.ranges);
	ret = arm_fdt_build(&plan, fdt, ARM_FDT_SIZE, &len, e);
	if (ret == 0)
		buf_put(out, fdt, len);
	return ret;
}

/* EL1 with the MMU off and interrupts masked; the first has the device tree in x0, the others wait for PSCI. */
static void set_vcpus(struct boot *b)
{
	for (u32 i = 0; i < b->vm->nr_vcpus; i++) {
		struct cpu_state *c = b->vm->vcpus[i].cpu;

		*c = (struct cpu_state){.pstate = ARM_PSTATE_EL1H | ARM_PSTATE_DAIF, .powered_off = i > 0};
		if (i == 0) {
			c->pc = b->entry;
			c->x[0] = b->fdt_gpa;
		}
	}
}

int machine_boot(struct vm *vm, struct err *e)
{
	auto_free struct boot *b = xzalloc(sizeof(*b));
	int ret;

	if (mem_ram_size(&vm->mem) < MIN_RAM)
		return err_set(e, -EINVAL, "mem_size_mib: an arm64 machine needs at least %llu MiB of memory", MIN_RAM >> 20);
	*b = (struct boot){.vm = vm, .cfg = vm->config->boot};
	b->fdt_gpa = ALIGN_DOWN(ARM_RAM_GPA + vm->mem.regions[0].size - ARM_FDT_SIZE, 2 * MIB);
	ret = build_cmdline(b, e);
	if (ret == 0)
		ret = load_images(b, e);
	if (ret == 0)
		ret = write_fdt(b, e);
	if (ret == 0)
		set_vcpus(b);
	arm_image_close(&b->image);
	return ret;
}
