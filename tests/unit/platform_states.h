/*
 * platform_states.h: the state of one platform device, taken to another VM or spoiled: for tests of devices and their states. Include once,
 * in a test's only file.
 */
#ifndef HUSK_TEST_PLATFORM_STATES_H
#define HUSK_TEST_PLATFORM_STATES_H

#include "devtest.h"

#include <errno.h>

#include "vmm/config.h"
#include "vmm/state.h"

#define ROUNDS 3000u

static inline struct devtest *make(const struct device_class *cls, const struct dev_slot *slot, enum vm_origin origin)
{
	struct devtest *t = devtest_new();
	char *cfg = cls->config ? xzalloc(cls->config->size) : NULL;
	char null_end[] = "null", *mode = null_end;

	t->vm.origin = origin;
	if (!strcmp(cls->name, "uart16550"))
		memcpy(cfg, &mode, sizeof(mode)); /* its first key */
	devtest_add(t, cls, cfg, slot);
	free(cfg);
	return t;
}

/* Through the bytes of a package. */
static inline int decode_and_check(struct device *dev, const struct device_state *st, const void *data, void *out, struct err *e)
{
	struct buf bytes = {0};
	int ret;

	state_encode(st->table, data, &bytes);
	ret = state_decode(st->table, st->table->version, bytes.data, bytes.len, out, e);
	if (ret == 0 && st->check)
		ret = st->check(dev, out, e);
	buf_fini(&bytes);
	return ret;
}

static inline const struct device_state *only_state(const struct devtest *t)
{
	assert_non_null(t->dev->cls->states);
	assert_null(t->dev->cls->states[1]);
	return t->dev->cls->states[0];
}

static inline void move(struct devtest *from, struct devtest *to)
{
	const struct device_state *st = only_state(from);
	auto_free void *data = xzalloc(st->table->size), *loaded = xzalloc(st->table->size), *again = xzalloc(st->table->size);
	struct buf a = {0}, b = {0};
	struct err e = {0};

	assert_int_equal(st->save(from->dev, data, &e), 0);
	if (decode_and_check(to->dev, st, data, loaded, &e) < 0)
		fail_msg("%s", e.msg);
	st->load(to->dev, loaded);
	assert_int_equal(st->save(to->dev, again, &e), 0);
	state_encode(st->table, data, &a);
	state_encode(st->table, again, &b);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	buf_fini(&a);
	buf_fini(&b);
}

/* The state after change() is refused, with a message that has text in it. */
static inline void refused(struct devtest *t, void (*change)(void *data), const char *text)
{
	const struct device_state *st = only_state(t);
	auto_free void *data = xzalloc(st->table->size), *loaded = xzalloc(st->table->size);
	struct err e = {0};

	assert_int_equal(st->save(t->dev, data, &e), 0);
	change(data);
	assert_int_equal(decode_and_check(t->dev, st, data, loaded, &e), -EINVAL);
	if (!strstr(e.msg, text))
		fail_msg("\"%s\" does not say \"%s\"", e.msg, text);
}

static inline void put_number(const struct state_table *t, void *data, const char *name, u64 v)
{
	for (const struct state_field *f = t->fields; f->name; f++) {
		if (!strcmp(f->name, name))
			memcpy((char *)data + f->offset, &v, f->elem);
	}
}

static inline u32 random_u32(u32 *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed;
}

/* Bytes of a state, of which some are any. */
static inline void spoil(const struct state_table *table, u8 *data, u32 *seed)
{
	for (const struct state_field *f = table->fields; f->name; f++) {
		for (u32 i = 0; i < f->count * f->elem; i++) {
			if (random_u32(seed) % 8 == 0)
				data[f->offset + i] = (u8)(f->type == STATE_BOOL ? random_u32(seed) & 1 : random_u32(seed));
			else if (random_u32(seed) % 4 == 0)
				data[f->offset + i] = (u8)(f->type == STATE_BOOL ? 0 : random_u32(seed) % 4);
		}
	}
}

static inline void use(struct devtest *t, const struct dev_slot *slot, u32 *seed)
{
	for (u32 i = 0; i < 40; i++) {
		bool pio = slot->pio_len;
		u64 at = pio ? slot->pio_base + random_u32(seed) % slot->pio_len
			     : slot->mmio_base + 4 * (random_u32(seed) % (slot->mmio_len / 4));
		u32 value = random_u32(seed);

		if (value % 2)
			bus_read(&t->vm, pio ? BUS_PIO : BUS_MMIO, at, &value, pio ? 1 : 4);
		else
			bus_write(&t->vm, pio ? BUS_PIO : BUS_MMIO, at, &value, pio ? 1 : 4);
	}
}

/* Made-up states, as many as ROUNDS: each is refused, or the device goes on with it. Some are taken, some not: else this tests little. */
static inline void spoil_states(const struct device_class *cls, const struct dev_slot *slot)
{
	struct devtest *t = make(cls, slot, VM_RESTORED);
	const struct device_state *st = only_state(t);
	auto_free u8 *data = xzalloc(st->table->size), *loaded = xzalloc(st->table->size);
	u32 seed = 1, taken = 0;
	struct err e;

	t->log.level = LOG_OFF;
	for (u32 i = 0; i < ROUNDS; i++) {
		memset(data, 0, st->table->size);
		assert_int_equal(st->save(t->dev, data, &e), 0);
		spoil(st->table, data, &seed);
		if (decode_and_check(t->dev, st, data, loaded, &e) == 0) {
			st->load(t->dev, loaded);
			taken++;
		}
		use(t, slot, &seed);
	}
	assert_in_range(taken, 1, ROUNDS - 1);
	devtest_free(t);
}

#endif
