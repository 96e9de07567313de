/* options.c: see options.h. Error texts are Firecracker's, for clients that look for them. */
#include "jailer/options.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/args.h"
#include "vmm/base/suggest.h"

enum option {
	OPT_CGROUP,
	OPT_CGROUP_VERSION,
	OPT_CHROOT_BASE_DIR,
	OPT_CLEANUP,
	OPT_DAEMONIZE,
	OPT_EXEC_FILE,
	OPT_GID,
	OPT_HELP,
	OPT_ID,
	OPT_NETNS,
	OPT_NEW_PID_NS,
	OPT_PARENT_CGROUP,
	OPT_REMOVE,
	OPT_RESOURCE_LIMIT,
	OPT_UID,
	OPT_UNPRIVILEGED,
	OPT_VERSION,
	N_OPTIONS,
};

struct option_info {
	const char *name;
	const char *value; /* what help calls it; NULL: it takes none */
	bool many;
	const char *help;
};

static const struct option_info options[N_OPTIONS] = {
	[OPT_ID] = {"id", "ID", false, "Jail ID: 1 to 64 letters, digits and hyphens."},
	[OPT_EXEC_FILE] = {"exec-file", "FILE", false, "File path to exec into."},
	[OPT_UID] = {"uid", "UID", false, "The user identifier the jailer switches to after exec."},
	[OPT_GID] = {"gid", "GID", false, "The group identifier the jailer switches to after exec."},
	[OPT_CHROOT_BASE_DIR] = {"chroot-base-dir", "DIR", false,
				 "The base folder where chroot jails are located. [default: \"" JAIL_BASE "\"]"},
	[OPT_NETNS] = {"netns", "FILE", false, "Path to the network namespace this microVM should join."},
	[OPT_DAEMONIZE] = {"daemonize", NULL, false, "A new session, and standard input and output on /dev/null."},
	[OPT_NEW_PID_NS] = {"new-pid-ns", NULL, false, "Exec into a new PID namespace."},
	[OPT_CGROUP] = {"cgroup", "FILE=VALUE", true, "A cgroup file and what is written to it, like cpu.shares=10. May be repeated."},
	[OPT_CGROUP_VERSION] = {"cgroup-version", "1|2", false, "The cgroup hierarchy to use. [default: \"1\"]"},
	[OPT_PARENT_CGROUP] = {"parent-cgroup", "PATH", false,
			       "Parent cgroup of this microVM's, relative to the hierarchy. [default: the exec file's name]"},
	[OPT_RESOURCE_LIMIT] = {"resource-limit", "NAME=VALUE", true,
				"fsize=BYTES of a file, no-file=NUMBER of descriptors [default: 2048]. May be repeated."},
	[OPT_CLEANUP] = {"cleanup", NULL, false, "husk: Remove the jail and its cgroups when the program has ended."},
	[OPT_REMOVE] = {"remove", NULL, false,
			"husk: Run nothing; remove the jail of --id and --exec-file, which an earlier run has left."},
	[OPT_UNPRIVILEGED] = {"unprivileged", NULL, false, "husk: Work without root, in a user namespace."},
	[OPT_VERSION] = {"version", NULL, false, "Print the binary version number."},
	[OPT_HELP] = {"help", NULL, false, "This text."},
};

void jail_options_help(void)
{
	puts("Usage: husk-jailer --id ID --exec-file FILE --uid UID --gid GID [options] [-- the program's arguments]\n");
	for (u32 i = 0; i < N_OPTIONS; i++) {
		const struct option_info *info = &options[i];

		printf("  --%s%s%s%*s%s\n", info->name, info->value ? " " : "", info->value ? info->value : "",
		       MAX(1, 28 - (int)strlen(info->name) - (info->value ? (int)strlen(info->value) + 1 : 0)), "", info->help);
	}
	puts("\nAny arguments after the -- separator will be supplied to the jailed binary.");
}

static int check_id(const char *id, struct err *e)
{
	size_t len = strlen(id);

	if (len < 1 || len > JAIL_ID_MAX)
		return err_set(e, -EINVAL, "Invalid instance ID: Invalid len (%zu);  the length must be between 1 and %d", len,
			       JAIL_ID_MAX);
	for (size_t i = 0; i < len; i++) {
		if (!isalnum((unsigned char)id[i]) && id[i] != '-')
			return err_set(e, -EINVAL, "Invalid instance ID: Invalid char (%c) at position %zu", id[i], i);
	}
	return 0;
}

/* A decimal number of digits only: strtoull would take signs and blanks. */
static bool parse_number(const char *text, u64 max, u64 *out)
{
	u64 v = 0;

	if (!*text)
		return false;
	for (; *text; text++) {
		if (*text < '0' || *text > '9' || __builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (u64)(*text - '0'), &v))
			return false;
	}
	*out = v;
	return v <= max;
}

/* 4294967295 is no id: to the kernel it means "leave it as it is". */
static int parse_owner(const char *text, const char *what, u32 *out, bool *have, struct err *e)
{
	u64 v;

	if (!parse_number(text, UINT32_MAX - 1, &v))
		return err_set(e, -EINVAL, "Invalid %s: %s", what, text);
	*out = (u32)v;
	*have = true;
	return 0;
}

static int parse_limit(struct jail_options *o, const char *text, struct err *e)
{
	const char *equals = strchr(text, '=');
	u64 v;

	if (!equals)
		return err_set(e, -EINVAL, "Invalid format for resources limits: %s", text);
	if (!parse_number(equals + 1, UINT64_MAX, &v))
		return err_set(e, -EINVAL, "Invalid limit value for resource: %s: invalid digit found in string, or none, or too large",
			       equals + 1);
	if (!strncmp(text, "fsize=", 6)) {
		o->fsize = v;
		o->have_fsize = true;
	} else if (!strncmp(text, "no-file=", 8)) {
		o->no_file = v;
		o->have_no_file = true;
	} else {
		return err_set(e, -EINVAL, "Invalid resource argument: %.*s", (int)(equals - text), text);
	}
	return 0;
}

/* "controller.property", and more dots (hugetlb.2MB.limit_in_bytes): a name in the cgroup's folder, nothing that leads out of it. */
static bool cgroup_file_ok(const char *file, size_t len)
{
	const char *dot = memchr(file, '.', len);

	if (!dot || dot == file || file[len - 1] == '.' || len > 200)
		return false;
	for (size_t i = 0; i < len; i++) {
		if (!isalnum((unsigned char)file[i]) && !strchr("._-", file[i]))
			return false;
	}
	return strncmp(file, "cgroup.", 7) != 0; /* cgroup.procs and the like are the jailer's */
}

static int parse_cgroup(struct jail_options *o, const char *text, struct err *e)
{
	const char *equals = strchr(text, '=');
	struct cgroup_setting *s;

	if (!equals || !equals[1])
		return err_set(e, -EINVAL, "Invalid format for cgroups: %s", text);
	if (!cgroup_file_ok(text, (size_t)(equals - text)))
		return err_set(e, -EINVAL, "Cgroup invalid file: %.*s", (int)(equals - text), text);
	for (const char *p = equals + 1; *p; p++) {
		if (iscntrl((unsigned char)*p))
			return err_set(e, -EINVAL, "Invalid format for cgroups: %s", text);
	}
	if (o->n_cgroups == JAIL_CGROUPS_MAX)
		return err_set(e, -EINVAL, "Invalid format for cgroups: more than %d of them", JAIL_CGROUPS_MAX);
	if (!o->cgroups)
		o->cgroups = xzalloc(JAIL_CGROUPS_MAX * sizeof(*o->cgroups));
	s = &o->cgroups[o->n_cgroups++];
	s->controller = xasprintf("%.*s", (int)strcspn(text, "."), text);
	s->file = xasprintf("%.*s", (int)(equals - text), text);
	s->value = xstrdup(equals + 1);
	return 0;
}

static int check_parent_cgroup(const char *path, struct err *e)
{
	auto_free char *copy = xstrdup(path);
	char *at = copy, *name;
	bool ok = *path != '/' && strlen(path) < 1024;

	while (ok && (name = strsep(&at, "/")))
		ok = strcmp(name, ".") && strcmp(name, "..") && strlen(name) <= 255;
	if (!ok)
		return err_set(e, -EINVAL, "Parent cgroup path is invalid. Path should not be absolute or contain '..' or '.'");
	return 0;
}

static int take_value(struct jail_options *o, enum option option, const char *value, struct err *e)
{
	switch (option) {
	case OPT_CGROUP:
		return parse_cgroup(o, value, e);
	case OPT_CGROUP_VERSION:
		if (strcmp(value, "1") != 0 && strcmp(value, "2") != 0)
			return err_set(e, -EINVAL, "%s is an invalid cgroup version specifier", value);
		o->cgroup_version = *value - '0';
		return 0;
	case OPT_CHROOT_BASE_DIR:
		o->base = value;
		return 0;
	case OPT_EXEC_FILE:
		o->exec_file = value;
		return 0;
	case OPT_GID:
		return parse_owner(value, "gid", &o->gid, &o->have_gid, e);
	case OPT_ID:
		o->id = value;
		return check_id(value, e);
	case OPT_NETNS:
		o->netns = value;
		return 0;
	case OPT_PARENT_CGROUP:
		o->parent_cgroup = value;
		return check_parent_cgroup(value, e);
	case OPT_RESOURCE_LIMIT:
		return parse_limit(o, value, e);
	case OPT_UID:
		return parse_owner(value, "uid", &o->uid, &o->have_uid, e);
	default:
		return -EINVAL; /* takes none */
	}
}

static void take_switch(struct jail_options *o, enum option option)
{
	o->cleanup |= option == OPT_CLEANUP;
	o->daemonize |= option == OPT_DAEMONIZE;
	o->help |= option == OPT_HELP;
	o->new_pid_ns |= option == OPT_NEW_PID_NS;
	o->remove |= option == OPT_REMOVE;
	o->unprivileged |= option == OPT_UNPRIVILEGED;
	o->version |= option == OPT_VERSION;
}

static int unexpected(const struct args *a, struct err *e)
{
	struct suggest s;

	suggest_init(&s, a->name);
	for (u32 i = 0; i < N_OPTIONS; i++)
		suggest_try(&s, options[i].name);
	return err_set(e, -EINVAL,
		       "Failed to parse arguments: Found argument '%s' which wasn't expected, or isn't valid in this context.%s",
		       *a->name ? a->name : a->value, suggest_text(&s, "--"));
}

static int take_option(struct jail_options *o, struct args *a, u64 *seen, struct err *e)
{
	const char *value;
	u32 i = 0;

	while (i < N_OPTIONS && strcmp(options[i].name, a->name) != 0)
		i++;
	if (i == N_OPTIONS)
		return unexpected(a, e);
	if (*seen & BIT(i) && !options[i].many)
		return err_set(e, -EINVAL, "Failed to parse arguments: The argument '%s' was provided more than once.", a->name);
	*seen |= BIT(i);
	if (!options[i].value) {
		if (args_no_value(a, e) < 0)
			return err_prefix(e, "Failed to parse arguments");
		take_switch(o, i);
		return 0;
	}
	value = args_value(a, NULL);
	if (!value)
		return err_set(e, -EINVAL, "Failed to parse arguments: The argument '%s' requires a value, but none was supplied.",
			       a->name);
	return take_value(o, i, value, e);
}

static int missing(const char *name, struct err *e)
{
	return err_set(e, -EINVAL, "Failed to parse arguments: Argument '%s' required, but not found.", name);
}

/* What must be given, and what does not go together. */
static int check_options(const struct jail_options *o, struct err *e)
{
	bool ids_needed = !o->unprivileged && !o->remove;

	if (!o->id)
		return missing("id", e);
	if (!o->exec_file)
		return missing("exec-file", e);
	if (ids_needed && !o->have_uid)
		return missing("uid", e);
	if (ids_needed && !o->have_gid)
		return missing("gid", e);
	if (o->remove && (o->cleanup || *o->extra))
		return err_set(
			e, -EINVAL,
			"Failed to parse arguments: --remove runs nothing: it goes with neither --cleanup nor arguments for a program");
	if (o->unprivileged && o->netns)
		return err_set(e, -EINVAL,
			       "Failed to join network namespace: netns: that needs root, which --unprivileged does without; start the "
			       "jailer inside the namespace");
	return 0;
}

int jail_options_parse(struct jail_options *o, int argc, char **argv, struct err *e)
{
	struct args a;
	u64 seen = 0;
	int r = 0;

	*o = (struct jail_options){.cgroup_version = 1, .no_file = JAIL_NO_FILE, .extra = argv + argc};
	args_init(&a, argc, argv);
	while (r == 0 && args_next(&a)) {
		if (!*a.name && !a.value) { /* "--" */
			o->extra = argv + a.at;
			break;
		}
		r = *a.name ? take_option(o, &a, &seen, e) : unexpected(&a, e);
	}
	if (r == 0 && !o->help && !o->version)
		r = check_options(o, e);
	return r;
}

void jail_options_fini(struct jail_options *o)
{
	for (u32 i = 0; i < o->n_cgroups; i++) {
		free(o->cgroups[i].controller);
		free(o->cgroups[i].file);
		free(o->cgroups[i].value);
	}
	free(o->cgroups);
	*o = (struct jail_options){0};
}
