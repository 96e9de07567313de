/*
 * mmds.h: what stands between the network devices, which take the guest's metadata requests off its network, and the service, which answers
 * them: the devices know no HTTP, the service (api/mmds.h) knows no frames.
 */
#ifndef HUSK_VMM_MMDS_H
#define HUSK_VMM_MMDS_H

#include "vmm/base/buf.h"

/* Bytes of a request with its headers; what is longer is refused. */
#define MMDS_REQUEST_MAX 4096u

/* Firecracker's metrics group "mmds". Added to by the loop thread (atomic, relaxed). */
struct mmds_counters {
	u64 rx_accepted, rx_accepted_err, rx_accepted_unusual; /* frames for the service; malformed ones; for no connection */
	u64 rx_bad_eth;					       /* frames too short to say whom they are for */
	u64 rx_count;					       /* requests */
	u64 rx_invalid_token, rx_no_token;		       /* requests */
	u64 tx_bytes, tx_count, tx_errors, tx_frames;	       /* frames to the guest */
	u64 connections_created, connections_destroyed;
};

struct mmds_service {
	/* Looks at the bytes of a connection that have come so far. Returns how many it has dealt with: 0: the request is not whole yet
	 * (never for MMDS_REQUEST_MAX bytes). Otherwise an answer is appended to reply; *close: it is the last of the connection. ctx: loop
	 */
	u32 (*serve)(struct mmds_service *s, const u8 *data, u32 len, struct buf *reply, bool *close);
	struct mmds_counters counters;
};

static inline void mmds_count(u64 *counter, u64 n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

#endif
