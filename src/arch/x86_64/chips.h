/*
 * chips.h: the interrupt chips of an x86 PC in user space, for an accelerator that has none of its own: a local APIC for each vCPU (xAPIC
 * and x2APIC), one IOAPIC with 24 pins, two 8259 PICs, an 8254 PIT. GSI n is pin n of the IOAPIC and, below 16, of the PICs.
 * One lock for IOAPIC, PICs and PIT; a LAPIC's request bits are set atomically by any thread and otherwise used by its own vCPU.
 */
#ifndef HUSK_X86_CHIPS_H
#define HUSK_X86_CHIPS_H

#include "arch/x86_64/cpu.h"
#include "vmm/base/err.h"

struct vm;
struct chips;
struct lapic;
struct x86_chips_state; /* vm_state.h */

/* What the accelerator does for the chips. Called with locks of the chips held: must not call them. */
struct chips_ops {
	/* Something of cpu changed that it must look at: an interrupt, NMI, INIT or SIPI is pending. ctx: any */
	void (*wake)(void *opaque, u32 cpu);
	/* The LAPIC timer of cpu wants lapic_timer_expire at this host time (CLOCK_MONOTONIC ns, 0 = not at all), which may be in the past.
	 * ctx: that vCPU, or parked */
	void (*set_timer)(void *opaque, u32 cpu, u64 host_ns);
	/* Guest TSC of cpu, now, and host time at which it will be `tsc`. ctx: that vCPU */
	u64 (*rdtsc)(void *opaque, u32 cpu);
	u64 (*tsc_to_host_ns)(void *opaque, u32 cpu, u64 tsc);
};

/* Makes the chips of a VM; PICs and PIT (ports 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40-0x43, 0x61) and the IOAPIC (X86_IOAPIC_GPA) are
 * added to the VM's buses. ctx: before start */
int chips_new(struct chips **out, struct vm *vm, u32 nr_cpus, const struct chips_ops *ops, void *opaque, struct err *e) MUST_CHECK;
void chips_free(struct chips *ch); /* accepts NULL */
struct lapic *chips_lapic(struct chips *ch, u32 cpu);

/* A level on a line. ctx: any */
void chips_set_irq(struct chips *ch, u32 gsi, bool level);
/* A message signalled interrupt (address, data: SDM 3A §11.11). ctx: any */
void chips_msi(struct chips *ch, u64 address, u32 data);

/* ---- local APIC; ctx: its vCPU unless said otherwise ---- */
/* The vector to deliver now, by priority over TPR and ISR, or -1. Looking changes nothing. Lean: called often. */
int lapic_pending(struct lapic *l);
/* Takes that vector: IRR -> ISR. */
void lapic_accept(struct lapic *l, u8 vector);
/* Whether the PICs have an interrupt for this cpu (LVT0 in ExtINT mode, or LAPIC off), and taking its vector. */
bool chips_extint_pending(struct chips *ch, u32 cpu);
u8 chips_extint_accept(struct chips *ch, u32 cpu);

/* Other events, taken (cleared) by the vCPU. */
#define LAPIC_EV_NMI  0x1u
#define LAPIC_EV_INIT 0x2u
#define LAPIC_EV_SIPI 0x4u
u32 lapic_take_events(struct lapic *l, u32 mask, u8 *sipi_vector);
bool lapic_has_events(const struct lapic *l, u32 mask);
/* Makes events pending, as a message would; also to load the NMI, INIT or SIPI of a saved state, after lapic_load. ctx: any */
void lapic_post_events(struct lapic *l, u32 events, u8 sipi_vector);

/* The register page (xAPIC mode), offset 0..0xfff; x2APIC MSRs 0x800..0x8ff. False: #GP. */
u32 lapic_mmio_read(struct lapic *l, u32 offset);
void lapic_mmio_write(struct lapic *l, u32 offset, u32 value);
bool lapic_msr_read(struct lapic *l, u32 msr, u64 *value);
bool lapic_msr_write(struct lapic *l, u32 msr, u64 value);
/* IA32_APIC_BASE; checks the mode transitions of SDM 3A §11.12.5. False: #GP. */
u64 lapic_base(const struct lapic *l);
bool lapic_set_base(struct lapic *l, u64 value);
u8 lapic_get_cr8(const struct lapic *l);
void lapic_set_cr8(struct lapic *l, u8 value);
u64 lapic_tsc_deadline(const struct lapic *l);
void lapic_set_tsc_deadline(struct lapic *l, u64 value);
/* Of a saved state, after lapic_load: nothing fires before the next lapic_set_tsc_deadline. ctx: vCPU parked */
void lapic_load_tsc_deadline(struct lapic *l, u64 value);
void lapic_timer_expire(struct lapic *l); /* does nothing but wait on when it is too early */
/* INIT: back to the state after reset, but for the id. */
void lapic_reset(struct lapic *l, bool bsp);
/* Canonical state (struct cpu_state's lapic page, apic_base, TSC deadline by the caller). ctx: vCPU parked */
void lapic_save(const struct lapic *l, struct cpu_state *s);
void lapic_load(struct lapic *l, const struct cpu_state *s);
/* The same for IOAPIC, PICs and PIT. Loading sends what waits: after the LAPICs were loaded. ctx: loop, vCPUs parked, the clock paused */
void chips_save(struct chips *ch, struct x86_chips_state *s);
void chips_load(struct chips *ch, const struct x86_chips_state *s);

#endif
