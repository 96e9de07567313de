/*
 * rtc_pl031.c: the wall clock of an arm64 machine, an ARM PrimeCell PL031 (DDI 0224; register names are its own): seconds since 1970 in
 * UTC, which the guest may set for itself. The alarm matches nothing: no guest of a VM that sleeps is woken by it.
 */
#include <stdlib.h>
#include <time.h>

#include "vmm/state.h"
#include "vmm/vm.h"

enum { RTC_DR = 0x00, RTC_MR = 0x04, RTC_LR = 0x08, RTC_CR = 0x0c, RTC_IMSC = 0x10, RTC_ID = 0xfe0 };

struct pl031_state {
	u32 offset; /* of the guest's clock against the host's, modulo 2^32 */
	u32 load, match, mask;
};

struct pl031 {
	struct device dev; /* first */
	struct pl031_state s;
};

static struct pl031 *to_pl031(struct device *dev)
{
	return container_of(dev, struct pl031, dev);
}

static u32 host_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (u32)ts.tv_sec;
}

/* PeriphID 0x00041031 and the PrimeCell's own, a byte in each word. */
static u32 id_register(u64 offset)
{
	static const u8 id[] = {0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1};

	return id[(offset - RTC_ID) / 4];
}

static void pl031_read(struct device *dev, u64 offset, void *data, u32 len)
{
	const struct pl031 *r = to_pl031(dev);
	u32 v = 0; /* interrupt status too: the alarm never goes off */

	if (len != 4 || offset % 4)
		return;
	if (offset == RTC_DR)
		v = host_seconds() + r->s.offset;
	else if (offset == RTC_MR)
		v = r->s.match;
	else if (offset == RTC_LR)
		v = r->s.load;
	else if (offset == RTC_CR)
		v = 1; /* always on */
	else if (offset == RTC_IMSC)
		v = r->s.mask;
	else if (offset >= RTC_ID)
		v = id_register(offset);
	st_le32(data, v);
}

static void pl031_write(struct device *dev, u64 offset, const void *data, u32 len)
{
	struct pl031 *r = to_pl031(dev);
	u32 v;

	if (len != 4)
		return;
	v = ld_le32(data);
	if (offset == RTC_LR) {
		r->s.load = v;
		r->s.offset = v - host_seconds();
	} else if (offset == RTC_MR) {
		r->s.match = v;
	} else if (offset == RTC_IMSC) {
		r->s.mask = v & 1;
	}
}

static const struct bus_ops pl031_ops = {.read = pl031_read, .write = pl031_write};

static void pl031_destroy(struct device *dev)
{
	struct pl031 *r = to_pl031(dev);

	device_fini(dev);
	free(r);
}

static int pl031_create(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct device **out,
			struct err *e)
{
	struct pl031 *r = xzalloc(sizeof(*r));
	int ret;

	(void)cfg;
	device_init(&r->dev, vm, cls, cls->name, slot);
	ret = bus_add(vm, BUS_MMIO, slot->mmio_base, slot->mmio_len, &r->dev, &pl031_ops, e);
	if (ret < 0) {
		pl031_destroy(&r->dev);
		return ret;
	}
	*out = &r->dev;
	return 0;
}

/* ---- saved state ---- */

static const struct state_field pl031_state_fields[] = {
	STATE_NUM(struct pl031_state, offset, 1),
	STATE_NUM(struct pl031_state, load, 2),
	STATE_NUM(struct pl031_state, match, 3),
	STATE_NUM(struct pl031_state, mask, 4, .max = 1),
	STATE_END,
};

static const struct state_table pl031_state_table = {
	.name = "rtc_pl031",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct pl031_state),
	.fields = pl031_state_fields,
};

static int pl031_save(struct device *dev, void *data, struct err *e)
{
	(void)e;
	device_lock(dev);
	*(struct pl031_state *)data = to_pl031(dev)->s;
	device_unlock(dev);
	return 0;
}

static void pl031_load(struct device *dev, const void *data)
{
	device_lock(dev);
	to_pl031(dev)->s = *(const struct pl031_state *)data;
	device_unlock(dev);
}

static const struct device_state pl031_device_state = {.table = &pl031_state_table, .save = pl031_save, .load = pl031_load};
static const struct device_state *const pl031_states[] = {&pl031_device_state, NULL};

const struct device_class rtc_pl031_class = {
	.name = "rtc_pl031",
	.create = pl031_create,
	.destroy = pl031_destroy,
	.states = pl031_states,
};
