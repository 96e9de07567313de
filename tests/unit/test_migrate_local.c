/*
 * test_migrate_local.c: guest memory that comes to a destination as a descriptor: adopted as it is, untouched until COMMIT, and refused
 * when it is not what the configuration needs. Whatever happens no descriptor stays behind.
 */
#include "dest_rig.h"

#include <dirent.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "virtio/backend/net.h"
#include "virtio/backend/vsock_unix.h"

#define RAM_SIZE (MOVE_RAM_MIB * MIB)
#define SEALS	 (F_SEAL_SHRINK | F_SEAL_GROW)

static u32 open_descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	u32 n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static int make_memfd(u64 size, int seals)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

/* The model's memory as a source would hand it over. */
static int make_ram(void)
{
	int fd = make_memfd(RAM_SIZE, SEALS);

	assert_int_equal(pwrite(fd, model.ram, RAM_SIZE, 0), (ssize_t)RAM_SIZE);
	return fd;
}

static u32 digest(int fd)
{
	auto_free u8 *bytes = malloc(RAM_SIZE);

	assert_int_equal(pread(fd, bytes, RAM_SIZE, 0), (ssize_t)RAM_SIZE);
	return crc32c(0, bytes, RAM_SIZE);
}

static int send_passed(struct script *s, const char *name, int fd)
{
	auto_free struct passed *p = xzalloc(sizeof(*p));

	assert_int_equal(passed_add(p, name, fd, 0, &s->e), 0);
	return wire_send_passed(&s->control, p, &s->e);
}

static struct script *connected(void)
{
	struct script *s = script_new(&(struct dest_params){0});

	play(s, S_CONTROL, S_URGENT);
	return s;
}

/* ---- it is taken ---- */

/* The steps that a source in mode local takes, without pages. */
static const enum step steps[] = {S_OFFER, S_SYNC, S_PACKAGE, S_COMMIT, S_DONE, S_BYE};

static void the_memfd_itself_becomes_the_memory(void **state)
{
	u32 before = open_descriptors();
	struct stat mine, theirs;
	struct script *s = connected();
	int fd = make_ram();
	u32 sum = digest(fd);

	(void)state;
	OK(s, send_passed(s, PASSED_MEMORY, fd));
	for (u32 i = 0; i < ARRAY_SIZE(steps); i++) {
		send_step(s, steps[i]);
		/* It was received paused: nobody has written. */
		assert_int_equal(digest(fd), sum);
	}
	assert_true(move_until_phase(&s->dst, MIGRATE_COMPLETED));
	assert_int_equal(move_dest_status(&s->dst)->mode, MIGRATE_MODE_LOCAL);
	script_check_memory(s);
	assert_int_equal(fstat(fd, &mine) | fstat(s->dst.vm.mem.fd, &theirs), 0);
	assert_int_equal(mine.st_ino, theirs.st_ino);
	script_free(s);
	close(fd);
	assert_int_equal(open_descriptors(), before);
}

/* Pages that the memfd has not: a source's kernel and initrd. */
static void pages_may_come_beside_it(void **state)
{
	struct script *s = connected();
	int fd = make_ram();
	u32 sum = digest(fd);

	(void)state;
	assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)MOVE_AREA, 20 * PAGE), 0);
	OK(s, send_passed(s, PASSED_MEMORY, fd));
	play(s, S_OFFER, S_PAGES);
	OK(s, script_pages(s, &s->bulk, FIRST_LATE, FIRST_LATE + 20, false));
	play(s, S_SYNC, S_MISSING);
	play(s, S_PACKAGE, S_PAGES_LATE);
	assert_int_equal(digest(fd), sum);
	script_free(s);
	close(fd);
}

static void a_source_that_breaks_off_before_commit_finds_it_as_it_was(void **state)
{
	u32 before = open_descriptors();

	(void)state;
	for (u32 last = 0; steps[last] != S_COMMIT; last++) {
		struct script *s = connected();
		int fd = make_ram();
		u32 sum = digest(fd);

		OK(s, send_passed(s, PASSED_MEMORY, fd));
		for (u32 i = 0; i <= last; i++)
			send_step(s, steps[i]);
		script_free(s);
		assert_int_equal(digest(fd), sum);
		close(fd);
	}
	assert_int_equal(open_descriptors(), before);
}

/* ---- it is refused ---- */

static void refused_with(struct script *s, const char *word)
{
	if (!strstr(script_refusal(s, &s->control), word))
		fail_msg("\"%s\" in: %s", word, s->said);
	script_free(s);
}

static void refuses(int fd, const char *word)
{
	u32 before = open_descriptors();
	struct script *s = connected();
	struct wire_offer o = script_offer(s);

	OK(s, send_passed(s, PASSED_MEMORY, fd));
	OK(s, wire_send_offer(&s->control, &o, &s->e));
	refused_with(s, word);
	assert_int_equal(open_descriptors(), before);
	close(fd);
}

static int reopened(int fd, int flags)
{
	auto_free char *path = xasprintf("/proc/self/fd/%d", fd);
	int again = open(path, flags | O_CLOEXEC);

	assert_true(again >= 0);
	close(fd);
	return again;
}

static void memory_of_the_wrong_kind_is_refused(void **state)
{
	int fds[2];

	(void)state;
	refuses(make_memfd(RAM_SIZE - PAGE, SEALS), "the configuration wants");
	refuses(make_memfd(RAM_SIZE + PAGE, SEALS), "the configuration wants");
	refuses(make_memfd(0, SEALS), "the configuration wants");
	refuses(make_memfd(RAM_SIZE, 0), "not sealed");
	refuses(make_memfd(RAM_SIZE, F_SEAL_GROW), "not sealed");
	refuses(make_memfd(RAM_SIZE, F_SEAL_SHRINK), "not sealed");
	refuses(make_memfd(RAM_SIZE, SEALS | F_SEAL_WRITE), "cannot map");
	refuses(reopened(make_memfd(RAM_SIZE, SEALS), O_RDONLY), "cannot map");
	refuses(open("/dev/zero", O_RDWR | O_CLOEXEC), "no memfd");
	refuses(open("/", O_RDONLY | O_CLOEXEC), "cannot map");
	refuses(open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600), "no memfd");
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	close(fds[0]);
	refuses(fds[1], "cannot map");
}

static void memory_of_large_pages_is_refused(void **state)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | MFD_HUGE_2MB);

	(void)state;
	if (fd < 0)
		skip();
	assert_int_equal(ftruncate(fd, (off_t)RAM_SIZE), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, SEALS), 0);
	refuses(fd, "2048 KiB");
}

/* A frame PASSED with one item of this name, and nr descriptors. */
static void send_raw(struct script *s, const char *name, size_t len, u32 nr)
{
	u8 body[8 + 8 + PASSED_NAME] = {1};
	int fds[PASSED_MAX];

	memcpy(body + 16, name, len);
	for (u32 i = 0; i < nr; i++)
		fds[i] = s->control.fd;
	if (nr)
		OK(s, channel_send_fds(&s->control, FRAME_PASSED, body, sizeof(body), fds, nr, &s->e));
	else
		OK(s, channel_send_bytes(&s->control, FRAME_PASSED, body, sizeof(body), &s->e));
}

static void names_and_descriptors_have_to_agree(void **state)
{
	static const u32 numbers[] = {0, 2, PASSED_MAX};
	char endless[PASSED_NAME];
	u32 before = open_descriptors();
	struct script *s;

	(void)state;
	for (u32 i = 0; i < ARRAY_SIZE(numbers); i++) {
		s = connected();
		send_raw(s, PASSED_MEMORY, sizeof(PASSED_MEMORY), numbers[i]);
		refused_with(s, "names 1 descriptors");
	}
	memset(endless, 'm', sizeof(endless));
	s = connected();
	send_raw(s, endless, sizeof(endless), 1);
	refused_with(s, "frame PASSED");
	s = connected();
	send_raw(s, "mem\x1bory", 8, 1);
	refused_with(s, "frame PASSED");
	s = connected();
	send_raw(s, "net tap0 0", 11, 1);
	refused_with(s, "no guest memory");
	s = connected();
	OK(s, channel_send_bytes(&s->control, FRAME_PASSED, "\1\0\0\0", 4, &s->e));
	refused_with(s, "number of descriptors");
	assert_int_equal(open_descriptors(), before);
}

static void descriptors_come_once_and_in_their_place(void **state)
{
	u32 before = open_descriptors();
	int fd = make_ram();
	struct script *s = connected();
	struct wire_offer o;

	(void)state;
	OK(s, send_passed(s, PASSED_MEMORY, fd));
	OK(s, send_passed(s, PASSED_MEMORY, fd));
	refused_with(s, "PASSED");
	s = connected();
	OK(s, channel_send_fds(&s->control, FRAME_PING, "12345678", 8, &fd, 1, &s->e));
	refused_with(s, "1 descriptors come with it");
	s = connected();
	play(s, S_OFFER, S_PAGES);
	OK(s, send_passed(s, PASSED_MEMORY, fd));
	refused_with(s, "PASSED");
	for (u64 flag = OFFER_POSTCOPY; flag <= OFFER_VERIFY; flag *= 2) {
		s = connected();
		s->flags = flag;
		o = script_offer(s);
		OK(s, send_passed(s, PASSED_MEMORY, fd));
		OK(s, wire_send_offer(&s->control, &o, &s->e));
		refused_with(s, "field flags");
	}
	close(fd);
	assert_int_equal(open_descriptors(), before);
}

/* ---- other things that come along ---- */

static int socket_at(const char *path, bool listening)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_true(!listening || listen(fd, 1) == 0);
	return fd;
}

static void a_tap_that_is_none_is_refused(void **state)
{
	u32 before = open_descriptors();
	struct net_backend *tap;
	struct err e;
	int fds[2];

	(void)state;
	for (u32 pairs = 1; pairs <= 2; pairs++) {
		assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
		assert_int_equal(net_tap_adopt(&tap, "tap0", pairs, fds, 2, 0, &e), -EINVAL);
		assert_non_null(strstr(e.msg, pairs == 2 ? "no tap" : "2 descriptors"));
	}
	assert_int_equal(open_descriptors(), before);
}

/* The file is for whoever goes on with the VM. */
static void a_socket_has_to_listen_where_it_is_wanted(void **state)
{
	auto_free char *path = xasprintf("%s/vsock", model.dir.path), *other = xasprintf("%s/other", model.dir.path);
	u32 before = open_descriptors();
	struct vsock_listener l;
	struct err e;

	(void)state;
	assert_int_equal(vsock_unix_adopt(&l, path, open("/dev/null", O_RDONLY), &e), -EINVAL);
	assert_int_equal(vsock_unix_adopt(&l, path, socket_at(path, false), &e), -EINVAL);
	assert_int_equal(vsock_unix_adopt(&l, path, socket_at(other, true), &e), -EINVAL);
	assert_int_equal(unlink(path) | unlink(other), 0);
	for (u32 keep = 0; keep < 2; keep++) {
		assert_int_equal(vsock_unix_adopt(&l, path, socket_at(path, true), &e), 0);
		vsock_unix_unlisten(&l, keep);
		assert_int_equal(access(path, F_OK), keep ? 0 : -1);
	}
	unlink(path);
	assert_int_equal(open_descriptors(), before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_memfd_itself_becomes_the_memory),
		cmocka_unit_test(pages_may_come_beside_it),
		cmocka_unit_test(a_source_that_breaks_off_before_commit_finds_it_as_it_was),
		cmocka_unit_test(memory_of_the_wrong_kind_is_refused),
		cmocka_unit_test(memory_of_large_pages_is_refused),
		cmocka_unit_test(names_and_descriptors_have_to_agree),
		cmocka_unit_test(descriptors_come_once_and_in_their_place),
		cmocka_unit_test(a_tap_that_is_none_is_refused),
		cmocka_unit_test(a_socket_has_to_listen_where_it_is_wanted),
	};

	return cmocka_run_group_tests(tests, model_make, model_remove);
}
