/*
 * lapic.c: one local APIC: priorities, registers, modes (SDM 3A chapter 11), as KVM's does it where the manual leaves a choice. Messages
 * between LAPICs are in lapic_ipi.c, the timer in lapic_timer.c. DEVIATION: no SMI, no thermal or performance interrupts, no remote read;
 * errors that came since ESR was last written are not part of the saved state.
 */
#include "arch/x86_64/chips_impl.h"

#define ICR_BUSY 0x1000u  /* delivery status: messages never wait here */
#define ICR_BITS 0xccfffu /* all that a guest sets */

#define LVT_RO	 0x5000u /* delivery status, remote IRR */
#define MSR_BASE 0x800u

#define REG(r)	  BIT(r)
#define REGS_8(r) (0xffull << (r))
#define LVT_REGS  (0x3full << LAPIC_LVT_TIMER)

/* x2APIC mode (SDM 3A table 11-6), and what there is more of in xAPIC mode. ICR goes its own way. */
#define X2_READABLE \
	(REG(LAPIC_ID) | REG(LAPIC_VERSION) | REG(LAPIC_TPR) | REG(LAPIC_PPR) | REG(LAPIC_LDR) | REG(LAPIC_SVR) | REGS_8(LAPIC_ISR) | \
	 REGS_8(LAPIC_TMR) | REGS_8(LAPIC_IRR) | REG(LAPIC_ESR) | REG(LAPIC_ICR) | LVT_REGS | REG(LAPIC_TMICT) | REG(LAPIC_TMCCT) | \
	 REG(LAPIC_TDCR))
#define X2_WRITABLE (REG(LAPIC_TPR) | REG(LAPIC_EOI) | REG(LAPIC_SVR) | REG(LAPIC_ESR) | LVT_REGS | REG(LAPIC_TMICT) | REG(LAPIC_TDCR))
#define X1_EXTRA    (REG(LAPIC_APR) | REG(LAPIC_EOI) | REG(LAPIC_RRD) | REG(LAPIC_DFR) | REG(LAPIC_CMCI) | REG(LAPIC_ICR2))

/* What can be written of X2_WRITABLE, ESR and EOI: nothing but zero. */
static u32 writable_bits(u32 reg)
{
	switch (reg) {
	case LAPIC_TPR:
		return 0xff;
	case LAPIC_SVR:
		return 0x3ff;
	case LAPIC_LVT_TIMER:
		return 0x710ff;
	case LAPIC_LVT_THERMAL:
	case LAPIC_LVT_PERF:
		return 0x117ff;
	case LAPIC_LVT_LINT0:
	case LAPIC_LVT_LINT1:
		return 0x1f7ff;
	case LAPIC_LVT_ERROR:
		return 0x110ff;
	case LAPIC_TMICT:
		return UINT32_MAX;
	case LAPIC_TDCR:
		return 0xb;
	default:
		return 0;
	}
}

/* ---- priorities ---- */

/* The highest vector of eight registers, or -1. */
static int highest(const struct lapic *l, u32 first)
{
	for (u32 i = 8; i-- > 0;) {
		u32 word = lapic_get(l, first + i);

		if (word)
			return (int)(i * 32 + 31 - (u32)__builtin_clz(word));
	}
	return -1;
}

/* SDM 3A §11.8.3.1 */
static void update_ppr(struct lapic *l)
{
	u32 tpr = lapic_get(l, LAPIC_TPR);
	int isr = highest(l, LAPIC_ISR);
	u32 isrv = isr < 0 ? 0 : (u32)isr & 0xf0;

	lapic_put(l, LAPIC_PPR, (tpr & 0xf0) >= isrv ? tpr : isrv);
}

/* The highest requested vector, or -1. A word that is marked and turns out to be empty is unmarked; a bit that another thread sets in
 * between is seen by the second look, since it sets the mark last. */
static int highest_request(struct lapic *l, u32 words)
{
	while (words) {
		u32 i = 31 - (u32)__builtin_clz(words), mark = 1u << i;
		u32 word = __atomic_load_n(&l->r[LAPIC_IRR + i], __ATOMIC_SEQ_CST);

		if (word)
			return (int)(i * 32 + 31 - (u32)__builtin_clz(word));
		__atomic_fetch_and(&l->irr_words, ~mark, __ATOMIC_SEQ_CST);
		if (__atomic_load_n(&l->r[LAPIC_IRR + i], __ATOMIC_SEQ_CST))
			__atomic_fetch_or(&l->irr_words, mark, __ATOMIC_SEQ_CST);
		else
			words &= ~mark;
	}
	return -1;
}

int lapic_pending(struct lapic *l)
{
	u32 words = __atomic_load_n(&l->irr_words, __ATOMIC_ACQUIRE);
	int vector;

	if (likely(!words))
		return -1;
	vector = highest_request(l, words);
	return vector >= 0 && ((u32)vector & 0xf0) > (lapic_get(l, LAPIC_PPR) & 0xf0) && lapic_mode(l) ? vector : -1;
}

void lapic_accept(struct lapic *l, u8 vector)
{
	u32 i = vector / 32u, bit = 1u << (vector & 31);

	__atomic_fetch_and(&l->r[LAPIC_IRR + i], ~bit, __ATOMIC_SEQ_CST);
	lapic_put(l, LAPIC_ISR + i, lapic_get(l, LAPIC_ISR + i) | bit);
	update_ppr(l);
}

/* After something that may let a waiting interrupt through: the vCPU must look before it goes on. */
static void look_again(struct lapic *l)
{
	if (lapic_pending(l) >= 0)
		chips_wake(l->ch, l->id);
}

static void end_of_interrupt(struct lapic *l)
{
	int vector = highest(l, LAPIC_ISR);
	u32 i = (u32)vector / 32u, bit = 1u << ((u32)vector & 31);

	if (vector < 0)
		return;
	lapic_put(l, LAPIC_ISR + i, lapic_get(l, LAPIC_ISR + i) & ~bit);
	update_ppr(l);
	if (lapic_get(l, LAPIC_TMR + i) & bit)
		ioapic_eoi(l->ch, (u8)vector);
	look_again(l);
}

static void set_tpr(struct lapic *l, u32 tpr)
{
	lapic_put(l, LAPIC_TPR, tpr);
	update_ppr(l);
	look_again(l);
}

u8 lapic_get_cr8(const struct lapic *l)
{
	return (u8)(lapic_get(l, LAPIC_TPR) >> 4);
}

void lapic_set_cr8(struct lapic *l, u8 value)
{
	set_tpr(l, (value & 0xfu) << 4);
}

/* ---- registers ---- */

/* Software disable masks all LVT entries, and they stay so (SDM 3A §11.4.7.2). */
static void set_svr(struct lapic *l, u32 svr)
{
	lapic_put(l, LAPIC_SVR, svr);
	for (u32 r = LAPIC_LVT_TIMER; !(svr & LAPIC_SVR_ENABLE) && r <= LAPIC_LVT_ERROR; r++)
		lapic_put(l, r, lapic_get(l, r) | LAPIC_LVT_MASKED);
}

static void set_lvt(struct lapic *l, u32 reg, u32 lvt)
{
	lvt &= ~LVT_RO;
	if (!lapic_enabled(l))
		lvt |= LAPIC_LVT_MASKED;
	if (reg == LAPIC_LVT_TIMER)
		lapic_timer_set_lvt(l, lvt);
	lapic_put(l, reg, lvt);
	if (reg == LAPIC_LVT_LINT0)
		chips_wake(l->ch, l->id); /* the PICs may have waited for this */
}

/* A register of X2_WRITABLE; value has only writable bits. */
static void write_common(struct lapic *l, u32 reg, u32 value)
{
	switch (reg) {
	case LAPIC_TPR:
		set_tpr(l, value);
		break;
	case LAPIC_EOI:
		end_of_interrupt(l);
		break;
	case LAPIC_SVR:
		set_svr(l, value);
		break;
	case LAPIC_ESR: /* a write shows what came since the last one */
		lapic_put(l, reg, __atomic_exchange_n(&l->errors, 0, __ATOMIC_RELAXED));
		break;
	case LAPIC_TMICT:
		lapic_timer_set_initial(l, value);
		break;
	case LAPIC_TDCR:
		lapic_timer_set_divide(l, value);
		break;
	default:
		set_lvt(l, reg, value);
		break;
	}
}

static void write_icr(struct lapic *l, u32 low, u32 high)
{
	lapic_put(l, LAPIC_ICR, low);
	lapic_put(l, LAPIC_ICR2, high);
	lapic_send_ipi(l, low, lapic_mode(l) & LAPIC_BASE_X2APIC ? high : high >> 24);
}

static bool exists(u32 reg)
{
	return (X2_READABLE | X1_EXTRA) >> reg & 1;
}

static u32 read_reg(struct lapic *l, u32 reg)
{
	return reg == LAPIC_TMCCT ? lapic_timer_current(l) : lapic_get(l, reg);
}

u32 lapic_mmio_read(struct lapic *l, u32 offset)
{
	u32 reg = offset / 16;

	if (lapic_mode(l) != LAPIC_BASE_ENABLE)
		return UINT32_MAX;
	if (reg >= LAPIC_NR_REGS || !exists(reg)) {
		lapic_error(l, LAPIC_ERR_REGISTER);
		return 0;
	}
	return (offset & 0xf) < 4 ? read_reg(l, reg) >> (offset & 3) * 8 : 0;
}

/* Registers that are other or not there in x2APIC mode. */
static void write_x1(struct lapic *l, u32 reg, u32 value)
{
	switch (reg) {
	case LAPIC_ID:
	case LAPIC_LDR:
	case LAPIC_ICR2:
		lapic_put(l, reg, value & 0xff000000);
		break;
	case LAPIC_DFR:
		lapic_put(l, reg, value | 0x0fffffff);
		break;
	case LAPIC_ICR:
		write_icr(l, value & ICR_BITS, lapic_get(l, LAPIC_ICR2));
		break;
	default: /* for reading */
		break;
	}
}

void lapic_mmio_write(struct lapic *l, u32 offset, u32 value)
{
	u32 reg = offset / 16;

	if (lapic_mode(l) != LAPIC_BASE_ENABLE || (offset & 0xf))
		return;
	if (reg >= LAPIC_NR_REGS || !exists(reg))
		lapic_error(l, LAPIC_ERR_REGISTER);
	else if (X2_WRITABLE >> reg & 1)
		write_common(l, reg, value & writable_bits(reg));
	else
		write_x1(l, reg, value);
}

bool lapic_msr_read(struct lapic *l, u32 msr, u64 *value)
{
	u32 reg = msr - MSR_BASE;

	if (!(lapic_mode(l) & LAPIC_BASE_X2APIC) || reg >= LAPIC_NR_REGS || !(X2_READABLE >> reg & 1))
		return false;
	*value = reg == LAPIC_ICR ? (u64)lapic_get(l, LAPIC_ICR2) << 32 | lapic_get(l, LAPIC_ICR) : read_reg(l, reg);
	return true;
}

static bool self_ipi(struct lapic *l, u64 value)
{
	if (value > 0xff)
		return false;
	if (value < 16)
		lapic_error(l, LAPIC_ERR_SEND_VECTOR);
	else if (lapic_enabled(l))
		lapic_set_irr(l, (u8)value, false);
	return true;
}

static bool msr_icr(struct lapic *l, u64 value)
{
	u32 low = (u32)value & ~ICR_BUSY; /* reserved too, but no Intel processor minds */

	if (low & ~ICR_BITS)
		return false;
	write_icr(l, low, (u32)(value >> 32));
	return true;
}

bool lapic_msr_write(struct lapic *l, u32 msr, u64 value)
{
	u32 reg = msr - MSR_BASE;

	if (!(lapic_mode(l) & LAPIC_BASE_X2APIC))
		return false;
	if (reg == LAPIC_ICR)
		return msr_icr(l, value);
	if (reg == LAPIC_SELF_IPI)
		return self_ipi(l, value);
	if (reg >= LAPIC_NR_REGS || !(X2_WRITABLE >> reg & 1) || (value & ~(u64)writable_bits(reg)))
		return false;
	if (reg == LAPIC_LVT_TIMER && (value & 0x60000) == 0x60000)
		return false; /* two timer modes at once */
	write_common(l, reg, (u32)value);
	return true;
}

/* ---- modes ---- */

u64 lapic_base(const struct lapic *l)
{
	return __atomic_load_n(&l->base, __ATOMIC_RELAXED);
}

/* All but the id and the mode as after reset (SDM 3A §11.4.7.1, §11.12.5.1). */
static void clear(struct lapic *l, bool bsp)
{
	bool x2apic = lapic_mode(l) & LAPIC_BASE_X2APIC;

	/* Before IRR, so that a bit that is set meanwhile has its mark. */
	__atomic_store_n(&l->irr_words, 0, __ATOMIC_SEQ_CST);
	lapic_timer_set_initial(l, 0);
	lapic_timer_set_lvt(l, LAPIC_LVT_MASKED);
	for (u32 r = 0; r < LAPIC_NR_REGS; r++) {
		if (r != LAPIC_ID)
			lapic_put(l, r, 0);
	}
	__atomic_store_n(&l->errors, 0, __ATOMIC_RELAXED);
	lapic_put(l, LAPIC_VERSION, LAPIC_VERSION_VALUE);
	lapic_put(l, LAPIC_DFR, LAPIC_DFR_FLAT);
	lapic_put(l, LAPIC_LDR, x2apic ? apic_x2apic_ldr(l->id) : 0);
	lapic_put(l, LAPIC_SVR, 0xff);
	for (u32 r = LAPIC_LVT_TIMER; r <= LAPIC_LVT_ERROR; r++)
		lapic_put(l, r, LAPIC_LVT_MASKED);
	if (bsp) /* as KVM: the PICs work before anybody programs the LAPIC */
		lapic_put(l, LAPIC_LVT_LINT0, APIC_EXTINT << 8);
	lapic_timer_set_divide(l, 0);
}

void lapic_reset(struct lapic *l, bool bsp)
{
	u64 base = lapic_base(l) & ~LAPIC_BASE_BSP;

	__atomic_store_n(&l->base, base | (bsp ? LAPIC_BASE_BSP : 0), __ATOMIC_RELAXED);
	clear(l, bsp);
}

bool lapic_set_base(struct lapic *l, u64 value)
{
	u64 from = lapic_mode(l), to = value & LAPIC_BASE_MODE;

	if (value & ~(LAPIC_BASE_ADDR | LAPIC_BASE_MODE | LAPIC_BASE_BSP))
		return false;
	if (to == LAPIC_BASE_X2APIC || (from == LAPIC_BASE_MODE && to == LAPIC_BASE_ENABLE) || (!from && to == LAPIC_BASE_MODE))
		return false;
	__atomic_store_n(&l->base, value, __ATOMIC_RELAXED);
	if (from == to)
		return true;
	if (to == LAPIC_BASE_MODE) {
		lapic_put(l, LAPIC_ID, l->id);
		lapic_put(l, LAPIC_LDR, apic_x2apic_ldr(l->id));
		lapic_put(l, LAPIC_ICR2, 0);
	} else {
		lapic_put(l, LAPIC_ID, l->id << 24);
		clear(l, false);
	}
	chips_wake(l->ch, l->id);
	return true;
}

/* ---- canonical state ---- */

void lapic_save(const struct lapic *l, struct cpu_state *s)
{
	u32 current = lapic_timer_current(l);

	s->apic_base = lapic_base(l);
	s->cr8 = lapic_get_cr8(l);
	s->lapic = (struct x86_lapic){0};
	for (u32 r = 0; r < LAPIC_NR_REGS; r++)
		st_le32(s->lapic.regs + r * 16, lapic_get(l, r));
	/* A timer that has less than one count to go is not one that has expired. */
	st_le32(s->lapic.regs + LAPIC_TMCCT * 16, lapic_timer_running(l) ? MAX(current, 1u) : 0);
}

/* A version of 0 exists in no APIC: the state has none. Then it is as firmware leaves it: virtual wire (MP specification §3.6.2.2). */
static void load_default(struct lapic *l)
{
	lapic_put(l, LAPIC_ID, lapic_mode(l) & LAPIC_BASE_X2APIC ? l->id : l->id << 24);
	clear(l, false);
	lapic_put(l, LAPIC_LVT_LINT0, APIC_EXTINT << 8);
	lapic_put(l, LAPIC_LVT_LINT1, APIC_NMI << 8);
}

void lapic_load(struct lapic *l, const struct cpu_state *s)
{
	u32 words = 0;

	__atomic_store_n(&l->base, s->apic_base, __ATOMIC_RELAXED);
	__atomic_store_n(&l->events, 0, __ATOMIC_RELAXED);
	if (!ld_le32(s->lapic.regs + LAPIC_VERSION * 16)) {
		load_default(l);
		return;
	}
	clear(l, false);
	for (u32 r = 0; r < LAPIC_NR_REGS; r++)
		lapic_put(l, r, ld_le32(s->lapic.regs + r * 16));
	lapic_put(l, LAPIC_VERSION, LAPIC_VERSION_VALUE);
	lapic_put(l, LAPIC_TPR, lapic_get(l, LAPIC_TPR) & 0xff);
	if (lapic_mode(l) & LAPIC_BASE_X2APIC) {
		lapic_put(l, LAPIC_ID, l->id);
		lapic_put(l, LAPIC_LDR, apic_x2apic_ldr(l->id));
	}
	for (u32 i = 0; i < 8; i++)
		words |= lapic_get(l, LAPIC_IRR + i) ? 1u << i : 0;
	__atomic_fetch_or(&l->irr_words, words, __ATOMIC_SEQ_CST);
	update_ppr(l);
	lapic_timer_load(l, ld_le32(s->lapic.regs + LAPIC_TMCCT * 16));
	look_again(l);
}
