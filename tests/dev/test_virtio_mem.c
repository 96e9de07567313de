/* test_virtio_mem.c: memory is plugged in as far as the host asked for, and goes back to the host when it is unplugged. */
#include <linux/virtio_mem.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/dev/fake_driver.h"
#include "tests/dev/op_bench.h"

#define REGION (8 * GIB)
#define TOTAL  (512 * MIB)
#define BLOCK  (2 * MIB)
#define SLOT   (128 * MIB)
#define FILL   0xa5

/* Offsets in the configuration space (virtio 1.2 §5.15.4). */
#define BLOCK_SIZE  0u
#define ADDR	    16u
#define REGION_SIZE 24u
#define USABLE	    32u
#define PLUGGED	    40u
#define REQUESTED   48u

struct bench {
	struct fake_vm f;
	struct fdrv d;
	struct device *dev;
	void *cfg;
};

static const u64 layouts[] = {FDRV_VERSION_1 | BIT(VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE), FDRV_ALL_FEATURES};

static void bench_make(struct bench *b, u32 flags)
{
	const struct device_class *cls = device_class_find("virtio-mem");
	struct err e;

	fake_vm_init(&b->f, flags);
	b->cfg = op_config(cls, "{\"total_size_mib\":512}", &e);
	assert_non_null(b->cfg);
	assert_int_equal(cls->hotplug_memory(b->cfg), TOTAL);
	assert_int_equal(mem_add_hotplug(&b->f.vm.mem, REGION, TOTAL, &e), 0);
	b->dev = fake_vm_add(&b->f, cls, b->cfg);
	fake_vm_start(&b->f);
}

static void bench_up(struct bench *b, u64 features, u32 flags)
{
	bench_make(b, flags);
	fdrv_up(&b->d, &b->f, b->dev, features, 1, 64);
}

static void bench_down(struct bench *b)
{
	fake_vm_fini(&b->f);
	free(b->cfg);
}

static u64 host_bytes(struct bench *b)
{
	struct stat st;

	assert_int_equal(fstat(b->f.vm.mem.fd, &st), 0);
	return (u64)st.st_blocks * 512;
}

static void want(struct bench *b, u32 mib)
{
	char body[64];
	struct err e;

	snprintf(body, sizeof(body), "{\"requested_size_mib\":%u}", mib);
	assert_int_equal(op_patch(b->dev, "", body, &e), 0);
}

/* One request; the answer's type, or state + 10 for STATE. */
static u16 ask(struct bench *b, u16 type, u64 addr, u16 nr)
{
	struct fbuf out = {fake_vm_alloc(&b->f, 24, 8), 24}, in = {fake_vm_alloc(&b->f, 10, 8), 10};
	u8 *req = fake_vm_ptr(&b->f, out.gpa, 24), *resp = fake_vm_ptr(&b->f, in.gpa, 10);

	st_le16(req, type);
	st_le64(req + 8, addr);
	st_le16(req + 16, nr);
	memset(resp, 0xff, 10);
	assert_int_equal(fdrv_request(&b->d, 0, &out, 1, &in, 1), 10);
	if (type == VIRTIO_MEM_REQ_STATE && ld_le16(resp) == VIRTIO_MEM_RESP_ACK)
		return (u16)(ld_le16(resp + 8) + 10);
	return ld_le16(resp);
}

#define STATE(b, addr, nr) (ask(b, VIRTIO_MEM_REQ_STATE, addr, nr) - 10)

static void blocks_are_plugged_and_unplugged_as_the_host_asks(void **state)
{
	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(layouts); i++) {
		struct bench b;
		u64 before;

		bench_up(&b, layouts[i], 0);
		assert_int_equal(fdrv_config64(&b.d, BLOCK_SIZE), BLOCK);
		assert_int_equal(fdrv_config64(&b.d, ADDR), REGION);
		assert_int_equal(fdrv_config64(&b.d, REGION_SIZE), TOTAL);
		assert_int_equal(fdrv_config64(&b.d, USABLE), 0);
		assert_int_equal(ask(&b, VIRTIO_MEM_REQ_PLUG, REGION, 1), VIRTIO_MEM_RESP_ERROR); /* nothing is usable */
		want(&b, 130);
		assert_true(fdrv_isr(&b.d) & VIRTIO_ISR_CONFIG);
		assert_int_equal(fdrv_config64(&b.d, REQUESTED), 130 * MIB);
		assert_int_equal(fdrv_config64(&b.d, USABLE), 2 * SLOT);
		assert_int_equal(ask(&b, VIRTIO_MEM_REQ_PLUG, REGION, 64), VIRTIO_MEM_RESP_ACK);
		assert_int_equal(ask(&b, VIRTIO_MEM_REQ_PLUG, REGION + SLOT, 2), VIRTIO_MEM_RESP_NACK); /* 132 MiB */
		assert_int_equal(ask(&b, VIRTIO_MEM_REQ_PLUG, REGION + SLOT, 1), VIRTIO_MEM_RESP_ACK);
		assert_int_equal(fdrv_config64(&b.d, PLUGGED), 130 * MIB);
		assert_int_equal(op_get_number(b.dev, "", "plugged_size_mib"), 130);
		assert_int_equal(STATE(&b, REGION, 65), VIRTIO_MEM_STATE_PLUGGED);
		assert_int_equal(STATE(&b, REGION + SLOT, 2), VIRTIO_MEM_STATE_MIXED);
		assert_int_equal(STATE(&b, REGION + SLOT + BLOCK, 63), VIRTIO_MEM_STATE_UNPLUGGED);
		memset(fake_vm_ptr(&b.f, REGION, 130 * MIB), FILL, 130 * MIB);
		before = host_bytes(&b);
		assert_int_equal(ask(&b, VIRTIO_MEM_REQ_UNPLUG, REGION + BLOCK, 60), VIRTIO_MEM_RESP_ACK);
		assert_true(before - host_bytes(&b) >= 119 * MIB);
		assert_int_equal(STATE(&b, REGION + BLOCK, 60), VIRTIO_MEM_STATE_UNPLUGGED);
		assert_int_equal(fdrv_config64(&b.d, PLUGGED), 10 * MIB);
		assert_int_equal(*(u8 *)fake_vm_ptr(&b.f, REGION + BLOCK - 1, 1), FILL);
		assert_int_equal(*(u8 *)fake_vm_ptr(&b.f, REGION + BLOCK, 1), 0);
		assert_int_equal(*(u8 *)fake_vm_ptr(&b.f, REGION + 61 * BLOCK - 1, 1), 0);
		assert_int_equal(*(u8 *)fake_vm_ptr(&b.f, REGION + 61 * BLOCK, 1), FILL);
		assert_int_equal(op_counter(b.dev, "plug_bytes"), 130 * MIB);
		assert_int_equal(op_counter(b.dev, "plug_fails"), 2);
		assert_int_equal(op_counter(b.dev, "unplug_bytes"), 120 * MIB);
		bench_down(&b);
	}
}

static void ranges_that_are_not_to_be_had_change_nothing(void **state)
{
	static const struct {
		u64 addr;
		u16 nr;
	} bad[] = {
		{REGION, 0},
		{REGION + 1, 1},
		{REGION + 4096, 1},
		{REGION - BLOCK, 1},
		{REGION - BLOCK, 2},
		{REGION, 65},
		{REGION + SLOT, 1},
		{REGION + SLOT - BLOCK, 2},
		{REGION, UINT16_MAX},
		{0, 1},
		{UINT64_MAX - BLOCK + 1, 1},
		{UINT64_MAX - BLOCK + 1, 2},
		{UINT64_MAX, UINT16_MAX},
		{REGION + TOTAL, 1},
		{MIB, 1},
	};
	struct bench b;

	(void)state;
	bench_up(&b, FDRV_ALL_FEATURES, FAKE_VM_QUIET);
	want(&b, 128);
	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		for (u16 type = VIRTIO_MEM_REQ_PLUG; type <= VIRTIO_MEM_REQ_STATE; type++) {
			if (type == VIRTIO_MEM_REQ_UNPLUG_ALL)
				continue;
			if (ask(&b, type, bad[i].addr, bad[i].nr) != VIRTIO_MEM_RESP_ERROR)
				fail_msg("%u: %llx + %u", type, (unsigned long long)bad[i].addr, bad[i].nr);
		}
	}
	assert_int_equal(fdrv_config64(&b.d, PLUGGED), 0);
	assert_int_equal(ask(&b, VIRTIO_MEM_REQ_PLUG, REGION + BLOCK, 2), VIRTIO_MEM_RESP_ACK);
	/* Twice, in part, or what is not there. */
	assert_int_equal(ask(&b, VIRTIO_MEM_REQ_PLUG, REGION + BLOCK, 1), VIRTIO_MEM_RESP_ERROR);
	assert_int_equal(ask(&b, VIRTIO_MEM_REQ_PLUG, REGION, 2), VIRTIO_MEM_RESP_ERROR);
	assert_int_equal(ask(&b, VIRTIO_MEM_REQ_UNPLUG, REGION, 2), VIRTIO_MEM_RESP_ERROR);
	assert_int_equal(ask(&b, VIRTIO_MEM_REQ_UNPLUG, REGION + 3 * BLOCK, 1), VIRTIO_MEM_RESP_ERROR);
	assert_int_equal(ask(&b, 4, REGION, 1), VIRTIO_MEM_RESP_ERROR);
	assert_int_equal(ask(&b, UINT16_MAX, REGION, 1), VIRTIO_MEM_RESP_ERROR);
	assert_int_equal(fdrv_config64(&b.d, PLUGGED), 2 * BLOCK);
	bench_down(&b);
}

static void unplug_all_empties_and_shrinks_what_is_usable(void **state)
{
	struct bench b;
	u64 before;

	(void)state;
	bench_up(&b, FDRV_ALL_FEATURES, 0);
	before = host_bytes(&b);
	want(&b, 512);
	assert_int_equal(ask(&b, VIRTIO_MEM_REQ_PLUG, REGION, 256), VIRTIO_MEM_RESP_ACK);
	memset(fake_vm_ptr(&b.f, REGION + 100 * MIB, 200 * MIB), FILL, 200 * MIB);
	want(&b, 0);
	assert_int_equal(fdrv_config64(&b.d, USABLE), TOTAL);
	assert_int_equal(fdrv_config64(&b.d, PLUGGED), TOTAL);
	assert_int_equal(ask(&b, VIRTIO_MEM_REQ_PLUG, REGION, 1), VIRTIO_MEM_RESP_ERROR);
	assert_int_equal(ask(&b, VIRTIO_MEM_REQ_UNPLUG_ALL, 0, 0), VIRTIO_MEM_RESP_ACK);
	assert_in_range(host_bytes(&b), before, before + MIB);
	assert_int_equal(fdrv_config64(&b.d, USABLE), 0);
	assert_int_equal(fdrv_config64(&b.d, PLUGGED), 0);
	want(&b, 2);
	assert_int_equal(ask(&b, VIRTIO_MEM_REQ_UNPLUG_ALL, 0, 0), VIRTIO_MEM_RESP_ACK);
	assert_int_equal(fdrv_config64(&b.d, USABLE), SLOT); /* never less than is requested */
	bench_down(&b);
}

static void requests_that_are_too_short_break_the_device_until_a_reset(void **state)
{
	struct bench b;
	struct fbuf out, in;

	(void)state;
	for (u32 i = 0; i < 3; i++) {
		bench_up(&b, FDRV_ALL_FEATURES, FAKE_VM_QUIET);
		want(&b, 128);
		out = (struct fbuf){fake_vm_alloc(&b.f, 24, 8), i == 0 ? 23 : 24};
		in = (struct fbuf){fake_vm_alloc(&b.f, 10, 8), 9};
		assert_true(fdrv_add(&b.d, 0, &out, 1, &in, i == 2 ? 0 : 1, NULL));
		fdrv_notify(&b.d, 0);
		assert_true(fdrv_wait_needs_reset(&b.d, 1000));
		assert_true(fdrv_reset(&b.d, 1000));
		fdrv_up(&b.d, &b.f, b.dev, FDRV_ALL_FEATURES, 1, 64);
		assert_int_equal(ask(&b, VIRTIO_MEM_REQ_PLUG, REGION, 1), VIRTIO_MEM_RESP_ACK);
		bench_down(&b);
	}
}

static void a_driver_that_would_touch_unplugged_memory_is_refused(void **state)
{
	struct bench b;

	(void)state;
	bench_make(&b, FAKE_VM_QUIET);
	assert_true(fdrv_probe(&b.d, &b.f, b.dev, FDRV_VERSION_1));
	fdrv_queue_setup(&b.d, 0, 64);
	assert_false(fdrv_driver_ok(&b.d));
	assert_int_equal(op_counter(b.dev, "activate_fails"), 1);
	bench_down(&b);
}

static void the_requested_size_has_limits(void **state)
{
	struct bench b;
	struct err e;

	(void)state;
	bench_make(&b, 0);
	assert_int_equal(op_patch(b.dev, "", "{\"requested_size_mib\":2}", &e), -EINVAL);
	assert_non_null(strstr(e.msg, "not active"));
	fdrv_up(&b.d, &b.f, b.dev, FDRV_ALL_FEATURES, 1, 64);
	assert_int_equal(op_patch(b.dev, "", "{\"requested_size_mib\":512}", &e), 0);
	assert_int_equal(op_patch(b.dev, "", "{\"requested_size_mib\":514}", &e), -EINVAL);
	assert_int_equal(op_patch(b.dev, "", "{\"requested_size_mib\":511}", &e), -EINVAL);
	assert_int_equal(op_patch(b.dev, "", "{\"requested_size_mib\":4294967294}", &e), -EINVAL);
	assert_int_equal(op_patch(b.dev, "", "{\"requested_size_mib\":4294967296}", &e), -EINVAL);
	assert_int_equal(op_patch(b.dev, "", "{}", &e), -EINVAL);
	assert_int_equal(op_get_number(b.dev, "", "requested_size_mib"), 512);
	assert_int_equal(op_get_number(b.dev, "", "total_size_mib"), 512);
	assert_int_equal(op_get_number(b.dev, "", "block_size_mib"), 2);
	assert_int_equal(op_get_number(b.dev, "", "slot_size_mib"), 128);
	bench_down(&b);
}

static void a_reset_keeps_blocks_and_finishes_what_was_unplugged(void **state)
{
	struct bench b;
	struct fbuf out, in;
	u64 before;

	(void)state;
	bench_up(&b, FDRV_ALL_FEATURES, 0);
	before = host_bytes(&b);
	want(&b, 512);
	assert_int_equal(ask(&b, VIRTIO_MEM_REQ_PLUG, REGION, 256), VIRTIO_MEM_RESP_ACK);
	memset(fake_vm_ptr(&b.f, REGION, TOTAL), FILL, TOTAL);
	out = (struct fbuf){fake_vm_alloc(&b.f, 24, 8), 24};
	in = (struct fbuf){fake_vm_alloc(&b.f, 10, 8), 10};
	st_le16(fake_vm_ptr(&b.f, out.gpa, 2), VIRTIO_MEM_REQ_UNPLUG);
	st_le64(fake_vm_ptr(&b.f, out.gpa + 8, 8), REGION);
	st_le16(fake_vm_ptr(&b.f, out.gpa + 16, 2), 255);
	assert_true(fdrv_add(&b.d, 0, &out, 1, &in, 1, NULL));
	fdrv_notify(&b.d, 0);
	while (fdrv_config64(&b.d, PLUGGED) == TOTAL)
		usleep(100);
	assert_true(fdrv_reset(&b.d, 1000));
	fdrv_up(&b.d, &b.f, b.dev, FDRV_ALL_FEATURES, 1, 64);
	assert_int_equal(STATE(&b, REGION + TOTAL - BLOCK, 1), VIRTIO_MEM_STATE_PLUGGED);
	assert_in_range(host_bytes(&b), before + BLOCK, before + BLOCK + MIB);
	assert_int_equal(fdrv_config64(&b.d, PLUGGED), BLOCK);
	bench_down(&b);
}

static void configurations_that_are_wrong_are_refused(void **state)
{
	static const struct {
		const char *text, *why;
	} cases[] = {
		{"{}", "total_size_mib"},
		{"{\"total_size_mib\":0}", "Total size must not be lower than slot size (128 MiB)"},
		{"{\"total_size_mib\":64}", "Total size must not be lower than slot size (128 MiB)"},
		{"{\"total_size_mib\":1000}", "Total size must be a multiple of slot size (128 MiB)"},
		{"{\"total_size_mib\":1024,\"block_size_mib\":1}", "Block size must not be lower than 2 MiB"},
		{"{\"total_size_mib\":1024,\"block_size_mib\":0}", "Block size must not be lower than 2 MiB"},
		{"{\"total_size_mib\":1024,\"block_size_mib\":3}", "Block size must be a power of 2"},
		{"{\"total_size_mib\":1024,\"slot_size_mib\":127}", "Slot size must not be lower than 128 MiB"},
		{"{\"total_size_mib\":1024,\"slot_size_mib\":130,\"block_size_mib\":4}",
		 "Slot size must be a multiple of block size (4 MiB)"},
		{"{\"total_size_mib\":4294967296}", "total_size_mib"},
		{"{\"total_size_mib\":128,\"node\":0}", "node"},
		{"{\"total_size_mib\":128}", NULL},
		{"{\"total_size_mib\":4294967168,\"block_size_mib\":128}", NULL},
		{"{\"total_size_mib\":768,\"slot_size_mib\":384,\"block_size_mib\":128}", NULL},
	};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err e = {0};
		void *cfg = op_config(device_class_find("virtio-mem"), cases[i].text, &e);

		if (!cfg != !!cases[i].why || (cases[i].why && !strstr(e.msg, cases[i].why)))
			fail_msg("%s: %s", cases[i].text, e.msg);
		free(cfg);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blocks_are_plugged_and_unplugged_as_the_host_asks),
		cmocka_unit_test(ranges_that_are_not_to_be_had_change_nothing),
		cmocka_unit_test(unplug_all_empties_and_shrinks_what_is_usable),
		cmocka_unit_test(requests_that_are_too_short_break_the_device_until_a_reset),
		cmocka_unit_test(a_driver_that_would_touch_unplugged_memory_is_refused),
		cmocka_unit_test(the_requested_size_has_limits),
		cmocka_unit_test(a_reset_keeps_blocks_and_finishes_what_was_unplugged),
		cmocka_unit_test(configurations_that_are_wrong_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
