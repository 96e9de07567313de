/*
 * balloon.c: the virtio memory balloon (virtio 1.2 §5.5): class, configuration section "balloon", what the API may ask; balloon_io.c has
 * the queues.
 *
 *   inflate    the guest hands over pages: they go back to the host, and read as zeroes when the guest takes them again
 *   deflate    it takes some back: nothing to do, a page costs memory again when it is touched
 *   stats      one buffer with statistics, which the device keeps until it wants newer ones
 *   hinting    on request, the guest lists its free pages, and holds them until it is told that the run is over
 *   reporting  the guest tells of free pages all the time
 */
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/balloon_dev.h"
#include "vmm/clock.h"
#include "vmm/config.h"

#define VIRTIO_ID_BALLOON  5
#define BALLOON_CONFIG_LEN ((u32)offsetof(struct virtio_balloon_config, poison_val))
#define PAGES_PER_MIB	   (MIB / MEM_PAGE_SIZE)

/* Bytes of b->held. */
static u64 held_size(const struct vm *vm)
{
	return (vm->mem.size / MEM_PAGE_SIZE + 63) / 64 * sizeof(u64);
}

/* ---- statistics ---- */

static void arm_stats_timer(struct virtio_balloon *b)
{
	loop_timer_arm(&b->vdev.dev.vm->loop, &b->stats_timer, clock_host_ns() + b->stats_interval_s * NSEC_PER_SEC);
}

static void want_stats(struct virtio_balloon *b)
{
	device_lock(&b->vdev.dev);
	if (b->vdev.live && !b->paused)
		balloon_release_stats(b);
	device_unlock(&b->vdev.dev);
	arm_stats_timer(b);
}

static void stats_due(struct loop_timer *t)
{
	want_stats(container_of(t, struct virtio_balloon, stats_timer));
}

/* ---- life ---- */

/* Optional queues have no fixed numbers: drivers leave no gap where a feature was not negotiated. DEVIATION: virtio 1.2 §5.5.2 numbers them
 * 2, 3, 4; Linux, QEMU and Firecracker do as is done here. */
void balloon_give_roles(struct virtio_balloon *b)
{
	const struct virtio_dev *vdev = &b->vdev;
	u32 n = 0;

	b->roles[n++] = INFLATE;
	b->roles[n++] = DEFLATE;
	if (virtio_has(vdev, VIRTIO_BALLOON_F_STATS_VQ))
		b->roles[n++] = STATS;
	if (virtio_has(vdev, VIRTIO_BALLOON_F_FREE_PAGE_HINT))
		b->roles[n++] = HINTING;
	while (n < NR_ROLES)
		b->roles[n++] = REPORTING; /* the last one, if it is there at all */
	for (u32 i = 0; i < MIN(vdev->nr_queues, NR_ROLES); i++)
		vdev->queues[i].names_pages = b->roles[i] == HINTING || b->roles[i] == REPORTING;
}

static int balloon_activate(struct virtio_dev *vdev)
{
	balloon_give_roles(container_of(vdev, struct virtio_balloon, vdev));
	return 0;
}

/* The driver starts anew with an empty balloon. What is held ends here. */
static bool balloon_reset(struct virtio_dev *vdev)
{
	struct virtio_balloon *b = container_of(vdev, struct virtio_balloon, vdev);

	balloon_drop_job(b);
	balloon_release_stats(b);
	b->stats_known = 0;
	b->guest_cmd_known = false;
	b->space.actual = 0;
	st_le32(&b->space.free_page_hint_cmd_id, VIRTIO_BALLOON_CMD_ID_STOP);
	if (b->held)
		memset(b->held, 0, held_size(vdev->dev.vm));
	return true;
}

static void balloon_config_read(struct virtio_dev *vdev, u32 off, void *data, u32 len)
{
	memcpy(data, (const u8 *)&container_of(vdev, struct virtio_balloon, vdev)->space + off, len);
}

/* The driver says how many pages it has handed over; the rest is the device's. */
static void balloon_config_write(struct virtio_dev *vdev, u32 off, const void *data, u32 len)
{
	struct virtio_balloon *b = container_of(vdev, struct virtio_balloon, vdev);

	if (off == offsetof(struct virtio_balloon_config, actual) && len == sizeof(b->space.actual))
		memcpy(&b->space.actual, data, len);
	else
		balloon_count(&b->counters.cfg_fails, 1);
}

static const struct virtio_ops balloon_ops = {
	.activate = balloon_activate,
	.queue_kick = balloon_kick,
	.reset = balloon_reset,
	.config_read = balloon_config_read,
	.config_write = balloon_config_write,
};

/* ---- what can be asked while the VM runs ---- */

static int check_live(const struct virtio_balloon *b, struct err *e)
{
	if (b->vdev.live)
		return 0;
	return err_set(e, -EINVAL, "Device is inactive, check if balloon driver is enabled in guest kernel.");
}

static int check_feature(bool enabled, const char *what, const char *key, struct err *e)
{
	if (enabled)
		return 0;
	return err_set(e, -EINVAL, "%s for the balloon device is not enabled: set %s before the start", what, key);
}

static int update_amount(struct device *dev, const void *patch, struct err *e)
{
	struct virtio_balloon *b = to_balloon(dev);
	u64 amount_mib = *(const u64 *)patch;
	int ret;

	if (amount_mib > dev->vm->mem.size / MIB)
		return err_set(e, -EINVAL, "Amount of pages requested is too large.");
	device_lock(dev);
	ret = check_live(b, e);
	if (ret == 0) {
		st_le32(&b->space.num_pages, (u32)(amount_mib * PAGES_PER_MIB));
		virtio_config_changed(&b->vdev);
	}
	device_unlock(dev);
	return ret;
}

static int get_config(struct device *dev, struct json_object *out, struct err *e)
{
	struct virtio_balloon *b = to_balloon(dev);

	(void)e;
	device_lock(dev);
	json_object_object_add(out, "amount_mib", json_object_new_uint64(ld_le32(&b->space.num_pages) / PAGES_PER_MIB));
	device_unlock(dev);
	json_object_object_add(out, "deflate_on_oom", json_object_new_boolean(b->cfg->deflate_on_oom));
	json_object_object_add(out, "stats_polling_interval_s", json_object_new_uint64(b->stats_interval_s));
	json_object_object_add(out, "free_page_hinting", json_object_new_boolean(b->cfg->free_page_hinting));
	json_object_object_add(out, "free_page_reporting", json_object_new_boolean(b->cfg->free_page_reporting));
	return 0;
}

static int update_stats_interval(struct device *dev, const void *patch, struct err *e)
{
	struct virtio_balloon *b = to_balloon(dev);
	u64 interval_s = *(const u64 *)patch;

	if (interval_s == b->stats_interval_s)
		return 0;
	if (!interval_s || !b->stats_interval_s)
		return err_set(e, -EINVAL, "Cannot enable/disable the statistics after boot.");
	b->stats_interval_s = interval_s;
	want_stats(b);
	return 0;
}

/* Tags of statistics, by number. */
static const char *const stat_names[BALLOON_STATS] = {
	"swap_in",	    "swap_out",	   "major_faults",	  "minor_faults",     "free_memory", "total_memory",
	"available_memory", "disk_caches", "hugetlb_allocations", "hugetlb_failures", "oom_kill",    "alloc_stall",
	"async_scan",	    "direct_scan", "async_reclaim",	  "direct_reclaim",
};

static int get_stats(struct device *dev, struct json_object *out, struct err *e)
{
	struct virtio_balloon *b = to_balloon(dev);
	u32 target, actual;

	if (!b->stats_interval_s)
		return err_set(e, -EINVAL,
			       "Statistics for the balloon device are not enabled: set stats_polling_interval_s before the start");
	device_lock(dev);
	target = ld_le32(&b->space.num_pages);
	actual = ld_le32(&b->space.actual);
	json_object_object_add(out, "target_pages", json_object_new_uint64(target));
	json_object_object_add(out, "actual_pages", json_object_new_uint64(actual));
	json_object_object_add(out, "target_mib", json_object_new_uint64(target / PAGES_PER_MIB));
	json_object_object_add(out, "actual_mib", json_object_new_uint64(actual / PAGES_PER_MIB));
	for (u32 i = 0; i < BALLOON_STATS; i++) {
		if (b->stats_known >> i & 1)
			json_object_object_add(out, stat_names[i], json_object_new_uint64(b->stats[i]));
	}
	device_unlock(dev);
	return 0;
}

static int check_hinting(const struct virtio_balloon *b, struct err *e)
{
	int ret = check_feature(b->cfg->free_page_hinting, "Free page hinting", "free_page_hinting", e);

	return ret < 0 ? ret : check_live(b, e);
}

static int start_hinting(struct device *dev, const void *patch, struct err *e)
{
	struct virtio_balloon *b = to_balloon(dev);
	int ret;

	device_lock(dev);
	ret = check_hinting(b, e);
	if (ret == 0) {
		b->last_cmd = MAX(b->last_cmd + 1, VIRTIO_BALLOON_CMD_ID_DONE + 1u); /* 0 and 1 say STOP and DONE */
		b->acknowledge_on_stop = *(const bool *)patch;
		balloon_set_host_cmd(b, b->last_cmd);
	}
	device_unlock(dev);
	return ret;
}

static int stop_hinting(struct device *dev, const void *patch, struct err *e)
{
	struct virtio_balloon *b = to_balloon(dev);
	int ret;

	(void)patch;
	device_lock(dev);
	ret = check_hinting(b, e);
	if (ret == 0)
		balloon_set_host_cmd(b, VIRTIO_BALLOON_CMD_ID_DONE);
	device_unlock(dev);
	return ret;
}

static int get_hinting(struct device *dev, struct json_object *out, struct err *e)
{
	struct virtio_balloon *b = to_balloon(dev);
	int ret = check_feature(b->cfg->free_page_hinting, "Free page hinting", "free_page_hinting", e);

	if (ret < 0)
		return ret;
	device_lock(dev);
	json_object_object_add(out, "host_cmd", json_object_new_uint64(balloon_host_cmd(b)));
	json_object_object_add(out, "guest_cmd", b->guest_cmd_known ? json_object_new_uint64(b->guest_cmd) : NULL);
	device_unlock(dev);
	return 0;
}

#define PATCH_TABLE(n, fields_, type, h) \
	{ \
		.name = (n), .help = (h), .size = sizeof(type), .fields = (fields_), .nr_fields = ARRAY_SIZE(fields_) \
	}
#define AMOUNT	 .key = "amount_mib", .type = CFG_INT, .required = true, .max = UINT32_MAX
#define INTERVAL .key = "stats_polling_interval_s", .type = CFG_INT, .max = UINT16_MAX

static const struct cfg_field amount_fields[] = {{AMOUNT, .help = "target size in MiB"}};
static const struct cfg_table amount_table = PATCH_TABLE("balloon-update", amount_fields, u64, "The balloon's target size.");
static const struct cfg_field interval_fields[] = {
	{INTERVAL, .required = true, .help = "seconds between two updates; statistics cannot be switched on or off"},
};
static const struct cfg_table interval_table = PATCH_TABLE("balloon-statistics", interval_fields, u64, "How often the guest is asked.");
static const struct cfg_field start_fields[] = {
	{.key = "acknowledge_on_stop", .type = CFG_BOOL, .dflt = "true", .help = "end the run as soon as the guest has listed all it had"},
};
static const struct cfg_table start_table = PATCH_TABLE("balloon-hinting", start_fields, bool, "A run of free page hinting.");

static const struct device_op balloon_device_ops[] = {
	{.path = "",
	 .patch = &amount_table,
	 .update = update_amount,
	 .status = get_config,
	 .before_start = true,
	 .help = "The balloon's configuration; PATCH sets its target size."},
	{.path = "/statistics",
	 .patch = &interval_table,
	 .update = update_stats_interval,
	 .status = get_stats,
	 .help = "What the guest says of its memory."},
	{.path = "/hinting/start",
	 .patch = &start_table,
	 .update = start_hinting,
	 .help = "Asks the guest for its free pages; they go back to the host, and stay with the balloon until the run ends."},
	{.path = "/hinting/status",
	 .status = get_hinting,
	 .help = "Numbers of the last run: the host's, and the guest's answer (0: done)."},
	{.path = "/hinting/stop", .update = stop_hinting, .help = "Ends the run: the guest may use the pages again."},
	{.path = NULL},
};

/* ---- class ---- */

static void balloon_destroy(struct device *dev)
{
	struct virtio_balloon *b = to_balloon(dev);

	loop_timer_cancel(&dev->vm->loop, &b->stats_timer);
	virtio_fini(&b->vdev);
	device_fini(dev);
	free(b->held);
	free(b);
}

static u64 offered_features(const struct virtio_balloon *b)
{
	u64 f = b->held ? BIT(VIRTIO_BALLOON_F_MUST_TELL_HOST) : 0;

	if (b->cfg->deflate_on_oom)
		f |= BIT(VIRTIO_BALLOON_F_DEFLATE_ON_OOM);
	if (b->cfg->stats_polling_interval_s)
		f |= BIT(VIRTIO_BALLOON_F_STATS_VQ);
	if (b->cfg->free_page_hinting)
		f |= BIT(VIRTIO_BALLOON_F_FREE_PAGE_HINT);
	if (b->cfg->free_page_reporting)
		f |= BIT(VIRTIO_BALLOON_F_REPORTING);
	return f;
}

static int balloon_create(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct device **out,
			  struct err *e)
{
	struct virtio_balloon *b = xzalloc(sizeof(*b));
	int ret;

	b->cfg = cfg;
	device_init(&b->vdev.dev, vm, cls, "balloon", slot);
	b->stats_interval_s = b->cfg->stats_polling_interval_s;
	b->stats_timer.expired = stats_due;
	st_le32(&b->space.num_pages, (u32)(b->cfg->amount_mib * PAGES_PER_MIB));
	if (vm->mem.huge == MEM_HUGE_2M)
		b->held = xzalloc(held_size(vm));
	b->vdev.ops = &balloon_ops;
	b->vdev.type = VIRTIO_ID_BALLOON;
	b->vdev.config_len = BALLOON_CONFIG_LEN;
	b->vdev.features = offered_features(b);
	ret = virtio_init(&b->vdev, (u16)(2 + !!b->stats_interval_s + b->cfg->free_page_hinting + b->cfg->free_page_reporting), e);
	if (ret < 0) {
		balloon_destroy(&b->vdev.dev);
		return ret;
	}
	*out = &b->vdev.dev;
	return 0;
}

static int balloon_start(struct device *dev, struct err *e)
{
	struct virtio_balloon *b = to_balloon(dev);

	(void)e;
	if (b->stats_interval_s)
		arm_stats_timer(b);
	return 0;
}

/* A request that is under way ends first: its buffer is the guest's state then. So is that of the statistics; the guest fills it anew when
 * it runs on. */
static void balloon_quiesce(struct device *dev)
{
	struct virtio_balloon *b = to_balloon(dev);

	device_lock(dev);
	b->paused = true;
	balloon_finish_job(b);
	balloon_release_stats(b);
	device_unlock(dev);
}

static void balloon_resume(struct device *dev)
{
	struct virtio_balloon *b = to_balloon(dev);

	device_lock(dev);
	b->paused = false;
	device_unlock(dev);
	virtio_resume(&b->vdev);
}

static int balloon_check_fit(const void *cfg, const struct config *c, struct err *e)
{
	const struct balloon_cfg *b = cfg;

	if (b->amount_mib > c->machine->mem_size_mib)
		return err_set(e, -EINVAL, "Amount of pages requested is too large. The VM has %llu MiB of memory.",
			       (unsigned long long)c->machine->mem_size_mib);
	return 0;
}

#define AT(member) .offset = offsetof(struct balloon_cfg, member)
static const struct cfg_field balloon_fields[] = {
	{AMOUNT, AT(amount_mib), .dflt = "0", .help = "memory that the guest shall hand over, in MiB; at most its own"},
	{.key = "deflate_on_oom",
	 .type = CFG_BOOL,
	 AT(deflate_on_oom),
	 .required = true,
	 .dflt = "false",
	 .help = "the guest may take pages back rather than kill a process"},
	{INTERVAL, AT(stats_polling_interval_s), .dflt = "0", .help = "seconds between two updates of the guest's statistics; 0: none"},
	{.key = "free_page_hinting",
	 .type = CFG_BOOL,
	 AT(free_page_hinting),
	 .dflt = "false",
	 .help = "offer the guest to list its free pages when the API asks for them"},
	{.key = "free_page_reporting",
	 .type = CFG_BOOL,
	 AT(free_page_reporting),
	 .dflt = "false",
	 .help = "offer the guest to report pages as they become free; they go back to the host at once"},
};

static const struct cfg_table balloon_table = {
	.name = "balloon",
	.help = "a virtio memory balloon: memory that the guest does not need goes back to the host",
	.size = sizeof(struct balloon_cfg),
	.fields = balloon_fields,
	.nr_fields = ARRAY_SIZE(balloon_fields),
};

static const struct cfg_alias balloon_aliases[] = {
	{"oom", "deflate_on_oom", "true"},
	{"stats", "stats_polling_interval_s", NULL},
	{"hinting", "free_page_hinting", "true"},
	{"reporting", "free_page_reporting", "true"},
	{0},
};

static const struct cfg_flag balloon_flag = {
	.name = "balloon",
	.positional = "amount_mib",
	.aliases = balloon_aliases,
	.usage = "MIB[,oom][,stats=SECONDS][,hinting][,reporting]",
	.help = "a memory balloon",
};

#define COUNTER(name) \
	{ \
#name, offsetof(struct virtio_balloon, counters.name) \
	}
static const struct counter_desc balloon_counters[] = {
	COUNTER(activate_fails),
	COUNTER(cfg_fails),
	COUNTER(inflate_count),
	COUNTER(deflate_count),
	COUNTER(stats_updates_count),
	COUNTER(stats_update_fails),
	COUNTER(event_fails),
	COUNTER(free_page_report_count),
	COUNTER(free_page_report_freed),
	COUNTER(free_page_report_fails),
	COUNTER(free_page_hint_count),
	COUNTER(free_page_hint_freed),
	COUNTER(free_page_hint_fails),
	{NULL, 0},
};

static const char *const balloon_syscalls[] = {"fallocate", "lseek", "mmap", "madvise", NULL};

static const struct device_state *const balloon_states[] = {&virtio_core_state, &balloon_device_state, NULL};

const struct device_class virtio_balloon_class = {
	.name = "virtio-balloon",
	.section = "balloon",
	.config = &balloon_table,
	.flag = &balloon_flag,
	.check_fit = balloon_check_fit,
	.ops = balloon_device_ops,
	.syscalls = balloon_syscalls,
	.mmio_slot = true,
	.metrics_group = "balloon",
	.counters = balloon_counters,
	.acpi_hid = "LNRO0005",
	.create = balloon_create,
	.destroy = balloon_destroy,
	.start = balloon_start,
	.quiesce = balloon_quiesce,
	.resume = balloon_resume,
	.states = balloon_states,
};
