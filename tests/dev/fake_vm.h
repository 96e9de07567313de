/*
 * fake_vm.h: a VM without vCPUs for device tests and fuzzers: real guest memory, real bus, real loop (on its own thread, once started), and
 * an accelerator table that counts interrupts. The calling thread plays the vCPU. Set HUSK_TEST_TRACE='virtio_*' in the environment to see
 * trace events.
 */
#ifndef HUSK_TESTS_FAKE_VM_H
#define HUSK_TESTS_FAKE_VM_H

#include "vmm/config.h"
#include "vmm/vm.h"

/* Two RAM regions, so that 64-bit addresses and ranges that leave RAM can be had. */
#define FAKE_RAM_LOW	   (256 * MIB) /* at 0; sparse */
#define FAKE_RAM_HIGH_BASE (4 * GIB)
#define FAKE_RAM_HIGH	   (64 * MIB)
#define FAKE_MMIO_BASE	   0xc0001000ull /* slot n sits at n * 4 KiB above */
#define FAKE_FIRST_GSI	   5u
#define FAKE_GSIS	   64u
#define FAKE_IOEVENTFDS	   64u

/* fake_vm_init flags */
#define FAKE_VM_IOEVENTFD 1u /* the accelerator offers ioeventfd: kicks do not go through the register file */
#define FAKE_VM_QUIET	  2u /* log nothing (tests that provoke hundreds of warnings) */

struct fake_vm {
	struct vm vm;
	struct log log;
	struct trace trace;
	struct config config;	    /* zeroed, but for the machine */
	struct cfg_machine machine; /* zeroed */
	pthread_t loop_thread;
	bool running;
	u64 next_gpa;	      /* of fake_vm_alloc */
	u32 edges[FAKE_GSIS]; /* atomic: rising edges seen per GSI */
	u32 nr_ioeventfds;
	struct {
		u64 addr, value;
		int fd;
	} ioeventfds[FAKE_IOEVENTFDS];
};

void fake_vm_init(struct fake_vm *f, u32 flags);
/* Makes a device of the class in the next virtio-mmio slot. NULL when create failed; *e (may be NULL) says why. Before fake_vm_start. */
struct device *fake_vm_add_err(struct fake_vm *f, const struct device_class *cls, const void *cfg, struct err *e);
/* The same for tests that need it to work. */
struct device *fake_vm_add(struct fake_vm *f, const struct device_class *cls, const void *cfg);
/* Calls each device's start and runs the loop on its own thread. */
void fake_vm_start(struct fake_vm *f);
/* Stops the loop, destroys the devices, frees the rest. */
void fake_vm_fini(struct fake_vm *f);

/* Zeroed guest memory of low RAM, never freed; align is a power of two. */
u64 fake_vm_alloc(struct fake_vm *f, u64 size, u64 align);
/* Host address of guest memory that must be RAM. */
void *fake_vm_ptr(struct fake_vm *f, u64 gpa, u64 len);

/* A failure of the host or of the test itself: says what and aborts. e may be NULL. */
_Noreturn void fake_die(const char *what, const struct err *e);

#endif
