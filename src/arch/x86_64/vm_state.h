/*
 * vm_state.h: what an x86 VM has once, besides memory and devices: its clocks, two 8259s, an IOAPIC and an 8254, in no accelerator's own
 * format. accel_ops.vm_pull fills vm->chips, vm_push loads it. Everything is as a guest could tell it by looking; what only one
 * accelerator keeps (KVM's delivered edges, the time at which tcg's timers are due) is not here.
 */
#ifndef HUSK_X86_VM_STATE_H
#define HUSK_X86_VM_STATE_H

#include "vmm/base/base.h"
#include "vmm/state.h"

struct arch_cpu_caps;
struct cpu_state;
struct x86_cpuid_table;

#define X86_NR_IOAPIC_PINS 24

/* One moment, on all clocks. */
struct x86_clock_state {
	u64 clock_ns;	 /* the VM's clock (vmm/clock.h) */
	u64 kvmclock_ns; /* the guest's kvmclock; never less than what a vCPU may have read */
	u64 realtime_ns; /* the host's wall clock; 0: not known */
};

/* One 8259A; names of its data sheet. */
struct x86_pic_state {
	u8 irr, isr, imr, lines; /* lines: levels as last seen, for edges */
	u8 elcr, base;
	u8 first;     /* input of highest priority; they rotate */
	u8 init_step; /* which ICW comes next: 2, 3, 4; 0: none */
	bool icw4, auto_eoi, rotate_auto_eoi, special_mask, nested, poll, read_isr;
};

/* Intel 82093AA. */
struct x86_ioapic_state {
	u32 id, select;
	u32 irr;   /* pins whose interrupt waits: a level that is up, an edge that came while it could not be sent */
	u32 lines; /* levels, as far as they are known: devices set theirs again when they are loaded */
	u64 redir[X86_NR_IOAPIC_PINS];
};
/* Bits of an entry that there are: delivery status is always idle. */
#define X86_IOAPIC_REDIR 0xff0000000001efffull

/* A channel of the 8254. */
struct x86_pit_channel_state {
	u32 count;	/* 1..65536; 10000 in BCD */
	u64 elapsed_ns; /* since it began to count down from count, or how far it had come when the gate stopped it */
	u8 mode;	/* 0..5 */
	u8 rw;		/* of the control word: 1 low, 2 high byte, 3 both */
	u8 write_low;	/* the first of two bytes */
	u8 status;	/* while status_latched */
	bool bcd, gate;
	bool null_count; /* no count since the mode was set */
	bool triggered;	 /* the gate has gone up since (modes 1 and 5) */
	bool write_high_next, read_high_next;
	bool latched, status_latched;
	u16 latch;
};

struct x86_chips_state {
	struct x86_pic_state pic[2];
	struct x86_ioapic_state ioapic;
	struct x86_pit_channel_state pit[3];
	bool pit_speaker;
	bool pit_due; /* output 0 has risen, and GSI 0 has not been told yet */
};

struct chip_state {
	struct x86_clock_state clock;
	struct x86_chips_state chips;
};

extern const struct state_table x86_clock_table, x86_chips_table;

/*
 * May this VM, of this accelerator on this host, have that state? Whatever passes makes neither husk nor the accelerator stumble, and the
 * guest finds the processor that it was shown. Changes nothing. caps: of the accelerator. -EINVAL: no processor or chip is ever in such a
 * state; -EOPNOTSUPP: not this one, e says which register or bits. ctx: before start
 */
int x86_cpu_check(const struct cpu_state *s, u32 index, const struct arch_cpu_caps *caps, const char *accel, struct err *e) MUST_CHECK;
/* Feature bits that are shown and that caps does not offer, by register; returns how many (at most X86_NR_FEATURE_REGS). */
struct x86_feature_bits {
	u32 leaf, subleaf;
	u8 reg; /* EAX EBX ECX EDX */
	u32 bits;
};
#define X86_NR_FEATURE_REGS 18
/* The i-th of the registers that are compared, bits: those that count; false behind the last. And what is offered of it. */
bool x86_feature_reg(u32 i, struct x86_feature_bits *out);
u32 x86_feature_offered(u32 i, const struct arch_cpu_caps *caps);
u32 x86_features_missing(const struct x86_cpuid_table *shown, const struct arch_cpu_caps *caps, struct x86_feature_bits *out);
int x86_chips_check(const struct x86_chips_state *s, struct err *e) MUST_CHECK;
int x86_clock_check(const struct x86_clock_state *s, struct err *e) MUST_CHECK;

/* Time that the guest's clocks are to jump ahead by when they are loaded with clock_realtime; now: the host's wall clock. */
u64 x86_clock_jump(const struct x86_clock_state *s, u64 realtime_now);

#endif
