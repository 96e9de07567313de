/* vcpu_io.c: guest accesses that are for devices: local APIC page, MMIO, ports. */
#include "arch/x86_64/chips.h"
#include "tcg/vcpu.h"
#include "tcg/x86_64/interp.h"

#define APIC_BASE_X2APIC BIT(10)
#define APIC_BASE_ENABLE BIT(11)

static void count(struct tcg_cpu *c, enum tcg_counter n)
{
	__atomic_store_n(&c->counters[n], c->counters[n] + 1, __ATOMIC_RELAXED);
}

/* In devices the vCPU is outside the guest: it waits for their locks, which others hold while they wait for vCPUs (exclusive.c). */
static void go_out(struct tcg_cpu *c)
{
	fpu_save(c);
	tcg_guest_leave(c);
}

static bool is_lapic(const struct tcg_cpu *c, u64 gpa)
{
	u64 base = lapic_base(c->lapic);

	return (base & (APIC_BASE_ENABLE | APIC_BASE_X2APIC)) == APIC_BASE_ENABLE && gpa >> MEM_PAGE_SHIFT == base >> MEM_PAGE_SHIFT;
}

u64 tcg_mmio_read(struct tcg_cpu *c, u64 gpa, u32 size)
{
	u64 value = 0;

	fpu_save(c);
	count(c, TCG_C_MMIO);
	if (is_lapic(c, gpa))
		return lapic_mmio_read(c->lapic, (u32)gpa & 0xfff);
	go_out(c);
	bus_read(c->t->vm, BUS_MMIO, gpa, &value, size);
	trace(c->t->vm->trace, tcg_mmio_read, "vcpu=%u addr=0x%llx len=%u data=0x%llx", c->v->index, (unsigned long long)gpa, size,
	      (unsigned long long)value);
	tcg_guest_enter(c);
	return value;
}

void tcg_mmio_write(struct tcg_cpu *c, u64 gpa, u32 size, u64 value)
{
	fpu_save(c);
	count(c, TCG_C_MMIO);
	if (is_lapic(c, gpa)) {
		lapic_mmio_write(c->lapic, (u32)gpa & 0xfff, (u32)value);
		return;
	}
	go_out(c);
	trace(c->t->vm->trace, tcg_mmio_write, "vcpu=%u addr=0x%llx len=%u data=0x%llx", c->v->index, (unsigned long long)gpa, size,
	      (unsigned long long)value);
	bus_write(c->t->vm, BUS_MMIO, gpa, &value, size);
	tcg_guest_enter(c);
}

u32 tcg_pio_read(struct tcg_cpu *c, u16 port, u32 size)
{
	u32 value = 0;

	count(c, TCG_C_PIO);
	go_out(c);
	bus_read(c->t->vm, BUS_PIO, port, &value, size);
	trace(c->t->vm->trace, tcg_pio_read, "vcpu=%u port=0x%x len=%u data=0x%x", c->v->index, port, size, value);
	tcg_guest_enter(c);
	return value;
}

void tcg_pio_write(struct tcg_cpu *c, u16 port, u32 size, u32 value)
{
	count(c, TCG_C_PIO);
	go_out(c);
	trace(c->t->vm->trace, tcg_pio_write, "vcpu=%u port=0x%x len=%u data=0x%x", c->v->index, port, size, value);
	bus_write(c->t->vm, BUS_PIO, port, &value, size);
	tcg_guest_enter(c);
}
