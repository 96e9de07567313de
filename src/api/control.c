/* control.c: see control.h. */
#include "api/control.h"

#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "api/firecracker.h"
#include "api/handlers.h"
#include "migration/dest.h"
#include "migration/snapshot.h"
#include "migration/source.h"
#include "vmm/base/json.h"

/* ---- Requests on their way ---- */

static void wait_target(struct control *c)
{
	while (!c->target && !c->ended)
		pthread_cond_wait(&c->cond, &c->lock);
}

static void finish(struct api_call *call)
{
	struct control *c = call->control;

	pthread_mutex_lock(&c->lock);
	call->done = true;
	pthread_cond_broadcast(&c->cond);
	pthread_mutex_unlock(&c->lock);
}

static void answer(struct api_call *call, int r, const struct err *e)
{
	if (r < 0)
		api_reply_error(&call->reply, call->reply.status ? call->reply.status : 400, "fault_message", e->msg);
	else
		call->reply.status = call->reply.body ? 200 : 204;
	finish(call);
}

static int check_phase(const struct api_call *call, struct err *e)
{
	bool started = call->control->vm;

	if (call->route->phase == API_BEFORE_START && started)
		return err_set(e, -EBUSY, FC_NOT_AFTER_START);
	if (call->route->phase == API_AFTER_START && !started)
		return err_set(e, -EAGAIN, FC_NOT_BEFORE_START);
	return 0;
}

/* What could make the VM another than the one that the peer was told of. */
static bool changes_vm(const struct api_call *call)
{
	const struct route *r = call->route;

	return call->control->vm && r->method != API_GET && strcmp(r->path, "/actions") != 0 && strcmp(r->path, "/husk/logger") != 0 &&
	       r->run != handle_migration;
}

static void run_call(struct loop_work *w)
{
	struct api_call *call = container_of(w, struct api_call, work);
	struct err e = {0};
	int r = check_phase(call, &e);

	if (r == 0 && changes_vm(call) && migration_is_under_way(call->control))
		r = err_set(&e, -EBUSY, "The VM is on its way between two husks (GET /migration); it cannot be changed now.");

	if (r == 0)
		r = call->route->run(call, &e);
	if (r != API_LATER)
		answer(call, r, &e);
}

bool control_call(struct control *c, struct api_call *call)
{
	struct err e = {0};
	bool done;
	int r;

	call->control = c;
	r = call->route->quick ? call->route->quick(call, &e) : API_LATER;
	if (r != API_LATER) {
		answer(call, r, &e);
		return true;
	}
	call->work.run = run_call;
	pthread_mutex_lock(&c->lock);
	wait_target(c);
	if (!c->ended) {
		c->current = call;
		loop_post(c->target, &call->work);
	}
	while (!call->done && !c->ended)
		pthread_cond_wait(&c->cond, &c->lock);
	c->current = NULL;
	done = call->done;
	pthread_mutex_unlock(&c->lock);
	return done;
}

/* ---- The start ---- */

static void set_target(struct control *c, struct loop *l)
{
	pthread_mutex_lock(&c->lock);
	c->target = l;
	pthread_cond_broadcast(&c->cond);
	pthread_mutex_unlock(&c->lock);
}

static void vcpus_run(struct loop_work *w)
{
	struct control *c = container_of(w, struct control, running);

	if (c->starting && c->snapshot) {
		api_counters_time(&c->counters.vmm_load_us, c->load_ns);
		api_counters_time(&c->counters.load_us, c->starting->start_ns);
	}
	if (c->starting)
		answer(c->starting, 0, NULL);
	c->starting = NULL;
}

/* ---- A VM that comes from another husk ---- */

static void forget_dest(struct control *c)
{
	struct dest *d = c->dest;
	struct err e;

	if (!d)
		return;
	if (c->waiting) {
		(void)!dest_abandon(d, &e);
		pthread_join(c->waiter, NULL);
		loop_work_cancel(&c->loop, &c->offered);
		c->waiting = false;
	}
	pthread_mutex_lock(&c->migration_lock);
	c->dest = NULL;
	pthread_mutex_unlock(&c->migration_lock);
	dest_close(d);
}

static void *wait_for_source(void *opaque)
{
	struct control *c = opaque;

	c->not_offered = (struct err){0};
	c->not_offered.code = dest_wait_offer(c->dest, &c->not_offered);
	loop_post(&c->loop, &c->offered);
	return NULL;
}

/* The VM is known: what was configured makes room for it. */
static void offered(struct loop_work *w)
{
	struct control *c = container_of(w, struct control, offered);
	struct json_object *doc;
	int r = c->not_offered.code;

	pthread_join(c->waiter, NULL);
	c->waiting = false;
	if (r == 0) {
		r = dest_configure(c->dest, c->doc, &doc, &c->not_offered);
		if (r < 0)
			dest_refuse(c->dest, &c->not_offered);
	}
	if (r < 0) {
		log_error(c->log, "no VM is received: %s", c->not_offered.msg);
		forget_dest(c);
	} else {
		c->load_ns = clock_host_ns();
		c->unloaded = c->doc;
		c->doc = doc;
	}
	loop_stop(&c->loop);
}

int control_take_dest(struct control *c, struct dest *d, struct err *e)
{
	int r;

	pthread_mutex_lock(&c->migration_lock);
	c->dest = d;
	pthread_mutex_unlock(&c->migration_lock);
	r = pthread_create(&c->waiter, NULL, wait_for_source, c);
	c->waiting = r == 0;
	if (r == 0)
		return 0;
	forget_dest(c);
	return err_set(e, -r, "no thread: %s", strerror(r));
}

int control_receive(struct control *c, const struct dest_params *p, struct err *e)
{
	struct dest *d;
	int r;

	if (c->vm || c->dest)
		return err_set(e, -EBUSY, "There is a VM already, or one is waited for.");
	json_object_object_foreach(c->doc, key, value)
	{
		if (value && !snapshot_is_own_key(key))
			return err_set(e, -EBUSY, "A VM that is received cannot be configured here: \"%s\" is.", key);
	}
	r = dest_listen(&d, p, c->log, e);
	return r < 0 ? r : control_take_dest(c, d, e);
}

const struct vm_restore *control_restores(struct control *c)
{
	return c->snapshot ? snapshot_restore(c->snapshot) : c->dest ? dest_restore(c->dest) : NULL;
}

int control_init(struct control *c, struct json_object *doc, struct mmds *mmds, struct log *log, struct err *e)
{
	const char *text = json_object_to_json_string_ext(doc, JSON_C_TO_STRING_PLAIN);
	int r;

	*c = (struct control){.log = log, .mmds = mmds, .running.run = vcpus_run, .offered.run = offered};
	/* Values from the command line know their flag, which a copy by json-c does not keep: nobody asks from here on. */
	r = json_parse("configuration", text, strlen(text), &c->doc, e);
	if (r == 0)
		r = loop_init(&c->loop, e);
	if (r < 0) {
		json_object_put(c->doc);
		c->doc = NULL;
		return r;
	}
	pthread_mutex_init(&c->lock, NULL);
	pthread_mutex_init(&c->migration_lock, NULL);
	pthread_cond_init(&c->cond, NULL);
	routes_init(&c->routes);
	return 0;
}

void control_fini(struct control *c)
{
	if (!c->doc)
		return;
	forget_dest(c);
	snapshot_close(c->snapshot);
	json_object_put(c->unloaded);
	routes_fini(&c->routes);
	pthread_cond_destroy(&c->cond);
	pthread_mutex_destroy(&c->migration_lock);
	pthread_mutex_destroy(&c->lock);
	loop_fini(&c->loop);
	json_object_put(c->doc);
	*c = (struct control){0};
}

void control_wait_start(struct control *c)
{
	set_target(c, &c->loop);
	loop_run(&c->loop);
	c->loop.stop = false;
	set_target(c, NULL);
}

int control_config(struct control *c, struct config *out, struct err *e)
{
	return config_parse(out, c->doc, "configuration", e);
}

void control_restore(struct control *c, struct snapshot *s, struct api_call *call)
{
	c->load_ns = clock_host_ns();
	c->unloaded = c->doc;
	c->doc = snapshot_configure(s, c->unloaded);
	c->snapshot = s;
	c->starting = call;
	loop_stop(&c->loop);
}

int control_attach(struct control *c, struct vm *vm, struct err *e)
{
	struct source *source;
	int r = source_start_thread(&source, vm, e);

	if (r < 0)
		return r;
	pthread_mutex_lock(&c->migration_lock);
	c->source = source;
	pthread_mutex_unlock(&c->migration_lock);
	c->vm = vm;
	api_counters_attach(&c->counters, &vm->metrics);
	loop_post(&vm->loop, &c->running);
	set_target(c, &vm->loop);
	return 0;
}

void control_detach(struct control *c)
{
	struct source *source;

	if (!c->vm)
		return;
	pthread_mutex_lock(&c->lock);
	loop_work_cancel(&c->vm->loop, &c->running);
	if (c->current)
		loop_work_cancel(&c->vm->loop, &c->current->work);
	c->target = NULL;
	pthread_mutex_unlock(&c->lock);
	pthread_mutex_lock(&c->migration_lock);
	source = c->source;
	c->source = NULL;
	pthread_mutex_unlock(&c->migration_lock);
	source_stop_thread(source);
	c->vm = NULL;
}

void control_refuse(struct control *c, const struct err *e)
{
	struct api_call *call = c->starting;
	struct err why = *e;

	c->starting = NULL;
	err_prefix(&why, c->snapshot ? FC_LOAD_ERROR : "Start microvm error");
	if (c->dest) {
		dest_refuse(c->dest, e);
		log_error(c->log, "no VM is received: %s", e->msg);
		forget_dest(c);
	}
	if (c->unloaded) {
		snapshot_close(c->snapshot);
		c->snapshot = NULL;
		json_object_put(c->doc);
		c->doc = c->unloaded;
		c->unloaded = NULL;
	}
	if (call)
		answer(call, why.code, &why);
}

void control_end(struct control *c)
{
	pthread_mutex_lock(&c->lock);
	c->ended = true;
	pthread_cond_broadcast(&c->cond);
	pthread_mutex_unlock(&c->lock);
}
