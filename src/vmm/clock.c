/* clock.c: see clock.h. The fields change only while vCPUs are parked, so readers need no lock. */
#include "vmm/clock.h"

#include <time.h>

#include "vmm/vm.h"

u64 clock_host_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

u64 clock_now(struct vm *vm)
{
	const struct clock *c = &vm->clock;

	return c->paused ? c->paused_at_ns : clock_host_ns() - c->base_ns;
}

void clock_pause(struct vm *vm)
{
	struct clock *c = &vm->clock;

	if (!c->paused)
		*c = (struct clock){.base_ns = c->base_ns, .paused_at_ns = clock_now(vm), .paused = true};
}

void clock_resume(struct vm *vm)
{
	struct clock *c = &vm->clock;

	if (c->paused)
		*c = (struct clock){.base_ns = clock_host_ns() - c->paused_at_ns};
}

void clock_set(struct vm *vm, u64 guest_ns)
{
	struct clock *c = &vm->clock;

	ASSERT(c->paused);
	*c = (struct clock){.base_ns = clock_host_ns() - guest_ns, .paused_at_ns = guest_ns, .paused = true};
}
