/*
 * i8042.c: the keyboard controller of a PC with a keyboard that nobody types on but the API (Ctrl-Alt-Del). It is here for its reset line,
 * which Linux pulls to reboot (reboot=k), and so that a probing driver gets every answer at once instead of waiting out half a second for
 * each that does not come. Commands: IBM PS/2 Technical Reference, "Keyboard and Auxiliary Device Controller". There is no mouse port.
 *
 *   port 0x60  read: output buffer         write: data of the pending command, else a byte for the keyboard
 *   port 0x64  read: status                write: command
 */
#include <errno.h>
#include <stdlib.h>

#include "vmm/state.h"
#include "vmm/vm.h"

#define I8042_DATA 0 /* offsets from port 0x60; 0x61..0x63 belong to others, who may claim them */
#define I8042_CTL  4

#define STATUS_OUT_FULL 0x01 /* the input-full bit, 0x02, is never set: writes are taken at once */
#define STATUS_TESTED	0x04
#define STATUS_COMMAND	0x08 /* the last write went to port 0x64 */
#define STATUS_UNLOCKED 0x10

#define CTR_KBD_INT 0x01
#define CTR_TESTED  0x04
#define CTR_KBD_OFF 0x10

#define CMD_READ_CTR   0x20
#define CMD_WRITE_CTR  0x60
#define CMD_TEST_AUX   0xa9
#define CMD_TEST_SELF  0xaa
#define CMD_TEST_KBD   0xab
#define CMD_KBD_OFF    0xad
#define CMD_KBD_ON     0xae
#define CMD_READ_OUTP  0xd0
#define CMD_WRITE_OUTP 0xd1
#define CMD_ECHO_KBD   0xd2
#define CMD_ECHO_AUX   0xd3
#define CMD_WRITE_AUX  0xd4
#define CMD_PULSE      0xf0 /* 0xf0..0xff: bits 0-3 say which output lines stay high */
#define OUTP_NOT_RESET 0x01
#define OUTP_A20       0x02

#define KBD_GET_ID 0xf2
#define KBD_RESET  0xff
#define KBD_ACK	   0xfa

#define I8042_QUEUE_SIZE 16

struct i8042_state {
	u8 ctr; /* the "command byte" */
	u8 outp;
	u8 pending; /* command that waits for its data byte, or 0 */
	bool last_was_command;
	u8 head, count;
	u8 queue[I8042_QUEUE_SIZE]; /* output buffer and what is to follow it, ring from head */
};

struct i8042 {
	struct device dev; /* first */
	struct i8042_state s;
	struct irq irq;
	u64 read_count, write_count, reset_count, missed_read_count, missed_write_count; /* metrics */
};

static struct i8042 *to_i8042(struct device *dev)
{
	return container_of(dev, struct i8042, dev);
}

/* The line follows "output buffer full". */
static void update_irq(struct i8042 *k)
{
	irq_set(&k->irq, k->s.count && (k->s.ctr & CTR_KBD_INT));
}

/* A guest that asks and never reads loses the surplus. */
static void push(struct i8042 *k, u8 byte)
{
	struct i8042_state *s = &k->s;

	if (s->count == I8042_QUEUE_SIZE)
		return;
	s->queue[(s->head + s->count) % I8042_QUEUE_SIZE] = byte;
	s->count++;
	update_irq(k);
}

/* An empty buffer shows its last byte again. The line drops in between, so that each byte makes an edge. */
static u8 pop(struct i8042 *k)
{
	struct i8042_state *s = &k->s;
	u8 byte = s->queue[s->head];

	if (s->count) {
		irq_set(&k->irq, false);
		s->count--;
		if (s->count)
			s->head = (u8)((s->head + 1) % I8042_QUEUE_SIZE);
		update_irq(k);
	}
	return byte;
}

/* The write returns as any other; the loop takes the VM down. */
static void reset_machine(struct i8042 *k)
{
	log_info(k->dev.vm->log, "the guest resets the machine through the keyboard controller");
	counter_add(&k->reset_count, 1);
	vm_end(k->dev.vm, VM_END_REBOOT);
}

/* A byte for the keyboard itself: every command is acknowledged, and its parameters are too, since none of them changes anything. */
static void keyboard_byte(struct i8042 *k, u8 byte)
{
	push(k, KBD_ACK);
	if (byte == KBD_RESET) {
		push(k, 0xaa); /* self-test passed */
	} else if (byte == KBD_GET_ID) {
		push(k, 0xab);
		push(k, 0x83);
	}
}

static void command_data(struct i8042 *k, u8 cmd, u8 byte)
{
	switch (cmd) {
	case CMD_WRITE_CTR:
		k->s.ctr = byte;
		update_irq(k);
		break;
	case CMD_WRITE_OUTP:
		k->s.outp = byte | OUTP_NOT_RESET;
		if (!(byte & OUTP_NOT_RESET))
			reset_machine(k);
		break;
	case CMD_ECHO_KBD:
	case CMD_ECHO_AUX: /* comes back as a byte of the keyboard: this is how a driver sees that there is no mouse port */
		push(k, byte);
		break;
	default: /* CMD_WRITE_AUX: nobody there */
		break;
	}
}

/* A new command forgets one that still waits for its data. */
static void command(struct i8042 *k, u8 cmd)
{
	k->s.pending = 0;
	switch (cmd) {
	case CMD_READ_CTR:
		push(k, k->s.ctr);
		break;
	case CMD_TEST_SELF:
		k->s.ctr |= CTR_TESTED;
		push(k, 0x55);
		break;
	case CMD_TEST_KBD:
		push(k, 0x00); /* no fault */
		break;
	case CMD_TEST_AUX:
		push(k, 0x01); /* clock line stuck: no port */
		break;
	case CMD_KBD_OFF:
		k->s.ctr |= CTR_KBD_OFF;
		break;
	case CMD_KBD_ON:
		k->s.ctr &= (u8)~CTR_KBD_OFF;
		break;
	case CMD_READ_OUTP:
		push(k, k->s.outp);
		break;
	case CMD_WRITE_CTR:
	case CMD_WRITE_OUTP:
	case CMD_ECHO_KBD:
	case CMD_ECHO_AUX:
	case CMD_WRITE_AUX:
		k->s.pending = cmd;
		break;
	default:
		if (cmd >= CMD_PULSE && !(cmd & OUTP_NOT_RESET))
			reset_machine(k);
		break;
	}
}

static u8 status(const struct i8042_state *s)
{
	return (u8)(STATUS_UNLOCKED | (s->ctr & CTR_TESTED ? STATUS_TESTED : 0) | (s->last_was_command ? STATUS_COMMAND : 0) |
		    (s->count ? STATUS_OUT_FULL : 0));
}

static void i8042_read(struct device *dev, u64 offset, void *data, u32 len)
{
	struct i8042 *k = to_i8042(dev);

	counter_add(len == 1 ? &k->read_count : &k->missed_read_count, 1);
	if (len != 1)
		return;
	if (offset == I8042_DATA)
		*(u8 *)data = pop(k);
	else
		*(u8 *)data = offset == I8042_CTL ? status(&k->s) : 0xff;
}

static void i8042_write(struct device *dev, u64 offset, const void *data, u32 len)
{
	struct i8042 *k = to_i8042(dev);
	u8 val = *(const u8 *)data, cmd = k->s.pending;

	counter_add(len == 1 ? &k->write_count : &k->missed_write_count, 1);
	if (len != 1 || (offset != I8042_DATA && offset != I8042_CTL))
		return;
	trace(dev->vm->trace, i8042_write, "port=%#x val=%#x", offset == I8042_CTL ? 0x64u : 0x60u, (unsigned int)val);
	k->s.last_was_command = offset == I8042_CTL;
	if (k->s.last_was_command) {
		command(k, val);
	} else if (cmd) {
		k->s.pending = 0;
		command_data(k, cmd, val);
	} else {
		keyboard_byte(k, val);
	}
}

static void i8042_read_ctl(struct device *dev, u64 offset, void *data, u32 len)
{
	i8042_read(dev, offset + I8042_CTL, data, len);
}

static void i8042_write_ctl(struct device *dev, u64 offset, const void *data, u32 len)
{
	i8042_write(dev, offset + I8042_CTL, data, len);
}

static const struct bus_ops i8042_data_ops = {.read = i8042_read, .write = i8042_write};
static const struct bus_ops i8042_ctl_ops = {.read = i8042_read_ctl, .write = i8042_write_ctl};

static void i8042_destroy(struct device *dev)
{
	struct i8042 *k = to_i8042(dev);

	irq_fini(&k->irq);
	device_fini(dev);
	free(k);
}

static int i8042_create(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct device **out,
			struct err *e)
{
	struct i8042 *k = xzalloc(sizeof(*k));
	int ret;

	(void)cfg;
	device_init(&k->dev, vm, cls, cls->name, slot);
	k->s = (struct i8042_state){.ctr = CTR_TESTED | CTR_KBD_INT, .outp = OUTP_NOT_RESET | OUTP_A20};
	if (slot->has_gsi)
		irq_init_level(&k->irq, vm, slot->gsi);
	ret = bus_add(vm, BUS_PIO, slot->pio_base + I8042_DATA, 1, &k->dev, &i8042_data_ops, e);
	if (ret == 0)
		ret = bus_add(vm, BUS_PIO, slot->pio_base + I8042_CTL, 1, &k->dev, &i8042_ctl_ops, e);
	if (ret < 0) {
		i8042_destroy(&k->dev);
		return ret;
	}
	*out = &k->dev;
	return 0;
}

/* Ctrl, Alt and Del go down and up again, in scan code set 2, which a controller without translation (CTR bit 6) passes on. The bytes are
 * queued as a whole or not at all: half of them would leave a key pressed. */
static int press_ctrl_alt_del(struct device *dev, const void *patch, struct err *e)
{
	static const u8 codes[] = {0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14};
	struct i8042 *k = to_i8042(dev);
	int ret = 0;

	(void)patch;
	device_lock(dev);
	if (sizeof(codes) > (size_t)(I8042_QUEUE_SIZE - k->s.count))
		ret = err_set(e, -EBUSY, "the guest has not read the last keys yet; try again");
	for (u32 i = 0; ret == 0 && i < sizeof(codes); i++)
		push(k, codes[i]);
	device_unlock(dev);
	return ret;
}

static const struct device_op i8042_ops[] = {
	{.path = "/ctrl-alt-del", .update = press_ctrl_alt_del, .help = "Presses Ctrl-Alt-Del."},
	{.path = NULL},
};

/* ---- saved state ---- */

static const struct state_field i8042_state_fields[] = {
	STATE_NUM(struct i8042_state, ctr, 1, .hex = true),
	STATE_NUM(struct i8042_state, outp, 2, .hex = true),
	STATE_NUM(struct i8042_state, pending, 3, .hex = true),
	STATE_FLAG(struct i8042_state, last_was_command, 4),
	STATE_NUM(struct i8042_state, head, 5, .max = I8042_QUEUE_SIZE - 1),
	STATE_NUM(struct i8042_state, count, 6, .max = I8042_QUEUE_SIZE),
	STATE_BUF(struct i8042_state, queue, 7),
	STATE_END,
};

static const struct state_table i8042_state_table = {
	.name = "i8042",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct i8042_state),
	.fields = i8042_state_fields,
};

static int i8042_save(struct device *dev, void *data, struct err *e)
{
	(void)e;
	device_lock(dev);
	*(struct i8042_state *)data = to_i8042(dev)->s;
	device_unlock(dev);
	return 0;
}

/* The line falls first, so that a byte that waits makes an edge. */
static void i8042_load(struct device *dev, const void *data)
{
	struct i8042 *k = to_i8042(dev);

	device_lock(dev);
	k->s = *(const struct i8042_state *)data;
	irq_set(&k->irq, false);
	update_irq(k);
	device_unlock(dev);
}

/* What the table bounds is all that can be wrong: any value of the registers is one that a guest can write. */
static const struct device_state i8042_device_state = {.table = &i8042_state_table, .save = i8042_save, .load = i8042_load};
static const struct device_state *const i8042_states[] = {&i8042_device_state, NULL};

/* ---- class ---- */

#define COUNTER(name) \
	{ \
#name, offsetof(struct i8042, name) \
	}
static const struct counter_desc i8042_counters[] = {
	COUNTER(read_count), COUNTER(write_count), COUNTER(reset_count), COUNTER(missed_read_count), COUNTER(missed_write_count), {NULL, 0},
};

const struct device_class i8042_class = {
	.name = "i8042",
	.metrics_group = "i8042",
	.counters = i8042_counters,
	.acpi_hid = "PNP0303",
	.ops = i8042_ops,
	.create = i8042_create,
	.destroy = i8042_destroy,
	.states = i8042_states,
};
