/* receive.c: `husk receive ADDRESS` and `husk migrate SOCKET ADDRESS`: short for flags of husk run and a command of husk ctl. */
#include <errno.h>
#include <stdlib.h>

#include "cli/cli.h"

void help_receive(FILE *out)
{
	fputs("\nADDRESS is tls:HOST:PORT (with --tls DIR), tcp:HOST:PORT (port 0: any; the one that was taken is printed) or unix:PATH. "
	      "Over tcp\n"
	      "whoever can connect there can bring a VM: keep it to a network that you trust. The flags are those of husk run --restore "
	      "that say what is different here:\n"
	      "  husk receive tcp:0.0.0.0:4444 --net eth0=tap7 --drive rootfs=/mnt/rootfs.ext4 --api-sock /run/vm7.sock\n"
	      "Exit codes as husk run; 1 when no VM came.\n",
	      out);
}

void help_migrate(FILE *out)
{
	fputs("\nThe same as husk ctl SOCKET migrate ADDRESS (docs/migration.md). SOCKET is the API socket of the VM, ADDRESS where husk "
	      "receive\n"
	      "listens. Exit code 0: the VM runs there; 1: it runs on here, or both are paused: the message says which.\n",
	      out);
}

/* The command line of another command: argv with `word` put in at `at`. The caller's, free it. */
static char **rewrite(int argc, char **argv, char *command, int at, char *word)
{
	char **out = xzalloc(((size_t)argc + 2) * sizeof(*out));

	out[0] = command;
	for (int i = 1; i < argc; i++)
		out[i + (i >= at)] = argv[i];
	out[at] = word;
	return out;
}

int cmd_receive(int argc, char **argv, struct err *e)
{
	auto_free char **args = NULL;

	if (argc < 2 || *argv[1] == '-') {
		err_set(e, -EINVAL, "husk receive ADDRESS [flags]: tls:HOST:PORT, tcp:HOST:PORT or unix:PATH comes first");
		return EXIT_USAGE;
	}
	args = rewrite(argc, argv, "run", 1, "--receive");
	return cmd_run(argc + 1, args, e);
}

int cmd_migrate(int argc, char **argv, struct err *e)
{
	auto_free char **args = NULL;

	if (argc < 3) {
		err_set(e, -EINVAL, "husk migrate SOCKET ADDRESS [mode=M ...]: the VM's API socket, and where husk receive listens");
		return EXIT_USAGE;
	}
	args = rewrite(argc, argv, "ctl", 2, "migrate");
	return cmd_ctl(argc + 1, args, e);
}
