/* test_loop.c: descriptors, timers and posted work on the event loop. */
#include "cm.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/clock.h"
#include "vmm/loop.h"

struct watcher {
	struct loop_fd w;
	struct watcher *other;
	int calls;
};

struct job {
	struct loop_work work;
	struct loop *loop;
	int runs;
};

struct alarm {
	struct loop_timer timer;
	int order, *count;
};

static int setup(void **state)
{
	static struct loop l;
	struct err e;

	*state = &l;
	return loop_init(&l, &e);
}

static int teardown(void **state)
{
	loop_fini(*state);
	return 0;
}

static void count_and_unwatch_other(struct loop_fd *w, u32 events)
{
	struct watcher *me = container_of(w, struct watcher, w);

	(void)events;
	me->calls++;
	loop_unwatch(&me->other->w);
}

static void an_unwatched_descriptor_is_not_reported_in_the_same_turn(void **state)
{
	struct loop *l = *state;
	struct watcher a = {.w = {.fd = eventfd(1, 0), .ready = count_and_unwatch_other}};
	struct watcher b = {.w = {.fd = eventfd(1, 0), .ready = count_and_unwatch_other}};
	struct err e;

	a.other = &b;
	b.other = &a;
	assert_int_equal(loop_watch(l, &a.w, EPOLLIN, &e), 0);
	assert_int_equal(loop_watch(l, &b.w, EPOLLIN, &e), 0);
	loop_turn(l, 1000);
	assert_int_equal(a.calls + b.calls, 1);
	loop_unwatch(&a.w);
	loop_unwatch(&b.w);
	close(a.w.fd);
	close(b.w.fd);
}

static void run_job(struct loop_work *w)
{
	container_of(w, struct job, work)->runs++;
}

static void work_posted_twice_before_it_ran_runs_once(void **state)
{
	struct loop *l = *state;
	struct job job = {.work.run = run_job}, gone = {.work.run = run_job};

	loop_post(l, &job.work);
	loop_post(l, &gone.work);
	loop_post(l, &job.work);
	loop_work_cancel(l, &gone.work);
	loop_turn(l, 1000);
	assert_int_equal(job.runs, 1);
	assert_int_equal(gone.runs, 0);
	loop_post(l, &job.work);
	loop_turn(l, 1000);
	assert_int_equal(job.runs, 2);
}

static void expire(struct loop_timer *t)
{
	struct alarm *a = container_of(t, struct alarm, timer);

	a->order = ++*a->count;
}

static void timers_fire_in_order_of_their_deadlines(void **state)
{
	struct loop *l = *state;
	u64 now = clock_host_ns();
	int count = 0;
	struct alarm late = {.timer.expired = expire, .count = &count}, early = late, never = late;

	loop_timer_arm(l, &late.timer, now + 2 * NSEC_PER_MSEC);
	loop_timer_arm(l, &never.timer, now + 1 * NSEC_PER_MSEC);
	loop_timer_arm(l, &early.timer, now);
	loop_timer_cancel(l, &never.timer);
	while (count < 2)
		loop_turn(l, -1);
	assert_true(clock_host_ns() - now >= 2 * NSEC_PER_MSEC);
	assert_int_equal(early.order, 1);
	assert_int_equal(late.order, 2);
	assert_int_equal(never.order, 0);
}

static void *post_and_stop(void *opaque)
{
	struct job *job = opaque;

	loop_post(job->loop, &job->work);
	loop_stop(job->loop);
	return NULL;
}

static void another_thread_can_post_and_stop(void **state)
{
	struct loop *l = *state;
	struct job job = {.work.run = run_job, .loop = l};
	pthread_t t;

	assert_int_equal(pthread_create(&t, NULL, post_and_stop, &job), 0);
	loop_run(l);
	pthread_join(t, NULL);
	loop_turn(l, 0);
	assert_int_equal(job.runs, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(an_unwatched_descriptor_is_not_reported_in_the_same_turn, setup, teardown),
		cmocka_unit_test_setup_teardown(work_posted_twice_before_it_ran_runs_once, setup, teardown),
		cmocka_unit_test_setup_teardown(timers_fire_in_order_of_their_deadlines, setup, teardown),
		cmocka_unit_test_setup_teardown(another_thread_can_post_and_stop, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
