/*
 * loop.h: the event loop (epoll) on which queues, timers and backends run. One per VM, one thread: the one that calls loop_run.
 * Handlers must not block.
 */
#ifndef HUSK_LOOP_H
#define HUSK_LOOP_H

#include <pthread.h>
#include <sys/epoll.h>

#include "vmm/base/err.h"

#define LOOP_EVENTS_PER_TURN 32

struct loop;

/* A watched descriptor. Embed it, or keep it in the owner; it stays the owner's and must outlive its being watched. */
struct loop_fd {
	int fd;
	void (*ready)(struct loop_fd *w, u32 events); /* ctx: loop */
	struct loop *loop;			      /* set while watched */
};

/* A one-shot timer. */
struct loop_timer {
	void (*expired)(struct loop_timer *t); /* ctx: loop */
	u64 deadline_ns;		       /* CLOCK_MONOTONIC; 0 = not armed */
	struct loop_timer *next;	       /* by deadline */
};

/* Work that another thread hands to the loop. */
struct loop_work {
	void (*run)(struct loop_work *w); /* ctx: loop */
	struct loop_work *next;
	bool queued;
};

struct loop {
	int epoll_fd, wake_fd; /* owned */
	pthread_mutex_t lock;  /* guards work */
	struct loop_work *work, **work_tail;
	struct loop_timer *timers; /* ctx: loop */
	bool stop;
	/* The events of the turn that runs now; [turn_next, turn_nr) are still to be handled. ctx: loop */
	struct epoll_event turn[LOOP_EVENTS_PER_TURN];
	u32 turn_next, turn_nr;
};

int loop_init(struct loop *l, struct err *e) MUST_CHECK;
void loop_fini(struct loop *l);

/* Watches w->fd for events (EPOLLIN | EPOLLOUT | EPOLLET ...). ctx: any */
int loop_watch(struct loop *l, struct loop_fd *w, u32 events, struct err *e) MUST_CHECK;
void loop_modify(struct loop_fd *w, u32 events);
/* After it returns, ready is not called again. ctx: loop, or before and after loop_run. Accepts one that is not watched. */
void loop_unwatch(struct loop_fd *w);

/* ctx: loop, or before loop_run */
void loop_timer_arm(struct loop *l, struct loop_timer *t, u64 deadline_ns);
void loop_timer_cancel(struct loop *l, struct loop_timer *t);

/* Queues w once (a second post before it ran does nothing). ctx: any, not a signal handler */
void loop_post(struct loop *l, struct loop_work *w);
/* Takes w back if it has not run yet. ctx: loop, or before and after loop_run */
void loop_work_cancel(struct loop *l, struct loop_work *w);

/* Waits for events at most max_wait_ms (-1: without end) and handles them once. For tests and for draining at the end. */
void loop_turn(struct loop *l, int max_wait_ms);
/* Runs until loop_stop. */
void loop_run(struct loop *l);
/* ctx: any, async-signal-safe */
void loop_stop(struct loop *l);

#endif
