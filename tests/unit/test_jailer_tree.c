/* test_jailer_tree.c: the jailer's folders: links, taking back, removal; its view of cgroup mounts. */
#include "cm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "jailer/cgroup.h"
#include "jailer/tree.h"

struct box {
	char path[64];
	int fd;
	struct undo undo;
	struct err e;
};

static int setup(void **state)
{
	struct box *b = xzalloc(sizeof(*b));

	strncpy(b->path, "/tmp/husk-tree-XXXXXX", sizeof(b->path) - 1);
	assert_non_null(mkdtemp(b->path));
	b->fd = open(b->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct box *b = *state;
	int fd;

	undo_run(&b->undo);
	close(b->fd);
	fd = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* the folder above may be a mount of its own, the tree is in one */
	assert_int_equal(tree_remove(fd, b->path + strlen("/tmp/"), &b->e), 0);
	close(fd);
	free(b);
	return 0;
}

static bool there(struct box *b, const char *name)
{
	return faccessat(b->fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void what_was_made_is_taken_back_and_what_was_there_stays(void **state)
{
	struct box *b = *state;
	int fd;

	assert_int_equal(mkdirat(b->fd, "old", 0750), 0);
	fd = dir_make_path(&b->undo, b->fd, "old/new//newer", "x", &b->e);
	assert_true(fd >= 0);
	assert_int_equal(file_make(&b->undo, fd, "file", "x", &b->e), 0);
	close(fd);
	assert_true(there(b, "old/new/newer/file"));
	undo_run(&b->undo);
	assert_true(there(b, "old"));
	assert_false(there(b, "old/new"));
}

static void what_somebody_else_has_put_there_is_not_taken_away(void **state)
{
	struct box *b = *state;
	int fd = dir_make_path(&b->undo, b->fd, "a/b", "x", &b->e);

	assert_true(fd >= 0);
	assert_int_equal(mkdirat(fd, "others", 0700), 0);
	close(fd);
	undo_run(&b->undo);
	assert_true(there(b, "a/b/others"));
}

static void links_are_not_followed(void **state)
{
	struct box *b = *state;

	assert_int_equal(mkdirat(b->fd, "target", 0755), 0);
	assert_int_equal(symlinkat("target", b->fd, "link"), 0);
	assert_true(dir_make(&b->undo, b->fd, "link", "/x/link", &b->e) < 0);
	assert_non_null(strstr(b->e.msg, "Failed to create directory /x/link: "));
	assert_true(dir_make_path(&b->undo, b->fd, "link/inner", "/x", &b->e) < 0);
	assert_false(there(b, "target/inner"));
	assert_true(file_make(&b->undo, b->fd, "link", "/x/link", &b->e) < 0);
	assert_string_equal(b->e.msg, "Failed to open /x/link: File exists (os error 17)");
}

static void a_file_in_a_folders_place_is_an_error(void **state)
{
	struct box *b = *state;

	assert_int_equal(file_make(&b->undo, b->fd, "f", "x", &b->e), 0);
	assert_int_equal(dir_make(&b->undo, b->fd, "f", "x", &b->e), -ENOTDIR);
}

static void a_copy_has_content_and_mode_and_replaces_nothing(void **state)
{
	struct box *b = *state;
	int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	struct stat from, to;

	assert_int_equal(file_copy(&b->undo, self, b->fd, "copy", 0751, "x", &b->e), 0);
	assert_int_equal(fstat(self, &from), 0);
	assert_int_equal(fstatat(b->fd, "copy", &to, 0), 0);
	assert_int_equal(to.st_size, from.st_size);
	assert_int_equal(to.st_mode & 07777, 0751);
	assert_int_equal(file_copy(&b->undo, self, b->fd, "copy", 0751, "x", &b->e), -EEXIST);
	close(self);
}

static void owner_and_mode_are_put_back(void **state)
{
	struct box *b = *state;
	struct stat st;

	assert_int_equal(fchmod(b->fd, 0751), 0);
	assert_int_equal(undo_add_owner(&b->undo, b->fd, &b->e), 0);
	assert_int_equal(fchmod(b->fd, 0700), 0);
	undo_run(&b->undo);
	assert_int_equal(fstat(b->fd, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0751);
}

static void removal_follows_no_link_and_reads_locked_folders(void **state)
{
	struct box *b = *state;
	int fd = dir_make_path(&b->undo, b->fd, "jail/locked/deep", "x", &b->e);

	assert_true(fd >= 0);
	close(fd);
	undo_fini(&b->undo);
	assert_int_equal(mkdirat(b->fd, "kept", 0755), 0);
	assert_int_equal(file_make(&b->undo, b->fd, "kept/file", "x", &b->e), 0);
	undo_fini(&b->undo);
	assert_int_equal(symlinkat("../kept", b->fd, "jail/link"), 0);
	assert_int_equal(symlinkat("../../kept", b->fd, "jail/locked/link"), 0);
	assert_int_equal(mkfifoat(b->fd, "jail/fifo", 0600), 0);
	assert_int_equal(fchmodat(b->fd, "jail/locked", 0, 0), 0);
	assert_int_equal(tree_remove(b->fd, "jail", &b->e), 0);
	assert_false(there(b, "jail"));
	assert_true(there(b, "kept/file"));
	assert_int_equal(tree_remove(b->fd, "jail", &b->e), -ENOENT);
	assert_int_equal(symlinkat("kept", b->fd, "jail"), 0);
	assert_true(tree_remove(b->fd, "jail", &b->e) < 0);
	assert_true(there(b, "kept/file"));
}

static void write_file(struct box *b, const char *name, const char *text)
{
	int fd = openat(b->fd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
	close(fd);
}

static void hierarchies_are_found_by_controller_as_a_whole_word(void **state)
{
	struct box *b = *state;
	auto_free char *mounts = xasprintf("%s/mounts", b->path), *set = NULL, *cpu = NULL, *v2 = NULL;
	struct cgroup_host host = {.mounts = mounts, .self = "/nonexistent"};

	write_file(b, "mounts",
		   "tmpfs /sys/fs/cgroup tmpfs rw,cpu 0 0\n"
		   "cgroup2 /sys/fs/cgroup/uni\\040fied cgroup2 rw,nsdelegate 0 0\n"
		   "cgroup /sys/fs/cgroup/cpuset cgroup rw,relatime,cpuset 0 0\n"
		   "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n");
	set = cgroup_hierarchy(&host, "cpuset");
	assert_string_equal(set, "/sys/fs/cgroup/cpuset");
	cpu = cgroup_hierarchy(&host, "cpu");
	assert_string_equal(cpu, "/sys/fs/cgroup/cpu,cpuacct");
	v2 = cgroup_hierarchy(&host, NULL);
	assert_string_equal(v2, "/sys/fs/cgroup/uni fied");
	assert_null(cgroup_hierarchy(&host, "memory"));
	assert_null(cgroup_hierarchy(&host, "cpua"));
	host.mounts = "/nonexistent";
	assert_null(cgroup_hierarchy(&host, "cpu"));
}

static void controllers_of_version_2_are_passed_on_from_the_top_down_to_the_parent(void **state)
{
	struct box *b = *state;
	auto_free char *mounts = xasprintf("%s/mounts", b->path), *line = xasprintf("cgroup2 %s cgroup2 rw 0 0\n", b->path);
	struct cgroup_host host = {.mounts = mounts, .self = "/nonexistent"};
	struct cgroup_setting setting = {"pids", "pids.max", "7"};
	struct jail_options o = {.id = "vm", .cgroup_version = 2, .cgroups = &setting, .n_cgroups = 1};
	char text[64] = "";
	int fd;

	write_file(b, "mounts", line);
	write_file(b, "cgroup.controllers", "cpu pids\n");
	write_file(b, "cgroup.procs", "");
	write_file(b, "cgroup.subtree_control", "cpu\n");
	/* On a plain file system no cgroup has files by itself: the first that is missing is where it stops. */
	assert_true(cgroups_enter(&o, "parent", &host, &b->undo, &b->e) < 0);
	assert_non_null(strstr(b->e.msg, "Failed to write to "));
	assert_non_null(strstr(b->e.msg, "/parent/cgroup.subtree_control: No such file or directory (os error 2)"));
	fd = openat(b->fd, "cgroup.subtree_control", O_RDONLY | O_CLOEXEC);
	assert_true(read(fd, text, sizeof(text) - 1) > 0);
	close(fd);
	assert_string_equal(text, "+pids\n");
	undo_run(&b->undo);
	assert_false(there(b, "parent"));
	setting.controller = "pid";
	assert_int_equal(cgroups_enter(&o, "parent", &host, &b->undo, &b->e), -ENOENT);
	assert_string_equal(b->e.msg, "Controller pid is unavailable");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_was_made_is_taken_back_and_what_was_there_stays, setup, teardown),
		cmocka_unit_test_setup_teardown(what_somebody_else_has_put_there_is_not_taken_away, setup, teardown),
		cmocka_unit_test_setup_teardown(links_are_not_followed, setup, teardown),
		cmocka_unit_test_setup_teardown(a_file_in_a_folders_place_is_an_error, setup, teardown),
		cmocka_unit_test_setup_teardown(a_copy_has_content_and_mode_and_replaces_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(owner_and_mode_are_put_back, setup, teardown),
		cmocka_unit_test_setup_teardown(removal_follows_no_link_and_reads_locked_folders, setup, teardown),
		cmocka_unit_test_setup_teardown(hierarchies_are_found_by_controller_as_a_whole_word, setup, teardown),
		cmocka_unit_test_setup_teardown(controllers_of_version_2_are_passed_on_from_the_top_down_to_the_parent, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
