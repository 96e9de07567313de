/* inspect.c: every table of this build; a package as JSON, from them, without a VM; see package.h. */
#include <json-c/json.h>
#include <string.h>

#include "config.h"
#include "migration/package_impl.h"
#include "vmm/base/json.h"
#include "vmm/device.h"
#include "vmm/machine.h"

const struct state_table *package_table(u32 i)
{
	if (i == 0)
		return &package_vm_table;
	i--;
	for (u32 k = 0; machine_tables[k]; k++) {
		if (i-- == 0)
			return machine_tables[k];
	}
	for (u32 k = 0; device_classes[k]; k++) {
		for (const struct device_state *const *st = device_classes[k]->states; st && *st; st++) {
			if (i-- == 0)
				return (*st)->table;
		}
	}
	return NULL;
}

const struct state_table *package_find_table(const char *name)
{
	const struct state_table *t = NULL;

	for (u32 i = 0; (t = package_table(i)) != NULL; i++) {
		if (!strcmp(t->name, name))
			return t;
	}
	return NULL;
}

/* The "vm" section's document as what it is, when it is JSON. */
static void add_document(struct json_object *state, const struct package_vm *info)
{
	struct json_object *document;
	struct err e;

	if (json_parse("configuration", (const char *)info->document, info->nr_document, &document, &e) == 0)
		json_object_object_add(state, "document", document);
}

static struct json_object *section_json(const struct package *p, const struct package_section *s)
{
	struct json_object *o = json_object_new_object(), *state;
	/* Tables of machines have the same names on all architectures. */
	bool own = !strcmp(p->info->arch, PACKAGE_ARCH) || !strcmp(s->name, package_vm_table.name);
	const struct state_table *t = own ? package_find_table(s->name) : NULL;
	auto_free void *data = xzalloc(t ? t->size : 1);
	struct err e;

	json_object_object_add(o, "name", json_object_new_string(s->name));
	json_object_object_add(o, "instance", json_object_new_string(s->instance));
	json_object_object_add(o, "version", json_object_new_int(s->version));
	json_object_object_add(o, "optional", json_object_new_boolean(s->optional));
	json_object_object_add(o, "bytes", json_object_new_int64(s->len));
	if (!t) {
		json_object_object_add(o, "error",
				       json_object_new_string(own ? "this husk does not know such a section"
								  : "this husk does not know VMs for that architecture"));
	} else if (state_decode(t, s->version, s->payload, s->len, data, &e) < 0) {
		json_object_object_add(o, "error", json_object_new_string(e.msg));
	} else {
		state = state_json(t, data);
		if (t == &package_vm_table)
			add_document(state, p->info);
		json_object_object_add(o, "state", state);
	}
	return o;
}

struct json_object *package_json(const struct package *p)
{
	struct json_object *o = json_object_new_object(), *sections = json_object_new_array();

	json_object_object_add(o, "format", json_object_new_int(PACKAGE_VERSION));
	json_object_object_add(o, "bytes", json_object_new_int64((s64)p->length));
	for (u32 i = 0; i < p->nr; i++)
		json_object_array_add(sections, section_json(p, &p->sections[i]));
	json_object_object_add(o, "sections", sections);
	return o;
}
