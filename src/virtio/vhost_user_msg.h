/*
 * vhost_user_msg.h: messages of the vhost-user protocol (QEMU's docs/interop/vhost-user) on a non-blocking stream socket. Husk is the front
 * end; the peer is the back end. What the peer sends is not trusted: lengths are checked here, meanings by the caller.
 */
#ifndef HUSK_VHOST_USER_MSG_H
#define HUSK_VHOST_USER_MSG_H

#include <linux/vhost_types.h>

#include "vmm/base/err.h"

#define VU_VERSION    1u
#define VU_REPLY      4u /* flags */
#define VU_NEED_REPLY 8u

#define VU_F_PROTOCOL_FEATURES 30 /* a feature bit that no device has */

/* Protocol features, bit numbers */
#define VU_P_MQ		  0
#define VU_P_REPLY_ACK	  3
#define VU_P_BACKEND_REQ  5
#define VU_P_CONFIG	  9
#define VU_P_RESET_DEVICE 13
#define VU_P_STATUS	  16

enum vu_request {
	VU_GET_FEATURES = 1,
	VU_SET_FEATURES = 2,
	VU_SET_OWNER = 3,
	VU_SET_MEM_TABLE = 5,
	VU_SET_VRING_NUM = 8,
	VU_SET_VRING_ADDR = 9,
	VU_SET_VRING_BASE = 10,
	VU_GET_VRING_BASE = 11,
	VU_SET_VRING_KICK = 12,
	VU_SET_VRING_CALL = 13,
	VU_GET_PROTOCOL_FEATURES = 15,
	VU_SET_PROTOCOL_FEATURES = 16,
	VU_GET_QUEUE_NUM = 17,
	VU_SET_VRING_ENABLE = 18,
	VU_SET_BACKEND_REQ_FD = 21,
	VU_GET_CONFIG = 24,
	VU_RESET_DEVICE = 34,
	VU_SET_STATUS = 39,
};

/* What the peer asks on its own channel */
#define VU_BACKEND_CONFIG_CHANGE 2u

#define VU_MAX_REGIONS 8u   /* of the memory table, without CONFIGURE_MEM_SLOTS */
#define VU_MAX_CONFIG  256u /* bytes of configuration space */

struct vu_header {
	u32 request, flags, size; /* size: bytes of payload */
};

struct vu_region {
	u64 guest_addr, size, user_addr, mmap_offset;
};

struct vu_memory {
	u32 nr, padding;
	struct vu_region regions[VU_MAX_REGIONS];
};

struct vu_config {
	u32 offset, size, flags;
	u8 data[VU_MAX_CONFIG];
};
#define VU_CONFIG_HEAD offsetof(struct vu_config, data)

struct vu_msg {
	struct vu_header h;
	union {
		u64 u64;
		struct vhost_vring_state state;
		struct vhost_vring_addr addr;
		struct vu_memory memory;
		struct vu_config config;
	} p __attribute__((packed));
} __attribute__((packed));

/* One direction of a connection that is being read. */
struct vu_stream {
	u32 have; /* bytes of msg that are there */
	struct vu_msg msg;
};

/* Reads on; descriptors that come along are closed, none is ever asked for. 1: s->msg is whole, and the next call starts a new one; 0: not
 * yet; -ENOTCONN: the peer is gone; -EPROTO: it breaks the protocol; the sentence names no peer. Does not block. */
int vu_receive(struct vu_stream *s, int fd, struct err *e) MUST_CHECK;

/* Sends msg and nr_fds (at most VU_MAX_REGIONS) descriptors. Does not block: a peer that lets its socket fill up is an error. */
int vu_transmit(int fd, const struct vu_msg *msg, const int *fds, u32 nr_fds, struct err *e) MUST_CHECK;

/* "GET_FEATURES", for messages */
const char *vu_request_name(u32 request);

#endif
