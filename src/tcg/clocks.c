/*
 * clocks.c: the guest's time over pauses and loads, and what the VM has once in saved states: interrupt chips and clocks.
 *
 * The guest's TSC stands still while the VM's clock does. How long is counted on the host's TSC alone, from when the last vCPU left the
 * guest: nanoseconds of CLOCK_MONOTONIC are slewed, and a long pause would set the guest's TSC back. Every vCPU takes the same ticks away,
 * so that their TSCs stay one. kvmclock is made of the TSC (pvclock.c), and stands still with it.
 */
#include <string.h>
#include <time.h>

#include "arch/x86_64/chips.h"
#include "arch/x86_64/vm_state.h"
#include "tcg/pvclock.h"
#include "tcg/vcpu.h"
#include "vmm/clock.h"

static u64 host_tsc(void)
{
	return __builtin_ia32_rdtsc();
}

/* ---- the guest's TSC ---- */

/* Under the lock: the VM's clock has stood still since the last look; how long, of the host's TSC. */
static void count_still(struct tcg_host *h, u64 now)
{
	u64 base = h->t.vm->clock.base_ns;

	if (h->still_known && base != h->still_base)
		h->still += now - h->left_tsc;
	h->still_known = true;
	h->still_base = base;
}

void tcg_clock_follow(struct tcg_cpu *c)
{
	struct tcg_host *h = tcg_host_of(c->t);
	struct tcg_vcpu *o = tcg_vcpu_of(c);
	u64 deadline = lapic_tsc_deadline(c->lapic), now, by;

	pthread_mutex_lock(&h->t.lock);
	now = host_tsc();
	count_still(h, now);
	h->left_tsc = MAX(h->left_tsc, now);
	by = h->still - o->still;
	o->still = h->still;
	pthread_mutex_unlock(&h->t.lock);
	if (!by)
		return;
	c->tsc_offset -= by;
	if (deadline)
		lapic_set_tsc_deadline(c->lapic, deadline);
}

void tcg_clock_left(struct tcg_cpu *c)
{
	struct tcg_host *h = tcg_host_of(c->t);
	u64 now;

	pthread_mutex_lock(&h->t.lock);
	now = host_tsc();
	h->left_tsc = MAX(h->left_tsc, now);
	pthread_mutex_unlock(&h->t.lock);
}

/* Host TSC that the guest's is taken at: when it stands still, of the moment it began to. */
static u64 reference(const struct tcg_host *h)
{
	return h->t.vm->clock.paused && h->still_known ? h->left_tsc : host_tsc();
}

u64 tcg_tsc_save(struct tcg_cpu *c)
{
	struct tcg_host *h = tcg_host_of(c->t);
	struct tcg_vcpu *o = tcg_vcpu_of(c);

	pthread_mutex_lock(&h->t.lock);
	o->saved_tsc = c->tsc_offset - (h->still - o->still) + reference(h);
	pthread_mutex_unlock(&h->t.lock);
	return o->saved_tsc;
}

/* vCPUs that are loaded one after the other had one TSC: an offset that is less than a second off that of the vCPU before is the same. */
void tcg_tsc_load(struct tcg_cpu *c, u64 value)
{
	struct tcg_host *h = tcg_host_of(c->t);
	struct tcg_vcpu *o = tcg_vcpu_of(c);
	u64 offset, second = c->t->tsc_khz * 1000;

	if (value == o->saved_tsc)
		return; /* this vCPU's own: it has run on if the clock has */
	pthread_mutex_lock(&h->t.lock);
	if (!h->still_known) {
		h->left_tsc = host_tsc();
		count_still(h, h->left_tsc);
	}
	offset = value - reference(h);
	if (h->tsc_synced && offset - h->tsc_offset + second <= 2 * second)
		offset = h->tsc_offset;
	h->tsc_synced = true;
	h->tsc_offset = offset;
	c->tsc_offset = offset;
	o->still = h->still;
	pthread_mutex_unlock(&h->t.lock);
}

/* ---- chips and clocks ---- */

static u64 realtime(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
}

int tcg_vm_pull(struct vm *vm, struct err *e)
{
	struct tcg_vm *t = tcg_vm_of(vm);
	u64 now = clock_now(vm);

	(void)e;
	chips_save(t->chips, &vm->chips->chips);
	vm->chips->clock = (struct x86_clock_state){
		.clock_ns = now,
		.kvmclock_ns = pvclock_at(t, tcg_tsc_save(t->cpus[0]), now),
		.realtime_ns = realtime(),
	};
	return 0;
}

/* KVM marks a vCPU that is not running there, in a page that the guest has for steal time; here nobody would take the mark away. */
static void clear_preempted(struct tcg_cpu *c)
{
	const u64 *msr = vcpu_kept_msr(c, 0x4b564d03);
	const u8 zero = 0;

	if (msr && *msr & 1)
		(void)!mem_write(&c->t->vm->mem, (*msr & ~63ull) + 16, &zero, sizeof(zero));
}

int tcg_vm_push(struct vm *vm, struct err *e)
{
	struct tcg_vm *t = tcg_vm_of(vm);

	(void)e;
	pvclock_load(t, tcg_tsc_save(t->cpus[0]), vm->chips->clock.kvmclock_ns);
	for (u32 i = 0; i < vm->nr_vcpus; i++) {
		pvclock_publish(t->cpus[i]);
		clear_preempted(t->cpus[i]);
	}
	chips_load(t->chips, &vm->chips->chips);
	return 0;
}
