/* request.c: see request.h. */
#include "api/request.h"

#include <ctype.h>
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "api/control.h"
#include "api/firecracker.h"
#include "api/serde.h"
#include "vmm/base/json.h"
#include "vmm/clock.h"
#include "vmm/config_table.h"

#define LOGGED_BODY 1024 /* bytes of a body that the log shows */

const char *api_method_name(enum api_method m)
{
	static const char *const names[] = {
		[API_GET] = "GET", [API_PUT] = "PUT", [API_PATCH] = "PATCH", [API_DELETE] = "DELETE", [API_OTHER] = "?"};

	return names[m];
}

void api_reply_error(struct api_reply *reply, u32 status, const char *key, const char *text)
{
	json_object_put(reply->body);
	reply->status = status;
	reply->body = json_object_new_object();
	json_object_object_add(reply->body, key, json_object_new_string(text));
}

void api_reply_fini(struct api_reply *reply)
{
	json_object_put(reply->body);
	*reply = (struct api_reply){0};
}

/* ---- Log lines: Firecracker's, which its clients and tests read ---- */

static void log_request(struct log *log, const struct api_request *q)
{
	static const char *const words[] = {
		[API_GET] = "Get", [API_PUT] = "Put", [API_PATCH] = "Patch", [API_DELETE] = "Delete", [API_OTHER] = "?"};
	struct json_object *body;

	if (!log_wants(log, LOG_INFO))
		return;
	/* Metadata are the guest's secrets. */
	if (!q->body || !strcmp(q->path, "/mmds")) {
		log_info(log, "The API server received a %s request on \"%.200s\".", words[q->method], q->path);
		return;
	}
	body = json_object_new_string_len(q->body, (int)MIN(q->len, LOGGED_BODY));
	log_info(log, "The API server received a %s request on \"%.200s\" with body %s%s.", words[q->method], q->path,
		 json_object_to_json_string_ext(body, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE),
		 q->len > LOGGED_BODY ? "..." : "");
	json_object_put(body);
}

static void log_reply(struct log *log, const struct api_reply *reply, u64 started_ns)
{
	if (reply->status == 204 || reply->status == 200)
		log_info(log, "The request was executed successfully. Status code: %s.",
			 reply->status == 204 ? "204 No Content" : "200 OK");
	else
		log_error(log, "Received Error. Status code: %s. Message: %s",
			  reply->status == 413 ? "413 Payload Too Large" : "400 Bad Request",
			  json_object_get_string(json_object_object_get(reply->body, "fault_message")));
	log_debug(log, "Total previous API call duration: %llu us.", (unsigned long long)(clock_host_ns() - started_ns) / 1000);
}

/* ---- From a request to a call ---- */

/* "http://localhost/drives" -> "/drives" */
static const char *local_path(const char *path)
{
	const char *host = !strncmp(path, "http://", 7) ? path + 7 : NULL;

	if (!host)
		return path;
	return strchr(host, '/') ? strchr(host, '/') : "/";
}

static bool body_may_lack(const struct route *r)
{
	return r && r->kind == API_OPTIONAL_FIELDS;
}

static int find_route(struct api_call *call, const struct api_request *q, const struct routes *routes, struct err *e)
{
	call->route = routes_find(routes, q->method, q->path, call->id, sizeof(call->id));
	if (q->method == API_GET && q->body)
		return err_set(e, -EINVAL, "GET request cannot have a body.");
	if ((q->method == API_PUT || q->method == API_PATCH) && !q->body && !body_may_lack(call->route))
		return err_set(e, -EINVAL, "Empty %s request.", api_method_name(q->method));
	if (!call->route)
		return err_set(e, -EINVAL, "Invalid request method and/or path: %s %.200s.", api_method_name(q->method),
			       q->path + (*q->path == '/'));
	return 0;
}

static int check_id(const struct api_call *call, struct err *e)
{
	if (!call->route->id_key)
		return 0;
	if (!*call->id)
		return err_set(e, -EINVAL, "The ID cannot be empty.");
	for (const char *p = call->id; *p; p++) {
		if (!isalnum((unsigned char)*p) && *p != '_')
			return err_set(e, -EINVAL, "API Resource IDs can only contain alphanumeric characters and underscores.");
	}
	return 0;
}

static int check_same_id(const struct api_call *call, struct err *e)
{
	const char *id_key = call->route->id_key, *id;

	if (!id_key || !call->route->body)
		return 0; /* DELETE has the id in its path alone */
	id = json_object_get_string(json_object_object_get(call->body, id_key));
	if (!strcmp(id, call->id))
		return 0;
	if (strcmp(call->route->section, "network-interfaces") != 0)
		return err_set(e, -EINVAL, "The id from the path does not match the id from the body!");
	return err_set(e, -EINVAL, "The id from the path [%s] does not match the id from the body [%.64s]!", call->id, id);
}

static int check_fields(struct api_call *call, struct err *e)
{
	static const struct cfg_table nothing = {.name = "empty"};
	const struct route *r = call->route;
	const char *extra = r->id_key && r->body && !cfg_find_field(r->body, r->id_key) ? r->id_key : NULL;
	struct err why = {0};

	if (serde_check(r->body ? r->body : &nothing, call->body, r->kind == API_PARTIAL, extra, &call->reply.deprecated, &why) < 0)
		return err_set(e, -EINVAL, FC_BAD_JSON "%s.", why.msg);
	if (r->kind == API_PARTIAL && json_object_object_length(call->body) == 0)
		return err_set(e, -EINVAL, "Empty PATCH request.");
	return check_same_id(call, e);
}

static int read_body(struct api_call *call, const struct api_request *q, struct err *e)
{
	struct err why = {0};

	if (!q->body)
		return 0;
	if (json_parse("body", q->body, q->len, &call->body, &why) < 0)
		return err_set(e, -EINVAL, FC_BAD_JSON "%s.", why.msg);
	return call->route->kind == API_ANY_JSON ? 0 : check_fields(call, e);
}

/* ---- From an answer to what clients expect ---- */

/* What husk's own parser says, where clients know other words. */
static const struct {
	const char *ours, *theirs;
} known_words[] = {
	{"a root drive is there already", "A root block device already exists!"},
	{"another interface has this MAC address", "The MAC address is already in use."},
};

static void translate(struct api_reply *reply, const struct api_call *call)
{
	const char *text = json_object_get_string(json_object_object_get(reply->body, "fault_message"));
	char longer[1100];
	const char *colon = text ? strrchr(text, ':') : NULL;

	for (u32 i = 0; text && i < ARRAY_SIZE(known_words); i++) {
		if (!strstr(text, known_words[i].ours))
			continue;
		snprintf(longer, sizeof(longer), "%s: %s", route_category(call->route), known_words[i].theirs);
		api_reply_error(reply, reply->status, "fault_message", longer);
		return;
	}
	/* Errors of the host in Rust's form. */
	for (int number = 1; colon && colon[1] == ' ' && number < 134; number++) {
		if (!strerrordesc_np(number) || strcmp(colon + 2, strerrordesc_np(number)) != 0)
			continue;
		snprintf(longer, sizeof(longer), "%s (os error %d)", text, number);
		api_reply_error(reply, reply->status, "fault_message", longer);
		return;
	}
}

static void carry_out(struct control *c, const struct api_request *q, struct api_reply *reply)
{
	struct api_call call = {.start_ns = clock_host_ns()};
	struct err e = {0};
	int r = find_route(&call, q, &c->routes, &e);

	if (call.route)
		api_counters_request(&c->counters, call.route);
	if (r == 0)
		r = check_id(&call, &e);
	if (r == 0)
		r = read_body(&call, q, &e);
	if (r < 0)
		api_reply_error(&call.reply, 400, "fault_message", e.msg);
	else if (!control_call(c, &call))
		api_reply_fini(&call.reply);
	if (call.route && call.reply.status >= 400)
		translate(&call.reply, &call);
	if (call.route && call.reply.status >= 400)
		api_counters_refused(&c->counters, call.route);
	counter_add(&c->counters.deprecated, call.reply.deprecated);
	json_object_put(call.body);
	*reply = call.reply;
}

void api_serve(struct control *c, const struct api_request *q, struct api_reply *reply)
{
	struct api_request local = *q;
	u64 started_ns = clock_host_ns();

	local.path = local_path(q->path);
	log_request(c->log, &local);
	carry_out(c, &local, reply);
	if (reply->status)
		log_reply(c->log, reply, started_ns);
}
