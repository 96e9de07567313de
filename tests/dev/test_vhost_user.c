/* test_vhost_user.c: vhost-user drives and shares against a back end in this process: data, loss and return of the peer, reset, hostile
 * peers and guests. */
#include "tests/unit/cm.h"

#include <dirent.h>
#include <errno.h>
#include <json-c/json.h>
#include <linux/fuse.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/dev/fake_driver.h"
#include "tests/dev/fake_peer.h"
#include "vmm/config_table.h"

#define GET(p, what) __atomic_load_n(&(p)->what, __ATOMIC_SEQ_CST)
#define DATA_BYTES   (64 * KIB)

struct fixture {
	struct fake_vm f;
	struct fdrv d;
	struct fake_peer peer;
	struct device *dev;
	const struct device_class *cls;
	void *cfg;
	u64 hdr, status, data;
};

/* ---- set-up ---- */

static void *parse(const struct device_class *cls, const char *text, struct err *e)
{
	const struct cfg_place at = {.origin = "test"};
	struct json_object *json = json_tokener_parse(text);
	void *cfg = xzalloc(cls->config->size);
	int ret;

	assert_non_null(json);
	ret = cfg_read_object(cls->config, json, cfg, &at, e);
	json_object_put(json);
	if (ret == 0)
		ret = cls->check(cfg, e);
	if (ret == 0)
		return cfg;
	cfg_free(cls->config, cfg);
	free(cfg);
	return NULL;
}

static void prepare(struct fixture *x, enum fake_peer_kind kind, u32 vm_flags)
{
	memset(x, 0, sizeof(*x));
	fake_peer_init(&x->peer, kind);
	fake_vm_init(&x->f, vm_flags);
	x->cls = device_class_find(kind == PEER_DISK ? "virtio-blk" : "vhost-user-fs");
	x->hdr = fake_vm_alloc(&x->f, 4096, 4096);
	x->status = fake_vm_alloc(&x->f, 1, 1);
	x->data = fake_vm_alloc(&x->f, DATA_BYTES, 4096);
}

/* more: further keys, as JSON text that starts with a comma. NULL when the device could not be made. */
static struct device *add(struct fixture *x, const char *more, struct err *e)
{
	auto_free char *text = x->peer.kind == PEER_DISK
				       ? xasprintf("{\"drive_id\":\"d\",\"is_root_device\":false,\"socket\":\"%s\"%s}", x->peer.path, more)
				       : xasprintf("{\"tag\":\"t\",\"socket\":\"%s\"%s}", x->peer.path, more);

	x->cfg = parse(x->cls, text, e);
	assert_non_null(x->cfg);
	x->dev = fake_vm_add_err(&x->f, x->cls, x->cfg, e);
	return x->dev;
}

static void up_with(struct fixture *x, const char *more, u64 features, u16 size)
{
	struct err e = {0};

	fake_peer_start(&x->peer);
	if (!add(x, more, &e))
		fail_msg("%s", e.msg);
	fake_vm_start(&x->f);
	fdrv_up(&x->d, &x->f, x->dev, features, x->peer.queues, size);
}

static void down(struct fixture *x)
{
	fake_vm_fini(&x->f);
	fake_peer_fini(&x->peer);
	if (x->cfg)
		cfg_free(x->cls->config, x->cfg);
	free(x->cfg);
}

static void disk_up(struct fixture *x)
{
	prepare(x, PEER_DISK, FAKE_VM_QUIET);
	up_with(x, "", FDRV_ALL_FEATURES, 256);
}

static void fs_up(struct fixture *x)
{
	prepare(x, PEER_FS, FAKE_VM_QUIET);
	up_with(x, "", FDRV_ALL_FEATURES, 128);
}

/* ---- requests ---- */

static void put_header(struct fixture *x, u32 type, u64 sector)
{
	struct virtio_blk_outhdr h = {.type = type, .sector = sector};

	memcpy(fake_vm_ptr(&x->f, x->hdr, sizeof(h)), &h, sizeof(h));
	*(u8 *)fake_vm_ptr(&x->f, x->status, 1) = 0xee;
}

static void start(struct fixture *x, u32 type, u64 sector, u32 len)
{
	struct fbuf out[2] = {{x->hdr, 16}, {x->data, len}}, in[2] = {{x->data, len}, {x->status, 1}};
	bool write = type == VIRTIO_BLK_T_OUT;

	put_header(x, type, sector);
	assert_true(fdrv_add(&x->d, 0, out, write && len ? 2 : 1, write || !len ? in + 1 : in, write || !len ? 1 : 2, NULL));
	fdrv_kick(&x->d, 0);
}

static u8 status(struct fixture *x)
{
	return *(u8 *)fake_vm_ptr(&x->f, x->status, 1);
}

static u8 finish(struct fixture *x, u32 timeout_ms)
{
	assert_true(fdrv_wait_used(&x->d, 0, NULL, NULL, timeout_ms));
	return status(x);
}

static u8 request(struct fixture *x, u32 type, u64 sector, u32 len)
{
	start(x, type, sector, len);
	return finish(x, 5000);
}

static u8 *data(struct fixture *x)
{
	return fake_vm_ptr(&x->f, x->data, DATA_BYTES);
}

static void fill(u8 *p, u32 len, u8 seed)
{
	for (u32 i = 0; i < len; i++)
		p[i] = (u8)(i * 7 + i / 256 + seed);
}

static bool wait_for(const u32 *counter, u32 at_least)
{
	for (u32 i = 0; i < 500; i++) {
		if (__atomic_load_n(counter, __ATOMIC_SEQ_CST) >= at_least)
			return true;
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	}
	return false;
}

static s32 fuse(struct fixture *x, u16 queue, u32 opcode)
{
	struct fuse_in_header in = {.len = sizeof(in), .opcode = opcode, .unique = 77};
	struct fuse_out_header *out = fake_vm_ptr(&x->f, x->data, sizeof(*out));
	struct fbuf ob = {x->hdr, sizeof(in)}, ib = {x->data, 64};

	memcpy(fake_vm_ptr(&x->f, x->hdr, sizeof(in)), &in, sizeof(in));
	memset(out, 0xee, sizeof(*out));
	assert_int_equal(fdrv_request(&x->d, queue, &ob, 1, &ib, 1), sizeof(*out));
	assert_int_equal(out->unique, 77);
	assert_int_equal(out->len, sizeof(*out));
	return out->error;
}

/* ---- data ---- */

static void what_the_guest_writes_is_on_the_peers_disk_and_is_read_back(void **state)
{
	static const u64 layouts[] = {FDRV_VERSION_1, FDRV_ALL_FEATURES, ~FDRV_PACKED, ~FDRV_EVENT_IDX};

	(void)state;
	for (u32 i = 0; i < 2 * ARRAY_SIZE(layouts); i++) {
		struct fixture x;
		u8 want[8192];

		prepare(&x, PEER_DISK, i % 2 ? FAKE_VM_IOEVENTFD : 0);
		x.peer.no_indirect = i >= ARRAY_SIZE(layouts);
		up_with(&x, "", layouts[i % ARRAY_SIZE(layouts)], 256);
		fill(want, sizeof(want), (u8)i);
		memcpy(data(&x), want, sizeof(want));
		assert_int_equal(request(&x, VIRTIO_BLK_T_OUT, 3, sizeof(want)), VIRTIO_BLK_S_OK);
		assert_memory_equal(x.peer.disk + 3 * 512, want, sizeof(want));
		memset(data(&x), 0, sizeof(want));
		assert_int_equal(request(&x, VIRTIO_BLK_T_IN, 3, sizeof(want)), VIRTIO_BLK_S_OK);
		assert_memory_equal(data(&x), want, sizeof(want));
		assert_int_equal(GET(&x.peer, indirect) > 0, !x.peer.no_indirect);
		down(&x);
	}
}

static void a_ring_full_of_requests_is_served_also_without_indirect_tables(void **state)
{
	(void)state;
	for (u32 direct = 0; direct < 2; direct++) {
		struct fixture x;
		u32 n = 0;

		prepare(&x, PEER_DISK, 0);
		x.peer.no_indirect = direct;
		x.peer.hold = true;
		up_with(&x, "", FDRV_ALL_FEATURES, 256);
		put_header(&x, VIRTIO_BLK_T_IN, 0);
		for (; n < 256; n++) {
			struct fbuf out = {x.hdr, 16}, in[3] = {{x.data + n * 64, 32}, {x.data + n * 64 + 32, 32}, {x.status, 1}};

			if (!fdrv_add(&x.d, 0, &out, 1, in, 3, NULL))
				break;
		}
		assert_in_range(n, 64, 256);
		fdrv_kick(&x.d, 0);
		fake_peer_release(&x.peer);
		for (u32 i = 0; i < n; i++)
			assert_true(fdrv_wait_used(&x.d, 0, NULL, NULL, 5000));
		assert_int_equal(GET(&x.peer, requests), n);
		down(&x);
	}
}

static void memory_in_both_regions_is_shared(void **state)
{
	struct fixture x;

	(void)state;
	disk_up(&x);
	x.data = FAKE_RAM_HIGH_BASE + FAKE_RAM_HIGH - 4096;
	memset(x.peer.disk, 0x5a, 4096);
	struct fbuf out = {x.hdr, 16}, in[2] = {{x.data, 4096}, {x.status, 1}};

	put_header(&x, VIRTIO_BLK_T_IN, 0);
	assert_int_equal(fdrv_request(&x.d, 0, &out, 1, in, 2), 4097);
	assert_memory_equal(fake_vm_ptr(&x.f, x.data, 4096), x.peer.disk, 4096);
	down(&x);
}

static void what_is_loaded_before_the_start_is_in_the_shared_memory(void **state)
{
	char path[] = "/tmp/husk-load-XXXXXX";
	u8 bytes[8192], *shared;
	struct fixture x;
	struct err e;
	int fd = mkstemp(path);

	(void)state;
	fill(bytes, sizeof(bytes), 9);
	assert_int_equal(write(fd, bytes, sizeof(bytes)), sizeof(bytes));
	prepare(&x, PEER_DISK, 0);
	fake_peer_start(&x.peer);
	assert_non_null(add(&x, "", &e));
	assert_int_equal(mem_load_file(&x.f.vm.mem, 2 * MIB, fd, 0, sizeof(bytes), &e), 0);
	shared = xzalloc(sizeof(bytes));
	assert_int_equal(pread(x.f.vm.mem.fd, shared, sizeof(bytes), 2 * MIB), sizeof(bytes));
	assert_memory_equal(shared, bytes, sizeof(bytes));
	free(shared);
	close(fd);
	unlink(path);
	down(&x);
}

struct order {
	struct fixture *x;
	u32 told, late;
};

/* The accelerator hears of the written data while the guest cannot see the used entry yet. */
static void written(void *opaque, u64 gpa, u64 len)
{
	struct order *o = opaque;

	if (gpa > o->x->data || gpa + len <= o->x->data)
		return;
	__atomic_fetch_add(&o->told, 1, __ATOMIC_SEQ_CST);
	if (ld_le16(o->x->d.q[0].device + 2) != 0)
		__atomic_fetch_add(&o->late, 1, __ATOMIC_SEQ_CST);
}

static void pages_that_the_peer_wrote_are_marked_before_the_guest_sees_it(void **state)
{
	u64 bitmap[FAKE_RAM_LOW / 4096 / 64] = {0};
	struct fixture x;
	struct order o = {.x = &x};
	struct err e;

	(void)state;
	prepare(&x, PEER_DISK, 0);
	x.peer.used_len = 1; /* as some peers say, whatever they wrote */
	assert_int_equal(mem_track(&x.f.vm.mem, true, &e), 0);
	x.f.vm.mem.on_write_opaque = &o;
	x.f.vm.mem.on_write = written;
	up_with(&x, "", ~FDRV_PACKED, 256);
	start(&x, VIRTIO_BLK_T_IN, 0, 8192);
	assert_int_equal(finish(&x, 5000), VIRTIO_BLK_S_OK);
	assert_true(o.told > 0);
	assert_int_equal(o.late, 0);
	mem_track_collect(&x.f.vm.mem.regions[0], bitmap);
	assert_true(bitmap[x.data / 4096 / 64] >> (x.data / 4096 % 64) & 1);
	assert_true(bitmap[(x.data / 4096 + 1) / 64] >> ((x.data / 4096 + 1) % 64) & 1);
	x.f.vm.mem.on_write = NULL;
	down(&x);
}

/* ---- features and configuration ---- */

static bool offered(struct fixture *x, u32 bit)
{
	return x->d.features >> bit & 1;
}

static void cache_type_decides_on_flush_and_the_peer_on_the_rest(void **state)
{
	struct fixture x;

	(void)state;
	disk_up(&x);
	assert_false(offered(&x, VIRTIO_BLK_F_FLUSH));
	assert_false(offered(&x, VIRTIO_BLK_F_RO));
	assert_false(offered(&x, VIRTIO_BLK_F_CONFIG_WCE));
	assert_int_equal(fdrv_config64(&x.d, 0), PEER_DISK_BYTES / 512);
	assert_int_equal(fdrv_config32(&x.d, 12), 254); /* seg_max, bounded */
	assert_int_equal(fdrv_read(&x.d, MMIO_DEVICE_ID), 2);
	down(&x);
	prepare(&x, PEER_DISK, FAKE_VM_QUIET);
	x.peer.extra = BIT(VIRTIO_BLK_F_RO);
	up_with(&x, ",\"cache_type\":\"Writeback\"", FDRV_ALL_FEATURES, 64);
	assert_true(offered(&x, VIRTIO_BLK_F_FLUSH));
	assert_true(offered(&x, VIRTIO_BLK_F_RO));
	assert_int_equal(request(&x, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
	assert_true(GET(&x.peer, features) >> VIRTIO_BLK_F_FLUSH & 1);
	down(&x);
}

static void the_driver_gets_as_many_queues_as_peer_and_configuration_agree_on(void **state)
{
	struct fixture x;

	(void)state;
	prepare(&x, PEER_DISK, FAKE_VM_QUIET);
	x.peer.queues = 3;
	x.peer.extra = BIT(VIRTIO_BLK_F_MQ);
	fake_peer_start(&x.peer);
	assert_non_null(add(&x, ",\"num_queues\":8", NULL));
	fake_vm_start(&x.f);
	fdrv_up(&x.d, &x.f, x.dev, FDRV_ALL_FEATURES, 3, 64);
	assert_int_equal(fdrv_config16(&x.d, 34), 3);
	fdrv_write(&x.d, MMIO_QUEUE_SEL, 3);
	assert_int_equal(fdrv_read(&x.d, MMIO_QUEUE_NUM_MAX), 0);
	for (u16 q = 0; q < 3; q++) {
		struct fbuf out = {x.hdr, 16}, in[2] = {{x.data, 512}, {x.status, 1}};

		put_header(&x, VIRTIO_BLK_T_IN, q);
		memset(x.peer.disk + q * 512, q + 1, 512);
		assert_int_equal(fdrv_request(&x.d, q, &out, 1, in, 2), 513);
		assert_int_equal(data(&x)[0], q + 1);
	}
	down(&x);
}

static void a_change_of_the_peers_configuration_reaches_the_driver(void **state)
{
	struct fixture x;
	u32 edges;

	(void)state;
	disk_up(&x);
	assert_int_equal(request(&x, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
	edges = fdrv_edges(&x.d);
	__atomic_store_n(&x.peer.capacity, 4096, __ATOMIC_SEQ_CST);
	fake_peer_config_changed(&x.peer);
	assert_true(wait_for(&x.f.edges[x.d.gsi], edges + 1));
	assert_true(fdrv_isr(&x.d) & VIRTIO_ISR_CONFIG);
	assert_int_equal(fdrv_config64(&x.d, 0), 4096);
	down(&x);
}

static void a_patch_without_fields_reads_the_size_again(void **state)
{
	struct fixture x;
	struct {
		char *drive_id, *path_on_host;
		void *rate_limiter;
	} patch = {0};
	struct err e = {0};

	(void)state;
	disk_up(&x);
	u32 edges = fdrv_edges(&x.d);

	__atomic_store_n(&x.peer.capacity, 5000, __ATOMIC_SEQ_CST);
	assert_int_equal(x.cls->ops->update(x.dev, &patch, &e), 0);
	assert_true(wait_for(&x.f.edges[x.d.gsi], edges + 1));
	assert_int_equal(fdrv_config64(&x.d, 0), 5000);
	patch.path_on_host = (char[]){"/dev/null"};
	assert_int_equal(x.cls->ops->update(x.dev, &patch, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "vhost-user"));
	down(&x);
}

static void keys_that_the_peer_sees_to_are_refused_beside_socket(void **state)
{
	static const char *const wrong[] = {
		"\"socket\":\"s\",\"path_on_host\":\"p\"",
		"\"socket\":\"s\",\"is_read_only\":true",
		"\"socket\":\"s\",\"io_engine\":\"Async\"",
		"\"socket\":\"s\",\"rate_limiter\":{}",
		"\"is_read_only\":true",
	};
	const struct device_class *blk = device_class_find("virtio-blk"), *fs = device_class_find("vhost-user-fs");
	struct err e = {0};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(wrong); i++) {
		auto_free char *text = xasprintf("{\"drive_id\":\"d\",\"is_root_device\":false,%s}", wrong[i]);

		assert_null(parse(blk, text, &e));
		assert_true(strstr(e.msg, "socket") || strstr(e.msg, "path_on_host"));
	}
	assert_null(parse(fs, "{\"tag\":\"t\"}", &e));
	assert_null(parse(fs, "{\"tag\":\"t\",\"path\":\"/tmp\",\"socket\":\"s\"}", &e));
	assert_null(parse(fs, "{\"tag\":\"t\",\"path\":\"/a,b\"}", &e));
	assert_null(parse(fs, "{\"tag\":\"1234567890123456789012345678901234567\",\"path\":\"/tmp\"}", &e));
}

/* ---- loss and return ---- */

static void a_peer_that_comes_back_gets_the_requests_of_before_again(void **state)
{
	struct fixture x;

	(void)state;
	disk_up(&x);
	x.peer.hold = true;
	fill(data(&x), 4096, 1);
	start(&x, VIRTIO_BLK_T_OUT, 8, 4096);
	assert_true(wait_for(&x.peer.held, 1));
	fake_peer_stop(&x.peer);
	assert_false(fdrv_wait_used(&x.d, 0, NULL, NULL, 300));
	assert_int_equal(status(&x), 0xee);
	x.peer.hold = false;
	fake_peer_start(&x.peer);
	assert_int_equal(finish(&x, 5000), VIRTIO_BLK_S_OK);
	assert_memory_equal(x.peer.disk + 8 * 512, data(&x), 4096);
	assert_int_equal(GET(&x.peer, connections), 2);
	/* And new ones work. */
	assert_int_equal(request(&x, VIRTIO_BLK_T_IN, 8, 4096), VIRTIO_BLK_S_OK);
	down(&x);
}

static void requests_fail_when_the_peer_stays_away_and_work_when_it_is_back_at_last(void **state)
{
	struct fixture x;

	(void)state;
	disk_up(&x);
	assert_int_equal(request(&x, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
	fake_peer_stop(&x.peer);
	start(&x, VIRTIO_BLK_T_IN, 0, 512);
	assert_int_equal(finish(&x, 15000), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&x, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_IOERR); /* at once now */
	fake_peer_start(&x.peer);
	assert_true(wait_for(&x.peer.starts, 2));
	for (u32 i = 0; i < 100 && request(&x, VIRTIO_BLK_T_IN, 0, 512) != VIRTIO_BLK_S_OK; i++)
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	assert_int_equal(request(&x, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
	down(&x);
}

static void a_successor_that_lacks_features_is_not_taken(void **state)
{
	struct fixture x;

	(void)state;
	disk_up(&x);
	assert_int_equal(request(&x, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
	fake_peer_stop(&x.peer);
	x.peer.no_indirect = true;
	fake_peer_start(&x.peer);
	assert_true(wait_for(&x.peer.connections, 3)); /* tried again and again */
	assert_int_equal(GET(&x.peer, starts), 1);
	down(&x);
}

static void a_reset_waits_for_what_the_peer_works_on(void **state)
{
	struct fixture x;

	(void)state;
	disk_up(&x);
	x.peer.hold = true;
	start(&x, VIRTIO_BLK_T_IN, 0, 512);
	assert_true(wait_for(&x.peer.held, 1));
	assert_false(fdrv_reset(&x.d, 200));
	assert_int_equal(GET(&x.peer, stops), 0);
	fake_peer_release(&x.peer);
	assert_true(fdrv_reset(&x.d, 5000));
	assert_int_equal(GET(&x.peer, stops), 1);
	fdrv_up(&x.d, &x.f, x.dev, FDRV_ALL_FEATURES, 1, 128);
	assert_int_equal(request(&x, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(GET(&x.peer, starts), 2);
	down(&x);
}

static void a_reset_ends_when_the_peer_dies_or_has_died(void **state)
{
	(void)state;
	for (u32 before = 0; before < 2; before++) {
		struct fixture x;

		disk_up(&x);
		x.peer.hold = true;
		start(&x, VIRTIO_BLK_T_IN, 0, 512);
		assert_true(wait_for(&x.peer.held, 1));
		if (before)
			fake_peer_stop(&x.peer);
		else
			assert_false(fdrv_reset(&x.d, 100));
		fake_peer_stop(&x.peer);
		assert_true(fdrv_reset(&x.d, 5000));
		x.peer.hold = false;
		fake_peer_start(&x.peer);
		fdrv_up(&x.d, &x.f, x.dev, FDRV_ALL_FEATURES, 1, 128);
		assert_int_equal(request(&x, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
		down(&x);
	}
}

static void a_paused_device_has_nothing_in_flight_and_goes_on_after(void **state)
{
	struct fixture x;

	(void)state;
	prepare(&x, PEER_DISK, FAKE_VM_QUIET);
	fake_peer_start(&x.peer);
	assert_non_null(add(&x, "", NULL));
	fake_vm_start(&x.f);
	fdrv_up(&x.d, &x.f, x.dev, FDRV_ALL_FEATURES, 1, 256);
	start(&x, VIRTIO_BLK_T_IN, 0, 512);
	fdrv_sync(&x.d);
	x.dev->cls->quiesce(x.dev);
	assert_int_equal(x.d.dev ? GET(&x.peer, requests) : 0, 1);
	assert_int_equal(finish(&x, 1000), VIRTIO_BLK_S_OK);
	start(&x, VIRTIO_BLK_T_IN, 0, 512);
	assert_false(fdrv_wait_used(&x.d, 0, NULL, NULL, 200));
	x.dev->cls->resume(x.dev);
	assert_int_equal(finish(&x, 5000), VIRTIO_BLK_S_OK);
	down(&x);
}

/* ---- the file system ---- */

static void a_share_has_its_tag_and_serves_both_queues(void **state)
{
	struct fixture x;

	(void)state;
	fs_up(&x);
	assert_int_equal(fdrv_read(&x.d, MMIO_DEVICE_ID), 26);
	assert_int_equal(fdrv_config8(&x.d, 0), 't');
	assert_int_equal(fdrv_config8(&x.d, 1), 0);
	assert_int_equal(fdrv_config32(&x.d, 36), 1);
	assert_int_equal(fuse(&x, 1, FUSE_INIT), 0);
	assert_int_equal(fuse(&x, 1, FUSE_GETATTR), 0);
	assert_int_equal(fuse(&x, 0, FUSE_INTERRUPT), 0);
	down(&x);
}

static void after_a_lost_virtiofsd_all_fails_until_the_guest_mounts_again(void **state)
{
	struct fixture x;

	(void)state;
	fs_up(&x);
	assert_int_equal(fuse(&x, 1, FUSE_INIT), 0);
	fake_peer_stop(&x.peer);
	assert_int_equal(fuse(&x, 1, FUSE_GETATTR), -ENOTCONN);
	assert_int_equal(fuse(&x, 1, FUSE_INIT), -ENOTCONN);
	fake_peer_start(&x.peer);
	assert_true(wait_for(&x.peer.starts, 4));
	/* Its inode numbers mean nothing to the new one. */
	assert_int_equal(fuse(&x, 1, FUSE_GETATTR), -ENOTCONN);
	assert_int_equal(fuse(&x, 0, FUSE_FORGET), -ENOTCONN);
	assert_int_equal(fuse(&x, 1, FUSE_INIT), 0);
	assert_int_equal(fuse(&x, 1, FUSE_GETATTR), 0);
	down(&x);
}

static void requests_in_flight_to_a_virtiofsd_that_dies_are_answered(void **state)
{
	struct fuse_in_header in = {.len = sizeof(in), .opcode = FUSE_READ, .unique = 5};
	struct fuse_out_header out;
	struct fixture x;

	(void)state;
	fs_up(&x);
	x.peer.hold = true;
	struct fbuf ob = {x.hdr, sizeof(in)}, ib = {x.data, 4096};

	memcpy(fake_vm_ptr(&x.f, x.hdr, sizeof(in)), &in, sizeof(in));
	fdrv_add(&x.d, 1, &ob, 1, &ib, 1, NULL);
	fdrv_kick(&x.d, 1);
	assert_true(wait_for(&x.peer.held, 1));
	fake_peer_stop(&x.peer);
	assert_true(fdrv_wait_used(&x.d, 1, NULL, NULL, 5000));
	memcpy(&out, data(&x), sizeof(out));
	assert_int_equal(out.error, -ENOTCONN);
	assert_int_equal(out.unique, 5);
	/* A forget has no answer; one without even a header neither. */
	fdrv_add(&x.d, 0, &ob, 1, NULL, 0, NULL);
	ob.len = 3;
	fdrv_add(&x.d, 1, &ob, 1, &ib, 1, NULL);
	fdrv_notify(&x.d, 0);
	fdrv_notify(&x.d, 1);
	assert_true(fdrv_wait_used(&x.d, 0, NULL, NULL, 5000));
	assert_true(fdrv_wait_used(&x.d, 1, NULL, NULL, 5000));
	down(&x);
}

/* ---- hostile ---- */

static const struct {
	enum fake_peer_fault fault;
	const char *says;
} bad_starts[] = {
	{PEER_OLD, "VERSION_1"},
	{PEER_NO_CONFIG, "CONFIG"},
	{PEER_SHORT_ANSWER, "GET_FEATURES with 4 bytes"},
	{PEER_HUGE_ANSWER, "4294967295 bytes"},
	{PEER_OTHER_ANSWER, "GET_FEATURES with GET_QUEUE_NUM"},
	{PEER_NO_REPLY_FLAG, "not asked for"},
	{PEER_OTHER_VERSION, "version 2"},
	{PEER_EMPTY_CONFIG, "GET_CONFIG with 0 bytes"},
	{PEER_ODD_BLOCKS, "1000 bytes"},
	{PEER_CLOSES, "closed the connection"},
	{PEER_HALF_MESSAGE, "middle of a message"},
};

static void a_peer_that_breaks_the_protocol_at_the_start_is_refused_with_a_reason(void **state)
{
	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(bad_starts); i++) {
		struct err e = {0};
		struct fixture x;

		prepare(&x, PEER_DISK, FAKE_VM_QUIET);
		x.peer.fault = bad_starts[i].fault;
		fake_peer_start(&x.peer);
		assert_null(add(&x, "", &e));
		if (!strstr(e.msg, bad_starts[i].says) || !strstr(e.msg, x.peer.path))
			fail_msg("fault %d: \"%s\"", bad_starts[i].fault, e.msg);
		down(&x);
	}
}

static void a_socket_that_nobody_serves_is_an_error_that_says_so(void **state)
{
	struct err e = {0};
	struct fixture x;

	(void)state;
	prepare(&x, PEER_DISK, FAKE_VM_QUIET);
	assert_null(add(&x, "", &e));
	assert_non_null(strstr(e.msg, "is the vhost-user back end running?"));
	assert_int_equal(x.cls->probe(x.cfg, &e), -ENOENT);
	fake_peer_start(&x.peer);
	assert_int_equal(x.cls->probe(x.cfg, &e), 0);
	assert_int_equal(GET(&x.peer, connections), 0); /* some serve one connection only */
	down(&x);
}

static void a_peer_that_breaks_the_rules_while_it_runs_is_cut_off_and_the_vm_lives(void **state)
{
	static const enum fake_peer_fault faults[] = {PEER_USES_UNKNOWN,     PEER_USES_TWICE,	  PEER_USES_FAR,
						      PEER_USES_OUT_OF_RING, PEER_REFUSES_MEMORY, PEER_UNASKED_ANSWER};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(faults); i++) {
		struct fixture x;

		prepare(&x, PEER_DISK, FAKE_VM_QUIET);
		x.peer.fault = faults[i];
		up_with(&x, "", FDRV_ALL_FEATURES, 256);
		start(&x, VIRTIO_BLK_T_IN, 0, 512);
		if (!wait_for(&x.peer.connections, faults[i] == PEER_USES_TWICE ? 2 : 3)) /* cut off, and tried again */
			fail_msg("fault %d", faults[i]);
		fake_peer_stop(&x.peer);
		x.peer.fault = PEER_FINE;
		fake_peer_start(&x.peer);
		assert_int_equal(finish(&x, 5000), VIRTIO_BLK_S_OK);
		assert_int_equal(request(&x, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
		down(&x);
	}
}

static u32 open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	u32 n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void descriptors_that_a_peer_attaches_are_closed(void **state)
{
	struct fixture x;
	u32 before;

	(void)state;
	prepare(&x, PEER_DISK, FAKE_VM_QUIET);
	x.peer.fault = PEER_ATTACHES_FDS;
	up_with(&x, "", FDRV_ALL_FEATURES, 256);
	assert_int_equal(request(&x, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
	before = open_fds();
	for (u32 i = 0; i < 50; i++)
		fake_peer_config_changed(&x.peer); /* each makes an answer with two */
	assert_int_equal(request(&x, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
	fdrv_sync(&x.d);
	nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
	assert_int_equal(open_fds(), before);
	down(&x);
}

static void a_guest_that_breaks_its_queue_is_told_to_reset_and_the_peer_sees_nothing(void **state)
{
	struct fixture x;

	(void)state;
	prepare(&x, PEER_DISK, FAKE_VM_QUIET);
	up_with(&x, "", FDRV_VERSION_1, 64);
	fdrv_raw_desc(x.d.q[0].desc, 0, 0xfffffffff000ull, 4096, FDESC_WRITE, 0, false);
	fdrv_raw_avail(&x.d, 0, 0);
	fdrv_notify(&x.d, 0);
	assert_true(fdrv_wait_needs_reset(&x.d, 5000));
	assert_int_equal(GET(&x.peer, requests), 0);
	assert_true(fdrv_reset(&x.d, 5000));
	fdrv_up(&x.d, &x.f, x.dev, FDRV_ALL_FEATURES, 1, 64);
	assert_int_equal(request(&x, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
	down(&x);
}

static void a_request_without_room_for_a_status_does_no_harm_when_it_fails(void **state)
{
	struct fixture x;

	(void)state;
	fs_up(&x);
	fake_peer_stop(&x.peer);
	struct fbuf empty = {0, 0}, ib = {x.data, 8};

	fdrv_add(&x.d, 1, NULL, 0, &empty, 1, NULL);
	fdrv_add(&x.d, 1, NULL, 0, &ib, 1, NULL);
	fdrv_notify(&x.d, 1);
	assert_true(fdrv_wait_used(&x.d, 1, NULL, NULL, 5000));
	assert_true(fdrv_wait_used(&x.d, 1, NULL, NULL, 5000));
	down(&x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_the_guest_writes_is_on_the_peers_disk_and_is_read_back),
		cmocka_unit_test(a_ring_full_of_requests_is_served_also_without_indirect_tables),
		cmocka_unit_test(memory_in_both_regions_is_shared),
		cmocka_unit_test(what_is_loaded_before_the_start_is_in_the_shared_memory),
		cmocka_unit_test(pages_that_the_peer_wrote_are_marked_before_the_guest_sees_it),
		cmocka_unit_test(cache_type_decides_on_flush_and_the_peer_on_the_rest),
		cmocka_unit_test(the_driver_gets_as_many_queues_as_peer_and_configuration_agree_on),
		cmocka_unit_test(a_change_of_the_peers_configuration_reaches_the_driver),
		cmocka_unit_test(a_patch_without_fields_reads_the_size_again),
		cmocka_unit_test(keys_that_the_peer_sees_to_are_refused_beside_socket),
		cmocka_unit_test(a_peer_that_comes_back_gets_the_requests_of_before_again),
		cmocka_unit_test(requests_fail_when_the_peer_stays_away_and_work_when_it_is_back_at_last),
		cmocka_unit_test(a_successor_that_lacks_features_is_not_taken),
		cmocka_unit_test(a_reset_waits_for_what_the_peer_works_on),
		cmocka_unit_test(a_reset_ends_when_the_peer_dies_or_has_died),
		cmocka_unit_test(a_paused_device_has_nothing_in_flight_and_goes_on_after),
		cmocka_unit_test(a_share_has_its_tag_and_serves_both_queues),
		cmocka_unit_test(after_a_lost_virtiofsd_all_fails_until_the_guest_mounts_again),
		cmocka_unit_test(requests_in_flight_to_a_virtiofsd_that_dies_are_answered),
		cmocka_unit_test(a_peer_that_breaks_the_protocol_at_the_start_is_refused_with_a_reason),
		cmocka_unit_test(a_socket_that_nobody_serves_is_an_error_that_says_so),
		cmocka_unit_test(a_peer_that_breaks_the_rules_while_it_runs_is_cut_off_and_the_vm_lives),
		cmocka_unit_test(descriptors_that_a_peer_attaches_are_closed),
		cmocka_unit_test(a_guest_that_breaks_its_queue_is_told_to_reset_and_the_peer_sees_nothing),
		cmocka_unit_test(a_request_without_room_for_a_status_does_no_harm_when_it_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
