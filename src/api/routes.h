/*
 * routes.h: all routes of the REST API. Those of sections and devices are made from the configuration's tables and the device classes:
 *   PUT   /<section>, or /<list>/{id}      a section as the configuration file has it, before the start
 *   PATCH, GET of the same and below       device_class.ops, after the start
 * The rest is one table in routes.c. ctx: any
 */
#ifndef HUSK_API_ROUTES_H
#define HUSK_API_ROUTES_H

#include "api/request.h"

struct api_call;
struct cfg_table;
struct device_class;
struct device_op;

enum api_phase { API_ANY_TIME, API_BEFORE_START, API_AFTER_START };

/* What the body may be. */
enum api_body {
	API_NO_BODY,
	API_FIELDS,	     /* an object with the fields of route.body */
	API_PARTIAL,	     /* the same, but nothing is required, and something must be there */
	API_OPTIONAL_FIELDS, /* as API_FIELDS, or none */
	API_ANY_JSON,
};

struct route {
	enum api_method method;
	char path[64]; /* "/drives/{drive_id}" */
	enum api_phase phase;
	enum api_body kind;
	const struct cfg_table *body;	/* NULL unless kind has fields */
	const char *section;		/* key of the configuration; NULL: none */
	const struct device_class *cls; /* whose section it is; NULL: none */
	const struct device_op *op;	/* NULL: none */
	const char *id_key;		/* field that the path's last part repeats; NULL: the path has no id */
	/* 0, API_LATER, or -errno with the sentence for the client. ctx: main thread */
	int (*run)(struct api_call *call, struct err *e);
	/* May be NULL. Asked first: API_LATER: it is run's matter. ctx: API thread, whatever the main thread is doing */
	int (*quick)(struct api_call *call, struct err *e);
	const char *help; /* one sentence */
};

struct routes {
	struct route *items; /* owned */
	u32 nr;
};

void routes_init(struct routes *t);
void routes_fini(struct routes *t); /* accepts zeroed */
/* The route of a request, or NULL; path begins with '/', has neither scheme nor host. id gets what stands in the place of {...}, or "". */
const struct route *routes_find(const struct routes *t, enum api_method method, const char *path, char *id, size_t id_size);
/* What errors about a section begin with: "Drive config error". */
const char *route_category(const struct route *r);

#endif
