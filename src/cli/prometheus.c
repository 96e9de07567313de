/*
 * prometheus.c: totals in Prometheus' text form (version 0.0.4): husk_<group>_<counter>_total, with the label id for a device that is one
 * of several. Last values are gauges and have no _total.
 */
#include <ctype.h>
#include <json-c/json.h>
#include <string.h>

#include "cli/ctl.h"
#include "vmm/device.h"
#include "vmm/metrics.h"

/* Metrics groups of classes with several devices, each of which has a group <name>_<id>. False behind the last. */
static bool list_group_at(u32 i, const char **name)
{
	*name = "vhost_user_block"; /* its class is in no list: drives are handed over to it */
	if (i == 0)
		return true;
	*name = device_classes[i - 1] && device_classes[i - 1]->list ? device_classes[i - 1]->metrics_group : NULL;
	return device_classes[i - 1];
}

/* The one that `name` is of, or NULL; the longest, so that "net" does not take what is another's. *id: of the device, NULL: of all. */
static const char *list_group(const char *name, const char **id)
{
	const char *best = NULL, *group;

	for (u32 i = 0; list_group_at(i, &group); i++) {
		size_t len = group ? strlen(group) : 0;

		if (!len || strncmp(name, group, len) != 0 || (name[len] && name[len] != '_') || (best && strlen(best) >= len))
			continue;
		best = group;
		*id = name[len] ? name + len + 1 : NULL;
	}
	return best;
}

/* One sample, of which all with the same name must stand together: collected by name first. */
static void add_sample(struct json_object *samples, const char *name, const char *labels, struct json_object *value)
{
	struct json_object *of = json_object_object_get(samples, name);

	if (!of) {
		of = json_object_new_object();
		json_object_object_add(samples, name, of);
	}
	json_object_object_add(of, labels, json_object_get(value));
}

static void add_counters(struct json_object *samples, const char *group, const char *prefix, const char *labels,
			 struct json_object *counters)
{
	json_object_object_foreach(counters, key, value)
	{
		auto_free char *name = xasprintf("%s_%s", prefix, key);

		if (json_object_is_type(value, json_type_object)) {
			add_counters(samples, group, name, labels, value);
		} else {
			auto_free char *whole = xasprintf("husk_%s%s", name, metrics_is_last_value(group, key) ? "" : "_total");

			add_sample(samples, whole, labels, value);
		}
	}
}

/* The sum over all devices of a class is Prometheus' to make. */
static void add_groups(struct json_object *samples, struct json_object *groups)
{
	json_object_object_foreach(groups, name, counters)
	{
		const char *id = NULL, *group = list_group(name, &id);
		auto_free char *labels = id ? xasprintf("{id=\"%s\"}", id) : xstrdup("");

		if (!json_object_is_type(counters, json_type_object) || !strcmp(name, "husk") || !strcmp(name, "properties") ||
		    (group && !id))
			continue;
		add_counters(samples, group ? group : name, group ? group : name, labels, counters);
	}
}

static bool is_counter(const char *name)
{
	size_t len = strlen(name);

	return len > 6 && !strcmp(name + len - 6, "_total");
}

void prometheus_print(struct json_object *totals, FILE *out)
{
	struct json_object *samples = json_object_new_object(), *own = json_object_object_get(totals, "husk");

	add_groups(samples, totals);
	if (json_object_is_type(own, json_type_object))
		add_groups(samples, own);
	json_object_object_foreach(samples, name, of)
	{
		fprintf(out, "# TYPE %s %s\n", name, is_counter(name) ? "counter" : "gauge");
		json_object_object_foreach(of, labels, value) fprintf(out, "%s%s %s\n", name, labels, json_object_get_string(value));
	}
	json_object_put(samples);
}
