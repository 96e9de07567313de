/* patch.h: what the API does with PATCH: a body is read by the table of the device's operation, and takes effect on the loop thread. */
#ifndef HUSK_TESTS_PATCH_H
#define HUSK_TESTS_PATCH_H

#include <json-c/json.h>
#include <semaphore.h>
#include <stdlib.h>

#include "tests/dev/fake_vm.h"
#include "vmm/config_table.h"

struct patch_call {
	struct loop_work work;
	struct device *dev;
	const void *body;
	struct err *e;
	int ret;
	sem_t done;
};

static inline void patch_run(struct loop_work *w)
{
	struct patch_call *c = container_of(w, struct patch_call, work);

	c->ret = c->dev->cls->ops[0].update(c->dev, c->body, c->e);
	sem_post(&c->done);
}

/* PATCH with this body at the device's own path. ctx: the test's thread, the loop runs */
static inline int patch_device(struct fake_vm *f, struct device *dev, const char *text, struct err *e)
{
	const struct cfg_table *t = dev->cls->ops[0].patch;
	const struct cfg_place at = {.origin = "patch"};
	struct json_object *json = json_tokener_parse(text);
	struct patch_call c = {.work.run = patch_run, .dev = dev, .body = xzalloc(t->size), .e = e};

	ASSERT(json);
	c.ret = cfg_read_object(t, json, (void *)c.body, &at, e);
	json_object_put(json);
	if (c.ret == 0) {
		sem_init(&c.done, 0, 0);
		loop_post(&f->vm.loop, &c.work);
		sem_wait(&c.done);
		sem_destroy(&c.done);
	}
	cfg_free(t, (void *)c.body);
	free((void *)c.body);
	return c.ret;
}

#endif
