/* cpu_template_cmd.c: `husk cpu-template common [FILE...]`: the template whose guests move between accelerators and hosts. */
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arch/x86_64/cpu.h"
#include "arch/x86_64/cpu_common.h"
#include "cli/args.h"
#include "cli/cli.h"
#include "vmm/base/json.h"
#include "vmm/vm.h"

/* What an accelerator can show, asked of a VM that never gets memory. */
static int ask(const struct accel_ops *accel, struct arch_cpu_caps *caps, struct err *e)
{
	auto_free struct vm *vm = xzalloc(sizeof(*vm));
	struct log log;
	int ret = accel->probe(e);

	if (ret < 0)
		return ret;
	log_init(&log, STDERR_FILENO, LOG_WARN);
	vm->log = &log;
	vm->accel = accel;
	ret = accel->vm_init(vm, e);
	if (ret == 0) {
		ret = accel->cpu_caps(vm, caps, e);
		accel->vm_fini(vm);
	}
	log_fini(&log);
	return ret;
}

/* Those that are of no use here are told of, and left out. */
static u32 add_accelerators(struct cpu_common *c)
{
	auto_free struct arch_cpu_caps *caps = xzalloc(sizeof(*caps));
	u32 nr = 0;

	for (const struct accel_ops *const *a = accel_list; *a; a++) {
		struct err e = {0};

		memset(caps, 0, sizeof(*caps));
		if (ask(*a, caps, &e) < 0) {
			fprintf(stderr, "husk: %s is left out: %s\n", (*a)->name, e.msg);
			continue;
		}
		cpu_common_add(c, caps);
		nr++;
	}
	return nr;
}

static int merge_file(struct cpu_common *c, const char *path, struct err *e)
{
	struct json_object *o = NULL;
	int ret = json_load(path, &o, e);

	if (ret == 0) {
		ret = cpu_common_merge(c, o, e);
		if (ret < 0)
			err_prefix(e, "%s", path);
	}
	json_object_put(o);
	return ret;
}

static int common(struct args *a, struct err *e)
{
	struct cpu_common c;
	struct json_object *o;

	cpu_common_init(&c);
	if (!add_accelerators(&c)) {
		err_set(e, -ENODEV, "no accelerator is usable here (husk check says why)");
		return EXIT_ERROR;
	}
	while (args_next(a)) {
		if (a->name[0]) {
			err_set(e, -EINVAL, "husk cpu-template common: --%s is not an option", a->name);
			return EXIT_USAGE;
		}
		if (merge_file(&c, a->value, e) < 0)
			return EXIT_ERROR;
	}
	o = cpu_common_template(&c);
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(o);
	return EXIT_OK;
}

int cmd_cpu_template(int argc, char **argv, struct err *e)
{
	struct args a;

	if (argc < 2 || strcmp(argv[1], "common")) {
		err_set(e, -EINVAL, "husk cpu-template: say \"common [FILE...]\"");
		return EXIT_USAGE;
	}
	args_init(&a, argc - 1, argv + 1);
	return common(&a, e);
}

void help_cpu_template(FILE *out)
{
	fputs("\nPrints a template (section \"cpu-config\") of what kvm and tcg both offer on this host: a guest that was booted with it "
	      "can be\n"
	      "snapshotted under one and restored under the other. With FILEs, which this command made on other hosts: of what they offer, "
	      "too.\n",
	      out);
}
