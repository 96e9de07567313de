/* fdt.c: see fdt.h. Bindings: Linux Documentation/devicetree/bindings. */
#include "arch/aarch64/fdt.h"

#include <errno.h>
#include <libfdt.h>
#include <linux/input-event-codes.h>
#include <stdio.h>
#include <string.h>

#include "arch/aarch64/cpu.h"
#include "arch/aarch64/layout.h"

enum { PHANDLE_GIC = 1, PHANDLE_CLOCK, PHANDLE_GPIO };
enum { IRQ_SPI, IRQ_PPI };
enum { IRQ_EDGE = 1, IRQ_LEVEL = 4 }; /* rising, high */
enum { GPIO_ACTIVE_HIGH = 0 };

#define CLOCK_HZ  24000000u /* of the peripheral bus: drivers of PrimeCells want one */
#define SERIAL_HZ 1843200u  /* of a PC's serial port */

/* The first failure stays; nothing is written after it. */
struct tree {
	void *fdt;
	int ret;
};

static void note(struct tree *t, int ret)
{
	if (t->ret == 0)
		t->ret = ret;
}

static void begin(struct tree *t, const char *name)
{
	if (t->ret == 0)
		note(t, fdt_begin_node(t->fdt, name));
}

static void begin_at(struct tree *t, const char *name, u64 addr)
{
	char full[64];

	snprintf(full, sizeof(full), "%s@%llx", name, (unsigned long long)addr);
	begin(t, full);
}

static void end(struct tree *t)
{
	if (t->ret == 0)
		note(t, fdt_end_node(t->fdt));
}

static void put(struct tree *t, const char *name, const void *data, size_t len)
{
	if (t->ret == 0)
		note(t, fdt_property(t->fdt, name, data, (int)len));
}

static void put_str(struct tree *t, const char *name, const char *s)
{
	put(t, name, s, strlen(s) + 1);
}

static void put_u32s(struct tree *t, const char *name, const u32 *v, u32 n)
{
	fdt32_t cells[16];

	ASSERT(n <= ARRAY_SIZE(cells));
	for (u32 i = 0; i < n; i++)
		cells[i] = cpu_to_fdt32(v[i]);
	put(t, name, cells, n * sizeof(cells[0]));
}

static void put_u32(struct tree *t, const char *name, u32 v)
{
	put_u32s(t, name, &v, 1);
}

static void put_u64(struct tree *t, const char *name, u64 v)
{
	put_u32s(t, name, (u32[]){(u32)(v >> 32), (u32)v}, 2);
}

static void put_reg(struct tree *t, u64 addr, u64 size)
{
	put_u32s(t, "reg", (u32[]){(u32)(addr >> 32), (u32)addr, (u32)(size >> 32), (u32)size}, 4);
}

static void put_spi(struct tree *t, u32 gsi, u32 type)
{
	put_u32s(t, "interrupts", (u32[]){IRQ_SPI, gsi, type}, 3);
}

static void add_cpus(struct tree *t, u32 nr)
{
	begin(t, "cpus");
	put_u32(t, "#address-cells", 1);
	put_u32(t, "#size-cells", 0);
	for (u32 i = 0; i < nr; i++) {
		begin_at(t, "cpu", arm_mpidr(i));
		put_str(t, "device_type", "cpu");
		put_str(t, "compatible", "arm,armv8");
		put_str(t, "enable-method", "psci");
		put_u32(t, "reg", (u32)arm_mpidr(i));
		end(t);
	}
	end(t);
}

/* The system area at the start of RAM is not the kernel's to use. */
static void add_memory(struct tree *t, const struct arm_fdt_plan *p)
{
	for (u32 i = 0; i < p->nr_ranges; i++) {
		u64 skip = p->ranges[i].gpa == ARM_RAM_GPA ? ARM_SYSTEM_SIZE : 0, gpa = p->ranges[i].gpa + skip;

		begin_at(t, "memory", gpa);
		put_str(t, "device_type", "memory");
		put_reg(t, gpa, p->ranges[i].size - skip);
		end(t);
	}
}

static void add_chosen(struct tree *t, const struct arm_fdt_plan *p)
{
	char path[64];

	snprintf(path, sizeof(path), "/serial@%llx", (unsigned long long)ARM_SERIAL_GPA);
	begin(t, "chosen");
	put_str(t, "bootargs", p->bootargs);
	put_str(t, "stdout-path", path);
	put(t, "rng-seed", p->seed, sizeof(p->seed));
	if (p->initrd_size) {
		put_u64(t, "linux,initrd-start", p->initrd_gpa);
		put_u64(t, "linux,initrd-end", p->initrd_gpa + p->initrd_size);
	}
	end(t);
}

static void add_gic(struct tree *t, u32 nr_vcpus)
{
	u64 redist_size = nr_vcpus * ARM_GIC_REDIST_SIZE, redist = ARM_GIC_DIST_GPA - redist_size;

	begin_at(t, "interrupt-controller", ARM_GIC_DIST_GPA);
	put_str(t, "compatible", "arm,gic-v3");
	put_u32(t, "#interrupt-cells", 3);
	put_u32(t, "#address-cells", 0);
	put(t, "interrupt-controller", "", 0);
	put_u32s(t, "reg", (u32[]){0, (u32)ARM_GIC_DIST_GPA, 0, (u32)ARM_GIC_DIST_SIZE, 0, (u32)redist, 0, (u32)redist_size}, 8);
	put_u32(t, "phandle", PHANDLE_GIC);
	end(t);
}

static void add_timer(struct tree *t)
{
	static const u32 ppi[] = {ARM_PPI_TIMER_SECURE, ARM_PPI_TIMER_PHYS, ARM_PPI_TIMER_VIRT, ARM_PPI_TIMER_HYP};
	u32 cells[3 * ARRAY_SIZE(ppi)];

	for (u32 i = 0; i < ARRAY_SIZE(ppi); i++)
		memcpy(cells + 3 * i, (u32[]){IRQ_PPI, ppi[i], IRQ_LEVEL}, 3 * sizeof(u32));
	begin(t, "timer");
	put_str(t, "compatible", "arm,armv8-timer");
	put_u32s(t, "interrupts", cells, ARRAY_SIZE(cells));
	put(t, "always-on", "", 0);
	end(t);
}

static void add_psci(struct tree *t)
{
	static const char compatible[] = "arm,psci-1.0\0arm,psci-0.2";

	begin(t, "psci");
	put(t, "compatible", compatible, sizeof(compatible));
	put_str(t, "method", "hvc");
	end(t);
}

static void add_clock(struct tree *t)
{
	begin(t, "apb-pclk");
	put_str(t, "compatible", "fixed-clock");
	put_u32(t, "#clock-cells", 0);
	put_u32(t, "clock-frequency", CLOCK_HZ);
	put_str(t, "clock-output-names", "clk24mhz");
	put_u32(t, "phandle", PHANDLE_CLOCK);
	end(t);
}

/* What all of ARM's PrimeCells have. */
static void put_primecell(struct tree *t, const char *compatible, size_t len, u64 gpa, u32 gsi)
{
	put(t, "compatible", compatible, len);
	put_reg(t, gpa, ARM_MMIO_STEP);
	put_spi(t, gsi, IRQ_LEVEL);
	put_u32(t, "clocks", PHANDLE_CLOCK);
	put_str(t, "clock-names", "apb_pclk");
}

static void add_platform(struct tree *t)
{
	static const char rtc[] = "arm,pl031\0arm,primecell";

	begin_at(t, "rtc", ARM_RTC_GPA);
	put_primecell(t, rtc, sizeof(rtc), ARM_RTC_GPA, ARM_GSI_RTC);
	end(t);

	begin_at(t, "serial", ARM_SERIAL_GPA);
	put_str(t, "compatible", "ns16550a");
	put_reg(t, ARM_SERIAL_GPA, ARM_MMIO_STEP);
	put_spi(t, ARM_GSI_SERIAL, IRQ_LEVEL);
	put_u32(t, "clock-frequency", SERIAL_HZ);
	end(t);

	begin_at(t, "pvpanic", ARM_PVPANIC_GPA);
	put_str(t, "compatible", "qemu,pvpanic-mmio");
	put_reg(t, ARM_PVPANIC_GPA, 2);
	end(t);

	begin_at(t, "vmgenid", ARM_VMGENID_GPA);
	put_str(t, "compatible", "microsoft,vmgenid");
	put_reg(t, ARM_VMGENID_GPA, 16);
	put_spi(t, ARM_GSI_VMGENID, IRQ_EDGE);
	end(t);
}

/* The power button is line 3 of a GPIO controller (vmm/dev/gpio_pl061.c), and high while it is pressed. */
static void add_power_button(struct tree *t)
{
	static const char gpio[] = "arm,pl061\0arm,primecell";

	begin_at(t, "gpio", ARM_GPIO_GPA);
	put_primecell(t, gpio, sizeof(gpio), ARM_GPIO_GPA, ARM_GSI_GPIO);
	put(t, "gpio-controller", "", 0);
	put_u32(t, "#gpio-cells", 2);
	put_u32(t, "phandle", PHANDLE_GPIO);
	end(t);

	begin(t, "gpio-keys");
	put_str(t, "compatible", "gpio-keys");
	begin(t, "power-button");
	put_str(t, "label", "Power Button");
	put_u32(t, "linux,code", KEY_POWER);
	put_u32s(t, "gpios", (u32[]){PHANDLE_GPIO, 3, GPIO_ACTIVE_HIGH}, 3);
	end(t);
	end(t);
}

static void add_virtio(struct tree *t, u32 nr)
{
	for (u32 i = 0; i < nr; i++) {
		u64 gpa = ARM_VIRTIO_GPA + i * ARM_MMIO_STEP;

		begin_at(t, "virtio_mmio", gpa);
		put_str(t, "compatible", "virtio,mmio");
		put_reg(t, gpa, ARM_MMIO_STEP);
		put_spi(t, ARM_GSI_VIRTIO_FIRST + i, IRQ_EDGE);
		put(t, "dma-coherent", "", 0);
		end(t);
	}
}

static void add_all(struct tree *t, const struct arm_fdt_plan *p)
{
	begin(t, "");
	put_str(t, "compatible", "linux,dummy-virt");
	put_str(t, "model", "husk");
	put_u32(t, "#address-cells", 2);
	put_u32(t, "#size-cells", 2);
	put_u32(t, "interrupt-parent", PHANDLE_GIC);
	add_cpus(t, p->nr_vcpus);
	add_memory(t, p);
	add_chosen(t, p);
	add_gic(t, p->nr_vcpus);
	add_timer(t);
	add_psci(t);
	add_clock(t);
	add_platform(t);
	add_power_button(t);
	add_virtio(t, p->nr_slots);
	end(t);
}

int arm_fdt_build(const struct arm_fdt_plan *p, void *out, size_t size, size_t *len, struct err *e)
{
	struct tree t = {.fdt = out};

	note(&t, fdt_create(out, (int)MIN(size, (size_t)INT32_MAX)));
	if (t.ret == 0)
		note(&t, fdt_finish_reservemap(out));
	add_all(&t, p);
	if (t.ret == 0)
		note(&t, fdt_finish(out));
	if (t.ret < 0)
		return err_set(e, -ENOSPC, "cannot make the device tree: %s", fdt_strerror(t.ret));
	*len = fdt_totalsize(out);
	return 0;
}
