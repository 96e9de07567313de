/* completion.c: `husk completion bash | zsh | fish`: what a shell is to offer after a Tab, from the tables of commands and flags. */
#include <errno.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/ctl.h"
#include "cli/restore.h"

static void print_words(FILE *out, bool subcommands)
{
	if (subcommands) {
		for (const struct ctl_command *c = ctl_commands; c->name; c++)
			fprintf(out, "%s%s", c == ctl_commands ? "" : " ", c->name);
		return;
	}
	for (const struct command *c = commands; c->name; c++)
		fprintf(out, "%s%s", c == commands ? "" : " ", c->name);
}

static void print_flags(FILE *out)
{
	struct config_flag flag;

	for (u32 i = 0; config_flag_at(i, &flag); i++)
		fprintf(out, "--%s ", flag.name);
	for (u32 i = 0; restore_flag_names[i]; i++)
		fprintf(out, "--%s ", restore_flag_names[i]);
	fputs("--api-sock --tls --trace --trace-file", out);
}

/* The case of a command of ctl that has words of its own. */
static void print_ctl_cases(FILE *out)
{
	for (const struct ctl_command *c = ctl_commands; c->name; c++) {
		if (*c->complete)
			fprintf(out, "\t\t%s) words=\"%s\" ;;\n", c->name, strcmp(c->complete, "FILE") ? c->complete : "");
	}
}

static void print_bash(FILE *out)
{
	fputs("# bash completion of husk; load it with: source <(husk completion bash)\n"
	      "_husk() {\n"
	      "\tlocal cur=${COMP_WORDS[COMP_CWORD]} words=\"\"\n"
	      "\tcase $COMP_CWORD:${COMP_WORDS[1]} in\n"
	      "\t1:*) words=\"",
	      out);
	print_words(out, false);
	fputs("\" ;;\n\t3:ctl) words=\"", out);
	print_words(out, true);
	fputs("\" ;;\n\t4:ctl)\n\t\tcase ${COMP_WORDS[3]} in\n", out);
	print_ctl_cases(out);
	fputs("\t\tesac ;;\n\t*:run | *:config) words=\"", out);
	print_flags(out);
	fputs("\" ;;\n\t*:clone) words=\"--count ", out);
	print_flags(out);
	fputs("\" ;;\n\t2:help) words=\"firecracker ", out);
	print_words(out, false);
	fputs("\" ;;\n\t2:api) words=\"schema routes\" ;;\n\t2:completion) words=\"bash zsh fish\" ;;\n\t2:snapshot) words=\"info merge\" "
	      ";;\n\tesac\n"
	      "\t[[ $cur == -* && ${COMP_WORDS[1]} == ctl ]] && words=\"--json --prometheus --diff --compress --keep-paused\"\n"
	      "\tmapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
	      "}\n"
	      "complete -o default -F _husk husk\n",
	      out);
}

static void print_zsh(FILE *out)
{
	fputs("#compdef husk\n# zsh completion of husk; load it with: source <(husk completion zsh)\n"
	      "_husk() {\n\tlocal all\n\tcase $CURRENT:${words[2]} in\n\t2:*) all=\"",
	      out);
	print_words(out, false);
	fputs("\" ;;\n\t4:ctl) all=\"", out);
	print_words(out, true);
	fputs("\" ;;\n\t*:run | *:config) all=\"", out);
	print_flags(out);
	fputs("\" ;;\n\t*:clone) all=\"--count ", out);
	print_flags(out);
	fputs("\" ;;\n\tesac\n\t[[ -n $all ]] && compadd -- ${=all}\n\t_files\n}\ncompdef _husk husk\n", out);
}

/* A text of ours in single quotes. */
static void print_quoted(FILE *out, const char *text)
{
	fputc('\'', out);
	for (; *text; text++)
		fprintf(out, *text == '\'' ? "\\%c" : "%c", *text);
	fputc('\'', out);
}

static void print_fish(FILE *out)
{
	fputs("# fish completion of husk; load it with: husk completion fish | source\n", out);
	for (const struct command *c = commands; c->name; c++) {
		fprintf(out, "complete -c husk -n __fish_use_subcommand -a %s -d ", c->name);
		print_quoted(out, c->summary);
		fputc('\n', out);
	}
	for (const struct ctl_command *c = ctl_commands; c->name; c++) {
		fprintf(out, "complete -c husk -n '__fish_seen_subcommand_from ctl' -a %s -d ", c->name);
		print_quoted(out, c->help);
		fputc('\n', out);
	}
}

int cmd_completion(int argc, char **argv, struct err *e)
{
	static const struct {
		const char *shell;
		void (*print)(FILE *out);
	} shells[] = {{"bash", print_bash}, {"zsh", print_zsh}, {"fish", print_fish}};

	for (u32 i = 0; argc == 2 && i < ARRAY_SIZE(shells); i++) {
		if (!strcmp(argv[1], shells[i].shell)) {
			shells[i].print(stdout);
			return EXIT_OK;
		}
	}
	err_set(e, -EINVAL, "husk completion: say \"bash\", \"zsh\" or \"fish\"");
	return EXIT_USAGE;
}
