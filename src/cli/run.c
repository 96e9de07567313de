/* run.c: `husk run`: a VM from a configuration file, flags, or both, in the foreground. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json_object.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "api/mmds.h"
#include "api/server.h"
#include "cli/cli.h"
#include "cli/invocation.h"
#include "cli/restore.h"
#include "cli/session.h"
#include "migration/dest.h"
#include "migration/snapshot.h"
#include "migration/tls.h"

static int exit_code_of(enum vm_end end)
{
	switch (end) {
	case VM_END_REBOOT:
		return EXIT_REBOOT;
	case VM_END_PANIC:
		return EXIT_PANIC;
	case VM_END_CRASH:
		return EXIT_CRASH;
	case VM_END_INTERNAL:
		return EXIT_INTERNAL;
	case VM_END_NONE:
	case VM_END_POWEROFF:
	case VM_END_HOST:
	case VM_END_MOVED:
		break;
	}
	return EXIT_OK;
}

static int open_trace(const struct invocation *inv, int *fd, struct trace *trace, struct err *e)
{
	if (!inv->trace)
		return 0;
	if (inv->trace_file) {
		*fd = open(inv->trace_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		if (*fd < 0)
			return err_errno(e, "trace file \"%s\"", inv->trace_file);
	}
	return trace_enable(trace, inv->trace, *fd >= 0 ? *fd : STDERR_FILENO, e);
}

/* Where the VM's state comes from: neither: it boots. */
struct origin {
	const struct vm_restore *restore;
	struct dest *dest; /* with an API: not yet known */
};

static int run_session(const struct invocation *inv, const struct config *c, struct json_object *root, const struct origin *from,
		       struct log *log, struct trace *trace, enum vm_end *end, struct err *e)
{
	struct mmds mmds;
	struct session s = {
		.log = log,
		.trace = trace,
		.mmds = &mmds,
		.started = from->dest	   ? "the VM is on its way"
			   : from->restore ? "the VM is restored and goes on"
					   : "the VM is built and starts",
		.api_sock = inv->api_sock,
		.tls = inv->tls_identity,
		.no_seccomp = inv->no_seccomp,
		.remove_sock = true,
		.max_payload = SERVER_DEFAULT_MAX_PAYLOAD,
		.own_counters = true,
		.doc = root,
		.restore = from->restore,
		.dest = from->dest,
	};
	int r;

	mmds_init(&mmds, MMDS_DEFAULT_LIMIT);
	r = session_run(&s, json_object_object_get(root, "boot-source") ? c : NULL, end, e);
	mmds_fini(&mmds);
	return r;
}

static int run_config(const struct invocation *inv, const struct config *c, struct json_object *root, const struct origin *from,
		      struct err *e)
{
	enum vm_end end = VM_END_NONE;
	auto_fd int trace_fd = -1;
	struct trace trace = {0};
	struct log log;
	int r = session_log(&log, c, STDERR_FILENO, LOG_WARN, e);

	if (r == 0)
		r = open_trace(inv, &trace_fd, &trace, e);
	if (r == 0)
		r = run_session(inv, c, root, from, &log, &trace, &end, e);
	trace_fini(&trace);
	log_fini(&log);
	return r < 0 ? EXIT_ERROR : exit_code_of(end);
}

static int run_restored(const struct invocation *inv, struct err *e)
{
	struct snapshot *snapshot = NULL;
	struct json_object *root = NULL;
	int code = EXIT_ERROR;
	struct config c;

	if (restore_open(inv, &snapshot, &root, e) == 0 && config_parse(&c, root, inv->restore.dir, e) == 0) {
		code = run_config(inv, &c, root, &(struct origin){.restore = snapshot_restore(snapshot)}, e);
		config_fini(&c);
	}
	snapshot_close(snapshot);
	json_object_put(root);
	return code;
}

/* Without an API nobody can ask meanwhile: this thread waits. */
static int receive_here(const struct invocation *inv, struct dest *dest, struct json_object *own, struct err *e)
{
	struct json_object *root = NULL;
	int code = EXIT_ERROR, r = dest_wait_offer(dest, e);
	struct config c;

	if (r == 0)
		r = dest_configure(dest, own, &root, e);
	if (r == 0)
		r = config_parse(&c, root, "the source", e);
	if (r == 0) {
		code = run_config(inv, &c, root, &(struct origin){.restore = dest_restore(dest)}, e);
		config_fini(&c);
	}
	if (code == EXIT_ERROR)
		dest_refuse(dest, e);
	dest_close(dest);
	json_object_put(root);
	return code;
}

static int receive_with_api(const struct invocation *inv, struct dest *dest, struct json_object *own, struct err *e)
{
	struct config c;
	int code = EXIT_ERROR;

	if (invocation_check(inv, own, true, &c, e) < 0) {
		dest_close(dest);
		return code;
	}
	code = run_config(inv, &c, own, &(struct origin){.dest = dest}, e);
	config_fini(&c);
	return code;
}

static int run_received(const struct invocation *inv, struct err *e)
{
	struct json_object *own;
	struct dest *dest;
	struct log log;
	int code = EXIT_ERROR;

	log_init(&log, STDERR_FILENO, LOG_WARN);
	if (restore_receive(inv, &log, &dest, &own, e) == 0) {
		fprintf(stderr, "waiting for a VM at %s\n", dest_address(dest));
		code = inv->api_sock ? receive_with_api(inv, dest, own, e) : receive_here(inv, dest, own, e);
		json_object_put(own);
	}
	log_fini(&log);
	return code;
}

static int run_invocation(const struct invocation *inv, struct err *e)
{
	struct json_object *root;
	struct config c;
	int code = EXIT_ERROR;

	if (inv->trace && !strcmp(inv->trace, "help")) {
		trace_list(STDOUT_FILENO);
		return EXIT_OK;
	}
	if (inv->restore.receive)
		return run_received(inv, e);
	if (inv->restore.dir)
		return run_restored(inv, e);
	if (restore_wanted(&inv->restore)) {
		err_set(e, -EINVAL, "these flags need a snapshot: --restore DIR (\"husk help run\")");
		return EXIT_USAGE;
	}
	if (!inv->config_path && !inv->nr_flags && !inv->api_sock) {
		err_set(e, -EINVAL, "nothing to run: give a configuration file, --kernel FILE or --api-sock PATH (\"husk help run\")");
		return EXIT_USAGE;
	}
	if (invocation_json(inv, &root, e) < 0)
		return EXIT_ERROR;
	if (invocation_check(inv, root, inv->api_sock, &c, e) == 0) {
		code = run_config(inv, &c, root, &(struct origin){0}, e);
		config_fini(&c);
	}
	json_object_put(root);
	return code;
}

int cmd_run(int argc, char **argv, struct err *e)
{
	struct invocation inv;
	int code = invocation_parse(&inv, argc, argv, e) < 0 ? EXIT_USAGE : EXIT_OK;

	/* Before anything is built, and the sandbox closes: its files and its library. */
	if (code == EXIT_OK && inv.tls && tls_identity_load(&inv.tls_identity, inv.tls, e) < 0)
		code = EXIT_ERROR;
	if (code == EXIT_OK)
		code = run_invocation(&inv, e);
	tls_identity_free(inv.tls_identity);
	invocation_fini(&inv);
	return code;
}
