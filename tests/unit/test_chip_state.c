/* test_chip_state.c: PICs, IOAPIC and PIT of the software accelerator, saved and loaded into others: what waits comes, what came does not.
 */
#include "chips_rig.h"

#include <errno.h>
#include <string.h>

#include "arch/x86_64/vm_state.h"

#define LEVEL 0x8000u
#define OPEN  0u
#define MASK  0x10000u

/* A second set of chips that has what the first has. */
static struct rig *moved(struct rig *from, struct x86_chips_state *s)
{
	struct cpu_state *cpu = xzalloc(sizeof(*cpu));
	struct rig *to;
	struct err e;
	void *state;

	rig_setup(&state);
	to = state;
	to->vm.clock = from->vm.clock;
	lapic_save(rig_lapic(from, 0), cpu);
	lapic_load(rig_lapic(to, 0), cpu);
	memset(s, 0, sizeof(*s));
	chips_save(from->ch, s);
	if (x86_chips_check(s, &e) < 0)
		fail_msg("%s", e.msg);
	chips_load(to->ch, s);
	free(cpu);
	return to;
}

static void end(struct rig *r)
{
	void *state = r;

	rig_teardown(&state);
}

static void expect_same(struct rig *a, const struct x86_chips_state *s)
{
	struct x86_chips_state again = {0};

	chips_save(a->ch, &again);
	assert_memory_equal(&again, s, sizeof(again));
}

static void what_was_loaded_saves_the_same(void **state)
{
	struct rig *r = *state, *to;
	struct x86_chips_state s;

	rig_out(r, 0x20, 0x11);
	rig_out(r, 0x21, 0x20); /* in the middle of the ICWs */
	rig_out(r, 0xa0, 0x0b); /* reads ISR */
	rig_out(r, 0x4d0, 0x20);
	rig_route(r, 7, LEVEL | 0x47, 3);
	rig_ioapic_write(r, 0, 5u << 24);
	rig_out(r, 0x43, 0x34);
	rig_out(r, 0x40, 0x10); /* one of two bytes */
	rig_out(r, 0x43, 0xb6);
	rig_out(r, 0x42, 0x00);
	rig_out(r, 0x42, 0x20);
	rig_out(r, 0x61, 3);
	rig_advance(r, 777777);
	rig_out(r, 0x43, 0xe8); /* latches count of channel 2 */
	rig_in(r, 0x42);
	to = moved(r, &s);
	expect_same(to, &s);
	assert_int_equal(rig_in(to, 0x42), rig_in(r, 0x42)); /* the high byte */
	assert_int_equal(rig_in(to, 0x61), rig_in(r, 0x61));
	rig_out(to, 0x40, 0x02);
	rig_out(r, 0x40, 0x02);
	rig_advance(r, 100000);
	rig_advance(to, 100000);
	assert_int_equal(rig_in(to, 0x40), rig_in(r, 0x40));
	rig_out(to, 0x21, 0x04);
	rig_out(r, 0x21, 0x04);
	rig_out(to, 0x21, 0x01);
	rig_out(r, 0x21, 0x01);
	rig_out(to, 0x21, 0xfe);
	rig_out(r, 0x21, 0xfe);
	chips_save(r->ch, &s);
	expect_same(to, &s);
	end(to);
}

static void a_level_that_is_up_comes_once_and_again_after_its_eoi(void **state)
{
	struct rig *r = *state, *to, *back;
	struct x86_chips_state s;

	rig_enable(r, 0);
	rig_route(r, 7, LEVEL | MASK | 0x47, 0);
	chips_set_irq(r->ch, 7, true);
	to = moved(r, &s);
	assert_int_equal(lapic_pending(rig_lapic(to, 0)), -1);
	rig_route(to, 7, LEVEL | OPEN | 0x47, 0); /* opened after the move: the line is still up */
	rig_take(rig_lapic(to, 0), 0x47);
	back = moved(to, &s); /* in service, Remote IRR set */
	assert_int_equal(lapic_pending(rig_lapic(back, 0)), -1);
	rig_eoi(rig_lapic(back, 0));
	rig_take(rig_lapic(back, 0), 0x47);
	chips_set_irq(back->ch, 7, false);
	rig_eoi(rig_lapic(back, 0));
	assert_int_equal(lapic_pending(rig_lapic(back, 0)), -1);
	end(to);
	end(back);
}

/* As KVM saves a level that nobody took, or an edge that could not be sent. */
static void an_interrupt_that_waits_is_sent_when_it_is_loaded(void **state)
{
	struct rig *r = *state;
	struct x86_chips_state s = {0};

	rig_enable(r, 0);
	chips_save(r->ch, &s);
	s.ioapic.redir[5] = LEVEL | 0x45;
	s.ioapic.redir[6] = 0x46;
	s.ioapic.irr = s.ioapic.lines = 1u << 5 | 1u << 6;
	chips_load(r->ch, &s);
	rig_take(rig_lapic(r, 0), 0x46);
	rig_eoi(rig_lapic(r, 0));
	rig_take(rig_lapic(r, 0), 0x45);
}

static void an_edge_that_came_does_not_come_again(void **state)
{
	struct rig *r = *state, *to;
	struct x86_chips_state s;

	rig_enable(r, 0);
	rig_route(r, 6, 0x46, 0);
	chips_set_irq(r->ch, 6, true);
	rig_take(rig_lapic(r, 0), 0x46);
	rig_eoi(rig_lapic(r, 0));
	to = moved(r, &s);
	chips_set_irq(to->ch, 6, true); /* as its device does when it is loaded */
	assert_int_equal(lapic_pending(rig_lapic(to, 0)), -1);
	chips_set_irq(to->ch, 6, false);
	chips_set_irq(to->ch, 6, true);
	rig_take(rig_lapic(to, 0), 0x46);
	end(to);
}

static void an_interrupt_of_the_pics_waits_on(void **state)
{
	static const u8 init[][2] = {{0x20, 0x11}, {0x21, 0x20}, {0x21, 4}, {0x21, 1}, {0xa0, 0x11}, {0xa1, 0x28}, {0xa1, 2}, {0xa1, 1}};
	struct rig *r = *state, *to;
	struct x86_chips_state s;

	for (u32 i = 0; i < ARRAY_SIZE(init); i++)
		rig_out(r, init[i][0], init[i][1]);
	rig_out(r, 0x21, 0xfb);
	rig_out(r, 0xa1, 0xfb);
	chips_set_irq(r->ch, 10, true);
	chips_set_irq(r->ch, 10, false);
	assert_true(chips_extint_pending(r->ch, 0));
	to = moved(r, &s);
	assert_true(to->woken[0] > 0);
	assert_true(chips_extint_pending(to->ch, 0));
	assert_int_equal(chips_extint_accept(to->ch, 0), 0x2a);
	assert_false(chips_extint_pending(to->ch, 0));
	end(to);
}

/* Turns the loop until GSI 0 has come. */
static bool pit_comes(struct rig *r, u32 vector)
{
	for (u32 i = 0; i < 100; i++) {
		if (lapic_pending(rig_lapic(r, 0)) == (int)vector)
			return true;
		loop_turn(&r->vm.loop, 1);
	}
	return false;
}

static void a_pit_that_was_due_is_due_and_one_that_goes_on_is_in_step(void **state)
{
	struct rig *r = *state, *to;
	struct x86_chips_state s;

	rig_enable(r, 0);
	rig_route(r, 0, 0x30, 0);
	rig_out(r, 0x43, 0x30); /* mode 0: once */
	rig_out(r, 0x40, 0xe8);
	rig_out(r, 0x40, 0x03);
	rig_advance(r, 2 * NSEC_PER_MSEC); /* the loop has not turned since */
	to = moved(r, &s);
	assert_true(s.pit_due);
	assert_true(pit_comes(to, 0x30));
	rig_take(rig_lapic(to, 0), 0x30);
	rig_eoi(rig_lapic(to, 0));
	rig_out(to, 0x43, 0x34); /* mode 2: again and again */
	rig_out(to, 0x40, 0x88);
	rig_out(to, 0x40, 0x13);
	rig_advance(to, NSEC_PER_MSEC);
	end(moved(to, &s));
	assert_int_equal(s.pit[0].elapsed_ns, NSEC_PER_MSEC);
	assert_false(s.pit_due);
	end(to);
}

static void a_pit_that_stands_still_at_its_gate_keeps_its_count(void **state)
{
	struct rig *r = *state, *to;
	struct x86_chips_state s;

	rig_out(r, 0x43, 0xb0); /* channel 2, mode 0 */
	rig_out(r, 0x61, 1);
	rig_out(r, 0x42, 0x00);
	rig_out(r, 0x42, 0x80);
	rig_advance(r, 5 * NSEC_PER_MSEC);
	rig_out(r, 0x61, 0);
	rig_advance(r, 50 * NSEC_PER_MSEC);
	to = moved(r, &s);
	assert_int_equal(s.pit[2].elapsed_ns, 5 * NSEC_PER_MSEC);
	rig_advance(to, 50 * NSEC_PER_MSEC);
	rig_out(r, 0x43, 0x80);
	rig_out(to, 0x43, 0x80);
	assert_int_equal(rig_in(to, 0x42), rig_in(r, 0x42));
	assert_int_equal(rig_in(to, 0x42), rig_in(r, 0x42));
	end(to);
}

static void expect_refused(const struct x86_chips_state *s, const char *why)
{
	struct err e;

	assert_int_equal(x86_chips_check(s, &e), -EINVAL);
	if (!strstr(e.msg, why))
		fail_msg("\"%s\" does not say \"%s\"", e.msg, why);
}

static void chips_that_cannot_be_are_refused(void **state)
{
	struct rig *r = *state;
	struct x86_chips_state good = {0}, s;

	chips_save(r->ch, &good);
	s = good;
	s.pic[1].base = 0x2c;
	expect_refused(&s, "pic[1]: base 0x2c");
	s = good;
	s.pic[0].init_step = 1;
	expect_refused(&s, "step 1");
	s = good;
	s.ioapic.redir[3] |= BIT(40);
	expect_refused(&s, "ioapic: entry 3");
	s = good;
	s.pit[1].count = 0;
	expect_refused(&s, "pit[1]: count 0");
	s = good;
	s.pit[2].bcd = true;
	s.pit[2].count = 10001;
	expect_refused(&s, "pit[2]: count 10001");
	s = good;
	s.pit[0].rw = 0;
	expect_refused(&s, "access 0");
	s = good;
	s.pit[0].gate = false;
	expect_refused(&s, "gate");
	s = good;
	s.pit[2].elapsed_ns = UINT64_MAX;
	expect_refused(&s, "centuries");
}

static void clocks_that_cannot_be_are_refused_and_jumps_go_ahead_only(void **state)
{
	struct x86_clock_state c = {.clock_ns = UINT64_MAX};
	struct err e;

	(void)state;
	assert_int_equal(x86_clock_check(&c, &e), -EINVAL);
	c = (struct x86_clock_state){.kvmclock_ns = UINT64_MAX / 2};
	assert_int_equal(x86_clock_check(&c, &e), -EINVAL);
	c = (struct x86_clock_state){.clock_ns = 5, .kvmclock_ns = 6, .realtime_ns = 1000};
	assert_int_equal(x86_clock_check(&c, &e), 0);
	assert_int_equal(x86_clock_jump(&c, 1500), 500);
	assert_int_equal(x86_clock_jump(&c, 500), 0);
	c.realtime_ns = 0;
	assert_int_equal(x86_clock_jump(&c, 1500), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_was_loaded_saves_the_same, rig_setup, rig_teardown),
		cmocka_unit_test_setup_teardown(a_level_that_is_up_comes_once_and_again_after_its_eoi, rig_setup, rig_teardown),
		cmocka_unit_test_setup_teardown(an_interrupt_that_waits_is_sent_when_it_is_loaded, rig_setup, rig_teardown),
		cmocka_unit_test_setup_teardown(an_edge_that_came_does_not_come_again, rig_setup, rig_teardown),
		cmocka_unit_test_setup_teardown(an_interrupt_of_the_pics_waits_on, rig_setup, rig_teardown),
		cmocka_unit_test_setup_teardown(a_pit_that_was_due_is_due_and_one_that_goes_on_is_in_step, rig_setup, rig_teardown),
		cmocka_unit_test_setup_teardown(a_pit_that_stands_still_at_its_gate_keeps_its_count, rig_setup, rig_teardown),
		cmocka_unit_test_setup_teardown(chips_that_cannot_be_are_refused, rig_setup, rig_teardown),
		cmocka_unit_test(clocks_that_cannot_be_are_refused_and_jumps_go_ahead_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
