/*
 * saved.h: a device's state out of one VM and into another one with the same memory, as a snapshot does it: through the bytes.
 *
 *   struct saved s;
 *   saved_take(&s, &a, dev_a, &e);           quiesce, save, copy the memory; on a's loop. saved_resume lets a go on
 *   fake_vm_fini(&a);                        or not
 *   saved_memory(&s, &b);
 *   saved_put(&s, &b, dev_b, &e);            to bytes and back, check all, load all
 *   fdrv_move(&driver, &b, dev_b);
 *   saved_resume(&b, dev_b);                 as when a restored VM starts
 *   saved_free(&s);
 */
#ifndef HUSK_TESTS_SAVED_H
#define HUSK_TESTS_SAVED_H

#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

#include "tests/dev/fake_driver.h"
#include "vmm/state.h"

#define SAVED_MAX 4u

struct saved {
	u32 nr;
	void *data[SAVED_MAX]; /* owned; struct of the class's states[i], for tests that change it */
	void *memory;	       /* owned; what fake_vm_alloc had given out */
	u64 memory_len;
};

struct saved_call {
	struct loop_work work;
	struct saved *s;
	struct device *dev;
	struct err *e;
	unsigned *seed; /* not NULL: a few bytes of each section are changed on the way */
	int ret;
	sem_t done;
	void (*run)(struct saved_call *c);
};

static inline void saved_run(struct loop_work *w)
{
	struct saved_call *c = container_of(w, struct saved_call, work);

	c->run(c);
	sem_post(&c->done);
}

/* On the loop thread, or here when that does not run yet. */
static inline int saved_on_loop(struct fake_vm *f, struct saved_call *c)
{
	c->work.run = saved_run;
	sem_init(&c->done, 0, 0);
	if (f->running)
		loop_post(&f->vm.loop, &c->work);
	else
		saved_run(&c->work);
	sem_wait(&c->done);
	sem_destroy(&c->done);
	return c->ret;
}

static inline void saved_free(struct saved *s)
{
	for (u32 i = 0; i < s->nr; i++)
		free(s->data[i]);
	free(s->memory);
	*s = (struct saved){0};
}

static inline void saved_do_take(struct saved_call *c)
{
	struct fake_vm *f = container_of(c->dev->vm, struct fake_vm, vm);
	const struct device_class *cls = c->dev->cls;

	*c->s = (struct saved){0};
	if (cls->quiesce)
		cls->quiesce(c->dev);
	for (; c->ret == 0 && cls->states[c->s->nr]; c->s->nr++) {
		const struct device_state *st = cls->states[c->s->nr];

		ASSERT(c->s->nr < SAVED_MAX);
		c->s->data[c->s->nr] = xzalloc(st->table->size);
		c->ret = st->save(c->dev, c->s->data[c->s->nr], c->e);
	}
	c->s->memory_len = f->next_gpa;
	c->s->memory = xzalloc(f->next_gpa);
	memcpy(c->s->memory, fake_vm_ptr(f, 0, f->next_gpa), f->next_gpa);
}

/* The device stays quiesced. */
static inline int saved_take(struct saved *s, struct fake_vm *f, struct device *dev, struct err *e)
{
	return saved_on_loop(f, &(struct saved_call){.s = s, .dev = dev, .e = e, .run = saved_do_take});
}

static inline void saved_change(struct buf *bytes, unsigned *seed)
{
	for (u32 n = (u32)rand_r(seed) % 4; n; n--) {
		u8 *at = bytes->data + (u32)rand_r(seed) % bytes->len;

		*at = rand_r(seed) & 1 ? (u8)rand_r(seed) : *at ^ (u8)(1u << rand_r(seed) % 8);
	}
}

/* There and back through the bytes; what comes out is what went in, unless it is changed. */
static inline int saved_recode(const struct state_table *t, const void *data, void *out, unsigned *seed, struct err *e)
{
	struct buf bytes = {0}, again = {0};
	int ret;

	state_encode(t, data, &bytes);
	if (seed)
		saved_change(&bytes, seed);
	ret = state_decode(t, t->version, bytes.data, bytes.len, out, e);
	if (ret == 0) {
		state_encode(t, out, &again);
		ASSERT(again.len == bytes.len && !memcmp(again.data, bytes.data, bytes.len));
	}
	buf_fini(&bytes);
	buf_fini(&again);
	return ret;
}

static inline void saved_do_put(struct saved_call *c)
{
	const struct device_class *cls = c->dev->cls;
	void *data[SAVED_MAX] = {0};

	for (u32 i = 0; i < c->s->nr; i++)
		data[i] = xzalloc(cls->states[i]->table->size);
	for (u32 i = 0; c->ret == 0 && i < c->s->nr; i++)
		c->ret = saved_recode(cls->states[i]->table, c->s->data[i], data[i], c->seed, c->e);
	for (u32 i = 0; c->ret == 0 && i < c->s->nr; i++)
		c->ret = cls->states[i]->check ? cls->states[i]->check(c->dev, data[i], c->e) : 0;
	for (u32 i = 0; c->ret == 0 && i < c->s->nr; i++)
		cls->states[i]->load(c->dev, data[i]);
	for (u32 i = 0; i < c->s->nr; i++)
		free(data[i]);
}

/* 0, or refused and nothing changed. */
static inline int saved_put(const struct saved *s, struct fake_vm *f, struct device *dev, struct err *e)
{
	return saved_on_loop(f, &(struct saved_call){.s = (struct saved *)s, .dev = dev, .e = e, .run = saved_do_put});
}

/* The same with a few bytes changed. */
static inline int saved_put_changed(const struct saved *s, struct fake_vm *f, struct device *dev, unsigned *seed)
{
	return saved_on_loop(f, &(struct saved_call){.s = (struct saved *)s, .dev = dev, .seed = seed, .run = saved_do_put});
}

static inline void saved_do_quiesce(struct saved_call *c)
{
	if (c->dev->cls->quiesce)
		c->dev->cls->quiesce(c->dev);
}

static inline void saved_quiesce(struct fake_vm *f, struct device *dev)
{
	saved_on_loop(f, &(struct saved_call){.dev = dev, .run = saved_do_quiesce});
}

static inline void saved_do_resume(struct saved_call *c)
{
	saved_do_quiesce(c);
	if (c->dev->cls->resume)
		c->dev->cls->resume(c->dev);
}

static inline void saved_resume(struct fake_vm *f, struct device *dev)
{
	saved_on_loop(f, &(struct saved_call){.dev = dev, .run = saved_do_resume});
}

/* Before anything is allocated in f, which goes on behind it. */
static inline void saved_memory(const struct saved *s, struct fake_vm *f)
{
	memcpy(fake_vm_ptr(f, 0, s->memory_len), s->memory, s->memory_len);
	f->next_gpa = s->memory_len;
}

/* The driver lives on in another VM. */
static inline void fdrv_move(struct fdrv *d, struct fake_vm *f, struct device *dev)
{
	d->f = f;
	d->dev = dev;
	d->base = dev->slot.mmio_base;
	d->gsi = dev->slot.gsi;
	for (u32 i = 0; i < VIRTIO_MAX_QUEUES; i++) {
		struct fdrv_queue *q = &d->q[i];

		if (!q->size)
			continue;
		q->desc = mem_ptr(&f->vm.mem, q->desc_gpa, 1);
		q->driver = mem_ptr(&f->vm.mem, q->driver_gpa, 1);
		q->device = mem_ptr(&f->vm.mem, q->device_gpa, 1);
	}
}

/* Loads states that somebody made up of the saved one, as often as that; what is accepted runs, with both sides at work. How many were. */
static inline u32 saved_torment(const struct saved *s, struct fdrv *d, u16 nr_queues, u32 times)
{
	unsigned seed = 11;
	u32 accepted = 0;

	for (u32 i = 0; i < times; i++) {
		saved_quiesce(d->f, d->dev);
		if (saved_put_changed(s, d->f, d->dev, &seed) < 0)
			continue;
		accepted++;
		saved_resume(d->f, d->dev);
		for (u16 q = 0; q < nr_queues; q++)
			fdrv_notify(d, q);
		fdrv_sync(d);
	}
	saved_resume(d->f, d->dev);
	return accepted;
}

#endif
