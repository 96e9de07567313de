/* metrics_tree.c: the counters of a VM as a JSON object, and the difference of two of them; see metrics.h. */
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "vmm/config.h"
#include "vmm/vm.h"

/*
 * Firecracker's groups and keys, which are all there always: a reader of metrics may rely on them. What husk does not count is 0. Keys that
 * end in "_agg" are {min_us, max_us, sum_us}. A counter that is not listed goes into the group "husk".
 */
static const struct group {
	const char *name;
	const char *keys; /* separated by spaces */
	bool alone;	  /* only as <name>_<id>; there is no sum of them */
} groups[] = {
	{"api_server", "process_startup_time_us process_startup_time_cpu_us", false},
	{"balloon",
	 "activate_fails cfg_fails inflate_count stats_updates_count stats_update_fails deflate_count event_fails "
	 "free_page_report_count free_page_report_freed free_page_report_fails free_page_hint_count free_page_hint_freed "
	 "free_page_hint_fails",
	 false},
	{"block",
	 "activate_fails cfg_fails no_avail_buffer event_fails execute_fails invalid_reqs_count flush_count queue_event_count "
	 "rate_limiter_event_count update_count update_fails read_bytes write_bytes read_count write_count read_agg write_agg "
	 "rate_limiter_throttled_events io_engine_throttled_events remaining_reqs_count",
	 false},
	{"deprecated_api", "deprecated_http_api_calls", false},
	{"entropy",
	 "activate_fails entropy_event_fails entropy_event_count entropy_bytes host_rng_fails entropy_rate_limiter_throttled "
	 "rate_limiter_event_count",
	 false},
	{"get_api_requests", "instance_info_count machine_cfg_count mmds_count vmm_version_count hotplug_memory_count", false},
	{"i8042", "error_count missed_read_count missed_write_count read_count reset_count write_count", false},
	{"interrupts", "triggers config_updates", false},
	{"latencies_us",
	 "full_create_snapshot diff_create_snapshot load_snapshot pause_vm resume_vm vmm_full_create_snapshot vmm_diff_create_snapshot "
	 "vmm_load_snapshot vmm_pause_vm vmm_resume_vm",
	 false},
	{"logger", "missed_metrics_count metrics_fails missed_log_count", false},
	{"memory_hotplug",
	 "activate_fails queue_event_fails queue_event_count plug_count plug_bytes plug_fails plug_agg unplug_count unplug_bytes "
	 "unplug_fails unplug_discard_fails unplug_agg state_count state_fails state_agg unplug_all_count unplug_all_fails unplug_all_agg",
	 false},
	{"mmds",
	 "rx_accepted rx_accepted_err rx_accepted_unusual rx_bad_eth rx_invalid_token rx_no_token rx_count tx_bytes tx_count tx_errors "
	 "tx_frames connections_created connections_destroyed",
	 false},
	{"net",
	 "activate_fails cfg_fails mac_address_updates no_rx_avail_buffer no_tx_avail_buffer event_fails rx_queue_event_count "
	 "rx_event_rate_limiter_count rx_rate_limiter_throttled rx_tap_event_count rx_bytes_count rx_packets_count rx_fails rx_count "
	 "tap_read_fails tap_write_fails tap_write_agg tx_bytes_count tx_malformed_frames tx_fails tx_count tx_packets_count "
	 "tx_queue_event_count tx_rate_limiter_event_count tx_rate_limiter_throttled tx_spoofed_mac_count tx_remaining_reqs_count",
	 false},
	{"patch_api_requests",
	 "drive_count drive_fails network_count network_fails machine_cfg_count machine_cfg_fails mmds_count mmds_fails "
	 "hotplug_memory_count hotplug_memory_fails",
	 false},
	{"pmem", "activate_fails cfg_fails event_fails queue_event_count", false},
	{"put_api_requests",
	 "actions_count actions_fails boot_source_count boot_source_fails drive_count drive_fails logger_count logger_fails "
	 "machine_cfg_count machine_cfg_fails cpu_cfg_count cpu_cfg_fails metrics_count metrics_fails network_count network_fails "
	 "mmds_count mmds_fails vsock_count vsock_fails pmem_count pmem_fails serial_count serial_fails hotplug_memory_count "
	 "hotplug_memory_fails",
	 false},
	{"seccomp", "num_faults", false},
	{"signals", "sigbus sigsegv sigxfsz sigxcpu sigpipe sighup sigill", false},
	{"uart", "error_count flush_count missed_read_count missed_write_count rate_limiter_dropped_bytes read_count write_count", false},
	{"vcpu",
	 "exit_io_in exit_io_out exit_mmio_read exit_mmio_write failures kvmclock_ctrl_fails exit_io_in_agg exit_io_out_agg "
	 "exit_mmio_read_agg exit_mmio_write_agg",
	 false},
	{"vhost_user_block", "activate_fails cfg_fails init_time_us activate_time_us config_change_time_us", true},
	{"vhost_user_fs", "activate_fails cfg_fails init_time_us activate_time_us config_change_time_us", true},
	{"vmm", "panic_count", false},
	{"vsock",
	 "activate_fails cfg_fails rx_queue_event_fails tx_queue_event_fails ev_queue_event_fails muxer_event_fails conn_event_fails "
	 "rx_queue_event_count tx_queue_event_count rx_bytes_count tx_bytes_count rx_packets_count tx_packets_count conns_added "
	 "conns_killed conns_removed killq_resync tx_flush_fails tx_write_fails rx_read_fails",
	 false},
};

static const struct group *find_group(const char *name)
{
	for (u32 i = 0; i < ARRAY_SIZE(groups); i++) {
		if (!strcmp(groups[i].name, name))
			return &groups[i];
	}
	return NULL;
}

static bool ends_with(const char *s, const char *end)
{
	size_t len = strlen(s), n = strlen(end);

	return len >= n && !strcmp(s + len - n, end);
}

bool metrics_is_last_value(const char *group, const char *key)
{
	static const char *const keys[] = {"min_us", "max_us", "panic_count", "utc_timestamp_ms"};

	if (!strcmp(group, "latencies_us") || !strcmp(group, "seccomp") || !strcmp(group, "signals"))
		return true;
	for (u32 i = 0; i < ARRAY_SIZE(keys); i++) {
		if (!strcmp(keys[i], key))
			return true;
	}
	return ends_with(key, "_time_us") || ends_with(key, "_time_cpu_us");
}

/* ---- Totals ---- */

static struct json_object *object(struct json_object *parent, const char *key)
{
	struct json_object *o = json_object_object_get(parent, key);

	if (!o) {
		o = json_object_new_object();
		json_object_object_add(parent, key, o);
	}
	return o;
}

static void add_number(struct json_object *o, const char *key, u64 n)
{
	struct json_object *old = json_object_object_get(o, key);

	json_object_object_add(o, key, json_object_new_uint64(n + (old ? json_object_get_uint64(old) : 0)));
}

/* one: minimum and maximum are of one device; those of several together are not kept (0), as by Firecracker. */
static void add_latency(struct json_object *o, const char *key, const struct latency *l, bool one)
{
	struct json_object *agg = object(o, key);

	add_number(agg, "min_us", one ? __atomic_load_n(&l->min_ns, __ATOMIC_RELAXED) / 1000 : 0);
	add_number(agg, "max_us", one ? __atomic_load_n(&l->max_ns, __ATOMIC_RELAXED) / 1000 : 0);
	add_number(agg, "sum_us", __atomic_load_n(&l->sum_ns, __ATOMIC_RELAXED) / 1000);
}

static struct json_object *add_zeros(struct json_object *all, const char *name, const char *keys)
{
	static const struct latency none = {0};
	struct json_object *o = object(all, name);
	char key[64];

	for (size_t len; (len = strcspn(keys, " ")) > 0; keys += len + (keys[len] == ' ')) {
		snprintf(key, sizeof(key), "%.*s", (int)len, keys);
		if (ends_with(key, "_agg"))
			add_latency(o, key, &none, true);
		else
			add_number(o, key, 0);
	}
	return o;
}

/* Where a counter goes: its group, or the group of the same name in `own`. NULL: nowhere. */
static struct json_object *home_of(struct json_object *all, struct json_object *own, const char *name, const char *key)
{
	struct json_object *group = json_object_object_get(all, name);

	if (group && json_object_object_get_ex(group, key, NULL))
		return group;
	return own ? object(own, name) : NULL;
}

static void add_counters(struct json_object *all, struct json_object *own, const char *name, const struct counter_desc *c, const void *base,
			 bool one)
{
	for (; c && c->name; c++) {
		struct json_object *o = home_of(all, own, name, c->name);
		const void *at = (const char *)base + c->offset;

		if (o && ends_with(c->name, "_agg"))
			add_latency(o, c->name, at, one);
		else if (o)
			add_number(o, c->name, __atomic_load_n((const u64 *)at, __ATOMIC_RELAXED));
	}
}

/* A device of a list has a group of its own and is part of the sum. */
static void add_device(struct json_object *all, struct json_object *own, const struct device *dev)
{
	const char *name = dev->cls->metrics_group;
	const struct group *g = name ? find_group(name) : NULL;
	auto_free char *each = NULL;

	if (!name)
		return;
	if (!dev->cls->list) {
		add_counters(all, own, name, dev->cls->counters, dev, true);
		return;
	}
	each = xasprintf("%s_%s", name, dev->id);
	if (g)
		add_zeros(all, each, g->keys);
	add_counters(all, own, each, dev->cls->counters, dev, true);
	if (g && !g->alone)
		add_counters(all, NULL, name, dev->cls->counters, dev, false);
}

#define ACCESS(name, space, write) \
	{name, offsetof(struct vm, counters.accesses[space][write])}, \
	{ \
		name "_agg", offsetof(struct vm, counters.access_time[space][write]) \
	}
static const struct counter_desc vcpu_counters[] = {
	ACCESS("exit_io_in", BUS_PIO, 0),
	ACCESS("exit_io_out", BUS_PIO, 1),
	ACCESS("exit_mmio_read", BUS_MMIO, 0),
	ACCESS("exit_mmio_write", BUS_MMIO, 1),
	{"failures", offsetof(struct vm, counters.vcpu_failures)},
	{NULL, 0},
};
static const struct counter_desc interrupt_counters[] = {{"triggers", offsetof(struct vm, counters.interrupts)}, {NULL, 0}};
static const struct counter_desc metrics_counters[] = {
	{"missed_metrics_count", offsetof(struct metrics, missed_metrics_count)},
	{"metrics_fails", offsetof(struct metrics, metrics_fails)},
	{NULL, 0},
};
static const struct counter_desc log_counters[] = {{"missed_log_count", offsetof(struct log, dropped)}, {NULL, 0}};

#define MOVES(name, field) \
	{ \
		name, offsetof(struct vm, counters.migration.field) \
	}
static const struct counter_desc migration_counters[] = {
	MOVES("started_count", started),
	MOVES("completed_count", completed),
	MOVES("failed_count", failed),
	MOVES("cancelled_count", cancelled),
	MOVES("taken_back_count", taken_back),
	MOVES("arrived_count", arrived),
	MOVES("taken_over_count", taken_over),
	MOVES("paused_count", paused),
	MOVES("recovered_count", recovered),
	MOVES("sent_bytes", sent_bytes),
	MOVES("received_bytes", received_bytes),
	MOVES("sent_pages", sent_pages),
	MOVES("zero_pages", zero_pages),
	MOVES("received_pages", received_pages),
	MOVES("sent_disk_pages", sent_disk_pages),
	MOVES("received_disk_pages", received_disk_pages),
	MOVES("rounds", rounds),
	MOVES("request_count", requests),
	MOVES("fault_count", faults),
	MOVES("fault_agg", fault),
	MOVES("downtime_time_us", downtime_us),
	{NULL, 0},
};

static void add_core(struct json_object *all, struct json_object *own, const struct vm *vm)
{
	add_counters(all, own, "vcpu", vcpu_counters, vm, true);
	add_counters(all, own, "interrupts", interrupt_counters, vm, true);
	add_counters(all, own, "migration", migration_counters, vm, true);
	add_counters(all, own, "logger", metrics_counters, &vm->metrics, true);
	add_counters(all, own, "logger", log_counters, vm->log, true);
	for (u32 i = 0; vm->accel && vm->accel->counters && i < vm->nr_vcpus; i++)
		add_counters(all, own, vm->accel->name, vm->accel->counters, vm->vcpus[i].accel, true);
}

static void add_words(struct json_object *all, const struct vm *vm)
{
	const struct cfg_metrics *cfg = vm->metrics.cfg;

	if (cfg && cfg->emit_id)
		json_object_object_add(all, "id", json_object_new_string(vm->log->id));
	if (cfg && cfg->properties)
		json_object_object_add(all, "properties", json_tokener_parse(cfg->properties));
}

struct json_object *metrics_totals(const struct vm *vm, bool with_own)
{
	struct json_object *all = json_object_new_object(), *own = with_own ? json_object_new_object() : NULL;
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	json_object_object_add(all, "utc_timestamp_ms", json_object_new_int64(ts.tv_sec * 1000 + ts.tv_nsec / (long)NSEC_PER_MSEC));
	add_words(all, vm);
	for (u32 i = 0; i < ARRAY_SIZE(groups); i++) {
		if (!groups[i].alone)
			add_zeros(all, groups[i].name, groups[i].keys);
	}
	add_core(all, own, vm);
	for (const struct metrics_source *s = vm->metrics.sources; s; s = s->next)
		add_counters(all, own, s->group, s->counters, s->base, true);
	for (u32 i = 0; i < vm->nr_devices; i++)
		add_device(all, own, vm->devices[i]);
	if (own)
		json_object_object_add(all, "husk", own);
	return all;
}

/* ---- Differences ---- */

static struct json_object *since(const char *group, const char *key, struct json_object *now, struct json_object *before)
{
	struct json_object *out;
	u64 n, old;

	if (json_object_is_type(now, json_type_object)) {
		out = json_object_new_object();
		json_object_object_foreach(now, k, v)
		{
			/* The group is the last name that says something: "read_agg" does not. */
			json_object_object_add(out, k,
					       since(ends_with(key, "_agg") ? group : key, k, v, json_object_object_get(before, k)));
		}
		return out;
	}
	if (!json_object_is_type(now, json_type_int) || metrics_is_last_value(group, key))
		return json_object_get(now);
	n = json_object_get_uint64(now);
	old = json_object_get_uint64(before);
	return json_object_new_uint64(n < old ? n : n - old);
}

struct json_object *metrics_since(struct json_object *now, struct json_object *before)
{
	return since("", "", now, before);
}
