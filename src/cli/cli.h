/*
 * cli.h: the commands of the husk binary. Each takes argv from its own name on and returns the exit code; what it has to say about a
 * failure it leaves in *e, and main prints it. ctx: any; they run before threads start.
 */
#ifndef HUSK_CLI_H
#define HUSK_CLI_H

#include <stdio.h>

#include "api/firecracker.h"
#include "vmm/base/err.h"

/* docs/cli.md lists them for users. */
enum exit_code {
	EXIT_OK = 0,	    /* powered off by the guest, or ended from the host */
	EXIT_ERROR = 1,	    /* configuration or host failure */
	EXIT_USAGE = 2,	    /* command line not understood */
	EXIT_REBOOT = 10,   /* the guest rebooted */
	EXIT_PANIC = 11,    /* the guest's kernel reported a panic */
	EXIT_CRASH = 12,    /* triple fault */
	EXIT_INTERNAL = 13, /* the accelerator could not go on, or memory was lost with its pager */
	EXIT_FC_ARGS = 153, /* Firecracker's: command line not understood */
};

struct command {
	const char *name;
	const char *usage; /* what follows the name */
	const char *summary;
	int (*run)(int argc, char **argv, struct err *e);
	void (*help)(FILE *out); /* what follows usage and summary; may be NULL */
};
extern const struct command commands[]; /* name NULL ends it */

/* The whole command line: argv[0] is the program. */
int cli_main(int argc, char **argv, struct err *e);

int cmd_run(int argc, char **argv, struct err *e);
int cmd_config(int argc, char **argv, struct err *e);
int cmd_api(int argc, char **argv, struct err *e);
int cmd_check(int argc, char **argv, struct err *e);
int cmd_ctl(int argc, char **argv, struct err *e);
int cmd_clone(int argc, char **argv, struct err *e);
int cmd_migrate(int argc, char **argv, struct err *e);
int cmd_receive(int argc, char **argv, struct err *e);
int cmd_snapshot(int argc, char **argv, struct err *e);
int cmd_inspect(int argc, char **argv, struct err *e);
int cmd_cpu_template(int argc, char **argv, struct err *e);
int cmd_completion(int argc, char **argv, struct err *e);
int cmd_version(int argc, char **argv, struct err *e);
int cmd_help(int argc, char **argv, struct err *e);
/* Firecracker's own command line: flags only. argv[0] is the program. */
int cmd_firecracker(int argc, char **argv, struct err *e);

void help_general(FILE *out);
void help_command(FILE *out, const struct command *c);
void help_run(FILE *out);
void help_config(FILE *out);
void help_api(FILE *out);
void help_check(FILE *out);
void help_ctl(FILE *out);
void help_clone(FILE *out);
void help_migrate(FILE *out);
void help_receive(FILE *out);
void help_snapshot(FILE *out);
void help_inspect(FILE *out);
void help_cpu_template(FILE *out);
void help_firecracker(FILE *out);

struct json_object;
/* What `husk inspect` shows of package_json's. */
void inspect_print(FILE *out, struct json_object *package);

#endif
