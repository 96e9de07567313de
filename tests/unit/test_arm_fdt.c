/* test_arm_fdt.c: the device tree: dtc finds no fault with it, and no address or interrupt is given out twice. */
#include "cm.h"

#include <libfdt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arch/aarch64/fdt.h"
#include "arch/aarch64/layout.h"

#define ROOM 65536u

static void build(struct arm_fdt_plan *p, u8 *out, size_t *len)
{
	struct err e = {0};

	p->nr_ranges = 2;
	p->ranges[0] = (struct mem_range){ARM_RAM_GPA, ARM_HOLE_START - ARM_RAM_GPA};
	p->ranges[1] = (struct mem_range){ARM_HOLE_END, GIB};
	p->bootargs = "console=ttyS0 quiet";
	if (arm_fdt_build(p, out, ROOM, len, &e) < 0)
		fail_msg("%s", e.msg);
}

static void dtc_finds_nothing_to_warn_of(void **state)
{
	struct arm_fdt_plan p = {.nr_vcpus = 64, .nr_slots = ARM_VIRTIO_SLOTS, .initrd_gpa = 0x90000000, .initrd_size = 5000};
	char path[] = "/tmp/husk-fdt-XXXXXX", text[4096] = "";
	auto_fd int fd = mkstemp(path);
	auto_free char *cmd = xasprintf("dtc -I dtb -O dts -o /dev/null %s 2>&1", path);
	u8 fdt[ROOM];
	size_t len;
	FILE *f;

	(void)state;
	build(&p, fdt, &len);
	assert_int_equal(fd_write_all(fd, fdt, len), 0);
	f = popen(cmd, "r");
	assert_non_null(f);
	len = fread(text, 1, sizeof(text) - 1, f);
	assert_int_equal(pclose(f), 0);
	unlink(path);
	if (len)
		fail_msg("dtc: %s", text);
}

static u64 cells(const fdt32_t *c)
{
	return (u64)fdt32_to_cpu(c[0]) << 32 | fdt32_to_cpu(c[1]);
}

static void addresses_are_given_out_once(void **state)
{
	struct arm_fdt_plan p = {.nr_vcpus = 4, .nr_slots = ARM_VIRTIO_SLOTS};
	struct mem_range got[256];
	u32 nr = 0;
	u8 fdt[ROOM];
	size_t len;
	int at;

	(void)state;
	build(&p, fdt, &len);
	fdt_for_each_subnode(at, fdt, 0)
	{
		int size = 0;
		const fdt32_t *reg = fdt_getprop(fdt, at, "reg", &size);

		for (int i = 0; reg && i < size / 16; i++, nr++) {
			got[nr] = (struct mem_range){cells(reg + 4 * i), cells(reg + 4 * i + 2)};
			for (u32 k = 0; k < nr; k++)
				assert_true(got[nr].gpa >= got[k].gpa + got[k].size || got[k].gpa >= got[nr].gpa + got[nr].size);
		}
	}
	assert_int_equal(nr, 2 + 2 + 5 + ARM_VIRTIO_SLOTS); /* memory, GIC, platform, slots */
}

static void interrupts_are_given_out_once(void **state)
{
	struct arm_fdt_plan p = {.nr_vcpus = 1, .nr_slots = ARM_VIRTIO_SLOTS};
	bool taken[2][ARM_NR_INTIDS] = {{0}};
	u8 fdt[ROOM];
	size_t len;
	int at;

	(void)state;
	build(&p, fdt, &len);
	fdt_for_each_subnode(at, fdt, 0)
	{
		int size = 0;
		const fdt32_t *irq = fdt_getprop(fdt, at, "interrupts", &size);

		for (int i = 0; irq && i < size / 12; i++) {
			u32 kind = fdt32_to_cpu(irq[3 * i]), n = fdt32_to_cpu(irq[3 * i + 1]);

			assert_in_range(kind, 0, 1);
			assert_in_range(n, 0, ARM_NR_INTIDS - ARM_FIRST_SPI - 1);
			assert_false(taken[kind][n]);
			taken[kind][n] = true;
		}
	}
}

static void a_tree_that_does_not_fit_is_an_error(void **state)
{
	struct arm_fdt_plan p = {.nr_vcpus = 64, .bootargs = ""};
	struct err e = {0};
	u8 fdt[ROOM];
	size_t len;

	(void)state;
	for (size_t room = 0; room < 4096; room += 64)
		assert_true(arm_fdt_build(&p, fdt, room, &len, &e) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dtc_finds_nothing_to_warn_of),
		cmocka_unit_test(addresses_are_given_out_once),
		cmocka_unit_test(interrupts_are_given_out_once),
		cmocka_unit_test(a_tree_that_does_not_fit_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
