/*
 * net_bench.h: what the tests of the network device share: a VM with one interface, frames with known content, the driver's side of
 * receive, transmit and control.
 */
#ifndef HUSK_TESTS_NET_BENCH_H
#define HUSK_TESTS_NET_BENCH_H

#include "tests/unit/cm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/dev/fake_driver.h"
#include "virtio/net_dev.h"

extern const struct device_class virtio_net_class;

#define TEST_PROTO 0x88b5 /* IEEE 802.1 local experimental: nobody else on a tap speaks it */
#define BUF_SIZE   1536u
#define WAIT_MS	   5000u
#define BIG	   60000u

struct fixture {
	struct fake_vm f;
	struct fdrv d;
	struct device *dev;
	struct net_cfg cfg;
	struct net_counters counted;
	int host;     /* packet socket on the tap, or our end of a stream */
	u64 tx, ctrl; /* guest addresses: 128 KiB of frame, 4 KiB of command */
	u8 *frame;    /* 128 KiB of the host's side */
	u8 *got;      /* the same, received by the guest */
};

static inline void fill(u8 *p, u32 len, u32 seed)
{
	for (u32 i = 0; i < len; i++) {
		seed = seed * 1664525 + 1013904223;
		p[i] = (u8)(seed >> 24);
	}
}

/* An Ethernet frame of len bytes; the content follows from seed. */
static inline void make_frame(u8 *p, u32 len, u32 seed)
{
	fill(p, len, seed);
	memset(p, 0xff, 6);
	memcpy(p + 6, "\x02\x00\x00\x00\x00\x01", 6);
	p[12] = TEST_PROTO >> 8;
	p[13] = TEST_PROTO & 0xff;
}

static inline struct fixture *bench_new(void)
{
	struct fixture *x = calloc(1, sizeof(*x));

	x->host = -1;
	x->frame = malloc(128 * KIB);
	x->got = malloc(128 * KIB);
	x->cfg = (struct net_cfg){.iface_id = (char *)"net0", .queue_pairs = 1};
	fake_vm_init(&x->f, FAKE_VM_QUIET);
	x->tx = fake_vm_alloc(&x->f, 128 * KIB, 4096);
	x->ctrl = fake_vm_alloc(&x->f, 4096, 4096);
	return x;
}

static inline void bench_free(struct fixture *x)
{
	fake_vm_fini(&x->f);
	close(x->host);
	free(x->frame);
	free(x->got);
	free(x);
}

static inline void bench_add(struct fixture *x)
{
	x->dev = fake_vm_add(&x->f, &virtio_net_class, &x->cfg);
}

static inline void bench_run(struct fixture *x, u64 features)
{
	fake_vm_start(&x->f);
	fdrv_up(&x->d, &x->f, x->dev, features, (u16)(2 * x->cfg.queue_pairs + 1), 256);
}

/* What the device has counted up to now. */
static inline const struct net_counters *counters(struct fixture *x)
{
	device_lock(x->dev);
	x->counted = to_net(to_virtio(x->dev))->counters;
	device_unlock(x->dev);
	return &x->counted;
}

/* ---- the driver's side ---- */

/* Tokens are guest addresses. */
static inline void *token_of(u64 gpa)
{
	return (void *)(uintptr_t)gpa;
}

static inline void post_rx(struct fixture *x, u16 pair, u32 nr, u32 size)
{
	for (u32 i = 0; i < nr; i++) {
		struct fbuf in = {fake_vm_alloc(&x->f, size, 1), size};

		assert_true(fdrv_add(&x->d, (u16)(2 * pair), NULL, 0, &in, 1, token_of(in.gpa)));
	}
	fdrv_kick(&x->d, (u16)(2 * pair));
}

/* Takes one used buffer into x->got at `at`; returns its length. Posts it again if asked. */
static inline u32 rx_buffer(struct fixture *x, u16 q, u32 at, u32 repost)
{
	void *token;
	u32 len;

	if (!fdrv_wait_used(&x->d, q, &token, &len, WAIT_MS))
		fail_msg("no frame");
	memcpy(x->got + at, fake_vm_ptr(&x->f, (u64)(uintptr_t)token, len), len);
	if (repost) {
		struct fbuf in = {(u64)(uintptr_t)token, repost};

		assert_true(fdrv_add(&x->d, q, NULL, 0, &in, 1, token));
		fdrv_kick(&x->d, q);
	}
	return len;
}

/* Receives one frame, of as many buffers as its header says; returns the length without the header. */
static inline u32 rx_frame(struct fixture *x, u16 pair, u32 repost)
{
	u16 q = (u16)(2 * pair);
	u32 len = rx_buffer(x, q, 0, repost);
	struct virtio_net_hdr_v1 h;
	u16 nr = 1;

	for (; len < sizeof(h); nr++)
		len += rx_buffer(x, q, len, repost);
	memcpy(&h, x->got, sizeof(h));
	for (; nr < h.num_buffers; nr++)
		len += rx_buffer(x, q, len, repost);
	return len - NET_HDR_LEN;
}

static inline void expect_frame(struct fixture *x, u32 len, u32 seed, u32 repost)
{
	make_frame(x->frame, len, seed);
	assert_int_equal(rx_frame(x, 0, repost), len);
	assert_memory_equal(x->got + NET_HDR_LEN, x->frame, len);
}

/* Nothing comes up to the driver. */
static inline void expect_silence(struct fixture *x)
{
	assert_false(fdrv_wait_used(&x->d, 0, NULL, NULL, 50));
}

static inline void tx_raw(struct fixture *x, u16 pair, const void *hdr, u32 len)
{
	struct fbuf out = {x->tx, NET_HDR_LEN + len};

	memcpy(fake_vm_ptr(&x->f, x->tx, NET_HDR_LEN), hdr, NET_HDR_LEN);
	fdrv_request(&x->d, (u16)(2 * pair + 1), &out, 1, NULL, 0);
}

static inline void tx_frame(struct fixture *x, u32 len, u32 seed)
{
	struct virtio_net_hdr_v1 h = {0};

	make_frame(fake_vm_ptr(&x->f, x->tx + NET_HDR_LEN, len), len, seed);
	tx_raw(x, 0, &h, len);
}

static inline u8 ctrl(struct fixture *x, u8 class, u8 cmd, const void *data, u32 len)
{
	u16 q = (u16)(x->d.features & BIT(VIRTIO_NET_F_MQ) ? 2 * x->cfg.queue_pairs : 2);
	u8 *p = fake_vm_ptr(&x->f, x->ctrl, 4096);
	struct fbuf out[2] = {{x->ctrl, 2}, {x->ctrl + 2, len}}, ack = {x->ctrl + 4000, 1};

	p[0] = class;
	p[1] = cmd;
	memcpy(p + 2, data, len);
	p[4000] = 0xee;
	fdrv_request(&x->d, q, out, len ? 2 : 1, &ack, 1);
	return p[4000];
}

static inline bool link_is_up(struct fixture *x)
{
	return fdrv_config16(&x->d, 6) & VIRTIO_NET_S_LINK_UP;
}

static inline void expect_link_down(struct fixture *x)
{
	for (int i = 0; i < 500 && link_is_up(x); i++)
		usleep(10000);
	assert_false(link_is_up(x));
	assert_true(fdrv_read(&x->d, MMIO_CONFIG_GENERATION) > 0);
}

static inline void refuse(struct fixture *x, int code, const char *words)
{
	struct err e = {0};

	assert_null(fake_vm_add_err(&x->f, &virtio_net_class, &x->cfg, &e));
	assert_int_equal(e.code, code);
	if (!strstr(e.msg, words))
		fail_msg("\"%s\" does not say \"%s\"", e.msg, words);
}

#endif
