/* ctl.c: `husk ctl`: its command line and its requests; see ctl.h. */
#include "cli/ctl.h"

#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "cli/args.h"
#include "cli/cli.h"
#include "cli/http.h"
#include "vmm/base/suggest.h"

#define MAX_WORDS 12

/* clang-format off */
const struct ctl_command ctl_commands[] = {
	{"status", "", "", 0, 0, "What the VM is and does.", ctl_status},
	{"config", "", "", 0, 0, "Its whole configuration, as JSON.", ctl_config},
	{"start", "", "", 0, 0, "Starts a VM that was configured over the API.", ctl_start},
	{"pause", "", "", 0, 0, "Halts CPUs and devices.", ctl_pause},
	{"resume", "", "", 0, 0, "Lets them go on.", ctl_resume},
	{"snapshot", "DIR", "FILE", 1, 1,
	 "Halts it, writes its state and memory to DIR, lets it go on. --diff: what has changed since the last one; --compress; "
	 "--keep-paused.",
	 ctl_snapshot},
	{"migrate", "ADDRESS [mode=M ...] | status | cancel | recover [ADDRESS] | take-back | take-over | break",
	 "status cancel recover take-back take-over break", 1, 9,
	 "Moves it, while it runs, to the husk receive that listens at ADDRESS (tcp:HOST:PORT, unix:PATH). mode=precopy|postcopy|hybrid|local, "
	 "on-stall=throttle|postcopy|cancel|wait, max-downtime=MS, bandwidth=SIZE, channels=N, push-channels=N, timeout=MS, compress, verify, copy-disks. The others: docs/migration.md.",
	 ctl_migrate},
	{"stop", "", "", 0, 0, "Presses Ctrl-Alt-Del (on arm64 the power button): the guest shuts down in its own time.", ctl_stop},
	{"end", "", "", 0, 0, "Ends the VM at once, as a power cut does.", ctl_end},
	{"balloon", "[SIZE]", "", 0, 1, "How much memory the balloon takes from the guest; with SIZE (512M), how much it shall take.",
	 ctl_balloon},
	{"memory-hotplug", "[SIZE]", "", 0, 1, "Memory that was plugged in; with SIZE, how much the guest shall plug in.", ctl_memory},
	{"drives", "[ID PATH | ID bandwidth=N ops=N]", "", 0, 3,
	 "The drives; or another image for one, or its limits: bytes (10M) and requests in a second, or off.", ctl_drives},
	{"net", "[ID rx=N tx=N rx-ops=N tx-ops=N]", "", 0, 5,
	 "The network interfaces; or the limits of one: bytes and frames in a second, to and from the guest, or off.", ctl_net},
	{"metrics", "[GROUP | flush]", "flush", 0, 1,
	 "What was counted since the start; --prometheus: for a scraper. flush: writes a line to the metrics file.", ctl_metrics},
	{"log", "LEVEL", "Off Error Warn Info Debug Trace", 1, 1, "Logs more, or less.", ctl_log},
	{"mmds", "[put|patch FILE|JSON]", "get put patch", 0, 2, "The metadata of the guest; or replaces them, or merges into them.", ctl_mmds},
	{"get", "PATH", "", 1, 1, "What the API answers to GET PATH.", ctl_get},
	{"put", "PATH [FILE|JSON]", "", 1, 2, "PUT of JSON, of a file with it, or of - (standard input).", ctl_put},
	{"patch", "PATH [FILE|JSON]", "", 1, 2, "PATCH, the same way.", ctl_patch},
	{NULL, NULL, NULL, 0, 0, NULL, NULL},
};
/* clang-format on */

/* ---- Requests ---- */

int ctl_ask(const struct ctl *c, const char *path, struct json_object **out, struct err *e)
{
	int r = http_ask(c->sock, "GET", path, NULL, 0, out, e);

	if (r == 0 && !json_object_is_type(*out, json_type_object))
		r = err_set(e, -EPROTO, "GET %s: the answer is no JSON object", path);
	return r;
}

int ctl_tell(const struct ctl *c, const char *method, const char *path, struct json_object *body, struct err *e)
{
	const char *text = body ? json_object_to_json_string_ext(body, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE) : NULL;
	struct json_object *out;
	int r = http_ask(c->sock, method, path, text, text ? strlen(text) : 0, &out, e);

	if (r == 0 && out)
		ctl_print_json(out);
	json_object_put(out);
	return r;
}

struct json_object *ctl_words(const char *key, const char *value)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, key, json_object_new_string(value));
	return o;
}

void ctl_print_json(struct json_object *json)
{
	puts(json_object_to_json_string_ext(json, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
}

/* ---- Command line ---- */

static const struct ctl_command *find_command(const char *name, struct err *e)
{
	const struct ctl_command *cmd;
	struct suggest s;

	suggest_init(&s, name);
	for (cmd = ctl_commands; cmd->name; cmd++) {
		if (!strcmp(cmd->name, name))
			return cmd;
		suggest_try(&s, cmd->name);
	}
	err_set(e, -EINVAL, "husk ctl: unknown command \"%.60s\"%s; \"husk help ctl\" lists them", name, suggest_text(&s, ""));
	return NULL;
}

static int take_option(struct ctl *c, struct args *a, struct err *e)
{
	const struct {
		const char *name;
		bool *on;
	} all[] = {
		{"json", &c->json},	    {"prometheus", &c->prometheus},   {"diff", &c->diff},
		{"compress", &c->compress}, {"keep-paused", &c->keep_paused}, {"copy-disks", &c->copy_disks},
	};

	for (u32 i = 0; i < ARRAY_SIZE(all); i++) {
		if (!strcmp(a->name, all[i].name)) {
			*all[i].on = true;
			return args_no_value(a, e);
		}
	}
	return err_set(e, -EINVAL,
		       "husk ctl: unknown flag --%s; there are --json, for metrics --prometheus, for snapshot --diff, --compress and "
		       "--keep-paused, for migrate --copy-disks",
		       a->name);
}

static int parse(struct ctl *c, const char **words, int *nr, int argc, char **argv, struct err *e)
{
	struct args a;
	int r = 0;

	args_init(&a, argc, argv);
	while (r == 0 && args_next(&a)) {
		if (*a.name)
			r = take_option(c, &a, e);
		else if (*nr == MAX_WORDS)
			r = err_set(e, -EINVAL, "husk ctl: too many words");
		else
			words[(*nr)++] = a.value;
	}
	if (r == 0 && *nr < 2)
		r = err_set(e, -EINVAL, "husk ctl: say which VM and what: husk ctl SOCKET status (\"husk help ctl\")");
	return r;
}

int cmd_ctl(int argc, char **argv, struct err *e)
{
	const char *words[MAX_WORDS];
	const struct ctl_command *cmd;
	struct ctl c = {0};
	int nr = 0, r;

	if (parse(&c, words, &nr, argc, argv, e) < 0)
		return EXIT_USAGE;
	cmd = find_command(words[1], e);
	if (!cmd)
		return EXIT_USAGE;
	c.sock = words[0];
	c.words = words + 2;
	c.nr = nr - 2;
	if (c.nr < cmd->min || c.nr > cmd->max) {
		err_set(e, -EINVAL, "husk ctl: it is: %s %s", cmd->name, cmd->usage);
		return EXIT_USAGE;
	}
	r = cmd->run(&c, e);
	fflush(stdout);
	return r == 0 ? EXIT_OK : r == -EINVAL ? EXIT_USAGE : EXIT_ERROR;
}

void help_ctl(FILE *out)
{
	fputs("\nSOCKET is what --api-sock of the VM says.\n\n", out);
	for (const struct ctl_command *cmd = ctl_commands; cmd->name; cmd++)
		fprintf(out, "  %s%s%s\n        %s\n", cmd->name, *cmd->usage ? " " : "", cmd->usage, cmd->help);
	fputs("\n  --json      the API's answers instead of tables\n"
	      "\nExit codes: 0; 1 the VM cannot be reached, or refuses; 2 usage. docs/ctl.md has examples.\n",
	      out);
}
