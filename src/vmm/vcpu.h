/*
 * vcpu.h: one virtual CPU: a thread that runs guest code through the accelerator and can be parked.
 */
#ifndef HUSK_VCPU_H
#define HUSK_VCPU_H

#include <pthread.h>

#include "vmm/base/err.h"
#include "vmm/debug.h"

struct cpu_state; /* canonical, accelerator-neutral: arch/<arch>/cpu.h */
struct vm;

/* What vcpu_run came back for. I/O was already sent to the bus. */
enum vcpu_exit {
	VCPU_AGAIN,    /* kicked, or nothing to do here: look at requests and run again */
	VCPU_SHUTDOWN, /* triple fault */
	VCPU_RESET,    /* the accelerator saw a reset request (PSCI) */
	VCPU_POWEROFF,
	VCPU_ERROR, /* the accelerator cannot go on; it logged why */
	VCPU_DEBUG, /* a debugger's: v->stop says why */
};

struct vcpu {
	struct vm *vm; /* borrowed */
	u32 index;
	struct cpu_state *cpu; /* owned; valid between vcpu_pull and vcpu_push, and before start */
	void *accel;	       /* the accelerator's own, NULL before vcpu_init */
	pthread_t thread;
	bool thread_started;
	bool parked;		/* under vm->run_lock */
	u8 kicked;		/* atomic: leave guest mode at the next chance */
	bool held;		/* atomic: the debugger keeps it parked, also when the VM runs */
	struct debug_stop stop; /* of the last VCPU_DEBUG; set by the accelerator */
};

/* Makes and frees vm->vcpus[0..n). ctx: before start */
int vcpus_init(struct vm *vm, u32 n, struct err *e) MUST_CHECK;
void vcpus_fini(struct vm *vm);
/* Starts the threads, which park at once. */
int vcpus_start(struct vm *vm, struct err *e) MUST_CHECK;
/* Lets all run / waits until all are parked (outside guest mode, all I/O done). ctx: loop */
void vcpus_resume(struct vm *vm);
void vcpus_pause(struct vm *vm);
/* For the debugger, beside the two above: parks all until they are let go / lets those go for which go[index] is true. ctx: loop */
void vcpus_hold(struct vm *vm);
void vcpus_release(struct vm *vm, const bool *go);
/* Parks for good and joins. ctx: loop */
void vcpus_stop(struct vm *vm);

#endif
