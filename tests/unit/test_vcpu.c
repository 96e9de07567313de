/* test_vcpu.c: parking, resuming and ending vCPU threads, over an accelerator that only counts. Two VMs live in this process. */
#include "cm.h"

#include <sched.h>

#include "vmm/vm.h"

#define NR_VCPUS 4

struct fixture {
	struct vm vm;
	struct log log;
	struct trace trace;
	u64 turns[NR_VCPUS]; /* atomic */
	bool crash;	     /* vCPU 1 ends with a triple fault */
};

static enum vcpu_exit run(struct vcpu *v)
{
	struct fixture *f = container_of(v->vm, struct fixture, vm);

	while (!__atomic_load_n(&v->kicked, __ATOMIC_ACQUIRE)) {
		__atomic_fetch_add(&f->turns[v->index], 1, __ATOMIC_RELAXED);
		if (f->crash && v->index == 1)
			return VCPU_SHUTDOWN;
		sched_yield();
	}
	return VCPU_AGAIN;
}

static void kick(struct vcpu *v)
{
	__atomic_store_n(&v->kicked, 1, __ATOMIC_SEQ_CST);
}

static int vcpu_init(struct vcpu *v, struct err *e)
{
	(void)e;
	v->accel = v;
	return 0;
}

static void vcpu_fini(struct vcpu *v)
{
	v->accel = NULL;
}

static const struct accel_ops counting = {
	.name = "counting", .vcpu_init = vcpu_init, .vcpu_fini = vcpu_fini, .vcpu_run = run, .vcpu_kick = kick};

static void start(struct fixture *f)
{
	struct err e;

	log_init(&f->log, 2, LOG_OFF);
	f->vm = (struct vm){.accel = &counting, .log = &f->log, .trace = &f->trace};
	pthread_mutex_init(&f->vm.run_lock, NULL);
	pthread_cond_init(&f->vm.run_cond, NULL);
	assert_int_equal(loop_init(&f->vm.loop, &e), 0);
	assert_int_equal(vcpus_init(&f->vm, NR_VCPUS, &e), 0);
	assert_int_equal(vcpus_start(&f->vm, &e), 0);
}

static void stop(struct fixture *f)
{
	vcpus_stop(&f->vm);
	vcpus_fini(&f->vm);
	loop_fini(&f->vm.loop);
	pthread_cond_destroy(&f->vm.run_cond);
	pthread_mutex_destroy(&f->vm.run_lock);
}

static u64 turns(struct fixture *f)
{
	u64 sum = 0;

	for (u32 i = 0; i < NR_VCPUS; i++)
		sum += __atomic_load_n(&f->turns[i], __ATOMIC_RELAXED);
	return sum;
}

static void paused_vcpus_stand_still_and_go_on_after(void **state)
{
	struct fixture a = {0}, b = {0};

	(void)state;
	start(&a);
	start(&b);
	vcpus_resume(&b.vm);
	for (int i = 0; i < 200; i++) {
		u64 before = turns(&a), paused;

		vcpus_resume(&a.vm);
		while (turns(&a) == before)
			sched_yield();
		vcpus_pause(&a.vm);
		paused = turns(&a);
		sched_yield();
		assert_int_equal(turns(&a), paused);
	}
	assert_true(turns(&b) > 0);
	stop(&a);
	stop(&b);
}

static void a_crash_of_one_vcpu_ends_the_vm_once(void **state)
{
	struct fixture f = {.crash = true};

	(void)state;
	start(&f);
	vcpus_resume(&f.vm);
	loop_run(&f.vm.loop);
	vm_end(&f.vm, VM_END_REBOOT); /* too late: the first reason wins */
	stop(&f);
	assert_int_equal(f.vm.end, VM_END_CRASH);
	assert_int_equal(f.turns[1], 1);
}

static void stopping_a_vm_that_never_ran_is_fine(void **state)
{
	struct fixture f = {0};

	(void)state;
	start(&f);
	stop(&f);
	assert_int_equal(turns(&f), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(paused_vcpus_stand_still_and_go_on_after),
		cmocka_unit_test(a_crash_of_one_vcpu_ends_the_vm_once),
		cmocka_unit_test(stopping_a_vm_that_never_ran_is_fine),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
