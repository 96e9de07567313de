/*
 * lapic_timer.c: the timer of a LAPIC (SDM 3A §11.5.4): one-shot, periodic, TSC deadline. One-shot and periodic count nanoseconds of the
 * VM's clock, over the divide configuration, as KVM's do; a deadline is on the guest's TSC. The accelerator waits (chips_ops.set_timer)
 * and calls lapic_timer_expire, where nothing happens if it is too early: the timer may have been changed meanwhile, or the VM's clock
 * stood still.
 */
#include "arch/x86_64/chips_impl.h"

#define LVT_TIMER_MODE(lvt) ((lvt) >> 17 & 3)

/* How often at most a periodic timer really interrupts, and how often one is looked at whose clock stands still. */
#define MIN_PERIOD_NS 100000u
#define PAUSED_NS     NSEC_PER_MSEC

static struct vm *vm_of(const struct lapic *l)
{
	return l->ch->dev.vm;
}

/* Host time of a moment of the VM's clock. */
static u64 host_time(const struct lapic *l, u64 target)
{
	u64 now = clock_now(vm_of(l)), wait = target > now ? target - now : 0;

	return clock_host_ns() + (vm_of(l)->clock.paused ? MAX(wait, PAUSED_NS) : wait);
}

static void tell(struct lapic *l, u64 host_ns)
{
	if (!host_ns && !l->timer.armed_ns)
		return;
	l->timer.armed_ns = host_ns;
	l->ch->ops->set_timer(l->ch->opaque, l->id, host_ns);
}

static void arm(struct lapic *l)
{
	const struct lapic_timer *t = &l->timer;

	tell(l, t->target_ns ? MAX(host_time(l, t->target_ns), 1u) : 0);
}

static void stop(struct lapic *l)
{
	l->timer.target_ns = l->timer.period_ns = l->timer.deadline = 0;
	tell(l, 0);
}

void lapic_timer_init(struct lapic *l)
{
	l->timer = (struct lapic_timer){.shift = 1};
}

/* The initial count stands in its register, and is gone on the way from or to TSC deadline mode. */
void lapic_timer_set_lvt(struct lapic *l, u32 lvt)
{
	struct lapic_timer *t = &l->timer;
	u8 mode = (u8)LVT_TIMER_MODE(lvt);

	if (mode == t->mode)
		return;
	if (mode >= LAPIC_DEADLINE || t->mode >= LAPIC_DEADLINE) {
		stop(l);
		lapic_put(l, LAPIC_TMICT, 0);
	}
	t->mode = mode;
}

/* Starts the counter with `ns` to go. */
static void start(struct lapic *l, u64 ns)
{
	struct lapic_timer *t = &l->timer;

	t->period_ns = (u64)lapic_get(l, LAPIC_TMICT) << t->shift;
	t->target_ns = ns ? MAX(clock_now(vm_of(l)) + ns, 1u) : 0;
	arm(l);
}

void lapic_timer_set_initial(struct lapic *l, u32 count)
{
	struct lapic_timer *t = &l->timer;

	if (t->mode >= LAPIC_DEADLINE)
		return;
	lapic_put(l, LAPIC_TMICT, count);
	start(l, (u64)count << t->shift);
}

/* Time to go. An expiry that nobody has handled yet belongs to a period that is over. */
static u64 remaining(const struct lapic *l)
{
	const struct lapic_timer *t = &l->timer;
	u64 now = clock_now(vm_of(l));

	if (!t->target_ns || !t->period_ns)
		return 0;
	if (now < t->target_ns)
		return t->target_ns - now;
	return t->mode == LAPIC_PERIODIC ? t->period_ns - (now - t->target_ns) % t->period_ns : 0;
}

static u8 shift_of(u32 tdcr)
{
	return (u8)(((tdcr & 3) | (tdcr >> 1 & 4)) + 1) & 7; /* 000: by 2 ... 110: by 128, 111: by 1 */
}

/* The counts to go stay, and last longer or shorter. */
void lapic_timer_set_divide(struct lapic *l, u32 tdcr)
{
	struct lapic_timer *t = &l->timer;
	u8 shift = shift_of(tdcr);

	lapic_put(l, LAPIC_TDCR, tdcr);
	if (shift != t->shift) {
		u64 ns = remaining(l) >> t->shift << shift;

		t->shift = shift;
		if (t->target_ns)
			start(l, MAX(ns, 1u));
	}
}

u32 lapic_timer_current(const struct lapic *l)
{
	return (u32)(remaining(l) >> l->timer.shift);
}

bool lapic_timer_running(const struct lapic *l)
{
	return l->timer.target_ns != 0;
}

u64 lapic_tsc_deadline(const struct lapic *l)
{
	return l->timer.deadline;
}

/* Fires at once, or waits. */
static bool start_deadline(struct lapic *l, u64 deadline)
{
	const struct chips_ops *ops = l->ch->ops;
	bool past = deadline && deadline <= ops->rdtsc(l->ch->opaque, l->id);

	l->timer.deadline = past ? 0 : deadline;
	tell(l, l->timer.deadline ? MAX(ops->tsc_to_host_ns(l->ch->opaque, l->id, deadline), 1u) : 0);
	return past;
}

void lapic_set_tsc_deadline(struct lapic *l, u64 value)
{
	if (l->timer.mode != LAPIC_DEADLINE || !lapic_mode(l))
		return; /* SDM 3A §11.5.4.1: ignored in the other modes */
	if (start_deadline(l, value))
		lapic_deliver_local(l, LAPIC_LVT_TIMER);
}

void lapic_load_tsc_deadline(struct lapic *l, u64 value)
{
	if (l->timer.mode == LAPIC_DEADLINE && lapic_mode(l))
		l->timer.deadline = value;
}

/* Moves target_ns on: none after a one-shot; the next in the future after a period, as those that were missed would be one interrupt. */
static void next_target(struct lapic_timer *t, u64 now)
{
	if (t->mode != LAPIC_PERIODIC || !t->period_ns)
		t->target_ns = 0;
	else
		t->target_ns += ((now - t->target_ns) / t->period_ns + 1) * t->period_ns;
}

/* Whether the time has come; arms for the next in any case. */
static bool expire(struct lapic *l)
{
	struct lapic_timer *t = &l->timer;
	u64 now;

	if (t->mode == LAPIC_DEADLINE)
		return start_deadline(l, t->deadline);
	now = clock_now(vm_of(l));
	if (!t->target_ns)
		return false;
	if (now < t->target_ns) {
		arm(l);
		return false;
	}
	next_target(t, now);
	tell(l, t->target_ns ? MAX(host_time(l, t->target_ns), clock_host_ns() + MIN_PERIOD_NS) : 0);
	return true;
}

void lapic_timer_expire(struct lapic *l)
{
	if (expire(l))
		lapic_deliver_local(l, LAPIC_LVT_TIMER);
}

/* A deadline is not in the registers: its MSR is loaded after this. */
void lapic_timer_load(struct lapic *l, u32 current)
{
	struct lapic_timer *t = &l->timer;
	u64 ns;

	t->mode = (u8)LVT_TIMER_MODE(lapic_get(l, LAPIC_LVT_TIMER));
	t->shift = shift_of(lapic_get(l, LAPIC_TDCR));
	ns = (u64)MIN(current, lapic_get(l, LAPIC_TMICT)) << t->shift;
	if (t->mode == LAPIC_PERIODIC && !ns)
		ns = (u64)lapic_get(l, LAPIC_TMICT) << t->shift;
	if (t->mode >= LAPIC_DEADLINE)
		ns = 0;
	start(l, ns);
}
