/* channel_addr.h: sockets by address, for channel.c. */
#ifndef HUSK_CHANNEL_ADDR_H
#define HUSK_CHANNEL_ADDR_H

#include "vmm/base/err.h"

/* Connects within patience_ms; *fd is the caller's. */
int channel_dial(const char *address, u32 patience_ms, int *fd, struct err *e) MUST_CHECK;
/* HOST of an address that has one; the caller's. */
char *channel_host(const char *address);
/* Non-blocking, small frames at once, a silent peer is noticed by the kernel, too. */
int channel_set_up_socket(int fd, u32 patience_ms, struct err *e) MUST_CHECK;

#endif
