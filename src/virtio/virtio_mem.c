/*
 * virtio_mem.c: memory that the guest plugs in and out while it runs (virtio 1.2 §5.15); configuration section "memory-hotplug".
 *
 *   region of guest memory of its own (vm->mem), in blocks:   [ plugged | plugged | - | - | - ....... ]
 *                                                     usable_region_size ^           region_size ^
 *
 * The host asks for requested_size, the driver plugs or unplugs blocks to get there. What is unplugged goes back to the host. DEVIATION: a
 * driver that touches unplugged memory all the same is not stopped, and can use up to region_size.
 * Unplugging is worked off in turns, so that the loop gets to other work; the driver has its answer when all is done.
 */
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/virtio_mem_dev.h"
#include "vmm/clock.h"
#include "vmm/config.h"

#define VIRTIO_ID_MEM  24
#define MIN_BLOCK_MIB  2u
#define MIN_SLOT_MIB   128u
#define MEM_STEP_BYTES (64 * MIB)
#define MEM_TURN_NS    (5 * NSEC_PER_MSEC)

static void count(u64 *counter, u64 n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

static void count_result(u64 *all, u64 *fails, u16 type)
{
	count(all, 1);
	count(fails, type != VIRTIO_MEM_RESP_ACK);
}

/* ---- blocks ---- */

/* A range that a request names. */
struct blocks {
	u64 first, nr;
};

/* Aligned, not empty, within what is usable (§5.15.6.2). A block is smaller than the host's address space, so no product overflows. */
static bool find_blocks(const struct virtio_memory *m, const struct virtio_mem_req *req, struct blocks *b)
{
	u64 offset = req->u.plug.addr - m->space.addr, len = req->u.plug.nb_blocks * m->space.block_size;

	if (req->u.plug.addr < m->space.addr || offset % m->space.block_size || !len)
		return false;
	if (offset >= m->space.usable_region_size || len > m->space.usable_region_size - offset)
		return false;
	*b = (struct blocks){offset / m->space.block_size, req->u.plug.nb_blocks};
	return true;
}

static u16 state_of(const struct virtio_memory *m, const struct blocks *b)
{
	u64 on = 0;

	for (u64 i = b->first; i < b->first + b->nr; i++)
		on += m->plugged[i / 64] >> i % 64 & 1;
	return on == b->nr ? VIRTIO_MEM_STATE_PLUGGED : on ? VIRTIO_MEM_STATE_MIXED : VIRTIO_MEM_STATE_UNPLUGGED;
}

static void set_blocks(struct virtio_memory *m, const struct blocks *b, bool on)
{
	for (u64 i = b->first; i < b->first + b->nr; i++) {
		if (on)
			m->plugged[i / 64] |= BIT(i % 64);
		else
			m->plugged[i / 64] &= ~BIT(i % 64);
	}
	m->space.plugged_size += (on ? b->nr : -b->nr) * m->space.block_size;
}

/* The usable part only grows, but for UNPLUG_ALL: whole slots, at least what is requested. */
static u64 usable_for(const struct virtio_memory *m, u64 requested)
{
	u64 slot = m->cfg->slot_size_mib * MIB;

	return (requested + slot - 1) / slot * slot;
}

/* ---- requests ---- */

static u16 plug(struct virtio_memory *m, const struct virtio_mem_req *req)
{
	struct blocks b;

	if (!find_blocks(m, req, &b) || state_of(m, &b) != VIRTIO_MEM_STATE_UNPLUGGED)
		return VIRTIO_MEM_RESP_ERROR;
	if (m->space.plugged_size + b.nr * m->space.block_size > m->space.requested_size)
		return VIRTIO_MEM_RESP_NACK;
	set_blocks(m, &b, true);
	count(&m->counters.plug_bytes, b.nr * m->space.block_size);
	return VIRTIO_MEM_RESP_ACK;
}

static u16 unplug(struct virtio_memory *m, const struct virtio_mem_req *req)
{
	struct blocks b;

	if (!find_blocks(m, req, &b) || state_of(m, &b) != VIRTIO_MEM_STATE_PLUGGED)
		return VIRTIO_MEM_RESP_ERROR;
	set_blocks(m, &b, false);
	count(&m->counters.unplug_bytes, b.nr * m->space.block_size);
	m->job.at = req->u.unplug.addr;
	m->job.end = m->job.at + b.nr * m->space.block_size;
	return VIRTIO_MEM_RESP_ACK;
}

static u16 unplug_all(struct virtio_memory *m)
{
	m->job.at = m->space.addr;
	m->job.end = m->space.addr + m->space.usable_region_size;
	memset(m->plugged, 0, memory_words(m) * sizeof(u64));
	m->space.plugged_size = 0;
	m->space.usable_region_size = usable_for(m, m->space.requested_size);
	return VIRTIO_MEM_RESP_ACK;
}

static u16 tell_state(struct virtio_memory *m, const struct virtio_mem_req *req)
{
	struct blocks b;

	if (!find_blocks(m, req, &b))
		return VIRTIO_MEM_RESP_ERROR;
	m->job.resp.u.state.state = state_of(m, &b);
	return VIRTIO_MEM_RESP_ACK;
}

static u16 answer(struct virtio_memory *m, const struct virtio_mem_req *req)
{
	struct hotplug_counters *c = &m->counters;
	u16 type = VIRTIO_MEM_RESP_ERROR;

	switch (req->type) {
	case VIRTIO_MEM_REQ_PLUG:
		type = plug(m, req);
		count_result(&c->plug_count, &c->plug_fails, type);
		break;
	case VIRTIO_MEM_REQ_UNPLUG:
		type = unplug(m, req);
		count_result(&c->unplug_count, &c->unplug_fails, type);
		break;
	case VIRTIO_MEM_REQ_UNPLUG_ALL:
		type = unplug_all(m);
		count_result(&c->unplug_all_count, &c->unplug_all_fails, type);
		break;
	case VIRTIO_MEM_REQ_STATE:
		type = tell_state(m, req);
		count_result(&c->state_count, &c->state_fails, type);
		break;
	default:
		count(&c->queue_event_fails, 1);
	}
	return type;
}

static struct latency *latency_of(struct hotplug_counters *c, u16 type)
{
	switch (type) {
	case VIRTIO_MEM_REQ_PLUG:
		return &c->plug_agg;
	case VIRTIO_MEM_REQ_UNPLUG:
		return &c->unplug_agg;
	case VIRTIO_MEM_REQ_UNPLUG_ALL:
		return &c->unplug_all_agg;
	case VIRTIO_MEM_REQ_STATE:
		return &c->state_agg;
	default:
		return NULL;
	}
}

static bool start_job(struct virtio_memory *m)
{
	struct virtq *q = &m->vdev.queues[0];
	struct hotplug_job *job = &m->job;
	struct virtio_mem_req req;

	if (virtq_pop(q, &job->chain) <= 0)
		return false;
	job->at = job->end = 0;
	memset(&job->resp, 0, sizeof(job->resp));
	if (iov_read(chain_out(&job->chain), job->chain.nr_out, 0, &req, sizeof(req)) != sizeof(req) ||
	    job->chain.in_len < sizeof(job->resp)) {
		count(&m->counters.queue_event_fails, 1);
		virtio_broken(&m->vdev, "a request of %u bytes with room for an answer of %u", job->chain.out_len, job->chain.in_len);
		virtq_push(q, &job->chain, 0);
		return false;
	}
	job->start_ns = clock_host_ns();
	job->type = req.type;
	job->resp.type = answer(m, &req);
	job->busy = job->has_chain = true;
	return true;
}

/* A failure is the host's, and no reason for the guest to keep the block. */
static void discard(struct virtio_memory *m, u64 gpa, u64 len)
{
	struct device *dev = &m->vdev.dev;
	struct err e;

	if (mem_discard(&dev->vm->mem, gpa, len, &e) == 0)
		return;
	count(&m->counters.unplug_discard_fails, 1);
	log_guest(dev->vm->log, &dev->guest_log, "%s: %llu KiB at 0x%llx that the guest unplugs stay: %s", dev->id,
		  (unsigned long long)(len / KIB), (unsigned long long)gpa, e.msg);
}

static void count_time(struct virtio_memory *m)
{
	struct latency *l = latency_of(&m->counters, m->job.type);

	if (l)
		latency_add(l, clock_host_ns() - m->job.start_ns);
}

static void step(struct virtio_memory *m)
{
	struct hotplug_job *job = &m->job;
	u64 len = MIN(MEM_STEP_BYTES, job->end - job->at);

	if (len)
		discard(m, job->at, len);
	job->at += len;
	if (job->at < job->end)
		return;
	job->busy = false;
	if (!job->has_chain)
		return;
	count_time(m);
	iov_write(chain_in(&job->chain), job->chain.nr_in, 0, &job->resp, sizeof(job->resp));
	virtq_push(&m->vdev.queues[0], &job->chain, sizeof(job->resp));
	virtq_notify(&m->vdev.queues[0]);
}

static void memory_kick(struct virtio_dev *vdev, u16 index)
{
	struct virtio_memory *m = to_memory(vdev);
	u64 end = clock_host_ns() + MEM_TURN_NS;

	(void)index;
	count(&m->counters.queue_event_count, 1);
	while (!m->paused && (m->job.busy || start_job(m))) {
		step(m);
		if (clock_host_ns() >= end) {
			virtio_kick_all(vdev);
			return;
		}
	}
}

/* ---- device ---- */

static int memory_activate(struct virtio_dev *vdev)
{
	struct virtio_memory *m = to_memory(vdev);

	if (virtio_has(vdev, VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE))
		return 0;
	count(&m->counters.activate_fails, 1);
	return -ENOTSUP;
}

/* Blocks stay plugged: only the driver, or the end of the VM, takes them out (§5.15.4.2). */
static bool memory_reset(struct virtio_dev *vdev)
{
	struct virtio_memory *m = to_memory(vdev);

	if (m->job.busy && m->job.has_chain)
		virtq_push(&vdev->queues[0], &m->job.chain, 0);
	m->job.has_chain = false;
	return true;
}

static void memory_config_read(struct virtio_dev *vdev, u32 off, void *data, u32 len)
{
	memcpy(data, (const u8 *)&to_memory(vdev)->space + off, len);
}

static const struct virtio_ops memory_ops = {
	.activate = memory_activate,
	.queue_kick = memory_kick,
	.reset = memory_reset,
	.config_read = memory_config_read,
};

static int update_requested(struct device *dev, const void *patch, struct err *e)
{
	struct virtio_memory *m = to_memory(to_virtio(dev));
	u64 size = *(const u64 *)patch * MIB;
	int ret = 0;

	if (size % m->space.block_size || size > m->space.region_size)
		return err_set(e, -EINVAL,
			       "Size %llu is invalid: it must be a multiple of block size (%llu MiB) and at most the total size (%llu MiB)",
			       (unsigned long long)size, (unsigned long long)m->cfg->block_size_mib,
			       (unsigned long long)m->cfg->total_size_mib);
	device_lock(dev);
	if (m->vdev.live) {
		m->space.usable_region_size = MAX(m->space.usable_region_size, usable_for(m, size));
		m->space.requested_size = size;
		virtio_config_changed(&m->vdev);
	} else {
		ret = err_set(e, -EINVAL, "Device is not active: check if the virtio_mem driver is enabled in the guest's kernel");
	}
	device_unlock(dev);
	return ret;
}

static int get_status(struct device *dev, struct json_object *out, struct err *e)
{
	struct virtio_memory *m = to_memory(to_virtio(dev));

	(void)e;
	json_object_object_add(out, "total_size_mib", json_object_new_uint64(m->cfg->total_size_mib));
	json_object_object_add(out, "block_size_mib", json_object_new_uint64(m->cfg->block_size_mib));
	json_object_object_add(out, "slot_size_mib", json_object_new_uint64(m->cfg->slot_size_mib));
	device_lock(dev);
	json_object_object_add(out, "plugged_size_mib", json_object_new_uint64(m->space.plugged_size / MIB));
	json_object_object_add(out, "requested_size_mib", json_object_new_uint64(m->space.requested_size / MIB));
	device_unlock(dev);
	return 0;
}

static const struct cfg_field requested_fields[] = {
	{.key = "requested_size_mib", .type = CFG_INT, .required = true, .max = UINT32_MAX, .help = "memory that the guest shall plug in"},
};
static const struct cfg_table requested_table = {
	.name = "memory-hotplug-update",
	.help = "How much memory the guest shall plug in.",
	.size = sizeof(u64),
	.fields = requested_fields,
	.nr_fields = ARRAY_SIZE(requested_fields),
};

static const struct device_op memory_device_ops[] = {
	{.path = "",
	 .patch = &requested_table,
	 .update = update_requested,
	 .status = get_status,
	 .help = "Hot-pluggable memory; PATCH says how much of it the guest shall plug in."},
	{.path = NULL},
};

/* ---- class ---- */

static void memory_destroy(struct device *dev)
{
	struct virtio_memory *m = to_memory(to_virtio(dev));

	virtio_fini(&m->vdev);
	device_fini(dev);
	free(m->plugged);
	free(m);
}

/* The VM has made one region of neither RAM nor a file: ours. */
static void fill_space(struct virtio_memory *m)
{
	const struct mem *mem = &m->vdev.dev.vm->mem;

	for (u32 i = 0; i < mem->nr_regions; i++) {
		if (!mem->regions[i].ram && !mem->regions[i].file)
			m->space.addr = mem->regions[i].gpa;
	}
	m->space.block_size = m->cfg->block_size_mib * MIB;
	m->space.region_size = m->cfg->total_size_mib * MIB;
	m->plugged = xzalloc(memory_words(m) * sizeof(u64));
}

static int memory_create(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct device **out,
			 struct err *e)
{
	struct virtio_memory *m = xzalloc(sizeof(*m));
	int ret;

	m->cfg = cfg;
	device_init(&m->vdev.dev, vm, cls, "memory-hotplug", slot);
	fill_space(m);
	m->vdev.ops = &memory_ops;
	m->vdev.type = VIRTIO_ID_MEM;
	m->vdev.config_len = sizeof(m->space);
	m->vdev.features = BIT(VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE);
	ret = virtio_init(&m->vdev, 1, e);
	if (ret < 0) {
		memory_destroy(&m->vdev.dev);
		return ret;
	}
	*out = &m->vdev.dev;
	return 0;
}

/* A request that is under way ends first. */
static void memory_quiesce(struct device *dev)
{
	struct virtio_memory *m = to_memory(to_virtio(dev));

	device_lock(dev);
	m->paused = true;
	while (m->job.busy)
		step(m);
	device_unlock(dev);
}

static void memory_resume(struct device *dev)
{
	struct virtio_memory *m = to_memory(to_virtio(dev));

	device_lock(dev);
	m->paused = false;
	device_unlock(dev);
	virtio_resume(&m->vdev);
}

static int memory_check(const void *cfg, struct err *e)
{
	const struct hotplug_cfg *c = cfg;
	unsigned long long total = c->total_size_mib, block = c->block_size_mib, slot = c->slot_size_mib;

	if (block < MIN_BLOCK_MIB)
		return err_set(e, -EINVAL, "Block size must not be lower than %u MiB", MIN_BLOCK_MIB);
	if (block & (block - 1))
		return err_set(e, -EINVAL, "Block size must be a power of 2");
	if (slot < MIN_SLOT_MIB)
		return err_set(e, -EINVAL, "Slot size must not be lower than %u MiB", MIN_SLOT_MIB);
	if (slot % block)
		return err_set(e, -EINVAL, "Slot size must be a multiple of block size (%llu MiB)", block);
	if (total < slot)
		return err_set(e, -EINVAL, "Total size must not be lower than slot size (%llu MiB)", slot);
	if (total % slot)
		return err_set(e, -EINVAL, "Total size must be a multiple of slot size (%llu MiB)", slot);
	return 0;
}

static u64 memory_size(const void *cfg)
{
	return ((const struct hotplug_cfg *)cfg)->total_size_mib * MIB;
}

#define FIELD(k) .key = #k, .type = CFG_INT, .offset = offsetof(struct hotplug_cfg, k), .max = UINT32_MAX
static const struct cfg_field memory_fields[] = {
	{FIELD(total_size_mib), .required = true, .help = "most that can be plugged in; a multiple of slot_size_mib"},
	{FIELD(block_size_mib), .dflt = "2", .help = "least that the guest plugs at a time; a power of 2, at least 2"},
	{FIELD(slot_size_mib), .dflt = "128", .help = "step in which memory becomes usable; a multiple of block_size_mib, at least 128"},
};

static const struct cfg_table memory_table = {
	.name = "memory-hotplug",
	.help = "memory that the guest plugs in and out while it runs (a virtio-mem device)",
	.size = sizeof(struct hotplug_cfg),
	.fields = memory_fields,
	.nr_fields = ARRAY_SIZE(memory_fields),
};

static const struct cfg_flag memory_flag = {
	.name = "memory-hotplug",
	.positional = "total_size_mib",
	.usage = "MIB[,block_size_mib=MIB][,slot_size_mib=MIB]",
	.help = "memory to plug in while the guest runs",
};

#define COUNTER(name) \
	{ \
#name, offsetof(struct virtio_memory, counters.name) \
	}
static const struct counter_desc memory_counters[] = {
	COUNTER(activate_fails),
	COUNTER(queue_event_fails),
	COUNTER(queue_event_count),
	COUNTER(plug_count),
	COUNTER(plug_bytes),
	COUNTER(plug_fails),
	COUNTER(unplug_count),
	COUNTER(unplug_bytes),
	COUNTER(unplug_fails),
	COUNTER(unplug_discard_fails),
	COUNTER(unplug_all_count),
	COUNTER(unplug_all_fails),
	COUNTER(state_count),
	COUNTER(state_fails),
	COUNTER(plug_agg),
	COUNTER(unplug_agg),
	COUNTER(unplug_all_agg),
	COUNTER(state_agg),
	{NULL, 0},
};

/* The last three on a restored VM (mem_discard.c). */
static const char *const memory_syscalls[] = {"fallocate", "lseek", "mmap", "madvise", NULL};

static const struct device_state *const memory_states[] = {&virtio_core_state, &memory_device_state, NULL};

const struct device_class virtio_mem_class = {
	.name = "virtio-mem",
	.section = "memory-hotplug",
	.api_path = "/hotplug/memory",
	.config = &memory_table,
	.flag = &memory_flag,
	.check = memory_check,
	.hotplug_memory = memory_size,
	.ops = memory_device_ops,
	.syscalls = memory_syscalls,
	.mmio_slot = true,
	.metrics_group = "memory_hotplug",
	.counters = memory_counters,
	.acpi_hid = "LNRO0005",
	.create = memory_create,
	.destroy = memory_destroy,
	.quiesce = memory_quiesce,
	.resume = memory_resume,
	.states = memory_states,
};
