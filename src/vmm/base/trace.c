/* trace.c: see trace.h. */
#include "vmm/base/trace.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

extern const struct trace_event __start_husk_trace[], __stop_husk_trace[];

/* One event keeps the section in existence, so that the linker defines its bounds. */
static const struct trace_event trace_none __attribute__((used, section("husk_trace"))) = {"trace_none", ""};

static size_t nr_events(void)
{
	return (size_t)(__stop_husk_trace - __start_husk_trace);
}

static bool enable_matching(struct trace *t, const char *pattern)
{
	bool found = false;

	for (size_t i = 0; i < nr_events(); i++) {
		if (fnmatch(pattern, __start_husk_trace[i].name, 0) == 0) {
			t->on[i] = 1;
			found = true;
		}
	}
	return found;
}

int trace_enable(struct trace *t, const char *patterns, int fd, struct err *e)
{
	auto_free char *copy = xstrdup(patterns);
	char *rest = copy, *pattern;

	if (!t->on)
		t->on = xzalloc(nr_events());
	while ((pattern = strsep(&rest, ","))) {
		if (*pattern && !enable_matching(t, pattern))
			return err_set(e, -EINVAL, "no trace event matches \"%s\" (\"--trace help\" lists them)", pattern);
	}
	t->fd = fd;
	t->any = true;
	return 0;
}

void trace_fini(struct trace *t)
{
	free(t->on);
	*t = (struct trace){0};
}

void trace_list(int fd)
{
	for (size_t i = 0; i < nr_events(); i++) {
		if (strcmp(__start_husk_trace[i].name, trace_none.name))
			dprintf(fd, "%-24s %s\n", __start_husk_trace[i].name, __start_husk_trace[i].fmt);
	}
}

void trace_emit(const struct trace *t, const struct trace_event *ev, ...)
{
	struct timespec ts;
	char buf[512];
	va_list ap;
	int n, m;

	if (!t->on[ev - __start_husk_trace])
		return;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	n = snprintf(buf, sizeof(buf), "%lld.%09ld %s ", (long long)ts.tv_sec, ts.tv_nsec, ev->name);
	va_start(ap, ev);
	m = vsnprintf(buf + n, sizeof(buf) - (size_t)n - 1, ev->fmt, ap);
	va_end(ap);
	n = (int)MIN((size_t)n + (size_t)MAX(m, 0), sizeof(buf) - 2);
	buf[n++] = '\n';
	if (write(t->fd, buf, (size_t)n) < 0)
		return; /* a closed trace file costs the trace, nothing else */
}
