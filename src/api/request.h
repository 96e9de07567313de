/*
 * request.h: one request of the REST API from its method, path and body to its answer, without HTTP around it:
 *   path -> route -> JSON -> fields (serde.h) -> the route's handler on the main thread (control.h) -> answer
 */
#ifndef HUSK_API_REQUEST_H
#define HUSK_API_REQUEST_H

#include "vmm/base/err.h"

struct control;
struct json_object;

enum api_method { API_GET, API_PUT, API_PATCH, API_DELETE, API_OTHER };

struct api_request {
	enum api_method method;
	const char *path; /* as sent: "/drives/rootfs", or with scheme and host in front */
	const char *body; /* NULL: none; need not end with a NUL byte */
	size_t len;
};

struct api_reply {
	u32 status;		  /* 200, 204, 400, 413; 0: no answer, husk ends */
	struct json_object *body; /* owned; NULL: none */
	bool deprecated;	  /* the request had a field that Firecracker deprecates */
};

const char *api_method_name(enum api_method m); /* "PUT" */

/* Carries q out and waits for the answer; logs both. Free the answer with api_reply_fini. ctx: API thread */
void api_serve(struct control *c, const struct api_request *q, struct api_reply *reply);
/* Sets status and {"<key>": "<text>"}; key is "fault_message", or "error" for what is wrong with HTTP itself. */
void api_reply_error(struct api_reply *reply, u32 status, const char *key, const char *text);
void api_reply_fini(struct api_reply *reply);

#endif
