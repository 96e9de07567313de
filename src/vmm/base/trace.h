/*
 * trace.h: events that can be switched on at run time: --trace 'virtio_*,bus_*'.
 *
 *   trace(&vm->trace, virtio_kick, "dev=%s q=%u", dev->id, q);
 *
 * A switched-off event costs one predicted branch on trace->any. Each use makes a constant record in the linker section
 * husk_trace, which `husk run --trace help` lists; which of them are on is kept per struct trace (no global state).
 */
#ifndef HUSK_TRACE_H
#define HUSK_TRACE_H

#include "vmm/base/err.h"

struct trace_event {
	const char *name;
	const char *fmt;
};

struct trace {
	bool any;
	u8 *on; /* owned; one flag per event of the section */
	int fd; /* borrowed; where lines go */
};

/* Switches on the events that one of the comma-separated shell patterns matches; -EINVAL names a pattern without a match. */
int trace_enable(struct trace *t, const char *patterns, int fd, struct err *e) MUST_CHECK;
void trace_fini(struct trace *t);
/* Prints name and format of every event of this build. */
void trace_list(int fd);
/* ctx: any */
void trace_emit(const struct trace *t, const struct trace_event *ev, ...);

#define trace(t, ev_name, ev_fmt, ...) \
	do { \
		static const struct trace_event ev_##ev_name __attribute__((used, section("husk_trace"))) = {#ev_name, ev_fmt}; \
		if (unlikely((t)->any)) { \
			if (0) \
				trace_check(ev_fmt, ##__VA_ARGS__); \
			trace_emit((t), &ev_##ev_name, ##__VA_ARGS__); \
		} \
	} while (0)
static inline void PRINTF_LIKE(1, 2) trace_check(const char *fmt, ...)
{
	(void)fmt;
}

#endif
