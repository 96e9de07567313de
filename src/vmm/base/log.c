/* log.c: see log.h. */
#include "vmm/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
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
	l->level = LOG_OFF;
}

int log_open(struct log *l, const char *path, struct err *e)
{
	auto_fd int fd = open(path, O_RDWR | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0644);

	if (fd < 0)
		return err_errno(e, "log file \"%s\"", path);
	/* A thread that is about to write has read the number. */
	if (l->own_fd)
		return dup3(fd, l->fd, O_CLOEXEC) < 0 ? err_errno(e, "log file \"%s\"", path) : 0;
	__atomic_store_n(&l->fd, fd_take(&fd), __ATOMIC_RELAXED);
	l->own_fd = true;
	return 0;
}

void log_set_level(struct log *l, enum log_level level)
{
	__atomic_store_n(&l->level, level, __ATOMIC_RELAXED);
}

void log_set_module(struct log *l, const char *module)
{
	u64 words[ARRAY_SIZE(l->module)] = {0};

	snprintf((char *)words, sizeof(words), "%s", module ? module : "");
	for (u32 i = 0; i < ARRAY_SIZE(words); i++)
		__atomic_store_n(&l->module[i], words[i], __ATOMIC_RELAXED);
}

void log_show(struct log *l, bool level, bool origin)
{
	__atomic_store_n(&l->show_level, level, __ATOMIC_RELAXED);
	__atomic_store_n(&l->show_origin, origin, __ATOMIC_RELAXED);
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

/* "2026-11-22T10:20:30" of seconds since 1970, UTC. Not gmtime_r, which opens /etc/localtime and takes a lock: a confined thread must not,
 * and the handler of a fault cannot. Years begin in March here, so that the leap day is the last one. */
static void format_time(time_t seconds, char *out, size_t size)
{
	u64 day = (u64)seconds / 86400 + 719468, second = (u64)seconds % 86400;
	u64 era = day / 146097, of_era = day % 146097;
	u64 year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
	u64 of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100), month = (5 * of_year + 2) / 153;

	snprintf(out, size, "%04u-%02u-%02uT%02u:%02u:%02u", (unsigned int)(400 * era + year_of_era + (month >= 10)),
		 (unsigned int)(month < 10 ? month + 3 : month - 9), (unsigned int)(of_year - (153 * month + 2) / 5 + 1),
		 (unsigned int)(second / 3600), (unsigned int)(second / 60 % 60), (unsigned int)(second % 60));
}

static int format_head(const struct log *l, enum log_level level, const char *file, int line, char *out, size_t size)
{
	char thread[16] = "", stamp[80], lv[16] = "", origin[64] = "";
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	format_time(ts.tv_sec, stamp, sizeof(stamp));
	prctl(PR_GET_NAME, thread);
	if (__atomic_load_n(&l->show_level, __ATOMIC_RELAXED))
		snprintf(lv, sizeof(lv), ":%s", level_names[level]);
	if (__atomic_load_n(&l->show_origin, __ATOMIC_RELAXED))
		snprintf(origin, sizeof(origin), ":%s:%d", file, line);
	return snprintf(out, size, "%s.%09ld [%s:%s%s%s] ", stamp, ts.tv_nsec, l->id, thread, lv, origin);
}

static bool is_of_module(const struct log *l, const char *file)
{
	u64 words[ARRAY_SIZE(l->module)];

	for (u32 i = 0; i < ARRAY_SIZE(words); i++)
		words[i] = __atomic_load_n(&l->module[i], __ATOMIC_RELAXED);
	return !strncmp(file, (const char *)words, strnlen((const char *)words, sizeof(words)));
}

void log_write(struct log *l, enum log_level level, const char *file, int line, const char *fmt, ...)
{
	char buf[2048];
	size_t used;
	va_list ap;
	int n;

	if (!is_of_module(l, file))
		return;
	used = (size_t)format_head(l, level, file, line, buf, sizeof(buf));
	va_start(ap, fmt);
	n = vsnprintf(buf + used, sizeof(buf) - used - 1, fmt, ap);
	va_end(ap);
	used = MIN(used + (size_t)MAX(n, 0), sizeof(buf) - 2);
	buf[used++] = '\n';
	if (write(__atomic_load_n(&l->fd, __ATOMIC_RELAXED), buf, used) != (ssize_t)used)
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
