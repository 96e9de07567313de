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
#include "vmm/passed.h"
#include "vmm/vcpu.h"

struct config;
struct json_object;
struct mmds_service;
struct machine;	   /* arch/<arch>/machine.c */
struct chip_state; /* canonical, accelerator-neutral: arch/<arch>/vm_state.h */

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
	VM_END_MOVED,	 /* it runs on in another husk */
};

/* Where the VM's state comes from. */
enum vm_origin {
	VM_BOOTED,
	VM_RESTORED, /* a copy of a VM that may run on, or be copied again: new generation id, new randomness */
	VM_MOVED,    /* the VM itself, from another process or host */
};

/* How a VM gets its state when it does not boot. ctx: before start */
struct vm_restore {
	enum vm_origin origin;
	bool paused;	       /* vm_run leaves the vCPUs parked until vm_resume */
	u64 host_tsc_khz;      /* rate of this host's TSC, when it is known from before; else 0 */
	bool realtime;	       /* the guest's clocks advance by the wall-clock time since they were saved */
	bool keep_generation;  /* of a VM_RESTORED one: it is the only one that goes on from this state, and keeps its generation id */
	struct passed *passed; /* borrowed: descriptors that came with it, for vm_inherit; NULL: none */
	void *opaque;
	/* The regions are mapped, empty unless PASSED_MEMORY came; the accelerator does not know them yet: puts their contents there. */
	int (*memory)(struct vm *vm, void *opaque, struct err *e);
	/* Everything is made as the configuration says: loads every section, in place of machine_boot. */
	int (*state)(struct vm *vm, void *opaque, struct err *e);
	/* May be NULL. The guest is about to run (or stays paused): vm_fini of this VM no longer leaves everything as it was. */
	void (*started)(struct vm *vm, void *opaque);
};

struct vm_options {
	struct sandbox *sandbox;	  /* borrowed; NULL: threads are not confined */
	const struct vm_restore *restore; /* borrowed until vm_run has started the VM; NULL: the VM boots */
	/* Borrowed: what the VM is configured with, now: the API notes changes in it. It goes into snapshots; NULL: there can be none. */
	struct json_object *const *document;
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
	struct chip_state *chips; /* owned; valid between vm_pull and vm_push */
	struct vcpu *vcpus;	  /* owned array */
	u32 nr_vcpus;
	struct device *devices[VM_MAX_DEVICES]; /* owned, in order of creation */
	u32 nr_devices;
	struct metrics metrics;
	struct vm_counters counters;
	struct sandbox *sandbox;	  /* borrowed; NULL: none */
	const struct vm_restore *restore; /* borrowed; NULL: it booted, or runs already */
	enum vm_origin origin;
	struct json_object *const *document; /* borrowed; see vm_options */
	struct mmds_service *mmds;	     /* borrowed; set between vm_init and vm_run. NULL: no metadata service */
	u64 memory_id;			     /* snapshot that the record of dirty pages counts from; 0: none. ctx: loop */
	u64 drain_ns;			     /* what the last vm_pause took. ctx: loop */
	/* It runs in another husk, or may, or comes from there: vm_resume leaves it halted. ctx: loop */
	bool elsewhere;
	/* The other husk is on this host and has what this one has open: nothing of that is removed, or written back for it. ctx: loop, or
	 * when it is over */
	bool handed_over;

	pthread_mutex_t run_lock; /* guards what follows */
	pthread_cond_t run_cond;
	enum vm_state state;
	bool want_run; /* vCPUs may enter guest mode; also read without the lock (atomic) as a hint */
	bool want_stop;
	u32 nr_parked;
	enum vm_end end; /* first reason wins */

	struct gdb *gdb;       /* owned; NULL: no debugger is wanted */
	struct vm_debug debug; /* its breakpoints in guest memory. Changed with all vCPUs parked */

	u64 host_tsc_khz;	    /* rate of the host's TSC, once an accelerator has measured it; else 0 */
	u64 start_ns, start_cpu_ns; /* when the VM was told to start (boot timer) */
};

/* Builds the VM that config describes. accel: NULL = as config says, auto included. */
int vm_init(struct vm *vm, const struct config *config, struct log *log, struct trace *trace, struct err *e) MUST_CHECK;
/* The same with options (borrowed as they say; the struct itself only during the call). */
int vm_init_options(struct vm *vm, const struct config *config, struct log *log, struct trace *trace, const struct vm_options *options,
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
/* device_class.claim of all devices. mine false never fails. ctx: loop, paused, or before start */
int vm_claim(struct vm *vm, bool mine, struct err *e) MUST_CHECK;
/* Whether it comes from another husk, which has its disks until vm_claim. ctx: before start */
static inline bool vm_arrives(const struct vm *vm)
{
	return vm->restore && vm->origin == VM_MOVED;
}
/* The descriptor of that name that came with this VM, the caller's from now on; -1: none. value: see passed.h, may be NULL. For create. */
int vm_inherit(struct vm *vm, const char *name, u64 *value);
/* device_class.pass of all devices, and the memory. ctx: loop */
int vm_pass(struct vm *vm, struct passed *out, struct err *e) MUST_CHECK;
/* Makes a device of a class and adds it to vm->devices. */
int vm_add_device(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct err *e) MUST_CHECK;
/* First device of the class name, or NULL. */
struct device *vm_find_device(struct vm *vm, const char *class_name);
/* Asks the machine's own device of that class for what it does at op ("/power-button"), which needs no body. -ENODEV: this machine has no
 * such device; others: the device's, in e. ctx: loop */
int vm_ask_device(struct vm *vm, const char *class_name, const char *op, struct err *e);

#endif
