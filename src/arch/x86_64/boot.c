/* boot.c: machine_boot: command line, initrd, kernel, firmware tables, vCPU states. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "arch/x86_64/boot.h"
#include "arch/x86_64/cpu_template.h"
#include "arch/x86_64/cpuid.h"
#include "arch/x86_64/msr.h"
#include "vmm/machine.h"

#define MIN_RAM (16 * MIB) /* far below what any kernel runs in; all boot structures have their place in it */

/* The initrd goes to the end of the RAM below 3 GiB, page-aligned, as far up as the kernel can reach it. */
static int place_initrd(struct boot *b, int fd, struct err *e)
{
	u64 top = b->vm->mem.regions[0].size;
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_errno(e, "cannot open it");
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "not a regular file");
	b->initrd_size = (u64)st.st_size;
	if (b->image.kind == IMAGE_BZIMAGE)
		top = MIN(top, (u64)b->image.bz.initrd_addr_max + 1);
	if (top < X86_HIGH_RAM_GPA || b->initrd_size > top - X86_HIGH_RAM_GPA)
		return err_set(e, -ENOMEM, "it has %llu MiB and does not fit into the machine's memory (%llu MiB)",
			       (unsigned long long)(b->initrd_size >> 20), (unsigned long long)(mem_ram_size(&b->vm->mem) >> 20));
	b->initrd_gpa = ALIGN_DOWN(top - b->initrd_size, MEM_PAGE_SIZE);
	return 0;
}

/* Where the initrd goes is decided before the kernel is loaded, and it is read after: the kernel may be unpacked over its place. */
static int load_initrd(struct boot *b, int fd, struct err *e)
{
	return b->initrd_size ? mem_load_file(&b->vm->mem, b->initrd_gpa, fd, 0, b->initrd_size, e) : 0;
}

static int load_kernel(struct boot *b, struct err *e)
{
	const struct load_request rq = {
		.mem = &b->vm->mem,
		.limit = b->initrd_size ? b->initrd_gpa : b->vm->mem.regions[0].size,
		.kaslr = !cmdline_has(b, "nokaslr"),
	};
	int ret = -EOPNOTSUPP;

	if (b->image.kind == IMAGE_ELF)
		return load_elf(&rq, &b->image, &b->kernel, e);
	if (b->cfg->unpack == CFG_UNPACK_HOST || (b->cfg->unpack == CFG_UNPACK_AUTO && !b->vm->accel->native))
		ret = load_bzimage_unpacked(&rq, &b->image.bz, &b->kernel, e);
	if (ret == -EOPNOTSUPP && b->cfg->unpack == CFG_UNPACK_HOST)
		return err_set(e, ret, "husk cannot unpack this bzImage; leave it to the guest (boot-source: unpack: auto)");
	return ret == -EOPNOTSUPP ? load_bzimage(&rq, &b->image.bz, &b->kernel, e) : ret;
}

/* Kernel and initrd share the RAM below 3 GiB; each failure names the file that it is about. */
static int load_images(struct boot *b, struct err *e)
{
	const struct cfg_boot_source *cfg = b->cfg;
	auto_fd int initrd = cfg->initrd_path ? open(cfg->initrd_path, O_RDONLY | O_CLOEXEC) : -1;
	int ret = 0;

	if (cfg->initrd_path && initrd < 0)
		ret = err_errno(e, "cannot open it");
	if (ret == 0 && initrd >= 0)
		ret = place_initrd(b, initrd, e);
	if (ret < 0)
		return err_prefix(e, "initrd \"%s\"", cfg->initrd_path);
	ret = load_kernel(b, e);
	if (ret < 0)
		return err_prefix(e, "kernel image \"%s\"", cfg->kernel_image_path);
	ret = load_initrd(b, initrd, e);
	return ret < 0 ? err_prefix(e, "initrd \"%s\"", cfg->initrd_path) : 0;
}

/*
 * Where a PC's BIOS would start. Linux on hardware-reduced ACPI, told no reboot= method, tries EFI and then jumps here in real mode: the
 * stub writes to the reset register.
 */
static int write_reset_vector(struct boot *b, struct err *e)
{
	static const u8 stub[] = {
		0xba,
		X86_PIO_RESET & 0xff,
		X86_PIO_RESET >> 8, /* mov $X86_PIO_RESET, %dx */
		0xb0,
		X86_RESET_VALUE, /* mov $X86_RESET_VALUE, %al */
		0xee,		 /* out %al, (%dx) */
		0xf4,
		0xeb,
		0xfd, /* 1: hlt; jmp 1b */
	};

	if (mem_write(&b->vm->mem, X86_RESET_VECTOR_GPA, stub, sizeof(stub)) < 0)
		return err_set(e, -ENOMEM, "guest memory is too small: it must hold the first MiB");
	return 0;
}

static int write_tables(struct boot *b, struct err *e)
{
	int ret = acpi_write(b->vm, e);

	if (ret == 0)
		ret = write_reset_vector(b, e);
	if (ret == 0)
		ret = mptable_write(b->vm, e);
	if (ret == 0)
		ret = paging_write(&b->vm->mem, e);
	if (ret == 0)
		ret = b->kernel.pvh ? boot_pvh_write(b, e) : boot_linux_write(b, e);
	return ret;
}

/* Every vCPU starts from RESET; the first goes on from there to where the kernel wants to be entered. */
static int set_vcpus(struct boot *b, struct err *e)
{
	struct vm *vm = b->vm;
	const struct x86_topology topo = {.nr_vcpus = vm->nr_vcpus, .smt = vm->config->machine->smt};
	auto_free struct arch_cpu_caps *caps = xzalloc(sizeof(*caps));
	int ret = vm->accel->cpu_caps(vm, caps, e);

	if (ret == 0)
		ret = cpu_template_apply(vm->config, vm->accel->name, caps, e);
	if (ret < 0)
		return ret;
	for (u32 i = 0; i < vm->nr_vcpus; i++) {
		struct cpu_state *c = vm->vcpus[i].cpu;

		x86_cpu_reset(c, i);
		x86_cpuid_build(&c->cpuid, caps, &topo, i);
		x86_msr_boot(c);
		cpu_template_set_msrs(caps, c);
		c->tsc_khz = caps->tsc_khz;
	}
	if (b->kernel.pvh)
		x86_cpu_enter_pvh(vm->vcpus[0].cpu, b->kernel.entry, X86_PVH_INFO_GPA);
	else
		x86_cpu_enter_long(vm->vcpus[0].cpu, b->kernel.entry, X86_ZERO_PAGE_GPA);
	return 0;
}

static int boot(struct boot *b, struct err *e)
{
	int ret = image_open(&b->image, b->cfg->kernel_image_path, e);

	if (ret == 0)
		ret = cmdline_build(b, e);
	if (ret == 0)
		ret = load_images(b, e);
	if (ret == 0)
		ret = write_tables(b, e);
	if (ret == 0)
		ret = set_vcpus(b, e);
	image_close(&b->image);
	return ret;
}

int machine_boot(struct vm *vm, struct err *e)
{
	auto_free struct boot *b = xzalloc(sizeof(*b));

	if (mem_ram_size(&vm->mem) < MIN_RAM)
		return err_set(e, -EINVAL, "mem_size_mib: a machine needs at least %llu MiB of memory", MIN_RAM >> 20);
	*b = (struct boot){.vm = vm, .cfg = vm->config->boot};
	return boot(b, e);
}
