/* balloon_state.c: the saved state of the memory balloon. Pages in it are holes of the memory file. */
#include <errno.h>
#include <string.h>

#include "virtio/balloon_dev.h"

struct balloon_state {
	u32 num_pages, actual; /* 4 KiB pages */
	u32 host_cmd, last_cmd, guest_cmd;
	bool guest_cmd_known, acknowledge_on_stop;
	u32 stats_known;
	u64 stats_interval_s;
	u64 stats[BALLOON_STATS];
};

static const struct state_field balloon_state_fields[] = {
	STATE_NUM(struct balloon_state, num_pages, 1),
	STATE_NUM(struct balloon_state, actual, 2),
	STATE_NUM(struct balloon_state, host_cmd, 3),
	STATE_NUM(struct balloon_state, last_cmd, 4),
	STATE_NUM(struct balloon_state, guest_cmd, 5),
	STATE_FLAG(struct balloon_state, guest_cmd_known, 6),
	STATE_FLAG(struct balloon_state, acknowledge_on_stop, 7),
	STATE_NUM(struct balloon_state, stats_known, 8, .max = BIT(BALLOON_STATS) - 1, .hex = true),
	STATE_NUM(struct balloon_state, stats_interval_s, 9, .max = UINT16_MAX),
	STATE_ARRAY(struct balloon_state, stats, 10),
	STATE_END,
};

static const struct state_table balloon_state_table = {
	.name = "balloon", .version = 1, .min_version = 1, .size = sizeof(struct balloon_state), .fields = balloon_state_fields};

/* Not b->held: it grows with the memory. What is forgotten is which pages in the balloon wait for the rest of their 2 MiB. */
static int balloon_save(struct device *dev, void *data, struct err *e)
{
	struct virtio_balloon *b = to_balloon(dev);
	struct balloon_state *s = data;

	(void)e;
	device_lock(dev);
	s->num_pages = ld_le32(&b->space.num_pages);
	s->actual = ld_le32(&b->space.actual);
	s->host_cmd = balloon_host_cmd(b);
	s->last_cmd = b->last_cmd;
	s->guest_cmd = b->guest_cmd;
	s->guest_cmd_known = b->guest_cmd_known;
	s->acknowledge_on_stop = b->acknowledge_on_stop;
	s->stats_known = b->stats_known;
	s->stats_interval_s = b->stats_interval_s;
	memcpy(s->stats, b->stats, sizeof(s->stats));
	device_unlock(dev);
	return 0;
}

static int balloon_check(struct device *dev, const void *data, struct err *e)
{
	const struct balloon_state *s = data;
	const struct balloon_cfg *cfg = to_balloon(dev)->cfg;

	if (s->num_pages > dev->vm->mem.size / MEM_PAGE_SIZE)
		return err_set(e, -EINVAL, "num_pages: %u pages are more than the VM has", s->num_pages);
	if (!s->stats_interval_s != !cfg->stats_polling_interval_s)
		return err_set(e, -EINVAL, "stats_interval_s: statistics are %s here, but %s in the snapshot",
			       cfg->stats_polling_interval_s ? "on" : "off", s->stats_interval_s ? "on" : "off");
	return 0;
}

static void balloon_load(struct device *dev, const void *data)
{
	struct virtio_balloon *b = to_balloon(dev);
	const struct balloon_state *s = data;

	device_lock(dev);
	balloon_give_roles(b);
	st_le32(&b->space.num_pages, s->num_pages);
	st_le32(&b->space.actual, s->actual);
	st_le32(&b->space.free_page_hint_cmd_id, s->host_cmd);
	b->last_cmd = s->last_cmd;
	b->guest_cmd = s->guest_cmd;
	b->guest_cmd_known = s->guest_cmd_known;
	b->acknowledge_on_stop = s->acknowledge_on_stop;
	b->stats_known = s->stats_known;
	b->stats_interval_s = s->stats_interval_s;
	memcpy(b->stats, s->stats, sizeof(b->stats));
	device_unlock(dev);
}

const struct device_state balloon_device_state = {
	.table = &balloon_state_table, .save = balloon_save, .check = balloon_check, .load = balloon_load};
