/* vcpu_irq.c: requests to a vCPU, delivery of what is pending, and its timer. Lean: called with the guest's vector state in the hardware.
 */
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>

#include "arch/x86_64/chips.h"
#include "tcg/exec.h"
#include "tcg/mmu.h"
#include "tcg/syscall.h"
#include "tcg/vcpu.h"
#include "tcg/x86_64/interp.h"

#define ANCHOR_MS  10		/* how old an anchor may be: CLOCK_MONOTONIC is slewed by 500 ppm at most: 5 us then */
#define FAR_TICKS  (1ull << 43) /* an hour: deadlines beyond are looked at again then. Times 10^6 still fits */
#define SPIN_TICKS 2ull		/* us: a deadline that near is waited for, a timer would take longer */

_Static_assert(FAR_TICKS * 1000 * 1000 / (1000 * 1000) == FAR_TICKS, "conversion to ns does not overflow");

/* ---- requests ---- */

/*
 * Poll word and requests are two words, and the other side may be anywhere between two stores. What holds: a request is in `requests`
 * before the poll word is set for it, and the poll word is set back before requests are taken; so no request is left with the poll word
 * NONE. The reverse does not hold: a request that comes while others are taken is taken too, and leaves the poll word set for nothing.
 * Hence whoever left for the poll word goes through vcpu_deliver, which sets it back, whether there are requests or not (tcg_exec).
 */
void tcg_request(struct tcg_cpu *c, u32 req)
{
	c = tcg_cpu_home(c);
	__atomic_fetch_or(&c->requests, req, __ATOMIC_SEQ_CST);
	__atomic_store_n(&c->poll, TCG_POLL_LEAVE, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&c->sleeping, __ATOMIC_SEQ_CST) && __atomic_exchange_n(&c->sleeping, 0, __ATOMIC_SEQ_CST))
		raw_syscall4(SYS_futex, (long)&c->sleeping, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, 0);
}

u32 vcpu_take_requests(struct tcg_cpu *c, u32 mask)
{
	u32 old;

	/* Before the look at the requests: one that comes after it sets the poll word again. */
	__atomic_store_n(&c->poll, TCG_POLL_NONE, __ATOMIC_SEQ_CST);
	old = __atomic_fetch_and(&c->requests, ~mask, __ATOMIC_SEQ_CST);
	if (old & ~mask)
		__atomic_store_n(&c->poll, TCG_POLL_LEAVE, __ATOMIC_SEQ_CST);
	return old & mask;
}

void vcpu_look_again(struct tcg_cpu *c)
{
	__atomic_fetch_or(&c->requests, TCG_REQ_SHOOT, __ATOMIC_SEQ_CST);
	__atomic_store_n(&c->poll, TCG_POLL_LEAVE, __ATOMIC_SEQ_CST);
}

void vcpu_wake(void *opaque, u32 cpu)
{
	const struct tcg_vm *t = opaque;

	if (cpu < ARRAY_SIZE(t->cpus) && t->cpus[cpu])
		tcg_request(t->cpus[cpu], TCG_REQ_IRQ);
}

/* ---- time ---- */

static u64 host_tsc(void)
{
	u32 low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (u64)high << 32 | low;
}

u64 tcg_rdtsc(const struct tcg_cpu *c)
{
	return host_tsc() + c->tsc_offset;
}

u64 vcpu_host_ns(struct tcg_cpu *c)
{
	struct tcg_timer *tm = &tcg_vcpu_of(c)->timer;
	u64 tsc = host_tsc(), ticks = tsc - tm->anchor_tsc;
	struct timespec now;

	if (likely(ticks < c->t->tsc_khz * ANCHOR_MS))
		return tm->anchor_ns + ticks * 1000 * 1000 / c->t->tsc_khz;
	raw_syscall4(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&now, 0, 0);
	tm->anchor_tsc = tsc;
	tm->anchor_ns = (u64)now.tv_sec * NSEC_PER_SEC + (u64)now.tv_nsec;
	return tm->anchor_ns;
}

u64 vcpu_rdtsc(void *opaque, u32 cpu)
{
	const struct tcg_vm *t = opaque;

	return tcg_rdtsc(t->cpus[cpu]);
}

u64 vcpu_tsc_to_host_ns(void *opaque, u32 cpu, u64 tsc)
{
	const struct tcg_vm *t = opaque;
	struct tcg_cpu *c = t->cpus[cpu];
	u64 now = tcg_rdtsc(c), ns = vcpu_host_ns(c);

	return tsc <= now ? ns : ns + MIN(tsc - now, FAR_TICKS) * 1000 * 1000 / t->tsc_khz + 1;
}

static void timerfd_set(const struct tcg_timer *tm, u64 ns)
{
	const struct itimerspec at = {.it_value = {.tv_sec = (time_t)(ns / NSEC_PER_SEC), .tv_nsec = (long)(ns % NSEC_PER_SEC)}};

	raw_syscall4(SYS_timerfd_settime, tm->fd, 1 /* TFD_TIMER_ABSTIME */, (long)&at, 0);
}

/* `armed` before the call: when an earlier setting fires meanwhile, the timer thread takes it back to 0, and the timerfd is set once more
 * than need be; never once less. */
void vcpu_timer_arm(struct tcg_cpu *c)
{
	struct tcg_timer *tm = &tcg_vcpu_of(c)->timer;
	u64 armed = __atomic_load_n(&tm->armed, __ATOMIC_SEQ_CST);

	if (!tm->deadline || (armed && armed <= tm->deadline))
		return;
	__atomic_store_n(&tm->armed, tm->deadline, __ATOMIC_SEQ_CST);
	timerfd_set(tm, tm->deadline);
}

void vcpu_timer_sleep(struct tcg_cpu *c)
{
	struct tcg_timer *tm = &tcg_vcpu_of(c)->timer;

	if (!__atomic_exchange_n(&tm->armed, 0, __ATOMIC_SEQ_CST))
		return;
	timerfd_set(tm, 0);
}

void vcpu_set_timer(void *opaque, u32 cpu, u64 host_ns)
{
	const struct tcg_vm *t = opaque;

	if (!t->cpus[cpu])
		return;
	tcg_vcpu_of(t->cpus[cpu])->timer.deadline = host_ns;
	vcpu_timer_arm(t->cpus[cpu]);
}

/* A TSC deadline must not fire while the guest reads less than it: Linux would set it again, for a moment later. True: it is due. */
static bool deadline_is_due(struct tcg_cpu *c)
{
	u64 tsc = lapic_tsc_deadline(c->lapic);

	if (!tsc)
		return vcpu_host_ns(c) >= tcg_vcpu_of(c)->timer.deadline;
	while (tcg_rdtsc(c) < tsc) {
		if (tsc - tcg_rdtsc(c) > c->t->tsc_khz * SPIN_TICKS / 1000)
			return tcg_rdtsc(c) >= tsc;
		__builtin_ia32_pause();
	}
	return true;
}

void vcpu_timer_check(struct tcg_cpu *c)
{
	struct tcg_timer *tm = &tcg_vcpu_of(c)->timer;

	if (!tm->deadline)
		return;
	if (!deadline_is_due(c)) {
		vcpu_timer_arm(c);
		return;
	}
	tm->deadline = 0;
	if (!lapic_tsc_deadline(c->lapic))
		fpu_save(c); /* the other modes count on the VM's clock */
	lapic_timer_expire(c->lapic);
}

/* ---- delivery ---- */

static void count(struct tcg_cpu *c, enum tcg_counter n)
{
	__atomic_store_n(&c->counters[n], c->counters[n] + 1, __ATOMIC_RELAXED);
}

static bool nmi_is_pending(struct tcg_cpu *c)
{
	return tcg_vcpu_of(c)->nmi_pending || lapic_has_events(c->lapic, LAPIC_EV_NMI);
}

static bool interrupt_is_pending(struct tcg_cpu *c)
{
	return tcg_vcpu_of(c)->injected >= 0 || lapic_pending(c->lapic) >= 0 || chips_extint_pending(c->t->chips, c->v->index);
}

bool vcpu_has_event(struct tcg_cpu *c)
{
	return c->exc.pending || lapic_has_events(c->lapic, LAPIC_EV_INIT) || (nmi_is_pending(c) && !c->nmi_masked) ||
	       (c->rflags & X86_FLAG_IF && interrupt_is_pending(c));
}

/* The vector to deliver, taken from whoever has it. */
static u8 accept_interrupt(struct tcg_cpu *c)
{
	struct tcg_vcpu *o = tcg_vcpu_of(c);
	int vector = o->injected;

	o->injected = -1;
	if (vector >= 0)
		return (u8)vector;
	vector = lapic_pending(c->lapic);
	if (vector < 0) {
		fpu_save(c); /* a device's lock */
		return chips_extint_accept(c->t->chips, c->v->index);
	}
	lapic_accept(c->lapic, (u8)vector);
	return (u8)vector;
}

static void deliver_nmi(struct tcg_cpu *c)
{
	struct tcg_vcpu *o = tcg_vcpu_of(c);

	if (!o->nmi_pending)
		lapic_take_events(c->lapic, LAPIC_EV_NMI, NULL);
	o->nmi_pending = false;
	c->halted = false;
	count(c, TCG_C_INTERRUPTS);
	sys_nmi(c);
}

static void deliver_interrupt(struct tcg_cpu *c)
{
	u8 vector = accept_interrupt(c);

	c->halted = false;
	count(c, TCG_C_INTERRUPTS);
	sys_interrupt(c, vector);
}

static void deliver_exception(struct tcg_cpu *c)
{
	c->halted = false;
	count(c, TCG_C_EXCEPTIONS);
	sys_deliver(c);
}

/*
 * One event, by the order of SDM 3A table 6-2. Each of these may leave by a raise: the request to look again is set before, so that the
 * rest is not forgotten. False: nothing can be delivered now. An interrupt shadow is a matter of one instruction: it is executed here,
 * since translated code does not know shadows.
 */
static bool deliver_one(struct tcg_cpu *c)
{
	bool held = c->debug.step && !c->halted; /* a debugger's step is to show the next instruction, not a handler that happens by */
	bool nmi = !held && !c->nmi_masked && nmi_is_pending(c), irq = !held && c->rflags & X86_FLAG_IF && interrupt_is_pending(c);

	if (!c->exc.pending && !nmi && !irq)
		return false;
	vcpu_look_again(c);
	if (c->exc.pending)
		deliver_exception(c);
	else if (c->shadow && !c->halted)
		interp_step(c);
	else if (nmi)
		deliver_nmi(c);
	else
		deliver_interrupt(c);
	if (unlikely(c->debug.step))
		c->debug.why = DEBUG_STEP;
	return true;
}

/* INIT stops the vCPU; tcg_exec returns for that, and vcpu_run sees to the rest. */
static bool startup_is_pending(struct tcg_cpu *c)
{
	if (!lapic_has_events(c->lapic, LAPIC_EV_INIT))
		return false;
	c->halted = true;
	return true;
}

void vcpu_deliver(struct tcg_cpu *c)
{
	u32 mask = TCG_REQ_IRQ | TCG_REQ_TIMER | TCG_REQ_SHOOT | TCG_REQ_FLUSH | TCG_REQ_FLUSH_W;

	c = tcg_cpu_home(c);
	do {
		u32 taken = vcpu_take_requests(c, mask);

		if (taken & TCG_REQ_FLUSH)
			mmu_flush_all(c);
		if (taken & TCG_REQ_FLUSH_W)
			mmu_flush_writable(c);
		if (taken & TCG_REQ_TIMER)
			vcpu_timer_check(c);
	} while (!startup_is_pending(c) && deliver_one(c));
	c->irq_waiting = (c->nmi_masked && nmi_is_pending(c)) || (!(c->rflags & X86_FLAG_IF) && interrupt_is_pending(c));
}
