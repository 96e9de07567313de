/* test_snapshot.c: snapshots of a VM of toys: both files, what is refused, what a crash leaves, diffs, and back into another VM. */
#include "snapshot_rig.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

static void a_restored_vm_has_memory_and_state_of_the_saved_one(void **state)
{
	struct rig *r = rig_new();
	struct stat st;

	(void)state;
	create(r, SNAPSHOT_FULL);
	assert_int_equal(nr_files(r), 2);
	assert_int_equal(stat(r->memory, &st), 0);
	assert_int_equal(st.st_size, TOY_RAM);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_true((u64)st.st_blocks * 512 < 64 * KIB);
	check_load(r, r->state, r->memory, 5, "five");
	rig_free(r);
}

static void the_document_has_overrides_and_nothing_of_the_process(void **state)
{
	static const char text[] =
		"{\"id\":\"a\",\"logger\":{},\"serial\":{},\"machine-config\":{\"vcpu_count\":2,\"gdb_socket_path\":\"x\"},"
		"\"network-interfaces\":[{\"iface_id\":\"eth0\",\"host_dev_name\":\"tap0\"}],\"vsock\":{\"uds_path\":\"v\"},"
		"\"drives\":[{\"drive_id\":\"a\",\"path_on_host\":\"a\"},{\"drive_id\":\"b\",\"path_on_host\":\"b\"}]}";
	static const struct snapshot_override net = {"eth0", "tap7"}, drive = {"b", "c"};
	struct rig *r = rig_new();
	struct snapshot_load req = {.state_path = r->state,
				    .mem_path = r->memory,
				    .nets = &net,
				    .nr_nets = 1,
				    .drives = &drive,
				    .nr_drives = 1,
				    .vsock_path = "w",
				    .huge_pages = "2M",
				    .track_dirty = true};
	struct json_object *own = json_tokener_parse("{\"id\":\"b\",\"drives\":[]}"), *doc;
	struct snapshot *s;
	struct err e = {0};

	(void)state;
	json_object_put(r->t.document);
	r->t.document = json_tokener_parse(text);
	create(r, SNAPSHOT_FULL);
	if (snapshot_open(&s, &req, &e) < 0)
		fail_msg("%s", e.msg);
	doc = snapshot_configure(s, own);
	assert_string_equal(
		json_object_to_json_string_ext(doc, JSON_C_TO_STRING_PLAIN),
		"{\"machine-config\":{\"vcpu_count\":2,\"track_dirty_pages\":true,\"huge_pages\":\"2M\"},"
		"\"network-interfaces\":[{\"iface_id\":\"eth0\",\"host_dev_name\":\"tap7\"}],\"vsock\":{\"uds_path\":\"w\"},"
		"\"drives\":[{\"drive_id\":\"a\",\"path_on_host\":\"a\"},{\"drive_id\":\"b\",\"path_on_host\":\"c\"}],\"id\":\"b\"}");
	json_object_put(doc);
	json_object_put(own);
	snapshot_close(s);
	req.nets = &(struct snapshot_override){"eth1", "tap7"};
	assert_int_equal(snapshot_open(&s, &req, &e), -EINVAL);
	assert_null(s);
	assert_non_null(strstr(e.msg, "eth1"));
	rig_free(r);
}

/* ---- Refusals ---- */

static void expect_refusal(struct rig *r, int code, const char *said, const char *state, const char *memory, enum snapshot_type type)
{
	int before = nr_files(r);
	struct err e = {0};

	assert_int_equal(create_at(r, state, memory, type, &e), code);
	if (!strstr(e.msg, said))
		fail_msg("\"%s\" does not say \"%s\"", e.msg, said);
	assert_int_equal(nr_files(r), before);
}

static void what_cannot_be_saved_now_is_refused_and_leaves_nothing(void **state)
{
	struct rig *r = rig_new();
	auto_free struct toy_vm *before = xzalloc(sizeof(*before));
	char link_path[90];

	(void)state;
	*before = r->t;
	r->t.vm.state = VM_RUNNING;
	expect_refusal(r, -EBUSY, "should be paused", r->state, r->memory, SNAPSHOT_FULL);
	r->t.vm.state = VM_PAUSED;
	r->t.vm.debug.nr_breaks = 1;
	expect_refusal(r, -EBUSY, "breakpoints", r->state, r->memory, SNAPSHOT_FULL);
	r->t.vm.debug.nr_breaks = 0;
	r->machine.track_dirty_pages = false;
	expect_refusal(r, -EINVAL, "track_dirty_pages", r->state, r->memory, SNAPSHOT_DIFF);
	r->machine.track_dirty_pages = true;
	expect_refusal(r, -EINVAL, "a file each", r->state, r->state, SNAPSHOT_FULL);
	r->t.vm.mem.lazy = true; /* a pager of another process's */
	missing = 3 * MIB;
	expect_refusal(r, -EBUSY, "3 MiB of the memory are still with the pager", r->state, r->memory, SNAPSHOT_FULL);
	missing = 0;
	r->t.vm.mem.lazy = false;
	expect_refusal(r, -EINVAL, "no regular file", "/dev/null", r->memory, SNAPSHOT_FULL);
	r->t.refuse_save = -EBUSY;
	expect_refusal(r, -EBUSY, "it is being played with", r->state, r->memory, SNAPSHOT_FULL);
	r->t.refuse_save = 0;
	create(r, SNAPSHOT_FULL);
	snprintf(link_path, sizeof(link_path), "%s.link", r->state);
	assert_int_equal(link(r->state, link_path), 0);
	expect_refusal(r, -EINVAL, "a file each", r->state, link_path, SNAPSHOT_FULL);
	assert_true(toy_same(before, &r->t));
	rig_free(r);
}

static void a_state_over_the_cap_is_refused_before_anything_is_written(void **state)
{
	struct rig *r = rig_new();
	struct snapshot_create req = {.state_path = r->state, .mem_path = r->memory, .cap = 300};
	struct snapshot_result res;
	struct err e = {0};

	(void)state;
	assert_int_equal(snapshot_create(&r->t.vm, &req, &res, &e), -EFBIG);
	assert_non_null(strstr(e.msg, "toy"));
	assert_int_equal(nr_files(r), 0);
	assert_int_equal(r->t.pulls, 0);
	rig_free(r);
}

static void two_cannot_write_to_one_place(void **state)
{
	struct rig *r = rig_new();
	struct snapshot_file f;
	struct err e = {0};

	(void)state;
	assert_int_equal(snapshot_file_begin(&f, r->memory, &e), 0);
	expect_refusal(r, -EBUSY, "another snapshot is being written", r->state, r->memory, SNAPSHOT_FULL);
	snapshot_file_end(&f);
	create(r, SNAPSHOT_FULL);
	rig_free(r);
}

/* The size that files may have: what a full disk is to the writer. */
static void limit_files(u64 bytes)
{
	struct rlimit limit;

	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &limit);
	limit.rlim_cur = bytes;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void pages_of_a_diff_that_failed_are_in_the_next_one(void **state)
{
	struct rig *r = rig_new();
	char state2[90], memory2[90];
	struct err e = {0};
	int ret;

	(void)state;
	create(r, SNAPSHOT_FULL);
	guest_writes(r, 9, "nine");
	snprintf(state2, sizeof(state2), "%s2", r->state);
	snprintf(memory2, sizeof(memory2), "%s2", r->memory);
	limit_files(TOY_RAM / 2);
	ret = create_at(r, state2, memory2, SNAPSHOT_DIFF, &e);
	limit_files(RLIM_INFINITY);
	assert_true(ret < 0);
	assert_int_equal(nr_files(r), 2);
	create(r, SNAPSHOT_DIFF); /* into the first one */
	check_load(r, r->state, r->memory, 9, "nine");
	rig_free(r);
}

/* ---- Pairs ---- */

static void expect_no_load(const char *state, const char *memory, const char *said)
{
	struct snapshot *s;
	struct err e = {0};

	assert_true(open_pair(state, memory, &s, &e) < 0);
	assert_null(s);
	if (!strstr(e.msg, said))
		fail_msg("\"%s\" does not say \"%s\"", e.msg, said);
}

static void copy(const char *from, const char *to)
{
	auto_free char *command = xasprintf("cp %s %s", from, to);

	assert_int_equal(system(command), 0);
}

static void state_and_memory_of_two_snapshots_do_not_load(void **state)
{
	struct rig *r = rig_new();
	char state2[90], memory2[90];
	struct err e = {0};

	(void)state;
	snprintf(state2, sizeof(state2), "%s2", r->state);
	snprintf(memory2, sizeof(memory2), "%s2", r->memory);
	create(r, SNAPSHOT_FULL);
	assert_int_equal(create_at(r, state2, memory2, SNAPSHOT_FULL, &e), 0);
	expect_no_load(r->state, memory2, "another snapshot");
	expect_no_load(state2, r->memory, "another snapshot");
	expect_no_load(r->memory, r->state, "");
	assert_int_equal(truncate(memory2, TOY_RAM - MEM_PAGE_SIZE), 0);
	expect_no_load(state2, memory2, "bytes of memory");
	assert_int_equal(truncate(memory2, 0), 0);
	expect_no_load(state2, memory2, "empty");
	assert_int_equal(truncate(memory2, TOY_RAM), 0);
	expect_no_load(state2, memory2, "no memory file");
	check_load(r->t.vm.memory_id ? NULL : r, r->state, r->memory, 5, "five");
	rig_free(r);
}

static void a_state_without_memory_is_no_snapshot(void **state)
{
	struct rig *r = rig_new();
	struct buf b = {0};
	int fd = open(r->state, O_RDWR | O_CREAT, 0600);

	(void)state;
	toy_vm_save(&r->t, &b);
	assert_int_equal(fd_write_all(fd, b.data, b.len), 0);
	expect_no_load(r->state, r->state, "without its memory");
	buf_fini(&b);
	close(fd);
	rig_free(r);
}

/* ---- What a crash leaves ---- */

static void a_crash_between_the_two_renames_leaves_the_new_snapshot(void **state)
{
	struct rig *r = rig_new();
	char old[90], new[90];

	(void)state;
	snprintf(old, sizeof(old), "%s.old", r->memory);
	snprintf(new, sizeof(new), "%s.new", r->memory);
	create(r, SNAPSHOT_FULL);
	copy(r->memory, old);
	guest_writes(r, 5, "five again");
	create(r, SNAPSHOT_FULL);
	rename(r->memory, new);
	rename(old, r->memory);
	check_load(r, r->state, r->memory, 5, "five again");
	assert_int_equal(nr_files(r), 2); /* and the load has put it right */
	check_load(r, r->state, r->memory, 5, "five again");
	rig_free(r);
}

static void a_crash_before_the_first_rename_leaves_the_old_snapshot(void **state)
{
	struct rig *r = rig_new(), *other = rig_new();
	char new[90];

	(void)state;
	create(r, SNAPSHOT_FULL);
	create(other, SNAPSHOT_FULL);
	snprintf(new, sizeof(new), "%s.new", r->memory);
	copy(other->memory, new);
	snprintf(new, sizeof(new), "%s.new", r->state);
	copy(other->state, new);
	snprintf(new, sizeof(new), "%s.merge", r->memory);
	copy(other->memory, new);
	check_load(r, r->state, r->memory, 5, "five");
	guest_writes(r, 5, "five again");
	create(r, SNAPSHOT_FULL);
	assert_int_equal(nr_files(r), 2);
	check_load(r, r->state, r->memory, 5, "five again");
	rig_free(other);
	rig_free(r);
}

/* Full, then a diff into it, of which the merge was cut off after `done` of its pages. */
static void cut_merge(bool stamped)
{
	struct rig *r = rig_new();
	char base[90], diff[90], diff_state[90], merge[90];
	struct snapshot_mark mark;
	u8 bytes[SNAPSHOT_MARK_SIZE];
	struct err e = {0};
	int fd;

	snprintf(base, sizeof(base), "%s.base", r->memory);
	snprintf(diff, sizeof(diff), "%s.diff", r->memory);
	snprintf(diff_state, sizeof(diff_state), "%s.diff", r->state);
	snprintf(merge, sizeof(merge), "%s.merge", r->memory);
	create(r, SNAPSHOT_FULL);
	guest_writes(r, 5, "five again");
	guest_writes(r, 600, "six hundred");
	assert_int_equal(create_at(r, diff_state, diff, SNAPSHOT_DIFF, &e), 0);
	/* As a diff of a whole memory file is marked on its way there. */
	fd = open(diff, O_RDWR);
	assert_int_equal(snapshot_mark_read(fd, &mark, &e), 0);
	mark.base_id = 0;
	snapshot_mark_encode(&mark, bytes);
	assert_int_equal(pwrite(fd, bytes, sizeof(bytes), 0), sizeof(bytes));
	close(fd);
	rename(diff, merge);
	rename(diff_state, r->state);
	if (stamped) {
		fd = open(r->memory, O_RDWR);
		assert_int_equal(pwrite(fd, bytes, sizeof(bytes), 0), sizeof(bytes));
		close(fd);
	}
	limit_files(0); /* who may not write cannot complete it, and must not take the mark's word for it */
	expect_no_load(r->state, r->memory, "cannot write");
	limit_files(RLIM_INFINITY);
	check_load(r, r->state, r->memory, 600, "six hundred");
	assert_int_equal(nr_files(r), 2);
	check_load(r, r->state, r->memory, 5, "five again");
	rig_free(r);
}

static void a_merge_that_a_crash_has_cut_off_is_completed(void **state)
{
	(void)state;
	cut_merge(false);
	cut_merge(true);
}

/* ---- Diffs ---- */

static void diffs_merge_onto_what_they_build_on_and_nothing_else(void **state)
{
	struct rig *r = rig_new();
	char s[3][90], m[3][90];
	struct memfile_stats stats;
	struct err e = {0};

	(void)state;
	for (u32 i = 0; i < 3; i++) {
		snprintf(s[i], sizeof(s[i]), "%s%u", r->state, i);
		snprintf(m[i], sizeof(m[i]), "%s%u", r->memory, i);
		guest_writes(r, 20 + i, "a page of this one");
		guest_writes(r, 5, i == 2 ? "two" : "not yet");
		assert_int_equal(create_at(r, s[i], m[i], i ? SNAPSHOT_DIFF : SNAPSHOT_FULL, &e), 0);
	}
	expect_no_load(s[1], m[1], "is a diff");
	const struct snapshot_paths p[3] = {{s[0], m[0]}, {s[1], m[1]}, {s[2], m[2]}};

	assert_int_equal(snapshot_merge(&p[0], &p[2], &p[0], &stats, &e), -EINVAL);
	assert_int_equal(snapshot_merge(&p[0], &p[0], &p[0], &stats, &e), -EINVAL);
	/* Two diffs are one diff; that onto the base is the VM. */
	assert_int_equal(snapshot_merge(&p[1], &p[2], &p[1], &stats, &e), 0);
	assert_int_equal(snapshot_merge(&p[0], &p[1], &(struct snapshot_paths){r->state, r->memory}, &stats, &e), 0);
	check_load(r, r->state, r->memory, 5, "two");
	assert_int_equal(snapshot_merge(&p[0], &p[1], &p[0], &stats, &e), 0);
	check_load(r, s[0], m[0], 5, "two");
	assert_int_equal(nr_files(r), 8);
	rig_free(r);
}

static void a_diff_onto_another_snapshots_memory_is_refused(void **state)
{
	struct rig *r = rig_new();
	char state2[90], memory2[90];
	struct err e = {0};

	(void)state;
	snprintf(state2, sizeof(state2), "%s2", r->state);
	snprintf(memory2, sizeof(memory2), "%s2", r->memory);
	create(r, SNAPSHOT_FULL);
	assert_int_equal(create_at(r, state2, memory2, SNAPSHOT_FULL, &e), 0);
	expect_refusal(r, -EINVAL, "another snapshot", r->state, r->memory, SNAPSHOT_DIFF);
	guest_writes(r, 7, "seven");
	assert_int_equal(create_at(r, state2, memory2, SNAPSHOT_DIFF, &e), 0);
	check_load(r, state2, memory2, 7, "seven");
	rig_free(r);
}

static void a_diff_does_not_take_the_place_of_the_compressed_memory_that_it_builds_on(void **state)
{
	struct rig *r = rig_new();
	struct snapshot_create req = {.state_path = r->state, .mem_path = r->memory, .compress = true};
	struct snapshot_result res;
	struct err e = {0};

	(void)state;
	assert_int_equal(snapshot_create(&r->t.vm, &req, &res, &e), 0);
	guest_writes(r, 7, "seven");
	expect_refusal(r, -EINVAL, "compressed", r->state, r->memory, SNAPSHOT_DIFF);
	check_load(NULL, r->state, r->memory, 5, "five");
	rig_free(r);
}

/* Restores r's snapshot into another VM, which the caller gives back by stop(). */
static struct rig *run_it(const struct rig *r, enum snapshot_backend backend, struct snapshot **s)
{
	struct snapshot_load req = {.state_path = r->state, .mem_path = r->memory, .backend = backend};
	struct rig *other = xzalloc(sizeof(*other));
	const struct vm_restore *restore;
	struct err e = {0};

	rig_vm(other);
	assert_int_equal(snapshot_open(s, &req, &e), 0);
	restore = snapshot_restore(*s);
	assert_int_equal(restore->memory(&other->t.vm, restore->opaque, &e), 0);
	return other;
}

static void stop(struct rig *other, struct snapshot *s)
{
	toy_vm_fini(&other->t);
	free(other);
	snapshot_close(s);
}

static void a_diff_is_not_merged_into_memory_that_another_vm_runs_on(void **state)
{
	struct rig *r = rig_new(), *other;
	struct snapshot *s;

	(void)state;
	create(r, SNAPSHOT_FULL);
	other = run_it(r, SNAPSHOT_FILE, &s);
	guest_writes(r, 5, "five again");
	expect_refusal(r, -EBUSY, "another VM runs on", r->state, r->memory, SNAPSHOT_DIFF);
	assert_string_equal((char *)other->t.vm.mem.regions[0].hva + 5 * MEM_PAGE_SIZE, "five");
	stop(other, s);
	other = run_it(r, SNAPSHOT_EAGER, &s); /* has all of it in memory */
	guest_writes(r, 5, "five again");
	create(r, SNAPSHOT_DIFF);
	assert_string_equal((char *)other->t.vm.mem.regions[0].hva + 5 * MEM_PAGE_SIZE, "five");
	stop(other, s);
	check_load(r, r->state, r->memory, 5, "five again");
	rig_free(r);
}

static void the_mark_is_told_from_other_bytes(void **state)
{
	struct snapshot_mark m = {0x1234, 0x5678}, got;
	u8 bytes[SNAPSHOT_MARK_SIZE];

	(void)state;
	snapshot_mark_encode(&m, bytes);
	assert_true(snapshot_mark_decode(&got, bytes));
	assert_memory_equal(&got, &m, sizeof(m));
	for (u32 i = 0; i < SNAPSHOT_MARK_SIZE * 8; i++) {
		bytes[i / 8] ^= (u8)(1 << i % 8);
		assert_false(snapshot_mark_decode(&got, bytes));
		assert_int_equal(got.memory_id, 0);
		bytes[i / 8] ^= (u8)(1 << i % 8);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_restored_vm_has_memory_and_state_of_the_saved_one),
		cmocka_unit_test(the_document_has_overrides_and_nothing_of_the_process),
		cmocka_unit_test(what_cannot_be_saved_now_is_refused_and_leaves_nothing),
		cmocka_unit_test(a_state_over_the_cap_is_refused_before_anything_is_written),
		cmocka_unit_test(two_cannot_write_to_one_place),
		cmocka_unit_test(pages_of_a_diff_that_failed_are_in_the_next_one),
		cmocka_unit_test(state_and_memory_of_two_snapshots_do_not_load),
		cmocka_unit_test(a_state_without_memory_is_no_snapshot),
		cmocka_unit_test(a_crash_between_the_two_renames_leaves_the_new_snapshot),
		cmocka_unit_test(a_crash_before_the_first_rename_leaves_the_old_snapshot),
		cmocka_unit_test(a_merge_that_a_crash_has_cut_off_is_completed),
		cmocka_unit_test(diffs_merge_onto_what_they_build_on_and_nothing_else),
		cmocka_unit_test(a_diff_onto_another_snapshots_memory_is_refused),
		cmocka_unit_test(a_diff_does_not_take_the_place_of_the_compressed_memory_that_it_builds_on),
		cmocka_unit_test(a_diff_is_not_merged_into_memory_that_another_vm_runs_on),
		cmocka_unit_test(the_mark_is_told_from_other_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
