/* vhost_user.c: a device whose work another process does: life cycle, loss and return of that process; see vhost_user.h. */
#include "virtio/vhost_user.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define QUIESCE_MS 1000u

/* The last three end a virtiofsd of husk's own. */
const char *const vhost_user_syscalls[] = {"socket", "socketpair", "connect", "sendmsg", "recvmsg", "close",	       "shutdown", "poll",
					   "read",   "write",	   "munmap",  "wait4",	 "kill",    "clock_nanosleep", NULL};

#define COUNTER(name) \
	{ \
#name, offsetof(struct vhost_user, counters.name) \
	}
const struct counter_desc vhost_user_counters[] = {
	COUNTER(activate_fails), COUNTER(cfg_fails), COUNTER(init_time_us), COUNTER(activate_time_us), COUNTER(config_change_time_us),
	COUNTER(peer_lost),	 COUNTER(peer_back), COUNTER(requests),	    COUNTER(failed_requests),  {NULL, 0},
};

static struct device *dev_of(struct vhost_user *u)
{
	return &u->vdev.dev;
}

/* Wakes the loop for what only it may do. ctx: any */
static void look_soon(struct vhost_user *u)
{
	loop_post(&dev_of(u)->vm->loop, &u->work);
}

/* ---- start and stop of the peer's rings ---- */

/* After the driver's DRIVER_OK, or when a peer has come back. ctx: any */
static int run(struct vhost_user *u, struct err *e)
{
	u64 start = clock_host_ns();
	bool any = false;
	int ret;

	for (u16 i = 0; i < u->vdev.nr_queues; i++) {
		struct vu_queue *q = &u->queues[i];

		q->started = u->vdev.queues[i].enabled;
		any |= q->started;
		if (q->started)
			vu_queue_restart(q);
	}
	if (!any)
		return 0; /* the driver uses none: there is nothing to run, and nothing to stop */
	ret = vu_send_start(u, e);
	if (ret < 0)
		return ret;
	u->state = VU_RUNNING;
	for (u16 i = 0; i < u->vdev.nr_queues; i++) {
		/* The kick starts a ring, also one with requests of before. */
		if (u->queues[i].started && eventfd_write(u->queues[i].kick_fd, 1) < 0)
			ASSERT(errno == EAGAIN);
	}
	virtio_kick_all(&u->vdev);
	u->counters.activate_time_us = (clock_host_ns() - start) / 1000;
	return 0;
}

int vhost_user_activate(struct virtio_dev *vdev)
{
	struct vhost_user *u = to_vhost_user(vdev);
	struct err e;

	if (u->state != VU_READY)
		return 0; /* vu_hello_done comes back here; requests wait or fail */
	if (run(u, &e) < 0) {
		/* Only the loop may close the connection; it sees the end of it. */
		log_guest(dev_of(u)->vm->log, &u->peer_log, "%s: the vhost-user back end at \"%s\": %s", dev_of(u)->id, u->path, e.msg);
		u->counters.activate_fails++;
		shutdown(u->fd, SHUT_RDWR);
	}
	return 0;
}

static void fail_in_flight(struct vhost_user *u)
{
	for (u16 i = 0; u->queues && i < u->vdev.nr_queues; i++)
		vu_queue_fail(&u->queues[i]);
}

/* Nothing is in flight any more: the peer may let go of the rings. */
static void stop(struct vhost_user *u)
{
	struct err e;

	u->reset_wanted = false;
	u->state = VU_STOPPING;
	if (vu_send_stop(u, &e) < 0)
		shutdown(u->fd, SHUT_RDWR);
	look_soon(u);
}

bool vhost_user_reset(struct virtio_dev *vdev)
{
	struct vhost_user *u = to_vhost_user(vdev);

	if (u->state != VU_RUNNING) {
		fail_in_flight(u);
		return true;
	}
	u->reset_wanted = true;
	u->drain_end_ns = clock_host_ns() + VU_REPLY_MS * NSEC_PER_MSEC;
	if (!vu_in_flight(u))
		stop(u);
	look_soon(u);
	return false;
}

static void reset_done(struct vhost_user *u)
{
	u->reset_wanted = false;
	if (u->vdev.resetting)
		virtio_reset_done(&u->vdev);
}

void vu_stopped(struct vhost_user *u)
{
	for (u16 i = 0; i < u->vdev.nr_queues; i++)
		u->queues[i].started = false;
	u->state = VU_READY;
	reset_done(u);
}

/* ---- loss and return ---- */

static void fail_all(struct vhost_user *u)
{
	u->failing = true;
	fail_in_flight(u);
	/* And what waits in the driver's rings. */
	virtio_kick_all(&u->vdev);
}

static void report_loss(struct vhost_user *u, bool had, bool hold, const struct err *why)
{
	struct device *dev = dev_of(u);

	if (!had) {
		log_guest(dev->vm->log, &u->peer_log, "%s: the vhost-user back end at \"%s\" is of no use: %s", dev->id, u->path, why->msg);
		return;
	}
	log_guest(dev->vm->log, &u->peer_log, "%s: lost the vhost-user back end at \"%s\": %s; %s", dev->id, u->path, why->msg,
		  hold ? "requests wait for it to come back, and fail after 10 seconds" : "requests fail");
	u->counters.peer_lost++;
	u->lost_ns = clock_host_ns();
}

/* What the peer has finished before it went counts; the rest waits for the next peer, or fails. */
static void lose(struct vhost_user *u, const struct err *why)
{
	bool had = u->state >= VU_READY, hold = !u->ops->lost && !u->no_reconnect;
	struct err e;

	vu_disconnect(u);
	report_loss(u, had, hold, why);
	for (u16 i = 0; i < u->vdev.nr_queues; i++) {
		if (u->queues[i].started && vu_queue_collect(&u->queues[i], &e) < 0)
			log_debug(dev_of(u)->vm->log, "%s: %s", dev_of(u)->id, e.msg);
		u->queues[i].started = false;
	}
	if (had && u->ops->lost)
		u->ops->lost(u);
	if (!hold)
		fail_all(u);
	if (u->vdev.resetting) {
		fail_in_flight(u);
		reset_done(u);
	}
	look_soon(u);
}

static void watch(struct vhost_user *u)
{
	struct loop *loop = &dev_of(u)->vm->loop;
	struct err e;

	u->watch.fd = u->fd;
	if (loop_watch(loop, &u->watch, EPOLLIN, &e) < 0 ||
	    (u->backend_fd >= 0 && !u->backend_watch.loop && loop_watch(loop, &u->backend_watch, EPOLLIN, &e) < 0))
		lose(u, &e);
}

/* The peer is fit for the driver that runs, or for the first one. */
int vu_hello_done(struct vhost_user *u, struct err *e)
{
	u64 ring = u->offered & (BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_INDIRECT_DESC));
	u64 need = u->ring_features | (u->vdev.driver_features & u->features_known);
	int ret;

	if (need & ~u->offered)
		return err_set(e, -EPROTO, "it lacks features %#llx, which the back end before it had",
			       (unsigned long long)(need & ~u->offered));
	if (u->vdev.nr_queues > MAX(u->peer_queues, 1) && u->protocol & BIT(VU_P_MQ))
		return err_set(e, -EPROTO, "it has %u queues; %u are needed", u->peer_queues, u->vdev.nr_queues);
	ret = u->ops->meet(u, e);
	if (ret < 0)
		return ret;
	u->state = VU_READY;
	if (!u->queues) {
		u->ring_features = ring;
		return 0;
	}
	u->counters.peer_back++;
	u->failing = false;
	log_guest(dev_of(u)->vm->log, &u->peer_log, "%s: the vhost-user back end at \"%s\" is back", dev_of(u)->id, u->path);
	if (u->config_wanted)
		virtio_config_changed(&u->vdev);
	return u->vdev.live ? run(u, e) : 0;
}

/* ---- events. ctx: loop ---- */

static void readable(struct loop_fd *w, u32 events)
{
	struct vhost_user *u = container_of(w, struct vhost_user, watch);
	struct err e;

	(void)events;
	device_lock(dev_of(u));
	if (w->loop && vu_process(u, &e) < 0)
		lose(u, &e);
	device_unlock(dev_of(u));
}

static void backend_readable(struct loop_fd *w, u32 events)
{
	struct vhost_user *u = container_of(w, struct vhost_user, backend_watch);
	struct err e;

	(void)events;
	device_lock(dev_of(u));
	if (w->loop && vu_process_backend(u, &e) < 0)
		lose(u, &e);
	device_unlock(dev_of(u));
}

static void collect(struct vu_queue *q)
{
	struct vhost_user *u = q->u;
	struct err e;

	if (vu_queue_collect(q, &e) < 0) {
		lose(u, &e);
		return;
	}
	if (u->reset_wanted && u->state == VU_RUNNING && !vu_in_flight(u))
		stop(u);
	else if (q->full && u->vdev.live && !u->paused)
		vu_queue_forward(q);
}

static void called(struct loop_fd *w, u32 events)
{
	struct vu_queue *q = container_of(w, struct vu_queue, call);
	eventfd_t n;

	(void)events;
	if (eventfd_read(w->fd, &n) < 0)
		return;
	device_lock(dev_of(q->u));
	if (q->u->state == VU_RUNNING && q->started)
		collect(q);
	device_unlock(dev_of(q->u));
}

void vhost_user_queue_kick(struct virtio_dev *vdev, u16 queue)
{
	struct vhost_user *u = to_vhost_user(vdev);
	struct vu_queue *q = &u->queues[queue];

	if (!u->paused && (u->failing || (u->state == VU_RUNNING && q->started)))
		vu_queue_forward(q);
}

static void try_again(struct vhost_user *u, u64 now)
{
	struct err e;

	if (!u->failing && now - u->lost_ns > VU_HOLD_MS * NSEC_PER_MSEC) {
		log_guest(dev_of(u)->vm->log, &u->peer_log, "%s: no vhost-user back end at \"%s\" for 10 seconds: requests fail now",
			  dev_of(u)->id, u->path);
		fail_all(u);
	}
	if (vu_connect(u, &e) == 0)
		watch(u);
	else
		vu_disconnect(u);
}

/* What hangs on time: answers that are due, requests that a reset waits for, the next attempt to connect. */
static void tick(struct vhost_user *u)
{
	u64 now = clock_host_ns();
	bool down = u->state == VU_DOWN && !u->no_reconnect;
	struct err e;

	if (u->nr_replies && now > u->deadline_ns) {
		err_set(&e, -ETIMEDOUT, "no answer to %s", vu_request_name(u->replies[u->first_reply]));
		lose(u, &e);
	} else if (u->reset_wanted && now > u->drain_end_ns) {
		err_set(&e, -ETIMEDOUT, "it does not finish its requests");
		lose(u, &e);
	} else if (down) {
		try_again(u, now);
	}
	if (u->nr_replies || u->reset_wanted || (u->state == VU_DOWN && !u->no_reconnect))
		loop_timer_arm(&dev_of(u)->vm->loop, &u->timer, now + VU_TICK_MS * NSEC_PER_MSEC);
}

static void timer_expired(struct loop_timer *t)
{
	struct vhost_user *u = container_of(t, struct vhost_user, timer);

	device_lock(dev_of(u));
	tick(u);
	device_unlock(dev_of(u));
}

/* Arms the timer, no more: it works at its own pace, however often it is called. */
static void work_run(struct loop_work *w)
{
	struct vhost_user *u = container_of(w, struct vhost_user, work);

	if (!u->timer.deadline_ns)
		loop_timer_arm(&dev_of(u)->vm->loop, &u->timer, clock_host_ns() + VU_TICK_MS * NSEC_PER_MSEC);
}

/* ---- making and freeing ---- */

int vhost_user_probe(const char *path, struct err *e)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return err_errno(e, "no vhost-user back end at \"%s\"", path);
	if (!S_ISSOCK(st.st_mode))
		return err_set(e, -ENOTSOCK, "\"%s\" is not a socket; a vhost-user back end has to listen there", path);
	return 0;
}

/* Answers within VU_HELLO_MS, all of them. */
static int hello(struct vhost_user *u, struct err *e)
{
	u64 end = clock_host_ns() + VU_HELLO_MS * NSEC_PER_MSEC;

	while (u->state == VU_HELLO) {
		struct pollfd p = {.fd = u->fd, .events = POLLIN};
		u64 now = clock_host_ns();
		int ret;

		if (now >= end)
			return err_set(e, -ETIMEDOUT, "no answer to %s in %u seconds", vu_request_name(u->replies[u->first_reply]),
				       VU_HELLO_MS / 1000);
		if (poll(&p, 1, (int)((end - now) / NSEC_PER_MSEC) + 1) < 0 && errno != EINTR)
			return err_errno(e, "cannot wait");
		ret = vu_process(u, e);
		if (ret < 0)
			return ret;
	}
	return 0;
}

void vhost_user_prepare(struct vhost_user *u, const struct vhost_user_ops *ops, const char *path)
{
	ASSERT(ops->meet && ops->fail);
	u->ops = ops;
	u->path = path;
	u->fd = u->backend_fd = u->shadow_fd = -1;
	u->watch.ready = readable;
	u->backend_watch.ready = backend_readable;
	u->timer.expired = timer_expired;
	u->work.run = work_run;
}

int vhost_user_open(struct vhost_user *u, struct err *e)
{
	u64 start = clock_host_ns();
	int ret;

	ASSERT(u->config_wanted <= VU_MAX_CONFIG && u->queues_wanted <= VU_MAX_QUEUES);
	dev_of(u)->vm->mem.share = true;
	ret = vu_connect(u, e);
	if (ret < 0)
		return ret;
	ret = hello(u, e);
	u->counters.init_time_us = (clock_host_ns() - start) / 1000;
	return ret < 0 ? err_prefix(e, "the vhost-user back end at \"%s\" is of no use", u->path) : 0;
}

int vhost_user_init(struct vhost_user *u, u16 nr_queues, struct err *e)
{
	struct loop *loop = &dev_of(u)->vm->loop;
	int ret;

	u->vdev.nr_queues = nr_queues;
	ret = vu_queues_init(u, nr_queues, e);
	for (u16 i = 0; ret == 0 && i < nr_queues; i++) {
		u->queues[i].call.ready = called;
		ret = loop_watch(loop, &u->queues[i].call, EPOLLIN, e);
	}
	u->watch.fd = u->fd;
	if (ret == 0)
		ret = loop_watch(loop, &u->watch, EPOLLIN, e);
	if (ret == 0 && u->backend_fd >= 0)
		ret = loop_watch(loop, &u->backend_watch, EPOLLIN, e);
	u->vdev.features = u->offered & u->features_known;
	return ret < 0 ? ret : virtio_init(&u->vdev, nr_queues, e);
}

void vhost_user_fini(struct vhost_user *u)
{
	struct loop *loop = &dev_of(u)->vm->loop;

	loop_timer_cancel(loop, &u->timer);
	loop_work_cancel(loop, &u->work);
	vu_disconnect(u);
	vu_queues_fini(u);
	virtio_fini(&u->vdev);
}

void vhost_user_config_read(struct virtio_dev *vdev, u32 off, void *data, u32 len)
{
	memcpy(data, to_vhost_user(vdev)->config + off, len);
}

/* ---- pause ---- */

static void drain(struct vhost_user *u, u64 end)
{
	while (u->state == VU_RUNNING && vu_in_flight(u) && clock_host_ns() < end) {
		struct pollfd p[VU_MAX_QUEUES];

		for (u16 i = 0; i < u->vdev.nr_queues; i++)
			p[i] = (struct pollfd){.fd = u->queues[i].call_fd, .events = POLLIN};
		poll(p, u->vdev.nr_queues, 10);
		for (u16 i = 0; i < u->vdev.nr_queues && u->state == VU_RUNNING; i++) {
			eventfd_t n;

			if (p[i].revents && eventfd_read(p[i].fd, &n) == 0 && u->queues[i].started)
				collect(&u->queues[i]);
		}
	}
}

/* vCPUs are parked, so nobody else wants the lock. */
void vhost_user_quiesce(struct device *dev)
{
	struct vhost_user *u = to_vhost_user(to_virtio(dev));

	device_lock(dev);
	u->paused = true;
	drain(u, clock_host_ns() + QUIESCE_MS * NSEC_PER_MSEC);
	if (vu_in_flight(u))
		log_warn(dev->vm->log, "%s: paused with %u requests that its vhost-user back end still works on", dev->id, vu_in_flight(u));
	device_unlock(dev);
}

void vhost_user_resume(struct device *dev)
{
	struct vhost_user *u = to_vhost_user(to_virtio(dev));

	device_lock(dev);
	u->paused = false;
	device_unlock(dev);
	virtio_kick_all(&u->vdev);
}
