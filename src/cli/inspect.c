/* inspect.c: `husk inspect FILE`: a packaged VM state (docs/snapshots.md), field by field, as text or JSON. It makes no VM. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/cli.h"
#include "migration/package.h"

#define LONG_TEXT 64 /* bytes of a value that a line still shows */

/* The file may come from anyone: nothing of it reaches the terminal but what can be seen. */
static void print_text(FILE *out, const char *s, size_t len, size_t most)
{
	size_t shown = MIN(len, most);

	for (size_t i = 0; i < shown; i++) {
		if (s[i] >= ' ' && s[i] <= '~')
			fputc(s[i], out);
		else
			fprintf(out, "\\x%02x", (u8)s[i]);
	}
	if (shown < len)
		fprintf(out, "... (%zu characters)", len);
}

static void print_scalar(FILE *out, struct json_object *v)
{
	if (json_object_is_type(v, json_type_string))
		print_text(out, json_object_get_string(v), (size_t)json_object_get_string_len(v), LONG_TEXT);
	else
		fputs(json_object_to_json_string_ext(v, JSON_C_TO_STRING_PLAIN), out);
}

static bool is_plain(struct json_object *v)
{
	return !json_object_is_type(v, json_type_object) && !json_object_is_type(v, json_type_array);
}

static bool all_plain(struct json_object *list)
{
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		if (!is_plain(json_object_array_get_idx(list, i)))
			return false;
	}
	return true;
}

/* "name=1 other=0x2", as far as an object has no object or list in it. */
static bool is_flat(struct json_object *v)
{
	if (!json_object_is_type(v, json_type_object))
		return false;
	json_object_object_foreach(v, key, value)
	{
		(void)key;
		if (!is_plain(value))
			return false;
	}
	return true;
}

static void print_flat(FILE *out, struct json_object *o)
{
	json_object_object_foreach(o, key, value)
	{
		fprintf(out, " %s=", key);
		print_scalar(out, value);
	}
}

static void print_value(FILE *out, const char *name, struct json_object *v, int depth);

static void print_list(FILE *out, const char *name, struct json_object *list, int depth)
{
	char item[128];

	if (all_plain(list)) {
		fprintf(out, "%*s%s:", depth * 2, "", name);
		for (size_t i = 0; i < json_object_array_length(list); i++) {
			fputc(' ', out);
			print_scalar(out, json_object_array_get_idx(list, i));
		}
		fputc('\n', out);
		return;
	}
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		snprintf(item, sizeof(item), "%s[%zu]", name, i);
		print_value(out, item, json_object_array_get_idx(list, i), depth);
	}
}

static void print_value(FILE *out, const char *name, struct json_object *v, int depth)
{
	if (json_object_is_type(v, json_type_array)) {
		print_list(out, name, v, depth);
		return;
	}
	fprintf(out, "%*s%s:", depth * 2, "", name);
	if (is_plain(v)) {
		fputc(' ', out);
		print_scalar(out, v);
		fputc('\n', out);
	} else if (is_flat(v)) {
		print_flat(out, v);
		fputc('\n', out);
	} else {
		fputc('\n', out);
		json_object_object_foreach(v, key, value) print_value(out, key, value, depth + 1);
	}
}

static const char *member_text(struct json_object *o, const char *key)
{
	return json_object_get_string(json_object_object_get(o, key));
}

static void print_section(FILE *out, struct json_object *s)
{
	struct json_object *state = json_object_object_get(s, "state"), *document;
	const char *instance = member_text(s, "instance"), *error = member_text(s, "error"), *text;

	fprintf(out, "\n%s%s%s (version %s, %s bytes%s)\n", member_text(s, "name"), *instance ? " " : "", instance,
		member_text(s, "version"), member_text(s, "bytes"),
		json_object_get_boolean(json_object_object_get(s, "optional")) ? ", optional" : "");
	if (error) {
		fputs("  cannot be shown: ", out);
		print_text(out, error, strlen(error), SIZE_MAX);
		fputc('\n', out);
		return;
	}
	json_object_object_foreach(state, key, value)
	{
		if (strcmp(key, "document"))
			print_value(out, key, value, 1);
	}
	if (!json_object_object_get_ex(state, "document", &document))
		return;
	text = json_object_to_json_string_ext(document, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
	fputs("  document: ", out);
	print_text(out, text, strlen(text), is_plain(document) ? LONG_TEXT : SIZE_MAX);
	fputc('\n', out);
}

void inspect_print(FILE *out, struct json_object *package)
{
	struct json_object *sections = json_object_object_get(package, "sections");

	fprintf(out, "package of a VM's state: format %s, %s bytes, %zu sections\n", member_text(package, "format"),
		member_text(package, "bytes"), json_object_array_length(sections));
	for (size_t i = 0; i < json_object_array_length(sections); i++)
		print_section(out, json_object_array_get_idx(sections, i));
}

/* A snapshot's folder stands for the file in it. */
static int open_state(const char *path, struct err *e)
{
	auto_free char *inside = xasprintf("%s/state", path);
	struct stat st;
	int fd;

	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		path = inside;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? err_errno(e, "cannot open %s", path) : fd;
}

static int inspect(const char *path, bool json, struct err *e)
{
	auto_fd int fd = open_state(path, e);
	auto_free u8 *bytes = NULL;
	struct package *p = NULL;
	struct json_object *o;
	u64 length;
	int ret = fd < 0 ? fd : package_read(fd, PACKAGE_HARD_CAP, &bytes, &length, e);

	if (ret == 0)
		ret = package_open(&p, bytes, length, e);
	if (ret < 0 && fd >= 0)
		err_prefix(e, "%s", path);
	if (ret < 0)
		return EXIT_ERROR;
	o = package_json(p);
	if (json)
		puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
	else
		inspect_print(stdout, o);
	json_object_put(o);
	package_close(p);
	return EXIT_OK;
}

void help_inspect(FILE *out)
{
	fputs("\nFILE is the state of a snapshot, or the folder of one. Its checksums are verified; what it says is shown, believed or "
	      "not: "
	      "no VM is made.\n"
	      "  --json         the same as JSON\n",
	      out);
}

int cmd_inspect(int argc, char **argv, struct err *e)
{
	const char *path = NULL;
	bool json = false;
	struct args a;

	args_init(&a, argc, argv);
	while (args_next(&a)) {
		if (!strcmp(a.name, "json") && args_no_value(&a, e) == 0) {
			json = true;
		} else if (!*a.name && !path) {
			path = a.value;
		} else {
			err_set(e, -EINVAL, "husk inspect: say \"husk inspect FILE [--json]\"");
			return EXIT_USAGE;
		}
	}
	if (!path) {
		err_set(e, -EINVAL, "husk inspect: which file?");
		return EXIT_USAGE;
	}
	return inspect(path, json, e);
}
