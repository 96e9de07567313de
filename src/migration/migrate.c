/* migrate.c: what is known of a migration, in words and JSON; see migrate.h. */
#include "migration/migrate.h"

#include <json-c/json.h>

#include "vmm/base/log.h"

static const char *const phase_names[MIGRATE_PHASES] = {
	"none",	  "listen",   "connect", "setup",   "precopy",	 "receive", "handover",
	"loaded", "postcopy", "paused",	 "recover", "completed", "failed",  "cancelled",
};

const char *migrate_phase_name(enum migrate_phase p)
{
	return phase_names[p];
}

void migrate_tell(struct log *log, enum migrate_phase p, const char *text)
{
	enum log_level level = p == MIGRATE_PAUSED ? LOG_ERROR : p == MIGRATE_FAILED || p == MIGRATE_CANCELLED ? LOG_WARN : LOG_INFO;

	log_at(log, level, "migration: %s%s%s", migrate_phase_name(p), text ? ": " : "", text ? text : "");
}

static void add(struct json_object *o, const char *key, u64 value)
{
	json_object_object_add(o, key, json_object_new_uint64(value));
}

static struct json_object *downtime(const struct migrate_status *s)
{
	struct json_object *o = json_object_new_object();

	add(o, "total_us", s->downtime_ns / 1000);
	add(o, "stop_us", s->stop_ns / 1000);
	add(o, "capture_us", s->capture_ns / 1000);
	add(o, "last_ram_us", s->last_ram_ns / 1000);
	add(o, "send_us", s->send_ns / 1000);
	add(o, "load_us", s->load_ns / 1000);
	add(o, "run_us", s->run_ns / 1000);
	return o;
}

static struct json_object *faults(const struct migrate_status *s)
{
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();
	u32 nr = MIGRATE_LATENCY_BUCKETS;

	add(o, "count", s->faults);
	add(o, "mean_us", s->faults ? s->fault_total_ns / s->faults / 1000 : 0);
	add(o, "max_us", s->fault_max_ns / 1000);
	while (nr && !s->fault_histogram[nr - 1])
		nr--;
	for (u32 i = 0; i < nr; i++)
		json_object_array_add(list, json_object_new_uint64(s->fault_histogram[i]));
	json_object_object_add(o, "histogram_us", list);
	return o;
}

struct json_object *migrate_status_json(const struct migrate_status *s)
{
	static const char *const modes[] = {"Precopy", "Postcopy", "Hybrid", "Local"};
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "phase", json_object_new_string(migrate_phase_name(s->phase)));
	json_object_object_add(o, "role", json_object_new_string(s->destination ? "destination" : "source"));
	json_object_object_add(o, "mode", json_object_new_string(modes[s->mode]));
	json_object_object_add(o, "peer", json_object_new_string(s->peer));
	if (*s->error)
		json_object_object_add(o, "error", json_object_new_string(s->error));
	add(o, "ram_bytes", s->ram_bytes);
	add(o, "disk_bytes", s->disk_bytes);
	add(o, "disk_remaining_bytes", s->disk_remaining_bytes);
	add(o, "sent_bytes", s->sent_bytes);
	add(o, "received_bytes", s->received_bytes);
	add(o, "remaining_bytes", s->remaining_bytes);
	add(o, "pages", s->pages);
	add(o, "zero_pages", s->zero_pages);
	add(o, "duplicate_pages", s->duplicate_pages);
	add(o, "rounds", s->rounds);
	add(o, "bytes_per_sec", s->bytes_per_sec);
	add(o, "dirty_bytes_per_sec", s->dirty_bytes_per_sec);
	add(o, "expected_downtime_us", s->expected_downtime_ns / 1000);
	add(o, "throttle_percent", s->throttle_percent);
	add(o, "recoveries", s->recoveries);
	add(o, "package_bytes", s->package_bytes);
	add(o, "total_us", s->end_ns > s->start_ns ? (s->end_ns - s->start_ns) / 1000 : 0);
	add(o, "setup_us", s->setup_ns / 1000);
	json_object_object_add(o, "downtime", downtime(s));
	json_object_object_add(o, "faults", faults(s));
	add(o, "verified_pages", s->verified_pages);
	add(o, "different_pages", s->different_pages);
	return o;
}
