/* loop.c: epoll, timers and posted work; see loop.h. */
#include "vmm/loop.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/clock.h"

int loop_init(struct loop *l, struct err *e)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};

	*l = (struct loop){.epoll_fd = epoll_create1(EPOLL_CLOEXEC), .wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
	pthread_mutex_init(&l->lock, NULL);
	l->work_tail = &l->work;
	if (l->epoll_fd < 0 || l->wake_fd < 0 || epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, l->wake_fd, &ev) < 0) {
		int ret = err_errno(e, "cannot make an event loop");

		loop_fini(l);
		return ret;
	}
	return 0;
}

void loop_fini(struct loop *l)
{
	if (!l->work_tail)
		return; /* never initialised */
	fd_close(&l->epoll_fd);
	fd_close(&l->wake_fd);
	pthread_mutex_destroy(&l->lock);
	l->work_tail = NULL;
}

int loop_watch(struct loop *l, struct loop_fd *w, u32 events, struct err *e)
{
	struct epoll_event ev = {.events = events, .data.ptr = w};

	ASSERT(!w->loop && w->ready);
	if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, w->fd, &ev) < 0)
		return err_errno(e, "cannot watch a descriptor");
	w->loop = l;
	return 0;
}

void loop_modify(struct loop_fd *w, u32 events)
{
	struct epoll_event ev = {.events = events, .data.ptr = w};

	ASSERT(w->loop);
	epoll_ctl(w->loop->epoll_fd, EPOLL_CTL_MOD, w->fd, &ev);
}

void loop_unwatch(struct loop_fd *w)
{
	struct loop *l = w->loop;

	if (!l)
		return;
	epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
	w->loop = NULL;
	/* The turn that runs now may hold an event for w. */
	for (u32 i = l->turn_next; i < l->turn_nr; i++) {
		if (l->turn[i].data.ptr == w)
			l->turn[i].data.ptr = l;
	}
}

void loop_timer_arm(struct loop *l, struct loop_timer *t, u64 deadline_ns)
{
	struct loop_timer **at = &l->timers;

	loop_timer_cancel(l, t);
	t->deadline_ns = MAX(deadline_ns, 1);
	while (*at && (*at)->deadline_ns <= t->deadline_ns)
		at = &(*at)->next;
	t->next = *at;
	*at = t;
}

void loop_timer_cancel(struct loop *l, struct loop_timer *t)
{
	struct loop_timer **at = &l->timers;

	if (!t->deadline_ns)
		return;
	while (*at && *at != t)
		at = &(*at)->next;
	if (*at)
		*at = t->next;
	t->deadline_ns = 0;
}

static void wake(struct loop *l)
{
	/* Fails only when the counter is full: the loop is awake already. */
	if (eventfd_write(l->wake_fd, 1) < 0)
		return;
}

void loop_post(struct loop *l, struct loop_work *w)
{
	bool was_queued;

	pthread_mutex_lock(&l->lock);
	was_queued = w->queued;
	if (!was_queued) {
		w->queued = true;
		w->next = NULL;
		*l->work_tail = w;
		l->work_tail = &w->next;
	}
	pthread_mutex_unlock(&l->lock);
	if (!was_queued)
		wake(l);
}

void loop_work_cancel(struct loop *l, struct loop_work *w)
{
	struct loop_work **at = &l->work;

	pthread_mutex_lock(&l->lock);
	while (*at && *at != w)
		at = &(*at)->next;
	if (*at) {
		*at = w->next;
		if (!*at)
			l->work_tail = at;
		w->queued = false;
	}
	pthread_mutex_unlock(&l->lock);
}

static struct loop_work *take_work(struct loop *l)
{
	struct loop_work *w;

	pthread_mutex_lock(&l->lock);
	w = l->work;
	if (w) {
		l->work = w->next;
		if (!l->work)
			l->work_tail = &l->work;
		w->queued = false;
	}
	pthread_mutex_unlock(&l->lock);
	return w;
}

static void run_work(struct loop *l)
{
	struct loop_work *w;
	eventfd_t n;

	if (eventfd_read(l->wake_fd, &n) < 0)
		return;
	while ((w = take_work(l)))
		w->run(w);
}

static void run_timers(struct loop *l)
{
	u64 now = l->timers ? clock_host_ns() : 0;

	while (l->timers && l->timers->deadline_ns <= now) {
		struct loop_timer *t = l->timers;

		loop_timer_cancel(l, t);
		t->expired(t);
	}
}

/* Milliseconds until the next timer, rounded up; -1 for none. */
static int timeout_ms(const struct loop *l)
{
	u64 now;

	if (!l->timers)
		return -1;
	now = clock_host_ns();
	if (l->timers->deadline_ns <= now)
		return 0;
	return (int)MIN((l->timers->deadline_ns - now + NSEC_PER_MSEC - 1) / NSEC_PER_MSEC, 1000000ull);
}

void loop_turn(struct loop *l, int max_wait_ms)
{
	int wait = timeout_ms(l);
	int n;

	if (wait < 0 || (max_wait_ms >= 0 && max_wait_ms < wait))
		wait = max_wait_ms;
	n = epoll_wait(l->epoll_fd, l->turn, LOOP_EVENTS_PER_TURN, wait);
	l->turn_nr = (u32)MAX(n, 0);
	for (l->turn_next = 0; l->turn_next < l->turn_nr;) {
		struct epoll_event *ev = &l->turn[l->turn_next++];
		struct loop_fd *w = ev->data.ptr;

		if (!w)
			run_work(l);
		else if (ev->data.ptr != l)
			w->ready(w, ev->events);
	}
	run_timers(l);
}

void loop_run(struct loop *l)
{
	while (!__atomic_load_n(&l->stop, __ATOMIC_ACQUIRE))
		loop_turn(l, -1);
}

void loop_stop(struct loop *l)
{
	__atomic_store_n(&l->stop, true, __ATOMIC_RELEASE);
	wake(l);
}
