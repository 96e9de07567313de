/* source_throttle.c: holds the vCPUs for a part of their time, so that they write less; see source_impl.h. ctx: loop */
#include "migration/source_impl.h"
#include "vmm/clock.h"
#include "vmm/gdb.h"

#define SLICE_NS (20 * NSEC_PER_MSEC)

static void let_go(struct source *s)
{
	bool all[VM_MAX_VCPUS];

	if (!s->throttle.holding)
		return;
	for (u32 i = 0; i < VM_MAX_VCPUS; i++)
		all[i] = true;
	vcpus_release(s->vm, all);
	s->throttle.holding = false;
}

static void tick(struct loop_timer *t)
{
	struct source *s = container_of(t, struct source, throttle.timer);
	u64 held_ns = SLICE_NS * s->throttle.percent / 100;
	bool hold = !s->throttle.holding;

	/* A debugger that came meanwhile holds them in the same way; the hand-over will refuse. */
	if (gdb_is_attached(s->vm)) {
		s->throttle.holding = false;
	} else if (hold) {
		vcpus_hold(s->vm);
		s->throttle.holding = true;
	} else {
		let_go(s);
	}
	loop_timer_arm(&s->vm->loop, t, clock_host_ns() + (hold ? held_ns : SLICE_NS - held_ns));
}

void source_throttle_init(struct source *s)
{
	s->throttle.timer.expired = tick;
}

void source_throttle_set(struct source *s, u32 percent)
{
	bool was = s->throttle.percent;

	s->throttle.percent = percent;
	if (percent && !was) {
		loop_timer_arm(&s->vm->loop, &s->throttle.timer, clock_host_ns());
	} else if (!percent) {
		loop_timer_cancel(&s->vm->loop, &s->throttle.timer);
		let_go(s);
	}
}
