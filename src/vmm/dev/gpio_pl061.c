/*
 * gpio_pl061.c: the power button of an arm64 machine: a GPIO controller, ARM PrimeCell PL061 (DDI 0190; register names are its own), with
 * the button on one of its eight lines. The device tree says so to Linux' gpio-keys (src/arch/aarch64/fdt.c); the other lines are not
 * connected.
 *
 * A press holds the line high as a finger does, since drivers look again some milliseconds after an edge: until the guest has taken the
 * edge, however busy it is, and LOOK_NS more. While the VM is paused it stays pressed.
 */
#include <errno.h>
#include <stdlib.h>

#include "vmm/clock.h"
#include "vmm/state.h"
#include "vmm/vm.h"

#define BUTTON	(1u << 3) /* line 3: the number in the device tree */
#define LOOK_NS (100 * NSEC_PER_MSEC)

/* GPIODATA takes up all below GPIODIR: bits [9:2] of the address say which lines an access is for. */
enum {
	GPIODIR = 0x400,
	GPIOIS = 0x404,
	GPIOIBE = 0x408,
	GPIOIEV = 0x40c,
	GPIOIE = 0x410,
	GPIORIS = 0x414,
	GPIOMIS = 0x418,
	GPIOIC = 0x41c,
	GPIOAFSEL = 0x420,
	GPIO_ID = 0xfe0,
};

/* A bit for each line. */
struct pl061_state {
	u8 data;     /* what the guest drives, where it is an output */
	u8 in;	     /* what comes from outside */
	u8 dir;	     /* 1: an output */
	u8 is;	     /* an interrupt by 1: level, 0: edge */
	u8 ibe, iev; /* by both edges; else by 1: the rising one or high, 0: the falling one or low */
	u8 ie;	     /* 0: masked */
	u8 afsel;
	u8 edges; /* seen and not cleared */
};

struct pl061 {
	struct device dev; /* first */
	struct irq irq;
	struct loop_timer look; /* while the button is pressed, every LOOK_NS. ctx: loop */
	bool taken;		/* the edge of the press, at the last look. ctx: loop */
	struct pl061_state s;
};

static struct pl061 *to_pl061(struct device *dev)
{
	return container_of(dev, struct pl061, dev);
}

static u8 lines(const struct pl061_state *s)
{
	return (u8)((s->data & s->dir) | (s->in & ~s->dir));
}

static u8 raw_interrupts(const struct pl061_state *s)
{
	return (u8)((s->edges & ~s->is) | (~(lines(s) ^ s->iev) & s->is));
}

/* After a change; before: the lines as they were then. */
static void update(struct pl061 *g, u8 before)
{
	struct pl061_state *s = &g->s;
	u8 now = lines(s), edges = now ^ before;

	s->edges |= edges & ~s->is & (s->ibe | (u8) ~(now ^ s->iev));
	irq_set(&g->irq, raw_interrupts(s) & s->ie);
}

/* PeriphID 0x00041061 and the PrimeCell's own, a byte in each word. */
static u8 id_register(u64 offset)
{
	static const u8 id[] = {0x61, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1};

	return id[(offset - GPIO_ID) / 4];
}

/* The register at offset that is just a byte, or NULL. */
static u8 *plain_register(struct pl061_state *s, u64 offset)
{
	switch (offset) {
	case GPIODIR:
		return &s->dir;
	case GPIOIS:
		return &s->is;
	case GPIOIBE:
		return &s->ibe;
	case GPIOIEV:
		return &s->iev;
	case GPIOIE:
		return &s->ie;
	case GPIOAFSEL:
		return &s->afsel;
	default:
		return NULL;
	}
}

/* Registers are bytes at addresses of words; what is read beyond the byte is 0. */
static void pl061_read(struct device *dev, u64 offset, void *data, u32 len)
{
	struct pl061_state *s = &to_pl061(dev)->s;
	const u8 *plain = plain_register(s, offset);
	u8 v = 0;

	(void)len;
	if (offset % 4)
		return;
	if (plain)
		v = *plain;
	else if (offset < GPIODIR)
		v = (u8)(lines(s) & offset >> 2);
	else if (offset == GPIORIS)
		v = raw_interrupts(s);
	else if (offset == GPIOMIS)
		v = raw_interrupts(s) & s->ie;
	else if (offset >= GPIO_ID)
		v = id_register(offset);
	*(u8 *)data = v;
}

static void pl061_write(struct device *dev, u64 offset, const void *data, u32 len)
{
	struct pl061 *g = to_pl061(dev);
	u8 *plain = plain_register(&g->s, offset), before = lines(&g->s), v = *(const u8 *)data;

	(void)len;
	if (offset % 4)
		return;
	if (plain) {
		*plain = v;
	} else if (offset < GPIODIR) {
		u8 mask = (u8)(offset >> 2) & g->s.dir;

		g->s.data = (u8)((g->s.data & ~mask) | (v & mask));
	} else if (offset == GPIOIC) {
		g->s.edges &= (u8)~v;
	}
	update(g, before);
}

static const struct bus_ops pl061_ops = {.read = pl061_read, .write = pl061_write};

/* ---- the button ---- */

static void set_button(struct pl061 *g, bool pressed)
{
	u8 before = lines(&g->s);

	g->s.in = pressed ? BUTTON : 0;
	update(g, before);
}

static void look_again(struct pl061 *g, bool taken)
{
	g->taken = taken;
	loop_timer_arm(&g->dev.vm->loop, &g->look, clock_host_ns() + LOOK_NS);
}

static void look(struct loop_timer *t)
{
	struct pl061 *g = container_of(t, struct pl061, look);
	bool taken;

	device_lock(&g->dev);
	taken = !(g->s.edges & BUTTON);
	if (taken && g->taken)
		set_button(g, false);
	device_unlock(&g->dev);
	if (!taken || !g->taken)
		look_again(g, taken);
}

static int press_button(struct device *dev, const void *patch, struct err *e)
{
	struct pl061 *g = to_pl061(dev);
	bool heard;

	(void)patch;
	device_lock(dev);
	heard = g->s.ie & ~g->s.dir & BUTTON;
	if (heard)
		set_button(g, true);
	device_unlock(dev);
	if (!heard)
		return err_set(e, -ENODEV,
			       "the guest does not listen to its power button: its kernel has to have the driver gpio_keys loaded");
	if (!dev->vm->clock.paused) /* else resume does */
		look_again(g, false);
	return 0;
}

static const struct device_op pl061_device_ops[] = {
	{.path = "/power-button", .update = press_button, .help = "Presses the power button."},
	{.path = NULL},
};

static void pl061_quiesce(struct device *dev)
{
	loop_timer_cancel(&dev->vm->loop, &to_pl061(dev)->look);
}

static void pl061_resume(struct device *dev)
{
	struct pl061 *g = to_pl061(dev);

	if (g->s.in & BUTTON)
		look_again(g, false);
}

/* ---- saved state ---- */

static const struct state_field pl061_state_fields[] = {
	STATE_NUM(struct pl061_state, data, 1, .hex = true),  STATE_NUM(struct pl061_state, in, 2, .hex = true, .max = BUTTON),
	STATE_NUM(struct pl061_state, dir, 3, .hex = true),   STATE_NUM(struct pl061_state, is, 4, .hex = true),
	STATE_NUM(struct pl061_state, ibe, 5, .hex = true),   STATE_NUM(struct pl061_state, iev, 6, .hex = true),
	STATE_NUM(struct pl061_state, ie, 7, .hex = true),    STATE_NUM(struct pl061_state, afsel, 8, .hex = true),
	STATE_NUM(struct pl061_state, edges, 9, .hex = true), STATE_END,
};

static const struct state_table pl061_state_table = {
	.name = "gpio_pl061",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct pl061_state),
	.fields = pl061_state_fields,
};

static int pl061_save(struct device *dev, void *data, struct err *e)
{
	(void)e;
	device_lock(dev);
	*(struct pl061_state *)data = to_pl061(dev)->s;
	device_unlock(dev);
	return 0;
}

static void pl061_load(struct device *dev, const void *data)
{
	struct pl061 *g = to_pl061(dev);

	device_lock(dev);
	g->s = *(const struct pl061_state *)data;
	irq_set(&g->irq, false);
	update(g, lines(&g->s));
	device_unlock(dev);
}

static const struct device_state pl061_device_state = {.table = &pl061_state_table, .save = pl061_save, .load = pl061_load};
static const struct device_state *const pl061_states[] = {&pl061_device_state, NULL};

/* ---- class ---- */

static void pl061_destroy(struct device *dev)
{
	struct pl061 *g = to_pl061(dev);

	loop_timer_cancel(&dev->vm->loop, &g->look);
	irq_fini(&g->irq);
	device_fini(dev);
	free(g);
}

static int pl061_create(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct device **out,
			struct err *e)
{
	struct pl061 *g = xzalloc(sizeof(*g));
	int ret;

	(void)cfg;
	device_init(&g->dev, vm, cls, cls->name, slot);
	g->look = (struct loop_timer){.expired = look};
	irq_init_level(&g->irq, vm, slot->gsi);
	ret = bus_add(vm, BUS_MMIO, slot->mmio_base, slot->mmio_len, &g->dev, &pl061_ops, e);
	if (ret < 0) {
		pl061_destroy(&g->dev);
		return ret;
	}
	*out = &g->dev;
	return 0;
}

const struct device_class gpio_pl061_class = {
	.name = "gpio_pl061",
	.ops = pl061_device_ops,
	.create = pl061_create,
	.destroy = pl061_destroy,
	.quiesce = pl061_quiesce,
	.resume = pl061_resume,
	.states = pl061_states,
};
