/* config.c: the sections of a configuration that belong to no device, and the checks that span sections; see config.h. */
#include "vmm/config.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/base/log.h"
#include "vmm/config_cpu.h"
#include "vmm/config_table.h"
#include "vmm/device.h"
#include "vmm/gdb.h"
#include "vmm/machine.h"
#include "vmm/vm.h"

#define PATH_BYTES     .min = 1, .max = 4095, .expected = "a path of 1 to 4095 bytes"
#define MAX_MEMORY_MIB (16 * 1024 * 1024ull) /* 16 TiB */

static const char *const huge_names[] = {"None", "Transparent", "2M", NULL}; /* by enum mem_huge */
static const char *const accel_names[] = {"auto", "kvm", "tcg", NULL};	     /* by enum cfg_accel */
static const char *const unpack_names[] = {"auto", "host", "guest", NULL};   /* by enum cfg_unpack */
static const char *const mmds_names[] = {"V1", "V2", NULL};		     /* by enum cfg_mmds_version */
const char *const config_cpu_template_names[] = {"None", "C3", "T2", "T2S", "T2CL", "T2A", "V1N1", NULL};

static bool level_ok(const char *name)
{
	enum log_level level;

	return log_level_parse(name, &level) == 0;
}

/* guest, host or both, in any order, and =FILE. */
static bool tcg_dump_ok(const char *what)
{
	static const char *const words[] = {"guest,host", "host,guest", "guest", "host"};

	for (u32 i = 0; i < ARRAY_SIZE(words); i++) {
		size_t len = strlen(words[i]);

		if (!strncmp(what, words[i], len) && (!what[len] || (what[len] == '=' && what[len + 1])))
			return true;
	}
	return false;
}

static bool id_ok(const char *id)
{
	for (; *id; id++) {
		if (!isalnum((unsigned char)*id) && *id != '-')
			return false;
	}
	return true;
}

/* RFC 3927 §2.1: the first and the last 256 addresses are reserved. */
static bool link_local_ok(const char *address)
{
	struct in_addr a;

	return inet_pton(AF_INET, address, &a) == 1 && ntohl(a.s_addr) >= 0xa9fe0100 && ntohl(a.s_addr) <= 0xa9fefeff;
}

/* One row: the member of struct s that a key fills. */
#define FIELD(s, member, k, t, ...) \
	{ \
		.key = (k), .type = (t), .offset = offsetof(struct s, member), __VA_ARGS__ \
	}

#define TABLE(n, s, f, h, ...) \
	{ \
		.name = (n), .help = (h), .size = sizeof(struct s), .fields = (f), .nr_fields = ARRAY_SIZE(f), __VA_ARGS__ \
	}

static const struct cfg_field boot_fields[] = {
	FIELD(cfg_boot_source, kernel_image_path, "kernel_image_path", CFG_STR, .required = true, PATH_BYTES, .flag = "kernel",
	      .metavar = "FILE",
	      .help = "Kernel: on x86-64 an ELF vmlinux or a bzImage, on arm64 an Image (plain, gzip'd, or a vmlinuz.efi)."),
	FIELD(cfg_boot_source, initrd_path, "initrd_path", CFG_STR, PATH_BYTES, .flag = "initrd", .metavar = "FILE",
	      .help = "Initial RAM disk."),
	FIELD(cfg_boot_source, boot_args, "boot_args", CFG_STR, .max = 2047, .expected = "at most 2047 bytes of kernel command line",
	      .flag = "cmdline", .metavar = "TEXT",
	      .help = "Kernel command line; husk appends what its devices need. Absent: husk's own, with mitigations=off under tcg."),
	FIELD(cfg_boot_source, unpack, "unpack", CFG_ENUM, .values = unpack_names, .dflt = "\"auto\"", .extension = true,
	      .help = "Who unpacks the kernel in a bzImage (x86-64): the guest itself, or husk; auto: the guest under kvm, where it starts "
		      "sooner, "
		      "else husk."),
};
static const struct cfg_table boot_table = TABLE("boot-source", cfg_boot_source, boot_fields, "What the VM boots.");

static const struct cfg_field machine_fields[] = {
	FIELD(cfg_machine, vcpu_count, "vcpu_count", CFG_INT, .required = true, .min = 1, .max = VM_MAX_VCPUS, .dflt = "1", .flag = "cpus",
	      .metavar = "N", .help = "Number of virtual CPUs (Firecracker: at most 32)."),
	FIELD(cfg_machine, mem_size_mib, "mem_size_mib", CFG_INT, .required = true, .min = 1, .max = MAX_MEMORY_MIB, .dflt = "128",
	      .flag = "memory", .metavar = "SIZE", .unit = MIB, .help = "Guest memory in MiB; the flag takes 512M or 2G too."),
	FIELD(cfg_machine, smt, "smt", CFG_BOOL, .dflt = "false",
	      .help = "Show the guest two threads per core (x86-64); vcpu_count is then 1 or even."),
	FIELD(cfg_machine, track_dirty_pages, "track_dirty_pages", CFG_BOOL, .dflt = "false", .flag = "track-dirty",
	      .help = "Record written pages from the start, for diff snapshots."),
	FIELD(cfg_machine, huge_pages, "huge_pages", CFG_ENUM, .values = huge_names, .dflt = "\"None\"", .flag = "huge-pages",
	      .metavar = "KIND", .help = "What backs guest memory: 4 KiB pages, transparent huge pages, or reserved 2 MiB pages."),
	FIELD(cfg_machine, gdb_socket_path, "gdb_socket_path", CFG_STR, .extension = true, .accept = gdb_address_ok,
	      .expected = "a path of 1 to 107 bytes, or a loopback address and a port, like 127.0.0.1:1234", .flag = "gdb",
	      .metavar = "SOCKET",
	      .help = "Serve gdb at this socket path or loopback HOST:PORT; the guest waits for it before its first instruction."),
	FIELD(cfg_machine, cpu_template, "cpu_template", CFG_ENUM, .values = config_cpu_template_names, .dflt = "\"None\"",
	      .deprecated = true, .flag = "cpu-template", .metavar = "NAME",
	      .help = "What the guest sees of the processor: one of Firecracker's CPU templates (docs/cpu-templates.md)."),
};
static const struct cfg_table machine_table = TABLE("machine-config", cfg_machine, machine_fields, "CPUs and memory.");

static const struct cfg_field logger_fields[] = {
	FIELD(cfg_logger, log_path, "log_path", CFG_STR, PATH_BYTES, .flag = "log-path", .metavar = "FILE",
	      .help = "File or FIFO that the log goes to."),
	FIELD(cfg_logger, level, "level", CFG_STR, .accept = level_ok, .expected = "Error, Warn, Info, Debug, Trace or Off (any case)",
	      .flag = "level", .metavar = "LEVEL",
	      .help = "Least serious level that is logged; absent: Warn for husk run, Info for Firecracker's command line."),
	FIELD(cfg_logger, module, "module", CFG_STR, .flag = "module", .metavar = "PREFIX",
	      .help = "Log only messages of source files whose name starts so."),
	FIELD(cfg_logger, show_level, "show_level", CFG_BOOL, .dflt = "false", .flag = "show-level", .help = "Put the level on each line."),
	FIELD(cfg_logger, show_log_origin, "show_log_origin", CFG_BOOL, .dflt = "false", .flag = "show-log-origin",
	      .help = "Put source file and line on each line."),
};
static const struct cfg_table logger_table = TABLE("logger", cfg_logger, logger_fields, "The log.");

static const struct cfg_field metrics_fields[] = {
	FIELD(cfg_metrics, metrics_path, "metrics_path", CFG_STR, .required = true, PATH_BYTES, .flag = "metrics-path", .metavar = "FILE",
	      .help = "File or FIFO that takes the metrics, one JSON object per line."),
	FIELD(cfg_metrics, emit_id, "emit_id", CFG_BOOL, .dflt = "false", .help = "Put the id of the VM on each line."),
	FIELD(cfg_metrics, properties, "properties", CFG_MAP, .help = "Names and values, all strings, to be put on each line."),
};
static const struct cfg_table metrics_table = TABLE("metrics", cfg_metrics, metrics_fields, "Counters of devices and CPUs.", .open = true);

static const struct cfg_field mmds_iface_fields[] = {
	FIELD(cfg_mmds_iface, iface_id, "iface_id", CFG_STR, .required = true, .min = 1, .max = 64,
	      .expected = "names of network interfaces", .help = "Name of a network interface."),
};
static const struct cfg_table mmds_iface_table = {
	.name = "mmds-interface",
	.help = "A network interface with the metadata service.",
	.size = sizeof(struct cfg_mmds_iface),
	.fields = mmds_iface_fields,
	.nr_fields = ARRAY_SIZE(mmds_iface_fields),
	.bare = true,
};
static const struct cfg_field mmds_fields[] = {
	FIELD(cfg_mmds, network_interfaces, "network_interfaces", CFG_LIST, .required = true, .sub = &mmds_iface_table,
	      .help = "Interfaces on which the guest reaches the service."),
	FIELD(cfg_mmds, version, "version", CFG_ENUM, .values = mmds_names, .dflt = "\"V1\"",
	      .help = "V2 wants a session token with each request; V1, deprecated by Firecracker, does not."),
	FIELD(cfg_mmds, ipv4_address, "ipv4_address", CFG_STR, .dflt = "\"169.254.169.254\"", .accept = link_local_ok,
	      .expected = "a link-local IPv4 address, 169.254.1.0 to 169.254.254.255", .help = "Address of the service."),
	FIELD(cfg_mmds, imds_compat, "imds_compat", CFG_BOOL, .dflt = "false",
	      .help = "Answer as EC2's service does: text/plain whatever the guest accepts."),
};
static const struct cfg_table mmds_table = TABLE("mmds-config", cfg_mmds, mmds_fields, "The metadata service of the guest.");

static const struct cfg_field tcg_fields[] = {
	FIELD(cfg_tcg, code_cache_mib, "code_cache_mib", CFG_INT, .min = 0, .max = 1024, .dflt = "0", .unit = MIB, .extension = true,
	      .flag = "tcg-cache", .metavar = "MIB",
	      .help = "Memory for translated code, at least 4; 0: an eighth of the guest's memory, 16 to 64."),
	FIELD(cfg_tcg, dump, "dump", CFG_STR, .accept = tcg_dump_ok, .expected = "guest, host or guest,host, then =FILE or nothing",
	      .extension = true, .flag = "tcg-dump", .metavar = "WHAT[=FILE]",
	      .help = "Disassemble guest code, the host code made of it, or both (guest,host) as it is translated, to FILE or standard "
		      "error."),
	FIELD(cfg_tcg, verify, "verify", CFG_BOOL, .dflt = "false", .extension = true, .flag = "tcg-verify",
	      .help = "Check all translated code for accesses and instructions that it must not have; builds for debugging always do."),
	FIELD(cfg_tcg, lockstep, "lockstep", CFG_BOOL, .dflt = "false", .extension = true, .flag = "tcg-lockstep",
	      .help = "Run all translated code a second time in the interpreter and compare: a hundred times slower; one CPU only."),
};
static const struct cfg_table tcg_table = TABLE("tcg", cfg_tcg, tcg_fields, "The software accelerator: its code cache, and debugging.");

static const struct cfg_field top_fields[] = {
	FIELD(config, boot, "boot-source", CFG_OBJ, .required = true, .sub = &boot_table, .help = "What the VM boots."),
	FIELD(config, machine, "machine-config", CFG_OBJ, .sub = &machine_table, .help = "CPUs and memory; absent: 1 CPU, 128 MiB."),
	FIELD(config, cpu, "cpu-config", CFG_OBJ, .sub = &config_cpu_table,
	      .help = "A CPU template of your own; goes before cpu_template."),
	FIELD(config, logger, "logger", CFG_OBJ, .sub = &logger_table, .help = "The log."),
	FIELD(config, metrics, "metrics", CFG_OBJ, .sub = &metrics_table, .help = "Metrics."),
	FIELD(config, mmds, "mmds-config", CFG_OBJ, .sub = &mmds_table, .help = "The metadata service of the guest."),
	FIELD(config, tcg, "tcg", CFG_OBJ, .sub = &tcg_table, .extension = true,
	      .help = "The software accelerator: its code cache, and debugging."),
	FIELD(config, accelerator, "accelerator", CFG_ENUM, .values = accel_names, .dflt = "\"auto\"", .extension = true,
	      .flag = "accelerator", .metavar = "NAME", .help = "What runs guest code; auto takes the first that passes its self-test."),
	FIELD(config, boot_timer, "boot_timer", CFG_BOOL, .dflt = "false", .extension = true, .flag = "boot-timer",
	      .help = "Add the device on which a guest reports that it has booted."),
	FIELD(config, id, "id", CFG_STR, .min = 1, .max = 64, .accept = id_ok, .expected = "1 to 64 letters, digits and '-'",
	      .extension = true, .flag = "id", .metavar = "NAME", .help = "Name of the VM in log lines."),
};
const struct cfg_table config_table = TABLE("configuration", config, top_fields, "One virtual machine.");

static u32 nr_classes(void)
{
	u32 n = 0;

	while (device_classes[n])
		n++;
	return n;
}

static bool is_section(const char *key)
{
	for (u32 i = 0; device_classes[i]; i++) {
		if (device_classes[i]->section && !strcmp(device_classes[i]->section, key))
			return true;
	}
	return false;
}

static int check_top_keys(struct json_object *root, const struct cfg_place *at, struct err *e)
{
	const char *sections[CFG_LIST_MAX] = {NULL};
	u32 nr = 0;

	for (u32 i = 0; device_classes[i] && nr < ARRAY_SIZE(sections) - 1; i++) {
		if (device_classes[i]->section)
			sections[nr++] = device_classes[i]->section;
	}
	json_object_object_foreach(root, key, value)
	{
		int r = cfg_find_field(&config_table, key) || is_section(key) ? 0
									      : cfg_unknown_key(&config_table, sections, key, value, at, e);

		if (r < 0)
			return r;
	}
	return 0;
}

/* One item of a device section: its own checks, which know no place. */
static int check_device(const struct device_class *cls, const void *cfg, const struct cfg_place *at, struct err *e)
{
	struct err why = {0};
	int r = cls->check ? cls->check(cfg, &why) : 0;

	return r < 0 ? cfg_fail(at, e, r, "%s", why.msg) : 0;
}

/* Two items of a list with one name, one MAC address, or both the root drive. */
static bool same_value(const struct cfg_field *f, void *a, void *b)
{
	char **sa = cfg_member(f, a), **sb = cfg_member(f, b);

	if (f->type == CFG_BOOL)
		return *(bool *)cfg_member(f, a) && *(bool *)cfg_member(f, b);
	return f->type == CFG_STR && *sa && *sb && !(f->any_case ? strcasecmp : strcmp)(*sa, *sb);
}

static int check_unique(const struct cfg_table *t, const struct cfg_field *f, const struct cfg_list *list, struct json_object *json,
			const struct cfg_place *at, struct err *e)
{
	for (u32 i = 0; i < list->nr; i++) {
		for (u32 j = 0; j < i; j++) {
			struct json_object *item = json_object_array_get_idx(json, i);
			struct cfg_place place = cfg_item(at, i, item), first = cfg_item(at, j, json_object_array_get_idx(json, j));

			if (!same_value(f, (char *)list->items + i * t->size, (char *)list->items + j * t->size))
				continue;
			place = cfg_below(&place, f->key, json_object_object_get(item, f->key));
			return cfg_fail(&place, e, -EINVAL, "%s (the other one: %s%s)", f->unique ? f->unique : "this name is taken",
					*first.path ? "" : first.origin, first.path);
		}
	}
	return 0;
}

static int check_list(const struct device_class *cls, const struct cfg_list *list, struct json_object *json, const struct cfg_place *at,
		      struct err *e)
{
	const char *id_key = cls->flag ? cls->flag->id_key : NULL;
	int r = 0;

	for (u32 i = 0; r == 0 && i < list->nr; i++) {
		struct cfg_place place = cfg_item(at, i, json_object_array_get_idx(json, i));

		r = check_device(cls, (char *)list->items + i * cls->config->size, &place, e);
	}
	for (u32 i = 0; r == 0 && i < cls->config->nr_fields; i++) {
		const struct cfg_field *f = &cls->config->fields[i];

		if (f->unique || (id_key && !strcmp(f->key, id_key)))
			r = check_unique(cls->config, f, list, json, at, e);
	}
	return r;
}

static int read_section(const struct device_class *cls, struct json_object *json, struct cfg_list *out, const struct cfg_place *top,
			struct err *e)
{
	struct cfg_place at = cfg_below(top, cls->section, json);
	int r;

	if (cls->list) {
		r = cfg_read_list(cls->config, json, out, &at, e);
		return r < 0 ? r : check_list(cls, out, json, &at, e);
	}
	out->items = xzalloc(cls->config->size);
	out->nr = 1;
	r = cfg_read_object(cls->config, json, out->items, &at, e);
	return r < 0 ? r : check_device(cls, out->items, &at, e);
}

static int read_devices(struct config *c, struct json_object *root, const struct cfg_place *top, struct err *e)
{
	c->devices = xzalloc(nr_classes() * sizeof(*c->devices));
	for (u32 i = 0; device_classes[i]; i++) {
		const struct device_class *cls = device_classes[i];
		struct json_object *json = cls->section ? json_object_object_get(root, cls->section) : NULL;
		int r = json ? read_section(cls, json, &c->devices[i], top, e) : 0;

		if (r < 0)
			return r;
	}
	return 0;
}

/* What no device can tell by itself. */
static int check_fits(const struct config *c, struct json_object *root, const struct cfg_place *top, struct err *e)
{
	for (u32 i = 0; device_classes[i]; i++) {
		const struct device_class *cls = device_classes[i];
		struct cfg_place at;

		if (!cls->check_fit || !c->devices[i].nr)
			continue;
		at = cfg_below(top, cls->section, json_object_object_get(root, cls->section));
		for (u32 j = 0; j < c->devices[i].nr; j++) {
			struct err why = {0};
			int r = cls->check_fit((char *)c->devices[i].items + j * cls->config->size, c, &why);

			if (r < 0)
				return cfg_fail(&at, e, r, "%s", why.msg);
		}
	}
	return 0;
}

static int check_machine(const struct cfg_machine *m, const struct cfg_place *top, struct err *e)
{
	struct cfg_place at = cfg_below(top, "machine-config", NULL);

	if (m->smt && m->vcpu_count > 1 && m->vcpu_count % 2)
		return cfg_fail(&at, e, -EINVAL, "with smt, vcpu_count must be 1 or even, found %llu", (unsigned long long)m->vcpu_count);
	if (m->huge_pages != MEM_HUGE_NONE && m->mem_size_mib % 2)
		return cfg_fail(&at, e, -EINVAL, "with huge_pages %s, mem_size_mib must be even, found %llu", huge_names[m->huge_pages],
				(unsigned long long)m->mem_size_mib);
	return 0;
}

static bool has_interface(const struct config *c, const char *iface_id)
{
	for (u32 i = 0; device_classes[i]; i++) {
		const struct device_class *cls = device_classes[i];
		const struct cfg_field *id;

		if (!cls->section || strcmp(cls->section, "network-interfaces"))
			continue;
		id = cfg_find_field(cls->config, "iface_id");
		for (u32 j = 0; j < c->devices[i].nr; j++) {
			if (!strcmp(*(char **)cfg_member(id, (char *)c->devices[i].items + j * cls->config->size), iface_id))
				return true;
		}
	}
	return false;
}

static int check_mmds(const struct config *c, const struct cfg_place *top, struct err *e)
{
	const struct cfg_list *list = c->mmds ? &c->mmds->network_interfaces : NULL;
	const struct cfg_mmds_iface *iface = list ? list->items : NULL;
	struct cfg_place at = cfg_below(top, "mmds-config", NULL);

	if (list && !list->nr)
		return cfg_fail(&at, e, -EINVAL,
				"The list of network interface IDs that allow forwarding MMDS requests is empty: name one or more");
	for (u32 i = 0; list && i < list->nr; i++) {
		if (!has_interface(c, iface[i].iface_id))
			return cfg_fail(&at, e, -EINVAL,
					"The list of network interface IDs provided contains at least one ID that does not correspond to "
					"any existing network interface: \"%s\"",
					iface[i].iface_id);
	}
	return 0;
}

bool config_mmds_on(const struct config *c, const char *iface_id)
{
	const struct cfg_list *list = c->mmds ? &c->mmds->network_interfaces : NULL;
	const struct cfg_mmds_iface *iface = list ? list->items : NULL;

	for (u32 i = 0; list && i < list->nr; i++) {
		if (!strcmp(iface[i].iface_id, iface_id))
			return true;
	}
	return false;
}

/* How many devices of the section say that they are the root device. */
static u32 nr_roots(const struct config *c, const char *section, const char *key)
{
	u32 n = 0;

	for (u32 i = 0; device_classes[i]; i++) {
		const struct device_class *cls = device_classes[i];
		const struct cfg_field *f;

		if (!cls->section || strcmp(cls->section, section))
			continue;
		f = cfg_find_field(cls->config, key);
		for (u32 j = 0; j < c->devices[i].nr; j++)
			n += *(bool *)cfg_member(f, (char *)c->devices[i].items + j * cls->config->size);
	}
	return n;
}

/* Two in one section are found there. */
static int check_root(const struct config *c, const struct cfg_place *top, struct err *e)
{
	struct cfg_place at = cfg_below(top, "pmem", NULL);

	if (nr_roots(c, "drives", "is_root_device") && nr_roots(c, "pmem", "root_device"))
		return cfg_fail(&at, e, -EINVAL, "a root device is there already: one of the drives");
	return 0;
}

static int read_top(struct config *c, struct json_object *root, const struct cfg_place *at, struct err *e)
{
	int r;

	if (!json_object_is_type(root, json_type_object))
		return cfg_fail(at, e, -EINVAL, "expected an object with the sections of a configuration");
	r = check_top_keys(root, at, e);
	if (r == 0)
		r = cfg_read_fields(&config_table, root, c, at, e);
	if (r < 0)
		return r;
	if (!c->machine) {
		c->machine = xzalloc(sizeof(*c->machine));
		cfg_defaults(&machine_table, c->machine);
	}
	r = check_machine(c->machine, at, e);
	if (r == 0)
		r = machine_check_config(c, at, e);
	if (r == 0)
		r = read_devices(c, root, at, e);
	if (r == 0)
		r = check_fits(c, root, at, e);
	if (r == 0)
		r = check_root(c, at, e);
	return r < 0 ? r : check_mmds(c, at, e);
}

int config_parse(struct config *c, struct json_object *root, const char *origin, struct err *e)
{
	const struct cfg_place at = {.origin = origin};
	int r;

	*c = (struct config){0};
	r = read_top(c, root, &at, e);
	if (r < 0)
		config_fini(c);
	return r;
}

int config_parse_logger(struct config *c, struct json_object *root, const char *origin, struct err *e)
{
	const struct cfg_place top = {.origin = origin};
	struct json_object *json = json_object_is_type(root, json_type_object) ? json_object_object_get(root, "logger") : NULL;
	struct cfg_place at = cfg_below(&top, "logger", json);
	int r;

	*c = (struct config){0};
	if (!json)
		return 0;
	c->logger = xzalloc(sizeof(*c->logger));
	r = cfg_read_object(&logger_table, json, c->logger, &at, e);
	if (r < 0)
		config_fini(c);
	return r;
}

void config_fini(struct config *c)
{
	for (u32 i = 0; c->devices && device_classes[i]; i++) {
		if (device_classes[i]->section)
			cfg_free_list(device_classes[i]->config, &c->devices[i]);
	}
	free(c->devices);
	cfg_free(&config_table, c);
	*c = (struct config){0};
}

const struct cfg_list *config_devices(const struct config *c, const struct device_class *cls)
{
	for (u32 i = 0; device_classes[i]; i++) {
		if (c->devices && device_classes[i] == cls)
			return &c->devices[i];
	}
	return NULL;
}
