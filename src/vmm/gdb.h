/*
 * gdb.h: a debugger for the guest: gdb's remote protocol on a socket. Each vCPU is a thread; when one stops, all do (all-stop).
 * It runs on the loop thread. While it holds the guest, each vCPU's `held` keeps it parked, whatever vcpus_resume says.
 */
#ifndef HUSK_GDB_H
#define HUSK_GDB_H

#include "vmm/base/err.h"

struct vm;
struct vcpu;

/* Whether this is a place to listen at: a path, or a loopback address and a port: 127.0.0.1:1234, localhost:1234, [::1]:1234, :1234. */
bool gdb_address_ok(const char *address);

/* Listens at address. ctx: before start. On failure nothing is left behind; gdb_fini accepts a VM without one. */
int gdb_init(struct vm *vm, const char *address, struct err *e) MUST_CHECK;
void gdb_fini(struct vm *vm);
/* Holds the guest before its first instruction, until a debugger comes and lets it run. Does nothing without gdb_init. ctx: loop */
int gdb_start(struct vm *vm, struct err *e) MUST_CHECK;
/* Whether a debugger is there, or the guest waits for one. ctx: loop */
bool gdb_is_attached(const struct vm *vm);
/* The VM has ended: tells the debugger and hangs up. ctx: loop */
void gdb_end(struct vm *vm);

/* What it asks of the kernel once the guest runs: sandbox.h. */
extern const char *const gdb_syscalls[];

/* A vCPU came back with VCPU_DEBUG; v->stop says why. It parks. ctx: that vCPU */
void gdb_vcpu_stopped(struct vcpu *v);

#endif
