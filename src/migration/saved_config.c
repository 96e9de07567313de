/* saved_config.c: see saved_config.h. */
#include "migration/saved_config.h"

#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "migration/snapshot.h"
#include "vmm/base/json.h"

/* What belongs to the process that runs the VM, and not to the VM. */
static const char *const own_keys[] = {"accelerator", "id", "logger", "metrics", "serial", "tcg"};

static void drop_key(struct json_object *doc, const char *section, const char *key)
{
	struct json_object *o = json_object_object_get(doc, section);

	if (json_object_is_type(o, json_type_object))
		json_object_object_del(o, key);
}

static struct json_object *find_item(struct json_object *doc, const char *section, const char *id_key, const char *id)
{
	struct json_object *list = json_object_object_get(doc, section);

	for (size_t i = 0; json_object_is_type(list, json_type_array) && i < json_object_array_length(list); i++) {
		struct json_object *item = json_object_array_get_idx(list, i), *v;

		v = json_object_is_type(item, json_type_object) ? json_object_object_get(item, id_key) : NULL;
		if (json_object_is_type(v, json_type_string) && !strcmp(json_object_get_string(v), id))
			return item;
	}
	return NULL;
}

static int override_nets(const char *what, struct json_object *doc, const struct saved_config_changes *req, struct err *e)
{
	for (u32 i = 0; i < req->nr_nets; i++) {
		const struct snapshot_override *o = &req->nets[i];
		struct json_object *item = find_item(doc, "network-interfaces", "iface_id", o->id);

		if (!item)
			return err_set(e, -EINVAL, "the %s has no network interface \"%.64s\"", what, o->id);
		json_object_object_add(item, "host_dev_name", json_object_new_string(o->value));
	}
	return 0;
}

static int override_drives(const char *what, struct json_object *doc, const struct saved_config_changes *req, struct err *e)
{
	for (u32 i = 0; i < req->nr_drives; i++) {
		const struct snapshot_override *o = &req->drives[i];
		struct json_object *item = find_item(doc, "drives", "drive_id", o->id);

		if (!item)
			item = find_item(doc, "pmem", "id", o->id);
		if (!item)
			return err_set(e, -EINVAL, "the %s has no drive \"%.64s\"", what, o->id);
		json_object_object_add(item, "path_on_host", json_object_new_string(o->value));
	}
	return 0;
}

static int override_vsock(const char *what, struct json_object *doc, const struct saved_config_changes *req, struct err *e)
{
	struct json_object *vsock = json_object_object_get(doc, "vsock");

	if (!req->vsock_path)
		return 0;
	if (!json_object_is_type(vsock, json_type_object))
		return err_set(e, -EINVAL, "the %s has no vsock device", what);
	json_object_object_add(vsock, "uds_path", json_object_new_string(req->vsock_path));
	return 0;
}

static void override_machine(struct json_object *doc, const struct saved_config_changes *req)
{
	struct json_object *machine = json_object_object_get(doc, "machine-config");

	if (!json_object_is_type(machine, json_type_object))
		json_object_object_add(doc, "machine-config", machine = json_tokener_parse("{\"vcpu_count\": 1, \"mem_size_mib\": 128}"));
	if (req->track_dirty)
		json_object_object_add(machine, "track_dirty_pages", json_object_new_boolean(*req->track_dirty));
	if (req->huge_pages)
		json_object_object_add(machine, "huge_pages", json_object_new_string(req->huge_pages));
	json_object_object_del(machine, "gdb_socket_path");
}

static int change(const char *what, struct json_object *doc, const struct saved_config_changes *changes, struct err *e)
{
	int ret;

	for (u32 i = 0; i < ARRAY_SIZE(own_keys); i++)
		json_object_object_del(doc, own_keys[i]);
	drop_key(doc, "boot-source", "unpack");
	override_machine(doc, changes);
	ret = override_nets(what, doc, changes, e);
	if (ret == 0)
		ret = override_drives(what, doc, changes, e);
	return ret == 0 ? override_vsock(what, doc, changes, e) : ret;
}

int saved_config_read(const char *what, const struct package_vm *info, const struct saved_config_changes *changes, struct json_object **out,
		      struct err *e)
{
	auto_free char *name = xasprintf("the %s's configuration", what);
	struct json_object *doc;
	int ret = json_parse(name, (const char *)info->document, info->nr_document, &doc, e);

	if (ret < 0)
		return ret;
	ret = json_object_is_type(doc, json_type_object) ? change(what, doc, changes, e)
							 : err_set(e, -EINVAL, "%s is no JSON object", name);
	if (ret < 0)
		json_object_put(doc);
	else
		*out = doc;
	return ret;
}

struct json_object *saved_config_join(struct json_object *document, struct json_object *own)
{
	struct json_object *out = json_object_new_object();

	json_object_object_foreach(document, section, saved) json_object_object_add(out, section, json_object_get(saved));
	json_object_object_foreach(own, key, value)
	{
		if (snapshot_is_own_key(key))
			json_object_object_add(out, key, json_object_get(value));
	}
	return out;
}

bool snapshot_is_own_key(const char *key)
{
	for (u32 i = 0; i < ARRAY_SIZE(own_keys); i++) {
		if (!strcmp(own_keys[i], key))
			return true;
	}
	return false;
}
