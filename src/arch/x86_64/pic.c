/*
 * pic.c: two 8259A interrupt controllers, the second on input 2 of the first (Intel 231468), with the edge/level registers of the PCI
 * chip sets (Intel 290473 §4.5). Single mode, the level bit of ICW1 and the 8080 vectors of ICW1/ICW2 are not there, as in KVM.
 */
#include "arch/x86_64/chips_impl.h"

#define ICW1	     0x10
#define ICW1_ICW4    0x01
#define OCW3	     0x08
#define NO_IRQ	     8u
#define SPURIOUS_IRQ 7u

void pic_reset(struct pics *p)
{
	*p = (struct pics){0};
	/* As firmware leaves them: a kernel that has no use for them sets no vectors, and must get none (0 to 7 are exceptions). */
	p->chip[0].imr = p->chip[1].imr = 0xff;
	p->chip[0].elcr_mask = 0xf8; /* timer, keyboard, cascade */
	p->chip[1].elcr_mask = 0xde; /* RTC, coprocessor */
}

/* The input of highest priority in a mask, as a distance from the highest; NO_IRQ for none. */
static u32 distance(const struct pic *c, u32 mask)
{
	u32 rotated = (mask | mask << 8) >> c->first & 0xff;

	return rotated ? (u32)__builtin_ctz(rotated) : NO_IRQ;
}

/* The input to interrupt for, or NO_IRQ. */
static u32 pending(const struct pic *c, bool master)
{
	u32 isr = c->isr, want = distance(c, c->irr & ~c->imr);

	if (c->special_mask)
		isr &= ~(u32)c->imr;
	if (c->nested && master) /* another, higher input of the second chip may come through */
		isr &= ~(1u << PIC_CASCADE);
	if (want >= distance(c, isr))
		return NO_IRQ;
	return (want + c->first) & 7;
}

static void update(struct pics *p)
{
	struct pic *m = &p->chip[0];
	u8 cascade = 1u << PIC_CASCADE;

	m->irr = (u8)(pending(&p->chip[1], false) == NO_IRQ ? m->irr & ~cascade : m->irr | cascade);
	__atomic_store_n(&p->output, pending(m, true) != NO_IRQ, __ATOMIC_RELEASE);
}

void pic_set_line(struct pics *p, u32 irq, bool level)
{
	struct pic *c = &p->chip[irq / 8];
	u8 bit = (u8)(1u << (irq & 7));

	if (irq == PIC_CASCADE)
		return; /* not wired to the outside */
	if (level && ((c->elcr & bit) || !(c->lines & bit)))
		c->irr |= bit;
	else if (!level && (c->elcr & bit))
		c->irr &= (u8)~bit;
	c->lines = (u8)(level ? c->lines | bit : c->lines & ~bit);
	update(p);
}

static void acknowledge(struct pic *c, u32 irq)
{
	u8 bit = (u8)(1u << irq);

	if (!(c->elcr & bit))
		c->irr &= (u8)~bit;
	if (!c->auto_eoi)
		c->isr |= bit;
	else if (c->rotate_auto_eoi)
		c->first = (u8)((irq + 1) & 7);
}

u8 pic_accept(struct pics *p)
{
	struct pic *m = &p->chip[0], *s = &p->chip[1];
	u32 irq = pending(m, true), slave = NO_IRQ;
	u8 vector;

	if (irq == NO_IRQ) { /* gone in between: spurious, and not in service */
		vector = (u8)(m->base + SPURIOUS_IRQ);
	} else if (irq == PIC_CASCADE) {
		slave = pending(s, false);
		if (slave != NO_IRQ)
			acknowledge(s, slave);
		vector = (u8)(s->base + (slave == NO_IRQ ? SPURIOUS_IRQ : slave));
		acknowledge(m, irq);
	} else {
		acknowledge(m, irq);
		vector = (u8)(m->base + irq);
	}
	update(p);
	return vector;
}

/* What is edge-triggered is forgotten; a level that is still there still counts. */
static void write_icw1(struct pic *c, u8 val)
{
	c->icw4 = val & ICW1_ICW4;
	c->irr &= c->elcr;
	c->lines &= c->elcr;
	c->isr = c->imr = c->first = 0;
	c->special_mask = c->read_isr = c->poll = c->rotate_auto_eoi = false;
	if (!c->icw4)
		c->nested = c->auto_eoi = false;
	c->init_step = 2;
}

static void write_icw(struct pic *c, u8 val)
{
	switch (c->init_step) {
	case 2:
		c->base = val & 0xf8;
		c->init_step = 3;
		break;
	case 3: /* the wiring of the cascade is fixed */
		c->init_step = c->icw4 ? 4 : 0;
		break;
	default:
		c->nested = val & 0x10;
		c->auto_eoi = val & 0x02;
		c->init_step = 0;
		break;
	}
}

/* rotate, specific, EOI: bits 7, 6, 5 */
static void write_ocw2(struct pic *c, u8 val)
{
	u32 irq = val & 7u, cmd = val >> 5;

	if (cmd == 1 || cmd == 5) { /* non-specific EOI: the highest in service */
		u32 d = distance(c, c->isr);

		if (d == NO_IRQ)
			return;
		irq = (d + c->first) & 7;
	}
	if (cmd & 1)
		c->isr &= (u8) ~(1u << irq);
	if (cmd >= 5)
		c->first = (u8)((irq + 1) & 7);
	else if (cmd == 0 || cmd == 4)
		c->rotate_auto_eoi = cmd == 4;
}

static void write_ocw3(struct pic *c, u8 val)
{
	if (val & 0x04)
		c->poll = true;
	if (val & 0x02)
		c->read_isr = val & 0x01;
	if (val & 0x40)
		c->special_mask = val & 0x20;
}

void pic_write(struct pics *p, u32 chip, u32 port, u8 val)
{
	struct pic *c = &p->chip[chip];

	if (port == 1 && c->init_step)
		write_icw(c, val);
	else if (port == 1)
		c->imr = val;
	else if (val & ICW1)
		write_icw1(c, val);
	else if (val & OCW3)
		write_ocw3(c, val);
	else
		write_ocw2(c, val);
	update(p);
}

/* The poll command makes the next read an acknowledge. */
static u8 poll_read(struct pics *p, u32 chip)
{
	struct pic *c = &p->chip[chip];
	u32 irq = pending(c, chip == 0);

	c->poll = false;
	if (irq == NO_IRQ)
		return 0;
	acknowledge(c, irq);
	update(p);
	return (u8)(0x80 | irq);
}

u8 pic_read(struct pics *p, u32 chip, u32 port)
{
	const struct pic *c = &p->chip[chip];

	if (c->poll)
		return poll_read(p, chip);
	if (port == 1)
		return c->imr;
	return c->read_isr ? c->isr : c->irr;
}

u8 pic_read_elcr(const struct pics *p, u32 chip)
{
	return p->chip[chip].elcr;
}

void pic_write_elcr(struct pics *p, u32 chip, u8 val)
{
	p->chip[chip].elcr = val & p->chip[chip].elcr_mask;
}

static void save_one(const struct pic *c, struct x86_pic_state *s)
{
	*s = (struct x86_pic_state){
		.irr = c->irr,
		.isr = c->isr,
		.imr = c->imr,
		.lines = c->lines,
		.elcr = c->elcr,
		.base = c->base,
		.first = c->first,
		.init_step = c->init_step,
		.icw4 = c->icw4,
		.auto_eoi = c->auto_eoi,
		.rotate_auto_eoi = c->rotate_auto_eoi,
		.special_mask = c->special_mask,
		.nested = c->nested,
		.poll = c->poll,
		.read_isr = c->read_isr,
	};
}

void pic_save(const struct pics *p, struct x86_pic_state s[2])
{
	save_one(&p->chip[0], &s[0]);
	save_one(&p->chip[1], &s[1]);
}

static void load_one(struct pic *c, const struct x86_pic_state *s)
{
	*c = (struct pic){
		.irr = s->irr,
		.isr = s->isr,
		.imr = s->imr,
		.lines = s->lines,
		.elcr = s->elcr & c->elcr_mask,
		.elcr_mask = c->elcr_mask,
		.base = s->base & 0xf8,
		.first = s->first & 7,
		.init_step = s->init_step,
		.icw4 = s->icw4,
		.auto_eoi = s->auto_eoi,
		.rotate_auto_eoi = s->rotate_auto_eoi,
		.special_mask = s->special_mask,
		.nested = s->nested,
		.poll = s->poll,
		.read_isr = s->read_isr,
	};
}

void pic_load(struct pics *p, const struct x86_pic_state s[2])
{
	load_one(&p->chip[0], &s[0]);
	load_one(&p->chip[1], &s[1]);
	update(p);
}
