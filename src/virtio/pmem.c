/*
 * pmem.c: virtio persistent memory (virtio 1.2 §5.19): a file whose pages the guest has in its address space; configuration section "pmem".
 * Reads and writes of the guest are loads and stores; only its flushes come here. They are done by the worker of the file's engine
 * (backend/blk_file.h): fdatasync writes back pages that were changed through a mapping as well.
 */
#include <ctype.h>
#include <errno.h>
#include <linux/virtio_pmem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/backend/blk_file.h"
#include "virtio/backend/ratelimit.h"
#include "virtio/virtio_state.h"
#include "vmm/config.h"
#include "vmm/machine.h"

#define VIRTIO_ID_PMEM 27
#define PMEM_ALIGN     (2 * MIB) /* Linux takes memory of devices in such pieces */
#define RESP_OK	       0u
#define RESP_EIO       1u

struct pmem_cfg {
	char *id, *path_on_host;
	bool root_device, read_only;
	struct cfg_ratelimit *rate_limiter; /* NULL: no limit */
};

/* A flush that the guest waits for. No more than a queue's worth of them is ever there. */
struct pmem_req {
	struct virtq_chain chain;
	struct pmem_req *next;
};

/* One fdatasync runs at a time, and answers all requests that came before it began: `running`. Those that came since wait for the next. */
struct virtio_pmem {
	struct virtio_dev vdev; /* first */
	const struct pmem_cfg *cfg;
	struct blk_file file;
	u64 start, size; /* of the region in the guest */
	u64 requests, flushes, fails;
	struct ratelimit limit;
	/* under dev.lock */
	struct pmem_req *waiting, *running;
	struct blk_io flush;
	bool paused;
	bool limited; /* the next flush has to wait */
	struct log_limit io_log;
};

static struct virtio_pmem *to_pmem(struct virtio_dev *vdev)
{
	return container_of(vdev, struct virtio_pmem, vdev);
}

static void answer(struct virtio_pmem *p, struct virtq_chain *c, u32 ret)
{
	struct virtio_pmem_resp resp = {.ret = ret};

	if (ret != RESP_OK)
		p->fails++;
	/* After a reset the guest may use the memory for something else. */
	if (p->vdev.live)
		iov_write(chain_in(c), c->nr_in, 0, &resp, sizeof(resp));
	virtq_push(&p->vdev.queues[0], c, sizeof(resp));
}

static void answer_all(struct virtio_pmem *p, struct pmem_req **list, u32 ret)
{
	struct pmem_req *r;

	while ((r = *list)) {
		*list = r->next;
		answer(p, &r->chain, ret);
		free(r);
	}
	virtq_notify(&p->vdev.queues[0]);
}

/* One flush for all that wait. */
static void start_flush(struct virtio_pmem *p)
{
	p->running = p->waiting;
	p->waiting = NULL;
	p->flushes++;
	p->flush = (struct blk_io){.op = BLK_OP_FLUSH};
	blk_file_submit(&p->file, &p->flush);
	blk_file_kick(&p->file);
}

/* Starts the flush that the waiting requests need. */
static void flush(struct virtio_pmem *p)
{
	if (!p->waiting || p->running || p->paused)
		return;
	p->limited = ratelimit_active(&p->limit) && !ratelimit_take(&p->limit, p->file.size);
	if (!p->limited)
		start_flush(p);
}

/* ctx: loop */
static void pmem_done(void *opaque, struct blk_io *list)
{
	struct virtio_pmem *p = opaque;
	struct virtio_dev *vdev = &p->vdev;

	device_lock(&vdev->dev);
	if (list->result < 0)
		log_guest(vdev->dev.vm->log, &p->io_log, "pmem \"%s\": flush: %s", vdev->dev.id, strerror(-list->result));
	answer_all(p, &p->running, list->result < 0 ? RESP_EIO : RESP_OK);
	if (vdev->resetting) {
		answer_all(p, &p->waiting, RESP_EIO);
		virtio_reset_done(vdev);
	}
	flush(p);
	device_unlock(&vdev->dev);
}

/* Takes one request. False: none there, or the queue is broken. */
static bool take_one(struct virtio_pmem *p, struct virtq *q)
{
	struct pmem_req *r = xzalloc(sizeof(*r));
	struct virtq_chain *c = &r->chain;
	struct virtio_pmem_req req;

	if (virtq_pop(q, c) <= 0) {
		free(r);
		return false;
	}
	if (c->out_len < sizeof(req) || c->in_len < sizeof(struct virtio_pmem_resp)) {
		virtio_broken(&p->vdev, "pmem request with %u readable and %u writable bytes", c->out_len, c->in_len);
		virtq_push(q, c, 0);
		free(r);
		return false;
	}
	iov_read(chain_out(c), c->nr_out, 0, &req, sizeof(req));
	trace(p->vdev.dev.vm->trace, pmem_request, "dev=%s type=%u", p->vdev.dev.id, req.type);
	p->requests++;
	if (req.type == VIRTIO_PMEM_REQ_TYPE_FLUSH) {
		r->next = p->waiting;
		p->waiting = r;
		return true;
	}
	answer(p, c, RESP_EIO);
	free(r);
	return true;
}

static void pmem_queue_kick(struct virtio_dev *vdev, u16 index)
{
	struct virtio_pmem *p = to_pmem(vdev);
	struct virtq *q = &vdev->queues[index];
	u32 budget = q->size;

	if (p->paused)
		return;
	while (budget && take_one(p, q))
		budget--;
	virtq_notify(q);
	flush(p);
	if (!budget)
		virtio_kick_all(vdev);
}

static void pmem_resume_limited(struct ratelimit *r)
{
	virtio_kick_all(&container_of(r, struct virtio_pmem, limit)->vdev);
}

static int pmem_activate(struct virtio_dev *vdev)
{
	(void)vdev;
	return 0;
}

static bool pmem_reset(struct virtio_dev *vdev)
{
	struct virtio_pmem *p = to_pmem(vdev);

	if (p->running)
		return false; /* pmem_done goes on */
	answer_all(p, &p->waiting, RESP_EIO);
	return true;
}

static void pmem_config_read(struct virtio_dev *vdev, u32 off, void *data, u32 len)
{
	const struct virtio_pmem *p = to_pmem(vdev);
	const struct virtio_pmem_config space = {.start = p->start, .size = p->size};

	memcpy(data, (const u8 *)&space + off, len);
}

static const struct virtio_ops pmem_ops = {
	.activate = pmem_activate,
	.queue_kick = pmem_queue_kick,
	.reset = pmem_reset,
	.config_read = pmem_config_read,
};

/* ---- class ---- */

static void pmem_destroy(struct device *dev)
{
	struct virtio_pmem *p = to_pmem(to_virtio(dev));
	struct pmem_req *r;

	p->paused = true;
	blk_file_close(&p->file);
	ratelimit_fini(&p->limit);
	virtio_fini(&p->vdev);
	while ((r = p->waiting)) {
		p->waiting = r->next;
		free(r);
	}
	device_fini(dev);
	free(p);
}

static int open_file(struct virtio_pmem *p, struct err *e)
{
	struct vm *vm = p->vdev.dev.vm;
	const struct blk_file_params params = {
		.path = p->cfg->path_on_host,
		.read_only = p->cfg->read_only,
		.unlocked = vm_arrives(vm),
		.loop = &vm->loop,
		.log = vm->log,
		.sandbox = vm->sandbox,
		.done = pmem_done,
		.opaque = p,
	};

	return blk_file_open(&p->file, &params, e);
}

/* The file's pages become memory of the guest. What fails leaves the region: the VM is not built then. */
static int add_memory(struct virtio_pmem *p, struct err *e)
{
	struct vm *vm = p->vdev.dev.vm;
	struct mem *m = &vm->mem;
	int ret;

	if (p->file.size > INT64_MAX - PMEM_ALIGN)
		return err_set(e, -EFBIG, "it is too large");
	p->start = machine_place_memory(m);
	p->size = ALIGN_UP(p->file.size, PMEM_ALIGN);
	if (p->cfg->read_only)
		mem_scan_open(m);
	ret = mem_add_file(m, p->start, p->size, p->file.fd, p->cfg->read_only, e);
	return ret < 0 ? ret : vm->accel->mem_map(vm, &m->regions[m->nr_regions - 1], e);
}

static int pmem_create(struct vm *vm, const struct device_class *cls, const void *cfg, const struct dev_slot *slot, struct device **out,
		       struct err *e)
{
	struct virtio_pmem *p = xzalloc(sizeof(*p));
	int ret;

	p->cfg = cfg;
	device_init(&p->vdev.dev, vm, cls, p->cfg->id, slot);
	ratelimit_init(&p->limit, &vm->loop, p->cfg->rate_limiter, pmem_resume_limited);
	ret = open_file(p, e);
	if (ret == 0) {
		p->vdev.ops = &pmem_ops;
		p->vdev.type = VIRTIO_ID_PMEM;
		p->vdev.config_len = sizeof(struct virtio_pmem_config);
		ret = virtio_init(&p->vdev, 1, e);
	}
	if (ret == 0)
		ret = add_memory(p, e);
	if (ret < 0) {
		err_prefix(e, "pmem \"%s\"", p->cfg->id);
		pmem_destroy(&p->vdev.dev);
		return ret;
	}
	*out = &p->vdev.dev;
	return 0;
}

/* Those that came after the flush that runs get theirs, whatever the limits say: nothing is in flight afterwards. */
static void pmem_quiesce(struct device *dev)
{
	struct virtio_pmem *p = to_pmem(to_virtio(dev));

	device_lock(dev);
	p->paused = true;
	device_unlock(dev);
	blk_file_drain(&p->file);
	device_lock(dev);
	if (p->waiting)
		start_flush(p);
	device_unlock(dev);
	blk_file_drain(&p->file);
}

static int pmem_claim(struct device *dev, bool mine, struct err *e)
{
	return blk_file_claim(&to_pmem(to_virtio(dev))->file, mine, dev->vm->handed_over, e);
}

static int pmem_disk(struct device *dev, struct device_disk *out, struct err *e)
{
	const struct virtio_pmem *p = to_pmem(to_virtio(dev));

	(void)out;
	if (p->cfg->read_only)
		return err_set(e, -ENOENT, "pmem device \"%s\" is read-only", dev->id);
	return err_set(
		e, -EOPNOTSUPP,
		"pmem device \"%s\" cannot be copied: the guest writes to its file without a word to husk; keep the file where both hosts "
		"see it, and copy no disks",
		dev->id);
}

static void pmem_resume(struct device *dev)
{
	struct virtio_pmem *p = to_pmem(to_virtio(dev));

	device_lock(dev);
	p->paused = false;
	device_unlock(dev);
	virtio_resume(&p->vdev);
}

/* ---- saved state ---- */

/* The content is in the file, as a disk's is. */
struct pmem_state {
	u64 start, file_size;
};

static const struct state_field pmem_state_fields[] = {
	STATE_NUM(struct pmem_state, start, 1, .hex = true),
	STATE_NUM(struct pmem_state, file_size, 2),
	STATE_END,
};

static const struct state_table pmem_state_table = {
	.name = "pmem", .version = 1, .min_version = 1, .size = sizeof(struct pmem_state), .fields = pmem_state_fields};

/* What the guest wrote that the file does not get: behind its end. */
static bool tail_is_empty(const struct virtio_pmem *p)
{
	const u8 *tail = mem_ptr(&p->vdev.dev.vm->mem, p->start + p->file.size, p->size - p->file.size);
	u64 len = p->size - p->file.size;

	return !len || !tail || (!tail[0] && !memcmp(tail, tail + 1, len - 1));
}

/* A read-only file's pages are the VM's own where the guest has written to them. Without /proc nobody can tell. */
static bool file_is_untouched(const struct virtio_pmem *p)
{
	const struct mem *m = &p->vdev.dev.vm->mem;
	u64 len = ALIGN_DOWN(p->file.size, MEM_PAGE_SIZE), next;
	struct mem_run run;

	if (!p->cfg->read_only)
		return true;
	if (m->pagemap_fd < 0) {
		log_warn(p->vdev.dev.vm->log, "pmem \"%s\": should the guest have written to it, the snapshot lacks that: it is read-only",
			 p->vdev.dev.id);
		return true;
	}
	return !mem_scan(m, mem_find(m, p->start, 1), MEM_SCAN_PRIVATE, 0, len, &run, 1, &next);
}

static int pmem_save(struct device *dev, void *data, struct err *e)
{
	struct virtio_pmem *p = to_pmem(to_virtio(dev));
	struct pmem_state *s = data;
	int ret;

	*s = (struct pmem_state){.start = p->start, .file_size = p->file.size};
	if (!tail_is_empty(p))
		return err_set(e, -EOPNOTSUPP,
			       "the guest has written behind the end of \"%s\", and that would be lost; make it a multiple of %llu MiB",
			       p->cfg->path_on_host, PMEM_ALIGN / MIB);
	if (!file_is_untouched(p))
		return err_set(e, -EOPNOTSUPP,
			       "the guest has written to its read-only \"%s\", and that would be lost; let it mount the device read-only",
			       p->cfg->path_on_host);
	if (p->cfg->read_only)
		return 0;
	ret = dev->vm->handed_over ? 0 : blk_file_sync(&p->file);
	return ret < 0 ? err_set(e, ret, "\"%s\" cannot be written back: %s", p->cfg->path_on_host, strerror(-ret)) : 0;
}

static int pmem_check(struct device *dev, const void *data, struct err *e)
{
	const struct virtio_pmem *p = to_pmem(to_virtio(dev));
	const struct pmem_state *s = data;

	if (s->file_size != p->file.size)
		return err_set(e, -EINVAL, "\"%s\" has %llu bytes, but the file of the snapshot had %llu", p->cfg->path_on_host,
			       (unsigned long long)p->file.size, (unsigned long long)s->file_size);
	if (s->start != p->start)
		return err_set(e, -EINVAL, "start: it is at %#llx here, but at %#llx in the snapshot", (unsigned long long)p->start,
			       (unsigned long long)s->start);
	return 0;
}

/* All of it is made by the configuration. */
static void pmem_load(struct device *dev, const void *data)
{
	(void)dev;
	(void)data;
}

static const struct device_state pmem_device_state = {
	.table = &pmem_state_table, .save = pmem_save, .check = pmem_check, .load = pmem_load};
static const struct device_state *const pmem_states[] = {&virtio_core_state, &pmem_device_state, NULL};

/* ---- what can be changed ---- */

/* Linux numbers /dev/pmemN in the order in which it finds the devices: that of their slots. */
static void pmem_cmdline(struct device *dev, char *buf, size_t size)
{
	const struct pmem_cfg *cfg = to_pmem(to_virtio(dev))->cfg;
	const struct vm *vm = dev->vm;
	size_t used = strlen(buf);
	u32 n = 0;

	for (u32 i = 0; i < vm->nr_devices && vm->devices[i] != dev; i++)
		n += vm->devices[i]->cls == dev->cls;
	if (cfg->root_device)
		snprintf(buf + used, size - used, "%sroot=/dev/pmem%u %s", used ? " " : "", n, cfg->read_only ? "ro" : "rw");
}

/* What a PATCH can say. */
struct pmem_patch {
	char *id;
	struct cfg_ratelimit *rate_limiter;
};

static int pmem_update(struct device *dev, const void *patch, struct err *e)
{
	struct virtio_pmem *p = to_pmem(to_virtio(dev));
	const struct pmem_patch *want = patch;

	(void)e;
	device_lock(dev);
	if (want->rate_limiter)
		ratelimit_update(&p->limit, want->rate_limiter);
	device_unlock(dev);
	return 0;
}

static bool pmem_id_ok(const char *s)
{
	while (isalnum((unsigned char)*s) || *s == '_' || *s == '-')
		s++;
	return *s == '\0';
}

#define FIELD(s, k, t) .key = #k, .type = (t), .offset = offsetof(struct s, k)
static const struct cfg_field pmem_fields[] = {
	{FIELD(pmem_cfg, id, CFG_STR), .required = true, .min = 1, .max = 64, .accept = pmem_id_ok,
	 .expected = "1 to 64 letters, digits, \"_\" or \"-\"", .help = "name of the device"},
	{FIELD(pmem_cfg, path_on_host, CFG_STR), .required = true, .min = 1, .max = 4095,
	 .help = "file that the guest has in its memory; it keeps its length while the VM runs"},
	{FIELD(pmem_cfg, root_device, CFG_BOOL), .dflt = "false", .unique = "a root device is there already",
	 .help = "the kernel gets root=/dev/pmemN and ro or rw"},
	{FIELD(pmem_cfg, read_only, CFG_BOOL), .dflt = "false",
	 .help = "what the guest writes does not reach the file, and is gone with the VM; several VMs can share the file"},
	{FIELD(pmem_cfg, rate_limiter, CFG_OBJ), .sub = &ratelimit_table,
	 .help = "limits of flushes; each counts as many bytes as the file has"},
};

static const struct cfg_table pmem_table = {
	.name = "pmem-device",
	.help = "a virtio persistent memory device: a file in the guest's memory, /dev/pmem0",
	.size = sizeof(struct pmem_cfg),
	.fields = pmem_fields,
	.nr_fields = ARRAY_SIZE(pmem_fields),
};

static const struct cfg_field pmem_patch_fields[] = {
	{FIELD(pmem_patch, id, CFG_STR), .required = true, .min = 1, .max = 64, .help = "name of the device"},
	{FIELD(pmem_patch, rate_limiter, CFG_OBJ), .sub = &ratelimit_table, .help = "new limits of flushes; what is absent stays"},
};

static const struct cfg_table pmem_patch_table = {
	.name = "partial-pmem",
	.help = "changes of a pmem device while the VM runs",
	.size = sizeof(struct pmem_patch),
	.fields = pmem_patch_fields,
	.nr_fields = ARRAY_SIZE(pmem_patch_fields),
};

static const struct device_op pmem_device_ops[] = {
	{.path = "", .patch = &pmem_patch_table, .update = pmem_update, .help = "Changes the limits of a pmem device."},
	{.path = NULL},
};

static const struct cfg_alias pmem_aliases[] = {
	{"ro", "read_only", "true"},
	{"root", "root_device", "true"},
	{0},
};

static const struct cfg_flag pmem_flag = {
	.name = "pmem",
	.positional = "path_on_host",
	.id_key = "id",
	.id_prefix = "pmem",
	.aliases = pmem_aliases,
	.usage = "PATH[,root][,ro][,id=NAME]",
	.help = "a file as persistent memory",
};

static const struct counter_desc pmem_counters[] = {
	{"queue_event_count", offsetof(struct virtio_pmem, requests)},
	{"flush_count", offsetof(struct virtio_pmem, flushes)},
	{"event_fails", offsetof(struct virtio_pmem, fails)},
	{"rate_limiter_throttled_events", offsetof(struct virtio_pmem, limit.throttled)},
	{NULL, 0},
};

static int pmem_probe(const void *cfg, struct err *e)
{
	const struct pmem_cfg *c = cfg;
	const struct blk_file_params p = {.path = c->path_on_host, .read_only = c->read_only};

	return blk_file_probe(&p, e);
}

const struct device_class virtio_pmem_class = {
	.name = "virtio-pmem",
	.section = "pmem",
	.list = true,
	.config = &pmem_table,
	.flag = &pmem_flag,
	.ops = pmem_device_ops,
	.mmio_slot = true,
	.metrics_group = "pmem",
	.counters = pmem_counters,
	.acpi_hid = "LNRO0005",
	.probe = pmem_probe,
	.create = pmem_create,
	.destroy = pmem_destroy,
	.quiesce = pmem_quiesce,
	.resume = pmem_resume,
	.claim = pmem_claim,
	.disk = pmem_disk,
	.states = pmem_states,
	.cmdline = pmem_cmdline,
};
