/* counters.c: see counters.h. */
#include "api/counters.h"

#include <string.h>
#include <time.h>

#include "api/routes.h"
#include "vmm/clock.h"

/* The endpoints that Firecracker counts. Each covers what is below its path; "/" only itself. */
static const struct counted {
	enum api_method method;
	const char *path;
} counted[] = {
	{API_GET, "/"},			    /* 0 */
	{API_GET, "/machine-config"},	    /* 1 */
	{API_GET, "/mmds"},		    /* 2 */
	{API_GET, "/version"},		    /* 3 */
	{API_GET, "/hotplug/memory"},	    /* 4 */
	{API_PUT, "/actions"},		    /* 5 */
	{API_PUT, "/boot-source"},	    /* 6 */
	{API_PUT, "/drives"},		    /* 7 */
	{API_PUT, "/logger"},		    /* 8 */
	{API_PUT, "/machine-config"},	    /* 9 */
	{API_PUT, "/cpu-config"},	    /* 10 */
	{API_PUT, "/metrics"},		    /* 11 */
	{API_PUT, "/network-interfaces"},   /* 12 */
	{API_PUT, "/mmds"},		    /* 13 */
	{API_PUT, "/vsock"},		    /* 14 */
	{API_PUT, "/pmem"},		    /* 15 */
	{API_PUT, "/serial"},		    /* 16 */
	{API_PUT, "/hotplug/memory"},	    /* 17 */
	{API_PATCH, "/drives"},		    /* 18 */
	{API_PATCH, "/network-interfaces"}, /* 19 */
	{API_PATCH, "/machine-config"},	    /* 20 */
	{API_PATCH, "/mmds"},		    /* 21 */
	{API_PATCH, "/hotplug/memory"},	    /* 22 */
};
_Static_assert(ARRAY_SIZE(counted) <= API_COUNTED, "struct api_counters has room for them");

#define AT(field) offsetof(struct api_counters, field)
#define COUNT(name, row) \
	{ \
		name "_count", AT(requests[row].count) \
	}
#define BOTH(name, row) \
	COUNT(name, row), \
	{ \
		name "_fails", AT(requests[row].fails) \
	}

static const struct counter_desc get_counters[] = {
	COUNT("instance_info", 0), COUNT("machine_cfg", 1),    COUNT("mmds", 2),
	COUNT("vmm_version", 3),   COUNT("hotplug_memory", 4), {NULL, 0},
};
static const struct counter_desc put_counters[] = {
	BOTH("actions", 5),  BOTH("boot_source", 6), BOTH("drive", 7),		 BOTH("logger", 8), BOTH("machine_cfg", 9),
	BOTH("cpu_cfg", 10), BOTH("metrics", 11),    BOTH("network", 12),	 BOTH("mmds", 13),  BOTH("vsock", 14),
	BOTH("pmem", 15),    BOTH("serial", 16),     BOTH("hotplug_memory", 17), {NULL, 0},
};
static const struct counter_desc patch_counters[] = {
	BOTH("drive", 18), BOTH("network", 19), BOTH("machine_cfg", 20), BOTH("mmds", 21), BOTH("hotplug_memory", 22), {NULL, 0},
};
static const struct counter_desc deprecated_counters[] = {{"deprecated_http_api_calls", AT(deprecated)}, {NULL, 0}};
static const struct counter_desc server_counters[] = {
	{"process_startup_time_us", AT(start_us)}, {"process_startup_time_cpu_us", AT(start_cpu_us)}, {NULL, 0}};
static const struct counter_desc latency_counters[] = {
	{"pause_vm", AT(pause_us)},
	{"resume_vm", AT(resume_us)},
	{"vmm_pause_vm", AT(vmm_pause_us)},
	{"vmm_resume_vm", AT(vmm_resume_us)},
	{"full_create_snapshot", AT(full_us)},
	{"diff_create_snapshot", AT(diff_us)},
	{"load_snapshot", AT(load_us)},
	{"vmm_full_create_snapshot", AT(vmm_full_us)},
	{"vmm_diff_create_snapshot", AT(vmm_diff_us)},
	{"vmm_load_snapshot", AT(vmm_load_us)},
	{NULL, 0},
};
static const struct counter_desc snapshot_counters[] = {
	{"count", AT(snapshots)},
	{"package_bytes", AT(snapshot_package_bytes)},
	{"memory_bytes", AT(snapshot_memory_bytes)},
	{"drain_time_us", AT(snapshot_drain_us)},
	{"state_time_us", AT(snapshot_state_us)},
	{"memory_time_us", AT(snapshot_memory_us)},
	{"sync_time_us", AT(snapshot_sync_us)},
	{NULL, 0},
};

void api_counters_attach(struct api_counters *c, struct metrics *m)
{
	static const struct metrics_source all[API_NR_SOURCES] = {
		{"get_api_requests", get_counters, NULL, NULL},	    {"put_api_requests", put_counters, NULL, NULL},
		{"patch_api_requests", patch_counters, NULL, NULL}, {"deprecated_api", deprecated_counters, NULL, NULL},
		{"api_server", server_counters, NULL, NULL},	    {"latencies_us", latency_counters, NULL, NULL},
		{"snapshot", snapshot_counters, NULL, NULL},
	};

	for (u32 i = 0; all[i].group; i++) {
		c->sources[i] = all[i];
		c->sources[i].base = c;
		metrics_add_source(m, &c->sources[i]);
	}
}

static bool covers(const char *path, const char *route)
{
	size_t len = strlen(path);

	return !strncmp(path, route, len) && (!route[len] || (len > 1 && route[len] == '/'));
}

/* The row of r, or -1. */
static int row_of(const struct route *r)
{
	for (int i = 0; i < (int)ARRAY_SIZE(counted); i++) {
		if (counted[i].method == r->method && covers(counted[i].path, r->path))
			return i;
	}
	return -1;
}

void api_counters_request(struct api_counters *c, const struct route *r)
{
	int row = row_of(r);

	if (row >= 0)
		counter_add(&c->requests[row].count, 1);
}

void api_counters_refused(struct api_counters *c, const struct route *r)
{
	int row = row_of(r);

	if (row >= 0)
		counter_add(&c->requests[row].fails, 1);
}

void api_counters_started(struct api_counters *c, u64 start_us, u64 start_cpu_us, u64 parent_cpu_us)
{
	u64 now_us = clock_host_ns() / 1000;
	struct timespec cpu;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
	if (start_us && start_us <= now_us)
		c->start_us = now_us - start_us;
	c->start_cpu_us = (u64)cpu.tv_sec * 1000000 + (u64)cpu.tv_nsec / 1000 + parent_cpu_us;
	c->start_cpu_us -= MIN(start_cpu_us, c->start_cpu_us);
}

void api_counters_time(u64 *us, u64 start_ns)
{
	__atomic_store_n(us, (clock_host_ns() - start_ns) / 1000, __ATOMIC_RELAXED);
}
