/*
 * firecracker.c: Firecracker's own command line, so that what starts Firecracker can start husk: its flags, its log lines, its exit codes.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json_object.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/mmds.h"
#include "api/server.h"
#include "cli/args.h"
#include "cli/cli.h"
#include "cli/invocation.h"
#include "cli/session.h"
#include "migration/package.h"
#include "migration/tls.h"
#include "vmm/base/json.h"

enum fc_kind {
	FC_CONFIG, /* husk's flag of the same name */
	FC_CONFIG_FILE,
	FC_NO_API,
	FC_API_SOCK,
	FC_METADATA,
	FC_TLS,
	FC_MAX_PAYLOAD,
	FC_MMDS_LIMIT,
	FC_START,
	FC_START_CPU,
	FC_PARENT_CPU,
	FC_VERSION,
	FC_HELP,
	FC_NO_SECCOMP,
	FC_SNAPSHOT_VERSION,
	FC_DESCRIBE,
	FC_IGNORED,	/* nothing to do for it */
	FC_WITHOUT,	/* accepted, but what it asks for is missing: a warning */
	FC_UNSUPPORTED, /* refused */
};

struct fc_flag {
	const char *name;
	bool value; /* takes one */
	enum fc_kind kind;
	const char *text; /* FC_WITHOUT, FC_UNSUPPORTED: what to say */
};

static const struct fc_flag fc_flags[] = {
	{"accelerator", true, FC_CONFIG, NULL}, /* husk's own */
	{"api-sock", true, FC_API_SOCK, NULL},
	{"boot-timer", false, FC_CONFIG, NULL},
	{"config-file", true, FC_CONFIG_FILE, NULL},
	{"describe-snapshot", true, FC_DESCRIBE, NULL},
	{"enable-pci", false, FC_WITHOUT, "husk has no PCI bus yet: devices are on virtio-mmio"},
	{"help", false, FC_HELP, NULL},
	{"http-api-max-payload-size", true, FC_MAX_PAYLOAD, NULL},
	{"id", true, FC_CONFIG, NULL},
	{"level", true, FC_CONFIG, NULL},
	{"log-path", true, FC_CONFIG, NULL},
	{"metadata", true, FC_METADATA, NULL},
	{"metrics-path", true, FC_CONFIG, NULL},
	{"mmds-size-limit", true, FC_MMDS_LIMIT, NULL},
	{"module", true, FC_CONFIG, NULL},
	{"no-api", false, FC_NO_API, NULL},
	{"no-seccomp", false, FC_NO_SECCOMP, NULL},
	{"parent-cpu-time-us", true, FC_PARENT_CPU, NULL},
	{"seccomp-filter", true, FC_UNSUPPORTED,
	 "husk makes its filters itself, from what the parts of each VM declare, and loads none that were compiled for Firecracker; leave "
	 "it out"},
	{"show-level", false, FC_CONFIG, NULL},
	{"show-log-origin", false, FC_CONFIG, NULL},
	{"snapshot-version", false, FC_SNAPSHOT_VERSION, NULL},
	{"start-time-cpu-us", true, FC_START_CPU, NULL},
	{"start-time-us", true, FC_START, NULL},
	{"tls", true, FC_TLS, NULL}, /* husk's own */
	{"version", false, FC_VERSION, NULL},
};

struct fc_args {
	struct invocation inv;
	bool no_api, no_seccomp, version, snapshot_version, help;
	const char *api_sock, *metadata, *describe;
	u64 max_payload, mmds_limit; /* bytes; mmds_limit 0: max_payload */
	u64 start_us, start_cpu_us, parent_cpu_us;
	u64 warnings; /* bit i: fc_flags[i].text is to be logged */
};

static const struct fc_flag *find_flag(const char *name)
{
	for (u32 i = 0; i < ARRAY_SIZE(fc_flags); i++) {
		if (!strcmp(fc_flags[i].name, name))
			return &fc_flags[i];
	}
	return NULL;
}

static int unknown_flag(const struct args *a, struct err *e)
{
	struct suggest s;

	if (!*a->name)
		return err_set(e, -EINVAL, "\"%s\" is not understood: Firecracker's command line has flags only", a->value);
	suggest_init(&s, a->name);
	for (u32 i = 0; i < ARRAY_SIZE(fc_flags); i++)
		suggest_try(&s, fc_flags[i].name);
	return err_set(e, -EINVAL, "unknown flag --%s%s; without a command husk takes Firecracker's flags (\"husk help firecracker\")",
		       a->name, suggest_text(&s, "--"));
}

static int take_bytes(const struct fc_flag *flag, const char *value, u64 *out, struct err *e)
{
	char *end;

	errno = 0;
	*out = strtoull(value, &end, 10);
	if (errno || *end || !isdigit((unsigned char)*value) || *out > JSON_MAX_BYTES)
		return err_set(e, -EINVAL, "--%s: expected a number of bytes up to %llu, found \"%s\"", flag->name, JSON_MAX_BYTES, value);
	return 0;
}

static int take_us(const struct fc_flag *flag, const char *value, u64 *out, struct err *e)
{
	char *end;

	errno = 0;
	*out = strtoull(value, &end, 10);
	if (errno || *end || !isdigit((unsigned char)*value))
		return err_set(e, -EINVAL, "--%s: expected a number of microseconds, found \"%s\"", flag->name, value);
	return 0;
}

static int take_flag(struct fc_args *fc, const struct fc_flag *flag, const char *value, struct err *e)
{
	struct config_flag config_flag;

	switch (flag->kind) {
	case FC_CONFIG:
		if (config_flag_find(flag->name, &config_flag))
			invocation_add(&fc->inv, &config_flag, value);
		break;
	case FC_CONFIG_FILE:
		fc->inv.config_path = value;
		break;
	case FC_NO_API:
		fc->no_api = true;
		break;
	case FC_API_SOCK:
		fc->api_sock = value;
		break;
	case FC_METADATA:
		fc->metadata = value;
		break;
	case FC_TLS:
		fc->inv.tls = value;
		break;
	case FC_MAX_PAYLOAD:
		return take_bytes(flag, value, &fc->max_payload, e);
	case FC_MMDS_LIMIT:
		return take_bytes(flag, value, &fc->mmds_limit, e);
	case FC_START:
		return take_us(flag, value, &fc->start_us, e);
	case FC_START_CPU:
		return take_us(flag, value, &fc->start_cpu_us, e);
	case FC_PARENT_CPU:
		return take_us(flag, value, &fc->parent_cpu_us, e);
	case FC_VERSION:
		fc->version = true;
		break;
	case FC_HELP:
		fc->help = true;
		break;
	case FC_NO_SECCOMP:
		fc->no_seccomp = true;
		break;
	case FC_SNAPSHOT_VERSION:
		fc->snapshot_version = true;
		break;
	case FC_DESCRIBE:
		fc->describe = value;
		break;
	case FC_IGNORED:
		break;
	case FC_WITHOUT:
		fc->warnings |= BIT(flag - fc_flags);
		break;
	case FC_UNSUPPORTED:
		return err_set(e, -EOPNOTSUPP, "--%s: %s", flag->name, flag->text);
	}
	return 0;
}

static int parse(struct fc_args *fc, int argc, char **argv, struct err *e)
{
	struct args a;
	int r = 0;

	args_init(&a, argc, argv);
	while (r == 0 && args_next(&a)) {
		const struct fc_flag *flag = *a.name ? find_flag(a.name) : NULL;
		const char *value = NULL;

		if (!flag)
			return unknown_flag(&a, e);
		if (flag->value)
			value = args_value(&a, e);
		if (flag->value ? !value : args_no_value(&a, e) < 0)
			return -EINVAL;
		r = take_flag(fc, flag, value, e);
	}
	if (r == 0 && fc->no_api && !fc->inv.config_path)
		return err_set(e, -EINVAL, "--no-api needs --config-file FILE");
	return r;
}

/* The logger alone, as far as it is right, so that a failure gets logged where it should be. */
static void read_logger(const struct fc_args *fc, struct json_object *root, struct config *c)
{
	struct invocation flags_only = fc->inv;

	flags_only.config_path = NULL;
	if (root)
		json_object_get(root);
	else if (invocation_json(&flags_only, &root, NULL) < 0)
		return;
	if (config_parse_logger(c, root, invocation_origin(&fc->inv), NULL) < 0)
		*c = (struct config){0};
	json_object_put(root);
}

/* The whole configuration into *c and, as JSON, *root, the caller's; on failure just the logger. */
static int read_config(const struct fc_args *fc, struct config *c, struct json_object **root, struct err *e)
{
	int r = invocation_json(&fc->inv, root, e);

	*c = (struct config){0};
	if (r == 0)
		r = invocation_check(&fc->inv, *root, !fc->inv.config_path, c, e);
	if (r < 0)
		read_logger(fc, *root, c);
	return r;
}

static void log_start(const struct fc_args *fc, struct log *log)
{
	log_info(log, "Running Firecracker v" FIRECRACKER_VERSION);
	log_info(log, "This is husk " HUSK_VERSION ", which takes Firecracker's command line");
	for (u32 i = 0; i < ARRAY_SIZE(fc_flags); i++) {
		if (fc->warnings & BIT(i))
			log_warn(log, "--%s: %s", fc_flags[i].name, fc_flags[i].text);
	}
}

static int log_end(struct log *log, const struct err *e, int r, enum vm_end end)
{
	bool good = r == 0 && (end == VM_END_POWEROFF || end == VM_END_REBOOT || end == VM_END_HOST || end == VM_END_MOVED);

	if (r < 0)
		log_error(log, "%s", e->msg);
	if (good)
		log_info(log, "Firecracker exiting successfully. exit_code=%d", EXIT_OK);
	else
		log_error(log, "Firecracker exiting with error. exit_code=%d", EXIT_ERROR);
	return good ? EXIT_OK : EXIT_ERROR;
}

static int run_session(const struct fc_args *fc, const struct config *c, struct json_object *root, struct log *log, enum vm_end *end,
		       struct err *e)
{
	struct trace trace = {0};
	struct mmds mmds;
	struct session s = {
		.log = log,
		.trace = &trace,
		.mmds = &mmds,
		.started = fc->inv.config_path ? "Successfully started microvm that was configured from one single json"
					       : "The microVM is built",
		.api_sock = fc->no_api ? NULL : fc->api_sock,
		.no_seccomp = fc->no_seccomp,
		.max_payload = fc->max_payload,
		.start_us = fc->start_us,
		.start_cpu_us = fc->start_cpu_us,
		.parent_cpu_us = fc->parent_cpu_us,
		.doc = root,
	};
	int r = 0;

	mmds_init(&mmds, fc->mmds_limit ? fc->mmds_limit : fc->max_payload);
	if (fc->metadata)
		r = mmds_load(&mmds, fc->metadata, e);
	if (r == 0 && fc->inv.tls)
		r = tls_identity_load(&s.tls, fc->inv.tls, e);
	if (r == 0)
		r = session_run(&s, fc->inv.config_path ? c : NULL, end, e);
	tls_identity_free(s.tls);
	mmds_fini(&mmds);
	return r;
}

static int run(const struct fc_args *fc, struct err *e)
{
	struct json_object *root = NULL;
	struct config c;
	enum vm_end end = VM_END_NONE;
	struct log log;
	int config_result = read_config(fc, &c, &root, e);
	int r = session_log(&log, &c, STDOUT_FILENO, LOG_INFO, config_result < 0 ? NULL : e);

	log_start(fc, &log);
	if (config_result < 0)
		log_error(&log, "Configuration for VMM from one single json failed");
	else if (r == 0)
		r = run_session(fc, &c, root, &log, &end, e);
	r = log_end(&log, e, config_result < 0 ? config_result : r, end);
	log_fini(&log);
	config_fini(&c);
	json_object_put(root);
	return r;
}

/* The number of the format, in Firecracker's form. */
static int print_version(u32 version)
{
	printf("v%u.0.0\n", version);
	return EXIT_OK;
}

/* The version of the format that the file has. */
static int describe_snapshot(const char *path, struct err *e)
{
	auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	auto_free u8 *bytes = NULL;
	u64 length;

	if (fd < 0)
		err_errno(e, "cannot open \"%s\"", path);
	else if (package_read(fd, PACKAGE_SOFT_CAP, &bytes, &length, e) == 0)
		return print_version(PACKAGE_VERSION);
	else
		err_prefix(e, "\"%s\"", path);
	return EXIT_ERROR;
}

int cmd_firecracker(int argc, char **argv, struct err *e)
{
	struct fc_args fc = {.api_sock = "/run/firecracker.socket", .max_payload = SERVER_DEFAULT_MAX_PAYLOAD};
	int code = EXIT_OK;

	if (parse(&fc, argc, argv, e) < 0) {
		code = EXIT_FC_ARGS;
	} else if (fc.help) {
		help_firecracker(stdout);
	} else if (fc.version) {
		puts("Firecracker v" FIRECRACKER_VERSION "\nhusk " HUSK_VERSION);
	} else if (fc.snapshot_version) {
		print_version(PACKAGE_VERSION);
	} else if (fc.describe) {
		code = describe_snapshot(fc.describe, e);
	} else {
		code = run(&fc, e);
	}
	invocation_fini(&fc.inv);
	return code;
}
