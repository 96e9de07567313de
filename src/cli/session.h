/* session.h: from a configuration, or an API that brings one, to the end of its VM: log, metadata, API server, signals, run. ctx: main
 * thread */
#ifndef HUSK_CLI_SESSION_H
#define HUSK_CLI_SESSION_H

#include "vmm/config.h"
#include "vmm/vm.h"

struct dest;
struct mmds;
struct tls_identity;

struct session {
	bool no_seccomp;	 /* the rest of the sandbox holds */
	struct sandbox *sandbox; /* session_run's own */
	struct log *log;
	struct trace *trace;
	struct mmds *mmds;
	const char *started;			   /* log line when the VM is built */
	const char *api_sock;			   /* path; NULL: no API */
	struct tls_identity *tls;		   /* borrowed; of migrations; NULL: none */
	bool remove_sock;			   /* at the end; Firecracker leaves it */
	u64 max_payload;			   /* bytes of a request's body */
	bool own_counters;			   /* metrics have husk's own counters, too */
	u64 start_us, start_cpu_us, parent_cpu_us; /* of api_counters_started */
	struct json_object *doc;		   /* what is configured already, as JSON */
	struct dest *dest;			   /* owned (taken) with an API: where the VM comes from; NULL: from nowhere */
	const struct vm_restore *restore;	   /* of a configuration that comes with a snapshot; NULL: the VM boots */
};

/* The log as the configuration wants it; fd and level are what holds when it says nothing. log_fini it, also after a failure. */
int session_log(struct log *log, const struct config *c, int fd, enum log_level level, struct err *e) MUST_CHECK;
/* Builds the VM, logs `started`, and runs it to its end, with the API if there is to be one. c NULL: the API configures and starts it.
 * SIGTERM, SIGINT and SIGHUP end a VM; a terminal gets its settings back. */
int session_run(const struct session *s, const struct config *c, enum vm_end *end, struct err *e) MUST_CHECK;

#endif
