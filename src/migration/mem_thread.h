/*
 * mem_thread.h: a thread that works on guest memory beside the VM ("husk-pager"): a pager, whoever watches one, a prefetch. It starts
 * before the accelerator knows the memory, so before the sandbox closes, confines itself, and ends at the latest in mem_fini.
 */
#ifndef HUSK_MEM_THREAD_H
#define HUSK_MEM_THREAD_H

#include <poll.h>

#include "vmm/vm.h"

struct mem_thread {
	struct mem_helper helper; /* mem_fini ends the thread */
	struct vm *vm;		  /* borrowed */
	int stop_fd;		  /* owned eventfd: readable when run is to return */
	pthread_t id;
	bool started, confine;
	void (*run)(struct mem_thread *t);  /* ctx: the thread */
	void (*free)(struct mem_thread *t); /* after run has returned, or when it was never started: releases the owner */
};

/* Fills t and hands it to the memory: t->free is called in any case from now on, by mem_fini. */
void mem_thread_init(struct mem_thread *t, struct vm *vm, void (*run)(struct mem_thread *), void (*free)(struct mem_thread *));
int mem_thread_start(struct mem_thread *t, struct err *e) MUST_CHECK;
/* poll(2) on up to four descriptors, which also ends when the thread is to end: then false, and in no other case. timeout_ms: -1: none.
 * ctx: the thread */
bool mem_thread_poll(struct mem_thread *t, struct pollfd *fds, u32 nr, int timeout_ms);

#endif
