/* vcpu.c: vCPU threads, and parking them; see vcpu.h. */
#include "vmm/vcpu.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/gdb.h"
#include "vmm/machine.h"
#include "vmm/vm.h"

int vcpus_init(struct vm *vm, u32 n, struct err *e)
{
	ASSERT(n > 0 && n <= VM_MAX_VCPUS);
	vm->vcpus = xzalloc(n * sizeof(*vm->vcpus));
	vm->nr_vcpus = n;
	for (u32 i = 0; i < n; i++) {
		struct vcpu *v = &vm->vcpus[i];
		int ret;

		v->vm = vm;
		v->index = i;
		v->cpu = machine_cpu_new();
		ret = vm->accel->vcpu_init(v, e);
		if (ret < 0)
			return err_prefix(e, "vCPU %u", i);
	}
	return 0;
}

void vcpus_fini(struct vm *vm)
{
	for (u32 i = 0; i < vm->nr_vcpus; i++) {
		if (vm->vcpus[i].accel)
			vm->accel->vcpu_fini(&vm->vcpus[i]);
		machine_cpu_free(vm->vcpus[i].cpu);
	}
	free(vm->vcpus);
	vm->vcpus = NULL;
	vm->nr_vcpus = 0;
}

static bool may_run(struct vcpu *v)
{
	struct vm *vm = v->vm;

	return __atomic_load_n(&vm->want_run, __ATOMIC_SEQ_CST) && !__atomic_load_n(&v->held, __ATOMIC_SEQ_CST) &&
	       __atomic_load_n(&vm->end, __ATOMIC_RELAXED) == VM_END_NONE;
}

/* Runs guest code until the VM is paused or ends. */
static void run_guest(struct vcpu *v)
{
	struct vm *vm = v->vm;

	/* Whoever pauses clears want_run (or sets held) first and kicks after; clearing `kicked` first and looking at them after cannot
	 * miss both. */
	while (__atomic_store_n(&v->kicked, 0, __ATOMIC_SEQ_CST), may_run(v)) {
		switch (vm->accel->vcpu_run(v)) {
		case VCPU_AGAIN:
			break;
		case VCPU_SHUTDOWN:
			log_warn(vm->log, "vCPU %u: triple fault: the guest crashed", v->index);
			vm_end(vm, VM_END_CRASH);
			break;
		case VCPU_RESET:
			vm_end(vm, VM_END_REBOOT);
			break;
		case VCPU_POWEROFF:
			vm_end(vm, VM_END_POWEROFF);
			break;
		case VCPU_ERROR:
			counter_add(&vm->counters.vcpu_failures, 1);
			vm_end(vm, VM_END_INTERNAL);
			break;
		case VCPU_DEBUG:
			gdb_vcpu_stopped(v);
			break;
		}
	}
}

static void *vcpu_thread(void *opaque)
{
	struct vcpu *v = opaque;
	struct vm *vm = v->vm;
	char name[16];

	snprintf(name, sizeof(name), "vcpu %u", v->index);
	pthread_setname_np(pthread_self(), name);
	sandbox_enter(vm->sandbox, SANDBOX_VCPU);
	pthread_mutex_lock(&vm->run_lock);
	for (;;) {
		v->parked = true;
		vm->nr_parked++;
		pthread_cond_broadcast(&vm->run_cond);
		while (!vm->want_stop && !may_run(v))
			pthread_cond_wait(&vm->run_cond, &vm->run_lock);
		if (vm->want_stop)
			break;
		vm->nr_parked--;
		v->parked = false;
		pthread_mutex_unlock(&vm->run_lock);
		run_guest(v);
		pthread_mutex_lock(&vm->run_lock);
	}
	pthread_mutex_unlock(&vm->run_lock);
	return NULL;
}

/* Threads start with signals blocked, so that those for the process go to the main thread; the accelerator unblocks its kick. */
int vcpus_start(struct vm *vm, struct err *e)
{
	sigset_t all, old;
	int ret = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	for (u32 i = 0; i < vm->nr_vcpus && !ret; i++) {
		ret = pthread_create(&vm->vcpus[i].thread, NULL, vcpu_thread, &vm->vcpus[i]);
		vm->vcpus[i].thread_started = ret == 0;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret)
		return err_set(e, -ret, "cannot start a vCPU thread: %s", strerror(ret));
	return 0;
}

void vcpus_resume(struct vm *vm)
{
	pthread_mutex_lock(&vm->run_lock);
	__atomic_store_n(&vm->want_run, true, __ATOMIC_SEQ_CST);
	pthread_cond_broadcast(&vm->run_cond);
	pthread_mutex_unlock(&vm->run_lock);
}

static u32 nr_started(const struct vm *vm)
{
	u32 n = 0;

	for (u32 i = 0; i < vm->nr_vcpus; i++)
		n += vm->vcpus[i].thread_started;
	return n;
}

/* Under run_lock: what keeps them from running is set. */
static void wait_until_parked(struct vm *vm)
{
	for (u32 i = 0; i < vm->nr_vcpus; i++) {
		if (vm->vcpus[i].thread_started)
			vm->accel->vcpu_kick(&vm->vcpus[i]);
	}
	while (vm->nr_parked < nr_started(vm))
		pthread_cond_wait(&vm->run_cond, &vm->run_lock);
}

void vcpus_pause(struct vm *vm)
{
	pthread_mutex_lock(&vm->run_lock);
	__atomic_store_n(&vm->want_run, false, __ATOMIC_SEQ_CST);
	wait_until_parked(vm);
	pthread_mutex_unlock(&vm->run_lock);
}

void vcpus_hold(struct vm *vm)
{
	pthread_mutex_lock(&vm->run_lock);
	for (u32 i = 0; i < vm->nr_vcpus; i++)
		__atomic_store_n(&vm->vcpus[i].held, true, __ATOMIC_SEQ_CST);
	wait_until_parked(vm);
	pthread_mutex_unlock(&vm->run_lock);
}

void vcpus_release(struct vm *vm, const bool *go)
{
	pthread_mutex_lock(&vm->run_lock);
	for (u32 i = 0; i < vm->nr_vcpus; i++) {
		if (go[i])
			__atomic_store_n(&vm->vcpus[i].held, false, __ATOMIC_SEQ_CST);
	}
	pthread_cond_broadcast(&vm->run_cond);
	pthread_mutex_unlock(&vm->run_lock);
}

void vcpus_stop(struct vm *vm)
{
	vcpus_pause(vm);
	pthread_mutex_lock(&vm->run_lock);
	vm->want_stop = true;
	pthread_cond_broadcast(&vm->run_cond);
	pthread_mutex_unlock(&vm->run_lock);
	for (u32 i = 0; i < vm->nr_vcpus; i++) {
		if (vm->vcpus[i].thread_started)
			pthread_join(vm->vcpus[i].thread, NULL);
		vm->vcpus[i].thread_started = false;
	}
	vm->nr_parked = 0;
}
