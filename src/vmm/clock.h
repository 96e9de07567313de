/* clock.h: the VM's time: monotonic nanoseconds that stand still while the VM is paused. ctx: any */
#ifndef HUSK_CLOCK_H
#define HUSK_CLOCK_H

#include "vmm/base/base.h"

struct vm;

struct clock {
	u64 base_ns;	  /* host monotonic time that reads as zero */
	u64 paused_at_ns; /* guest time of the pause, while paused */
	bool paused;
};

u64 clock_host_ns(void); /* CLOCK_MONOTONIC */
u64 clock_now(struct vm *vm);
/* ctx: loop, vCPUs parked */
void clock_pause(struct vm *vm);
void clock_resume(struct vm *vm);
/* A paused clock is to go on from here (restore, migration). ctx: before start */
void clock_set(struct vm *vm, u64 guest_ns);

#endif
