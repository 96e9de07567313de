/* routes.c: see routes.h. */
#include "api/routes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/firecracker.h"
#include "api/handlers.h"
#include "vmm/config_table.h"
#include "vmm/device.h"

/* ---- Bodies that are no section of the configuration ---- */

static const char *const actions[] = {"FlushMetrics", "InstanceStart", "SendCtrlAltDel", NULL};
static const char *const states[] = {"Paused", "Resumed", NULL};
static const char *const snapshot_types[] = {"Full", "Diff", NULL};
static const char *const backend_types[] = {"File", "Uffd", NULL};
static const char *const working_set_modes[] = {"Record", "Prefetch", NULL};
static const char *const migrate_actions[] = {"Start", "Receive", "Cancel", "Recover", "TakeBack", "TakeOver", "Break", NULL};
static const char *const migrate_modes[] = {"Precopy", "Postcopy", "Hybrid", "Local", NULL};
static const char *const migrate_stalls[] = {"Throttle", "Postcopy", "Cancel", "Wait", NULL};
static const char *const huge_pages[] = {"Snapshot", "None", "Transparent", "2M", NULL};

/* Handlers look at the JSON itself: there is no struct behind these. */
#define BODY(n, f, h, ...) \
	{ \
		.name = (n), .help = (h), .fields = (f), .nr_fields = ARRAY_SIZE(f), __VA_ARGS__ \
	}

static const struct cfg_field action_fields[] = {
	{.key = "action_type", .type = CFG_ENUM, .required = true, .values = actions, .help = "What to do."},
};
static const struct cfg_table action_body = BODY("InstanceActionInfo", action_fields, "An action.");

static const struct cfg_field state_fields[] = {
	{.key = "state", .type = CFG_ENUM, .required = true, .values = states, .help = "The state to be in; the one it is in is no error."},
};
static const struct cfg_table state_body = BODY("Vm", state_fields, "Whether the VM runs.");

static const struct cfg_field create_fields[] = {
	{.key = "snapshot_path", .type = CFG_STR, .required = true, .help = "File for the state."},
	{.key = "mem_file_path", .type = CFG_STR, .required = true, .help = "File for the memory."},
	{.key = "snapshot_type",
	 .type = CFG_ENUM,
	 .values = snapshot_types,
	 .dflt = "\"Full\"",
	 .help = "All memory, or what has changed since the last snapshot."},
	{.key = "compress", .type = CFG_BOOL, .dflt = "false", .extension = true, .help = "Compress the memory."},
};
static const struct cfg_table create_body = BODY("CreateSnapshotParams", create_fields, "A snapshot to be made.");

static const struct cfg_field backend_fields[] = {
	{.key = "backend_path", .type = CFG_STR, .required = true, .help = "The memory file, or the pager's socket."},
	{.key = "backend_type", .type = CFG_ENUM, .required = true, .values = backend_types, .help = "Who brings the pages."},
};
static const struct cfg_table backend_body = BODY("MemoryBackend", backend_fields, "Where the memory is.");

static const struct cfg_field net_fields[] = {
	{.key = "iface_id", .type = CFG_STR, .required = true, .help = "The network interface."},
	{.key = "host_dev_name", .type = CFG_STR, .required = true, .help = "Its tap interface."},
};
static const struct cfg_table net_body = BODY("NetworkOverride", net_fields, "Another tap interface.", .open = true);

static const struct cfg_field drive_fields[] = {
	{.key = "drive_id", .type = CFG_STR, .required = true, .help = "The drive, or virtio-pmem device."},
	{.key = "path_on_host", .type = CFG_STR, .required = true, .help = "Its file."},
};
static const struct cfg_table drive_body = BODY("DriveOverride", drive_fields, "Another file for a drive.", .open = true);

static const struct cfg_field vsock_fields[] = {
	{.key = "uds_path", .type = CFG_STR, .required = true, .help = "The socket's path."},
};
static const struct cfg_table vsock_body = BODY("VsockOverride", vsock_fields, "Another socket.", .open = true);

static const struct cfg_field working_set_fields[] = {
	{.key = "path", .type = CFG_STR, .required = true, .help = "File with the list of pages."},
	{.key = "mode",
	 .type = CFG_ENUM,
	 .required = true,
	 .values = working_set_modes,
	 .help = "Write the list, or read these pages ahead."},
};
static const struct cfg_table working_set_body = BODY("WorkingSet", working_set_fields, "The pages that a VM uses first.");

static const struct cfg_field load_fields[] = {
	{.key = "snapshot_path", .type = CFG_STR, .required = true, .help = "File with the state."},
	{.key = "mem_file_path", .type = CFG_STR, .deprecated = true, .help = "File with the memory, where mem_backend is absent."},
	{.key = "mem_backend", .type = CFG_OBJ, .sub = &backend_body, .help = "Where the memory is."},
	{.key = "enable_diff_snapshots",
	 .type = CFG_BOOL,
	 .dflt = "false",
	 .deprecated = true,
	 .help = "The old name of track_dirty_pages."},
	{.key = "track_dirty_pages", .type = CFG_BOOL, .dflt = "false", .help = "Record written pages, for diff snapshots."},
	{.key = "resume_vm", .type = CFG_BOOL, .dflt = "false", .help = "Let the VM run at once; else it is paused."},
	{.key = "network_overrides", .type = CFG_LIST, .sub = &net_body, .help = "Other tap interfaces than those saved."},
	{.key = "vsock_override", .type = CFG_OBJ, .sub = &vsock_body, .help = "Another socket for vsock than the one saved."},
	{.key = "clock_realtime", .type = CFG_BOOL, .dflt = "false", .help = "The guest's clocks jump over the time since the snapshot."},
	{.key = "huge_pages", .type = CFG_ENUM, .values = huge_pages, .dflt = "\"Snapshot\"", .help = "What backs guest memory."},
	{.key = "drive_overrides",
	 .type = CFG_LIST,
	 .sub = &drive_body,
	 .extension = true,
	 .help = "Other files for drives than those saved."},
	{.key = "keep_generation_id",
	 .type = CFG_BOOL,
	 .dflt = "false",
	 .extension = true,
	 .help = "No new VM generation ID: no other VM goes on from this snapshot."},
	{.key = "eager", .type = CFG_BOOL, .dflt = "false", .extension = true, .help = "Read all memory before the VM runs."},
	{.key = "working_set", .type = CFG_OBJ, .sub = &working_set_body, .extension = true, .help = "The pages that a VM uses first."},
};
static const struct cfg_table load_body = BODY("LoadSnapshotParams", load_fields, "A snapshot to be loaded.");

static const struct cfg_field migrate_fields[] = {
	{.key = "action",
	 .type = CFG_ENUM,
	 .required = true,
	 .values = migrate_actions,
	 .help = "Start: the VM leaves; Receive: one is waited for, in place of a configuration; Cancel: it stays, or is waited for no "
		 "more; "
		 "Recover: the lost connection is made again; TakeBack: the destination is dead, the VM goes on here; TakeOver, at a "
		 "destination that has all of a VM: the source is dead, the VM goes on here; Break: drops the "
		 "connection."},
	{.key = "address", .type = CFG_STR, .help = "tcp:HOST:PORT or unix:PATH, of the destination; for Recover another one than before."},
	{.key = "mode",
	 .type = CFG_ENUM,
	 .values = migrate_modes,
	 .dflt = "\"Precopy\"",
	 .help = "Memory goes before the VM does, after it, or once before and the rest after; Local: to a husk on this host, without a "
		 "copy."},
	{.key = "on_stall",
	 .type = CFG_ENUM,
	 .values = migrate_stalls,
	 .dflt = "\"Throttle\"",
	 .help = "When the guest writes faster than memory goes: slow it down, go on as Postcopy, cancel, or wait."},
	{.key = "max_downtime_ms",
	 .type = CFG_INT,
	 .min = 1,
	 .max = 600000,
	 .dflt = "300",
	 .help = "Precopy halts the VM when the rest takes no longer."},
	{.key = "max_bandwidth", .type = CFG_INT, .dflt = "0", .help = "Bytes per second; 0: no limit."},
	{.key = "channels", .type = CFG_INT, .min = 1, .max = 8, .dflt = "2", .help = "Connections for memory."},
	{.key = "push_channels",
	 .type = CFG_INT,
	 .min = 1,
	 .max = 8,
	 .dflt = "1",
	 .help = "How many of them send on in postcopy; more end it sooner, but pages that the guest waits for come later."},
	{.key = "compress", .type = CFG_BOOL, .dflt = "false", .help = "Compress memory where that makes it shorter."},
	{.key = "copy_disks",
	 .type = CFG_BOOL,
	 .dflt = "false",
	 .help = "Copy the contents of drives that the guest can write, too; else both hosts see the same files."},
	{.key = "verify", .type = CFG_BOOL, .dflt = "false", .help = "Compare digests of all pages at the end."},
	{.key = "timeout_ms",
	 .type = CFG_INT,
	 .min = 100,
	 .max = 3600000,
	 .dflt = "10000",
	 .help = "A peer that is silent for so long is lost."},
	{.key = "package_cap",
	 .type = CFG_INT,
	 .min = 1,
	 .max = UINT32_MAX,
	 .dflt = "67108864",
	 .help = "Bytes of device state that are sent or taken."},
	{.key = "paused", .type = CFG_BOOL, .dflt = "false", .help = "Receive: the VM stays halted when it is there."},
	{.key = "network_overrides", .type = CFG_LIST, .sub = &net_body, .help = "Receive: other tap interfaces than the source's."},
	{.key = "drive_overrides", .type = CFG_LIST, .sub = &drive_body, .help = "Receive: other files for drives than the source's."},
	{.key = "vsock_override", .type = CFG_OBJ, .sub = &vsock_body, .help = "Receive: another socket for vsock than the source's."},
};
static const struct cfg_table migrate_body = BODY("Migration", migrate_fields, "What is to be done about a migration.");

/* ---- Routes of their own ---- */

static const struct route own_routes[] = {
	{API_GET, "/", .run = handle_get_instance, .help = "Name, state and version of the VM."},
	{API_GET, "/version", .run = handle_get_version, .help = "The version of Firecracker that this API follows."},
	{API_GET, "/vm/config", .run = handle_get_config, .help = "The whole configuration."},
	{API_PATCH, "/vm", API_AFTER_START, API_FIELDS, &state_body, .run = handle_set_state, .help = "Pauses the VM, or lets it go on."},
	{API_PUT, "/actions", API_ANY_TIME, API_FIELDS, &action_body, .run = handle_action,
	 .help = "Starts the VM; afterwards writes metrics, or presses Ctrl-Alt-Del in the guest (on arm64 its power button)."},
	{API_PUT, "/husk/config", API_BEFORE_START, API_ANY_JSON, .run = handle_put_config,
	 .help = "Husk's own: sets sections of the configuration file, and keys that have no path here, like accelerator."},
	{API_GET, "/husk/metrics", API_AFTER_START, .run = handle_get_metrics,
	 .help = "Husk's own: all counters since the start, in the shape of a line of metrics."},
	{API_GET, "/mmds", .run = handle_get_mmds, .help = "The metadata of the guest."},
	{API_PUT, "/mmds", .kind = API_ANY_JSON, .run = handle_put_mmds, .help = "Replaces the metadata of the guest."},
	{API_PATCH, "/mmds", .kind = API_ANY_JSON, .run = handle_patch_mmds, .help = "Merges into the metadata of the guest (RFC 7396)."},
	{API_PUT, "/snapshot/create", API_AFTER_START, API_FIELDS, &create_body, .run = handle_create_snapshot,
	 .help = "Saves a paused VM in two files."},
	{API_PUT, "/snapshot/load", API_BEFORE_START, API_FIELDS, &load_body, .run = handle_load_snapshot,
	 .help = "Makes the VM of a snapshot; nothing else may have been configured."},
	{API_GET, "/migration", .quick = handle_migration_quick, .help = "Husk's own: how far a migration is, and how the time went."},
	{API_PUT, "/migration", API_ANY_TIME, API_FIELDS, &migrate_body, .run = handle_migration, .quick = handle_migration_quick,
	 .help = "Husk's own: begins a migration, or does something about it."},
};

/* ---- Sections ---- */

/* Sections whose path, words or handling differ from what their name and table say. */
static const struct special {
	const char *section;
	const char *path;     /* NULL: "/" + section */
	const char *category; /* how Firecracker's errors about it begin */
	int (*put)(struct api_call *call, struct err *e);
} specials[] = {
	{"balloon", NULL, "Balloon config error", NULL},
	{"boot-source", NULL, "Boot source error", handle_put_boot_source},
	{"cpu-config", NULL, "CPU config error", handle_put_cpu_config},
	{"drives", NULL, "Drive config error", NULL},
	{"entropy", NULL, "Entropy device error", NULL},
	{"logger", NULL, "Logger error", handle_put_logger},
	{"machine-config", NULL, "Machine config error", handle_put_machine_config},
	{"memory-hotplug", "/hotplug/memory", "Memory hotplug config error", NULL},
	{"metrics", NULL, "Metrics error", handle_put_metrics},
	{"mmds-config", "/mmds/config", "MMDS config error", handle_put_mmds_config},
	{"network-interfaces", NULL, "Network config error", NULL},
	{"pmem", NULL, "Pmem config error", NULL},
	{"serial", NULL, "Serial device error", NULL},
	{"vsock", NULL, "Vsock config error", NULL},
};

static const struct special *find_special(const char *section)
{
	for (u32 i = 0; section && i < ARRAY_SIZE(specials); i++) {
		if (!strcmp(specials[i].section, section))
			return &specials[i];
	}
	return NULL;
}

const char *route_category(const struct route *r)
{
	const struct special *s = find_special(r->section);

	return s ? s->category : r->section ? r->section : "Configuration error";
}

static void add(struct routes *t, const struct route *r)
{
	enum { STEP = 32 };

	if (t->nr % STEP == 0) {
		struct route *more = xzalloc((t->nr + STEP) * sizeof(*more));

		if (t->nr)
			memcpy(more, t->items, t->nr * sizeof(*more));
		free(t->items);
		t->items = more;
	}
	t->items[t->nr++] = *r;
}

/* Firecracker's log cannot be changed once the VM runs. */
static void add_running_logger(struct routes *t, const struct route *logger)
{
	struct route r = *logger;

	snprintf(r.path, sizeof(r.path), "/husk/logger");
	r.phase = API_ANY_TIME;
	r.help = "Husk's own: changes the log, also of a VM that runs.";
	add(t, &r);
}

static void add_section(struct routes *t, const struct cfg_field *f)
{
	const struct special *s = find_special(f->key);
	struct route r = {API_PUT, .phase = API_BEFORE_START, .kind = API_FIELDS, .body = f->sub, .section = f->key, .help = f->help};

	snprintf(r.path, sizeof(r.path), "%s%s", s && s->path ? "" : "/", s && s->path ? s->path : f->key);
	r.run = s && s->put ? s->put : handle_put_section;
	add(t, &r);
	if (!strcmp(f->key, "logger"))
		add_running_logger(t, &r);
	if (strcmp(f->key, "machine-config") != 0)
		return;
	r.method = API_PATCH;
	r.kind = API_PARTIAL;
	r.run = handle_patch_machine_config;
	add(t, &r);
	r.method = API_GET;
	r.phase = API_ANY_TIME;
	r.kind = API_NO_BODY;
	r.run = handle_get_section;
	add(t, &r);
}

/* A body whose fields are all optional may be left out where the path alone says what to do ("/hinting/stop"). */
static enum api_body op_body(const struct device_op *op)
{
	for (u32 i = 0; op->patch && i < op->patch->nr_fields; i++) {
		if (op->patch->fields[i].required)
			return API_FIELDS;
	}
	return *op->path ? API_OPTIONAL_FIELDS : API_FIELDS;
}

static void add_op(struct routes *t, const struct route *base, const struct device_op *op)
{
	struct route r = *base;
	size_t used = strlen(r.path);

	snprintf(r.path + used, sizeof(r.path) - used, "%s", op->path);
	r.op = op;
	r.help = op->help;
	r.phase = API_AFTER_START;
	if (op->update) {
		r.method = API_PATCH;
		r.kind = op_body(op);
		r.body = op->patch;
		r.run = handle_update_device;
		add(t, &r);
	}
	if (op->status) {
		r.method = API_GET;
		r.phase = op->before_start ? API_ANY_TIME : API_AFTER_START;
		r.kind = API_NO_BODY;
		r.body = NULL;
		r.run = handle_ask_device;
		add(t, &r);
	}
}

/* The key that names an item of a list: the first field, a required string ("drive_id", "id"). */
static const char *item_id_key(const struct device_class *cls)
{
	if (cls->flag && cls->flag->id_key)
		return cls->flag->id_key;
	return cls->config->fields[0].key;
}

static void add_class(struct routes *t, const struct device_class *cls)
{
	const struct special *s = find_special(cls->section);
	const char *path = cls->api_path ? cls->api_path : s ? s->path : NULL;
	struct route r = {API_PUT,    .phase = API_BEFORE_START, .kind = API_FIELDS, .body = cls->config, .section = cls->section,
			  .cls = cls, .help = cls->config->help};

	r.id_key = cls->list ? item_id_key(cls) : NULL;
	snprintf(r.path, sizeof(r.path), "%s%s%s%s%s", path ? "" : "/", path ? path : cls->section, r.id_key ? "/{" : "",
		 r.id_key ? r.id_key : "", r.id_key ? "}" : "");
	r.run = s && s->put ? s->put : handle_put_section;
	add(t, &r);
	for (const struct device_op *op = cls->ops; op && op->path; op++)
		add_op(t, &r, op);
	if (!r.id_key)
		return;
	r.method = API_DELETE;
	r.phase = API_AFTER_START;
	r.kind = API_NO_BODY;
	r.body = NULL;
	r.run = handle_unplug;
	r.help = "Unplugs a device: refused, as by a Firecracker without PCI.";
	add(t, &r);
}

void routes_init(struct routes *t)
{
	*t = (struct routes){0};
	for (u32 i = 0; i < ARRAY_SIZE(own_routes); i++)
		add(t, &own_routes[i]);
	for (u32 i = 0; i < config_table.nr_fields; i++) {
		const struct cfg_field *f = &config_table.fields[i];

		if (f->type == CFG_OBJ && !f->extension)
			add_section(t, f);
	}
	for (u32 i = 0; device_classes[i]; i++) {
		if (device_classes[i]->section)
			add_class(t, device_classes[i]);
	}
}

void routes_fini(struct routes *t)
{
	free(t->items);
	*t = (struct routes){0};
}

/* ---- Finding one ---- */

/* The length of the part of a path that begins at p. */
static size_t part_len(const char *p)
{
	return strcspn(p, "/");
}

static bool path_matches(const char *pattern, const char *path, char *id, size_t id_size)
{
	*id = 0;
	while (*pattern == '/' && *path == '/') {
		size_t want = part_len(++pattern), got = part_len(++path);

		if (*pattern == '{')
			snprintf(id, id_size, "%.*s", (int)MIN(got, 1000), path);
		else if (want != got || memcmp(pattern, path, want) != 0)
			return false;
		pattern += want;
		path += got;
	}
	/* "/drives" is a drive without a name, and a slash at the end says nothing. */
	return (!*pattern || !strncmp(pattern, "/{", 2)) && (!*path || !strcmp(path, "/"));
}

const struct route *routes_find(const struct routes *t, enum api_method method, const char *path, char *id, size_t id_size)
{
	for (u32 i = 0; i < t->nr; i++) {
		if (t->items[i].method == method && path_matches(t->items[i].path, path, id, id_size))
			return &t->items[i];
	}
	return NULL;
}
