/* vcpu.c: a vCPU's memory, its run loop, and HLT. */
#include "tcg/vcpu.h"

#include <linux/futex.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "arch/x86_64/chips.h"
#include "arch/x86_64/debugreg.h"
#include "tcg/exec.h"
#include "tcg/mmu.h"
#include "tcg/x86_64/interp.h"

#define ROW_SIZE      (TCG_NR_CTX * TCG_WINDOW_SIZE)
#define SHARED_SIZE   (TCG_STACK_SIZE + TCG_CPU_SIZE) /* stack and struct tcg_cpu, at the memfd's begin */
#define POLL_MAX_NS   50000ull
#define POLL_START_NS 20000ull
#define POLL_LEAST_NS 5000ull
#define PAT_RESET     0x0007040600070406ull /* SDM 3A table 12-12 */
/* Requests that end a sleep. The others wait: a vCPU that is out of the guest need not stop, nor flush at once. */
#define WAKE_MASK (TCG_REQ_KICK | TCG_REQ_IRQ | TCG_REQ_TIMER | TCG_REQ_SHOOT)

/* ---- memory ---- */

/* The lowest page of each stack stays unmapped: it guards against overruns. */
static int map_window(struct tcg_vcpu *o, u8 *row, u32 i, struct err *e)
{
	u8 *window = row + i * TCG_WINDOW_SIZE;
	off_t ctx = (off_t)(SHARED_SIZE + i * TCG_CTX_SIZE);
	int prot = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_FIXED;

	if (mmap(window + MEM_PAGE_SIZE, SHARED_SIZE - MEM_PAGE_SIZE, prot, flags, o->fd, MEM_PAGE_SIZE) == MAP_FAILED ||
	    mmap(window + SHARED_SIZE, TCG_CTX_SIZE, prot, flags, o->fd, ctx) == MAP_FAILED)
		return err_errno(e, "cannot map the vCPU's state");
	return 0;
}

static int map_row(struct tcg_vcpu *o, u8 **row, struct err *e)
{
	int ret = 0;

	o->fd = memfd_create("husk-vcpu", MFD_CLOEXEC);
	if (o->fd < 0 || ftruncate(o->fd, (off_t)(SHARED_SIZE + TCG_NR_CTX * TCG_CTX_SIZE)) < 0)
		return err_errno(e, "cannot make memory for the vCPU's state");
	*row = mmap(NULL, ROW_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (*row == MAP_FAILED)
		return err_errno(e, "cannot reserve address space for the vCPU's state");
	for (u32 i = 0; i < TCG_NR_CTX && !ret; i++)
		ret = map_window(o, *row, i, e);
	if (ret < 0)
		munmap(*row, ROW_SIZE);
	return ret;
}

static void unmap_row(struct tcg_cpu *c)
{
	munmap(c->window0, ROW_SIZE);
}

static void init_cpu(struct tcg_cpu *c, struct vcpu *v, u8 *row)
{
	c->window0 = row;
	c->v = v;
	c->t = tcg_vm_of(v->vm);
	c->lapic = chips_lapic(c->t->chips, v->index);
	c->before_trace = v->vm->trace && v->vm->trace->any ? fpu_save : NULL;
	c->poll = TCG_POLL_NONE;
	c->index_mask = (TCG_TLB_SIZE - 1ull) << MEM_PAGE_SHIFT;
	c->index_mask_ac = (TCG_AC_SIZE - 1ull) << MEM_PAGE_SHIFT;
	c->page_mask = ~(MEM_PAGE_SIZE - 1);
	c->pat = PAT_RESET;
	c->arith_mask = X86_FLAGS_ARITH;
	c->other_mask = ~(X86_FLAGS_ARITH | X86_FLAG_RF | X86_FLAG_VM);
	for (u32 i = 0; i < 256; i++) {
		c->with_if[i] = (u8)(i | X86_FLAG_IF >> 8);
		c->without_if[i] = (u8)(i & ~(X86_FLAG_IF >> 8));
	}
	c->bits31 = 31;
	c->bits63 = 63;
	c->jump_mask = (TCG_JUMP_SIZE - 1ull) << 1;
	c->k_jump_mask = (TCG_K_JUMP_SIZE - 1ull) << 1;
}

int tcg_vcpu_init(struct vcpu *v, struct err *e)
{
	struct tcg_host *h = tcg_host_of(tcg_vm_of(v->vm));
	struct tcg_vcpu *o = &h->vcpus[v->index];
	struct tcg_cpu *c;
	u8 *row;
	int ret;

	*o = (struct tcg_vcpu){.fd = -1, .timer.fd = -1, .injected = -1, .poll_ns = POLL_START_NS};
	o->mp = v->index == 0 ? X86_MP_RUNNABLE : X86_MP_UNINIT;
	ret = tcg_vm_complete(h, e);
	if (!ret)
		ret = map_row(o, &row, e);
	if (ret < 0) {
		fd_close(&o->fd);
		return ret;
	}
	c = (void *)(row + TCG_STACK_SIZE);
	init_cpu(c, v, row);
	c->arch_capabilities = CPUMODEL_ARCH_CAPABILITIES;
	cpumodel_features(&h->model, c->features); /* fpu_init looks at them; the guest's own come with its CPUID */
	mmu_reset(c);
	v->accel = c;
	pthread_mutex_lock(&h->t.lock);
	h->t.cpus[v->index] = c;
	h->t.nr_cpus++;
	pthread_mutex_unlock(&h->t.lock);
	ret = timer_add(h, v->index, e);
	if (!ret)
		ret = interp_init(c, e);
	if (!ret)
		ret = fpu_init(c, e);
	if (ret < 0)
		tcg_vcpu_fini(v);
	return ret;
}

void tcg_vcpu_fini(struct vcpu *v)
{
	struct tcg_cpu *c = v->accel;
	struct tcg_host *h;

	if (!c)
		return;
	h = tcg_host_of(c->t);
	pthread_mutex_lock(&h->t.lock);
	h->t.cpus[v->index] = NULL;
	h->t.nr_cpus--;
	for (u32 i = 0; i < TCG_C_NR; i++)
		h->totals[i] += c->counters[i];
	pthread_mutex_unlock(&h->t.lock);
	fd_close(&h->vcpus[v->index].timer.fd);
	fd_close(&h->vcpus[v->index].fd);
	interp_fini(c);
	fpu_fini(c);
	v->accel = NULL;
	unmap_row(c);
}

/* ---- sleeping ---- */

bool vcpu_take_startup(struct tcg_cpu *c)
{
	struct tcg_vcpu *o = tcg_vcpu_of(c);
	u8 vector = 0;

	if (lapic_take_events(c->lapic, LAPIC_EV_INIT, &vector) & LAPIC_EV_INIT) {
		bool bsp = c->v->index == 0;

		lapic_reset(c->lapic, bsp);
		sys_init_reset(c);
		o->mp = bsp ? X86_MP_RUNNABLE : X86_MP_INIT_RECEIVED;
		o->injected = -1;
		o->nmi_pending = false;
		c->halted = !bsp;
	}
	if (lapic_take_events(c->lapic, LAPIC_EV_SIPI, &vector) & LAPIC_EV_SIPI && o->mp == X86_MP_INIT_RECEIVED) {
		o->mp = X86_MP_SIPI_RECEIVED;
		o->sipi_vector = vector;
	}
	if (o->mp == X86_MP_SIPI_RECEIVED) {
		sys_sipi(c, o->sipi_vector);
		o->mp = X86_MP_RUNNABLE;
		c->halted = false;
	}
	return o->mp == X86_MP_RUNNABLE;
}

static bool may_run(struct tcg_cpu *c)
{
	return vcpu_take_startup(c) && (!c->halted || vcpu_has_event(c));
}

/* Until a request, or the timer. The timeout is absolute, and CLOCK_MONOTONIC's. */
static void futex_sleep(struct tcg_cpu *c)
{
	u64 deadline = tcg_vcpu_of(c)->timer.deadline;
	struct timespec at = {.tv_sec = (time_t)(deadline / NSEC_PER_SEC), .tv_nsec = (long)(deadline % NSEC_PER_SEC)};

	vcpu_timer_sleep(c);
	__atomic_store_n(&c->sleeping, 1, __ATOMIC_SEQ_CST);
	if (!(__atomic_load_n(&c->requests, __ATOMIC_SEQ_CST) & WAKE_MASK))
		syscall(SYS_futex, &c->sleeping, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, 1, deadline ? &at : NULL, NULL,
			FUTEX_BITSET_MATCH_ANY);
	__atomic_store_n(&c->sleeping, 0, __ATOMIC_SEQ_CST);
}

/* How long to spin next time: as long as spinning pays, and not at all for a guest that is idle. */
static void adapt_polling(struct tcg_vcpu *o, u64 waited_ns, bool slept)
{
	if (slept && waited_ns <= POLL_MAX_NS)
		o->poll_ns = MIN(MAX(o->poll_ns * 2, 2 * POLL_LEAST_NS), POLL_MAX_NS);
	else if (slept)
		o->poll_ns = o->poll_ns / 2 < POLL_LEAST_NS ? 0 : o->poll_ns / 2;
}

/* Something came: handled, as far as it is for a sleeping vCPU to do. True: go and run. */
static bool look(struct tcg_cpu *c)
{
	u32 taken = vcpu_take_requests(c, TCG_REQ_IRQ | TCG_REQ_TIMER | TCG_REQ_SHOOT | TCG_REQ_STOP);
	u64 deadline = tcg_vcpu_of(c)->timer.deadline;

	if (taken & TCG_REQ_TIMER || (deadline && vcpu_host_ns(c) >= deadline))
		vcpu_timer_check(c);
	return may_run(c) || __atomic_load_n(&c->requests, __ATOMIC_SEQ_CST) & TCG_REQ_KICK;
}

/* HLT, or waiting for SIPI. Out of the guest. */
static void sleep_until_event(struct tcg_cpu *c)
{
	struct tcg_vcpu *o = tcg_vcpu_of(c);
	u64 start = vcpu_host_ns(c), now = start;
	bool slept = false;

	__atomic_store_n(&c->counters[TCG_C_HALTS], c->counters[TCG_C_HALTS] + 1, __ATOMIC_RELAXED);
	while (!look(c)) {
		if (now - start < o->poll_ns) {
			for (u32 i = 0; i < 8; i++)
				__builtin_ia32_pause();
		} else {
			futex_sleep(c);
			slept = true;
		}
		now = vcpu_host_ns(c);
	}
	adapt_polling(o, now - start, slept);
	vcpu_timer_arm(c);
}

/* ---- running ---- */

static enum vcpu_exit leave_to_debugger(struct tcg_cpu *c)
{
	c->v->stop = (struct debug_stop){.why = c->debug.why, .index = c->debug.hits ? (u32)__builtin_ctz(c->debug.hits) : 0};
	c->debug.why = DEBUG_NONE;
	c->debug.hits = 0;
	return VCPU_DEBUG;
}

int tcg_vcpu_debug(struct vcpu *v, const struct vcpu_debug *d, struct err *e)
{
	struct tcg_cpu *c = v->accel;

	(void)e;
	c->debug = (struct tcg_debug){.step = d->step, .soft = d->soft};
	c->debug.dr7 = x86_debug_regs(d->hw, c->debug.dr);
	tcg_mode_update(c);
	return 0;
}

/*
 * For the page that the instruction at rip, or the delivery of an event, has met. Out of the guest: others may have their exclusive
 * sections meanwhile. Any request ends the wait, a kick too, so that a pause need not wait for the network; then the instruction is begun
 * anew, or later. TCG_REQ_SHOOT would end it at once: the caller sets it again.
 */
static void await_page(struct tcg_cpu *c)
{
	const struct mem *m = &c->t->vm->mem;
	const struct mem_region *r = mem_find(m, c->mmu.awaited, 1);

	__atomic_store_n(&c->counters[TCG_C_AWAITED], c->counters[TCG_C_AWAITED] + 1, __ATOMIC_RELAXED);
	vcpu_take_requests(c, TCG_REQ_FETCH | TCG_REQ_SHOOT);
	tcg_guest_leave(c);
	if (r)
		mem_await(m, r, c->mmu.awaited - r->gpa, 1, &tcg_cpu_home(c)->requests);
	tcg_guest_enter(c);
}

static enum vcpu_exit run(struct tcg_cpu *c)
{
	tcg_guest_enter(c);
	for (;;) {
		u32 requests = __atomic_load_n(&c->requests, __ATOMIC_SEQ_CST);

		if (c->triple_fault)
			return VCPU_SHUTDOWN;
		if (unlikely(c->debug.why))
			return leave_to_debugger(c);
		if (requests & TCG_REQ_KICK) {
			vcpu_take_requests(c, TCG_REQ_KICK);
			return VCPU_AGAIN;
		}
		if (requests & TCG_REQ_STOP) {
			vcpu_take_requests(c, TCG_REQ_STOP);
			tcg_guest_leave(c);
			tcg_guest_enter(c);
		}
		if (unlikely(requests & TCG_REQ_FETCH))
			await_page(c);
		if (!may_run(c)) {
			tcg_guest_leave(c);
			sleep_until_event(c);
			tcg_guest_enter(c);
			continue;
		}
		vcpu_look_again(c);
		tcg_exec(c);
		fpu_save(c);
	}
}

enum vcpu_exit tcg_vcpu_run(struct vcpu *v)
{
	struct tcg_cpu *c = v->accel;
	enum vcpu_exit exit;
	struct err e = {0};

	if (exec_thread_init(c, &e) < 0) {
		log_error(v->vm->log, "vCPU %u: %s", v->index, e.msg);
		return VCPU_ERROR;
	}
	tcg_clock_follow(c);
	exit = run(c);
	tcg_guest_leave(c);
	tcg_clock_left(c);
	exec_thread_fini();
	return exit;
}

void tcg_vcpu_kick(struct vcpu *v)
{
	tcg_request(v->accel, TCG_REQ_KICK);
}
