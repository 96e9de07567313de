/*
 * log.h: the structured log. One line per message, written with one write(2):
 *   2026-11-22T10:20:30.123456789 [id:thread:LEVEL:file:line] message
 * LEVEL and file:line are there when show_level and show_origin are set (Firecracker's format).
 * ctx: any, unless said otherwise.
 */
#ifndef HUSK_LOG_H
#define HUSK_LOG_H

#include <pthread.h>

#include "vmm/base/err.h"

enum log_level { LOG_OFF, LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG, LOG_TRACE };

#define LOG_MODULE_MAX 64 /* bytes; no file's name is as long */

/* No lock: what changes while others log is atomic, and a fault handler logs, too. */
struct log {
	int fd;	     /* owned when own_fd; the number stays, the file behind it changes */
	bool own_fd; /* false: stdout or stderr */
	enum log_level level;
	bool show_level, show_origin;
	char id[65]; /* microVM id, "anonymous-instance" by default */
	u64 dropped; /* lines that a full FIFO or disk refused; atomic */
	u64 module[LOG_MODULE_MAX /
		   8]; /* a path prefix ("virtio/") in bytes: other files log nothing; "": no such limit; words are atomic */
};

/* At most `burst` messages in 5 s from one place that a guest can drive; the count of what was left out follows. */
struct log_limit {
	u64 window_start_ns;
	u32 used, suppressed;
};

void log_init(struct log *l, int fd, enum log_level level);
void log_fini(struct log *l);
/* Sends the log to a file or FIFO: created if missing, neither truncated nor appended to, non-blocking. ctx: main */
int log_open(struct log *l, const char *path, struct err *e) MUST_CHECK;
/* Parses a level name in any case ("Warning" and "Warn" are one). Returns 0 or -EINVAL. */
int log_level_parse(const char *name, enum log_level *out);

void log_set_level(struct log *l, enum log_level level);
/* module: NULL: no such limit. ctx: main */
void log_set_module(struct log *l, const char *module);
void log_show(struct log *l, bool level, bool origin);

/* Also from the handler of a fault that ends the process. */
void log_write(struct log *l, enum log_level level, const char *file, int line, const char *fmt, ...) PRINTF_LIKE(5, 6);
bool log_limit_ok(struct log *l, struct log_limit *lim);

static inline bool log_wants(const struct log *l, enum log_level level)
{
	return __atomic_load_n(&l->level, __ATOMIC_RELAXED) >= level;
}

#define log_at(l, lv, ...) \
	do { \
		if (unlikely(log_wants((l), (lv)))) \
			log_write((l), (lv), __FILE_NAME__, __LINE__, __VA_ARGS__); \
	} while (0)
#define log_error(l, ...) log_at(l, LOG_ERROR, __VA_ARGS__)
#define log_warn(l, ...)  log_at(l, LOG_WARN, __VA_ARGS__)
#define log_info(l, ...)  log_at(l, LOG_INFO, __VA_ARGS__)
#define log_debug(l, ...) log_at(l, LOG_DEBUG, __VA_ARGS__)
/* For what a guest did wrong: a warning, rate-limited by lim. */
#define log_guest(l, lim, ...) \
	do { \
		if (log_wants((l), LOG_WARN) && log_limit_ok((l), (lim))) \
			log_write((l), LOG_WARN, __FILE_NAME__, __LINE__, __VA_ARGS__); \
	} while (0)

#endif
