/* gdb.c: run control for the debugger: who runs, who is held, and why they stopped; see gdb.h and gdb_impl.h. */
#include <string.h>

#include "vmm/gdb_impl.h"

#define SIGNAL_INT  2u
#define SIGNAL_TRAP 5u

/* ---- state of vCPUs ---- */

struct cpu_state *gdb_cpu(struct gdb *g, u32 index, bool change)
{
	struct vcpu *v = &g->vm->vcpus[index];
	struct err e = {0};

	if (!g->held)
		return NULL;
	if (!g->fetched[index] && g->vm->accel->vcpu_pull(v, &e) < 0) {
		log_warn(g->vm->log, "gdb: %s", e.msg);
		return NULL;
	}
	g->fetched[index] = true;
	g->changed[index] |= change;
	return v->cpu;
}

/* A vCPU that was only looked at is not given back: KVM would start its timers anew. */
static int give_back(struct gdb *g, u32 index, struct err *e)
{
	int ret = g->changed[index] ? g->vm->accel->vcpu_push(&g->vm->vcpus[index], e) : 0;

	if (ret == 0)
		g->fetched[index] = g->changed[index] = false;
	return ret;
}

/* ---- holding ---- */

bool gdb_is_attached(const struct vm *vm)
{
	return vm->gdb && (vm->gdb->held || vm->gdb->client.fd >= 0);
}

void gdb_hold(struct gdb *g)
{
	if (g->held)
		return;
	vcpus_hold(g->vm);
	g->held = true;
	if (!g->vm->clock.paused) {
		clock_pause(g->vm);
		g->paused_clock = true;
	}
}

/* Of the vCPUs that stopped by themselves, the first; a breakpoint before a step, since gdb asks for no more than the one. */
static u32 who_stopped(const struct gdb *g)
{
	u32 who = UINT32_MAX;

	for (u32 i = 0; i < g->vm->nr_vcpus; i++) {
		enum debug_why why = g->vm->vcpus[i].stop.why;

		if (why != DEBUG_NONE && (who == UINT32_MAX || (why != DEBUG_STEP && g->vm->vcpus[who].stop.why == DEBUG_STEP)))
			who = i;
	}
	return who;
}

/* ctx: loop */
static void some_vcpu_stopped(struct loop_work *w)
{
	struct gdb *g = container_of(w, struct gdb, stop_work);
	u32 who;

	if (g->held)
		return; /* Ctrl-C was quicker */
	gdb_hold(g);
	who = who_stopped(g);
	if (who != UINT32_MAX)
		g->thread_g = g->thread_c = who;
	g->reply_len = 0;
	gdb_put_stop(g, SIGNAL_TRAP);
	gdb_send(g);
}

void gdb_vcpu_stopped(struct vcpu *v)
{
	struct gdb *g = v->vm->gdb;

	ASSERT(g);
	__atomic_store_n(&v->held, true, __ATOMIC_SEQ_CST);
	loop_post(&v->vm->loop, &g->stop_work);
}

void gdb_interrupt(struct gdb *g)
{
	if (g->held)
		return;
	gdb_hold(g);
	g->reply_len = 0;
	gdb_put_stop(g, SIGNAL_INT);
	gdb_send(g);
}

static void put_reason(struct gdb *g, const struct debug_stop *stop)
{
	static const char *const watch_names[] = {[2] = "watch", [3] = "rwatch", [4] = "awatch"};
	u32 i = stop->index % DEBUG_MAX_HW;

	if (stop->why == DEBUG_BREAK && g->knows_swbreak)
		gdb_put(g, "swbreak:;");
	else if (stop->why == DEBUG_HW && g->hw_type[i] >= 2 && g->hw_type[i] <= 4)
		gdb_put(g, "%s:%llx;", watch_names[g->hw_type[i]], (unsigned long long)g->hw[i].addr);
	else if (stop->why == DEBUG_HW && g->knows_hwbreak)
		gdb_put(g, "hwbreak:;");
}

void gdb_put_stop(struct gdb *g, u32 signal)
{
	gdb_put(g, "T%02xthread:%x;", signal, g->thread_g + 1);
	if (signal == SIGNAL_TRAP)
		put_reason(g, &g->vm->vcpus[g->thread_g].stop);
}

/* ---- letting go ---- */

static int prepare(struct gdb *g, u32 i, bool step, struct err *e)
{
	struct vcpu_debug d = {.step = step, .soft = g->vm->debug.nr_breaks};
	int ret = give_back(g, i, e);

	memcpy(d.hw, g->hw, sizeof(d.hw));
	return ret < 0 ? ret : g->vm->accel->vcpu_debug(&g->vm->vcpus[i], &d, e);
}

int gdb_resume(struct gdb *g, const struct gdb_resume *r)
{
	struct vm *vm = g->vm;
	struct err e = {0};
	int ret = 0;

	for (u32 i = 0; i < vm->nr_vcpus && ret == 0; i++)
		ret = prepare(g, i, r->step[i], &e);
	if (ret < 0) {
		log_warn(vm->log, "gdb: %s", e.msg);
		return ret;
	}
	for (u32 i = 0; i < vm->nr_vcpus; i++)
		vm->vcpus[i].stop = (struct debug_stop){0};
	g->held = false;
	if (g->paused_clock && vm->want_run)
		clock_resume(vm);
	g->paused_clock = false;
	vcpus_release(vm, r->run);
	return 0;
}

void gdb_detach(struct gdb *g)
{
	struct gdb_resume all = {0};

	memset(all.run, true, sizeof(all.run));
	gdb_hold(g);
	gdb_break_clear(g);
	/* What the accelerator refuses are registers that the debugger wrote. */
	if (gdb_resume(g, &all) == 0)
		return;
	memset(g->changed, false, sizeof(g->changed));
	if (gdb_resume(g, &all) < 0)
		vm_end(g->vm, VM_END_INTERNAL);
}

int gdb_start(struct vm *vm, struct err *e)
{
	struct gdb *g = vm->gdb;
	int ret;

	if (!g)
		return 0;
	g->stop_work.run = some_vcpu_stopped;
	ret = loop_watch(&vm->loop, &g->listener, EPOLLIN, e);
	if (ret < 0)
		return ret;
	gdb_hold(g);
	log_warn(vm->log, "the guest waits for a debugger: gdb -ex 'target remote %s'", g->address);
	return 0;
}
