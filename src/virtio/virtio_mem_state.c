/* virtio_mem_state.c: the saved state of the virtio-mem device: which blocks are plugged. The memory's content, plugged or not, is in the
 * memory file. */
#include <errno.h>
#include <string.h>

#include "virtio/virtio_mem_dev.h"

#define HOTPLUG_MAP_MAX (256 * (u32)KIB) /* bytes: 2 Mi blocks, 4 TiB of the smallest */

struct hotplug_state {
	u64 addr, block_size, region_size, usable_region_size, requested_size;
	u32 nr_plugged;		     /* bytes, those up to usable_region_size */
	u8 plugged[HOTPLUG_MAP_MAX]; /* a bit per block */
};

static const struct state_field hotplug_state_fields[] = {
	STATE_NUM(struct hotplug_state, addr, 1, .hex = true),
	STATE_NUM(struct hotplug_state, block_size, 2, .hex = true),
	STATE_NUM(struct hotplug_state, region_size, 3, .hex = true),
	STATE_NUM(struct hotplug_state, usable_region_size, 4, .hex = true),
	STATE_NUM(struct hotplug_state, requested_size, 5, .hex = true),
	STATE_NUM(struct hotplug_state, nr_plugged, 6, .max = HOTPLUG_MAP_MAX),
	STATE_BUF(struct hotplug_state, plugged, 7, STATE_NR(struct hotplug_state, nr_plugged)),
	STATE_END,
};

static const struct state_table hotplug_state_table = {
	.name = "memory-hotplug", .version = 1, .min_version = 1, .size = sizeof(struct hotplug_state), .fields = hotplug_state_fields};

/* Bytes of the map of what is usable: whole slots, so whole blocks. */
static u64 map_bytes(u64 usable_region_size, u64 block_size)
{
	return (usable_region_size / block_size + 7) / 8;
}

static int memory_save(struct device *dev, void *data, struct err *e)
{
	struct virtio_memory *m = to_memory(to_virtio(dev));
	struct hotplug_state *s = data;
	int ret = 0;

	device_lock(dev);
	s->addr = m->space.addr;
	s->block_size = m->space.block_size;
	s->region_size = m->space.region_size;
	s->usable_region_size = m->space.usable_region_size;
	s->requested_size = m->space.requested_size;
	if (map_bytes(s->usable_region_size, s->block_size) > HOTPLUG_MAP_MAX)
		ret = err_set(e, -EOPNOTSUPP, "more than %llu blocks of memory to plug in cannot be saved; make block_size_mib larger",
			      HOTPLUG_MAP_MAX * 8ull);
	else
		s->nr_plugged = (u32)map_bytes(s->usable_region_size, s->block_size);
	memcpy(s->plugged, m->plugged, s->nr_plugged);
	device_unlock(dev);
	return ret;
}

static int check_sizes(const struct virtio_memory *m, const struct hotplug_state *s, struct err *e)
{
	const struct virtio_mem_config *own = &m->space;

	if (s->block_size != own->block_size || s->region_size != own->region_size)
		return err_set(e, -EINVAL,
			       "%llu MiB in blocks of %llu MiB are configured, but the snapshot has %llu MiB in blocks of %llu MiB",
			       own->region_size / MIB, own->block_size / MIB, s->region_size / MIB, s->block_size / MIB);
	if (s->addr != own->addr)
		return err_set(e, -EINVAL, "addr: the memory is at %#llx here, but at %#llx in the snapshot", own->addr,
			       (unsigned long long)s->addr);
	if (s->usable_region_size > s->region_size || s->usable_region_size % (m->cfg->slot_size_mib * MIB))
		return err_set(e, -EINVAL, "usable_region_size: %#llx are not whole slots", (unsigned long long)s->usable_region_size);
	if (s->requested_size > s->usable_region_size || s->requested_size % s->block_size)
		return err_set(e, -EINVAL, "requested_size: %#llx are not whole blocks of what is usable",
			       (unsigned long long)s->requested_size);
	return 0;
}

static int memory_check_state(struct device *dev, const void *data, struct err *e)
{
	const struct hotplug_state *s = data;
	u32 last = (u32)(s->block_size ? s->usable_region_size / s->block_size % 8 : 0);
	int ret = check_sizes(to_memory(to_virtio(dev)), s, e);

	if (ret < 0)
		return ret;
	if (s->nr_plugged != map_bytes(s->usable_region_size, s->block_size) || (last && s->plugged[s->nr_plugged - 1] >> last))
		return err_set(e, -EINVAL, "plugged: %u bytes are not a bit for each usable block", s->nr_plugged);
	return 0;
}

static void memory_load(struct device *dev, const void *data)
{
	struct virtio_memory *m = to_memory(to_virtio(dev));
	const struct hotplug_state *s = data;

	device_lock(dev);
	m->space.usable_region_size = s->usable_region_size;
	m->space.requested_size = s->requested_size;
	m->space.plugged_size = 0;
	memset(m->plugged, 0, memory_words(m) * sizeof(u64));
	memcpy(m->plugged, s->plugged, s->nr_plugged);
	for (u64 i = 0; i < memory_words(m); i++)
		m->space.plugged_size += (u64)__builtin_popcountll(m->plugged[i]) * m->space.block_size;
	device_unlock(dev);
}

const struct device_state memory_device_state = {
	.table = &hotplug_state_table, .save = memory_save, .check = memory_check_state, .load = memory_load};
