/*
 * mptable.c: the MP configuration table (Intel MultiProcessor Specification 1.4, chapter 4), for kernels that run without ACPI: processors,
 * one ISA bus, the IOAPIC, and that ISA interrupt n is its pin n.
 */
#include <string.h>

#include "arch/x86_64/x86.h"
#include "vmm/base/buf.h"

#define MPF_LEN 16
#define MPC_LEN 44

enum { MP_PROCESSOR, MP_BUS, MP_IOAPIC, MP_INTERRUPT, MP_LOCAL_INTERRUPT };
enum { INT_VECTORED, INT_NMI, INT_SMI, INT_EXTINT };

#define CPU_ENABLED    1
#define CPU_BSP	       2
#define CPU_FEATURES   0x201 /* FPU, APIC */
#define CPU_SIGNATURE  0x600
#define APIC_VERSION   0x14
#define IOAPIC_VERSION 0x11
#define BUS_ISA	       0
#define ALL_LAPICS     0xff

static u8 checksum(const u8 *p, size_t len)
{
	u8 sum = 0;

	for (size_t i = 0; i < len; i++)
		sum = (u8)(sum + p[i]);
	return (u8)-sum;
}

static void add_processor(struct buf *b, u32 id)
{
	buf_u8(b, MP_PROCESSOR);
	buf_u8(b, (u8)id);
	buf_u8(b, APIC_VERSION);
	buf_u8(b, id == 0 ? CPU_ENABLED | CPU_BSP : CPU_ENABLED);
	buf_u32(b, CPU_SIGNATURE);
	buf_u32(b, CPU_FEATURES);
	buf_u64(b, 0);
}

/* dst: an IOAPIC id, or ALL_LAPICS for local interrupts. Flags 0: polarity and trigger as on the bus, ISA: edge, active high. */
static void add_interrupt(struct buf *b, u8 entry, u8 type, u8 irq, u8 dst, u8 pin)
{
	buf_u8(b, entry);
	buf_u8(b, type);
	buf_u16(b, 0);
	buf_u8(b, BUS_ISA);
	buf_u8(b, irq);
	buf_u8(b, dst);
	buf_u8(b, pin);
}

static u16 add_entries(struct buf *b, u32 nr_vcpus)
{
	u8 ioapic_id = (u8)nr_vcpus; /* ids of processors and IOAPICs are of one space here */

	for (u32 i = 0; i < nr_vcpus; i++)
		add_processor(b, i);
	buf_u8(b, MP_BUS);
	buf_u8(b, BUS_ISA);
	buf_put(b, "ISA   ", 6);
	buf_u8(b, MP_IOAPIC);
	buf_u8(b, ioapic_id);
	buf_u8(b, IOAPIC_VERSION);
	buf_u8(b, 1); /* usable */
	buf_u32(b, (u32)X86_IOAPIC_GPA);
	for (u8 pin = 0; pin < X86_IOAPIC_PINS; pin++)
		add_interrupt(b, MP_INTERRUPT, INT_VECTORED, pin, ioapic_id, pin);
	add_interrupt(b, MP_LOCAL_INTERRUPT, INT_EXTINT, 0, 0, 0);
	add_interrupt(b, MP_LOCAL_INTERRUPT, INT_NMI, 0, ALL_LAPICS, 1);
	return (u16)(nr_vcpus + 2 + X86_IOAPIC_PINS + 2);
}

static void write_pointer(u8 *mpf)
{
	memcpy(mpf, "_MP_", 4);
	st_le32(mpf + 4, (u32)X86_MPTABLE_GPA + MPF_LEN);
	mpf[8] = 1; /* length in 16 bytes */
	mpf[9] = 4; /* specification 1.4 */
	mpf[10] = checksum(mpf, MPF_LEN);
}

int mptable_write(struct vm *vm, struct err *e)
{
	struct buf b = {0};
	u16 entries;
	u8 *mpc;
	int ret;

	buf_grow(&b, MPF_LEN + MPC_LEN);
	entries = add_entries(&b, vm->nr_vcpus);
	write_pointer(b.data);
	mpc = b.data + MPF_LEN;
	memcpy(mpc, "PCMP", 4);
	st_le16(mpc + 4, (u16)(b.len - MPF_LEN));
	mpc[6] = 4; /* specification 1.4 */
	memcpy(mpc + 8, "HUSK    HUSKVM      ", 20);
	st_le16(mpc + 34, entries);
	st_le32(mpc + 36, (u32)X86_LAPIC_GPA);
	mpc[7] = checksum(mpc, b.len - MPF_LEN);
	ASSERT(b.len <= X86_ACPI_GPA - X86_MPTABLE_GPA);
	ret = mem_write(&vm->mem, X86_MPTABLE_GPA, b.data, b.len);
	buf_fini(&b);
	return ret < 0 ? err_set(e, ret, "no room for the MP table") : 0;
}
