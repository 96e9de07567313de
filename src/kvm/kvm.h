/*
 * kvm.h: inside of the KVM accelerator. The rest of husk sees kvm_accel_ops only (vmm/accel.h).
 *
 *   vm->accel_data ─> struct kvm_vm    /dev/kvm, VM descriptor, dirty log
 *   vcpu->accel    ─> struct kvm_vcpu  vCPU descriptor, shared kvm_run page, dirty ring
 *
 * Files without an architecture in their name serve every architecture; kvm_arch_* is what each one adds (kvm_x86*.c, kvm_arm*.c), picked
 * by meson. Functions return 0 or -errno with e filled, unless said otherwise.
 */
#ifndef HUSK_KVM_H
#define HUSK_KVM_H

#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>

#include "vmm/vm.h"

/* A capability that husk cannot do without, and the first kernel that has it. */
struct kvm_need {
	int cap;
	const char *name, *since;
};

/*
 * How guest writes are logged. The ring holds one entry per dirtied page, so that collecting costs what was written and not what the guest
 * owns; but it must be chosen before the first vCPU: husk takes it when the configuration says track_dirty_pages, and the bitmap otherwise.
 */
struct kvm_dirty {
	u32 ring_entries;  /* per vCPU; 0 = bitmap */
	bool manual_clear; /* bitmap: reading and write-protecting again are two calls */
	/* KVM_DIRTY_LOG_INITIALLY_SET: switching on protects nothing yet; the first clear does, piece by piece */
	bool initially_set;
	pthread_mutex_t lock; /* guards what follows, and all rings; taken alone */
	bool on;
	bool overrun;		     /* a ring lost entries: no log can be trusted any more */
	u64 *pages[MEM_MAX_REGIONS]; /* owned. ring: pages collected and not fetched yet; bitmap: room for one KVM_GET_DIRTY_LOG */
};

struct kvm_vm {
	struct vm *vm;	/* borrowed */
	int dev_fd, fd; /* owned: /dev/kvm and the VM */
	u32 run_size;	/* bytes of the shared page of a vCPU */
	struct kvm_dirty dirty;
	struct kvm_arch_vm *arch; /* owned by kvm_arch_vm_fini */
};

#define KVM_NR_EXITS 64

struct kvm_vcpu {
	int fd;			    /* owned */
	struct kvm_run *run;	    /* owned mapping, shared with the kernel */
	struct kvm_dirty_gfn *ring; /* owned mapping, or NULL */
	u32 ring_next;		    /* next entry to look at; under dirty.lock */
	int tid;		    /* atomic: thread that runs this vCPU, for the kick; 0 before the first run */
	bool stopped;		    /* ctx: vcpu. left the guest on a kick: tell its clock before it goes on */
	/* How often KVM_RUN came back, by KVM_EXIT_*; the last takes larger ones. Written by the vCPU, read by anyone (relaxed) */
	u64 exits[KVM_NR_EXITS];
	u64 kicks;		    /* returns that a kick caused; like exits */
	struct kvm_arch_vcpu *arch; /* owned by kvm_arch_vcpu_fini */
};

static inline struct kvm_vm *kvm_vm_of(const struct vm *vm)
{
	return vm->accel_data;
}

/* kvm.c */
extern const struct accel_ops kvm_accel_ops;
/* KVM_CHECK_EXTENSION; 0 when absent. */
int kvm_cap(const struct kvm_vm *kv, int cap);
int kvm_enable_cap(const struct kvm_vm *kv, u32 cap, u64 arg, const char *name, struct err *e) MUST_CHECK;

/* kvm_<arch>_sandbox.c: requests of ioctl while the guest runs, 0-ended */
extern const u32 kvm_vcpu_ioctls[], kvm_loop_ioctls[];

/* kvm_vcpu.c: see accel.h */
int kvm_vcpu_init(struct vcpu *v, struct err *e);
void kvm_vcpu_fini(struct vcpu *v);
enum vcpu_exit kvm_vcpu_run(struct vcpu *v);
void kvm_vcpu_kick(struct vcpu *v);
/* Installs the empty handler of the signal that a kick sends. */
int kvm_kick_init(struct err *e) MUST_CHECK;
/* Lets that signal through to the calling thread. The mask before goes to old, unless NULL. */
void kvm_kick_unblock(sigset_t *old);

/* kvm_mem.c */
/* Chooses between ring and bitmap. ctx: before the first vCPU */
int kvm_dirty_init(struct kvm_vm *kv, struct err *e) MUST_CHECK;
void kvm_dirty_fini(struct kvm_vm *kv);
int kvm_mem_map(struct vm *vm, const struct mem_region *r, struct err *e);
int kvm_dirty_log(struct vm *vm, bool on, struct err *e);
int kvm_dirty_get(struct vm *vm, const struct mem_region *r, u64 *bitmap, struct err *e);
/* Empties the rings of all vCPUs, so that they can go on. ctx: any */
int kvm_dirty_drain(struct kvm_vm *kv, struct err *e);

/* kvm_irq.c */
void kvm_irq_line(struct vm *vm, u32 gsi, bool level);
int kvm_irqfd(struct vm *vm, int fd, u32 gsi, bool add, struct err *e);
int kvm_ioeventfd(struct vm *vm, int fd, u64 addr, u32 len, u64 value, bool add, struct err *e);

/* What an architecture adds (kvm_x86.c and its neighbours). */
/* kvm_*_hints.c: sentences for where /dev/kvm is missing, or forbidden. */
extern const char kvm_arch_missing[], kvm_arch_forbidden[];
extern const struct kvm_need kvm_arch_needs[]; /* ends with name NULL */
/* Is this KVM good for running a system, or does it only emulate? fd is /dev/kvm. */
int kvm_arch_selftest(int fd, struct err *e);
/* The number that KVM_IRQ_LINE has for a line of the machine. */
u32 kvm_arch_irq(u32 gsi);
/* Address space set-up and interrupt chips of a fresh VM. */
int kvm_arch_vm_init(struct kvm_vm *kv, struct err *e);
void kvm_arch_vm_fini(struct kvm_vm *kv);
int kvm_arch_vcpu_init(struct vcpu *v, struct err *e);
void kvm_arch_vcpu_fini(struct vcpu *v);
/* The guest's clock stood still: keep its watchdogs quiet. ctx: vcpu, before KVM_RUN */
void kvm_arch_clock_stopped(struct kvm_vcpu *kc);
/* Logs where the vCPU is and what it executes, for an exit that ends the VM. ctx: vcpu */
void kvm_arch_log_state(struct vcpu *v);
int kvm_arch_cpu_caps(struct vm *vm, struct arch_cpu_caps *caps, struct err *e);
int kvm_arch_pull(struct vcpu *v, struct err *e);
int kvm_arch_push(struct vcpu *v, struct err *e);
int kvm_arch_vm_pull(struct vm *vm, struct err *e);
int kvm_arch_vm_push(struct vm *vm, struct err *e);
/* accel.h: vcpu_debug; and a KVM_EXIT_DEBUG that came of it: VCPU_AGAIN when it is the guest's own affair. ctx: vcpu */
int kvm_arch_debug(struct vcpu *v, const struct vcpu_debug *d, struct err *e);
enum vcpu_exit kvm_arch_debug_exit(struct vcpu *v);

#endif
