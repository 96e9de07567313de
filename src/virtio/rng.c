/* rng.c: virtio entropy device (virtio 1.2 §5.4): fills the driver's buffers with the host's random numbers. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "virtio/backend/ratelimit.h"
#include "virtio/virtio_state.h"
#include "vmm/config.h"

#define VIRTIO_ID_RNG	4
#define RNG_MAX_REQUEST (64 * KIB) /* bytes; a longer request is filled that far */
#define RNG_MAX_BATCH	32	   /* requests before the loop gets its turn */

struct cfg_rng {
	struct cfg_ratelimit *rate_limiter; /* NULL: no limit */
};

struct virtio_rng {
	struct virtio_dev vdev; /* first */
	u64 requests, bytes, host_fails;
	struct ratelimit limit;
	bool paused;
	struct virtq_chain chain;
};

/* Up to len random bytes into the iovecs; returns how many the host gave. */
static u32 fill(struct virtio_rng *rng, const struct iovec *iov, u16 nr, u32 len)
{
	u32 done = 0;

	for (u16 i = 0; i < nr && done < len; i++) {
		u8 *at = iov[i].iov_base;
		u32 want = (u32)MIN(iov[i].iov_len, len - done);

		while (want) {
			ssize_t n = getrandom(at, want, 0);

			if (n < 0 && errno == EINTR)
				continue;
			if (n < 0) {
				__atomic_fetch_add(&rng->host_fails, 1, __ATOMIC_RELAXED);
				return done;
			}
			at += n;
			want -= (u32)n;
			done += (u32)n;
		}
	}
	return done;
}

/* Answers one request. False: none there, or the limit is reached. */
static bool rng_one(struct virtio_rng *rng, struct virtq *q)
{
	struct virtq_chain *c = &rng->chain;
	u32 n;

	if (virtq_pop(q, c) <= 0)
		return false;
	n = MIN(c->in_len, RNG_MAX_REQUEST);
	if (ratelimit_active(&rng->limit) && !ratelimit_take(&rng->limit, n)) {
		virtq_unpop(q, c);
		return false;
	}
	n = fill(rng, chain_in(c), c->nr_in, n);
	__atomic_fetch_add(&rng->requests, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&rng->bytes, n, __ATOMIC_RELAXED);
	virtq_push(q, c, n);
	return true;
}

static void rng_kick(struct virtio_dev *vdev, u16 index)
{
	struct virtio_rng *rng = container_of(vdev, struct virtio_rng, vdev);
	struct virtq *q = &vdev->queues[index];
	u32 batch = 0;

	if (rng->paused)
		return;
	while (batch < RNG_MAX_BATCH && rng_one(rng, q))
		batch++;
	virtq_notify(q);
	if (batch == RNG_MAX_BATCH)
		virtio_kick_all(vdev); /* there may be more */
}

static int rng_activate(struct virtio_dev *vdev)
{
	(void)vdev;
	return 0;
}

/* Requests end within rng_kick: none is ever in flight here. */
static bool rng_reset(struct virtio_dev *vdev)
{
	(void)vdev;
	return true;
}

static const struct virtio_ops rng_ops = {
	.activate = rng_activate,
	.queue_kick = rng_kick,
	.reset = rng_reset,
};

static void rng_resume_limited(struct ratelimit *r)
{
	virtio_kick_all(&container_of(r, struct virtio_rng, limit)->vdev);
}

static void rng_destroy(struct device *dev)
{
	struct virtio_rng *rng = container_of(to_virtio(dev), struct virtio_rng, vdev);

	ratelimit_fini(&rng->limit);
	virtio_fini(&rng->vdev);
	device_fini(dev);
	free(rng);
}

static int rng_create(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct device **out,
		      struct err *e)
{
	struct virtio_rng *rng = xzalloc(sizeof(*rng));
	const struct cfg_rng *c = cfg;
	int ret;

	ratelimit_init(&rng->limit, &vm->loop, c ? c->rate_limiter : NULL, rng_resume_limited);
	device_init(&rng->vdev.dev, vm, cls, "rng", slot);
	rng->vdev.ops = &rng_ops;
	rng->vdev.type = VIRTIO_ID_RNG;
	ret = virtio_init(&rng->vdev, 1, e);
	if (ret < 0) {
		rng_destroy(&rng->vdev.dev);
		return ret;
	}
	*out = &rng->vdev.dev;
	return 0;
}

/* A request is whole within rng_kick: there is none to wait for. */
static void rng_quiesce(struct device *dev)
{
	device_lock(dev);
	container_of(to_virtio(dev), struct virtio_rng, vdev)->paused = true;
	device_unlock(dev);
}

static void rng_resume(struct device *dev)
{
	struct virtio_rng *rng = container_of(to_virtio(dev), struct virtio_rng, vdev);

	device_lock(dev);
	rng->paused = false;
	device_unlock(dev);
	virtio_resume(&rng->vdev);
}

static const struct cfg_field rng_fields[] = {
	{.key = "rate_limiter",
	 .type = CFG_OBJ,
	 .offset = offsetof(struct cfg_rng, rate_limiter),
	 .sub = &ratelimit_table,
	 .help = "limits of what the guest gets"},
};

static const struct cfg_table rng_config = {
	.name = "entropy",
	.help = "A virtio entropy device, fed from the host's getrandom(2); {} adds it.",
	.size = sizeof(struct cfg_rng),
	.fields = rng_fields,
	.nr_fields = ARRAY_SIZE(rng_fields),
};

static const struct cfg_flag rng_flag = {.name = "entropy", .help = "Add a virtio entropy device."};

static const struct counter_desc rng_counters[] = {
	{"entropy_event_count", offsetof(struct virtio_rng, requests)},
	{"entropy_bytes", offsetof(struct virtio_rng, bytes)},
	{"host_rng_fails", offsetof(struct virtio_rng, host_fails)},
	{"entropy_rate_limiter_throttled", offsetof(struct virtio_rng, limit.throttled)},
	{NULL, 0},
};

static const struct device_state *const rng_states[] = {&virtio_core_state, NULL};

const struct device_class virtio_rng_class = {
	.name = "virtio-rng",
	.section = "entropy",
	.config = &rng_config,
	.flag = &rng_flag,
	.mmio_slot = true,
	.metrics_group = "entropy",
	.counters = rng_counters,
	.acpi_hid = "LNRO0005",
	.create = rng_create,
	.destroy = rng_destroy,
	.quiesce = rng_quiesce,
	.resume = rng_resume,
	.states = rng_states,
};
