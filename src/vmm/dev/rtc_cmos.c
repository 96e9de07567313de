/*
 * rtc_cmos.c: the real-time clock and its battery-backed bytes (Motorola MC146818A; register names as in its data sheet).
 *
 * The clock is the host's CLOCK_REALTIME plus what the guest set it off by; it runs on while the VM is paused or on disk (snapshots save
 * the offset), as a battery clock does.
 * The time is latched as a whole when a guest begins to read it (register A or the seconds), so that it cannot change halfway, and the
 * update-in-progress bit is never set: no guest waits for it. DEVIATION: alarm and rate registers hold what is written, and nothing comes
 * of it; there is no interrupt. Guests have better timers.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "vmm/state.h"
#include "vmm/vm.h"

#define RTC_INDEX 0 /* offsets from port 0x70 */
#define RTC_DATA  1

#define RTC_SIZE    128	 /* bit 7 of the index masks NMI on a PC; nothing here does */
#define RTC_CENTURY 0x32 /* where the FADT says that it is */

enum {
	RTC_SEC,
	RTC_MIN = 2,
	RTC_HOUR = 4,
	RTC_WDAY = 6, /* 1 = Sunday */
	RTC_DAY,
	RTC_MONTH,
	RTC_YEAR,
	RTC_A,
	RTC_B,
	RTC_C,
	RTC_D,
};

#define RTC_A_UIP    0x80
#define RTC_A_RESET  0x26 /* 32768 Hz crystal, 1024 Hz rate; bit 7, update in progress, stays 0 */
#define RTC_B_SET    0x80 /* the guest is writing the time: the clock stands */
#define RTC_B_BINARY 0x04
#define RTC_B_24H    0x02
#define RTC_D_VALID  0x80
#define RTC_PM	     0x80 /* in RTC_HOUR, 12-hour mode */

#define RTC_OFFSET_MAX (1ll << 40)  /* seconds, 34,800 years: more than a guest can set */
#define RTC_LATCH_NS   NSEC_PER_SEC /* how long a reader that began with neither register A nor the seconds gets one and the same time */

struct rtc_state {
	u8 index;
	u8 regs[RTC_SIZE]; /* the time registers: as last latched, or as the guest wrote them */
	s64 offset;	   /* guest's time minus the host's, in seconds */
};

struct rtc {
	struct device dev; /* first */
	struct rtc_state s;
	u64 latched_ns; /* when; 0 = never */
};

static struct rtc *to_rtc(struct device *dev)
{
	return container_of(dev, struct rtc, dev);
}

static u8 encode(const struct rtc_state *s, int v)
{
	return (u8)(s->regs[RTC_B] & RTC_B_BINARY ? v : (v / 10) << 4 | v % 10);
}

static int decode(const struct rtc_state *s, u8 v)
{
	return s->regs[RTC_B] & RTC_B_BINARY ? v : (v >> 4) * 10 + (v & 0xf);
}

static u8 encode_hour(const struct rtc_state *s, int hour)
{
	if (s->regs[RTC_B] & RTC_B_24H)
		return encode(s, hour);
	return (u8)(encode(s, (hour + 11) % 12 + 1) | (hour >= 12 ? RTC_PM : 0));
}

static int decode_hour(const struct rtc_state *s, u8 v)
{
	if (s->regs[RTC_B] & RTC_B_24H)
		return decode(s, v);
	return decode(s, v & (u8)~RTC_PM) % 12 + (v & RTC_PM ? 12 : 0);
}

/* Host's clock -> time registers. */
static void latch(struct rtc *r)
{
	struct rtc_state *s = &r->s;
	time_t now = time(NULL) + s->offset;
	struct tm tm = {0};
	int year;

	gmtime_r(&now, &tm);
	year = MAX(tm.tm_year + 1900, 0); /* a guest may have set it to before our era */
	s->regs[RTC_SEC] = encode(s, tm.tm_sec);
	s->regs[RTC_MIN] = encode(s, tm.tm_min);
	s->regs[RTC_HOUR] = encode_hour(s, tm.tm_hour);
	s->regs[RTC_WDAY] = encode(s, tm.tm_wday + 1);
	s->regs[RTC_DAY] = encode(s, tm.tm_mday);
	s->regs[RTC_MONTH] = encode(s, tm.tm_mon + 1);
	s->regs[RTC_YEAR] = encode(s, year % 100);
	s->regs[RTC_CENTURY] = encode(s, year / 100);
	r->latched_ns = clock_host_ns();
}

/* Time registers -> offset from the host's clock. Whatever the guest wrote makes some time: timegm carries over. */
static void commit(struct rtc *r)
{
	struct rtc_state *s = &r->s;
	struct tm tm = {
		.tm_sec = decode(s, s->regs[RTC_SEC]),
		.tm_min = decode(s, s->regs[RTC_MIN]),
		.tm_hour = decode_hour(s, s->regs[RTC_HOUR]),
		.tm_mday = decode(s, s->regs[RTC_DAY]),
		.tm_mon = decode(s, s->regs[RTC_MONTH]) - 1,
		.tm_year = decode(s, s->regs[RTC_CENTURY]) * 100 + decode(s, s->regs[RTC_YEAR]) - 1900,
	};

	s->offset = timegm(&tm) - time(NULL);
}

static bool is_time(u8 reg)
{
	return reg == RTC_SEC || reg == RTC_MIN || reg == RTC_HOUR || (reg >= RTC_WDAY && reg <= RTC_YEAR) || reg == RTC_CENTURY;
}

static u8 read_data(struct rtc *r)
{
	struct rtc_state *s = &r->s;
	bool stale = clock_host_ns() - r->latched_ns >= RTC_LATCH_NS;

	if (!(s->regs[RTC_B] & RTC_B_SET) && (s->index == RTC_A || s->index == RTC_SEC || (is_time(s->index) && stale)))
		latch(r);
	return s->regs[s->index];
}

/* While the guest holds SET the registers are its own; when it lets go they become the time. */
static void write_b(struct rtc *r, u8 val)
{
	u8 old = r->s.regs[RTC_B];

	if (!(old & RTC_B_SET))
		latch(r);
	r->s.regs[RTC_B] = val;
	if ((old & RTC_B_SET) && !(val & RTC_B_SET))
		commit(r);
	r->latched_ns = 0;
}

static void write_data(struct rtc *r, u8 val)
{
	struct rtc_state *s = &r->s;
	bool set = s->regs[RTC_B] & RTC_B_SET;

	if (s->index == RTC_B) {
		write_b(r, val);
		return;
	}
	if (s->index == RTC_C || s->index == RTC_D)
		return; /* for reading */
	if (is_time(s->index) && !set)
		latch(r);
	s->regs[s->index] = s->index == RTC_A ? val & (u8)~RTC_A_UIP : val;
	if (is_time(s->index) && !set)
		commit(r);
}

static void rtc_read(struct device *dev, u64 offset, void *data, u32 len)
{
	struct rtc *r = to_rtc(dev);

	if (len == 1)
		*(u8 *)data = offset == RTC_DATA ? read_data(r) : 0xff; /* the index cannot be read back */
}

static void rtc_write(struct device *dev, u64 offset, const void *data, u32 len)
{
	struct rtc *r = to_rtc(dev);
	u8 val = *(const u8 *)data;

	if (len != 1)
		return;
	if (offset == RTC_INDEX)
		r->s.index = val % RTC_SIZE;
	else
		write_data(r, val);
}

static const struct bus_ops rtc_ops = {.read = rtc_read, .write = rtc_write};

static void rtc_destroy(struct device *dev)
{
	struct rtc *r = to_rtc(dev);

	device_fini(dev);
	free(r);
}

static int rtc_create(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct device **out,
		      struct err *e)
{
	struct rtc *r = xzalloc(sizeof(*r));
	int ret;

	(void)cfg;
	device_init(&r->dev, vm, cls, cls->name, slot);
	/* All else is zero, the memory sizes of a PC's BIOS (0x15-0x18, 0x30-0x35) too: RAM is found by other means. */
	r->s.regs[RTC_A] = RTC_A_RESET;
	r->s.regs[RTC_B] = RTC_B_24H;
	r->s.regs[RTC_D] = RTC_D_VALID;
	ret = bus_add(vm, BUS_PIO, slot->pio_base, slot->pio_len, &r->dev, &rtc_ops, e);
	if (ret < 0) {
		rtc_destroy(&r->dev);
		return ret;
	}
	*out = &r->dev;
	return 0;
}

/* ---- saved state ---- */

static const struct state_field rtc_state_fields[] = {
	STATE_NUM(struct rtc_state, index, 1, .max = RTC_SIZE - 1, .hex = true),
	STATE_BUF(struct rtc_state, regs, 2),
	STATE_NUM(struct rtc_state, offset, 3),
	STATE_END,
};

static const struct state_table rtc_state_table = {
	.name = "rtc_cmos",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct rtc_state),
	.fields = rtc_state_fields,
};

static int rtc_save(struct device *dev, void *data, struct err *e)
{
	(void)e;
	device_lock(dev);
	*(struct rtc_state *)data = to_rtc(dev)->s;
	device_unlock(dev);
	return 0;
}

static int rtc_check(struct device *dev, const void *data, struct err *e)
{
	const struct rtc_state *s = data;

	(void)dev;
	if (s->offset < -RTC_OFFSET_MAX || s->offset > RTC_OFFSET_MAX)
		return err_set(e, -EINVAL, "offset: no guest can set its clock %lld seconds off", (long long)s->offset);
	if (s->regs[RTC_A] & RTC_A_UIP)
		return err_set(e, -EINVAL, "regs: an update is in progress, which never is");
	return 0;
}

/* The next reader gets the time of now: one that was halfway through the registers sees that the seconds have changed. */
static void rtc_load(struct device *dev, const void *data)
{
	struct rtc *r = to_rtc(dev);

	device_lock(dev);
	r->s = *(const struct rtc_state *)data;
	r->latched_ns = 0;
	device_unlock(dev);
}

static const struct device_state rtc_device_state = {.table = &rtc_state_table, .save = rtc_save, .check = rtc_check, .load = rtc_load};
static const struct device_state *const rtc_states[] = {&rtc_device_state, NULL};

const struct device_class rtc_cmos_class = {
	.name = "rtc_cmos",
	.acpi_hid = "PNP0B00",
	.create = rtc_create,
	.destroy = rtc_destroy,
	.states = rtc_states,
};
