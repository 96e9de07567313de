/*
 * mmds_http.c: the guest's requests to the metadata service: as much HTTP/1.1 (RFC 9112) as clients of instance metadata speak: a head
 * without a body, answered at once. Status codes and texts are Firecracker's.
 */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/mmds_impl.h"

#define TOKEN_PATH "/latest/api/token"
#define NO_TOKEN   "No MMDS token provided. Use `X-metadata-token` or `X-aws-ec2-metadata-token` header to specify the session token."
#define NO_TTL \
	"Token time to live value not found. Use `X-metadata-token-ttl-seconds` or `X-aws-ec2-metadata-token-ttl-seconds` header to " \
	"specify the token's lifetime."
#define UNSUPPORTED_TYPE "Cannot retrieve value. The value has an unsupported type."

/* A part of the request; not NUL-ended. */
struct text {
	const char *at; /* NULL: not there */
	size_t len;
};

enum http_header {
	H_ACCEPT,
	H_CONNECTION,
	H_CONTENT_LENGTH,
	H_TRANSFER_ENCODING,
	H_FORWARDED_FOR,
	H_TOKEN,
	H_AWS_TOKEN,
	H_TTL,
	H_AWS_TTL,
	NR_HEADERS,
};

static const char *const header_names[NR_HEADERS] = {
	[H_ACCEPT] = "Accept",
	[H_CONNECTION] = "Connection",
	[H_CONTENT_LENGTH] = "Content-Length",
	[H_TRANSFER_ENCODING] = "Transfer-Encoding",
	[H_FORWARDED_FOR] = "X-Forwarded-For",
	[H_TOKEN] = "X-metadata-token",
	[H_AWS_TOKEN] = "X-aws-ec2-metadata-token",
	[H_TTL] = "X-metadata-token-ttl-seconds",
	[H_AWS_TTL] = "X-aws-ec2-metadata-token-ttl-seconds",
};

struct request {
	struct text method, uri, path;
	bool http10;
	struct text names[NR_HEADERS], values[NR_HEADERS]; /* as the guest wrote them */
};

struct response {
	int status;
	bool json, close, head_only;
	const struct text *ttl_name; /* token: the header that goes back with ttl */
	u32 ttl;
	struct buf body;
};

/* ---- reading ---- */

static bool is(struct text t, const char *s)
{
	return t.len == strlen(s) && !memcmp(t.at, s, t.len);
}

static bool is_any_case(struct text t, const char *s)
{
	return t.len == strlen(s) && !strncasecmp(t.at, s, t.len);
}

static struct text trim(struct text t)
{
	while (t.len && (*t.at == ' ' || *t.at == '\t')) {
		t.at++;
		t.len--;
	}
	while (t.len && (t.at[t.len - 1] == ' ' || t.at[t.len - 1] == '\t'))
		t.len--;
	return t;
}

/* Cuts off what stands before the separator, which goes too. False: there is none; *t is left alone. */
static bool cut(struct text *t, const char *separator, struct text *before)
{
	size_t len = strlen(separator);
	const char *found = t->len ? memmem(t->at, t->len, separator, len) : NULL;

	if (!found)
		return false;
	*before = (struct text){t->at, (size_t)(found - t->at)};
	t->len -= before->len + len;
	t->at = found + len;
	return true;
}

static bool has_control(struct text t)
{
	for (size_t i = 0; i < t.len; i++) {
		if ((unsigned char)t.at[i] < 0x20 ? t.at[i] != '\t' : t.at[i] == 0x7f)
			return true;
	}
	return false;
}

/* "http://host/path" and "/path" have a path. */
static struct text path_of(struct text uri)
{
	struct text scheme, rest = uri, host;

	if (uri.len && *uri.at == '/')
		return uri;
	if (!cut(&rest, "://", &scheme) || !is_any_case(scheme, "http") || !cut(&rest, "/", &host))
		return (struct text){0};
	return (struct text){rest.at - 1, rest.len + 1};
}

static bool parse_line(struct request *r, struct text line)
{
	return cut(&line, " ", &r->method) && cut(&line, " ", &r->uri) && r->method.len && r->uri.len && !has_control(r->method) &&
	       !has_control(r->uri) && ((r->http10 = is(line, "HTTP/1.0")) || is(line, "HTTP/1.1"));
}

/* The first of several of one name counts, but any Content-Length that is not 0 does. */
static bool parse_header(struct request *r, struct text line)
{
	struct text name;

	if (!cut(&line, ":", &name) || !name.len || has_control(name) || memchr(name.at, ' ', name.len) || memchr(name.at, '\t', name.len))
		return false;
	line = trim(line);
	if (has_control(line))
		return false;
	for (u32 i = 0; i < NR_HEADERS; i++) {
		if (!is_any_case(name, header_names[i]))
			continue;
		if (!r->values[i].at || (i == H_CONTENT_LENGTH && !is(line, "0"))) {
			r->names[i] = name;
			r->values[i] = line;
		}
	}
	return true;
}

/* head: up to the empty line. A body is refused: no request has one, and what is not waited for cannot hang. */
static bool parse(struct request *r, struct text head)
{
	struct text line;
	bool ok = cut(&head, "\r\n", &line) && parse_line(r, line);

	while (ok && cut(&head, "\r\n", &line))
		ok = parse_header(r, line);
	if (!ok || r->values[H_TRANSFER_ENCODING].at || (r->values[H_CONTENT_LENGTH].at && !is(r->values[H_CONTENT_LENGTH], "0")))
		return false;
	r->path = path_of(r->uri);
	return true;
}

static const struct text *first_of(const struct request *r, enum http_header a, enum http_header b)
{
	return r->values[a].at ? &r->values[a] : r->values[b].at ? &r->values[b] : NULL;
}

/* ---- answering ---- */

static void put_text(struct response *o, const char *s)
{
	buf_put(&o->body, s, strlen(s));
}

static void fail(struct response *o, int status, const char *s)
{
	o->status = status;
	o->json = false;
	put_text(o, s);
}

static void fail_named(struct response *o, int status, const char *before, struct text name, const char *behind)
{
	fail(o, status, before);
	buf_put(&o->body, name.at, name.len);
	put_text(o, behind);
}

static const char *reason(int status)
{
	switch (status) {
	case 200:
		return "OK";
	case 400:
		return "Bad Request";
	case 401:
		return "Unauthorized";
	case 404:
		return "Not Found";
	case 405:
		return "Method Not Allowed";
	default:
		return "Not Implemented";
	}
}

static void write_response(const struct request *r, struct response *o, struct buf *reply)
{
	auto_free char *head = xasprintf("HTTP/1.%c %d %s\r\nServer: Firecracker API\r\nConnection: %s\r\n%s", r->http10 ? '0' : '1',
					 o->status, reason(o->status), o->close ? "close" : "keep-alive",
					 o->status == 405 ? "Allow: GET, PUT\r\n" : "");
	auto_free char *type = xasprintf("Content-Type: %s\r\nContent-Length: %zu\r\n\r\n", o->json ? "application/json" : "text/plain",
					 o->body.len);

	buf_put(reply, head, strlen(head));
	if (o->ttl_name) {
		auto_free char *ttl = xasprintf("%.*s: %u\r\n", (int)o->ttl_name->len, o->ttl_name->at, o->ttl);

		buf_put(reply, ttl, strlen(ttl));
	}
	buf_put(reply, type, strlen(type));
	if (!o->head_only)
		buf_put(reply, o->body.data, o->body.len);
	buf_fini(&o->body);
}

/* ---- the document ---- */

/* RFC 6901 §4: ~1 is '/', ~0 is '~'. key has room for the whole step. */
static bool decode_step(struct text step, char *key)
{
	for (size_t i = 0; i < step.len; i++) {
		char c = step.at[i];

		if (c == '~') {
			if (++i == step.len || (step.at[i] != '0' && step.at[i] != '1'))
				return false;
			c = step.at[i] == '0' ? '~' : '/';
		}
		*key++ = c;
	}
	*key = '\0';
	return true;
}

/* An index has no sign and no leading zero. */
static bool parse_index(const char *key, size_t *index)
{
	char *end;

	if (!*key || strspn(key, "0123456789") != strlen(key) || (*key == '0' && key[1]))
		return false;
	errno = 0;
	*index = strtoul(key, &end, 10);
	return errno == 0;
}

static bool step_into(struct json_object **v, const char *key)
{
	size_t index;

	if (json_object_is_type(*v, json_type_object))
		return json_object_object_get_ex(*v, key, v);
	if (!json_object_is_type(*v, json_type_array) || !parse_index(key, &index) || index >= json_object_array_length(*v))
		return false;
	*v = json_object_array_get_idx(*v, index);
	return true;
}

/* Several slashes count as one, and one at the end for nothing. */
static bool find_value(struct json_object *root, struct text path, struct json_object **out)
{
	char key[MMDS_REQUEST_MAX];

	*out = root;
	while (path.len) {
		struct text step;

		if (!cut(&path, "/", &step)) {
			step = path;
			path.len = 0;
		}
		if (step.len && (step.len >= sizeof(key) || !decode_step(step, key) || !step_into(out, key)))
			return false;
	}
	return true;
}

static int compare_keys(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* IMDS: the keys of an object, a line each, in order; a slash behind those of objects. */
static void put_keys(struct response *o, struct json_object *object)
{
	size_t nr = (size_t)json_object_object_length(object), n = 0;
	auto_free const char **keys = xzalloc((nr + 1) * sizeof(*keys));

	json_object_object_foreach(object, key, value)
	{
		(void)value;
		keys[n++] = key;
	}
	qsort(keys, n, sizeof(*keys), compare_keys);
	for (size_t i = 0; i < n; i++) {
		put_text(o, i ? "\n" : "");
		put_text(o, keys[i]);
		if (json_object_is_type(json_object_object_get(object, keys[i]), json_type_object))
			put_text(o, "/");
	}
}

/* Of a copy: json-c keeps the text of what it has printed with the object. */
static void put_json(struct response *o, struct json_object *value)
{
	struct json_object *copy = NULL;

	if (value && json_object_deep_copy(value, &copy, NULL) < 0)
		return;
	put_text(o, json_object_to_json_string_ext(copy, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(copy);
}

static void answer_get(struct mmds *m, const struct request *r, struct response *o)
{
	struct json_object *value;

	o->json = !m->imds_compat && r->values[H_ACCEPT].at && is_any_case(r->values[H_ACCEPT], "application/json");
	if (!find_value(m->store, r->path, &value))
		fail_named(o, 404, "Resource not found: ", r->path, ".");
	else if (o->json)
		put_json(o, value);
	else if (json_object_is_type(value, json_type_object))
		put_keys(o, value);
	else if (json_object_is_type(value, json_type_string))
		buf_put(&o->body, json_object_get_string(value), (size_t)json_object_get_string_len(value));
	else
		fail(o, 501, UNSUPPORTED_TYPE);
}

/* V1 only counts what is wrong with the token. */
static void handle_get(struct mmds *m, const struct request *r, struct response *o)
{
	const struct text *token = first_of(r, H_TOKEN, H_AWS_TOKEN);
	bool valid = token && mmds_token_ok(m, token->at, token->len);

	if (!token)
		mmds_count(&m->service.counters.rx_no_token, 1);
	else if (!valid)
		mmds_count(&m->service.counters.rx_invalid_token, 1);
	if (m->version == CFG_MMDS_V1 || valid)
		answer_get(m, r, o);
	else
		fail(o, 401, token ? "MMDS token not valid." : NO_TOKEN);
}

/* ---- tokens ---- */

/* True for the path of tokens, however many slashes it has in a row. */
static bool is_token_path(struct text path)
{
	const char *want = TOKEN_PATH;

	for (size_t i = 0; i < path.len; i++) {
		if (path.at[i] == '/' && i && path.at[i - 1] == '/')
			continue;
		if (path.at[i] != *want++) /* the NUL at its end, too, ends it here */
			return false;
	}
	return !*want;
}

static bool parse_ttl(struct text t, u32 *ttl)
{
	u32 v = 0;

	for (size_t i = 0; i < t.len; i++) {
		if (t.at[i] < '0' || t.at[i] > '9' || __builtin_mul_overflow(v, 10u, &v) ||
		    __builtin_add_overflow(v, (u32)(t.at[i] - '0'), &v))
			return false;
	}
	*ttl = v;
	return t.len > 0;
}

static void give_token(struct mmds *m, const struct text *name, u32 ttl, struct response *o)
{
	char text[200];

	if (ttl < MMDS_MIN_TTL || ttl > MMDS_MAX_TTL) {
		snprintf(text, sizeof(text), "Invalid time to live value provided for token: %u. Please provide a value between %u and %u.",
			 ttl, MMDS_MIN_TTL, MMDS_MAX_TTL);
		fail(o, 400, text);
	} else if (mmds_token_new(m, ttl, text) < 0) {
		fail(o, 501, "There are no random numbers for a token.");
	} else {
		put_text(o, text);
		o->ttl_name = name;
		o->ttl = ttl;
	}
}

static void handle_put(struct mmds *m, const struct request *r, struct response *o)
{
	enum http_header which = r->values[H_TTL].at ? H_TTL : H_AWS_TTL;
	u32 ttl;

	if (r->values[H_FORWARDED_FOR].at) {
		fail_named(o, 400, "Invalid header. Reason: Unsupported header name. Key: ", r->names[H_FORWARDED_FOR], "");
	} else if (!is_token_path(r->path)) {
		fail_named(o, 404, "Resource not found: ", r->path, ".");
	} else if (!r->values[which].at) {
		fail(o, 400, NO_TTL);
	} else if (!parse_ttl(r->values[which], &ttl)) {
		fail_named(o, 400, "Invalid header. Reason: Invalid value. Key:", r->names[which], "; Value:");
		buf_put(&o->body, r->values[which].at, r->values[which].len);
	} else {
		give_token(m, &r->names[which], ttl, o);
	}
}

/* ---- the whole ---- */

static void handle(struct mmds *m, const struct request *r, struct response *o)
{
	const struct text *connection = &r->values[H_CONNECTION];

	o->close = r->http10 ? !connection->at || !is_any_case(*connection, "keep-alive")
			     : connection->at && is_any_case(*connection, "close");
	o->head_only = is(r->method, "HEAD");
	pthread_mutex_lock(&m->lock);
	if (!r->path.len)
		fail(o, 400, "Invalid URI.");
	else if (is(r->method, "GET"))
		handle_get(m, r, o);
	else if (is(r->method, "PUT"))
		handle_put(m, r, o);
	else
		fail(o, 405, "Not allowed HTTP method.");
	pthread_mutex_unlock(&m->lock);
}

u32 mmds_serve(struct mmds_service *s, const u8 *data, u32 len, struct buf *reply, bool *close)
{
	struct mmds *m = container_of(s, struct mmds, service);
	const char *end = memmem(data, len, "\r\n\r\n", 4);
	struct response o = {.status = 200};
	struct request r = {0};
	u32 taken = end ? (u32)(end - (const char *)data) + 4 : len;

	if (!end && len < MMDS_REQUEST_MAX)
		return 0;
	mmds_count(&s->counters.rx_count, 1);
	if (end && parse(&r, (struct text){(const char *)data, taken - 2})) {
		handle(m, &r, &o);
	} else {
		o.close = true; /* where the next one begins nobody knows */
		fail(&o, 400, "Invalid request.");
	}
	*close = o.close;
	write_response(&r, &o, reply);
	return taken;
}
