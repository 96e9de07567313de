/* metrics.c: see metrics.h. */
#include "vmm/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vmm/clock.h"
#include "vmm/vm.h"

#define FLUSH_EVERY_NS (60 * NSEC_PER_SEC)

/* Adds the counters of one object to group, so that several vCPUs sum up. */
static void add_counters(struct json_object *group, const struct counter_desc *c, const void *base)
{
	for (; c->name; c++) {
		const u64 *value = (const void *)((const char *)base + c->offset);
		struct json_object *old = NULL;
		u64 sum = __atomic_load_n(value, __ATOMIC_RELAXED);

		if (json_object_object_get_ex(group, c->name, &old))
			sum += json_object_get_uint64(old);
		json_object_object_add(group, c->name, json_object_new_uint64(sum));
	}
}

static struct json_object *collect(struct vm *vm)
{
	struct json_object *all = json_object_new_object(), *vcpu = json_object_new_object();
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	json_object_object_add(all, "utc_timestamp_ms", json_object_new_int64(ts.tv_sec * 1000 + ts.tv_nsec / (long)NSEC_PER_MSEC));
	json_object_object_add(all, "vcpu", vcpu);
	for (u32 i = 0; vm->accel->counters && i < vm->nr_vcpus; i++)
		add_counters(vcpu, vm->accel->counters, vm->vcpus[i].accel);
	for (u32 i = 0; i < vm->nr_devices; i++) {
		const struct device *dev = vm->devices[i];
		struct json_object *group;
		auto_free char *name = NULL;

		if (!dev->cls->metrics_group)
			continue;
		name = dev->cls->list ? xasprintf("%s_%s", dev->cls->metrics_group, dev->id) : xstrdup(dev->cls->metrics_group);
		group = json_object_new_object();
		add_counters(group, dev->cls->counters, dev);
		json_object_object_add(all, name, group);
	}
	return all;
}

static void flush(struct metrics *m)
{
	struct json_object *all = collect(m->vm);
	auto_free char *line = xasprintf("%s\n", json_object_to_json_string_ext(all, JSON_C_TO_STRING_PLAIN));

	json_object_put(all);
	if (write(m->fd, line, strlen(line)) < 0)
		log_warn(m->vm->log, "metrics: a line was lost: %s", strerror(errno));
}

static void flush_again(struct loop_timer *t)
{
	struct metrics *m = container_of(t, struct metrics, timer);

	flush(m);
	loop_timer_arm(&m->vm->loop, t, clock_host_ns() + FLUSH_EVERY_NS);
}

int metrics_start(struct metrics *m, struct vm *vm, const char *path, struct err *e)
{
	*m = (struct metrics){.timer.expired = flush_again};
	m->fd = open(path, O_RDWR | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0644);
	if (m->fd < 0)
		return err_errno(e, "metrics file \"%s\"", path);
	m->vm = vm;
	flush_again(&m->timer);
	return 0;
}

void metrics_stop(struct metrics *m)
{
	if (!m->vm)
		return;
	loop_timer_cancel(&m->vm->loop, &m->timer);
	flush(m);
	fd_close(&m->fd);
	m->vm = NULL;
}
