/*
 * lapic_ipi.c: messages to LAPICs: whom a destination means (SDM 3A §11.6.2, §11.12.10), what each delivery mode does there, and the
 * interrupt command register that sends them. As in KVM, a lowest-priority message goes to the one that its vector picks of the eligible.
 */
#include "arch/x86_64/chips_impl.h"

#define BROADCAST    0xffffffffu
#define BROADCAST_X1 0xffu

#define ICR_LOGICAL 0x800u
#define ICR_LEVEL   0x4000u /* 0: de-assert */
#define ICR_TRIGGER 0x8000u

enum { SHORT_NONE, SHORT_SELF, SHORT_ALL, SHORT_OTHERS };

u32 apic_x2apic_ldr(u32 id)
{
	return (id >> 4) << 16 | 1u << (id & 0xf);
}

static bool matches_logical(const struct lapic *l, u32 dest, bool x2apic)
{
	u32 ldr = lapic_get(l, LAPIC_LDR);

	if (x2apic)
		return ldr >> 16 == dest >> 16 && (ldr & dest & 0xffff);
	ldr >>= 24;
	switch (lapic_get(l, LAPIC_DFR) >> 28) {
	case 0xf: /* flat */
		return ldr & dest;
	case 0: /* cluster */
		return ldr >> 4 == dest >> 4 && (ldr & dest & 0xf);
	default:
		return false;
	}
}

bool lapic_matches(const struct lapic *l, u32 dest, bool logical)
{
	u64 mode = lapic_mode(l);
	bool x2apic = mode & LAPIC_BASE_X2APIC;
	u32 id = lapic_get(l, LAPIC_ID);

	if (!mode)
		return false;
	if (dest == BROADCAST || (dest == BROADCAST_X1 && !x2apic))
		return true;
	return logical ? matches_logical(l, dest, x2apic) : (x2apic ? id : id >> 24) == dest;
}

/* ---- at the receiver ---- */

void lapic_set_irr(struct lapic *l, u8 vector, bool level)
{
	u32 i = vector / 32u, bit = 1u << (vector & 31);

	/* Before IRR: the vCPU may be through with the interrupt at once. */
	if (level)
		__atomic_fetch_or(&l->r[LAPIC_TMR + i], bit, __ATOMIC_SEQ_CST);
	else if (lapic_get(l, LAPIC_TMR + i) & bit)
		__atomic_fetch_and(&l->r[LAPIC_TMR + i], ~bit, __ATOMIC_SEQ_CST);
	if (__atomic_fetch_or(&l->r[LAPIC_IRR + i], bit, __ATOMIC_SEQ_CST) & bit)
		return; /* whoever set it wakes */
	__atomic_fetch_or(&l->irr_words, 1u << i, __ATOMIC_SEQ_CST);
	chips_wake(l->ch, l->id);
}

void lapic_post_events(struct lapic *l, u32 events, u8 sipi_vector)
{
	u32 old = __atomic_load_n(&l->events, __ATOMIC_RELAXED), new;

	do {
		new = old | events;
		if (events & LAPIC_EV_INIT) /* a SIPI that came before it is void */
			new &= ~LAPIC_EV_SIPI;
		if (events & LAPIC_EV_SIPI)
			new = (new & 0xff) | LAPIC_EV_SIPI | (u32)sipi_vector << 8;
	} while (!__atomic_compare_exchange_n(&l->events, &old, new, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
	chips_wake(l->ch, l->id);
}

u32 lapic_take_events(struct lapic *l, u32 mask, u8 *sipi_vector)
{
	u32 old;

	if (!lapic_has_events(l, mask))
		return 0;
	old = __atomic_fetch_and(&l->events, ~(mask & 0xff), __ATOMIC_SEQ_CST);
	if ((old & mask & LAPIC_EV_SIPI) && sipi_vector)
		*sipi_vector = (u8)(old >> 8);
	return old & mask & 0xff;
}

bool lapic_has_events(const struct lapic *l, u32 mask)
{
	return __atomic_load_n(&l->events, __ATOMIC_ACQUIRE) & mask & 0xff;
}

void lapic_error(struct lapic *l, u32 bits)
{
	u32 old = __atomic_fetch_or(&l->errors, bits, __ATOMIC_RELAXED);
	u32 lvt = lapic_get(l, LAPIC_LVT_ERROR);

	if ((old & bits) == bits || (lvt & LAPIC_LVT_MASKED) || !lapic_enabled(l))
		return;
	if ((lvt & 0xff) >= 16)
		lapic_set_irr(l, (u8)lvt, false);
}

static bool deliver_fixed(struct lapic *l, u8 vector, bool level)
{
	if (!lapic_enabled(l))
		return false;
	if (vector < 16) {
		lapic_error(l, LAPIC_ERR_RECV_VECTOR);
		return false;
	}
	lapic_set_irr(l, vector, level);
	return true;
}

bool lapic_deliver(struct lapic *l, const struct apic_msg *m)
{
	switch (m->mode) {
	case APIC_FIXED:
	case APIC_LOWEST:
		return deliver_fixed(l, m->vector, m->level);
	case APIC_NMI:
		lapic_post_events(l, LAPIC_EV_NMI, 0);
		return true;
	case APIC_INIT:
		lapic_post_events(l, LAPIC_EV_INIT, 0);
		return true;
	case APIC_SIPI:
		lapic_post_events(l, LAPIC_EV_SIPI, m->vector);
		return true;
	default: /* SMI: there is no SMM. ExtINT: the PICs are wired to LINT0, not to here */
		return false;
	}
}

void lapic_deliver_local(struct lapic *l, enum lapic_reg reg)
{
	u32 lvt = lapic_get(l, reg);
	bool timer = reg == LAPIC_LVT_TIMER; /* has no delivery mode */
	u32 mode = timer ? (u32)APIC_FIXED : LAPIC_LVT_MODE(lvt);

	if ((lvt & LAPIC_LVT_MASKED) || !lapic_mode(l))
		return;
	if (mode == APIC_FIXED)
		deliver_fixed(l, (u8)lvt, false);
	else if (mode == APIC_NMI)
		lapic_post_events(l, LAPIC_EV_NMI, 0);
}

/* ---- on the way ---- */

static u32 send_all(struct chips *ch, const struct apic_msg *m)
{
	u32 n = 0;

	for (u32 i = 0; i < ch->nr_lapics; i++) {
		if (lapic_matches(&ch->lapics[i], m->dest, m->logical))
			n += lapic_deliver(&ch->lapics[i], m);
	}
	return n;
}

static u32 send_lowest(struct chips *ch, const struct apic_msg *m)
{
	struct lapic *eligible[VM_MAX_VCPUS];
	u32 n = 0;

	for (u32 i = 0; i < ch->nr_lapics; i++) {
		struct lapic *l = &ch->lapics[i];

		if (lapic_enabled(l) && lapic_matches(l, m->dest, m->logical))
			eligible[n++] = l;
	}
	return n ? lapic_deliver(eligible[m->vector % n], m) : 0;
}

u32 apic_send(struct chips *ch, const struct apic_msg *m)
{
	if (m->lowest)
		return send_lowest(ch, m);
	/* Nearly every message is for one LAPIC that has the id it was born with. */
	if (!m->logical && m->dest < ch->nr_lapics && lapic_matches(&ch->lapics[m->dest], m->dest, false))
		return lapic_deliver(&ch->lapics[m->dest], m);
	return send_all(ch, m);
}

static void send_short(struct lapic *self, const struct apic_msg *m, u32 shorthand)
{
	struct chips *ch = self->ch;

	for (u32 i = 0; i < ch->nr_lapics; i++) {
		struct lapic *l = &ch->lapics[i];

		if (lapic_mode(l) && (l == self ? shorthand != SHORT_OTHERS : shorthand != SHORT_SELF))
			lapic_deliver(l, m);
	}
}

/* Level and trigger mode mean something for INIT only: its de-assert is of the 82489DX and does nothing (SDM 3A §11.6.1). */
void lapic_send_ipi(struct lapic *l, u32 icr, u32 dest)
{
	const struct apic_msg m = {
		.dest = dest,
		.vector = (u8)icr,
		.mode = (u8)(icr >> 8 & 7),
		.logical = icr & ICR_LOGICAL,
		.lowest = (icr >> 8 & 7) == APIC_LOWEST,
	};
	u32 shorthand = icr >> 18 & 3;

	if (m.mode == APIC_INIT && (icr & ICR_TRIGGER) && !(icr & ICR_LEVEL))
		return;
	if ((m.mode == APIC_FIXED || m.mode == APIC_LOWEST) && m.vector < 16)
		lapic_error(l, LAPIC_ERR_SEND_VECTOR);
	else if (shorthand == SHORT_NONE)
		apic_send(l->ch, &m);
	else
		send_short(l, &m, shorthand);
}
