/* test_dest_disks.c: the destination of a migration to which disks come along: where their bytes go, and what a source that means ill gets.
 */
#define DISK_PATH  "/tmp/husk-dest-disks-model"
#define MODEL_MORE ",\"drives\":[{\"drive_id\":\"d\",\"is_root_device\":false,\"path_on_host\":\"" DISK_PATH "\"}]"
#include "dest_rig.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include "migration/dest_impl.h"

#define DISK_BYTES (3 * PAGE + 512) /* three pages and a bit */
#define COPY_PATH  "/tmp/husk-dest-disks-copy"

static int make(void **state)
{
	int fd = open(DISK_PATH, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || ftruncate(fd, DISK_BYTES) < 0)
		return -1;
	close(fd);
	return model_make(state);
}

static int remove_all(void **state)
{
	unlink(DISK_PATH);
	unlink(COPY_PATH);
	return model_remove(state);
}

/* The file there, of so many bytes of 0xaa; 0: none. */
static void put_copy(u64 bytes)
{
	auto_free u8 *data = malloc(bytes + 1);
	int fd;

	unlink(COPY_PATH);
	if (!bytes)
		return;
	memset(data, 0xaa, bytes);
	fd = open(COPY_PATH, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(fd_write_all(fd, data, bytes), 0);
	close(fd);
}

static bool copy_exists(void)
{
	return access(COPY_PATH, F_OK) == 0;
}

static struct script *new_script_at(const char *path, u64 flags)
{
	const struct snapshot_override drive = {"d", path};
	struct script *s = script_new(&(struct dest_params){.drives = &drive, .nr_drives = 1});

	s->flags = flags;
	return s;
}

static const struct wire_disks good = {.nr = 1, .list = {{.bytes = DISK_BYTES, .id = "d"}}};

/* Up to ACCEPT. */
static struct script *begun(const char *path, u64 flags)
{
	struct script *s = new_script_at(path, flags);

	play(s, S_CONTROL, S_OFFER);
	OK(s, wire_send_disks(&s->control, &good, &s->e));
	play(s, S_OFFER, S_PAGES);
	return s;
}

/* Pages of the disk, each filled with its number + 1; bits of zero: zeroes. */
static int disk_pages(struct script *s, u32 first, u32 nr, u32 zero)
{
	static u8 data[8 * PAGE];
	struct wire_pages p = {.region = WIRE_FIRST_DISK, .nr = nr, .data = data};

	for (u32 i = 0; i < nr; i++) {
		bool is_zero = zero >> i & 1;

		p.numbers[i] = (first + i) | (is_zero ? (u32)WIRE_ZERO_PAGE : 0);
		memset(data + p.data_len, (int)(first + i + 1), PAGE);
		p.data_len += is_zero ? 0 : PAGE;
	}
	return wire_send_pages(&s->bulk, &p, &s->e);
}

/* word: one byte for each page: what it is full of. */
static void check_copy(const u8 *word)
{
	u8 data[DISK_BYTES + 1];
	int fd = open(COPY_PATH, O_RDONLY | O_CLOEXEC);

	assert_int_equal(read(fd, data, sizeof(data)), DISK_BYTES);
	for (u32 i = 0; i < DISK_BYTES; i++) {
		if (data[i] != word[i / PAGE])
			fail_msg("byte %u is %u", i, data[i]);
	}
	close(fd);
}

static void refused(struct script *s, const char *word)
{
	if (!strstr(script_refusal(s, &s->control), word))
		fail_msg("\"%s\" is not in: %s", word, s->said);
	script_free(s);
}

/* ---- what arrives ---- */

static void blocks_come_to_where_they_belong(void **state)
{
	static const u64 before[] = {0, DISK_BYTES};
	static const u64 kinds[] = {0, OFFER_POSTCOPY};

	(void)state;
	for (u32 i = 0; i < 4; i++) {
		struct script *s;

		put_copy(before[i % 2]);
		s = begun(COPY_PATH, kinds[i / 2]);
		OK(s, disk_pages(s, 0, 4, 4)); /* 1 2 0 4 */
		OK(s, disk_pages(s, 1, 1, 1)); /* what was something becomes zero */
		OK(s, disk_pages(s, 3, 1, 0));
		play(s, S_PAGES, S_PACKAGE);
		check_copy((const u8[]){1, 0, 0, 4});
		play(s, S_PACKAGE, NR_STEPS);
		assert_true(move_until_phase(&s->dst, MIGRATE_COMPLETED));
		assert_int_equal(move_dest_status(&s->dst)->disk_bytes, DISK_BYTES);
		assert_int_equal(move_dest_status(&s->dst)->disk_remaining_bytes, 0);
		script_check_memory(s);
		script_free(s);
		check_copy((const u8[]){1, 0, 0, 4});
	}
}

static void a_new_file_has_holes_where_zeroes_came(void **state)
{
	struct script *s;
	struct stat st;

	(void)state;
	put_copy(0);
	s = begun(COPY_PATH, 0);
	OK(s, disk_pages(s, 0, 4, 0xf));
	play(s, S_PAGES, S_PACKAGE);
	assert_int_equal(stat(COPY_PATH, &st), 0);
	assert_int_equal(st.st_blocks, 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	script_free(s);
}

/* Where guest memory is made of 2 MiB pages a disk goes in such, too; its end is not moved for that. */
static void a_disk_comes_in_pages_of_2_mib(void **state)
{
	const u64 bytes = 2 * MIB + PAGE + 512;
	auto_free struct dest_disks *d = xzalloc(sizeof(*d));
	auto_free struct wire_disks *w = xzalloc(sizeof(*w));
	auto_free u8 *data = xzalloc(2 * MIB);
	struct wire_pages p = {.region = WIRE_FIRST_DISK, .nr = 1, .numbers = {1}};
	struct json_object *doc = json_tokener_parse("{\"drives\":[{\"drive_id\":\"d\",\"path_on_host\":\"" COPY_PATH "\"}]}");
	struct stat st;
	struct err e;

	(void)state;
	put_copy(0);
	w->nr = 1;
	w->list[0] = (struct wire_disk){.bytes = bytes, .id = "d"};
	pthread_rwlock_init(&d->lock, NULL);
	dest_disks_take(d, w);
	assert_int_equal(dest_disks_open(d, doc, 21, true, &e), 0);
	assert_int_equal(d->missing.regions[0].nr, 2);
	memset(data, 7, PAGE + 512);
	assert_int_equal(dest_disks_pages(d, &p, data, &e), 0);
	assert_int_equal(dest_disks_seal(d, &e), -EPROTO);
	assert_int_equal(dest_disks_pages(d, &p, data, &e), -EPROTO); /* it is over */
	assert_int_equal(d->list[0].digests[1], crc32c(0, data, 2 * MIB));
	assert_int_equal(stat(COPY_PATH, &st), 0);
	assert_int_equal(st.st_size, bytes);
	assert_true(st.st_blocks >= 9 && st.st_blocks <= 64);
	dest_disks_fini(d);
	pthread_rwlock_destroy(&d->lock);
	json_object_put(doc);
}

/* ---- what does not ---- */

static void pages_are_taken_up_to_the_end_of_the_disk(void **state)
{
	static const u16 regions[] = {WIRE_FIRST_DISK - 1, WIRE_FIRST_DISK + 1, 0xffff};
	struct script *s;

	(void)state;
	put_copy(0);
	s = begun(COPY_PATH, 0);
	OK(s, disk_pages(s, 3, 1, 0));
	OK(s, disk_pages(s, 4, 1, 0));
	refused(s, "disk region 32768 has no page 4");
	s = begun(COPY_PATH, 0);
	OK(s, disk_pages(s, 2, 3, 7));
	refused(s, "has no page 4");
	for (u32 i = 0; i < ARRAY_SIZE(regions); i++) {
		struct wire_pages p = {.region = regions[i], .nr = 1, .numbers = {(u32)WIRE_ZERO_PAGE}};

		s = begun(COPY_PATH, 0);
		OK(s, wire_send_pages(&s->bulk, &p, &s->e));
		refused(s, "has no page 0");
	}
	s = new_script_at(DISK_PATH, 0);
	unlink(COPY_PATH);
	script_free(s);
}

static void the_package_waits_for_every_block_and_ends_them(void **state)
{
	struct script *s;

	(void)state;
	put_copy(0);
	s = begun(COPY_PATH, 0);
	OK(s, disk_pages(s, 0, 3, 1));
	play(s, S_PAGES, S_PACKAGE);
	OK(s, channel_send_bytes(&s->control, FRAME_PACKAGE, model.package.data, model.package.len, &s->e));
	refused(s, "1 pages of disks did not come");
	assert_false(copy_exists());
	s = begun(COPY_PATH, OFFER_POSTCOPY);
	OK(s, disk_pages(s, 0, 4, 1));
	play(s, S_PAGES, S_COMMIT);
	OK(s, disk_pages(s, 0, 1, 1));
	refused(s, "come after the package");
}

static void a_file_has_to_have_the_size_of_the_disk(void **state)
{
	static const int off[] = {-512, 512, -1, 1};

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(off); i++) {
		struct script *s = new_script_at(COPY_PATH, 0);
		struct wire_offer o = script_offer(s);
		struct stat st;

		put_copy((u64)(DISK_BYTES + off[i]));
		play(s, S_CONTROL, S_OFFER);
		OK(s, wire_send_disks(&s->control, &good, &s->e));
		OK(s, wire_send_offer(&s->control, &o, &s->e));
		refused(s, COPY_PATH);
		assert_int_equal(stat(COPY_PATH, &st), 0);
		assert_int_equal(st.st_size, DISK_BYTES + off[i]);
	}
}

static void refused_disks(const struct wire_disks *w, const char *word)
{
	struct script *s = new_script_at(COPY_PATH, 0);
	struct wire_offer o = script_offer(s);

	play(s, S_CONTROL, S_OFFER);
	OK(s, wire_send_disks(&s->control, w, &s->e));
	if (channel_send_bytes(&s->control, FRAME_PING, NULL, 0, &s->e) == 0)
		(void)!wire_send_offer(&s->control, &o, &s->e);
	refused(s, word);
	assert_false(copy_exists());
}

static void disks_that_are_none_are_refused(void **state)
{
	auto_free struct wire_disks *w = xzalloc(sizeof(*w));

	(void)state;
	put_copy(0);
	*w = good;
	w->list[0].bytes = 0;
	refused_disks(w, "size of a disk");
	w->list[0].bytes = DISK_BYTES - 1;
	refused_disks(w, "size of a disk");
	w->list[0].bytes = 1ull << 63;
	refused_disks(w, "size of a disk");
	*w = good;
	w->nr = 2;
	w->list[1] = w->list[0];
	refused_disks(w, "there twice");
	*w = good;
	memset(w->list[0].id, 'x', sizeof(w->list[0].id));
	refused_disks(w, "name");
	*w = good;
	w->list[0].id[0] = 'e';
	refused_disks(w, "no drive \"e\"");
}

static void a_disk_in_use_is_refused(void **state)
{
	struct script *s = new_script_at(DISK_PATH, 0);
	struct wire_offer o = script_offer(s);

	(void)state;
	play(s, S_CONTROL, S_OFFER);
	OK(s, wire_send_disks(&s->control, &good, &s->e));
	OK(s, wire_send_offer(&s->control, &o, &s->e));
	refused(s, "is in use");
	assert_int_equal(access(DISK_PATH, F_OK), 0);
}

static void a_disk_that_takes_nothing_ends_it_with_its_name(void **state)
{
	auto_fd int fd = memfd_create("disk", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	auto_free char *path = xasprintf("/proc/%d/fd/%d", getpid(), fd);
	struct script *s;

	(void)state;
	assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
	s = begun(path, 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	OK(s, disk_pages(s, 0, 1, 0));
	refused(s, path);
}

/* Made here, or there before; and the source has said that it goes on, or is gone. */
static void what_is_left_of_a_copy(void **state)
{
	static const enum step at[] = {S_OFFER, S_SYNC, S_PACKAGE};

	(void)state;
	for (u32 i = 0; i < 2 * ARRAY_SIZE(at); i++) {
		struct script *s;

		put_copy(i % 2 ? DISK_BYTES : 0);
		s = begun(COPY_PATH, 0);
		if (at[i / 2] > S_OFFER) {
			OK(s, disk_pages(s, 0, 4, 2));
			play(s, S_PAGES, at[i / 2] + 1);
		}
		wire_send_fail(&s->control, FRAME_ABORT, -ECANCELED, "the user has changed his mind");
		mover_join(&s->dst);
		assert_int_equal(copy_exists(), i % 2);
		script_free(s);
	}
	/* It may be the only one. */
	for (u32 i = 0; i < 2; i++) {
		struct script *s;
		struct err e;

		put_copy(0);
		s = begun(COPY_PATH, 0);
		OK(s, disk_pages(s, 0, 4, 2));
		play(s, S_PAGES, i ? S_COMMIT : S_PACKAGE);
		script_close(s);
		if (i) {
			assert_true(move_until_phase(&s->dst, MIGRATE_PAUSED));
			assert_int_equal(dest_abandon(s->dst.dest, &e), 0);
		}
		mover_join(&s->dst);
		assert_int_equal(copy_exists(), i);
		script_free(s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blocks_come_to_where_they_belong),
		cmocka_unit_test(a_disk_comes_in_pages_of_2_mib),
		cmocka_unit_test(a_new_file_has_holes_where_zeroes_came),
		cmocka_unit_test(pages_are_taken_up_to_the_end_of_the_disk),
		cmocka_unit_test(the_package_waits_for_every_block_and_ends_them),
		cmocka_unit_test(a_file_has_to_have_the_size_of_the_disk),
		cmocka_unit_test(disks_that_are_none_are_refused),
		cmocka_unit_test(a_disk_in_use_is_refused),
		cmocka_unit_test(a_disk_that_takes_nothing_ends_it_with_its_name),
		cmocka_unit_test(what_is_left_of_a_copy),
	};

	return cmocka_run_group_tests(tests, make, remove_all);
}
