/* pvclock.c: see pvclock.h. The structures: Linux arch/x86/include/asm/pvclock-abi.h. */
#include "tcg/pvclock.h"

#include <time.h>

#include "tcg/mmu.h"
#include "tcg/vcpu.h"
#include "tcg/x86_64/interp.h"

#define PV_ENABLE     1ull
#define PV_STABLE_BIT 1u
#define PV_STOPPED    2u /* the guest was stopped: its watchdogs are to know */

struct pv_time_info { /* struct pvclock_vcpu_time_info */
	u32 version, pad;
	u64 tsc_timestamp, system_time;
	u32 tsc_to_system_mul;
	int8_t tsc_shift;
	u8 flags, pad2[2];
};
_Static_assert(sizeof(struct pv_time_info) == 32, "the guest's layout");

struct pv_wall { /* struct pvclock_wall_clock */
	u32 version, sec, nsec;
};

/* ns = (ticks << shift) * mul >> 32, a negative shift going right; mul has its highest bit set. */
static void scale_for(u64 khz, u32 *mul, int8_t *shift)
{
	unsigned __int128 ns = (unsigned __int128)NSEC_PER_SEC << 32;
	u64 hz = khz * 1000;
	int s = 0;

	while (hz >> -s > 2 * NSEC_PER_SEC)
		s--;
	while (s >= 0 && hz << s <= NSEC_PER_SEC)
		s++;
	*shift = (int8_t)s;
	*mul = (u32)(s < 0 ? (ns << -s) / hz : ns / (hz << s));
}

static u64 ticks_to_ns(u64 ticks, u64 khz)
{
	return (u64)((unsigned __int128)ticks * 1000 * 1000 / khz);
}

/* The VM's pair; it begins when the first vCPU asks for its clock. */
static void get_pair(struct tcg_cpu *c, u64 *tsc, u64 *ns)
{
	struct tcg_host *h = tcg_host_of(c->t);

	pthread_mutex_lock(&h->t.lock);
	if (!h->pv_known) {
		h->pv_tsc = tcg_rdtsc(c);
		h->pv_ns = clock_now(h->t.vm);
		h->pv_known = true;
	}
	*tsc = h->pv_tsc;
	*ns = h->pv_ns;
	pthread_mutex_unlock(&h->t.lock);
}

/* Odd version: being written (a guest that reads meanwhile tries again). */
static bool publish_time(struct tcg_cpu *c, u64 gpa, u8 flags)
{
	struct mem *m = &c->t->vm->mem;
	struct pv_time_info *info = mem_ptr(m, gpa, sizeof(*info)), fresh = {.flags = flags};

	if (!info || gpa % 4)
		return false;
	get_pair(c, &fresh.tsc_timestamp, &fresh.system_time);
	scale_for(c->t->tsc_khz, &fresh.tsc_to_system_mul, &fresh.tsc_shift);
	c->pv_version = (c->pv_version + 2) & ~1u;
	fresh.version = c->pv_version - 1;
	__atomic_store_n(&info->version, fresh.version, __ATOMIC_SEQ_CST);
	__builtin_memcpy(info, &fresh, sizeof(fresh));
	__atomic_store_n(&info->version, c->pv_version, __ATOMIC_SEQ_CST);
	mem_dirty(m, gpa, sizeof(*info));
	return true;
}

/* Wall time at which the pair's clock was zero. */
static bool publish_wall(struct tcg_cpu *c, u64 gpa)
{
	struct mem *m = &c->t->vm->mem;
	struct pv_wall *wall = mem_ptr(m, gpa, sizeof(*wall));
	struct timespec now;
	u64 tsc, ns, boot;

	if (!wall || gpa % 4)
		return false;
	get_pair(c, &tsc, &ns);
	clock_gettime(CLOCK_REALTIME, &now);
	boot = (u64)now.tv_sec * NSEC_PER_SEC + (u64)now.tv_nsec - (ns + ticks_to_ns(tcg_rdtsc(c) - tsc, c->t->tsc_khz));
	__atomic_store_n(&wall->version, 1, __ATOMIC_SEQ_CST);
	wall->sec = (u32)(boot / NSEC_PER_SEC);
	wall->nsec = (u32)(boot % NSEC_PER_SEC);
	__atomic_store_n(&wall->version, 2, __ATOMIC_SEQ_CST);
	mem_dirty(m, gpa, sizeof(*wall));
	return true;
}

/*
 * Features that only a guest from kvm was shown (its CPUID came with it): their MSRs are kept for the way back. A hypervisor that never
 * does what they allow it to do is a correct one.
 */
static u64 *kept_msr(struct tcg_cpu *c, u32 msr)
{
	static const u8 feature[] = {[3] = 5 /* STEAL_TIME */, [4] = 6 /* PV_EOI */, [5] = 12 /* POLL_CONTROL */};
	const struct x86_cpuid *shown = x86_cpuid_find(&c->cpuid, 0x40000001, 0);
	u32 i = msr - MSR_KVM_WALL_CLOCK;

	if (i >= ARRAY_SIZE(feature) || !feature[i] || !shown || !(shown->eax >> feature[i] & 1))
		return NULL;
	fpu_save(c);
	return vcpu_kept_msr(c, msr);
}

bool pvclock_write_msr(struct tcg_cpu *c, u32 msr, u64 value)
{
	u64 *kept = kept_msr(c, msr);

	fpu_save(c);
	switch (msr) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_OLD:
		mmu_need(c, value, sizeof(struct pv_wall));
		if (!publish_wall(c, value))
			return false;
		c->pv_wall_msr = value;
		return true;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_OLD:
		if (value & PV_ENABLE)
			mmu_need(c, value & ~PV_ENABLE, sizeof(struct pv_time_info));
		if (value & PV_ENABLE && !publish_time(c, value & ~PV_ENABLE, PV_STABLE_BIT))
			return false;
		c->pv_time_msr = value;
		return true;
	default:
		if (kept)
			*kept = value;
		return kept;
	}
}

bool pvclock_read_msr(struct tcg_cpu *c, u32 msr, u64 *value)
{
	const u64 *kept = kept_msr(c, msr);

	switch (msr) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_OLD:
		*value = c->pv_wall_msr;
		return true;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_OLD:
		*value = c->pv_time_msr;
		return true;
	default:
		if (kept)
			*value = *kept;
		return kept;
	}
}

void pvclock_adopt(struct tcg_cpu *c)
{
	struct tcg_host *h = tcg_host_of(c->t);
	struct pv_time_info info;

	if (!(c->pv_time_msr & PV_ENABLE) || mem_read(&h->t.vm->mem, c->pv_time_msr & ~PV_ENABLE, &info, sizeof(info)) < 0)
		return;
	c->pv_version = info.version & ~1u;
	pthread_mutex_lock(&h->t.lock);
	if (!h->pv_known && info.tsc_to_system_mul) {
		h->pv_tsc = info.tsc_timestamp;
		h->pv_ns = info.system_time;
		h->pv_known = true;
	}
	pthread_mutex_unlock(&h->t.lock);
}

u64 pvclock_at(struct tcg_vm *t, u64 tsc, u64 clock_ns)
{
	struct tcg_host *h = tcg_host_of(t);
	u64 ns;

	pthread_mutex_lock(&h->t.lock);
	ns = !h->pv_known ? clock_ns : h->pv_ns + ((s64)(tsc - h->pv_tsc) > 0 ? ticks_to_ns(tsc - h->pv_tsc, t->tsc_khz) : 0);
	pthread_mutex_unlock(&h->t.lock);
	return ns;
}

void pvclock_load(struct tcg_vm *t, u64 tsc, u64 ns)
{
	struct tcg_host *h = tcg_host_of(t);

	pthread_mutex_lock(&h->t.lock);
	h->pv_tsc = tsc;
	h->pv_ns = ns;
	h->pv_known = true;
	pthread_mutex_unlock(&h->t.lock);
}

void pvclock_publish(struct tcg_cpu *c)
{
	if (c->pv_time_msr & PV_ENABLE)
		(void)publish_time(c, c->pv_time_msr & ~PV_ENABLE, PV_STABLE_BIT | PV_STOPPED);
}
