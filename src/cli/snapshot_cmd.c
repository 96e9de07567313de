/* snapshot_cmd.c: `husk snapshot info | merge`: snapshots on disk, without a VM. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/cli.h"
#include "cli/ctl.h"
#include "migration/snapshot.h"
#include "migration/snapshot_files.h"
#include "vmm/base/json.h"

struct words {
	const char *words[3]; /* the first is what to do */
	int nr;
	const char *out;
	bool json;
};

/* The files in a folder. */
struct folder {
	char *state, *memory; /* owned */
};

static struct folder folder_of(const char *dir)
{
	return (struct folder){xasprintf("%s/state", dir), xasprintf("%s/memory", dir)};
}

static void folder_fini(struct folder *f)
{
	free(f->state);
	free(f->memory);
}

/* ---- info ---- */

static int read_info(const char *path, struct package_vm *out, struct err *e)
{
	auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	auto_free u8 *bytes = NULL;
	struct package *p = NULL;
	u64 length;
	int r;

	if (fd < 0)
		return err_errno(e, "cannot open \"%s\"", path);
	r = package_read(fd, PACKAGE_SOFT_CAP, &bytes, &length, e);
	if (r == 0)
		r = package_open(&p, bytes, length, e);
	if (r < 0)
		return err_prefix(e, "\"%s\"", path);
	*out = *package_info(p);
	package_close(p);
	return 0;
}

static void add_text(struct json_object *o, const char *key, const char *text)
{
	json_object_object_add(o, key, json_object_new_string(text));
}

static void add_number(struct json_object *o, const char *key, u64 value)
{
	json_object_object_add(o, key, json_object_new_uint64(value));
}

static void add_id(struct json_object *o, const char *key, u64 id)
{
	char text[20];

	snprintf(text, sizeof(text), "%016llx", (unsigned long long)id);
	if (id)
		add_text(o, key, text);
}

/* What the memory file is, beside a state that wants this id. */
static void add_memory(struct json_object *o, const char *path, u64 id)
{
	auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct snapshot_mark mark;
	struct err e = {0};
	struct stat st;
	u64 bytes;
	int kind;

	if (fd < 0 || fstat(fd, &st) < 0) {
		add_text(o, "memory", strerror(errno));
		return;
	}
	kind = memfile_probe(fd, &bytes, &e);
	if (kind < 0 || snapshot_mark_read(fd, &mark, &e) < 0) {
		add_text(o, "memory", e.msg);
		return;
	}
	add_text(o, "memory", mark.memory_id != id ? "of another snapshot" : mark.base_id ? "diff" : kind ? "whole, compressed" : "whole");
	add_number(o, "memory_on_disk", (u64)st.st_blocks * 512);
}

static struct json_object *describe(const struct folder *f, const struct package_vm *info)
{
	struct json_object *o = json_object_new_object(), *config = NULL;

	add_text(o, "husk", info->husk_version);
	add_text(o, "arch", info->arch);
	add_text(o, "accelerator", info->accelerator);
	add_number(o, "cpus", info->nr_vcpus);
	add_number(o, "memory_bytes", info->ram_bytes);
	add_id(o, "id", info->memory_id);
	add_id(o, "builds_on", info->base_id);
	add_memory(o, f->memory, info->memory_id);
	if (json_parse("configuration", (const char *)info->document, info->nr_document, &config, NULL) == 0)
		json_object_object_add(o, "config", config);
	return o;
}

static void print_items(struct json_object *config, const char *section, const char *id_key, const char *value_key)
{
	struct json_object *list = json_object_object_get(config, section);

	for (size_t i = 0; json_object_is_type(list, json_type_array) && i < json_object_array_length(list); i++) {
		struct json_object *item = json_object_array_get_idx(list, i), *value = json_object_object_get(item, value_key);

		printf("%-15s%s%s%s\n",
		       section[0] == 'd'   ? "drive"
		       : section[0] == 'p' ? "pmem"
					   : "net",
		       json_object_get_string(json_object_object_get(item, id_key)), value ? "=" : "",
		       value ? json_object_get_string(value) : "");
	}
}

static void print_text(struct json_object *o)
{
	json_object_object_foreach(o, key, value)
	{
		if (!strcmp(key, "config"))
			continue;
		if (!strcmp(key, "memory_bytes") || !strcmp(key, "memory_on_disk"))
			printf("%-15s%llu MiB\n", !strcmp(key, "memory_bytes") ? "memory size" : "on disk",
			       (unsigned long long)(json_object_get_uint64(value) / MIB));
		else
			printf("%-15s%s\n", !strcmp(key, "builds_on") ? "builds on" : key, json_object_get_string(value));
	}
	o = json_object_object_get(o, "config");
	if (!json_object_is_type(o, json_type_object))
		return;
	print_items(o, "drives", "drive_id", "path_on_host");
	print_items(o, "pmem", "id", "path_on_host");
	print_items(o, "network-interfaces", "iface_id", "host_dev_name");
}

static int info(const struct words *w, struct err *e)
{
	struct package_vm *vm = xzalloc(sizeof(*vm));
	struct folder f = folder_of(w->words[1]);
	struct json_object *o = NULL;
	int r = read_info(f.state, vm, e);

	if (r == 0) {
		o = describe(&f, vm);
		if (w->json)
			ctl_print_json(o);
		else
			print_text(o);
	}
	json_object_put(o);
	folder_fini(&f);
	free(vm);
	return r;
}

/* ---- merge ---- */

static int merge(const struct words *w, struct err *e)
{
	const char *to = w->out ? w->out : w->words[1];
	struct folder base = folder_of(w->words[1]), diff = folder_of(w->words[2]), out = folder_of(to);
	struct memfile_stats stats;
	int r = 0;

	if (w->out && mkdir(w->out, 0700) < 0 && errno != EEXIST)
		r = err_errno(e, "cannot make \"%s\"", w->out);
	if (r == 0)
		r = snapshot_merge(&(struct snapshot_paths){base.state, base.memory}, &(struct snapshot_paths){diff.state, diff.memory},
				   &(struct snapshot_paths){out.state, out.memory}, &stats, e);
	if (r == 0)
		printf("%llu pages of \"%s\" are in \"%s\" now\n", (unsigned long long)stats.pages, w->words[2], to);
	folder_fini(&base);
	folder_fini(&diff);
	folder_fini(&out);
	return r;
}

/* ---- Command line ---- */

static int take_option(struct words *w, struct args *a, struct err *e)
{
	if (!strcmp(a->name, "json")) {
		w->json = true;
		return args_no_value(a, e);
	}
	if (!strcmp(a->name, "output"))
		return (w->out = args_value(a, e)) ? 0 : -EINVAL;
	return err_set(e, -EINVAL, "husk snapshot: unknown flag --%s; there are --json and, for merge, -o", a->name);
}

static int parse(struct words *w, int argc, char **argv, struct err *e)
{
	struct args a;
	int r = 0;

	args_init(&a, argc, argv);
	while (r == 0 && args_next(&a)) {
		if (!*a.name && !strcmp(a.value, "-o")) {
			snprintf(a.name, sizeof(a.name), "output");
			a.value = NULL;
		}
		if (*a.name)
			r = take_option(w, &a, e);
		else if (w->nr == (int)ARRAY_SIZE(w->words))
			r = err_set(e, -EINVAL, "husk snapshot: too many words");
		else
			w->words[w->nr++] = a.value;
	}
	return r;
}

int cmd_snapshot(int argc, char **argv, struct err *e)
{
	struct words w = {0};
	int r = parse(&w, argc, argv, e);

	if (r < 0)
		return EXIT_USAGE;
	if (w.nr == 2 && !strcmp(w.words[0], "info"))
		r = info(&w, e);
	else if (w.nr == 3 && !strcmp(w.words[0], "merge"))
		r = merge(&w, e);
	else {
		err_set(e, -EINVAL, "husk snapshot: it is: info DIR, or merge BASE DIFF [-o OUT]");
		return EXIT_USAGE;
	}
	fflush(stdout);
	return r == 0 ? EXIT_OK : EXIT_ERROR;
}

void help_snapshot(FILE *out)
{
	fputs("\nDIR is what husk ctl SOCKET snapshot DIR has made: the files state and memory.\n"
	      "  info DIR                 what is in it; --json: with the VM's configuration\n"
	      "  merge BASE DIFF [-o OUT] makes one of a snapshot and the diff that was made after it, in OUT, or in BASE\n"
	      "\nExit codes: 0; 1 it is damaged, or the two do not belong together; 2 usage. docs/snapshots.md has more.\n",
	      out);
}
