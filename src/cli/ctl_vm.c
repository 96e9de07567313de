/* ctl_vm.c: commands of `husk ctl` about the VM as a whole; see ctl.h. */
#include <errno.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/ctl.h"
#include "cli/http.h"
#include "vmm/base/json.h"

static const char *text_of(struct json_object *o, const char *key)
{
	struct json_object *v = json_object_object_get(o, key);

	return v ? json_object_get_string(v) : "-";
}

/* ---- status, config ---- */

static void print_count(struct json_object *config, const char *section, const char *name)
{
	struct json_object *list = json_object_object_get(config, section);
	size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;

	if (n)
		printf("%-12s%zu\n", name, n);
}

static void print_devices(struct json_object *config)
{
	static const char *const single[] = {"balloon", "vsock", "entropy", "memory-hotplug"};

	print_count(config, "drives", "drives");
	print_count(config, "network-interfaces", "net");
	print_count(config, "pmem", "pmem");
	for (u32 i = 0; i < ARRAY_SIZE(single); i++) {
		if (json_object_object_get(config, single[i]))
			printf("%-12syes\n", single[i]);
	}
}

static void print_status(struct json_object *info, struct json_object *config)
{
	struct json_object *machine = json_object_object_get(config, "machine-config");
	struct json_object *boot = json_object_object_get(config, "boot-source");

	printf("%-12s%s\n%-12s%s\n%-12s%s\n", "id", text_of(info, "id"), "state", text_of(info, "state"), "API",
	       text_of(info, "vmm_version"));
	printf("%-12s%s\n%-12s%s MiB\n", "CPUs", text_of(machine, "vcpu_count"), "memory", text_of(machine, "mem_size_mib"));
	if (boot)
		printf("%-12s%s\n", "kernel", text_of(boot, "kernel_image_path"));
	print_devices(config);
}

int ctl_status(const struct ctl *c, struct err *e)
{
	struct json_object *info, *config = NULL;
	int r = ctl_ask(c, "/", &info, e);

	if (r == 0 && !c->json)
		r = ctl_ask(c, "/vm/config", &config, e);
	if (r == 0 && c->json)
		ctl_print_json(info);
	else if (r == 0)
		print_status(info, config);
	json_object_put(info);
	json_object_put(config);
	return r;
}

static int show(const struct ctl *c, const char *path, struct err *e)
{
	struct json_object *json;
	int r = ctl_ask(c, path, &json, e);

	if (r == 0)
		ctl_print_json(json);
	json_object_put(json);
	return r;
}

int ctl_config(const struct ctl *c, struct err *e)
{
	return show(c, "/vm/config", e);
}

/* ---- start, pause, resume, stop, end, log ---- */

static int say(const struct ctl *c, const char *method, const char *path, const char *key, const char *value, struct err *e)
{
	struct json_object *body = ctl_words(key, value);
	int r = ctl_tell(c, method, path, body, e);

	json_object_put(body);
	return r;
}

int ctl_start(const struct ctl *c, struct err *e)
{
	return say(c, "PUT", "/actions", "action_type", "InstanceStart", e);
}

int ctl_pause(const struct ctl *c, struct err *e)
{
	return say(c, "PATCH", "/vm", "state", "Paused", e);
}

int ctl_resume(const struct ctl *c, struct err *e)
{
	return say(c, "PATCH", "/vm", "state", "Resumed", e);
}

int ctl_stop(const struct ctl *c, struct err *e)
{
	return say(c, "PUT", "/actions", "action_type", "SendCtrlAltDel", e);
}

int ctl_log(const struct ctl *c, struct err *e)
{
	return say(c, "PUT", "/husk/logger", "level", c->words[0], e);
}

/* The API has no such request, but the socket knows who serves it, and SIGTERM ends a VM. */
int ctl_end(const struct ctl *c, struct err *e)
{
	auto_fd int fd = http_connect(c->sock, e);
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (fd < 0)
		return fd;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return err_errno(e, "\"%s\"", c->sock);
	if (peer.pid <= 0)
		return err_set(e, -ESRCH, "the VM's process is in another PID namespace; send it SIGTERM there");
	if (kill(peer.pid, SIGTERM) < 0)
		return err_errno(e, "cannot end process %d", (int)peer.pid);
	return 0;
}

/* ---- metrics ---- */

static void add_group(struct table *t, const char *group, const char *prefix, struct json_object *counters)
{
	json_object_object_foreach(counters, key, value)
	{
		auto_free char *name = xasprintf("%s%s", prefix, key);

		if (json_object_is_type(value, json_type_object)) {
			auto_free char *below = xasprintf("%s.", name);

			add_group(t, group, below, value);
		} else if (json_object_get_uint64(value)) {
			table_add(t, (const char *const[]){group, name, json_object_get_string(value)});
		}
	}
}

/* But for `except`, and for words of the user. */
static void add_groups(struct table *t, struct json_object *groups, struct json_object *except, const char *only)
{
	json_object_object_foreach(groups, group, counters)
	{
		if (json_object_is_type(counters, json_type_object) && counters != except && strcmp(group, "properties") != 0 &&
		    (!only || !strcmp(only, group)))
			add_group(t, group, "", counters);
	}
}

/* only: NULL: all groups. What is 0 is left out. */
static void print_metrics(struct json_object *totals, const char *only)
{
	struct json_object *own = json_object_object_get(totals, "husk");
	struct table t;

	table_init(&t, (const char *const[]){"GROUP", "COUNTER", "VALUE"}, 3);
	add_groups(&t, totals, own, only);
	if (json_object_is_type(own, json_type_object))
		add_groups(&t, own, NULL, only);
	table_print(&t, stdout);
}

int ctl_metrics(const struct ctl *c, struct err *e)
{
	const char *only = c->nr ? c->words[0] : NULL;
	struct json_object *totals;
	int r;

	if (only && !strcmp(only, "flush"))
		return say(c, "PUT", "/actions", "action_type", "FlushMetrics", e);
	r = ctl_ask(c, "/husk/metrics", &totals, e);
	if (r < 0)
		return r;
	if (c->prometheus)
		prometheus_print(totals, stdout);
	else if (c->json)
		ctl_print_json(totals);
	else
		print_metrics(totals, only);
	json_object_put(totals);
	return 0;
}

/* ---- mmds, get, put, patch ---- */

/* JSON, or a file with it, or - for standard input. */
static int read_body(const char *arg, struct json_object **out, struct err *e)
{
	if (!strcmp(arg, "-"))
		return json_load("/dev/stdin", out, e);
	if (*arg == '{' || *arg == '[')
		return json_parse("JSON", arg, strlen(arg), out, e);
	return json_load(arg, out, e);
}

static int tell_body(const struct ctl *c, const char *method, const char *path, const char *arg, struct err *e)
{
	struct json_object *body = NULL;
	int r = arg ? read_body(arg, &body, e) : 0;

	if (r == 0)
		r = ctl_tell(c, method, path, body, e);
	json_object_put(body);
	return r;
}

int ctl_mmds(const struct ctl *c, struct err *e)
{
	const char *what = c->nr ? c->words[0] : "get";

	if (!strcmp(what, "get") && c->nr < 2)
		return show(c, "/mmds", e);
	if (!strcmp(what, "put") && c->nr == 2)
		return tell_body(c, "PUT", "/mmds", c->words[1], e);
	if (!strcmp(what, "patch") && c->nr == 2)
		return tell_body(c, "PATCH", "/mmds", c->words[1], e);
	return err_set(e, -EINVAL, "husk ctl: it is: mmds, mmds put FILE, or mmds patch FILE");
}

int ctl_get(const struct ctl *c, struct err *e)
{
	return show(c, c->words[0], e);
}

int ctl_put(const struct ctl *c, struct err *e)
{
	return tell_body(c, "PUT", c->words[0], c->nr > 1 ? c->words[1] : NULL, e);
}

int ctl_patch(const struct ctl *c, struct err *e)
{
	return tell_body(c, "PATCH", c->words[0], c->nr > 1 ? c->words[1] : NULL, e);
}
