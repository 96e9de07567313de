/*
 * uart16550.c: the serial port of a PC, a PC16550D (National data sheet; register and bit names are its own, § numbers too).
 *
 *   guest: bus -> uart_write -> chr ring        (an output byte costs one exit)
 *   host:  chr -> uart_receive -> rx FIFO -> level line -> guest
 *
 * The line is infinitely fast: the transmitter is always empty again when a write returns, and the four character times without traffic
 * after which a half-filled FIFO interrupts (§8.10) have always passed. So there are no timers, and no output is ever waiting here.
 */
#include <errno.h>
#include <stdlib.h>

#include "vmm/bucket.h"
#include "vmm/chr.h"
#include "vmm/config.h"
#include "vmm/state.h"
#include "vmm/vm.h"

#define UART_FIFO_SIZE 16
#define UART_DRAIN_MS  1000 /* for the last lines of a guest, when whoever reads them is slow */

/* Register offsets; with LCR.DLAB set, 0 and 1 are the divisor latch. */
enum { UART_DATA, UART_IER, UART_IIR_FCR, UART_LCR, UART_MCR, UART_LSR, UART_MSR, UART_SCR };

#define IER_RX	   0x01
#define IER_TX	   0x02
#define IER_LINE   0x04
#define IER_MODEM  0x08
#define IER_MASK   0x0f
#define IIR_NONE   0x01
#define IIR_MODEM  0x00
#define IIR_TX	   0x02
#define IIR_RX	   0x04
#define IIR_LINE   0x06
#define IIR_RX_OLD 0x0c /* character timeout */
#define IIR_FIFO   0xc0
#define FCR_ENABLE 0x01
#define FCR_CLR_RX 0x02
#define LCR_DLAB   0x80
#define MCR_DTR	   0x01
#define MCR_RTS	   0x02
#define MCR_OUT1   0x04
#define MCR_OUT2   0x08
#define MCR_LOOP   0x10
#define MCR_MASK   0x1f
#define LSR_DR	   0x01
#define LSR_OE	   0x02
#define LSR_THRE   0x20
#define LSR_TEMT   0x40
#define MSR_DELTA  0x0f
#define MSR_TERI   0x04
#define MSR_CTS	   0x10
#define MSR_DSR	   0x20
#define MSR_RI	   0x40
#define MSR_DCD	   0x80

/* A guest that reads LSR this often without touching another register waits for input. */
#define UART_POLLS_OF_A_READER 16

struct uart_state {
	u8 ier, fcr, lcr, mcr, msr, scr, dll, dlm;
	bool thre_pending; /* transmitter went empty and the guest has not been told */
	bool overrun;
	u8 polls; /* LSR reads in a row, up to UART_POLLS_OF_A_READER */
	u8 rx_head, rx_count;
	u8 rx[UART_FIFO_SIZE]; /* ring from rx_head */
};

struct uart {
	struct device dev; /* first */
	struct uart_state s;
	struct chr *chr; /* owned */
	struct irq irq;
	bool irq_level;				   /* as last set */
	bool rx_held;				   /* chr has bytes that we refused */
	u64 missed_read_count, missed_write_count; /* accesses of another size: counters */
	struct bucket limit;
	u64 read_count, write_count, rate_limited; /* bytes: counters */
};

struct serial_cfg {
	char *mode, *serial_out_path;
	struct cfg_bucket *rate_limiter; /* of output, in bytes; NULL: none */
};

static struct uart *to_uart(struct device *dev)
{
	return container_of(dev, struct uart, dev);
}

/* With the FIFO off there is the one receiver buffer register, as in a 16450. */
static u8 rx_capacity(const struct uart_state *s)
{
	return s->fcr & FCR_ENABLE ? UART_FIFO_SIZE : 1;
}

static u8 rx_trigger(const struct uart_state *s)
{
	static const u8 level[] = {1, 4, 8, 14}; /* §8.4 */

	return s->fcr & FCR_ENABLE ? level[s->fcr >> 6] : 1;
}

/* The pending interrupt of highest priority, as IIR shows it (§8.5, table III). */
static u8 interrupt_id(const struct uart_state *s)
{
	if ((s->ier & IER_LINE) && s->overrun)
		return IIR_LINE;
	if ((s->ier & IER_RX) && s->rx_count)
		return s->rx_count >= rx_trigger(s) ? IIR_RX : IIR_RX_OLD;
	if ((s->ier & IER_TX) && s->thre_pending)
		return IIR_TX;
	if ((s->ier & IER_MODEM) && (s->msr & MSR_DELTA))
		return IIR_MODEM;
	return IIR_NONE;
}

/*
 * Whether the guest is there to read. A driver clears the FIFO when it opens the port, and what came earlier would be lost with it; so
 * input waits in the host until the guest raises RTS, enables the receive interrupt, or polls. In loopback mode the receiver is cut off
 * (§8.7).
 */
static bool listening(const struct uart_state *s)
{
	if (s->mcr & MCR_LOOP)
		return false;
	return (s->mcr & MCR_RTS) || (s->ier & IER_RX) || s->polls == UART_POLLS_OF_A_READER;
}

/* After every access: brings the interrupt line and the flow of input in line with the registers. The line is touched only when its level
 * changes: under KVM that is a system call, and a burst of output would make one for each byte. Input is asked for when the FIFO is half
 * empty, not for each byte read: that is a wake-up of the loop. OUT2 does not gate the line, as it does on a PC's board. */
static void settle(struct uart *u)
{
	bool level = interrupt_id(&u->s) != IIR_NONE;

	if (level != u->irq_level) {
		u->irq_level = level;
		irq_set(&u->irq, level);
	}
	if (unlikely(u->rx_held) && listening(&u->s) && u->s.rx_count <= rx_capacity(&u->s) / 2) {
		u->rx_held = false;
		chr_rx_resume(u->chr);
	}
}

static void rx_push(struct uart_state *s, u8 byte)
{
	s->rx[(s->rx_head + s->rx_count) % UART_FIFO_SIZE] = byte;
	s->rx_count++;
}

static u8 rx_pop(struct uart_state *s)
{
	u8 byte;

	if (!s->rx_count)
		return 0;
	byte = s->rx[s->rx_head];
	s->rx_head = (u8)((s->rx_head + 1) % UART_FIFO_SIZE);
	s->rx_count--;
	return byte;
}

/* chr_rx_fn, ctx: loop. Takes what the FIFO has room for; chr keeps the rest until chr_rx_resume. */
static u32 uart_receive(void *opaque, const u8 *data, u32 len)
{
	struct uart *u = opaque;
	u32 n = 0;

	device_lock(&u->dev);
	if (listening(&u->s)) {
		while (n < len && u->s.rx_count < rx_capacity(&u->s))
			rx_push(&u->s, data[n++]);
	}
	u->rx_held = n < len;
	__atomic_store_n(&u->read_count, u->read_count + n, __ATOMIC_RELAXED);
	settle(u);
	device_unlock(&u->dev);
	return n;
}

/* A byte that loopback mode sends back. With the FIFO on, a byte too many is lost; with it off, it overwrites the one before (§8.3). */
static void loop_back(struct uart_state *s, u8 byte)
{
	if (s->rx_count == rx_capacity(s)) {
		s->overrun = true;
		if (s->fcr & FCR_ENABLE)
			return;
		rx_pop(s);
	}
	rx_push(s, byte);
}

/* A limited port loses what is too much: holding the transmitter back would stop a guest that prints with interrupts off. */
static void send(struct uart *u, u8 byte)
{
	bool passes = !u->limit.size || bucket_take(&u->limit, 1, clock_host_ns());
	u64 *counter = passes ? &u->write_count : &u->rate_limited;

	if (passes)
		chr_write(u->chr, &byte, 1);
	__atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

/* chr never waits: what a slow reader does not take is queued there, and in the end dropped; the guest does not notice. */
static void write_thr(struct uart *u, u8 byte)
{
	if (u->s.mcr & MCR_LOOP)
		loop_back(&u->s, byte);
	else
		send(u, byte);
	u->s.thre_pending = true;
}

/* Enabling the interrupt of an empty transmitter raises it (§8.6; Linux tests for this). */
static void write_ier(struct uart_state *s, u8 val)
{
	if ((val & IER_TX) && !(s->ier & IER_TX))
		s->thre_pending = true;
	s->ier = val & IER_MASK;
}

/* §8.4: without bit 0 the other bits are not programmed; a change of bit 0 empties the FIFO. The transmit FIFO is never filled. */
static void write_fcr(struct uart_state *s, u8 val)
{
	if (!(val & FCR_ENABLE))
		val = 0;
	if ((val & FCR_CLR_RX) || ((val ^ s->fcr) & FCR_ENABLE))
		s->rx_head = s->rx_count = 0;
	s->fcr = val & (0xc0 | FCR_ENABLE);
}

/* §8.7, §8.8: the modem inputs follow a peer that is always ready, or our own outputs in loopback mode; changes are kept in the delta bits.
 */
static void write_mcr(struct uart_state *s, u8 val)
{
	u8 lines = MSR_DCD | MSR_DSR | MSR_CTS, changed;

	s->mcr = val & MCR_MASK;
	if (s->mcr & MCR_LOOP)
		lines = (u8)((s->mcr & MCR_DTR ? MSR_DSR : 0) | (s->mcr & MCR_RTS ? MSR_CTS : 0) | (s->mcr & MCR_OUT1 ? MSR_RI : 0) |
			     (s->mcr & MCR_OUT2 ? MSR_DCD : 0));
	changed = (u8)((lines ^ s->msr) >> 4);
	if (lines & MSR_RI)
		changed &= (u8)~MSR_TERI; /* the trailing edge of RI counts, not the leading one */
	s->msr = (u8)(lines | (s->msr & MSR_DELTA) | changed);
}

static void uart_write(struct device *dev, u64 offset, const void *data, u32 len)
{
	struct uart *u = to_uart(dev);
	struct uart_state *s = &u->s;
	u8 val = *(const u8 *)data;

	counter_add(&u->missed_write_count, len != 1);
	if (len != 1)
		return;
	s->polls = 0;
	switch (offset) {
	case UART_DATA:
		if (s->lcr & LCR_DLAB)
			s->dll = val;
		else
			write_thr(u, val);
		break;
	case UART_IER:
		if (s->lcr & LCR_DLAB)
			s->dlm = val;
		else
			write_ier(s, val);
		break;
	case UART_IIR_FCR:
		write_fcr(s, val);
		break;
	case UART_LCR:
		s->lcr = val;
		break;
	case UART_MCR:
		write_mcr(s, val);
		break;
	case UART_SCR:
		s->scr = val;
		break;
	default: /* LSR and MSR are for reading */
		break;
	}
	settle(u);
}

/* Reading IIR takes back the transmitter interrupt, if that is what it shows (§8.5). */
static u8 read_iir(struct uart_state *s)
{
	u8 id = interrupt_id(s);

	if (id == IIR_TX)
		s->thre_pending = false;
	return (u8)(id | (s->fcr & FCR_ENABLE ? IIR_FIFO : 0));
}

/* Reading takes the overrun mark away (§8.3). */
static u8 read_lsr(struct uart_state *s)
{
	u8 lsr = (u8)(LSR_THRE | LSR_TEMT | (s->rx_count ? LSR_DR : 0) | (s->overrun ? LSR_OE : 0));

	s->overrun = false;
	return lsr;
}

/* Reading takes the delta bits away, and with them the modem interrupt (§8.8). */
static u8 read_msr(struct uart_state *s)
{
	u8 msr = s->msr;

	s->msr &= (u8)~MSR_DELTA;
	return msr;
}

static u8 read_register(struct uart_state *s, u64 offset)
{
	switch (offset) {
	case UART_DATA:
		return s->lcr & LCR_DLAB ? s->dll : rx_pop(s);
	case UART_IER:
		return s->lcr & LCR_DLAB ? s->dlm : s->ier;
	case UART_IIR_FCR:
		return read_iir(s);
	case UART_LCR:
		return s->lcr;
	case UART_MCR:
		return s->mcr;
	case UART_LSR:
		return read_lsr(s);
	case UART_MSR:
		return read_msr(s);
	default:
		return s->scr;
	}
}

static void uart_read(struct device *dev, u64 offset, void *data, u32 len)
{
	struct uart *u = to_uart(dev);

	counter_add(&u->missed_read_count, len != 1);
	if (len != 1)
		return;
	if (offset != UART_LSR)
		u->s.polls = 0;
	else if (u->s.polls < UART_POLLS_OF_A_READER)
		u->s.polls++;
	*(u8 *)data = read_register(&u->s, offset);
	settle(u);
}

static const struct bus_ops uart_ops = {.read = uart_read, .write = uart_write};

static int uart_claim(struct uart *u, struct err *e)
{
	const struct dev_slot *slot = &u->dev.slot;

	if (slot->pio_len)
		return bus_add(u->dev.vm, BUS_PIO, slot->pio_base, slot->pio_len, &u->dev, &uart_ops, e);
	return bus_add(u->dev.vm, BUS_MMIO, slot->mmio_base, slot->mmio_len, &u->dev, &uart_ops, e);
}

/* ctx: loop, vCPUs stopped. Also takes a half-built one. */
static void uart_destroy(struct device *dev)
{
	struct uart *u = to_uart(dev);

	if (u->chr)
		chr_drain(u->chr, UART_DRAIN_MS);
	chr_free(u->chr);
	irq_fini(&u->irq);
	device_fini(dev);
	free(u);
}

/* Standard input and output, unless the configuration says otherwise. */
static struct chr *open_end(struct uart *u, const struct serial_cfg *cfg, struct err *e)
{
	if (cfg && cfg->serial_out_path)
		return chr_new_output(u->dev.vm, cfg->serial_out_path, e);
	return chr_new(u->dev.vm, cfg && cfg->mode ? cfg->mode : "stdio", uart_receive, u, e);
}

static int uart_create(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct device **out,
		       struct err *e)
{
	const struct serial_cfg *sc = cfg;
	struct uart *u = xzalloc(sizeof(*u));
	int ret;

	device_init(&u->dev, vm, cls, cls->name, slot);
	u->s.msr = MSR_DCD | MSR_DSR | MSR_CTS;
	if (slot->has_gsi)
		irq_init_level(&u->irq, vm, slot->gsi);
	if (sc && sc->rate_limiter)
		bucket_set(&u->limit, sc->rate_limiter, clock_host_ns());
	u->chr = open_end(u, sc, e);
	ret = u->chr ? uart_claim(u, e) : err_prefix(e, "serial port");
	if (ret < 0) {
		uart_destroy(&u->dev);
		return ret;
	}
	*out = &u->dev;
	return 0;
}

/* ---- saved state ---- */

static const struct state_field uart_state_fields[] = {
	STATE_NUM(struct uart_state, ier, 1, .max = IER_MASK, .hex = true),
	STATE_NUM(struct uart_state, fcr, 2, .hex = true),
	STATE_NUM(struct uart_state, lcr, 3, .hex = true),
	STATE_NUM(struct uart_state, mcr, 4, .max = MCR_MASK, .hex = true),
	STATE_NUM(struct uart_state, msr, 5, .hex = true),
	STATE_NUM(struct uart_state, scr, 6, .hex = true),
	STATE_NUM(struct uart_state, dll, 7, .hex = true),
	STATE_NUM(struct uart_state, dlm, 8, .hex = true),
	STATE_FLAG(struct uart_state, thre_pending, 9),
	STATE_FLAG(struct uart_state, overrun, 10),
	STATE_NUM(struct uart_state, polls, 11, .max = UART_POLLS_OF_A_READER),
	STATE_NUM(struct uart_state, rx_head, 12, .max = UART_FIFO_SIZE - 1),
	STATE_NUM(struct uart_state, rx_count, 13, .max = UART_FIFO_SIZE),
	STATE_BUF(struct uart_state, rx, 14),
	STATE_END,
};

static const struct state_table uart_state_table = {
	.name = "uart16550",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct uart_state),
	.fields = uart_state_fields,
};

static int uart_save(struct device *dev, void *data, struct err *e)
{
	(void)e;
	device_lock(dev);
	*(struct uart_state *)data = to_uart(dev)->s;
	device_unlock(dev);
	return 0;
}

static int uart_check(struct device *dev, const void *data, struct err *e)
{
	const struct uart_state *s = data;

	(void)dev;
	if (s->fcr & ~(0xc0 | FCR_ENABLE) || (s->fcr && !(s->fcr & FCR_ENABLE)))
		return err_set(e, -EINVAL, "fcr: %#x is no value of this register", s->fcr);
	if (s->rx_count > rx_capacity(s))
		return err_set(e, -EINVAL, "rx_count: %u bytes in a FIFO of %u", s->rx_count, rx_capacity(s));
	return 0;
}

/* The line falls first: an edge for a guest that waits for one, whatever the interrupt chips remember of it. */
static void uart_load(struct device *dev, const void *data)
{
	struct uart *u = to_uart(dev);

	device_lock(dev);
	u->s = *(const struct uart_state *)data;
	u->irq_level = false;
	irq_set(&u->irq, false);
	settle(u);
	device_unlock(dev);
}

static const struct device_state uart_device_state = {
	.table = &uart_state_table, .save = uart_save, .check = uart_check, .load = uart_load};
static const struct device_state *const uart_states[] = {&uart_device_state, NULL};

/* ---- class ---- */

static int serial_check(const void *cfg, struct err *e)
{
	const struct serial_cfg *sc = cfg;

	if (sc->mode && sc->serial_out_path)
		return err_set(e, -EINVAL, "serial: mode and serial_out_path exclude each other; keep one");
	return 0;
}

static const struct cfg_field serial_fields[] = {
	{
		.key = "mode",
		.type = CFG_STR,
		.offset = offsetof(struct serial_cfg, mode),
		.help = "Where the serial port ends: stdio (when absent), pty, unix:PATH, file:PATH or null.",
		.extension = true,
		.accept = chr_spec_ok,
		.expected = "stdio, pty, null, unix:PATH or file:PATH",
	},
	{
		.key = "serial_out_path",
		.type = CFG_STR,
		.offset = offsetof(struct serial_cfg, serial_out_path),
		.min = 1,
		.max = 4095,
		.expected = "a path of 1 to 4095 bytes",
		.help = "File or FIFO that takes the output of the serial port; it is made when missing, and not emptied.",
	},
	{
		.key = "rate_limiter",
		.type = CFG_OBJ,
		.offset = offsetof(struct serial_cfg, rate_limiter),
		.sub = &bucket_table,
		.help = "Limit of the output in bytes; what is more is lost, and counted as uart.rate_limiter_dropped_bytes.",
	},
};

static const struct cfg_table serial_table = {
	.name = "serial",
	.help = "The serial port of the machine (ttyS0).",
	.size = sizeof(struct serial_cfg),
	.fields = serial_fields,
	.nr_fields = ARRAY_SIZE(serial_fields),
};

static const struct cfg_flag serial_flag = {
	.name = "serial",
	.positional = "mode",
	.usage = "stdio|pty|null|unix:PATH|file:PATH",
	.help = "Where the serial port (ttyS0) ends.",
};

static const struct counter_desc uart_counters[] = {
	{"read_count", offsetof(struct uart, read_count)},
	{"write_count", offsetof(struct uart, write_count)},
	{"missed_read_count", offsetof(struct uart, missed_read_count)},
	{"missed_write_count", offsetof(struct uart, missed_write_count)},
	{"rate_limiter_dropped_bytes", offsetof(struct uart, rate_limited)},
	{NULL, 0},
};

const struct device_class uart16550_class = {
	.name = "uart16550",
	.section = "serial",
	.config = &serial_table,
	.flag = &serial_flag,
	.check = serial_check,
	.metrics_group = "uart",
	.counters = uart_counters,
	.acpi_hid = "PNP0501",
	.create = uart_create,
	.destroy = uart_destroy,
	.states = uart_states,
};
