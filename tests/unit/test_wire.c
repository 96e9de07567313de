/* test_wire.c: frames and channels of a migration over real sockets: what arrives, and what a broken or hostile peer gets. */
#include "cm.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migration/page_set.h"
#include "migration/wire.h"
#include "vmm/base/crc32c.h"

#define PATIENCE 300

struct pair {
	struct channel a, b;
};

static void open_pair(struct pair *p)
{
	int fds[2];
	struct err e;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(channel_take(&p->a, fds[0], NULL, PATIENCE, &e), 0);
	assert_int_equal(channel_take(&p->b, fds[1], NULL, PATIENCE, &e), 0);
	p->a.package_cap = p->b.package_cap = MIB;
}

static void close_pair(struct pair *p)
{
	channel_close(&p->a);
	channel_close(&p->b);
}

static u32 slow_crc(const u8 *p, size_t len)
{
	u32 c = UINT32_MAX;

	for (size_t i = 0; i < len; i++) {
		c ^= p[i];
		for (int bit = 0; bit < 8; bit++)
			c = c >> 1 ^ (c & 1 ? 0x82f63b78u : 0);
	}
	return ~c;
}

static void crc_agrees_with_its_definition_at_every_length(void **state)
{
	u8 data[2000];

	(void)state;
	assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (u8)(i * 37 + i / 11);
	for (size_t len = 0; len < sizeof(data); len++) {
		assert_int_equal(crc32c(0, data, len), slow_crc(data, len));
		assert_int_equal(crc32c(crc32c(0, data, len / 3), data + len / 3, len - len / 3), slow_crc(data, len));
	}
}

static void every_body_comes_back_as_it_was_sent(void **state)
{
	struct wire_hello h = {.version = WIRE_VERSION, .role = WIRE_BULK, .index = 2, .nr_bulk = 3, .session = "0123456789abcde"}, h2;
	struct wire_welcome w = {.phase = WIRE_RUNNING, .package_cap = 77, .missing = 5, .knows = WIRE_KNOWS_DISKS}, w2;
	struct wire_offer o = {.flags = OFFER_VERIFY,
			       .package_bytes = 9,
			       .page_shift = 12,
			       .package = (const u8 *)"pack",
			       .package_len = 4,
			       .devices = "a b 1\n",
			       .devices_len = 6},
			  o2;
	struct wire_pages p = {.region = 1, .nr = 2, .numbers = {4, 9 | WIRE_ZERO_PAGE}, .data = (const u8 *)"page", .data_len = 4}, p2;
	struct wire_bits bits = {.region = 1, .first = 64, .nr = 65, .bits = (const u8 *)"0123456789abcde"}, bits2;
	struct wire_request r = {.region = 1, .nr = 2, .pages = {7, 3}}, r2;
	struct wire_fail fail;
	struct pair t;
	struct frame f;
	struct err e;
	u64 v[2] = {1, UINT64_MAX}, v2[2];

	(void)state;
	open_pair(&t);
	assert_int_equal(wire_send_hello(&t.a, &h, &e) | wire_send_welcome(&t.a, &w, &e) | wire_send_offer(&t.a, &o, &e), 0);
	assert_int_equal(wire_send_pages(&t.a, &p, &e) | wire_send_bits(&t.a, &bits, &e) | wire_send_request(&t.a, &r, &e), 0);
	assert_int_equal(wire_send_u64(&t.a, FRAME_VERIFIED, v, 2, &e), 0);
	wire_send_fail(&t.a, FRAME_FAIL, -ENOSPC, "no room\x1b[2J");
	assert_int_equal(channel_receive(&t.b, &f, 0, &e) | wire_get_hello(&f, &h2, &e), 0);
	assert_memory_equal(&h, &h2, sizeof(h));
	assert_int_equal(channel_receive(&t.b, &f, 0, &e) | wire_get_welcome(&f, &w2, &e), 0);
	assert_true(w2.phase == w.phase && w2.package_cap == 77 && w2.missing == 5 && w2.knows == WIRE_KNOWS_DISKS);
	assert_int_equal(channel_receive(&t.b, &f, 0, &e) | wire_get_offer(&f, &o2, &e), 0);
	assert_true(o2.package_len == 4 && !memcmp(o2.package, "pack", 4) && o2.devices_len == 6 && o2.flags == OFFER_VERIFY);
	assert_int_equal(channel_receive(&t.b, &f, 0, &e) | wire_get_pages(&f, &p2, &e), 0);
	assert_true(p2.nr == 2 && p2.numbers[1] == (9 | WIRE_ZERO_PAGE) && p2.data_len == 4 && !memcmp(p2.data, "page", 4));
	assert_int_equal(channel_receive(&t.b, &f, 0, &e) | wire_get_bits(&f, &bits2, &e), 0);
	assert_true(bits2.first == 64 && bits2.nr == 65 && !memcmp(bits2.bits, bits.bits, 16));
	assert_int_equal(channel_receive(&t.b, &f, 0, &e) | wire_get_request(&f, &r2, &e), 0);
	assert_true(r2.nr == 2 && r2.pages[1] == 3 && r2.region == 1);
	assert_int_equal(channel_receive(&t.b, &f, 0, &e) | wire_get_u64(&f, v2, 2, &e), 0);
	assert_true(v2[0] == 1 && v2[1] == UINT64_MAX);
	assert_int_equal(channel_receive(&t.b, &f, 0, &e) | wire_get_fail(&f, &fail, &e), 0);
	assert_int_equal(fail.code, -ENOSPC);
	assert_string_equal(fail.text, "no room?[2J");
	assert_int_equal(channel_receive(&t.b, &f, 0, &e), -EAGAIN);
	close_pair(&t);
}

/* Bytes are WIRE.md's; what a peer may not say is refused. */
static void disks_come_with_their_sizes(void **state)
{
	static const char layout[] = "\2\0\0\0\0\0\0\0" /* n, 0 */
				     "\0\6\0\0\0\0\0\0rootfs";
	auto_free struct wire_disks *d = xzalloc(sizeof(*d)), *d2 = xzalloc(sizeof(*d2));
	u8 body[8 + 65 * 80] = {0};
	struct pair t;
	struct frame f;
	struct err e;

	(void)state;
	open_pair(&t);
	*d = (struct wire_disks){.nr = 2, .list = {{.bytes = 1536, .id = "rootfs"}, {.bytes = INT64_MAX & ~511ull, .id = "data"}}};
	assert_int_equal(wire_send_disks(&t.a, d, &e) | channel_receive(&t.b, &f, 0, &e), 0);
	assert_int_equal(f.type, FRAME_DISKS);
	assert_int_equal(f.len, 8 + 2 * 80);
	assert_memory_equal(f.body, layout, sizeof(layout));
	assert_int_equal(wire_get_disks(&f, d2, &e), 0);
	assert_memory_equal(d, d2, sizeof(*d));
	for (u32 nr = 0; nr <= 65; nr++) {
		st_le32(body, nr);
		for (u32 i = 0; i < nr; i++) {
			st_le64(body + 8 + i * 80, 512);
			body[16 + i * 80] = (u8)('!' + i);
		}
		for (s64 off = -1; off <= 1; off++) {
			f = (struct frame){.type = FRAME_DISKS, .len = (u64)(8 + nr * 80 + off), .body = body};
			assert_int_equal(wire_get_disks(&f, d2, &e), off == 0 && nr >= 1 && nr <= 64 ? 0 : -EPROTO);
		}
	}
	close_pair(&t);
}

static bool same_file(int a, int b)
{
	struct stat x, y;

	return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* Bytes are WIRE.md's; descriptors of a frame that nobody takes are closed with the next one. */
static void descriptors_come_with_their_names(void **state)
{
	static const char layout[] = "\2\0\0\0\0\0\0\0" /* n, 0 */
				     "\7\0\0\0\0\0\0\0memory";
	auto_free struct passed *p = xzalloc(sizeof(*p)), *p2 = xzalloc(sizeof(*p2));
	struct pair t;
	struct frame f;
	struct err e;
	int fds[2], fd;
	u64 value;

	(void)state;
	open_pair(&t);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	assert_int_equal(passed_add(p, "memory", fds[0], 7, &e) | passed_add(p, "net tap0 0", fds[1], 1ull << 63, &e), 0);
	for (u32 i = 0; i < 2; i++) {
		assert_int_equal(wire_send_passed(&t.a, p, &e), 0);
		assert_int_equal(channel_receive(&t.b, &f, 0, &e), 0);
		assert_int_equal(f.len, 8 + 2 * 128);
		assert_memory_equal(f.body, layout, sizeof(layout));
		assert_int_equal(t.b.nr_fds, 2);
	}
	assert_int_equal(wire_get_passed(&t.b, &f, p2, &e), 0);
	assert_int_equal(t.b.nr_fds, 0);
	assert_true(passed_has(p2, "memory") && !passed_has(p2, "net tap0"));
	fd = passed_take(p2, "net tap0 0", &value);
	assert_true(same_file(fd, fds[1]) && value == 1ull << 63 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
	assert_int_equal(passed_take(p2, "net tap0 0", &value), -1);
	passed_close(p2);
	close(fd);
	close(fds[0]);
	close(fds[1]);
	close_pair(&t);
}

/* Writes a header by hand, with this announced length, and nothing else. */
static void announce(struct pair *t, u16 type, u64 len)
{
	struct frame f = {.type = type, .len = len};
	u8 header[FRAME_HEADER_SIZE];

	frame_encode(&f, header);
	assert_int_equal(write(t->a.fd, header, sizeof(header)), (ssize_t)sizeof(header));
}

static void caps_hold_at_one_below_and_one_above(void **state)
{
	(void)state;
	for (u16 type = FRAME_HELLO; type < FRAME_TYPES; type++) {
		u64 cap = frame_cap(type, MIB);

		assert_true(cap > 0 && *frame_name(type) != '?');
		for (int off = -1; off <= 1; off++) {
			struct pair t;
			struct frame f;
			struct err e;

			open_pair(&t);
			announce(&t, type, cap + (u64)off);
			shutdown(t.a.fd, SHUT_WR);
			/* Within the cap it waits for the body, which does not come. */
			assert_int_equal(channel_receive(&t.b, &f, 0, &e), off > 0 ? -EFBIG : -ECONNRESET);
			if (off > 0)
				assert_non_null(strstr(e.msg, frame_name(type)));
			assert_true(t.b.body.cap <= MIB);
			close_pair(&t);
		}
	}
}

static void an_announced_4_gib_costs_no_memory(void **state)
{
	struct pair t;
	struct frame f;
	struct err e;

	(void)state;
	open_pair(&t);
	t.b.package_cap = UINT32_MAX;
	announce(&t, FRAME_PACKAGE, 1ull << 32);
	assert_int_equal(channel_receive(&t.b, &f, 0, &e), -EFBIG);
	assert_int_equal(t.b.body.cap, 0);
	close_pair(&t);
	open_pair(&t);
	t.b.package_cap = UINT32_MAX;
	announce(&t, FRAME_PACKAGE, UINT32_MAX);
	assert_int_equal(write(t.a.fd, "some", 4), 4);
	assert_int_equal(channel_receive(&t.b, &f, 0, &e), -ETIMEDOUT); /* a peer that stalls */
	assert_true(t.b.body.cap <= MIB);
	close_pair(&t);
}

/* One frame of 5000 bytes as it goes over the wire. */
static size_t record(u8 *out, size_t size)
{
	struct pair t;
	struct err e;
	u8 body[5000];
	size_t n;

	open_pair(&t);
	for (size_t i = 0; i < sizeof(body); i++)
		body[i] = (u8)(i % 251);
	assert_int_equal(channel_send_bytes(&t.a, FRAME_PAGES, body, sizeof(body), &e), 0);
	n = (size_t)read(t.b.fd, out, size);
	close_pair(&t);
	return n;
}

static int replay(const u8 *bytes, size_t len)
{
	struct pair t;
	struct frame f;
	struct err e;
	int ret;

	open_pair(&t);
	assert_int_equal(write(t.a.fd, bytes, len), (ssize_t)len);
	shutdown(t.a.fd, SHUT_WR);
	ret = channel_receive(&t.b, &f, 0, &e);
	close_pair(&t);
	return ret;
}

static void no_flipped_bit_and_no_cut_goes_unnoticed(void **state)
{
	u8 bytes[6000];
	size_t n = record(bytes, sizeof(bytes));

	(void)state;
	assert_int_equal(n, FRAME_HEADER_SIZE + 5000 + 4);
	assert_int_equal(replay(bytes, n), 0);
	for (size_t i = 0; i < n; i++) {
		bytes[i] ^= (u8)BIT(i % 8);
		assert_true(replay(bytes, n) < 0);
		bytes[i] ^= (u8)BIT(i % 8);
	}
	for (size_t i = 0; i < n; i++)
		assert_int_equal(replay(bytes, i), -ECONNRESET);
}

static void frames_of_another_epoch_or_number_are_refused(void **state)
{
	struct pair t;
	struct frame f;
	struct err e;

	(void)state;
	open_pair(&t);
	t.a.epoch = 1;
	assert_int_equal(wire_send_u64(&t.a, FRAME_COMMIT, NULL, 0, &e), 0);
	assert_int_equal(channel_receive(&t.b, &f, 0, &e), -EPROTO);
	close_pair(&t);
	open_pair(&t);
	t.a.sent_seq = 1;
	assert_int_equal(wire_send_u64(&t.a, FRAME_COMMIT, NULL, 0, &e), 0);
	assert_int_equal(channel_receive(&t.b, &f, 0, &e), -EPROTO);
	close_pair(&t);
}

static void unknown_frames_are_skipped_when_optional(void **state)
{
	struct frame f = {.type = 999, .flags = FRAME_OPTIONAL};
	u8 bytes[FRAME_HEADER_SIZE + 4] = {0};
	struct pair t;
	struct err e;

	(void)state;
	open_pair(&t);
	frame_encode(&f, bytes);
	assert_int_equal(write(t.a.fd, bytes, sizeof(bytes)), (ssize_t)sizeof(bytes));
	t.a.sent_seq = 1;
	assert_int_equal(wire_send_u64(&t.a, FRAME_COMMIT, NULL, 0, &e), 0);
	assert_int_equal(channel_receive(&t.b, &f, 0, &e), 0);
	assert_int_equal(f.type, FRAME_COMMIT);
	close_pair(&t);
	open_pair(&t);
	f = (struct frame){.type = 999};
	frame_encode(&f, bytes);
	assert_int_equal(write(t.a.fd, bytes, sizeof(bytes)), (ssize_t)sizeof(bytes));
	assert_int_equal(channel_receive(&t.b, &f, 0, &e), -EPROTO);
	close_pair(&t);
}

static void *break_soon(void *c)
{
	usleep(20000);
	channel_break(c);
	return NULL;
}

static void a_break_ends_whoever_waits(void **state)
{
	struct pair t;
	pthread_t thread;
	struct frame f;
	struct err e;

	(void)state;
	open_pair(&t);
	pthread_create(&thread, NULL, break_soon, &t.b);
	assert_int_equal(channel_receive(&t.b, &f, -1, &e), -ECONNRESET);
	pthread_join(thread, NULL);
	close_pair(&t);
}

static void a_peer_that_takes_nothing_is_given_up(void **state)
{
	auto_free u8 *body = xzalloc(2 * MIB);
	struct pair t;
	struct err e;
	int ret = 0;

	(void)state;
	open_pair(&t);
	for (int i = 0; i < 20 && ret == 0; i++)
		ret = channel_send_bytes(&t.a, FRAME_PAGES, body, 2 * MIB, &e);
	assert_int_equal(ret, -ETIMEDOUT);
	close_pair(&t);
}

static void try_address(const char *listen_at)
{
	struct channel c, s;
	char bound[256];
	struct frame f;
	struct err e;
	int fd;

	assert_int_equal(channel_listen(listen_at, &fd, bound, sizeof(bound), &e), 0);
	assert_int_equal(channel_connect(&c, bound, NULL, PATIENCE, &e), 0);
	assert_int_equal(channel_take(&s, accept(fd, NULL, NULL), NULL, PATIENCE, &e), 0);
	assert_int_equal(wire_send_u64(&c, FRAME_COMMIT, NULL, 0, &e), 0);
	assert_int_equal(channel_receive(&s, &f, PATIENCE, &e), 0);
	channel_close(&c);
	channel_close(&s);
	close(fd);
}

static void addresses_are_tcp_and_unix(void **state)
{
	static const char *const wrong[] = {
		"", "tcp:", "tcp:host", "tcp::1", "unix:", "fd:", "fd:x", "fd:999", "http:x:1", "tcp:127.0.0.1:99999"};
	char path[] = "/tmp/wire-XXXXXX", address[64];
	struct channel c;
	struct err e;

	(void)state;
	assert_non_null(mkdtemp(path));
	snprintf(address, sizeof(address), "unix:%s/s", path);
	try_address("tcp:127.0.0.1:0");
	try_address("tcp:[::1]:0");
	try_address(address);
	try_address(address); /* the first one's socket is still there */
	for (u32 i = 0; i < ARRAY_SIZE(wrong); i++) {
		e = (struct err){0};
		assert_true(channel_connect(&c, wrong[i], NULL, PATIENCE, &e) < 0);
		assert_true(*e.msg);
		channel_close(&c);
	}
	assert_true(channel_connect(&c, "tcp:127.0.0.1:1", NULL, PATIENCE, &e) < 0);
	channel_close(&c);
	unlink(address + 5);
	rmdir(path);
}

static void page_sets_count_and_find(void **state)
{
	struct mem m = {.nr_regions = 2, .regions = {{.size = 100 * MEM_PAGE_SIZE}, {.size = MEM_PAGE_SIZE, .file = true}}};
	u8 bits[16] = {0xff, [8] = 0xff};
	u64 dirty[2] = {5, BIT(35)};
	struct page_set s;
	struct err e;

	(void)state;
	assert_int_equal(page_set_init(&s, &m, MEM_PAGE_SHIFT, &e), 0);
	page_set_fill(&s);
	assert_int_equal(page_set_count(&s), 100);
	assert_true(page_set_take(&s, 0, 99) && !page_set_take(&s, 0, 99) && page_set_add(&s, 0, 99) && !page_set_add(&s, 0, 99));
	page_set_clear(&s);
	page_set_add_bitmap(&s, 0, dirty, 2);
	assert_int_equal(page_set_count(&s), 3);
	assert_int_equal(page_set_next(&s, 0, 0), 0);
	assert_int_equal(page_set_next(&s, 0, 1), 2);
	assert_int_equal(page_set_next(&s, 0, 3), 99);
	assert_int_equal(page_set_next(&s, 0, 100), UINT32_MAX);
	assert_int_equal(page_set_next(&s, 1, 0), UINT32_MAX);
	assert_true(page_set_valid(&s, 0, 99) && !page_set_valid(&s, 0, 100) && !page_set_valid(&s, 1, 0) && !page_set_valid(&s, 9, 0));
	page_set_put(&s, 0, 64, 36, bits);
	assert_int_equal(page_set_count(&s), 2 + 8);
	assert_true(!page_set_has(&s, 0, 99) && page_set_has(&s, 0, 71) && page_set_has(&s, 0, 2));
	page_set_fini(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(crc_agrees_with_its_definition_at_every_length),
		cmocka_unit_test(every_body_comes_back_as_it_was_sent),
		cmocka_unit_test(disks_come_with_their_sizes),
		cmocka_unit_test(descriptors_come_with_their_names),
		cmocka_unit_test(caps_hold_at_one_below_and_one_above),
		cmocka_unit_test(an_announced_4_gib_costs_no_memory),
		cmocka_unit_test(no_flipped_bit_and_no_cut_goes_unnoticed),
		cmocka_unit_test(frames_of_another_epoch_or_number_are_refused),
		cmocka_unit_test(unknown_frames_are_skipped_when_optional),
		cmocka_unit_test(a_break_ends_whoever_waits),
		cmocka_unit_test(a_peer_that_takes_nothing_is_given_up),
		cmocka_unit_test(addresses_are_tcp_and_unix),
		cmocka_unit_test(page_sets_count_and_find),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
