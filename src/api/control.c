/* control.c: see control.h. */
#include "api/control.h"

#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "api/firecracker.h"
#include "migration/snapshot.h"
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

static void run_call(struct loop_work *w)
{
	struct api_call *call = container_of(w, struct api_call, work);
	struct err e = {0};
	int r = check_phase(call, &e);

	if (r == 0)
		r = call->route->run(call, &e);
	if (r != API_LATER)
		answer(call, r, &e);
}

bool control_call(struct control *c, struct api_call *call)
{
	bool done;

	call->control = c;
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

int control_init(struct control *c, struct json_object *doc, struct mmds *mmds, struct log *log, struct err *e)
{
	const char *text = json_object_to_json_string_ext(doc, JSON_C_TO_STRING_PLAIN);
	int r;

	*c = (struct control){.log = log, .mmds = mmds, .running.run = vcpus_run};
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
	pthread_cond_init(&c->cond, NULL);
	routes_init(&c->routes);
	return 0;
}

void control_fini(struct control *c)
{
	if (!c->doc)
		return;
	snapshot_close(c->snapshot);
	json_object_put(c->unloaded);
	routes_fini(&c->routes);
	pthread_cond_destroy(&c->cond);
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

void control_attach(struct control *c, struct vm *vm)
{
	c->vm = vm;
	api_counters_attach(&c->counters, &vm->metrics);
	loop_post(&vm->loop, &c->running);
	set_target(c, &vm->loop);
}

void control_detach(struct control *c)
{
	if (!c->vm)
		return;
	pthread_mutex_lock(&c->lock);
	loop_work_cancel(&c->vm->loop, &c->running);
	if (c->current)
		loop_work_cancel(&c->vm->loop, &c->current->work);
	c->target = NULL;
	pthread_mutex_unlock(&c->lock);
	c->vm = NULL;
}

void control_refuse(struct control *c, const struct err *e)
{
	struct api_call *call = c->starting;
	struct err why = *e;

	c->starting = NULL;
	err_prefix(&why, c->snapshot ? FC_LOAD_ERROR : "Start microvm error");
	if (c->snapshot) {
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
