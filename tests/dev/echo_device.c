/* echo_device.c: see echo_device.h. */
#include "tests/dev/echo_device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/virtio_state.h"

/* Copies out to in, as much as fits both. */
static u32 answer(struct virtq_chain *c)
{
	u32 done = 0;

	for (u32 i = 0; i < c->nr_out && done < c->in_len; i++)
		done += iov_write(chain_in(c), c->nr_in, done, c->iov[i].iov_base, (u32)MIN(c->iov[i].iov_len, c->in_len - done));
	return done;
}

/* Reads the first and last byte of each readable element and writes those of each writable one. */
static u32 touch(struct virtq_chain *c)
{
	for (u32 i = 0; i < (u32)c->nr_out + c->nr_in; i++) {
		volatile u8 *first = c->iov[i].iov_base, *last = first + c->iov[i].iov_len - 1;
		u8 a = *first, b = *last;

		if (i >= c->nr_out) {
			*first = (u8)~a;
			*last = (u8)~b;
		}
	}
	return c->in_len;
}

/* Ends the held requests in the configured way. */
static void finish(struct echo_dev *echo)
{
	const struct virtq_chain *chains[VIRTQ_MAX_SIZE];
	u32 written[VIRTQ_MAX_SIZE];
	u32 nr = echo->nr_held;

	if (!nr)
		return;
	for (u32 i = 0; i < nr; i++) {
		struct virtq_chain *c = &echo->held[echo->cfg.reverse ? nr - 1 - i : i];

		chains[i] = c;
		written[i] = echo->cfg.touch ? touch(c) : answer(c);
		if (!echo->cfg.many)
			virtq_push(echo->held_q, c, written[i]);
	}
	if (echo->cfg.many)
		virtq_push_many(echo->held_q, chains, written, nr);
	echo->nr_held = 0;
	if (!echo->cfg.no_notify)
		virtq_notify(echo->held_q);
}

static void release_work(struct loop_work *w)
{
	struct echo_dev *echo = container_of(w, struct echo_dev, release);

	device_lock(&echo->vdev.dev);
	if (echo->only_notify)
		virtq_notify(&echo->vdev.queues[0]);
	else if (echo->held_q)
		finish(echo);
	if (echo->vdev.resetting)
		virtio_reset_done(&echo->vdev);
	device_unlock(&echo->vdev.dev);
}

void echo_release(struct echo_dev *echo)
{
	echo->only_notify = false;
	loop_post(&echo->vdev.dev.vm->loop, &echo->release);
}

void echo_notify(struct echo_dev *echo)
{
	echo->only_notify = true;
	loop_post(&echo->vdev.dev.vm->loop, &echo->release);
}

static bool take_one(struct echo_dev *echo, struct virtq *q)
{
	struct virtq_chain *c;

	/* Only virtq_pop says that there is no more: it asks for the next kick. */
	if (echo->nr_held == VIRTQ_MAX_SIZE)
		finish(echo);
	c = &echo->held[echo->nr_held];
	if (virtq_pop(q, c) <= 0)
		return false;
	if (echo->cfg.unpop_first) {
		virtq_unpop(q, c);
		if (virtq_pop(q, c) <= 0)
			return false;
	}
	echo->nr_held++;
	return true;
}

static void echo_kick(struct virtio_dev *vdev, u16 index)
{
	struct echo_dev *echo = container_of(vdev, struct echo_dev, vdev);
	struct virtq *q = &vdev->queues[index];

	if (echo->paused)
		return;
	__atomic_add_fetch(&echo->kicks, 1, __ATOMIC_RELAXED); /* the test thread looks at it */
	if (echo->nr_held && echo->held_q != q)
		return; /* requests of one queue at a time are held */
	echo->held_q = q;
	do {
		if (echo->cfg.no_kicks)
			virtq_want_kicks(q, false);
		while (take_one(echo, q))
			;
		if (!__atomic_load_n(&echo->cfg.hold, __ATOMIC_RELAXED))
			finish(echo);
	} while (echo->cfg.no_kicks && virtq_want_kicks(q, true));
}

static int echo_activate(struct virtio_dev *vdev)
{
	struct echo_dev *echo = container_of(vdev, struct echo_dev, vdev);

	echo->activations++;
	return echo->cfg.fail_activate ? -EIO : 0;
}

static bool echo_reset(struct virtio_dev *vdev)
{
	struct echo_dev *echo = container_of(vdev, struct echo_dev, vdev);

	echo->resets++;
	return echo->nr_held == 0;
}

static void echo_config_read(struct virtio_dev *vdev, u32 off, void *data, u32 len)
{
	memcpy(data, container_of(vdev, struct echo_dev, vdev)->config + off, len);
}

static void echo_config_write(struct virtio_dev *vdev, u32 off, const void *data, u32 len)
{
	memcpy(container_of(vdev, struct echo_dev, vdev)->config + off, data, len);
}

static const struct virtio_ops echo_ops = {
	.activate = echo_activate,
	.queue_kick = echo_kick,
	.reset = echo_reset,
	.config_read = echo_config_read,
	.config_write = echo_config_write,
};

static void echo_destroy(struct device *dev)
{
	struct echo_dev *echo = to_echo(dev);

	loop_work_cancel(&dev->vm->loop, &echo->release);
	virtio_fini(&echo->vdev);
	device_fini(dev);
	free(echo);
}

static int echo_create(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct device **out,
		       struct err *e)
{
	struct echo_dev *echo = xzalloc(sizeof(*echo));
	int ret;

	if (cfg)
		echo->cfg = *(const struct echo_cfg *)cfg;
	for (u8 i = 0; i < ECHO_CONFIG_LEN; i++)
		echo->config[i] = (u8)(i + 1);
	memset(echo->beyond, 0xbb, sizeof(echo->beyond));
	device_init(&echo->vdev.dev, vm, cls, "echo", slot);
	echo->vdev.ops = &echo_ops;
	echo->vdev.type = ECHO_TYPE;
	echo->vdev.features = BIT(ECHO_F_EXTRA);
	echo->vdev.config_len = ECHO_CONFIG_LEN;
	echo->release.run = release_work;
	ret = virtio_init(&echo->vdev, ECHO_QUEUES, e);
	if (ret < 0) {
		echo_destroy(&echo->vdev.dev);
		return ret;
	}
	*out = &echo->vdev.dev;
	return 0;
}

/* What is held stays in flight: a device that breaks the rule. */
static void echo_quiesce(struct device *dev)
{
	device_lock(dev);
	to_echo(dev)->paused = true;
	device_unlock(dev);
}

static void echo_resume(struct device *dev)
{
	device_lock(dev);
	to_echo(dev)->paused = false;
	device_unlock(dev);
	virtio_resume(to_virtio(dev));
}

static const struct device_state *const echo_states[] = {&virtio_core_state, NULL};

const struct device_class echo_class = {
	.name = "virtio-echo",
	.create = echo_create,
	.destroy = echo_destroy,
	.quiesce = echo_quiesce,
	.resume = echo_resume,
	.states = echo_states,
};
