/* json.c: see json.h. */
#include "vmm/base/json.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One position in text that json-c has already accepted: strings end, braces match. */
struct scan {
	const char *p, *end;
};

static void line_column(const char *text, size_t at, u32 *line, u32 *column)
{
	*line = *column = 1;
	for (size_t i = 0; i < at; i++) {
		(*column)++;
		if (text[i] == '\n') {
			(*line)++;
			*column = 1;
		}
	}
}

static int fail_at(const char *name, const char *text, size_t at, const char *what, struct err *e)
{
	u32 line, column;

	line_column(text, at, &line, &column);
	return err_set(e, -EINVAL, "%s:%u:%u: %s", name, line, column, what);
}

/* From the opening quote to behind the closing one. */
static void skip_string(struct scan *s)
{
	for (s->p++; s->p < s->end && *s->p != '"'; s->p++) {
		if (*s->p == '\\')
			s->p++;
	}
	s->p++;
}

/* json-c keeps the last of two equal keys and does not say so. It shows in the number of members: text against tree. It also takes keys in
 * single quotes: *quote is the first of those, or NULL. */
static u64 members_in_text(const char *text, size_t len, const char **quote)
{
	struct scan s = {text, text + len};
	u64 n = 0;

	*quote = NULL;
	while (s.p < s.end && !*quote) {
		if (*s.p == '"') {
			skip_string(&s);
			continue;
		}
		if (*s.p == '\'')
			*quote = s.p;
		n += *s.p++ == ':';
	}
	return n;
}

static u64 members_in_tree(struct json_object *v)
{
	u64 n = 0;

	if (json_object_is_type(v, json_type_object)) {
		json_object_object_foreach(v, key, child)
		{
			(void)key;
			n += 1 + members_in_tree(child);
		}
	} else if (json_object_is_type(v, json_type_array)) {
		for (size_t i = 0; i < json_object_array_length(v); i++)
			n += members_in_tree(json_object_array_get_idx(v, i));
	}
	return n;
}

/* Is the key [key, key + len), quotes included, spelled the same earlier in its object, which opens at `open`? */
static bool key_seen(const char *open, const char *key, size_t len)
{
	struct scan s = {open + 1, key};
	int depth = 0;

	while (s.p < s.end) {
		const char *start = s.p;

		if (*s.p != '"') {
			depth += (*s.p == '{' || *s.p == '[') - (*s.p == '}' || *s.p == ']');
			s.p++;
			continue;
		}
		skip_string(&s);
		if (depth == 0 && (size_t)(s.p - start) == len && !memcmp(start, key, len) && s.p[strspn(s.p, " \t\r\n")] == ':')
			return true;
	}
	return false;
}

/* Finds the second of two equal keys, for the message; NULL when only their escapes differ. */
static const char *find_duplicate(const char *text, size_t len, size_t *key_len)
{
	const char *open[JSON_MAX_DEPTH];
	struct scan s = {text, text + len};
	u32 depth = 0;

	while (s.p < s.end) {
		const char *start = s.p;

		if (*s.p != '"') {
			if ((*s.p == '{' || *s.p == '[') && depth < ARRAY_SIZE(open))
				open[depth++] = s.p;
			else if ((*s.p == '}' || *s.p == ']') && depth)
				depth--;
			s.p++;
			continue;
		}
		skip_string(&s);
		*key_len = (size_t)(s.p - start);
		if (depth && s.p[strspn(s.p, " \t\r\n")] == ':' && key_seen(open[depth - 1], start, *key_len))
			return start;
	}
	return NULL;
}

static int check_members(const char *name, const char *text, size_t len, struct json_object *root, struct err *e)
{
	const char *key, *quote;
	size_t key_len;
	char what[128];
	u64 members = members_in_text(text, len, &quote);

	if (quote)
		return fail_at(name, text, (size_t)(quote - text), "not JSON: a single quote", e);
	if (members == members_in_tree(root))
		return 0;
	key = find_duplicate(text, len, &key_len);
	if (!key)
		return err_set(e, -EINVAL, "%s: an object has the same key twice", name);
	snprintf(what, sizeof(what), "the key %.*s is there twice", (int)MIN(key_len, 80), key);
	return fail_at(name, text, (size_t)(key - text), what, e);
}

/* json-c takes a whole number that 64 bits do not hold for the nearest that they do. */
static bool is_huge(const char *p, size_t len)
{
	const char *most = *p == '-' ? "-9223372036854775808" : "18446744073709551615"; /* 20 characters, both */

	for (size_t i = *p == '-'; i < len; i++) {
		if (!isdigit((unsigned char)p[i]))
			return false; /* a fraction or an exponent: floating point */
	}
	return len > 20 || (len == 20 && memcmp(p, most, len) > 0);
}

static int check_numbers(const char *name, const char *text, size_t len, struct err *e)
{
	struct scan s = {text, text + len};

	while (s.p < s.end) {
		const char *start = s.p;

		if (*s.p == '"') {
			skip_string(&s);
			continue;
		}
		while (s.p < s.end && (isdigit((unsigned char)*s.p) || strchr("+-.eE", *s.p)))
			s.p++;
		if (s.p > start && is_huge(start, (size_t)(s.p - start)))
			return fail_at(name, text, (size_t)(start - text), "a whole number that 64 bits do not hold", e);
		s.p += s.p == start;
	}
	return 0;
}

static int refuse_syntax(const char *name, const char *text, struct json_tokener *tok, struct err *e)
{
	enum json_tokener_error code = json_tokener_get_error(tok);
	char what[128];

	if (code == json_tokener_error_depth)
		snprintf(what, sizeof(what), "values are nested more than %d deep", JSON_MAX_DEPTH);
	else
		snprintf(what, sizeof(what), "not JSON: %s",
			 code == json_tokener_continue ? "the text ends too early" : json_tokener_error_desc(code));
	return fail_at(name, text, json_tokener_get_parse_end(tok), what, e);
}

int json_parse(const char *name, const char *text, size_t len, struct json_object **out, struct err *e)
{
	const char *nul = memchr(text, 0, len);
	struct json_object *root;
	struct json_tokener *tok;
	int r = 0;

	if (len > JSON_MAX_BYTES)
		return err_set(e, -E2BIG, "%s: longer than %llu bytes", name, JSON_MAX_BYTES);
	if (nul) /* json-c would take it for the end */
		return fail_at(name, text, (size_t)(nul - text), "not JSON: a NUL byte", e);
	tok = json_tokener_new_ex(JSON_MAX_DEPTH);
	if (!tok)
		return err_set(e, -ENOMEM, "%s: out of memory", name);
	json_tokener_set_flags(tok, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
	root = json_tokener_parse_ex(tok, text, (int)len);
	if (json_tokener_get_error(tok) != json_tokener_success)
		r = refuse_syntax(name, text, tok, e);
	else
		r = check_members(name, text, len, root, e);
	if (r == 0)
		r = check_numbers(name, text, len, e);
	json_tokener_free(tok);
	if (r < 0)
		json_object_put(root);
	else
		*out = root;
	return r;
}

/* Up to size bytes of fd; stops at its end. */
static ssize_t read_up_to(int fd, char *buf, size_t size)
{
	size_t used = 0;

	while (used < size) {
		ssize_t n = read(fd, buf + used, size - used);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (n == 0)
			break;
		used += (size_t)n;
	}
	return (ssize_t)used;
}

int json_load(const char *path, struct json_object **out, struct err *e)
{
	auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	auto_free char *text = NULL;
	ssize_t len;

	if (fd < 0)
		return err_errno(e, "%s", path);
	text = malloc(JSON_MAX_BYTES + 1); /* untouched pages cost nothing, and a pipe has no size to ask for */
	if (!text)
		return err_set(e, -ENOMEM, "%s: out of memory", path);
	len = read_up_to(fd, text, JSON_MAX_BYTES + 1);
	if (len < 0)
		return err_errno(e, "%s", path);
	return json_parse(path, text, (size_t)len, out, e);
}

void json_describe(struct json_object *v, char *buf, size_t size)
{
	enum { SHOWN = 60 };
	const char *text;

	switch (json_object_get_type(v)) {
	case json_type_object:
		snprintf(buf, size, "an object");
		return;
	case json_type_array:
		snprintf(buf, size, "a list");
		return;
	default:
		text = json_object_to_json_string_ext(v, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
		snprintf(buf, size, strlen(text) > SHOWN ? "%.*s..." : "%.*s", SHOWN, text);
	}
}

bool json_has_nul(struct json_object *str)
{
	return strlen(json_object_get_string(str)) != (size_t)json_object_get_string_len(str);
}
