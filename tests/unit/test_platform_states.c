/* test_platform_states.c: platform devices go on in another VM where they were saved; made-up states are refused, or do no harm. */
#include "devtest.h"

#include <errno.h>
#include <time.h>

#include "vmm/config.h"
#include "vmm/state.h"

extern const struct device_class uart16550_class, i8042_class, rtc_cmos_class, vmgenid_class;

#define COM1	0x3f8
#define GUID_AT 0x9fc00
#define ROUNDS	3000u

static const struct dev_slot uart_slot = {.pio_base = COM1, .pio_len = 8, .gsi = 4, .has_gsi = true};
static const struct dev_slot i8042_slot = {.pio_base = 0x60, .pio_len = 5, .gsi = 1, .has_gsi = true};
static const struct dev_slot rtc_slot = {.pio_base = 0x70, .pio_len = 2};
static const struct dev_slot vmgenid_slot = {.mmio_base = GUID_AT, .mmio_len = 16, .gsi = 23, .has_gsi = true};

static struct devtest *make(const struct device_class *cls, const struct dev_slot *slot, enum vm_origin origin)
{
	struct devtest *t = devtest_new();
	char *cfg = cls->config ? xzalloc(cls->config->size) : NULL;
	char null_end[] = "null", *mode = null_end;

	t->vm.origin = origin;
	if (cls == &uart16550_class)
		memcpy(cfg, &mode, sizeof(mode)); /* its first key */
	devtest_add(t, cls, cfg, slot);
	free(cfg);
	return t;
}

/* Through the bytes of a package. */
static int decode_and_check(struct device *dev, const struct device_state *st, const void *data, void *out, struct err *e)
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

static const struct device_state *only_state(const struct devtest *t)
{
	assert_non_null(t->dev->cls->states);
	assert_null(t->dev->cls->states[1]);
	return t->dev->cls->states[0];
}

static void move(struct devtest *from, struct devtest *to)
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
static void refused(struct devtest *t, void (*change)(void *data), const char *text)
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

static void put_number(const struct state_table *t, void *data, const char *name, u64 v)
{
	for (const struct state_field *f = t->fields; f->name; f++) {
		if (!strcmp(f->name, name))
			memcpy((char *)data + f->offset, &v, f->elem);
	}
}

/* ---- serial port ---- */

static void a_guest_that_waits_for_the_transmitter_gets_its_interrupt_after_a_restore(void **state)
{
	struct devtest *a = make(&uart16550_class, &uart_slot, VM_BOOTED), *b = make(&uart16550_class, &uart_slot, VM_RESTORED);

	(void)state;
	devtest_out(a, COM1 + 1, 0x02);
	assert_int_equal(devtest_in(a, COM1 + 2) & 0x0f, 0x02); /* the first one, taken back by looking */
	devtest_out(a, COM1, 'x');
	assert_true(a->level[4]);
	move(a, b);
	assert_true(b->level[4]);
	assert_int_equal(b->rises[4], 1);
	assert_int_equal(devtest_in(b, COM1 + 2) & 0x0f, 0x02);
	assert_false(b->level[4]);
	devtest_free(a);
	devtest_free(b);
}

/* As when the interrupt chip remembers the level, and the edge was lost. */
static void a_line_that_is_high_already_makes_an_edge(void **state)
{
	struct devtest *a = make(&uart16550_class, &uart_slot, VM_BOOTED), *b = make(&uart16550_class, &uart_slot, VM_RESTORED);

	(void)state;
	devtest_out(a, COM1 + 1, 0x02);
	b->level[4] = true;
	move(a, b);
	assert_true(b->level[4]);
	assert_int_equal(b->rises[4], 1);
	devtest_free(a);
	devtest_free(b);
}

static void the_port_keeps_its_registers_and_the_bytes_that_were_not_read(void **state)
{
	struct devtest *a = make(&uart16550_class, &uart_slot, VM_BOOTED), *b = make(&uart16550_class, &uart_slot, VM_RESTORED);

	(void)state;
	devtest_out(a, COM1 + 3, 0x80);
	devtest_out(a, COM1, 0x0c);
	devtest_out(a, COM1 + 1, 0x01);
	devtest_out(a, COM1 + 3, 0x1b);
	devtest_out(a, COM1 + 2, 0xc1);
	devtest_out(a, COM1 + 7, 0x5a);
	devtest_out(a, COM1 + 4, 0x10); /* loopback */
	for (u32 i = 0; i < 20; i++)
		devtest_out(a, COM1, (u8)(0x40 + i));
	assert_int_equal(devtest_in(a, COM1), 0x40);
	move(a, b);
	assert_int_equal(devtest_in(b, COM1 + 3), 0x1b);
	assert_int_equal(devtest_in(b, COM1 + 7), 0x5a);
	assert_int_equal(devtest_in(b, COM1 + 2) >> 6, 3);
	assert_int_equal(devtest_in(b, COM1 + 5), 0x63); /* data, overrun */
	for (u32 i = 1; i < 16; i++)
		assert_int_equal(devtest_in(b, COM1), 0x40 + i);
	assert_int_equal(devtest_in(b, COM1 + 5), 0x60);
	devtest_out(b, COM1 + 3, 0x80);
	assert_int_equal(devtest_in(b, COM1), 0x0c);
	assert_int_equal(devtest_in(b, COM1 + 1), 0x01);
	devtest_free(a);
	devtest_free(b);
}

static void uart_bad_fcr(void *data)
{
	put_number(uart16550_class.states[0]->table, data, "fcr", 0x10);
}

static void uart_overfull(void *data)
{
	put_number(uart16550_class.states[0]->table, data, "rx_count", 2); /* with the FIFO off there is room for one */
}

static void uart_bad_head(void *data)
{
	put_number(uart16550_class.states[0]->table, data, "rx_head", 16);
}

static void impossible_states_of_the_port_are_refused(void **state)
{
	struct devtest *t = make(&uart16550_class, &uart_slot, VM_RESTORED);

	(void)state;
	refused(t, uart_bad_fcr, "fcr");
	refused(t, uart_overfull, "rx_count");
	refused(t, uart_bad_head, "rx_head");
	devtest_free(t);
}

/* ---- keyboard controller ---- */

static void keys_that_were_not_read_and_a_command_that_waits_survive(void **state)
{
	static const u8 codes[] = {0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14};
	struct devtest *a = make(&i8042_class, &i8042_slot, VM_BOOTED), *b = make(&i8042_class, &i8042_slot, VM_RESTORED);

	(void)state;
	assert_int_equal(i8042_class.ops[0].update(a->dev, NULL, NULL), 0);
	assert_int_equal(devtest_in(a, 0x60), codes[0]);
	devtest_out(a, 0x64, 0x60); /* write the command byte: its value is still to come */
	move(a, b);
	assert_true(b->level[1]);
	for (u32 i = 1; i < ARRAY_SIZE(codes); i++)
		assert_int_equal(devtest_in(b, 0x60), codes[i]);
	assert_false(b->level[1]);
	assert_int_equal(b->rises[1], ARRAY_SIZE(codes) - 1);
	devtest_out(b, 0x60, 0x45);
	devtest_out(b, 0x64, 0x20);
	assert_int_equal(devtest_in(b, 0x60), 0x45);
	devtest_free(a);
	devtest_free(b);
}

static void i8042_bad_head(void *data)
{
	put_number(i8042_class.states[0]->table, data, "head", 16);
}

static void i8042_overfull(void *data)
{
	put_number(i8042_class.states[0]->table, data, "count", 17);
}

static void impossible_states_of_the_keyboard_are_refused(void **state)
{
	struct devtest *t = make(&i8042_class, &i8042_slot, VM_RESTORED);

	(void)state;
	refused(t, i8042_bad_head, "head");
	refused(t, i8042_overfull, "count");
	devtest_free(t);
}

/* ---- clock ---- */

static u8 cmos(struct devtest *t, u8 reg)
{
	devtest_out(t, 0x70, reg);
	return devtest_in(t, 0x71);
}

static void set_cmos(struct devtest *t, u8 reg, u8 val)
{
	devtest_out(t, 0x70, reg);
	devtest_out(t, 0x71, val);
}

static u8 minute(struct devtest *t)
{
	cmos(t, 10); /* takes the time anew */
	return cmos(t, 2);
}

static void the_clock_keeps_its_distance_to_the_hosts_and_its_bytes(void **state)
{
	struct devtest *a = make(&rtc_cmos_class, &rtc_slot, VM_BOOTED), *b = make(&rtc_cmos_class, &rtc_slot, VM_RESTORED);
	u8 year = cmos(a, 9);

	(void)state;
	set_cmos(a, 9, (u8)(year ^ 0x10)); /* ten years off */
	set_cmos(a, 0x40, 0x77);
	devtest_out(a, 0x70, 0x40);
	move(a, b);
	assert_int_equal(devtest_in(b, 0x71), 0x77); /* the index, too */
	assert_int_equal(cmos(b, 9), year ^ 0x10);
	for (u32 i = 0; i < 3 && minute(a) != minute(b); i++)
		;
	assert_int_equal(minute(a), minute(b));
	devtest_free(a);
	devtest_free(b);
}

static void a_guest_that_sets_the_clock_goes_on_setting_it(void **state)
{
	struct devtest *a = make(&rtc_cmos_class, &rtc_slot, VM_BOOTED), *b = make(&rtc_cmos_class, &rtc_slot, VM_RESTORED);

	(void)state;
	set_cmos(a, 11, 0x82);
	set_cmos(a, 9, 0x42);
	set_cmos(a, 8, 0x05);
	move(a, b);
	assert_int_equal(cmos(b, 9), 0x42);
	set_cmos(b, 7, 0x17);
	set_cmos(b, 11, 0x02);
	assert_int_equal(cmos(b, 9), 0x42);
	assert_int_equal(cmos(b, 8), 0x05);
	assert_int_equal(cmos(b, 7), 0x17);
	devtest_free(a);
	devtest_free(b);
}

static void rtc_bad_index(void *data)
{
	put_number(rtc_cmos_class.states[0]->table, data, "index", 128);
}

static void rtc_far_off(void *data)
{
	put_number(rtc_cmos_class.states[0]->table, data, "offset", INT64_MAX);
}

static void rtc_long_ago(void *data)
{
	put_number(rtc_cmos_class.states[0]->table, data, "offset", (u64)INT64_MIN);
}

static void impossible_states_of_the_clock_are_refused(void **state)
{
	struct devtest *t = make(&rtc_cmos_class, &rtc_slot, VM_RESTORED);

	(void)state;
	refused(t, rtc_bad_index, "index");
	refused(t, rtc_far_off, "offset");
	refused(t, rtc_long_ago, "offset");
	devtest_free(t);
}

/* ---- generation ID ---- */

static void fill_id(struct devtest *t, u8 value)
{
	memset(mem_ptr(&t->vm.mem, GUID_AT, 16), value, 16);
}

static bool id_is(struct devtest *t, u8 value)
{
	const u8 *id = mem_ptr(&t->vm.mem, GUID_AT, 16);

	return id[0] == value && !memcmp(id, id + 1, 15);
}

/* The memory of a restored VM is there before its devices are made. */
static struct devtest *make_vmgenid(enum vm_origin origin, bool keep)
{
	static const struct vm_restore restores[] = {{.origin = VM_RESTORED}, {.origin = VM_RESTORED, .keep_generation = true}};
	struct devtest *t = devtest_new();
	struct err e;

	t->vm.origin = origin;
	t->vm.restore = &restores[keep];
	fill_id(t, 0x55);
	assert_int_equal(mem_track(&t->vm.mem, true, &e), 0);
	devtest_add(t, &vmgenid_class, NULL, &vmgenid_slot);
	return t;
}

static void a_restored_vm_gets_a_new_id_when_it_runs_and_is_told_once(void **state)
{
	struct devtest *t = make_vmgenid(VM_RESTORED, false);
	u64 dirty[4] = {0};

	(void)state;
	assert_true(id_is(t, 0x55));
	assert_int_equal(t->rises[23], 0);
	vmgenid_class.resume(t->dev);
	assert_false(id_is(t, 0x55));
	assert_int_equal(t->rises[23], 1);
	mem_track_collect(&t->vm.mem.regions[0], dirty);
	assert_true(dirty[(GUID_AT >> 12) / 64] >> (GUID_AT >> 12) % 64 & 1);
	fill_id(t, 0x66);
	vmgenid_class.resume(t->dev); /* after a later pause */
	assert_true(id_is(t, 0x66));
	assert_int_equal(t->rises[23], 1);
	devtest_free(t);
}

static void two_restores_of_one_vm_get_different_ids(void **state)
{
	struct devtest *a = make_vmgenid(VM_RESTORED, false), *b = make_vmgenid(VM_RESTORED, false);

	(void)state;
	vmgenid_class.resume(a->dev);
	vmgenid_class.resume(b->dev);
	assert_memory_not_equal(mem_ptr(&a->vm.mem, GUID_AT, 16), mem_ptr(&b->vm.mem, GUID_AT, 16), 16);
	devtest_free(a);
	devtest_free(b);
}

static void a_vm_that_was_moved_keeps_its_id(void **state)
{
	struct devtest *t = make_vmgenid(VM_MOVED, false);

	(void)state;
	vmgenid_class.resume(t->dev);
	assert_true(id_is(t, 0x55));
	assert_int_equal(t->rises[23], 0);
	devtest_free(t);
}

static void a_vm_that_alone_goes_on_from_its_snapshot_can_keep_its_id(void **state)
{
	struct devtest *t = make_vmgenid(VM_RESTORED, true);

	(void)state;
	vmgenid_class.resume(t->dev);
	assert_true(id_is(t, 0x55));
	assert_int_equal(t->rises[23], 0);
	devtest_free(t);
}

static void a_vm_that_boots_has_its_id_at_once(void **state)
{
	struct devtest *t = make_vmgenid(VM_BOOTED, false);

	(void)state;
	assert_false(id_is(t, 0x55));
	fill_id(t, 0x66);
	vmgenid_class.resume(t->dev);
	assert_true(id_is(t, 0x66));
	assert_int_equal(t->rises[23], 0);
	devtest_free(t);
}

/* ---- whatever a state says ---- */

static u32 random_u32(u32 *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed;
}

/* Bytes of a state, of which some are any. */
static void spoil(const struct state_table *table, u8 *data, u32 *seed)
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

static void use(struct devtest *t, const struct dev_slot *slot, u32 *seed)
{
	for (u32 i = 0; i < 40; i++) {
		u16 port = (u16)(slot->pio_base + random_u32(seed) % slot->pio_len);

		if (random_u32(seed) % 2)
			devtest_in(t, port);
		else
			devtest_out(t, port, (u8)random_u32(seed));
	}
}

static void any_state_is_refused_or_the_device_goes_on(void **state)
{
	static const struct {
		const struct device_class *cls;
		const struct dev_slot *slot;
	} devices[] = {{&uart16550_class, &uart_slot}, {&i8042_class, &i8042_slot}, {&rtc_cmos_class, &rtc_slot}};
	u32 seed = 1;

	(void)state;
	for (u32 d = 0; d < ARRAY_SIZE(devices); d++) {
		struct devtest *t = make(devices[d].cls, devices[d].slot, VM_RESTORED);
		const struct device_state *st = only_state(t);
		auto_free u8 *data = xzalloc(st->table->size), *loaded = xzalloc(st->table->size);
		u32 taken = 0;
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
			use(t, devices[d].slot, &seed);
		}
		assert_in_range(taken, 1, ROUNDS - 1); /* else this tests little */
		devtest_free(t);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_guest_that_waits_for_the_transmitter_gets_its_interrupt_after_a_restore),
		cmocka_unit_test(a_line_that_is_high_already_makes_an_edge),
		cmocka_unit_test(the_port_keeps_its_registers_and_the_bytes_that_were_not_read),
		cmocka_unit_test(impossible_states_of_the_port_are_refused),
		cmocka_unit_test(keys_that_were_not_read_and_a_command_that_waits_survive),
		cmocka_unit_test(impossible_states_of_the_keyboard_are_refused),
		cmocka_unit_test(the_clock_keeps_its_distance_to_the_hosts_and_its_bytes),
		cmocka_unit_test(a_guest_that_sets_the_clock_goes_on_setting_it),
		cmocka_unit_test(impossible_states_of_the_clock_are_refused),
		cmocka_unit_test(a_restored_vm_gets_a_new_id_when_it_runs_and_is_told_once),
		cmocka_unit_test(two_restores_of_one_vm_get_different_ids),
		cmocka_unit_test(a_vm_that_was_moved_keeps_its_id),
		cmocka_unit_test(a_vm_that_alone_goes_on_from_its_snapshot_can_keep_its_id),
		cmocka_unit_test(a_vm_that_boots_has_its_id_at_once),
		cmocka_unit_test(any_state_is_refused_or_the_device_goes_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
