/*
 * vm.h: one virtual machine. Everything mutable hangs off struct vm, so that one process can hold several.
 *
 *   vm_init:  accelerator -> memory -> vCPUs -> machine devices -> configured devices -> boot image
 *   vm_run:   vCPU threads start; the calling thread becomes the loop thread, until the guest or the host ends the VM
 *   vm_fini:  all of it backwards; accepts a half-built or zeroed vm
 */
#ifndef HUSK_VM_H
#define HUSK_VM_H

#include <pthread.h>

#include "vmm/accel.h"
#include "vmm/base/log.h"
#include "vmm/base/trace.h"
#include "vmm/bus.h"
#include "vmm/clock.h"
#include "vmm/device.h"
#include "vmm/loop.h"
#include "vmm/mem.h"
#include "vmm/metrics.h"
#include "vmm/vcpu.h"

struct config;
struct mmds_service;
struct machine; /* arch/<arch>/machine.c */

#define VM_MAX_VCPUS   64
#define VM_MAX_DEVICES 128

/* Why the VM ended. main maps these to exit codes (docs/cli.md). */
enum vm_end {
	VM_END_NONE,
	VM_END_POWEROFF,
	VM_END_REBOOT,
	VM_END_PANIC,	 /* the guest's kernel said so (pvpanic) */
	VM_END_CRASH,	 /* triple fault */
	VM_END_INTERNAL, /* the accelerator cannot go on */
	VM_END_HOST,	 /* a signal, the API or the console escape */
};

enum vm_state { VM_NOT_STARTED, VM_RUNNING, VM_PAUSED, VM_ENDED };

struct vm {
	const struct config *config; /* borrowed */
	struct log *log;	     /* borrowed */
	struct trace *trace;	     /* borrowed */
	const struct accel_ops *accel;
	void *accel_data;	 /* the accelerator's own */
	struct machine *machine; /* the architecture's own */
	struct mem mem;
	struct bus bus[2]; /* by enum bus_space */
	struct clock clock;
	struct loop loop;
	struct vcpu *vcpus; /* owned array */
	u32 nr_vcpus;
	struct device *devices[VM_MAX_DEVICES]; /* owned, in order of creation */
	u32 nr_devices;
	struct metrics metrics;
	struct vm_counters counters;
	struct sandbox *sandbox;   /* borrowed; NULL: none */
	struct mmds_service *mmds; /* borrowed; set between vm_init and vm_run. NULL: no metadata service */

	pthread_mutex_t run_lock; /* guards what follows */
	pthread_cond_t run_cond;
	enum vm_state state;
	bool want_run; /* vCPUs may enter guest mode; also read without the lock (atomic) as a hint */
	bool want_stop;
	u32 nr_parked;
	enum vm_end end; /* first reason wins */

	struct gdb *gdb;       /* owned; NULL: no debugger is wanted */
	struct vm_debug debug; /* its breakpoints in guest memory. Changed with all vCPUs parked */

	u64 start_ns, start_cpu_ns; /* when the VM was told to start (boot timer) */
};

/* Builds the VM that config describes. accel: NULL = as config says, auto included. */
int vm_init(struct vm *vm, const struct config *config, struct log *log, struct trace *trace, struct err *e) MUST_CHECK;
/* The same, and its threads are confined by sandbox (borrowed; NULL: they are not). */
int vm_init_confined(struct vm *vm, const struct config *config, struct log *log, struct trace *trace, struct sandbox *sandbox,
		     struct err *e) MUST_CHECK;
void vm_fini(struct vm *vm);
/* Starts the vCPUs and runs the loop on the calling thread until the VM ends. *end says why. */
int vm_run(struct vm *vm, enum vm_end *end, struct err *e) MUST_CHECK;
/* Ends the VM: the loop stops, vm_run returns. The first reason wins. ctx: any, async-signal-safe when why is VM_END_HOST */
void vm_end(struct vm *vm, enum vm_end why);
/* Parks the vCPUs, stops the VM's clock and has the devices finish or hold their I/O; the loop goes on. And back. A VM that is in that
 * state already stays as it is. ctx: loop */
void vm_pause(struct vm *vm);
void vm_resume(struct vm *vm);
/* Makes a device of a class and adds it to vm->devices. */
int vm_add_device(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct err *e) MUST_CHECK;
/* First device of the class name, or NULL. */
struct device *vm_find_device(struct vm *vm, const char *class_name);

#endif
