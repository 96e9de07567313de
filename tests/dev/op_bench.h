/* op_bench.h: asks a device what the API asks (device.h: struct device_op), on the loop's thread as the API does. */
#ifndef HUSK_TESTS_OP_BENCH_H
#define HUSK_TESTS_OP_BENCH_H

#include <errno.h>
#include <json-c/json.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

#include "tests/dev/fake_vm.h"
#include "vmm/config_table.h"

struct op_call {
	struct loop_work work;
	struct device *dev;
	const struct device_op *op;
	void *patch;
	struct json_object *out; /* of GET; NULL: PATCH */
	struct err *e;
	int ret;
	sem_t done;
};

static inline void op_run(struct loop_work *w)
{
	struct op_call *c = container_of(w, struct op_call, work);

	c->ret = c->out ? c->op->status(c->dev, c->out, c->e) : c->op->update(c->dev, c->patch, c->e);
	sem_post(&c->done);
}

static inline int op_do(struct op_call *c)
{
	c->work.run = op_run;
	sem_init(&c->done, 0, 0);
	loop_post(&c->dev->vm->loop, &c->work);
	sem_wait(&c->done);
	sem_destroy(&c->done);
	return c->ret;
}

static inline const struct device_op *op_find(struct device *dev, const char *path)
{
	const struct device_op *op = dev->cls->ops;

	while (op->path && strcmp(op->path, path) != 0)
		op++;
	ASSERT(op->path);
	return op;
}

/* PATCH with a JSON body ("{}" for none); what update answers, or what is wrong with the body. */
static inline int op_patch(struct device *dev, const char *path, const char *body, struct err *e)
{
	const struct cfg_place at = {.origin = "body"};
	struct op_call c = {.dev = dev, .op = op_find(dev, path), .e = e};
	struct json_object *json = json_tokener_parse(body);
	int ret = 0;

	*e = (struct err){0};
	if (c.op->patch) {
		c.patch = xzalloc(c.op->patch->size);
		ret = cfg_read_object(c.op->patch, json, c.patch, &at, e);
	}
	if (ret == 0)
		ret = op_do(&c);
	if (c.op->patch)
		cfg_free(c.op->patch, c.patch);
	free(c.patch);
	json_object_put(json);
	return ret;
}

/* GET; NULL when it is refused. Free with json_object_put. */
static inline struct json_object *op_get(struct device *dev, const char *path, struct err *e)
{
	struct op_call c = {.dev = dev, .op = op_find(dev, path), .e = e, .out = json_object_new_object()};

	*e = (struct err){0};
	if (op_do(&c) == 0)
		return c.out;
	json_object_put(c.out);
	return NULL;
}

/* One number of what GET answers; -1: not there, or null. */
static inline long long op_get_number(struct device *dev, const char *path, const char *key)
{
	struct err e;
	struct json_object *out = op_get(dev, path, &e), *value = NULL;
	long long n = -1;

	ASSERT(out);
	if (json_object_object_get_ex(out, key, &value) && value)
		n = json_object_get_int64(value);
	json_object_put(out);
	return n;
}

/* A counter of the device, by name. */
static inline u64 op_counter(struct device *dev, const char *name)
{
	const struct counter_desc *c = dev->cls->counters;

	while (strcmp(c->name, name) != 0)
		c++;
	return __atomic_load_n((u64 *)(void *)((char *)dev + c->offset), __ATOMIC_RELAXED);
}

/* The configuration of a device of the class, from JSON. NULL: refused. Free with free (no strings in it). */
static inline void *op_config(const struct device_class *cls, const char *text, struct err *e)
{
	const struct cfg_place at = {.origin = "test"};
	struct json_object *json = json_tokener_parse(text);
	void *cfg = xzalloc(cls->config->size);
	int ret = cfg_read_object(cls->config, json, cfg, &at, e);

	if (ret == 0 && cls->check)
		ret = cls->check(cfg, e);
	json_object_put(json);
	if (ret == 0)
		return cfg;
	free(cfg);
	return NULL;
}

#endif
