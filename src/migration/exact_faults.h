/*
 * exact_faults.h: while it lasts, a page fault on memory that a file is mapped over brings this page only. As a rule the kernel maps up to
 * 15 neighbours that are in the page cache, and reads more ahead. It stops that where a userfaultfd watches for writes (Linux 6.7); nothing
 * is ever watched for. On older kernels no more is read ahead, but neighbours are still mapped.
 */
#ifndef HUSK_EXACT_FAULTS_H
#define HUSK_EXACT_FAULTS_H

#include "vmm/mem.h"

struct exact_faults {
	int fd; /* owned; -1: not in force */
};

void exact_faults_begin(struct exact_faults *x, const struct mem *m);
void exact_faults_end(struct exact_faults *x, const struct mem *m); /* may be called again */

#endif
