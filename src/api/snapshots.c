/* snapshots.c: /snapshot/create and /snapshot/load; see handlers.h. */
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "api/firecracker.h"
#include "api/handlers.h"
#include "api/overrides.h"
#include "migration/snapshot.h"

static struct json_object *field(const struct api_call *call, const char *key)
{
	return json_object_object_get(call->body, key);
}

static const char *text_of(struct json_object *o, const char *key)
{
	return json_object_get_string(json_object_object_get(o, key));
}

static bool is_true(const struct api_call *call, const char *key)
{
	return json_object_get_boolean(field(call, key));
}

/* ---- Create ---- */

static void count_create(struct api_counters *c, const struct snapshot_result *res)
{
	c->snapshot_drain_us = res->drain_ns / 1000;
	c->snapshot_state_us = res->state_ns / 1000;
	c->snapshot_memory_us = res->memory_ns / 1000;
	c->snapshot_sync_us = res->sync_ns / 1000;
	counter_add(&c->snapshots, 1);
	counter_add(&c->snapshot_package_bytes, res->package_bytes);
	counter_add(&c->snapshot_memory_bytes, res->memory.bytes);
}

static void log_create(struct log *log, const struct snapshot_create *req, const struct snapshot_result *res)
{
	log_info(log,
		 "snapshot \"%s\": state %llu KiB, memory %llu MiB; halted in %llu us, state in %llu us, memory in %llu ms, synced in %llu "
		 "ms",
		 req->state_path, (unsigned long long)(res->package_bytes / KIB), (unsigned long long)(res->memory.bytes / MIB),
		 (unsigned long long)(res->drain_ns / 1000), (unsigned long long)(res->state_ns / 1000),
		 (unsigned long long)(res->memory_ns / NSEC_PER_MSEC), (unsigned long long)(res->sync_ns / NSEC_PER_MSEC));
}

int handle_create_snapshot(struct api_call *call, struct err *e)
{
	struct api_counters *c = &call->control->counters;
	const char *type = text_of(call->body, "snapshot_type");
	struct snapshot_create req = {
		.state_path = text_of(call->body, "snapshot_path"),
		.mem_path = text_of(call->body, "mem_file_path"),
		.type = type && !strcmp(type, "Diff") ? SNAPSHOT_DIFF : SNAPSHOT_FULL,
		.compress = is_true(call, "compress"),
	};
	u64 start_ns = clock_host_ns();
	struct snapshot_result res;
	int r = snapshot_create(call->control->vm, &req, &res, e);

	if (r < 0)
		return err_prefix(e, "Create snapshot error");
	count_create(c, &res);
	api_counters_time(req.type == SNAPSHOT_DIFF ? &c->vmm_diff_us : &c->vmm_full_us, start_ns);
	api_counters_time(req.type == SNAPSHOT_DIFF ? &c->diff_us : &c->full_us, call->start_ns);
	log_create(call->control->log, &req, &res);
	return 0;
}

/* ---- Load ---- */

/* What may be there before a load: the process's own, and a CPU template, in whose place the snapshot's CPU comes. */
static bool may_load(struct json_object *doc)
{
	json_object_object_foreach(doc, key, value)
	{
		if (value && !snapshot_is_own_key(key) && strcmp(key, "cpu-config") != 0 && strcmp(key, "boot_timer") != 0)
			return false;
	}
	return true;
}

static int read_backend(const struct api_call *call, struct snapshot_load *req, struct err *e)
{
	struct json_object *backend = field(call, "mem_backend");
	const char *path = text_of(call->body, "mem_file_path");

	if (backend && path)
		return err_set(e, -EINVAL, FC_BAD_JSON "too many fields: either `mem_backend` or `mem_file_path` exclusively is required.");
	if (!backend && !path)
		return err_set(e, -EINVAL, FC_BAD_JSON "missing field: either `mem_backend` or `mem_file_path` is required.");
	req->mem_path = backend ? text_of(backend, "backend_path") : path;
	if (backend && !strcmp(text_of(backend, "backend_type"), "Uffd"))
		req->backend = SNAPSHOT_UFFD;
	else
		req->backend = is_true(call, "eager") ? SNAPSHOT_EAGER : SNAPSHOT_FILE;
	return 0;
}

struct snapshot_override *overrides_read(struct json_object *list, const char *id_key, const char *value_key, u32 *nr)
{
	size_t n = list ? json_object_array_length(list) : 0;
	struct snapshot_override *out = xzalloc(MAX(n, 1) * sizeof(*out));

	for (size_t i = 0; i < n; i++) {
		struct json_object *item = json_object_array_get_idx(list, i);

		out[i] = (struct snapshot_override){text_of(item, id_key), text_of(item, value_key)};
	}
	*nr = (u32)n;
	return out;
}

static void read_working_set(const struct api_call *call, struct snapshot_load *req)
{
	struct json_object *ws = field(call, "working_set");

	if (!ws)
		return;
	req->working_set_path = text_of(ws, "path");
	req->working_set = !strcmp(text_of(ws, "mode"), "Record") ? WORKING_SET_RECORD : WORKING_SET_PREFETCH;
}

static int open_snapshot(const struct api_call *call, struct snapshot **out, struct err *e)
{
	const char *huge = text_of(call->body, "huge_pages");
	struct snapshot_load req = {
		.state_path = text_of(call->body, "snapshot_path"),
		.resume = is_true(call, "resume_vm"),
		.track_dirty = is_true(call, "track_dirty_pages") || is_true(call, "enable_diff_snapshots"),
		.clock_realtime = is_true(call, "clock_realtime"),
		.keep_generation = is_true(call, "keep_generation_id"),
		.huge_pages = huge && strcmp(huge, "Snapshot") != 0 ? huge : NULL,
		.vsock_path = text_of(field(call, "vsock_override"), "uds_path"),
	};
	auto_free struct snapshot_override *nets = overrides_read(field(call, "network_overrides"), "iface_id", "host_dev_name",
								  &req.nr_nets);
	auto_free struct snapshot_override *drives = overrides_read(field(call, "drive_overrides"), "drive_id", "path_on_host",
								    &req.nr_drives);
	int r = read_backend(call, &req, e);

	if (r < 0)
		return r;
	req.nets = nets;
	req.drives = drives;
	read_working_set(call, &req);
	r = snapshot_open(out, &req, e);
	return r < 0 ? err_prefix(e, FC_LOAD_ERROR) : 0;
}

int handle_load_snapshot(struct api_call *call, struct err *e)
{
	struct control *c = call->control;
	struct snapshot *s;
	int r;

	if (!may_load(c->doc))
		return err_set(e, -EBUSY,
			       FC_LOAD_ERROR ": Loading a microVM snapshot not allowed after configuring boot-specific resources.");
	r = open_snapshot(call, &s, e);
	if (r < 0)
		return r;
	control_restore(c, s, call);
	return API_LATER;
}
