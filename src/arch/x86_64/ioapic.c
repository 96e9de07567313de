/*
 * ioapic.c: the I/O APIC, an 82093AA of version 0x11 with 24 pins (Intel 290566). As KVM's: the polarity bit is ignored, delivery status
 * is never set, and Remote IRR goes away when an entry becomes edge-triggered, which guests use as the EOI that this version lacks.
 */
#include "arch/x86_64/chips_impl.h"

#define IOREGSEL 0x00
#define IOWIN	 0x10

#define REG_ID	     0x00
#define REG_VERSION  0x01
#define REG_ARB	     0x02
#define REG_REDIR    0x10
#define VERSION	     (0x11u | (X86_IOAPIC_PINS - 1) << 16)
#define REDIR_LEVEL  BIT(15)
#define REDIR_IRR    BIT(14) /* Remote IRR: taken by a LAPIC, its EOI has not come */
#define REDIR_STATUS BIT(12)
#define REDIR_MASKED BIT(16)
#define REDIR_LOW    0x1ffffu /* what there is of the two halves */
#define REDIR_HIGH   0xff000000u
#define REDIR_RO     (REDIR_IRR | REDIR_STATUS)

void ioapic_reset(struct ioapic *io)
{
	*io = (struct ioapic){0};
	for (u32 i = 0; i < X86_IOAPIC_PINS; i++)
		io->redir[i] = REDIR_MASKED;
}

/* Sends the pin's message, unless it is masked or waits for the EOI of the last one. */
static void service(struct chips *ch, u32 pin)
{
	u64 *e = &ch->ioapic.redir[pin];
	const struct apic_msg m = {
		.dest = (u32)(*e >> 56),
		.vector = (u8)*e,
		.mode = (u8)(*e >> 8 & 7),
		.logical = *e & BIT(11),
		.level = *e & REDIR_LEVEL,
		.lowest = (*e >> 8 & 7) == APIC_LOWEST,
	};

	if ((*e & REDIR_MASKED) || (m.level && (*e & REDIR_IRR)))
		return;
	if (m.level)
		*e |= REDIR_IRR; /* before: the LAPIC may be so quick with its EOI that it waits for our lock already */
	if (!apic_send(ch, &m))
		*e &= ~REDIR_IRR;
}

void ioapic_set_line(struct chips *ch, u32 pin, bool level)
{
	struct ioapic *io = &ch->ioapic;
	u32 bit = 1u << pin;
	bool was = io->lines & bit;

	io->lines = level ? io->lines | bit : io->lines & ~bit;
	if (level && (!was || (io->redir[pin] & REDIR_LEVEL)))
		service(ch, pin);
}

void ioapic_eoi(struct chips *ch, u8 vector)
{
	struct ioapic *io = &ch->ioapic;

	device_lock(&ch->dev);
	for (u32 pin = 0; pin < X86_IOAPIC_PINS; pin++) {
		u64 *e = &io->redir[pin];

		if ((u8)*e != vector || !(*e & REDIR_LEVEL))
			continue;
		*e &= ~REDIR_IRR;
		if (io->lines & 1u << pin)
			service(ch, pin);
	}
	device_unlock(&ch->dev);
}

static u32 read_reg(const struct ioapic *io)
{
	u32 pin = (io->select - REG_REDIR) / 2u;

	if (io->select == REG_VERSION)
		return VERSION;
	if (io->select == REG_ID || io->select == REG_ARB)
		return (u32)io->id << 24;
	if (io->select < REG_REDIR || pin >= X86_IOAPIC_PINS)
		return UINT32_MAX;
	return (u32)(io->redir[pin] >> (io->select & 1) * 32);
}

static void write_redir(struct chips *ch, u32 pin, bool high, u32 value)
{
	struct ioapic *io = &ch->ioapic;
	u64 *e = &io->redir[pin];

	if (high)
		*e = (u32)*e | (u64)(value & REDIR_HIGH) << 32;
	else
		*e = (*e & (~0ull << 32 | REDIR_RO)) | (value & REDIR_LOW & ~(u32)REDIR_RO);
	if (!(*e & REDIR_LEVEL))
		*e &= ~REDIR_IRR;
	else if (io->lines & 1u << pin)
		service(ch, pin);
}

static void write_reg(struct chips *ch, u32 value)
{
	struct ioapic *io = &ch->ioapic;
	u32 pin = (io->select - REG_REDIR) / 2u;

	if (io->select == REG_ID)
		io->id = (u8)(value >> 24 & 0xf);
	else if (io->select >= REG_REDIR && pin < X86_IOAPIC_PINS)
		write_redir(ch, pin, io->select & 1, value);
}

u32 ioapic_read(struct ioapic *io, u32 offset)
{
	if (offset == IOREGSEL)
		return io->select;
	return offset == IOWIN ? read_reg(io) : 0;
}

void ioapic_write(struct chips *ch, u32 offset, u32 value)
{
	if (offset == IOREGSEL)
		ch->ioapic.select = (u8)value;
	else if (offset == IOWIN)
		write_reg(ch, value);
}

/* A level that is up waits until a LAPIC takes it, as the entry says. */
void ioapic_save(const struct ioapic *io, struct x86_ioapic_state *s)
{
	*s = (struct x86_ioapic_state){.id = io->id, .select = io->select, .lines = io->lines};
	for (u32 i = 0; i < X86_IOAPIC_PINS; i++) {
		s->redir[i] = io->redir[i];
		s->irr |= io->redir[i] & REDIR_LEVEL ? io->lines & 1u << i : 0;
	}
}

void ioapic_load(struct chips *ch, const struct x86_ioapic_state *s)
{
	struct ioapic *io = &ch->ioapic;

	_Static_assert(X86_NR_IOAPIC_PINS == X86_IOAPIC_PINS, "one machine");
	*io = (struct ioapic){.id = (u8)s->id, .select = (u8)s->select, .lines = s->lines};
	for (u32 i = 0; i < X86_IOAPIC_PINS; i++)
		io->redir[i] = s->redir[i] & X86_IOAPIC_REDIR & ~REDIR_STATUS;
	for (u32 i = 0; i < X86_IOAPIC_PINS; i++) {
		if (s->irr & 1u << i)
			service(ch, i);
	}
}
