/*
 * acpi.c: the ACPI tables of a hardware-reduced machine (ACPI 6.4 §4.1): no SCI, no PM timer, no legacy interrupt controller in use.
 * Linux then skips the probing of all that a PC would have. Events (power button, VM generation ID) are interrupts of the generic event
 * device; sleep and reset are I/O ports (acpi_power.c).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "arch/x86_64/aml.h"
#include "arch/x86_64/x86.h"

#define HEADER_LEN    36
#define HEADER_CHKSUM 9

/* FADT (§5.2.9) */
#define FADT_LEN	       276
#define FADT_SCI_INT	       46
#define FADT_CENTURY	       108
#define FADT_IAPC_BOOT_ARCH    109
#define FADT_FLAGS	       112
#define FADT_RESET_REG	       116
#define FADT_RESET_VALUE       128
#define FADT_MINOR	       131
#define FADT_X_DSDT	       140
#define FADT_SLEEP_CONTROL     244
#define FADT_SLEEP_STATUS      256
#define FADT_HYPERVISOR	       268
#define IAPC_8042	       BIT(1)
#define IAPC_NO_VGA	       BIT(2)
#define IAPC_NO_CMOS_RTC       BIT(5)
#define FADT_WBINVD	       BIT(0)
#define FADT_PWR_BUTTON_DEVICE BIT(4)
#define FADT_SLP_BUTTON_DEVICE BIT(5)
#define FADT_RESET_REG_SUP     BIT(10)
#define FADT_HW_REDUCED	       BIT(20)
#define CMOS_CENTURY	       0x32

/* MADT (§5.2.12) */
#define MADT_LAPIC	   0
#define MADT_IOAPIC	   1
#define MADT_LAPIC_ENABLED 1

struct tables {
	struct vm *vm;
	struct buf out; /* what goes to X86_ACPI_GPA */
};

static u8 checksum(const u8 *p, size_t len)
{
	u8 sum = 0;

	for (size_t i = 0; i < len; i++)
		sum = (u8)(sum + p[i]);
	return (u8)-sum;
}

static u64 gpa_of(size_t start)
{
	return X86_ACPI_GPA + start;
}

/* A system description table: header now, length and checksum at the end. Returns its offset. */
static size_t table_open(struct buf *b, const char *signature, u8 revision)
{
	size_t start;

	while (b->len % 16)
		buf_u8(b, 0);
	start = b->len;
	buf_put(b, signature, 4);
	buf_u32(b, 0);
	buf_u8(b, revision);
	buf_u8(b, 0);
	buf_put(b, "HUSK  ", 6);
	buf_put(b, "HUSKVM  ", 8);
	buf_u32(b, 1);
	buf_put(b, "HUSK", 4);
	buf_u32(b, 1);
	return start;
}

static void table_close(struct buf *b, size_t start)
{
	st_le32(b->data + start + 4, (u32)(b->len - start));
	b->data[start + HEADER_CHKSUM] = checksum(b->data + start, b->len - start);
}

/* Generic Address Structure of a byte-wide I/O port (§5.2.3.2) */
static void gas_port(u8 *at, u16 port)
{
	const u8 gas[4] = {1, 8, 0, 1};

	memcpy(at, gas, sizeof(gas));
	st_le64(at + 4, port);
}

static void crs_of_slot(struct buf *b, const struct dev_slot *slot)
{
	size_t crs = aml_crs_open(b);

	if (slot->mmio_len)
		aml_res_mem32(b, (u32)slot->mmio_base, (u32)slot->mmio_len);
	if (slot->pio_base == X86_PIO_I8042) { /* two ports, as on every PC; those between them are others' */
		aml_res_io(b, X86_PIO_I8042, 1);
		aml_res_io(b, X86_PIO_I8042 + 4, 1);
	} else if (slot->pio_len) {
		aml_res_io(b, (u16)slot->pio_base, (u8)slot->pio_len);
	}
	if (slot->has_gsi)
		aml_res_irq_edge(b, slot->gsi, true);
	aml_crs_close(b, crs);
}

static void dsdt_device(struct buf *b, const struct device *dev, u32 index)
{
	char name[8];
	size_t mark;

	snprintf(name, sizeof(name), "D%03X", index & 0xfff);
	mark = aml_device(b, name);
	aml_name_string(b, "_HID", dev->cls->acpi_hid);
	aml_name_int(b, "_UID", index);
	aml_name_int(b, "_CCA", 1);
	crs_of_slot(b, &dev->slot);
	aml_close(b, mark);
}

/* "Virtual Machine Generation ID" (Microsoft, 2012): ADDR holds the low and high half of the GUID's address; there is no _CRS. The id of
 * the specification is longer than ACPI allows for an _HID, hence the _CID, in both forms that guests look for. */
static void dsdt_vmgenid(struct buf *b, const struct device *dev)
{
	size_t mark = aml_device(b, "VGEN"), package;

	aml_name_string(b, "_HID", "HUSK0001");
	package = aml_name_package(b, "_CID", 2);
	aml_string(b, "VM_Gen_Counter");
	aml_string(b, dev->cls->acpi_hid);
	aml_close(b, package);
	aml_name_string(b, "_DDN", "VM_Gen_Counter");
	package = aml_name_package(b, "ADDR", 2);
	aml_int(b, (u32)dev->slot.mmio_base);
	aml_int(b, dev->slot.mmio_base >> 32);
	aml_close(b, package);
	aml_close(b, mark);
}

/* Generic Event Device (§5.6.9): its interrupts are told apart by number, so it needs no register. 0x80: pressed, or changed. */
static void dsdt_events(struct buf *b, const struct device *vmgenid)
{
	size_t mark = aml_device(b, "PWRB"), method, cond;

	aml_name_eisaid(b, "_HID", "PNP0C0C");
	aml_close(b, mark);

	mark = aml_device(b, "GED0");
	aml_name_string(b, "_HID", "ACPI0013");
	aml_name_int(b, "_UID", 0);
	cond = aml_crs_open(b);
	aml_res_irq_edge(b, X86_GSI_POWER, false);
	if (vmgenid)
		aml_res_irq_edge(b, X86_GSI_VMGENID, false);
	aml_crs_close(b, cond);
	method = aml_method(b, "_EVT", 1);
	cond = aml_if_arg_equals(b, 0, X86_GSI_POWER);
	aml_notify(b, "PWRB", 0x80);
	aml_close(b, cond);
	if (vmgenid) {
		cond = aml_if_arg_equals(b, 0, X86_GSI_VMGENID);
		aml_notify(b, "VGEN", 0x80);
		aml_close(b, cond);
	}
	aml_close(b, method);
	aml_close(b, mark);
}

/* \_S5: the sleep type that acpi_power.c takes for power-off (§7.4.2). */
static void dsdt_sleep(struct buf *b)
{
	size_t package = aml_name_package(b, "\\_S5_", 4);

	aml_int(b, X86_SLEEP_TYPE_S5);
	for (u32 i = 0; i < 3; i++)
		aml_int(b, 0);
	aml_close(b, package);
}

static size_t write_dsdt(struct tables *t)
{
	struct buf *b = &t->out;
	size_t start = table_open(b, "DSDT", 6), scope;
	const struct device *vmgenid = vm_find_device(t->vm, "vmgenid");

	dsdt_sleep(b);
	scope = aml_scope(b, "\\_SB_");
	for (u32 i = 0; i < t->vm->nr_devices; i++) {
		const struct device *dev = t->vm->devices[i];

		if (dev == vmgenid)
			dsdt_vmgenid(b, dev);
		else if (dev->cls->acpi_hid)
			dsdt_device(b, dev, i);
	}
	dsdt_events(b, vmgenid);
	aml_close(b, scope);
	table_close(b, start);
	return start;
}

static size_t write_fadt(struct tables *t, size_t dsdt)
{
	struct buf *b = &t->out;
	size_t start = table_open(b, "FACP", 6);
	bool rtc = vm_find_device(t->vm, "rtc_cmos");
	u8 *p;

	buf_grow(b, FADT_LEN - HEADER_LEN);
	p = b->data + start;
	st_le16(p + FADT_SCI_INT, X86_GSI_POWER);
	p[FADT_CENTURY] = rtc ? CMOS_CENTURY : 0;
	st_le16(p + FADT_IAPC_BOOT_ARCH, (u16)(IAPC_8042 | IAPC_NO_VGA | (rtc ? 0 : IAPC_NO_CMOS_RTC)));
	st_le32(p + FADT_FLAGS,
		(u32)(FADT_WBINVD | FADT_PWR_BUTTON_DEVICE | FADT_SLP_BUTTON_DEVICE | FADT_RESET_REG_SUP | FADT_HW_REDUCED));
	gas_port(p + FADT_RESET_REG, X86_PIO_RESET);
	p[FADT_RESET_VALUE] = X86_RESET_VALUE;
	p[FADT_MINOR] = 4;
	st_le64(p + FADT_X_DSDT, gpa_of(dsdt));
	gas_port(p + FADT_SLEEP_CONTROL, X86_PIO_SLEEP_CONTROL);
	gas_port(p + FADT_SLEEP_STATUS, X86_PIO_SLEEP_STATUS);
	memcpy(p + FADT_HYPERVISOR, "HUSKVM\0", 8);
	table_close(b, start);
	return start;
}

/* vCPU ids stay below 255, so that no x2APIC entries are needed (§5.2.12.12). No overrides: pin and ISA interrupt numbers are the same. */
static size_t write_madt(struct tables *t)
{
	struct buf *b = &t->out;
	size_t start = table_open(b, "APIC", 5);

	buf_u32(b, (u32)X86_LAPIC_GPA);
	buf_u32(b, 0); /* no 8259 to be masked */
	for (u32 i = 0; i < t->vm->nr_vcpus; i++) {
		buf_u8(b, MADT_LAPIC);
		buf_u8(b, 8);
		buf_u8(b, (u8)i); /* processor UID */
		buf_u8(b, (u8)i); /* APIC id */
		buf_u32(b, MADT_LAPIC_ENABLED);
	}
	buf_u8(b, MADT_IOAPIC);
	buf_u8(b, 12);
	buf_u16(b, 0); /* IOAPIC id 0 */
	buf_u32(b, (u32)X86_IOAPIC_GPA);
	buf_u32(b, 0); /* first GSI */
	table_close(b, start);
	return start;
}

static size_t write_xsdt(struct tables *t, size_t fadt, size_t madt)
{
	size_t start = table_open(&t->out, "XSDT", 1);

	buf_u64(&t->out, gpa_of(fadt));
	buf_u64(&t->out, gpa_of(madt));
	table_close(&t->out, start);
	return start;
}

/* Root System Description Pointer (§5.2.5.3): the first checksum covers 20 bytes, the second all 36. */
static int write_rsdp(struct tables *t, size_t xsdt)
{
	u8 rsdp[36] = "RSD PTR ";

	memcpy(rsdp + 9, "HUSK  ", 6);
	rsdp[15] = 2;
	st_le32(rsdp + 20, sizeof(rsdp));
	st_le64(rsdp + 24, gpa_of(xsdt));
	rsdp[8] = checksum(rsdp, 20);
	rsdp[32] = checksum(rsdp, sizeof(rsdp));
	return mem_write(&t->vm->mem, X86_RSDP_GPA, rsdp, sizeof(rsdp));
}

int acpi_write(struct vm *vm, struct err *e)
{
	struct tables t = {.vm = vm};
	size_t dsdt = write_dsdt(&t), fadt = write_fadt(&t, dsdt), madt = write_madt(&t), xsdt = write_xsdt(&t, fadt, madt);
	int ret;

	ASSERT(t.out.len <= X86_ACPI_END - X86_ACPI_GPA); /* VM_MAX_DEVICES entries of 100 bytes */
	ret = mem_write(&vm->mem, X86_ACPI_GPA, t.out.data, t.out.len);
	if (ret == 0)
		ret = write_rsdp(&t, xsdt);
	buf_fini(&t.out);
	return ret < 0 ? err_set(e, ret, "no room for the ACPI tables: the machine needs at least 1 MiB of memory") : 0;
}
