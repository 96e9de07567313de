/*
 * vcpu.h: what vcpu*.c, state.c, timer.c and tcg.c share, and nobody else needs: the host's side of a vCPU of the tcg accelerator.
 *
 * Who looks at what: requests are bits that any thread sets (tcg_request). Translated code looks at c->poll only; after it left,
 * vcpu_deliver sets poll back and takes the requests that it deals with.
 */
#ifndef HUSK_TCG_VCPU_H
#define HUSK_TCG_VCPU_H

#include "tcg/cpumodel.h"
#include "tcg/tcg.h"

/* MSRs that do nothing under tcg; what was saved in them under kvm is kept for the way back. */
#define TCG_KEPT_MSRS 64u

/*
 * The LAPIC timer. Guests move it all the time, mostly to later: the timerfd is set only when it has to fire earlier than it is set to, and
 * a vCPU that sleeps has its futex's timeout instead. What it fires for is looked up then.
 */
struct tcg_timer {
	int fd;			   /* owned timerfd, in the VM's epoll set */
	u64 deadline;		   /* CLOCK_MONOTONIC ns, 0 = none. ctx: vcpu */
	u64 armed;		   /* atomic: what the timerfd is set to, 0 = it is not */
	u64 anchor_tsc, anchor_ns; /* one moment on both clocks, at most 10 ms ago. ctx: vcpu */
};

struct tcg_vcpu {
	int fd;		      /* owned memfd behind the windows */
	enum x86_mp_state mp; /* but for HALTED, which is c->halted */
	u8 sipi_vector;	      /* of SIPI_RECEIVED */
	s32 injected;	      /* a vector that the LAPIC handed out and that is still to be delivered, or -1 */
	bool nmi_pending;     /* one that did not come through the LAPIC (loaded state) */
	u64 still;	      /* of tcg_host.still, what tsc_offset has of it */
	u64 saved_tsc;	      /* what was read last for a state; 0: none */
	u64 poll_ns;	      /* how long HLT spins before it sleeps */
	struct tcg_timer timer;
	u64 kept[TCG_KEPT_MSRS]; /* state.c: by position in its list */
};

/* struct tcg_vm and what belongs to the host's side of it. */
struct tcg_host {
	struct tcg_vm t; /* vm->accel_data */
	struct tcg_vcpu vcpus[VM_MAX_VCPUS];
	bool exclusive;		 /* under t.lock: somebody has the exclusive section */
	struct cpumodel_tsc tsc; /* begin of the measurement; t.tsc_khz is its result (tcg_know_tsc) */
	u64 guest_khz;		 /* what a loaded guest takes the frequency for, 0 = t.tsc_khz */
	/* timer.c */
	int epoll_fd, stop_fd; /* owned */
	pthread_t timer_thread;
	bool timer_started;
	/* pvclock.c: the pair that all vCPUs publish, under t.lock */
	bool pv_known;
	u64 pv_tsc, pv_ns;
	/* clocks.c, under t.lock: host TSC when a vCPU was in the guest last, ticks for which the VM's clock has stood still, and the
	 * vm->clock.base_ns that they were counted for */
	u64 left_tsc, still, still_base;
	bool still_known;
	/* TSC offset of the vCPU loaded last, for the others to have the same */
	bool tsc_synced;
	u64 tsc_offset;
	struct x86_cpuid_table model; /* cpumodel_build */
	u64 totals[TCG_C_NR];	      /* counters of the vCPUs that are gone */
};

static inline struct tcg_host *tcg_host_of(const struct tcg_vm *t)
{
	return container_of(t, struct tcg_host, t);
}
static inline struct tcg_vcpu *tcg_vcpu_of(const struct tcg_cpu *c)
{
	return &tcg_host_of(c->t)->vcpus[c->v->index];
}
/* The address under which the vCPU's state is known to other threads: in window 0. A pointer into another window is as good, but for
 * comparing and for futexes. */
static inline struct tcg_cpu *tcg_cpu_home(const struct tcg_cpu *c)
{
	return (struct tcg_cpu *)(void *)(c->window0 + TCG_STACK_SIZE);
}

/* ---- tcg.c ---- */
/* What can be made only when memory and the number of vCPUs are known: interrupt chips, code cache. Called for each vCPU; once is enough.
 */
int tcg_vm_complete(struct tcg_host *h, struct err *e) MUST_CHECK;
/* Makes t.tsc_khz known. */
int tcg_know_tsc(struct tcg_host *h, struct err *e) MUST_CHECK;

/* ---- vcpu.c: see accel.h ---- */
int tcg_vcpu_init(struct vcpu *v, struct err *e);
void tcg_vcpu_fini(struct vcpu *v);
enum vcpu_exit tcg_vcpu_run(struct vcpu *v);
void tcg_vcpu_kick(struct vcpu *v);
int tcg_vcpu_debug(struct vcpu *v, const struct vcpu_debug *d, struct err *e);
/* Takes INIT and SIPI that the LAPIC has: the vCPU is then waiting for SIPI, or starts. True: it may run. ctx: vcpu or parked */
bool vcpu_take_startup(struct tcg_cpu *c);

/* ---- vcpu_irq.c, lean ---- */
/* vcpu_deliver: exec.h */
/* Something to do for a vCPU that is halted: an exception, NMI, INIT, or an interrupt that IF lets through. */
bool vcpu_has_event(struct tcg_cpu *c);
/* Takes (clears) the requests that mean "look again". The poll word is NONE after it when no other is left and none came meanwhile. */
u32 vcpu_take_requests(struct tcg_cpu *c, u32 mask);
/* Makes the next tcg_exec look at what is pending. */
void vcpu_look_again(struct tcg_cpu *c);
/* CLOCK_MONOTONIC, without libc. */
u64 vcpu_host_ns(struct tcg_cpu *c);
/* chips_ops */
void vcpu_wake(void *opaque, u32 cpu);
void vcpu_set_timer(void *opaque, u32 cpu, u64 host_ns);
u64 vcpu_rdtsc(void *opaque, u32 cpu);
u64 vcpu_tsc_to_host_ns(void *opaque, u32 cpu, u64 tsc);
/* The LAPIC timer fires if its time has come; else the timerfd is set for it. */
void vcpu_timer_check(struct tcg_cpu *c);
/* Sets the timerfd if it does not fire early enough; sleep: takes it back, the futex has a timeout. */
void vcpu_timer_arm(struct tcg_cpu *c);
void vcpu_timer_sleep(struct tcg_cpu *c);

/* ---- timer.c ---- */
int timer_start(struct tcg_host *h, struct err *e) MUST_CHECK;
void timer_stop(struct tcg_host *h); /* accepts half-built */
int timer_add(struct tcg_host *h, u32 cpu, struct err *e) MUST_CHECK;

/* ---- exclusive.c ---- */
/* Around guest code and whatever else relies on the software TLB. Between leave and enter others may have flushed it: enter does what they
 * asked for. Both accept a vCPU that is out, or in, already. ctx: vcpu */
void tcg_guest_enter(struct tcg_cpu *c);
void tcg_guest_leave(struct tcg_cpu *c);

/* ---- state.c ---- */
int tcg_vcpu_pull(struct vcpu *v, struct err *e);
int tcg_vcpu_push(struct vcpu *v, struct err *e);
/* An MSR of KVM that does nothing under tcg but is kept (steal time, PV EOI ...), or NULL. */
u64 *vcpu_kept_msr(struct tcg_cpu *c, u32 msr);
/* Those that can be loaded; returns how many (at most X86_MSR_MAX). */
u32 tcg_msr_list(u32 *out);

/* ---- clocks.c ---- */
/* TSC follows the VM's clock: what it would have counted while the VM stood still is taken back. ctx: vcpu, before guest code */
void tcg_clock_follow(struct tcg_cpu *c);
/* The other end of that. ctx: vcpu, after guest code */
void tcg_clock_left(struct tcg_cpu *c);
/* The guest's TSC now, and setting it: it goes on from the value when the VM's clock does. ctx: the vCPU is parked */
u64 tcg_tsc_save(struct tcg_cpu *c);
void tcg_tsc_load(struct tcg_cpu *c, u64 value);
/* accel.h */
int tcg_vm_pull(struct vm *vm, struct err *e);
int tcg_vm_push(struct vm *vm, struct err *e);

#endif
