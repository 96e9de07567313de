/*
 * chips_impl.h: what the files of the interrupt chips share: their registers as plain data, and how they reach each other.
 *
 *   device ── chips_set_irq ──> ioapic.c ──> lapic_ipi.c: destinations ──> lapic_deliver: IRR, wake
 *                          └──> pic.c ── output ──> LINT0 of each LAPIC      ^       │ EOI of a level interrupt
 *   pit.c ── GSI 0 ────────────^             lapic.c: ICR ───────────────────┘       └──> ioapic_eoi
 *
 * The device lock (chips->dev.lock) guards IOAPIC, PICs and PIT; the bus holds it around their handlers.
 */
#ifndef HUSK_X86_CHIPS_IMPL_H
#define HUSK_X86_CHIPS_IMPL_H

#include "arch/x86_64/chips.h"
#include "arch/x86_64/layout.h"
#include "arch/x86_64/vm_state.h"
#include "vmm/vm.h"

/* ---- local APIC ---- */

/* Registers by offset / 16, which is also MSR - 0x800 in x2APIC mode (SDM 3A tables 11-1, 11-6). */
enum lapic_reg {
	LAPIC_ID = 0x02,
	LAPIC_VERSION,
	LAPIC_TPR = 0x08,
	LAPIC_APR,
	LAPIC_PPR,
	LAPIC_EOI,
	LAPIC_RRD,
	LAPIC_LDR,
	LAPIC_DFR,
	LAPIC_SVR,
	LAPIC_ISR = 0x10, /* eight each */
	LAPIC_TMR = 0x18,
	LAPIC_IRR = 0x20,
	LAPIC_ESR = 0x28,
	LAPIC_CMCI = 0x2f,
	LAPIC_ICR,
	LAPIC_ICR2,
	LAPIC_LVT_TIMER,
	LAPIC_LVT_THERMAL,
	LAPIC_LVT_PERF,
	LAPIC_LVT_LINT0,
	LAPIC_LVT_LINT1,
	LAPIC_LVT_ERROR,
	LAPIC_TMICT,
	LAPIC_TMCCT,
	LAPIC_TDCR = 0x3e,
	LAPIC_SELF_IPI,
	LAPIC_NR_REGS,
};

#define LAPIC_BASE_BSP	  0x100ull
#define LAPIC_BASE_X2APIC 0x400ull
#define LAPIC_BASE_ENABLE 0x800ull
#define LAPIC_BASE_ADDR	  0xffffffffff000ull /* 52 bits: the MSR's own check of MAXPHYADDR is the caller's */
#define LAPIC_BASE_MODE	  (LAPIC_BASE_ENABLE | LAPIC_BASE_X2APIC)

#define LAPIC_VERSION_VALUE 0x50014u /* integrated, six LVT entries, no EOI suppression: KVM's */
#define LAPIC_SVR_ENABLE    0x100u
#define LAPIC_DFR_FLAT	    0xffffffffu
#define LAPIC_LVT_MASKED    0x10000u
#define LAPIC_LVT_MODE(v)   (((v) >> 8) & 7)

/* Errors (SDM 3A §11.5.3). */
#define LAPIC_ERR_SEND_VECTOR 0x20u
#define LAPIC_ERR_RECV_VECTOR 0x40u
#define LAPIC_ERR_REGISTER    0x80u

/* Delivery modes of ICR, LVT, IOAPIC entries and MSIs. */
enum apic_delivery { APIC_FIXED, APIC_LOWEST, APIC_SMI, APIC_RESERVED, APIC_NMI, APIC_INIT, APIC_SIPI, APIC_EXTINT };

enum lapic_timer_mode { LAPIC_ONESHOT, LAPIC_PERIODIC, LAPIC_DEADLINE, LAPIC_TIMER_NONE };

struct lapic_timer {
	u8 mode;		  /* enum lapic_timer_mode */
	u8 shift;		  /* a count is 1 << shift ns: 1 GHz over the divide configuration */
	u64 target_ns, period_ns; /* one-shot and periodic: VM clock, 0 = not running */
	u64 deadline;		  /* TSC, 0 = not armed */
	u64 armed_ns;		  /* what the accelerator was told last */
};

struct lapic {
	/* Any thread, atomic. A bit of irr_words is set while the word of IRR may be nonzero. */
	u32 irr_words;
	u32 events; /* LAPIC_EV_*, SIPI vector in bits 8-15 */
	u32 errors; /* since ESR was last written */
	/* IRR, TMR, and all of the registers that say whether a message is for this LAPIC are read (IRR, TMR: and written) by any thread,
	 * so every access is a relaxed atomic one: lapic_get, lapic_put. The rest is the vCPU's. */
	u32 r[LAPIC_NR_REGS];
	u64 base;
	struct lapic_timer timer;
	struct chips *ch;
	u32 id; /* index of the vCPU, and x2APIC id */
} __attribute__((aligned(64)));

static inline u32 lapic_get(const struct lapic *l, u32 reg)
{
	return __atomic_load_n(&l->r[reg], __ATOMIC_RELAXED);
}

static inline void lapic_put(struct lapic *l, u32 reg, u32 value)
{
	__atomic_store_n(&l->r[reg], value, __ATOMIC_RELAXED);
}

static inline u64 lapic_mode(const struct lapic *l)
{
	return __atomic_load_n(&l->base, __ATOMIC_RELAXED) & LAPIC_BASE_MODE;
}

static inline bool lapic_enabled(const struct lapic *l)
{
	return lapic_mode(l) && (lapic_get(l, LAPIC_SVR) & LAPIC_SVR_ENABLE);
}

/* An interrupt message on its way to the LAPICs. */
struct apic_msg {
	u32 dest;
	u8 vector;
	u8 mode; /* enum apic_delivery */
	bool logical, level, lowest;
};

/* ctx: any, but for those of the vCPU's own registers */
u32 apic_x2apic_ldr(u32 id);
bool lapic_matches(const struct lapic *l, u32 dest, bool logical);
/* How many took it. */
u32 apic_send(struct chips *ch, const struct apic_msg *m);
void lapic_send_ipi(struct lapic *l, u32 icr, u32 dest);
bool lapic_deliver(struct lapic *l, const struct apic_msg *m);
void lapic_set_irr(struct lapic *l, u8 vector, bool level);
void lapic_error(struct lapic *l, u32 bits);
/* An interrupt of the LAPIC's own, as its LVT entry says. */
void lapic_deliver_local(struct lapic *l, enum lapic_reg lvt);

/* ctx: the vCPU, or parked */
void lapic_timer_init(struct lapic *l);
void lapic_timer_set_lvt(struct lapic *l, u32 lvt); /* before the register is changed */
void lapic_timer_set_initial(struct lapic *l, u32 count);
void lapic_timer_set_divide(struct lapic *l, u32 tdcr);
u32 lapic_timer_current(const struct lapic *l);
bool lapic_timer_running(const struct lapic *l);
/* From the registers; current: LAPIC_TMCCT as it was saved. */
void lapic_timer_load(struct lapic *l, u32 current);

/* ---- IOAPIC (Intel 82093AA) ---- */

struct ioapic {
	u8 select, id;
	u32 lines; /* levels of the pins */
	u64 redir[X86_IOAPIC_PINS];
};

void ioapic_reset(struct ioapic *io);
/* ctx: device lock held */
u32 ioapic_read(struct ioapic *io, u32 offset);
void ioapic_write(struct chips *ch, u32 offset, u32 value);
void ioapic_set_line(struct chips *ch, u32 pin, bool level);
/* A LAPIC's EOI of a level-triggered vector. ctx: any, lock not held */
void ioapic_eoi(struct chips *ch, u8 vector);
void ioapic_save(const struct ioapic *io, struct x86_ioapic_state *s);
/* Sends what waits. */
void ioapic_load(struct chips *ch, const struct x86_ioapic_state *s);

/* ---- two 8259A ---- */

struct pic {
	u8 irr, isr, imr, lines; /* lines: the levels, to see edges */
	u8 elcr, elcr_mask;	 /* a bit: level-triggered; which can be */
	u8 base;		 /* vector of input 0 */
	u8 first;		 /* the input of highest priority; they rotate */
	u8 init_step;		 /* which ICW comes next, 0 = none */
	bool icw4, auto_eoi, rotate_auto_eoi, special_mask, nested, poll, read_isr;
};

struct pics {
	struct pic chip[2];
	bool output; /* atomic: read by vCPUs without the lock */
};

#define PIC_CASCADE 2u

void pic_reset(struct pics *p);
/* ctx: device lock held. Each changes p->output, and the caller tells the LAPICs (chips_pic_changed). */
u8 pic_read(struct pics *p, u32 chip, u32 port);
void pic_write(struct pics *p, u32 chip, u32 port, u8 val);
u8 pic_read_elcr(const struct pics *p, u32 chip);
void pic_write_elcr(struct pics *p, u32 chip, u8 val);
void pic_set_line(struct pics *p, u32 irq, bool level);
u8 pic_accept(struct pics *p);
void pic_save(const struct pics *p, struct x86_pic_state s[2]);
void pic_load(struct pics *p, const struct x86_pic_state s[2]);

/* ---- 8254 ---- */

#define PIT_HZ 1193182u

struct pit_channel {
	u32 count;	/* 1..65536, 10000 in BCD */
	u64 from_ns;	/* VM clock at which it began to count down from count */
	u64 stopped_ns; /* how far it had come when the gate stopped it */
	u8 mode, rw, write_low, status;
	bool bcd, gate;
	bool null;    /* no count since the mode was set */
	bool trigger; /* the gate has gone up since (modes 1 and 5) */
	bool write_high_next, read_high_next;
	bool latched, status_latched;
	u16 latch;
};

struct pit {
	struct pit_channel c[3];
	bool speaker;
	u64 irq_ns; /* when output 0 rises next, 0 = never */
};

void pit_reset(struct pit *p, u64 now);
/* Ports 0x40-0x43 and 0x61; now: VM clock. ctx: device lock held */
u8 pit_read(struct pit *p, u32 port, u64 now);
void pit_write(struct pit *p, u32 port, u8 val, u64 now);
u8 pit_read_speaker(struct pit *p, u64 now);
void pit_write_speaker(struct pit *p, u8 val, u64 now);
/* Whether output 0 rose since irq_ns; moves irq_ns on. */
bool pit_tick(struct pit *p, u64 now);
void pit_save(const struct pit *p, struct x86_chips_state *s, u64 now);
void pit_load(struct pit *p, const struct x86_chips_state *s, u64 now);

/* ---- all of them ---- */

struct chips {
	struct device dev; /* first; not one of vm->devices */
	const struct chips_ops *ops;
	void *opaque;
	struct ioapic ioapic;
	struct pics pics;
	struct pit pit;
	struct loop_timer pit_timer;
	struct loop_work pit_rearm; /* the timer is the loop's, ports are written by vCPUs */
	u32 nr_lapics;
	struct lapic *lapics; /* owned */
};

static inline void chips_wake(struct chips *ch, u32 cpu)
{
	ch->ops->wake(ch->opaque, cpu);
}

#endif
