/*
 * err.h: failures that a user, a configuration or the host causes.
 *
 * A function that can fail that way returns 0 or -errno and takes a `struct err *e` last. The place that detects the failure
 * fills it with one sentence for the user; callers put context in front ("drive \"rootfs\": ..."). On success *e is not touched.
 * Only main prints it. Guest misbehaviour never takes this way: it marks the device broken (virtio.h).
 */
#ifndef HUSK_ERR_H
#define HUSK_ERR_H

#include "vmm/base/base.h"

struct err {
	int code;	/* -errno */
	char msg[1024]; /* one sentence, no newline; cut when longer */
};

/* Each returns the code, so that `return err_set(e, -EINVAL, ...)` is one line. e may be NULL. */
int err_set(struct err *e, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Like err_set with code -errno, and ": <strerror>" at the end. */
int err_errno(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Puts "<text>: " in front of the message. Returns e->code. */
int err_prefix(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

#endif
