/* test_pit.c: counters, latches and outputs of the 8254, port 0x61, and the interrupt of channel 0. */
#include "chips_rig.h"

#define TICKS(n) ((u64)(n)*NSEC_PER_SEC / PIT_HZ + 1) /* ns in which n clocks have gone */

static void program(struct rig *r, u32 channel, u8 mode, u16 count)
{
	rig_out(r, 0x43, (u8)(channel << 6 | 0x30 | mode << 1));
	rig_out(r, (u16)(0x40 + channel), (u8)count);
	rig_out(r, (u16)(0x40 + channel), (u8)(count >> 8));
}

static u16 read_count(struct rig *r, u32 channel)
{
	u8 low = rig_in(r, (u16)(0x40 + channel));

	return (u16)(low | rig_in(r, (u16)(0x40 + channel)) << 8);
}

/* A turn of the loop: what vCPUs posted to it and what has expired. The timer waits for real time, the VM's clock does not. */
static void turn(struct rig *r)
{
	for (u32 i = 0; i < 3; i++)
		loop_turn(&r->vm.loop, 30);
}

static void a_counter_counts_down_with_the_clock(void **state)
{
	struct rig *r = *state;

	program(r, 0, 2, 10000);
	assert_int_equal(read_count(r, 0), 10000);
	rig_advance(r, TICKS(1));
	assert_int_equal(read_count(r, 0), 9999);
	rig_advance(r, TICKS(9998));
	assert_int_equal(read_count(r, 0), 1);
	rig_advance(r, TICKS(1));
	assert_int_equal(read_count(r, 0), 10000); /* and begins again */
	program(r, 1, 0, 100);
	rig_advance(r, TICKS(101));
	assert_int_equal(read_count(r, 1), 0xffff); /* one-shot counters wrap */
	program(r, 1, 3, 100);
	rig_advance(r, TICKS(10));
	assert_int_equal(read_count(r, 1), 80); /* by two */
}

static void a_count_of_zero_is_65536(void **state)
{
	struct rig *r = *state;

	program(r, 0, 2, 0);
	rig_advance(r, TICKS(1));
	assert_int_equal(read_count(r, 0), 0xffff);
	rig_advance(r, TICKS(65535));
	assert_int_equal(read_count(r, 0), 0);
}

static void a_year_later_the_count_is_still_exact(void **state)
{
	struct rig *r = *state;

	program(r, 0, 2, 1000);
	rig_advance(r, 31536000ull * NSEC_PER_SEC);
	assert_int_equal(read_count(r, 0), 1000 - 31536000ull * PIT_HZ % 1000);
}

static void a_latched_count_stands_until_it_is_read(void **state)
{
	struct rig *r = *state;

	program(r, 0, 2, 0x1234);
	rig_out(r, 0x43, 0x00);
	rig_advance(r, TICKS(5));
	rig_out(r, 0x43, 0x00); /* a second latch is ignored */
	assert_int_equal(rig_in(r, 0x40), 0x34);
	rig_advance(r, TICKS(5));
	assert_int_equal(rig_in(r, 0x40), 0x12);
	assert_int_equal(read_count(r, 0), 0x1234 - 10);
}

static void single_byte_modes_read_and_write_their_half(void **state)
{
	struct rig *r = *state;

	rig_out(r, 0x43, 0x14); /* low byte, mode 2 */
	rig_out(r, 0x40, 200);
	assert_int_equal(rig_in(r, 0x40), 200);
	rig_advance(r, TICKS(50));
	assert_int_equal(rig_in(r, 0x40), 150);
	rig_out(r, 0x43, 0x24); /* high byte */
	rig_out(r, 0x40, 2);
	rig_advance(r, TICKS(1));
	assert_int_equal(rig_in(r, 0x40), 1);
	assert_int_equal(rig_in(r, 0x40), 1);
}

static void bcd_counts_in_decimal(void **state)
{
	struct rig *r = *state;

	rig_out(r, 0x43, 0x35);
	rig_out(r, 0x40, 0x00);
	rig_out(r, 0x40, 0x10); /* 1000 */
	rig_advance(r, TICKS(1));
	assert_int_equal(read_count(r, 0), 0x0999);
	rig_out(r, 0x43, 0x31); /* mode 0, count 0: 10000 */
	rig_out(r, 0x40, 0);
	rig_out(r, 0x40, 0);
	assert_int_equal(read_count(r, 0), 0);
	rig_advance(r, TICKS(2));
	assert_int_equal(read_count(r, 0), 0x9998);
}

static void read_back_latches_status_and_count_of_several_channels(void **state)
{
	struct rig *r = *state;

	program(r, 0, 2, 0x1234);
	program(r, 1, 0, 0x2222);
	rig_out(r, 0x43, 0xc6); /* both, of channels 0 and 1 */
	rig_advance(r, TICKS(100));
	assert_int_equal(rig_in(r, 0x40), 0x80 | 0x30 | 2 << 1); /* status first: output high */
	assert_int_equal(read_count(r, 0), 0x1234);
	assert_int_equal(rig_in(r, 0x41), 0x30);
	assert_int_equal(read_count(r, 1), 0x2222);
	rig_out(r, 0x43, 0xe8); /* status of channel 2 alone: not programmed yet */
	assert_int_equal(rig_in(r, 0x42) & 0x40, 0x40);
	rig_out(r, 0x43, 0xd2); /* count of channel 0 alone */
	assert_int_equal(read_count(r, 0), 0x1234 - 100);
}

static void the_status_says_whether_the_count_has_been_loaded(void **state)
{
	struct rig *r = *state;

	rig_out(r, 0x43, 0x70); /* channel 1, mode 0 */
	rig_out(r, 0x43, 0xe4);
	assert_int_equal(rig_in(r, 0x41), 0x40 | 0x30);
	rig_out(r, 0x41, 10);
	rig_out(r, 0x43, 0xe4);
	assert_int_equal(rig_in(r, 0x41) & 0x40, 0x40); /* one byte of two */
	rig_out(r, 0x41, 0);
	rig_out(r, 0x43, 0xe4);
	assert_int_equal(rig_in(r, 0x41), 0x30);
	rig_advance(r, TICKS(10));
	rig_out(r, 0x43, 0xe4);
	assert_int_equal(rig_in(r, 0x41), 0x80 | 0x30);
}

/* Linux' pit_calibrate_tsc and quick_pit_calibrate. */
static void a_guest_times_itself_with_channel_2(void **state)
{
	struct rig *r = *state;

	rig_out(r, 0x61, (rig_in(r, 0x61) & ~0x02) | 0x01);
	program(r, 2, 0, 11931); /* 10 ms */
	assert_int_equal(rig_in(r, 0x61) & 0x23, 0x01);
	rig_advance(r, 9 * NSEC_PER_MSEC);
	assert_int_equal(rig_in(r, 0x61) & 0x20, 0);
	rig_advance(r, NSEC_PER_MSEC);
	assert_int_equal(rig_in(r, 0x61) & 0x20, 0x20);
	program(r, 2, 0, 0xffff);
	assert_int_equal(rig_in(r, 0x61) & 0x20, 0);
	rig_in(r, 0x42);
	rig_advance(r, TICKS(0x100));
	assert_int_equal(rig_in(r, 0x42), 0xfe);
}

static void the_gate_stops_and_starts_channel_2(void **state)
{
	struct rig *r = *state;

	program(r, 2, 0, 1000);
	rig_advance(r, TICKS(500));
	assert_int_equal(read_count(r, 2), 1000); /* the gate is low after reset */
	rig_out(r, 0x61, 1);
	rig_advance(r, TICKS(300));
	assert_int_equal(read_count(r, 2), 700);
	rig_out(r, 0x61, 0);
	rig_advance(r, TICKS(300));
	assert_int_equal(read_count(r, 2), 700);
	rig_out(r, 0x61, 3);
	assert_int_equal(rig_in(r, 0x61) & 3, 3);
	rig_advance(r, TICKS(300));
	assert_int_equal(read_count(r, 2), 400);
	program(r, 2, 2, 1000);
	rig_advance(r, TICKS(300));
	rig_out(r, 0x61, 0);
	rig_out(r, 0x61, 1); /* the rising edge reloads */
	assert_int_equal(read_count(r, 2), 1000);
}

static void mode_1_waits_for_the_gate(void **state)
{
	struct rig *r = *state;

	program(r, 2, 1, 1000);
	rig_advance(r, TICKS(5000));
	assert_int_equal(rig_in(r, 0x61) & 0x20, 0x20);
	rig_out(r, 0x61, 1);
	assert_int_equal(rig_in(r, 0x61) & 0x20, 0);
	rig_out(r, 0x61, 0); /* does not stop it */
	rig_advance(r, TICKS(999));
	assert_int_equal(rig_in(r, 0x61) & 0x20, 0);
	rig_advance(r, TICKS(1));
	assert_int_equal(rig_in(r, 0x61) & 0x20, 0x20);
}

static void the_square_wave_is_high_for_the_first_half(void **state)
{
	struct rig *r = *state;

	rig_out(r, 0x61, 1);
	program(r, 2, 7, 1001); /* 7 is 3 */
	assert_int_equal(rig_in(r, 0x61) & 0x20, 0x20);
	rig_advance(r, TICKS(500));
	assert_int_equal(rig_in(r, 0x61) & 0x20, 0x20);
	rig_advance(r, TICKS(1));
	assert_int_equal(rig_in(r, 0x61) & 0x20, 0);
	rig_advance(r, TICKS(499));
	assert_int_equal(rig_in(r, 0x61) & 0x20, 0);
	rig_advance(r, TICKS(1));
	assert_int_equal(rig_in(r, 0x61) & 0x20, 0x20);
}

static void the_refresh_bit_toggles(void **state)
{
	struct rig *r = *state;
	u8 first = rig_in(r, 0x61) & 0x10;

	rig_advance(r, 1 << 14);
	assert_int_equal(rig_in(r, 0x61) & 0x10, first ^ 0x10);
}

static void channel_0_interrupts_each_period(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);

	rig_route(r, 0, 0x30, 0);
	program(r, 0, 2, 11932);
	turn(r);
	assert_int_equal(lapic_pending(l), -1);
	for (u32 i = 0; i < 3; i++) {
		rig_advance(r, TICKS(11932));
		turn(r);
		rig_take(l, 0x30);
		rig_eoi(l);
		turn(r);
		assert_int_equal(lapic_pending(l), -1);
	}
	rig_advance(r, TICKS(11932) * 7); /* late: one interrupt for all */
	turn(r);
	rig_take(l, 0x30);
	rig_eoi(l);
	turn(r);
	assert_int_equal(lapic_pending(l), -1);
}

static void a_one_shot_of_channel_0_interrupts_once(void **state)
{
	struct rig *r = *state;
	struct lapic *l = rig_enable(r, 0);

	rig_route(r, 0, 0x30, 0);
	program(r, 0, 0, 1000);
	turn(r);
	rig_advance(r, TICKS(1000) - 2000);
	turn(r);
	assert_int_equal(lapic_pending(l), -1);
	rig_advance(r, 2000);
	turn(r);
	rig_take(l, 0x30);
	rig_eoi(l);
	rig_advance(r, NSEC_PER_SEC);
	turn(r);
	assert_int_equal(lapic_pending(l), -1);
	program(r, 0, 0, 1000);
	rig_out(r, 0x43, 0x30); /* a new mode stops it */
	rig_advance(r, NSEC_PER_SEC);
	turn(r);
	assert_int_equal(lapic_pending(l), -1);
}

static void a_guest_cannot_keep_the_loop_busy_with_a_count_of_one(void **state)
{
	struct rig *r = *state;
	u64 until;
	u32 turns = 0;

	program(r, 0, 2, 1);
	r->vm.clock = (struct clock){.base_ns = clock_host_ns() - RIG_START};
	until = clock_host_ns() + 50 * NSEC_PER_MSEC;
	for (; clock_host_ns() < until; turns++)
		loop_turn(&r->vm.loop, 10);
	assert_true(turns < 200);
}

static void other_accesses_do_nothing(void **state)
{
	struct rig *r = *state;
	u32 v = 0x34343434;

	program(r, 0, 2, 1000);
	bus_write(&r->vm, BUS_PIO, 0x40, &v, 4);
	assert_int_equal(read_count(r, 0), 1000);
	assert_int_equal(rig_in(r, 0x43), 0);
	assert_int_equal(read_count(r, 0), 1000);
}

#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_counter_counts_down_with_the_clock),
		T(a_count_of_zero_is_65536),
		T(a_year_later_the_count_is_still_exact),
		T(a_latched_count_stands_until_it_is_read),
		T(single_byte_modes_read_and_write_their_half),
		T(bcd_counts_in_decimal),
		T(read_back_latches_status_and_count_of_several_channels),
		T(the_status_says_whether_the_count_has_been_loaded),
		T(a_guest_times_itself_with_channel_2),
		T(the_gate_stops_and_starts_channel_2),
		T(mode_1_waits_for_the_gate),
		T(the_square_wave_is_high_for_the_first_half),
		T(the_refresh_bit_toggles),
		T(channel_0_interrupts_each_period),
		T(a_one_shot_of_channel_0_interrupts_once),
		T(a_guest_cannot_keep_the_loop_busy_with_a_count_of_one),
		T(other_accesses_do_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
