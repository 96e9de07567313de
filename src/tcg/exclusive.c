/*
 * exclusive.c: sections in which all vCPUs of a VM stand still outside guest code; see tcg.h.
 *
 * A vCPU is `in_guest` from tcg_guest_enter to tcg_guest_leave: while it runs guest code, or code on its behalf that relies on the TLB. It
 * is out while it sleeps, while it is parked, and while it is in a device: the loop thread may want a section with that device's lock in
 * its hands. Who wants a section is out itself until it is his turn; so two that want one at once do not wait for each other.
 */
#include "tcg/mmu.h"
#include "tcg/vcpu.h"
#include "tcg/x86_64/interp.h"

/* ctx: t->lock held */
static void leave(struct tcg_vm *t, struct tcg_cpu *c)
{
	if (!c->in_guest)
		return;
	c->in_guest = false;
	if (--t->nr_in_guest == 0)
		pthread_cond_broadcast(&t->cond);
}

/* ctx: t->lock held, no section */
static void enter(struct tcg_vm *t, struct tcg_cpu *c)
{
	if (c->in_guest)
		return;
	c->in_guest = true;
	t->nr_in_guest++;
}

/* What a section of somebody else left for this vCPU to do: before it uses its TLB again. */
static void take_flushes(struct tcg_cpu *c)
{
	u32 taken = 0;

	if (__atomic_load_n(&c->requests, __ATOMIC_SEQ_CST) & (TCG_REQ_FLUSH | TCG_REQ_FLUSH_W))
		taken = __atomic_fetch_and(&c->requests, ~(TCG_REQ_FLUSH | TCG_REQ_FLUSH_W), __ATOMIC_SEQ_CST);
	if (taken & TCG_REQ_FLUSH)
		mmu_flush_all(c);
	else if (taken & TCG_REQ_FLUSH_W)
		mmu_flush_writable(c);
}

void tcg_guest_enter(struct tcg_cpu *c)
{
	struct tcg_vm *t = c->t;
	struct tcg_host *h = tcg_host_of(t);

	c = tcg_cpu_home(c);
	pthread_mutex_lock(&t->lock);
	while (h->exclusive)
		pthread_cond_wait(&t->cond, &t->lock);
	enter(t, c);
	pthread_mutex_unlock(&t->lock);
	take_flushes(c);
}

void tcg_guest_leave(struct tcg_cpu *c)
{
	pthread_mutex_lock(&c->t->lock);
	leave(c->t, tcg_cpu_home(c));
	pthread_mutex_unlock(&c->t->lock);
}

void tcg_exclusive_begin(struct tcg_vm *t, struct tcg_cpu *c)
{
	struct tcg_host *h = tcg_host_of(t);

	if (c) {
		fpu_save(c);
		c = tcg_cpu_home(c);
	}
	pthread_mutex_lock(&t->lock);
	if (c)
		leave(t, c);
	while (h->exclusive)
		pthread_cond_wait(&t->cond, &t->lock);
	h->exclusive = true;
	t->alone = c;
	for (u32 i = 0; i < ARRAY_SIZE(t->cpus); i++) {
		if (t->cpus[i] && t->cpus[i] != c && t->cpus[i]->in_guest)
			tcg_request(t->cpus[i], TCG_REQ_STOP);
	}
	while (t->nr_in_guest)
		pthread_cond_wait(&t->cond, &t->lock);
	pthread_mutex_unlock(&t->lock);
	if (c)
		take_flushes(c);
}

void tcg_exclusive_end(struct tcg_vm *t, struct tcg_cpu *c)
{
	pthread_mutex_lock(&t->lock);
	tcg_host_of(t)->exclusive = false;
	t->alone = NULL;
	/* Straight back in, also when others wait: they ask for it to stop. */
	if (c)
		enter(t, tcg_cpu_home(c));
	pthread_cond_broadcast(&t->cond);
	pthread_mutex_unlock(&t->lock);
}
