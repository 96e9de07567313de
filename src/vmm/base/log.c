/* log.c: see log.h. */
#include "vmm/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#define LOG_LIMIT_BURST	    10
#define LOG_LIMIT_WINDOW_NS (5 * NSEC_PER_SEC)

static const char *const level_names[] = {
	[LOG_OFF] = "OFF", [LOG_ERROR] = "ERROR", [LOG_WARN] = "WARN", [LOG_INFO] = "INFO", [LOG_DEBUG] = "DEBUG", [LOG_TRACE] = "TRACE",
};

void log_init(struct log *l, int fd, enum log_level level)
{
	*l = (struct log){.fd = fd, .level = level};
	strcpy(l->id, "anonymous-instance");
}

void log_fini(struct log *l)
{
	if (l->own_fd)
		fd_close(&l->fd);
	free(l->module);
	l->module = NULL;
	l->level = LOG_OFF;
}

int log_open(struct log *l, const char *path, struct err *e)
{
	int fd = open(path, O_RDWR | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0644);

	if (fd < 0)
		return err_errno(e, "log file \"%s\"", path);
	if (l->own_fd)
		fd_close(&l->fd);
	l->fd = fd;
	l->own_fd = true;
	return 0;
}

int log_level_parse(const char *name, enum log_level *out)
{
	if (!strcasecmp(name, "Warning"))
		name = "Warn";
	for (u32 i = 0; i < ARRAY_SIZE(level_names); i++) {
		if (!strcasecmp(name, level_names[i])) {
			*out = (enum log_level)i;
			return 0;
		}
	}
	return -EINVAL;
}

static int format_head(const struct log *l, enum log_level level, const char *file, int line, char *out, size_t size)
{
	char thread[16] = "", stamp[32], lv[16] = "", origin[64] = "";
	struct timespec ts;
	struct tm tm;

	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
	pthread_getname_np(pthread_self(), thread, sizeof(thread));
	if (l->show_level)
		snprintf(lv, sizeof(lv), ":%s", level_names[level]);
	if (l->show_origin)
		snprintf(origin, sizeof(origin), ":%s:%d", file, line);
	return snprintf(out, size, "%s.%09ld [%s:%s%s%s] ", stamp, ts.tv_nsec, l->id, thread, lv, origin);
}

void log_write(struct log *l, enum log_level level, const char *file, int line, const char *fmt, ...)
{
	char buf[2048];
	size_t used;
	va_list ap;
	int n;

	if (l->module && strncmp(file, l->module, strlen(l->module)) != 0)
		return;
	used = (size_t)format_head(l, level, file, line, buf, sizeof(buf));
	va_start(ap, fmt);
	n = vsnprintf(buf + used, sizeof(buf) - used - 1, fmt, ap);
	va_end(ap);
	used = MIN(used + (size_t)MAX(n, 0), sizeof(buf) - 2);
	buf[used++] = '\n';
	if (write(l->fd, buf, used) != (ssize_t)used)
		__atomic_fetch_add(&l->dropped, 1, __ATOMIC_RELAXED);
}

bool log_limit_ok(struct log *l, struct log_limit *lim)
{
	struct timespec ts;
	u64 now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	now = (u64)ts.tv_sec * NSEC_PER_SEC + (u64)ts.tv_nsec;
	if (!lim->window_start_ns || now - lim->window_start_ns >= LOG_LIMIT_WINDOW_NS) {
		if (lim->suppressed)
			log_write(l, LOG_WARN, "log.c", 0, "%u more messages of this kind left out", lim->suppressed);
		*lim = (struct log_limit){.window_start_ns = now};
	}
	if (lim->used >= LOG_LIMIT_BURST) {
		lim->suppressed++;
		return false;
	}
	lim->used++;
	return true;
}
