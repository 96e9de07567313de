/*
 * control.h: what the API does to the VM, and when. The API thread hands each request to the main thread and waits: before the start to a
 * small loop here, then to the VM's own. So everything below the API has one thread only, and a paused VM answers as a running one.
 *
 *   control_init, server_start                                       (server.h)
 *   control_wait_start -> config_parse -> vm_init -> control_attach -> vm_run -> control_detach     again when it fails: control_refuse
 *   control_end, server_stop, control_fini
 */
#ifndef HUSK_API_CONTROL_H
#define HUSK_API_CONTROL_H

#include <pthread.h>

#include "api/counters.h"
#include "api/routes.h"
#include "vmm/config.h"
#include "vmm/vm.h"

#define API_LATER 1 /* a handler answers with control_answer when it is time */

/* One request on its way through the main thread. */
struct api_call {
	struct control *control;
	const struct route *route; /* in control->routes */
	char id[128];		   /* from the path, or ""; cut, but longer than any name may be */
	struct json_object *body;  /* owned; NULL: none */
	struct api_reply reply;
	u64 start_ns; /* when the request came, CLOCK_MONOTONIC */
	struct loop_work work;
	bool done; /* under control->lock */
};

struct mmds;
struct dest;	     /* migration/dest.h */
struct dest_params;  /* the same */
struct snapshot;     /* migration/snapshot.h */
struct source;	     /* migration/source.h */
struct tls_identity; /* migration/tls.h */

struct control {
	struct log *log;      /* borrowed */
	struct routes routes; /* constant */
	struct api_counters counters;
	struct json_object *doc;      /* owned. ctx: main */
	struct mmds *mmds;	      /* borrowed */
	struct sandbox *sandbox;      /* borrowed; NULL: none. Set between control_init and server_start */
	struct tls_identity *tls;     /* the same; of migrations */
	struct vm *vm;		      /* borrowed, while it is built or runs. ctx: main */
	struct loop loop;	      /* before the start */
	struct api_call *starting;    /* InstanceStart that waits for its answer. ctx: main */
	struct loop_work running;     /* runs when the vCPUs do */
	struct snapshot *snapshot;    /* owned; what the VM is restored from; NULL: it boots. ctx: main */
	struct json_object *unloaded; /* owned; doc as it was before a load that may fail */
	u64 load_ns;		      /* when that began */

	pthread_mutex_t migration_lock; /* guards the two pointers; held by the API's thread while it uses them */
	struct source *source;		/* owned, while the VM runs */
	struct dest *dest;		/* owned; where the VM is to come from; NULL: from nowhere */
	pthread_t waiter;		/* waits for a source; joined by offered, or control_fini */
	bool waiting;			/* there is a waiter. ctx: main */
	struct loop_work offered;	/* the waiter's last: one has come, or not */
	struct err not_offered;		/* why not; code 0: it has */

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t cond;
	struct loop *target;	  /* who serves requests now; NULL: they wait */
	struct api_call *current; /* there is one API thread, so one at most */
	bool ended;
};

/* doc: what command line and file configure already (borrowed, copied). */
int control_init(struct control *c, struct json_object *doc, struct mmds *mmds, struct log *log, struct err *e) MUST_CHECK;
void control_fini(struct control *c); /* accepts zeroed */

/* Serves requests until one wants the VM started. ctx: main */
void control_wait_start(struct control *c);
/* The configuration so far; config_fini it. ctx: main */
int control_config(struct control *c, struct config *out, struct err *e) MUST_CHECK;
/* Has the VM started from a snapshot (taken); call waits for it, and the snapshot's configuration takes the place of what was there. ctx:
 * main */
void control_restore(struct control *c, struct snapshot *s, struct api_call *call);
/* Waits for a VM from another husk; the process's own configuration stays. -EBUSY: something is configured already. ctx: main */
int control_receive(struct control *c, const struct dest_params *p, struct err *e) MUST_CHECK;
/* The same, of one that listens already (taken). */
int control_take_dest(struct control *c, struct dest *d, struct err *e) MUST_CHECK;
/* What the VM gets its state from, when it does not boot. Borrowed, or NULL. ctx: main */
const struct vm_restore *control_restores(struct control *c);
/* The VM is built and about to run: its loop serves the requests from now on, and it may leave. control_detach in any
 * case. ctx: main */
int control_attach(struct control *c, struct vm *vm, struct err *e) MUST_CHECK;
/* It no longer runs. ctx: main */
void control_detach(struct control *c);
/* The start failed: says so to whoever asked for it. ctx: main */
void control_refuse(struct control *c, const struct err *e);
/* No more requests: those that wait get no answer. ctx: main */
void control_end(struct control *c);

/* Runs the call's handler on the main thread and waits for its answer. False: husk ends, there is none. ctx: API thread */
bool control_call(struct control *c, struct api_call *call);

#endif
