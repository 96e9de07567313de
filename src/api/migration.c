/* migration.c: /migration; see handlers.h. A VM's loop may itself wait for a page of memory that is on its way, so what must work then is
 * answered by the API's own thread (handle_migration_quick). */
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "api/handlers.h"
#include "api/overrides.h"
#include "migration/channel.h"
#include "migration/dest.h"
#include "migration/frame.h"
#include "migration/source.h"

static struct json_object *field(const struct api_call *call, const char *key)
{
	return json_object_object_get(call->body, key);
}

static const char *text_of(const struct api_call *call, const char *key)
{
	return json_object_get_string(field(call, key));
}

static bool is(const struct api_call *call, const char *key, const char *value)
{
	const char *text = text_of(call, key);

	return text && !strcmp(text, value);
}

/* ---- What the API's thread does by itself ---- */

static int status(struct api_call *call)
{
	struct control *c = call->control;
	struct migrate_status *s = xzalloc(sizeof(*s));

	if (c->source)
		source_status(c->source, s);
	/* A VM that came here may go on to the next host. */
	if (c->dest && s->phase == MIGRATE_NONE)
		dest_status(c->dest, s);
	call->reply.body = migrate_status_json(s);
	free(s);
	return 0;
}

/* A VM that came here may be on its way to the next host. */
static bool concerns_dest(struct control *c)
{
	return c->dest && !(c->source && source_is_active(c->source));
}

static int cancel(struct control *c, struct err *e)
{
	if (concerns_dest(c))
		return dest_abandon(c->dest, e);
	return c->source ? source_cancel(c->source, e) : err_set(e, -ENOENT, "there is no migration");
}

static int break_off(struct control *c, struct err *e)
{
	if (concerns_dest(c))
		return dest_break(c->dest, e);
	return c->source ? source_break(c->source, e) : err_set(e, -ENOENT, "there is no migration");
}

static int act(struct api_call *call, struct err *e)
{
	struct control *c = call->control;

	if (call->route->method == API_GET)
		return status(call);
	if (is(call, "action", "Start") || is(call, "action", "Receive"))
		return API_LATER;
	if (is(call, "action", "Cancel"))
		return cancel(c, e);
	if (is(call, "action", "Break"))
		return break_off(c, e);
	if (is(call, "action", "TakeOver"))
		return c->dest ? dest_take_over(c->dest, e) : err_set(e, -ENOENT, "no VM has come to this husk");
	if (!c->source)
		return err_set(e, -ENOENT, "no VM is leaving this husk");
	if (is(call, "action", "Recover"))
		return source_recover(c->source, text_of(call, "address"), e);
	return source_take_back(c->source, e);
}

int handle_migration_quick(struct api_call *call, struct err *e)
{
	struct control *c = call->control;
	int r;

	pthread_mutex_lock(&c->migration_lock);
	r = act(call, e);
	pthread_mutex_unlock(&c->migration_lock);
	return r;
}

bool migration_is_under_way(struct control *c)
{
	return (c->vm && c->vm->elsewhere) || (c->source && source_is_active(c->source));
}

/* ---- On the main thread ---- */

/* A whole number within bounds, or its default when it is absent. */
static int number(const struct api_call *call, const char *key, u64 dflt, u64 min, u64 max, u64 *out, struct err *e)
{
	struct json_object *v = field(call, key);

	*out = v ? json_object_get_uint64(v) : dflt;
	if (v && (json_object_get_int64(v) < 0 || *out < min || *out > max))
		return err_set(e, -EINVAL, "%s: a number from %llu to %llu", key, (unsigned long long)min, (unsigned long long)max);
	return 0;
}

static int need_address(const struct api_call *call, const char **out, struct err *e)
{
	*out = text_of(call, "address");
	return *out ? 0 : err_set(e, -EINVAL, "address: missing; tls:HOST:PORT, tcp:HOST:PORT or unix:PATH");
}

static int source_numbers(const struct api_call *call, struct source_params *p, struct err *e)
{
	u64 downtime_ms = 0, bulk = 0, push = 0, patience = 0;
	int r = number(call, "max_downtime_ms", 300, 1, 600000, &downtime_ms, e);

	if (r == 0)
		r = number(call, "max_bandwidth", 0, 0, UINT64_MAX >> 1, &p->bandwidth, e);
	if (r == 0)
		r = number(call, "channels", 2, 1, WIRE_MAX_BULK, &bulk, e);
	if (r == 0)
		r = number(call, "push_channels", 1, 1, WIRE_MAX_BULK, &push, e);
	if (r == 0)
		r = number(call, "timeout_ms", 10000, 100, 3600000, &patience, e);
	if (r == 0)
		r = number(call, "package_cap", PACKAGE_SOFT_CAP, 1, PACKAGE_HARD_CAP, &p->package_cap, e);
	p->max_downtime_ns = downtime_ms * NSEC_PER_MSEC;
	p->nr_bulk = (u32)bulk;
	p->nr_push = (u32)push;
	p->patience_ms = (u32)patience;
	return r;
}

static int start(struct api_call *call, struct err *e)
{
	struct source_params p = {
		.mode = is(call, "mode", "Postcopy") ? MIGRATE_MODE_POSTCOPY
			: is(call, "mode", "Hybrid") ? MIGRATE_MODE_HYBRID
			: is(call, "mode", "Local")  ? MIGRATE_MODE_LOCAL
						     : MIGRATE_MODE_PRECOPY,
		.stall = is(call, "on_stall", "Postcopy") ? MIGRATE_STALL_POSTCOPY
			 : is(call, "on_stall", "Cancel") ? MIGRATE_STALL_CANCEL
			 : is(call, "on_stall", "Wait")	  ? MIGRATE_STALL_WAIT
							  : MIGRATE_STALL_THROTTLE,
		.compress = json_object_get_boolean(field(call, "compress")),
		.verify = json_object_get_boolean(field(call, "verify")),
		.copy_disks = json_object_get_boolean(field(call, "copy_disks")),
		.tls = call->control->tls,
	};
	const char *address;
	int r = need_address(call, &address, e);

	if (r == 0 && !call->control->source)
		r = err_set(e, -EAGAIN, "the VM does not run yet");
	if (r == 0 && channel_is_tls(address) && !p.tls)
		r = err_set(e, -EINVAL, "address: this husk has no certificate: it was started without --tls DIR");
	if (r == 0 && strlen(address) >= sizeof(p.address))
		r = err_set(e, -EINVAL, "address: too long");
	if (r == 0)
		r = source_numbers(call, &p, e);
	if (r < 0)
		return r;
	memcpy(p.address, address, strlen(address) + 1);
	return source_begin(call->control->source, &p, e);
}

static int receive(struct api_call *call, struct err *e)
{
	auto_free struct snapshot_override *nets = NULL, *drives = NULL;
	struct dest_params p = {.paused = json_object_get_boolean(field(call, "paused")), .tls = call->control->tls};
	u64 patience = 0;
	int r = need_address(call, &p.address, e);

	if (r == 0)
		r = number(call, "timeout_ms", 10000, 100, 3600000, &patience, e);
	if (r == 0)
		r = number(call, "package_cap", PACKAGE_SOFT_CAP, 1, PACKAGE_HARD_CAP, &p.package_cap, e);
	if (r < 0)
		return r;
	p.patience_ms = (u32)patience;
	p.nets = nets = overrides_read(field(call, "network_overrides"), "iface_id", "host_dev_name", &p.nr_nets);
	p.drives = drives = overrides_read(field(call, "drive_overrides"), "drive_id", "path_on_host", &p.nr_drives);
	p.vsock_path = json_object_get_string(json_object_object_get(field(call, "vsock_override"), "uds_path"));
	r = control_receive(call->control, &p, e);
	if (r == 0) {
		call->reply.body = json_object_new_object();
		json_object_object_add(call->reply.body, "address", json_object_new_string(dest_address(call->control->dest)));
	}
	return r;
}

int handle_migration(struct api_call *call, struct err *e)
{
	return is(call, "action", "Start") ? start(call, e) : receive(call, e);
}
