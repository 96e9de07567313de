/* metrics.c: lines of metrics, and where they go; see metrics.h. */
#include "vmm/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/clock.h"
#include "vmm/config.h"
#include "vmm/vm.h"

#define FLUSH_EVERY_NS (60 * NSEC_PER_SEC)

void metrics_add_source(struct metrics *m, struct metrics_source *s)
{
	s->next = m->sources;
	m->sources = s;
}

/* Writes what the FIFO takes; *rest gets a copy of the remainder, NULL when there is none. -errno: it took nothing. */
static int put(struct metrics *m, const char *text, char **rest)
{
	size_t len = strlen(text);
	ssize_t n = write(m->fd, text, len);

	*rest = NULL;
	if (n < 0)
		return -errno;
	if ((size_t)n < len)
		*rest = xstrdup(text + n);
	return 0;
}

/* The end of a line comes before the next one: a reader never sees half a line. */
static int put_rest(struct metrics *m)
{
	char *rest;
	int ret;

	if (!m->rest)
		return 0;
	ret = put(m, m->rest, &rest);
	if (ret < 0)
		return ret;
	free(m->rest);
	m->rest = rest;
	return rest ? -EAGAIN : 0;
}

static int put_line(struct metrics *m, struct json_object *totals)
{
	struct json_object *line = metrics_since(totals, m->last);
	auto_free char *text = xasprintf("%s\n",
					 json_object_to_json_string_ext(line, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
	int ret = put_rest(m);

	if (ret == 0)
		ret = put(m, text, &m->rest);
	json_object_put(line);
	return ret;
}

static void flush(struct metrics *m)
{
	struct json_object *totals = metrics_totals(m->vm, m->own);
	int ret = put_line(m, totals);

	if (ret == 0) {
		json_object_put(m->last);
		m->last = totals;
		return;
	}
	json_object_put(totals);
	counter_add(ret == -EAGAIN || ret == -ENOSPC ? &m->missed_metrics_count : &m->metrics_fails, 1);
	log_warn(m->vm->log, "metrics: a line cannot be written now, the next one will make up for it: %s", strerror(-ret));
}

static void flush_again(struct loop_timer *t)
{
	struct metrics *m = container_of(t, struct metrics, timer);

	flush(m);
	loop_timer_arm(&m->vm->loop, t, clock_host_ns() + FLUSH_EVERY_NS);
}

int metrics_start(struct metrics *m, struct vm *vm, const struct cfg_metrics *cfg, struct err *e)
{
	int fd = open(cfg->metrics_path, O_RDWR | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0644);

	if (fd < 0)
		return err_errno(e, "metrics file \"%s\"", cfg->metrics_path);
	m->fd = fd;
	m->vm = vm;
	m->cfg = cfg;
	m->timer = (struct loop_timer){.expired = flush_again};
	flush_again(&m->timer);
	return 0;
}

void metrics_flush(struct metrics *m)
{
	if (m->vm)
		flush(m);
}

void metrics_stop(struct metrics *m)
{
	if (!m->vm)
		return;
	loop_timer_cancel(&m->vm->loop, &m->timer);
	flush(m);
	fd_close(&m->fd);
	json_object_put(m->last);
	free(m->rest);
	m->last = NULL;
	m->rest = NULL;
	m->vm = NULL;
}
