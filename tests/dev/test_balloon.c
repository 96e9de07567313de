/* test_balloon.c: the memory balloon gives pages back to the host, whatever the driver names as pages; statistics, hinting, reporting. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/dev/fake_driver.h"
#include "tests/dev/op_bench.h"

#define PAGES	   (64 * MIB)  /* guest memory that tests fill */
#define PAGES_SIZE (160 * MIB) /* and how much */
#define PFN(gpa)   ((u32)((gpa) / MEM_PAGE_SIZE))
#define FILL	   0xa5

/* Offsets in the configuration space (virtio 1.2 §5.5.4). */
#define NUM_PAGES 0u
#define ACTUAL	  4u
#define CMD_ID	  8u

struct bench {
	struct fake_vm f;
	struct fdrv d;
	struct device *dev;
	void *cfg;
};

static const u64 layouts[] = {FDRV_VERSION_1, FDRV_ALL_FEATURES};

static void bench_make(struct bench *b, const char *more, u32 flags)
{
	struct err e;
	char text[200];

	snprintf(text, sizeof(text), "{\"amount_mib\":0,\"deflate_on_oom\":false%s%s}", *more ? "," : "", more);
	fake_vm_init(&b->f, flags);
	b->cfg = op_config(device_class_find("virtio-balloon"), text, &e);
	assert_non_null(b->cfg);
	b->dev = fake_vm_add(&b->f, device_class_find("virtio-balloon"), b->cfg);
	fake_vm_start(&b->f);
}

static void bench_up_as(struct bench *b, const char *more, u16 nr_queues, u64 features, u32 flags)
{
	bench_make(b, more, flags);
	fdrv_up(&b->d, &b->f, b->dev, features, nr_queues, 64);
}

static void bench_up(struct bench *b, const char *more, u16 nr_queues)
{
	bench_up_as(b, more, nr_queues, FDRV_ALL_FEATURES, 0);
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

static void fill(struct bench *b, u64 gpa, u64 len)
{
	memset(fake_vm_ptr(&b->f, gpa, len), FILL, len);
}

static bool holds(struct bench *b, u64 gpa, u64 len, u8 value)
{
	const u8 *p = fake_vm_ptr(&b->f, gpa, len);

	return p[0] == value && !memcmp(p, p + 1, len - 1);
}

/* Sends page numbers through queue q. */
static void send_pfns(struct bench *b, u16 q, const u32 *pfns, u32 nr)
{
	struct fbuf out = {fake_vm_alloc(&b->f, nr * sizeof(u32), 4), nr * (u32)sizeof(u32)};

	memcpy(fake_vm_ptr(&b->f, out.gpa, out.len), pfns, out.len);
	assert_int_equal(fdrv_request(&b->d, q, &out, 1, NULL, 0), 0);
}

/* ---- inflate and deflate ---- */

static void pages_in_any_order_go_back_and_their_neighbours_stay(void **state)
{
	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(layouts); i++) {
		struct bench b;
		u32 first = PFN(PAGES), pfns[256];
		u64 before;

		bench_up_as(&b, "", 2, layouts[i], 0);
		fill(&b, PAGES, 4 * MIB);
		before = host_bytes(&b);
		/* From the top, every page twice, but for every eighth. */
		for (u32 n = 0; n < 256; n++)
			pfns[n] = first + 300 - n / 2 - ((300 - n / 2) % 8 == 0);
		send_pfns(&b, 0, pfns, 256);
		assert_in_range(before - host_bytes(&b), 100 * MEM_PAGE_SIZE, 128 * MEM_PAGE_SIZE);
		for (u32 n = 0; n < 1024; n++) {
			bool given = n >= 173 && n <= 300 && n % 8;

			if (!given && n >= 172 && n <= 300 && n % 8 == 7)
				continue; /* named in place of the eighth */
			assert_true(holds(&b, PAGES + n * MEM_PAGE_SIZE, MEM_PAGE_SIZE, given ? 0 : FILL));
		}
		send_pfns(&b, 1, pfns, 256); /* deflate: nothing to see */
		fill(&b, PAGES, 4 * MIB);
		assert_in_range(host_bytes(&b), before, before + 16 * MEM_PAGE_SIZE);
		bench_down(&b);
	}
}

static void a_hundred_mebibytes_come_back_page_by_page(void **state)
{
	struct bench b;
	u32 pfns[256];
	u64 before;

	(void)state;
	bench_up(&b, "", 2);
	fill(&b, PAGES, 100 * MIB);
	before = host_bytes(&b);
	for (u64 at = 100 * MIB; at; at -= MIB) {
		for (u32 n = 0; n < 256; n++)
			pfns[n] = PFN(PAGES + at) - n - 1;
		send_pfns(&b, 0, pfns, 256);
	}
	assert_true(before - host_bytes(&b) >= 99 * MIB);
	assert_true(holds(&b, PAGES, 100 * MIB, 0));
	assert_int_equal(op_counter(b.dev, "inflate_count"), 100);
	assert_int_equal(op_counter(b.dev, "event_fails"), 0);
	bench_down(&b);
}

static void page_numbers_that_are_no_ram_are_ignored(void **state)
{
	struct bench b;
	u32 pfns[] = {
		UINT32_MAX,
		0x80000000,
		PFN(FAKE_RAM_LOW),
		PFN(FAKE_RAM_LOW) + 1,
		PFN(FAKE_RAM_HIGH_BASE) - 1,
		PFN(FAKE_RAM_HIGH_BASE + FAKE_RAM_HIGH),
		PFN(FAKE_MMIO_BASE),
		PFN(PAGES) + 1,
		PFN(FAKE_RAM_HIGH_BASE + FAKE_RAM_HIGH) + 1000,
	};

	(void)state;
	bench_up_as(&b, "", 2, FDRV_ALL_FEATURES, FAKE_VM_QUIET);
	fill(&b, PAGES, 3 * MEM_PAGE_SIZE);
	fill(&b, FAKE_RAM_HIGH_BASE + FAKE_RAM_HIGH - MEM_PAGE_SIZE, MEM_PAGE_SIZE);
	send_pfns(&b, 0, pfns, ARRAY_SIZE(pfns));
	send_pfns(&b, 1, pfns, ARRAY_SIZE(pfns));
	assert_true(holds(&b, PAGES, MEM_PAGE_SIZE, FILL));
	assert_true(holds(&b, PAGES + MEM_PAGE_SIZE, MEM_PAGE_SIZE, 0));
	assert_true(holds(&b, PAGES + 2 * MEM_PAGE_SIZE, MEM_PAGE_SIZE, FILL));
	assert_true(holds(&b, FAKE_RAM_HIGH_BASE + FAKE_RAM_HIGH - MEM_PAGE_SIZE, MEM_PAGE_SIZE, FILL));
	assert_true(op_counter(b.dev, "event_fails") >= 6);
	bench_down(&b);
}

static void requests_of_odd_shapes_are_answered(void **state)
{
	struct bench b;

	(void)state;
	bench_up(&b, "", 2);
	struct fbuf odd = {fake_vm_alloc(&b.f, 8, 4), 7}, in = {fake_vm_alloc(&b.f, 8, 4), 8}, empty = {0, 0};

	st_le32(fake_vm_ptr(&b.f, odd.gpa, 4), PFN(PAGES));
	fill(&b, PAGES, 2 * MEM_PAGE_SIZE);
	assert_int_equal(fdrv_request(&b.d, 0, &odd, 1, NULL, 0), 0); /* one page, and three bytes that are none */
	assert_int_equal(fdrv_request(&b.d, 0, NULL, 0, &in, 1), 0);
	assert_int_equal(fdrv_request(&b.d, 0, &empty, 1, NULL, 0), 0);
	assert_int_equal(fdrv_request(&b.d, 1, NULL, 0, &in, 1), 0);
	assert_true(holds(&b, PAGES, MEM_PAGE_SIZE, 0));
	assert_true(holds(&b, PAGES + MEM_PAGE_SIZE, MEM_PAGE_SIZE, FILL));
	bench_down(&b);
}

/* 64 elements that all show the same 16 MiB: 268 million page numbers. */
static void a_request_without_end_does_not_hold_up_the_loop(void **state)
{
	struct bench b;
	struct fbuf out[60];

	(void)state;
	bench_up(&b, "\"stats_polling_interval_s\":1", 3);
	for (u32 i = 0; i < ARRAY_SIZE(out); i++)
		out[i] = (struct fbuf){PAGES, 16 * MIB};
	fill(&b, PAGES + 16 * MIB, MEM_PAGE_SIZE);
	for (u32 i = 0; i < 16 * MIB / sizeof(u32); i++)
		st_le32(fake_vm_ptr(&b.f, PAGES + i * sizeof(u32), 4), PFN(PAGES + 16 * MIB));
	assert_true(fdrv_add(&b.d, 0, out, ARRAY_SIZE(out), NULL, 0, NULL));
	assert_true(fdrv_kick(&b.d, 0));
	for (u32 i = 0; i < 5; i++) {
		u64 start = clock_host_ns();

		assert_int_equal(op_get_number(b.dev, "/statistics", "target_pages"), 0);
		assert_in_range(clock_host_ns() - start, 0, 200 * NSEC_PER_MSEC); /* turns of 5 ms, on a busy machine */
	}
	assert_true(fdrv_wait_used(&b.d, 0, NULL, NULL, 10000));
	assert_true(holds(&b, PAGES + 16 * MIB, MEM_PAGE_SIZE, 0));
	bench_down(&b);
}

/* ---- target size ---- */

static void the_target_is_what_the_configuration_and_then_patch_say(void **state)
{
	struct bench b;
	struct err e;
	u32 edges;

	(void)state;
	bench_up(&b, "", 2);
	assert_int_equal(fdrv_config32(&b.d, NUM_PAGES), 0);
	edges = fdrv_edges(&b.d);
	assert_int_equal(op_patch(b.dev, "", "{\"amount_mib\":100}", &e), 0);
	assert_int_equal(fdrv_config32(&b.d, NUM_PAGES), 25600);
	assert_int_equal(fdrv_edges(&b.d), edges + 1);
	assert_true(fdrv_isr(&b.d) & VIRTIO_ISR_CONFIG);
	assert_int_equal(op_get_number(b.dev, "", "amount_mib"), 100);
	assert_int_equal(op_patch(b.dev, "", "{\"amount_mib\":320}", &e), 0); /* all that there is */
	assert_int_equal(op_patch(b.dev, "", "{\"amount_mib\":321}", &e), -EINVAL);
	assert_string_equal(e.msg, "Amount of pages requested is too large.");
	assert_int_equal(op_patch(b.dev, "", "{\"amount_mib\":4294967295}", &e), -EINVAL);
	assert_int_equal(op_patch(b.dev, "", "{\"amount_mib\":4294967296}", &e), -EINVAL);
	assert_int_equal(op_patch(b.dev, "", "{\"amount_mib\":-1}", &e), -EINVAL);
	assert_int_equal(op_patch(b.dev, "", "{}", &e), -EINVAL);
	assert_int_equal(op_patch(b.dev, "", "{\"amount_mib\":1,\"deflate_on_oom\":true}", &e), -EINVAL);
	assert_int_equal(op_get_number(b.dev, "", "amount_mib"), 320);
	bench_down(&b);
}

static void without_a_driver_the_target_cannot_be_set(void **state)
{
	struct bench b;
	struct err e;

	(void)state;
	bench_make(&b, "\"free_page_hinting\":true", 0);
	assert_int_equal(op_patch(b.dev, "", "{\"amount_mib\":1}", &e), -EINVAL);
	assert_non_null(strstr(e.msg, "Device is inactive"));
	assert_int_equal(op_patch(b.dev, "/hinting/start", "{}", &e), -EINVAL);
	assert_int_equal(op_patch(b.dev, "/hinting/stop", "{}", &e), -EINVAL);
	bench_down(&b);
}

static void the_driver_writes_what_it_holds_and_nothing_else(void **state)
{
	struct bench b;

	(void)state;
	bench_up_as(&b, "\"stats_polling_interval_s\":1", 3, FDRV_ALL_FEATURES, FAKE_VM_QUIET);
	fdrv_config_write(&b.d, ACTUAL, &(u32){777}, 4);
	assert_int_equal(op_get_number(b.dev, "/statistics", "actual_pages"), 777);
	assert_int_equal(op_get_number(b.dev, "/statistics", "actual_mib"), 3);
	fdrv_config_write(&b.d, NUM_PAGES, &(u32){5}, 4);
	fdrv_config_write(&b.d, CMD_ID, &(u32){5}, 4);
	fdrv_config_write(&b.d, ACTUAL, &(u16){5}, 2);
	fdrv_config_write(&b.d, ACTUAL + 2, &(u32){UINT32_MAX}, 4);
	assert_int_equal(fdrv_config32(&b.d, NUM_PAGES), 0);
	assert_int_equal(fdrv_config32(&b.d, CMD_ID), 0);
	assert_int_equal(fdrv_config32(&b.d, ACTUAL), 777);
	assert_int_equal(op_counter(b.dev, "cfg_fails"), 4);
	assert_true(fdrv_reset(&b.d, 1000));
	assert_int_equal(op_get_number(b.dev, "/statistics", "actual_pages"), 0); /* a new driver has an empty balloon */
	bench_down(&b);
}

/* ---- statistics ---- */

#define STATS 2u

static struct fbuf stats_buffer(struct bench *b, const u16 *tags, u32 nr)
{
	struct fbuf out = {fake_vm_alloc(&b->f, nr * 10, 1), nr * 10};
	u8 *p = fake_vm_ptr(&b->f, out.gpa, out.len);

	for (u32 i = 0; i < nr; i++) {
		st_le16(p + i * 10, tags[i]);
		st_le64(p + i * 10 + 2, 1000000000000ull + tags[i]);
	}
	return out;
}

static void statistics_are_told_and_asked_for_again_after_the_interval(void **state)
{
	static const u16 tags[] = {4, 5, 15, 16, 0xffff};
	struct bench b;
	struct err e;
	u64 start = clock_host_ns();

	(void)state;
	bench_up(&b, "\"stats_polling_interval_s\":1", 3);
	struct fbuf out = stats_buffer(&b, tags, ARRAY_SIZE(tags));

	assert_int_equal(op_get_number(b.dev, "/statistics", "free_memory"), -1);
	assert_true(fdrv_add(&b.d, STATS, &out, 1, NULL, 0, NULL));
	fdrv_kick(&b.d, STATS);
	assert_true(fdrv_wait_used(&b.d, STATS, NULL, NULL, 5000));
	assert_true(clock_host_ns() - start > 500 * NSEC_PER_MSEC);
	assert_int_equal(op_get_number(b.dev, "/statistics", "free_memory"), 1000000000004);
	assert_int_equal(op_get_number(b.dev, "/statistics", "total_memory"), 1000000000005);
	assert_int_equal(op_get_number(b.dev, "/statistics", "direct_reclaim"), 1000000000015);
	assert_int_equal(op_get_number(b.dev, "/statistics", "swap_in"), -1);
	assert_int_equal(op_counter(b.dev, "stats_updates_count"), 1);
	assert_int_equal(op_counter(b.dev, "stats_update_fails"), 2);
	/* A new interval asks at once. */
	assert_int_equal(op_patch(b.dev, "/statistics", "{\"stats_polling_interval_s\":65535}", &e), 0);
	assert_true(fdrv_add(&b.d, STATS, &out, 1, NULL, 0, NULL));
	fdrv_notify(&b.d, STATS);
	fdrv_sync(&b.d);
	assert_false(fdrv_get_used(&b.d, STATS, NULL, NULL));
	assert_int_equal(op_patch(b.dev, "/statistics", "{\"stats_polling_interval_s\":3600}", &e), 0);
	assert_true(fdrv_wait_used(&b.d, STATS, NULL, NULL, 500));
	assert_int_equal(op_get_number(b.dev, "", "stats_polling_interval_s"), 3600);
	bench_down(&b);
}

static void statistics_cannot_be_switched(void **state)
{
	struct bench b;
	struct err e;

	(void)state;
	bench_up(&b, "\"stats_polling_interval_s\":7", 3);
	assert_int_equal(op_patch(b.dev, "/statistics", "{\"stats_polling_interval_s\":7}", &e), 0);
	assert_int_equal(op_patch(b.dev, "/statistics", "{\"stats_polling_interval_s\":0}", &e), -EINVAL);
	assert_int_equal(op_patch(b.dev, "/statistics", "{\"stats_polling_interval_s\":65536}", &e), -EINVAL);
	assert_int_equal(op_patch(b.dev, "/statistics", "{}", &e), -EINVAL);
	bench_down(&b);
	bench_up(&b, "", 2);
	assert_int_equal(op_patch(b.dev, "/statistics", "{\"stats_polling_interval_s\":0}", &e), 0);
	assert_int_equal(op_patch(b.dev, "/statistics", "{\"stats_polling_interval_s\":1}", &e), -EINVAL);
	assert_string_equal(e.msg, "Cannot enable/disable the statistics after boot.");
	assert_null(op_get(b.dev, "/statistics", &e));
	assert_non_null(strstr(e.msg, "Statistics for the balloon device are not enabled"));
	bench_down(&b);
}

static void of_many_statistics_buffers_one_is_kept(void **state)
{
	static const u16 tag = 8;
	struct bench b;
	u16 many[200];

	(void)state;
	bench_up(&b, "\"stats_polling_interval_s\":3600", 3);
	for (u32 i = 0; i < ARRAY_SIZE(many); i++)
		many[i] = i < 64 ? 100 : 9; /* what lies behind 64 is not looked at */
	struct fbuf out = stats_buffer(&b, many, ARRAY_SIZE(many)), one = stats_buffer(&b, &tag, 1), in = {PAGES, 100}, cut = {one.gpa, 9};

	assert_true(fdrv_add(&b.d, STATS, &out, 1, NULL, 0, NULL));
	for (u32 i = 0; i < 50; i++)
		assert_true(fdrv_add(&b.d, STATS, &one, 1, NULL, 0, NULL));
	assert_true(fdrv_add(&b.d, STATS, NULL, 0, &in, 1, NULL));
	assert_true(fdrv_add(&b.d, STATS, &cut, 1, NULL, 0, NULL));
	fdrv_notify(&b.d, STATS);
	for (u32 i = 0; i < 52; i++)
		assert_true(fdrv_wait_used(&b.d, STATS, NULL, NULL, 1000));
	fdrv_sync(&b.d);
	assert_false(fdrv_get_used(&b.d, STATS, NULL, NULL));
	assert_int_equal(op_get_number(b.dev, "/statistics", "hugetlb_allocations"), 1000000000008);
	assert_int_equal(op_get_number(b.dev, "/statistics", "hugetlb_failures"), -1);
	assert_int_equal(op_counter(b.dev, "stats_update_fails"), 64);
	/* The one that is kept does not outlive a reset. */
	assert_true(fdrv_reset(&b.d, 1000));
	fdrv_up(&b.d, &b.f, b.dev, FDRV_ALL_FEATURES, 3, 64);
	assert_int_equal(op_get_number(b.dev, "/statistics", "hugetlb_allocations"), -1);
	bench_down(&b);
}

/* ---- reporting ---- */

static void reported_pages_go_back(void **state)
{
	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(layouts); i++) {
		struct bench b;
		u64 before;

		/* Without the other optional queues the reporting queue is the third. */
		bench_up_as(&b, "\"free_page_reporting\":true", 3, layouts[i] | BIT(5), 0);
		fill(&b, PAGES, PAGES_SIZE);
		before = host_bytes(&b);
		struct fbuf in[4] = {
			{PAGES, 4 * MIB},
			{PAGES + 6 * MIB, MEM_PAGE_SIZE},
			{PAGES + 8 * MIB + 1, 2 * MEM_PAGE_SIZE}, /* one whole page in it */
			{PAGES + 20 * MIB, 139 * MIB},		  /* more than a turn does */
		};

		assert_int_equal(fdrv_request(&b.d, 2, NULL, 0, in, 4), 0);
		assert_true(before - host_bytes(&b) >= 143 * MIB); /* looking at pages costs memory again */
		assert_true(holds(&b, PAGES, 4 * MIB, 0));
		assert_true(holds(&b, PAGES + 4 * MIB, 2 * MIB, FILL));
		assert_true(holds(&b, PAGES + 6 * MIB, MEM_PAGE_SIZE, 0));
		assert_true(holds(&b, PAGES + 8 * MIB, MEM_PAGE_SIZE, FILL));
		assert_true(holds(&b, PAGES + 8 * MIB + MEM_PAGE_SIZE, MEM_PAGE_SIZE, 0));
		assert_true(holds(&b, PAGES + 8 * MIB + 2 * MEM_PAGE_SIZE, 12 * MIB - 2 * MEM_PAGE_SIZE, FILL));
		assert_true(holds(&b, PAGES + 20 * MIB, 139 * MIB, 0));
		assert_true(holds(&b, PAGES + 159 * MIB, MIB, FILL));
		assert_int_equal(op_counter(b.dev, "free_page_report_count"), 4);
		assert_int_equal(op_counter(b.dev, "free_page_report_freed"), 143 * MIB + 2 * MEM_PAGE_SIZE);
		assert_int_equal(op_counter(b.dev, "free_page_report_fails"), 0);
		bench_down(&b);
	}
}

static void a_report_of_a_file_region_leaves_the_file_alone(void **state)
{
	struct bench b;
	int fd = memfd_create("pmem", MFD_CLOEXEC);
	struct err e;
	char there[5] = {0};

	(void)state;
	assert_int_equal(ftruncate(fd, 2 * MIB), 0);
	assert_int_equal(pwrite(fd, "file", 4, 4096), 4);
	bench_make(&b, "\"free_page_reporting\":true", FAKE_VM_QUIET);
	assert_int_equal(mem_add_file(&b.f.vm.mem, 8 * GIB, 2 * MIB, fd, false, &e), 0);
	fdrv_up(&b.d, &b.f, b.dev, FDRV_ALL_FEATURES, 3, 64);
	struct fbuf in = {8 * GIB, 2 * MIB};

	assert_int_equal(fdrv_request(&b.d, 2, NULL, 0, &in, 1), 0);
	send_pfns(&b, 0, (u32[]){PFN(8 * GIB + 4096)}, 1);
	assert_int_equal(pread(fd, there, 4, 4096), 4);
	assert_string_equal(there, "file");
	assert_int_equal(op_counter(b.dev, "free_page_report_fails"), 1);
	assert_int_equal(op_counter(b.dev, "event_fails"), 1);
	bench_down(&b);
	close(fd);
}

/* ---- hinting ---- */

#define HINTS 2u

static void send_cmd(struct bench *b, u32 cmd)
{
	struct fbuf out = {fake_vm_alloc(&b->f, 4, 4), 4};

	st_le32(fake_vm_ptr(&b->f, out.gpa, 4), cmd);
	assert_int_equal(fdrv_request(&b->d, HINTS, &out, 1, NULL, 0), 0);
}

static void send_hint(struct bench *b, u64 gpa, u32 len)
{
	struct fbuf in = {gpa, len};

	assert_int_equal(fdrv_request(&b->d, HINTS, NULL, 0, &in, 1), 0);
}

static void hinted_pages_go_back_in_a_run_and_only_then(void **state)
{
	struct bench b;
	struct err e;

	(void)state;
	bench_up(&b, "\"free_page_hinting\":true", 3);
	fill(&b, PAGES, 32 * MIB);
	assert_int_equal(op_get_number(b.dev, "/hinting/status", "host_cmd"), 0);
	assert_int_equal(op_get_number(b.dev, "/hinting/status", "guest_cmd"), -1);
	send_hint(&b, PAGES, 4 * MIB); /* nobody asked */
	assert_int_equal(op_patch(b.dev, "/hinting/start", "{}", &e), 0);
	assert_int_equal(fdrv_config32(&b.d, CMD_ID), 2);
	send_hint(&b, PAGES + 4 * MIB, 4 * MIB); /* of no run */
	send_cmd(&b, 2);
	send_hint(&b, PAGES + 8 * MIB, 4 * MIB);
	assert_int_equal(op_get_number(b.dev, "/hinting/status", "guest_cmd"), 2);
	send_cmd(&b, 0);
	assert_int_equal(fdrv_config32(&b.d, CMD_ID), 1); /* acknowledged: the guest may have them back */
	send_hint(&b, PAGES + 12 * MIB, 4 * MIB);
	assert_int_equal(op_get_number(b.dev, "/hinting/status", "host_cmd"), 1);
	assert_int_equal(op_get_number(b.dev, "/hinting/status", "guest_cmd"), 0);
	assert_int_equal(op_patch(b.dev, "/hinting/start", "{\"acknowledge_on_stop\":false}", &e), 0);
	assert_int_equal(fdrv_config32(&b.d, CMD_ID), 3);
	send_cmd(&b, 2); /* late, of the run before */
	send_hint(&b, PAGES + 16 * MIB, 4 * MIB);
	send_cmd(&b, 3);
	send_hint(&b, PAGES + 20 * MIB, 4 * MIB);
	send_cmd(&b, 0);
	assert_int_equal(fdrv_config32(&b.d, CMD_ID), 3);
	assert_int_equal(op_patch(b.dev, "/hinting/stop", "{}", &e), 0);
	assert_int_equal(fdrv_config32(&b.d, CMD_ID), 1);
	for (u64 at = 0; at < 32 * MIB; at += 4 * MIB)
		assert_true(holds(&b, PAGES + at, 4 * MIB, at == 8 * MIB || at == 20 * MIB ? 0 : FILL));
	assert_int_equal(op_counter(b.dev, "free_page_hint_count"), 2);
	assert_int_equal(op_counter(b.dev, "free_page_hint_freed"), 8 * MIB);
	bench_down(&b);
}

static void hinting_that_was_not_configured_is_refused(void **state)
{
	static const char *const paths[] = {"/hinting/start", "/hinting/stop"};
	struct bench b;
	struct err e;

	(void)state;
	bench_up(&b, "", 2);
	for (u32 i = 0; i < ARRAY_SIZE(paths); i++) {
		assert_int_equal(op_patch(b.dev, paths[i], "{}", &e), -EINVAL);
		assert_non_null(strstr(e.msg, "not enabled"));
	}
	assert_null(op_get(b.dev, "/hinting/status", &e));
	assert_int_equal(op_patch(b.dev, "/hinting/start", "{\"acknowledge_on_stop\":1}", &e), -EINVAL);
	bench_down(&b);
}

/* ---- all queues, pause, reset ---- */

static void all_queues_together_have_the_drivers_numbers(void **state)
{
	struct bench b;
	struct err e;
	static const u16 tag = 1;

	(void)state;
	bench_up(&b, "\"stats_polling_interval_s\":3600,\"free_page_hinting\":true,\"free_page_reporting\":true", 5);
	struct fbuf in = {PAGES, MIB}, out = stats_buffer(&b, &tag, 1), cmd = {fake_vm_alloc(&b.f, 4, 4), 4};

	fill(&b, PAGES, 4 * MIB);
	assert_int_equal(fdrv_request(&b.d, 4, NULL, 0, &in, 1), 0);
	assert_true(fdrv_add(&b.d, 2, &out, 1, NULL, 0, NULL));
	fdrv_notify(&b.d, 2);
	assert_int_equal(op_patch(b.dev, "/hinting/start", "{}", &e), 0);
	st_le32(fake_vm_ptr(&b.f, cmd.gpa, 4), 2);
	in.gpa += MIB;
	assert_int_equal(fdrv_request(&b.d, 3, &cmd, 1, &in, 1), 0);
	assert_true(holds(&b, PAGES, 2 * MIB, 0));
	assert_true(holds(&b, PAGES + 2 * MIB, MIB, FILL));
	fdrv_sync(&b.d);
	assert_int_equal(op_get_number(b.dev, "/statistics", "swap_out"), 1000000000001);
	fdrv_write(&b.d, MMIO_QUEUE_SEL, 5);
	assert_int_equal(fdrv_read(&b.d, MMIO_QUEUE_NUM_MAX), 0);
	bench_down(&b);
}

static void nothing_happens_while_paused(void **state)
{
	struct bench b;

	(void)state;
	bench_up(&b, "", 2);
	fill(&b, PAGES, MEM_PAGE_SIZE);
	struct fbuf out = {fake_vm_alloc(&b.f, 4, 4), 4};

	st_le32(fake_vm_ptr(&b.f, out.gpa, 4), PFN(PAGES));
	b.dev->cls->quiesce(b.dev);
	assert_true(fdrv_add(&b.d, 0, &out, 1, NULL, 0, NULL));
	fdrv_notify(&b.d, 0);
	fdrv_sync(&b.d);
	assert_false(fdrv_get_used(&b.d, 0, NULL, NULL));
	assert_true(holds(&b, PAGES, MEM_PAGE_SIZE, FILL));
	b.dev->cls->resume(b.dev);
	assert_true(fdrv_wait_used(&b.d, 0, NULL, NULL, 1000));
	assert_true(holds(&b, PAGES, MEM_PAGE_SIZE, 0));
	bench_down(&b);
}

static void a_reset_in_the_middle_of_a_request_is_survived(void **state)
{
	struct bench b;
	struct fbuf in[60];

	(void)state;
	bench_up(&b, "\"free_page_reporting\":true", 3);
	for (u32 i = 0; i < ARRAY_SIZE(in); i++)
		in[i] = (struct fbuf){PAGES, 64 * MIB};
	for (u32 i = 0; i < 20; i++) {
		fill(&b, PAGES, 64 * MIB);
		assert_true(fdrv_add(&b.d, 2, NULL, 0, in, ARRAY_SIZE(in), NULL));
		fdrv_notify(&b.d, 2);
		usleep(i * 200);
		assert_true(fdrv_reset(&b.d, 1000));
		b.f.next_gpa = MIB;
		memset(fake_vm_ptr(&b.f, MIB, MIB), 0, MIB);
		fdrv_up(&b.d, &b.f, b.dev, FDRV_ALL_FEATURES, 3, 64);
	}
	send_pfns(&b, 0, (u32[]){PFN(PAGES)}, 1);
	bench_down(&b);
}

static void identity_and_features_follow_the_configuration(void **state)
{
	static const struct {
		const char *more;
		u64 features; /* BIT(feature), of the low six */
	} cases[] = {
		{"", 0},
		{"\"stats_polling_interval_s\":1", BIT(1)},
		{"\"free_page_hinting\":true", BIT(3)},
		{"\"free_page_reporting\":true", BIT(5)},
	};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
		struct bench b;

		bench_make(&b, cases[i].more, 0);
		assert_true(fdrv_probe(&b.d, &b.f, b.dev, FDRV_ALL_FEATURES));
		assert_int_equal(fdrv_read(&b.d, MMIO_DEVICE_ID), 5);
		assert_int_equal(b.d.features & 63, cases[i].features);
		assert_int_equal(fdrv_config32(&b.d, 12), 0); /* poison_val is not there */
		bench_down(&b);
	}
}

static void configurations_that_are_wrong_are_refused(void **state)
{
	static const char *const wrong[] = {
		"{}",
		"{\"amount_mib\":1}",
		"{\"deflate_on_oom\":true}",
		"{\"amount_mib\":-1,\"deflate_on_oom\":true}",
		"{\"amount_mib\":4294967296,\"deflate_on_oom\":true}",
		"{\"amount_mib\":1,\"deflate_on_oom\":1}",
		"{\"amount_mib\":1,\"deflate_on_oom\":true,\"stats_polling_interval_s\":65536}",
		"{\"amount_mib\":1,\"deflate_on_oom\":true,\"free_page_hinting\":\"yes\"}",
		"{\"amount_mib\":1,\"deflate_on_oom\":true,\"poison\":true}",
	};
	const struct device_class *cls = device_class_find("virtio-balloon");
	struct err e;
	void *cfg;

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_null(op_config(cls, wrong[i], &e));
	cfg = op_config(cls, "{\"amount_mib\":4294967295,\"deflate_on_oom\":true,\"stats_polling_interval_s\":65535}", &e);
	assert_non_null(cfg);
	free(cfg);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pages_in_any_order_go_back_and_their_neighbours_stay),
		cmocka_unit_test(a_hundred_mebibytes_come_back_page_by_page),
		cmocka_unit_test(page_numbers_that_are_no_ram_are_ignored),
		cmocka_unit_test(requests_of_odd_shapes_are_answered),
		cmocka_unit_test(a_request_without_end_does_not_hold_up_the_loop),
		cmocka_unit_test(the_target_is_what_the_configuration_and_then_patch_say),
		cmocka_unit_test(without_a_driver_the_target_cannot_be_set),
		cmocka_unit_test(the_driver_writes_what_it_holds_and_nothing_else),
		cmocka_unit_test(statistics_are_told_and_asked_for_again_after_the_interval),
		cmocka_unit_test(statistics_cannot_be_switched),
		cmocka_unit_test(of_many_statistics_buffers_one_is_kept),
		cmocka_unit_test(reported_pages_go_back),
		cmocka_unit_test(a_report_of_a_file_region_leaves_the_file_alone),
		cmocka_unit_test(hinted_pages_go_back_in_a_run_and_only_then),
		cmocka_unit_test(hinting_that_was_not_configured_is_refused),
		cmocka_unit_test(all_queues_together_have_the_drivers_numbers),
		cmocka_unit_test(nothing_happens_while_paused),
		cmocka_unit_test(a_reset_in_the_middle_of_a_request_is_survived),
		cmocka_unit_test(identity_and_features_follow_the_configuration),
		cmocka_unit_test(configurations_that_are_wrong_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
