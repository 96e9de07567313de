/* test_platform_states.c: platform devices go on in another VM where they were saved; made-up states are refused, or do no harm. Those of
 * x86 machines: test_platform_states_x86.c, the clock of arm64's: test_rtc_pl031.c. */
#include "platform_states.h"

extern const struct device_class uart16550_class, vmgenid_class;

#define COM1	0x3f8
#define GUID_AT 0x9fc00

static const struct dev_slot uart_slot = {.pio_base = COM1, .pio_len = 8, .gsi = 4, .has_gsi = true};
static const struct dev_slot vmgenid_slot = {.mmio_base = GUID_AT, .mmio_len = 16, .gsi = 23, .has_gsi = true};

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

static void any_state_is_refused_or_the_device_goes_on(void **state)
{
	(void)state;
	spoil_states(&uart16550_class, &uart_slot);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_guest_that_waits_for_the_transmitter_gets_its_interrupt_after_a_restore),
		cmocka_unit_test(a_line_that_is_high_already_makes_an_edge),
		cmocka_unit_test(the_port_keeps_its_registers_and_the_bytes_that_were_not_read),
		cmocka_unit_test(impossible_states_of_the_port_are_refused),
		cmocka_unit_test(a_restored_vm_gets_a_new_id_when_it_runs_and_is_told_once),
		cmocka_unit_test(two_restores_of_one_vm_get_different_ids),
		cmocka_unit_test(a_vm_that_was_moved_keeps_its_id),
		cmocka_unit_test(a_vm_that_alone_goes_on_from_its_snapshot_can_keep_its_id),
		cmocka_unit_test(a_vm_that_boots_has_its_id_at_once),
		cmocka_unit_test(any_state_is_refused_or_the_device_goes_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
