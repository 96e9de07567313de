/* mem_thread.c: see mem_thread.h. */
#include "migration/mem_thread.h"

#include <errno.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void end_thread(struct mem_helper *h)
{
	struct mem_thread *t = container_of(h, struct mem_thread, helper);

	if (t->started && write(t->stop_fd, &(u64){1}, 8) == 8)
		pthread_join(t->id, NULL);
	fd_close(&t->stop_fd);
	t->free(t);
}

void mem_thread_init(struct mem_thread *t, struct vm *vm, void (*run)(struct mem_thread *), void (*free)(struct mem_thread *))
{
	*t = (struct mem_thread){.vm = vm, .stop_fd = -1, .run = run, .free = free, .helper.end = end_thread};
	mem_add_helper(&vm->mem, &t->helper);
}

static void *thread_main(void *opaque)
{
	struct mem_thread *t = opaque;

	if (t->confine)
		sandbox_enter(t->vm->sandbox, SANDBOX_PAGER);
	t->run(t);
	return NULL;
}

int mem_thread_start(struct mem_thread *t, struct err *e)
{
	sigset_t all, old;
	int ret;

	t->confine = sandbox_is_open(t->vm->sandbox);
	ret = t->confine ? sandbox_make_filter(t->vm->sandbox, SANDBOX_PAGER, e) : 0;
	if (ret < 0)
		return ret;
	t->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (t->stop_fd < 0)
		return err_errno(e, "no event descriptor for guest memory's thread");
	/* Signals are for the threads that wait for them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&t->id, NULL, thread_main, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret) {
		errno = ret;
		return err_errno(e, "no thread for guest memory");
	}
	t->started = true;
	pthread_setname_np(t->id, "husk-pager");
	return 0;
}

bool mem_thread_poll(struct mem_thread *t, struct pollfd *fds, u32 nr, int timeout_ms)
{
	struct pollfd p[5];

	ASSERT(nr < ARRAY_SIZE(p));
	for (u32 i = 0; i < nr; i++)
		p[i] = fds[i];
	p[nr] = (struct pollfd){.fd = t->stop_fd, .events = POLLIN};
	while (poll(p, nr + 1, timeout_ms) < 0)
		ASSERT(errno == EINTR || errno == ENOMEM);
	for (u32 i = 0; i < nr; i++)
		fds[i] = p[i];
	return !p[nr].revents;
}
