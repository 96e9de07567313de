/*
 * echo_device.h: a virtio device for tests of the virtio core: it copies the device-readable part of each buffer into the device-writable
 * part, on two queues, and can be told to hold requests in flight, to end them in reverse order, and so on.
 */
#ifndef HUSK_TESTS_ECHO_DEVICE_H
#define HUSK_TESTS_ECHO_DEVICE_H

#include "virtio/virtio.h"

#define ECHO_QUEUES	2u
#define ECHO_CONFIG_LEN 12u /* not a multiple of 8 */
#define ECHO_TYPE	0xec40u
#define ECHO_F_EXTRA	7u /* a feature bit of the device */

struct echo_cfg {
	bool hold;	    /* keep requests in flight until echo_release */
	bool reverse;	    /* answer the requests of one kick in reverse order */
	bool many;	    /* answer the requests of one kick with one virtq_push_many */
	bool no_kicks;	    /* virtq_want_kicks(off) while working */
	bool no_notify;	    /* never interrupt */
	bool unpop_first;   /* put each chain back once before taking it */
	bool fail_activate; /* activate fails */
	bool touch;	    /* copy nothing, but touch both ends of each element (fuzzer: gigabytes take too long) */
};

struct echo_dev {
	struct virtio_dev vdev; /* first */
	struct echo_cfg cfg;	/* change it with the lock held */
	bool paused;		/* quiesced */
	u8 config[ECHO_CONFIG_LEN];
	u8 beyond[8];			/* not zero: what a read past the end would show */
	u32 kicks, activations, resets; /* calls of the ops; read with the lock held */
	u32 nr_held;
	struct virtq_chain held[VIRTQ_MAX_SIZE];
	struct virtq *held_q;
	struct loop_work release;
	bool only_notify; /* release: notify instead */
};

extern const struct device_class echo_class;

static inline struct echo_dev *to_echo(struct device *dev)
{
	return container_of(to_virtio(dev), struct echo_dev, vdev);
}
/* Ends all held requests on the loop thread; a reset that waits for them is then done. ctx: test */
void echo_release(struct echo_dev *echo);
/* Has the loop thread call virtq_notify on queue 0. ctx: test */
void echo_notify(struct echo_dev *echo);

#endif
