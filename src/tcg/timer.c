/* timer.c: the thread that tells running vCPUs that their LAPIC timer may be due: one per VM, asleep on the vCPUs' timerfds. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "tcg/vcpu.h"

#define STOP UINT32_MAX

/* Under the lock: the vCPU may be on its way out (tcg_vcpu_fini). */
static void fire(struct tcg_host *h, u32 cpu)
{
	pthread_mutex_lock(&h->t.lock);
	__atomic_store_n(&h->vcpus[cpu].timer.armed, 0, __ATOMIC_SEQ_CST);
	if (h->t.cpus[cpu])
		tcg_request(h->t.cpus[cpu], TCG_REQ_TIMER);
	pthread_mutex_unlock(&h->t.lock);
}

/* The timerfds are edge-triggered: there is nothing to read, and one that was set anew before we got here is not reported. */
static void *timer_thread(void *opaque)
{
	struct tcg_host *h = opaque;
	struct epoll_event events[16];

	pthread_setname_np(pthread_self(), "tcg timers");
	sandbox_enter(h->t.vm->sandbox, SANDBOX_TIMER);
	for (;;) {
		int n = epoll_wait(h->epoll_fd, events, ARRAY_SIZE(events), -1);

		ASSERT(n >= 0 || errno == EINTR);
		for (int i = 0; i < n; i++) {
			u32 cpu = events[i].data.u32;

			if (cpu == STOP)
				return NULL;
			fire(h, cpu);
		}
	}
}

static int watch(struct tcg_host *h, int fd, u32 what, struct err *e)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.u32 = what};

	if (epoll_ctl(h->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
		return err_errno(e, "cannot watch a timer");
	return 0;
}

int timer_start(struct tcg_host *h, struct err *e)
{
	sigset_t all, old;
	int ret;

	h->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	h->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (h->epoll_fd < 0 || h->stop_fd < 0)
		return err_errno(e, "cannot make the descriptors of the timer thread");
	ret = watch(h, h->stop_fd, STOP, e);
	if (ret == 0 && sandbox_is_open(h->t.vm->sandbox))
		ret = sandbox_make_filter(h->t.vm->sandbox, SANDBOX_TIMER, e);
	if (ret < 0)
		return ret;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&h->timer_thread, NULL, timer_thread, h);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret)
		return err_set(e, -ret, "cannot start the timer thread: %s", strerror(ret));
	h->timer_started = true;
	return 0;
}

void timer_stop(struct tcg_host *h)
{
	if (h->timer_started) {
		ASSERT(eventfd_write(h->stop_fd, 1) == 0);
		pthread_join(h->timer_thread, NULL);
	}
	h->timer_started = false;
	fd_close(&h->stop_fd);
	fd_close(&h->epoll_fd);
}

int timer_add(struct tcg_host *h, u32 cpu, struct err *e)
{
	struct tcg_timer *tm = &h->vcpus[cpu].timer;

	tm->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (tm->fd < 0)
		return err_errno(e, "cannot make a timer");
	return watch(h, tm->fd, cpu, e);
}
