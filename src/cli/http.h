/* http.h: one request to a husk (or Firecracker) process on its API socket, one answer. ctx: any */
#ifndef HUSK_CLI_HTTP_H
#define HUSK_CLI_HTTP_H

#include "vmm/base/err.h"

struct json_object;

#define HTTP_MAX_ANSWER (16 * MIB)
#define HTTP_TIMEOUT_MS 60000 /* a snapshot may take its time: HTTP_SLOW_MS */
#define HTTP_SLOW_MS	3600000

/* Sends method and path with body (NULL: none; text of len bytes) and waits for the answer: *out is its JSON, the caller's (NULL: none).
 * -EREMOTEIO: refused, e has the sentence of the other side; others: it cannot be reached, or speaks no HTTP. */
int http_ask(const char *sock, const char *method, const char *path, const char *body, size_t len, struct json_object **out,
	     struct err *e) MUST_CHECK;
/* The same, for requests that may take long. */
int http_ask_slowly(const char *sock, const char *method, const char *path, const char *body, size_t len, struct json_object **out,
		    struct err *e) MUST_CHECK;
/* A connection to the socket, the caller's; -errno. */
int http_connect(const char *sock, struct err *e) MUST_CHECK;

#endif
