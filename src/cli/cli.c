/* cli.c: finds the command; `husk help`, `husk version`. Flags are described by the configuration's tables. */
#include <errno.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/restore.h"

const struct command commands[] = {
	{"run", "[CONFIG.json] [flags]", "run a VM in the foreground", cmd_run, help_run},
	{"check", "[--accelerator NAME | --sandbox]", "what of this host husk can use, and what to do where something is missing",
	 cmd_check, help_check},
	{"config", "schema | docs | check FILE [flags] | dtb FILE [flags]",
	 "the configuration's JSON Schema and manual; check a file; its device tree", cmd_config, help_config},
	{"api", "schema | routes", "the REST API as OpenAPI 3; its routes as a table", cmd_api, help_api},
	{"ctl", "SOCKET COMMAND", "a running VM: status, pause, balloon, drives, metrics, ...", cmd_ctl, help_ctl},
	{"snapshot", "info DIR | merge BASE DIFF", "snapshots on disk: what is in one; a diff onto its base", cmd_snapshot, help_snapshot},
	{"clone", "DIR [--count N] [flags]", "many VMs out of one snapshot", cmd_clone, help_clone},
	{"migrate", "SOCKET ADDRESS [mode=M ...]", "move a running VM to another husk", cmd_migrate, help_migrate},
	{"receive", "ADDRESS [flags]", "wait for a VM that another husk moves here, and run it", cmd_receive, help_receive},
	{"inspect", "FILE [--json]", "the saved state of a VM, field by field", cmd_inspect, help_inspect},
	{"cpu-template", "common [FILE...]", "a CPU template for guests that move between accelerators and hosts", cmd_cpu_template,
	 help_cpu_template},
	{"completion", "bash | zsh | fish", "what a shell offers after a Tab", cmd_completion, NULL},
	{"version", "", "print the version", cmd_version, NULL},
	{"help", "[COMMAND | firecracker]", "this text, or more about one command", cmd_help, NULL},
	{NULL, NULL, NULL, NULL, NULL},
};

void help_general(FILE *out)
{
	fputs("husk runs a kernel in a small virtual machine.\n\n", out);
	for (const struct command *c = commands; c->name; c++)
		fprintf(out, "  husk %-11s%-36s%s\n", c->name, c->usage, c->summary);
	fputs("\n  husk --api-sock PATH ...                      Firecracker's own command line (husk help firecracker)\n"
	      "\nA first VM:  husk run --kernel vmlinuz --initrd initrd.img\n"
	      "Manual: docs/cli.md, docs/config.md, husk(1)\n",
	      out);
}

void help_command(FILE *out, const struct command *c)
{
	fprintf(out, "husk %s%s%s: %s\n", c->name, *c->usage ? " " : "", c->usage, c->summary);
	if (c->help)
		c->help(out);
}

void help_run(FILE *out)
{
	fputs("\nThe VM is what CONFIG.json says (husk config docs), changed by the flags. --drive and --net add to the file's lists.\n"
	      "The serial port is on standard input and output unless --serial says otherwise; on a terminal Ctrl-a x ends the "
	      "VM.\n\nFlags:\n",
	      out);
	config_flags_help(out);
	fputs("  --api-sock PATH         Serve the REST API on this unix socket (docs/api.md)\n"
	      "  --tls DIR               ca.pem, cert.pem and key.pem for migrations over tls:HOST:PORT (docs/migration.md)\n"
	      "  --trace PATTERNS        Print the events that match, like 'virtio_*,bus_*'; \"help\" lists them\n"
	      "  --no-seccomp            No filters of system calls (docs/sandbox.md)\n"
	      "  --trace-file FILE       Where they go; standard error when absent\n",
	      out);
	restore_flags_help(out);
	fputs("\nExit codes: 0 powered off, or ended from the host; 1 error; 2 usage; 10 reboot; 11 guest panic; 12 guest crash (triple "
	      "fault);\n"
	      "13 the accelerator could not go on; 148 a system call that husk forbids itself (docs/sandbox.md).\n",
	      out);
}

void help_config(FILE *out)
{
	fputs("\n  schema         JSON Schema (draft 2020-12) of a configuration file\n"
	      "  docs           the manual of a configuration file, in Markdown\n"
	      "  check FILE     check a file, with the flags of husk run if any; opens nothing that it names\n",
	      out);
}

void help_api(FILE *out)
{
	fputs("\n  schema         OpenAPI 3 of what --api-sock serves\n"
	      "  routes         the same as a short table, in Markdown\n",
	      out);
}

void help_check(FILE *out)
{
	fputs("\nOne line each: ok, warn or fail. Exit code 0 when a VM can run here, 1 when not.\n"
	      "  --accelerator NAME      just this one: 0 only when it is usable\n"
	      "  --sandbox               what confines VMs here; with --pid N what confines that one, thread by thread\n",
	      out);
}

void help_firecracker(FILE *out)
{
	fputs("husk [--api-sock PATH] [flags]: a VM as `firecracker` " FIRECRACKER_VERSION " runs it, configured over its REST API\n\n"
	      "Taken as by Firecracker: --api-sock (/run/firecracker.socket) --config-file --no-api --id --boot-timer --log-path --level\n"
	      "--module --show-level --show-log-origin --metrics-path --metadata --mmds-size-limit --http-api-max-payload-size --version\n"
	      "--no-seccomp --snapshot-version --describe-snapshot.\n"
	      "Accepted, without effect: --enable-pci --start-time-us --start-time-cpu-us\n"
	      "--parent-cpu-time-us. Refused: --seccomp-filter. Husk's own: --accelerator --tls.\n"
	      "The log goes to standard output until --log-path. Exit codes: 0; 1 error; 153 command line not understood.\n",
	      out);
}

static const struct command *find_command(const char *name)
{
	for (const struct command *c = commands; c->name; c++) {
		if (!strcmp(c->name, name))
			return c;
	}
	return NULL;
}

int cmd_version(int argc, char **argv, struct err *e)
{
	(void)argc, (void)argv, (void)e;
	puts("husk " HUSK_VERSION " (command line and configuration of Firecracker v" FIRECRACKER_VERSION ")");
	return EXIT_OK;
}

int cmd_help(int argc, char **argv, struct err *e)
{
	const struct command *c;

	if (argc < 2) {
		help_general(stdout);
		return EXIT_OK;
	}
	if (!strcmp(argv[1], "firecracker")) {
		help_firecracker(stdout);
		return EXIT_OK;
	}
	c = find_command(argv[1]);
	if (c) {
		help_command(stdout, c);
		return EXIT_OK;
	}
	err_set(e, -EINVAL, "there is no help about \"%s\"; \"husk help\" lists the commands", argv[1]);
	return EXIT_USAGE;
}

static bool wants_help(int argc, char **argv)
{
	for (int i = 0; i < argc; i++) {
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
			return true;
	}
	return false;
}

int cli_main(int argc, char **argv, struct err *e)
{
	const struct command *c;
	struct suggest s;

	if (argc < 2) {
		help_general(stderr);
		return EXIT_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
		return cmd_help(1, argv, e);
	if (argv[1][0] == '-')
		return cmd_firecracker(argc, argv, e);
	c = find_command(argv[1]);
	if (c && wants_help(argc - 2, argv + 2)) {
		help_command(stdout, c);
		return EXIT_OK;
	}
	if (c)
		return c->run(argc - 1, argv + 1, e);
	suggest_init(&s, argv[1]);
	for (c = commands; c->name; c++)
		suggest_try(&s, c->name);
	err_set(e, -EINVAL, "unknown command \"%.60s\"%s; \"husk help\" lists them", argv[1], suggest_text(&s, ""));
	return EXIT_USAGE;
}
