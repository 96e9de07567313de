/* test_boot.c: machine_boot as a whole: what lies in guest memory and in the vCPUs before the first instruction. */
#include "x86_vm.h"
#include "x86_elf.h"

#include <errno.h>

#include "arch/x86_64/image.h"
#include "arch/x86_64/msr.h"

#define MACHINE " 'serial': {'mode': 'null'}}"

struct fixture {
	struct x86_vm x;
	char *kernel, *initrd; /* temporary files */
};

/* A VM with a small ELF kernel; more: JSON text of further boot-source keys; rest: further sections. The result of vm_init. */
static int try_start(struct fixture *f, bool pvh, u32 mib, size_t initrd_len, const char *more, const char *rest)
{
	size_t size;
	auto_free u8 *elf = make_elf(0x1000, pvh, &size), *initrd = xzalloc(initrd_len + 1);
	auto_free char *config = NULL, *with_initrd = NULL;

	memset(initrd, 0x33, initrd_len);
	*f = (struct fixture){.kernel = temp_file(elf, size), .initrd = temp_file(initrd, initrd_len)};
	with_initrd = xasprintf(", 'initrd_path': '%s'", f->initrd);
	config = xasprintf(
		"{'boot-source': {'kernel_image_path': '%s'%s%s}, 'machine-config': {'vcpu_count': 2, 'mem_size_mib': %u},%s " MACHINE,
		f->kernel, initrd_len ? with_initrd : "", more, mib, rest);
	return x86_vm_init(&f->x, config);
}

static void start(struct fixture *f, bool pvh, size_t initrd_len, const char *more, const char *rest)
{
	if (try_start(f, pvh, 64, initrd_len, more, rest) < 0)
		fail_msg("%s", f->x.err.msg);
}

static void stop(struct fixture *f)
{
	x86_vm_fini(&f->x);
	unlink(f->kernel);
	unlink(f->initrd);
	free(f->kernel);
	free(f->initrd);
}

static const char *cmdline(struct fixture *f)
{
	return (const char *)guest(&f->x, X86_CMDLINE_GPA, 4096);
}

static void an_elf_kernel_is_entered_in_64_bit_mode_with_the_zero_page(void **state)
{
	struct fixture f;
	const struct cpu_state *c;
	const u8 *zp;

	(void)state;
	start(&f, false, 5000, "", "");
	c = f.x.vm.vcpus[0].cpu;
	zp = guest(&f.x, X86_ZERO_PAGE_GPA, 4096);
	assert_int_equal(c->rip, ELF_TEXT_PADDR + 0x10);
	assert_int_equal(c->gpr[X86_RSI], X86_ZERO_PAGE_GPA);
	assert_int_equal(c->cr0 & (BIT(0) | BIT(31)), BIT(0) | BIT(31));
	assert_int_equal(c->efer, BIT(8) | BIT(10));
	assert_int_equal(c->rflags, 2);
	assert_int_equal(c->mp_state, X86_MP_RUNNABLE);
	assert_int_equal(ld_le16(zp + 0x1fe), 0xaa55);
	assert_memory_equal(zp + 0x202, "HdrS", 4);
	assert_int_equal(zp[0x210], 0xff);
	assert_int_equal(ld_le32(zp + 0x228), X86_CMDLINE_GPA);
	assert_int_equal(ld_le64(zp + 0x070), X86_RSDP_GPA);
	assert_int_equal(ld_le32(zp + 0x21c), 5000);
	assert_int_equal(ld_le32(zp + 0x218), 64 * MIB - 8192);
	assert_int_equal(*guest(&f.x, 64 * MIB - 8192 + 4999, 1), 0x33);
	stop(&f);
}

static void the_memory_map_names_ram_and_the_reserved_system_area(void **state)
{
	struct fixture f;
	const u8 *zp;

	(void)state;
	start(&f, false, 0, "", "");
	zp = guest(&f.x, X86_ZERO_PAGE_GPA, 4096);
	assert_int_equal(zp[0x1e8], 3);
	assert_int_equal(ld_le64(zp + 0x2d0 + 8), X86_LOW_RAM_END);
	assert_int_equal(ld_le32(zp + 0x2d0 + 16), E820_RAM);
	assert_int_equal(ld_le64(zp + 0x2d0 + 20), X86_LOW_RAM_END);
	assert_int_equal(ld_le32(zp + 0x2d0 + 36), E820_RESERVED);
	assert_int_equal(ld_le64(zp + 0x2d0 + 40), X86_HIGH_RAM_GPA);
	assert_int_equal(ld_le64(zp + 0x2d0 + 48), 64 * MIB - X86_HIGH_RAM_GPA);
	stop(&f);
}

static void memory_beyond_3_gib_goes_above_4_gib(void **state)
{
	struct mem_range r[MEM_MAX_REGIONS];

	(void)state;
	assert_int_equal(machine_memory_map(3 * GIB, r), 1);
	assert_int_equal(r[0].size, 3 * GIB);
	assert_int_equal(machine_memory_map(96 * GIB, r), 2);
	assert_int_equal(r[0].size, 3 * GIB);
	assert_int_equal(r[1].gpa, 4 * GIB);
	assert_int_equal(r[1].size, 93 * GIB);
}

static void a_seed_for_the_random_number_generator_is_in_the_setup_data(void **state)
{
	struct fixture f;
	const u8 *node, zero[32] = {0};

	(void)state;
	start(&f, false, 0, "", "");
	node = guest(&f.x, ld_le64(guest(&f.x, X86_ZERO_PAGE_GPA, 4096) + 0x250), 48);
	assert_int_equal(ld_le64(node), 0);
	assert_int_equal(ld_le32(node + 8), 9);
	assert_int_equal(ld_le32(node + 12), 32);
	assert_memory_not_equal(node + 16, zero, 32);
	stop(&f);
}

static void the_page_tables_map_four_gib_to_themselves(void **state)
{
	struct fixture f;
	u64 cr3;

	(void)state;
	start(&f, false, 0, "", "");
	cr3 = f.x.vm.vcpus[0].cpu->cr3;
	for (u64 va = 0; va < 4 * GIB; va += 2 * MIB - 1) {
		u64 pml4e = ld_le64(guest(&f.x, cr3, 8)), pdpte = ld_le64(guest(&f.x, (pml4e & ~0xfffull) + (va >> 30) * 8, 8));
		u64 pde = ld_le64(guest(&f.x, (pdpte & ~0xfffull) + (va >> 21 & 511) * 8, 8));

		assert_int_equal(pde & 0x83, 0x83);
		assert_int_equal(pde & ~0x1fffffull, va & ~0x1fffffull);
	}
	stop(&f);
}

static void the_descriptors_agree_with_the_loaded_segments(void **state)
{
	struct fixture f;
	const struct cpu_state *c;

	(void)state;
	start(&f, false, 0, "", "");
	c = f.x.vm.vcpus[0].cpu;
	for (u32 i = 0; i < X86_NR_SEGS; i++) {
		const struct x86_seg *s = &c->seg[i];
		u64 d;

		if (i == X86_LDTR)
			continue;
		assert_in_range(s->selector, 8, c->gdt.limit - 7);
		d = ld_le64(guest(&f.x, c->gdt.base + s->selector, 8));
		assert_int_equal((d >> 40 & 0xff) | (d >> 44 & 0xf00), s->attr);
		assert_int_equal((d & 0xffff) | (d >> 32 & 0xf0000), s->attr & 0x800 ? s->limit >> 12 : s->limit);
	}
	stop(&f);
}

static void a_pvh_kernel_is_entered_in_32_bit_mode_with_the_start_info(void **state)
{
	struct fixture f;
	const struct cpu_state *c;
	const u8 *info, *module;

	(void)state;
	start(&f, true, 300, "", "");
	c = f.x.vm.vcpus[0].cpu;
	info = guest(&f.x, c->gpr[X86_RBX], 56);
	assert_int_equal(c->rip, ELF_PVH_ENTRY);
	assert_int_equal(c->cr0, BIT(0) | BIT(4));
	assert_int_equal(c->cr4, 0);
	assert_int_equal(c->efer, 0);
	assert_int_equal(c->seg[X86_CS].attr, 0xc9b);
	assert_int_equal(ld_le32(info), 0x336ec578);
	assert_int_equal(ld_le32(info + 12), 1);
	module = guest(&f.x, ld_le64(info + 16), 32);
	assert_int_equal(ld_le64(module), 64 * MIB - 4096);
	assert_int_equal(ld_le64(module + 8), 300);
	assert_int_equal(ld_le64(info + 24), X86_CMDLINE_GPA);
	assert_int_equal(ld_le64(info + 32), X86_RSDP_GPA);
	assert_int_equal(ld_le32(info + 48), 3);
	assert_int_equal(ld_le64(guest(&f.x, ld_le64(info + 40) + 48, 24)), X86_HIGH_RAM_GPA);
	stop(&f);
}

static void the_other_vcpus_wait_as_after_reset(void **state)
{
	struct fixture f;
	const struct cpu_state *c;

	(void)state;
	start(&f, false, 0, "", "");
	c = f.x.vm.vcpus[1].cpu;
	assert_int_equal(c->mp_state, X86_MP_UNINIT);
	assert_int_equal(c->seg[X86_CS].base + c->rip, 0xfffffff0);
	assert_int_equal(c->apic_base, X86_LAPIC_GPA | BIT(11));
	assert_int_equal(ld_le32(c->lapic.regs + 0x20), 1u << 24);
	assert_int_equal(x86_cpuid_find(&f.x.vm.vcpus[1].cpu->cpuid, 1, 0)->ebx >> 24, 1);
	assert_int_equal(c->msrs[0].index, MSR_IA32_MISC_ENABLE);
	stop(&f);
}

static void the_command_line_gets_what_the_machine_and_devices_add(void **state)
{
	struct fixture f;

	(void)state;
	start(&f, false, 0, ", 'boot_args': 'quiet -- --init-arg'", "'slots': [{'text': 'root=/dev/vda rw'},{}],");
	assert_string_equal(cmdline(&f), "quiet pci=off root=/dev/vda rw virtio_mmio.device=4K@0xc0001000:5 "
					 "virtio_mmio.device=4K@0xc0002000:6 -- --init-arg");
	assert_int_equal(ld_le32(guest(&f.x, X86_ZERO_PAGE_GPA, 4096) + 0x238), strlen(cmdline(&f)));
	stop(&f);
	start(&f, false, 0, ", 'boot_args': 'pci=conf1'", "");
	assert_string_equal(cmdline(&f), "pci=conf1");
	stop(&f);
}

static void without_boot_args_there_is_a_default(void **state)
{
	struct fixture f;

	(void)state;
	start(&f, false, 0, "", "");
	assert_non_null(strstr(cmdline(&f), "console=ttyS0 reboot=k panic=-1"));
	/* The accelerator of these tests is not native. */
	assert_non_null(strstr(cmdline(&f), " mitigations=off"));
	stop(&f);
	start(&f, false, 0, ", 'boot_args': 'quiet'", "");
	assert_null(strstr(cmdline(&f), "mitigations"));
	stop(&f);
}

static void a_command_line_that_is_too_long_is_refused_with_both_numbers(void **state)
{
	struct fixture f;
	char args[2001];
	auto_free char *more = NULL;

	(void)state;
	memset(args, 'x', 2000);
	args[2000] = 0;
	more = xasprintf(", 'boot_args': '%s'", args);
	start(&f, false, 0, more, ""); /* 2000 + " pci=off" */
	stop(&f);
	assert_int_equal(try_start(&f, false, 64, 0, more, "'slots': [{},{}],"), -E2BIG);
	assert_string_equal(f.x.err.msg, "the kernel command line is 2078 bytes; this kernel takes at most 2047");
	stop(&f);
}

static void an_initrd_that_does_not_fit_is_refused(void **state)
{
	struct fixture f;

	(void)state;
	assert_int_equal(try_start(&f, false, 16, 16 * MIB, "", ""), -ENOMEM);
	assert_non_null(strstr(f.x.err.msg, "it has 16 MiB and does not fit into the machine's memory (16 MiB)"));
	stop(&f);
	assert_int_equal(try_start(&f, false, 32, 20 * MIB, "", ""), -ENOMEM);
	assert_non_null(strstr(f.x.err.msg, "the kernel needs memory up to 17 MiB, and the initrd begins at 12 MiB"));
	stop(&f);
}

static void missing_files_are_named(void **state)
{
	struct fixture f;

	(void)state;
	assert_int_equal(try_start(&f, false, 64, 0, ", 'initrd_path': '/nonexistent/initrd'", ""), -ENOENT);
	assert_string_equal(f.x.err.msg, "initrd \"/nonexistent/initrd\": cannot open it: No such file or directory");
	stop(&f);
	assert_int_equal(x86_vm_init(&f.x, "{'boot-source': {'kernel_image_path': '/nonexistent'}," MACHINE), -ENOENT);
	assert_string_equal(f.x.err.msg, "kernel image \"/nonexistent\": cannot open it: No such file or directory");
	x86_vm_fini(&f.x);
}

static void tiny_machines_are_refused(void **state)
{
	struct fixture f;

	(void)state;
	assert_int_equal(try_start(&f, false, 15, 0, "", ""), -EINVAL);
	assert_string_equal(f.x.err.msg, "mem_size_mib: a machine needs at least 16 MiB of memory");
	stop(&f);
}

/* The whole way with Debian's kernel: unpacked, randomized unless told not to, or left packed for the guest. */
static void debians_bzimage_boots_in_each_way(void **state)
{
	auto_free char *kernel = guest_file("vmlinuz-6.1");
	static const struct {
		const char *more;
		u64 rip; /* 0: random */
		bool kaslr;
	} ways[] = {
		{", 'boot_args': 'a'", 0, true},
		{", 'boot_args': 'a nokaslr'", 0x1000000, false},
		{", 'boot_args': 'a nokaslr', 'unpack': 'host'", 0x1000000, false},
		{", 'boot_args': 'a', 'unpack': 'guest'", 0x1000200, false},
	};

	(void)state;
	if (!kernel)
		skip();
	for (u32 i = 0; i < ARRAY_SIZE(ways); i++) {
		auto_free char *config = xasprintf("{'boot-source': {'kernel_image_path': '%s'%s}, 'machine-config': {'vcpu_count': 1, "
						   "'mem_size_mib': 512}," MACHINE,
						   kernel, ways[i].more);
		struct x86_vm x;
		const u8 *zp;

		if (x86_vm_init(&x, config) < 0)
			fail_msg("%s", x.err.msg);
		zp = guest(&x, X86_ZERO_PAGE_GPA, 4096);
		if (ways[i].rip)
			assert_int_equal(x.vm.vcpus[0].cpu->rip, ways[i].rip);
		assert_int_equal(x.vm.vcpus[0].cpu->rip % (2 * MIB), ways[i].rip % (2 * MIB));
		assert_int_equal(!!(zp[0x211] & 2), ways[i].kaslr);
		assert_int_equal(ld_le16(zp + 0x206), 0x20f);
		x86_vm_fini(&x);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_elf_kernel_is_entered_in_64_bit_mode_with_the_zero_page),
		cmocka_unit_test(the_memory_map_names_ram_and_the_reserved_system_area),
		cmocka_unit_test(memory_beyond_3_gib_goes_above_4_gib),
		cmocka_unit_test(a_seed_for_the_random_number_generator_is_in_the_setup_data),
		cmocka_unit_test(the_page_tables_map_four_gib_to_themselves),
		cmocka_unit_test(the_descriptors_agree_with_the_loaded_segments),
		cmocka_unit_test(a_pvh_kernel_is_entered_in_32_bit_mode_with_the_start_info),
		cmocka_unit_test(the_other_vcpus_wait_as_after_reset),
		cmocka_unit_test(the_command_line_gets_what_the_machine_and_devices_add),
		cmocka_unit_test(without_boot_args_there_is_a_default),
		cmocka_unit_test(a_command_line_that_is_too_long_is_refused_with_both_numbers),
		cmocka_unit_test(an_initrd_that_does_not_fit_is_refused),
		cmocka_unit_test(missing_files_are_named),
		cmocka_unit_test(tiny_machines_are_refused),
		cmocka_unit_test(debians_bzimage_boots_in_each_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
