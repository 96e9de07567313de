/*
 * ctl.h: `husk ctl SOCKET COMMAND`: what people ask of a running VM, over its API socket. One table says what there is: dispatch, help and
 * shell completion are made from it. ctx: any
 */
#ifndef HUSK_CLI_CTL_H
#define HUSK_CLI_CTL_H

#include <stdio.h>

#include "vmm/base/err.h"

struct json_object;

/* One invocation. */
struct ctl {
	const char *sock;
	bool json;			  /* answers as the API gave them */
	bool prometheus;		  /* metrics in Prometheus' text form */
	bool diff, compress, keep_paused; /* snapshot */
	bool copy_disks;		  /* migrate */
	const char *const *words;	  /* what follows the command */
	int nr;
};

struct ctl_command {
	const char *name;
	const char *usage;    /* what follows the name */
	const char *complete; /* words that can follow, separated by spaces; "" none; "FILE": a file name is meant */
	int min, max;	      /* number of words */
	const char *help;
	int (*run)(const struct ctl *c, struct err *e);
};
extern const struct ctl_command ctl_commands[]; /* name NULL ends it */

/* ctl_vm.c, ctl_dev.c: the commands. 0 or -errno; -EINVAL before anything was sent: not understood. */
int ctl_status(const struct ctl *c, struct err *e);
int ctl_config(const struct ctl *c, struct err *e);
int ctl_start(const struct ctl *c, struct err *e);
int ctl_pause(const struct ctl *c, struct err *e);
int ctl_resume(const struct ctl *c, struct err *e);
int ctl_stop(const struct ctl *c, struct err *e);
int ctl_end(const struct ctl *c, struct err *e);
int ctl_snapshot(const struct ctl *c, struct err *e); /* ctl_snapshot.c */
int ctl_log(const struct ctl *c, struct err *e);
int ctl_metrics(const struct ctl *c, struct err *e);
int ctl_mmds(const struct ctl *c, struct err *e);
int ctl_get(const struct ctl *c, struct err *e);
int ctl_put(const struct ctl *c, struct err *e);
int ctl_patch(const struct ctl *c, struct err *e);
int ctl_balloon(const struct ctl *c, struct err *e);
int ctl_memory(const struct ctl *c, struct err *e);
int ctl_drives(const struct ctl *c, struct err *e);
int ctl_net(const struct ctl *c, struct err *e);
int ctl_migrate(const struct ctl *c, struct err *e); /* ctl_migrate.c */

/* ctl.c: requests. body: borrowed, NULL: none. */
int ctl_ask(const struct ctl *c, const char *path, struct json_object **out, struct err *e) MUST_CHECK;
int ctl_tell(const struct ctl *c, const char *method, const char *path, struct json_object *body, struct err *e) MUST_CHECK;
/* "512", "64K", "2G" in units of `unit` bytes (ctl_dev.c). -EINVAL */
int ctl_parse_size(const char *text, u64 unit, u64 *out, struct err *e) MUST_CHECK;
/* {"<key>": "<value>"}; the caller's. */
struct json_object *ctl_words(const char *key, const char *value);
void ctl_print_json(struct json_object *json);

/* table.c: rows of cells, printed with columns as wide as they need be. NULL cells are "-". */
#define TABLE_COLUMNS 8
struct table {
	u32 columns, rows;
	char **cells; /* owned */
};
void table_init(struct table *t, const char *const *head, u32 columns);
/* Copies `columns` cells. */
void table_add(struct table *t, const char *const *cells);
void table_print(struct table *t, FILE *out); /* and frees it */

/* prometheus.c: totals (GET /husk/metrics) in Prometheus' text form (version 0.0.4). */
void prometheus_print(struct json_object *totals, FILE *out);

#endif
