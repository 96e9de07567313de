/* test_snapshot_io.c: the host refuses a rename or a sync while a snapshot takes the place of another: one of the two is there, and loads.
 */
#include "snapshot_rig.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* ---- The host ---- */

static const char *refused;	      /* end of the new name of a rename that fails; NULL: none does */
static u32 folder_syncs_till_failure; /* 1: the next one fails; 0: none does */

int rename(const char *from, const char *to)
{
	size_t len = strlen(to), end = refused ? strlen(refused) : SIZE_MAX;

	if (end <= len && !strcmp(to + len - end, refused)) {
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int fsync(int fd)
{
	struct stat st;

	if (folder_syncs_till_failure && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode) && --folder_syncs_till_failure == 0) {
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_fsync, fd);
}

static void host_works(void)
{
	refused = NULL;
	folder_syncs_till_failure = 0;
}

/* ---- Create ---- */

/* r's next snapshot fails, and counts: it loads, nothing else lies about then, and the next diff builds on it. */
static void expect_taken(struct rig *r, enum snapshot_type type)
{
	struct err e = {0};
	u64 before = r->t.vm.memory_id;

	guest_writes(r, 5, "five again");
	assert_int_equal(create_at(r, r->state, r->memory, type, &e), -EIO);
	host_works();
	assert_non_null(strstr(e.msg, "was taken"));
	assert_int_not_equal(r->t.vm.memory_id, before);
	check_load(r, r->state, r->memory, 5, "five again");
	assert_int_equal(nr_files(r), 2);
	guest_writes(r, 6, "six");
	create(r, SNAPSHOT_DIFF);
	check_load(r, r->state, r->memory, 5, "five again");
	check_load(r, r->state, r->memory, 6, "six");
	assert_int_equal(nr_files(r), 2);
}

/* r's next snapshot fails, and the one before is as it was. */
static void expect_not_taken(struct rig *r, enum snapshot_type type)
{
	struct err e = {0};
	u64 before = r->t.vm.memory_id;

	guest_writes(r, 5, "five again");
	assert_int_equal(create_at(r, r->state, r->memory, type, &e), -EIO);
	host_works();
	assert_int_equal(r->t.vm.memory_id, before);
	assert_int_equal(nr_files(r), 2);
	check_load(NULL, r->state, r->memory, 5, "five");
	create(r, SNAPSHOT_DIFF);
	check_load(r, r->state, r->memory, 5, "five again");
	assert_int_equal(nr_files(r), 2);
}

static void each_type(const char *name, u32 folder_syncs, void (*expect)(struct rig *r, enum snapshot_type type))
{
	for (u32 i = 0; i < 2; i++) {
		struct rig *r = rig_new();

		create(r, SNAPSHOT_FULL);
		refused = name;
		folder_syncs_till_failure = folder_syncs ? folder_syncs + i : 0; /* a diff's first is that of .merge */
		expect(r, i ? SNAPSHOT_DIFF : SNAPSHOT_FULL);
		rig_free(r);
	}
}

static void a_state_that_does_not_get_its_name_leaves_the_old_snapshot(void **state)
{
	(void)state;
	each_type("/state", 0, expect_not_taken);
}

static void a_diff_that_does_not_get_as_far_as_the_state_leaves_the_old_snapshot(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	create(r, SNAPSHOT_FULL);
	folder_syncs_till_failure = 1; /* after the rename to .merge */
	expect_not_taken(r, SNAPSHOT_DIFF);
	rig_free(r);
}

static void a_state_whose_name_may_not_be_on_the_disk_is_the_new_snapshot(void **state)
{
	(void)state;
	each_type(NULL, 1, expect_taken);
}

static void a_memory_that_does_not_get_its_name_is_the_new_snapshots(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	create(r, SNAPSHOT_FULL);
	refused = "/memory";
	expect_taken(r, SNAPSHOT_FULL);
	rig_free(r);
}

/* ---- Merge ---- */

static void a_merge_whose_memory_does_not_get_its_name_loads(void **state)
{
	struct rig *r = rig_new();
	char diff_state[90], diff_memory[90];
	const struct snapshot_paths base = {r->state, r->memory}, diff = {diff_state, diff_memory};
	struct memfile_stats stats;
	struct err e = {0};

	(void)state;
	snprintf(diff_state, sizeof(diff_state), "%s.diff", r->state);
	snprintf(diff_memory, sizeof(diff_memory), "%s.diff", r->memory);
	create(r, SNAPSHOT_FULL);
	guest_writes(r, 5, "five again");
	assert_int_equal(create_at(r, diff_state, diff_memory, SNAPSHOT_DIFF, &e), 0);
	refused = "/memory";
	assert_int_equal(snapshot_merge(&base, &diff, &base, &stats, &e), -EIO);
	host_works();
	check_load(r, r->state, r->memory, 5, "five again");
	assert_int_equal(nr_files(r), 4);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_state_that_does_not_get_its_name_leaves_the_old_snapshot),
		cmocka_unit_test(a_diff_that_does_not_get_as_far_as_the_state_leaves_the_old_snapshot),
		cmocka_unit_test(a_state_whose_name_may_not_be_on_the_disk_is_the_new_snapshot),
		cmocka_unit_test(a_memory_that_does_not_get_its_name_is_the_new_snapshots),
		cmocka_unit_test(a_merge_whose_memory_does_not_get_its_name_loads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
