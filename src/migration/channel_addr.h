/* channel_addr.h: sockets by address, for channel.c. */
#ifndef HUSK_CHANNEL_ADDR_H
#define HUSK_CHANNEL_ADDR_H

#include "vmm/base/err.h"

/* How long a connection may take to be made: ms, and no longer than until stop (may be NULL) says so, which is asked now and then. */
struct dial_limit {
	u32 ms;
	bool (*stop)(void *opaque);
	void *opaque;
};

/* *fd is the caller's. -ETIMEDOUT, -ECANCELED: the limit. */
int channel_dial(const char *address, const struct dial_limit *limit, int *fd, struct err *e) MUST_CHECK;
/* HOST of an address that has one; the caller's. */
char *channel_host(const char *address);
/* Non-blocking, small frames at once, a silent peer is noticed by the kernel, too. */
int channel_set_up_socket(int fd, u32 patience_ms, struct err *e) MUST_CHECK;

#endif
