/* handlers.c: see handlers.h. */
#include "api/handlers.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "api/document.h"
#include "api/firecracker.h"
#include "api/logger.h"
#include "api/mmds.h"
#include "vmm/config_table.h"

static const char *text_of(const struct api_call *call, const char *key)
{
	return json_object_get_string(json_object_object_get(call->body, key));
}

static void add_str(struct api_call *call, const char *key, const char *value)
{
	if (!call->reply.body)
		call->reply.body = json_object_new_object();
	json_object_object_add(call->reply.body, key, json_object_new_string(value));
}

/* ---- The process ---- */

int handle_get_instance(struct api_call *call, struct err *e)
{
	const struct vm *vm = call->control->vm;

	(void)e;
	add_str(call, "id", call->control->log->id);
	add_str(call, "state", !vm ? "Not started" : vm->state == VM_PAUSED ? "Paused" : "Running");
	add_str(call, "vmm_version", FIRECRACKER_VERSION);
	add_str(call, "app_name", "Firecracker");
	return 0;
}

int handle_get_version(struct api_call *call, struct err *e)
{
	(void)e;
	add_str(call, "firecracker_version", FIRECRACKER_VERSION);
	return 0;
}

int handle_put_logger(struct api_call *call, struct err *e)
{
	struct json_object *root = json_object_new_object();
	struct config c;
	int r;

	json_object_object_add(root, "logger", json_object_get(call->body));
	r = config_parse_logger(&c, root, route_category(call->route), e);
	json_object_put(root);
	if (r < 0)
		return r;
	if (!json_object_object_get(call->body, "show_level"))
		c.logger->show_level = call->control->log->show_level;
	if (!json_object_object_get(call->body, "show_log_origin"))
		c.logger->show_log_origin = call->control->log->show_origin;
	r = logger_apply(call->control->log, c.logger, e);
	config_fini(&c);
	return r < 0 ? err_prefix(e, "%s", route_category(call->route)) : 0;
}

/* ---- Before the start: the configuration ---- */

int handle_get_config(struct api_call *call, struct err *e)
{
	(void)e;
	call->reply.body = document_show_all(call->control->doc);
	return 0;
}

int handle_put_config(struct api_call *call, struct err *e)
{
	if (!json_object_is_type(call->body, json_type_object))
		return err_set(e, -EINVAL, FC_BAD_JSON "expected an object with sections of a configuration.");
	return document_merge(&call->control->doc, call->route, call->body, e);
}

int handle_get_section(struct api_call *call, struct err *e)
{
	const struct route *r = call->route;

	(void)e;
	call->reply.body = document_show(call->control->doc, r->body, r->section, false);
	if (!call->reply.body)
		call->reply.body = document_show_defaults(r->body);
	return 0;
}

int handle_put_section(struct api_call *call, struct err *e)
{
	return document_put(&call->control->doc, call->route, call->id, call->body, e);
}

int handle_patch_section(struct api_call *call, struct err *e)
{
	return document_patch(&call->control->doc, call->route, call->body, e);
}

int handle_put_cpu_config(struct api_call *call, struct err *e)
{
	int r = handle_put_section(call, e);

	if (r == 0)
		document_forget(&call->control->doc, "machine-config", "cpu_template");
	return r;
}

/* What names a template, if only "None", replaces the user's own. */
static int set_machine_config(struct api_call *call, int r)
{
	if (r == 0 && json_object_object_get(call->body, "cpu_template"))
		document_forget(&call->control->doc, "cpu-config", NULL);
	return r;
}

/* As with Firecracker a template stays until another one is named. */
int handle_put_machine_config(struct api_call *call, struct err *e)
{
	struct json_object *old = json_object_object_get(call->control->doc, "machine-config"), *named;

	named = json_object_is_type(old, json_type_object) ? json_object_object_get(old, "cpu_template") : NULL;
	if (named && !json_object_object_get(call->body, "cpu_template")) {
		json_object_object_add(call->body, "cpu_template", json_object_get(named));
		return handle_put_section(call, e);
	}
	return set_machine_config(call, handle_put_section(call, e));
}

int handle_patch_machine_config(struct api_call *call, struct err *e)
{
	return set_machine_config(call, handle_patch_section(call, e));
}

/* Opens and closes a file of the body; an absent one is fine. */
static int probe_file(struct api_call *call, const char *key, int flags, const char *what, struct err *e)
{
	const char *path = text_of(call, key);
	auto_fd int fd = -1;

	if (!path)
		return 0;
	fd = open(path, flags | O_CLOEXEC | O_NONBLOCK, 0644);
	return fd < 0 ? err_errno(e, "%s: %s", route_category(call->route), what) : 0;
}

int handle_put_boot_source(struct api_call *call, struct err *e)
{
	int r = probe_file(call, "kernel_image_path", O_RDONLY, "The kernel file cannot be opened", e);

	if (r == 0)
		r = probe_file(call, "initrd_path", O_RDONLY, "The initrd file cannot be opened", e);
	return r < 0 ? r : handle_put_section(call, e);
}

int handle_put_metrics(struct api_call *call, struct err *e)
{
	int r;

	if (json_object_object_get(call->control->doc, "metrics"))
		return err_set(e, -EBUSY, "%s: Reinitialization of metrics not allowed.", route_category(call->route));
	r = probe_file(call, "metrics_path", O_RDWR | O_CREAT, "The metrics file cannot be opened", e);
	return r < 0 ? r : handle_put_section(call, e);
}

/* ---- The start and after ---- */

static int start(struct api_call *call, struct err *e)
{
	struct control *c = call->control;

	if (c->vm)
		return err_set(e, -EBUSY, FC_NOT_AFTER_START);
	if (!json_object_object_get(c->doc, "boot-source"))
		return err_set(e, -EINVAL, "Start microvm error: Cannot start microvm without kernel configuration.");
	c->starting = call;
	loop_stop(&c->loop);
	return API_LATER;
}

/* What asks a guest to end. A machine without a keyboard has the power button for that. */
static int send_ctrl_alt_del(struct vm *vm, struct err *e)
{
	if (vm_find_device(vm, "i8042"))
		return vm_ask_device(vm, "i8042", "/ctrl-alt-del", e);
	return vm_ask_device(vm, "gpio_pl061", "/power-button", e);
}

int handle_action(struct api_call *call, struct err *e)
{
	const char *action = text_of(call, "action_type");
	struct vm *vm = call->control->vm;

	if (!strcmp(action, "InstanceStart"))
		return start(call, e);
	if (!vm)
		return err_set(e, -EAGAIN, FC_NOT_BEFORE_START);
	if (!strcmp(action, "SendCtrlAltDel"))
		return send_ctrl_alt_del(vm, e);
	metrics_flush(&vm->metrics);
	return 0;
}

int handle_set_state(struct api_call *call, struct err *e)
{
	struct api_counters *c = &call->control->counters;
	u64 start_ns = clock_host_ns();

	(void)e;
	if (!strcmp(text_of(call, "state"), "Paused")) {
		vm_pause(call->control->vm);
		api_counters_time(&c->vmm_pause_us, start_ns);
		api_counters_time(&c->pause_us, call->start_ns);
	} else {
		vm_resume(call->control->vm);
		api_counters_time(&c->vmm_resume_us, start_ns);
		api_counters_time(&c->resume_us, call->start_ns);
	}
	return 0;
}

int handle_get_metrics(struct api_call *call, struct err *e)
{
	(void)e;
	call->reply.body = metrics_totals(call->control->vm, true);
	return 0;
}

/* ---- Devices ---- */

static int find_device(const struct api_call *call, struct device **out, struct err *e)
{
	const struct route *r = call->route;
	struct vm *vm = call->control->vm;

	for (u32 i = 0; i < vm->nr_devices; i++) {
		const char *section = vm->devices[i]->cls->section;

		*out = vm->devices[i];
		/* By section: a drive may be of a class that serves its section for another. */
		if (section && !strcmp(section, r->section) && (!r->id_key || !strcmp((*out)->id, call->id)))
			return 0;
	}
	if (r->id_key)
		return err_set(e, -ENODEV, "%s: Device not found: \"%s\"", route_category(r), call->id);
	return err_set(e, -ENODEV, "%s: Device not found.", route_category(r));
}

/* The body without the name that the path has too, where the device's table does not list it. */
static struct json_object *patch_fields(const struct api_call *call)
{
	struct json_object *fields = json_object_new_object();
	const char *id_key = call->route->id_key;

	if (!call->body)
		return fields;
	json_object_object_foreach(call->body, key, value)
	{
		if (cfg_find_field(call->route->body, key) || !id_key || strcmp(key, id_key) != 0)
			json_object_object_add(fields, key, json_object_get(value));
	}
	return fields;
}

static int update(struct api_call *call, struct device *dev, struct json_object *fields, struct err *e)
{
	const struct cfg_place at = {.origin = route_category(call->route)};
	const struct cfg_table *t = call->route->body;
	void *patch = xzalloc(MAX(t->size, 1));
	int r = cfg_read_object(t, fields, patch, &at, e);

	if (r == 0) {
		r = call->route->op->update(dev, patch, e);
		if (r < 0)
			err_prefix(e, "%s", at.origin);
	}
	cfg_free(t, patch);
	free(patch);
	return r;
}

int handle_update_device(struct api_call *call, struct err *e)
{
	const struct route *r = call->route;
	struct json_object *fields;
	struct device *dev;
	int ret = find_device(call, &dev, e);

	if (ret < 0)
		return ret;
	if (!r->body) {
		ret = r->op->update(dev, NULL, e);
		return ret < 0 ? err_prefix(e, "%s", route_category(r)) : 0;
	}
	fields = patch_fields(call);
	ret = update(call, dev, fields, e);
	if (ret == 0 && !*r->op->path)
		document_note(&call->control->doc, r, call->id, fields);
	json_object_put(fields);
	return ret;
}

int handle_ask_device(struct api_call *call, struct err *e)
{
	const struct route *r = call->route;
	struct device *dev;
	int ret;

	if (!call->control->vm) {
		call->reply.body = document_show(call->control->doc, r->cls->config, r->section, false);
		return call->reply.body ? 0 : err_set(e, -ENODEV, "%s: Device not found.", route_category(r));
	}
	ret = find_device(call, &dev, e);
	if (ret < 0)
		return ret;
	call->reply.body = json_object_new_object();
	ret = r->op->status(dev, call->reply.body, e);
	return ret < 0 ? err_prefix(e, "%s", route_category(r)) : 0;
}

int handle_unplug(struct api_call *call, struct err *e)
{
	return err_set(e, -EOPNOTSUPP, "%s: PCI is not enabled", route_category(call->route));
}

/* ---- Metadata ---- */

int handle_get_mmds(struct api_call *call, struct err *e)
{
	call->reply.body = mmds_get(call->control->mmds);
	return call->reply.body ? 0 : err_set(e, -ENOMEM, "out of memory");
}

static int mmds_result(struct api_call *call, int r)
{
	if (r == -EFBIG)
		call->reply.status = 413;
	return r;
}

int handle_put_mmds(struct api_call *call, struct err *e)
{
	return mmds_result(call, mmds_put(call->control->mmds, call->body, e));
}

int handle_patch_mmds(struct api_call *call, struct err *e)
{
	return mmds_result(call, mmds_patch(call->control->mmds, call->body, e));
}

int handle_put_mmds_config(struct api_call *call, struct err *e)
{
	struct json_object *version = json_object_object_get(call->body, "version");

	call->reply.deprecated |= !version || !strcmp(json_object_get_string(version), "V1");
	return handle_put_section(call, e);
}
