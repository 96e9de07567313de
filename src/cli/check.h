/* check.h: what the parts of `husk check` share. ctx: main */
#ifndef HUSK_CLI_CHECK_H
#define HUSK_CLI_CHECK_H

#include "cli/cli.h"

enum verdict { VERDICT_OK, VERDICT_WARN, VERDICT_FAIL };

/* One line: verdict, what was looked at, what was found. */
void check_say(enum verdict v, const char *what, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* What confines a VM here; pid: what confines that process, a line per thread. Returns the exit code: EXIT_OK when nothing is missing. */
int check_sandbox(const char *pid, struct err *e);

#endif
