/* test_blk.c: the virtio block device against real files, driven through its registers and rings. */
#include "tests/unit/cm.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <linux/userfaultfd.h>
#include <linux/virtio_blk.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/dev/fake_driver.h"
#include "tests/dev/patch.h"
#include "vmm/clock.h"
#include "vmm/config_table.h"
#include "vmm/disk.h"

extern const struct device_class virtio_blk_class;

#define DISK_SIZE (8 * MIB)
#define SECTORS	  (DISK_SIZE / 512)
#define DEPTH	  32u
#define SPLIT	  (~FDRV_PACKED)

struct fixture {
	struct fake_vm f;
	struct fdrv d;
	struct device *dev;
	void *cfg;
	char path[64];
	u64 hdr, status, data; /* guest addresses: one request's header, status byte and 256 KiB of data */
};

/* ---- set-up ---- */

static void *parse_cfg(const char *path, const char *more)
{
	auto_free char *text = xasprintf("{\"drive_id\": \"d0\", \"path_on_host\": \"%s\", \"is_root_device\": false%s}", path, more);
	const struct cfg_table *t = virtio_blk_class.config;
	const struct cfg_place at = {.origin = "test"};
	struct json_object *json = json_tokener_parse(text);
	void *cfg = xzalloc(t->size);
	struct err e = {0};
	int ret;

	assert_non_null(json);
	ret = cfg_read_object(t, json, cfg, &at, &e);
	json_object_put(json);
	if (ret == 0)
		return cfg;
	print_message("# %s\n", e.msg);
	cfg_free(t, cfg);
	free(cfg);
	return NULL;
}

static int setup(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));
	int fd;

	*state = x;
	snprintf(x->path, sizeof(x->path), "/tmp/husk-disk-XXXXXX");
	fd = mkstemp(x->path);
	if (fd < 0 || ftruncate(fd, DISK_SIZE) < 0)
		return -1;
	close(fd);
	fake_vm_init(&x->f, FAKE_VM_QUIET);
	x->hdr = fake_vm_alloc(&x->f, 4096, 4096);
	x->status = fake_vm_alloc(&x->f, 1, 1);
	x->data = fake_vm_alloc(&x->f, 256 * KIB, 4096);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;

	fake_vm_fini(&x->f);
	if (x->cfg)
		cfg_free(virtio_blk_class.config, x->cfg);
	free(x->cfg);
	unlink(x->path);
	free(x);
	return 0;
}

/* more: further keys of the drive, as JSON text that starts with a comma. */
static void up_with(struct fixture *x, const char *more, u64 features, u16 nr_queues)
{
	x->cfg = parse_cfg(x->path, more);
	assert_non_null(x->cfg);
	x->dev = fake_vm_add(&x->f, &virtio_blk_class, x->cfg);
	fake_vm_start(&x->f);
	fdrv_up(&x->d, &x->f, x->dev, features, nr_queues, 256);
}

static void up(struct fixture *x)
{
	up_with(x, "", FDRV_ALL_FEATURES, 1);
}

static bool offered(struct fixture *x, u32 bit)
{
	return x->d.features >> bit & 1;
}

static u64 counter(struct fixture *x, const char *name)
{
	const struct counter_desc *c = virtio_blk_class.counters;

	while (strcmp(c->name, name))
		c++;
	return *(const u64 *)((const char *)x->dev + c->offset);
}

/* ---- requests ---- */

static void *guest(struct fixture *x, u64 gpa, u64 len)
{
	return fake_vm_ptr(&x->f, gpa, len);
}

static void put_header(struct fixture *x, u64 gpa, u32 type, u64 sector)
{
	struct virtio_blk_outhdr h = {.type = type, .sector = sector};

	memcpy(guest(x, gpa, sizeof(h)), &h, sizeof(h));
}

static u8 send(struct fixture *x, const struct fbuf *out, u16 nr_out, const struct fbuf *in, u16 nr_in)
{
	u8 *status = guest(x, x->status, 1);

	*status = 0xee;
	fdrv_request(&x->d, 0, out, nr_out, in, nr_in);
	return *status;
}

/* One request in the usual framing: header, data of x->data, status. */
static u8 request(struct fixture *x, u32 type, u64 sector, u32 out_len, u32 in_len)
{
	struct fbuf out[2] = {{x->hdr, 16}, {x->data, out_len}}, in[2] = {{x->data, in_len}, {x->status, 1}};

	put_header(x, x->hdr, type, sector);
	if (!in_len)
		in[0] = in[1];
	return send(x, out, out_len ? 2 : 1, in, in_len ? 2 : 1);
}

static u8 range_request(struct fixture *x, u32 type, u64 sector, u32 nr_sectors, u32 flags)
{
	struct virtio_blk_discard_write_zeroes r = {.sector = sector, .num_sectors = nr_sectors, .flags = flags};

	memcpy(guest(x, x->data, sizeof(r)), &r, sizeof(r));
	return request(x, type, 0, sizeof(r), 0);
}

/* ---- the file ---- */

static void file_read(struct fixture *x, u64 at, void *data, size_t len)
{
	int fd = open(x->path, O_RDONLY | O_CLOEXEC);

	assert_int_equal(pread(fd, data, len, (off_t)at), len);
	close(fd);
}

static void file_write(struct fixture *x, u64 at, const void *data, size_t len)
{
	int fd = open(x->path, O_WRONLY | O_CLOEXEC);

	assert_int_equal(pwrite(fd, data, len, (off_t)at), len);
	close(fd);
}

static u64 file_blocks(struct fixture *x)
{
	struct stat st;

	assert_int_equal(stat(x->path, &st), 0);
	return (u64)st.st_blocks;
}

static void pattern(void *p, size_t len, u32 seed)
{
	for (size_t i = 0; i < len; i++) {
		seed = seed * 1664525 + 1013904223;
		((u8 *)p)[i] = (u8)(seed >> 24);
	}
}

/* ---- plain requests ---- */

static void a_read_gives_what_the_file_holds(void **state)
{
	struct fixture *x = *state;
	u8 expected[8192];

	pattern(expected, sizeof(expected), 7);
	file_write(x, 5 * 512, expected, sizeof(expected));
	up(x);
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, 5, 0, sizeof(expected)), VIRTIO_BLK_S_OK);
	assert_memory_equal(guest(x, x->data, sizeof(expected)), expected, sizeof(expected));
}

static void a_write_reaches_the_file(void **state)
{
	struct fixture *x = *state;
	u8 back[8192];

	up(x);
	pattern(guest(x, x->data, sizeof(back)), sizeof(back), 9);
	assert_int_equal(request(x, VIRTIO_BLK_T_OUT, 3, sizeof(back), 0), VIRTIO_BLK_S_OK);
	file_read(x, 3 * 512, back, sizeof(back));
	assert_memory_equal(guest(x, x->data, sizeof(back)), back, sizeof(back));
}

static void the_used_length_covers_data_and_status(void **state)
{
	struct fixture *x = *state;
	struct fbuf out = {x->hdr, 16}, in[2] = {{x->data, 1024}, {x->status, 1}};

	up(x);
	put_header(x, x->hdr, VIRTIO_BLK_T_IN, 0);
	assert_int_equal(fdrv_request(&x->d, 0, &out, 1, in, 2), 1025);
	put_header(x, x->hdr, VIRTIO_BLK_T_FLUSH, 0);
	assert_int_equal(fdrv_request(&x->d, 0, &out, 1, in + 1, 1), 1);
}

static void configuration_space_tells_size_and_limits(void **state)
{
	struct fixture *x = *state;

	up(x);
	assert_int_equal(fdrv_config64(&x->d, offsetof(struct virtio_blk_config, capacity)), SECTORS);
	assert_int_equal(fdrv_config32(&x->d, offsetof(struct virtio_blk_config, seg_max)), 254);
	assert_int_equal(fdrv_config32(&x->d, offsetof(struct virtio_blk_config, blk_size)), 512);
	assert_int_equal(fdrv_config16(&x->d, offsetof(struct virtio_blk_config, num_queues)), 1);
	assert_int_equal(fdrv_config32(&x->d, offsetof(struct virtio_blk_config, max_discard_seg)), 1);
	assert_true(offered(x, VIRTIO_BLK_F_DISCARD) && offered(x, VIRTIO_BLK_F_WRITE_ZEROES));
	assert_false(offered(x, VIRTIO_BLK_F_MQ) || offered(x, VIRTIO_BLK_F_RO));
}

static void flush_is_offered_with_writeback_only(void **state)
{
	struct fixture *x = *state;

	up_with(x, ", \"cache_type\": \"Writeback\"", FDRV_ALL_FEATURES, 1);
	assert_true(offered(x, VIRTIO_BLK_F_FLUSH));
	assert_int_equal(request(x, VIRTIO_BLK_T_OUT, 0, 4096, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(request(x, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
}

static void an_unsafe_disk_takes_a_flush_all_the_same(void **state)
{
	struct fixture *x = *state;

	up(x);
	assert_false(offered(x, VIRTIO_BLK_F_FLUSH));
	assert_int_equal(request(x, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
}

static void get_id_gives_twenty_bytes(void **state)
{
	struct fixture *x = *state;
	char expected[64] = "";
	struct stat st;

	assert_int_equal(stat(x->path, &st), 0);
	snprintf(expected, sizeof(expected), "%lu%lu%lu", (u64)st.st_dev, (u64)st.st_rdev, (u64)st.st_ino);
	up(x);
	memset(guest(x, x->data, 32), 'x', 32);
	assert_int_equal(request(x, VIRTIO_BLK_T_GET_ID, 0, 0, 20), VIRTIO_BLK_S_OK);
	assert_memory_equal(guest(x, x->data, 20), expected, 20);
	assert_int_equal(*(u8 *)guest(x, x->data + 20, 1), 'x');
	assert_int_equal(request(x, VIRTIO_BLK_T_GET_ID, 0, 0, 19), VIRTIO_BLK_S_IOERR);
}

static void unknown_types_are_unsupported(void **state)
{
	struct fixture *x = *state;

	up(x);
	assert_int_equal(request(x, 2, 0, 0, 0), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(request(x, VIRTIO_BLK_T_SECURE_ERASE, 0, 16, 0), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(request(x, 0xffffffff, UINT64_MAX, 512, 512), VIRTIO_BLK_S_UNSUPP);
}

static void discard_gives_blocks_back(void **state)
{
	struct fixture *x = *state;
	static u8 ones[MIB], back[MIB];
	u64 blocks;

	memset(ones, 1, sizeof(ones));
	file_write(x, 0, ones, sizeof(ones));
	up(x);
	blocks = file_blocks(x);
	assert_int_equal(range_request(x, VIRTIO_BLK_T_DISCARD, 8, 1024, 0), VIRTIO_BLK_S_OK);
	assert_true(file_blocks(x) <= blocks - 1000);
	file_read(x, 0, back, sizeof(back));
	assert_memory_equal(back, ones, 8 * 512);
	assert_int_equal(back[8 * 512], 0);
	assert_memory_equal(back + (8 + 1024) * 512, ones, sizeof(ones) - (8 + 1024) * 512);
}

static void write_zeroes_writes_zeroes(void **state)
{
	struct fixture *x = *state;
	u8 ones[8 * 512], back[8 * 512];

	memset(ones, 1, sizeof(ones));
	file_write(x, 0, ones, sizeof(ones));
	up(x);
	assert_int_equal(range_request(x, VIRTIO_BLK_T_WRITE_ZEROES, 1, 2, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(range_request(x, VIRTIO_BLK_T_WRITE_ZEROES, 4, 2, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP), VIRTIO_BLK_S_OK);
	file_read(x, 0, back, sizeof(back));
	for (u32 i = 0; i < 8; i++)
		assert_int_equal(back[i * 512 + 511], i == 1 || i == 2 || i == 4 || i == 5 ? 0 : 1);
}

static void bad_ranges_are_refused(void **state)
{
	struct fixture *x = *state;
	u32 max_zero;

	up(x);
	max_zero = fdrv_config32(&x->d, offsetof(struct virtio_blk_config, max_write_zeroes_sectors));
	assert_int_equal(range_request(x, VIRTIO_BLK_T_DISCARD, 0, 8, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(range_request(x, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 2), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(range_request(x, VIRTIO_BLK_T_DISCARD, SECTORS - 1, 2, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range_request(x, VIRTIO_BLK_T_DISCARD, UINT64_MAX, 1, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range_request(x, VIRTIO_BLK_T_WRITE_ZEROES, UINT64_MAX / 512, 512, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range_request(x, VIRTIO_BLK_T_WRITE_ZEROES, 0, max_zero + 1, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range_request(x, VIRTIO_BLK_T_DISCARD, 0, 0xffffffff, 0), VIRTIO_BLK_S_IOERR);
	for (u32 len = 0; len <= 32; len += len == 15 || len == 16 ? 1 : 15) {
		if (len != 16)
			assert_int_equal(request(x, VIRTIO_BLK_T_DISCARD, 0, len, 0), VIRTIO_BLK_S_IOERR);
	}
}

static void without_discard_no_blocks_are_given_back(void **state)
{
	struct fixture *x = *state;
	static u8 ones[MIB];
	u64 blocks;

	memset(ones, 1, sizeof(ones));
	file_write(x, 0, ones, sizeof(ones));
	up_with(x, ", \"discard\": false", FDRV_ALL_FEATURES, 1);
	assert_false(offered(x, VIRTIO_BLK_F_DISCARD));
	blocks = file_blocks(x);
	assert_int_equal(range_request(x, VIRTIO_BLK_T_DISCARD, 0, 1024, 0), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(range_request(x, VIRTIO_BLK_T_WRITE_ZEROES, 0, 1024, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP), VIRTIO_BLK_S_OK);
	assert_int_equal(file_blocks(x), blocks);
	file_read(x, 0, ones, sizeof(ones));
	assert_int_equal(ones[1024 * 512 - 1], 0);
	assert_int_equal(ones[1024 * 512], 1);
}

static void requests_are_counted(void **state)
{
	struct fixture *x = *state;

	up(x);
	request(x, VIRTIO_BLK_T_IN, 0, 0, 4096);
	request(x, VIRTIO_BLK_T_OUT, 0, 512, 0);
	request(x, VIRTIO_BLK_T_OUT, SECTORS, 512, 0);
	assert_int_equal(counter(x, "read_count"), 1);
	assert_int_equal(counter(x, "read_bytes"), 4096);
	assert_int_equal(counter(x, "write_bytes"), 512);
	assert_int_equal(counter(x, "execute_fails"), 1);
}

/* ---- edges ---- */

static void the_last_sector_is_the_last_one(void **state)
{
	struct fixture *x = *state;

	up(x);
	assert_int_equal(request(x, VIRTIO_BLK_T_OUT, SECTORS - 1, 512, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, SECTORS - 1, 0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(request(x, VIRTIO_BLK_T_OUT, SECTORS, 512, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, SECTORS, 0, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(file_blocks(x) > 0, 1);
}

static void a_request_across_the_end_moves_nothing(void **state)
{
	struct fixture *x = *state;
	u8 back[512];

	up(x);
	memset(guest(x, x->data, 1024), 'x', 1024);
	assert_int_equal(request(x, VIRTIO_BLK_T_OUT, SECTORS - 1, 1024, 0), VIRTIO_BLK_S_IOERR);
	file_read(x, DISK_SIZE - 512, back, sizeof(back));
	assert_int_equal(back[0], 0);
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, SECTORS - 1, 0, 1024), VIRTIO_BLK_S_IOERR);
	assert_int_equal(*(u8 *)guest(x, x->data, 1), 'x');
}

static void huge_sector_numbers_do_not_wrap(void **state)
{
	static const u64 sectors[] = {UINT64_MAX, UINT64_MAX - 7, 1ull << 63, 1ull << 55, (1ull << 55) - 1, UINT64_MAX / 512};
	struct fixture *x = *state;

	up(x);
	for (u32 i = 0; i < ARRAY_SIZE(sectors); i++) {
		assert_int_equal(request(x, VIRTIO_BLK_T_IN, sectors[i], 0, 4096), VIRTIO_BLK_S_IOERR);
		assert_int_equal(request(x, VIRTIO_BLK_T_OUT, sectors[i], 4096, 0), VIRTIO_BLK_S_IOERR);
	}
	/* Refused by us, not by the host kernel after a wrap. */
	assert_int_equal(counter(x, "read_count") + counter(x, "write_count"), 0);
}

static void data_that_is_not_whole_sectors_is_refused(void **state)
{
	struct fixture *x = *state;

	up(x);
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, 0, 0, 511), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, 0, 0, 513), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(x, VIRTIO_BLK_T_OUT, 0, 1, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(x, VIRTIO_BLK_T_OUT, 0, 1000, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, 0, 0, 0), VIRTIO_BLK_S_OK);
}

static void a_file_that_was_cut_gives_an_io_error(void **state)
{
	struct fixture *x = *state;

	up(x);
	assert_int_equal(truncate(x->path, 4096), 0);
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, 0, 0, 8192), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, 0, 0, 4096), VIRTIO_BLK_S_OK);
}

static void a_read_only_disk_is_never_written(void **state)
{
	struct fixture *x = *state;

	chmod(x->path, 0400);
	up_with(x, ", \"is_read_only\": true", FDRV_ALL_FEATURES, 1);
	assert_true(offered(x, VIRTIO_BLK_F_RO));
	assert_false(offered(x, VIRTIO_BLK_F_DISCARD) || offered(x, VIRTIO_BLK_F_WRITE_ZEROES));
	assert_int_equal(request(x, VIRTIO_BLK_T_OUT, 0, 512, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range_request(x, VIRTIO_BLK_T_DISCARD, 0, 8, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range_request(x, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, 0, 0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(file_blocks(x), 0);
	assert_int_equal(counter(x, "write_count"), 0); /* refused before the host kernel could */
}

/* ---- framing: virtio 1.2 §2.7.4.1 ---- */

static void header_and_data_may_be_cut_anywhere(void **state)
{
	struct fixture *x = *state;
	struct fbuf out[6], in[1] = {{x->status, 1}};
	u8 expected[1024], back[1024];
	u64 at = x->hdr;

	/* header and data lie one behind the other: cut where it hurts */
	static const u32 cuts[] = {1, 6, 8, 17, 700};

	up(x);
	pattern(expected, sizeof(expected), 3);
	put_header(x, x->hdr, VIRTIO_BLK_T_OUT, 2);
	memcpy(guest(x, x->hdr + 16, sizeof(expected)), expected, sizeof(expected));
	for (u32 i = 0; i < ARRAY_SIZE(cuts); at += cuts[i++])
		out[i] = (struct fbuf){at, cuts[i]};
	out[5] = (struct fbuf){at, (u32)(x->hdr + 16 + sizeof(expected) - at)};
	assert_int_equal(send(x, out, 6, in, 1), VIRTIO_BLK_S_OK);
	file_read(x, 2 * 512, back, sizeof(back));
	assert_memory_equal(back, expected, sizeof(back));

	out[0] = (struct fbuf){x->hdr, 16 + sizeof(expected)}; /* all in one */
	put_header(x, x->hdr, VIRTIO_BLK_T_OUT, 20);
	assert_int_equal(send(x, out, 1, in, 1), VIRTIO_BLK_S_OK);
	file_read(x, 20 * 512, back, sizeof(back));
	assert_memory_equal(back, expected, sizeof(back));
}

static void the_status_byte_may_share_a_descriptor_with_data(void **state)
{
	struct fixture *x = *state;
	struct fbuf out[2] = {{x->hdr, 9}, {x->hdr + 9, 7}}, in[2] = {{x->data, 100}, {x->data + 100, 413}};
	u8 expected[512], *data;

	pattern(expected, sizeof(expected), 4);
	file_write(x, 512, expected, sizeof(expected));
	up(x);
	data = guest(x, x->data, 514);
	memset(data, 0xee, 514);
	put_header(x, x->hdr, VIRTIO_BLK_T_IN, 1);
	assert_int_equal(fdrv_request(&x->d, 0, out, 2, in, 2), 513);
	assert_memory_equal(data, expected, sizeof(expected));
	assert_int_equal(data[512], VIRTIO_BLK_S_OK);
	assert_int_equal(data[513], 0xee);
}

/* ---- hostile drivers ---- */

static void broken_by(struct fixture *x, const struct fbuf *out, u16 nr_out, const struct fbuf *in, u16 nr_in)
{
	assert_true(fdrv_add(&x->d, 0, out, nr_out, in, nr_in, NULL));
	fdrv_notify(&x->d, 0);
	assert_true(fdrv_wait_needs_reset(&x->d, 2000));
	assert_true(fdrv_reset(&x->d, 2000));
	fdrv_up(&x->d, &x->f, x->dev, FDRV_ALL_FEATURES, 1, 256);
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, 0, 0, 512), VIRTIO_BLK_S_OK);
}

static void a_request_without_a_status_byte_breaks_the_device(void **state)
{
	struct fixture *x = *state;
	struct fbuf out[2] = {{x->hdr, 16}, {x->data, 512}};

	up(x);
	put_header(x, x->hdr, VIRTIO_BLK_T_OUT, 0);
	broken_by(x, out, 2, NULL, 0);
}

static void a_short_header_breaks_the_device(void **state)
{
	struct fixture *x = *state;
	struct fbuf out = {x->hdr, 15}, in = {x->status, 1};

	up(x);
	broken_by(x, &out, 1, &in, 1);
	broken_by(x, NULL, 0, &in, 1);
}

static void gigabytes_of_data_do_no_harm(void **state)
{
	struct fixture *x = *state;
	struct fbuf out = {x->hdr, 16}, in[17];

	up(x);
	for (u32 i = 0; i < 17; i++)
		in[i] = (struct fbuf){0, FAKE_RAM_LOW};
	put_header(x, x->hdr, VIRTIO_BLK_T_IN, 0);
	in[15] = (struct fbuf){x->status, 1}; /* 3.75 GiB and a status byte: well-formed, larger than the disk */
	assert_int_equal(send(x, &out, 1, in, 16), VIRTIO_BLK_S_IOERR);
	in[15] = in[0];
	broken_by(x, &out, 1, in, 17); /* 4 GiB and more: the queue refuses it */
}
_Static_assert(15 * FAKE_RAM_LOW < 4 * GIB && 17 * FAKE_RAM_LOW > 4 * GIB, "gigabytes_of_data_do_no_harm");

/* ---- many requests ---- */

static void random_data_at_depth_32(struct fixture *x, const char *more, u64 features)
{
	u64 hdrs = fake_vm_alloc(&x->f, DEPTH * 16, 16), status = fake_vm_alloc(&x->f, DEPTH, 1),
	    data = fake_vm_alloc(&x->f, DEPTH * 8192, 1);
	u8 expected[8192];

	up_with(x, more, features, 1);
	for (u32 round = 0; round < 8; round++) {
		bool write = round % 2 == 0;

		for (u32 i = 0; i < DEPTH; i++) {
			struct fbuf buf[3] = {{hdrs + i * 16, 16}, {data + i * 8192, 8192}, {status + i, 1}};

			pattern(guest(x, data + i * 8192, 8192), 8192, write ? round * 1000 + i : 0);
			put_header(x, hdrs + i * 16, write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, (i * 7 % DEPTH) * 16);
			*(u8 *)guest(x, status + i, 1) = 0xee;
			assert_true(fdrv_add(&x->d, 0, buf, write ? 2 : 1, buf + (write ? 2 : 1), write ? 1 : 2, &expected[i]));
		}
		fdrv_kick(&x->d, 0);
		for (u32 i = 0; i < DEPTH; i++)
			assert_true(fdrv_wait_used(&x->d, 0, NULL, NULL, 5000));
		for (u32 i = 0; i < DEPTH; i++) {
			pattern(expected, sizeof(expected), (round & ~1u) * 1000 + i);
			assert_int_equal(*(u8 *)guest(x, status + i, 1), VIRTIO_BLK_S_OK);
			assert_memory_equal(guest(x, data + i * 8192, 8192), expected, sizeof(expected));
		}
	}
}

static void sync_split_random_data_comes_back(void **state)
{
	random_data_at_depth_32(*state, "", SPLIT);
}

static void sync_packed_random_data_comes_back(void **state)
{
	random_data_at_depth_32(*state, ", \"cache_type\": \"Writeback\"", FDRV_ALL_FEATURES);
}

static void async_split_random_data_comes_back(void **state)
{
	random_data_at_depth_32(*state, ", \"io_engine\": \"Async\"", SPLIT);
}

static void async_packed_random_data_comes_back(void **state)
{
	random_data_at_depth_32(*state, ", \"io_engine\": \"Async\"", FDRV_ALL_FEATURES);
}

static void each_queue_works_on_its_own(void **state)
{
	struct fixture *x = *state;
	struct fbuf out = {x->hdr, 16}, in[2] = {{x->data, 512}, {x->status, 1}};

	up_with(x, ", \"num_queues\": 4", FDRV_ALL_FEATURES, 4);
	assert_true(offered(x, VIRTIO_BLK_F_MQ));
	assert_int_equal(fdrv_config16(&x->d, offsetof(struct virtio_blk_config, num_queues)), 4);
	put_header(x, x->hdr, VIRTIO_BLK_T_IN, 0);
	for (u16 q = 0; q < 4; q++)
		assert_int_equal(fdrv_request(&x->d, q, &out, 1, in, 2), 513);
}

static void a_driver_may_leave_queues_unused(void **state)
{
	struct fixture *x = *state;

	up_with(x, ", \"num_queues\": 4, \"io_engine\": \"Async\"", FDRV_ALL_FEATURES, 1);
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, 0, 0, 4096), VIRTIO_BLK_S_OK);
}

static void what_a_read_fills_is_dirty(void **state)
{
	struct fixture *x = *state;
	struct mem_region *low;
	struct err e;
	u64 *bitmap, page = x->data >> MEM_PAGE_SHIFT;

	assert_int_equal(mem_track(&x->f.vm.mem, true, &e), 0);
	up(x);
	low = &x->f.vm.mem.regions[0];
	bitmap = xzalloc(mem_bitmap_words(low) * sizeof(u64));
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, 0, 0, 8192), VIRTIO_BLK_S_OK);
	mem_track_collect(low, bitmap);
	assert_true(bitmap[page / 64] >> page % 64 & 1);
	page++;
	assert_true(bitmap[page / 64] >> page % 64 & 1);
	page++;
	assert_false(bitmap[page / 64] >> page % 64 & 1);
	free(bitmap);
}

/* ---- reset and pause ---- */

/* A page that blocks whoever touches it, until it is filled: what a slow disk looks like to the device. -1: not to be had here. */
static int blocked_page(struct fixture *x, u64 gpa)
{
	void *page = guest(x, gpa, 4096);
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register reg = {.range = {(u64)page, 4096}, .mode = UFFDIO_REGISTER_MODE_MISSING};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	if (fd < 0)
		return -1;
	assert_int_equal(madvise(page, 4096, MADV_REMOVE), 0);
	assert_int_equal(ioctl(fd, UFFDIO_API, &api), 0);
	assert_int_equal(ioctl(fd, UFFDIO_REGISTER, &reg), 0);
	return fd;
}

static void unblock_page(struct fixture *x, int fd, u64 gpa)
{
	struct uffdio_zeropage zero = {.range = {(u64)guest(x, gpa, 4096), 4096}};

	assert_int_equal(ioctl(fd, UFFDIO_ZEROPAGE, &zero), 0);
	close(fd);
}

/* Waits until somebody is blocked at the page. */
static void wait_for_fault(int fd)
{
	struct uffd_msg msg;

	assert_int_equal(read(fd, &msg, sizeof(msg)), sizeof(msg));
	assert_int_equal(msg.event, UFFD_EVENT_PAGEFAULT);
}

/* All of them share header, data and status. An all-zero header reads sector 0: x->hdr as it was allocated. */
static void add_read(struct fixture *x)
{
	struct fbuf out = {x->hdr, 16}, in[2] = {{x->data, 4096}, {x->status, 1}};

	assert_true(fdrv_add(&x->d, 0, &out, 1, in, 2, x));
}

static bool wait_for_status_0(struct fixture *x)
{
	for (u32 i = 0; i < 2000; i++, usleep(1000)) {
		if (fdrv_read(&x->d, MMIO_STATUS) == 0)
			return true;
	}
	return false;
}

static void a_reset_waits_for_slow_io_and_drops_its_result(void **state)
{
	struct fixture *x = *state;
	u8 before[64], *ring, *status = guest(x, x->status, 1);
	int fd;

	up_with(x, "", SPLIT, 1);
	fd = blocked_page(x, x->data);
	if (fd < 0) {
		print_message("# userfaultfd is not allowed here\n");
		skip();
	}
	ring = x->d.q[0].device;
	add_read(x);
	fdrv_notify(&x->d, 0);
	wait_for_fault(fd);
	memcpy(before, ring, sizeof(before));
	*status = 0xee;

	fdrv_write(&x->d, MMIO_STATUS, 0);
	usleep(20000);
	assert_int_not_equal(fdrv_read(&x->d, MMIO_STATUS), 0);
	unblock_page(x, fd, x->data);
	assert_true(wait_for_status_0(x));
	assert_memory_equal(ring, before, sizeof(before));
	assert_int_equal(*status, 0xee);

	fdrv_up(&x->d, &x->f, x->dev, FDRV_ALL_FEATURES, 1, 256);
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, 0, 0, 4096), VIRTIO_BLK_S_OK);
}

static void reset_in_the_middle(struct fixture *x, const char *more)
{
	u8 before[1024];

	up_with(x, more, SPLIT, 1);
	for (u32 round = 0; round < 30; round++) {
		u8 *ring = x->d.q[0].device;

		for (u32 i = 0; i < DEPTH; i++)
			add_read(x);
		fdrv_notify(&x->d, 0);
		usleep(round * 10);
		assert_true(fdrv_reset(&x->d, 2000));
		memcpy(before, ring, sizeof(before));
		usleep(500);
		assert_memory_equal(ring, before, sizeof(before));
		fdrv_up(&x->d, &x->f, x->dev, SPLIT, 1, 256);
	}
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, 0, 0, 4096), VIRTIO_BLK_S_OK);
}

static void sync_reset_in_the_middle_of_io(void **state)
{
	reset_in_the_middle(*state, "");
}

static void async_reset_in_the_middle_of_io(void **state)
{
	reset_in_the_middle(*state, ", \"io_engine\": \"Async\"");
}

static void destroy_finishes_what_is_in_flight(struct fixture *x, const char *more)
{
	u8 back[512];

	up_with(x, more, FDRV_ALL_FEATURES, 1);
	memset(guest(x, x->data, 512), 'w', 512);
	for (u32 i = 0; i < DEPTH; i++) {
		struct fbuf out[2] = {{x->hdr + i * 16, 16}, {x->data, 512}}, in = {x->status, 1};

		put_header(x, out[0].gpa, VIRTIO_BLK_T_OUT, i);
		assert_true(fdrv_add(&x->d, 0, out, 2, &in, 1, x));
	}
	fdrv_notify(&x->d, 0);
	fdrv_sync(&x->d);
	fake_vm_fini(&x->f);
	for (u32 i = 0; i < DEPTH; i++) {
		file_read(x, i * 512, back, sizeof(back));
		assert_int_equal(back[0], 'w');
	}
	fake_vm_init(&x->f, FAKE_VM_QUIET); /* for teardown */
}

static void sync_destroy_finishes_what_is_in_flight(void **state)
{
	destroy_finishes_what_is_in_flight(*state, "");
}

static void async_destroy_finishes_what_is_in_flight(void **state)
{
	destroy_finishes_what_is_in_flight(*state, ", \"io_engine\": \"Async\"");
}

struct call {
	struct loop_work work;
	void (*fn)(struct device *dev);
	struct device *dev;
	sem_t done;
};

static void run_call(struct loop_work *w)
{
	struct call *c = container_of(w, struct call, work);

	c->fn(c->dev);
	sem_post(&c->done);
}

static void on_loop(struct fixture *x, void (*fn)(struct device *dev))
{
	struct call c = {.work.run = run_call, .fn = fn, .dev = x->dev};

	sem_init(&c.done, 0, 0);
	loop_post(&x->f.vm.loop, &c.work);
	sem_wait(&c.done);
	sem_destroy(&c.done);
}

static void quiesce_finishes_io_and_holds_new_requests(struct fixture *x, const char *more)
{
	u32 done = 0;

	up_with(x, more, FDRV_ALL_FEATURES, 1);
	x->d.q[0].polled = true;
	for (u32 i = 0; i < DEPTH; i++)
		add_read(x);
	fdrv_notify(&x->d, 0);
	fdrv_sync(&x->d);
	on_loop(x, virtio_blk_class.quiesce);
	while (fdrv_get_used(&x->d, 0, NULL, NULL))
		done++;
	assert_int_equal(done, DEPTH);

	add_read(x);
	fdrv_notify(&x->d, 0);
	usleep(10000);
	assert_false(fdrv_get_used(&x->d, 0, NULL, NULL));
	on_loop(x, virtio_blk_class.resume);
	assert_true(fdrv_wait_used(&x->d, 0, NULL, NULL, 2000));
}

static void sync_quiesce_finishes_io_and_holds_new_requests(void **state)
{
	quiesce_finishes_io_and_holds_new_requests(*state, "");
}

static void async_quiesce_finishes_io_and_holds_new_requests(void **state)
{
	quiesce_finishes_io_and_holds_new_requests(*state, ", \"io_engine\": \"Async\"");
}

/* ---- configuration ---- */

static bool cfg_ok(const char *more)
{
	void *cfg = parse_cfg("x", more);

	if (cfg)
		cfg_free(virtio_blk_class.config, cfg);
	free(cfg);
	return cfg != NULL;
}

static void configuration_is_checked(void **state)
{
	(void)state;
	assert_true(cfg_ok(", \"partuuid\": \"0eaa91a0-01\", \"io_engine\": \"Async\", \"num_queues\": 16"));
	assert_false(cfg_ok(", \"partuuid\": \"0eaa91a0 init=/bin/sh\""));
	assert_false(cfg_ok(", \"num_queues\": 0"));
	assert_false(cfg_ok(", \"num_queues\": 17"));
	assert_false(cfg_ok(", \"io_engine\": \"async\""));
	assert_false(cfg_ok(", \"drive_id\": \"a/b\""));
	assert_false(cfg_ok(", \"path_on_host\": \"\""));
}

static void expect_cmdline(struct fixture *x, const char *before, const char *after)
{
	char buf[128];

	snprintf(buf, sizeof(buf), "%s", before);
	virtio_blk_class.cmdline(x->dev, buf, sizeof(buf));
	assert_string_equal(buf, after);
}

static void a_root_drive_is_named_on_the_command_line(void **state)
{
	struct fixture *x = *state;

	up_with(x, ", \"is_root_device\": true, \"is_read_only\": true", FDRV_ALL_FEATURES, 1);
	expect_cmdline(x, "", "root=/dev/vda ro");
	expect_cmdline(x, "quiet", "quiet root=/dev/vda ro");
}

static void a_root_partition_is_named_by_its_uuid(void **state)
{
	struct fixture *x = *state;

	up_with(x, ", \"is_root_device\": true, \"partuuid\": \"0eaa91a0-01\"", FDRV_ALL_FEATURES, 1);
	expect_cmdline(x, "quiet", "quiet root=PARTUUID=0eaa91a0-01 rw");
}

static void a_data_drive_is_not_on_the_command_line(void **state)
{
	up(*state);
	expect_cmdline(*state, "quiet", "quiet");
}

static void the_root_drive_comes_first(void **state)
{
	void *root = parse_cfg("x", ", \"is_root_device\": true"), *data = parse_cfg("x", "");

	(void)state;
	assert_true(virtio_blk_class.order(root, data) < 0);
	assert_true(virtio_blk_class.order(data, root) > 0);
	assert_int_equal(virtio_blk_class.order(data, data), 0);
	cfg_free(virtio_blk_class.config, root);
	cfg_free(virtio_blk_class.config, data);
	free(root);
	free(data);
}

static void a_missing_disk_leaves_nothing_behind(void **state)
{
	struct fixture *x = *state;
	struct err e;

	unlink(x->path);
	x->cfg = parse_cfg(x->path, "");
	assert_null(fake_vm_add_err(&x->f, &virtio_blk_class, x->cfg, &e));
	assert_int_equal(e.code, -ENOENT);
	assert_non_null(strstr(e.msg, x->path));
}

/* ---- limits ---- */

#define LIMIT(bucket, size, ms) ", \"rate_limiter\": {\"" bucket "\": {\"size\": " #size ", \"refill_time\": " #ms "}}"

/* Milliseconds that nr reads of 4 KiB take, all of them in the queue from the start. */
static u64 reads_ms(struct fixture *x, u32 nr)
{
	u64 start = clock_host_ns();

	for (u32 i = 0; i < nr; i++)
		add_read(x);
	fdrv_kick(&x->d, 0);
	for (u32 i = 0; i < nr; i++)
		assert_true(fdrv_wait_used(&x->d, 0, NULL, NULL, 5000));
	return (clock_host_ns() - start) / NSEC_PER_MSEC;
}

static void limited_bytes(struct fixture *x, const char *more, u64 features)
{
	up_with(x, more, features, 1);
	/* 40 KiB at once, the other 80 KiB in two times 200 ms. */
	assert_in_range(reads_ms(x, 30), 400, 2000);
	assert_true(counter(x, "rate_limiter_throttled_events") > 0);
	assert_int_equal(counter(x, "read_count"), 30);
}

static void a_bandwidth_limit_holds_requests_back(void **state)
{
	limited_bytes(*state, LIMIT("bandwidth", 40960, 200), SPLIT);
}

static void a_bandwidth_limit_holds_packed_async_requests_back(void **state)
{
	limited_bytes(*state, ", \"io_engine\": \"Async\"" LIMIT("bandwidth", 40960, 200), FDRV_ALL_FEATURES);
}

static void an_ops_limit_counts_every_request(void **state)
{
	struct fixture *x = *state;
	u64 start;

	up_with(x, LIMIT("ops", 4, 200), FDRV_ALL_FEATURES, 1);
	start = clock_host_ns();
	for (u32 i = 0; i < 4; i++) {
		assert_int_equal(request(x, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
		assert_int_equal(request(x, VIRTIO_BLK_T_GET_ID, 0, 0, 20), VIRTIO_BLK_S_OK);
	}
	assert_true(clock_host_ns() - start >= 200 * NSEC_PER_MSEC);
}

static void a_request_larger_than_the_bucket_gets_through(void **state)
{
	struct fixture *x = *state;

	up_with(x, LIMIT("bandwidth", 4096, 10), FDRV_ALL_FEATURES, 1);
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, 0, 0, 64 * KIB), VIRTIO_BLK_S_OK);
	assert_int_equal(request(x, VIRTIO_BLK_T_OUT, 0, 64 * KIB, 0), VIRTIO_BLK_S_OK);
}

static void an_unlimited_drive_is_not_throttled(void **state)
{
	struct fixture *x = *state;

	up(x);
	reads_ms(x, 60);
	assert_int_equal(counter(x, "rate_limiter_throttled_events"), 0);
}

static void a_reset_forgets_limited_requests(void **state)
{
	struct fixture *x = *state;

	up_with(x, LIMIT("ops", 1, 60000), FDRV_ALL_FEATURES, 1);
	for (u32 i = 0; i < 5; i++)
		add_read(x);
	fdrv_kick(&x->d, 0);
	assert_true(fdrv_wait_used(&x->d, 0, NULL, NULL, 2000));
	assert_true(fdrv_reset(&x->d, 1000));
	assert_int_equal(
		patch_device(&x->f, x->dev, "{\"drive_id\": \"d0\", \"rate_limiter\": {\"ops\": {\"size\": 0, \"refill_time\": 0}}}", NULL),
		0);
	fdrv_up(&x->d, &x->f, x->dev, FDRV_ALL_FEATURES, 1, 256);
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, 0, 0, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(counter(x, "read_count"), 2);
}

/* ---- changes while the VM runs ---- */

static int patch(struct fixture *x, const char *more, struct err *e)
{
	auto_free char *text = xasprintf("{\"drive_id\": \"d0\"%s}", more);

	return patch_device(&x->f, x->dev, text, e);
}

static int patch_path(struct fixture *x, const char *path, struct err *e)
{
	auto_free char *more = xasprintf(", \"path_on_host\": \"%s\"", path);

	return patch(x, more, e);
}

static void a_new_limit_counts_at_once(void **state)
{
	struct fixture *x = *state;

	up_with(x, LIMIT("ops", 1, 60000), FDRV_ALL_FEATURES, 1);
	for (u32 i = 0; i < 5; i++)
		add_read(x);
	fdrv_kick(&x->d, 0);
	assert_true(fdrv_wait_used(&x->d, 0, NULL, NULL, 2000));
	assert_false(fdrv_wait_used(&x->d, 0, NULL, NULL, 50));
	/* A bucket that the body does not name stays as it is. */
	assert_int_equal(patch(x, LIMIT("bandwidth", 1000000, 100), NULL), 0);
	assert_false(fdrv_wait_used(&x->d, 0, NULL, NULL, 50));
	assert_int_equal(patch(x, LIMIT("ops", 2, 60000), NULL), 0);
	assert_true(fdrv_wait_used(&x->d, 0, NULL, NULL, 2000));
	assert_true(fdrv_wait_used(&x->d, 0, NULL, NULL, 2000));
	assert_false(fdrv_wait_used(&x->d, 0, NULL, NULL, 50));
	assert_int_equal(patch(x, LIMIT("ops", 0, 0), NULL), 0);
	assert_true(fdrv_wait_used(&x->d, 0, NULL, NULL, 2000));
	assert_true(fdrv_wait_used(&x->d, 0, NULL, NULL, 2000));
	assert_true(reads_ms(x, 20) < 2000);
}

/* Another image of 512 * nr bytes, all of them `fill`. */
static void make_image(char *path, u32 nr, u8 fill)
{
	u8 sector[512];
	int fd = mkstemp(path);

	memset(sector, fill, sizeof(sector));
	for (u32 i = 0; i < nr; i++)
		assert_int_equal(write(fd, sector, sizeof(sector)), sizeof(sector));
	close(fd);
}

static void another_image_takes_the_place_of_the_first(struct fixture *x, const char *more)
{
	char path[] = "/tmp/husk-disk-XXXXXX";
	u32 generation;

	make_image(path, 5, 0x5a);
	up_with(x, more, FDRV_ALL_FEATURES, 1);
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, 0, 0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(*(u8 *)guest(x, x->data, 1), 0);
	generation = fdrv_read(&x->d, MMIO_CONFIG_GENERATION);
	assert_int_equal(patch_path(x, path, NULL), 0);
	assert_int_equal(fdrv_isr(&x->d) & VIRTIO_ISR_CONFIG, VIRTIO_ISR_CONFIG);
	assert_int_not_equal(fdrv_read(&x->d, MMIO_CONFIG_GENERATION), generation);
	assert_int_equal(fdrv_config64(&x->d, 0), 5);
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, 4, 0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(*(u8 *)guest(x, x->data, 1), 0x5a);
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, 5, 0, 512), VIRTIO_BLK_S_IOERR); /* behind the new end */
	/* The first image is free for others, the new one is not. */
	unlink(path);
	assert_int_equal(patch_path(x, x->path, NULL), 0);
	assert_int_equal(fdrv_config64(&x->d, 0), SECTORS);
}

static void sync_another_image_takes_the_place_of_the_first(void **state)
{
	another_image_takes_the_place_of_the_first(*state, "");
}

static void async_another_image_takes_the_place_of_the_first(void **state)
{
	another_image_takes_the_place_of_the_first(*state, ", \"io_engine\": \"Async\"");
}

static bool locked_against_writers(const char *path)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int fd = open(path, O_RDWR | O_CLOEXEC), ret = fcntl(fd, F_OFD_SETLK, &lock);

	close(fd);
	return ret < 0;
}

static void an_image_that_grew_is_opened_again_under_its_lock(void **state)
{
	struct fixture *x = *state;

	up(x);
	assert_int_equal(truncate(x->path, 2 * DISK_SIZE), 0);
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, SECTORS, 0, 512), VIRTIO_BLK_S_IOERR);
	for (u32 i = 0; i < 3; i++) {
		assert_int_equal(patch_path(x, x->path, NULL), 0);
		assert_true(locked_against_writers(x->path));
		assert_int_equal(fdrv_config64(&x->d, 0), 2 * SECTORS);
		assert_int_equal(request(x, VIRTIO_BLK_T_IN, SECTORS, 0, 512), VIRTIO_BLK_S_OK);
	}
}

static void the_lock_of_the_old_image_is_given_up(void **state)
{
	char path[] = "/tmp/husk-disk-XXXXXX";
	struct fixture *x = *state;

	make_image(path, 8, 1);
	up(x);
	assert_true(locked_against_writers(x->path));
	assert_int_equal(patch_path(x, path, NULL), 0);
	assert_false(locked_against_writers(x->path));
	assert_true(locked_against_writers(path));
	unlink(path);
}

static void an_image_that_cannot_be_used_changes_nothing(void **state)
{
	static const struct {
		const char *path;
		int code;
	} bad[] = {{"/nonexistent/disk", -ENOENT}, {"/tmp", -EISDIR}, {"/dev/null", -EINVAL}};
	char odd[] = "/tmp/husk-disk-XXXXXX", taken[] = "/tmp/husk-disk-XXXXXX";
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	struct fixture *x = *state;
	struct err e;
	int fd;

	make_image(odd, 2, 1);
	assert_int_equal(truncate(odd, 1000), 0);
	make_image(taken, 2, 1);
	fd = open(taken, O_RDWR | O_CLOEXEC);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
	up_with(x, LIMIT("ops", 3, 60000), FDRV_ALL_FEATURES, 1);
	for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(patch_path(x, bad[i].path, &e), bad[i].code);
		assert_non_null(strstr(e.msg, bad[i].path));
	}
	assert_int_equal(patch_path(x, odd, &e), -EINVAL);
	assert_int_equal(patch_path(x, taken, &e), -EBUSY);
	/* A good limit beside a bad path does not count either. */
	assert_int_equal(patch(x, ", \"path_on_host\": \"/nonexistent/disk\"" LIMIT("ops", 1, 60000), &e), -ENOENT);
	assert_int_equal(fdrv_config64(&x->d, 0), SECTORS);
	assert_int_equal(fdrv_isr(&x->d) & VIRTIO_ISR_CONFIG, 0);
	for (u32 i = 0; i < 3; i++)
		assert_int_equal(request(x, VIRTIO_BLK_T_IN, SECTORS - 1, 0, 512), VIRTIO_BLK_S_OK);
	close(fd);
	unlink(odd);
	unlink(taken);
}

static void a_patch_with_nothing_in_it_changes_nothing(void **state)
{
	struct fixture *x = *state;
	struct err e;

	up(x);
	assert_int_equal(patch(x, "", NULL), 0);
	assert_int_equal(fdrv_isr(&x->d) & VIRTIO_ISR_CONFIG, 0);
	assert_int_equal(patch_device(&x->f, x->dev, "{}", &e), -EINVAL);
	assert_int_equal(patch(x, ", \"is_read_only\": true", &e), -EINVAL);
	assert_int_equal(patch(x, LIMIT("ops", -1, 1), &e), -EINVAL);
	assert_int_equal(patch(x, ", \"rate_limiter\": {\"ops\": {\"size\": 1}}", &e), -EINVAL);
}

static void io_in_flight_ends_in_the_old_image(struct fixture *x, const char *more)
{
	char path[] = "/tmp/husk-disk-XXXXXX";
	u8 back[4096];

	make_image(path, SECTORS / 8, 0x5a);
	up_with(x, more, FDRV_ALL_FEATURES, 1);
	x->d.q[0].polled = true;
	memset(guest(x, x->data, 4096), 0x77, 4096);
	put_header(x, x->hdr, VIRTIO_BLK_T_OUT, 0);
	for (u32 i = 0; i < DEPTH; i++) {
		struct fbuf out[2] = {{x->hdr, 16}, {x->data, 4096}}, in = {x->status, 1};

		assert_true(fdrv_add(&x->d, 0, out, 2, &in, 1, x));
	}
	fdrv_notify(&x->d, 0);
	fdrv_sync(&x->d);
	assert_int_equal(patch_path(x, path, NULL), 0);
	for (u32 i = 0; i < DEPTH; i++)
		assert_true(fdrv_get_used(&x->d, 0, NULL, NULL));
	file_read(x, 0, back, sizeof(back));
	assert_memory_equal(back, guest(x, x->data, 4096), 4096);
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, 0, 0, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(*(u8 *)guest(x, x->data, 1), 0x5a); /* none of it came to the new one */
	unlink(path);
}

static void sync_io_in_flight_ends_in_the_old_image(void **state)
{
	io_in_flight_ends_in_the_old_image(*state, "");
}

static void async_io_in_flight_ends_in_the_old_image(void **state)
{
	io_in_flight_ends_in_the_old_image(*state, ", \"io_engine\": \"Async\"");
}

static void a_paused_drive_stays_paused_when_its_image_changes(void **state)
{
	char path[] = "/tmp/husk-disk-XXXXXX";
	struct fixture *x = *state;

	make_image(path, 64, 0x5a);
	up(x);
	x->d.q[0].polled = true;
	on_loop(x, virtio_blk_class.quiesce);
	add_read(x);
	fdrv_notify(&x->d, 0);
	assert_int_equal(patch_path(x, path, NULL), 0);
	usleep(10000);
	assert_false(fdrv_get_used(&x->d, 0, NULL, NULL));
	on_loop(x, virtio_blk_class.resume);
	assert_true(fdrv_wait_used(&x->d, 0, NULL, NULL, 2000));
	assert_int_equal(*(u8 *)guest(x, x->data, 1), 0x5a);
	unlink(path);
}

static void status_tells_the_image(void **state)
{
	struct fixture *x = *state;
	struct json_object *out = json_object_new_object();

	up(x);
	assert_int_equal(virtio_blk_class.ops[0].status(x->dev, out, NULL), 0);
	assert_string_equal(json_object_get_string(json_object_object_get(out, "path_on_host")), x->path);
	assert_int_equal(json_object_get_uint64(json_object_object_get(out, "size_bytes")), DISK_SIZE);
	json_object_put(out);
}

/* ---- what a migration wants to know ---- */

/* Exactly these blocks of 4 KiB are marked; none is afterwards. */
static void expect_dirty(struct disk_dirty *d, u64 first, u64 nr)
{
	for (u64 b = 0; b < d->nr; b++) {
		if ((d->bits[b / 64] >> b % 64 & 1) != (b - first < nr))
			fail_msg("block %llu of %llu + %llu", (unsigned long long)b, (unsigned long long)first, (unsigned long long)nr);
	}
	memset(d->bits, 0, (d->nr + 63) / 64 * 8);
}

static void written_blocks_are_marked(struct fixture *x, const char *more)
{
	u64 bits[DISK_SIZE / 4096 / 64] = {0};
	struct disk_dirty d = {.nr = DISK_SIZE / 4096, .bits = bits};

	up_with(x, more, FDRV_ALL_FEATURES, 1);
	assert_int_equal(request(x, VIRTIO_BLK_T_OUT, 0, 4096, 0), VIRTIO_BLK_S_OK);
	virtio_blk_class.disk_track(x->dev, &d);
	expect_dirty(&d, 0, 0);
	assert_int_equal(request(x, VIRTIO_BLK_T_OUT, 8, 4096, 0), VIRTIO_BLK_S_OK);
	expect_dirty(&d, 1, 1);
	assert_int_equal(request(x, VIRTIO_BLK_T_OUT, 15, 1024, 0), VIRTIO_BLK_S_OK);
	expect_dirty(&d, 1, 2);
	assert_int_equal(request(x, VIRTIO_BLK_T_OUT, SECTORS - 1, 512, 0), VIRTIO_BLK_S_OK);
	expect_dirty(&d, DISK_SIZE / 4096 - 1, 1);
	assert_int_equal(request(x, VIRTIO_BLK_T_IN, 0, 0, 8192), VIRTIO_BLK_S_OK);
	assert_int_equal(request(x, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(request(x, VIRTIO_BLK_T_OUT, SECTORS, 512, 0), VIRTIO_BLK_S_IOERR);
	expect_dirty(&d, 0, 0);
	assert_int_equal(range_request(x, VIRTIO_BLK_T_DISCARD, 8, 1024, 0), VIRTIO_BLK_S_OK);
	expect_dirty(&d, 1, 128);
	assert_int_equal(range_request(x, VIRTIO_BLK_T_WRITE_ZEROES, 7, 2, 0), VIRTIO_BLK_S_OK);
	expect_dirty(&d, 0, 2);
	assert_int_equal(range_request(x, VIRTIO_BLK_T_WRITE_ZEROES, 64, 8, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP), VIRTIO_BLK_S_OK);
	expect_dirty(&d, 8, 1);
	virtio_blk_class.disk_track(x->dev, NULL);
	assert_int_equal(request(x, VIRTIO_BLK_T_OUT, 8, 4096, 0), VIRTIO_BLK_S_OK);
	expect_dirty(&d, 0, 0);
}

static void sync_written_blocks_are_marked(void **state)
{
	written_blocks_are_marked(*state, ", \"cache_type\": \"Writeback\"");
}

static void async_written_blocks_are_marked(void **state)
{
	written_blocks_are_marked(*state, ", \"cache_type\": \"Writeback\", \"io_engine\": \"Async\"");
}

/* Requests that are under way when the VM halts: none is missed. The device may take them before it is notified. */
static void writes_in_flight_are_marked(struct fixture *x, const char *more)
{
	u64 bits[DISK_SIZE / 4096 / 64] = {0}, hdrs = fake_vm_alloc(&x->f, DEPTH * 16, 16);
	struct disk_dirty d = {.nr = DISK_SIZE / 4096, .bits = bits};

	up_with(x, more, FDRV_ALL_FEATURES, 1);
	x->d.q[0].polled = true;
	virtio_blk_class.disk_track(x->dev, &d);
	for (u32 i = 0; i < DEPTH; i++) {
		struct fbuf out[2] = {{hdrs + i * 16, 16}, {x->data, 4096}}, in = {x->status, 1};

		put_header(x, hdrs + i * 16, VIRTIO_BLK_T_OUT, i * 8);
		assert_true(fdrv_add(&x->d, 0, out, 2, &in, 1, x));
	}
	fdrv_notify(&x->d, 0);
	fdrv_sync(&x->d);
	on_loop(x, virtio_blk_class.quiesce);
	expect_dirty(&d, 0, DEPTH);
	virtio_blk_class.disk_track(x->dev, NULL);
}

static void sync_writes_in_flight_are_marked(void **state)
{
	writes_in_flight_are_marked(*state, "");
}

static void async_writes_in_flight_are_marked(void **state)
{
	writes_in_flight_are_marked(*state, ", \"io_engine\": \"Async\"");
}

static void a_read_only_disk_is_not_copied(void **state)
{
	struct fixture *x = *state;
	struct device_disk disk;
	struct err e;

	up_with(x, ", \"is_read_only\": true", FDRV_ALL_FEATURES, 1);
	assert_int_equal(virtio_blk_class.disk(x->dev, &disk, &e), -ENOENT);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_read_gives_what_the_file_holds),
		T(a_write_reaches_the_file),
		T(the_used_length_covers_data_and_status),
		T(configuration_space_tells_size_and_limits),
		T(flush_is_offered_with_writeback_only),
		T(an_unsafe_disk_takes_a_flush_all_the_same),
		T(get_id_gives_twenty_bytes),
		T(unknown_types_are_unsupported),
		T(discard_gives_blocks_back),
		T(write_zeroes_writes_zeroes),
		T(bad_ranges_are_refused),
		T(without_discard_no_blocks_are_given_back),
		T(requests_are_counted),
		T(the_last_sector_is_the_last_one),
		T(a_request_across_the_end_moves_nothing),
		T(huge_sector_numbers_do_not_wrap),
		T(data_that_is_not_whole_sectors_is_refused),
		T(a_file_that_was_cut_gives_an_io_error),
		T(a_read_only_disk_is_never_written),
		T(header_and_data_may_be_cut_anywhere),
		T(the_status_byte_may_share_a_descriptor_with_data),
		T(a_request_without_a_status_byte_breaks_the_device),
		T(a_short_header_breaks_the_device),
		T(gigabytes_of_data_do_no_harm),
		T(sync_split_random_data_comes_back),
		T(sync_packed_random_data_comes_back),
		T(async_split_random_data_comes_back),
		T(async_packed_random_data_comes_back),
		T(each_queue_works_on_its_own),
		T(a_driver_may_leave_queues_unused),
		T(what_a_read_fills_is_dirty),
		T(a_reset_waits_for_slow_io_and_drops_its_result),
		T(sync_reset_in_the_middle_of_io),
		T(async_reset_in_the_middle_of_io),
		T(sync_destroy_finishes_what_is_in_flight),
		T(async_destroy_finishes_what_is_in_flight),
		T(sync_quiesce_finishes_io_and_holds_new_requests),
		T(async_quiesce_finishes_io_and_holds_new_requests),
		T(configuration_is_checked),
		T(a_root_drive_is_named_on_the_command_line),
		T(a_root_partition_is_named_by_its_uuid),
		T(a_data_drive_is_not_on_the_command_line),
		T(the_root_drive_comes_first),
		T(a_missing_disk_leaves_nothing_behind),
		T(a_bandwidth_limit_holds_requests_back),
		T(a_bandwidth_limit_holds_packed_async_requests_back),
		T(an_ops_limit_counts_every_request),
		T(a_request_larger_than_the_bucket_gets_through),
		T(an_unlimited_drive_is_not_throttled),
		T(a_reset_forgets_limited_requests),
		T(a_new_limit_counts_at_once),
		T(sync_another_image_takes_the_place_of_the_first),
		T(async_another_image_takes_the_place_of_the_first),
		T(an_image_that_grew_is_opened_again_under_its_lock),
		T(the_lock_of_the_old_image_is_given_up),
		T(an_image_that_cannot_be_used_changes_nothing),
		T(a_patch_with_nothing_in_it_changes_nothing),
		T(sync_io_in_flight_ends_in_the_old_image),
		T(async_io_in_flight_ends_in_the_old_image),
		T(a_paused_drive_stays_paused_when_its_image_changes),
		T(status_tells_the_image),
		T(sync_written_blocks_are_marked),
		T(async_written_blocks_are_marked),
		T(sync_writes_in_flight_are_marked),
		T(async_writes_in_flight_are_marked),
		T(a_read_only_disk_is_not_copied),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
