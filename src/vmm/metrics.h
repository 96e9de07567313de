/*
 * metrics.h: the counters of devices and vCPUs as JSON, one object per line: when the VM starts, every minute, and when it ends.
 *   {"utc_timestamp_ms":1,"vcpu":{"exits":12,...},"block_rootfs":{"read_count":3,...},"net_eth0":{...}}
 * Values are totals since the start. ctx: loop, or before and after vm_run
 */
#ifndef HUSK_METRICS_H
#define HUSK_METRICS_H

#include "vmm/loop.h"

struct vm;

struct metrics {
	struct vm *vm; /* borrowed; NULL = not started */
	int fd;	       /* owned */
	struct loop_timer timer;
};

/* Opens path (a file or FIFO, created if missing, not truncated) and writes the first line. */
int metrics_start(struct metrics *m, struct vm *vm, const char *path, struct err *e) MUST_CHECK;
/* Writes the last line and closes. Accepts zeroed. */
void metrics_stop(struct metrics *m);

#endif
