/*
 * pit.c: the 8254 interval timer (Intel 231164) on the VM's clock: output 0 is GSI 0, channel 1 goes nowhere, channel 2 has its gate and
 * its output in port 0x61, where guests calibrate the TSC.
 *
 * Counters are not stepped: each has the time it was loaded at, and count and output are computed when somebody looks. DEVIATION: a count
 * written to a running mode 2 or 3 starts at once and not with the next period, and an interrupt that the guest was too late for is not
 * made up for (KVM's can be).
 */
#include "arch/x86_64/chips_impl.h"

#define CONTROL 3u /* port 0x43 */

#define RW_LOW	1u
#define RW_HIGH 2u
#define RW_BOTH 3u

#define READ_BACK	    3u /* channel bits of the control word */
#define READ_BACK_NO_COUNT  0x20
#define READ_BACK_NO_STATUS 0x10
#define STATUS_OUT	    0x80
#define STATUS_NULL	    0x40

#define SPEAKER_GATE	0x01
#define SPEAKER_DATA	0x02
#define SPEAKER_REFRESH 0x10 /* toggles with the memory refresh: every 15 us */
#define SPEAKER_OUT	0x20

static u64 to_ticks(u64 ns)
{
	return ns / NSEC_PER_SEC * PIT_HZ + ns % NSEC_PER_SEC * PIT_HZ / NSEC_PER_SEC;
}

/* Rounded up: at that time to_ticks says so. */
static u64 to_ns(u64 ticks)
{
	return ticks / PIT_HZ * NSEC_PER_SEC + (ticks % PIT_HZ * NSEC_PER_SEC + PIT_HZ - 1) / PIT_HZ;
}

/* In modes 1 and 5 the gate only starts, in the others it stops. */
static bool gate_triggers(const struct pit_channel *c)
{
	return c->mode == 1 || c->mode == 5;
}

static bool periodic(const struct pit_channel *c)
{
	return c->mode == 2 || c->mode == 3;
}

/* Clocks since the count was loaded or triggered. */
static u64 elapsed(const struct pit_channel *c, u64 now)
{
	if (gate_triggers(c) ? !c->trigger : !c->gate)
		return to_ticks(c->stopped_ns);
	return to_ticks(now > c->from_ns ? now - c->from_ns : 0);
}

static bool output(const struct pit_channel *c, u64 now)
{
	u64 d = elapsed(c, now);

	if (c->null)
		return c->mode != 0;
	switch (c->mode) {
	case 0:
		return d >= c->count;
	case 1:
		return !c->trigger || d >= c->count;
	case 2:
		return !c->gate || d % c->count != c->count - 1;
	case 3:
		return !c->gate || d % c->count < (c->count + 1) / 2;
	case 4:
		return d != c->count;
	default:
		return !c->trigger || d != c->count;
	}
}

static u16 to_bcd(u32 v)
{
	return (u16)(v % 10 | v / 10 % 10 << 4 | v / 100 % 10 << 8 | v / 1000 % 10 << 12);
}

static u32 from_bcd(u32 v)
{
	return (v & 0xf) + (v >> 4 & 0xf) * 10 + (v >> 8 & 0xf) * 100 + (v >> 12 & 0xf) * 1000;
}

/* The counting element as the guest reads it. */
static u16 counter(const struct pit_channel *c, u64 now)
{
	u64 d = elapsed(c, now);
	u32 wrap = c->bcd ? 10000 : 0x10000, left;

	if (c->mode == 3)
		left = c->count - (u32)(2 * d % c->count);
	else if (c->mode == 2)
		left = c->count - (u32)(d % c->count);
	else
		left = (c->count + wrap - (u32)(d % wrap)) % wrap;
	return c->bcd ? to_bcd(left) : (u16)left;
}

/* Sets when the output rises after now. */
static void plan_irq(struct pit *p, u64 now)
{
	const struct pit_channel *c = &p->c[0];
	u64 periods = 1;

	p->irq_ns = 0;
	if (c->null || gate_triggers(c))
		return; /* gate 0 is tied high: it never triggers */
	if (periodic(c))
		periods += elapsed(c, now) / c->count;
	else if (elapsed(c, now) >= c->count)
		return;
	p->irq_ns = c->from_ns + to_ns(periods * c->count);
}

bool pit_tick(struct pit *p, u64 now)
{
	if (!p->irq_ns || now < p->irq_ns)
		return false;
	plan_irq(p, now);
	return true;
}

static void load(struct pit *p, struct pit_channel *c, u32 val, u64 now)
{
	c->count = c->bcd ? from_bcd(val) : val;
	if (!c->count)
		c->count = c->bcd ? 10000 : 0x10000;
	c->null = false;
	if (!gate_triggers(c)) {
		c->from_ns = now;
		c->stopped_ns = 0;
	}
	if (c == &p->c[0])
		plan_irq(p, now);
}

static void write_count(struct pit *p, struct pit_channel *c, u8 val, u64 now)
{
	if (c->rw == RW_BOTH && !c->write_high_next) {
		c->write_low = val;
		c->write_high_next = true;
		if (c->mode == 0) { /* the first byte stops it, and the output goes low */
			c->null = true;
			if (c == &p->c[0])
				plan_irq(p, now);
		}
		return;
	}
	c->write_high_next = false;
	if (c->rw == RW_BOTH)
		load(p, c, c->write_low | (u32)val << 8, now);
	else
		load(p, c, c->rw == RW_HIGH ? (u32)val << 8 : val, now);
}

static void latch_count(struct pit_channel *c, u64 now)
{
	if (!c->latched)
		c->latch = counter(c, now);
	c->latched = true;
}

static void latch_status(struct pit_channel *c, u64 now)
{
	if (!c->status_latched)
		c->status = (u8)((output(c, now) ? STATUS_OUT : 0) | (c->null ? STATUS_NULL : 0) | c->rw << 4 | c->mode << 1 | c->bcd);
	c->status_latched = true;
}

static void read_back(struct pit *p, u8 val, u64 now)
{
	for (u32 i = 0; i < ARRAY_SIZE(p->c); i++) {
		if (!(val & 2u << i))
			continue;
		if (!(val & READ_BACK_NO_COUNT))
			latch_count(&p->c[i], now);
		if (!(val & READ_BACK_NO_STATUS))
			latch_status(&p->c[i], now);
	}
}

static void set_mode(struct pit_channel *c, u8 val)
{
	u8 mode = val >> 1 & 7;

	c->mode = mode > 5 ? mode - 4 : mode; /* bit 2 of modes 2 and 3 is "don't care" */
	c->rw = val >> 4 & 3;
	c->bcd = val & 1;
	c->null = true;
	c->trigger = c->write_high_next = c->read_high_next = c->latched = c->status_latched = false;
	c->stopped_ns = 0;
}

static void write_control(struct pit *p, u8 val, u64 now)
{
	u32 channel = val >> 6;

	if (channel == READ_BACK) {
		read_back(p, val, now);
	} else if (!(val & 0x30)) {
		latch_count(&p->c[channel], now);
	} else {
		set_mode(&p->c[channel], val);
		if (channel == 0)
			plan_irq(p, now);
	}
}

void pit_write(struct pit *p, u32 port, u8 val, u64 now)
{
	if (port == CONTROL)
		write_control(p, val, now);
	else
		write_count(p, &p->c[port], val, now);
}

u8 pit_read(struct pit *p, u32 port, u64 now)
{
	struct pit_channel *c = &p->c[port];
	bool high;
	u16 v;

	if (port == CONTROL)
		return 0;
	if (c->status_latched) {
		c->status_latched = false;
		return c->status;
	}
	high = c->rw == RW_HIGH || (c->rw == RW_BOTH && c->read_high_next);
	v = c->latched ? c->latch : counter(c, now);
	if (c->rw == RW_BOTH)
		c->read_high_next = !c->read_high_next;
	if (high || c->rw != RW_BOTH)
		c->latched = false; /* read in full */
	return (u8)(high ? v >> 8 : v);
}

/* Gate of channel 2. */
static void set_gate(struct pit_channel *c, bool on, u64 now)
{
	bool rises = on && !c->gate;

	if (gate_triggers(c)) {
		c->trigger |= rises && !c->null;
		if (rises)
			c->from_ns = now;
	} else if (rises) { /* modes 2 and 3 begin again, 0 and 4 go on */
		c->from_ns = periodic(c) ? now : now - MIN(c->stopped_ns, now);
	} else if (!on && c->gate) {
		c->stopped_ns = now - MIN(c->from_ns, now);
	}
	c->gate = on;
}

u8 pit_read_speaker(struct pit *p, u64 now)
{
	return (u8)((p->c[2].gate ? SPEAKER_GATE : 0) | (p->speaker ? SPEAKER_DATA : 0) | (now >> 14 & 1 ? SPEAKER_REFRESH : 0) |
		    (output(&p->c[2], now) ? SPEAKER_OUT : 0));
}

void pit_write_speaker(struct pit *p, u8 val, u64 now)
{
	p->speaker = val & SPEAKER_DATA;
	set_gate(&p->c[2], val & SPEAKER_GATE, now);
}

void pit_reset(struct pit *p, u64 now)
{
	*p = (struct pit){0};
	for (u32 i = 0; i < ARRAY_SIZE(p->c); i++)
		p->c[i] = (struct pit_channel){.count = 0x10000, .from_ns = now, .rw = RW_BOTH, .mode = 3, .null = true, .gate = i != 2};
}

static bool stopped(const struct pit_channel *c)
{
	return gate_triggers(c) ? !c->trigger : !c->gate;
}

static void save_channel(const struct pit_channel *c, struct x86_pit_channel_state *s, u64 now)
{
	*s = (struct x86_pit_channel_state){
		.count = c->count,
		.elapsed_ns = stopped(c) ? c->stopped_ns : now - MIN(c->from_ns, now),
		.mode = c->mode,
		.rw = c->rw,
		.write_low = c->write_low,
		.status = c->status,
		.bcd = c->bcd,
		.gate = c->gate,
		.null_count = c->null,
		.triggered = c->trigger,
		.write_high_next = c->write_high_next,
		.read_high_next = c->read_high_next,
		.latched = c->latched,
		.status_latched = c->status_latched,
		.latch = c->latch,
	};
}

void pit_save(const struct pit *p, struct x86_chips_state *s, u64 now)
{
	for (u32 i = 0; i < ARRAY_SIZE(p->c); i++)
		save_channel(&p->c[i], &s->pit[i], now);
	s->pit_speaker = p->speaker;
	s->pit_due = p->irq_ns && p->irq_ns <= now;
}

/* A count that began before the VM's clock did (saved elsewhere) is taken for one that began with it. */
static void load_channel(struct pit_channel *c, const struct x86_pit_channel_state *s, u64 now)
{
	*c = (struct pit_channel){
		.count = s->count,
		.from_ns = now - MIN(s->elapsed_ns, now),
		.mode = s->mode,
		.rw = s->rw,
		.write_low = s->write_low,
		.status = s->status,
		.bcd = s->bcd,
		.gate = s->gate,
		.null = s->null_count,
		.trigger = s->triggered,
		.write_high_next = s->write_high_next,
		.read_high_next = s->read_high_next,
		.latched = s->latched,
		.status_latched = s->status_latched,
		.latch = s->latch,
	};
	c->stopped_ns = stopped(c) ? s->elapsed_ns : 0;
}

void pit_load(struct pit *p, const struct x86_chips_state *s, u64 now)
{
	for (u32 i = 0; i < ARRAY_SIZE(p->c); i++)
		load_channel(&p->c[i], &s->pit[i], now);
	p->speaker = s->pit_speaker;
	plan_irq(p, now);
	if (s->pit_due)
		p->irq_ns = MAX(now, 1u); /* pit_tick plans the next one */
}
