/* session.h: from a parsed configuration to the end of its VM: log, signals, run. ctx: main thread */
#ifndef HUSK_CLI_SESSION_H
#define HUSK_CLI_SESSION_H

#include "vmm/config.h"
#include "vmm/vm.h"

/* The log as the configuration wants it; fd and level are what holds when it says nothing. log_fini it, also after a failure. */
int session_log(struct log *log, const struct config *c, int fd, enum log_level level, struct err *e) MUST_CHECK;
/* Builds the VM, logs `started`, and runs it to its end. SIGTERM, SIGINT and SIGHUP end it; a terminal gets its settings back. */
int session_run(const struct config *c, struct log *log, struct trace *trace, const char *started, enum vm_end *end,
		struct err *e) MUST_CHECK;

#endif
